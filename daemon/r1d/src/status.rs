//! Jobs as `r1ctl` shows them, from the ledger's record and the live status.

use crate::job_sets::Ingest;
use crate::live_status::{JobSnapshot, LiveStatus};
use crate::outputs;
use crate::review;
use crate::reward_versions::OpenJobs;
use r1d_job::stage::Length;
use r1d_job::{Job, Stage};
use r1d_ledger::{JobRecord, Session};
use r1d_proto::control::{
    Activity, EvalResult, JobStatus, JobSummary, Pause, StageStatus, State, Wait, Why,
};
use r1d_proto::ids::JobId;
use r1d_proto::world::SharedClock;
use r1d_store::JobLayout;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// Jobs whose outlines are kept (`LIM-1`).
const OUTLINES_MAX: usize = 256;

/// Most jobs that one wait names.
const NAMED_MAX: usize = 10;

/// The outlines of job files that statuses show. They are kept, because a watched job is shown ten
/// times a second.
#[derive(Clone, Default)]
pub(crate) struct Outlines(Arc<Mutex<HashMap<JobId, Arc<Vec<StageOutline>>>>>);

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

/// Everything that a status is made of.
#[derive(Clone)]
pub(crate) struct JobViews {
    pub ledger: Arc<Session>,
    pub live_status: LiveStatus,
    pub clock: SharedClock,
    pub state_dir: PathBuf,
    pub open_jobs: OpenJobs,
    pub ingest: Ingest,
    pub outlines: Outlines,
    /// What settings decide of how workers compute: a part of each stage's key ([`crate::reuse`]).
    pub kernels: Arc<str>,
    /// Held while a review replaces a data set, and while a stage begins to read one
    /// ([`crate::review`]).
    pub reviews: Arc<Mutex<()>>,
    /// Held, alone, while it is decided which jobs go and they are taken off the record; shared,
    /// while a job is queued that may need others ([`crate::removal`]).
    pub removing: Arc<RwLock<()>>,
}

/// The steps that the job file itself gives; 0 for a number of epochs, which needs the data.
fn steps_of_file(stage: &Stage) -> u64 {
    match stage.length {
        Length::Steps(steps) => steps,
        Length::Epochs(_) => 0,
    }
}

/// Names the first few, and counts the others; `None` if there are none.
fn some_of<'a>(mut names: impl Iterator<Item = &'a str>) -> Option<String> {
    let first: Vec<&str> = names.by_ref().take(NAMED_MAX).collect();
    match (first.join(", "), names.count()) {
        (named, _) if named.is_empty() => None,
        (named, 0) => Some(named),
        (named, others) => Some(format!("{named} and {others} more")),
    }
}

fn state(record: &JobRecord, live: Option<&JobSnapshot>) -> State {
    match live.and_then(|live| live.failed.as_ref()) {
        Some(_) => State::Failed,
        None => record.state(),
    }
}

impl JobViews {
    pub(crate) fn summary(&self, record: &JobRecord) -> JobSummary {
        let stage = record.progress.stages.last();
        JobSummary {
            job: record.job().clone(),
            name: record.submission.name.clone(),
            state: if self.live_status.has_failed(record.job()) {
                State::Failed
            } else {
                record.state()
            },
            priority: record.submission.priority,
            stage: stage.map(|stage| stage.name.clone()),
            step: stage.map_or(0, |stage| stage.step),
            steps: stage.map_or(0, |stage| stage.steps),
            submitted_at: record.submission.submitted_at,
            owner: record.owner.as_ref().map(|owner| owner.name.clone()),
        }
    }

    /// Running jobs, then the queue in its order, paused jobs, and ended jobs, newest first.
    pub(crate) fn summaries(&self) -> Vec<JobSummary> {
        let state = self.ledger.state();
        let (running, jobs) = (state.running(), state.jobs());
        let paused = jobs.iter().filter(|record| record.state() == State::Paused);
        let ended = jobs.iter().filter(|record| record.state().is_final());
        let mut ended: Vec<_> = ended.collect();
        ended.sort_by_key(|record| std::cmp::Reverse(record.progress.ended_at));
        let records = running
            .iter()
            .chain(state.queued())
            .chain(paused)
            .chain(ended);
        records.map(|record| self.summary(record)).collect()
    }

    pub(crate) fn status(&self, record: &JobRecord) -> JobStatus {
        let live = self.live_status.live(record.job());
        let now = self.ledger.state();
        let place = |record: &JobRecord| now.queued().position(|other| other.job() == record.job());
        let position = (record.state() == State::Queued)
            .then(|| place(record))
            .flatten();
        JobStatus {
            job: record.job().clone(),
            name: record.submission.name.clone(),
            state: state(record, live.as_ref()),
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
            stages: self.stages(record, live.as_ref()),
            evals: (record.evals.iter())
                .map(|eval| EvalResult::clone(eval))
                .collect(),
            directory: JobLayout::of(&self.state_dir, record.job()).dir,
            model: record.progress.model.clone(),
            error: live
                .as_ref()
                .and_then(|live| live.failed.clone())
                .or_else(|| record.progress.error.clone()),
            restarts: record.restarts(),
            eta_s: live.as_ref().and_then(|live| live.eta_s),
            activity: live.and_then(|live| live.activity),
        }
    }

    /// Writes the job's status into its directory. If there is no room, only the log says so: the
    /// next status may find some. Blocks.
    pub(crate) fn leave_status(&self, job: &JobId, outputs: &JobLayout) {
        let Some(record) = self.ledger.job(job) else {
            return;
        };
        if let Err(error) = outputs::write_status(outputs, &self.status(&record)) {
            tracing::warn!(%job, "its status is not in its directory: {error}");
        }
    }

