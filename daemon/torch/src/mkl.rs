//! MKL picks slower float32 kernels on processors that are not Intel's. It calls
//! `mkl_serv_intel_cpu_true`, an exported function that a binary may replace; this one answers like
//! the original by default. The function is undocumented by Intel, so the replacement is off unless
//! [`use_intel_kernels`] turns it on.

use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};

static INTEL_KERNELS: AtomicBool = AtomicBool::new(false);

/// Lets MKL use its Intel kernels on any processor with AVX-512: float32 matrix products 1.1 to 1.2
/// times as fast on a Zen 5, up to 1.5 times for a single row, rounded as on Intel's. It only has
/// an effect before the first matrix product of the process.
pub fn use_intel_kernels(on: bool) {
    // A reference to it from live code keeps the linker from dropping the replacement.
    std::hint::black_box(mkl_serv_intel_cpu_true as extern "C" fn() -> c_int);
    INTEL_KERNELS.store(on && has_avx512(), Ordering::Relaxed);
}

/// Whether MKL's Intel kernels are those for AVX-512. The ones for AVX2 round a row by its place in
/// a tile (seen on a Zen 3), which batch-invariant mode does not allow.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    std::arch::is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_avx512() -> bool {
    false
}

/// Replaces MKL's own function, through dynamic symbol lookup.
#[unsafe(no_mangle)]
pub extern "C" fn mkl_serv_intel_cpu_true() -> c_int {
    (INTEL_KERNELS.load(Ordering::Relaxed) || is_intel()) as c_int
}

#[cfg(target_arch = "x86_64")]
fn is_intel() -> bool {
    let leaf = std::arch::x86_64::__cpuid(0);
    [leaf.ebx, leaf.edx, leaf.ecx]
        .iter()
        .flat_map(|r| r.to_le_bytes())
        .eq(*b"GenuineIntel")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_finds_this_binarys_answer() {
        use_intel_kernels(false);
        type Answer = unsafe extern "C" fn() -> c_int;
        // SAFETY: the symbol's own signature.
        let found = unsafe {
            libloading::os::unix::Library::this().get::<Answer>(c"mkl_serv_intel_cpu_true")
        }
        .unwrap();
        assert_eq!(
            *found as usize,
            mkl_serv_intel_cpu_true as *const () as usize
        );
        assert_eq!(unsafe { found() } == 1, is_intel());
        use_intel_kernels(true);
        // SAFETY: the symbol's own signature.
        assert_eq!(unsafe { found() } == 1, is_intel() || has_avx512());
    }
}
