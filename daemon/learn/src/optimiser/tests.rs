use super::*;
use r1d_proto::hyperparameters::LrSchedule;

fn settings() -> hyperparameters::Optimiser {
    hyperparameters::Optimiser {
        learning_rate: 0.1,
        lr_scheduler_type: LrSchedule::Constant,
        warmup_steps: 0,
        total_steps: 10,
        min_lr_ratio: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.95,
        adam_epsilon: 1e-8,
        weight_decay: 0.5,
        max_grad_norm: 1.0,
        exp_avg_dtype: Dtype::Bfloat16,
        exp_avg_sq_dtype: Dtype::Bfloat16,
        optimizer_offload: OptimizerOffload::None,
    }
}

/// Blocks that cut a parameter: the same numbers as in one block.
#[test]
fn a_step_by_blocks_is_the_whole_step() {
    let parameters = || {
        let numbers = Tensor::arange(700, (Kind::Float, Device::Cpu)) * 0.3;
        let wave = |from: f64| (&numbers + from).sin().set_requires_grad(true);
        vec![("a".to_owned(), wave(0.0)), ("b".to_owned(), wave(2.0))]
    };
    let stepped = |elements: i64| {
        let parameters = parameters();
        let copies = parameters
            .iter()
            .map(|(name, own)| (name.clone(), own.shallow_clone()));
        let optimiser = Optimiser::new(copies.collect(), &settings()).unwrap();
        let verdict = Verdict {
            gradient_scale: Some(Tensor::from(2f32)),
            found_inf: Tensor::from(0f32),
        };
        let _ = optimiser.steps.shallow_clone().fill_(3.0);
        let gradients = [1.0, 5.0].map(|from: f64| (&parameters[0].1 + from).cos().detach());
        for block in optimiser.table.blocks(elements) {
            let gradient = |part: &Part| part.of_place(&gradients[part.place]).map(Some);
            optimiser
                .step_block(&block, &gradient, 0.1, &verdict)
                .unwrap();
        }
        let mut all = optimiser.state();
        all.extend(parameters);
        all
    };
    let (whole, parts) = (stepped(1 << 20), stepped(128));
    for ((name, a), (_, b)) in whole.iter().zip(&parts) {
        assert!(a.equal(b), "{name}");
    }
}
