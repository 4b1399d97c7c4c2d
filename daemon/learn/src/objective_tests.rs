//! Compares with TRL's own loss code (`tests/golden_trl/make.py`) and with the worked example of
//! four short completions.

use super::*;
use r1d_proto::hyperparameters::ImportanceSamplingCorrection;
use serde::Deserialize;
use std::collections::BTreeMap;
use tch::Device;

type Ragged = Vec<Vec<f64>>;

#[derive(Deserialize)]
struct Goldens {
    lengths: Vec<usize>,
    truncated: Vec<bool>,
    advantages: Vec<f64>,
    max_completion_length: u32,
    logp: Ragged,
    old: Ragged,
    reference: Ragged,
    sampled: Ragged,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    loss_type: LossType,
    importance_sampling_level: ImportanceSamplingLevel,
    epsilon: f64,
    epsilon_high: f64,
    beta: f64,
    use_bias_correction_kl: bool,
    off_policy_mask_threshold: Option<f64>,
    #[serde(default)]
    importance_sampling_correction: Option<ImportanceSamplingCorrection>,
    mask_truncated_completions: bool,
    on_policy: bool,
    loss: f64,
    gradient: Ragged,
    metrics: BTreeMap<String, f64>,
}

fn objective(loss_type: LossType, clip: (f64, f64), beta: f64) -> Objective {
    Objective {
        loss_type,
        importance_sampling_level: ImportanceSamplingLevel::Token,
        epsilon: clip.0,
        epsilon_high: clip.1,
        beta,
        use_bias_correction_kl: false,
        off_policy_mask_threshold: None,
        importance_sampling_correction: None,
        num_iterations: 1,
        num_minibatches: 1,
        mask_truncated_completions: false,
        max_completion_length: 3,
        temperature: 1.0,
        routing_replay: false,
        routing_replay_reference: false,
    }
}

/// Loss, gradient in the log-probabilities and sums, over the sequences in `kept` of a minibatch.
struct Evaluated {
    loss: f64,
    gradient: Vec<f64>,
    sums: Vec<f64>,
    corrections: Option<Vec<f64>>,
}

struct Batch<'a> {
    logp: &'a [Vec<f64>],
    old: Option<&'a [Vec<f64>]>,
    reference: Option<&'a [Vec<f64>]>,
    sampled: Option<&'a [Vec<f64>]>,
    advantages: &'a [f64],
}

fn evaluate(
    objective: &Objective,
    batch: &Batch,
    kept: &[usize],
    share: Share,
    kind: Kind,
) -> Evaluated {
    let flat = |rows: &[Vec<f64>]| {
        Tensor::from_slice(
            &kept
                .iter()
                .flat_map(|&i| rows[i].clone())
                .collect::<Vec<f64>>(),
        )
        .to_kind(kind)
    };
    let lengths: Vec<usize> = kept.iter().map(|&i| batch.logp[i].len()).collect();
    let rows = |value: &dyn Fn(usize) -> f64| -> Ragged {
        (0..batch.logp.len())
            .map(|i| vec![value(i); batch.logp[i].len()])
            .collect()
    };
    let logp = flat(batch.logp).set_requires_grad(true);
    let mut sequences = Sequences::of(&lengths, Device::Cpu).unwrap();
    sequences.inverse_length = sequences.inverse_length.to_kind(kind);
    if kind == Kind::Double {
        let inverse: Vec<f64> = lengths
            .iter()
            .flat_map(|&n| std::iter::repeat_n(1.0 / n as f64, n))
            .collect();
        sequences.inverse_length = Tensor::from_slice(&inverse);
    }
    let tokens = Tokens {
        advantage: flat(&rows(&|i| batch.advantages[i])),
        weight: flat(&rows(&|i| {
            token_weight(objective, batch.logp[i].len(), share)
        })),
        old: batch.old.map(flat),
        reference: batch.reference.filter(|_| objective.beta != 0.0).map(flat),
        sampled: batch.sampled.map(flat),
        sequences: is_whole(objective).then_some(sequences),
    };
    let Loss {
        loss,
        sums,
        corrections,
        ..
    } = policy_loss(objective, &logp, &tokens);
    loss.backward();
    Evaluated {
        loss: loss.double_value(&[]),
        gradient: Vec::try_from(logp.grad().to_kind(Kind::Double)).unwrap(),
        sums: Vec::try_from(sums).unwrap(),
        corrections: corrections.map(|each| Vec::try_from(each.to_kind(Kind::Double)).unwrap()),
    }
}

