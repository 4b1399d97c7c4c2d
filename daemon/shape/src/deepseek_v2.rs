//! DeepSeek-V2 and V2-Lite (DeepSeek-AI 2024): multi-head latent attention, dense blocks first,
//! then experts chosen by softmax, in the larger model within the best of their groups
//! ("device-limited routing", 2.2.2).

use crate::blueprint::{AttentionSizes, Blueprint, ExpertSizes};
use crate::deepseek_v3::{experts, latent_attention, refuse_sparse_frequency};
use crate::error::{Result, unsupported};
use crate::fields::Fields;
use crate::router::{RouterRule, Scoring};

/// The default in transformers.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 2048;

pub(crate) fn parse(fields: &Fields) -> Result<Blueprint> {
    fields.expect_text("scoring_func", "softmax")?;
    refuse_sparse_frequency(fields)?;
    if fields.flag_or("mlp_bias", false)? {
        return Err(unsupported("mlp_bias", "true", "only false is"));
    }
    let layers = fields.size("num_hidden_layers")?;
    let intermediate = fields
        .optional_size("moe_intermediate_size")?
        .unwrap_or(1407);
    let shared = fields.count_or(
        "n_shared_experts",
        if fields.is_absent("n_shared_experts") {
            2
        } else {
            0
        },
    )?;
    let sizes = ExpertSizes {
        intermediate,
        shared_intermediate: shared * intermediate,
        rule: router(fields)?,
    };
    let attention =
        AttentionSizes::Latent(latent_attention(fields, MAX_POSITION_EMBEDDINGS, true)?);
    let dense = fields.count_or("first_k_dense_replace", 0)?.min(layers);
    Ok(Blueprint::dense_then_experts(
        attention,
        dense,
        fields.size("intermediate_size")?,
        layers,
        sizes,
    ))
}

/// Reads the router. Gates are scores times the scaling factor. `norm_topk_prob` is ignored, as in
/// transformers; the published models have false.
fn router(fields: &Fields) -> Result<RouterRule> {
    let (groups, groups_per_token) = match fields.text("topk_method")?.unwrap_or("greedy") {
        "greedy" => (1, 1),
        "group_limited_greedy" => (fields.size("n_group")?, fields.size("topk_group")?),
        other => {
            return Err(unsupported(
                "topk_method",
                format!("\"{other}\""),
                "supported are \"greedy\" and \"group_limited_greedy\"",
            ));
        }
    };
    let rule = RouterRule {
        experts: if fields.is_absent("n_routed_experts") && fields.is_absent("num_experts") {
            64
        } else {
            experts(fields, &["n_routed_experts", "num_experts"])?
        },
        experts_per_token: fields.size("num_experts_per_tok")?,
        scoring: Scoring::Softmax { wide: true },
        correction_bias: false,
        groups,
        groups_per_token,
        best_of_group: 1,
        normalise: false,
        scaling_factor: fields.positive_or("routed_scaling_factor", 1.0)?,
    };
    rule.check("n_routed_experts", "n_group", "topk_group")?;
    Ok(rule)
}
