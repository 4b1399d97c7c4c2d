//! Direct preference optimisation of tiny policies.

mod tiny;

use r1d_learn::{LearnError, Trainer};
use r1d_model::CausalLm;
use r1d_proto::hyperparameters::{DpoLossType, DpoObjective, Optimiser, RouterTraining};
use r1d_proto::worker::{Metrics, Pair, TrainDpo};
use tch::{Kind, Tensor};
use tiny::*;

const SIGMOID: DpoObjective = DpoObjective {
    loss_type: DpoLossType::Sigmoid,
    beta: 0.3,
    label_smoothing: 0.0,
};

fn trainer(model: &CausalLm, budget: u32) -> Trainer {
    Trainer::new(model, &optimiser(2e-3), NO_ROUTER_TRAINING, budget, false).unwrap()
}

fn batch(step: u64, objective: DpoObjective) -> TrainDpo {
    TrainDpo {
        step,
        objective,
        pairs: pairs(step + 1),
    }
}

/// Makes a reference that differs from the policy.
fn moved(make: fn() -> CausalLm) -> CausalLm {
    let reference = make();
    for (index, (_, weight)) in reference.parameters().into_iter().enumerate() {
        let _ = tch::no_grad(|| {
            weight
                .shallow_clone()
                .g_mul_(&Tensor::from(1.0 + 0.03 * (index % 5) as f64))
        });
    }
    reference
}

/// Σ of a side's log-probabilities, one completion at a time, `[1]`.
fn sum(model: &CausalLm, pair: &Pair, ids: &[u32]) -> Tensor {
    completion_logprobs(model, &pair.prompt_ids, ids)
        .sum(None::<Kind>)
        .view([1])
}

/// Computes the equations, a completion at a time and in one backward pass.
fn by_hand(
    objective: &DpoObjective,
    policy: &CausalLm,
    reference: &CausalLm,
    pairs: &[Pair],
) -> Tensor {
    let (beta, e) = (objective.beta, objective.label_smoothing);
    let losses = pairs.iter().map(|pair| {
        let ratio =
            |ids: &[u32]| sum(policy, pair, ids) - tch::no_grad(|| sum(reference, pair, ids));
        let (chosen, rejected) = (ratio(&pair.chosen_ids), ratio(&pair.rejected_ids));
        let agree = |sign: f64| ((&chosen - &rejected) * (sign * beta)).sigmoid().log();
        match objective.loss_type {
            DpoLossType::Sigmoid => -(agree(1.0) * (1.0 - e) + agree(-1.0) * e),
            DpoLossType::Robust => (agree(-1.0) * e - agree(1.0) * (1.0 - e)) / (1.0 - 2.0 * e),
            DpoLossType::Ipo => {
                let mean = |ratio: &Tensor, ids: &[u32]| ratio / ids.len() as f64;
                (mean(&chosen, &pair.chosen_ids) - mean(&rejected, &pair.rejected_ids) - 0.5 / beta)
                    .square()
            }
        }
    });
    Tensor::cat(&losses.collect::<Vec<_>>(), 0).mean(None::<Kind>)
}

#[test]
fn loss_and_gradients_are_the_equations() {
    for make in [(|| qwen2(Kind::Float)) as fn() -> CausalLm, deepseek_v3] {
        for (loss_type, label_smoothing) in [
            (DpoLossType::Sigmoid, 0.0),
            (DpoLossType::Sigmoid, 0.1),
            (DpoLossType::Robust, 0.2),
            (DpoLossType::Ipo, 0.0),
        ] {
            let objective = DpoObjective {
                loss_type,
                beta: 0.3,
                label_smoothing,
            };
            let reference = moved(make);
            let plain = make();
            plain.set_requires_grad(true);
            let loss = by_hand(&objective, &plain, &reference, &pairs(1));
            let expected = plain_gradients(&plain, &loss);
            for budget in [1, 30, 4096] {
                let model = make();
                let settings = Optimiser {
                    max_grad_norm: 0.0,
                    ..optimiser(1e-4)
                };
                let mut trainer =
                    Trainer::new(&model, &settings, NO_ROUTER_TRAINING, budget, false).unwrap();
                let metrics = trainer
                    .train_dpo(&model, &reference, &batch(0, objective.clone()))
                    .unwrap();
                let loss = loss.double_value(&[]);
                assert!(
                    (metrics["loss"] - loss).abs() < 5e-6 * loss.abs().max(1.0),
                    "{objective:?} {metrics:?} {loss}"
                );
                assert_close_gradients(&first_gradients(&trainer), &expected, 5e-5);
            }
        }
    }
}

