//! The state machine on disk: `ledger.redb`, one durable transaction per group of commands that
//! came while the one before was written ([`crate::group`]).
//!
//! | table | key | value |
//! |---|---|---|
//! | `format` | `"version"` | u64: [`FORMAT_VERSION`] |
//! | `submissions` | job | [`Submission`], postcard |
//! | `progress` | job | [`crate::record::Progress`], postcard, with paths as [`crate::place`] writes them |
//! | `evals` | job, index | [`EvalResult`], postcard |
//! | `graders` | job, index | [`RewardVersion`], postcard; may be missing |
//! | `reuse` | job | [`Reuse`], postcard; may be missing |
//! | `requests` | job | text: the client's id of the submission; may be missing |
//! | `strikes` | job | [`Strikes`], postcard; may be missing |
//! | `owners` | job | [`User`], postcard; may be missing |
//! | `standing` | job | [`Standing`], postcard; may be missing |
//! | `removals` | removed job | [`Removal`], postcard; may be missing |
//! | `metrics` | job, stage, step | [`Metrics`], postcard |
//!
//! A ledger of an earlier release has none of the tables that may be missing.
//!
//! A group that cannot be made durable is not carried out: each of its commands returns an error,
//! readers go on seeing the state before it, and the next command opens the file again, which may
//! hold the commit that failed half-way. If a sync failed, a fresh copy takes the file's place
//! first ([`crate::watched`]).

use crate::command::{Command, Effect, Rejected};
use crate::group::{Group, Member};
use crate::place;
use crate::record::{
    JobRecord, Removal, Reuse, RewardVersion, Standing, Strikes, Submission, User,
};
use crate::state::{FindError, State};
use crate::watched::WatchedPath;
use r1d_proto::control::EvalResult;
use r1d_proto::ids::JobId;
use r1d_proto::user_file;
use r1d_proto::worker::Metrics;
use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::cell::Cell;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use tokio::sync::watch;

/// Version of the file's format; a file with a higher one is refused.
pub const FORMAT_VERSION: u64 = 1;

