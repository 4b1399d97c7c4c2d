//! DeepSeek-V3 and R1 (DeepSeek-AI 2024): multi-head latent attention, dense blocks first, mixture-of-experts blocks after.
//!
//! h += MLA(RMSNorm(h)); h += FFN(RMSNorm(h)), FFN a SwiGLU below `first_k_dense_replace` and a mixture of experts from there on.

use crate::architecture::{Architecture, Decoder, MoeSizes};
use crate::config::{Config, Fields, contradiction, unsupported};
use crate::error::Result;
use crate::mla::{Mla, MlaSizes};
use crate::moe::Moe;
use crate::pass::Pass;
use crate::rms_norm::RmsNorm;
use crate::rope::RopeSpec;
use crate::router::RouterRule;
use crate::swiglu::SwiGlu;
use crate::weights::Builder;
use std::sync::Arc;
use tch::Tensor;

#[derive(Debug)]
struct DeepseekV3 {
    attention: MlaSizes,
    router: RouterRule,
    intermediate_size: i64,
    moe_intermediate_size: i64,
    shared_experts: i64,
    first_k_dense_replace: i64,
    layers: i64,
}

/// transformers' default.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 4096;

/// Absent fields have transformers' defaults; `null` is something else: no such part.
pub(crate) fn parse(fields: &Fields) -> Result<Arc<dyn Architecture>> {
    fields.expect_text("scoring_func", "sigmoid")?;
    fields.expect_text("topk_method", "noaux_tc")?;
    if fields.optional_size("moe_layer_freq")?.is_some_and(|n| n != 1) {
        return Err(unsupported("moe_layer_freq", "not 1", "only 1 is"));
    }
    let layers = fields.size("num_hidden_layers")?;
    // Above the number of layers all are dense.
    let first_k_dense_replace = fields.count_or("first_k_dense_replace", 3)?.min(layers);
    Ok(Arc::new(DeepseekV3 {
        attention: attention(fields)?,
        router: router(fields)?,
        intermediate_size: fields.size("intermediate_size")?,
        moe_intermediate_size: fields.size("moe_intermediate_size")?,
        shared_experts: fields.count_or("n_shared_experts", if fields.is_absent("n_shared_experts") { 1 } else { 0 })?,
        first_k_dense_replace,
        layers,
    }))
}

fn attention(fields: &Fields) -> Result<MlaSizes> {
    let heads = fields.size("num_attention_heads")?;
    let key_value_heads = fields.optional_size("num_key_value_heads")?.unwrap_or(heads);
    if key_value_heads != heads {
        return Err(contradiction(format!(
            "`num_key_value_heads` is {key_value_heads}, `num_attention_heads` {heads}: latent attention has as many of both"
        )));
    }
    let sizes = MlaSizes {
        hidden: fields.size("hidden_size")?,
        heads,
        q_lora_rank: if fields.is_absent("q_lora_rank") { Some(1536) } else { fields.optional_size("q_lora_rank")? },
        kv_lora_rank: fields.size("kv_lora_rank")?,
        qk_nope_head_dim: fields.size("qk_nope_head_dim")?,
        qk_rope_head_dim: fields.size("qk_rope_head_dim")?,
        v_head_dim: fields.size("v_head_dim")?,
        bias: fields.flag_or("attention_bias", false)?,
        rope_interleave: fields.flag_or("rope_interleave", true)?,
        scale_factor: RopeSpec::parse(fields, fields.max_position_embeddings(MAX_POSITION_EMBEDDINGS)?)?.attention_scale_factor(),
    };
    if sizes.qk_rope_head_dim % 2 != 0 {
        return Err(contradiction(format!("`qk_rope_head_dim` is {}, expected an even number", sizes.qk_rope_head_dim)));
    }
    for (key, expected) in [("qk_head_dim", sizes.qk_nope_head_dim + sizes.qk_rope_head_dim), ("head_dim", sizes.qk_rope_head_dim)]
    {
        if fields.optional_size(key)?.is_some_and(|found| found != expected) {
            return Err(contradiction(format!("`{key}` must be {expected} with these `qk_nope_head_dim` and `qk_rope_head_dim`")));
        }
    }
    Ok(sizes)
}

