//! Reads weights of a Hugging Face directory as tensors: one model.safetensors, or shards under
//! model.safetensors.index.json.

use super::fp8::dequantise;
use super::tensors::MappedFile;
use crate::error::{ModelError, Result};
use crate::weights::{Piece, Source};
use r1d_shape::fp8::{BLOCK_SIZE, BlockSize, scale_name};
use r1d_shape::{Config, Head, StoredTensor, WeightFiles};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Kind, Tensor};

/// The contents of a directory besides its config.json.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Number of weight files.
    pub shards: usize,
    /// Size of the weight files together.
    pub bytes: u64,
    /// Number of tensors of each dtype, by its safetensors name (`F32`, `BF16`, `F8_E4M3`, …),
    /// sorted.
    pub dtypes: Vec<(String, usize)>,
    /// Number of tensors of parts of the architecture that this release does not run, for example
    /// multi-token prediction modules.
    pub left_out: usize,
}

pub(crate) struct Shards {
    dir: PathBuf,
    files: WeightFiles,
    /// Each file's memory, in the order of [`WeightFiles::files`].
    maps: Vec<MappedFile>,
    /// The block that shares a scale in FP8 weights.
    block: BlockSize,
}

impl Shards {
    pub(crate) fn open(dir: &Path, block: BlockSize) -> Result<Shards> {
        Shards::of(dir, WeightFiles::open(dir)?, block)
    }

    /// Opens one safetensors file of any name.
    pub(crate) fn open_file(dir: &Path, file: &str) -> Result<Shards> {
        Shards::of(dir, WeightFiles::open_file(&dir.join(file))?, BLOCK_SIZE)
    }

    fn of(dir: &Path, files: WeightFiles, block: BlockSize) -> Result<Shards> {
        let maps = files
            .files
            .iter()
            .map(MappedFile::of)
            .collect::<Result<Vec<_>>>()?;
        Ok(Shards {
            dir: dir.to_owned(),
            files,
            maps,
            block,
        })
    }

    pub(crate) fn holds(&self, name: &str) -> bool {
        self.files.holds(name)
    }

    /// Makes config and files agree; see [`WeightFiles::agreed`].
    pub(crate) fn agreed(&mut self, config: Config) -> Result<Config> {
        Ok(self.files.agreed(config, &mut r1d_torch::work::moved)?)
    }

    /// Checks that the files have the model; see [`WeightFiles::check`].
    pub(crate) fn check(&self, config: &Config, head: Head) -> Result<()> {
        self.files.check(config, head)?;
        let ignored: Vec<&str> = self
            .files
            .iter()
            .map(|(name, _)| name)
            .filter(|name| config.ignores(name))
            .collect();
        if let Some(first) = ignored.first() {
            tracing::info!(count = ignored.len(), first, dir = %self.dir.display(),
                "left out tensors of parts that are not run");
        }
        Ok(())
    }

    /// Refuses tensors that are not `known`; see [`WeightFiles::refuse_others`].
    pub(crate) fn refuse_others(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        Ok(self.files.refuse_others(known)?)
    }

    /// Passes a tensor as its file has it, or dequantised from FP8 to float32, to `use_it`.
    fn with<T>(&self, name: &str, use_it: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let (map, stored) = self.place(name)?;
        map.with(name, stored, |disk| {
            if disk.kind() != Kind::Float8e4m3fn {
                return use_it(disk);
            }
            let scale = scale_name(name);
            let (map, stored) = self.place(&scale)?;
            let dequantised = map.with(&scale, stored, |scales| {
                dequantise(self.block, disk, scales)
            })?;
            use_it(&dequantised)
        })
    }

    /// Checks that a tensor exists, in the right shape and a dtype that can be read.
    pub(crate) fn find(&self, piece: &Piece) -> Result<()> {
        self.files.find(&piece.name, &piece.shape, self.block)?;
        Ok(())
    }

    /// Passes a tensor to `use_it`, after a check of its shape.
    pub(crate) fn read<T>(
        &self,
        piece: &Piece,
        use_it: impl FnOnce(&Tensor) -> Result<T>,
    ) -> Result<T> {
        self.find(piece)?;
        self.with(&piece.name, use_it)
    }

    fn place(&self, name: &str) -> Result<(&MappedFile, &StoredTensor)> {
        let map = self
            .files
            .place(name)
            .and_then(|(at, _)| self.maps.get(*at));
        let stored = self.files.get(name).map(|(_, stored)| stored);
        let missing = || ModelError::BadFile {
            path: self.dir.clone(),
            message: format!("no tensor named {name:?}"),
        };
        map.zip(stored).ok_or_else(missing)
    }

    /// Counts the files, their tensors, and those tensors that are `left_out`.
    pub(crate) fn contents(&self, left_out: impl Fn(&str) -> bool) -> Contents {
        let mut dtypes = BTreeMap::new();
        for (_, stored) in self.files.iter().filter(|(name, _)| !left_out(name)) {
            *dtypes.entry(stored.dtype.clone()).or_insert(0) += 1;
        }
        Contents {
            shards: self.files.files.len(),
            bytes: self
                .files
                .files
                .iter()
                .flat_map(|file| file.tensors.values())
                .map(|stored| stored.bytes.end - stored.bytes.start)
                .sum(),
            dtypes: dtypes.into_iter().collect(),
            left_out: self.files.iter().filter(|(name, _)| left_out(name)).count(),
        }
    }
}

impl Source for Shards {
    fn fill(&mut self, piece: &Piece, memory: &Tensor) -> Result<()> {
        self.read(piece, |disk| piece.write(memory, disk))?;
        if piece.is_finite(memory)? {
            return Ok(());
        }
        // If the values are finite on disk and not in memory, the dtype is too narrow for them.
        let dir = self.dir.clone();
        self.read(piece, |disk| {
            finite(&dir, &piece.name, &disk.f_to_kind(memory.kind())?)
        })
    }
}

/// Opens config.json and the weight files, and makes them agree on whether the head is the
/// embedding.
pub(crate) fn open(dir: &Path) -> Result<(Config, Shards)> {
    let config = Config::read(dir)?;
    let mut shards = Shards::open(dir, config.fp8_block)?;
    let config = shards.agreed(config)?;
    Ok((config, shards))
}

pub(super) fn finite(dir: &Path, name: &str, tensor: &Tensor) -> Result<()> {
    let wrong =
        tensor.numel() as i64 - i64::try_from(tensor.f_isfinite()?.f_count_nonzero(None::<i64>)?)?;
    if wrong > 0 {
        return Err(ModelError::NotFinite {
            dir: dir.to_owned(),
            name: name.to_owned(),
            count: wrong,
        });
    }
    Ok(())
}
