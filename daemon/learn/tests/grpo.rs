//! Policy-gradient updates of tiny models.

mod tiny;

use r1d_learn::{LearnError, Trainer};
use r1d_model::{CausalLm, Forward, Packed};
use r1d_proto::hyperparameters::ImportanceSamplingMode::{
    SequenceMask, SequenceTruncate, TokenMask, TokenTruncate,
};
use r1d_proto::hyperparameters::{
    ImportanceSamplingCorrection, ImportanceSamplingLevel, ImportanceSamplingMode, LossType,
    Objective, RouterTraining,
};
use r1d_proto::worker::{Metrics, Train};
use tch::{Kind, Tensor};
use tiny::*;

fn trainer(model: &CausalLm, learning_rate: f64) -> Trainer {
    Trainer::new(
        model,
        &optimiser(learning_rate),
        NO_ROUTER_TRAINING,
        4096,
        false,
    )
    .unwrap()
}

fn train(
    trainer: &mut Trainer,
    model: &CausalLm,
    reference: Option<&CausalLm>,
    batch: &Train,
) -> Metrics {
    trainer
        .train(model, reference, batch, &mut |_, _| {})
        .unwrap()
}

/// Mean log-probability of the batch's sequences with a positive (negative) advantage.
fn mean_logprob(model: &CausalLm, batch: &Train, positive: bool) -> f64 {
    let chosen: Vec<f32> = batch
        .sequences
        .iter()
        .filter(|sequence| (sequence.advantage > 0.0) == positive)
        .flat_map(|sequence| logprobs(model, sequence, 1.0))
        .collect();
    chosen.iter().map(|&x| x as f64).sum::<f64>() / chosen.len() as f64
}

#[test]
fn what_had_an_advantage_becomes_likelier_and_the_rest_less() {
    for model in [qwen2(Kind::Float), deepseek_v3()] {
        for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Dapo] {
            let batch = rollouts(
                &model,
                Objective {
                    loss_type,
                    ..objective()
                },
                0,
            );
            let before = [true, false].map(|positive| mean_logprob(&model, &batch, positive));
            let metrics = train(&mut trainer(&model, 2e-3), &model, None, &batch);
            let after = [true, false].map(|positive| mean_logprob(&model, &batch, positive));
            assert!(
                after[0] > before[0] + 1e-3 && after[1] < before[1] - 1e-3,
                "{loss_type:?} {before:?} {after:?} {metrics:?}"
            );
        }
    }
}

#[test]
fn on_policy_the_ratio_is_one_and_the_sampler_agrees() {
    let model = qwen2(Kind::Float);
    let objective = Objective {
        temperature: 0.7,
        ..objective()
    };
    let batch = rollouts(&model, objective, 0);
    let metrics = train(&mut trainer(&model, 1e-3), &model, None, &batch);
    let expected: f64 = -batch
        .sequences
        .iter()
        .map(|s| s.advantage as f64)
        .sum::<f64>()
        / 8.0;
    assert!((metrics["loss"] - expected).abs() < 1e-6, "{metrics:?}");
    assert_eq!(metrics["clip_ratio/region_mean"], 0.0);
    assert!(
        metrics["sampling/sampling_logp_difference/max"] < 1e-5,
        "{metrics:?}"
    );
    assert!(
        metrics["entropy"] > 2.0 && metrics["entropy"] < (VOCAB as f64).ln(),
        "{metrics:?}"
    );
    assert_eq!(
        metrics["completions/mean_length"],
        batch
            .sequences
            .iter()
            .map(|s| s.completion_ids.len() as f64)
            .sum::<f64>()
            / 8.0
    );
    assert_eq!(metrics["completions/clipped_ratio"], 0.25);
    assert_eq!(
        metrics["num_tokens"],
        batch
            .sequences
            .iter()
            .map(|s| s.prompt_ids.len() + s.completion_ids.len())
            .sum::<usize>() as f64
    );
}

