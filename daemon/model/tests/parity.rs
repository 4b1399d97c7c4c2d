//! r1d-model computes the same as transformers: the goldens come from
//! tests/fixtures/make_models.py.

mod fixture;

use fixture::{
    ALL, DEEPSEEK, assert_close, difference, forward_logits, ids, load, packed, sequence, tensors,
};
use r1d_model::{Cache, CausalLm, Forward, Packed, Places, token_logprobs};
use tch::{Kind, Tensor};

const PROMPT: usize = 16;

/// Final hidden states of a whole sequence through prefill and decode: `[T, D]`.
fn through_cache(
    model: &CausalLm,
    cache: &mut Cache,
    ids: &[i64],
    prompt: usize,
    options: &Forward,
) -> Tensor {
    tch::no_grad(|| {
        let mut hidden = vec![
            model
                .prefill(&sequence(&ids[..prompt]), &[vec![1]], cache, options)
                .unwrap()
                .hidden,
        ];
        for (position, id) in (0i64..).zip(ids).skip(prompt) {
            let [id, at] = [*id, position].map(|n| Tensor::from_slice(&[n]));
            let slot = cache.select(&[1]).unwrap();
            hidden.push(
                model
                    .decode(
                        &id,
                        &Places {
                            slots: &slot,
                            positions: &at,
                            max_position: position,
                        },
                        cache,
                        options,
                    )
                    .unwrap()
                    .hidden,
            );
        }
        Tensor::cat(&hidden, 0)
    })
}

#[test]
fn full_forward_gives_transformers_logits() {
    for name in ALL {
        let (model, golden) = (load(name, Kind::Float), tensors(name, "golden.safetensors"));
        let logits = forward_logits(&model, &packed(&golden["input_ids"]), &Forward::default());
        assert_close(name, &logits, &golden["logits"].flatten(0, 1));
    }
}

#[test]
fn sequences_of_any_lengths_pack_without_seeing_each_other() {
    for name in ALL {
        let (model, golden) = (load(name, Kind::Float), tensors(name, "golden.safetensors"));
        let (first, second) = (golden["input_ids"].get(0), golden["input_ids"].get(1));
        let batch = Packed::new(
            Tensor::cat(&[first.narrow(0, 0, 5), second, first.narrow(0, 0, 1)], 0),
            vec![5, 33, 1],
        );
        let logits = forward_logits(&model, &batch, &Forward::default());
        let [of_first, of_second] = [0, 1].map(|n| golden["logits"].get(n));
        assert_close(
            name,
            &logits,
            &Tensor::cat(
                &[
                    of_first.narrow(0, 0, 5),
                    of_second,
                    of_first.narrow(0, 0, 1),
                ],
                0,
            ),
        );
    }
}

/// A prompt that is stored once for three sequences gives each its own logits, and gets the
/// gradients of all.
#[test]
fn sequences_may_share_their_beginning() {
    for name in ALL {
        let model = load(name, Kind::Double);
        model.set_requires_grad(true);
        let (prompt, ends) = (
            fixture::prompt(1, 9),
            [
                fixture::prompt(2, 6),
                fixture::prompt(3, 1),
                fixture::prompt(4, 12),
            ],
        );
        let alone = fixture::prompt(5, 4);
        let ids: Vec<i64> = [&prompt[..], &ends[0], &alone, &ends[1], &ends[2]].concat();
        let shared = Packed {
            ids: Tensor::from_slice(&ids),
            lengths: vec![15, 4, 1, 12],
            prefixes: vec![0..0, 0..0, 0..9, 0..9],
        };
        let whole = [
            [&prompt[..], &ends[0]].concat(),
            alone,
            [&prompt[..], &ends[1]].concat(),
            [&prompt[..], &ends[2]].concat(),
        ];
        let lengths = whole.iter().map(|ids| ids.len() as i64).collect();
        let apart = Packed::new(Tensor::from_slice(&whole.concat()), lengths);
        // Rows of the shared pass that form the four sequences.
        let rows: Vec<i64> = (0..19)
            .chain(0..9)
            .chain(19..20)
            .chain(0..9)
            .chain(20..32)
            .collect();
        let run = |batch: &Packed, rows: Option<&[i64]>| {
            let output = model.forward(batch, &Forward::default()).unwrap();
            let (hidden, load) = (output.hidden, output.load);
            let hidden = rows.map_or(hidden.shallow_clone(), |rows| {
                hidden.index_select(0, &Tensor::from_slice(rows))
            });
            let weights = Tensor::arange(hidden.numel() as i64, (Kind::Double, hidden.device()))
                .sin()
                .view_as(&hidden);
            (&hidden * weights).sum(Kind::Double).backward();
            let reached = model
                .parameters()
                .into_iter()
                .filter(|(_, p)| p.grad().defined());
            let gradients: Vec<_> = reached
                .map(|(name, p)| {
                    let gradient = (name, p.grad().copy());
                    p.shallow_clone().zero_grad();
                    gradient
                })
                .collect();
            (hidden.detach(), gradients, load)
        };
        let ((of_shared, shared_gradients, shared_load), (of_apart, gradients, load)) =
            (run(&shared, Some(&rows)), run(&apart, None));
        assert!(
            difference(&of_shared, &of_apart) < 1e-12,
            "{name}: {:e}",
            difference(&of_shared, &of_apart)
        );
        assert!(gradients.len() > 10);
        assert_eq!(
            shared_load, load,
            "{name}: a shared token counts for each sequence that has it"
        );
        for ((of, shared), (_, apart)) in shared_gradients.iter().zip(&gradients) {
            let largest = f64::try_from(apart.abs().max()).unwrap();
            assert!(
                difference(shared, apart) <= 1e-11 * largest.max(1.0),
                "{name} {of}: {:e}",
                difference(shared, apart)
            );
        }
    }
}

