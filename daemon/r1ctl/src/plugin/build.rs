//! `plugin build`: from sources to the component that a job names.
//!
//! A Rust crate needs only cargo and the target wasm32-unknown-unknown; the sibling `r1d` makes a
//! component of the module. A directory without a Cargo.toml has a script `build` that makes
//! `NAME.wasm` with the public tools of its language.

use super::componentize;
use crate::error::Error;
use serde::Deserialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const TARGET: &str = "wasm32-unknown-unknown";
const GOLDEN: &str = "golden.jsonl";
/// A build that is fast, small, and gives the same bytes each time. It needs no entry in the
/// crate's manifest.
const PROFILE: [&str; 8] = [
    "inherits='release'",
    "opt-level=3",
    "lto='fat'",
    "codegen-units=1",
    "incremental=false",
    "debug=false",
    "strip=true",
    "panic='abort'",
];
/// Stack in the sandbox: deep recursion ends in a trap that costs no memory.
const STACK_BYTES: u32 = 128 << 10;

/// Builds a plugin; returns the component's path.
pub(super) fn run(path: &Path, out: Option<&Path>) -> Result<PathBuf, Error> {
    if path.is_file() {
        let out = out.map_or_else(|| path.with_extension("component.wasm"), PathBuf::from);
        componentize(path, &out, None)?;
        return Ok(out);
    }
    if path.join("Cargo.toml").is_file() {
        return build_crate(path, out);
    }
    if path.join("build").is_file() {
        return run_script(path, out);
    }
    Err(Error::Plugin(format!(
        "{}: neither a Cargo.toml nor a script `build` is here; start a plugin with `r1ctl plugin \
         new NAME`",
        path.display()
    )))
}

/// Runs the golden cases without a sandbox: `cargo test`, or the template's script in the
/// language's own interpreter.
pub(super) fn test_natively(dir: &Path) -> Result<(), Error> {
    let scripts = [("test_golden.py", "python3"), ("test_golden.js", "node")];
    let (mut command, what) = if dir.join("Cargo.toml").is_file() {
        let mut cargo = cargo(dir);
        cargo.args(["test", "--quiet", "--release"]);
        (cargo, "cargo test".to_owned())
    } else if let Some((script, interpreter)) = scripts
        .iter()
        .find(|(script, _)| dir.join(script).is_file())
    {
        let mut command = Command::new(interpreter);
        command.arg(script).current_dir(dir).stdin(Stdio::null());
        (command, format!("{interpreter} {script}"))
    } else {
        return Ok(());
    };
    // Our standard output is kept for the results of the sandbox.
    let status = command
        .stdout(std::io::stderr())
        .status()
        .map_err(|source| Error::Plugin(format!("cannot run `{what}`: {source}")))?;
    if status.success() {
        Ok(())
    } else {
        Err(Error::Plugin(format!("{}: `{what}` failed", dir.display())))
    }
}

fn cargo(dir: &Path) -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(dir).stdin(Stdio::null());
    cargo
}

fn no_cargo(source: &std::io::Error) -> Error {
    Error::Plugin(format!(
        "cannot run cargo: {source}: install Rust from https://rustup.rs"
    ))
}

/// A cargo message about an artifact, in JSON.
#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    #[serde(default)]
    target: Option<Target>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

