//! Loads a Hugging Face directory and writes it again: `resave FROM TO [SHARD_BYTES]`.
//! tests/fixtures/test_roundtrip.py reads the result with transformers.

use r1d_model::{CausalLm, ModelError, checkpoint};
use std::path::PathBuf;
use tch::{Device, Kind};

fn main() -> Result<(), ModelError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(from), Some(to)) = (
        arguments.next().map(PathBuf::from),
        arguments.next().map(PathBuf::from),
    ) else {
        return Err(ModelError::Input(
            "usage: resave FROM TO [SHARD_BYTES]".into(),
        ));
    };
    let shard_bytes = arguments
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(u64::MAX);
    let model = CausalLm::load(&from, Device::Cpu, Kind::Float)?;
    let manifest = checkpoint::write_directory_atomically(&to, |dir| {
        checkpoint::carry_files(&from, dir)?;
        model.save(dir, shard_bytes)
    })?;
    println!("{}", manifest.sha256);
    Ok(())
}
