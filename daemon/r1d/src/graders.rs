//! Which component judges at which step of a job: those that it was submitted with, and those that
//! took their places since (`r1ctl plugin reload`).
//!
//! The ledger says from which step on a component judges ([`GraderRecord`]), so a step that is done
//! again after a crash is judged as it was (`RWD-3`). The components themselves are kept under the
//! state directory, by their hash: what becomes of the files that the job names is of no
//! consequence once it is accepted.
//!
//! ```text
//! reload ─▶ load (child compiles) ─▶ same range and world? ─▶ its golden cases pass? ─▶ keep ─▶ ledger: from the step after the one
//! at work ─▶ judges
//! ```

use crate::job_log::JobLog;
use crate::materials::{Judge, Materials, MaterialsError};
use crate::outputs::Outputs;
use crate::state_dir::job_dir;
use crate::status::Desk;
use crate::tasks;
use r1d_job::Job;
use r1d_ledger::{Command, GraderRecord, JobRecord, LedgerError, Rejected};
use r1d_proto::control::Response;
use r1d_proto::ids::JobId;
use r1d_rewards::{LoadedReward, RewardError, RewardSpec, Rewards, golden};
use r1d_runner::{ScoreItem, Source};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tokio::sync::RwLock;

/// A place in a job: stage, step (from 0).
pub type Place = (u32, u64);

/// A step may end while its judge is changed: the change is then tried for the next one.
const TRIES_MAX: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    Materials(#[from] MaterialsError),
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
    pub fn is_the_daemons(&self) -> bool {
        matches!(
            self,
            ReloadError::Daemon(_)
                | ReloadError::Ledger(LedgerError::Io { .. } | LedgerError::Storage { .. })
        )
    }
}

/// What the ledger knows of who judges a job, as far as its next step needs it.
#[derive(Debug, Default)]
pub struct Recorded {
    graders: Vec<GraderRecord>,
    /// The step that is done next, or again.
    next: Place,
}

impl Recorded {
    pub fn of(record: &JobRecord) -> Recorded {
        Recorded {
            graders: record.graders.clone(),
            next: next_place(record),
        }
    }

    /// Of a job that is being submitted.
    pub fn pinned(pins: BTreeMap<String, String>) -> Recorded {
        let grader = |(plugin, sha256)| GraderRecord {
            plugin,
            sha256,
            stage: 0,
            step: 0,
            at: 0,
        };
        Recorded {
            graders: pins.into_iter().map(grader).collect(),
            next: (0, 0),
        }
    }

    /// The hash of the component that judges the next step; `None`: the file that the job names.
    pub fn first(&self, plugin: &str) -> Option<String> {
        let due = |grader: &&GraderRecord| {
            grader.plugin == plugin && (grader.stage, grader.step) <= self.next
        };
        self.graders
            .iter()
            .rfind(due)
            .map(|grader| grader.sha256.clone())
    }

    /// Those that judge later steps.
    pub fn later(&self, plugin: &str) -> Vec<GraderRecord> {
        let later = |grader: &&GraderRecord| {
            grader.plugin == plugin && (grader.stage, grader.step) > self.next
        };
        self.graders.iter().filter(later).cloned().collect()
    }
}

/// The step that is at work, or the first of the next stage.
fn next_place(record: &JobRecord) -> Place {
    let next_stage = (record.progress.stages.len() as u32, 0);
    record
        .stage_at_work()
        .map_or(next_stage, |(stage, work)| (stage, work.step))
}

/// The components that judge for one reward, by the place from which on they do.
pub struct Versions {
    first: LoadedReward,
    later: Vec<(Place, LoadedReward)>,
}

impl Versions {
    pub fn new(first: LoadedReward) -> Versions {
        Versions {
            first,
            later: Vec::new(),
        }
    }

    /// From this place on; places come in their order.
    pub fn set(&mut self, from: Place, reward: LoadedReward) {
        self.later.retain(|(known, _)| *known < from);
        self.later.push((from, reward));
    }

    /// Lets go of what judges no step from `next` on.
    fn forget_before(&mut self, next: Place) {
        let due = self
            .later
            .iter()
            .take_while(|(from, _)| *from <= next)
            .count();
        if let Some((_, reward)) = self.later.drain(..due).next_back() {
            self.first = reward;
        }
    }

