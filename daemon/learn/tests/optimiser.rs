//! AdamW over a model's parameters: decay, clipping, masters, narrow moments, state, and the same
//! bits wherever the optimiser is.

use r1d_learn::optimiser::Optimiser;
use r1d_proto::hyperparameters::{self, Dtype, LrSchedule, OptimizerOffload};
use tch::{Device, Kind, Tensor};

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
        exp_avg_dtype: Dtype::Float32,
        exp_avg_sq_dtype: Dtype::Float32,
        optimizer_offload: OptimizerOffload::None,
    }
}

/// The settings with moments in bfloat16.
fn narrow() -> hyperparameters::Optimiser {
    hyperparameters::Optimiser {
        exp_avg_dtype: Dtype::Bfloat16,
        exp_avg_sq_dtype: Dtype::Bfloat16,
        ..settings()
    }
}

fn parameters(kind: Kind) -> Vec<(String, Tensor)> {
    let tensor = |shape: &[i64]| Tensor::ones(shape, (kind, Device::Cpu)).set_requires_grad(true);
    vec![
        ("model.embed_tokens.weight".to_owned(), tensor(&[2, 2])),
        ("model.norm.weight".to_owned(), tensor(&[2])),
        ("model.layers.0.mlp.scale".to_owned(), tensor(&[2])),
    ]
}

/// Makes one update with loss Σ c·θ, so the gradient is c everywhere.
fn step(optimiser: &mut Optimiser, parameters: &[(String, Tensor)], c: f64) -> f64 {
    let loss: Tensor = parameters
        .iter()
        .map(|(_, p)| p.to_kind(Kind::Float).sum(Kind::Float))
        .sum::<Tensor>()
        * c;
    loss.backward();
    optimiser.accumulate().unwrap();
    let norm = optimiser.gradient_norm().unwrap();
    optimiser.update(0.1, &norm, &norm.isfinite()).unwrap();
    norm.double_value(&[])
}

fn norm_of(optimiser: &Optimiser) -> f64 {
    optimiser.gradient_norm().unwrap().double_value(&[])
}

fn values(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.to_kind(Kind::Float).view([-1])).unwrap()
}

#[test]
fn decay_spares_vectors() {
    let parameters = parameters(Kind::Float);
    let mut optimiser = Optimiser::new(copies(&parameters), &settings()).unwrap();
    step(&mut optimiser, &parameters, 0.0);
    assert_eq!(values(&parameters[0].1), [0.95; 4]);
    assert_eq!(values(&parameters[1].1), [1.0; 2]);
    assert_eq!(values(&parameters[2].1), [1.0; 2]);
}

#[test]
fn gradients_are_clipped_to_the_global_norm() {
    let parameters = parameters(Kind::Float);
    let mut optimiser = Optimiser::new(copies(&parameters), &settings()).unwrap();
    assert!((step(&mut optimiser, &parameters, 100.0) - 100.0 * 8f64.sqrt()).abs() < 1e-3);
    // The first moment is (1 − β₁) of the clipped gradient, 1/√8 in each of eight elements.
    let state = optimiser.state();
    let (_, moment) = state
        .iter()
        .find(|(name, _)| name == "exp_avg.model.norm.weight")
        .unwrap();
    assert!((values(moment)[0] - 0.1 / 8f32.sqrt()).abs() < 1e-6);
}

#[test]
fn bfloat16_weights_do_not_lose_small_updates() {
    let parameters = parameters(Kind::BFloat16);
    let mut gentle = settings();
    gentle.weight_decay = 0.0;
    let mut optimiser = Optimiser::new(
        parameters
            .iter()
            .map(|(n, p)| (n.clone(), p.shallow_clone()))
            .collect(),
        &gentle,
    )
    .unwrap();
    for _ in 0..40 {
        let loss: Tensor = parameters
            .iter()
            .map(|(_, p)| p.to_kind(Kind::Float).sum(Kind::Float))
            .sum();
        loss.backward();
        optimiser.accumulate().unwrap();
        let norm = optimiser.gradient_norm().unwrap();
        // Each update is 2⁻¹¹, which alone rounds away in bfloat16, whose neighbours below 1
        // are 2⁻⁸ apart.
        optimiser
            .update(f64::powi(2.0, -11), &norm, &norm.isfinite())
            .unwrap();
    }
    let moved = 1.0 - values(&parameters[0].1)[0];
    assert!(
        (moved - 40.0 * f32::powi(2.0, -11)).abs() < f32::powi(2.0, -8),
        "moved {moved}"
    );
    assert!(
        optimiser
            .state()
            .iter()
            .any(|(name, t)| name == "master.model.norm.weight" && t.kind() == Kind::Float)
    );
}

