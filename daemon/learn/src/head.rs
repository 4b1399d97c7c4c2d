//! Log-probabilities without all the logits: the output head runs on a chunk of tokens at a time.
//!
//! `[tokens, vocabulary]` float32 for a whole batch is often larger than the model. Here at most
//! [`LOGITS_MAX_CPU`] of them exist at a time. An objective that is a sum over tokens is evaluated
//! and differentiated chunk by chunk, so that each chunk's logits are computed once and freed. One
//! that ties a sequence's tokens together (the sequence-level ratio) takes two passes:
//! log-probabilities without gradients, then ∂L/∂logp, then each chunk again with them.

use crate::LearnError;
use crate::sampling_mask::KeptRows;
use r1d_model::{CausalLm, Forward, kept_logprobs};
use r1d_torch::work;
use tch::{Device, Kind, Tensor};

/// Logits held at a time, elements (float32; the backward pass holds about three times as much). On
/// a GPU small chunks leave it idle.
const LOGITS_MAX_CPU: i64 = 1 << 24;
const LOGITS_MAX_CUDA: i64 = 1 << 27;

pub struct Head<'a> {
    model: &'a CausalLm,
    temperature: f64,
    /// Batch-invariant mode, as in the pass that made the hidden states.
    invariant: bool,
    kept: Option<&'a KeptRows>,
    chunk: i64,
}

/// A chunk's logits and log-probabilities, with gradients.
struct Logits {
    logits: Tensor,
    logp: Tensor,
    kept: Option<Tensor>,
}

impl Logits {
    fn show(&self, start: i64, observe: &mut Observe) -> Result<(), LearnError> {
        observe(Chunk {
            start,
            logits: &self.logits.detach(),
            logp: &self.logp.detach(),
            kept: self.kept.as_ref(),
        })
    }
}

/// What is computed of each chunk on the way.
pub struct Chunk<'a> {
    /// First token.
    pub start: i64,
    /// `[n, V]` float32, detached, before the division by the temperature.
    pub logits: &'a Tensor,
    /// `[n]` float32, detached.
    pub logp: &'a Tensor,
    /// `[n, V]` bool: the ids that the distributions are over; `None`: all.
    pub kept: Option<&'a Tensor>,
}

/// The loss of tokens `start..start + n` given their log-probabilities `[n]`.
pub type ChunkLoss<'a> = dyn FnMut(&Tensor, i64) -> Result<Tensor, LearnError> + 'a;
pub type Observe<'a> = dyn FnMut(Chunk) -> Result<(), LearnError> + 'a;
/// Called behind each backward pass, to take the gradients that it left. They are sums in the
/// parameters' own dtype, and the head's would be rounded with each chunk that is added to it.
pub type Take<'a> = dyn FnMut() -> Result<(), LearnError> + 'a;

impl<'a> Head<'a> {
    pub fn new(model: &'a CausalLm, temperature: f64, invariant: bool) -> Head<'a> {
        let logits_max = if model.device() == Device::Cpu {
            LOGITS_MAX_CPU
        } else {
            LOGITS_MAX_CUDA
        };
        Head {
            model,
            temperature,
            invariant,
            kept: None,
            chunk: 1,
        }
        .in_chunks(logits_max / model.config.vocab_size.max(1))
    }

    /// With each token's distribution over the ids that were kept for it, as `kept` has them of all
    /// tokens in order.
    pub fn keeping(self, kept: Option<&'a KeptRows>) -> Head<'a> {
        Head { kept, ..self }
    }

    /// With `chunk` tokens at a time.
    pub fn in_chunks(self, chunk: i64) -> Head<'a> {
        Head {
            chunk: chunk.max(1),
            ..self
        }
    }

    fn chunks(&self, tokens: i64) -> impl Iterator<Item = (i64, i64)> + use<> {
        let chunk = self.chunk;
        (0..tokens)
            .step_by(chunk as usize)
            .map(move |start| (start, chunk.min(tokens - start)))
    }

    /// Of the tokens from `start` on, whose `hidden` and `targets` are given.
    fn chunk_logprobs(
        &self,
        start: i64,
        hidden: &Tensor,
        targets: &Tensor,
    ) -> Result<Logits, LearnError> {
        let logits = self.model.logits(
            hidden,
            &Forward {
                invariant: self.invariant,
                ..Forward::default()
            },
        )?;
        let (tokens, vocab_size) = logits.size2()?;
        let kept = self
            .kept
            .map(|kept| kept.mask(start, tokens, vocab_size, logits.device()))
            .transpose()?
            .flatten();
        let logp = kept_logprobs(&logits, targets, self.temperature, kept.as_ref())?;
        Ok(Logits { logits, logp, kept })
    }

    /// Log-probability of each target, float32 `[N]`, with no gradients. `hidden` is `[N, D]`.
    pub fn logprobs(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor, LearnError> {
        tch::no_grad(|| {
            let parts = self.chunks(targets.size()[0]).map(|(start, n)| {
                let logp = self
                    .chunk_logprobs(
                        start,
                        &hidden.f_narrow(0, start, n)?,
                        &targets.f_narrow(0, start, n)?,
                    )?
                    .logp;
                work::moved(0);
                Ok(logp)
            });
            let parts = parts.collect::<Result<Vec<_>, LearnError>>()?;
            Ok(if parts.len() == 1 {
                parts.into_iter().next().unwrap_or_default()
            } else {
                Tensor::f_cat(&parts, 0)?
            })
        })
    }

    /// Adds the gradients of `loss` + `extra` to every parameter that `hidden` `[N, D]`, the head
    /// and `extra` depend on. `whole` says that `loss` must see all tokens at once.
    #[allow(
        clippy::too_many_arguments,
        reason = "what is differentiated, and what is told on the way"
    )]
    pub fn backward(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        extra: Option<Tensor>,
        whole: bool,
        loss: &mut ChunkLoss,
        observe: &mut Observe,
        take: &mut Take,
    ) -> Result<(), LearnError> {
        let tokens = targets.size()[0];
        // Of frozen weights alone it changes nothing.
        let extra = extra.filter(Tensor::requires_grad);
        if tokens <= self.chunk {
            let chunk = self.chunk_logprobs(0, hidden, targets)?;
            chunk.show(0, observe)?;
            let total = loss(&chunk.logp, 0)?;
            run_backward(match extra {
                Some(extra) => total.f_add(&extra)?,
                None => total,
            })?;
            return take();
        }
        let slopes = if whole {
            Some(self.slopes(hidden, targets, loss)?)
        } else {
            None
        };
        let through = self.through(hidden, targets, slopes, loss, observe, take)?;
        match (through, extra) {
            (Some(through), Some(extra)) => run_backward(through.f_add(&extra)?)?,
            (Some(loss), None) | (None, Some(loss)) => run_backward(loss)?,
            (None, None) => return Ok(()),
        }
        take()
    }