thread_local! {
    static DAMAGE_EXPECTED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread reads pages that may be damaged. A panic is then caught and becomes
/// [`LedgerError::Damaged`], so a panic hook should be silent.
pub fn is_damage_expected() -> bool {
    DAMAGE_EXPECTED.get()
}

const FORMAT: TableDefinition<&str, u64> = TableDefinition::new("format");
const SUBMISSIONS: TableDefinition<&str, &[u8]> = TableDefinition::new("submissions");
const PROGRESS: TableDefinition<&str, &[u8]> = TableDefinition::new("progress");
const EVALS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("evals");
const REWARD_VERSIONS: TableDefinition<(&str, u64), &[u8]> = TableDefinition::new("graders");
const REUSE: TableDefinition<&str, &[u8]> = TableDefinition::new("reuse");
const REQUESTS: TableDefinition<&str, &str> = TableDefinition::new("requests");
const STRIKES: TableDefinition<&str, &[u8]> = TableDefinition::new("strikes");
const OWNERS: TableDefinition<&str, &[u8]> = TableDefinition::new("owners");
const STANDING: TableDefinition<&str, &[u8]> = TableDefinition::new("standing");
const REMOVALS: TableDefinition<&str, &[u8]> = TableDefinition::new("removals");
const METRICS: TableDefinition<(&str, u32, u64), &[u8]> = TableDefinition::new("metrics");

/// Why the ledger was not opened, or a command not carried out. All commands of a group that was
/// not written get the same one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LedgerError {
    /// The command does not fit the state, which is unchanged.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// Another process has the file open: stop it, or use another state directory.
    #[error("ledger {} is open in another process: stop the other r1d, or use another state \
             directory", .path.display())]
    InUse {
        /// The ledger's file.
        path: PathBuf,
    },
    /// A later release wrote the file: run that release.
    #[error("ledger {} has format {found}, this release reads up to {FORMAT_VERSION}: run the \
             release that wrote it or a later one", .path.display())]
    Newer {
        /// The ledger's file.
        path: PathBuf,
        /// The file's version of the format.
        found: u64,
    },
    /// The file's contents are not what a ledger writes: put a copy back, or move it and `jobs`
    /// away.
    #[error("ledger {} is damaged: {what}; put a copy back, or move it and the directory `jobs` \
             beside it away to start anew", .path.display())]
    Damaged {
        /// The ledger's file.
        path: PathBuf,
        /// What is wrong, in words.
        what: String,
    },
    /// The path is not that of a regular file.
    #[error(
        "ledger {} is no file: {what} is in its place; move that away and put a copy of the \
         ledger there, or move the directory `jobs` beside it away as well to start anew",
        .path.display()
    )]
    NoFile {
        /// The ledger's path.
        path: PathBuf,
        /// What is there instead, in words.
        what: &'static str,
    },
    /// The file was removed or replaced while it was open: put it back, or start the daemon again.
    #[error("ledger {} is gone, or another file is in its place: nothing that is recorded now \
             would be kept", .path.display())]
    Gone {
        /// The ledger's path.
        path: PathBuf,
    },
    /// The file system failed: disk full, no permission, read error.
    #[error("ledger {}: {source}", .path.display())]
    Io {
        /// The ledger's file.
        path: PathBuf,
        /// The file system's error.
        source: Arc<std::io::Error>,
    },
    /// The database failed in another way.
    #[error("ledger {}: {source}", .path.display())]
    Storage {
        /// The ledger's file.
        path: PathBuf,
        /// The database's error.
        source: Arc<redb::Error>,
    },
    /// The thread that wrote the command with others panicked. It may be in the file or not, as
    /// after a storage error.
    #[error("ledger {}: the thread that wrote to it panicked; the daemon's log says why",
             .path.display())]
    Interrupted {
        /// The ledger's file.
        path: PathBuf,
    },
}

/// Opens the database, new or not. It is called again after a failed write.
pub type OpenDatabase = Box<dyn Fn() -> Result<Database, DatabaseError> + Send + Sync>;

