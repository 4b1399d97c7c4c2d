//! The journal on a disk that tears writes, fills up and flips bits, and on a real one.

use proptest::prelude::*;
use r1d_proto::ids::{JobId, SampleKey};
use r1d_proto::rollout::{FinishReason, Rollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::storage::Storage;
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_proto::world::{counter_hash, counter_uniform};
use r1d_sim::SimDisk;
use r1d_store::{Disk, Entry, Journal, JournalError, Refused, StepRecord};
use std::path::{Path, PathBuf};

const STAGE: u32 = 1;
/// Bytes of a segment's header, as drawn in its module.
const HEADER_BYTES: usize = 104;

fn dir() -> PathBuf {
    PathBuf::from("/jobs/7qx/journal")
}

fn file(step: u64) -> PathBuf {
    dir().join(format!("stage-1/step-{step:08}.e1.journal"))
}

fn open(disk: &SimDisk, committed: u64) -> Result<Journal, JournalError> {
    attempt(disk, 1, committed)
}

/// The journal as the attempt of an epoch opens it.
fn attempt(disk: &SimDisk, epoch: u64, committed: u64) -> Result<Journal, JournalError> {
    let (storage, job) = (disk.shared(), JobId("7qx".into()));
    Journal::open(storage, &dir(), &job, (STAGE, epoch), committed)
}

fn key(step: u64, prompt: u32, sample: u32) -> SampleKey {
    SampleKey {
        stage: STAGE,
        step,
        prompt,
        sample,
    }
}

/// A completion whose content is a function of its key.
fn rollout(key: SampleKey) -> Rollout {
    let words = [key.step, key.prompt as u64, key.sample as u64];
    let length = counter_hash(&words) as usize % 300;
    let uniform = |i: usize| counter_uniform(&[words[0], words[1], words[2], i as u64]);
    Rollout {
        key,
        row: key.prompt as u64 * 7,
        prompt_ids: (0..5).collect(),
        completion_ids: (0..length as u32).map(|i| i * 997).collect(),
        behaviour_logprobs: (0..length).map(|i| uniform(i).ln()).collect(),
        experts: (0..length).map(|i| (uniform(i) * 256.0) as u16).collect(),
        kept_ids: SamplingMask::from_numbers(
            (0..length as u32)
                .flat_map(|i| [1, i * 997, 1 + i % 3])
                .collect(),
        ),
        policy_version: key.step,
        finish: FinishReason::Stop,
    }
}

fn score(key: SampleKey) -> Entry {
    let value = counter_uniform(&[key.step, key.sample as u64]);
    let verdict = Verdict {
        plugin: "accuracy".into(),
        module_sha256: "ab".repeat(32),
        config_sha256: "cd".repeat(32),
        outcome: Outcome::Score {
            value,
            parts: vec![],
        },
        value: Some(value),
        fuel: 12345,
    };
    Entry::Scored {
        key,
        verdicts: vec![verdict],
        reward: Some(value),
    }
}

fn seal(step: u64, keys: &[SampleKey]) -> Entry {
    let advantage =
        |key: &SampleKey| (key.sample != 1).then(|| counter_uniform(&[9, key.sample as u64]) - 0.5);
    Entry::Sealed {
        stage: STAGE,
        step,
        advantages: keys.iter().map(|key| (*key, advantage(key))).collect(),
    }
}

/// Every entry of a step of `samples` completions, in the order in which they come.
fn step_entries(step: u64, samples: u32) -> Vec<Entry> {
    let keys: Vec<SampleKey> = (0..samples).map(|i| key(step, i / 2, i % 2)).collect();
    let sampled = keys
        .iter()
        .flat_map(|&key| [Entry::Sampled(rollout(key)), score(key)]);
    sampled.chain([seal(step, &keys)]).collect()
}

fn record_of(entries: &[Entry]) -> StepRecord {
    let mut record = StepRecord::default();
    for entry in entries.iter().cloned() {
        match entry {
            Entry::Sampled(rollout) => drop(record.sampled.insert(rollout.key, rollout)),
            Entry::Scored {
                key,
                verdicts,
                reward,
            } => drop(record.scored.insert(key, (verdicts, reward))),
            Entry::Sealed { advantages, .. } => record.sealed = Some(advantages),
        }
    }
    record
}

#[test]
fn a_sealed_step_replays_as_it_was_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let job = JobId("7qx".into());
    let mut journal = Journal::open(Disk::shared(), dir.path(), &job, (STAGE, 1), 0).unwrap();
    let entries = step_entries(0, 6);
    for entry in &entries {
        journal.append(std::slice::from_ref(entry)).unwrap();
    }
    journal.sync().unwrap();
    journal.committed(1);
    drop(journal);
    let journal = Journal::open(Disk::shared(), dir.path(), &job, (STAGE, 1), 1).unwrap();
    assert_eq!(journal.steps(), [0]);
    assert!(journal.cuts().is_empty());
    let replayed = journal.replay(0).unwrap();
    let whole = record_of(&entries);
    assert_eq!(replayed.len(), 6);
    for (scored, (key, advantage)) in replayed.iter().zip(whole.sealed.as_ref().unwrap()) {
        assert_eq!(scored.rollout, rollout(*key));
        assert_eq!((scored.verdicts.clone(), scored.reward), whole.scored[key]);
        assert_eq!(scored.advantage, *advantage);
    }
}

