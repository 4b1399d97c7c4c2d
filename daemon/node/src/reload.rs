//! `r1ctl plugin reload`: another component judges a job from some step on.
//!
//! ```text
//! reload ─▶ load (child compiles) ─▶ same range and world? ─▶ its golden cases pass? ─▶ keep
//!     ─▶ ledger: from the step after the one at work ─▶ judges
//! ```

use crate::context::NodeContext;
use crate::job_log::JobLog;
use crate::load_error::LoadError;
use crate::loaded_job::LoadedJob;
use crate::reading::Reading;
use crate::reward_versions::{Recorded, StepRef};
use crate::tasks;
use r1d_job::Job;
use r1d_ledger::{Command, JobRecord, LedgerError, Rejected};
use r1d_proto::control::Response;
use r1d_proto::ids::JobId;
use r1d_rewards::{LoadedReward, RewardError, RewardSpec, Rewards, golden};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most tries to change a component: if a step ends meanwhile, the change is tried again for the
/// next step.
const TRIES_MAX: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ReloadError {
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    LoadedJob(#[from] LoadError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(
        "no reward of job `{job}` is called `{plugin}` or has a plugin of that name; it has {known}"
    )]
    NoReward {
        job: JobId,
        plugin: String,
        known: String,
    },
    #[error("the job pins `sha256` of plugin `{0}`: what judges it cannot change")]
    Pinned(String),
    #[error(
        "plugin {path}: {what} is {found}, of the one that judges now {expected}: only a plugin \
         that declares the same can take its place"
    )]
    Different {
        path: String,
        what: &'static str,
        found: String,
        expected: String,
    },
    #[error("plugin {path}: {misfit}")]
    OtherKind { path: String, misfit: String },
    #[error(
        "plugin {path}: brings no golden cases, and none is taken untried: build it with \
         golden.jsonl beside its Cargo.toml"
    )]
    NoGolden { path: String },
    #[error(
        "plugin {path}: {differing} of its {cases} golden cases differ, first `{first}`: \
         {difference}"
    )]
    Golden {
        path: String,
        differing: usize,
        cases: usize,
        first: String,
        difference: String,
    },
    #[error("{0}")]
    Daemon(String),
}

impl ReloadError {
    pub(crate) fn is_the_daemons(&self) -> bool {
        matches!(self, ReloadError::LoadedJob(error) if error.is_the_machines())
            || matches!(
                self,
                ReloadError::Daemon(_)
                    | ReloadError::Reward(RewardError::Lost { .. })
                    | ReloadError::Ledger(
                        LedgerError::Io { .. }
                            | LedgerError::Storage { .. }
                            | LedgerError::Interrupted { .. }
                    )
            )
    }
}

/// A component that may judge, loaded for each reward that it judges for, by
/// [`JobReward::number`](crate::reward_versions::JobReward).
struct Fresh {
    plugin: String,
    loaded: Vec<(usize, LoadedReward)>,
}

impl Fresh {
    fn sha256(&self) -> String {
        let first = self.loaded.first();
        first.map_or_else(String::new, |(_, loaded)| loaded.module_sha256().to_owned())
    }
}

/// Lets another component judge from the first step on whose judging has not begun.
pub(crate) async fn reload(
    record: Arc<JobRecord>,
    plugin: String,
    file: PathBuf,
    node: NodeContext,
) -> Result<Response, ReloadError> {
    let (of, shared) = (record.clone(), node.clone());
    let tried = tasks::blocking(move || {
        let loaded_job = inputs(&of, &shared)?;
        let fresh = load(&loaded_job, of.job(), &plugin, &file, &shared.rewards)?;
        Ok::<_, ReloadError>((loaded_job, fresh))
    });
    let (loaded_job, fresh) = tried
        .await
        .map_err(|panic| ReloadError::Daemon(panic.to_string()))??;
    let (plugin, sha256) = (fresh.plugin.clone(), fresh.sha256());
    let (stage, step) = replace(&record, &loaded_job, fresh, &node).await?;
    let settings = loaded_job.job.stages.get(stage as usize);
    let stage = settings.map_or_else(String::new, |stage| stage.name.clone());
    let (job, step) = (record.job().clone(), step + 1);
    JobLog::new(node.layout(&job).log(), &job.0, node.clock.clone()).info(format!(
        "plugin {plugin} reloaded: {sha256} judges from step {step} of stage {stage} on"
    ));
    Ok(Response::Reloaded {
        job,
        plugin,
        sha256,
        stage,
        step,
    })
}

/// The inputs of a job: those that are open, or opened for this. Blocks.
fn inputs(record: &JobRecord, node: &NodeContext) -> Result<Arc<LoadedJob>, ReloadError> {
    if let Some(open) = node.open_jobs.get(record.job()) {
        return Ok(open);
    }
    let job = Job::parse(&record.submission.job_toml, Path::new("/")).map_err(LoadError::from)?;
    let recorded = Recorded::of(record);
    let reading = Reading::new(node.clock.clone());
    let loaded_job = LoadedJob::read(job, &node.rewards, &recorded, &node.ingest, &reading)?;
    Ok(Arc::new(loaded_job))
}

