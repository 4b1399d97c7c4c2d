//! Tiny random models and requests for the sampler's tests.
#![allow(dead_code, reason = "each test binary uses a part")]

use r1d_model::CausalLm;
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::{Generate, Group, Metrics, Slots};
use r1d_proto::world::{SystemClock, counter_hash};
use r1d_sampler::{Sampler, SamplerError};
use std::collections::BTreeMap;
use tch::{Device, Kind};

pub(crate) const QWEN2: &str = r#"{
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 256, "tie_word_embeddings": false, "initializer_range": 0.2
}"#;

pub(crate) const DEEPSEEK_V3: &str = r#"{
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "moe_intermediate_size": 32, "num_hidden_layers": 3,
    "first_k_dense_replace": 1, "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": 24, "kv_lora_rank": 16,
    "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8, "n_routed_experts": 8, "n_shared_experts": 1,
    "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
    "norm_topk_prob": true, "routed_scaling_factor": 2.5, "moe_layer_freq": 1, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "max_position_embeddings": 256, "attention_bias": false, "tie_word_embeddings": false,
    "initializer_range": 0.2
}"#;

/// [`DEEPSEEK_V3`] with its multi-token prediction module.
pub(crate) const DEEPSEEK_V3_MTP: &str = "mtp";

pub(crate) const BOTH: [&str; 2] = [QWEN2, DEEPSEEK_V3];
/// Experts that one token's record holds in [`DEEPSEEK_V3`]: 2 MoE layers of 3.
pub(crate) const DEEPSEEK_V3_EXPERTS_PER_TOKEN: usize = 6;
pub(crate) const VOCAB_SIZE: u64 = 96;
pub(crate) const CAPACITY: u32 = 64;

/// Makes a float32 model on the CPU, with one libtorch thread on the calling thread, as the
/// batch-invariant mode needs.
pub(crate) fn model(config: &str) -> CausalLm {
    r1d_torch::runtime::set_threads(1).unwrap();
    match config {
        DEEPSEEK_V3_MTP => {
            let config = DEEPSEEK_V3.replacen('{', r#"{"num_nextn_predict_layers": 1,"#, 1);
            CausalLm::init_with_prediction(&config, 11, Device::Cpu, Kind::Float).unwrap()
        }
        config => CausalLm::init(config, 11, Device::Cpu, Kind::Float).unwrap(),
    }
}

pub(crate) fn sampler(model: &CausalLm, slots: u32, invariant: bool) -> Sampler {
    Sampler::new(
        model,
        Slots::of(slots, CAPACITY),
        invariant,
        SystemClock::shared(),
    )
    .unwrap()
}

pub(crate) fn sampling() -> Sampling {
    Sampling {
        temperature: 0.9,
        top_p: 1.0,
        top_k: 0,
        keep_sampling_mask: true,
        max_completion_length: 14,
        stop_ids: vec![3, 50, 77],
        seed: 42,
    }
}

/// `groups` prompts of different lengths with ids from the whole vocabulary, `samples` completions
/// of each.
pub(crate) fn request(groups: u32, samples: u32) -> Generate {
    let group = |prompt: u32| Group {
        prompt,
        row: 100 + u64::from(prompt),
        prompt_ids: (0..1 + (u64::from(prompt) * 5) % 17)
            .map(|i| (counter_hash(&[prompt.into(), i]) % VOCAB_SIZE) as u32)
            .collect(),
        samples: (0..samples).collect(),
    };
    Generate {
        stage: 1,
        step: 5,
        policy_version: 9,
        sampling: sampling(),
        record_experts: true,
        groups: (0..groups).map(group).collect(),
    }
}

pub(crate) type Rollouts = BTreeMap<(u32, u32), Rollout>;

/// Completions by (prompt, sample); each must come once.
pub(crate) fn generate(sampler: &mut Sampler, model: &CausalLm, request: &Generate) -> Rollouts {
    try_generate(sampler, model, request).unwrap().0
}

pub(crate) fn try_generate(
    sampler: &mut Sampler,
    model: &CausalLm,
    request: &Generate,
) -> Result<(Rollouts, Metrics), SamplerError> {
    let mut rollouts = Rollouts::new();
    let mut completed = |rollout: Rollout| {
        let key = (rollout.key.prompt, rollout.key.sample);
        assert!(
            rollouts.insert(key, rollout).is_none(),
            "{key:?} came twice"
        );
    };
    let metrics = sampler.generate(model, request, &mut completed, &mut |_, _| {})?;
    Ok((rollouts, metrics))
}

pub(crate) fn ids(rollout: &Rollout) -> Vec<i64> {
    rollout
        .prompt_ids
        .iter()
        .chain(&rollout.completion_ids)
        .map(|id| i64::from(*id))
        .collect()
}
