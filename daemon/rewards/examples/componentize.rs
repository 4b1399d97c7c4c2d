//! `componentize CORE.wasm COMPONENT.wasm`: makes a component of a core module, for the build of the plugins in this repository.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [from, to] = args.as_slice() else {
        eprintln!("usage: componentize CORE.wasm COMPONENT.wasm");
        return ExitCode::from(64);
    };
    match run(from, to) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("componentize: {}: {e}", from.display());
            ExitCode::FAILURE
        }
    }
}

fn run(from: &Path, to: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let component = r1d_rewards::componentize(&std::fs::read(from)?)?;
    if let Some(dir) = to.parent() {
        std::fs::create_dir_all(dir)?;
    }
    // A daemon that loads the plugin now sees the old file or the new one.
    let part = to.with_extension("part");
    std::fs::write(&part, component)?;
    Ok(std::fs::rename(&part, to)?)
}
