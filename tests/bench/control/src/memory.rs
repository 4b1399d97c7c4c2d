//! Jobs over a tenth of much text, and over all of it: how fast it is read and tokenised, and in
//! how much memory.

use crate::daemon::{self, Build, Daemon};
use crate::figure::{Failed, Figure};
use crate::parts::{BUSY, BUSY_DEVICES, Sizes};
use crate::{inputs, text};
use r1d_ingest::{Key, TokenSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const JOBS: u64 = BUSY_DEVICES as u64;
const STEPS: u64 = 1_000_000;
/// Interval at which the processes that make token sets are looked for.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) fn measure(build: &Build, sizes: Sizes, dir: &Path) -> Result<Vec<Figure>, Failed> {
    let mut figures = Vec::new();
    for mb in [sizes.text_mb / 10, sizes.text_mb] {
        let dir = tempfile::tempdir_in(dir)?;
        figures.extend(jobs_over(build, mb, sizes.ids, dir.path())?);
    }
    Ok(figures)
}

/// Each job has text of its own. Then further jobs come for text that was read, before a restart
/// and behind it, and at the same time for text that was not.
fn jobs_over(build: &Build, mb: u64, ids: usize, dir: &Path) -> Result<Vec<Figure>, Failed> {
    inputs::write_config(dir, ids)?;
    text::write_tokenizer(&dir.join("tokenizer"), ids)?;
    let file = |seed: u64| dir.join(format!("text-{seed}.jsonl"));
    for seed in 0..=JOBS {
        text::write(&file(seed), mb * 1_000_000 / JOBS, seed + 1)?;
    }
    let mut daemon = Daemon::start(build, dir, BUSY)?;
    let of = format!("{JOBS} jobs over {mb} MB of text, {ids} ids");
    let figure = |what: &str, value: f64, unit, goal| {
        Figure::new(&format!("{of}: {what}"), value, unit, goal)
    };
    let mut jobs = Vec::new();
    let made = reading(&daemon, || {
        for seed in 0..JOBS {
            jobs.push(daemon.submit(inputs::pretrain(dir, &file(seed), seed, STEPS))?);
        }
        Ok(())
    })?;
    for job in jobs {
        daemon.wait("ten steps", Duration::from_millis(20), |daemon| {
            let stages = daemon.status(&job)?.stages;
            Ok(stages.iter().any(|stage| stage.step >= 10).then_some(()))
        })?;
    }
    let mut figures = vec![
        figure("most memory", daemon.memory_mb("VmHWM")?, "MB", Some(200.0)),
        figure("memory at the end", daemon.memory_mb("VmRSS")?, "MB", None),
        figure(
            "most memory of a process that reads",
            made.memory_mb,
            "MB",
            None,
        ),
        figure(
            "read and tokenised",
            mb as f64 / made.elapsed.as_secs_f64(),
            "MB/s",
            None,
        ),
        figure(
            "the same by a core",
            mb as f64 / made.used.as_secs_f64(),
            "MB/s",
            None,
        ),
        figure("load of the machine at the end", load()?, "processes", None),
    ];
    let again = |daemon: &Daemon, seed: u64| {
        let begun = Instant::now();
        daemon.submit(inputs::pretrain(dir, &file(0), seed, STEPS))?;
        Ok::<_, Failed>(begun.elapsed())
    };
    let ms = |what: &str, time| Figure::ms(&format!("{of}: {what}"), time, None);
    figures.push(ms("a job over text that was read", again(&daemon, 100)?));
    let before = sets(dir)?.len();
    std::thread::scope(|scope| {
        let submit = |seed| daemon.submit(inputs::pretrain(dir, &file(JOBS), seed, STEPS));
        let all: Vec<_> = (200..200 + JOBS)
            .map(|seed| scope.spawn(move || submit(seed)))
            .collect();
        let mut ended = all
            .into_iter()
            .map(|one| one.join().unwrap_or_else(|_| Err(Failed("panic".into()))));
        ended.try_for_each(|one| one.map(drop))
    })?;
    let sets = sets(dir)?;
    let new = (sets.len() - before) as f64;
    figures.push(figure(
        "token sets of as many jobs at once over other text",
        new,
        "files",
        None,
    ));
    drop(daemon);
    let daemon = Daemon::start(build, dir, BUSY)?;
    figures.push(ms("the same behind a restart", again(&daemon, 101)?));
    figures.push(ms("the largest token set opened", open_largest(&sets)?));
    Ok(figures)
}

/// What the reading of text took.
struct Made {
    elapsed: Duration,
    /// Processor time of the processes that read.
    used: Duration,
    /// Most memory of one of them.
    memory_mb: f64,
}

/// Measures what `submit` makes the daemon read.
fn reading(daemon: &Daemon, submit: impl FnOnce() -> Result<(), Failed>) -> Result<Made, Failed> {
    let (is_over, most) = (AtomicBool::new(false), Mutex::new(0.0f64));
    let (begun, before) = (Instant::now(), daemon.children_time()?);
    std::thread::scope(|scope| {
        let watched = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let found = readers(daemon.id()).into_iter();
                // One that has ended meanwhile says nothing.
                let found = found.filter_map(|id| daemon::memory_mb(id, "VmHWM").ok());
                if let Ok(mut most) = most.lock() {
                    *most = found.fold(*most, f64::max);
                }
                std::thread::sleep(LOOK);
            }
        });
        let submitted = submit();
        is_over.store(true, Ordering::Relaxed);
        watched
            .join()
            .map_err(|_| Failed("the watching thread panicked".into()))?;
        submitted
    })?;
    Ok(Made {
        elapsed: begun.elapsed(),
        used: daemon.children_time()? - before,
        memory_mb: most.into_inner()?,
    })
}

/// The children of a daemon that make token sets.
fn readers(daemon: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{daemon}/task"))
        .into_iter()
        .flatten()
        .flatten();
    let children =
        threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    let ids: Vec<u32> = children
        .flat_map(|ids| {
            ids.split_whitespace()
                .filter_map(|id| id.parse().ok())
                .collect::<Vec<_>>()
        })
        .collect();
    let reads = |id: &u32| {
        let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
        line.split(|byte| *byte == 0).any(|word| word == b"ingest")
    };
    ids.into_iter().filter(reads).collect()
}

/// The finished token sets of a daemon in `dir`.
fn sets(dir: &Path) -> Result<Vec<PathBuf>, Failed> {
    let found = fs::read_dir(dir.join("state/token-sets"))?
        .flatten()
        .map(|entry| entry.path());
    Ok(found.filter(|path| key(path).is_some()).collect())
}

fn key(path: &Path) -> Option<Key> {
    Key::parse(path.file_name()?.to_str()?)
}

/// Time to open the largest of some token sets.
fn open_largest(sets: &[PathBuf]) -> Result<Duration, Failed> {
    let size = |path: &&PathBuf| fs::metadata(path).map_or(0, |data| data.len());
    let path = sets
        .iter()
        .max_by_key(size)
        .ok_or(Failed("no token set".into()))?;
    let key = key(path).ok_or(Failed("no key".into()))?;
    let begun = Instant::now();
    TokenSet::open(fs::File::open(path)?, &key)?;
    Ok(begun.elapsed())
}

/// Processes that ran or waited to run in the last minute, on average.
fn load() -> Result<f64, Failed> {
    let text = fs::read_to_string("/proc/loadavg")?;
    let first = text
        .split_whitespace()
        .next()
        .and_then(|load| load.parse().ok());
    first.ok_or_else(|| Failed("no load average".into()))
}
