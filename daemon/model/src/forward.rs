//! What one forward pass hands to every block beside the hidden states, and what blocks note.
//!
//! A block reads the context and changes nothing in it but a cache's places, so a block of a pass
//! without a cache may be run again.

use crate::attention::{CacheView, PackedView};
use crate::cache::Cached;
use crate::dispatch::{self, Dispatch};
use crate::error::Result;
use crate::matmul::Products;
use crate::packed::AuxLoss;
use crate::rope::Rotation;
use crate::router::Choosing;
use r1d_kernels::TrainKernels;
use r1d_shape::RouterRule;
use std::sync::Arc;
use tch::{Kind, Tensor};

pub(crate) struct Context<'a> {
    pub products: Products<'a>,
    /// r1d's own kernels for what lies between the products; `None`: libtorch's operations.
    pub kernels: Option<&'a Arc<TrainKernels>>,
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

/// The experts that are forced on the routers, and what is to be noted of the routers' choices.
#[derive(Default)]
pub(crate) struct Routing {
    /// The experts of every row, int64 `[T, moe_layers, K]`; `None`: the routers choose.
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
    /// Whether no token of the pass goes to an expert ([`crate::Forward::stands_by`]).
    pub stands_by: bool,
}

/// What a block notes of its routing; empty if it is dense.
#[derive(Default)]
pub(crate) struct Notes {
    /// The experts of every row, padding included, int64 `[T, K]`; `None` unless they are recorded.
    experts: Option<Tensor>,
    /// The tokens that each expert got, `[E]`; `None` unless they are counted.
    load: Option<Tensor>,
    /// The weighted balance losses, a float32 scalar; `None` unless they are wanted.
    pub balance_loss: Option<Tensor>,
}

/// The notes of the blocks so far.
#[derive(Default)]
pub(crate) struct Noted {
    experts: Vec<Tensor>,
    load: Vec<Tensor>,
    balance_loss: Option<Tensor>,
}

impl Routing {
    /// The forced experts of an MoE layer, the `moe_layer`th of the model, `[T, K]`.
    pub(crate) fn forced(&self, moe_layer: i64) -> Result<Option<Tensor>> {
        Ok(self
            .forced
            .as_ref()
            .map(|forced| forced.f_select(1, moe_layer))
            .transpose()?)
    }

    /// Notes a MoE layer's choice: `scores` float32 `[T, E]`, `experts` int64 `[T, K]`, and the
    /// `ends` of each expert's pairs, int32 `[E]`.
    pub(crate) fn notes(
        &self,
        rule: &RouterRule,
        scores: &Tensor,
        experts: &Tensor,
        ends: &Tensor,
    ) -> Result<Notes> {
        let real = |t: &Tensor| t.f_narrow(0, 0, self.tokens);
        let mut notes = Notes::default();
        let (rows, count) = scores.size2()?;
        let load_of = |experts: &Tensor| dispatch::load(&Dispatch::new(experts, count)?.ends);
        if self.record {
            notes.experts = Some(experts.shallow_clone());
        }
        if self.count {
            // bincount would ask the device for the largest expert, and wait.
            notes.load = Some(match &self.counted {
                None if rows == self.tokens => dispatch::load(ends)?,
                None => load_of(&real(experts)?)?,
                Some(tokens) => load_of(&experts.f_index_select(0, tokens)?)?,
            });
        }
        if let Some((lengths, weights)) = &self.balance {
            let loss = rule.balance_loss(&real(scores)?, &real(experts)?, lengths, *weights)?;
            notes.balance_loss = Some(loss);
        }
        Ok(notes)
    }
}

impl Notes {
    /// The same notes for a pass in which each block's balance loss goes into its own gradients.
    pub(crate) fn without_loss(self) -> Notes {
        Notes {
            balance_loss: None,
            ..self
        }
    }
}

impl Noted {
    pub(crate) fn add(&mut self, notes: Notes) -> Result<()> {
        self.experts.extend(notes.experts);
        self.load.extend(notes.load);
        if let Some(loss) = notes.balance_loss {
            self.balance_loss = Some(match self.balance_loss.take() {
                Some(sum) => sum.f_add(&loss)?,
                None => loss,
            });
        }
        Ok(())
    }

    /// The chosen experts of every row, `[T, moe_layers, K]`; `None` unless they were recorded.
    pub(crate) fn experts(&self) -> Result<Option<Tensor>> {
        Ok(if self.experts.is_empty() {
            None
        } else {
            Some(Tensor::f_stack(&self.experts, 1)?)
        })
    }

    /// The tokens that each expert got, `[moe_layers, E]`; `None` unless they were counted.
    pub(crate) fn load(&self) -> Result<Option<Tensor>> {
        Ok(if self.load.is_empty() {
            None
        } else {
            Some(Tensor::f_stack(&self.load, 0)?.f_to_kind(Kind::Int64)?)
        })
    }

    /// The sum of the blocks' balance losses.
    pub(crate) fn balance_loss(self) -> Option<Tensor> {
        self.balance_loss
    }
}
