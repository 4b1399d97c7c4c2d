//! The link between controller and node: what waits, and what arrives.

use futures_util::FutureExt;
use r1d_link::memory::{EXIT_OVERFLOW, WAITING_MAX_MESSAGES, channel};
use r1d_link::{DeviceUse, JobSnapshot, Message, Order, Report, Work, in_memory};
use r1d_proto::ids::JobId;
use r1d_runner::life::{History, JobEnd, LifeOutcome};
use r1d_runner::restart::Progress;
use r1d_runner::wait::Wait;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The message as the other side reads it. Cargo sets `R1D_STRICT=1`, so it was encoded.
fn received<M: Message>(message: M) -> M {
    let (outbox, inbox) = channel();
    outbox.send(message);
    inbox.next().now_or_never().expect("a message")
}

fn job() -> JobId {
    JobId("k3v".into())
}

fn used(state: &str) -> Report {
    let used = DeviceUse {
        state: state.into(),
        ..DeviceUse::none()
    };
    Report::Device { device: 1, used }
}

/// A slow controller is told of what is, not of all that was; what happened it is told in full,
/// and in order.
#[test]
fn only_the_newest_status_waits_and_every_event_does() {
    let (controller, node) = in_memory();
    let shown = |steps| Report::Job {
        job: job(),
        live: Some(Box::new(JobSnapshot {
            steps: vec![steps],
            ..JobSnapshot::default()
        })),
    };
    for steps in 0..3 * WAITING_MAX_MESSAGES as u64 {
        node.reports.send(shown(steps));
        node.reports.send(used("busy"));
    }
    for _ in 0..2 {
        node.reports.send(Report::Mended { job: job() });
    }
    node.reports.send(used("idle"));
    let mut read = Vec::new();
    while let Some(report) = controller.reports.next().now_or_never() {
        read.push(match report {
            Report::Job {
                live: Some(live), ..
            } => format!("steps {:?}", live.steps),
            Report::Device { used, .. } => used.state,
            Report::Mended { .. } => "mended".into(),
            other => panic!("{other:?}"),
        });
    }
    let newest = format!("steps [{}]", 3 * WAITING_MAX_MESSAGES - 1);
    assert_eq!(read, [&newest, "mended", "mended", "idle"]);
}

#[test]
fn a_reader_that_waits_is_woken() {
    let (controller, node) = in_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let sender = std::thread::spawn(move || {
        controller.orders.send(Order::Probe { device: 0 });
        controller.orders.send(Order::Probe { device: 1 });
    });
    let read = async { (node.orders.next().await, node.orders.next().await) };
    let read = runtime.unwrap().block_on(read);
    sender.join().unwrap();
    assert!(matches!(
        read,
        (Order::Probe { device: 0 }, Order::Probe { device: 1 })
    ));
}

/// What the schedule counts by arrives as it was sent.
#[test]
fn what_is_decided_by_survives_its_encoding() {
    let mut history = History::default();
    let progress = Progress {
        stages_finished: 1,
        steps: u64::MAX,
        evals: 0,
        checkpoints: 2,
    };
    (history.attempts).abandoned("no memory".into(), progress);
    let placed = Order::Place {
        devices: vec![3, 1],
        job: job(),
        resumed: Some(7),
        history: history.clone(),
        doubts_device: true,
    };
    let Order::Place {
        devices,
        history: arrived,
        resumed: Some(7),
        ..
    } = received(placed)
    else {
        panic!("an order to place")
    };
    assert_eq!((devices, arrived), (vec![3, 1], history.clone()));
    for outcome in [
        LifeOutcome::Over,
        LifeOutcome::Unrecorded(JobEnd {
            epoch: 2,
            result: Ok("/m".into()),
        }),
        LifeOutcome::DeviceDoubted {
            history,
            cause: "\u{1b}[31m".into(),
        },
    ] {
        let ended = Report::Ended {
            queue: 1,
            device: 0,
            job: job(),
            outcome: Some(outcome.clone()),
        };
        let Report::Ended {
            outcome: Some(arrived),
            ..
        } = received(ended)
        else {
            panic!("an end")
        };
        assert_eq!(arrived, outcome);
    }
}

#[test]
fn what_people_are_shown_survives_its_encoding() {
    let live = JobSnapshot {
        waits: vec![Wait::new("job", "a worker", Duration::from_nanos(u64::MAX)).of_worker()],
        eta_s: Some(0.1),
        ..JobSnapshot::default()
    };
    let live = Box::new(live);
    let shown = Report::Job {
        job: job(),
        live: Some(live.clone()),
    };
    let Report::Job {
        live: Some(arrived),
        ..
    } = received(shown)
    else {
        panic!("a snapshot")
    };
    assert_eq!(arrived, live);
    let work = Order::Work {
        id: u64::MAX,
        work: Box::new(Work::Plugins),
    };
    assert!(matches!(received(work), Order::Work { id: u64::MAX, .. }));
}

/// A message that keeps something back from its encoding, as one with a pointer in it would.
#[derive(Serialize, Deserialize)]
struct Smuggler {
    #[serde(skip)]
    kept: Option<u32>,
    said: u32,
}

impl Message for Smuggler {}

#[test]
fn what_an_encoding_does_not_carry_does_not_arrive() {
    let (kept, said) = (Some(1), 2);
    let arrived = received(Smuggler { kept, said });
    assert_eq!((arrived.kept, arrived.said), (None, 2));
}

/// A message is never lost in silence: a device whose job's end is lost gets no job again. The
/// test runs itself as a daemon, which is not strict.
#[test]
fn a_process_ends_rather_than_lose_a_message() {
    const OF_CHILD: &str = "R1D_TEST_OVERFLOW";
    if std::env::var_os(OF_CHILD).is_some() {
        let (_controller, node) = in_memory();
        for _ in 0..=WAITING_MAX_MESSAGES {
            node.reports.send(Report::Mended { job: job() });
        }
        return;
    }
    let ended = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_process_ends_rather_than_lose_a_message"])
        .envs([(OF_CHILD, "1"), ("R1D_STRICT", "0")])
        .output()
        .unwrap();
    assert_eq!(ended.status.code(), Some(EXIT_OVERFLOW), "{ended:?}");
}
