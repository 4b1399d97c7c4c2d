//! The libtorch of this process: its version, and its switches (threads, determinism, denormals,
//! inference mode).

use crate::shim::{self, TorchError, check};
use tch::Tensor;

/// The version of the libtorch that this process runs, which may be another than the one that it
/// was compiled with: `2.11.0`.
pub fn version() -> String {
    // SAFETY: it returns a constant of the library's: a byte each, the highest first.
    let version = unsafe { shim::aoti_torch_abi_version() };
    let [major, minor, patch, ..] = version.to_be_bytes();
    format!("{major}.{minor}.{patch}")
}

/// Sets the OpenMP threads inside one operation. `LIM-1`: the worker sets it once, at start.
pub fn set_threads(count: u32) -> Result<(), TorchError> {
    check("set intra-op threads", unsafe {
        shim::r1d_set_threads(count as i32)
    })
}

/// OpenMP threads inside one operation, of the calling thread.
pub fn threads() -> u32 {
    unsafe { shim::r1d_threads() }.max(0) as u32
}

/// Sets the threads that run independent operations side by side. It can be set once, before the
/// first parallel work.
pub fn set_interop_threads(count: u32) -> Result<(), TorchError> {
    check("set inter-op threads", unsafe {
        shim::r1d_set_interop_threads(count as i32)
    })
}

/// Makes operations use their deterministic variants; libtorch warns once of those that have none.
pub fn set_deterministic(on: bool) -> Result<(), TorchError> {
    check("set deterministic algorithms", unsafe {
        shim::r1d_set_deterministic(on)
    })
}

/// Whether operations use their deterministic variants now.
pub fn is_deterministic() -> bool {
    unsafe { shim::r1d_is_deterministic() }
}

/// Runs `body` without deterministic algorithms, whatever [`set_deterministic`] has set. They are
/// slow on a GPU where the fast way is deterministic only if no place is written twice (a scatter
/// becomes a sort), so the caller must know that this holds for the operations of `body`. Attention
/// chooses among the same kernels as before.
pub fn without_deterministic<T>(body: impl FnOnce() -> T) -> Result<T, TorchError> {
    struct Guard(bool);
    impl Drop for Guard {
        fn drop(&mut self) {
            // The same switch was set a moment ago, so this cannot fail.
            let _ = switch_deterministic(self.0);
        }
    }
    let _guard = Guard(switch_deterministic(false)?);
    Ok(body())
}

/// Sets the switch and returns its value before.
fn switch_deterministic(on: bool) -> Result<bool, TorchError> {
    let mut before = false;
    check("switch deterministic algorithms", unsafe {
        shim::r1d_switch_deterministic(on, &mut before)
    })?;
    Ok(before)
}

/// Makes sums of bfloat16 and float16 products stay float32 to their end on a GPU, also where
/// cuBLAS splits them. It holds for the whole process.
pub fn sum_in_float32() -> Result<(), TorchError> {
    check("sum products in float32", unsafe {
        shim::r1d_sum_in_float32()
    })
}

/// Whether [`sum_in_float32`] is in force.
pub fn sums_in_float32() -> bool {
    unsafe { shim::r1d_sums_in_float32() }
}

/// Adds the gradients of a scalar to those of the parameters. On a GPU with [`set_deterministic`]
/// the bits are the same each time: an operation without a deterministic backward pass is an error.
pub fn backward(loss: &Tensor) -> Result<(), TorchError> {
    crate::spans::span("backward", || {
        check("backward pass", unsafe {
            shim::r1d_backward(loss.as_ptr())
        })
    })
}

/// Reports progress ([`crate::work`]) when a backward pass comes to this tensor, because a pass
/// through a whole model is a single long call. The tensor must be on the CPU; a GPU's passes are
/// queued quickly, and by a thread of libtorch's.
pub fn hear_backward(tensor: &Tensor) -> Result<(), TorchError> {
    check("backward hook", unsafe {
        shim::r1d_on_gradient(tensor.as_ptr(), crate::work::still_moving)
    })
}

/// Treats denormal floats as zero on this thread and those it starts; `false` if the processor
/// cannot. AdamW's second moments decay into denormals, each of which costs a hundred cycles.
pub fn set_flush_denormal(on: bool) -> bool {
    unsafe { shim::r1d_set_flush_denormal(on) }
}

/// Whether operations on this thread are recorded for a backward pass.
pub fn is_recording() -> bool {
    unsafe { shim::r1d_is_recording() }
}

/// Runs `body` in libtorch's inference mode: no autograd records, no version counters, less time
/// per operation than [`tch::no_grad`]. Tensors made inside can never take part in a backward pass.
pub fn inference<T>(body: impl FnOnce() -> T) -> Result<T, TorchError> {
    struct Guard(*mut std::ffi::c_void);
    impl Drop for Guard {
        fn drop(&mut self) {
            // SAFETY: made by `r1d_inference_enter` on this thread, left once, in reverse order of
            // entry.
            unsafe { shim::r1d_inference_leave(self.0) }
        }
    }
    let mut guard = std::ptr::null_mut();
    check("enter inference mode", unsafe {
        shim::r1d_inference_enter(&mut guard)
    })?;
    let _guard = Guard(guard);
    Ok(body())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_library() {
        assert_eq!(version(), "2.11.0");
    }

    #[test]
    fn threads_can_be_set() {
        set_threads(1).unwrap();
        assert_eq!(threads(), 1);
        assert!(
            set_threads(0)
                .unwrap_err()
                .to_string()
                .contains("set intra-op threads")
        );
    }

    #[test]
    fn a_body_without_determinism_leaves_it_as_it_was() {
        for on in [true, false] {
            set_deterministic(on).unwrap();
            let inside = without_deterministic(|| switch_deterministic(false).unwrap()).unwrap();
            assert!(!inside);
            assert_eq!(switch_deterministic(on).unwrap(), on);
            let caught = std::panic::catch_unwind(|| without_deterministic(|| panic!("planted")));
            assert!(caught.is_err());
            assert_eq!(
                switch_deterministic(false).unwrap(),
                on,
                "after a panic too"
            );
        }
    }

    #[test]
    fn inference_records_no_gradients_and_ends_with_its_body() {
        let x = Tensor::from_slice(&[1f32]).set_requires_grad(true);
        assert!(!inference(|| (&x * 2.0).requires_grad()).unwrap());
        assert!((&x * 2.0).requires_grad());
        let caught = std::panic::catch_unwind(|| inference(|| panic!("planted")));
        assert!(caught.is_err());
        assert!((Tensor::from_slice(&[1f32]).set_requires_grad(true) * 2.0).requires_grad());
    }
}
