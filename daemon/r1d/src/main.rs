//! `r1d`: the node daemon.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`], [`settings`], [`log`], [`notify`] | the command line, what the daemon runs with, its log, messages to systemd |
//! | [`daemon`] | its life: build, listen, run, drain |
//! | [`actors`] | the control socket, the queue, running jobs and workers |
//! | [`state_dir`], [`outputs`], [`job_log`], [`tensorboard`] | what is on disk |
//! | [`accept`], [`reach`], [`inputs`], [`file_hashes`], [`loaded_job`], [`job_sets`], [`reading`] | a job's files: within reach, as they were, read into token sets and checked |
//! | [`weights`], [`judge_models`] | a job's models: checked without a tensor; those that rewards ask |
//! | [`admission`], [`submissions`] | how many clients are served at a time; what becomes of submissions whose client leaves |
//! | [`job_writer`], [`datasets`], [`scoring`], [`reward_versions`] | what a running job uses: durable writes, what a stage makes for later ones, verdicts, which component judges at which step |
//! | [`review`], [`reuse`] | data sets that people look at; finished stages that other jobs take over |
//! | [`removal`] | what goes of jobs that have ended |
//! | [`outside`], [`checkpoints`], [`outside_waits`] | what a job needs that others can take away, and waiting for it |
//! | [`queue`], [`upkeep`] | what the schedule asks of the ledger; which jobs the daemon works for |
//! | [`live_status`], [`status`], [`job_changes`], [`step_times`], [`samples`] | what clients see |
//! | [`devices`], [`setup`], [`old_workers`] | what there is to run on, whether it can be used, and what still occupies it |
//! | [`tasks`], [`digest`] | the start of tasks and threads; SHA-256 |
//! | [`plugin`] | `r1d plugin`: the reward host without a daemon |

mod accept;
mod access;
mod actors;
mod admission;
mod callers;
mod checkpoints;
mod cli;
mod daemon;
mod datasets;
mod devices;
mod digest;
mod file_hashes;
mod inputs;
mod job_changes;
mod job_log;
mod job_sets;
mod job_writer;
mod judge_models;
mod live_status;
mod loaded_job;
mod log;
mod log_tail;
mod notify;
mod old_workers;
mod outputs;
mod outside;
mod outside_waits;
mod plugin;
mod queue;
mod reach;
mod reading;
mod removal;
mod reuse;
mod review;
mod reward_versions;
mod samples;
mod scoring;
mod settings;
mod setup;
mod state_dir;
mod status;
mod step_times;
mod submissions;
mod tasks;
mod tensorboard;
mod upkeep;
mod weights;

use clap::Parser;
use cli::{Cli, Command};
use r1d_proto::world::SystemClock;
use r1d_store::JobLayout;
use settings::Settings;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Exit status for a wrong command line (sysexits' EX_USAGE).
const EXIT_USAGE: u8 = 64;

/// Why a daemon did not start, or ended.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Settings(#[from] settings::SettingsError),
    #[error(transparent)]
    Log(#[from] log::LevelError),
    #[error(transparent)]
    Daemon(#[from] daemon::DaemonError),
}

impl ServeError {
    fn exit_code(&self) -> u8 {
        match self {
            ServeError::Settings(_) | ServeError::Log(_) => daemon::EXIT_CONFIG,
            ServeError::Daemon(error) => error.exit_code(),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            let _ = error.print();
            return if wrong {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let ended: Result<(), Box<dyn Error>> = match cli.command {
        Command::Run { config, place } => return serve(Some(&config), place),
        Command::Dev { place } => return serve(None, place),
        Command::Config { config, .. } => dump_config(config.as_deref()),
        Command::Plugin(command) => match plugin::run(command) {
            Ok(code) => return code,
            Err(error) => Err(error.into()),
        },
        Command::Samples { dir, stage, limit } => print_samples(dir, &stage, limit),
        Command::CompileReward => return r1d_rewards::serve_child(),
        Command::Ingest => return r1d_ingest::serve_child(),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("r1d: {}", r1d_proto::shown::lines(&error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Option<&Path>, place: cli::Locations) -> ExitCode {
    let serve = || -> Result<(), ServeError> {
        let settings = Settings::resolve(config, place)?;
        log::init(&settings.config)?;
        Ok(daemon::serve(settings, SystemClock::shared())?)
    };
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log::last_words(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

fn print_samples(dir: PathBuf, stage: &str, limit: u32) -> Result<(), Box<dyn Error>> {
    let samples = samples::newest(&JobLayout::new(dir), stage, limit)?;
    println!("{}", serde_json::to_string(&samples)?);
    Ok(())
}

fn dump_config(config: Option<&Path>) -> Result<(), Box<dyn Error>> {
    let config = match config {
        Some(path) => settings::read_config(path)?,
        None => r1d_job::DaemonConfig::dev()?,
    };
    print!("{}", config.to_toml());
    Ok(())
}
