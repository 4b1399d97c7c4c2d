//! Compiles WASM to machine code in a child process: a component that makes the compiler crash,
//! spin or swallow memory takes the child down and nothing else. A few are compiled at a time, and
//! the memory that one may take grows with its size.
//!
//! The child is the daemon's own executable (`/proc/self/exe`, which outlives an upgrade of the
//! file), started with arguments that make it call [`serve_child`]; its standard input is one end
//! of a socket pair that carries one [`r1d_proto::frame`] each way. One that ends before it has
//! answered is replaced ([`r1d_child`]). It has no environment, no capability to gain privileges,
//! another user's id when the daemon is root, and limits on memory, processor time and files.
//!
//! The child protects the daemon's life, not its secrets: if the daemon is not root, the child has
//! the daemon's own user id, and its answer is run as code. Cranelift is trusted to make code that
//! stays in its sandbox, as the daemon trusts wasmtime to run it.

use crate::abandoned::Abandoned;
use crate::engine;
use r1d_child::{Blame, ChildProcess, Ending, Lost, Within};
use r1d_proto::frame::{self, Format, FrameError};
use r1d_proto::world::Clock;
use rustix::process::{Resource, Rlimit, Signal};
use serde::{Deserialize, Serialize};
use std::error::Error;
use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// Milliseconds that compiling may take for any component; every [`COMPILE_BYTES_PER_MS`] bytes of
/// it add one: CPython with sympy, 72 MB, compiles in about 30 s on one core.
const COMPILE_MS_MIN: u64 = 60_000;
const COMPILE_BYTES_PER_MS: u64 = 100;
const COMPILE_MS_MAX: u64 = 300_000;
/// Processor time per wall-clock time: the threads' processor times add up.
const CPU_PER_WALL_MAX: u64 = 4;
/// A child that is late and had less than this part of the time on one processor was stopped, or
/// the machine is too busy: that says nothing of the component.
const PROCESSOR_SHARE_MIN: u64 = 4;
/// Seconds of processor time between the signal that tells of its limit and the one that ends any
/// process.
const PROCESSOR_GRACE_S: u64 = 5;
/// Number of components that are compiled at a time.
pub(crate) const COMPILES_MAX: u32 = 2;
/// Number of threads of one compilation; each takes memory of its own.
const COMPILE_THREADS: &str = "4";
/// Bytes of memory that compiling may take for any component; every byte of it adds
/// [`MEMORY_PER_BYTE`]: CPython, 24 MB, takes 0.6 GB on two threads.
const MEMORY_BYTES_MIN: u64 = 512 << 20;
const MEMORY_PER_BYTE: u64 = 64;
const MEMORY_BYTES_MAX: u64 = 4 << 30;
const ADDRESS_SPACE_BYTES_MAX: u64 = 8 << 30;
/// Messages about missing memory: Rust's, and the system's.
const NO_MEMORY: [&str; 2] = ["memory allocation of", "Cannot allocate memory"];
const OPEN_FILES_MAX: u64 = 32;
/// The user and group id `nobody`.
const UNPRIVILEGED_ID: u32 = 65_534;

/// The process that compiles components.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// This process: for tools that load one plugin of the user's own and end.
    InProcess,
    /// A child process, `program args…`, which must call [`serve_child`].
    Child {
        /// Path of the executable.
        program: PathBuf,
        /// Its arguments.
        args: Vec<OsString>,
    },
}

#[derive(Serialize, Deserialize)]
struct Request {
    component: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
struct Reply {
    code: Result<Vec<u8>, String>,
}

/// Why there is no code.
pub(crate) enum CompileError {
    /// The component is at fault, in words.
    Refused(String),
    /// The machine is at fault, in words.
    Lost(String),
    /// The code is no longer wanted.
    Abandoned,
}

/// Whoever waits for the code.
pub(crate) struct Waiter<'a> {
    pub clock: &'a dyn Clock,
    /// The plugin, as the job names it.
    pub plugin: &'a str,
    /// Set once the code is no longer wanted.
    pub abandoned: &'a Abandoned,
    /// Hears in words what happens, and for how long at most.
    pub told: &'a dyn Fn(&str, Option<Duration>),
}

