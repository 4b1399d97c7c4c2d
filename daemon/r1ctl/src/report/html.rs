//! The page: one file without scripts and without anything to fetch, which its own content policy
//! enforces. It is well-formed as XML too.

use super::chart::{Placed, figure, over_places};
use super::escape::escaped;
use super::figures::{self, Evaluations, VERDICTS, eval_metric, is_share, plain};
use super::gather::{Run, Stage};
use super::{graph, panels, words};
use crate::format::{duration, minute_of_s, number, percent, thousands};
use crate::show::judged;
use crate::terminal::one_line;
use r1d_proto::control::content::Sample;
use r1d_proto::control::job::EvalExample;
use std::fmt::Write;

/// Most letters of a prompt or completion that are shown.
pub(super) const TEXT_MAX_LETTERS: usize = 6000;

const STYLE: &str = include_str!("style.css");
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";

/// The beginning of a long text, and how much is missing.
pub(super) fn shortened(text: &str) -> String {
    let letters = text.chars().count();
    if letters > TEXT_MAX_LETTERS {
        format!(
            "{}\n… and {} more letters",
            text.chars().take(TEXT_MAX_LETTERS).collect::<String>(),
            thousands((letters - TEXT_MAX_LETTERS) as u64)
        )
    } else {
        text.to_owned()
    }
}

pub(super) fn page(run: &Run) -> String {
    let title = escaped(&one_line(&run.status.name));
    let parts = [
        header(run),
        section("summary", "Summary", &summary(run)),
        section("stages", "Stages", &stages(run)),
        section("results", "After each stage", &results(run)),
        section("curves", "Curves", &curves(run)),
        section("cost", "Cost", &cost(run)),
        section("samples", "Samples", &samples(run)),
        section("evaluations", "Examples of the evaluations", &examples(run)),
    ];
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<meta \
         http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\"/>\n<meta name=\"viewport\" \
         content=\"width=device-width, initial-scale=1\"/>\n<title>{title} · r1d \
         report</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{}</body>\n</html>\n",
        parts.concat()
    )
}

/// A section of the page; empty if it has no body.
fn section(id: &str, title: &str, body: &str) -> String {
    if body.is_empty() {
        String::new()
    } else {
        format!("<section id=\"{id}\">\n<h2>{title}</h2>\n{body}</section>\n")
    }
}

/// The facts at the top: key and value.
pub(super) fn facts(run: &Run) -> Vec<(&'static str, String)> {
    let status = &run.status;
    let time = |at: Option<u64>| at.map_or_else(|| "–".into(), minute_of_s);
    let mut facts = vec![("job", status.job.to_string())];
    let models = run
        .models
        .iter()
        .map(|(name, what)| format!("{name}: {what}"));
    facts.extend(models.map(|model| ("model", model)));
    facts.extend(run.seed.map(|seed| ("seed", seed.to_string())));
    if !run.devices.is_empty() {
        facts.push((
            "device",
            run.devices.iter().cloned().collect::<Vec<_>>().join(", "),
        ));
    }
    facts.push(("submitted", minute_of_s(status.submitted_at)));
    facts.push((
        "started, ended",
        format!("{}, {}", time(status.started_at), time(status.ended_at)),
    ));
    facts.push((
        "wall time",
        figures::wall_seconds(run).map_or_else(|| "–".into(), duration),
    ));
    facts.push(("tokens", thousands(figures::all_tokens(run))));
    facts.push(("restarts", status.restarts.to_string()));
    facts.push(("files", status.directory.display().to_string()));
    facts.extend(
        status
            .model
            .as_ref()
            .map(|model| ("final model", model.display().to_string())),
    );
    facts.push(("reported", minute_of_s(run.reported_at)));
    facts
}

