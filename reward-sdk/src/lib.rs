//! Write a reward for r1d: a function that judges a completion. `cargo test` runs it as an ordinary
//! function; a job runs it as a WASM component that can compute and nothing else, so the owner of a
//! cluster can accept it from anybody.
//!
//! # Ten minutes to a reward
//!
//! ```sh
//! rustup target add wasm32-unknown-unknown     # once
//! r1ctl plugin new brief                 # a crate with a reward, golden cases and this SDK
//! r1ctl plugin test brief                      # natively, then in the sandbox
//! ```
//!
//! ## 1. One function
//!
//! [`macro@reward`] makes a plugin of a function that takes a [`Completion`]. It may return a
//! number, a [`Score`], or a [`Result`] of either.
//!
//! ```
//! use reward_sdk::{Completion, reward};
//!
//! /// 1 when there is an answer, else 0.
//! #[reward]
//! fn answered(completion: &Completion) -> f32 {
//!     if completion.text.contains("<answer>") { 1.0 } else { 0.0 }
//! }
//! # fn main() {}
//! ```
//!
//! ## 2. Its configuration
//!
//! A second parameter is the job's `config` table, read by serde. `deny_unknown_fields` makes a
//! misspelt key an error that names it, before the job is accepted; `default` makes keys optional.
//!
//! ```
//! use reward_sdk::{Completion, Error, Result, Score, reward, tags};
//!
//! #[derive(Default, serde::Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Config {
//!     words_max: usize,
//! }
//!
//! #[reward(parts = ["words"])]
//! fn brief(completion: &Completion, config: &Config) -> Result<Score> {
//!     if completion.reference.is_none() {
//!         return Err(Error::Unscorable("no reference".into()));
//!     }
//!     let Some(answer) = tags::last(&completion.text, "answer") else {
//!         return Ok(Score { parts: vec![0.0], ..Score::fail("no answer") });
//!     };
//!     let words = answer.split_whitespace().count();
//!     Ok(Score { parts: vec![words as f32], ..Score::pass(words <= config.words_max) })
//! }
//! # fn main() {
//! # use reward_sdk::Reward as _;
//! # let brief: Reward = reward_sdk::configure(r#"{"words_max": 3}"#).unwrap();
//! # let (text, reference) = ("<answer>it is 42</answer>".into(), Some("42".into()));
//! # let item = Completion { text, reference, ..Completion::default() };
//! # assert_eq!(brief.score(&item).unwrap().value, 1.0);
//! # }
//! ```
//!
//! A reward has three kinds of result, and they are not the same:
//!
//! | | when | what becomes of the sample |
//! |---|---|---|
//! | a [`Score`] | the completion can be judged; a wrong one scores low, with a [`reason`](Score::reason) | it trains |
//! | [`Error::Unscorable`] | the *row* is bad: no reference, one that cannot be read | it is left out, never scored 0 |
//! | [`Error::Internal`], a panic, too much work | the *reward* is at fault | it scores the declared minimum, so that no model learns to break its judge |
//!
//! Scores lie between 0 and 1 unless the attribute declares another range:
//! `#[reward(min = -1.0, max = 0.0)]`. What is outside, or NaN, is a fault.
//!
//! ## 3. Golden cases
//!
//! `golden.jsonl` beside `Cargo.toml` has completions with the verdicts that they must get
//! ([`golden`]):
//!
//! ```json
//! {"completion": "<answer>is 4</answer>", "reference": "4", "expect": {"score": 0, "parts": [2]}}
//! {"case": "no reference", "completion": "<answer>42</answer>", "expect": {"verdict": "abstain"}}
//! ```
//!
//! One test runs them natively, with a debugger and println at hand:
//! `reward_sdk::golden::check::<Reward>(include_str!("../golden.jsonl"))`. They become part of the
//! component; a daemon runs them before a new version takes an old one's place in a running job.
//!
//! ## 4. Build, try, measure, use
//!
//! ```sh
//! r1ctl plugin build brief                                          # brief/brief.wasm
//! r1ctl plugin score brief/brief.wasm cases.jsonl  # a verdict for each line, as in a job
//! r1ctl plugin check brief/brief.wasm              # what a daemon asks of it, and hostile texts
//! r1ctl plugin bench brief/brief.wasm                               # fuel per KB, completions/s
//! r1ctl rescore JOB --plugin brief/brief.wasm      # a past run under this plugin
//! r1ctl plugin reload JOB brief brief/brief.wasm   # into a running job, from its next step on
//! ```
//!
//! ```toml
//! [[stage.reward]]
//! plugin = "brief/brief.wasm"
//! weight = 0.5
//! config = { words_max = 20 }
//! ```
//!
//! # Forms
//!
//! **Groups.** A function of `&[Completion]` judges all samples of one prompt together: diversity,
//! length beside the others'. It returns as many results as there are completions, in their order;
//! the daemon never splits a group.
//!
//! ```
//! use reward_sdk::{Completion, reward};
//!
//! /// The share of the group that is longer.
//! #[reward]
//! fn shorter(group: &[Completion]) -> Vec<f32> {
//!     let longer = |one: &Completion| {
//!         group.iter().filter(|other| other.tokens > one.tokens).count()
//!     };
//!     group.iter().map(|one| longer(one) as f32 / group.len() as f32).collect()
//! }
//! # fn main() {}
//! ```
//!
//! **Judged.** A [`JudgedReward`] asks a model and concludes from its answers, in two pure phases.
//! `r1ctl plugin score --asks` writes its questions, `--answers` reads a model's answers. In a job
//! `model` of its `[[stage.reward]]` names the model that answers each question. An ask with
//! `max_tokens` 0 is for a reward model, and gets one number, as text; any other is for a model
//! that writes, greedily, at most `max_tokens` and at most the job's `max_answer_length`. The
//! prompt is the one user message of that model's chat template, with the control tokens that it
//! quotes broken up; special tokens are not in the answer. An answer is an error if the question
//! does not fit into the model's positions. All asks of a reward are for the same kind of model;
//! there are at most 64 about a completion.
//!
//! **A type.** What the attribute makes can be written out: a type whose fields are the
//! configuration, with [`Reward`] (or [`GroupReward`]) implemented, and [`export!`].
//!
//! # What a reward may rely on
//!
//! Its arguments, and nothing else: there is no clock, no randomness, no file, no network, and
//! nothing is left of the call before, because every completion gets a fresh instance. So a verdict
//! is a function of (component, configuration, completion), costs the same fuel on every machine,
//! and can be checked later. The stack is small (128 KiB inside, 512 KiB in all): loop where text
//! decides how deep it goes.
//!
//! [`answers`], [`boxed`], [`tags`], [`number`], [`units`] and [`words`] read what models write,
//! with the same rules as the rewards that r1d ships; [`reward_model`] is for judged rewards that
//! ask a reward model.

