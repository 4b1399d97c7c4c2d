//! A causal language model of any supported architecture (signatures first; bodies follow).
#![allow(unused_variables)]

use crate::error::Result;
use crate::packed::{Forward, Output, Packed};
use std::path::Path;
use tch::{Device, Kind, Tensor};

pub struct CausalLm {
    pub config: Config,
}

#[derive(Clone, Debug)]
pub struct Config {
    /// `architectures[0]`, for example `DeepseekV3ForCausalLM`.
    pub architecture: String,
    pub vocab_size: i64,
    pub hidden_size: i64,
    pub num_hidden_layers: i64,
    pub max_position_embeddings: i64,
    /// Layers with routed experts; 0 in dense models.
    pub moe_layers: i64,
    /// Routed experts of such a layer (E); 0 in dense models.
    pub experts: i64,
    /// Routed experts that each token goes to (K); 0 in dense models.
    pub experts_per_token: i64,
}

/// Sizes that a job's log and plan show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    pub architecture: String,
    pub parameters: u64,
    /// Parameters that one token's forward pass uses, embedding and head included.
    pub active_parameters: u64,
    pub vocab_size: u32,
    pub moe_layers: u32,
    pub experts_per_token: u32,
}

/// Keys and values (or latents) of fixed slots.
pub struct Cache {}

impl CausalLm {
    pub fn load(dir: &Path, device: Device, kind: Kind) -> Result<Self> {
        unimplemented!()
    }
    pub fn init(config_json: &str, seed: u64, device: Device, kind: Kind) -> Result<Self> {
        unimplemented!()
    }
    pub fn deep_copy(&self) -> Result<Self> {
        unimplemented!()
    }
    /// Weights and buffers of `other`, which has the same config, into this model's own storage.
    pub fn copy_from(&self, other: &CausalLm) -> Result<()> {
        unimplemented!()
    }
    pub fn kind(&self) -> Kind {
        unimplemented!()
    }
    pub fn device(&self) -> Device {
        unimplemented!()
    }
    pub fn summary(&self) -> Summary {
        unimplemented!()
    }
    pub fn parameters(&self) -> Vec<(String, Tensor)> {
        unimplemented!()
    }
    pub fn buffers(&self) -> Vec<(String, Tensor)> {
        unimplemented!()
    }
    pub fn set_requires_grad(&self, on: bool) {
        unimplemented!()
    }
    pub fn forward(&self, batch: &Packed, options: &Forward) -> Result<Output> {
        unimplemented!()
    }
    pub fn logits(&self, hidden: &Tensor) -> Result<Tensor> {
        unimplemented!()
    }
    pub fn cache(&self, slots: i64, capacity: i64, invariant: bool) -> Result<Cache> {
        unimplemented!()
    }
    pub fn prefill(&self, batch: &Packed, slots: &[Vec<i64>], cache: &mut Cache, options: &Forward) -> Result<Output> {
        unimplemented!()
    }
    pub fn decode(
        &self,
        ids: &Tensor,
        slots: &Tensor,
        positions: &Tensor,
        max_position: i64,
        cache: &mut Cache,
        options: &Forward,
    ) -> Result<Output> {
        unimplemented!()
    }
    pub fn save(&self, dir: &Path, shard_bytes: u64) -> Result<()> {
        unimplemented!()
    }
    /// Auxiliary-loss-free balancing (DeepSeek-V3 2.1.2): b_i += γ · sign(mean(c) − c_i) with `load` `[moe_layers, E]` summed over the
    /// whole batch of an optimiser step.
    pub fn update_router_bias(&self, load: &Tensor, gamma: f64) -> Result<()> {
        unimplemented!()
    }
}
