//! The command line of `r1d`.

use clap::{Parser, Subcommand};
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
    Componentize {
        /// The core module; with --golden, it may be a component already
        #[arg(value_name = "IN.wasm")]
        module: PathBuf,
        /// The component to write
        #[arg(value_name = "OUT.wasm")]
        component: PathBuf,
        /// Golden cases for the component to bring
        #[arg(long, value_name = "FILE")]
        golden: Option<PathBuf>,
    },
    /// Judge each line of a file
    Score {
        #[command(flatten)]
        subject: Subject,
        /// JSON lines
        #[arg(value_name = "CASES.jsonl")]
        cases: PathBuf,
        /// Answers to the questions of a judged reward
        #[arg(long, value_name = "FILE")]
        answers: Option<PathBuf>,
        /// Write the questions that have no answer here
        #[arg(long, value_name = "FILE")]
        asks: Option<PathBuf>,
    },
    /// Run golden cases through the sandbox
    Test {
        #[command(flatten)]
        subject: Subject,
        /// The cases [default: those that the component brings]
        #[arg(long, value_name = "FILE")]
        golden: Option<PathBuf>,
    },
    /// Check a plugin as a daemon would, and attack it
    Check {
        #[command(flatten)]
        subject: Subject,
    },
    /// Measure fuel and time on one core
    Bench {
        #[command(flatten)]
        subject: Subject,
        /// JSON lines to judge [default: three lengths of a made-up completion]
        #[arg(value_name = "CASES.jsonl")]
        cases: Option<PathBuf>,
        /// The time limit for each input, in seconds
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32)
            .range(1..=3600))]
        seconds: u32,
    },
    /// Tell what a plugin says of itself
    Inspect {
        #[arg(value_name = "NAME_OR_FILE")]
        plugin: String,
        #[command(flatten)]
        dirs: PluginDirs,
    },
    /// List the plugins of the plugin directories
    List {
        #[command(flatten)]
        dirs: PluginDirs,
    },
    /// Judge a run's completions again, and compare
    Rescore {
        /// The job's directory
        #[arg(value_name = "DIR")]
        run: PathBuf,
        /// The other plugin: a name or a file
        #[arg(long, value_name = "NAME_OR_FILE")]
        plugin: String,
        /// The reward of the run to compare with [default: the one with a plugin of that name, or
        /// the only one]
        #[arg(long, value_name = "NAME")]
        reward: Option<String>,
        /// The other plugin's configuration [default: that of the reward]
        #[arg(long, value_name = "JSON")]
        config: Option<String>,
        /// Disagreements to show
        #[arg(long, default_value_t = 10, value_name = "N")]
        limit: u32,
        #[command(flatten)]
        dirs: PluginDirs,
    },
    /// Make a key to sign plugins with
    Keygen {
        #[arg(value_name = "KEY")]
        key: PathBuf,
    },
    /// Sign a plugin
    Sign {
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        #[arg(long)]
        key: PathBuf,
    },
}

/// A plugin, and how it is to judge.
#[derive(Debug, clap::Args)]
pub(crate) struct Subject {
    /// Name of a plugin, as job files have it, or a file
    #[arg(value_name = "NAME_OR_FILE")]
    pub plugin: String,
    /// Its configuration, a JSON object
    #[arg(long, value_name = "JSON", default_value = "{}")]
    pub config: String,
    /// Fuel for each completion [default: 50,000,000 and 2,000 per byte of input]
    #[arg(long, value_name = "N")]
    pub fuel: Option<u64>,
    /// MiB of memory for each completion [default: as in a job]
    #[arg(long, value_name = "N")]
    pub memory_mb: Option<u32>,
    #[command(flatten)]
    pub dirs: PluginDirs,
}

/// Directories in which plugins are looked for by name.
#[derive(Debug, clap::Args)]
pub(crate) struct PluginDirs {
    /// Looked through first; then plugins beside r1d, then the directories of /etc/r1d/r1d.toml
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
}
