//! What a model's `config.json` says about its size, without loading it.

use crate::error::JobError;

/// Numbers that the plan computes with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelFacts {
    /// `DeepseekV3ForCausalLM`, `Qwen2ForCausalLM`.
    pub architecture: String,
    pub parameters: u64,
    /// Parameters that one token meets.
    pub active_parameters: u64,
    pub vocab_size: u64,
    /// Values (not bytes) that the sampler's cache keeps per token.
    pub cache_values_per_token: u64,
}

impl ModelFacts {
    /// From the text of a `config.json`.
    pub fn from_config(config_json: &str) -> Result<ModelFacts, JobError> {
        let _ = config_json;
        todo!()
    }
}
