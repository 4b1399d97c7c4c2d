//! Measures the control plane: what it costs with many jobs, many steps and much data, beside
//! another build in the same run. The README has the goals and what was measured.

#![allow(
    clippy::disallowed_methods,
    reason = "a program that measures time, outside of any simulation"
)]

mod daemon;
mod figure;
mod inputs;
mod ledgers;
mod memory;
mod parts;
mod text;

use clap::Parser;
use daemon::Build;
use figure::{Failed, Figure};
use parts::Sizes;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Measures the control plane.
#[derive(Parser)]
struct Options {
    /// The parts to measure; all if none is named
    #[arg(value_name = "PART", value_parser = parts::NAMES)]
    parts: Vec<String>,
    /// The build to measure: a directory with r1d, r1ctl and examples/fake-worker [default: that of
    /// this program]
    #[arg(long, value_name = "DIR")]
    build: Option<PathBuf>,
    /// Another build to compare with, as `--build` names one; measured in turns with the first
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Divides all sizes, for a quick look
    #[arg(long, value_name = "N", default_value_t = 1)]
    cut: u64,
    /// Millions of bytes of text that the 8 jobs of `memory` read together [default: 2000, divided]
    #[arg(long, value_name = "MB")]
    text_mb: Option<u64>,
    /// Ids of the tokenizer of `memory`
    #[arg(long, value_name = "N", default_value_t = 32_000)]
    ids: usize,
    /// Where state directories and data go; created if need be
    #[arg(long, value_name = "DIR", default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Prints one figure per line, for another run that compares
    #[arg(long)]
    plain: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    match run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed(what)) => {
            eprintln!("bench-control: {what}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), Failed> {
    let own = std::env::current_exe()?;
    let own = own.parent().map(PathBuf::from).unwrap_or_default();
    let build = Build::at(options.build.clone().unwrap_or(own));
    let base = options.base.clone().map(Build::at);
    // What is missing is told now, and not after a quarter of an hour.
    [&build]
        .into_iter()
        .chain(&base)
        .try_for_each(Build::check)?;
    std::fs::create_dir_all(&options.dir)?;
    if !options.plain {
        println!("{}", figure::HEADER);
    }
    let cut = options.cut.max(1);
    let sizes = Sizes {
        cut,
        text_mb: options.text_mb.unwrap_or(2000 / cut),
        ids: options.ids,
    };
    for part in parts::NAMES {
        if !options.parts.is_empty() && !options.parts.iter().any(|named| named == part) {
            continue;
        }
        let of_base = base
            .as_ref()
            .map(|base| of_base(part, base, sizes, options));
        let figures = parts::measure(part, &build, sizes, &options.dir)?;
        for figure in figures {
            if options.plain {
                println!("{}\t{}", figure.name, figure.value);
            } else {
                let of_base = of_base
                    .as_ref()
                    .map(|found| found.as_ref().map_err(|e| e.0.clone()));
                println!("{}", figure.row(part, of_base));
            }
        }
    }
    Ok(())
}

/// The figures of the base: what is measured in the program by the base's own program, and all else
/// by this one on the base's daemon.
fn of_base(
    part: &str,
    base: &Build,
    sizes: Sizes,
    options: &Options,
) -> Result<Vec<Figure>, Failed> {
    if !parts::IN_THE_PROGRAM.contains(&part) {
        return parts::measure(part, base, sizes, &options.dir);
    }
    let own = base.program("bench-control");
    if !own.is_file() {
        return Err(Failed("the base has no bench-control".into()));
    }
    let output = Command::new(own)
        .args([part, "--plain", "--cut", &sizes.cut.to_string(), "--dir"])
        .arg(&options.dir)
        .output()?;
    if !output.status.success() {
        return Err(Failed(
            String::from_utf8_lossy(&output.stderr).trim().into(),
        ));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let figure = |line: &str| {
        let (name, value) = line.split_once('\t')?;
        Some(Figure::new(name, value.parse().ok()?, "", None))
    };
    Ok(text.lines().filter_map(figure).collect())
}
