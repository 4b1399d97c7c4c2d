//! Batches of `pretrain` and `sft`: token sequences with a loss mask.
//!
//! A record of sequences is the number of ids before the first that is trained (4 bytes), and the
//! ids. A record of documents is the ids alone: documents follow each other as a stream of tokens.

use crate::documents::Documents;
use crate::file::{Fields, SetError, TokenSet, bytes};
use crate::key::Key;
use crate::make::{MakeError, Making};
use crate::order::{Order, Orders, StepError};
use crate::parallel::in_order;
use crate::rows::Rows;
use r1d_data::{DataError, Row, Template, Tokenizer};
use r1d_job::Tokenize;
use r1d_proto::worker::SupervisedSequence;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// All sequences of a supervised stage, tokenised once. The sequences of a step are a function of
/// (seed, stage, step) alone.
#[derive(Debug)]
pub struct Supervision {
    order: Order,
    orders: Orders,
    /// Sequences per step.
    batch_size: u64,
    facts: SequencesFacts,
    source: Source,
}

/// A data set of an sft stage, and how its rows are read.
#[derive(Clone, Copy)]
pub struct Taught<'a> {
    /// The rows.
    pub rows: &'a Rows,
    /// The template that renders their prompts.
    pub template: &'a Template,
    /// Whether prompt and completion are tokenised together or apart.
    pub tokenize: Tokenize,
    /// Rows with a longer prompt, in tokens, are left out. `None`: no limit.
    pub max_prompt_length: Option<u32>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct SequencesFacts {
    truncated: u64,
    left_out: u64,
    merged: u64,
}

impl SequencesFacts {
    fn add(&mut self, more: &SequencesFacts) {
        self.truncated += more.truncated;
        self.left_out += more.left_out;
        self.merged += more.merged;
    }
}

#[derive(Debug)]
enum Source {
    /// Each record is a sequence.
    Rows(Arc<TokenSet>),
    /// Documents follow each other in a stream; a sequence is a part of the stream.
    Packed(Documents),
}

/// Makes the set of a pretrain stage's documents: each row's text, with the end-of-sequence id
/// behind it. The data sets are read one after the other.
pub fn make_documents(
    data: &[Rows],
    tokenizer: &Tokenizer,
    key: &Key,
    mut making: Making<'_>,
) -> Result<(), MakeError> {
    making.of(data.iter().map(Rows::bytes).sum());
    for rows in data {
        let document = |index, row: Row| {
            let text = required(&row, &row.text, "text", rows, index)?;
            let mut ids = tokenizer.encode_open(text, true)?;
            ids.push(tokenizer.eos_id());
            Ok(bytes(&ids))
        };
        in_order(rows, &mut making, document, |writer, record| {
            Ok(writer.add(&record)?)
        })?;
    }
    Ok(making.writer.finish(key, &())?)
}

