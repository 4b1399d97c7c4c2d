//! What a step drew of every row.

use crate::captured::DrawnStep;
use crate::error::Result;
use crate::row::Row;
use crate::sampling_mask;
use r1d_proto::hyperparameters::Sampling;
use tch::Tensor;

/// The results of one step, on the device.
pub(crate) struct Drawn {
    pub ids: Tensor,
    pub logprobs: Tensor,
    pub experts: Option<Tensor>,
    /// The packed sets of ids left by top-k and top-p, as [`Packer::pack`] returns them.
    pub kept: Option<Tensor>,
    pub vocab_size: u32,
}

/// The results of one step, on the host.
pub(crate) struct Looked {
    ids: Vec<i64>,
    logprobs: Vec<f32>,
    /// Experts, `[B, moe_layers, K]`.
    experts: Vec<i64>,
    /// Bits of the sets of kept ids, `[B, words]`.
    kept: Vec<u64>,
    vocab_size: u32,
}

impl Drawn {
    pub(crate) fn look(&self) -> Result<Looked> {
        let experts = match &self.experts {
            Some(experts) => Vec::try_from(&experts.f_reshape([-1])?)?,
            None => vec![],
        };
        let kept = self
            .kept
            .as_ref()
            .map(sampling_mask::words)
            .transpose()?
            .unwrap_or_default();
        let (ids, logprobs) = (Vec::try_from(&self.ids)?, Vec::try_from(&self.logprobs)?);
        Ok(Looked {
            ids,
            logprobs,
            experts,
            kept,
            vocab_size: self.vocab_size,
        })
    }
}

impl Looked {
    pub(crate) fn of_step(step: DrawnStep, vocab_size: u32) -> Looked {
        Looked {
            ids: step.ids,
            logprobs: step.logprobs,
            experts: step.experts,
            kept: step.kept,
            vocab_size,
        }
    }

    /// Gives the results in place `at` to their completion.
    pub(crate) fn push(&self, at: usize, row: &mut Row, sampling: &Sampling) -> Result<()> {
        let places = self.ids.len();
        let (experts, words) = (self.experts.len() / places, self.kept.len() / places);
        row.push_experts(&self.experts[at * experts..][..experts])?;
        if words > 0 {
            row.push_kept(&self.kept[at * words..][..words], self.vocab_size)?;
        }
        row.push(self.ids[at], self.logprobs[at], sampling)
    }
}
