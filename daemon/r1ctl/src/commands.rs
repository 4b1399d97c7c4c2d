//! The commands: what each asks of the daemon, or does without one.

use crate::cli::plugin::{Plugin, Rescore};
use crate::cli::{Cli, Command, Dataset, Jobs, Submit};
use crate::error::{Ended, Error};
use crate::lock::{Lock, Mode};
use crate::print::Printer;
use crate::session::Session;
use crate::{explain, job_file, model, pages, plugin};
use r1d_job::Job;
use r1d_proto::control::Request;
use r1d_proto::world::SharedClock;
use std::collections::BTreeSet;
use std::path::PathBuf;

pub(crate) fn run(cli: Cli, printer: &Printer, clock: SharedClock) -> Result<Ended, Error> {
    let Cli { global, command } = cli;
    let output = global.output;
    let session = Session {
        global,
        printer,
        clock,
    };
    match command {
        Command::Submit(command) => submit(&session, command),
        Command::Status {
            job,
            watch: true,
            patience,
        } => session.block_on(session.watch_job(&job, patience)),
        Command::Logs(logs) => {
            let now = session.clock.unix();
            session.block_on(session.logs(logs.request(now)))
        }
        Command::Plan { file, toml } => {
            let request = Request::Plan {
                job: job_file::read(&file)?.to_toml(),
                pins: Lock::beside(&file)?.pins(Mode::Add),
            };
            session.plan(request, toml)
        }
        Command::List { state, owner } => session.list(&state, owner.as_deref()),
        Command::Status { job, .. } => session.ask(Request::Status { job }),
        Command::Cancel(jobs) => session.each(jobs, |job| Request::Cancel { job }),
        Command::Pause(jobs) => session.each(jobs, |job| Request::Pause { job }),
        Command::Resume(jobs) => session.each(jobs, |job| Request::Resume { job }),
        Command::Requeue(jobs) => session.each(jobs, |job| Request::Requeue { job }),
        Command::Rm(Jobs { jobs }) => session.remove(Request::Remove { jobs }),
        Command::Prune {
            older_than,
            keep_final,
            dry_run,
        } => session.remove(Request::Prune {
            older_than_s: older_than.map(|time| time.as_secs()),
            keep_final,
            dry_run,
        }),
        Command::Samples(samples) => session.ask(samples.request()),
        Command::Report {
            dir: Some(dir), to, ..
        } => session.report_of(&dir, &to),
        Command::Report { job, to, .. } => {
            session.block_on(session.report(job.unwrap_or_default(), &to))
        }
        Command::Trace { job, stage, step } => session.ask(Request::Trace { job, stage, step }),
        Command::Why { job } => session.ask(Request::Why { job }),
        Command::Dataset(command) => dataset(&session, command),
        Command::Nodes => session.ask(Request::Nodes),
        Command::Shutdown => session.ask(Request::Shutdown),
        Command::Explain { key } => explain::run(key.as_deref(), output),
        Command::Model(command) => model::run(command, output),
        Command::Plugin(Plugin::Reload { job, plugin, file }) => {
            let file = absolute(file)?;
            session.ask(Request::Reload { job, plugin, file })
        }
        Command::Plugin(Plugin::Author(command)) => plugin::run(command, output, printer),
        Command::Rescore(command) => rescore(&session, command),
        Command::Completions { shell } => pages::completions(shell),
        Command::Man { dir } => pages::man(dir.as_deref()),
    }
}

fn submit(session: &Session<'_>, command: Submit) -> Result<Ended, Error> {
    // Faults of the job file itself are reported without a daemon.
    let job = job_file::read(&command.file)?;
    let lock = Lock::beside(&command.file)?;
    let mode = if command.locked {
        Mode::Locked
    } else if command.update_lock {
        Mode::Update
    } else {
        Mode::Add
    };
    if mode == Mode::Locked {
        require_pins(&job, &lock)?;
    }
    let request = Request::Submit {
        job: job.to_toml(),
        priority: command.priority,
        pins: lock.pins(mode),
        no_reuse: command.no_reuse,
        hold: command.hold,
    };
    let wait = command.wait.then_some(command.patience);
    session.block_on(session.submit(request, lock, wait))
}

/// Checks that every plugin of the job file has a pin, in the lock or in the job file.
fn require_pins(job: &Job, lock: &Lock) -> Result<(), Error> {
    let rewards = job
        .stages
        .iter()
        .filter_map(|stage| stage.rollouts())
        .flat_map(|rollouts| rollouts.rewards.iter().cloned());
    let rewards = rewards.chain(job.evals.iter().flat_map(|eval| job.eval_rewards(eval)));
    let unpinned: BTreeSet<String> = rewards
        .filter(|reward| reward.sha256.is_none())
        .map(|reward| reward.plugin.to_string())
        .collect();
    match lock.missing(&unpinned).as_slice() {
        [] => Ok(()),
        missing => Err(Error::Lock {
            path: lock.path().into(),
            why: format!(
                "no pin of {}, and --locked adds none: submit without it once",
                missing.join(", ")
            ),
        }),
    }
}

fn dataset(session: &Session<'_>, command: Dataset) -> Result<Ended, Error> {
    match command {
        Dataset::List { job } => session.ask(Request::DataSets { job }),
        Dataset::Review {
            job,
            stage,
            export: Some(to),
            ..
        } => session.block_on(session.export(job, &stage, &to)),
        Dataset::Review {
            job, stage, import, ..
        } => {
            let file = import.map(absolute).transpose()?;
            session.ask(Request::Review { job, stage, file })
        }
    }
}

fn rescore(session: &Session<'_>, command: Rescore) -> Result<Ended, Error> {
    let run = if command.job.contains('/') {
        PathBuf::from(&command.job)
    } else {
        session.directory(command.job.clone())?
    };
    plugin::rescore(run, command.args, session.global.output, session.printer)
}

/// The path of a file that the daemon is to read.
fn absolute(file: PathBuf) -> Result<PathBuf, Error> {
    std::path::absolute(&file).map_err(|source| Error::File { path: file, source })
}
