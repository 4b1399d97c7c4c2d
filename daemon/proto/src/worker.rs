//! The protocol between `r1d` and an `r1d-worker`, one worker per device, over the worker's
//! standard input, which is a socket.
//!
//! `r1d` sends [`ToWorker`], the worker answers with [`FromWorker`]; both travel in
//! [`crate::frame`]s. A request is answered by exactly one final message that carries its id
//! (`Done` or `Failed`); [`Event`]s may come before it. A request whose list is longer than a frame
//! is sent in several ([`crate::parts`]). Requests are carried out in order, one at a time; only
//! the files of a checkpoint are written beside them ([`CheckpointReport`]). `r1d` owns every
//! deadline: a worker that does not answer in time is killed and started again.
//!
//! Beside all that a worker calls its gang's [rendezvous](crate::rendezvous) from any thread, and
//! is answered at once, in the middle of a request too.

use crate::hyperparameters::{
    DpoObjective, GradientCheckpointing, Lora, Objective, Optimiser, PpoObjective, RouterTraining,
    Sampling,
};
pub use crate::hyperparameters::{Dtype, Shard, Transport};
use crate::rendezvous::{RendezvousAnswer, RendezvousCall};
use crate::rollout::Rollout;
use crate::sampling_mask::SamplingMask;
use crate::trace::Span;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Version of this protocol. Which worker a daemon starts is a setting, so it may be of another
/// release: one that speaks another version is refused by its first message.
pub const PROTOCOL: u32 = 3;

/// The exit status of a worker that cannot use its device (sysexits' EX_UNAVAILABLE): the machine
/// is at fault, not the job.
pub const EXIT_NO_DEVICE: u8 = 69;

/// What a probe says of a GPU that it found usable, a line on its standard error; the bytes of its
/// memory follow.
pub const PROBED_MEMORY: &str = "bytes of memory: ";

/// A request to a worker, or a part of one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ToWorker {
    /// The request's number; its parts and its answer carry the same.
    pub id: u64,
    /// What to do.
    pub request: WorkerRequest,
}

/// A message of a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FromWorker {
    /// The id of the request that this belongs to; 0 for [`Event::Started`].
    pub id: u64,
    /// An event, or the final answer.
    pub body: Body,
}

/// What a worker's message holds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Body {
    /// Something happened; the answer is still to come.
    Event(Event),
    /// The final answer to a request that was carried out.
    Done(Reply),
    /// The final answer to a request that was not.
    Failed(Failure),
    /// A report on a checkpoint that is written beside the requests. It may come before and after
    /// the answer to its [`WorkerRequest::Save`], whose id it carries.
    Checkpoint(CheckpointReport),
    /// A call on the gang's rendezvous, beside the requests; its answer is a
    /// [`WorkerRequest::Rendezvous`]. The message's id is 0.
    Rendezvous(RendezvousCall),
}

/// A report on a checkpoint that is written beside the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CheckpointReport {
    /// The stage of [`WorkerRequest::Save`].
    pub stage: u32,
    /// The step of [`WorkerRequest::Save`].
    pub step: u64,
    /// How far it is.
    pub state: CheckpointState,
}

/// How far a checkpoint is that is written beside the requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CheckpointState {
    /// It is being written, hashed or synced; sent when something has moved.
    Writing {
        /// Bytes written and bytes hashed so far.
        done: u64,
        /// Both at the end.
        total: u64,
    },
    /// It is whole and synced; nothing follows.
    Stored {
        /// SHA-256 of its manifest, hex.
        manifest_sha256: String,
    },
    /// It could not be written, and nothing is left of it; nothing follows.
    Failed(Failure),
}

