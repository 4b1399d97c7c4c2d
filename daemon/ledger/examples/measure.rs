//! Measures the ledger: `cargo run --release -p r1d-ledger --example measure -- DIRECTORY [JOBS
//! [STEPS [STEPS TAKEN OVER]]]`. It prints what a command costs without a disk, how many commands
//! of several threads become durable in a second, and what it takes to open the ledger again.
#![allow(
    clippy::disallowed_methods,
    reason = "it measures time, outside of any simulation"
)]

use r1d_ledger::{Command, Ledger, NewJob, Record, Session, StageRecord, State};
use r1d_proto::control::job::{EvalExample, EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Jobs at work, each with a thread that commits its steps.
const AT_WORK: usize = 8;
/// Steps of a stage that is taken over.
const TAKEN_OVER_AT_ONCE: u64 = 20_000;

fn id(index: usize) -> JobId {
    JobId(format!("{index:08}"))
}

/// A job file of the size that a submission has with its defaults filled in.
fn submit(index: usize) -> Command {
    Command::Submit(NewJob {
        name: format!("job {index}"),
        priority: (index % 7) as i32,
        request: Some(format!("request-{index}")),
        reward_versions: [("accuracy".into(), "ab".repeat(32))].into(),
        keys: vec!["cd".repeat(32); 3],
        reuses: true,
        ..NewJob::of(
            id(index),
            format!(
                "seed = {index}\n{}",
                "learning_rate = 0.000001\n".repeat(160)
            ),
        )
    })
}

fn begin(index: usize, steps: u64) -> [Command; 2] {
    [
        Command::Start {
            job: id(index),
            at: 2,
        },
        Command::BeginStage {
            job: id(index),
            epoch: 1,
            stage: 0,
            name: "reasoning".into(),
            kind: "grpo".into(),
            steps,
            at: 3,
        },
    ]
}

/// Metrics with as many names as a step of GRPO has.
fn metrics(step: u64) -> Metrics {
    (0..48)
        .map(|name| (format!("rewards/metric_{name:02}/mean"), step as f64 / 3.0))
        .collect()
}

/// A finished stage that the job takes over: its steps come at once.
fn take_over(index: usize, stage: u32, steps: u64) -> Command {
    let record = StageRecord {
        name: format!("stage {stage}"),
        kind: "grpo".into(),
        state: RunState::Succeeded,
        steps,
        step: steps,
        checkpoints: Vec::new(),
        begun_at: 3,
        ended_at: Some(4),
        metrics: metrics(steps),
    };
    Command::ReuseStage {
        job: id(index),
        epoch: 0,
        of: id(0),
        stage,
        record: Box::new(record),
        metrics: (0..steps).map(|step| (step, metrics(step))).collect(),
        evals: Vec::new(),
    }
}

fn commit(index: usize, step: u64) -> Command {
    let metrics = metrics(step);
    Command::CommitStep {
        job: id(index),
        epoch: 1,
        stage: 0,
        step,
        metrics,
    }
}

/// An evaluation with a long completion as its example.
fn eval(index: usize, step: u64) -> Command {
    let result = EvalResult {
        stage: Some("reasoning".into()),
        step,
        data: "test".into(),
        metrics: Metrics::from([("pass@1".into(), 0.5)]),
        example: Some(EvalExample {
            prompt: "p".repeat(1000),
            completion: "c".repeat(30_000),
            reference: None,
        }),
    };
    Command::Eval {
        job: id(index),
        epoch: 1,
        result,
    }
}

/// A command of a job with 1,000 evaluations among `jobs`, while a reader has the state before it.
fn without_disk(jobs: usize) {
    let mut state = State::default();
    let mut apply = |command: &Command| {
        let reader = state.clone();
        let effect = state.apply(command).map(drop);
        drop(reader);
        effect.unwrap_or_else(|refused| panic!("{refused}"));
    };
    (0..jobs).for_each(|index| apply(&submit(index)));
    begin(0, u64::MAX).iter().for_each(&mut apply);
    (0..1000).for_each(|step| apply(&eval(0, step)));
    let commits: Vec<Command> = (0..2000).map(|step| commit(0, step)).collect();
    let start = Instant::now();
    commits.iter().for_each(&mut apply);
    let each = start.elapsed() / commits.len() as u32;
    println!("a commit among {jobs} jobs, without the disk: {each:?}");
}

fn resident_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kb = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kb.unwrap_or(0) / 1024
}

