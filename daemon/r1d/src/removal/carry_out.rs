//! Carries removals out: takes jobs off the record, and removes their files on a thread of its own,
//! `removals`, which finishes what an earlier daemon began and keeps r1d.toml's limits.

use super::decide::{Decision, Going, Obstacle, RetentionLimits, Selection, decide};
use super::facts::{elsewhere, gather, named_jobs};
use super::files::{self, Orphans};
use super::sizes::Sizes;
use crate::job_log::JobLog;
use crate::job_writer::JobWriters;
use crate::reading::{Reading, Unwanted};
use crate::status::JobViews;
use crate::tasks;
use r1d_job::daemon::Retention;
use r1d_ledger::{Command, LedgerError, Rejected};
use r1d_proto::control::{KeptJob, RemovalExtent, Removed, RemovedJob, State};
use r1d_proto::ids::JobId;
use r1d_store::{Disk, JobLayout};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

const THREAD: &str = "removals";
/// Time between two looks at what is to go, where nobody asks for one.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Time between two looks at a job's writer that has not ended yet.
const WRITER_AGAIN: Duration = Duration::from_secs(1);
const GB_BYTES: u64 = 1_000_000_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RemovalError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Unwanted(#[from] Unwanted),
    #[error("cannot remove parts of job {job}: {source}")]
    Files { job: JobId, source: std::io::Error },
    #[error(
        "`[retention]` in r1d.toml sets no limit: say `--older-than 30d`, or set one of \
         older_than_days, jobs_max, size_max_gb"
    )]
    NoLimit,
}

/// What may remove jobs, and the thread that removes their files.
#[derive(Clone)]
pub(crate) struct Removals(Arc<Shared>);

struct Shared {
    views: JobViews,
    writers: JobWriters,
    /// The limits of r1d.toml.
    limits: RetentionLimits,
    sizes: Mutex<Sizes>,
    /// Directories that are to be removed and that no record names.
    left_over: Mutex<BTreeSet<PathBuf>>,
    wake: SyncSender<()>,
    /// The time since the Unix epoch and that of the monotonic clock when the daemon started.
    started: (Duration, Duration),
}

/// The limits that the configuration sets; without one, nothing goes.
fn limits(retention: &Retention) -> RetentionLimits {
    let set = |value: u32, unit: u64| (value > 0).then(|| u64::from(value).saturating_mul(unit));
    let is_spared = |state: &State| retention.spare.iter().any(|word| word == state.name());
    RetentionLimits {
        age_max_s: set(retention.older_than_days, 24 * 60 * 60),
        jobs_max: set(retention.jobs_max, 1),
        bytes_max: set(retention.size_max_gb, GB_BYTES),
        keep_final: retention.keep_final,
        spare: State::ALL.into_iter().filter(is_spared).collect(),
        owner: None,
    }
}

fn has_limit(limits: &RetentionLimits) -> bool {
    limits.age_max_s.is_some() || limits.jobs_max.is_some() || limits.bytes_max.is_some()
}

impl Removals {
    /// Finds what an earlier daemon has left in the state directory, and starts the thread. Nothing
    /// new may be begun before.
    pub(crate) fn start(
        views: JobViews,
        writers: JobWriters,
        retention: &Retention,
    ) -> std::io::Result<Removals> {
        let (wake, woken) = sync_channel(1);
        let started = (views.clock.unix(), views.clock.now());
        let orphans = files::orphans(&Disk, &views.ledger.state(), &views.state_dir)?;
        let shared = Shared {
            views,
            writers,
            limits: limits(retention),
            sizes: Mutex::default(),
            left_over: Mutex::new(told(orphans).into_iter().collect()),
            wake,
            started,
        };
        let removals = Removals(Arc::new(shared));
        let own = removals.clone();
        tasks::thread(THREAD, move || own.run(&woken))?;
        Ok(removals)
    }

