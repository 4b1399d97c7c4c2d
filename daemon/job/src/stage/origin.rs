//! Where a stage's first weights come from.

use crate::error::JobError;
use crate::file::setting::read_by_serde;
use crate::file::{Fields, Kind, Setting};
use toml::Value;

/// Source of a stage's first weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The model's own weights.
    Base,
    /// The weights that an earlier stage ended with, by its name.
    Stage(String),
}

impl Setting for Origin {
    fn kind() -> Kind {
        Kind::Text
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Origin, JobError> {
        let name: String = read_by_serde(value, from, key)?;
        Ok(match name.as_str() {
            "base" => Origin::Base,
            _ => Origin::Stage(name),
        })
    }

    fn to_value(&self) -> Option<Value> {
        Some(self.name().into())
    }
}

impl Origin {
    /// The name as a job file has it.
    pub fn name(&self) -> &str {
        match self {
            Origin::Base => "base",
            Origin::Stage(name) => name,
        }
    }
}