    fn stages(&self, record: &JobRecord, live: Option<&JobSnapshot>) -> Vec<StageStatus> {
        let outlines = self.outlines.of(record);
        let model = |name: &str| {
            outlines
                .iter()
                .find(|stage| stage.name == name)
                .and_then(|stage| stage.model.clone())
        };
        let now = self.clock.unix().as_secs();
        let begun = record
            .progress
            .stages
            .iter()
            .zip(0..)
            .map(|(stage, index)| StageStatus {
                reused_from: record.reuse.taken.get(&index).cloned(),
                name: stage.name.clone(),
                kind: stage.kind.clone(),
                model: model(&stage.name),
                state: match (stage.state, record.state()) {
                    (State::Running, waiting @ (State::Queued | State::Paused)) => waiting,
                    (state, _) => state,
                },
                step: stage.step,
                steps: stage.steps,
                // What rejection sampling has committed is durable: it has no weights to save.
                durable_step: if stage.kind == "rejection-sampling" {
                    stage.step
                } else {
                    stage.durable_step()
                },
                metrics: stage.metrics.clone(),
                seconds: stage.ended_at.unwrap_or(now).saturating_sub(stage.begun_at) as f64,
            });
        let steps = |index: usize, stage: &StageOutline| {
            live.and_then(|live| live.steps.get(index))
                .copied()
                .unwrap_or(stage.steps)
        };
        let to_come = outlines
            .iter()
            .enumerate()
            .skip(record.progress.stages.len());
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

    pub(crate) fn why(&self, record: &JobRecord) -> Why {
        let live = self.live_status.live(record.job());
        let now = self.clock.now();
        let waits = match (record.state(), &live) {
            // From the reading of its files on, a run has the queued job in hand.
            (State::Queued | State::Running, Some(live)) => {
                live.waits.iter().map(|wait| wait.shown(now)).collect()
            }
            (State::Queued, None) => self.why_queued(record),
            (State::Paused, live) => {
                let live = live.iter().flat_map(|live| &live.waits);
                let at_work = live.map(|wait| wait.shown(now));
                std::iter::once(self.wait_for_user(record))
                    .chain(at_work)
                    .collect()
            }
            // No run has the job in hand: the daemon has just started, or no device is free.
            (State::Running, None) => vec![self.wait_to_go_on(record)],
            _ => Vec::new(),
        };
        Why {
            job: record.job().clone(),
            state: state(record, live.as_ref()),
            waits,
        }
    }

    fn why_queued(&self, record: &JobRecord) -> Vec<Wait> {
        let since_s = self
            .clock
            .unix()
            .as_secs()
            .saturating_sub(record.submission.submitted_at) as f64;
        let state = self.ledger.state();
        let before = (state.queued())
            .take_while(|other| other.job() != record.job())
            .map(|other| other.job().0.as_str());
        let wait = self.wait_for_device(since_s);
        match some_of(before) {
            None => vec![wait],
            Some(before) => vec![Wait {
                waits_for: format!(
                    "the jobs before it in the queue ({before}), and {}",
                    wait.waits_for
                ),
                ..wait
            }],
        }
    }

    /// A paused job's wait for a user.
    fn wait_for_user(&self, record: &JobRecord) -> Wait {
        let pause = record.standing.pause.as_ref();
        let by = pause
            .and_then(|pause| pause.by.as_ref())
            .map_or("a user", |user| &user.name);
        let since = pause.map_or(0, |pause| pause.at);
        Wait {
            owner: "job".into(),
            waits_for: format!(
                "a user: it was paused by {by}, `r1ctl resume {}` lets it go on",
                record.job()
            ),
            since_s: self.clock.unix().as_secs().saturating_sub(since) as f64,
            deadline_s: None,
        }
    }

    fn wait_to_go_on(&self, record: &JobRecord) -> Wait {
        let job = Job::parse(&record.submission.job_toml, Path::new("/")).ok();
        let dir = JobLayout::of(&self.state_dir, record.job()).datasets();
        let awaited = job.and_then(|job| review::awaited(record, &job, &dir).ok().flatten());
        let device = self.wait_for_device(0.0);
        match awaited {
            Some((stage, rows)) => Wait {
                waits_for: review::wanted(record.job(), &stage, rows),
                ..device
            },
            None => device,
        }
    }

    fn wait_for_device(&self, since_s: f64) -> Wait {
        Wait {
            owner: "job".into(),
            waits_for: self.free_device(),
            since_s,
            deadline_s: None,
        }
    }

    /// Describes the wait of a job that only lacks a device: all devices and what occupies them.
    pub(crate) fn free_device(&self) -> String {
        let devices: Vec<String> = (self.live_status.devices().into_iter())
            .map(|device| match (device.problem, device.job) {
                (Some(problem), _) => format!("{} ({}: {problem})", device.device, device.state),
                (None, Some(job)) => format!("{} (busy with job {job})", device.device),
                (None, None) => format!("{} ({})", device.device, device.state),
            })
            .collect();
        format!("a free device: {}", devices.join(", "))
    }
}

/// The activity of a job between two attempts.
pub(crate) fn idle(doing: &str) -> Activity {
    Activity {
        doing: doing.into(),
        done: 0,
        total: 1,
        unit: "attempts".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::some_of;

    #[test]
    fn a_long_queue_is_named_in_part() {
        assert_eq!(some_of([].into_iter()), None);
        assert_eq!(some_of(["a", "b"].into_iter()).as_deref(), Some("a, b"));
        let many = some_of(["j"; 10_000].into_iter()).unwrap();
        assert!(
            many.len() < 100 && many.ends_with("j and 9990 more"),
            "{many}"
        );
    }
}