#[test]
fn metrics_are_trls() {
    let (model, reference) = (qwen2(Kind::Float), moved(|| qwen2(Kind::Float)));
    let pairs = pairs(1);
    let number = |tensor: Tensor| tensor.double_value(&[0]);
    let (mut chosen, mut rejected) = (Vec::new(), Vec::new());
    tch::no_grad(|| {
        for pair in &pairs {
            chosen.push([&model, &reference].map(|of| number(sum(of, pair, &pair.chosen_ids))));
            rejected.push([&model, &reference].map(|of| number(sum(of, pair, &pair.rejected_ids))));
        }
    });
    let mean = |values: Vec<f64>| values.iter().sum::<f64>() / pairs.len() as f64;
    let rewards = |side: &[[f64; 2]]| {
        side.iter()
            .map(|[ours, theirs]| 0.3 * (ours - theirs))
            .collect::<Vec<_>>()
    };
    let (better, worse) = (rewards(&chosen), rewards(&rejected));
    let right = better
        .iter()
        .zip(&worse)
        .map(|(b, w)| f64::from(u8::from(b > w)))
        .collect();
    let metrics = trainer(&model, 40)
        .train_dpo(&model, &reference, &batch(0, SIGMOID))
        .unwrap();
    let expected = [
        (
            "logps/chosen",
            mean(chosen.iter().map(|side| side[0]).collect()),
        ),
        (
            "logps/rejected",
            mean(rejected.iter().map(|side| side[0]).collect()),
        ),
        ("rewards/accuracies", mean(right)),
        (
            "rewards/margins",
            mean(better.clone()) - mean(worse.clone()),
        ),
        ("rewards/chosen", mean(better)),
        ("rewards/rejected", mean(worse)),
        ("learning_rate", 2e-3),
        (
            "num_tokens",
            pairs
                .iter()
                .map(|p| 2 * p.prompt_ids.len() + p.chosen_ids.len() + p.rejected_ids.len())
                .sum::<usize>() as f64,
        ),
    ];
    for (name, value) in expected {
        assert!(
            (metrics[name] - value).abs() < 1e-5 * value.abs().max(1.0),
            "{name} {} {value}",
            metrics[name]
        );
    }
    assert!(
        metrics["entropy"] > 2.0 && metrics["entropy"] < (VOCAB as f64).ln(),
        "{metrics:?}"
    );
    assert!((0.0..=1.0).contains(&metrics["mean_token_accuracy"]));
}

#[test]
fn packing_changes_nothing_of_the_balance_loss_and_the_metrics() {
    let run = |budget: u32| {
        let (model, reference) = (deepseek_v3(), moved(deepseek_v3));
        let router = RouterTraining {
            bias_update_speed: 1e-3,
            aux_loss_alpha: 0.05,
            device_loss_alpha: 0.0,
        };
        let settings = Optimiser {
            max_grad_norm: 0.0,
            ..optimiser(1e-4)
        };
        let mut trainer = Trainer::new(&model, &settings, router, budget, false).unwrap();
        (
            trainer
                .train_dpo(&model, &reference, &batch(0, SIGMOID))
                .unwrap(),
            first_gradients(&trainer),
        )
    };
    let (whole, gradients) = run(4096);
    let (cut, others) = run(40);
    assert_close_gradients(&others, &gradients, 5e-5);
    for (name, value) in &whole {
        assert!(
            (cut[name] - value).abs() < 1e-5 * value.abs().max(1.0),
            "{name} {} {value}",
            cut[name]
        );
    }
}

