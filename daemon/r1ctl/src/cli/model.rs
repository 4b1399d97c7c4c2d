//! The arguments of `r1ctl model`.

use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum Model {
    /// Compare a model's logits with golden ones
    ///
    /// Exit code 0 when they agree, 1 when not.
    Verify {
        /// Hugging Face directory
        dir: PathBuf,
        /// safetensors file with `input_ids` [B, T] int64 and `logits` [B, T, V] float32; with
        /// `greedy` [1, N] int64, greedy decoding through the cache is compared too
        #[arg(long, value_name = "FILE")]
        golden: PathBuf,
        /// Adapter in peft's layout (adapter_config.json, adapter_model.safetensors) for the model
        #[arg(long, value_name = "DIR")]
        lora: Option<PathBuf>,
        /// Tolerance, in units of max(1, standard deviation of the golden logits)
        #[arg(
            long,
            default_value_t = 2e-5,
            value_name = "X",
            allow_negative_numbers = true
        )]
        atol: f64,
        /// How many ids of `greedy` are its prompt
        #[arg(
            long,
            default_value_t = 16,
            value_name = "N",
            allow_negative_numbers = true
        )]
        prompt_len: u32,
        #[command(flatten)]
        place: Place,
    },
    /// Describe a model: parameters, dtypes, memory to sample and to train
    ///
    /// Every tensor must be there in the shape that config.json asks for, and no other.
    Info {
        /// Hugging Face directory
        dir: PathBuf,
        /// Sequences that are sampled at a time
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64)
            .range(1..))]
        batch: u64,
        /// Tokens of each [default: the model's positions]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        length: Option<u64>,
        /// Read every weight too, and refuse those that are not finite
        #[arg(long)]
        check: bool,
    },
    /// Write a model directory anew, with another dtype or shards of another size
    Convert {
        /// Hugging Face directory; FP8 weights with block scales are dequantised
        from: PathBuf,
        /// The new directory, which must not exist
        to: PathBuf,
        /// Data type of the new weights
        #[arg(long, value_enum, default_value_t = ConvertDtype::Bfloat16)]
        dtype: ConvertDtype,
        /// Largest file, for example 5GB or 500MB (powers of 1000)
        #[arg(long, value_name = "SIZE", default_value = "5GB")]
        shard_size: String,
        /// Leave out the multi-token prediction module
        #[arg(long)]
        drop_mtp: bool,
        /// Merge an adapter in peft's layout; the whole model then stands in memory, in float32
        #[arg(long, value_name = "DIR")]
        lora: Option<PathBuf>,
    },
    /// Continue a prompt
    Generate {
        /// Hugging Face directory, with a tokenizer
        dir: PathBuf,
        /// The text to continue, as it is: no template is applied
        #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
        prompt: String,
        #[command(flatten)]
        sampling: Sampling,
        /// The same seed gives the same completions
        #[arg(long, default_value_t = 0, value_name = "N")]
        seed: u64,
        /// Draft with the model's multi-token prediction module: the same completions, up to
        /// rounding, in fewer steps
        #[arg(long)]
        speculative: bool,
        #[command(flatten)]
        place: Place,
        /// Completions
        #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u32)
            .range(1..=65_536))]
        n: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConvertDtype {
    Float32,
    Bfloat16,
    Float16,
}

/// The device and data type that a command computes with.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// `cpu` or `cuda:N`
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// What weights and activations are kept in
    #[arg(long, value_enum, default_value_t = ComputeDtype::Float32)]
    pub dtype: ComputeDtype,
    /// Multiply linear layers in FP8: with bfloat16, on an H100 or H200
    #[arg(long)]
    pub fp8: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ComputeDtype {
    Float32,
    Bfloat16,
}

/// What is not given comes from the model's generation_config.json.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct Sampling {
    /// Tokens to sample at most [default: of generation_config.json]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<u32>,
    /// 0 is greedy decoding [default: of generation_config.json, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Nucleus: the likeliest tokens that sum to this; 1 is off [default: of
    /// generation_config.json, else 1]
    #[arg(long, value_name = "X")]
    pub top_p: Option<f32>,
    /// Only the N likeliest tokens; 0 is off [default: of generation_config.json, else 0]
    #[arg(long, value_name = "N")]
    pub top_k: Option<u32>,
}
