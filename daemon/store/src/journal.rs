//! The rollout journal of one stage: every completion is here, durable, before it is used.
//!
//! A step is one file, `stage-<stage>/step-<step>.journal`, appended to while the step is sampled
//! and scored, and never changed once it is sealed. Its bytes are drawn in `segment.rs`. A step's
//! life:
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

use crate::directory::create_dir;
use crate::entry::{Entry, Refused, place};
use crate::segment::{self, BadHeader, Header};
use crate::step::{Step, StepRecord};
use r1d_proto::ids::JobId;
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::storage::{Append, Storage};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Most bytes of one step's file (`LIM-1`).
pub const SEGMENT_MAX_BYTES: u64 = 64 << 30;

/// Why a method of the journal failed.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file system failed: disk full, no permission, read error. Free the disk or repair the
    /// path, then try again.
    #[error("journal {}: {source}", .path.display())]
    Storage {
        /// The file or directory.
        path: PathBuf,
        /// The file system's error.
        source: io::Error,
    },
    /// The file of a committed step is not as it was written, or an uncommitted one holds a whole
    /// record that does not fit: put a copy back, or resubmit the job.
    #[error("journal {} is damaged at byte {offset}: {what}; put a copy back, or resubmit the job",
        .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the first wrong byte's record.
        offset: u64,
        /// What is wrong there, in words.
        what: String,
    },
    /// Another release wrote the file: run that release.
    #[error("journal {} has version {found}, this release reads {}: run the release that wrote it",
        .path.display(), segment::VERSION)]
    OtherRelease {
        /// The file.
        path: PathBuf,
        /// The file's version of the format.
        found: u16,
    },
    /// The step's file is gone or has no seal, although the step is committed or to be trained on
    /// again.
    #[error("journal {} has no sealed record of step {step}", .path.display())]
    Missing {
        /// The file that was expected.
        path: PathBuf,
        /// The step, from 0.
        step: u64,
    },
    /// An entry does not fit what the journal holds; nothing of the call was appended.
    #[error("journal entry refused: {0}")]
    Refused(#[from] Refused),
    /// The disk did not confirm what was appended, so what the file holds is unknown: drop the step
    /// ([`Journal::drop_from`]) and redo it.
    #[error("journal {} could not be synced ({why}): drop step {step} and redo it",
        .path.display())]
    Unsynced {
        /// The file.
        path: PathBuf,
        /// The step, from 0.
        step: u64,
        /// The file system's error.
        why: String,
    },
}

/// A cut that opening a journal made in the file of an uncommitted step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The file.
    pub path: PathBuf,
    /// The step, from 0.
    pub step: u64,
    /// Number of whole records that are left.
    pub records: u64,
    /// Number of bytes that were cut off.
    pub bytes_cut: u64,
}

/// The journal of one stage of one job. Its methods block; `sync` waits for the disk.
pub struct Journal {
    storage: Arc<dyn Storage>,
    dir: PathBuf,
    job: JobId,
    stage: u32,
    /// Steps below this are committed.
    committed: u64,
    steps: BTreeMap<u64, Slot>,
    cuts: Vec<Cut>,
}

/// The state of a step's file.
enum Slot {
    Open(Segment),
    /// The step is committed, or sealed and durable.
    Closed,
}

impl Journal {
    /// Opens or creates the journal of `stage` in a job's journal directory. `committed` is the
    /// number of steps of the stage that the ledger has committed: their files are left as they
    /// are, all others are cut to their whole records and made durable.
    pub fn open(
        storage: Arc<dyn Storage>,
        journal_dir: &Path,
        job: &JobId,
        stage: u32,
        committed: u64,
    ) -> Result<Journal, JournalError> {
        let dir = Journal::dir(journal_dir, stage);
        let failed = |source| JournalError::Storage {
            path: dir.clone(),
            source,
        };
        create_dir(storage.as_ref(), &dir).map_err(failed)?;
        let found: Vec<u64> = storage
            .list(&dir)
            .map_err(failed)?
            .iter()
            .filter_map(|name| step_of(name))
            .collect();
        let (job, steps, cuts) = (job.clone(), BTreeMap::new(), Vec::new());
        let mut journal = Journal {
            storage,
            dir,
            job,
            stage,
            committed,
            steps,
            cuts,
        };
        for step in found {
            let slot = if step < committed {
                Slot::Closed
            } else {
                journal.recover(step)?
            };
            journal.steps.insert(step, slot);
        }
        journal.sync_dir()?;
        Ok(journal)
    }

