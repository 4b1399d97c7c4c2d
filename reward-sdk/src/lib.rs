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
//! [`answers`], [`boxed`], [`tags`], [`number`], [`units`] and [`words`] read what models write; [`golden`] runs a file of cases with known verdicts.

pub mod answers;
pub mod boxed;
pub mod golden;
#[cfg(target_arch = "wasm32")]
#[doc(hidden)]
pub mod guest;
pub mod number;
pub mod rational;
pub mod tags;
pub mod units;
pub mod words;

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

/// A reward from the job's `config` table as JSON; the error names the key.
pub fn configure<R: Reward>(json: &str) -> std::result::Result<R, String> {
    serde_json::from_str(if json.trim().is_empty() { "{}" } else { json }).map_err(|e| e.to_string())
}

/// Makes the crate a plugin: when it is built for WASM, `export!(MyReward)` exports the world `r1d:reward/reward`.
#[macro_export]
macro_rules! export {
    ($reward:ty) => {
        #[cfg(target_arch = "wasm32")]
        const _: () = {
            struct Component;

            std::thread_local! {
                static REWARD: std::cell::OnceCell<$reward> = const { std::cell::OnceCell::new() };
            }

            impl $crate::guest::Guest for Component {
                fn describe() -> $crate::guest::Info {
                    $crate::guest::describe::<$reward>()
                }

                fn configure(json: std::string::String) -> std::result::Result<(), std::string::String> {
                    let reward = $crate::configure::<$reward>(&json)?;
                    REWARD.with(|slot| slot.set(reward)).map_err(|_| "configured twice".into())
                }

                fn score(item: $crate::guest::Completion) -> std::result::Result<$crate::guest::Score, $crate::guest::Error> {
                    REWARD.with(|slot| $crate::guest::score(slot.get(), item))
                }
            }

    $crate::guest::export!(Component with_types_in $crate::guest);
        };
    };
}