pub mod answers;
pub mod boxed;
pub mod golden;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
mod lexer;
mod names;
pub mod number;
pub mod number_words;
pub mod rational;
pub mod reward_model;
pub mod tags;
pub mod units;
pub mod words;

/// Makes a plugin of a function; see the [crate's documentation](crate).
///
/// The first parameter is `&Completion`, or `&[Completion]` for a reward of groups; a second one,
/// `&Config`, is the job's `config` table. The attribute's arguments are all optional: `name` and
/// `version` (the crate's), `min` (0) and `max` (1), `parts = ["…"]`. The function stays what it
/// is; beside it stands a type `Reward` for tests, so a module has one such function.
pub use reward_sdk_macros::reward;
#[doc(hidden)]
pub use serde;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One completion and what is known about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    /// Id of the completion: in a job, the index of the prompt in its step in the upper 32 bits and
    /// that of the sample in its group in the lower; 0 in golden cases.
    pub id: u64,
    /// The text that the model was given, as the job's chat template renders it.
    pub prompt: String,
    /// The whole text after the prompt, without the stop token.
    pub text: String,
    /// The data row's reference: a final answer or a worked solution.
    pub reference: Option<String>,
    /// Length of `text` in the model's tokens.
    pub tokens: u32,
    /// Why `text` ends where it does.
    pub finish: Finish,
    /// The data row's other columns, a JSON object.
    pub meta: Option<String>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    /// The model ended the completion itself, with a stop token.
    #[default]
    Stop,
    /// The length limit cut it off.
    Length,
    /// The completion was given up before its end; this release of r1d makes none of these.
    Aborted,
}

