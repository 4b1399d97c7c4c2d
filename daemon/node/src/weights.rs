//! Checks a model of a job as far as possible without a tensor: what its worker could not open is
//! found before the job is accepted.

use crate::load_error::LoadError;
use r1d_data::{DataError, absent, is_absent};
use r1d_job::Weights;
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

/// Checks that the files which a table of the job file, `[model]` or `[models.NAME]`, names are
/// there. The error names the key.
pub(crate) fn check_paths(table: &str, weights: &Weights) -> Result<(), DataError> {
    let check = |key: &str, path: &Path, otherwise: &str| {
        if is_absent(path) {
            Err(absent(format!("{table}.{key}"), path, otherwise))
        } else {
            Ok(())
        }
    };
    match weights {
        Weights::Directory(dir) => {
            let local = "it is a local directory with config.json, *.safetensors and \
                         tokenizer.json; r1d downloads nothing";
            if is_absent(dir) {
                return Err(DataError::Absent {
                    key: format!("{table}.path"),
                    path: dir.clone(),
                    hint: local.into(),
                });
            }
            check("path", &dir.join("config.json"), local)
        }
        Weights::Init { config, tokenizer } => {
            check("init", config, "name a config.json")?;
            check(
                "tokenizer",
                tokenizer,
                "name a tokenizer.json, or its directory",
            )
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_that_is_not_there_is_told_with_its_key_and_what_to_write() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let refused = |weights: &Weights| {
            let error = check_paths("model", weights).unwrap_err().to_string();
            error.replace(&dir.path().display().to_string(), "DIR")
        };
        let hub = refused(&Weights::Directory(at("Qwen/Qwen2.5-0.5B")));
        assert!(
            hub.starts_with("`model.path`: there is no DIR/Qwen/Qwen2.5-0.5B; it is a local dir")
                && hub.ends_with("r1d downloads nothing"),
            "{hub}"
        );
        let mut init = Weights::Init {
            config: at("tiny.json"),
            tokenizer: at("words"),
        };
        assert_eq!(
            refused(&init),
            "`model.init`: there is no DIR/tiny.json; name a config.json"
        );
        std::fs::write(at("tiny.json"), "{}").unwrap();
        let tokenizer = refused(&init);
        assert!(
            tokenizer.starts_with("`model.tokenizer`: there is no DIR/words; "),
            "{tokenizer}"
        );
        std::fs::create_dir(at("words")).unwrap();
        check_paths("model", &init).unwrap();
        init = Weights::Directory(dir.path().into());
        let empty = refused(&init);
        assert!(
            empty.starts_with("`model.path`: there is no DIR/config.json; "),
            "{empty}"
        );
    }
}
