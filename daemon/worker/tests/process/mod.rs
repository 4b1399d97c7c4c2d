//! A worker as a real process over a real socket, and requests for it.
#![allow(dead_code, reason = "each test binary uses its part")]

use r1d_proto::frame::{Format, read_blocking, write_blocking};
use r1d_proto::hyperparameters::*;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::*;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CONFIG: &str = include_str!("../../../../configs/models/tiny-deepseek-v3.json");
pub(crate) const VOCAB: u32 = 64;

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

    fn start_with(arguments: &[&str]) -> Worker {
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
                Body::Checkpoint(_) => unreachable!(),
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

pub(crate) fn config() -> String {
    let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    config["vocab_size"] = VOCAB.into();
    config.to_string()
}

pub(crate) fn open(reference: bool) -> WorkerRequest {
    WorkerRequest::Open(Box::new(Open {
        model: ModelSource::Init {
            config: config(),
            carry: None,
        },
        dtype: Dtype::Float32,
        fp8: false,
        batch_invariant: true,
        reference,
        optimiser: Some(Optimiser {
            learning_rate: 1e-3,
            lr_scheduler_type: LrSchedule::Constant,
            warmup_steps: 0,
            total_steps: 10,
            min_lr_ratio: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            exp_avg_dtype: Dtype::Float32,
            exp_avg_sq_dtype: Dtype::Float32,
            optimizer_offload: OptimizerOffload::None,
        }),
        router: RouterTraining {
            bias_update_speed: 1e-3,
            aux_loss_alpha: 1e-4,
            device_loss_alpha: 0.0,
        },
        lora: None,
        mtp_loss_weight: 0.0,
        speculative_decoding: false,
        scores: false,
        value_model: None,
        sampler: Some(Slots::of(4, 64)),
        max_tokens_per_device: 256,
        gradient_checkpointing: None,
        seed: 3,
    }))
}

pub(crate) fn generate(step: u64) -> WorkerRequest {
    let groups = (0..2)
        .map(|prompt| Group {
            prompt,
            row: prompt as u64,
            prompt_ids: (5..12).map(|i| i + prompt).collect(),
            samples: vec![0, 1, 2],
        })
        .collect();
    // As a stage that trains on what it samples, with ids cut off.
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 0.9,
        top_k: 20,
        keep_sampling_mask: true,
        max_completion_length: 12,
        stop_ids: vec![1],
        seed: 9,
    };
    WorkerRequest::Generate(Generate {
        stage: 0,
        step,
        policy_version: step,
        sampling,
        record_experts: true,
        groups,
    })
}

pub(crate) fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}