#[test]
fn every_bit_of_a_logprob_survives() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    let odd = [
        f32::MIN_POSITIVE / 2.0,
        -0.0,
        f32::NEG_INFINITY,
        f32::from_bits(0x7fc0_1234),
        f32::MAX,
    ];
    let sampled = Rollout {
        behaviour_logprobs: odd.to_vec(),
        ..rollout(key(0, 0, 0))
    };
    journal.append(&[Entry::Sampled(sampled)]).unwrap();
    let read = journal.read(0).unwrap().sampled[&key(0, 0, 0)]
        .behaviour_logprobs
        .clone();
    assert_eq!(
        read.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
        odd.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// Power is lost after any number of appends and syncs: what was synced is there, what follows
    /// is a first part of what was appended, and the journal goes on from it to the same end.
    #[test]
    fn a_crash_costs_only_a_tail_of_what_was_not_synced(
        appended in 0usize..40, every in 1usize..9,
            bytes in prop_oneof![Just(u64::MAX), 0u64..20_000], power in any::<bool>(),
            next in 1u64..3, seed in any::<u64>()
    ) {
        let disk = SimDisk::default();
        let entries = step_entries(0, 20);
        let mut journal = open(&disk, 0).unwrap();
        let mut synced = 0;
        if power {
            disk.lose_power_after(bytes);
        }
        for (i, entry) in entries.iter().take(appended).enumerate() {
            if journal.append(std::slice::from_ref(entry)).is_err() {
                break;
            }
            if i % every == every - 1 && journal.sync().is_ok() {
                synced = i + 1;
            }
        }
        drop(journal);
        // Or the process alone is killed: then nothing that was appended is lost.
        if power {
            disk.crash(seed);
        } else {
            synced = appended.min(entries.len());
        }

        let mut journal = attempt(&disk, next, 0).unwrap();
        let found = journal.read(0).unwrap();
        let kept = (synced..=appended.min(entries.len()))
            .find(|&n| record_of(&entries[..n]) == found);
        prop_assert!(kept.is_some(), "synced {}, found {} samples", synced, found.sampled.len());
        for cut in journal.cuts() {
            prop_assert!(cut.bytes_cut > 0 && cut.step == 0);
        }
        // What recovery kept must not be lost by the next crash, even without another append: the
        // step may be trained on now.
        disk.crash(seed ^ 1);
        prop_assert_eq!(attempt(&disk, next, 0).unwrap().read(0).unwrap(), found);
        journal = attempt(&disk, next, 0).unwrap();
        if kept < Some(entries.len()) {
            journal.append(&entries).unwrap();
        }
        journal.sync().unwrap();
        journal.committed(1);
        prop_assert_eq!(journal.read(0).unwrap(), record_of(&entries));
        disk.crash(seed ^ 2);
        prop_assert_eq!(open(&disk, 1).unwrap().read(0).unwrap(), record_of(&entries));
    }

    /// kill -9 of the process in the middle of a write: the file ends anywhere in the last record.
    #[test]
    fn a_torn_last_record_is_cut_and_counted(samples in 1u32..6, keep in 0.0f64..1.0) {
        let disk = SimDisk::default();
        let entries = step_entries(3, samples);
        let mut journal = open(&disk, 3).unwrap();
        journal.append(&entries[..entries.len() - 2]).unwrap();
        let whole = disk.read(&file(3)).unwrap().len() as u64;
        journal.append(&entries[entries.len() - 2..entries.len() - 1]).unwrap();
        drop(journal);
        let length = disk.read(&file(3)).unwrap().len() as u64;
        let cut_at = whole + ((length - whole) as f64 * keep) as u64;
        disk.open(&file(3)).set_length(cut_at);

        let journal = open(&disk, 3).unwrap();
        prop_assert_eq!(journal.read(3).unwrap(), record_of(&entries[..entries.len() - 2]));
        if cut_at > whole {
            let cut = &journal.cuts()[0];
            prop_assert_eq!((cut.step, cut.records, cut.bytes_cut),
                (3, entries.len() as u64 - 2, cut_at - whole));
        } else {
            prop_assert!(journal.cuts().is_empty());
        }
        prop_assert_eq!(disk.read(&file(3)).unwrap().len() as u64, whole);
    }

    /// Any flipped bit of a committed step is an error that names the file, at or before the byte.
    #[test]
    fn a_flipped_bit_in_a_committed_step_is_named(place in 0.0f64..1.0) {
        let disk = SimDisk::default();
        let mut journal = open(&disk, 0).unwrap();
        journal.append(&step_entries(0, 4)).unwrap();
        journal.sync().unwrap();
        journal.committed(1);
        let bits = disk.read(&file(0)).unwrap().len() * 8;
        let bit = (bits as f64 * place) as usize;
        // The last word of the header is not used.
        prop_assume!(!(HEADER_BYTES - 4..HEADER_BYTES).contains(&(bit / 8)));
        disk.flip_bit(&file(0), bit);
        for journal in [journal, open(&disk, 1).unwrap()] {
            match journal.replay(0) {
                Err(JournalError::Damaged { path, offset, .. })
                    => prop_assert!(path == file(0) && offset <= bit as u64 / 8),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert_eq!(disk.read(&file(0)).unwrap().len() * 8, bits, "a committed step was cut");
    }

    /// The disk fills up at any byte: the error names the file, the partial record is gone, and
    /// with room the journal goes on.
    #[test]
    fn a_full_disk_is_an_error_and_the_journal_goes_on(room in 0u64..12_000, seed in any::<u64>()) {
        let disk = SimDisk::default();
        let entries = step_entries(0, 20);
        let mut journal = open(&disk, 0).unwrap();
        disk.limit_room(Some(room));
        for (i, entry) in entries.iter().enumerate() {
            if let Err(error) = journal.append(std::slice::from_ref(entry)) {
                let text = error.to_string();
                prop_assert!(text.contains("step-00000000.e1.journal"), "{}", text);
                prop_assert_eq!(journal.read(0).unwrap(), record_of(&entries[..i]));
                disk.limit_room(None);
                journal.append(std::slice::from_ref(entry)).unwrap();
            }
        }
        journal.sync().unwrap();
        journal.committed(1);
        disk.crash(seed);
        prop_assert_eq!(open(&disk, 1).unwrap().read(0).unwrap(), record_of(&entries));
    }
}

#[test]
fn a_repeated_entry_is_passed_over_and_a_different_one_refused() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    let entries = step_entries(0, 2);
    journal.append(&entries[..2]).unwrap();
    let length = disk.read(&file(0)).unwrap().len();
    journal.append(&entries[..2]).unwrap();
    assert_eq!(disk.read(&file(0)).unwrap().len(), length);
    let other = Rollout {
        row: 99,
        ..rollout(key(0, 0, 0))
    };
    let refused = journal.append(&[entries[2].clone(), Entry::Sampled(other.clone())]);
    assert!(
        matches!(refused, Err(JournalError::Refused(Refused::Differs { .. }))),
        "{refused:?}"
    );
    assert_eq!(
        journal.read(0).unwrap(),
        record_of(&entries[..2]),
        "the rest of a refused call was taken in"
    );
    // A journal opened anew knows what it holds.
    let mut journal = open(&disk, 0).unwrap();
    journal.append(&entries[..2]).unwrap();
    assert_eq!(disk.read(&file(0)).unwrap().len(), length);
    assert!(journal.append(&[Entry::Sampled(other)]).is_err());
}

#[test]
fn entries_come_in_order() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    let (a, b) = (key(0, 0, 0), key(0, 0, 1));
    let refusal = |journal: &mut Journal, entry: Entry| match journal.append(&[entry]) {
        Err(JournalError::Refused(refused)) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(
        refusal(&mut journal, score(a)),
        Refused::NotSampled { key: a }
    );
    journal
        .append(&[
            Entry::Sampled(rollout(a)),
            Entry::Sampled(rollout(b)),
            score(a),
        ])
        .unwrap();
    assert_eq!(
        refusal(&mut journal, seal(0, &[a, b])),
        Refused::NotScored { key: b }
    );
    assert_eq!(
        refusal(&mut journal, seal(0, &[a, a])),
        Refused::SealedTwice { key: a }
    );
    // A sealed step need not hold everything that was sampled for it.
    journal.append(&[seal(0, &[a])]).unwrap();
    assert_eq!(refusal(&mut journal, score(b)), Refused::Sealed { step: 0 });
    assert_eq!(
        refusal(&mut journal, seal(0, &[])),
        Refused::Sealed { step: 0 }
    );
    journal.sync().unwrap();
    journal.committed(1);
    assert_eq!(journal.replay(0).unwrap().len(), 1);
    assert_eq!(
        refusal(&mut journal, Entry::Sampled(rollout(a))),
        Refused::Committed { step: 0 }
    );
    let elsewhere = SampleKey { stage: 7, ..a };
    assert_eq!(
        refusal(
            &mut journal,
            Entry::Sampled(Rollout {
                key: elsewhere,
                ..rollout(a)
            })
        ),
        Refused::WrongStage { stage: 1, found: 7 }
    );
}

#[test]
fn an_uncommitted_step_can_be_dropped_and_redone_and_a_committed_one_cannot() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    for step in 0..3 {
        journal.append(&step_entries(step, 2)).unwrap();
    }
    journal.sync().unwrap();
    journal.committed(2);
    assert!(matches!(
        journal.drop_from(1),
        Err(JournalError::Refused(Refused::Committed { step: 1 }))
    ));
    journal.drop_from(2).unwrap();
    assert_eq!(journal.read(2).unwrap(), StepRecord::default());
    let redone = Rollout {
        row: 99,
        ..rollout(key(2, 0, 0))
    };
    journal.append(&[Entry::Sampled(redone.clone())]).unwrap();
    journal.sync().unwrap();
    disk.crash(1);
    let journal = open(&disk, 2).unwrap();
    assert_eq!(journal.read(2).unwrap().sampled[&key(2, 0, 0)], redone);
    assert_eq!(journal.replay(1).unwrap().len(), 2);
}

