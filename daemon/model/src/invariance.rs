//! Checks whether the batch-invariant mode holds on this machine: libtorch's kernels differ from
//! one processor to the next.

use crate::cache::Places;
use crate::causal_lm::CausalLm;
use crate::error::{ModelError, Result};
use crate::packed::{Forward, Packed};
use tch::{Kind, Tensor};

/// Tokens of the long sequence: enough for several tiles of queries and of keys, and a multiple of
/// neither.
const LONG_TOKENS: i64 = 150;
const SHORT_TOKENS: i64 = 37;
/// Number of tokens that are decoded one by one.
const DECODED_TOKENS: i64 = 3;

impl CausalLm {
    /// Runs two sequences together, one of them alone, and its last tokens through the cache, all
    /// in batch-invariant mode. Fails unless all give the same bits. It costs about 500 tokens'
    /// forward pass.
    pub fn check_invariance(&self) -> Result<()> {
        tch::no_grad(|| {
            let [long, short] = [LONG_TOKENS, SHORT_TOKENS].map(|n| self.some_ids(n));
            let (long, short) = (long?, short?);
            let options = Forward {
                invariant: true,
                ..Forward::default()
            };
            let of = |ids: &Tensor, lengths: &[i64]| -> Result<Tensor> {
                self.logits(
                    &self
                        .forward(
                            &Packed::new(ids.shallow_clone(), lengths.to_vec()),
                            &options,
                        )?
                        .hidden,
                    &options,
                )
            };
            let together = of(
                &Tensor::f_cat(&[&short, &long], 0)?,
                &[SHORT_TOKENS, LONG_TOKENS],
            )?
            .f_narrow(0, SHORT_TOKENS, LONG_TOKENS)?;
            self.same(
                &together,
                &of(&long, &[LONG_TOKENS])?,
                "a sequence alone and beside another",
            )?;

            let prompt = LONG_TOKENS - DECODED_TOKENS;
            let mut cache = self.cache(2, LONG_TOKENS, true)?;
            let fed = Packed::new(long.f_narrow(0, 0, prompt)?, vec![prompt]);
            let _ = self.prefill(&fed, &[vec![1]], &mut cache, &options)?;
            for position in prompt..LONG_TOKENS {
                let (slot, at) = (
                    cache.select(&[1])?,
                    Tensor::f_from_slice(&[position])?.f_to_device(self.device())?,
                );
                let output = self.decode(
                    &long.f_narrow(0, position, 1)?,
                    &Places {
                        slots: &slot,
                        positions: &at,
                        max_position: position,
                    },
                    &mut cache,
                    &options,
                )?;
                let expected = together.f_narrow(0, position, 1)?;
                self.same(
                    &expected,
                    &self.logits(&output.hidden, &options)?,
                    "a token in its sequence and one that is decoded",
                )?;
            }
            Ok(())
        })
    }

    fn some_ids(&self, count: i64) -> Result<Tensor> {
        let ids = Tensor::f_arange(count, (Kind::Int64, self.device()))?;
        Ok(ids
            .f_mul_scalar(7919)?
            .f_add_scalar(count)?
            .f_remainder(self.config.vocab_size)?)
    }

    fn same(&self, a: &Tensor, b: &Tensor, what: &str) -> Result<()> {
        if !bool::try_from(a.f_isfinite()?.f_all()?)? {
            return Err(ModelError::Input(
                "the model's logits are not finite: its weights are damaged or have diverged"
                    .into(),
            ));
        }
        if a.f_equal(b)? {
            return Ok(());
        }
        let difference = f64::try_from(a.f_sub(b)?.f_abs()?.f_max()?)?;
        Err(ModelError::Invariant(format!(
            "this machine's kernels give {what} other bits (logits differ by {difference:e}): set \
             batch_invariant = false"
        )))
    }
}
