//! Multi-token prediction (DeepSeek-V3 2.2, depth 1): a separate block behind the last layer, which
//! predicts the token after the next one.

use crate::cache::{Cache, Places};
use crate::causal_lm::CausalLm;
use crate::decoder::Block;
use crate::error::{ModelError, Result};
use crate::forward::Pass;
use crate::packed::{Forward, Output, Packed};
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
        pass: &mut Pass,
    ) -> Result<Tensor> {
        let both = Tensor::f_cat(
            &[self.enorm.forward(embedded)?, self.hnorm.forward(hidden)?],
            -1,
        )?;
        let mixed = pass.products.linear(&both, &self.eh_proj, None)?;
        self.shared_head_norm
            .forward(&self.block.forward(mixed, layer, pass)?)
    }

    pub(crate) fn router_bias(&self) -> Option<&Tensor> {
        self.block.router_bias()
    }
}

impl CausalLm {
    /// Predicts further tokens, DeepSeek-V3 (21)–(24): `hidden` `[T, hidden_size]` are a pass's
    /// hidden states of tokens tᵢ, `next` the same number of tokens tᵢ₊₁ behind them. The output's
    /// logits are those of the tokens tᵢ₊₂. It takes whole sequences, and needs a model with the
    /// module.
    pub fn predict(&self, hidden: &Tensor, next: &Packed, options: &Forward) -> Result<Output> {
        if options.invariant || !next.prefixes.is_empty() {
            return Err(ModelError::Input(
                "multi-token prediction is trained on whole sequences outside the batch-invariant \
                 mode"
                    .into(),
            ));
        }
        next.check()?;
        let (ids, mut pass) = self.whole(next, None, options)?;
        pass.routing.count = options.count_experts;
        pass.routing.balance = self.balance(next, options)?;
        let hidden = self.further(&ids, hidden, &mut pass)?;
        let routing = &mut pass.routing;
        Ok(Output {
            hidden,
            experts: None,
            load: routing.load()?,
            aux_loss: routing.balance_loss(),
        })
    }

    /// Runs [`Self::predict`] after a [`Self::prefill`], and leaves the keys of the module's own
    /// attention in the cache, as the prefill does.
    pub fn prefill_prediction(
        &self,
        hidden: &Tensor,
        next: &Packed,
        slots: &[Vec<i64>],
        cache: &mut Cache,
        options: &Forward,
    ) -> Result<()> {
        next.check()?;
        let (ids, mut pass) = self.whole(next, Some((cache, slots)), options)?;
        let _ = self.further(&ids, hidden, &mut pass)?;
        Ok(())
    }

    /// Runs [`Self::predict`] after a [`Self::decode`]: `hidden` `[B, hidden_size]` are the hidden
    /// states that it returned for the tokens at `places`, `next` int64 `[B]` the tokens behind
    /// them. Returns hidden states whose logits draft the tokens behind those.
    pub fn draft(
        &self,
        hidden: &Tensor,
        next: &Tensor,
        places: &Places,
        cache: &mut Cache,
        options: &Forward,
    ) -> Result<Tensor> {
        let (ids, mut pass) = self.step(next, places, cache, options)?;
        self.further(&ids, hidden, &mut pass)
    }

    /// Runs the module in a pass; `ids` may be more than the rows of `hidden`, if the rest only
    /// pads the pass.
    fn further(&self, ids: &Tensor, hidden: &Tensor, pass: &mut Pass) -> Result<Tensor> {
        let Some(module) = self.prediction() else {
            return Err(ModelError::Input(
                "the model was opened without its multi-token prediction module".into(),
            ));
        };
        let (tokens, padded) = (pass.routing.tokens, ids.size1()?);
        if hidden.size() != [tokens, self.config.hidden_size] {
            let message = format!(
                "hidden states {:?} for {tokens} tokens of width {}",
                hidden.size(),
                self.config.hidden_size
            );
            return Err(ModelError::Input(message));
        }
        let hidden = match padded - tokens {
            0 => hidden.shallow_clone(),
            // The last row is repeated, as its id is.
            missing => Tensor::f_cat(
                &[
                    hidden.shallow_clone(),
                    hidden
                        .f_narrow(0, tokens - 1, 1)?
                        .f_expand([missing, -1], false)?,
                ],
                0,
            )?,
        };
        let further = module.forward(
            &self.embed(ids)?,
            &hidden,
            self.config.num_hidden_layers as usize,
            pass,
        )?;
        Ok(further.f_narrow(0, 0, tokens)?)
    }
}
