//! `r1d-worker generate`: continues a prompt with a model directory and its tokenizer.

use crate::place::Place;
use crate::verify::Format;
use r1d_data::Tokenizer;
use r1d_model::CausalLm;
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::rollout::{FinishReason, Rollout};
use r1d_proto::user_file;
use r1d_proto::worker::{Generate, Group, Slots};
use r1d_proto::world::SystemClock;
use r1d_sampler::Sampler;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const MAX_NEW_TOKENS_DEFAULT: u32 = 256;
/// Completions decoded at a time (`LIM-1`).
const SLOTS_MAX: u32 = 64;
const GENERATION_CONFIG: &str = "generation_config.json";
const GENERATION_CONFIG_MAX_BYTES: u64 = 1 << 20;

#[derive(clap::Args)]
pub(crate) struct GenerateArguments {
    /// A Hugging Face model directory with a tokenizer.
    pub dir: PathBuf,
    /// The text to continue, as it is: no template is applied.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,
    /// Tokens [default: of generation_config.json, else 256 or what the model's positions leave].
    #[arg(long, value_name = "N")]
    pub max_new_tokens: Option<u32>,
    /// 0 is greedy [default: of generation_config.json, else 1].
    #[arg(long)]
    pub temperature: Option<f32>,
    /// Nucleus: the likeliest ids that sum to this; 1 is off [default: of generation_config.json,
    /// else 1].
    #[arg(long)]
    pub top_p: Option<f32>,
    /// The k likeliest ids; 0 is off [default: of generation_config.json, else 0].
    #[arg(long)]
    pub top_k: Option<u32>,
    /// The same seed gives the same completions.
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Completions.
    #[arg(short, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub n: u32,
    /// Draft with the model's multi-token prediction module: the same completions in fewer steps.
    #[arg(long)]
    pub speculative: bool,
    #[command(flatten)]
    pub place: Place,
    #[arg(short, long, value_enum, default_value_t = Format::Text)]
    pub output: Format,
}

/// The fields of generation_config.json that are used; `do_sample = false` means greedy decoding.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct GenerationConfig {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<u32>,
    max_new_tokens: Option<u32>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerateError {
    #[error("{}: {message}", file.display())]
    GenerationConfig { file: PathBuf, message: String },
    #[error(
        "the prompt has {prompt_tokens} tokens; with {max_new_tokens} more (--max-new-tokens) it \
         exceeds the model's {positions} positions"
    )]
    Positions {
        prompt_tokens: usize,
        max_new_tokens: u32,
        positions: i64,
    },
}

#[derive(Serialize)]
struct Generated {
    prompt: String,
    prompt_ids: Vec<u32>,
    completions: Vec<Completion>,
    /// Share of the drafted ids that were accepted; absent without speculative decoding.
    #[serde(skip_serializing_if = "Option::is_none")]
    draft_acceptance_rate: Option<f64>,
}

#[derive(Serialize)]
struct Completion {
    text: String,
    ids: Vec<u32>,
    finish: FinishReason,
}

