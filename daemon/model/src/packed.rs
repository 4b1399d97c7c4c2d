use crate::products::PackedWeights;
use tch::Tensor;

/// Sequences one behind the other, with no padding.
pub struct Packed {
    /// int64 `[T]`.
    pub ids: Tensor,
    /// Tokens of each sequence, in order; their sum is T. Positions start at 0 in each, and none sees another.
    pub lengths: Vec<i64>,
}

/// What a forward pass is asked for beyond hidden states.
#[derive(Clone, Copy, Default)]
pub struct Forward<'a> {
    /// Batch-invariant mode (`ROLL-1`): a row's bits depend on its own sequence alone. Needs one libtorch thread.
    pub invariant: bool,
    /// [`crate::CausalLm::pack`]'s copies of this model's weights, to multiply with: faster for few rows, and without gradients.
    pub packed: Option<&'a PackedWeights<'a>>,
    /// int64 `[T, moe_layers, K]`: send each token to these experts instead of the router's choice (routing replay). The gate weights are
    /// still this pass's own scores of those experts.
    pub forced_experts: Option<&'a Tensor>,
    /// Return [`Output::experts`].
    pub record_experts: bool,
    /// Return [`Output::aux_loss`].
    pub aux_loss: bool,
}

/// What a forward pass returns; T is B for [`crate::CausalLm::decode`].
pub struct Output {
    /// `[T, hidden_size]` in the model's dtype, after the final norm.
    pub hidden: Tensor,
    /// int64 `[T, moe_layers, K]`, where asked for and the model has MoE layers.
    pub experts: Option<Tensor>,
    /// int64 `[moe_layers, E]`, tokens that each expert got; where the model has MoE layers and gradients are on.
    pub load: Option<Tensor>,
    /// Scalar float32, where asked for and the model has MoE layers: sequence-wise balance loss (DeepSeek-V3 (17)–(20)) without its α,
    /// mean over the sequences, summed over the MoE layers.
    pub aux_loss: Option<Tensor>,
}
