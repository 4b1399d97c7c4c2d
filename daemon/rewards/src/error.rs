//! Why a plugin is refused, or a score could not be had.

use crate::world::World;
use std::path::PathBuf;

/// A plugin or its setting is refused before it judges anything.
#[derive(Debug, thiserror::Error)]
pub enum RewardError {
    #[error(
        "no plugin `{name}`: looked for {name}.wasm in {dirs} (`[rewards] plugin_dirs` in \
         r1d.toml says where); known: {known}"
    )]
    NotFound {
        name: String,
        dirs: String,
        known: String,
    },
    #[error("plugin {path}: cannot be read: {cause}")]
    Read {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("plugin {path}: larger than the limit of {limit} bytes")]
    TooLarge { path: PathBuf, limit: u64 },
    #[error(
        "plugin {path}: sha256 is {found}, the job pins {pinned}: use the pinned file, or, if the \
         new one is meant, change `sha256` in the job (`r1ctl submit --update-lock` where r1.lock \
         pins it)"
    )]
    Pin {
        path: PathBuf,
        found: String,
        pinned: String,
    },
    #[error("plugin {path}: `sha256 = \"{pinned}\"` is not 64 hex digits")]
    BadPin { path: PathBuf, pinned: String },
    #[error(
        "plugin {path}: no signature of a key that this daemon trusts is in {path}.sig: sign it \
         with `r1ctl plugin sign`, or add the key to `trusted_keys` of r1d.toml"
    )]
    Unsigned { path: PathBuf },
    #[error(
        "plugin {path}: a core WASM module, not a component: make one of it with `r1ctl plugin \
         build {path}`"
    )]
    CoreModule { path: PathBuf },
    #[error("plugin {path}: not a WASM component: {why}")]
    NotComponent { path: PathBuf, why: String },
    #[error("plugin {path}: does not compile: {why}")]
    Compile { path: PathBuf, why: String },
    #[error(
        "plugin {path}: imports {imports}: a reward may import nothing (no WASI, no host functions)"
    )]
    Imports { path: PathBuf, imports: String },
    #[error("plugin {path}: not a reward of package r1d:reward@1.0.0: {why}")]
    NotReward { path: PathBuf, why: String },
    #[error("plugin {path}: describe failed: {why}")]
    Describe { path: PathBuf, why: String },
    #[error(
        "plugin {path}: refuses its config {}: {why}",
        r1d_proto::shown::quote(config)
    )]
    Config {
        path: PathBuf,
        config: String,
        why: String,
    },
    #[error("plugin {path}: no copy of it can be kept as {kept}: {cause}")]
    Keep {
        path: PathBuf,
        kept: PathBuf,
        cause: std::io::Error,
    },
    #[error(
        "plugin {kept}, the daemon's copy, is damaged ({damage}), and the plugin that the job \
         names cannot take its place ({named}): put a file with sha256 {pinned} in either's \
         place; or, for another to judge, remove the copy and submit the job again"
    )]
    Damaged {
        kept: PathBuf,
        damage: String,
        named: String,
        pinned: String,
    },
    #[error("plugin {path}: golden cases: {why}")]
    Golden { path: PathBuf, why: String },
    #[error("nobody waits for this plugin any more")]
    Abandoned,
    #[error("reward limit `{key}` = {value}: {why}")]
    Limit {
        key: &'static str,
        value: u64,
        why: String,
    },
    #[error("the reward engine cannot start: {0}")]
    Engine(String),
    #[error("code cache {path}: {cause}")]
    Cache {
        path: PathBuf,
        cause: std::io::Error,
    },
}

impl RewardError {
    /// What is the matter with a plugin's file, without what to do about it.
    pub(crate) fn fault(&self) -> String {
        match self {
            RewardError::Pin { path, found, .. } => {
                format!("the sha256 of {} is {found}", path.display())
            }
            other => other.to_string(),
        }
    }
}

/// The host, not the plugin, failed: there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScoreError {
    #[error("the scoring pool is closed")]
    Closed,
    #[error("the reward host failed: {0}")]
    Host(String),
    #[error("nobody waits for this plugin any more")]
    Abandoned,
    #[error("plugin {plugin} is of the world `{world}`: it cannot judge {what}")]
    World {
        plugin: String,
        world: World,
        what: &'static str,
    },
}

/// A core module cannot be made a component.
#[derive(Debug, thiserror::Error)]
pub enum ComponentizeError {
    #[error("already a component")]
    AlreadyComponent,
    #[error("not a core WASM module: {0}")]
    NotModule(String),
    #[error(
        "holds no r1d:reward world: build a cdylib that calls `reward_sdk::export!`, for \
         wasm32-unknown-unknown"
    )]
    NoWorld,
    #[error("golden cases: {0}")]
    Golden(String),
    #[error("cannot be made a component: {0}")]
    Encode(String),
}
