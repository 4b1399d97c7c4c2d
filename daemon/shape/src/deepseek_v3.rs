//! DeepSeek-V3 and R1 (DeepSeek-AI 2024): multi-head latent attention, dense blocks first,
//! mixture-of-experts blocks after.

use crate::blueprint::{AttentionSizes, Blueprint, ExpertSizes};
use crate::error::{Result, contradiction, unsupported};
use crate::fields::Fields;
use crate::mla::MlaSizes;
use crate::rope::RopeSpec;
use crate::router::{RouterRule, Scoring};

/// The default in transformers.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 4096;

/// Reads the fields. Absent fields have the defaults of transformers, but `null` means that the
/// model has no such part.
pub(crate) fn parse(fields: &Fields) -> Result<Blueprint> {
    fields.expect_text("scoring_func", "sigmoid")?;
    fields.expect_text("topk_method", "noaux_tc")?;
    refuse_sparse_frequency(fields)?;
    let layers = fields.size("num_hidden_layers")?;
    let intermediate = fields.size("moe_intermediate_size")?;
    let shared = fields.count_or(
        "n_shared_experts",
        if fields.is_absent("n_shared_experts") {
            1
        } else {
            0
        },
    )?;
    let experts = ExpertSizes {
        intermediate,
        shared_intermediate: shared * intermediate,
        rule: router(fields)?,
    };
    let interleave = fields.flag_unless_absent("rope_interleave")?;
    let attention = AttentionSizes::Latent(latent_attention(
        fields,
        MAX_POSITION_EMBEDDINGS,
        interleave,
    )?);
    // A number above that of the layers makes all layers dense.
    let dense = fields.count_or("first_k_dense_replace", 3)?.min(layers);
    Ok(Blueprint::dense_then_experts(
        attention,
        dense,
        fields.size("intermediate_size")?,
        layers,
        experts,
    ))
}

pub(crate) fn refuse_sparse_frequency(fields: &Fields) -> Result<()> {
    match fields.optional_size("moe_layer_freq")? {
        Some(other) if other != 1 => Err(unsupported("moe_layer_freq", other, "only 1 is")),
        _ => Ok(()),
    }
}

pub(crate) fn latent_attention(
    fields: &Fields,
    max_position_embeddings: i64,
    rope_interleave: bool,
) -> Result<MlaSizes> {
    let heads = fields.size("num_attention_heads")?;
    let key_value_heads = fields
        .optional_size("num_key_value_heads")?
        .unwrap_or(heads);
    if key_value_heads != heads {
        return Err(contradiction(format!(
            "`num_key_value_heads` is {key_value_heads}, `num_attention_heads` {heads}: latent \
             attention has as many of both"
        )));
    }
    let sizes = MlaSizes {
        hidden: fields.size("hidden_size")?,
        heads,
        q_lora_rank: if fields.is_absent("q_lora_rank") {
            Some(1536)
        } else {
            fields.optional_size("q_lora_rank")?
        },
        kv_lora_rank: fields.size("kv_lora_rank")?,
        qk_nope_head_dim: fields.size("qk_nope_head_dim")?,
        qk_rope_head_dim: fields.size("qk_rope_head_dim")?,
        v_head_dim: fields.size("v_head_dim")?,
        bias: fields.flag_or("attention_bias", false)?,
        rope_interleave,
        scale_factor: RopeSpec::parse(
            fields,
            fields.max_position_embeddings(max_position_embeddings)?,
        )?
        .attention_scale_factor(),
    };
    if sizes.qk_rope_head_dim % 2 != 0 {
        return Err(contradiction(format!(
            "`qk_rope_head_dim` is {}, expected an even number",
            sizes.qk_rope_head_dim
        )));
    }
    let given = [
        (
            "qk_head_dim",
            sizes.qk_nope_head_dim + sizes.qk_rope_head_dim,
        ),
        ("head_dim", sizes.qk_rope_head_dim),
    ];
    for (key, expected) in given {
        if fields
            .optional_size(key)?
            .is_some_and(|found| found != expected)
        {
            return Err(contradiction(format!(
                "`{key}` must be {expected} with these `qk_nope_head_dim` and `qk_rope_head_dim`"
            )));
        }
    }
    Ok(sizes)
}

/// The number of routed experts, from the first of `keys` that is present; transformers knows some
/// models by several names.
pub(crate) fn experts(fields: &Fields, keys: &[&str]) -> Result<i64> {
    let key = keys
        .iter()
        .find(|key| !fields.is_absent(key))
        .unwrap_or(&keys[0]);
    fields.size(key)
}

fn router(fields: &Fields) -> Result<RouterRule> {
    let rule = RouterRule {
        experts: experts(fields, &["n_routed_experts", "num_local_experts"])?,
        experts_per_token: fields.size("num_experts_per_tok")?,
        scoring: Scoring::Sigmoid,
        correction_bias: true,
        groups: fields
            .optional_size("n_group")?
            .unwrap_or(if fields.is_absent("n_group") { 8 } else { 1 }),
        groups_per_token: fields
            .optional_size("topk_group")?
            .unwrap_or(if fields.is_absent("topk_group") { 4 } else { 1 }),
        best_of_group: 2,
        normalise: fields.flag_unless_absent("norm_topk_prob")?,
        scaling_factor: fields.positive_or("routed_scaling_factor", 2.5)?,
    };
    rule.check("n_routed_experts", "n_group", "topk_group")?;
    Ok(rule)
}
