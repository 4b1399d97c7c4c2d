//! `r1d-worker convert`: writes a model directory anew, with another dtype or shards of another
//! size, a shard in memory at a time.

use crate::verify::Format;
use r1d_model::{CausalLm, ModelError, checkpoint};
use r1d_shape::{ShapeError, WeightsError};
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use tch::{Device, Kind};

#[derive(clap::Args)]
pub(crate) struct ConvertArguments {
    /// A Hugging Face model directory; FP8 weights with block scales are dequantised.
    pub from: PathBuf,
    /// The new directory, which must not exist.
    pub to: PathBuf,
    /// Data type of the new weights.
    #[arg(long, value_enum, default_value_t = ExportDtype::Bfloat16)]
    pub dtype: ExportDtype,
    /// Largest file, for example 5GB or 500MB (powers of 1000).
    #[arg(long, value_name = "SIZE", default_value = "5GB", value_parser = size)]
    pub shard_size: u64,
    /// Leave out the multi-token prediction module.
    #[arg(long)]
    pub drop_mtp: bool,
    /// Merge an adapter in peft's layout (adapter_config.json, adapter_model.safetensors); the
    /// whole model then stands in memory, in float32.
    #[arg(long, value_name = "DIR")]
    pub lora: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ExportDtype {
    Float32,
    Bfloat16,
    Float16,
}

/// The result; its JSON is part of the command's interface.
#[derive(Serialize)]
struct ConvertReport {
    directory: PathBuf,
    files: usize,
    bytes: u64,
    /// SHA-256 of manifest.json, which lists the hash of every file.
    manifest: String,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ConvertError {
    #[error("{}: {count} tensors belong to a multi-token prediction module; leave them out with \
             --drop-mtp ({problem})", dir.display())]
    PredictionModule {
        dir: PathBuf,
        count: usize,
        problem: String,
    },
    #[error(transparent)]
    Model(#[from] ModelError),
}

pub(crate) fn run(arguments: ConvertArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let report = convert(&arguments)?;
    match arguments.output {
        Format::Text => {
            println!(
                "{}: {} files, {} bytes, manifest {}",
                report.directory.display(),
                report.files,
                report.bytes,
                report.manifest
            )
        }
        Format::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn convert(arguments: &ConvertArguments) -> Result<ConvertReport, ConvertError> {
    let (config, contents) = checkpoint::inspect(&arguments.from, false)?;
    let prediction = contents.left_out > 0 && !arguments.drop_mtp;
    let of_module = |problem: String| ConvertError::PredictionModule {
        dir: arguments.from.clone(),
        count: contents.left_out,
        problem,
    };
    if prediction && arguments.lora.is_some() {
        return Err(of_module("an adapter is merged without it".into()));
    }
    let kind = match arguments.dtype {
        ExportDtype::Float32 => Kind::Float,
        ExportDtype::Bfloat16 => Kind::BFloat16,
        ExportDtype::Float16 => Kind::Half,
    };
    let manifest = checkpoint::write_directory_atomically(&arguments.to, |dir| {
        checkpoint::carry_files(&arguments.from, dir)?;
        match &arguments.lora {
            None => {
                checkpoint::convert(&arguments.from, dir, kind, arguments.shard_size, prediction)
            }
            Some(adapter) => {
                let mut model = CausalLm::load(&arguments.from, Device::Cpu, Kind::Float)?;
                model.load_adapter(adapter)?;
                model.save_as(dir, kind, arguments.shard_size)
            }
        }
    })
    .map_err(|error| match error {
        ModelError::Shape(ShapeError::Config(problem)) if prediction => of_module(problem),
        ModelError::Weights(WeightsError::Missing { ref name, .. })
            if prediction && config.leaves_out(name) =>
        {
            of_module(error.to_string())
        }
        error => error.into(),
    })?;
    Ok(ConvertReport {
        directory: arguments.to.clone(),
        files: manifest.files.len(),
        bytes: manifest.files.iter().map(|file| file.bytes).sum(),
        manifest: manifest.sha256,
    })
}

/// Parses a whole number of bytes, or of KB, MB, GB.
fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("`{text}` is not a size: write for example 5GB, 500MB or 1000000");
    let units = [
        ("GB", 1_000_000_000),
        ("MB", 1_000_000),
        ("KB", 1_000),
        ("", 1),
    ];
    let (digits, unit) = units
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .ok_or_else(wrong)?;
    let number: u64 = digits.trim().parse().map_err(|_| wrong())?;
    number
        .checked_mul(unit)
        .filter(|&bytes| bytes > 0)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_a_unit() {
        assert_eq!(
            (size("5GB"), size("500 MB"), size("17")),
            (Ok(5_000_000_000), Ok(500_000_000), Ok(17))
        );
        for wrong in ["", "GB", "0", "-1", "5TB", "5.5GB", "99999999999999GB"] {
            assert!(size(wrong).unwrap_err().contains("5GB"), "{wrong}");
        }
    }
}
