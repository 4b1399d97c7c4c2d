//! How C++ beside a crate is compiled against libtorch: a module of build scripts.

use std::path::{Path, PathBuf};

/// The folder of the libraries of the libtorch that torch-sys found.
pub(crate) fn libraries() -> PathBuf {
    std::env::var_os("DEP_TCH_LIBTORCH_LIB")
        .expect("torch-sys names its libtorch folder")
        .into()
}

/// A compiler of files that include libtorch's headers, whose libraries are in `lib`.
pub(crate) fn compiler(lib: &Path) -> cc::Build {
    let include = lib
        .parent()
        .expect("libtorch has a lib folder")
        .join("include");
    let mut compiler = cc::Build::new();
    compiler
        .cpp(true)
        .std("c++17")
        .pic(true)
        .opt_level(2)
        .warnings(false)
        .flag_if_supported("-Wno-psabi")
        .include(&include)
        .include(include.join("torch/csrc/api/include"));
    compiler
}

/// Lets this crate's own tests find libtorch in place; `LD_LIBRARY_PATH` still wins (RUNPATH, not
/// RPATH).
pub(crate) fn set_run_path(lib: &Path) {
    println!(
        "cargo::rustc-link-arg=-Wl,--enable-new-dtags,-rpath,{}",
        lib.display()
    );
}
