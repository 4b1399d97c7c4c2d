//! Llama 2 and 3 (Touvron et al. 2023, Grattafiori et al. 2024), and what was distilled into them:
//! grouped-query attention, from Llama 3.1 on with rotation slowed for long contexts.

use crate::blueprint::{AttentionSizes, Blueprint};
use crate::error::{Result, unsupported};
use crate::fields::Fields;
use crate::gqa::{Absent, GqaSizes};

/// The default in transformers.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 2048;

pub(crate) fn parse(fields: &Fields) -> Result<Blueprint> {
    if fields.flag_or("mlp_bias", false)? {
        return Err(unsupported("mlp_bias", "true", "only false is"));
    }
    let bias = fields.flag_or("attention_bias", false)?;
    let attention = GqaSizes {
        bias,
        output_bias: bias,
        ..GqaSizes::parse(fields, Absent::default())?
    };
    Ok(Blueprint::dense(
        AttentionSizes::Grouped(attention),
        fields.size("intermediate_size")?,
        fields.size("num_hidden_layers")?,
    ))
}
