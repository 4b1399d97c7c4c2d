//! Prompts of a data set, rendered and tokenised once.

use crate::dataset::DataSet;
use crate::error::DataError;
use crate::template::Template;
use crate::tokenizer::Tokenizer;

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
#[derive(Clone, Copy, Debug, Default)]
pub struct Lengths {
    /// Rows with a longer prompt are left out.
    pub max_prompt_length: Option<u32>,
    /// Positions of the model. A prompt that leaves none of them to a completion is refused.
    pub positions: Option<u64>,
}

/// One prompt per row, in the data set's order, except for rows that are left out.
#[derive(Clone)]
pub struct Prompts {
    prompts: Vec<Prompt>,
    left_out: u64,
    adds_special: bool,
}

impl Prompts {
    /// Renders and tokenises every row. An error names the first row that fails; if prompts are too
    /// long, it has their number too.
    pub fn build(
        data: &DataSet,
        template: &Template,
        tokenizer: &Tokenizer,
        lengths: Lengths,
    ) -> Result<Prompts, DataError> {
        let problem = |problem: String| DataError::Source {
            name: data.name().into(),
            problem,
        };
        let (mut prompts, mut left_out) = (Vec::new(), 0);
        let mut too_long: Option<(usize, usize, u64)> = None;
        for (index, row) in data.rows().iter().enumerate() {
            let (text, ids) = template
                .prompt_ids(row, tokenizer)
                .map_err(|e| data.wrong(index, e))?;
            let tokens = ids.len();
            if lengths
                .max_prompt_length
                .is_some_and(|max| tokens > max as usize)
            {
                left_out += 1;
            } else if lengths
                .positions
                .is_some_and(|positions| tokens as u64 >= positions)
            {
                let (_, _, count) = too_long.get_or_insert((index, tokens, 0));
                *count += 1;
            } else {
                prompts.push(Prompt {
                    row: index as u64,
                    text,
                    ids,
                });
            }
        }
        if let (Some((row, tokens, count)), Some(positions)) = (too_long, lengths.positions) {
            let others = match count {
                1 => "it is the only such row".into(),
                count => format!("{count} of its {} rows are so", data.len()),
            };
            let fix = format!(
                "set max_prompt_length below {positions}, which leaves them out, or take a model \
                 that reaches further"
            );
            return Err(data.wrong(
                row,
                format!(
                    "its prompt has {tokens} tokens, and the model's positions reach to \
                     {positions}, which leaves none for a completion; {others}: {fix}"
                ),
            ));
        }
        if prompts.is_empty() {
            let max = lengths.max_prompt_length.unwrap_or(0);
            return Err(problem(format!(
                "every prompt has more than max_prompt_length = {max} tokens: raise it"
            )));
        }
        Ok(Prompts {
            adds_special: template.adds_special(),
            left_out,
            prompts,
        })
    }

    /// The number of prompts, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "never empty")]
    pub fn len(&self) -> u64 {
        self.prompts.len() as u64
    }

    /// The number of rows without a prompt here, because theirs is longer than `max_prompt_length`
    /// or because of [`Self::keep`].
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The prompt at `place` modulo their number.
    pub fn at(&self, place: u64) -> &Prompt {
        &self.prompts[(place % self.len()) as usize]
    }

    /// The prompt of a row of the data set; `None` if the row is left out.
    pub fn of_row(&self, row: u64) -> Option<&Prompt> {
        let place = self
            .prompts
            .binary_search_by_key(&row, |prompt| prompt.row)
            .ok()?;
        self.prompts.get(place)
    }

    /// Whether the ids have the tokenizer's special ids, which the texts lack.
    pub fn adds_special(&self) -> bool {
        self.adds_special
    }

    /// All prompts in the data set's order.
    pub fn all(&self) -> &[Prompt] {
        &self.prompts
    }

    /// Keeps only the prompts of these rows, which must include at least one.
    pub fn keep(&mut self, rows: &std::collections::BTreeSet<u64>) {
        let before = self.prompts.len();
        self.prompts.retain(|prompt| rows.contains(&prompt.row));
        self.left_out += (before - self.prompts.len()) as u64;
    }

    /// Number of tokens of the longest prompt.
    pub fn length_max(&self) -> u32 {
        self.prompts
            .iter()
            .map(|p| p.ids.len() as u32)
            .max()
            .unwrap_or(0)
    }
}
