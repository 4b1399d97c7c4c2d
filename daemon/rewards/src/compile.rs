//! Compiles WASM to machine code in a child process: a component that makes the compiler crash,
//! spin or swallow memory takes the child down and nothing else. A few are compiled at a time, and
//! the memory that one may take grows with its size.
//!
//! The child is the daemon's own executable (`/proc/self/exe`, which outlives an upgrade of the
//! file), started with arguments that make it call [`serve_child`]; its standard input is one end
//! of a socket pair that carries one [`r1d_proto::frame`] each way. It has no environment, no
//! capability to gain privileges, another user's id when the daemon is root, and limits on memory,
//! processor time and files.
//!
//! The child protects the daemon's life, not its secrets: if the daemon is not root, the child has
//! the daemon's own user id, and its answer is run as code. Cranelift is trusted to make code that
//! stays in its sandbox, as the daemon trusts wasmtime to run it.

use crate::abandoned::Abandoned;
use crate::engine;
use crate::gate::LOOK;
use r1d_proto::frame::{self, Format, FrameError};
use r1d_proto::shown;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

/// Milliseconds that compiling may take for any component; every [`COMPILE_BYTES_PER_MS`] bytes of
/// it add one: CPython with sympy, 72 MB, compiles in about 30 s on one core.
const COMPILE_MS_MIN: u64 = 60_000;
const COMPILE_BYTES_PER_MS: u64 = 100;
const COMPILE_MS_MAX: u64 = 300_000;
/// Processor time per wall-clock time: the threads' processor times add up.
const CPU_PER_WALL_MAX: u64 = 4;
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
/// Bytes that are read from a dying child's standard error.
const LAST_WORDS_BYTES_MAX: u64 = 4 << 10;
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

