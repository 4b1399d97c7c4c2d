//! What people see of a running job.

use super::Run;
use crate::live_reports::RESTARTING;
use crate::writers::WRITER_END_MAX;
use crate::{outside_waits, review};
use r1d_link::JobSnapshot;
use r1d_proto::control::job::{Activity, RankStatus};
use r1d_rendezvous::Missed;
use r1d_runner::life::{LifeOutcome, Next, Phase, START_MAX};
use r1d_runner::wait::Wait;
use std::time::Duration;

/// The activity in the status of a job that waits for people.
const WAITING_FOR_REVIEW: &str = "waiting for review";
/// A pause ends within this time after it is over: the daemon may be busy.
const PAUSE_LATE_MAX: Duration = Duration::from_secs(5);

impl Run {
    /// Brings the live status up to date.
    pub(super) fn show(&self) {
        let (activity, waits) = match self.life.phase() {
            Phase::New | Phase::Recording(_) | Phase::Ending => return,
            Phase::Closing(Next::Record(_) | Next::Stop) => return,
            Phase::Leaving(LifeOutcome::WaitsOutside { cause, .. }) => self.waiting(cause),
            Phase::Leaving(_) => return,
            Phase::Opening => self.loading(),
            Phase::Starting => self.starting(),
            Phase::Working => return self.show_work(),
            Phase::Reviewing { stage, rows } => {
                let activity = Activity {
                    doing: WAITING_FOR_REVIEW.into(),
                    done: 0,
                    total: 0,
                    unit: "rows".into(),
                };
                (activity, self.wait(&review::wanted(&self.id, stage, *rows)))
            }
            Phase::Checking { error } => self.closing(error),
            Phase::Closing(Next::Retry { cause, .. }) => self.closing(cause),
            Phase::Closing(Next::Reopen) => {
                self.closing("a stage has made data that is to be read")
            }
            Phase::Closing(Next::WaitOutside { cause } | Next::GiveDeviceUp { cause, .. }) => {
                self.waiting(cause)
            }
            Phase::Pausing { until, cause } => self.pausing(*until, cause),
        };
        self.show_live(JobSnapshot {
            activity: Some(activity),
            waits: vec![waits],
            ..JobSnapshot::default()
        });
    }

    fn wait(&self, what: &str) -> Wait {
        Wait::new("job", what, self.life.since())
    }

    fn loading(&self) -> (Activity, Wait) {
        // The duration depends on how much there is to read; a deadline is for silence.
        let Activity {
            doing,
            done,
            total,
            unit,
        } = self.reading.now();
        let wait = self.wait(&format!(
            "data, tokenizer and plugins: {doing} ({done} of {total} parts)"
        ));
        let wait = match self.reading.deadline() {
            Some(deadline) => wait.until(deadline),
            None => wait,
        };
        let activity = Activity {
            doing: "loading".into(),
            done,
            total,
            unit,
        };
        (activity, wait)
    }

    fn starting(&self) -> (Activity, Wait) {
        let what = format!(
            "ledger and {}: a new attempt",
            self.run_context.gang.in_words()
        );
        let wait = self.wait(&what).until(self.life.since() + START_MAX);
        (idle("loading"), wait)
    }

    fn closing(&self, cause: &str) -> (Activity, Wait) {
        let what = format!(
            "the end of {} and of the attempt's writer, after: {cause}",
            self.run_context.gang.in_words()
        );
        let wait = self.wait(&what).until(self.life.since() + WRITER_END_MAX);
        (idle("restarting"), wait)
    }

    fn waiting(&self, cause: &str) -> (Activity, Wait) {
        (idle("waiting"), self.wait(&outside_waits::awaited(cause)))
    }

    fn pausing(&self, until: Duration, cause: &str) -> (Activity, Wait) {
        let what = format!(
            "its next attempt (after {} that got no further): {cause}",
            self.life.fruitless()
        );
        let node = &self.run_context.node;
        for device in self.run_context.gang.devices() {
            node.live.device(device, |device| {
                (device.state, device.job) = (RESTARTING.into(), Some(self.id.clone()));
            });
        }
        let wait = self.wait(&what).until(until + PAUSE_LATE_MAX);
        (idle("restarting"), wait)
    }

    fn show_work(&self) {
        let Some(attempt) = &self.working else {
            return;
        };
        let eta_s = self.loaded_job.as_ref().and_then(|(loaded_job, plan)| {
            self.step_times
                .time_left(loaded_job, plan, attempt.machine.record())
        });
        self.show_live(JobSnapshot {
            activity: Some(attempt.machine.activity()),
            waits: [attempt.machine.waits(), self.missed()].concat(),
            eta_s,
            ..JobSnapshot::default()
        });
    }

    /// What ranks wait for at their rendezvous.
    fn missed(&self) -> Vec<Wait> {
        let wait = |missed: Missed| {
            let Missed { rank, key, .. } = missed;
            let what = format!("another rank of its gang, which has to set `{key}`");
            Wait::new(format!("rank {rank}"), what, missed.since).until(missed.until)
        };
        self.meeting.missed().into_iter().map(wait).collect()
    }

    /// What each rank of the attempt does; none for a job on one device.
    fn ranks(&self) -> Vec<RankStatus> {
        let gang = &self.run_context.gang;
        let is_at_work = matches!(self.life.phase(), Phase::Starting | Phase::Working);
        let job = self.loaded_job.as_ref().map(|(loaded_job, _)| loaded_job);
        let layout = job.and_then(|loaded_job| loaded_job.job.parallel.layout().ok());
        let Some(layout) = layout.filter(|_| is_at_work && gang.size() > 1) else {
            return Vec::new();
        };
        let missed = self.meeting.missed();
        let status = |(rank, (device, doing)): (usize, (&str, String))| {
            let missed = missed.iter().find(|missed| missed.rank == rank);
            let waits = missed.map(|missed| format!("waiting for key `{}`", missed.key));
            RankStatus {
                rank: rank as u32,
                device: device.into(),
                data: layout.replica(rank) as u32,
                expert: layout.shard(rank) as u32,
                state: waits.unwrap_or(doing),
            }
        };
        let ranks = gang.devices().zip(gang.live().doing());
        ranks.enumerate().map(status).collect()
    }

    /// Shows that the job has ended, although the ledger could not take the end.
    pub(super) fn show_unrecorded(&self, error: String) {
        let node = &self.run_context.node;
        node.live.show(
            &self.id,
            JobSnapshot {
                failed: Some(error),
                ..JobSnapshot::default()
            },
        );
    }

    fn show_live(&self, snapshot: JobSnapshot) {
        let steps = self.loaded_job.as_ref().map_or_else(Vec::new, |(_, plan)| {
            plan.stages.iter().map(|facts| facts.steps).collect()
        });
        let node = &self.run_context.node;
        let snapshot = JobSnapshot {
            steps,
            ranks: self.ranks(),
            is_stopping: self.life.stops_after_step(),
            ..snapshot
        };
        node.live.show(&self.id, snapshot);
    }
}

/// The activity of a job between two attempts.
fn idle(doing: &str) -> Activity {
    Activity {
        doing: doing.into(),
        done: 0,
        total: 1,
        unit: "attempts".into(),
    }
}
