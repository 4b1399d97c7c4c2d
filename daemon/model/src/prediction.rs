//! Multi-token prediction (DeepSeek-V3 2.2, depth 1): a block of its own behind the last, which predicts the token after the next one.

use crate::architecture::FeedForwardSizes;
use crate::config::Config;
use crate::decoder::Block;
use crate::error::Result;
use crate::pass::Pass;
use crate::rms_norm::RmsNorm;
use crate::weights::{Builder, Initial};
use tch::Tensor;

/// h'ᵢ = Block(M [RMSNorm(Emb(tᵢ₊₁)); RMSNorm(hᵢ)]), (21)–(22); embedding and output head are the model's own.
pub(crate) struct PredictionModule {
    enorm: RmsNorm,
    hnorm: RmsNorm,
    /// M, `[hidden, 2 · hidden]`: the embedding's columns first, as released weights have it; the paper writes them the other way round.
    eh_proj: Tensor,
    block: Block,
    shared_head_norm: RmsNorm,
}

impl PredictionModule {
    /// The tensors of the layer behind the last.
    pub fn build(config: &Config, weights: &mut Builder) -> Result<PredictionModule> {
        let (layer, hidden) = (config.num_hidden_layers, config.hidden_size);
        let prefix = format!("model.layers.{layer}.");
        let norm =
            |weights: &mut Builder, name: &str| RmsNorm::build(weights, &format!("{prefix}{name}"), hidden, config.rms_norm_eps);
        // As the last layer is.
        let dense = FeedForwardSizes::Dense { intermediate: hidden };
        let sizes = config.blueprint.feed_forwards.last().unwrap_or(&dense);
        Ok(PredictionModule {
            enorm: norm(weights, "enorm")?,
            hnorm: norm(weights, "hnorm")?,
            eh_proj: weights.tensor(&format!("{prefix}eh_proj.weight"), &[hidden, 2 * hidden], Initial::Normal)?,
            block: Block::build(config, weights, layer, sizes)?,
            shared_head_norm: norm(weights, "shared_head.norm")?,
        })
    }

    /// `embedded` Emb(tᵢ₊₁) and `hidden` hᵢ, both `[T, hidden]` → what the output head makes the distribution of tᵢ₊₂ of.
    pub fn forward(&self, embedded: &Tensor, hidden: &Tensor, layer: usize, pass: &mut Pass) -> Result<Tensor> {
        let both = Tensor::f_cat(&[self.enorm.forward(embedded)?, self.hnorm.forward(hidden)?], -1)?;
        let mixed = pass.products.linear(&both, &self.eh_proj, None)?;
        self.shared_head_norm.forward(&self.block.forward(mixed, layer, pass)?)
    }

    pub fn router_bias(&self) -> Option<&Tensor> {
        self.block.router_bias()
    }
}
