//! The ids that each token of a completion was drawn from, where top-k and top-p cut the vocabulary
//! short.
//!
//! Importance sampling needs both policies over the same actions, so the trainer's distributions
//! are renormalised over the sampler's sets: Keep Sampling Mask (DeepSeek-V3.2 3.1).

use serde::{Deserialize, Serialize};
use std::ops::Range;

/// A set of ids per token of a completion; empty if every token had the whole vocabulary.
///
/// It is stored token by token: the number of runs of kept ids, 0 for the whole vocabulary, then
/// for each run how many ids are dropped before it and how many it keeps. Each number is a varint
/// in a journal or a frame, so a few likely ids are as short as nearly all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SamplingMask(Vec<u32>);

/// Most numbers of one completion (`LIM-1`): at 5 bytes each, a completion with its experts still
/// fits a journal record.
pub const KEPT_NUMBERS_MAX: usize = 8 << 20;

/// Why a mask cannot be that of a completion.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSamplingMask {
    /// The mask has another number of tokens than the completion.
    #[error("kept ids of {found} tokens for {expected} completion ids")]
    Tokens {
        /// Number of the completion's ids.
        expected: usize,
        /// Number of the mask's tokens.
        found: usize,
    },
    /// The numbers of a token are not all there.
    #[error("the kept ids of token {token} end inside a run")]
    CutShort {
        /// Index of the token, from 0.
        token: usize,
    },
    /// A run keeps no id, or continues the run before it.
    #[error("the kept ids of token {token} have a run of none")]
    EmptyRun {
        /// Index of the token, from 0.
        token: usize,
    },
    /// A run ends beyond the vocabulary.
    #[error(
        "the kept ids of token {token} reach to {end}, beyond the model's vocabulary of \
         {vocab_size}"
    )]
    Beyond {
        /// Index of the token, from 0.
        token: usize,
        /// One above the last id of the token's runs.
        end: u64,
        /// Number of ids in the model's vocabulary.
        vocab_size: u64,
    },
    /// The id that was sampled is not in the token's set.
    #[error("id {id}, token {token}, is not among its kept ids")]
    NotKept {
        /// Index of the token, from 0.
        token: usize,
        /// The id that was sampled.
        id: u32,
    },
}

/// The set of ids that one token was drawn from.
#[derive(Clone, Copy, Debug)]
pub struct TokenMask<'a>(&'a [u32]);

impl SamplingMask {
    /// Takes the numbers from a column of a table, unchecked; [`check`](Self::check) finds whether
    /// they mean anything.
    pub fn from_numbers(numbers: Vec<u32>) -> SamplingMask {
        SamplingMask(numbers)
    }

    /// The numbers as they are stored.
    pub fn numbers(&self) -> &Vec<u32> {
        &self.0
    }

    /// Whether every token had the whole vocabulary.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a token whose kept ids are the set bits of `words`, id 0 the lowest of the first; no
    /// bit may be set from `vocab_size` on. `false`: the mask is beyond [`KEPT_NUMBERS_MAX`].
    #[must_use]
    pub fn push(&mut self, words: &[u64], vocab_size: u32) -> bool {
        let count_at = self.0.len();
        self.0.push(0);
        let mut dropped_from = 0;
        while let Some(start) = next_bit(words, dropped_from, true) {
            let end = next_bit(words, start, false).unwrap_or(words.len() * u64::BITS as usize);
            if end - start == vocab_size as usize {
                break;
            }
            self.0
                .extend([(start - dropped_from) as u32, (end - start) as u32]);
            dropped_from = end;
        }
        let count = (self.0.len() - count_at - 1) / 2;
        if let Some(number) = self.0.get_mut(count_at) {
            *number = count as u32;
        }
        self.0.len() <= KEPT_NUMBERS_MAX
    }

    /// The mask, or an empty one if the set of no token was cut.
    pub fn or_none(self) -> SamplingMask {
        if self.0.iter().all(|number| *number == 0) {
            SamplingMask::default()
        } else {
            self
        }
    }

