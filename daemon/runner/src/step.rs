//! One step of a stage, of either kind, as the job's machine sees it.

use crate::batch_step::BatchStep;
use crate::flow::Flow;
use crate::judge_queue::JudgeModels;
use crate::message::{Command, End, Event, Recalled};
use crate::plan::Plan;
use crate::rollout_step::RolloutStep;
use crate::wait::{LastHeard, Wait};
use r1d_proto::control::job::Activity;
use std::time::Duration;

/// A step at work, of either kind.
#[derive(Debug)]
pub enum Step {
    /// A step that samples.
    Rollout(Box<RolloutStep>),
    /// A step that learns from rows.
    Batch(BatchStep),
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
                let (begun, commands) = BatchStep::begin(stage, step, now);
                (Step::Batch(begun), commands)
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
            Step::Batch(step) => step.activity(),
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
            Step::Batch(step) => step.worker_is_busy(),
        }
    }
}
