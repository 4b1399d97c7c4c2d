//! `r1ctl plugin`: the tools of plugin authors. `new` and `build` are done here; the sibling binary
//! `r1d` does what needs the sandbox, and its JSON documents ([`r1d_proto::plugin`]) are shown as
//! tables.

mod build;
mod embedded;
mod new;
mod show;

use crate::cli::Output;
use crate::cli::plugin::{Author, PluginDirs, Rescore, Subject};
use crate::error::{Ended, Error};
use crate::print::{self, Printer};
use crate::sibling;
use r1d_proto::plugin::{Benched, Checked, Plugin, Rescored, Signed, Tested};
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
        Author::Test { subject, golden } => test(subject, golden.as_deref(), output, printer),
        Author::Score {
            subject,
            cases,
            answers,
            asks,
        } => {
            let mut words = subject_words("score", subject);
            words.push(cases.into());
            words.extend(answers.map(|path| sibling::option("answers", path)));
            words.extend(asks.map(|path| sibling::option("asks", path)));
            passed_through(words)
        }
        Author::Check { subject } => document(
            subject_words("check", subject),
            output,
            |checked: &Checked| show::checked(checked, look),
        ),
        Author::Bench {
            subject,
            cases,
            seconds,
        } => {
            let mut words = subject_words("bench", subject);
            words.extend(cases.map(OsString::from));
            words.push(sibling::option("seconds", seconds.to_string()));
            document(words, output, |benched: &Benched| {
                show::benched(benched, look)
            })
        }
        Author::Inspect { plugin, dirs } => {
            let words = [words("inspect"), vec![plugin.into()], dir_words(dirs)].concat();
            document(words, output, |described: &Plugin| {
                show::described(described, look)
            })
        }
        Author::List { dirs } => {
            let words = [words("list"), dir_words(dirs)].concat();
            document(words, output, |plugins: &Vec<Plugin>| {
                show::plugins(plugins, look)
            })
        }
        Author::Keygen { key } => {
            let words = [words("keygen"), vec![key.into()]].concat();
            document(words, output, |signed: &Signed| show::keygen(signed))
        }
        Author::Sign { file, key } => {
            let words = [
                words("sign"),
                vec![file.into(), sibling::option("key", key)],
            ]
            .concat();
            document(words, output, |signed: &Signed| show::signed(signed))
        }
    }
}

/// `r1ctl rescore`; `run` is the job's directory.
pub(crate) fn rescore(
    run: PathBuf,
    asked: Rescore,
    output: Output,
    printer: &Printer,
) -> Result<Ended, Error> {
    let mut words = [
        words("rescore"),
        vec![run.into(), sibling::option("plugin", asked.plugin)],
    ]
    .concat();
    words.extend(asked.reward.map(|name| sibling::option("reward", name)));
    words.extend(asked.config.map(|json| sibling::option("config", json)));
    words.push(sibling::option("limit", asked.limit.to_string()));
    words.extend(dir_words(asked.dirs));
    document(words, output, |rescored: &Rescored| {
        show::rescored(rescored, printer.stdout)
    })
}

/// Tests a plugin: a directory is tested natively, then built and tested in the sandbox; a name or
/// a file in the sandbox alone.
fn test(
    mut subject: Subject,
    golden: Option<&Path>,
    output: Output,
    printer: &Printer,
) -> Result<Ended, Error> {
    let dir = Path::new(&subject.plugin);
    if dir.is_dir() {
        build::test_natively(dir)?;
        subject.plugin = build::run(dir, None)?.display().to_string();
    }
    let mut words = subject_words("test", subject);
    words.extend(golden.map(|path| sibling::option("golden", path)));
    document(words, output, |tested: &Tested| {
        show::tested(tested, printer.stdout)
    })
}

fn words(command: &str) -> Vec<OsString> {
    vec!["plugin".into(), command.into()]
}

fn dir_words(dirs: PluginDirs) -> Vec<OsString> {
    dirs.plugin_dir
        .into_iter()
        .map(|dir| sibling::option("plugin-dir", dir))
        .collect()
}

fn subject_words(command: &str, subject: Subject) -> Vec<OsString> {
    let mut words = words(command);
    words.push(sibling::option("config", subject.config));
    words.extend(
        subject
            .fuel
            .map(|fuel| sibling::option("fuel", fuel.to_string())),
    );
    words.extend(
        subject
            .memory_mb
            .map(|mb| sibling::option("memory-mb", mb.to_string())),
    );
    words.extend(dir_words(subject.dirs));
    words.push(subject.plugin.into());
    words
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
    let mut words = [words("componentize"), vec![module.into(), component.into()]].concat();
    words.extend(golden.map(|path| sibling::option("golden", path)));
    match passed_through(words)? {
        Ended::Code(0) | Ended::Ok => Ok(()),
        _ => Err(Error::Plugin(format!(
            "{}: no component was made of it",
            module.display()
        ))),
    }
}
