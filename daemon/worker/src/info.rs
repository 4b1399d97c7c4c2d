//! `r1d-worker info`: describes a model directory and the memory that it needs, from config.json
//! and the shards' headers.

use crate::verify::Format;
use r1d_model::checkpoint::{self, Contents};
use r1d_model::{Config, ModelError};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct InfoArguments {
    /// A Hugging Face model directory.
    pub dir: PathBuf,
    /// Sequences that are sampled at a time.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64)
        .range(1..))]
    pub batch: u64,
    /// Tokens of each [default: the model's positions].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub length: Option<u64>,
    /// Read every weight too, and refuse those that are not finite.
    #[arg(long)]
    pub check: bool,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// The result; its JSON is part of the command's interface. Sizes are in bytes; `memory` is by
/// dtype of the weights: `float32`, `bfloat16`.
#[derive(Debug, Serialize)]
pub(crate) struct InfoReport {
    pub architecture: String,
    pub parameters: u64,
    /// Parameters that are used for one token.
    pub active_parameters: u64,
    pub layers: u64,
    pub moe_layers: u64,
    pub vocab_size: u64,
    pub max_position_embeddings: u64,
    pub shards: usize,
    pub weight_bytes: u64,
    /// The number of tensors in the files, by dtype in safetensors' names.
    pub dtypes: BTreeMap<String, usize>,
    /// Tensors of the multi-token prediction module, which are not counted above.
    pub left_out: usize,
    pub batch: u64,
    pub length: u64,
    pub memory: BTreeMap<&'static str, Memory>,
    /// `true` if every weight was read and is finite; `null` without `--check`.
    pub finite: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Memory {
    pub cache_bytes_per_token: u64,
    /// Bytes of the weights and of the cache for `batch` sequences of `length` tokens, without
    /// activations.
    pub sample: u64,
    /// Bytes of weights, gradients, AdamW's moments, and for bfloat16 also of float32 weights,
    /// without activations.
    pub train: u64,
}

pub(crate) fn run(arguments: InfoArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let report = report(&arguments)?;
    match arguments.output {
        Format::Text => print!("{report}"),
        Format::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn report(arguments: &InfoArguments) -> Result<InfoReport, ModelError> {
    let (config, contents) = checkpoint::inspect(&arguments.dir, arguments.check)?;
    let summary = config.summary();
    let length = arguments
        .length
        .unwrap_or(config.max_position_embeddings as u64);
    let Contents {
        shards,
        bytes,
        dtypes,
        left_out,
    } = contents;
    let memory = |value_bytes: u64, master_bytes: u64| {
        memory(
            &config,
            summary.parameters,
            value_bytes,
            master_bytes,
            arguments.batch.saturating_mul(length),
        )
    };
    Ok(InfoReport {
        architecture: summary.architecture.clone(),
        parameters: summary.parameters,
        active_parameters: summary.active_parameters,
        layers: config.num_hidden_layers as u64,
        moe_layers: config.moe_layers as u64,
        vocab_size: config.vocab_size as u64,
        max_position_embeddings: config.max_position_embeddings as u64,
        shards,
        weight_bytes: bytes,
        dtypes: dtypes.into_iter().collect(),
        left_out,
        batch: arguments.batch,
        length,
        memory: BTreeMap::from([("float32", memory(4, 0)), ("bfloat16", memory(2, 4))]),
        finite: arguments.check.then_some(true),
    })
}

/// Memory as a job's plan counts it: gradients are of the weights' dtype, both moments float32.
fn memory(
    config: &Config,
    parameters: u64,
    value_bytes: u64,
    master_bytes: u64,
    tokens: u64,
) -> Memory {
    let weights = parameters * value_bytes;
    let cache_bytes_per_token = config.cache_values_per_token() * value_bytes;
    Memory {
        cache_bytes_per_token,
        sample: weights.saturating_add(tokens.saturating_mul(cache_bytes_per_token)),
        train: 2 * weights + parameters * (2 * 4 + master_bytes),
    }
}

impl fmt::Display for InfoReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |name: &str, value: String| writeln!(f, "{name:<22}{value}");
        let moe = if self.moe_layers > 0 {
            format!(", {} with experts", self.moe_layers)
        } else {
            String::new()
        };
        line("architecture", self.architecture.clone())?;
        line(
            "parameters",
            format!("{} ({})", grouped(self.parameters), short(self.parameters)),
        )?;
        if self.active_parameters != self.parameters {
            line(
                "active per token",
                format!(
                    "{} ({})",
                    grouped(self.active_parameters),
                    short(self.active_parameters)
                ),
            )?;
        }
        line("layers", format!("{}{moe}", self.layers))?;
        line("vocabulary", grouped(self.vocab_size))?;
        line("positions", grouped(self.max_position_embeddings))?;
        let dtypes: Vec<String> = self
            .dtypes
            .iter()
            .map(|(dtype, count)| format!("{count} {dtype}"))
            .collect();
        line(
            "weights",
            format!(
                "{} in {} file(s): {} tensors",
                bytes(self.weight_bytes),
                self.shards,
                dtypes.join(", ")
            ),
        )?;
        if self.left_out > 0 {
            line(
                "beside it",
                format!(
                    "{} tensors of a multi-token prediction module",
                    self.left_out
                ),
            )?;
        }
        if self.finite == Some(true) {
            line("checked", "every weight is finite".to_owned())?;
        }
        for (dtype, memory) in &self.memory {
            line(
                &format!("{dtype}, cache"),
                format!("{} a token", bytes(memory.cache_bytes_per_token)),
            )?;
            let sampled = format!(
                "{} ({} x {} tokens)",
                bytes(memory.sample),
                self.batch,
                grouped(self.length)
            );
            line(&format!("{dtype}, to sample"), sampled)?;
            line(&format!("{dtype}, to train"), bytes(memory.train))?;
        }
        writeln!(
            f,
            "Memory is of weights, cache and optimiser. Activations come on top; sampling on the \
             CPU keeps the matrices once more, rearranged."
        )
    }
}

/// Groups digits: 671026404352 → 671,026,404,352.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let parts: Vec<&str> = digits
        .as_bytes()
        .rchunks(3)
        .rev()
        .filter_map(|part| std::str::from_utf8(part).ok())
        .collect();
    parts.join(",")
}

fn scaled(number: u64, step: f64, units: &[&str]) -> String {
    let mut value = number as f64;
    let mut unit = 0;
    while value >= step && unit + 1 < units.len() {
        value /= step;
        unit += 1;
    }
    if unit == 0 {
        format!("{number}{}", units[0])
    } else {
        format!("{value:.1}{}", units[unit])
    }
}

fn short(number: u64) -> String {
    scaled(number, 1000.0, &["", " K", " M", " B"])
}

fn bytes(number: u64) -> String {
    scaled(number, 1024.0, &[" B", " KiB", " MiB", " GiB", " TiB"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(
            (grouped(671_026_404_352), grouped(12)),
            ("671,026,404,352".into(), "12".into())
        );
        assert_eq!(
            (short(671_026_404_352), short(999)),
            ("671.0 B".into(), "999".into())
        );
        assert_eq!(
            (bytes(70_272), bytes(12)),
            ("68.6 KiB".into(), "12 B".into())
        );
    }
}
