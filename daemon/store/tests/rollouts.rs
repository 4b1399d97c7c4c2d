//! Rollout files as they are written and read back, and those of earlier releases.

use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_store::rollouts::{RolloutRow, read, write};
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

#[test]
fn a_file_of_before_there_were_kept_ids_reads_with_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("step-7.parquet");
    write(&Disk, &path, &rows()).unwrap();
    let mut reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&path).unwrap())
        .unwrap()
        .build()
        .unwrap();
    let mut batch = reader.next().unwrap().unwrap();
    batch.remove_column(batch.schema().index_of("kept_ids").unwrap());
    let mut writer =
        ArrowWriter::try_new(std::fs::File::create(&path).unwrap(), batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    let mut expected = rows();
    expected
        .iter_mut()
        .for_each(|row| row.scored.rollout.kept_ids = SamplingMask::default());
    assert_eq!(read(&path).unwrap(), expected);
}
