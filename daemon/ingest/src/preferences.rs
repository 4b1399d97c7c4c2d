//! Batches of stages that learn from preferences: pairs for dpo and reward models, labelled texts
//! for pointwise reward models.
//!
//! A record of a pair is its margin, the numbers of ids of its prompt and of the chosen completion
//! (4 bytes each), and the ids of prompt, chosen and rejected. A record of a text is its label (4
//! bytes) and its ids.

use crate::file::{Fields, SetError, TokenSet, bytes, ids};
use crate::key::Key;
use crate::make::{MakeError, Making};
use crate::order::{Order, Orders, StepError};
use crate::parallel::in_order;
use crate::rows::Rows;
use r1d_data::{DataError, Message, Rendered, Row, Spoken, Template, Tokenizer};
use r1d_job::Tokenize;
use r1d_proto::worker::{Labelled, Pair};
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// All rows of such a stage, tokenised once. The rows of a step are a function of (seed, stage,
/// step) alone.
#[derive(Debug)]
pub struct Preferences {
    order: Order,
    orders: Orders,
    /// Rows per step.
    batch_size: u64,
    facts: PreferencesFacts,
    set: Arc<TokenSet>,
}

#[derive(Debug, Serialize, Deserialize)]
struct PreferencesFacts {
    is_pairs: bool,
    truncated: u64,
}

/// Rows, all of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Preferred {
    /// Rows that each prefer one completion to another.
    Pairs(Vec<Pair>),
    /// Texts that each have a label.
    Labelled(Vec<Labelled>),
}

/// How a stage reads its rows.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// Whether rows are pairs; otherwise they are texts with labels.
    pub pairs: bool,
    /// Most tokens of prompt and completion together; longer texts are cut.
    pub max_length: u32,
    /// The purpose that the texts are read for.
    pub whole: Whole,
}

/// The purpose that a text is read for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub enum Whole {
    /// The text will be scored. Prompt and completion are one text that ends in the end-of-sequence
    /// id, as a reward model will read it.
    Scored,
    /// A policy will learn the completion behind its prompt.
    Learned(Tokenize),
}

/// Makes the set of a stage's rows. Pairs are a prompt by template, or the beginning that both
/// texts share, and two completions, each with the end-of-sequence id behind it. Texts with labels
/// are whole: the prompt by template, and the completion. An error names its row.
pub fn make(
    data: &[(Rows, Template)],
    tokenizer: &Tokenizer,
    reading: Reading,
    key: &Key,
    mut making: Making<'_>,
) -> Result<(), MakeError> {
    let mut facts = PreferencesFacts {
        is_pairs: reading.pairs,
        truncated: 0,
    };
    let (mut label, mut labels_differ) = (None, false);
    making.of(data.iter().map(|(rows, _)| rows.bytes()).sum());
    for (rows, template) in data {
        let preference = |index, row: Row| {
            let wrong = |problem: String| rows.wrong(index, problem);
            if reading.pairs {
                let (cut, pair) = pair(&row, template, tokenizer, reading).map_err(wrong)?;
                Ok((cut, None, encode_pair(&pair)))
            } else {
                let (cut, text) = labelled(&row, template, tokenizer, reading).map_err(wrong)?;
                Ok((cut, Some(text.label), encode_labelled(&text)))
            }
        };
        in_order(
            rows,
            &mut making,
            preference,
            |writer, (cut, of_row, record)| {
                if let Some(of_row) = of_row {
                    labels_differ |= *label.get_or_insert(of_row) != of_row;
                }
                facts.truncated += u64::from(cut);
                Ok(writer.add(&record)?)
            },
        )?;
    }
    if let (Some((rows, _)), Some(label), false) = (data.first(), label, labels_differ) {
        return Err(MakeError::Data(DataError::Source {
            name: rows.name().into(),
            problem: format!("all of its labels are {label}: there is nothing to tell apart"),
        }));
    }
    Ok(making.writer.finish(key, &facts)?)
}

