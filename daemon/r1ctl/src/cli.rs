//! The command line, defined once: parsing, help, completions and the man pages come from here.

use clap::{Args, Parser, Subcommand, ValueEnum};
use r1d_proto::control::SampleSort;
use std::path::PathBuf;

/// Submit training jobs to r1d and watch them learn.
#[derive(Debug, Parser)]
#[command(name = "r1ctl", version, max_term_width = 100, disable_help_subcommand = true, after_help = AFTER_HELP)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const AFTER_HELP: &str = "\
Exit codes: 0 ok, 1 failed, 2 job failed or cancelled, 64 wrong command line, 130 interrupted.";

/// The heading that options of every command stand under.
const GLOBAL: &str = "Global options";

#[derive(Debug, Args)]
#[command(next_help_heading = GLOBAL)]
pub struct Global {
    /// The daemon's socket [default: r1d.sock under R1D_STATE_DIR or the local state directory, then /run/r1d/r1d.sock]
    #[arg(long, global = true, env = "R1D_SOCKET", hide_env_values = true, value_name = "PATH", value_parser = any_path())]
    pub socket: Option<PathBuf>,
    /// How to print: a table for people, or JSON
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    pub output: Output,
    /// No colours (also when NO_COLOR is set, and whenever the output is not a terminal)
    #[arg(long, global = true)]
    pub no_color: bool,
    /// Longest wait for a connection, and then for an answer
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub timeout: u64,
}

/// Also an empty one, which an empty R1D_SOCKET gives.
fn any_path() -> impl clap::builder::TypedValueParser<Value = PathBuf> {
    use clap::builder::TypedValueParser;
    clap::builder::OsStringValueParser::new().map(PathBuf::from)
}

impl Global {
    /// How to call r1ctl again so that it finds the same daemon, for hints. The environment stays as it is.
    pub fn again(&self) -> String {
        match &self.socket {
            Some(socket) if std::env::var_os("R1D_SOCKET").is_none() => format!("r1ctl --socket {}", socket.display()),
            _ => "r1ctl".into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Queue a job
    ///
    /// Prints the new job's id. With --wait, shows its progress and ends with a summary; Ctrl-C detaches, the job goes on.
    Submit {
        /// The job file
        #[arg(value_name = "JOB.TOML")]
        file: PathBuf,
        /// Stay until the job has ended; exit code 2 unless it succeeded
        #[arg(short, long)]
        wait: bool,
        /// Jobs of a higher priority start first [default: of the job file]
        #[arg(long, allow_negative_numbers = true, value_name = "N", value_parser = clap::value_parser!(i32).range(-1000..=1000))]
        priority: Option<i32>,
        #[command(flatten)]
        patience: Patience,
    },
    /// List the jobs: running, queued, ended
    List,
    /// Show a job: its stages, metrics and evaluations
    Status {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
        /// Stay until the job has ended; exit code 2 unless it succeeded. With -o json: one line for each change
        #[arg(short, long, visible_alias = "wait")]
        watch: bool,
        #[command(flatten)]
        patience: Patience,
    },
    /// Show a job's log
    Logs {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
        /// Stay and print new lines until the job has ended
        #[arg(short, long)]
        follow: bool,
    },
    /// Stop a job for good; what it has written stays
    Cancel {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
    },
    /// Show what a job would do: stages, tokens, memory, every default filled in
    Plan {
        /// The job file
        #[arg(value_name = "JOB.TOML")]
        file: PathBuf,
    },
    /// Show prompts, completions and what each reward said of them
    Samples {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
        /// Only this stage [default: the latest one that sampled]
        #[arg(long, value_name = "NAME")]
        stage: Option<String>,
        /// Only this step [default: the latest one]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
        step: Option<u64>,
        /// By prompt and sample, best reward first, or longest completion first
        #[arg(long, value_enum, default_value_t = Sort::Order)]
        sort: Sort,
        /// At most so many samples
        #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Tell what a job waits for: who waits, for what, since when, until when
    Why {
        /// Id of a job, or any prefix of it that no other job shares
        job: String,
    },
    /// List the nodes, their devices and reward plugins
    Nodes,
    /// Explain a key of the job file, or list all of them
    Explain {
        /// For example `learning_rate` or `stage.beta`
        key: Option<String>,
    },
    /// Work with a model directory; needs no daemon
    #[command(subcommand)]
    Model(Model),
    /// Stop a daemon that was started by `r1d dev`, after the step in flight
    Shutdown,
    /// Print the completion script of a shell
    Completions { shell: clap_complete::Shell },
    /// Print the man page
    Man {
        /// Write the pages of r1ctl and all its commands into this directory instead
        #[arg(long, value_name = "DIR")]
        dir: Option<PathBuf>,
    },
}

/// How long a watched daemon may be away.
#[derive(Clone, Copy, Debug, Args)]
pub struct Patience {
    /// How long to look for a daemon that went away while waiting for the job
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub reconnect: u64,
}

#[derive(Debug, Subcommand)]
pub enum Model {
    /// Compare a model's logits with golden ones
    ///
    /// Exit code 0 when they agree, 1 when not.
    Verify {
        /// Hugging Face directory
        dir: PathBuf,
        /// safetensors file with `input_ids` [B, T] int64 and `logits` [B, T, V] float32; with `greedy` [1, N] int64, greedy
        /// decoding through the cache is compared too
        #[arg(long, value_name = "FILE")]
        golden: PathBuf,
        /// Adapter in peft's layout (adapter_config.json, adapter_model.safetensors) for the model
        #[arg(long, value_name = "DIR")]
        lora: Option<PathBuf>,
        /// Tolerance, in units of max(1, standard deviation of the golden logits)
        #[arg(long, default_value_t = 2e-5, value_name = "X", allow_negative_numbers = true)]
        atol: f64,
        /// How many ids of `greedy` are its prompt
        #[arg(long, default_value_t = 16, value_name = "N", allow_negative_numbers = true)]
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
        #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
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
        /// Of the new weights
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
        /// Draft with the model's multi-token prediction module: the same completions in fewer steps
        #[arg(long)]
        speculative: bool,
        #[command(flatten)]
        place: Place,
        /// Completions
        #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
        n: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ConvertDtype {
    Float32,
    Bfloat16,
    Float16,
}

/// Where and in what dtype a command computes.
#[derive(Clone, Debug, Args)]
pub struct Place {
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
pub enum ComputeDtype {
    Float32,
    Bfloat16,
}

/// What is not given comes from the model's generation_config.json.
#[derive(Clone, Copy, Debug, Args)]
pub struct Sampling {
    /// Tokens to sample at most [default: of generation_config.json]
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<u32>,
    /// 0 is greedy decoding [default: of generation_config.json, else 1]
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Nucleus: the likeliest tokens that sum to this; 1 is off [default: of generation_config.json, else 1]
    #[arg(long, value_name = "X")]
    pub top_p: Option<f32>,
    /// Only the N likeliest tokens; 0 is off [default: of generation_config.json, else 0]
    #[arg(long, value_name = "N")]
    pub top_k: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    Order,
    Reward,
    Length,
}

impl From<Sort> for SampleSort {
    fn from(sort: Sort) -> Self {
        match sort {
            Sort::Order => SampleSort::Order,
            Sort::Reward => SampleSort::Reward,
            Sort::Length => SampleSort::Length,
        }
    }
}
