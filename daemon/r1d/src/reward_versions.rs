//! Which component judges at which step of a job: those that it was submitted with, and those that
//! replaced them since (`r1ctl plugin reload`).
//!
//! The ledger records from which step on a component judges ([`RewardVersion`]), so a step that is
//! done again after a crash is judged as before (`RWD-3`). The components themselves are kept under
//! the state directory, by their hash: once a job is accepted, the files that it names do not
//! matter any more.
//!
//! ```text
//! reload ─▶ load (child compiles) ─▶ same range and world? ─▶ its golden cases pass? ─▶ keep
//!     ─▶ ledger: from the step after the one at work ─▶ judges
//! ```

use crate::job_log::JobLog;
use crate::loaded_job::{JobReward, LoadError, LoadedJob};
use crate::status::JobViews;
use crate::tasks;
use r1d_job::Job;
use r1d_ledger::{Command, JobRecord, LedgerError, Rejected, RewardVersion};
use r1d_proto::control::Response;
use r1d_proto::ids::JobId;
use r1d_rewards::{LoadedReward, RewardError, RewardSpec, Rewards, golden};
use r1d_runner::{ScoreItem, Source};
use r1d_store::JobLayout;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::RwLock;

/// A place in a job: stage, and step from 0.
pub(crate) type StepRef = (u32, u64);

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
        matches!(
            self,
            ReloadError::Daemon(_)
                | ReloadError::Ledger(
                    LedgerError::Io { .. }
                        | LedgerError::Storage { .. }
                        | LedgerError::Interrupted { .. }
                )
        )
    }
}

/// A job's reward versions in the ledger, and the job's next step.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    reward_versions: Vec<RewardVersion>,
    /// The step that is done next, or again.
    next: StepRef,
}

impl Recorded {
    pub(crate) fn of(record: &JobRecord) -> Recorded {
        Recorded {
            reward_versions: record.reward_versions.to_vec(),
            next: next_place(record),
        }
    }

    /// The versions of a job that is being submitted with pins: SHA-256 by plugin.
    pub(crate) fn pinned(pins: BTreeMap<String, String>) -> Recorded {
        let reward_version = |(plugin, sha256)| RewardVersion {
            plugin,
            sha256,
            stage: 0,
            step: 0,
            at: 0,
        };
        Recorded {
            reward_versions: pins.into_iter().map(reward_version).collect(),
            next: (0, 0),
        }
    }

    /// The hash of the component that judges the next step; `None` means the file that the job
    /// names.
    pub(crate) fn first(&self, plugin: &str) -> Option<String> {
        let due = |reward_version: &&RewardVersion| {
            reward_version.plugin == plugin
                && (reward_version.stage, reward_version.step) <= self.next
        };
        self.reward_versions
            .iter()
            .rfind(due)
            .map(|reward_version| reward_version.sha256.clone())
    }

    /// The versions that judge later steps.
    pub(crate) fn later(&self, plugin: &str) -> Vec<RewardVersion> {
        let later = |reward_version: &&RewardVersion| {
            reward_version.plugin == plugin
                && (reward_version.stage, reward_version.step) > self.next
        };
        self.reward_versions.iter().filter(later).cloned().collect()
    }
}

/// The step at work, or the first of the next stage.
fn next_place(record: &JobRecord) -> StepRef {
    let next_stage = (record.progress.stages.len() as u32, 0);
    record
        .stage_at_work()
        .map_or(next_stage, |(stage, work)| (stage, work.step))
}

/// The components that judge for one reward, each with the step from which it judges.
pub(crate) struct VersionHistory {
    first: LoadedReward,
    later: Vec<(StepRef, LoadedReward)>,
}

impl VersionHistory {
    pub(crate) fn new(first: LoadedReward) -> VersionHistory {
        VersionHistory {
            first,
            later: Vec::new(),
        }
    }

    /// Adds a component that judges from this step on; steps are added in ascending order.
    pub(crate) fn set(&mut self, from: StepRef, reward: LoadedReward) {
        self.later.retain(|(known, _)| *known < from);
        self.later.push((from, reward));
    }

    /// Drops the components that judge no step from `next` on.
    fn forget_before(&mut self, next: StepRef) {
        let due = self
            .later
            .iter()
            .take_while(|(from, _)| *from <= next)
            .count();
        if let Some((_, reward)) = self.later.drain(..due).next_back() {
            self.first = reward;
        }
    }

    fn at(&self, place: StepRef) -> &LoadedReward {
        self.later
            .iter()
            .rev()
            .find(|(from, _)| *from <= place)
            .map_or(&self.first, |(_, reward)| reward)
    }

    fn newest(&self) -> &LoadedReward {
        self.later.last().map_or(&self.first, |(_, reward)| reward)
    }
}

