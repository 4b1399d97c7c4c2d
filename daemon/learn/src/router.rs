//! Measures how evenly the experts of mixture-of-experts layers are used, and the bias that
//! balances them (Wang et al. 2024, "Auxiliary-loss-free load balancing"; DeepSeek-V3 2.1.2).

use crate::LearnError;
use r1d_model::CausalLm;
use tch::{Kind, Tensor};

/// The busiest expert's load divided by the mean load, in the worst layer: 1 is balance, the number
/// of experts is collapse. `load` is `[layers, experts]`: tokens that each expert got.
pub fn load_max_over_mean(load: &Tensor) -> Result<f64, LearnError> {
    let load = load.f_to_kind(Kind::Double)?;
    let mean = load
        .f_mean_dim(&[1i64][..], false, None::<Kind>)?
        .f_clamp_min(f64::MIN_POSITIVE)?;
    Ok(load
        .f_amax([1i64], false)?
        .f_div(&mean)?
        .f_max()?
        .f_double_value(&[])?)
}

/// The largest magnitude of any layer's selection bias; 0 if the model has none.
pub fn bias_abs_max(model: &CausalLm) -> Result<f64, LearnError> {
    let mut largest = 0.0f64;
    for (name, bias) in model.buffers() {
        if name.ends_with("e_score_correction_bias") {
            largest = largest.max(bias.f_abs()?.f_max()?.f_double_value(&[])?);
        }
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_layer_counts() {
        let load = Tensor::from_slice(&[10i64, 2, 4, 4, 5, 5, 5, 5]).view([2, 4]);
        assert_eq!(load_max_over_mean(&load).unwrap(), 2.0);
        assert_eq!(load_max_over_mean(&load.narrow(0, 1, 1)).unwrap(), 1.0);
        assert_eq!(
            load_max_over_mean(&Tensor::zeros([1, 4], tch::kind::INT64_CPU)).unwrap(),
            0.0
        );
    }
}