fn router(fields: &Fields) -> Result<RouterRule> {
    let rule = RouterRule {
        experts: fields.size("n_routed_experts")?,
        experts_per_token: fields.size("num_experts_per_tok")?,
        groups: fields.optional_size("n_group")?.unwrap_or(if fields.is_absent("n_group") { 8 } else { 1 }),
        groups_per_token: fields.optional_size("topk_group")?.unwrap_or(if fields.is_absent("topk_group") { 4 } else { 1 }),
        normalise: fields.flag_or("norm_topk_prob", true)?,
        scaling_factor: fields.positive_or("routed_scaling_factor", 2.5)?,
    };
    let RouterRule { experts, experts_per_token, groups, groups_per_token, .. } = rule;
    if experts % groups != 0 {
        return Err(contradiction(format!("`n_group` {groups} does not divide `n_routed_experts` {experts}")));
    }
    if groups_per_token > groups {
        return Err(contradiction(format!("`topk_group` {groups_per_token} is above `n_group` {groups}")));
    }
    if groups_per_token < groups && experts / groups < 2 {
        return Err(contradiction(format!("`n_group` {groups} leaves groups of one expert: a group is scored by its best two")));
    }
    let reachable = groups_per_token * (experts / groups);
    if experts_per_token > reachable {
        return Err(contradiction(format!(
            "`num_experts_per_tok` {experts_per_token} is above the {reachable} experts of `topk_group` {groups_per_token} groups"
        )));
    }
    Ok(rule)
}

impl Architecture for DeepseekV3 {
    fn moe(&self) -> Option<MoeSizes> {
        let layers = self.layers - self.first_k_dense_replace;
        (layers > 0).then_some(MoeSizes { layers, experts: self.router.experts, experts_per_token: self.router.experts_per_token })
    }

    fn rotary_dims(&self) -> i64 {
        self.attention.qk_rope_head_dim
    }

    fn build(&self, config: &Config, weights: &mut Builder) -> Result<Box<dyn Decoder>> {
        let hidden = config.hidden_size;
        let norm = |weights: &mut Builder, name: String| RmsNorm::build(weights, &name, hidden, config.rms_norm_eps);
        let blocks = (0..self.layers).map(|layer| {
            let prefix = format!("model.layers.{layer}.");
            let mlp = format!("{prefix}mlp.");
            Ok(Block {
                input_layernorm: norm(weights, format!("{prefix}input_layernorm"))?,
                self_attn: Mla::build(weights, &format!("{prefix}self_attn."), &self.attention)?,
                post_attention_layernorm: norm(weights, format!("{prefix}post_attention_layernorm"))?,
                mlp: if layer < self.first_k_dense_replace {
                    FeedForward::Dense(SwiGlu::build(weights, &mlp, hidden, self.intermediate_size)?)
                } else {
                    let shared = self.shared_experts * self.moe_intermediate_size;
                    FeedForward::Moe(Moe::build(weights, &mlp, hidden, self.moe_intermediate_size, shared, self.router)?)
                },
            })
        });
        Ok(Box::new(Blocks(blocks.collect::<Result<_>>()?)))
    }

    fn cached_rows(&self, naive: bool) -> Vec<(i64, i64)> {
        self.attention.cached_rows(naive)
    }

    /// The multi-token prediction modules stand behind the last layer.
    fn leaves_out(&self, config: &Config, tensor: &str) -> bool {
        let layer = tensor.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next());
        layer.and_then(|n| n.parse::<i64>().ok()).is_some_and(|n| n >= config.num_hidden_layers)
    }
}

struct Block {
    input_layernorm: RmsNorm,
    self_attn: Mla,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

enum FeedForward {
    Dense(SwiGlu),
    Moe(Moe),
}

struct Blocks(Vec<Block>);

impl Decoder for Blocks {
    fn block(&self, layer: usize, hidden: Tensor, pass: &mut Pass) -> Result<Tensor> {
        let block = &self.0[layer];
        let hidden = hidden.f_add(&block.self_attn.forward(&block.input_layernorm.forward(&hidden)?, layer, pass)?)?;
        let normed = block.post_attention_layernorm.forward(&hidden)?;
        Ok(hidden.f_add(&match &block.mlp {
            FeedForward::Dense(dense) => dense.forward(&normed, pass.products)?,
            FeedForward::Moe(moe) => moe.forward(&normed, pass)?,
        })?)
    }

    fn router_biases(&self) -> Vec<&Tensor> {
        let moe = self.0.iter().filter_map(|block| match &block.mlp {
            FeedForward::Moe(moe) => Some(&moe.router.correction_bias),
            FeedForward::Dense(_) => None,
        });
        moe.collect()
    }
}
