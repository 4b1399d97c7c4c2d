//! Finds out what a decision has to know of all jobs, from the ledger and the disk. Blocks.

use super::sizes::{DISPOSABLE, GONE_PREFIX, Sizes};
use r1d_job::Job;
use r1d_ledger::{JobRecord, State as LedgerState};
use r1d_link::removal::{Dependence, DiskSize, JobFacts, Use};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_store::{Disk, JobLayout, StateLayout};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The directories below which a job's results are.
const RESULTS: [&str; 2] = ["final", "datasets"];

/// The places where files of jobs lie, by which a path is traced to its job.
struct Owners {
    /// The directory of all jobs, without links.
    jobs: PathBuf,
    /// Directories of jobs outside of it.
    elsewhere: BTreeMap<PathBuf, JobId>,
}

/// What is known of each job; `sizes` is asked only if a limit is one of bytes.
pub fn gather(
    state: &LedgerState,
    state_dir: &Path,
    is_in_hand: &dyn Fn(&JobId) -> bool,
    mut sizes: Option<&mut Sizes>,
) -> Vec<JobFacts> {
    let records = state.jobs();
    let owners = Owners::of(&records, state_dir);
    let finished = finished_stages(&records);
    let facts = |record: &Arc<JobRecord>| {
        let has_ended = record.state().is_final();
        let elsewhere = if has_ended {
            elsewhere(record, state_dir)
        } else {
            Vec::new()
        };
        let size = match &mut sizes {
            Some(sizes) if has_ended => sizes.of(record, state_dir, &elsewhere),
            _ => DiskSize::default(),
        };
        let mut needs = reads(record, state_dir, &owners);
        needs.extend(reusable(record, &finished));
        JobFacts {
            job: record.job().clone(),
            owner: record.owner.as_ref().map(|owner| owner.uid),
            state: record.state(),
            ended_at: record.progress.ended_at.unwrap_or(0),
            is_in_hand: is_in_hand(record.job()),
            away: elsewhere.iter().find(|dir| is_away(dir)).cloned(),
            has_more: has_ended && has_more(record.job(), state_dir, &elsewhere),
            bytes: size.all_bytes,
            more_bytes: size.more_bytes,
            needs,
        }
    };
    records.iter().map(facts).collect()
}

/// The job's directories outside of the state directory.
pub fn elsewhere(record: &JobRecord, state_dir: &Path) -> Vec<PathBuf> {
    let layout = JobLayout::of(state_dir, record.job());
    let mut found = recorded_elsewhere(record, &layout);
    let job = Job::parse(&record.submission.job_toml, Path::new("/")).ok();
    if let Some(to) = job.and_then(|job| job.checkpoint.to) {
        found.insert(layout.checkpoints(Some(&to), record.job()));
    }
    found.into_iter().collect()
}

/// Those of [`elsewhere`] that a checkpoint on record lies in.
fn recorded_elsewhere(record: &JobRecord, layout: &JobLayout) -> BTreeSet<PathBuf> {
    let stages = record.progress.stages.iter();
    let dirs = stages
        .flat_map(|stage| &stage.checkpoints)
        .map(|checkpoint| &checkpoint.dir);
    let outside = dirs.filter(|dir| !dir.starts_with(&layout.dir));
    // `<to>/<id>/<stage>/step-<N>`
    let of_job = |dir: &PathBuf| dir.ancestors().nth(2).map(Path::to_path_buf);
    let is_named = |dir: &PathBuf| {
        dir.file_name()
            .is_some_and(|name| name == record.job().0.as_str())
    };
    outside.filter_map(of_job).filter(is_named).collect()
}

/// Whether the file system of such a directory is not there.
fn is_away(dir: &Path) -> bool {
    dir.parent().is_some_and(|to| fs::read_dir(to).is_err())
}

/// Whether a job that has ended has more than its results.
fn has_more(job: &JobId, state_dir: &Path, elsewhere: &[PathBuf]) -> bool {
    let layout = JobLayout::of(state_dir, job);
    let own = DISPOSABLE.iter().map(|name| layout.dir.join(name));
    let is_filled =
        |dir: PathBuf| fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    let has_stages = |dir: &PathBuf| {
        let names = r1d_proto::storage::Storage::list_dirs(&Disk, dir).unwrap_or_default();
        names.iter().any(|name| !name.starts_with(GONE_PREFIX))
    };
    own.into_iter().any(is_filled) || elsewhere.iter().any(has_stages)
}

impl Owners {
    fn of(records: &[Arc<JobRecord>], state_dir: &Path) -> Owners {
        let mut elsewhere = BTreeMap::new();
        for record in records {
            let layout = JobLayout::of(state_dir, record.job());
            for dir in recorded_elsewhere(record, &layout) {
                elsewhere.insert(without_links(&dir), record.job().clone());
            }
        }
        let jobs = without_links(&StateLayout::new(state_dir).jobs());
        Owners { jobs, elsewhere }
    }

    /// The jobs in whose directories the path lies, and whether among their results. There are two
    /// where a job has its checkpoints in another's directory.
    fn of_path(&self, path: &Path) -> Vec<(JobId, bool)> {
        let path = without_links(path);
        let elsewhere = self.elsewhere(&path).map(|job| (job, false));
        elsewhere.into_iter().chain(self.inside(&path)).collect()
    }

    /// The job in whose part of the directory of all jobs the path lies, and whether among its
    /// results.
    fn inside(&self, path: &Path) -> Option<(JobId, bool)> {
        let mut names = path.strip_prefix(&self.jobs).ok()?.components();
        let mut name = || names.next()?.as_os_str().to_str().map(String::from);
        let job = JobId(name()?);
        let is_result = name().is_some_and(|name| RESULTS.contains(&&*name));
        Some((job, is_result))
    }