/// The record of jobs. Readers see the state after the last durable command and never wait for the
/// disk; `apply`, `refresh` and the metrics wait for it: call them from a thread that may block.
pub struct Ledger {
    path: PathBuf,
    open: OpenDatabase,
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
        Ledger::open_watched(WatchedPath::new(path), path)
    }

    fn open_watched(watched: WatchedPath, path: &Path) -> Result<Ledger, LedgerError> {
        let ledger = Ledger::open_with(path, Box::new(move || watched.open()))?;
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
        let beside = path.with_extension("redb.new");
        let failed = |error: redb::Error| storage_error(path, error);
        let database = match Database::create(&beside) {
            // An earlier crash left it half-made.
            Err(DatabaseError::Storage(_)) if beside.exists() => {
                std::fs::remove_file(&beside).map_err(|error| failed(error.into()))?;
                Database::create(&beside)
            }
            created => created,
        };
        let database = database.map_err(|error| failed(error.into()))?;
        format_version(&database).map_err(failed)?;
        drop(database);
        let directory = path
            .parent()
            .filter(|dir| !dir.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let rename = || {
            std::fs::rename(&beside, path).and_then(|()| std::fs::File::open(directory)?.sync_all())
        };
        rename().map_err(|error| failed(error.into()))
    }

    /// Opens a ledger like [`Ledger::open`], but with a storage of the caller's; `path` is only for
    /// messages.
    pub fn open_with(path: &Path, open: OpenDatabase) -> Result<Ledger, LedgerError> {
        let ledger = Ledger {
            path: path.to_path_buf(),
            open,
            file: None,
            state: Mutex::default(),
            group: Group::new(),
            database: Mutex::default(),
            reading: RwLock::default(),
            queue_changes: watch::Sender::new(0),
        };
        ledger.unharmed(|| {
            let mut database = (ledger.open)().map_err(|error| ledger.storage(error.into()))?;
            // `false` means that redb has counted its free pages anew, after a crash. Contents that
            // do not fit their checksums are an error: no commit of two phases is ever undone.
            database
                .check_integrity()
                .map_err(|error| ledger.storage(error.into()))?;
            ledger.take(&mut ledger.lock(), database).map(drop)
        })?;
        Ok(ledger)
    }

    /// Carries out one command; when it returns `Ok` the command survives a crash of the machine.
    /// Commands that come while another is written are written together. After a storage error the
    /// command may be in the file or not: look at the job, once [`Ledger::refresh`] succeeds,
    /// before trying again.
    pub fn apply(&self, command: Command) -> Result<Effect, LedgerError> {
        let place = self.group.add(command);
        let mut open = self.lock();
        let answered = place.take();
        answered.unwrap_or_else(|| {
            self.write_group(&mut open, self.group.take());
            place.take().unwrap_or_else(|| {
                Err(LedgerError::Interrupted {
                    path: self.path.clone(),
                })
            })
        })
    }

    /// Writes the commands of a group in one transaction and answers them.
    fn write_group(
        &self,
        open: &mut Option<Arc<Database>>,
        group: Vec<Member<Result<Effect, LedgerError>>>,
    ) {
        let commands: Vec<&Command> = group.iter().map(|member| &member.command).collect();
        match self.write(open, &commands) {
            Ok(answers) => {
                for (member, answer) in group.into_iter().zip(answers) {
                    member.answer(answer.map_err(LedgerError::Rejected));
                }
            }
            // A refusal, too, may be due to a command before it that is not durable.
            Err(error) => group
                .into_iter()
                .for_each(|member| member.answer(Err(error.clone()))),
        }
    }

    /// Carries out commands in their order and makes them durable together; readers see none of
    /// them before. A refused command does not keep the others from it.
    fn write(
        &self,
        open: &mut Option<Arc<Database>>,
        commands: &[&Command],
    ) -> Result<Vec<Result<Effect, Rejected>>, LedgerError> {
        self.is_in_place()?;
        let database = self.database(open)?;
        let before = self.state();
        let mut steps = Vec::with_capacity(commands.len());
        let (mut last, mut answers) = (before.clone(), Vec::with_capacity(commands.len()));
        for command in commands {
            let mut next = State::clone(&last);
            let answer = next.apply(command);
            if answer.is_ok() {
                let next = Arc::new(next);
                steps.push((last.clone(), *command, next.clone()));
                last = next;
            }
            answers.push(answer);
        }
        if steps.is_empty() {
            return Ok(answers);
        }
        if let Err(error) = persist_all(&database, self.root(), &steps) {
            *open = None;
            return Err(self.storage(error));
        }
        let changes_queue = steps.iter().any(|(before, command, next)| {
            changes_queue(before.job(command.job()), next.job(command.job()))
        });
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = last;
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

    /// A counter that changes whenever another job may be the next to run: one was submitted, has
    /// ended, or has lost its strikes.
    pub fn queue_changes(&self) -> watch::Receiver<u64> {
        self.queue_changes.subscribe()
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
        let _reading = self.reading.read().unwrap_or_else(PoisonError::into_inner);
        drop(open);
        let rows =
            read_metrics(&database, job, stage, steps).map_err(|error| self.storage(error))?;
        drop(database);
        rows.into_iter()
            .map(|(step, bytes)| Ok((step, self.decode("metrics", &bytes)?)))
            .collect()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory that the ledger's file is in.
    fn root(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    fn storage(&self, error: redb::Error) -> LedgerError {
        storage_error(&self.path, error)
    }

    fn damaged(&self, what: String) -> LedgerError {
        LedgerError::Damaged {
            path: self.path.clone(),
            what,
        }
    }

    fn decode<T: DeserializeOwned>(&self, table: &str, bytes: &[u8]) -> Result<T, LedgerError> {
        postcard::from_bytes(bytes)
            .map_err(|error| self.damaged(format!("a record of table `{table}`: {error}")))
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
            self.take(open, opened.map_err(|error| self.storage(error.into()))?)
        })
    }

    /// Replaces the state by what the database holds.
    fn take(
        &self,
        open: &mut Option<Arc<Database>>,
        database: Database,
    ) -> Result<Arc<Database>, LedgerError> {
        let found = format_version(&database).map_err(|error| self.storage(error))?;
        if found > FORMAT_VERSION {
            return Err(LedgerError::Newer {
                path: self.path.clone(),
                found,
            });
        }
        self.set_state(self.load(&database)?);
        Ok(open.insert(Arc::new(database)).clone())
    }

    fn load(&self, database: &Database) -> Result<State, LedgerError> {
        let rows = read_jobs(database).map_err(|error| self.storage(error))?;
        let mut records = Vec::with_capacity(rows.len());
        for row in rows {
            let submission: Submission = self.decode("submissions", &row.submission)?;
            let progress = place::from_file(
                self.decode("progress", &row.progress)?,
                &submission.job,
                self.root(),
            );
            let evals = row
                .evals
                .iter()
                .map(|bytes| self.decode("evals", bytes).map(Arc::new))
                .collect::<Result<Vec<Arc<EvalResult>>, _>>()?;
            let reward_versions = row
                .reward_versions
                .iter()
                .map(|bytes| self.decode("graders", bytes))
                .collect::<Result<Vec<RewardVersion>, _>>()?;
            let reuse = row
                .reuse
                .as_ref()
                .map_or(Ok(Reuse::default()), |bytes| self.decode("reuse", bytes))?;
            let strikes = row
                .strikes
                .as_ref()
                .map_or(Ok(Strikes::default()), |bytes| {
                    self.decode("strikes", bytes)
                })?;
            let owner: Option<User> = row
                .owner
                .as_ref()
                .map(|bytes| self.decode("owners", bytes))
                .transpose()?;
            let standing = row
                .standing
                .as_ref()
                .map_or(Ok(Standing::default()), |bytes| {
                    self.decode("standing", bytes)
                })?;
            records.push(JobRecord {
                submission: Arc::new(submission),
                progress,
                evals: Arc::new(evals),
                reward_versions: Arc::new(reward_versions),
                reuse: Arc::new(reuse),
                request: row.request,
                strikes,
                owner,
                standing,
            });
        }
        let removals = read_removals(database).map_err(|error| self.storage(error))?;
        let removals = removals
            .into_iter()
            .map(|(job, bytes)| Ok((job, self.decode::<Removal>("removals", &bytes)?)))
            .collect::<Result<_, LedgerError>>()?;
        Ok(State::from_records(records, removals))
    }
}

fn io_error(path: &Path, source: std::io::Error) -> LedgerError {
    LedgerError::Io {
        path: path.to_path_buf(),
        source: Arc::new(source),
    }
}

fn storage_error(path: &Path, error: redb::Error) -> LedgerError {
    let path = path.to_path_buf();
    match error {
        redb::Error::DatabaseAlreadyOpen => LedgerError::InUse { path },
        redb::Error::Corrupted(what) => LedgerError::Damaged { path, what },
        redb::Error::Io(error)
            if matches!(
                error.kind(),
                ErrorKind::InvalidData | ErrorKind::UnexpectedEof
            ) =>
        {
            LedgerError::Damaged {
                path,
                what: error.to_string(),
            }
        }
        // No release has written a file that gives these errors.
        error @ (redb::Error::UpgradeRequired(_)
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }) => LedgerError::Damaged {
            path,
            what: error.to_string(),
        },
        redb::Error::Io(source) => io_error(&path, source),
        error => LedgerError::Storage {
            path,
            source: Arc::new(error),
        },
    }
}

