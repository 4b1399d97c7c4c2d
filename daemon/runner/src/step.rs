//! One step of a stage, of either kind: what the job's machine sees of it.

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

/// Of an event that has no place, as an error shows it.
const EVENT_SHOWN_MAX_CHARS: usize = 120;

/// Where an event has brought a step.
#[derive(Debug)]
pub enum Flow {
    Go(Vec<Command>),
    /// The update is in the worker's weights, and the step is to be committed.
    Done {
        metrics: Metrics,
        tokens: u64,
        rollouts: Vec<ScoredRollout>,
    },
}

#[derive(Debug)]
pub enum Step {
    Rollout(Box<RolloutStep>),
    Batch(BatchStep),
}

/// An event that the state has no place for: the attempt is given up, the record decides how it
/// goes on.
pub fn unexpected(state: &str, event: &Event) -> End {
    // Of its debug format, which may be gigabytes of completions, no more is made than is shown.
    let mut beginning = Beginning(String::new());
    let _ = write!(beginning, "{event:?}");
    End::Abandoned {
        cause: format!(
            "an event that nobody waits for in state {state}: {}",
            beginning.0
        ),
    }
}

/// Takes the first characters of a text, and refuses the rest.
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

/// The update that a step on rows makes.
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
            objective: dpo.objective.clone(),
            pairs,
        })),
        (Some(StageKind::RewardModel(reward_model)), batch) => {
            let batch = match (reward_model.loss, batch) {
                (
                    RewardLoss::Pairwise {
                        center_rewards_coefficient,
                    },
                    Batch::Pairs(pairs),
                ) => RewardBatch::Pairs {
                    pairs,
                    center_rewards_coefficient,
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

    /// Verdicts that are awaited have their turn to come.
    pub fn judging(&mut self, now: Duration) {
        if let Step::Rollout(step) = self {
            step.judging(now);
        }
    }

    /// A step that needs no event to be done.
    pub fn finished_at_once(&mut self, plan: &Plan, now: Duration) -> Option<Flow> {
        match self {
            Step::Rollout(step) => step.finished_at_once(plan, now),
            Step::Batch(_) => None,
        }
    }

    pub fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
        match self {
            Step::Rollout(step) => step.waits(plan, owner, heard),
            Step::Batch(step) => step.waits(plan, owner, heard),
        }
    }

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

    /// Whom the worker is asked for, if anybody.
    pub fn asked(&self) -> Option<String> {
        match self {
            Step::Rollout(step) => step.asked(),
            Step::Batch(_) => None,
        }
    }

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
    /// Of the batch, once it is with the worker.
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
                metrics.insert(
                    "step_time".into(),
                    now.saturating_sub(self.started).as_secs_f64(),
                );
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
                Wait::new(owner, what, self.since).silent(heard.worker, plan.limits.worker_silence)
            }
        }]
    }
}
