//! Trains committed steps again, from the weights that were opened or restored to those that the
//! ledger has: the same batches go through the trainer, without sampling, scoring or committing
//! (`STEP-1`).

use crate::batch_step::batch_request;
use crate::flow::unexpected;
use crate::message::{Command, End, Event};
use crate::plan::Plan;
use crate::rollout_step::train_request;
use crate::wait::{LastHeard, Wait};
use r1d_proto::control::job::Activity;
use r1d_proto::worker::{Body, Reply, WorkerRequest};
use std::time::Duration;

/// A rebuild at work: committed steps of one stage that go through the trainer again.
#[derive(Debug)]
pub struct Rebuild {
    stage: usize,
    from: u64,
    /// Number of steps that the weights hold.
    step: u64,
    /// Number of steps that are committed.
    committed: u64,
    phase: RebuildPhase,
    since: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RebuildPhase {
    Reading,
    Training,
    SyncingReference,
}

impl Rebuild {
    /// Begins with the first step that the weights lack; `None` if they hold all committed steps.
    pub fn begin(
        plan: &Plan,
        stage: usize,
        step: u64,
        committed: u64,
        now: Duration,
    ) -> Option<(Rebuild, Vec<Command>)> {
        let mut this = Rebuild {
            stage,
            from: step,
            step,
            committed,
            phase: RebuildPhase::Reading,
            since: now,
        };
        let commands = this.next(plan, now)?;
        Some((this, commands))
    }

    /// Reads the next step; `None` if there is none left.
    fn next(&mut self, plan: &Plan, now: Duration) -> Option<Vec<Command>> {
        (self.phase, self.since) = (RebuildPhase::Reading, now);
        let (stage, step) = (self.stage, self.step);
        let read = if plan.learns_from_rollouts(stage) {
            Command::Recall { stage, step }
        } else {
            Command::ReadBatch { stage, step }
        };
        (step < self.committed).then(|| vec![read])
    }

    fn worker(
        &mut self,
        phase: RebuildPhase,
        request: WorkerRequest,
        now: Duration,
    ) -> Option<Vec<Command>> {
        (self.phase, self.since) = (phase, now);
        Some(vec![Command::Worker(Box::new(request))])
    }

    /// Notes that the weights hold one more step.
    fn rebuilt(&mut self, plan: &Plan, now: Duration) -> Option<Vec<Command>> {
        self.step += 1;
        if plan.syncs_reference(self.stage, self.step) {
            self.worker(
                RebuildPhase::SyncingReference,
                WorkerRequest::SyncReference,
                now,
            )
        } else {
            self.next(plan, now)
        }
    }

    /// Takes an event. Returns the next commands, or `None` when the weights hold all committed
    /// steps.
    pub fn handle(
        &mut self,
        plan: &Plan,
        event: Event,
        now: Duration,
    ) -> Result<Option<Vec<Command>>, End> {
        match (self.phase, event) {
            (RebuildPhase::Reading, Event::Batch(batch)) => {
                let request = batch_request(plan, self.stage, self.step, batch)?;
                Ok(self.worker(RebuildPhase::Training, request, now))
            }
            (RebuildPhase::Reading, Event::Recalled(recalled)) => {
                let records = recalled.into_records().ok_or_else(|| End::Failed {
                    error: format!(
                        "the journal has lost records of step {}, which is committed: resubmit \
                         the job",
                        self.step
                    ),
                })?;
                match train_request(plan, self.stage, self.step, &records) {
                    Some(request) => Ok(self.worker(RebuildPhase::Training, request, now)),
                    None => Ok(self.rebuilt(plan, now)),
                }
            }
            (RebuildPhase::Training, Event::Worker(Body::Done(Reply::Trained { .. }))) => {
                Ok(self.rebuilt(plan, now))
            }
            (RebuildPhase::SyncingReference, Event::Worker(Body::Done(Reply::ReferenceSynced))) => {
                Ok(self.next(plan, now))
            }
            (phase, event) => Err(unexpected(&format!("rebuild {phase:?}"), &event)),
        }
    }

    /// What the rebuild waits for, with deadlines; `owner` waits.
    pub fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
        let limits = &plan.limits;
        let step = self.step + 1;
        vec![match self.phase {
            RebuildPhase::Reading => {
                Wait::new(owner, format!("journal or data of step {step}"), self.since)
                    .silent(heard.writer, limits.read)
            }
            RebuildPhase::Training | RebuildPhase::SyncingReference => {
                let what = format!(
                    "{}: rebuilding step {step} of {}",
                    plan.worker, self.committed
                );
                Wait::new(owner, what, self.since)
                    .worker_silent(heard.worker, limits.worker_silence)
            }
        }]
    }

    /// Progress of the rebuild, in steps.
    pub fn activity(&self) -> Activity {
        let (done, total) = (self.step - self.from, self.committed - self.from);
        Activity {
            doing: "replaying".into(),
            done,
            total,
            unit: "steps".into(),
        }
    }

    /// Whether the worker has a request of this rebuild.
    pub fn worker_is_busy(&self) -> bool {
        self.phase != RebuildPhase::Reading
    }
}
