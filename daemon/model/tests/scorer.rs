//! Reward and value models: the scalar head in memory and on disk. tests/fixtures/test_scorer.py
//! compares with transformers.

mod fixture;

use fixture::{dir, load, prompt};
use r1d_model::{CausalLm, Config, Forward, Packed, SequenceClassifier};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

fn start(name: &str) -> SequenceClassifier {
    r1d_torch::runtime::set_threads(1).unwrap();
    SequenceClassifier::start(&dir(name), 5, None, Device::Cpu, Kind::Float).unwrap()
}

fn sequences() -> Vec<Vec<u32>> {
    [9, 1, 33, 4, 17]
        .iter()
        .enumerate()
        .map(|(i, &n)| {
            prompt(i as u64 + 1, n)
                .iter()
                .map(|&id| id as u32)
                .collect()
        })
        .collect()
}

/// Applies the head to the trunk's last hidden state by hand.
fn by_hand(scorer: &SequenceClassifier, trunk: &CausalLm, ids: &[u32]) -> f64 {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let packed = Packed::new(Tensor::from_slice(&ids), vec![ids.len() as i64]);
    let hidden = tch::no_grad(|| trunk.forward(&packed, &Forward::default()).unwrap().hidden);
    let (_, head) = scorer
        .model()
        .parameters()
        .into_iter()
        .find(|(name, _)| name == "score.weight")
        .unwrap();
    assert_eq!(head.size(), [1, scorer.model().config.hidden_size]);
    tch::no_grad(|| hidden.get(-1).dot(&head.get(0)).double_value(&[]))
}

#[test]
fn a_score_is_the_head_of_the_last_token_of_any_architecture() {
    for name in fixture::ALL {
        let (scorer, trunk) = (start(name), load(name, Kind::Float));
        assert!(
            scorer
                .model()
                .parameters()
                .iter()
                .all(|(name, _)| name != "lm_head.weight")
        );
        for (ids, score) in sequences().iter().zip(scorer.score(&sequences()).unwrap()) {
            let expected = by_hand(&scorer, &trunk, ids);
            assert!(
                (f64::from(score) - expected).abs() < 2e-6,
                "{name}: {score} {expected}"
            );
        }
    }
}

#[test]
fn what_is_saved_scores_the_same_and_is_the_same_bytes_again() {
    for name in ["deepseek-v3-biased", "qwen2-tied", "llama3"] {
        let scorer = start(name);
        let saved = tempfile::tempdir().unwrap();
        scorer.save(saved.path(), u64::MAX).unwrap();
        let opened = SequenceClassifier::open(saved.path(), Device::Cpu, Kind::Float).unwrap();
        let again =
            SequenceClassifier::start(saved.path(), 99, None, Device::Cpu, Kind::Float).unwrap();
        let copied = scorer.deep_copy().unwrap();
        let over = SequenceClassifier::over(&load(name, Kind::Float), 5).unwrap();
        let other_seed = SequenceClassifier::over(&load(name, Kind::Float), 6).unwrap();
        let expected = scorer.score(&sequences()).unwrap();
        for other in [&opened, &again, &copied, &over] {
            assert_eq!(other.score(&sequences()).unwrap(), expected, "{name}");
        }
        assert_ne!(other_seed.score(&sequences()).unwrap(), expected);
        let twice = tempfile::tempdir().unwrap();
        opened.save(twice.path(), u64::MAX).unwrap();
        for file in ["config.json", "model.safetensors"] {
            let bytes =
                |folder: &tempfile::TempDir| std::fs::read(folder.path().join(file)).unwrap();
            assert_eq!(bytes(&saved), bytes(&twice), "{name} {file}");
        }
        let config: Value =
            serde_json::from_slice(&std::fs::read(saved.path().join("config.json")).unwrap())
                .unwrap();
        assert!(
            config["architectures"][0]
                .as_str()
                .unwrap()
                .ends_with("ForSequenceClassification")
        );
        assert_eq!(
            (&config["id2label"], &config["label2id"]),
            (&json!({"0": "LABEL_0"}), &json!({"LABEL_0": 0}))
        );
        let converted = tempfile::tempdir().unwrap();
        r1d_model::checkpoint::convert(
            saved.path(),
            converted.path(),
            Kind::Float,
            u64::MAX,
            false,
        )
        .unwrap();
        let bytes = |folder: &tempfile::TempDir| {
            std::fs::read(folder.path().join("model.safetensors")).unwrap()
        };
        assert_eq!(bytes(&saved), bytes(&converted), "{name}");
        let (looked_at, contents) = r1d_model::checkpoint::inspect(saved.path(), true).unwrap();
        assert!(looked_at.scores && contents.left_out == 0);
    }
}

