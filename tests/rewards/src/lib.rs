//! Tests of the shipped rewards as a whole: natively beside the sandbox, fuzzed, measured.
//!
//! - [`shipped`]: every Rust plugin of the repository as a plain function;
//! - [`fuzz`]: what a fuzzer feeds, as plain functions too. `fuzz/` hands them to cargo-fuzz, which
//!   needs a nightly compiler; `cargo test` runs them on stable over the corpus and over
//!   [`mutate`]d inputs, the same each time;
//! - `examples/throughput.rs`: the program that `tests/bench/rewards` runs.

pub mod fuzz;
pub mod mutate;
pub mod shipped;
