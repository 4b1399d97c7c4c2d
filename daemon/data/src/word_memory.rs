//! Remembers the ids of words: the ones that came last, in a table of fixed size.

use rustc_hash::FxHasher;
use std::hash::Hasher;

/// Pairs of places; a word may stand in either place of one pair. With 64 bytes a place, 8 MiB:
/// 131,072 words, of which few texts have more that come again (`LIM-1`).
const PAIRS: usize = 1 << 16;
/// Bytes of the longest word that is remembered.
const WORD_BYTES_MAX: usize = 30;
/// Most ids of such a word.
const IDS_MAX: usize = 8;

/// Words and their ids.
pub(crate) struct WordMemory(Vec<[Remembered; 2]>);

/// A word and its ids, in one line of a processor's cache. One without a byte is empty.
#[derive(Clone)]
#[repr(C, align(64))]
struct Remembered {
    bytes: u8,
    count: u8,
    word: [u8; WORD_BYTES_MAX],
    ids: [u32; IDS_MAX],
}

impl Remembered {
    const EMPTY: Remembered = Remembered {
        bytes: 0,
        count: 0,
        word: [0; WORD_BYTES_MAX],
        ids: [0; IDS_MAX],
    };

    fn new(word: &str, ids: &[u32]) -> Option<Remembered> {
        let mut place = Remembered {
            bytes: word.len() as u8,
            count: ids.len() as u8,
            ..Remembered::EMPTY
        };
        place
            .word
            .get_mut(..word.len())?
            .copy_from_slice(word.as_bytes());
        place.ids.get_mut(..ids.len())?.copy_from_slice(ids);
        Some(place)
    }

    fn holds(&self, word: &str) -> bool {
        self.bytes as usize == word.len() && self.word.get(..word.len()) == Some(word.as_bytes())
    }
}

impl WordMemory {
    pub(crate) fn new() -> WordMemory {
        WordMemory(vec![[Remembered::EMPTY; 2]; PAIRS])
    }

    /// The ids of a word; `None` if it is not remembered.
    pub(crate) fn get(&mut self, word: &str) -> Option<&[u32]> {
        let [last, before] = self.0.get_mut(pair_of(word))?;
        if before.holds(word) {
            std::mem::swap(last, before);
        }
        if last.holds(word) {
            last.ids.get(..last.count as usize)
        } else {
            None
        }
    }

    /// Remembers a word, in place of the one of its pair that was not asked for last. Long words
    /// are not remembered.
    pub(crate) fn set(&mut self, word: &str, ids: &[u32]) {
        if let Some(new) = Remembered::new(word, ids)
            && let Some([last, before]) = self.0.get_mut(pair_of(word))
        {
            *before = std::mem::replace(last, new);
        }
    }
}

fn pair_of(word: &str) -> usize {
    let mut hash = FxHasher::default();
    hash.write(word.as_bytes());
    hash.finish() as usize % PAIRS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_has_its_own_ids_or_none() {
        let mut memory = WordMemory::new();
        let word = |i: u32| format!("{}{i}", "x".repeat(i as usize % 28));
        let ids = |i: u32| (0..i % 10).map(|id| i + id).collect::<Vec<_>>();
        let mut known = 0;
        for i in 1..200_000 {
            memory.set(&word(i), &ids(i));
            for earlier in [i, i / 2, i / 7] {
                if let Some(found) = memory.get(&word(earlier)) {
                    assert_eq!(found, ids(earlier), "{earlier}");
                    known += 1;
                }
            }
        }
        assert!(
            known > 200_000,
            "{known} of 600,000, of which a third are too long or too old"
        );
        assert_eq!(memory.get("never seen"), None);
    }
}
