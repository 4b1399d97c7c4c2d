//! The record of jobs as a state machine: `(state, command) → (state, effect)`, or a refusal that
//! changes nothing.
//!
//! ```text
//!            Submit          Start                     Finish
//!   (none) ─────────▶ Queued ───────▶ Running ─────────────────▶ Succeeded, Failed, Cancelled
//!                        │            │ ▲  │ BeginStage 0, CommitStep 0 … steps−1, FinishStage, …
//!                        │            └─┘ Start: epoch + 1
//!                        └──── Cancel ───┴────────────────────────▶ Cancelled
//! ```
//!
//! Users keep a job out of the queue with Pause and put it back with Resume. Requeue puts one that
//! runs, failed or was cancelled at the queue's end. Remove takes one that has ended off the
//! record.
//! The epoch alone is the fence: the attempt of a job that was paused or requeued may record the
//! step that it finishes, until another attempt starts.
//!
//! `STEP-1` lives here: a step number is committed at most once, by the job's current epoch, in
//! order; again only after the stage went back before it (`GoBack`), which forgets what it left.

use crate::answers::{Answered, Answers, AnswersChange, digest};
use crate::command::{Command, CommandId, Effect, Rejected};
use crate::record::{
    CheckpointRecord, JobRecord, Pause, Progress, Removal, Reuse, RewardVersion, StageRecord,
    Standing, Strikes, Submission, User,
};
use r1d_proto::control::{EvalResult, State as RunState};
use r1d_proto::ids::{JOB_ID_MAX_BYTES, JobId};
use r1d_proto::worker::Metrics;
use rpds::{RedBlackTreeMapSync, RedBlackTreeSetSync};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Longest name of a job or stage, in bytes.
pub const NAME_MAX_BYTES: usize = 1 << 10;
/// Longest job file with its defaults filled in, in bytes.
pub const JOB_TOML_MAX_BYTES: usize = 1 << 20;
/// Longest id that a client gives a submission, in bytes.
pub const SUBMISSION_ID_MAX_BYTES: usize = 64;
/// Longest name of a user, in bytes.
pub const USER_MAX_BYTES: usize = 256;
/// Most directories of one job outside of the state directory.
pub const ELSEWHERE_MAX: usize = 16;
/// Most jobs that have not ended.
pub const JOBS_LIVE_MAX: usize = 10_000;
/// Most bytes of the job files of jobs that have not ended, together.
pub const JOBS_LIVE_MAX_BYTES: usize = 256 << 20;
/// Longest error text of a job, in bytes. Longer ones are cut, not refused: a job must always be
/// able to end.
pub const ERROR_MAX_BYTES: usize = 16 << 10;
/// Most names in one step's metrics.
pub const METRICS_MAX_NAMES: usize = 4096;
/// Most outcomes of evaluations of one job.
pub const EVALS_MAX: usize = 10_000;
/// Most checkpoints on record of one stage.
pub const CHECKPOINTS_MAX: usize = 10_000;
/// Most stages of one job.
pub const STAGES_MAX: usize = 1000;
/// Most reward versions of one job: the plugins that it began with, and hot reloads.
pub const REWARD_VERSIONS_MAX: usize = 10_000;
/// Longest name or path of a plugin, in bytes.
pub const REWARD_VERSION_MAX_BYTES: usize = 4 << 10;

/// All jobs. The maps are persistent: a copy shares all that it has in common with its original, so
/// a reader's copy costs a few pointers, and a command copies the path to what it changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The record of each job, by [`Submission::sequence`].
    records: RedBlackTreeMapSync<u64, Arc<JobRecord>>,
    /// The sequence number of each job.
    ids: RedBlackTreeMapSync<JobId, u64>,
    /// The job of each submission that has an id of its client's.
    requests: RedBlackTreeMapSync<String, JobId>,
    /// The jobs that have not ended.
    live: Live,
    /// Removed jobs whose files are not gone yet.
    removals: Arc<BTreeMap<JobId, Removal>>,
    /// The next place in the queue: grows with each submission and each requeued job.
    submitted: u64,
    /// What the newest commands did.
    answers: Answers,
}

/// An index of the jobs that have not ended: what their records say, in the order of a question.
#[derive(Clone, Debug, Default, PartialEq)]
struct Live {
    /// The queued jobs, in the order in which they are to run, with their sequence numbers.
    queued: RedBlackTreeMapSync<Turn, u64>,
    /// Sequence numbers of the running jobs.
    running: RedBlackTreeSetSync<u64>,
    /// Number of all jobs that have not ended, the paused ones included.
    jobs: usize,
    /// Bytes of their files.
    text_bytes: usize,
}

