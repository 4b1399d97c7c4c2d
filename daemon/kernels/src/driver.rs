//! The CUDA driver's API, opened at run time: as much of it as the kernels need. It works in the
//! device's primary context, which libtorch has made current on the calling thread.

use crate::error::{KernelError, Result};
use libloading::os::unix::Library;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::ptr::null_mut;
use std::sync::OnceLock;

type Status = c_int;
type Pointer = *mut c_void;

const COMPUTE_CAPABILITY_MAJOR: c_int = 75;
const COMPUTE_CAPABILITY_MINOR: c_int = 76;
/// A stream that waits for the default stream's work, and the default stream for its.
const STREAM_DEFAULT: c_uint = 0;
/// Only calls of the capturing thread are checked for what a capture forbids.
const CAPTURE_THREAD_LOCAL: c_int = 1;
const ATTRIBUTE_PROGRAMMATIC_SERIALIZATION: c_uint = 6;
/// The memory counts as pinned in every context.
const REGISTER_PORTABLE: c_uint = 1;

/// `CUlaunchAttribute`.
#[repr(C)]
struct LaunchAttribute {
    id: c_uint,
    padding: [c_char; 4],
    /// `CUlaunchAttributeValue`, of which the first integer is used.
    value: [c_int; 16],
}

/// `CUlaunchConfig`.
#[repr(C)]
struct LaunchConfig {
    grid: [c_uint; 3],
    block: [c_uint; 3],
    shared_bytes: c_uint,
    stream: Pointer,
    attributes: *mut LaunchAttribute,
    attribute_count: c_uint,
}

/// The functions that are used of libcuda.so.1.
pub(crate) struct Driver {
    get_error_string: unsafe extern "C" fn(Status, *mut *const c_char) -> Status,
    ctx_get_device: unsafe extern "C" fn(*mut c_int) -> Status,
    device_get_attribute: unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status,
    module_load_data: unsafe extern "C" fn(*mut Pointer, *const c_void) -> Status,
    module_unload: unsafe extern "C" fn(Pointer) -> Status,
    module_get_function: unsafe extern "C" fn(*mut Pointer, Pointer, *const c_char) -> Status,
    launch_kernel: unsafe extern "C" fn(
        *const LaunchConfig,
        Pointer,
        *mut *mut c_void,
        *mut *mut c_void,
    ) -> Status,
    stream_create: unsafe extern "C" fn(*mut Pointer, c_uint) -> Status,
    stream_destroy: unsafe extern "C" fn(Pointer) -> Status,
    stream_synchronize: unsafe extern "C" fn(Pointer) -> Status,
    stream_begin_capture: unsafe extern "C" fn(Pointer, c_int) -> Status,
    stream_end_capture: unsafe extern "C" fn(Pointer, *mut Pointer) -> Status,
    graph_instantiate: unsafe extern "C" fn(*mut Pointer, Pointer, u64) -> Status,
    graph_launch: unsafe extern "C" fn(Pointer, Pointer) -> Status,
    graph_exec_destroy: unsafe extern "C" fn(Pointer) -> Status,
    graph_destroy: unsafe extern "C" fn(Pointer) -> Status,
    mem_host_register: unsafe extern "C" fn(*mut c_void, usize, c_uint) -> Status,
    mem_host_unregister: unsafe extern "C" fn(*mut c_void) -> Status,
}

