//! Log-probabilities without all the logits: the output head computes a chunk of tokens at a time.
//!
//! `[tokens, vocabulary]` float32 for a whole batch is often larger than the model. Here at most
//! [`LOGITS_MAX_CPU`] of them exist at a time. An objective that is a sum over tokens is evaluated
//! and differentiated chunk by chunk, so that each chunk's logits are computed once and freed. One
//! that ties a sequence's tokens together (the sequence-level ratio) takes two passes:
//! log-probabilities without gradients, then ∂L/∂logp, then each chunk again with them.

use crate::LearnError;
use crate::fused_head::{FusedHead, Rows};
use crate::sampling_mask::KeptRows;
use r1d_kernels::Logprobs;
use r1d_model::{CausalLm, Forward, kept_logprobs};
use r1d_torch::work;
use tch::{Device, Kind, Tensor};

/// Most logits that exist at a time, in elements (float32; the backward pass holds about three
/// times as much).
const LOGITS_MAX_CPU: i64 = 1 << 24;
/// The same limit on a GPU, which small chunks would leave idle.
const LOGITS_MAX_CUDA: i64 = 1 << 27;
/// The same limit where r1d's own kernels compute them: bfloat16, and overwritten by their
/// gradient.
const LOGITS_MAX_FUSED: i64 = 1 << 29;
/// A fused chunk has a multiple of these tokens, so that products have whole tiles.
const FUSED_TILE: i64 = 128;

/// A model's output head, with the settings of its log-probabilities.
pub struct Head<'a> {
    model: &'a CausalLm,
    temperature: f64,
    /// Whether it is in batch-invariant mode, as the pass that made the hidden states.
    invariant: bool,
    kept: Option<&'a KeptRows>,
    chunk: i64,
    /// The head by r1d's own kernels, where there are some.
    fused: Option<FusedHead<'a>>,
    /// What the gradient of a fused head's weight is added to, float32 `[V, D]`.
    sum: Option<Tensor>,
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
            logp: &self.logp.detach(),
            distributions: Distributions::Logits {
                logits: &self.logits.detach(),
                kept: self.kept.as_ref(),
            },
        })
    }
}

/// The intermediate results of each chunk.
pub struct Chunk<'a> {
    /// The index of the chunk's first token.
    pub start: i64,
    /// The log-probabilities, `[n]` float32, detached.
    pub logp: &'a Tensor,
    /// What they are of.
    pub distributions: Distributions<'a>,
}

/// A chunk's distributions.
pub enum Distributions<'a> {
    /// All of them, as logits.
    Logits {
        /// The logits, `[n, V]` float32, detached, before the division by the temperature.
        logits: &'a Tensor,
        /// The ids that the distributions are over, `[n, V]` bool; `None`: all.
        kept: Option<&'a Tensor>,
    },
    /// What r1d's own kernels found of them.
    Found(&'a Logprobs),
}

impl Chunk<'_> {
    /// The likeliest id of each token, int64 `[n]`, of all ids where the logits are known.
    pub fn likeliest(&self) -> Result<Tensor, LearnError> {
        Ok(match self.distributions {
            Distributions::Logits { logits, .. } => logits.f_argmax(-1, false)?,
            Distributions::Found(found) => found.likeliest.shallow_clone(),
        })
    }
}

/// Computes the loss of tokens `start..start + n` from their log-probabilities `[n]`.
pub type ChunkLoss<'a> = dyn FnMut(&Tensor, i64) -> Result<Tensor, LearnError> + 'a;
/// Called with each chunk's results, for the metrics.
pub type Observe<'a> = dyn FnMut(Chunk) -> Result<(), LearnError> + 'a;
/// Called after each backward pass, to take the gradients that it left. They are sums in the
/// parameters' own dtype, and the head's would be rounded with each chunk that is added to it.
pub type Take<'a> = dyn FnMut() -> Result<(), LearnError> + 'a;

impl<'a> Head<'a> {
    /// Makes a head over the whole vocabulary, with chunks as large as the device's memory allows.
    pub fn new(model: &'a CausalLm, temperature: f64, invariant: bool) -> Head<'a> {
        let head = Head {
            model,
            temperature,
            invariant,
            kept: None,
            chunk: 1,
            fused: None,
            sum: None,
        };
        let vocab_size = model.config.vocab_size.max(1);
        match model.plain_head().filter(|_| !invariant) {
            Some((kernels, weight)) => Head {
                fused: Some(FusedHead {
                    kernels,
                    weight,
                    temperature,
                }),
                ..head.in_chunks(LOGITS_MAX_FUSED / vocab_size / FUSED_TILE * FUSED_TILE)
            },
            None if model.device() == Device::Cpu => head.in_chunks(LOGITS_MAX_CPU / vocab_size),
            None => head.in_chunks(LOGITS_MAX_CUDA / vocab_size),
        }
    }

    /// Sets what a fused head adds its weight's gradient to, float32 `[V, D]`. Without it, and if
    /// the weight is trained, gradients go through libtorch's operations.
    pub fn adding_to(self, sum: Option<Tensor>) -> Head<'a> {
        Head { sum, ..self }
    }