impl Compiler {
    /// Returns serialised machine code for this engine's settings.
    pub(crate) fn compile(
        &self,
        component: &[u8],
        waiter: &Waiter<'_>,
    ) -> Result<Vec<u8>, CompileError> {
        match self {
            Compiler::InProcess => {
                (waiter.told)("being compiled", None);
                precompile(component).map_err(CompileError::Refused)
            }
            Compiler::Child { program, args } => CompilerChild {
                program,
                args,
                component,
                waiter,
            }
            .compile(),
        }
    }
}

fn precompile(component: &[u8]) -> Result<Vec<u8>, String> {
    let engine = engine::compiler().map_err(|e| e.to_string())?;
    engine
        .precompile_component(component)
        .map_err(|e| format!("{e:#}"))
}

/// Bytes of memory that compiling a component of this size may take: a small one does not need
/// more, whatever it was built to make the compiler do.
fn memory_bytes_max(component_bytes: usize) -> u64 {
    MEMORY_BYTES_MIN
        .saturating_add(MEMORY_PER_BYTE.saturating_mul(component_bytes as u64))
        .min(MEMORY_BYTES_MAX)
}

/// Milliseconds that compiling a component of this size may take, from the child's start to its
/// answer.
fn wall_ms_max(component_bytes: usize) -> u64 {
    (COMPILE_MS_MIN + component_bytes as u64 / COMPILE_BYTES_PER_MS).min(COMPILE_MS_MAX)
}

fn processor_s_max(component_bytes: usize) -> u64 {
    CPU_PER_WALL_MAX * wall_ms_max(component_bytes) / 1000
}

/// The child that compiles one component, as it is started.
struct CompilerChild<'a> {
    program: &'a Path,
    args: &'a [OsString],
    component: &'a [u8],
    waiter: &'a Waiter<'a>,
}

impl CompilerChild<'_> {
    /// Has a child compile the component, and another if that one is lost.
    fn compile(&self) -> Result<Vec<u8>, CompileError> {
        let wanted = || !self.waiter.abandoned.is_set();
        let told = self.waiter.told;
        let wall = Duration::from_millis(wall_ms_max(self.component.len()));
        told("being compiled", Some(wall));
        let compiled = r1d_child::with_retries(
            &format!("the process that compiles plugin {}", self.waiter.plugin),
            || self.attempt(),
            |lost, pause| {
                let s = pause.as_secs_f64();
                let again = format!("compiled again in {s} s, because {}", lost.cause);
                told(&again, Some(pause + wall));
                if r1d_child::pause(pause, wanted) {
                    Ok(())
                } else {
                    Err(CompileError::Abandoned)
                }
            },
        );
        compiled.map_err(|ending| match ending {
            Ending::Other(error) => error,
            Ending::Lost(lost) => match lost.blame {
                Blame::Itself => CompileError::Refused(lost.cause),
                Blame::Outside => CompileError::Lost(format!("{}: {}", lost.cause, lost.remedy)),
            },
        })
    }

    /// Sends the child the component and waits for its code, until a time of the clock's, or until
    /// that is no longer wanted.
    fn ask(&self, child: &ChildProcess, ends: Duration) -> Result<Reply, FrameError> {
        let request = Request {
            component: self.component.to_vec(),
        };
        let wanted = || !self.waiter.abandoned.is_set();
        let mut stream = Within::new(&child.stream, (self.waiter.clock, ends), &wanted)?;
        frame::write_blocking(&mut stream, Format::Postcard, &request)?;
        frame::read_blocking(&mut stream, Format::Postcard)
    }

    fn attempt(&self) -> Result<Vec<u8>, Ending<CompileError>> {
        let bytes = self.component.len();
        let wall_ms = wall_ms_max(bytes);
        let mut command = Command::new(self.program);
        command
            .args(self.args)
            .env_clear()
            .env("RAYON_NUM_THREADS", COMPILE_THREADS)
            .stdout(Stdio::null());
        let ends = self.waiter.clock.now() + Duration::from_millis(wall_ms);
        let child =
            ChildProcess::start(&mut command, Duration::from_millis(wall_ms)).map_err(|error| {
                let what = format!("the compiling process, {},", self.program.display());
                Ending::Lost(Lost::not_started(&what, &error))
            })?;
        let reply = self.ask(&child, ends);
        // The child has answered, died or run out of time, or its answer is no longer wanted: in
        // each case the process can go.
        let ended = child.end();
        if self.waiter.abandoned.is_set() {
            return Err(Ending::Other(CompileError::Abandoned));
        }
        let refused = |why| Err(Ending::Other(CompileError::Refused(why)));
        let error = match reply {
            Ok(Reply { code: Ok(code) }) => return Ok(code),
            Ok(Reply { code: Err(why) }) if is_memory(&why) => return refused(over_memory(bytes)),
            Ok(Reply { code: Err(why) }) => return refused(why),
            Err(error) => error,
        };
        let had_ms = ended.processor_ms;
        match error {
            error if is_late(&error) && had_ms < wall_ms / PROCESSOR_SHARE_MIN => {
                let cause = format!(
                    "the compiling process was let compute for {:.1} s of {} s",
                    had_ms as f64 / 1000.0,
                    wall_ms / 1000
                );
                Err(Ending::Lost(Lost::ended(cause, Blame::Outside)))
            }
            error if is_late(&error) => refused(format!(
                "compiling it takes longer than {} s",
                wall_ms / 1000
            )),
            _ if is_memory(&ended.said) => refused(over_memory(bytes)),
            _ if ended.by(Signal::XCPU) => refused(format!(
                "compiling it takes more processor time than the limit of {} s",
                processor_s_max(bytes)
            )),
            _ => {
                let cause = format!("the compiling process ended without an answer {ended}");
                Err(Ending::Lost(Lost::ended(cause, ended.blame())))
            }
        }
    }
}

