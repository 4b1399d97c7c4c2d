//! safetensors files, mapped for reading and streamed for writing.

use crate::error::{ModelError, Result};
use crate::weights::own;
use memmap2::{Mmap, UncheckedAdvice};
use r1d_proto::user_file;
use r1d_torch::work;
use safetensors::tensor::{Dtype, Metadata, SafeTensorError, SafeTensors, TensorInfo};
use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
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
        let file = user_file::open(path).map_err(ModelError::io(path))?;
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

/// Bytes that are handed to the file system at a time, and those after which it is made to write them: a sync of a whole
/// large file would say nothing until it is done.
const WRITE_BYTES: usize = 8 << 20;
const SYNC_BYTES: usize = 64 << 20;

/// What the header says of a tensor that begins at `start`.
fn header_of(name: &str, tensor: &Tensor, start: usize) -> Result<TensorInfo> {
    let dtype = dtype_of(tensor.kind())
        .ok_or_else(|| ModelError::Input(format!("tensor `{name}` of {:?} cannot be saved", tensor.kind())))?;
    let bytes = tensor.numel() * tensor.kind().elt_size_in_bytes();
    let shape = tensor.size().iter().map(|&n| n as usize).collect();
    Ok(TensorInfo { dtype, shape, data_offsets: (start, start + bytes) })
}

/// Writes one safetensors file, a tensor on the host at a time, so that none stands in memory twice. `format` is
/// transformers' mark for weights in torch's layout.
pub(crate) fn write(path: &Path, tensors: &[(String, Tensor)]) -> Result<()> {
    // The widest first, so that each is aligned; then by name.
    let mut tensors: Vec<&(String, Tensor)> = tensors.iter().collect();
    tensors.sort_by_cached_key(|(name, tensor)| (std::cmp::Reverse(dtype_of(tensor.kind())), name.clone()));
    let (mut infos, mut end) = (Vec::with_capacity(tensors.len()), 0);
    for (name, tensor) in &tensors {
        let info = header_of(name, tensor, end)?;
        end = info.data_offsets.1;
        infos.push((name.clone(), info));
    }
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let metadata = Metadata::new(Some(format), infos).map_err(|e| bad(path, &e))?;
    let mut header = serde_json::to_vec(&metadata).map_err(|e| ModelError::Input(format!("{}: {e}", path.display())))?;
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    let mut file = File::create(path).map_err(ModelError::io(path))?;
    let mut put = |bytes: &[u8]| file.write_all(bytes).map_err(ModelError::io(path));
    put(&(header.len() as u64).to_le_bytes())?;
    put(&header)?;
    let mut unsynced = 0;
    for (_, tensor) in tensors {
        let host = tensor.f_detach()?.f_to_device(Device::Cpu)?.f_contiguous()?;
        let mut bytes = vec![0; host.numel() * host.kind().elt_size_in_bytes()];
        host.f_copy_data_u8(&mut bytes, host.numel())?;
        for part in bytes.chunks(WRITE_BYTES) {
            file.write_all(part).map_err(ModelError::io(path))?;
            unsynced += part.len();
            if unsynced >= SYNC_BYTES {
                file.sync_data().map_err(ModelError::io(path))?;
                unsynced = 0;
            }
            work::moved(part.len() as u64);
        }
    }
    Ok(())
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

/// Reads named tensors into live memory, each into the tensor that stands beside its name, one after the other: no more
/// than a part of the file is in memory. All of `live` must be in the file with the same shape and dtype, which is seen
/// before anything is written; what else the file holds is left alone.
pub fn restore_tensors(file: &Path, live: &[(String, Tensor)]) -> Result<()> {
    let mapped = MappedFile::open(file)?;
    for (name, tensor) in live {
        let wanted = format!("{:?} {:?}", tensor.kind(), tensor.size());
        let found = match mapped.info(name) {
            None => "not there".to_owned(),
            Some(info) if kind_of(info.dtype) != Some(tensor.kind()) || !same(&info.shape, &tensor.size()) => {
                format!("{:?} {:?}", info.dtype, info.shape)
            }
            Some(_) => continue,
        };
        let message = format!("tensor `{name}` is {found}, and {wanted} is to be restored");
        return Err(ModelError::BadFile { path: file.to_owned(), message });
    }
    for (name, tensor) in live {
        mapped.with(name, |disk| {
            let (to, from) = (tensor.f_detach()?.f_view([-1])?, disk.f_view([-1])?);
            let width = tensor.kind().elt_size_in_bytes();
            for start in (0..tensor.numel()).step_by(RESTORE_BYTES / width) {
                let count = (tensor.numel() - start).min(RESTORE_BYTES / width);
                let part = from.f_narrow(0, start as i64, count as i64)?;
                to.f_narrow(0, start as i64, count as i64)?.f_copy_(&part)?;
                work::moved((count * width) as u64);
            }
            Ok(())
        })?;
    }
    Ok(())
}

fn same(on_disk: &[usize], live: &[i64]) -> bool {
    on_disk.len() == live.len() && on_disk.iter().zip(live).all(|(&a, &b)| a as i64 == b)
}

/// Bytes that [`restore_tensors`] copies at a time.
const RESTORE_BYTES: usize = 64 << 20;

/// Size in a file.
pub(crate) fn byte_count(shape: &[i64], kind: Kind) -> u64 {
    shape.iter().product::<i64>() as u64 * kind.elt_size_in_bytes() as u64
}
