//! The rollout journal of one stage: every completion is here, durable, before it is used.
//!
//! A step is one file, `stage-<stage>/step-<step>.e<epoch>.journal`, appended to while the step is
//! sampled and scored, and never changed once it is sealed. Its bytes are drawn in `segment.rs`. A
//! step's life:
//!
//! ```text
//! Sampled(rollout) as each completion ends ─▶ Scored{verdicts} as its rewards come in
//!     ─▶ Sealed{advantages}, once ─▶ sync
//!   ─▶ train ─▶ the ledger commits the step ─▶ … a checkpoint holds the step ─▶ prune
//! ```
//!
//! What a crash leaves:
//! - **a step that the ledger has committed** was durable before; a byte of it that is wrong is an
//!   error that names file and offset;
//! - **a step that it has not** is cut at its first record that is not whole, and the cut is
//!   reported. Whatever follows that record goes too: nothing of an uncommitted step is in the
//!   weights, so it can be sampled again.
//!
//! In batch-invariant mode a step goes on from the completions that are left; otherwise, unless it
//! is sealed, it is dropped and redone.
//!
//! An attempt never writes to the file of another one: what it finds of a step that is not
//! committed it copies to a file of its own epoch, and then removes the other. An earlier attempt
//! that still has that one open appends to a file that has no name. Of a committed step with
//! several files the one of the highest epoch counts, because who committed it has fenced off all
//! that were before.

use crate::directory::create_dir;
use crate::entry::{Entry, Refused, place};
use crate::journal_error::{Cut, JournalError, storage_error};
use crate::journal_files as files;
use crate::replace::{FILE_MODE, remove_parts, replace};
use crate::segment::{self, BadHeader, Header};
use crate::step::{Step, StepRecord};
use crate::step_file::Segment;
use r1d_proto::ids::JobId;
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::storage::Storage;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes of one step's file (`LIM-1`).
pub const SEGMENT_MAX_BYTES: u64 = 64 << 30;

/// The journal of one stage of one job. Its methods block; `sync` waits for the disk.
pub struct Journal {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    job: JobId,
    stage: u32,
    /// The attempt that writes.
    epoch: u64,
    /// Steps below this are committed.
    committed: u64,
    steps: BTreeMap<u64, Slot>,
    cuts: Vec<Cut>,
}

/// The state of a step's file.
enum Slot {
    Open(Segment),
    /// The step is committed, or sealed and durable, in the file of this epoch.
    Closed(u64),
}

impl Journal {
    /// Opens or creates the journal of `stage` in a job's journal directory, for the attempt of an
    /// epoch. `committed` is the number of steps of the stage that the ledger has committed: their
    /// files are left as they are. What is whole of all others is the attempt's own afterwards, and
    /// durable.
    pub fn open(
        storage: Arc<dyn Storage>,
        journal_dir: &Path,
        job: &JobId,
        (stage, epoch): (u32, u64),
        committed: u64,
    ) -> Result<Journal, JournalError> {
        let dir = files::dir(journal_dir, stage);
        create_dir(storage.as_ref(), &dir).map_err(storage_error(&dir))?;
        remove_parts(storage.as_ref(), &dir);
        let (job, steps, cuts) = (job.clone(), BTreeMap::new(), Vec::new());
        let mut journal = Journal {
            storage,
            dir,
            job,
            stage,
            epoch,
            committed,
            steps,
            cuts,
        };
        let epochs = files::epochs(journal.storage.as_ref(), &journal.dir);
        for (step, epochs) in epochs.map_err(storage_error(&journal.dir))? {
            let newest = epochs.last().copied().unwrap_or_default();
            let slot = if step < committed {
                Some(Slot::Closed(newest))
            } else if newest == epoch {
                Some(journal.recover(step)?)
            } else {
                journal.take_over(step, newest)?
            };
            journal.steps.extend(slot.map(|slot| (step, slot)));
            let kept = if step < committed { newest } else { epoch };
            for other in epochs.into_iter().filter(|other| *other != kept) {
                journal.remove_file(&files::file(&journal.dir, step, other))?;
            }
        }
        journal.sync_dir()?;
        Ok(journal)
    }

