//! Scored rollouts as Parquet, one file per step, for `r1ctl samples`, `pyarrow` and `pandas`.
//!
//! | column | type |
//! |---|---|
//! | `stage`, `prompt_index`, `sample_index` | uint32 |
//! | `step` (from 1, as in `metrics.jsonl`), `row`, `policy_version` | uint64 |
//! | `prompt`, `completion`, `finish` | string |
//! | `reference` | string or null |
//! | `reward`, `advantage` | float32 or null (the sample does not train) |
//! | `verdicts` | list of struct (`plugin`, `outcome`, `score`, `parts`, `reason`, `value`, `fuel`, `module_sha256`, `config_sha256`) |
//! | `prompt_ids`, `completion_ids` | list of uint32 |
//! | `behaviour_logprobs` | list of float32, one per completion id |
//! | `experts` | list of uint16, as in [`Rollout::experts`] |
//! | `kept_ids` | list of uint32, as in [`SamplingMask`]; empty where no token's vocabulary was cut |

use crate::error::StoreError;
use crate::replace::write_file;
use arrow_array::builder::{
    ArrayBuilder, Float32Builder, ListBuilder, PrimitiveBuilder, StringBuilder, StructBuilder,
    UInt64Builder,
};
use arrow_array::cast::AsArray;
use arrow_array::types::{ArrowPrimitiveType, Float32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::storage::Storage;
use r1d_proto::verdict::{Outcome, Verdict};
use std::path::Path;
use std::sync::Arc;

/// A scored rollout with its texts.
#[derive(Clone, Debug, PartialEq)]
pub struct RolloutRow {
    /// The record itself.
    pub scored: ScoredRollout,
    /// The prompt as the model read it.
    pub prompt: String,
    /// The completion's text.
    pub completion: String,
    /// The right answer, if the row has one.
    pub reference: Option<String>,
}

/// Writes the rows of a step; the file appears whole or not at all.
pub fn write(storage: &dyn Storage, path: &Path, rows: &[RolloutRow]) -> Result<(), StoreError> {
    write_groups(storage, path, rows, ROW_GROUP_MAX_VALUES)
}

fn write_groups(
    storage: &dyn Storage,
    path: &Path,
    rows: &[RolloutRow],
    values_max: usize,
) -> Result<(), StoreError> {
    let broken = |problem: String| StoreError::Parquet {
        path: path.into(),
        problem,
    };
    let mut groups = row_groups(rows, values_max);
    let first = batch(groups.next().unwrap_or_default()).map_err(|e| broken(e.to_string()))?;
    let compression = Compression::ZSTD(ZstdLevel::try_new(1).map_err(|e| broken(e.to_string()))?);
    let properties = WriterProperties::builder()
        .set_compression(compression)
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, first.schema(), Some(properties))
        .map_err(|e| broken(e.to_string()))?;
    writer.write(&first).map_err(|e| broken(e.to_string()))?;
    drop(first);
    for group in groups {
        writer.flush().map_err(|e| broken(e.to_string()))?;
        let batch = batch(group).map_err(|e| broken(e.to_string()))?;
        writer.write(&batch).map_err(|e| broken(e.to_string()))?;
    }
    writer.close().map_err(|e| broken(e.to_string()))?;
    write_file(storage, path, |file| file.write_all(&bytes))
}

/// Most values of a list column, and bytes of a text column, in one row group. It is far below the
/// 2³¹ that an offset can count, and limits the memory beside the rows.
const ROW_GROUP_MAX_VALUES: usize = 1 << 28;

/// Splits the rows into runs whose longest column has at most `values_max` values; a single row may
/// have more.
fn row_groups(rows: &[RolloutRow], values_max: usize) -> impl Iterator<Item = &[RolloutRow]> {
    let longest = |row: &RolloutRow| {
        let rollout = &row.scored.rollout;
        let ids = rollout.prompt_ids.len().max(rollout.completion_ids.len());
        let texts = row
            .prompt
            .len()
            .max(row.completion.len())
            .max(row.reference.as_ref().map_or(0, String::len));
        ids.max(rollout.experts.len())
            .max(rollout.kept_ids.numbers().len())
            .max(texts)
    };
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |row: &&RolloutRow| {
            sum += longest(row);
            sum <= values_max
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (group, later) = rest.split_at(count);
        rest = later;
        (count > 0).then_some(group)
    })
}

/// Rows that are decoded at a time, whose lists also share offsets of 32 bits.
const READ_ROWS: usize = 16;

