//! `r1ctl explain`: the keys of the job file and of `r1d.toml`, from the table that checks them,
//! and the words above the columns of r1ctl's tables.

use crate::cli::Output;
use crate::error::{Ended, Error};
use crate::print;
use r1d_job::reference::{self, Explanation};
use serde::Serialize;
use std::fmt;

/// What there is to say of what was asked for.
#[derive(Serialize)]
struct Explained {
    /// The word in capitals above a column.
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<ColumnWord>,
    #[serde(flatten)]
    keys: Explanation,
}

/// A word above a column.
#[derive(Serialize)]
struct ColumnWord {
    word: &'static str,
    meaning: &'static str,
}

/// The words above columns, each with its meaning.
const WORDS: [(&str, &str); 57] = [
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
        "An evaluation's metrics, each with its 95 % confidence interval: pass@1 55.1 % ± 6.1 % \
         (141 of 256 rows) means that 55.1 % of the completions were correct, and that the share \
         among all problems of this kind lies between 49.0 % and 61.1 %, unless this draw of \
         problems is one of the 5 in 100 for which such an interval misses it.",
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
    (
        "TOKENS",
        "The most tokens of prompts and completions of all these evaluations together. Of what is \
         sampled for them nothing stays on disk but the results.",
    ),
    (
        "TIMES",
        "How often an evaluation is made while the stage is at work: before the job's first step, \
         inside the stage, and behind its last step.",
    ),
    (
        "COMPLETIONS",
        "Completions that are sampled for an evaluation, each time.",
    ),
    (
        "RANK",
        "The number of a worker among those of a job on several devices.",
    ),
    ("EXPERT", "Which shard of the experts a rank has, from 0."),
    (
        "ACCEPTED",
        "The share of the sampled completions that the stage keeps.",
    ),
    (
        "DATA",
        "The data set that a stage reads. Of a rank: which copy of the model, or of its shard of \
         the experts, it has, from 0.",
    ),
    (
        "DEVICE",
        "What a worker computes on: a GPU, or the machine's processor (cpu).",
    ),
    (
        "EVALUATED IN",
        "The stage at whose steps the evaluation was made.",
    ),
    (
        "FROM",
        "The weights that a stage starts from: base, or those of a stage before it.",
    ),
    (
        "JOB",
        "A job's id; commands take any beginning of it that no other job has.",
    ),
    ("KIND", "The kind of stage, as `kind` in the job file."),
    (
        "MADE",
        "Rows that the stage has made so far, of those that it is to keep.",
    ),
    (
        "MODEL",
        "The model that a stage trains or samples: the job's own, or one of [models].",
    ),
    (
        "NAME",
        "The name that the job file gives to the job, the data set or the model.",
    ),
    (
        "OWNER",
        "The user who submitted the job. Others cannot change it, or read what it makes, unless \
         they are administrators.",
    ),
    (
        "PRIORITY",
        "Jobs with a higher one go first; of the same, the one that was submitted first.",
    ),
    (
        "REUSED FROM",
        "The job from which the stage was taken over instead of being done again.",
    ),
    (
        "REVIEW",
        "Whether the stage waits for a person to look at what it kept.",
    ),
    (
        "REWARDS",
        "The rewards that judge the stage, each with its weight.",
    ),
    ("ROWS", "Rows of a data set: problems, texts or pairs."),
    ("SAMPLED", "Completions that were sampled for the stage."),
    ("SIZE", "Bytes on disk."),
    ("STAGE", "The stage of the job file, by its name."),
    (
        "STATE",
        "Of a job: queued, held, running, pausing, paused, succeeded, failed or cancelled; `r1ctl \
         why JOB` says what it waits for. Of a device: idle, the job at work, or its problem. Of a \
         rank: what it does, or the key that it waits for at the rendezvous.",
    ),
    ("STEPS", "How many steps a stage has."),
    ("SUBMITTED", "How long ago the job was submitted."),
    (
        "TIME",
        "How long a stage has been worked on, over all attempts.",
    ),
    ("WHY", "Why a job would stay, or go."),
    (
        "WORKER PID",
        "The process that computes on the device; none while no job is there.",
    ),
    (
        "WORKER RESTARTS",
        "How often the daemon has started the device's worker again after it died.",
    ),
    (
        "WOULD GO",
        "What of a job a removal would remove: all, or all but its results.",
    ),
    (
        "REMOVED",
        "What of a job was removed: all, or all but its results.",
    ),
    (
        "SHA-256",
        "The hash of a data set's file, by which a reader sees that it is the same.",
    ),
];

/// The explanation of a word in capitals that stands above a column, or of a key, or of both if the
/// key is written as a file has it.
fn explained(asked: &str) -> Result<Explained, Error> {
    let word = asked.trim_end_matches([' ', '≤']).to_uppercase();
    let column = WORDS.iter().find(|(known, _)| *known == word);
    let column = column.map(|&(word, meaning)| ColumnWord { word, meaning });
    let keys = match (&column, reference::explain(asked)) {
        (Some(column), Ok(keys)) if asked == column.word.to_lowercase() => keys,
        (Some(_), _) => Explanation::default(),
        (None, keys) => keys.map_err(Error::UnknownKey)?,
    };
    Ok(Explained { column, keys })
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.to_string();
        f.write_str(&keys)?;
        let Some(ColumnWord { word, meaning }) = &self.column else {
            return Ok(());
        };
        if !keys.is_empty() {
            writeln!(f)?;
        }
        writeln!(f, "{word} above a column\n  {meaning}")
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
    let explained = explained(key)?;
    match output {
        Output::Table => print::data(&explained.to_string())?,
        Output::Json => print::json(&explained)?,
    }
    Ok(Ended::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn every_word_above_a_column_is_explained() {
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/show");
        let mut seen = 0;
        for source in std::fs::read_dir(sources).unwrap() {
            let text = std::fs::read_to_string(source.unwrap().path()).unwrap();
            let heads = ["left(\"", "right(\""].map(|column| text.split(column).skip(1));
            for head in heads.into_iter().flatten() {
                let head = head.split('"').next().unwrap();
                let is_known = explained(head).is_ok_and(|said| said.column.is_some());
                assert!(is_known, "{head}");
                seen += 1;
            }
        }
        assert!(seen > 30, "{seen} columns were found");
    }
}