#[test]
fn a_sampler_that_disagrees_shows_in_the_metric_and_not_in_the_update() {
    for minibatches in [1, 2] {
        let run = |shift: f32| {
            let model = qwen2(Kind::Float);
            let mut batch = rollouts(
                &model,
                Objective {
                    num_minibatches: minibatches,
                    ..objective()
                },
                0,
            );
            batch.sequences[2].behaviour_logprobs[1] += shift;
            (
                train(&mut trainer(&model, 1e-3), &model, None, &batch),
                snapshot(&model),
                batch,
            )
        };
        let (agreed, weights, _) = run(0.0);
        let (disagreed, same_weights, batch) = run(0.5);
        let tokens: usize = batch.sequences.iter().map(|s| s.completion_ids.len()).sum();
        assert!((disagreed["sampling/sampling_logp_difference/max"] - 0.5).abs() < 1e-5);
        assert!(
            (disagreed["sampling/sampling_logp_difference/mean"] - 0.5 / tokens as f64).abs()
                < 1e-5
        );
        assert_eq!(agreed["loss"], disagreed["loss"]);
        assert_same_bits(&weights, &same_weights);
    }
}

/// Six operations for each token that the pass computes and each parameter, over the update's time
/// and the device's peak. A group's prompt is computed once, a completion's last token never.
#[test]
fn an_updates_share_of_the_peak_is_told_where_that_is_known() {
    struct Clock(std::sync::atomic::AtomicU64);
    impl r1d_proto::world::Clock for Clock {
        fn now(&self) -> std::time::Duration {
            let seconds = self.0.fetch_add(2, std::sync::atomic::Ordering::Relaxed);
            std::time::Duration::from_secs(seconds)
        }

        fn unix(&self) -> std::time::Duration {
            self.now()
        }
    }
    let model = qwen2(Kind::Float);
    let batch = rollouts(&model, objective(), 0);
    let run = |peak| {
        let clock = std::sync::Arc::new(Clock(0.into()));
        let mut learner = trainer(&model, 0.0).with_clock(clock).with_peak(peak);
        train(&mut learner, &model, None, &batch)
    };
    let metrics = run(Some(1e9));
    let prompts: std::collections::BTreeSet<_> =
        batch.sequences.iter().map(|s| &s.prompt_ids).collect();
    let completions = batch.sequences.iter().map(|s| s.completion_ids.len() - 1);
    let tokens = prompts.iter().map(|ids| ids.len()).sum::<usize>() + completions.sum::<usize>();
    let expected = 6.0 * model.summary().active_parameters as f64 * tokens as f64
        / metrics["timing_s/update"]
        / 1e9;
    assert!(
        (metrics["perf/mfu"] - expected).abs() < 1e-12,
        "{metrics:?}"
    );
    assert!(!run(None).contains_key("perf/mfu"));
}

#[test]
fn packing_changes_nothing_but_rounding() {
    for level in [
        ImportanceSamplingLevel::Token,
        ImportanceSamplingLevel::Sequence,
    ] {
        for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Dapo] {
            let run = |budget: u32| {
                let model = deepseek_v3();
                let reference = model.deep_copy().unwrap();
                let objective = Objective {
                    loss_type,
                    importance_sampling_level: level,
                    beta: 0.04,
                    epsilon: 0.01,
                    ..objective()
                };
                let objective = Objective {
                    num_iterations: 2,
                    num_minibatches: 2,
                    mask_truncated_completions: true,
                    ..objective
                };
                let router = RouterTraining {
                    bias_update_speed: 0.0,
                    aux_loss_alpha: 0.01,
                    device_loss_alpha: 0.0,
                };
                let mut trainer =
                    Trainer::new(&model, &optimiser(1e-4), router, budget, false).unwrap();
                train(
                    &mut trainer,
                    &model,
                    Some(&reference),
                    &rollouts(&reference, objective, 0),
                )
            };
            let whole = run(4096);
            assert!(
                whole["kl"] > 0.0 && whole["clip_ratio/region_mean"] > 0.0,
                "{whole:?}"
            );
            let cut = run(20);
            for (name, value) in &whole {
                let tolerance = if name.starts_with("clip_ratio") || name.starts_with("moe") {
                    0.2
                } else {
                    2e-3 * value.abs() + 1e-5
                };
                assert!(
                    (cut[name] - value).abs() <= tolerance,
                    "{level:?} {loss_type:?} {name}: {} {value}",
                    cut[name]
                );
            }
        }
    }
}

