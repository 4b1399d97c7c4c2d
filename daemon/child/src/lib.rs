//! The daemon's children: processes that each do one thing for it, and answer over the socket pair
//! whose other end is their standard input. What they share is here: how one is started, that it
//! dies with its parent, whom its end is blamed on if it gave no answer, and how often another is
//! tried.
//!
//! The system may end a child at any time, by its out-of-memory killer or for an operator, and a
//! child that is ended so says nothing of what it was asked: it is replaced. What a child does to
//! itself, it does again for the same request, so that ends the tries.

#![warn(clippy::too_many_lines)]

mod retry;
mod within;

pub use retry::{Ending, TRIES_MAX, pause, with_retries};
pub use within::Within;

use r1d_proto::remedy::remedy;
use r1d_proto::shown;
use rustix::process::Signal;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

/// Bytes that are read from a dead child's standard error.
const LAST_WORDS_BYTES_MAX: u64 = 4 << 10;
/// The exit code of a Rust program that panics.
const PANICKED: i32 = 101;
/// Signals that a process brings upon itself: by what it computes, or at a limit of its own.
const OWN_SIGNALS: [Signal; 9] = [
    Signal::ILL,
    Signal::TRAP,
    Signal::ABORT,
    Signal::BUS,
    Signal::FPE,
    Signal::SEGV,
    Signal::XCPU,
    Signal::XFSZ,
    Signal::SYS,
];
/// Milliseconds of the kernel's unit of processor time, the same on all of Linux's architectures.
const MS_PER_TICK: u64 = 10;

/// What is to blame for a child that gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// The child, and with it what it was asked.
    Itself,
    /// The machine, or whoever ends processes on it.
    Outside,
}

/// A child gave no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// How it ended, in words.
    pub cause: String,
    /// What that is blamed on.
    pub blame: Blame,
    /// What people can do where it is blamed on the machine.
    pub remedy: &'static str,
}

/// What people can do about a machine on which children end without an answer.
const TO_KEEP_CHILDREN: &str = "see to the machine's memory, and to who ends processes";

impl Lost {
    /// A child that has ended, or does nothing; `cause` says how.
    pub fn ended(cause: String, blame: Blame) -> Lost {
        Lost {
            cause,
            blame,
            remedy: TO_KEEP_CHILDREN,
        }
    }

    /// A child that the system did not start. `what` names it.
    pub fn not_started(what: &str, error: &io::Error) -> Lost {
        Lost {
            cause: format!("{what} cannot be started: {error}"),
            blame: Blame::Outside,
            remedy: remedy(error).unwrap_or(TO_KEEP_CHILDREN),
        }
    }

    /// What comes of the last of several children that were lost, in words.
    fn consequence(&self) -> String {
        match self.blame {
            Blame::Itself => "it is held against what it was asked".into(),
            Blame::Outside => format!("it is tried again when it is asked for: {}", self.remedy),
        }
    }
}

/// A child that is at work. Dropping it ends it.
#[derive(Debug)]
pub struct ChildProcess {
    process: Child,
    /// The daemon's end of the socket pair.
    pub stream: UnixStream,
}

/// How a child ended.
#[derive(Debug)]
pub struct Ended {
    status: io::Result<ExitStatus>,
    /// The beginning of its standard error.
    pub said: String,
    /// Milliseconds of processor time that it had.
    pub processor_ms: u64,
}