#[test]
fn equals_trl_in_loss_gradient_and_metrics() {
    let goldens: Goldens =
        serde_json::from_str(include_str!("../../../tests/golden_trl/objective.json")).unwrap();
    assert!(goldens.cases.len() > 100);
    let corrected = |case: &&Case| case.importance_sampling_correction.is_some();
    assert!(goldens.cases.iter().filter(corrected).count() > 30);
    for case in &goldens.cases {
        let mut objective = objective(case.loss_type, (case.epsilon, case.epsilon_high), case.beta);
        objective.importance_sampling_level = case.importance_sampling_level;
        objective.use_bias_correction_kl = case.use_bias_correction_kl;
        objective.off_policy_mask_threshold = case.off_policy_mask_threshold;
        objective.importance_sampling_correction = case.importance_sampling_correction;
        objective.max_completion_length = goldens.max_completion_length;
        let name = format!(
            "{objective:?} masked {} on-policy {}",
            case.mask_truncated_completions, case.on_policy
        );
        let kept: Vec<usize> = (0..goldens.lengths.len())
            .filter(|&i| !(case.mask_truncated_completions && goldens.truncated[i]))
            .collect();
        let tokens: usize = kept.iter().map(|&i| goldens.lengths[i]).sum();
        let share = Share {
            sequences: goldens.lengths.len() as f64,
            tokens: tokens as f64,
        };
        let batch = Batch {
            logp: &goldens.logp,
            old: (!case.on_policy).then_some(&goldens.old[..]),
            reference: Some(&goldens.reference),
            sampled: Some(&goldens.sampled),
            advantages: &goldens.advantages,
        };
        // A masked sequence has no tokens in our loss and zero gradients in TRL's.
        let expected: Vec<f64> = kept
            .iter()
            .flat_map(|&i| case.gradient[i].clone())
            .collect();
        for (kind, tolerance) in [(Kind::Double, 1e-12), (Kind::Float, 2e-6)] {
            let got = evaluate(&objective, &batch, &kept, share, kind);
            assert!(
                (got.loss - case.loss).abs() < tolerance,
                "{name}: loss {} {}",
                got.loss,
                case.loss
            );
            for (g, e) in got.gradient.iter().zip(&expected) {
                assert!(
                    (g - e).abs() < tolerance,
                    "{name}: gradient {:?} {expected:?}",
                    got.gradient
                );
            }
            let is_sequence_level = is_sequence_level(&objective);
            for (key, value) in metrics(&got, is_sequence_level, share) {
                let Some(&theirs) = case.metrics.get(&key) else {
                    continue;
                };
                if is_sequence_level && case.mask_truncated_completions && key != "kl" {
                    continue; // Theirs counts masked sequences, too.
                }
                assert!(
                    (value - theirs).abs() < 1e-6,
                    "{name}: {key} {value} {theirs}"
                );
            }
        }
    }
}

