//! What a plan counts for models at the limit of one H200 with 128 GiB of host memory.

use crate::parse;
use r1d_job::ModelShape;
use r1d_job::plan::{InputFacts, Room, host_memory, memory};
use std::collections::BTreeMap;

const GIB: u64 = 1 << 30;
/// The memory of an H200, less what the driver, libtorch's libraries and gaps between tensors take.
const DEVICE: u64 = 139 * GIB - 4 * GIB;

const QWEN: &str = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
    "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "max_position_embeddings": 32768,
    "tie_word_embeddings": false}"#;

const V2_LITE: &str = r#"{"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "vocab_size": 102400, "hidden_size": 2048, "intermediate_size": 10944,
    "moe_intermediate_size": 1408, "num_hidden_layers": 27, "num_attention_heads": 16,
    "num_key_value_heads": 16, "n_routed_experts": 64, "n_shared_experts": 2,
    "num_experts_per_tok": 6, "first_k_dense_replace": 1, "moe_layer_freq": 1,
    "kv_lora_rank": 512, "q_lora_rank": null, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
    "v_head_dim": 128, "topk_method": "greedy", "n_group": 1, "topk_group": 1,
    "norm_topk_prob": false, "scoring_func": "softmax", "routed_scaling_factor": 1.0,
    "max_position_embeddings": 4096, "tie_word_embeddings": false}"#;

/// Qwen2.5-32B.
pub(crate) const QWEN_32B: &str = r#"{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
    "vocab_size": 152064, "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
    "num_attention_heads": 40, "num_key_value_heads": 8, "max_position_embeddings": 131072,
    "tie_word_embeddings": false}"#;

/// Qwen3-30B-A3B.
pub(crate) const QWEN3_30B: &str = r#"{"architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe", "vocab_size": 151936, "hidden_size": 2048,
    "intermediate_size": 6144, "moe_intermediate_size": 768, "num_hidden_layers": 48,
    "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
    "num_experts_per_tok": 8, "norm_topk_prob": true, "decoder_sparse_step": 1,
    "mlp_only_layers": [], "max_position_embeddings": 40960, "tie_word_embeddings": false}"#;

/// DeepSeek-V3.
pub(crate) const DEEPSEEK_V3: &str = r#"{"architectures": ["DeepseekV3ForCausalLM"],
    "model_type": "deepseek_v3", "vocab_size": 129280, "hidden_size": 7168,
    "intermediate_size": 18432, "moe_intermediate_size": 2048, "num_hidden_layers": 61,
    "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3,
    "moe_layer_freq": 1, "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64, "v_head_dim": 128, "topk_method": "noaux_tc", "n_group": 8,
    "topk_group": 4, "norm_topk_prob": true, "scoring_func": "sigmoid",
    "routed_scaling_factor": 2.5, "max_position_embeddings": 163840,
    "tie_word_embeddings": false}"#;

/// What one GRPO stage takes on the device and, without its snapshot, on the host.
fn counted(config: &str, settings: &str) -> (BTreeMap<String, u64>, u64) {
    counted_on(config, settings, "")
}

/// The same on each device of a layout.
fn counted_on(config: &str, settings: &str, layout: &str) -> (BTreeMap<String, u64>, u64) {
    let job = format!(
        "name = \"large\"\n[model]\npath = \"m\"\ndtype = \"bfloat16\"\n[data.d]\npath = \
         \"d.jsonl\"\nreference = \"answer\"\n[[stage]]\nname = \"s\"\nkind = \"grpo\"\ndata = \
         \"d\"\nsteps = 1\nprompts_per_step = 16\nnum_generations = 8\nmax_completion_length = \
         512\nbeta = 0.001\nmax_tokens_per_device = 8192\ngradient_checkpointing = \
         true\n{settings}\n[[stage.reward]]\nplugin = \"accuracy\"\n[parallel]\n{layout}\n"
    );
    let job = parse(&job).unwrap();
    let shapes = [ModelShape::from_config(config).unwrap()];
    let seen = InputFacts {
        prompt_max: BTreeMap::from([("s".into(), 256)]),
        ..InputFacts::default()
    };
    let host = host_memory(&job, &job.stages[0], &shapes);
    let optimiser = host.get("optimiser").copied().unwrap_or(0);
    (
        memory(&job, &job.stages[0], &shapes, &seen, Room::default()),
        optimiser,
    )
}

fn total(memory: &BTreeMap<String, u64>) -> u64 {
    memory.values().sum()
}

