//! `repetition`: a penalty for n-grams that repeat earlier ones ("Demystifying long
//! chain-of-thought reasoning", appendix C.2; open-r1).
//!
//! The score is (1 − distinct n-grams / n-grams) · `max_penalty`, over words without regard to
//! case: runs of letters or digits, and each Chinese or Japanese character. In Thai, Lao, Khmer and
//! Burmese, which write no blanks between words, each [`RUN_WINDOW`] characters in a row stand for
//! a word. It is 0 if there are fewer than `ngram_size` words. Loops within a word and of
//! punctuation count as n-grams of their own ([`loops`]).
//!
//! | key | default | |
//! |---|---|---|
//! | `ngram_size` | 3 | words of an n-gram, 1 to 64 |
//! | `max_penalty` | −1.0 | what a text that only repeats itself comes near to, −1 to 0 |

mod loops;

use loops::{LENGTH_MIN, loops};
use reward_sdk::{Completion, Info, Result, Reward, Score};
use rustc_hash::FxHashMap;
use std::hash::Hash;
use std::ops::Range;

/// The reward's configuration.
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
        Raw {
            ngram_size: 3,
            max_penalty: -1.0,
        }
    }
}

/// Most words of an n-gram that the configuration may ask for.
pub const NGRAM_SIZE_MAX: usize = 64;
/// Characters that stand for a word in scripts without blanks between words: with two more they are
/// a trigram, as long as three short words.
const RUN_WINDOW: usize = 10;
/// Words that are examined, from the beginning: more than a completion of 32,768 tokens has.
const WORDS_MAX: usize = 1 << 16;

impl TryFrom<Raw> for Repetition {
    type Error = String;

    fn try_from(
        Raw {
            ngram_size,
            max_penalty,
        }: Raw,
    ) -> std::result::Result<Self, String> {
        if !(1..=NGRAM_SIZE_MAX).contains(&ngram_size) {
            return Err(format!(
                "`ngram_size` is {ngram_size}: write 1 to {NGRAM_SIZE_MAX}"
            ));
        }
        if !(-1.0..=0.0).contains(&max_penalty) {
            return Err(format!(
                "`max_penalty` is {max_penalty}: write -1 to 0, and weigh the reward in the job"
            ));
        }
        Ok(Repetition {
            ngram_size,
            max_penalty,
        })
    }
}

impl Reward for Repetition {
    const INFO: Info = Info {
        min: -1.0,
        max: 0.0,
        ..Info::new("repetition", env!("CARGO_PKG_VERSION"))
    };

    fn score(&self, completion: &Completion) -> Result<Score> {
        let repeated = repeated(&completion.text, self.ngram_size);
        // A text without repetition scores 0, not minus 0.
        Ok(Score::from(if repeated > 0.0 {
            (repeated * self.max_penalty) as f32
        } else {
            0.0
        }))
    }
}

/// The share of a text's n-grams that repeat an earlier one; 0 for a text of fewer words.
pub fn repeated(text: &str, ngram_size: usize) -> f64 {
    let Units {
        lower,
        found,
        stretches,
        ..
    } = units(text);
    let words: Vec<&str> = found
        .into_iter()
        .filter_map(|place| lower.get(place))
        .collect();
    let loops = loops(&lower, &stretches, words.len());
    let total = (words.len() + 1).saturating_sub(ngram_size);
    if total + loops.all == 0 {
        return 0.0;
    }
    let again = if total > 0 {
        total - distinct(&words, ngram_size)
    } else {
        0
    };
    (again + loops.repeated) as f64 / (total + loops.all) as f64
}

/// The number of different n-grams. Equal ones get equal numbers: first n-grams of one word, then
/// longer ones, because two n-grams that overlap are one that is longer, up to the wanted size.
fn distinct<T: Hash + Eq>(words: &[T], ngram_size: usize) -> usize {
    let (mut numbers, mut count) = numbered(words.iter());
    let mut size = 1;
    while size < ngram_size {
        let step = size.min(ngram_size - size);
        (numbers, count) = numbered(numbers.iter().zip(numbers.iter().skip(step)));
        size += step;
    }
    count
}

/// A number for each item, the same for equal items, and the count of different ones.
fn numbered<T: Hash + Eq>(items: impl Iterator<Item = T>) -> (Vec<u32>, usize) {
    let mut numbers: FxHashMap<T, u32> =
        FxHashMap::with_capacity_and_hasher(items.size_hint().0, Default::default());
    let number = |item: T| {
        let next = numbers.len() as u32;
        *numbers.entry(item).or_insert(next)
    };
    (items.map(number).collect(), numbers.len())
}

