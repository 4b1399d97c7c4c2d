//! The job's inputs as they were when it was submitted: a resumed job that reads other bytes would not be the same job.

use r1d_job::reward::Plugin;
use r1d_job::{Job, Respondent, Stage, StageKind, TemplateSource, Weights};
use r1d_proto::user_file;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

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
    let data = job.data.values().map(|source| &source.path).filter(|path| !r1d_data::is_pattern(path));
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
    looked_for(tokenizer).into_iter().filter(|file| file.is_file()).collect()
}

/// The files that a tokenizer may have.
fn looked_for(tokenizer: &Path) -> BTreeSet<PathBuf> {
    let directory = if tokenizer.is_dir() { tokenizer } else { tokenizer.parent().unwrap_or(Path::new(".")) };
    let files = TOKENIZER_FILES.iter().map(|name| directory.join(name));
    files.chain((!tokenizer.is_dir()).then(|| tokenizer.to_path_buf())).collect()
}

/// Safetensors of a Hugging Face directory, and their index.
pub fn weight_files(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path()));
    entries.filter(|path| is_weights(path) || path.to_string_lossy().ends_with(".safetensors.index.json")).collect()
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "safetensors")
}

/// SHA-256 of a file's bytes, hex.
pub fn sha256(path: &Path) -> io::Result<String> {
    let mut file = user_file::open(path)?;
    let (mut hash, mut buffer) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hash.update(buffer.get(..read).unwrap_or_default());
    }
}

/// A file as it was found. Weights, which may have terabytes, are told by size and time alone.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    bytes: u64,
    changed_ns: u64,
    sha256: Option<String>,
}

impl Seen {
    fn of(path: &Path) -> io::Result<Seen> {
        let metadata = user_file::open(path)?.metadata()?;
        let changed = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(Seen { bytes: metadata.len(), changed_ns: changed.as_nanos() as u64, sha256: None })
    }
}

/// What a job reads, as it was when the job was submitted: its files, those that were looked for in
/// vain, and what its patterns and directories of weights held.
#[derive(Serialize, Deserialize)]
pub struct Inputs {
    files: BTreeMap<PathBuf, Seen>,
    absent: BTreeSet<PathBuf>,
    patterns: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
    weights: BTreeMap<PathBuf, BTreeSet<PathBuf>>,
}

impl Inputs {
    /// The job's inputs as they are now, without their hashes.
    pub fn of(job: &Job) -> io::Result<Inputs> {
        let patterns = job.data.values().map(|source| &source.path).filter(|path| r1d_data::is_pattern(path));
        let patterns = patterns.map(|pattern| Ok((pattern.clone(), matching(pattern)?))).collect::<io::Result<_>>()?;
        let rewards = job.stages.iter().filter_map(Stage::rollouts).flat_map(|rollouts| &rollouts.rewards);
        let asked = rewards.filter_map(|reward| match &reward.model {
            Some(Respondent::Directory(dir)) => Some(dir),
            _ => None,
        });
        let tokenizers = job.models().map(|model| model.tokenizer()).chain(asked.clone().map(PathBuf::as_path));
        let absent = tokenizers.flat_map(looked_for).filter(|file| !file.exists()).collect();
        let own = job.models().filter_map(|model| match model {
            Weights::Directory(dir) => Some(dir),
            _ => None,
        });
        let weights = own.chain(asked).map(|dir| (dir.clone(), weight_files(dir))).collect();
        let seen = |path: PathBuf| Seen::of(&path).map(|seen| (path.clone(), seen)).map_err(|error| at(&path, error));
        let files = paths(job).into_iter().filter(|path| path.is_file()).map(seen).collect::<io::Result<_>>()?;
        Ok(Inputs { files, absent, patterns, weights })
    }

    /// The same with the hashes of all files but weights. A file that has changed since is an error
    /// that names it.
    pub fn hashed(mut self) -> io::Result<Inputs> {
        for (path, seen) in self.files.iter_mut().filter(|(path, _)| !is_weights(path)) {
            let hash = sha256(path).map_err(|error| at(path, error))?;
            if Seen::of(path).map_err(|error| at(path, error))? != *seen {
                return Err(at(path, "it changes while it is read: submit the job when it is whole"));
            }
            seen.sha256 = Some(hash);
        }
        Ok(self)
    }

    /// Names what is not as it was; `None` when all is.
    fn unlike(&self) -> Option<String> {
        let away = self.files.keys().find_map(|path| {
            let error = user_file::open(path).err()?;
            Some(format!("{} is away ({error}): it was there when the job was submitted", path.display()))
        });
        away.or_else(|| self.added()).or_else(|| self.changed())
    }

    /// Names a file that was not there when the job was submitted, and would have a say.
    fn added(&self) -> Option<String> {
        let patterns = self.patterns.iter().filter_map(|(pattern, were)| Some((matching(pattern).ok()?, were)));
        let weights = self.weights.iter().map(|(dir, were)| (weight_files(dir), were));
        // A file that has a pattern's own name is read instead of what the pattern matched.
        let absent = self.absent.iter().chain(self.patterns.keys()).find(|path| path.exists()).cloned();
        let new = absent.or_else(|| patterns.chain(weights).find_map(|(are, were)| are.difference(were).next().cloned()))?;
        let new = new.display();
        Some(format!("{new} was not there when the job was submitted: move it away, or cancel the job and submit it again"))
    }

    fn changed(&self) -> Option<String> {
        self.files.iter().find_map(|(path, was)| {
            let now = Seen::of(path).ok()?;
            if (now.bytes, now.changed_ns) == (was.bytes, was.changed_ns) {
                return None;
            }
            let same = now.bytes == was.bytes && was.sha256.is_some() && sha256(path).ok() == was.sha256;
            let with = if was.sha256.is_none() { " with its time of change" } else { "" };
            let path = path.display();
            (!same).then(|| {
                let mend = format!("put the file back{with}, or cancel the job and submit it again");
                format!("{path} is not as it was when the job was submitted: {mend}")
            })
        })
    }
}

/// The files that match a pattern now.
fn matching(pattern: &Path) -> io::Result<BTreeSet<PathBuf>> {
    Ok(r1d_data::matches(pattern)?.into_iter().collect())
}

fn at(path: &Path, error: impl Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

/// Names an input that is not as `record`, the file of the job's [`Inputs`], says; `None` when all
/// are. A job waits until they are.
pub fn unlike(record: &Path) -> Option<String> {
    match std::fs::read(record).and_then(|bytes| Ok(serde_json::from_slice::<Inputs>(&bytes)?)) {
        Ok(inputs) => inputs.unlike(),
        Err(error) => {
            let record = record.display();
            Some(format!(
                "{record} should say what the job read when it was submitted ({error}): cancel the job and submit it again"
            ))
        }
    }
}
