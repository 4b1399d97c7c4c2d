//! `r1d plugin`: what a plugin's author needs of the reward host, without a daemon.

use r1d_data::DataError;
use r1d_data::storage::write_atomically;
use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum PluginError {
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    Module { path: PathBuf, source: r1d_rewards::ComponentizeError },
    #[error(transparent)]
    Write(#[from] DataError),
}

/// Makes a component of a core module; a daemon that loads it meanwhile sees the old file or the new one.
pub fn componentize(module: &Path, component: &Path) -> Result<(), PluginError> {
    let bytes = std::fs::read(module).map_err(|source| PluginError::Read { path: module.into(), source })?;
    let made = r1d_rewards::componentize(&bytes).map_err(|source| PluginError::Module { path: module.into(), source })?;
    Ok(write_atomically(component, |file| file.write_all(&made))?)
}
