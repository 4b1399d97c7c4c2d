//! Rows of Parquet files: each cell as the text of its own type, nothing rounded, nothing widened.
//!
//! | type | read as |
//! |---|---|
//! | integers, decimals | the number, with the digits that its scale gives it |
//! | floats of 16, 32 and 64 bits | the shortest number that is this one among those of its width, as Python writes it |
//! | strings; bytes that are UTF-8 | text |
//! | dates, times, timestamps | text as Python's `str` writes it: `2024-01-31`, `2024-01-31 12:00:00.500000+00:00` |
//! | timestamps of a named time zone | the moment in UTC, and the name: `2024-01-31 12:00:00Z[Europe/Berlin]` (RFC 9557) |
//! | durations | text as Python's `str` writes it: `1 day, 0:00:00` |
//! | lists, structs, maps with keys that are strings | lists and objects |
//!
//! A column of another type, or with one inside it, is not read at all, whatever its values.

use crate::error::DataError;
use crate::json::Json;
use crate::naming;
use crate::python::{float_text, shortest};
use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions as temporal;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType, RecordBatch, StructArray};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::cell::Cell;
use std::fmt::{Display, Write};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Most rows that are decoded at a time.
const BATCH_ROWS_MAX: usize = 1024;
/// Bytes that these take in memory, if a file's rows are of much the same size (`LIM-1`).
const BATCH_BYTES: i64 = 32 << 20;

/// Most items of a list in a cell (`LIM-1`): nulls take no space in a file, but much in memory.
const ITEMS_MAX: usize = 1 << 24;

/// Calls `take` with every row, a JSON object of its columns, and its number from 1. Returns the
/// columns that are left out, because their types are not read: "column NAME is …". Such a column
/// is an error if it `is_used`, and so is any value that cannot be read. The file's bytes are added
/// to `place` as its rows are taken. Row groups are not read as a whole: a page of each column, and
/// the rows that are decoded at a time, are all that is in memory.
pub fn read(
    path: &Path,
    file: File,
    place: &Cell<u64>,
    is_used: impl Fn(&str) -> bool,
    mut take: impl FnMut(u64, Json) -> Result<(), DataError>,
) -> Result<Vec<String>, DataError> {
    let broken = |problem: String| DataError::Parquet {
        path: path.into(),
        problem,
    };
    let bytes = (file.metadata())
        .map_err(|e| DataError::read(path, e))?
        .len();
    let mut head = Vec::new();
    (&file)
        .take(naming::HEAD_BYTES as u64)
        .read_to_end(&mut head)
        .map_err(|e| DataError::read(path, e))?;
    if let Some(what) = naming::instead(&head).filter(|_| !head.starts_with(b"PAR1")) {
        return Err(DataError::Instead {
            path: path.into(),
            what,
        });
    }
    let builder =
        ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| broken(e.to_string()))?;
    let (mut read, mut left_out) = (Vec::new(), Vec::new());
    for (index, field) in builder.schema().fields().iter().enumerate() {
        match unread(field.data_type()) {
            None => read.push(index),
            Some(other) => {
                let problem = format!(
                    "column `{}` is of type {other}, which is not read: write it as text or \
                     numbers",
                    field.name()
                );
                if is_used(field.name()) {
                    return Err(DataError::Column {
                        path: path.into(),
                        problem,
                    });
                }
                left_out.push(problem);
            }
        }
    }
    let columns = ProjectionMask::roots(builder.parquet_schema(), read);
    let groups = builder.metadata().row_groups();
    let row_bytes = groups
        .iter()
        .map(|group| group.total_byte_size() / group.num_rows().max(1));
    let row_bytes = row_bytes.max().unwrap_or(0).max(1);
    let batch_rows = usize::try_from(BATCH_BYTES / row_bytes).unwrap_or(1);
    let rows: i64 = groups.iter().map(|group| group.num_rows()).sum();
    let (begun, rows) = (place.get(), rows.max(1) as u128);
    let reader = builder
        .with_projection(columns)
        .with_batch_size(batch_rows.clamp(1, BATCH_ROWS_MAX))
        .build();
    let mut number = 0;
    for batch in reader.map_err(|e| broken(e.to_string()))? {
        let batch = batch.map_err(|e| broken(e.to_string()))?;
        for row in 0..batch.num_rows() {
            number += 1;
            let values = values(&batch, row).map_err(|problem| DataError::Row {
                path: path.into(),
                line: number,
                problem,
            })?;
            place.set(begun + (u128::from(bytes) * u128::from(number) / rows) as u64);
            take(number, values)?;
        }
    }
    Ok(left_out)
}

