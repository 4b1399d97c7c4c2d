//! The rows of a data set as a token set: what its files hold, read once. Sets of other kinds are
//! made of them.
//!
//! A record is the row's line in its file (8 bytes), the index of its domain (4 bytes,
//! [`NO_DOMAIN`] without one) and the row in postcard.

use crate::file::{Fields, SetError, TokenSet};
use crate::key::Key;
use crate::make::{MakeError, Making};
use r1d_data::{DataError, Row, dataset};
use r1d_job::DataSource;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

const NO_DOMAIN: u32 = u32::MAX;
/// Most different domains of a data set (`LIM-1`): rewards are chosen by them, by name.
pub const DOMAINS_MAX: usize = 1 << 16;

/// The rows of a data set.
#[derive(Clone, Debug)]
pub struct Rows {
    name: String,
    files: Vec<PathBuf>,
    set: Arc<TokenSet>,
    facts: Arc<RowsFacts>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct RowsFacts {
    /// The index of each file's first row.
    firsts: Vec<u64>,
    /// The columns that are not read, each with the reason.
    left_out: BTreeSet<String>,
    /// The rows' domains, in the order of their first rows.
    domains: Vec<String>,
}

impl Rows {
    /// Makes the set of all rows of `files`, which are `source`'s. Errors name file, line and
    /// column.
    pub fn make(
        source: &DataSource,
        files: &[PathBuf],
        key: &Key,
        mut making: Making<'_>,
    ) -> Result<(), MakeError> {
        let mut facts = RowsFacts::default();
        let mut known = BTreeMap::new();
        let mut failed = None;
        let (place, mut told) = (dataset::ReadBytes::default(), 0);
        making.of(dataset::bytes(files)?);
        let read = dataset::read(source, files, &place, |file, line, row| {
            while facts.firsts.len() <= file {
                facts.firsts.push(making.writer.len());
            }
            let domain = domain_of(&row, &mut known, &mut facts.domains);
            let domain = domain.map_err(|problem| DataError::Row {
                path: files.get(file).cloned().unwrap_or_default(),
                line,
                problem,
            })?;
            let written = encode(line, domain, &row)
                .and_then(|record| making.writer.add(&record))
                .map_err(MakeError::from)
                .and_then(|()| making.done(place.get() - told));
            told = place.get();
            written.map_err(|error| {
                // The reading ends with this; what is reported is the error itself.
                failed = Some(error);
                DataError::Source {
                    name: source.name.clone(),
                    problem: "it is read no further".into(),
                }
            })
        });
        if let Some(error) = failed {
            return Err(error);
        }
        facts.left_out = read?;
        Ok(making.writer.finish(key, &facts)?)
    }

    /// The rows of `set`, of the data set `name`, whose files errors name.
    pub fn open(set: Arc<TokenSet>, name: &str, files: Vec<PathBuf>) -> Result<Rows, SetError> {
        Ok(Rows {
            name: name.into(),
            files,
            facts: Arc::new(set.facts()?),
            set,
        })
    }

    /// The data set's name in the job file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key of the set.
    pub fn key(&self) -> &Key {
        self.set.key()
    }

    /// The data set's files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The number of rows, at least 1.
    #[allow(
        clippy::len_without_is_empty,
        reason = "an empty data set is refused when it is made"
    )]
    pub fn len(&self) -> u64 {
        self.set.len()
    }

    /// The columns that are in no row's `meta`, because their types are not read, in order: "column
    /// NAME is of type …".
    pub fn left_out(&self) -> impl Iterator<Item = &str> {
        self.facts.left_out.iter().map(String::as_str)
    }

    /// The rows' domains.
    pub fn domains(&self) -> BTreeSet<&str> {
        self.facts.domains.iter().map(String::as_str).collect()
    }

    /// The row at `index`.
    pub fn row(&self, index: u64) -> Result<Row, SetError> {
        Ok(self.row_and_bytes(index)?.1)
    }

    /// The row at `index`, and the bytes of its record.
    pub(crate) fn row_and_bytes(&self, index: u64) -> Result<(u64, Row), SetError> {
        let record = self.set.record(index)?;
        let mut fields = Fields::new(&record);
        let row = fields
            .take(HEAD_BYTES)
            .and_then(|_| postcard::from_bytes(fields.rest()).ok());
        let row = row.map(|row| (record.len() as u64, row));
        row.ok_or_else(|| self.set.fault("a row of it cannot be read"))
    }

    /// Bytes of all rows as they are kept here.
    pub(crate) fn bytes(&self) -> u64 {
        self.set.data_bytes()
    }

    /// The end of the part from `first` on that has at most so many rows and bytes, and one row at
    /// least.
    pub(crate) fn part_end(
        &self,
        first: u64,
        rows_max: u64,
        bytes_max: u64,
    ) -> Result<u64, SetError> {
        let start = self.set.range(first)?.start;
        let ends = self.set.ends(first, rows_max.min(self.len() - first))?;
        let count = ends.partition_point(|end| end - start <= bytes_max);
        Ok(first + count.max(1) as u64)
    }

    /// Makes an error about the row at `index`, from 0, with its file and line.
    pub fn wrong(&self, index: u64, problem: impl Display) -> DataError {
        let file = self.facts.firsts.partition_point(|first| *first <= index);
        let file = file.checked_sub(1).and_then(|file| self.files.get(file));
        // A row that cannot be read now is named by its number alone.
        let record = self.set.record(index).ok();
        let line = record.and_then(|record| Fields::new(&record).u64());
        let place = file.map(PathBuf::as_path).zip(line);
        r1d_data::row_error(&self.name, index, place, problem)
    }
}

/// Bytes of a record before the row.
const HEAD_BYTES: usize = 12;

fn encode(line: u64, domain: u32, row: &Row) -> io::Result<Vec<u8>> {
    let mut record = Vec::with_capacity(HEAD_BYTES);
    record.extend(line.to_le_bytes());
    record.extend(domain.to_le_bytes());
    postcard::to_extend(row, record).map_err(io::Error::other)
}

/// The index of a row's domain, which is added to `domains` if it is new.
fn domain_of(
    row: &Row,
    known: &mut BTreeMap<String, u32>,
    domains: &mut Vec<String>,
) -> Result<u32, String> {
    let Some(domain) = &row.domain else {
        return Ok(NO_DOMAIN);
    };
    if let Some(index) = known.get(domain) {
        return Ok(*index);
    }
    if domains.len() >= DOMAINS_MAX {
        return Err(format!(
            "more than {DOMAINS_MAX} different domains: `domain` names a column of the few kinds \
             of task that rewards are chosen by"
        ));
    }
    let index = domains.len() as u32;
    known.insert(domain.clone(), index);
    domains.push(domain.clone());
    Ok(index)
}
