//! Stages that learn from preferences and with a value model, over the worker's socket: trained,
//! saved, restored, written out.

mod process;

use process::*;
use r1d_proto::hyperparameters::*;
use r1d_proto::worker::*;
use std::path::Path;

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

/// Samples, and trains on what was sampled.
fn ppo_step(worker: &mut Worker, step: u64) -> Metrics {
    worker.ask(generate(step));
    let rollouts = worker.rollouts();
    trained(worker, train_ppo(step, &rollouts))
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
