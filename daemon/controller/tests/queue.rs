//! A controller whose node is the test: what it orders, and what it makes of reports.

use r1d_controller::{Controller, ControllerSetup};
use r1d_job::DaemonConfig;
use r1d_ledger::{Command, Memory, NewJob, Session};
use r1d_link::{NodeEnd, Order, Report, in_memory};
use r1d_proto::ids::JobId;
use r1d_proto::world::SystemClock;
use r1d_runner::life::{History, LifeOutcome};
use std::sync::Arc;
use std::time::Duration;

/// Longest wait for an order.
const ORDER_MAX: Duration = Duration::from_secs(20);

struct World {
    ledger: Arc<Session>,
    node: NodeEnd,
    controller: Controller,
}

impl World {
    fn new() -> World {
        let (link, node) = in_memory();
        let ledger = Arc::new(Session::open(Arc::new(Memory::default()), 1));
        let setup = ControllerSetup {
            ledger: ledger.clone(),
            clock: SystemClock::shared(),
            node_name: "node".into(),
            devices: vec!["cpu".into()],
            state_dir: "/s".into(),
            retention: DaemonConfig::dev().unwrap().retention,
            admin_group: "r1d-admin".into(),
            shutdown: None,
        };
        World {
            ledger,
            node,
            controller: Controller::start(setup, link),
        }
    }

    fn submit(&self, job: &str) {
        let submit = Command::Submit(NewJob::of(JobId(job.into()), "seed = 1"));
        self.ledger.apply(submit).unwrap();
    }

    async fn order(&self) -> Order {
        tokio::time::timeout(ORDER_MAX, self.node.orders.next())
            .await
            .expect("an order")
    }

    async fn begun(&self) -> u64 {
        match self.order().await {
            Order::Begin { queue } => queue,
            other => panic!("a queue begins: {other:?}"),
        }
    }

    /// The job that is placed next.
    async fn placed(&self) -> String {
        match self.order().await {
            Order::Place { devices, job, .. } if devices == [0] => job.0,
            other => panic!("a job is placed: {other:?}"),
        }
    }

    /// Waits for the order to probe the device.
    async fn probe(&self) {
        match self.order().await {
            Order::Probe { device: 0 } => {}
            other => panic!("the device is probed: {other:?}"),
        }
    }

    /// Checks that no order comes before a tick and more has passed.
    async fn nothing(&self) {
        let early = tokio::time::timeout(Duration::from_millis(1500), self.node.orders.next());
        assert!(early.await.is_err(), "a tick and more has passed");
    }

    /// Has the node report that jobs may begin on its device.
    fn can_begin(&self) {
        self.node.reports.send(Report::Held(None));
        let (device, problem) = (0, None);
        self.node.reports.send(Report::Tried { device, problem });
    }

    fn handed_back(&self, queue: u64, job: &str, outcome: Option<LifeOutcome>) {
        self.node.reports.send(Report::Ended {
            queue,
            device: 0,
            job: JobId(job.into()),
            outcome,
        });
    }

    fn probed(&self, queue: u64) {
        let (device, problem) = (0, None);
        self.node.reports.send(Report::Probed {
            queue,
            device,
            problem,
        });
    }

    fn ended(&self, queue: u64, job: &str) {
        let at = 2;
        let cancel = Command::Cancel {
            job: JobId(job.into()),
            at,
        };
        // The second of two reports finds the job ended.
        let _ = self.ledger.apply(cancel);
        self.handed_back(queue, job, Some(LifeOutcome::Over));
    }
}

/// No job is placed on a device that nobody has looked at, nor while workers of an earlier daemon
/// are there.
#[actix::test]
async fn a_job_waits_for_its_device_and_for_the_workers_before() {
    let world = World::new();
    world.submit("a");
    world.begun().await;
    let (device, problem) = (0, None);
    world.node.reports.send(Report::Tried { device, problem });
    // The node says nothing of old workers for a while, and then that there are some.
    world.nothing().await;
    let old = "a worker of the daemon before this one still runs";
    world.node.reports.send(Report::Held(Some(old.into())));
    world.nothing().await;
    world.node.reports.send(Report::Held(None));
    assert_eq!(world.placed().await, "a");
}

/// A node that has lost its runs by a panic gets the jobs again; what it still says of the runs
/// before does not free the device of those that it has now.
#[actix::test]
async fn a_job_whose_run_is_lost_is_placed_again_by_another_queue() {
    let world = World::new();
    world.submit("a");
    let first = world.begun().await;
    world.can_begin();
    assert_eq!(world.placed().await, "a");

    world.node.reports.send(Report::Restarted);
    let second = world.begun().await;
    assert!(second > first);
    assert_eq!(world.placed().await, "a");
    world.submit("b");
    world.ended(first, "a");
    world.nothing().await;
    world.ended(second, "a");
    assert_eq!(world.placed().await, "b");
}

