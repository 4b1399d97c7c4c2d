//! Checkpoints in their places that the ledger has no record of: a checkpoint is placed before it
//! goes on record, and is taken off the record before it is removed, so a crash in between leaves
//! one. The attempts after it may never come to that step again.

use crate::record::{JobRecord, StageRecord};
use r1d_proto::storage::Storage;
use r1d_store::{layout, remove_dir, sync_parent};
use std::io;
use std::path::{Path, PathBuf};

/// Returns the checkpoints below a stage's directory of which its record says nothing, each with
/// its step. Only names of checkpoints count: the directory may hold what others put there.
pub fn unrecorded(
    storage: &dyn Storage,
    dir: &Path,
    record: Option<&StageRecord>,
) -> Vec<(u64, PathBuf)> {
    let on_record = |step: u64| {
        let mut checkpoints = record.iter().flat_map(|record| &record.checkpoints);
        checkpoints.any(|checkpoint| checkpoint.step == step)
    };
    // What cannot be listed now is found by the next attempt.
    let names = storage.list_dirs(dir).unwrap_or_default();
    let steps = names.iter().filter_map(|name| {
        let step = layout::checkpoint_step(name)?;
        // Another spelling of a number, `step-08`, is not one of r1d's.
        (*name == format!("step-{step}") && !on_record(step)).then(|| (step, dir.join(name)))
    });
    steps.collect()
}

/// Removes, below the directory of a job's checkpoints, those of these stages (the job's first
/// ones) that are not on record; `told` hears of each. None may be being written in its place.
pub fn remove_unrecorded<'s>(
    storage: &dyn Storage,
    checkpoints: &Path,
    record: &JobRecord,
    stages: impl IntoIterator<Item = &'s str>,
    mut told: impl FnMut(&Path, io::Result<()>),
) {
    for (index, stage) in stages.into_iter().enumerate() {
        let known = record.progress.stages.get(index);
        for (_, dir) in unrecorded(
            storage,
            &checkpoints.join(stage),
            known.map(|known| &**known),
        ) {
            let removed = remove_dir(storage, &dir).and_then(|()| sync_parent(storage, &dir));
            told(&dir, removed);
        }
    }
}
