//! What one forward pass hands from block to block beside the hidden states.

use crate::attention::{CacheView, PackedView};
use crate::cache::Cached;
use crate::error::Result;
use crate::matmul::Products;
use crate::moe::Dispatch;
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

/// How the tokens at hand see each other and the past.
pub(crate) enum View<'a> {
    /// Whole sequences; a prefill leaves their keys in a cache.
    Packed {
        packed: PackedView,
        cached: Option<Cached<'a>>,
    },
    /// One token of each sequence or a few, over the cache.
    Step { seen: CacheView, cached: Cached<'a> },
}

/// Which experts the tokens go to: what is forced on the routers, and what is learnt of their
/// choices.
#[derive(Default)]
pub(crate) struct Routing {
    pub forced: Option<Tensor>,
    pub record: bool,
    pub count: bool,
    /// int64: every token of every sequence, those of a shared beginning once for each; absent
    /// where nothing is shared.
    pub counted: Option<Tensor>,
    /// Lengths of the packed sequences, int64, where balance losses are asked for, and the losses'
    /// weights.
    pub balance: Option<(Tensor, AuxLoss)>,
    /// Tokens that are real: a batch-invariant pass may carry a few more behind them.
    pub tokens: i64,
    pub noted: Noted,
}

/// What the MoE layers so far did.
#[derive(Default)]
pub(crate) struct Noted {
    layers: i64,
    experts: Vec<Tensor>,
    load: Vec<Tensor>,
    balance_loss: Option<Tensor>,
}

impl Routing {
    /// The forced experts of the MoE layer at hand, `[T, K]`.
    pub(crate) fn forced(&self) -> Result<Option<Tensor>> {
        Ok(self
            .forced
            .as_ref()
            .map(|forced| forced.f_select(1, self.noted.layers))
            .transpose()?)
    }

    /// Takes note of a MoE layer's choice: `scores` float32 `[T, E]`, `experts` int64 `[T, K]`,
    /// which `dispatch` has in the order of the experts.
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
            // Not bincount, which asks the device for the largest expert and waits.
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

    /// `[T, moe_layers, K]`.
    pub(crate) fn experts(&self) -> Result<Option<Tensor>> {
        Ok(if self.noted.experts.is_empty() {
            None
        } else {
            Some(Tensor::f_stack(&self.noted.experts, 1)?)
        })
    }

    /// `[moe_layers, E]`.
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
