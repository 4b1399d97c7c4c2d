//! Copies of weights in the layout that products with few rows read fastest.

use crate::error::Result;
use r1d_torch::product::PackedMatrix;
use std::collections::HashMap;
use std::marker::PhantomData;
use tch::Tensor;

/// Copies of a model's matrices, rearranged for products with few rows. It borrows the model, so it
/// must be made anew when the weights have changed.
pub struct PackedWeights<'a> {
    /// Packed matrices by the memory address of the weight.
    matrices: HashMap<usize, PackedMatrix>,
    weights: PhantomData<&'a Tensor>,
}

impl<'a> PackedWeights<'a> {
    /// Packs those of the matrices that can be packed.
    pub(crate) fn of(weights: impl Iterator<Item = &'a Tensor>) -> Result<PackedWeights<'a>> {
        let mut matrices = HashMap::new();
        for weight in weights {
            if let Some(matrix) = PackedMatrix::new(weight)? {
                let _ = matrices.insert(weight.data_ptr().addr(), matrix);
            }
        }
        Ok(PackedWeights {
            matrices,
            weights: PhantomData,
        })
    }

    /// The packed copy of a weight, if there is one.
    pub(crate) fn get(&self, weight: &Tensor) -> Option<&PackedMatrix> {
        self.matrices.get(&weight.data_ptr().addr())
    }
}
