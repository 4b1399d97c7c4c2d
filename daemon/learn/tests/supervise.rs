//! Pretraining and supervised fine-tuning of tiny models.

mod tiny;

use r1d_learn::{LearnError, Trainer};
use r1d_model::CausalLm;
use r1d_proto::hyperparameters::{Optimiser, RouterTraining};
use r1d_proto::worker::{Metrics, Supervise, SupervisedSequence};
use tch::Kind;
use tiny::*;

fn trainer(model: &CausalLm, budget: u32) -> Trainer {
    Trainer::new(model, &optimiser(3e-3), NO_ROUTER_TRAINING, budget, false).unwrap()
}

fn batch(step: u64) -> Supervise {
    Supervise {
        step,
        sequences: text(7 + step, &[12, 5, 20, 9, 3]),
    }
}

#[test]
fn overfits_a_batch() {
    for model in [qwen2(Kind::Float), deepseek_v3()] {
        let mut trainer = trainer(&model, 4096);
        let mut run = || trainer.supervise(&model, &batch(0)).unwrap();
        let first = run();
        assert!(
            (first["loss"] - (VOCAB as f64).ln()).abs() < 1.0,
            "{first:?}"
        );
        let last: Metrics = (0..150).map(|_| run()).last().unwrap();
        assert!(
            last["loss"] < 0.1 && last["mean_token_accuracy"] == 1.0,
            "{last:?}"
        );
        assert_eq!(last["num_tokens"], 151.0 * 49.0);
        assert_eq!(last["learning_rate"], 3e-3);
    }
}

#[test]
fn loss_is_the_mean_over_trained_ids_of_the_batch() {
    let model = qwen2(Kind::Float);
    let sequences = batch(0).sequences;
    let (mut sum, mut count) = (0.0, 0);
    for sequence in &sequences {
        let whole = r1d_proto::worker::TrainSequence {
            prompt_ids: sequence.ids[..1].to_vec(),
            completion_ids: sequence.ids[1..].to_vec(),
            behaviour_logprobs: vec![],
            kept_ids: Default::default(),
            experts: vec![],
            advantage: 0.0,
            truncated: false,
        };
        for (logp, _) in logprobs(&model, &whole, 1.0)
            .iter()
            .zip(&sequence.trained[1..])
            .filter(|(_, trained)| **trained)
        {
            sum -= *logp as f64;
            count += 1;
        }
    }
    let metrics = trainer(&model, 4096)
        .supervise(&model, &Supervise { step: 0, sequences })
        .unwrap();
    assert!(
        (metrics["loss"] - sum / count as f64).abs() < 1e-5,
        "{metrics:?} {}",
        sum / count as f64
    );
}

#[test]
fn packing_changes_nothing_but_rounding() {
    let models = [
        ((|| qwen2(Kind::Float)) as fn() -> CausalLm, 0.0),
        (deepseek_v3, 0.0),
        (deepseek_v3_predicting, 0.3),
    ];
    for (make, mtp_loss_weight) in models {
        let router = RouterTraining {
            bias_update_speed: 1e-3,
            aux_loss_alpha: 0.01,
            device_loss_alpha: 0.02,
        };
        let run = |budget: u32| {
            let model = make();
            let mut trainer = Trainer::new(&model, &optimiser(1e-3), router, budget, false)
                .unwrap()
                .with_prediction(mtp_loss_weight);
            let metrics = trainer.supervise(&model, &batch(0)).unwrap();
            assert_eq!(metrics.contains_key("mtp_loss"), mtp_loss_weight > 0.0);
            // AdamW's first step is lr · sign(g): the weights are comparable only where the
            // gradient is well above rounding.
            let gradients: Vec<_> = trainer
                .state()
                .into_iter()
                .filter(|(name, _)| name.starts_with("exp_avg."))
                .collect();
            (
                metrics,
                gradients
                    .into_iter()
                    .map(|(name, moment)| (name, moment.copy()))
                    .collect::<Vec<_>>(),
                snapshot(&model),
            )
        };
        let (whole, whole_moments, whole_weights) = run(4096);
        for budget in [1, 14, 25] {
            let (cut, moments, weights) = run(budget);
            let predicted: &[_] = if mtp_loss_weight > 0.0 {
                &["mtp_loss", "mtp_mean_token_accuracy"]
            } else {
                &[]
            };
            for name in ["loss", "grad_norm", "mean_token_accuracy"]
                .iter()
                .chain(predicted)
                .copied()
            {
                assert!(
                    (cut[name] - whole[name]).abs() < 2e-6 * whole[name].max(1.0),
                    "{name} {} {}",
                    cut[name],
                    whole[name]
                );
            }
            assert!(distance(&moments, &whole_moments) < 1e-7);
            for ((name, a), (_, b)) in weights
                .iter()
                .zip(&whole_weights)
                .filter(|((name, _), _)| name.ends_with("correction_bias"))
            {
                assert!(a.equal(b), "{name}");
            }
        }
    }
}

