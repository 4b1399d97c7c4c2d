//! Qwen3-MoE (Qwen Team 2025): Qwen3's attention, and in all or some layers a mixture of experts
//! chosen by softmax, without shared experts.

use crate::blueprint::{AttentionSizes, Blueprint, ExpertSizes, FeedForwardSizes};
use crate::error::{Result, contradiction, unsupported};
use crate::fields::Fields;
use crate::gqa::Absent;
use crate::qwen3;
use crate::router::{RouterRule, Scoring};
use serde_json::Value;

/// Defaults in transformers.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 32_768;
const KEY_VALUE_HEADS: i64 = 4;

pub(crate) fn parse(fields: &Fields) -> Result<Blueprint> {
    // Unlike in Qwen2, the window applies to every layer.
    let window =
        fields.is_absent("sliding_window") || fields.optional_size("sliding_window")?.is_some();
    if window && fields.flag_or("use_sliding_window", false)? {
        return Err(unsupported(
            "use_sliding_window",
            "true",
            "set it to false if sequences are shorter than the window",
        ));
    }
    let attention = qwen3::attention(
        fields,
        Absent {
            key_value_heads: Some(KEY_VALUE_HEADS),
            head_dim: None,
        },
    )?;
    let layers = fields.size("num_hidden_layers")?;
    // transformers knows the field by two names and prefers this one.
    let experts = match fields.optional_count("num_local_experts")? {
        Some(experts) => experts,
        None => fields.optional_count("num_experts")?.unwrap_or(128),
    };
    let intermediate = fields.optional_size("intermediate_size")?.unwrap_or(6144);
    let dense_layers = dense_layers(fields)?;
    let every = fields.optional_size("decoder_sparse_step")?.unwrap_or(1);
    let sizes = match experts {
        0 => None,
        experts => Some(expert_sizes(fields, experts)?),
    };
    let feed_forward = |layer: i64| match sizes {
        Some(sizes) if (layer + 1) % every == 0 && !dense_layers.contains(&layer) => {
            FeedForwardSizes::Experts(sizes)
        }
        _ => FeedForwardSizes::Dense { intermediate },
    };
    Ok(Blueprint {
        attention: AttentionSizes::Grouped(attention),
        feed_forwards: (0..layers).map(feed_forward).collect(),
    })
}

fn dense_layers(fields: &Fields) -> Result<Vec<i64>> {
    let Some(value) = fields.get("mlp_only_layers") else {
        return Ok(Vec::new());
    };
    let wrong = || {
        contradiction(format!(
            "`mlp_only_layers` is {value}, expected a list of layer numbers"
        ))
    };
    let Value::Array(layers) = value else {
        return Err(wrong());
    };
    layers
        .iter()
        .map(|layer| layer.as_i64().ok_or_else(wrong))
        .collect()
}

fn expert_sizes(fields: &Fields, experts: i64) -> Result<ExpertSizes> {
    let rule = RouterRule {
        experts,
        experts_per_token: fields.optional_size("num_experts_per_tok")?.unwrap_or(8),
        scoring: Scoring::Softmax { wide: false },
        correction_bias: false,
        groups: 1,
        groups_per_token: 1,
        best_of_group: 1,
        normalise: fields.flag_or("norm_topk_prob", false)?,
        scaling_factor: 1.0,
    };
    rule.check("num_experts", "", "")?;
    Ok(ExpertSizes {
        intermediate: fields
            .optional_size("moe_intermediate_size")?
            .unwrap_or(768),
        shared_intermediate: 0,
        rule,
    })
}