/// The type whose values [`cell`] does not read: this one, or the first such type inside it.
fn unread(whole: &DataType) -> Option<&DataType> {
    match whole {
        DataType::Interval(_) | DataType::Union(..) | DataType::RunEndEncoded(..) => Some(whole),
        DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _) => {
            unread(item.data_type())
        }
        DataType::ListView(item) | DataType::LargeListView(item) => unread(item.data_type()),
        DataType::Dictionary(_, value) => unread(value),
        DataType::Struct(fields) => fields.iter().find_map(|field| unread(field.data_type())),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields)
                if fields.first().is_some_and(|key| is_text(key.data_type())) =>
            {
                fields.get(1).and_then(|value| unread(value.data_type()))
            }
            _ => Some(whole),
        },
        DataType::Null | DataType::Boolean => None,
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => None,
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => None,
        DataType::Float16 | DataType::Float32 | DataType::Float64 => None,
        DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::Decimal128(..)
        | DataType::Decimal256(..) => None,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => None,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => None,
        DataType::Date32 | DataType::Date64 | DataType::Time32(_) | DataType::Time64(_) => None,
        DataType::Timestamp(..) | DataType::Duration(_) => None,
    }
}

/// Whether values of the type may be the keys of an object.
fn is_text(of: &DataType) -> bool {
    match of {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Binary
        | DataType::LargeBinary
        | DataType::BinaryView
        | DataType::FixedSizeBinary(_) => true,
        DataType::Dictionary(_, value) => is_text(value),
        _ => false,
    }
}

fn values(batch: &RecordBatch, row: usize) -> Result<Json, String> {
    let schema = batch.schema_ref();
    let pairs = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| match cell(column, row) {
            Ok(value) => Ok((field.name().clone(), value)),
            Err(problem) => Err(format!("column `{}` {problem}", field.name())),
        });
    Ok(Json::Object(pairs.collect::<Result<_, String>>()?))
}

/// The value of `array` at `row`. An error continues "column NAME …".
fn cell(array: &dyn Array, row: usize) -> Result<Json, String> {
    if array.is_null(row) {
        return Ok(Json::Null);
    }
    if let Some(number) = number(array, row) {
        return Ok(Json::Number(number));
    }
    let text = |text: &str| Ok(Json::Text(text.into()));
    match array.data_type() {
        DataType::Null => Ok(Json::Null),
        DataType::Boolean => Ok(Json::Bool(array.as_boolean().value(row))),
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(array.as_string_view().value(row)),
        DataType::Binary => Ok(bytes(array.as_binary::<i32>().value(row))),
        DataType::LargeBinary => Ok(bytes(array.as_binary::<i64>().value(row))),
        DataType::BinaryView => Ok(bytes(array.as_binary_view().value(row))),
        DataType::FixedSizeBinary(_) => Ok(bytes(array.as_fixed_size_binary().value(row))),
        DataType::Date32 | DataType::Date64 => date(array, row),
        DataType::Timestamp(unit, zone) => timestamp(array, row, *unit, zone.as_deref()),
        DataType::Time32(unit) | DataType::Time64(unit) => time(moment(array, row, *unit)),
        DataType::Duration(unit) => text(&duration(array, row, *unit)),
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref()),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref()),
        DataType::ListView(_) => list(array.as_list_view::<i32>().value(row).as_ref()),
        DataType::LargeListView(_) => list(array.as_list_view::<i64>().value(row).as_ref()),
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row).as_ref()),
        DataType::Struct(_) => object(array.as_struct(), row),
        DataType::Map(..) => map(&array.as_map().value(row)),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let keys = dictionary.normalized_keys();
            let key = keys.get(row).copied().unwrap_or_default();
            cell(dictionary.values().as_ref(), key)
        }
        // Numbers are read above, and [`unread`] has refused the others.
        other => Err(format!("is of type {other}, which is not read")),
    }
}

