//! config.json of published models, as far as their fields matter: which models can be run, how
//! large they are, and how the others are refused.

use r1d_shape::Config;
use serde_json::{Map, Value, json};

const DEEPSEEK_V3: &str = include_str!("../../../configs/models/deepseek-v3.json");

fn fields(text: Value) -> Map<String, Value> {
    match text {
        Value::Object(fields) => fields,
        other => panic!("{other}"),
    }
}

/// `base` with other fields; `null` stays, as configs have it.
fn with(base: &Value, changes: Value) -> Value {
    let mut all = fields(base.clone());
    all.extend(fields(changes));
    Value::Object(all)
}

fn qwen2_5_7b() -> Value {
    json!({"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
        "eos_token_id": 151645,
        "hidden_act":
        "silu",
        "hidden_size": 3584, "initializer_range": 0.02, "intermediate_size": 18944,
            "max_position_embeddings": 32768,
            "max_window_layers": 28,
        "model_type": "qwen2", "num_attention_heads": 28, "num_hidden_layers": 28,
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "sliding_window": 131072, "tie_word_embeddings": false,
            "torch_dtype":
            "bfloat16",
            "use_cache": true,
        "use_sliding_window": false, "vocab_size": 152064})
}

fn qwen2_5_05b() -> Value {
    with(
        &qwen2_5_7b(),
        json!({"hidden_size": 896, "intermediate_size": 4864, "max_window_layers": 21,
            "num_attention_heads": 14,
            "num_hidden_layers": 24,
            "num_key_value_heads": 2, "tie_word_embeddings": true, "vocab_size": 151936,
                "sliding_window": 32768}),
    )
}

fn qwen3_06b() -> Value {
    json!({"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "head_dim": 128,
        "hidden_act":
        "silu",
        "hidden_size": 1024,
        "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
            "model_type":
            "qwen3",
            "num_attention_heads": 16,
        "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-6,
            "rope_scaling": null,
            "rope_theta": 1000000,
        "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false,
            "vocab_size": 151936})
}

fn qwen3_30b_a3b() -> Value {
    json!({"architectures": ["Qwen3MoeForCausalLM"], "attention_bias": false,
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_act":
        "silu",
        "hidden_size": 2048, "intermediate_size": 6144, "max_position_embeddings": 40960,
            "mlp_only_layers": [],
            "model_type":
            "qwen3_moe",
        "moe_intermediate_size": 768, "norm_topk_prob": true, "num_attention_heads": 32,
            "num_experts": 128,
            "num_experts_per_tok": 8,
        "num_hidden_layers": 48, "num_key_value_heads": 4, "rms_norm_eps": 1e-6,
            "rope_scaling": null,
            "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.001, "sliding_window": null, "tie_word_embeddings": false,
            "use_sliding_window": false,
            "vocab_size": 151936})
}

fn llama_2_7b() -> Value {
    json!({"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2,
        "hidden_act":
        "silu",
        "hidden_size": 4096,
        "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
        "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-5, "rope_scaling": null,
            "tie_word_embeddings": false,
        "vocab_size": 32000})
}