/// Puts the component in its predecessor's place, in the ledger and where it judges; returns from
/// where on it judges.
async fn replace(
    record: &Arc<JobRecord>,
    loaded_job: &LoadedJob,
    fresh: Fresh,
    node: &NodeContext,
) -> Result<StepRef, ReloadError> {
    let sha256 = fresh.sha256();
    // No step's judging begins while this decides which step is the first.
    let mut reward_versions = loaded_job.reward_versions.write().await;
    for _ in 0..TRIES_MAX {
        let record = node
            .ledger
            .job(record.job())
            .unwrap_or_else(|| record.clone());
        let (stage, step) = reward_versions.untouched(&record);
        let (ledger, at) = (node.ledger.clone(), node.clock.unix().as_secs());
        let command = Command::SetRewardVersion {
            job: record.job().clone(),
            plugin: fresh.plugin.clone(),
            sha256: sha256.clone(),
            stage,
            step,
            at,
        };
        let applied = tasks::blocking(move || ledger.apply(command)).await;
        match applied.map_err(|panic| ReloadError::Daemon(panic.to_string()))? {
            Ok(_) => {
                for (number, loaded) in fresh.loaded {
                    reward_versions.set(number, (stage, step), loaded, &record);
                }
                return Ok((stage, step));
            }
            Err(LedgerError::Rejected(Rejected::RewardLate { .. })) => continue,
            Err(error) => return Err(error.into()),
        }
    }
    Err(ReloadError::Daemon(
        "steps end faster than a judge can be changed: try again".into(),
    ))
}

/// Loads the component with the configuration and limits of each reward that it judges for.
fn load(
    loaded_job: &LoadedJob,
    job: &JobId,
    wanted: &str,
    file: &Path,
    rewards: &Rewards,
) -> Result<Fresh, ReloadError> {
    let judges = || loaded_job.judges();
    let of_plugin = judges().find(|judge| judge.reward.plugin.to_string() == wanted);
    let named = of_plugin.or_else(|| judges().find(|judge| judge.reward.name == wanted));
    let named = named.ok_or_else(|| no_reward(loaded_job, job, wanted))?;
    let plugin = named.reward.plugin.to_string();
    let reward_versions = loaded_job.reward_versions.blocking_read();
    let mut fresh = Fresh {
        plugin: plugin.clone(),
        loaded: Vec::new(),
    };
    for judge in judges().filter(|judge| judge.reward.plugin.to_string() == plugin) {
        if judge.reward.sha256.is_some() {
            return Err(ReloadError::Pinned(plugin));
        }
        let spec = RewardSpec {
            plugin: r1d_rewards::Plugin::Path(file.into()),
            sha256: None,
            ..judge.spec()
        };
        let loaded = rewards.load(&spec)?;
        if let Some(newest) = reward_versions.newest(judge.number) {
            declares_the_same(&loaded, newest)?;
        }
        let models = &loaded_job.judge_models;
        if let Some(misfit) = models.misfit(&loaded_job.job, &judge.reward, &loaded)? {
            return Err(ReloadError::OtherKind {
                path: loaded.path().display().to_string(),
                misfit,
            });
        }
        fresh.loaded.push((judge.number, loaded));
    }
    drop(reward_versions);
    if let Some((_, loaded)) = fresh.loaded.first() {
        passes_its_golden_cases(loaded)?;
        rewards.keep(loaded)?;
    }
    Ok(fresh)
}

fn no_reward(loaded_job: &LoadedJob, job: &JobId, wanted: &str) -> ReloadError {
    let known: BTreeSet<String> = loaded_job
        .judges()
        .map(|judge| format!("{} ({})", judge.reward.name, judge.reward.plugin))
        .collect();
    let known = if known.is_empty() {
        "none".into()
    } else {
        known.into_iter().collect::<Vec<_>>().join(", ")
    };
    ReloadError::NoReward {
        job: job.clone(),
        plugin: wanted.into(),
        known,
    }
}

/// Checks that a component brings golden cases, and judges them as they say.
fn passes_its_golden_cases(loaded: &LoadedReward) -> Result<(), ReloadError> {
    let path = loaded.path().display().to_string();
    let Some(cases) = golden::of_file(loaded.path())? else {
        return Err(ReloadError::NoGolden { path });
    };
    let report = golden::run(&loaded.on_trial(), &cases)?;
    let Some((first, difference)) = report.differing.first() else {
        return Ok(());
    };
    let (first, difference) = (first.clone(), difference.clone());
    Err(ReloadError::Golden {
        path,
        differing: report.differing.len(),
        cases: report.cases,
        first,
        difference,
    })
}

/// Checks that a component declares what the job's rules were made from.
fn declares_the_same(new: &LoadedReward, old: &LoadedReward) -> Result<(), ReloadError> {
    let range = |reward: &LoadedReward| format!("{} to {}", reward.info().min, reward.info().max);
    let parts = |reward: &LoadedReward| format!("[{}]", reward.info().parts.join(", "));
    let pairs = [
        (
            "the world",
            new.world().to_string(),
            old.world().to_string(),
        ),
        ("the range", range(new), range(old)),
        ("the list of parts", parts(new), parts(old)),
    ];
    match pairs.into_iter().find(|(_, new, old)| new != old) {
        Some((what, found, expected)) => Err(ReloadError::Different {
            path: new.path().display().to_string(),
            what,
            found,
            expected,
        }),
        None => Ok(()),
    }
}
