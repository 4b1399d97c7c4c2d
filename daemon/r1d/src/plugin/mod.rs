//! `r1d plugin`: the reward host without a daemon, for authors of plugins. They use it through
//! `r1ctl plugin`: this prints JSON, one [`r1d_proto::plugin`] document or a line for each
//! completion.
//!
//! | module | command |
//! |---|---|
//! | [`componentize`] | the last step of `plugin build` |
//! | [`score`], [`input`] | `score`: a verdict for each line of a file |
//! | [`test`] | `test`: golden cases |
//! | [`check`] | `check`: a daemon's requirements of a plugin, and the attack corpus |
//! | [`bench`] | `bench`: fuel and time |
//! | [`inspect`] | `inspect`, `list` |
//! | [`rescore`] | `rescore`: a run's completions under another plugin |
//! | [`sign`] | `keygen`, `sign` |

mod bench;
mod check;
mod componentize;
mod input;
mod inspect;
mod rescore;
mod score;
mod sign;
mod test;

use crate::cli::{COMPILE, Plugin};
use crate::settings;
use r1d_plugin_cli::{PluginDirs, Subject};
use r1d_proto::user_file;
use r1d_proto::world::{SharedClock, SystemClock};
use r1d_rewards::{
    Answers, Ask, Compiler, LoadedReward, Options, RewardError, RewardSpec, Rewards, ScoreError,
};
use r1d_store::StoreError;
use serde::Serialize;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Debug, thiserror::Error)]
pub(crate) enum PluginError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {source}", path.display())]
    Module {
        path: PathBuf,
        source: r1d_rewards::ComponentizeError,
    },
    #[error("{}, line {line}: {problem}", path.display())]
    Line {
        path: PathBuf,
        line: usize,
        problem: String,
    },
    #[error("{}: {source}", path.display())]
    File {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("--config: {0}")]
    Config(String),
    #[error(
        "{plugin} brings no golden cases: name a file with --golden, or build it with \
         golden.jsonl beside its Cargo.toml"
    )]
    NoGolden { plugin: String },
    #[error("{0}")]
    Run(String),
    #[error(transparent)]
    Reward(#[from] RewardError),
    #[error(transparent)]
    Score(#[from] ScoreError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot print: {0}")]
    Print(#[from] std::io::Error),
}

/// Runs a command. The exit code says whether the plugin passed; an error means that this cannot be
/// decided.
pub(crate) fn run(command: Plugin) -> Result<ExitCode, PluginError> {
    let ended = match command {
        Plugin::Componentize(args) => componentize::run(&args),
        Plugin::Score(args) => score::run(&args),
        Plugin::Test(args) => test::run(&args),
        Plugin::Check(subject) => check::run(&subject),
        Plugin::Bench(args) => bench::run(&args),
        Plugin::Inspect(args) => inspect::run(&args),
        Plugin::List(dirs) => inspect::list(&dirs),
        Plugin::Rescore { run, args } => rescore::run(&run, &args),
        Plugin::Keygen(args) => sign::keygen(&args.key),
        Plugin::Sign(args) => sign::sign(&args.file, &args.key),
    };
    match ended {
        Ok(passed) => Ok(if passed {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        }),
        // The reader has closed standard output, which is not a failure.
        Err(PluginError::Print(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => {
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error),
    }
}

/// The reward host with the settings of the plugin tools: a child process compiles code, which is
/// kept in the user's cache.
pub(crate) struct Host {
    pub rewards: Rewards,
    pub clock: SharedClock,
    pub threads: usize,
}

impl Host {
    pub(crate) fn open(dirs: &PluginDirs) -> Result<Host, PluginError> {
        let clock = SystemClock::shared();
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let program = std::env::current_exe()?;
        let beside = program
            .parent()
            .map(|dir| dir.join(settings::PLUGINS_DIRECTORY));
        let plugin_dirs = dirs
            .plugin_dir
            .iter()
            .cloned()
            .chain(beside)
            .chain(settings::system_plugin_dirs())
            .collect();
        let options = |cache_dir| Options {
            plugin_dirs,
            cache_dir,
            threads,
            compiler: Compiler::Child {
                program,
                args: vec![COMPILE.into()],
            },
            clock: clock.clone(),
        };
        // If the cache cannot be written to, each run compiles the plugin again.
        let cache = settings::home_cache().filter(|dir| std::fs::create_dir_all(dir).is_ok());
        Ok(Host {
            rewards: Rewards::open(options(cache))?,
            clock,
            threads,
        })
    }

    pub(crate) fn load(&self, subject: &Subject) -> Result<LoadedReward, PluginError> {
        Ok(self.rewards.load(&spec(subject)?)?)
    }

    pub(crate) fn load_unconfigured(&self, subject: &Subject) -> Result<LoadedReward, PluginError> {
        Ok(self.rewards.unconfigured(&spec(subject)?)?)
    }
}

/// Answers every question of a plugin, for commands to which any answer will do.
pub(crate) struct SomeAnswer;

impl Answers for SomeAnswer {
    fn answer(&self, ask: &Ask) -> Option<Result<String, String>> {
        // A reward model answers with a number, a judge with the JSON that `correctness` wants.
        Some(Ok(if ask.max_tokens == 0 {
            "0.5"
        } else {
            r#"{"analysis": "it is", "correctness": "correct"}"#
        }
        .into()))
    }
}

fn spec(subject: &Subject) -> Result<RewardSpec, PluginError> {
    let limits = r1d_rewards::Limits {
        fuel: subject.fuel,
        memory_mb: subject.memory_mb,
        ..Default::default()
    };
    Ok(RewardSpec {
        plugin: plugin(&subject.plugin),
        sha256: None,
        config_json: config(&subject.config)?,
        limits,
    })
}

/// Reads a plugin's name as a job file does: a path has a slash or ends in `.wasm`, anything else
/// is a name.
fn plugin(text: &str) -> r1d_rewards::Plugin {
    match r1d_job::reward::Plugin::parse(text, Path::new("")) {
        r1d_job::reward::Plugin::Named(name) => r1d_rewards::Plugin::Named(name),
        r1d_job::reward::Plugin::Path(path) => r1d_rewards::Plugin::Path(path),
    }
}

/// Sorts the keys of a configuration, so that it has the same bytes as an equal table of a job
/// file.
fn config(json: &str) -> Result<String, PluginError> {
    let parsed: serde_json::Value =
        serde_json::from_str(json).map_err(|e| PluginError::Config(e.to_string()))?;
    if !parsed.is_object() {
        return Err(PluginError::Config(format!("{json} is not a JSON object")));
    }
    let mut sorted = parsed;
    sorted.sort_all_objects();
    Ok(sorted.to_string())
}

/// Largest text that a command reads whole: golden cases, a job file.
const TEXT_MAX_BYTES: u64 = 16 << 20;

fn read(path: &Path) -> Result<String, PluginError> {
    user_file::read_text(path, TEXT_MAX_BYTES).map_err(|source| PluginError::Read {
        path: path.into(),
        source,
    })
}

/// Prints one document on one line.
fn print(value: &impl Serialize) -> Result<(), PluginError> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, value).map_err(std::io::Error::from)?;
    Ok(stdout.write_all(b"\n").and_then(|()| stdout.flush())?)
}