/// The text of a number; `None` for other types.
fn number(array: &dyn Array, row: usize) -> Option<String> {
    Some(match array.data_type() {
        DataType::Int8 => plain::<Int8Type>(array, row),
        DataType::Int16 => plain::<Int16Type>(array, row),
        DataType::Int32 => plain::<Int32Type>(array, row),
        DataType::Int64 => plain::<Int64Type>(array, row),
        DataType::UInt8 => plain::<UInt8Type>(array, row),
        DataType::UInt16 => plain::<UInt16Type>(array, row),
        DataType::UInt32 => plain::<UInt32Type>(array, row),
        DataType::UInt64 => plain::<UInt64Type>(array, row),
        DataType::Float16 => {
            let value = array.as_primitive::<Float16Type>().value(row);
            narrow(value.to_f64(), |text| {
                let again = text.parse::<f64>();
                again.is_ok_and(|again| half::f16::from_f64(again) == value)
            })
        }
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            narrow(value.into(), |text| {
                text.parse::<f32>().is_ok_and(|again| again == value)
            })
        }
        DataType::Float64 => float_text(array.as_primitive::<Float64Type>().value(row)),
        DataType::Decimal32(..) => array.as_primitive::<Decimal32Type>().value_as_string(row),
        DataType::Decimal64(..) => array.as_primitive::<Decimal64Type>().value_as_string(row),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Decimal256(..) => array.as_primitive::<Decimal256Type>().value_as_string(row),
        _ => return None,
    })
}

fn date(array: &dyn Array, row: usize) -> Result<Json, String> {
    let at = match array.data_type() {
        DataType::Date32 => {
            temporal::date32_to_datetime(array.as_primitive::<Date32Type>().value(row))
        }
        _ => temporal::date64_to_datetime(array.as_primitive::<Date64Type>().value(row)),
    };
    written(at.map(|at| at.date()))
}

/// The time of a day.
fn moment(array: &dyn Array, row: usize, unit: TimeUnit) -> Option<chrono::NaiveTime> {
    match unit {
        TimeUnit::Second => {
            temporal::time32s_to_time(array.as_primitive::<Time32SecondType>().value(row))
        }
        TimeUnit::Millisecond => {
            temporal::time32ms_to_time(array.as_primitive::<Time32MillisecondType>().value(row))
        }
        TimeUnit::Microsecond => {
            temporal::time64us_to_time(array.as_primitive::<Time64MicrosecondType>().value(row))
        }
        TimeUnit::Nanosecond => {
            temporal::time64ns_to_time(array.as_primitive::<Time64NanosecondType>().value(row))
        }
    }
}

/// Writes a narrow float as it was before it was narrowed, as far as digits show: a whole number
/// that is written out keeps every digit (2^31 is 2147483648.0), and all others have the fewest
/// digits that read back as this float in its own width (0.1, 1e+30).
fn narrow(value: f64, is_same: impl Fn(&str) -> bool) -> String {
    let exact = float_text(value);
    if value.fract() == 0.0 && !exact.contains('e') {
        exact
    } else {
        shortest(value, is_same)
    }
}

fn plain<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> String
where
    T::Native: Display,
{
    array.as_primitive::<T>().value(row).to_string()
}

fn bytes(bytes: &[u8]) -> Json {
    std::str::from_utf8(bytes).map_or_else(
        |_| Json::Bytes(bytes.into()),
        |text| Json::Text(text.into()),
    )
}

fn list(items: &dyn Array) -> Result<Json, String> {
    if items.len() > ITEMS_MAX {
        return Err(format!(
            "is a list of {} items, the limit is {ITEMS_MAX}",
            items.len()
        ));
    }
    Ok(Json::List(
        (0..items.len())
            .map(|index| cell(items, index))
            .collect::<Result<_, _>>()?,
    ))
}

fn object(array: &StructArray, row: usize) -> Result<Json, String> {
    let pairs = array.fields().iter().zip(array.columns());
    let pairs = pairs.map(|(field, column)| Ok((field.name().clone(), cell(column, row)?)));
    Ok(Json::Object(pairs.collect::<Result<_, String>>()?))
}

fn map(entries: &StructArray) -> Result<Json, String> {
    let (Some(keys), Some(values)) = (entries.columns().first(), entries.columns().get(1)) else {
        return Err("is a map without keys and values".into());
    };
    let pairs = (0..entries.len()).map(|index| match cell(keys, index)? {
        Json::Text(key) => Ok((key, cell(values, index)?)),
        other => Err(format!(
            "is a map with a key that is {}, expected strings",
            other.kind()
        )),
    });
    Ok(Json::Object(pairs.collect::<Result<_, String>>()?))
}

