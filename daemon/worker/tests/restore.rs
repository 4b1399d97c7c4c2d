//! Restoring: what counts as a damaged checkpoint, and how much memory it takes.

mod process;

use process::*;
use r1d_model::checkpoint;
use r1d_proto::worker::*;
use rustix::process::{Pid, Resource, Rlimit};
use std::fs;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

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

/// A worker that has restored nothing yet, and a checkpoint with a reference and an optimiser's
/// state.
fn saved(dir: &Path) -> (Worker, PathBuf) {
    let checkpoint = dir.join("stage/step-1");
    let mut worker = Worker::start();
    worker.ask(open(true));
    worker.ask(trained(0));
    worker.save_whole(1, &checkpoint);
    (worker, checkpoint)
}

fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copied(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

const FILES: [&str; 5] = [
    "config.json",
    "manifest.json",
    "model.safetensors",
    "trainer.safetensors",
    "reference/model.safetensors",
];

#[test]
fn a_file_that_is_not_what_was_written_makes_a_damaged_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let (mut worker, checkpoint) = saved(dir.path());
    let mut kind = |of: &Path| {
        worker
            .try_ask(WorkerRequest::Restore { dir: of.into() })
            .map_err(|failure| failure.kind)
    };
    let damages: [fn(&Path); 3] = [
        |file| {
            let mut bytes = fs::read(file).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(file, bytes).unwrap();
        },
        |file| fs::write(file, &fs::read(file).unwrap()[1..]).unwrap(),
        |file| fs::remove_file(file).unwrap(),
    ];
    for file in FILES {
        for (number, damage) in damages.iter().enumerate() {
            let copy = dir
                .path()
                .join(format!("damaged/{number}-{}", file.replace('/', "-")));
            copied(&checkpoint, &copy);
            damage(&copy.join(file));
            assert_eq!(kind(&copy), Err(FailureKind::Invalid), "{file} {number}");
        }
    }
    // Whole, and of another shape than what is open.
    let tensors =
        |file: &str| checkpoint::load_tensors(&checkpoint.join(file), Device::Cpu).unwrap();
    for file in [
        "model.safetensors",
        "trainer.safetensors",
        "reference/model.safetensors",
    ] {
        type Change = fn(&mut Vec<(String, Tensor)>);
        let changes: [Change; 3] = [
            |tensors| drop(tensors.pop()),
            |tensors| {
                tensors.last_mut().unwrap().1 = Tensor::zeros([1], (Kind::Float, Device::Cpu))
            },
            |tensors| {
                tensors.last_mut().unwrap().1 = tensors.last().unwrap().1.to_kind(Kind::Int64)
            },
        ];
        for (number, change) in changes.iter().enumerate() {
            let copy = dir
                .path()
                .join(format!("changed/{number}-{}", file.replace('/', "-")));
            let mut own = tensors(file);
            change(&mut own);
            checkpoint::write_directory_atomically(&copy, |into| {
                copied(&checkpoint, into);
                fs::remove_file(into.join("manifest.json")).unwrap();
                checkpoint::save_tensors(&into.join(file), &own)
            })
            .unwrap();
            assert_eq!(kind(&copy), Err(FailureKind::Invalid), "{file} {number}");
        }
    }
    // Gone from a folder that is there, it is lost.
    assert_eq!(
        kind(&dir.path().join("stage/step-2")).unwrap_err(),
        FailureKind::Invalid
    );
    assert!(kind(&checkpoint).is_ok());
}

#[test]
fn weights_that_are_not_finite_are_refused_when_they_are_opened() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copied(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/qwen2"),
        &model,
    );
    let file = model.join("model.safetensors");
    let tensors = checkpoint::load_tensors(&file, Device::Cpu).unwrap();
    let WorkerRequest::Open(mut request) = open(true) else {
        unreachable!()
    };
    request.model = ModelSource::Directory(model);
    let mut worker = Worker::start();
    for damage in [f64::NAN, f64::INFINITY] {
        let mut changed: Vec<_> = tensors
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.copy()))
            .collect();
        let (name, tensor) = &mut changed[3];
        let _ = tensor.view([-1]).narrow(0, 5, 1).fill_(damage);
        let name = name.clone();
        checkpoint::save_tensors(&file, &changed).unwrap();
        let failure = worker
            .try_ask(WorkerRequest::Open(request.clone()))
            .unwrap_err();
        // The same weights would fail again.
        assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");
        assert!(
            failure.message.contains(&name)
                && failure.message.contains("1 values that are not finite"),
            "{failure:?}"
        );
    }
    checkpoint::save_tensors(&file, &tensors).unwrap();
    worker.ask(WorkerRequest::Open(request));
}

