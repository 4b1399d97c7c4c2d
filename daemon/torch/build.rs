//! Compiles the C++ shim against the libtorch that torch-sys found, and tells dependents where that
//! libtorch is.
//!
//! A link argument of a library's build script does not reach the binaries that depend on it, so
//! each crate with a binary or tests over libtorch has a build script of its own that reads
//! `DEP_R1D_TORCH_LIB` and sets the run path.

mod compile_shim;

fn main() {
    println!("cargo::rerun-if-changed=shim");
    let lib = compile_shim::libraries();
    compile_shim::compiler(&lib)
        // Without it libtorch's parallel_for, a template, runs on one thread.
        .flag("-fopenmp")
        .files([
            "shim/shim.cpp",
            "shim/memory.cpp",
            "shim/device.cpp",
            "shim/attention.cpp",
            "shim/product.cpp",
            "shim/fp8.cpp",
            "shim/function.cpp",
            "shim/varlen.cpp",
        ])
        .compile("r1d_shim");
    // The library that libtorch itself brings, so that one pool of threads serves both.
    if lib.join("libgomp.so.1").exists() {
        println!(
            "cargo::rustc-link-search=native={}\n\
             cargo::rustc-link-lib=dylib:+verbatim=libgomp.so.1",
            lib.display()
        )
    } else {
        println!("cargo::rustc-link-lib=dylib=gomp")
    }
    println!("cargo::metadata=lib={}", lib.display());
    compile_shim::set_run_path(&lib);
}
