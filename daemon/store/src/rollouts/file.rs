//! Reads a rollout file: the rows and columns that are asked for.

use super::RolloutRow;
use super::cells::Cells;
use super::view::{IDS, Summary, TOKENS, View};
use crate::error::StoreError;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection,
};
use parquet::file::metadata::PageIndexPolicy;
use r1d_proto::user_file;
use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};

/// What samples are sorted by.
const SUMMARY: [&str; 3] = ["prompt_index", "sample_index", "reward"];
/// All but the numbers of each token, and how many there are.
const VIEW: [&str; 12] = [
    "stage",
    "step",
    "prompt_index",
    "sample_index",
    "row",
    "prompt",
    "completion",
    "reference",
    "finish",
    "reward",
    "advantage",
    "verdicts",
];
/// Rows that are decoded at a time, whose lists also share offsets of 32 bits.
const READ_ROWS: usize = 16;
/// The same where only numbers are read.
const READ_SUMMARIES: usize = 4096;

/// A rollout file that is open for reading.
pub struct RolloutFile {
    path: PathBuf,
    file: File,
    metadata: ArrowReaderMetadata,
}

impl RolloutFile {
    /// Opens a file, and reads which columns, row groups and pages it has.
    pub fn open(path: &Path) -> Result<RolloutFile, StoreError> {
        let file = user_file::open(path).map_err(|error| StoreError::read(path, error))?;
        let options = ArrowReaderOptions::new().with_offset_index_policy(PageIndexPolicy::Optional);
        let metadata = ArrowReaderMetadata::load(&file, options)
            .map_err(|error| broken(path, error.to_string()))?;
        Ok(RolloutFile {
            path: path.into(),
            file,
            metadata,
        })
    }

    /// What the rows can be sorted by, in the order of the file.
    pub fn summaries(&self) -> Result<Vec<Summary>, StoreError> {
        let columns = self.with_tokens(&SUMMARY);
        self.read(&columns, None, READ_SUMMARIES, Cells::summary)?
            .collect()
    }

    /// The rows at these places in the file, from 0, in the order in which they are given. Places
    /// beyond the end have none.
    pub fn views_at(&self, places: &[usize]) -> Result<Vec<View>, StoreError> {
        let sorted: BTreeSet<usize> = places.iter().copied().collect();
        let columns = self.with_tokens(&VIEW);
        let views = self.read(&columns, Some(&sorted), READ_ROWS, Cells::view)?;
        let views: Vec<View> = views.collect::<Result<_, _>>()?;
        let mut found: HashMap<usize, View> = sorted.into_iter().zip(views).collect();
        Ok(places
            .iter()
            .filter_map(|place| found.remove(place))
            .collect())
    }

    /// All rows in the order of the file, with their completion ids if `ids` says so.
    pub fn views(
        &self,
        ids: bool,
    ) -> Result<impl Iterator<Item = Result<View, StoreError>> + use<>, StoreError> {
        let mut columns = self.with_tokens(&VIEW);
        columns.extend(ids.then_some(IDS));
        self.read(&columns, None, READ_ROWS, Cells::view)
    }

    /// Columns, and the one that tells how long the completions are.
    fn with_tokens(&self, columns: &[&'static str]) -> Vec<&'static str> {
        let has_tokens = self.metadata.schema().column_with_name(TOKENS).is_some();
        let length = if has_tokens { TOKENS } else { IDS };
        columns.iter().copied().chain([length]).collect()
    }

    fn read<T: 'static>(
        &self,
        columns: &[&str],
        places: Option<&BTreeSet<usize>>,
        at_once: usize,
        cell: fn(&Cells, usize) -> Option<T>,
    ) -> Result<impl Iterator<Item = Result<T, StoreError>> + use<T>, StoreError> {
        let path = self.path.clone();
        let file = self
            .file
            .try_clone()
            .map_err(|error| StoreError::read(&path, error))?;
        let builder =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone());
        let names = self.metadata.schema().fields().iter().enumerate();
        let wanted = names.filter(|(_, field)| columns.contains(&field.name().as_str()));
        let wanted: Vec<usize> = wanted.map(|(index, _)| index).collect();
        let mask = ProjectionMask::roots(builder.parquet_schema(), wanted);
        let builder = builder.with_projection(mask).with_batch_size(at_once);
        let builder = match places {
            None => builder,
            Some(places) => {
                let rows = self.metadata.metadata().file_metadata().num_rows();
                let rows = usize::try_from(rows).unwrap_or(0);
                let ranges = places.range(..rows).map(|place| *place..place + 1);
                builder.with_row_selection(RowSelection::from_consecutive_ranges(ranges, rows))
            }
        };
        let batches = builder
            .build()
            .map_err(|error| broken(&path, error.to_string()))?;
        Ok(batches.flat_map(move |batch| {
            let read = |index: usize, cells: &Cells| {
                cell(cells, index).ok_or_else(|| broken(&path, NOT_ROLLOUTS.into()))
            };
            let rows: Vec<Result<T, StoreError>> = match batch {
                Err(error) => vec![Err(broken(&path, error.to_string()))],
                Ok(batch) => {
                    let cells = Cells::of(batch);
                    (0..cells.len()).map(|index| read(index, &cells)).collect()
                }
            };
            rows
        }))
    }
}

/// The problem of a Parquet file of something else.
const NOT_ROLLOUTS: &str = "it is not a file of rollouts: a column is missing or of another type";

fn broken(path: &Path, problem: String) -> StoreError {
    StoreError::Parquet {
        path: path.into(),
        problem,
    }
}

/// Reads the rows of a step whole. A file that [`write`](super::write::write) did not make is an
/// error.
pub fn read(path: &Path) -> Result<Vec<RolloutRow>, StoreError> {
    let file = RolloutFile::open(path)?;
    let fields = file.metadata.schema().fields().clone();
    let all: Vec<&str> = fields.iter().map(|field| field.name().as_str()).collect();
    file.read(&all, None, READ_ROWS, Cells::row)?.collect()
}
