//! The controller: it decides which job runs where and which jobs are removed, and answers clients.
//! It owns the ledger. What touches a device or a job's files is done by a node ([`r1d_link`]).
//!
//! | module | what it holds |
//! |---|---|
//! | `jobs`, `queue` | the schedule's actor; what the schedule asks of the ledger |
//! | `devices_health` | what of the schedule outlives the daemon |
//! | `node`, `reports` | sends orders and works to the node; takes its reports |
//! | `control` | the control socket: who asks, what is answered |
//! | `access`, `callers`, `admission`, `submissions` | who may ask for what; how many are served at a time; what becomes of submissions whose client leaves |
//! | `status`, `live_status`, `job_changes` | what clients see |
//! | [`removal`] | which jobs go |

#![warn(clippy::too_many_lines)]

mod access;
mod admission;
mod callers;
mod control;
mod devices_health;
mod job_changes;
mod jobs;
mod live_status;
mod node;
mod queue;
pub mod removal;
mod reports;
mod status;
mod submissions;

use admission::Admission;
use control::{ControlService, ControlSocket};
use devices_health::DevicesHealth;
use jobs::{Jobs, SharedSchedule, StopAll};
use live_status::LiveStatus;
use node::NodeLink;
use r1d_job::daemon::Retention;
use r1d_ledger::{Command, JobRecord, Session};
use r1d_link::{ControllerEnd, Work};
use r1d_proto::ids::JobId;
use r1d_proto::world::SharedClock;
use r1d_tasks as tasks;
use removal::Removals;
use status::StatusViews;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use submissions::Submissions;
use tasks::{Supervised, supervise};
use tokio::net::UnixListener;
use tokio::sync::watch;

/// Pause before a queue that is being made anew is asked again to stop.
const STOP_AGAIN: Duration = Duration::from_millis(50);

/// What a controller runs with.
pub struct ControllerSetup {
    /// The record of jobs.
    pub ledger: Arc<Session>,
    /// The time.
    pub clock: SharedClock,
    /// The name of the node.
    pub node_name: String,
    /// The node's devices, in their order.
    pub devices: Vec<String>,
    /// The node's state directory.
    pub state_dir: PathBuf,
    /// What is kept of jobs that have ended.
    pub retention: Retention,
    /// The group whose members are administrators.
    pub admin_group: String,
    /// Receives `true` on a `shutdown` request; `None` where systemd stops the service.
    pub shutdown: Option<Arc<watch::Sender<bool>>>,
}

/// A controller at work.
pub struct Controller {
    service: ControlService,
}

