//! The arguments of `r1ctl plugin` and `r1ctl rescore`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Plugin {
    #[command(flatten)]
    Author(Author),
    /// Let a new version of a plugin judge a job, from the next step on
    ///
    /// It must declare the same range, parts and world, and pass the golden cases that it brings.
    /// Which step it judges from is recorded.
    Reload {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
        /// The plugin, as the job file has it, or the name of its reward
        plugin: String,
        /// The new component
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
    },
}

/// What needs no daemon.
#[derive(Debug, Subcommand)]
pub(crate) enum Author {
    /// Start a plugin: a directory that builds, with its tests
    New {
        /// Name of the directory and the plugin: lower-case letters, digits and dashes
        name: String,
        /// The language to write it in
        #[arg(long, value_enum, default_value_t = Language::Rust)]
        lang: Language,
        /// Use reward-sdk at this place [default: a copy of it in the new directory; rust only]
        #[arg(long, value_name = "DIR")]
        sdk: Option<PathBuf>,
    },
    /// Build a plugin: from sources to the component that a job names
    ///
    /// Prints the component's path. golden.jsonl beside the sources becomes part of it.
    Build {
        /// The plugin's directory, or a core WASM module
        #[arg(default_value = ".")]
        path: PathBuf,
        /// The component to write [default: NAME.wasm in the plugin's directory]
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Run golden cases: natively and in the sandbox
    ///
    /// A directory is tested natively, built, and tested in the sandbox; a name or file in the
    /// sandbox alone. Exit code 0 when every case got its verdict, 1 when not.
    Test {
        #[command(flatten)]
        subject: Subject,
        /// The cases [default: those that the plugin brings]
        #[arg(long, value_name = "FILE")]
        golden: Option<PathBuf>,
    },
    /// Measure fuel and time of one core
    Bench {
        #[command(flatten)]
        subject: Subject,
        /// Lines as `score` reads them [default: three lengths of a made-up completion]
        #[arg(value_name = "CASES.jsonl")]
        cases: Option<PathBuf>,
        /// The time limit for each input, in seconds
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32)
            .range(1..=3600))]
        seconds: u32,
    },
    /// Check a plugin as a daemon would, and attack it
    ///
    /// Imports, size, range, golden cases, the same verdict again, and texts that models could
    /// stall a judge with. Exit code 0 when it passes, 1 when not.
    Check {
        #[command(flatten)]
        subject: Subject,
    },
    /// Judge each line of a file, as a job would
    ///
    /// A line in: {"prompt", "completion", "reference"?, "tokens"?, "finish"?, "group"?, "meta"?}.
    /// A line out, in the same order: {"verdict", "score", "parts", "reason", "fuel", "ms"}. Exit
    /// code 0 whatever the verdicts.
    Score {
        #[command(flatten)]
        subject: Subject,
        /// JSON lines; - for standard input
        #[arg(value_name = "CASES.jsonl")]
        cases: PathBuf,
        /// Answers to the questions of a judged reward: lines of {"prompt", "answer" or "error",
        /// "model"?}
        #[arg(long, value_name = "FILE")]
        answers: Option<PathBuf>,
        /// Write the questions that have no answer here
        #[arg(long, value_name = "FILE")]
        asks: Option<PathBuf>,
    },
    /// List the plugins that jobs can name
    List {
        #[command(flatten)]
        dirs: PluginDirs,
    },
    /// Tell what a plugin says of itself, or why it is refused
    Inspect {
        /// Name of a plugin, as job files have it, or a file
        #[arg(value_name = "NAME_OR_FILE")]
        plugin: String,
        #[command(flatten)]
        dirs: PluginDirs,
    },
    /// Make a key to sign plugins with
    ///
    /// Prints the public key, for `trusted_keys` of r1d.toml.
    Keygen {
        /// The new file, which must not exist; only its owner may read it
        #[arg(value_name = "KEY")]
        key: PathBuf,
    },
    /// Sign a plugin: writes FILE.sig beside it
    Sign {
        /// The component
        #[arg(value_name = "FILE.wasm")]
        file: PathBuf,
        /// A key of `keygen`
        #[arg(long)]
        key: PathBuf,
    },
}

/// A plugin, and how it is to judge.
#[derive(Debug, Args)]
pub(crate) struct Subject {
    /// Name of a plugin, as job files have it, or a file
    #[arg(value_name = "NAME_OR_FILE")]
    pub plugin: String,
    /// Its configuration, a JSON object
    #[arg(
        long,
        value_name = "JSON",
        default_value = "{}",
        allow_hyphen_values = true
    )]
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

/// What is judged again, and by what.
#[derive(Debug, Args)]
pub(crate) struct Rescore {
    /// Id of a job, or any prefix of it that no other job shares; or a job's directory, which
    /// needs no daemon
    pub job: String,
    /// The other plugin: a name or a file
    #[arg(long, value_name = "NAME_OR_FILE")]
    pub plugin: String,
    /// The reward of the run to compare with [default: the one with a plugin of that name, or
    /// the only one]
    #[arg(long, value_name = "NAME")]
    pub reward: Option<String>,
    /// The other plugin's configuration, a JSON object [default: that of the reward]
    #[arg(long, value_name = "JSON")]
    pub config: Option<String>,
    /// Disagreements to show
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub limit: u32,
    #[command(flatten)]
    pub dirs: PluginDirs,
}

#[derive(Debug, Args)]
pub(crate) struct PluginDirs {
    /// Look for names here first, then in `plugins` beside r1d, then where /etc/r1d/r1d.toml says
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
}

/// The language that a new plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    Python,
    Js,
}
