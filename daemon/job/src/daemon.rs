//! `r1d.toml`, the daemon's configuration.

use crate::error::JobError;
use crate::fields::{Fields, absolute};
use crate::{check, keys};
use std::path::{Path, PathBuf};

/// The text of `configs/dev.toml`.
pub const DEV_TOML: &str = include_str!("../../../configs/dev.toml");

/// The daemon's settings, with every default filled in and every path absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DaemonConfig {
    /// Name of this node in `r1ctl nodes`. `None`: the host's name.
    pub node_name: Option<String>,
    /// Directory of the ledger, the jobs and everything that a job leaves. `None`: `--state-dir`,
    /// `R1D_STATE_DIR` or the user's state directory decides.
    pub state_dir: Option<PathBuf>,
    /// Devices to run jobs on, one worker each.
    pub devices: Devices,
    /// Unix socket that `r1ctl` connects to. `None`: `<state_dir>/r1d.sock`.
    pub socket: Option<PathBuf>,
    /// Directory of libtorch's libraries for workers. `None`: the one that the worker was linked
    /// against.
    pub torch_lib: Option<PathBuf>,
    /// CPU threads of a CPU worker; 0: all cores.
    pub torch_threads: u32,
    /// Whether MKL uses its Intel kernels on other processors too.
    pub mkl_intel_kernels: bool,
    /// Directories of plugins, searched in order after `<directory of the r1d executable>/plugins`.
    pub plugin_dirs: Vec<PathBuf>,
    /// Threads that score completions; 0: half of the cores.
    pub reward_threads: u32,
    /// Ed25519 public keys, hex. Empty: plugins need no signature.
    pub trusted_keys: Vec<String>,
    /// Filter of the log: a level, or directives per module as in `r1d=debug,wasmtime=warn`.
    pub log_level: String,
    /// Form of the log's lines on standard error.
    pub log_format: LogFormat,
}

/// Devices that the daemon runs jobs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Every CUDA device; the CPU where there is none.
    Auto,
    /// The devices by name: `cpu`, `cuda:0`, … At least one, each once.
    Listed(Vec<String>),
}

/// Form of the daemon's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

impl DaemonConfig {
    /// Reads `r1d.toml`. Relative paths resolve against `base_dir`, the file's own directory.
    pub fn parse(text: &str, base_dir: &Path) -> Result<DaemonConfig, JobError> {
        let document = check::Document::parse(text)?;
        let table = check::resolve(&document, keys::DAEMON)?;
        let root = Fields::new(&table, "the top level");
        let node = root.table("node", "[node]")?;
        let torch = root.table("torch", "[torch]")?;
        let rewards = root.table("rewards", "[rewards]")?;
        let log = root.table("log", "[log]")?;
        let format = if log.get::<String>("format")? == "json" {
            LogFormat::Json
        } else {
            LogFormat::Text
        };
        Ok(DaemonConfig {
            node_name: node.optional("name")?,
            state_dir: node.path("state_dir", base_dir)?,
            devices: Devices::read(&node)?,
            socket: root.table("listen", "[listen]")?.path("socket", base_dir)?,
            torch_lib: torch.path("lib", base_dir)?,
            torch_threads: torch.get("threads")?,
            mkl_intel_kernels: torch.get("mkl_intel_kernels")?,
            plugin_dirs: rewards
                .get::<Vec<String>>("plugin_dirs")?
                .iter()
                .map(|dir| absolute(dir, base_dir))
                .collect(),
            reward_threads: rewards.get("threads")?,
            trusted_keys: trusted_keys(&rewards)?,
            log_level: log_level(&log)?,
            log_format: format,
        })
    }

    /// Reads [`DEV_TOML`], which `r1d dev` runs with.
    pub fn dev() -> Result<DaemonConfig, JobError> {
        DaemonConfig::parse(DEV_TOML, Path::new("/"))
    }
}

/// Levels, which are a filter without a module's name.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Reads `level`. An unknown word is an error: the filter would take it for the name of a module,
/// so a mistyped level would turn the log off.
fn log_level(log: &Fields<'_>) -> Result<String, JobError> {
    let filter: String = log.get("level")?;
    let is_sound = |part: &str| {
        part.contains(['=', '[', ':'])
            || LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part))
    };
    match filter
        .split(',')
        .map(str::trim)
        .find(|part| !is_sound(part))
    {
        Some(bad) => Err(log.unsound(
            format!("`level` has {bad:?}, which is no level"),
            "write \"info\" (or error, warn, debug, trace), or a level per module as in \
             \"info,r1d_rewards=debug\"",
        )),
        None => Ok(filter),
    }
}

fn trusted_keys(rewards: &Fields<'_>) -> Result<Vec<String>, JobError> {
    let keys: Vec<String> = rewards.get("trusted_keys")?;
    let is_key = |key: &String| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
    match keys.iter().find(|key| !is_key(key)) {
        Some(bad) => Err(rewards.unsound(
            format!("`trusted_keys` has {bad:?}, which is no key"),
            "write the 64 hex digits that `r1ctl plugin keygen` prints",
        )),
        None => Ok(keys),
    }
}

impl Devices {
    fn read(node: &Fields<'_>) -> Result<Devices, JobError> {
        let Ok(listed) = node.get::<Vec<String>>("devices") else {
            return Ok(Devices::Auto);
        };
        let is_device = |text: &String| {
            text == "cpu"
                || text
                    .strip_prefix("cuda:")
                    .is_some_and(|n| n.parse::<u8>().is_ok())
        };
        if let Some(other) = listed.iter().find(|text| !is_device(text)) {
            return Err(node.unsound(
                format!("`devices` names {other:?}, which is no device"),
                "write \"cpu\" or \"cuda:0\"",
            ));
        }
        if listed.is_empty() {
            return Err(node.unsound(
                "`devices` is empty: no job could run",
                "write \"auto\", or name a device",
            ));
        }
        if listed
            .iter()
            .enumerate()
            .any(|(i, device)| listed.iter().take(i).any(|other| other == device))
        {
            return Err(node.unsound(
                "`devices` names a device twice",
                "name each once: a device has one worker",
            ));
        }
        Ok(Devices::Listed(listed))
    }
}