#[test]
fn prefixes_that_are_no_earlier_beginning_are_refused() {
    let model = load("qwen2", Kind::Float);
    let refused = |prefixes: Vec<std::ops::Range<i64>>| {
        let batch = Packed {
            ids: Tensor::from_slice(&fixture::prompt(1, 9)),
            lengths: vec![4, 3, 2],
            prefixes,
        };
        model
            .forward(&batch, &Forward::default())
            .err()
            .unwrap()
            .to_string()
    };
    for prefixes in [
        vec![0..0, 0..5, 0..0],
        vec![0..0, 1..3, 0..0],
        vec![0..4, 0..0, 0..0],
        vec![0..0, 0..4, 4..7],
        vec![4..7, 0..0, 0..0],
    ] {
        let message = refused(prefixes);
        assert!(
            message.contains("beginning of an earlier sequence"),
            "{message}"
        );
    }
    assert!(refused(vec![0..0; 2]).contains("2 prefixes for 3 sequences"));
}

#[test]
fn prefill_and_decode_give_transformers_logits() {
    for name in ALL {
        let (model, golden) = (load(name, Kind::Float), tensors(name, "golden.safetensors"));
        let packed = model.pack().unwrap();
        let products = [(false, None), (false, Some(&packed)), (true, None)];
        for (invariant, packed) in products {
            let options = Forward {
                invariant,
                packed,
                ..Forward::default()
            };
            let mut cache = model.cache(3, 40, invariant).unwrap();
            let hidden = through_cache(
                &model,
                &mut cache,
                &ids(&golden["input_ids"].get(1)),
                PROMPT,
                &options,
            );
            assert_close(
                name,
                &model.logits(&hidden, &options).unwrap(),
                &golden["logits"].get(1),
            );
        }
    }
}

#[test]
fn greedy_decoding_gives_transformers_ids() {
    for name in ALL {
        let (model, golden) = (
            load(name, Kind::Float),
            ids(&tensors(name, "golden.safetensors")["greedy"]),
        );
        let mut cache = model.cache(2, golden.len() as i64, false).unwrap();
        let mut found = golden[..PROMPT].to_vec();
        tch::no_grad(|| {
            let prompt = model
                .prefill(
                    &sequence(&found),
                    &[vec![0]],
                    &mut cache,
                    &Forward::default(),
                )
                .unwrap();
            let mut hidden = prompt.hidden.narrow(0, PROMPT as i64 - 1, 1);
            while found.len() < golden.len() {
                let id = model
                    .logits(&hidden, &Forward::default())
                    .unwrap()
                    .argmax(-1, false);
                let position = found.len() as i64;
                found.extend(ids(&id));
                let (slot, at) = (cache.select(&[0]).unwrap(), Tensor::from_slice(&[position]));
                hidden = model
                    .decode(
                        &id,
                        &Places {
                            slots: &slot,
                            positions: &at,
                            max_position: position,
                        },
                        &mut cache,
                        &Forward::default(),
                    )
                    .unwrap()
                    .hidden;
            }
        });
        assert_eq!(found, golden, "{name}");
    }
}

