//! A data set: its files, and how their columns are read.

use crate::error::JobError;
use crate::file::{Fields, json};
use crate::limits::SEQUENCE_MAX_TOKENS;
use crate::template::TemplateSource;
use r1d_job_macros::{Keys, Read, Write};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// A data set. A column that is `Some` must be in every row; the columns that a job's stages need
/// are `Some`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, Keys, Read, Write)]
#[settings(
    path = "data.NAME",
    meaning = "A data set and how its columns are read. A column that no key names reaches the \
               rewards as `meta`.",
    check = check
)]
pub struct DataSource {
    /// Name by which stages and evaluations read it.
    #[key(none, or = table.name().into())]
    pub name: String,
    /// Path of a JSON or Parquet file, by extension; a glob takes every file that matches, sorted
    /// by name.
    #[key(
        required = "name a .jsonl or .parquet file",
        meaning = "JSON or Parquet by its ending: .jsonl, .json, .ndjson (an object a line, or \
                   one list of objects), these with .gz or .zst, or .parquet; a glob takes every \
                   file that matches, in the order of their names. Keys below name columns, or \
                   parts of them by path: `reward_model.ground_truth`."
    )]
    pub path: PathBuf,
    /// Column of whole conversations, which stand for prompt and completion. `None`: rows without a
    /// prompt's column may still have a column `messages`.
    #[key(
        unset = "\"messages\" for rows that have such a column, and none for `prompt`",
        meaning = "Column: whole conversations, instead of `prompt` and `completion`. What comes \
                   before the last message of the assistant is the prompt, that message the \
                   completion; a conversation that ends otherwise is a prompt."
    )]
    pub messages: Option<String>,
    /// Column of the prompt: a text, or a list of messages.
    #[key(
        unset = "\"prompt\" where a stage other than pretrain or an evaluation reads the data set",
        meaning = "Column: the question, or a list of messages with `role` and `content`; their \
                   other keys (`tool_calls`, `reasoning_content`, …) reach the chat template. One \
                   that ends in the assistant's message is continued there."
    )]
    pub prompt: Option<String>,
    /// Column of the completion: a text, or messages.
    #[key(
        unset = "\"completion\" where an sft stage, or a reward-model stage with loss = \
                 \"pointwise\", reads the data set",
        meaning = "Column: what an sft stage teaches to answer, or the answer that has a `label`: \
                   a text, or messages, which the chat template writes and ends."
    )]
    pub completion: Option<String>,
    /// Column of a pair's preferred completion.
    #[key(
        unset = "\"chosen\" where a stage that learns from pairs reads the data set",
        meaning = "Column: the preferred completion, a text or messages. Rows without a `prompt` \
                   column hold whole texts or conversations in both. Of texts, what they share at \
                   the beginning, up to a line's or turn's end, is the prompt then, and no \
                   template is applied; of conversations, the messages that they share."
    )]
    pub chosen: Option<String>,
    /// Column of a pair's other completion.
    #[key(
        unset = "\"rejected\" where a stage that learns from pairs reads the data set",
        meaning = "Column: the other one."
    )]
    pub rejected: Option<String>,
    /// Column of a single text's label, 0 to 1.
    #[key(
        unset = "\"label\" where a reward-model stage with loss = \"pointwise\" reads the data set",
        meaning = "Column: how good (safe, right) the completion is, from 0 to 1; true and false \
                   are 1 and 0."
    )]
    pub label: Option<String>,
    /// Column of the smallest difference that a pair's scores should have.
    #[key(
        unset = "no margin",
        meaning = "Column: by how much a reward model's scores of a pair shall differ at least."
    )]
    pub margin: Option<String>,
    /// Column of the text that a pretrain stage reads.
    #[key(
        unset = "\"text\" where a pretrain stage reads the data set",
        meaning = "Column: what a pretrain stage reads."
    )]
    pub text: Option<String>,
    /// Column of the right answer that rewards compare with.
    #[key(
        unset = "no reference reaches the rewards",
        meaning = "Column: what the accuracy reward compares with."
    )]
    pub reference: Option<String>,
    /// Column that decides which rewards judge the row, through their `domains`.
    #[key(
        unset = "every reward judges every row",
        meaning = "Column: which rewards judge the row, by their `domains`."
    )]
    pub domain: Option<String>,
    /// Column of the tools that a chat template gets. `None`: the column `tools`, where a row has
    /// one.
    #[key(
        unset = "the column \"tools\", in rows that have one",
        meaning = "Column: what a chat template is told of tools: a list of JSON schemas, or a \
                   string that is one."
    )]
    pub tools: Option<String>,
    /// Whether each epoch has an order of its own, by the job's seed; otherwise it is the file's
    /// order.
    #[key(
        default = true,
        meaning = "Each epoch in an order of its own, by the job's seed; false: in the file's \
                   order."
    )]
    pub shuffle: bool,
    /// How its prompts are rendered.
    #[key(
        default = "r1-zero",
        meaning = "How a prompt reaches the model: \"r1-zero\" (Table 1 of the R1 paper), \
                   \"chat\" (the chat template beside the tokenizer), \"plain\" (as it is), or \
                   the path of a jinja file that sees `prompt`, `reference`, `domain` and `meta`. \
                   A file that reads `messages` is a chat template, rendered as transformers does."
    )]
    pub template: TemplateSource,
    /// Further variables of a chat template: a JSON object.
    #[key(
        with = json,
        meaning = "Further variables of a chat template, as in { enable_thinking = false }; a \
                   row's own column of this name goes before."
    )]
    pub chat_template_kwargs: String,
    /// Length limit of prompts, in tokens; rows with a longer prompt are left out.
    #[key(
        takes = count(1, SEQUENCE_MAX_TOKENS),
        unset = "every row is taken, and one whose prompt leaves the model no position for a \
                 completion is refused",
        unit = "tokens",
        meaning = "Rows whose prompt has more tokens are left out, and counted in a warning."
    )]
    pub max_prompt_length: Option<u32>,
}

impl DataSource {
    /// A data set without columns, shuffled, whose prompts are rendered without a template.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> DataSource {
        DataSource {
            name: name.into(),
            path: path.into(),
            messages: None,
            prompt: None,
            completion: None,
            chosen: None,
            rejected: None,
            label: None,
            margin: None,
            text: None,
            reference: None,
            domain: None,
            tools: None,
            shuffle: true,
            template: TemplateSource::Plain,
            chat_template_kwargs: "{}".into(),
            max_prompt_length: None,
        }
    }

    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        let parts = ["prompt", "completion", "chosen", "rejected"];
        match parts.into_iter().find(|key| from.has(key)) {
            Some(key) if self.messages.is_some() => Err(from.unsound(
                format!("`messages` names whole conversations, and `{key}` a part of one"),
                "keep one of them",
            )),
            _ => Ok(()),
        }
    }

    /// Names each of the columns `read`, which its readers take, like its key unless the file names
    /// it otherwise. A whole conversation stands for prompt and completion.
    pub(crate) fn name_columns(&mut self, read: &[&str]) {
        let is_whole = self.messages.is_some();
        for (key, column) in [
            ("prompt", &mut self.prompt),
            ("completion", &mut self.completion),
            ("chosen", &mut self.chosen),
            ("rejected", &mut self.rejected),
            ("label", &mut self.label),
            ("text", &mut self.text),
        ] {
            let is_part = ["prompt", "completion"].contains(&key);
            if column.is_none() && read.contains(&key) && !(is_whole && is_part) {
                *column = Some(key.into());
            }
        }
    }
}
