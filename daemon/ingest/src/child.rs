//! Makes token sets in a child process: what a file does to the parser, the template or the
//! tokenizer that reads it, it does to the child and to nothing else. The orders of long epochs are
//! made there too, because they take much memory while they are made.
//!
//! The child is the daemon's own executable, started with arguments that make it call
//! [`serve_child`]. Its standard input is one end of a socket pair: a [`Task`] comes in, a
//! [`Report`] goes out now and then, the last with the outcome, each as one [`r1d_proto::frame`].
//! Its standard output is the file of the set, which the daemon has created: the child itself can
//! create none. Before it reads anything of a user's, it gives up
//!
//! - every file but those of its task, which it may read (Landlock, where the kernel has it),
//! - sockets, other programs and other processes (seccomp; Landlock for what seccomp cannot tell
//!   apart),
//! - capabilities, all but the one by which root reads what others own,
//! - memory, open files, and bytes written, beyond its limits.
//!
//! A kernel without Landlock leaves it the daemon user's right to read files.

use crate::ahead::OrderKey;
use crate::file::{SetError, Writer};
use crate::key::Key;
use crate::make::{Done, MakeError, MakeStatus, Making, Watch};
use crate::permutation::{self, MakesOrders};
use crate::request::Request;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use r1d_child::{Blame, ChildProcess, Ended, Ending, Lost};
use r1d_proto::frame::{self, Format};
use r1d_proto::remedy;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// Bytes of memory that a child may take (`LIM-1`): a JSON document of 2 GiB, twice while it grows.
const MEMORY_BYTES_MAX: u64 = 6 << 30;
/// Most bytes of a set (`LIM-1`): rows of 32 GiB, each character a token, and room.
const SET_BYTES_MAX: u64 = 256 << 30;
const OPEN_FILES_MAX: u64 = 64;
/// Interval at which the parent looks whether the set is still wanted.
const LOOK_MS: u64 = 100;
/// A child that computes, and reports nothing for so long, is ended: no row takes an hour.
const SILENCE_MS_MAX: u64 = 3_600_000;
/// One that does neither for so long is stopped, or hangs in a file system: another is tried.
pub const IDLE_MAX: Duration = Duration::from_secs(600);
/// Milliseconds that a report may take to arrive once it has begun.
const REPORT_MS_MAX: u64 = 10_000;
/// How Rust names missing memory before it aborts.
const NO_MEMORY: &str = "memory allocation of";
/// What a child has no use for: sockets, other programs, other processes, other file systems.
const DENIED: [i64; 27] = [
    libc::SYS_socket,
    libc::SYS_socketpair,
    libc::SYS_connect,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept,
    libc::SYS_accept4,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_io_uring_setup,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
];

/// Who makes token sets.
#[derive(Clone, Debug)]
pub enum Maker {
    /// This process: for tests.
    InProcess,
    /// A child process, `program args…`, which must call [`serve_child`].
    Child {
        /// Path of the executable.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
        /// One that neither computes nor reports anything for so long is replaced: [`IDLE_MAX`].
        idle_max: Duration,
    },
}

/// What a child makes.
#[derive(Serialize, Deserialize)]
enum Task {
    /// A token set.
    Set {
        request: Box<Request>,
        key: Key,
        /// The folder of token sets.
        dir: PathBuf,
    },
    /// The order of an epoch: while it is made it is in memory, four bytes a row.
    Order(OrderKey),
}

/// What a child tells.
#[derive(Serialize, Deserialize)]
enum Report {
    /// So much is done.
    Done(Done),
    /// The set is made, or why it is not.
    Ended(Result<(), Failure>),
}

/// A [`MakeError`] on its way to the parent.
#[derive(Debug, Serialize, Deserialize)]
enum Failure {
    Data(String),
    /// The machine failed the child, in words.
    Machine(String),
    Damaged,
    /// The system's error of a set of rows that cannot be read.
    Read(Option<i32>, String),
    /// The system's error of a set that cannot be written.
    Write(Option<i32>, String),
}

