//! Stages that learn from preferences and with a value model, over the worker's socket: trained,
//! saved, restored, written out.

mod process;

use process::*;
use r1d_proto::hyperparameters::*;
use r1d_proto::worker::*;
use std::path::Path;

fn opened(change: impl FnOnce(&mut Open)) -> WorkerRequest {
    let WorkerRequest::Open(mut request) = open(false) else {
        unreachable!()
    };
    change(&mut request);
    WorkerRequest::Open(request)
}

fn reward_model(request: &mut Open) {
    request.scores = true;
    request.sampler = None;
}

fn with_values(request: &mut Open) {
    request.reference = true;
    request.value_model = Some(ValueModel {
        model: None,
        optimiser: request.optimiser.clone().unwrap(),
    });
}

fn ids(seed: u64, count: u64) -> Vec<u32> {
    (0..count)
        .map(|i| 2 + (r1d_proto::world::counter_hash(&[seed, i]) % (VOCAB as u64 - 2)) as u32)
        .collect()
}

fn pairs(step: u64) -> Vec<Pair> {
    let pair = |i| Pair {
        prompt_ids: ids(3 * i, 4),
        chosen_ids: ids(3 * i + 1, 2 + i % 5),
        rejected_ids: ids(3 * i + 2, 1 + i % 4),
        margin: 0.0,
    };
    (10 * step..10 * step + 6).map(pair).collect()
}

fn train_reward(step: u64) -> WorkerRequest {
    let batch = match step % 2 {
        0 => RewardBatch::Pairs {
            pairs: pairs(step),
            center_rewards_coefficient: 0.01,
        },
        _ => RewardBatch::Labelled(
            (0..5)
                .map(|i| Labelled {
                    ids: ids(100 * step + i, 3 + i),
                    label: (i % 2) as f32,
                })
                .collect(),
        ),
    };
    WorkerRequest::TrainReward(TrainReward { step, batch })
}

fn train_dpo(step: u64) -> WorkerRequest {
    let objective = DpoObjective {
        loss_type: DpoLossType::Sigmoid,
        beta: 0.1,
        label_smoothing: 0.0,
    };
    WorkerRequest::TrainDpo(TrainDpo {
        step,
        objective,
        pairs: pairs(step),
    })
}

fn ppo_objective() -> PpoObjective {
    PpoObjective {
        num_ppo_epochs: 2,
        num_mini_batches: 2,
        cliprange: 0.2,
        cliprange_value: 0.2,
        vf_coef: 0.1,
        gamma: 1.0,
        lam: 0.95,
        kl_coef: 0.05,
        temperature: 1.0,
        routing_replay: true,
        routing_replay_reference: false,
    }
}

/// Samples, and trains on what was sampled.
fn ppo_step(worker: &mut Worker, step: u64) -> Metrics {
    worker.ask(generate(step));
    let rollouts = worker.rollouts();
    let sequences = rollouts.iter().map(|r| TrainSequence {
        prompt_ids: r.prompt_ids.clone(),
        completion_ids: r.completion_ids.clone(),
        behaviour_logprobs: r.behaviour_logprobs.clone(),
        experts: r.experts.clone(),
        kept_ids: r.kept_ids.clone(),
        advantage: 0.0,
        truncated: false,
    });
    let scores = (0..rollouts.len()).map(|i| (i % 3) as f32 - 1.0).collect();
    let batch = TrainPpo {
        step,
        first_update: 4 * step,
        objective: ppo_objective(),
        seed: 5,
        sequences: sequences.collect(),
        scores,
    };
    trained(worker, WorkerRequest::TrainPpo(batch))
}

/// The metrics but the clock's.
fn trained(worker: &mut Worker, request: WorkerRequest) -> Metrics {
    let Reply::Trained { mut metrics } = worker.ask(request) else {
        panic!("not Trained")
    };
    metrics.retain(|name, _| !name.starts_with("timing_s/"));
    metrics
}

/// Two steps, a checkpoint, a third step; then the third again in a fresh worker that is restored.
/// Returns where the model was written out.
fn goes_on_with_the_same_bits(
    folder: &Path,
    open: &WorkerRequest,
    step: &dyn Fn(&mut Worker, u64) -> Metrics,
) -> std::path::PathBuf {
    let [checkpoint, one, two] = ["checkpoint", "one", "two"].map(|name| folder.join(name));
    let mut worker = Worker::start();
    worker.ask(open.clone());
    (0..2).for_each(|at| drop(step(&mut worker, at)));
    worker.save_whole(1, &checkpoint);
    let last = step(&mut worker, 2);
    worker.ask(WorkerRequest::Export { dir: one.clone() });
    drop(worker);

    let mut worker = Worker::start();
    worker.ask(open.clone());
    worker.ask(WorkerRequest::Restore { dir: checkpoint });
    assert_eq!(step(&mut worker, 2), last);
    worker.ask(WorkerRequest::Export { dir: two.clone() });
    assert!(weights(&one) == weights(&two), "the weights differ");
    one
}

