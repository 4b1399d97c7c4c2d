//! One step of a stage, of either kind, as the job's machine sees it.

use crate::judge_queue::JudgeModels;
use crate::message::{Batch, Command, End, Event, Recalled};
use crate::plan::Plan;
use crate::rollout_step::RolloutStep;
use crate::wait::{LastHeard, Wait};
use r1d_job::{RewardLoss, StageKind};
use r1d_proto::control::Activity;
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::worker::{
    Body, Metrics, Reply, RewardBatch, Supervise, TrainDpo, TrainReward, WorkerRequest,
};
use std::fmt::Write;
use std::time::Duration;

/// Number of characters of an unexpected event that an error shows.
const EVENT_SHOWN_MAX_CHARS: usize = 120;

/// What follows from an event in a step.
#[derive(Debug)]
pub enum Flow {
    /// The step goes on with these commands.
    Go(Vec<Command>),
    /// The step is done and can be committed; if it trains, the worker's weights hold the update.
    Done {
        /// Metrics of the step, by name.
        metrics: Metrics,
        /// Tokens sampled or trained on.
        tokens: u64,
        /// The step's completions; empty for a step on rows.
        rollouts: Vec<ScoredRollout>,
    },
}

/// A step at work, of either kind.
#[derive(Debug)]
pub enum Step {
    /// A step that samples.
    Rollout(Box<RolloutStep>),
    /// A step that learns from rows.
    Batch(BatchStep),
}

/// The end of an attempt whose state has no place for an event: the attempt is given up, and the
/// next one continues from the record.
pub fn unexpected(state: &str, event: &Event) -> End {
    // The debug format may have gigabytes of completions; only the part that is shown is made.
    let mut beginning = Beginning(String::new());
    let _ = write!(beginning, "{event:?}");
    End::Abandoned {
        cause: format!(
            "an event that nobody waits for in state {state}: {}",
            beginning.0
        ),
    }
}

/// A writer that takes the first characters of a text, and refuses the rest.
struct Beginning(String);

impl Write for Beginning {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let room = EVENT_SHOWN_MAX_CHARS - self.0.chars().count().min(EVENT_SHOWN_MAX_CHARS);
        self.0.extend(text.chars().take(room));
        if text.chars().nth(room).is_some() {
            Err(std::fmt::Error)
        } else {
            Ok(())
        }
    }
}

/// The request for the update of a step on rows.
pub fn batch_request(
    plan: &Plan,
    stage: usize,
    step: u64,
    batch: Batch,
) -> Result<WorkerRequest, End> {
    match (plan.stage(stage).map(|(settings, _)| &settings.kind), batch) {
        (Some(StageKind::Pretrain(_) | StageKind::Sft(_)), Batch::Sequences(sequences)) => {
            Ok(WorkerRequest::Supervise(Supervise { step, sequences }))
        }
        (Some(StageKind::Dpo(dpo)), Batch::Pairs(pairs)) => Ok(WorkerRequest::TrainDpo(TrainDpo {
            step,
            objective: dpo.objective(),
            pairs,
        })),
        (Some(StageKind::RewardModel(reward_model)), batch) => {
            let batch = match (reward_model.loss, batch) {
                (RewardLoss::Pairwise, Batch::Pairs(pairs)) => RewardBatch::Pairs {
                    pairs,
                    center_rewards_coefficient: reward_model.center_rewards_coefficient,
                },
                (RewardLoss::Pointwise, Batch::Labelled(texts)) => RewardBatch::Labelled(texts),
                _ => {
                    return Err(End::Failed {
                        error: format!("stage {stage} was given rows of another kind"),
                    });
                }
            };
            Ok(WorkerRequest::TrainReward(TrainReward { step, batch }))
        }
        _ => Err(End::Failed {
            error: format!("stage {stage} was given rows of another kind"),
        }),
    }
}

impl Step {
    /// Begins a step of a stage. `recalled` is what an earlier attempt left of it in the journal;
    /// `models` answer the questions of judged rewards.
    pub fn begin(
        plan: &Plan,
        stage: usize,
        step: u64,
        recalled: Recalled,
        models: JudgeModels,
        now: Duration,
    ) -> (Step, Vec<Command>) {
        match plan.rollouts(stage) {
            Some((rollouts, _)) => {
                let (begun, commands) =
                    RolloutStep::begin(plan, rollouts, stage, step, recalled, models, now);
                (Step::Rollout(Box::new(begun)), commands)
            }
            None => {
                let begun = BatchStep {
                    stage,
                    step,
                    since: now,
                    started: now,
                    tokens: None,
                    rows: 0,
                };
                (Step::Batch(begun), vec![Command::ReadBatch { stage, step }])
            }
        }
    }

