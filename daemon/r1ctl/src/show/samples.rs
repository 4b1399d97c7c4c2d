//! `r1ctl samples`: prompts, completions and the verdict of each reward, for people to read.

use crate::format::{number, thousands};
use crate::terminal::{Look, one_line, printable};
use r1d_proto::control::content::Sample;
use r1d_proto::verdict::{Outcome, Verdict};

pub(crate) fn samples(samples: &[Sample], look: Look) -> String {
    samples
        .iter()
        .map(|sample| block(sample, look))
        .collect::<Vec<_>>()
        .join("\n")
}

fn block(sample: &Sample, look: Look) -> String {
    let reward = sample.reward.map_or_else(
        || "not trained on".into(),
        |r| format!("reward {}", number(r.into())),
    );
    let advantage = sample
        .advantage
        .map_or_else(String::new, |a| format!(", advantage {a:+.3}"));
    let head = format!(
        "{} step {}, prompt {}, sample {} (row {}): {reward}{advantage}, {} tokens, {}",
        one_line(&sample.stage),
        sample.step,
        sample.prompt_index,
        sample.sample_index,
        sample.row,
        thousands(sample.tokens.into()),
        finish(&sample.finish)
    );
    let mut text = look.bold(&head) + "\n";
    text += &field("prompt", &sample.prompt, look);
    text += &field("completion", &sample.completion, look);
    if let Some(reference) = &sample.reference {
        text += &field("reference", reference, look);
    }
    for verdict in &sample.verdicts {
        text += &field(&one_line(&verdict.plugin), &judged(verdict), look);
    }
    text
}

fn finish(reason: &str) -> String {
    match reason {
        "stop" => "stopped".into(),
        "length" => "cut off at the length limit".into(),
        other => one_line(other),
    }
}

/// A name, and a text whose lines all start in the same column.
fn field(name: &str, text: &str, look: Look) -> String {
    const COLUMN: usize = 12;
    let indent = format!("\n  {}", " ".repeat(COLUMN));
    let padded = format!("{name:COLUMN$}");
    format!(
        "  {}{}\n",
        look.dim(&padded),
        printable(text.trim_end()).replace('\n', &indent)
    )
}

/// A verdict, and the score that it counted as.
pub(crate) fn judged(verdict: &Verdict) -> String {
    let said = match &verdict.outcome {
        Outcome::Score { value, parts } if parts.is_empty() => number((*value).into()),
        Outcome::Score { value, parts } => {
            let parts: Vec<String> = parts.iter().map(|part| number((*part).into())).collect();
            format!("{} ({})", number((*value).into()), parts.join(" + "))
        }
        Outcome::Abstain { reason } => format!("abstained: {reason}"),
        Outcome::Trap { reason } => format!("trapped: {reason}"),
        Outcome::OutOfFuel => "out of fuel".into(),
        Outcome::OutOfTime => "out of time".into(),
    };
    let counted = match (&verdict.outcome, verdict.value) {
        (Outcome::Score { .. }, Some(_)) => String::new(),
        (_, Some(value)) => format!(", counted as {}", number(value.into())),
        (_, None) => ", sample dropped".into(),
    };
    format!("{said}{counted}, fuel {}", thousands(verdict.fuel))
}
