//! The arguments of `plugin …` that `r1ctl` takes from people and hands to `r1d`, which has the
//! sandbox: declared once, parsed by both. Each binary says in its own words what its commands do.

#![warn(clippy::too_many_lines)]

use clap::Args;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// A command of `r1d plugin`, by the words that its parser takes apart again.
pub trait Words {
    /// The arguments behind the command's name. A value stands in one word with its option, so that
    /// one which starts with `-` stays a value.
    fn words(self) -> Vec<OsString>;
}

/// Directories in which plugins are looked for by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct PluginDirs {
    /// Look for names here first, then in `plugins` beside r1d, then where /etc/r1d/r1d.toml says
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
}

/// A plugin, and how it is to judge.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct Subject {
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
    /// Directories of plugins.
    #[command(flatten)]
    pub dirs: PluginDirs,
}

/// The arguments of `plugin test`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct TestArgs {
    /// The plugin.
    #[command(flatten)]
    pub subject: Subject,
    /// The cases [default: those that the plugin brings]
    #[arg(long, value_name = "FILE")]
    pub golden: Option<PathBuf>,
}

/// The arguments of `plugin bench`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct BenchArgs {
    /// The plugin.
    #[command(flatten)]
    pub subject: Subject,
    /// Lines as `score` reads them [default: three lengths of a made-up completion]
    #[arg(value_name = "CASES.jsonl")]
    pub cases: Option<PathBuf>,
    /// The time limit for each input, in seconds
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32)
        .range(1..=3600))]
    pub seconds: u32,
}

/// The arguments of `plugin score`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ScoreArgs {
    /// The plugin.
    #[command(flatten)]
    pub subject: Subject,
    /// JSON lines; - for standard input
    #[arg(value_name = "CASES.jsonl")]
    pub cases: PathBuf,
    /// Answers to the questions of a judged reward: lines of {"prompt", "answer" or "error",
    /// "model"?}
    #[arg(long, value_name = "FILE")]
    pub answers: Option<PathBuf>,
    /// Write the questions that have no answer here
    #[arg(long, value_name = "FILE")]
    pub asks: Option<PathBuf>,
}

/// The arguments of `plugin inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct InspectArgs {
    /// Name of a plugin, as job files have it, or a file
    #[arg(value_name = "NAME_OR_FILE")]
    pub plugin: String,
    /// Directories of plugins.
    #[command(flatten)]
    pub dirs: PluginDirs,
}

/// The arguments of `plugin keygen`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct KeygenArgs {
    /// The new file, which must not exist; only its owner may read it
    #[arg(value_name = "KEY")]
    pub key: PathBuf,
}

/// The arguments of `plugin sign`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct SignArgs {
    /// The component
    #[arg(value_name = "FILE.wasm")]
    pub file: PathBuf,
    /// A key of `keygen`
    #[arg(long)]
    pub key: PathBuf,
}

/// The arguments of `r1ctl rescore` and `r1d plugin rescore` behind the run that is judged again.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct RescoreArgs {
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
    /// Directories of plugins.
    #[command(flatten)]
    pub dirs: PluginDirs,
}

/// The arguments of `plugin componentize`, the last step of `r1ctl plugin build`.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ComponentizeArgs {
    /// The core module; with --golden, it may be a component already
    #[arg(value_name = "IN.wasm")]
    pub module: PathBuf,
    /// The component to write
    #[arg(value_name = "OUT.wasm")]
    pub component: PathBuf,
    /// Golden cases for the component to bring
    #[arg(long, value_name = "FILE")]
    pub golden: Option<PathBuf>,
}

/// An option and its value as one word.
fn option(name: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut word = OsString::from(format!("--{name}="));
    word.push(value);
    word
}

/// An option that may be left out.
fn optional(name: &str, value: Option<impl AsRef<OsStr>>) -> Option<OsString> {
    value.map(|value| option(name, value))
}

impl Words for PluginDirs {
    fn words(self) -> Vec<OsString> {
        let dir = |dir| option("plugin-dir", dir);
        self.plugin_dir.into_iter().map(dir).collect()
    }
}