/// A request of the daemon to a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkerRequest {
    /// Loads or initialises the policy and builds what the stage needs. It replaces what was open
    /// before.
    Open(Box<Open>),
    /// Samples completions: an [`Event::Completed`] for each as it ends, then [`Reply::Generated`].
    Generate(Generate),
    /// Trains on one rollout batch of a policy-gradient stage: `num_iterations × num_minibatches`
    /// updates.
    Train(Train),
    /// Makes one update on token sequences with a loss mask (pretrain, sft).
    Supervise(Supervise),
    /// Makes the reference equal to the policy.
    SyncReference,
    /// Copies weights, optimiser and reference to the host, and writes them so that `Restore`
    /// continues with the same bits. The answer comes as soon as the copy is complete; it is
    /// written while later requests are carried out ([`Body::Checkpoint`]). The checkpoint appears
    /// whole or not at all (`CKP-1`). All ranks of a gang are asked with the same directory and id:
    /// rank 0 writes and reports, the others hand it what only they have.
    Save {
        /// Index of the stage in the job file, from 0; the reports carry it.
        stage: u32,
        /// Steps of the stage that the checkpoint holds; the reports carry it.
        step: u64,
        /// The directory to write, which must not exist.
        dir: PathBuf,
    },
    /// Reads a checkpoint, which a gang of any layout may have written, into what is open.
    Restore {
        /// The directory that [`WorkerRequest::Save`] wrote.
        dir: PathBuf,
    },
    /// Writes the policy as a Hugging Face directory. All ranks of a gang are asked with the same
    /// directory: each writes files of what only it has, and rank 0 takes them in beside its own.
    Export {
        /// The directory to write.
        dir: PathBuf,
    },
    /// Frees the model and its memory.
    Close,
    /// Makes one update of a reward model ([`Open::scores`]).
    TrainReward(TrainReward),
    /// Makes one update of a policy on pairs; needs the reference.
    TrainDpo(TrainDpo),
    /// Trains on one rollout batch of PPO; needs [`Open::value_model`], and the reference where
    /// `kl_coef` is above 0.
    TrainPpo(TrainPpo),
    /// Scores whole texts by a reward model, which does not learn from them.
    Score {
        /// The reward model; `None`: the open one ([`Open::scores`]). Another one is loaded beside
        /// what is open, and stays until another model is opened.
        model: Option<ModelSource>,
        /// Token ids of each text.
        sequences: Vec<Vec<u32>>,
    },
    /// Lets a language model write greedily behind prompts. It is loaded beside what is open, and
    /// stays until another model is opened.
    Answer(Answer),
    /// Carries items of the list of the request that follows with this id ([`crate::parts`]); it
    /// has no answer.
    More(Part),
    /// Answers a [`Body::Rendezvous`]; it is taken at once, whatever the worker carries out, and
    /// has no answer. The message's id is 0.
    Rendezvous(RendezvousAnswer),
}

/// Items of the list of a request that is longer than a frame ([`crate::parts`]).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Part {
    /// Sequences of [`WorkerRequest::Train`] or [`WorkerRequest::TrainPpo`].
    Rollouts(Vec<TrainSequence>),
    /// Sequences of [`WorkerRequest::Supervise`].
    Supervised(Vec<SupervisedSequence>),
    /// Pairs of [`WorkerRequest::TrainDpo`] or [`WorkerRequest::TrainReward`].
    Pairs(Vec<Pair>),
    /// Labelled texts of [`WorkerRequest::TrainReward`].
    Labelled(Vec<Labelled>),
    /// Token ids of the texts of [`WorkerRequest::Score`].
    Texts(Vec<Vec<u32>>),
    /// Groups of [`WorkerRequest::Generate`].
    Groups(Vec<Group>),
    /// Questions of [`WorkerRequest::Answer`].
    Questions(Vec<Question>),
}

/// What a worker reports before a request's final answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    /// The worker is ready: its first message.
    Started {
        /// The version of the protocol that it speaks: [`PROTOCOL`].
        protocol: u32,
        /// The worker's release.
        version: String,
        /// Its device: `cuda:0`, `cpu`.
        device: String,
        /// Its process id.
        pid: u32,
    },
    /// A completion of [`WorkerRequest::Generate`] has ended.
    Completed(Rollout),
    /// What a request does and how far it is, for the watchdog, `r1ctl why` and progress bars. It
    /// is sent when something has moved: a part of a file was read, hashed or written, a layer, a
    /// micro-batch or a token computed. So it comes at least every 2 s, except from single
    /// operations that report nothing while they last: the backward pass of one micro-batch, an
    /// optimiser's update, the syncing of the last 64 MiB of a file. Those must take less time than
    /// the watchdog waits.
    Progress {
        /// The work, for [`Activity::doing`](crate::control::job::Activity::doing).
        doing: String,
        /// How many of `total` are done.
        done: u64,
        /// How many there are.
        total: u64,
        /// What is counted, in the plural.
        unit: String,
    },
    /// How long the parts of the request took; the last event before its answer.
    Spans(Spans),
}

