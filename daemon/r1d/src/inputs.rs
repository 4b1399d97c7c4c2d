//! The job's inputs as they were when it was submitted: a resumed job that reads other bytes would not be the same job.

use r1d_job::{Job, Respondent, Stage, StageKind, TemplateSource, Weights};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Beside a tokenizer, what has a say in what it makes.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json", "config.json"];

/// Files of the data sets, templates, tokenizers, models and what rewards ask: path, size and time of the last change.
pub fn fingerprint(job: &Job) -> Value {
    let mut paths: BTreeSet<PathBuf> = job.data.values().flat_map(|source| r1d_data::files(source).unwrap_or_default()).collect();
    let templates = job.data.values().map(|source| &source.template);
    let own = job.stages.iter().filter_map(|stage| match &stage.kind {
        StageKind::Sft(sft) => sft.template.as_ref(),
        _ => None,
    });
    paths.extend(templates.chain(own).filter_map(|template| match template {
        TemplateSource::File(file) => Some(file.clone()),
        _ => None,
    }));
    for model in job.models() {
        paths.insert(model.config());
        paths.extend(tokenizer_files(model.tokenizer()));
        if let Weights::Directory(dir) = model {
            paths.extend(weight_files(dir));
        }
    }
    let rewards = job.stages.iter().filter_map(Stage::rollouts).flat_map(|rollouts| &rollouts.rewards);
    for reward in rewards {
        if let Some(Respondent::Directory(dir)) = &reward.model {
            paths.extend(weight_files(dir).into_iter().chain(tokenizer_files(dir)));
        }
    }
    let entries = paths.into_iter().filter_map(|path| {
        let metadata = std::fs::metadata(&path).ok().filter(|m| m.is_file())?;
        let changed = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some((path.display().to_string(), json!([metadata.len(), changed.as_nanos() as u64])))
    });
    Value::Object(entries.collect())
}

/// The tokenizer's file, and what has a say in it beside it; those that are there.
pub fn tokenizer_files(tokenizer: &Path) -> BTreeSet<PathBuf> {
    let directory = if tokenizer.is_dir() { tokenizer } else { tokenizer.parent().unwrap_or(Path::new(".")) };
    let files = TOKENIZER_FILES.iter().map(|name| directory.join(name)).chain([tokenizer.to_path_buf()]);
    files.filter(|file| file.is_file()).collect()
}

/// Safetensors of a Hugging Face directory.
pub fn weight_files(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "safetensors")).collect()
}

/// Names a file that is not as it was; `None` when all are.
pub fn changed(recorded: &Value, now: &Value) -> Option<String> {
    let recorded = recorded.as_object()?;
    recorded.iter().find(|(path, was)| now.get(path) != Some(was)).map(|(path, _)| path.clone())
}