#[test]
fn minibatches_are_normalised_by_their_share_of_the_batch() {
    for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Dapo] {
        let model = qwen2(Kind::Float);
        let objective = Objective {
            loss_type,
            num_minibatches: 4,
            ..objective()
        };
        let batch = rollouts(&model, objective, 0);
        // At rate 0 every minibatch is on policy, where a token costs −w·A; the mean over
        // minibatches must be the batch's.
        let metrics = train(&mut trainer(&model, 0.0), &model, None, &batch);
        let lengths = || {
            batch
                .sequences
                .iter()
                .map(|s| (s.advantage as f64, s.completion_ids.len() as f64))
        };
        let expected = match loss_type {
            LossType::Grpo => lengths().map(|(advantage, _)| advantage).sum::<f64>() / 8.0,
            LossType::DrGrpo => {
                lengths().map(|(advantage, n)| advantage * n).sum::<f64>() / (8.0 * 16.0)
            }
            LossType::Dapo => {
                lengths().map(|(advantage, n)| advantage * n).sum::<f64>()
                    / lengths().map(|(_, n)| n).sum::<f64>()
            }
        };
        assert!(
            (metrics["loss"] + expected).abs() < 1e-5,
            "{loss_type:?} {} {expected}",
            metrics["loss"]
        );
    }
}

#[test]
fn kl_is_zero_to_an_equal_reference_and_pulls_back_to_another() {
    let model = qwen2(Kind::Float);
    let reference = model.deep_copy().unwrap();
    let batch = rollouts(
        &model,
        Objective {
            beta: 1.0,
            ..objective()
        },
        0,
    );
    let mut learner = trainer(&model, 3e-3);
    assert_eq!(
        train(&mut learner, &model, Some(&reference), &batch)["kl"],
        0.0
    );
    for _ in 0..5 {
        train(&mut learner, &model, Some(&reference), &batch);
    }
    // Without advantages, only the pull of the reference is left.
    let mut neutral = batch.clone();
    neutral
        .sequences
        .iter_mut()
        .for_each(|sequence| sequence.advantage = 0.0);
    let mut learner = trainer(&model, 1e-3);
    let kls: Vec<f64> = (0..6)
        .map(|_| train(&mut learner, &model, Some(&reference), &neutral)["kl"])
        .collect();
    assert!(kls[0] > 0.0 && kls[5] < 0.7 * kls[0], "{kls:?}");
    let error = learner
        .train(&model, None, &batch, &mut |_, _| {})
        .unwrap_err();
    assert!(
        error.is_invalid_request() && error.to_string().contains("reference"),
        "{error}"
    );
}

