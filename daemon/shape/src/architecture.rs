//! The list of supported architectures. One more is one more file, which reads its fields into a
//! [`Blueprint`], and one line in [`REGISTERED`].

use crate::config::{Fields, unsupported};
use crate::error::Result;
use crate::gqa::GqaSizes;
use crate::mla::MlaSizes;
use crate::router::RouterRule;
use crate::{deepseek_v2, deepseek_v3, llama, mistral, qwen2, qwen3, qwen3_moe};

/// What a model's blocks are made of: the fields of its config.json, checked. Every block is
///
/// h += Attention(RMSNorm(h)); h += FeedForward(RMSNorm(h)).
#[derive(Clone, Debug)]
pub struct Blueprint {
    pub attention: AttentionSizes,
    /// Of each layer.
    pub feed_forwards: Vec<FeedForwardSizes>,
}

#[derive(Clone, Debug)]
pub enum AttentionSizes {
    Grouped(GqaSizes),
    Latent(MlaSizes),
}

#[derive(Clone, Debug)]
pub enum FeedForwardSizes {
    Dense { intermediate: i64 },
    Experts(ExpertSizes),
}

/// Mixture-of-experts sizes.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSizes {
    /// Of one routed expert.
    pub intermediate: i64,
    /// Of all shared experts together; 0: there are none.
    pub shared_intermediate: i64,
    pub rule: RouterRule,
}

impl Blueprint {
    /// Dense layers first, experts behind them.
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

    pub fn dense(attention: AttentionSizes, intermediate: i64, layers: i64) -> Blueprint {
        Blueprint {
            attention,
            feed_forwards: vec![FeedForwardSizes::Dense { intermediate }; layers as usize],
        }
    }

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

    /// Of each tensor that the cache keeps per layer: (heads, width) of one token. `naive` asks for
    /// whole keys and values.
    pub fn cached_rows(&self, naive: bool) -> Vec<(i64, i64)> {
        match &self.attention {
            AttentionSizes::Grouped(sizes) => sizes.cached_rows(),
            AttentionSizes::Latent(sizes) => sizes.cached_rows(naive),
        }
    }
}

pub struct Registered {
    /// As in `architectures`.
    pub name: &'static str,
    pub model_type: &'static str,
    /// Where config.json does not say.
    pub max_position_embeddings: i64,
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

/// What transformers calls the class of an architecture with another head.
const GENERATES: &str = "ForCausalLM";
const SCORES: &str = "ForSequenceClassification";

/// The class with a scalar head, of one with an output head.
pub fn scoring(name: &str) -> String {
    name.replace(GENERATES, SCORES)
}

/// By `architectures[0]`, or by `model_type` where that is absent; and whether it is the class with
/// a scalar head.
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
