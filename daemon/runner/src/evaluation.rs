//! An evaluation: completions of held-out prompts, graded.

use crate::answer::final_answer;
use crate::flow::unexpected;
use crate::gather::{Gather, Sample};
use crate::interval::interval;
use crate::judge::{judge, rules};
use crate::judge_queue::{JudgeAnswers, JudgeModels};
use crate::message::{Command, End, Event, Prompt, Source};
use crate::metrics;
use crate::plan::{DeclaredScores, EvalInputs, Plan};
use crate::scores::{Graded, avg_at_k, cons_at_k, pass_at_k};
use crate::wait::{LastHeard, Wait};
use r1d_job::{Eval, Metric};
use r1d_proto::control::job::{Activity, EvalExample, EvalResult};
use r1d_proto::ids::SampleKey;
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_proto::worker::{self, Body, Metrics, Reply};
use r1d_proto::world::counter_hash;
use std::time::Duration;

/// Salt that keeps the randomness of evaluations apart from other uses of the job's seed.
const EVALUATION: u64 = 0x6576_616c;

/// An evaluation at work: the state between its first command and its result.
#[derive(Debug)]
pub struct Evaluation {
    index: usize,
    /// Index of the model whose weights are evaluated.
    model: usize,
    /// Name of the stage that the result is recorded under; `None`: the weights that the job starts
    /// from.
    stage: Option<String>,
    step: u64,
    started: Duration,
    prompts_read: bool,
    gather: Gather,
    /// Prompt, completion and reference of the first row's first completion.
    example: Option<EvalExample>,
}

impl Evaluation {
    /// Begins evaluation `index` of the weights of model `model`, and returns its first commands.
    /// The result is recorded under the stage and step of the third argument.
    pub fn begin(
        plan: &Plan,
        (index, model): (usize, usize),
        (stage, step): (Option<String>, u64),
        models: JudgeModels,
        now: Duration,
    ) -> (Evaluation, Vec<Command>) {
        let of = Source::Eval { eval: index, model };
        // Keys leave out the place in the job, so that evaluations of two sets of weights draw the
        // same random numbers.
        let gather = Gather::new(of, 0, 0, plan.scores_groups(of), models, now);
        let rows = plan.evals.get(index).map_or(0, |facts| facts.rows);
        let evaluation = Evaluation {
            index,
            model,
            stage,
            step,
            started: now,
            prompts_read: false,
            gather,
            example: None,
        };
        (
            evaluation,
            vec![Command::ReadPrompts {
                of,
                step: 0,
                round: 0,
                count: rows,
            }],
        )
    }

    fn of(&self) -> Source {
        Source::Eval {
            eval: self.index,
            model: self.model,
        }
    }

    /// Takes an event. Returns the result once everything is sampled and scored, the next commands
    /// before that.
    pub fn handle(
        &mut self,
        plan: &Plan,
        event: Event,
        now: Duration,
    ) -> Result<Result<EvalResult, Vec<Command>>, End> {
        let (Some(eval), Some(facts)) = (
            plan.job.evaluations().nth(self.index),
            plan.evals.get(self.index),
        ) else {
            return Err(End::Failed {
                error: format!("evaluation {} is not in the job", self.index),
            });
        };
        let mut commands = Vec::new();
        match event {
            Event::Prompts(prompts) if !self.prompts_read => {
                self.prompts_read = true;
                commands.extend(self.ask(plan, eval, prompts, now));
            }
            Event::Worker(Body::Event(worker::Event::Completed(rollout))) => {
                commands.extend(self.gather.completed(rollout, false, now)?)
            }
            Event::Worker(Body::Done(Reply::Generated { metrics })) => {
                self.gather.generated(&metrics, now)?
            }
            Event::Scored {
                key,
                verdicts,
                asked,
                text,
            } => {
                if let Some((verdicts, text)) =
                    self.gather.judged(key, verdicts, asked, text, now)?
                {
                    self.scored(facts, key, verdicts, text, now)?;
                }
            }
            Event::Worker(Body::Done(reply @ (Reply::Scored { .. } | Reply::Answered { .. }))) => {
                if let Some(said) = JudgeAnswers::of(reply) {
                    self.gather.answered(said, now)?;
                }
            }
            Event::Concluded { key, verdicts } => {
                let (verdicts, text) = self.gather.concluded(key, verdicts)?;
                self.scored(facts, key, verdicts, text, now)?;
            }
            event => return Err(unexpected("Evaluating", &event)),
        }
        commands.extend(self.gather.next_question(now)?);
        if self.prompts_read && self.gather.is_complete() {
            Ok(Ok(self.result(eval, facts, now)))
        } else {
            Ok(Err(commands))
        }
    }