/// Opens a library of the GPU's; its functions stay valid for the life of the process.
pub(crate) fn open_library(name: &'static str, path: &str) -> Result<&'static Library> {
    // SAFETY: NVIDIA's own libraries, whose constructors only register themselves.
    let library = unsafe {
        Library::open(
            Some(path),
            libloading::os::unix::RTLD_NOW | libloading::os::unix::RTLD_LOCAL,
        )
    };
    let library = library.map_err(|error| KernelError::Library {
        library: name,
        message: error.to_string(),
    })?;
    Ok(Box::leak(Box::new(library)))
}

/// Looks a function up. The caller states its type, as the library's header declares it.
///
/// # Safety
/// `F` is a function pointer of the function's own signature.
pub(crate) unsafe fn function<F: Copy>(
    library: &Library,
    name: &'static str,
    function: &str,
) -> Result<F> {
    // SAFETY: the caller's promise.
    let found = unsafe { library.get::<F>(function.as_bytes()) };
    Ok(*found.map_err(|error| KernelError::Library {
        library: name,
        message: error.to_string(),
    })?)
}

impl Driver {
    /// The driver of this process.
    pub(crate) fn get() -> Result<&'static Driver> {
        static DRIVER: OnceLock<std::result::Result<Driver, String>> = OnceLock::new();
        DRIVER
            .get_or_init(|| Driver::open().map_err(|error| error.to_string()))
            .as_ref()
            .map_err(|message| KernelError::Library {
                library: NAME,
                message: message.clone(),
            })
    }

    fn open() -> Result<Driver> {
        let library = open_library(NAME, NAME)?;
        // SAFETY: the signatures are those of cuda.h.
        unsafe {
            Ok(Driver {
                get_error_string: function(library, NAME, "cuGetErrorString")?,
                ctx_get_device: function(library, NAME, "cuCtxGetDevice")?,
                device_get_attribute: function(library, NAME, "cuDeviceGetAttribute")?,
                module_load_data: function(library, NAME, "cuModuleLoadData")?,
                module_unload: function(library, NAME, "cuModuleUnload")?,
                module_get_function: function(library, NAME, "cuModuleGetFunction")?,
                launch_kernel: function(library, NAME, "cuLaunchKernelEx")?,
                stream_create: function(library, NAME, "cuStreamCreate")?,
                stream_destroy: function(library, NAME, "cuStreamDestroy_v2")?,
                stream_synchronize: function(library, NAME, "cuStreamSynchronize")?,
                stream_begin_capture: function(library, NAME, "cuStreamBeginCapture_v2")?,
                stream_end_capture: function(library, NAME, "cuStreamEndCapture")?,
                graph_instantiate: function(library, NAME, "cuGraphInstantiateWithFlags")?,
                graph_launch: function(library, NAME, "cuGraphLaunch")?,
                graph_exec_destroy: function(library, NAME, "cuGraphExecDestroy")?,
                graph_destroy: function(library, NAME, "cuGraphDestroy")?,
                mem_host_register: function(library, NAME, "cuMemHostRegister_v2")?,
                mem_host_unregister: function(library, NAME, "cuMemHostUnregister")?,
            })
        }
    }

    /// Pins memory for copies of the device.
    pub(crate) fn register(&self, address: *mut c_void, bytes: usize) -> Result<()> {
        // SAFETY: the driver refuses an address that is not the process's.
        let status = unsafe { (self.mem_host_register)(address, bytes, REGISTER_PORTABLE) };
        self.check("cuMemHostRegister", status)
    }

    /// Unpins memory that [`Driver::register`] has pinned.
    pub(crate) fn unregister(&self, address: *mut c_void) {
        // SAFETY: the driver refuses an address that it has not registered. After its own end
        // nothing is pinned any more, so that an error changes nothing.
        let _ = unsafe { (self.mem_host_unregister)(address) };
    }

    fn check(&self, call: &'static str, status: Status) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        let mut text: *const c_char = std::ptr::null();
        // SAFETY: the driver sets the pointer to a text of its own, or leaves it.
        unsafe { (self.get_error_string)(status, &mut text) };
        let message = if text.is_null() {
            format!("error {status}")
        } else {
            // SAFETY: a text of the driver's ends with a zero.
            unsafe { CStr::from_ptr(text) }
                .to_string_lossy()
                .into_owned()
        };
        Err(KernelError::Call { call, message })
    }

    /// The compute capability of the device whose context is current.
    pub(crate) fn compute_capability(&self) -> Result<(i32, i32)> {
        let mut device = 0;
        // SAFETY: the pointers are to integers that live through the calls.
        self.check("cuCtxGetDevice", unsafe {
            (self.ctx_get_device)(&mut device)
        })?;
        let attribute = |attribute| {
            let mut value = 0;
            // SAFETY: as above.
            self.check("cuDeviceGetAttribute", unsafe {
                (self.device_get_attribute)(&mut value, attribute, device)
            })?;
            Ok::<i32, KernelError>(value)
        };
        Ok((
            attribute(COMPUTE_CAPABILITY_MAJOR)?,
            attribute(COMPUTE_CAPABILITY_MINOR)?,
        ))
    }
}

