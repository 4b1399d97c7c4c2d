//! Writes a rollout file, a row group after the other.

use super::RolloutRow;
use super::columns::batch;
use crate::error::StoreError;
use crate::replace::write_file;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use r1d_proto::storage::Storage;
use std::io::{self, Write};
use std::path::Path;

/// Most values of a list column, and bytes of a text column, in one row group: what a reader of few
/// columns goes through, and the memory that a writer takes beside the rows. Far below the 2³¹ that
/// an offset can count.
const ROW_GROUP_MAX_VALUES: usize = 1 << 24;
/// Most values of a column between two looks at the size of its page.
const WRITE_MAX_VALUES: usize = 1 << 16;
/// The size at which a page ends: what a reader of a single row goes through.
const PAGE_BYTES: usize = 256 << 10;

/// Writes the rows of a step; the file appears whole or not at all.
pub fn write(storage: &dyn Storage, path: &Path, rows: &[RolloutRow]) -> Result<(), StoreError> {
    write_groups(storage, path, rows, ROW_GROUP_MAX_VALUES)
}

fn write_groups(
    storage: &dyn Storage,
    path: &Path,
    rows: &[RolloutRow],
    values_max: usize,
) -> Result<(), StoreError> {
    write_file(storage, path, |file| {
        fill(file, rows, values_max).map_err(io_error)
    })
}

fn fill(
    file: &mut (dyn Write + Send),
    rows: &[RolloutRow],
    values_max: usize,
) -> Result<(), ParquetError> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1)?))
        .set_data_page_size_limit(PAGE_BYTES)
        .build();
    let schema = batch(&[])?.schema();
    let mut writer = ArrowWriter::try_new(file, schema, Some(properties))?;
    for group in runs(rows, values_max) {
        for rows in runs(group, WRITE_MAX_VALUES) {
            writer.write(&batch(rows)?)?;
        }
        writer.flush()?;
    }
    writer.close()?;
    Ok(())
}

/// The error of the disk, if it is one: the job waits for some of those.
fn io_error(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(source) => match source.downcast::<io::Error>() {
            Ok(source) => *source,
            Err(other) => io::Error::other(other),
        },
        error => io::Error::other(error),
    }
}

/// Splits the rows into runs whose longest column has at most `values_max` values; a single row may
/// have more.
fn runs(rows: &[RolloutRow], values_max: usize) -> impl Iterator<Item = &[RolloutRow]> {
    let longest = |row: &RolloutRow| {
        let rollout = &row.scored.rollout;
        let ids = rollout.prompt_ids.len().max(rollout.completion_ids.len());
        let reference = row.reference.as_ref().map_or(0, String::len);
        let texts = row.prompt.len().max(row.completion.len()).max(reference);
        let numbers = rollout.experts.len().max(rollout.kept_ids.numbers().len());
        ids.max(numbers).max(texts)
    };
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut sum = 0;
        let fits = |row: &&RolloutRow| {
            sum += longest(row);
            sum <= values_max
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (group, later) = rest.split_at(count);
        rest = later;
        (count > 0).then_some(group)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::Disk;
    use crate::rollouts::read;
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use r1d_proto::ids::SampleKey;
    use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
    use r1d_proto::sampling_mask::SamplingMask;

    fn row(sample: u32, experts: usize) -> RolloutRow {
        let rollout = Rollout {
            key: SampleKey {
                stage: 0,
                step: 0,
                prompt: 0,
                sample,
            },
            row: 0,
            prompt_ids: vec![1],
            completion_ids: vec![2],
            behaviour_logprobs: vec![-0.5],
            experts: vec![sample as u16; experts],
            kept_ids: SamplingMask::default(),
            policy_version: 0,
            finish: FinishReason::Stop,
        };
        let scored = ScoredRollout {
            rollout,
            verdicts: Vec::new(),
            reward: Some(1.0),
            advantage: None,
        };
        RolloutRow {
            scored,
            prompt: "a".into(),
            completion: "b".into(),
            reference: None,
        }
    }

    /// An offset has 32 bits, fewer than the experts of a step of a mixture of experts need.
    #[test]
    fn a_long_column_is_cut_into_row_groups() {
        let rows: Vec<RolloutRow> = [5, 5, 20, 1, 9, 0]
            .into_iter()
            .zip(0..)
            .map(|(experts, sample)| row(sample, experts))
            .collect();
        let sizes = |limit| {
            runs(&rows, limit)
                .map(<[RolloutRow]>::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(sizes(10), [2, 1, 2, 1]);
        assert_eq!((sizes(1000), sizes(1)), (vec![6], vec![1; 6]));
        let dir = tempfile::tempdir().unwrap();
        for limit in [1, 10, 1000] {
            let path = dir.path().join(format!("{limit}.parquet"));
            write_groups(&Disk, &path, &rows, limit).unwrap();
            assert!(read(&path).unwrap() == rows, "{limit}");
            let groups = SerializedFileReader::new(std::fs::File::open(&path).unwrap()).unwrap();
            assert_eq!(groups.metadata().num_row_groups(), sizes(limit).len());
        }
        let none = dir.path().join("none.parquet");
        write(&Disk, &none, &[]).unwrap();
        assert!(read(&none).unwrap().is_empty());
    }
}
