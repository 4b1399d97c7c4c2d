//! What a model's `config.json` says about its size, without loading it: the sums over the shapes of `transformers`' modules.

use crate::error::JobError;
use serde_json::Value;

/// Numbers that the plan computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// `DeepseekV3ForCausalLM`, `Qwen2ForCausalLM`.
    pub architecture: String,
    pub parameters: u64,
    /// Parameters that one token meets.
    pub active_parameters: u64,
    pub vocab_size: u64,
    /// Tokens that positions reach to.
    pub max_position_embeddings: u64,
    /// Values (not bytes) that the sampler's cache keeps per token.
    pub cache_values_per_token: u64,
}

impl ModelFacts {
    /// From the text of a `config.json`.
    pub fn from_config(config_json: &str) -> Result<ModelFacts, JobError> {
        let config: Value = serde_json::from_str(config_json).map_err(|e| JobError::ModelConfig(format!("not JSON: {e}")))?;
        let config = Config(&config);
        match config.0["model_type"].as_str() {
            Some("deepseek_v3") => deepseek_v3(&config),
            Some("qwen2") => qwen2(&config),
            other => Err(JobError::ModelConfig(format!(
                "model_type {} is not an architecture of this release: it has \"deepseek_v3\" and \"qwen2\"",
                other.map_or("is missing, and".into(), |name| format!("{name:?}"))
            ))),
        }
    }
}

struct Config<'a>(&'a Value);

impl Config<'_> {
    fn get(&self, key: &str) -> Result<u64, JobError> {
        let value = &self.0[key];
        value.as_u64().ok_or_else(|| JobError::ModelConfig(format!("`{key}` is {value}, expected a whole number")))
    }

    /// A key that may be missing or null.
    fn get_or(&self, key: &str, default: u64) -> Result<u64, JobError> {
        if self.0[key].is_null() { Ok(default) } else { self.get(key) }
    }

    fn is(&self, key: &str) -> bool {
        self.0[key].as_bool().unwrap_or(false)
    }
}

/// `gate_proj`, `up_proj`, `down_proj`.
fn gated_mlp(hidden: u64, intermediate: u64) -> u64 {
    3 * hidden * intermediate
}

/// Embedding, output head (unless tied) and the last norm.
fn ends(config: &Config<'_>, hidden: u64) -> Result<u64, JobError> {
    let tables = if config.is("tie_word_embeddings") { 1 } else { 2 };
    Ok(tables * config.get("vocab_size")? * hidden + hidden)
}

fn qwen2(config: &Config<'_>) -> Result<ModelFacts, JobError> {
    let (hidden, layers, heads) =
        (config.get("hidden_size")?, config.get("num_hidden_layers")?, config.get("num_attention_heads")?);
    let head = config.get_or("head_dim", hidden / heads.max(1))?;
    let (queries, keys) = (heads * head, config.get_or("num_key_value_heads", heads)? * head);
    let attention = (hidden + 1) * (queries + 2 * keys) + queries * hidden;
    let layer = attention + gated_mlp(hidden, config.get("intermediate_size")?) + 2 * hidden;
    let parameters = layers * layer + ends(config, hidden)?;
    Ok(ModelFacts {
        architecture: "Qwen2ForCausalLM".into(),
        parameters,
        active_parameters: parameters,
        vocab_size: config.get("vocab_size")?,
        max_position_embeddings: config.get_or("max_position_embeddings", 32_768)?,
        cache_values_per_token: layers * 2 * keys,
    })
}

fn deepseek_v3(config: &Config<'_>) -> Result<ModelFacts, JobError> {
    let (hidden, layers, heads) =
        (config.get("hidden_size")?, config.get("num_hidden_layers")?, config.get("num_attention_heads")?);
    let (nope, rope, value) = (config.get("qk_nope_head_dim")?, config.get("qk_rope_head_dim")?, config.get("v_head_dim")?);
    let latent = config.get("kv_lora_rank")?;
    let bias = u64::from(config.is("attention_bias"));
    let queries = heads * (nope + rope);
    let query = match config.get_or("q_lora_rank", 0)? {
        0 => hidden * queries,
        rank => hidden * rank + bias * rank + rank + rank * queries,
    };
    let key_value = hidden * (latent + rope) + bias * (latent + rope) + latent + latent * heads * (nope + value);
    let output = heads * value * hidden + bias * hidden;
    let attention = query + key_value + output + 2 * hidden;

    let experts = config.get("n_routed_experts")?;
    let expert = gated_mlp(hidden, config.get("moe_intermediate_size")?);
    let shared = gated_mlp(hidden, config.get("moe_intermediate_size")? * config.get_or("n_shared_experts", 1)?);
    let dense_layers = config.get_or("first_k_dense_replace", 3)?.min(layers);
    let moe_layers = layers - dense_layers;
    let always = layers * attention
        + dense_layers * gated_mlp(hidden, config.get("intermediate_size")?)
        + moe_layers * (experts * hidden + shared)
        + ends(config, hidden)?;
    Ok(ModelFacts {
        architecture: "DeepseekV3ForCausalLM".into(),
        parameters: always + moe_layers * experts * expert,
        active_parameters: always + moe_layers * config.get("num_experts_per_tok")?.min(experts) * expert,
        vocab_size: config.get("vocab_size")?,
        max_position_embeddings: config.get_or("max_position_embeddings", 4096)?,
        cache_values_per_token: layers * (latent + rope),
    })
}
