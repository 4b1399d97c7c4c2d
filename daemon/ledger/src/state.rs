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

use crate::answers::{AnswersChange, KnownAnswer, KnownAnswers, digest};
use crate::command::{Applied, Command, CommandId, Effect, NewJob, Rejected};
use crate::job_commands::{self, end, set_reward_version, take_back_end};
use crate::limits::{
    ELSEWHERE_MAX, JOB_TOML_MAX_BYTES, JOBS_LIVE_MAX, JOBS_LIVE_MAX_BYTES, NAME_MAX_BYTES,
    STAGES_MAX, SUBMISSION_ID_MAX_BYTES, user_within, within,
};
use crate::listing::Listing;
use crate::record::{
    JobProgress, JobRecord, Pause, Removal, Reuse, RewardVersion, Standing, Strikes, Submission,
    User,
};
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::{JOB_ID_MAX_BYTES, JobId};
use rpds::RedBlackTreeMapSync;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

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
    /// The jobs by what they do.
    listing: Listing,
    /// Removed jobs whose files are not gone yet.
    removals: Arc<BTreeMap<JobId, Removal>>,
    /// The next place in the queue: grows with each submission and each requeued job.
    submitted: u64,
    /// What the newest commands did.
    answers: KnownAnswers,
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
    /// Jobs go by their ids, and this is the name of some.
    #[error("no job's id starts with `{name}`, but {job} has that name")]
    Name {
        /// The name.
        name: String,
        /// The newest job that has it.
        job: JobId,
    },
    /// Nothing was given that could name a job.
    #[error("an empty id names no job: see `r1ctl list`")]
    Empty,
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
            state.listing.update(None, Some(&record));
            state.submitted = state.submitted.max(record.place() + 1);
            state.insert(record);
        }
        state
    }

    /// The state with what is remembered of commands.
    pub(crate) fn with_answers(self, answers: KnownAnswers) -> State {
        State { answers, ..self }
    }

    /// Adds a job, to all but the listing.
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
    pub fn apply(&mut self, command: &Command) -> Applied {
        let mut next = self.clone();
        let effect = next.carry_out(command)?;
        let job = command.job();
        next.listing.update(
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
        let answered = KnownAnswer {
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

    /// Carries out one command on a copy, whose listing is as before.
    fn carry_out(&mut self, command: &Command) -> Applied {
        match command {
            Command::Submit(new) => self.submit(new),
            Command::TakeUp { job } => {
                self.live(job)?.strikes.taken_up = true;
                Ok(Effect::TakenUp)
            }
            Command::PutDown { job } => {
                self.live(job)?.strikes.taken_up = false;
                Ok(Effect::PutDown)
            }
            Command::Strike { job } => self.strike(job),
            Command::Start { job, at } => self.start(job, *at),
            Command::BeginStage { job, epoch, .. }
            | Command::CommitStep { job, epoch, .. }
            | Command::Checkpoint { job, epoch, .. }
            | Command::DropCheckpoint { job, epoch, .. }
            | Command::GoBack { job, epoch, .. }
            | Command::Eval { job, epoch, .. }
            | Command::FinishStage { job, epoch, .. } => {
                job_commands::of_attempt(self.fenced(job, *epoch)?, command)
            }
            Command::Finish { job, epoch, .. } | Command::ReuseStage { job, epoch, .. } => {
                job_commands::of_life(self.of_epoch(job, *epoch)?, command)
            }
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
            Command::Cancel { job, at } => self.cancel(job, *at),
            Command::Pause { job, by, at } => self.pause(job, by, *at),
            Command::Resume { job, at } => self.resume(job, *at),
            Command::Requeue { job, at } => self.requeue(job, *at),
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
        self.of(self.listing.running()).cloned().collect()
    }

    /// The queued jobs in the order in which they are to run: highest priority first, within it
    /// first come, first served. Who wants the next job takes no more than that.
    pub fn queued(&self) -> impl Iterator<Item = &Arc<JobRecord>> {
        self.of(self.listing.queued())
    }

    /// All jobs in the order in which they are listed: the running ones, the [queue](Self::queued),
    /// the paused ones, and those that have ended, the one that ended last first. Jobs that are
    /// alike in that stand in the order of their submission.
    pub fn listed(&self) -> impl Iterator<Item = &Arc<JobRecord>> {
        self.of(self.listing.all())
    }

    fn of<'a>(
        &'a self,
        sequences: impl Iterator<Item = &'a u64>,
    ) -> impl Iterator<Item = &'a Arc<JobRecord>> {
        sequences.filter_map(|sequence| self.records.get(sequence))
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
            (true, _) => Err(FindError::Empty),
            (false, 0) => Err(self.not_found(prefix)),
            (false, 1) => Ok(jobs.remove(0)),
            (false, 2..) => Err(FindError::Ambiguous {
                prefix: prefix.to_string(),
                jobs,
            }),
        }
    }

    fn not_found(&self, prefix: &str) -> FindError {
        let named = |record: &&Arc<JobRecord>| record.submission.name == prefix;
        match self.records.values().rev().find(named) {
            Some(record) => FindError::Name {
                name: prefix.to_string(),
                job: record.job().clone(),
            },
            None => FindError::NotFound {
                prefix: prefix.to_string(),
            },
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

    fn submit(&mut self, new: &NewJob) -> Applied {
        let NewJob {
            job,
            name,
            priority,
            job_toml,
            devices,
            request,
            reward_versions,
            keys,
            reuses,
            owner,
            held,
            at,
        } = new;
        self.is_free(job, request)?;
        submission_within(job, (name, job_toml), request, keys)?;
        user_within(job, owner)?;
        self.has_room_for(job_toml.len())?;
        let submission = Submission {
            job: job.clone(),
            name: name.clone(),
            priority: *priority,
            job_toml: job_toml.clone(),
            devices: (*devices).max(1),
            submitted_at: *at,
            sequence: self.submitted,
        };
        let pause = held.then(|| Pause {
            by: owner.clone(),
            at: *at,
        });
        let state = match &pause {
            Some(_) => RunState::Paused,
            None => RunState::Queued,
        };
        let reuse = Reuse {
            keys: keys.clone(),
            enabled: *reuses,
            taken: BTreeMap::new(),
        };
        let mut record = JobRecord {
            submission: Arc::new(submission),
            progress: JobProgress::of(state),
            evals: Arc::default(),
            reward_versions: Arc::default(),
            reuse: Arc::new(reuse),
            request: request.clone(),
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

    /// Refuses a job's id that is none or is taken, and a submission that was made before.
    fn is_free(&self, job: &JobId, request: &Option<String>) -> Result<(), Rejected> {
        let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let well_formed = job.0.bytes().all(is_plain);
        let known = request.as_ref().map(|request| self.requests.get(request));
        if !well_formed || job.0.is_empty() || job.0.len() > JOB_ID_MAX_BYTES {
            Err(Rejected::InvalidJobId { job: job.clone() })
        } else if let Some(known) = known.flatten() {
            Err(Rejected::SubmittedBefore { job: known.clone() })
        } else if self.ids.contains_key(job) {
            Err(Rejected::DuplicateJob { job: job.clone() })
        } else if self.removals.contains_key(job) {
            Err(Rejected::BeingRemoved { job: job.clone() })
        } else {
            Ok(())
        }
    }

    fn has_room_for(&self, text_bytes: usize) -> Result<(), Rejected> {
        let full = |what, found: usize, limit: usize| Rejected::QueueFull {
            what,
            found: found as u64,
            limit: limit as u64,
        };
        let (jobs, bytes) = self.listing.live();
        if jobs >= JOBS_LIVE_MAX {
            return Err(full("jobs", jobs, JOBS_LIVE_MAX));
        }
        if bytes + text_bytes > JOBS_LIVE_MAX_BYTES {
            return Err(full("bytes of job files", bytes, JOBS_LIVE_MAX_BYTES));
        }
        Ok(())
    }

    fn strike(&mut self, job: &JobId) -> Applied {
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

    fn start(&mut self, job: &JobId, at: u64) -> Applied {
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

    fn cancel(&mut self, job: &JobId, at: u64) -> Applied {
        let record = self.live(job)?;
        let was = record.state();
        end(record, RunState::Cancelled, at);
        Ok(Effect::Cancelled { was })
    }

    fn pause(&mut self, job: &JobId, by: &Option<User>, at: u64) -> Applied {
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

    fn resume(&mut self, job: &JobId, at: u64) -> Applied {
        let state = self.known(job)?.state();
        if state != RunState::Paused {
            let job = job.clone();
            return Err(Rejected::NotPaused { job, state });
        }
        let record = self.any(job)?;
        record.progress.state = RunState::Queued;
        record.standing.pause = None;
        record.standing.queued_at = Some(at);
        Ok(Effect::Resumed)
    }

    fn requeue(&mut self, job: &JobId, at: u64) -> Applied {
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
        record.standing.queued_at = Some(at);
        record.strikes.count = 0;
        self.submitted += 1;
        Ok(Effect::Requeued { was })
    }

    fn remove(&mut self, job: &JobId, elsewhere: &[PathBuf]) -> Applied {
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

/// Refuses a submission that is larger than a job may be.
fn submission_within(
    job: &JobId,
    (name, job_toml): (&str, &str),
    request: &Option<String>,
    keys: &[String],
) -> Result<(), Rejected> {
    let request = request.as_ref().map_or(0, String::len);
    let limit = |what, found, limit| within(job, what, found, limit);
    limit("the name's length in bytes", name.len(), NAME_MAX_BYTES)?;
    let text = job_toml.len();
    limit("the job file's length in bytes", text, JOB_TOML_MAX_BYTES)?;
    let what = "the submission id's length in bytes";
    limit(what, request, SUBMISSION_ID_MAX_BYTES)?;
    limit("the number of stages", keys.len(), STAGES_MAX)?;
    keys.iter()
        .try_for_each(|key| limit("a key's length", key.len(), 64))
}
