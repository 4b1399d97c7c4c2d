//! `kind = "rejection-sampling"`: the good ones of many completions become a data set.

use super::rollouts::Rollouts;
use super::settings::StageSettings;
use crate::data::DataSource;
use crate::error::JobError;
use crate::file::Fields;
use crate::file::setting::by_words;
use crate::file::together::Together;
use crate::limits::PROMPT_MAX_COMPLETIONS;
use r1d_job_macros::{Keys, Read, Write};
use serde::{Deserialize, Serialize};

/// The kind's name.
pub(super) const WORD: &str = "rejection-sampling";

pub(super) const MEANING: &str = "\
    of many completions the good ones become the data set of later stages, which read it by the \
    stage's name (DeepSeek-R1 2.3.3). Nothing is trained; `from` of a later stage that names this \
    one means the weights that this one samples from. Completions that are cut off are never \
    kept.";

/// Rejection sampling: completions are sampled and judged, and the good ones become the data set of
/// later stages. It trains nothing: the stage's weights are those that it samples from.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
pub struct RejectionSampling {
    /// What a step samples, and which rewards judge it.
    #[key(
        part,
        num_generations(
            default = 16,
            meaning = "Completions of each prompt, of which the good ones are kept."
        ),
        temperature(
            meaning = "Of sampling; 0, the likeliest token each time, with num_generations = 1 \
                       alone."
        ),
        rewards(
            name = "reward",
            meaning = "What judges completions: the first says what is correct, the weighted sum \
                       of the scores is the reward."
        )
    )]
    pub rollouts: Rollouts,
    /// Which completions of a prompt are good.
    #[key(part)]
    pub select: Select,
    /// Number of completions kept of a prompt: the best by total reward, among equals those with
    /// the lowest sample number; 0: all that are good.
    #[key(
        takes = count(0, PROMPT_MAX_COMPLETIONS),
        unset = "1 with select = \"best-of-n\", else 0",
        or = u32::from(select == Select::BestOfN),
        unit = "completions",
        meaning = "Completions kept of each prompt and pass over the data: of the good ones the \
                   best by the reward, of equals the first sampled; 0: all of them."
    )]
    pub keep: u32,
    /// Whether the job waits until somebody has reviewed the kept completions.
    #[key(
        default = false,
        meaning = "The job waits after the stage until somebody has looked at its data set: \
                   `r1ctl dataset review JOB STAGE` exports it and takes the edited file in its \
                   place, or accepts it."
    )]
    pub review: bool,
}

/// Which completions of a prompt are good.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Select {
    /// Those whose first reward's score is high enough.
    Correct {
        /// Lowest score that counts as correct.
        at: f64,
    },
    /// All of them, so that `keep` decides.
    BestOfN,
    /// The best of the group by total reward.
    TopP {
        /// Share of the group that is good, rounded up to whole completions.
        share: f64,
    },
}

/// The keys that say which completions are good.
#[derive(Keys, Read, Write)]
pub(crate) struct SelectKeys {
    #[key(
        default = "correct",
        meaning = "Which completions of a prompt are good: \"correct\": those whose first reward \
                   scores at least `correct_at`; \"best-of-n\": the best by the reward, the \
                   weighted sum of the scores; \"top-p\": the best `keep_share` of them. What \
                   `min_score` of a reward drops never is."
    )]
    select: Selection,
    #[key(
        default = 1.0,
        when = self.select == Selection::Correct,
        meaning = "With select = \"correct\": a completion is correct when the score of the first \
                   reward that judges its row is at least this."
    )]
    correct_at: f64,
    #[key(
        takes = number_above(0.0, 1.0),
        default = 0.25,
        when = self.select == Selection::TopP,
        meaning = "With select = \"top-p\": the share of a prompt's `num_generations` completions \
                   that is good, rounded up to whole ones."
    )]
    keep_share: f64,
}

/// The words of `select`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Selection {
    Correct,
    BestOfN,
    TopP,
}

by_words!(Selection);

impl Together for Select {
    type Parts = SelectKeys;

    fn join(keys: SelectKeys, _: &Fields<'_>) -> Result<Select, JobError> {
        Ok(match keys.select {
            Selection::Correct => Select::Correct {
                at: keys.correct_at,
            },
            Selection::BestOfN => Select::BestOfN,
            Selection::TopP => Select::TopP {
                share: keys.keep_share,
            },
        })
    }

    fn split(&self) -> SelectKeys {
        let (select, correct_at, keep_share) = match *self {
            Select::Correct { at } => (Selection::Correct, at, 0.0),
            Select::BestOfN => (Selection::BestOfN, 0.0, 0.0),
            Select::TopP { share } => (Selection::TopP, 0.0, share),
        };
        SelectKeys {
            select,
            correct_at,
            keep_share,
        }
    }
}

impl StageSettings for RejectionSampling {
    fn word(&self) -> &'static str {
        WORD
    }

    fn columns(&self) -> &'static [&'static str] {
        &["prompt"]
    }

    fn rollouts(&self) -> Option<&Rollouts> {
        Some(&self.rollouts)
    }

    fn check(&self, place: &str) -> Result<(), JobError> {
        let completions = self.rollouts.num_generations;
        if self.rollouts.temperature == 0.0 && completions > 1 {
            return Err(JobError::unsound(
                place,
                "temperature = 0 gives the same completion each time",
                "set temperature = 1.0, or num_generations = 1",
            ));
        }
        if self.keep > completions {
            return Err(JobError::unsound(
                place,
                format!(
                    "keep = {} of num_generations = {completions} completions",
                    self.keep
                ),
                "lower `keep`, or set it to 0 for all that are good",
            ));
        }
        Ok(())
    }

    fn check_rewards(&self, data: &DataSource, place: &str) -> Result<(), JobError> {
        self.rollouts.check_judged(data, place)?;
        let ranks = !matches!(self.select, Select::Correct { .. });
        if ranks && self.rollouts.is_weightless() {
            return Err(JobError::unsound(
                place,
                "every reward has weight 0: no completion is better than another",
                "give one a weight",
            ));
        }
        Ok(())
    }
}
