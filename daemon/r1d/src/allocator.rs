//! How freed memory goes back to the system.

/// Parts of the heap that threads share. By itself glibc makes eight for each core, and each keeps
/// what one burst of work took.
#[cfg(target_env = "gnu")]
const ARENAS: i32 = 4;
/// Larger blocks are mapped one by one, and unmapped when they are freed. By itself glibc raises
/// this to the largest block that was freed, so a tokenizer that was read once stays in memory.
#[cfg(target_env = "gnu")]
const MAPPED_BYTES: i32 = 256 << 10;
/// Free memory at the heap's end that is given back.
#[cfg(target_env = "gnu")]
const TRIMMED_BYTES: i32 = 1 << 20;

/// Makes the allocator keep little of what is free: reading a large tokenizer takes several times
/// its size, and the daemon lives for months. To be called before there is a second thread. What
/// the allocator refuses stays at its own setting.
pub(crate) fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in [
        (libc::M_ARENA_MAX, ARENAS),
        (libc::M_MMAP_THRESHOLD, MAPPED_BYTES),
        (libc::M_TRIM_THRESHOLD, TRIMMED_BYTES),
    ] {
        // SAFETY: it changes numbers of the allocator, under the allocator's own lock.
        unsafe { libc::mallopt(parameter, value) };
    }
}
