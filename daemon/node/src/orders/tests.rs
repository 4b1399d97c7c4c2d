//! Orders whose controller is the test.

use super::*;
use crate::old_workers::WorkersLock;
use crate::{NodeSetup, context, rank, worker_commands};
use actix::Handler;
use futures_util::FutureExt;
use r1d_job::DaemonConfig;
use r1d_ledger::{Command, Memory, NewJob, Session};
use r1d_link::{ControllerEnd, Work, in_memory};
use r1d_proto::world::SystemClock;
use r1d_rewards::{Compiler, Options, Rewards};
use r1d_runner::life::History;
use r1d_store::{Disk, StateLayout, create_dir};
use r1d_tasks::{Supervised, supervise};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// Longest wait for a report.
const REPORT_MAX: Duration = Duration::from_secs(20);

/// A node with devices, and without jobs.
pub(crate) struct TestNode {
    pub parts: OrderParts,
    controller: ControllerEnd,
    orders: Supervised<Orders>,
    _dir: TempDir,
}

/// Makes the actor panic, as a bug in it would.
#[derive(actix::Message)]
#[rtype(result = "()")]
struct Crash;

impl Handler<Crash> for Orders {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("planted");
    }
}

fn setup(dir: &TempDir, devices: &[&str]) -> NodeSetup {
    let clock = SystemClock::shared();
    let compiler = Compiler::Child {
        program: "/nonexistent".into(),
        args: Vec::new(),
    };
    let rewards = Rewards::open(Options {
        plugin_dirs: Vec::new(),
        cache_dir: None,
        threads: 1,
        compiler,
        clock: clock.clone(),
    });
    NodeSetup {
        ledger: Arc::new(Session::open(Arc::new(Memory::default()), 1)),
        clock,
        layout: StateLayout::new(dir.path()),
        devices: devices.iter().map(|name| name.to_string()).collect(),
        worker: "/nonexistent".into(),
        torch: DaemonConfig::dev().unwrap().torch,
        worker_silence: REPORT_MAX,
        rewards: Arc::new(rewards.unwrap()),
        ingest: ("/nonexistent".into(), Vec::new()),
    }
}

impl TestNode {
    pub(crate) fn new() -> TestNode {
        TestNode::with_devices(&[])
    }

    fn with_devices(names: &[&str]) -> TestNode {
        TestNode::with_worker(names, Path::new("/nonexistent"))
    }

    fn with_worker(names: &[&str], worker: &Path) -> TestNode {
        let dir = tempfile::tempdir().unwrap();
        let (controller, there) = in_memory();
        let mut setup = setup(&dir, names);
        setup.worker = worker.into();
        create_dir(&Disk, &setup.layout.jobs()).unwrap();
        let node = context(&setup, there.reports).unwrap();
        let removals = FileRemovals::start(node.clone()).unwrap();
        let lock = WorkersLock::open(&setup.layout.workers_lock()).unwrap();
        let worker_commands = worker_commands(&setup, &lock).unwrap();
        let device = |worker_command| Device {
            rank: rank(&node, &worker_command),
            worker_command,
        };
        let devices = worker_commands.into_iter().map(device).collect();
        let parts = OrderParts::new(node.clone(), removals, devices, REPORT_MAX);
        let (of_orders, mut is_successor) = (parts.clone(), false);
        let orders = supervise("orders", setup.clock, move |alive, context| {
            let parts = of_orders.clone();
            let made = Orders::new(parts, there.orders.clone(), is_successor, (alive, context));
            is_successor = true;
            made
        });
        TestNode {
            parts,
            controller,
            orders,
            _dir: dir,
        }
    }

    pub(crate) async fn report(&self) -> Report {
        tokio::time::timeout(REPORT_MAX, self.controller.reports.next())
            .await
            .expect("a report")
    }

    fn order(&self, order: Order) {
        self.controller.orders.send(order);
    }

    /// Has the ledger take a job whose job file cannot be read.
    fn submit(&self, job: JobId) {
        let submit = Command::Submit(NewJob::of(job, "seed = 1"));
        self.parts.node.ledger.apply(submit).unwrap();
    }

    fn place(&self, device: usize, job: JobId) {
        self.order(Order::Place {
            devices: vec![device],
            job,
            resumed: None,
            history: History::default(),
            doubts_device: false,
        });
    }

    /// Waits until all orders before have been taken.
    async fn settled(&self) {
        self.order(Order::Probe { device: 9 });
        while !matches!(self.report().await, Report::Probed { device: 9, .. }) {}
    }

    /// Has the actor panic, and waits for the one that takes its place.
    async fn crash(&self) {
        assert!(self.orders.ask("orders", Crash).await.is_err());
        while !matches!(self.report().await, Report::Restarted) {}
    }
}

fn job() -> JobId {
    JobId("k3v".into())
}

/// A device that the node does not have fails; the controller does not wait for it.
#[actix::test]
async fn an_order_for_a_device_that_is_not_there_is_answered() {
    let node = TestNode::new();
    node.order(Order::Begin { queue: 3 });
    node.order(Order::Probe { device: 1 });
    let probed = node.report().await;
    let Report::Probed {
        queue: 3,
        device: 1,
        problem: Some(_),
    } = probed
    else {
        panic!("what the probe has found: {probed:?}")
    };
    node.place(1, job());
    let ended = node.report().await;
    let Report::Ended {
        queue: 3,
        device: 1,
        outcome: None,
        ..
    } = ended
    else {
        panic!("the job is handed back: {ended:?}")
    };
}

