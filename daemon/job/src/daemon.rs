//! `r1d.toml`, the daemon's configuration.

use crate::error::JobError;
use crate::file::check;
use crate::file::document::Document;
use crate::file::setting::{by_words, read_by_serde, write_by_serde, written};
use crate::file::{Fields, Kind, Read, Setting, Tabled};
use crate::job::Job;
use r1d_job_macros::{Keys, Read, Write};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use toml::Value;

/// The text of `configs/dev.toml`.
pub const DEV_TOML: &str = include_str!("../../../configs/dev.toml");

/// The daemon's configuration.
///
/// Every default is filled in, and every path absolute.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(path = "")]
pub struct DaemonConfig {
    /// This machine.
    pub node: Node,
    /// Addresses of the daemon.
    #[key(meaning = "Where the daemon is reached.")]
    pub listen: Listen,
    /// What workers compute with.
    pub torch: Torch,
    /// The reward plugins' host.
    pub rewards: RewardHost,
    /// What goes of jobs that have ended.
    pub retention: Retention,
    /// Other nodes.
    #[key(
        takes = Later("a daemon runs a single machine; leave the table out"),
        unset = "a single machine"
    )]
    pub cluster: (),
    /// The daemon's log, on standard error.
    pub log: Log,
}

/// This machine.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(path = "node")]
pub struct Node {
    /// What `r1ctl nodes` calls it.
    #[key(takes = Name, unset = "the host's name")]
    pub name: Option<String>,
    /// Where jobs, the ledger and everything that a job leaves are kept. One daemon per state
    /// directory.
    #[key(unset = "--state-dir, R1D_STATE_DIR, else the user's state directory")]
    pub state_dir: Option<PathBuf>,
    /// Devices to run jobs on, one worker each: "auto" takes every CUDA device, or the CPU where
    /// there is none; else a list of "cuda:N" and "cpu". Several times "cpu" are as many devices,
    /// cpu:0, cpu:1, …, which share the cores.
    #[key(default = "auto")]
    pub devices: Devices,
}

/// Addresses of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(path = "listen", meaning = "Where the daemon is reached.")]
pub struct Listen {
    /// Unix socket of r1ctl; its owner and group decide who may.
    #[key(unset = "r1d.sock in the state directory")]
    pub socket: Option<PathBuf>,
    /// Its members may change and look into everybody's jobs, as root and the daemon's own user
    /// may; everybody else only their own.
    #[key(takes = Name, default = "r1d-admin")]
    pub admin_group: String,
    /// Other nodes and remote r1ctl.
    #[key(
        takes = Later("only r1ctl on this machine reaches the daemon, through `socket`"),
        unset = "no network"
    )]
    pub quic: (),
    /// Metrics and dashboard.
    #[key(
        takes = Later("`r1ctl status -o json` has the same numbers"),
        unset = "no HTTP"
    )]
    pub http: (),
}

/// What workers compute with.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(path = "torch")]
pub struct Torch {
    /// The directory of libtorch 2.11.0's libraries.
    #[key(unset = "where r1d-worker was linked to find it")]
    pub lib: Option<PathBuf>,
    /// Threads of a CPU worker.
    #[key(
        meaning = "Of a CPU worker; 0: all cores, shared by the CPU devices.",
        takes = integer(0, 4096),
        default = 0,
        unit = "threads"
    )]
    pub threads: u32,
    /// Let MKL use its Intel kernels on other processors that have AVX-512: float32 products
    /// somewhat faster on AMD, and rounded as on Intel's. A switch that Intel does not document.
    #[key(default = true)]
    pub mkl_intel_kernels: bool,
    /// Decode and train by r1d's own CUDA kernels where there are some for model and GPU; false: by
    /// libtorch's operations, slower. The log says why they are not used.
    #[key(default = true)]
    pub own_kernels: bool,
}

/// The reward plugins' host.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(path = "rewards", check = check)]
pub struct RewardHost {
    /// Looked through in order for NAME.wasm, after the directory `plugins` beside the r1d
    /// executable.
    #[key(default = ["/usr/lib/r1d/plugins", "/etc/r1d/plugins"])]
    pub plugin_dirs: Vec<PathBuf>,
    /// Threads that score completions.
    #[key(
        meaning = "That score completions; 0: half of the cores, at least one.",
        takes = integer(0, 4096),
        default = 0,
        unit = "threads"
    )]
    pub threads: u32,
    /// Ed25519 public keys, 64 hex digits each, as `r1ctl plugin keygen` prints them. When there is
    /// one, a plugin must bear a signature of one of them.
    #[key(default = [])]
    pub trusted_keys: Vec<String>,
}

