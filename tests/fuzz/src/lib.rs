//! What a fuzzer feeds to the control plane's readers, as plain functions.
//!
//! - [`targets`]: the bodies, under the names that cargo-fuzz and the corpus use. `fuzz/` hands
//!   them to cargo-fuzz, which needs a nightly compiler; `cargo test` runs them on stable over the
//!   corpus and over [`mutate`]d inputs, the same each time;
//! - [`rows`]: the ledger's rows as a fuzzer's input;
//! - [`seals`]: checksums made right again, so that a mutation reaches what is behind them;
//! - `examples/corpus.rs`: the program that writes the corpus.

#[path = "../../rewards/src/mutate.rs"]
pub mod mutate;
pub mod rows;
pub mod seals;
pub mod targets;
