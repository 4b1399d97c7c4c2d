//! Compiles the C++ shim of Gloo against the libtorch that torch-sys found, and lets this crate's
//! tests find that libtorch in place; `LD_LIBRARY_PATH` still wins (RUNPATH, not RPATH).

use std::path::Path;

#[path = "../torch/compile_shim.rs"]
mod compile_shim;

fn main() {
    // `guarded.h` is r1d-torch's.
    let torch = Path::new("../torch/shim");
    println!("cargo::rerun-if-changed=shim");
    println!(
        "cargo::rerun-if-changed={}",
        torch.join("guarded.h").display()
    );
    let lib = compile_shim::libraries();
    compile_shim::compiler(&lib)
        .include("shim")
        .include(torch)
        .file("shim/gloo.cpp")
        .compile("r1d_gloo_shim");
    compile_shim::set_run_path(&lib);
}