    /// Opens the journal of a stage to read committed steps. Changes nothing.
    pub fn view(
        storage: Arc<dyn Storage>,
        journal_dir: &Path,
        job: &JobId,
        stage: u32,
    ) -> Result<Journal, JournalError> {
        let dir = files::dir(journal_dir, stage);
        let epochs = files::epochs(storage.as_ref(), &dir).map_err(storage_error(&dir))?;
        let newest = |(step, epochs): (u64, std::collections::BTreeSet<u64>)| {
            Some((step, Slot::Closed(epochs.last().copied()?)))
        };
        Ok(Journal {
            storage,
            dir,
            job: job.clone(),
            stage,
            epoch: 0,
            committed: u64::MAX,
            steps: epochs.into_iter().filter_map(newest).collect(),
            cuts: Vec::new(),
        })
    }

    /// Whether a job has a journal of a stage behind `stage`.
    pub fn is_beyond(storage: &dyn Storage, journal_dir: &Path, stage: u32) -> io::Result<bool> {
        Ok(files::stages(storage, journal_dir)?
            .last()
            .is_some_and(|last| *last > stage))
    }

    /// Removes the journals of `stage` and of all behind it, the last first, so that what a crash
    /// leaves has no gap.
    pub fn remove_from(storage: &dyn Storage, journal_dir: &Path, stage: u32) -> io::Result<()> {
        let stages = files::stages(storage, journal_dir)?;
        for later in stages.range(stage..).rev() {
            storage.remove_dir(&files::dir(journal_dir, *later))?;
            storage.sync_dir(journal_dir)?;
        }
        Ok(())
    }

    /// Whether there is a file of a step.
    pub fn has(&self, step: u64) -> bool {
        self.steps.contains_key(&step)
    }

    /// The cuts that opening made in files of uncommitted steps.
    pub fn cuts(&self) -> &[Cut] {
        &self.cuts
    }

    /// Steps on file, oldest first.
    pub fn steps(&self) -> Vec<u64> {
        let on_file = |slot: &Slot| !matches!(slot, Slot::Open(segment) if segment.length == 0);
        self.steps
            .iter()
            .filter(|(_, slot)| on_file(slot))
            .map(|(step, _)| *step)
            .collect()
    }

