//! The parts of the measurement, each by itself.

use crate::daemon::{Build, Daemon, Setup};
use crate::figure::{Failed, Figure, quantile};
use crate::{inputs, ledgers, memory};
use r1d_ingest::{InThisProcess, Order, Orders};
use r1d_proto::control::job::State;
use r1d_proto::control::{Request, Response, SampleSort};
use r1d_proto::frame::{Format, read_blocking, write_blocking};
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::world::{counter_hash, counter_uniform};
use r1d_store::{Disk, JobLayout, RolloutRow, rollouts};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The parts, in the order in which they are measured.
pub(crate) const NAMES: [&str; 8] = [
    "list", "watch", "submit", "restart", "rows", "samples", "reuse", "memory",
];
/// The parts that no daemon is asked in.
pub(crate) const IN_THE_PROGRAM: [&str; 1] = ["rows"];

const JOBS: u64 = 10_000;
const STEPS: u64 = 1_000_000;
pub(crate) const BUSY_DEVICES: usize = 8;
/// Time of a step of which there are 1,000 a minute.
const STEP: Duration = Duration::from_millis(60);
const WATCHERS: usize = 100;
const WATCHED: Duration = Duration::from_secs(10);
const SUBMISSIONS: u64 = 300;
const ROWS: u64 = 10_000_000;
const SAMPLES_MB: u64 = 1000;
const ROLLOUT_FILES: u64 = 10_000;

const IDLE: Setup = Setup {
    devices: 1,
    usable: false,
    delay: Duration::ZERO,
};
pub(crate) const BUSY: Setup = Setup {
    devices: BUSY_DEVICES,
    usable: true,
    delay: STEP,
};

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    /// What all sizes but the next two are divided by.
    pub(crate) cut: u64,
    /// Millions of bytes of text that all jobs of `memory` read together.
    pub(crate) text_mb: u64,
    /// Ids of their tokenizer.
    pub(crate) ids: usize,
}

/// Measures a part.
pub(crate) fn measure(
    part: &str,
    build: &Build,
    sizes: Sizes,
    dir: &Path,
) -> Result<Vec<Figure>, Failed> {
    let cut = sizes.cut;
    let dir = tempfile::Builder::new()
        .prefix("bench-control-")
        .tempdir_in(dir)?;
    match part {
        "list" => list(build, cut, &dir),
        "watch" => watch(build, cut, &dir),
        "submit" => submit(build, cut, &dir),
        "restart" => restart(build, cut, &dir),
        "rows" => rows(cut, &dir),
        "samples" => samples(build, cut, &dir),
        "reuse" => reuse(build, cut, &dir),
        "memory" => memory::measure(build, sizes, dir.path()),
        part => Err(Failed(format!("no part `{part}`"))),
    }
}

/// `list` of many queued jobs.
fn list(build: &Build, cut: u64, dir: &TempDir) -> Result<Vec<Figure>, Failed> {
    let jobs = (JOBS / cut) as usize;
    ledgers::fill(&dir.path().join("state"), jobs, 0)?;
    let daemon = Daemon::start(build, dir.path(), IDLE)?;
    let (mut asked, mut typed) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        let begun = Instant::now();
        match daemon.ask(&Request::List)? {
            Response::Jobs(listed) if listed.len() == jobs => asked.push(begun.elapsed()),
            _ => return Err(Failed("not all jobs are listed".into())),
        }
        typed.push(daemon.r1ctl(&["list"])?);
    }
    Ok(vec![
        Figure::ms("list, median", quantile(&mut asked, 0.5), Some(50.0)),
        Figure::ms("r1ctl list, median", quantile(&mut typed, 0.5), None),
    ])
}

/// Keeps devices busy with steps, 1,000 a minute each.
fn busy(daemon: &mut Daemon, dir: &Path) -> Result<(), Failed> {
    let rows = dir.join("rows.jsonl");
    for seed in 0..BUSY_DEVICES as u64 {
        let job = daemon.submit(inputs::pretrain(dir, &rows, seed, 1_000_000))?;
        daemon.wait("a first step", Duration::from_millis(5), |daemon| {
            Ok(daemon
                .status(&job)?
                .stages
                .iter()
                .any(|stage| stage.step > 0)
                .then_some(()))
        })?;
    }
    Ok(())
}

