//! PPO of a tiny policy with a tiny value model.

mod tiny;

use r1d_learn::estimate::{Estimate, estimate, whiten};
use r1d_learn::{Critic, LearnError, Trainer};
use r1d_model::{CausalLm, Forward, SequenceClassifier};
use r1d_proto::hyperparameters::{Optimiser, PpoObjective, RouterTraining};
use r1d_proto::worker::{Metrics, TrainPpo};
use tch::{Kind, Tensor};
use tiny::*;

const SETTINGS: PpoObjective = PpoObjective {
    num_ppo_epochs: 1,
    num_mini_batches: 1,
    cliprange: 0.2,
    cliprange_value: 0.2,
    vf_coef: 0.5,
    gamma: 0.98,
    lam: 0.9,
    kl_coef: 0.1,
    temperature: 1.0,
    routing_replay: false,
    routing_replay_reference: false,
};

/// Policy, reference and value model.
struct Models {
    policy: CausalLm,
    reference: CausalLm,
    value: SequenceClassifier,
}

impl Models {
    fn qwen2() -> Models {
        Models::of(qwen2(Kind::Float), qwen2_scorer(Kind::Float))
    }

    fn deepseek_v3() -> Models {
        Models::of(deepseek_v3(), deepseek_v3_scorer())
    }

    /// Makes a reference that differs slightly from the policy.
    fn of(policy: CausalLm, value: SequenceClassifier) -> Models {
        let reference = policy.deep_copy().unwrap();
        for (index, (_, weight)) in reference.parameters().into_iter().enumerate() {
            let _ = tch::no_grad(|| {
                weight
                    .shallow_clone()
                    .g_mul_(&Tensor::from(1.0 + 0.03 * (index % 5) as f64))
            });
        }
        Models {
            policy,
            reference,
            value,
        }
    }
}

struct Trainers {
    policy: Trainer,
    value: Trainer,
}

impl Trainers {
    fn new(models: &Models, settings: &Optimiser, router: RouterTraining, budget: u32) -> Trainers {
        let of = |model: &CausalLm| Trainer::new(model, settings, router, budget, false).unwrap();
        Trainers {
            policy: of(&models.policy),
            value: of(models.value.model()),
        }
    }

    fn train(&mut self, models: &Models, batch: &TrainPpo) -> Result<Metrics, LearnError> {
        let mut critic = Critic {
            model: &models.value,
            trainer: &mut self.value,
        };
        self.policy.train_ppo(
            &models.policy,
            &mut critic,
            Some(&models.reference),
            batch,
            &mut |_, _| {},
        )
    }
}

fn unclipped() -> Optimiser {
    Optimiser {
        max_grad_norm: 0.0,
        ..optimiser(1e-4)
    }
}

fn batch(models: &Models, step: u64, objective: PpoObjective) -> TrainPpo {
    let sequences = rollouts(&models.policy, tiny::objective(), step).sequences;
    let scores = (0..sequences.len())
        .map(|i| (i as f32 * 1.7).sin())
        .collect();
    let updates = u64::from(objective.num_ppo_epochs * objective.num_mini_batches);
    TrainPpo {
        step,
        first_update: step * updates,
        objective,
        seed: 11,
        sequences,
        scores,
    }
}

/// The values of the texts before each completion token, with gradients.
fn values(scorer: &SequenceClassifier, prompt: &[u32], completion: &[u32]) -> Tensor {
    let all = [prompt, completion].concat();
    let rows = hidden(scorer.model(), &all[..all.len() - 1]).narrow(
        0,
        prompt.len() as i64 - 1,
        completion.len() as i64,
    );
    scorer.values(&rows, &Forward::default()).unwrap()
}

fn host(tensor: &Tensor) -> Vec<f32> {
    Vec::try_from(tensor.detach()).unwrap()
}

