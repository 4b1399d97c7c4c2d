//! Mistral (Jiang et al. 2023): Llama's blocks; the sliding window of its first release is not
//! computed.

use crate::blueprint::{AttentionSizes, Blueprint};
use crate::error::{Result, unsupported};
use crate::fields::Fields;
use crate::gqa::{Absent, GqaSizes};

/// Defaults in transformers.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 131_072;
const KEY_VALUE_HEADS: i64 = 8;
const SLIDING_WINDOW: i64 = 4096;

pub(crate) fn parse(fields: &Fields) -> Result<Blueprint> {
    let given = fields.optional_size("sliding_window")?;
    let window = if fields.is_absent("sliding_window") {
        Some(SLIDING_WINDOW)
    } else {
        given
    };
    // A window that no sequence can outgrow has no effect.
    if let Some(window) = window.filter(|&window| {
        window
            < fields
                .max_position_embeddings(MAX_POSITION_EMBEDDINGS)
                .unwrap_or(i64::MAX)
    }) {
        let advice = format!("set it to null if sequences are shorter than {window} tokens");
        return Err(unsupported("sliding_window", window, advice));
    }
    let attention = GqaSizes::parse(
        fields,
        Absent {
            key_value_heads: Some(KEY_VALUE_HEADS),
            head_dim: None,
        },
    )?;
    Ok(Blueprint::dense(
        AttentionSizes::Grouped(attention),
        fields.size("intermediate_size")?,
        fields.size("num_hidden_layers")?,
    ))
}
