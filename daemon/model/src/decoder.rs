//! The blocks between the embedding and the final norm.

use crate::error::Result;
use crate::forward::{Context, Notes};
use crate::gqa::Gqa;
use crate::mla::Mla;
use crate::moe::Moe;
use crate::parts::{FeedForwardParts, LayerParts};
use crate::rms_norm::RmsNorm;
use crate::swiglu::SwiGlu;
use crate::weights::Builder;
use r1d_shape::Config;
use r1d_shape::{AttentionSizes, FeedForwardSizes};
use tch::Tensor;

pub(crate) struct Decoder {
    blocks: Vec<Block>,
}

/// One block: h += Attention(RMSNorm(h)); h += FeedForward(RMSNorm(h)).
pub(crate) struct Block {
    input_layernorm: RmsNorm,
    self_attn: Attention,
    post_attention_layernorm: RmsNorm,
    mlp: FeedForward,
}

enum Attention {
    Grouped(Gqa),
    Latent(Mla),
}

enum FeedForward {
    Dense(SwiGlu),
    Experts(Moe),
}

impl Decoder {
    /// Takes the blocks' tensors from `weights`, in a fixed order.
    pub(crate) fn build(config: &Config, weights: &mut Builder) -> Result<Decoder> {
        let blocks = (0..)
            .zip(&config.blueprint.feed_forwards)
            .map(|(layer, sizes)| Block::build(config, weights, layer, sizes));
        Ok(Decoder {
            blocks: blocks.collect::<Result<_>>()?,
        })
    }

    /// Runs one block: `hidden` `[T, hidden_size]` → the same shape, and what it notes.
    pub(crate) fn block(
        &self,
        layer: usize,
        hidden: Tensor,
        context: &Context,
    ) -> Result<(Tensor, Notes)> {
        self.blocks[layer].forward(hidden, layer, context)
    }

    /// The tensors of every block; `None` if an output projection of attention has a bias.
    pub(crate) fn layers(&self) -> Option<Vec<LayerParts<'_>>> {
        self.blocks.iter().map(Block::parts).collect()
    }

    /// The correction biases of the routers that have one, from the first MoE layer on (float32
    /// `[E]` each).
    pub(crate) fn router_biases(&self) -> Vec<&Tensor> {
        self.blocks.iter().filter_map(Block::router_bias).collect()
    }
}

impl Block {
    /// Takes the block's tensors from `weights`; `layer` is part of their names.
    pub(crate) fn build(
        config: &Config,
        weights: &mut Builder,
        layer: i64,
        sizes: &FeedForwardSizes,
    ) -> Result<Block> {
        let prefix = format!("model.layers.{layer}.");
        let (attention, mlp) = (format!("{prefix}self_attn."), format!("{prefix}mlp."));
        let hidden = config.hidden_size;
        let norm = |weights: &mut Builder, name: &str| {
            RmsNorm::build(
                weights,
                &format!("{prefix}{name}"),
                hidden,
                config.rms_norm_eps,
            )
        };
        Ok(Block {
            input_layernorm: norm(weights, "input_layernorm")?,
            self_attn: match &config.blueprint.attention {
                AttentionSizes::Grouped(sizes) => {
                    Attention::Grouped(Gqa::build(weights, &attention, sizes)?)
                }
                AttentionSizes::Latent(sizes) => {
                    Attention::Latent(Mla::build(weights, &attention, sizes)?)
                }
            },
            post_attention_layernorm: norm(weights, "post_attention_layernorm")?,
            mlp: match sizes {
                FeedForwardSizes::Dense { intermediate } => {
                    FeedForward::Dense(SwiGlu::build(weights, &mlp, hidden, *intermediate)?)
                }
                FeedForwardSizes::Experts(sizes) => {
                    let before = config.blueprint.feed_forwards.iter().take(layer as usize);
                    let moe_layer = before
                        .filter(|sizes| matches!(sizes, FeedForwardSizes::Experts(_)))
                        .count() as i64;
                    FeedForward::Experts(Moe::build(weights, &mlp, hidden, sizes, moe_layer)?)
                }
            },
        })
    }

    /// Runs the block; `layer` is its place in a cache.
    pub(crate) fn forward(
        &self,
        hidden: Tensor,
        layer: usize,
        context: &Context,
    ) -> Result<(Tensor, Notes)> {
        let kernels = context.kernels;
        let (hidden, normed) = self.input_layernorm.behind_sum(hidden, None, kernels)?;
        let attended = match &self.self_attn {
            Attention::Grouped(attention) => attention.forward(&normed, layer, context)?,
            Attention::Latent(attention) => attention.forward(&normed, layer, context)?,
        };
        let norm = &self.post_attention_layernorm;
        let (hidden, normed) = norm.behind_sum(hidden, Some(&attended), kernels)?;
        let (further, notes) = match &self.mlp {
            FeedForward::Dense(dense) => (dense.forward(&normed, context)?, Notes::default()),
            FeedForward::Experts(experts) => experts.forward(&normed, context)?,
        };
        Ok((hidden.f_add(&further)?, notes))
    }

    fn parts(&self) -> Option<LayerParts<'_>> {
        let (attention, o_proj) = match &self.self_attn {
            Attention::Grouped(attention) => attention.parts()?,
            Attention::Latent(attention) => attention.parts()?,
        };
        Some(LayerParts {
            input_norm: self.input_layernorm.parts(),
            attention,
            o_proj,
            post_attention_norm: self.post_attention_layernorm.parts(),
            feed_forward: match &self.mlp {
                FeedForward::Dense(dense) => FeedForwardParts::Dense(dense.parts()),
                FeedForward::Experts(experts) => FeedForwardParts::Experts(experts.parts()),
            },
        })
    }

    pub(crate) fn router_bias(&self) -> Option<&Tensor> {
        match &self.mlp {
            FeedForward::Experts(experts) => experts.router.correction_bias.as_ref(),
            FeedForward::Dense(_) => None,
        }
    }
}
