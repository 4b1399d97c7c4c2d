//! Carries removals out: decides what goes, and has the node take it off the record, which removes
//! the files by itself. r1d.toml's limits are kept whenever a job has ended or is gone, and now and
//! then: jobs grow old.

use super::clock::{counts_until, newest_believed};
use super::decide::{Decision, Going, Obstacle, RetentionLimits, Selection, decide};
use crate::node::{NodeLink, WorkProgress, unexpected};
use crate::status::StatusViews;
use crate::tasks;
use r1d_job::daemon::Retention;
use r1d_ledger::JobRecord;
use r1d_link::removal::DiskSize;
use r1d_link::{Answer, Work};
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::job::State;
use r1d_proto::control::removal::{KeptJob, RemovalExtent, Removed, RemovedJob};
use r1d_proto::ids::JobId;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{RwLock, RwLockReadGuard};

/// The name of what keeps the limits, in the log.
const TASK: &str = "removals";
/// Time between two looks at what is beyond the limits, where no job ends.
const LOOK_AGAIN: Duration = Duration::from_secs(600);
/// Longest wait for what is left of the last attempts of jobs that have ended. Those of which
/// something is left then stay until the next look.
const PUT_DOWN_MAX: Duration = Duration::from_secs(60);
const GB_BYTES: u64 = 1_000_000_000;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RemovalError {
    #[error("{}", .0.message)]
    NodeLink(ControlError),
    #[error("deciding what goes: {0}")]
    Panic(tokio::task::JoinError),
    #[error(
        "`[retention]` in r1d.toml sets no limit: say `--older-than 30d`, or set one of \
         older_than_days, jobs_max, size_max_gb"
    )]
    NoLimit,
}

impl From<ControlError> for RemovalError {
    fn from(error: ControlError) -> Self {
        RemovalError::NodeLink(error)
    }
}

impl From<RemovalError> for ControlError {
    fn from(error: RemovalError) -> Self {
        match error {
            RemovalError::NodeLink(error) => error,
            RemovalError::NoLimit => ControlError::new(ErrorKind::Invalid, error),
            other => ControlError::new(ErrorKind::Internal, other),
        }
    }
}

/// What may remove jobs.
#[derive(Clone)]
pub(crate) struct Removals(Arc<Shared>);

struct Shared {
    views: StatusViews,
    /// The limits of r1d.toml.
    limits: RetentionLimits,
    /// The time since the Unix epoch and that of the monotonic clock when the daemon started.
    started: (Duration, Duration),
    /// The newest time that was on record then, in seconds since the Unix epoch.
    newest_s: Option<u64>,
    /// Held, alone, while it is decided which jobs go and they are taken off the record; shared,
    /// while a job is queued that may need others.
    removing: RwLock<()>,
}

