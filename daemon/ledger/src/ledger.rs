//! The state machine on disk: `ledger.redb`, one durable transaction per group of commands that
//! came while the one before was written ([`crate::group`]).
//!
//! [`crate::tables`] has the tables and [`crate::stored`] what their rows hold.
//! [`crate::metrics`] says where the metrics of a step are.
//!
//! A group that cannot be made durable is not carried out: each of its commands returns an error,
//! readers go on seeing the state before it, and the next command opens the file again, which may
//! hold the commit that failed half-way. If a sync failed, a fresh copy takes the file's place
//! first ([`crate::watched`]).

pub(crate) mod file;
mod step_metrics;

use crate::answers::AnswersChange;
use crate::api::{Record, RowsOf};
use crate::changes::Changes;
use crate::command::{Command, CommandId, Effect};
use crate::error::{LedgerError, storage_error};
use crate::group::{Group, Member};
use crate::record::JobRecord;
use crate::state::State;
use crate::tables::{self, begin};
use file::FileId;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use redb::{Database, DatabaseError};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// Opens the database, new or not. It is called again after a failed write.
pub type OpenDatabase = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The record of jobs. Readers see the state after the last durable command and never wait for the
/// disk; `apply`, `refresh` and the metrics wait for it: call them from a thread that may block.
pub struct Ledger {
    path: PathBuf,
    open: OpenDatabase,
    storage: Arc<dyn Storage>,
    /// Identity of the file that was opened at `path`; `None` for a storage of the caller's.
    file: Option<Mutex<FileId>>,
    /// The state; locked only to look at it or to replace it.
    state: Mutex<Arc<State>>,
    /// The commands that wait to be written.
    group: Group<Result<Effect, LedgerError>>,
    /// The database, locked while it is written; `None` after a failed write.
    database: Mutex<Option<Arc<Database>>>,
    /// Shared by readers of the file, who have a share of the database: it is opened again only
    /// after they have dropped it.
    reading: RwLock<()>,
    /// Number of commands so far after which another job may be the next to run.
    queue_changes: watch::Sender<u64>,
    /// The changes of each job that somebody watches.
    changes: Changes,
}

impl Ledger {
    /// Carries out one command; when it returns `Ok` the command survives a crash of the machine.
    /// Commands that come while another is written are written together. After a storage error the
    /// command may be in the file or not: look at the job, once [`Ledger::refresh`] succeeds,
    /// before trying again. The command has no id and is not known when it comes again: a sender
    /// that may repeat one has a [`Session`](crate::Session).
    pub fn apply(&self, command: Command) -> Result<Effect, LedgerError> {
        self.carry_out(None, command)
    }

    fn carry_out(&self, id: Option<CommandId>, command: Command) -> Result<Effect, LedgerError> {
        let place = self.group.add(id, command);
        let mut open = self.lock();
        loop {
            if let Some(answer) = place.take() {
                return answer;
            }
            let group = self.group.take();
            if group.is_empty() {
                let path = self.path.clone();
                return Err(LedgerError::Interrupted { path });
            }
            // An earlier command of the job may go first, in a group of its own.
            self.write_group(&mut open, group);
        }
    }

    /// Writes the commands of a group in one transaction and answers them.
    fn write_group(
        &self,
        open: &mut Option<Arc<Database>>,
        group: Vec<Member<Result<Effect, LedgerError>>>,
    ) {
        match self.write(open, &group) {
            Ok(answers) => {
                for (member, answer) in group.into_iter().zip(answers) {
                    member.answer(answer);
                }
            }
            // A refusal, too, may be due to a command before it that is not durable.
            Err(error) => group
                .into_iter()
                .for_each(|member| member.answer(Err(error.clone()))),
        }
    }

