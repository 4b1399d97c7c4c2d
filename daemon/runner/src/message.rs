//! The events that a job's state machine takes, and the commands that it returns.

use r1d_proto::control::job::{Activity, EvalResult};
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::trace::StepTrace;
use r1d_proto::verdict::Verdict;
use r1d_proto::worker::{self, Labelled, Metrics, Pair, Question, SupervisedSequence};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// An event: something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The worker's process is ready.
    WorkerStarted {
        /// Its process id.
        pid: u32,
    },
    /// An event of, or the answer to, the worker's request in flight.
    Worker(worker::Body),
    /// Answer to [`Command::ReadPrompts`].
    Prompts(Vec<Prompt>),
    /// Answer to [`Command::ReadBatch`] and [`Command::ReadHeldOut`].
    Batch(Batch),
    /// Answer to [`Command::Recall`].
    Recalled(Recalled),
    /// Answer to [`Command::Score`], one for each completion. Each reward that judges the row gives
    /// a verdict whose `value` is not filled in yet, or the questions that it first has for a
    /// model.
    Scored {
        /// The completion.
        key: SampleKey,
        /// Verdicts of the rewards that ask no model.
        verdicts: Vec<Verdict>,
        /// Questions of the other rewards.
        asked: Vec<JudgeRequest>,
        /// The completion's text, for its final answer.
        text: String,
    },
    /// Answer to [`Command::Conclude`], one for each completion: the verdicts of the rewards that
    /// had asked.
    Concluded {
        /// The completion.
        key: SampleKey,
        /// One verdict per reward that had asked.
        verdicts: Vec<Verdict>,
    },
    /// The job's rewards make progress without a verdict, or wait while other jobs' have their
    /// turn: the deadline of the next verdict begins anew.
    Judging,
    /// The writer has begun the next of its tasks; the deadline of the tasks that wait behind it
    /// begins anew.
    Writing,
    /// Answer to [`Command::Store`], [`Command::MakeDataSet`] and [`Command::Forget`].
    Stored,
    /// Progress of [`Command::MakeDataSet`]: repeated until its answer, and perhaps once after it.
    Progress(Activity),
    /// A command could not be carried out.
    Fault(End),
    /// Time has passed.
    Tick,
}

/// A command: something to do. Commands of one decision are carried out in order. Those of later
/// decisions that concern the journal come after those of earlier ones; the rest may overlap.
#[derive(Clone, Debug)]
pub enum Command {
    /// Send this request to the worker.
    Worker(Box<worker::WorkerRequest>),
    /// Read `count` rows, a function of the arguments and the job's seed alone.
    ReadPrompts {
        /// The stage or evaluation whose data set is read.
        of: Source,
        /// Step of the stage, from 0; 0 for an evaluation.
        step: u64,
        /// Round of further prompts of dynamic sampling, 0 being the step's own prompts; 0 for an
        /// evaluation.
        round: u32,
        /// Number of rows; for an evaluation, these are the first ones of its data set.
        count: u64,
    },
    /// Read the rows of a step that samples nothing, a function of the arguments and the job's seed
    /// alone.
    ReadBatch {
        /// Index of the stage.
        stage: usize,
        /// Step of the stage, from 0.
        step: u64,
    },
    /// Read all held-out rows of a reward-model stage.
    ReadHeldOut {
        /// Index of the stage.
        stage: usize,
    },
    /// Read what the journal holds of a step.
    Recall {
        /// Index of the stage.
        stage: usize,
        /// Step of the stage, from 0.
        step: u64,
    },
    /// Drop what the journal holds of an uncommitted step, and of all after it.
    Forget {
        /// Index of the stage.
        stage: usize,
        /// The first step that is dropped, from 0.
        step: u64,
    },
    /// Judge these completions together: one, or all of a prompt if a reward judges groups
    /// ([`crate::Plan::scores_groups`]).
    Score(Vec<ScoreItem>),
    /// Let the rewards conclude on these completions, now that their models have answered.
    Conclude(Vec<JudgeReply>),
    /// Make a data set of the completions that a rejection-sampling stage has kept in its committed
    /// steps, a function of those alone. It may take hours.
    MakeDataSet {
        /// Index of the stage.
        stage: usize,
    },
    /// Write a line to the job's log.
    Warn(String),
    /// Keep how long the parts of a committed step took. There is no answer, and nothing depends on
    /// it.
    Trace(StepTrace),
    /// Append to the journal. There is no answer; a failure is an [`Event::Fault`].
    Keep(Keep),
    /// Make something durable; the answer is [`Event::Stored`].
    Store(Store),
    /// Delete a checkpoint, first from the ledger. There is no answer.
    Prune {
        /// Index of the stage.
        stage: usize,
        /// Steps that the checkpoint holds.
        step: u64,
        /// The checkpoint's directory.
        dir: PathBuf,
    },
    /// The machine has ended: nothing follows.
    End(End),
}

