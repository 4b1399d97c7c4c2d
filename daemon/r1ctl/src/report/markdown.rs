//! The report as markdown: the same tables and sentences as the page, without the charts.

use super::figures::{self, VERDICTS, ends, plain};
use super::gather::Run;
use super::html::{facts, sample_head, shortened};
use super::words;
use crate::format::{duration, number, percent, thousands};
use crate::show::judged;
use crate::terminal::{one_line, printable};
use std::fmt::Write;

/// Escapes text for one line, so that markdown does not interpret it.
fn plain_text(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in one_line(text).chars() {
        match c {
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '&' => safe.push_str("&amp;"),
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '~' | '$' => safe.extend(['\\', c]),
            c => safe.push(c),
        }
    }
    safe
}

/// A code block whose fence is longer than any in the text.
fn fenced(text: &str) -> String {
    let text = printable(&shortened(text));
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(2) + 1);
    format!("{fence}text\n{text}\n{fence}\n\n")
}

/// A table whose columns from `numbers` on are right-aligned.
fn table(heads: &[String], numbers: usize, rows: &[Vec<String>]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(heads.iter().map(|head| plain_text(head)).collect());
    text += &line(
        (0..heads.len())
            .map(|at| {
                if at >= numbers {
                    "--:".into()
                } else {
                    "---".into()
                }
            })
            .collect(),
    );
    for row in rows {
        text += &line(row.iter().map(|cell| plain_text(cell)).collect());
    }
    text + "\n"
}

fn heads(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| name.to_string()).collect()
}

pub(super) fn page(run: &Run) -> String {
    let mut text = format!(
        "# {}\n\n**{}**",
        plain_text(&run.status.name),
        run.status.state.name()
    );
    if let Some(error) = &run.status.error {
        let _ = write!(text, ": {}", plain_text(error));
    }
    text += "\n\n";
    let rows: Vec<Vec<String>> = facts(run)
        .into_iter()
        .map(|(key, value)| vec![key.into(), value])
        .collect();
    text += &table(&heads(&["", ""]), 2, &rows);
    for gap in &run.gaps {
        let _ = writeln!(text, "Not in this report: {}\n", plain_text(gap));
    }
    text += "## Summary\n\n";
    for sentence in words::summary(run) {
        let _ = writeln!(
            text,
            "- **{}** {}",
            plain_text(&sentence.about),
            plain_text(&sentence.said)
        );
    }
    text += "\n";
    text += &stages(run);
    text += &results(run);
    text += &curves(run);
    text + &samples(run) + &examples(run)
}

fn stages(run: &Run) -> String {
    let rows: Vec<Vec<String>> = (run.stages.iter().zip(figures::costs(run)))
        .map(|(stage, cost)| {
            vec![
                cost.name,
                cost.kind,
                stage.from.clone(),
                stage.data.join(" + "),
                stage.status.state.name().into(),
                figures::steps(&stage.status),
                cost.tokens.map_or_else(|| "–".into(), thousands),
                duration(cost.seconds),
                percent(cost.share),
            ]
        })
        .collect();
    let names = [
        "stage",
        "kind",
        "starts from",
        "reads",
        "state",
        "steps",
        "tokens",
        "time",
        "share of time",
    ];
    format!("## Stages\n\n{}", table(&heads(&names), 5, &rows))
}

fn results(run: &Run) -> String {
    let found = figures::evaluations(run);
    if found.rows.is_empty() {
        return String::new();
    }
    let columns = found
        .columns
        .iter()
        .map(|(data, metric)| format!("{data}: {}", plain(metric)));
    let names: Vec<String> = heads(&["evaluated", "step"])
        .into_iter()
        .chain(columns)
        .collect();
    let row = |row: &figures::EvaluationRow<'_>| {
        let value = |column| {
            row.values
                .get(column)
                .map_or_else(|| "–".into(), |value| value.shown(column.1))
        };
        [
            vec![figures::place(row.stage), thousands(row.step)],
            found.columns.iter().map(value).collect(),
        ]
        .concat()
    };
    let rows: Vec<Vec<String>> = found.rows.iter().map(row).collect();
    format!("## After each stage\n\n{}", table(&names, 1, &rows))
}

/// A table of the first and last value of each metric.
fn curves(run: &Run) -> String {
    let mut text = String::new();
    for stage in run.stages.iter().filter(|stage| !stage.curves.is_empty()) {
        let row = |(name, points): (&String, &Vec<(u64, f64)>)| {
            let (first, last) = ends(points)?;
            let finite = || {
                points
                    .iter()
                    .map(|(_, value)| *value)
                    .filter(|value| value.is_finite())
            };
            let extremes = [
                finite().fold(f64::INFINITY, f64::min),
                finite().fold(f64::NEG_INFINITY, f64::max),
            ];
            Some(
                [
                    vec![name.clone(), number(first), number(last)],
                    extremes.map(number).to_vec(),
                ]
                .concat(),
            )
        };
        let shown = |name: &str| {
            !["timing_s/", "num_tokens"]
                .iter()
                .any(|start| name.starts_with(start))
        };
        let rows: Vec<Vec<String>> = stage
            .curves
            .iter()
            .filter(|(name, _)| shown(name))
            .filter_map(row)
            .collect();
        if !rows.is_empty() {
            let names = heads(&["metric", "first tenth", "last tenth", "least", "most"]);
            let _ = write!(
                text,
                "### {}\n\n{}",
                plain_text(&stage.status.name),
                table(&names, 1, &rows)
            );
        }
    }
    let odd = figures::verdicts(run);
    if !odd.is_empty() {
        let rows: Vec<Vec<String>> = odd
            .into_iter()
            .map(|(stage, counts)| {
                [vec![stage], counts.into_iter().map(thousands).collect()].concat()
            })
            .collect();
        let _ = write!(
            text,
            "### Verdicts that were no scores\n\n{}",
            table(&heads(&[&["stage"], &VERDICTS[..]].concat()), 1, &rows)
        );
    }
    if text.is_empty() {
        text
    } else {
        format!("## Metrics\n\n{text}")
    }
}

fn samples(run: &Run) -> String {
    let mut text = String::new();
    for stage in &run.stages {
        for (what, sample) in figures::picked(stage) {
            let (head, details) = sample_head(what, sample);
            let _ = write!(
                text,
                "### {}, step {}, {head} ({details})\n\n",
                plain_text(&stage.status.name),
                thousands(sample.step)
            );
            text += &format!(
                "prompt\n\n{}completion\n\n{}",
                fenced(&sample.prompt),
                fenced(&sample.completion)
            );
            for verdict in &sample.verdicts {
                let _ = writeln!(
                    text,
                    "- {}: {}",
                    plain_text(&verdict.plugin),
                    plain_text(&judged(verdict))
                );
            }
            text += "\n";
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("## Samples\n\n{text}")
    }
}

fn examples(run: &Run) -> String {
    let mut text = String::new();
    for (data, shown) in figures::examples(run) {
        let prompt = shown
            .last()
            .map_or_else(String::new, |(_, example)| fenced(&example.prompt));
        let _ = write!(text, "### {}\n\nprompt\n\n{prompt}", plain_text(data));
        for (place, example) in shown {
            let _ = write!(
                text,
                "{}\n\n{}",
                plain_text(&place),
                fenced(&example.completion)
            );
        }
    }
    if text.is_empty() {
        text
    } else {
        format!("## Examples of the evaluations\n\n{text}")
    }
}
