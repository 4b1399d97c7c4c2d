use crate::{file, golden, tokenizer};
use r1d_data::Tokenizer;

#[test]
fn ids_and_texts_are_those_of_tokenizers_and_transformers() {
    for name in ["plain", "begin", "begin-end"] {
        let tokenizer = Tokenizer::open(&golden(name)).unwrap();
        let cases: serde_json::Value = serde_json::from_str(
            &std::fs::read_to_string(golden(name).join("cases.json")).unwrap(),
        )
        .unwrap();
        for case in cases["texts"].as_array().unwrap() {
            let text = case["text"].as_str().unwrap();
            let ids =
                |key: &str| -> Vec<u32> { serde_json::from_value(case[key].clone()).unwrap() };
            assert_eq!(
                tokenizer.encode(text, false).unwrap(),
                ids("ids"),
                "{name}: {text:?}"
            );
            assert_eq!(
                tokenizer.encode(text, true).unwrap(),
                ids("special_ids"),
                "{name}: {text:?}"
            );
            assert_eq!(
                tokenizer.decode(&ids("ids"), false).unwrap(),
                case["decoded"].as_str().unwrap()
            );
            assert_eq!(
                tokenizer.decode(&ids("ids"), true).unwrap(),
                case["decoded_without_special"].as_str().unwrap()
            );
        }
    }
}

#[test]
fn the_end_of_a_sequence_is_found_beside_the_tokenizer() {
    let tokenizer = tokenizer();
    assert_eq!(
        (tokenizer.eos_ids(), tokenizer.eos_id(), tokenizer.bos_id()),
        (&[1, 3][..], 1, Some(0))
    );
    let by_file = Tokenizer::open(&golden("plain/tokenizer.json")).unwrap();
    assert_eq!(by_file.eos_ids(), [1, 3]);
    assert_eq!(by_file.directory(), golden("plain"));
}

#[test]
fn a_tokenizer_without_an_end_is_refused_with_the_fix() {
    let (directory, path) = file(
        "tokenizer.json",
        &std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap(),
    );
    let message = Tokenizer::open(&path).err().unwrap().to_string();
    assert!(
        message.ends_with(
            "add `eos_token` to tokenizer_config.json, or `eos_token_id` to generation_config.json"
        ),
        "{message}"
    );
    std::fs::write(
        directory.path().join("config.json"),
        r#"{"eos_token_id": 2}"#,
    )
    .unwrap();
    assert_eq!(Tokenizer::open(&path).unwrap().eos_ids(), [2]);
    std::fs::write(
        directory.path().join("generation_config.json"),
        r#"{"eos_token_id": 99999}"#,
    )
    .unwrap();
    assert!(
        Tokenizer::open(&path)
            .err()
            .unwrap()
            .to_string()
            .contains("id 99999 is said to end a sequence")
    );
}