const NAME: &str = "libcuda.so.1";

/// Compiled code on the device.
pub(crate) struct Module {
    driver: &'static Driver,
    handle: Pointer,
}

impl Module {
    /// Loads compiled code, which is not used afterwards.
    pub(crate) fn load(driver: &'static Driver, code: &[u8]) -> Result<Module> {
        let mut handle = null_mut();
        // SAFETY: the driver reads the image by its own header, and copies it.
        driver.check("cuModuleLoadData", unsafe {
            (driver.module_load_data)(&mut handle, code.as_ptr().cast())
        })?;
        Ok(Module { driver, handle })
    }

    /// The kernel of this name, which lives as long as the module.
    pub(crate) fn function(&self, name: &str) -> Result<Function> {
        let mut handle = null_mut();
        let text = CString::new(name).unwrap_or_default();
        // SAFETY: the text ends with a zero; the module is loaded.
        self.driver.check("cuModuleGetFunction", unsafe {
            (self.driver.module_get_function)(&mut handle, self.handle, text.as_ptr())
        })?;
        Ok(Function { handle })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded once, unloaded once. An error has no one to go to.
        let _ = unsafe { (self.driver.module_unload)(self.handle) };
    }
}

/// A kernel of a [`Module`].
#[derive(Clone, Copy)]
pub(crate) struct Function {
    handle: Pointer,
}

/// The blocks, threads and shared memory of a launch.
#[derive(Clone, Copy)]
pub(crate) struct Launch {
    pub grid: [u32; 3],
    pub threads: u32,
    pub shared_bytes: u32,
}

impl Launch {
    /// One block of `threads` threads for each row.
    pub(crate) fn of_rows(rows: i64, threads: u32) -> Launch {
        Launch {
            grid: [rows as u32, 1, 1],
            threads,
            shared_bytes: 0,
        }
    }
}

/// A stream of work on the device. The default stream, libtorch's, waits for it and is waited for,
/// except in a capture.
pub(crate) struct Stream {
    driver: &'static Driver,
    handle: Pointer,
}

/// The arguments of a launch: 8 bytes of storage for each, of which the kernel reads as many as its
/// parameter has.
pub(crate) struct Arguments(Vec<u64>);

impl Arguments {
    pub(crate) fn new() -> Arguments {
        Arguments(Vec::new())
    }

    /// Adds an address on the device; 0 is a null pointer.
    pub(crate) fn address(mut self, address: u64) -> Arguments {
        self.0.push(address);
        self
    }

    /// Adds an `int`.
    pub(crate) fn int(mut self, value: i32) -> Arguments {
        self.0.push(u64::from(value as u32));
        self
    }

    /// Adds a `long long`.
    pub(crate) fn long(mut self, value: i64) -> Arguments {
        self.0.push(value.cast_unsigned());
        self
    }

    /// Adds a `double`.
    pub(crate) fn double(mut self, value: f64) -> Arguments {
        self.0.push(value.to_bits());
        self
    }

    /// Adds a `float`.
    pub(crate) fn float(mut self, value: f32) -> Arguments {
        self.0.push(u64::from(value.to_bits()));
        self
    }
}

impl Stream {
    pub(crate) fn new(driver: &'static Driver) -> Result<Stream> {
        let mut handle = null_mut();
        // SAFETY: the pointer is to a handle that lives through the call.
        driver.check("cuStreamCreate", unsafe {
            (driver.stream_create)(&mut handle, STREAM_DEFAULT)
        })?;
        Ok(Stream { driver, handle })
    }