    /// Appends entries, each to the file of its step. One that is there already, to the byte, is
    /// skipped; one that contradicts what is there is refused, and all others of the call with it.
    /// After a storage error no entry of its step is in the journal, which stays usable.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), JournalError> {
        let mut by_step: BTreeMap<u64, Vec<&Entry>> = BTreeMap::new();
        for entry in entries {
            let (stage, step) = place(entry);
            if stage != self.stage {
                return Err(Refused::WrongStage {
                    stage: self.stage,
                    found: stage,
                }
                .into());
            }
            by_step.entry(step).or_default().push(entry);
        }
        let mut pending = Vec::new();
        for (step, entries) in &by_step {
            match self.admit(*step, entries) {
                Ok(admitted) => pending.push((*step, admitted)),
                Err(refused) => {
                    pending
                        .iter()
                        .for_each(|(step, admitted)| self.withdraw(*step, admitted));
                    return Err(refused);
                }
            }
        }
        while let Some((step, admitted)) = pending.pop() {
            if let Err(error) = self.write(step, &admitted) {
                self.withdraw(step, &admitted);
                pending
                    .iter()
                    .for_each(|(step, admitted)| self.withdraw(*step, admitted));
                return Err(error);
            }
        }
        Ok(())
    }

    /// Returns once everything appended survives a crash of the machine. After an error the step
    /// that it names must be dropped and redone.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let mut created = false;
        for (step, slot) in &mut self.steps {
            if let Slot::Open(segment) = slot {
                segment.sync(*step)?;
                created |= segment.created;
            }
        }
        if created {
            self.sync_dir()?;
        }
        for slot in self.steps.values_mut() {
            if let Slot::Open(segment) = slot {
                segment.created = false;
                if segment.step.is_sealed() {
                    *slot = Slot::Closed(self.epoch);
                }
            }
        }
        Ok(())
    }

    /// Reads what the journal holds of a step: an empty record if the step has no file and is not
    /// committed.
    pub fn read(&self, step: u64) -> Result<StepRecord, JournalError> {
        let path = self.path(step);
        let whole_length = match self.steps.get(&step) {
            Some(Slot::Open(segment)) if segment.length == 0 => return Ok(StepRecord::default()),
            Some(Slot::Open(segment)) => Some(segment.length),
            Some(Slot::Closed(_)) => None,
            None if step < self.committed => return Err(JournalError::Missing { path, step }),
            None => return Ok(StepRecord::default()),
        };
        let bytes = match self.storage.read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(JournalError::Missing { path, step });
            }
            read => read.map_err(|source| JournalError::Storage {
                path: path.clone(),
                source,
            })?,
        };
        let mut contents = StepRecord::default();
        let of = (step, self.epoch_of(step));
        let end = self.scan(of, &bytes, |entry| contents.add(entry))?.end as u64;
        let damaged = |what: &str| JournalError::Damaged {
            path: path.clone(),
            offset: end,
            what: what.to_string(),
        };
        if end < whole_length.unwrap_or(bytes.len() as u64) {
            return Err(damaged("the record there is not whole"));
        }
        if whole_length.is_none() && contents.sealed.is_none() {
            return Err(damaged(
                "the step is committed, but its records end before it is sealed",
            ));
        }
        Ok(contents)
    }

    /// Reads a committed step's completions in training order, to train on them again.
    pub fn replay(&self, step: u64) -> Result<Vec<ScoredRollout>, JournalError> {
        self.read(step)?
            .into_scored()
            .ok_or_else(|| JournalError::Missing {
                path: self.path(step),
                step,
            })
    }

    /// Marks the steps below `committed` as committed by the ledger.
    pub fn committed(&mut self, committed: u64) {
        self.committed = self.committed.max(committed);
        for (step, slot) in self.steps.range_mut(..self.committed) {
            let durable = matches!(slot, Slot::Closed(_));
            r1d_proto::invariant!(
                "STEP-1",
                durable,
                "step {step} was committed before its rollouts were sealed and durable"
            );
            if !durable {
                *slot = Slot::Closed(self.epoch);
            }
        }
    }

    /// Removes `step` and all later steps, to sample them again. An error if one of them is
    /// committed.
    pub fn drop_from(&mut self, step: u64) -> Result<(), JournalError> {
        if step < self.committed {
            return Err(Refused::Committed { step }.into());
        }
        let steps: Vec<u64> = self.steps.range(step..).map(|(step, _)| *step).collect();
        // The latest first, so that what a crash leaves has no gap.
        self.remove(steps.into_iter().rev())
    }

    /// Removes the committed steps below `step`: those that the oldest checkpoint on record holds,
    /// and whose rollouts are exported.
    pub fn prune_before(&mut self, step: u64) -> Result<(), JournalError> {
        let steps: Vec<u64> = self
            .steps
            .range(..step.min(self.committed))
            .map(|(step, _)| *step)
            .collect();
        self.remove(steps.into_iter())
    }

    fn remove(&mut self, steps: impl Iterator<Item = u64>) -> Result<(), JournalError> {
        let mut any = false;
        for step in steps {
            self.remove_file(&self.path(step))?;
            self.steps.remove(&step);
            any = true;
        }
        if any { self.sync_dir() } else { Ok(()) }
    }

    fn remove_file(&self, path: &Path) -> Result<(), JournalError> {
        match self.storage.remove(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(storage_error(path)(source))
            }
            _ => Ok(()),
        }
    }

    /// The epoch of the attempt that wrote a step, or is to write it.
    fn epoch_of(&self, step: u64) -> u64 {
        match self.steps.get(&step) {
            Some(Slot::Closed(epoch)) => *epoch,
            _ => self.epoch,
        }
    }

    fn path(&self, step: u64) -> PathBuf {
        files::file(&self.dir, step, self.epoch_of(step))
    }

    fn sync_dir(&self) -> Result<(), JournalError> {
        let synced = self.storage.sync_dir(&self.dir);
        synced.map_err(storage_error(&self.dir))
    }

    fn header(&self, step: u64, epoch: u64) -> Header {
        Header {
            job: self.job.clone(),
            stage: self.stage,
            step,
            epoch,
        }
    }

    /// Reads the whole records of a segment of an epoch. A torn header ends at offset 0.
    fn scan(
        &self,
        (step, epoch): (u64, u64),
        bytes: &[u8],
        mut each: impl FnMut(Entry),
    ) -> Result<Scan, JournalError> {
        let path = files::file(&self.dir, step, epoch);
        let damaged = |offset: usize, what: String| JournalError::Damaged {
            path: path.clone(),
            offset: offset as u64,
            what,
        };
        let start = match Header::decode(bytes) {
            Err(BadHeader::Torn) => return Ok(Scan::default()),
            Err(BadHeader::OtherRelease(found)) => {
                return Err(JournalError::OtherRelease { path, found });
            }
            Ok((header, _)) if header != self.header(step, epoch) => {
                let what = format!(
                    "it belongs to step {} of stage {} of job `{}`, epoch {}",
                    header.step, header.stage, header.job, header.epoch
                );
                return Err(damaged(0, what));
            }
            Ok((_, start)) => start,
        };
        let (records, end) = segment::records(bytes, start);
        let mut scan = Scan {
            records: records.len() as u64,
            start,
            end,
            step: Step::default(),
        };
        for record in records {
            let entry: Entry = postcard::from_bytes(record.payload)
                .map_err(|error| damaged(record.offset, error.to_string()))?;
            if place(&entry) != (self.stage, step) {
                return Err(damaged(
                    record.offset,
                    "the record is of another step".to_string(),
                ));
            }
            scan.step
                .admit(&entry, record.print)
                .map_err(|refused| damaged(record.offset, refused.to_string()))?;
            each(entry);
        }
        Ok(scan)
    }

    /// Takes up this attempt's own file of an uncommitted step, when the attempt goes on in its
    /// predecessor's epoch. Cuts it to its whole records and syncs them, because its last writer
    /// may have ended between append and sync. After a loss of power, [`Journal::take_over`] does
    /// this.
    fn recover(&mut self, step: u64) -> Result<Slot, JournalError> {
        let path = files::file(&self.dir, step, self.epoch);
        let failed = || storage_error(&path);
        let bytes = self.storage.read(&path).map_err(failed())?;
        let scan = self.scan((step, self.epoch), &bytes, |_| {})?;
        let mut file = self.storage.append(&path).map_err(failed())?;
        if scan.end < bytes.len() {
            file.truncate(scan.end as u64).map_err(failed())?;
            self.cuts.push(scan.cut(&path, step, &bytes));
        }
        file.sync().map_err(failed())?;
        if scan.step.is_sealed() {
            return Ok(Slot::Closed(self.epoch));
        }
        let length = scan.end as u64;
        let segment = Segment::with_records(path, Some(file), length, scan.step);
        Ok(Slot::Open(segment))
    }

    /// Copies the whole records of another attempt's file of an uncommitted step to a file of this
    /// one's, durably; `None` if there are none.
    fn take_over(&mut self, step: u64, epoch: u64) -> Result<Option<Slot>, JournalError> {
        let theirs = files::file(&self.dir, step, epoch);
        let bytes = self.storage.read(&theirs).map_err(storage_error(&theirs))?;
        let scan = self.scan((step, epoch), &bytes, |_| {})?;
        if scan.end < bytes.len() {
            self.cuts.push(scan.cut(&theirs, step, &bytes));
        }
        if scan.records == 0 {
            return Ok(None);
        }
        let path = files::file(&self.dir, step, self.epoch);
        let header = self.header(step, self.epoch).encode();
        let records = bytes.get(scan.start..scan.end).unwrap_or_default();
        replace(self.storage.as_ref(), &path, FILE_MODE, |file| {
            file.write_all(&header)?;
            file.write_all(records)
        })
        .map_err(storage_error(&path))?;
        if scan.step.is_sealed() {
            return Ok(Some(Slot::Closed(self.epoch)));
        }
        let length = (header.len() + records.len()) as u64;
        let segment = Segment::with_records(path, None, length, scan.step);
        Ok(Some(Slot::Open(segment)))
    }

    /// Frames the entries that are new to `step`; all or none are taken in.
    fn admit<'e>(
        &mut self,
        step: u64,
        entries: &[&'e Entry],
    ) -> Result<Admitted<'e>, JournalError> {
        if step < self.committed {
            return Err(Refused::Committed { step }.into());
        }
        let path = files::file(&self.dir, step, self.epoch);
        let Slot::Open(segment) = self
            .steps
            .entry(step)
            .or_insert_with(|| Slot::Open(Segment::new(path)))
        else {
            return Err(Refused::Sealed { step }.into());
        };
        segment.usable(step)?;
        let mut admitted = Admitted::default();
        for entry in entries {
            let before = admitted.frames.len();
            let taken = segment::push_record(&mut admitted.frames, entry)
                .map_err(|found| Refused::TooLong {
                    what: "a record",
                    step,
                    found: found as u64,
                    limit: segment::RECORD_MAX_BYTES as u64,
                })
                .and_then(|print| segment.step.admit(entry, print));
            match taken {
                Ok(true) => admitted.entries.push(entry),
                Ok(false) => admitted.frames.truncate(before),
                Err(refused) => {
                    admitted
                        .entries
                        .iter()
                        .for_each(|entry| segment.step.withdraw(entry));
                    return Err(refused.into());
                }
            }
        }
        let found = segment.length + admitted.frames.len() as u64;
        if found > SEGMENT_MAX_BYTES {
            admitted
                .entries
                .iter()
                .for_each(|entry| segment.step.withdraw(entry));
            return Err(Refused::TooLong {
                what: "a journal file",
                step,
                found,
                limit: SEGMENT_MAX_BYTES,
            }
            .into());
        }
        Ok(admitted)
    }

    fn withdraw(&mut self, step: u64, admitted: &Admitted<'_>) {
        if let Some(Slot::Open(segment)) = self.steps.get_mut(&step) {
            admitted
                .entries
                .iter()
                .for_each(|entry| segment.step.withdraw(entry));
        }
    }

    fn write(&mut self, step: u64, admitted: &Admitted<'_>) -> Result<(), JournalError> {
        let header = self.header(step, self.epoch);
        match self.steps.get_mut(&step) {
            Some(Slot::Open(segment)) if !admitted.frames.is_empty() => {
                segment.write(self.storage.as_ref(), &header, &admitted.frames)
            }
            _ => Ok(()),
        }
    }
}

/// The contents of a segment's file.
#[derive(Default)]
struct Scan {
    records: u64,
    /// Offset of the first record.
    start: usize,
    /// Offset after the last whole record.
    end: usize,
    step: Step,
}

impl Scan {
    fn cut(&self, path: &Path, step: u64, bytes: &[u8]) -> Cut {
        Cut {
            path: path.into(),
            step,
            records: self.records,
            bytes_cut: (bytes.len() - self.end) as u64,
        }
    }
}

/// Entries that are new to a step, and their frames.
#[derive(Default)]
struct Admitted<'e> {
    entries: Vec<&'e Entry>,
    frames: Vec<u8>,
}
