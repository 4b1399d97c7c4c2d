//! Rollout files as they are written and read back, and those of earlier releases.

#![allow(
    clippy::disallowed_methods,
    reason = "a measurement reads the machine's clock"
)]

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_store::rollouts::{RolloutFile, RolloutRow, read, write};
use r1d_store::{Disk, StoreError};
use std::path::{Path, PathBuf};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name)
}

fn verdict(plugin: &str, outcome: Outcome, value: Option<f32>) -> Verdict {
    Verdict {
        plugin: plugin.into(),
        module_sha256: "ab".repeat(32),
        config_sha256: "cd".repeat(32),
        outcome,
        value,
        fuel: 12_345_678_901,
    }
}

/// Every outcome, empty lists, nulls, text that is not ASCII.
fn rows() -> Vec<RolloutRow> {
    let outcomes = [
        (
            Outcome::Score {
                value: 1.0,
                parts: vec![0.25, 0.75],
            },
            Some(1.0),
        ),
        (
            Outcome::Abstain {
                reason: "no reference".into(),
            },
            None,
        ),
        (
            Outcome::Trap {
                reason: "unreachable".into(),
            },
            Some(-1.0),
        ),
        (Outcome::OutOfFuel, Some(0.0)),
        (Outcome::OutOfTime, None),
    ];
    let row = |index: u32, (outcome, value): (Outcome, Option<f32>)| RolloutRow {
        scored: ScoredRollout {
            rollout: Rollout {
                key: SampleKey {
                    stage: 2,
                    step: 7,
                    prompt: index / 2,
                    sample: index % 2,
                },
                row: 100 + index as u64,
                prompt_ids: (0..=index).collect(),
                completion_ids: (0..index).collect(),
                behaviour_logprobs: (0..index).map(|i| -(i as f32) / 3.0).collect(),
                experts: (0..index as u16 * 2).collect(),
                kept_ids: SamplingMask::from_numbers(
                    (0..index).flat_map(|id| [1, id, 1]).collect(),
                ),
                policy_version: 28,
                finish: if index.is_multiple_of(2) {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                },
            },
            verdicts: vec![
                verdict("accuracy", outcome, value),
                verdict(
                    "format",
                    Outcome::Score {
                        value: 0.5,
                        parts: vec![],
                    },
                    Some(0.5),
                ),
            ],
            reward: value.map(|v| v + 0.5),
            advantage: value,
        },
        prompt: format!("What is {index}? 你好"),
        completion: "<think>\n…</think>".into(),
        reference: (index > 0).then(|| index.to_string()),
    };
    outcomes
        .into_iter()
        .enumerate()
        .map(|(index, outcome)| row(index as u32, outcome))
        .collect()
}

#[test]
fn a_file_of_rollouts_reads_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("step-7.parquet");
    write(&Disk, &path, &rows()).unwrap();
    assert_eq!(read(&path).unwrap(), rows());
    write(&Disk, &path, &[]).unwrap();
    assert_eq!(read(&path).unwrap(), []);
}

/// `tests/data/test_files.py` reads the same file with pyarrow.
/// `R1D_UPDATE_GOLDENS=1 cargo test --test rollouts` rewrites it.
#[test]
fn the_golden_file_is_what_this_release_writes() {
    let path = golden("rollouts.parquet");
    if std::env::var_os("R1D_UPDATE_GOLDENS").is_some() {
        write(&Disk, &path, &rows()).unwrap();
    }
    assert_eq!(read(&path).unwrap(), rows());
    let directory = tempfile::tempdir().unwrap();
    let again = directory.path().join("again.parquet");
    write(&Disk, &again, &rows()).unwrap();
    assert!(
        std::fs::read(&again).unwrap() == std::fs::read(&path).unwrap(),
        "the bytes have changed: look at why, then R1D_UPDATE_GOLDENS=1"
    );
}

