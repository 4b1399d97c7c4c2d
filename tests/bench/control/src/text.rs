//! Text of a language that is made up, and a byte-level tokenizer that knows its words.

use crate::figure::Failed;
use serde_json::{Map, Value, json};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

/// Bytes of a row's text, about.
const ROW_BYTES: usize = 1000;
const SYLLABLES: [&str; 32] = [
    "an", "be", "co", "da", "el", "fi", "gar", "hu", "in", "jo", "ka", "lem", "mi", "nor", "ou",
    "pra", "qui", "re", "sta", "ti", "un", "ver", "wo", "xe", "yl", "zen", "the", "ing", "er",
    "st", "ou", "al",
];

/// A sequence of numbers of a seed.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// A number below `end`; small ones come far more often, as a language's frequent words do.
    fn rare(&mut self, end: u64) -> u64 {
        let share = self.next() as f64 / (1u64 << 31) as f64;
        (end as f64).powf(share) as u64 - 1
    }
}

/// The word of a number: the larger the number, the longer.
fn word(mut number: u64) -> String {
    let mut word = String::new();
    loop {
        word += SYLLABLES[(number % 32) as usize];
        if number < 32 {
            return word;
        }
        number = number / 32 - 1;
    }
}

/// Writes about `bytes` bytes of rows with a text, other than those of another seed. One word
/// in ten is a number, and one in twenty is hardly met again.
pub(crate) fn write(path: &Path, bytes: u64, seed: u64) -> Result<(), Failed> {
    let mut file = BufWriter::new(fs::File::create(path)?);
    let (mut written, mut numbers) = (0, Numbers(seed));
    while written < bytes {
        let mut text = String::new();
        while text.len() < ROW_BYTES {
            match numbers.next() % 20 {
                0 | 1 => text += &(numbers.next() % 100_000).to_string(),
                2 => text += &word(numbers.next() % (1 << 30)),
                _ => text += &word(numbers.rare(1 << 16)),
            }
            text += [" ", " ", " ", " ", " ", ", ", ". ", ".\\n"][(numbers.next() % 8) as usize];
        }
        let line = format!("{{\"reference\": \"0\", \"text\": \"{text}\"}}\n");
        file.write_all(line.as_bytes())?;
        written += line.len() as u64;
    }
    Ok(file.flush()?)
}

/// Writes a tokenizer of `ids` ids into `dir`: Qwen's way to find words, and the commonest words of
/// [`write`] with all their beginnings.
pub(crate) fn write_tokenizer(dir: &Path, ids: usize) -> Result<(), Failed> {
    let mut vocabulary = Map::new();
    let mut add = |token: String| {
        let id = vocabulary.len();
        let is_new = !vocabulary.contains_key(&token);
        vocabulary.entry(token).or_insert(id.into());
        (is_new, id + 1 >= ids)
    };
    add("<|end|>".into());
    // Each byte by itself, written as GPT-2 writes it.
    let seen = |byte: &u32| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let unseen = (0..256).filter(|byte| !seen(byte)).zip(256..);
    let bytes = (0..256).filter(seen).chain(unseen.map(|(_, code)| code));
    for character in bytes.filter_map(char::from_u32) {
        add(character.to_string());
    }
    let mut merges = Vec::new();
    'words: for number in 0.. {
        let word = format!("\u{120}{}", word(number));
        let characters: Vec<char> = word.chars().collect();
        for end in 1..characters.len() {
            let (begun, next) = (String::from_iter(&characters[..end]), characters[end]);
            let (is_new, is_full) = add(format!("{begun}{next}"));
            if is_new {
                merges.push(json!([begun, next.to_string()]));
            }
            if is_full {
                break 'words;
            }
        }
    }
    let pattern = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
        "use_regex": false});
    let split = json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated",
        "invert": false});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": {"type": "NFC"},
        "added_tokens": [{"id": 0, "content": "<|end|>", "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true}],
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, bytes]},
        "post_processor": null, "decoder": bytes,
        "model": {"type": "BPE", "vocab": Value::Object(vocabulary), "merges": merges}
    });
    fs::create_dir_all(dir)?;
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string())?;
    Ok(fs::write(
        dir.join("generation_config.json"),
        r#"{"eos_token_id": 0}"#,
    )?)
}
