//! `plugin rescore`: judges the completions of a run with another plugin and compares the verdicts
//! with the recorded ones.

use super::{Host, PluginError, config, plugin, print};
use r1d_data::DataSet;
use r1d_job::{DataSource, Job, Reward};
use r1d_plugin_cli::RescoreArgs;
use r1d_proto::plugin::{Disagreement, Rescored, ScorePair};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Completion, LoadedReward, Member, NoAnswers, RewardSpec, World};
use r1d_store::rollouts::{RolloutFile, View};
use r1d_store::{Disk, JobLayout};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(super) fn run(dir: &Path, args: &RescoreArgs) -> Result<bool, PluginError> {
    let (other, config_json) = (&*args.plugin, args.config.as_deref());
    let host = Host::open(&args.dirs)?;
    let layout = JobLayout::new(dir.into());
    let job_toml = layout.job_toml();
    let job = Job::parse(&super::read(&job_toml)?, dir)
        .map_err(|e| PluginError::Run(format!("{}: {e}", job_toml.display())))?;
    let recorded = compared(&job, other, args.reward.as_deref())?;
    let config_json = config_json.map_or_else(|| Ok(recorded.config_json.clone()), config)?;
    let limits = r1d_rewards::Limits {
        fuel: recorded.limits.fuel,
        memory_mb: recorded.limits.memory_mb,
        wall_ms: recorded.limits.wall_ms,
        hostcall_bytes: Some((recorded.limits.hostcall_kb as usize) << 10),
    };
    let loaded = host.rewards.load(&RewardSpec {
        plugin: plugin(other),
        sha256: None,
        config_json,
        limits,
    })?;
    if loaded.world() == World::JudgedReward {
        let problem = format!(
            "plugin {other} asks a model, and there is none here to ask: `r1ctl plugin score \
             --answers` judges with recorded answers"
        );
        return Err(PluginError::Run(problem));
    }
    let mut tally = Tally {
        limit: args.limit as usize,
        ..Tally::default()
    };
    for (index, stage) in job.stages.iter().enumerate() {
        let files = files(&layout, &stage.name)?;
        if files.is_empty() {
            continue;
        }
        let data = data(&job, &stage.data, &layout);
        if data.is_none() {
            eprintln!(
                "warning: data.{} cannot be read: the plugin gets no `meta`",
                stage.data
            );
        }
        for file in files {
            tally.file(
                &file,
                index as u32,
                recorded,
                &loaded,
                data.as_ref(),
                host.threads,
            )?;
        }
    }
    if tally.completions == 0 {
        return Err(PluginError::Run(format!(
            "{}: no rollouts that reward `{}` judged",
            dir.display(),
            recorded.name
        )));
    }
    print(&tally.report(recorded, &loaded))?;
    Ok(true)
}

/// The data set that a stage's prompts came from: rollout records lack its other columns.
fn data(job: &Job, name: &str, layout: &JobLayout) -> Option<DataSet> {
    match job.source(name)? {
        Cow::Borrowed(source) => DataSet::open(source).ok(),
        // The data set of another stage, beside the rollouts.
        Cow::Owned(made) => DataSet::open(&DataSource {
            path: layout.datasets().join(&made.path),
            ..made
        })
        .ok(),
    }
}

/// The reward of the run to compare with.
fn compared<'a>(
    job: &'a Job,
    other: &str,
    wanted: Option<&str>,
) -> Result<&'a Reward, PluginError> {
    let rewards: Vec<&Reward> = (job.stages.iter())
        .filter_map(|stage| stage.rollouts())
        .flat_map(|rollouts| rollouts.rewards.iter())
        .collect();
    let stem = r1d_job::reward::plugin_stem(other);
    let found = match (wanted, rewards.as_slice()) {
        (Some(name), _) => rewards.iter().find(|reward| reward.name == name),
        (None, [only]) => Some(only),
        (None, _) => rewards.iter().find(|reward| reward.name == stem),
    };
    let names: Vec<&str> = rewards.iter().map(|reward| reward.name.as_str()).collect();
    found.copied().ok_or_else(|| {
        PluginError::Run(format!(
            "which reward of the run to compare with? --reward names one of: {}",
            names.join(", ")
        ))
    })
}

/// The files of a stage's rollouts, in the order of steps.
fn files(layout: &JobLayout, stage: &str) -> Result<Vec<PathBuf>, PluginError> {
    let steps = layout.rollout_steps(&Disk, stage);
    let steps = steps.map_err(|source| PluginError::Read {
        path: layout.rollouts_dir(),
        source,
    })?;
    Ok(steps
        .iter()
        .map(|step| layout.rollouts(stage, *step))
        .collect())
}

#[derive(Default)]
struct Tally {
    limit: usize,
    completions: u64,
    agreeing: u64,
    pairs: BTreeMap<(String, String), u64>,
    disagreements: Vec<Disagreement>,
}

