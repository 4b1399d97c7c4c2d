//! `r1.lock`, beside the job file: the SHA-256 of every plugin that judged the job when it was
//! first submitted. From then on the job is judged by those, or refused.
//!
//! ```toml
//! version = 1
//!
//! [[plugin]]
//! plugin = "accuracy"
//! sha256 = "bc6d…"
//! ```
//! Paths are relative to the file's own directory where they lie below it.

use crate::error::Error;
use r1d_proto::user_file;
use r1d_store::{Disk, FILE_MODE, replace};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const NAME: &str = "r1.lock";
const VERSION: u32 = 1;
const HEAD: &str = "# Written by `r1ctl submit`: the plugins that judge the jobs of this \
                    directory. Keep it with them.\n";
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How a submission uses the lock file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Uses the pins in the file, and adds missing ones.
    Add,
    /// Refuses the submission if the file lacks a pin of one of the job's plugins.
    Locked,
    /// Replaces the pins of the job's plugins.
    Update,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    #[serde(default)]
    plugin: Vec<Entry>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    plugin: String,
    sha256: String,
}

/// The lock of a job file's directory.
pub(crate) struct Lock {
    path: PathBuf,
    directory: PathBuf,
    /// SHA-256 by the plugin's name or absolute path.
    pins: BTreeMap<String, String>,
}

impl Lock {
    /// Reads the lock beside a job file; empty if there is none.
    pub(crate) fn beside(job_file: &Path) -> Result<Lock, Error> {
        let absolute = std::path::absolute(job_file).map_err(|source| Error::File {
            path: job_file.into(),
            source,
        })?;
        let directory = absolute.parent().unwrap_or(Path::new("/")).to_path_buf();
        let path = directory.join(NAME);
        let wrong = |why: String| Error::Lock {
            path: path.clone(),
            why,
        };
        let text = match user_file::read_text(&path, FILE_BYTES_MAX) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Lock {
                    path,
                    directory,
                    pins: BTreeMap::new(),
                });
            }
            read => read.map_err(|source| Error::File {
                path: path.clone(),
                source,
            })?,
        };
        let document: Document = toml::from_str(&text).map_err(|e| wrong(e.to_string()))?;
        if document.version != VERSION {
            return Err(wrong(format!(
                "its version is {}, this r1ctl knows {VERSION}",
                document.version
            )));
        }
        let pins = document
            .plugin
            .into_iter()
            .map(|entry| (absolute_plugin(&directory, &entry.plugin), entry.sha256))
            .collect();
        Ok(Lock {
            path,
            directory,
            pins,
        })
    }

    /// The pins for a submission.
    pub(crate) fn pins(&self, mode: Mode) -> BTreeMap<String, String> {
        if mode == Mode::Update {
            BTreeMap::new()
        } else {
            self.pins.clone()
        }
    }

    /// Plugins of the job that have no pin in the file.
    pub(crate) fn missing<'a>(&self, plugins: impl IntoIterator<Item = &'a String>) -> Vec<String> {
        plugins
            .into_iter()
            .filter(|plugin| !self.pins.contains_key(*plugin))
            .cloned()
            .collect()
    }

    /// Records the components that judge the job; returns whether the file was written.
    pub(crate) fn take(&mut self, plugins: &BTreeMap<String, String>) -> Result<bool, Error> {
        let before = self.pins.clone();
        self.pins.extend(plugins.clone());
        if self.pins == before {
            return Ok(false);
        }
        let entry = |(plugin, sha256): (&String, &String)| Entry {
            plugin: self.relative(plugin),
            sha256: sha256.clone(),
        };
        let document = Document {
            version: VERSION,
            plugin: self.pins.iter().map(entry).collect(),
        };
        let text = toml::to_string(&document).map_err(|e| Error::Lock {
            path: self.path.clone(),
            why: e.to_string(),
        })?;
        let written = replace(&Disk, &self.path, FILE_MODE, |file| {
            file.write_all(HEAD.as_bytes())?;
            file.write_all(text.as_bytes())
        });
        written.map_err(|source| Error::File {
            path: self.path.clone(),
            source,
        })?;
        Ok(true)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn relative(&self, plugin: &str) -> String {
        Path::new(plugin).strip_prefix(&self.directory).map_or_else(
            |_| plugin.to_owned(),
            |below| format!("./{}", below.display()),
        )
    }
}

/// The plugin as the daemon names it: `accuracy`, or an absolute path.
fn absolute_plugin(directory: &Path, plugin: &str) -> String {
    match plugin.strip_prefix("./") {
        Some(below) => directory.join(below).display().to_string(),
        None => plugin.to_owned(),
    }
}
