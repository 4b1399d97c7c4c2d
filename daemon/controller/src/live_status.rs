//! What the running jobs and the devices do now: reported by the node, read for clients. Nothing
//! here is needed to go on after a crash.

use r1d_ledger::Changes;
use r1d_link::{DeviceUse, JobSnapshot};
use r1d_proto::control::node::DeviceStatus;
use r1d_proto::ids::JobId;
use r1d_runner::schedule::Problem;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// The state of a device that the node has not looked at yet, and why it gets no jobs.
const UNTRIED: &str = "starting";
const UNTRIED_PROBLEM: &str = "the daemon has not tried it yet";
/// Why no device gets a job before the node has said anything.
const UNHEARD: &str = "the node has not said whether workers of an earlier daemon are left";
/// The state of a device whose job ends with the step in flight.
const PAUSING: &str = "pausing";
/// The state of a usable device that gets no jobs because none does.
const HELD: &str = "waiting";

#[derive(Clone)]
pub(crate) struct LiveStatus(Arc<Snapshots>);

struct Snapshots {
    state: Mutex<State>,
    /// The changes of each job that somebody watches.
    jobs: Changes,
    /// Changed when something is found of a device.
    found: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    jobs: BTreeMap<JobId, JobSnapshot>,
    devices: Vec<LiveDevice>,
    /// When runs handed jobs back that are to go on, by the clock; without those that have begun
    /// again.
    handed_back: BTreeMap<JobId, Duration>,
    /// Why no device gets a job, if so.
    held: Option<String>,
}

struct LiveDevice {
    name: String,
    used: DeviceUse,
    /// What keeps it from getting jobs, if anything does; `None` until somebody has looked at it.
    found: Option<Option<Problem>>,
}

impl LiveDevice {
    /// The problem in words.
    fn problem(&self) -> Option<&str> {
        match &self.found {
            None => Some(UNTRIED_PROBLEM),
            Some(problem) => problem.as_ref().map(|problem| &*problem.cause),
        }
    }

    fn status(&self) -> DeviceStatus {
        DeviceStatus {
            device: self.name.clone(),
            state: match &self.found {
                None => UNTRIED.into(),
                Some(Some(problem)) => problem.kind.word().into(),
                Some(None) => self.used.state.clone(),
            },
            worker_pid: self.used.worker_pid,
            worker_restarts: self.used.worker_restarts,
            job: self.used.job.clone(),
            rank: None,
            problem: self.problem().map(String::from),
        }
    }
}

