//! The tensors of a dense model, for an engine that runs a decoding step by kernels of its own.

use r1d_shape::GqaSizes;
use tch::Tensor;

/// A norm's weight `[width]`, and its ε.
pub type Norm<'a> = (&'a Tensor, f32);

/// The tensors of a model whose layers are all dense, with grouped-query attention.
/// [`crate::CausalLm::dense_parts`] makes it.
pub struct DenseParts<'a> {
    /// Sizes of attention, the same in every layer.
    pub attention: &'a GqaSizes,
    /// Width of the feed-forward networks, the same in every layer.
    pub intermediate: i64,
    /// The embedding, `[vocab_size, hidden_size]`.
    pub embed_tokens: &'a Tensor,
    /// The layers in order.
    pub layers: Vec<DenseLayer<'a>>,
    /// The final norm.
    pub norm: Norm<'a>,
    /// The output head, `[vocab_size, hidden_size]`.
    pub lm_head: &'a Tensor,
    /// Cosines of all positions, and sines with the sign that the rotated half needs, float32
    /// `[positions, 2, head_dim]`.
    pub rotations: Tensor,
}

/// The tensors of one layer: h += Attention(Norm(h)); h += FeedForward(Norm(h)).
pub struct DenseLayer<'a> {
    /// The norm before attention.
    pub input_norm: Norm<'a>,
    /// Queries above keys above values, `[(heads + 2 · key_value_heads) · head_dim, hidden]`.
    pub qkv_proj: &'a Tensor,
    /// Their biases, if they have any.
    pub qkv_bias: Option<&'a Tensor>,
    /// Norms of each head's queries and of each head's keys, if they have any.
    pub head_norms: Option<(Norm<'a>, Norm<'a>)>,
    /// The output projection, `[hidden, heads · head_dim]`.
    pub o_proj: &'a Tensor,
    /// The norm before the feed-forward network.
    pub post_attention_norm: Norm<'a>,
    /// Gate above up, `[2 · intermediate, hidden]`.
    pub gate_up: &'a Tensor,
    /// The way back, `[hidden, intermediate]`.
    pub down: &'a Tensor,
}
