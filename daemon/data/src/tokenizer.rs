//! Hugging Face tokenizers.

use crate::error::DataError;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    eos_ids: Vec<u32>,
    bos_id: Option<u32>,
    /// Special tokens by the names that chat templates use: `bos_token`, `eos_token`, …
    named: Vec<(String, String)>,
}

/// What becomes of a completion's ids when its text is tokenised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadBack {
    Same,
    /// The text is the same, in the ids that the tokenizer itself chooses for it.
    OtherIds,
    /// The ids are no text, as parts of characters are not: something else would be read.
    OtherText,
}

const NAMED_TOKENS: &[&str] = &["bos_token", "eos_token", "pad_token", "unk_token", "sep_token", "cls_token", "mask_token"];

impl Tokenizer {
    /// `path` is a `tokenizer.json` or a directory with one. Beside it are read, where they are: `generation_config.json`,
    /// `tokenizer_config.json` and `config.json`, for the ids that begin and end a sequence.
    pub fn open(path: &Path) -> Result<Tokenizer, DataError> {
        let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_path_buf() };
        let problem = |problem: String| DataError::Tokenizer { path: file.clone(), problem };
        let bytes = std::fs::read(&file).map_err(|e| DataError::read(&file, e))?;
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(|e| problem(format!("not a tokenizer.json: {e}")))?;
        // Both would change ids behind our back.
        inner.with_padding(None);
        inner.with_truncation(None).map_err(|e| problem(e.to_string()))?;

        let beside = file.parent().unwrap_or(Path::new("."));
        let generation = json(&beside.join("generation_config.json"))?;
        let own = json(&beside.join("tokenizer_config.json"))?;
        let model = json(&beside.join("config.json"))?;
        let named: Vec<(String, String)> =
            NAMED_TOKENS.iter().filter_map(|name| Some((name.to_string(), content(&own[*name])?.to_string()))).collect();
        let id_of = |name: &str| {
            let token = named.iter().find(|(n, _)| n == name).map(|(_, token)| token);
            token.and_then(|token| inner.token_to_id(token))
        };
        let mut eos_ids = ids(&generation["eos_token_id"]);
        if eos_ids.is_empty() && id_of("eos_token").is_none() {
            eos_ids = ids(&model["eos_token_id"]);
        }
        // The tokenizer's own end of sequence comes first: it is what ends a training row.
        if let Some(own) = id_of("eos_token") {
            eos_ids.retain(|id| *id != own);
            eos_ids.insert(0, own);
        }
        if eos_ids.is_empty() {
            let fix = "add `eos_token` to tokenizer_config.json, or `eos_token_id` to generation_config.json";
            return Err(problem(format!("nothing beside it says which id ends a sequence: {fix}")));
        }
        if let Some(stray) = eos_ids.iter().find(|id| inner.id_to_token(**id).is_none()) {
            return Err(problem(format!("id {stray} is said to end a sequence, and the tokenizer has no such id")));
        }
        let bos_id = id_of("bos_token")
            .or_else(|| ids(&generation["bos_token_id"]).first().copied())
            .or_else(|| ids(&model["bos_token_id"]).first().copied());
        Ok(Tokenizer { inner, eos_ids, bos_id, named, file })
    }

    /// Ids of `text`; `add_special` adds what the tokenizer's post-processor adds (usually the id that begins a sequence);
    /// as in `transformers` 5, `add_bos_token` of tokenizer_config.json has no say in it.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        let encoding = self.inner.encode_fast(text, add_special).map_err(|e| DataError::Tokenizer {
            path: self.file.clone(),
            problem: format!("cannot encode {:?}: {e}", text.chars().take(80).collect::<String>()),
        })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// [`Tokenizer::encode`] for the beginning of a sequence that something follows: with what a tokenizer puts in front, without the end
    /// that some put behind.
    pub fn encode_open(&self, text: &str, add_special: bool) -> Result<Vec<u32>, DataError> {
        let mut ids = self.encode(text, add_special)?;
        if add_special && ids.last().is_some_and(|id| self.eos_ids.contains(id)) && self.encode(text, false)?.last() != ids.last() {
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

    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String, DataError> {
        self.inner
            .decode(ids, skip_special)
            .map_err(|e| DataError::Tokenizer { path: self.file.clone(), problem: format!("cannot decode: {e}") })
    }

    /// The text of a completion: the ids that end it are left out, everything else is shown.
    pub fn decode_completion(&self, ids: &[u32]) -> Result<String, DataError> {
        self.decode(self.without_end(ids), false)
    }

    fn without_end<'a>(&self, ids: &'a [u32]) -> &'a [u32] {
        let end = ids.iter().rposition(|id| !self.eos_ids.contains(id)).map_or(0, |last| last + 1);
        ids.get(..end).unwrap_or_default()
    }

    /// What training on the text of a completion would train, compared with its ids.
    pub fn read_back(&self, ids: &[u32]) -> Result<ReadBack, DataError> {
        let text = self.decode_completion(ids)?;
        let again = self.encode(&text, false)?;
        if again == self.without_end(ids) {
            return Ok(ReadBack::Same);
        }
        let legible = !text.contains(char::REPLACEMENT_CHARACTER) && self.decode(&again, false)? == text;
        Ok(if legible { ReadBack::OtherIds } else { ReadBack::OtherText })
    }

    /// Ids that end a completion. At least one.
    pub fn eos_ids(&self) -> &[u32] {
        &self.eos_ids
    }

    /// The id that ends a training row: the first of [`Tokenizer::eos_ids`].
    pub fn eos_id(&self) -> u32 {
        self.eos_ids.first().copied().unwrap_or_default()
    }

    pub fn bos_id(&self) -> Option<u32> {
        self.bos_id
    }

    /// `bos_token`, `eos_token`, … as tokenizer_config.json has them.
    pub fn named_tokens(&self) -> &[(String, String)] {
        &self.named
    }

    /// Tokens that are found in a text whatever stands around them, by their content: its id, and whether it is special.
    pub fn added_tokens(&self) -> Vec<(String, u32, bool)> {
        let added = self.inner.get_added_tokens_decoder().into_iter();
        added.map(|(id, token)| (token.content, id, token.special)).collect()
    }

    /// The largest id, added tokens included.
    pub fn id_max(&self) -> u32 {
        self.inner.get_vocab(true).into_values().max().unwrap_or_default()
    }

    /// Refuses a tokenizer whose largest id has no row in an embedding of `vocab_size` rows.
    pub fn check_vocabulary(&self, vocab_size: u32) -> Result<(), DataError> {
        let id_max = self.id_max();
        if id_max < vocab_size {
            return Ok(());
        }
        let fix = format!(
            "use the tokenizer that came with the model, or train a model whose config.json has vocab_size of at least {}",
            id_max as u64 + 1
        );
        Err(DataError::Vocabulary { path: self.file.clone(), id_max, vocab_size, fix })
    }

    /// The directory that holds the tokenizer's files.
    pub fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }
}

/// A JSON file that may be missing: then null.
fn json(path: &Path) -> Result<Value, DataError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Value::Null),
        Err(e) => return Err(DataError::read(path, e)),
    };
    serde_json::from_str(&text).map_err(|e| DataError::Tokenizer { path: path.into(), problem: format!("not JSON: {e}") })
}

/// One id, or a list of them.
fn ids(value: &Value) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Value::Array(items) => items.iter().filter_map(id).collect(),
        other => id(other).into_iter().collect(),
    }
}

/// A token is written as a string or as an object with its `content`.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}
