//! The numbers of a model's `config.json` that the plan computes with. They are read by
//! [`r1d_shape`], which the worker opens models with too.

use crate::error::JobError;
use r1d_shape::{Activations, AttentionSizes, Config, FeedForwardSizes};

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
    pub linear_layers: Vec<LinearLayers>,
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

/// The linear layers of one name, in all blocks and experts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearLayers {
    /// Their name, without their paths.
    pub name: &'static str,
    /// Number of values that adapters of rank 1 on all of them have.
    pub adapter_values: u64,
    /// Whether "all-linear" means them too.
    pub by_default: bool,
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
    /// Number of values of adapters of rank `rank` on the layers that `targets` mean, by the last
    /// parts of their names.
    pub fn adapter_values(&self, rank: u32, targets: &[String]) -> u64 {
        let means = |layers: &LinearLayers, target: &String| {
            let last = target.rsplit('.').next().unwrap_or_default();
            last == layers.name || (target == "all-linear" && layers.by_default)
        };
        let chosen = self
            .linear_layers
            .iter()
            .filter(|layers| targets.iter().any(|target| means(layers, target)));
        u64::from(rank) * chosen.map(|layers| layers.adapter_values).sum::<u64>()
    }

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

/// The layers of attention, of experts or else of the dense feed-forward parts, and the head if it
/// is not tied to the embedding.
fn linear_layers(config: &Config) -> Vec<LinearLayers> {
    let layers = |name, count: i64, widths: i64, by_default| LinearLayers {
        name,
        adapter_values: (count * widths) as u64,
        by_default,
    };
    let mut all: Vec<LinearLayers> = attention_widths(config)
        .into_iter()
        .map(|(name, widths)| layers(name, config.num_hidden_layers, widths, true))
        .collect();
    let (count, inner) = feed_forward_layers(config);
    for name in ["gate_proj", "up_proj", "down_proj"] {
        let widths = config.hidden_size + inner;
        all.push(layers(name, count, widths, config.moe_layers == 0));
    }
    if !config.tie_word_embeddings && !config.scores {
        let widths = config.hidden_size + config.vocab_size;
        all.push(layers("lm_head", 1, widths, false));
    }
    all
}

/// Attention's layers, each with the sum of its input's and output's width.
fn attention_widths(config: &Config) -> Vec<(&'static str, i64)> {
    let hidden = config.hidden_size;
    match &config.blueprint.attention {
        AttentionSizes::Grouped(sizes) => {
            let queries = hidden + sizes.heads * sizes.head_dim;
            let keys = hidden + sizes.key_value_heads * sizes.head_dim;
            vec![
                ("q_proj", queries),
                ("k_proj", keys),
                ("v_proj", keys),
                ("o_proj", queries),
            ]
        }
        AttentionSizes::Latent(sizes) => {
            let (latent, queries) = (sizes.kv_lora_rank, sizes.heads * sizes.query_head_dim());
            let values = sizes.heads * sizes.v_head_dim;
            let keys = sizes.heads * sizes.qk_nope_head_dim;
            let mut all = match sizes.q_lora_rank {
                None => vec![("q_proj", hidden + queries)],
                Some(rank) => vec![("q_a_proj", hidden + rank), ("q_b_proj", rank + queries)],
            };
            all.extend([
                (
                    "kv_a_proj_with_mqa",
                    hidden + latent + sizes.qk_rope_head_dim,
                ),
                ("kv_b_proj", latent + keys + values),
                ("o_proj", values + hidden),
            ]);
            all
        }
    }
}

/// The number of feed-forward parts that adapters can be put on, and their inner width: those of
/// experts if there are some.
fn feed_forward_layers(config: &Config) -> (i64, i64) {
    let sizes = config.blueprint.feed_forwards.iter();
    let experts = sizes.clone().find_map(|sizes| match sizes {
        FeedForwardSizes::Experts(sizes) => Some(sizes.intermediate),
        FeedForwardSizes::Dense { .. } => None,
    });
    let mut dense = sizes.filter_map(|sizes| match sizes {
        FeedForwardSizes::Dense { intermediate } => Some(*intermediate),
        FeedForwardSizes::Experts(_) => None,
    });
    match experts {
        Some(intermediate) => (config.moe_layers * config.experts, intermediate),
        None => (config.num_hidden_layers, dense.next().unwrap_or(0)),
    }
}