impl Preferences {
    /// The rows of `set`, `batch_size` of them a step.
    pub fn open(
        set: Arc<TokenSet>,
        batch_size: u32,
        order: Order,
        orders: Orders,
    ) -> Result<Preferences, SetError> {
        Ok(Preferences {
            order,
            orders,
            batch_size: batch_size.into(),
            facts: set.facts()?,
            set,
        })
    }

    /// The number of rows, at least 1.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty data set is refused when it is made"
    )]
    pub fn len(&self) -> u64 {
        self.set.len()
    }

    /// The number of rows with a text that was longer than `max_length` and was cut.
    pub fn truncated(&self) -> u64 {
        self.facts.truncated
    }

    /// Makes the order of the epoch that a step begins in ahead of it ([`Orders::prepare`]).
    pub fn prepare(&self, step: u64) {
        (self.orders).prepare(self.order, step, self.batch_size, self.len());
    }

    /// The rows of a step, from 0. Epochs follow each other without a gap.
    pub fn step(&self, step: u64) -> Result<Preferred, StepError> {
        let rows = self
            .orders
            .rows_of_step(self.order, step, self.batch_size, self.len())?;
        Ok(self.picked(rows.into_iter())?)
    }

    /// All rows in the order of the data sets.
    pub fn all(&self) -> Result<Preferred, SetError> {
        self.picked(0..self.len())
    }

    fn picked(&self, rows: impl Iterator<Item = u64>) -> Result<Preferred, SetError> {
        if self.facts.is_pairs {
            let pairs = rows.map(|row| self.read(row, decode_pair));
            Ok(Preferred::Pairs(pairs.collect::<Result<_, _>>()?))
        } else {
            let texts = rows.map(|row| self.read(row, decode_labelled));
            Ok(Preferred::Labelled(texts.collect::<Result<_, _>>()?))
        }
    }

    fn read<T>(&self, row: u64, decode: fn(&[u8]) -> Option<T>) -> Result<T, SetError> {
        let record = self.set.record(row)?;
        decode(&record).ok_or_else(|| self.set.fault("a preference of it cannot be read"))
    }
}

fn encode_pair(pair: &Pair) -> Vec<u8> {
    let mut record = pair.margin.to_le_bytes().to_vec();
    for ids in [&pair.prompt_ids, &pair.chosen_ids] {
        record.extend((ids.len() as u32).to_le_bytes());
    }
    for ids in [&pair.prompt_ids, &pair.chosen_ids, &pair.rejected_ids] {
        record.extend(bytes(ids));
    }
    record
}

fn decode_pair(record: &[u8]) -> Option<Pair> {
    let mut fields = Fields::new(record);
    let margin = f32::from_bits(fields.u32()?);
    let (prompt, chosen) = (fields.u32()?, fields.u32()?);
    Some(Pair {
        margin,
        prompt_ids: fields.ids(prompt)?,
        chosen_ids: fields.ids(chosen)?,
        rejected_ids: ids(fields.rest()),
    })
}

fn encode_labelled(text: &Labelled) -> Vec<u8> {
    let mut record = text.label.to_le_bytes().to_vec();
    record.extend(bytes(&text.ids));
    record
}

fn decode_labelled(record: &[u8]) -> Option<Labelled> {
    let mut fields = Fields::new(record);
    Some(Labelled {
        label: f32::from_bits(fields.u32()?),
        ids: ids(fields.rest()),
    })
}