/// Reads the rows of a step. A file that [`write`] did not make is an error.
pub fn read(path: &Path) -> Result<Vec<RolloutRow>, StoreError> {
    let broken = |problem: String| StoreError::Parquet {
        path: path.into(),
        problem,
    };
    let file = r1d_proto::user_file::open(path).map_err(|e| StoreError::read(path, e))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.with_batch_size(READ_ROWS).build())
        .map_err(|e| broken(e.to_string()))?;
    let mut rows = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| broken(e.to_string()))?;
        let columns = Columns {
            batch: StructArray::from(batch),
        };
        for index in 0..columns.batch.len() {
            rows.push(columns.row(index).ok_or_else(|| {
                broken(
                    "it is not a file of rollouts: a column is missing or of another type".into(),
                )
            })?);
        }
    }
    Ok(rows)
}

fn field(name: &str, kind: DataType, nullable: bool) -> Field {
    Field::new(name, kind, nullable)
}

fn item(kind: DataType) -> Field {
    Field::new("element", kind, false)
}

fn verdict_fields() -> Fields {
    Fields::from(vec![
        field("plugin", DataType::Utf8, false),
        field("outcome", DataType::Utf8, false),
        field("score", DataType::Float32, true),
        field(
            "parts",
            DataType::List(Arc::new(item(DataType::Float32))),
            false,
        ),
        field("reason", DataType::Utf8, true),
        field("value", DataType::Float32, true),
        field("fuel", DataType::UInt64, false),
        field("module_sha256", DataType::Utf8, false),
        field("config_sha256", DataType::Utf8, false),
    ])
}

fn batch(rows: &[RolloutRow]) -> Result<RecordBatch, arrow_schema::ArrowError> {
    let rollouts = || rows.iter().map(|row| &row.scored.rollout);
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        (
            "stage",
            numbers::<UInt32Type>(rollouts().map(|r| Some(r.key.stage))),
            false,
        ),
        (
            "step",
            numbers::<UInt64Type>(rollouts().map(|r| Some(r.key.step + 1))),
            false,
        ),
        (
            "prompt_index",
            numbers::<UInt32Type>(rollouts().map(|r| Some(r.key.prompt))),
            false,
        ),
        (
            "sample_index",
            numbers::<UInt32Type>(rollouts().map(|r| Some(r.key.sample))),
            false,
        ),
        (
            "row",
            numbers::<UInt64Type>(rollouts().map(|r| Some(r.row))),
            false,
        ),
        (
            "policy_version",
            numbers::<UInt64Type>(rollouts().map(|r| Some(r.policy_version))),
            false,
        ),
        (
            "prompt",
            texts(rows.iter().map(|row| Some(row.prompt.as_str()))),
            false,
        ),
        (
            "completion",
            texts(rows.iter().map(|row| Some(row.completion.as_str()))),
            false,
        ),
        (
            "reference",
            texts(rows.iter().map(|row| row.reference.as_deref())),
            true,
        ),
        (
            "finish",
            texts(rollouts().map(|r| Some(finish_text(r.finish)))),
            false,
        ),
        (
            "reward",
            numbers::<Float32Type>(rows.iter().map(|row| row.scored.reward)),
            true,
        ),
        (
            "advantage",
            numbers::<Float32Type>(rows.iter().map(|row| row.scored.advantage)),
            true,
        ),
        (
            "verdicts",
            verdicts(rows.iter().map(|row| &row.scored.verdicts))?,
            false,
        ),
        (
            "prompt_ids",
            lists::<UInt32Type>(rollouts().map(|r| &r.prompt_ids)),
            false,
        ),
        (
            "completion_ids",
            lists::<UInt32Type>(rollouts().map(|r| &r.completion_ids)),
            false,
        ),
        (
            "behaviour_logprobs",
            lists::<Float32Type>(rollouts().map(|r| &r.behaviour_logprobs)),
            false,
        ),
        (
            "experts",
            lists::<UInt16Type>(rollouts().map(|r| &r.experts)),
            false,
        ),
        (
            "kept_ids",
            lists::<UInt32Type>(rollouts().map(|r| r.kept_ids.numbers())),
            false,
        ),
    ];
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array, nullable)| field(name, array.data_type().clone(), *nullable))
        .collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, array, _)| array).collect(),
    )
}

fn numbers<T: ArrowPrimitiveType>(values: impl Iterator<Item = Option<T::Native>>) -> ArrayRef {
    let mut builder = PrimitiveBuilder::<T>::new();
    values.for_each(|value| builder.append_option(value));
    Arc::new(builder.finish())
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    let mut builder = StringBuilder::new();
    values.for_each(|value| builder.append_option(value));
    Arc::new(builder.finish())
}