/// The limits that the configuration sets; without one, nothing goes.
fn limits(retention: &Retention) -> RetentionLimits {
    let set = |value: u32, unit: u64| (value > 0).then(|| u64::from(value).saturating_mul(unit));
    let is_spared = |state: &State| retention.spare.iter().any(|word| word == state.name());
    RetentionLimits {
        age_max_s: set(retention.older_than_days, 24 * 60 * 60),
        age_until_s: None,
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
    /// Begins to keep the limits of r1d.toml.
    pub(crate) fn start(views: StatusViews, retention: &Retention) -> Removals {
        let removals = Removals(Arc::new(Shared {
            started: (views.clock.unix(), views.clock.now()),
            newest_s: newest_believed(times(&views.ledger.jobs())),
            views,
            limits: limits(retention),
            removing: RwLock::default(),
        }));
        if has_limit(&removals.0.limits) {
            tasks::spawn(TASK, removals.clone().look_again_and_again());
        }
        removals
    }

    fn node(&self) -> &NodeLink {
        &self.0.views.node
    }

    /// Keeps every job that is on record now until the guard is dropped.
    pub(crate) async fn none_meanwhile(&self) -> RwLockReadGuard<'_, ()> {
        self.0.removing.read().await
    }

    /// Keeps the limits of r1d.toml as long as the daemon lives. Jobs that end while one look is
    /// under way have the next one together.
    async fn look_again_and_again(self) {
        let mut is_told = false;
        let mut changes = self.0.views.ledger.queue_changes();
        loop {
            changes.mark_unchanged();
            let ended = self.ended();
            self.put_down(ended.clone()).await;
            self.keep_limits(&mut is_told).await;
            let others = async {
                while self.ended() == ended {
                    // The counter lives as long as the ledger.
                    let _ = changes.changed().await;
                }
            };
            // Nothing has ended within this time: that is no error.
            let _ = tokio::time::timeout(LOOK_AGAIN, others).await;
        }
    }

    /// The jobs that have ended.
    fn ended(&self) -> BTreeSet<JobId> {
        let jobs = self.0.views.ledger.jobs();
        let ended = jobs.iter().filter(|record| record.state().is_final());
        ended.map(|record| record.job().clone()).collect()
    }

    /// Waits until nothing is left of the last attempts of jobs that have ended.
    async fn put_down(&self, jobs: BTreeSet<JobId>) {
        let put_down = self.node().ask(Work::PutDown { jobs });
        match tokio::time::timeout(PUT_DOWN_MAX, put_down).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(task = TASK, "{}", error.message),
            Err(_) => tracing::info!(
                task = TASK,
                "something of a job that has ended is left after {} s",
                PUT_DOWN_MAX.as_secs()
            ),
        }
    }

    /// Removes what is beyond the limits of r1d.toml. Nobody looks at the clock meanwhile, so it is
    /// believed only as far as what is on record goes; `is_told` once the log says so.
    async fn keep_limits(&self, is_told: &mut bool) {
        let limits = RetentionLimits {
            age_until_s: self.age_until_s(is_told),
            ..self.0.limits.clone()
        };
        let selection = Selection::Beyond(limits);
        let by = "r1d.toml's [retention]";
        let progress = WorkProgress::default();
        match self.carry_out(&selection, false, by, &progress).await {
            Ok(removed) if removed.jobs.is_empty() => {}
            Ok(removed) => tracing::info!(
                task = TASK,
                "{} jobs are beyond the limits of r1d.toml's [retention]",
                removed.jobs.len()
            ),
            Err(error) => tracing::warn!(task = TASK, "[retention] is not kept: {error}"),
        }
    }

    /// Seconds since the Unix epoch. A clock that was set forward since the daemon started makes no
    /// job old.
    fn now_s(&self) -> u64 {
        let ((unix, then), clock) = (self.0.started, &self.0.views.clock);
        let passed = clock.now().saturating_sub(then);
        clock.unix().min(unix + passed).as_secs()
    }

    /// The latest time up to which ages count, if the clock is beyond it.
    fn age_until_s(&self, is_told: &mut bool) -> Option<u64> {
        let up = self.0.views.clock.now().saturating_sub(self.0.started.1);
        let until_s = counts_until(self.0.newest_s, up.as_secs())?;
        let ahead_s = self
            .now_s()
            .checked_sub(until_s)
            .filter(|ahead| *ahead > 0)?;
        if self.0.limits.age_max_s.is_some() && !std::mem::replace(is_told, true) {
            tracing::warn!(
                task = TASK,
                "the clock is {} days ahead of the newest time on record: set it if it is wrong; \
                 older_than_days of [retention] counts no further until the daemon has been up \
                 for a day",
                ahead_s / (24 * 60 * 60) + 1
            );
        }
        Some(until_s)
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
                keep_final: set.keep_final,
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

    /// Decides what goes of the jobs that are meant; unless it is a dry run, has it taken off the
    /// record, `by` somebody, and the files removed.
    pub(crate) async fn carry_out(
        &self,
        selection: &Selection,
        dry_run: bool,
        by: &str,
        progress: &WorkProgress,
    ) -> Result<Removed, RemovalError> {
        // What is large is measured before submissions have to wait.
        let decision = self.decide(selection).await?;
        for (done, going) in decision.going.iter().enumerate() {
            progress.at("measuring what goes", done, decision.going.len());
            self.size(going).await?;
        }
        if dry_run || decision.going.is_empty() {
            return self.report(&decision, dry_run).await;
        }
        let _alone = self.0.removing.write().await;
        let decision = self.decide(selection).await?;
        let mut report = self.report(&decision, false).await?;
        let mut staying = BTreeSet::new();
        for going in &decision.going {
            let why = if going.needed_by.is_disjoint(&staying) {
                match self.take(going).await {
                    Ok(()) => {
                        let (job, extent) = (&going.job, words(going.extent));
                        tracing::info!(%job, "{extent} removed by {by}: {}", going.why);
                        continue;
                    }
                    Err(error) => error.message,
                }
            } else {
                "a job that needs it stays".into()
            };
            staying.insert(going.job.clone());
            report.jobs.retain(|job| job.job != going.job);
            report.kept.push(self.kept(&going.job, why));
        }
        Ok(report)
    }

    async fn decide(&self, selection: &Selection) -> Result<Decision, RemovalError> {
        let counts_bytes =
            matches!(selection, Selection::Beyond(limits) if limits.bytes_max.is_some());
        let facts = match self.node().ask(Work::RemovalFacts { counts_bytes }).await? {
            Answer::Facts(facts) => facts,
            other => return Err(unexpected(&other).into()),
        };
        let (selection, now_s) = (selection.clone(), self.now_s());
        let decided = tasks::blocking(move || decide(&facts, &selection, now_s));
        decided.await.map_err(RemovalError::Panic)
    }

    /// The bytes that become free.
    async fn size(&self, going: &Going) -> Result<u64, ControlError> {
        let job = going.job.clone();
        let DiskSize {
            all_bytes,
            more_bytes,
        } = match self.node().ask(Work::Measure { job }).await? {
            Answer::Size(size) => size,
            other => return Err(unexpected(&other)),
        };
        Ok(match going.extent {
            RemovalExtent::Whole => all_bytes,
            RemovalExtent::AllButResults => more_bytes,
        })
    }

    async fn report(&self, decision: &Decision, dry_run: bool) -> Result<Removed, RemovalError> {
        let mut jobs = Vec::new();
        for going in &decision.going {
            jobs.push(RemovedJob {
                job: going.job.clone(),
                name: self.name(&going.job),
                extent: going.extent,
                bytes: self.size(going).await?,
                why: going.why.to_string(),
            });
        }
        let staying = decision.staying.iter();
        let staying =
            staying.map(|(job, obstacle): (_, &Obstacle)| self.kept(job, obstacle.to_string()));
        Ok(Removed {
            dry_run,
            jobs,
            kept: staying.collect(),
        })
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

    /// Has the node take a job off the record, or what it has besides its results out of sight.
    async fn take(&self, going: &Going) -> Result<(), ControlError> {
        let work = Work::Remove {
            job: going.job.clone(),
            extent: going.extent,
            why: going.why.to_string(),
        };
        self.node().ask(work).await.map(drop)
    }
}

/// The times on record of jobs.
fn times(jobs: &[Arc<JobRecord>]) -> Vec<u64> {
    let of = |job: &Arc<JobRecord>| {
        let progress = &job.progress;
        let submitted = Some(job.submission.submitted_at);
        [submitted, progress.started_at, progress.ended_at]
    };
    jobs.iter().flat_map(of).flatten().collect()
}

fn words(extent: RemovalExtent) -> &'static str {
    match extent {
        RemovalExtent::Whole => "the job was",
        RemovalExtent::AllButResults => "its checkpoints, rollouts and journal were",
    }
}
