//! Passes whose blocks are differentiated one at a time (gradient checkpointing, Chen et al. 2016):
//! a block's input is kept, its activations are not, and the block is run again for its gradients.
//!
//! Beside the inputs, one block's activations and gradients are in memory at a time. A block that
//! is run again goes through the same operations on the same numbers, and its tokens go to the same
//! experts, so the gradients are those of the whole pass.

use crate::causal_lm::CausalLm;
use crate::error::{ModelError, Result};
use crate::forward::{Context, Noted, Notes};
use crate::packed::{Forward, Output, Packed};
use r1d_torch::{runtime, work};
use tch::{Kind, Tensor};

/// A pass through a model's blocks that waits for its gradients.
pub struct Blockwise<'a> {
    model: &'a CausalLm,
    context: Context<'a>,
    ids: Tensor,
    /// Each block as far as the forward pass went, first block first.
    blocks: Vec<Waiting>,
    /// What the last block returned, a leaf of its own.
    last: Tensor,
}

/// A block of a pass, as it waits for its gradients.
enum Waiting {
    /// Its input `[T, hidden_size]`; it is run again.
    Input(Tensor),
    /// What it computed.
    Computed(Computed),
}

/// A block with all that its gradients need.
struct Computed {
    /// The input, a leaf.
    input: Tensor,
    hidden: Tensor,
    balance_loss: Option<Tensor>,
}

impl CausalLm {
    /// Runs sequences like [`Self::forward`], for gradients of one block at a time: those of what
    /// is computed from the output's hidden states end at the last block, and
    /// [`Blockwise::backward`] takes them on. The activations of the first `recomputed` blocks are
    /// computed again then, those of the others kept. The output has no balance loss, because each
    /// block's goes into its own gradients.
    pub fn forward_blockwise<'a>(
        &'a self,
        batch: &Packed,
        options: &Forward<'a>,
        recomputed: usize,
    ) -> Result<(Output, Blockwise<'a>)> {
        let (ids, mut context) = self.packed(batch, None, options)?;
        context.routing.record = true;
        let lowest = self.lowest_trained_block();
        let mut hidden = tch::no_grad(|| self.embed(&ids))?;
        let (mut blocks, mut noted) = (Vec::new(), Noted::default());
        for layer in 0..self.blocks() {
            let input = hidden.shallow_clone();
            let (block, notes) = if layer < recomputed.max(lowest) {
                let (after, notes) = tch::no_grad(|| self.block(layer, hidden, &context))?;
                hidden = after;
                (Waiting::Input(input), notes)
            } else {
                let (computed, notes) = self.compute(layer, input, &context)?;
                hidden = computed.hidden.f_detach()?;
                (Waiting::Computed(computed), notes)
            };
            blocks.push(block);
            noted.add(notes.without_loss())?;
        }
        let last = hidden.set_requires_grad(lowest < self.blocks());
        context.routing.record = options.record_experts;
        let forced = noted.experts()?;
        let output = self.output(&last, &context, noted)?;
        // What was noted is not noted again.
        (context.routing.record, context.routing.count) = (false, false);
        context.routing.forced = forced;
        let pass = Blockwise {
            model: self,
            context,
            ids,
            blocks,
            last,
        };
        Ok((output, pass))
    }

    /// Runs a block on an input whose gradient is needed if something before the block is trained.
    fn compute(&self, layer: usize, input: Tensor, context: &Context) -> Result<(Computed, Notes)> {
        let above = layer > self.lowest_trained_block();
        let input = input
            .f_detach()?
            .set_requires_grad(above || self.trains_embedding());
        let (hidden, mut notes) = self.block(layer, input.shallow_clone(), context)?;
        let balance_loss = notes.balance_loss.take();
        let computed = Computed {
            input,
            hidden,
            balance_loss,
        };
        Ok((computed, notes))
    }
}

impl Blockwise<'_> {
    /// Adds the gradients of what was computed from the output, and of `share` times the balance
    /// losses, to those of every block and of the embedding. Calls `take` behind each block, so
    /// that its gradients need not stay where the backward pass leaves them. It needs the gradients
    /// of the output's hidden states, so what is computed from these must have been differentiated.
    pub fn backward<E: From<ModelError>>(
        mut self,
        share: f64,
        take: &mut dyn FnMut() -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let last = std::mem::take(&mut self.last);
        let mut gradient = gradient_of(&last)?;
        drop(last);
        while let Some(block) = self.blocks.pop() {
            let Some(above) = gradient.take() else {
                return Ok(());
            };
            let computed = self.computed(block)?;
            gradient = computed.backward(&above, share)?;
            drop(above);
            take()?;
        }
        match gradient {
            Some(gradient) => {
                self.through_embedding(&gradient)?;
                take()
            }
            None => Ok(()),
        }
    }

    /// The block behind those that are left, with its activations.
    fn computed(&self, block: Waiting) -> Result<Computed> {
        match block {
            Waiting::Computed(computed) => Ok(computed),
            Waiting::Input(input) => {
                let layer = self.blocks.len();
                Ok(self.model.compute(layer, input, &self.context)?.0)
            }
        }
    }

    fn through_embedding(&self, gradient: &Tensor) -> Result<()> {
        let embedded = self.model.embed(&self.ids)?;
        Ok(runtime::backward(&surrogate(&embedded, gradient)?)?)
    }
}

impl Computed {
    /// Goes through the block with the gradient of what it returned. Returns that of its input;
    /// `None` if nothing before the block is trained.
    fn backward(self, gradient: &Tensor, share: f64) -> Result<Option<Tensor>> {
        let mut loss = surrogate(&self.hidden, gradient)?;
        // A balance loss of frozen weights alone has no effect.
        if let Some(balance) = self.balance_loss.filter(Tensor::requires_grad) {
            loss = loss.f_add(&balance.f_mul_scalar(share)?)?;
        }
        drop(self.hidden);
        runtime::backward(&loss)?;
        work::moved(0);
        gradient_of(&self.input)
    }
}

/// A scalar whose gradient in `hidden` is `gradient`.
fn surrogate(hidden: &Tensor, gradient: &Tensor) -> Result<Tensor> {
    Ok(hidden.f_mul(gradient)?.f_sum(None::<Kind>)?)
}

fn gradient_of(leaf: &Tensor) -> Result<Option<Tensor>> {
    let gradient = leaf.f_grad()?;
    Ok(gradient.defined().then_some(gradient))
}
