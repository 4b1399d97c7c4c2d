//! A row of a data set, as every stage reads it.

use crate::json::Json;
use crate::message::{Message, Spoken};
use serde::{Deserialize, Serialize};

/// One row, read through the data set's column mapping.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The prompt column's text; for a list of messages, the last message's.
    pub prompt: Option<String>,
    /// The prompt column, if it is a list of messages; otherwise empty.
    pub messages: Vec<Message>,
    /// The text to learn behind the prompt: the completion column, or the last message of a
    /// conversation.
    pub completion: Option<Spoken>,
    /// The preferred completion of a pair.
    pub chosen: Option<Spoken>,
    /// The other completion of a pair.
    pub rejected: Option<Spoken>,
    /// How good the completion is, from 0 to 1.
    pub label: Option<f32>,
    /// How much better `chosen` is than `rejected`.
    pub margin: Option<f32>,
    /// The text of a pretraining row.
    pub text: Option<String>,
    /// The right answer, which rewards compare the completion with.
    pub reference: Option<String>,
    /// The kind of task, by which rewards are chosen.
    pub domain: Option<String>,
    /// The tools that a chat template gets: a list of JSON schemas, or a text that is one.
    pub tools: Option<Json>,
    /// The row's own variables for a chat template.
    pub chat_template_kwargs: Option<Json>,
    /// The other columns as a JSON object; `None` if there are no others.
    pub meta: Option<String>,
}
