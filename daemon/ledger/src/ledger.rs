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

use crate::answers::AnswersChange;
use crate::api::Record;
use crate::changes::Changes;
use crate::command::{Command, CommandId, Effect};
use crate::error::{LedgerError, io_error, storage_error};
use crate::format1;
use crate::group::{Group, Member};
use crate::metrics::{self, BLOCK_STEPS};
use crate::record::JobRecord;
use crate::state::{FindError, State};
use crate::stored::FORMAT_VERSION;
use crate::tables::{self, MetricsChange, begin};
use crate::watched::WatchedPath;
use r1d_proto::ids::JobId;
use r1d_proto::storage::Storage;
use r1d_proto::user_file;
use r1d_proto::worker::Metrics;
use r1d_store::Disk;
use redb::{Database, DatabaseError, ReadableDatabase};
use std::cell::Cell;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

thread_local! {
    static DAMAGE_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread reads pages that may be damaged. A panic is then caught and becomes
/// [`LedgerError::Damaged`], so a panic hook should be silent.
pub fn is_damage_expected() -> bool {
    DAMAGE_EXPECTED.get()
}

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

/// The identity of a file, whatever its name.
#[derive(Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl FileId {
    fn of(path: &Path) -> std::io::Result<FileId> {
        let found = std::fs::metadata(path)?;
        Ok(FileId {
            device: found.dev(),
            inode: found.ino(),
        })
    }
}