impl Compiler {
    /// Returns serialised machine code for this engine's settings. The error is the reason in a few
    /// words, or `None` if the code is no longer wanted.
    pub(crate) fn compile(
        &self,
        component: &[u8],
        abandoned: &Abandoned,
    ) -> Result<Vec<u8>, Option<String>> {
        match self {
            Compiler::InProcess => precompile(component).map_err(Some),
            Compiler::Child { program, args } => {
                in_child(program.clone(), args, component, abandoned)
            }
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

/// Milliseconds that compiling a component of this size may take.
fn wall_ms_max(component_bytes: usize) -> u64 {
    (COMPILE_MS_MIN + component_bytes as u64 / COMPILE_BYTES_PER_MS).min(COMPILE_MS_MAX)
}

fn processor_s_max(component_bytes: usize) -> u64 {
    CPU_PER_WALL_MAX * wall_ms_max(component_bytes) / 1000
}

fn in_child(
    program: PathBuf,
    args: &[OsString],
    component: &[u8],
    abandoned: &Abandoned,
) -> Result<Vec<u8>, Option<String>> {
    let failed =
        |what: &str, e: &dyn std::fmt::Display| Some(format!("{what} the compiling process: {e}"));
    let (mut ours, theirs) = UnixStream::pair().map_err(|e| failed("cannot connect to", &e))?;
    let wall_ms = wall_ms_max(component.len());
    let wait = Some(Duration::from_millis(wall_ms));
    ours.set_read_timeout(wait)
        .and_then(|()| ours.set_write_timeout(wait))
        .map_err(|e| failed("cannot connect to", &e))?;
    let mut child = Command::new(&program)
        .args(args)
        .env_clear()
        .env("RAYON_NUM_THREADS", COMPILE_THREADS)
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| failed(&format!("cannot start {} as", program.display()), &e))?;
    let request = Request {
        component: component.to_vec(),
    };
    let written = frame::write_blocking(&mut ours, Format::Postcard, &request);
    let reply = written.and_then(|()| {
        if answers(&ours, wall_ms, abandoned) {
            frame::read_blocking::<Reply>(&mut ours, Format::Postcard)
        } else {
            Err(FrameError::Io(std::io::ErrorKind::TimedOut.into()))
        }
    });
    // The child has answered, died or run out of time, or its answer is no longer wanted: in each
    // case the process can go.
    let _ = child.kill();
    let (status, said) = (child.wait(), last_words(&mut child));
    if abandoned.is_set() {
        return Err(None);
    }
    let memory = || {
        let (limit, bytes) = (memory_bytes_max(component.len()) >> 20, component.len());
        format!(
            "compiling it takes more memory than the limit of {limit} MiB for a component of \
             {bytes} bytes"
        )
    };
    let is_memory = |text: &str| NO_MEMORY.iter().any(|words| text.contains(words));
    match (reply, status) {
        (Ok(Reply { code: Ok(code) }), _) => Ok(code),
        (Ok(Reply { code: Err(why) }), _) => {
            Err(Some(if is_memory(&why) { memory() } else { why }))
        }
        (Err(FrameError::Io(e)), _)
            if matches!(
                e.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ) =>
        {
            Err(Some(format!(
                "compiling it takes longer than {} s",
                wall_ms / 1000
            )))
        }
        (Err(_), _) if is_memory(&said) => Err(Some(memory())),
        (Err(e), status) => Err(Some(ended(status, component.len(), &said, &e))),
    }
}

/// Waits until the child writes or ends. Returns false when its time is over, or its answer is no
/// longer wanted.
fn answers(stream: &UnixStream, wall_ms: u64, abandoned: &Abandoned) -> bool {
    let look = Timespec {
        tv_sec: 0,
        tv_nsec: LOOK.subsec_nanos().into(),
    };
    for _ in 0..wall_ms / LOOK.as_millis() as u64 {
        match poll(&mut [PollFd::new(stream, PollFlags::IN)], Some(&look)) {
            // Nothing has come yet, or a signal interrupted the wait.
            Ok(0) | Err(rustix::io::Errno::INTR) if !abandoned.is_set() => {}
            Ok(0) | Err(_) => return false,
            Ok(_) => return true,
        }
    }
    false
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

/// Describes how a child ended that gave no answer.
fn ended(
    status: std::io::Result<ExitStatus>,
    component_bytes: usize,
    said: &str,
    error: &FrameError,
) -> String {
    let said = said.trim();
    let said = if said.is_empty() {
        String::new()
    } else {
        format!(": {}", shown::quote(said))
    };
    match status.map(|status| {
        (
            status
                .signal()
                .and_then(rustix::process::Signal::from_named_raw),
            status,
        )
    }) {
        Ok((Some(rustix::process::Signal::XCPU), _)) => {
            format!(
                "compiling it takes more processor time than the limit of {} s",
                processor_s_max(component_bytes)
            )
        }
        Ok((_, status)) => {
            format!("the compiling process ended without an answer ({status}){said}")
        }
        Err(_) => format!("the compiling process ended without an answer ({error}){said}"),
    }
}

/// The child's `main`: gives up privileges, then compiles the one component that comes over
/// standard input.
pub fn serve_child() -> ExitCode {
    if let Err(e) = give_up_privileges() {
        eprintln!("cannot give up privileges: {e}");
        return ExitCode::FAILURE;
    }
    let Ok(input) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::FAILURE;
    };
    let mut stream = UnixStream::from(input);
    let Ok(request) = frame::read_blocking::<Request>(&mut stream, Format::Postcard) else {
        return ExitCode::FAILURE;
    };
    let bytes = request.component.len();
    let limits = limit(Resource::Data, memory_bytes_max(bytes))
        .and_then(|()| limit(Resource::Cpu, processor_s_max(bytes)));
    if let Err(e) = limits {
        eprintln!("cannot limit memory and processor time: {e}");
        return ExitCode::FAILURE;
    }
    let reply = Reply {
        code: precompile(&request.component),
    };
    match frame::write_blocking(&mut stream, Format::Postcard, &reply) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
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

/// Limits the process and drops its privileges. It runs before any input is read, and threads that
/// are started later inherit it.
fn give_up_privileges() -> rustix::io::Result<()> {
    limit(Resource::As, ADDRESS_SPACE_BYTES_MAX)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, OPEN_FILES_MAX)?;
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