#[test]
fn several_updates_per_batch_measure_their_ratio_from_before_the_first() {
    let model = qwen2(Kind::Float);
    let objective = Objective {
        num_iterations: 3,
        num_minibatches: 2,
        epsilon: 1e-3,
        epsilon_high: 1e-3,
        ..objective()
    };
    let mut batch = rollouts(&model, objective, 0);
    batch.first_update = 10;
    let schedule = r1d_proto::hyperparameters::Optimiser {
        warmup_steps: 100,
        ..optimiser(1e-2)
    };
    let mut learner = Trainer::new(&model, &schedule, NO_ROUTER_TRAINING, 4096, false).unwrap();
    let mut seen = Vec::new();
    let metrics = learner
        .train(&model, None, &batch, &mut |done, total| {
            seen.push((done, total))
        })
        .unwrap();
    // The first update of six is on policy, the others are not.
    let clipped = metrics["clip_ratio/region_mean"];
    assert!(clipped > 0.0 && clipped < 5.0 / 6.0, "{metrics:?}");
    assert!((metrics["learning_rate"] - 1e-2 * 15.0 / 100.0).abs() < 1e-12);
    let (done, total) = *seen.last().unwrap();
    assert!(done == total && seen.is_sorted(), "{seen:?}");
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for make in [
        (|| qwen2(Kind::Float)) as fn() -> CausalLm,
        || qwen2(Kind::BFloat16),
        deepseek_v3,
    ] {
        let objective = Objective {
            num_minibatches: 2,
            beta: 0.01,
            ..objective()
        };
        let reference = make();
        let batches: Vec<Train> = (0..4)
            .map(|step| rollouts(&reference, objective.clone(), step))
            .collect();
        let router = RouterTraining {
            bias_update_speed: 1e-3,
            aux_loss_alpha: 0.0,
            device_loss_alpha: 0.0,
        };
        let new =
            |model: &CausalLm| Trainer::new(model, &optimiser(1e-3), router, 24, false).unwrap();
        let straight = make();
        let mut learner = new(&straight);
        batches[..2]
            .iter()
            .for_each(|batch| drop(train(&mut learner, &straight, Some(&reference), batch)));
        let resumed = straight.deep_copy().unwrap();
        let state: Vec<_> = learner
            .state()
            .into_iter()
            .map(|(name, tensor)| (name, tensor.copy()))
            .collect();
        let expected: Vec<Metrics> = batches[2..]
            .iter()
            .map(|batch| train(&mut learner, &straight, Some(&reference), batch))
            .collect();
        let mut continued = new(&resumed);
        restore(&mut continued, &state);
        let got: Vec<Metrics> = batches[2..]
            .iter()
            .map(|batch| train(&mut continued, &resumed, Some(&reference), batch))
            .collect();
        assert_eq!(got, expected);
        assert_same_bits(&snapshot(&resumed), &snapshot(&straight));
        assert_same_bits(&continued.state(), &learner.state());
    }
}

#[test]
fn truncated_completions_do_not_train_when_masked() {
    let masked = Objective {
        mask_truncated_completions: true,
        ..objective()
    };
    let run = |change: &dyn Fn(&mut Train)| {
        let model = qwen2(Kind::Float);
        let mut batch = rollouts(&model, masked.clone(), 0);
        change(&mut batch);
        let metrics = train(&mut trainer(&model, 1e-3), &model, None, &batch);
        (metrics, snapshot(&model))
    };
    let (_, plain) = run(&|_| {});
    let (_, other) = run(&|batch| {
        batch
            .sequences
            .iter_mut()
            .filter(|s| s.truncated)
            .for_each(|s| s.advantage = 5.0)
    });
    assert_same_bits(&plain, &other);
    let (metrics, untouched) =
        run(&|batch| batch.sequences.iter_mut().for_each(|s| s.truncated = true));
    assert_same_bits(&untouched, &snapshot(&qwen2(Kind::Float)));
    assert_eq!(
        (
            metrics["loss"],
            metrics["grad_norm"],
            metrics["completions/clipped_ratio"]
        ),
        (0.0, 0.0, 1.0)
    );
}

#[test]
fn routing_replay_forces_the_recorded_experts() {
    let record = |model: &CausalLm, batch: &mut Train| {
        for sequence in &mut batch.sequences {
            let mut all: Vec<i64> = sequence
                .prompt_ids
                .iter()
                .chain(&sequence.completion_ids)
                .map(|&id| id as i64)
                .collect();
            all.pop();
            let packed = Packed::new(Tensor::from_slice(&all), vec![all.len() as i64]);
            let options = Forward {
                record_experts: true,
                ..Forward::default()
            };
            let experts = tch::no_grad(|| model.forward(&packed, &options).unwrap())
                .experts
                .unwrap();
            let flat: Vec<i64> = Vec::try_from(experts.view([-1])).unwrap();
            sequence.experts = flat.into_iter().map(|expert| expert as u16).collect();
        }
    };
    let run = |replay: bool, change: &dyn Fn(&mut Train)| {
        let model = deepseek_v3();
        let mut batch = rollouts(
            &model,
            Objective {
                routing_replay: replay,
                ..objective()
            },
            0,
        );
        record(&model, &mut batch);
        change(&mut batch);
        (
            train(&mut trainer(&model, 1e-3), &model, None, &batch),
            snapshot(&model),
        )
    };
    let (free, free_weights) = run(false, &|_| {});
    let (replayed, replayed_weights) = run(true, &|_| {});
    assert!(
        replayed["sampling/sampling_logp_difference/max"] < 1e-5,
        "{replayed:?}"
    );
    assert!(
        (free["grad_norm"] - replayed["grad_norm"]).abs() < 1e-5
            && distance(&free_weights, &replayed_weights) < 2e-4
    );
    let rotate = |batch: &mut Train| {
        batch
            .sequences
            .iter_mut()
            .flat_map(|s| &mut s.experts)
            .for_each(|expert| *expert = (*expert + 1) % 8)
    };
    let (elsewhere, _) = run(true, &rotate);
    assert!(
        elsewhere["sampling/sampling_logp_difference/max"] > 1e-2,
        "{elsewhere:?}"
    );
}

