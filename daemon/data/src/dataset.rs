//! Reads rows of JSON and Parquet files through a job's column mapping.

use crate::absent::{absent, is_absent};
use crate::error::DataError;
use crate::json::Json;
use crate::lines::Compression;
use crate::row::Row;
use crate::{columns, table};
use r1d_job::DataSource;
use r1d_proto::user_file;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

/// Most bytes of one data set's files, and of the rows read from them (`LIM-1`).
pub const FILES_MAX_BYTES: u64 = 32 << 30;

/// Bytes of a data set's files that were read; where a reader looks at them, while they are.
pub type ReadBytes = Cell<u64>;

/// All rows of a data set, in memory: for tools that read one and end. The daemon has them made
/// into token sets.
#[derive(Debug)]
pub struct DataSet {
    name: String,
    rows: Vec<Row>,
    /// The columns that are not read, each with the reason.
    left_out: BTreeSet<String>,
}

/// Reads and checks every row of `files`, which are `source`'s, and calls `take` with the file's
/// index, the row's line (from 1; for Parquet its number) and the row. Returns the columns that are
/// not read, each with the reason. Errors name file, line and column. A column that no key of
/// `source` names may have a type that is not read. `place` counts the bytes that were read.
pub fn read(
    source: &DataSource,
    files: &[PathBuf],
    place: &ReadBytes,
    mut take: impl FnMut(usize, u64, Row) -> Result<(), DataError>,
) -> Result<BTreeSet<String>, DataError> {
    let problem = |problem: String| DataError::Source {
        name: source.name.clone(),
        problem,
    };
    let bytes = bytes(files)?;
    if bytes > FILES_MAX_BYTES {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        return Err(problem(format!(
            "{:.1} GiB of files, the limit is {:.0}: split the data set",
            gib(bytes),
            gib(FILES_MAX_BYTES)
        )));
    }
    let (mut any, mut left, mut left_out) = (false, FILES_MAX_BYTES, BTreeSet::new());
    for (index, file) in files.iter().enumerate() {
        let Some(format) = format_of(file) else {
            return Err(problem(format!(
                "{} is neither JSON nor Parquet: its name must end in .jsonl, .json, .ndjson (or \
                 one of these with .gz or .zst) or .parquet",
                file.display()
            )));
        };
        let opened = user_file::open(file).map_err(|e| DataError::read(file, e))?;
        let row = |line: u64, value: Json| {
            let at = |problem: String| DataError::Row {
                path: file.into(),
                line,
                problem,
            };
            left = left.checked_sub(value.size()).ok_or_else(|| {
                at(format!(
                    "more than {} GiB of rows come out of its files: split the data set",
                    FILES_MAX_BYTES >> 30
                ))
            })?;
            any = true;
            take(index, line, columns::row(value, source).map_err(at)?)
        };
        match format {
            Format::Json(compression) => {
                let opened = Counted {
                    file: opened,
                    place,
                };
                crate::lines::read(file, opened, compression, FILES_MAX_BYTES, row)?
            }
            Format::Parquet => {
                let is_used = |column: &str| columns::is_used(column, source);
                left_out.extend(table::read(file, opened, place, is_used, row)?);
            }
        }
    }
    if !any {
        return Err(problem(format!("{} has no row", source.path.display())));
    }
    Ok(left_out)
}

/// Bytes of files together. An error names the file that has none.
pub fn bytes(files: &[PathBuf]) -> Result<u64, DataError> {
    let sizes = files.iter().map(|file| {
        Ok(std::fs::metadata(file)
            .map_err(|e| DataError::read(file, e))?
            .len())
    });
    sizes.sum()
}

/// A file whose bytes are counted as they are read.
struct Counted<'a> {
    file: File,
    place: &'a ReadBytes,
}

impl Read for Counted<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(out)?;
        self.place.set(self.place.get() + read as u64);
        Ok(read)
    }
}

/// Reads and checks every row, as [`read`] does, and keeps none.
pub fn check(source: &DataSource) -> Result<(), DataError> {
    check_path(source)?;
    read(source, &files(source)?, &ReadBytes::default(), |_, _, _| {
        Ok(())
    })
    .map(drop)
}

