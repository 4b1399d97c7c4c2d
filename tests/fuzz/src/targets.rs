//! The bodies of the fuzz targets. Each takes any bytes; whatever they are, it must neither panic
//! nor break what it asserts.

use crate::{rows, seals};
use futures_util::FutureExt;
use r1d_job::{DaemonConfig, Job};
use r1d_ledger::{Command, FORMAT_VERSION, Ledger, LedgerError, Session};
use r1d_proto::control::{Envelope, REQUEST_MAX_BYTES, Response};
use r1d_proto::frame::{self, Format};
use r1d_proto::ids::JobId;
use r1d_proto::parts::Assembly;
use r1d_proto::worker::{Body, Event, FromWorker, ToWorker};
use r1d_sim::SimDisk;
use r1d_store::{Journal, rollouts as parquet};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

/// The body of a fuzz target.
pub type Target = fn(&[u8]);

/// The targets, under the names that cargo-fuzz and the corpus use.
pub const TARGETS: [(&str, Target); 8] = [
    ("frame", frame),
    ("control", control),
    ("worker", worker),
    ("segment", segment),
    ("ledger", ledger),
    ("rollouts", rollouts),
    ("job", job),
    ("daemon", daemon),
];

/// Reads a stream of frames, as it is and as one frame's payload.
pub fn frame(bytes: &[u8]) {
    for format in [Format::Json, Format::Postcard] {
        let mut stream = bytes;
        loop {
            let before = stream.len();
            let read = frame::read_payload(&mut stream, format, REQUEST_MAX_BYTES).now_or_never();
            let Some(Ok(payload)) = read else { break };
            assert!(payload.len() < before, "a frame takes its header with it");
        }
        let whole = seals::frame(format, bytes);
        let read = frame::read_payload(&mut &whole[..], format, REQUEST_MAX_BYTES).now_or_never();
        let payload = read.expect("a slice never waits").expect("a whole frame");
        assert_eq!(payload, bytes);
    }
}

/// Reads a message of the control protocol: a client's, and a daemon's.
pub fn control(bytes: &[u8]) {
    same_again::<Envelope>(Format::Json, bytes);
    same_again::<Response>(Format::Json, bytes);
}

/// Reads a message of the worker protocol: a daemon's, and a worker's.
pub fn worker(bytes: &[u8]) {
    let mut assembly = Assembly::default();
    if let Some(message) = same_again::<ToWorker>(Format::Postcard, bytes) {
        for message in [message.clone(), message] {
            // Parts of another kind are refused.
            let _ = assembly.add(message);
        }
    }
    if let Some(FromWorker {
        body: Body::Event(Event::Completed(rollout)),
        ..
    }) = same_again(Format::Postcard, bytes)
        && rollout
            .kept_ids
            .check(&rollout.completion_ids, 1 << 17)
            .is_ok()
        && !rollout.kept_ids.is_empty()
    {
        let tokens = rollout.kept_ids.tokens().count();
        assert_eq!(tokens, rollout.completion_ids.len(), "a set for each token");
    }
}

/// Decodes a message; what was decoded is encoded to bytes that decode to the same.
fn same_again<T: DeserializeOwned + Serialize>(format: Format, bytes: &[u8]) -> Option<T> {
    let message: T = frame::decode(format, bytes).ok()?;
    let encode = |message: &T| frame::encode(format, message).expect("what was read is written");
    let first = encode(&message);
    let payload = first.get(frame::HEADER_BYTES..).unwrap_or_default();
    let again: T = frame::decode(format, payload).expect("what was written is read");
    // Bytes and not values are compared: NaN is not equal to itself.
    assert!(encode(&again) == first, "the second writing differs");
    Some(message)
}

/// Opens a journal whose one segment has these bytes, as they are and with right checksums: the
/// segment of the attempt itself, and of an earlier release's.
pub fn segment(bytes: &[u8]) {
    for name in ["step-00000007.e1.journal", "step-00000007.journal"] {
        one_segment(name, bytes);
        one_segment(name, &seals::segment(bytes));
    }
}

