//! config.json: sizes without allocating, both spellings of the rope fields, and refusals that name
//! the field.

use r1d_shape::Config;
use serde_json::{Map, Value, json};

const DEEPSEEK_V3: &str = include_str!("../../../configs/models/deepseek-v3.json");
const TINY: &str = include_str!("../../../configs/models/tiny-deepseek-v3.json");
const QWEN2: &str = include_str!("../../../tests/fixtures/qwen2/config.json");

fn changed(json: &str, changes: &[(&str, Value)]) -> String {
    let mut fields: Map<String, Value> = serde_json::from_str(json).unwrap();
    for (key, value) in changes {
        fields.insert((*key).to_owned(), value.clone());
    }
    Value::Object(fields).to_string()
}

fn refusal(json: &str, changes: &[(&str, Value)]) -> String {
    Config::parse(&changed(json, changes))
        .expect_err(&format!("{changes:?} must be refused"))
        .to_string()
}

#[test]
fn deepseek_v3_has_its_published_size() {
    let summary = Config::parse(DEEPSEEK_V3).unwrap().summary();
    assert_eq!(summary.parameters, 671_026_404_352);
    assert_eq!(summary.active_parameters, 37_552_282_624);
    assert_eq!(
        (
            summary.moe_layers,
            summary.experts_per_token,
            summary.vocab_size
        ),
        (58, 8, 129_280)
    );
}

/// Parameters of transformers' classes with the published configurations.
#[test]
fn deepseek_v2_and_v2_lite_have_their_published_sizes() {
    let common = [
        ("architectures", json!(["DeepseekV2ForCausalLM"])),
        ("model_type", json!("deepseek_v2")),
        ("scoring_func", json!("softmax")),
        ("norm_topk_prob", json!(false)),
        ("vocab_size", json!(102_400)),
        ("first_k_dense_replace", json!(1)),
        ("num_experts_per_tok", json!(6)),
        ("n_shared_experts", json!(2)),
    ];
    let large = [
        ("topk_method", json!("group_limited_greedy")),
        ("hidden_size", json!(5120)),
        ("num_hidden_layers", json!(60)),
        ("intermediate_size", json!(12_288)),
        ("moe_intermediate_size", json!(1536)),
        ("n_routed_experts", json!(160)),
        ("topk_group", json!(3)),
        ("routed_scaling_factor", json!(16.0)),
    ];
    let lite = [
        ("topk_method", json!("greedy")),
        ("hidden_size", json!(2048)),
        ("num_hidden_layers", json!(27)),
        ("num_attention_heads", json!(16)),
        ("num_key_value_heads", json!(16)),
        ("q_lora_rank", Value::Null),
        ("intermediate_size", json!(10_944)),
        ("moe_intermediate_size", json!(1408)),
        ("n_routed_experts", json!(64)),
        ("routed_scaling_factor", json!(1.0)),
    ];
    let parameters = |own: &[(&str, Value)]| {
        let config = changed(&changed(DEEPSEEK_V3, &common), own);
        Config::parse(&config).unwrap().summary().parameters
    };
    assert_eq!(parameters(&large), 235_741_434_880);
    assert_eq!(parameters(&lite), 15_706_484_224);
}

#[test]
fn one_moe_layer_and_one_dense_layer_have_their_sizes() {
    let of = |changes: &[(&str, Value)]| {
        Config::parse(&changed(DEEPSEEK_V3, changes))
            .unwrap()
            .summary()
            .parameters
    };
    let whole = of(&[]);
    assert_eq!(
        whole - of(&[("num_hidden_layers", json!(60))]),
        11_507_286_016
    );
    assert_eq!(
        whole
            - of(&[
                ("num_hidden_layers", json!(60)),
                ("first_k_dense_replace", json!(2))
            ]),
        583_483_392
    );
    assert_eq!(
        whole - of(&[("tie_word_embeddings", json!(true))]),
        926_679_040
    );
}

