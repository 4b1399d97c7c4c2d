//! `r1ctl explain`: the keys of the job file and of `r1d.toml`, from the table that checks them,
//! and the words above the columns of r1ctl's tables.

use crate::cli::Output;
use crate::error::{Ended, Error};
use crate::print;
use r1d_job::reference;
use serde::Serialize;

#[derive(Serialize)]
struct Explained<'a> {
    key: &'a str,
    explanation: &'a str,
}

/// The words above columns, each with its meaning.
const WORDS: [(&str, &str); 23] = [
    (
        "DURABLE",
        "The steps of a stage that its newest checkpoint holds. After a crash the job goes on from \
         there: later steps that are committed are trained again, on the same completions or rows.",
    ),
    ("STEP", "The steps of a stage that are committed, of all."),
    (
        "LAST STEP",
        "Metrics of the last committed step, under TRL's names; metrics.jsonl has all of them.",
    ),
    (
        "RESULT",
        "An evaluation's metrics, each with its 95 % confidence interval: pass@1 55.1 % ± 3.1 % \
         means that 55.1 % of the completions were correct, and that another draw of as many \
         problems would hardly be farther away than 3.1 points.",
    ),
    (
        "MEMORY",
        "Bytes that a stage takes on its device, by holder. TOTAL must fit there: on a GPU an \
         update has the memory of the sampler's cache, so the larger of the two counts.",
    ),
    (
        "HOST MEMORY",
        "Bytes that a stage takes of the machine's own memory beside the device's.",
    ),
    (
        "SNAPSHOT",
        "The copy of weights and optimiser from which a checkpoint is written while training goes \
         on. It takes less where the host has less to spare.",
    ),
    ("POLICY", "The weights that the stage trains or samples."),
    (
        "OPTIMISER",
        "AdamW's moments; in bfloat16 also the float32 weights that it updates.",
    ),
    (
        "GRADIENTS",
        "Their float32 sums, where weights have another dtype or are updated on the host.",
    ),
    (
        "REFERENCE",
        "The frozen policy that the KL divergence is measured from.",
    ),
    (
        "UPDATE",
        "Activations, logits and other gradients of an update, at their peak.",
    ),
    ("VALUE MODEL", "PPO's value model, with its optimiser."),
    (
        "REWARD MODELS",
        "Models that give rewards a number for each completion.",
    ),
    (
        "JUDGES",
        "Models that write for rewards, each with a cache as large as the sampler's.",
    ),
    (
        "SAMPLER",
        "The cache of keys and values of the completions that are sampled at a time.",
    ),
    (
        "DISK",
        "The most bytes that a stage leaves on disk, by what they are. Not counted: metrics, \
         traces and logs (some KiB a step), a tokenizer with each model, and the ids that top_k \
         and top_p left of the vocabulary.",
    ),
    (
        "CHECKPOINTS",
        "Those that are kept, and one more while it is written.",
    ),
    (
        "ROLLOUTS",
        "Parquet files with every completion, its verdicts, reward and advantage.",
    ),
    (
        "JOURNAL",
        "Completions with their verdicts, on disk before they are used: of the steps since the \
         oldest checkpoint that is kept.",
    ),
    (
        "DATA SET",
        "The rows that a rejection-sampling stage keeps, for the stages after it.",
    ),
    (
        "FINAL",
        "The model that the job leaves: a Hugging Face directory.",
    ),
    (
        "TOKENS/STEP",
        "The most tokens of prompts and completions, or of rows, that a step takes; of \
         dynamic_sampling, without further rounds.",
    ),
];

/// The explanation of a word in capitals that stands above a column, or of a key.
fn explained(asked: &str) -> Result<String, Error> {
    let word = asked.trim_end_matches([' ', '≤']).to_uppercase();
    let meaning = WORDS.iter().find(|(known, _)| *known == word);
    let key = reference::explain(asked);
    match (meaning, key) {
        (Some((word, meaning)), Ok(key)) if asked == word.to_lowercase() => {
            Ok(format!("{key}\n{word} above a column\n  {meaning}\n"))
        }
        (Some((word, meaning)), _) => Ok(format!("{word} above a column\n  {meaning}\n")),
        (None, key) => key.map_err(Error::UnknownKey),
    }
}

/// Explains one key or word. Without a key, prints the whole reference; as JSON, the schema of the
/// job file.
pub(crate) fn run(key: Option<&str>, output: Output) -> Result<Ended, Error> {
    let Some(key) = key else {
        match output {
            Output::Table => print::data(&reference::page())?,
            Output::Json => print::json(&reference::job_schema())?,
        }
        return Ok(Ended::Ok);
    };
    let text = explained(key)?;
    match output {
        Output::Table => print::data(&format!("{}\n", text.trim_end()))?,
        Output::Json => print::json(&Explained {
            key,
            explanation: text.trim_end(),
        })?,
    }
    Ok(Ended::Ok)
}
