//! What can be wrong with a request, or go wrong while it runs.

use r1d_model::{Fault, ModelError};
use r1d_proto::ids::SampleKey;
use r1d_proto::worker::SLOT_BLOCK_TOKENS;

pub type Result<T, E = SamplerError> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    #[error(
        "the sampler needs at least 1 slot and a cache of at least {SLOT_BLOCK_TOKENS} tokens, \
         got {count} and {tokens}"
    )]
    Slots { count: u32, tokens: u64 },
    #[error(
        "speculative decoding needs a model with its multi-token prediction module, and the \
         policy was opened without one"
    )]
    NoPredictionModule,
    #[error("`{key}` is {value}: {expected}")]
    Sampling {
        key: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error(
        "stop id {id} is outside the model's vocabulary of {vocab_size}: the tokenizer and the \
         model do not belong together"
    )]
    StopId { id: u32, vocab_size: i64 },
    #[error("prompt {prompt} of step {step} (row {row}) is empty: there is nothing to continue")]
    EmptyPrompt { step: u64, prompt: u32, row: u64 },
    #[error(
        "prompt {prompt} of step {step} (row {row}) has id {id} at position {position}, outside \
         the model's vocabulary of {vocab_size}: the tokenizer and the model do not belong \
         together"
    )]
    PromptId {
        step: u64,
        prompt: u32,
        row: u64,
        position: usize,
        id: u32,
        vocab_size: i64,
    },
    #[error(
        "prompt {prompt} of step {step} (row {row}) has {prompt_tokens} tokens and may grow by \
         {max_completion_length} (`max_completion_length`), but the whole cache holds {tokens}: \
         raise `tokens` under [sampler] or shorten either"
    )]
    Capacity {
        step: u64,
        prompt: u32,
        row: u64,
        prompt_tokens: usize,
        max_completion_length: u32,
        tokens: u64,
    },
    #[error("prompt {prompt}, sample {sample} of step {step} is asked for twice")]
    Duplicate { step: u64, prompt: u32, sample: u32 },
    #[error(
        "the model's logits for token {position} of prompt {}, sample {} of step {} are not \
         finite: its weights have diverged or are damaged",
        key.prompt, key.sample, key.step
    )]
    NotFinite { key: SampleKey, position: usize },
    #[error(
        "the ids that top_p and top_k left of the vocabulary, up to token {position} of prompt \
         {}, sample {} of step {}, come to more than {limit} numbers: lower top_p, set a top_k \
         (`r1ctl plan` says which always fits), or keep_sampling_mask = false",
        key.prompt, key.sample, key.step
    )]
    SamplingMask {
        key: SampleKey,
        position: usize,
        limit: usize,
    },
    #[error("expert {expert} does not fit the rollout record's 16 bits")]
    Expert { expert: i64 },
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    #[error(transparent)]
    Shim(#[from] r1d_torch::TorchError),
}

impl SamplerError {
    /// Whether another try can help: what was asked for is wrong, or the weights are, or the
    /// machine failed.
    pub fn fault(&self) -> Fault {
        match self {
            SamplerError::Model(error) => error.fault(),
            SamplerError::Torch(_) | SamplerError::Shim(_) => Fault::Machine,
            _ => Fault::Given,
        }
    }
}