/// Reads the file's format; a new file gets this release's.
fn format_version(database: &Database) -> Result<u64, redb::Error> {
    let write = begin(database)?;
    let found = write
        .open_table(FORMAT)?
        .get("version")?
        .map(|version| version.value());
    if let Some(found) = found {
        write.abort()?;
        return Ok(found);
    }
    write
        .open_table(FORMAT)?
        .insert("version", FORMAT_VERSION)?;
    write.open_table(SUBMISSIONS)?;
    write.open_table(PROGRESS)?;
    write.open_table(EVALS)?;
    write.open_table(METRICS)?;
    write.commit()?;
    Ok(FORMAT_VERSION)
}

/// Begins a transaction of two phases: after a crash its pages are known to be whole. With one
/// phase, a last transaction whose pages do not fit their checksums is taken for one that a crash
/// cut short, so that a damaged page would undo a command that was acknowledged. redb then also
/// finds its free pages on file, and need not walk all others before the daemon is ready.
fn begin(database: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut write = database.begin_write()?;
    write.set_quick_repair(true);
    Ok(write)
}

/// Whether the queue, or the job that goes first in it, may have changed.
fn changes_queue(before: Option<&Arc<JobRecord>>, now: Option<&Arc<JobRecord>>) -> bool {
    let place = |record: &Arc<JobRecord>| (record.state(), record.strikes.count, record.place());
    before.map(place) != now.map(place)
}