/// A queued job's turn: highest priority first, within it first come, first served.
type Turn = (Reverse<i32>, u64);

impl Live {
    /// Takes what the index has of a job's record before a command out, and puts in what it has to
    /// have of the record behind it; `None`: there is no such job.
    fn update(&mut self, before: Option<&JobRecord>, now: Option<&JobRecord>) {
        let entry =
            |record: Option<&JobRecord>| record.map(|record| (record.state(), turn(record)));
        if entry(before) == entry(now) {
            return;
        }
        if let Some(record) = before.filter(|record| !record.state().is_final()) {
            self.queued.remove_mut(&turn(record));
            self.running.remove_mut(&record.submission.sequence);
            self.jobs -= 1;
            self.text_bytes -= record.submission.job_toml.len();
        }
        if let Some(record) = now.filter(|record| !record.state().is_final()) {
            let sequence = record.submission.sequence;
            match record.state() {
                RunState::Queued => self.queued.insert_mut(turn(record), sequence),
                RunState::Running => self.running.insert_mut(sequence),
                _ => {}
            }
            self.jobs += 1;
            self.text_bytes += record.submission.job_toml.len();
        }
    }
}

fn turn(record: &JobRecord) -> Turn {
    (Reverse(record.submission.priority), record.place())
}

/// Why a prefix does not name one job.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No job's id begins with the prefix.
    #[error("no job's id starts with `{prefix}`: see `r1ctl list`")]
    NotFound {
        /// The prefix.
        prefix: String,
    },
    /// Several jobs' ids begin with the prefix: type more of it.
    #[error("`{prefix}` is short for {} jobs, among them {}: type more of it", .jobs.len(),
        first_few(.jobs))]
    Ambiguous {
        /// The prefix.
        prefix: String,
        /// The jobs, sorted by id.
        jobs: Vec<JobId>,
    },
}

fn first_few(jobs: &[JobId]) -> String {
    jobs.iter()
        .take(3)
        .map(|job| job.0.as_str())
        .collect::<Vec<_>>()
        .join(", ")
}

type Answer = Result<Effect, Rejected>;

impl State {
    /// Makes the state that holds these records and removals.
    pub fn from_records(
        records: impl IntoIterator<Item = JobRecord>,
        removals: BTreeMap<JobId, Removal>,
    ) -> State {
        let mut state = State {
            removals: Arc::new(removals),
            ..State::default()
        };
        for record in records {
            state.live.update(None, Some(&record));
            state.submitted = state.submitted.max(record.place() + 1);
            state.insert(record);
        }
        state
    }

    /// The state with what is remembered of commands.
    pub(crate) fn with_answers(self, answers: Answers) -> State {
        State { answers, ..self }
    }

    /// Adds a job, to all but the index of live jobs.
    fn insert(&mut self, record: JobRecord) {
        let sequence = record.submission.sequence;
        self.ids.insert_mut(record.job().clone(), sequence);
        if let Some(request) = record.request.clone() {
            self.requests.insert_mut(request, record.job().clone());
        }
        self.records.insert_mut(sequence, Arc::new(record));
        self.submitted = self.submitted.max(sequence + 1);
    }

    /// Carries out one command. A refused one leaves the state as it was.
    pub fn apply(&mut self, command: &Command) -> Answer {
        let mut next = self.clone();
        let effect = next.carry_out(command)?;
        let job = command.job();
        next.live.update(
            self.job(job).map(Arc::as_ref),
            next.job(job).cloned().as_deref(),
        );
        *self = next;
        Ok(effect)
    }

    /// Carries out a command once under its id; `None`: it was carried out before, and that is what
    /// it did. A refused command leaves the state as it was.
    pub(crate) fn apply_once(
        &mut self,
        id: CommandId,
        command: &Command,
    ) -> Result<(Effect, Option<AnswersChange>), Rejected> {
        let digest = digest(command);
        if let Some(effect) = self.answers.find(id, &digest)? {
            return Ok((effect, None));
        }
        let effect = self.apply(command)?;
        let answered = Answered {
            digest,
            effect: Some(effect.clone()),
        };
        Ok((effect, Some(self.answers.remember(id, answered))))
    }

    /// A number for a session that begins at `unix_ns`, in nanoseconds since the Unix epoch: higher
    /// than all before, whatever the clock says.
    pub fn next_session(&self, unix_ns: u64) -> u64 {
        unix_ns.max(self.answers.newest_session().saturating_add(1))
    }

