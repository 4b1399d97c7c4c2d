//! The component that a reward names.

use crate::error::JobError;
use crate::file::setting::{path_text, read_by_serde};
use crate::file::{Fields, Kind, Setting, absolute};
use std::path::{Path, PathBuf};
use toml::Value;

/// The component that a reward names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plugin {
    /// A name: `<name>.wasm` in the first plugin directory that has it.
    Named(String),
    /// The path of a component.
    Path(PathBuf),
}

impl Plugin {
    /// Parses a plugin's path or name: a path has a slash or ends in `.wasm`, anything else is a
    /// name.
    pub fn parse(text: &str, base_dir: &Path) -> Plugin {
        if text.contains('/') || text.ends_with(".wasm") {
            Plugin::Path(absolute(text, base_dir))
        } else {
            Plugin::Named(text.into())
        }
    }
}

/// Writes the name or path as a job file has it.
impl std::fmt::Display for Plugin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Plugin::Named(name) => f.write_str(name),
            Plugin::Path(path) => path.display().fmt(f),
        }
    }
}

impl Setting for Plugin {
    fn kind() -> Kind {
        Kind::Text
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Plugin, JobError> {
        let text: String = read_by_serde(value, from, key)?;
        Ok(Plugin::parse(&text, from.base_dir()))
    }

    fn to_value(&self) -> Option<Value> {
        Some(match self {
            Plugin::Named(name) => name.as_str().into(),
            Plugin::Path(file) => path_text(file).into(),
        })
    }
}

/// The default name of a reward of this plugin: the file name without its extension.
pub fn plugin_stem(plugin: &str) -> String {
    let stem = Path::new(plugin)
        .file_stem()
        .map(|s| s.to_string_lossy().into_owned());
    stem.unwrap_or_else(|| plugin.into())
}
