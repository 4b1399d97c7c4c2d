//! Batches of stages that learn from preferences: pairs for dpo and reward models, labelled texts for pointwise reward models.

use crate::dataset::{DataSet, Row};
use crate::error::DataError;
use crate::shuffle::rows_of_step;
use crate::supervision::Order;
use crate::template::Template;
use crate::tokenizer::Tokenizer;
use r1d_proto::worker::{Labelled, Pair};

/// Everything that such a stage learns from, tokenised once. Which rows a step takes is a function of (seed, stage, step) alone.
pub struct Preferences {
    order: Order,
    /// Rows of one step.
    batch_size: u64,
    truncated: u64,
    rows: Preferred,
}

/// Rows, of one kind.
#[derive(Clone, Debug, PartialEq)]
pub enum Preferred {
    Pairs(Vec<Pair>),
    Labelled(Vec<Labelled>),
}

/// How a stage reads its rows.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    pub batch_size: u32,
    /// Tokens of a whole text.
    pub max_length: u32,
    /// Prompt and completion are one text, tokenised together, as a reward model will read it when it is asked; else a completion is tokenised by
    /// itself, as a sampler makes it.
    pub whole: bool,
}

impl Preferences {
    /// Pairs of a prompt by template, or of what both texts share at the beginning, and two completions with the end-of-sequence id behind each.
    pub fn pairs(
        data: &[(&DataSet, &Template)],
        tokenizer: &Tokenizer,
        reading: Reading,
        order: Order,
    ) -> Result<Preferences, DataError> {
        let (truncated, pairs) = read(data, |row, template| pair(row, template, tokenizer, reading))?;
        Ok(Preferences { order, batch_size: reading.batch_size as u64, truncated, rows: Preferred::Pairs(pairs) })
    }

    /// Whole texts, prompt by template and completion, and their labels.
    pub fn labelled(
        data: &[(&DataSet, &Template)],
        tokenizer: &Tokenizer,
        reading: Reading,
        order: Order,
    ) -> Result<Preferences, DataError> {
        let (truncated, texts) = read(data, |row, template| labelled(row, template, tokenizer, reading))?;
        let labels: Vec<f32> = texts.iter().map(|text| text.label).collect();
        if let (Some(data), true) = (data.first(), labels.iter().all(|label| Some(label) == labels.first())) {
            let problem = format!("all of its labels are {}: there is nothing to tell apart", labels.first().unwrap_or(&0.0));
            return Err(DataError::Source { name: data.0.name().into(), problem });
        }
        Ok(Preferences { order, batch_size: reading.batch_size as u64, truncated, rows: Preferred::Labelled(texts) })
    }

    /// Rows, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "an empty data set is refused when it is opened")]
    pub fn len(&self) -> u64 {
        match &self.rows {
            Preferred::Pairs(pairs) => pairs.len() as u64,
            Preferred::Labelled(texts) => texts.len() as u64,
        }
    }

    /// Rows with a text that was longer than `max_length` and was cut.
    pub fn truncated(&self) -> u64 {
        self.truncated
    }

    /// The rows of a step, from 0. Epochs run into each other.
    pub fn step(&self, step: u64) -> Preferred {
        let Order { seed, stage, shuffle } = self.order;
        self.picked(rows_of_step(seed, stage, step, self.batch_size, self.len(), shuffle))
    }

    pub fn all(&self) -> Preferred {
        self.rows.clone()
    }

    fn picked(&self, picked: Vec<u64>) -> Preferred {
        fn of<T: Clone>(rows: &[T], picked: Vec<u64>) -> Vec<T> {
            picked.into_iter().filter_map(|row| rows.get(row as usize).cloned()).collect()
        }
        match &self.rows {
            Preferred::Pairs(pairs) => Preferred::Pairs(of(pairs, picked)),
            Preferred::Labelled(texts) => Preferred::Labelled(of(texts, picked)),
        }
    }
}

/// Every row, and how many were cut; an error names its row.
fn read<T>(
    data: &[(&DataSet, &Template)],
    of_row: impl Fn(&Row, &Template) -> Result<(bool, T), String>,
) -> Result<(u64, Vec<T>), DataError> {
    let (mut truncated, mut made) = (0, Vec::new());
    for (data, template) in data {
        for (index, row) in data.rows().iter().enumerate() {
            let at =
                |problem: String| DataError::Source { name: data.name().into(), problem: format!("row {}: {problem}", index + 1) };
            let (cut, row) = of_row(row, template).map_err(at)?;
            truncated += u64::from(cut);
            made.push(row);
        }
    }
    Ok((truncated, made))
}

