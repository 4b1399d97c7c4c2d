//! What the plan computes with: numbers of a model's `config.json`, read by [`r1d_shape`], which
//! the worker opens models with.

use crate::error::JobError;
use r1d_shape::{AttentionSizes, Config};

/// Numbers that the plan computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelShape {
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
    /// Of a mixture of experts.
    pub routing: Option<RoutingShape>,
    /// The multi-token prediction module, where the model has one that can be run.
    pub prediction: Option<PredictionShape>,
    /// Last parts of the names of the layers that adapters can be put on.
    pub linear_layers: Vec<&'static str>,
}

/// What is recorded of each token that goes through experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingShape {
    pub layers: u64,
    /// Of a layer.
    pub experts: u64,
    /// Of those, the ones that a token goes to.
    pub per_token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictionShape {
    pub parameters: u64,
    /// As [`ModelShape::cache_values_per_token`].
    pub cache_values_per_token: u64,
}

impl ModelShape {
    /// From the text of a `config.json`; an error where the worker could not open such a model.
    pub fn from_config(config_json: &str) -> Result<ModelShape, JobError> {
        let config = Config::parse(config_json).map_err(|error| {
            let text = error.to_string();
            JobError::ModelConfig(
                text.strip_prefix("config.json: ")
                    .unwrap_or(&text)
                    .to_owned(),
            )
        })?;
        Ok(ModelShape::of(&config))
    }

    pub fn of(config: &Config) -> ModelShape {
        let summary = config.summary();
        let cached = config.cache_values_per_token();
        // Its own size is what it adds.
        let prediction = config
            .clone()
            .with_prediction()
            .ok()
            .map(|with| PredictionShape {
                parameters: with.summary().parameters - summary.parameters,
                cache_values_per_token: with.cache_values_per_token() - cached,
            });
        let routing = (config.moe_layers > 0).then_some(RoutingShape {
            layers: config.moe_layers as u64,
            experts: config.experts as u64,
            per_token: config.experts_per_token as u64,
        });
        ModelShape {
            architecture: summary.architecture,
            parameters: summary.parameters,
            scores: config.scores,
            active_parameters: summary.active_parameters,
            vocab_size: config.vocab_size as u64,
            max_position_embeddings: config.max_position_embeddings as u64,
            cache_values_per_token: cached,
            routing,
            prediction,
            linear_layers: linear_layers(config),
        }
    }
}

/// Attention's layers, the feed-forward ones where no layer has experts, and the head where it is
/// not the embedding.
fn linear_layers(config: &Config) -> Vec<&'static str> {
    let mut names = match &config.blueprint.attention {
        AttentionSizes::Grouped(_) => vec!["q_proj", "k_proj", "v_proj", "o_proj"],
        AttentionSizes::Latent(sizes) if sizes.q_lora_rank.is_none() => {
            vec!["q_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]
        }
        AttentionSizes::Latent(_) => vec![
            "q_a_proj",
            "q_b_proj",
            "kv_a_proj_with_mqa",
            "kv_b_proj",
            "o_proj",
        ],
    };
    if config.moe_layers == 0 {
        names.extend(["gate_proj", "up_proj", "down_proj"]);
    }
    if !config.tie_word_embeddings && !config.scores {
        names.push("lm_head");
    }
    names
}
