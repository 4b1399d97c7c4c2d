//! Reads Hugging Face tokenizers.

use crate::error::DataError;
use crate::naming;
use crate::rendered::Rendered;
use crate::words::Words;
use r1d_job::Tokenize;
use r1d_proto::{shown, user_file};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::BPE;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};

/// A tokenizer with the special ids that the files beside it define.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The quick way to ids, if there is one.
    words: Option<Words>,
    file: PathBuf,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
    /// Special tokens by the names that chat templates use: `bos_token`, `eos_token`, …
    named: Vec<(String, String)>,
}

/// The effect of tokenising a completion's text again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    /// The ids are the same.
    Same,
    /// The text is the same, but the tokenizer chooses other ids for it.
    OtherIds,
    /// The text differs, because the ids are not text, for example parts of characters.
    OtherText,
}

/// The file of a directory that has a SentencePiece model and no tokenizer.json.
const SENTENCEPIECE_FILE: &str = "tokenizer.model";
/// The special tokens that every tokenizer may have, in the order of transformers. A file may name
/// others, such as `image_token`.
const NAMED_TOKENS: &[&str] = &[
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
];
const EXTRA_TOKENS: &str = "extra_special_tokens";
/// The name of [`EXTRA_TOKENS`] before transformers 5.
const ADDITIONAL_TOKENS: &str = "additional_special_tokens";

/// Most bytes of a tokenizer.json (`LIM-1`).
const TOKENIZER_BYTES_MAX: u64 = 1 << 30;
/// Most bytes of a file beside it (`LIM-1`).
const CONFIG_BYTES_MAX: u64 = 64 << 20;

/// Files beside `tokenizer.json`, and itself, that affect what a tokenizer does.
const FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "generation_config.json",
    "config.json",
];

/// The files that a tokenizer may have: a directory's, or those of one file and its neighbours.
pub fn looked_for(tokenizer: &Path) -> BTreeSet<PathBuf> {
    let directory = if tokenizer.is_dir() {
        tokenizer
    } else {
        tokenizer.parent().unwrap_or(Path::new("."))
    };
    let files = FILES.iter().map(|name| directory.join(name));
    files
        .chain((!tokenizer.is_dir()).then(|| tokenizer.to_path_buf()))
        .collect()
}

/// The files of a tokenizer that exist: its own and those beside it that affect it.
pub fn files(tokenizer: &Path) -> BTreeSet<PathBuf> {
    looked_for(tokenizer)
        .into_iter()
        .filter(|file| file.is_file())
        .collect()
}

impl Tokenizer {
    /// Opens a `tokenizer.json`, or a directory with one. Reads also the files beside it, if they
    /// exist, in which transformers finds special tokens, further tokens, and the ids that begin
    /// and end a sequence.
    pub fn open(path: &Path) -> Result<Tokenizer, DataError> {
        let file = if path.is_dir() {
            path.join("tokenizer.json")
        } else {
            path.to_path_buf()
        };
        let beside = file.parent().unwrap_or(Path::new("."));
        let mut inner = inner(&file)?;
        let generated = Generated::beside(beside)?;
        let own = json(&beside.join("tokenizer_config.json"))?;
        add_further_tokens(&mut inner, &own, beside)?;
        let special = special_tokens(&own, beside)?;
        let id_of = |name: &str| -> Result<Option<u32>, DataError> {
            let mut named = special.named.iter();
            let Some((_, token)) = named.find(|(n, _)| n == name) else {
                return Ok(None);
            };
            let token = &token.content;
            let missing = || DataError::Tokenizer {
                path: file.clone(),
                problem: format!(
                    "the files beside it say that its `{name}` is {token:?}, and it has no such \
                     token"
                ),
            };
            inner.token_to_id(token).map(Some).ok_or_else(missing)
        };
        let own_eos = id_of("eos_token")?;
        let own_bos = id_of("bos_token")?;
        add_special_tokens(&mut inner, &special);
        let mut eos_ids = generated.ids("eos_token_id")?;
        // The tokenizer's own end of sequence comes first, because it ends a training row.
        if let Some(own) = own_eos {
            eos_ids.retain(|id| *id != own);
            eos_ids.insert(0, own);
        }
        check_ends(&inner, &eos_ids).map_err(|problem| DataError::Tokenizer {
            path: file.clone(),
            problem,
        })?;
        let bos_id = own_bos.or(generated.ids("bos_token_id")?.first().copied());
        let named = special
            .named
            .into_iter()
            .map(|(name, token)| (name, token.content))
            .collect();
        Ok(Tokenizer {
            inner,
            words: None,
            eos_ids,
            bos_id,
            named,
            file,
        })
    }