/// π_ref is the reference with its own experts; the policy's are forced on it only if the objective
/// says so.
#[test]
fn the_reference_routes_by_itself_unless_it_is_told_not_to() {
    let model = deepseek_v3();
    let reference = model.deep_copy().unwrap();
    let kl = |replay: bool, replay_reference: bool, rotated: bool| {
        let objective = Objective {
            beta: 0.1,
            routing_replay: replay,
            routing_replay_reference: replay_reference,
            ..objective()
        };
        let mut batch = rollouts(&model, objective, 0);
        for sequence in &mut batch.sequences {
            let mut all: Vec<i64> = sequence
                .prompt_ids
                .iter()
                .chain(&sequence.completion_ids)
                .map(|&id| id as i64)
                .collect();
            all.pop();
            let packed = Packed::new(Tensor::from_slice(&all), vec![all.len() as i64]);
            let options = Forward {
                record_experts: true,
                ..Forward::default()
            };
            let experts = tch::no_grad(|| model.forward(&packed, &options).unwrap())
                .experts
                .unwrap();
            let flat: Vec<i64> = Vec::try_from(experts.view([-1])).unwrap();
            sequence.experts = flat
                .into_iter()
                .map(|expert| ((expert + i64::from(rotated)) % 8) as u16)
                .collect();
        }
        let policy = model.deep_copy().unwrap();
        train(
            &mut trainer(&policy, 1e-3),
            &policy,
            Some(&reference),
            &batch,
        )["kl"]
    };
    // The same weights on the same experts do not diverge. The policy diverges on other experts
    // than its reference's.
    assert!(
        kl(true, true, true).abs() < 1e-6
            && kl(true, false, false).abs() < 1e-6
            && kl(false, false, true).abs() < 1e-6
    );
    assert!(kl(true, false, true) > 1e-3, "{}", kl(true, false, true));
    assert!(
        kl(false, true, true).abs() < 1e-6,
        "without routing replay there is nothing to force"
    );
}

/// Half of the groups of a step often have equal rewards: their gradient is 0, and so is their
/// cost.
#[test]
fn completions_without_an_advantage_are_not_computed_and_change_nothing() {
    let silent = |mut batch: Train| {
        batch
            .sequences
            .iter_mut()
            .skip(3)
            .for_each(|sequence| sequence.advantage = 0.0);
        batch
    };
    let run = |change: &dyn Fn(&mut Train), loss_type: LossType| {
        let model = qwen2(Kind::Float);
        let mut batch = silent(rollouts(
            &model,
            Objective {
                loss_type,
                num_minibatches: 2,
                ..objective()
            },
            0,
        ));
        change(&mut batch);
        let mut most = 0;
        let mut learner = trainer(&model, 1e-3);
        let metrics = learner
            .train(&model, None, &batch, &mut |done, total| {
                most = most.max(done).max(total)
            })
            .unwrap();
        (metrics, snapshot(&model), most)
    };
    // An advantage too small to matter is computed, so all are.
    let tiny = |batch: &mut Train| {
        batch
            .sequences
            .iter_mut()
            .filter(|s| s.advantage == 0.0)
            .for_each(|sequence| sequence.advantage = 1e-20);
    };
    for loss_type in [LossType::Grpo, LossType::DrGrpo, LossType::Dapo] {
        let ((skipped, weights, cost), (whole, expected, full)) =
            (run(&|_| {}, loss_type), run(&tiny, loss_type));
        assert_eq!(
            (
                skipped["completions/skipped_ratio"],
                whole["completions/skipped_ratio"]
            ),
            (5.0 / 8.0, 0.0)
        );
        assert!(
            distance(&weights, &expected) < 1e-6,
            "{loss_type:?}: {}",
            distance(&weights, &expected)
        );
        for name in [
            "loss",
            "grad_norm",
            "clip_ratio/region_mean",
            "clip_ratio/low_mean",
            "clip_ratio/low_min",
        ] {
            assert!(
                (skipped[name] - whole[name]).abs() < 1e-6,
                "{loss_type:?} {name}: {} {}",
                skipped[name],
                whole[name]
            );
        }
        assert!(cost < full, "{cost} of {full} tokens");
    }
}

