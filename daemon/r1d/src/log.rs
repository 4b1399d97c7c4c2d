//! The daemon's own log: lines on standard error. If standard error is systemd's journal, lines get
//! a priority (sd-daemon(3)) and no time, because the journal adds that.

use r1d_job::DaemonConfig;
use r1d_job::daemon::LogFormat;
use r1d_proto::shown;
use std::fmt::Debug;
use std::io::{self, Write};
use std::os::fd::AsFd;
use tracing::field::Field;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{FormatFields, Writer, debug_fn};

/// This variable overrides the configuration's level: `debug`, or per module as in
/// `info,r1d_node=debug`.
const LEVEL_VARIABLE: &str = "R1D_LOG";
/// systemd sets this variable to the stream that it connected to its journal: `device:inode`.
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";

#[derive(Debug, thiserror::Error)]
#[error(
    "`[log] level` is {level:?}, which is no filter ({source}): write a level, or one per module \
     as in \"info,r1d_node=debug\""
)]
pub(crate) struct LevelError {
    level: String,
    source: ParseError,
}

/// Starts the log. Panics become lines too: an actor that panicked is recreated, and its cause must
/// not be lost between other programs' output.
pub(crate) fn init(config: &DaemonConfig) -> Result<(), LevelError> {
    let configured = EnvFilter::try_new(&config.log.level).map_err(|source| LevelError {
        level: config.log.level.clone(),
        source,
    })?;
    let filter = EnvFilter::try_from_env(LEVEL_VARIABLE).unwrap_or(configured);
    let journal = is_journal(
        std::env::var(JOURNAL_VARIABLE).ok().as_deref(),
        &io::stderr(),
    );
    // A line for which there is no room is lost: words about that would have none either, and end
    // in a panic.
    let lines = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .log_internal_errors(false);
    let terminal = io::IsTerminal::is_terminal(&io::stderr());
    match (config.log.format, journal) {
        (LogFormat::Text, false) => lines
            .fmt_fields(fields())
            .with_writer(io::stderr)
            .with_ansi(terminal)
            .init(),
        (LogFormat::Text, true) => lines
            .fmt_fields(fields())
            .with_writer(Journal)
            .with_ansi(false)
            .without_time()
            .init(),
        (LogFormat::Json, false) => lines.json().with_writer(io::stderr).init(),
        // JSON documents keep the time, which their readers expect in each.
        (LogFormat::Json, true) => lines.json().with_writer(Journal).init(),
    }
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        // The error that this panic becomes has more details.
        if r1d_ledger::is_damage_expected() {
            return;
        }
        tracing::error!("panic: {panic}");
        if !journal {
            default(panic);
        }
    }));
    Ok(())
}

/// Formats an event as one line, whatever text of users, models and plugins it holds: cut, and
/// without anything that moves a terminal's cursor.
fn fields() -> impl for<'w> FormatFields<'w> + Send + Sync + 'static {
    let field = |writer: &mut Writer<'_>, field: &Field, value: &dyn Debug| {
        let text = shown::line(&format!("{value:?}"));
        match field.name() {
            "message" => write!(writer, "{text}"),
            name => write!(writer, "{name}={text}"),
        }
    };
    debug_fn(field).delimited(" ")
}

/// Prints why the daemon ends; needs no log.
pub(crate) fn last_words(error: &dyn std::fmt::Display) {
    let prefix = if is_journal(
        std::env::var(JOURNAL_VARIABLE).ok().as_deref(),
        &io::stderr(),
    ) {
        priority(Level::ERROR)
    } else {
        ""
    };
    let said = prefixed(
        prefix,
        format!("r1d: {}\n", r1d_proto::shown::lines(&error.to_string())).as_bytes(),
    );
    // If standard error is closed, the message has no reader.
    let _ = io::stderr().write_all(&said);
}

/// Whether `stream` is the one that systemd connected to its journal. A program that redirected its
/// standard error has inherited the variable alone.
fn is_journal(variable: Option<&str>, stream: &impl AsFd) -> bool {
    let Ok(stat) = rustix::fs::fstat(stream) else {
        return false;
    };
    variable.is_some_and(|variable| variable == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// The syslog(3) priority of a level, as sd-daemon(3) writes it before a line.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "<3>",
        Level::WARN => "<4>",
        Level::INFO => "<6>",
        Level::DEBUG | Level::TRACE => "<7>",
    }
}

/// Puts the priority before each line of `text`, because the journal makes an entry of each line.
fn prefixed(priority: &str, text: &[u8]) -> Vec<u8> {
    text.split_inclusive(|byte| *byte == b'\n')
        .flat_map(|line| [priority.as_bytes(), line].concat())
        .collect()
}

/// Standard error, if it is connected to systemd's journal.
struct Journal;

/// One event for the journal.
struct LogEntry(Level);

impl<'a> MakeWriter<'a> for Journal {
    type Writer = LogEntry;

    fn make_writer(&'a self) -> LogEntry {
        LogEntry(Level::INFO)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> LogEntry {
        LogEntry(*event.level())
    }
}

impl Write for LogEntry {
    /// Writes one event: the subscriber hands over a whole event at a time.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        io::stderr()
            .write_all(&prefixed(priority(self.0), event))
            .map(|()| event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text of a job's name or a model's answer cannot pass for a line of the daemon's own.
    #[test]
    fn an_event_is_one_line_without_escapes_and_is_cut() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let writer = std::sync::Mutex::new(file.reopen().unwrap());
        let lines = tracing_subscriber::fmt()
            .fmt_fields(fields())
            .with_ansi(false)
            .with_writer(writer)
            .finish();
        tracing::subscriber::with_default(lines, || {
            let hostile = "a\x1b[2J\nERROR r1d: forged";
            tracing::info!(job = %hostile, "read {hostile}");
            tracing::info!("{}", "x".repeat(1 << 20));
        });
        let text = std::fs::read_to_string(file.path()).unwrap();
        let found: Vec<&str> = text.lines().collect();
        assert_eq!(found.len(), 2, "{} lines", found.len());
        assert!(
            !text.contains('\x1b') && found[0].matches("a\\u{1b}[2J\\nERROR").count() == 2,
            "{}",
            found[0]
        );
        assert!(found[1].len() < 8 << 10 && found[1].contains("bytes more"));
    }

    #[test]
    fn every_line_of_an_event_has_its_priority() {
        assert_eq!(
            prefixed(priority(Level::ERROR), b"panic: at\nline 2\n"),
            b"<3>panic: at\n<3>line 2\n"
        );
        assert_eq!(prefixed(priority(Level::DEBUG), b"x"), b"<7>x");
        assert_eq!(prefixed("<6>", b""), b"");
    }

    #[test]
    fn only_the_stream_that_systemd_named_is_the_journal() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let name = format!("{}:{}", stat.st_dev, stat.st_ino);
        assert!(is_journal(Some(&name), &file));
        assert!(!is_journal(None, &file) && !is_journal(Some("8:15"), &file));
        assert!(!is_journal(Some(&name), &tempfile::tempfile().unwrap()));
    }
}
