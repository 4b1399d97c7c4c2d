//! Accepts a job: reads and checks everything that it needs before it is queued.

use crate::context::NodeContext;
use crate::inputs::Found;
use crate::load_error::LoadError;
use crate::loaded_job::LoadedJob;
use crate::outputs::{self, OutputError};
use crate::reach::{self, Surroundings, Unreachable};
use crate::readable::{self, NotReadable};
use crate::reading::Reading;
use crate::removal;
use crate::reuse;
use crate::reward_versions::Recorded;
use r1d_job::{Job, JobError, layout, validate};
use r1d_link::work::{Accepted, Directory};
use r1d_proto::control::plan::{Plan, PlanDisk, PlanStage};
use r1d_proto::ids::JobId;
use r1d_proto::remedy::is_the_machines;
use r1d_store::{Disk, JobLayout, StoreError, write_file};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub(crate) enum AcceptError {
    #[error("{0}")]
    Job(#[from] JobError),
    #[error(transparent)]
    Reach(#[from] Unreachable),
    #[error(transparent)]
    NotReadable(#[from] NotReadable),
    #[error(transparent)]
    LoadedJob(#[from] LoadError),
    #[error(transparent)]
    Output(#[from] OutputError),
    #[error(transparent)]
    File(#[from] StoreError),
    #[error(transparent)]
    Keep(#[from] r1d_rewards::RewardError),
    #[error("{0}")]
    Inputs(#[from] io::Error),
}

impl AcceptError {
    /// Whether the job is at fault, not the daemon.
    pub(crate) fn is_the_jobs(&self) -> bool {
        match self {
            AcceptError::LoadedJob(error) => !error.is_the_machines(),
            AcceptError::Inputs(error) => !is_the_machines(error),
            AcceptError::Job(_) | AcceptError::Reach(_) | AcceptError::NotReadable(_) => true,
            AcceptError::Output(_) | AcceptError::File(_) | AcceptError::Keep(_) => false,
        }
    }
}

/// Returns what the job would do, judged by what is pinned; its files are those that `reader` may
/// read ([`readable`]). Blocks; gives up when no client waits for the plan any more.
pub(crate) fn plan(
    text: &str,
    pins: BTreeMap<String, String>,
    reader: Option<u32>,
    node: &NodeContext,
    reading: &Reading,
) -> Result<Plan, AcceptError> {
    let mut job = Job::parse(text, Path::new("/"))?;
    let asked = job.clone();
    validate::check_devices(&job, &node.devices)?;
    date(&mut job, node.clock.unix());
    readable::check_job(node, reader, &job)?;
    reach::check(&job, &Surroundings::own(&node.state_dir))?;
    let recorded = Recorded::pinned(pins);
    let mut loaded_job = LoadedJob::read(job, &node.rewards, &recorded, &node.ingest, reading)?;
    let facts = loaded_job.facts();
    let room = node.device_memory.room();
    loaded_job.job.parallel = layout::chosen(&loaded_job.job, &facts, &node.devices);
    let mut stages = r1d_job::plan::stages(&loaded_job.job, &facts, &loaded_job.seen, room);
    let mut warnings = loaded_job.warnings.clone();
    let built_in = validate::check_built_in(&loaded_job.job, &node.devices);
    warnings.extend(built_in.err().map(|error| error.to_string()));
    for (index, job) in reuse::plan(node, &loaded_job) {
        if let Some(stage) = stages.get_mut(index) {
            stage.reused_from = Some(job);
        }
    }
    warnings.extend(r1d_job::plan::check_room(
        &loaded_job.job,
        &stages,
        &facts,
        &loaded_job.seen,
        room,
        &node.devices,
    )?);
    warnings.extend(loaded_job.small_caches(room));
    let disk = disk(&loaded_job.job, &stages, &node.state_dir);
    warnings.extend(disk.iter().find_map(disk_warning));
    let architecture = facts.first().map_or("", |facts| &facts.architecture);
    Ok(Plan {
        name: loaded_job.job.name.clone(),
        model: format!(
            "{} ({architecture})",
            loaded_job.job.model.weights.config().display()
        ),
        parameters: facts.first().map(|facts| facts.parameters),
        layout: r1d_job::plan::layout(&loaded_job.job),
        stages,
        disk,
        resolved: resolved(asked, &loaded_job.job),
        warnings,
    })
}

/// The job file as it is recorded when the job is submitted, but for the day, which is that of the
/// submission.
fn resolved(asked: Job, planned: &Job) -> String {
    let parallel = planned.parallel;
    Job { parallel, ..asked }.to_toml()
}

/// What the job leaves on disk at most: checkpoints where they go, all else in the state directory.
fn disk(job: &Job, stages: &[PlanStage], state_dir: &Path) -> Vec<PlanDisk> {
    let to = job.checkpoint.to.as_deref().unwrap_or(state_dir);
    let mut needs: BTreeMap<&Path, u64> = BTreeMap::new();
    let amounts = stages.iter().flat_map(|stage| {
        // What is taken over is linked; the model that the job leaves is written.
        let is_written = move |what: &String| stage.reused_from.is_none() || what == "final";
        stage.disk.iter().filter(move |(what, _)| is_written(what))
    });
    for (what, bytes) in amounts {
        let dir = if what == "checkpoints" { to } else { state_dir };
        let sum = needs.entry(dir).or_default();
        *sum = sum.saturating_add(*bytes);
    }
    let disk = |(dir, bytes): (&Path, u64)| PlanDisk {
        directory: dir.into(),
        bytes,
        free: free(dir),
    };
    needs.into_iter().map(disk).collect()
}

/// Bytes that are free where a directory is, or would be; `None` if the system does not tell.
fn free(dir: &Path) -> Option<u64> {
    let there = dir.ancestors().find(|dir| dir.exists())?;
    let found = rustix::fs::statvfs(there).ok()?;
    Some(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Warns of a disk that may be too small for what the job leaves there.
fn disk_warning(disk: &PlanDisk) -> Option<String> {
    let free = disk.free.filter(|free| disk.bytes > *free)?;
    Some(format!(
        "the job may take {} GB of disk in {}, where {} GB are free: free some, keep fewer \
         checkpoints, or set checkpoint.to",
        disk.bytes.div_ceil(1_000_000_000),
        disk.directory.display(),
        free / 1_000_000_000
    ))
}

/// Sets the date that chat templates see to the day of the submission. It is recorded with the job,
/// so the prompts are the same when the job is taken up later (`STEP-2`).
fn date(job: &mut Job, now: Duration) {
    if job.date.is_none() {
        job.date = r1d_data::template::date_of(now.as_secs());
    }
}

/// Reads and checks a job that is submitted with these pins; its files are those that `reader` may
/// read ([`readable`]). Blocks.
pub(crate) fn accept(
    text: &str,
    pins: BTreeMap<String, String>,
    reader: Option<u32>,
    node: &NodeContext,
    reading: &Reading,
) -> Result<Accepted, AcceptError> {
    let mut job = Job::parse(text, Path::new("/"))?;
    validate::check_devices(&job, &node.devices)?;
    // Factors that are left out are chosen by the models. The job takes no fewer devices than one
    // whose models are dense, so what no gang can do is refused before anything is read.
    let parallel = layout::chosen(&job, &[], &node.devices);
    let at_least = Job {
        parallel,
        ..job.clone()
    };
    validate::check_built_in(&at_least, &node.devices)?;
    date(&mut job, node.clock.unix());
    readable::check_job(node, reader, &job)?;
    reach::check(&job, &Surroundings::own(&node.state_dir))?;
    let inputs = Found::of(&job)?;
    let (rewards, recorded) = (&node.rewards, Recorded::pinned(pins));
    let mut loaded_job = LoadedJob::read(job, rewards, &recorded, &node.ingest, reading)?;
    let (room, facts) = (node.device_memory.room(), loaded_job.facts());
    loaded_job.job.parallel = layout::chosen(&loaded_job.job, &facts, &node.devices);
    let (job, seen) = (&loaded_job.job, &loaded_job.seen);
    validate::check_built_in(job, &node.devices)?;
    let stages = r1d_job::plan::stages(job, &facts, seen, room);
    let tight = r1d_job::plan::check_room(job, &stages, &facts, seen, room, &node.devices)?;
    let plugins = loaded_job.keep_components(rewards)?;
    let parts = loaded_job.parts();
    let wanted = || {
        reading
            .at("hashing what the job reads", parts - 1, parts)
            .map_err(io::Error::other)
    };
    let inputs = inputs.hashed(&node.ingest.hashes, &wanted)?;
    // A file that has gone since is named when the job opens it.
    let keys = reuse::keys(&loaded_job.job, &plugins, node, Some(&inputs)).unwrap_or_default();
    Ok(Accepted {
        name: loaded_job.job.name.clone(),
        priority: loaded_job.job.priority,
        job_toml: loaded_job.job.to_toml(),
        devices: u32::try_from(loaded_job.job.parallel.devices()).unwrap_or(u32::MAX),
        inputs: serde_json::to_string(&inputs).map_err(io::Error::from)?,
        plugins,
        keys,
        warnings: loaded_job.warnings.into_iter().chain(tight).collect(),
    })
}

/// Makes the directory of a job that is about to be queued. Whoever asks sees to it that no job is
/// removed meanwhile. Blocks.
pub(crate) fn make_directory(
    job: &JobId,
    job_toml: &str,
    inputs: &str,
    node: &NodeContext,
) -> Result<Directory, AcceptError> {
    if let Some(job) = removal::removed_since(node, job_toml) {
        return Ok(Directory::Removed(job));
    }
    let layout = node.layout(job);
    if layout.dir.exists() {
        return Ok(Directory::Taken);
    }
    let written = fill(&layout, job_toml, inputs);
    if written.is_err() {
        remove_directory(job, node);
    }
    written.map(|()| Directory::Made)
}

fn fill(layout: &JobLayout, job_toml: &str, inputs: &str) -> Result<(), AcceptError> {
    outputs::create(layout)?;
    write_file(&Disk, &layout.job_toml(), |file| {
        file.write_all(job_toml.as_bytes())
    })?;
    Ok(write_file(&Disk, &layout.inputs(), |file| {
        file.write_all(inputs.as_bytes())
    })?)
}

/// Removes the directory of a job that nothing refers to. Blocks.
pub(crate) fn remove_directory(job: &JobId, node: &NodeContext) {
    let _ = std::fs::remove_dir_all(node.layout(job).dir);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_disk_of_a_job_is_by_directory_and_without_what_is_taken_over() {
        let text = "name = \"a\"\n[model]\ninit = \"a.json\"\ntokenizer = \"t\"\n[data.d]\npath = \
                    \"d.jsonl\"\n[[stage]]\nname = \"s\"\nkind = \"sft\"\ndata = \"d\"\nepochs = \
                    1\n";
        let to = "[checkpoint]\nto = \"file:///nowhere/else\"\n";
        let stage = |checkpoints: u64, reused_from: Option<&str>| PlanStage {
            name: "s".into(),
            kind: "sft".into(),
            model: None,
            from: "base".into(),
            data: "d".into(),
            rows: 1,
            steps: 1,
            tokens_per_step: 1,
            rewards: Vec::new(),
            reused_from: reused_from.map(|job| JobId(job.into())),
            memory: BTreeMap::new(),
            memory_peak: 0,
            host_memory: BTreeMap::new(),
            evals: Vec::new(),
            disk: [("checkpoints".into(), checkpoints), ("final".into(), 5)].into(),
        };
        let stages = [
            stage(100, Some("other")),
            stage(10, None),
            stage(1 << 62, None),
        ];
        let of = |text: String| {
            let job = Job::parse(&text, Path::new("/")).unwrap();
            let found = disk(&job, &stages, Path::new("/"));
            let bytes = found
                .iter()
                .map(|disk| (disk.directory.clone(), disk.bytes));
            (
                bytes.collect::<Vec<_>>(),
                found.iter().find_map(disk_warning),
            )
        };
        let (together, _) = of(text.into());
        assert_eq!(together, [("/".into(), (1 << 62) + 25)]);
        let (apart, warning) = of(format!("{text}{to}"));
        let elsewhere = ("/nowhere/else".into(), (1 << 62) + 10);
        assert_eq!(apart, [("/".into(), 15), elsewhere]);
        assert!(
            warning
                .unwrap()
                .contains("of disk in /nowhere/else, where ")
        );
    }

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
