//! The state that one forward pass takes from block to block beside the hidden states.

use crate::attention::{CacheView, PackedView};
use crate::cache::Cached;
use crate::dispatch::Dispatch;
use crate::error::Result;
use crate::matmul::Products;
use crate::packed::AuxLoss;
use crate::rope::Rotation;
use crate::router::Choosing;
use r1d_shape::RouterRule;
use tch::{Kind, Tensor};

pub(crate) struct Pass<'a> {
    pub products: Products<'a>,
    pub rotation: Rotation,
    pub view: View<'a>,
    pub routing: Routing,
}

/// How the pass's tokens see each other and earlier tokens.
pub(crate) enum View<'a> {
    /// The pass has whole sequences; a prefill leaves their keys in a cache.
    Packed {
        packed: PackedView,
        cached: Option<Cached<'a>>,
    },
    /// The pass has one token of each sequence, or a few, and reads the cache.
    Step { seen: CacheView, cached: Cached<'a> },
}

/// The experts that the tokens go to: those that are forced on the routers, and records of the
/// routers' choices.
#[derive(Default)]
pub(crate) struct Routing {
    pub forced: Option<Tensor>,
    pub record: bool,
    pub count: bool,
    /// Indices of every token of every sequence, int64, those of a shared beginning once for each
    /// sequence; `None` if nothing is shared.
    pub counted: Option<Tensor>,
    /// Lengths of the packed sequences, int64, and the weights of the balance losses; `None` unless
    /// the losses are wanted.
    pub balance: Option<(Tensor, AuxLoss)>,
    /// Number of real tokens: a batch-invariant pass may have padding behind them.
    pub tokens: i64,
    pub noted: Noted,
}

/// Records of the MoE layers so far.
#[derive(Default)]
pub(crate) struct Noted {
    layers: i64,
    experts: Vec<Tensor>,
    load: Vec<Tensor>,
    balance_loss: Option<Tensor>,
}

impl Routing {
    /// The forced experts of the current MoE layer, `[T, K]`.
    pub(crate) fn forced(&self) -> Result<Option<Tensor>> {
        Ok(self
            .forced
            .as_ref()
            .map(|forced| forced.f_select(1, self.noted.layers))
            .transpose()?)
    }

    /// Records a MoE layer's choice: `scores` float32 `[T, E]`, `experts` int64 `[T, K]`, which
    /// `dispatch` has in the order of the experts.
    pub(crate) fn note(
        &mut self,
        rule: &RouterRule,
        scores: &Tensor,
        experts: &Tensor,
        dispatch: &Dispatch,
    ) -> Result<()> {
        let real = |t: &Tensor| t.f_narrow(0, 0, self.tokens);
        let (rows, count) = scores.size2()?;
        if self.record {
            self.noted.experts.push(real(experts)?);
        }
        if self.count {
            // bincount would ask the device for the largest expert, and wait.
            self.noted.load.push(match &self.counted {
                None if rows == self.tokens => dispatch.load()?,
                None => Dispatch::new(&real(experts)?, count)?.load()?,
                Some(tokens) => {
                    Dispatch::new(&experts.f_index_select(0, tokens)?, count)?.load()?
                }
            });
        }
        if let Some((lengths, weights)) = &self.balance {
            let loss = rule.balance_loss(&real(scores)?, &real(experts)?, lengths, *weights)?;
            self.noted.balance_loss = Some(match self.noted.balance_loss.take() {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
        }
        self.noted.layers += 1;
        Ok(())
    }

    /// The chosen experts, `[T, moe_layers, K]`; `None` unless they are recorded.
    pub(crate) fn experts(&self) -> Result<Option<Tensor>> {
        Ok(if self.noted.experts.is_empty() {
            None
        } else {
            Some(Tensor::f_stack(&self.noted.experts, 1)?)
        })
    }

    /// The tokens that each expert got, `[moe_layers, E]`; `None` unless they are counted.
    pub(crate) fn load(&self) -> Result<Option<Tensor>> {
        Ok(if self.noted.load.is_empty() {
            None
        } else {
            Some(Tensor::f_stack(&self.noted.load, 0)?.f_to_kind(Kind::Int64)?)
        })
    }

    pub(crate) fn balance_loss(&mut self) -> Option<Tensor> {
        self.noted.balance_loss.take()
    }
}
