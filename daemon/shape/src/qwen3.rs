//! Qwen3 (Qwen Team 2025): grouped-query attention whose queries and keys are normed head by head
//! before they rotate.

use crate::blueprint::{AttentionSizes, Blueprint};
use crate::error::Result;
use crate::fields::Fields;
use crate::gqa::{Absent, GqaSizes};
use crate::qwen2;

/// Defaults in transformers.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 32_768;
const KEY_VALUE_HEADS: i64 = 32;
const HEAD_DIM: i64 = 128;

pub(crate) fn parse(fields: &Fields) -> Result<Blueprint> {
    qwen2::refuse_sliding_windows(fields)?;
    let attention = attention(
        fields,
        Absent {
            key_value_heads: Some(KEY_VALUE_HEADS),
            head_dim: Some(HEAD_DIM),
        },
    )?;
    Ok(Blueprint::dense(
        AttentionSizes::Grouped(attention),
        fields.size("intermediate_size")?,
        fields.size("num_hidden_layers")?,
    ))
}

pub(crate) fn attention(fields: &Fields, absent: Absent) -> Result<GqaSizes> {
    let bias = fields.flag_or("attention_bias", false)?;
    let norm = Some(fields.positive_or("rms_norm_eps", 1e-6)?);
    Ok(GqaSizes {
        bias,
        output_bias: bias,
        norm_epsilon: norm,
        ..GqaSizes::parse(fields, absent)?
    })
}
