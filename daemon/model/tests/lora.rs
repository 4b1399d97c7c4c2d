//! Low-rank adapters change nothing at first; later they compute the same as merged weights in
//! every way of computing, and only they are trained.

mod fixture;

use fixture::{ALL, difference, forward_logits, load, prompt, sequence};
use r1d_model::{CausalLm, Forward, LoraSpec, Places};
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tempfile::tempdir;

/// All layers but the head, those of experts too.
const EVERYWHERE: &[&str] = &["all-linear", "gate_proj", "up_proj", "down_proj"];

fn spec(targets: &[&str]) -> LoraSpec {
    LoraSpec {
        r: 4,
        lora_alpha: 10.0,
        target_modules: targets.iter().map(|t| (*t).to_owned()).collect(),
    }
}

/// A model with adapters as after training: B is not zero.
fn adapted(name: &str, kind: Kind) -> CausalLm {
    let mut model = load(name, kind);
    model.adapt(&spec(EVERYWHERE), 5).unwrap();
    for (index, (_, tensor)) in (0..).zip(model.parameters()) {
        let values = (Tensor::arange(tensor.numel() as i64, (Kind::Double, Device::Cpu)) * 0.37
            + f64::from(index))
        .sin()
            * 0.2;
        tch::no_grad(|| tensor.shallow_clone().copy_(&values.view_as(&tensor)));
    }
    model
}

#[test]
fn a_fresh_adapter_changes_nothing_and_depends_on_its_seed() {
    for name in ALL {
        let ids = prompt(3, 20);
        let (plain, mut model) = (load(name, Kind::Float), load(name, Kind::Float));
        model.adapt(&spec(EVERYWHERE), 5).unwrap();
        let logits = |model: &CausalLm| forward_logits(model, &sequence(&ids), &Forward::default());
        assert_eq!(logits(&plain), logits(&model), "{name}");
        let a = |seed: u64| {
            let mut model = load(name, Kind::Float);
            model.adapt(&spec(&["all-linear"]), seed).unwrap();
            model.parameters()[0].1.shallow_clone()
        };
        assert!(a(5).equal(&a(5)) && !a(5).equal(&a(6)));
    }
}

#[test]
fn adapters_compute_what_merged_weights_do() {
    for name in ALL {
        let model = adapted(name, Kind::Double);
        let saved = tempdir().unwrap();
        model.save(saved.path(), u64::MAX).unwrap();
        let merged = CausalLm::load(saved.path(), Device::Cpu, Kind::Double).unwrap();
        let ids = prompt(3, 20);
        let logits = |model: &CausalLm| forward_logits(model, &sequence(&ids), &Forward::default());
        let found = difference(&logits(&model), &logits(&merged));
        assert!(found < 1e-9, "{name}: {found:e}");
        assert!(
            difference(&logits(&model), &logits(&load(name, Kind::Double))) > 1e-2,
            "{name}: the adapter does something"
        );
        // The same holds through the cache, with the latent's up-projection absorbed, and with
        // packed weights.
        let single = adapted(name, Kind::Float);
        let packed = single.pack().unwrap();
        for options in [
            Forward::default(),
            Forward {
                packed: Some(&packed),
                ..Forward::default()
            },
        ] {
            let mut cache = single.cache(1, 20, false).unwrap();
            let decoded = tch::no_grad(|| {
                let _ = single
                    .prefill(&sequence(&ids[..19]), &[vec![0]], &mut cache, &options)
                    .unwrap();
                let (slot, at) = (cache.select(&[0]).unwrap(), Tensor::from_slice(&[19i64]));
                let output = single
                    .decode(
                        &Tensor::from_slice(&ids[19..]),
                        &Places {
                            slots: &slot,
                            positions: &at,
                            max_position: 19,
                        },
                        &mut cache,
                        &options,
                    )
                    .unwrap();
                single.logits(&output.hidden, &options).unwrap()
            });
            let found = difference(&decoded, &logits(&merged).narrow(0, 19, 1));
            assert!(found < 1e-4, "{name}: {found:e}");
        }
    }
}

#[test]
fn the_adapter_alone_is_trained() {
    for name in ALL {
        let model = adapted(name, Kind::Float);
        model.set_requires_grad(true);
        let parameters = model.parameters();
        assert!(
            parameters
                .iter()
                .all(|(name, _)| name.contains("lora_A") || name.contains("lora_B"))
        );
        let hidden = model
            .forward(&sequence(&prompt(3, 12)), &Forward::default())
            .unwrap()
            .hidden;
        hidden.square().sum(Kind::Float).backward();
        for (of, tensor) in &parameters {
            assert!(
                tensor.grad().defined() && f64::try_from(tensor.grad().abs().max()).unwrap() > 0.0,
                "{name} {of}"
            );
        }
        let frozen = load(name, Kind::Float);
        drop(frozen);
    }
}