    /// Carries out one command on a copy, whose index of live jobs is as before.
    fn carry_out(&mut self, command: &Command) -> Answer {
        match command {
            Command::Submit { .. } => self.submit(command),
            Command::TakeUp { job } => {
                self.live(job)?.strikes.taken_up = true;
                Ok(Effect::TakenUp)
            }
            Command::PutDown { job } => {
                self.live(job)?.strikes.taken_up = false;
                Ok(Effect::PutDown)
            }
            Command::Strike { job } => {
                let strikes = &mut self.live(job)?.strikes;
                // The job is not to blame for a second daemon that ends before it takes the job up.
                *strikes = Strikes {
                    taken_up: false,
                    count: strikes.count.saturating_add(strikes.taken_up as u32),
                };
                Ok(Effect::Struck {
                    count: strikes.count,
                })
            }
            Command::Start { job, at } => self.start(job, *at),
            Command::BeginStage {
                job,
                epoch,
                stage,
                name,
                kind,
                steps,
                at,
            } => begin_stage(self.fenced(job, *epoch)?, *stage, name, kind, *steps, *at),
            Command::CommitStep {
                job,
                epoch,
                stage,
                step,
                metrics,
            } => forgiving(self.fenced(job, *epoch)?, |record| {
                commit_step(record, *stage, *step, metrics)
            }),
            Command::Checkpoint {
                job,
                epoch,
                stage,
                step,
                dir,
                manifest_sha256,
            } => {
                let checkpoint = CheckpointRecord {
                    step: *step,
                    dir: dir.clone(),
                    manifest_sha256: manifest_sha256.clone(),
                };
                forgiving(self.fenced(job, *epoch)?, |record| {
                    add_checkpoint(record, *stage, checkpoint)
                })
            }
            Command::DropCheckpoint {
                job,
                epoch,
                stage,
                step,
            } => drop_checkpoint(self.fenced(job, *epoch)?, *stage, *step),
            Command::GoBack {
                job,
                epoch,
                stage,
                step,
                metrics,
            } => go_back(self.fenced(job, *epoch)?, *stage, *step, metrics),
            Command::Eval { job, epoch, result } => {
                forgiving(self.fenced(job, *epoch)?, |record| add_eval(record, result))
            }
            Command::FinishStage {
                job,
                epoch,
                stage,
                at,
            } => forgiving(self.fenced(job, *epoch)?, |record| {
                finish_stage(record, *stage, *at)
            }),
            Command::Finish {
                job,
                epoch,
                state,
                error,
                model,
                at,
            } => finish(
                self.of_epoch(job, *epoch)?,
                *state,
                error.clone(),
                model.clone(),
                *at,
            ),
            Command::SetRewardVersion {
                job,
                plugin,
                sha256,
                stage,
                step,
                at,
            } => {
                let reward_version = RewardVersion {
                    plugin: plugin.clone(),
                    sha256: sha256.clone(),
                    stage: *stage,
                    step: *step,
                    at: *at,
                };
                set_reward_version(self.live(job)?, reward_version)
            }
            Command::ReuseStage {
                job,
                epoch,
                of,
                stage,
                record,
                metrics,
                evals,
            } => reuse_stage(
                self.of_epoch(job, *epoch)?,
                of,
                *stage,
                record,
                metrics.len(),
                evals,
            ),
            Command::Cancel { job, at } => self.cancel(job, *at),
            Command::Pause { job, by, at } => self.pause(job, by, *at),
            Command::Resume { job } => self.resume(job),
            Command::Requeue { job } => self.requeue(job),
            Command::Remove { job, elsewhere } => self.remove(job, elsewhere),
            Command::Forget { job } => match Arc::make_mut(&mut self.removals).remove(job) {
                Some(_) => Ok(Effect::Forgotten),
                None => Err(Rejected::UnknownJob { job: job.clone() }),
            },
        }
    }

    /// The job of this id.
    pub fn job(&self, job: &JobId) -> Option<&Arc<JobRecord>> {
        self.records.get(self.ids.get(job)?)
    }

    /// Number of jobs, those that have ended included.
    pub fn len(&self) -> usize {
        self.records.size()
    }

    /// Whether no job was ever submitted.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All jobs, in order of submission.
    pub fn jobs(&self) -> Vec<Arc<JobRecord>> {
        self.records.values().cloned().collect()
    }

    /// The running jobs, in order of submission.
    pub fn running(&self) -> Vec<Arc<JobRecord>> {
        let running = self.live.running.iter();
        running
            .filter_map(|sequence| self.records.get(sequence).cloned())
            .collect()
    }

