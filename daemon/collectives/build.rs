//! Compiles the C++ shim of Gloo against the libtorch that torch-sys found, and lets this crate's
//! tests find that libtorch in place; `LD_LIBRARY_PATH` still wins (RUNPATH, not RPATH).

use std::path::{Path, PathBuf};

fn main() {
    // `guarded.h` is r1d-torch's.
    let torch = Path::new("../torch/shim");
    println!("cargo::rerun-if-changed=shim");
    println!(
        "cargo::rerun-if-changed={}",
        torch.join("guarded.h").display()
    );
    let lib = PathBuf::from(
        std::env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys names its libtorch folder"),
    );
    let include = lib
        .parent()
        .expect("libtorch has a lib folder")
        .join("include");
    cc::Build::new()
        .cpp(true)
        .std("c++17")
        .pic(true)
        .opt_level(2)
        .warnings(false)
        .flag_if_supported("-Wno-psabi")
        .include("shim")
        .include(torch)
        .include(&include)
        .include(include.join("torch/csrc/api/include"))
        .file("shim/gloo.cpp")
        .compile("r1d_gloo_shim");
    println!(
        "cargo::rustc-link-arg=-Wl,--enable-new-dtags,-rpath,{}",
        lib.display()
    );
}
