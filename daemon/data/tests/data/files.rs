//! Data files as they are published: packed, pretty-printed, nested, typed; and files that are not
//! data at all.

use crate::{file, golden, source};
use arrow_array::types::IntervalDayTime;
use arrow_array::{
    Array, ArrayRef, Date32Array, IntervalDayTimeArray, RecordBatch, StringArray, StructArray,
};
use arrow_schema::{DataType, Field};
use r1d_data::{DataSet, Spoken, Tokenizer};
use r1d_job::DataSource;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn name(column: &str) -> Option<String> {
    Some(column.into())
}

fn texts(path: &Path) -> Result<Vec<String>, String> {
    let data = DataSet::open(&DataSource {
        text: name("text"),
        ..source(path)
    })
    .map_err(|e| e.to_string())?;
    Ok(data
        .rows()
        .iter()
        .map(|row| row.text.clone().unwrap())
        .collect())
}

fn refused(file_name: &str, bytes: &[u8]) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(file_name);
    std::fs::write(&path, bytes).unwrap();
    texts(&path)
        .unwrap_err()
        .replace(&format!("{}/", directory.path().display()), "")
}

const LINES: &str = "{\"text\": \"a\"}\n{\"text\": \"b\"}\n";

#[test]
fn packed_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(LINES.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let zstd = zstd::encode_all(LINES.as_bytes(), 3).unwrap();
    for (file_name, bytes) in [
        ("a.jsonl.gz", &gzip),
        ("a.json.gz", &gzip),
        ("a.jsonl.zst", &zstd),
        ("b.JSONL.GZ", &gzip),
    ] {
        let path = directory.path().join(file_name);
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(texts(&path).unwrap(), ["a", "b"], "{file_name}");
    }
    // Two members, as `cat a.gz b.gz` makes them; and a file that is cut off.
    let path = directory.path().join("two.jsonl.gz");
    std::fs::write(&path, [&gzip[..], &gzip[..]].concat()).unwrap();
    assert_eq!(texts(&path).unwrap().len(), 4);
    // Zeros between members and behind the last, which gzip, Python and Arrow pass over; anything
    // else is refused.
    let zeros = [0u8; 9000];
    std::fs::write(&path, [&gzip[..], &zeros, &gzip[..], &zeros].concat()).unwrap();
    assert_eq!(texts(&path).unwrap().len(), 4);
    std::fs::write(&path, [&gzip[..], &zeros, b"x"].concat()).unwrap();
    assert!(texts(&path).unwrap_err().starts_with("cannot read "));
    std::fs::write(&path, &gzip[..gzip.len() - 12]).unwrap();
    assert!(texts(&path).unwrap_err().starts_with("cannot read "));
}

#[test]
fn lists_and_pretty_printed_objects_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.json");
    for text in [
        "[{\"text\": \"a\"}, {\"text\": \"b\"}]",
        "[\n  {\n    \"text\": \"a\"\n  },\n  {\n    \"text\": \"b\"\n  }\n]\n",
        "{\n  \"text\": \"a\"\n}\n{\n  \"text\": \"b\"\n}\n",
        "\u{feff}[{\"text\":\"a\"},\r\n{\"text\":\"b\"}]\r\n",
    ] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(texts(&path).unwrap(), ["a", "b"], "{text}");
    }
    assert_eq!(
        refused("a.json", b"[\n {\"text\": \"a\"},\n {\"txt\": 1}\n]")
            .split(" (the")
            .next()
            .unwrap(),
        "a.json:3: no column `text`"
    );
    assert_eq!(
        refused("a.json", b"[{\"text\": \"a\"}\n {\"text\": \"b\"}]"),
        "a.json:2: not JSON: expected `,` or `]` at column 2"
    );
    assert!(refused("a.json", b"[{\"text\": \"a\"},").contains("is cut off"));
    assert_eq!(
        refused("a.json", b"[{\"text\": \"a\"}] x"),
        "a.json:1: more follows the list of rows: a file is one list of objects, or an object a \
         line (column 17)"
    );
    assert!(
        refused("a.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b\"\n")
            .starts_with("a.jsonl:2: not JSON: ")
    );
}

#[test]
fn rows_that_are_none_are_named_as_what_they_are() {
    let list = "a list with a string, expected a JSON object per row (columns by name)";
    assert_eq!(
        refused("a.jsonl", b"[\"a\", 1]\n[\"b\", 2]\n"),
        format!("a.jsonl:1: {list}")
    );
    let half = |text: &str| {
        refused(
            "a.jsonl",
            format!("{{\"text\": \"ok\"}}\n{{\"text\": \"{text}\"}}\n").as_bytes(),
        )
    };
    for (text, escape) in [
        ("a\\ud83d b", "\\ud83d"),
        ("\\uDE00", "\\uDE00"),
        ("a\\ud83d\\u0041", "\\ud83d"),
        ("\\ud83d", "\\ud83d"),
    ] {
        let message = half(text);
        assert!(
            message.starts_with(&format!(
                "a.jsonl:2: not JSON: {escape} is half of a surrogate pair"
            )),
            "{text}: {message}"
        );
    }
    assert!(
        half("\\u12g4").contains("invalid escape"),
        "{}",
        half("\\u12g4")
    );
    assert!(refused("a.jsonl", b"\"a\\ud83d b\"").contains("\\ud83d is half of a surrogate pair"));
}