    /// The queued jobs in the order in which they are to run: highest priority first, within it
    /// first come, first served. Who wants the next job takes no more than that.
    pub fn queued(&self) -> impl Iterator<Item = &Arc<JobRecord>> {
        let queued = self.live.queued.values();
        queued.filter_map(|sequence| self.records.get(sequence))
    }

    /// All of [`State::queued`].
    pub fn queue(&self) -> Vec<Arc<JobRecord>> {
        self.queued().cloned().collect()
    }

    /// Finds the job that `prefix` is short for; a whole id names its job even if longer ids begin
    /// with it.
    pub fn find(&self, prefix: &str) -> Result<JobId, FindError> {
        let start = JobId(prefix.to_string());
        if self.ids.contains_key(&start) {
            return Ok(start);
        }
        let mut jobs: Vec<JobId> = self
            .ids
            .range(start..)
            .map(|(id, _)| id)
            .take_while(|id| id.0.starts_with(prefix))
            .cloned()
            .collect();
        match (prefix.is_empty(), jobs.len()) {
            (false, 1) => Ok(jobs.remove(0)),
            (false, 2..) => Err(FindError::Ambiguous {
                prefix: prefix.to_string(),
                jobs,
            }),
            _ => Err(FindError::NotFound {
                prefix: prefix.to_string(),
            }),
        }
    }

    /// The job of the submission that has this id of its client's.
    pub fn of_request(&self, request: &str) -> Option<&Arc<JobRecord>> {
        self.job(self.requests.get(request)?)
    }

    /// The removed jobs whose files are not gone yet.
    pub fn removals(&self) -> &BTreeMap<JobId, Removal> {
        &self.removals
    }

    fn submit(&mut self, command: &Command) -> Answer {
        let Command::Submit {
            job,
            name,
            priority,
            job_toml,
            request,
            reward_versions,
            keys,
            reuses,
            owner,
            held,
            at,
        } = command
        else {
            return Err(Rejected::UnknownJob {
                job: command.job().clone(),
            });
        };
        let well_formed = job
            .0
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        if !well_formed || job.0.is_empty() || job.0.len() > JOB_ID_MAX_BYTES {
            return Err(Rejected::InvalidJobId { job: job.clone() });
        }
        if let Some(known) = request
            .as_ref()
            .and_then(|request| self.requests.get(request))
        {
            return Err(Rejected::SubmittedBefore { job: known.clone() });
        }
        if self.ids.contains_key(job) {
            return Err(Rejected::DuplicateJob { job: job.clone() });
        }
        if self.removals.contains_key(job) {
            return Err(Rejected::BeingRemoved { job: job.clone() });
        }
        user_within(job, owner)?;
        within(
            job,
            "the name's length in bytes",
            name.len(),
            NAME_MAX_BYTES,
        )?;
        within(
            job,
            "the job file's length in bytes",
            job_toml.len(),
            JOB_TOML_MAX_BYTES,
        )?;
        within(
            job,
            "the submission id's length in bytes",
            request.as_ref().map_or(0, String::len),
            SUBMISSION_ID_MAX_BYTES,
        )?;
        within(job, "the number of stages", keys.len(), STAGES_MAX)?;
        keys.iter()
            .try_for_each(|key| within(job, "a key's length", key.len(), 64))?;
        self.has_room_for(job_toml.len())?;
        let submission = Submission {
            job: job.clone(),
            name: name.clone(),
            priority: *priority,
            job_toml: job_toml.clone(),
            submitted_at: *at,
            sequence: self.submitted,
        };
        let pause = held.then(|| Pause {
            by: owner.clone(),
            at: *at,
        });
        let progress = Progress {
            state: if *held {
                RunState::Paused
            } else {
                RunState::Queued
            },
            epoch: 0,
            started_at: None,
            ended_at: None,
            stages: Vec::new(),
            error: None,
            model: None,
        };
        let reuse = Reuse {
            keys: keys.clone(),
            enabled: *reuses,
            taken: BTreeMap::new(),
        };
        let (evals, request) = (Arc::default(), request.clone());
        let mut record = JobRecord {
            submission: Arc::new(submission),
            progress,
            evals,
            reward_versions: Arc::default(),
            reuse: Arc::new(reuse),
            request,
            strikes: Strikes::default(),
            owner: owner.clone(),
            standing: Standing {
                pause,
                ..Standing::default()
            },
        };
        for (plugin, sha256) in reward_versions {
            let reward_version = RewardVersion {
                plugin: plugin.clone(),
                sha256: sha256.clone(),
                stage: 0,
                step: 0,
                at: *at,
            };
            set_reward_version(&mut record, reward_version)?;
        }
        self.insert(record);
        Ok(Effect::Submitted)
    }

