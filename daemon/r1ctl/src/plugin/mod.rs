//! `r1ctl plugin`: the tools of plugin authors. `new` and `build` are done here; the sibling binary
//! `r1d` does what needs the sandbox, and its JSON documents ([`r1d_proto::plugin`]) are shown as
//! tables.

mod build;
mod embedded;
mod new;
mod show;

use crate::cli::Output;
use crate::cli::plugin::Author;
use crate::error::{Ended, Error};
use crate::print::{self, Printer};
use crate::sibling;
use r1d_plugin_cli::{ComponentizeArgs, RescoreArgs, TestArgs, Words};
use r1d_proto::plugin::{Benched, Checked, Plugin, Rescored, Tested};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(crate) fn run(command: Author, output: Output, printer: &Printer) -> Result<Ended, Error> {
    let look = printer.stdout;
    match command {
        Author::New { name, lang, sdk } => new::run(&name, lang, sdk.as_deref(), printer),
        Author::Build { path, out } => {
            let built = build::run(&path, out.as_deref())?;
            print::data(&format!("{}\n", built.display()))?;
            Ok(Ended::Ok)
        }
        Author::Test(args) => test(args, output, printer),
        Author::Score(args) => passed_through(words("score", args)),
        Author::Check(subject) => {
            let shown = |checked: &Checked| show::checked(checked, look);
            document(words("check", subject), output, shown)
        }
        Author::Bench(args) => {
            let shown = |benched: &Benched| show::benched(benched, look);
            document(words("bench", args), output, shown)
        }
        Author::Inspect(args) => {
            let shown = |described: &Plugin| show::described(described, look);
            document(words("inspect", args), output, shown)
        }
        Author::List(dirs) => {
            let shown = |plugins: &Vec<Plugin>| show::plugins(plugins, look);
            document(words("list", dirs), output, shown)
        }
        Author::Keygen(args) => document(words("keygen", args), output, show::keygen),
        Author::Sign(args) => document(words("sign", args), output, show::signed),
    }
}

/// `r1ctl rescore`; `run` is the job's directory.
pub(crate) fn rescore(
    run: PathBuf,
    args: RescoreArgs,
    output: Output,
    printer: &Printer,
) -> Result<Ended, Error> {
    let mut words = words("rescore", args);
    words.insert(2, run.into());
    let shown = |rescored: &Rescored| show::rescored(rescored, printer.stdout);
    document(words, output, shown)
}

/// Tests a plugin: a directory is tested natively, then built and tested in the sandbox; a name or
/// a file in the sandbox alone.
fn test(mut args: TestArgs, output: Output, printer: &Printer) -> Result<Ended, Error> {
    let dir = Path::new(&args.subject.plugin);
    if dir.is_dir() {
        build::test_natively(dir)?;
        args.subject.plugin = build::run(dir, None)?.display().to_string();
    }
    let shown = |tested: &Tested| show::tested(tested, printer.stdout);
    document(words("test", args), output, shown)
}

/// The words behind `r1d` of one of its commands.
fn words(command: &str, args: impl Words) -> Vec<OsString> {
    let command: [OsString; 2] = ["plugin".into(), command.into()];
    command.into_iter().chain(args.words()).collect()
}

/// Runs r1d; its output becomes ours.
fn passed_through(words: Vec<OsString>) -> Result<Ended, Error> {
    let mut command = Command::new(sibling::find("r1d"));
    command.args(words);
    sibling::ended("r1d", sibling::run(&mut command)?)
}

/// Prints r1d's document, as it is or for people. An exit code of 1 after a document means that the
/// plugin did not pass.
fn document<T: DeserializeOwned + Serialize>(
    words: Vec<OsString>,
    output: Output,
    text: impl Fn(&T) -> String,
) -> Result<Ended, Error> {
    let mut command = Command::new(sibling::find("r1d"));
    command.args(words).stdout(Stdio::piped());
    let ran = sibling::output(&mut command)?;
    let ended = sibling::ended("r1d", ran.status)?;
    if ran.stdout.is_empty() {
        return Ok(ended);
    }
    let document: T = serde_json::from_slice(&ran.stdout).map_err(Error::SiblingAnswer)?;
    match output {
        Output::Json => print::json(&document)?,
        Output::Table => print::data(&text(&document))?,
    }
    Ok(ended)
}

/// Makes a component of a core module, with r1d.
fn componentize(module: &Path, component: &Path, golden: Option<&Path>) -> Result<(), Error> {
    let args = ComponentizeArgs {
        module: module.into(),
        component: component.into(),
        golden: golden.map(PathBuf::from),
    };
    match passed_through(words("componentize", args))? {
        Ended::Code(0) | Ended::Ok => Ok(()),
        _ => Err(Error::Plugin(format!(
            "{}: no component was made of it",
            module.display()
        ))),
    }
}
