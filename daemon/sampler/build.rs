//! Lets this crate's tests and binaries find libtorch in place; `LD_LIBRARY_PATH` still wins
//! (RUNPATH, not RPATH).

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let lib = std::env::var("DEP_R1D_TORCH_LIB").expect("r1d-torch names the libtorch folder");
    println!("cargo::rustc-link-arg=-Wl,--enable-new-dtags,-rpath,{lib}");
}
