//! The key table against the typed job: no key that is documented and not read, none that is read
//! and not written.

use crate::preferences::JOB as PREFERENCES;
use crate::{JOB, parse};
use r1d_job::file::keys::tables;
use r1d_job::file::{Key, Kind, Table, Tabled};
use r1d_job::{DaemonConfig, Job, JobError};
use toml::Value;

/// A place of a plain value in a document: keys and list positions.
#[derive(Clone, Debug)]
pub(crate) enum At {
    Key(String),
    Index(usize),
}

/// Every plain key of every table in a document, with its place.
pub(crate) fn leaves(document: &Value, spec: &'static Table) -> Vec<(Vec<At>, &'static Key)> {
    let mut found = Vec::new();
    collect(document, spec, Vec::new(), &mut found);
    found
}

fn collect(
    value: &Value,
    spec: &'static Table,
    at: Vec<At>,
    found: &mut Vec<(Vec<At>, &'static Key)>,
) {
    let below = |more: &[At]| [at.clone(), more.to_vec()].concat();
    for key in spec.keys() {
        let own = At::Key(key.name.into());
        let inner = value.get(key.name);
        match &key.kind {
            Kind::Later(_) => {}
            Kind::Table(table) => collect(
                inner.unwrap_or(&Value::Table(Default::default())),
                table,
                below(&[own]),
                found,
            ),
            Kind::Named(table) => {
                for (name, inner) in inner.and_then(Value::as_table).into_iter().flatten() {
                    collect(
                        inner,
                        table,
                        below(&[own.clone(), At::Key(name.clone())]),
                        found,
                    );
                }
            }
            Kind::Tables(_) | Kind::Variants { .. } => {
                for (index, inner) in inner
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten()
                    .enumerate()
                {
                    let table = match &key.kind {
                        Kind::Tables(table) => *table,
                        Kind::Variants { tag, variants } => {
                            variants
                                .iter()
                                .find(|v| inner.get(tag).unwrap().as_str() == Some(v.0))
                                .unwrap()
                                .1
                        }
                        _ => unreachable!(),
                    };
                    collect(inner, table, below(&[own.clone(), At::Index(index)]), found);
                }
            }
            _ => found.push((below(&[own]), key)),
        }
    }
}

pub(crate) fn get<'a>(document: &'a Value, at: &[At]) -> Option<&'a Value> {
    at.iter().try_fold(document, |value, step| match step {
        At::Key(key) => value.get(key),
        At::Index(index) => value.get(index),
    })
}

pub(crate) fn set(document: &mut Value, at: &[At], new: Value) {
    let (last, path) = at.split_last().unwrap();
    let mut table = document;
    for step in path {
        table = match step {
            At::Key(key) => table
                .as_table_mut()
                .unwrap()
                .entry(key.clone())
                .or_insert(Value::Table(Default::default())),
            At::Index(index) => &mut table.as_array_mut().unwrap()[*index],
        };
    }
    let At::Key(key) = last else {
        panic!("a plain value has a key")
    };
    table.as_table_mut().unwrap().insert(key.clone(), new);
}

/// Values that the key takes, other than its default.
fn other_values(key: &Key) -> Vec<Value> {
    match &key.kind {
        Kind::Text => vec!["/else".into()],
        Kind::Name => vec!["else".into()],
        Kind::Path => vec!["/else".into()],
        Kind::Date => vec!["2024-02-29".into()],
        Kind::Sha256 => vec!["0123456789abcdef".repeat(4).into()],
        Kind::Bool => vec![true.into(), false.into()],
        Kind::Integer { .. } => vec![3.into(), 16.into(), 2000.into()],
        Kind::Float { .. } => vec![0.25.into(), 0.5.into(), 2.0.into()],
        Kind::OneOf(words) => words.iter().map(|w| (*w).into()).collect(),
        Kind::Texts => {
            vec![
                Value::Array(vec!["else".into()]),
                Value::Array(vec!["pass@1".into()]),
                Value::Array(vec!["reasoning".into()]),
            ]
        }
        Kind::WordOrScore(words) => words
            .iter()
            .map(|w| (*w).into())
            .chain([toml::from_str("score = -0.5").unwrap()])
            .collect(),
        Kind::Json => vec![toml::from_str("a = 1\nb = { c = [true, 0.5] }").unwrap()],
        _ => panic!("not a plain key: {}", key.name),
    }
}

/// Keys whose other values need more than one change.
const PAIRED: &[&str] = &[
    "model.path",
    "model.fp8",
    "stage.model",
    "stage.epochs",
    "stage.steps",
    "stage.kind",
    "eval.data",
    "stage.data",
    "checkpoint.to",
    "eval.metrics",
    "stage.sync_ref_steps",
    "stage.mtp_loss_weight",
    "stage.speculative_decoding",
    "stage.more_data",
    "stage.keep_share",
    "stage.reward.min_score",
    "stage.reward.after_step",
    "stage.schedule.after_step",
    "stage.value_model",
    "stage.center_rewards_coefficient",
    "stage.eval_data",
];

#[test]
fn every_key_of_the_table_is_read_and_written() {
    let of = |job: &str| toml::from_str(job).unwrap();
    [JOB, PREFERENCES]
        .into_iter()
        .for_each(|job| every_key_is_read_and_written(of(job)));
}