/// The metrics that TRL makes of the sums.
fn metrics(got: &Evaluated, is_sequence_level: bool, share: Share) -> Vec<(String, f64)> {
    let clips = if is_sequence_level {
        share.sequences
    } else {
        share.tokens
    };
    let [_, kl, low, high] = got.sums[..] else {
        panic!("{:?}", got.sums)
    };
    let mut metrics = vec![
        ("kl".to_owned(), kl / share.tokens),
        ("clip_ratio/low_mean".to_owned(), low / clips),
        ("clip_ratio/high_mean".to_owned(), high / clips),
    ];
    if let Some(weights) = got
        .corrections
        .as_ref()
        .filter(|weights| !weights.is_empty())
    {
        let mean = weights.iter().sum::<f64>() / weights.len() as f64;
        let min = weights.iter().copied().fold(f64::INFINITY, f64::min);
        let max = weights.iter().copied().fold(0.0, f64::max);
        let ratios = [("min", min), ("mean", mean), ("max", max)];
        metrics
            .extend(ratios.map(|(name, value)| {
                (format!("sampling/importance_sampling_ratio/{name}"), value)
            }));
    }
    metrics
}

const LP: [&[f64]; 4] = [
    &[-0.5, -1.0, -1.5],
    &[-0.2, -2.0],
    &[-3.0],
    &[-0.7, -0.1, -2.5],
];
const OLD: [&[f64]; 4] = [
    &[-0.6, -1.3, -1.4],
    &[-0.5, -1.5],
    &[-2.0],
    &[-0.7, -0.4, -2.0],
];
const REFERENCE: [&[f64]; 4] = [
    &[-0.4, -1.2, -1.5],
    &[-0.3, -1.8],
    &[-2.5],
    &[-0.9, -0.2, -2.2],
];
const DDOF1: [f64; 4] = [
    1.3174650984805198,
    -0.43915503282683993,
    -1.02469507659596,
    0.14638501094227999,
];
const NO_STD: [f64; 4] = [1.125, -0.375, -0.875, 0.125];

fn ragged(rows: &[&[f64]; 4]) -> Ragged {
    rows.iter().map(|row| row.to_vec()).collect()
}

fn worked(objective: &Objective, advantages: &[f64], on_policy: bool) -> Evaluated {
    let (lp, old, reference) = (ragged(&LP), ragged(&OLD), ragged(&REFERENCE));
    let batch = Batch {
        logp: &lp,
        old: (!on_policy).then_some(&old),
        reference: Some(&reference),
        sampled: None,
        advantages,
    };
    evaluate(
        objective,
        &batch,
        &[0, 1, 2, 3],
        Share {
            sequences: 4.0,
            tokens: 9.0,
        },
        Kind::Double,
    )
}

fn close(got: f64, expected: f64) {
    assert!((got - expected).abs() < 5e-11, "{got} {expected}");
}

#[test]
fn worked_example_for_every_loss_type_and_clip() {
    use LossType::{Dapo, DrGrpo, Grpo};
    // Clip pair; beta 0.04: grpo, dapo, dr_grpo; beta 0: grpo, dapo; beta 0 without the division by
    // the standard deviation: dr_grpo.
    let table = [
        (
            (0.2, 0.2),
            [
                -0.0617619754,
                -0.3183487766,
                -0.2387615825,
                -0.0637048178,
                -0.3195589548,
                -0.2046565548,
            ],
        ),
        (
            (0.2, 0.28),
            [
                -0.0715209761,
                -0.3313607776,
                -0.2485205832,
                -0.0734638185,
                -0.3325709558,
                -0.2129898881,
            ],
        ),
        (
            (10.0, 10.0),
            [
                -0.2013612096,
                -0.4013627406,
                -0.3010220554,
                -0.2033040520,
                -0.4025729188,
                -0.2578215549,
            ],
        ),
    ];
    for (clip, expected) in table {
        let columns = [
            (Grpo, 0.04, DDOF1),
            (Dapo, 0.04, DDOF1),
            (DrGrpo, 0.04, DDOF1),
            (Grpo, 0.0, DDOF1),
            (Dapo, 0.0, DDOF1),
            (DrGrpo, 0.0, NO_STD),
        ];
        for ((loss_type, beta, advantages), expected) in columns.into_iter().zip(expected) {
            close(
                worked(&objective(loss_type, clip, beta), &advantages, false).loss,
                expected,
            );
        }
    }
}

