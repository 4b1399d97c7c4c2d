//! The passes of sampling where ranks share the experts. Nobody knows for how long the others have
//! tokens, so before each pass they agree on whether there is one.

use crate::causal_lm::CausalLm;
use crate::error::Result;
use crate::packed::{Forward, Packed};
use tch::{Kind, Tensor};

impl CausalLm {
    /// Begins a pass of sampling for which this rank has tokens.
    pub(crate) fn begin_pass(&self) -> Result<()> {
        match self.expert_group() {
            Some(group) => group.has_pass(true).map(drop),
            None => Ok(()),
        }
    }

    /// Goes through passes of sampling for which only other ranks of the expert group have tokens,
    /// until none has any more. Every rank calls it when it has sampled its own.
    pub fn stand_by(&self, options: &Forward) -> Result<()> {
        let Some(group) = self.expert_group() else {
            return Ok(());
        };
        let options = Forward {
            stands_by: true,
            invariant: options.invariant,
            ..Forward::default()
        };
        let token = || Tensor::f_zeros([1], (Kind::Int64, self.device()));
        while group.has_pass(false)? {
            let _ = self.forward(&Packed::new(token()?, vec![1]), &options)?;
        }
        Ok(())
    }
}