#[test]
fn a_file_of_something_else_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.parquet");
    std::fs::write(&path, "nothing").unwrap();
    let error = read(&path).unwrap_err();
    assert!(matches!(error, StoreError::Parquet { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("x.parquet: not a Parquet file that can be read")
    );
}

/// Takes a column out of a file, as earlier releases wrote it.
fn without(path: &Path, column: &str) {
    let file = std::fs::File::open(path).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let mut batch = reader.build().unwrap().next().unwrap().unwrap();
    batch.remove_column(batch.schema().index_of(column).unwrap());
    let file = std::fs::File::create(path).unwrap();
    let mut writer = ArrowWriter::try_new(file, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

#[test]
fn a_file_of_before_there_were_kept_ids_reads_with_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("step-7.parquet");
    write(&Disk, &path, &rows()).unwrap();
    without(&path, "kept_ids");
    let mut expected = rows();
    expected
        .iter_mut()
        .for_each(|row| row.scored.rollout.kept_ids = SamplingMask::default());
    assert_eq!(read(&path).unwrap(), expected);
}

#[test]
fn parts_of_a_file_are_those_of_the_whole() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("step-7.parquet");
    // Without `tokens` it is a file of an earlier release.
    for column in [None, Some("tokens")] {
        write(&Disk, &path, &rows()).unwrap();
        if let Some(column) = column {
            without(&path, column);
        }
        let file = RolloutFile::open(&path).unwrap();
        let summaries = file.summaries().unwrap();
        assert_eq!(summaries.len(), 5);
        for (summary, row) in summaries.iter().zip(rows()) {
            let key = row.scored.rollout.key;
            assert_eq!((summary.prompt, summary.sample), (key.prompt, key.sample));
            assert_eq!(
                summary.tokens as usize,
                row.scored.rollout.completion_ids.len()
            );
            assert_eq!(summary.reward, row.scored.reward);
        }
        let views: Vec<_> = file.views(true).unwrap().collect::<Result<_, _>>().unwrap();
        for (view, row) in views.iter().zip(rows()) {
            let scored = row.scored;
            assert_eq!(
                (view.key, view.row),
                (scored.rollout.key, scored.rollout.row)
            );
            assert_eq!(
                (view.finish, view.reward),
                (scored.rollout.finish, scored.reward)
            );
            assert_eq!(
                (view.advantage, &view.verdicts),
                (scored.advantage, &scored.verdicts)
            );
            assert_eq!(
                (&view.prompt, &view.completion),
                (&row.prompt, &row.completion)
            );
            assert_eq!(
                (&view.reference, view.tokens as usize),
                (&row.reference, view.completion_ids.len())
            );
            assert_eq!(view.completion_ids, scored.rollout.completion_ids);
        }
        let some = file.views_at(&[4, 0, 3, 9]).unwrap();
        let places = some.iter().map(|view| (view.key.prompt, view.key.sample));
        assert_eq!(places.collect::<Vec<_>>(), [(2, 0), (0, 0), (1, 1)]);
        assert!(file.views_at(&[]).unwrap().is_empty());
    }
}

/// Prints how long it takes to find the ten best of a file of a gigabyte.
#[test]
#[ignore = "prints durations and writes a gigabyte"]
fn samples_of_a_large_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("step-1.parquet");
    let word = |words: &[u64]| r1d_proto::world::counter_hash(words);
    let row = |index: u32| {
        let length = 4096u64;
        let ids = (0..length).map(|i| (word(&[u64::from(index), i]) % 150_000) as u32);
        let ids: Vec<u32> = ids.collect();
        let mut row = rows().remove(0);
        row.completion = ids.iter().map(|id| format!("{:x} ", id % 4096)).collect();
        row.scored.reward = Some(word(&[1, u64::from(index)]) as f32);
        let rollout = &mut row.scored.rollout;
        (rollout.key.prompt, rollout.key.sample) = (index / 16, index % 16);
        let logprob = |i| -((word(&[2, u64::from(index), i]) >> 40) as f32) / 1e6;
        rollout.behaviour_logprobs = (0..length).map(logprob).collect();
        rollout.completion_ids = ids;
        row
    };
    let rows: Vec<RolloutRow> = (0..28_000).map(row).collect();
    let timed = |what: &str, f: &mut dyn FnMut()| {
        let started = std::time::Instant::now();
        f();
        println!("{what}: {:.3} s", started.elapsed().as_secs_f64());
    };
    timed("writing", &mut || write(&Disk, &path, &rows).unwrap());
    drop(rows);
    println!("{} MB", std::fs::metadata(&path).unwrap().len() >> 20);
    timed("reading all", &mut || drop(read(&path).unwrap()));
    for _ in 0..2 {
        timed("the ten best", &mut || {
            let file = RolloutFile::open(&path).unwrap();
            let mut ranked: Vec<_> = file.summaries().unwrap().into_iter().enumerate().collect();
            ranked.sort_by(|(_, a), (_, b)| b.reward.partial_cmp(&a.reward).unwrap());
            let places: Vec<usize> = ranked.iter().take(10).map(|(place, _)| *place).collect();
            assert_eq!(file.views_at(&places).unwrap().len(), 10);
        });
    }
    timed("all texts", &mut || {
        let file = RolloutFile::open(&path).unwrap();
        assert_eq!(file.views(false).unwrap().count(), 28_000);
    });
}
