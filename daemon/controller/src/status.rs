//! Jobs as `r1ctl` shows them, from the ledger's record and the live status.

use crate::devices_health::DevicesHealth;
use crate::live_status::LiveStatus;
use crate::node::NodeLink;
use r1d_ledger::{JobRecord, Session};
use r1d_link::status::{Outlines, Shown, error, is_pausing, state};
use r1d_link::{Answer, Work};
use r1d_proto::control::error::ControlError;
use r1d_proto::control::job::{JobStatus, JobSummary, State};
use r1d_proto::control::why::{Wait, Why};
use r1d_proto::ids::JobId;
use r1d_proto::world::SharedClock;
use std::path::PathBuf;
use std::sync::Arc;

/// Most jobs that one wait names.
const NAMED_MAX: usize = 10;
/// What is said of a device on which workers failed the job that waits.
const GIVEN_UP: &str = "; workers failed this job there, so it waits for another";

/// Everything that a status is made of.
#[derive(Clone)]
pub(crate) struct StatusViews {
    pub ledger: Arc<Session>,
    pub live_status: LiveStatus,
    pub devices_health: DevicesHealth,
    pub clock: SharedClock,
    /// The node's state directory, below which a job's directory is.
    pub state_dir: PathBuf,
    pub outlines: Outlines,
    pub node: NodeLink,
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

impl StatusViews {
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
            pausing: is_pausing(record, self.live_status.live(record.job()).as_ref()),
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
        state.listed().map(|record| self.summary(record)).collect()
    }

    pub(crate) fn status(&self, record: &JobRecord) -> JobStatus {
        let live = self.live_status.live(record.job());
        let shown = Shown {
            record,
            live: live.as_ref(),
            ledger: &self.ledger.state(),
            now_s: self.clock.unix().as_secs(),
        };
        self.outlines.status(&shown, &self.state_dir)
    }

    pub(crate) async fn why(&self, record: &JobRecord) -> Result<Why, ControlError> {
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
            (State::Running, None) => vec![self.wait_to_go_on(record).await?],
            _ => Vec::new(),
        };
        Ok(Why {
            job: record.job().clone(),
            state: state(record, live.as_ref()),
            pausing: is_pausing(record, live.as_ref()),
            waits,
            error: error(record, live.as_ref()),
        })
    }

    fn why_queued(&self, record: &JobRecord) -> Vec<Wait> {
        let since_s = self
            .clock
            .unix()
            .as_secs()
            .saturating_sub(record.queued_since()) as f64;
        let state = self.ledger.state();
        let before = (state.queued())
            .take_while(|other| other.job() != record.job())
            .map(|other| other.job().0.as_str());
        let wait = self.wait_for_device(record.job(), since_s);
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
                "a user: it was paused by {by}; `r1ctl resume {}` lets it go on",
                record.job()
            ),
            since_s: self.clock.unix().as_secs().saturating_sub(since) as f64,
            deadline_s: None,
        }
    }

    /// The wait of a job that goes on as soon as a device is free, or people have reviewed a data
    /// set.
    async fn wait_to_go_on(&self, record: &JobRecord) -> Result<Wait, ControlError> {
        let job = record.job().clone();
        let awaited = self.node.ask(Work::AwaitedReview { job }).await?;
        // No run of this daemon has had a job that an earlier one left.
        let since = self.live_status.handed_back_at(record.job());
        let now = self.clock.now();
        let since_s = now.saturating_sub(since.unwrap_or_default()).as_secs_f64();
        let device = self.wait_for_device(record.job(), since_s);
        Ok(match awaited {
            Answer::Review(Some(waits_for)) => Wait {
                waits_for,
                ..device
            },
            _ => device,
        })
    }

    fn wait_for_device(&self, job: &JobId, since_s: f64) -> Wait {
        Wait {
            owner: "job".into(),
            waits_for: self.free_device(job),
            since_s,
            deadline_s: None,
        }
    }

    /// Describes the wait of a job that only lacks devices: all of them, what occupies them, and
    /// which the job leaves to others.
    fn free_device(&self, waiting: &JobId) -> String {
        let devices: Vec<String> = (self.live_status.devices().into_iter())
            .map(|device| {
                let name = device.device;
                let is_given_up = self.devices_health.is_given_up(&name, waiting);
                let doing = match (device.problem, device.job) {
                    (Some(problem), _) => format!("{}: {problem}", device.state),
                    (None, Some(job)) => {
                        let pauses = self.when_it_pauses(&job);
                        format!("busy with job {job}{pauses}")
                    }
                    (None, None) => device.state,
                };
                let given_up = if is_given_up { GIVEN_UP } else { "" };
                format!("{name} ({doing}{given_up})")
            })
            .collect();
        let record = self.ledger.job(waiting);
        let wanted = record.map_or(1, |record| record.submission.devices);
        let needed = match wanted {
            0 | 1 => "a free device".into(),
            needed if needed as usize > devices.len() => {
                format!("{needed} devices, more than `[node] devices` has")
            }
            needed => format!("{needed} devices that are free at once"),
        };
        format!("{needed}: {}", devices.join(", "))
    }

    /// What follows the name of a job that has a device and is pausing.
    fn when_it_pauses(&self, job: &JobId) -> String {
        let live = self.live_status.live(job);
        let record = self.ledger.job(job);
        match record.filter(|record| is_pausing(record, live.as_ref())) {
            None => String::new(),
            Some(record) => match record.stage_at_work() {
                Some((_, stage)) => format!(", which pauses after step {}", stage.step + 1),
                None => ", which is pausing".into(),
            },
        }
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