    /// The directory of a stage's journal.
    pub fn dir(journal_dir: &Path, stage: u32) -> PathBuf {
        journal_dir.join(format!("stage-{stage}"))
    }

    /// The file of a step in a stage's journal.
    pub fn file(journal_dir: &Path, stage: u32, step: u64) -> PathBuf {
        file_of(&Journal::dir(journal_dir, stage), step)
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
                    *slot = Slot::Closed;
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
            Some(Slot::Closed) => None,
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
        let end = self.scan(step, &bytes, |entry| contents.add(entry))?.end;
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

    /// Checks that a committed step of a stage can be trained on again. Changes nothing.
    pub fn check(
        storage: Arc<dyn Storage>,
        journal_dir: &Path,
        job: &JobId,
        stage: u32,
        step: u64,
    ) -> Result<(), JournalError> {
        let (dir, steps) = (
            Journal::dir(journal_dir, stage),
            BTreeMap::from([(step, Slot::Closed)]),
        );
        let journal = Journal {
            storage,
            dir,
            job: job.clone(),
            stage,
            committed: step + 1,
            steps,
            cuts: Vec::new(),
        };
        journal.replay(step).map(drop)
    }

    /// Marks the steps below `committed` as committed by the ledger.
    pub fn committed(&mut self, committed: u64) {
        self.committed = self.committed.max(committed);
        for (step, slot) in self.steps.range_mut(..self.committed) {
            let durable = matches!(slot, Slot::Closed);
            r1d_proto::invariant!(
                "STEP-1",
                durable,
                "step {step} was committed before its rollouts were sealed and durable"
            );
            *slot = Slot::Closed;
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
            let path = self.path(step);
            match self.storage.remove(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(JournalError::Storage { path, source });
                }
                _ => self.steps.remove(&step),
            };
            any = true;
        }
        if any { self.sync_dir() } else { Ok(()) }
    }

    fn path(&self, step: u64) -> PathBuf {
        file_of(&self.dir, step)
    }

    fn sync_dir(&self) -> Result<(), JournalError> {
        self.storage
            .sync_dir(&self.dir)
            .map_err(|source| JournalError::Storage {
                path: self.dir.clone(),
                source,
            })
    }

    fn header(&self, step: u64) -> Header {
        Header {
            job: self.job.clone(),
            stage: self.stage,
            step,
        }
    }

