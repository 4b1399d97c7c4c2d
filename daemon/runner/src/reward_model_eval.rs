//! Evaluates a finished reward model: whether it separates good from bad on rows that it has not
//! seen.

use crate::flow::unexpected;
use crate::message::{Batch, Command, End, Event};
use crate::plan::Plan;
use crate::wait::{LastHeard, Wait};
use r1d_proto::control::job::{Activity, EvalResult};
use r1d_proto::worker::{Body, Metrics, Reply, WorkerRequest};
use std::time::Duration;

/// Texts of one request (`LIM-1`).
const TEXTS_MAX: usize = 4096;
/// Number of standard deviations to either side of a mean that hold 95 % of a normal distribution.
const TWO_SIDED_95: f64 = 1.959_963_984_540_054;

/// The evaluation of a reward model at work.
#[derive(Debug)]
pub struct RewardModelEval {
    /// The stage and the number of its steps, which the result is recorded under.
    stage: usize,
    step: u64,
    since: Duration,
    rows: Option<Rows>,
    /// Texts that are not scored yet, the last first.
    texts: Vec<Vec<u32>>,
    asked: usize,
    scores: Vec<f32>,
}

/// How far the evaluation is.
#[derive(Debug)]
pub enum Compared {
    /// It goes on with these commands.
    Not(Vec<Command>),
    /// Everything is scored.
    Whole {
        /// The metrics to record.
        result: Box<EvalResult>,
        /// A line for the job's log, if the model does not separate the rows.
        warning: Option<String>,
    },
}

/// The kind of the rows, whose texts the scores belong to in order.
#[derive(Debug)]
enum Rows {
    /// Chosen and rejected texts, one after the other.
    Pairs,
    /// Texts with labels, 0 to 1.
    Labels(Vec<f32>),
}

impl RewardModelEval {
    /// Begins the evaluation of the reward model of `stage` after `step` steps, and returns its
    /// first commands.
    pub fn begin(stage: usize, step: u64, now: Duration) -> (RewardModelEval, Vec<Command>) {
        let this = RewardModelEval {
            stage,
            step,
            since: now,
            rows: None,
            texts: Vec::new(),
            asked: 0,
            scores: Vec::new(),
        };
        (this, vec![Command::ReadHeldOut { stage }])
    }

    /// Takes an event. Returns the result and a warning once everything is scored, the next
    /// commands before that.
    pub fn handle(&mut self, plan: &Plan, event: Event, now: Duration) -> Result<Compared, End> {
        match (&self.rows, event) {
            (None, Event::Batch(Batch::Pairs(pairs))) => {
                self.rows = Some(Rows::Pairs);
                let whole = |prompt: &[u32], completion: &[u32]| [prompt, completion].concat();
                self.texts = pairs
                    .iter()
                    .flat_map(|p| {
                        [
                            whole(&p.prompt_ids, &p.chosen_ids),
                            whole(&p.prompt_ids, &p.rejected_ids),
                        ]
                    })
                    .collect();
                self.texts.reverse();
            }
            (None, Event::Batch(Batch::Labelled(texts))) => {
                self.rows = Some(Rows::Labels(texts.iter().map(|text| text.label).collect()));
                self.texts = texts.into_iter().map(|text| text.ids).rev().collect();
            }
            (Some(_), Event::Worker(Body::Done(Reply::Scored { scores })))
                if scores.len() == self.asked =>
            {
                self.scores.extend(scores)
            }
            (_, event) => return Err(unexpected("comparing held-out rows", &event)),
        }
        if !self.texts.is_empty() {
            self.asked = self.texts.len().min(TEXTS_MAX);
            let sequences = self
                .texts
                .drain(self.texts.len() - self.asked..)
                .rev()
                .collect();
            return Ok(Compared::Not(vec![Command::Worker(Box::new(
                WorkerRequest::Score {
                    model: None,
                    sequences,
                },
            ))]));
        }
        self.result(plan, now)
    }

