//! Multi-token prediction (DeepSeek-V3 2.2, depth 1): a separate block behind the last layer, which
//! predicts the token after the next one.

use crate::decoder::Block;
use crate::error::Result;
use crate::forward::{Context, Notes};
use crate::rms_norm::RmsNorm;
use crate::weights::{Builder, Initial};
use r1d_shape::Config;
use r1d_shape::FeedForwardSizes;
use tch::Tensor;

/// Computes h'ᵢ = Block(M [RMSNorm(Emb(tᵢ₊₁)); RMSNorm(hᵢ)]), (21)–(22). Embedding and output head
/// are the model's own.
pub(crate) struct PredictionModule {
    enorm: RmsNorm,
    hnorm: RmsNorm,
    /// M, `[hidden, 2 · hidden]`: the embedding's columns come first, as in released weights; the
    /// paper has them in the other order.
    eh_proj: Tensor,
    block: Block,
    shared_head_norm: RmsNorm,
}

impl PredictionModule {
    /// Takes the tensors of the layer behind the last.
    pub(crate) fn build(config: &Config, weights: &mut Builder) -> Result<PredictionModule> {
        let (layer, hidden) = (config.num_hidden_layers, config.hidden_size);
        let prefix = format!("model.layers.{layer}.");
        let norm = |weights: &mut Builder, name: &str| {
            RmsNorm::build(
                weights,
                &format!("{prefix}{name}"),
                hidden,
                config.rms_norm_eps,
            )
        };
        // The module's block is of the last layer's kind.
        let dense = FeedForwardSizes::Dense {
            intermediate: hidden,
        };
        let sizes = config.blueprint.feed_forwards.last().unwrap_or(&dense);
        Ok(PredictionModule {
            enorm: norm(weights, "enorm")?,
            hnorm: norm(weights, "hnorm")?,
            eh_proj: weights.tensor(
                &format!("{prefix}eh_proj.weight"),
                &[hidden, 2 * hidden],
                Initial::Normal,
            )?,
            block: Block::build(config, weights, layer, sizes)?,
            shared_head_norm: norm(weights, "shared_head.norm")?,
        })
    }

    /// Runs the module: `embedded` Emb(tᵢ₊₁) and `hidden` hᵢ, both `[T, hidden]` → hidden states
    /// from which the output head computes the distribution of tᵢ₊₂.
    pub(crate) fn forward(
        &self,
        embedded: &Tensor,
        hidden: &Tensor,
        layer: usize,
        context: &Context,
    ) -> Result<(Tensor, Notes)> {
        let both = Tensor::f_cat(
            &[self.enorm.forward(embedded)?, self.hnorm.forward(hidden)?],
            -1,
        )?;
        let mixed = context.products.linear(&both, &self.eh_proj, None)?;
        let (hidden, notes) = self.block.forward(mixed, layer, context)?;
        Ok((self.shared_head_norm.forward(&hidden)?, notes))
    }

    pub(crate) fn router_bias(&self) -> Option<&Tensor> {
        self.block.router_bias()
    }
}