impl LiveStatus {
    /// Creates the status. Devices get no jobs before they are [`LiveStatus::found`] to be usable
    /// and the node has said that no old worker is left ([`LiveStatus::hold`]).
    pub(crate) fn new(devices: &[String]) -> LiveStatus {
        let device = |name: &String| LiveDevice {
            name: name.clone(),
            used: DeviceUse::none(),
            found: None,
        };
        let state = Mutex::new(State {
            jobs: BTreeMap::new(),
            devices: devices.iter().map(device).collect(),
            handed_back: BTreeMap::new(),
            held: Some(UNHEARD.into()),
        });
        LiveStatus(Arc::new(Snapshots {
            state,
            jobs: Changes::default(),
            found: watch::Sender::new(()),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, so a panic cannot leave half of one.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces what the job's run does; `None` if nothing is done for it any more. Those who watch
    /// the job hear of it if its status shows something new.
    pub(crate) fn show(&self, job: &JobId, live: Option<JobSnapshot>) {
        let mut state = self.lock();
        let is_shown = match (state.jobs.get(job), &live) {
            (Some(shown), Some(live)) => shown.is_shown_as(live),
            (None, None) => true,
            _ => false,
        };
        match live {
            Some(live) => drop(state.jobs.insert(job.clone(), live)),
            None => drop(state.jobs.remove(job)),
        }
        drop(state);
        if !is_shown {
            self.0.jobs.note(job);
        }
    }

    /// Takes note of when a job that is to go on was handed back by its run.
    pub(crate) fn handed_back(&self, job: &JobId, now: Duration) {
        self.lock().handed_back.insert(job.clone(), now);
    }

    /// Forgets when the job was handed back: it goes on, or is over.
    pub(crate) fn taken(&self, job: &JobId) {
        self.lock().handed_back.remove(job);
    }

    /// When the job's run handed it back; `None` if none of this daemon's had it.
    pub(crate) fn handed_back_at(&self, job: &JobId) -> Option<Duration> {
        self.lock().handed_back.get(job).copied()
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
        let shown = |device: &LiveDevice| {
            let mut status = device.status();
            let job = status.job.as_ref().and_then(|job| state.jobs.get(job));
            let ranks = job.map_or(&[][..], |job| &job.ranks[..]);
            let own = ranks.iter().find(|rank| rank.device == status.device);
            status.rank = own.map(|rank| rank.rank);
            if status.problem.is_none() && job.is_some_and(|job| job.is_stopping) {
                status.state = PAUSING.into();
            }
            if let (None, Some(held)) = (&status.problem, &state.held) {
                (status.state, status.problem) = (HELD.into(), Some(held.clone()));
            }
            status
        };
        state.devices.iter().map(shown).collect()
    }

    /// Sets the reason why no device gets a job; `None` if devices get jobs.
    pub(crate) fn hold(&self, cause: Option<String>) {
        self.lock().held = cause;
    }

    /// Whether no device gets a job.
    pub(crate) fn is_held(&self) -> bool {
        self.lock().held.is_some()
    }

    /// Replaces what a device is used for.
    pub(crate) fn uses(&self, device: usize, used: DeviceUse) {
        if let Some(device) = self.lock().devices.get_mut(device) {
            device.used = used;
        }
    }

    /// The names of the devices, in their order.
    pub(crate) fn names(&self) -> Vec<String> {
        let state = self.lock();
        let name = |device: &LiveDevice| device.name.clone();
        state.devices.iter().map(name).collect()
    }

    /// The name of a device.
    pub(crate) fn name(&self, device: usize) -> Option<String> {
        Some(self.lock().devices.get(device)?.name.clone())
    }

    /// What was found of each device, in their order: what keeps it from getting jobs, if anything
    /// does; `None` for one that nobody has looked at yet.
    pub(crate) fn devices_found(&self) -> Vec<Option<Option<String>>> {
        let state = self.lock();
        let cause = |problem: &Option<Problem>| Some(problem.as_ref()?.cause.clone());
        let found = |device: &LiveDevice| device.found.as_ref().map(cause);
        state.devices.iter().map(found).collect()
    }

    /// Records what keeps the device from getting jobs; `None` means that nothing does. Returns
    /// whether that is new.
    pub(crate) fn found(&self, device: usize, problem: Option<Problem>) -> bool {
        let mut state = self.lock();
        let Some(device) = state.devices.get_mut(device) else {
            return false;
        };
        let cause = problem.as_ref().map(|problem| &*problem.cause);
        let is_new = cause != device.problem();
        device.found = Some(problem);
        drop(state);
        self.0.found.send_replace(());
        is_new
    }

    /// Waits until somebody has looked at every device.
    pub(crate) async fn all_found(&self) {
        let mut found = self.0.found.subscribe();
        while self.devices_found().iter().any(Option::is_none) {
            // The sender lives as long as the status.
            let _ = found.changed().await;
        }
    }

    /// A receiver that is notified, from now on, of every change of what the job's status shows.
    pub(crate) fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        self.0.jobs.watch(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_runner::schedule::ProblemKind;
    use r1d_runner::wait::Wait;

    #[test]
    fn a_watcher_hears_of_what_its_jobs_status_shows_and_of_nothing_else() {
        let live = LiveStatus::new(&["cpu".into()]);
        let (job, other) = (JobId("a".into()), JobId("b".into()));
        let snapshot = |steps, what: &str| {
            Some(JobSnapshot {
                steps: vec![steps],
                waits: vec![Wait::new("job", what, Default::default())],
                ..JobSnapshot::default()
            })
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
        live.uses(0, DeviceUse::none());
        assert!(!heard());
        live.show(&job, snapshot(2, "its files"));
        assert!(heard());
        live.show(&job, None);
        assert!(heard());
        live.show(&job, None);
        assert!(!heard());
    }

    /// What a device is used for does not hide what is wrong with it.
    #[test]
    fn a_device_shows_its_problem_before_its_use() {
        let live = LiveStatus::new(&["cpu".into()]);
        let shown = || {
            let device = live.devices().remove(0);
            (device.state, device.problem)
        };
        let cause = || Some("no memory".to_string());
        assert_eq!(shown(), (UNTRIED.into(), Some(UNTRIED_PROBLEM.into())));
        let problem = cause().map(|cause| Problem {
            kind: ProblemKind::Failed,
            cause,
        });
        assert!(live.found(0, problem.clone()));
        assert!(!live.found(0, problem));
        live.uses(0, DeviceUse::none());
        assert_eq!(shown(), (ProblemKind::Failed.word().into(), cause()));
        assert!(live.found(0, None));
        assert_eq!(shown(), (HELD.into(), Some(UNHEARD.into())));
        live.hold(None);
        assert_eq!(shown(), (DeviceUse::IDLE.into(), None));
        live.hold(cause());
        assert_eq!(shown(), (HELD.into(), cause()));
    }
}