/// Checks one update, a sequence at a time: before it ratio and clips have no effect, so the
/// policy's gradient is that of −mean(A · logπ) and the value model's that of vf_coef · ½ mean (V −
/// R)².
#[test]
fn gradients_and_metrics_are_the_equations() {
    for make in [Models::qwen2 as fn() -> Models, Models::deepseek_v3] {
        let plain = make();
        let batch = batch(&plain, 0, SETTINGS);
        plain.policy.set_requires_grad(true);
        plain.value.model().set_requires_grad(true);
        let lists = batch
            .sequences
            .iter()
            .map(|s| (&s.prompt_ids[..], &s.completion_ids[..]));
        let logp: Vec<Tensor> = lists
            .clone()
            .map(|(prompt, own)| completion_logprobs(&plain.policy, prompt, own))
            .collect();
        let reference: Vec<Tensor> = lists
            .clone()
            .map(|(prompt, own)| completion_logprobs(&plain.reference, prompt, own))
            .collect();
        let value: Vec<Tensor> = lists
            .map(|(prompt, own)| values(&plain.value, prompt, own))
            .collect();
        let mut estimates: Vec<Estimate> = (0..logp.len())
            .map(|i| {
                estimate(
                    &SETTINGS,
                    &host(&logp[i]),
                    &host(&reference[i]),
                    &host(&value[i]),
                    batch.scores[i],
                )
            })
            .collect();
        let kl: f64 = estimates.iter().map(|estimate| estimate.kl).sum::<f64>() / logp.len() as f64;
        let returns: Vec<f32> = estimates
            .iter()
            .flat_map(|e| e.returns.iter().map(|&r| r as f32))
            .collect();
        whiten(&mut estimates);
        let advantages: Vec<f32> = estimates
            .iter()
            .flat_map(|e| e.advantages.iter().map(|&a| a as f32))
            .collect();
        let policy_loss =
            -(Tensor::cat(&logp, 0) * Tensor::from_slice(&advantages)).mean(None::<Kind>);
        let value_loss = (Tensor::cat(&value, 0) - Tensor::from_slice(&returns))
            .square()
            .mean(None::<Kind>)
            * 0.5;
        let of_policy = plain_gradients(&plain.policy, &policy_loss);
        let of_value = plain_gradients(plain.value.model(), &(&value_loss * SETTINGS.vf_coef));

        for budget in [1, 30, 4096] {
            let models = make();
            let mut trainers = Trainers::new(&models, &unclipped(), NO_ROUTER_TRAINING, budget);
            let metrics = trainers.train(&models, &batch).unwrap();
            assert_close_gradients(&first_gradients(&trainers.policy), &of_policy, 1e-4);
            assert_close_gradients(&first_gradients(&trainers.value), &of_value, 1e-4);
            let mean_score =
                batch.scores.iter().map(|&s| f64::from(s)).sum::<f64>() / batch.scores.len() as f64;
            let value_loss = value_loss.double_value(&[]);
            let expected = [
                ("objective/kl", kl),
                ("objective/non_score_reward", -SETTINGS.kl_coef * kl),
                ("objective/scores", mean_score),
                ("objective/rlhf_reward", mean_score - SETTINGS.kl_coef * kl),
                // Whitened advantages have mean 0, and the ratio is 1.
                ("loss/policy_avg", 0.0),
                ("loss/value_avg", value_loss),
                ("loss", SETTINGS.vf_coef * value_loss),
                ("policy/clipfrac_avg", 0.0),
                ("val/clipfrac_avg", 0.0),
            ];
            for (name, value) in expected {
                assert!(
                    (metrics[name] - value).abs() < 2e-5,
                    "{name} {} {value}",
                    metrics[name]
                );
            }
            assert!(
                metrics["sampling/sampling_logp_difference/max"] < 1e-5
                    && metrics["policy/entropy_avg"] > 2.0,
                "{metrics:?}"
            );
        }
    }
}

