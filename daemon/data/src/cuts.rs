//! How tokenizers cut a text into words: at added tokens, and by patterns.

use crate::word_pattern::{GPT2, WordPattern};
use aho_corasick::{AhoCorasick, Input, MatchKind};
use regex_automata::hybrid::regex::Cache;
use std::ops::Range;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::split::SplitPattern;
use tokenizers::{AddedToken, SplitDelimiterBehavior};

/// One cut of a text into parts; the next cut gets each part by itself.
pub(crate) struct Cut {
    what: What,
    /// Whether what is found is a part.
    keeps_found: bool,
    /// Whether what stands between is a part.
    keeps_between: bool,
}

/// What a cut finds.
enum What {
    /// Added tokens, each with its id; `None` for one that takes the blanks around it, or is only
    /// found as a whole word.
    Added(AhoCorasick, Vec<Option<u32>>),
    Text(String),
    Pattern(Box<WordPattern>),
    /// Characters of a kind: each by itself, or as many as follow each other.
    Characters(fn(char) -> bool, bool),
}

/// What becomes of what a cut found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It is a part of the text.
    Part,
    /// It is this id.
    Id(u32),
    /// It is left out.
    Nothing,
}

impl Cut {
    fn new(what: What, behaviour: SplitDelimiterBehavior, invert: bool) -> Option<Cut> {
        let (keeps_found, keeps_between) = match behaviour {
            SplitDelimiterBehavior::Isolated => (true, true),
            SplitDelimiterBehavior::Removed => (invert, !invert),
            _ => return None,
        };
        Some(Cut {
            what,
            keeps_found,
            keeps_between,
        })
    }

    /// Room for the automaton of the cut's pattern, if it has one.
    pub(crate) fn automaton(&self) -> Option<Cache> {
        match &self.what {
            What::Pattern(pattern) => Some(pattern.cache()),
            _ => None,
        }
    }

    pub(crate) fn keeps_between(&self) -> bool {
        self.keeps_between
    }

    /// What the cut finds first from a place on, and its range, which is not empty. `None` if the
    /// text cannot be cut here.
    pub(crate) fn find(
        &self,
        text: &str,
        at: usize,
        automaton: Option<&mut Cache>,
    ) -> Option<Option<(Range<usize>, Found)>> {
        let rest = text.get(at..)?;
        let found = match &self.what {
            What::Added(search, ids) => {
                let Some(found) = search.find(Input::new(text).range(at..)) else {
                    return Some(None);
                };
                let id = *ids.get(found.pattern().as_usize())?;
                return Some(Some((found.range(), Found::Id(id?))));
            }
            What::Text(what) => rest.find(what).map(|start| start..start + what.len()),
            What::Pattern(pattern) => {
                let range = pattern.find(text, at, automaton?)?;
                range.map(|range| range.start - at..range.end - at)
            }
            What::Characters(is_one, together) => rest.find(is_one).map(|start| {
                let behind = rest.get(start..).unwrap_or_default();
                let one = behind.chars().next().map_or(0, char::len_utf8);
                let all = || behind.find(|c| !is_one(c)).unwrap_or(behind.len());
                start..start + if *together { all() } else { one }
            }),
        };
        let what = if self.keeps_found {
            Found::Part
        } else {
            Found::Nothing
        };
        Some(found.map(|range| (range.start + at..range.end + at, what)))
    }
}

/// The cut at added tokens, which are found as `written` has them; none without a token. `None` if
/// they cannot be looked for.
pub(crate) fn of_added(
    mut tokens: Vec<(u32, AddedToken)>,
    written: impl Fn(&str) -> String,
) -> Option<Option<Cut>> {
    tokens.retain(|(_, token)| !token.content.is_empty());
    if tokens.is_empty() {
        return Some(None);
    }
    tokens.sort_by_key(|(id, _)| *id);
    let mut search = AhoCorasick::builder();
    let search = search
        .match_kind(MatchKind::LeftmostLongest)
        .build(tokens.iter().map(|(_, token)| written(&token.content)))
        .ok()?;
    let id = |(id, token): &(u32, AddedToken)| {
        (!token.lstrip && !token.rstrip && !token.single_word).then_some(*id)
    };
    let what = What::Added(search, tokens.iter().map(id).collect());
    Cut::new(what, SplitDelimiterBehavior::Isolated, false).map(Some)
}

/// Adds the cuts of a pre-tokenizer. Returns whether it writes words as bytes, which it does last;
/// `None` if it does what is not known here.
pub(crate) fn of_words(pre_tokenizer: &PreTokenizerWrapper, cuts: &mut Vec<Cut>) -> Option<bool> {
    use SplitDelimiterBehavior::{Isolated, Removed};
    let mut is_byte_level = false;
    match pre_tokenizer {
        PreTokenizerWrapper::Sequence(all) => {
            for one in all.as_ref() {
                // What follows would cut bytes that are written as characters.
                if is_byte_level {
                    return None;
                }
                is_byte_level = of_words(one, cuts)?;
            }
        }
        PreTokenizerWrapper::ByteLevel(bytes) if !bytes.add_prefix_space => {
            if bytes.use_regex {
                let what = What::Pattern(Box::new(WordPattern::new(GPT2)?));
                cuts.push(Cut::new(what, Isolated, false)?);
            }
            is_byte_level = true;
        }
        PreTokenizerWrapper::Split(split) => {
            let what = match &split.pattern {
                SplitPattern::String(text) if text.is_empty() => return None,
                SplitPattern::String(text) => What::Text(text.clone()),
                SplitPattern::Regex(pattern) => What::Pattern(Box::new(WordPattern::new(pattern)?)),
            };
            cuts.push(Cut::new(what, split.behavior, split.invert)?);
        }
        PreTokenizerWrapper::Digits(digits) => {
            let what = What::Characters(char::is_numeric, !digits.individual_digits);
            cuts.push(Cut::new(what, Isolated, false)?);
        }
        PreTokenizerWrapper::WhitespaceSplit(_) => {
            let what = What::Characters(char::is_whitespace, false);
            cuts.push(Cut::new(what, Removed, false)?);
        }
        _ => return None,
    }
    Some(is_byte_level)
}
