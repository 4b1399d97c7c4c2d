//! Rows of Parquet files: each cell as the text of its own type, nothing rounded, nothing widened.
//!
//! | type | read as |
//! |---|---|
//! | integers, decimals | the number, with the digits that its scale gives it |
//! | floats of 16, 32 and 64 bits | the shortest number that is this one among those of its width, as Python writes it |
//! | strings; bytes that are UTF-8 | text |
//! | dates, times, timestamps | text as Python's `str` writes it: `2024-01-31`, `2024-01-31 12:00:00.500000+00:00` |
//! | lists, structs, maps with keys that are strings | lists and objects |

use crate::error::DataError;
use crate::json::Json;
use crate::naming;
use crate::python::{float_text, shortest};
use arrow_array::cast::AsArray;
use arrow_array::temporal_conversions as temporal;
use arrow_array::types::*;
use arrow_array::{Array, ArrowPrimitiveType, RecordBatch, StructArray};
use arrow_schema::{DataType, TimeUnit};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fmt::{Display, Write};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 1024;

/// Items of a list in a cell (`LIM-1`): nulls cost a file nothing, and memory much.
const ITEMS_MAX: usize = 1 << 24;

/// Hands every row, a JSON object of its columns, to `take` with its number from 1. A column that cannot be read is left out, unless `is_used`.
pub fn read(
    path: &Path,
    file: File,
    is_used: impl Fn(&str) -> bool,
    mut take: impl FnMut(u64, Json) -> Result<(), DataError>,
) -> Result<(), DataError> {
    let broken = |problem: String| DataError::Parquet { path: path.into(), problem };
    let mut head = Vec::new();
    (&file).take(naming::HEAD_BYTES as u64).read_to_end(&mut head).map_err(|e| DataError::read(path, e))?;
    if let Some(what) = naming::instead(&head).filter(|_| !head.starts_with(b"PAR1")) {
        return Err(DataError::Instead { path: path.into(), what });
    }
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.with_batch_size(BATCH_ROWS).build());
    let mut number = 0;
    for batch in reader.map_err(|e| broken(e.to_string()))? {
        let batch = batch.map_err(|e| broken(e.to_string()))?;
        for row in 0..batch.num_rows() {
            number += 1;
            let columns =
                columns(&batch, row, &is_used).map_err(|problem| DataError::Row { path: path.into(), line: number, problem })?;
            take(number, columns)?;
        }
    }
    Ok(())
}

fn columns(batch: &RecordBatch, row: usize, is_used: impl Fn(&str) -> bool) -> Result<Json, String> {
    let schema = batch.schema_ref();
    let pairs = schema.fields().iter().zip(batch.columns()).filter_map(|(field, column)| match cell(column, row) {
        Ok(value) => Some(Ok((field.name().clone(), value))),
        Err(problem) => is_used(field.name()).then(|| Err(format!("column `{}` {problem}", field.name()))),
    });
    Ok(Json::Object(pairs.collect::<Result<_, String>>()?))
}

/// The value of `array` at `row`. An error continues "column NAME …".
fn cell(array: &dyn Array, row: usize) -> Result<Json, String> {
    if array.is_null(row) {
        return Ok(Json::Null);
    }
    let number = |number: String| Ok(Json::Number(number));
    let text = |text: &str| Ok(Json::Text(text.into()));
    match array.data_type() {
        DataType::Null => Ok(Json::Null),
        DataType::Boolean => Ok(Json::Bool(array.as_boolean().value(row))),
        DataType::Int8 => number(plain::<Int8Type>(array, row)),
        DataType::Int16 => number(plain::<Int16Type>(array, row)),
        DataType::Int32 => number(plain::<Int32Type>(array, row)),
        DataType::Int64 => number(plain::<Int64Type>(array, row)),
        DataType::UInt8 => number(plain::<UInt8Type>(array, row)),
        DataType::UInt16 => number(plain::<UInt16Type>(array, row)),
        DataType::UInt32 => number(plain::<UInt32Type>(array, row)),
        DataType::UInt64 => number(plain::<UInt64Type>(array, row)),
        DataType::Float16 => {
            let value = array.as_primitive::<Float16Type>().value(row);
            number(narrow(value.to_f64(), |text| text.parse::<f64>().is_ok_and(|again| half::f16::from_f64(again) == value)))
        }
        DataType::Float32 => {
            let value = array.as_primitive::<Float32Type>().value(row);
            number(narrow(value.into(), |text| text.parse::<f32>().is_ok_and(|again| again == value)))
        }
        DataType::Float64 => number(float_text(array.as_primitive::<Float64Type>().value(row))),
        DataType::Decimal32(..) => number(array.as_primitive::<Decimal32Type>().value_as_string(row)),
        DataType::Decimal64(..) => number(array.as_primitive::<Decimal64Type>().value_as_string(row)),
        DataType::Decimal128(..) => number(array.as_primitive::<Decimal128Type>().value_as_string(row)),
        DataType::Decimal256(..) => number(array.as_primitive::<Decimal256Type>().value_as_string(row)),
        DataType::Utf8 => text(array.as_string::<i32>().value(row)),
        DataType::LargeUtf8 => text(array.as_string::<i64>().value(row)),
        DataType::Utf8View => text(array.as_string_view().value(row)),
        DataType::Binary => Ok(bytes(array.as_binary::<i32>().value(row))),
        DataType::LargeBinary => Ok(bytes(array.as_binary::<i64>().value(row))),
        DataType::BinaryView => Ok(bytes(array.as_binary_view().value(row))),
        DataType::FixedSizeBinary(_) => Ok(bytes(array.as_fixed_size_binary().value(row))),
        DataType::Date32 => {
            written(temporal::date32_to_datetime(array.as_primitive::<Date32Type>().value(row)).map(|at| at.date()))
        }
        DataType::Date64 => {
            written(temporal::date64_to_datetime(array.as_primitive::<Date64Type>().value(row)).map(|at| at.date()))
        }
        DataType::Timestamp(unit, zone) => timestamp(array, row, *unit, zone.as_deref()),
        DataType::Time32(TimeUnit::Second) => time(temporal::time32s_to_time(array.as_primitive::<Time32SecondType>().value(row))),
        DataType::Time32(_) => time(temporal::time32ms_to_time(array.as_primitive::<Time32MillisecondType>().value(row))),
        DataType::Time64(TimeUnit::Nanosecond) => {
            time(temporal::time64ns_to_time(array.as_primitive::<Time64NanosecondType>().value(row)))
        }
        DataType::Time64(_) => time(temporal::time64us_to_time(array.as_primitive::<Time64MicrosecondType>().value(row))),
        DataType::List(_) => list(array.as_list::<i32>().value(row).as_ref()),
        DataType::LargeList(_) => list(array.as_list::<i64>().value(row).as_ref()),
        DataType::FixedSizeList(..) => list(array.as_fixed_size_list().value(row).as_ref()),
        DataType::Struct(_) => object(array.as_struct(), row),
        DataType::Map(..) => map(&array.as_map().value(row)),
        DataType::Dictionary(..) => {
            let dictionary = array.as_any_dictionary();
            let key = dictionary.normalized_keys().get(row).copied().unwrap_or_default();
            cell(dictionary.values().as_ref(), key)
        }
        other => Err(format!("is of type {other}, which is not read: write it as text or numbers")),
    }
}