    /// The set of each token in turn; ends early if the numbers do not add up.
    pub fn tokens(&self) -> impl Iterator<Item = TokenMask<'_>> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (count, behind) = rest.split_first()?;
            let (own, behind) = behind.split_at_checked((*count as usize).checked_mul(2)?)?;
            rest = behind;
            Some(TokenMask(own))
        })
    }

    /// Checks that `completion_ids` can have been drawn from these sets.
    pub fn check(&self, completion_ids: &[u32], vocab_size: u64) -> Result<(), BadSamplingMask> {
        if self.is_empty() {
            return Ok(());
        }
        let read: usize = self.tokens().map(|kept| 1 + kept.0.len()).sum();
        let found = self.tokens().count();
        if read < self.0.len() {
            return Err(BadSamplingMask::CutShort { token: found });
        }
        if found != completion_ids.len() {
            return Err(BadSamplingMask::Tokens {
                expected: completion_ids.len(),
                found,
            });
        }
        for (token, (kept, &id)) in self.tokens().zip(completion_ids).enumerate() {
            let mut pairs = kept.0.chunks_exact(2).enumerate();
            if pairs.any(|(run, pair)| pair[1] == 0 || (run > 0 && pair[0] == 0)) {
                return Err(BadSamplingMask::EmptyRun { token });
            }
            let end = kept.0.iter().map(|number| u64::from(*number)).sum();
            if end > vocab_size {
                return Err(BadSamplingMask::Beyond {
                    token,
                    end,
                    vocab_size,
                });
            }
            if !kept.is_whole() && !kept.runs().any(|run| run.contains(&i64::from(id))) {
                return Err(BadSamplingMask::NotKept { token, id });
            }
        }
        Ok(())
    }
}

impl TokenMask<'_> {
    /// Whether the token had the whole vocabulary.
    pub fn is_whole(&self) -> bool {
        self.0.is_empty()
    }

    /// Runs of kept ids, ascending; no runs if the token had the whole vocabulary.
    pub fn runs(&self) -> impl Iterator<Item = Range<i64>> {
        let mut at = 0;
        self.0.chunks_exact(2).map(move |pair| {
            let start = at + i64::from(pair[0]);
            at = start + i64::from(pair[1]);
            start..at
        })
    }

    /// Number of kept ids; `vocab_size` if the token had the whole vocabulary.
    pub fn size(&self, vocab_size: u64) -> u64 {
        if self.is_whole() {
            vocab_size
        } else {
            self.0.chunks_exact(2).map(|pair| u64::from(pair[1])).sum()
        }
    }
}