fn llama_3_1_8b() -> Value {
    with(
        &llama_2_7b(),
        json!({"eos_token_id": [128001, 128008, 128009], "bos_token_id": 128000,
            "intermediate_size": 14336,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8, "rope_theta": 500000.0, "vocab_size": 128256,
                "mlp_bias": false,
                "attention_bias": false,
            "rope_scaling": {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3"}}),
    )
}

fn mistral_v03() -> Value {
    json!({"architectures": ["MistralForCausalLM"], "hidden_act": "silu", "hidden_size": 4096,
        "intermediate_size": 14336,
        "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
        "rms_norm_eps": 1e-5, "rope_theta": 1000000.0, "sliding_window": null,
            "tie_word_embeddings": false,
            "vocab_size": 32768})
}

fn deepseek_v3() -> Value {
    let fp8 = json!({"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
        "weight_block_size": [128, 128]});
    with(
        &serde_json::from_str(DEEPSEEK_V3).unwrap(),
        json!({"quantization_config": fp8, "num_nextn_predict_layers": 1}),
    )
}

fn deepseek_v2_lite() -> Value {
    json!({"architectures": ["DeepseekV2ForCausalLM"], "attention_bias": false,
        "aux_loss_alpha": 0.001,
        "first_k_dense_replace": 1,
        "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
            "max_position_embeddings": 163840,
        "model_type": "deepseek_v2", "moe_intermediate_size": 1408, "moe_layer_freq": 1,
            "n_group": 1,
            "n_routed_experts": 64,
        "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 16,
            "num_experts_per_tok": 6,
            "num_hidden_layers": 27,
        "num_key_value_heads": 16, "q_lora_rank": null, "qk_nope_head_dim": 128,
            "qk_rope_head_dim": 64,
            "rms_norm_eps": 1e-6,
        "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096, "type": "yarn"},
        "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax",
            "seq_aux": true,
            "tie_word_embeddings": false,
        "topk_group": 1, "topk_method": "greedy", "v_head_dim": 128, "vocab_size": 102400})
}

fn kimi_k2() -> Value {
    with(
        &deepseek_v3(),
        json!({"model_type": "kimi_k2", "vocab_size": 163840, "num_attention_heads": 64,
            "num_key_value_heads": 64,
            "n_routed_experts": 384,
            "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
                "routed_scaling_factor": 2.827,
                "num_nextn_predict_layers": 0,
            "rope_theta": 50000.0, "max_position_embeddings": 131072,
            "rope_scaling": {"beta_fast": 1.0, "beta_slow": 1.0, "factor": 32.0, "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 4096, "type": "yarn"}}),
    )
}

#[test]
fn what_is_supported_has_its_published_size() {
    let one_label = json!({"architectures": ["LlamaForSequenceClassification"], "id2label": {"0":
        "LABEL_0"},
        "label2id": {
        "LABEL_0": 0},
        "pad_token_id": 128256});
    let yarn = json!({"rope_scaling": {"type": "yarn", "factor": 4.0,
        "original_max_position_embeddings": 32768}});
    let cases: Vec<(&str, Value, u64)> = vec![
        ("Qwen2.5-0.5B", qwen2_5_05b(), 494_032_768),
        ("Qwen2.5-7B", qwen2_5_7b(), 7_615_616_512),
        (
            "Qwen2.5-7B stretched as its card says",
            with(&qwen2_5_7b(), yarn),
            7_615_616_512,
        ),
        (
            "DeepSeek-R1-Distill-Qwen-7B",
            with(
                &qwen2_5_7b(),
                json!({"rope_theta": 10000, "max_position_embeddings": 131072}),
            ),
            7_615_616_512,
        ),
        ("Qwen3-0.6B", qwen3_06b(), 596_049_920),
        ("Qwen3-30B-A3B", qwen3_30b_a3b(), 30_532_122_624),
        ("Llama-2-7b", llama_2_7b(), 6_738_415_616),
        (
            "Llama-2-7b padded by its last id",
            with(&llama_2_7b(), json!({"pad_token_id": -1})),
            6_738_415_616,
        ),
        ("Llama-3.1-8B", llama_3_1_8b(), 8_030_261_248),
        (
            "Llama-3.2-1B",
            with(
                &llama_3_1_8b(),
                json!({"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                    "head_dim": 64,
                    "tie_word_embeddings": true}),
            ),
            1_235_814_400,
        ),
        (
            "TinyLlama-1.1B",
            with(
                &llama_2_7b(),
                json!({"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22,
                    "num_key_value_heads": 4}),
            ),
            1_100_048_384,
        ),
        (
            "SmolLM2-135M",
            with(
                &llama_2_7b(),
                json!({"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
                    "num_attention_heads": 9,
                    "num_key_value_heads": 3, "tie_word_embeddings": true, "vocab_size": 49152}),
            ),
            134_515_008,
        ),
        ("Mistral-7B-v0.3", mistral_v03(), 7_248_023_552),
        (
            "Mistral-Nemo",
            with(
                &mistral_v03(),
                json!({"hidden_size": 5120, "head_dim": 128, "num_hidden_layers": 40,
                    "vocab_size": 131072}),
            ),
            12_247_782_400,
        ),
        ("DeepSeek-V2-Lite", deepseek_v2_lite(), 15_706_484_224),
        ("DeepSeek-R1", deepseek_v3(), 671_026_404_352),
        ("Kimi-K2", kimi_k2(), 1_026_408_209_408),
        // Its vocabulary has a padding id behind Llama's own.
        (
            "Skywork-Reward-Llama-3.1-8B",
            with(
                &llama_3_1_8b(),
                with(&one_label, json!({"vocab_size": 128257})),
            ),
            // Llama's own without its output head, a row of the embedding more, and the scalar
            // head.
            8_030_261_248 - 128_256 * 4096 + 4096 + 4096,
        ),
    ];
    for (name, config, parameters) in cases {
        let config =
            Config::parse(&config.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(config.summary().parameters, parameters, "{name}");
        assert_eq!(config.scores, name.contains("Reward"), "{name}");
    }
}

#[test]
fn what_is_not_supported_is_named_by_its_field() {
    let quantised = |method: Value| with(&qwen2_5_7b(), json!({"quantization_config": method}));
    let cases: Vec<(&str, Value, &[&str])> = vec![
        (
            "gemma-2",
            with(
                &llama_2_7b(),
                json!({"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}),
            ),
            &["`architectures`", "Gemma2ForCausalLM"],
        ),
        (
            "gemma-3",
            json!({"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3",
                "text_config": {}}),
            &["Gemma3ForConditionalGeneration"],
        ),
        (
            "phi-3",
            with(
                &llama_2_7b(),
                json!({"architectures": ["Phi3ForCausalLM"], "model_type": "phi3"}),
            ),
            &["Phi3ForCausalLM"],
        ),
        (
            "gpt-oss",
            with(
                &llama_2_7b(),
                json!({"architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss"}),
            ),
            &["GptOssForCausalLM"],
        ),
        (
            "Mixtral",
            with(
                &mistral_v03(),
                json!({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}),
            ),
            &["MixtralForCausalLM"],
        ),
        (
            "Qwen2-MoE",
            with(
                &qwen2_5_7b(),
                json!({"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe"}),
            ),
            &["Qwen2MoeForCausalLM"],
        ),
        (
            "Qwen2.5-VL",
            with(
                &qwen2_5_7b(),
                json!({"architectures": ["Qwen2_5_VLForConditionalGeneration"]}),
            ),
            &["Qwen2_5_VLForConditionalGeneration"],
        ),
        (
            "Qwen2.5-Math-RM",
            with(
                &qwen2_5_7b(),
                json!({"architectures": ["Qwen2ForRewardModel"]}),
            ),
            &["Qwen2ForRewardModel"],
        ),
        (
            "named by its type alone",
            json!({"model_type": "mamba"}),
            &["`model_type`", "mamba"],
        ),
        (
            "no name at all",
            json!({"hidden_size": 8}),
            &["`architectures` is missing"],
        ),
        (
            "two labels",
            with(
                &llama_3_1_8b(),
                json!({"architectures": ["LlamaForSequenceClassification"]}),
            ),
            &["`num_labels` is 2"],
        ),
        (
            "AWQ",
            quantised(json!({"quant_method": "awq", "bits": 4, "version": "gemm"})),
            &["`quantization_config`", "awq"],
        ),
        (
            "GPTQ",
            quantised(json!({"quant_method": "gptq", "bits": 4})),
            &["gptq"],
        ),
        (
            "bitsandbytes",
            quantised(json!({"quant_method": "bitsandbytes", "load_in_4bit": true})),
            &["bitsandbytes", "bfloat16"],
        ),
        (
            "compressed-tensors",
            quantised(json!({"quant_method": "compressed-tensors", "format": "float-quantized"})),
            &["compressed-tensors"],
        ),
        (
            "FP8 with one scale a tensor",
            quantised(json!({"quant_method": "fp8", "weight_block_size": null})),
            &["`weight_block_size`"],
        ),
        (
            "dynamic rope",
            with(
                &llama_2_7b(),
                json!({"rope_scaling": {"type": "dynamic", "factor": 2.0}}),
            ),
            &["`rope_type`", "dynamic", "yarn"],
        ),
        (
            "longrope",
            with(
                &llama_2_7b(),
                json!({"rope_scaling": {"type": "longrope", "long_factor": [1.0],
                    "short_factor": [1.0]}}),
            ),
            &["longrope"],
        ),
        (
            "two words for rope",
            with(
                &llama_2_7b(),
                json!({"rope_scaling": {"type": "yarn", "rope_type": "llama3"}}),
            ),
            &["disagree"],
        ),
        (
            "llama3 without its factors",
            with(
                &llama_2_7b(),
                json!({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}),
            ),
            &["`low_freq_factor`"],
        ),
        (
            "padding outside the vocabulary",
            with(&llama_2_7b(), json!({"pad_token_id": 32000})),
            &["`pad_token_id` is 32000", "vocabulary of 32000"],
        ),
        (
            "a head that does not divide",
            with(
                &llama_2_7b(),
                json!({"num_attention_heads": 30, "num_key_value_heads": 30}),
            ),
            &["`num_attention_heads` 30"],
        ),
        (
            "key heads that do not divide",
            with(&llama_2_7b(), json!({"num_key_value_heads": 5})),
            &["`num_key_value_heads` 5"],
        ),
        (
            "an odd head",
            with(&llama_2_7b(), json!({"head_dim": 63})),
            &["head size is 63"],
        ),
        (
            "another activation",
            with(&llama_2_7b(), json!({"hidden_act": "gelu"})),
            &["`hidden_act`"],
        ),
        (
            "Mistral-7B-v0.1's window",
            with(&mistral_v03(), json!({"sliding_window": 4096})),
            &["`sliding_window` is 4096", "null"],
        ),
        (
            "Qwen2.5's window where it is used",
            with(
                &qwen2_5_7b(),
                json!({"use_sliding_window": true, "max_window_layers": 14}),
            ),
            &["`use_sliding_window`"],
        ),
        (
            "experts that no group divides",
            with(&deepseek_v3(), json!({"n_group": 7})),
            &["`n_group` 7"],
        ),
        (
            "another scoring",
            with(&deepseek_v3(), json!({"scoring_func": "softmax"})),
            &["`scoring_func`"],
        ),
        (
            "more tensors than are listed",
            with(
                &deepseek_v3(),
                json!({"n_routed_experts": 65536, "num_hidden_layers": 65536}),
            ),
            &["tensors"],
        ),
    ];
    assert!(cases.len() >= 30);
    for (name, config, words) in cases {
        let error = Config::parse(&config.to_string())
            .map(drop)
            .expect_err(name)
            .to_string();
        assert!(
            error.starts_with("config.json: ") && words.iter().all(|word| error.contains(word)),
            "{name}: {error}"
        );
    }
}
