//! The numbers of a model's `config.json` that the plan computes with. They are read by
//! [`r1d_shape`], which the worker opens models with too.

use crate::error::JobError;
use r1d_shape::{Activations, AttentionSizes, Config};

/// The numbers of a model that the plan computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Architecture as `config.json` names it, for example `DeepseekV3ForCausalLM`.
    pub architecture: String,
    /// Number of parameters, without the multi-token prediction module.
    pub parameters: u64,
    /// Whether it has a scalar head: `architectures` names a …ForSequenceClassification.
    pub scores: bool,
    /// Number of parameters that one token meets.
    pub active_parameters: u64,
    /// Number of ids that the head gives logits for.
    pub vocab_size: u64,
    /// Number of tokens that positions reach to.
    pub max_position_embeddings: u64,
    /// Number of values (not bytes) that the sampler's cache keeps per token.
    pub cache_values_per_token: u64,
    /// Numbers of values (not bytes) that training keeps of each token.
    pub activations: Activations,
    /// Size of the expert layers; `None` for dense models.
    pub routing: Option<RoutingShape>,
    /// The multi-token prediction module; `None` if the model has none that can be run.
    pub prediction: Option<PredictionShape>,
    /// Names, without their paths, of the layers that adapters can be put on.
    pub linear_layers: Vec<&'static str>,
}

/// Size of what is recorded of each token that goes through experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingShape {
    /// Number of layers with experts.
    pub layers: u64,
    /// Number of experts in one layer.
    pub experts: u64,
    /// Number of experts in one layer that a token goes to.
    pub per_token: u64,
}

/// Size of the multi-token prediction module, on top of the model's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PredictionShape {
    /// Number of parameters that it adds.
    pub parameters: u64,
    /// Number of values (not bytes) that its cache adds per token.
    pub cache_values_per_token: u64,
}

impl ModelShape {
    /// Reads the text of a `config.json`. An error means that the worker could not open such a
    /// model either.
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

    /// The numbers of a model whose `config.json` is already read.
    pub fn of(config: &Config) -> ModelShape {
        let summary = config.summary();
        let cached = config.cache_values_per_token();
        // The module's size is the difference that opening it makes.
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
            activations: config.activations(),
            routing,
            prediction,
            linear_layers: linear_layers(config),
        }
    }
}

/// Names of attention's layers, of the feed-forward ones if no layer has experts, and of the head
/// if it is not tied to the embedding.
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
