//! The tensors of a model, for an engine that runs a decoding step by kernels of its own.

use crate::rounded::RoundedWeights;
use r1d_shape::{AttentionSizes, RouterRule};
use tch::Tensor;

/// A norm's weight `[width]`, and its ε.
pub type Norm<'a> = (&'a Tensor, f32);

/// The tensors of a model. [`crate::CausalLm::parts`] makes it.
pub struct ModelParts<'a> {
    /// Sizes of attention, the same in every layer.
    pub attention: &'a AttentionSizes,
    /// The embedding, `[vocab_size, hidden_size]`.
    pub embed_tokens: &'a Tensor,
    /// The layers in order.
    pub layers: Vec<LayerParts<'a>>,
    /// The final norm.
    pub norm: Norm<'a>,
    /// The output head, `[vocab_size, hidden_size]`.
    pub lm_head: &'a Tensor,
    /// Cosines of all positions, and sines with the sign that the rotated half needs, float32
    /// `[positions, 2, rotary dimensions]`.
    pub rotations: Tensor,
    /// Copies of the matrices that are multiplied in FP8.
    pub rounded: &'a RoundedWeights,
}

impl<'a> ModelParts<'a> {
    /// All matrices that a token is multiplied by, except routers'.
    pub(crate) fn matrices_mut(&mut self) -> Vec<&mut &'a Tensor> {
        let of_layers = self.layers.iter_mut().flat_map(LayerParts::matrices_mut);
        let mut all: Vec<_> = of_layers.collect();
        all.push(&mut self.lm_head);
        all
    }
}

impl<'a> LayerParts<'a> {
    /// The layer's matrices, except a router's.
    pub fn matrices(&self) -> Vec<&'a Tensor> {
        let mut all = vec![self.o_proj];
        match &self.attention {
            AttentionParts::Grouped(parts) => all.push(parts.qkv_proj),
            AttentionParts::Latent(parts) => {
                all.extend([parts.a_proj, parts.kv_b_proj]);
                all.extend(parts.query.as_ref().map(|query| query.b_proj));
            }
        }
        match &self.feed_forward {
            FeedForwardParts::Dense(parts) => all.extend([parts.gate_up, parts.down]),
            FeedForwardParts::Experts(parts) => {
                all.extend([parts.gate_up, parts.down]);
                let shared = parts.shared.iter();
                all.extend(shared.flat_map(|shared| [shared.gate_up, shared.down]));
            }
        }
        all
    }

    fn matrices_mut(&mut self) -> Vec<&mut &'a Tensor> {
        let mut all = vec![&mut self.o_proj];
        match &mut self.attention {
            AttentionParts::Grouped(parts) => all.push(&mut parts.qkv_proj),
            AttentionParts::Latent(parts) => {
                all.extend([&mut parts.a_proj, &mut parts.kv_b_proj]);
                all.extend(parts.query.as_mut().map(|query| &mut query.b_proj));
            }
        }
        match &mut self.feed_forward {
            FeedForwardParts::Dense(parts) => all.extend([&mut parts.gate_up, &mut parts.down]),
            FeedForwardParts::Experts(parts) => {
                all.extend([&mut parts.gate_up, &mut parts.down]);
                if let Some(shared) = &mut parts.shared {
                    all.extend([&mut shared.gate_up, &mut shared.down]);
                }
            }
        }
        all
    }

    /// The matrices of a layer that has neither latent attention nor experts; none of others.
    pub(crate) fn plain_matrices(&self) -> Vec<&'a Tensor> {
        match (&self.attention, &self.feed_forward) {
            (AttentionParts::Grouped(_), FeedForwardParts::Dense(_)) => self.matrices(),
            _ => Vec::new(),
        }
    }
}

/// The tensors of one layer: h += Attention(Norm(h)); h += FeedForward(Norm(h)).
pub struct LayerParts<'a> {
    /// The norm before attention.
    pub input_norm: Norm<'a>,
    /// Attention up to its output projection.
    pub attention: AttentionParts<'a>,
    /// The output projection, `[hidden, heads · dv]`.
    pub o_proj: &'a Tensor,
    /// The norm before the feed-forward network.
    pub post_attention_norm: Norm<'a>,
    /// The feed-forward network.
    pub feed_forward: FeedForwardParts<'a>,
}

/// The tensors of attention.
pub enum AttentionParts<'a> {
    /// Grouped-query attention.
    Grouped(GroupedParts<'a>),
    /// Multi-head latent attention.
    Latent(LatentParts<'a>),
}

/// The tensors of grouped-query attention.
pub struct GroupedParts<'a> {
    /// Queries above keys above values, `[(heads + 2 · key_value_heads) · head_dim, hidden]`.
    pub qkv_proj: &'a Tensor,
    /// Their biases, if they have any.
    pub qkv_bias: Option<&'a Tensor>,
    /// Norms of each head's queries and of each head's keys, if they have any.
    pub head_norms: Option<(Norm<'a>, Norm<'a>)>,
}

/// The tensors of multi-head latent attention, whose rotary dimensions lie in halves.
pub struct LatentParts<'a> {
    /// The queries' projection, or the one that compresses them, above that of latent and rotary
    /// key, `[q + r + dr, hidden]`.
    pub a_proj: &'a Tensor,
    /// What makes queries of the compressed one, if it is compressed.
    pub query: Option<QueryParts<'a>>,
    /// Bias of latent and rotary key, if they have one.
    pub latent_bias: Option<&'a Tensor>,
    /// The latent's norm.
    pub latent_norm: Norm<'a>,
    /// Keys above values of each head, `[heads · (dn + dv), r]`.
    pub kv_b_proj: &'a Tensor,
}

/// The tensors behind a compressed query.
pub struct QueryParts<'a> {
    /// Its bias, if it has one.
    pub bias: Option<&'a Tensor>,
    /// Its norm.
    pub norm: Norm<'a>,
    /// The projection to all heads, `[heads · (dn + dr), rank]`.
    pub b_proj: &'a Tensor,
}

/// The tensors of a feed-forward network.
pub enum FeedForwardParts<'a> {
    /// One for all tokens.
    Dense(DenseParts<'a>),
    /// A mixture of experts.
    Experts(ExpertParts<'a>),
}

/// The tensors of a dense feed-forward network.
pub struct DenseParts<'a> {
    /// Gate above up, `[2 · intermediate, hidden]`.
    pub gate_up: &'a Tensor,
    /// The way back, `[hidden, intermediate]`.
    pub down: &'a Tensor,
}

/// The tensors of a mixture of experts.
pub struct ExpertParts<'a> {
    /// How experts are chosen and weighed.
    pub rule: RouterRule,
    /// The router, `[E, hidden]`.
    pub router: &'a Tensor,
    /// Bias for the choice only, float32 `[E]`.
    pub correction_bias: Option<&'a Tensor>,
    /// Gate above up of each expert, `[E, 2 · intermediate, hidden]`.
    pub gate_up: &'a Tensor,
    /// The way back of each, `[E, hidden, intermediate]`.
    pub down: &'a Tensor,
    /// The experts that every token uses, as one network.
    pub shared: Option<DenseParts<'a>>,
}