/// Compares dL/dA and dL/dB through the adapter's path with those through the merged matrix.
#[test]
fn gradients_are_those_of_the_merged_matrix() {
    let mut model = load("qwen2", Kind::Double);
    model.adapt(&spec(&["layers.2.mlp.down_proj"]), 5).unwrap();
    let parameters = model.parameters();
    assert_eq!(parameters.len(), 2);
    let (a, b) = (&parameters[0].1, &parameters[1].1);
    tch::no_grad(|| {
        b.shallow_clone().copy_(
            &(Tensor::arange(b.numel() as i64, (Kind::Double, Device::Cpu)).sin() * 0.1).view_as(b),
        )
    });
    model.set_requires_grad(true);
    let loss = |model: &CausalLm| {
        model
            .forward(&sequence(&prompt(3, 12)), &Forward::default())
            .unwrap()
            .hidden
            .square()
            .sum(Kind::Double)
    };
    loss(&model).backward();
    let step = 1e-6;
    for tensor in [a, b] {
        let gradient = tensor.grad().copy();
        let at = [1, 2];
        let value = tensor.double_value(&at);
        let shifted = |by: f64| {
            tch::no_grad(|| {
                let _ = tensor.get(at[0]).get(at[1]).fill_(value + by);
                f64::try_from(loss(&model)).unwrap()
            })
        };
        let numeric = (shifted(step) - shifted(-step)) / (2.0 * step);
        let _ = shifted(0.0);
        assert!(
            (numeric - gradient.double_value(&at)).abs() < 1e-5 * numeric.abs().max(1.0),
            "{numeric} {gradient:?}"
        );
    }
}

fn saved_adapter(model: &CausalLm, into: &Path) {
    model.save_adapter(into, "base").unwrap();
}

#[test]
fn adapters_come_back_bit_for_bit_and_copies_share_what_is_frozen() {
    for name in ALL {
        let model = adapted(name, Kind::Float);
        let saved = tempdir().unwrap();
        saved_adapter(&model, saved.path());
        let mut read = load(name, Kind::Float);
        read.load_adapter(saved.path()).unwrap();
        let mut fresh = load(name, Kind::Float);
        fresh.adapt(&spec(EVERYWHERE), 9).unwrap();
        let before: Vec<_> = fresh.parameters();
        fresh.restore_adapter(saved.path()).unwrap();
        let copy = model.deep_copy().unwrap();
        for (((of, own), (_, read)), ((_, restored), (_, copied))) in model
            .parameters()
            .iter()
            .zip(read.parameters())
            .zip(before.iter().zip(copy.parameters()))
        {
            assert!(
                own.equal(&read) && own.equal(restored) && own.equal(&copied),
                "{name} {of}"
            );
            assert_ne!(own.data_ptr(), copied.data_ptr(), "{name} {of}");
        }
        let ids = sequence(&prompt(3, 20));
        let logits = |model: &CausalLm| forward_logits(model, &ids, &Forward::default());
        assert_eq!(logits(&model), logits(&read));
        assert_eq!(logits(&model), logits(&copy));
    }
}

/// Each expert has an adapter of its own, under the name that peft gives it, and "all-linear" does
/// not mean experts.
#[test]
fn experts_have_adapters_of_their_own() {
    let adapted = |targets: &[&str]| {
        let mut model = load("qwen3-moe", Kind::Float);
        model.adapt(&spec(targets), 5).unwrap();
        model
    };
    let of_experts = |model: &CausalLm| {
        let names = model
            .parameters()
            .into_iter()
            .map(|(name, own)| (name, own.size()));
        let experts = names.filter(|(name, _)| name.contains(".experts."));
        experts.collect::<Vec<_>>()
    };
    assert_eq!(of_experts(&adapted(&["all-linear"])), []);
    let model = adapted(&["experts.down_proj"]);
    let stacks = of_experts(&model);
    assert!(!stacks.is_empty() && stacks.len() == model.parameters().len());
    let experts = stacks[0].1[0];
    let saved = tempdir().unwrap();
    saved_adapter(&model, saved.path());
    let text = std::fs::read(saved.path().join("adapter_model.safetensors")).unwrap();
    let header = u64::from_le_bytes(text[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&text[8..8 + header]).unwrap();
    for half in ["lora_A", "lora_B"] {
        let of = format!(".mlp.experts.{}.down_proj.{half}.weight\"", experts - 1);
        assert!(header.contains(&of), "{of} in {header}");
    }
}

#[test]
fn what_cannot_be_adapted_is_named() {
    let mut model = load("deepseek-v3-plain", Kind::Float);
    let refused = model
        .adapt(&spec(&["q_proj", "w1"]), 1)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("`w1`") && refused.contains("kv_b_proj"),
        "{refused}"
    );
    let refused = model.adapt(&spec(&["gate"]), 1).unwrap_err().to_string();
    assert!(refused.contains("`gate`"), "{refused}");
    let refused = model
        .adapt(
            &LoraSpec {
                r: 0,
                ..spec(&["q_proj"])
            },
            1,
        )
        .unwrap_err()
        .to_string();
    assert!(refused.contains("rank 0"), "{refused}");

    let saved = tempdir().unwrap();
    saved_adapter(&adapted("qwen2", Kind::Float), saved.path());
    let refused = load("llama3", Kind::Float)
        .load_adapter(saved.path())
        .unwrap_err()
        .to_string();
    assert!(refused.contains("layers.2."), "{refused}");
    let config = saved.path().join("adapter_config.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(
        &config,
        text.replace("\"bias\": \"none\"", "\"bias\": \"all\""),
    )
    .unwrap();
    let refused = load("qwen2", Kind::Float)
        .load_adapter(saved.path())
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("`bias`") && refused.contains("adapter_config.json"),
        "{refused}"
    );
}
