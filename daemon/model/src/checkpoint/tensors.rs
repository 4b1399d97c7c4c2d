//! safetensors files, mapped for reading and streamed for writing.

use crate::error::{ModelError, Result};
use crate::weights::own;
use memmap2::{Mmap, UncheckedAdvice};
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo, View};
use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};

/// A safetensors file in memory's address space: `u64` header length, JSON header, tensor data.
pub(crate) struct MappedFile {
    pub path: PathBuf,
    map: Mmap,
    data: usize,
    metadata: Metadata,
}

impl MappedFile {
    pub fn open(path: &Path) -> Result<MappedFile> {
        let file = File::open(path).map_err(ModelError::io(path))?;
        if file.metadata().map_err(ModelError::io(path))?.len() == 0 {
            return Err(bad(path, &SafeTensorError::HeaderTooSmall));
        }
        // SAFETY: a checkpoint's files are not changed while they are read; one that is truncated under our feet ends the worker with
        // SIGBUS, which the supervisor reports.
        let map = unsafe { Mmap::map(&file) }.map_err(ModelError::io(path))?;
        let (header, metadata) = SafeTensors::read_metadata(&map).map_err(|e| bad(path, &e))?;
        Ok(MappedFile { path: path.to_owned(), data: size_of::<u64>() + header, map, metadata })
    }

    /// In the file's order.
    pub fn names(&self) -> Vec<String> {
        self.metadata.offset_keys()
    }

    /// Of all tensors.
    pub fn bytes(&self) -> u64 {
        (self.map.len() - self.data) as u64
    }

    pub fn info(&self, name: &str) -> Option<&TensorInfo> {
        self.metadata.info(name)
    }

    /// A tensor on the CPU with its own memory's lifetime: hand it to `use_it` and let go.
    pub fn with<T>(&self, name: &str, use_it: impl FnOnce(&Tensor) -> Result<T>) -> Result<T> {
        let info = self.info(name).ok_or_else(|| bad(&self.path, &SafeTensorError::TensorNotFound(name.to_owned())))?;
        let kind = kind_of(info.dtype).ok_or_else(|| ModelError::WrongDtype {
            file: self.path.clone(),
            name: name.to_owned(),
            found: format!("{:?}", info.dtype),
        })?;
        let (start, end) = info.data_offsets;
        let bytes = &self.map[self.data + start..self.data + end];
        let shape: Vec<i64> = info.shape.iter().map(|&n| n as i64).collect();
        if !(bytes.as_ptr() as usize).is_multiple_of(kind.elt_size_in_bytes()) || bytes.is_empty() {
            let used = use_it(&Tensor::f_from_data_size(bytes, &shape, kind)?);
            self.forget(start..end);
            return used;
        }
        let mut strides = vec![1; shape.len()];
        for dim in (1..shape.len()).rev() {
            strides[dim - 1] = strides[dim] * shape[dim];
        }
        // SAFETY: the header's own check made `bytes` as long as shape and dtype say, and the tensor does not outlive the map: `use_it`
        // gets a reference whose storage no other tensor of ours keeps.
        let tensor = unsafe { Tensor::f_from_blob(bytes.as_ptr(), &shape, &strides, kind, Device::Cpu) }?;
        let used = use_it(&tensor);
        drop(tensor);
        self.forget(start..end);
        used
    }

    /// Takes the pages of what has been read out of the process; the system's cache of the file keeps them. Otherwise a model would stand in memory
    /// twice while it is loaded. Best effort.
    fn forget(&self, data: Range<usize>) {
        if data.len() >= FORGET_MIN_BYTES {
            // SAFETY: a shared mapping of a file that is only read: what is touched again is read again.
            let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, self.data + data.start, data.len()) };
        }
    }
}

/// Smaller tensors share their pages with others, and are not worth a call.
const FORGET_MIN_BYTES: usize = 1 << 18;