#[test]
fn what_is_no_data_file_is_named_as_what_it_is() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n";
    assert_eq!(
        refused("a.jsonl", pointer),
        "a.jsonl: it is a git-lfs pointer, not the file itself: fetch it with `git lfs pull`"
    );
    assert!(refused("a.parquet", pointer).contains("git-lfs pointer"));
    assert!(refused("a.jsonl", b"<!DOCTYPE html><html>").contains("an HTML page"));
    assert!(refused("a.jsonl", b"PK\x03\x04rest").contains("a zip archive"));
    assert!(refused("a.jsonl", b"\x1f\x8b\x08rest").contains("a gzip file"));
    assert!(refused("a.jsonl", b"PAR1rest").contains("let its name end in .parquet"));
    let utf16: Vec<u8> = LINES.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(refused("a.jsonl", &[&[0xff, 0xfe], &utf16[..]].concat()).contains("UTF-16"));
    assert!(refused("a.jsonl", &utf16).contains("UTF-16"));
    let nan = refused(
        "a.jsonl",
        b"{\"text\": \"a\"}\n{\"text\": \"b\", \"score\": NaN}\n",
    );
    assert!(
        nan.starts_with("a.jsonl:2: not JSON: NaN is no JSON"),
        "{nan}"
    );
    assert!(
        refused("a.json", b"[{\"text\": \"a\",\n \"score\": -Infinity}]")
            .starts_with("a.json:2: not JSON: -Infinity is no JSON")
    );

    // A tokenizer that is another file.
    let directory = tempfile::tempdir().unwrap();
    let model = b"\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02\n\x0c\n\x03<s>\x15\0\0\0\0\x18\x03";
    std::fs::write(directory.path().join("tokenizer.model"), model).unwrap();
    let message = Tokenizer::open(directory.path()).err().unwrap().to_string();
    assert!(
        message.contains("tokenizer.model is a SentencePiece model"),
        "{message}"
    );
    std::fs::write(directory.path().join("tokenizer.json"), model).unwrap();
    assert!(
        Tokenizer::open(directory.path())
            .err()
            .unwrap()
            .to_string()
            .contains("it is a SentencePiece model")
    );
}

/// One such file could hold a thread for ever, or fill the memory.
#[test]
fn what_is_no_regular_file_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("x.jsonl");
    std::os::unix::fs::symlink("/dev/zero", &link).unwrap();
    let message = texts(&link).unwrap_err();
    assert!(
        message.contains("x.jsonl") && message.contains("only a regular file is read"),
        "{message}"
    );
    for name in [
        "tokenizer.json",
        "config.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        let directory = tempfile::tempdir().unwrap();
        if name != "tokenizer.json" {
            std::fs::copy(
                golden("plain/tokenizer.json"),
                directory.path().join("tokenizer.json"),
            )
            .unwrap();
            std::fs::write(
                directory.path().join("special_tokens_map.json"),
                r#"{"eos_token": "<|end|>"}"#,
            )
            .unwrap();
        }
        std::os::unix::fs::symlink("/proc/self/status", directory.path().join(name)).unwrap();
        let opened = Tokenizer::open(directory.path());
        let opened = opened.and_then(|tokenizer| {
            crate::open(&r1d_job::TemplateSource::Chat, &tokenizer).map(drop)
        });
        let message = opened.err().unwrap().to_string();
        assert!(
            message.contains(name) && message.contains("only a regular file is read"),
            "{message}"
        );
    }
}

