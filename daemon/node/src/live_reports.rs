//! What this node's jobs and devices do now. Every change is reported to the controller, which
//! shows it to clients. Nothing here is needed to go on after a crash.

use r1d_link::{DeviceUse, JobSnapshot, Outbox, Report};
use r1d_proto::ids::JobId;
use r1d_runner::wait::Wait;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The state of a device between two attempts, and while a job has it.
pub(crate) const RESTARTING: &str = "restarting";
pub(crate) const BUSY: &str = "busy";

#[derive(Clone)]
pub(crate) struct LiveReports(Arc<Reported>);

struct Reported {
    names: Arc<[String]>,
    state: Mutex<State>,
    reports: Outbox<Report>,
}

struct State {
    jobs: BTreeMap<JobId, JobSnapshot>,
    /// The uses of the devices, by their index.
    devices: Vec<DeviceUse>,
}

impl LiveReports {
    /// Reports on devices of these names, which nothing uses yet.
    pub(crate) fn new(names: Arc<[String]>, reports: Outbox<Report>) -> LiveReports {
        let state = Mutex::new(State {
            jobs: BTreeMap::new(),
            devices: vec![DeviceUse::none(); names.len()],
        });
        LiveReports(Arc::new(Reported {
            names,
            state,
            reports,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change is one assignment, so a panic cannot leave half of one.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the reports.
    pub(crate) fn reports(&self) -> &Outbox<Report> {
        &self.0.reports
    }

    fn report(&self, job: &JobId, live: Option<JobSnapshot>) {
        let job = job.clone();
        let live = live.map(Box::new);
        self.0.reports.send(Report::Job { job, live });
    }

    /// Replaces what the job's run does.
    pub(crate) fn show(&self, job: &JobId, live: JobSnapshot) {
        let before = self.lock().jobs.insert(job.clone(), live.clone());
        if before.as_ref() != Some(&live) {
            self.report(job, Some(live));
        }
    }

    /// Replaces what a waiting job waits for; returns whether that is new.
    pub(crate) fn renew_wait(&self, job: &JobId, what: &str) -> bool {
        let is_new = |wait: &Wait| wait.waits_for != what;
        let mut state = self.lock();
        let Some(live) = state.jobs.get_mut(job) else {
            return false;
        };
        if !live.waits.iter().any(is_new) {
            return false;
        }
        for wait in &mut live.waits {
            wait.waits_for = what.into();
        }
        let live = live.clone();
        drop(state);
        self.report(job, Some(live));
        true
    }

    /// Takes down what is shown of a job: nothing is done for it any more.
    pub(crate) fn clear(&self, job: &JobId) {
        let before = self.lock().jobs.remove(job);
        if before.is_some() {
            self.report(job, None);
        }
    }

    /// What the job's run does; `None` if nothing is done for it.
    pub(crate) fn live(&self, job: &JobId) -> Option<JobSnapshot> {
        self.lock().jobs.get(job).cloned()
    }

    /// Changes what a device is used for.
    pub(crate) fn device(&self, name: &str, change: impl FnOnce(&mut DeviceUse)) {
        let Some(device) = self.0.names.iter().position(|known| known == name) else {
            return;
        };
        let mut state = self.lock();
        let Some(used) = state.devices.get_mut(device) else {
            return;
        };
        let before = used.clone();
        change(used);
        if *used == before {
            return;
        }
        let used = used.clone();
        drop(state);
        self.0.reports.send(Report::Device { device, used });
    }

    /// Marks the device as idle: its job has released it.
    pub(crate) fn left(&self, name: &str) {
        self.device(name, |used| {
            (used.job, used.state) = (None, DeviceUse::IDLE.into());
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use r1d_link::in_memory;

    /// What is as it was is not reported.
    #[test]
    fn each_change_of_a_device_is_reported_once() {
        let (controller, node) = in_memory();
        let live = LiveReports::new(["cpu".to_string()].into(), node.reports);
        let is_reported = || controller.reports.next().now_or_never().is_some();
        live.device("cpu", |used| used.state = BUSY.into());
        assert!(is_reported());
        live.device("cpu", |used| used.state = BUSY.into());
        assert!(!is_reported());
        live.left("cpu");
        assert!(is_reported());
    }
}
