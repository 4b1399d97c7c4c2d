//! What jobs of the fake worker read.

use crate::figure::Failed;
use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;

/// Writes a tokenizer, a model's configuration and forty rows into `dir`.
pub(crate) fn write(dir: &Path) -> Result<(), Failed> {
    let words = "</s> <think> </think> <answer> </answer> 0 1 2 3 4 5 6 7 8 9";
    let entries = words.split(' ').enumerate();
    let vocabulary: Map<String, Value> = entries
        .map(|(id, word)| (word.to_owned(), id.into()))
        .collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "0"}
    });
    let tokenizers = dir.join("tokenizer");
    fs::create_dir_all(&tokenizers)?;
    fs::write(tokenizers.join("tokenizer.json"), tokenizer.to_string())?;
    fs::write(
        tokenizers.join("generation_config.json"),
        r#"{"eos_token_id": 0}"#,
    )?;
    write_config(dir, 32)?;
    let row = |i: u32| {
        json!({"prompt": format!("{} {}", i % 10, i / 10), "reference": (i % 3).to_string(),
            "text": format!("{} {} {}", i % 7, i % 5, i % 3)})
    };
    let rows: String = (0..40).map(|i| format!("{}\n", row(i))).collect();
    Ok(fs::write(dir.join("rows.jsonl"), rows)?)
}

/// Writes a model's configuration into `dir`.
pub(crate) fn write_config(dir: &Path, vocab_size: usize) -> Result<(), Failed> {
    let config = json!({"model_type": "qwen2", "vocab_size": vocab_size, "hidden_size": 16,
        "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "num_key_value_heads": 2});
    Ok(fs::write(dir.join("model.json"), config.to_string())?)
}

fn head(dir: &Path, name: &str, seed: u64, data: &Path) -> String {
    let (dir, data) = (dir.display(), data.display());
    format!(
        "name = \"{name}\"\nseed = {seed}\n[model]\ninit = \"{dir}/model.json\"\ntokenizer = \
         \"{dir}/tokenizer\"\n[data.text]\npath = \"{data}\"\nreference = \
         \"reference\"\ntemplate = \"plain\"\n[checkpoint]\nevery_steps = 1000000\n"
    )
}

/// A job with one pretrain stage.
pub(crate) fn pretrain(dir: &Path, data: &Path, seed: u64, steps: u64) -> String {
    format!(
        "{}[[stage]]\nname = \"reading\"\nkind = \"pretrain\"\ndata = \"text\"\nsteps = \
         {steps}\nbatch_size = 2\nmax_length = 8\n",
        head(dir, "reading", seed, data)
    )
}

/// A job that samples `steps` steps; a pretrain stage of `more` steps follows.
pub(crate) fn sampling(dir: &Path, steps: u64, more: Option<u64>) -> String {
    let grpo = format!(
        "{}[[stage]]\nname = \"reasoning\"\nkind = \"grpo\"\ndata = \"text\"\nsteps = \
         {steps}\nprompts_per_step = 1\nnum_generations = 2\nmax_completion_length = 8\n  \
         [[stage.reward]]\n  plugin = \"accuracy\"\n",
        head(dir, "sampling", 7, &dir.join("rows.jsonl"))
    );
    let reading = more.map_or(String::new(), |steps| {
        format!(
            "[[stage]]\nname = \"reading\"\nkind = \"pretrain\"\ndata = \"text\"\nsteps = \
             {steps}\nbatch_size = 2\nmax_length = 8\n"
        )
    });
    grpo + &reading
}
