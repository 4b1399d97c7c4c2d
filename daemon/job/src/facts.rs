//! What a model's `config.json` says about its size, without loading it: the sums over the shapes of `transformers`' modules.

use crate::error::JobError;
use serde_json::Value;

/// Numbers that the plan computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// For example `DeepseekV3ForCausalLM`.
    pub architecture: String,
    pub parameters: u64,
    /// It has a scalar head: `architectures` names a …ForSequenceClassification.
    pub scores: bool,
    /// Parameters that one token meets.
    pub active_parameters: u64,
    pub vocab_size: u64,
    /// Tokens that positions reach to.
    pub max_position_embeddings: u64,
    /// Values (not bytes) that the sampler's cache keeps per token.
    pub cache_values_per_token: u64,
    /// The multi-token prediction module, where the model has one that can be run.
    pub prediction: Option<PredictionFacts>,
    /// Last parts of the names of the layers that adapters can be put on.
    pub linear_layers: Vec<&'static str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictionFacts {
    pub parameters: u64,
    /// As [`ModelFacts::cache_values_per_token`].
    pub cache_values_per_token: u64,
}

impl ModelFacts {
    /// From the text of a `config.json`.
    pub fn from_config(config_json: &str) -> Result<ModelFacts, JobError> {
        let config: Value = serde_json::from_str(config_json).map_err(|e| JobError::ModelConfig(format!("not JSON: {e}")))?;
        let config = Config(&config);
        match config.0["model_type"].as_str() {
            Some("deepseek_v3") => latent(&config, &DEEPSEEK_V3),
            Some("deepseek_v2") => latent(&config, &DEEPSEEK_V2),
            Some("qwen2") => grouped(&config, &QWEN2),
            Some("qwen3") => grouped(&config, &QWEN3),
            Some("qwen3_moe") => grouped(&config, &QWEN3_MOE),
            Some("llama") => grouped(&config, &LLAMA),
            Some("mistral") => grouped(&config, &MISTRAL),
            other => Err(JobError::ModelConfig(format!(
                "model_type {} is not an architecture of this release: it has {}",
                other.map_or("is missing, and".into(), |name| format!("{name:?}")),
                "\"deepseek_v3\", \"deepseek_v2\", \"qwen2\", \"qwen3\", \"qwen3_moe\", \"llama\" and \"mistral\""
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

    /// `absent` where the key is missing, `null` where it is null.
    fn get_absent(&self, key: &str, absent: u64, null: u64) -> Result<u64, JobError> {
        match self.0.get(key) {
            None => Ok(absent),
            Some(Value::Null) => Ok(null),
            Some(_) => self.get(key),
        }
    }

    fn scores(&self) -> bool {
        self.0["architectures"][0].as_str().is_some_and(|architecture| architecture.ends_with("ForSequenceClassification"))
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

/// Attention's layers, the feed-forward ones where no layer has experts, and the head where it is not the embedding.
fn linear_layers(config: &Config<'_>, attention: &[&'static str], experts: bool) -> Vec<&'static str> {
    let mut names = attention.to_vec();
    if !experts {
        names.extend(["gate_proj", "up_proj", "down_proj"]);
    }
    if !config.is("tie_word_embeddings") {
        names.push("lm_head");
    }
    names
}

/// An architecture with grouped-query attention: what config.json need not say, and which parts it has.
struct Grouped {
    architecture: &'static str,
    max_position_embeddings: u64,
    /// 0: as many as query heads.
    key_value_heads: u64,
    /// 0: what divides `hidden_size` among the heads.
    head_dim: u64,
    biases: Biases,
    /// Norms of each query's and key's head.
    norms: bool,
    experts: bool,
}

enum Biases {
    None,
    /// On queries, keys and values.
    Inputs,
    /// On the output too, where `attention_bias` is true.
    AsConfigured,
}

const QWEN2: Grouped = Grouped {
    architecture: "Qwen2ForCausalLM",
    max_position_embeddings: 32_768,
    key_value_heads: 0,
    head_dim: 0,
    biases: Biases::Inputs,
    norms: false,
    experts: false,
};
const QWEN3: Grouped = Grouped {
    architecture: "Qwen3ForCausalLM",
    key_value_heads: 32,
    head_dim: 128,
    biases: Biases::AsConfigured,
    norms: true,
    ..QWEN2
};
const QWEN3_MOE: Grouped = Grouped { architecture: "Qwen3MoeForCausalLM", key_value_heads: 4, head_dim: 0, experts: true, ..QWEN3 };
const LLAMA: Grouped =
    Grouped { architecture: "LlamaForCausalLM", max_position_embeddings: 2048, biases: Biases::AsConfigured, ..QWEN2 };
const MISTRAL: Grouped = Grouped {
    architecture: "MistralForCausalLM",
    max_position_embeddings: 131_072,
    key_value_heads: 8,
    biases: Biases::None,
    ..QWEN2
};

fn grouped(config: &Config<'_>, of: &Grouped) -> Result<ModelFacts, JobError> {
    let (hidden, layers, heads) =
        (config.get("hidden_size")?, config.get("num_hidden_layers")?, config.get("num_attention_heads")?);
    let or = |absent: u64, null: u64| if absent == 0 { null } else { absent };
    let divided = hidden / heads.max(1);
    let head = config.get_absent("head_dim", or(of.head_dim, divided), divided)?;
    let key_value_heads = config.get_absent("num_key_value_heads", or(of.key_value_heads, heads), heads)?;
    let (queries, keys) = (heads * head, key_value_heads * head);
    let biases = match of.biases {
        Biases::Inputs => queries + 2 * keys,
        Biases::AsConfigured if config.is("attention_bias") => queries + 2 * keys + hidden,
        _ => 0,
    };
    let attention = hidden * (2 * queries + 2 * keys) + biases + if of.norms { 2 * head } else { 0 };
    let expert_layers = if of.experts { expert_layers(config, layers)? } else { 0 };
    let mut always = layers * (attention + 2 * hidden) + ends(config, hidden)?;
    if expert_layers < layers {
        let default = if of.experts { Some(6144) } else { None };
        let intermediate = default.map_or_else(|| config.get("intermediate_size"), |n| config.get_or("intermediate_size", n))?;
        always += (layers - expert_layers) * gated_mlp(hidden, intermediate);
    }
    let (experts, chosen) =
        if expert_layers > 0 { (qwen_experts(config)?, config.get_or("num_experts_per_tok", 8)?) } else { (0, 0) };
    let expert = if expert_layers > 0 { gated_mlp(hidden, config.get_or("moe_intermediate_size", 768)?) } else { 0 };
    always += expert_layers * experts * hidden;
    Ok(ModelFacts {
        architecture: of.architecture.into(),
        scores: config.scores(),
        parameters: always + expert_layers * experts * expert,
        active_parameters: always + expert_layers * chosen.min(experts) * expert,
        vocab_size: config.get("vocab_size")?,
        max_position_embeddings: config.get_or("max_position_embeddings", of.max_position_embeddings)?,
        cache_values_per_token: layers * 2 * keys,
        prediction: None,
        linear_layers: linear_layers(config, &["q_proj", "k_proj", "v_proj", "o_proj"], expert_layers > 0),
    })
}

fn qwen_experts(config: &Config<'_>) -> Result<u64, JobError> {
    let other = config.get_or("num_experts", 128)?;
    config.get_or("num_local_experts", other)
}

/// Every `decoder_sparse_step`-th layer that `mlp_only_layers` does not list.
fn expert_layers(config: &Config<'_>, layers: u64) -> Result<u64, JobError> {
    if qwen_experts(config)? == 0 {
        return Ok(0);
    }
    let every = config.get_or("decoder_sparse_step", 1)?.max(1);
    let dense: Vec<u64> = config.0["mlp_only_layers"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    Ok((0..layers).filter(|layer| (layer + 1) % every == 0 && !dense.contains(layer)).count() as u64)
}

/// What an architecture with latent attention has where config.json does not say.
struct Latent {
    architecture: &'static str,
    max_position_embeddings: u64,
    shared_experts: u64,
    first_k_dense_replace: u64,
    moe_intermediate_size: Option<u64>,
    experts: Option<u64>,
    /// Another name of `n_routed_experts`.
    experts_alias: &'static str,
    /// It may have a multi-token prediction module.
    prediction_module: bool,
}

const DEEPSEEK_V3: Latent = Latent {
    architecture: "DeepseekV3ForCausalLM",
    max_position_embeddings: 4096,
    shared_experts: 1,
    first_k_dense_replace: 3,
    moe_intermediate_size: None,
    experts: None,
    experts_alias: "num_local_experts",
    prediction_module: true,
};
const DEEPSEEK_V2: Latent = Latent {
    architecture: "DeepseekV2ForCausalLM",
    max_position_embeddings: 2048,
    shared_experts: 2,
    first_k_dense_replace: 0,
    moe_intermediate_size: Some(1407),
    experts: Some(64),
    experts_alias: "num_experts",
    prediction_module: false,
};
const QUERY_LATENT: u64 = 1536;

fn latent(config: &Config<'_>, of: &Latent) -> Result<ModelFacts, JobError> {
    let or = |key: &str, default: Option<u64>| default.map_or_else(|| config.get(key), |n| config.get_or(key, n));
    let (hidden, layers, heads) =
        (config.get("hidden_size")?, config.get("num_hidden_layers")?, config.get("num_attention_heads")?);
    let (nope, rope, value) = (config.get("qk_nope_head_dim")?, config.get("qk_rope_head_dim")?, config.get("v_head_dim")?);
    let latent = config.get("kv_lora_rank")?;
    let bias = u64::from(config.is("attention_bias"));
    let queries = heads * (nope + rope);
    let query = match config.get_absent("q_lora_rank", QUERY_LATENT, 0)? {
        0 => hidden * queries,
        rank => hidden * rank + bias * rank + rank + rank * queries,
    };
    let key_value = hidden * (latent + rope) + bias * (latent + rope) + latent + latent * heads * (nope + value);
    let output = heads * value * hidden + bias * hidden;
    let attention = query + key_value + output + 2 * hidden;

    let experts = match config.0.get(of.experts_alias) {
        Some(_) if config.0.get("n_routed_experts").is_none() => config.get(of.experts_alias)?,
        _ => or("n_routed_experts", of.experts)?,
    };
    let intermediate = or("moe_intermediate_size", of.moe_intermediate_size)?;
    let expert = gated_mlp(hidden, intermediate);
    let shared = gated_mlp(hidden, intermediate * config.get_absent("n_shared_experts", of.shared_experts, 0)?);
    let dense_layers = config.get_or("first_k_dense_replace", of.first_k_dense_replace)?.min(layers);
    let moe_layers = layers - dense_layers;
    let always = layers * attention
        + dense_layers * gated_mlp(hidden, config.get("intermediate_size")?)
        + moe_layers * (experts * hidden + shared)
        + ends(config, hidden)?;
    // A block as the last one is, three norms, and what mixes its two inputs.
    let last =
        if moe_layers > 0 { experts * (hidden + expert) + shared } else { gated_mlp(hidden, config.get("intermediate_size")?) };
    let module = attention + last + 3 * hidden + 2 * hidden * hidden;
    let attention_layers: &[_] = match config.get_absent("q_lora_rank", QUERY_LATENT, 0)? {
        0 => &["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
        _ => &["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"],
    };
    Ok(ModelFacts {
        architecture: of.architecture.into(),
        scores: config.scores(),
        parameters: always + moe_layers * experts * expert,
        active_parameters: always + moe_layers * config.get("num_experts_per_tok")?.min(experts) * expert,
        vocab_size: config.get("vocab_size")?,
        max_position_embeddings: config.get_or("max_position_embeddings", of.max_position_embeddings)?,
        cache_values_per_token: layers * (latent + rope),
        prediction: (of.prediction_module && config.get_or("num_nextn_predict_layers", 0)? == 1)
            .then_some(PredictionFacts { parameters: module, cache_values_per_token: latent + rope }),
        linear_layers: linear_layers(config, attention_layers, moe_layers > 0),
    })
}
