//! Writing of tables.

use toml::Value;

/// What is written into a table.
pub(crate) trait Write {
    /// Writes the settings by their keys, every default filled in.
    fn write(&self, to: &mut toml::Table);
}

/// Sets a key; one without a value stays out.
pub(crate) fn put(to: &mut toml::Table, key: &str, value: Option<Value>) {
    to.extend(value.map(|value| (key.to_string(), value)));
}