    /// Makes encoding many times as fast, for whoever encodes much: 8 MiB for each thread that
    /// encodes at a time remember the ids of words. The ids stay the same.
    pub fn remembering_words(mut self) -> Tokenizer {
        self.words = Words::of(&self.inner);
        self
    }

    /// Whether [`Tokenizer::remembering_words`] knows how to.
    pub fn remembers_words(&self) -> bool {
        self.words.is_some()
    }

    /// The ids of `text`. `add_special` adds the ids of the tokenizer's post-processor, usually the
    /// one that begins a sequence. `add_bos_token` of tokenizer_config.json has no effect, as in
    /// `transformers` 5.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        let model = self.inner.get_model();
        let quickly = |words: &Words| words.ids(model, text, add_special);
        if let Some(ids) = self.words.as_ref().and_then(quickly) {
            return Ok(ids);
        }
        let encoding =
            self.inner
                .encode_fast(text, add_special)
                .map_err(|e| DataError::Tokenizer {
                    path: self.file.clone(),
                    problem: format!(
                        "cannot encode {:?}: {e}",
                        text.chars().take(80).collect::<String>()
                    ),
                })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// The same as [`Tokenizer::encode`] for the beginning of a sequence that continues: with the
    /// special ids before the text, and without those that some tokenizers put behind it.
    pub fn encode_open(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        let mut ids = self.encode(text, add_special)?;
        if add_special
            && ids.last().is_some_and(|id| self.eos_ids.contains(id))
            && self.encode(text, false)?.last() != ids.last()
        {
            ids.pop();
        }
        Ok(ids)
    }

    /// The ids of a whole text as a reward model reads it: the end-of-sequence id is the last.
    pub fn encode_whole(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        let mut ids = self.encode_open(text, add_special)?;
        if ids.last() != Some(&self.eos_id()) {
            ids.push(self.eos_id());
        }
        Ok(ids)
    }

    /// The ids that a stage learns from a prompt and its completion, how many of them are the
    /// prompt, and whether the prompt's last tokens change when the completion follows. If both are
    /// tokenised together, the prompt is the beginning that the ids share with the prompt's own, as
    /// in TRL.
    pub fn learned(
        &self,
        rendered: &Rendered,
        special: bool,
        tokenize: Tokenize,
    ) -> Result<(Vec<u32>, usize, bool), DataError> {
        let Rendered {
            prompt,
            whole,
            is_ended,
        } = rendered;
        let own = self.encode_open(prompt, special)?;
        let completion = whole.strip_prefix(prompt.as_str());
        let mut ids = match (tokenize, completion) {
            (Tokenize::Apart, Some(completion)) => {
                [&own[..], &self.encode(completion, false)?].concat()
            }
            _ => self.encode_open(whole, special)?,
        };
        if !is_ended
            && (completion.is_some_and(str::is_empty) || ids.last() != Some(&self.eos_id()))
        {
            ids.push(self.eos_id());
        }
        let shared = own.iter().zip(&ids).take_while(|(a, b)| a == b).count();
        Ok((ids, shared, shared < own.len()))
    }

