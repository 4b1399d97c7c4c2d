//! WASM → machine code, in a child process without privileges: a component that makes the compiler crash, spin or swallow
//! memory takes the child down and nothing else.
//!
//! The child is the daemon's own executable (`/proc/self/exe`, which outlives an upgrade of the file), started with arguments that
//! make it call [`serve_child`]; its standard input is one end of a socket pair that carries one [`r1d_proto::frame`] each way. It has no environment, no capability to gain
//! privileges, another user's id when the daemon is root, and limits on memory, processor time and files.

use crate::engine;
use r1d_proto::frame::{self, Format, FrameError};
use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

/// CPython with sympy compiles in about 30 s on one core.
const COMPILE_MS_MAX: u64 = 300_000;
const ADDRESS_SPACE_BYTES_MAX: u64 = 8 << 30;
const OPEN_FILES_MAX: u64 = 32;
/// `nobody`.
const UNPRIVILEGED_ID: u32 = 65_534;

/// Where components are compiled.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In this process: for tools that load one plugin of the user's own and end.
    InProcess,
    /// `program args…` must call [`serve_child`].
    Child { program: PathBuf, args: Vec<OsString> },
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
    /// Serialised machine code for this engine's settings; the error says why in a few words.
    pub(crate) fn compile(&self, component: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Compiler::InProcess => precompile(component),
            Compiler::Child { program, args } => in_child(program.clone(), args, component),
        }
    }
}

fn precompile(component: &[u8]) -> Result<Vec<u8>, String> {
    let engine = engine::compiler().map_err(|e| e.to_string())?;
    engine.precompile_component(component).map_err(|e| format!("{e:#}"))
}

fn in_child(program: PathBuf, args: &[OsString], component: &[u8]) -> Result<Vec<u8>, String> {
    let failed = |what: &str, e: &dyn std::fmt::Display| format!("{what} the compiling process: {e}");
    let (mut ours, theirs) = UnixStream::pair().map_err(|e| failed("cannot connect to", &e))?;
    let wait = Some(Duration::from_millis(COMPILE_MS_MAX));
    ours.set_read_timeout(wait).and_then(|()| ours.set_write_timeout(wait)).map_err(|e| failed("cannot connect to", &e))?;
    let mut child = Command::new(&program)
        .args(args)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|e| failed(&format!("cannot start {} as", program.display()), &e))?;
    let request = Request { component: component.to_vec() };
    let reply = frame::write_blocking(&mut ours, Format::Postcard, &request)
        .and_then(|()| frame::read_blocking::<Reply>(&mut ours, Format::Postcard));
    // It has answered, died or run out of time: in each case it is no longer needed.
    let _ = child.kill();
    let status = child.wait();
    match reply {
        Ok(reply) => reply.code,
        Err(FrameError::Io(e)) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            Err(format!("the compiling process took longer than {} s", COMPILE_MS_MAX / 1000))
        }
        Err(e) => Err(match status {
            Ok(status) => format!("the compiling process ended without an answer ({status}): {e}"),
            Err(_) => format!("the compiling process ended without an answer: {e}"),
        }),
    }
}

/// The child's `main`: gives up what it does not need, then compiles the one component that comes over standard input.
pub fn serve_child() -> ExitCode {
    if let Err(e) = give_up_privileges() {
        eprintln!("cannot give up privileges: {e}");
        return ExitCode::FAILURE;
    }
    let Ok(input) = std::io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let mut stream = UnixStream::from(input);
    let Ok(request) = frame::read_blocking::<Request>(&mut stream, Format::Postcard) else { return ExitCode::FAILURE };
    let reply = Reply { code: precompile(&request.component) };
    match frame::write_blocking(&mut stream, Format::Postcard, &reply) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Before any input is read. Threads that are started later inherit it.
fn give_up_privileges() -> rustix::io::Result<()> {
    let limit = |resource, max: u64| {
        let max = rustix::process::getrlimit(resource).maximum.map_or(max, |hard| hard.min(max));
        rustix::process::setrlimit(resource, Rlimit { current: Some(max), maximum: Some(max) })
    };
    limit(Resource::As, ADDRESS_SPACE_BYTES_MAX)?;
    // Several threads compile: processor time adds up.
    limit(Resource::Cpu, 4 * COMPILE_MS_MAX / 1000)?;
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
    let (user, group) = (rustix::process::Uid::from_raw(UNPRIVILEGED_ID), rustix::process::Gid::from_raw(UNPRIVILEGED_ID));
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(group, group, group)?;
    rustix::thread::set_thread_res_uid(user, user, user)
}