    fn at(&self, place: Place) -> &LoadedReward {
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

/// Who judges an open job, and how far judging has come.
pub struct Graders {
    /// By [`Judge::number`](crate::materials::Judge).
    versions: Vec<Versions>,
    /// The last step of which a completion was judged.
    judged: Mutex<Option<Place>>,
}

impl Graders {
    pub fn new(versions: Vec<Versions>) -> RwLock<Graders> {
        RwLock::new(Graders {
            versions,
            judged: Mutex::new(None),
        })
    }

    /// The components for completions of one step. Evaluations, which belong to no step, get the
    /// newest.
    pub fn of(&self, judges: &[&Judge], of: Source, items: &[ScoreItem]) -> Vec<LoadedReward> {
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

    /// The first step that nobody has begun to judge.
    fn untouched(&self, record: &JobRecord) -> Place {
        let judged = *self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match record.stage_at_work() {
            Some((stage, work)) => (stage, work.step + 1),
            None => next_place(record),
        };
        judged.map_or(next, |(stage, step)| next.max((stage, step + 1)))
    }
}

/// The open materials of the jobs that run.
#[derive(Clone, Default)]
pub struct OpenJobs(Arc<Mutex<HashMap<JobId, Weak<Materials>>>>);

impl OpenJobs {
    pub fn opened(&self, job: &JobId, materials: &Arc<Materials>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, materials| materials.strong_count() > 0);
        open.insert(job.clone(), Arc::downgrade(materials));
    }

    fn get(&self, job: &JobId) -> Option<Arc<Materials>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(job)?
            .upgrade()
    }
}

/// Of every component that judges a job, by plugin. Blocks.
pub fn hashes(materials: &Materials) -> BTreeMap<String, String> {
    let graders = materials.graders.blocking_read();
    let hash = |judge: &Judge| {
        Some((
            judge.reward.plugin.to_string(),
            graders
                .versions
                .get(judge.number)?
                .first
                .module_sha256()
                .to_owned(),
        ))
    };
    materials.judges().filter_map(hash).collect()
}

/// Keeps a copy of every component that judges a job; their hashes, by plugin. Blocks.
pub fn keep(
    materials: &Materials,
    rewards: &Rewards,
) -> Result<BTreeMap<String, String>, RewardError> {
    let graders = materials.graders.blocking_read();
    let mut kept = BTreeMap::new();
    for judge in materials.judges() {
        if let Some(versions) = graders.versions.get(judge.number) {
            rewards.keep(&versions.first)?;
            kept.insert(
                judge.reward.plugin.to_string(),
                versions.first.module_sha256().to_owned(),
            );
        }
    }
    Ok(kept)
}

/// Lets another component judge from the next step on that nobody has begun to judge.
pub async fn reload(
    record: Arc<JobRecord>,
    plugin: String,
    file: PathBuf,
    rewards: Arc<Rewards>,
    desk: Desk,
) -> Result<Response, ReloadError> {
    let id = record.job().clone();
    let (open, opened_record) = (desk.open_jobs.get(&id), record.clone());
    let tried = tasks::blocking(move || {
        let materials = match open {
            Some(open) => open,
            None => {
                let job = Job::parse(&opened_record.submission.job_toml, Path::new("/"))
                    .map_err(MaterialsError::from)?;
                Arc::new(Materials::open(
                    job,
                    &rewards,
                    &Recorded::of(&opened_record),
                )?)
            }
        };
        let (plugin, fresh) = load(&materials, opened_record.job(), &plugin, &file, &rewards)?;
        Ok::<_, ReloadError>((materials, plugin, fresh))
    });
    let (materials, plugin, fresh) = tried
        .await
        .map_err(|panic| ReloadError::Daemon(panic.to_string()))??;
    let sha256 = fresh
        .first()
        .map(|(_, loaded)| loaded.module_sha256().to_owned())
        .unwrap_or_default();
    // Nobody begins to judge a step while it is decided which is the first.
    let mut graders = materials.graders.write().await;
    for _ in 0..TRIES_MAX {
        let record = desk.ledger.job(&id).unwrap_or_else(|| record.clone());
        let (stage, step) = graders.untouched(&record);
        let (ledger, at) = (desk.ledger.clone(), desk.clock.unix().as_secs());
        let command = Command::SetGrader {
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
                    if let Some(versions) = graders.versions.get_mut(number) {
                        versions.forget_before(next_place(&record));
                        versions.set((stage, step), loaded);
                    }
                }
                let name = materials
                    .job
                    .stages
                    .get(stage as usize)
                    .map_or_else(String::new, |stage| stage.name.clone());
                let log = JobLog::new(
                    Outputs::new(job_dir(&desk.state_dir, &id)).log(),
                    &id.0,
                    desk.clock.clone(),
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
            Err(LedgerError::Rejected(Rejected::GraderLate { .. })) => continue,
            Err(error) => return Err(error.into()),
        }
    }
    Err(ReloadError::Daemon(
        "steps end faster than a judge can be changed: try again".into(),
    ))
}

/// The component under the configuration and limits of each reward that it is to judge for, by
/// [`Judge::number`](crate::materials::Judge).
fn load(
    materials: &Materials,
    job: &JobId,
    wanted: &str,
    file: &Path,
    rewards: &Rewards,
) -> Result<(String, Vec<(usize, LoadedReward)>), ReloadError> {
    let named = materials
        .judges()
        .find(|judge| judge.reward.plugin.to_string() == wanted);
    let Some(named) =
        named.or_else(|| materials.judges().find(|judge| judge.reward.name == wanted))
    else {
        let known: BTreeSet<String> = materials
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
    let graders = materials.graders.blocking_read();
    let mut fresh: Vec<(usize, LoadedReward)> = Vec::new();
    for judge in materials
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
        if let Some(versions) = graders.versions.get(judge.number) {
            declares_the_same(&loaded, versions.newest())?;
        }
        if let Some(misfit) =
            materials
                .respondents
                .misfit(&materials.job, &judge.reward, &loaded)?
        {
            return Err(ReloadError::OtherKind {
                path: loaded.path().display().to_string(),
                misfit,
            });
        }
        fresh.push((judge.number, loaded));
    }
    drop(graders);
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

/// What the job's rules were made from.
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