/// A work that was begun before a panic is in the hands of the actor after it.
#[actix::test]
async fn works_outlive_a_panic() {
    let node = TestNode::new();
    node.submit(job());
    let cancel = Command::Cancel { job: job(), at: 2 };
    node.parts.node.ledger.apply(cancel).unwrap();
    // Something of the job is left, so putting it down takes until it is given up.
    node.parts.node.live.show(&job(), Default::default());
    let jobs = [job()].into();
    let work = Box::new(Work::PutDown { jobs });
    node.order(Order::Work { id: 1, work });
    node.settled().await;
    node.crash().await;
    node.order(Order::Abandon { id: 1 });
    while !matches!(node.report().await, Report::Answer { id: 1, .. }) {}
}

/// A queue that begins after a panic ends the waits from before it.
#[actix::test]
async fn a_queue_ends_the_waits_from_before_a_panic() {
    let node = TestNode::new();
    let cause = "a file is gone".into();
    node.order(Order::Watch { job: job(), cause });
    node.settled().await;
    let outside = &node.parts.outside;
    assert!(outside.is_watched(&job()));
    node.crash().await;
    node.order(Order::Begin { queue: 1 });
    node.settled().await;
    assert!(!outside.is_watched(&job()));
}

/// After a panic of the queue alone, what it had placed still ends while its successor places: the
/// job of a run that has not ended begins nowhere, and no job on its device.
#[actix::test]
async fn no_run_begins_beside_one_of_an_earlier_queue() {
    let node = TestNode::with_devices(&["cpu", "cpu:1"]);
    let other = JobId("x7b".into());
    [job(), other.clone()]
        .into_iter()
        .for_each(|job| node.submit(job));
    // The run cannot end before a writer that somebody has left.
    let mut writing = Some(node.parts.node.writers.begin(&job()));
    node.order(Order::Begin { queue: 1 });
    node.place(0, job());
    while !matches!(node.report().await, Report::Job { live: Some(_), .. }) {}

    node.order(Order::Begin { queue: 2 });
    node.place(0, other.clone());
    node.place(1, job());
    let (mut waits, mut ends) = (Vec::new(), Vec::new());
    while ends.len() < 2 {
        match node.report().await {
            Report::Job {
                live: Some(live), ..
            } => {
                let awaited = live.waits.first().map(|wait| wait.waits_for.clone());
                waits.extend(awaited.filter(|what| what.contains("earlier run")));
                if writing.is_some() && waits.len() == 2 {
                    assert!(node.parts.runs.none().now_or_never().is_none());
                    writing = None;
                }
            }
            Report::Ended { queue, job, .. } => {
                assert!(writing.is_none(), "{job} began beside the earlier run");
                assert_eq!(queue, 2, "the earlier queue hears of nothing");
                ends.push(job);
            }
            _ => {}
        }
    }
    let expected = format!("the end of an earlier run, of job {}, on its device", job());
    assert_eq!(waits, [&*expected, "the end of its earlier run"]);
    node.parts.runs.none().await;
}

/// A job that waits for an earlier run is handed back at once when it is stopped.
#[actix::test]
async fn a_job_that_waits_for_an_earlier_run_can_be_stopped() {
    let node = TestNode::with_devices(&["cpu"]);
    node.submit(job());
    let _writing = node.parts.node.writers.begin(&job());
    node.order(Order::Begin { queue: 1 });
    node.place(0, job());
    node.order(Order::Begin { queue: 2 });
    node.place(0, job());
    let (job, after_step) = (job(), true);
    node.order(Order::Stop { job, after_step });
    loop {
        if let Report::Ended { queue, outcome, .. } = node.report().await {
            assert_eq!((queue, outcome), (2, Some(LifeOutcome::Over)));
            return;
        }
    }
}

/// A queue asks for its own probes: those of the one before are broken off, and nothing is heard of
/// them.
#[actix::test]
async fn a_queue_breaks_off_the_probes_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let [worker, pid] = ["worker", "pid"].map(|name| dir.path().join(name));
    // A file that this process has written cannot be run while another thread forks.
    let makes = r#"printf '#!/bin/sh\necho $$ > %s\nexec sleep 600\n' "$1" > "$0"; chmod 700 "$0""#;
    let mut sh = std::process::Command::new("sh");
    let made = sh.arg("-c").arg(makes).args([&worker, &pid]).status();
    assert!(made.unwrap().success());
    let node = TestNode::with_worker(&["cpu"], &worker);
    node.order(Order::Begin { queue: 1 });
    node.order(Order::Probe { device: 0 });
    let pid = until(|| {
        let pid = std::fs::read_to_string(&pid).ok()?;
        Some(pid.strip_suffix('\n')?.to_owned())
    })
    .await;
    node.order(Order::Begin { queue: 2 });
    // Its parent takes note of the end a moment later.
    let stat = Path::new("/proc").join(pid).join("stat");
    until(|| match std::fs::read_to_string(&stat) {
        Ok(stat) if !stat.contains(") Z ") => None,
        _ => Some(()),
    })
    .await;
    node.order(Order::Probe { device: 9 });
    match node.report().await {
        Report::Probed { queue, device, .. } => assert_eq!((queue, device), (2, 9)),
        other => panic!("a probe of the second queue: {other:?}"),
    }
}

/// Waits until there is something.
async fn until<T>(found: impl Fn() -> Option<T>) -> T {
    let looks = async {
        loop {
            match found() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    tokio::time::timeout(REPORT_MAX, looks)
        .await
        .expect("what is awaited")
}