/// Makes the set of an sft stage's sequences: prompt by template, completion, end-of-sequence id;
/// the loss is on the completion and the end only. If a completion is messages, the chat template
/// writes and ends it. Each data set has its own template; their rows are appended.
pub fn make_sequences(
    data: &[Taught<'_>],
    tokenizer: &Tokenizer,
    max_length: u32,
    key: &Key,
    mut making: Making<'_>,
) -> Result<(), MakeError> {
    let mut facts = SequencesFacts::default();
    making.of(data.iter().map(|taught| taught.rows.bytes()).sum());
    for taught in data {
        let sequence = |index, row: Row| Ok(sequence(taught, index, &row, tokenizer, max_length)?);
        in_order(
            taught.rows,
            &mut making,
            sequence,
            |writer, (record, of_row)| {
                facts.add(&of_row);
                if let Some(record) = record {
                    writer.add(&record)?;
                }
                Ok(())
            },
        )?;
    }
    if making.writer.is_empty() {
        let names: Vec<&str> = data.iter().map(|taught| taught.rows.name()).collect();
        return Err(MakeError::Data(DataError::Source {
            name: names.join(" + "),
            problem: "every prompt has more tokens than its max_prompt_length: raise it".into(),
        }));
    }
    Ok(making.writer.finish(key, &facts)?)
}

/// The record of a row, `None` if the row is left out, and what it adds to the facts.
fn sequence(
    taught: &Taught<'_>,
    index: u64,
    row: &Row,
    tokenizer: &Tokenizer,
    max_length: u32,
) -> Result<(Option<Vec<u8>>, SequencesFacts), DataError> {
    let mut facts = SequencesFacts::default();
    let (rows, length) = (taught.rows, max_length as usize);
    let completion = required(row, &row.completion, "completion", rows, index)?;
    let rendered = taught
        .template
        .render_with(row, completion)
        .map_err(|e| rows.wrong(index, e))?;
    let special = taught.template.adds_special();
    let (mut ids, prompt, merges) = tokenizer
        .learned(&rendered, special, taught.tokenize)
        .map_err(|e| rows.wrong(index, e))?;
    if taught
        .max_prompt_length
        .is_some_and(|max| prompt > max as usize)
    {
        facts.left_out = 1;
        return Ok((None, facts));
    }
    if prompt >= length {
        let problem = format!(
            "its prompt has {prompt} tokens, and max_length = {length} leaves nothing to train: \
             raise it"
        );
        return Err(rows.wrong(index, problem));
    }
    if prompt == ids.len() {
        let problem = "the template writes nothing of its completion: there is nothing to train";
        return Err(rows.wrong(index, problem));
    }
    facts.merged = u64::from(merges);
    facts.truncated = u64::from(ids.len() > length);
    ids.truncate(length);
    let mut record = (prompt as u32).to_le_bytes().to_vec();
    record.extend(bytes(&ids));
    Ok((Some(record), facts))
}

impl Supervision {
    /// Packs the documents of `set` into sequences of `max_length` tokens. With `shuffle` each
    /// epoch has its own order of the documents. Tokens at an epoch's end that do not fill a
    /// sequence are left out of that epoch. The error of too little text names the data sets,
    /// `names`.
    pub fn pretrain(
        set: Arc<TokenSet>,
        names: &str,
        (batch_size, max_length): (u32, u32),
        order: Order,
        orders: Orders,
    ) -> Result<Supervision, DataError> {
        let documents = Documents::new(set, max_length);
        let tokens = documents.tokens();
        if tokens < u64::from(max_length) {
            let problem = format!(
                "its text is {tokens} tokens, and one packed sequence takes max_length = \
                 {max_length}: lower `max_length`, or add text"
            );
            return Err(DataError::Source {
                name: names.into(),
                problem,
            });
        }
        Ok(Supervision {
            order,
            orders,
            batch_size: batch_size.into(),
            facts: SequencesFacts::default(),
            source: Source::Packed(documents),
        })
    }

    /// The sequences of `set`, `batch_size` of them a step.
    pub fn sft(
        set: Arc<TokenSet>,
        batch_size: u32,
        order: Order,
        orders: Orders,
    ) -> Result<Supervision, SetError> {
        Ok(Supervision {
            order,
            orders,
            batch_size: batch_size.into(),
            facts: set.facts()?,
            source: Source::Rows(set),
        })
    }

    /// The number of sequences of one epoch, at least 1: the rows that [`r1d_job::Stage::steps`]
    /// counts with.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Rows(set) => set.len(),
            Source::Packed(documents) => documents.sequences(),
        }
    }

    /// The number of rows that were longer than `max_length` and were cut.
    pub fn truncated(&self) -> u64 {
        self.facts.truncated
    }

    /// The number of rows whose prompt is longer than `max_prompt_length`.
    pub fn left_out(&self) -> u64 {
        self.facts.left_out
    }

    /// The number of rows whose prompt has other last tokens when the completion follows: the
    /// completion begins where they differ.
    pub fn merged(&self) -> u64 {
        self.facts.merged
    }

    /// Makes the order of the epoch that a step begins in ahead of it ([`Orders::prepare`]).
    pub fn prepare(&self, step: u64) {
        match &self.source {
            Source::Rows(set) => self
                .orders
                .prepare(self.order, step, self.batch_size, set.len()),
            Source::Packed(documents) => {
                documents.prepare(step * self.batch_size, self.order, &self.orders);
            }
        }
    }

    /// The sequences of a step, from 0. Epochs follow each other without a gap.
    pub fn step(&self, step: u64) -> Result<Vec<SupervisedSequence>, StepError> {
        match &self.source {
            Source::Rows(set) => {
                let rows =
                    self.orders
                        .rows_of_step(self.order, step, self.batch_size, set.len())?;
                let read = rows.into_iter().map(|row| {
                    let record = set.record(row)?;
                    decode(&record).ok_or_else(|| set.fault("a sequence of it cannot be read"))
                });
                Ok(read.collect::<Result<_, SetError>>()?)
            }
            Source::Packed(documents) => {
                let first = step * self.batch_size;
                let sequence = |position: u64| {
                    let ids = documents.sequence(position, self.order, &self.orders)?;
                    Ok(SupervisedSequence {
                        trained: vec![true; ids.len()],
                        ids,
                    })
                };
                (first..first + self.batch_size).map(sequence).collect()
            }
        }
    }
}

fn decode(record: &[u8]) -> Option<SupervisedSequence> {
    let mut fields = Fields::new(record);
    let prompt = fields.u32()? as usize;
    let ids = crate::file::ids(fields.rest());
    Some(SupervisedSequence {
        trained: (0..ids.len()).map(|position| position >= prompt).collect(),
        ids,
    })
}

fn required<'a, T>(
    row: &Row,
    column: &'a Option<T>,
    key: &str,
    rows: &Rows,
    index: u64,
) -> Result<&'a T, DataError> {
    column.as_ref().ok_or_else(|| {
        if key == "completion" && !row.messages.is_empty() {
            return rows.wrong(
                index,
                "it has no completion: its conversation does not end in a message of the \
                 assistant's",
            );
        }
        rows.wrong(
            index,
            format!("it has no {key}: name the column that holds it with `{key}`"),
        )
    })
}
