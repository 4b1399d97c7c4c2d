//! Copies between a device and the host that go on while the host does something else, and what
//! other libraries need to queue work on a device beside libtorch's.

use crate::shim::{self, TorchError, check};
use std::ffi::c_void;
use tch::Tensor;

/// Copies `from` into `to` on the device's stream, converting dtypes. If the host's side is pinned
/// memory of the same dtype, the call does not wait; an [`Event`] tells when the copy is done.
pub fn copy_ahead(to: &Tensor, from: &Tensor) -> Result<(), TorchError> {
    // SAFETY: live tensors; the caller keeps their memory until an event behind the copy has come.
    check("copy", unsafe {
        shim::r1d_copy_ahead(to.as_ptr(), from.as_ptr())
    })
}

/// A place in a device's stream that the host can wait for. On the CPU nothing is behind it.
pub struct Event(*mut c_void);

impl Event {
    /// Marks what is queued so far on the stream of `on`'s device.
    pub fn record(on: &Tensor) -> Result<Event, TorchError> {
        let mut event = std::ptr::null_mut();
        // SAFETY: a live tensor; the event becomes ours.
        check("event", unsafe {
            shim::r1d_event_record(on.as_ptr(), &mut event)
        })?;
        Ok(Event(event))
    }

    /// Waits until the device has come to this place.
    pub fn wait(&self) -> Result<(), TorchError> {
        // SAFETY: made by `r1d_event_record`, or null.
        check("event", unsafe { shim::r1d_event_wait(self.0) })
    }

    /// Whether the device has come to this place.
    pub fn is_past(&self) -> Result<bool, TorchError> {
        let mut passed = false;
        // SAFETY: made by `r1d_event_record`, or null.
        check("event", unsafe {
            shim::r1d_event_query(self.0, &mut passed)
        })?;
        Ok(passed)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: as above, and dropped once.
        unsafe { shim::r1d_event_drop(self.0) }
    }
}

/// The stream (`cudaStream_t`) on which libtorch queues this thread's work of `on`'s device; null
/// on the CPU.
pub fn stream_of(on: &Tensor) -> Result<*mut c_void, TorchError> {
    let mut stream = std::ptr::null_mut();
    // SAFETY: a live tensor, and a place for the stream.
    check("stream", unsafe {
        shim::r1d_stream_of(on.as_ptr(), &mut stream)
    })?;
    Ok(stream)
}

/// Makes `on`'s GPU the one that other libraries' calls of this thread are for. Without a GPU it
/// does nothing.
pub fn use_device_of(on: &Tensor) -> Result<(), TorchError> {
    // SAFETY: a live tensor.
    check("device", unsafe { shim::r1d_use_device_of(on.as_ptr()) })
}
