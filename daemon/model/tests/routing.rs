//! Recording, replaying and balancing of expert choices through the whole model.

mod fixture;

use fixture::{DEEPSEEK, difference, ids, load, packed, prompt, sequence, tensors};
use r1d_model::{AuxLoss, Forward, Packed, Places};
use tch::{Kind, Tensor};

const EXPERT: AuxLoss = AuxLoss {
    expert_alpha: 1.0,
    device_alpha: 0.0,
};
const RECORD: Forward = Forward {
    invariant: false,
    packed: None,
    forced_experts: None,
    record_experts: true,
    count_experts: true,
    aux_loss: AuxLoss::NONE,
    stands_by: false,
};

#[test]
fn decoding_and_prefill_record_the_experts_of_the_full_forward() {
    for name in DEEPSEEK {
        let model = load(name, Kind::Float);
        let ids = prompt(4, 24);
        let whole = tch::no_grad(|| {
            model
                .forward(&sequence(&ids), &RECORD)
                .unwrap()
                .experts
                .unwrap()
        });
        assert_eq!(
            whole.size(),
            [24, model.config.moe_layers, model.config.experts_per_token]
        );
        let mut cache = model.cache(2, 24, false).unwrap();
        let mut recorded = vec![tch::no_grad(|| {
            model
                .prefill(&sequence(&ids[..10]), &[vec![0]], &mut cache, &RECORD)
                .unwrap()
                .experts
                .unwrap()
        })];
        for (position, id) in (0i64..).zip(&ids).skip(10) {
            let [id, at] = [*id, position].map(|n| Tensor::from_slice(&[n]));
            let slot = cache.select(&[0]).unwrap();
            recorded.push(tch::no_grad(|| {
                model
                    .decode(
                        &id,
                        &Places {
                            slots: &slot,
                            positions: &at,
                            max_position: position,
                        },
                        &mut cache,
                        &RECORD,
                    )
                    .unwrap()
                    .experts
                    .unwrap()
            }));
        }
        assert_eq!(
            fixture::ids(&Tensor::cat(&recorded, 0)),
            fixture::ids(&whole),
            "{name}"
        );
    }
}

#[test]
fn replaying_the_routers_own_choice_changes_nothing_and_another_does() {
    for name in DEEPSEEK {
        let model = load(name, Kind::Float);
        let batch = || Packed::new(Tensor::from_slice(&prompt(6, 20)), vec![12, 8]);
        let own = tch::no_grad(|| model.forward(&batch(), &RECORD).unwrap());
        let experts = own.experts.unwrap();
        let forced = |experts: &Tensor| {
            let options = Forward {
                forced_experts: Some(experts),
                record_experts: true,
                ..Forward::default()
            };
            tch::no_grad(|| model.forward(&batch(), &options).unwrap())
        };
        let replayed = forced(&experts);
        assert_eq!(difference(&replayed.hidden, &own.hidden), 0.0, "{name}");
        assert_eq!(ids(&replayed.experts.unwrap()), ids(&experts), "{name}");
        let shifted = experts.g_add_scalar(1).remainder(model.config.experts);
        let other = forced(&shifted);
        assert!(difference(&other.hidden, &own.hidden) > 1e-2, "{name}");
        assert_eq!(ids(&other.experts.unwrap()), ids(&shifted), "{name}");
    }
}

/// The gates of forced experts are the forward pass's own scores of them, so the router's weight
/// still learns.
#[test]
fn forced_experts_keep_the_routers_gradient() {
    for name in DEEPSEEK {
        let model = load(name, Kind::Float);
        model.set_requires_grad(true);
        let batch = sequence(&prompt(6, 20));
        let experts = model.forward(&batch, &RECORD).unwrap().experts.unwrap();
        let gradient = |forced: Option<&Tensor>| {
            let hidden = model
                .forward(
                    &batch,
                    &Forward {
                        forced_experts: forced,
                        ..Forward::default()
                    },
                )
                .unwrap()
                .hidden;
            let parameters = model.parameters();
            let router: Vec<_> = parameters
                .iter()
                .filter(|p| p.0.ends_with("mlp.gate.weight"))
                .collect();
            (&hidden * &hidden).sum(Kind::Float).backward();
            let found = Tensor::cat(
                &router.iter().map(|p| p.1.grad().copy()).collect::<Vec<_>>(),
                0,
            );
            r1d_torch::foreach::clear_gradients(
                &parameters
                    .iter()
                    .map(|p| p.1.shallow_clone())
                    .collect::<Vec<_>>(),
            )
            .unwrap();
            found
        };
        let (free, replayed) = (gradient(None), gradient(Some(&experts)));
        assert!(f64::try_from(free.abs().max()).unwrap() > 1e-3, "{name}");
        assert_eq!(difference(&free, &replayed), 0.0, "{name}");
    }
}

