//! Provides the ids that tokens were drawn from in the form that the head's logits need: the
//! trainer's distributions are renormalised over the sampler's sets, so that the policy, the one
//! before the step, the reference and the sampler have the same actions (Keep Sampling Mask,
//! DeepSeek-V3.2 3.1).

use crate::LearnError;
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::worker::{Metrics, TrainSequence};
use tch::{Device, Kind, Tensor};

/// The kept ids of a micro-batch's tokens, in the order of its targets.
#[derive(Default)]
pub struct KeptRows {
    /// First and last + 1 of every run of kept ids.
    runs: Vec<(i64, i64)>,
    /// The end of each token's runs; a token without runs has the whole vocabulary.
    ends: Vec<usize>,
}

impl KeptRows {
    /// Adds the `tokens` tokens of a completion. `kept` must have passed [`SamplingMask::check`].
    pub fn add(&mut self, kept: &SamplingMask, tokens: usize) {
        let before = self.ends.len();
        for token in kept.tokens() {
            self.runs
                .extend(token.runs().map(|run| (run.start, run.end)));
            self.ends.push(self.runs.len());
        }
        self.ends.resize(before + tokens, self.runs.len());
    }

    /// These rows; `None` if every token has the whole vocabulary.
    pub fn or_none(self) -> Option<KeptRows> {
        (!self.runs.is_empty()).then_some(self)
    }

    fn runs(&self, token: usize) -> &[(i64, i64)] {
        let start = token.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.runs[start..self.ends[token]]
    }

    /// The kept ids of the tokens from `start` on, bool `[tokens, vocab_size]`; `None` if all of
    /// these have the whole vocabulary.
    pub fn mask(
        &self,
        start: i64,
        tokens: i64,
        vocab_size: i64,
        device: Device,
    ) -> Result<Option<Tensor>, LearnError> {
        let (mut first, mut behind) = (Vec::new(), Vec::new());
        let mut cut = false;
        for row in 0..tokens {
            let runs = self.runs((start + row) as usize);
            cut |= !runs.is_empty();
            // There is one place more than ids, for a run that ends with the last id.
            let place = |id: i64| row * (vocab_size + 1) + id;
            match runs {
                [] => first.push(place(0)),
                runs => runs.iter().for_each(|(from, to)| {
                    first.push(place(*from));
                    behind.push(place(*to));
                }),
            }
        }
        if !cut {
            return Ok(None);
        }
        // The mask is a running sum over the borders: 1 from a run's first id on, 0 behind it. No
        // run begins where another ends.
        let mut borders = Tensor::f_zeros([tokens * (vocab_size + 1)], (Kind::Int8, device))?;
        for (places, step) in [(first, 1), (behind, -1)] {
            borders = borders.f_index_fill_(
                0,
                &Tensor::f_from_slice(&places)?.f_to_device(device)?,
                step,
            )?;
        }
        let inside = borders
            .f_view([tokens, vocab_size + 1])?
            .f_cumsum(1, Kind::Int8)?;
        Ok(Some(inside.f_narrow(1, 0, vocab_size)?.f_gt(0)?))
    }
}

/// Reports the mean number of kept ids of a token, if any were dropped.
pub(crate) fn size_metric<'a>(
    sequences: impl Iterator<Item = &'a TrainSequence>,
    vocab_size: i64,
) -> Metrics {
    let (vocab_size, mut ids, mut tokens, mut cut) = (vocab_size.unsigned_abs(), 0, 0, false);
    for sequence in sequences {
        cut |= !sequence.kept_ids.is_empty();
        tokens += sequence.completion_ids.len();
        ids += if sequence.kept_ids.is_empty() {
            vocab_size * sequence.completion_ids.len() as u64
        } else {
            sequence
                .kept_ids
                .tokens()
                .map(|kept| kept.size(vocab_size))
                .sum()
        };
    }
    cut.then(|| {
        (
            "sampling/kept_ids/mean".to_owned(),
            ids as f64 / tokens.max(1) as f64,
        )
    })
    .into_iter()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VOCAB_SIZE: i64 = 6;

    fn rows() -> KeptRows {
        let mut rows = KeptRows::default();
        rows.add(
            &SamplingMask::from_numbers(vec![1, 2, 1, 0, 2, 0, 1, 3, 2]),
            3,
        );
        rows.add(&SamplingMask::default(), 2);
        rows.add(&SamplingMask::from_numbers(vec![1, 0, 5]), 1);
        rows
    }

    const EXPECTED: [[u8; 6]; 6] = [
        [0, 0, 1, 0, 0, 0],
        [1; 6],
        [1, 0, 0, 0, 1, 1],
        [1; 6],
        [1; 6],
        [1, 1, 1, 1, 1, 0],
    ];

    #[test]
    fn masks_are_the_sets_of_the_tokens_asked_for() {
        for start in 0..6 {
            for tokens in 1..=6 - start {
                let mask = rows()
                    .mask(start as i64, tokens as i64, VOCAB_SIZE, Device::Cpu)
                    .unwrap();
                let expected = &EXPECTED[start..start + tokens];
                match mask {
                    Some(mask) => {
                        assert_eq!(mask.size(), [tokens as i64, VOCAB_SIZE]);
                        let found: Vec<bool> = mask.contiguous().view([-1]).try_into().unwrap();
                        assert_eq!(
                            found,
                            expected
                                .concat()
                                .iter()
                                .map(|kept| *kept == 1)
                                .collect::<Vec<_>>(),
                            "{tokens} from {start}"
                        );
                    }
                    None => assert!(
                        expected.concat().iter().all(|kept| *kept == 1),
                        "{tokens} from {start}"
                    ),
                }
            }
        }
        let mut whole = KeptRows::default();
        whole.add(&SamplingMask::default(), 7);
        assert!(whole.or_none().is_none());
    }
}
