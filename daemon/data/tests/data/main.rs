//! Tests of everything that a job relies on between its data files and the worker.

mod conversations;
mod dataset;
mod files;
mod questions;
mod template;
mod tokenizer;
mod words;

use r1d_data::{DataError, Json, Message, Telling, Template, Tokenizer};
use r1d_job::{DataSource, TemplateSource};
use std::path::{Path, PathBuf};

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/golden")
        .join(name)
}

/// A byte-level BPE tokenizer of 320 ids whose end of sequence is 1.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::open(&golden("plain")).unwrap()
}

/// A data set without columns.
pub fn source(path: impl Into<PathBuf>) -> DataSource {
    DataSource::new("train", path)
}

/// A file in a directory that lives as long as the value.
pub fn file(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(name);
    std::fs::write(&path, text).unwrap();
    (directory, path)
}

/// Opens a template with a job that sets no variables.
pub fn open(source: &TemplateSource, tokenizer: &Tokenizer) -> Result<Template, DataError> {
    Template::open(source, tokenizer, &Telling::default())
}

/// Messages as a data file has them.
pub fn messages(value: &serde_json::Value) -> Vec<Message> {
    Message::list(Json::parse(&value.to_string()).unwrap().as_list().unwrap()).unwrap()
}