#[test]
fn load_counts_every_choice_once() {
    for name in DEEPSEEK {
        let model = load(name, Kind::Float);
        for invariant in [false, true] {
            // The batch-invariant mode pads three tokens, and must not count the padding.
            for length in [3, 20] {
                let options = Forward {
                    invariant,
                    ..RECORD
                };
                let out = tch::no_grad(|| {
                    model
                        .forward(&sequence(&prompt(8, length)), &options)
                        .unwrap()
                });
                let (load, experts) = (out.load.unwrap(), out.experts.unwrap());
                assert_eq!(load.size(), [model.config.moe_layers, model.config.experts]);
                for layer in 0..model.config.moe_layers {
                    let chosen = ids(&experts.select(1, layer));
                    let expected: Vec<i64> = (0..model.config.experts)
                        .map(|e| chosen.iter().filter(|&&c| c == e).count() as i64)
                        .collect();
                    assert_eq!(ids(&load.get(layer)), expected, "{name}");
                }
            }
        }
    }
    let unasked = load("deepseek-v3-yarn", Kind::Float)
        .forward(&sequence(&prompt(8, 5)), &Forward::default())
        .unwrap();
    assert!(
        unasked.load.is_none(),
        "counting costs, and passes without an update do not ask"
    );
    let dense = load("qwen2", Kind::Float);
    let out = tch::no_grad(|| {
        dense
            .forward(
                &sequence(&[1, 2, 3]),
                &Forward {
                    aux_loss: EXPERT,
                    ..RECORD
                },
            )
            .unwrap()
    });
    assert!(out.load.is_none() && out.experts.is_none() && out.aux_loss.is_none());
}

#[test]
fn balance_loss_is_the_mean_over_packed_sequences() {
    for name in DEEPSEEK {
        let model = load(name, Kind::Double);
        let (a, b) = (prompt(1, 9), prompt(2, 14));
        let loss = |batch: &Packed| {
            let options = Forward {
                aux_loss: EXPERT,
                ..Forward::default()
            };
            f64::try_from(tch::no_grad(|| {
                model.forward(batch, &options).unwrap().aux_loss.unwrap()
            }))
            .unwrap()
        };
        let together = loss(&Packed::new(
            Tensor::from_slice(&[&a[..], &b[..]].concat()),
            vec![9, 14],
        ));
        let apart = (loss(&sequence(&a)) + loss(&sequence(&b))) / 2.0;
        assert!(
            (together - apart).abs() < 1e-12,
            "{name}: {together} {apart}"
        );
        // The sum Σ f P of a balanced router is 1, so there is at least 1 per layer.
        assert!(
            together > 0.9 * model.config.moe_layers as f64,
            "{name}: {together}"
        );
    }
}

#[test]
fn balancing_by_bias_spreads_the_load() {
    let model = load("deepseek-v3-yarn", Kind::Float);
    let batch = packed(&tensors("deepseek-v3-yarn", "golden.safetensors")["input_ids"]);
    let load = || tch::no_grad(|| model.forward(&batch, &RECORD).unwrap().load.unwrap());
    let spread = |load: &Tensor| f64::try_from(load.to_kind(Kind::Double).std(true)).unwrap();
    let before = spread(&load());
    for _ in 0..100 {
        model.update_router_bias(&load(), 0.02).unwrap();
    }
    assert!(
        spread(&load()) < 0.5 * before,
        "{before} {}",
        spread(&load())
    );
    let refused =
        model.update_router_bias(&Tensor::zeros([1, 8], (Kind::Int64, tch::Device::Cpu)), 0.1);
    assert!(refused.unwrap_err().to_string().contains("expected [2, 8]"));
}

#[test]
fn malformed_inputs_are_refused() {
    let model = load("deepseek-v3-yarn", Kind::Float);
    let batch =
        |ids: &[i64], lengths: &[i64]| Packed::new(Tensor::from_slice(ids), lengths.to_vec());
    let refused = |batch: Packed| {
        model
            .forward(&batch, &Forward::default())
            .err()
            .unwrap()
            .to_string()
    };
    assert!(refused(batch(&[1, 2, 3], &[2])).contains("3 packed ids"));
    assert!(refused(batch(&[1, 2, 3], &[3, 0])).contains("at least 1"));
    assert!(refused(batch(&[], &[])).contains("at least 1"));
    refused(batch(&[1, 128], &[2]));
    let short = Tensor::zeros([2, 2, 3], (Kind::Int64, tch::Device::Cpu));
    let options = Forward {
        forced_experts: Some(&short),
        ..Forward::default()
    };
    assert!(
        model
            .forward(&sequence(&[1, 2, 3]), &options)
            .err()
            .unwrap()
            .to_string()
            .contains("expected Int64 [3, 2, 3]")
    );
    let absent = Tensor::full([1, 2, 3], 8, (Kind::Int64, tch::Device::Cpu));
    assert!(
        model
            .forward(
                &sequence(&[1]),
                &Forward {
                    forced_experts: Some(&absent),
                    ..Forward::default()
                }
            )
            .is_err()
    );

    let mut cache = model.cache(2, 4, false).unwrap();
    let options = Forward::default();
    let mut prefill = |ids: &[i64], slots: Vec<i64>| {
        model
            .prefill(&sequence(ids), &[slots], &mut cache, &options)
            .err()
            .unwrap()
            .to_string()
    };
    assert!(prefill(&[1, 2, 3, 4, 5], vec![0]).contains("does not fit a slot of 4"));
    assert!(prefill(&[1, 2], vec![2]).contains("slot 2 does not exist"));
    let one = |n: i64| Tensor::from_slice(&[n]);
    assert!(
        cache
            .select(&[0, -1])
            .err()
            .unwrap()
            .to_string()
            .contains("slot -1 does not exist")
    );
    let slot = cache.select(&[0]).unwrap();
    let refused = model
        .decode(
            &one(1),
            &Places {
                slots: &slot,
                positions: &one(4),
                max_position: 4,
            },
            &mut cache,
            &options,
        )
        .err()
        .unwrap()
        .to_string();
    assert!(refused.contains("position 4 does not fit"), "{refused}");
}