    /// Carries out commands in their order and makes them durable together; readers see none of
    /// them before. A refused command does not keep the others from it. No two are of one job.
    fn write(
        &self,
        open: &mut Option<Arc<Database>>,
        group: &[Member<Result<Effect, LedgerError>>],
    ) -> Result<Vec<Result<Effect, LedgerError>>, LedgerError> {
        self.file_is_in_place()?;
        let database = self.database(open)?;
        let before = self.state();
        let (mut state, mut changes) = (State::clone(&before), Vec::with_capacity(group.len()));
        let mut carry_out = |id: Option<CommandId>, command: &Command| {
            let mut next = state.clone();
            let (effect, answered) = match id {
                Some(id) => next.apply_once(id, command)?,
                None => (next.apply(command)?, Some(AnswersChange::default())),
            };
            // `None`: the command came before, and all that it did is durable.
            if let Some(answered) = answered {
                let change = self.metrics_change(&database, command)?;
                state = next;
                changes.push((command.job().clone(), change, answered));
            }
            Ok(effect)
        };
        let answers = group
            .iter()
            .map(|member| carry_out(member.id, &member.command))
            .collect();
        if changes.is_empty() {
            return Ok(answers);
        }
        let written = begin(&database).and_then(|write| {
            for (job, change, answered) in &changes {
                tables::write_answers(&write, answered)?;
                match state.job(job) {
                    Some(now) => tables::write_job(&write, self.root(), before.job(job), now)?,
                    None => tables::write_removal(&write, job, state.removals().get(job))?,
                }
                if let Some((stage, change)) = change {
                    tables::write_metrics(&write, job, *stage, change)?;
                }
            }
            Ok(write.commit()?)
        });
        if let Err(error) = written {
            *open = None;
            return Err(self.failed(error));
        }
        let changes_queue = |job: &JobId| changes_queue(before.job(job), state.job(job));
        let changes_queue = changes.iter().any(|(job, ..)| changes_queue(job));
        self.set_state(state);
        changes.iter().for_each(|(job, ..)| self.changes.note(job));
        if changes_queue {
            self.queue_changes.send_modify(|count| *count += 1);
        }
        Ok(answers)
    }

    /// Number of commands that wait for the file while others are written.
    pub fn waiting(&self) -> usize {
        self.group.len()
    }

    /// Opens the file again after a failed write; readers then see what it holds. Otherwise does
    /// nothing.
    pub fn refresh(&self) -> Result<(), LedgerError> {
        self.database(&mut self.lock()).map(drop)
    }

    /// All jobs, as they were after the last durable command.
    pub fn state(&self) -> Arc<State> {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set_state(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory that the ledger's file is in.
    fn root(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn failed(&self, error: redb::Error) -> LedgerError {
        storage_error(&self.path, error)
    }

    fn damaged(&self, what: String) -> LedgerError {
        LedgerError::Damaged {
            path: self.path.clone(),
            what,
        }
    }
}

impl Record for Ledger {
    fn apply(&self, id: CommandId, command: Command) -> Result<Effect, LedgerError> {
        self.carry_out(Some(id), command)
    }

    fn snapshot(&self) -> Arc<State> {
        self.state()
    }

    fn queue_changes(&self) -> watch::Receiver<u64> {
        self.queue_changes.subscribe()
    }

    fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        self.changes.watch(job)
    }

    fn is_in_place(&self) -> Result<(), LedgerError> {
        self.file_is_in_place()
    }

    fn metrics_in(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        self.read_metrics(job, stage, steps)
    }

    fn mend_metrics(&self, job: &JobId, rows: &RowsOf<'_>) -> Result<bool, LedgerError> {
        self.mend_metrics_file(job, rows)
    }
}

/// Whether the queue, or the job that goes first in it, may have changed.
fn changes_queue(before: Option<&Arc<JobRecord>>, now: Option<&Arc<JobRecord>>) -> bool {
    let place = |record: &Arc<JobRecord>| (record.state(), record.strikes.count, record.place());
    before.map(place) != now.map(place)
}