/// The score of a completion that could be judged.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// The score: finite, within the declared range.
    pub value: f32,
    /// Values of the score's parts, one per name in [`Info::parts`].
    pub parts: Vec<f32>,
    /// A few words for people who read the samples.
    pub reason: Option<String>,
}

impl Score {
    /// A score of 1 if `passed`, else of 0, without a reason.
    pub fn pass(passed: bool) -> Score {
        Score {
            value: if passed { 1.0 } else { 0.0 },
            ..Score::default()
        }
    }

    /// A score of 0 for this reason.
    pub fn fail(reason: impl Into<String>) -> Score {
        Score {
            reason: Some(reason.into()),
            ..Score::default()
        }
    }
}

impl From<f32> for Score {
    fn from(value: f32) -> Score {
        Score {
            value,
            ..Score::default()
        }
    }
}

/// Why a reward could not judge a completion, in a few words for people who read the samples.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The row's reference is unusable: the sample is left out of training, never scored 0.
    Unscorable(String),
    /// The reward failed: a fault, which scores the declared minimum.
    Internal(String),
}

/// What a reward returns for one completion.
pub type Result<T> = std::result::Result<T, Error>;

/// What a reward declares before it judges anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Info {
    /// The plugin's name; `#[reward]` takes the crate's unless it is given one.
    pub name: &'static str,
    /// The plugin's version; `#[reward]` takes the crate's unless it is given one.
    pub version: &'static str,
    /// The lowest score: every score lies in `min ..= max`, and a fault scores `min` by default.
    pub min: f32,
    /// The highest score.
    pub max: f32,
    /// Names of the parts of a score.
    pub parts: &'static [&'static str],
}

impl Info {
    /// Describes a reward without parts, whose scores lie between 0 and 1.
    pub const fn new(name: &'static str, version: &'static str) -> Info {
        Info {
            name,
            version,
            min: 0.0,
            max: 1.0,
            parts: &[],
        }
    }
}

/// A reward: its fields are its configuration, read from the job file's `config` table.
///
/// Contract: `score` is a function of `self` and the completion alone. `Default` with
/// `#[serde(default, deny_unknown_fields)]` makes every key optional and a misspelt one an error
/// that names it.
pub trait Reward: DeserializeOwned {
    /// Name, version, range and parts, as the component describes itself to the daemon.
    const INFO: Info;

    /// Judges one completion.
    fn score(&self, completion: &Completion) -> Result<Score>;
}

/// A reward that sees all samples of one prompt together: diversity, length beside the others'.
///
/// Contract: as many results as completions, in their order, and a function of `self` and the group
/// alone.
pub trait GroupReward: DeserializeOwned {
    /// Name, version, range and parts, as the component describes itself to the daemon.
    const INFO: Info;

    /// Judges the completions of one prompt; returns one result for each, in their order.
    fn score_group(&self, group: &[Completion]) -> Vec<Result<Score>>;
}

/// A question to a reward model or judge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The reward's name for the model. In a job the `model` of its `[[stage.reward]]` answers,
    /// whatever this is; `r1ctl plugin score` finds answers by it.
    pub model: String,
    /// The user's message to a judge, or the conversation that a reward model is to value.
    pub prompt: String,
    /// The longest answer of a judge, in tokens; 0 asks a reward model for its number, which comes
    /// as decimal text.
    pub max_tokens: u32,
}

/// A reward that a model helps, in two phases: what to ask it, and what its answers mean. A fresh
/// instance runs each phase, so nothing is carried over but the completion.
///
/// Contract: both are functions of their arguments alone; so the same questions come again and
/// can be answered from a record.
pub trait JudgedReward: DeserializeOwned {
    /// Name, version, range and parts, as the component describes itself to the daemon.
    const INFO: Info;

