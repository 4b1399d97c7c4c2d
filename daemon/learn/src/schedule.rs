//! The learning rate of each update, equal to transformers' `get_scheduler`
//! (`constant_with_warmup`, `linear`, `cosine`, `cosine_with_min_lr`) up to the end of the
//! schedule, after which it stays at its floor.

use r1d_proto::hyperparameters::{LrSchedule, Optimiser};

/// The rate of update number `update`, from 0. During warm-up it is `learning_rate · update /
/// warmup_steps`: the first update has rate 0.
pub fn learning_rate(optimiser: &Optimiser, update: u64) -> f64 {
    let Optimiser {
        learning_rate,
        warmup_steps,
        total_steps,
        min_lr_ratio,
        ..
    } = *optimiser;
    if update < warmup_steps {
        return learning_rate * update as f64 / warmup_steps as f64;
    }
    let progress = ((update - warmup_steps) as f64
        / total_steps.saturating_sub(warmup_steps).max(1) as f64)
        .min(1.0);
    let remaining = match optimiser.lr_scheduler_type {
        LrSchedule::Constant => return learning_rate,
        LrSchedule::Linear => 1.0 - progress,
        LrSchedule::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * progress).cos()),
    };
    learning_rate * (min_lr_ratio + (1.0 - min_lr_ratio) * remaining)
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::hyperparameters::{Dtype, OptimizerOffload};
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Golden {
        lr_scheduler_type: LrSchedule,
        learning_rate: f64,
        warmup_steps: u64,
        total_steps: u64,
        min_lr_ratio: f64,
        rates: Vec<f64>,
    }

    #[test]
    fn equals_transformers_at_every_update() {
        let goldens: Vec<Golden> =
            serde_json::from_str(include_str!("../../../tests/golden_trl/schedules.json")).unwrap();
        assert!(goldens.len() >= 5);
        for golden in goldens {
            let optimiser = Optimiser {
                learning_rate: golden.learning_rate,
                lr_scheduler_type: golden.lr_scheduler_type,
                warmup_steps: golden.warmup_steps,
                total_steps: golden.total_steps,
                min_lr_ratio: golden.min_lr_ratio,
                adam_beta1: 0.9,
                adam_beta2: 0.999,
                adam_epsilon: 1e-8,
                weight_decay: 0.0,
                max_grad_norm: 1.0,
                exp_avg_dtype: Dtype::Float32,
                exp_avg_sq_dtype: Dtype::Float32,
                optimizer_offload: OptimizerOffload::None,
            };
            for (update, &expected) in golden.rates.iter().enumerate() {
                let rate = learning_rate(&optimiser, update as u64);
                let name = golden.lr_scheduler_type;
                assert!(
                    (rate - expected).abs() <= 1e-12 * golden.learning_rate,
                    "{name:?} update {update}: {rate} {expected}"
                );
            }
            let floor = match golden.lr_scheduler_type {
                LrSchedule::Constant => golden.learning_rate,
                _ => golden.learning_rate * golden.min_lr_ratio,
            };
            assert!((learning_rate(&optimiser, golden.total_steps + 1000) - floor).abs() < 1e-15);
        }
    }
}
