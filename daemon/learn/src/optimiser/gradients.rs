//! The gradients of an update: what backward passes leave is summed over micro-batches in float32,
//! where the parameters are narrower or a gang sums on.

use super::{Optimiser, Parameter};
use crate::LearnError;
use crate::arena::Arena;
use r1d_torch::{foreach, work};
use tch::{Kind, Tensor};

impl Optimiser {
    /// Sets whether a parameter's first gradient stays as the backward pass leaves it, in the
    /// parameter's own dtype, until a second one is added to it. Where one pass is all of an
    /// update, it need not go through a float32 sum, whose value would be the same. It has an
    /// effect where r1d's own kernels make the update.
    pub fn hold_gradients(&mut self, on: bool) {
        self.holds = on && self.kernels.is_some() && self.staging.is_none();
    }

    /// Drops all gradients.
    pub fn clear_gradients(&mut self) -> Result<(), LearnError> {
        self.reached.fill(false);
        self.held.fill_with(|| None);
        if let Some(own) = &mut self.membership {
            own.clear();
            self.gradients = None;
        }
        let tensors = self
            .parameters
            .iter()
            .map(|own| own.tensor.shallow_clone())
            .collect::<Vec<_>>();
        Ok(foreach::clear_gradients(&tensors)?)
    }

    /// Adds the gradients of a backward pass, and must be called after each one: gradients of
    /// parameters with a master are summed in float32, not in their own dtype, and in a gang those
    /// of all.
    pub fn accumulate(&mut self) -> Result<(), LearnError> {
        let mut taken = Vec::new();
        for index in 0..self.parameters.len() {
            if !self.is_summed(&self.parameters[index]) {
                continue;
            }
            let gradient = self.parameters[index].tensor.f_grad()?;
            if !gradient.defined() {
                continue;
            }
            if self.holds && !self.reached[index] {
                self.held[index] = Some(gradient.f_detach()?);
            } else {
                self.add(index, &gradient)?;
            }
            self.reached[index] = true;
            taken.push(self.parameters[index].tensor.shallow_clone());
            work::moved(0);
        }
        Ok(foreach::clear_gradients(&taken)?)
    }

    /// Whether a parameter's gradients are summed in the arena.
    fn is_summed(&self, own: &Parameter) -> bool {
        own.has_master || self.membership.is_some()
    }

    /// Adds a gradient to the parameter's float32 sum.
    fn add(&mut self, index: usize, gradient: &Tensor) -> Result<(), LearnError> {
        let mut sum = self.sum(index)?;
        let held = self.held[index].take();
        Ok(tch::no_grad(|| {
            if let Some(held) = &held {
                sum.f_copy_(held)?;
            }
            if self.reached[index] {
                sum.f_add_(gradient).map(drop)
            } else {
                sum.f_copy_(gradient)
            }
        })?)
    }

    /// The float32 sum of a parameter's gradients, a view whose contents count once the parameter
    /// is `reached`.
    fn sum(&mut self, index: usize) -> Result<Tensor, LearnError> {
        let gradients = match self.gradients.take() {
            Some(gradients) => gradients,
            None => {
                let device = self.parameters[index].tensor.device();
                Arena::zeros(&self.table, Kind::Float, device)?
            }
        };
        self.gradients
            .insert(gradients)
            .tensor(&self.table.places[index])
    }

    /// The float32 sum of a parameter's gradients, for those who add to it themselves; `None` if it
    /// has none, because it is float32 itself or not trained.
    pub fn sum_of(&mut self, parameter: &Tensor) -> Result<Option<Tensor>, LearnError> {
        let index = self
            .parameters
            .iter()
            .position(|own| own.has_master && own.tensor.data_ptr() == parameter.data_ptr());
        let Some(index) = index else { return Ok(None) };
        let mut sum = self.sum(index)?;
        if let Some(held) = self.held[index].take() {
            tch::no_grad(|| sum.f_copy_(&held))?;
        } else if !self.reached[index] {
            let _ = tch::no_grad(|| sum.f_zero_())?;
            self.reached[index] = true;
        }
        Ok(Some(sum))
    }

    /// The gradient of each parameter; `None` for those without one.
    pub(super) fn gradients(&self) -> Result<Vec<Option<Tensor>>, LearnError> {
        let of = |(index, own): (usize, &Parameter)| {
            if let Some(held) = &self.held[index] {
                return Ok(Some(held.shallow_clone()));
            }
            if self.is_summed(own) {
                let sums = self.gradients.as_ref().filter(|_| self.reached[index]);
                let place = &self.table.places[index];
                return sums.map(|sums| sums.tensor(place)).transpose();
            }
            let gradient = own.tensor.f_grad()?;
            Ok(gradient.defined().then_some(gradient))
        };
        self.parameters.iter().enumerate().map(of).collect()
    }
}
