//! A job's models: where their weights come from, and in what precision they are.

use crate::error::JobError;
use crate::file::setting::by_words;
use crate::file::together::Together;
use crate::file::{Fields, Table, Tabled};
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::worker::Dtype;
use std::path::{Path, PathBuf};

by_words!(Dtype);

/// The job's own model, and the precision of all its models.
#[derive(Clone, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(
    path = "model",
    meaning = "The model that \"base\" names: a Hugging Face directory, or random weights for a \
               config.json."
)]
pub struct Model {
    /// Source of the initial weights.
    #[key(part)]
    pub weights: Weights,
    /// Data type of weights and activations.
    #[key(
        default = "float32",
        meaning = "What weights and activations are kept in; log-probabilities and, by default, \
                   the optimiser's state are float32 either way."
    )]
    pub dtype: Dtype,
    /// Whether linear layers multiply in FP8 in forward passes.
    #[key(
        default = false,
        meaning = "Linear layers multiply in FP8 (e4m3, a scale per row) in forward passes; \
                   gradients, routers and the head stay in bfloat16. Needs dtype = \"bfloat16\" \
                   and an H100 or H200."
    )]
    pub fp8: bool,
}

/// A model's own weights, before any stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// The weights in a Hugging Face directory.
    Directory(PathBuf),
    /// Random weights by the job's seed.
    Init {
        /// Path of a `config.json`.
        config: PathBuf,
        /// Path of a `tokenizer.json`, or of a directory that holds one.
        tokenizer: PathBuf,
    },
}

/// The keys that name a model's weights.
#[derive(Keys, Read, Write)]
#[settings(
    path = "models.NAME",
    meaning = "A further model, with a tokenizer of its own. `from = \"base\"` of a stage that \
               has it means its own weights."
)]
pub(crate) struct WeightKeys {
    /// Hugging Face directory: config.json, *.safetensors, tokenizer.json.
    #[key(unset = "none: give `path`, or `init` and `tokenizer`")]
    path: Option<PathBuf>,
    /// A config.json: random weights by the job's seed.
    #[key(unset = "none: give `path`, or `init` and `tokenizer`")]
    init: Option<PathBuf>,
    #[key(
        unset = "none: the directory of `path` has its own",
        meaning = "tokenizer.json, or a directory that holds it; only with `init`."
    )]
    tokenizer: Option<PathBuf>,
}

impl Weights {
    /// Path of the tokenizer: the model's directory, or a directory or `tokenizer.json` of its own.
    pub fn tokenizer(&self) -> &Path {
        match self {
            Weights::Directory(path) => path,
            Weights::Init { tokenizer, .. } => tokenizer,
        }
    }

    /// The Hugging Face directory; `None` for random weights.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Weights::Directory(path) => Some(path),
            Weights::Init { .. } => None,
        }
    }

    /// Path of the model's `config.json`.
    pub fn config(&self) -> PathBuf {
        match self {
            Weights::Directory(path) => path.join("config.json"),
            Weights::Init { config, .. } => config.clone(),
        }
    }
}

impl Tabled for Weights {
    fn table() -> &'static Table {
        WeightKeys::table()
    }
}

impl Together for Weights {
    type Parts = WeightKeys;

    fn join(keys: WeightKeys, from: &Fields<'_>) -> Result<Weights, JobError> {
        let (problem, fix) = match (keys.path, keys.init, keys.tokenizer) {
            (Some(path), None, None) => return Ok(Weights::Directory(path)),
            (None, Some(config), Some(tokenizer)) => {
                return Ok(Weights::Init { config, tokenizer });
            }
            (None, Some(_), None) => (
                "`init` gives weights and no tokenizer",
                "add `tokenizer`, a tokenizer.json or its directory",
            ),
            (Some(_), Some(_), _) => (
                "`path` and `init` both say where the weights come from",
                "keep one of them",
            ),
            (Some(_), None, Some(_)) => {
                ("`path` brings its own tokenizer", "leave `tokenizer` out")
            }
            (None, None, _) => (
                "nothing says where the weights come from",
                "add `path`, or `init` and `tokenizer`",
            ),
        };
        Err(from.unsound(problem, fix))
    }

    fn split(&self) -> WeightKeys {
        let (path, init, tokenizer) = match self.clone() {
            Weights::Directory(path) => (Some(path), None, None),
            Weights::Init { config, tokenizer } => (None, Some(config), Some(tokenizer)),
        };
        WeightKeys {
            path,
            init,
            tokenizer,
        }
    }
}