    /// As [`Self::backward`], for the head alone: a scalar is left whose gradients are those of
    /// `loss` in all that `hidden` depends on, or nothing where that is nothing. For a second loss
    /// over the same pass.
    pub fn surrogate(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        loss: &mut ChunkLoss,
        observe: &mut Observe,
        take: &mut Take,
    ) -> Result<Option<Tensor>, LearnError> {
        self.through(hidden, targets, None, loss, observe, take)
    }

    /// Chunk by chunk: the head's gradients are added, those of `hidden` are gathered.
    fn through(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        slopes: Option<Tensor>,
        loss: &mut ChunkLoss,
        observe: &mut Observe,
        take: &mut Take,
    ) -> Result<Option<Tensor>, LearnError> {
        let tokens = targets.size()[0];
        let mut gradients = Vec::new();
        for (start, n) in self.chunks(tokens) {
            // A leaf of its own: what lies before the head is differentiated once, at the end.
            let leaf = hidden
                .f_detach()?
                .f_narrow(0, start, n)?
                .set_requires_grad(true);
            let chunk = self.chunk_logprobs(start, &leaf, &targets.f_narrow(0, start, n)?)?;
            chunk.show(start, observe)?;
            run_backward(match &slopes {
                Some(slopes) => chunk.logp.f_dot(&slopes.f_narrow(0, start, n)?)?,
                None => loss(&chunk.logp, start)?,
            })?;
            gradients.push(leaf.f_grad()?);
            take()?;
            work::moved(0);
        }
        // Frozen weights below the head leave nothing to differentiate.
        Ok(if hidden.requires_grad() {
            Some(
                hidden
                    .f_mul(&Tensor::f_cat(&gradients, 0)?)?
                    .f_sum(None::<Kind>)?,
            )
        } else {
            None
        })
    }

    /// ∂L/∂logp, `[N]`.
    fn slopes(
        &self,
        hidden: &Tensor,
        targets: &Tensor,
        loss: &mut ChunkLoss,
    ) -> Result<Tensor, LearnError> {
        let logp = self.logprobs(hidden, targets)?.set_requires_grad(true);
        run_backward(loss(&logp, 0)?)?;
        Ok(logp.f_grad()?)
    }
}

fn run_backward(loss: Tensor) -> Result<(), LearnError> {
    Ok(r1d_torch::runtime::backward(&loss)?)
}

/// Σ over tokens of the entropy of softmax(logits / temperature) over the chunk's kept ids, nats,
/// float64 scalar. `targets` are the ids that the log-probabilities are of: they give each row's
/// normaliser for free.
pub fn entropy_sum(
    chunk: &Chunk,
    targets: &Tensor,
    temperature: f64,
) -> Result<Tensor, LearnError> {
    let Chunk {
        logits, logp, kept, ..
    } = chunk;
    tch::no_grad(|| {
        let scaled = if temperature == 1.0 {
            logits.shallow_clone()
        } else {
            logits.f_div_scalar(temperature)?
        };
        let normaliser = scaled
            .f_gather(1, &targets.f_unsqueeze(1)?, false)?
            .f_sub(&logp.f_unsqueeze(1)?)?;
        let all_logp = scaled.f_sub(&normaliser)?;
        let mut weighted = all_logp.f_exp()?.f_mul_(&all_logp)?;
        if let Some(kept) = kept {
            // Not a product with the mask: an id that was dropped may have been so likely here that
            // its term is not finite.
            weighted = weighted.f_masked_fill_(&kept.f_logical_not()?, 0.0)?;
        }
        let weighted = weighted.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?;
        Ok(weighted.f_sum(Kind::Double)?.f_neg()?)
    })
}
