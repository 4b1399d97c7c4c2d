//! Checks of a request, before any of it is computed.

use crate::error::{Result, SamplerError};
use r1d_proto::recipe::Sampling;
use r1d_proto::worker::{Generate, Group};
use std::collections::HashSet;

/// What a request must fit into.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub vocab_size: i64,
    /// Prompt + completion tokens of a slot.
    pub capacity: u32,
}

pub fn check(request: &Generate, limits: Limits) -> Result<()> {
    check_sampling(&request.sampling, limits)?;
    let mut seen = HashSet::new();
    for group in &request.groups {
        check_group(request, group, limits)?;
        for &sample in &group.samples {
            if !seen.insert((group.prompt, sample)) {
                return Err(SamplerError::Duplicate { step: request.step, prompt: group.prompt, sample });
            }
        }
    }
    Ok(())
}

fn check_sampling(sampling: &Sampling, limits: Limits) -> Result<()> {
    let bad = |key, value: f64, expected| Err(SamplerError::Sampling { key, value: value.to_string(), expected });
    if !(sampling.temperature.is_finite() && sampling.temperature >= 0.0) {
        return bad("temperature", sampling.temperature.into(), "it must be a finite number, at least 0 (0 is greedy)");
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        return bad("top_p", sampling.top_p.into(), "it must be greater than 0 and at most 1 (1 is off)");
    }
    if sampling.max_completion_length == 0 {
        return bad("max_completion_length", 0.0, "it must be at least 1");
    }
    match sampling.stop_ids.iter().find(|id| i64::from(**id) >= limits.vocab_size) {
        Some(&id) => Err(SamplerError::StopId { id, vocab_size: limits.vocab_size }),
        None => Ok(()),
    }
}

fn check_group(request: &Generate, group: &Group, limits: Limits) -> Result<()> {
    let (step, prompt, row) = (request.step, group.prompt, group.row);
    if group.prompt_ids.is_empty() {
        return Err(SamplerError::EmptyPrompt { step, prompt, row });
    }
    if let Some((position, &id)) = group.prompt_ids.iter().enumerate().find(|(_, id)| i64::from(**id) >= limits.vocab_size) {
        return Err(SamplerError::PromptId { step, prompt, row, position, id, vocab_size: limits.vocab_size });
    }
    let (prompt_tokens, max_completion_length) = (group.prompt_ids.len(), request.sampling.max_completion_length);
    if prompt_tokens as u64 + u64::from(max_completion_length) > u64::from(limits.capacity) {
        return Err(SamplerError::Capacity { step, prompt, row, prompt_tokens, max_completion_length, capacity: limits.capacity });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Generate {
        Generate {
            stage: 0,
            step: 7,
            policy_version: 0,
            sampling: Sampling {
                temperature: 1.0,
                top_p: 1.0,
                top_k: 0,
                keep_sampling_mask: true,
                max_completion_length: 4,
                stop_ids: vec![1],
                seed: 0,
            },
            groups: vec![Group { prompt: 3, row: 12, prompt_ids: vec![5, 9], samples: vec![0, 1] }],
        }
    }

    fn message(change: impl FnOnce(&mut Generate)) -> String {
        let mut request = request();
        change(&mut request);
        check(&request, Limits { vocab_size: 10, capacity: 6 }).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_request_passes() {
        check(&request(), Limits { vocab_size: 10, capacity: 6 }).unwrap();
    }

    #[test]
    fn bad_requests_are_refused_with_key_and_numbers() {
        let too_long = message(|r| r.groups[0].prompt_ids.push(2));
        assert!(too_long.starts_with("prompt 3 of step 7 (row 12) has 3 tokens and may grow by 4"), "{too_long}");
        assert!(too_long.contains("a slot holds 6"), "{too_long}");
        let outside = message(|r| r.groups[0].prompt_ids[1] = 10);
        assert!(outside.contains("has id 10 at position 1") && outside.contains("vocabulary of 10"), "{outside}");
        assert!(message(|r| r.groups[0].prompt_ids.clear()).contains("prompt 3 of step 7 (row 12) is empty"));
        assert!(message(|r| r.sampling.stop_ids = vec![3, 11]).contains("stop id 11"));
        assert!(message(|r| r.groups[0].samples = vec![1, 1]).contains("prompt 3, sample 1 of step 7 is asked for twice"));
        assert!(message(|r| r.sampling.temperature = f32::NAN).contains("`temperature` is NaN"));
        assert!(message(|r| r.sampling.temperature = -1.0).contains("`temperature` is -1"));
        assert!(message(|r| r.sampling.top_p = 0.0).contains("`top_p` is 0"));
        assert!(message(|r| r.sampling.top_p = 1.5).contains("`top_p` is 1.5"));
        assert!(message(|r| r.sampling.max_completion_length = 0).contains("`max_completion_length` is 0"));
    }
}
