//! The commands of `r1ctl plugin`, and `r1ctl rescore`. The arguments that `r1d` gets are those of
//! [`r1d_plugin_cli`].

use clap::{Args, Subcommand, ValueEnum};
use r1d_plugin_cli::{
    BenchArgs, InspectArgs, KeygenArgs, PluginDirs, RescoreArgs, ScoreArgs, SignArgs, Subject,
    TestArgs,
};
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
    Test(TestArgs),
    /// Measure fuel and time of one core
    Bench(BenchArgs),
    /// Check a plugin as a daemon would, and attack it
    ///
    /// Imports, size, range, golden cases, the same verdict again, and texts that models could
    /// stall a judge with. Exit code 0 when it passes, 1 when not.
    Check(Subject),
    /// Judge each line of a file, as a job would
    ///
    /// A line in: {"prompt", "completion", "reference"?, "tokens"?, "finish"?, "group"?, "meta"?}.
    /// A line out, in the same order: {"verdict", "score", "parts", "reason", "fuel", "ms"}. Exit
    /// code 0 whatever the verdicts.
    Score(ScoreArgs),
    /// List the plugins that jobs can name
    List(PluginDirs),
    /// Tell what a plugin says of itself, or why it is refused
    Inspect(InspectArgs),
    /// Make a key to sign plugins with
    ///
    /// Prints the public key, for `trusted_keys` of r1d.toml.
    Keygen(KeygenArgs),
    /// Sign a plugin: writes FILE.sig beside it
    Sign(SignArgs),
}

/// What is judged again, and by what.
#[derive(Debug, Args)]
pub(crate) struct Rescore {
    /// Id of a job, or any prefix of it that no other job shares; or a job's directory, which
    /// needs no daemon
    pub job: String,
    #[command(flatten)]
    pub args: RescoreArgs,
}

/// The language that a new plugin is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Language {
    Rust,
    Python,
    Js,
}