    /// Takes an event, and returns what follows from it.
    pub fn handle(
        &mut self,
        plan: &Plan,
        stage: usize,
        event: Event,
        now: Duration,
    ) -> Result<Flow, End> {
        match (self, plan.rollouts(stage)) {
            (Step::Rollout(step), Some((rollouts, _))) => step.handle(plan, rollouts, event, now),
            (Step::Batch(step), None) => step.handle(plan, event, now),
            _ => Err(End::Failed {
                error: format!("stage {stage} is of another kind than its step"),
            }),
        }
    }

    /// Notes that the job's rewards make progress or wait for their turn, so that the deadline of
    /// the next verdict begins at `now`.
    pub fn judging(&mut self, now: Duration) {
        if let Step::Rollout(step) = self {
            step.judging(now);
        }
    }

    /// Ends a step that needs no event to be done.
    pub fn finished_at_once(&mut self, plan: &Plan, now: Duration) -> Option<Flow> {
        match self {
            Step::Rollout(step) => step.finished_at_once(plan, now),
            Step::Batch(_) => None,
        }
    }

    /// What the step waits for, with deadlines; `owner` waits.
    pub fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
        match self {
            Step::Rollout(step) => step.waits(plan, owner, heard),
            Step::Batch(step) => step.waits(plan, owner, heard),
        }
    }

    /// What the step does, for status.
    pub fn activity(&self) -> Activity {
        match self {
            Step::Rollout(step) => step.activity(),
            Step::Batch(step) => Activity {
                doing: "training".into(),
                done: 0,
                total: step.rows,
                unit: "rows".into(),
            },
        }
    }

    /// The judge or reward model whose questions the worker is answering, in words for an error;
    /// `None` if it is not answering any.
    pub fn asked(&self) -> Option<String> {
        match self {
            Step::Rollout(step) => step.asked(),
            Step::Batch(_) => None,
        }
    }

    /// Whether the worker has a request of this step.
    pub fn worker_is_busy(&self) -> bool {
        match self {
            Step::Rollout(step) => step.worker_is_busy(),
            Step::Batch(step) => step.tokens.is_some(),
        }
    }
}

/// A step of a stage that learns from rows: batch → update.
#[derive(Debug)]
pub struct BatchStep {
    stage: usize,
    step: u64,
    since: Duration,
    started: Duration,
    /// Tokens of the batch; `None` until the worker has it.
    tokens: Option<u64>,
    rows: u64,
}

impl BatchStep {
    fn handle(&mut self, plan: &Plan, event: Event, now: Duration) -> Result<Flow, End> {
        match (self.tokens, event) {
            (None, Event::Batch(batch)) => {
                self.tokens = Some(batch.tokens());
                (self.since, self.rows) = (now, batch.rows());
                Ok(Flow::Go(vec![Command::Worker(Box::new(batch_request(
                    plan, self.stage, self.step, batch,
                )?))]))
            }
            (Some(tokens), Event::Worker(Body::Done(Reply::Trained { mut metrics }))) => {
                metrics.insert(
                    "timing_s/training".into(),
                    now.saturating_sub(self.since).as_secs_f64(),
                );
                let seconds = now.saturating_sub(self.started).as_secs_f64();
                crate::metrics::step_time(&mut metrics, tokens, seconds);
                Ok(Flow::Done {
                    metrics,
                    tokens,
                    rollouts: Vec::new(),
                })
            }
            (_, event) => Err(unexpected("a step on rows", &event)),
        }
    }

    fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
        vec![match self.tokens {
            None => {
                Wait::new(owner, "data: batch", self.since).silent(heard.writer, plan.limits.read)
            }
            Some(_) => {
                let what = format!("{}: training on {} rows", plan.worker, self.rows);
                Wait::new(owner, what, self.since)
                    .worker_silent(heard.worker, plan.limits.worker_silence)
            }
        }]
    }
}
