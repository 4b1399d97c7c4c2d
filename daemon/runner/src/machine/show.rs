//! What people see of an attempt: what it does, and what it waits for and how long.

use super::{Machine, OpenedFor, State};
use crate::message::End;
use crate::pending_checkpoint::PendingCheckpoint;
use crate::plan::Plan;
use crate::record::Record;
use crate::wait::Wait;
use r1d_proto::control::job::Activity;
use std::time::Duration;

/// What begins the report of a rank that waits for others in a collective.
const WAITING_FOR: &str = "waiting for ";

impl Machine {
    pub(super) fn tick(&self, now: Duration) -> Result<(), End> {
        match self.waits().into_iter().find(|wait| wait.is_over(now)) {
            Some(wait) => {
                let waited = now.saturating_sub(wait.since).as_secs();
                let cause = format!(
                    "{} waited {waited} s for {}: past its deadline",
                    wait.owner, wait.waits_for
                );
                Err(if wait.is_workers {
                    End::WorkerFailed { cause }
                } else {
                    End::Abandoned { cause }
                })
            }
            None => Ok(()),
        }
    }

    /// What is awaited, and by which part of the job, outermost first.
    pub fn waits(&self) -> Vec<Wait> {
        let (plan, limits) = (&self.plan, &self.plan.limits);
        let owner = describe(&self.state, plan, &self.record);
        let at_worker = |doing: &str| {
            let what = format!("{}: {doing}", plan.worker);
            vec![
                Wait::new(&owner, what, self.since)
                    .worker_silent(self.heard.worker, limits.worker_silence),
            ]
        };
        let at_store = |what: &str| {
            vec![Wait::new(&owner, what, self.since).silent(self.heard.writer, limits.store)]
        };
        let inner = match &self.state {
            State::StartingWorker => {
                vec![
                    Wait::new(
                        &owner,
                        format!("{}: its first word", plan.worker),
                        self.since,
                    )
                    .of_worker()
                    .until(self.since + limits.worker_start),
                ]
            }
            State::Opening(_) => at_worker("loading"),
            State::Restoring { .. } => at_worker("restoring"),
            State::Rebuilding { rebuild, .. } => rebuild.waits(plan, &owner, self.heard),
            State::Recalling { .. } => {
                vec![
                    Wait::new(&owner, "journal", self.since).silent(self.heard.writer, limits.read),
                ]
            }
            State::Stepping { step, .. } => step.waits(plan, &owner, self.heard),
            State::SyncingReference { .. } => at_worker("copying the policy to the reference"),
            State::Saving { .. } => at_worker("copying the checkpoint"),
            State::AwaitingCheckpoint { .. } => {
                let wait = |pending: &PendingCheckpoint| {
                    pending.wait(&owner, &plan.worker, self.since, limits.worker_silence)
                };
                self.pending.iter().map(wait).collect()
            }
            State::Evaluating { evaluation, .. } => evaluation.waits(plan, &owner, self.heard),
            State::Comparing { separation, .. } => separation.waits(plan, &owner, self.heard),
            State::Exporting => at_worker("exporting"),
            // The writing may take any time, but it is never silent for long.
            State::MakingDataSet(_) => {
                let far = self.progress.as_ref().map_or(String::new(), |at| {
                    format!(" ({} of {} {})", at.done, at.total, at.unit)
                });
                vec![
                    Wait::new(&owner, format!("data set: being written{far}"), self.since)
                        .silent(self.heard.writer, limits.store),
                ]
            }
            State::Committing { .. } => at_store("rollout file and ledger"),
            State::BeginningStage(_)
            | State::DroppingCheckpoint { .. }
            | State::RecordingCheckpoint { .. }
            | State::RecordingEval { .. }
            | State::FinishingStage(_) => at_store("ledger"),
            State::Ended => Vec::new(),
        };
        let outer = inner
            .iter()
            .map(|wait| wait.since)
            .min()
            .map(|since| Wait::new("job", &owner, since.min(self.since)));
        let told = self.wait_of_ranks();
        outer.into_iter().chain(inner).chain(told).collect()
    }

    /// What ranks of the job's gang have said that they wait for, if it was their last word.
    fn wait_of_ranks(&self) -> Option<Wait> {
        let said = self.progress.as_ref().filter(|said| said.total == 0)?;
        let whom = said.doing.strip_prefix(WAITING_FOR)?;
        Some(Wait::new(&self.plan.worker, whom, self.heard.worker))
    }

