use crate::error::{ModelError, Result};
use crate::matmul::PackedWeights;
use std::collections::HashMap;
use std::ops::Range;
use tch::Tensor;

/// Sequences one behind the other, with no padding. Positions start at 0 in each, and none sees
/// another.
pub struct Packed {
    /// int64 `[T]`.
    pub ids: Tensor,
    /// Tokens of each sequence, in order, without its prefix; their sum is T.
    pub lengths: Vec<i64>,
    /// A beginning that several sequences share stands once, in the first of them: these are the
    /// tokens of the pass that each sequence has before its own, the first ones of an earlier
    /// sequence (an empty range: none). No list at all: no sequence has any.
    pub prefixes: Vec<Range<i64>>,
}

impl Packed {
    /// Sequences that share nothing.
    pub fn new(ids: Tensor, lengths: Vec<i64>) -> Packed {
        Packed {
            ids,
            lengths,
            prefixes: Vec::new(),
        }
    }

    /// An error unless ids, lengths and prefixes fit together; T.
    pub(crate) fn check(&self) -> Result<i64> {
        let refuse = |problem: String| Err(ModelError::Input(problem));
        let (tokens, count) = (self.ids.size1()?, self.lengths.len());
        let sum: i64 = self.lengths.iter().sum();
        if sum != tokens || tokens == 0 || self.lengths.iter().any(|&n| n < 1) {
            return refuse(format!(
                "{tokens} packed ids with {count} lengths that sum to {sum}: each must be at \
                 least 1"
            ));
        }
        if self.prefixes.is_empty() {
            return Ok(tokens);
        }
        if self.prefixes.len() != count {
            return refuse(format!(
                "{} prefixes for {count} sequences",
                self.prefixes.len()
            ));
        }
        // End of each sequence without a prefix, by its start.
        let mut whole = HashMap::new();
        let mut start = 0;
        for (prefix, length) in self.prefixes.iter().zip(&self.lengths) {
            if prefix.is_empty() {
                let _ = whole.insert(start, start + length);
            } else if whole.get(&prefix.start).is_none_or(|&end| prefix.end > end) {
                return refuse(format!(
                    "the prefix {prefix:?} is not the beginning of an earlier sequence that has \
                     none itself"
                ));
            }
            start += length;
        }
        Ok(tokens)
    }

    /// What attention must know of each sequence.
    pub(crate) fn spans(&self) -> Vec<Span> {
        let none = std::iter::repeat(0..0);
        let mut start = 0;
        let span = |(&own, prefix): (&i64, Range<i64>)| {
            start += own;
            Span {
                prefix,
                own: start - own..start,
            }
        };
        self.lengths
            .iter()
            .zip(self.prefixes.iter().cloned().chain(none))
            .map(span)
            .collect()
    }
}

/// Tokens of the pass that make up a sequence.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub prefix: Range<i64>,
    pub own: Range<i64>,
}

impl Span {
    pub(crate) fn prefix_length(&self) -> i64 {
        self.prefix.end - self.prefix.start
    }

    pub(crate) fn length(&self) -> i64 {
        self.prefix_length() + self.own.end - self.own.start
    }

    /// First token.
    pub(crate) fn start(&self) -> i64 {
        if self.prefix.is_empty() {
            self.own.start
        } else {
            self.prefix.start
        }
    }

    pub(crate) fn tokens(&self) -> impl Iterator<Item = i64> {
        self.prefix.clone().chain(self.own.clone())
    }
}

/// What a forward pass is asked for beyond hidden states.
#[derive(Clone, Copy, Default)]
pub struct Forward<'a> {
    /// Batch-invariant mode (`ROLL-1`): a row's bits depend on its own sequence alone. Needs one
    /// libtorch thread.
    pub invariant: bool,
    /// [`crate::CausalLm::pack`]'s copies of this model's weights, to multiply with: faster for few
    /// rows, and without gradients.
    pub packed: Option<&'a PackedWeights<'a>>,
    /// int64 `[T, moe_layers, K]`: send each token to these experts instead of the router's choice
    /// (routing replay). The gate weights are still this pass's own scores of those experts.
    pub forced_experts: Option<&'a Tensor>,
    /// Return [`Output::experts`].
    pub record_experts: bool,
    /// Return [`Output::load`]: for passes over whole sequences that train, since nobody asks
    /// others.
    pub count_experts: bool,
    /// Return [`Output::aux_loss`], unless both weights are 0.
    pub aux_loss: AuxLoss,
}

/// Weights of the losses that keep the experts' load even.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AuxLoss {
    /// α of the sequence-wise loss of DeepSeek-V3 (17)–(20), which is DeepSeek-V2's expert-level
    /// loss (23)–(25) with a softmax router.
    pub expert_alpha: f64,
    /// α of DeepSeek-V2's device-level loss (26)–(28); a device holds a group of the router's.
    pub device_alpha: f64,
}

impl AuxLoss {
    pub const NONE: AuxLoss = AuxLoss {
        expert_alpha: 0.0,
        device_alpha: 0.0,
    };

    pub fn wanted(self) -> bool {
        self != AuxLoss::NONE
    }
}

/// What a forward pass returns; T is B for [`crate::CausalLm::decode`].
pub struct Output {
    /// `[T, hidden_size]` in the model's dtype, after the final norm.
    pub hidden: Tensor,
    /// int64 `[T, moe_layers, K]`, where asked for and the model has MoE layers.
    pub experts: Option<Tensor>,
    /// int64 `[moe_layers, E]`, tokens that each expert got; where asked for and the model has MoE
    /// layers.
    pub load: Option<Tensor>,
    /// Scalar float32, where asked for and the model has MoE layers: the weighted balance losses,
    /// mean over the sequences, summed over the MoE layers.
    pub aux_loss: Option<Tensor>,
}
