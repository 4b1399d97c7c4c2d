//! The list of supported architectures. To add one, write a file that reads its fields into a
//! [`Blueprint`], and a line in [`REGISTERED`].

use crate::blueprint::Blueprint;
use crate::error::{Result, unsupported};
use crate::fields::Fields;
use crate::{deepseek_v2, deepseek_v3, llama, mistral, qwen2, qwen3, qwen3_moe};

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
