//! `ROLL-1`, `ROLL-2`: in batch-invariant mode a token's bits depend on its own sequence only, and
//! decoding gives the trainer's bits.

mod fixture;

use fixture::{load, prompt, sequence};
use r1d_model::{AuxLoss, CausalLm, Forward, ModelError, Packed, Places, token_logprobs};
use tch::{Device, Kind, Tensor};

const INVARIANT: Forward = Forward {
    invariant: true,
    packed: None,
    forced_experts: None,
    record_experts: false,
    count_experts: false,
    aux_loss: AuxLoss::NONE,
    stands_by: false,
};

fn models() -> Vec<(&'static str, CausalLm)> {
    let mut models: Vec<_> = fixture::ALL
        .into_iter()
        .map(|name| (name, load(name, Kind::Float)))
        .collect();
    let demo = include_str!("../../../configs/models/tiny-deepseek-v3.json");
    // Weights are as large as trained ones, so that rounding shows.
    let demo = demo.replace("\"initializer_range\": 0.06", "\"initializer_range\": 0.12");
    // These sizes do not fill the processor's vectors: libtorch's kernels compute the last elements
    // of a row by other code.
    let awkward = [
        (
            "\"moe_intermediate_size\": 96",
            "\"moe_intermediate_size\": 52",
        ),
        ("\"n_routed_experts\": 8", "\"n_routed_experts\": 12"),
        ("\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 3"),
        ("\"num_attention_heads\": 4", "\"num_attention_heads\": 3"),
        ("\"num_key_value_heads\": 4", "\"num_key_value_heads\": 3"),
        ("\"qk_nope_head_dim\": 16", "\"qk_nope_head_dim\": 12"),
        ("\"v_head_dim\": 32", "\"v_head_dim\": 20"),
        ("\"vocab_size\": 128", "\"vocab_size\": 203"),
    ];
    let awkward = awkward.iter().fold(demo.clone(), |config, (from, to)| {
        assert!(config.contains(from), "{from}");
        config.replace(from, to)
    });
    for (name, config) in [("tiny-deepseek-v3", demo), ("awkward sizes", awkward)] {
        models.push((
            name,
            CausalLm::init(&config, 3, Device::Cpu, Kind::Float).unwrap(),
        ));
    }
    models
}

/// Log-probability bits (float32) of each id after the first, computed as by the trainer.
fn trained(model: &CausalLm, ids: &[i64], with: &[&[i64]], temperature: f64) -> Vec<u32> {
    let all: Vec<i64> = with
        .iter()
        .flat_map(|s| s.iter())
        .chain(ids)
        .copied()
        .collect();
    let mut lengths: Vec<i64> = with.iter().map(|s| s.len() as i64).collect();
    lengths.push(ids.len() as i64);
    let rows = ids.len() as i64 - 1;
    // Gradients are on, as in training.
    model.set_requires_grad(true);
    let hidden = model
        .forward(&Packed::new(Tensor::from_slice(&all), lengths), &INVARIANT)
        .unwrap()
        .hidden;
    let logits = model
        .logits(
            &hidden.narrow(0, all.len() as i64 - ids.len() as i64, rows),
            &INVARIANT,
        )
        .unwrap();
    let found = token_logprobs(&logits, &Tensor::from_slice(&ids[1..]), temperature).unwrap();
    model.set_requires_grad(false);
    bits(&found)
}

