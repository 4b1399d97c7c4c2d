//! What a job's state machine is told and what it asks for.

use r1d_proto::control::{Activity, EvalResult};
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::verdict::Verdict;
use r1d_proto::worker::{self, Labelled, Metrics, Pair, Question, SupervisedSequence};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Something happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The worker process said that it is there.
    WorkerStarted { pid: u32 },
    /// An event of, or the answer to, the worker's request in flight.
    Worker(worker::Body),
    /// Answer to [`Command::ReadPrompts`].
    Prompts(Vec<Prompt>),
    /// Answer to [`Command::ReadBatch`] and [`Command::ReadHeldOut`].
    Batch(Batch),
    /// Answer to [`Command::Recall`].
    Recalled(Recalled),
    /// Answer to [`Command::Score`], one for each completion: of each reward that judges the row a
    /// verdict, with `value` not filled in yet, or what it asks a model first.
    Scored {
        key: SampleKey,
        verdicts: Vec<Verdict>,
        asked: Vec<JudgeRequest>,
        text: String,
    },
    /// Answer to [`Command::Conclude`], one for each completion: the verdicts of the rewards that
    /// had asked.
    Concluded {
        key: SampleKey,
        verdicts: Vec<Verdict>,
    },
    /// None of the job's completions is being judged: those that are awaited have their turn to
    /// come.
    Judging,
    /// The writer has begun the next of its tasks: what waits behind it has its turn to come.
    Writing,
    /// Answer to [`Command::Store`], [`Command::MakeDataSet`] and [`Command::Forget`].
    Stored,
    /// How far [`Command::MakeDataSet`] is: sent again and again until its answer, and perhaps once
    /// after it.
    Progress(Activity),
    /// A command could not be carried out.
    Fault(End),
    /// Time has passed.
    Tick,
}

/// Something is to be done. Commands of one decision are carried out in order, those of later
/// decisions after those of earlier ones where they concern the journal; the rest may overlap.
#[derive(Clone, Debug)]
pub enum Command {
    Worker(Box<worker::WorkerRequest>),
    /// `count` rows, a function of the arguments and the job's seed alone. `round` counts the
    /// further prompts of dynamic sampling, 0 being the step's own. For an evaluation, `step` and
    /// `round` are 0 and the rows are the first `count`.
    ReadPrompts {
        of: Source,
        step: u64,
        round: u32,
        count: u64,
    },
    /// The sequences of a supervised step, a function of the arguments and the job's seed alone.
    ReadBatch {
        stage: usize,
        step: u64,
    },
    /// All held-out rows of a reward-model stage.
    ReadHeldOut {
        stage: usize,
    },
    /// What the journal holds of a step.
    Recall {
        stage: usize,
        step: u64,
    },
    /// Drop what the journal holds of an uncommitted step, and of all after it.
    Forget {
        stage: usize,
        step: u64,
    },
    /// Completions to judge together: one, or all of a prompt where a reward judges groups
    /// ([`crate::Plan::scores_groups`]).
    Score(Vec<ScoreItem>),
    /// Completions whose rewards have their answers.
    Conclude(Vec<JudgeReply>),
    /// Make a data set of what a rejection-sampling stage has kept in its committed steps, which
    /// may take hours: a function of those alone.
    MakeDataSet {
        stage: usize,
    },
    /// A line for the job's log.
    Warn(String),
    /// Append to the journal. Not answered; a failure is a [`Event::Fault`].
    Keep(Keep),
    Store(Store),
    /// Delete a checkpoint, ledger first. Not answered.
    Prune {
        stage: usize,
        step: u64,
        dir: PathBuf,
    },
    /// The machine has ended: nothing follows.
    End(End),
}

/// Whose data, rewards and template are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Index of a stage.
    Stage(usize),
    /// Indices of an evaluation and of the model ([`r1d_job::Job::models`]) whose weights it is of.
    Eval { eval: usize, model: usize },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    pub row: u64,
    pub ids: Vec<u32>,
    /// As the model reads it.
    pub text: String,
    pub reference: Option<String>,
}

/// A completion to be judged by every reward of `of` that judges its row.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreItem {
    pub of: Source,
    pub key: SampleKey,
    pub row: u64,
    pub completion_ids: Vec<u32>,
    pub finish: FinishReason,
}