    fn scored(
        &mut self,
        facts: &EvalInputs,
        key: SampleKey,
        mut verdicts: Vec<Verdict>,
        text: String,
        now: Duration,
    ) -> Result<(), End> {
        let reward = judge(&rules(&facts.judges, &facts.rewards), &mut verdicts)?;
        self.gather
            .scored(key, verdicts, reward, final_answer(&text).into(), now)?;
        if (key.prompt, key.sample) == (0, 0)
            && let Some(example) = self.example.as_mut()
        {
            example.completion = text;
        }
        Ok(())
    }

    fn ask(
        &mut self,
        plan: &Plan,
        eval: &Eval,
        prompts: Vec<Prompt>,
        now: Duration,
    ) -> Option<Command> {
        self.example = prompts.first().map(|prompt| EvalExample {
            prompt: prompt.text.clone(),
            completion: String::new(),
            reference: prompt.reference.clone(),
        });
        for prompt in prompts {
            self.gather.add_group(prompt, eval.num_generations);
        }
        // The same random numbers each time: evaluations of two sets of weights differ by the
        // weights alone, whichever stage is one of them.
        let first = plan
            .job
            .evaluations()
            .position(|other| other.data == eval.data)
            .unwrap_or(self.index);
        let seed = counter_hash(&[EVALUATION, plan.job.seed, first as u64]);
        self.gather.request(
            eval.sampling(plan.stop_ids(self.of()), seed),
            false,
            self.step,
            now,
        )
    }

    fn result(&mut self, eval: &Eval, facts: &EvalInputs, now: Duration) -> EvalResult {
        let mut rows = Vec::new();
        let mut lengths = Vec::new();
        let mut verdicts: Vec<Vec<Verdict>> = Vec::new();
        let first = facts.judges.first().map(|reward| reward.name.as_str());
        for group in self.gather.groups.drain(..) {
            let (mut row, mut given) = (Vec::new(), Vec::new());
            for sample in group.samples {
                let Sample::Scored(judged) = sample else {
                    continue;
                };
                lengths.push((judged.rollout.completion_ids.len(), judged.rollout.finish));
                match judged
                    .verdicts
                    .iter()
                    .find(|v| Some(v.plugin.as_str()) == first)
                    .map(|v| &v.outcome)
                {
                    // The completion is neither correct nor wrong if this reward does not judge the
                    // row, or cannot use its reference.
                    None | Some(Outcome::Abstain { .. }) => {}
                    outcome => {
                        let correct = match outcome {
                            Some(Outcome::Score { value, .. }) => *value as f64 >= eval.correct_at,
                            _ => false,
                        };
                        row.push(Graded {
                            correct,
                            answer: judged.answer,
                        });
                    }
                }
                given.extend(judged.verdicts);
            }
            rows.push(row);
            verdicts.push(given);
        }
        let mut metrics = numbers(&eval.metrics, &rows);
        metrics.insert("rows".into(), rows.len() as f64);
        metrics::lengths(&mut metrics, lengths.into_iter());
        metrics::verdicts(&mut metrics, verdicts.iter().flatten());
        for (index, reward) in facts.judges.iter().enumerate() {
            let scores: Vec<f64> = verdicts
                .iter()
                .filter_map(|row| mean_score(row, &reward.name))
                .collect();
            let name = format!("rewards/{}/mean", reward.name);
            let bounds = bounds(facts.rewards.get(index), &scores);
            insert_interval(&mut metrics, &name, interval(&scores, bounds));
        }
        metrics.append(&mut self.gather.timings);
        metrics.insert(
            "timing_s/evaluation".into(),
            now.saturating_sub(self.started).as_secs_f64(),
        );
        let (stage, example) = (self.stage.clone(), self.example.take());
        EvalResult {
            stage,
            step: self.step,
            data: eval.data.clone(),
            metrics,
            example,
        }
    }

