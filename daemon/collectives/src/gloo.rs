//! libtorch's Gloo: TCP between processes, for tensors on the CPU. Its ranks find each other at our
//! rendezvous, so no TCPStore listens anywhere.

use crate::backend::{Backend, BackendError};
use crate::rendezvous::{Rendezvous, RendezvousError};
use crate::shim::{self, Callbacks, check};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::null_mut;
use std::sync::Arc;
use std::time::Duration;
use tch::Tensor;

/// One rank's end of a Gloo group.
pub struct Gloo {
    group: *mut c_void,
    rank: usize,
    size: usize,
}

// SAFETY: libtorch's group may be called from any thread, by one at a time.
unsafe impl Send for Gloo {}

impl Gloo {
    /// Connects this rank with all others. `host` is the name or address of the interface that this
    /// rank's sockets are bound to; the others reach it there. All ranks do this at about the same
    /// time, with a rendezvous on which nothing was done yet.
    pub fn open(
        rank: usize,
        size: usize,
        host: &str,
        rendezvous: Arc<dyn Rendezvous>,
        limit: Duration,
    ) -> Result<Gloo, BackendError> {
        let number = |n: usize| {
            c_int::try_from(n).map_err(|_| BackendError(format!("{n} is no number of ranks")))
        };
        let (c_rank, c_size) = (number(rank)?, number(size)?);
        let c_host =
            CString::new(host).map_err(|_| BackendError(format!("{host:?} is no host")))?;
        let callbacks = Callbacks {
            state: Box::into_raw(Box::new(rendezvous)).cast(),
            set,
            get,
            add,
            has,
            drop: drop_state,
        };
        let mut group = null_mut();
        // SAFETY: the shim copies the callbacks and drops their state once, also where it fails.
        check(unsafe {
            shim::r1d_gloo_open(
                &raw const callbacks,
                c_rank,
                c_size,
                c_host.as_ptr(),
                milliseconds(limit),
                &raw mut group,
            )
        })?;
        Ok(Gloo { group, rank, size })
    }
}

impl Drop for Gloo {
    fn drop(&mut self) {
        // SAFETY: made by `open`, closed once.
        unsafe { shim::r1d_gloo_close(self.group) };
    }
}

impl Backend for Gloo {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_to_all(
        &mut self,
        input: &Tensor,
        sent: &[i64],
        output: &mut Tensor,
        received: &[i64],
        limit: Duration,
    ) -> Result<(), BackendError> {
        if sent.len() != self.size || received.len() != self.size {
            return Err(BackendError("a length for each rank is needed".to_owned()));
        }
        // SAFETY: live tensors and a live group; libtorch checks that the lengths fit, and holds
        // the tensors' memory as long as it uses it.
        check(unsafe {
            shim::r1d_gloo_all_to_all(
                self.group,
                input.as_ptr(),
                output.as_ptr(),
                sent.as_ptr(),
                received.as_ptr(),
                self.size,
                milliseconds(limit),
            )
        })
    }

    fn all_gather(
        &mut self,
        input: &Tensor,
        output: &mut Tensor,
        limit: Duration,
    ) -> Result<(), BackendError> {
        // SAFETY: as in `all_to_all`.
        check(unsafe {
            shim::r1d_gloo_all_gather(
                self.group,
                input.as_ptr(),
                output.as_ptr(),
                milliseconds(limit),
            )
        })
    }

    fn broadcast(
        &mut self,
        bytes: &mut Tensor,
        root: usize,
        limit: Duration,
    ) -> Result<(), BackendError> {
        // SAFETY: as in `all_to_all`; `root` is a rank, and `open` took a larger number.
        check(unsafe {
            shim::r1d_gloo_broadcast(
                self.group,
                bytes.as_ptr(),
                root as c_int,
                milliseconds(limit),
            )
        })
    }
}

fn milliseconds(limit: Duration) -> i64 {
    i64::try_from(limit.as_millis()).unwrap_or(i64::MAX)
}

// What libtorch's store calls, from any thread. No panic leaves them.

type State = Arc<dyn Rendezvous>;

/// Calls the rendezvous with a key of libtorch's.
///
/// # Safety
///
/// `state` and `key` are what the shim got and makes.
unsafe fn at<T>(
    state: *mut c_void,
    key: *const c_char,
    call: impl FnOnce(&dyn Rendezvous, &str) -> Result<T, RendezvousError>,
    then: impl FnOnce(T),
) -> *mut c_char {
    let (rendezvous, key) = unsafe { (&*state.cast::<State>(), CStr::from_ptr(key)) };
    let called = catch_unwind(AssertUnwindSafe(|| {
        call(rendezvous.as_ref(), &key.to_string_lossy())
    }));
    let message = match called {
        Ok(Ok(value)) => {
            then(value);
            return null_mut();
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "the rendezvous panicked".to_owned(),
    };
    // SAFETY: the text ends with a zero and lives through the call, which copies it.
    unsafe { shim::strdup(CString::new(message).unwrap_or_default().as_ptr()) }
}

unsafe extern "C" fn set(
    state: *mut c_void,
    key: *const c_char,
    value: *const u8,
    bytes: usize,
) -> *mut c_char {
    let value = if bytes == 0 {
        &[]
    } else {
        // SAFETY: the shim hands over a vector that lives through the call.
        unsafe { std::slice::from_raw_parts(value, bytes) }
    };
    unsafe { at(state, key, |r, key| r.set(key, value), |()| ()) }
}

unsafe extern "C" fn get(
    state: *mut c_void,
    key: *const c_char,
    limit_ms: i64,
    value: *mut *mut u8,
    bytes: *mut usize,
) -> *mut c_char {
    let within = Duration::from_millis(u64::try_from(limit_ms).unwrap_or(0));
    let hand_over = |found: Vec<u8>| {
        // SAFETY: the copy is the shim's to free; it takes none where there is no memory.
        unsafe {
            let copy = shim::malloc(found.len().max(1)).cast::<u8>();
            if !copy.is_null() {
                copy.copy_from_nonoverlapping(found.as_ptr(), found.len());
                *value = copy;
                *bytes = found.len();
            }
        }
    };
    unsafe { at(state, key, |r, key| r.get(key, within), hand_over) }
}

unsafe extern "C" fn add(
    state: *mut c_void,
    key: *const c_char,
    amount: i64,
    sum: *mut i64,
) -> *mut c_char {
    // SAFETY: the shim hands over a place for the number.
    unsafe {
        at(
            state,
            key,
            |r, key| r.add(key, amount),
            |found| *sum = found,
        )
    }
}

unsafe extern "C" fn has(state: *mut c_void, key: *const c_char, there: *mut bool) -> *mut c_char {
    // SAFETY: the shim hands over a place for the answer.
    unsafe { at(state, key, |r, key| r.has(key), |found| *there = found) }
}

unsafe extern "C" fn drop_state(state: *mut c_void) {
    // SAFETY: made by `open`, dropped once.
    drop(unsafe { Box::from_raw(state.cast::<State>()) });
}
