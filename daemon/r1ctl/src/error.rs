//! Errors of commands, and the exit codes that they end with.

use crate::socket::Tried;
use r1d_proto::control::error::ControlError;
use r1d_proto::frame::FrameError;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// How a command ended that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Ok,
    /// The job that it waited for failed or was cancelled.
    JobFailed,
    /// Ctrl-C: exits as a shell reports a death by SIGINT.
    Interrupted,
    /// The exit code of a sibling binary.
    Code(u8),
}

pub(crate) const EXIT_FAILED: u8 = 1;
pub(crate) const EXIT_JOB_FAILED: u8 = 2;
/// `EX_USAGE` of sysexits.
pub(crate) const EXIT_USAGE: u8 = 64;
pub(crate) const EXIT_INTERRUPTED: u8 = 130;

impl From<Ended> for ExitCode {
    fn from(ended: Ended) -> Self {
        ExitCode::from(match ended {
            Ended::Ok => 0,
            Ended::JobFailed => EXIT_JOB_FAILED,
            Ended::Interrupted => EXIT_INTERRUPTED,
            Ended::Code(code) => code,
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no daemon found; tried\n{}\nstart one with `r1d dev` (local) or `systemctl start \
             r1d`, or name its socket with --socket", list(.0))]
    NoDaemon(Vec<Tried>),
    #[error("{}: no answer within {seconds} s: the daemon is busy or stopped (its log tells); \
             --timeout waits longer", .socket.display())]
    NoAnswer { socket: PathBuf, seconds: u64 },
    #[error(
        "{0}: the submission is carried out if it has arrived, and the same command again finds \
         its job"
    )]
    Unheard(Box<Error>),
    #[error("{}: {source}", .socket.display())]
    Stream { socket: PathBuf, source: FrameError },
    #[error("{}", .0.message)]
    Daemon(ControlError),
    #[error("{}: the daemon answered `{answer}` to `{request}`: run the same release of r1d and \
             r1ctl", .socket.display())]
    Answer {
        socket: PathBuf,
        request: String,
        answer: String,
    },
    #[error("{}: the daemon went away and is not back after {seconds} s; the job goes on when it \
             is started again, then: {again} status --watch {job}", .socket.display())]
    Lost {
        socket: PathBuf,
        seconds: u64,
        job: String,
        again: String,
    },
    #[error("{}: {source}", .file.display())]
    ReadJob {
        file: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {source}", .file.display())]
    Job {
        file: PathBuf,
        source: Box<r1d_job::JobError>,
    },
    #[error("no samples of this stage and step are committed")]
    NoSamples,
    #[error("{0}")]
    UnknownKey(String),
    #[error("{}: {source}; this command needs {} beside r1ctl: build it with `make build`, or \
             install it there", .program.display(), name_of(.program))]
    Sibling {
        program: PathBuf,
        source: std::io::Error,
    },
    #[error("{} does not find its libraries: set {variable}, or `[torch] lib` in \
             /etc/r1d/r1d.toml, to libtorch's lib directory", .program.display())]
    SiblingLibrary {
        program: PathBuf,
        variable: &'static str,
    },
    #[error("{name} was ended by signal {signal}")]
    SiblingSignal { name: &'static str, signal: i32 },
    #[error("r1d printed what is no answer: {0}: run the same release of r1d and r1ctl")]
    SiblingAnswer(serde_json::Error),
    #[error("{0}")]
    Plugin(String),
    #[error("{0}")]
    DataSet(String),
    #[error("{}: {why}", .path.display())]
    Lock { path: PathBuf, why: String },
    #[error("{}: {source}", .path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: cannot write the man pages: {source}", .dir.display())]
    ManPages {
        dir: PathBuf,
        source: std::io::Error,
    },
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
    #[error("cannot start: {0}")]
    Runtime(std::io::Error),
    #[error("cannot print as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl Error {
    /// Whether the reader of our output has closed it (`r1ctl list | head -1`), which is not a
    /// failure.
    pub(crate) fn is_broken_pipe(&self) -> bool {
        matches!(self, Error::Print(e) if e.kind() == std::io::ErrorKind::BrokenPipe)
    }

    /// Whether the daemon may be back in a moment.
    pub(crate) fn is_away(&self) -> bool {
        match self {
            Error::NoDaemon(_) | Error::NoAnswer { .. } => true,
            Error::Unheard(error) => error.is_away(),
            Error::Stream { source, .. } => {
                matches!(source, FrameError::Closed | FrameError::Io(_))
            }
            _ => false,
        }
    }
}

fn name_of(program: &Path) -> String {
    program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn list(tried: &[Tried]) -> String {
    let lines: Vec<String> = tried
        .iter()
        .map(|t| format!("  {} ({}): {}", t.path.display(), t.origin, t.reason))
        .collect();
    lines.join("\n")
}
