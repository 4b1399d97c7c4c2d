//! NCCL's C API (`nccl.h`), opened at run time: as much of it as a group needs.

use crate::backend::BackendError;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

/// The name that libtorch's CUDA half has loaded the library by, so that both use the same one.
const NAME: &str = "libnccl.so.2";
/// The versions of which the calls below are known, as NCCL codes them: 2.14.0, the first whose
/// calls need not block, and what comes before 3.0.0.
const VERSIONS: std::ops::Range<c_int> = 21_400..30_000;

/// `ncclResult_t`.
pub(crate) type Status = c_int;
pub(crate) const SUCCESS: Status = 0;
pub(crate) const IN_PROGRESS: Status = 7;

/// `ncclDataType_t` of bytes.
pub(crate) const UINT8: c_int = 1;

/// `ncclComm_t`.
pub(crate) type Comm = *mut c_void;
/// `cudaStream_t`.
pub(crate) type Stream = *mut c_void;
type Bytes = *const c_void;
type BytesMut = *mut c_void;

/// Bytes of a [`UniqueId`].
pub(crate) const ID_BYTES: usize = 128;

/// `ncclUniqueId`: where the ranks of a group find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct UniqueId(pub(crate) [u8; ID_BYTES]);

/// `ncclConfig_t` as NCCL 2.14 has it, with the first field behind it. Later versions have longer
/// ones; they take this one by its size and version, and have defaults for the rest.
#[repr(C)]
pub(crate) struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    unset: c_int,
}

impl Config {
    /// Calls return before they are done.
    pub(crate) fn without_blocking() -> Config {
        Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: VERSIONS.start.unsigned_abs(),
            blocking: 0,
            unset: c_int::MIN,
        }
    }
}

/// The functions that are used of NCCL.
#[derive(Clone)]
pub(crate) struct Api {
    pub(crate) get_version: unsafe extern "C" fn(*mut c_int) -> Status,
    pub(crate) get_unique_id: unsafe extern "C" fn(*mut UniqueId) -> Status,
    pub(crate) get_error_string: unsafe extern "C" fn(Status) -> *const c_char,
    pub(crate) get_last_error: unsafe extern "C" fn(Comm) -> *const c_char,
    pub(crate) comm_init:
        unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> Status,
    pub(crate) comm_get_async_error: unsafe extern "C" fn(Comm, *mut Status) -> Status,
    pub(crate) comm_finalize: unsafe extern "C" fn(Comm) -> Status,
    pub(crate) comm_destroy: unsafe extern "C" fn(Comm) -> Status,
    pub(crate) comm_abort: unsafe extern "C" fn(Comm) -> Status,
    pub(crate) group_start: unsafe extern "C" fn() -> Status,
    pub(crate) group_end: unsafe extern "C" fn() -> Status,
    pub(crate) send: unsafe extern "C" fn(Bytes, usize, c_int, c_int, Comm, Stream) -> Status,
    pub(crate) recv: unsafe extern "C" fn(BytesMut, usize, c_int, c_int, Comm, Stream) -> Status,
    pub(crate) all_gather:
        unsafe extern "C" fn(Bytes, BytesMut, usize, c_int, Comm, Stream) -> Status,
    pub(crate) broadcast:
        unsafe extern "C" fn(Bytes, BytesMut, usize, c_int, c_int, Comm, Stream) -> Status,
}

