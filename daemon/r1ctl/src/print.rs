//! Prints data to standard output, and messages to standard error.

use crate::cli::Global;
use crate::error::Error;
use crate::terminal::Look;
use r1d_proto::shown;
use serde::Serialize;
use std::io::Write;

pub(crate) struct Printer {
    pub stdout: Look,
    pub stderr: Look,
    /// The command that calls r1ctl again ([`Global::again`]).
    pub again: String,
}

impl Printer {
    pub(crate) fn new(global: &Global) -> Printer {
        Printer {
            stdout: Look::of_stdout(global),
            stderr: Look::of_stderr(global),
            again: global.again(),
        }
    }

    /// Prints a message that people should see.
    pub(crate) fn note(&self, text: &str) {
        // If standard error is closed, the message has no reader.
        let _ = writeln!(std::io::stderr(), "{text}");
    }

    pub(crate) fn warning(&self, text: &str) {
        self.note(&format!(
            "{} {}",
            self.stderr.yellow("warning:"),
            shown::lines(text)
        ));
    }

    pub(crate) fn error(&self, text: &str) {
        self.note(&format!(
            "{} {}",
            self.stderr.red("error:"),
            shown::lines(text)
        ));
    }
}

/// Prints text as it is, and flushes it: a reader of a pipe sees each event as it happens.
pub(crate) fn data(text: &str) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes())?;
    Ok(stdout.flush()?)
}

/// Prints one document, indented for people.
pub(crate) fn json(value: &impl Serialize) -> Result<(), Error> {
    data(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints one document on one line, for streams.
pub(crate) fn json_line(value: &impl Serialize) -> Result<(), Error> {
    data(&(serde_json::to_string(value)? + "\n"))
}