/// The components that judge an open job, and how far judging has come.
pub(crate) struct RewardVersions {
    /// The histories by [`JobReward::number`](crate::loaded_job::JobReward).
    versions: Vec<VersionHistory>,
    /// The last step of which a completion was judged.
    judged: Mutex<Option<StepRef>>,
}

impl RewardVersions {
    pub(crate) fn new(versions: Vec<VersionHistory>) -> RwLock<RewardVersions> {
        RwLock::new(RewardVersions {
            versions,
            judged: Mutex::new(None),
        })
    }

    /// The components for completions of one step. Evaluations belong to no step and get the
    /// newest.
    pub(crate) fn of(
        &self,
        judges: &[&JobReward],
        of: Source,
        items: &[ScoreItem],
    ) -> Vec<LoadedReward> {
        let place = match (of, items.first()) {
            (Source::Stage(_), Some(item)) => Some((item.key.stage, item.key.step)),
            _ => None,
        };
        if place.is_some() {
            let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
            *judged = place.max(*judged);
        }
        let versions = judges
            .iter()
            .filter_map(|judge| self.versions.get(judge.number));
        versions
            .map(|versions| {
                place
                    .map_or_else(|| versions.newest(), |place| versions.at(place))
                    .clone()
            })
            .collect()
    }

    /// The first step of which no completion has been judged.
    fn untouched(&self, record: &JobRecord) -> StepRef {
        let judged = *self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match record.stage_at_work() {
            Some((stage, work)) => (stage, work.step + 1),
            None => next_place(record),
        };
        judged.map_or(next, |(stage, step)| next.max((stage, step + 1)))
    }
}

/// The opened jobs that are running.
#[derive(Clone, Default)]
pub(crate) struct OpenJobs(Arc<Mutex<HashMap<JobId, Weak<LoadedJob>>>>);

impl OpenJobs {
    pub(crate) fn opened(&self, job: &JobId, loaded_job: &Arc<LoadedJob>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, loaded_job| loaded_job.strong_count() > 0);
        open.insert(job.clone(), Arc::downgrade(loaded_job));
    }

    fn get(&self, job: &JobId) -> Option<Arc<LoadedJob>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(job)?
            .upgrade()
    }
}

/// The hash of every component that judges a job, by plugin. Blocks.
pub(crate) fn hashes(loaded_job: &LoadedJob) -> BTreeMap<String, String> {
    let reward_versions = loaded_job.reward_versions.blocking_read();
    let hash = |judge: &JobReward| {
        Some((
            judge.reward.plugin.to_string(),
            reward_versions
                .versions
                .get(judge.number)?
                .first
                .module_sha256()
                .to_owned(),
        ))
    };
    loaded_job.judges().filter_map(hash).collect()
}

/// Keeps a copy of every component that judges a job; returns their hashes, by plugin. Blocks.
pub(crate) fn keep(
    loaded_job: &LoadedJob,
    rewards: &Rewards,
) -> Result<BTreeMap<String, String>, RewardError> {
    let reward_versions = loaded_job.reward_versions.blocking_read();
    let mut kept = BTreeMap::new();
    for judge in loaded_job.judges() {
        if let Some(versions) = reward_versions.versions.get(judge.number) {
            rewards.keep(&versions.first)?;
            kept.insert(
                judge.reward.plugin.to_string(),
                versions.first.module_sha256().to_owned(),
            );
        }
    }
    Ok(kept)
}