    /// The fused head, where it can compute gradients too.
    fn fused_backward(&self) -> Option<&FusedHead<'a>> {
        let fused = self.fused.as_ref();
        fused.filter(|fused| self.sum.is_some() || !fused.weight.requires_grad())
    }

    /// Restricts each token's distribution to the ids that were kept for it; `kept` has those of
    /// all tokens in order.
    pub fn keeping(self, kept: Option<&'a KeptRows>) -> Head<'a> {
        Head { kept, ..self }
    }

    /// Sets the number of tokens of a chunk; at least 1.
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

    /// Computes logits and log-probabilities of the tokens from `start` on, given their `hidden`
    /// and `targets`.
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
        let kept = self.mask(start, logits.size2()?.0)?;
        let logp = kept_logprobs(&logits, targets, self.temperature, kept.as_ref())?;
        Ok(Logits { logits, logp, kept })
    }

    /// The ids that were kept for the `tokens` tokens from `start` on, `[tokens, V]` bool.
    fn mask(&self, start: i64, tokens: i64) -> Result<Option<Tensor>, LearnError> {
        let Some(kept) = self.kept else {
            return Ok(None);
        };
        let mask = kept.mask(
            start,
            tokens,
            self.model.config.vocab_size,
            self.model.device(),
        )?;
        Ok(mask.map(|mask| mask.f_contiguous()).transpose()?)
    }

    /// Computes the log-probability of each target, float32 `[N]`, without gradients. `hidden` is
    /// `[N, D]`.
    pub fn logprobs(&self, hidden: &Tensor, targets: &Tensor) -> Result<Tensor, LearnError> {
        tch::no_grad(|| {
            let parts = self.chunks(targets.size()[0]).map(|(start, n)| {
                let (hidden, targets) = (
                    &hidden.f_narrow(0, start, n)?,
                    &targets.f_narrow(0, start, n)?,
                );
                let logp = match &self.fused {
                    Some(fused) => {
                        let kept = self.mask(start, n)?;
                        let kept = kept.as_ref();
                        let rows = Rows {
                            hidden,
                            targets,
                            kept,
                        };
                        fused.forward(&rows)?.1.logp
                    }
                    None => self.chunk_logprobs(start, hidden, targets)?.logp,
                };
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
    /// and `extra` depend on. `whole` means that `loss` must see all tokens at once.
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
        // If it depends on frozen weights only, it has no effect.
        let extra = extra.filter(Tensor::requires_grad);
        let at_once = tokens <= self.chunk;
        if at_once && self.fused_backward().is_none() {
            let chunk = self.chunk_logprobs(0, hidden, targets)?;
            chunk.show(0, observe)?;
            let total = loss(&chunk.logp, 0)?;
            run_backward(match extra {
                Some(extra) => total.f_add(&extra)?,
                None => total,
            })?;
            return take();
        }
        let slopes = if whole && !at_once {
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

    /// Computes the gradients of the head only, like [`Self::backward`]. Returns a scalar whose
    /// gradients are those of `loss` in everything that `hidden` depends on; `None` if that is
    /// nothing. It is meant for a second loss over the same pass.
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

    /// Goes chunk by chunk: adds the head's gradients and gathers those of `hidden`.
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
            // The chunk is a leaf of its own: everything before the head is differentiated once, at
            // the end.
            let leaf = hidden.f_detach()?.f_narrow(0, start, n)?;
            let targets = targets.f_narrow(0, start, n)?;
            let slopes = slopes.as_ref().map(|all| all.f_narrow(0, start, n));
            let slopes = slopes.transpose()?;
            if let Some(fused) = self.fused_backward() {
                let gradient =
                    self.fused_chunk(fused, start, (&leaf, &targets), slopes, loss, observe)?;
                gradients.push(gradient);
                work::moved(0);
                continue;
            }
            let leaf = leaf.set_requires_grad(true);
            let chunk = self.chunk_logprobs(start, &leaf, &targets)?;
            chunk.show(start, observe)?;
            run_backward(match &slopes {
                Some(slopes) => chunk.logp.f_dot(slopes)?,
                None => loss(&chunk.logp, start)?,
            })?;
            gradients.push(leaf.f_grad()?);
            take()?;
            work::moved(0);
        }
        // If all weights below the head are frozen, there is nothing to differentiate.
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

    /// Computes a chunk's gradients by r1d's own kernels: adds that of the weight, and returns that
    /// of the hidden states.
    fn fused_chunk(
        &self,
        fused: &FusedHead,
        start: i64,
        (hidden, targets): (&Tensor, &Tensor),
        slopes: Option<Tensor>,
        loss: &mut ChunkLoss,
        observe: &mut Observe,
    ) -> Result<Tensor, LearnError> {
        let kept = self.mask(start, targets.size1()?)?;
        let rows = Rows {
            hidden,
            targets,
            kept: kept.as_ref(),
        };
        let (logits, found) = fused.forward(&rows)?;
        observe(Chunk {
            start,
            logp: &found.logp,
            distributions: Distributions::Found(&found),
        })?;
        let slopes = match slopes {
            Some(slopes) => slopes,
            None => {
                let logp = found.logp.f_detach()?.set_requires_grad(true);
                run_backward(loss(&logp, start)?)?;
                logp.f_grad()?
            }
        };
        fused.backward(&rows, logits, &found, &slopes, self.sum.as_ref())
    }

    /// Computes ∂L/∂logp, `[N]`.
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
/// as a float64 scalar. `targets` must be the ids of the log-probabilities, because they give each
/// row's normaliser for free.
pub fn entropy_sum(
    chunk: &Chunk,
    targets: &Tensor,
    temperature: f64,
) -> Result<Tensor, LearnError> {
    let (logits, kept, logp) = match chunk.distributions {
        Distributions::Found(found) => return Ok(found.entropy.f_sum(Kind::Double)?),
        Distributions::Logits { logits, kept } => (logits, kept, chunk.logp),
    };
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
            // A product with the mask would not do: an id that was dropped may have been so likely
            // here that its term is not finite.
            weighted = weighted.f_masked_fill_(&kept.f_logical_not()?, 0.0)?;
        }
        let weighted = weighted.f_sum_dim_intlist(&[1i64][..], false, Kind::Float)?;
        Ok(weighted.f_sum(Kind::Double)?.f_neg()?)
    })
}