    fn has_room_for(&self, text_bytes: usize) -> Result<(), Rejected> {
        let full = |what, found: usize, limit: usize| Rejected::QueueFull {
            what,
            found: found as u64,
            limit: limit as u64,
        };
        let jobs = self.live.jobs;
        if jobs >= JOBS_LIVE_MAX {
            return Err(full("jobs", jobs, JOBS_LIVE_MAX));
        }
        let bytes = self.live.text_bytes;
        if bytes + text_bytes > JOBS_LIVE_MAX_BYTES {
            return Err(full("bytes of job files", bytes, JOBS_LIVE_MAX_BYTES));
        }
        Ok(())
    }

    fn start(&mut self, job: &JobId, at: u64) -> Answer {
        let record = self.live(job)?;
        let progress = &mut record.progress;
        match progress.state {
            RunState::Paused => return Err(Rejected::Paused { job: job.clone() }),
            RunState::Queued if progress.epoch > 0 => record.standing.resumptions += 1,
            _ => {}
        }
        progress.state = RunState::Running;
        progress.epoch += 1;
        progress.started_at.get_or_insert(at);
        Ok(Effect::Started {
            epoch: progress.epoch,
            restarts: record.restarts(),
        })
    }

    fn cancel(&mut self, job: &JobId, at: u64) -> Answer {
        let record = self.live(job)?;
        let was = record.state();
        end(record, RunState::Cancelled, at);
        Ok(Effect::Cancelled { was })
    }

    fn pause(&mut self, job: &JobId, by: &Option<User>, at: u64) -> Answer {
        user_within(job, by)?;
        let record = self.live(job)?;
        let was = record.state();
        if was == RunState::Paused {
            return Err(Rejected::Paused { job: job.clone() });
        }
        record.progress.state = RunState::Paused;
        record.standing.pause = Some(Pause { by: by.clone(), at });
        Ok(Effect::Paused { was })
    }

    fn resume(&mut self, job: &JobId) -> Answer {
        let state = self.known(job)?.state();
        if state != RunState::Paused {
            let job = job.clone();
            return Err(Rejected::NotPaused { job, state });
        }
        let record = self.any(job)?;
        record.progress.state = RunState::Queued;
        record.standing.pause = None;
        Ok(Effect::Resumed)
    }

    fn requeue(&mut self, job: &JobId) -> Answer {
        let known = self.known(job)?;
        let was = known.state();
        match was {
            RunState::Running => {}
            RunState::Failed | RunState::Cancelled => {
                self.has_room_for(known.submission.job_toml.len())?
            }
            state => {
                let job = job.clone();
                return Err(Rejected::CannotRequeue { job, state });
            }
        }
        let place = self.submitted;
        let record = self.any(job)?;
        take_back_end(record);
        record.progress.state = RunState::Queued;
        record.standing.place = Some(place);
        record.strikes.count = 0;
        self.submitted += 1;
        Ok(Effect::Requeued { was })
    }

    fn remove(&mut self, job: &JobId, elsewhere: &[PathBuf]) -> Answer {
        let state = self.known(job)?.state();
        if !state.is_final() {
            let job = job.clone();
            return Err(Rejected::NotEnded { job, state });
        }
        let what = "the number of directories outside of the state directory";
        within(job, what, elsewhere.len(), ELSEWHERE_MAX)?;
        let gone = self.known(job)?.clone();
        if let Some(request) = &gone.request {
            self.requests.remove_mut(request);
        }
        self.records.remove_mut(&gone.submission.sequence);
        self.ids.remove_mut(job);
        let elsewhere = elsewhere.to_vec();
        Arc::make_mut(&mut self.removals).insert(job.clone(), Removal { elsewhere });
        Ok(Effect::Removed)
    }

    fn known(&self, job: &JobId) -> Result<&Arc<JobRecord>, Rejected> {
        let unknown = || Rejected::UnknownJob { job: job.clone() };
        self.job(job).ok_or_else(unknown)
    }

    /// The record of a job, ended or not, to be changed.
    fn any(&mut self, job: &JobId) -> Result<&mut JobRecord, Rejected> {
        let unknown = || Rejected::UnknownJob { job: job.clone() };
        let sequence = *self.ids.get(job).ok_or_else(unknown)?;
        let record = self.records.get_mut(&sequence);
        record.map(Arc::make_mut).ok_or_else(unknown)
    }