impl From<MakeError> for Failure {
    fn from(error: MakeError) -> Failure {
        match error {
            MakeError::Set(SetError::Damaged(_)) => Failure::Damaged,
            MakeError::Set(SetError::Io(e)) => Failure::Read(e.raw_os_error(), e.to_string()),
            MakeError::Write(e) => Failure::Write(e.raw_os_error(), e.to_string()),
            MakeError::Data(error) if remedy::is_the_machines(&error) => {
                Failure::Machine(error.to_string())
            }
            MakeError::Data(error) => Failure::Data(error.to_string()),
            MakeError::Lost(told) => Failure::Machine(told),
            MakeError::Told(told) => Failure::Data(told),
            MakeError::Unwanted => Failure::Data(MakeError::Unwanted.to_string()),
        }
    }
}

impl From<Failure> for MakeError {
    fn from(failure: Failure) -> MakeError {
        let system = |number: Option<i32>, text| match number {
            Some(number) => io::Error::from_raw_os_error(number),
            None => io::Error::other(text),
        };
        match failure {
            Failure::Data(told) => MakeError::Told(told),
            Failure::Machine(told) => MakeError::Lost(told),
            Failure::Damaged => SetError::Damaged("rows that it is made of").into(),
            Failure::Read(number, text) => SetError::Io(system(number, text)).into(),
            Failure::Write(number, text) => MakeError::Write(system(number, text)),
        }
    }
}

impl Maker {
    /// Makes the set of `key` in an empty file. The sets of rows that it is made of are in `dir`.
    pub(crate) fn make(
        &self,
        request: &Request,
        (key, dir): (&Key, &Path),
        file: File,
        watch: Watch<'_>,
    ) -> Result<(), MakeError> {
        let Maker::Child { .. } = self else {
            return request.make(key, Making::new(Writer::new(file)?, watch), dir);
        };
        let task = Task::Set {
            request: Box::new(request.clone()),
            key: *key,
            dir: dir.into(),
        };
        self.by_child(&task, &file, watch)
    }

    /// Has a child do a task, if that is who makes sets.
    fn by_child(&self, task: &Task, file: &File, watch: Watch<'_>) -> Result<(), MakeError> {
        let Maker::Child {
            program,
            args,
            idle_max,
        } = self
        else {
            return Ok(());
        };
        let child = TaskChild {
            program,
            args,
            idle_max: *idle_max,
            task,
        };
        child.make(file, watch)
    }
}

impl MakesOrders for Maker {
    fn make_order(&self, key: &OrderKey, file: &File) -> io::Result<()> {
        let Maker::Child { .. } = self else {
            return permutation::write(key, file);
        };
        let made = self.by_child(&Task::Order(*key), file, &mut |_| true);
        made.map_err(|error| match error {
            MakeError::Write(error) => error,
            error => io::Error::other(error.to_string()),
        })
    }
}

/// The child that does one task, as it is started.
struct TaskChild<'a> {
    program: &'a Path,
    args: &'a [OsString],
    idle_max: Duration,
    task: &'a Task,
}

