//! What can be wrong with a request, or go wrong while it runs.

use r1d_model::{Fault, ModelError};
use r1d_proto::ids::SampleKey;
use r1d_proto::worker::SLOT_BLOCK_TOKENS;

/// A result of this crate.
pub type Result<T, E = SamplerError> = std::result::Result<T, E>;

/// An error of a request: it is refused before anything is sampled, or it fails while it runs.
#[derive(Debug, thiserror::Error)]
pub enum SamplerError {
    /// The slots or the cache are too small to sample at all.
    #[error(
        "the sampler needs at least 1 slot and a cache of at least {SLOT_BLOCK_TOKENS} tokens, \
         got {count} and {tokens}"
    )]
    Slots {
        /// Slots.
        count: u32,
        /// Tokens that the whole cache holds.
        tokens: u64,
    },
    /// The settings ask for speculative decoding, and the model was loaded without its module.
    #[error(
        "speculative decoding needs a model with its multi-token prediction module, and the \
         policy was opened without one"
    )]
    NoPredictionModule,
    /// A sampling setting is out of its range.
    #[error("`{key}` is {value}: {expected}")]
    Sampling {
        /// The setting.
        key: &'static str,
        /// Its value.
        value: String,
        /// The values that it may have.
        expected: &'static str,
    },
    /// A stop id is not in the model's vocabulary.
    #[error(
        "stop id {id} is outside the model's vocabulary of {vocab_size}: the tokenizer and the \
         model do not belong together"
    )]
    StopId {
        /// The stop id.
        id: u32,
        /// Ids of the model.
        vocab_size: i64,
    },
    /// A prompt has no tokens.
    #[error("prompt {prompt} of step {step} (row {row}) is empty: there is nothing to continue")]
    EmptyPrompt {
        /// The step, as in the request.
        step: u64,
        /// Index of the prompt in the step.
        prompt: u32,
        /// Index of the row in the data set.
        row: u64,
    },
    /// A prompt has an id that is not in the model's vocabulary.
    #[error(
        "prompt {prompt} of step {step} (row {row}) has id {id} at position {position}, outside \
         the model's vocabulary of {vocab_size}: the tokenizer and the model do not belong \
         together"
    )]
    PromptId {
        /// The step, as in the request.
        step: u64,
        /// Index of the prompt in the step.
        prompt: u32,
        /// Index of the row in the data set.
        row: u64,
        /// Place of the id in the prompt, from 0.
        position: usize,
        /// The id.
        id: u32,
        /// Ids of the model.
        vocab_size: i64,
    },
    /// Prompt and completion may become longer than the whole cache.
    #[error(
        "prompt {prompt} of step {step} (row {row}) has {prompt_tokens} tokens and may grow by \
         {max_completion_length} (`max_completion_length`), but the whole cache holds {tokens}: \
         raise `tokens` under [sampler] or shorten either"
    )]
    Capacity {
        /// The step, as in the request.
        step: u64,
        /// Index of the prompt in the step.
        prompt: u32,
        /// Index of the row in the data set.
        row: u64,
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Most tokens of the completion.
        max_completion_length: u32,
        /// Tokens that the whole cache holds.
        tokens: u64,
    },
    /// A request names the same sample twice.
    #[error("prompt {prompt}, sample {sample} of step {step} is asked for twice")]
    Duplicate {
        /// The step, as in the request.
        step: u64,
        /// Index of the prompt in the step.
        prompt: u32,
        /// Index of the sample in its group.
        sample: u32,
    },
    /// The model gives NaN or infinite logits: take weights from before they diverged.
    #[error(
        "the model's logits for token {position} of prompt {}, sample {} of step {} are not \
         finite: its weights have diverged or are damaged",
        key.prompt, key.sample, key.step
    )]
    NotFinite {
        /// The sample that was being drawn.
        key: SampleKey,
        /// Place of the token in the completion, from 0.
        position: usize,
    },
    /// The sampling mask of a completion has more numbers than a record may have.
    #[error(
        "the ids that top_p and top_k left of the vocabulary, up to token {position} of prompt \
         {}, sample {} of step {}, come to more than {limit} numbers: lower top_p, set a top_k \
         (`r1ctl plan` says which always fits), or keep_sampling_mask = false",
        key.prompt, key.sample, key.step
    )]
    SamplingMask {
        /// The sample that was being drawn.
        key: SampleKey,
        /// Place of the token in the completion, from 0.
        position: usize,
        /// Most numbers of a record.
        limit: usize,
    },
    /// The model has an expert whose index does not fit a record.
    #[error("expert {expert} does not fit the rollout record's 16 bits")]
    Expert {
        /// The expert's index.
        expert: i64,
    },
    /// The model's forward pass or its cache failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A tensor operation failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// A kernel of r1d's own failed.
    #[error(transparent)]
    Kernel(#[from] r1d_kernels::KernelError),
    /// A setting of libtorch failed.
    #[error(transparent)]
    Shim(#[from] r1d_torch::TorchError),
}

impl SamplerError {
    /// Whether another try can help: the request or the weights are wrong, or the machine failed.
    pub fn fault(&self) -> Fault {
        match self {
            SamplerError::Model(error) => error.fault(),
            SamplerError::Torch(_) | SamplerError::Shim(_) | SamplerError::Kernel(_) => {
                Fault::Machine
            }
            _ => Fault::Given,
        }
    }
}
