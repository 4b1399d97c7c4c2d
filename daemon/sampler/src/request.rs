//! Checks a request before any of it is computed.

use crate::error::{Result, SamplerError};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::worker::{Generate, Group, Slots};
use std::collections::HashSet;

/// The limits of a request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub vocab_size: i64,
    pub cache: Slots,
}

/// What a request needs of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needed {
    /// Most rows that decode together, where rows take pages of the cache.
    pub rows: u32,
    /// The slots that the cache is cut into, where each row has one.
    pub slots: u32,
    /// Most tokens of a row.
    pub capacity: u64,
}

/// Refuses a request that cannot be sampled. Returns what it needs of the cache.
pub(crate) fn check(request: &Generate, limits: Limits) -> Result<Needed> {
    check_sampling(&request.sampling, limits)?;
    let mut seen = HashSet::new();
    let mut capacity = 1;
    for group in &request.groups {
        capacity = check_group(request, group, limits)?.max(capacity);
        for &sample in &group.samples {
            if !seen.insert((group.prompt, sample)) {
                return Err(SamplerError::Duplicate {
                    step: request.step,
                    prompt: group.prompt,
                    sample,
                });
            }
        }
    }
    let samples = u32::try_from(seen.len()).unwrap_or(u32::MAX).max(1);
    Ok(Needed {
        rows: limits.cache.count.min(samples),
        slots: limits.cache.fitting(capacity).min(samples),
        capacity,
    })
}

fn check_sampling(sampling: &Sampling, limits: Limits) -> Result<()> {
    let bad = |key, value: f64, expected| {
        Err(SamplerError::Sampling {
            key,
            value: value.to_string(),
            expected,
        })
    };
    if !(sampling.temperature.is_finite() && sampling.temperature >= 0.0) {
        return bad(
            "temperature",
            sampling.temperature.into(),
            "it must be a finite number, at least 0 (0 is greedy)",
        );
    }
    if !(sampling.top_p > 0.0 && sampling.top_p <= 1.0) {
        return bad(
            "top_p",
            sampling.top_p.into(),
            "it must be greater than 0 and at most 1 (1 is off)",
        );
    }
    if sampling.max_completion_length == 0 {
        return bad("max_completion_length", 0.0, "it must be at least 1");
    }
    match sampling
        .stop_ids
        .iter()
        .find(|id| i64::from(**id) >= limits.vocab_size)
    {
        Some(&id) => Err(SamplerError::StopId {
            id,
            vocab_size: limits.vocab_size,
        }),
        None => Ok(()),
    }
}

/// The tokens that the group's prompt may grow to.
fn check_group(request: &Generate, group: &Group, limits: Limits) -> Result<u64> {
    let (step, prompt, row) = (request.step, group.prompt, group.row);
    if group.prompt_ids.is_empty() {
        return Err(SamplerError::EmptyPrompt { step, prompt, row });
    }
    if let Some((position, &id)) = group
        .prompt_ids
        .iter()
        .enumerate()
        .find(|(_, id)| i64::from(**id) >= limits.vocab_size)
    {
        return Err(SamplerError::PromptId {
            step,
            prompt,
            row,
            position,
            id,
            vocab_size: limits.vocab_size,
        });
    }
    let (prompt_tokens, max_completion_length) = (
        group.prompt_ids.len(),
        request.sampling.max_completion_length,
    );
    let capacity = prompt_tokens as u64 + u64::from(max_completion_length);
    if limits.cache.fitting(capacity) == 0 {
        let tokens = limits.cache.tokens;
        return Err(SamplerError::Capacity {
            step,
            prompt,
            row,
            prompt_tokens,
            max_completion_length,
            tokens,
        });
    }
    Ok(capacity)
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
            record_experts: false,
            groups: vec![Group {
                prompt: 3,
                row: 12,
                prompt_ids: vec![5, 9],
                samples: vec![0, 1],
            }],
        }
    }

    const LIMITS: Limits = Limits {
        vocab_size: 10,
        cache: Slots {
            count: 4,
            tokens: 128,
        },
    };

    fn message(change: impl FnOnce(&mut Generate)) -> String {
        let mut request = request();
        change(&mut request);
        check(&request, LIMITS).unwrap_err().to_string()
    }

    #[test]
    fn a_sound_request_passes() {
        let needed = Needed {
            rows: 2,
            slots: 2,
            capacity: 6,
        };
        assert_eq!(
            check(&request(), LIMITS).unwrap(),
            needed,
            "a slot for each sample"
        );
    }

    #[test]
    fn a_request_gets_as_many_slots_as_its_own_length_leaves() {
        let slots = |max_completion_length: u32, samples: u32| {
            let mut request = request();
            request.sampling.max_completion_length = max_completion_length;
            request.groups[0].samples = (0..samples).collect();
            let limits = Limits {
                vocab_size: 10,
                cache: Slots::of(8, 100),
            };
            let needed = check(&request, limits).unwrap();
            assert_eq!(needed.rows, samples.min(8), "pages are for all");
            (needed.slots, needed.capacity)
        };
        assert_eq!(slots(98, 50), (8, 100));
        assert_eq!(slots(10, 50), (8, 12), "no more than was said");
        assert_eq!(slots(10, 3), (3, 12), "no more than there are samples");
        assert_eq!(slots(300, 50), (3, 302));
        assert_eq!(
            slots(1022, 50),
            (1, 1024),
            "one long evaluation, in the same memory"
        );
    }

    #[test]
    fn bad_requests_are_refused_with_key_and_numbers() {
        let too_long = message(|r| r.sampling.max_completion_length = 127);
        assert!(
            too_long.starts_with("prompt 3 of step 7 (row 12) has 2 tokens and may grow by 127"),
            "{too_long}"
        );
        assert!(too_long.contains("the whole cache holds 128"), "{too_long}");
        let outside = message(|r| r.groups[0].prompt_ids[1] = 10);
        assert!(
            outside.contains("has id 10 at position 1") && outside.contains("vocabulary of 10"),
            "{outside}"
        );
        assert!(
            message(|r| r.groups[0].prompt_ids.clear())
                .contains("prompt 3 of step 7 (row 12) is empty")
        );
        assert!(message(|r| r.sampling.stop_ids = vec![3, 11]).contains("stop id 11"));
        assert!(
            message(|r| r.groups[0].samples = vec![1, 1])
                .contains("prompt 3, sample 1 of step 7 is asked for twice")
        );
        assert!(message(|r| r.sampling.temperature = f32::NAN).contains("`temperature` is NaN"));
        assert!(message(|r| r.sampling.temperature = -1.0).contains("`temperature` is -1"));
        assert!(message(|r| r.sampling.top_p = 0.0).contains("`top_p` is 0"));
        assert!(message(|r| r.sampling.top_p = 1.5).contains("`top_p` is 1.5"));
        assert!(
            message(|r| r.sampling.max_completion_length = 0)
                .contains("`max_completion_length` is 0")
        );
    }
}