    fn result(&self, plan: &Plan, now: Duration) -> Result<Compared, End> {
        let settings = plan
            .job
            .stages
            .get(self.stage)
            .and_then(|stage| Some((stage, stage.held_out()?)));
        let Some((stage, data)) = settings else {
            return Err(End::Failed {
                error: format!("stage {} has no held-out rows", self.stage),
            });
        };
        let (mut metrics, separates) = match &self.rows {
            Some(Rows::Labels(labels)) => of_labels(labels, &self.scores),
            _ => of_pairs(&self.scores),
        };
        metrics.insert(
            "timing_s/evaluation".into(),
            now.saturating_sub(self.since).as_secs_f64(),
        );
        let accuracy = metrics.get("accuracy").copied().unwrap_or(0.0);
        let warning = (!separates).then(|| {
            format!(
                "the reward model of stage `{}` does not tell good from bad on data.{data}: \
                 accuracy {accuracy:.3}; rewards that ask it will be noise: train it longer, or \
                 give it more and clearer rows",
                stage.name
            )
        });
        let result = EvalResult {
            stage: Some(stage.name.clone()),
            step: self.step,
            data: data.into(),
            metrics,
            example: None,
        };
        Ok(Compared::Whole {
            result: Box::new(result),
            warning,
        })
    }

    /// What the evaluation waits for, with deadlines; `owner` waits.
    pub fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
        vec![match self.rows {
            None => Wait::new(owner, "data: held-out rows", self.since)
                .silent(heard.writer, plan.limits.read),
            Some(_) => {
                let what = format!("{}: scoring held-out rows", plan.worker);
                Wait::new(owner, what, self.since)
                    .worker_silent(heard.worker, plan.limits.worker_silence)
            }
        }]
    }

    /// The evaluation's progress, in texts.
    pub fn activity(&self) -> Activity {
        let done = self.scores.len() as u64;
        Activity {
            doing: "evaluating".into(),
            done,
            total: done + (self.asked + self.texts.len()) as u64,
            unit: "texts".into(),
        }
    }

    /// Whether the worker has texts to score.
    pub fn worker_is_busy(&self) -> bool {
        self.rows.is_some()
    }
}

/// Computes `accuracy`, the share of pairs whose chosen text scores higher, and `margin`, by how
/// much on average (TRL's names).
fn of_pairs(scores: &[f32]) -> (Metrics, bool) {
    let pairs: Vec<(f64, f64)> = scores
        .chunks_exact(2)
        .map(|pair| (pair[0] as f64, pair[1] as f64))
        .collect();
    let right = pairs
        .iter()
        .filter(|(chosen, rejected)| chosen > rejected)
        .count();
    let margins: Vec<f64> = pairs
        .iter()
        .map(|(chosen, rejected)| chosen - rejected)
        .collect();
    let mut metrics = of_scores(scores);
    metrics.insert("margin".into(), crate::advantages::mean(&margins));
    shares(&mut metrics, right, pairs.len());
    (metrics, lower_bound(right, pairs.len()) > 0.5)
}