/// How long the parts of a request took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spans {
    /// The parts, by the time since the request began; they may lie inside each other.
    pub spans: Vec<Span>,
    /// Number of parts that were too many to be told.
    pub left_out: u64,
    /// How long the whole request took, in microseconds.
    pub total_us: u64,
}

/// The answer to a request that was carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Reply {
    /// Answers [`WorkerRequest::Open`].
    Opened(Opened),
    /// Answers [`WorkerRequest::Generate`], after the last completion.
    Generated {
        /// The time it took, its speed, and the share of drafts that were accepted.
        metrics: Metrics,
    },
    /// Answers a request that trains.
    Trained {
        /// Metrics of its updates, by TRL's names.
        metrics: Metrics,
    },
    /// Answers [`WorkerRequest::SyncReference`].
    ReferenceSynced,
    /// Answers [`WorkerRequest::Save`]: what changes from here on changes nothing of the
    /// checkpoint.
    SnapshotTaken,
    /// Answers [`WorkerRequest::Restore`].
    Restored,
    /// Answers [`WorkerRequest::Export`].
    Exported,
    /// Answers [`WorkerRequest::Close`].
    Closed,
    /// Answers [`WorkerRequest::Score`].
    Scored {
        /// The score of each text, in the order of the request.
        scores: Vec<f32>,
    },
    /// Answers [`WorkerRequest::Answer`].
    Answered {
        /// Token ids of each answer, in the order of the request.
        answers: Vec<Vec<u32>>,
    },
}

/// A metric of [`Reply::Trained`] that each rank of several computes from the weights that it has
/// after the update: a checksum of their bits, a whole number below 2^53. The daemon compares it
/// and takes it away: all other metrics are summed over the ranks, so they are the same on all of
/// them, whatever weights one has.
pub const WEIGHTS_CHECKSUM: &str = "perf/weights_checksum";

/// Metrics by name. Names are TRL's (`loss`, `kl`, `grad_norm`, …); times are under `timing_s/`,
/// speeds under `perf/`.
pub type Metrics = BTreeMap<String, f64>;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure, which tells whether to try again.
    pub kind: FailureKind,
    /// One line that names the culprit.
    pub message: String,
}

impl Failure {
    /// Makes a failure whose message may quote names of files and tensors: it becomes one line of
    /// bounded length.
    pub fn new(kind: FailureKind, message: &str) -> Failure {
        Failure {
            kind,
            message: crate::shown::line(message),
        }
    }
}

/// Kinds of failures, by what helps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The request, or a file that it names, is bad: trying again cannot help.
    Invalid,
    /// The device ran out of memory.
    OutOfMemory,
    /// A file system error: disk full, permission, read error.
    Storage,
    /// Anything else: a fresh worker may succeed.
    Internal,
}

/// What to open for a stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Open {
    /// The source of the weights.
    pub model: ModelSource,
    /// Data type of the weights.
    pub dtype: Dtype,
    /// Whether linear layers of a bfloat16 model multiply in FP8.
    pub fp8: bool,
    /// Whether to compute in the reference mode: equal bits whatever the batch, slot or order
    /// (`ROLL-1`), trainer and sampler equal (`ROLL-2`).
    pub batch_invariant: bool,
    /// Whether to keep a frozen copy of the stage's first weights, for the KL term.
    pub reference: bool,
    /// How the weights are trained; `None` for stages that only sample.
    pub optimiser: Option<Optimiser>,
    /// Balancing of mixture-of-experts layers while training.
    pub router: RouterTraining,
    /// Fresh adapters to train instead of the weights.
    pub lora: Option<Lora>,
    /// λ of multi-token prediction (DeepSeek-V3 2.2); above 0 the model is opened with its
    /// prediction module.
    pub mtp_loss_weight: f64,
    /// Whether to decode with the prediction module's drafts, which opens the model with it too.
    pub speculative_decoding: bool,
    /// Whether the model is a reward model: it has a scalar head or gets a fresh one, and takes
    /// `TrainReward` and `Score` instead of a policy's requests. It is saved and exported like a
    /// policy.
    pub scores: bool,
    /// A value model beside the policy, for PPO.
    pub value_model: Option<ValueModel>,
    /// The sampler's cache; `None` if the stage samples nothing.
    pub sampler: Option<Slots>,
    /// Most tokens that are packed into a micro-batch.
    pub max_tokens_per_device: u32,
    /// How updates save memory; `None`: a whole pass is differentiated at once.
    pub gradient_checkpointing: Option<GradientCheckpointing>,
    /// Seed of random initial weights; nothing else depends on it.
    pub seed: u64,
    /// The worker's place in a gang, which it meets before it opens anything; `None` for a job on
    /// one device.
    pub place: Option<Place>,
}