    /// The default stream, libtorch's. What is launched on it begins when the kernel before has
    /// ended.
    pub(crate) fn of_libtorch(driver: &'static Driver) -> Stream {
        Stream {
            driver,
            handle: null_mut(),
        }
    }

    pub(crate) fn handle(&self) -> Pointer {
        self.handle
    }

    /// Launches a kernel behind the stream's work. The arguments are those that the kernel's text
    /// declares, in its order, and every address is of memory that the kernel may use as it does.
    pub(crate) fn launch(
        &self,
        function: Function,
        launch: Launch,
        mut arguments: Arguments,
    ) -> Result<()> {
        let mut pointers: Vec<*mut c_void> = arguments
            .0
            .iter_mut()
            .map(|argument| std::ptr::from_mut(argument).cast())
            .collect();
        let mut value = [0; 16];
        value[0] = 1;
        let mut attribute = LaunchAttribute {
            id: ATTRIBUTE_PROGRAMMATIC_SERIALIZATION,
            padding: [0; 4],
            value,
        };
        let config = LaunchConfig {
            grid: launch.grid,
            block: [launch.threads, 1, 1],
            shared_bytes: launch.shared_bytes,
            stream: self.handle,
            attributes: &mut attribute,
            attribute_count: u32::from(!self.handle.is_null()),
        };
        // SAFETY: the configuration and the arguments live through the call, which copies them.
        self.driver.check("cuLaunchKernelEx", unsafe {
            (self.driver.launch_kernel)(&config, function.handle, pointers.as_mut_ptr(), null_mut())
        })
    }

    /// Waits until all work of the stream is done.
    pub(crate) fn synchronize(&self) -> Result<()> {
        // SAFETY: the stream lives.
        self.driver.check("cuStreamSynchronize", unsafe {
            (self.driver.stream_synchronize)(self.handle)
        })
    }

    /// Records the launches of `work` on this stream instead of running them.
    pub(crate) fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        let driver = self.driver;
        // SAFETY: the stream lives.
        driver.check("cuStreamBeginCapture", unsafe {
            (driver.stream_begin_capture)(self.handle, CAPTURE_THREAD_LOCAL)
        })?;
        let worked = work();
        let mut graph = null_mut();
        // The capture ends after an error too: the stream is of no use before.
        // SAFETY: the pointer is to a handle that lives through the call.
        let ended = driver.check("cuStreamEndCapture", unsafe {
            (driver.stream_end_capture)(self.handle, &mut graph)
        });
        let instantiated = worked.and(ended).and_then(|()| {
            let mut handle = null_mut();
            // SAFETY: the graph was captured just now.
            driver.check("cuGraphInstantiateWithFlags", unsafe {
                (driver.graph_instantiate)(&mut handle, graph, 0)
            })?;
            Ok(Graph { driver, handle })
        });
        if !graph.is_null() {
            // SAFETY: made by the capture, destroyed once; the executable graph does not need it.
            let _ = unsafe { (driver.graph_destroy)(graph) };
        }
        instantiated
    }

    /// Runs a captured graph behind the stream's work.
    pub(crate) fn replay(&self, graph: &Graph) -> Result<()> {
        // SAFETY: graph and stream live, in the same context.
        self.driver.check("cuGraphLaunch", unsafe {
            (self.driver.graph_launch)(graph.handle, self.handle)
        })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.handle.is_null() {
            return;
        }
        // SAFETY: created once, destroyed once. An error has no one to go to.
        let _ = unsafe { (self.driver.stream_destroy)(self.handle) };
    }
}

/// Launches that were recorded, to be run as one.
pub struct Graph {
    driver: &'static Driver,
    handle: Pointer,
}

// SAFETY: as of [`crate::Gpu`].
unsafe impl Send for Graph {}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: instantiated once, destroyed once. An error has no one to go to.
        let _ = unsafe { (self.driver.graph_exec_destroy)(self.handle) };
    }
}