#[test]
fn absorbed_decoding_is_naive_decoding_in_float64() {
    for name in DEEPSEEK {
        let model = load(name, Kind::Double);
        let ids = fixture::prompt(5, 30);
        let [absorbed, naive] = [false, true].map(|invariant| {
            let mut cache = model.cache(3, 40, invariant).unwrap();
            through_cache(
                &model,
                &mut cache,
                &ids,
                7,
                &Forward {
                    invariant,
                    ..Forward::default()
                },
            )
        });
        let whole = tch::no_grad(|| {
            model
                .forward(&sequence(&ids), &Forward::default())
                .unwrap()
                .hidden
        });
        assert!(
            difference(&absorbed, &naive) < 1e-12,
            "{name}: {:e}",
            difference(&absorbed, &naive)
        );
        assert!(
            difference(&absorbed, &whole) < 1e-12,
            "{name}: {:e}",
            difference(&absorbed, &whole)
        );
    }
}

/// The sequence is long enough for the fused attention kernel, and is compared with
/// matmul–softmax–matmul in float64.
#[test]
fn long_sequences_agree_with_float64() {
    for name in ALL {
        let ids = fixture::prompt(9, 300);
        let batch = || Packed::new(Tensor::from_slice(&ids), vec![210, 90]);
        let [single, double] = [Kind::Float, Kind::Double]
            .map(|kind| forward_logits(&load(name, kind), &batch(), &Forward::default()));
        assert_close(name, &single, &double);
    }
}

#[test]
fn a_group_shares_one_prefill() {
    for name in ALL {
        let model = load(name, Kind::Float);
        let (a, b) = (fixture::prompt(1, 9), fixture::prompt(2, 6));
        let batch = Packed::new(Tensor::from_slice(&[&a[..], &b[..]].concat()), vec![9, 6]);
        let mut cache = model.cache(5, 20, false).unwrap();
        let options = Forward::default();
        let hidden = tch::no_grad(|| {
            model
                .prefill(&batch, &[vec![4, 0, 2], vec![3]], &mut cache, &options)
                .unwrap();
            let [next, positions] =
                [[7, 8, 9, 10], [9, 6, 9, 9]].map(|n: [i64; 4]| Tensor::from_slice(&n));
            let slots = cache.select(&[0, 3, 2, 4]).unwrap();
            model
                .decode(
                    &next,
                    &Places {
                        slots: &slots,
                        positions: &positions,
                        max_position: 9,
                    },
                    &mut cache,
                    &options,
                )
                .unwrap()
                .hidden
        });
        for (row, (prompt, next)) in [(&a, 7), (&b, 8), (&a, 9), (&a, 10)]
            .into_iter()
            .enumerate()
        {
            let whole = [&prompt[..], &[next]].concat();
            let expected =
                tch::no_grad(|| model.forward(&sequence(&whole), &options).unwrap().hidden).narrow(
                    0,
                    prompt.len() as i64,
                    1,
                );
            assert_close(name, &hidden.narrow(0, row as i64, 1), &expected);
        }
    }
}

/// Sequences in pages of any order are those in slots, token by token.
#[test]
fn a_prefill_goes_into_pages() {
    for name in ALL {
        let model = load(name, Kind::Float);
        let ids = fixture::prompt(1, 75 + 64 + 3);
        let batch = Packed::new(Tensor::from_slice(&ids), vec![75, 64, 3]);
        let options = Forward::default();
        let mut slots = model.cache(3, 80, false).unwrap();
        let mut paged = model.cache(3, 128, false).unwrap();
        assert_eq!(paged.cut_into_pages(64).unwrap(), 6);
        let pages = [vec![4, 1], vec![0], vec![3, 2]];
        tch::no_grad(|| {
            let _ = model
                .prefill(&batch, &[vec![0], vec![1], vec![2]], &mut slots, &options)
                .unwrap();
            let _ = model
                .prefill_pages(&batch, &pages, &mut paged, &options)
                .unwrap();
        });
        for layer in 0..3 {
            let rows = |cache: &Cache| match (cache.keys_and_values(layer), cache.latents(layer)) {
                (Some((keys, values)), _) => vec![keys.shallow_clone(), values.shallow_clone()],
                (_, latents) => latents.into_iter().map(Tensor::shallow_clone).collect(),
            };
            for (slots, paged) in rows(&slots).iter().zip(rows(&paged)) {
                for (sequence, length) in [75, 64, 3].into_iter().enumerate() {
                    let pages: Vec<Tensor> =
                        pages[sequence].iter().map(|p| paged.get(*p)).collect();
                    let found = Tensor::cat(&pages, 1).narrow(1, 0, length);
                    let expected = slots.get(sequence as i64).narrow(1, 0, length);
                    assert_eq!(
                        found, expected,
                        "{name}, layer {layer}, sequence {sequence}"
                    );
                }
            }
        }
        let refused =
            model.prefill_pages(&batch, &[vec![4], vec![0], vec![3]], &mut paged, &options);
        let error = refused.err().unwrap().to_string();
        assert!(error.contains("75 tokens does not fit"), "{error}");
    }
}

