//! Accepts a job: reads and checks everything that it needs before it is queued.

use crate::inputs::Found;
use crate::job_log::JobLog;
use crate::loaded_job::{LoadError, LoadedJob};
use crate::outputs::{self, OutputError};
use crate::reach::{self, Surroundings, Unreachable};
use crate::reading::Reading;
use crate::removal;
use crate::reuse;
use crate::reward_versions::{self, Recorded};
use crate::status::JobViews;
use r1d_job::{Job, JobError};
use r1d_ledger::{Command, JobRecord, LedgerError, Rejected, User};
use r1d_proto::control::{Plan, PlanStage, Request};
use r1d_proto::ids::JobId;
use r1d_proto::world::counter_hash;
use r1d_rewards::Rewards;
use r1d_store::{Disk, JobLayout, StoreError, write_file};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Letters of a job's id, without i, l, o and u, which are misread. Eight of them make 32^8 ids.
const ID_LETTERS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const ID_LENGTH: usize = 8;
/// Ids tried until one is free.
const ID_TRIES_MAX: u64 = 16;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    #[error("{0}")]
    Job(#[from] JobError),
    #[error(transparent)]
    Reach(#[from] Unreachable),
    #[error(transparent)]
    LoadedJob(#[from] LoadError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    File(#[from] StoreError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Keep(#[from] r1d_rewards::RewardError),
    #[error("{0}")]
    Inputs(#[from] io::Error),
    #[error(
        "job {0}, whose files the job names, was removed while it was read: name others, or submit \
         that one again"
    )]
    Removed(JobId),
    #[error("no free job id after {ID_TRIES_MAX} tries")]
    NoId,
}

impl AcceptError {
    /// Whether the job is at fault, not the daemon.
    pub(crate) fn is_the_jobs(&self) -> bool {
        !matches!(self, AcceptError::LoadedJob(LoadError::Sets(error)) if error.is_the_disks())
            && matches!(
                self,
                AcceptError::Job(_)
                    | AcceptError::Reach(_)
                    | AcceptError::Inputs(_)
                    | AcceptError::LoadedJob(_)
                    | AcceptError::Removed(_)
                    | AcceptError::Ledger(LedgerError::Rejected(_))
            )
    }
}

/// Returns what the job would do. Blocks; gives up when no client waits for the plan any more.
pub(crate) fn plan(
    text: &str,
    rewards: &Rewards,
    views: &JobViews,
    reading: &Reading,
) -> Result<Plan, AcceptError> {
    let mut job = Job::parse(text, Path::new("/"))?;
    let resolved = job.to_toml();
    date(&mut job, views.clock.unix());
    reach::check(&job, &Surroundings::own(&views.state_dir))?;
    let loaded_job = LoadedJob::read(job, rewards, &Recorded::default(), &views.ingest, reading)?;
    let facts = loaded_job.facts();
    let mut stages = r1d_job::plan::stages(&loaded_job.job, &facts, &loaded_job.seen);
    let mut warnings = loaded_job.warnings.clone();
    for (index, job) in reuse::plan(views, &loaded_job) {
        if let Some(stage) = stages.get_mut(index) {
            stage.reused_from = Some(job);
        }
    }
    warnings.extend(disk_warning(&loaded_job.job, &stages, &views.state_dir));
    let architecture = facts.first().map_or("", |facts| &facts.architecture);
    Ok(Plan {
        name: loaded_job.job.name.clone(),
        model: format!(
            "{} ({architecture})",
            loaded_job.job.model.weights.config().display()
        ),
        parameters: facts.first().map(|facts| facts.parameters),
        stages,
        resolved,
        warnings,
    })
}

/// Warns of a disk that may be too small for what the job leaves there.
fn disk_warning(job: &Job, stages: &[PlanStage], state_dir: &Path) -> Option<String> {
    let to = job.checkpoint.to.as_deref().unwrap_or(state_dir);
    let mut needs: BTreeMap<&Path, u64> = BTreeMap::new();
    // What is taken over is linked.
    let done = stages.iter().filter(|stage| stage.reused_from.is_none());
    for (what, bytes) in done.flat_map(|stage| &stage.disk) {
        let dir = if what == "checkpoints" { to } else { state_dir };
        let sum = needs.entry(dir).or_default();
        *sum = sum.saturating_add(*bytes);
    }
    let gigabytes = |bytes: u64| bytes.div_ceil(1_000_000_000);
    needs.into_iter().find_map(|(dir, needed)| {
        let there = dir.ancestors().find(|dir| dir.exists())?;
        let found = rustix::fs::statvfs(there).ok()?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        (needed > free).then(|| {
            format!(
                "the job may take {} GB of disk in {}, where {} GB are free: free some, keep fewer \
                 checkpoints, or set checkpoint.to",
                gigabytes(needed),
                dir.display(),
                free / 1_000_000_000
            )
        })
    })
}

/// Sets the date that chat templates see to the day of the submission. It is recorded with the job,
/// so the prompts are the same when the job is taken up later (`STEP-2`).
fn date(job: &mut Job, now: Duration) {
    if job.date.is_none() {
        job.date = r1d_data::template::date_of(now.as_secs());
    }
}

/// A job that has been queued.
pub(crate) struct Submitted {
    pub job: JobId,
    pub warnings: Vec<String>,
    /// SHA-256 of the components that judge, by plugin.
    pub plugins: BTreeMap<String, String>,
}

/// What a client submits.
pub(crate) struct Submission {
    pub text: String,
    /// Overrides the job file's priority.
    pub priority: Option<i32>,
    /// SHA-256 by plugin: by its name, or its absolute path.
    pub pins: BTreeMap<String, String>,
    /// Whether stages that earlier jobs have finished are taken over.
    pub reuses: bool,
    /// Who submits.
    pub owner: Option<User>,
    /// Whether the job is paused from the beginning.
    pub held: bool,
    /// The client's id of the submission.
    pub id: String,
}

/// Checks the job and queues it, with all that was decided about it, in one transaction. Blocks.
pub(crate) fn submit(
    submission: Submission,
    rewards: &Rewards,
    views: &JobViews,
    reading: &Reading,
) -> Result<Submitted, AcceptError> {
    let Submission {
        text,
        priority,
        pins,
        reuses,
        owner,
        held,
        id: request,
    } = submission;
    views.ledger.is_in_place()?;
    let mut job = Job::parse(&text, Path::new("/"))?;
    date(&mut job, views.clock.unix());
    reach::check(&job, &Surroundings::own(&views.state_dir))?;
    let inputs = Found::of(&job)?;
    let loaded_job = LoadedJob::read(
        job,
        rewards,
        &Recorded::pinned(pins),
        &views.ingest,
        reading,
    )?;
    let plugins = reward_versions::keep(&loaded_job, rewards)?;
    let parts = loaded_job.parts();
    let wanted = || {
        reading
            .at("hashing what the job reads", parts - 1, parts)
            .map_err(io::Error::other)
    };
    let inputs = inputs.hashed(&views.ingest.hashes, &wanted)?;
    // A file that has gone since is named when the job opens it.
    let keys = reuse::keys(&loaded_job.job, &plugins, views, Some(&inputs)).unwrap_or_default();
    let inputs = serde_json::to_vec(&inputs).map_err(io::Error::from)?;
    let job_toml = loaded_job.job.to_toml();
    let priority = priority.unwrap_or(loaded_job.job.priority);
    // From here on no job is removed whose files this one names.
    let kept = views
        .removing
        .read()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(job) = removal::removed_since(views, &job_toml) {
        return Err(AcceptError::Removed(job));
    }
    for attempt in 0..ID_TRIES_MAX {
        let id = new_id(views, attempt);
        let outputs = JobLayout::of(&views.state_dir, &id);
        if outputs.dir.exists() {
            continue;
        }
        let written = outputs::create(&outputs)
            .map_err(AcceptError::from)
            .and_then(|()| {
                write_file(&Disk, &outputs.job_toml(), |file| {
                    file.write_all(job_toml.as_bytes())
                })?;
                Ok(write_file(&Disk, &outputs.inputs(), |file| {
                    file.write_all(&inputs)
                })?)
            });
        if let Err(error) = written {
            let _ = std::fs::remove_dir_all(&outputs.dir);
            return Err(error);
        }
        let submit = Command::Submit {
            job: id.clone(),
            name: loaded_job.job.name.clone(),
            priority,
            job_toml: job_toml.clone(),
            request: Some(request.clone()),
            reward_versions: plugins.clone(),
            keys: keys.clone(),
            reuses,
            owner: owner.clone(),
            held,
            at: views.clock.unix().as_secs(),
        };
        match views.ledger.apply(submit) {
            Ok(_) => {
                drop(kept);
                JobLog::new(outputs.log(), &id.0, views.clock.clone())
                    .info(format!("submitted as {id}"));
                return Ok(Submitted {
                    job: id,
                    warnings: loaded_job.warnings,
                    plugins,
                });
            }
            Err(LedgerError::Rejected(
                Rejected::DuplicateJob { .. } | Rejected::BeingRemoved { .. },
            )) => continue,
            Err(error) => {
                // Nothing refers to the directory, so it is removed.
                let _ = std::fs::remove_dir_all(&outputs.dir);
                return Err(error.into());
            }
        }
    }
    Err(AcceptError::NoId)
}

/// The job that an earlier submission with the same id became.
pub(crate) fn submitted_before(record: &JobRecord) -> Submitted {
    let first = record
        .reward_versions
        .iter()
        .filter(|reward_version| (reward_version.stage, reward_version.step) == (0, 0));
    let plugins = first
        .map(|reward_version| (reward_version.plugin.clone(), reward_version.sha256.clone()))
        .collect();
    Submitted {
        job: record.job().clone(),
        warnings: Vec::new(),
        plugins,
    }
}

/// Whether the job was submitted with the same contents as `request`. Both job files are parsed, so
/// a different spelling of the same settings makes no difference.
pub(crate) fn asked_for(record: &JobRecord, request: &Request) -> bool {
    let Request::Submit {
        job,
        priority,
        pins,
        no_reuse,
        ..
    } = request
    else {
        return false;
    };
    let known = Job::parse(&record.submission.job_toml, Path::new("/"));
    let (Ok(mut asked), Ok(known)) = (Job::parse(job, Path::new("/")), known) else {
        return false;
    };
    // A request without a date takes that of the first submission.
    asked.date = asked.date.or_else(|| known.date.clone());
    let judges = submitted_before(record).plugins;
    let is_pinned = |(plugin, pin): (&String, &String)| {
        judges
            .get(plugin)
            .is_none_or(|sha256| sha256.eq_ignore_ascii_case(pin))
    };
    priority.unwrap_or(asked.priority) == record.submission.priority
        && asked.to_toml() == known.to_toml()
        && pins.iter().all(is_pinned)
        && *no_reuse != record.reuse.enabled
}

/// Makes an id for a submission whose client gave none.
pub(crate) fn new_request_id(views: &JobViews) -> String {
    static MADE: AtomicU64 = AtomicU64::new(0);
    let made = MADE.fetch_add(1, Ordering::Relaxed);
    format!(
        "r1d-{:x}-{}-{made}",
        views.clock.unix().as_nanos(),
        std::process::id()
    )
}

/// Makes a job id from the clock, the process, the number of jobs and `attempt`: likely to be free.
fn new_id(views: &JobViews, attempt: u64) -> JobId {
    let nanos = views.clock.unix().as_nanos() as u64;
    let mut hash = counter_hash(&[
        nanos,
        std::process::id() as u64,
        views.ledger.state().len() as u64,
        attempt,
    ]);
    let letters = (0..ID_LENGTH).map(|_| {
        let letter = ID_LETTERS
            .get((hash % 32) as usize)
            .copied()
            .unwrap_or(b'0');
        hash /= 32;
        letter as char
    });
    JobId(letters.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job that was accepted yesterday and is taken up today keeps yesterday's date.
    #[test]
    fn a_recorded_day_stays() {
        let text = "name = \"a\"\n[model]\ninit = \"a.json\"\ntokenizer = \"t\"\n[data.d]\npath = \
                    \"d.jsonl\"\n[[stage]]\nname = \"s\"\nkind = \"sft\"\ndata = \"d\"\nepochs = \
                    1\n";
        let mut job = Job::parse(text, Path::new("/")).unwrap();
        let yesterday = Duration::from_secs(1_720_051_200);
        date(&mut job, yesterday);
        assert_eq!(job.date.as_deref(), Some("2024-07-04"));
        let mut again = Job::parse(&job.to_toml(), Path::new("/")).unwrap();
        date(&mut again, yesterday + Duration::from_secs(24 * 60 * 60));
        assert_eq!(again.date.as_deref(), Some("2024-07-04"));
    }
}
