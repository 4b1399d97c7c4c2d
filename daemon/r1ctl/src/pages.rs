//! Completions and man pages, from the definition in [`crate::cli`].

use crate::cli::Cli;
use crate::error::{Ended, Error};
use crate::print;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

pub(crate) fn completions(shell: Shell) -> Result<Ended, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "r1ctl", &mut script);
    print::data(&String::from_utf8_lossy(&script))?;
    Ok(Ended::Ok)
}

/// Prints the page of `r1ctl`, or writes those of it and all its commands into a directory.
pub(crate) fn man(directory: Option<&Path>) -> Result<Ended, Error> {
    match directory {
        Some(dir) => {
            let written = std::fs::create_dir_all(dir)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), dir));
            written.map_err(|source| Error::ManPages {
                dir: dir.into(),
                source,
            })?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            print::data(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(Ended::Ok)
}
