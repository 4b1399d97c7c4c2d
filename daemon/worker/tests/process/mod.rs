//! A worker as a real process over a real socket, and requests for it.
#![allow(dead_code, reason = "each test binary uses its part")]

mod requests;

use r1d_proto::frame::{Format, read_blocking, write_blocking};
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::*;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

pub(crate) use requests::*;

pub(crate) struct Worker {
    pub process: Child,
    pub socket: UnixStream,
    id: u64,
    pub events: Vec<Event>,
    /// All reports on checkpoints.
    pub reports: Vec<CheckpointReport>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Worker {
    pub(crate) fn start() -> Worker {
        Worker::start_with(&[])
    }

    /// Says whatever moves.
    pub(crate) fn start_talkative() -> Worker {
        Worker::start_with(&["--progress-interval-ms", "0"])
    }

    pub(crate) fn start_with(arguments: &[&str]) -> Worker {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_r1d-worker"))
            .args(["serve", "--device", "cpu"])
            .args(arguments)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut worker = Worker {
            process,
            socket,
            id: 0,
            events: Vec::new(),
            reports: Vec::new(),
        };
        let first: FromWorker = read_blocking(&mut worker.socket, Format::Postcard).unwrap();
        assert!(
            matches!(first.body, Body::Event(Event::Started { .. })),
            "{first:?}"
        );
        worker
    }

    pub(crate) fn try_ask(&mut self, request: WorkerRequest) -> Result<Reply, Failure> {
        self.try_ask_in_parts(request, usize::MAX)
    }

    pub(crate) fn try_ask_in_parts(
        &mut self,
        request: WorkerRequest,
        part_bytes: usize,
    ) -> Result<Reply, Failure> {
        self.id += 1;
        self.events.clear();
        for message in (ToWorker {
            id: self.id,
            request,
        })
        .messages(part_bytes)
        {
            write_blocking(&mut self.socket, Format::Postcard, &message).unwrap();
        }
        loop {
            let message: FromWorker = read_blocking(&mut self.socket, Format::Postcard).unwrap();
            if let Body::Checkpoint(report) = message.body {
                self.reports.push(report);
                continue;
            }
            assert_eq!(message.id, self.id);
            match message.body {
                Body::Checkpoint(_) | Body::Rendezvous(_) => unreachable!(),
                Body::Event(event) => self.events.push(event),
                Body::Done(reply) => return Ok(reply),
                Body::Failed(failure) => return Err(failure),
            }
        }
    }

    pub(crate) fn ask(&mut self, request: WorkerRequest) -> Reply {
        self.try_ask(request)
            .unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    /// Takes a snapshot, whose reports have its step.
    pub(crate) fn save(&mut self, step: u64, dir: &Path) {
        let (stage, dir) = (0, dir.to_owned());
        assert_eq!(
            self.ask(WorkerRequest::Save { stage, step, dir }),
            Reply::SnapshotTaken
        );
    }

    /// Waits until the snapshot of a step is stored, or could not be.
    pub(crate) fn stored(&mut self, step: u64) -> CheckpointState {
        loop {
            let is_over = |report: &&CheckpointReport| {
                report.step == step && !matches!(report.state, CheckpointState::Writing { .. })
            };
            if let Some(report) = self.reports.iter().find(is_over) {
                return report.state.clone();
            }
            let message: FromWorker = read_blocking(&mut self.socket, Format::Postcard).unwrap();
            let Body::Checkpoint(report) = message.body else {
                panic!("{message:?}")
            };
            self.reports.push(report);
        }
    }

    /// Takes a snapshot and waits until it is stored.
    pub(crate) fn save_whole(&mut self, step: u64, dir: &Path) {
        self.save(step, dir);
        let state = self.stored(step);
        assert!(matches!(state, CheckpointState::Stored { .. }), "{state:?}");
    }

    /// What it was said to be doing, and how far it was, of how much.
    pub(crate) fn progress(&self) -> Vec<(&str, u64, u64)> {
        let mut told = Vec::new();
        for event in &self.events {
            if let Event::Progress {
                doing, done, total, ..
            } = event
            {
                told.push((doing.as_str(), *done, *total));
            }
        }
        told
    }

    pub(crate) fn rollouts(&self) -> Vec<Rollout> {
        let mut rollouts: Vec<Rollout> = self
            .events
            .iter()
            .filter_map(|event| match event {
                Event::Completed(rollout) => Some(rollout.clone()),
                _ => None,
            })
            .collect();
        rollouts.sort_by_key(|r| r.key);
        rollouts
    }
}

/// The float32 tensors of a model by name, with their shapes.
pub(crate) type Weights = BTreeMap<String, (Vec<i64>, Vec<f32>)>;

/// The tensors of a model, whatever files they are in.
pub(crate) fn weights(dir: &Path) -> Weights {
    let entries = std::fs::read_dir(dir).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let is_models = |path: &std::path::PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        name.starts_with("model") && name.ends_with(".safetensors")
    };
    let mut all = Weights::new();
    for path in paths.filter(is_models) {
        for (name, tensor) in r1d_model::checkpoint::load_tensors(&path, tch::Device::Cpu).unwrap()
        {
            let values = Vec::<f32>::try_from(tensor.reshape([-1])).unwrap();
            assert!(
                all.insert(name.clone(), (tensor.size(), values)).is_none(),
                "{name} twice"
            );
        }
    }
    assert!(!all.is_empty());
    all
}