impl Words for Subject {
    fn words(self) -> Vec<OsString> {
        let number = |number: &dyn ToString| number.to_string();
        let mut words = vec![option("config", self.config)];
        words.extend(optional("fuel", self.fuel.map(|fuel| number(&fuel))));
        words.extend(optional("memory-mb", self.memory_mb.map(|mb| number(&mb))));
        words.extend(self.dirs.words());
        words.push(self.plugin.into());
        words
    }
}

impl Words for TestArgs {
    fn words(self) -> Vec<OsString> {
        let golden = optional("golden", self.golden);
        self.subject.words().into_iter().chain(golden).collect()
    }
}

impl Words for BenchArgs {
    fn words(self) -> Vec<OsString> {
        let mut words = self.subject.words();
        words.extend(self.cases.map(OsString::from));
        words.push(option("seconds", self.seconds.to_string()));
        words
    }
}

impl Words for ScoreArgs {
    fn words(self) -> Vec<OsString> {
        let mut words = self.subject.words();
        words.push(self.cases.into());
        words.extend(optional("answers", self.answers));
        words.extend(optional("asks", self.asks));
        words
    }
}

impl Words for InspectArgs {
    fn words(self) -> Vec<OsString> {
        let plugin = OsString::from(self.plugin);
        std::iter::once(plugin).chain(self.dirs.words()).collect()
    }
}

impl Words for KeygenArgs {
    fn words(self) -> Vec<OsString> {
        vec![self.key.into()]
    }
}

impl Words for SignArgs {
    fn words(self) -> Vec<OsString> {
        vec![self.file.into(), option("key", self.key)]
    }
}

impl Words for RescoreArgs {
    fn words(self) -> Vec<OsString> {
        let mut words = vec![option("plugin", self.plugin)];
        words.extend(optional("reward", self.reward));
        words.extend(optional("config", self.config));
        words.push(option("limit", self.limit.to_string()));
        words.extend(self.dirs.words());
        words
    }
}

impl Words for ComponentizeArgs {
    fn words(self) -> Vec<OsString> {
        let golden = optional("golden", self.golden);
        let files: [OsString; 2] = [self.module.into(), self.component.into()];
        files.into_iter().chain(golden).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Command, FromArgMatches};
    use std::fmt::Debug;

    /// What r1ctl hands on, r1d reads as it was.
    fn comes_back<A: Args + FromArgMatches + Words + Clone + PartialEq + Debug>(line: &[&str]) {
        let command = || A::augment_args(Command::new("plugin").no_binary_name(true));
        let parse = |words: Vec<OsString>| {
            let matches = command().try_get_matches_from(words).unwrap();
            A::from_arg_matches(&matches).unwrap()
        };
        let args = parse(line.iter().map(OsString::from).collect());
        assert_eq!(parse(args.clone().words()), args, "{line:?}");
    }

    #[test]
    fn every_argument_reaches_the_sandbox() {
        let subject = [
            "accuracy",
            "--config=-1",
            "--fuel=7",
            "--memory-mb=9",
            "--plugin-dir=a",
            "--plugin-dir=-b",
        ];
        let with = |more: &[&'static str]| [&subject[..], more].concat();
        comes_back::<Subject>(&["accuracy"]);
        comes_back::<TestArgs>(&with(&["--golden=-g"]));
        comes_back::<BenchArgs>(&with(&["cases.jsonl", "--seconds=3"]));
        comes_back::<BenchArgs>(&["accuracy"]);
        comes_back::<ScoreArgs>(&with(&["-", "--answers=-a", "--asks=b"]));
        comes_back::<InspectArgs>(&["accuracy", "--plugin-dir=a"]);
        comes_back::<PluginDirs>(&["--plugin-dir=a", "--plugin-dir=b"]);
        comes_back::<KeygenArgs>(&["key"]);
        comes_back::<SignArgs>(&["a.wasm", "--key=-k"]);
        let other = ["--plugin=b", "--reward=-r", "--config=-{}", "--limit=2"];
        comes_back::<RescoreArgs>(&other);
        comes_back::<ComponentizeArgs>(&["a", "b", "--golden=-g"]);
    }
}
