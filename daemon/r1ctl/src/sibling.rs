//! The sibling binaries that do what r1ctl does not: `r1d-worker` computes with tensors, `r1d` runs
//! the rewards' sandbox.

use crate::error::{Ended, Error};
use std::ffi::{OsStr, OsString};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};

/// The path of a sibling: beside this executable, else the one on PATH.
pub(crate) fn find(name: &str) -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .and_then(|own| Some(own.parent()?.join(name)));
    match beside {
        Some(path) if path.is_file() => path,
        beside => on_path(name)
            .or(beside)
            .unwrap_or_else(|| Path::new("/").join(name)),
    }
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

pub(crate) fn run(command: &mut Command) -> Result<ExitStatus, Error> {
    command.status().map_err(|source| Error::Sibling {
        program: command.get_program().into(),
        source,
    })
}

/// Runs the command and returns what it wrote to its standard output, if that is piped.
pub(crate) fn output(command: &mut Command) -> Result<Output, Error> {
    let failed = |source, command: &Command| Error::Sibling {
        program: command.get_program().into(),
        source,
    };
    let child = command.spawn().map_err(|source| failed(source, command))?;
    child
        .wait_with_output()
        .map_err(|source| failed(source, command))
}

/// Makes the sibling's exit code ours.
pub(crate) fn ended(name: &'static str, status: ExitStatus) -> Result<Ended, Error> {
    match status.code() {
        Some(code) => Ok(Ended::Code(
            u8::try_from(code).unwrap_or(crate::error::EXIT_FAILED),
        )),
        None => Err(Error::SiblingSignal {
            name,
            signal: status.signal().unwrap_or(0),
        }),
    }
}

/// Writes an option as one word, so that a value which starts with `-` stays a value.
pub(crate) fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}