#[test]
fn pruning_removes_committed_steps_only() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    for step in 0..5 {
        journal.append(&step_entries(step, 2)).unwrap();
        journal.sync().unwrap();
    }
    journal.committed(4);
    journal.prune_before(2).unwrap();
    assert_eq!(journal.steps(), [2, 3, 4]);
    assert!(matches!(
        journal.read(1),
        Err(JournalError::Missing { step: 1, .. })
    ));
    journal.prune_before(u64::MAX).unwrap();
    assert_eq!(journal.steps(), [4], "step 4 is not committed");
    disk.crash(3);
    assert_eq!(open(&disk, 4).unwrap().steps(), [4]);
}

#[test]
fn a_failed_sync_is_never_taken_for_a_success() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    let entries = step_entries(0, 2);
    journal.append(&entries).unwrap();
    disk.fail_syncs(1);
    assert!(matches!(
        journal.sync(),
        Err(JournalError::Unsynced { step: 0, .. })
    ));
    // The kernel may have dropped the dirty pages: a later sync that succeeds proves nothing.
    assert!(matches!(
        journal.sync(),
        Err(JournalError::Unsynced { step: 0, .. })
    ));
    assert!(matches!(
        journal.append(&entries),
        Err(JournalError::Unsynced { step: 0, .. })
    ));
    journal.drop_from(0).unwrap();
    journal.append(&entries).unwrap();
    journal.sync().unwrap();
    disk.crash(4);
    assert_eq!(
        open(&disk, 0).unwrap().read(0).unwrap(),
        record_of(&entries)
    );
}

