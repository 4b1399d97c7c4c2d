//! Batches of `pretrain` and `sft`: token sequences with a loss mask.

use crate::dataset::DataSet;
use crate::error::DataError;
use crate::shuffle::rows_of_step;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use r1d_job::{Pretrain, Sft, Tokenize};
use r1d_proto::worker::SupervisedSequence;
use r1d_proto::world::counter_permutation;
use std::sync::{Mutex, PoisonError};

/// Salt that separates the order of documents from other uses of the job's seed.
const DOCUMENTS: u64 = 0x646f_6373;

/// All sequences of a supervised stage, tokenised once. The sequences of a step are a function of
/// (seed, stage, step) alone.
pub struct Supervision {
    order: Order,
    /// Sequences per step.
    batch_size: u64,
    truncated: u64,
    left_out: u64,
    merged: u64,
    source: Source,
}

/// A data set of an sft stage, and how its rows are read.
#[derive(Clone, Copy)]
pub struct Taught<'a> {
    /// The rows.
    pub data: &'a DataSet,
    /// The template that renders their prompts.
    pub template: &'a Template,
    /// Whether prompt and completion are tokenised together or apart.
    pub tokenize: Tokenize,
    /// Rows with a longer prompt, in tokens, are left out. `None`: no limit.
    pub max_prompt_length: Option<u32>,
}

/// The inputs of a supervised stage's order.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    /// The job's seed.
    pub seed: u64,
    /// Index of the stage in the job.
    pub stage: u32,
    /// Whether each epoch has an order of its own; otherwise rows keep the data set's order.
    pub shuffle: bool,
}

enum Source {
    /// Each row is a sequence.
    Rows(Vec<SupervisedSequence>),
    /// Documents follow each other in a stream; a sequence is a part of the stream.
    Packed {
        documents: Vec<Vec<u32>>,
        length: usize,
        sequences: u64,
        epoch: Mutex<Option<(u64, Vec<u32>)>>,
    },
}

impl Supervision {
    /// Packs text into sequences of `max_length` tokens, with the end-of-sequence id after each
    /// document. With `shuffle` each epoch has its own order of the documents. Tokens at an epoch's
    /// end that do not fill a sequence are left out of that epoch. The data sets are read one after
    /// the other.
    pub fn pretrain(
        data: &[&DataSet],
        tokenizer: &Tokenizer,
        stage: &Pretrain,
        order: Order,
    ) -> Result<Supervision, DataError> {
        let mut documents = Vec::new();
        for (data, (index, row)) in data
            .iter()
            .flat_map(|data| data.rows().iter().enumerate().map(move |row| (*data, row)))
        {
            let mut ids = tokenizer.encode_open(required(&row.text, "text", data, index)?, true)?;
            ids.push(tokenizer.eos_id());
            documents.push(ids);
        }
        let (tokens, length) = (
            documents.iter().map(Vec::len).sum::<usize>(),
            stage.max_length as usize,
        );
        if tokens < length {
            let problem = format!(
                "its text is {tokens} tokens, and one packed sequence takes max_length = \
                 {length}: lower `max_length`, or add text"
            );
            return Err(DataError::Source {
                name: names(data),
                problem,
            });
        }
        let sequences = (tokens / length) as u64;
        let source = Source::Packed {
            documents,
            length,
            sequences,
            epoch: Mutex::new(None),
        };
        Ok(Supervision {
            order,
            batch_size: stage.batch_size as u64,
            truncated: 0,
            left_out: 0,
            merged: 0,
            source,
        })
    }