fn one_segment(name: &str, bytes: &[u8]) {
    let (disk, dir) = (SimDisk::default(), Path::new("/journal"));
    let put = disk
        .open(&dir.join("stage-1").join(name))
        .write_at(0, bytes);
    put.expect("a disk with room");
    let open = || Journal::open(disk.shared(), dir, &JobId("7qx".into()), (1, 1), 7);
    let Ok(journal) = open() else { return };
    let record = journal.read(7);
    let again = open().expect("a journal that was opened opens again");
    assert!(again.cuts().is_empty(), "what was torn is cut off once");
    assert_eq!(again.steps(), journal.steps());
    if let (Ok(first), Ok(second)) = (&record, &again.read(7)) {
        assert_eq!(format!("{first:?}"), format!("{second:?}"));
    }
    if let Ok(record) = record {
        let sealed = record.sealed.as_ref().map(Vec::len);
        let scored = record.into_scored().map(|rollouts| rollouts.len());
        assert_eq!(sealed, scored, "a seal names what was sampled and scored");
    }
}

/// Opens a ledger whose file has these rows ([`rows`]), and cancels what is in it.
pub fn ledger(bytes: &[u8]) {
    let owned = bytes.to_vec();
    let open = Box::new(move || rows::database(&owned, FORMAT_VERSION));
    let ledger =
        match Ledger::open_with(Path::new("/ledger.redb"), open, SimDisk::default().shared()) {
            Ok(ledger) => Session::open(Arc::new(ledger), 1),
            Err(LedgerError::Damaged { what, .. }) => {
                assert!(!what.contains("panics"), "{what}");
                return;
            }
            Err(_) => return,
        };
    for record in ledger.jobs() {
        let job = record.job().clone();
        assert_eq!(ledger.find(&job.0).as_ref(), Ok(&job));
        for stage in 0..record.progress.stages.len() as u32 {
            // Metrics in a job's file, which is not there, are an error.
            let _ = ledger.metrics(&job, stage);
        }
        if !record.state().is_final() {
            let cancelled = ledger.apply(Command::Cancel {
                job: job.clone(),
                at: 1,
            });
            assert!(cancelled.is_ok(), "{cancelled:?}");
            let state = ledger.job(&job).map(|record| record.state());
            assert!(state.is_some_and(|state| state.is_final()));
        }
    }
    assert!(ledger.queue().is_empty() && ledger.state().running().is_empty());
}

/// Reads a file that claims to hold the rollouts of a step.
pub fn rollouts(bytes: &[u8]) {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIRECTORY.get_or_init(|| tempfile::tempdir().expect("a directory"));
    let path: PathBuf = dir.path().join("step.parquet");
    let written = std::fs::File::create(&path).and_then(|mut file| file.write_all(bytes));
    written.expect("a file");
    let _ = parquet::read(&path);
    if let Ok(file) = parquet::RolloutFile::open(&path)
        && let Ok(summaries) = file.summaries()
        && let Ok(views) = file.views_at(&[summaries.len(), 0, 2])
    {
        assert!(views.len() <= 2, "a row beyond the end");
    }
}

/// Reads a job file.
pub fn job(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match Job::parse(text, Path::new("/")) {
        Ok(job) => {
            let written = job.to_toml();
            let again = Job::parse(&written, Path::new("/")).expect("what was written is read");
            assert_eq!(again.to_toml(), written);
        }
        Err(error) => is_short(&error.to_string(), text),
    }
}

/// Reads an `r1d.toml`.
pub fn daemon(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match DaemonConfig::parse(text, Path::new("/")) {
        Ok(config) => {
            let written = config.to_toml();
            let again = DaemonConfig::parse(&written, Path::new("/"));
            let again = again.expect("what was written is read");
            assert_eq!(again.to_toml(), written);
        }
        Err(error) => is_short(&error.to_string(), text),
    }
}

/// Most bytes of an error beside what it quotes.
const ERROR_MAX_BYTES: usize = 4 << 10;

/// An error says something, and does not repeat a file many times.
fn is_short(error: &str, text: &str) {
    assert!(!error.is_empty());
    assert!(
        error.len() <= ERROR_MAX_BYTES + 4 * text.len(),
        "{} bytes",
        error.len()
    );
}
