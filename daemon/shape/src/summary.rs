//! Counts of a model's parameters, from the shapes of its tensors alone.

use crate::config::Config;
use crate::tensors::TensorShape;

/// Sizes that a job's log and plan show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The class name, as in [`Config::architecture`].
    pub architecture: String,
    /// Numbers in all trained tensors.
    pub parameters: u64,
    /// Parameters that one token's forward pass uses, embedding and head included.
    pub active_parameters: u64,
    /// Ids of the vocabulary.
    pub vocab_size: u32,
    /// Layers with routed experts; 0 in dense models.
    pub moe_layers: u32,
    /// Routed experts that each token goes to; 0 in dense models.
    pub experts_per_token: u32,
}

impl Config {
    /// Counts the parameters from their shapes alone: no tensor is allocated.
    pub fn summary(&self) -> Summary {
        let tensors = self.tensors();
        let trained = || tensors.iter().filter(|tensor| tensor.trained);
        let routed: u64 = trained()
            .filter(|tensor| tensor.routed)
            .map(TensorShape::count)
            .sum();
        let parameters = trained().map(TensorShape::count).sum();
        let idle = match self.experts {
            0 => 0,
            experts => routed / experts as u64 * (experts - self.experts_per_token) as u64,
        };
        Summary {
            architecture: self.architecture.clone(),
            parameters,
            active_parameters: parameters - idle,
            vocab_size: self.vocab_size as u32,
            moe_layers: self.moe_layers as u32,
            experts_per_token: self.experts_per_token as u32,
        }
    }
}