#[test]
fn packing_changes_nothing_but_rounding() {
    let run = |budget: u32| {
        let models = Models::deepseek_v3();
        let router = RouterTraining {
            bias_update_speed: 0.0,
            aux_loss_alpha: 0.01,
            device_loss_alpha: 0.0,
        };
        let settings = PpoObjective {
            num_ppo_epochs: 2,
            num_mini_batches: 2,
            cliprange: 0.01,
            cliprange_value: 0.01,
            ..SETTINGS
        };
        let batch = batch(&models, 0, settings);
        Trainers::new(&models, &optimiser(2e-4), router, budget)
            .train(&models, &batch)
            .unwrap()
    };
    let (whole, cut) = (run(4096), run(20));
    assert!(
        whole["policy/clipfrac_avg"] > 0.0 && whole["val/clipfrac_avg"] > 0.0,
        "{whole:?}"
    );
    for (name, value) in &whole {
        let loose = ["clip", "moe"].iter().any(|part| name.contains(part));
        let tolerance = if loose {
            0.2
        } else {
            2e-3 * value.abs() + 1e-5
        };
        assert!(
            (cut[name] - value).abs() <= tolerance,
            "{name}: {} {value}",
            cut[name]
        );
    }
}

/// The scores belong to the completions, which do not change: the value model can memorise them,
/// and completions with high scores become likelier.
#[test]
fn policy_and_value_model_learn() {
    for models in [Models::qwen2(), Models::deepseek_v3()] {
        let settings = PpoObjective {
            kl_coef: 0.0,
            gamma: 1.0,
            lam: 1.0,
            num_ppo_epochs: 2,
            cliprange_value: 10.0,
            ..SETTINGS
        };
        let fixed = batch(&models, 0, settings);
        let likelihood = || {
            let of = |(sequence, score): (&r1d_proto::worker::TrainSequence, &f32)| {
                f64::from(*score)
                    * logprobs(&models.policy, sequence, 1.0)
                        .iter()
                        .map(|&l| f64::from(l))
                        .sum::<f64>()
            };
            fixed
                .sequences
                .iter()
                .zip(&fixed.scores)
                .map(of)
                .sum::<f64>()
        };
        let before = likelihood();
        let mut trainers = Trainers::new(&models, &optimiser(3e-3), NO_ROUTER_TRAINING, 64);
        let first = trainers.train(&models, &fixed).unwrap();
        assert!(likelihood() > before + 1e-3, "{} {before}", likelihood());
        let last: Metrics = (0..60)
            .map(|_| trainers.train(&models, &fixed).unwrap())
            .last()
            .unwrap();
        assert!(
            last["loss/value_avg"] < 0.2 * first["loss/value_avg"],
            "{first:?} {last:?}"
        );
        assert!(
            last["val/explained_variance"] > 0.8 && first["val/explained_variance"] < 0.3,
            "{first:?} {last:?}"
        );
        assert!(!last.contains_key("objective/kl"));
    }
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    let bfloat16 = || Models::of(qwen2(Kind::BFloat16), qwen2_scorer(Kind::BFloat16));
    for make in [
        Models::qwen2 as fn() -> Models,
        bfloat16,
        Models::deepseek_v3,
    ] {
        let settings = PpoObjective {
            num_ppo_epochs: 2,
            num_mini_batches: 3,
            ..SETTINGS
        };
        let first = make();
        let batches: Vec<TrainPpo> = (0..3)
            .map(|step| batch(&first, step, settings.clone()))
            .collect();
        let straight = make();
        let mut trainers = Trainers::new(&straight, &optimiser(1e-3), NO_ROUTER_TRAINING, 40);
        let (mut expected, mut halfway) = (Vec::new(), None);
        for (step, batch) in batches.iter().enumerate() {
            if step == 1 {
                let copy = |trainer: &Trainer| {
                    trainer
                        .state()
                        .into_iter()
                        .map(|(name, t)| (name, t.copy()))
                        .collect::<Vec<_>>()
                };
                let models = Models {
                    policy: straight.policy.deep_copy().unwrap(),
                    reference: straight.reference.deep_copy().unwrap(),
                    value: straight.value.deep_copy().unwrap(),
                };
                halfway = Some((models, copy(&trainers.policy), copy(&trainers.value)));
            }
            expected.push(trainers.train(&straight, batch).unwrap());
        }
        let (resumed, of_policy, of_value) = halfway.unwrap();
        let mut continued = Trainers::new(&resumed, &optimiser(1e-3), NO_ROUTER_TRAINING, 40);
        restore(&mut continued.policy, &of_policy);
        restore(&mut continued.value, &of_value);
        for step in 1..3 {
            assert_eq!(
                continued.train(&resumed, &batches[step]).unwrap(),
                expected[step]
            );
        }
        assert_same_bits(&snapshot(&resumed.policy), &snapshot(&straight.policy));
        assert_same_bits(
            &snapshot(resumed.value.model()),
            &snapshot(straight.value.model()),
        );
    }
}

