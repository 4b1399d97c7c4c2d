//! The C ABI of `shim/gloo.cpp`.

use crate::backend::BackendError;
use std::ffi::{c_char, c_int, c_void};
use torch_sys::C_tensor;

/// The functions that libtorch's store calls, and what they are called with.
#[repr(C)]
pub(crate) struct Callbacks {
    pub(crate) state: *mut c_void,
    pub(crate) set:
        unsafe extern "C" fn(*mut c_void, *const c_char, *const u8, usize) -> *mut c_char,
    pub(crate) get: unsafe extern "C" fn(
        *mut c_void,
        *const c_char,
        i64,
        *mut *mut u8,
        *mut usize,
    ) -> *mut c_char,
    pub(crate) add: unsafe extern "C" fn(*mut c_void, *const c_char, i64, *mut i64) -> *mut c_char,
    pub(crate) has: unsafe extern "C" fn(*mut c_void, *const c_char, *mut bool) -> *mut c_char,
    pub(crate) drop: unsafe extern "C" fn(*mut c_void),
}

unsafe extern "C" {
    pub(crate) fn r1d_gloo_open(
        callbacks: *const Callbacks,
        rank: c_int,
        size: c_int,
        host: *const c_char,
        limit_ms: i64,
        group: *mut *mut c_void,
    ) -> *mut c_char;
    pub(crate) fn r1d_gloo_close(group: *mut c_void);
    pub(crate) fn r1d_gloo_all_to_all(
        group: *mut c_void,
        input: *const C_tensor,
        output: *const C_tensor,
        sent: *const i64,
        received: *const i64,
        ranks: usize,
        limit_ms: i64,
    ) -> *mut c_char;
    pub(crate) fn r1d_gloo_all_gather(
        group: *mut c_void,
        input: *const C_tensor,
        output: *const C_tensor,
        limit_ms: i64,
    ) -> *mut c_char;
    pub(crate) fn r1d_gloo_broadcast(
        group: *mut c_void,
        bytes: *const C_tensor,
        root: c_int,
        limit_ms: i64,
    ) -> *mut c_char;
    pub(crate) fn malloc(bytes: usize) -> *mut c_void;
    pub(crate) fn strdup(text: *const c_char) -> *mut c_char;
}

/// Turns the shim's message, if any, into an error.
pub(crate) fn check(message: *mut c_char) -> Result<(), BackendError> {
    // SAFETY: the shim's functions return what `guarded` does.
    match unsafe { r1d_torch::guarded_message(message) } {
        None => Ok(()),
        Some(text) => Err(BackendError(text)),
    }
}