/// The text in lower case, and the places of its first words, numbers and single characters of
/// writing systems that do not separate words.
fn units(text: &str) -> Units {
    let mut units = Units {
        lower: String::with_capacity(text.len()),
        ..Units::default()
    };
    let mut known = Known::default();
    for character in text.chars() {
        if character.is_ascii() {
            let kind = if character.is_ascii_alphanumeric() {
                Kind::Part
            } else {
                Kind::Between
            };
            units.add(character.to_ascii_lowercase(), kind);
        } else if Kind::is_alone(character) {
            // Ideographs have no case, and are too many to remember.
            units.add(character, Kind::Alone);
        } else {
            let Lowered { first, more } = known.of(character);
            units.add(first.0, first.1);
            for (character, kind) in more.into_iter().flatten() {
                units.add(character, kind);
            }
        }
        if units.found.len() >= WORDS_MAX {
            break;
        }
    }
    units.end_word();
    units.end_punctuation();
    units.found.truncate(WORDS_MAX);
    units
}

#[derive(Default)]
struct Units {
    lower: String,
    found: Vec<Range<usize>>,
    /// Long words, and long runs without a word.
    stretches: Vec<Range<usize>>,
    /// The start of the current word.
    start: Option<usize>,
    /// The start of each character of the current run, of a script that does not separate words.
    run: Vec<usize>,
    /// The end of the last word, and the number of characters since then that are not white space.
    punctuation: (usize, usize),
}

impl Units {
    fn add(&mut self, character: char, kind: Kind) {
        let at = self.lower.len();
        if kind == Kind::Part {
            if self.start.is_none() {
                self.end_word();
                self.end_punctuation();
                self.start = Some(at);
            }
            self.lower.push(character);
            return;
        }
        if kind == Kind::Run {
            if self.run.is_empty() {
                self.end_word();
                self.end_punctuation();
            }
            self.run.push(at);
            self.lower.push(character);
            return;
        }
        if self.start.is_some() || !self.run.is_empty() {
            self.end_word();
        }
        self.lower.push(character);
        if kind == Kind::Alone {
            self.end_punctuation();
            self.found.push(at..self.lower.len());
            self.punctuation = (self.lower.len(), 0);
        } else if !character.is_whitespace() {
            self.punctuation.1 += 1;
        }
    }

    /// Ends the current word or run, which extends to the end of the text read so far.
    fn end_word(&mut self) {
        let end = self.lower.len();
        if let Some(start) = self.start.take() {
            if end - start >= LENGTH_MIN {
                self.stretches.push(start..end);
            }
            self.found.push(start..end);
            self.punctuation = (end, 0);
        }
        if let Some(first) = self.run.first() {
            match self
                .run
                .len()
                .checked_sub(RUN_WINDOW)
                .filter(|more| *more > 0)
            {
                None => self.found.push(*first..end),
                Some(more) => {
                    let ends = self.run.iter().skip(RUN_WINDOW).copied().chain([end]);
                    self.found.extend(
                        self.run
                            .iter()
                            .zip(ends)
                            .take(more + 1)
                            .map(|(start, end)| *start..end),
                    );
                }
            }
            self.run.clear();
            self.punctuation = (end, 0);
        }
    }

