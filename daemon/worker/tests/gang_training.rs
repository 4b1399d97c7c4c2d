//! Gangs that train: however many ranks there are, they end with the same bits, and what some have
//! saved any others restore.

mod gangs;
mod process;

use gangs::*;
use process::*;
use r1d_model::checkpoint;
use r1d_proto::hyperparameters::Lora;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::*;
use std::fs;
use std::path::Path;

/// A step of a stage.
type Step = fn(&mut Gang, u64) -> (Vec<Rollout>, Metrics);

fn texts(step: u64) -> WorkerRequest {
    let sequence = |at: u64| {
        let length = 3 + (7 * at + 5 * step) % 23;
        SupervisedSequence {
            ids: ids(100 * step + at, length),
            trained: (0..length).map(|i| i > at % 3).collect(),
        }
    };
    WorkerRequest::Supervise(Supervise {
        step,
        sequences: (0..11).map(sequence).collect(),
    })
}

/// Learns from texts, then from what it samples.
fn policy_step(gang: &mut Gang, at: u64) -> (Vec<Rollout>, Metrics) {
    let mut metrics = gang.trained(texts(at));
    let rollouts = gang.sampled(generate(at));
    metrics.extend(gang.trained(train(at, &rollouts)));
    gang.all(WorkerRequest::SyncReference);
    (rollouts, metrics)
}

fn ppo_step(gang: &mut Gang, at: u64) -> (Vec<Rollout>, Metrics) {
    let rollouts = gang.sampled(generate(at));
    let metrics = gang.trained(train_ppo(at, &rollouts));
    (rollouts, metrics)
}

/// Trains the reward model, and scores held-out texts by it, as all ranks are asked to.
fn reward_step(gang: &mut Gang, at: u64) -> (Vec<Rollout>, Metrics) {
    let mut metrics = gang.trained(train_reward(at));
    let request = WorkerRequest::Score {
        model: None,
        sequences: vec![ids(1, 9), ids(2, 4)],
    };
    let scores = gang.all(request).into_iter().map(|reply| match reply {
        Reply::Scored { scores } => scores,
        other => panic!("{other:?}"),
    });
    let scores: Vec<Vec<f32>> = scores.collect();
    assert!(scores.iter().all(|own| *own == scores[0]), "{scores:?}");
    for (score, number) in scores[0].iter().zip(0..) {
        metrics.insert(format!("score/{number}"), f64::from(*score));
    }
    (Vec::new(), metrics)
}

#[test]
fn any_number_of_workers_ends_with_the_same_bits() {
    let dir = tempfile::tempdir().unwrap();
    let ended = |how: Place| {
        let mut gang = Gang::open(how.ranks() as usize, &open(true), how);
        let steps = [0, 1].map(|at| policy_step(&mut gang, at));
        let export = dir.path().join(format!("{how:?}"));
        gang.export(&export);
        checkpoint::verify_manifest(&export).unwrap();
        (steps, weights(&export))
    };
    let (steps, expected) = ended(place(1, Shard::None));
    assert!(steps.iter().all(|(_, metrics)| metrics["grad_norm"] > 0.0));
    // With four ranks two sample nothing.
    for how in [
        place(2, Shard::None),
        place(2, Shard::Optimizer),
        place(4, Shard::Optimizer),
        of_experts(1, 2, Shard::None),
        of_experts(2, 2, Shard::Optimizer),
        of_experts(1, 4, Shard::None),
    ] {
        let (found, weights) = ended(how);
        assert_eq!(found, steps, "{how:?}");
        assert!(weights == expected, "{how:?}: the weights differ");
    }
}

/// Without layout-independent mode ranks have the weights of each other, if not those of one alone.
#[test]
fn ranks_that_share_by_cost_end_with_the_same_weights_as_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let how = Place {
        layout_independent: false,
        ..place(2, Shard::Optimizer)
    };
    let mut gang = Gang::open(2, &open(true), how);
    let (_, metrics) = policy_step(&mut gang, 0);
    let mut alone = Worker::start();
    alone.ask(open(true));
    let Reply::Trained { metrics: expected } = alone.ask(texts(0)) else {
        panic!("not Trained")
    };
    let of_texts = "mean_token_accuracy";
    assert_eq!(metrics[of_texts], expected[of_texts]);
    // What the second has shows in what it samples.
    let of = |rank: usize, gang: &mut Gang| {
        let none = |mut request: WorkerRequest| {
            if let WorkerRequest::Generate(own) = &mut request {
                own.groups.clear();
            }
            request
        };
        let mut requests = vec![none(generate(1)); 2];
        requests[rank] = generate(1);
        gang.sampled_each(requests)
    };
    assert_eq!(of(0, &mut gang), of(1, &mut gang));
    gang.save_whole(1, &dir.path().join("step-1"));
}

/// The files of trainers' states in a checkpoint, with their sizes in bytes.
fn states(dir: &Path) -> Vec<(String, u64)> {
    let manifest = checkpoint::verify_manifest(dir).unwrap();
    let files = manifest.files.into_iter();
    let files = files.map(|file| (file.path, file.bytes));
    files.filter(|(path, _)| path.contains("trainer")).collect()
}

fn files(dir: &Path) -> Vec<String> {
    states(dir).into_iter().map(|(path, _)| path).collect()
}

/// The weights of a checkpoint, and of its value model.
fn all_weights(dir: &Path) -> (Weights, Option<Weights>) {
    let value = dir.join("value");
    (weights(dir), value.exists().then(|| weights(&value)))
}

