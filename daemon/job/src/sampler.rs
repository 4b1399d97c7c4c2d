//! The sampler's size.

use r1d_job_macros::{Keys, Read, Write};

/// Size of the sampler, in every stage and evaluation; see [`crate::Job::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(
    path = "sampler",
    meaning = "The sampler's cache. Each step and each evaluation cuts it into slots of its own \
               longest prompt and completion; on a GPU, where r1d's own kernels decode, \
               completions take pages of it as they grow, and training has its memory in between."
)]
pub struct Sampler {
    /// Number of completions decoded at a time; 0: all of a step's, at most [`SLOTS_MAX`].
    #[key(
        takes = integer(0, 65_536),
        default = 0,
        unit = "completions",
        meaning = "Completions decoded at a time; 0: all of a step's, at most 256. Fewer where \
                   completions are so long that the cache does not hold as many slots."
    )]
    pub slots: u32,
    /// Number of prompt and completion tokens that the cache holds; 0: what the stage's own steps
    /// need, or [`EVAL_TOKENS_MAX`] for evaluations alone, but no more than a GPU's memory has room
    /// for ([`crate::plan::fitting_tokens`]).
    #[key(
        takes = integer(0, 1 << 30),
        default = 0,
        unit = "tokens",
        meaning = "Prompt and completion tokens that the cache holds, of all slots together; 0: \
                   what the stage's own steps need, or one completion of an evaluation where that \
                   is longer; in stages that sample for evaluations alone at most 524,288; on a \
                   GPU no more than 90 % of its memory leave beside models and optimisers. More \
                   lets long evaluations decode more completions at a time. In pages, fewer than \
                   all completions may come to suffice where few become that long: those that \
                   find no page wait, and are computed again (`perf/sampling_preemptions`)."
    )]
    pub tokens: u32,
}

/// Largest number of slots that `sampler.slots = 0` takes.
pub const SLOTS_MAX: u32 = 256;

/// Largest number of tokens that `sampler.tokens = 0` takes in a stage that samples for evaluations
/// alone: 6 GB of a 0.5B Qwen2.5 in bfloat16, 30 GB of a 7B. One completion always fits.
pub const EVAL_TOKENS_MAX: u64 = 1 << 19;
