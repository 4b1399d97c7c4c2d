//! Encodes texts word by word, with the ids of words that came before remembered: many times as
//! fast as a tokenizer of the `tokenizers` crate, which copies a text several times and keeps
//! places in it that nobody asks for. The ids are the same.
//!
//! A tokenizer is a chain: added tokens are found, the rest is normalised, cut into words, and each
//! word goes through the model by itself. So a word's ids are a function of the word. [`Words`]
//! finds the same words, and asks the model for those that it does not remember. Tokenizers and
//! texts for which that cannot be said are left to the crate.

use crate::cuts::{self, Cut, Found};
use crate::word_memory::WordMemory;
use regex_automata::hybrid::regex::Cache;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokenizers::{Encoding, Model, ModelWrapper, NormalizerWrapper, Token, Tokenizer};
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// How a tokenizer encodes, word by word.
pub(crate) struct Words {
    cuts: Vec<Cut>,
    /// The character that stands for each byte of a word, if the model is one of bytes.
    bytes: Option<[char; 256]>,
    /// The number of cuts behind which parts are brought into Unicode's form NFC, if they are.
    normalised_behind: Option<usize>,
    /// The special ids around a text.
    frame: (Vec<u32>, Vec<u32>),
    /// What the threads that are not encoding now remember; one for each that encodes at a time.
    idle: Mutex<Vec<Memory>>,
}

/// What one thread needs to encode, and remembers.
struct Memory {
    words: WordMemory,
    /// The parts of each cut's automaton that were needed so far.
    automata: Vec<Option<Cache>>,
    /// A word whose bytes are written as characters.
    spelled: String,
}

impl Words {
    /// How `tokenizer` cuts texts into words; `None` if it does so in a way that is not known here.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Words> {
        if let ModelWrapper::BPE(model) = tokenizer.get_model()
            && model.dropout.is_some_and(|dropout| dropout > 0.0)
        {
            return None;
        }
        let is_normalised = is_nfc(tokenizer.get_normalizer())?;
        let added = tokenizer.get_added_tokens_decoder().into_iter();
        let (normal, added): (Vec<_>, Vec<_>) = added.partition(|(_, token)| token.normalized);
        let mut cuts = Vec::new();
        cuts.extend(cuts::of_added(added, str::to_owned)?);
        let normalised_behind = is_normalised.then_some(cuts.len());
        let normalise: fn(&str) -> String = if is_normalised { nfc } else { str::to_owned };
        cuts.extend(cuts::of_added(normal, normalise)?);
        let is_byte_level = cuts::of_words(tokenizer.get_pre_tokenizer()?, &mut cuts)?;
        Some(Words {
            cuts,
            bytes: is_byte_level.then(characters),
            normalised_behind,
            frame: frame(tokenizer, true)?,
            idle: Mutex::default(),
        })
        .filter(|_| frame(tokenizer, false).is_some_and(|(a, b)| a.is_empty() && b.is_empty()))
    }

    /// The ids of a text; `None` if the crate has to say them, be they ids or an error.
    pub(crate) fn ids(&self, model: &ModelWrapper, text: &str, special: bool) -> Option<Vec<u32>> {
        let mut memory = self.idle().pop().unwrap_or_else(|| self.memory());
        let (before, after) = &self.frame;
        let mut ids = Vec::new();
        if special {
            ids.extend(before);
        }
        let encoded = self.part(model, text, 0, &mut memory, &mut ids);
        self.idle().push(memory);
        encoded?;
        if special {
            ids.extend(after);
        }
        Some(ids)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn memory(&self) -> Memory {
        Memory {
            words: WordMemory::new(),
            automata: self.cuts.iter().map(Cut::automaton).collect(),
            spelled: String::new(),
        }
    }

    /// Adds the ids of a part of a text that the first `cuts` cuts have left whole.
    fn part(
        &self,
        model: &ModelWrapper,
        text: &str,
        cuts: usize,
        memory: &mut Memory,
        ids: &mut Vec<u32>,
    ) -> Option<()> {
        if self.normalised_behind == Some(cuts) && !is_surely_nfc(text) {
            return self.cut(model, &nfc(text), cuts, memory, ids);
        }
        self.cut(model, text, cuts, memory, ids)
    }

    /// The same for a part that is normalised, or is not to be.
    fn cut(
        &self,
        model: &ModelWrapper,
        text: &str,
        cuts: usize,
        memory: &mut Memory,
        ids: &mut Vec<u32>,
    ) -> Option<()> {
        let Some(cut) = self.cuts.get(cuts) else {
            return self.word(model, text, memory, ids);
        };
        let mut at = 0;
        while at < text.len() {
            let automaton = memory.automata.get_mut(cuts)?.as_mut();
            let (start, end, found) = match cut.find(text, at, automaton)? {
                Some((range, found)) => (range.start, range.end, found),
                None => (text.len(), text.len(), Found::Nothing),
            };
            if at < start && cut.keeps_between() {
                self.part(model, text.get(at..start)?, cuts + 1, memory, ids)?;
            }
            match found {
                Found::Part => self.part(model, text.get(start..end)?, cuts + 1, memory, ids)?,
                Found::Id(id) => ids.push(id),
                Found::Nothing => {}
            }
            at = end;
        }
        Some(())
    }

    /// Adds the ids of a word.
    fn word(
        &self,
        model: &ModelWrapper,
        word: &str,
        memory: &mut Memory,
        ids: &mut Vec<u32>,
    ) -> Option<()> {
        if let Some(known) = memory.words.get(word) {
            ids.extend(known);
            return Some(());
        }
        let spelled = match &self.bytes {
            None => word,
            Some(characters) => {
                memory.spelled.clear();
                let bytes = word.bytes();
                memory
                    .spelled
                    .extend(bytes.filter_map(|byte| characters.get(byte as usize)));
                &memory.spelled
            }
        };
        let first = ids.len();
        let tokens = model.tokenize(spelled).ok()?;
        ids.extend(tokens.into_iter().map(|token| token.id));
        memory.words.set(word, ids.get(first..)?);
        Some(())
    }
}

