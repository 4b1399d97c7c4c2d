//! The numbers of a model's `config.json` that the plan computes with. They are read by
//! [`r1d_shape`], which the worker opens models with too.

use crate::error::JobError;
use r1d_shape::{Activations, AttentionSizes, Config, FeedForwardSizes};

/// Name of the output head.
const HEAD: &str = "lm_head";
/// Names of the feed-forward layers: in a model with experts, of theirs.
const FEED_FORWARD: [&str; 3] = ["gate_proj", "up_proj", "down_proj"];

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
    /// Number of values of their own.
    pub weight_values: u64,
    /// Name of the matrix in memory that they are part of.
    pub fused: &'static str,
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
        let chosen = self.adapted(targets);
        u64::from(rank) * chosen.map(|layers| layers.adapter_values).sum::<u64>()
    }

    /// Number of values of the matrices in memory of which adapters on `targets` adapt a part.
    pub fn adapted_values(&self, targets: &[String]) -> u64 {
        let chosen: Vec<&str> = self.adapted(targets).map(|layers| layers.fused).collect();
        let matrices = self.linear_layers.iter();
        let adapted = matrices.filter(|layers| chosen.contains(&layers.fused));
        adapted.map(|layers| layers.weight_values).sum()
    }

    /// Number of values of all linear layers but the head.
    pub fn layer_values(&self) -> u64 {
        let layers = self.linear_layers.iter();
        let of_blocks = layers.filter(|layers| layers.name != HEAD);
        of_blocks.map(|layers| layers.weight_values).sum()
    }

    /// Number of values of all routed experts, which a layout cuts into shards.
    pub fn expert_values(&self) -> u64 {
        let of_experts = |layers: &&LinearLayers| FEED_FORWARD.contains(&layers.name);
        let layers = self.linear_layers.iter().filter(of_experts);
        match self.routing {
            Some(_) => layers.map(|layers| layers.weight_values).sum(),
            None => 0,
        }
    }

    /// The layers that `targets` mean.
    fn adapted<'a>(&'a self, targets: &'a [String]) -> impl Iterator<Item = &'a LinearLayers> {
        let means = |layers: &LinearLayers, target: &String| {
            let last = target.rsplit('.').next().unwrap_or_default();
            last == layers.name || (target == "all-linear" && layers.by_default)
        };
        let is_chosen =
            move |layers: &&LinearLayers| targets.iter().any(|target| means(layers, target));
        self.linear_layers.iter().filter(is_chosen)
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
    let layers = |(name, fused, [input, output]): Linear, count: i64, by_default| LinearLayers {
        name,
        adapter_values: (count * (input + output)) as u64,
        weight_values: (count * input * output) as u64,
        fused,
        by_default,
    };
    let of_attention = attention_layers(config).into_iter();
    let mut all: Vec<LinearLayers> = of_attention
        .map(|linear| layers(linear, config.num_hidden_layers, true))
        .collect();
    let (count, inner) = feed_forward_layers(config);
    let (up, down) = ([config.hidden_size, inner], [inner, config.hidden_size]);
    for linear in [
        ("gate_proj", "gate_up", up),
        ("up_proj", "gate_up", up),
        ("down_proj", "down", down),
    ] {
        all.push(layers(linear, count, config.moe_layers == 0));
    }
    if !config.tie_word_embeddings && !config.scores {
        let head = (HEAD, HEAD, [config.hidden_size, config.vocab_size]);
        all.push(layers(head, 1, false));
    }
    all
}

/// A linear layer: its name, that of the matrix in memory that it is part of, and the widths of its
/// input and output.
type Linear = (&'static str, &'static str, [i64; 2]);

/// Attention's layers.
fn attention_layers(config: &Config) -> Vec<Linear> {
    let hidden = config.hidden_size;
    match &config.blueprint.attention {
        AttentionSizes::Grouped(sizes) => {
            let queries = sizes.heads * sizes.head_dim;
            let keys = sizes.key_value_heads * sizes.head_dim;
            vec![
                ("q_proj", "qkv_proj", [hidden, queries]),
                ("k_proj", "qkv_proj", [hidden, keys]),
                ("v_proj", "qkv_proj", [hidden, keys]),
                ("o_proj", "o_proj", [queries, hidden]),
            ]
        }
        AttentionSizes::Latent(sizes) => {
            let (latent, queries) = (sizes.kv_lora_rank, sizes.heads * sizes.query_head_dim());
            let values = sizes.heads * sizes.v_head_dim;
            let keys = sizes.heads * sizes.qk_nope_head_dim;
            let mut all = match sizes.q_lora_rank {
                None => vec![("q_proj", "a_proj", [hidden, queries])],
                Some(rank) => vec![
                    ("q_a_proj", "a_proj", [hidden, rank]),
                    ("q_b_proj", "q_b_proj", [rank, queries]),
                ],
            };
            let compressed = latent + sizes.qk_rope_head_dim;
            all.extend([
                ("kv_a_proj_with_mqa", "a_proj", [hidden, compressed]),
                ("kv_b_proj", "kv_b_proj", [latent, keys + values]),
                ("o_proj", "o_proj", [values, hidden]),
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