    /// The record of a job that has not ended.
    fn live(&mut self, job: &JobId) -> Result<&mut JobRecord, Rejected> {
        let state = self.known(job)?.state();
        if state.is_final() {
            let job = job.clone();
            return Err(Rejected::Ended { job, state });
        }
        self.any(job)
    }

    /// The record of a job that was started and whose newest epoch is `epoch`. It may be paused or
    /// queued again: its attempt finishes a step.
    fn fenced(&mut self, job: &JobId, epoch: u64) -> Result<&mut JobRecord, Rejected> {
        let record = self.of_epoch(job, epoch)?;
        match epoch {
            0 => Err(Rejected::NotStarted { job: job.clone() }),
            _ => Ok(record),
        }
    }

    /// The record of a job that has not ended and whose newest epoch is `epoch`: 0 until it is
    /// started.
    fn of_epoch(&mut self, job: &JobId, epoch: u64) -> Result<&mut JobRecord, Rejected> {
        let record = self.live(job)?;
        let current = record.progress.epoch;
        if epoch != current {
            return Err(Rejected::StaleEpoch {
                job: job.clone(),
                found: epoch,
                current,
            });
        }
        Ok(record)
    }
}

/// Carries out a change of a job and forgets its strikes if it succeeds: what is committed shows
/// that the daemon survives the job.
fn forgiving(record: &mut JobRecord, change: impl FnOnce(&mut JobRecord) -> Answer) -> Answer {
    let effect = change(record)?;
    record.strikes.count = 0;
    Ok(effect)
}