#[test]
fn the_demos_model_is_about_a_million_parameters() {
    let summary = Config::parse(TINY).unwrap().summary();
    assert!(
        (900_000..1_500_000).contains(&summary.parameters),
        "{summary:?}"
    );
    assert_eq!(summary.architecture, "DeepseekV3ForCausalLM");
}

/// Absent fields have transformers' defaults, which differ from the meaning of `null`.
#[test]
fn an_absent_field_is_not_a_null_one() {
    let without = |key: &str| {
        let mut fields: Map<String, Value> = serde_json::from_str(DEEPSEEK_V3).unwrap();
        fields.remove(key).unwrap();
        Config::parse(&Value::Object(fields).to_string())
            .unwrap()
            .summary()
            .parameters
    };
    let whole = Config::parse(DEEPSEEK_V3).unwrap().summary().parameters;
    for key in [
        "q_lora_rank",
        "n_shared_experts",
        "n_group",
        "topk_group",
        "routed_scaling_factor",
        "max_position_embeddings",
    ] {
        assert_eq!(
            without(key),
            whole,
            "{key}: the published model has the default"
        );
    }
    let null = Config::parse(&changed(DEEPSEEK_V3, &[("q_lora_rank", Value::Null)]))
        .unwrap()
        .summary();
    assert_ne!(null.parameters, whole);
    let all_dense = Config::parse(&changed(TINY, &[("first_k_dense_replace", json!(5))])).unwrap();
    assert_eq!(all_dense.moe_layers, 0);
    let padded = |id: Value| {
        Config::parse(&changed(TINY, &[("pad_token_id", id)]))
            .unwrap()
            .padding_index
    };
    assert_eq!(
        [padded(Value::Null), padded(json!(7)), padded(json!(-1))],
        [None, Some(7), Some(127)]
    );
}

#[test]
fn architecture_is_found_by_model_type_too() {
    let config = Config::parse(&changed(TINY, &[("architectures", Value::Null)])).unwrap();
    assert_eq!(config.architecture, "DeepseekV3ForCausalLM");
}

#[test]
fn unsupported_values_are_named_with_what_is_supported() {
    let cases: &[(&str, &str, Value, &str)] = &[
        (
            TINY,
            "architectures",
            json!(["GptOssForCausalLM"]),
            "Qwen2ForCausalLM",
        ),
        (TINY, "hidden_act", json!("gelu"), "silu"),
        (TINY, "scoring_func", json!("softmax"), "sigmoid"),
        (TINY, "topk_method", json!("greedy"), "noaux_tc"),
        (TINY, "moe_layer_freq", json!(2), "only 1"),
        (
            TINY,
            "rope_scaling",
            json!({"type": "longrope", "factor": 8.0}),
            "yarn",
        ),
        (
            TINY,
            "rope_parameters",
            json!({"rope_type": "dynamic", "factor": 8.0}),
            "yarn",
        ),
        (
            TINY,
            "quantization_config",
            json!({"quant_method": "gptq"}),
            "bfloat16",
        ),
        (QWEN2, "use_sliding_window", json!(true), "false"),
    ];
    for (json, key, value, supported) in cases {
        let mut changes = vec![(*key, value.clone())];
        if *key == "use_sliding_window" {
            changes.extend([
                ("sliding_window", json!(128)),
                ("max_window_layers", json!(1)),
            ]);
        }
        let refusal = refusal(json, &changes);
        assert!(
            refusal.contains("config.json: `")
                && refusal.contains("not supported")
                && refusal.contains(supported),
            "{refusal}"
        );
    }
    let layer_types = json!(["full_attention", "sliding_attention", "full_attention"]);
    assert!(refusal(QWEN2, &[("layer_types", layer_types)]).contains("sliding_window"));
    // A window that no layer uses is no window.
    let unused = [
        ("use_sliding_window", json!(true)),
        ("sliding_window", json!(128)),
        ("max_window_layers", json!(28)),
    ];
    assert!(Config::parse(&changed(QWEN2, &unused)).is_ok());
}

