//! Write a reward for r1d: one type whose fields are its configuration, one method that scores a completion.
//!
//! ```
//! use reward_sdk::{Completion, Info, Result, Reward, Score};
//!
//! /// 1 when the answer is short enough, else 0. The fields are the job file's `config` table.
//! #[derive(Default, serde::Deserialize)]
//! #[serde(default, deny_unknown_fields)]
//! struct Brief {
//!     words_max: usize,
//! }
//!
//! impl Reward for Brief {
//!     const INFO: Info = Info::new("brief", "1.0.0");
//!
//!     fn score(&self, completion: &Completion) -> Result<Score> {
//!         let words = completion.text.split_whitespace().count();
//!         Ok(Score::pass(words <= self.words_max))
//!     }
//! }
//!
//! reward_sdk::export!(Brief);
//!
//! # fn main() {
//! let brief: Brief = reward_sdk::configure(r#"{"words_max": 3}"#).unwrap();
//! let score = brief.score(&Completion { text: "it is 42".into(), ..Completion::default() }).unwrap();
//! assert_eq!(score.value, 1.0);
//! # }
//! ```
//!
//! The crate is an ordinary library: `cargo test` needs no WASM. Built for `wasm32-unknown-unknown` as a `cdylib`, [`export!`]
//! adds the component's exports (`wit/reward.wit`). The result may import nothing, so a reward has no clock, no randomness, no
//! files: only its configuration and the completion. A panic is a fault and scores the declared minimum.
//!
//! [`boxed`], [`tags`], [`number`] and [`words`] read what models write; [`reward_model`] is for rewards that ask one; [`golden`] runs a file of
//! cases with known verdicts.

pub mod boxed;
pub mod golden;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
pub mod number;
pub mod rational;
pub mod reward_model;
pub mod tags;
mod units;
pub mod words;

pub use reward_sdk_macros::reward;
#[doc(hidden)]
pub use serde;

use serde::Deserialize;
use serde::de::DeserializeOwned;

/// One completion and what is known about it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Completion {
    pub id: u64,
    pub prompt: String,
    /// The whole text after the prompt, without the stop token.
    pub text: String,
    /// The data row's reference: a final answer or a worked solution.
    pub reference: Option<String>,
    /// Length of `text` in the model's tokens.
    pub tokens: u32,
    pub finish: Finish,
    /// The data row's other columns, a JSON object.
    pub meta: Option<String>,
}

/// Why a completion ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Finish {
    #[default]
    Stop,
    /// The length limit cut it off.
    Length,
    Aborted,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Score {
    /// Finite, within the declared range.
    pub value: f32,
    /// One per name in [`Info::parts`].
    pub parts: Vec<f32>,
    /// A few words for whoever reads the samples.
    pub reason: Option<String>,
}

impl Score {
    /// 1 or 0.
    pub fn pass(passed: bool) -> Score {
        Score { value: if passed { 1.0 } else { 0.0 }, ..Score::default() }
    }

    /// 0, and why.
    pub fn fail(reason: impl Into<String>) -> Score {
        Score { reason: Some(reason.into()), ..Score::default() }
    }
}

impl From<f32> for Score {
    fn from(value: f32) -> Score {
        Score { value, ..Score::default() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The row's reference is unusable: the sample is left out of training, never scored 0.
    Unscorable(String),
    /// The reward failed: a fault, which scores the declared minimum.
    Internal(String),
}

pub type Result<T> = std::result::Result<T, Error>;

/// What the daemon is told about a reward before it judges anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Info {
    pub name: &'static str,
    pub version: &'static str,
    /// Every score lies in `min ..= max`; a fault scores `min` by default.
    pub min: f32,
    pub max: f32,
    /// Names of the parts of a score.
    pub parts: &'static [&'static str],
}

impl Info {
    /// Scores from 0 to 1, without parts.
    pub const fn new(name: &'static str, version: &'static str) -> Info {
        Info { name, version, min: 0.0, max: 1.0, parts: &[] }
    }
}

/// A reward: its fields are its configuration, read from the job file's `config` table.
///
/// Contract: `score` is a function of `self` and the completion alone. `Default` with `#[serde(default, deny_unknown_fields)]`
/// makes every key optional and a misspelt one an error that names it.
pub trait Reward: DeserializeOwned {
    const INFO: Info;

    fn score(&self, completion: &Completion) -> Result<Score>;
}

/// A reward that sees all samples of one prompt together: diversity, length beside the others'.
///
/// Contract: as many results as completions, in their order, and a function of `self` and the group alone.
pub trait GroupReward: DeserializeOwned {
    const INFO: Info;

    fn score_group(&self, group: &[Completion]) -> Vec<Result<Score>>;
}

/// A question to a reward model or judge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The job's name for it.
    pub model: String,
    /// What a judge is to go on from, or the conversation that a reward model is to value.
    pub prompt: String,
    /// Of a judge's answer; 0 asks a reward model for its number, which comes as decimal text.
    pub max_tokens: u32,
}

/// A reward that a model helps, in two phases: what to ask it, and what its answers mean. A fresh instance runs each phase, so nothing is
/// carried over but the completion.
///
/// Contract: both are functions of their arguments alone; what is asked, then, can be answered again from a record.
pub trait JudgedReward: DeserializeOwned {
    const INFO: Info;

    fn plan(&self, completion: &Completion) -> Vec<Ask>;

    /// `answers` has, for each ask of [`JudgedReward::plan`], what the model wrote, or why there is no answer.
    fn conclude(&self, completion: &Completion, answers: &[std::result::Result<String, String>]) -> Result<Score>;
}

/// What a function under [`macro@reward`] may return: a number, a [`Score`], or a [`Result`] of either.
pub trait IntoVerdict {
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

/// A reward from the job's `config` table as JSON; the error names the key.
pub fn configure<R: DeserializeOwned>(json: &str) -> std::result::Result<R, String> {
    serde_json::from_str(if json.trim().is_empty() { "{}" } else { json }).map_err(|e| e.to_string())
}

/// Makes the crate a plugin: when it is built for WASM, `export!(MyReward)` exports the world `r1d:reward/reward`. The other forms are
/// `export!(group MyReward)` for a [`GroupReward`] and `export!(judged MyReward)` for a [`JudgedReward`]. [`macro@reward`] does it itself.
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
                answers: std::vec::Vec<std::result::Result<std::string::String, std::string::String>>,
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

                fn configure(json: std::string::String) -> std::result::Result<(), std::string::String> {
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
            fn score(item: $crate::guest::Completion) -> std::result::Result<$crate::guest::Score, $crate::guest::Error> {
                REWARD.with(|slot| $crate::guest::score(slot.get(), item))
            }
        });
    };
}