/// What goes of jobs that have ended.
///
/// Without a limit nothing goes by itself. A job that another one needs stays.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(
    path = "retention",
    check = check,
    meaning = "Which ended jobs the daemon removes by itself: none, unless a limit is set here. \
               A job that another one needs stays."
)]
pub struct Retention {
    /// Days after its end from which on a job goes.
    #[key(
        meaning = "Jobs are removed this many days after they end; 0: never. Where the clock is \
                   more than a day ahead of what is on record, that counts once the daemon has \
                   been up for a day.",
        takes = integer(0, 36_500),
        default = 0,
        unit = "days"
    )]
    pub older_than_days: u32,
    /// Most jobs that have ended; of more, the oldest go.
    #[key(
        meaning = "At most this many ended jobs are kept; the oldest go first. 0: no limit.",
        takes = integer(0, 1_000_000),
        default = 0,
        unit = "jobs"
    )]
    pub jobs_max: u32,
    /// Most disk that jobs take which have ended, in 10⁹ bytes; of more, the oldest jobs go.
    #[key(
        meaning = "Ended jobs may take this much disk (10⁹ bytes); the oldest go first. 0: no \
                   limit.",
        takes = integer(0, 1_000_000_000),
        default = 0,
        unit = "GB"
    )]
    pub size_max_gb: u32,
    /// The final model, the data sets, the metrics and the log of a job that succeeded stay;
    /// checkpoints, rollouts and journal go.
    #[key(default = true)]
    pub keep_final: bool,
    /// Jobs that ended so stay whole: "succeeded", "failed", "cancelled".
    #[key(default = [])]
    pub spare: Vec<String>,
}

/// The daemon's log, on standard error.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(path = "log", check = check)]
pub struct Log {
    /// Least severe level that is logged: error, warn, info, debug or trace.
    ///
    /// Other forms are directives per module.
    #[key(
        meaning = "error, warn, info, debug or trace; or directives per module, as in \
                   r1d=debug,wasmtime=warn.",
        default = "info"
    )]
    pub level: String,
    /// Lines for people, or one JSON object per line.
    #[key(default = "text")]
    pub format: LogFormat,
}

/// Devices that the daemon runs jobs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Devices {
    /// Every CUDA device; the CPU where there is none.
    Auto,
    /// The devices as they are listed: `cpu`, `cuda:0`, … At least one; only `cpu` several times.
    Listed(Vec<String>),
}

/// CPU devices that a daemon may have: each has workers of its own.
pub const CPU_DEVICES_MAX: usize = 64;

/// A list of devices that a daemon cannot have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicesError {
    /// What is wrong with the list.
    pub problem: String,
    /// What to write instead.
    pub fix: &'static str,
}

impl Devices {
    /// The devices of a list.
    pub fn listed(listed: Vec<String>) -> Result<Devices, DevicesError> {
        let wrong = |problem: String, fix| Err(DevicesError { problem, fix });
        let is_device = |text: &String| {
            let gpu = text.strip_prefix("cuda:");
            text == CPU || gpu.is_some_and(|n| n.parse::<u8>().is_ok())
        };
        if let Some(other) = listed.iter().find(|text| !is_device(text)) {
            return wrong(
                format!("`devices` names {other:?}, which is no device"),
                "write \"cuda:0\", or \"cpu\" once for each CPU device",
            );
        }
        if listed.is_empty() {
            let problem = "`devices` is empty: no job could run";
            return wrong(problem.into(), "write \"auto\", or name a device");
        }
        let mut seen = std::collections::HashSet::new();
        let mut gpus = listed.iter().filter(|device| *device != CPU);
        if let Some(double) = gpus.find(|device| !seen.insert(device.as_str())) {
            return wrong(
                format!("`devices` names {double:?} twice"),
                "name each GPU once: it has one worker",
            );
        }
        let cpus = listed.iter().filter(|device| *device == CPU).count();
        if cpus > CPU_DEVICES_MAX {
            return wrong(
                format!("`devices` has {cpus} CPU devices, more than {CPU_DEVICES_MAX}"),
                "name \"cpu\" less often: CPU devices share the cores",
            );
        }
        Ok(Devices::Listed(listed))
    }
}