    /// Notes that the job's rewards make progress or wait for their turn, so that the deadline of
    /// the next verdict begins at `now`.
    pub fn judging(&mut self, now: Duration) {
        self.gather.judging(now);
    }

    /// What the evaluation waits for, with deadlines; `owner` waits.
    pub fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
        if !self.prompts_read {
            return vec![
                Wait::new(owner, "data: prompts", self.started)
                    .silent(heard.writer, plan.limits.read),
            ];
        }
        let (rewards, _) = plan.rewards(self.of());
        let names = rewards
            .iter()
            .map(|r| r.name.as_str())
            .collect::<Vec<_>>()
            .join(", ");
        self.gather
            .waits(owner, &plan.worker, &names, &plan.limits, heard)
    }

    /// The evaluation's progress in scored completions.
    pub fn activity(&self) -> Activity {
        let (scored, _, all) = self.gather.counts();
        Activity {
            doing: "evaluating".into(),
            done: scored,
            total: all,
            unit: "completions".into(),
        }
    }

    /// The judge or reward model whose questions the worker is answering, in words for an error;
    /// `None` if it is not answering any.
    pub fn asked(&self) -> Option<String> {
        self.gather.asked()
    }

    /// Whether the worker has a request of this evaluation.
    pub fn worker_is_busy(&self) -> bool {
        self.gather.worker_is_busy()
    }
}

/// Mean of one reward's values over a row's completions; `None` if none of them has a value.
fn mean_score(verdicts: &[Verdict], reward: &str) -> Option<f64> {
    let values = verdicts
        .iter()
        .filter(|verdict| verdict.plugin == reward)
        .filter_map(|verdict| verdict.value.map(f64::from));
    let values: Vec<f64> = values.collect();
    (!values.is_empty()).then(|| crate::advantages::mean(&values))
}

/// The smallest and largest value that a row's mean can have: the plugin's range, or further out
/// where the job gives faults such a value.
fn bounds(declared: Option<&DeclaredScores>, scores: &[f64]) -> (f64, f64) {
    let (low, high) = declared.map_or((f64::NEG_INFINITY, f64::INFINITY), |declared| {
        (declared.min.into(), declared.max.into())
    });
    let wider = |(low, high): (f64, f64), score: &f64| (low.min(*score), high.max(*score));
    scores.iter().fold((low, high), wider)
}

/// Inserts both ends of an interval, as `NAME_ci_low` and `NAME_ci_high`.
fn insert_interval(metrics: &mut Metrics, name: &str, interval: Option<(f64, f64)>) {
    if let Some((low, high)) = interval {
        metrics.extend([
            (format!("{name}_ci_low"), low),
            (format!("{name}_ci_high"), high),
        ]);
    }
}

/// Each metric's mean over the rows that have enough graded completions for it, with its interval.
fn numbers(wanted: &[Metric], rows: &[Vec<Graded>]) -> Metrics {
    let of_row = |metric: Metric, row: &Vec<Graded>| match metric {
        Metric::Pass(k) => pass_at_k(
            row.len(),
            row.iter().filter(|g| g.correct).count(),
            k as usize,
        ),
        Metric::Avg(k) => avg_at_k(row, k as usize),
        Metric::Cons(k) => cons_at_k(row, k as usize),
    };
    let mut metrics = Metrics::new();
    for metric in wanted {
        let values: Vec<f64> = rows.iter().filter_map(|row| of_row(*metric, row)).collect();
        let name = metric.to_string();
        insert_interval(&mut metrics, &name, interval(&values, (0.0, 1.0)));
        metrics.insert(name, crate::advantages::mean(&values));
    }
    metrics
}
