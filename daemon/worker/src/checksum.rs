//! A checksum of what an update has left, by which the daemon sees whether all ranks of a gang have
//! the same weights.

use crate::device::Opened;
use crate::failure::{self, of_the_machine};
use r1d_model::{CausalLm, is_of_experts};
use r1d_proto::worker::Failure;
use tch::{Kind, TchError, Tensor};

/// The bits of a checksum: as many as a float64 holds exactly.
const BITS: u32 = 53;
/// The multiplier that tells the order of tensors, an odd number without a pattern (FNV's).
const PRIME: i64 = 0x100_0000_01b3;

/// The checksum of the trained weights: the policy's or the reward model's, and the value model's.
pub(crate) fn of_weights(opened: &Opened) -> Result<f64, Failure> {
    let critic = opened.critic.as_ref().map(|critic| critic.model.model());
    let models = [Some(opened.model.weights()), critic];
    let of_models = models.into_iter().flatten().map(of_model);
    Ok(rounded(folded(&of_models.collect::<Result<Vec<_>, _>>()?)))
}

/// The checksum of a model. That of experts that ranks share is a sum over these, so it is the same
/// on all of them.
fn of_model(model: &CausalLm) -> Result<i64, Failure> {
    let (mut common, mut of_experts) = (Vec::new(), Vec::new());
    for (name, tensor) in model.parameters() {
        let sum = of_bits(&tensor).map_err(of_the_machine)?;
        if is_of_experts(&name) {
            of_experts.push(sum);
        } else {
            common.push(sum);
        }
    }
    let own = folded(&of_experts);
    let of_all = match model.expert_group() {
        Some(group) => group.sum("checksum of experts", own),
        None => Ok(own),
    };
    common.push(of_all.map_err(failure::of_model)?);
    Ok(folded(&common))
}

/// The sum of a tensor's elements, each read as a whole number of its bits. It is modulo 2 to their
/// number: a sum in 64 bits would first copy the tensor into them, which takes longer.
fn of_bits(tensor: &Tensor) -> Result<i64, TchError> {
    let bits = match tensor.kind() {
        Kind::Float => Kind::Int,
        Kind::Double => Kind::Int64,
        _ => Kind::Int16,
    };
    let tensor = tensor.detach();
    let sum = tensor
        .f_view_dtype(bits)?
        .f_sum(bits)?
        .f_to_kind(Kind::Int64)?;
    i64::try_from(sum)
}

fn folded(sums: &[i64]) -> i64 {
    let mix = |so_far: i64, sum: &i64| so_far.wrapping_mul(PRIME).wrapping_add(*sum);
    sums.iter().fold(0, mix)
}

/// The bits of a sum that arrive exactly.
fn rounded(sum: i64) -> f64 {
    (sum as u64 >> (u64::BITS - BITS)) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bit_of_one_weight_changes_it() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let tensor = Tensor::arange(64, (kind, tch::Device::Cpu)).reshape([8, 8]);
            let before = of_bits(&tensor).unwrap();
            assert_eq!(before, of_bits(&tensor.copy()).unwrap());
            let next = tensor.get(3).get(5).f_mul_scalar(1.01).unwrap();
            tensor.get(3).get(5).copy_(&next);
            assert_ne!(before, of_bits(&tensor).unwrap(), "{kind:?}");
        }
    }

    #[test]
    fn it_is_a_number_that_arrives_exactly_and_tells_the_order() {
        let sums = [i64::MIN, 7, -1, i64::MAX];
        let sum = rounded(folded(&sums));
        assert!((0.0..2f64.powi(53)).contains(&sum) && sum.fract() == 0.0);
        assert_ne!(sum, rounded(folded(&[i64::MIN, -1, 7, i64::MAX])));
        assert_eq!(sum, rounded(folded(&sums)));
    }
}
