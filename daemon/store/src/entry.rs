//! The records of a journal, and why one may be refused.

use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::Rollout;
use r1d_proto::verdict::Verdict;
use serde::{Deserialize, Serialize};

/// One journal record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Entry {
    /// A completion, as the sampler made it.
    Sampled(Rollout),
    /// All verdicts on a sampled completion, in the order of the stage's rewards, and the reward
    /// they make.
    Scored {
        /// The completion that was scored.
        key: SampleKey,
        /// One verdict per reward.
        verdicts: Vec<Verdict>,
        /// Weighted sum of the scores; `None`: an abstention takes the sample out of training.
        reward: Option<f32>,
    },
    /// The step's completions, in the order in which they train, each with its advantage (`None`:
    /// does not train). Nothing follows it.
    Sealed {
        /// Index of the stage in the job file, from 0.
        stage: u32,
        /// The step, from 0.
        step: u64,
        /// The completions and their advantages, as in
        /// [`advantage`](r1d_proto::rollout::ScoredRollout::advantage).
        advantages: Vec<(SampleKey, Option<f32>)>,
    },
}

/// Stage and step that an entry belongs to.
pub(crate) fn place(entry: &Entry) -> (u32, u64) {
    match entry {
        Entry::Sampled(rollout) => (rollout.key.stage, rollout.key.step),
        Entry::Scored { key, .. } => (key.stage, key.step),
        Entry::Sealed { stage, step, .. } => (*stage, *step),
    }
}

/// An entry that does not fit what the journal holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The journal has another entry of this kind for the completion: a rerun did not repeat it.
    #[error("{what} of {key:?} is in the journal already, and differs")]
    Differs {
        /// The kind of entry, in words.
        what: &'static str,
        /// The completion.
        key: SampleKey,
    },
    /// A completion is scored or sealed that the journal does not have.
    #[error("{key:?} is scored or sealed before it is sampled")]
    NotSampled {
        /// The completion.
        key: SampleKey,
    },
    /// A completion is sealed that has no verdicts.
    #[error("{key:?} is sealed before it is scored")]
    NotScored {
        /// The completion.
        key: SampleKey,
    },
    /// A seal names a completion twice.
    #[error("{key:?} is sealed twice")]
    SealedTwice {
        /// The completion.
        key: SampleKey,
    },
    /// The step is sealed: nothing can be added to it.
    #[error("step {step} is sealed")]
    Sealed {
        /// The step, from 0.
        step: u64,
    },
    /// The step is committed: it is never added to or dropped.
    #[error("step {step} is committed")]
    Committed {
        /// The step, from 0.
        step: u64,
    },
    /// The entry belongs to another stage's journal.
    #[error("an entry of stage {found} in the journal of stage {stage}")]
    WrongStage {
        /// The journal's stage, from 0.
        stage: u32,
        /// The entry's stage.
        found: u32,
    },
    /// A record or a step's file would pass its limit.
    #[error("{what} of {found} bytes in step {step}, the limit is {limit}")]
    TooLong {
        /// Which of the two, in words.
        what: &'static str,
        /// The step, from 0.
        step: u64,
        /// Its size in bytes.
        found: u64,
        /// The limit in bytes.
        limit: u64,
    },
}
