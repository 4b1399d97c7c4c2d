//! Passes through the multi-token prediction module, for training and for drafts.

use crate::cache::{Cache, Places};
use crate::causal_lm::CausalLm;
use crate::error::{ModelError, Result};
use crate::forward::Pass;
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