/// A command, with the states before and behind it.
type Step<'c> = (Arc<State>, &'c Command, Arc<State>);

/// Makes commands durable in one transaction.
fn persist_all(database: &Database, root: &Path, steps: &[Step]) -> Result<(), redb::Error> {
    let write = begin(database)?;
    for (before, command, state) in steps {
        persist(&write, root, before.job(command.job()), state, command)?;
    }
    write.commit()?;
    Ok(())
}

/// Writes what `command` changed of a job whose record was `before`.
fn persist(
    write: &WriteTransaction,
    root: &Path,
    before: Option<&Arc<JobRecord>>,
    state: &State,
    command: &Command,
) -> Result<(), redb::Error> {
    let Some(record) = state.job(command.job()) else {
        return persist_removal(write, state, command.job());
    };
    let job = record.job().0.as_str();
    match command {
        Command::Submit { .. } => {
            if let Some(owner) = &record.owner {
                put(write, OWNERS, job, owner)?;
            }
            put(write, SUBMISSIONS, job, &*record.submission)?;
            put(write, REUSE, job, &*record.reuse)?;
            for (index, reward_version) in record.reward_versions.iter().enumerate() {
                put(write, REWARD_VERSIONS, (job, index as u64), reward_version)?;
            }
            if let Some(request) = &record.request {
                write.open_table(REQUESTS)?.insert(job, request.as_str())?;
            }
        }
        Command::CommitStep {
            stage,
            step,
            metrics,
            ..
        } => {
            let known = write
                .open_table(METRICS)?
                .insert((job, *stage, *step), encode(metrics)?.as_slice())?
                .is_some();
            r1d_proto::invariant!(
                "STEP-1",
                !known,
                "step {step} of stage {stage} of job {job} was committed before"
            );
        }
        Command::GoBack { stage, step, .. } => {
            write
                .open_table(METRICS)?
                .retain_in((job, *stage, *step)..=(job, *stage, u64::MAX), |_, _| false)?;
            write
                .open_table(EVALS)?
                .retain_in((job, 0)..=(job, u64::MAX), |_, _| false)?;
            record
                .evals
                .iter()
                .try_for_each(|result| put_eval(write, record, result))?;
        }
        Command::Eval { result, .. } => put_eval(write, record, result)?,
        Command::ReuseStage {
            stage,
            metrics,
            evals,
            ..
        } => {
            put(write, REUSE, job, &*record.reuse)?;
            for (step, metrics) in metrics {
                write
                    .open_table(METRICS)?
                    .insert((job, *stage, *step), encode(metrics)?.as_slice())?;
            }
            evals
                .iter()
                .try_for_each(|result| put_eval(write, record, result))?;
        }
        Command::SetRewardVersion { plugin, .. } => {
            put(write, REUSE, job, &*record.reuse)?;
            if let Some((index, reward_version)) = record
                .reward_versions
                .iter()
                .enumerate()
                .rfind(|(_, reward_version)| reward_version.plugin == *plugin)
            {
                put(write, REWARD_VERSIONS, (job, index as u64), reward_version)?;
            }
        }
        _ => {}
    }
    if before.map(|before| before.strikes) != Some(record.strikes) {
        put(write, STRIKES, job, &record.strikes)?;
    }
    let standing = before.map(|before| before.standing.clone());
    if standing.unwrap_or_default() != record.standing {
        put(write, STANDING, job, &record.standing)?;
    }
    let keeps_progress = matches!(
        command,
        Command::Eval { .. }
            | Command::SetRewardVersion { .. }
            | Command::TakeUp { .. }
            | Command::PutDown { .. }
            | Command::Strike { .. }
    );
    if !keeps_progress {
        put(
            write,
            PROGRESS,
            job,
            &place::to_file(&record.progress, root),
        )?;
    }
    Ok(())
}

