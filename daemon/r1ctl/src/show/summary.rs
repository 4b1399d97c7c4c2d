//! The end of a job that was waited for: the evaluations after each stage, one sample before and
//! after training, and where the model is.

use crate::format::{duration, eval_metric, thousands, watched_evals};
use crate::table::{headed, side_by_side};
use crate::terminal::{Look, one_line, printable};
use r1d_proto::control::job::{EvalExample, EvalResult, JobStatus, State};
use std::collections::BTreeSet;

/// Formats the summary. `again` is the command that calls r1ctl again.
pub(crate) fn summary(job: &JobStatus, look: Look, again: &str) -> String {
    let mut text = String::new();
    let evals = last_of_each_stage(&job.evals);
    if !evals.is_empty() {
        text += &format!("{}\n", table(&evals, look));
    }
    if let Some((before, after)) = before_and_after(&job.evals) {
        text += &format!("{}\n", examples(before, after, look));
    }
    let took = match (job.started_at, job.ended_at) {
        (Some(started), Some(ended)) => {
            format!(" in {}", duration(ended.saturating_sub(started) as f64))
        }
        _ => String::new(),
    };
    text += &format!(
        "job {} ({}) {}{took}\n",
        look.bold(&job.job.0),
        one_line(&job.name),
        look.state(job.state)
    );
    if let Some(error) = &job.error {
        text += &format!("{} {}\n", look.red("error:"), printable(error));
    }
    match &job.model {
        Some(model) => text += &format!("model  {}\n", look.bold(&model.display().to_string())),
        None if job.state != State::Succeeded => {
            text += &format!("log    {again} logs {}\n", job.job)
        }
        None => {}
    }
    text + &format!("files  {}\n", job.directory.display())
}

/// The place of an evaluation: `before training`, `after reasoning`.
fn eval_label(eval: &EvalResult) -> String {
    eval.stage.as_ref().map_or_else(
        || "before training".into(),
        |stage| format!("after {}", one_line(stage)),
    )
}

/// The last evaluation of each stage and data set. Earlier ones within a stage are its curve, which
/// `r1ctl status` shows.
fn last_of_each_stage(evals: &[EvalResult]) -> Vec<&EvalResult> {
    let is_last = |i: usize, eval: &EvalResult| {
        !evals
            .iter()
            .skip(i + 1)
            .any(|later| later.stage == eval.stage && later.data == eval.data)
    };
    evals
        .iter()
        .enumerate()
        .filter(|(i, eval)| is_last(*i, eval))
        .map(|(_, eval)| eval)
        .collect()
}

fn table(evals: &[&EvalResult], look: Look) -> String {
    let metrics: BTreeSet<&String> = evals
        .iter()
        .flat_map(|eval| watched_evals(&eval.metrics).map(|(name, _)| name))
        .collect();
    let data: BTreeSet<&String> = evals.iter().map(|eval| &eval.data).collect();
    let mut heads = vec!["evaluated".to_owned(), "step".to_owned()];
    if data.len() > 1 {
        heads.push("data".into());
    }
    let names = heads.len();
    heads.extend(metrics.iter().map(|metric| one_line(metric)));
    let row = |eval: &&EvalResult| {
        let mut row = vec![eval_label(eval), thousands(eval.step)];
        if data.len() > 1 {
            row.push(one_line(&eval.data));
        }
        row.extend(metrics.iter().map(|name| eval_metric(&eval.metrics, name)));
        row
    };
    let right: Vec<bool> = (0..heads.len()).map(|i| i == 1 || i >= names).collect();
    headed(look, &heads, &right, evals.iter().map(row).collect())
}

/// An evaluation and the example that it shows.
type EvalAndExample<'a> = (&'a EvalResult, &'a EvalExample);

/// The first and the last evaluation that show an example of the same data set.
fn before_and_after(evals: &[EvalResult]) -> Option<(EvalAndExample<'_>, EvalAndExample<'_>)> {
    let shown = || {
        evals
            .iter()
            .filter_map(|eval| Some((eval, eval.example.as_ref()?)))
    };
    let before = shown().next()?;
    let after = shown().rfind(|(eval, _)| eval.data == before.0.data)?;
    (!std::ptr::eq(before.0, after.0)).then_some((before, after))
}

fn examples(before: EvalAndExample<'_>, after: EvalAndExample<'_>, look: Look) -> String {
    let mut text = format!(
        "{}\n{}\n",
        look.bold("prompt"),
        printable(after.1.prompt.trim())
    );
    if let Some(reference) = &after.1.reference {
        text += &format!("{} {}\n", look.bold("reference"), one_line(reference));
    }
    text.push('\n');
    let completions = [before, after].map(|(_, example)| printable(example.completion.trim()));
    let heads = [eval_label(before.0), eval_label(after.0)];
    text + &side_by_side(
        look,
        [&heads[0], &heads[1]],
        [&completions[0], &completions[1]],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eval(stage: Option<&str>, step: u64, data: &str, example: Option<&str>) -> EvalResult {
        let example = example.map(|text| EvalExample {
            prompt: "1 + 1".into(),
            completion: text.into(),
            reference: None,
        });
        EvalResult {
            stage: stage.map(Into::into),
            step,
            data: data.into(),
            metrics: [("accuracy".into(), 0.5)].into(),
            example,
        }
    }

    #[test]
    fn each_stage_and_data_set_stands_once_with_its_last_result() {
        let evals = [
            eval(None, 0, "test", None),
            eval(Some("rl"), 25, "test", None),
            eval(Some("rl"), 25, "hard", None),
            eval(Some("rl"), 50, "test", None),
        ];
        let kept: Vec<(u64, &str)> = last_of_each_stage(&evals)
            .iter()
            .map(|e| (e.step, e.data.as_str()))
            .collect();
        assert_eq!(kept, [(0, "test"), (25, "hard"), (50, "test")]);
    }

    #[test]
    fn before_and_after_are_of_one_data_set_and_two_evaluations() {
        let evals = [
            eval(None, 0, "test", Some("a")),
            eval(Some("rl"), 9, "test", Some("b")),
            eval(Some("rl"), 9, "hard", Some("c")),
        ];
        let (before, after) = before_and_after(&evals).unwrap();
        assert_eq!(
            (before.1.completion.as_str(), after.1.completion.as_str()),
            ("a", "b")
        );
        assert!(before_and_after(&evals[..1]).is_none());
        assert!(before_and_after(&[]).is_none());
    }
}