#[test]
fn seven_billion_parameters_fit_with_narrow_moments_or_with_the_optimiser_on_the_host() {
    let parameters = 7_615_616_512;
    let narrow = "adam_beta2 = 0.95\nexp_avg_dtype = \"bfloat16\"\nexp_avg_sq_dtype = \"bfloat16\"";
    let (device, host) = counted(QWEN, narrow);
    assert_eq!(device["optimiser"], 8 * parameters);
    assert_eq!(device["gradients"], 4 * parameters);
    assert_eq!(device["reference"], 2 * parameters);
    assert!(total(&device) < DEVICE && host == 0, "{device:?}");

    let (device, host) = counted(QWEN, "optimizer_offload = \"cpu\"");
    assert!(!device.contains_key("optimiser"));
    assert_eq!(host, 12 * parameters + (256 << 20));
    assert!(
        total(&device) < 80 * GIB && host < 90 * GIB,
        "{device:?} {host}"
    );

    let (device, _) = counted(QWEN, "");
    assert!(
        total(&device) > DEVICE,
        "float32 moments do not fit: {device:?}"
    );
}

#[test]
fn v2_lite_fits_with_adapters_on_its_experts() {
    let lora = "lora_r = 16\nlora_target_modules = [\"all-linear\", \"gate_proj\", \"up_proj\", \
                \"down_proj\"]";
    let (device, _) = counted(V2_LITE, lora);
    // Rank 16 on three matrices of 64 experts in 26 layers, and on attention's four in 27.
    let experts = 16 * 26 * 64 * 3 * (2048 + 1408);
    let attention = 16 * 27 * ((2048 + 3072) + (2048 + 576) + (512 + 4096) + (2048 + 2048));
    assert_eq!(device["gradients"], 4 * (experts + attention));
    assert_eq!(device["optimiser"], 12 * (experts + attention));
    assert_eq!(device["reference"], 2 * (experts + attention));
    assert!(total(&device) < DEVICE, "{device:?}");
    let (device, _) = counted(V2_LITE, "");
    assert!(
        total(&device) > 2 * DEVICE,
        "in full it does not: {device:?}"
    );
}

/// The arithmetic of ZeRO and of experts on their owners: what no layout shares is everywhere.
#[test]
fn a_layout_shares_experts_and_optimiser_states_out() {
    let shape = ModelShape::from_config(V2_LITE).unwrap();
    let all = shape.parameters;
    let experts = 26 * 64 * 3 * 2048 * 1408;
    let local = all - experts + experts / 4;
    let on = |shard: &str| {
        let layout = format!("data = 2\nexpert = 4\n{shard}");
        counted_on(V2_LITE, "", &layout).0
    };
    let apart = on("");
    assert_eq!(apart["policy"], 2 * local);
    assert_eq!(apart["reference"], 2 * local);
    assert_eq!(apart["gradients"], 4 * local);
    assert_eq!(apart["optimiser"], 12 * local);
    let first = on("shard = \"optimizer\"");
    assert_eq!(first["policy"], 2 * local);
    assert_eq!(first["gradients"], 4 * local);
    assert_eq!(first["optimiser"], 12 * all.div_ceil(8));
    let third = on("shard = \"parameters\"");
    assert_eq!(third["policy"], 2 * all.div_ceil(8));
    assert_eq!(third["gradients"], 4 * all.div_ceil(8));
    assert_eq!(third["optimiser"], 12 * all.div_ceil(8));
    assert!(total(&third) < DEVICE, "{third:?}");
    // Adapters are small, and on every device.
    let lora = "lora_r = 16\nlora_target_modules = [\"all-linear\"]";
    let (adapted, _) = counted_on(V2_LITE, lora, "expert = 4");
    let (alone, _) = counted(V2_LITE, lora);
    assert_eq!(adapted["gradients"], alone["gradients"]);
    assert_eq!(
        alone["policy"] - adapted["policy"],
        2 * (experts - experts / 4)
    );
    // On one host, the states of all devices are in one memory.
    let offload = "optimizer_offload = \"cpu\"";
    let (_, of_one) = counted(QWEN, offload);
    let (_, of_two) = counted_on(QWEN, offload, "data = 2");
    let (_, shared) = counted_on(QWEN, offload, "data = 2\nshard = \"optimizer\"");
    assert_eq!(of_two, 2 * of_one);
    assert_eq!(shared, of_one + (256 << 20));
}

/// The sizes that their authors give, DeepSeek-V3's without the bias of each expert in the choice
/// of experts, which is not trained.
#[test]
fn large_models_have_as_many_parameters_as_is_said_of_them() {
    for (config, parameters, experts) in [
        (QWEN_32B, 32_763_876_352, 0),
        (QWEN3_30B, 30_532_122_624, 28_991_029_248),
        (DEEPSEEK_V3, 671_026_419_200 - 58 * 256, 653_908_770_816),
    ] {
        let shape = ModelShape::from_config(config).unwrap();
        assert_eq!(
            (shape.parameters, shape.expert_values()),
            (parameters, experts)
        );
    }
}