    /// The questions about a completion: none, or up to 64.
    fn plan(&self, completion: &Completion) -> Vec<Ask>;

    /// Judges the completion. `answers` has, for each [`Ask`] of [`JudgedReward::plan`] in its
    /// order, what the model wrote, or why there is no answer.
    fn conclude(
        &self,
        completion: &Completion,
        answers: &[std::result::Result<String, String>],
    ) -> Result<Score>;
}

/// What a function under [`macro@reward`] may return: a number, a [`Score`], or a [`Result`] of
/// either.
pub trait IntoVerdict {
    /// Converts the value into a reward's result; `true` is a score of 1, `false` of 0.
    fn into_verdict(self) -> Result<Score>;
}

impl IntoVerdict for f32 {
    fn into_verdict(self) -> Result<Score> {
        Ok(self.into())
    }
}

impl IntoVerdict for bool {
    fn into_verdict(self) -> Result<Score> {
        Ok(Score::pass(self))
    }
}

impl IntoVerdict for Score {
    fn into_verdict(self) -> Result<Score> {
        Ok(self)
    }
}

impl<T: IntoVerdict> IntoVerdict for Result<T> {
    fn into_verdict(self) -> Result<Score> {
        self.and_then(IntoVerdict::into_verdict)
    }
}

/// Reads a reward's configuration from the job's `config` table as JSON; the error names the key.
pub fn configure<R: DeserializeOwned>(json: &str) -> std::result::Result<R, String> {
    serde_json::from_str(if json.trim().is_empty() { "{}" } else { json })
        .map_err(|e| e.to_string())
}

/// Makes the crate a plugin: when it is built for WASM, `export!(MyReward)` exports the world
/// `r1d:reward/reward`. The other forms are `export!(group MyReward)` for a [`GroupReward`] and
/// `export!(judged MyReward)` for a [`JudgedReward`]. [`macro@reward`] does it itself.
#[macro_export]
macro_rules! export {
    (group $reward:ty) => {
        $crate::export!(@component $reward, <$reward as $crate::GroupReward>::INFO, group, {
            fn score_group(
                group: std::vec::Vec<$crate::guest::Completion>,
            ) -> std::vec::Vec<std::result::Result<$crate::guest::Score, $crate::guest::Error>> {
                REWARD.with(|slot| $crate::guest::score_group(slot.get(), group))
            }
        });
    };
    (judged $reward:ty) => {
        $crate::export!(@component $reward, <$reward as $crate::JudgedReward>::INFO, judged, {
            fn plan(item: $crate::guest::Completion) -> std::vec::Vec<$crate::guest::Ask> {
                REWARD.with(|slot| $crate::guest::plan(slot.get(), item))
            }

            fn conclude(
                item: $crate::guest::Completion,
                answers: std::vec::Vec<std::result::Result<std::string::String,
                    std::string::String>>,
            ) -> std::result::Result<$crate::guest::Score, $crate::guest::Error> {
                REWARD.with(|slot| $crate::guest::conclude(slot.get(), item, answers))
            }
        });
    };
    (@component $reward:ty, $info:expr, $world:ident, { $($functions:item)* }) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            std::thread_local! {
                static REWARD: std::cell::OnceCell<$reward> = const { std::cell::OnceCell::new() };
            }

            impl $crate::guest::$world::Guest for Component {
                fn describe() -> $crate::guest::Info {
                    $crate::guest::describe($info)
                }

                fn configure(json: std::string::String) -> std::result::Result<(),
                    std::string::String> {
                    let reward = $crate::configure::<$reward>(&json).map_err($crate::guest::cut)?;
                    REWARD.with(|slot| slot.set(reward)).map_err(|_| "configured twice".into())
                }

                $($functions)*
            }

            $crate::guest::$world::export!(Component with_types_in $crate::guest::$world);
        };
    };
    ($reward:ty) => {
        $crate::export!(@component $reward, <$reward as $crate::Reward>::INFO, one, {
            fn score(item: $crate::guest::Completion) -> std::result::Result<$crate::guest::Score,
                $crate::guest::Error> {
                REWARD.with(|slot| $crate::guest::score(slot.get(), item))
            }
        });
    };
}
