use crate::error::{ModelError, Result};
use crate::packed_weights::PackedWeights;
use std::collections::HashMap;
use std::ops::Range;
use tch::Tensor;

/// Sequences one behind the other, without padding. Positions start at 0 in each, and no sequence
/// sees another.
pub struct Packed {
    /// The ids of all tokens, int64 `[T]`.
    pub ids: Tensor,
    /// The number of tokens of each sequence, in order, without its prefix; their sum is T.
    pub lengths: Vec<i64>,
    /// A beginning that several sequences share is stored once, in the first of them. For each
    /// other sequence this is the range of the pass's tokens that precede its own: the first ones
    /// of an earlier sequence. An empty range means no prefix, and an empty list means that no
    /// sequence has one.
    pub prefixes: Vec<Range<i64>>,
}

impl Packed {
    /// Packs sequences that share nothing.
    pub fn new(ids: Tensor, lengths: Vec<i64>) -> Packed {
        Packed {
            ids,
            lengths,
            prefixes: Vec::new(),
        }
    }

    /// Checks that ids, lengths and prefixes fit together, and returns T.
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
        // The end of each sequence without a prefix, by its start.
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

    /// The ranges of tokens of each sequence, for attention.
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

/// The pass's tokens that form a sequence.
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

    /// The index of the first token.
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

/// Options of a forward pass.
#[derive(Clone, Copy, Default)]
pub struct Forward<'a> {
    /// Batch-invariant mode (`ROLL-1`): a row's bits depend on its own sequence only. It needs one
    /// libtorch thread.
    pub invariant: bool,
    /// [`crate::CausalLm::pack`]'s copies of this model's weights, to multiply with: faster for few
    /// rows, and without gradients.
    pub packed: Option<&'a PackedWeights<'a>>,
    /// The experts of each token instead of the router's choice (routing replay), int64 `[T,
    /// moe_layers, K]`. The gate weights are still this pass's own scores of those experts.
    pub forced_experts: Option<&'a Tensor>,
    /// Whether to return [`Output::experts`].
    pub record_experts: bool,
    /// Whether to return [`Output::load`]. Only passes over whole sequences support it, because
    /// only training needs it.
    pub count_experts: bool,
    /// Weights of the losses in [`Output::aux_loss`], which is not returned if both are 0.
    pub aux_loss: AuxLoss,
    /// Whether this rank of an expert group has no tokens for the pass, and goes through it only
    /// because others have: the batch is any token, none goes to an expert, and the output is of no
    /// use, but its gradients have to be asked for where the others' are.
    pub stands_by: bool,
}

/// Weights of the losses that keep the experts' load even.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AuxLoss {
    /// α of the sequence-wise loss of DeepSeek-V3 (17)–(20), which is DeepSeek-V2's expert-level
    /// loss (23)–(25) with a softmax router.
    pub expert_alpha: f64,
    /// α of DeepSeek-V2's device-level loss (26)–(28), with a group of the router's experts as a
    /// device.
    pub device_alpha: f64,
}

impl AuxLoss {
    /// No balance losses.
    pub const NONE: AuxLoss = AuxLoss {
        expert_alpha: 0.0,
        device_alpha: 0.0,
    };

    /// Whether any of the losses is wanted.
    pub fn wanted(self) -> bool {
        self != AuxLoss::NONE
    }
}

/// The results of a forward pass; T is B for [`crate::CausalLm::decode`].
pub struct Output {
    /// Hidden states after the final norm, `[T, hidden_size]` in the model's dtype.
    pub hidden: Tensor,
    /// The experts of each token, int64 `[T, moe_layers, K]`; `None` unless they are recorded and
    /// the model has MoE layers.
    pub experts: Option<Tensor>,
    /// The number of tokens that each expert got, int64 `[moe_layers, E]`; `None` unless they are
    /// counted and the model has MoE layers.
    pub load: Option<Tensor>,
    /// The weighted balance losses, a float32 scalar: mean over the sequences, summed over the MoE
    /// layers. `None` unless they are wanted and the model has MoE layers.
    pub aux_loss: Option<Tensor>,
}
