//! Qwen2 and Qwen2.5 (Yang et al. 2024), and what was distilled into them: grouped-query attention with biases on queries, keys and values.
//!
//! h += GQA(RMSNorm(h)); h += SwiGLU(RMSNorm(h)).

use crate::architecture::{Architecture, Decoder, MoeSizes};
use crate::config::{Config, Fields, contradiction, unsupported};
use crate::error::Result;
use crate::gqa::{Gqa, GqaSizes};
use crate::pass::Pass;
use crate::rms_norm::RmsNorm;
use crate::swiglu::SwiGlu;
use crate::weights::Builder;
use serde_json::Value;
use std::sync::Arc;
use tch::Tensor;

#[derive(Debug)]
struct Qwen2 {
    attention: GqaSizes,
    intermediate_size: i64,
    layers: i64,
}

/// transformers' defaults.
pub(crate) const MAX_POSITION_EMBEDDINGS: i64 = 32_768;
const SLIDING_WINDOW: i64 = 4096;

pub(crate) fn parse(fields: &Fields) -> Result<Arc<dyn Architecture>> {
    refuse_sliding_windows(fields)?;
    let hidden = fields.size("hidden_size")?;
    let heads = fields.size("num_attention_heads")?;
    let key_value_heads = fields.optional_size("num_key_value_heads")?.unwrap_or(heads);
    if heads % key_value_heads != 0 {
        return Err(contradiction(format!(
            "`num_key_value_heads` {key_value_heads} does not divide `num_attention_heads` {heads}"
        )));
    }
    let head_dim = match fields.optional_size("head_dim")? {
        Some(given) => given,
        None if hidden % heads == 0 => hidden / heads,
        None => return Err(contradiction(format!("`num_attention_heads` {heads} does not divide `hidden_size` {hidden}"))),
    };
    if head_dim % 2 != 0 {
        return Err(contradiction(format!("the head size is {head_dim}, expected an even number")));
    }
    Ok(Arc::new(Qwen2 {
        attention: GqaSizes { hidden, heads, key_value_heads, head_dim, bias: true },
        intermediate_size: fields.size("intermediate_size")?,
        layers: fields.size("num_hidden_layers")?,
    }))
}

/// `use_sliding_window` only bites from layer `max_window_layers` on; `layer_types` says the same layer by layer.
fn refuse_sliding_windows(fields: &Fields) -> Result<()> {
    let sliding = match fields.get("layer_types") {
        Some(Value::Array(types)) => types.iter().any(|t| t != "full_attention"),
        Some(other) => return Err(contradiction(format!("`layer_types` is {other}, expected a list"))),
        None => {
            fields.flag_or("use_sliding_window", false)?
                && (fields.is_absent("sliding_window") || fields.optional_size("sliding_window")?.is_some())
                && fields.count_or("max_window_layers", 28)? < fields.size("num_hidden_layers")?
        }
    };
    if sliding {
        let window = fields.optional_size("sliding_window")?.unwrap_or(SLIDING_WINDOW);
        let advice = format!("set it to false if sequences are shorter than the window of {window} tokens");
        return Err(unsupported("use_sliding_window", "true", advice));
    }
    Ok(())
}

impl Architecture for Qwen2 {
    fn moe(&self) -> Option<MoeSizes> {
        None
    }

    fn rotary_dims(&self) -> i64 {
        self.attention.head_dim
    }

    fn build(&self, config: &Config, weights: &mut Builder) -> Result<Box<dyn Decoder>> {
        let hidden = config.hidden_size;
        let norm = |weights: &mut Builder, name: String| RmsNorm::build(weights, &name, hidden, config.rms_norm_eps);
        let blocks = (0..self.layers).map(|layer| {
            let prefix = format!("model.layers.{layer}.");
            Ok(Block {
                input_layernorm: norm(weights, format!("{prefix}input_layernorm"))?,
                self_attn: Gqa::build(weights, &format!("{prefix}self_attn."), &self.attention)?,
                post_attention_layernorm: norm(weights, format!("{prefix}post_attention_layernorm"))?,
                mlp: SwiGlu::build(weights, &format!("{prefix}mlp."), hidden, self.intermediate_size)?,
            })
        });
        Ok(Box::new(Blocks(blocks.collect::<Result<_>>()?)))
    }

    fn cached_rows(&self, _naive: bool) -> Vec<(i64, i64)> {
        self.attention.cached_rows()
    }

    fn leaves_out(&self, _config: &Config, _tensor: &str) -> bool {
        false
    }
}

struct Block {
    input_layernorm: RmsNorm,
    self_attn: Gqa,
    post_attention_layernorm: RmsNorm,
    mlp: SwiGlu,
}

struct Blocks(Vec<Block>);

impl Decoder for Blocks {
    fn block(&self, layer: usize, hidden: Tensor, pass: &mut Pass) -> Result<Tensor> {
        let block = &self.0[layer];
        let hidden = hidden.f_add(&block.self_attn.forward(&block.input_layernorm.forward(&hidden)?, layer, pass)?)?;
        Ok(hidden.f_add(&block.mlp.forward(&block.post_attention_layernorm.forward(&hidden)?, pass.products)?)?)
    }

    fn router_biases(&self) -> Vec<&Tensor> {
        Vec::new()
    }
}
