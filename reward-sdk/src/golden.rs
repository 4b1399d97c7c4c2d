//! Golden cases: a file of completions with the verdict that each must get. The same file runs
//! natively ([`check`]) and through the daemon's WASM host, so both must agree.
//!
//! One JSON object per line; blank lines and lines that start with `//` are left out:
//!
//! ```json
//! {"case": "0s", "completion": "<answer>3.0</answer>", "reference": "3", "expect": {"score": 1}}
//! {"case": "no reference", "completion": "<answer>1</answer>", "expect": {"verdict": "abstain"}}
//! ```
//!
//! `config`, `prompt`, `tokens`, `finish` and `meta` are optional; `expect.reason` is a part of the
//! reason. Two more keys are for the other forms: neighbouring cases of the same `group` are judged
//! together by a group reward ([`check_group`]), and `answers` are what a judged reward's questions
//! are answered with, in their order ([`check_judged`]): a text, or `{"error": "…"}`.

use crate::{Completion, Error, Finish, GroupReward, JudgedReward, Reward, Score};
use serde::Deserialize;

/// One line of a golden file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// The case's name in reports of what differs; any text.
    #[serde(rename = "case")]
    pub name: String,
    /// The reward's `config` table; absent: an empty one.
    #[serde(default)]
    pub config: Option<serde_json::Value>,
    /// [`Completion::prompt`]; absent: empty.
    #[serde(default)]
    pub prompt: String,
    /// The text that is judged.
    pub completion: String,
    /// [`Completion::reference`]; absent: the row has none.
    #[serde(default)]
    pub reference: Option<String>,
    /// [`Completion::tokens`]; absent: 0.
    #[serde(default)]
    pub tokens: u32,
    /// [`Completion::finish`]; absent: `stop`.
    #[serde(default)]
    pub finish: Finish,
    /// [`Completion::meta`]; absent: the row has no other columns.
    #[serde(default)]
    pub meta: Option<serde_json::Value>,
    /// Neighbouring cases with the same value, and the same `config`, are one group of a group
    /// reward.
    #[serde(default)]
    pub group: Option<serde_json::Value>,
    /// The answers to a judged reward's questions, in their order.
    #[serde(default)]
    pub answers: Vec<Answer>,
    /// The verdict that the case must get.
    pub expect: Expect,
}

/// A model's answer to a question, or why there is none.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// The text that the model wrote.
    Text(String),
    /// The question has no answer.
    Failed {
        /// The reason, as the reward sees it.
        error: String,
    },
}

impl From<&Answer> for std::result::Result<String, String> {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Text(text) => Ok(text.clone()),
            Answer::Failed { error } => Err(error.clone()),
        }
    }
}

/// The verdict that a case must get.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// The kind of verdict; absent: a score.
    #[serde(default)]
    pub verdict: Expected,
    /// The score, compared exactly. A case with the verdict `score` needs it.
    #[serde(default)]
    pub score: Option<f32>,
    /// The parts of the score, compared exactly; absent: none.
    #[serde(default)]
    pub parts: Vec<f32>,
    /// A part of the verdict's reason; absent: any reason will do.
    #[serde(default)]
    pub reason: Option<String>,
}

/// Kinds of verdict that a golden case can expect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// The completion can be judged.
    #[default]
    Score,
    /// The row cannot be judged: [`Error::Unscorable`].
    Abstain,
    /// The reward failed: [`Error::Internal`], or in the sandbox a trap.
    Trap,
}

impl Case {
    /// The completion that the reward judges; its id is 0.
    pub fn completion(&self) -> Completion {
        Completion {
            id: 0,
            prompt: self.prompt.clone(),
            text: self.completion.clone(),
            reference: self.reference.clone(),
            tokens: self.tokens,
            finish: self.finish,
            meta: self.meta.as_ref().map(|meta| meta.to_string()),
        }
    }

    /// The configuration as JSON text, `{}` if the case has none.
    pub fn config_json(&self) -> String {
        self.config
            .as_ref()
            .map_or_else(|| "{}".into(), |config| config.to_string())
    }
}