impl ScoreItem {
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

/// The rows of a step that samples nothing.
#[derive(Clone, Debug, PartialEq)]
pub enum Batch {
    Sequences(Vec<SupervisedSequence>),
    Pairs(Vec<Pair>),
    Labelled(Vec<Labelled>),
}

impl Batch {
    pub fn rows(&self) -> u64 {
        match self {
            Batch::Sequences(sequences) => sequences.len() as u64,
            Batch::Pairs(pairs) => pairs.len() as u64,
            Batch::Labelled(texts) => texts.len() as u64,
        }
    }

    /// Of all texts.
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

/// What a judged reward asks its model about one completion.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeRequest {
    /// The reward's name.
    pub reward: String,
    pub questions: Questions,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Questions {
    /// A number for each text, which is whole; token ids.
    Numbers(Vec<Vec<u32>>),
    /// An answer to each question, or the reason why it cannot be asked.
    Texts {
        stop_ids: Vec<u32>,
        questions: Vec<Result<Question, String>>,
    },
}

/// What a model said, in the order of the questions.
#[derive(Clone, Debug, PartialEq)]
pub enum Answers {
    Numbers(Vec<f32>),
    /// Token ids, or why there are none.
    Texts(Vec<Result<Vec<u32>, String>>),
}

/// A completion with what its rewards' models said.
#[derive(Clone, Debug, PartialEq)]
pub struct JudgeReply {
    pub item: ScoreItem,
    /// By reward.
    pub answers: BTreeMap<String, Answers>,
}

/// A line of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Keep {
    Sampled(Rollout),
    Scored {
        key: SampleKey,
        verdicts: Vec<Verdict>,
        reward: Option<f32>,
    },
}

/// What the journal holds of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recalled {
    pub sampled: BTreeMap<SampleKey, Rollout>,
    pub scored: BTreeMap<SampleKey, (Vec<Verdict>, Option<f32>)>,
    /// The step's completions in training order, once it is sealed.
    pub sealed: Option<Vec<(SampleKey, Option<f32>)>>,
    /// There is something of steps or stages after this one, too: after an uncommitted one that
    /// means that the ledger is an older copy.
    pub later: bool,
}

impl Recalled {
    /// The records of a sealed step, in training order; `None` when it is not sealed or lacks one.
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

/// Something to make durable, answered by [`Event::Stored`] once it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Store {
    BeginStage {
        stage: usize,
    },
    /// What trains, and in which order: the journal's last word on a step, synced. Of a
    /// rejection-sampling stage: 1 for what is kept, none for what is not.
    Seal {
        stage: usize,
        step: u64,
        advantages: Vec<(SampleKey, Option<f32>)>,
    },
    /// `rollouts` become the step's Parquet file before the ledger commits.
    Commit {
        stage: usize,
        step: u64,
        metrics: Metrics,
        rollouts: Vec<ScoredRollout>,
    },
    Checkpoint {
        stage: usize,
        step: u64,
        dir: PathBuf,
        manifest_sha256: String,
    },
    /// A checkpoint that does not restore.
    DropCheckpoint {
        stage: usize,
        step: u64,
    },
    Eval(Box<EvalResult>),
    FinishStage {
        stage: usize,
    },
}

/// How one attempt at a job ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Succeeded {
        model: PathBuf,
    },
    /// Another try cannot help, or is not wanted.
    Failed {
        error: String,
    },
    /// Nothing went wrong: the stage to come reads what one before it kept, so the inputs are
    /// opened anew, and an attempt with the plan made of them goes on. It counts as no restart. So
    /// does what is kept for somebody to review: the inputs are not opened before that.
    Reread,
    /// Something outside of the job is not as it has to be: a file is away, a disk takes nothing.
    /// Nothing that was committed is lost: the job is taken up again when that is mended.
    Away {
        cause: String,
    },
    /// The device cannot be used before somebody mends the machine. Nothing that was committed is
    /// lost: the job goes back to the queue, for another device or this one once it is mended.
    Unusable {
        cause: String,
    },
    /// The worker is to be killed; a fresh one may succeed ([`crate::restart`]).
    Abandoned {
        cause: String,
    },
}
