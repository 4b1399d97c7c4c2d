//! What the running jobs and the devices do now: written by the actors, read for clients. Nothing
//! here is needed to go on after a crash.

use r1d_ledger::Changes;
use r1d_proto::control::{Activity, DeviceStatus};
use r1d_proto::ids::JobId;
use r1d_runner::schedule::Problem;
use r1d_runner::wait::Wait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// The state of a device that the daemon has not looked at yet.
const UNTRIED: &str = "starting";

/// A job as its runner last reported it.
#[derive(Clone, Debug, Default)]
pub(crate) struct JobSnapshot {
    pub activity: Option<Activity>,
    pub waits: Vec<Wait>,
    pub eta_s: Option<f64>,
    /// Steps of every stage, from the plan.
    pub steps: Vec<u64>,
    /// The job's error, if the ledger could not record it (a full disk).
    pub failed: Option<String>,
}

impl JobSnapshot {
    /// Whether a job's status shows the same of both; only [`crate::status::JobViews::why`] shows
    /// its waits.
    fn is_shown_as(&self, other: &JobSnapshot) -> bool {
        let shown = |live: &JobSnapshot| (live.eta_s, live.activity.clone(), live.failed.clone());
        shown(self) == shown(other) && self.steps == other.steps
    }
}

#[derive(Clone)]
pub(crate) struct LiveStatus(Arc<Snapshots>);

struct Snapshots {
    state: Mutex<State>,
    /// The changes of each job that somebody watches.
    jobs: Changes,
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<JobId, JobSnapshot>,
    devices: Vec<DeviceStatus>,
    /// Why no device gets a job, if so.
    held: Option<String>,
}

impl LiveStatus {
    /// Creates the status. Devices get no jobs before they are [`LiveStatus::found`] to be usable.
    pub(crate) fn new(devices: &[String]) -> LiveStatus {
        let device = |name: &String| DeviceStatus {
            device: name.clone(),
            state: UNTRIED.into(),
            worker_pid: None,
            worker_restarts: 0,
            job: None,
            problem: Some("the daemon has not tried it yet".into()),
        };
        let state = Mutex::new(State {
            jobs: BTreeMap::new(),
            devices: devices.iter().map(device).collect(),
            held: None,
        });
        LiveStatus(Arc::new(Snapshots {
            state,
            jobs: Changes::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, so a panic cannot leave half of one.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the job's runner does. Those who watch the job hear of it if its status shows
    /// something new.
    pub(crate) fn show(&self, job: &JobId, live: JobSnapshot) {
        let is_shown = self
            .lock()
            .jobs
            .get(job)
            .is_some_and(|shown| shown.is_shown_as(&live));
        self.lock().jobs.insert(job.clone(), live);
        if !is_shown {
            self.0.jobs.note(job);
        }
    }

    /// Replaces what a waiting job waits for; returns whether that is new.
    pub(crate) fn renew_wait(&self, job: &JobId, what: &str) -> bool {
        let is_new = |wait: &Wait| wait.waits_for != what;
        if !self
            .lock()
            .jobs
            .get(job)
            .is_some_and(|live| live.waits.iter().any(is_new))
        {
            return false;
        }
        let mut state = self.lock();
        let waits = state
            .jobs
            .get_mut(job)
            .into_iter()
            .flat_map(|live| &mut live.waits);
        waits.for_each(|wait| wait.waits_for = what.into());
        true
    }

    pub(crate) fn clear(&self, job: &JobId) {
        if self.lock().jobs.remove(job).is_some() {
            self.0.jobs.note(job);
        }
    }

    /// Whether the job has failed although the ledger could not record it.
    pub(crate) fn has_failed(&self, job: &JobId) -> bool {
        let state = self.lock();
        state
            .jobs
            .get(job)
            .is_some_and(|live| live.failed.is_some())
    }

    pub(crate) fn live(&self, job: &JobId) -> Option<JobSnapshot> {
        self.lock().jobs.get(job).cloned()
    }

    pub(crate) fn devices(&self) -> Vec<DeviceStatus> {
        let state = self.lock();
        let mut devices = state.devices.clone();
        for device in devices
            .iter_mut()
            .filter(|device| device.problem.is_none() && state.held.is_some())
        {
            (device.state, device.problem) = ("waiting".into(), state.held.clone());
        }
        devices
    }

    /// Sets the reason why no device gets a job; `None` if devices get jobs.
    pub(crate) fn hold(&self, cause: Option<String>) {
        self.lock().held = cause;
    }

    pub(crate) fn device(&self, device: &str, change: impl FnOnce(&mut DeviceStatus)) {
        self.lock()
            .devices
            .iter_mut()
            .find(|status| status.device == device)
            .map(change);
    }

    /// Marks the device as idle: its job has released it.
    pub(crate) fn left(&self, device: &str) {
        self.device(device, |status| {
            status.job = None;
            if status.problem.is_none() {
                status.state = "idle".into();
            }
        });
    }

    /// What was found of each device, in their order: what keeps it from getting jobs, if anything
    /// does; `None` for one that nobody has looked at yet.
    pub(crate) fn devices_found(&self) -> Vec<Option<Option<String>>> {
        let state = self.lock();
        let found = |device: &DeviceStatus| {
            let is_untried = device.state == UNTRIED;
            (!is_untried).then(|| device.problem.clone())
        };
        state.devices.iter().map(found).collect()
    }

    /// Records what keeps the device from getting jobs; `None` means that nothing does. Returns
    /// whether that is new.
    pub(crate) fn found(&self, device: &str, problem: Option<Problem>) -> bool {
        let mut is_new = false;
        self.device(device, |status| {
            let cause = problem.as_ref().map(|problem| &problem.cause);
            is_new = cause != status.problem.as_ref();
            if problem.is_some() || status.problem.is_some() {
                let word = problem.as_ref().map(|problem| problem.kind.word());
                status.state = word.unwrap_or("idle").into();
            }
            status.problem = problem.map(|problem| problem.cause);
        });
        is_new
    }

    /// A receiver that is notified, from now on, of every change of what the job's status shows.
    pub(crate) fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        self.0.jobs.watch(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watcher_hears_of_what_its_jobs_status_shows_and_of_nothing_else() {
        let live = LiveStatus::new(&["cpu".into()]);
        let (job, other) = (JobId("a".into()), JobId("b".into()));
        let snapshot = |steps, what: &str| JobSnapshot {
            steps: vec![steps],
            waits: vec![Wait::new("job", what, Default::default())],
            ..JobSnapshot::default()
        };
        let mut watch = live.watch(&job);
        let mut heard = || {
            let changed = watch.has_changed().unwrap();
            watch.mark_unchanged();
            changed
        };
        live.show(&job, snapshot(1, "a worker"));
        assert!(heard());
        live.show(&job, snapshot(1, "another worker"));
        live.show(&other, snapshot(1, "a worker"));
        live.device("cpu", |device| device.state = "busy".into());
        assert!(live.renew_wait(&job, "its files"));
        assert!(!heard());
        live.show(&job, snapshot(2, "its files"));
        assert!(heard());
        live.clear(&job);
        assert!(heard());
        live.clear(&job);
        assert!(!heard());
    }
}