#[test]
fn a_committed_step_without_its_seal_or_its_file_is_an_error() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    journal.append(&step_entries(0, 2)[..4]).unwrap();
    journal.sync().unwrap();
    let journal = open(&disk, 2).unwrap();
    let error = journal.replay(0).unwrap_err();
    assert!(
        matches!(&error, JournalError::Damaged { path, .. } if *path == file(0)),
        "{error}"
    );
    assert!(matches!(
        journal.replay(1),
        Err(JournalError::Missing { step: 1, .. })
    ));
}

#[test]
fn a_segment_of_another_job_or_release_is_refused() {
    let disk = SimDisk::default();
    let mut journal = open(&disk, 0).unwrap();
    journal.append(&step_entries(0, 1)).unwrap();
    let other = Journal::open(disk.shared(), &dir(), &JobId("8b".into()), (STAGE, 1), 0)
        .err()
        .unwrap()
        .to_string();
    assert!(
        other.contains("it belongs to step 0 of stage 1 of job `7qx`"),
        "{other}"
    );
    disk.rename(&file(0), &file(1)).unwrap();
    assert!(matches!(open(&disk, 0), Err(JournalError::Damaged { .. })));
    let mut bytes = disk.read(&file(1)).unwrap();
    for version in [1, 9] {
        bytes[4] = version;
        let crc = crc32c::crc32c(&bytes[..96]);
        bytes[96..100].copy_from_slice(&crc.to_le_bytes());
        disk.open(&file(1)).write_at(0, &bytes).unwrap();
        let refused = open(&disk, 0).err().unwrap();
        assert!(
            matches!(refused, JournalError::OtherRelease { found, .. } if found ==
                u16::from(version)),
            "{refused}"
        );
        assert_eq!(
            disk.read(&file(1)).unwrap(),
            bytes,
            "another release's file was touched"
        );
    }
}

