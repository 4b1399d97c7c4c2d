//! Batches of `pretrain` and `sft`: token sequences with a loss mask.

use crate::dataset::DataSet;
use crate::error::DataError;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use r1d_job::{Pretrain, Sft};
use r1d_proto::worker::SupervisedSequence;

/// Everything that a supervised stage trains on, tokenised once. Which sequences a step takes is a function of
/// (seed, stage, step) alone.
pub struct Supervision {
    sequences: Vec<SupervisedSequence>,
    truncated: u64,
}

/// What a supervised stage's order depends on.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    pub seed: u64,
    /// Index of the stage in the job.
    pub stage: u32,
    pub shuffle: bool,
}

impl Supervision {
    /// Text packed into sequences of `max_length` tokens, the end-of-sequence id after each document, documents reshuffled every epoch.
    pub fn pretrain(data: &DataSet, tokenizer: &Tokenizer, stage: &Pretrain, order: Order) -> Result<Supervision, DataError> {
        let _ = (data, tokenizer, stage, order);
        todo!()
    }

    /// Prompt by template, completion, end-of-sequence id; the loss is on the completion and the end alone.
    pub fn sft(
        data: &DataSet,
        template: &Template,
        tokenizer: &Tokenizer,
        stage: &Sft,
        order: Order,
    ) -> Result<Supervision, DataError> {
        let _ = (data, template, tokenizer, stage, order);
        todo!()
    }

    /// Sequences of one epoch, at least 1: what `Stage::steps` takes as its rows.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.sequences.len() as u64
    }

    /// Rows that were longer than `max_length` and were cut.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The sequences of a step, from 0.
    pub fn step(&self, step: u64) -> Vec<SupervisedSequence> {
        let _ = step;
        todo!()
    }
}