/// The CPU's name in a list of devices, and as a device where it is one alone.
const CPU: &str = "cpu";

/// Whether a device is the CPU (`cpu`), or one of several that share it (`cpu:0`, `cpu:1`, …).
pub fn is_cpu(device: &str) -> bool {
    device.split(':').next() == Some(CPU)
}

/// The names of listed devices: CPU devices are numbered where there are several.
pub fn names(listed: &[String]) -> Vec<String> {
    let cpus = listed.iter().filter(|device| *device == CPU).count();
    let mut number = 0;
    let name = |device: &String| {
        if device != CPU || cpus < 2 {
            return device.clone();
        }
        number += 1;
        format!("{CPU}:{}", number - 1)
    };
    listed.iter().map(name).collect()
}

/// Form of the daemon's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

by_words!(LogFormat);

impl DaemonConfig {
    /// Reads `r1d.toml`. Relative paths resolve against `base_dir`, the file's own directory.
    pub fn parse(text: &str, base_dir: &Path) -> Result<DaemonConfig, JobError> {
        let own = DaemonConfig::table();
        let table = check::resolve(&Document::parse(text)?, own, &[Job::table(), own])?;
        DaemonConfig::read(&Fields::root(&table, base_dir))
    }

    /// Reads [`DEV_TOML`], which `r1d dev` runs with.
    pub fn dev() -> Result<DaemonConfig, JobError> {
        DaemonConfig::parse(DEV_TOML, Path::new("/"))
    }

    /// Writes the `r1d.toml` that parses to this configuration: every default filled in, tables and
    /// keys sorted by name.
    pub fn to_toml(&self) -> String {
        written(self).to_string()
    }
}

/// Levels, which are a filter without a module's name.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl Log {
    /// Refuses an unknown word as a level: the filter would take it for the name of a module, so a
    /// mistyped level would turn the log off.
    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        let is_sound = |part: &str| {
            part.contains(['=', '[', ':'])
                || LEVELS.iter().any(|level| level.eq_ignore_ascii_case(part))
        };
        let mut parts = self.level.split(',').map(str::trim);
        match parts.find(|part| !is_sound(part)) {
            Some(bad) => Err(from.unsound(
                format!("`level` has {bad:?}, which is no level"),
                "write \"info\" (or error, warn, debug, trace), or a level per module as in \
                 \"info,r1d_rewards=debug\"",
            )),
            None => Ok(()),
        }
    }
}

impl Retention {
    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        let is_end = |word: &&String| ["succeeded", "failed", "cancelled"].contains(&word.as_str());
        match self.spare.iter().find(|word| !is_end(word)) {
            Some(bad) => Err(from.unsound(
                format!("`spare` has {bad:?}, which is no end of a job"),
                "write \"succeeded\", \"failed\" or \"cancelled\"",
            )),
            None => Ok(()),
        }
    }
}

impl RewardHost {
    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        let is_key =
            |key: &&String| key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit());
        match self.trusted_keys.iter().find(|key| !is_key(key)) {
            Some(bad) => Err(from.unsound(
                format!("`trusted_keys` has {bad:?}, which is no key"),
                "write the 64 hex digits that `r1ctl plugin keygen` prints",
            )),
            None => Ok(()),
        }
    }
}

impl Setting for Devices {
    fn kind() -> Kind {
        Kind::AutoOrTexts
    }

    fn from_value(value: &Value, from: &Fields<'_>, key: &str) -> Result<Devices, JobError> {
        if value.as_str() == Some("auto") {
            return Ok(Devices::Auto);
        }
        let listed: Vec<String> = read_by_serde(value, from, key)?;
        Devices::listed(listed).map_err(|error| from.unsound(error.problem, error.fix))
    }

    fn to_value(&self) -> Option<Value> {
        match self {
            Devices::Auto => Some("auto".into()),
            Devices::Listed(devices) => write_by_serde(devices),
        }
    }
}