#[test]
fn contradictions_and_wrong_types_name_the_field() {
    let cases: &[(&str, &str, Value)] = &[
        (TINY, "hidden_size", Value::Null),
        (TINY, "hidden_size", json!("128")),
        (TINY, "vocab_size", json!(0)),
        (TINY, "num_hidden_layers", json!(2.5)),
        (TINY, "norm_topk_prob", json!(1)),
        (TINY, "rope_theta", json!(0.5)),
        (TINY, "num_key_value_heads", json!(2)),
        (TINY, "pad_token_id", json!(128)),
        (TINY, "n_group", json!(3)),
        (TINY, "n_group", json!(8)),
        (TINY, "topk_group", json!(5)),
        (TINY, "num_experts_per_tok", json!(5)),
        (TINY, "qk_rope_head_dim", json!(7)),
        (TINY, "qk_head_dim", json!(33)),
        (TINY, "rope_scaling", json!([1])),
        (QWEN2, "num_key_value_heads", json!(3)),
        (QWEN2, "num_attention_heads", json!(5)),
        (QWEN2, "layer_types", json!("full")),
    ];
    for (json, key, value) in cases {
        let refusal = refusal(json, &[(key, value.clone())]);
        assert!(
            refusal.starts_with("config.json: ") && refusal.contains(&format!("`{key}`")),
            "{key} = {value}: {refusal}"
        );
    }
    for text in ["", "[1]", "{\"a\": }"] {
        assert!(
            Config::parse(text)
                .unwrap_err()
                .to_string()
                .starts_with("config.json: ")
        );
    }
}

#[test]
fn rope_fields_may_be_spelled_twice_if_they_agree() {
    let yarn =
        |kind: &str| json!({kind: "yarn", "factor": 4.0, "original_max_position_embeddings": 64});
    let both = [
        ("rope_scaling", yarn("type")),
        ("rope_parameters", yarn("rope_type")),
    ];
    assert!(Config::parse(&changed(TINY, &both)).is_ok());
    let differ = [
        ("rope_scaling", yarn("type")),
        ("rope_parameters", json!({"rope_type": "default"})),
    ];
    assert!(refusal(TINY, &differ).contains("`rope_scaling` and `rope_parameters` disagree"));
    let theta = [(
        "rope_parameters",
        json!({"rope_type": "default", "rope_theta": 5000.0}),
    )];
    assert!(refusal(TINY, &theta).contains("`rope_theta`"));
    assert!(
        refusal(
            TINY,
            &[(
                "rope_scaling",
                json!({"type": "yarn", "rope_type": "default"})
            )]
        )
        .contains("disagree")
    );
}

/// These numbers would be infinite in the model's float32, or 0, and every layer with them.
#[test]
fn numbers_that_float32_loses_are_refused() {
    for key in ["rms_norm_eps", "initializer_range"] {
        for lost in [1e308, 1e39, 1e-60, 1e-46] {
            let error = refusal(QWEN2, &[(key, json!(lost))]);
            assert!(
                error.contains(&format!("`{key}` is ")) && error.contains("float32"),
                "{error}"
            );
        }
        Config::parse(&changed(QWEN2, &[(key, json!(1e-12))])).unwrap();
    }
    for lost in [1e39, 1e300] {
        let error = refusal(
            QWEN2,
            &[
                ("rope_theta", json!(lost)),
                ("rope_parameters", Value::Null),
            ],
        );
        assert!(
            error.contains("`rope_theta` is ") && error.contains("float32"),
            "{error}"
        );
        let yarn = json!({"type": "yarn", "factor": lost});
        let error = refusal(
            QWEN2,
            &[("rope_scaling", yarn), ("rope_parameters", Value::Null)],
        );
        assert!(
            error.contains("`factor` is ") && error.contains("float32"),
            "{error}"
        );
    }
    let error = refusal(TINY, &[("routed_scaling_factor", json!(1e-60))]);
    assert!(
        error.contains("`routed_scaling_factor` is ") && error.contains("float32"),
        "{error}"
    );
}
