//! The parts that a model's layers are made of, with their sizes.

use crate::gqa::GqaSizes;
use crate::mla::MlaSizes;
use crate::router::RouterRule;

/// The parts of a model's blocks: the fields of its config.json, checked. Every block is
///
/// h += Attention(RMSNorm(h)); h += FeedForward(RMSNorm(h)).
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Sizes of the attention, the same in every layer.
    pub attention: AttentionSizes,
    /// Sizes of each layer's feed-forward part, in the order of the layers.
    pub feed_forwards: Vec<FeedForwardSizes>,
}

/// Sizes of attention, by its kind.
#[derive(Clone, Debug)]
pub enum AttentionSizes {
    /// Grouped-query attention, with keys and values per head.
    Grouped(GqaSizes),
    /// Multi-head latent attention, with a compressed cache.
    Latent(MlaSizes),
}

/// Sizes of a layer's feed-forward part, by its kind.
#[derive(Clone, Debug)]
pub enum FeedForwardSizes {
    /// One gated network for all tokens.
    Dense {
        /// Width between its projections.
        intermediate: i64,
    },
    /// A mixture of experts.
    Experts(ExpertSizes),
}

/// Mixture-of-experts sizes.
#[derive(Clone, Copy, Debug)]
pub struct ExpertSizes {
    /// Width of one routed expert.
    pub intermediate: i64,
    /// Width of all shared experts together; 0 if there are none.
    pub shared_intermediate: i64,
    /// How each token's experts are chosen.
    pub rule: RouterRule,
}

impl Blueprint {
    /// Makes a blueprint whose first `dense` layers are dense and whose other layers have experts.
    pub fn dense_then_experts(
        attention: AttentionSizes,
        dense: i64,
        intermediate: i64,
        layers: i64,
        experts: ExpertSizes,
    ) -> Blueprint {
        let feed_forward = |layer| {
            if layer < dense {
                FeedForwardSizes::Dense { intermediate }
            } else {
                FeedForwardSizes::Experts(experts)
            }
        };
        Blueprint {
            attention,
            feed_forwards: (0..layers).map(feed_forward).collect(),
        }
    }

    /// Makes a blueprint of dense layers only.
    pub fn dense(attention: AttentionSizes, intermediate: i64, layers: i64) -> Blueprint {
        Blueprint {
            attention,
            feed_forwards: vec![FeedForwardSizes::Dense { intermediate }; layers as usize],
        }
    }

    /// The sizes of the layers with routed experts, from the first to the last.
    pub fn expert_layers(&self) -> impl Iterator<Item = &ExpertSizes> {
        self.feed_forwards.iter().filter_map(|sizes| match sizes {
            FeedForwardSizes::Experts(sizes) => Some(sizes),
            FeedForwardSizes::Dense { .. } => None,
        })
    }

    /// Dimensions of a head that rotate with the position.
    pub fn rotary_dims(&self) -> i64 {
        match &self.attention {
            AttentionSizes::Grouped(sizes) => sizes.head_dim,
            AttentionSizes::Latent(sizes) => sizes.qk_rope_head_dim,
        }
    }

    /// The tensors that the cache keeps per layer, each as (heads, width) of one token. `naive`
    /// asks latent attention for whole keys and values instead of its latent.
    pub fn cached_rows(&self, naive: bool) -> Vec<(i64, i64)> {
        match &self.attention {
            AttentionSizes::Grouped(sizes) => sizes.cached_rows(),
            AttentionSizes::Latent(sizes) => sizes.cached_rows(naive),
        }
    }
}
