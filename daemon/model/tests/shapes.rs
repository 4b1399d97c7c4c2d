//! The tensors that a shape lists, by which the control plane accepts a directory and counts, are
//! the model's tensors.

mod fixture;

use fixture::*;
use r1d_model::{CausalLm, SequenceClassifier};
use r1d_shape::{Config, WeightFiles};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tch::{Device, Kind};

type Shapes = BTreeMap<String, Vec<i64>>;

fn listed(config: &Config) -> Shapes {
    let listed: Vec<_> = config
        .tensors()
        .into_iter()
        .map(|tensor| (tensor.name, tensor.shape))
        .collect();
    let count = listed.len();
    let listed = Shapes::from_iter(listed);
    assert_eq!(listed.len(), count, "a name twice");
    listed
}

/// The tensors of a saved model's files, except copies of embedding and head for a prediction
/// module.
fn written(dir: &Path, config: &Config) -> Shapes {
    let files = WeightFiles::open(dir).unwrap();
    files
        .iter()
        .filter(|(name, _)| !config.leaves_out(name))
        .map(|(name, stored)| (name.to_owned(), stored.shape.clone()))
        .collect()
}

fn config_json(name: &str, change: &Value) -> String {
    let text = std::fs::read_to_string(dir(name).join("config.json")).unwrap();
    let mut config: Value = serde_json::from_str(&text).unwrap();
    for (key, value) in change.as_object().unwrap() {
        match value {
            Value::String(word) if word == "absent" => {
                drop(config.as_object_mut().unwrap().remove(key))
            }
            value => config[key] = value.clone(),
        }
    }
    config.to_string()
}

/// Checks the list for a language model, with its prediction module if it has one, and for a reward
/// model.
fn assert_listed(name: &str, change: Value) {
    let (json, case) = (config_json(name, &change), format!("{name} with {change}"));
    let config = Config::parse(&json).unwrap();
    let save = |model: &CausalLm| {
        let saved = tempfile::tempdir().unwrap();
        model.save(saved.path(), 1 << 20).unwrap();
        written(saved.path(), &model.config)
    };
    let model = CausalLm::init(&json, 1, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(save(&model), listed(&config), "{case}");
    let scorer = SequenceClassifier::init(&json, 1, None, Device::Cpu, Kind::Float).unwrap();
    assert_eq!(
        save(scorer.model()),
        listed(&config.clone().with_score()),
        "{case}, as a reward model"
    );
    if let Ok(config) = config.with_prediction() {
        let model = CausalLm::init_with_prediction(&json, 1, Device::Cpu, Kind::Float).unwrap();
        assert_eq!(
            save(&model),
            listed(&config),
            "{case}, with its prediction module"
        );
    }
}

#[test]
fn every_architecture_has_the_tensors_of_its_shape() {
    for name in ALL.into_iter().chain(["deepseek-v3-mtp"]) {
        for tied in [true, false] {
            assert_listed(name, json!({ "tie_word_embeddings": tied }));
        }
    }
}

#[test]
fn odd_configurations_have_the_tensors_of_their_shape() {
    for (name, change) in [
        ("qwen2", json!({ "num_key_value_heads": 1 })),
        (
            "qwen2",
            json!({ "num_key_value_heads": "absent", "num_attention_heads": 4 }),
        ),
        ("qwen3", json!({ "attention_bias": true, "head_dim": 10 })),
        ("qwen3", json!({ "head_dim": "absent" })),
        ("llama3", json!({ "attention_bias": true })),
        ("llama3", json!({ "head_dim": 6 })),
        ("qwen3-moe", json!({ "mlp_only_layers": [0] })),
        (
            "qwen3-moe",
            json!({ "decoder_sparse_step": 2, "num_hidden_layers": 4 }),
        ),
        ("deepseek-v3-plain", json!({ "q_lora_rank": null })),
        ("deepseek-v3-plain", json!({ "first_k_dense_replace": 0 })),
        ("deepseek-v3-plain", json!({ "first_k_dense_replace": 99 })),
        ("deepseek-v3-plain", json!({ "attention_bias": true })),
        ("deepseek-v2", json!({ "n_shared_experts": null })),
        ("deepseek-v2", json!({ "q_lora_rank": 8 })),
        ("deepseek-v3-mtp", json!({ "first_k_dense_replace": 99 })),
        (
            "deepseek-v3-mtp",
            json!({ "attention_bias": true, "q_lora_rank": null }),
        ),
    ] {
        assert_listed(name, change);
    }
}