impl TaskChild<'_> {
    /// Has a child do the task in `file`, and another if that one is lost.
    fn make(&self, file: &File, watch: Watch<'_>) -> Result<(), MakeError> {
        let (name, watch) = (self.task.name(), RefCell::new(watch));
        let made = r1d_child::with_retries(
            &format!("the process that reads {name}"),
            || self.attempt(file, *watch.borrow_mut()),
            |lost, pause| {
                let watch = &mut *watch.borrow_mut();
                let cause = &lost.cause;
                let wanted = || watch(MakeStatus::Again { cause, pause });
                if r1d_child::pause(pause, wanted) {
                    Ok(())
                } else {
                    Err(MakeError::Unwanted)
                }
            },
        );
        made.map_err(|ending| match ending {
            Ending::Other(error) => error,
            Ending::Lost(Lost {
                cause,
                blame,
                remedy,
            }) => match blame {
                Blame::Itself => MakeError::Told(format!(
                    "{name}: {cause}: what ends it is in these files, or in the tokenizer or \
                     template"
                )),
                Blame::Outside => MakeError::Lost(format!("{name}: {cause}: {remedy}")),
            },
        })
    }

    fn attempt(&self, file: &File, watch: Watch<'_>) -> Result<(), Ending<MakeError>> {
        let started = emptied(file).and_then(|file| {
            let mut command = Command::new(self.program);
            command.args(self.args).env_clear().stdout(file);
            ChildProcess::start(&mut command, Duration::from_millis(REPORT_MS_MAX))
        });
        let mut child = started
            .map_err(|error| Ending::Lost(Lost::not_started("the reading process", &error)))?;
        let outcome = frame::write_blocking(&mut child.stream, Format::Postcard, self.task)
            .map_err(|_| Broken::Lost)
            .and_then(|()| outcome(&mut child, self.idle_max, watch));
        // The child has told how it ended, died, or is no longer wanted: in each case it can go.
        let ended = child.end();
        match outcome {
            Ok(made) => made.map_err(|failure| Ending::Other(failure.into())),
            Err(Broken::Unwanted) => Err(Ending::Other(MakeError::Unwanted)),
            Err(Broken::Lost) => Err(self.lost(&ended)),
            Err(Broken::Idle) => {
                let s = self.idle_max.as_secs();
                let cause = format!("the reading process got no further for {s} s");
                Err(Ending::Lost(Lost::ended(cause, Blame::Outside)))
            }
            Err(Broken::Silent) => Err(self.over_limit(format!(
                "a row takes longer than {} s",
                SILENCE_MS_MAX / 1000
            ))),
        }
    }

    /// Why a child that has died gave no answer.
    fn lost(&self, ended: &Ended) -> Ending<MakeError> {
        if ended.said.contains(NO_MEMORY) {
            return self.over_limit(format!(
                "reading it takes more memory than the limit of {} GiB: split its rows, or write \
                 it as JSON lines",
                MEMORY_BYTES_MAX >> 30
            ));
        }
        if ended.by(Signal::XFSZ) {
            if let Some(bytes) = file_bytes_max() {
                return Ending::Other(MakeError::Lost(format!(
                    "what is made of the data has more than the {bytes} bytes that the daemon may \
                     write to a file: let it write larger files (LimitFSIZE= of its unit)"
                )));
            }
            return self.over_limit(format!(
                "what is made of it has more than {} GiB: split it",
                SET_BYTES_MAX >> 30
            ));
        }
        let cause = format!("the reading process ended without an answer {ended}");
        Ending::Lost(Lost::ended(cause, ended.blame()))
    }

    /// A limit of the child's own, which another child would meet too.
    fn over_limit(&self, what: String) -> Ending<MakeError> {
        let name = self.task.name();
        Ending::Other(MakeError::Told(format!("{name}: {what}")))
    }
}

/// The set's file without what an earlier child has written.
fn emptied(mut file: &File) -> io::Result<File> {
    file.set_len(0)?;
    file.rewind()?;
    file.try_clone()
}

/// Why there is no answer.
enum Broken {
    Unwanted,
    Lost,
    /// It has neither said nor computed anything.
    Idle,
    /// It has computed, and said nothing.
    Silent,
}

/// Waits for the outcome, and hands on what the child reports until then. A child that says nothing
/// and has no processor time for `idle_max` is stopped, or hangs in a file system.
fn outcome(
    child: &mut ChildProcess,
    idle_max: Duration,
    watch: Watch<'_>,
) -> Result<Result<(), Failure>, Broken> {
    let look = Timespec {
        tv_sec: 0,
        tv_nsec: (LOOK_MS * 1_000_000) as _,
    };
    let (mut silent_ms, mut idle_ms, mut done) = (0, 0, Done::default());
    let mut processor_ms = child.processor_ms();
    loop {
        match poll(
            &mut [PollFd::new(&child.stream, PollFlags::IN)],
            Some(&look),
        ) {
            // Nothing has come yet, or a signal interrupted the wait.
            Ok(0) | Err(rustix::io::Errno::INTR) => {
                let now = child.processor_ms();
                idle_ms = if now == processor_ms {
                    idle_ms + LOOK_MS
                } else {
                    0
                };
                (processor_ms, silent_ms) = (now, silent_ms + LOOK_MS);
            }
            Err(_) => return Err(Broken::Lost),
            Ok(_) => {
                (silent_ms, idle_ms) = (0, 0);
                let report = frame::read_blocking(&mut child.stream, Format::Postcard);
                match report.map_err(|_| Broken::Lost)? {
                    Report::Done(now) => done = now,
                    Report::Ended(outcome) => return Ok(outcome),
                }
            }
        }
        if silent_ms >= SILENCE_MS_MAX {
            return Err(Broken::Silent);
        }
        let left = idle_max.saturating_sub(Duration::from_millis(idle_ms));
        if left.is_zero() {
            return Err(Broken::Idle);
        }
        let left = Some(left);
        if !watch(MakeStatus::Working { done, left }) {
            return Err(Broken::Unwanted);
        }
    }
}

