//! Errors of loading a plugin, judging with it, and making a component.

use crate::world::World;
use r1d_proto::remedy::to_mend;
use std::path::PathBuf;

/// The reason why a plugin or its setting is refused before it judges anything.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    /// No plugin directory has a plugin of this name. Write one of `known`, or a path, or add its
    /// directory to `plugin_dirs`.
    #[error(
        "no plugin `{name}`: looked for {name}.wasm in {dirs} (`[rewards] plugin_dirs` in \
         r1d.toml says where); known: {known}"
    )]
    NotFound {
        /// The name that the job gives.
        name: String,
        /// The directories that were searched.
        dirs: String,
        /// The plugins that are in them.
        known: String,
    },
    /// The plugin's file cannot be read.
    #[error("plugin {path}: cannot be read: {cause}")]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: std::io::Error,
    },
    /// The file is larger than [`FILE_BYTES_MAX`](crate::FILE_BYTES_MAX).
    #[error("plugin {path}: larger than the limit of {limit} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Bytes that are allowed.
        limit: u64,
    },
    /// The file has another hash than the job pins: it was changed, or another is found under its
    /// name.
    #[error(
        "plugin {path}: sha256 is {found}, the job pins {pinned}: use the pinned file, or, if the \
         new one is meant, change `sha256` in the job (`r1ctl submit --update-lock` where r1.lock \
         pins it)"
    )]
    Pin {
        /// The file.
        path: PathBuf,
        /// SHA-256 of the file, hex.
        found: String,
        /// SHA-256 in the job.
        pinned: String,
    },
    /// The pin in the job is no SHA-256.
    #[error("plugin {path}: `sha256 = \"{pinned}\"` is not 64 hex digits")]
    BadPin {
        /// The file.
        path: PathBuf,
        /// The pin in the job.
        pinned: String,
    },
    /// The daemon trusts only some keys, and none of them has signed the component.
    #[error(
        "plugin {path}: no signature of a key that this daemon trusts is in {path}.sig: sign it \
         with `r1ctl plugin sign`, or add the key to `trusted_keys` of r1d.toml"
    )]
    Unsigned {
        /// The file.
        path: PathBuf,
    },
    /// The file is a core module, as a compiler makes it; `r1ctl plugin build` makes a component of
    /// it.
    #[error(
        "plugin {path}: a core WASM module, not a component: make one of it with `r1ctl plugin \
         build {path}`"
    )]
    CoreModule {
        /// The file.
        path: PathBuf,
    },
    /// The file is neither a component nor a core module.
    #[error("plugin {path}: not a WASM component: {why}")]
    NotComponent {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        why: String,
    },
    /// The component does not compile, or the compiler met its limits of memory or time.
    #[error("plugin {path}: does not compile: {why}")]
    Compile {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The machine kept the plugin from being compiled or loaded: processes were lost, or it is out
    /// of something. Another try may succeed.
    #[error("plugin {path}: not loaded yet: {why}")]
    Lost {
        /// The file.
        path: PathBuf,
        /// What the machine did, and what to do.
        why: String,
    },
    /// The component imports functions. Build it for a target without WASI.
    #[error(
        "plugin {path}: imports {imports}: a reward may import nothing (no WASI, no host functions)"
    )]
    Imports {
        /// The file.
        path: PathBuf,
        /// Names of the imports.
        imports: String,
    },
    /// The component lacks functions of the reward worlds, or has them with other types.
    #[error("plugin {path}: not a reward of package r1d:reward@1.0.0: {why}")]
    NotReward {
        /// The file.
        path: PathBuf,
        /// The missing functions, or the type that differs.
        why: String,
    },
    /// `describe` ends in a fault, or what it returns is not usable.
    #[error("plugin {path}: describe failed: {why}")]
    Describe {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The plugin does not accept its configuration, or ends in a fault while it is tried.
    #[error(
        "plugin {path}: refuses its config {}: {why}",
        r1d_proto::shown::quote(config)
    )]
    Config {
        /// The file.
        path: PathBuf,
        /// The configuration, in JSON.
        config: String,
        /// The reason that the plugin gives, or the fault.
        why: String,
    },
    /// The daemon cannot write its own copy of the plugin.
    #[error("plugin {path}: no copy of it can be kept as {kept}: {cause}")]
    Keep {
        /// The plugin's file.
        path: PathBuf,
        /// The copy's path.
        kept: PathBuf,
        /// The system's error.
        #[source]
        cause: std::io::Error,
    },
    /// The daemon's copy does not have the pinned hash, and neither has the file that the job
    /// names.
    #[error(
        "plugin {kept}, the daemon's copy, is damaged ({damage}), and the plugin that the job \
         names cannot take its place ({named}): put a file with sha256 {pinned} in either's \
         place; or, for another to judge, remove the copy and submit the job again"
    )]
    Damaged {
        /// The copy's path.
        kept: PathBuf,
        /// What is wrong with the copy.
        damage: String,
        /// What is wrong with the file that the job names.
        named: String,
        /// SHA-256 in the job.
        pinned: String,
    },
    /// The golden cases cannot be read or judged, or take too long.
    #[error("plugin {path}: golden cases: {why}")]
    Golden {
        /// The file.
        path: PathBuf,
        /// The reason.
        why: String,
    },
    /// The load was abandoned by its caller.
    #[error("nobody waits for this plugin any more")]
    Abandoned,
    /// A limit of the reward is out of range.
    #[error("reward limit `{key}` = {value}: {why}")]
    Limit {
        /// Name of the limit, as in a job file.
        key: &'static str,
        /// The value in the job.
        value: u64,
        /// The values that are allowed, or why this one is not.
        why: String,
    },
    /// wasmtime's engine or a thread of the host cannot start, or there are too many threads: the
    /// text is the reason.
    #[error("the reward engine cannot start: {0}")]
    Engine(String),
    /// The directory or the key of the code cache cannot be opened.
    #[error("code cache {path}: {cause}{}", to_mend(cause))]
    Cache {
        /// The directory or the key file.
        path: PathBuf,
        /// The system's error.
        #[source]
        cause: std::io::Error,
    },
}