fn fill(path: &Path, jobs: usize, steps: u64) {
    let ledger = Ledger::open(path).unwrap_or_else(|error| panic!("{error}"));
    let session = Session::open(Arc::new(ledger), 1);
    let apply = |command| match session.apply(command) {
        Ok(_) => {}
        Err(error) => panic!("{error}"),
    };
    std::thread::scope(|scope| {
        for thread in 0..AT_WORK {
            let apply = &apply;
            scope.spawn(move || {
                let mine = (0..jobs).filter(|index| index % AT_WORK == thread);
                mine.map(submit).for_each(apply);
                begin(thread, u64::MAX).into_iter().for_each(apply);
            });
        }
    });
    let start = Instant::now();
    let of_each = steps / AT_WORK as u64;
    std::thread::scope(|scope| {
        for index in 0..AT_WORK {
            let apply = &apply;
            scope.spawn(move || (0..of_each).for_each(|step| apply(commit(index, step))));
        }
    });
    let (count, elapsed) = (of_each * AT_WORK as u64, start.elapsed());
    println!(
        "{AT_WORK} threads: {:.0} commits/s, each after {:?}",
        count as f64 / elapsed.as_secs_f64(),
        elapsed / of_each.max(1) as u32
    );
}

/// Has jobs at the end of the queue take over stages of as many steps in all.
fn take_over_all(path: &Path, jobs: usize, steps: u64) {
    let ledger = Ledger::open(path).unwrap_or_else(|error| panic!("{error}"));
    let stages = steps.div_ceil(TAKEN_OVER_AT_ONCE);
    for number in 0..stages {
        let (index, stage) = (jobs - 1 - (number / 10) as usize, (number % 10) as u32);
        if let Err(error) = ledger.apply(take_over(index, stage, TAKEN_OVER_AT_ONCE)) {
            panic!("{error}");
        }
    }
    let start = Instant::now();
    let middle = TAKEN_OVER_AT_ONCE / 2;
    for step in middle..middle + 100 {
        match ledger.metrics_in(&id(jobs - 1), 0, step..step + 1) {
            Ok(rows) => assert_eq!(rows.len(), 1),
            Err(error) => panic!("{error}"),
        }
    }
    println!("metrics of a step: {:?}", start.elapsed() / 100);
}

fn main() {
    let words: Vec<String> = std::env::args().collect();
    let number = |index: usize, default: u64| -> u64 {
        words
            .get(index)
            .map_or(default, |word| word.parse().unwrap_or(default))
    };
    let (jobs, steps) = (number(2, 10_000) as usize, number(3, 4000));
    let Some(directory) = words.get(1) else {
        println!("usage: measure DIRECTORY [JOBS [STEPS [STEPS TAKEN OVER]]]");
        return;
    };
    let path = Path::new(directory).join("ledger.redb");
    let taken_over = number(4, 0);
    if !path.exists() {
        without_disk(jobs);
        fill(&path, jobs, steps);
        if taken_over > 0 {
            take_over_all(&path, jobs, taken_over);
        }
    }
    let before = resident_mb();
    let start = Instant::now();
    let ledger = Ledger::open(&path).unwrap_or_else(|error| panic!("{error}"));
    let took: Duration = start.elapsed();
    println!(
        "opened with {} jobs in {took:?}, {} MB resident ({before} MB before), file {} MB",
        ledger.state().len(),
        resident_mb(),
        std::fs::metadata(&path).map_or(0, |found| found.len()) >> 20
    );
}