/// The part of a job whose data, rewards and template are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Index of a stage.
    Stage(usize),
    /// An evaluation of one model's weights.
    Eval {
        /// Index into [`r1d_job::Job::evaluations`].
        eval: usize,
        /// Index into [`r1d_job::Job::models`].
        model: usize,
    },
}

/// A row's prompt, ready to be sampled from.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Index of the row in its data set.
    pub row: u64,
    /// Token ids of `text`.
    pub ids: Vec<u32>,
    /// The prompt as the model reads it, rendered by its template.
    pub text: String,
    /// The row's right answer, if it has one.
    pub reference: Option<String>,
}

/// A completion to be judged by every reward of `of` that judges its row.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreItem {
    /// The stage or evaluation whose rewards judge.
    pub of: Source,
    /// The completion.
    pub key: SampleKey,
    /// Index of its row in the data set.
    pub row: u64,
    /// Its token ids.
    pub completion_ids: Vec<u32>,
    /// How it ended.
    pub finish: FinishReason,
}

impl ScoreItem {
    /// The item for a completion of `source`.
    pub fn of(source: Source, rollout: &Rollout) -> ScoreItem {
        let (key, row, finish) = (rollout.key, rollout.row, rollout.finish);
        ScoreItem {
            of: source,
            key,
            row,
            completion_ids: rollout.completion_ids.clone(),
            finish,
        }
    }
}

/// The rows of a step that samples nothing, or held-out rows.
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    /// Texts to learn the tokens of: pretrain and sft stages.
    Sequences(Vec<SupervisedSequence>),
    /// Pairs of completions: dpo stages, and reward models that learn from pairs.
    Pairs(Vec<Pair>),
    /// Texts with labels: reward models that learn from single texts.
    Labelled(Vec<Labelled>),
}

impl Batch {
    /// Number of sequences, pairs or labelled texts.
    pub fn rows(&self) -> u64 {
        match self {
            Batch::Sequences(sequences) => sequences.len() as u64,
            Batch::Pairs(pairs) => pairs.len() as u64,
            Batch::Labelled(texts) => texts.len() as u64,
        }
    }

    /// Number of tokens of all texts; a pair's prompt counts twice.
    pub fn tokens(&self) -> u64 {
        let tokens: usize = match self {
            Batch::Sequences(sequences) => {
                sequences.iter().map(|sequence| sequence.ids.len()).sum()
            }
            Batch::Pairs(pairs) => pairs
                .iter()
                .map(|pair| {
                    2 * pair.prompt_ids.len() + pair.chosen_ids.len() + pair.rejected_ids.len()
                })
                .sum(),
            Batch::Labelled(texts) => texts.iter().map(|text| text.ids.len()).sum(),
        };
        tokens as u64
    }
}

/// The questions of a judged reward to its model about one completion.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeRequest {
    /// Name of the reward.
    pub reward: String,
    /// The questions, all of one kind.
    pub questions: Questions,
}

/// Questions to a model.
#[derive(Clone, Debug, PartialEq)]
pub enum Questions {
    /// Texts that a reward model scores with a number each: token ids of prompt and completion,
    /// complete.
    Numbers(Vec<Vec<u32>>),
    /// Questions that a judge answers with text.
    Texts {
        /// Ids that end an answer.
        stop_ids: Vec<u32>,
        /// The questions; an `Err` is the reason why one cannot be asked.
        questions: Vec<Result<Question, String>>,
    },
}

/// A model's answers, in the order of the questions.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    /// One score per text.
    Numbers(Vec<f32>),
    /// Token ids of each answer, or the reason why there is none.
    Texts(Vec<Result<Vec<u32>, String>>),
}

/// A completion with the answers of the models that its rewards asked.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeReply {
    /// The completion.
    pub item: ScoreItem,
    /// Answers by the name of the reward that asked.
    pub answers: BTreeMap<String, Answers>,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Keep {
    /// A completion has ended.
    Sampled(Rollout),
    /// A completion is judged.
    Scored {
        /// The completion.
        key: SampleKey,
        /// Verdicts of all rewards that judge it.
        verdicts: Vec<Verdict>,
        /// The reward; `None` if the completion does not train.
        reward: Option<f32>,
    },
}

