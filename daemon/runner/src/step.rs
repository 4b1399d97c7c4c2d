//! One step of a stage, of either kind: what the job's machine sees of it.

use crate::message::{Command, End, Event, Recalled};
use crate::metrics;
use crate::plan::Plan;
use crate::rollout_step::RolloutStep;
use crate::wait::Wait;
use r1d_proto::control::Activity;
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::worker::{Body, Metrics, Reply, Request, Supervise, SupervisedSequence};
use std::time::Duration;

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
    Supervised(SupervisedStep),
}

/// An event that the state has no place for: the attempt is given up, the record decides how it goes on.
pub fn unexpected(state: &str, event: &Event) -> End {
    let event = format!("{event:?}");
    let end = event.char_indices().nth(120).map_or(event.len(), |(at, _)| at);
    End::Abandoned { cause: format!("an event that nobody waits for in state {state}: {}", &event[..end]) }
}

pub fn supervise_request(step: u64, sequences: Vec<SupervisedSequence>) -> Request {
    Request::Supervise(Supervise { step, sequences })
}

impl Step {
    pub fn begin(plan: &Plan, stage: usize, step: u64, recalled: Recalled, now: Duration) -> (Step, Vec<Command>) {
        match plan.rollouts(stage) {
            Some((rollouts, _)) => {
                let (begun, commands) = RolloutStep::begin(plan, rollouts, stage, step, recalled, now);
                (Step::Rollout(Box::new(begun)), commands)
            }
            None => {
                let begun = SupervisedStep { step, since: now, started: now, tokens: None, sequences: 0 };
                (Step::Supervised(begun), vec![Command::ReadBatch { stage, step }])
            }
        }
    }

    pub fn handle(&mut self, plan: &Plan, stage: usize, event: Event, now: Duration) -> Result<Flow, End> {
        match (self, plan.rollouts(stage)) {
            (Step::Rollout(step), Some((rollouts, _))) => step.handle(plan, rollouts, event, now),
            (Step::Supervised(step), None) => step.handle(event, now),
            _ => Err(End::Failed { error: format!("stage {stage} is of another kind than its step") }),
        }
    }

    /// A step that needs no event to be done.
    pub fn finished_at_once(&mut self, plan: &Plan, now: Duration) -> Option<Flow> {
        match self {
            Step::Rollout(step) => step.finished_at_once(plan, now),
            Step::Supervised(_) => None,
        }
    }

    pub fn waits(&self, plan: &Plan, owner: &str, heard: Duration) -> Vec<Wait> {
        match self {
            Step::Rollout(step) => step.waits(plan, owner, heard),
            Step::Supervised(step) => step.waits(plan, owner, heard),
        }
    }

    pub fn activity(&self) -> Activity {
        match self {
            Step::Rollout(step) => step.activity(),
            Step::Supervised(step) => {
                Activity { doing: "training".into(), done: 0, total: step.sequences, unit: "sequences".into() }
            }
        }
    }

    pub fn worker_is_busy(&self) -> bool {
        match self {
            Step::Rollout(step) => step.worker_is_busy(),
            Step::Supervised(step) => step.tokens.is_some(),
        }
    }
}

/// A step of pretrain or sft: batch → update.
#[derive(Debug)]
pub struct SupervisedStep {
    step: u64,
    since: Duration,
    started: Duration,
    /// Of the batch, once it is with the worker.
    tokens: Option<u64>,
    sequences: u64,
}

impl SupervisedStep {
    fn handle(&mut self, event: Event, now: Duration) -> Result<Flow, End> {
        match (self.tokens, event) {
            (None, Event::Batch(sequences)) => {
                self.tokens = Some(metrics::tokens_of_batch(&sequences));
                (self.since, self.sequences) = (now, sequences.len() as u64);
                Ok(Flow::Go(vec![Command::Worker(Box::new(supervise_request(self.step, sequences)))]))
            }
            (Some(tokens), Event::Worker(Body::Done(Reply::Trained { mut metrics }))) => {
                metrics.insert("timing_s/training".into(), now.saturating_sub(self.since).as_secs_f64());
                metrics.insert("step_time".into(), now.saturating_sub(self.started).as_secs_f64());
                Ok(Flow::Done { metrics, tokens, rollouts: Vec::new() })
            }
            (_, event) => Err(unexpected("Supervised", &event)),
        }
    }

    fn waits(&self, plan: &Plan, owner: &str, heard: Duration) -> Vec<Wait> {
        vec![match self.tokens {
            None => Wait::new(owner, "data: batch", self.since).until(self.since + plan.limits.read),
            Some(_) => {
                let what = format!("{}: training on {} sequences", plan.worker, self.sequences);
                Wait::new(owner, what, self.since).until(heard + plan.limits.worker_silence)
            }
        }]
    }
}
