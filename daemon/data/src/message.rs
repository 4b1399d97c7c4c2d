//! Messages of a conversation, with every key that they have.

use crate::json::Json;
use serde::{Deserialize, Serialize};

/// A message as the file has it: `role`, `content`, and other keys that a chat template may read
/// (`tool_calls`, `reasoning_content`, `name`, …).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message(Vec<(String, Json)>);

/// The value of a column that may be a text or a part of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spoken {
    /// A text.
    Text(String),
    /// Messages, at least one.
    Messages(Vec<Message>),
}

impl Message {
    /// Makes a message of text without other keys.
    pub fn new(role: &str, content: &str) -> Message {
        Message(vec![
            ("role".into(), Json::Text(role.into())),
            ("content".into(), Json::Text(content.into())),
        ])
    }

    /// Reads a list of messages. An error says which item is not a message, and why.
    pub fn list(items: &[Json]) -> Result<Vec<Message>, String> {
        items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                Message::read(item).map_err(|e| format!("message {}: {e}", index + 1))
            })
            .collect()
    }

    fn read(item: &Json) -> Result<Message, String> {
        let Json::Object(pairs) = item else {
            return Err(format!(
                "it is {}, expected `role` and `content`",
                item.kind()
            ));
        };
        match item.get("role") {
            Some(Json::Text(_)) => {}
            Some(other) => {
                return Err(format!("its `role` is {}, expected a string", other.kind()));
            }
            None => return Err("it has no `role`".into()),
        }
        match item.get("content") {
            Some(Json::Text(_)) => {}
            None | Some(Json::Null)
                if item
                    .get("tool_calls")
                    .is_some_and(|calls| *calls != Json::Null) => {}
            None => return Err("it has no `content`".into()),
            Some(Json::List(parts)) => {
                if let Some(part) = parts
                    .iter()
                    .find(|part| part.get("text").and_then(Json::as_text).is_none())
                {
                    let kind = part
                        .get("type")
                        .and_then(Json::as_text)
                        .unwrap_or_else(|| part.kind());
                    return Err(format!(
                        "a part of its `content` is of type {kind:?}, and only text is read"
                    ));
                }
            }
            Some(other) => {
                return Err(format!(
                    "its `content` is {}, expected a string",
                    other.kind()
                ));
            }
        }
        Ok(Message(pairs.clone()))
    }

    /// Who speaks: `user`, `assistant`, …
    pub fn role(&self) -> &str {
        self.get("role").and_then(Json::as_text).unwrap_or_default()
    }

    /// The value of a key; `None` if the message does not have it.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.0
            .iter()
            .find(|(name, _)| name == key)
            .map(|(_, value)| value)
    }

    /// The content as one text; empty if the message has only tool calls.
    pub fn text(&self) -> String {
        match self.get("content") {
            Some(Json::Text(text)) => text.clone(),
            Some(Json::List(parts)) => parts
                .iter()
                .filter_map(|part| part.get("text")?.as_text())
                .collect(),
            _ => String::new(),
        }
    }

    /// A key besides `role` and `content` that has a value, which the text alone would lose.
    pub fn other_key(&self) -> Option<&str> {
        let other = |(key, value): &&(String, Json)| {
            key != "role" && key != "content" && *value != Json::Null
        };
        self.0.iter().find(other).map(|(key, _)| key.as_str())
    }

    /// The message as an object, with its keys in the file's order.
    pub fn to_json(&self) -> Json {
        Json::Object(self.0.clone())
    }

    /// Appends `tag` to the text that a completion continues. Returns also the text before; `None`
    /// if the message has no text.
    pub(crate) fn tagged(&self, tag: &str) -> Option<(Message, String)> {
        let mut message = self.clone();
        let content = message
            .0
            .iter_mut()
            .find(|(key, _)| key == "content")
            .map(|(_, value)| value)?;
        let text = match content {
            Json::Text(text) => Some(text),
            Json::List(parts) => parts.iter_mut().rev().find_map(|part| match part {
                Json::Object(pairs) => pairs.iter_mut().find_map(|(key, value)| match value {
                    Json::Text(text) if key == "text" => Some(text),
                    _ => None,
                }),
                _ => None,
            }),
            _ => None,
        }?;
        let before = text.clone();
        text.push_str(tag);
        Some((message, before))
    }
}

impl Spoken {
    /// The text; for several messages, the last one's.
    pub fn text(&self) -> String {
        match self {
            Spoken::Text(text) => text.clone(),
            Spoken::Messages(messages) => messages.last().map(Message::text).unwrap_or_default(),
        }
    }
}