/// The index of the first bit from `from` on that is `set`; `None` if there is none.
fn next_bit(words: &[u64], from: usize, set: bool) -> Option<usize> {
    let bits = u64::BITS as usize;
    let wanted = |word: u64| if set { word } else { !word };
    let mut place = from / bits;
    let mut word = wanted(*words.get(place)?) & (u64::MAX << (from % bits));
    while word == 0 {
        place += 1;
        word = wanted(*words.get(place)?);
    }
    Some(place * bits + word.trailing_zeros() as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VOCAB_SIZE: u32 = 150;

    fn words(kept: &[bool]) -> Vec<u64> {
        let word = |bits: &[bool]| {
            bits.iter()
                .enumerate()
                .map(|(i, kept)| u64::from(*kept) << i)
                .sum()
        };
        kept.chunks(64).map(word).collect()
    }

    fn of(sets: &[Vec<bool>]) -> SamplingMask {
        let mut kept = SamplingMask::default();
        sets.iter()
            .for_each(|set| assert!(kept.push(&words(set), set.len() as u32)));
        kept.or_none()
    }

    /// Sets of 150 ids with the first of their ids; the shorter the pattern, the more of its kind.
    fn sets() -> impl Strategy<Value = Vec<Vec<bool>>> {
        let set = (
            prop::collection::vec(any::<bool>(), 1..VOCAB_SIZE as usize),
            any::<prop::sample::Index>(),
        );
        let set = set.prop_map(|(pattern, id)| {
            let mut set: Vec<bool> = pattern
                .into_iter()
                .cycle()
                .take(VOCAB_SIZE as usize)
                .collect();
            let id = id.index(set.len());
            set[id] = true;
            set
        });
        prop::collection::vec(set, 1..9)
    }

    proptest! {
        #[test]
        fn sets_read_back_and_fit_the_ids_inside_alone(sets in sets()) {
            let kept = of(&sets);
            let ids = |wanted: bool| -> Option<Vec<u32>> {
                sets.iter()
                    .map(|set| set.iter().position(|kept| *kept == wanted).map(|id| id as u32))
                    .collect()
            };
            let first = ids(true).unwrap();
            prop_assert_eq!(kept.check(&first, VOCAB_SIZE.into()), Ok(()));
            prop_assert_eq!(kept.is_empty(), sets.iter().all(|set| set.iter().all(|kept| *kept)));
            if kept.is_empty() {
                return Ok(());
            }
            for (kept, set) in kept.tokens().zip(&sets) {
                let mut read = vec![kept.is_whole(); set.len()];
                kept.runs().for_each(|run| read[run.start as usize..run.end as usize].fill(true));
                prop_assert_eq!(&read, set);
                prop_assert_eq!(kept.size(VOCAB_SIZE.into()), set.iter().filter(|kept| **kept)
                    .count() as u64);
            }
            let bytes = postcard::to_stdvec(&kept).unwrap();
            prop_assert_eq!(&postcard::from_bytes::<SamplingMask>(&bytes).unwrap(), &kept);
            // At most a byte or two for each border of a run, and one for each token.
            let borders: usize = sets.iter()
                .map(|set| 1 + set.windows(2).filter(|pair| pair[0] != pair[1]).count()).sum();
            prop_assert!(bytes.len() <= 3 + sets.len() + 3 * borders,
                "{} bytes for {borders} borders", bytes.len());
            if let Some(outside) = ids(false) {
                prop_assert_eq!(kept.check(&outside, VOCAB_SIZE.into()),
                    Err(BadSamplingMask::NotKept { token: 0, id: outside[0] }));
            }
            let missing = kept.check(&first[1..], VOCAB_SIZE.into());
            prop_assert_eq!(missing,
                Err(BadSamplingMask::Tokens { expected: first.len() - 1, found: first.len() }));
        }

        #[test]
        fn any_numbers_are_read_or_refused(
            numbers in prop::collection::vec(prop_oneof![0u32..4, any::<u32>()], 0..40),
            ids in prop::collection::vec(0u32..9, 0..9),
        ) {
            let kept = SamplingMask::from_numbers(numbers);
            let checked = kept.check(&ids, 9);
            let sums: Vec<i64> = kept.tokens()
                .map(|kept| kept.runs().map(|run| run.end).max().unwrap_or(0)).collect();
            prop_assert!(checked.is_err() || sums.iter().all(|end| *end <= 9), "{:?}", sums);
        }
    }

    #[test]
    fn what_is_no_set_of_the_ids_is_refused() {
        let check = |numbers: &[u32], ids: &[u32]| {
            SamplingMask(numbers.to_vec()).check(ids, 10).unwrap_err()
        };
        assert_eq!(SamplingMask(vec![1, 2, 8, 0]).check(&[9, 0], 10), Ok(()));
        assert_eq!(
            check(&[1, 2, 9], &[3]),
            BadSamplingMask::Beyond {
                token: 0,
                end: 11,
                vocab_size: 10
            }
        );
        assert_eq!(
            check(&[2, 0, u32::MAX, u32::MAX, u32::MAX], &[3])
                .to_string()
                .split(',')
                .next(),
            Some("the kept ids of token 0 reach to 12884901885")
        );
        assert_eq!(
            check(&[0, 1, 2, 3], &[0, 1]),
            BadSamplingMask::NotKept { token: 1, id: 1 }
        );
        assert_eq!(
            check(&[0, 1, 2], &[0, 1]),
            BadSamplingMask::CutShort { token: 1 }
        );
        assert_eq!(
            check(&[0, u32::MAX, 2], &[0, 1]),
            BadSamplingMask::CutShort { token: 1 }
        );
        assert_eq!(
            check(&[1, 2, 0], &[2]),
            BadSamplingMask::EmptyRun { token: 0 }
        );
        assert_eq!(
            check(&[2, 0, 2, 0, 2], &[2]),
            BadSamplingMask::EmptyRun { token: 0 }
        );
        assert_eq!(
            check(&[0], &[1, 2]),
            BadSamplingMask::Tokens {
                expected: 2,
                found: 1
            }
        );
    }

    #[test]
    fn a_completion_has_a_limit() {
        let every_second = vec![0x5555_5555_5555_5555; 1024];
        let mut kept = SamplingMask::default();
        let per_token = 1 + 1024 * 64;
        for token in 1..=KEPT_NUMBERS_MAX / per_token {
            assert!(kept.push(&every_second, 65_536), "{token} tokens");
        }
        assert!(!kept.push(&every_second, 65_536));
    }
}
