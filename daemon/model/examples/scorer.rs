//! Scores sequences with a model directory of either kind, and writes the reward model:
//! `scorer FROM TO < sequences.json`. Input is a list of lists of ids, output the list of scores.
//! tests/fixtures/test_scorer.py compares with transformers.

use r1d_model::{ModelError, SequenceClassifier, checkpoint};
use std::path::PathBuf;
use tch::{Device, Kind};

fn main() -> Result<(), ModelError> {
    let mut arguments = std::env::args().skip(1);
    let (Some(from), Some(to)) = (
        arguments.next().map(PathBuf::from),
        arguments.next().map(PathBuf::from),
    ) else {
        return Err(ModelError::Input(
            "usage: scorer FROM TO < sequences.json".into(),
        ));
    };
    let sequences: Vec<Vec<u32>> = serde_json::from_reader(std::io::stdin())
        .map_err(|error| ModelError::Input(format!("standard input: {error}")))?;
    let scorer = SequenceClassifier::start(&from, 5, None, Device::Cpu, Kind::Float)?;
    let _ = checkpoint::write_directory_atomically(&to, |dir| scorer.save(dir, u64::MAX))?;
    println!("{:?}", scorer.score(&sequences)?);
    Ok(())
}
