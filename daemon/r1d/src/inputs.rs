//! The job's inputs as they were when it was submitted: a resumed job that reads other bytes would not be the same job.

use r1d_job::reward::Plugin;
use r1d_job::{Job, Respondent, Stage, StageKind, TemplateSource, Weights};
use r1d_proto::user_file;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Beside a tokenizer, what has a say in what it makes.
const TOKENIZER_FILES: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "additional_chat_templates/tool_use.jinja",
    "generation_config.json",
    "config.json",
];

/// Files and directories as the job names them: one that is out of reach has no files to be found in it.
pub fn named(job: &Job) -> BTreeSet<PathBuf> {
    let data = job.data.values().map(|source| &source.path).filter(|path| !is_pattern(path));
    let models = job.models().flat_map(|model| [model.tokenizer().to_path_buf(), model.config()]);
    let rewards = job.stages.iter().filter_map(Stage::rollouts).flat_map(|rollouts| &rollouts.rewards);
    let asked = rewards.flat_map(|reward| {
        let plugin = match &reward.plugin {
            Plugin::Path(path) => Some(path),
            Plugin::Named(_) => None,
        };
        let model = match &reward.model {
            Some(Respondent::Directory(dir)) => Some(dir),
            _ => None,
        };
        plugin.into_iter().chain(model)
    });
    data.chain(asked).cloned().chain(models).collect()
}

/// Whether the path is a glob and not the name of a file.
fn is_pattern(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '[']) && !path.exists()
}

/// Size and time of the last change of each of the job's [`paths`].
pub fn fingerprint(job: &Job) -> Value {
    let entries = paths(job).into_iter().filter_map(|path| {
        let metadata = std::fs::metadata(&path).ok().filter(|m| m.is_file())?;
        let changed = metadata.modified().ok()?.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some((path.display().to_string(), json!([metadata.len(), changed.as_nanos() as u64])))
    });
    Value::Object(entries.collect())
}

/// Files of the data sets, templates, tokenizers, models and what rewards ask, as far as they are found.
pub fn paths(job: &Job) -> BTreeSet<PathBuf> {
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
    paths
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

/// What [`fingerprint`] found when the job was submitted, as it was recorded in its directory.
pub fn recorded(file: &Path) -> Option<Value> {
    std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
}

/// Names a file that cannot be opened, where it was when the job was submitted: its file system is not mounted, its directory has moved.
pub fn away(recorded: &Value) -> Option<String> {
    let recorded = recorded.as_object()?;
    recorded.keys().find_map(|path| {
        let error = user_file::open(Path::new(path)).err()?;
        Some(format!("{path} is away ({error}): it was there when the job was submitted"))
    })
}

/// Names a file that is not as it was; `None` when all are.
pub fn changed(recorded: &Value, now: &Value) -> Option<String> {
    let recorded = recorded.as_object()?;
    recorded.iter().find(|(path, was)| now.get(path) != Some(was)).map(|(path, _)| path.clone())
}