impl Ledger {
    /// Opens or creates the ledger at `path`, whose directory exists. Reads the whole file: a page
    /// that the disk has damaged is found now, and not when a job is missing.
    pub fn open(path: &Path) -> Result<Ledger, LedgerError> {
        let io = |source| io_error(path, source);
        match std::fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ledger::create(path)?,
            Err(error) => return Err(io(error)),
            Ok(found) if !found.is_file() => {
                let what = user_file::instead(&found).unwrap_or_default();
                return Err(LedgerError::NoFile {
                    path: path.to_path_buf(),
                    what,
                });
            }
            // A new ledger is renamed to its place with its first pages in it.
            Ok(found) if found.len() == 0 => {
                return Err(LedgerError::Damaged {
                    path: path.to_path_buf(),
                    what: "the file is empty".into(),
                });
            }
            Ok(_) => {}
        }
        let open = || Ledger::open_watched(WatchedPath::new(path), path);
        match open() {
            Err(LedgerError::Older {
                found: format1::VERSION,
                ..
            }) => {
                format1::migrate(path)?;
                open()
            }
            opened => opened,
        }
    }

    fn open_watched(watched: WatchedPath, path: &Path) -> Result<Ledger, LedgerError> {
        let ledger = Ledger::open_with(path, Box::new(move || watched.open()), Disk::shared())?;
        let file = FileId::of(path).map_err(|source| io_error(path, source))?;
        Ok(Ledger {
            file: Some(Mutex::new(file)),
            ..ledger
        })
    }

    /// Checks that the open file is still the one at its path. A ledger whose directory was removed
    /// would go on to acknowledge commands that are lost.
    pub fn is_in_place(&self) -> Result<(), LedgerError> {
        let Some(file) = &self.file else {
            return Ok(());
        };
        // Held while a fresh copy takes the file's place.
        let file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if FileId::of(&self.path).ok() == Some(*file) {
            Ok(())
        } else {
            Err(LedgerError::Gone {
                path: self.path.clone(),
            })
        }
    }

    /// Creates the file under another name and renames it: a crash while redb writes a new file's
    /// first pages leaves one that it cannot open.
    fn create(path: &Path) -> Result<(), LedgerError> {
        tables::replace(path, tables::create).map_err(|error| storage_error(path, error))
    }

    /// Opens a ledger like [`Ledger::open`], but with a storage of the caller's; `path` is only for
    /// messages, and names the directory that paths are relative to.
    pub fn open_with(
        path: &Path,
        open: OpenDatabase,
        storage: Arc<dyn Storage>,
    ) -> Result<Ledger, LedgerError> {
        let ledger = Ledger {
            path: path.to_path_buf(),
            open,
            storage,
            file: None,
            state: Mutex::default(),
            group: Group::new(),
            database: Mutex::default(),
            reading: RwLock::default(),
            queue_changes: watch::Sender::new(0),
            changes: Changes::default(),
        };
        ledger.unharmed(|| {
            let mut database = (ledger.open)().map_err(|error| ledger.failed(error.into()))?;
            // `false` means that redb has counted its free pages anew, after a crash. Contents that
            // do not fit their checksums are an error: no commit of two phases is ever undone.
            database
                .check_integrity()
                .map_err(|error| ledger.failed(error.into()))?;
            ledger.take(&mut ledger.lock(), database).map(drop)
        })?;
        Ok(ledger)
    }

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
        self.is_in_place()?;
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

    /// What a command that the state accepts does to the metrics of a stage. What goes into the
    /// job's file is there, and synced, when it returns; it has no meaning until the command is
    /// written.
    fn metrics_change(
        &self,
        database: &Database,
        command: &Command,
    ) -> Result<Option<(u32, MetricsChange)>, LedgerError> {
        let job = command.job();
        let mut change = MetricsChange::default();
        let stage = match command {
            Command::CommitStep {
                stage,
                step,
                metrics,
                ..
            } => {
                change.blocks = self.filled_block(database, job, *stage, BLOCK_STEPS)?;
                change.rows = vec![(*step, metrics.clone())];
                *stage
            }
            Command::FinishStage { stage, .. } => {
                change.blocks = self.filled_block(database, job, *stage, 1)?;
                *stage
            }
            Command::Finish { .. } | Command::Cancel { .. } => {
                let record = self.state().job(job).cloned();
                let Some(stage) = record.and_then(|record| Some(record.stage_at_work()?.0)) else {
                    return Ok(None);
                };
                // A job must always be able to end. The rows are safe where they are.
                change.blocks = self
                    .filled_block(database, job, stage, 1)
                    .unwrap_or_default();
                stage
            }
            Command::GoBack { stage, step, .. } => {
                change.forgotten_from = Some(*step);
                let read = database
                    .begin_read()
                    .map_err(|error| self.failed(error.into()))?;
                let cut = tables::blocks(&read, job, *stage, *step..step.saturating_add(1));
                let cut = cut.map_err(|error| self.failed(error))?.into_iter();
                for (first, block) in cut.filter(|(first, _)| first < step) {
                    let rows = self.block(job, &block)?;
                    let left = (first..*step).zip(rows);
                    change.rows.extend(left);
                }
                *stage
            }
            Command::ReuseStage { stage, metrics, .. } => {
                change.blocks = self.append_blocks(job, metrics)?;
                *stage
            }
            _ => return Ok(None),
        };
        Ok(Some((stage, change)))
    }

    /// Puts the rows of a stage that are in no block into one, if there are at least `steps_min`.
    fn filled_block(
        &self,
        database: &Database,
        job: &JobId,
        stage: u32,
        steps_min: u64,
    ) -> Result<Vec<(u64, metrics::Block)>, LedgerError> {
        let read = database
            .begin_read()
            .map_err(|error| self.failed(error.into()))?;
        let count = tables::row_count(&read, job, stage).map_err(|error| self.failed(error))?;
        if count < steps_min {
            return Ok(Vec::new());
        }
        let rows = tables::rows(&read, job, stage, 0..u64::MAX);
        let rows = rows.map_err(|error| self.failed(error))?;
        self.append_blocks(job, &rows)
    }

    fn append_blocks(
        &self,
        job: &JobId,
        rows: &[(u64, Metrics)],
    ) -> Result<Vec<(u64, metrics::Block)>, LedgerError> {
        let path = metrics::path(self.root(), job);
        metrics::append(&*self.storage, &path, rows).map_err(|error| io_error(&path, error))
    }

    fn block(&self, job: &JobId, block: &metrics::Block) -> Result<Vec<Metrics>, LedgerError> {
        let path = metrics::path(self.root(), job);
        metrics::read(&*self.storage, &path, block).map_err(|error| match error.kind() {
            ErrorKind::InvalidData | ErrorKind::UnexpectedEof | ErrorKind::NotFound => {
                let what = error.to_string();
                LedgerError::Metrics { path, what }
            }
            _ => io_error(&path, error),
        })
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

    /// A counter that changes whenever another job may be the next to run: one was submitted, has
    /// ended, or has lost its strikes.
    pub fn queue_changes(&self) -> watch::Receiver<u64> {
        self.queue_changes.subscribe()
    }

    /// A counter that changes whenever the job's record does, from now on.
    pub fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        self.changes.watch(job)
    }

    /// All jobs, in order of submission.
    pub fn jobs(&self) -> Vec<Arc<JobRecord>> {
        self.state().jobs()
    }

    /// The job of this id, as it was after the last durable command; `None` if there is none.
    pub fn job(&self, job: &JobId) -> Option<Arc<JobRecord>> {
        self.state().job(job).cloned()
    }

    /// The queued jobs in the order in which they are to run.
    pub fn queue(&self) -> Vec<Arc<JobRecord>> {
        self.state().queue()
    }

    /// Finds the job that an id or an unambiguous prefix of one names.
    pub fn find(&self, prefix: &str) -> Result<JobId, FindError> {
        self.state().find(prefix)
    }

    /// The job of the submission that has this id of its client's.
    pub fn of_request(&self, request: &str) -> Option<Arc<JobRecord>> {
        self.state().of_request(request).cloned()
    }

    /// Reads all metrics of a stage, by step (from 0).
    pub fn metrics(&self, job: &JobId, stage: u32) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        self.metrics_in(job, stage, 0..u64::MAX)
    }

    /// Reads metrics of the steps in `steps`, by step.
    pub fn metrics_in(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        let mut open = self.lock();
        let database = self.database(&mut open)?;
        let reading = self.reading.read().unwrap_or_else(PoisonError::into_inner);
        drop(open);
        let known = || -> Result<_, redb::Error> {
            let read = database.begin_read()?;
            let blocks = tables::blocks(&read, job, stage, steps.clone())?;
            Ok((blocks, tables::rows(&read, job, stage, steps.clone())?))
        };
        let known = known();
        drop(database);
        drop(reading);
        let (blocks, rows) = known.map_err(|error| self.failed(error))?;
        let mut found = Vec::new();
        for (first, block) in blocks {
            let rows = (first..).zip(self.block(job, &block)?);
            found.extend(rows.filter(|(step, _)| steps.contains(step)));
        }
        found.extend(rows);
        Ok(found)
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

    /// Runs code that reads pages that have not been checked yet. redb asserts what it relies on,
    /// so a damaged page may cause a panic in it, which becomes an error.
    fn unharmed<T>(&self, read: impl FnOnce() -> Result<T, LedgerError>) -> Result<T, LedgerError> {
        let outer = DAMAGE_EXPECTED.replace(true);
        let read = std::panic::catch_unwind(std::panic::AssertUnwindSafe(read));
        DAMAGE_EXPECTED.set(outer);
        read.unwrap_or_else(|panic| {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or(panic.downcast_ref::<&str>().copied());
            Err(self.damaged(format!(
                "reading it panics ({})",
                said.unwrap_or("no message")
            )))
        })
    }

    fn database(&self, open: &mut Option<Arc<Database>>) -> Result<Arc<Database>, LedgerError> {
        match open {
            Some(database) => Ok(database.clone()),
            None => self.reopen(open),
        }
    }

    /// Opens the file again, after a write that failed.
    fn reopen(&self, open: &mut Option<Arc<Database>>) -> Result<Arc<Database>, LedgerError> {
        // A file that a reader still has open cannot be opened again.
        drop(self.reading.write().unwrap_or_else(PoisonError::into_inner));
        self.is_in_place()?;
        let mut file = self
            .file
            .as_ref()
            .map(|file| file.lock().unwrap_or_else(PoisonError::into_inner));
        self.unharmed(|| {
            let opened = (self.open)();
            if let Some(file) = &mut file {
                **file = FileId::of(&self.path).map_err(|source| io_error(&self.path, source))?;
            }
            self.take(open, opened.map_err(|error| self.failed(error.into()))?)
        })
    }

    /// Replaces the state by what the database holds.
    fn take(
        &self,
        open: &mut Option<Arc<Database>>,
        database: Database,
    ) -> Result<Arc<Database>, LedgerError> {
        let found = tables::version(&database).map_err(|error| self.failed(error))?;
        match found {
            None => begin(&database)
                .and_then(|write| {
                    tables::create(&write)?;
                    Ok(write.commit()?)
                })
                .map_err(|error| self.failed(error))?,
            Some(FORMAT_VERSION) => {}
            Some(found) if found > FORMAT_VERSION => {
                return Err(LedgerError::Newer {
                    path: self.path.clone(),
                    found,
                });
            }
            Some(found) => {
                return Err(LedgerError::Older {
                    path: self.path.clone(),
                    found,
                });
            }
        }
        let state = tables::load(&database, self.root()).map_err(|error| self.failed(error))?;
        self.set_state(state);
        self.changes.note_all();
        Ok(open.insert(Arc::new(database)).clone())
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
        Ledger::queue_changes(self)
    }

    fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        Ledger::watch(self, job)
    }

    fn is_in_place(&self) -> Result<(), LedgerError> {
        Ledger::is_in_place(self)
    }

    fn metrics_in(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        Ledger::metrics_in(self, job, stage, steps)
    }
}