#[test]
fn worked_example_at_sequence_level() {
    for (clip, expected) in [((3e-4, 4e-4), 0.0021186674), ((0.2, 0.28), -0.0939620863)] {
        let mut objective = objective(LossType::Grpo, clip, 0.0);
        objective.importance_sampling_level = ImportanceSamplingLevel::Sequence;
        close(worked(&objective, &DDOF1, false).loss, expected);
    }
}

#[test]
fn worked_example_of_k3() {
    let expected = [
        &[0.005170918075647624, 0.018730753077981888, 0.0][..],
        &[0.004837418035959606, 0.0214027581601699],
        &[0.1487212707001282],
        &[
            0.018730753077981888,
            0.004837418035959606,
            0.04985880757600314,
        ],
    ];
    for (row, expected) in expected.iter().enumerate() {
        let got = Vec::<f64>::try_from(k3(
            &Tensor::from_slice(LP[row]),
            &Tensor::from_slice(REFERENCE[row]),
        ))
        .unwrap();
        for (g, e) in got.iter().zip(*expected) {
            assert!((g - e).abs() < 1e-15, "{got:?} {expected:?}");
        }
    }
}

#[test]
fn worked_example_on_policy_with_gradient() {
    let got = worked(&objective(LossType::Grpo, (0.2, 0.2), 0.04), &DDOF1, true);
    close(got.loss, 0.001942842420793879);
    let row0 = [
        -0.11013932793362881,
        -0.10918452738363658,
        -0.10978875820670998,
    ];
    for (g, e) in got.gradient[..3].iter().zip(row0) {
        close(*g, e);
    }
    close(got.gradient[5], 0.2496865564419887);
    // −(A + β(e^{ref−lp} − 1)) / (G·|o|): DeepSeekMath eq. 21.
    close(
        got.gradient[5],
        -(DDOF1[2] + 0.04 * ((0.5f64).exp() - 1.0)) / 4.0,
    );
}

#[test]
fn on_policy_without_kl_the_loss_is_zero_and_the_gradient_is_not() {
    let got = worked(&objective(LossType::Grpo, (0.2, 0.2), 0.0), &DDOF1, true);
    assert!(got.loss.abs() < 1e-15, "{}", got.loss);
    assert!(got.gradient.iter().all(|g| g.abs() > 1e-3));
    let equal_rewards = worked(&objective(LossType::Grpo, (0.2, 0.2), 0.0), &[0.0; 4], true);
    assert!(equal_rewards.gradient.iter().all(|&g| g == 0.0));
}

#[test]
fn a_minibatch_costs_the_same_however_it_is_cut() {
    let (lp, old, reference) = (ragged(&LP), ragged(&OLD), ragged(&REFERENCE));
    let batch = Batch {
        logp: &lp,
        old: Some(&old),
        reference: Some(&reference),
        sampled: None,
        advantages: &DDOF1,
    };
    let share = Share {
        sequences: 4.0,
        tokens: 9.0,
    };
    for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Dapo] {
        for level in [
            ImportanceSamplingLevel::Token,
            ImportanceSamplingLevel::Sequence,
        ] {
            let mut objective = objective(loss_type, (0.2, 0.28), 0.04);
            objective.importance_sampling_level = level;
            let whole = evaluate(&objective, &batch, &[0, 1, 2, 3], share, Kind::Double);
            let parts = [&[3usize][..], &[0, 2], &[1]]
                .map(|kept| evaluate(&objective, &batch, kept, share, Kind::Double));
            assert!((parts.iter().map(|p| p.loss).sum::<f64>() - whole.loss).abs() < 1e-14);
            for sum in 0..4 {
                assert!(
                    (parts.iter().map(|p| p.sums[sum]).sum::<f64>() - whole.sums[sum]).abs()
                        < 1e-14
                );
            }
            assert!((parts[2].gradient[0] - whole.gradient[3]).abs() < 1e-15);
        }
    }
}
