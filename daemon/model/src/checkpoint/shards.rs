//! Weights of a Hugging Face directory: one model.safetensors, or shards under model.safetensors.index.json.

use super::convert::{Contents, finite};
use super::fp8::dequantise;
use super::is_there;
use super::tensors::{MappedFile, kind_of};
use crate::error::{ModelError, Result};
use crate::weights::{Piece, Source};
use r1d_proto::user_file;
use r1d_shape::fp8::{BLOCK_SIZE, BlockSize, scale_name};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

pub(crate) const SINGLE_FILE: &str = "model.safetensors";
pub(crate) const INDEX_FILE: &str = "model.safetensors.index.json";
/// Bytes of an index: that of DeepSeek-R1's 91,991 tensors has 9 MB.
const INDEX_MAX_BYTES: u64 = 64 << 20;

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
    /// Of FP8 weights.
    block: BlockSize,
}

impl Shards {
    pub fn open(dir: &Path, block: BlockSize) -> Result<Shards> {
        let index = dir.join(INDEX_FILE);
        // A whole file beside an index wins, as in transformers.
        let indexed = is_there(&index)? && !is_there(&dir.join(SINGLE_FILE))?;
        let files = if indexed { open_indexed(dir, &index)? } else { vec![open_single(dir)?] };
        let mut places = HashMap::new();
        for (at, file) in files.iter().enumerate() {
            for name in file.names() {
                places.insert(name, at);
            }
        }
        Ok(Shards { dir: dir.to_owned(), files, places, taken: BTreeSet::new(), block })
    }

    /// One safetensors file of any name.
    pub fn open_file(dir: &Path, file: &str) -> Result<Shards> {
        let file = MappedFile::open(&dir.join(file))?;
        let places = file.names().into_iter().map(|name| (name, 0)).collect();
        Ok(Shards { dir: dir.to_owned(), files: vec![file], places, taken: BTreeSet::new(), block: BLOCK_SIZE })
    }

    pub fn holds(&self, name: &str) -> bool {
        self.places.contains_key(name)
    }

    /// Whether both tensors are there and not equal.
    pub fn differ(&self, a: &str, b: &str) -> Result<bool> {
        if !self.holds(a) || !self.holds(b) {
            return Ok(false);
        }
        self.with(a, |a| self.with(b, |b| Ok(a.size() != b.size() || !a.f_equal(&b.f_to_kind(a.kind())?)?)))
    }

    /// A tensor as it lies in its file, FP8 dequantised to float32.
    fn with<T>(&self, name: &str, use_it: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        self.place(name)?.1.with(name, |disk| {
            if disk.kind() != Kind::Float8e4m3fn {
                return use_it(disk);
            }
            let scale = scale_name(name);
            let dequantised = self.place(&scale)?.1.with(&scale, |scales| dequantise(self.block, disk, scales))?;
            use_it(&dequantised)
        })
    }

    fn is_empty(&self, name: &str) -> bool {
        self.places.get(name).and_then(|&at| self.files[at].info(name)).is_some_and(|info| info.shape.contains(&0))
    }

    /// That a tensor is there, in the right shape and a dtype that can be read.
    pub fn find(&mut self, piece: &Piece) -> Result<()> {
        let kind = self.checked(&piece.name, &piece.shape)?;
        if kind == Kind::Float8e4m3fn {
            let scale = scale_name(&piece.name);
            let _ = self.checked(&scale, &self.block.scales(&piece.shape))?;
            self.taken.insert(scale);
        }
        self.taken.insert(piece.name.clone());
        Ok(())
    }

    /// A tensor of the right shape.
    pub fn read<T>(&mut self, piece: &Piece, use_it: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        self.find(piece)?;
        self.with(&piece.name, use_it)
    }

    fn place(&self, name: &str) -> Result<(usize, &MappedFile)> {
        let missing = || ModelError::MissingTensor { dir: self.dir.clone(), name: name.to_owned() };
        self.places.get(name).map(|&at| (at, &self.files[at])).ok_or_else(missing)
    }

    /// Dtype of a tensor that has this shape.
    fn checked(&self, name: &str, shape: &[i64]) -> Result<Kind> {
        let (_, file) = self.place(name)?;
        let dtype = file.info(name).map(|info| (info.dtype, info.shape.iter().map(|&n| n as i64).collect::<Vec<_>>()));
        let Some((dtype, found)) = dtype else {
            return Err(ModelError::MissingTensor { dir: self.dir.clone(), name: name.to_owned() });
        };
        if found != shape {
            let (file, name, expected) = (file.path.clone(), name.to_owned(), shape.to_vec());
            return Err(ModelError::WrongShape { file, name, expected, found });
        }
        match kind_of(dtype) {
            Some(kind @ (Kind::Float | Kind::Half | Kind::BFloat16 | Kind::Double)) => Ok(kind),
            // A scale is needed for each block of a matrix.
            Some(Kind::Float8e4m3fn) if shape.len() == 2 && self.places.contains_key(&scale_name(name)) => Ok(Kind::Float8e4m3fn),
            Some(Kind::Float8e4m3fn) => Err(ModelError::MissingTensor { dir: self.dir.clone(), name: scale_name(name) }),
            _ => Err(ModelError::WrongDtype { file: file.path.clone(), name: name.to_owned(), found: format!("{dtype:?}") }),
        }
    }

    /// What the files hold, with those tensors counted that are `left_out`.
    pub fn contents(&self, left_out: impl Fn(&str) -> bool) -> Contents {
        let mut dtypes = BTreeMap::new();
        for (name, &at) in self.places.iter().filter(|(name, _)| !left_out(name)) {
            if let Some(info) = self.files[at].info(name) {
                *dtypes.entry(format!("{:?}", info.dtype)).or_insert(0) += 1;
            }
        }
        Contents {
            shards: self.files.len(),
            bytes: self.files.iter().map(MappedFile::bytes).sum(),
            dtypes: dtypes.into_iter().collect(),
            left_out: self.places.keys().filter(|name| left_out(name)).count(),
        }
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
    if !is_there(&path)? {
        let message =
            format!("no {SINGLE_FILE} and no {INDEX_FILE} here: not a Hugging Face model directory with safetensors weights");
        return Err(ModelError::BadFile { path: dir.to_owned(), message });
    }
    MappedFile::open(&path)
}

fn open_indexed(dir: &Path, index: &Path) -> Result<Vec<MappedFile>> {
    let text = user_file::read_text(index, INDEX_MAX_BYTES).map_err(ModelError::io(index))?;
    let parsed: Index = serde_json::from_str(&text)
        .map_err(|e| ModelError::BadFile { path: index.to_owned(), message: format!("not an index: {e}") })?;
    let names: BTreeSet<_> = parsed.weight_map.values().collect();
    let mut files = Vec::with_capacity(names.len());
    for name in names {
        // A shard stands beside its index; a path that leads elsewhere is not followed.
        let path = dir.join(name);
        if Path::new(name).components().count() != 1 || !is_there(&path)? {
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
        self.read(piece, |disk| piece.write(memory, disk))?;
        if piece.is_finite(memory)? {
            return Ok(());
        }
        // Were the values finite on disk and not in memory, the dtype would be too narrow for them.
        let dir = self.dir.clone();
        self.read(piece, |disk| finite(&dir, &piece.name, &disk.f_to_kind(memory.kind())?))
    }
}