/// Reads a pair. The flag is true if one of its texts was cut.
fn pair(
    row: &Row,
    template: &Template,
    tokenizer: &Tokenizer,
    reading: Reading,
) -> Result<(bool, Pair), String> {
    let (special, texts) = rendered(row, template)?;
    let of = |rendered: &Rendered| ids_of(rendered, special, tokenizer, reading);
    let [(chosen, own), (rejected, _)] = [of(&texts[0])?, of(&texts[1])?];
    let max_length = reading.max_length as usize;
    let prompt = prompt_length(&own, [&chosen, &rejected], max_length)?;
    let cut = chosen.len() > max_length || rejected.len() > max_length;
    let behind = |ids: Vec<u32>| {
        ids.into_iter()
            .take(max_length)
            .skip(prompt)
            .collect::<Vec<_>>()
    };
    let prompt_ids = chosen.get(..prompt).unwrap_or_default().to_vec();
    let (chosen_ids, rejected_ids) = (behind(chosen), behind(rejected));
    if chosen_ids == rejected_ids {
        return Err(if cut {
            format!(
                "`chosen` and `rejected` are the same up to max_length = {max_length} tokens: \
                 raise it, or leave the row out"
            )
        } else {
            "`chosen` and `rejected` are the same tokens: there is nothing to prefer".into()
        });
    }
    for (key, ids) in [("chosen", &chosen_ids), ("rejected", &rejected_ids)] {
        if ids.is_empty() {
            return Err(format!(
                "the template writes nothing of `{key}` behind the prompt: there is nothing to \
                 learn"
            ));
        }
    }
    Ok((
        cut,
        Pair {
            prompt_ids,
            chosen_ids,
            rejected_ids,
            margin: row.margin.unwrap_or(0.0),
        },
    ))
}

/// Renders the chosen and the rejected text of a row. The flag is true if the tokenizer adds its
/// special tokens to them.
fn rendered(row: &Row, template: &Template) -> Result<(bool, [Rendered; 2]), String> {
    let (Some(chosen), Some(rejected)) = (&row.chosen, &row.rejected) else {
        return Err("it is no pair: both `chosen` and `rejected` are needed".into());
    };
    if chosen == rejected {
        return Err("`chosen` and `rejected` are the same: there is nothing to prefer".into());
    }
    match (chosen, rejected) {
        (Spoken::Messages(chosen), Spoken::Messages(rejected))
            if row.messages.is_empty() && !begins_with_answer(chosen) =>
        {
            let texts = conversations(row, chosen, rejected, template)?;
            Ok((template.adds_special(), texts))
        }
        (Spoken::Text(chosen), Spoken::Text(rejected)) if row.prompt.is_none() => {
            // Both begin with the same bytes, so the border is one of characters in both.
            let prompt = chosen
                .get(..shared_prompt(chosen, rejected))
                .unwrap_or_default()
                .to_string();
            let text = |whole: &String| Rendered {
                prompt: prompt.clone(),
                whole: whole.clone(),
                is_ended: false,
            };
            Ok((true, [text(chosen), text(rejected)]))
        }
        _ => {
            let said = |error: DataError| error.to_string();
            let text = |completion| template.render_with(row, completion).map_err(said);
            Ok((template.adds_special(), [text(chosen)?, text(rejected)?]))
        }
    }
}

/// The number of tokens that both texts share with `own`, the prompt's own. If a text is tokenised
/// as a whole, its ids may differ from those where the prompt ends.
fn prompt_length(own: &[u32], texts: [&[u32]; 2], max_length: usize) -> Result<usize, String> {
    let prompt = texts.iter().fold(own.len(), |shared, ids| {
        let same = own.iter().zip(ids.iter()).take_while(|(a, b)| a == b);
        shared.min(same.count())
    });
    if prompt == 0 {
        return Err(
            "it has no prompt: `chosen` and `rejected` share no token at their beginning; give \
             the row a `prompt`"
                .into(),
        );
    }
    if prompt >= max_length {
        return Err(format!(
            "its prompt alone has {prompt} tokens, and max_length = {max_length} is the most that \
             prompt and completion may have together: raise the stage's `max_length`, or leave \
             the row out"
        ));
    }
    Ok(prompt)
}

fn begins_with_answer(messages: &[Message]) -> bool {
    messages
        .first()
        .is_some_and(|message| message.role() == "assistant")
}

