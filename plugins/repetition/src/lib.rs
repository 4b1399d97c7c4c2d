//! `repetition`: a penalty for n-grams that come again ("Demystifying long chain-of-thought reasoning", appendix C.2; open-r1).
//!
//! (1 − distinct n-grams / n-grams) · `max_penalty`, of words without regard to case: runs of letters or digits, and each Chinese or Japanese
//! character. 0 where there are fewer than `ngram_size` words.
//!
//! | key | default | |
//! |---|---|---|
//! | `ngram_size` | 3 | words of an n-gram, 1 to 64 |
//! | `max_penalty` | −1.0 | what a text that only repeats itself comes near to, −1 to 0 |

use reward_sdk::{Completion, Info, Result, Reward, Score};
use rustc_hash::FxHashMap;
use std::hash::Hash;
use std::ops::Range;

#[derive(serde::Deserialize)]
#[serde(try_from = "Raw")]
pub struct Repetition {
    ngram_size: usize,
    max_penalty: f64,
}

#[derive(serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Raw {
    ngram_size: usize,
    max_penalty: f64,
}

impl Default for Raw {
    fn default() -> Raw {
        Raw { ngram_size: 3, max_penalty: -1.0 }
    }
}

pub const NGRAM_SIZE_MAX: usize = 64;
/// Words that are looked at, the first ones: more than a completion of 32,768 tokens has.
const WORDS_MAX: usize = 1 << 16;

impl TryFrom<Raw> for Repetition {
    type Error = String;

    fn try_from(Raw { ngram_size, max_penalty }: Raw) -> std::result::Result<Self, String> {
        if !(1..=NGRAM_SIZE_MAX).contains(&ngram_size) {
            return Err(format!("`ngram_size` is {ngram_size}: write 1 to {NGRAM_SIZE_MAX}"));
        }
        if !(-1.0..=0.0).contains(&max_penalty) {
            return Err(format!("`max_penalty` is {max_penalty}: write -1 to 0, and weigh the reward in the job"));
        }
        Ok(Repetition { ngram_size, max_penalty })
    }
}

impl Reward for Repetition {
    const INFO: Info = Info { min: -1.0, max: 0.0, ..Info::new("repetition", env!("CARGO_PKG_VERSION")) };

    fn score(&self, completion: &Completion) -> Result<Score> {
        let repeated = repeated(&completion.text, self.ngram_size);
        // A text without repetition scores 0, not minus 0.
        Ok(Score::from(if repeated > 0.0 { (repeated * self.max_penalty) as f32 } else { 0.0 }))
    }
}

/// The share of a text's n-grams that come again, each time but the first; 0 for a text of fewer words.
pub fn repeated(text: &str, ngram_size: usize) -> f64 {
    let (lower, places) = units(text);
    let words: Vec<&str> = places.into_iter().filter_map(|place| lower.get(place)).collect();
    if words.len() < ngram_size {
        return 0.0;
    }
    let total = words.len() - ngram_size + 1;
    1.0 - distinct(&words, ngram_size) as f64 / total as f64
}

/// How many n-grams differ. Equal ones get equal numbers: first those of one word, then, as two n-grams that overlap are one that is longer,
/// up to the wanted size.
fn distinct(words: &[&str], ngram_size: usize) -> usize {
    let (mut numbers, mut count) = numbered(words.iter());
    let mut size = 1;
    while size < ngram_size {
        let step = size.min(ngram_size - size);
        (numbers, count) = numbered(numbers.iter().zip(numbers.iter().skip(step)));
        size += step;
    }
    count
}

/// A number for each, the same for equal ones, and how many there are.
fn numbered<T: Hash + Eq>(items: impl Iterator<Item = T>) -> (Vec<u32>, usize) {
    let mut numbers: FxHashMap<T, u32> = FxHashMap::with_capacity_and_hasher(items.size_hint().0, Default::default());
    let number = |item: T| {
        let next = numbers.len() as u32;
        *numbers.entry(item).or_insert(next)
    };
    (items.map(number).collect(), numbers.len())
}

