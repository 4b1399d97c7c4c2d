//! Tables `[[stage]]`: reading and writing of stages, each with the keys of its kind.

use super::{Stage, kind};
use crate::error::JobError;
use crate::file::setting::written;
use crate::file::{Fields, Keys, Kind, Read, Setting, Table};
use std::sync::OnceLock;
use toml::Value;

/// Tables `[[stage]]`, each with the keys of its kind.
impl Setting for Vec<Stage> {
    fn kind() -> Kind {
        Kind::Variants {
            tag: "kind",
            variants: tables(),
        }
    }

    fn from_value(_: &Value, from: &Fields<'_>, key: &str) -> Result<Self, JobError> {
        from.tables(key).map(|table| Stage::read(&table)).collect()
    }

    fn to_value(&self) -> Option<Value> {
        let tables = self.iter().map(|stage| Value::Table(stage.to_table()));
        Some(Value::Array(tables.collect()))
    }
}

/// The tables of the kinds, by their words.
fn tables() -> &'static [(&'static str, &'static Table)] {
    static TABLES: OnceLock<[(&str, &Table); 9]> = OnceLock::new();
    TABLES.get_or_init(|| kind::tables(&Stage::keys()))
}

impl Stage {
    /// The stage as a table of a job file, every default filled in.
    pub(crate) fn to_table(&self) -> toml::Table {
        let mut table = written(self);
        // What its kind has no key for is not written.
        let of_kind = tables().iter().find(|(word, _)| *word == self.kind_name());
        if let Some((_, keys)) = of_kind {
            table.retain(|name, _| keys.key(name).is_some());
        }
        table
    }
}
