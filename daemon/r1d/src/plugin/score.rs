//! `plugin score`: a verdict for each line of a file, in order.

use super::{Host, PluginError, input};
use r1d_plugin_cli::ScoreArgs;
use r1d_proto::plugin::{Scored, VerdictKind};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Answers, Ask, Judged, line};
use r1d_store::{Disk, write_file};
use std::collections::HashMap;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

pub(super) fn run(args: &ScoreArgs) -> Result<bool, PluginError> {
    let ScoreArgs {
        subject,
        cases,
        answers,
        asks,
    } = args;
    let host = Host::open(&subject.dirs)?;
    let reward = host.load(subject)?;
    let answers = AnswerFile::read(answers.as_deref())?;
    let members = input::read(cases)?;
    let mut stdout = BufWriter::new(std::io::stdout().lock());
    let mut printed = Ok(());
    reward.judge_all(&members, &answers, host.threads, |_, judged| {
        printed = serde_json::to_writer(&mut stdout, &scored(judged))
            .map_err(std::io::Error::from)
            .and_then(|()| stdout.write_all(b"\n"));
        printed.is_ok()
    })?;
    printed.and_then(|()| stdout.flush())?;
    if let Some(path) = asks {
        answers.write_open(path)?;
    }
    Ok(true)
}

pub(super) fn scored(judged: Judged) -> Scored {
    let Judged {
        outcome,
        reason,
        fuel,
        took,
    } = judged;
    let verdict = VerdictKind::of(&outcome);
    let (score, parts, reason) = match outcome {
        Outcome::Score { value, parts } => (Some(value), Some(parts), reason),
        Outcome::Abstain { reason } | Outcome::Trap { reason } => (None, None, Some(reason)),
        Outcome::OutOfFuel => (None, None, Some(format!("the limit is {fuel}"))),
        Outcome::OutOfTime => (None, None, Some("hit the wall-clock backstop twice".into())),
    };
    Scored {
        verdict,
        score,
        parts,
        reason,
        fuel,
        ms: ms(took),
    }
}

/// Milliseconds, rounded to the microsecond.
pub(super) fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

/// Answers to the questions of judged rewards, from a file of JSON lines: `{"model", "prompt",
/// "answer"}`, or `error` in place of `answer`. A line without a `model` answers for any model.
struct AnswerFile {
    answers: HashMap<(Option<String>, String), Result<String, String>>,
    open: Mutex<Vec<Ask>>,
}

impl AnswerFile {
    fn read(path: Option<&Path>) -> Result<AnswerFile, PluginError> {
        let lines = match path {
            None => Vec::new(),
            Some(path) => input::lines(path, |_, mut object| {
                let (model, prompt) = (
                    line::text(&mut object, "model")?,
                    line::text(&mut object, "prompt")?,
                );
                let prompt = prompt.ok_or("`prompt` is missing")?;
                let answer = match (
                    line::text(&mut object, "answer")?,
                    line::text(&mut object, "error")?,
                ) {
                    (Some(answer), None) => Ok(answer),
                    (None, Some(error)) => Err(error),
                    _ => return Err("write either `answer` or `error`".into()),
                };
                Ok(((model, prompt), answer))
            })?,
        };
        Ok(AnswerFile {
            answers: lines.into_iter().collect(),
            open: Mutex::new(Vec::new()),
        })
    }

    /// Writes the questions that have no answer, each once, in an order that does not depend on the
    /// threads.
    fn write_open(self, path: &Path) -> Result<(), PluginError> {
        let mut open = self
            .open
            .into_inner()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        open.sort_by(|a, b| (&a.model, &a.prompt).cmp(&(&b.model, &b.prompt)));
        open.dedup();
        let line = |ask: &Ask| {
            serde_json::json!({"model": ask.model, "prompt": ask.prompt,
            "max_tokens": ask.max_tokens})
        };
        let text: String = open.iter().map(|ask| format!("{}\n", line(ask))).collect();
        Ok(write_file(&Disk, path, |file| {
            file.write_all(text.as_bytes())
        })?)
    }
}

impl Answers for AnswerFile {
    fn answer(&self, ask: &Ask) -> Option<Result<String, String>> {
        let of = |model| self.answers.get(&(model, ask.prompt.clone())).cloned();
        let answer = of(Some(ask.model.clone())).or_else(|| of(None));
        if answer.is_none() {
            self.open
                .lock()
                .unwrap_or_else(|poisoned| poisoned.into_inner())
                .push(ask.clone());
        }
        answer
    }
}