fn lists<'a, T: ArrowPrimitiveType>(values: impl Iterator<Item = &'a Vec<T::Native>>) -> ArrayRef {
    let mut builder = ListBuilder::new(PrimitiveBuilder::<T>::new()).with_field(item(T::DATA_TYPE));
    for value in values {
        builder.values().append_slice(value);
        builder.append(true);
    }
    Arc::new(builder.finish())
}

fn verdicts<'a>(
    samples: impl Iterator<Item = &'a Vec<Verdict>>,
) -> Result<ArrayRef, arrow_schema::ArrowError> {
    let parts = || ListBuilder::new(Float32Builder::new()).with_field(item(DataType::Float32));
    let columns: Vec<Box<dyn ArrayBuilder>> = vec![
        Box::new(StringBuilder::new()),
        Box::new(StringBuilder::new()),
        Box::new(Float32Builder::new()),
        Box::new(parts()),
        Box::new(StringBuilder::new()),
        Box::new(Float32Builder::new()),
        Box::new(UInt64Builder::new()),
        Box::new(StringBuilder::new()),
        Box::new(StringBuilder::new()),
    ];
    let element = Field::new("element", DataType::Struct(verdict_fields()), false);
    let mut builder =
        ListBuilder::new(StructBuilder::new(verdict_fields(), columns)).with_field(element);
    for sample in samples {
        for verdict in sample {
            append(builder.values(), verdict)
                .ok_or_else(|| arrow_schema::ArrowError::SchemaError("verdict columns".into()))?;
        }
        builder.append(true);
    }
    Ok(Arc::new(builder.finish()))
}

/// Appends a verdict. `None` only if a column has another type than [`verdict_fields`] gives it.
fn append(builder: &mut StructBuilder, verdict: &Verdict) -> Option<()> {
    let (outcome, score, parts, reason) = match &verdict.outcome {
        Outcome::Score { value, parts } => ("score", Some(*value), parts.as_slice(), None),
        Outcome::Abstain { reason } => ("abstain", None, &[][..], Some(reason.as_str())),
        Outcome::Trap { reason } => ("trap", None, &[][..], Some(reason.as_str())),
        Outcome::OutOfFuel => ("out_of_fuel", None, &[][..], None),
        Outcome::OutOfTime => ("out_of_time", None, &[][..], None),
    };
    builder
        .field_builder::<StringBuilder>(0)?
        .append_value(&verdict.plugin);
    builder
        .field_builder::<StringBuilder>(1)?
        .append_value(outcome);
    builder
        .field_builder::<Float32Builder>(2)?
        .append_option(score);
    let list = builder.field_builder::<ListBuilder<Float32Builder>>(3)?;
    list.values().append_slice(parts);
    list.append(true);
    builder
        .field_builder::<StringBuilder>(4)?
        .append_option(reason);
    builder
        .field_builder::<Float32Builder>(5)?
        .append_option(verdict.value);
    builder
        .field_builder::<UInt64Builder>(6)?
        .append_value(verdict.fuel);
    builder
        .field_builder::<StringBuilder>(7)?
        .append_value(&verdict.module_sha256);
    builder
        .field_builder::<StringBuilder>(8)?
        .append_value(&verdict.config_sha256);
    builder.append(true);
    Some(())
}

fn finish_text(finish: FinishReason) -> &'static str {
    match finish {
        FinishReason::Stop => "stop",
        FinishReason::Length => "length",
    }
}

/// Reads cells by column name; `None` if the file is not one that [`write`] makes.
struct Columns {
    batch: StructArray,
}

impl Columns {
    fn row(&self, index: usize) -> Option<RolloutRow> {
        let key = SampleKey {
            stage: self.number::<UInt32Type>("stage", index)??,
            step: self.number::<UInt64Type>("step", index)??.checked_sub(1)?,
            prompt: self.number::<UInt32Type>("prompt_index", index)??,
            sample: self.number::<UInt32Type>("sample_index", index)??,
        };
        let rollout = Rollout {
            key,
            row: self.number::<UInt64Type>("row", index)??,
            prompt_ids: self.list::<UInt32Type>("prompt_ids", index)?,
            completion_ids: self.list::<UInt32Type>("completion_ids", index)?,
            behaviour_logprobs: self.list::<Float32Type>("behaviour_logprobs", index)?,
            experts: self.list::<UInt16Type>("experts", index)?,
            // Files of earlier releases do not have this column.
            kept_ids: match self.batch.column_by_name("kept_ids") {
                Some(_) => SamplingMask::from_numbers(self.list::<UInt32Type>("kept_ids", index)?),
                None => SamplingMask::default(),
            },
            policy_version: self.number::<UInt64Type>("policy_version", index)??,
            finish: match self.text("finish", index)??.as_str() {
                "stop" => FinishReason::Stop,
                "length" => FinishReason::Length,
                _ => return None,
            },
        };
        let list = self
            .batch
            .column_by_name("verdicts")?
            .as_list_opt::<i32>()?
            .value(index);
        let verdicts = Columns {
            batch: list.as_struct_opt()?.clone(),
        };
        Some(RolloutRow {
            scored: ScoredRollout {
                rollout,
                verdicts: (0..verdicts.batch.len())
                    .map(|index| verdicts.verdict(index))
                    .collect::<Option<_>>()?,
                reward: self.number::<Float32Type>("reward", index)?,
                advantage: self.number::<Float32Type>("advantage", index)?,
            },
            prompt: self.text("prompt", index)??,
            completion: self.text("completion", index)??,
            reference: self.text("reference", index)?,
        })
    }