    fn run(&self, woken: &Receiver<()>) {
        let Shared { views, .. } = &*self.0;
        let elsewhere = files::orphans_elsewhere(&Disk, &views.ledger.state(), &views.state_dir);
        lock(&self.0.left_over).extend(elsewhere);
        let mut failed = BTreeSet::new();
        loop {
            self.remove_left_over(&mut failed);
            self.keep_limits();
            let again = if self.finish() {
                LOOK_AGAIN
            } else {
                WRITER_AGAIN
            };
            if woken.recv_timeout(again) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }

    /// Removes the files of jobs that are off the record. `false` if a writer still writes some.
    fn finish(&self) -> bool {
        let Shared { views, writers, .. } = &*self.0;
        let mut all = true;
        for (job, removal) in views.ledger.state().removals() {
            if writers.is_writing(job) {
                all = false;
                continue;
            }
            let removed = files::remove_job(&Disk, &views.state_dir, job, removal);
            let forgotten = removed.map_err(|error| error.to_string()).and_then(|()| {
                let forget = Command::Forget { job: job.clone() };
                views
                    .ledger
                    .apply(forget)
                    .map_err(|error| error.to_string())
            });
            match forgotten {
                Ok(_) => tracing::info!(thread = THREAD, %job, "its files are removed"),
                Err(error) => tracing::warn!(
                    thread = THREAD, %job,
                    "its files are not all removed, which is tried again: {error}"
                ),
            }
        }
        all
    }

    /// Removes what is left over. What cannot be removed is tried again at the next look; `failed`
    /// holds the directories of which the log says so already.
    fn remove_left_over(&self, failed: &mut BTreeSet<PathBuf>) {
        let dirs = std::mem::take(&mut *lock(&self.0.left_over));
        for dir in dirs {
            match files::remove_dir(&Disk, &dir) {
                Ok(()) => {
                    failed.remove(&dir);
                    tracing::info!(thread = THREAD, "removed {}", dir.display());
                }
                // Only the sync failed. A new job may get a name that is free again.
                Err(_) if dir.try_exists().is_ok_and(|exists| !exists) => {
                    failed.remove(&dir);
                }
                Err(error) => {
                    if failed.insert(dir.clone()) {
                        tracing::warn!(
                            thread = THREAD,
                            "cannot remove {}, which is tried again: {error}",
                            dir.display()
                        );
                    }
                    lock(&self.0.left_over).insert(dir);
                }
            }
        }
    }

    /// Removes what is beyond the limits of r1d.toml.
    fn keep_limits(&self) {
        let limits = &self.0.limits;
        if !has_limit(limits) {
            return;
        }
        let selection = Selection::Beyond(limits.clone());
        match self.carry_out(
            &selection,
            false,
            "r1d.toml's [retention]",
            &Reading::default(),
        ) {
            Ok(removed) if removed.jobs.is_empty() => {}
            Ok(removed) => tracing::info!(
                thread = THREAD,
                "{} jobs are beyond the limits of r1d.toml's [retention]",
                removed.jobs.len()
            ),
            Err(error) => tracing::warn!(thread = THREAD, "[retention] is not kept: {error}"),
        }
    }

    /// Seconds since the Unix epoch. A clock that was set forward since the daemon started makes no
    /// job old.
    fn now_s(&self) -> u64 {
        let ((unix, then), clock) = (self.0.started, &self.0.views.clock);
        let passed = clock.now().saturating_sub(then);
        clock.unix().min(unix + passed).as_secs()
    }

    /// What is meant by a request to prune: jobs that ended so long ago, or what is beyond
    /// r1d.toml's limits. `owner`: the user whose jobs it may be; `None`: everybody's.
    pub(crate) fn beyond(
        &self,
        older_than_s: Option<u64>,
        keep_final: Option<bool>,
        owner: Option<u32>,
    ) -> Result<Selection, RemovalError> {
        let set = &self.0.limits;
        let limits = match older_than_s {
            Some(_) => RetentionLimits {
                age_max_s: older_than_s,
                keep_final: false,
                ..RetentionLimits::default()
            },
            None if has_limit(set) => set.clone(),
            None => return Err(RemovalError::NoLimit),
        };
        let keep_final = keep_final.unwrap_or(limits.keep_final);
        Ok(Selection::Beyond(RetentionLimits {
            keep_final,
            owner,
            ..limits
        }))
    }

    /// Whether something of the job's last attempt is left, or of the opening of its inputs.
    pub(crate) fn is_in_hand(&self, job: &JobId) -> bool {
        let Shared { views, writers, .. } = &*self.0;
        views.live_status.live(job).is_some() || writers.is_writing(job)
    }

    /// Decides what goes of the jobs that are meant; unless it is a dry run, takes it off the
    /// record, `by` somebody, and has the files removed. Blocks.
    pub(crate) fn carry_out(
        &self,
        selection: &Selection,
        dry_run: bool,
        by: &str,
        reading: &Reading,
    ) -> Result<Removed, RemovalError> {
        // What is large is measured before submissions have to wait.
        let decision = self.decide(selection);
        self.measure(&decision, reading)?;
        if dry_run || decision.going.is_empty() {
            return Ok(self.report(&decision, dry_run));
        }
        let gate = self.0.views.removing.write();
        let _gate = gate.unwrap_or_else(PoisonError::into_inner);
        let decision = self.decide(selection);
        let mut report = self.report(&decision, false);
        let mut staying = BTreeSet::new();
        for going in &decision.going {
            let why = if going.needed_by.is_disjoint(&staying) {
                match self.take(going) {
                    Ok(()) => {
                        let (job, extent) = (&going.job, words(going.extent));
                        tracing::info!(%job, "{extent} removed by {by}: {}", going.why);
                        continue;
                    }
                    Err(error) => error.to_string(),
                }
            } else {
                "a job that needs it stays".into()
            };
            staying.insert(going.job.clone());
            report.jobs.retain(|job| job.job != going.job);
            report.kept.push(self.kept(&going.job, why));
        }
        let _ = self.0.wake.try_send(());
        Ok(report)
    }

    fn decide(&self, selection: &Selection) -> Decision {
        let Shared { views, sizes, .. } = &*self.0;
        let counts_bytes =
            matches!(selection, Selection::Beyond(limits) if limits.bytes_max.is_some());
        let mut sizes = lock(sizes);
        let facts = gather(
            &views.ledger.state(),
            &views.state_dir,
            &|job| self.is_in_hand(job),
            counts_bytes.then_some(&mut *sizes),
        );
        decide(&facts, selection, self.now_s())
    }

    fn measure(&self, decision: &Decision, reading: &Reading) -> Result<(), RemovalError> {
        let total = decision.going.len();
        for (done, going) in decision.going.iter().enumerate() {
            reading.at("measuring what goes", done, total)?;
            self.size(going);
        }
        Ok(())
    }

    /// The bytes that become free.
    fn size(&self, going: &Going) -> u64 {
        let Shared { views, sizes, .. } = &*self.0;
        let Some(record) = views.ledger.job(&going.job) else {
            return 0;
        };
        let elsewhere = elsewhere(&record, &views.state_dir);
        let size = lock(sizes).of(&record, &views.state_dir, &elsewhere);
        match going.extent {
            RemovalExtent::Whole => size.all_bytes,
            RemovalExtent::AllButResults => size.more_bytes,
        }
    }

    fn report(&self, decision: &Decision, dry_run: bool) -> Removed {
        let going = |going: &Going| RemovedJob {
            job: going.job.clone(),
            name: self.name(&going.job),
            extent: going.extent,
            bytes: self.size(going),
            why: going.why.to_string(),
        };
        let staying = decision.staying.iter();
        let staying =
            staying.map(|(job, obstacle): (_, &Obstacle)| self.kept(job, obstacle.to_string()));
        Removed {
            dry_run,
            jobs: decision.going.iter().map(going).collect(),
            kept: staying.collect(),
        }
    }

    fn kept(&self, job: &JobId, why: String) -> KeptJob {
        KeptJob {
            job: job.clone(),
            name: self.name(job),
            why,
        }
    }

    fn name(&self, job: &JobId) -> String {
        let record = self.0.views.ledger.job(job);
        record.map_or_else(String::new, |record| record.submission.name.clone())
    }

    /// Takes a job off the record, or what it has besides its results out of sight. When it
    /// returns, a crash undoes nothing of it.
    fn take(&self, going: &Going) -> Result<(), RemovalError> {
        let Shared { views, .. } = &*self.0;
        let job = &going.job;
        let unknown = || LedgerError::from(Rejected::UnknownJob { job: job.clone() });
        let record = views.ledger.job(job).ok_or_else(unknown)?;
        let elsewhere = elsewhere(&record, &views.state_dir);
        match going.extent {
            RemovalExtent::Whole => {
                let job = job.clone();
                views.ledger.apply(Command::Remove { job, elsewhere })?;
            }
            RemovalExtent::AllButResults => {
                let mut aside = Vec::new();
                let put = files::put_aside(&Disk, &views.state_dir, job, &elsewhere, &mut aside);
                lock(&self.0.left_over).extend(aside);
                let failed = |source| RemovalError::Files {
                    job: job.clone(),
                    source,
                };
                put.map_err(failed)?;
                let path = JobLayout::of(&views.state_dir, job).log();
                JobLog::new(path, &job.0, views.clock.clone()).info(format!(
                    "checkpoints, rollouts and journal are removed: {}",
                    going.why
                ));
            }
        }
        lock(&self.0.sizes).forget(job);
        Ok(())
    }
}

/// Whether a job file names files of a job that was removed since they were read. Whoever submits
/// holds [`JobViews::removing`] meanwhile.
pub(crate) fn removed_since(views: &JobViews, job_toml: &str) -> Option<JobId> {
    let state = views.ledger.state();
    let is_gone = |job: &JobId| {
        let dir = JobLayout::of(&views.state_dir, job).dir;
        state.removals().contains_key(job) || (state.job(job).is_none() && !dir.exists())
    };
    let named = named_jobs(job_toml, &state, &views.state_dir);
    named.into_iter().find(is_gone)
}

fn words(extent: RemovalExtent) -> &'static str {
    match extent {
        RemovalExtent::Whole => "the job was",
        RemovalExtent::AllButResults => "its checkpoints, rollouts and journal were",
    }
}

/// Says what is known of nobody, and returns what is to be removed.
fn told(orphans: Orphans) -> Vec<PathBuf> {
    for dir in &orphans.unknown {
        tracing::warn!(
            "{} is of a job that the ledger does not know, and stays: put the ledger back that \
             knows it, or remove the directory",
            dir.display()
        );
    }
    orphans.left_over
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