fn every_key_is_read_and_written(base: Value) {
    for (at, key) in leaves(&base, Job::table()) {
        let dotted = at
            .iter()
            .filter_map(|step| {
                if let At::Key(key) = step {
                    Some(key.as_str())
                } else {
                    None
                }
            })
            .collect::<Vec<_>>()
            .join(".");
        // Another stage reads what this one keeps, or asks it, by its name.
        let read = ["good", "helpfulness", "safe"];
        let is_read = dotted == "stage.name"
            && get(&base, &at)
                .and_then(Value::as_str)
                .is_some_and(|name| read.contains(&name));
        // Whole conversations stand for the prompt and completion that the base names.
        let is_other = dotted.ends_with(".messages");
        // Pairs and labelled texts are cut, not left out.
        let is_cut = ["data.pairs", "data.held-out", "data.safety"]
            .iter()
            .any(|data| dotted == format!("{data}.max_prompt_length"));
        if is_read || is_other || is_cut || PAIRED.contains(&dotted.as_str()) {
            continue;
        }
        let mut seen = std::collections::BTreeSet::new();
        for value in other_values(key) {
            let mut changed = base.clone();
            set(&mut changed, &at, value.clone());
            match parse(&toml::to_string(&changed).unwrap()) {
                Ok(job) => {
                    let written: Value = toml::from_str(&job.to_toml()).unwrap();
                    assert_eq!(get(&written, &at), Some(&value), "{dotted}");
                    seen.insert(value.to_string());
                }
                // Not every value fits the rest of the job.
                Err(
                    JobError::Unsound { .. }
                    | JobError::OutOfRange { .. }
                    | JobError::NotInThisRelease { .. },
                ) => {}
                Err(other) => panic!("{dotted} = {value}: {other}"),
            }
        }
        let free = !matches!(
            dotted.as_str(),
            "stage.from" | "model.tokenizer" | "eval.stages" | "eval.rewards"
        );
        assert!(!seen.is_empty() || !free, "no value of {dotted} was taken");
    }
}

#[test]
fn every_default_is_one_that_the_key_takes() {
    for root in [Job::table(), DaemonConfig::table()] {
        for table in tables(root) {
            let mut names = std::collections::BTreeSet::new();
            for key in table.keys() {
                assert!(
                    names.insert(key.name),
                    "{}.{} stands twice",
                    table.path,
                    key.name
                );
                assert!(
                    key.meaning.ends_with('.'),
                    "{}.{}: the meaning is a sentence",
                    table.path,
                    key.name
                );
            }
        }
    }
    parse(JOB).unwrap();
    r1d_job::DaemonConfig::parse("", std::path::Path::new("/")).unwrap();
}

#[test]
fn the_defaults_are_those_of_trl() {
    let job = parse(JOB).unwrap();
    let grpo = job.stages[2].grpo().unwrap();
    let rollouts = &grpo.rollouts;
    assert_eq!(
        (
            rollouts.num_generations,
            grpo.num_iterations,
            rollouts.max_completion_length,
            rollouts.top_k
        ),
        (8, 1, 512, 0)
    );
    assert_eq!(
        (
            rollouts.temperature,
            rollouts.top_p,
            grpo.beta,
            grpo.epsilon,
            grpo.epsilon_high
        ),
        (1.0, 1.0, 0.0, 0.2, 0.2)
    );
    assert_eq!(grpo.loss_type, r1d_proto::hyperparameters::LossType::Dapo);
    assert_eq!(
        grpo.scale_rewards,
        r1d_proto::hyperparameters::ScaleRewards::Group
    );
    assert!(!grpo.mask_truncated_completions && grpo.replay.keep_sampling_mask);
    let optimiser = job.stages[2].optimiser(200).unwrap();
    assert_eq!(
        (
            optimiser.learning_rate,
            optimiser.adam_beta1,
            optimiser.adam_beta2,
            optimiser.adam_epsilon
        ),
        (1e-6, 0.9, 0.999, 1e-8)
    );
    assert_eq!(
        (
            optimiser.weight_decay,
            optimiser.max_grad_norm,
            optimiser.warmup_steps,
            optimiser.total_steps
        ),
        (0.0, 1.0, 0, 200)
    );
    assert_eq!(
        optimiser.lr_scheduler_type,
        r1d_proto::hyperparameters::LrSchedule::Linear
    );
    assert_eq!(job.stages[1].training().unwrap().learning_rate, 2e-5);
}

/// Keep Sampling Mask: a record costs bytes, and only policies that are compared over it need one.
#[test]
fn the_sampling_mask_is_kept_where_samples_are_trained_on_and_nowhere_else() {
    let text = JOB
        .replace("steps = 200", "steps = 200\ntop_p = 0.9")
        .replace(
            "kind = \"rejection-sampling\"",
            "kind = \"rejection-sampling\"\ntop_p = 0.9",
        );
    let job = parse(&text).unwrap();
    let sampling: Vec<_> = job
        .stages
        .iter()
        .filter_map(|stage| Some((stage.kind_name(), stage.sampling(3, vec![], 0)?)))
        .collect();
    let keeps: Vec<_> = sampling
        .iter()
        .map(|(kind, sampling)| (*kind, sampling.keep_sampling_mask))
        .collect();
    assert_eq!(keeps, [("grpo", true), ("rejection-sampling", false)]);
    assert!(sampling.iter().all(|(_, sampling)| sampling.top_p == 0.9));
    assert!(
        job.evaluations().count() > 0
            && job
                .evaluations()
                .all(|eval| !eval.sampling(vec![], 0).keep_sampling_mask)
    );
    let job =
        parse(&text.replace("steps = 200", "steps = 200\nkeep_sampling_mask = false")).unwrap();
    assert!(
        !job.stages[2]
            .sampling(0, vec![], 0)
            .unwrap()
            .keep_sampling_mask
    );
    let refused = parse(&text.replace(
        "kind = \"rejection-sampling\"",
        "kind = \"rejection-sampling\"\nkeep_sampling_mask = true",
    ))
    .unwrap_err();
    assert!(
        refused.to_string().contains("keep_sampling_mask"),
        "{refused}"
    );
}
