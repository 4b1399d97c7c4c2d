//! What a pass keeps of each token until its gradients are computed.
//!
//! Counted are the tensors that libtorch's autograd saves in the pass of `r1d-model`: inputs of
//! products and norms, queries, keys and values as attention takes them, its output, and the gated
//! network's parts. Numbers per row (norms, log-sum-exp) are left out.

use crate::blueprint::{AttentionSizes, FeedForwardSizes};
use crate::config::Config;

/// Numbers of values (not bytes) that training keeps of each token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Activations {
    /// All blocks, where the whole pass is differentiated at once.
    pub all_blocks: u64,
    /// The largest block.
    pub largest_block: u64,
    /// Number of blocks.
    pub blocks: u64,
    /// The inputs of all blocks, which are what remains of those that run again.
    pub inputs: u64,
}

impl Config {
    /// Counts what a pass keeps of each token, without the head.
    pub fn activations(&self) -> Activations {
        let attention = self.attention_values();
        let blocks = self.blueprint.feed_forwards.iter();
        let blocks = blocks.map(|sizes| attention + self.feed_forward_values(sizes));
        let (mut all_blocks, mut largest_block) = (0, 0);
        for block in blocks.map(|values| values as u64) {
            all_blocks += block;
            largest_block = largest_block.max(block);
        }
        Activations {
            all_blocks,
            largest_block,
            blocks: self.num_hidden_layers as u64,
            inputs: self.num_hidden_layers as u64 * self.hidden_size as u64,
        }
    }

    /// Attention with its norm and the sum behind it: h, RMSNorm(h), queries, keys, values, output,
    /// h + output.
    fn attention_values(&self) -> i64 {
        let own = match &self.blueprint.attention {
            AttentionSizes::Grouped(sizes) => {
                (2 * sizes.heads + 2 * sizes.key_value_heads) * sizes.head_dim
            }
            AttentionSizes::Latent(sizes) => {
                let compressed = sizes.q_lora_rank.map_or(0, |rank| 2 * rank);
                let latent = 2 * sizes.kv_lora_rank + sizes.qk_rope_head_dim;
                let up = sizes.heads * (sizes.qk_nope_head_dim + sizes.v_head_dim);
                // The kernel takes values as wide as queries and keys, and returns such an output.
                let taken = 4 * sizes.heads * sizes.query_head_dim();
                compressed + latent + up + taken
            }
        };
        3 * self.hidden_size + own
    }

    /// A feed-forward part with its norm: RMSNorm(h), gate and up, SiLU(gate), their product, and
    /// the sum behind it. Experts see a copy of each token for each of those that it goes to.
    fn feed_forward_values(&self, sizes: &FeedForwardSizes) -> i64 {
        let own = match sizes {
            FeedForwardSizes::Dense { intermediate } => 4 * intermediate,
            FeedForwardSizes::Experts(sizes) => {
                let routed = 2 * self.hidden_size + 4 * sizes.intermediate;
                self.experts_per_token * routed + 4 * sizes.shared_intermediate + self.experts
            }
        };
        2 * self.hidden_size + own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of bfloat16 that were counted on PyTorch's meta tensors, operation by operation.
    #[test]
    fn the_count_is_within_five_percent_of_autograds() {
        let qwen = |hidden: u64, heads: u64, keys: u64, intermediate: u64, layers: u64| {
            format!(
                r#"{{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2",
                "vocab_size": 1000, "hidden_size": {hidden}, "intermediate_size": {intermediate},
                "num_hidden_layers": {layers}, "num_attention_heads": {heads},
                "num_key_value_heads": {keys}}}"#
            )
        };
        for (config, megabytes) in [
            (qwen(896, 14, 2, 4864, 24), 1.25),
            (qwen(1536, 12, 2, 8960, 28), 2.65),
            (qwen(3584, 28, 4, 18944, 28), 5.72),
        ] {
            let counted = Config::parse(&config).unwrap().activations();
            let bytes = 2.0 * counted.all_blocks as f64 / 1e6;
            assert!(
                (bytes / megabytes - 1.0).abs() < 0.05,
                "{bytes} and {megabytes} MB"
            );
            assert!(counted.inputs < counted.all_blocks && counted.largest_block > 0);
        }
    }
}
