//! A completion while it decodes.

use crate::error::{Result, SamplerError};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout};
use r1d_proto::sampling_mask::{KEPT_NUMBERS_MAX, SamplingMask};
use r1d_proto::worker::{Generate, Group};
use r1d_proto::world::counter_uniform;

pub(crate) struct Row {
    key: SampleKey,
    /// Index of the row's group in the request.
    pub group: usize,
    prompt_tokens: usize,
    completion_ids: Vec<u32>,
    behaviour_logprobs: Vec<f32>,
    /// Experts of the prompt's tokens, then of each completion id that was fed back.
    experts: Vec<u16>,
    kept_ids: SamplingMask,
    finish: Option<FinishReason>,
    /// A guess at the id behind the last one, if the sampler speculates.
    pub draft: i64,
}

impl Row {
    /// Starts a completion; `experts` are those of the prompt's tokens.
    pub(crate) fn new(request: &Generate, group: usize, sample: u32, experts: Vec<u16>) -> Row {
        let Group {
            prompt, prompt_ids, ..
        } = &request.groups[group];
        Row {
            key: SampleKey {
                stage: request.stage,
                step: request.step,
                prompt: *prompt,
                sample,
            },
            group,
            prompt_tokens: prompt_ids.len(),
            completion_ids: vec![],
            behaviour_logprobs: vec![],
            experts,
            kept_ids: SamplingMask::default(),
            finish: None,
            draft: 0,
        }
    }

    /// The row's sample: its group's index in the request, and its own number.
    pub(crate) fn sample(&self) -> (usize, u32) {
        (self.group, self.key.sample)
    }

    /// The tokens that a cache holds of the row, of which `prompt_ids` are the first.
    pub(crate) fn fed(&self, prompt_ids: &[u32]) -> Vec<i64> {
        let fed = prompt_ids.iter().chain(&self.completion_ids);
        let fed = fed.take(self.position() as usize);
        fed.map(|id| i64::from(*id)).collect()
    }

    /// The experts that those tokens took, `[tokens · moe_layers · K]`; empty unless recorded.
    pub(crate) fn experts(&self) -> &[u16] {
        &self.experts
    }

    /// The uniform of the completion's token `i`, a function of the sample's key only (`ROLL-1`).
    pub(crate) fn uniform(&self, seed: u64, i: usize) -> f64 {
        let SampleKey {
            stage,
            step,
            prompt,
            sample,
        } = self.key;
        f64::from(counter_uniform(&[
            seed,
            stage.into(),
            step,
            prompt.into(),
            sample.into(),
            i as u64,
        ]))
    }

    /// The number of completion ids so far.
    pub(crate) fn tokens(&self) -> usize {
        self.completion_ids.len()
    }

    /// The id that the next decode step feeds, once the first is drawn.
    pub(crate) fn last_id(&self) -> i64 {
        self.completion_ids.last().map_or(0, |id| i64::from(*id))
    }

    /// The number of tokens whose keys the slot holds: all but the last id.
    pub(crate) fn position(&self) -> i64 {
        (self.prompt_tokens + self.completion_ids.len()) as i64 - 1
    }

    pub(crate) fn ended(&self) -> bool {
        self.finish.is_some()
    }

    /// Records the experts of the token that was just fed, `[moe_layers, K]`.
    pub(crate) fn push_experts(&mut self, experts: &[i64]) -> Result<()> {
        self.experts.reserve(experts.len());
        for &expert in experts {
            self.experts.push(narrow_expert(expert)?);
        }
        Ok(())
    }

    /// Records the ids that the next one was drawn from, as [`SamplingMask::push`] takes them.
    pub(crate) fn push_kept(&mut self, kept: &[u64], vocab_size: u32) -> Result<()> {
        if self.kept_ids.push(kept, vocab_size) {
            Ok(())
        } else {
            Err(SamplerError::SamplingMask {
                key: self.key,
                position: self.completion_ids.len(),
                limit: KEPT_NUMBERS_MAX,
            })
        }
    }

    pub(crate) fn push(&mut self, id: i64, logprob: f32, sampling: &Sampling) -> Result<()> {
        // If any of a row's logits is NaN or infinite, the log-probability is NaN.
        if !logprob.is_finite() {
            return Err(SamplerError::NotFinite {
                key: self.key,
                position: self.completion_ids.len(),
            });
        }
        let id = id as u32; // an index into the vocabulary
        self.completion_ids.push(id);
        self.behaviour_logprobs.push(logprob);
        if sampling.stop_ids.contains(&id) {
            self.finish = Some(FinishReason::Stop);
        } else if self.completion_ids.len() >= sampling.max_completion_length as usize {
            self.finish = Some(FinishReason::Length);
        }
        Ok(())
    }

    /// Takes the record of an ended row, which leaves the row empty; `None` while the row lives.
    pub(crate) fn take_rollout(&mut self, request: &Generate) -> Option<Rollout> {
        let group = &request.groups[self.group];
        Some(Rollout {
            key: self.key,
            row: group.row,
            prompt_ids: group.prompt_ids.clone(),
            completion_ids: std::mem::take(&mut self.completion_ids),
            behaviour_logprobs: std::mem::take(&mut self.behaviour_logprobs),
            experts: std::mem::take(&mut self.experts),
            kept_ids: std::mem::take(&mut self.kept_ids).or_none(),
            policy_version: request.policy_version,
            finish: self.finish?,
        })
    }
}

pub(crate) fn narrow_expert(expert: i64) -> Result<u16> {
    u16::try_from(expert).map_err(|_| SamplerError::Expert { expert })
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_model::Fault;

    #[test]
    fn sets_that_grow_too_large_are_refused_with_what_to_set() {
        let mut row = Row::new(&crate::tiny::request(1, 1), 0, 0, vec![]);
        let every_second = [0x5555_5555_5555_5555; 1024];
        let refused = (0..200)
            .find_map(|_| row.push_kept(&every_second, 65_536).err())
            .unwrap();
        let text = refused.to_string();
        assert!(
            refused.fault() == Fault::Given
                && text.contains("top_k")
                && text.contains("keep_sampling_mask = false"),
            "{text}"
        );
    }
}