impl Expect {
    /// Describes how a verdict differs from the expected one; `None` if it does not. `score` and
    /// `parts` matter for scores alone.
    pub fn differs(
        &self,
        verdict: Expected,
        score: f32,
        parts: &[f32],
        reason: Option<&str>,
    ) -> Option<String> {
        let reason_fits = self
            .reason
            .as_deref()
            .is_none_or(|part| reason.is_some_and(|reason| reason.contains(part)));
        let same = verdict == self.verdict
            && reason_fits
            && (verdict != Expected::Score || (self.score == Some(score) && self.parts == parts));
        (!same).then(|| format!("expected {self:?}, got {verdict:?} {score} {parts:?} {reason:?}"))
    }
}

/// Reads a golden file; the error names the line.
pub fn parse(jsonl: &str) -> Result<Vec<Case>, String> {
    let lines = jsonl
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty() && !line.starts_with("//"));
    lines
        .map(|(i, line)| serde_json::from_str(line).map_err(|e| format!("line {}: {e}", i + 1)))
        .collect()
}

/// Splits cases into groups: neighbours with the same `group` and configuration. A case without a
/// group is a group of its own.
pub fn groups(cases: &[Case]) -> impl Iterator<Item = &[Case]> {
    cases.chunk_by(|a, b| a.group.is_some() && a.group == b.group && a.config == b.config)
}

/// Judges every case natively, for a plugin's own test; panics with all that differ.
pub fn check<R: Reward>(jsonl: &str) {
    run(
        jsonl,
        |case| {
            Ok(vec![
                crate::configure::<R>(&case[0].config_json())?.score(&case[0].completion()),
            ])
        },
        |cases| cases.chunks(1).collect(),
    );
}

/// Judges every group of cases natively, as [`check`] does single ones.
pub fn check_group<R: GroupReward>(jsonl: &str) {
    let judge = |group: &[Case]| {
        let completions: Vec<Completion> = group.iter().map(Case::completion).collect();
        Ok(crate::configure::<R>(&group[0].config_json())?.score_group(&completions))
    };
    run(jsonl, judge, |cases| groups(cases).collect());
}

/// Judges every case of a judged reward natively, as [`check`] does: the case's `answers` answer
/// its questions.
pub fn check_judged<R: JudgedReward>(jsonl: &str) {
    let judge = |case: &[Case]| {
        let reward: R = crate::configure(&case[0].config_json())?;
        let (completion, answers) = (case[0].completion(), &case[0].answers);
        let asked = reward.plan(&completion).len();
        if asked != answers.len() {
            return Err(format!(
                "asks {asked} questions, the case has {} answers",
                answers.len()
            ));
        }
        let answers: Vec<_> = answers.iter().map(std::result::Result::from).collect();
        Ok(vec![reward.conclude(&completion, &answers)])
    };
    run(jsonl, judge, |cases| cases.chunks(1).collect());
}

fn run(
    jsonl: &str,
    judge: impl Fn(&[Case]) -> std::result::Result<Vec<crate::Result<Score>>, String>,
    split: impl Fn(&[Case]) -> Vec<&[Case]>,
) {
    let cases = parse(jsonl).unwrap_or_else(|e| panic!("golden cases: {e}"));
    assert!(!cases.is_empty(), "no golden cases");
    let differences = |group: &[Case]| -> Vec<String> {
        let verdicts = judge(group).unwrap_or_else(|e| panic!("{}: {e}", group[0].name));
        assert_eq!(
            verdicts.len(),
            group.len(),
            "{}: as many results as completions",
            group[0].name
        );
        let differs = |(case, verdict): (&Case, &crate::Result<Score>)| {
            let differs = match verdict {
                Ok(score) => case.expect.differs(
                    Expected::Score,
                    score.value,
                    &score.parts,
                    score.reason.as_deref(),
                ),
                Err(Error::Unscorable(reason)) => {
                    case.expect
                        .differs(Expected::Abstain, 0.0, &[], Some(reason))
                }
                Err(Error::Internal(reason)) => {
                    case.expect.differs(Expected::Trap, 0.0, &[], Some(reason))
                }
            };
            differs.map(|differs| format!("{}: {differs}", case.name))
        };
        group.iter().zip(&verdicts).filter_map(differs).collect()
    };
    let wrong: Vec<String> = split(&cases).into_iter().flat_map(differences).collect();
    assert!(
        wrong.is_empty(),
        "{} of {} golden cases differ:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}
