//! Checks a model of a job as far as possible without a tensor: what its worker could not open is
//! found before the job is accepted.

use crate::load_error::LoadError;
use r1d_proto::user_file;
use r1d_shape::{Config, Head, WeightFiles, WeightsError};
use std::path::Path;

/// Largest config.json that is read.
const CONFIG_MAX_BYTES: u64 = 16 << 20;

/// What a model answers with when a reward asks it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gives {
    /// A number, from a scalar head: transformers' `…ForSequenceClassification` with one label.
    Number,
    /// Text, from a language model.
    Text,
}

impl Gives {
    pub(crate) fn of(config: &Config) -> Gives {
        if config.scores {
            Gives::Number
        } else {
            Gives::Text
        }
    }
}

/// Reads a config.json; returns it parsed and as text.
pub(crate) fn read_config(path: &Path) -> Result<(Config, String), LoadError> {
    let text = user_file::read_text(path, CONFIG_MAX_BYTES).map_err(|source| LoadError::Model {
        path: path.into(),
        source,
    })?;
    let config = Config::parse(&text).map_err(|error| {
        let problem = error.to_string();
        let problem = problem
            .strip_prefix("config.json: ")
            .unwrap_or(&problem)
            .to_owned();
        LoadError::Config {
            path: path.into(),
            problem,
        }
    })?;
    Ok((config, text))
}

/// Checks that a directory's weights fit its config.json, and returns that as the weights have it:
/// they decide whether the head is the embedding.
pub(crate) fn check_weights(dir: &Path, config: Config, head: Head) -> Result<Config, LoadError> {
    let checked = || {
        let mut files = WeightFiles::open(dir)?;
        let config = files.agreed(config, &mut |_| ())?;
        match head {
            Head::Fresh if !config.scores => files.check(&config.clone().with_score(), head),
            _ => files.check(&config, Head::Stored),
        }?;
        Ok(config)
    };
    checked().map_err(|error| match error {
        WeightsError::Io { path, source } => LoadError::Model { path, source },
        WeightsError::Wrong { path, problem } => LoadError::Weights { path, problem },
        WeightsError::Missing { ref dir, .. } => {
            let problem = error.to_string();
            let path = dir.clone();
            let problem = problem
                .strip_prefix(&format!("{}: ", path.display()))
                .unwrap_or(&problem)
                .to_owned();
            LoadError::Weights { path, problem }
        }
    })
}