fn header(run: &Run) -> String {
    let state = run.status.state.name();
    let mut text = format!(
        "<h1>{}</h1>\n<p><span class=\"state {state}\">{state}</span></p>\n",
        escaped(&one_line(&run.status.name))
    );
    if let Some(error) = &run.status.error {
        let _ = writeln!(text, "<p class=\"error\">{}</p>", escaped(error));
    }
    text += "<dl class=\"facts\">\n";
    for (key, value) in facts(run) {
        let _ = writeln!(text, "<dt>{key}</dt><dd>{}</dd>", escaped(&value));
    }
    text += "</dl>\n<nav>";
    let links = [
        ("results", "Results"),
        ("curves", "Curves"),
        ("cost", "Cost"),
        ("samples", "Samples"),
    ];
    for (id, name) in links {
        let _ = write!(text, "<a href=\"#{id}\">{name}</a>");
    }
    text += "</nav>\n";
    for gap in &run.gaps {
        let _ = writeln!(
            text,
            "<p class=\"note\">Not in this report: {}</p>",
            escaped(gap)
        );
    }
    text
}

fn summary(run: &Run) -> String {
    let item = |sentence: &words::Sentence| {
        format!(
            "<li><b>{}</b> {}</li>\n",
            escaped(&one_line(&sentence.about)),
            escaped(&one_line(&sentence.said))
        )
    };
    let sentences: String = words::summary(run).iter().map(item).collect();
    format!(
        "<ul>\n{sentences}</ul>\n<p class=\"note\">Computed from the recorded metrics; a curve's \
         ends are means of a tenth of its steps.</p>\n"
    )
}

fn stages(run: &Run) -> String {
    if run.stages.is_empty() {
        return String::new();
    }
    let rows = run.stages.iter().map(|stage| {
        let made = stage
            .made
            .as_ref()
            .map_or_else(String::new, |made| format!("{} rows", thousands(made.rows)));
        let judges = if stage.judges.is_empty() {
            String::new()
        } else {
            format!("; judged by {}", stage.judges.join(", "))
        };
        vec![
            stage.status.name.clone(),
            stage.status.kind.clone(),
            stage.from.clone(),
            stage.data.join(" + ") + &judges,
            stage.status.state.name().into(),
            figures::steps(&stage.status),
            made,
        ]
    });
    let heads = [
        "stage",
        "kind",
        "starts from",
        "reads",
        "state",
        "steps",
        "made",
    ];
    graph::graph(run)
        + "\n<p class=\"note\">Left: whose weights a stage starts from. Right: whose data it \
           reads (solid) and whose model judges it (dashed).</p>\n"
        + &table(&heads, 5, rows.collect())
}

/// A table whose columns from `numbers` on are right-aligned.
fn table(heads: &[&str], numbers: usize, rows: Vec<Vec<String>>) -> String {
    let class = |at: usize| if at >= numbers { " class=\"n\"" } else { "" };
    let mut text = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    for (at, head) in heads.iter().enumerate() {
        let _ = write!(text, "<th{}>{}</th>", class(at), escaped(head));
    }
    text += "</tr></thead>\n<tbody>\n";
    for row in rows {
        text += "<tr>";
        for (at, cell) in row.iter().enumerate() {
            let _ = write!(text, "<td{}>{}</td>", class(at), escaped(&one_line(cell)));
        }
        text += "</tr>\n";
    }
    text + "</tbody></table></div>\n"
}

fn results(run: &Run) -> String {
    let found = figures::evaluations(run);
    if found.rows.is_empty() {
        return String::new();
    }
    let mut text =
        String::from("<div class=\"wide\"><table>\n<thead><tr class=\"group\"><th></th><th></th>");
    let mut columns = found.columns.as_slice();
    while let Some((data, _)) = columns.first() {
        let width = columns
            .iter()
            .take_while(|(other, _)| other == data)
            .count();
        let _ = write!(
            text,
            "<th colspan=\"{width}\">{}</th>",
            escaped(&one_line(data))
        );
        columns = columns.get(width..).unwrap_or_default();
    }
    text += "</tr>\n<tr><th>evaluated</th><th class=\"n\">step</th>";
    for (_, metric) in &found.columns {
        let _ = write!(
            text,
            "<th class=\"n\">{}</th>",
            escaped(&one_line(&plain(metric)))
        );
    }
    text += "</tr></thead>\n<tbody>\n";
    for row in &found.rows {
        let _ = write!(
            text,
            "<tr><td class=\"name\">{}</td><td class=\"n\">{}</td>",
            escaped(&figures::place(row.stage)),
            thousands(row.step)
        );
        for column in &found.columns {
            let Some(value) = row.values.get(column) else {
                text += "<td class=\"n\">–</td>";
                continue;
            };
            let interval = value
                .interval_shown(column.1)
                .map_or_else(String::new, |ends| format!(" <small>{ends}</small>"));
            let _ = write!(
                text,
                "<td class=\"n\">{}{interval}</td>",
                eval_metric(column.1, value.mean)
            );
        }
        text += "</tr>\n";
    }
    let note = "The last evaluation of each stage. In brackets, where the evaluation gives it: \
                the 95 % confidence interval. In the charts a line leads from the weights that a \
                stage started from.";
    text + "</tbody></table></div>\n<p class=\"note\">"
        + note
        + "</p>\n"
        + &result_charts(run, &found)
}

