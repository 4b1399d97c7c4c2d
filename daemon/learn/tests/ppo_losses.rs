//! Compares with the lines of TRL's own `PPOTrainer` (`tests/golden_trl/make_ppo.py`), losses
//! included.

use r1d_learn::estimate::{Estimate, estimate, whiten};
use r1d_learn::objective::{Tokens, policy_loss};
use r1d_learn::value::value_loss;
use r1d_proto::hyperparameters::{ImportanceSamplingLevel, LossType, Objective, PpoObjective};
use serde::Deserialize;
use tch::{Kind, Tensor};

type Ragged = Vec<Vec<f64>>;

#[derive(Deserialize)]
struct Goldens {
    scores: Vec<f64>,
    logp: Ragged,
    reference: Ragged,
    values: Ragged,
    new_logp: Ragged,
    new_values: Ragged,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    kl_coef: f64,
    gamma: f64,
    lam: f64,
    advantages: Ragged,
    returns: Ragged,
    whitened: Ragged,
    losses: Vec<LossCase>,
}

#[derive(Deserialize)]
struct LossCase {
    cliprange: f64,
    cliprange_value: f64,
    vf_coef: f64,
    loss: f64,
    policy_loss: f64,
    value_loss: f64,
    policy_clipfrac: f64,
    value_clipfrac: f64,
    logp_gradient: Ragged,
    values_gradient: Ragged,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("../../../tests/golden_trl/ppo.json")).unwrap()
}

fn settings(kl_coef: f64, gamma: f64, lam: f64) -> PpoObjective {
    PpoObjective {
        num_ppo_epochs: 1,
        num_mini_batches: 1,
        cliprange: 0.2,
        cliprange_value: 0.2,
        vf_coef: 0.1,
        gamma,
        lam,
        kl_coef,
        temperature: 1.0,
        routing_replay: false,
        routing_replay_reference: false,
    }
}

fn single(values: &[f64]) -> Vec<f32> {
    values.iter().map(|&v| v as f32).collect()
}

fn close(found: &[f64], expected: &[f64], tolerance: f64, name: &str) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() < tolerance * e.abs().max(1.0),
            "{name}: {found:?} {expected:?}"
        );
    }
}

/// The inputs are float32, as from a model; the arithmetic is float64.
#[test]
fn advantages_and_returns_are_trls() {
    let goldens = goldens();
    assert!(goldens.cases.len() >= 3);
    for case in &goldens.cases {
        let objective = settings(case.kl_coef, case.gamma, case.lam);
        let name = format!("{objective:?}");
        let mut estimates: Vec<Estimate> = (0..goldens.scores.len())
            .map(|i| {
                let reference = if case.kl_coef == 0.0 {
                    Vec::new()
                } else {
                    single(&goldens.reference[i])
                };
                let (old, values) = (single(&goldens.logp[i]), single(&goldens.values[i]));
                estimate(
                    &objective,
                    &old,
                    &reference,
                    &values,
                    goldens.scores[i] as f32,
                )
            })
            .collect();
        for (i, found) in estimates.iter().enumerate() {
            close(&found.advantages, &case.advantages[i], 2e-6, &name);
            close(&found.returns, &case.returns[i], 2e-6, &name);
            let kl: f64 = goldens.logp[i]
                .iter()
                .zip(&goldens.reference[i])
                .map(|(old, reference)| old - reference)
                .sum();
            close(
                &[found.kl],
                &[if case.kl_coef == 0.0 { 0.0 } else { kl }],
                2e-6,
                &name,
            );
        }
        whiten(&mut estimates);
        for (found, expected) in estimates.iter().zip(&case.whitened) {
            close(&found.advantages, expected, 2e-6, &name);
        }
    }
}

#[test]
fn whitening_of_one_token_or_of_equal_ones_is_zero_and_finite() {
    for advantages in [vec![3.0], vec![2.0; 4]] {
        let mut one = [Estimate {
            advantages,
            ..Estimate::default()
        }];
        whiten(&mut one);
        assert!(one[0].advantages.iter().all(|&a| a == 0.0), "{one:?}");
    }
    whiten(&mut []);
}

#[test]
fn both_clipped_losses_are_trls() {
    let goldens = goldens();
    for (case, expected) in goldens
        .cases
        .iter()
        .flat_map(|case| case.losses.iter().map(move |loss| (case, loss)))
    {
        let name = format!("clip {} {}", expected.cliprange, expected.cliprange_value);
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 3e-6)] {
            let flat = |rows: &Ragged| Tensor::from_slice(&rows.concat()).to_kind(kind);
            let count = goldens.logp.concat().len() as f64;
            let (logp, values) = (
                flat(&goldens.new_logp).set_requires_grad(true),
                flat(&goldens.new_values).set_requires_grad(true),
            );
            let tokens = Tokens {
                advantage: flat(&case.whitened),
                weight: Tensor::full([count as i64], 1.0 / count, (kind, tch::Device::Cpu)),
                old: Some(flat(&goldens.logp)),
                reference: None,
                sampled: None,
                sequences: None,
            };
            let policy = policy_loss(&plain(expected.cliprange), &logp, &tokens);
            let value = value_loss(
                &values,
                &flat(&goldens.values),
                &flat(&case.returns),
                expected.cliprange_value,
                count,
            );
            let loss = &policy.loss + &value.loss * expected.vf_coef;
            loss.backward();
            let number = |tensor: &Tensor| tensor.to_kind(Kind::Double).double_value(&[]);
            close(
                &[number(&policy.loss), number(&value.loss)],
                &[expected.policy_loss, expected.value_loss],
                tolerance,
                &name,
            );
            close(&[number(&loss)], &[expected.loss], tolerance, &name);
            let gradient =
                |leaf: &Tensor| Vec::<f64>::try_from(leaf.grad().to_kind(Kind::Double)).unwrap();
            close(
                &gradient(&logp),
                &expected.logp_gradient.concat(),
                tolerance,
                &name,
            );
            close(
                &gradient(&values),
                &expected.values_gradient.concat(),
                tolerance,
                &name,
            );
            // TRL's shares are float32.
            let held = policy.sums.double_value(&[2]) + policy.sums.double_value(&[3]);
            close(
                &[held / count, number(&value.held) / count],
                &[expected.policy_clipfrac, expected.value_clipfrac],
                1e-6,
                &name,
            );
        }
    }
}

fn plain(cliprange: f64) -> Objective {
    Objective {
        loss_type: LossType::Dapo,
        importance_sampling_level: ImportanceSamplingLevel::Token,
        epsilon: cliprange,
        epsilon_high: cliprange,
        beta: 0.0,
        use_bias_correction_kl: false,
        off_policy_mask_threshold: None,
        importance_sampling_correction: None,
        num_iterations: 1,
        num_minibatches: 1,
        mask_truncated_completions: false,
        max_completion_length: 7,
        temperature: 1.0,
        routing_replay: false,
        routing_replay_reference: false,
    }
}