/// Writes the removal of a job, or its end. The rows of a removed job go with it.
fn persist_removal(
    write: &WriteTransaction,
    state: &State,
    job: &JobId,
) -> Result<(), redb::Error> {
    let id = job.0.as_str();
    let Some(removal) = state.removals().get(job) else {
        write.open_table(REMOVALS)?.remove(id)?;
        return Ok(());
    };
    put(write, REMOVALS, id, removal)?;
    for table in [SUBMISSIONS, PROGRESS, REUSE, STRIKES, OWNERS, STANDING] {
        write.open_table(table)?.remove(id)?;
    }
    write.open_table(REQUESTS)?.remove(id)?;
    for table in [EVALS, REWARD_VERSIONS] {
        let rows = (id, 0)..=(id, u64::MAX);
        write.open_table(table)?.retain_in(rows, |_, _| false)?;
    }
    let steps = (id, 0, 0)..=(id, u32::MAX, u64::MAX);
    write.open_table(METRICS)?.retain_in(steps, |_, _| false)?;
    Ok(())
}

fn put_eval(
    write: &WriteTransaction,
    record: &JobRecord,
    result: &EvalResult,
) -> Result<(), redb::Error> {
    let same = |known: &EvalResult| {
        known.stage == result.stage && known.step == result.step && known.data == result.data
    };
    match record.evals.iter().position(|known| same(known)) {
        Some(index) => put(
            write,
            EVALS,
            (record.job().0.as_str(), index as u64),
            result,
        ),
        None => Ok(()),
    }
}

fn encode(value: &impl Serialize) -> Result<Vec<u8>, redb::Error> {
    let failed = |error: postcard::Error| {
        redb::Error::Io(std::io::Error::new(
            std::io::ErrorKind::InvalidData,
            error.to_string(),
        ))
    };
    postcard::to_stdvec(value).map_err(failed)
}

fn put<'k, K: redb::Key + 'static>(
    write: &WriteTransaction,
    table: TableDefinition<K, &'static [u8]>,
    key: K::SelfType<'k>,
    value: &impl Serialize,
) -> Result<(), redb::Error> {
    write
        .open_table(table)?
        .insert(key, encode(value)?.as_slice())?;
    Ok(())
}

/// The rows of one job, as stored.
struct JobRows {
    submission: Vec<u8>,
    progress: Vec<u8>,
    evals: Vec<Vec<u8>>,
    reward_versions: Vec<Vec<u8>>,
    reuse: Option<Vec<u8>>,
    request: Option<String>,
    strikes: Option<Vec<u8>>,
    owner: Option<Vec<u8>>,
    standing: Option<Vec<u8>>,
}

