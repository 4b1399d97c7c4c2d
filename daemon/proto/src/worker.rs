//! The protocol between `r1d` and an `r1d-worker`, one worker per device, over the worker's
//! standard input's socket.
//!
//! `r1d` sends [`ToWorker`], the worker answers with [`FromWorker`]; both travel in
//! [`crate::frame`]s. A request is answered by exactly one final message that carries its id
//! (`Done` or `Failed`); [`Event`]s may come before it. A request whose list is longer than a frame
//! is sent in several ([`crate::parts`]). Requests are carried out in order, one at a time. `r1d`
//! owns every deadline: a worker that does not answer in time is killed and started again.

use crate::hyperparameters::{
    DpoObjective, Lora, Objective, Optimiser, PpoObjective, RouterTraining, Sampling,
};
use crate::parts::Part;
use crate::rollout::Rollout;
use crate::sampling_mask::SamplingMask;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The exit status of a worker that cannot use its device (sysexits' EX_UNAVAILABLE): the machine's
/// fault, not the job's.
pub const EXIT_NO_DEVICE: u8 = 69;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToWorker {
    pub id: u64,
    pub request: WorkerRequest,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromWorker {
    /// The request that this belongs to; 0 for `Event::Started`.
    pub id: u64,
    pub body: Body,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    Event(Event),
    Done(Reply),
    Failed(Failure),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkerRequest {
    /// Load or initialise the policy and build what the stage needs. Replaces what was open before.
    Open(Box<Open>),
    /// Sample completions: an [`Event::Completed`] for each as it ends, then [`Reply::Generated`].
    Generate(Generate),
    /// One rollout batch of a policy-gradient stage: `num_iterations × num_minibatches` updates.
    Train(Train),
    /// One update on token sequences with a loss mask (pretrain, sft).
    Supervise(Supervise),
    /// Make the reference equal to the policy.
    SyncReference,
    /// Write weights, optimiser and reference so that `Restore` continues with the same bits. `dir`
    /// must not exist; it appears whole or not at all (`CKP-1`).
    Save {
        dir: PathBuf,
    },
    Restore {
        dir: PathBuf,
    },
    /// Write the policy as a Hugging Face directory.
    Export {
        dir: PathBuf,
    },
    /// Let go of the model and its memory.
    Close,
    /// One update of a reward model ([`Open::scores`]).
    TrainReward(TrainReward),
    /// One update of a policy on pairs; needs the reference.
    TrainDpo(TrainDpo),
    /// One rollout batch of PPO; needs [`Open::value_model`], and the reference where `kl_coef` is
    /// above 0.
    TrainPpo(TrainPpo),
    /// What a reward model thinks of whole texts, token ids each, without learning from them.
    /// `None`: the open one ([`Open::scores`]). Another one is loaded beside what is open, and
    /// stays until another model is opened.
    Score {
        model: Option<ModelSource>,
        sequences: Vec<Vec<u32>>,
    },
    /// What a language model writes, greedily, behind each of these prompts. It is loaded beside
    /// what is open, and stays until another model is opened.
    Answer(Answer),
    /// Items of the list of the request that follows with this id ([`crate::parts`]); it is not
    /// answered.
    More(Part),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The first thing a worker says.
    Started {
        version: String,
        device: String,
        pid: u32,
    },
    Completed(Rollout),
    /// What a request does and how far it is, for the watchdog, `r1ctl why` and progress bars. It
    /// is sent when something has moved: a part of a file was read, hashed or written, a layer, a
    /// micro-batch or a token computed. So it comes at least every 2 s, except from single
    /// operations that cannot be looked into: the backward pass of one micro-batch, an optimiser's
    /// update, the syncing of the last 64 MiB of a file. Those must take less time than the
    /// watchdog has patience.
    Progress {
        doing: String,
        done: u64,
        total: u64,
        unit: String,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    Opened(Opened),
    Generated {
        metrics: Metrics,
    },
    /// Metrics of the update(s), by TRL's names.
    Trained {
        metrics: Metrics,
    },
    ReferenceSynced,
    /// SHA-256 of the manifest, hex.
    Saved {
        manifest_sha256: String,
    },
    Restored,
    Exported,
    Closed,
    /// In the order of the request.
    Scored {
        scores: Vec<f32>,
    },
    /// Ids of each answer, in the order of the request.
    Answered {
        answers: Vec<Vec<u32>>,
    },
}

/// Names are TRL's (`loss`, `kl`, `grad_norm`, …); times are under `timing_s/`, speeds under
/// `perf/`.
pub type Metrics = BTreeMap<String, f64>;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

impl Failure {
    /// The message may quote names of files and tensors: it is made one line of bounded length.
    pub fn new(kind: FailureKind, message: &str) -> Failure {
        Failure {
            kind,
            message: crate::shown::line(message),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request or a file it names is bad: trying again cannot help.
    Invalid,
    /// The device ran out of memory.
    OutOfMemory,
    /// A file system error: disk full, permission, read error.
    Storage,
    /// Anything else; a fresh worker may succeed.
    Internal,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    pub model: ModelSource,
    pub dtype: Dtype,
    /// Linear layers of a bfloat16 model multiply in FP8.
    pub fp8: bool,
    /// The reference mode: equal bits whatever the batch, slot or order (`ROLL-1`), trainer and
    /// sampler equal (`ROLL-2`).
    pub batch_invariant: bool,
    /// Keep a frozen copy of the stage's first weights, for the KL term.
    pub reference: bool,
    /// Absent for stages that only sample.
    pub optimiser: Option<Optimiser>,
    pub router: RouterTraining,
    /// Train fresh adapters instead of the weights.
    pub lora: Option<Lora>,
    /// λ of multi-token prediction (DeepSeek-V3 2.2); above 0 the model is opened with its
    /// prediction module.
    pub mtp_loss_weight: f64,
    /// Decode with the prediction module's drafts, which opens the model with it too.
    pub speculative_decoding: bool,
    /// The model is a reward model: it has a scalar head or gets a fresh one, and takes
    /// `TrainReward` and `Score` instead of what policies do. It is saved and written out as
    /// policies are.
    pub scores: bool,
    /// A value model beside the policy, for PPO.
    pub value_model: Option<ValueModel>,
    /// Absent where the stage samples nothing.
    pub sampler: Option<Slots>,
    /// Micro-batches are packed to this many tokens.
    pub max_tokens_per_device: u32,
    /// For random initial weights and nothing else.
    pub seed: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueModel {
    /// Of a reward model, or of a language model, whose trunk gets a fresh head. Absent: the
    /// policy's first weights.
    pub model: Option<ModelSource>,
    pub optimiser: Optimiser,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ModelSource {
    /// A Hugging Face directory.
    Directory(PathBuf),
    /// Random weights for this `config.json` (its text); tokenizer files of `carry` are copied on
    /// export.
    Init {
        config: String,
        carry: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    Float32,
    Bfloat16,
}

/// The sampler's cache. Each request cuts it into slots as long as its own longest completion may
/// become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Completions decoded at a time, at most.
    pub count: u32,
    /// Prompt and completion tokens that all slots together hold.
    pub tokens: u64,
}

/// A slot's length is a multiple of this: products over a slot's keys have few shapes, and rows
/// that are aligned.
pub const SLOT_BLOCK_TOKENS: u32 = 64;

impl Slots {
    /// As many slots of at least `capacity` tokens each.
    pub fn of(count: u32, capacity: u32) -> Slots {
        Slots {
            count,
            tokens: u64::from(count) * slot_tokens(capacity.into()),
        }
    }

    /// How many slots a request gets whose longest completion may come to `capacity` tokens with
    /// its prompt; 0 where not one fits.
    pub fn fitting(&self, capacity: u64) -> u32 {
        let fitting = self.tokens / slot_tokens(capacity).max(1);
        u32::try_from(fitting).unwrap_or(u32::MAX).min(self.count)
    }
}

/// The tokens that a slot takes which is to hold `capacity`.
pub fn slot_tokens(capacity: u64) -> u64 {
    capacity.saturating_add(u64::from(SLOT_BLOCK_TOKENS) - 1) / u64::from(SLOT_BLOCK_TOKENS)
        * u64::from(SLOT_BLOCK_TOKENS)
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    pub architecture: String,
    pub parameters: u64,
    pub active_parameters: u64,
    pub vocab_size: u32,
    pub moe_layers: u32,
    pub experts_per_token: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    pub stage: u32,
    pub step: u64,
    pub policy_version: u64,
    pub sampling: Sampling,
    /// Completions carry [`Rollout::experts`]: for those that are trained on with the experts that
    /// they were sampled with.
    pub record_experts: bool,
    pub groups: Vec<Group>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub model: ModelSource,
    /// Ids that end an answer.
    pub stop_ids: Vec<u32>,
    pub questions: Vec<Question>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Question {
    pub prompt_ids: Vec<u32>,
    /// Of the answer, at least 1.
    pub max_tokens: u32,
}

/// Completions of one prompt: its prefill is shared.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Index within the step ([`crate::ids::SampleKey::prompt`]).
    pub prompt: u32,
    pub row: u64,
    pub prompt_ids: Vec<u32>,
    /// Which samples to draw: all of `0..num_generations`, or those that a resumed step still
    /// lacks.
    pub samples: Vec<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    pub step: u64,
    /// Number of optimiser updates before this request: position in the schedule.
    pub first_update: u64,
    pub objective: Objective,
    /// Seed of the split into minibatches.
    pub seed: u64,
    pub sequences: Vec<TrainSequence>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSequence {
    pub prompt_ids: Vec<u32>,
    pub completion_ids: Vec<u32>,
    pub behaviour_logprobs: Vec<f32>,
    /// As in [`Rollout::experts`]; empty where routing is not replayed.
    #[serde(with = "crate::narrow")]
    pub experts: Vec<u16>,
    /// As in [`Rollout::kept_ids`]: the policy's and the reference's distributions are over these,
    /// too.
    pub kept_ids: SamplingMask,
    pub advantage: f32,
    /// The completion hit the length limit.
    pub truncated: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Supervise {
    pub step: u64,
    pub sequences: Vec<SupervisedSequence>,
}

/// `ids` with the loss on predicting `ids[i]` where `trained[i]`; the first id is never predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupervisedSequence {
    pub ids: Vec<u32>,
    pub trained: Vec<bool>,
}

/// One update of a reward model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReward {
    pub step: u64,
    pub batch: RewardBatch,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RewardBatch {
    /// The preferred completion shall score higher. `center_rewards_coefficient` holds the scores
    /// around 0; 0 is off.
    Pairs {
        pairs: Vec<Pair>,
        center_rewards_coefficient: f64,
    },
    /// A score shall be above 0 where the label is 1, below where it is 0.
    Labelled(Vec<Labelled>),
}

/// Two completions of one prompt, of which one is preferred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub prompt_ids: Vec<u32>,
    pub chosen_ids: Vec<u32>,
    pub rejected_ids: Vec<u32>,
    /// By how much a reward model's scores shall differ at least, as far as that is known; 0 where
    /// it is not. Not for DPO.
    pub margin: f32,
}

/// A whole text and its label, from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    pub ids: Vec<u32>,
    pub label: f32,
}

/// One update of a policy on pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainDpo {
    pub step: u64,
    pub objective: DpoObjective,
    pub pairs: Vec<Pair>,
}

/// One rollout batch of PPO: `num_ppo_epochs × num_mini_batches` updates of policy and value model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainPpo {
    pub step: u64,
    /// Number of optimiser updates before this request: position in the schedule.
    pub first_update: u64,
    pub objective: PpoObjective,
    /// Seed of the split into minibatches.
    pub seed: u64,
    /// Their advantages are not read: the trainer estimates them.
    pub sequences: Vec<TrainSequence>,
    /// The score of each sequence.
    pub scores: Vec<f32>,
}
