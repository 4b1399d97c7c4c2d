//! Batches of stages that learn from preferences: pairs for dpo and reward models, labelled texts
//! for pointwise reward models.

use crate::dataset::DataSet;
use crate::error::DataError;
use crate::message::{Message, Spoken};
use crate::rendered::Rendered;
use crate::row::Row;
use crate::shuffle::rows_of_step;
use crate::supervision::Order;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use r1d_job::Tokenize;
use r1d_proto::worker::{Labelled, Pair};

/// All rows of such a stage, tokenised once. The rows of a step are a function of (seed, stage,
/// step) alone.
pub struct Preferences {
    order: Order,
    /// Rows per step.
    batch_size: u64,
    truncated: u64,
    rows: Preferred,
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
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// Rows per step.
    pub batch_size: u32,
    /// Most tokens of prompt and completion together; longer texts are cut.
    pub max_length: u32,
    /// The purpose that the texts are read for.
    pub whole: Whole,
}

/// The purpose that a text is read for.
#[derive(Clone, Copy, Debug)]
pub enum Whole {
    /// The text will be scored. Prompt and completion are one text that ends in the end-of-sequence
    /// id, as a reward model will read it.
    Scored,
    /// A policy will learn the completion behind its prompt.
    Learned(Tokenize),
}

impl Preferences {
    /// Reads pairs: a prompt by template, or the beginning that both texts share, and two
    /// completions, each with the end-of-sequence id behind it.
    pub fn pairs(
        data: &[(&DataSet, &Template)],
        tokenizer: &Tokenizer,
        reading: Reading,
        order: Order,
    ) -> Result<Preferences, DataError> {
        let (truncated, pairs) = read(data, |row, template| {
            pair(row, template, tokenizer, reading)
        })?;
        Ok(Preferences {
            order,
            batch_size: reading.batch_size as u64,
            truncated,
            rows: Preferred::Pairs(pairs),
        })
    }

    /// Reads whole texts (the prompt by template, and the completion) with their labels.
    pub fn labelled(
        data: &[(&DataSet, &Template)],
        tokenizer: &Tokenizer,
        reading: Reading,
        order: Order,
    ) -> Result<Preferences, DataError> {
        let (truncated, texts) = read(data, |row, template| {
            labelled(row, template, tokenizer, reading)
        })?;
        let labels: Vec<f32> = texts.iter().map(|text| text.label).collect();
        if let (Some(data), true) = (
            data.first(),
            labels.iter().all(|label| Some(label) == labels.first()),
        ) {
            let problem = format!(
                "all of its labels are {}: there is nothing to tell apart",
                labels.first().unwrap_or(&0.0)
            );
            return Err(DataError::Source {
                name: data.0.name().into(),
                problem,
            });
        }
        Ok(Preferences {
            order,
            batch_size: reading.batch_size as u64,
            truncated,
            rows: Preferred::Labelled(texts),
        })
    }

    /// The number of rows, at least 1.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty data set is refused when it is opened"
    )]
    pub fn len(&self) -> u64 {
        match &self.rows {
            Preferred::Pairs(pairs) => pairs.len() as u64,
            Preferred::Labelled(texts) => texts.len() as u64,
        }
    }

    /// The number of rows with a text that was longer than `max_length` and was cut.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The rows of a step, from 0. Epochs follow each other without a gap.
    pub fn step(&self, step: u64) -> Preferred {
        let Order {
            seed,
            stage,
            shuffle,
        } = self.order;
        self.picked(rows_of_step(
            seed,
            stage,
            step,
            self.batch_size,
            self.len(),
            shuffle,
        ))
    }

    /// All rows in the order of the data sets.
    pub fn all(&self) -> Preferred {
        self.rows.clone()
    }

    fn picked(&self, picked: Vec<u64>) -> Preferred {
        fn of<T: Clone>(rows: &[T], picked: Vec<u64>) -> Vec<T> {
            picked
                .into_iter()
                .filter_map(|row| rows.get(row as usize).cloned())
                .collect()
        }
        match &self.rows {
            Preferred::Pairs(pairs) => Preferred::Pairs(of(pairs, picked)),
            Preferred::Labelled(texts) => Preferred::Labelled(of(texts, picked)),
        }
    }
}

/// Reads every row. Returns also how many were cut; an error names its row.
fn read<T>(
    data: &[(&DataSet, &Template)],
    of_row: impl Fn(&Row, &Template) -> Result<(bool, T), String>,
) -> Result<(u64, Vec<T>), DataError> {
    let (mut truncated, mut made) = (0, Vec::new());
    for (data, template) in data {
        for (index, row) in data.rows().iter().enumerate() {
            let (cut, row) = of_row(row, template).map_err(|problem| data.wrong(index, problem))?;
            truncated += u64::from(cut);
            made.push(row);
        }
    }
    Ok((truncated, made))
}

/// Reads a pair. The flag is true if one of its texts was cut.
fn pair(
    row: &Row,
    template: &Template,
    tokenizer: &Tokenizer,
    reading: Reading,
) -> Result<(bool, Pair), String> {
    let said = |error: DataError| error.to_string();
    let (Some(chosen), Some(rejected)) = (&row.chosen, &row.rejected) else {
        return Err("it is no pair: both `chosen` and `rejected` are needed".into());
    };
    if chosen == rejected {
        return Err("`chosen` and `rejected` are the same: there is nothing to prefer".into());
    }
    let (special, texts) = match (chosen, rejected) {
        (Spoken::Messages(chosen), Spoken::Messages(rejected))
            if row.messages.is_empty() && !begins_with_answer(chosen) =>
        {
            (
                template.adds_special(),
                conversations(row, chosen, rejected, template)?,
            )
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
            (true, [text(chosen), text(rejected)])
        }
        _ => {
            let text = |completion| template.render_with(row, completion).map_err(said);
            (template.adds_special(), [text(chosen)?, text(rejected)?])
        }
    };
    let of = |rendered: &Rendered| ids_of(rendered, special, tokenizer, reading);
    let [(chosen, own), (rejected, _)] = [of(&texts[0])?, of(&texts[1])?];
    // If a text is tokenised as a whole, its ids may differ from the prompt's own where the prompt
    // ends.
    let prompt = [&chosen, &rejected].iter().fold(own.len(), |shared, ids| {
        shared.min(
            own.iter()
                .zip(ids.iter())
                .take_while(|(a, b)| a == b)
                .count(),
        )
    });
    let max_length = reading.max_length as usize;
    if prompt == 0 {
        return Err(
            "it has no prompt: `chosen` and `rejected` share no token at their beginning; give \
             the row a `prompt`"
                .into(),
        );
    }
    if prompt >= max_length {
        return Err(format!(
            "its prompt has {prompt} tokens, of max_length = {max_length} that prompt and \
             completion may have"
        ));
    }
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