fn read_jobs(database: &Database) -> Result<Vec<JobRows>, redb::Error> {
    let read = database.begin_read()?;
    let (submissions, progress, evals) = (
        read.open_table(SUBMISSIONS)?,
        read.open_table(PROGRESS)?,
        read.open_table(EVALS)?,
    );
    let (reward_versions, reuse) = (
        known(read.open_table(REWARD_VERSIONS))?,
        known(read.open_table(REUSE))?,
    );
    let (requests, strikes) = (
        known(read.open_table(REQUESTS))?,
        known(read.open_table(STRIKES))?,
    );
    let (owners, standings) = (
        known(read.open_table(OWNERS))?,
        known(read.open_table(STANDING))?,
    );
    let mut jobs = Vec::new();
    for row in submissions.iter()? {
        let (job, submission) = row?;
        let Some(progress) = progress.get(job.value())? else {
            return Err(redb::Error::Corrupted(format!(
                "job `{}` has no progress",
                job.value()
            )));
        };
        let evals = read_list(&evals, job.value())?;
        let reward_versions = reward_versions
            .as_ref()
            .map_or(Ok(Vec::new()), |reward_versions| {
                read_list(reward_versions, job.value())
            })?;
        let reuse = reuse
            .as_ref()
            .map_or(Ok(None), |reuse| reuse.get(job.value()))?
            .map(|bytes| bytes.value().to_vec());
        let strikes = strikes
            .as_ref()
            .map_or(Ok(None), |strikes| strikes.get(job.value()))?
            .map(|bytes| bytes.value().to_vec());
        let request = requests
            .as_ref()
            .map_or(Ok(None), |requests| requests.get(job.value()))?
            .map(|id| id.value().to_owned());
        let owner = owners
            .as_ref()
            .map_or(Ok(None), |owners| owners.get(job.value()))?
            .map(|bytes| bytes.value().to_vec());
        let standing = standings
            .as_ref()
            .map_or(Ok(None), |standings| standings.get(job.value()))?
            .map(|bytes| bytes.value().to_vec());
        let (submission, progress) = (submission.value().to_vec(), progress.value().to_vec());
        jobs.push(JobRows {
            submission,
            progress,
            evals,
            reward_versions,
            reuse,
            request,
            strikes,
            owner,
            standing,
        });
    }
    Ok(jobs)
}

fn read_removals(database: &Database) -> Result<Vec<(JobId, Vec<u8>)>, redb::Error> {
    let Some(removals) = known(database.begin_read()?.open_table(REMOVALS))? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for row in removals.iter()? {
        let (job, removal) = row?;
        found.push((JobId(job.value().to_owned()), removal.value().to_vec()));
    }
    Ok(found)
}

/// The table, or `None` in a ledger of an earlier release, which lacks it.
fn known<T>(table: Result<T, redb::TableError>) -> Result<Option<T>, redb::TableError> {
    match table {
        Err(redb::TableError::TableDoesNotExist(_)) => Ok(None),
        table => table.map(Some),
    }
}

/// Reads the rows of a job in a table of lists, in their order.
fn read_list(
    table: &impl ReadableTable<(&'static str, u64), &'static [u8]>,
    job: &str,
) -> Result<Vec<Vec<u8>>, redb::Error> {
    table
        .range((job, 0)..=(job, u64::MAX))?
        .map(|row| Ok(row?.1.value().to_vec()))
        .collect()
}

fn read_metrics(
    database: &Database,
    job: &JobId,
    stage: u32,
    steps: Range<u64>,
) -> Result<Vec<(u64, Vec<u8>)>, redb::Error> {
    let job = job.0.as_str();
    let table = database.begin_read()?.open_table(METRICS)?;
    let mut rows = Vec::new();
    for row in table.range((job, stage, steps.start)..(job, stage, steps.end.max(steps.start)))? {
        let (key, value) = row?;
        rows.push((key.value().2, value.value().to_vec()));
    }
    Ok(rows)
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
