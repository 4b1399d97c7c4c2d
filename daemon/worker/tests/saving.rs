//! Checkpoints that are written while the worker goes on.

mod process;

use process::*;
use r1d_model::checkpoint;
use r1d_proto::worker::*;
use std::fs;
use tch::Device;

fn trained(step: u64) -> WorkerRequest {
    let sequence = SupervisedSequence {
        ids: (2..40).map(|id| id % VOCAB).collect(),
        trained: vec![true; 38],
    };
    WorkerRequest::Supervise(Supervise {
        step,
        sequences: vec![sequence; 2],
    })
}

/// Each is of its own step, and the second begins when the first is stored.
#[test]
fn checkpoints_are_written_one_after_the_other_with_the_weights_of_their_steps() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    worker.ask(open(true));
    for step in 1..4 {
        worker.ask(trained(step - 1));
        worker.save(step, &dir.path().join(step.to_string()));
    }
    worker.ask(trained(3));
    let stored = |step: u64, worker: &Worker| {
        let whole = |report: &&CheckpointReport| {
            report.step == step && matches!(report.state, CheckpointState::Stored { .. })
        };
        worker.reports.iter().filter(whole).count()
    };
    assert_eq!([1, 2].map(|step| stored(step, &worker)), [1, 1]);
    let CheckpointState::Stored { manifest_sha256 } = worker.stored(3) else {
        panic!("not stored")
    };
    let manifest = checkpoint::verify_manifest(&dir.path().join("3")).unwrap();
    assert_eq!(manifest.sha256, manifest_sha256);
    let updates = |step: u64| {
        let file = dir.path().join(format!("{step}/trainer.safetensors"));
        let tensors = checkpoint::load_tensors(&file, Device::Cpu).unwrap();
        let (_, steps) = tensors.iter().find(|(name, _)| name == "steps").unwrap();
        steps.double_value(&[0])
    };
    assert_eq!([1, 2, 3].map(updates), [1.0, 2.0, 3.0]);
}

/// A disk that takes nothing is for people to mend; the worker has its weights and goes on.
#[test]
fn what_cannot_be_written_is_reported_after_the_snapshot_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    let mut worker = Worker::start();
    worker.ask(open(true));
    worker.save(1, &dir.path().join("file/step-1"));
    let CheckpointState::Failed(failure) = worker.stored(1) else {
        panic!("it cannot be stored")
    };
    assert_eq!(failure.kind, FailureKind::Storage, "{failure:?}");
    assert!(failure.message.contains("file"), "{failure:?}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    worker.ask(trained(0));
    worker.save_whole(2, &dir.path().join("step-2"));
}

/// Who waits for a checkpoint hears that it moves.
#[test]
fn the_writing_is_heard_of() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start_talkative();
    worker.ask(open(true));
    worker.save(1, &dir.path().join("step-1"));
    worker.ask(trained(0));
    worker.stored(1);
    let told: Vec<_> = worker.reports.iter().map(|report| &report.state).collect();
    let far = told.iter().filter_map(|state| match state {
        CheckpointState::Writing { done, total } => Some((*done, *total)),
        _ => None,
    });
    let far: Vec<_> = far.collect();
    assert!(far.len() > 20 && far.is_sorted(), "{far:?}");
    assert!(far.iter().all(|(done, total)| done <= total), "{far:?}");
}
