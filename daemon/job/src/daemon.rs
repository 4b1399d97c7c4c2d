//! `r1d.toml`, the daemon's configuration.

use crate::error::JobError;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// `None`: the host's name.
    pub node_name: Option<String>,
    /// `None`: what `--state-dir`, `R1D_STATE_DIR` or the user's state directory say.
    pub state_dir: Option<PathBuf>,
    pub devices: Devices,
    /// `None`: `<state_dir>/r1d.sock`.
    pub socket: Option<PathBuf>,
    /// Where libtorch is, for workers; `None`: where the worker was linked against.
    pub torch_lib: Option<PathBuf>,
    /// CPU threads of a CPU worker; 0: all cores.
    pub torch_threads: u32,
    /// Looked through in order, after `<directory of the r1d executable>/plugins`.
    pub plugin_dirs: Vec<PathBuf>,
    /// 0: half of the cores.
    pub reward_threads: u32,
    pub log_level: String,
    pub log_format: LogFormat,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Every CUDA device; the CPU where there is none.
    Auto,
    /// `cpu`, `cuda:0`, …
    Listed(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl DaemonConfig {
    /// Reads `r1d.toml`. Relative paths resolve against `base_dir`, the file's own directory.
    pub fn parse(text: &str, base_dir: &Path) -> Result<DaemonConfig, JobError> {
        let _ = (text, base_dir);
        todo!()
    }

    /// What `r1d dev` runs with: `configs/dev.toml`, embedded.
    pub fn dev() -> DaemonConfig {
        todo!()
    }
}