/// A worker's place in the gang of its job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Its rank, from 0.
    pub rank: u32,
    /// Copies of each expert.
    pub data: u32,
    /// Shards of the experts; the gang has `data × expert` ranks.
    pub expert: u32,
    /// How bytes travel between the ranks.
    pub transport: Transport,
    /// What copies of the same weights share.
    pub shard: Shard,
    /// Whether gradients are added along one tree, so that any number of ranks ends with the same
    /// bits.
    pub layout_independent: bool,
    /// How long a rank waits for the others in a call, in milliseconds. The slowest has to come to
    /// its next call within this time.
    pub within_ms: u64,
}

impl Place {
    /// Ranks of the gang.
    pub fn ranks(&self) -> u32 {
        self.data.saturating_mul(self.expert)
    }
}

/// The value model of PPO and how it is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ValueModel {
    /// A reward model, or a language model whose trunk gets a fresh head; `None`: the policy's
    /// first weights.
    pub model: Option<ModelSource>,
    /// How it is trained.
    pub optimiser: Optimiser,
}

/// A source of a model's weights.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ModelSource {
    /// A Hugging Face directory.
    Directory(PathBuf),
    /// Random weights.
    Init {
        /// Text of the `config.json` that gives the shapes.
        config: String,
        /// Directory whose tokenizer files are copied on export.
        carry: Option<PathBuf>,
    },
}

/// The sampler's cache. Each request cuts it into slots as long as its own longest completion may
/// become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    /// Most completions that are decoded at a time.
    pub count: u32,
    /// Prompt and completion tokens that all slots together hold.
    pub tokens: u64,
}

/// Tokens that a slot's length is a multiple of, so that products over a slot's keys have few
/// shapes, and aligned rows.
pub const SLOT_BLOCK_TOKENS: u32 = 64;

impl Slots {
    /// A cache for `count` slots of at least `capacity` tokens each.
    pub fn of(count: u32, capacity: u32) -> Slots {
        Slots {
            count,
            tokens: u64::from(count) * slot_tokens(capacity.into()),
        }
    }

    /// How many slots a request gets whose longest completion may take `capacity` tokens with its
    /// prompt; 0 if not even one fits.
    pub fn fitting(&self, capacity: u64) -> u32 {
        let fitting = self.tokens / slot_tokens(capacity).max(1);
        u32::try_from(fitting).unwrap_or(u32::MAX).min(self.count)
    }
}

/// The length in tokens of a slot that has to hold `capacity`.
pub fn slot_tokens(capacity: u64) -> u64 {
    capacity.saturating_add(u64::from(SLOT_BLOCK_TOKENS) - 1) / u64::from(SLOT_BLOCK_TOKENS)
        * u64::from(SLOT_BLOCK_TOKENS)
}

/// Sizes of the model that was opened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Opened {
    /// The architecture, as in `architectures[0]` of config.json: `DeepseekV3ForCausalLM`.
    pub architecture: String,
    /// All parameters, also those that a token does not use.
    pub parameters: u64,
    /// Parameters that one token's forward pass uses, embedding and head included.
    pub active_parameters: u64,
    /// Rows of the embedding: ids are below it.
    pub vocab_size: u32,
    /// Layers with routed experts; 0 for dense models.
    pub moe_layers: u32,
    /// Experts that the router chooses for a token; 0 for dense models.
    pub experts_per_token: u32,
}

/// Prompts to complete, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Generate {
    /// Index of the stage in the job file, from 0; the random numbers depend on it.
    pub stage: u32,
    /// Index of the step in the stage, from 0; the random numbers depend on it.
    pub step: u64,
    /// Copied into each completion's [`Rollout::policy_version`].
    pub policy_version: u64,
    /// How completions are drawn.
    pub sampling: Sampling,
    /// Whether completions carry [`Rollout::experts`]: for those that are trained on with the
    /// experts that they were sampled with.
    pub record_experts: bool,
    /// The prompts, and which completions of each to draw.
    pub groups: Vec<Group>,
}

