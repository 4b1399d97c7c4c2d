//! Judges the lines of standard input, for the parity script and the bench:
//! `{"reference", "completion", "config"?}` → `{"score", "reason"}`. With `--time` it prints only
//! the seconds that the judging took, and how many lines were judged.

use accuracy::Accuracy;
use reward_sdk::{Completion, Error, Reward};
use std::io::{BufRead, Write};

#[derive(serde::Deserialize)]
struct Line {
    reference: String,
    completion: String,
    #[serde(default)]
    config: serde_json::Value,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let time = std::env::args().any(|argument| argument == "--time");
    let lines = std::io::stdin()
        .lock()
        .lines()
        .collect::<Result<Vec<String>, _>>()?;
    let lines = lines
        .iter()
        .map(|line| serde_json::from_str(line))
        .collect::<Result<Vec<Line>, _>>()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    #[expect(clippy::disallowed_methods, reason = "a measurement, not a decision")]
    let start = std::time::Instant::now();
    for line in &lines {
        let config = if line.config.is_null() {
            "{}".to_string()
        } else {
            line.config.to_string()
        };
        let reward: Accuracy = reward_sdk::configure(&config)?;
        let completion = Completion {
            text: line.completion.clone(),
            reference: Some(line.reference.clone()),
            ..Completion::default()
        };
        let verdict = match reward.score(&completion) {
            Ok(score) => serde_json::json!({"score": score.value, "reason": score.reason}),
            Err(Error::Unscorable(reason)) => serde_json::json!({"score": null, "reason": reason}),
            Err(Error::Internal(reason)) => return Err(reason.into()),
        };
        if !time {
            writeln!(out, "{verdict}")?;
        }
    }
    if time {
        writeln!(
            out,
            "{}",
            serde_json::json!({"seconds": start.elapsed().as_secs_f64(), "judged": lines.len()})
        )?;
    }
    Ok(())
}