/// The text in lower case, and where its first words, numbers and single characters of writing systems that do not part words stand.
fn units(text: &str) -> (String, Vec<Range<usize>>) {
    let mut lower = String::with_capacity(text.len());
    let mut found = Vec::new();
    let mut start = None;
    let mut known = Known::new();
    for character in text.chars() {
        for (character, kind) in known.of(character) {
            let at = lower.len();
            lower.push(character);
            if kind == Kind::Part {
                start.get_or_insert(at);
                continue;
            }
            found.extend(start.take().map(|start| start..at));
            if kind == Kind::Alone {
                found.push(at..lower.len());
            }
        }
        if found.len() >= WORDS_MAX {
            start = None;
            break;
        }
    }
    found.extend(start.map(|start| start..lower.len()));
    found.truncate(WORDS_MAX);
    (lower, found)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Of a word or number.
    Part,
    /// A word by itself.
    Alone,
    Between,
}

impl Kind {
    fn of(character: char) -> Kind {
        match character {
            '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}' => Kind::Alone,
            character if character.is_alphanumeric() => Kind::Part,
            _ => Kind::Between,
        }
    }
}

/// Characters in lower case, with their kinds. Looking them up is a search in long tables, and texts repeat their characters.
struct Known {
    /// Those seen, by their last bits, and what each becomes.
    seen: Vec<(char, Lowered)>,
}

/// One character, but for the few that become several.
#[derive(Clone, Copy)]
struct Lowered {
    characters: [(char, Kind); 3],
    count: u8,
}

impl Lowered {
    fn of(character: char) -> Lowered {
        let mut lowered = Lowered { characters: [('\0', Kind::Between); 3], count: 0 };
        for (place, lower) in lowered.characters.iter_mut().zip(character.to_lowercase()) {
            // A sigma is a sigma, at the end of a word as within.
            let lower = if lower == 'ς' { 'σ' } else { lower };
            *place = (lower, Kind::of(lower));
            lowered.count += 1;
        }
        lowered
    }
}

impl Known {
    const SEEN: usize = 1 << 10;

    fn new() -> Known {
        Known { seen: vec![('\0', Lowered::of('\0')); Known::SEEN] }
    }

    fn of(&mut self, character: char) -> impl Iterator<Item = (char, Kind)> {
        let place = &mut self.seen[character as usize % Known::SEEN];
        if place.0 != character {
            *place = (character, Lowered::of(character));
        }
        let Lowered { characters, count } = place.1;
        characters.into_iter().take(count.into())
    }
}

#[cfg(feature = "component")]
reward_sdk::export!(Repetition);

#[cfg(test)]
mod tests {
    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::Repetition>(include_str!("../golden.jsonl"));
    }

    /// Against counting them one by one, for every size.
    #[test]
    fn overlapping_ngrams_are_told_apart() {
        for text in ["a b a b a b a c a b", "x", "a a a a a a a a a", "the cat the dog the cat the cow the cat the dog the"] {
            let words: Vec<&str> = text.split(' ').collect();
            for size in 1..=words.len() {
                let counted: std::collections::HashSet<&[&str]> = words.windows(size).collect();
                assert_eq!(super::distinct(&words, size), counted.len(), "{size} of {text}");
            }
        }
    }

    /// What a pass over the whole text in lower case would find.
    #[test]
    fn words_are_those_of_the_text_in_lower_case() {
        for text in [
            "It's 42, DON'T ask-me",
            "答案 IS x1 和y",
            "İstanbul ve IĞDIR",
            "ΟΔΟΣ ὁδοσ",
            "مرحبا بالعالم ١٢",
            "a\u{400}\u{450}b \u{800}A",
            "",
        ] {
            let lower = text.to_lowercase().replace('ς', "σ");
            let mut words = Vec::new();
            let mut word = String::new();
            for character in lower.chars() {
                let kind = super::Kind::of(character);
                if kind == super::Kind::Part {
                    word.push(character);
                    continue;
                }
                words.extend(Some(std::mem::take(&mut word)).filter(|word| !word.is_empty()));
                words.extend((kind == super::Kind::Alone).then(|| character.to_string()));
            }
            words.extend(Some(word).filter(|word| !word.is_empty()));
            let (found, places) = super::units(text);
            let found: Vec<&str> = places.into_iter().map(|place| &found[place]).collect();
            assert_eq!(found, words, "{text}");
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let error = |json: &str| reward_sdk::configure::<super::Repetition>(json).err().unwrap();
        assert!(error(r#"{"ngram": 2}"#).contains("ngram"));
        assert!(error(r#"{"ngram_size": 0}"#).contains("ngram_size"));
        assert!(error(r#"{"max_penalty": 0.5}"#).contains("max_penalty"));
        assert!(error(r#"{"max_penalty": -2}"#).contains("weigh"));
    }
}
