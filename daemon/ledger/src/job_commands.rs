//! What commands do to the record of one job, once it is clear that they may: those of an attempt,
//! and what ends a job's life.

use crate::command::{Applied, Command, Effect, Rejected};
use crate::limits::{
    CHECKPOINTS_MAX, ERROR_MAX_BYTES, EVALS_MAX, METRICS_MAX_NAMES, NAME_MAX_BYTES,
    REWARD_VERSION_MAX_BYTES, REWARD_VERSIONS_MAX, STAGES_MAX, within,
};
use crate::record::{CheckpointRecord, JobRecord, RewardVersion, StageRecord};
use r1d_proto::control::job::{EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use std::path::PathBuf;
use std::sync::Arc;

/// Carries out a command of the attempt that works on a stage.
pub(crate) fn of_attempt(record: &mut JobRecord, command: &Command) -> Applied {
    match command {
        Command::BeginStage {
            stage,
            name,
            kind,
            steps,
            at,
            ..
        } => begin_stage(record, *stage, name, kind, *steps, *at),
        Command::CommitStep {
            stage,
            step,
            metrics,
            ..
        } => forgiving(record, |record| commit_step(record, *stage, *step, metrics)),
        Command::Checkpoint {
            stage,
            step,
            dir,
            manifest_sha256,
            ..
        } => {
            let checkpoint = CheckpointRecord {
                step: *step,
                dir: dir.clone(),
                manifest_sha256: manifest_sha256.clone(),
            };
            forgiving(record, |record| add_checkpoint(record, *stage, checkpoint))
        }
        Command::DropCheckpoint { stage, step, .. } => drop_checkpoint(record, *stage, *step),
        Command::GoBack {
            stage,
            step,
            metrics,
            ..
        } => go_back(record, *stage, *step, metrics),
        Command::Eval { result, .. } => forgiving(record, |record| add_eval(record, result)),
        Command::FinishStage { stage, at, .. } => {
            forgiving(record, |record| finish_stage(record, *stage, *at))
        }
        other => Err(misdirected(other)),
    }
}

/// Carries out a command of a job's life, which may come before its first attempt.
pub(crate) fn of_life(record: &mut JobRecord, command: &Command) -> Applied {
    match command {
        Command::Finish {
            state,
            error,
            model,
            at,
            ..
        } => finish(record, *state, error.clone(), model.clone(), *at),
        Command::ReuseStage {
            of,
            stage,
            record: finished,
            metrics,
            evals,
            ..
        } => reuse_stage(record, of, *stage, finished, metrics.len(), evals),
        other => Err(misdirected(other)),
    }
}

/// The refusal of a command that changes no single job: the state sends none here.
fn misdirected(command: &Command) -> Rejected {
    let job = command.job().clone();
    Rejected::UnknownJob { job }
}

/// Carries out a change of a job and forgets its strikes if it succeeds: what is committed shows
/// that the daemon survives the job.
fn forgiving(record: &mut JobRecord, change: impl FnOnce(&mut JobRecord) -> Applied) -> Applied {
    let effect = change(record)?;
    record.strikes.count = 0;
    Ok(effect)
}

fn wrong_stage(record: &JobRecord, stage: u32) -> Rejected {
    let stages = &record.progress.stages;
    let finished = stages
        .iter()
        .filter(|stage| stage.state == RunState::Succeeded)
        .count() as u32;
    Rejected::WrongStage {
        job: record.job().clone(),
        stage,
        begun: stages.len() as u32,
        finished,
    }
}

/// The stage at work, if it is `stage`.
fn at_work(record: &mut JobRecord, stage: u32) -> Result<&mut StageRecord, Rejected> {
    if record.stage_at_work().map(|(index, _)| index) != Some(stage) {
        return Err(wrong_stage(record, stage));
    }
    let refusal = wrong_stage(record, stage);
    let current = record.progress.stages.get_mut(stage as usize);
    current.map(Arc::make_mut).ok_or(refusal)
}

fn begin_stage(
    record: &mut JobRecord,
    stage: u32,
    name: &str,
    kind: &str,
    steps: u64,
    at: u64,
) -> Applied {
    let job = record.job().clone();
    if let Some((index, current)) = record.stage_at_work() {
        if index != stage {
            return Err(wrong_stage(record, stage));
        }
        let describe =
            |name: &str, kind: &str, steps: u64| format!("`{name}` ({kind}, {steps} steps)");
        let (began, now) = (
            describe(&current.name, &current.kind, current.steps),
            describe(name, kind, steps),
        );
        if began != now {
            return Err(Rejected::StageChanged {
                job,
                stage,
                began,
                now,
            });
        }
        return Ok(Effect::StageBegun {
            step: current.step,
            durable_step: current.durable_step(),
        });
    }
    if record.progress.stages.len() != stage as usize {
        return Err(wrong_stage(record, stage));
    }
    within(&job, "the number of stages", stage as usize + 1, STAGES_MAX)?;
    within(
        &job,
        "the stage name's length in bytes",
        name.len(),
        NAME_MAX_BYTES,
    )?;
    within(
        &job,
        "the stage kind's length in bytes",
        kind.len(),
        NAME_MAX_BYTES,
    )?;
    record.progress.stages.push(Arc::new(StageRecord {
        name: name.to_string(),
        kind: kind.to_string(),
        state: RunState::Running,
        steps,
        step: 0,
        checkpoints: Vec::new(),
        begun_at: at,
        ended_at: None,
        metrics: Metrics::new(),
    }));
    Ok(Effect::StageBegun {
        step: 0,
        durable_step: 0,
    })
}

fn commit_step(record: &mut JobRecord, stage: u32, step: u64, metrics: &Metrics) -> Applied {
    let job = record.job().clone();
    within(
        &job,
        "the number of metrics",
        metrics.len(),
        METRICS_MAX_NAMES,
    )?;
    let current = at_work(record, stage)?;
    if step != current.step || step >= current.steps {
        return Err(Rejected::WrongStep {
            job,
            stage,
            step,
            committed: current.step,
            steps: current.steps,
        });
    }
    current.step += 1;
    current.metrics = metrics.clone();
    Ok(Effect::StepCommitted { step: current.step })
}

fn add_checkpoint(record: &mut JobRecord, stage: u32, checkpoint: CheckpointRecord) -> Applied {
    let job = record.job().clone();
    let current = at_work(record, stage)?;
    if checkpoint.step > current.step {
        return Err(Rejected::CheckpointAhead {
            job,
            stage,
            step: checkpoint.step,
            committed: current.step,
        });
    }
    match current
        .checkpoints
        .binary_search_by_key(&checkpoint.step, |known| known.step)
    {
        Ok(place) => current.checkpoints[place] = checkpoint,
        Err(place) => {
            within(
                &job,
                "the number of checkpoints",
                current.checkpoints.len() + 1,
                CHECKPOINTS_MAX,
            )?;
            current.checkpoints.insert(place, checkpoint);
        }
    }
    Ok(Effect::Checkpointed {
        durable_step: current.durable_step(),
    })
}

/// Forgets a checkpoint of any stage that has begun: a finished stage's checkpoints are pruned
/// while a later one works.
fn drop_checkpoint(record: &mut JobRecord, stage: u32, step: u64) -> Applied {
    let refusal = wrong_stage(record, stage);
    let current = record
        .progress
        .stages
        .get_mut(stage as usize)
        .map(Arc::make_mut)
        .ok_or(refusal)?;
    current.checkpoints.retain(|known| known.step != step);
    Ok(Effect::CheckpointDropped {
        durable_step: current.durable_step(),
    })
}

fn go_back(record: &mut JobRecord, stage: u32, step: u64, metrics: &Metrics) -> Applied {
    let job = record.job().clone();
    let current = at_work(record, stage)?;
    if step > current.step {
        return Err(Rejected::WrongStep {
            job,
            stage,
            step,
            committed: current.step,
            steps: current.steps,
        });
    }
    (current.step, current.metrics) = (step, metrics.clone());
    current.checkpoints.retain(|known| known.step <= step);
    let name = current.name.clone();
    Arc::make_mut(&mut record.evals)
        .retain(|known| known.stage.as_ref() != Some(&name) || known.step <= step);
    Ok(Effect::WentBack { step })
}

fn add_eval(record: &mut JobRecord, result: &EvalResult) -> Applied {
    let same = |known: &EvalResult| {
        known.stage == result.stage && known.step == result.step && known.data == result.data
    };
    match record.evals.iter().position(|known| same(known)) {
        Some(index) => Arc::make_mut(&mut record.evals)[index] = Arc::new(result.clone()),
        None => {
            within(
                record.job(),
                "the number of evaluations",
                record.evals.len() + 1,
                EVALS_MAX,
            )?;
            Arc::make_mut(&mut record.evals).push(Arc::new(result.clone()));
        }
    }
    Ok(Effect::EvalRecorded)
}

/// Sets a component as judge; one that is set again for the same step replaces the one before.
pub(crate) fn set_reward_version(record: &mut JobRecord, reward_version: RewardVersion) -> Applied {
    let job = record.job().clone();
    let from = (reward_version.stage, reward_version.step);
    let begun = record.progress.stages.len() as u32;
    let late = match record.stage_at_work() {
        Some((stage, work)) => from <= (stage, work.step),
        None => reward_version.stage < begun,
    };
    let of_plugin = |known: &RewardVersion| known.plugin == reward_version.plugin;
    let index = record.reward_versions.iter().rposition(of_plugin);
    let known = index.and_then(|index| record.reward_versions.get(index));
    let goes_back = known.is_some_and(|known| from < (known.stage, known.step));
    if late || goes_back {
        return Err(Rejected::RewardLate {
            job,
            stage: reward_version.stage,
            step: reward_version.step,
        });
    }
    within(
        &job,
        "the plugin's length in bytes",
        reward_version.plugin.len(),
        REWARD_VERSION_MAX_BYTES,
    )?;
    within(&job, "the hash's length", reward_version.sha256.len(), 64)?;
    // A stage that another component judges than the one it was submitted with has another outcome
    // than its key means, for this job and for later ones.
    if known.is_some_and(|known| known.sha256 != reward_version.sha256) {
        Arc::make_mut(&mut record.reuse)
            .keys
            .iter_mut()
            .skip(reward_version.stage as usize)
            .for_each(String::clear);
    }
    let is_same = known.is_some_and(|known| (known.stage, known.step) == from);
    let versions = Arc::make_mut(&mut record.reward_versions);
    match index.and_then(|index| versions.get_mut(index)) {
        Some(known) if is_same => *known = reward_version,
        _ => {
            within(
                &job,
                "the number of judges",
                versions.len() + 1,
                REWARD_VERSIONS_MAX,
            )?;
            versions.push(reward_version);
        }
    }
    Ok(Effect::RewardVersionSet)
}

/// Adds a finished stage of another job. It must be the next stage, with none at work: the job goes
/// on behind it.
fn reuse_stage(
    record: &mut JobRecord,
    of: &JobId,
    stage: u32,
    finished: &StageRecord,
    steps_with_metrics: usize,
    evals: &[EvalResult],
) -> Applied {
    let job = record.job().clone();
    if record.stage_at_work().is_some() || record.progress.stages.len() != stage as usize {
        return Err(wrong_stage(record, stage));
    }
    let whole = finished.state == RunState::Succeeded && finished.step == finished.steps;
    if !whole || steps_with_metrics as u64 != finished.steps {
        return Err(Rejected::NotWhole { job, stage });
    }
    within(&job, "the number of stages", stage as usize + 1, STAGES_MAX)?;
    within(
        &job,
        "the number of evaluations",
        record.evals.len() + evals.len(),
        EVALS_MAX,
    )?;
    record.progress.stages.push(Arc::new(finished.clone()));
    for result in evals {
        add_eval(record, result)?;
    }
    Arc::make_mut(&mut record.reuse)
        .taken
        .insert(stage, of.clone());
    Ok(Effect::StageReused)
}

fn finish_stage(record: &mut JobRecord, stage: u32, at: u64) -> Applied {
    let job = record.job().clone();
    let current = at_work(record, stage)?;
    if current.step != current.steps {
        return Err(Rejected::StageIncomplete {
            job,
            stage,
            committed: current.step,
            steps: current.steps,
        });
    }
    current.state = RunState::Succeeded;
    current.ended_at = Some(at);
    Ok(Effect::StageFinished)
}

fn finish(
    record: &mut JobRecord,
    state: RunState,
    error: Option<String>,
    model: Option<PathBuf>,
    at: u64,
) -> Applied {
    let refuse = |why: String| {
        Err(Rejected::CannotFinish {
            job: record.job().clone(),
            state,
            why,
        })
    };
    if !state.is_final() {
        return refuse("that is no end".to_string());
    }
    if (record.progress.epoch, state) == (0, RunState::Succeeded) {
        return refuse("it was never started".to_string());
    }
    if let (RunState::Succeeded, Some((_, stage))) = (state, record.stage_at_work()) {
        return refuse(format!("stage `{}` is at work", stage.name));
    }
    record.progress.error = error.map(|text| cut(text, ERROR_MAX_BYTES));
    record.progress.model = model;
    end(record, state, at);
    Ok(Effect::Finished { state })
}

/// Ends a job, and the stage at work with it.
pub(crate) fn end(record: &mut JobRecord, state: RunState, at: u64) {
    record.progress.state = state;
    record.standing.pause = None;
    record.progress.ended_at = Some(at);
    if let Some(stage) = record
        .progress
        .stages
        .last_mut()
        .filter(|stage| stage.state == RunState::Running)
    {
        let stage = Arc::make_mut(stage);
        stage.state = state;
        stage.ended_at = Some(at);
    }
}

/// Undoes [`end`]: the stage that was at work is at work again.
pub(crate) fn take_back_end(record: &mut JobRecord) {
    let progress = &mut record.progress;
    (progress.error, progress.model, progress.ended_at) = (None, None, None);
    if let Some(stage) = progress
        .stages
        .last_mut()
        .filter(|stage| stage.state != RunState::Succeeded)
    {
        let stage = Arc::make_mut(stage);
        stage.state = RunState::Running;
        stage.ended_at = None;
    }
}

fn cut(mut text: String, length_max: usize) -> String {
    if text.len() > length_max {
        let end = (0..=length_max)
            .rev()
            .find(|&end| text.is_char_boundary(end))
            .unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}