/// Two steps of a gang of two that share the optimiser's states, with a checkpoint between them.
/// Then the second step by others, who start from it.
fn goes_on_in_any_layout(stage: &WorkerRequest, step: Step, expected: &[&str]) {
    let root = tempfile::tempdir().unwrap();
    let dir = |name: &str| root.path().join(name);
    let sharing = place(2, Shard::Optimizer);
    let mut gang = Gang::open(2, stage, sharing);
    step(&mut gang, 0);
    gang.save_whole(1, &dir("shared"));
    assert_eq!(files(&dir("shared")), expected);
    let undisturbed = step(&mut gang, 1);
    gang.save_whole(2, &dir("end"));
    drop(gang);
    let end = all_weights(&dir("end"));
    assert!(end != all_weights(&dir("shared")), "nothing was learned");

    let resumed = |name: &str, from: &str, ranks: usize, how: Place| {
        let mut gang = Gang::open(ranks, stage, how);
        gang.restore(&dir(from));
        gang.save_whole(1, &dir(&format!("{name}-again")));
        assert_eq!(step(&mut gang, 1), undisturbed, "{name}");
        gang.save_whole(2, &dir(name));
        assert!(all_weights(&dir(name)) == end, "{name}: the weights differ");
    };
    resumed("two", "shared", 2, sharing);
    resumed("two-whole", "shared", 2, place(2, Shard::None));
    resumed("one", "shared", 1, place(1, Shard::Optimizer));
    resumed("experts", "shared", 2, of_experts(1, 2, Shard::None));
    let parts = states(&dir("experts-again"));
    assert_eq!(files(&dir("experts-again")), expected);
    resumed("of-experts", "experts-again", 2, sharing);
    resumed(
        "copies",
        "experts-again",
        4,
        of_experts(2, 2, Shard::Optimizer),
    );
    resumed("of-copies", "copies-again", 1, place(1, Shard::None));
    // The second rank has its experts alone.
    assert!(
        parts.chunks(2).all(|both| both[1].1 < both[0].1),
        "{parts:?}"
    );
    assert_eq!(files(&dir("two-again")), expected);
    let whole = ["trainer.safetensors", "value/trainer.safetensors"];
    let whole = &whole[..expected.len() / 2];
    for name in ["two-whole-again", "one-again"] {
        assert_eq!(files(&dir(name)), whole, "{name}");
    }
    // Each rank has about a half.
    let wholes = states(&dir("one-again"));
    for ((_, whole), halves) in wholes.iter().zip(states(&dir("shared")).chunks(2)) {
        assert!(
            halves.iter().all(|(_, bytes)| bytes * 3 < whole * 2),
            "{halves:?} of {whole}"
        );
    }
    resumed("shared-again", "two-whole-again", 2, sharing);

    // A worker without a gang has all of it too.
    let mut alone = Worker::start();
    alone.ask(stage.clone());
    alone.ask(WorkerRequest::Restore { dir: dir("shared") });
    alone.save_whole(1, &dir("alone"));
    assert_eq!(files(&dir("alone")), whole);
    for file in whole {
        let read = |name: &str| fs::read(dir(name).join(file)).unwrap();
        assert!(read("alone") == read("one-again"), "{file}");
    }
}

const SHARED: [&str; 4] = [
    "trainer-00001-of-00002.safetensors",
    "trainer-00002-of-00002.safetensors",
    "value/trainer-00001-of-00002.safetensors",
    "value/trainer-00002-of-00002.safetensors",
];

#[test]
fn a_policys_checkpoint_goes_on_in_any_layout() {
    goes_on_in_any_layout(&open(true), policy_step, &SHARED[..2]);
}

#[test]
fn a_checkpoint_of_adapters_goes_on_in_any_layout() {
    let stage = opened(|request| {
        request.sampler = None;
        request.router.bias_update_speed = 0.0;
        request.lora = Some(Lora {
            r: 4,
            lora_alpha: 8.0,
            target_modules: ["all-linear", "down_proj"].map(str::to_owned).to_vec(),
        });
    });
    let step: Step = |gang, at| (Vec::new(), gang.trained(texts(at)));
    goes_on_in_any_layout(&stage, step, &SHARED[..2]);
}

#[test]
fn a_checkpoint_with_a_value_model_goes_on_in_any_layout() {
    goes_on_in_any_layout(&opened(with_values), ppo_step, &SHARED);
}

#[test]
fn a_reward_models_checkpoint_goes_on_in_any_layout() {
    goes_on_in_any_layout(&opened(reward_model), reward_step, &SHARED[..2]);
}

/// Sums of more than 32768 numbers, which libtorch splits among threads.
#[test]
fn the_threads_that_a_worker_was_given_do_not_show() {
    let config = serde_json::json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
        "vocab_size": VOCAB, "hidden_size": 256, "intermediate_size": 1024,
        "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 4,
        "max_position_embeddings": 64});
    let stage = opened(|request| {
        (request.batch_invariant, request.sampler) = (false, None);
        request.model = ModelSource::Init {
            config: config.to_string(),
            carry: None,
        };
    });
    let ended = |threads: &str| {
        let mut worker = Worker::start_with(&["--threads", threads]);
        worker.ask(placed(&stage, place(1, Shard::None)));
        let metrics = [0, 1].map(|at| {
            let Reply::Trained { mut metrics } = worker.ask(texts(at)) else {
                panic!("not Trained")
            };
            metrics.retain(|name, _| !name.starts_with("timing_s/"));
            metrics
        });
        let dir = tempfile::tempdir().unwrap();
        worker.save_whole(1, &dir.path().join("end"));
        (metrics, weights(&dir.path().join("end")))
    };
    assert!(ended("1") == ended("2"), "threads show");
}
