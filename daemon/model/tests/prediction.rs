//! Multi-token prediction, compared with the goldens of tests/fixtures/make_models.py, whose module
//! wraps transformers' own block.

mod fixture;

use fixture::{assert_close, difference, dir, ids, tensors};
use r1d_model::{CausalLm, Forward, Packed, checkpoint, token_logprobs};
use std::collections::HashMap;
use tch::{Device, Kind, Tensor};

const NAME: &str = "deepseek-v3-mtp";
const LAMBDA: f64 = 0.3;

fn load() -> CausalLm {
    r1d_torch::runtime::set_threads(1).unwrap();
    CausalLm::load_with_prediction(&dir(NAME), Device::Cpu, Kind::Float).unwrap()
}

/// Two sequences without their last tokens, and the tokens behind each of theirs.
fn further(model: &CausalLm, input_ids: &Tensor) -> (Tensor, Tensor) {
    let options = Forward {
        count_experts: true,
        ..Forward::default()
    };
    let length = input_ids.size()[1];
    let hidden = model
        .forward(&fixture::packed(input_ids), &options)
        .unwrap()
        .hidden;
    let with_next = hidden
        .view([2, length, -1])
        .narrow(1, 0, length - 1)
        .reshape([2 * (length - 1), -1]);
    let next = Packed::new(
        input_ids.narrow(1, 1, length - 1).reshape([-1]),
        vec![length - 1; 2],
    );
    let output = model.predict(&with_next, &next, &options).unwrap();
    assert_eq!(output.load.unwrap().size(), [1, 8]);
    (
        model.logits(&hidden, &options).unwrap(),
        model.logits(&output.hidden, &options).unwrap(),
    )
}

#[test]
fn the_module_predicts_what_transformers_block_does() {
    let golden = tensors(NAME, "golden.safetensors");
    let (logits, further) = tch::no_grad(|| further(&load(), &golden["input_ids"]));
    assert_close(NAME, &logits, &golden["logits"].flatten(0, 1));
    assert_close(NAME, &further, &golden["further_logits"].flatten(0, 1));
}

#[test]
fn gradients_of_both_losses_are_transformers_gradients() {
    let (model, golden, expected) = (
        load(),
        tensors(NAME, "golden.safetensors"),
        tensors(NAME, "gradients.safetensors"),
    );
    model.set_requires_grad(true);
    let input_ids = &golden["input_ids"];
    let (logits, further) = further(&model, input_ids);
    let loss = |logits: &Tensor, rows: i64, skip: i64| {
        let predicting = logits
            .view([2, -1, 128])
            .narrow(1, 0, rows)
            .reshape([2 * rows, 128]);
        let targets = input_ids.narrow(1, skip, rows).reshape([2 * rows]);
        token_logprobs(&predicting, &targets, 1.0)
            .unwrap()
            .mean(Kind::Float)
            .neg()
    };
    let (next, after) = (loss(&logits, 32, 1), loss(&further, 31, 2));
    assert!(
        difference(&next, &expected["loss"]) < 2e-6
            && difference(&after, &expected["further_loss"]) < 2e-6
    );
    (next + after * LAMBDA).backward();
    let gradients = load();
    for ((_, parameter), (_, gradient)) in model.parameters().iter().zip(gradients.parameters()) {
        gradient.shallow_clone().copy_(&parameter.grad());
    }
    let saved = tempfile::tempdir().unwrap();
    gradients.save(saved.path(), u64::MAX).unwrap();
    let found: HashMap<String, Tensor> =
        checkpoint::load_tensors(&saved.path().join("model.safetensors"), Device::Cpu)
            .unwrap()
            .into_iter()
            .collect();
    let mut compared = 0;
    for (name, expected) in &expected {
        let Some(name) = name.strip_prefix("grad.") else {
            continue;
        };
        let largest = f64::try_from(expected.abs().max()).unwrap();
        assert!(
            difference(&found[name], expected) <= 1e-5 * largest.max(1e-3),
            "{name}: {:e}",
            difference(&found[name], expected)
        );
        compared += 1;
    }
    assert!(compared > 90, "{compared}");
}

#[test]
fn the_module_travels_under_deepseeks_names() {
    let model = load();
    let saved = tempfile::tempdir().unwrap();
    model.save(saved.path(), 100_000).unwrap();
    let names = |dir: &std::path::Path| {
        let files = std::fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| {
                let name = p.file_name().unwrap().to_string_lossy().into_owned();
                name.starts_with("model") && name.ends_with(".safetensors")
            });
        let mut names: Vec<String> = files
            .flat_map(|file| checkpoint::load_tensors(&file, Device::Cpu).unwrap())
            .map(|(name, _)| name)
            .collect();
        names.sort();
        names
    };
    assert_eq!(
        names(saved.path()),
        names(&dir(NAME)),
        "with the embedding and head that the module shares"
    );
    let again = CausalLm::load_with_prediction(saved.path(), Device::Cpu, Kind::Float).unwrap();
    for ((name, a), (_, b)) in model.parameters().iter().zip(again.parameters()) {
        assert!(a.equal(&b), "{name}");
    }
    // Unless it is asked for, the module is not loaded.
    let plain = CausalLm::load(&dir(NAME), Device::Cpu, Kind::Float).unwrap();
    assert!(plain.parameters().len() < model.parameters().len());
}

#[test]
fn a_model_without_the_module_says_so() {
    let refused =
        CausalLm::load_with_prediction(&dir("deepseek-v3-plain"), Device::Cpu, Kind::Float)
            .err()
            .unwrap()
            .to_string();
    assert!(refused.contains("num_nextn_predict_layers"), "{refused}");
    let plain = fixture::load(NAME, Kind::Float);
    let hidden = Tensor::zeros([2, 48], (Kind::Float, Device::Cpu));
    let next = Packed::new(Tensor::from_slice(&[1i64, 2]), vec![2]);
    assert!(
        plain
            .predict(&hidden, &next, &Forward::default())
            .err()
            .unwrap()
            .to_string()
            .contains("without its")
    );
    assert_eq!(ids(&next.ids).len(), 2);
}
