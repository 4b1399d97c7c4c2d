//! Prompts of a data set, rendered and tokenised once.
//!
//! A record is the row's index (8 bytes), the number of token ids (4 bytes), the ids, and the text.

use crate::file::{Fields, SetError, TokenSet};
use crate::key::Key;
use crate::make::{MakeError, Making};
use crate::parallel::in_order;
use crate::rows::Rows;
use r1d_data::{DataError, Row, Template, Tokenizer};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A row's prompt, as text and as ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Prompt {
    /// Index of the row in the data set.
    pub row: u64,
    /// The prompt as the template renders it, without special ids that the tokenizer adds.
    pub text: String,
    /// The ids that a completion continues.
    pub ids: Vec<u32>,
}

/// Limits on a prompt's length, in tokens.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Lengths {
    /// Rows with a longer prompt are left out.
    pub max_prompt_length: Option<u32>,
    /// Positions of the model. A prompt that leaves none of them to a completion is refused.
    pub positions: Option<u64>,
}

/// One prompt per row, in the data set's order, except for rows that are left out.
#[derive(Clone, Debug)]
pub struct Prompts {
    set: Arc<TokenSet>,
    facts: Arc<PromptsFacts>,
    /// The records that are kept; `None`: all.
    kept: Option<Arc<Vec<u64>>>,
    length_max: u32,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct PromptsFacts {
    left_out: u64,
    adds_special: bool,
    length_max: u32,
    /// The number of prompts by the domain of their rows.
    domains: BTreeMap<Option<String>, u64>,
}

impl Prompts {
    /// Renders and tokenises every row. An error names the first row that fails; if prompts are too
    /// long, it has their number too.
    pub fn make(
        rows: &Rows,
        template: &Template,
        tokenizer: &Tokenizer,
        lengths: Lengths,
        key: &Key,
        mut making: Making<'_>,
    ) -> Result<(), MakeError> {
        let mut facts = PromptsFacts {
            adds_special: template.adds_special(),
            ..PromptsFacts::default()
        };
        let mut too_long: Option<(u64, usize, u64)> = None;
        let prompt = |index, row: Row| {
            let rendered = template.prompt_ids(&row, tokenizer);
            let (text, ids) = rendered.map_err(|e| rows.wrong(index, e))?;
            Ok((index, row.domain, text, ids))
        };
        making.of(rows.bytes());
        in_order(
            rows,
            &mut making,
            prompt,
            |writer, (index, domain, text, ids)| {
                let tokens = ids.len();
                if lengths
                    .max_prompt_length
                    .is_some_and(|max| tokens > max as usize)
                {
                    facts.left_out += 1;
                } else if lengths
                    .positions
                    .is_some_and(|positions| tokens as u64 >= positions)
                {
                    let (_, _, count) = too_long.get_or_insert((index, tokens, 0));
                    *count += 1;
                } else {
                    facts.length_max = facts.length_max.max(tokens as u32);
                    *facts.domains.entry(domain).or_default() += 1;
                    writer.add(&encode(index, &ids, &text))?;
                }
                Ok(())
            },
        )?;
        if let (Some(too_long), Some(positions)) = (too_long, lengths.positions) {
            return Err(beyond(rows, too_long, positions).into());
        }
        if making.writer.is_empty() {
            let max = lengths.max_prompt_length.unwrap_or(0);
            let problem =
                format!("every prompt has more than max_prompt_length = {max} tokens: raise it");
            return Err(MakeError::Data(DataError::Source {
                name: rows.name().into(),
                problem,
            }));
        }
        Ok(making.writer.finish(key, &facts)?)
    }

    /// The prompts of `set`.
    pub fn open(set: Arc<TokenSet>) -> Result<Prompts, SetError> {
        let facts: PromptsFacts = set.facts()?;
        Ok(Prompts {
            length_max: facts.length_max,
            facts: Arc::new(facts),
            kept: None,
            set,
        })
    }

    /// The number of prompts, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.kept
            .as_ref()
            .map_or(self.set.len(), |kept| kept.len() as u64)
    }

    /// The number of rows without a prompt here, because theirs is longer than `max_prompt_length`
    /// or because of [`Self::keep`].
    pub fn left_out(&self) -> u64 {
        self.facts.left_out + self.set.len() - self.len()
    }

