//! `r1d`: the node daemon.
//!
//! | module | what it holds |
//! |---|---|
//! | [`cli`], [`settings`], [`log`], [`notify`] | the command line, what the daemon runs with, its log, messages to systemd |
//! | [`daemon`] | its life: build, listen, run, drain |
//! | [`state_dir`] | the directory that it owns |
//! | [`plugin`] | `r1d plugin`: the reward host without a daemon |
//!
//! The daemon is a controller ([`r1d_controller`]), which decides between jobs, and a node
//! ([`r1d_node`]), which runs them, with a link in memory between them ([`r1d_link`]).

#![warn(clippy::too_many_lines)]

mod allocator;
mod cli;
mod daemon;
mod log;
mod notify;
mod plugin;
mod settings;
mod state_dir;

use clap::Parser;
use cli::{Cli, Command};
use r1d_proto::world::SystemClock;
use r1d_store::JobLayout;
use settings::{Settings, Source};
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
        Command::Run { config, place } => return serve(Source::File(&config), place),
        Command::Dev { devices, place } => return serve(Source::Embedded { devices }, place),
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

fn serve(config: Source<'_>, place: cli::Locations) -> ExitCode {
    allocator::keep_little();
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
    let samples = r1d_node::newest_samples(&JobLayout::new(dir), stage, limit)?;
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
