//! Makes token sets in a child process: what a file does to the parser, the template or the
//! tokenizer that reads it, it does to the child and to nothing else.
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

use crate::file::{SetError, Writer};
use crate::key::Key;
use crate::make::{Done, MakeError, Making, Watch};
use crate::request::Request;
use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetError, Scope,
};
use r1d_proto::frame::{self, Format, FrameError};
use r1d_proto::shown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::error::Error;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

/// Bytes of memory that a child may take (`LIM-1`): a JSON document of 2 GiB, twice while it grows.
const MEMORY_BYTES_MAX: u64 = 6 << 30;
/// Most bytes of a set (`LIM-1`): rows of 32 GiB, each character a token, and room.
const SET_BYTES_MAX: u64 = 256 << 30;
const OPEN_FILES_MAX: u64 = 64;
/// Interval at which the parent looks whether the set is still wanted.
const LOOK_MS: u64 = 100;
/// A child that reports nothing for so long is ended: no row takes an hour.
const SILENCE_MS_MAX: u64 = 3_600_000;
/// Milliseconds that a report may take to arrive once it has begun.
const REPORT_MS_MAX: u64 = 10_000;
/// Bytes that are read from a dead child's standard error.
const LAST_WORDS_BYTES_MAX: u64 = 4 << 10;
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
    },
}

/// What a child makes.
#[derive(Serialize, Deserialize)]
struct Task {
    request: Request,
    key: Key,
    /// The folder of token sets.
    dir: PathBuf,
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
            MakeError::Data(error) => Failure::Data(error.to_string()),
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
        match self {
            Maker::InProcess => request.make(key, Making::new(Writer::new(file)?, watch), dir),
            Maker::Child { program, args } => {
                let task = Task {
                    request: request.clone(),
                    key: *key,
                    dir: dir.into(),
                };
                in_child(program, args, &task, file, watch)
            }
        }
    }
}

fn in_child(
    program: &Path,
    args: &[OsString],
    task: &Task,
    file: File,
    watch: Watch<'_>,
) -> Result<(), MakeError> {
    let name = task.request.names();
    let failed = |what: &str, error: &dyn Error| {
        MakeError::Told(format!("data.{name}: {what} the reading process: {error}"))
    };
    let (mut ours, theirs) = UnixStream::pair().map_err(|e| failed("cannot connect to", &e))?;
    let wait = Some(Duration::from_millis(REPORT_MS_MAX));
    ours.set_read_timeout(wait)
        .and_then(|()| ours.set_write_timeout(wait))
        .map_err(|e| failed("cannot connect to", &e))?;
    let mut child = Command::new(program)
        .args(args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::from(file))
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed("cannot start", &e))?;
    let ended = frame::write_blocking(&mut ours, Format::Postcard, task)
        .map_err(Broken::Lost)
        .and_then(|()| outcome(&mut ours, watch));
    // The child has told how it ended, died, or is no longer wanted: in each case it can go.
    let _ = child.kill();
    let status = child.wait();
    match ended {
        Ok(outcome) => Ok(outcome?),
        Err(Broken::Unwanted) => Err(MakeError::Unwanted),
        Err(Broken::Lost(error)) => {
            let said = last_words(&mut child);
            let said = said.trim();
            if said.contains(NO_MEMORY) {
                let limit = MEMORY_BYTES_MAX >> 30;
                return Err(MakeError::Told(format!(
                    "data.{name}: reading it takes more memory than the limit of {limit} GiB: \
                     split its rows, or write it as JSON lines"
                )));
            }
            let status = status.map_or_else(|_| error.to_string(), |status| status.to_string());
            let said = if said.is_empty() {
                String::new()
            } else {
                format!(": {}", shown::quote(said))
            };
            Err(MakeError::Told(format!(
                "data.{name}: the reading process ended without an answer ({status}){said}"
            )))
        }
    }
}

/// Why there is no answer.
enum Broken {
    Unwanted,
    Lost(FrameError),
}

/// Waits for the outcome, and hands on what the child reports until then.
fn outcome(stream: &mut UnixStream, watch: Watch<'_>) -> Result<Result<(), Failure>, Broken> {
    let look = Timespec {
        tv_sec: 0,
        tv_nsec: (LOOK_MS * 1_000_000) as _,
    };
    let (mut silent_ms, mut done) = (0, Done::default());
    loop {
        match poll(&mut [PollFd::new(&*stream, PollFlags::IN)], Some(&look)) {
            // Nothing has come yet, or a signal interrupted the wait.
            Ok(0) | Err(rustix::io::Errno::INTR) => silent_ms += LOOK_MS,
            Err(error) => return Err(Broken::Lost(FrameError::Io(error.into()))),
            Ok(_) => {
                silent_ms = 0;
                match frame::read_blocking(stream, Format::Postcard).map_err(Broken::Lost)? {
                    Report::Done(now) => done = now,
                    Report::Ended(outcome) => return Ok(outcome),
                }
            }
        }
        if silent_ms >= SILENCE_MS_MAX {
            return Err(Broken::Lost(FrameError::Io(io::ErrorKind::TimedOut.into())));
        }
        if !watch(done) {
            return Err(Broken::Unwanted);
        }
    }
}

/// The beginning of a dead child's standard error.
fn last_words(child: &mut Child) -> String {
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // An empty text is no error.
        let _ = stderr.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut said);
    }
    String::from_utf8_lossy(&said).into_owned()
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
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let file = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let task: Task = frame::read_blocking(&mut stream, Format::Postcard)?;
    confine(&task.paths())?;
    let mut told = stream.try_clone()?;
    let mut watch = |done| {
        // A parent that is gone wants nothing.
        frame::write_blocking(&mut told, Format::Postcard, &Report::Done(done)).is_ok()
    };
    let made = Writer::new(file)
        .map_err(MakeError::Write)
        .and_then(|writer| {
            let making = Making::new(writer, &mut watch);
            task.request.make(&task.key, making, &task.dir)
        });
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
    fn paths(&self) -> Vec<PathBuf> {
        let rows = self.request.rows().into_iter();
        let rows = rows.map(|rows| self.dir.join(rows.key.to_string()));
        self.request.files().into_iter().chain(rows).collect()
    }
}
