//! What must hold after a restart.

use crate::attempt::{FILES, checkpoint, name_of, rows};
use crate::world::{STAGE, STEPS, World, job, layout};
use r1d_ledger::{StageRecord, unrecorded};
use r1d_proto::control::job::State;
use r1d_proto::storage::Storage;
use r1d_sim::SimDisk;
use r1d_store::{Journal, rollouts};
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};

/// Checks the machine against what it has acknowledged; the error says what is amiss.
pub(crate) fn check(world: &World) -> Result<(), String> {
    let (ledger, known) = (world.ledger(), &world.known);
    let record = ledger.job(&job("a")).ok_or("job a is lost")?;
    let stage = record.progress.stages.first();
    let step = stage.map_or(0, |stage| stage.step);
    if step < known.committed || step > known.committed + 1 {
        return Err(format!("{step} steps, {} acknowledged", known.committed));
    }
    let is_finished = stage.is_some_and(|stage| stage.state == State::Succeeded);
    let saved = stage.map_or(0, |stage| stage.durable_step());
    if known.finished && !is_finished || saved < known.checkpoint {
        return Err(format!(
            "finished {is_finished}, checkpoint of step {saved}"
        ));
    }
    if let Some(stage) = stage {
        rollout_files(world, "a", step)?;
        checkpoints(world, stage)?;
        if !is_finished {
            journal(world, stage)?;
        }
        let metrics = ledger
            .metrics(&job("a"), 0)
            .map_err(|error| error.to_string())?;
        let steps: Vec<u64> = metrics.iter().map(|(step, _)| *step).collect();
        if !steps.iter().copied().eq(0..step) {
            return Err(format!("metrics of steps {steps:?}"));
        }
    }
    let reused = ledger.job(&job("b")).ok_or("job b is lost")?;
    match reused.progress.stages.first() {
        Some(stage) => {
            rollout_files(world, "b", stage.step)?;
            checkpoints(world, stage)
        }
        None if known.reused => Err("job b has lost the stage".into()),
        None => Ok(()),
    }
}

/// Checks that both jobs have come to their end.
pub(crate) fn check_end(world: &World) -> Result<(), String> {
    for name in ["a", "b"] {
        let record = world.ledger().job(&job(name)).ok_or("a job is lost")?;
        let stage = record.progress.stages.first().ok_or("no stage")?;
        if stage.state != State::Succeeded || stage.step != STEPS {
            return Err(format!("job {name} is not done"));
        }
        nothing_unrecorded(world, name, stage)?;
    }
    Ok(())
}

fn rollout_files(world: &World, name: &str, steps: u64) -> Result<(), String> {
    for step in 0..steps {
        let path = layout(name).rollouts(STAGE, step + 1);
        let found = world.disk.read(&path).map_err(|error| error.to_string())?;
        let content = world.known.rows.get(&step).ok_or("nobody committed it")?;
        if found != *file_of(*content, step) {
            let found = (1..20).find(|other| *file_of(*other, step) == found);
            return Err(format!("{} is of {found:?}, not {content}", path.display()));
        }
    }
    Ok(())
}

/// The bytes of a rollout file.
fn file_of(content: u64, step: u64) -> Arc<Vec<u8>> {
    type Files = Mutex<HashMap<(u64, u64), Arc<Vec<u8>>>>;
    static FILES: OnceLock<Files> = OnceLock::new();
    let mut files = FILES.get_or_init(Files::default).lock().unwrap();
    let file = files.entry((content, step)).or_insert_with(|| {
        let (disk, path) = (SimDisk::default(), Path::new("/x.parquet"));
        rollouts::write(&disk, path, &rows(content, step)).unwrap();
        Arc::new(disk.read(path).unwrap())
    });
    file.clone()
}

fn checkpoints(world: &World, stage: &StageRecord) -> Result<(), String> {
    for record in &stage.checkpoints {
        for name in FILES {
            let path = record.dir.join(name);
            let found = world.disk.read(&path).map_err(|error| error.to_string())?;
            if found != record.manifest_sha256.as_bytes() {
                return Err(format!("{} is of another checkpoint", path.display()));
            }
        }
    }
    Ok(())
}

/// Only checkpoints that are on record take room.
fn nothing_unrecorded(world: &World, name: &str, stage: &StageRecord) -> Result<(), String> {
    let dir = layout(name).checkpoints(None, &job(name)).join(STAGE);
    let left = unrecorded(&world.disk, &dir, Some(stage));
    if left.is_empty() {
        Ok(())
    } else {
        Err(format!("not on record, and left: {left:?}"))
    }
}

/// Every step since the oldest checkpoint can be trained on again, and is what was committed; what
/// is sealed is there.
fn journal(world: &World, stage: &StageRecord) -> Result<(), String> {
    let text = |error: r1d_store::JournalError| error.to_string();
    let (dir, known) = (layout("a").journal(), &world.known);
    let journal = Journal::view(world.disk.shared(), &dir, &job("a"), 0).map_err(text)?;
    let oldest = stage.checkpoints.first().map_or(0, |record| record.step);
    let sealed = known.sealed.range(stage.step..);
    let sealed = sealed.map(|(step, content)| (*step, *content));
    let committed = known.rows.range(oldest..stage.step);
    let committed = committed.map(|(step, content)| (*step, *content));
    for (step, content) in committed.chain(sealed) {
        let replayed = journal.replay(step).map_err(text)?;
        let wanted: Vec<_> = rows(content, step)
            .into_iter()
            .map(|row| row.scored)
            .collect();
        if replayed != wanted {
            return Err(format!("the journal of step {step} is not of {content}"));
        }
    }
    Ok(())
}

/// A plain life, so that the numbers of the random ones are seen to be right.
#[test]
fn an_undisturbed_life_leaves_what_is_checked() {
    let mut world = World::new();
    let before = world.disk.operations();
    crate::attempts(&mut world, &[]).unwrap();
    let operations = world.disk.operations() - before;
    assert!((200..600).contains(&operations), "{operations}");
    check(&world).and_then(|()| check_end(&world)).unwrap();
    let weights = world.disk.read(&checkpoint("b", STEPS).join("weights"));
    assert_eq!(weights.unwrap(), name_of(1).as_bytes());
}
