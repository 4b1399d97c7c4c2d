//! One step of a stage that learns from rows: batch → update.

use crate::flow::{Flow, unexpected};
use crate::message::{Batch, Command, End, Event};
use crate::plan::Plan;
use crate::wait::{LastHeard, Wait};
use r1d_job::{RewardLoss, StageKind};
use r1d_proto::control::job::Activity;
use r1d_proto::worker::{
    Body, Reply, RewardBatch, Supervise, TrainDpo, TrainReward, WorkerRequest,
};
use std::time::Duration;

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

impl BatchStep {
    /// Begins the step: its rows are to be read.
    pub(crate) fn begin(stage: usize, step: u64, now: Duration) -> (BatchStep, Vec<Command>) {
        let begun = BatchStep {
            stage,
            step,
            since: now,
            started: now,
            tokens: None,
            rows: 0,
        };
        (begun, vec![Command::ReadBatch { stage, step }])
    }

    /// Takes an event, and returns what follows from it.
    pub(crate) fn handle(&mut self, plan: &Plan, event: Event, now: Duration) -> Result<Flow, End> {
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

    /// What the step waits for, with deadlines; `owner` waits.
    pub(crate) fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
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

    /// What the step does, for status.
    pub(crate) fn activity(&self) -> Activity {
        Activity {
            doing: "training".into(),
            done: 0,
            total: self.rows,
            unit: "rows".into(),
        }
    }

    /// Whether the worker has the step's request.
    pub(crate) fn worker_is_busy(&self) -> bool {
        self.tokens.is_some()
    }
}