/// A job that is cancelled while the report is under way that it waits is not waited for.
#[actix::test]
async fn a_job_that_is_over_does_not_wait_for_what_is_outside() {
    let world = World::new();
    world.submit("a");
    let queue = world.begun().await;
    world.can_begin();
    assert_eq!(world.placed().await, "a");
    let job = || JobId("a".into());
    let cancel = Command::Cancel { job: job(), at: 2 };
    world.ledger.apply(cancel).unwrap();
    let cause = "a file is gone".into();
    let waits = LifeOutcome::WaitsOutside { epoch: None, cause };
    world.handed_back(queue, "a", Some(waits));
    let forgotten = [world.order().await, world.order().await];
    assert!(
        matches!(&forgotten, [Order::Unwatch { job: a }, Order::Recorded { job: b }]
            if *a == job() && *b == job()),
        "{forgotten:?}"
    );
}

/// A stop that meets a queue which is being made anew stops what that one has placed.
#[actix::test]
async fn a_stop_waits_for_the_queue() {
    let world = World::new();
    world.submit("a");
    let first = world.begun().await;
    world.can_begin();
    assert_eq!(world.placed().await, "a");
    world.node.reports.send(Report::Restarted);
    let stops = async {
        // The first queue is gone by then, and the second is not there.
        tokio::time::sleep(Duration::from_millis(100)).await;
        world.controller.stop(false).await;
    };
    let node = async {
        let second = world.begun().await;
        assert!(second > first);
        assert_eq!(world.placed().await, "a");
        match world.order().await {
            Order::Stop { job, .. } => assert_eq!(job.0, "a"),
            other => panic!("the job is stopped: {other:?}"),
        }
        world.ended(second, "a");
    };
    tokio::time::timeout(ORDER_MAX, async { tokio::join!(stops, node) })
        .await
        .expect("it is stopped");
}

/// What an earlier queue's probe has found is not taken for what this one has asked for.
#[actix::test]
async fn a_late_probe_frees_no_device() {
    let world = World::new();
    world.submit("a");
    let first = world.begun().await;
    world.can_begin();
    assert_eq!(world.placed().await, "a");
    let (epoch, cause) = (None, "no memory".into());
    let unusable = LifeOutcome::DeviceUnusable { epoch, cause };
    world.handed_back(first, "a", Some(unusable));
    world.probe().await;
    world.node.reports.send(Report::Restarted);
    let second = world.begun().await;
    world.probe().await;
    world.probed(first);
    world.nothing().await;
    world.probed(second);
    assert_eq!(world.placed().await, "a");
}

/// A job whose runs panic is given up, although the node loses its runs in between.
#[actix::test]
async fn a_job_whose_runs_panic_is_given_up() {
    let world = World::new();
    world.submit("a");
    let mut queue = world.begun().await;
    world.can_begin();
    assert_eq!(world.placed().await, "a");
    for _ in 1..3 {
        world.handed_back(queue, "a", None);
        assert_eq!(world.placed().await, "a");
        world.node.reports.send(Report::Restarted);
        queue = world.begun().await;
        assert_eq!(world.placed().await, "a");
    }
    world.handed_back(queue, "a", None);
    match world.order().await {
        Order::Recorded { job } => assert_eq!(job.0, "a"),
        other => panic!("its end is recorded: {other:?}"),
    }
    let record = world.ledger.job(&JobId("a".into())).unwrap();
    let error = record.progress.error.as_deref().unwrap_or_default();
    assert!(error.contains("panicked 3 times"), "{error}");
}

/// A device that failed one job after the other gets none from the queue after a restart of the
/// node either.
#[actix::test]
async fn a_quarantined_device_stays_so_when_the_node_restarts() {
    let world = World::new();
    ["a", "b"].into_iter().for_each(|job| world.submit(job));
    let queue = world.begun().await;
    world.can_begin();
    for job in ["a", "b"] {
        assert_eq!(world.placed().await, job);
        let (history, cause) = (History::default(), "the worker died".into());
        let doubted = LifeOutcome::DeviceDoubted { history, cause };
        world.handed_back(queue, job, Some(doubted));
        world.probe().await;
        world.probed(queue);
        if job == "a" {
            // It was the job, as far as the probe tells.
            assert_eq!(world.placed().await, job);
            world.ended(queue, job);
        }
    }
    world.nothing().await;
    world.node.reports.send(Report::Restarted);
    world.begun().await;
    world.nothing().await;
}
