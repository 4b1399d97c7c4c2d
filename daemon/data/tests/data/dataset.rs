use crate::{file, source};
use arrow_array::builder::{Int64Builder, ListBuilder, StringBuilder};
use arrow_array::{ArrayRef, RecordBatch};
use r1d_data::{DataSet, Row, Spoken, dataset};
use r1d_job::DataSource;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `question` → prompt, `answer` → reference, `kind` → domain.
fn questions(path: &Path) -> DataSource {
    DataSource {
        prompt: Some("question".into()),
        reference: Some("answer".into()),
        domain: Some("kind".into()),
        ..source(path)
    }
}

fn error(name: &str, text: &str) -> String {
    let (directory, path) = file(name, text);
    let error = DataSet::open(&questions(&path)).unwrap_err().to_string();
    // Who keeps no rows finds the same.
    let checked = dataset::check(&questions(&path)).unwrap_err();
    assert_eq!(checked.to_string(), error);
    error.replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn columns_are_mapped_and_the_others_are_meta() {
    let text = r#"{"question": "1+1?", "answer": 2, "kind": "math", "id": 7, "tags": ["a", null]}

{"question": "Why?", "answer": null, "kind": "words"}
"#;
    // Some editors save a byte order mark.
    let (_directory, path) = file("train.jsonl", &format!("\u{feff}{text}"));
    let data = DataSet::open(&questions(&path)).unwrap();
    let expected = [
        Row {
            prompt: Some("1+1?".into()),
            reference: Some("2".into()),
            domain: Some("math".into()),
            meta: Some(r#"{"id":7,"tags":["a",null]}"#.into()),
            ..Row::default()
        },
        Row {
            prompt: Some("Why?".into()),
            domain: Some("words".into()),
            ..Row::default()
        },
    ];
    assert_eq!(data.rows(), expected);
    assert_eq!((data.len(), data.name()), (2, "train"));
    assert_eq!(data.row(3), &expected[1]);
}

#[test]
fn mistakes_name_file_line_and_column() {
    let good = r#"{"question": "a", "answer": "b", "kind": "c"}"#;
    assert_eq!(
        error(
            "train.jsonl",
            &format!("{good}\n{{\"prompt\": \"a\", \"answer\": \"b\"}}\n")
        ),
        "train.jsonl:2: no column `question` (the `prompt` of [data.train]); the row's columns \
         are `prompt`, `answer`; write prompt = \"prompt\" in [data.train]"
    );
    assert_eq!(
        error("a.jsonl", &good.replace("\"a\"", "17")),
        "a.jsonl:1: column `question` (the `prompt` of [data.train]) is a number, expected a string"
    );
    assert_eq!(
        error("a.jsonl", &good.replace("\"b\"", "{}")),
        "a.jsonl:1: column `answer` (the `reference` of [data.train]) is an object, expected a \
         string"
    );
    assert_eq!(
        error("a.jsonl", &format!("{good}\n{good},\n")),
        "a.jsonl:2: not JSON: trailing characters at column 46"
    );
    assert_eq!(
        error("a.jsonl", "[1]"),
        "a.jsonl:1: a list with a number, expected a JSON object per row (columns by name)"
    );
    assert_eq!(error("a.jsonl", "\n"), "data.train: a.jsonl has no row");
    assert_eq!(
        error("a.csv", "question,answer"),
        "data.train: a.csv is neither JSON nor Parquet: its name must end in .jsonl, .json, \
         .ndjson (or one of these with .gz or .zst) or .parquet"
    );
    assert!(
        error("a.parquet", "PAR1 it is not")
            .starts_with("a.parquet: not a Parquet file that can be read: ")
    );
    assert!(
        error("a.jsonl", &good.replace("\"a\"", "[1]"))
            .contains("expected a string or a list of messages with `role` and `content`")
    );
    let missing = DataSet::open(&questions(Path::new("/nowhere/a.jsonl")))
        .unwrap_err()
        .to_string();
    assert_eq!(
        missing,
        "`data.train.path`: there is no /nowhere/a.jsonl; there is no directory /nowhere (a \
         relative path begins where the job file is)"
    );
    let nothing = DataSet::open(&questions(Path::new("/nowhere/*.jsonl")))
        .unwrap_err()
        .to_string();
    assert_eq!(
        nothing,
        "data.train: `path`: no file matches /nowhere/*.jsonl; a relative pattern begins where \
         the job file is"
    );
}

#[test]
fn a_file_that_does_not_exist_is_told_with_its_key_and_a_similar_name() {
    let (directory, path) = file("train.jsonl", "{}");
    let refused = |name: &str| {
        let source = questions(&path.with_file_name(name));
        let error = DataSet::open(&source).unwrap_err().to_string();
        error.replace(&directory.path().display().to_string(), "DIR")
    };
    assert_eq!(
        refused("trian.jsonl"),
        "`data.train.path`: there is no DIR/trian.jsonl; there is `train.jsonl` in its directory"
    );
    assert!(
        refused("gsm8k").ends_with("and r1d downloads nothing"),
        "{}",
        refused("gsm8k")
    );
}

#[test]
fn a_column_that_is_missing_or_null_is_told_with_its_key_and_what_to_write() {
    let (_directory, path) = file("a.jsonl", "{\"question\": \"1+1?\", \"answer\": \"2\"}");
    let sft = DataSource {
        completion: Some("completion".into()),
        ..questions(&path)
    };
    let error = DataSet::open(&DataSource {
        domain: None,
        ..sft
    })
    .unwrap_err();
    let error = error.to_string();
    assert!(
        error.ends_with(
            "no column `completion` (the `completion` of [data.train]); the row's columns are \
             `question`, `answer`; add completion = \"answer\" to [data.train]"
        ),
        "{error}"
    );
    assert_eq!(
        self::error("b.jsonl", r#"{"question": null, "answer": 1, "kind": "a"}"#),
        "b.jsonl:1: column `question` (the `prompt` of [data.train]) is null, expected a string"
    );
}

#[test]
fn a_row_that_is_cut_is_named_by_its_own_line() {
    let cut = r#"{"question": "a", "answer": "b""#;
    for text in [format!("{cut}\n"), format!("{cut}\n{cut}}}\n")] {
        let error = error("a.jsonl", &text);
        assert!(error.starts_with("a.jsonl:1: not JSON: "), "{error}");
    }
}

#[test]
fn a_file_that_is_not_utf8_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.jsonl");
    std::fs::write(
        &path,
        b"{\"question\": \"a\", \"answer\": \"b\", \"kind\": \"c\"}\n\xff\xfe\n",
    )
    .unwrap();
    assert!(
        DataSet::open(&questions(&path))
            .unwrap_err()
            .to_string()
            .ends_with("a.jsonl:2: not UTF-8")
    );
}

#[test]
fn a_glob_takes_its_files_in_the_order_of_their_names() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["b", "a", "c"] {
        std::fs::write(
            directory.path().join(format!("{name}.jsonl")),
            format!("{{\"text\": \"{name}\"}}\n"),
        )
        .unwrap();
    }
    let data = DataSet::open(&DataSource {
        text: Some("text".into()),
        ..source(directory.path().join("*.jsonl"))
    })
    .unwrap();
    assert_eq!(
        data.rows()
            .iter()
            .map(|row| row.text.as_deref().unwrap())
            .collect::<String>(),
        "abc"
    );
}

#[test]
fn a_prompt_may_be_a_conversation() {
    let text = r#"{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}], "completion": [{"role": "assistant", "content": "Hello"}]}"#;
    let (_directory, path) = file("train.jsonl", text);
    let data = DataSet::open(&DataSource {
        prompt: Some("prompt".into()),
        completion: Some("completion".into()),
        ..source(&path)
    })
    .unwrap();
    assert_eq!(
        data.row(0)
            .messages
            .iter()
            .map(|m| m.role())
            .collect::<Vec<_>>(),
        ["system", "user"]
    );
    assert_eq!(
        (
            data.row(0).prompt.as_deref(),
            data.row(0).completion.as_ref().map(Spoken::text)
        ),
        (Some("Hi"), Some("Hello".into()))
    );
}

fn parquet(directory: &Path) -> PathBuf {
    let mut answers = Int64Builder::new();
    answers.append_value(2);
    answers.append_null();
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.append_value([Some("a")]);
    tags.append_value([Some("b"), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        (
            "question",
            Arc::new(arrow_array::StringArray::from(vec!["1+1?", "Why?"])),
        ),
        ("answer", Arc::new(answers.finish())),
        (
            "kind",
            Arc::new(arrow_array::StringArray::from(vec!["math", "words"])),
        ),
        ("tags", Arc::new(tags.finish())),
    ];
    let batch = RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .unwrap();
    let path = directory.join("train.parquet");
    let mut writer = parquet::arrow::ArrowWriter::try_new(
        std::fs::File::create(&path).unwrap(),
        batch.schema(),
        None,
    )
    .unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    path
}

#[test]
fn parquet_reads_as_the_same_rows() {
    let directory = tempfile::tempdir().unwrap();
    let path = parquet(directory.path());
    let from_parquet = DataSet::open(&questions(&path)).unwrap();
    let text = r#"{"question": "1+1?", "answer": 2, "kind": "math", "tags": ["a"]}
{"question": "Why?", "answer": null, "kind": "words", "tags": ["b", null]}"#;
    let (_directory, jsonl) = file("train.jsonl", text);
    assert_eq!(
        from_parquet.rows(),
        DataSet::open(&questions(&jsonl)).unwrap().rows()
    );
    let other = DataSource {
        prompt: Some("prompt".into()),
        ..source(&path)
    };
    let message = DataSet::open(&other).unwrap_err().to_string();
    assert!(
        message.contains("train.parquet:1: no column `prompt`")
            && message.contains("`question`, `answer`, `kind`, `tags`"),
        "{message}"
    );
}
