//! The command line of `r1d`.

use clap::{Parser, Subcommand};
use std::path::PathBuf;

/// The node daemon: runs reinforcement-learning jobs that r1ctl submits.
#[derive(Debug, Parser)]
#[command(name = "r1d", version, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve with a configuration file, in the foreground
    Run {
        /// r1d.toml
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        #[command(flatten)]
        place: Place,
    },
    /// Serve with the embedded default configuration: one machine, everything under one state directory
    Dev {
        #[command(flatten)]
        place: Place,
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
    /// Compile a reward component that comes over standard input (what the daemon starts, never a person)
    #[command(hide = true, name = COMPILE)]
    CompileReward,
}

/// The name of [`Command::CompileReward`].
pub const COMPILE: &str = "compile-reward";

/// Where a daemon keeps things and what it starts. Flags win over the environment, which wins over the configuration file.
#[derive(Debug, Default, clap::Args)]
pub struct Place {
    /// Where jobs, checkpoints and the ledger are kept [default: $XDG_STATE_HOME/r1d or ~/.local/state/r1d]
    #[arg(long, env = "R1D_STATE_DIR", hide_env_values = true, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// The socket for r1ctl [default: r1d.sock in the state directory]
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// The worker's executable [default: r1d-worker beside r1d]
    #[arg(long, env = "R1D_WORKER", hide_env_values = true, value_name = "PATH")]
    pub worker: Option<PathBuf>,
    /// Kill a worker that says nothing for this long; it speaks every 2 s, but not while one tensor operation runs
    #[arg(long, env = "R1D_WORKER_SILENCE_S", hide_env_values = true, value_name = "SECONDS", default_value_t = 600,
          value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub worker_silence: u64,
}

#[derive(Debug, Subcommand)]
pub enum Plugin {
    /// Make a component of a core WASM module that was built with reward-sdk for wasm32-unknown-unknown
    Componentize {
        /// The core module
        #[arg(value_name = "IN.wasm")]
        module: PathBuf,
        /// The component to write
        #[arg(value_name = "OUT.wasm")]
        component: PathBuf,
    },
}