    /// The text of ids; `skip_special` leaves out special tokens.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|e| DataError::Tokenizer {
                path: self.file.clone(),
                problem: format!("cannot decode: {e}"),
            })
    }

    /// The text of a completion without the ids that end it; every other token is shown.
    pub fn decode_completion(&self, ids: &[u32]) -> Result<String, DataError> {
        self.decode(self.without_end(ids), false)
    }

    fn without_end<'a>(&self, ids: &'a [u32]) -> &'a [u32] {
        let end = ids
            .iter()
            .rposition(|id| !self.eos_ids.contains(id))
            .map_or(0, |last| last + 1);
        ids.get(..end).unwrap_or_default()
    }

    /// Compares a completion's ids with those that training on its text would use.
    pub fn read_back(&self, ids: &[u32]) -> Result<ReadBack, DataError> {
        let text = self.decode_completion(ids)?;
        let again = self.encode(&text, false)?;
        if again == self.without_end(ids) {
            return Ok(ReadBack::Same);
        }
        let legible =
            !text.contains(char::REPLACEMENT_CHARACTER) && self.decode(&again, false)? == text;
        Ok(if legible {
            ReadBack::OtherIds
        } else {
            ReadBack::OtherText
        })
    }

    /// Ids that end a completion, at least one.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The id that ends a training row: the first of [`Tokenizer::eos_ids`].
    pub fn eos_id(&self) -> u32 {
        self.eos_ids.first().copied().unwrap_or_default()
    }

    /// The id that begins a sequence, if the tokenizer has one.
    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// Special tokens by name (`bos_token`, `eos_token`, …) as the files beside the tokenizer have
    /// them.
    pub fn named_tokens(&self) -> &[(String, String)] {
        &self.named
    }

    /// Tokens that are found in a text whatever surrounds them: content, id, and whether the token
    /// is special.
    pub fn added_tokens(&self) -> Vec<(String, u32, bool)> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        added
            .map(|(id, token)| (token.content, id, token.special))
            .collect()
    }

    /// The largest id, added tokens included.
    pub fn id_max(&self) -> u32 {
        self.inner
            .get_vocab(true)
            .into_values()
            .max()
            .unwrap_or_default()
    }

    /// Refuses a tokenizer whose largest id has no row in an embedding of `vocab_size` rows.
    pub fn check_vocabulary(&self, vocab_size: u32) -> Result<(), DataError> {
        let id_max = self.id_max();
        if id_max < vocab_size {
            return Ok(());
        }
        let fix = format!(
            "use the tokenizer that came with the model, or train a model whose config.json has \
             vocab_size of at least {}",
            id_max as u64 + 1
        );
        Err(DataError::Vocabulary {
            path: self.file.clone(),
            id_max,
            vocab_size,
            fix,
        })
    }

    /// The directory that holds the tokenizer's files.
    pub fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }
}

/// A tokenizer by byte pairs, as nearly all are.
type BpeTokenizer = TokenizerImpl<
    BPE,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

/// Special tokens as the files beside a tokenizer define them.
struct SpecialTokens {
    /// `bos_token`, `image_token`, … in the order in which they are added.
    named: Vec<(String, tokenizers::AddedToken)>,
    /// Tokens without a name of their own.
    extra: Vec<tokenizers::AddedToken>,
}

/// Finds the special tokens as transformers does: those of special_tokens_map.json take precedence
/// over those of tokenizer_config.json. If the latter has an `added_tokens_decoder`, it is of a
/// newer kind, and the map is not read.
fn special_tokens(own: &Value, beside: &Path) -> Result<SpecialTokens, DataError> {
    let map = match own.get("added_tokens_decoder") {
        Some(_) => Value::Null,
        None => json(&beside.join("special_tokens_map.json"))?,
    };
    let value = |name: &str| map.get(name).unwrap_or(&own[name]);
    let mut named = Vec::new();
    let mut add = |name: &str, value: &Value| {
        if let Some(token) =
            special_token(value).filter(|_| named.iter().all(|(known, _)| known != name))
        {
            named.push((name.to_string(), token));
        }
    };
    for name in NAMED_TOKENS {
        add(name, value(name));
    }
    let further = [own, &map]
        .into_iter()
        .filter_map(Value::as_object)
        .flatten()
        .map(|(name, _)| name);
    for name in further.filter(|name| name.ends_with("_token")) {
        add(name, value(name));
    }
    let listed = [
        own.get(EXTRA_TOKENS).unwrap_or(&own[ADDITIONAL_TOKENS]),
        &map[EXTRA_TOKENS],
        &map[ADDITIONAL_TOKENS],
    ];
    for (name, token) in listed
        .iter()
        .filter_map(|value| value.as_object())
        .flatten()
    {
        add(name, token);
    }
    let extra = listed
        .iter()
        .filter_map(|value| value.as_array())
        .flatten()
        .filter_map(special_token)
        .collect();
    Ok(SpecialTokens { named, extra })
}

/// Adds the special tokens that are not yet among those found in a text as a whole, as transformers
/// does.
fn add_special_tokens(inner: &mut tokenizers::Tokenizer, special: &SpecialTokens) {
    let known = inner.get_added_tokens_decoder();
    let is_known = |token: &&tokenizers::AddedToken| {
        known.values().any(|known| known.content == token.content)
    };
    let tokens = special
        .named
        .iter()
        .map(|(_, token)| token)
        .chain(&special.extra);
    let missing: Vec<_> = tokens.filter(|token| !is_known(token)).cloned().collect();
    inner.add_special_tokens(&missing);
}

