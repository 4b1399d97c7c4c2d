//! The C ABI of `shim/shim.cpp`.

use std::ffi::{CStr, c_char, c_int, c_void};
use tch::Tensor;
use torch_sys::C_tensor;

/// A C++ exception of libtorch, caught in the shim.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{call}: {message}")]
pub struct TorchError {
    /// The operation that failed.
    pub call: &'static str,
    /// libtorch's own message, without its backtrace.
    pub message: String,
}

/// An error of one of the shim's kernels.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// An operation around the kernel failed, for example the allocation of its output.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
    /// The kernel itself failed.
    #[error(transparent)]
    Shim(#[from] TorchError),
}

/// What the shim calls for the gradients of an operation of ours.
pub(crate) type GradientFunction = unsafe extern "C" fn(
    *mut c_void,
    *const *mut C_tensor,
    usize,
    *mut *mut C_tensor,
    usize,
) -> *mut c_char;

unsafe extern "C" {
    /// libtorch's own (`torch/csrc/inductor/aoti_torch/c/shim.h`).
    pub(crate) fn aoti_torch_abi_version() -> u64;
    pub(crate) fn r1d_set_threads(count: c_int) -> *mut c_char;
    pub(crate) fn r1d_threads() -> c_int;
    pub(crate) fn r1d_set_interop_threads(count: c_int) -> *mut c_char;
    pub(crate) fn r1d_set_deterministic(on: bool) -> *mut c_char;
    pub(crate) fn r1d_is_deterministic() -> bool;
    pub(crate) fn r1d_switch_deterministic(on: bool, before: *mut bool) -> *mut c_char;
    pub(crate) fn r1d_sum_in_float32() -> *mut c_char;
    pub(crate) fn r1d_sums_in_float32() -> bool;
    pub(crate) fn r1d_backward(loss: *const C_tensor) -> *mut c_char;
    pub(crate) fn r1d_on_gradient(tensor: *const C_tensor, reached: extern "C" fn())
    -> *mut c_char;
    pub(crate) fn r1d_set_flush_denormal(on: bool) -> bool;
    pub(crate) fn r1d_is_recording() -> bool;
    pub(crate) fn r1d_inference_enter(guard: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn r1d_inference_leave(guard: *mut c_void);
    pub(crate) fn r1d_global_norm(
        tensors: *const *const C_tensor,
        count: usize,
        group: usize,
        grouped: extern "C" fn(),
        norm: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn r1d_scale(
        tensors: *const *const C_tensor,
        count: usize,
        factor: f64,
    ) -> *mut c_char;
    pub(crate) fn r1d_copy(
        destinations: *const *const C_tensor,
        sources: *const *const C_tensor,
        count: usize,
    ) -> *mut c_char;
    pub(crate) fn r1d_clear_gradients(tensors: *const *const C_tensor, count: usize)
    -> *mut c_char;
    #[allow(clippy::too_many_arguments, reason = "the C ABI of one libtorch call")]
    pub(crate) fn r1d_adamw(
        parameters: *const *const C_tensor,
        gradients: *const *const C_tensor,
        exp_avg: *const *const C_tensor,
        exp_avg_sq: *const *const C_tensor,
        steps: *const *const C_tensor,
        count: usize,
        lr: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
        gradient_scale: *const C_tensor,
        found_inf: *const C_tensor,
    ) -> *mut c_char;
    pub(crate) fn r1d_copy_ahead(
        destination: *const C_tensor,
        source: *const C_tensor,
    ) -> *mut c_char;
    pub(crate) fn r1d_event_record(on: *const C_tensor, event: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn r1d_event_wait(event: *mut c_void) -> *mut c_char;
    pub(crate) fn r1d_event_query(event: *mut c_void, passed: *mut bool) -> *mut c_char;
    pub(crate) fn r1d_event_drop(event: *mut c_void);
    pub(crate) fn r1d_stream_of(on: *const C_tensor, stream: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn r1d_use_device_of(on: *const C_tensor) -> *mut c_char;
    pub(crate) fn r1d_device_memory(index: c_int, bytes: *mut u64) -> *mut c_char;
    pub(crate) fn r1d_release_device_memory() -> *mut c_char;
    pub(crate) fn r1d_differentiable(
        inputs: *const *const C_tensor,
        input_count: usize,
        outputs: *const *mut C_tensor,
        output_count: usize,
        gradient: GradientFunction,
        drop: unsafe extern "C" fn(*mut c_void),
        state: *mut c_void,
    ) -> *mut c_char;
    pub(crate) fn strdup(text: *const c_char) -> *mut c_char;
    pub(crate) fn r1d_decode_attention(
        query: *const C_tensor,
        key: *const C_tensor,
        value: *const C_tensor,
        positions: *const C_tensor,
        scale: f64,
        out: *const C_tensor,
    ) -> *mut c_char;
    #[allow(clippy::too_many_arguments, reason = "the C ABI of one libtorch call")]
    pub(crate) fn r1d_varlen_attention(
        query: *const C_tensor,
        key: *const C_tensor,
        value: *const C_tensor,
        query_starts: *const C_tensor,
        key_starts: *const C_tensor,
        longest_query: i64,
        longest_key: i64,
        scale: f64,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn r1d_even_attention(
        query: *const C_tensor,
        key: *const C_tensor,
        value: *const C_tensor,
        scale: f64,
        out: *mut *mut C_tensor,
        lse: *mut *mut C_tensor,
    ) -> *mut c_char;
    #[allow(clippy::too_many_arguments, reason = "the C ABI of one libtorch call")]
    pub(crate) fn r1d_even_attention_backward(
        gradient: *const C_tensor,
        query: *const C_tensor,
        key: *const C_tensor,
        value: *const C_tensor,
        out: *const C_tensor,
        lse: *const C_tensor,
        scale: f64,
        of_query: *mut *mut C_tensor,
        of_key: *mut *mut C_tensor,
        of_value: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn r1d_packs(weight: *const C_tensor) -> bool;
    pub(crate) fn r1d_packed_linear(
        x: *const C_tensor,
        panels: *const C_tensor,
        bias: *const C_tensor,
        out: *const C_tensor,
    ) -> *mut c_char;
    pub(crate) fn r1d_fp8_linear(
        x: *const C_tensor,
        weight: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    pub(crate) fn r1d_fp8_grouped(
        x: *const C_tensor,
        weight: *const C_tensor,
        ends: *const C_tensor,
        out: *mut *mut C_tensor,
    ) -> *mut c_char;
    fn free(pointer: *mut c_void);
}

pub(crate) fn pointers<'a>(tensors: impl IntoIterator<Item = &'a Tensor>) -> Vec<*const C_tensor> {
    tensors.into_iter().map(Tensor::as_ptr).collect()
}

/// Turns the shim's message, if any, into an error.
pub(crate) fn check(call: &'static str, message: *mut c_char) -> Result<(), TorchError> {
    // SAFETY: the shim's functions return what `guarded` does.
    match unsafe { guarded_message(message) } {
        None => Ok(()),
        Some(message) => Err(TorchError { call, message }),
    }
}

/// Takes the message of the C++ exception that `guarded` (`shim/guarded.h`) caught; `None` where
/// there was none.
///
/// # Safety
/// `message` is what `guarded` returned: null, or a NUL-terminated text from malloc that nobody
/// else frees.
pub unsafe fn guarded_message(message: *mut c_char) -> Option<String> {
    if message.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(message) }
        .to_string_lossy()
        .trim_end()
        .to_owned();
    unsafe { free(message.cast()) };
    Some(text)
}