/// Makes an error about the row at `index`, from 0, of the data set `name`, with its file and line
/// if they are known.
pub fn row_error(
    name: &str,
    index: u64,
    place: Option<(&Path, u64)>,
    problem: impl std::fmt::Display,
) -> DataError {
    let place = place.map_or(String::new(), |(file, line)| {
        format!(" ({}:{line})", file.display())
    });
    DataError::Source {
        name: name.into(),
        problem: format!("row {}{place}: {problem}", index + 1),
    }
}

impl DataSet {
    /// Reads and checks every row, as [`read`] does.
    pub fn open(source: &DataSource) -> Result<DataSet, DataError> {
        check_path(source)?;
        let mut rows = Vec::new();
        let left_out = read(
            source,
            &files(source)?,
            &ReadBytes::default(),
            |_, _, row| {
                rows.push(row);
                Ok(())
            },
        )?;
        Ok(DataSet {
            name: source.name.clone(),
            rows,
            left_out,
        })
    }

    /// The data set's name in the job file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number of rows, at least 1.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty data set is refused when it is opened"
    )]
    pub fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    /// The columns that are in no row's `meta`, because their types are not read, in order: "column
    /// NAME is of type …".
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.left_out.iter().map(String::as_str)
    }

    /// All rows: file by file, and in each file's order.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row at `index` modulo the number of rows.
    pub fn row(&self, index: u64) -> &Row {
        &self.rows[(index % self.len()) as usize]
    }
}

/// Checks that the file of a data set is there. The error names the key, and a similar file.
pub fn check_path(source: &DataSource) -> Result<(), DataError> {
    if is_pattern(&source.path) || !is_absent(&source.path) {
        return Ok(());
    }
    let key = format!("data.{}.path", source.name);
    let fix = "name a .jsonl, .json or .parquet file; a relative path begins where the job file \
               is, and r1d downloads nothing";
    Err(absent(key, &source.path, fix))
}

/// Finds the files of a data set: one, or all that a glob matches, sorted by name.
pub fn files(source: &DataSource) -> Result<Vec<PathBuf>, DataError> {
    let problem = |problem: String| DataError::Source {
        name: source.name.clone(),
        problem,
    };
    if !is_pattern(&source.path) {
        return Ok(vec![source.path.clone()]);
    }
    let files = matches(&source.path).map_err(|error| problem(error.to_string()))?;
    if files.is_empty() {
        return Err(problem(format!(
            "`path`: no file matches {}; a relative pattern begins where the job file is",
            source.path.display()
        )));
    }
    Ok(files)
}

/// Whether the path is a pattern of several files, and not the name of one.
pub fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '[']) && !path.exists()
}

/// The files that match a pattern now, sorted by name.
pub fn matches(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let text = pattern.to_string_lossy();
    let found = glob::glob(&text)
        .map_err(|error| io::Error::other(format!("{text} is not a pattern: {error}")))?;
    let mut files = found.collect::<Result<Vec<_>, _>>().map_err(|error| {
        io::Error::new(
            error.error().kind(),
            format!("{}: {}", error.path().display(), error.error()),
        )
    })?;
    files.sort();
    Ok(files)
}

/// The format of a file by its name, as a key of its contents has it; `None` if it is not read.
pub fn format_name(file: &Path) -> Option<String> {
    format_of(file).map(|format| format!("{format:?}"))
}

#[derive(Debug)]
enum Format {
    Json(Compression),
    Parquet,
}

fn format_of(file: &Path) -> Option<Format> {
    let ending = |path: &Path| Some(path.extension()?.to_str()?.to_ascii_lowercase());
    let (compression, name) = match ending(file)?.as_str() {
        "gz" => (Compression::Gzip, file.with_extension("")),
        "zst" => (Compression::Zstd, file.with_extension("")),
        _ => (Compression::None, file.to_path_buf()),
    };
    match (ending(&name)?.as_str(), compression) {
        ("jsonl" | "json" | "ndjson", compression) => Some(Format::Json(compression)),
        ("parquet", Compression::None) => Some(Format::Parquet),
        _ => None,
    }
}