/// Whether the queue, or the job that goes first in it, may have changed.
fn changes_queue(before: Option<&Arc<JobRecord>>, now: Option<&Arc<JobRecord>>) -> bool {
    let place = |record: &Arc<JobRecord>| (record.state(), record.strikes.count, record.place());
    before.map(place) != now.map(place)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;
    use std::sync::atomic::Ordering;

    fn submit(job: &str) -> Command {
        let (reward_versions, keys) = Default::default();
        let (name, job_toml) = ("n".into(), "seed = 1".into());
        Command::Submit {
            job: JobId(job.into()),
            name,
            priority: 0,
            job_toml,
            request: None,
            reward_versions,
            keys,
            reuses: false,
            owner: None,
            held: false,
            at: 1,
        }
    }

    /// Nothing is acknowledged on pages that may not be on the disk: a fresh file has taken their
    /// place.
    #[test]
    fn a_failed_sync_makes_a_fresh_file_before_anything_is_acknowledged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger.redb");
        Ledger::create(&path).unwrap();
        let watched = WatchedPath::new(&path);
        let ledger = Ledger::open_watched(watched.clone(), &path).unwrap();
        ledger.apply(submit("a")).unwrap();
        let inode = || std::fs::metadata(&path).unwrap().ino();
        let before = inode();
        watched.fails.store(true, Ordering::Relaxed);
        let refused = ledger.apply(submit("b")).unwrap_err();
        assert!(matches!(&refused, LedgerError::Io { .. }), "{refused}");
        assert_eq!(ledger.jobs().len(), 1);
        ledger.apply(submit("c")).unwrap();
        assert_ne!(
            inode(),
            before,
            "acknowledged on the pages of a failed sync"
        );
        ledger.is_in_place().unwrap();
        assert!(!path.with_extension("redb.new").exists());
        let known = ledger.jobs();
        drop(ledger);
        let ledger = Ledger::open(&path).unwrap();
        assert_eq!(ledger.jobs(), known);
        assert!(
            ledger.job(&JobId("a".into())).is_some() && ledger.job(&JobId("c".into())).is_some()
        );
        // A command that is refused for another reason does not cost a copy.
        let after = inode();
        assert!(ledger.apply(submit("c")).is_err());
        assert_eq!(inode(), after);
    }
}
