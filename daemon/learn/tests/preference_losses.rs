//! Compares with TRL's and transformers' own loss code (`tests/golden_trl/make_preference.py`).

use r1d_learn::preference::{Side, dpo_loss, pairwise_loss, pointwise_loss};
use r1d_proto::hyperparameters::{DpoLossType, DpoObjective};
use serde::Deserialize;
use tch::{Kind, Tensor};

#[derive(Deserialize)]
struct Goldens {
    reward: Vec<RewardCase>,
    pointwise: PointwiseCase,
    dpo: Vec<DpoCase>,
}

#[derive(Deserialize)]
struct RewardCase {
    center_rewards_coefficient: f64,
    margin: Vec<f64>,
    chosen: Vec<f64>,
    rejected: Vec<f64>,
    loss: f64,
    chosen_gradient: Vec<f64>,
    rejected_gradient: Vec<f64>,
}

#[derive(Deserialize)]
struct PointwiseCase {
    scores: Vec<f64>,
    labels: Vec<f64>,
    loss: f64,
    gradient: Vec<f64>,
}

#[derive(Deserialize)]
struct Sides {
    chosen: Vec<Vec<f64>>,
    rejected: Vec<Vec<f64>>,
}

#[derive(Deserialize)]
struct DpoCase {
    loss_type: DpoLossType,
    beta: f64,
    label_smoothing: f64,
    policy: Sides,
    reference: Sides,
    loss: f64,
    gradient: Sides,
}

fn goldens() -> Goldens {
    serde_json::from_str(include_str!("../../../tests/golden_trl/preference.json")).unwrap()
}

const KINDS: [(Kind, f64); 2] = [(Kind::Double, 1e-12), (Kind::Float, 2e-6)];

fn tensor(values: &[f64], kind: Kind) -> Tensor {
    Tensor::from_slice(values).to_kind(kind)
}

fn leaf(values: &[f64], kind: Kind) -> Tensor {
    tensor(values, kind).set_requires_grad(true)
}

fn close(found: &Tensor, expected: &[f64], tolerance: f64, name: &str) {
    let found = Vec::<f64>::try_from(found.to_kind(Kind::Double).view([-1])).unwrap();
    assert_eq!(found.len(), expected.len(), "{name}");
    for (f, e) in found.iter().zip(expected) {
        assert!(
            (f - e).abs() < tolerance * e.abs().max(1.0),
            "{name}: {found:?} {expected:?}"
        );
    }
}

#[test]
fn pairs_cost_what_trl_says() {
    let goldens = goldens();
    assert_eq!(goldens.reward.len(), 6);
    for case in &goldens.reward {
        for (kind, tolerance) in KINDS {
            let (chosen, rejected, margin) = (
                leaf(&case.chosen, kind),
                leaf(&case.rejected, kind),
                tensor(&case.margin, kind),
            );
            let coefficient = case.center_rewards_coefficient;
            // The batch comes in two parts, like micro-batches: their sum is the whole batch's
            // loss.
            let part = |start: i64, n: i64| {
                let cut = |whole: &Tensor| whole.narrow(0, start, n);
                pairwise_loss(
                    &cut(&chosen),
                    &cut(&rejected),
                    &cut(&margin),
                    coefficient,
                    case.chosen.len() as f64,
                )
            };
            let loss = part(0, 2) + part(2, case.chosen.len() as i64 - 2);
            loss.backward();
            let name = format!("coefficient {coefficient} {kind:?}");
            close(&loss, &[case.loss], tolerance, &name);
            close(&chosen.grad(), &case.chosen_gradient, tolerance, &name);
            close(&rejected.grad(), &case.rejected_gradient, tolerance, &name);
        }
    }
}

#[test]
fn labelled_items_cost_what_transformers_says() {
    let case = goldens().pointwise;
    for (kind, tolerance) in KINDS {
        let scores = leaf(&case.scores, kind);
        let loss = pointwise_loss(
            &scores,
            &tensor(&case.labels, kind),
            case.labels.len() as f64,
        );
        loss.backward();
        close(&loss, &[case.loss], tolerance, "loss");
        close(&scores.grad(), &case.gradient, tolerance, "gradient");
    }
}

/// If e^r overflows, the loss is r and the gradient 1.
#[test]
fn scores_far_out_stay_finite() {
    let scores = leaf(&[200.0, -200.0], Kind::Float);
    let loss = pointwise_loss(&scores, &tensor(&[0.0, 1.0], Kind::Float), 2.0);
    loss.backward();
    close(&loss, &[200.0], 1e-6, "loss");
    close(&scores.grad(), &[0.5, -0.5], 1e-6, "gradient");
}

fn sums(rows: &[Tensor]) -> Tensor {
    Tensor::stack(
        &rows
            .iter()
            .map(|row| row.sum(None::<Kind>))
            .collect::<Vec<_>>(),
        0,
    )
}

#[test]
fn dpo_costs_what_trl_says() {
    let goldens = goldens();
    assert!(
        goldens
            .dpo
            .iter()
            .any(|case| case.loss_type == DpoLossType::Ipo)
    );
    for case in &goldens.dpo {
        let objective = DpoObjective {
            loss_type: case.loss_type,
            beta: case.beta,
            label_smoothing: case.label_smoothing,
        };
        for (kind, tolerance) in KINDS {
            let leaves =
                |rows: &[Vec<f64>]| rows.iter().map(|row| leaf(row, kind)).collect::<Vec<_>>();
            let constants =
                |rows: &[Vec<f64>]| rows.iter().map(|row| tensor(row, kind)).collect::<Vec<_>>();
            let lengths = |rows: &[Vec<f64>]| {
                tensor(
                    &rows.iter().map(|row| row.len() as f64).collect::<Vec<_>>(),
                    kind,
                )
            };
            let (chosen, rejected) = (leaves(&case.policy.chosen), leaves(&case.policy.rejected));
            let side = |policy: &[Tensor], reference: &[Vec<f64>]| Side {
                policy: sums(policy),
                reference: sums(&constants(reference)),
                lengths: lengths(reference),
            };
            let (better, worse) = (
                side(&chosen, &case.reference.chosen),
                side(&rejected, &case.reference.rejected),
            );
            let loss = dpo_loss(&objective, &better, &worse, chosen.len() as f64);
            loss.backward();
            let name = format!("{objective:?} {kind:?}");
            close(&loss, &[case.loss], tolerance, &name);
            let gradients = [
                (&chosen, &case.gradient.chosen),
                (&rejected, &case.gradient.rejected),
            ];
            for (found, expected) in gradients
                .into_iter()
                .flat_map(|(found, expected)| found.iter().zip(expected))
            {
                close(&found.grad(), expected, tolerance, &name);
            }
        }
    }
}