/// Watchers of a queued job, while all devices are busy with others.
fn watch(build: &Build, cut: u64, dir: &TempDir) -> Result<Vec<Figure>, Failed> {
    inputs::write(dir.path())?;
    let mut daemon = Daemon::start(build, dir.path(), BUSY)?;
    busy(&mut daemon, dir.path())?;
    let rows = dir.path().join("rows.jsonl");
    let job = daemon.submit(inputs::pretrain(dir.path(), &rows, 99, 1))?;
    let watched = WATCHED / cut.min(5) as u32;
    let used = |daemon: &Daemon| -> Result<f64, Failed> {
        let before = daemon.processor_time()?;
        std::thread::sleep(watched);
        let used = (daemon.processor_time()? - before).as_secs_f64();
        Ok(1e3 * used / watched.as_secs_f64())
    };
    let alone = used(&daemon)?;
    let mut watching = Vec::new();
    for _ in 0..WATCHERS {
        let mut stream = daemon.connect()?;
        write_blocking(
            &mut stream,
            Format::Json,
            &Request::Watch { job: job.clone() },
        )?;
        let first: Response = read_blocking(&mut stream, Format::Json)?;
        drop(first);
        watching.push(stream);
    }
    let with = used(&daemon)?;
    let name = format!("{WATCHERS} idle watchers beside {BUSY_DEVICES} busy devices");
    Ok(vec![
        Figure::new(&name, with - alone, "ms/s", Some(5.0)),
        Figure::new("the busy devices alone", alone, "ms/s", None),
    ])
}

/// From a submission to a running job, on a free device beside busy ones.
fn submit(build: &Build, cut: u64, dir: &TempDir) -> Result<Vec<Figure>, Failed> {
    inputs::write(dir.path())?;
    let setup = Setup {
        devices: BUSY_DEVICES + 1,
        ..BUSY
    };
    let mut daemon = Daemon::start(build, dir.path(), setup)?;
    busy(&mut daemon, dir.path())?;
    let rows = dir.path().join("rows.jsonl");
    let (mut queued, mut running) = (Vec::new(), Vec::new());
    for seed in 0..(SUBMISSIONS / cut).max(10) {
        let job = inputs::pretrain(dir.path(), &rows, 1000 + seed, 1);
        let begun = Instant::now();
        let id = daemon.submit(job)?;
        queued.push(begun.elapsed());
        daemon.wait("a running job", Duration::from_millis(1), |daemon| {
            Ok((daemon.status(&id)?.state != State::Queued).then_some(()))
        })?;
        running.push(begun.elapsed());
        daemon.succeeded(&id)?;
    }
    Ok(vec![
        Figure::ms(
            "submit to running, p99",
            quantile(&mut running, 0.99),
            Some(20.0),
        ),
        Figure::ms(
            "submit to running, median",
            quantile(&mut running, 0.5),
            None,
        ),
        Figure::ms("submit to queued, p99", quantile(&mut queued, 0.99), None),
        Figure::ms("submit to queued, median", quantile(&mut queued, 0.5), None),
    ])
}

/// The start of a daemon with many jobs and steps.
fn restart(build: &Build, cut: u64, dir: &TempDir) -> Result<Vec<Figure>, Failed> {
    ledgers::fill(
        &dir.path().join("state"),
        (JOBS / cut) as usize,
        STEPS / cut,
    )?;
    let daemon = Daemon::start(build, dir.path(), IDLE)?;
    Ok(vec![
        Figure::ms("start to the first answer", daemon.started, Some(2000.0)),
        Figure::new("memory", daemon.memory_mb("VmRSS")?, "MB", Some(100.0)),
        Figure::new("most memory so far", daemon.memory_mb("VmHWM")?, "MB", None),
    ])
}

/// The rows of a step from many rows, across the end of an epoch.
fn rows(cut: u64, dir: &TempDir) -> Result<Vec<Figure>, Failed> {
    const PER_STEP: u64 = 512;
    let (orders, rows) = (Orders::new(dir.path(), Arc::new(InThisProcess)), ROWS / cut);
    let order = Order {
        seed: 1,
        stage: 0,
        shuffle: true,
    };
    let step = |step: u64| -> Result<Duration, Failed> {
        let begun = Instant::now();
        let picked = orders.rows_of_step(order, step, PER_STEP, rows)?;
        let elapsed = begun.elapsed();
        if picked.len() as u64 != PER_STEP {
            return Err(Failed("a step lacks rows".into()));
        }
        Ok(elapsed)
    };
    let begun = Instant::now();
    orders.prepare(order, 0, PER_STEP, rows);
    let called = begun.elapsed();
    let first = step(0)?;
    // From the last eighth of an epoch on, the next one's order is made.
    let steps = rows / PER_STEP;
    let mut found = Vec::new();
    for at in (1..steps).step_by((steps / 1000).max(1) as usize) {
        found.push(step(at)?);
        std::thread::sleep(Duration::from_millis(10));
    }
    found.push(step(steps)?);
    found.push(step(steps + 1)?);
    Ok(vec![
        Figure::ms(
            "rows of a step, slowest of an epoch and the next",
            quantile(&mut found, 1.0),
            Some(1.0),
        ),
        Figure::ms("rows of a step, median", quantile(&mut found, 0.5), None),
        Figure::ms("asking for an order ahead", called, Some(1.0)),
        Figure::ms("until a first order is made", called + first, None),
    ])
}

