//! Qwen2 and Qwen2.5 (Yang et al. 2024), and what was distilled into them: grouped-query attention
//! with biases on queries, keys and values.

use crate::blueprint::{AttentionSizes, Blueprint};
use crate::error::{Result, contradiction, unsupported};
use crate::fields::Fields;
use crate::gqa::{Absent, GqaSizes};
use serde_json::Value;

/// Defaults in transformers.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 32_768;
const SLIDING_WINDOW: i64 = 4096;
const MAX_WINDOW_LAYERS: i64 = 28;

pub(crate) fn parse(fields: &Fields) -> Result<Blueprint> {
    refuse_sliding_windows(fields)?;
    let attention = GqaSizes {
        bias: true,
        ..GqaSizes::parse(fields, Absent::default())?
    };
    Ok(Blueprint::dense(
        AttentionSizes::Grouped(attention),
        fields.size("intermediate_size")?,
        fields.size("num_hidden_layers")?,
    ))
}

/// Refuses sliding windows that have an effect. `use_sliding_window` applies from layer
/// `max_window_layers` on; `layer_types` has the same layer by layer.
pub(crate) fn refuse_sliding_windows(fields: &Fields) -> Result<()> {
    let sliding = match fields.get("layer_types") {
        Some(Value::Array(types)) => {
            return match types.iter().find(|t| *t != "full_attention") {
                Some(other) => Err(unsupported(
                    "layer_types",
                    other,
                    "\"full_attention\" in every layer is (sliding_window is not computed)",
                )),
                None => Ok(()),
            };
        }
        Some(other) => {
            return Err(contradiction(format!(
                "`layer_types` is {other}, expected a list"
            )));
        }
        None => {
            fields.flag_or("use_sliding_window", false)?
                && (fields.is_absent("sliding_window")
                    || fields.optional_size("sliding_window")?.is_some())
                && fields.count_or("max_window_layers", MAX_WINDOW_LAYERS)?
                    < fields.size("num_hidden_layers")?
        }
    };
    let window = fields
        .optional_size("sliding_window")?
        .unwrap_or(SLIDING_WINDOW);
    if sliding {
        let advice =
            format!("set it to false if sequences are shorter than the window of {window} tokens");
        return Err(unsupported("use_sliding_window", "true", advice));
    }
    Ok(())
}