#[test]
fn gradients_of_micro_batches_add_up_in_float32() {
    for kind in [Kind::Float, Kind::BFloat16] {
        let parameters = parameters(kind);
        let clones = parameters
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
            .collect();
        let mut optimiser = Optimiser::new(clones, &settings()).unwrap();
        // 1 + 2⁻⁹ rounds to 1 in bfloat16.
        for slope in [1.0, f64::powi(2.0, -9)] {
            let loss: Tensor = parameters
                .iter()
                .map(|(_, p)| p.to_kind(Kind::Float).sum(Kind::Float))
                .sum::<Tensor>()
                * slope;
            loss.backward();
            optimiser.accumulate().unwrap();
        }
        let expected = 8f64.sqrt() * (1.0 + f64::powi(2.0, -9));
        assert!((norm_of(&optimiser) - expected).abs() < 1e-6, "{kind:?}");
        optimiser.clear_gradients().unwrap();
        assert_eq!(norm_of(&optimiser), 0.0);
    }
}

#[test]
fn parameters_without_gradient_keep_their_bits() {
    let parameters = parameters(Kind::Float);
    let mut optimiser = Optimiser::new(copies(&parameters), &settings()).unwrap();
    step(&mut optimiser, &parameters, 1.0);
    let before = values(&parameters[0].1);
    step(&mut optimiser, &parameters[1..], 1.0);
    assert_eq!(values(&parameters[0].1), before);
    assert_eq!(values(&optimiser.state()[0].1), [1.0, 2.0, 2.0]);
}

#[test]
fn state_moves_to_another_optimiser_bit_for_bit() {
    let offloaded = hyperparameters::Optimiser {
        optimizer_offload: OptimizerOffload::Cpu,
        ..settings()
    };
    let all = [settings(), narrow(), offloaded];
    let cases = [Kind::Float, Kind::BFloat16].map(|kind| all.clone().map(|own| (kind, own)));
    for (kind, settings) in cases.into_iter().flatten() {
        let (a, b) = (parameters(kind), parameters(kind));
        let clones = |p: &[(String, Tensor)]| {
            p.iter()
                .map(|(n, t)| (n.clone(), t.shallow_clone()))
                .collect()
        };
        let mut straight = Optimiser::new(clones(&a), &settings).unwrap();
        step(&mut straight, &a, 0.3);
        let mut resumed = Optimiser::new(clones(&b), &settings).unwrap();
        tch::no_grad(|| {
            b.iter()
                .zip(&a)
                .for_each(|((_, to), (_, from))| to.shallow_clone().copy_(from))
        });
        let saved: Vec<Tensor> = straight.state().iter().map(|(_, t)| t.copy()).collect();
        resumed
            .state()
            .iter()
            .zip(&saved)
            .for_each(|((_, to), from)| to.shallow_clone().copy_(from));
        resumed.restored().unwrap();
        step(&mut straight, &a, -0.7);
        step(&mut resumed, &b, -0.7);
        for ((name, x), (_, y)) in a.iter().zip(&b) {
            assert!(x.equal(y), "{name} differs in {kind:?}");
        }
        for ((name, x), (_, y)) in straight.state().iter().zip(&resumed.state()) {
            assert!(x.equal(y), "{name} differs in {kind:?}");
        }
    }
}

/// AdamW by the paper's equations on moments of either dtype differs by the rounding of the
/// moments only, here 40 updates with gradients that change.
#[test]
fn moments_in_bfloat16_follow_those_in_float32() {
    let moved = |settings: &hyperparameters::Optimiser| {
        let parameters = parameters(Kind::Float);
        let clones = parameters
            .iter()
            .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()));
        let mut optimiser = Optimiser::new(clones.collect(), settings).unwrap();
        for update in 0..40 {
            let _ = step(
                &mut optimiser,
                &parameters,
                1.0 + f64::from(update % 5) / 4.0,
            );
        }
        let state = optimiser.state();
        let dtypes: Vec<Kind> = state.iter().map(|(_, tensor)| tensor.kind()).collect();
        (1.0 - values(&parameters[1].1)[0], dtypes)
    };
    let gentle = |dtype: Dtype| hyperparameters::Optimiser {
        exp_avg_dtype: dtype,
        exp_avg_sq_dtype: dtype,
        max_grad_norm: 0.0,
        ..settings()
    };
    let (wide, dtypes) = moved(&gentle(Dtype::Float32));
    assert!(dtypes.iter().all(|&dtype| dtype == Kind::Float));
    let (narrow, dtypes) = moved(&gentle(Dtype::Bfloat16));
    assert_eq!(dtypes[1..], [Kind::BFloat16; 6]);
    assert!(wide != narrow, "nothing was rounded");
    assert!((wide - narrow).abs() < 0.01 * wide, "{wide} {narrow}");
}