fn scores(worker: &mut Worker) -> Vec<f32> {
    let sequences = (0..4).map(|i| ids(900 + i, 5 + 3 * i)).collect();
    let Reply::Scored { scores } = worker.ask(WorkerRequest::Score {
        model: None,
        sequences,
    }) else {
        panic!("not Scored")
    };
    scores
}

#[test]
fn a_reward_model_is_trained_written_out_and_asked() {
    let folder = tempfile::tempdir().unwrap();
    let step = |worker: &mut Worker, at| {
        let metrics = trained(worker, train_reward(at));
        assert!(
            metrics["loss"] > 0.0 && metrics.contains_key("accuracy"),
            "{metrics:?}"
        );
        metrics
    };
    let written = goes_on_with_the_same_bits(folder.path(), &opened(reward_model), &step);
    let config = std::fs::read_to_string(written.join("config.json")).unwrap();
    assert!(
        config.contains("DeepseekV3ForSequenceClassification"),
        "{config}"
    );

    // Another worker reads what was written, and neither trains nor samples.
    let asked = opened(|request| {
        reward_model(request);
        request.model = ModelSource::Directory(written.clone());
        request.optimiser = None;
    });
    let mut worker = Worker::start();
    worker.ask(asked);
    let found = scores(&mut worker);
    assert!(
        found.len() == 4 && found.iter().all(|score| score.is_finite()) && found[0] != found[1],
        "{found:?}"
    );
    for (request, words) in [
        (train_reward(0), "without an optimiser"),
        (generate(0), "without slots"),
        (WorkerRequest::SyncReference, "reference"),
    ] {
        let failure = worker.try_ask(request).unwrap_err();
        assert!(
            failure.kind == FailureKind::Invalid && failure.message.contains(words),
            "{failure:?}"
        );
    }
    assert_eq!(scores(&mut worker), found);

    // It is no policy, but may become a value model.
    let failure = worker
        .try_ask(opened(|request| {
            request.model = ModelSource::Directory(written.clone())
        }))
        .unwrap_err();
    assert!(failure.message.contains("reward model"), "{failure:?}");
    worker.ask(opened(|request| {
        with_values(request);
        request.value_model.as_mut().unwrap().model = Some(ModelSource::Directory(written));
    }));
    ppo_step(&mut worker, 0);
}

#[test]
fn a_policy_is_trained_on_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let step = |worker: &mut Worker, at| {
        let metrics = trained(worker, train_dpo(at));
        assert!(metrics.contains_key("rewards/margins"), "{metrics:?}");
        metrics
    };
    goes_on_with_the_same_bits(
        folder.path(),
        &opened(|request| request.reference = true),
        &step,
    );
}

#[test]
fn policy_and_value_model_are_trained_together() {
    let folder = tempfile::tempdir().unwrap();
    let step = |worker: &mut Worker, at| {
        let metrics = ppo_step(worker, at);
        // ROLL-2: the trainer's passes are the sampler's, bit for bit.
        assert_eq!(metrics["sampling/sampling_logp_difference/max"], 0.0);
        assert!(
            metrics["loss/value_avg"] > 0.0 && (at == 0 || metrics["objective/kl"] != 0.0),
            "{metrics:?}"
        );
        metrics
    };
    goes_on_with_the_same_bits(folder.path(), &opened(with_values), &step);
    assert!(
        folder
            .path()
            .join("checkpoint/value/trainer.safetensors")
            .exists()
    );
}

#[test]
fn what_a_stage_was_not_opened_for_is_refused() {
    let mut worker = Worker::start();
    worker.ask(open(false));
    let ppo = || {
        let objective = ppo_objective();
        WorkerRequest::TrainPpo(TrainPpo {
            step: 0,
            first_update: 0,
            objective,
            seed: 0,
            sequences: Vec::new(),
            scores: Vec::new(),
        })
    };
    let asked = [
        (train_dpo(0), "without a reference, which DPO needs"),
        (ppo(), "without a value model, which PPO needs"),
        (train_reward(0), "gives no scores"),
        (
            WorkerRequest::Score {
                model: None,
                sequences: vec![vec![1]],
            },
            "gives no scores",
        ),
    ];
    for (request, words) in asked {
        let failure = worker.try_ask(request).unwrap_err();
        assert!(
            failure.kind == FailureKind::Invalid && failure.message.contains(words),
            "{failure:?}"
        );
    }
    let failure = worker
        .try_ask(opened(|request| request.scores = true))
        .unwrap_err();
    assert!(
        failure.kind == FailureKind::Invalid && failure.message.contains("without slots"),
        "{failure:?}"
    );
    let narrow = config().replace("\"vocab_size\":64", "\"vocab_size\":32");
    let failure = worker.try_ask(opened(|request| {
        with_values(request);
        request.value_model.as_mut().unwrap().model = Some(ModelSource::Init {
            config: narrow,
            carry: None,
        });
    }));
    assert!(failure.unwrap_err().message.contains("share a tokenizer"));
}