#[test]
fn a_policy_learns_what_is_preferred_and_the_reference_stays() {
    for make in [(|| qwen2(Kind::Float)) as fn() -> CausalLm, deepseek_v3] {
        for objective in [
            SIGMOID,
            DpoObjective {
                loss_type: DpoLossType::Ipo,
                beta: 0.5,
                ..SIGMOID
            },
        ] {
            let model = make();
            let reference = model.deep_copy().unwrap();
            let before = snapshot(&reference);
            let mut trainer = trainer(&model, 64);
            let mut run = || {
                trainer
                    .train_dpo(&model, &reference, &batch(0, objective.clone()))
                    .unwrap()
            };
            let first = run();
            // At first the policy is equal to its reference.
            let unmoved = if objective.loss_type == DpoLossType::Ipo {
                1.0
            } else {
                std::f64::consts::LN_2
            };
            assert!(
                (first["loss"] - unmoved).abs() < 1e-5 && first["rewards/margins"].abs() < 1e-5,
                "{first:?}"
            );
            let last: Metrics = (0..40).map(|_| run()).last().unwrap();
            assert!(
                last["loss"] < 0.5 * first["loss"] && last["rewards/accuracies"] == 1.0,
                "{last:?}"
            );
            assert!(last["rewards/margins"] > 0.3, "{last:?}");
            assert_same_bits(&snapshot(&reference), &before);
        }
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for make in [
        (|| qwen2(Kind::Float)) as fn() -> CausalLm,
        || qwen2(Kind::BFloat16),
        deepseek_v3,
    ] {
        let straight = make();
        let reference = straight.deep_copy().unwrap();
        let mut trainer = trainer(&straight, 40);
        let (mut expected, mut halfway) = (Vec::new(), None);
        for step in 0..4 {
            if step == 2 {
                let state = trainer
                    .state()
                    .into_iter()
                    .map(|(name, tensor)| (name, tensor.copy()))
                    .collect::<Vec<_>>();
                halfway = Some((straight.deep_copy().unwrap(), state));
            }
            expected.push(
                trainer
                    .train_dpo(&straight, &reference, &batch(step, SIGMOID))
                    .unwrap(),
            );
        }
        let (resumed, state) = halfway.unwrap();
        let mut continued = self::trainer(&resumed, 40);
        restore(&mut continued, &state);
        for step in 2..4 {
            assert_eq!(
                continued
                    .train_dpo(&resumed, &reference, &batch(step, SIGMOID))
                    .unwrap(),
                expected[step as usize]
            );
        }
        assert_same_bits(&snapshot(&resumed), &snapshot(&straight));
    }
}

#[test]
fn unsound_batches_are_refused() {
    let model = qwen2(Kind::Float);
    let reference = model.deep_copy().unwrap();
    let mut trainer = trainer(&model, 64);
    let mut refusal = |objective: DpoObjective, pairs: Vec<Pair>| {
        let error: LearnError = trainer
            .train_dpo(
                &model,
                &reference,
                &TrainDpo {
                    step: 0,
                    objective,
                    pairs,
                },
            )
            .unwrap_err();
        assert!(error.is_invalid_request(), "{error}");
        error.to_string()
    };
    assert!(refusal(SIGMOID, Vec::new()).contains("empty"));
    assert!(
        refusal(
            DpoObjective {
                beta: 0.0,
                ..SIGMOID
            },
            pairs(1)
        )
        .contains("beta = 0")
    );
    assert!(
        refusal(
            DpoObjective {
                label_smoothing: 0.5,
                ..SIGMOID
            },
            pairs(1)
        )
        .contains("label_smoothing = 0.5")
    );
    let ipo = DpoObjective {
        loss_type: DpoLossType::Ipo,
        label_smoothing: 0.1,
        ..SIGMOID
    };
    assert!(refusal(ipo, pairs(1)).contains("label_smoothing = 0.1"));
    let mut pairs = pairs(1);
    pairs[3].rejected_ids.clear();
    assert!(refusal(SIGMOID, pairs).starts_with("sequence 3: no rejected ids"));
}