pub(crate) fn run(arguments: GenerateArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let generated = generate(&arguments)?;
    match arguments.output {
        Format::Json => println!("{}", serde_json::to_string(&generated)?),
        Format::Text => {
            for (i, completion) in generated.completions.iter().enumerate() {
                if generated.completions.len() > 1 {
                    println!("[{}]", i + 1);
                }
                println!("{}", completion.text);
            }
            if let Some(rate) = generated.draft_acceptance_rate {
                eprintln!("{:.1} % of the drafts were accepted", 100.0 * rate);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn generate(arguments: &GenerateArguments) -> Result<Generated, Box<dyn std::error::Error>> {
    let tokenizer = Tokenizer::open(&arguments.dir)?;
    let config = GenerationConfig::read(&arguments.dir)?;
    let load = if arguments.speculative {
        CausalLm::load_with_prediction
    } else {
        CausalLm::load
    };
    let (device, kind) = arguments.place.open()?;
    let mut model = load(&arguments.dir, device, kind)?;
    model.set_fp8(arguments.place.fp8);
    tokenizer.check_vocabulary(u32::try_from(model.config.vocab_size)?)?;
    let prompt_ids = tokenizer.encode(&arguments.prompt, true)?;
    let max_new_tokens = max_new_tokens(
        arguments,
        &config,
        prompt_ids.len(),
        model.config.max_position_embeddings,
    )?;
    let sampling = sampling(arguments, &config, max_new_tokens, tokenizer.eos_ids());

    let slots = Slots::of(
        arguments.n.min(SLOTS_MAX),
        prompt_ids.len() as u32 + max_new_tokens,
    );
    let groups = vec![Group {
        prompt: 0,
        row: 0,
        prompt_ids: prompt_ids.clone(),
        samples: (0..arguments.n).collect(),
    }];
    let request = Generate {
        stage: 0,
        step: 0,
        policy_version: 0,
        sampling,
        record_experts: false,
        groups,
    };
    let mut rollouts: Vec<Rollout> = vec![];
    let mut sampler = Sampler::new(&model, slots, false, SystemClock::shared())?
        .with_speculation(arguments.speculative);
    let metrics = sampler.generate(
        &model,
        &request,
        &mut |rollout| rollouts.push(rollout),
        &mut |_, _| {},
    )?;
    rollouts.sort_by_key(|rollout| rollout.key.sample);
    let completions = rollouts.into_iter().map(|rollout| {
        let text = tokenizer.decode(&rollout.completion_ids, true)?;
        Ok::<_, r1d_data::DataError>(Completion {
            text,
            ids: rollout.completion_ids,
            finish: rollout.finish,
        })
    });
    Ok(Generated {
        prompt: arguments.prompt.clone(),
        prompt_ids,
        completions: completions.collect::<Result<_, _>>()?,
        draft_acceptance_rate: metrics.get("perf/draft_acceptance_rate").copied(),
    })
}

impl GenerationConfig {
    fn read(dir: &Path) -> Result<GenerationConfig, GenerateError> {
        let file = dir.join(GENERATION_CONFIG);
        let bad = |message: String| GenerateError::GenerationConfig {
            file: file.clone(),
            message,
        };
        match user_file::read(&file, GENERATION_CONFIG_MAX_BYTES) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string())),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(GenerationConfig::default()),
            Err(e) => Err(bad(e.to_string())),
        }
    }
}

/// The limit of new tokens. A number that the user gave must fit; a default shrinks to what fits.
fn max_new_tokens(
    arguments: &GenerateArguments,
    config: &GenerationConfig,
    prompt_tokens: usize,
    positions: i64,
) -> Result<u32, GenerateError> {
    let left = u32::try_from(positions - prompt_tokens as i64).unwrap_or(0);
    let wanted = arguments.max_new_tokens.unwrap_or(
        config
            .max_new_tokens
            .unwrap_or(MAX_NEW_TOKENS_DEFAULT)
            .min(left)
            .max(1),
    );
    if wanted <= left {
        Ok(wanted)
    } else {
        Err(GenerateError::Positions {
            prompt_tokens,
            max_new_tokens: wanted,
            positions,
        })
    }
}

/// The sampling parameters. The command line overrides generation_config.json.
fn sampling(
    arguments: &GenerateArguments,
    config: &GenerationConfig,
    max_completion_length: u32,
    stop_ids: &[u32],
) -> Sampling {
    let default_temperature = if config.do_sample == Some(false) {
        0.0
    } else {
        config.temperature.unwrap_or(1.0)
    };
    Sampling {
        temperature: arguments.temperature.unwrap_or(default_temperature),
        top_p: arguments.top_p.or(config.top_p).unwrap_or(1.0),
        top_k: arguments.top_k.or(config.top_k).unwrap_or(0),
        keep_sampling_mask: false,
        max_completion_length,
        stop_ids: stop_ids.to_vec(),
        seed: arguments.seed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: GenerateArguments,
    }

    fn arguments(line: &[&str]) -> GenerateArguments {
        Line::parse_from([&["generate", "dir", "--prompt", "1+1="], line].concat()).arguments
    }

    #[test]
    fn the_command_line_wins_over_the_file_and_the_file_over_defaults() {
        let file: GenerationConfig = serde_json::from_str(
            r#"{"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_new_tokens": 40, "eos_token_id": [1, 2]}"#,
        )
        .unwrap();
        let plain = sampling(&arguments(&[]), &GenerationConfig::default(), 9, &[2]);
        assert_eq!(
            (
                plain.temperature,
                plain.top_p,
                plain.top_k,
                plain.max_completion_length
            ),
            (1.0, 1.0, 0, 9)
        );
        assert_eq!(plain.stop_ids, [2]);
        let from_file = sampling(&arguments(&["--top-k", "0"]), &file, 40, &[1, 2]);
        assert_eq!(
            (from_file.temperature, from_file.top_p, from_file.top_k),
            (0.6, 0.95, 0)
        );
        let greedy = GenerationConfig {
            do_sample: Some(false),
            ..file
        };
        assert_eq!(sampling(&arguments(&[]), &greedy, 40, &[]).temperature, 0.0);
        assert_eq!(
            sampling(&arguments(&["--temperature", "0.3"]), &greedy, 40, &[]).temperature,
            0.3
        );
    }

    #[test]
    fn a_default_length_shrinks_to_the_positions_and_a_given_one_is_refused() {
        let none = GenerationConfig::default();
        assert_eq!(
            max_new_tokens(&arguments(&[]), &none, 10, 4096).unwrap(),
            MAX_NEW_TOKENS_DEFAULT
        );
        assert_eq!(max_new_tokens(&arguments(&[]), &none, 10, 50).unwrap(), 40);
        assert_eq!(
            max_new_tokens(&arguments(&["--max-new-tokens", "40"]), &none, 10, 50).unwrap(),
            40
        );
        let refused = max_new_tokens(&arguments(&["--max-new-tokens", "41"]), &none, 10, 50)
            .unwrap_err()
            .to_string();
        assert!(
            refused.contains(
                "10 tokens; with 41 more (--max-new-tokens) it exceeds the model's 50 positions"
            ),
            "{refused}"
        );
        assert!(max_new_tokens(&arguments(&[]), &none, 50, 50).is_err());
    }
}