/// What the journal holds of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recalled {
    /// Completions that have ended, by key.
    pub sampled: BTreeMap<SampleKey, Rollout>,
    /// Verdicts and reward of completions that are judged, by key.
    pub scored: BTreeMap<SampleKey, (Vec<Verdict>, Option<f32>)>,
    /// Completions in training order with their advantages; `None` until the step is sealed.
    pub sealed: Option<Vec<(SampleKey, Option<f32>)>>,
    /// Whether the journal also holds later steps or stages. After an uncommitted step, that means
    /// that the ledger is an older copy.
    pub later: bool,
}

impl Recalled {
    /// Returns the records of a sealed step in training order; `None` if it is not sealed, or the
    /// record of a completion is missing.
    pub fn into_records(mut self) -> Option<Vec<ScoredRollout>> {
        let sealed = self.sealed.take()?;
        let mut whole = |(key, advantage)| {
            let rollout = self.sampled.remove(&key)?;
            let (verdicts, reward) = self.scored.remove(&key)?;
            Some(ScoredRollout {
                rollout,
                verdicts,
                reward,
                advantage,
            })
        };
        sealed.into_iter().map(&mut whole).collect()
    }
}

/// Something to make durable; [`Event::Stored`] answers once it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Store {
    /// A stage begins.
    BeginStage {
        /// Index of the stage.
        stage: usize,
    },
    /// What trains, and in which order: the last line of a step in the journal, synced.
    Seal {
        /// Index of the stage.
        stage: usize,
        /// Step of the stage, from 0.
        step: u64,
        /// Completions in training order, each with its advantage; `None` for one that does not
        /// train. In a rejection-sampling stage: 1 for a completion that is kept, `None` for
        /// others.
        advantages: Vec<(SampleKey, Option<f32>)>,
    },
    /// Commit a step to the ledger, after `rollouts` are written to the step's Parquet file.
    Commit {
        /// Index of the stage.
        stage: usize,
        /// Step of the stage, from 0.
        step: u64,
        /// Metrics of the step, by name.
        metrics: Metrics,
        /// The step's completions; empty for steps that sample nothing.
        rollouts: Vec<ScoredRollout>,
    },
    /// Record a checkpoint that the worker has saved.
    Checkpoint {
        /// Index of the stage.
        stage: usize,
        /// Steps that it holds.
        step: u64,
        /// Its directory.
        dir: PathBuf,
        /// SHA-256 of its manifest, hex.
        manifest_sha256: String,
    },
    /// Forget a checkpoint that does not restore.
    DropCheckpoint {
        /// Index of the stage.
        stage: usize,
        /// Steps that the checkpoint holds.
        step: u64,
    },
    /// Record the result of an evaluation.
    Eval(Box<EvalResult>),
    /// A stage has ended.
    FinishStage {
        /// Index of the stage.
        stage: usize,
    },
}

/// How one attempt at a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All stages are finished, and the last weights are exported.
    Succeeded {
        /// Directory of the exported model.
        model: PathBuf,
    },
    /// The job ends as failed: another attempt would not help, or is not wanted.
    Failed {
        /// The reason, for the job's status.
        error: String,
    },
    /// Nothing went wrong: the next stage reads what an earlier one kept, so the inputs are opened
    /// anew, and an attempt with the plan made of them goes on. It counts as no restart. If
    /// somebody is to review the kept completions, the inputs are not opened before that.
    Reread,
    /// Something outside of the job is not as it should be: a file is missing, a disk takes no
    /// writes. Everything committed is kept: the job continues when that is mended.
    Away {
        /// What is wrong.
        cause: String,
    },
    /// The device cannot be used until the machine is mended. Everything committed is kept: the job
    /// goes back to the queue, for another device or for this one once it is mended.
    Unusable {
        /// What is wrong.
        cause: String,
    },
    /// The worker died, was silent for too long, or failed at something that another may do: an
    /// attempt with a fresh one may succeed ([`crate::restart`]). Where this goes on, the device
    /// may be the cause.
    WorkerFailed {
        /// What went wrong.
        cause: String,
    },
    /// The attempt cannot go on, for no fault of the worker's; another may succeed
    /// ([`crate::restart`]).
    Abandoned {
        /// What went wrong.
        cause: String,
    },
}