    /// Reads the whole records of a segment. A torn header ends at offset 0.
    fn scan(
        &self,
        step: u64,
        bytes: &[u8],
        mut each: impl FnMut(Entry),
    ) -> Result<Scan, JournalError> {
        let path = self.path(step);
        let damaged = |offset: usize, what: String| JournalError::Damaged {
            path: path.clone(),
            offset: offset as u64,
            what,
        };
        match Header::decode(bytes) {
            Err(BadHeader::Torn) => return Ok(Scan::default()),
            Err(BadHeader::OtherRelease(found)) => {
                return Err(JournalError::OtherRelease { path, found });
            }
            Ok(header) if header != self.header(step) => {
                let what = format!(
                    "it belongs to step {} of stage {} of job `{}`",
                    header.step, header.stage, header.job
                );
                return Err(damaged(0, what));
            }
            Ok(_) => {}
        }
        let (records, end) = segment::records(bytes);
        let mut scan = Scan {
            records: records.len() as u64,
            end: end as u64,
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

    /// Takes up the file of an uncommitted step: cuts it to its whole records and makes those
    /// durable, since the crash that ended the last writer may have come between its append and its
    /// sync.
    fn recover(&mut self, step: u64) -> Result<Slot, JournalError> {
        let path = self.path(step);
        let failed = |source| JournalError::Storage {
            path: path.clone(),
            source,
        };
        let bytes = self.storage.read(&path).map_err(failed)?;
        let scan = self.scan(step, &bytes, |_| {})?;
        let mut file = self.storage.append(&path).map_err(failed)?;
        let bytes_cut = bytes.len() as u64 - scan.end;
        if bytes_cut > 0 {
            file.truncate(scan.end).map_err(failed)?;
            self.cuts.push(Cut {
                path: path.clone(),
                step,
                records: scan.records,
                bytes_cut,
            });
        }
        file.sync().map_err(failed)?;
        if scan.step.is_sealed() {
            return Ok(Slot::Closed);
        }
        Ok(Slot::Open(Segment {
            file: Some(file),
            length: scan.end,
            step: scan.step,
            ..Segment::new(path)
        }))
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
        let path = self.path(step);
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
        let header = self.header(step);
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
    /// Offset after the last whole record.
    end: u64,
    step: Step,
}

/// Entries that are new to a step, and their frames.
#[derive(Default)]
struct Admitted<'e> {
    entries: Vec<&'e Entry>,
    frames: Vec<u8>,
}

/// The file of a step that still grows.
struct Segment {
    path: PathBuf,
    /// The open file; `None` until the first append.
    file: Option<Box<dyn Append>>,
    /// Bytes of whole records, header included; 0 while there is no header.
    length: u64,
    /// Whether the file may hold more than `length`: it is cut before the next append.
    torn: bool,
    /// Whether the file's name may not be durable yet.
    created: bool,
    unsynced: bool,
    /// Why a sync failed; the durable contents of the file are then unknown.
    failed: Option<String>,
    step: Step,
}

impl Segment {
    fn new(path: PathBuf) -> Segment {
        Segment {
            path,
            file: None,
            length: 0,
            torn: false,
            created: false,
            unsynced: false,
            failed: None,
            step: Step::default(),
        }
    }

    fn usable(&self, step: u64) -> Result<(), JournalError> {
        match &self.failed {
            Some(why) => Err(JournalError::Unsynced {
                path: self.path.clone(),
                step,
                why: why.clone(),
            }),
            None => Ok(()),
        }
    }

    fn write(
        &mut self,
        storage: &dyn Storage,
        header: &Header,
        frames: &[u8],
    ) -> Result<(), JournalError> {
        let path = self.path.clone();
        self.try_write(storage, header, frames)
            .map_err(|source| JournalError::Storage { path, source })
    }

    fn try_write(
        &mut self,
        storage: &dyn Storage,
        header: &Header,
        frames: &[u8],
    ) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            None => self.file.insert(storage.append(&self.path)?),
        };
        if self.torn {
            file.truncate(self.length)?;
            self.torn = false;
        }
        let with_header = (self.length == 0).then(|| [&header.encode()[..], frames].concat());
        let bytes = with_header.as_deref().unwrap_or(frames);
        self.created |= self.length == 0;
        if let Err(error) = file.append(bytes) {
            // If this fails too, the next append tries again.
            self.torn = file.truncate(self.length).is_err();
            return Err(error);
        }
        self.length += bytes.len() as u64;
        self.unsynced = true;
        Ok(())
    }

    fn sync(&mut self, step: u64) -> Result<(), JournalError> {
        self.usable(step)?;
        let Some(file) = self.file.as_mut().filter(|_| self.unsynced) else {
            return Ok(());
        };
        if let Err(error) = file.sync() {
            self.failed = Some(error.to_string());
            return self.usable(step);
        }
        self.unsynced = false;
        Ok(())
    }
}

fn file_of(dir: &Path, step: u64) -> PathBuf {
    dir.join(format!("step-{step:08}.journal"))
}

fn step_of(file_name: &str) -> Option<u64> {
    let digits = file_name.strip_prefix("step-")?.strip_suffix(".journal")?;
    digits
        .bytes()
        .all(|b| b.is_ascii_digit())
        .then(|| digits.parse().ok())?
}
