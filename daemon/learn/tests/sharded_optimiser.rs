//! ZeRO stage 1: each rank keeps and updates a share of the optimiser's blocks, and all end with
//! the weights of one that has them all.

mod gangs;

use gangs::{run, settings};
use r1d_learn::Gang;
use r1d_learn::gang::Sharding;
use r1d_learn::optimiser::Optimiser;
use r1d_proto::hyperparameters::{self, Dtype, LrSchedule, OptimizerOffload};
use tch::{Device, Kind, Tensor};

fn wide() -> hyperparameters::Optimiser {
    hyperparameters::Optimiser {
        learning_rate: 0.1,
        lr_scheduler_type: LrSchedule::Constant,
        warmup_steps: 0,
        total_steps: 10,
        min_lr_ratio: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.95,
        adam_epsilon: 1e-8,
        weight_decay: 0.5,
        max_grad_norm: 1.0,
        exp_avg_dtype: Dtype::Float32,
        exp_avg_sq_dtype: Dtype::Float32,
        optimizer_offload: OptimizerOffload::None,
    }
}

/// A tensor of two blocks and a bit, which ranks share; small ones; one of another dtype; one that
/// no loss reaches.
const SHAPES: [(&str, &[i64]); 5] = [
    ("model.norm.weight", &[33]),
    ("model.embed_tokens.weight", &[1100, 2000]),
    ("model.layers.0.mlp.experts.down_proj", &[3, 5, 7]),
    ("score.weight", &[1, 33]),
    ("model.unused.weight", &[4, 4]),
];

fn wave(shape: &[i64], from: f64) -> Tensor {
    let numbers = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu));
    (numbers * 0.3 + from).sin().view(shape)
}

/// Trains for a few updates; the second has no gradient of the third tensor but on the last leaf,
/// the fourth one that is not finite. Returns weights, numbers of updates, norms, and the elements
/// of states that this rank has.
fn trained(
    kind: Kind,
    settings: &hyperparameters::Optimiser,
    gang: Option<Gang>,
) -> (Vec<Tensor>, Vec<f32>, Vec<f64>, usize) {
    let (rank, ranks) = gang
        .as_ref()
        .map_or((0, 1), |own| (own.rank(), own.ranks()));
    let parameters: Vec<(String, Tensor)> = SHAPES
        .iter()
        .map(|(name, shape)| {
            let kind = if name.starts_with("score") {
                Kind::Float
            } else {
                kind
            };
            let tensor = wave(shape, 1.0).to_kind(kind).set_requires_grad(true);
            ((*name).to_owned(), tensor)
        })
        .collect();
    let copies = parameters
        .iter()
        .map(|(name, own)| (name.clone(), own.shallow_clone()));
    let mut optimiser = Optimiser::in_gang(copies.collect(), settings, gang).unwrap();
    let mut norms = Vec::new();
    for (update, slope) in [0.01, 0.02, 3.0, f64::INFINITY].into_iter().enumerate() {
        for leaf in 4 * rank / ranks..4 * (rank + 1) / ranks {
            // The third leaf is empty.
            if leaf != 2 {
                let reached = parameters[..4]
                    .iter()
                    .enumerate()
                    .filter(|(at, _)| *at != 2 || update != 1 || leaf == 3);
                let loss: Tensor = reached
                    .map(|(_, (_, own))| {
                        let slopes = wave(&own.size(), leaf as f64 + update as f64);
                        (own.to_kind(Kind::Float) * slopes).sum(Kind::Float) * slope
                    })
                    .sum();
                loss.backward();
                optimiser.accumulate().unwrap();
            }
            optimiser.end_leaf(0).unwrap();
        }
        optimiser.exchange_gradients().unwrap();
        let norm = optimiser.gradient_norm().unwrap();
        norms.push(norm.double_value(&[]));
        optimiser.update(0.1, &norm, &norm.isfinite()).unwrap();
    }
    let state = optimiser.state();
    let updates = Vec::try_from(&state[0].1).unwrap();
    let elements = state[1..].iter().map(|(_, own)| own.numel()).sum();
    let weights = parameters.into_iter().map(|(_, own)| own.detach());
    (weights.collect(), updates, norms, elements)
}

#[test]
fn shares_of_the_states_make_the_updates_of_all_of_them() {
    let narrow = hyperparameters::Optimiser {
        exp_avg_dtype: Dtype::Bfloat16,
        exp_avg_sq_dtype: Dtype::Bfloat16,
        ..wide()
    };
    let offloaded = hyperparameters::Optimiser {
        optimizer_offload: OptimizerOffload::Cpu,
        ..wide()
    };
    let cases = [
        (Kind::Float, wide()),
        (Kind::BFloat16, narrow),
        (Kind::BFloat16, offloaded),
    ];
    for (kind, own) in cases {
        let by = |ranks, sharding| {
            run(ranks, settings(sharding, Some(4)), |gang| {
                trained(kind, &own, Some(gang))
            })
        };
        let whole = by(1, Sharding::Nothing).remove(0);
        // The last tensor had no gradient on any rank, the third in the second update on one.
        assert_eq!(whole.1, [3.0, 3.0, 3.0, 3.0, 0.0]);
        assert_eq!(whole.0[4], wave(&[4, 4], 1.0).to_kind(kind));
        for (ranks, sharding) in [
            (2, Sharding::Optimizer),
            (4, Sharding::Optimizer),
            (4, Sharding::Nothing),
        ] {
            let found = by(ranks, sharding);
            for (weights, updates, norms, _) in &found {
                for ((a, b), (name, _)) in weights.iter().zip(&whole.0).zip(SHAPES) {
                    assert!(a.equal(b), "{name} of {kind:?} on {ranks} ranks");
                }
                let bits =
                    |norms: &[f64]| norms.iter().map(|own| own.to_bits()).collect::<Vec<_>>();
                assert_eq!((updates, bits(norms)), (&whole.1, bits(&whole.2)));
            }
            let had: Vec<usize> = found.iter().map(|own| own.3).collect();
            if sharding == Sharding::Nothing {
                assert_eq!(had, [whole.3; 4]);
            } else {
                assert_eq!(had.iter().sum::<usize>(), whole.3, "{had:?}");
                // An even share, but for the last block.
                let kinds = whole.3
                    / SHAPES
                        .iter()
                        .map(|(_, shape)| shape.iter().product::<i64>() as usize)
                        .sum::<usize>();
                let most = whole.3 / ranks + (kinds + 1) * (1 << 20);
                assert!(had.iter().all(|own| *own <= most), "{had:?}");
                assert!(
                    ranks > 2 || had.iter().all(|own| *own < whole.3 * 2 / 3),
                    "{had:?}"
                );
            }
        }
    }
}

#[test]
fn a_gang_computes_what_one_without_does() {
    let (weights, updates, norms, _) = trained(Kind::Float, &wide(), None);
    let mode = settings(Sharding::Optimizer, None);
    for own in run(4, mode, |gang| trained(Kind::Float, &wide(), Some(gang))) {
        assert_eq!(own.1, updates);
        for (a, b) in own.2.iter().zip(&norms).take(3) {
            // Without a gang a CPU sums the squares of two million numbers in float32.
            assert!((a - b).abs() < 1e-4 * b, "{a} is not {b}");
        }
        for (a, b) in own.0.iter().zip(&weights) {
            assert!(a.allclose(b, 1e-5, 1e-5, false));
        }
    }
}
