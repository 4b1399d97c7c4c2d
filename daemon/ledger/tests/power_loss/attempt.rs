//! An attempt at the job, as the daemon's writer is given it: task after task.

use crate::world::{STAGE, STEPS, World, job, layout};
use r1d_ledger::{AttemptWriter, CheckpointRecord, Command, Effect, remove_unrecorded};
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::storage::Storage;
use r1d_proto::worker::Metrics;
use r1d_store::rollouts::RolloutRow;
use r1d_store::{
    Entry, FILE_MODE, PartialDir, create_dir, layout as paths, link_dir, link_files, remove_parts,
};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// The stage's index.
const INDEX: u32 = 0;
/// Completions of a step.
const SAMPLES: u32 = 2;
/// The files of a checkpoint.
pub(crate) const FILES: [&str; 3] = ["manifest.json", "reference/weights", "weights"];

enum Task {
    Sample(u64),
    Seal(u64),
    Commit(u64),
    /// The worker saves the state after so many steps.
    Save(u64),
    Record(u64),
    Prune,
    Finish,
    /// Job `b` takes the stage over.
    Reuse,
}

pub(crate) struct Attempt {
    epoch: u64,
    writer: AttemptWriter,
    tasks: Vec<Task>,
    /// What the steps of this attempt hold.
    contents: BTreeMap<u64, u64>,
    /// What the worker saved last.
    saved: u64,
}

impl Attempt {
    /// Begins an attempt as the daemon does, from what the ledger has on record.
    pub(crate) fn begin(world: &World) -> Result<Attempt, String> {
        let ledger = world.ledger();
        let started = Command::Start {
            job: job("a"),
            at: 1,
        };
        let epoch = match ledger.apply(started).map_err(text)? {
            Effect::Started { epoch, .. } => epoch,
            other => return Err(format!("{other:?}")),
        };
        let storage = world.fence.next(world.disk.shared());
        let layout = layout("a");
        for dir in [&layout.dir, &layout.rollouts_dir()] {
            create_dir(&*storage, dir).map_err(text)?;
            remove_parts(&*storage, dir);
        }
        let record = ledger.job(&job("a")).ok_or("no job")?;
        let checkpoints = layout.checkpoints(None, &job("a"));
        paths::remove_unplaced(&*storage, &checkpoints);
        remove_unrecorded(&*storage, &checkpoints, &record, [STAGE], |_, _| {});
        let writer = AttemptWriter::new(ledger.clone(), storage, layout, job("a"), epoch);
        let stage = record.progress.stages.first();
        if stage.is_none() {
            let begun = Command::BeginStage {
                job: job("a"),
                epoch,
                stage: INDEX,
                name: STAGE.into(),
                kind: "grpo".into(),
                steps: STEPS,
                at: 1,
            };
            writer.apply(begun).map_err(text)?;
        }
        let step = stage.map_or(0, |stage| stage.step);
        let saved = stage.map_or(0, |stage| stage.durable_step());
        let is_finished = stage.is_some_and(|stage| stage.ended_at.is_some());
        Ok(Attempt {
            epoch,
            writer,
            tasks: tasks(step, saved, is_finished),
            contents: BTreeMap::new(),
            saved: 0,
        })
    }

    pub(crate) fn has_more(&self) -> bool {
        !self.tasks.is_empty()
    }

    /// Carries out the next task. What is done is acknowledged if the attempt `counts`.
    pub(crate) fn go_on(&mut self, world: &mut World, counts: bool) -> Result<(), String> {
        let Some(task) = self.tasks.pop() else {
            return Ok(());
        };
        match task {
            Task::Sample(step) => self.sample(step),
            Task::Seal(step) => self.seal(world, step, counts),
            Task::Commit(step) => self.commit(world, step, counts),
            Task::Save(step) => self.save(world, step),
            Task::Record(step) => {
                let (dir, sha256) = (checkpoint("a", step), name_of(self.saved));
                let recorded = self.writer.record_checkpoint(INDEX, step, dir, sha256);
                recorded.map_err(text)?;
                if counts {
                    world.known.checkpoint = step;
                }
                Ok(())
            }
            Task::Prune => self.prune(world),
            Task::Finish => {
                self.writer.finish_stage(INDEX, 2).map_err(text)?;
                world.known.finished |= counts;
                Ok(())
            }
            Task::Reuse if counts => {
                reuse(world)?;
                world.known.reused = true;
                Ok(())
            }
            Task::Reuse => Ok(()),
        }
    }

    /// What the journal holds of the step is taken if it is sealed, and otherwise done again.
    fn sample(&mut self, step: u64) -> Result<(), String> {
        let journal = self.writer.journal(INDEX).map_err(text)?;
        let found = journal.read(step).map_err(text)?;
        if found.sealed.is_some() {
            let content = found
                .sampled
                .values()
                .next()
                .map_or(0, |rollout| rollout.row);
            self.contents.insert(step, content);
            return Ok(());
        }
        if !found.sampled.is_empty() {
            self.writer.forget(INDEX, step).map_err(text)?;
        }
        self.contents.insert(step, self.epoch);
        let journal = self.writer.journal(INDEX).map_err(text)?;
        for row in rows(self.epoch, step) {
            let scored = row.scored;
            let entries = [
                Entry::Scored {
                    key: scored.rollout.key,
                    verdicts: scored.verdicts,
                    reward: scored.reward,
                },
                Entry::Sampled(scored.rollout),
            ];
            for entry in entries.iter().rev() {
                journal.append(std::slice::from_ref(entry)).map_err(text)?;
            }
        }
        Ok(())
    }

