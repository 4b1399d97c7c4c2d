//! Encoding word by word gives the ids of the crate `tokenizers`, for every kind of tokenizer.

use crate::{file, golden};
use proptest::prelude::*;
use r1d_data::Tokenizer;
use serde_json::{Value, json};

const QWEN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const LLAMA3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);
const DEEPSEEK: [&str; 3] = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    concat!(
        r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|"##,
        r##"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|"##,
        r##"\s+(?!\S)|\s+"##,
    ),
];
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|",
    r"\s+(?!\S)|\s+",
);
/// Possessive repetition, which only backtracking has.
const CL100K: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}|",
    r" ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
);

fn split(pattern: &str, behavior: &str, invert: bool) -> Value {
    json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert})
}

fn bytes(use_regex: bool, add_prefix_space: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true,
        "use_regex": use_regex})
}

fn sequence(all: &[Value]) -> Value {
    json!({"type": "Sequence", "pretokenizers": all})
}

/// Pre-tokenizers, and whether words are found in their way.
fn pre_tokenizers() -> Vec<(&'static str, Value, bool)> {
    let isolated = |pattern| sequence(&[split(pattern, "Isolated", false), bytes(false, false)]);
    let digits = |alone| json!({"type": "Digits", "individual_digits": alone});
    let deepseek = DEEPSEEK.map(|pattern| split(pattern, "Isolated", false));
    let [numbers, letters, words] = deepseek;
    let text = json!({"type": "Split", "pattern": {"String": "a."}, "behavior": "Isolated",
        "invert": false});
    vec![
        ("gpt-2", bytes(true, false), true),
        ("qwen", isolated(QWEN), true),
        ("llama 3", isolated(LLAMA3), true),
        ("gpt-4o", isolated(O200K), true),
        (
            "deepseek",
            sequence(&[numbers, letters, words, bytes(false, false)]),
            true,
        ),
        (
            "digits",
            sequence(&[digits(true), bytes(true, false)]),
            true,
        ),
        (
            "numbers",
            sequence(&[digits(false), bytes(true, false)]),
            true,
        ),
        (
            "kept",
            sequence(&[split(r"\p{L}+|\d+", "Removed", true), bytes(false, false)]),
            true,
        ),
        (
            "left out",
            sequence(&[split(r"[\s,]+", "Removed", false), bytes(true, false)]),
            true,
        ),
        ("a text", sequence(&[text, bytes(false, false)]), true),
        (
            "blanks",
            sequence(&[json!({"type": "WhitespaceSplit"}), bytes(false, false)]),
            true,
        ),
        ("gpt-4", isolated(CL100K), false),
        ("a space before", bytes(true, true), false),
        (
            "joined",
            sequence(&[split(" ", "MergedWithNext", false), bytes(false, false)]),
            false,
        ),
        (
            "looks behind",
            isolated(r"(?<=a)b|\p{L}+|\s+(?!\S)|\s+"),
            false,
        ),
        ("looks ahead", isolated(r"\p{L}+(?!x)|\s+(?!\S)|\s+"), false),
        ("finds nothing", isolated(r"\p{L}*|\s+(?!\S)|\s+"), false),
    ]
}

