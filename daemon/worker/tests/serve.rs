//! The worker as a real process over a real socket: the conversation that `r1d` holds with it.

mod process;

use process::*;
use r1d_proto::hyperparameters::*;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::*;

/// Samples and trains one step; the metrics but the clock's.
fn step(worker: &mut Worker, at: u64) -> (Vec<Rollout>, Metrics) {
    worker.ask(generate(at));
    let rollouts = worker.rollouts();
    let Reply::Trained { mut metrics } = worker.ask(train(at, &rollouts)) else {
        panic!("not Trained")
    };
    metrics.retain(|name, _| !name.starts_with("timing_s/") && !name.starts_with("perf/"));
    (rollouts, metrics)
}

#[test]
fn a_restored_worker_goes_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, one, two) = (
        dir.path().join("checkpoint"),
        dir.path().join("one"),
        dir.path().join("two"),
    );

    let mut worker = Worker::start();
    worker.ask(open(true));
    step(&mut worker, 0);
    worker.ask(WorkerRequest::SyncReference);
    step(&mut worker, 1);
    // What changes from here on changes nothing of the checkpoint.
    worker.save(2, &checkpoint);
    let last = step(&mut worker, 2);
    assert!(matches!(worker.stored(2), CheckpointState::Stored { .. }));
    worker.ask(WorkerRequest::Export { dir: one.clone() });
    drop(worker);

    let mut worker = Worker::start();
    worker.ask(open(true));
    worker.ask(WorkerRequest::Restore { dir: checkpoint });
    assert_eq!(step(&mut worker, 2), last);
    worker.ask(WorkerRequest::Export { dir: two.clone() });
    assert!(weights(&one) == weights(&two), "the weights differ");
    // What was cut off is recorded, and ROLL-2 holds in the reference mode.
    assert!(last.0.iter().all(|rollout| !rollout.kept_ids.is_empty()));
    assert!(last.1["sampling/kept_ids/mean"] < 20.0, "{:?}", last.1);
    assert_eq!(last.1["sampling/sampling_logp_difference/max"], 0.0);
    assert!(
        last.1["kl"] > 0.0,
        "the reference is one step behind: {:?}",
        last.1
    );
}

#[test]
fn gradient_checkpointing_changes_no_bit_of_a_step() {
    let steps = |gradient_checkpointing: Option<GradientCheckpointing>| {
        let WorkerRequest::Open(request) = open(true) else {
            panic!("not Open")
        };
        let mut worker = Worker::start();
        worker.ask(WorkerRequest::Open(Box::new(Open {
            gradient_checkpointing,
            ..*request
        })));
        [0, 1].map(|at| step(&mut worker, at))
    };
    let all = GradientCheckpointing {
        recompute_num_layers: u32::MAX,
    };
    assert_eq!(steps(Some(all)), steps(None));
}

#[test]
fn an_optimiser_on_the_host_changes_no_bit_of_a_step() {
    let steps = |optimizer_offload| {
        let WorkerRequest::Open(mut request) = open(true) else {
            panic!("not Open")
        };
        request.optimiser = request.optimiser.map(|optimiser| Optimiser {
            optimizer_offload,
            ..optimiser
        });
        let mut worker = Worker::start();
        worker.ask(WorkerRequest::Open(request));
        [0, 1].map(|at| step(&mut worker, at))
    };
    assert_eq!(steps(OptimizerOffload::Cpu), steps(OptimizerOffload::None));
}

/// The experts of a step may be many times what a frame holds.
#[test]
fn a_step_is_the_same_in_however_many_messages_it_comes() {
    let trained = |part_bytes: usize| {
        let mut worker = Worker::start();
        worker.ask(open(true));
        worker.ask(generate(0));
        let rollouts = worker.rollouts();
        assert!(
            rollouts.iter().all(|rollout| !rollout.experts.is_empty()),
            "a mixture of experts"
        );
        let Ok(Reply::Trained { mut metrics }) =
            worker.try_ask_in_parts(train(0, &rollouts), part_bytes)
        else {
            panic!("not trained")
        };
        metrics.retain(|name, _| !name.starts_with("timing_s/") && !name.starts_with("perf/"));
        metrics
    };
    assert_eq!(trained(1), trained(usize::MAX));
}

#[test]
fn a_request_that_cannot_be_met_is_answered_and_the_worker_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    let failure = worker.try_ask(generate(0)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");

    let WorkerRequest::Open(mut request) = open(false) else {
        unreachable!()
    };
    request.model = ModelSource::Directory(dir.path().join("missing"));
    let failure = worker.try_ask(WorkerRequest::Open(request)).unwrap_err();
    assert_eq!(
        failure.kind,
        FailureKind::Internal,
        "what is not there may come back: {failure:?}"
    );
    assert!(failure.message.contains("missing"), "{failure:?}");

    worker.ask(open(false));
    let failure = worker.try_ask(WorkerRequest::SyncReference).unwrap_err();
    assert!(failure.message.contains("reference"), "{failure:?}");
    let failure = worker
        .try_ask(WorkerRequest::Restore {
            dir: dir.path().into(),
        })
        .unwrap_err();
    assert!(failure.message.contains("manifest"), "{failure:?}");
    worker.ask(generate(0));
    assert_eq!(worker.rollouts().len(), 6);
}

#[test]
fn the_end_of_the_conversation_is_the_end_of_the_process() {
    let mut worker = Worker::start();
    worker.socket.shutdown(std::net::Shutdown::Both).unwrap();
    let ended = worker.process.wait().unwrap();
    assert!(ended.success(), "{ended}");
}

/// What the daemon asks before it gives a device jobs: its exit status tells the machine's fault
/// from a job's.
#[test]
fn a_probe_tells_whether_the_device_can_be_used() {
    let probe = |device: &str| {
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_r1d-worker"))
            .args(["probe", "--device", device])
            .output()
            .unwrap();
        (
            ended.status.code(),
            String::from_utf8_lossy(&ended.stderr).into_owned(),
        )
    };
    assert_eq!(probe("cpu").0, Some(0));
    let (code, said) = probe("cuda:99");
    assert_eq!(
        code,
        Some(i32::from(r1d_proto::worker::EXIT_NO_DEVICE)),
        "{said}"
    );
    assert!(said.contains("cuda:99"), "{said}");
}
