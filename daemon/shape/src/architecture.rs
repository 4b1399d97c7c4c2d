//! The list of supported architectures. To add one, write a file that reads its fields into a
//! [`Blueprint`], and a line in [`REGISTERED`].

use crate::config::{Fields, unsupported};
use crate::error::Result;
use crate::gqa::GqaSizes;
use crate::mla::MlaSizes;
use crate::router::RouterRule;
use crate::{deepseek_v2, deepseek_v3, llama, mistral, qwen2, qwen3, qwen3_moe};

/// The parts of a model's blocks: the fields of its config.json, checked. Every block is
///
/// h += Attention(RMSNorm(h)); h += FeedForward(RMSNorm(h)).
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Sizes of the attention, the same in every layer.
    pub attention: AttentionSizes,
    /// Sizes of each layer's feed-forward part, in the order of the layers.
    pub feed_forwards: Vec<FeedForwardSizes>,
}

/// Sizes of attention, by its kind.
#[derive(Clone, Debug)]
pub enum AttentionSizes {
    /// Grouped-query attention, with keys and values per head.
    Grouped(GqaSizes),
    /// Multi-head latent attention, with a compressed cache.
    Latent(MlaSizes),
}

/// Sizes of a layer's feed-forward part, by its kind.
#[derive(Clone, Debug)]
pub enum FeedForwardSizes {
    /// One gated network for all tokens.
    Dense {
        /// Width between its projections.
        intermediate: i64,
    },
    /// A mixture of experts.
    Experts(ExpertSizes),
}

/// Mixture-of-experts sizes.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSizes {
    /// Width of one routed expert.
    pub intermediate: i64,
    /// Width of all shared experts together; 0 if there are none.
    pub shared_intermediate: i64,
    /// How each token's experts are chosen.
    pub rule: RouterRule,
}

impl Blueprint {
    /// Makes a blueprint whose first `dense` layers are dense and whose other layers have experts.
    pub fn dense_then_experts(
        attention: AttentionSizes,
        dense: i64,
        intermediate: i64,
        layers: i64,
        experts: ExpertSizes,
    ) -> Blueprint {
        let feed_forward = |layer| {
            if layer < dense {
                FeedForwardSizes::Dense { intermediate }
            } else {
                FeedForwardSizes::Experts(experts)
            }
        };
        Blueprint {
            attention,
            feed_forwards: (0..layers).map(feed_forward).collect(),
        }
    }

    /// Makes a blueprint of dense layers only.
    pub fn dense(attention: AttentionSizes, intermediate: i64, layers: i64) -> Blueprint {
        Blueprint {
            attention,
            feed_forwards: vec![FeedForwardSizes::Dense { intermediate }; layers as usize],
        }
    }

    /// The sizes of the layers with routed experts, from the first to the last.
    pub fn expert_layers(&self) -> impl Iterator<Item = &ExpertSizes> {
        self.feed_forwards.iter().filter_map(|sizes| match sizes {
            FeedForwardSizes::Experts(sizes) => Some(sizes),
            FeedForwardSizes::Dense { .. } => None,
        })
    }

    /// Dimensions of a head that rotate with the position.
    pub fn rotary_dims(&self) -> i64 {
        match &self.attention {
            AttentionSizes::Grouped(sizes) => sizes.head_dim,
            AttentionSizes::Latent(sizes) => sizes.qk_rope_head_dim,
        }
    }

    /// The tensors that the cache keeps per layer, each as (heads, width) of one token. `naive`
    /// asks latent attention for whole keys and values instead of its latent.
    pub fn cached_rows(&self, naive: bool) -> Vec<(i64, i64)> {
        match &self.attention {
            AttentionSizes::Grouped(sizes) => sizes.cached_rows(),
            AttentionSizes::Latent(sizes) => sizes.cached_rows(naive),
        }
    }
}

/// An architecture that can be run.
pub struct Registered {
    /// Its class, as `architectures` of config.json has it.
    pub name: &'static str,
    /// Its `model_type`, which identifies it if config.json has no `architectures`.
    pub model_type: &'static str,
    /// The number of positions if config.json has no `max_position_embeddings`.
    pub max_position_embeddings: i64,
    /// Reads the architecture's own fields of config.json.
    pub parse: fn(&Fields) -> Result<Blueprint>,
    /// Released checkpoints may carry multi-token prediction modules behind the last layer.
    pub prediction_modules: bool,
}

macro_rules! registered {
    ($module:ident, $name:literal, $model_type:literal, $prediction_modules:literal) => {
        Registered {
            name: $name,
            model_type: $model_type,
            max_position_embeddings: $module::MAX_POSITION_EMBEDDINGS,
            parse: $module::parse,
            prediction_modules: $prediction_modules,
        }
    };
}

const REGISTERED: &[Registered] = &[
    registered!(deepseek_v3, "DeepseekV3ForCausalLM", "deepseek_v3", true),
    registered!(deepseek_v2, "DeepseekV2ForCausalLM", "deepseek_v2", false),
    registered!(qwen2, "Qwen2ForCausalLM", "qwen2", false),
    registered!(qwen3, "Qwen3ForCausalLM", "qwen3", false),
    registered!(qwen3_moe, "Qwen3MoeForCausalLM", "qwen3_moe", false),
    registered!(llama, "LlamaForCausalLM", "llama", false),
    registered!(mistral, "MistralForCausalLM", "mistral", false),
];

/// The end of an architecture's class name in transformers, with an output head.
const GENERATES: &str = "ForCausalLM";
/// The same end with a scalar head.
const SCORES: &str = "ForSequenceClassification";

/// The name of the class with a scalar head, given the name of the class with an output head.
pub fn scoring(name: &str) -> String {
    name.replace(GENERATES, SCORES)
}

/// Finds an architecture by `architectures[0]`, or by `model_type` if that is absent. The flag is
/// true for the class with a scalar head.
pub fn find(fields: &Fields) -> Result<(&'static Registered, bool)> {
    let named = fields
        .get("architectures")
        .and_then(|list| list.get(0))
        .and_then(|name| name.as_str());
    let model_type = fields.text("model_type")?;
    let scores = named.is_some_and(|name| name.ends_with(SCORES));
    let found = match (named, model_type) {
        (Some(name), _) => REGISTERED
            .iter()
            .find(|r| r.name == name || (scores && scoring(r.name) == name)),
        (None, Some(model_type)) => REGISTERED.iter().find(|r| r.model_type == model_type),
        (None, None) => None,
    };
    let (field, value) = match (named, model_type) {
        (None, Some(model_type)) => ("model_type", format!("\"{model_type}\"")),
        (Some(name), _) => ("architectures", format!("\"{name}\"")),
        (None, None) => ("architectures", "missing".to_owned()),
    };
    let found = found.ok_or_else(|| {
        let names: Vec<_> = REGISTERED.iter().map(|r| r.name).collect();
        unsupported(
            field,
            value,
            format!(
                "supported are {}, and each with {SCORES} and one label",
                names.join(", ")
            ),
        )
    });
    Ok((found?, scores))
}