/// transformers fails on these files too: otherwise their content would be ignored in silence.
#[test]
fn files_beside_a_tokenizer_that_say_nonsense_are_refused_by_file_and_key() {
    let text = std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap();
    let opened = |name: &str, contents: &str| {
        let (directory, path) = file("tokenizer.json", &text);
        std::fs::write(
            directory.path().join("config.json"),
            r#"{"eos_token_id": 2}"#,
        )
        .unwrap();
        std::fs::write(directory.path().join(name), contents).unwrap();
        Tokenizer::open(&path)
            .map(|tokenizer| tokenizer.eos_ids().to_vec())
            .map_err(|error| error.to_string())
    };
    for name in ["generation_config.json", "config.json"] {
        for (contents, said) in [
            ("[]", "it holds []"),
            ("3", "it holds 3"),
            ("null", "it holds null"),
            (r#"{"eos_token_id": "x"}"#, "`eos_token_id` is \"x\""),
            (r#"{"eos_token_id": [[1]]}"#, "`eos_token_id` is [[1]]"),
            (
                r#"{"eos_token_id": [1, "2"]}"#,
                "`eos_token_id` is [1,\"2\"]",
            ),
            (r#"{"eos_token_id": 1.5}"#, "`eos_token_id` is 1.5"),
            (r#"{"eos_token_id": true}"#, "`eos_token_id` is true"),
            (
                r#"{"eos_token_id": 4294967296}"#,
                "`eos_token_id` is 4294967296",
            ),
            (
                r#"{"eos_token_id": 2, "bos_token_id": "x"}"#,
                "`bos_token_id` is \"x\"",
            ),
        ] {
            let error = opened(name, contents).unwrap_err();
            assert!(
                error.contains(&format!("/{name}: {said}, expected")),
                "{name} {contents}: {error}"
            );
        }
    }
    for (name, contents, said) in [
        (
            "config.json",
            r#"{"text_config": {"eos_token_id": "x"}}"#,
            "`eos_token_id` is \"x\"",
        ),
        ("added_tokens.json", r#"{"<x>": -1}"#, "<x> is -1"),
        ("added_tokens.json", r#"{"<x>": "7"}"#, "<x> is \"7\""),
        ("added_tokens.json", "[]", "it holds []"),
        ("special_tokens_map.json", "[]", "it holds []"),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"-1": {"content": "<x>"}}}"#,
            "`added_tokens_decoder` has -1: ",
        ),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": {"7": {"special": true}}}"#,
            "`added_tokens_decoder` has 7: ",
        ),
        (
            "tokenizer_config.json",
            r#"{"added_tokens_decoder": ["<x>"]}"#,
            "`added_tokens_decoder` has [\"<x>\"]",
        ),
        ("tokenizer_config.json", "[]", "it holds []"),
    ] {
        let error = opened(name, contents).unwrap_err();
        assert!(
            error.contains(&format!("/{name}: {said}")) && error.contains("expected"),
            "{name} {contents}: {error}"
        );
    }
    // transformers ignores these.
    for contents in [
        r#"{"eos_token_id": null}"#,
        r#"{"eos_token_id": []}"#,
        r#"{"pad_token_id": -1}"#,
        "{}",
    ] {
        assert_eq!(
            opened("generation_config.json", contents).unwrap(),
            [2],
            "{contents}"
        );
    }
    assert_eq!(
        opened("generation_config.json", r#"{"eos_token_id": [-1, 3]}"#).unwrap(),
        [3]
    );
}

#[test]
fn files_that_are_no_tokenizer_are_named() {
    let (_directory, path) = file("tokenizer.json", "{}");
    let message = Tokenizer::open(&path).err().unwrap().to_string();
    assert!(
        message.contains("tokenizer.json: not a tokenizer.json: "),
        "{message}"
    );
    let message = Tokenizer::open(std::path::Path::new("/nowhere/tokenizer.json"))
        .err()
        .unwrap()
        .to_string();
    assert_eq!(
        message,
        "cannot read /nowhere/tokenizer.json: No such file or directory (os error 2)"
    );
}

#[test]
fn a_tokenizer_that_does_not_fit_the_embedding_is_refused() {
    let tokenizer = tokenizer();
    tokenizer.check_vocabulary(tokenizer.id_max() + 1).unwrap();
    let message = tokenizer.check_vocabulary(100).unwrap_err().to_string();
    let id_max = tokenizer.id_max();
    assert!(message.contains(&format!(
        "has ids up to {id_max}, the model's embedding has 100 rows: use the tokenizer that came \
         with the model"
    )));
    assert!(
        message.ends_with(&format!("vocab_size of at least {}", id_max + 1)),
        "{message}"
    );
}

#[test]
fn a_completion_is_shown_without_its_end_and_with_every_other_token() {
    let tokenizer = tokenizer();
    let mut ids = tokenizer.encode("<|user|>a<|end|>b", false).unwrap();
    ids.push(tokenizer.eos_id());
    assert_eq!(
        tokenizer.decode_completion(&ids).unwrap(),
        "<|user|>a<|end|>b"
    );
    assert_eq!(tokenizer.decode_completion(&[1]).unwrap(), "");
}

#[test]
fn a_prompt_is_left_open() {
    let tokenizer = Tokenizer::open(&golden("begin-end")).unwrap();
    let closed = tokenizer.encode("Hi", true).unwrap();
    assert_eq!(
        (closed.first(), closed.last()),
        (Some(&0), Some(&1)),
        "this tokenizer's post-processor writes begin and end"
    );
    assert_eq!(
        tokenizer.encode_open("Hi", true).unwrap(),
        closed[..closed.len() - 1]
    );
    let written = tokenizer.encode_open("Hi<|end|>", false).unwrap();
    assert_eq!(
        written.last(),
        Some(&1),
        "an end that the text itself has stays"
    );
}
