//! Weights of a Hugging Face directory: one model.safetensors, or shards under model.safetensors.index.json.

use super::tensors::MappedFile;
use crate::error::{ModelError, Result};
use crate::weights::{Piece, Source};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";

/// `weight_map` names the shard of every tensor.
#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

pub(crate) struct Shards {
    dir: PathBuf,
    files: Vec<MappedFile>,
    /// File of each tensor.
    places: HashMap<String, usize>,
    taken: BTreeSet<String>,
}

impl Shards {
    pub fn open(dir: &Path) -> Result<Shards> {
        let index = dir.join(INDEX_FILE);
        // A whole file beside an index wins, as in transformers.
        let indexed = index.exists() && !dir.join(SINGLE_FILE).exists();
        let files = if indexed { open_indexed(dir, &index)? } else { vec![open_single(dir)?] };
        let mut places = HashMap::new();
        for (at, file) in files.iter().enumerate() {
            for name in file.names() {
                places.insert(name, at);
            }
        }
        Ok(Shards { dir: dir.to_owned(), files, places, taken: BTreeSet::new() })
    }

    /// Whether both tensors are there and not equal.
    pub fn differ(&self, a: &str, b: &str) -> Result<bool> {
        let (Some(&in_a), Some(&in_b)) = (self.places.get(a), self.places.get(b)) else { return Ok(false) };
        self.files[in_a].with(a, |a| self.files[in_b].with(b, |b| Ok(a.size() != b.size() || !a.f_equal(&b.f_to_kind(a.kind())?)?)))
    }

    fn is_empty(&self, name: &str) -> bool {
        self.places.get(name).and_then(|&at| self.files[at].info(name)).is_some_and(|info| info.shape.contains(&0))
    }

    /// Every tensor of the files has been taken, holds nothing, or is `known` to be of no use here.
    pub fn refuse_leftovers(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let left: BTreeSet<_> = self.places.keys().filter(|name| !self.taken.contains(*name)).collect();
        let (ignored, unexpected): (Vec<_>, Vec<_>) = left.into_iter().partition(|name| known(name) || self.is_empty(name));
        if let Some(first) = unexpected.first() {
            let first = first.to_string();
            return Err(ModelError::UnexpectedTensors { dir: self.dir.clone(), count: unexpected.len(), first });
        }
        if let Some(first) = ignored.first() {
            tracing::info!(count = ignored.len(), %first, dir = %self.dir.display(), "left out tensors of parts that are not run");
        }
        Ok(())
    }
}

fn open_single(dir: &Path) -> Result<MappedFile> {
    let path = dir.join(SINGLE_FILE);
    if !path.exists() {
        let message =
            format!("no {SINGLE_FILE} and no {INDEX_FILE} here: not a Hugging Face model directory with safetensors weights");
        return Err(ModelError::BadFile { path: dir.to_owned(), message });
    }
    MappedFile::open(&path)
}

fn open_indexed(dir: &Path, index: &Path) -> Result<Vec<MappedFile>> {
    let text = std::fs::read_to_string(index).map_err(ModelError::io(index))?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|e| ModelError::BadFile { path: index.to_owned(), message: format!("not an index: {e}") })?;
    let names: BTreeSet<_> = parsed.weight_map.values().collect();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        // A shard stands beside its index; a path that leads elsewhere is not followed.
        let path = dir.join(name);
        if Path::new(name).components().count() != 1 || !path.exists() {
            return Err(ModelError::MissingShard { dir: dir.to_owned(), shard: name.clone() });
        }
        files.push(MappedFile::open(&path)?);
    }
    let held: BTreeSet<String> = files.iter().flat_map(MappedFile::names).collect();
    if let Some(name) = parsed.weight_map.keys().find(|name| !held.contains(*name)) {
        return Err(ModelError::MissingTensor { dir: dir.to_owned(), name: name.clone() });
    }
    Ok(files)
}

impl Source for Shards {
    fn fill(&mut self, piece: &Piece, memory: &Tensor) -> Result<()> {
        let Some(&at) = self.places.get(&piece.name) else {
            return Err(ModelError::MissingTensor { dir: self.dir.clone(), name: piece.name.clone() });
        };
        let file = &self.files[at];
        file.with(&piece.name, |disk| {
            if disk.size() != piece.shape {
                return Err(ModelError::WrongShape {
                    file: file.path.clone(),
                    name: piece.name.clone(),
                    expected: piece.shape.clone(),
                    found: disk.size(),
                });
            }
            if !matches!(disk.kind(), Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double) {
                let found = format!("{:?}", disk.kind());
                return Err(ModelError::WrongDtype { file: file.path.clone(), name: piece.name.clone(), found });
            }
            piece.write(memory, disk)
        })?;
        self.taken.insert(piece.name.clone());
        Ok(())
    }
}
