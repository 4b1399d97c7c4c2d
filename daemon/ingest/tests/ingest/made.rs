//! Token sets in nameless files, opened as stages open them.

use r1d_data::{Template, Tokenizer};
use r1d_ingest::file::Writer;
use r1d_ingest::make::Making;
use r1d_ingest::preferences::{self, Reading};
use r1d_ingest::supervision::{Taught, make_documents, make_sequences};
use r1d_ingest::{
    InThisProcess, Key, Lengths, MakeError, Order, Orders, Preferences, Prompts, Rows, Supervision,
    TokenSet,
};
use r1d_job::{DataSource, RowBatch};
use std::sync::Arc;

pub(crate) const KEY: Key = Key::from_bytes([7; 32]);

pub(crate) fn set(
    make: impl FnOnce(Making<'_>) -> Result<(), MakeError>,
) -> Result<Arc<TokenSet>, MakeError> {
    let file = tempfile::tempfile().unwrap();
    let writer = Writer::new(file.try_clone().unwrap()).unwrap();
    make(Making::new(writer, &mut |_| true))?;
    Ok(Arc::new(TokenSet::open(file, &KEY)?))
}

pub(crate) fn orders() -> Orders {
    Orders::new(&std::env::temp_dir(), Arc::new(InThisProcess))
}

pub(crate) fn rows(source: &DataSource) -> Result<Rows, MakeError> {
    let files = r1d_data::files(source)?;
    let set = set(|making| Rows::make(source, &files, &KEY, making))?;
    Ok(Rows::open(set, &source.name, files)?)
}

pub(crate) fn prompts(
    rows: &Rows,
    template: &Template,
    tokenizer: &Tokenizer,
    lengths: Lengths,
) -> Result<Prompts, MakeError> {
    let set = set(|making| Prompts::make(rows, template, tokenizer, lengths, &KEY, making))?;
    Ok(Prompts::open(set)?)
}

pub(crate) fn pretrain(
    data: &[&Rows],
    tokenizer: &Tokenizer,
    batch: &RowBatch,
    order: Order,
) -> Result<Supervision, MakeError> {
    let data: Vec<Rows> = data.iter().map(|rows| (*rows).clone()).collect();
    let set = set(|making| make_documents(&data, tokenizer, &KEY, making))?;
    let sizes = (batch.batch_size, batch.max_length);
    Ok(Supervision::pretrain(set, "train", sizes, order, orders())?)
}

pub(crate) fn sft(
    data: &[Taught<'_>],
    tokenizer: &Tokenizer,
    batch: &RowBatch,
    order: Order,
) -> Result<Supervision, MakeError> {
    let max = batch.max_length;
    let set = set(|making| make_sequences(data, tokenizer, max, &KEY, making))?;
    Ok(Supervision::sft(set, batch.batch_size, order, orders())?)
}

pub(crate) fn preferred(
    rows: Rows,
    template: Template,
    tokenizer: &Tokenizer,
    (batch_size, reading): (u32, Reading),
    order: Order,
) -> Result<Preferences, MakeError> {
    let data = [(rows, template)];
    let set = set(|making| preferences::make(&data, tokenizer, reading, &KEY, making))?;
    Ok(Preferences::open(set, batch_size, order, orders())?)
}