impl Api {
    /// The NCCL of this process, which libtorch's CUDA half brings.
    pub(crate) fn get() -> Result<&'static Api, BackendError> {
        static API: OnceLock<Result<Api, BackendError>> = OnceLock::new();
        let api = API.get_or_init(Api::open).as_ref().map_err(Clone::clone)?;
        api.check_version()?;
        Ok(api)
    }

    fn open() -> Result<Api, BackendError> {
        // SAFETY: NVIDIA's library, whose constructors only register themselves.
        let library = unsafe { Library::open(Some(NAME), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| {
            BackendError(format!(
                "NCCL cannot be opened: {error}: install the nvidia-nccl of libtorch's CUDA build"
            ))
        })?;
        // The functions are used as long as the process lives.
        let library = Box::leak(Box::new(library));
        // SAFETY: the signatures are those of nccl.h.
        unsafe {
            Ok(Api {
                get_version: function(library, "ncclGetVersion")?,
                get_unique_id: function(library, "ncclGetUniqueId")?,
                get_error_string: function(library, "ncclGetErrorString")?,
                get_last_error: function(library, "ncclGetLastError")?,
                comm_init: function(library, "ncclCommInitRankConfig")?,
                comm_get_async_error: function(library, "ncclCommGetAsyncError")?,
                comm_finalize: function(library, "ncclCommFinalize")?,
                comm_destroy: function(library, "ncclCommDestroy")?,
                comm_abort: function(library, "ncclCommAbort")?,
                group_start: function(library, "ncclGroupStart")?,
                group_end: function(library, "ncclGroupEnd")?,
                send: function(library, "ncclSend")?,
                recv: function(library, "ncclRecv")?,
                all_gather: function(library, "ncclAllGather")?,
                broadcast: function(library, "ncclBroadcast")?,
            })
        }
    }

    /// The library's version, as NCCL codes it.
    pub(crate) fn version(&self) -> Result<c_int, BackendError> {
        let mut version = 0;
        // SAFETY: a place for a number.
        let status = unsafe { (self.get_version)(&mut version) };
        self.check("ncclGetVersion", status, std::ptr::null_mut())?;
        Ok(version)
    }

    pub(crate) fn check_version(&self) -> Result<(), BackendError> {
        let version = self.version()?;
        if VERSIONS.contains(&version) {
            return Ok(());
        }
        Err(BackendError(format!(
            "{NAME} is NCCL {}, and r1d knows those from 2.14 on, below 3.0",
            shown(version)
        )))
    }

    /// Turns what a call returned into an error, unless it is done or under way.
    pub(crate) fn check(&self, call: &str, status: Status, comm: Comm) -> Result<(), BackendError> {
        if [SUCCESS, IN_PROGRESS].contains(&status) {
            return Ok(());
        }
        // SAFETY: a text of NCCL's, or null.
        let text = |text: *const c_char| unsafe {
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().trim().to_owned())
        };
        // SAFETY: NCCL has a text for any number; a communicator is live, or null for none.
        let (what, last) = unsafe {
            (
                text((self.get_error_string)(status)),
                text((self.get_last_error)(comm)),
            )
        };
        let last = last.filter(|last| !last.is_empty());
        Err(BackendError(format!(
            "{call}: {}{}",
            what.unwrap_or_else(|| format!("error {status}")),
            last.map_or(String::new(), |last| format!(" ({last})"))
        )))
    }
}

/// A version as people write it: `2.28.9`.
pub(crate) fn shown(version: c_int) -> String {
    // Before 2.9 a version had one digit less.
    let scale = if version < 10_000 { 1000 } else { 10_000 };
    let (major, rest) = (version / scale, version % scale);
    format!("{major}.{}.{}", rest / 100, rest % 100)
}

/// Looks a function up.
///
/// # Safety
/// `F` is a function pointer of the function's own signature.
unsafe fn function<F: Copy>(library: &Library, name: &str) -> Result<F, BackendError> {
    // SAFETY: the caller's promise.
    let found = unsafe { library.get::<F>(name.as_bytes()) };
    Ok(*found.map_err(|error| BackendError(format!("{NAME} lacks a function: {error}")))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_read_as_people_write_them() {
        let cases = [(22_809, "2.28.9"), (21_400, "2.14.0"), (2_708, "2.7.8")];
        for (version, expected) in cases {
            assert_eq!(shown(version), expected);
        }
    }
}