/// Lets another component judge from the first step on whose judging has not begun.
pub(crate) async fn reload(
    record: Arc<JobRecord>,
    plugin: String,
    file: PathBuf,
    rewards: Arc<Rewards>,
    views: JobViews,
) -> Result<Response, ReloadError> {
    let id = record.job().clone();
    let (open, opened_record) = (views.open_jobs.get(&id), record.clone());
    let ingest = views.ingest.clone();
    let tried = tasks::blocking(move || {
        let loaded_job = match open {
            Some(open) => open,
            None => {
                let job = Job::parse(&opened_record.submission.job_toml, Path::new("/"))
                    .map_err(LoadError::from)?;
                Arc::new(LoadedJob::open(
                    job,
                    &rewards,
                    &Recorded::of(&opened_record),
                    &ingest,
                )?)
            }
        };
        let (plugin, fresh) = load(&loaded_job, opened_record.job(), &plugin, &file, &rewards)?;
        Ok::<_, ReloadError>((loaded_job, plugin, fresh))
    });
    let (loaded_job, plugin, fresh) = tried
        .await
        .map_err(|panic| ReloadError::Daemon(panic.to_string()))??;
    let sha256 = fresh
        .first()
        .map(|(_, loaded)| loaded.module_sha256().to_owned())
        .unwrap_or_default();
    // No step's judging begins while this decides which step is the first.
    let mut reward_versions = loaded_job.reward_versions.write().await;
    for _ in 0..TRIES_MAX {
        let record = views.ledger.job(&id).unwrap_or_else(|| record.clone());
        let (stage, step) = reward_versions.untouched(&record);
        let (ledger, at) = (views.ledger.clone(), views.clock.unix().as_secs());
        let command = Command::SetRewardVersion {
            job: id.clone(),
            plugin: plugin.clone(),
            sha256: sha256.clone(),
            stage,
            step,
            at,
        };
        match tasks::blocking(move || ledger.apply(command))
            .await
            .map_err(|panic| ReloadError::Daemon(panic.to_string()))?
        {
            Ok(_) => {
                for (number, loaded) in fresh {
                    if let Some(versions) = reward_versions.versions.get_mut(number) {
                        versions.forget_before(next_place(&record));
                        versions.set((stage, step), loaded);
                    }
                }
                let name = loaded_job
                    .job
                    .stages
                    .get(stage as usize)
                    .map_or_else(String::new, |stage| stage.name.clone());
                let log = JobLog::new(
                    JobLayout::of(&views.state_dir, &id).log(),
                    &id.0,
                    views.clock.clone(),
                );
                log.info(format!(
                    "plugin {plugin} reloaded: {sha256} judges from step {} of stage {name} on",
                    step + 1
                ));
                return Ok(Response::Reloaded {
                    job: id,
                    plugin,
                    sha256,
                    stage: name,
                    step: step + 1,
                });
            }
            Err(LedgerError::Rejected(Rejected::RewardLate { .. })) => continue,
            Err(error) => return Err(error.into()),
        }
    }
    Err(ReloadError::Daemon(
        "steps end faster than a judge can be changed: try again".into(),
    ))
}

/// Loads the component with the configuration and limits of each reward that it judges for; the
/// results are by [`JobReward::number`](crate::loaded_job::JobReward).
fn load(
    loaded_job: &LoadedJob,
    job: &JobId,
    wanted: &str,
    file: &Path,
    rewards: &Rewards,
) -> Result<(String, Vec<(usize, LoadedReward)>), ReloadError> {
    let named = loaded_job
        .judges()
        .find(|judge| judge.reward.plugin.to_string() == wanted);
    let Some(named) = named.or_else(|| {
        loaded_job
            .judges()
            .find(|judge| judge.reward.name == wanted)
    }) else {
        let known: BTreeSet<String> = loaded_job
            .judges()
            .map(|judge| format!("{} ({})", judge.reward.name, judge.reward.plugin))
            .collect();
        let known = if known.is_empty() {
            "none".into()
        } else {
            known.into_iter().collect::<Vec<_>>().join(", ")
        };
        return Err(ReloadError::NoReward {
            job: job.clone(),
            plugin: wanted.into(),
            known,
        });
    };
    let plugin = named.reward.plugin.to_string();
    let reward_versions = loaded_job.reward_versions.blocking_read();
    let mut fresh: Vec<(usize, LoadedReward)> = Vec::new();
    for judge in loaded_job
        .judges()
        .filter(|judge| judge.reward.plugin.to_string() == plugin)
    {
        if judge.reward.sha256.is_some() {
            return Err(ReloadError::Pinned(plugin));
        }
        let spec = RewardSpec {
            plugin: r1d_rewards::Plugin::Path(file.into()),
            sha256: None,
            ..judge.spec()
        };
        let loaded = rewards.load(&spec)?;
        if let Some(versions) = reward_versions.versions.get(judge.number) {
            declares_the_same(&loaded, versions.newest())?;
        }
        if let Some(misfit) =
            loaded_job
                .judge_models
                .misfit(&loaded_job.job, &judge.reward, &loaded)?
        {
            return Err(ReloadError::OtherKind {
                path: loaded.path().display().to_string(),
                misfit,
            });
        }
        fresh.push((judge.number, loaded));
    }
    drop(reward_versions);
    let Some((_, loaded)) = fresh.first() else {
        return Ok((plugin, fresh));
    };
    let path = loaded.path().display().to_string();
    let Some(cases) = golden::of_file(loaded.path())? else {
        return Err(ReloadError::NoGolden { path });
    };
    let report = golden::run(&loaded.on_trial(), &cases)?;
    if let Some((first, difference)) = report.differing.first() {
        let (first, difference) = (first.clone(), difference.clone());
        return Err(ReloadError::Golden {
            path,
            differing: report.differing.len(),
            cases: report.cases,
            first,
            difference,
        });
    }
    rewards.keep(loaded)?;
    Ok((plugin, fresh))
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