/// Computes `accuracy`, the share of texts whose score is on the same side of 0 as the label is of
/// 0.5, and `auc`, the share of (good, bad) pairs that are in the right order. The latter does not
/// depend on the scores' zero, and is what counts for a reward.
fn of_labels(labels: &[f32], scores: &[f32]) -> (Metrics, bool) {
    let right = labels
        .iter()
        .zip(scores)
        .filter(|(label, score)| (**label >= 0.5) == (**score > 0.0))
        .count();
    let of = |good: bool| -> Vec<f32> {
        let chosen = labels
            .iter()
            .zip(scores)
            .filter(|(label, _)| (**label >= 0.5) == good);
        chosen.map(|(_, score)| *score).collect()
    };
    let (good, mut bad) = (of(true), of(false));
    bad.sort_by(f32::total_cmp);
    let mut metrics = of_scores(scores);
    shares(&mut metrics, right, labels.len());
    if good.is_empty() || bad.is_empty() {
        return (metrics, lower_bound(right, labels.len()) > 0.5);
    }
    let below = |score: &f32| {
        (bad.partition_point(|b| b < score) + bad.partition_point(|b| b <= score)) as f64 / 2.0
    };
    let auc = good.iter().map(below).sum::<f64>() / (good.len() * bad.len()) as f64;
    metrics.insert("auc".into(), auc);
    // Counted as if each text of the rarer kind were one draw: there are no more independent
    // comparisons.
    let draws = good.len().min(bad.len());
    (
        metrics,
        lower_bound((auc * draws as f64).round() as usize, draws) > 0.5,
    )
}

fn of_scores(scores: &[f32]) -> Metrics {
    let scores: Vec<f64> = scores.iter().map(|score| *score as f64).collect();
    let extreme = |pick: fn(f64, f64) -> f64| scores.iter().copied().reduce(pick).unwrap_or(0.0);
    Metrics::from([
        ("mean_reward".into(), crate::advantages::mean(&scores)),
        ("min_reward".into(), extreme(f64::min)),
        ("max_reward".into(), extreme(f64::max)),
    ])
}

fn shares(metrics: &mut Metrics, right: usize, rows: usize) {
    metrics.insert("rows".into(), rows as f64);
    metrics.insert("accuracy".into(), right as f64 / rows.max(1) as f64);
}

/// Lower bound of a share at 95 % confidence (Wilson 1927).
fn lower_bound(right: usize, of: usize) -> f64 {
    if of == 0 {
        return 0.0;
    }
    let (n, z2) = (of as f64, TWO_SIDED_95 * TWO_SIDED_95);
    let share = right as f64 / n;
    let spread = TWO_SIDED_95 * (share * (1.0 - share) / n + z2 / (4.0 * n * n)).sqrt();
    (share + z2 / (2.0 * n) - spread) / (1.0 + z2 / n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_right_when_the_chosen_scores_higher() {
        let (metrics, separates) = of_pairs(&[1.0, 0.0, 0.5, 0.75, 2.0, -1.0, 0.0, 0.0]);
        assert_eq!(
            (metrics["accuracy"], metrics["rows"], metrics["margin"]),
            (0.5, 4.0, 0.9375)
        );
        assert!(!separates, "as good as a coin");
        let clear: Vec<f32> = (0..40).flat_map(|i| [1.0 + i as f32, 0.0]).collect();
        assert!(of_pairs(&clear).1);
        assert!(!of_pairs(&clear[..6]).1, "three pairs prove nothing");
    }

    #[test]
    fn the_order_of_labelled_texts_counts_and_not_their_zero() {
        let labels = [1.0, 1.0, 0.0, 0.0];
        let (metrics, _) = of_labels(&labels, &[5.0, 4.0, 3.0, 1.0]);
        assert_eq!((metrics["accuracy"], metrics["auc"]), (0.5, 1.0));
        let (metrics, _) = of_labels(&labels, &[1.0, -1.0, 0.0, -2.0]);
        assert_eq!(metrics["auc"], 0.75);
        assert_eq!(of_labels(&labels, &[1.0; 4]).0["auc"], 0.5);
        let (labels, scores): (Vec<f32>, Vec<f32>) = (0..60)
            .map(|i| ((i % 2) as f32, 10.0 + (i % 2) as f32))
            .unzip();
        assert!(
            of_labels(&labels, &scores).1,
            "all scores are above 0, and the order is right"
        );
    }

    /// Wilson's interval of 81 of 263, as in Newcombe 1998, table I: 0.2553.
    #[test]
    fn the_bound_is_wilsons() {
        assert!((lower_bound(81, 263) - 0.2553).abs() < 5e-5);
    }
}
