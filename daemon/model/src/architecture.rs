//! The list of supported architectures. One more is one more file: an [`Architecture`] that checks its own fields and builds a
//! [`Decoder`], and one line in [`REGISTERED`].

use crate::config::{Config, Fields, unsupported};
use crate::error::Result;
use crate::pass::Pass;
use crate::weights::Builder;
use crate::{deepseek_v3, qwen2};
use std::fmt::Debug;
use std::sync::Arc;
use tch::Tensor;

/// Mixture-of-experts sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MoeSizes {
    pub layers: i64,
    pub experts: i64,
    pub experts_per_token: i64,
}

/// The fields of one architecture, checked.
pub(crate) trait Architecture: Debug + Send + Sync {
    fn moe(&self) -> Option<MoeSizes>;

    /// Dimensions of a head that rotate with the position.
    fn rotary_dims(&self) -> i64;

    /// Takes the blocks' tensors from `weights`, in a fixed order; embedding, final norm and head are not its business.
    fn build(&self, config: &Config, weights: &mut Builder) -> Result<Box<dyn Decoder>>;

    /// Of each tensor that the cache keeps per layer: (heads, width) of one token. `naive` asks for whole keys and values.
    fn cached_rows(&self, naive: bool) -> Vec<(i64, i64)>;

    /// A tensor on disk that belongs to a part of the architecture that this release does not run.
    fn leaves_out(&self, config: &Config, tensor: &str) -> bool;
}

/// The blocks between the embedding and the final norm.
pub(crate) trait Decoder: Send {
    /// One block: `hidden` `[T, hidden_size]` → the same shape.
    fn block(&self, layer: usize, hidden: Tensor, pass: &mut Pass) -> Result<Tensor>;

    /// The correction biases of the routers, first MoE layer first (float32 `[E]` each).
    fn router_biases(&self) -> Vec<&Tensor>;
}

pub(crate) struct Registered {
    /// As in `architectures`.
    pub name: &'static str,
    pub model_type: &'static str,
    /// Where config.json does not say.
    pub max_position_embeddings: i64,
    pub parse: fn(&Fields) -> Result<Arc<dyn Architecture>>,
}

const REGISTERED: &[Registered] = &[
    Registered {
        name: "DeepseekV3ForCausalLM",
        model_type: "deepseek_v3",
        max_position_embeddings: deepseek_v3::MAX_POSITION_EMBEDDINGS,
        parse: deepseek_v3::parse,
    },
    Registered {
        name: "Qwen2ForCausalLM",
        model_type: "qwen2",
        max_position_embeddings: qwen2::MAX_POSITION_EMBEDDINGS,
        parse: qwen2::parse,
    },
];

/// By `architectures[0]`, or by `model_type` where that is absent.
pub(crate) fn find(fields: &Fields) -> Result<&'static Registered> {
    let named = fields.get("architectures").and_then(|list| list.get(0)).and_then(|name| name.as_str());
    let model_type = fields.text("model_type")?;
    let found = match (named, model_type) {
        (Some(name), _) => REGISTERED.iter().find(|r| r.name == name),
        (None, Some(model_type)) => REGISTERED.iter().find(|r| r.model_type == model_type),
        (None, None) => None,
    };
    let (field, value) = match (named, model_type) {
        (None, Some(model_type)) => ("model_type", format!("\"{model_type}\"")),
        (Some(name), _) => ("architectures", format!("\"{name}\"")),
        (None, None) => ("architectures", "missing".to_owned()),
    };
    found.ok_or_else(|| {
        let names: Vec<_> = REGISTERED.iter().map(|r| r.name).collect();
        unsupported(field, value, format!("supported are {}", names.join(", ")))
    })
}
