//! Tables that are handed on as JSON: a setting's text is an object with sorted keys, the same
//! bytes each time.

use super::fields::Fields;
use super::keys::Kind;
use super::setting::read_by_serde;
use crate::error::JobError;
use toml::Value;

pub(crate) fn kind() -> Kind {
    Kind::Json
}

/// The JSON of a table, which TOML sorts by key.
pub(crate) fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<String, JobError> {
    let json: serde_json::Value = read_by_serde(value, from, key)?;
    Ok(json.to_string())
}

pub(crate) fn to_value(json: &str) -> Option<Value> {
    serde_json::from_str(json).ok().map(Value::Table)
}