fn bad(path: &Path, error: &SafeTensorError) -> ModelError {
    use SafeTensorError::*;
    let message = match error {
        MetadataIncompleteBuffer | HeaderTooSmall | InvalidHeaderLength => {
            "the file is shorter or longer than its header says: it was cut off while being written or fetched, fetch it again"
                .to_owned()
        }
        other => format!("not a safetensors file: {other}"),
    };
    ModelError::BadFile { path: path.to_owned(), message }
}

pub(super) fn kind_of(dtype: Dtype) -> Option<Kind> {
    Some(match dtype {
        Dtype::BOOL => Kind::Bool,
        Dtype::U8 => Kind::Uint8,
        Dtype::I8 => Kind::Int8,
        Dtype::I16 => Kind::Int16,
        Dtype::I32 => Kind::Int,
        Dtype::I64 => Kind::Int64,
        Dtype::F16 => Kind::Half,
        Dtype::BF16 => Kind::BFloat16,
        Dtype::F32 => Kind::Float,
        Dtype::F64 => Kind::Double,
        Dtype::F8_E4M3 => Kind::Float8e4m3fn,
        _ => return None,
    })
}

fn dtype_of(kind: Kind) -> Option<Dtype> {
    [Dtype::BOOL, Dtype::U8, Dtype::I8, Dtype::I16, Dtype::I32, Dtype::I64, Dtype::F16, Dtype::BF16, Dtype::F32, Dtype::F64]
        .into_iter()
        .find(|&dtype| kind_of(dtype) == Some(kind))
}

/// A tensor whose bytes are fetched only when their turn comes, so that a file never stands in memory twice.
struct Streamed {
    tensor: Tensor,
    dtype: Dtype,
    shape: Vec<usize>,
}

impl Streamed {
    fn new(name: &str, tensor: &Tensor) -> Result<Streamed> {
        let dtype = dtype_of(tensor.kind())
            .ok_or_else(|| ModelError::Input(format!("tensor `{name}` of {:?} cannot be saved", tensor.kind())))?;
        Ok(Streamed { tensor: tensor.f_detach()?, dtype, shape: tensor.size().iter().map(|&n| n as usize).collect() })
    }

    fn bytes(&self) -> Result<Vec<u8>> {
        let host = self.tensor.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0; self.data_len()];
        host.f_copy_data_u8(&mut bytes, host.numel())?;
        Ok(bytes)
    }
}

impl View for Streamed {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        // The trait has no way to fail, and a checkpoint must not be written with holes.
        self.bytes().unwrap_or_else(|error| panic!("cannot fetch a tensor from its device: {error}")).into()
    }

    fn data_len(&self) -> usize {
        self.shape.iter().product::<usize>() * self.tensor.kind().elt_size_in_bytes()
    }
}

/// Writes one safetensors file. `format` is transformers' mark for weights in torch's layout.
pub(crate) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    let views =
        tensors.iter().map(|(name, tensor)| Ok((name.as_str(), Streamed::new(name, tensor)?))).collect::<Result<Vec<_>>>()?;
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::tensor::serialize_to_file(views, Some(format), path).map_err(|error| match error {
        SafeTensorError::IoError(source) => ModelError::Io { path: path.to_owned(), source },
        other => bad(path, &other),
    })
}

/// Writes named tensors of any dtype as one safetensors file.
pub fn save_tensors(file: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    write(file, tensors)
}

/// Reads them back onto `device`, sorted as the file has them.
pub fn load_tensors(file: &Path, device: Device) -> Result<Vec<(String, Tensor)>> {
    let mapped = MappedFile::open(file)?;
    let copy = |tensor: &Tensor| own(tensor, tensor.kind(), device);
    mapped.names().into_iter().map(|name| mapped.with(&name, copy).map(|tensor| (name, tensor))).collect()
}

/// Size in a file.
pub(crate) fn byte_count(shape: &[i64], kind: Kind) -> u64 {
    shape.iter().product::<i64>() as u64 * kind.elt_size_in_bytes() as u64
}