/// Trains a model of one large and some small tensors of `kind` for a few updates: the second of
/// three leaves a parameter out, the third is clipped, the fourth has a gradient that is not
/// finite. Returns the weights and the state.
fn trained(kind: Kind, settings: &hyperparameters::Optimiser) -> Vec<(String, Tensor)> {
    let shapes: [(&str, &[i64]); 4] = [
        ("model.embed_tokens.weight", &[70, 33]),
        ("model.norm.weight", &[33]),
        ("model.layers.0.mlp.experts.down_proj", &[3, 5, 7]),
        ("lm_head.weight", &[9, 33]),
    ];
    let wave = |shape: &[i64], from: f64| {
        let numbers = Tensor::arange(shape.iter().product::<i64>(), (Kind::Float, Device::Cpu));
        (numbers * 0.3 + from).sin().view(shape)
    };
    let parameters: Vec<(String, Tensor)> = shapes
        .iter()
        .map(|(name, shape)| {
            let tensor = wave(shape, 1.0).to_kind(kind).set_requires_grad(true);
            ((*name).to_owned(), tensor)
        })
        .collect();
    let mut optimiser = Optimiser::new(copies(&parameters), settings).unwrap();
    for (update, slope) in [0.01, 0.02, 3.0, f64::INFINITY].into_iter().enumerate() {
        let reached = &parameters[usize::from(update == 1)..];
        for micro_batch in 0..2 {
            let loss: Tensor = reached
                .iter()
                .map(|(_, own)| {
                    let slopes = wave(&own.size(), f64::from(micro_batch) + update as f64);
                    (own.to_kind(Kind::Float) * slopes).sum(Kind::Float) * slope
                })
                .sum();
            loss.backward();
            optimiser.accumulate().unwrap();
        }
        let norm = optimiser.gradient_norm().unwrap();
        optimiser.update(0.1, &norm, &norm.isfinite()).unwrap();
    }
    let mut all = optimiser.state();
    all.extend(parameters);
    all
}

fn copies(parameters: &[(String, Tensor)]) -> Vec<(String, Tensor)> {
    parameters
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor.shallow_clone()))
        .collect()
}

/// The optimiser's place changes no bit of weights, moments and counts, and nothing of the state
/// that is saved, so a stage may go on elsewhere.
#[test]
fn an_optimiser_on_the_host_gives_the_bits_of_one_on_the_device() {
    for kind in [Kind::Float, Kind::BFloat16] {
        for settings in [settings(), narrow()] {
            let offloaded = hyperparameters::Optimiser {
                optimizer_offload: OptimizerOffload::Cpu,
                ..settings.clone()
            };
            let (here, there) = (trained(kind, &settings), trained(kind, &offloaded));
            assert_eq!(here.len(), there.len());
            for ((name, a), (of, b)) in here.iter().zip(&there) {
                assert!(name == of && a.kind() == b.kind() && a.equal(b), "{name}");
            }
            assert_eq!(values(&here[0].1), [2.0, 3.0, 3.0, 3.0]);
        }
    }
}

/// A block of which nothing is finite changes nothing, on the device too.
#[test]
fn an_update_that_is_not_finite_changes_nothing() {
    let parameters = parameters(Kind::BFloat16);
    let mut optimiser = Optimiser::new(copies(&parameters), &settings()).unwrap();
    let _ = step(&mut optimiser, &parameters, 1.0);
    let before: Vec<Tensor> = optimiser
        .state()
        .iter()
        .map(|(_, own)| own.copy())
        .collect();
    assert!(step(&mut optimiser, &parameters, f64::NAN).is_nan());
    for ((name, after), before) in optimiser.state().iter().zip(&before) {
        assert!(after.equal(before), "{name}");
    }
    assert_eq!(norm_of(&optimiser), 0.0, "its gradients are gone");
}

