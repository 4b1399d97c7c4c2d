//! The command line of `r1d`.

use clap::{Parser, Subcommand};
use r1d_plugin_cli::{
    BenchArgs, ComponentizeArgs, InspectArgs, KeygenArgs, PluginDirs, RescoreArgs, ScoreArgs,
    SignArgs, Subject, TestArgs,
};
use std::path::PathBuf;

/// The node daemon: runs reinforcement-learning jobs that r1ctl submits.
#[derive(Debug, Parser)]
#[command(name = "r1d", version, disable_help_subcommand = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve with a configuration file, in the foreground
    Run {
        /// r1d.toml
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        place: Locations,
    },
    /// Serve with the embedded default configuration: one machine, everything under one state
    /// directory
    Dev {
        /// Devices to run jobs on, separated by commas: cuda:N, or cpu once for each CPU device
        /// [default: every GPU, or the CPU where there is none]
        #[arg(long, value_name = "LIST", value_delimiter = ',')]
        devices: Option<Vec<String>>,
        #[command(flatten)]
        place: Locations,
    },
    /// Show the configuration
    Config {
        /// Print the whole configuration, every default filled in, as r1d.toml
        #[arg(long, required = true)]
        dump: bool,
        /// The file to fill in [default: the embedded configuration]
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Work with reward plugins; needs no daemon
    #[command(subcommand)]
    Plugin(Plugin),
    /// Print samples of a stage's newest step as JSON, best reward first (what `r1ctl report --dir`
    /// asks)
    #[command(hide = true)]
    Samples {
        /// The job's directory
        dir: PathBuf,
        #[arg(long)]
        stage: String,
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// Compile a reward component that comes over standard input (what the daemon starts, never a
    /// person)
    #[command(hide = true, name = COMPILE)]
    CompileReward,
    /// Make a token set that is asked for over standard input (what the daemon starts, never a
    /// person)
    #[command(hide = true, name = INGEST)]
    Ingest,
}

/// The name of [`Command::CompileReward`].
pub(crate) const COMPILE: &str = "compile-reward";
/// The name of [`Command::Ingest`].
pub(crate) const INGEST: &str = "ingest";

/// Places where a daemon keeps things, and what it starts. Flags win over the environment, which
/// wins over the configuration file.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Locations {
    /// Directory of jobs, checkpoints and the ledger [default: $XDG_STATE_HOME/r1d or
    /// ~/.local/state/r1d]
    #[arg(
        long,
        env = "R1D_STATE_DIR",
        hide_env_values = true,
        value_name = "DIR"
    )]
    pub state_dir: Option<PathBuf>,
    /// The socket for r1ctl [default: r1d.sock in the state directory]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The worker's executable [default: r1d-worker beside r1d]
    #[arg(long, env = "R1D_WORKER", hide_env_values = true, value_name = "PATH")]
    pub worker: Option<PathBuf>,
    /// Kill a worker that says nothing for this long; it speaks every 2 s, but not while one tensor
    /// operation runs
    #[arg(long, env = "R1D_WORKER_SILENCE_S", hide_env_values = true, value_name = "SECONDS",
        default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub worker_silence: u64,
}

/// Every command but `componentize` prints JSON; `r1ctl plugin` makes tables of it.
#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    /// Make a component of a core WASM module that was built with reward-sdk for
    /// wasm32-unknown-unknown
    Componentize(ComponentizeArgs),
    /// Judge each line of a file
    Score(ScoreArgs),
    /// Run golden cases through the sandbox
    Test(TestArgs),
    /// Check a plugin as a daemon would, and attack it
    Check(Subject),
    /// Measure fuel and time on one core
    Bench(BenchArgs),
    /// Tell what a plugin says of itself
    Inspect(InspectArgs),
    /// List the plugins of the plugin directories
    List(PluginDirs),
    /// Judge a run's completions again, and compare
    Rescore {
        /// The job's directory
        #[arg(value_name = "DIR")]
        run: PathBuf,
        #[command(flatten)]
        args: RescoreArgs,
    },
    /// Make a key to sign plugins with
    Keygen(KeygenArgs),
    /// Sign a plugin
    Sign(SignArgs),
}