fn bits(logprobs: &Tensor) -> Vec<u32> {
    Vec::<f32>::try_from(logprobs)
        .unwrap()
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

/// Log-probability bits of each id after the prompt, computed as by the sampler, for several
/// sequences side by side in the given slots.
fn sampled(
    model: &CausalLm,
    sequences: &[(&[i64], usize, i64)],
    slots: i64,
    temperature: f64,
) -> Vec<Vec<u32>> {
    let capacity = sequences.iter().map(|s| s.0.len()).max().unwrap() as i64;
    let mut cache = model.cache(slots, capacity, true).unwrap();
    let mut found = vec![Vec::new(); sequences.len()];
    tch::no_grad(|| {
        let ids: Vec<i64> = sequences
            .iter()
            .flat_map(|(ids, prompt, _)| &ids[..*prompt])
            .copied()
            .collect();
        let lengths: Vec<i64> = sequences.iter().map(|s| s.1 as i64).collect();
        let ends: Vec<i64> = lengths
            .iter()
            .scan(0, |sum, n| {
                *sum += n;
                Some(*sum - 1)
            })
            .collect();
        let targets: Vec<_> = sequences.iter().map(|s| vec![s.2]).collect();
        let batch = Packed::new(Tensor::from_slice(&ids), lengths);
        let hidden = model
            .prefill(&batch, &targets, &mut cache, &INVARIANT)
            .unwrap()
            .hidden;
        let mut hidden = hidden.index_select(0, &Tensor::from_slice(&ends));
        let mut active: Vec<usize> = (0..sequences.len()).collect();
        for step in 0.. {
            let next: Vec<i64> = active
                .iter()
                .map(|&i| sequences[i].0[sequences[i].1 + step])
                .collect();
            let logprobs = token_logprobs(
                &model.logits(&hidden, &INVARIANT).unwrap(),
                &Tensor::from_slice(&next),
                temperature,
            )
            .unwrap();
            for (&i, bits) in active.iter().zip(bits(&logprobs)) {
                found[i].push(bits);
            }
            let kept: Vec<(usize, i64)> = active
                .iter()
                .zip(next)
                .map(|(&i, id)| (i, id))
                .filter(|&(i, _)| sequences[i].1 + step + 1 < sequences[i].0.len())
                .collect();
            if kept.is_empty() {
                break;
            }
            active = kept.iter().map(|k| k.0).collect();
            let positions: Vec<i64> = active
                .iter()
                .map(|&i| (sequences[i].1 + step) as i64)
                .collect();
            let slots: Vec<i64> = active.iter().map(|&i| sequences[i].2).collect();
            let ids: Vec<i64> = kept.iter().map(|k| k.1).collect();
            let max = *positions.iter().max().unwrap();
            let slots = cache.select(&slots).unwrap();
            let [ids, positions] = [ids, positions].map(|n| Tensor::from_slice(&n));
            hidden = model
                .decode(
                    &ids,
                    &Places {
                        slots: &slots,
                        positions: &positions,
                        max_position: max,
                    },
                    &mut cache,
                    &INVARIANT,
                )
                .unwrap()
                .hidden;
        }
    });
    found
}

#[test]
fn decoding_gives_the_trainers_bits() {
    for (name, model) in models() {
        for (length, start) in [(260, 20), (40, 3), (9, 1), (3, 2)] {
            let ids = prompt(length as u64, length);
            let expected = &trained(&model, &ids, &[], 1.0)[start - 1..];
            assert_eq!(
                sampled(&model, &[(&ids, start, 0)], 1, 1.0)[0],
                expected,
                "{name}: {length} ids alone"
            );
        }
    }
}

#[test]
fn neither_batch_nor_slot_nor_order_changes_a_bit() {
    for (name, model) in models() {
        let sequences: Vec<Vec<i64>> = [70, 33, 240, 5, 64, 65, 2, 31]
            .iter()
            .map(|&n| prompt(n as u64, n))
            .collect();
        let expected: Vec<Vec<u32>> = sequences
            .iter()
            .map(|s| trained(&model, s, &[], 0.7))
            .collect();
        let prompts = [10, 32, 1, 4, 33, 17, 1, 30];
        for (start, step) in [(0, 1), (5, 3), (2, 5)] {
            let order: Vec<usize> = (0..8).map(|i| (start + i * step) % 8).collect();
            let batch: Vec<_> = order
                .iter()
                .zip([7, 2, 9, 0, 5, 4, 3, 1])
                .map(|(&i, slot)| (&sequences[i][..], prompts[i], slot))
                .collect();
            for (&i, found) in order.iter().zip(sampled(&model, &batch, 10, 0.7)) {
                assert_eq!(
                    found,
                    expected[i][prompts[i] - 1..],
                    "{name}: sequence {i} in order {order:?}"
                );
            }
        }
        // The trainer's own packing does not matter either.
        let others: Vec<&[i64]> = sequences.iter().map(|s| &s[..]).collect();
        assert_eq!(
            trained(&model, &sequences[0], &others, 0.7),
            expected[0],
            "{name}: packed behind others"
        );
        assert_eq!(
            trained(&model, &sequences[3], &others[..2], 0.7),
            expected[3],
            "{name}: packed behind others"
        );
    }
}

#[test]
fn the_kernels_of_this_machine_pass_the_check_that_a_worker_makes() {
    for (name, model) in models() {
        model
            .check_invariance()
            .unwrap_or_else(|e| panic!("{name}: {e}"));
    }
}

#[test]
fn one_thread_and_matching_caches_are_demanded() {
    let model = load("qwen2", Kind::Float);
    let mut cache = model.cache(1, 8, false).unwrap();
    let mismatch = model.prefill(&sequence(&[1, 2, 3]), &[vec![0]], &mut cache, &INVARIANT);
    assert!(matches!(mismatch, Err(ModelError::Invariant(_))));
    // Threads are a setting of the calling thread: this test's own.
    std::thread::spawn(move || {
        r1d_torch::runtime::set_threads(2).unwrap();
        let refused = model
            .forward(&sequence(&[1, 2, 3]), &INVARIANT)
            .err()
            .unwrap();
        assert!(refused.to_string().contains("--threads 1"), "{refused}");
        assert!(
            model
                .forward(&sequence(&[1, 2, 3]), &Forward::default())
                .is_ok()
        );
        r1d_torch::runtime::set_threads(1).unwrap();
    })
    .join()
    .unwrap();
}