/// The control socket as long as it is served.
pub struct Serving(#[allow(dead_code, reason = "its drop ends it")] Supervised<ControlSocket>);

impl Controller {
    /// Begins to decide: the jobs of the ledger go on as soon as the node's devices can be used.
    /// Blocks while it writes to the ledger.
    pub fn start(setup: ControllerSetup, link: ControllerEnd) -> Controller {
        let struck = strike(&setup.ledger);
        let ControllerEnd { orders, reports } = link;
        let node = NodeLink::new(orders);
        let views = StatusViews {
            ledger: setup.ledger,
            live_status: LiveStatus::new(&setup.devices),
            devices_health: DevicesHealth::open(&setup.state_dir),
            clock: setup.clock.clone(),
            state_dir: setup.state_dir,
            outlines: Default::default(),
            node: node.clone(),
        };
        tasks::spawn("words about a crash", tell_of_crash(node.clone(), struck));
        let (of_queue, mut queues) = (views.clone(), 0);
        let schedule = SharedSchedule::new(&views);
        let jobs = supervise("jobs", setup.clock.clone(), move |alive, _| {
            queues += 1;
            Jobs::new(of_queue.clone(), schedule.clone(), queues, alive)
        });
        let live_status = views.live_status.clone();
        tasks::spawn(
            "reports",
            reports::read(reports, live_status, node, jobs.clone()),
        );
        let service = ControlService {
            since: setup.clock.now(),
            removals: Removals::start(views.clone(), &setup.retention),
            views,
            admission: Admission::default(),
            submissions: Submissions::default(),
            jobs,
            node_name: setup.node_name,
            admin_group: setup.admin_group,
            shutdown: setup.shutdown,
        };
        Controller { service }
    }

    /// Has the log warn, soon, of a group of administrators that the system does not know.
    pub fn look_for_administrators(&self) {
        let group = self.service.admin_group.clone();
        tasks::spawn("group of administrators", callers::warn_of_no_group(group));
    }

    /// Waits until the node has reported what it found of every device.
    pub async fn devices_found(&self) {
        self.service.views.live_status.all_found().await;
    }

    /// Serves the clients, also those that have connected since the socket was bound.
    pub fn serve(&self, listener: Arc<UnixListener>) -> Serving {
        let service = self.service.clone();
        let clock = service.views.clock.clone();
        let socket = supervise("control socket", clock, move |alive, context| {
            ControlSocket::new(service.clone(), listener.clone(), alive, context)
        });
        Serving(socket)
    }

    /// Stops the runs, the steps in flight committed first or not. What counts is durable, and the
    /// jobs go on when a daemon is back.
    ///
    /// A queue that is being made anew is asked again: the caller's patience is the limit.
    pub async fn stop(&self, after_step: bool) {
        let jobs = &self.service.jobs;
        while jobs.ask("the queue", StopAll { after_step }).await.is_err() {
            tokio::time::sleep(STOP_AGAIN).await;
        }
    }
}

#[cfg(test)]
impl Controller {
    /// A controller whose node is the test.
    pub(crate) fn of_test() -> (Controller, r1d_link::NodeEnd) {
        let (link, there) = r1d_link::in_memory();
        let setup = ControllerSetup {
            ledger: Arc::new(Session::open(Arc::new(r1d_ledger::Memory::default()), 1)),
            clock: r1d_proto::world::SystemClock::shared(),
            node_name: "node".into(),
            devices: vec!["cpu".into()],
            state_dir: "/s".into(),
            retention: r1d_job::DaemonConfig::dev().unwrap().retention,
            admin_group: "r1d-admin".into(),
            shutdown: None,
        };
        (Controller::start(setup, link), there)
    }
}

/// Holds the previous daemon's end against the jobs that it worked for, unless it was a clean stop.
/// Returns these jobs, each with words for its log.
fn strike(ledger: &Session) -> Vec<(JobId, String)> {
    let mut struck = Vec::new();
    for record in ledger
        .jobs()
        .iter()
        .filter(|record| record.strikes.taken_up && !record.state().is_final())
    {
        let job = record.job();
        match ledger.apply(Command::Strike { job: job.clone() }) {
            Ok(_) => {
                tracing::warn!(%job, "the daemon before this one ended without a word while it \
                                      worked for the job");
                struck.push((job.clone(), crash(record)));
            }
            Err(error) => {
                tracing::warn!(%job, "the end of the daemon before this one is not held against \
                                      the job: {error}")
            }
        }
    }
    struck
}

/// What the end of the daemon means for a job, in words.
fn crash(record: &JobRecord) -> String {
    if record.progress.epoch == 0 {
        return "the daemon ended while it read the job's files: they are read again".into();
    }
    let restart = format!("(restart {})", record.restarts() + 1);
    match record.stage_at_work() {
        None => format!("the daemon ended between two stages; goes on from there {restart}"),
        Some((_, stage)) => {
            let (name, from) = (&stage.name, r1d_link::status::durable_step(stage));
            let when = if stage.step < stage.steps {
                format!("during step {}", stage.step + 1)
            } else {
                "after the last step".into()
            };
            format!("the daemon ended {when} of stage {name}; goes on from step {from} {restart}")
        }
    }
}

/// Writes into jobs' logs that the daemon ended while it worked for them.
async fn tell_of_crash(node: NodeLink, struck: Vec<(JobId, String)>) {
    for (job, line) in struck {
        let log = Work::Log {
            job: job.clone(),
            line,
            is_warning: true,
        };
        if let Err(error) = node.ask(log).await {
            tracing::warn!(%job, "a line of its log is lost: {}", error.message);
        }
    }
}