/// The text of a date or time as Python's `str` writes it; a day that the calendar does not have is
/// an error.
fn written(at: Option<impl Display>) -> Result<Json, String> {
    at.map(|at| Json::Text(at.to_string()))
        .ok_or_else(|| "is no date of the calendar".into())
}

/// The part of a second: six digits if it is not zero, nine if it has a part of a microsecond.
fn fraction(nanoseconds: u32) -> String {
    match nanoseconds % 1_000_000_000 {
        0 => String::new(),
        nanos if nanos % 1000 == 0 => format!(".{:06}", nanos / 1000),
        nanos => format!(".{nanos:09}"),
    }
}

fn time(at: Option<impl chrono::Timelike + Display>) -> Result<Json, String> {
    written(at.map(|at| {
        format!(
            "{:02}:{:02}:{:02}{}",
            at.hour(),
            at.minute(),
            at.second(),
            fraction(at.nanosecond())
        )
    }))
}

fn timestamp(
    array: &dyn Array,
    row: usize,
    unit: TimeUnit,
    zone: Option<&str>,
) -> Result<Json, String> {
    use chrono::Timelike;
    let at = match unit {
        TimeUnit::Second => temporal::timestamp_s_to_datetime(
            array.as_primitive::<TimestampSecondType>().value(row),
        ),
        TimeUnit::Millisecond => temporal::timestamp_ms_to_datetime(
            array.as_primitive::<TimestampMillisecondType>().value(row),
        ),
        TimeUnit::Microsecond => temporal::timestamp_us_to_datetime(
            array.as_primitive::<TimestampMicrosecondType>().value(row),
        ),
        TimeUnit::Nanosecond => temporal::timestamp_ns_to_datetime(
            array.as_primitive::<TimestampNanosecondType>().value(row),
        ),
    };
    // A column with a zone stores UTC. A fixed offset is applied; a named zone would need a table
    // of its changes, so the time stays in UTC.
    let offset = match zone {
        None => None,
        Some("UTC" | "utc" | "Etc/UTC" | "Z" | "GMT") => Some((0, "+00:00".to_string())),
        Some(zone) => Some(match offset_seconds(zone) {
            Some(seconds) => (seconds, zone.to_string()),
            None => (0, format!("Z[{zone}]")),
        }),
    };
    let (seconds, zone) = offset.unwrap_or_default();
    let shifted = at.and_then(|at| at.checked_add_signed(chrono::TimeDelta::try_seconds(seconds)?));
    written(shifted.map(|at| {
        let mut text = at.format("%Y-%m-%d %H:%M:%S").to_string();
        // Writing to a string cannot fail.
        let _ = write!(text, "{}{zone}", fraction(at.nanosecond()));
        text
    }))
}

/// Days and the time of a day, as Python's `str` writes a `timedelta`: minus one hour is `-1 day,
/// 23:00:00`.
fn duration(array: &dyn Array, row: usize, unit: TimeUnit) -> String {
    let (count, per_second) = match unit {
        TimeUnit::Second => (array.as_primitive::<DurationSecondType>().value(row), 1),
        TimeUnit::Millisecond => (
            array.as_primitive::<DurationMillisecondType>().value(row),
            1_000,
        ),
        TimeUnit::Microsecond => (
            array.as_primitive::<DurationMicrosecondType>().value(row),
            1_000_000,
        ),
        TimeUnit::Nanosecond => (
            array.as_primitive::<DurationNanosecondType>().value(row),
            1_000_000_000,
        ),
    };
    let (seconds, rest) = (count.div_euclid(per_second), count.rem_euclid(per_second));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let days = match days {
        0 => String::new(),
        -1 | 1 => format!("{days} day, "),
        days => format!("{days} days, "),
    };
    let fraction = fraction((rest * (1_000_000_000 / per_second)) as u32);
    format!(
        "{days}{}:{:02}:{:02}{fraction}",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// Reads an offset such as `+05:30`, in seconds; `None` for a named zone.
fn offset_seconds(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    Some(
        sign * (hours.parse::<u32>().ok()? * 3600
            + minutes.parse::<u32>().ok().filter(|m| *m < 60)? * 60) as i64,
    )
}