#[test]
fn gradients_are_transformers_gradients() {
    for name in ALL.into_iter().filter(|name| *name != "qwen2-tied") {
        let (model, golden) = (load(name, Kind::Float), tensors(name, "golden.safetensors"));
        let expected = tensors(name, "gradients.safetensors");
        model.set_requires_grad(true);
        let options = Forward::default();
        let logits = model
            .logits(
                &model
                    .forward(&packed(&golden["input_ids"]), &options)
                    .unwrap()
                    .hidden,
                &options,
            )
            .unwrap();
        let predicting = logits
            .view([2, 33, 128])
            .narrow(1, 0, 32)
            .reshape([64, 128]);
        let next = golden["input_ids"].narrow(1, 1, 32).reshape([64]);
        let loss = token_logprobs(&predicting, &next, 1.0)
            .unwrap()
            .mean(Kind::Float)
            .neg();
        assert!(difference(&loss, &expected["loss"]) < 2e-6, "{name}");
        loss.backward();
        let gradients = model.deep_copy().unwrap();
        for ((_, parameter), (_, gradient)) in model.parameters().iter().zip(gradients.parameters())
        {
            gradient.shallow_clone().copy_(&parameter.grad());
        }
        // Saved like weights, the gradients come apart under the names on disk.
        let saved = tempfile::tempdir().unwrap();
        gradients.save(saved.path(), u64::MAX).unwrap();
        let found = r1d_model::checkpoint::load_tensors(
            &saved.path().join("model.safetensors"),
            tch::Device::Cpu,
        )
        .unwrap();
        let trained: Vec<_> = found
            .iter()
            .filter(|(n, _)| !n.ends_with("e_score_correction_bias"))
            .collect();
        assert_eq!(trained.len(), expected.len() - 1, "{name}");
        for (tensor, found) in trained {
            let golden = &expected[&format!("grad.{tensor}")];
            let scale = f64::try_from(golden.abs().max()).unwrap();
            let difference = difference(found, golden);
            assert!(
                difference <= 1e-5 * scale,
                "{name} {tensor}: max |Δ| {difference:e}, gradient up to {scale:e}"
            );
        }
    }
}

/// The same holds in transformers, whose embedding is made with `padding_idx = pad_token_id`.
#[test]
fn the_padding_id_gets_no_gradient_from_being_read() {
    let copy = tempfile::tempdir().unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(fixture::dir("qwen2").join(file), copy.path().join(file)).unwrap();
    }
    let config = std::fs::read_to_string(copy.path().join("config.json")).unwrap();
    let mut config: serde_json::Value = serde_json::from_str(&config).unwrap();
    config["pad_token_id"] = 7.into();
    std::fs::write(copy.path().join("config.json"), config.to_string()).unwrap();
    r1d_torch::runtime::set_threads(1).unwrap();
    let model = r1d_model::CausalLm::load(copy.path(), tch::Device::Cpu, Kind::Float).unwrap();
    model.set_requires_grad(true);
    model
        .forward(&sequence(&[5, 7, 9]), &Forward::default())
        .unwrap()
        .hidden
        .sum(Kind::Float)
        .backward();
    let (_, embedding) = model
        .parameters()
        .into_iter()
        .find(|(name, _)| name == "model.embed_tokens.weight")
        .unwrap();
    let size = |id: i64| f64::try_from(embedding.grad().get(id).abs().max()).unwrap();
    assert_eq!(size(7), 0.0);
    assert!(size(5) > 0.0 && size(9) > 0.0);
}
