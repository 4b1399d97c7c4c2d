//! A job's own log, `log.jsonl`, which `r1ctl logs` prints. A line that cannot be written goes to
//! the daemon's log alone.

use r1d_proto::control::content::LogLine;
use r1d_proto::shown;
use r1d_proto::user_file;
use r1d_proto::world::SharedClock;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes at the end of a log that [`last`] reads.
const LAST_BYTES: u64 = 64 << 10;

#[derive(Clone)]
pub(crate) struct JobLog(Arc<LogFile>);

struct LogFile {
    path: PathBuf,
    job: String,
    clock: SharedClock,
}

impl JobLog {
    pub(crate) fn new(path: PathBuf, job: &str, clock: SharedClock) -> JobLog {
        JobLog(Arc::new(LogFile {
            path,
            job: job.into(),
            clock,
        }))
    }

    pub(crate) fn info(&self, message: impl Into<String>) {
        let message = shown::line(&message.into());
        tracing::info!(job = self.0.job, "{message}");
        self.write("info", message);
    }

    pub(crate) fn warn(&self, message: impl Into<String>) {
        let message = shown::line(&message.into());
        tracing::warn!(job = self.0.job, "{message}");
        self.write("warn", message);
    }

    pub(crate) fn error(&self, message: impl Into<String>) {
        let message = shown::line(&message.into());
        tracing::error!(job = self.0.job, "{message}");
        self.write("error", message);
    }

    /// Logs a line of the worker's standard error.
    pub(crate) fn worker(&self, line: &str) {
        let line = shown::line(line);
        tracing::debug!(job = self.0.job, "worker: {line}");
        self.write("worker", line);
    }

    fn write(&self, level: &str, message: String) {
        let line = LogLine {
            at_ms: self.0.clock.unix().as_millis() as u64,
            level: level.into(),
            message,
        };
        let Ok(mut text) = serde_json::to_string(&line) else {
            return;
        };
        text.push('\n');
        let file = user_file::append(&self.0.path);
        // One write call per line, so that lines of several tasks do not mix.
        if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
            tracing::warn!(
                job = self.0.job,
                "cannot write {}: {error}",
                self.0.path.display()
            );
        }
    }
}

/// The last lines of a log: those that are whole in its last [`LAST_BYTES`].
pub(crate) fn last(path: &Path) -> io::Result<Vec<LogLine>> {
    let mut file = user_file::open(path)?;
    let begin = file.metadata()?.len().saturating_sub(LAST_BYTES);
    file.seek(SeekFrom::Start(begin))?;
    let mut bytes = Vec::new();
    file.take(LAST_BYTES).read_to_end(&mut bytes)?;
    Ok(parse(&bytes).0)
}

/// Parses the whole lines of `bytes`; returns them and their length in bytes. A line torn by a
/// crash is left out.
pub(crate) fn parse(bytes: &[u8]) -> (Vec<LogLine>, usize) {
    let whole = bytes
        .iter()
        .rposition(|b| *b == b'\n')
        .map_or(0, |at| at + 1);
    let lines = bytes[..whole]
        .split(|b| *b == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    (lines, whole)
}
