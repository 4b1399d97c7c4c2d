//! Rows of JSONL and Parquet files through a job's column mapping.

use crate::error::DataError;
use r1d_job::DataSource;

/// One row, through the data set's column mapping.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The prompt column's text; of a list of messages, the last user message.
    pub prompt: Option<String>,
    /// The prompt column where it is a list of messages; else empty.
    pub messages: Vec<Message>,
    pub completion: Option<String>,
    pub text: Option<String>,
    pub reference: Option<String>,
    pub domain: Option<String>,
    /// The other columns: a JSON object, or `None` where there are none.
    pub meta: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Message {
    pub role: String,
    pub content: String,
}

/// All rows of a data set, in memory.
pub struct DataSet {
    name: String,
    rows: Vec<Row>,
}

impl DataSet {
    /// Reads and checks every row. Errors name file, line and column.
    pub fn open(source: &DataSource) -> Result<DataSet, DataError> {
        let _ = source;
        todo!()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of rows, at least 1.
    #[allow(clippy::len_without_is_empty, reason = "an empty data set is refused when it is opened")]
    pub fn len(&self) -> u64 {
        self.rows.len() as u64
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The row, `index` taken modulo the number of rows.
    pub fn row(&self, index: u64) -> &Row {
        &self.rows[(index % self.len()) as usize]
    }
}
