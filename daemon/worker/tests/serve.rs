//! The worker as a real process over a real socket: the conversation that `r1d` holds with it.

use r1d_proto::frame::{Format, read_blocking, write_blocking};
use r1d_proto::recipe::*;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::*;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const CONFIG: &str = include_str!("../../../configs/models/tiny-deepseek-v3.json");
const VOCAB: u32 = 64;

struct Worker {
    process: Child,
    socket: UnixStream,
    id: u64,
    events: Vec<Event>,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Worker {
    fn start() -> Worker {
        let (socket, theirs) = UnixStream::pair().unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_r1d-worker"))
            .args(["serve", "--device", "cpu"])
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .spawn()
            .unwrap();
        let mut worker = Worker { process, socket, id: 0, events: Vec::new() };
        let first: FromWorker = read_blocking(&mut worker.socket, Format::Postcard).unwrap();
        assert!(matches!(first.body, Body::Event(Event::Started { .. })), "{first:?}");
        worker
    }

    fn try_ask(&mut self, request: Request) -> Result<Reply, Failure> {
        self.id += 1;
        self.events.clear();
        write_blocking(&mut self.socket, Format::Postcard, &ToWorker { id: self.id, request }).unwrap();
        loop {
            let message: FromWorker = read_blocking(&mut self.socket, Format::Postcard).unwrap();
            assert_eq!(message.id, self.id);
            match message.body {
                Body::Event(event) => self.events.push(event),
                Body::Done(reply) => return Ok(reply),
                Body::Failed(failure) => return Err(failure),
            }
        }
    }

    fn ask(&mut self, request: Request) -> Reply {
        self.try_ask(request).unwrap_or_else(|failure| panic!("{failure:?}"))
    }

    fn rollouts(&self) -> Vec<Rollout> {
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

fn config() -> String {
    let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    config["vocab_size"] = VOCAB.into();
    config.to_string()
}

fn open(reference: bool) -> Request {
    Request::Open(Box::new(Open {
        model: ModelSource::Init { config: config(), carry: None },
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
        }),
        router: RouterTraining { bias_update_speed: 1e-3, aux_loss_alpha: 1e-4, device_loss_alpha: 0.0 },
        lora: None,
        mtp_loss_weight: 0.0,
        speculative_decoding: false,
        sampler: Some(Slots { count: 4, capacity: 32 }),
        max_tokens_per_device: 256,
        seed: 3,
    }))
}

fn generate(step: u64) -> Request {
    let groups = (0..2)
        .map(|prompt| Group {
            prompt,
            row: prompt as u64,
            prompt_ids: (5..12).map(|i| i + prompt).collect(),
            samples: vec![0, 1, 2],
        })
        .collect();
    let sampling = Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, max_completion_length: 12, stop_ids: vec![1], seed: 9 };
    Request::Generate(Generate { stage: 0, step, policy_version: step, sampling, groups })
}

fn train(step: u64, rollouts: &[Rollout]) -> Request {
    let sequences = rollouts
        .iter()
        .enumerate()
        .map(|(i, r)| TrainSequence {
            prompt_ids: r.prompt_ids.clone(),
            completion_ids: r.completion_ids.clone(),
            behaviour_logprobs: r.behaviour_logprobs.clone(),
            experts: r.experts.clone(),
            advantage: if i % 2 == 0 { 1.0 } else { -1.0 },
            truncated: false,
        })
        .collect();
    let objective = Objective {
        loss_type: LossType::Grpo,
        importance_sampling_level: ImportanceSamplingLevel::Token,
        epsilon: 0.2,
        epsilon_high: 0.2,
        beta: 0.01,
        num_iterations: 1,
        num_minibatches: 1,
        mask_truncated_completions: false,
        max_completion_length: 12,
        temperature: 1.0,
        routing_replay: true,
    };
    Request::Train(Train { step, first_update: step, objective, seed: 1, sequences })
}

/// Samples and trains one step; the metrics but the clock's.
fn step(worker: &mut Worker, at: u64) -> (Vec<Rollout>, Metrics) {
    worker.ask(generate(at));
    let rollouts = worker.rollouts();
    let Reply::Trained { mut metrics } = worker.ask(train(at, &rollouts)) else { panic!("not Trained") };
    metrics.retain(|name, _| !name.starts_with("timing_s/") && !name.starts_with("perf/"));
    (rollouts, metrics)
}

fn weights(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join("model.safetensors")).unwrap()
}

#[test]
fn a_restored_worker_goes_on_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, one, two) = (dir.path().join("checkpoint"), dir.path().join("one"), dir.path().join("two"));

    let mut worker = Worker::start();
    worker.ask(open(true));
    step(&mut worker, 0);
    worker.ask(Request::SyncReference);
    step(&mut worker, 1);
    worker.ask(Request::Save { dir: checkpoint.clone() });
    let last = step(&mut worker, 2);
    worker.ask(Request::Export { dir: one.clone() });
    drop(worker);

    let mut worker = Worker::start();
    worker.ask(open(true));
    worker.ask(Request::Restore { dir: checkpoint });
    assert_eq!(step(&mut worker, 2), last);
    worker.ask(Request::Export { dir: two.clone() });
    assert!(weights(&one) == weights(&two), "the weights differ");
    // ROLL-2 in the reference mode.
    assert_eq!(last.1["sampling/sampling_logp_difference/max"], 0.0);
    assert!(last.1["kl"] > 0.0, "the reference is one step behind: {:?}", last.1);
}

#[test]
fn a_request_that_cannot_be_met_is_answered_and_the_worker_serves_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut worker = Worker::start();
    let failure = worker.try_ask(generate(0)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");

    let Request::Open(mut request) = open(false) else { unreachable!() };
    request.model = ModelSource::Directory(dir.path().join("missing"));
    let failure = worker.try_ask(Request::Open(request)).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Invalid, "{failure:?}");
    assert!(failure.message.contains("missing"), "{failure:?}");

    worker.ask(open(false));
    let failure = worker.try_ask(Request::SyncReference).unwrap_err();
    assert!(failure.message.contains("reference"), "{failure:?}");
    let failure = worker.try_ask(Request::Restore { dir: dir.path().into() }).unwrap_err();
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