/// The tokenizer `plain` with other parts.
fn made(change: impl FnOnce(&mut Value)) -> [Tokenizer; 2] {
    let path = golden("plain/tokenizer.json");
    let mut parts: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    change(&mut parts);
    let (directory, path) = file("tokenizer.json", &parts.to_string());
    let beside = directory.path().join("generation_config.json");
    std::fs::write(beside, r#"{"eos_token_id": 1}"#).unwrap();
    [(); 2].map(|()| Tokenizer::open(&path).unwrap())
}

/// A tokenizer, and the same with a memory of words.
struct Both {
    name: String,
    plain: Tokenizer,
    quick: Tokenizer,
}

impl Both {
    fn new(name: &str, [plain, quick]: [Tokenizer; 2], is_known: bool) -> Both {
        let quick = quick.remembering_words();
        assert_eq!(quick.remembers_words(), is_known, "{name}");
        Both {
            name: name.into(),
            plain,
            quick,
        }
    }

    fn check(&self, text: &str) {
        for special in [false, true, true] {
            let (ids, expected) = (
                self.quick.encode(text, special).unwrap(),
                self.plain.encode(text, special),
            );
            assert_eq!(ids, expected.unwrap(), "{}: {text:?}", self.name);
        }
    }
}

fn all() -> Vec<Both> {
    let opened = |name: &str| [(); 2].map(|()| Tokenizer::open(&golden(name)).unwrap());
    let mut all = vec![
        Both::new("plain", opened("plain"), true),
        Both::new("begin", opened("begin"), true),
        Both::new("begin-end", opened("begin-end"), true),
        Both::new("sft/qwen", opened("sft/qwen"), true),
        Both::new("sft/llama2", opened("sft/llama2"), false),
        Both::new("sft/mistral", opened("sft/mistral"), false),
    ];
    for (name, pre_tokenizer, is_known) in pre_tokenizers() {
        let tokenizers = made(|parts| parts["pre_tokenizer"] = pre_tokenizer);
        all.push(Both::new(name, tokenizers, is_known));
    }
    let nfc = json!({"type": "NFC"});
    let lower = json!({"type": "Sequence", "normalizers": [nfc, {"type": "Lowercase"}]});
    for (name, normalizer, is_known) in [("nfc", nfc, true), ("lower case", lower, false)] {
        let tokenizers = made(|parts| parts["normalizer"] = normalizer);
        all.push(Both::new(name, tokenizers, is_known));
    }
    let added = made(|parts| {
        let token = |id: u64, content: &str, flag: &str| {
            let mut token = json!({"id": id, "content": content, "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": false, "special": false});
            token[flag] = true.into();
            token
        };
        let tokens = [
            token(320, "<think>", "normalized"),
            token(321, "<|end|><", "special"),
            token(322, "don", "single_word"),
            token(323, "<l>", "lstrip"),
            token(324, "<r>", "rstrip"),
            token(325, "think", "normalized"),
            token(326, "thinking", "normalized"),
            token(327, "e\u{301}t", "normalized"),
        ];
        parts["added_tokens"].as_array_mut().unwrap().extend(tokens);
        parts["normalizer"] = json!({"type": "NFC"});
    });
    all.push(Both::new("added", added, true));
    all.push(Both::new(
        "dropout",
        made(|parts| parts["model"]["dropout"] = 0.0.into()),
        true,
    ));
    all
}

/// Texts of what tokenizers treat in their own ways, and of any characters.
fn texts() -> impl Strategy<Value = String> {
    let pieces = prop_oneof![
        8 => prop::sample::select(vec![
            "the", "The", "don't", "DON'T", "it's", "'s", "'", "a", "ab", "thinking",
            "e\u{301}", "\u{301}", "\u{212b}", "\u{4e2d}\u{6587}", "\u{304b}\u{3099}", "\u{1f600}",
            "\u{130}", "\u{17f}", "\u{1c5}", "\u{b2}", "\u{660}\u{661}",
        ]),
        4 => prop::sample::select(vec![
            "0", "1", "12", "123", "1234", "3.14", "$", "...", ",", "=>", "#{", "a.b", "_", "/",
            "//", "`", "\"",
        ]),
        6 => prop::sample::select(vec![
            " ", "  ", "   ", "\n", "\r\n", "\n\n", "\t", "\u{a0}", "\u{3000}", "\u{2028}",
            "\u{85}", "\u{b}", "\u{200b}",
        ]),
        2 => prop::sample::select(vec![
            "<|end|>", "<|end|><", "<|begin|>", "<|user|>", "<|", "|>", "<think>", "</think>",
            "<l>", "<r>", "don", "think", "e\u{301}t", "\u{e9}t",
        ]),
    ];
    let any = prop::collection::vec(any::<char>(), 0..3).prop_map(String::from_iter);
    let piece = prop_oneof![20 => pieces.prop_map(String::from), 1 => any];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

#[test]
fn words_have_the_ids_of_the_whole_text() {
    let all = all();
    let config = ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(400)
    };
    proptest!(config, |(text in texts())| {
        for both in &all {
            both.check(&text);
        }
    });
    for both in &all {
        both.check(&format!("{}a{}", " ".repeat(5000), "\n".repeat(300)));
        both.check(&"x".repeat(3000));
    }
}

#[test]
fn real_texts_have_the_ids_of_the_crate() {
    let Some(data) = std::env::var_os("R1D_TEST_DATA") else {
        eprintln!("R1D_TEST_DATA is not set: skipped");
        return;
    };
    let all = all();
    let texts = ["gsm8k/test.jsonl", "humaneval/HumanEval.jsonl"]
        .map(|name| std::fs::read_to_string(std::path::Path::new(&data).join(name)).unwrap());
    for line in texts.iter().flat_map(|text| text.lines().take(100)) {
        let row: Value = serde_json::from_str(line).unwrap();
        for text in row.as_object().unwrap().values().filter_map(Value::as_str) {
            all.iter().for_each(|both| both.check(text));
        }
    }
}