/// Reads a token and marks it as special.
fn special_token(value: &Value) -> Option<tokenizers::AddedToken> {
    Some(match value {
        Value::String(text) => tokenizers::AddedToken::from(text.as_str(), true),
        value => {
            let mut token = added_token(value)?;
            token.special = true;
            token.normalized(value["normalized"].as_bool().unwrap_or(false))
        }
    })
}

/// Reads a tokenizer.json.
fn inner(file: &Path) -> Result<tokenizers::Tokenizer, DataError> {
    let problem = |problem: String| DataError::Tokenizer {
        path: file.into(),
        problem,
    };
    let sentencepiece = file.with_file_name(SENTENCEPIECE_FILE);
    let bytes = match user_file::read(file, TOKENIZER_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && sentencepiece.is_file() => {
            return Err(problem(format!(
                "there is none, and {} is {}",
                sentencepiece.display(),
                naming::SENTENCEPIECE
            )));
        }
        Err(e) => return Err(DataError::read(file, e)),
    };
    let head = bytes.get(..naming::HEAD_BYTES.min(bytes.len()));
    if let Some(what) = naming::instead(head.unwrap_or_default()) {
        return Err(DataError::Instead {
            path: file.into(),
            what,
        });
    }
    // A model of this kind is read in a tenth of the memory if its kind is known beforehand.
    let mut inner = match serde_json::from_slice::<BpeTokenizer>(&bytes) {
        Ok(read) => read.into(),
        Err(_) => tokenizers::Tokenizer::from_bytes(&bytes)
            .map_err(|e| problem(format!("not a tokenizer.json: {e}")))?,
    };
    // Both would change ids without our knowledge.
    inner.with_padding(None);
    inner
        .with_truncation(None)
        .map_err(|e| problem(e.to_string()))?;
    Ok(inner)
}

/// What transformers generates with: generation_config.json, or without that file what it makes of
/// config.json.
struct Generated {
    /// Files, each with an object of it.
    places: [(PathBuf, Value); 3],
}

impl Generated {
    fn beside(directory: &Path) -> Result<Generated, DataError> {
        let (generation, model) = (
            directory.join("generation_config.json"),
            directory.join("config.json"),
        );
        let (own, of_model) = (json(&generation)?, json(&model)?);
        let of_text = of_model["text_config"].clone();
        Ok(Generated {
            places: [
                (generation, own),
                (model.clone(), of_model),
                (model, of_text),
            ],
        })
    }

    /// The ids of the first object that has any for the key.
    fn ids(&self, key: &str) -> Result<Vec<u32>, DataError> {
        let found = self
            .places
            .iter()
            .map(|(file, object)| ids(file, key, &object[key]));
        let found = found.collect::<Result<Vec<_>, _>>()?;
        Ok(found
            .into_iter()
            .find(|ids| !ids.is_empty())
            .unwrap_or_default())
    }
}

/// Checks that some ids end a sequence, and that the tokenizer has them. An error says what is
/// wrong.
fn check_ends(inner: &tokenizers::Tokenizer, eos_ids: &[u32]) -> Result<(), String> {
    if eos_ids.is_empty() {
        return Err(
            "nothing beside it says which id ends a sequence: add `eos_token` to \
             tokenizer_config.json, or `eos_token_id` to generation_config.json"
                .into(),
        );
    }
    match eos_ids.iter().find(|id| inner.id_to_token(**id).is_none()) {
        None => Ok(()),
        Some(stray) => Err(format!(
            "id {stray} is said to end a sequence, and the tokenizer has no such id"
        )),
    }
}

/// Tokens by their ids.
type TokensById = BTreeMap<u32, tokenizers::AddedToken>;