    /// The prompt at `place`, which is below their number.
    pub fn at(&self, place: u64) -> Result<Prompt, SetError> {
        let record = self.set.record(self.record_of(place))?;
        decode(&record).ok_or_else(|| self.set.fault("a prompt of it cannot be read"))
    }

    /// The prompt of a row of the data set; `None` if the row is left out.
    pub fn of_row(&self, row: u64) -> Result<Option<Prompt>, SetError> {
        // A row's place is at most its own number, and is that where no row is left out.
        let (mut low, mut high) = (0, self.len().min(row.saturating_add(1)));
        let mut middle = high.saturating_sub(1);
        while low < high {
            let at = self.row_at(middle)?;
            if at == row {
                return self.at(middle).map(Some);
            }
            if at < row {
                low = middle + 1;
            } else {
                high = middle;
            }
            middle = low + (high - low) / 2;
        }
        Ok(None)
    }

    /// The row of the prompt at `place`.
    fn row_at(&self, place: u64) -> Result<u64, SetError> {
        let range = self.set.range(self.record_of(place))?;
        let head = self.set.data(range.start..range.end.min(range.start + 8))?;
        Fields::new(&head)
            .u64()
            .ok_or_else(|| self.set.fault("a prompt of it cannot be read"))
    }

    fn record_of(&self, place: u64) -> u64 {
        match &self.kept {
            None => place,
            Some(kept) => kept.get(place as usize).copied().unwrap_or(u64::MAX),
        }
    }

    /// Whether the ids have the tokenizer's special ids, which the texts lack.
    pub fn adds_special(&self) -> bool {
        self.facts.adds_special
    }

    /// The rows that have a prompt.
    pub fn rows(&self) -> Result<BTreeSet<u64>, SetError> {
        (0..self.len()).map(|place| self.row_at(place)).collect()
    }

    /// The number of prompts by the domain of their rows, before [`Self::keep`].
    pub fn domains(&self) -> impl Iterator<Item = (Option<&str>, u64)> {
        let domains = self.facts.domains.iter();
        domains.map(|(domain, count)| (domain.as_deref(), *count))
    }

    /// Keeps only the prompts of these rows, which must include at least one.
    pub fn keep(&mut self, rows: &BTreeSet<u64>) -> Result<(), SetError> {
        let (mut kept, mut length_max) = (Vec::new(), 0);
        for place in 0..self.len() {
            let prompt = self.at(place)?;
            if rows.contains(&prompt.row) {
                kept.push(self.record_of(place));
                length_max = length_max.max(prompt.ids.len() as u32);
            }
        }
        (self.kept, self.length_max) = (Some(Arc::new(kept)), length_max);
        Ok(())
    }

    /// Number of tokens of the longest prompt.
    pub fn length_max(&self) -> u32 {
        self.length_max
    }
}

/// The error of prompts that leave none of the model's positions to a completion: the first one's
/// row and tokens, and their number.
fn beyond(rows: &Rows, (row, tokens, count): (u64, usize, u64), positions: u64) -> DataError {
    let others = match count {
        1 => "it is the only such row".into(),
        count => format!("{count} of its {} rows are so", rows.len()),
    };
    let fix = format!(
        "set max_prompt_length below {positions}, which leaves them out, or take a model that \
         reaches further"
    );
    rows.wrong(
        row,
        format!(
            "its prompt has {tokens} tokens, and the model's positions reach to {positions}, which \
             leaves none for a completion; {others}: {fix}"
        ),
    )
}

fn encode(row: u64, ids: &[u32], text: &str) -> Vec<u8> {
    let mut record = Vec::with_capacity(12 + 4 * ids.len() + text.len());
    record.extend(row.to_le_bytes());
    record.extend((ids.len() as u32).to_le_bytes());
    record.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    record.extend(text.as_bytes());
    record
}

fn decode(record: &[u8]) -> Option<Prompt> {
    let mut fields = Fields::new(record);
    let (row, count) = (fields.u64()?, fields.u32()?);
    Some(Prompt {
        row,
        ids: fields.ids(count)?,
        text: String::from_utf8(fields.rest().to_vec()).ok()?,
    })
}