#[test]
fn progress_ends_at_its_total() {
    let models = Models::qwen2();
    let mut trainers = Trainers::new(&models, &optimiser(1e-3), NO_ROUTER_TRAINING, 30);
    let mut told = Vec::new();
    let batch = batch(
        &models,
        0,
        PpoObjective {
            num_ppo_epochs: 2,
            num_mini_batches: 2,
            ..SETTINGS
        },
    );
    let mut critic = Critic {
        model: &models.value,
        trainer: &mut trainers.value,
    };
    let mut progress = |done, total| told.push((done, total));
    trainers
        .policy
        .train_ppo(
            &models.policy,
            &mut critic,
            Some(&models.reference),
            &batch,
            &mut progress,
        )
        .unwrap();
    let (done, total) = told.last().unwrap();
    assert_eq!(done, total);
    assert!(
        told.iter().all(|(_, each)| each == total)
            && told.windows(2).all(|two| two[0].0 < two[1].0)
    );
}

#[test]
fn unsound_batches_are_refused_and_change_nothing() {
    let models = Models::qwen2();
    let mut trainers = Trainers::new(&models, &optimiser(1e-3), NO_ROUTER_TRAINING, 64);
    let before = [&models.policy, models.value.model()].map(snapshot);
    let mut refusal = |change: &dyn Fn(&mut TrainPpo)| {
        let mut batch = batch(&models, 0, SETTINGS);
        change(&mut batch);
        let error = trainers.train(&models, &batch).unwrap_err();
        assert!(error.is_invalid_request(), "{error}");
        error.to_string()
    };
    assert!(refusal(&|batch| batch.scores.truncate(7)).contains("7 scores for 8 sequences"));
    assert!(
        refusal(&|batch| batch.scores[3] = f32::INFINITY)
            .starts_with("sequence 3: its score is inf")
    );
    assert!(refusal(&|batch| batch.objective.lam = 1.5).contains("lam = 1.5"));
    assert!(refusal(&|batch| batch.objective.kl_coef = -0.1).contains("kl_coef = -0.1"));
    assert!(
        refusal(&|batch| batch.objective.cliprange_value = f64::NAN)
            .contains("cliprange_value = NaN")
    );
    assert!(
        refusal(&|batch| batch.sequences[2].completion_ids.clear()).starts_with("sequence 2: ")
    );
    assert!(
        refusal(&|batch| (batch.sequences, batch.scores) = (Vec::new(), Vec::new()))
            .contains("empty")
    );
    let batch = batch(&models, 0, SETTINGS);
    let mut critic = Critic {
        model: &models.value,
        trainer: &mut trainers.value,
    };
    let error = trainers
        .policy
        .train_ppo(&models.policy, &mut critic, None, &batch, &mut |_, _| {})
        .unwrap_err();
    assert!(
        error.to_string().contains("kl_coef > 0 needs a reference"),
        "{error}"
    );
    for (model, before) in [&models.policy, models.value.model()]
        .into_iter()
        .zip(&before)
    {
        assert_same_bits(&snapshot(model), before);
    }
}