/// Reads a pair of whole conversations: the messages that both begin with are the prompt, as in
/// TRL.
fn conversations(
    row: &Row,
    chosen: &[Message],
    rejected: &[Message],
    template: &Template,
) -> Result<[Rendered; 2], String> {
    let shared = chosen
        .iter()
        .zip(rejected)
        .take_while(|(a, b)| a == b)
        .count();
    let (prompt, chosen) = chosen.split_at(shared);
    let rejected = rejected.get(shared..).unwrap_or_default();
    if prompt.is_empty() {
        return Err(
            "it has no prompt: the conversations of `chosen` and `rejected` share no message at \
             their beginning"
                .into(),
        );
    }
    if chosen.is_empty() || rejected.is_empty() {
        return Err(
            "one of the conversations of `chosen` and `rejected` is only the beginning of the \
             other"
                .into(),
        );
    }
    let row = Row {
        prompt: prompt.last().map(Message::text),
        messages: prompt.to_vec(),
        ..row.clone()
    };
    let text = |messages: &[Message]| {
        template
            .render_with(&row, &Spoken::Messages(messages.to_vec()))
            .map_err(|e| e.to_string())
    };
    Ok([text(chosen)?, text(rejected)?])
}

fn labelled(
    row: &Row,
    template: &Template,
    tokenizer: &Tokenizer,
    reading: Reading,
) -> Result<(bool, Labelled), String> {
    let said = |error: DataError| error.to_string();
    let (Some(completion), Some(label)) = (&row.completion, row.label) else {
        return Err("both `completion` and `label` are needed".into());
    };
    let rendered = template.render_with(row, completion).map_err(said)?;
    let (mut ids, _) = ids_of(&rendered, template.adds_special(), tokenizer, reading)?;
    let cut = ids.len() > reading.max_length as usize;
    ids.truncate(reading.max_length as usize);
    Ok((cut, Labelled { ids, label }))
}

/// The ids of prompt, completion and end of sequence; and the prompt's own ids.
fn ids_of(
    rendered: &Rendered,
    special: bool,
    tokenizer: &Tokenizer,
    reading: Reading,
) -> Result<(Vec<u32>, Vec<u32>), String> {
    let said = |error: DataError| error.to_string();
    let own = tokenizer
        .encode_open(&rendered.prompt, special)
        .map_err(said)?;
    let ids = match (reading.whole, rendered.is_ended) {
        (Whole::Scored, false) => tokenizer.encode_whole(&rendered.whole, special),
        (Whole::Scored, true) => tokenizer.encode_whole(rendered.whole.trim_end(), special),
        (Whole::Learned(tokenize), _) => tokenizer
            .learned(rendered, special, tokenize)
            .map(|(ids, ..)| ids),
    };
    Ok((ids.map_err(said)?, own))
}

/// The number of bytes that two whole texts share, up to the last end of a line or turn
/// (`Assistant:`) among them.
fn shared_prompt(chosen: &str, rejected: &str) -> usize {
    let shared = chosen
        .char_indices()
        .zip(rejected.chars())
        .take_while(|((_, a), b)| a == b)
        .last();
    let shared = shared.map_or(0, |((at, char), _)| at + char.len_utf8());
    let text = chosen.get(..shared).unwrap_or_default();
    text.rfind(['\n', ':']).map_or(0, |at| at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_dialogues_share_up_to_the_last_turn_is_the_prompt() {
        let chosen = "\n\nHuman: hi\n\nAssistant: Hello there";
        let rejected = "\n\nHuman: hi\n\nAssistant: Hey";
        let shared = shared_prompt(chosen, rejected);
        assert_eq!(&chosen[..shared], "\n\nHuman: hi\n\nAssistant:");
        assert_eq!(
            shared_prompt("é1", "é2"),
            0,
            "nothing ends in what they share"
        );
        assert_eq!(shared_prompt("", "x"), 0);
    }
}