/// A rollout of about `tokens` tokens that no compression makes small.
fn rollout(sample: u32, tokens: u64) -> RolloutRow {
    let word = |at: u64| counter_hash(&[sample as u64, at]);
    let rollout = Rollout {
        key: SampleKey {
            stage: 0,
            step: 0,
            prompt: 0,
            sample,
        },
        row: 0,
        prompt_ids: vec![5, 6],
        completion_ids: (0..tokens).map(|at| (word(at) % 15) as u32).collect(),
        behaviour_logprobs: (0..tokens)
            .map(|at| -counter_uniform(&[word(at)]))
            .collect(),
        experts: (0..tokens * 64).map(|at| (word(at) % 256) as u16).collect(),
        kept_ids: Default::default(),
        policy_version: 0,
        finish: FinishReason::Length,
    };
    RolloutRow {
        scored: ScoredRollout {
            rollout,
            verdicts: Vec::new(),
            reward: Some(sample as f32),
            advantage: Some(0.0),
        },
        prompt: "0 1".into(),
        completion: "7 ".repeat(tokens as usize),
        reference: Some("1".into()),
    }
}

/// `samples` of a large step.
fn samples(build: &Build, cut: u64, dir: &TempDir) -> Result<Vec<Figure>, Failed> {
    inputs::write(dir.path())?;
    let setup = Setup {
        devices: 1,
        delay: Duration::ZERO,
        ..BUSY
    };
    let mut daemon = Daemon::start(build, dir.path(), setup)?;
    let job = daemon.submit(inputs::sampling(dir.path(), 1, None))?;
    let status = daemon.succeeded(&job)?;
    let path = JobLayout::new(status.directory).rollouts("reasoning", 1);
    // 69 bytes a token, of which 64 are experts'.
    let rows = 512;
    let tokens = SAMPLES_MB / cut * 1_000_000 / (rows * 69);
    let table: Vec<RolloutRow> = (0..rows as u32)
        .map(|sample| rollout(sample, tokens))
        .collect();
    std::fs::remove_file(&path)?;
    rollouts::write(&Disk, &path, &table)?;
    drop(table);
    let ask = Request::Samples {
        job,
        stage: None,
        step: Some(1),
        sort: SampleSort::Reward,
        limit: 10,
    };
    let mut asked = Vec::new();
    for _ in 0..5 {
        let begun = Instant::now();
        match daemon.ask(&ask)? {
            Response::Samples(samples) if samples.len() == 10 => asked.push(begun.elapsed()),
            other => return Err(Failed(format!("{other:?}"))),
        }
    }
    let mb = std::fs::metadata(&path)?.len() as f64 / 1e6;
    Ok(vec![
        Figure::ms("samples, median", quantile(&mut asked, 0.5), Some(100.0)),
        Figure::new("the rollout file", mb, "MB", None),
        Figure::new("most memory so far", daemon.memory_mb("VmHWM")?, "MB", None),
    ])
}

/// A job that takes over a stage with many rollout files.
fn reuse(build: &Build, cut: u64, dir: &TempDir) -> Result<Vec<Figure>, Failed> {
    inputs::write(dir.path())?;
    let setup = Setup {
        devices: 1,
        delay: Duration::ZERO,
        ..BUSY
    };
    let files = ROLLOUT_FILES / cut;
    let mut daemon = Daemon::start(build, dir.path(), setup)?;
    let begun = Instant::now();
    let first = daemon.submit(inputs::sampling(dir.path(), files, Some(1)))?;
    daemon.succeeded(&first)?;
    let sampled = begun.elapsed();
    let begun = Instant::now();
    let second = daemon.submit(inputs::sampling(dir.path(), files, Some(2)))?;
    let status = daemon.wait("the stage", Duration::from_millis(5), |daemon| {
        let status = daemon.status(&second)?;
        let is_taken = |status: &r1d_proto::control::job::JobStatus| {
            status
                .stages
                .first()
                .is_some_and(|stage| stage.state == State::Succeeded)
        };
        Ok(is_taken(&status).then_some(status))
    })?;
    let taken = begun.elapsed();
    if status
        .stages
        .first()
        .is_none_or(|stage| stage.reused_from.is_none())
    {
        return Err(Failed("the stage was done again".into()));
    }
    Ok(vec![
        Figure::ms("submit to the stage taken over", taken, Some(5000.0)),
        Figure::ms("the stage itself, by step", sampled / files as u32, None),
    ])
}
