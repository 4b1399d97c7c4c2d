//! Batches of `pretrain` and `sft`: token sequences with a loss mask.

use crate::dataset::DataSet;
use crate::error::DataError;
use crate::shuffle::rows_of_step;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use r1d_job::{Pretrain, Sft};
use r1d_proto::worker::SupervisedSequence;
use r1d_proto::world::counter_permutation;
use std::sync::{Mutex, PoisonError};

/// Salt that keeps the order of documents apart from other uses of the job's seed.
const DOCUMENTS: u64 = 0x646f_6373;

/// Everything that a supervised stage trains on, tokenised once. Which sequences a step takes is a function of
/// (seed, stage, step) alone.
pub struct Supervision {
    order: Order,
    /// Sequences of one step.
    batch_size: u64,
    truncated: u64,
    source: Source,
}

/// What a supervised stage's order depends on.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub seed: u64,
    /// Index of the stage in the job.
    pub stage: u32,
    pub shuffle: bool,
}

enum Source {
    /// A row is a sequence.
    Rows(Vec<SupervisedSequence>),
    /// Documents run into each other; a sequence is a stretch of the stream.
    Packed { documents: Vec<Vec<u32>>, length: usize, sequences: u64, epoch: Mutex<Option<(u64, Vec<u32>)>> },
}

impl Supervision {
    /// Text packed into sequences of `max_length` tokens, the end-of-sequence id after each document. With `shuffle` the documents are in
    /// an order of its own in each epoch. What does not fill a sequence at an epoch's end is left out of that epoch. The data sets are read one
    /// after the other.
    pub fn pretrain(data: &[&DataSet], tokenizer: &Tokenizer, stage: &Pretrain, order: Order) -> Result<Supervision, DataError> {
        let mut documents = Vec::new();
        for (data, (index, row)) in data.iter().flat_map(|data| data.rows().iter().enumerate().map(move |row| (*data, row))) {
            let mut ids = tokenizer.encode_open(required(&row.text, "text", data, index)?, true)?;
            ids.push(tokenizer.eos_id());
            documents.push(ids);
        }
        let (tokens, length) = (documents.iter().map(Vec::len).sum::<usize>(), stage.max_length as usize);
        if tokens < length {
            let problem = format!(
                "its text is {tokens} tokens, and one packed sequence takes max_length = {length}: lower `max_length`, or add text"
            );
            return Err(DataError::Source { name: names(data), problem });
        }
        let sequences = (tokens / length) as u64;
        let source = Source::Packed { documents, length, sequences, epoch: Mutex::new(None) };
        Ok(Supervision { order, batch_size: stage.batch_size as u64, truncated: 0, source })
    }

    /// Prompt by template, completion, end-of-sequence id; the loss is on the completion and the end alone. The completion is tokenised by
    /// itself, as the sampler makes it: no token spans the border. Each data set has a template of its own; their rows are appended.
    pub fn sft(data: &[(&DataSet, &Template)], tokenizer: &Tokenizer, stage: &Sft, order: Order) -> Result<Supervision, DataError> {
        let length = stage.max_length as usize;
        let mut sequences = Vec::new();
        let mut truncated = 0;
        let rows = data.iter().flat_map(|(data, template)| data.rows().iter().enumerate().map(move |row| (*data, *template, row)));
        for (data, template, (index, row)) in rows {
            let (_, mut ids) = template.prompt_ids(row, tokenizer).map_err(|e| e.in_row(data.name(), index))?;
            let prompt = ids.len();
            if prompt >= length {
                let problem = format!(
                    "row {}: its prompt has {prompt} tokens, and max_length = {length} leaves nothing to train: raise it",
                    index + 1
                );
                return Err(DataError::Source { name: data.name().into(), problem });
            }
            ids.extend(tokenizer.encode(required(&row.completion, "completion", data, index)?, false)?);
            if ids.len() == prompt || ids.last() != Some(&tokenizer.eos_id()) {
                ids.push(tokenizer.eos_id());
            }
            truncated += u64::from(ids.len() > length);
            ids.truncate(length);
            let trained = (0..ids.len()).map(|position| position >= prompt).collect();
            sequences.push(SupervisedSequence { ids, trained });
        }
        Ok(Supervision { order, batch_size: stage.batch_size as u64, truncated, source: Source::Rows(sequences) })
    }

    /// Sequences of one epoch, at least 1: what [`r1d_job::Stage::steps`] takes as its rows.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        match &self.source {
            Source::Rows(sequences) => sequences.len() as u64,
            Source::Packed { sequences, .. } => *sequences,
        }
    }

    /// Rows that were longer than `max_length` and were cut.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The sequences of a step, from 0. Epochs run into each other.
    pub fn step(&self, step: u64) -> Vec<SupervisedSequence> {
        let Order { seed, stage, shuffle } = self.order;
        match &self.source {
            Source::Rows(sequences) => {
                let rows = rows_of_step(seed, stage, step, self.batch_size, sequences.len() as u64, shuffle);
                rows.into_iter().filter_map(|row| sequences.get(row as usize).cloned()).collect()
            }
            Source::Packed { documents, length, sequences, epoch } => {
                let first = step * self.batch_size;
                let mut made = epoch.lock().unwrap_or_else(PoisonError::into_inner);
                let stretch = |position: u64| {
                    let number = position / sequences;
                    if made.as_ref().is_none_or(|(current, _)| *current != number) {
                        *made = Some((number, self.stream(documents, number)));
                    }
                    let start = (position % sequences) as usize * length;
                    let ids = made.as_ref().and_then(|(_, stream)| stream.get(start..start + length)).unwrap_or_default().to_vec();
                    SupervisedSequence { trained: vec![true; ids.len()], ids }
                };
                (first..first + self.batch_size).map(stretch).collect()
            }
        }
    }

    /// All documents of an epoch, one after the other.
    fn stream(&self, documents: &[Vec<u32>], epoch: u64) -> Vec<u32> {
        let Order { seed, stage, shuffle } = self.order;
        if !shuffle {
            return documents.concat();
        }
        let order = counter_permutation(&[DOCUMENTS, seed, stage as u64, epoch], documents.len());
        order.into_iter().filter_map(|document| documents.get(document)).flatten().copied().collect()
    }
}

fn names(data: &[&DataSet]) -> String {
    data.iter().map(|data| data.name()).collect::<Vec<_>>().join(" + ")
}

fn required<'a>(column: &'a Option<String>, key: &str, data: &DataSet, index: usize) -> Result<&'a str, DataError> {
    column.as_deref().ok_or_else(|| DataError::Source {
        name: data.name().into(),
        problem: format!("row {} has no {key}: name the column that holds it with `{key}`", index + 1),
    })
}
