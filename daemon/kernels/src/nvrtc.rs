//! NVRTC, the compiler of CUDA text at run time.

use crate::cache;
use crate::driver::{function, open_library};
use crate::error::{KernelError, Result};
use libloading::os::unix::Library;
use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};

const NAME: &str = "libnvrtc.so.13";
/// Another library of the same folder, which libtorch's CUDA half has loaded.
const NEIGHBOUR: &str = "libcublas.so.13";

/// What the name of the compiler's builtins begins with.
const BUILTINS: &str = "libnvrtc-builtins.so.13.";

/// What every text is compiled with.
const OPTIONS: [&str; 2] = ["--gpu-architecture=sm_90a", "--std=c++17"];

type Program = *mut c_void;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// The compiler.
pub struct Nvrtc {
    create: unsafe extern "C" fn(
        *mut Program,
        *const c_char,
        *const c_char,
        c_int,
        *const *const c_char,
        *const *const c_char,
    ) -> c_int,
    compile: unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int,
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    log_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    log: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    code_size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
    code: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    /// Major and minor number, as text.
    version: String,
}

/// A program under compilation, destroyed when it is dropped.
struct Compilation<'a> {
    nvrtc: &'a Nvrtc,
    program: Program,
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once.
        let _ = unsafe { (self.nvrtc.destroy)(&mut self.program) };
    }
}

/// The folder of a library that the process has loaded, if it has.
fn folder_of(library: &str) -> Option<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let path = maps
        .lines()
        .filter_map(|line| line.find('/').map(|start| &line[start..]))
        .find(|path| path.rsplit('/').next() == Some(library))?;
    Some(path[..path.len() - library.len()].to_owned())
}

/// Opens the compiler in `folder`, whose builtins come first: it opens them by their name alone.
fn open_in(folder: &str) -> Result<&'static Library> {
    let found = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let names = found.filter_map(|entry| entry.file_name().into_string().ok());
    for builtins in names.filter(|name| name.starts_with(BUILTINS)) {
        open_library(NAME, &format!("{folder}{builtins}"))?;
    }
    open_library(NAME, &format!("{folder}{NAME}"))
}

impl Nvrtc {
    /// Opens the compiler: where the loader finds it, or beside the libraries that libtorch
    /// brought.
    pub fn open() -> Result<Nvrtc> {
        let library = open_library(NAME, NAME).or_else(|error| match folder_of(NEIGHBOUR) {
            Some(folder) => open_in(&folder),
            None => Err(error),
        })?;
        // SAFETY: the signatures are those of nvrtc.h.
        unsafe {
            let version = function(library, NAME, "nvrtcVersion")?;
            Ok(Nvrtc {
                version: version_of(version)?,
                create: function(library, NAME, "nvrtcCreateProgram")?,
                compile: function(library, NAME, "nvrtcCompileProgram")?,
                destroy: function(library, NAME, "nvrtcDestroyProgram")?,
                log_size: function(library, NAME, "nvrtcGetProgramLogSize")?,
                log: function(library, NAME, "nvrtcGetProgramLog")?,
                code_size: function(library, NAME, "nvrtcGetCUBINSize")?,
                code: function(library, NAME, "nvrtcGetCUBIN")?,
            })
        }
    }

    /// Compiles `text` for Hopper (`sm_90a`) with these definitions (`NAME=VALUE`), or finds it
    /// compiled ([`keep_compiled_in`](crate::keep_compiled_in)); returns the code that the driver
    /// loads.
    pub fn compile(
        &self,
        file: &'static str,
        text: &str,
        definitions: &[String],
    ) -> Result<Vec<u8>> {
        let defined = definitions
            .iter()
            .map(|one| format!("--define-macro={one}"));
        let options: Vec<String> = OPTIONS
            .map(str::to_owned)
            .into_iter()
            .chain(defined)
            .collect();
        let parts: Vec<&[u8]> = [self.version.as_bytes(), file.as_bytes(), text.as_bytes()]
            .into_iter()
            .chain(options.iter().map(String::as_bytes))
            .collect();
        cache::compiled(&parts, || self.compile_anew(file, text, &options))
    }

    fn compile_anew(&self, file: &'static str, text: &str, options: &[String]) -> Result<Vec<u8>> {
        let text = CString::new(text).unwrap_or_default();
        let name = CString::new(file).unwrap_or_default();
        let mut program = null_mut();
        // SAFETY: both texts end with a zero and live through the call, which copies them.
        check("nvrtcCreateProgram", unsafe {
            (self.create)(
                &mut program,
                text.as_ptr(),
                name.as_ptr(),
                0,
                null(),
                null(),
            )
        })?;
        let compilation = Compilation {
            nvrtc: self,
            program,
        };
        let options: Vec<CString> = options
            .iter()
            .map(|option| CString::new(option.as_str()).unwrap_or_default())
            .collect();
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        // SAFETY: the options live through the call; there are as many as it is told.
        let compiled =
            unsafe { (self.compile)(program, pointers.len() as c_int, pointers.as_ptr()) };
        if compiled != 0 {
            return Err(KernelError::Compile {
                file,
                log: compilation.log(),
            });
        }
        compilation.code()
    }
}

impl Compilation<'_> {
    fn log(&self) -> String {
        let read = || {
            let text = self.read("nvrtcGetProgramLog", self.nvrtc.log_size, self.nvrtc.log)?;
            Ok::<_, KernelError>(String::from_utf8_lossy(&text).trim_matches('\0').to_owned())
        };
        read().unwrap_or_else(|error| error.to_string())
    }

    fn code(&self) -> Result<Vec<u8>> {
        self.read("nvrtcGetCUBIN", self.nvrtc.code_size, self.nvrtc.code)
    }

    fn read(
        &self,
        call: &'static str,
        size: unsafe extern "C" fn(Program, *mut usize) -> c_int,
        read: unsafe extern "C" fn(Program, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program lives; the pointer is to an integer that lives through the call.
        check(call, unsafe { size(self.program, &mut bytes) })?;
        let mut text = vec![0u8; bytes];
        // SAFETY: the buffer has the size that was asked for.
        check(call, unsafe {
            read(self.program, text.as_mut_ptr().cast())
        })?;
        Ok(text)
    }
}

fn version_of(version: Version) -> Result<String> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: the pointers are to integers that live through the call.
    check("nvrtcVersion", unsafe { version(&mut major, &mut minor) })?;
    Ok(format!("{major}.{minor}"))
}

fn check(call: &'static str, status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(KernelError::Call {
        call,
        message: format!("error {status}"),
    })
}
