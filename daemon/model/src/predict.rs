//! Passes through the multi-token prediction module, for training and for drafts.

use crate::cache::{Cache, Places, each_alone};
use crate::causal_lm::CausalLm;
use crate::error::{ModelError, Result};
use crate::forward::{Context, Noted, Notes};
use crate::packed::{Forward, Output, Packed};
use tch::Tensor;

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
        let (ids, mut context) = self.whole(next, None, options)?;
        context.routing.count = options.count_experts;
        context.routing.balance = self.balance(next, options)?;
        let (hidden, notes) = self.further(&ids, hidden, &context)?;
        let mut noted = Noted::default();
        noted.add(notes)?;
        Ok(Output {
            hidden,
            experts: None,
            load: noted.load()?,
            aux_loss: noted.balance_loss(),
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
        let chains = each_alone(slots);
        let (ids, context) = self.whole(next, Some((cache, &chains)), options)?;
        let _ = self.further(&ids, hidden, &context)?;
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
        let (ids, context) = self.step(next, places, cache, options)?;
        Ok(self.further(&ids, hidden, &context)?.0)
    }

    /// Runs the module in a pass; `ids` may be more than the rows of `hidden`, if the rest only
    /// pads the pass.
    fn further(&self, ids: &Tensor, hidden: &Tensor, context: &Context) -> Result<(Tensor, Notes)> {
        let Some(module) = self.prediction() else {
            return Err(ModelError::Input(
                "the model was opened without its multi-token prediction module".into(),
            ));
        };
        let (tokens, padded) = (context.routing.tokens, ids.size1()?);
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
        let (further, notes) = module.forward(
            &self.embed(ids)?,
            &hidden,
            self.config.num_hidden_layers as usize,
            context,
        )?;
        Ok((further.f_narrow(0, 0, tokens)?, notes))
    }
}
