//! Trains a byte-level BPE tokenizer on the `text` column of JSONL files and writes the directory
//! that a job's `tokenizer` names: tokenizer.json, tokenizer_config.json, generation_config.json.
//! The same files give the same bytes.
//!
//! `--help` says how to call it.
//!
//! Digits stand alone, as in DeepSeek's and Llama's tokenizers; R1-Zero's four tags are one token
//! each.

use r1d_data::DataSet;
use r1d_job::DataSource;
use r1d_store::{Disk, write_file};
use serde_json::json;
use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{AddedToken, Tokenizer};

const END: &str = "<|end|>";
const PAD: &str = "<|pad|>";
const TAGS: [&str; 4] = ["<think>", "</think>", "<answer>", "</answer>"];

const HELP: &str = "\
Trains a byte-level BPE tokenizer for random weights.

Usage: train_tokenizer DIRECTORY VOCAB_SIZE FILE.jsonl...

  DIRECTORY    is written, with tokenizer.json: `[model] tokenizer` of a job names it
  VOCAB_SIZE   ids at most; the `vocab_size` of the config.json that `[model] init` names, or fewer.
               262 at least: the bytes, two marks and the four tags of R1-Zero's answers
  FILE.jsonl   texts, {\"text\": \"...\"} on each line; .json, .parquet, .gz and .zst work too

Then, in the job file:

  [model]
  init = \"config.json\"
  tokenizer = \"DIRECTORY\"
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error + Send + Sync>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments
        .iter()
        .any(|word| word == "--help" || word == "-h")
    {
        print!("{HELP}");
        return Ok(());
    }
    let [directory, vocab_size, files @ ..] = arguments.as_slice() else {
        eprint!("{HELP}");
        return Err("DIRECTORY, VOCAB_SIZE and FILE.jsonl are missing".into());
    };
    let vocab_size: usize = vocab_size
        .parse()
        .map_err(|_| format!("VOCAB_SIZE is {vocab_size:?}, expected a number"))?;
    let mut texts = Vec::new();
    for file in files {
        let data = DataSet::open(&texts_of(file))?;
        texts.extend(data.rows().iter().filter_map(|row| row.text.clone()));
    }
    let tokenizer = train(texts, vocab_size)?;
    write(Path::new(directory), &tokenizer)?;
    println!("{directory}: {} ids", tokenizer.get_vocab_size(true));
    Ok(())
}

fn texts_of(file: &str) -> DataSource {
    DataSource {
        text: Some("text".into()),
        shuffle: false,
        ..DataSource::new(file, file)
    }
}

fn train(texts: Vec<String>, vocab_size: usize) -> Result<Tokenizer, tokenizers::Error> {
    let mut tokenizer = Tokenizer::new(BPE::default());
    let split: Vec<PreTokenizerWrapper> = vec![
        Digits::new(true).into(),
        ByteLevel::default().add_prefix_space(false).into(),
    ];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(split)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = [END, PAD]
        .map(|token| AddedToken::from(token, true))
        .to_vec();
    let trainer = BpeTrainer::builder()
        // The tags take ids of their own after the trained ones.
        .vocab_size(vocab_size.saturating_sub(TAGS.len()))
        .min_frequency(2)
        .special_tokens(special)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .show_progress(false)
        .build();
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.into_iter())?;
    // Not special: decoding shows them.
    tokenizer.add_tokens(&TAGS.map(|tag| AddedToken::from(tag, false).normalized(false)));
    Ok(tokenizer)
}

fn write(directory: &Path, tokenizer: &Tokenizer) -> Result<(), Box<dyn Error + Send + Sync>> {
    std::fs::create_dir_all(directory)?;
    let id = |token| tokenizer.token_to_id(token);
    let own = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "pad_token": PAD,
            "clean_up_tokenization_spaces": false });
    let generation = json!({ "eos_token_id": id(END), "pad_token_id": id(PAD) });
    let files = [
        ("tokenizer.json", tokenizer.to_string(true)?),
        ("tokenizer_config.json", own.to_string()),
        ("generation_config.json", generation.to_string()),
    ];
    for (name, text) in files {
        write_file(&Disk, &directory.join(name), |file| {
            file.write_all((text + "\n").as_bytes())
        })?;
    }
    Ok(())
}