/// Whether the normaliser brings texts into form NFC; false if there is none, `None` if it does
/// something else.
fn is_nfc(normaliser: Option<&NormalizerWrapper>) -> Option<bool> {
    match normaliser {
        None => Some(false),
        Some(NormalizerWrapper::NFC(_)) => Some(true),
        Some(NormalizerWrapper::Sequence(all)) => {
            let each = all.as_ref().iter().map(|one| is_nfc(Some(one)));
            each.collect::<Option<Vec<bool>>>()
                .map(|each| each.contains(&true))
        }
        Some(_) => None,
    }
}

fn is_surely_nfc(text: &str) -> bool {
    text.is_ascii() || is_nfc_quick(text.chars()) == IsNormalized::Yes
}

fn nfc(text: &str) -> String {
    text.nfc().map(|(character, _)| character).collect()
}

/// The ids that the post-processor puts before and behind a text; `None` if it does more.
fn frame(tokenizer: &Tokenizer, special: bool) -> Option<(Vec<u32>, Vec<u32>)> {
    // No tokenizer has these ids.
    let text = [u32::MAX, u32::MAX - 1];
    let tokens = text.map(|id| Token::new(id, "text".into(), (0, 4)));
    let encoding = Encoding::from_tokens(tokens.to_vec(), 0);
    let framed = tokenizer.post_process(encoding, None, special).ok()?;
    let ids = framed.get_ids();
    let at = ids.windows(text.len()).position(|ids| ids == text)?;
    Some((ids[..at].to_vec(), ids[at + text.len()..].to_vec()))
}

/// The characters by which byte-level tokenizers write bytes (GPT-2, `bytes_to_unicode`): those
/// that can be seen as they are, the others from U+0100 on.
fn characters() -> [char; 256] {
    let mut others = 0x100..;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => others.next().and_then(char::from_u32).unwrap_or_default(),
        }
    })
}
