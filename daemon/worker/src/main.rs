//! `r1d-worker`: the one process of r1d that loads libtorch, one per device.
//!
//! `serve` is what `r1d` starts; `verify`, `generate`, `info` and `convert` are what `r1ctl model`
//! runs, without a daemon.

#![warn(clippy::too_many_lines)]

mod actors;
mod checkpoints;
mod checksum;
mod convert;
mod device;
mod failure;
mod gang;
mod generate;
mod host_memory;
mod info;
mod open;
mod outbox;
mod place;
mod probe;
mod reward_model;
mod saving;
mod serve;
mod shares;
mod source;
mod verify;

use clap::{Parser, Subcommand};
use r1d_proto::worker::EXIT_NO_DEVICE;
use std::process::ExitCode;

/// Exit status after a panic on the device's thread.
pub const EXIT_PANIC: i32 = 70;
/// Exit status for a wrong command line (sysexits' EX_USAGE).
const EXIT_USAGE: u8 = 64;

/// The compute process of r1d.
#[derive(Parser)]
#[command(name = "r1d-worker", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve r1d over the socket on standard input.
    Serve(serve::ServeArguments),
    /// Try whether this process finds its libraries and its device, and whether the device computes
    /// as it should, and leave.
    Probe(probe::Probe),
    /// Compare a model directory with golden logits.
    Verify(verify::VerifyArguments),
    /// Continue a prompt.
    Generate(generate::GenerateArguments),
    /// Describe a model directory.
    Info(info::InfoArguments),
    /// Write a model directory anew.
    Convert(convert::ConvertArguments),
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let usage = error.use_stderr();
            let _ = error.print();
            return if usage {
                ExitCode::from(EXIT_USAGE)
            } else {
                ExitCode::SUCCESS
            };
        }
    };
    // A person who runs a command wants its answer alone.
    let level = if matches!(arguments.command, Command::Serve(_)) {
        "info"
    } else {
        "warn"
    };
    tracing_subscriber::fmt()
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("R1D_LOG").unwrap_or_else(|_| level.into()),
        )
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let ended = match arguments.command {
        Command::Serve(arguments) => serve::run(arguments),
        Command::Probe(arguments) => probe::run(arguments),
        Command::Verify(arguments) => verify::run(arguments),
        Command::Generate(arguments) => generate::run(arguments),
        Command::Info(arguments) => info::run(arguments),
        Command::Convert(arguments) => convert::run(arguments),
    };
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!(
                "r1d-worker: {}",
                r1d_proto::shown::lines(&error.to_string())
            );
            match error.downcast_ref::<serve::ServeError>() {
                Some(serve::ServeError::Device(..)) => ExitCode::from(EXIT_NO_DEVICE),
                _ => ExitCode::FAILURE,
            }
        }
    }
}