/// PPO learns from differences of neighbouring values, which bfloat16 rounds to steps of 1/128
/// around 1.
#[test]
fn a_head_is_float32_whatever_the_trunk_is() {
    for name in ["deepseek-v3-yarn", "qwen2"] {
        r1d_torch::runtime::set_threads(1).unwrap();
        let scorer =
            SequenceClassifier::start(&dir(name), 5, None, Device::Cpu, Kind::BFloat16).unwrap();
        let hidden = Tensor::linspace(
            -1.0,
            1.0,
            3 * scorer.model().config.hidden_size,
            (Kind::Float, Device::Cpu),
        );
        let hidden = hidden.view([3, -1]).to_kind(Kind::BFloat16);
        let head = || {
            scorer
                .model()
                .parameters()
                .into_iter()
                .find(|(name, _)| name == "score.weight")
                .unwrap()
                .1
        };
        // These updates are smaller than bfloat16's precision, like those of a learning rate of
        // 1e-5.
        let _ = tch::no_grad(|| head().f_add_(&(Tensor::ones_like(&head()) * 1e-5)).unwrap());
        let values = tch::no_grad(|| scorer.values(&hidden, &Forward::default()).unwrap());
        let exact = tch::no_grad(|| {
            hidden
                .to_kind(Kind::Double)
                .matmul(&head().to_kind(Kind::Double).get(0))
        });
        let difference =
            f64::try_from((values.to_kind(Kind::Double) - &exact).abs().max()).unwrap();
        assert!(difference < 1e-6, "{name}: {difference:e}");

        let saved = tempfile::tempdir().unwrap();
        scorer.save(saved.path(), u64::MAX).unwrap();
        let opened = SequenceClassifier::open(saved.path(), Device::Cpu, Kind::BFloat16).unwrap();
        assert_eq!(
            tch::no_grad(|| opened.values(&hidden, &Forward::default()).unwrap()),
            values,
            "{name}: saved to the last bit"
        );
        let tensors = r1d_model::checkpoint::load_tensors(
            &saved.path().join("model.safetensors"),
            Device::Cpu,
        )
        .unwrap();
        for (tensor, kind) in tensors
            .iter()
            .map(|(tensor, values)| (tensor, values.kind()))
        {
            let float32 = tensor == "score.weight" || tensor.ends_with("e_score_correction_bias");
            assert_eq!(
                kind,
                if float32 { Kind::Float } else { Kind::BFloat16 },
                "{name}: {tensor}"
            );
        }
    }
}

#[test]
fn in_batch_invariant_mode_a_score_is_its_sequences_alone() {
    for name in ["deepseek-v3-yarn", "qwen2"] {
        let mut scorer = start(name);
        scorer.invariant = true;
        let together = scorer.score(&sequences()).unwrap();
        for (ids, score) in sequences().iter().zip(&together) {
            assert_eq!(
                scorer.score(&[ids]).unwrap()[0].to_bits(),
                score.to_bits(),
                "{name} {}",
                ids.len()
            );
        }
    }
}

#[test]
fn padding_at_the_end_is_not_scored() {
    let padded = |changes: &[(&str, Value)]| {
        let mut fields: serde_json::Map<String, Value> =
            serde_json::from_str(include_str!("../../../tests/fixtures/qwen2/config.json"))
                .unwrap();
        fields.extend(
            changes
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone())),
        );
        SequenceClassifier::init(
            &Value::Object(fields).to_string(),
            3,
            None,
            Device::Cpu,
            Kind::Float,
        )
        .unwrap()
    };
    let (with, without) = (
        padded(&[("pad_token_id", json!(7))]),
        padded(&[("pad_token_id", Value::Null)]),
    );
    let ids = [&[7u32, 1, 7, 2][..], &[7, 1, 7, 2, 7, 7], &[7, 7], &[7]];
    let found = with.score(&ids).unwrap();
    assert_eq!(ids.map(|ids| with.scored_length(ids)), [4, 4, 1, 1]);
    assert!(
        (found[0] - found[1]).abs() < 1e-6 && (found[2] - found[3]).abs() < 1e-6,
        "{found:?}"
    );
    assert_eq!(ids.map(|ids| without.scored_length(ids)), [4, 6, 2, 1]);
    let all = without.score(&ids).unwrap();
    assert!(
        (all[0] - found[0]).abs() < 1e-6 && (all[1] - all[0]).abs() > 1e-4,
        "{all:?}"
    );
}

#[test]
fn the_wrong_kind_of_model_and_bad_ids_are_refused() {
    let scorer = start("qwen2");
    let refusal = |ids: &[&[u32]]| scorer.score(ids).unwrap_err().to_string();
    assert!(refusal(&[&[1], &[]]).contains("sequence 1 has no ids"));
    assert!(
        refusal(&[&[1, 128]])
            .contains("sequence 0: id 128 is beyond the model's vocabulary of 128")
    );
    assert!(scorer.score::<Vec<u32>>(&[]).unwrap().is_empty());

    let language_model = SequenceClassifier::open(&dir("qwen2"), Device::Cpu, Kind::Float)
        .err()
        .unwrap()
        .to_string();
    assert!(
        language_model.contains("Qwen2ForCausalLM") && language_model.contains("gives no score"),
        "{language_model}"
    );
    let saved = tempfile::tempdir().unwrap();
    scorer.save(saved.path(), u64::MAX).unwrap();
    let reward_model = CausalLm::load(saved.path(), Device::Cpu, Kind::Float)
        .err()
        .unwrap()
        .to_string();
    assert!(
        reward_model.contains("Qwen2ForSequenceClassification")
            && reward_model.contains("reward model"),
        "{reward_model}"
    );

    let path = saved.path().join("config.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let labels = |change: &dyn Fn(&mut serde_json::Map<String, Value>)| {
        let mut fields = serde_json::from_str(&text).unwrap();
        change(&mut fields);
        Config::parse(&Value::Object(fields).to_string())
            .map(|config| config.architecture)
            .map_err(|error| error.to_string())
    };
    assert_eq!(labels(&|_| {}).unwrap(), "Qwen2ForSequenceClassification");
    let two = labels(&|fields| drop(fields.insert("id2label".into(), json!({"0": "a", "1": "b"}))))
        .unwrap_err();
    assert!(two.contains("`num_labels` is 2"), "{two}");
    assert!(
        labels(&|fields| drop(fields.remove("id2label")))
            .unwrap_err()
            .contains("`num_labels` is 2")
    );
    assert!(
        labels(&|fields| drop(fields.insert(
            "architectures".into(),
            json!(["GptForSequenceClassification"])
        )))
        .is_err()
    );
}