impl ChildProcess {
    /// Starts a child, whose standard input and error are not for `command` to set. A read or a
    /// write of a part of a message waits at most for `wait`; [`Within`] bounds a whole exchange.
    pub fn start(command: &mut Command, wait: Duration) -> io::Result<ChildProcess> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_read_timeout(Some(wait))?;
        stream.set_write_timeout(Some(wait))?;
        let process = command
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stderr(Stdio::piped())
            .spawn()?;
        // The command would keep the child's end open.
        command.stdin(Stdio::null());
        Ok(ChildProcess { process, stream })
    }

    /// Milliseconds of processor time that the child has had; `None` if the system does not say.
    pub fn processor_ms(&self) -> Option<u64> {
        let path = format!("/proc/{}/stat", self.process.id());
        processor_ms(&std::fs::read_to_string(path).ok()?)
    }

    /// Ends the child, whatever it does, and returns how it ended.
    pub fn end(mut self) -> Ended {
        let processor_ms = self.processor_ms().unwrap_or(0);
        // One that has ended by itself is not there any more.
        let _ = self.process.kill();
        let (status, mut said) = (self.process.wait(), Vec::new());
        if let Some(stderr) = self.process.stderr.take() {
            // An empty text is no error.
            let _ = stderr.take(LAST_WORDS_BYTES_MAX).read_to_end(&mut said);
        }
        Ended {
            status,
            said: String::from_utf8_lossy(&said).trim().into(),
            processor_ms,
        }
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// User and system time of a line of `/proc/PID/stat`.
fn processor_ms(stat: &str) -> Option<u64> {
    // The name of the program, in brackets, may have blanks and brackets itself.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut times = fields.split_whitespace().skip(11);
    let mut ticks = || times.next()?.parse::<u64>().ok();
    Some((ticks()? + ticks()?) * MS_PER_TICK)
}

impl Ended {
    /// Whether this signal ended it.
    pub fn by(&self, signal: Signal) -> bool {
        self.signal() == Some(signal)
    }

    fn signal(&self) -> Option<Signal> {
        let number = self.status.as_ref().ok()?.signal()?;
        Signal::from_named_raw(number)
    }

    /// What the end is blamed on.
    pub fn blame(&self) -> Blame {
        let code = self.status.as_ref().ok().and_then(ExitStatus::code);
        let is_its_own = match self.signal() {
            Some(signal) => OWN_SIGNALS.contains(&signal),
            None => code == Some(PANICKED),
        };
        if is_its_own {
            Blame::Itself
        } else {
            Blame::Outside
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            Ok(status) => write!(f, "({status})")?,
            Err(error) => write!(f, "({error})")?,
        }
        if !self.said.is_empty() {
            write!(f, ": {}", shown::quote(&self.said))?;
        }
        Ok(())
    }
}

/// Has the kernel end this process, a child of [`ChildProcess::start`], when its parent ends. To be
/// called after the last change of its user, which undoes it. An error if the parent is gone.
pub fn die_with_parent() -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The socket pair tells who made it.
    let parent = rustix::net::sockopt::socket_peercred(io::stdin().as_fd())?.pid;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(io::Error::other("the daemon that started it has ended"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(script: &str) -> Ended {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdout(Stdio::null());
        let mut child = ChildProcess::start(&mut command, Duration::from_secs(60)).unwrap();
        // It closes its end of the pair when it ends.
        assert_eq!(child.stream.read(&mut [0]).unwrap(), 0);
        child.end()
    }

    #[test]
    fn who_is_killed_is_not_to_blame_and_who_crashes_is() {
        for (script, blame) in [
            ("kill -KILL $$", Blame::Outside),
            ("kill -TERM $$", Blame::Outside),
            ("kill -INT $$", Blame::Outside),
            ("exit 1", Blame::Outside),
            ("kill -SEGV $$", Blame::Itself),
            ("kill -ABRT $$", Blame::Itself),
            ("kill -XCPU $$", Blame::Itself),
            ("exit 101", Blame::Itself),
        ] {
            assert_eq!(ended(script).blame(), blame, "{script}");
        }
        let told = ended("echo no room >&2; exit 3").to_string();
        assert_eq!(told, "(exit status: 3): no room");
    }

    #[test]
    fn processor_time_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 109 0 0 0 5 3 0 0 20 0 1 0 117 9 9";
        assert_eq!(processor_ms(stat), Some(80));
        assert_eq!(processor_ms("7 (a"), None);
    }
}
