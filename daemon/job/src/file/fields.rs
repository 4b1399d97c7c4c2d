//! Reading of a resolved table. [`super::check`] has made sure of kinds and ranges; errors that it
//! cannot see are reported here.

use super::keys::Kind;
use crate::error::JobError;
use std::path::{Path, PathBuf};
use toml::Value;

/// What is read from a table.
pub(crate) trait Read: Sized {
    /// Reads the settings. Errors are for what a check of each key by itself cannot see.
    fn read(from: &Fields<'_>) -> Result<Self, JobError>;
}

/// A type that a setting may have.
pub(crate) trait Setting: Sized {
    /// What a key of this type takes, unless its field says more.
    fn kind() -> Kind;

    /// Reads a value that the key takes. Errors are for what a [`Kind`] cannot see.
    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError>;

    /// The value as the file has it; `None`: the key stays out.
    fn to_value(&self) -> Option<Value>;

    /// The setting of a key that is left out and has no default; `None`: there is none.
    fn left_out() -> Option<Self> {
        None
    }
}

/// A resolved table with its place in the file.
pub(crate) struct Fields<'a> {
    table: &'a toml::Table,
    /// The table as errors name it: `[[stage]] "cold-start"`; empty for the top level.
    pub place: String,
    /// Name of a table `[key.name]`; empty for others.
    name: &'a str,
    /// Directory of the file, which relative paths resolve against.
    base_dir: &'a Path,
}

impl<'a> Fields<'a> {
    /// The top level of a file in the directory `base_dir`.
    pub(crate) fn root(table: &'a toml::Table, base_dir: &'a Path) -> Fields<'a> {
        Fields {
            table,
            place: String::new(),
            name: "",
            base_dir,
        }
    }

    /// The table `[key]`.
    pub(crate) fn below<'b>(&self, table: &'b toml::Table, key: &str) -> Fields<'b>
    where
        'a: 'b,
    {
        let own = if self.place.is_empty() {
            format!("[{key}]")
        } else {
            key.into()
        };
        self.at(table, own)
    }

    /// A table of `[[path]]`.
    pub(crate) fn item<'b>(&self, table: &'b toml::Table, path: &str) -> Fields<'b>
    where
        'a: 'b,
    {
        let title = ["name", "plugin", "data"]
            .into_iter()
            .find_map(|key| table.get(key).and_then(Value::as_str));
        let own = match title {
            Some(title) => format!("[[{path}]] {title:?}"),
            None => format!("[[{path}]]"),
        };
        self.at(table, own)
    }

    /// The table `[key.name]`.
    pub(crate) fn named<'b>(&self, table: &'b toml::Table, key: &str, name: &'b str) -> Fields<'b>
    where
        'a: 'b,
    {
        Fields {
            name,
            ..self.at(table, format!("[{key}.{name}]"))
        }
    }

    /// Name of the table, if it is one `[key.name]`; empty for others.
    pub(crate) fn name(&self) -> &'a str {
        self.name
    }

    fn at<'b>(&self, table: &'b toml::Table, own: String) -> Fields<'b>
    where
        'a: 'b,
    {
        let place = if self.place.is_empty() {
            own
        } else {
            format!("{}, {own}", self.place)
        };
        Fields {
            table,
            place,
            name: "",
            base_dir: self.base_dir,
        }
    }

    /// Reads a key.
    pub(crate) fn read<T: Setting>(&self, key: &str) -> Result<T, JobError> {
        match self.table.get(key) {
            Some(value) => T::from_value(value, self, key),
            None => T::left_out().ok_or_else(|| JobError::Missing {
                place: self.place.clone(),
                key: key.into(),
                fix: "it has no default".into(),
            }),
        }
    }

    /// Reads a key of a type that is read otherwise here than elsewhere.
    pub(crate) fn read_with<T: Setting>(
        &self,
        key: &str,
        from_value: impl FnOnce(&Value, &Fields<'_>, &str) -> Result<T, JobError>,
    ) -> Result<T, JobError> {
        match self.table.get(key) {
            Some(value) => from_value(value, self, key),
            None => self.read(key),
        }
    }

    /// Whether the table has a value for the key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The tables `[[key]]`; none if the key is left out.
    pub(crate) fn tables(&self, key: &str) -> impl Iterator<Item = Fields<'a>> {
        let items = self.table.get(key).and_then(Value::as_array);
        let tables = items.into_iter().flatten().filter_map(Value::as_table);
        tables.map(|table| self.item(table, key))
    }

    /// Directory of the file.
    pub(crate) fn base_dir(&self) -> &'a Path {
        self.base_dir
    }

    /// `path` resolved against the file's own directory.
    pub(crate) fn absolute(&self, path: &str) -> PathBuf {
        absolute(path, self.base_dir)
    }

    /// The error of settings that cannot work together.
    pub(crate) fn unsound(&self, problem: impl Into<String>, fix: impl Into<String>) -> JobError {
        JobError::unsound(&self.place, problem, fix)
    }
}

/// `path` resolved against `base_dir`, without `.` and `..` as far as that needs no file system.
pub(crate) fn absolute(path: &str, base_dir: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in base_dir.join(path).components() {
        match part {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir if clean.parent().is_some() => {
                clean.pop();
            }
            other => clean.push(other),
        }
    }
    clean
}