/// A chart for each metric, the data sets side by side; lines lead from the weights that a stage
/// started from.
fn result_charts(run: &Run, found: &Evaluations<'_>) -> String {
    let places: Vec<String> = found
        .rows
        .iter()
        .map(|row| row.stage.unwrap_or("start").to_owned())
        .collect();
    if places.len() < 2 {
        return String::new();
    }
    let origin = |row: &figures::EvaluationRow<'_>| {
        let stage = run
            .stages
            .iter()
            .find(|stage| Some(stage.status.name.as_str()) == row.stage)?;
        figures::origin(run, &found.rows, stage)
    };
    let origins: Vec<Option<usize>> = found.rows.iter().map(origin).collect();
    let mut metrics: Vec<&str> = Vec::new();
    for (_, metric) in &found.columns {
        if !metrics.contains(metric) {
            metrics.push(metric);
        }
    }
    let chart = |metric: &&str| {
        let data = found
            .columns
            .iter()
            .filter(|(_, other)| other == metric)
            .take(panels::SERIES_MAX);
        let series: Vec<Placed> = data
            .map(|column| {
                let value = |row: &figures::EvaluationRow<'_>| row.values.get(column).copied();
                Placed {
                    name: column.0.to_owned(),
                    values: found.rows.iter().map(value).collect(),
                }
            })
            .collect();
        over_places(
            &plain(metric),
            if is_share(metric) { "share" } else { "" },
            &places,
            &origins,
            &series,
        )
    };
    format!(
        "<div class=\"panels\">\n{}</div>\n",
        metrics.iter().map(chart).collect::<String>()
    )
}

fn curves(run: &Run) -> String {
    let mut text = String::new();
    for stage in run.stages.iter().filter(|stage| !stage.curves.is_empty()) {
        let panels: String = panels::of_stage(run, stage).iter().map(figure).collect();
        let _ = writeln!(
            text,
            "<h3>{}</h3>\n<div class=\"panels\">\n{panels}</div>",
            stage_title(stage)
        );
    }
    if !text.is_empty() {
        text += "<p class=\"note\">Thin: each step (of long curves the extremes of each stretch). \
                 Thick: a centred moving average over a twentieth of the steps.</p>\n";
    }
    let odd = figures::verdicts(run);
    if !odd.is_empty() {
        let rows = odd.into_iter().map(|(stage, counts)| {
            [vec![stage], counts.into_iter().map(thousands).collect()].concat()
        });
        text += "<h3>Verdicts that were no scores</h3>\n";
        text += &table(&[&["stage"], &VERDICTS[..]].concat(), 1, rows.collect());
    }
    text
}

fn stage_title(stage: &Stage) -> String {
    format!(
        "{} <small>{}</small>",
        escaped(&one_line(&stage.status.name)),
        escaped(&stage.status.kind)
    )
}