/// The loss has λ times the module's loss added: its gradients are twice as large at twice λ, and
/// the gradients of the rest do not come from the module alone.
#[test]
fn the_prediction_module_learns_and_its_loss_is_weighted() {
    let gradients = |mtp_loss_weight: f64| {
        let model = deepseek_v3_predicting();
        let settings = Optimiser {
            max_grad_norm: 0.0,
            ..optimiser(1e-3)
        };
        let mut trainer = Trainer::new(&model, &settings, NO_ROUTER_TRAINING, 4096, false)
            .unwrap()
            .with_prediction(mtp_loss_weight);
        trainer.supervise(&model, &batch(0)).unwrap();
        let moment = |name: &str| {
            trainer
                .state()
                .into_iter()
                .find(|(of, _)| of == &format!("exp_avg.{name}"))
                .unwrap()
                .1
                .copy()
        };
        (
            moment("model.layers.3.eh_proj.weight"),
            moment("model.layers.0.self_attn.o_proj.weight"),
        )
    };
    let ((one, trunk), (two, other_trunk)) = (gradients(0.2), gradients(0.4));
    assert!(
        f64::try_from((&one * 2.0 - &two).abs().max()).unwrap() < 1e-8
            && f64::try_from(one.abs().max()).unwrap() > 1e-6
    );
    assert!(!trunk.equal(&other_trunk), "the trunk hears of it too");

    let model = deepseek_v3_predicting();
    let mut trainer = Trainer::new(&model, &optimiser(3e-3), NO_ROUTER_TRAINING, 4096, false)
        .unwrap()
        .with_prediction(0.3);
    let losses: Vec<f64> = (0..30)
        .map(|_| trainer.supervise(&model, &batch(0)).unwrap()["mtp_loss"])
        .collect();
    assert!(losses[29] < 0.7 * losses[0], "{losses:?}");
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for make in [
        (|| qwen2(Kind::Float)) as fn() -> CausalLm,
        || qwen2(Kind::BFloat16),
        deepseek_v3,
    ] {
        let router = RouterTraining {
            bias_update_speed: 1e-3,
            aux_loss_alpha: 1e-3,
            device_loss_alpha: 0.0,
        };
        let new =
            |model: &CausalLm| Trainer::new(model, &optimiser(1e-3), router, 24, false).unwrap();
        let straight = make();
        let mut trainer = new(&straight);
        let mut expected = Vec::new();
        let mut halfway = None;
        for step in 0..4 {
            if step == 2 {
                let copies = trainer
                    .state()
                    .into_iter()
                    .map(|(name, tensor)| (name, tensor.copy()))
                    .collect::<Vec<_>>();
                halfway = Some((straight.deep_copy().unwrap(), copies));
            }
            expected.push(trainer.supervise(&straight, &batch(step)).unwrap());
        }
        let (resumed, state) = halfway.unwrap();
        let mut continued = new(&resumed);
        restore(&mut continued, &state);
        for step in 2..4 {
            assert_eq!(
                continued.supervise(&resumed, &batch(step)).unwrap(),
                expected[step as usize]
            );
        }
        assert_same_bits(&snapshot(&resumed), &snapshot(&straight));
        assert_same_bits(&continued.state(), &trainer.state());
    }
}

#[test]
fn the_router_bias_follows_the_load() {
    let model = deepseek_v3();
    let router = RouterTraining {
        bias_update_speed: 0.05,
        aux_loss_alpha: 0.0,
        device_loss_alpha: 0.0,
    };
    let mut trainer = Trainer::new(&model, &optimiser(0.0), router, 4096, false).unwrap();
    let mut loads = Vec::new();
    for _ in 0..40 {
        let metrics = trainer
            .supervise(
                &model,
                &Supervise {
                    step: 0,
                    sequences: text(3, &[60, 60, 60, 60]),
                },
            )
            .unwrap();
        loads.push(metrics["moe/expert_load_max_over_mean"]);
        assert!(metrics["moe/bias_abs_max"] >= 0.05 - 1e-6);
    }
    let ends = [&loads[..5], &loads[35..]].map(|part| part.iter().sum::<f64>() / 5.0);
    assert!(ends[1] < ends[0], "{loads:?}");
}

#[test]
fn an_update_that_is_not_finite_is_refused_and_changes_nothing() {
    let model = qwen2(Kind::Float);
    let mut trainer = trainer(&model, 4096);
    trainer.supervise(&model, &batch(0)).unwrap();
    let (_, norm) = model
        .parameters()
        .into_iter()
        .find(|(name, _)| name == "model.norm.weight")
        .unwrap();
    let _ = tch::no_grad(|| norm.shallow_clone().fill_(f64::INFINITY));
    let state: Vec<_> = trainer
        .state()
        .into_iter()
        .map(|(name, tensor)| (name, tensor.copy()))
        .collect();
    let before = snapshot(&model);
    let error = trainer.supervise(&model, &batch(17)).unwrap_err();
    assert!(
        matches!(error, LearnError::NonFinite { step: 17, .. }),
        "{error}"
    );
    let error = error.to_string();
    assert!(
        error.contains("(learning_rate = ") && !error.contains("step"),
        "the step stands before it: {error}"
    );
    assert!(!error.contains("advantages"), "it has none: {error}");
    assert_same_bits(&snapshot(&model), &before);
    assert_same_bits(&trainer.state(), &state);
}

#[test]
fn a_batch_with_nothing_to_train_is_refused() {
    let model = qwen2(Kind::Float);
    let sequences = vec![SupervisedSequence {
        ids: vec![1, 2, 3],
        trained: vec![true, false, false],
    }];
    let error = trainer(&model, 64)
        .supervise(&model, &Supervise { step: 0, sequences })
        .unwrap_err();
    assert!(
        error.is_invalid_request() && error.to_string().contains("mask"),
        "{error}"
    );
}
