//! `r1ctl`: the command line of r1d.
//!
//! Data goes to standard output, messages to standard error. `-o json` prints the types of
//! [`r1d_proto::control`] as they are. Neither tensors nor the rewards' sandbox are used here:
//! `model` runs the sibling `r1d-worker`, `plugin` the sibling `r1d`.

#![warn(clippy::too_many_lines)]

mod cli;
mod client;
mod commands;
mod dataset;
mod error;
mod explain;
mod format;
mod job_file;
mod lock;
mod model;
mod pages;
mod plugin;
mod print;
mod report;
mod session;
mod show;
mod sibling;
mod socket;
mod table;
mod terminal;
mod watch;

use clap::Parser;
use cli::Cli;
use error::{EXIT_FAILED, EXIT_USAGE};
use print::Printer;
use r1d_proto::world::SystemClock;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let wrong = error.use_stderr();
            // If standard error is closed, the message has no reader.
            let _ = error.print();
            return if wrong {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    let printer = Printer::new(&cli.global);
    match commands::run(cli, &printer, SystemClock::shared()) {
        Ok(ended) => ended.into(),
        Err(error) if error.is_broken_pipe() => ExitCode::SUCCESS,
        Err(error) => {
            printer.error(&error.to_string());
            ExitCode::from(EXIT_FAILED)
        }
    }
}
