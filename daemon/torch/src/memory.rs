//! Keeps freed tensor memory on the CPU for the next operation instead of returning it to the
//! system.

use crate::shim::{self, TorchError, check};
use std::sync::atomic::{AtomicUsize, Ordering};
use tch::Device;

unsafe extern "C" {
    fn r1d_keep_freed_memory(bytes_max: usize);
    fn r1d_release_kept_memory(bytes_max: usize);
    fn r1d_refuse_memory_above(bytes: usize);
    fn r1d_kept_memory() -> usize;
}

static BYTES_MAX: AtomicUsize = AtomicUsize::new(0);

/// Makes the process keep up to `bytes_max` of freed tensor memory (blocks above 256 KiB, on huge
/// pages if the system has them) for reuse. Without it a training step faults the same memory in
/// again and again, page by page; with tensors above 32 MiB that was measured to take a quarter of
/// the step. Call it before the threads that compute start. `LIM-1`: memory freed beyond
/// `bytes_max` goes back to the system, and so does all of it if memory runs out.
pub fn keep_freed(bytes_max: usize) {
    BYTES_MAX.store(bytes_max, Ordering::Relaxed);
    // SAFETY: replaces an allocator whose blocks each carry their own deleter.
    unsafe { r1d_keep_freed_memory(bytes_max) }
}

/// Returns the kept memory to the system now, for example when a model is closed.
pub fn release_kept() {
    // SAFETY: takes the allocator's lock.
    unsafe { r1d_release_kept_memory(BYTES_MAX.load(Ordering::Relaxed)) }
}

/// Returns the memory that libtorch keeps for its next tensors on `device`: to the system, or to
/// the GPU's driver, which then has it in one piece.
pub fn release_cached(device: Device) -> Result<(), TorchError> {
    if device.is_cuda() {
        // SAFETY: takes the allocator's lock.
        return check("release memory", unsafe {
            shim::r1d_release_device_memory()
        });
    }
    release_kept();
    Ok(())
}

/// Bytes of a GPU's memory, with what is in use; `None` for the CPU.
pub fn of_device(device: Device) -> Result<Option<u64>, TorchError> {
    let Device::Cuda(index) = device else {
        return Ok(None);
    };
    let mut bytes = 0;
    // SAFETY: asks the driver, and writes a number.
    check("device memory", unsafe {
        shim::r1d_device_memory(index as i32, &mut bytes)
    })?;
    Ok(Some(bytes))
}

/// Makes every tensor on the CPU of more than `bytes` fail as if memory had run out; `None` ends
/// that. It needs [`keep_freed`], and is for tests.
pub fn refuse_above(bytes: Option<usize>) {
    // SAFETY: sets a number.
    unsafe { r1d_refuse_memory_above(bytes.unwrap_or(usize::MAX)) }
}

/// Whether an error's text means that memory ran out, on a device or on the host: it has the words
/// of libtorch, CUDA, cuBLAS, the system, or this crate's own allocator.
pub fn ran_out(text: &str) -> bool {
    RAN_OUT.iter().any(|words| text.contains(words))
}

const RAN_OUT: &[&str] = &[
    "out of memory",
    "can't allocate memory",
    "not enough memory",
    "ALLOC_FAILED",
    "OUT_OF_MEMORY",
    "Cannot allocate memory",
];

/// Bytes that are kept at this moment.
pub fn kept() -> usize {
    // SAFETY: as above.
    unsafe { r1d_kept_memory() }
}