fn within(job: &JobId, what: &str, found: usize, limit: usize) -> Result<(), Rejected> {
    if found > limit {
        return Err(Rejected::OverLimit {
            job: job.clone(),
            what: what.to_string(),
            found: found as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

fn user_within(job: &JobId, user: &Option<User>) -> Result<(), Rejected> {
    let length = user.as_ref().map_or(0, |user| user.name.len());
    within(
        job,
        "the length in bytes of a user's name",
        length,
        USER_MAX_BYTES,
    )
}

fn wrong_stage(record: &JobRecord, stage: u32) -> Rejected {
    let stages = &record.progress.stages;
    let finished = stages
        .iter()
        .filter(|stage| stage.state == RunState::Succeeded)
        .count() as u32;
    Rejected::WrongStage {
        job: record.job().clone(),
        stage,
        begun: stages.len() as u32,
        finished,
    }
}

/// The stage at work, if it is `stage`.
fn at_work(record: &mut JobRecord, stage: u32) -> Result<&mut StageRecord, Rejected> {
    if record.stage_at_work().map(|(index, _)| index) != Some(stage) {
        return Err(wrong_stage(record, stage));
    }
    let refusal = wrong_stage(record, stage);
    let current = record.progress.stages.get_mut(stage as usize);
    current.map(Arc::make_mut).ok_or(refusal)
}

fn begin_stage(
    record: &mut JobRecord,
    stage: u32,
    name: &str,
    kind: &str,
    steps: u64,
    at: u64,
) -> Answer {
    let job = record.job().clone();
    if let Some((index, current)) = record.stage_at_work() {
        if index != stage {
            return Err(wrong_stage(record, stage));
        }
        let describe =
            |name: &str, kind: &str, steps: u64| format!("`{name}` ({kind}, {steps} steps)");
        let (began, now) = (
            describe(&current.name, &current.kind, current.steps),
            describe(name, kind, steps),
        );
        if began != now {
            return Err(Rejected::StageChanged {
                job,
                stage,
                began,
                now,
            });
        }
        return Ok(Effect::StageBegun {
            step: current.step,
            durable_step: current.durable_step(),
        });
    }
    if record.progress.stages.len() != stage as usize {
        return Err(wrong_stage(record, stage));
    }
    within(&job, "the number of stages", stage as usize + 1, STAGES_MAX)?;
    within(
        &job,
        "the stage name's length in bytes",
        name.len(),
        NAME_MAX_BYTES,
    )?;
    within(
        &job,
        "the stage kind's length in bytes",
        kind.len(),
        NAME_MAX_BYTES,
    )?;
    record.progress.stages.push(Arc::new(StageRecord {
        name: name.to_string(),
        kind: kind.to_string(),
        state: RunState::Running,
        steps,
        step: 0,
        checkpoints: Vec::new(),
        begun_at: at,
        ended_at: None,
        metrics: Metrics::new(),
    }));
    Ok(Effect::StageBegun {
        step: 0,
        durable_step: 0,
    })
}

fn commit_step(record: &mut JobRecord, stage: u32, step: u64, metrics: &Metrics) -> Answer {
    let job = record.job().clone();
    within(
        &job,
        "the number of metrics",
        metrics.len(),
        METRICS_MAX_NAMES,
    )?;
    let current = at_work(record, stage)?;
    if step != current.step || step >= current.steps {
        return Err(Rejected::WrongStep {
            job,
            stage,
            step,
            committed: current.step,
            steps: current.steps,
        });
    }
    current.step += 1;
    current.metrics = metrics.clone();
    Ok(Effect::StepCommitted { step: current.step })
}

fn add_checkpoint(record: &mut JobRecord, stage: u32, checkpoint: CheckpointRecord) -> Answer {
    let job = record.job().clone();
    let current = at_work(record, stage)?;
    if checkpoint.step > current.step {
        return Err(Rejected::CheckpointAhead {
            job,
            stage,
            step: checkpoint.step,
            committed: current.step,
        });
    }
    match current
        .checkpoints
        .binary_search_by_key(&checkpoint.step, |known| known.step)
    {
        Ok(place) => current.checkpoints[place] = checkpoint,
        Err(place) => {
            within(
                &job,
                "the number of checkpoints",
                current.checkpoints.len() + 1,
                CHECKPOINTS_MAX,
            )?;
            current.checkpoints.insert(place, checkpoint);
        }
    }
    Ok(Effect::Checkpointed {
        durable_step: current.durable_step(),
    })
}

/// Forgets a checkpoint of any stage that has begun: a finished stage's checkpoints are pruned
/// while a later one works.
fn drop_checkpoint(record: &mut JobRecord, stage: u32, step: u64) -> Answer {
    let refusal = wrong_stage(record, stage);
    let current = record
        .progress
        .stages
        .get_mut(stage as usize)
        .map(Arc::make_mut)
        .ok_or(refusal)?;
    current.checkpoints.retain(|known| known.step != step);
    Ok(Effect::CheckpointDropped {
        durable_step: current.durable_step(),
    })
}

fn go_back(record: &mut JobRecord, stage: u32, step: u64, metrics: &Metrics) -> Answer {
    let job = record.job().clone();
    let current = at_work(record, stage)?;
    if step > current.step {
        return Err(Rejected::WrongStep {
            job,
            stage,
            step,
            committed: current.step,
            steps: current.steps,
        });
    }
    (current.step, current.metrics) = (step, metrics.clone());
    current.checkpoints.retain(|known| known.step <= step);
    let name = current.name.clone();
    Arc::make_mut(&mut record.evals)
        .retain(|known| known.stage.as_ref() != Some(&name) || known.step <= step);
    Ok(Effect::WentBack { step })
}

fn add_eval(record: &mut JobRecord, result: &EvalResult) -> Answer {
    let same = |known: &EvalResult| {
        known.stage == result.stage && known.step == result.step && known.data == result.data
    };
    match record.evals.iter().position(|known| same(known)) {
        Some(index) => Arc::make_mut(&mut record.evals)[index] = Arc::new(result.clone()),
        None => {
            within(
                record.job(),
                "the number of evaluations",
                record.evals.len() + 1,
                EVALS_MAX,
            )?;
            Arc::make_mut(&mut record.evals).push(Arc::new(result.clone()));
        }
    }
    Ok(Effect::EvalRecorded)
}

/// Sets a component as judge; one that is set again for the same step replaces the one before.
fn set_reward_version(record: &mut JobRecord, reward_version: RewardVersion) -> Answer {
    let job = record.job().clone();
    let from = (reward_version.stage, reward_version.step);
    let begun = record.progress.stages.len() as u32;
    let late = match record.stage_at_work() {
        Some((stage, work)) => from <= (stage, work.step),
        None => reward_version.stage < begun,
    };
    let of_plugin = |known: &RewardVersion| known.plugin == reward_version.plugin;
    let index = record.reward_versions.iter().rposition(of_plugin);
    let known = index.and_then(|index| record.reward_versions.get(index));
    let goes_back = known.is_some_and(|known| from < (known.stage, known.step));
    if late || goes_back {
        return Err(Rejected::RewardLate {
            job,
            stage: reward_version.stage,
            step: reward_version.step,
        });
    }
    within(
        &job,
        "the plugin's length in bytes",
        reward_version.plugin.len(),
        REWARD_VERSION_MAX_BYTES,
    )?;
    within(&job, "the hash's length", reward_version.sha256.len(), 64)?;
    // A stage that another component judges than the one it was submitted with has another outcome
    // than its key means, for this job and for later ones.
    if known.is_some_and(|known| known.sha256 != reward_version.sha256) {
        Arc::make_mut(&mut record.reuse)
            .keys
            .iter_mut()
            .skip(reward_version.stage as usize)
            .for_each(String::clear);
    }
    let is_same = known.is_some_and(|known| (known.stage, known.step) == from);
    let versions = Arc::make_mut(&mut record.reward_versions);
    match index.and_then(|index| versions.get_mut(index)) {
        Some(known) if is_same => *known = reward_version,
        _ => {
            within(
                &job,
                "the number of judges",
                versions.len() + 1,
                REWARD_VERSIONS_MAX,
            )?;
            versions.push(reward_version);
        }
    }
    Ok(Effect::RewardVersionSet)
}

/// Adds a finished stage of another job. It must be the next stage, with none at work: the job goes
/// on behind it.
fn reuse_stage(
    record: &mut JobRecord,
    of: &JobId,
    stage: u32,
    finished: &StageRecord,
    steps_with_metrics: usize,
    evals: &[EvalResult],
) -> Answer {
    let job = record.job().clone();
    if record.stage_at_work().is_some() || record.progress.stages.len() != stage as usize {
        return Err(wrong_stage(record, stage));
    }
    let whole = finished.state == RunState::Succeeded && finished.step == finished.steps;
    if !whole || steps_with_metrics as u64 != finished.steps {
        return Err(Rejected::NotWhole { job, stage });
    }
    within(&job, "the number of stages", stage as usize + 1, STAGES_MAX)?;
    within(
        &job,
        "the number of evaluations",
        record.evals.len() + evals.len(),
        EVALS_MAX,
    )?;
    record.progress.stages.push(Arc::new(finished.clone()));
    for result in evals {
        add_eval(record, result)?;
    }
    Arc::make_mut(&mut record.reuse)
        .taken
        .insert(stage, of.clone());
    Ok(Effect::StageReused)
}

fn finish_stage(record: &mut JobRecord, stage: u32, at: u64) -> Answer {
    let job = record.job().clone();
    let current = at_work(record, stage)?;
    if current.step != current.steps {
        return Err(Rejected::StageIncomplete {
            job,
            stage,
            committed: current.step,
            steps: current.steps,
        });
    }
    current.state = RunState::Succeeded;
    current.ended_at = Some(at);
    Ok(Effect::StageFinished)
}

fn finish(
    record: &mut JobRecord,
    state: RunState,
    error: Option<String>,
    model: Option<PathBuf>,
    at: u64,
) -> Answer {
    let refuse = |why: String| {
        Err(Rejected::CannotFinish {
            job: record.job().clone(),
            state,
            why,
        })
    };
    if !state.is_final() {
        return refuse("that is no end".to_string());
    }
    if (record.progress.epoch, state) == (0, RunState::Succeeded) {
        return refuse("it was never started".to_string());
    }
    if let (RunState::Succeeded, Some((_, stage))) = (state, record.stage_at_work()) {
        return refuse(format!("stage `{}` is at work", stage.name));
    }
    record.progress.error = error.map(|text| cut(text, ERROR_MAX_BYTES));
    record.progress.model = model;
    end(record, state, at);
    Ok(Effect::Finished { state })
}

fn end(record: &mut JobRecord, state: RunState, at: u64) {
    record.progress.state = state;
    record.standing.pause = None;
    record.progress.ended_at = Some(at);
    if let Some(stage) = record
        .progress
        .stages
        .last_mut()
        .filter(|stage| stage.state == RunState::Running)
    {
        let stage = Arc::make_mut(stage);
        stage.state = state;
        stage.ended_at = Some(at);
    }
}

/// Undoes [`end`]: the stage that was at work is at work again.
fn take_back_end(record: &mut JobRecord) {
    let progress = &mut record.progress;
    (progress.error, progress.model, progress.ended_at) = (None, None, None);
    if let Some(stage) = progress
        .stages
        .last_mut()
        .filter(|stage| stage.state != RunState::Succeeded)
    {
        let stage = Arc::make_mut(stage);
        stage.state = RunState::Running;
        stage.ended_at = None;
    }
}

fn cut(mut text: String, length_max: usize) -> String {
    if text.len() > length_max {
        let end = (0..=length_max)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
