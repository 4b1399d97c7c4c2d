//! Typed reading of a resolved table. [`crate::check`] has made sure of kinds and ranges; errors
//! that it cannot see are reported here.

use crate::error::JobError;
use crate::file::absolute;
use crate::reward::{OnAbstain, OnFault};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// A resolved table with its place in the file.
pub(crate) struct ResolvedTable<'a> {
    table: &'a toml::Table,
    /// The table as errors name it: `[[stage]] "cold-start"`.
    pub place: String,
}

impl<'a> ResolvedTable<'a> {
    pub(crate) fn new(table: &'a toml::Table, place: impl Into<String>) -> ResolvedTable<'a> {
        ResolvedTable {
            table,
            place: place.into(),
        }
    }

    pub(crate) fn get<T: DeserializeOwned>(&self, key: &str) -> Result<T, JobError> {
        self.optional(key)?.ok_or_else(|| JobError::Missing {
            place: self.place.clone(),
            key: key.into(),
            fix: "it has no default".into(),
        })
    }

    pub(crate) fn optional<T: DeserializeOwned>(&self, key: &str) -> Result<Option<T>, JobError> {
        let Some(value) = self.table.get(key) else {
            return Ok(None);
        };
        value
            .clone()
            .try_into()
            .map(Some)
            .map_err(|e| JobError::WrongType {
                place: self.place.clone(),
                key: key.into(),
                expected: e.message().to_string(),
                found: value.to_string(),
            })
    }

    /// Whether the table has a value for the key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    pub(crate) fn path(&self, key: &str, base_dir: &Path) -> Result<Option<PathBuf>, JobError> {
        Ok(self
            .optional::<String>(key)?
            .map(|text| absolute(&text, base_dir)))
    }

    pub(crate) fn table(
        &self,
        key: &str,
        place: impl Into<String>,
    ) -> Result<ResolvedTable<'a>, JobError> {
        match self.table.get(key) {
            Some(toml::Value::Table(table)) => Ok(ResolvedTable::new(table, place)),
            _ => Err(self.unsound(format!("`{key}` is not a table"), "write it as one")),
        }
    }

    /// The tables of an array; none if the key is left out.
    pub(crate) fn tables(&self, key: &str) -> impl Iterator<Item = &'a toml::Table> + use<'a> {
        let items = self
            .table
            .get(key)
            .and_then(toml::Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        items.iter().filter_map(toml::Value::as_table)
    }

    /// The named tables below a key, sorted by name.
    pub(crate) fn named(
        &self,
        key: &str,
    ) -> impl Iterator<Item = (&'a String, &'a toml::Table)> + use<'a> {
        let tables = self.table.get(key).and_then(toml::Value::as_table);
        tables
            .into_iter()
            .flatten()
            .filter_map(|(name, value)| Some((name, value.as_table()?)))
    }

    fn score(&self, key: &str) -> Option<f64> {
        self.table.get(key)?.get("score")?.as_float()
    }

    pub(crate) fn on_abstain(&self, key: &str) -> Result<OnAbstain, JobError> {
        if let Some(score) = self.score(key) {
            return Ok(OnAbstain::Score(score));
        }
        Ok(if self.get::<String>(key)? == "drop-group" {
            OnAbstain::DropGroup
        } else {
            OnAbstain::DropSample
        })
    }

    pub(crate) fn on_fault(&self, key: &str) -> Result<OnFault, JobError> {
        if let Some(score) = self.score(key) {
            return Ok(OnFault::Score(score));
        }
        Ok(if self.get::<String>(key)? == "drop-sample" {
            OnFault::DropSample
        } else {
            OnFault::Min
        })
    }

    pub(crate) fn unsound(&self, problem: impl Into<String>, fix: impl Into<String>) -> JobError {
        JobError::Unsound {
            place: self.place.clone(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}
