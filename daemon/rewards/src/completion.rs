//! What a plugin is given, a completion with all that belongs to it, and what is known of it and
//! comes back.

use crate::bindings::r1d::reward::types as guest;
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use std::time::Duration;

/// A completion with everything that a plugin gets to see.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion {
    /// Id of the completion in log lines; the plugin sees it too.
    pub id: u64,
    /// The rendered prompt.
    pub prompt: String,
    /// The whole text after the prompt, without the stop token.
    pub text: String,
    /// The row's right answer, if it has one.
    pub reference: Option<String>,
    /// Length of `text` in the model's tokens.
    pub tokens: u32,
    /// How it ended.
    pub finish: FinishReason,
    /// The row's other columns as a JSON object, if there are any.
    pub meta: Option<String>,
}

/// A plugin's description of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// Name of the plugin.
    pub name: String,
    /// Version of the plugin, in its author's own form.
    pub version: String,
    /// Lowest score. Every score is within `min ..= max`; a fault counts as `min` by default.
    pub min: f32,
    /// Highest score.
    pub max: f32,
    /// Names of the parts of a score.
    pub parts: Vec<String>,
}

/// How judging one completion ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The score, the abstention or the fault.
    pub outcome: Outcome,
    /// A plugin's remark on a score, for example `no answer`.
    pub reason: Option<String>,
    /// WASM fuel used: exact and reproducible.
    pub fuel: u64,
    /// Wall-clock time of the judging alone, without waiting.
    pub took: Duration,
}

/// A question of a judged reward to a reward model or judge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The plugin's name for the model, which tools find answers by. In a job, the reward's
    /// settings decide which model answers.
    pub model: String,
    /// The text that a judge continues, or the conversation that a reward model scores.
    pub prompt: String,
    /// Length limit of a judge's answer in tokens; 0 asks a reward model for its number, which
    /// comes as decimal text.
    pub max_tokens: u32,
}

/// The completion as a guest takes it.
pub(crate) fn to_guest(completion: &Completion) -> guest::Completion {
    guest::Completion {
        id: completion.id,
        prompt: completion.prompt.clone(),
        text: completion.text.clone(),
        reference: completion.reference.clone(),
        tokens: completion.tokens,
        finish: match completion.finish {
            FinishReason::Stop => guest::FinishReason::Stop,
            FinishReason::Length => guest::FinishReason::Length,
        },
        meta: completion.meta.clone(),
    }
}
