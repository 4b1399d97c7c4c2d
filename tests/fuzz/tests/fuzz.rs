//! The fuzz bodies on a stable compiler: the corpus, and mutations of it, the same in every run.

use r1d_fuzz_tests::mutate::Random;
use r1d_fuzz_tests::targets::{TARGETS, Target};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Longest input that is made of others, in bytes.
const BYTES_MAX: usize = 16 << 10;

/// Pieces that have a meaning for one reader or another: numbers at the limits, in the encodings of
/// postcard and MessagePack too, and what JSON and TOML are made of.
const PIECES: [&[u8]; 40] = [
    &[0; 4],
    &[0xff; 4],
    &[0x7f],
    &[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01],
    &[0xff, 0xff, 0xff, 0xff, 0x0f],
    &[0xc0],
    &[0xdb, 0xff, 0xff, 0xff, 0xff],
    &[0xdd, 0xff, 0xff, 0xff, 0xff],
    &[0xdf, 0xff, 0xff, 0xff, 0xff],
    &[0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
    &[0x00, 0x00, 0x00, 0x08],
    b"R1D\0",
    b"R1DJ",
    b"PAR1",
    b"\"request\":\"watch\",",
    b"\"answer\":\"status\",",
    b"\"id\":\"x\",",
    b"null",
    b"1e999",
    b"-1",
    b"18446744073709551615",
    b"9223372036854775808",
    b"4294967296",
    b"[[[[[[[[",
    b"{\"a\":{\"a\":",
    b"\"\\ud800\"",
    b"}",
    b"]",
    b"\"",
    b"'''",
    b"\n[[stage]]\n",
    b"\n[[stage.reward]]\n",
    b"\n[data.x]\n",
    b"\nname = \"x\"\n",
    b"\nsteps = 1\n",
    b" = nan\n",
    b" = inf\n",
    b"a.b.c = ",
    b"\x1b[2J",
    b"\xe2\x80\xae",
];

/// Names and bytes of the corpus, in the order of the names. Job files and configurations of the
/// repository are part of it.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let shipped = match target {
        "job" => Some("../../configs/jobs"),
        "daemon" => Some("../../configs"),
        _ => None,
    };
    let directories = [
        Some(root.join("corpus").join(target)),
        shipped.map(|dir| root.join(dir)),
    ];
    let files = directories
        .into_iter()
        .flatten()
        .flat_map(|dir| files(&dir));
    let found: Vec<_> = files
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    assert!(!found.is_empty(), "{target} has no corpus");
    found
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.is_file());
    files.sort();
    files
}

/// Runs a body, and names the input if it panics.
fn run(target: Target, name: &str, bytes: &[u8]) {
    let ended = catch_unwind(AssertUnwindSafe(|| target(bytes)));
    if ended.is_err() {
        let kept = std::env::temp_dir().join("r1d-fuzz-input");
        let place = std::fs::write(&kept, bytes).map(|()| kept.display().to_string());
        panic!("{name}: {place:?} has the input");
    }
}

#[test]
fn every_input_of_the_corpus_ends() {
    for (target, body) in TARGETS {
        for (name, bytes) in corpus(target) {
            run(body, &name, &bytes);
        }
    }
}

/// What is in the corpus reaches behind the first check: the readers take most of it.
#[test]
fn the_corpus_is_read() {
    let read = |target: &str, is_read: &dyn Fn(&[u8]) -> bool| {
        let corpus = corpus(target);
        let count = corpus.iter().filter(|(_, bytes)| is_read(bytes)).count();
        assert!(
            2 * count >= corpus.len(),
            "{target}: {count} of {}",
            corpus.len()
        );
    };
    use r1d_fuzz_tests::rows;
    use r1d_proto::control::{Envelope, Response};
    use r1d_proto::frame::{Format, decode};
    use r1d_proto::worker::{FromWorker, ToWorker};
    read("control", &|bytes| {
        decode::<Envelope>(Format::Json, bytes).is_ok()
            || decode::<Response>(Format::Json, bytes).is_ok()
    });
    read("worker", &|bytes| {
        decode::<ToWorker>(Format::Postcard, bytes).is_ok()
            || decode::<FromWorker>(Format::Postcard, bytes).is_ok()
    });
    read("ledger", &|bytes| {
        let bytes = bytes.to_vec();
        let open = Box::new(move || rows::database(&bytes, r1d_ledger::FORMAT_VERSION));
        let disk = r1d_sim::SimDisk::default().shared();
        let ledger = r1d_ledger::Ledger::open_with(Path::new("/ledger.redb"), open, disk);
        ledger.is_ok_and(|ledger| !ledger.state().jobs().is_empty())
    });
    read("rollouts", &|bytes| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        r1d_store::rollouts::read(file.path()).is_ok()
    });
}

/// How many times as many mutations to run: `R1D_FUZZ_ROUNDS=50 cargo test …`.
fn rounds() -> usize {
    std::env::var("R1D_FUZZ_ROUNDS").map_or(1, |rounds| {
        rounds.parse().expect("R1D_FUZZ_ROUNDS is a number")
    })
}

fn mutate(target: &str, count: usize) {
    let (_, body) = *TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    let corpus = corpus(target);
    let seeds: Vec<&[u8]> = corpus.iter().map(|(_, bytes)| &bytes[..]).collect();
    let mut random = Random::with(0x5eed, &PIECES, BYTES_MAX);
    for i in 0..count * rounds() {
        let bytes = random.mutation(&seeds);
        run(body, &format!("{target}, mutation {i}"), &bytes);
    }
}

#[test]
fn mutated_frames_end() {
    mutate("frame", 10_000);
}

#[test]
fn mutated_control_messages_end() {
    mutate("control", 20_000);
}

#[test]
fn mutated_worker_messages_end() {
    mutate("worker", 20_000);
}

#[test]
fn mutated_segments_end() {
    mutate("segment", 5_000);
}

#[test]
fn mutated_rows_of_a_ledger_end() {
    mutate("ledger", 2_000);
}

#[test]
fn mutated_rollout_files_end() {
    mutate("rollouts", 3_000);
}

#[test]
fn mutated_job_files_end() {
    mutate("job", 3_000);
}

#[test]
fn mutated_configurations_end() {
    mutate("daemon", 5_000);
}