/// Prompts for a language model to answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// The source of its weights.
    pub model: ModelSource,
    /// Ids that end an answer.
    pub stop_ids: Vec<u32>,
    /// The prompts, with a limit for each answer.
    pub questions: Vec<Question>,
}

/// A prompt that a language model answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Question {
    /// Its token ids.
    pub prompt_ids: Vec<u32>,
    /// Longest answer in tokens, at least 1.
    pub max_tokens: u32,
}

/// Completions of one prompt, which share its prefill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Group {
    /// Index within the step ([`crate::ids::SampleKey::prompt`]).
    pub prompt: u32,
    /// Row of the data set that the prompt comes from; copied into [`Rollout::row`].
    pub row: u64,
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Which samples to draw: all of `0..num_generations`, or those that a resumed step still
    /// lacks.
    pub samples: Vec<u32>,
}

/// A rollout batch and how to train on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Train {
    /// Index of the step in the stage, from 0.
    pub step: u64,
    /// Number of optimiser updates before this request: position in the schedule.
    pub first_update: u64,
    /// The loss.
    pub objective: Objective,
    /// Seed of the split into minibatches.
    pub seed: u64,
    /// The batch.
    pub sequences: Vec<TrainSequence>,
}

/// A completion that trains the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainSequence {
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Token ids that were sampled.
    pub completion_ids: Vec<u32>,
    /// [`Rollout::behaviour_logprobs`]: natural logarithms, one per completion id.
    pub behaviour_logprobs: Vec<f32>,
    /// [`Rollout::experts`]; empty where routing is not replayed.
    #[serde(with = "crate::narrow")]
    pub experts: Vec<u16>,
    /// [`Rollout::kept_ids`]: the policy's and the reference's distributions are over these, too.
    pub kept_ids: SamplingMask,
    /// Advantage of each of its tokens; PPO does not read it.
    pub advantage: f32,
    /// Whether the completion hit the length limit.
    pub truncated: bool,
}

/// A batch of token sequences with a loss mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Supervise {
    /// Number of updates before this one: position in the schedule.
    pub step: u64,
    /// The batch.
    pub sequences: Vec<SupervisedSequence>,
}

/// A token sequence with a loss mask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SupervisedSequence {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Whether the loss is on predicting `ids[i]`, one per id; the first id is never predicted.
    pub trained: Vec<bool>,
}

/// One update of a reward model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainReward {
    /// Number of updates before this one: position in the schedule.
    pub step: u64,
    /// The texts to learn from.
    pub batch: RewardBatch,
}

/// Texts that a reward model learns from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum RewardBatch {
    /// Pairs: the preferred completion shall score higher.
    Pairs {
        /// The pairs.
        pairs: Vec<Pair>,
        /// Weight of a term that holds the scores around 0; 0 is off.
        center_rewards_coefficient: f64,
    },
    /// Labelled texts: a score shall be above 0 where the label is 1, below where it is 0.
    Labelled(Vec<Labelled>),
}

/// Two completions of one prompt, of which one is preferred.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    /// Token ids of the prompt.
    pub prompt_ids: Vec<u32>,
    /// Token ids of the preferred completion.
    pub chosen_ids: Vec<u32>,
    /// Token ids of the other completion.
    pub rejected_ids: Vec<u32>,
    /// Least difference of a reward model's scores, if it is known; else 0. DPO does not read it.
    pub margin: f32,
}

/// A whole text and its label, from 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Labelled {
    /// Token ids of the text.
    pub ids: Vec<u32>,
    /// The label, from 0 to 1.
    pub label: f32,
}

/// One update of a policy on pairs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainDpo {
    /// Number of updates before this one: position in the schedule.
    pub step: u64,
    /// The loss.
    pub objective: DpoObjective,
    /// The batch.
    pub pairs: Vec<Pair>,
}

/// One rollout batch of PPO: `num_ppo_epochs × num_mini_batches` updates of policy and value model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TrainPpo {
    /// Index of the step in the stage, from 0.
    pub step: u64,
    /// Number of optimiser updates before this request: position in the schedule.
    pub first_update: u64,
    /// The losses of policy and value model.
    pub objective: PpoObjective,
    /// Seed of the split into minibatches.
    pub seed: u64,
    /// The batch; the trainer estimates advantages and does not read theirs.
    pub sequences: Vec<TrainSequence>,
    /// The score of each sequence.
    pub scores: Vec<f32>,
}