    /// The job in whose directory outside of the directory of all jobs the path lies.
    fn elsewhere(&self, path: &Path) -> Option<JobId> {
        let mut dirs = path.ancestors();
        dirs.find_map(|dir| self.elsewhere.get(dir)).cloned()
    }
}

/// The path without symbolic links, as far as there is something on it.
pub(crate) fn without_links(path: &Path) -> PathBuf {
    for there in path.ancestors() {
        if let (Ok(real), Ok(rest)) = (fs::canonicalize(there), path.strip_prefix(there)) {
            return if rest.as_os_str().is_empty() {
                real
            } else {
                real.join(rest)
            };
        }
    }
    path.to_path_buf()
}

/// The jobs of this state directory whose files a job file names. Of the directories elsewhere only
/// those of jobs that are being removed count, as they are recorded: every submission asks this,
/// and the file system of another job may hang.
pub fn named_jobs(job_toml: &str, state: &LedgerState, state_dir: &Path) -> BTreeSet<JobId> {
    let elsewhere = state.removals().iter().flat_map(|(job, removal)| {
        let dirs = removal.elsewhere.iter();
        dirs.map(move |dir| (dir.clone(), job.clone()))
    });
    let owners = Owners {
        jobs: without_links(&StateLayout::new(state_dir).jobs()),
        elsewhere: elsewhere.collect(),
    };
    let jobs = |path: PathBuf| {
        let as_named = owners.elsewhere(&path);
        let found = owners.of_path(&path).into_iter().map(|(job, _)| job);
        as_named.into_iter().chain(found)
    };
    paths_of(job_toml).into_iter().flat_map(jobs).collect()
}

/// What a job has in the directories of other jobs: what it reads, as long as it can go on, and
/// what it has left.
fn reads(record: &JobRecord, state_dir: &Path, owners: &Owners) -> Vec<Dependence> {
    let stages = record.progress.stages.iter();
    let checkpoints = stages.flat_map(|stage| &stage.checkpoints);
    let left = checkpoints.map(|checkpoint| checkpoint.dir.clone());
    let mut paths: BTreeSet<PathBuf> = left.chain(record.progress.model.clone()).collect();
    // One that failed or was cancelled can be requeued.
    if record.state() != State::Succeeded {
        paths.extend(paths_of(&record.submission.job_toml));
        let layout = JobLayout::of(state_dir, record.job());
        paths.extend(crate::inputs::recorded(&layout.inputs()));
    }
    let mut needs: Vec<Dependence> = Vec::new();
    let owned = paths.into_iter().flat_map(|path| {
        let owners = owners.of_path(&path).into_iter();
        owners.map(move |owner| (path.clone(), owner))
    });
    for (path, (on, results_suffice)) in owned {
        let is_known = |need: &Dependence| need.on == on && need.results_suffice == results_suffice;
        if on != *record.job() && !needs.iter().any(is_known) {
            let what = Use::File(path);
            needs.push(Dependence {
                on,
                results_suffice,
                what,
            });
        }
    }
    needs
}

/// All absolute paths that a job file holds, whatever they are for.
pub(crate) fn paths_of(job_toml: &str) -> BTreeSet<PathBuf> {
    fn walk(value: &toml::Value, found: &mut BTreeSet<PathBuf>) {
        match value {
            toml::Value::String(text) => {
                let path = text.strip_prefix("file://").unwrap_or(text);
                if path.starts_with('/') {
                    found.insert(PathBuf::from(path));
                }
            }
            toml::Value::Array(values) => values.iter().for_each(|value| walk(value, found)),
            toml::Value::Table(table) => table.values().for_each(|value| walk(value, found)),
            _ => {}
        }
    }
    let mut found = BTreeSet::new();
    if let Ok(table) = job_toml.parse::<toml::Table>() {
        walk(&toml::Value::Table(table), &mut found);
    }
    found
}

/// The jobs that have finished a stage with a key, by index and key.
type Finished<'r> = BTreeMap<(usize, &'r str), Vec<&'r JobRecord>>;

fn finished_stages(records: &[Arc<JobRecord>]) -> Finished<'_> {
    let mut finished = Finished::new();
    for record in records.iter().filter(|record| record.state().is_final()) {
        let stages = record.progress.stages.iter();
        let keyed = stages.zip(&record.reuse.keys).enumerate();
        for (index, (_, key)) in
            keyed.filter(|(_, (stage, key))| stage.state == State::Succeeded && !key.is_empty())
        {
            finished
                .entry((index, key.as_str()))
                .or_default()
                .push(record);
        }
    }
    finished
}

/// The finished stages that a job which has not ended can still take over.
fn reusable(record: &JobRecord, finished: &Finished) -> Vec<Dependence> {
    if record.state().is_final() || !record.reuse.enabled {
        return Vec::new();
    }
    let begun = record.progress.stages.len();
    let wanted = record.reuse.keys.iter().enumerate().skip(begun);
    let offers = wanted.flat_map(|(index, key)| {
        let offers = finished.get(&(index, key.as_str())).into_iter().flatten();
        offers.filter_map(move |other| Some((other, other.progress.stages.get(index)?)))
    });
    let need = |(other, stage): (&&JobRecord, &Arc<r1d_ledger::StageRecord>)| Dependence {
        on: other.job().clone(),
        results_suffice: false,
        what: Use::Stage(stage.name.clone()),
    };
    offers.map(need).collect()
}
