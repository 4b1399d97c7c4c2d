//! Ledgers with many jobs and steps, written without a daemon.

use crate::figure::Failed;
use r1d_ledger::{Command, Ledger, NewJob, StageRecord};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use std::path::Path;

/// Threads that fill a ledger: commands that come together share a sync.
const THREADS: usize = 32;
/// Steps of a stage that is taken over.
const STAGE_STEPS: u64 = 20_000;

pub(crate) fn id(index: usize) -> JobId {
    JobId(format!("{index:08}"))
}

/// A job file of the size that a submission has with its defaults filled in.
fn submit(index: usize) -> Command {
    let job_toml = format!(
        "seed = {index}\n{}",
        "learning_rate = 0.000001\n".repeat(160)
    );
    Command::Submit(NewJob {
        name: format!("job {index}"),
        priority: (index % 7) as i32,
        request: Some(format!("request-{index}")),
        reward_versions: [("accuracy".into(), "ab".repeat(32))].into(),
        keys: vec!["cd".repeat(32); 3],
        reuses: true,
        ..NewJob::of(id(index), job_toml)
    })
}

/// A finished stage that the job takes over: its steps come at once.
fn take_over(index: usize, stage: u32) -> Command {
    let metrics = |step: u64| -> Metrics {
        let names = (0..48).map(|name| format!("rewards/metric_{name:02}/mean"));
        names.map(|name| (name, step as f64 / 3.0)).collect()
    };
    let record = StageRecord {
        name: format!("stage {stage}"),
        kind: "grpo".into(),
        state: State::Succeeded,
        steps: STAGE_STEPS,
        step: STAGE_STEPS,
        checkpoints: Vec::new(),
        begun_at: 3,
        ended_at: Some(4),
        metrics: metrics(STAGE_STEPS),
    };
    Command::ReuseStage {
        job: id(index),
        epoch: 0,
        of: id(0),
        stage,
        record: Box::new(record),
        metrics: (0..STAGE_STEPS).map(|step| (step, metrics(step))).collect(),
        evals: Vec::new(),
    }
}

/// Makes the ledger of a state directory: `jobs` queued jobs, of which the last have taken over
/// `steps` steps in all.
pub(crate) fn fill(state: &Path, jobs: usize, steps: u64) -> Result<(), Failed> {
    std::fs::create_dir_all(state.join("jobs"))?;
    let ledger = Ledger::open(&state.join("ledger.redb"))?;
    std::thread::scope(|scope| {
        let filling = |thread: usize| {
            let ledger = &ledger;
            scope.spawn(move || -> Result<(), Failed> {
                for index in (thread..jobs).step_by(THREADS) {
                    ledger.apply(submit(index))?;
                }
                Ok(())
            })
        };
        let threads: Vec<_> = (0..THREADS).map(filling).collect();
        threads
            .into_iter()
            .try_for_each(|thread| match thread.join() {
                Ok(filled) => filled,
                Err(_) => Err(Failed("a thread panicked".into())),
            })
    })?;
    for number in 0..steps.div_ceil(STAGE_STEPS) {
        let (index, stage) = (jobs - 1 - (number / 10) as usize, (number % 10) as u32);
        std::fs::create_dir_all(state.join("jobs").join(id(index).0))?;
        ledger.apply(take_over(index, stage))?;
    }
    Ok(())
}