/// With whether it was cut.
fn pair(row: &Row, template: &Template, tokenizer: &Tokenizer, reading: Reading) -> Result<(bool, Pair), String> {
    let said = |error: DataError| error.to_string();
    let (Some(chosen), Some(rejected)) = (&row.chosen, &row.rejected) else {
        return Err("it is no pair: both `chosen` and `rejected` are needed".into());
    };
    if chosen == rejected {
        return Err("`chosen` and `rejected` are the same: there is nothing to prefer".into());
    }
    let shared = shared_prompt(chosen, rejected);
    let (prompt, special, chosen, rejected) = match row.prompt {
        Some(_) => (template.render(row).map_err(said)?, template.adds_special(), chosen.as_str(), rejected.as_str()),
        // Both begin with the same bytes, so the border is one of characters in both.
        None => {
            let (prompt, chosen) = chosen.split_at_checked(shared).unwrap_or_default();
            (prompt.to_string(), true, chosen, rejected.get(shared..).unwrap_or_default())
        }
    };
    let prompt_ids = tokenizer.encode_open(&prompt, special).map_err(said)?;
    let mut texts = Vec::new();
    for completion in [chosen, rejected] {
        texts.push(text(&prompt, &prompt_ids, special, completion, tokenizer, reading.whole)?);
    }
    let (Some(rejected), Some(chosen)) = (texts.pop(), texts.pop()) else { return Err("it is no pair".into()) };
    // Tokenised as one text, the two may differ from the prompt's own tokens where it ends.
    let prompt = [&chosen, &rejected]
        .iter()
        .fold(prompt_ids.len(), |shared, ids| shared.min(prompt_ids.iter().zip(ids.iter()).take_while(|(a, b)| a == b).count()));
    let max_length = reading.max_length as usize;
    if prompt == 0 {
        return Err("it has no prompt: `chosen` and `rejected` share no token at their beginning; give the row a `prompt`".into());
    }
    if prompt >= max_length {
        return Err(format!("its prompt has {prompt} tokens, of max_length = {max_length} that prompt and completion may have"));
    }
    let cut = chosen.len() > max_length || rejected.len() > max_length;
    let behind = |ids: Vec<u32>| ids.into_iter().take(max_length).skip(prompt).collect::<Vec<_>>();
    let prompt_ids = chosen.get(..prompt).unwrap_or_default().to_vec();
    Ok((cut, Pair { prompt_ids, chosen_ids: behind(chosen), rejected_ids: behind(rejected), margin: row.margin.unwrap_or(0.0) }))
}

fn labelled(row: &Row, template: &Template, tokenizer: &Tokenizer, reading: Reading) -> Result<(bool, Labelled), String> {
    let said = |error: DataError| error.to_string();
    let (Some(completion), Some(label)) = (&row.completion, row.label) else {
        return Err("both `completion` and `label` are needed".into());
    };
    let prompt = template.render(row).map_err(said)?;
    let prompt_ids = tokenizer.encode_open(&prompt, template.adds_special()).map_err(said)?;
    let mut ids = text(&prompt, &prompt_ids, template.adds_special(), completion, tokenizer, reading.whole)?;
    let cut = ids.len() > reading.max_length as usize;
    ids.truncate(reading.max_length as usize);
    Ok((cut, Labelled { ids, label }))
}

/// Prompt, completion, end-of-sequence id.
fn text(
    prompt: &str,
    prompt_ids: &[u32],
    special: bool,
    completion: &str,
    tokenizer: &Tokenizer,
    whole: bool,
) -> Result<Vec<u32>, String> {
    let said = |error: DataError| error.to_string();
    if whole {
        return tokenizer.encode_whole(&format!("{prompt}{completion}"), special).map_err(said);
    }
    let mut ids = [prompt_ids, &tokenizer.encode(completion, false).map_err(said)?].concat();
    if ids.last() != Some(&tokenizer.eos_id()) || completion.is_empty() {
        ids.push(tokenizer.eos_id());
    }
    Ok(ids)
}

/// Bytes that two whole texts share, up to the last end of a line or turn (`Assistant:`) among them.
fn shared_prompt(chosen: &str, rejected: &str) -> usize {
    let shared = chosen.char_indices().zip(rejected.chars()).take_while(|((_, a), b)| a == b).last();
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
        assert_eq!(shared_prompt("é1", "é2"), 0, "nothing ends in what they share");
        assert_eq!(shared_prompt("", "x"), 0);
    }
}