/// Adds tokens that are not in tokenizer.json: those of `added_tokens_decoder`, or else of
/// added_tokens.json. A tokenizer that would give them other ids than these files is refused.
fn add_further_tokens(
    inner: &mut tokenizers::Tokenizer,
    own: &Value,
    beside: &Path,
) -> Result<(), DataError> {
    let (file, further) = match own.get("added_tokens_decoder") {
        Some(decoder) => ("tokenizer_config.json", decoded(decoder)),
        None => {
            let file = "added_tokens.json";
            (file, added(&json(&beside.join(file))?))
        }
    };
    let refused = |problem: String| DataError::Tokenizer {
        path: beside.join(file),
        problem,
    };
    for (id, token) in further.map_err(refused)? {
        let content = token.content.clone();
        // tokenizer.json takes precedence.
        if inner.token_to_id(&content).is_some() {
            continue;
        }
        if token.special {
            inner.add_special_tokens(&[token])
        } else {
            inner.add_tokens(&[token])
        };
        if inner.token_to_id(&content) != Some(id) {
            let fix = "write the tokenizer again with save_pretrained of transformers";
            return Err(refused(format!(
                "it says that {content:?} is id {id}, and behind what tokenizer.json has that id \
                 is not the next: {fix}"
            )));
        }
    }
    Ok(())
}

/// The tokens of `added_tokens_decoder`. An error says what is wrong with it.
fn decoded(decoder: &Value) -> Result<TokensById, String> {
    let wrong =
        |what: &str| format!("`added_tokens_decoder` has {what}, expected tokens by their ids");
    let entry = |(id, token): (&String, &Value)| {
        let read = || Some((id.parse::<u32>().ok()?, added_token(token)?));
        read().ok_or_else(|| {
            wrong(&format!(
                "{}: {}",
                shown::quote(id),
                shown::quote(&token.to_string())
            ))
        })
    };
    match decoder.as_object() {
        Some(entries) => entries.into_iter().map(entry).collect(),
        None => Err(wrong(&shown::quote(&decoder.to_string()))),
    }
}

/// The tokens of added_tokens.json. An error says what is wrong with it.
fn added(tokens: &Value) -> Result<TokensById, String> {
    let entry = |(text, id): (&String, &Value)| {
        let token = tokenizers::AddedToken::from(text.as_str(), false).normalized(true);
        let found = id.as_u64().and_then(|id| u32::try_from(id).ok());
        let found = found.map(|id| (id, token));
        found.ok_or_else(|| format!("{} is {id}, expected an id", shown::quote(text)))
    };
    let entries = tokens.as_object().into_iter().flatten();
    entries.map(entry).collect()
}

fn added_token(token: &Value) -> Option<tokenizers::AddedToken> {
    let flag = |name: &str| token[name].as_bool().unwrap_or(false);
    let special = flag("special");
    let added = tokenizers::AddedToken::from(content(token)?, special)
        .lstrip(flag("lstrip"))
        .rstrip(flag("rstrip"));
    Some(
        added
            .single_word(flag("single_word"))
            .normalized(token["normalized"].as_bool().unwrap_or(!special)),
    )
}

/// Reads a JSON file that may be missing: then null.
pub(crate) fn json(path: &Path) -> Result<Value, DataError> {
    let bytes = match user_file::read(path, CONFIG_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(e) => return Err(DataError::read(path, e)),
    };
    if let Some(what) = naming::instead(
        bytes
            .get(..naming::HEAD_BYTES.min(bytes.len()))
            .unwrap_or_default(),
    ) {
        return Err(DataError::Instead {
            path: path.into(),
            what,
        });
    }
    let problem = |problem: String| DataError::Tokenizer {
        path: path.into(),
        problem,
    };
    match serde_json::from_slice(&bytes).map_err(|e| problem(format!("not JSON: {e}")))? {
        object @ Value::Object(_) => Ok(object),
        other => {
            let found = shown::quote(&other.to_string());
            Err(problem(format!(
                "it holds {found}, expected a JSON object: fetch it again, or remove it"
            )))
        }
    }
}

/// Reads one id, or a list of them, from a file's key. A negative id is skipped, because
/// transformers can never meet it.
fn ids(file: &Path, key: &str, value: &Value) -> Result<Vec<u32>, DataError> {
    let id = |value: &Value| match value.as_i64() {
        Some(id) if id < 0 => Some(None),
        Some(id) => u32::try_from(id).ok().map(Some),
        None => None,
    };
    let found: Option<Vec<Option<u32>>> = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(items) => items.iter().map(id).collect(),
        other => id(other).map(|id| vec![id]),
    };
    let problem = || {
        format!(
            "`{key}` is {}, expected an id, or a list of ids",
            shown::quote(&value.to_string())
        )
    };
    let found = found.ok_or_else(|| DataError::Tokenizer {
        path: file.into(),
        problem: problem(),
    })?;
    Ok(found.into_iter().flatten().collect())
}

/// The content of a token, which is written as a string or as an object with `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
