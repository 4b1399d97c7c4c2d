//! Which tokens of a pass belong together.

use tch::{Device, TchError, Tensor};

/// The sequence that each token belongs to.
pub struct Sequences {
    /// Index of the token's sequence, `[N]` i64, from 0.
    pub index: Tensor,
    /// 1 / length of the token's sequence, `[N]`.
    pub inverse_length: Tensor,
    /// Number of sequences.
    pub count: i64,
}

impl Sequences {
    /// Makes the index of sequences of these lengths, one after the other.
    pub fn of(lengths: &[usize], device: Device) -> Result<Sequences, TchError> {
        let index: Vec<i64> = lengths
            .iter()
            .enumerate()
            .flat_map(|(i, &n)| std::iter::repeat_n(i as i64, n))
            .collect();
        let inverse: Vec<f32> = lengths
            .iter()
            .flat_map(|&n| std::iter::repeat_n(1.0 / n as f32, n))
            .collect();
        Ok(Sequences {
            index: Tensor::f_from_slice(&index)?.f_to_device(device)?,
            inverse_length: Tensor::f_from_slice(&inverse)?.f_to_device(device)?,
            count: lengths.len() as i64,
        })
    }

    /// The sum of `values` `[N]` over each sequence, `[count]`.
    pub(crate) fn sums(&self, values: &Tensor) -> Tensor {
        let zeros = Tensor::zeros([self.count], (values.kind(), values.device()));
        zeros.index_add(0, &self.index, values)
    }

    /// The mean of `values` over each sequence, for each of its tokens.
    pub(crate) fn mean(&self, values: &Tensor) -> Tensor {
        self.means(values).index_select(0, &self.index)
    }

    /// The mean of `values` `[N]` over each sequence, `[count]`.
    pub fn means(&self, values: &Tensor) -> Tensor {
        self.sums(&(values * &self.inverse_length))
    }
}