/// Moments and weight decay move the weights of an update whose gradient is 0.
#[test]
fn a_step_without_any_advantage_is_an_update_all_the_same() {
    let run = |advantage: f32| {
        let model = qwen2(Kind::Float);
        let mut learner = trainer(&model, 1e-3);
        train(
            &mut learner,
            &model,
            None,
            &rollouts(&model, objective(), 0),
        );
        let before = snapshot(&model);
        let mut batch = rollouts(&model, objective(), 1);
        batch
            .sequences
            .iter_mut()
            .for_each(|sequence| sequence.advantage = advantage);
        let metrics = train(&mut learner, &model, None, &batch);
        assert!(distance(&snapshot(&model), &before) > 1e-5, "it moves on");
        (metrics, snapshot(&model))
    };
    let ((none, weights), (_, expected)) = (run(0.0), run(1e-20));
    assert_eq!((none["grad_norm"], none["loss"]), (0.0, 0.0));
    assert!(
        distance(&weights, &expected) < 1e-9,
        "{}",
        distance(&weights, &expected)
    );
}

/// If balance or a KL term changes weights too, every completion has a part in it.
#[test]
fn completions_that_count_otherwise_are_computed() {
    let skipped = |router: RouterTraining, beta: f64| {
        let model = deepseek_v3();
        let reference = model.deep_copy().unwrap();
        let mut batch = rollouts(
            &model,
            Objective {
                beta,
                ..objective()
            },
            0,
        );
        batch
            .sequences
            .iter_mut()
            .skip(4)
            .for_each(|sequence| sequence.advantage = 0.0);
        let mut learner = Trainer::new(&model, &optimiser(1e-3), router, 1000, false).unwrap();
        train(&mut learner, &model, Some(&reference), &batch)["completions/skipped_ratio"]
    };
    assert_eq!(skipped(NO_ROUTER_TRAINING, 0.0), 0.5);
    assert_eq!(skipped(NO_ROUTER_TRAINING, 0.1), 0.0);
    assert_eq!(
        skipped(
            RouterTraining {
                bias_update_speed: 1e-3,
                ..NO_ROUTER_TRAINING
            },
            0.0
        ),
        0.0
    );
    assert_eq!(
        skipped(
            RouterTraining {
                aux_loss_alpha: 1e-3,
                ..NO_ROUTER_TRAINING
            },
            0.0
        ),
        0.0
    );
}

