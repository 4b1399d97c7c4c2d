//! Keeps freed tensor memory on the CPU for the next operation instead of returning it to the
//! system.

use std::sync::atomic::{AtomicUsize, Ordering};

unsafe extern "C" {
    fn r1d_keep_freed_memory(bytes_max: usize);
    fn r1d_release_kept_memory(bytes_max: usize);
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