fn is_late(error: &FrameError) -> bool {
    matches!(error, FrameError::Io(e) if e.kind() == io::ErrorKind::TimedOut)
}

fn is_memory(text: &str) -> bool {
    NO_MEMORY.iter().any(|words| text.contains(words))
}

fn over_memory(component_bytes: usize) -> String {
    let limit = memory_bytes_max(component_bytes) >> 20;
    format!(
        "compiling it takes more memory than the limit of {limit} MiB for a component of \
         {component_bytes} bytes"
    )
}

/// The child's `main`: gives up privileges, then compiles the one component that comes over
/// standard input.
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
    give_up_privileges().map_err(|e| format!("cannot give up privileges: {e}"))?;
    r1d_child::die_with_parent()?;
    let mut stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let request = frame::read_blocking::<Request>(&mut stream, Format::Postcard)?;
    let bytes = request.component.len();
    limit(Resource::Data, memory_bytes_max(bytes), 0)
        .and_then(|()| limit(Resource::Cpu, processor_s_max(bytes), PROCESSOR_GRACE_S))
        .map_err(|e| format!("cannot limit memory and processor time: {e}"))?;
    let reply = Reply {
        code: precompile(&request.component),
    };
    match frame::write_blocking(&mut stream, Format::Postcard, &reply) {
        // So would the code of another child be.
        Err(FrameError::TooLong(bytes)) => {
            let code = Err(format!(
                "its code would have {bytes} bytes: make it smaller"
            ));
            frame::write_blocking(&mut stream, Format::Postcard, &Reply { code })?;
        }
        written => written?,
    }
    Ok(())
}

/// Sets a limit, and `grace` more for what the process is ended at without a word.
fn limit(resource: Resource, max: u64, grace: u64) -> rustix::io::Result<()> {
    let hard = rustix::process::getrlimit(resource).maximum;
    let at_most = |max: u64| hard.map_or(max, |hard| hard.min(max));
    rustix::process::setrlimit(
        resource,
        Rlimit {
            current: Some(at_most(max)),
            maximum: Some(at_most(max.saturating_add(grace))),
        },
    )
}

/// Limits the process and drops its privileges. It runs before any input is read, and threads that
/// are started later inherit it.
fn give_up_privileges() -> rustix::io::Result<()> {
    limit(Resource::As, ADDRESS_SPACE_BYTES_MAX, 0)?;
    limit(Resource::Core, 0, 0)?;
    limit(Resource::Fsize, 0, 0)?;
    limit(Resource::Nofile, OPEN_FILES_MAX, 0)?;
    rustix::thread::set_no_new_privs(true)?;
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    match become_nobody() {
        // A container's root that may not change its id has no privilege to lose.
        Err(rustix::io::Errno::PERM | rustix::io::Errno::INVAL) => Ok(()),
        result => result,
    }
}

fn become_nobody() -> rustix::io::Result<()> {
    let (user, group) = (
        rustix::process::Uid::from_raw(UNPRIVILEGED_ID),
        rustix::process::Gid::from_raw(UNPRIVILEGED_ID),
    );
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)
}