#[test]
fn in_invariant_mode_the_difference_to_single_sequences_is_zero() {
    for model in [qwen2(Kind::Float), deepseek_v3()] {
        let whole = rollouts(&model, objective(), 0);
        // The same holds if each token has its own set of kept ids.
        for mut batch in [with_kept_ids(whole.clone()), whole] {
            for sequence in &mut batch.sequences {
                sequence.behaviour_logprobs = invariant_logprobs(&model, sequence);
            }
            let run = |correction| {
                let mut batch = batch.clone();
                batch.objective.importance_sampling_correction = correction;
                let model = model.deep_copy().unwrap();
                let mut learner =
                    Trainer::new(&model, &optimiser(1e-3), NO_ROUTER_TRAINING, 40, true).unwrap();
                let metrics = train(&mut learner, &model, None, &batch);
                (metrics, snapshot(&model))
            };
            let (metrics, weights) = run(None);
            assert_eq!(metrics["sampling/sampling_logp_difference/max"], 0.0);
            // There is nothing to correct: all weights are 1, and no bit changes.
            for mode in [TokenTruncate, SequenceMask] {
                let (corrected, same_weights) = run(Some(correction(mode)));
                for part in ["min", "mean", "max"] {
                    let ratio = corrected[&format!("sampling/importance_sampling_ratio/{part}")];
                    assert_eq!(ratio, 1.0, "{mode:?} {part}");
                }
                assert_eq!(metrics["loss"], corrected["loss"]);
                assert_same_bits(&weights, &same_weights);
            }
        }
    }
}

fn correction(mode: ImportanceSamplingMode) -> ImportanceSamplingCorrection {
    ImportanceSamplingCorrection {
        mode,
        clip_min: 0.0,
        clip_max: 1.5,
    }
}

/// One token that the sampler thought less likely than it is weighs more, whatever the number of
/// updates and wherever the batch is cut.
#[test]
fn a_sampler_that_disagrees_is_corrected() {
    let cases = [
        (TokenTruncate, 0.25, (1.0, 0.25f64.exp())),
        (TokenTruncate, 0.5, (1.0, 1.5)),
        (TokenMask, 0.5, (0.0, 1.0)),
        (SequenceTruncate, 0.5, (1.0, 1.5)),
        (SequenceMask, 0.5, (0.0, 1.0)),
    ];
    for ((mode, shift, (min, max)), (minibatches, budget)) in cases
        .into_iter()
        .flat_map(|case| [(1, 4096), (1, 20), (2, 4096)].map(|cut| (case, cut)))
    {
        let model = qwen2(Kind::Float);
        let run = |objective: Objective, shift: f32, weight: f32| {
            let model = model.deep_copy().unwrap();
            let mut batch = rollouts(&model, objective, 0);
            batch.sequences[2].behaviour_logprobs[1] -= shift;
            if mode.is_of_sequences() {
                batch.sequences[2].advantage *= weight;
            }
            let mut learner =
                Trainer::new(&model, &optimiser(0.0), NO_ROUTER_TRAINING, budget, false).unwrap();
            train(&mut learner, &model, None, &batch)
        };
        let objective = Objective {
            num_minibatches: minibatches,
            ..objective()
        };
        let corrected = Objective {
            importance_sampling_correction: Some(correction(mode)),
            ..objective.clone()
        };
        let metrics = run(corrected, shift, 1.0);
        for (part, expected) in [("min", min), ("max", max)] {
            let found = metrics[&format!("sampling/importance_sampling_ratio/{part}")];
            assert!(
                (found - expected).abs() < 1e-4,
                "{mode:?} {part}: {found} {expected}"
            );
        }
        if mode.is_of_sequences() {
            // The weight of a sequence is a factor of its advantage.
            let weight = if mode == SequenceMask { 0.0 } else { 1.5 };
            let expected = run(objective, 0.0, weight);
            for name in ["loss", "grad_norm"] {
                let close = (metrics[name] - expected[name]).abs() < 1e-4;
                assert!(
                    close,
                    "{mode:?} {name}: {} {}",
                    metrics[name], expected[name]
                );
            }
        }
    }
}

#[test]
fn an_update_that_is_not_finite_is_refused_and_changes_nothing() {
    let model = qwen2(Kind::Float);
    let mut batch = rollouts(&model, objective(), 5);
    batch.sequences[1].advantage = f32::MAX;
    batch.sequences[3].advantage = f32::MAX;
    let before = snapshot(&model);
    let error = trainer(&model, 1e-3)
        .train(&model, None, &batch, &mut |_, _| {})
        .unwrap_err();
    assert!(
        matches!(error, LearnError::NonFinite { step: 5, .. })
            && error
                .to_string()
                .contains("the update (learning_rate = 0.001) was not applied"),
        "{error}"
    );
    assert_same_bits(&snapshot(&model), &before);
}
