//! A job's status, from its record and what its run does now. The controller answers clients with
//! it, and the node leaves it in the job's directory for readers without a daemon.

use crate::report::JobSnapshot;
use r1d_job::stage::Length;
use r1d_job::{Job, Stage};
use r1d_ledger::{JobRecord, StageRecord, State as LedgerState};
use r1d_proto::control::job::{EvalResult, JobStatus, Pause, StageStatus, State};
use r1d_proto::ids::JobId;
use r1d_store::JobLayout;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Jobs whose outlines are kept (`LIM-1`).
const OUTLINES_MAX: usize = 256;

/// The outlines of job files that statuses show. They are kept, because a watched job is shown ten
/// times a second.
#[derive(Clone, Default)]
pub struct Outlines(Arc<Mutex<HashMap<JobId, Arc<Vec<StageOutline>>>>>);

struct StageOutline {
    name: String,
    kind: &'static str,
    model: Option<String>,
    /// 0 if the number depends on the data.
    steps: u64,
}

impl Outlines {
    /// The stages of a job in their order; empty if the job file does not parse.
    fn of(&self, record: &JobRecord) -> Arc<Vec<StageOutline>> {
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(record.job()) {
            return known.clone();
        }
        let job = Job::parse(&record.submission.job_toml, Path::new("/"));
        let outline = |stage: &Stage| StageOutline {
            name: stage.name.clone(),
            kind: stage.kind_name(),
            model: stage.model.clone(),
            steps: steps_of_file(stage),
        };
        let outlines: Arc<Vec<_>> = Arc::new(
            job.iter()
                .flat_map(|job| &job.stages)
                .map(outline)
                .collect(),
        );
        let mut known = lock();
        if known.len() >= OUTLINES_MAX {
            known.clear();
        }
        known.insert(record.job().clone(), outlines.clone());
        outlines
    }
}

/// A job as its status shows it.
pub struct Shown<'a> {
    /// Its record.
    pub record: &'a JobRecord,
    /// What its run does now; `None` if none has it in hand.
    pub live: Option<&'a JobSnapshot>,
    /// All jobs, for its place in the queue.
    pub ledger: &'a LedgerState,
    /// The time, in seconds since the Unix epoch.
    pub now_s: u64,
}

/// Whether a paused job still has its device, for the step in flight.
pub fn is_pausing(record: &JobRecord, live: Option<&JobSnapshot>) -> bool {
    record.state() == State::Paused && live.is_some_and(|live| live.is_stopping)
}

/// The state that people see: that of the record, unless the ledger could not record the end.
pub fn state(record: &JobRecord, live: Option<&JobSnapshot>) -> State {
    match live.and_then(|live| live.failed.as_ref()) {
        Some(_) => State::Failed,
        None => record.state(),
    }
}

/// Why a job failed; `None` of other jobs.
pub fn error(record: &JobRecord, live: Option<&JobSnapshot>) -> Option<String> {
    let failed = live.and_then(|live| live.failed.clone());
    failed.or_else(|| record.progress.error.clone())
}

impl Outlines {
    /// The status of a job of the node with this state directory.
    pub fn status(&self, shown: &Shown<'_>, state_dir: &Path) -> JobStatus {
        let Shown { record, live, .. } = *shown;
        let place = |record: &JobRecord| {
            let mut queued = shown.ledger.queued();
            queued.position(|other| other.job() == record.job())
        };
        let position = (record.state() == State::Queued)
            .then(|| place(record))
            .flatten();
        JobStatus {
            job: record.job().clone(),
            name: record.submission.name.clone(),
            state: state(record, live),
            pausing: is_pausing(record, live),
            priority: record.submission.priority,
            submitted_at: record.submission.submitted_at,
            owner: record.owner.as_ref().map(|owner| owner.name.clone()),
            pause: record.standing.pause.as_ref().map(|pause| Pause {
                by: pause.by.as_ref().map(|user| user.name.clone()),
                at: pause.at,
            }),
            started_at: record.progress.started_at,
            ended_at: record.progress.ended_at,
            queue_position: position.map(|position| position as u32 + 1),
            stages: self.stages(shown),
            evals: (record.evals.iter())
                .map(|eval| EvalResult::clone(eval))
                .collect(),
            directory: JobLayout::of(state_dir, record.job()).dir,
            model: record.progress.model.clone(),
            error: error(record, live),
            restarts: record.restarts(),
            eta_s: live.and_then(|live| live.eta_s),
            activity: live.and_then(|live| live.activity.clone()),
            ranks: live.map_or_else(Vec::new, |live| live.ranks.clone()),
        }
    }

    fn stages(&self, shown: &Shown<'_>) -> Vec<StageStatus> {
        let record = shown.record;
        let outlines = self.of(record);
        let model = |name: &str| {
            let stage = outlines.iter().find(|stage| stage.name == name);
            stage.and_then(|stage| stage.model.clone())
        };
        let begun = (record.progress.stages.iter().zip(0..)).map(|(stage, index)| StageStatus {
            reused_from: record.reuse.taken.get(&index).cloned(),
            model: model(&stage.name),
            ..begun(record, stage, shown.now_s)
        });
        let steps = |index: usize, stage: &StageOutline| {
            let planned = shown.live.and_then(|live| live.steps.get(index));
            planned.copied().unwrap_or(stage.steps)
        };
        let to_come = (outlines.iter().enumerate()).skip(record.progress.stages.len());
        let to_come = to_come.map(|(index, stage)| StageStatus {
            reused_from: None,
            name: stage.name.clone(),
            kind: stage.kind.into(),
            model: stage.model.clone(),
            // A stage that never began did not fail.
            state: if record.state().is_final() {
                State::Cancelled
            } else {
                State::Queued
            },
            step: 0,
            steps: steps(index, stage),
            durable_step: 0,
            metrics: Default::default(),
            seconds: 0.0,
        });
        begun.chain(to_come).collect()
    }
}

/// The status of a stage that has begun, as far as the record tells.
fn begun(record: &JobRecord, stage: &StageRecord, now_s: u64) -> StageStatus {
    StageStatus {
        reused_from: None,
        name: stage.name.clone(),
        kind: stage.kind.clone(),
        model: None,
        state: match (stage.state, record.state()) {
            (State::Running, waiting @ (State::Queued | State::Paused)) => waiting,
            (state, _) => state,
        },
        step: stage.step,
        steps: stage.steps,
        durable_step: durable_step(stage),
        metrics: stage.metrics.clone(),
        seconds: stage
            .ended_at
            .unwrap_or(now_s)
            .saturating_sub(stage.begun_at) as f64,
    }
}

/// The steps from which a stage goes on after a crash.
pub fn durable_step(stage: &StageRecord) -> u64 {
    // What rejection sampling has committed is durable: it has no weights to save.
    if stage.kind == "rejection-sampling" {
        stage.step
    } else {
        stage.durable_step()
    }
}

/// The steps that the job file itself gives; 0 for a number of epochs, which needs the data.
fn steps_of_file(stage: &Stage) -> u64 {
    match stage.length {
        Length::Steps(steps) => steps,
        Length::Epochs(_) => 0,
    }
}