    /// Ends a run without a word, because a word begins.
    fn end_punctuation(&mut self) {
        let (start, marks) = self.punctuation;
        if marks >= LENGTH_MIN {
            self.stretches.push(start..self.lower.len());
            self.punctuation.1 = 0;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// A character within a word or number.
    Part,
    /// A character that is a word by itself.
    Alone,
    /// A character of a script that does not separate words, but has too few characters for each to
    /// be a word.
    Run,
    Between,
}

impl Kind {
    fn of(character: char) -> Kind {
        if Kind::is_alone(character) {
            Kind::Alone
        } else if matches!(character, '\u{e00}'..='\u{e3e}' | '\u{e40}'..='\u{eff}')
            || matches!(character, '\u{1000}'..='\u{1049}' | '\u{1050}'..='\u{109f}')
            || matches!(character, '\u{1780}'..='\u{17d3}')
        {
            Kind::Run
        } else if character.is_alphanumeric() {
            Kind::Part
        } else {
            Kind::Between
        }
    }

    fn is_alone(character: char) -> bool {
        matches!(character, '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}')
            || matches!(character, '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
    }
}

/// A character in lower case: one, except for the few that become several.
#[derive(Clone, Copy)]
struct Lowered {
    first: (char, Kind),
    more: Option<[(char, Kind); 2]>,
}

impl Lowered {
    const NONE: Lowered = Lowered {
        first: ('\0', Kind::Between),
        more: None,
    };

    fn of(character: char) -> Lowered {
        // A sigma stays the same letter, at the end of a word as within it.
        let kinds = |character: char| {
            if character == 'ς' {
                ('σ', Kind::Part)
            } else {
                (character, Kind::of(character))
            }
        };
        let mut lower = character.to_lowercase().map(kinds);
        let first = lower.next().unwrap_or((character, Kind::Between));
        let more = lower
            .next()
            .map(|second| [second, lower.next().unwrap_or(('\0', Kind::Between))]);
        Lowered { first, more }
    }
}

/// Characters that were looked up before. A look-up is a search in long tables, and texts repeat
/// their characters.
struct Known {
    /// The most recent character with each value of the last bits.
    near: [(char, Lowered); Known::NEAR],
    all: FxHashMap<char, Lowered>,
}

impl Default for Known {
    fn default() -> Known {
        Known {
            near: [('\0', Lowered::NONE); Known::NEAR],
            all: FxHashMap::default(),
        }
    }
}

impl Known {
    const NEAR: usize = 256;

    fn of(&mut self, character: char) -> Lowered {
        let place = &mut self.near[character as usize % Known::NEAR];
        if place.0 != character {
            *place = (
                character,
                *self
                    .all
                    .entry(character)
                    .or_insert_with(|| Lowered::of(character)),
            );
        }
        place.1
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

    /// Compares with a count one by one, for every size.
    #[test]
    fn overlapping_ngrams_are_told_apart() {
        for text in [
            "a b a b a b a c a b",
            "x",
            "a a a a a a a a a",
            "the cat the dog the cat the cow the cat the dog the",
        ] {
            let words: Vec<&str> = text.split(' ').collect();
            for size in 1..=words.len() {
                let counted: std::collections::HashSet<&[&str]> = words.windows(size).collect();
                assert_eq!(
                    super::distinct(&words, size),
                    counted.len(),
                    "{size} of {text}"
                );
            }
        }
    }

    /// Compares with the words that a pass over the whole text in lower case finds.
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
            let units = super::units(text);
            let found: Vec<&str> = units
                .found
                .iter()
                .map(|place| &units.lower[place.clone()])
                .collect();
            assert_eq!(found, words, "{text}");
        }
    }

    #[test]
    fn loops_without_words_are_seen() {
        let loops = [
            "!".repeat(200),
            "。".repeat(100),
            "? ".repeat(120),
            "ha".repeat(60),
            "สวัสดี".repeat(40),
            "ສະບາຍດີ".repeat(40),
            "សួស្តី".repeat(40),
            "မင်္ဂလာပါ".repeat(40),
            "你好".repeat(40),
            "ありがとう".repeat(40),
            "-".repeat(2_000),
            "😂".repeat(100),
            "abc".repeat(100),
        ];
        for text in loops {
            let repeated = super::repeated(&text, 3);
            assert!(
                repeated > 0.5,
                "{repeated}: {}",
                text.chars().take(20).collect::<String>()
            );
        }
    }

    #[test]
    fn rules_tables_code_and_long_numbers_are_no_loops() {
        let words = "We add the first two numbers, then we multiply by three and look at what is \
                     left over in the end. "
            .to_string();
        for text in [
            format!("{words}{}\nSo we get one.", "-".repeat(80)),
            format!(
                "{words}\n| a | b |\n|-----------------------|----------------------|\n| c | d |\n"
            ),
            format!("{words}1/3 = 0.{} and so on", "3".repeat(120)),
            format!("{words}10^100 is 1{}", "0".repeat(100)),
            format!("{words}Contents {} 5", ".".repeat(60)),
            format!("{words}fn f() {{ {} }}", "}".repeat(12)),
            "ประเทศไทยมีภูมิอากาศแบบร้อนชื้นและมีฤดูกาลสามฤดูคือฤดูร้อนฤดูฝนและฤดูหนาว\
             โดยกรุงเทพมหานครเป็นเมืองหลวงของประเทศ"
                .into(),
            "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung".into(),
        ] {
            let repeated = super::repeated(&text, 3);
            assert!(repeated < 0.05, "{repeated}: {text}");
        }
    }

    #[test]
    fn values_out_of_range_are_named() {
        let error = |json: &str| {
            reward_sdk::configure::<super::Repetition>(json)
                .err()
                .unwrap()
        };
        assert!(error(r#"{"ngram": 2}"#).contains("ngram"));
        assert!(error(r#"{"ngram_size": 0}"#).contains("ngram_size"));
        assert!(error(r#"{"max_penalty": 0.5}"#).contains("max_penalty"));
        assert!(error(r#"{"max_penalty": -2}"#).contains("weigh"));
    }
}