fn build_crate(dir: &Path, out: Option<&Path>) -> Result<PathBuf, Error> {
    require_target(dir)?;
    let mut cargo = cargo(dir);
    cargo.args([
        "build",
        "--quiet",
        "--profile",
        "plugin",
        "--lib",
        "--target",
        TARGET,
        "--message-format",
        "json-render-diagnostics",
    ]);
    for setting in PROFILE {
        cargo.args(["--config", &format!("profile.plugin.{setting}")]);
    }
    let built = cargo
        .env("RUSTFLAGS", flags(dir))
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let built = built
        .spawn()
        .and_then(|child| child.wait_with_output())
        .map_err(|source| no_cargo(&source))?;
    if !built.status.success() {
        return Err(Error::Plugin(format!(
            "{}: it does not build",
            dir.display()
        )));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    // The crate itself comes last; its dependencies may build a cdylib too.
    let module = messages
        .lines()
        .rev()
        .filter_map(|line| serde_json::from_str::<Message>(line).ok())
        .find_map(|message| {
            let cdylib = message.reason == "compiler-artifact"
                && message
                    .target
                    .as_ref()?
                    .kind
                    .iter()
                    .any(|kind| kind == "cdylib");
            let file = message.filenames.into_iter().find(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "wasm")
            })?;
            cdylib.then_some((message.target?.name, file))
        });
    let Some((name, module)) = module else {
        return Err(Error::Plugin(format!(
            "{}: no cdylib: add `crate-type = [\"cdylib\", \"rlib\"]` to [lib]",
            dir.display()
        )));
    };
    let out = out.map_or_else(
        || dir.join(format!("{}.wasm", name.replace('_', "-"))),
        PathBuf::from,
    );
    componentize(&module, &out, golden(dir).as_deref())?;
    Ok(out)
}

fn golden(dir: &Path) -> Option<PathBuf> {
    Some(dir.join(GOLDEN)).filter(|path| path.is_file())
}

fn require_target(dir: &Path) -> Result<(), Error> {
    let mut rustc = Command::new("rustc");
    let Some(sysroot) = printed(rustc.current_dir(dir).args(["--print", "sysroot"])) else {
        return Ok(());
    };
    if Path::new(&sysroot)
        .join("lib/rustlib")
        .join(TARGET)
        .is_dir()
    {
        return Ok(());
    }
    Err(Error::Plugin(format!(
        "this Rust cannot build for {TARGET} yet: run `rustup target add {TARGET}`"
    )))
}

/// Compiler flags: a small stack; and this machine's paths get the same names on every machine, so
/// that the same sources give the same bytes.
fn flags(dir: &Path) -> OsString {
    let mut flags = OsString::from(format!("-C link-arg=-zstack-size={STACK_BYTES}"));
    let mut remap = |from: &Path, to: &str| {
        // cargo splits RUSTFLAGS at blanks.
        if !from.to_string_lossy().contains(char::is_whitespace) {
            flags.push(" --remap-path-prefix=");
            flags.push(from);
            flags.push("=");
            flags.push(to);
        }
    };
    let mut rustc = Command::new("rustc");
    if let Some(sysroot) = printed(rustc.current_dir(dir).args(["--print", "sysroot"])) {
        remap(&Path::new(&sysroot).join("lib/rustlib/src/rust"), "/rustc");
    }
    if let Ok(dir) = dir.canonicalize() {
        remap(&dir, "/plugin");
    }
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home =
        home.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let registries = home.and_then(|home| std::fs::read_dir(home.join("registry/src")).ok());
    for registry in registries.into_iter().flatten().flatten() {
        remap(&registry.path(), "/crates");
    }
    flags
}

fn printed(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .ok()
        .filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Runs the script of a plugin in another language. It makes `NAME.wasm`, a component, in its
/// directory, whose name is NAME.
fn run_script(dir: &Path, out: Option<&Path>) -> Result<PathBuf, Error> {
    let absolute = dir.canonicalize().map_err(|source| Error::File {
        path: dir.into(),
        source,
    })?;
    let name = absolute
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let made = dir.join(format!("{name}.wasm"));
    let mut script = Command::new("sh");
    let status = script
        .arg("build")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(std::io::stderr())
        .status();
    let status = status.map_err(|source| Error::File {
        path: dir.join("build"),
        source,
    })?;
    if !status.success() {
        return Err(Error::Plugin(format!(
            "{}: its script `build` failed",
            dir.display()
        )));
    }
    if !made.is_file() {
        return Err(Error::Plugin(format!(
            "{}: its script `build` left no {name}.wasm",
            dir.display()
        )));
    }
    let out = out.map_or_else(|| made.clone(), PathBuf::from);
    if let Some(golden) = golden(dir) {
        componentize(&made, &out, Some(&golden))?;
    } else if out != made {
        std::fs::copy(&made, &out).map_err(|source| Error::File {
            path: out.clone(),
            source,
        })?;
    }
    Ok(out)
}