/// A narrow float as it was before it became narrow, as far as digits can tell: a whole number that is written out keeps every digit (2^31 is
/// 2147483648.0), everything else has the fewest that are this float among its kind (0.1, 1e+30).
fn narrow(value: f64, is_same: impl Fn(&str) -> bool) -> String {
    let exact = float_text(value);
    if value.fract() == 0.0 && !exact.contains('e') { exact } else { shortest(value, is_same) }
}

fn plain<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> String
where
    T::Native: Display,
{
    array.as_primitive::<T>().value(row).to_string()
}

fn bytes(bytes: &[u8]) -> Json {
    std::str::from_utf8(bytes).map_or_else(|_| Json::Bytes(bytes.into()), |text| Json::Text(text.into()))
}

fn list(items: &dyn Array) -> Result<Json, String> {
    if items.len() > ITEMS_MAX {
        return Err(format!("is a list of {} items, the limit is {ITEMS_MAX}", items.len()));
    }
    Ok(Json::List((0..items.len()).map(|index| cell(items, index)).collect::<Result<_, _>>()?))
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
        other => Err(format!("is a map with a key that is {}, expected strings", other.kind())),
    });
    Ok(Json::Object(pairs.collect::<Result<_, String>>()?))
}

/// As Python's `str` writes it; a day that the calendar does not have is an error.
fn written(at: Option<impl Display>) -> Result<Json, String> {
    at.map(|at| Json::Text(at.to_string())).ok_or_else(|| "is no date of the calendar".into())
}

/// Six digits where there is a part of a second, nine where there is one of a microsecond.
fn fraction(nanoseconds: u32) -> String {
    match nanoseconds % 1_000_000_000 {
        0 => String::new(),
        nanos if nanos % 1000 == 0 => format!(".{:06}", nanos / 1000),
        nanos => format!(".{nanos:09}"),
    }
}

fn time(at: Option<impl chrono::Timelike + Display>) -> Result<Json, String> {
    written(at.map(|at| format!("{:02}:{:02}:{:02}{}", at.hour(), at.minute(), at.second(), fraction(at.nanosecond()))))
}

fn timestamp(array: &dyn Array, row: usize, unit: TimeUnit, zone: Option<&str>) -> Result<Json, String> {
    use chrono::Timelike;
    let at = match unit {
        TimeUnit::Second => temporal::timestamp_s_to_datetime(array.as_primitive::<TimestampSecondType>().value(row)),
        TimeUnit::Millisecond => temporal::timestamp_ms_to_datetime(array.as_primitive::<TimestampMillisecondType>().value(row)),
        TimeUnit::Microsecond => temporal::timestamp_us_to_datetime(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        TimeUnit::Nanosecond => temporal::timestamp_ns_to_datetime(array.as_primitive::<TimestampNanosecondType>().value(row)),
    };
    // What is stored is UTC wherever there is a zone; a fixed one is applied, a named one would need a table of its changes.
    let offset = match zone {
        None => None,
        Some("UTC" | "utc" | "Etc/UTC" | "Z" | "GMT") => Some((0, "+00:00".to_string())),
        Some(zone) => Some((
            offset_seconds(zone)
                .ok_or_else(|| format!("is a timestamp of the time zone {zone}, which is not read: convert it to UTC"))?,
            zone.to_string(),
        )),
    };
    let (seconds, zone) = offset.unwrap_or_default();
    let shifted = at.and_then(|at| at.checked_add_signed(chrono::TimeDelta::try_seconds(seconds)?));
    written(shifted.map(|at| {
        let mut text = at.format("%Y-%m-%d %H:%M:%S").to_string();
        // Writing to a string does not fail.
        let _ = write!(text, "{}{zone}", fraction(at.nanosecond()));
        text
    }))
}

/// `+05:30`
fn offset_seconds(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = rest.split_once(':')?;
    Some(sign * (hours.parse::<u32>().ok()? * 3600 + minutes.parse::<u32>().ok().filter(|m| *m < 60)? * 60) as i64)
}
