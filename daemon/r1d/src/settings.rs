//! The settings of one daemon: its configuration file, flags and environment, resolved once at the
//! start.

use crate::cli::Locations;
use r1d_job::DaemonConfig;
use r1d_job::daemon::Devices;
use r1d_proto::user_file;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A directory beside the executable: `make` puts plugins there.
pub(crate) const PLUGINS_DIRECTORY: &str = "plugins";
const WORKER: &str = "r1d-worker";
/// A larger file is not a configuration file.
const CONFIG_MAX_BYTES: u64 = 1 << 20;
/// The configuration of the daemon that systemd starts.
const SYSTEM_CONFIG: &str = "/etc/r1d/r1d.toml";

#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub config: DaemonConfig,
    pub node_name: String,
    pub state_dir: PathBuf,
    pub socket: PathBuf,
    pub worker: PathBuf,
    pub worker_silence: Duration,
    pub plugin_dirs: Vec<PathBuf>,
    /// Whether `r1ctl shutdown` is allowed: systemd stops a service by signal.
    pub may_be_shut_down: bool,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {source}", path.display())]
    Config {
        path: PathBuf,
        source: r1d_job::JobError,
    },
    #[error("--devices: {problem}: {fix}")]
    Devices { problem: String, fix: &'static str },
    #[error("embedded configuration: {0}")]
    Embedded(r1d_job::JobError),
    #[error("no state directory: set --state-dir, R1D_STATE_DIR, XDG_STATE_HOME or HOME")]
    NoStateDirectory,
    #[error("cannot find the directory of the running executable: {0}")]
    Executable(std::io::Error),
}

/// The source of the configuration.
pub(crate) enum Source<'a> {
    File(&'a Path),
    /// The embedded one, with these devices if they are given.
    Embedded {
        devices: Option<Vec<String>>,
    },
}

fn embedded(devices: Option<Vec<String>>) -> Result<DaemonConfig, SettingsError> {
    let mut config = DaemonConfig::dev().map_err(SettingsError::Embedded)?;
    if let Some(listed) = devices {
        config.node.devices = Devices::listed(listed).map_err(|error| SettingsError::Devices {
            problem: error.problem,
            fix: error.fix,
        })?;
    }
    Ok(config)
}

/// Reads `r1d.toml`.
pub(crate) fn read_config(path: &Path) -> Result<DaemonConfig, SettingsError> {
    let text =
        user_file::read_text(path, CONFIG_MAX_BYTES).map_err(|source| SettingsError::Read {
            path: path.into(),
            source,
        })?;
    let absolute = std::path::absolute(path).map_err(|source| SettingsError::Read {
        path: path.into(),
        source,
    })?;
    let base = absolute.parent().unwrap_or(Path::new("/"));
    DaemonConfig::parse(&text, base).map_err(|source| SettingsError::Config {
        path: path.into(),
        source,
    })
}

impl Settings {
    /// Resolves the settings.
    pub(crate) fn resolve(source: Source<'_>, place: Locations) -> Result<Settings, SettingsError> {
        let may_be_shut_down = matches!(source, Source::Embedded { .. });
        let config = match source {
            Source::File(path) => read_config(path)?,
            Source::Embedded { devices } => embedded(devices)?,
        };
        let state_dir = place
            .state_dir
            .or_else(|| config.node.state_dir.clone())
            .or_else(home_state)
            .ok_or(SettingsError::NoStateDirectory)?;
        let state_dir = std::path::absolute(&state_dir).map_err(|source| SettingsError::Read {
            path: state_dir.clone(),
            source,
        })?;
        let executable = std::env::current_exe().map_err(SettingsError::Executable)?;
        let beside = executable.parent().unwrap_or(Path::new("/")).to_path_buf();
        let hostname = || {
            rustix::system::uname()
                .nodename()
                .to_string_lossy()
                .into_owned()
        };
        Ok(Settings {
            node_name: config.node.name.clone().unwrap_or_else(hostname),
            socket: place
                .socket
                .or_else(|| config.listen.socket.clone())
                .unwrap_or_else(|| state_dir.join("r1d.sock")),
            worker: place.worker.unwrap_or_else(|| beside.join(WORKER)),
            worker_silence: Duration::from_secs(place.worker_silence),
            plugin_dirs: std::iter::once(beside.join(PLUGINS_DIRECTORY))
                .chain(config.rewards.plugin_dirs.clone())
                .collect(),
            may_be_shut_down,
            state_dir,
            config,
        })
    }
}

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
}

/// The directories in which the system's daemon looks for plugins; for tools that have no daemon.
pub(crate) fn system_plugin_dirs() -> Vec<PathBuf> {
    read_config(Path::new(SYSTEM_CONFIG)).map_or(Vec::new(), |config| config.rewards.plugin_dirs)
}

/// The user's cache for compiled code of tools; a daemon's is in its state directory.
pub(crate) fn home_cache() -> Option<PathBuf> {
    let dir = set("XDG_CACHE_HOME").or_else(|| set("HOME").map(|dir| dir.join(".cache")));
    dir.map(|dir| dir.join("r1d/reward-code"))
}

fn home_state() -> Option<PathBuf> {
    set("XDG_STATE_HOME")
        .map(|dir| dir.join("r1d"))
        .or_else(|| set("HOME").map(|dir| dir.join(".local/state/r1d")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A printed configuration can be read again and means the same.
    #[test]
    fn a_dumped_configuration_reads_back() {
        let text = "[node]\nname = \"n\"\ndevices = [\"cpu\"]\nstate_dir = \
                    \"/s\"\n[listen]\nsocket = \"/r/r1d.sock\"\n[log]\nformat = \"json\"\n";
        for config in [
            DaemonConfig::dev().unwrap(),
            DaemonConfig::parse(text, Path::new("/")).unwrap(),
        ] {
            assert_eq!(
                DaemonConfig::parse(&config.to_toml(), Path::new("/")).unwrap(),
                config
            );
        }
    }
}
