//! Safetensors files, mapped for reading and streamed for writing.

use super::file_sink::{FileSink, Folder};
use crate::error::{ModelError, Result};
use crate::weights::own;
use memmap2::{Mmap, UncheckedAdvice};
use r1d_shape::{SafetensorsFile, StoredTensor};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// A safetensors file in memory's address space.
pub(crate) struct MappedFile {
    path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    pub(super) fn of(file: &SafetensorsFile) -> Result<MappedFile> {
        // SAFETY: a checkpoint's files do not change while they are read; a file that is truncated
        // meanwhile ends the worker with SIGBUS, which the supervisor reports.
        let map = unsafe { Mmap::map(&file.file) }.map_err(ModelError::io(&file.path))?;
        Ok(MappedFile {
            path: file.path.clone(),
            map,
        })
    }

    /// Passes a tensor on the CPU to `use_it`. Its memory is the map's, so it must not be kept.
    pub(super) fn with<T>(
        &self,
        name: &str,
        stored: &StoredTensor,
        use_it: impl FnOnce(&Tensor) -> Result<T>,
    ) -> Result<T> {
        let bad = |message: String| ModelError::BadFile {
            path: self.path.clone(),
            message,
        };
        let kind = kind_of(&stored.dtype).ok_or_else(|| {
            bad(format!(
                "tensor {name:?} has dtype {:?}, which libtorch does not read",
                stored.dtype
            ))
        })?;
        let place = stored.bytes.start as usize..stored.bytes.end as usize;
        let bytes = self
            .map
            .get(place.clone())
            .ok_or_else(|| bad("the file was cut off while it was read".into()))?;
        let shape = &stored.shape[..];
        if !(bytes.as_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes()) || bytes.is_empty() {
            let used = use_it(&Tensor::f_from_data_size(bytes, shape, kind)?);
            self.forget(place);
            return used;
        }
        let mut strides = vec![1; shape.len()];
        for dim in (1..shape.len()).rev() {
            strides[dim - 1] = strides[dim] * shape[dim];
        }
        // SAFETY: the header's own check made `bytes` as long as shape and dtype require, and the
        // tensor does not outlive the map: `use_it` gets a reference, and no other tensor of ours
        // keeps its storage.
        let tensor =
            unsafe { Tensor::f_from_blob(bytes.as_ptr(), shape, &strides, kind, Device::Cpu) }?;
        let used = use_it(&tensor);
        drop(tensor);
        self.forget(place);
        used
    }

    /// Removes the pages of a tensor that was read from the process; the system's cache of the file
    /// keeps them. Otherwise a model would be in memory twice while it is loaded. This is best
    /// effort.
    fn forget(&self, place: Range<usize>) {
        if place.len() >= FORGET_MIN_BYTES {
            // SAFETY: the map is a shared one of a file that is only read, so a page that is used
            // again is read again.
            let _ = unsafe {
                self.map
                    .unchecked_advise_range(UncheckedAdvice::DontNeed, place.start, place.len())
            };
        }
    }
}

/// Smallest tensor for which pages are removed, in bytes. Smaller ones share their pages with
/// others, and are not worth a call.
const FORGET_MIN_BYTES: usize = 1 << 18;

/// libtorch's dtype of a safetensors dtype; `None` if it is not supported.
pub(super) fn kind_of(dtype: &str) -> Option<Kind> {
    Some(match dtype {
        "BOOL" => Kind::Bool,
        "U8" => Kind::Uint8,
        "I8" => Kind::Int8,
        "I16" => Kind::Int16,
        "I32" => Kind::Int,
        "I64" => Kind::Int64,
        "F16" => Kind::Half,
        "BF16" => Kind::BFloat16,
        "F32" => Kind::Float,
        "F64" => Kind::Double,
        "F8_E4M3" => Kind::Float8e4m3fn,
        _ => return None,
    })
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    [
        Dtype::BOOL,
        Dtype::U8,
        Dtype::I8,
        Dtype::I16,
        Dtype::I32,
        Dtype::I64,
        Dtype::F16,
        Dtype::BF16,
        Dtype::F32,
        Dtype::F64,
    ]
    .into_iter()
    .find(|dtype| kind_of(&format!("{dtype:?}")) == Some(kind))
}

/// The header's entry of a tensor that begins at `start`.
fn header_of(name: &str, tensor: &Tensor, start: usize) -> Result<TensorInfo> {
    let dtype = dtype_of(tensor.kind()).ok_or_else(|| {
        ModelError::Input(format!(
            "tensor `{name}` of {:?} cannot be saved",
            tensor.kind()
        ))
    })?;
    let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    let shape = tensor.size().iter().map(|&n| n as usize).collect();
    Ok(TensorInfo {
        dtype,
        shape,
        data_offsets: (start, start + bytes),
    })
}

/// Puts named tensors of any dtype as one safetensors file, one after the other. `format` is
/// transformers' mark for weights in torch's layout.
pub fn put_tensors(
    sink: &mut dyn FileSink,
    path: &Path,
    tensors: &[(String, Tensor)],
) -> Result<()> {
    // The widest dtypes come first, so that each tensor is aligned; then tensors are sorted by
    // name.
    let mut tensors: Vec<&(String, Tensor)> = tensors.iter().collect();
    tensors.sort_by_cached_key(|(name, tensor)| {
        (std::cmp::Reverse(dtype_of(tensor.kind())), name.clone())
    });
    let (mut infos, mut end) = (Vec::with_capacity(tensors.len()), 0);
    for (name, tensor) in &tensors {
        let info = header_of(name, tensor, end)?;
        end = info.data_offsets.1;
        infos.push((name.clone(), info));
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| ModelError::BadFile {
        path: path.to_owned(),
        message: format!("cannot be written: {e}"),
    })?;
    let mut header = serde_json::to_vec(&metadata)
        .map_err(|e| ModelError::Input(format!("{}: {e}", path.display())))?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let length = (header.len() as u64).to_le_bytes();
    sink.file(path, (length.len() + header.len() + end) as u64)?;
    sink.put(&[&length[..], &header].concat())?;
    tensors
        .into_iter()
        .try_for_each(|(_, tensor)| sink.put_tensor(tensor))
}

/// Writes named tensors of any dtype as one safetensors file.
pub fn save_tensors(file: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    // A path joined to an empty one is itself.
    put_tensors(&mut Folder::of(Path::new("")), file, tensors)
}

/// Reads the tensors of such a file onto `device`, sorted as in the file.
pub fn load_tensors(file: &Path, device: Device) -> Result<Vec<(String, Tensor)>> {
    let file = SafetensorsFile::open(file)?;
    let mapped = MappedFile::of(&file)?;
    let mut tensors: Vec<(&String, &StoredTensor)> = file.tensors.iter().collect();
    tensors.sort_by_key(|(_, stored)| (stored.bytes.start, stored.bytes.end));
    let copy = |tensor: &Tensor| own(tensor, tensor.kind(), device);
    let read = |(name, stored): (&String, &StoredTensor)| {
        mapped
            .with(name, stored, copy)
            .map(|tensor| (name.clone(), tensor))
    };
    tensors.into_iter().map(read).collect()
}

/// Size of a tensor in a file, in bytes.
pub(crate) fn byte_count(shape: &[i64], kind: Kind) -> u64 {
    shape.iter().product::<i64>() as u64 * kind.elt_size_in_bytes() as u64
}