fn cost(run: &Run) -> String {
    let costs = figures::costs(run);
    if costs.is_empty() {
        return String::new();
    }
    let heads = ["stage", "kind"];
    let numbers = ["steps", "tokens", "time", "tokens/s", "share of time"];
    let mut text = String::from("<div class=\"wide\"><table>\n<thead><tr>");
    text += &heads.map(|head| format!("<th>{head}</th>")).concat();
    text += &numbers
        .map(|head| format!("<th class=\"n\">{head}</th>"))
        .concat();
    text += "<th></th></tr></thead>\n<tbody>\n";
    for cost in &costs {
        let speed = cost
            .tokens
            .filter(|_| cost.seconds > 0.0)
            .map(|tokens| tokens as f64 / cost.seconds);
        let cells = [
            thousands(cost.step),
            cost.tokens.map_or_else(|| "–".into(), thousands),
            duration(cost.seconds),
            figures::or_dash(speed),
            percent(cost.share),
        ];
        let _ = write!(
            text,
            "<tr><td>{}</td><td>{}</td>",
            escaped(&one_line(&cost.name)),
            escaped(&cost.kind)
        );
        text += &cells
            .map(|cell| format!("<td class=\"n\">{cell}</td>"))
            .concat();
        let _ = writeln!(
            text,
            "<td class=\"bar\"><i style=\"width: {:.1}%\"></i></td></tr>",
            cost.share * 100.0
        );
    }
    let seconds: f64 = costs.iter().map(|cost| cost.seconds).sum();
    let _ = write!(
        text,
        "</tbody>\n<tfoot><tr><td>all stages</td><td></td><td class=\"n\">{}</td><td \
         class=\"n\">{}</td><td \
         class=\"n\">{}</td><td></td><td></td><td></td></tr></tfoot>\n</table></div>\n",
        thousands(costs.iter().map(|cost| cost.step).sum()),
        thousands(figures::all_tokens(run)),
        duration(seconds)
    );
    text + "<p class=\"note\">Tokens are those sampled or trained on. Time is by the clock, with \
            the stage's evaluations and checkpoints.</p>\n"
}

fn samples(run: &Run) -> String {
    let mut text = String::new();
    for stage in &run.stages {
        let picked = figures::picked(stage);
        let Some((_, first)) = picked.first() else {
            continue;
        };
        let _ = writeln!(
            text,
            "<h3>{} <small>· step {}</small></h3>",
            stage_title(stage),
            thousands(first.step)
        );
        text += &picked
            .iter()
            .map(|(what, sample)| block(what, sample))
            .collect::<String>();
    }
    text
}

/// The heading of a sample.
pub(super) fn sample_head(what: &str, sample: &Sample) -> (String, String) {
    let reward = sample.reward.map_or_else(
        || "no reward".into(),
        |reward| format!("reward {}", number(reward.into())),
    );
    let cut = if sample.finish == "length" {
        ", cut off"
    } else {
        ""
    };
    (
        format!("{what}: {reward}"),
        format!(
            "row {}, {} tokens{cut}",
            sample.row,
            thousands(sample.tokens.into())
        ),
    )
}

fn block(what: &str, sample: &Sample) -> String {
    let (head, details) = sample_head(what, sample);
    let mut text = format!(
        "<div class=\"sample\"><h4>{head} <small>{}</small></h4>\n",
        escaped(&details)
    );
    text += &labelled("prompt", &sample.prompt);
    text += &labelled("completion", &sample.completion);
    if let Some(reference) = &sample.reference {
        text += &labelled("reference", reference);
    }
    let rows: Vec<Vec<String>> = sample
        .verdicts
        .iter()
        .map(|verdict| vec![verdict.plugin.clone(), judged(verdict)])
        .collect();
    if !rows.is_empty() {
        text += &table(&["reward", "verdict"], 2, rows);
    }
    text + "</div>\n"
}

fn labelled(label: &str, text: &str) -> String {
    format!(
        "<p class=\"label\">{}</p><pre>{}</pre>\n",
        escaped(label),
        escaped(&shortened(text))
    )
}

fn examples(run: &Run) -> String {
    let mut text = String::new();
    for (data, shown) in figures::examples(run) {
        let _ = writeln!(
            text,
            "<h3>{}</h3>\n<div class=\"sample\">",
            escaped(&one_line(data))
        );
        if let Some((
            _,
            EvalExample {
                prompt, reference, ..
            },
        )) = shown.last()
        {
            text += &labelled("prompt", prompt);
            text += &reference
                .as_ref()
                .map_or_else(String::new, |reference| labelled("reference", reference));
        }
        for (place, example) in shown {
            text += &labelled(&place, &example.completion);
        }
        text += "</div>\n";
    }
    text
}