/// The limit of a process, for the time of `work`.
fn limited<T>(
    worker: &mut Worker,
    resource: Resource,
    limit: u64,
    work: impl FnOnce(&mut Worker) -> T,
) -> T {
    let pid = Pid::from_raw(worker.process.id() as i32);
    let maximum = rustix::process::getrlimit(resource).maximum;
    let before = rustix::process::prlimit(
        pid,
        resource,
        Rlimit {
            current: Some(limit),
            maximum,
        },
    )
    .unwrap();
    let done = work(worker);
    rustix::process::prlimit(pid, resource, before).unwrap();
    done
}

#[test]
fn what_fails_for_the_machines_sake_leaves_the_checkpoint_as_good_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (mut worker, checkpoint) = saved(dir.path());
    let mut failure = |resource, limit, dir: &Path| {
        let request = WorkerRequest::Restore { dir: dir.into() };
        limited(&mut worker, resource, limit, |worker| {
            worker.try_ask(request).unwrap_err()
        })
    };
    // No file can be opened: EMFILE.
    let no_handle = failure(Resource::Nofile, 3, &checkpoint);
    assert_eq!(no_handle.kind, FailureKind::Internal, "{no_handle:?}");
    // No memory can be had, neither for a mapping nor for a tensor.
    let no_memory = failure(Resource::As, 1 << 20, &checkpoint);
    assert!(
        matches!(
            no_memory.kind,
            FailureKind::OutOfMemory | FailureKind::Internal
        ),
        "{no_memory:?}"
    );
    // The folder is away: a disk that is not mounted.
    fs::rename(dir.path().join("stage"), dir.path().join("away")).unwrap();
    let away = worker
        .try_ask(WorkerRequest::Restore {
            dir: checkpoint.clone(),
        })
        .unwrap_err();
    assert_eq!(away.kind, FailureKind::Internal, "{away:?}");
    fs::rename(dir.path().join("away"), dir.path().join("stage")).unwrap();
    worker.ask(WorkerRequest::Restore { dir: checkpoint });
}

/// Peak of the resident memory, bytes.
fn peak(worker: &Worker) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", worker.process.id())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    line.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<u64>()
        .unwrap()
        << 10
}

/// 37 million parameters, which are far more than the activations of a few short sequences.
fn large() -> WorkerRequest {
    let WorkerRequest::Open(mut request) = open(true) else {
        unreachable!()
    };
    let config = serde_json::json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "vocab_size": VOCAB,
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 2,
            "num_attention_heads": 8,
            "num_key_value_heads": 8,
        "max_position_embeddings": 64});
    request.model = ModelSource::Init {
        config: config.to_string(),
        carry: None,
    };
    (request.batch_invariant, request.sampler) = (false, None);
    WorkerRequest::Open(request)
}

#[test]
fn restoring_needs_no_more_memory_than_training() {
    let dir = tempfile::tempdir().unwrap();
    let checkpoint = dir.path().join("checkpoint");
    let mut worker = Worker::start();
    worker.ask(large());
    worker.ask(trained(0));
    let training = peak(&worker);
    worker.save_whole(1, &checkpoint);
    drop(worker);
    let mut worker = Worker::start();
    worker.ask(large());
    let opened = peak(&worker);
    worker.ask(WorkerRequest::Restore { dir: checkpoint });
    let restored = peak(&worker);
    println!("peak: opened {opened}, restored {restored}, trained {training} bytes");
    assert!(
        restored <= training,
        "restoring took {restored} bytes at its peak, training {training}"
    );
}