/// The child's `main`: limits itself, then makes the one set that it is asked for.
pub fn serve_child() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Box<dyn Error>> {
    limit_itself()?;
    r1d_child::die_with_parent()?;
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let task: Task = frame::read_blocking(&mut stream, Format::Postcard)?;
    confine(&task.paths())?;
    let mut told = stream.try_clone()?;
    let mut watch = |status: MakeStatus<'_>| {
        // A parent that is gone wants nothing.
        frame::write_blocking(&mut told, Format::Postcard, &Report::Done(status.done())).is_ok()
    };
    let made = match &task {
        Task::Set { request, key, dir } => Writer::new(file)
            .map_err(MakeError::Write)
            .and_then(|writer| request.make(key, Making::new(writer, &mut watch), dir)),
        Task::Order(key) => permutation::write(key, &file).map_err(MakeError::Write),
    };
    let report = Report::Ended(made.map_err(Failure::from));
    Ok(frame::write_blocking(
        &mut stream,
        Format::Postcard,
        &report,
    )?)
}

/// Limits this process, and gives up what no task needs.
fn limit_itself() -> rustix::io::Result<()> {
    limit(Resource::Data, MEMORY_BYTES_MAX)?;
    limit(Resource::Fsize, SET_BYTES_MAX)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Nofile, OPEN_FILES_MAX)?;
    rustix::thread::set_no_new_privs(true)?;
    keep_reading_alone()
}

/// The system's limit on the size of this process's files, if it is below that of a set.
fn file_bytes_max() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Fsize).maximum;
    limit.filter(|bytes| *bytes < SET_BYTES_MAX)
}

fn limit(resource: Resource, max: u64) -> rustix::io::Result<()> {
    let max = rustix::process::getrlimit(resource)
        .maximum
        .map_or(max, |hard| hard.min(max));
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: Some(max),
            maximum: Some(max),
        },
    )
}

/// Gives up every capability but the one by which root reads what others own.
fn keep_reading_alone() -> rustix::io::Result<()> {
    let kept = rustix::thread::capabilities(None)?.permitted & CapabilitySet::DAC_READ_SEARCH;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets {
            effective: kept,
            permitted: kept,
            inheritable: CapabilitySet::empty(),
        },
    )
}

/// Leaves this process these files, to read, and no way out but the descriptors that it has open.
pub fn confine(files: &[PathBuf]) -> Result<(), Box<dyn Error>> {
    let abi = ABI::V6;
    let rules = files.iter().filter_map(|path| {
        // What cannot be opened here is named when it is to be read.
        let path = PathFd::new(path).ok()?;
        Some(Ok::<_, RulesetError>(PathBeneath::new(
            path,
            AccessFs::ReadFile,
        )))
    });
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(abi))?
        .handle_access(AccessNet::from_all(abi))?
        .scope(Scope::from_all(abi))?
        .create()?
        .add_rules(rules)?
        .restrict_self()?;
    let denied: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        DENIED.iter().map(|call| (*call, Vec::new())).collect();
    let filter = SeccompFilter::new(
        denied,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::EPERM as u32),
        std::env::consts::ARCH.try_into()?,
    )?;
    let program: BpfProgram = filter.try_into()?;
    Ok(seccompiler::apply_filter(&program)?)
}

impl Task {
    /// What is read, in errors.
    fn name(&self) -> String {
        match self {
            Task::Set { request, .. } => format!("data.{}", request.names()),
            Task::Order(_) => "the order of an epoch".to_owned(),
        }
    }

    /// The files that the child may read.
    fn paths(&self) -> Vec<PathBuf> {
        let Task::Set { request, dir, .. } = self else {
            return Vec::new();
        };
        let rows = request.rows().into_iter();
        let rows = rows.map(|rows| dir.join(rows.key.to_string()));
        request.files().into_iter().chain(rows).collect()
    }
}