    /// Reads rows as prompt by template, completion, end-of-sequence id; the loss is on the
    /// completion and the end only. If a completion is messages, the chat template writes and ends
    /// it. Each data set has its own template; their rows are appended.
    pub fn sft(
        data: &[Taught<'_>],
        tokenizer: &Tokenizer,
        stage: &Sft,
        order: Order,
    ) -> Result<Supervision, DataError> {
        let length = stage.max_length as usize;
        let mut sequences = Vec::new();
        let (mut truncated, mut left_out, mut merged) = (0, 0, 0);
        for (taught, (index, row)) in data.iter().flat_map(|data| {
            data.data
                .rows()
                .iter()
                .enumerate()
                .map(move |row| (data, row))
        }) {
            let of_row = |problem: String| taught.data.wrong(index, problem);
            let completion = required(&row.completion, "completion", taught.data, index)?;
            let rendered = taught
                .template
                .render_with(row, completion)
                .map_err(|e| taught.data.wrong(index, e))?;
            let special = taught.template.adds_special();
            let (mut ids, prompt, merges) = tokenizer
                .learned(&rendered, special, taught.tokenize)
                .map_err(|e| taught.data.wrong(index, e))?;
            if taught
                .max_prompt_length
                .is_some_and(|max| prompt > max as usize)
            {
                left_out += 1;
                continue;
            }
            if prompt >= length {
                return Err(of_row(format!(
                    "its prompt has {prompt} tokens, and max_length = {length} leaves nothing to \
                     train: raise it"
                )));
            }
            if prompt == ids.len() {
                return Err(of_row(
                    "the template writes nothing of its completion: there is nothing to train"
                        .into(),
                ));
            }
            merged += u64::from(merges);
            truncated += u64::from(ids.len() > length);
            ids.truncate(length);
            let trained = (0..ids.len()).map(|position| position >= prompt).collect();
            sequences.push(SupervisedSequence { ids, trained });
        }
        if sequences.is_empty() {
            let names = data
                .iter()
                .map(|taught| taught.data.name())
                .collect::<Vec<_>>()
                .join(" + ");
            let problem =
                "every prompt has more tokens than its max_prompt_length: raise it".to_string();
            return Err(DataError::Source {
                name: names,
                problem,
            });
        }
        let source = Source::Rows(sequences);
        Ok(Supervision {
            order,
            batch_size: stage.batch_size as u64,
            truncated,
            left_out,
            merged,
            source,
        })
    }

    /// The number of sequences of one epoch, at least 1: the rows that [`r1d_job::Stage::steps`]
    /// counts with.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Rows(sequences) => sequences.len() as u64,
            Source::Packed { sequences, .. } => *sequences,
        }
    }

    /// The number of rows that were longer than `max_length` and were cut.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The number of rows whose prompt is longer than `max_prompt_length`.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The number of rows whose prompt has other last tokens when the completion follows: the
    /// completion begins where they differ.
    pub fn merged(&self) -> u64 {
        self.merged
    }

    /// The sequences of a step, from 0. Epochs follow each other without a gap.
    pub fn step(&self, step: u64) -> Vec<SupervisedSequence> {
        let Order {
            seed,
            stage,
            shuffle,
        } = self.order;
        match &self.source {
            Source::Rows(sequences) => {
                let rows = rows_of_step(
                    seed,
                    stage,
                    step,
                    self.batch_size,
                    sequences.len() as u64,
                    shuffle,
                );
                rows.into_iter()
                    .filter_map(|row| sequences.get(row as usize).cloned())
                    .collect()
            }
            Source::Packed {
                documents,
                length,
                sequences,
                epoch,
            } => {
                let first = step * self.batch_size;
                let mut made = epoch.lock().unwrap_or_else(PoisonError::into_inner);
                let stretch = |position: u64| {
                    let number = position / sequences;
                    if made.as_ref().is_none_or(|(current, _)| *current != number) {
                        *made = Some((number, self.stream(documents, number)));
                    }
                    let start = (position % sequences) as usize * length;
                    let ids = made
                        .as_ref()
                        .and_then(|(_, stream)| stream.get(start..start + length))
                        .unwrap_or_default()
                        .to_vec();
                    SupervisedSequence {
                        trained: vec![true; ids.len()],
                        ids,
                    }
                };
                (first..first + self.batch_size).map(stretch).collect()
            }
        }
    }

    /// All documents of an epoch, one after the other.
    fn stream(&self, documents: &[Vec<u32>], epoch: u64) -> Vec<u32> {
        let Order {
            seed,
            stage,
            shuffle,
        } = self.order;
        if !shuffle {
            return documents.concat();
        }
        let order = counter_permutation(&[DOCUMENTS, seed, stage as u64, epoch], documents.len());
        order
            .into_iter()
            .filter_map(|document| documents.get(document))
            .flatten()
            .copied()
            .collect()
    }
}

fn names(data: &[&DataSet]) -> String {
    data.iter()
        .map(|data| data.name())
        .collect::<Vec<_>>()
        .join(" + ")
}

fn required<'a, T>(
    column: &'a Option<T>,
    key: &str,
    data: &DataSet,
    index: usize,
) -> Result<&'a T, DataError> {
    column.as_ref().ok_or_else(|| match key {
        "completion"
            if data
                .rows()
                .get(index)
                .is_some_and(|row| !row.messages.is_empty()) =>
        {
            data.wrong(
                index,
                "it has no completion: its conversation does not end in a message of the \
                 assistant's",
            )
        }
        _ => data.wrong(
            index,
            format!("it has no {key}: name the column that holds it with `{key}`"),
        ),
    })
}