impl RewardError {
    /// Describes what is wrong with a plugin's file, without what to do about it.
    pub(crate) fn fault(&self) -> String {
        match self {
            RewardError::Pin { path, found, .. } => {
                format!("the sha256 of {} is {found}", path.display())
            }
            other => other.to_string(),
        }
    }
}

/// The reason why there is no verdict. It lies with the host, the caller or a load, not with the
/// plugin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    /// The pool was dropped before the completion was judged.
    #[error("the scoring pool is closed")]
    Closed,
    /// wasmtime or the host's own code failed; the text is the reason.
    #[error("the reward host failed: {0}")]
    Host(String),
    /// The plugin is on trial, and its load was abandoned by the caller.
    #[error("nobody waits for this plugin any more")]
    Abandoned,
    /// The plugin was called with a method for another world than it exports.
    #[error("plugin {plugin} is of the world `{world}`: it cannot judge {what}")]
    World {
        /// Name of the plugin.
        plugin: String,
        /// The world that it exports.
        world: World,
        /// What it was to judge.
        what: &'static str,
    },
}

/// The reason why a core module cannot be made a component, or cases cannot be embedded.
#[derive(Debug, thiserror::Error)]
pub enum ComponentizeError {
    /// The file already is a component and can be used as it is.
    #[error("already a component")]
    AlreadyComponent,
    /// The file is no valid core module; the text is the reason.
    #[error("not a core WASM module: {0}")]
    NotModule(String),
    /// The module does not export a reward.
    #[error(
        "holds no r1d:reward world: build a cdylib that calls `reward_sdk::export!`, for \
         wasm32-unknown-unknown"
    )]
    NoWorld,
    /// The golden cases do not parse or are too large; the text is the reason.
    #[error("golden cases: {0}")]
    Golden(String),
    /// The module cannot be encoded as a component; the text is the reason.
    #[error("cannot be made a component: {0}")]
    Encode(String),
}