/// Reads every codec that pyarrow writes, and every type: values as Python shows them, a float by
/// its shortest digits at its own width.
#[test]
fn parquet_is_read_in_every_codec_and_type() {
    let rows: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("tables/rows.json")).unwrap())
            .unwrap();
    for codec in ["none", "snappy", "gzip", "brotli", "zstd", "lz4"] {
        let path = golden(&format!("tables/{codec}.parquet"));
        for (column, _) in rows[0].as_object().unwrap() {
            let data = DataSet::open(&DataSource {
                reference: name(column),
                ..source(&path)
            })
            .unwrap();
            for (row, expected) in data.rows().iter().zip(rows.as_array().unwrap()) {
                assert_eq!(
                    row.reference.as_deref(),
                    expected[column].as_str(),
                    "{codec}: {column}"
                );
            }
        }
    }
    let path = golden("tables/zstd.parquet");
    let nested = DataSet::open(&DataSource {
        reference: name("struct.ground_truth"),
        ..source(&path)
    })
    .unwrap();
    assert_eq!(
        (
            nested.row(0).reference.as_deref(),
            nested.row(1).reference.as_deref()
        ),
        (Some("34"), None)
    );
    let meta = nested.row(0).meta.as_deref().unwrap();
    assert!(
        meta.contains(r#""struct":{"n":1.5}"#)
            && meta.contains(r#""list":[0.1,null]"#)
            && meta.contains(r#""map":{"a":1}"#),
        "{meta}"
    );
    assert!(
        meta.contains(r#""decimal":717897987691852588770249.10"#)
            && meta.contains(r#""raw":"/wA=""#),
        "{meta}"
    );
    let zoned = DataSet::open(&DataSource {
        reference: name("zoned"),
        ..source(&path)
    })
    .unwrap();
    assert_eq!(
        zoned.row(0).reference.as_deref(),
        Some("2024-01-31 12:00:00Z[Europe/Berlin]")
    );
    assert_eq!(
        nested.left_out().count(),
        0,
        "nothing of what pyarrow writes is left out"
    );
    let raw = DataSet::open(&DataSource {
        reference: name("raw"),
        ..source(&path)
    })
    .unwrap_err()
    .to_string();
    assert!(
        raw.ends_with(
            "zstd.parquet:1: column `raw` (the `reference` of [data.train]) is bytes that are no \
             text in UTF-8, expected a string"
        ),
        "{raw}"
    );
}

fn table(columns: Vec<(&str, ArrayRef)>) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("train.parquet");
    let columns = columns.into_iter().map(|(name, array)| (name, array, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    (directory, path)
}

/// Templates and rewards read `meta`: a key that one row lacks would be an empty place in a prompt.
#[test]
fn a_value_that_cannot_be_read_is_an_error_in_every_column() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a", "b"]));
    let day = Date32Array::from(vec![1, i32::MAX]);
    let nested = StructArray::from(vec![(
        Arc::new(Field::new("day", DataType::Date32, true)),
        Arc::new(day.clone()) as ArrayRef,
    )]);
    let columns: [(&str, ArrayRef); 2] = [("day", Arc::new(day)), ("nested", Arc::new(nested))];
    for (column, values) in columns {
        let (_directory, path) = table(vec![("text", text.clone()), (column, values)]);
        let message = texts(&path).unwrap_err();
        let wanted = format!("train.parquet:2: column `{column}` is no date of the calendar");
        assert!(message.ends_with(&wanted), "{message}");
    }
}

/// A type is read or not, whatever the values: its column is in every row or in none, and is named.
/// The daemon's tests plan with the golden file; `R1D_UPDATE_GOLDENS=1` rewrites it.
#[test]
fn a_column_of_a_type_that_is_not_read_is_left_out_by_name() {
    let span: ArrayRef = Arc::new(IntervalDayTimeArray::from(vec![
        None,
        Some(IntervalDayTime::new(1, 0)),
    ]));
    let field = Arc::new(Field::new("span", span.data_type().clone(), true));
    let nested: ArrayRef = Arc::new(StructArray::from(vec![(field, span.clone())]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["1 2 3", "4 5 6"]));
    let columns = vec![
        ("span", span),
        ("text", text.clone()),
        ("nested", nested),
        ("kind", text),
    ];
    let (_directory, written) = table(columns);
    let path = golden("tables/interval.parquet");
    if std::env::var_os("R1D_UPDATE_GOLDENS").is_some() {
        std::fs::copy(written, &path).unwrap();
    }
    let data = DataSet::open(&DataSource {
        text: name("text"),
        ..source(&path)
    })
    .unwrap();
    let meta: Vec<_> = data
        .rows()
        .iter()
        .map(|row| row.meta.as_deref().unwrap())
        .collect();
    assert_eq!(meta, [r#"{"kind":"1 2 3"}"#, r#"{"kind":"4 5 6"}"#]);
    let left_out: Vec<_> = data.left_out().collect();
    let why = "is of type Interval(DayTime), which is not read: write it as text or numbers";
    assert_eq!(
        left_out,
        [
            format!("column `nested` {why}"),
            format!("column `span` {why}")
        ]
    );
    for named in ["span", "nested.span"] {
        let message = DataSet::open(&DataSource {
            domain: name(named),
            ..source(&path)
        })
        .unwrap_err()
        .to_string();
        let (column, _) = named.split_once('.').unwrap_or((named, ""));
        assert!(
            message.ends_with(&format!("interval.parquet: column `{column}` {why}")),
            "{message}"
        );
    }
}

/// 3^50 is an answer: with one digit less, the right answer would score 0.
#[test]
fn numbers_reach_prompt_and_rewards_as_they_are_written() {
    let text = r#"{"text": "a", "answer": 717897987691852588770249, "price": 1.10, "deep": {"n": [18446744073709551616, 1e400]}}"#;
    let (_directory, path) = file("a.jsonl", text);
    let open = |column: &str| {
        DataSet::open(&DataSource {
            reference: name(column),
            ..source(&path)
        })
        .unwrap()
    };
    assert_eq!(
        open("answer").row(0).reference.as_deref(),
        Some("717897987691852588770249")
    );
    assert_eq!(open("price").row(0).reference.as_deref(), Some("1.10"));
    assert_eq!(
        open("deep.n.0").row(0).reference.as_deref(),
        Some("18446744073709551616")
    );
    assert_eq!(
        open("price").row(0).meta.as_deref().unwrap(),
        r#"{"text":"a","answer":717897987691852588770249,"deep":{"n":[18446744073709551616,1e400]}}"#
    );
    let (_directory, template) = file(
        "own.jinja",
        "{{ prompt }} {{ meta.answer + 1 }} {{ meta.deep.n[0] }}",
    );
    let template = crate::open(
        &r1d_job::TemplateSource::File(template),
        &crate::tokenizer(),
    )
    .unwrap();
    let data = DataSet::open(&DataSource {
        prompt: name("text"),
        ..source(&path)
    })
    .unwrap();
    assert_eq!(
        template.render(data.row(0)).unwrap(),
        "a 717897987691852588770250 18446744073709551616"
    );
}

/// In DAPO-Math and verl's sets the answer is a part of a column.
#[test]
fn a_part_of_a_column_is_named_by_its_path() {
    let text = r#"{"prompt": [{"content": "1+1?", "role": "user"}], "reward_model": {"ground_truth": "2", "style": "rule"}, "a.b": "whole", "a": {"b": "part"}}"#;
    let (_directory, path) = file("a.jsonl", text);
    let open = |reference: &str| {
        DataSet::open(&DataSource {
            prompt: name("prompt"),
            reference: name(reference),
            ..source(&path)
        })
    };
    let data = open("reward_model.ground_truth").unwrap();
    let meta = r#"{"reward_model":{"style":"rule"},"a.b":"whole","a":{"b":"part"}}"#;
    assert_eq!(
        (
            data.row(0).reference.as_deref(),
            data.row(0).meta.as_deref()
        ),
        (Some("2"), Some(meta))
    );
    assert_eq!(
        open("a.b").unwrap().row(0).reference.as_deref(),
        Some("whole"),
        "a column of the whole name comes first"
    );
    let message = open("reward_model.answer").unwrap_err().to_string();
    assert!(
        message.contains("a.jsonl:1: no column `reward_model.answer`"),
        "{message}"
    );
}

#[test]
fn rows_may_be_conversations_alone() {
    let text = r#"{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Bye!"}], "id": 1}"#;
    let (_directory, path) = file("a.jsonl", text);
    let by_itself = DataSource {
        prompt: name("prompt"),
        completion: name("completion"),
        ..source(&path)
    };
    for columns in [
        by_itself,
        DataSource {
            messages: name("messages"),
            ..source(&path)
        },
    ] {
        let data = DataSet::open(&columns).unwrap();
        let row = data.row(0);
        assert_eq!(
            (row.messages.len(), row.prompt.as_deref()),
            (3, Some("Bye"))
        );
        assert_eq!(
            row.completion.as_ref().map(Spoken::text).as_deref(),
            Some("Bye!")
        );
        assert_eq!(row.meta.as_deref(), Some(r#"{"id":1}"#));
    }
    let (_directory, path) = file(
        "a.jsonl",
        r#"{"messages": [{"from": "human", "value": "Hi"}]}"#,
    );
    let message = DataSet::open(&DataSource {
        messages: name("messages"),
        ..source(&path)
    })
    .unwrap_err()
    .to_string();
    assert!(
        message.contains("a.jsonl:1: column `messages`")
            && message.contains("message 1: it has no `role`"),
        "{message}"
    );
}

/// Content that a text cannot show is never left out in silence.
#[test]
fn parts_of_a_message_that_are_no_text_are_refused() {
    let text = r#"{"prompt": [{"role": "user", "content": [{"type": "image", "url": "x.png"}, {"type": "text", "text": "What?"}]}]}"#;
    let (_directory, path) = file("a.jsonl", text);
    let message = DataSet::open(&DataSource {
        prompt: name("prompt"),
        ..source(&path)
    })
    .unwrap_err()
    .to_string();
    assert!(
        message.contains("a part of its `content` is of type \"image\", and only text is read"),
        "{message}"
    );
}