impl Tally {
    fn file(
        &mut self,
        file: &Path,
        stage: u32,
        recorded: &Reward,
        loaded: &LoadedReward,
        data: Option<&DataSet>,
        threads: usize,
    ) -> Result<(), PluginError> {
        let judged = |row: &View| {
            let mut verdicts = row.verdicts.iter();
            let verdict = verdicts.find(|verdict| verdict.plugin == recorded.name)?;
            Some(outcome(&verdict.outcome))
        };
        let rows = RolloutFile::open(file)?.views(false)?;
        let rows: Vec<View> = rows.collect::<Result<_, _>>()?;
        let (rows, before): (Vec<&View>, Vec<String>) = rows
            .iter()
            .filter_map(|row| Some((row, judged(row)?)))
            .unzip();
        let members: Vec<Member> = rows.iter().map(|row| member(row, data)).collect();
        loaded.judge_all(&members, &NoAnswers, threads, |i, judged| {
            if let (Some(row), Some(before)) = (rows.get(i), before.get(i)) {
                self.count(stage, row, before, outcome(&judged.outcome));
            }
            true
        })?;
        Ok(())
    }

    fn count(&mut self, stage: u32, row: &View, recorded: &str, rescored: String) {
        self.completions += 1;
        *self
            .pairs
            .entry((recorded.to_owned(), rescored.clone()))
            .or_insert(0) += 1;
        if recorded == rescored {
            self.agreeing += 1;
        } else if self.disagreements.len() < self.limit {
            let key = row.key;
            self.disagreements.push(Disagreement {
                stage,
                step: key.step + 1,
                prompt_index: key.prompt,
                sample_index: key.sample,
                recorded: recorded.into(),
                rescored,
                prompt: row.prompt.clone(),
                completion: row.completion.clone(),
                reference: row.reference.clone(),
            });
        }
    }

    fn report(self, recorded: &Reward, loaded: &LoadedReward) -> Rescored {
        let pair = |((recorded, rescored), completions)| ScorePair {
            recorded,
            rescored,
            completions,
        };
        let mut pairs: Vec<ScorePair> = self.pairs.into_iter().map(pair).collect();
        pairs.sort_by_key(|pair| std::cmp::Reverse(pair.completions));
        Rescored {
            reward: recorded.name.clone(),
            plugin: loaded.info().name.clone(),
            sha256: loaded.module_sha256().into(),
            completions: self.completions,
            agreeing: self.agreeing,
            pairs,
            disagreements: self.disagreements,
        }
    }
}

/// A text by which two verdicts are compared: a score by its value, an abstention or fault by its
/// kind.
fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Score { value, .. } => format!("score {value}"),
        other => r1d_proto::plugin::VerdictKind::of(other).name().into(),
    }
}

fn member(row: &View, data: Option<&DataSet>) -> Member {
    // If the data set has changed since, this may be another row: compare its reference.
    let meta = data
        .filter(|data| row.row < data.len())
        .map(|data| data.row(row.row));
    let meta = meta
        .filter(|found| found.reference == row.reference)
        .and_then(|found| found.meta.clone());
    let completion = Completion {
        id: u64::from(row.key.prompt) << 32 | u64::from(row.key.sample),
        prompt: row.prompt.clone(),
        text: row.completion.clone(),
        reference: row.reference.clone(),
        tokens: row.tokens,
        finish: row.finish,
        meta,
    };
    Member {
        completion,
        group: row.key.prompt.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::ids::SampleKey;
    use r1d_proto::rollout::FinishReason;

    fn row(row: u64, reference: &str) -> View {
        let key = SampleKey {
            stage: 0,
            step: 0,
            prompt: 3,
            sample: 1,
        };
        View {
            key,
            row,
            tokens: 2,
            finish: FinishReason::Stop,
            reward: None,
            advantage: None,
            verdicts: Vec::new(),
            prompt: "p".into(),
            completion: "c".into(),
            reference: Some(reference.into()),
            completion_ids: Vec::new(),
        }
    }

    #[test]
    fn a_grader_gets_the_columns_of_the_row_that_was_judged() {
        let house = tempfile::tempdir().unwrap();
        let path = house.path().join("rows.jsonl");
        let rows = [
            "{\"q\": \"one\", \"a\": \"1\", \"language\": \"en\"}",
            "{\"q\": \"二\", \"a\": \"2\", \"language\": \"zh\"}",
        ];
        std::fs::write(&path, rows.join("\n")).unwrap();
        let source = DataSource {
            prompt: Some("q".into()),
            reference: Some("a".into()),
            shuffle: false,
            ..DataSource::new("rows", path)
        };
        let data = DataSet::open(&source).unwrap();
        let meta = |at: u64, reference: &str, data: Option<&DataSet>| {
            member(&row(at, reference), data).completion.meta
        };
        assert!(meta(1, "2", Some(&data)).is_some_and(|meta| meta.contains("\"zh\"")));
        // Another row stands there by now, or no row, or the data set is not there.
        assert_eq!(
            [
                meta(1, "1", Some(&data)),
                meta(2, "2", Some(&data)),
                meta(1, "2", None)
            ],
            [None, None, None]
        );
    }
}