    /// What the job does now, for status.
    pub fn activity(&self) -> Activity {
        if let (State::AwaitingCheckpoint { .. }, Some(pending)) = (&self.state, &self.pending) {
            return pending.activity();
        }
        let (own, busy) = match &self.state {
            State::Stepping { step, .. } => (step.activity(), step.worker_is_busy()),
            State::Evaluating { evaluation, .. } => {
                (evaluation.activity(), evaluation.worker_is_busy())
            }
            State::Comparing { separation, .. } => {
                (separation.activity(), separation.worker_is_busy())
            }
            State::Rebuilding { rebuild, .. } => (rebuild.activity(), false),
            state => {
                let doing = match state {
                    State::Saving { .. } | State::RecordingCheckpoint { .. } => "checkpointing",
                    State::Exporting => "exporting",
                    State::Committing { .. } | State::SyncingReference { .. } => "training",
                    State::MakingDataSet(_) => "writing the data set",
                    State::FinishingStage(_) | State::RecordingEval { .. } => "recording",
                    _ => "loading",
                };
                (
                    Activity {
                        doing: doing.into(),
                        done: 0,
                        total: 1,
                        unit: "models".into(),
                    },
                    true,
                )
            }
        };
        match &self.progress {
            // The worker's own reports are finer, but it calls evaluating sampling.
            Some(progress) if busy => match own.doing.as_str() {
                "evaluating" => Activity {
                    doing: own.doing,
                    ..progress.clone()
                },
                _ => progress.clone(),
            },
            _ => own,
        }
    }
}

/// The state in words, in which owners of waits and reasons in the log are named.
pub(super) fn describe(state: &State, plan: &Plan, record: &Record) -> String {
    let stage = |index: usize| {
        plan.job
            .stages
            .get(index)
            .map_or("?", |stage| stage.name.as_str())
    };
    let place = |index: usize| {
        let steps = plan.stages.get(index).map_or(0, |facts| facts.steps);
        format!(
            "stage `{}` step {} of {steps}",
            stage(index),
            record.committed(index) + 1
        )
    };
    match state {
        State::StartingWorker => "starting the worker".into(),
        State::Opening(OpenedFor::Stage(index)) => {
            format!("opening the model for stage `{}`", stage(*index))
        }
        State::Opening(OpenedFor::Export) => "opening the last checkpoint".into(),
        State::BeginningStage(index) => format!("beginning stage `{}`", stage(*index)),
        State::Restoring { stage: index, step } => {
            format!(
                "restoring stage `{}` from its checkpoint of step {step}",
                stage(*index)
            )
        }
        State::DroppingCheckpoint { stage: index } => {
            format!("dropping a damaged checkpoint of stage `{}`", stage(*index))
        }
        State::Rebuilding { stage: index, .. } => {
            format!(
                "rebuilding stage `{}` up to its {} committed steps",
                stage(*index),
                record.committed(*index)
            )
        }
        State::Recalling { stage: index } => format!("{}: looking for leftovers", place(*index)),
        State::Stepping { stage: index, .. } => place(*index),
        State::Committing { stage: index, .. } => format!("{}: committing", place(*index)),
        State::SyncingReference { stage: index } => {
            format!("refreshing the reference of stage `{}`", stage(*index))
        }
        State::AwaitingCheckpoint { stage: index } => {
            format!(
                "stage `{}` after {} steps: waiting for the last checkpoint",
                stage(*index),
                record.committed(*index)
            )
        }
        State::Saving { stage: index, step }
        | State::RecordingCheckpoint {
            stage: index, step, ..
        } => {
            format!("checkpoint of stage `{}` after {step} steps", stage(*index))
        }
        State::Evaluating { stage: index, .. }
        | State::Comparing { stage: index, .. }
        | State::RecordingEval { stage: index, .. } => {
            format!(
                "evaluation in stage `{}` after {} steps",
                stage(*index),
                record.committed(*index)
            )
        }
        State::MakingDataSet(index) => format!("making the data set of stage `{}`", stage(*index)),
        State::FinishingStage(index) => format!("finishing stage `{}`", stage(*index)),
        State::Exporting => "exporting the final model".into(),
        State::Ended => "ended".into(),
    }
}
