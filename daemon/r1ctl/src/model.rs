//! `r1ctl model`: the sibling binary `r1d-worker` does what needs tensors. Its output and exit code
//! are passed through.

use crate::cli::Output;
use crate::cli::model::{ComputeDtype, ConvertDtype, Model, Place, Sampling};
use crate::error::{Ended, Error};
use crate::sibling::{self, option};
use r1d_job::DaemonConfig;
use r1d_proto::user_file;
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};

const SIBLING: &str = "r1d-worker";
/// This variable names libtorch's directory, for a worker that was not built in place (its own run
/// path is searched last).
const TORCH_LIB_VARIABLE: &str = "R1D_TORCH_LIB";
/// The configuration of the service on this machine.
const SYSTEM_CONFIG: &str = "/etc/r1d/r1d.toml";
/// The dynamic linker's exit status if it does not find a library.
const EXIT_NO_LIBRARY: i32 = 127;

pub(crate) fn run(command: Model, output: Output) -> Result<Ended, Error> {
    let program = sibling::find(SIBLING);
    let named = std::env::var_os(TORCH_LIB_VARIABLE).filter(|named| !named.is_empty());
    let mut worker = Command::new(&program);
    worker.args(arguments(command, output));
    if let Some(path) = library_path(
        named.or_else(|| service_lib(&program, Path::new(SYSTEM_CONFIG))),
        std::env::var_os("LD_LIBRARY_PATH"),
    ) {
        worker.env("LD_LIBRARY_PATH", path);
    }
    let status = sibling::run(&mut worker)?;
    match status.code() {
        Some(EXIT_NO_LIBRARY) => Err(Error::SiblingLibrary {
            program,
            variable: TORCH_LIB_VARIABLE,
        }),
        _ => sibling::ended(SIBLING, status),
    }
}

/// A larger file is not a configuration file.
const CONFIG_MAX_BYTES: u64 = 1 << 20;

/// The libtorch of the service on this machine, for a worker that does not find its own. A worker
/// that was built in place finds its own, and must not get another release's.
fn service_lib(worker: &Path, config: &Path) -> Option<OsString> {
    let text = user_file::read_text(config, CONFIG_MAX_BYTES).ok()?;
    let config = DaemonConfig::parse(&text, config.parent()?).ok()?;
    let lib = config.torch.lib?;
    let tried = Command::new(worker)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    (tried.ok()?.code() == Some(EXIT_NO_LIBRARY)).then(|| lib.into_os_string())
}

fn arguments(command: Model, output: Output) -> Vec<OsString> {
    let mut words = match command {
        Model::Verify {
            dir,
            golden,
            lora,
            atol,
            prompt_len,
            place,
        } => {
            let mut words = vec!["verify".into(), dir.into(), option("golden", golden)];
            words.extend(lora.map(|dir| option("lora", dir)));
            words.push(option("atol", atol.to_string()));
            words.push(option("prompt-len", prompt_len.to_string()));
            words.extend(place_words(place));
            words
        }
        Model::Info {
            dir,
            batch,
            length,
            check,
        } => {
            let mut words = vec!["info".into(), dir.into()];
            words.push(option("batch", batch.to_string()));
            words.extend(length.map(|n| option("length", n.to_string())));
            words.extend(check.then(|| "--check".into()));
            words
        }
        Model::Convert {
            from,
            to,
            dtype,
            shard_size,
            drop_mtp,
            lora,
        } => {
            let mut words = vec!["convert".into(), from.into(), to.into()];
            words.push(option("dtype", dtype_word(dtype)));
            words.push(option("shard-size", shard_size));
            words.extend(drop_mtp.then(|| "--drop-mtp".into()));
            words.extend(lora.map(|dir| option("lora", dir)));
            words
        }
        Model::Generate {
            dir,
            prompt,
            sampling,
            seed,
            speculative,
            place,
            n,
        } => {
            let mut words = vec!["generate".into(), dir.into(), option("prompt", prompt)];
            words.extend(sampling_words(sampling));
            words.push(option("seed", seed.to_string()));
            words.extend(speculative.then(|| "--speculative".into()));
            words.extend(place_words(place));
            words.extend(["-n".into(), n.to_string().into()]);
            words
        }
    };
    let output = match output {
        Output::Json => "json",
        Output::Table => "text",
    };
    words.push(option("output", output));
    words
}

fn dtype_word(dtype: ConvertDtype) -> &'static str {
    match dtype {
        ConvertDtype::Float32 => "float32",
        ConvertDtype::Bfloat16 => "bfloat16",
        ConvertDtype::Float16 => "float16",
    }
}

fn sampling_words(sampling: Sampling) -> impl Iterator<Item = OsString> {
    let Sampling {
        max_new_tokens,
        temperature,
        top_p,
        top_k,
    } = sampling;
    [
        ("max-new-tokens", max_new_tokens.map(|n| n.to_string())),
        ("temperature", temperature.map(|x| x.to_string())),
        ("top-p", top_p.map(|x| x.to_string())),
        ("top-k", top_k.map(|n| n.to_string())),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(option(name, value?)))
}

fn place_words(Place { device, dtype, fp8 }: Place) -> impl Iterator<Item = OsString> {
    let dtype = match dtype {
        ComputeDtype::Float32 => "float32",
        ComputeDtype::Bfloat16 => "bfloat16",
    };
    [option("device", device), option("dtype", dtype)]
        .into_iter()
        .chain(fp8.then(|| "--fp8".into()))
}

/// Puts the named directory before those in the environment; `None` if none is named.
fn library_path(named: Option<OsString>, listed: Option<OsString>) -> Option<OsString> {
    let mut path = named.filter(|named| !named.is_empty())?;
    if let Some(listed) = listed.filter(|listed| !listed.is_empty()) {
        path.push(OsStr::new(":"));
        path.push(listed);
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// The service's libtorch is for a worker that finds none; a worker that finds its own keeps
    /// it.
    #[test]
    fn a_worker_without_libraries_gets_those_of_the_service() {
        let dir = tempfile::tempdir().unwrap();
        let (worker, config) = (dir.path().join("r1d-worker"), dir.path().join("r1d.toml"));
        let found = |code: i32, text: &str| {
            std::fs::write(&worker, format!("#!/bin/sh\nexit {code}\n")).unwrap();
            std::fs::set_permissions(&worker, std::fs::Permissions::from_mode(0o755)).unwrap();
            std::fs::write(&config, text).unwrap();
            service_lib(&worker, &config)
        };
        let named = "[torch]\nlib = \"/opt/r1d/libtorch/lib\"\n";
        assert_eq!(found(127, named), Some("/opt/r1d/libtorch/lib".into()));
        assert_eq!(found(0, named), None);
        assert_eq!(found(127, ""), None);
        assert_eq!(found(127, "no toml"), None);
        assert_eq!(service_lib(&worker, &dir.path().join("none.toml")), None);
    }
}