    fn seal(&mut self, world: &mut World, step: u64, counts: bool) -> Result<(), String> {
        let content = self.contents.get(&step).copied().unwrap_or(self.epoch);
        if content == self.epoch {
            let advantages = (0..SAMPLES).map(|sample| (key(step, sample), Some(0.5)));
            let sealed = self.writer.seal(INDEX, step, advantages.collect());
            sealed.map_err(text)?;
        }
        if counts {
            world.known.sealed.insert(step, content);
        }
        Ok(())
    }

    fn commit(&mut self, world: &mut World, step: u64, counts: bool) -> Result<(), String> {
        let content = self.contents.get(&step).copied().unwrap_or(self.epoch);
        if counts {
            world.known.rows.insert(step, content);
        }
        let metrics = Metrics::from([("loss".into(), content as f64)]);
        let rows = rows(content, step);
        let committed = self
            .writer
            .commit((INDEX, STAGE), step, &rows, metrics, true);
        committed.map_err(text)?;
        if counts {
            world.known.committed = step + 1;
        }
        Ok(())
    }

    /// The worker has no fence: it is another process.
    fn save(&mut self, world: &World, step: u64) -> Result<(), String> {
        let dir = checkpoint("a", step);
        let cleared = self.writer.clear(&dir).map_err(text);
        self.saved = self.epoch;
        let written = paths::unplaced(&dir, self.epoch);
        let written = save(&world.disk, &written, self.epoch).map_err(text);
        cleared.and(written)
    }

    /// Removes all checkpoints but the last.
    fn prune(&mut self, world: &World) -> Result<(), String> {
        let record = world.ledger().job(&job("a")).ok_or("no job")?;
        let on_record = record.progress.stages.first().ok_or("no stage")?;
        let old = on_record
            .checkpoints
            .split_last()
            .map_or(&[][..], |(_, old)| old);
        for CheckpointRecord { step, dir, .. } in old {
            self.writer.prune(INDEX, *step, dir).map_err(text)?;
        }
        Ok(())
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// What is left to do, the next task last. A checkpoint is due after the second step and the last.
fn tasks(committed: u64, saved: u64, is_finished: bool) -> Vec<Task> {
    let mut tasks = Vec::new();
    for step in committed.max(1) - 1..STEPS {
        if step >= committed {
            tasks.extend([Task::Sample(step), Task::Seal(step), Task::Commit(step)]);
        }
        let after = step + 1;
        if (after == 2 || after == STEPS) && after > saved {
            tasks.extend([Task::Save(after), Task::Record(after), Task::Prune]);
        }
    }
    if !is_finished {
        tasks.push(Task::Finish);
    }
    tasks.push(Task::Reuse);
    tasks.reverse();
    tasks
}

fn save(disk: &dyn Storage, dir: &Path, content: u64) -> io::Result<()> {
    let partial = PartialDir::create(disk, dir)?;
    disk.make_dir(&partial.path().join("reference"))?;
    for name in FILES {
        let mut file = disk.create(&partial.path().join(name), FILE_MODE)?;
        file.append(name_of(content).as_bytes())?;
        file.sync()?;
    }
    partial.place()
}

/// Job `b` takes the stage of `a` over, as the daemon does before an attempt.
fn reuse(world: &World) -> Result<(), String> {
    let (disk, ledger) = (&world.disk, world.ledger());
    let (of, own) = (ledger.job(&job("a")), ledger.job(&job("b")));
    let (of, own) = (of.ok_or("no a")?, own.ok_or("no b")?);
    if !own.progress.stages.is_empty() {
        return Ok(());
    }
    let mut record = (**of.progress.stages.first().ok_or("no stage")?).clone();
    let newest = record.newest_checkpoint().cloned().ok_or("no checkpoint")?;
    let dir = checkpoint("b", newest.step);
    link_dir(disk, &newest.dir, &dir, 10).map_err(text)?;
    record.checkpoints = vec![CheckpointRecord { dir, ..newest }];
    let (theirs, ours) = (layout("a"), layout("b"));
    let of_step = |step| (theirs.rollouts(STAGE, step), ours.rollouts(STAGE, step));
    link_files(disk, (1..=STEPS).map(of_step)).map_err(text)?;
    let command = Command::ReuseStage {
        job: job("b"),
        epoch: own.progress.epoch,
        of: job("a"),
        stage: INDEX,
        record: Box::new(record),
        metrics: ledger.metrics(&job("a"), INDEX).map_err(text)?,
        evals: Vec::new(),
    };
    ledger.apply(command).map(drop).map_err(text)
}

pub(crate) fn checkpoint(name: &str, step: u64) -> PathBuf {
    paths::checkpoint(&layout(name).checkpoints(None, &job(name)), STAGE, step)
}

/// What stands in the files of a checkpoint, and for its hash on record.
pub(crate) fn name_of(content: u64) -> String {
    format!("{content:064}")
}

fn key(step: u64, sample: u32) -> SampleKey {
    SampleKey {
        stage: INDEX,
        step,
        prompt: 0,
        sample,
    }
}

/// What a step holds if the attempt of an epoch has sampled it.
pub(crate) fn rows(content: u64, step: u64) -> Vec<RolloutRow> {
    let row = |sample| {
        let rollout = Rollout {
            key: key(step, sample),
            row: content,
            prompt_ids: vec![1],
            completion_ids: vec![content as u32, sample],
            behaviour_logprobs: vec![-0.5, -1.5],
            experts: Vec::new(),
            kept_ids: Default::default(),
            policy_version: step,
            finish: FinishReason::Stop,
        };
        RolloutRow {
            scored: ScoredRollout {
                rollout,
                verdicts: Vec::new(),
                reward: Some(content as f32),
                advantage: Some(0.5),
            },
            prompt: "p".into(),
            completion: format!("of {content}"),
            reference: None,
        }
    };
    (0..SAMPLES).map(row).collect()
}