#[test]
fn second_moments_that_rounding_would_hold_are_refused() {
    let settings = hyperparameters::Optimiser {
        adam_beta2: 0.999,
        ..narrow()
    };
    let refused = Optimiser::new(parameters(Kind::Float), &settings)
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("set adam_beta2 to 0.99"),
        "{refused}"
    );
    let first = hyperparameters::Optimiser {
        exp_avg_sq_dtype: Dtype::Float32,
        ..settings
    };
    assert!(Optimiser::new(parameters(Kind::Float), &first).is_ok());
}

/// The host's cores share a parameter between them, as many as the machine has.
#[test]
fn the_number_of_threads_changes_no_bit() {
    let stepped = |threads: u32| {
        r1d_torch::runtime::set_threads(threads).unwrap();
        let numbers = Tensor::arange(300_007, (Kind::Float, Device::Cpu)) * 0.3;
        let parameter = numbers.sin().set_requires_grad(true);
        let parameters = vec![("a".to_owned(), parameter)];
        let mut optimiser = Optimiser::new(copies(&parameters), &settings()).unwrap();
        for slope in [1.0, 2.0] {
            let loss = (&parameters[0].1 * (&numbers + slope).cos()).sum(Kind::Float);
            loss.backward();
            let norm = optimiser.gradient_norm().unwrap();
            optimiser.update(0.1, &norm, &norm.isfinite()).unwrap();
        }
        r1d_torch::runtime::set_threads(1).unwrap();
        let mut all = optimiser.state();
        all.extend(parameters);
        all
    };
    let one = stepped(1);
    for threads in [2, 3, 7] {
        for ((name, a), (_, b)) in one.iter().zip(&stepped(threads)) {
            assert!(a.equal(b), "{name} with {threads} threads");
        }
    }
}

/// On a GPU both are libtorch's, whose kernels may contract products and sums differently: the
/// share of numbers that differ, by how much, and how long updates take.
#[test]
#[ignore = "needs a GPU"]
#[allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn a_gpus_update_is_the_hosts_but_for_contraction() {
    let device = r1d_torch::device::open("cuda:0").unwrap();
    let elements: i64 = 1 << 28;
    let mut kept = Vec::new();
    for optimizer_offload in [OptimizerOffload::None, OptimizerOffload::Cpu] {
        let settings = hyperparameters::Optimiser {
            optimizer_offload,
            ..settings()
        };
        tch::manual_seed(7);
        let weights = Tensor::randn([elements / 4096, 4096], (Kind::BFloat16, device)) * 0.02;
        let parameters = vec![("a".to_owned(), weights.set_requires_grad(true))];
        let mut optimiser = Optimiser::new(copies(&parameters), &settings).unwrap();
        for update in 0..4 {
            let slopes = Tensor::randn([elements / 4096, 4096], (Kind::BFloat16, device));
            (&parameters[0].1 * slopes).sum(Kind::Float).backward();
            optimiser.accumulate().unwrap();
            tch::Cuda::synchronize(0);
            let start = std::time::Instant::now();
            let norm = optimiser.gradient_norm().unwrap();
            optimiser.update(1e-3, &norm, &norm.isfinite()).unwrap();
            tch::Cuda::synchronize(0);
            let seconds = start.elapsed().as_secs_f64();
            println!("{optimizer_offload:?}, update {update}: {seconds:.3} s for {elements}");
        }
        let mut all = optimiser.state();
        all.extend(parameters);
        let on_host = all
            .into_iter()
            .map(|(name, own)| (name, own.detach().to_device(Device::Cpu)));
        kept.push(on_host.collect::<Vec<_>>());
    }
    for ((name, a), (_, b)) in kept[0].iter().zip(&kept[1]) {
        let (a, b) = (a.to_kind(Kind::Float), b.to_kind(Kind::Float));
        let differ =
            f64::try_from(a.ne_tensor(&b).to_kind(Kind::Float).mean(Kind::Double)).unwrap();
        let most = f64::try_from((&a - &b).abs().max()).unwrap();
        let largest = f64::try_from(a.abs().max()).unwrap();
        println!("{name}: {differ:.2e} of the numbers differ, by {most:.2e} of {largest:.2e}");
        assert!(most <= 1e-2 * largest, "{name}");
    }
}