    fn verdict(&self, index: usize) -> Option<Verdict> {
        let reason = self.text("reason", index)?.unwrap_or_default();
        let outcome = match self.text("outcome", index)??.as_str() {
            "score" => Outcome::Score {
                value: self.number::<Float32Type>("score", index)??,
                parts: self.list::<Float32Type>("parts", index)?,
            },
            "abstain" => Outcome::Abstain { reason },
            "trap" => Outcome::Trap { reason },
            "out_of_fuel" => Outcome::OutOfFuel,
            "out_of_time" => Outcome::OutOfTime,
            _ => return None,
        };
        Some(Verdict {
            plugin: self.text("plugin", index)??,
            module_sha256: self.text("module_sha256", index)??,
            config_sha256: self.text("config_sha256", index)??,
            outcome,
            value: self.number::<Float32Type>("value", index)?,
            fuel: self.number::<UInt64Type>("fuel", index)??,
        })
    }

    /// Reads a number. The outer `Option` is `None` without such a column, the inner one if the
    /// cell is null.
    fn number<T: ArrowPrimitiveType>(&self, name: &str, index: usize) -> Option<Option<T::Native>> {
        let column = self.batch.column_by_name(name)?.as_primitive_opt::<T>()?;
        Some(column.is_valid(index).then(|| column.value(index)))
    }

    fn text(&self, name: &str, index: usize) -> Option<Option<String>> {
        let column = self.batch.column_by_name(name)?.as_string_opt::<i32>()?;
        Some(
            column
                .is_valid(index)
                .then(|| column.value(index).to_string()),
        )
    }

    fn list<T: ArrowPrimitiveType>(&self, name: &str, index: usize) -> Option<Vec<T::Native>> {
        let column = self.batch.column_by_name(name)?.as_list_opt::<i32>()?;
        Some(
            column
                .value(index)
                .as_primitive_opt::<T>()?
                .values()
                .to_vec(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;

    fn row(sample: u32, experts: usize) -> RolloutRow {
        let rollout = Rollout {
            key: SampleKey {
                stage: 0,
                step: 0,
                prompt: 0,
                sample,
            },
            row: 0,
            prompt_ids: vec![1],
            completion_ids: vec![2],
            behaviour_logprobs: vec![-0.5],
            experts: vec![sample as u16; experts],
            kept_ids: SamplingMask::default(),
            policy_version: 0,
            finish: FinishReason::Stop,
        };
        let scored = ScoredRollout {
            rollout,
            verdicts: Vec::new(),
            reward: Some(1.0),
            advantage: None,
        };
        RolloutRow {
            scored,
            prompt: "a".into(),
            completion: "b".into(),
            reference: None,
        }
    }

    /// An offset has 32 bits, fewer than the experts of a step of a mixture of experts need.
    #[test]
    fn a_long_column_is_cut_into_row_groups() {
        let rows: Vec<RolloutRow> = [5, 5, 20, 1, 9, 0]
            .into_iter()
            .zip(0..)
            .map(|(experts, sample)| row(sample, experts))
            .collect();
        let sizes = |limit| {
            row_groups(&rows, limit)
                .map(<[RolloutRow]>::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(10), [2, 1, 2, 1]);
        assert_eq!((sizes(1000), sizes(1)), (vec![6], vec![1; 6]));
        let dir = tempfile::tempdir().unwrap();
        for limit in [1, 10, 1000] {
            let path = dir.path().join(format!("{limit}.parquet"));
            write_groups(&Disk, &path, &rows, limit).unwrap();
            assert!(read(&path).unwrap() == rows, "{limit}");
            let groups =
                ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap())
                    .unwrap();
            assert_eq!(groups.metadata().num_row_groups(), sizes(limit).len());
        }
        let none = dir.path().join("none.parquet");
        write(&Disk, &none, &[]).unwrap();
        assert!(read(&none).unwrap().is_empty());
    }
}