#[test]
fn strangers_in_the_directory_are_left_alone() {
    let disk = SimDisk::default();
    let stranger = Path::new("/jobs/7qx/journal/stage-1/step-x.journal");
    disk.open(stranger).write_at(0, b"notes").unwrap();
    assert!(open(&disk, 0).unwrap().steps().is_empty());
    assert_eq!(disk.read(stranger).unwrap(), b"notes");
}

/// `tests/golden/journal-2` was written by a release whose journal had no epochs: a step of four
/// completions, and the first five records of the next.
#[test]
fn a_journal_of_before_there_were_epochs_is_read_and_gone_on_with() {
    let dir = tempfile::tempdir().unwrap();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/journal-2/stage-1");
    let stage = dir.path().join("stage-1");
    std::fs::create_dir(&stage).unwrap();
    for step in 0..2 {
        let name = format!("step-{step:08}.journal");
        std::fs::copy(golden.join(&name), stage.join(name)).unwrap();
    }
    let job = JobId("7qx".into());
    let whole = [step_entries(0, 4), step_entries(1, 4)];
    let view = Journal::view(Disk::shared(), dir.path(), &job, STAGE).unwrap();
    assert_eq!(view.replay(0).unwrap().len(), 4);
    let mut journal = Journal::open(Disk::shared(), dir.path(), &job, (STAGE, 3), 1).unwrap();
    assert_eq!(journal.read(0).unwrap(), record_of(&whole[0]));
    assert_eq!(journal.read(1).unwrap(), record_of(&whole[1][..5]));
    journal.append(&whole[1]).unwrap();
    journal.sync().unwrap();
    journal.committed(2);
    assert_eq!(journal.read(1).unwrap(), record_of(&whole[1]));
    let names = ["step-00000000.journal", "step-00000001.e3.journal"];
    assert_eq!(Disk.list(&stage).unwrap(), names);
    let view = Journal::view(Disk::shared(), dir.path(), &job, STAGE).unwrap();
    assert!(view.has(1) && !view.has(2));
    assert_eq!(view.replay(1).unwrap().len(), 4);
}

/// Without a fence around the storage, too: an attempt writes to files of its own.
#[test]
fn an_earlier_attempt_that_still_writes_changes_nothing_of_the_next_ones() {
    let disk = SimDisk::default();
    let mut first = attempt(&disk, 1, 0).unwrap();
    for step in 0..2 {
        first.append(&step_entries(step, 2)).unwrap();
    }
    first.append(&step_entries(2, 4)[..3]).unwrap();
    first.sync().unwrap();
    first.committed(1);
    let mut second = attempt(&disk, 2, 1).unwrap();
    let before = |journal: &Journal| [0, 1, 2].map(|step| journal.read(step).unwrap());
    let known = before(&second);
    assert_eq!(known[2], record_of(&step_entries(2, 4)[..3]));
    // It appends, seals, begins a step, and gives its own up.
    first.append(&step_entries(2, 4)).unwrap();
    first.append(&step_entries(3, 2)).unwrap();
    first.sync().unwrap();
    first.drop_from(1).unwrap();
    assert_eq!(before(&second), known);
    let redone = Rollout {
        row: 99,
        ..rollout(key(3, 0, 0))
    };
    second.append(&[Entry::Sampled(redone.clone())]).unwrap();
    second.append(&step_entries(2, 4)).unwrap();
    second.sync().unwrap();
    second.committed(3);
    // What the first one begins now is not taken for the second one's.
    first.append(&step_entries(3, 2)).unwrap();
    first.sync().unwrap();
    let third = attempt(&disk, 3, 3).unwrap();
    assert_eq!(third.steps(), [0, 1, 2, 3]);
    assert_eq!(third.read(3).unwrap().sampled[&key(3, 0, 0)], redone);
    assert_eq!(third.replay(2).unwrap().len(), 4);
    let names = [
        "step-00000000.e1",
        "step-00000001.e2",
        "step-00000002.e2",
        "step-00000003.e3",
    ];
    let names = names.map(|name| format!("{name}.journal"));
    assert_eq!(disk.list(&dir().join("stage-1")).unwrap(), names);
}
