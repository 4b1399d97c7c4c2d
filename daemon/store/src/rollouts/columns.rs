//! The columns of a rollout file, as rows are put into them.

use super::RolloutRow;
use arrow_array::builder::{
    ArrayBuilder, Float32Builder, ListBuilder, PrimitiveBuilder, StringBuilder, StructBuilder,
    UInt64Builder,
};
use arrow_array::types::{ArrowPrimitiveType, Float32Type, UInt16Type, UInt32Type, UInt64Type};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::{ArrowError, DataType, Field, Fields, Schema};
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::{Outcome, Verdict};
use std::sync::Arc;

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

/// A column: its name, its values, and whether one may be missing.
type Column = (&'static str, ArrayRef, bool);

/// The columns of some rows.
pub(super) fn batch(rows: &[RolloutRow]) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<Column> = [places(rows), spoken(rows), judged(rows)?, tokens(rows)].concat();
    let fields: Vec<Field> = columns
        .iter()
        .map(|(name, array, nullable)| field(name, array.data_type().clone(), *nullable))
        .collect();
    RecordBatch::try_new(
        Arc::new(Schema::new(fields)),
        columns.into_iter().map(|(_, array, _)| array).collect(),
    )
}

/// The columns that say where a completion belongs.
fn places(rows: &[RolloutRow]) -> Vec<Column> {
    let of = || rows.iter().map(|row| &row.scored.rollout);
    let stage = numbers::<UInt32Type>(of().map(|r| Some(r.key.stage)));
    let step = numbers::<UInt64Type>(of().map(|r| Some(r.key.step + 1)));
    let prompt = numbers::<UInt32Type>(of().map(|r| Some(r.key.prompt)));
    let sample = numbers::<UInt32Type>(of().map(|r| Some(r.key.sample)));
    let row = numbers::<UInt64Type>(of().map(|r| Some(r.row)));
    let version = numbers::<UInt64Type>(of().map(|r| Some(r.policy_version)));
    vec![
        ("stage", stage, false),
        ("step", step, false),
        ("prompt_index", prompt, false),
        ("sample_index", sample, false),
        ("row", row, false),
        ("policy_version", version, false),
    ]
}

/// The columns of texts.
fn spoken(rows: &[RolloutRow]) -> Vec<Column> {
    let prompt = texts(rows.iter().map(|row| Some(row.prompt.as_str())));
    let completion = texts(rows.iter().map(|row| Some(row.completion.as_str())));
    let reference = texts(rows.iter().map(|row| row.reference.as_deref()));
    let finish = |row: &RolloutRow| Some(finish_text(row.scored.rollout.finish));
    vec![
        ("prompt", prompt, false),
        ("completion", completion, false),
        ("reference", reference, true),
        ("finish", texts(rows.iter().map(finish)), false),
    ]
}

/// The columns of what the rewards said.
fn judged(rows: &[RolloutRow]) -> Result<Vec<Column>, ArrowError> {
    let of = || rows.iter().map(|row| &row.scored);
    let reward = numbers::<Float32Type>(of().map(|scored| scored.reward));
    let advantage = numbers::<Float32Type>(of().map(|scored| scored.advantage));
    let verdicts = verdicts(of().map(|scored| &scored.verdicts))?;
    Ok(vec![
        ("reward", reward, true),
        ("advantage", advantage, true),
        ("verdicts", verdicts, false),
    ])
}

/// The columns of what the sampler made, token by token.
fn tokens(rows: &[RolloutRow]) -> Vec<Column> {
    let of = || rows.iter().map(|row| &row.scored.rollout);
    let count = numbers::<UInt32Type>(of().map(|r| u32::try_from(r.completion_ids.len()).ok()));
    let logprobs = lists::<Float32Type>(of().map(|r| &r.behaviour_logprobs));
    let experts = lists::<UInt16Type>(of().map(|r| &r.experts));
    let kept_ids = lists::<UInt32Type>(of().map(|r| r.kept_ids.numbers()));
    vec![
        ("tokens", count, false),
        (
            "prompt_ids",
            lists::<UInt32Type>(of().map(|r| &r.prompt_ids)),
            false,
        ),
        (
            "completion_ids",
            lists::<UInt32Type>(of().map(|r| &r.completion_ids)),
            false,
        ),
        ("behaviour_logprobs", logprobs, false),
        ("experts", experts, false),
        ("kept_ids", kept_ids, false),
    ]
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

fn verdicts<'a>(samples: impl Iterator<Item = &'a Vec<Verdict>>) -> Result<ArrayRef, ArrowError> {
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
                .ok_or_else(|| ArrowError::SchemaError("verdict columns".into()))?;
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
