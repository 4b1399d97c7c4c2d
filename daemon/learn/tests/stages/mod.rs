//! A few steps of each kind of stage, as one rank trains them.
#![allow(dead_code, reason = "each test binary uses its part")]

use crate::tiny::*;
use r1d_learn::gang::Gang;
use r1d_learn::{Critic, Trainer};
use r1d_model::{CausalLm, SequenceClassifier};
use r1d_proto::hyperparameters::{
    self, DpoLossType, DpoObjective, GradientCheckpointing, ImportanceSamplingCorrection,
    ImportanceSamplingMode, Objective, PpoObjective, RouterTraining,
};
use r1d_proto::worker::{
    Metrics, RewardBatch, Supervise, SupervisedSequence, Train, TrainDpo, TrainPpo, TrainReward,
};
use tch::{Kind, Tensor};

/// Tokens of a micro-batch: some leaves need two.
pub(crate) const BUDGET: u32 = 30;
/// Every update changes the routers' biases, and has balance losses.
pub(crate) const BALANCED: RouterTraining = RouterTraining {
    bias_update_speed: 1e-3,
    aux_loss_alpha: 0.01,
    device_loss_alpha: 0.02,
};

/// What a rank ends with.
pub(crate) struct Outcome {
    pub(crate) weights: Vec<(String, Tensor)>,
    pub(crate) metrics: Vec<Metrics>,
    pub(crate) state: Vec<(String, Tensor)>,
}

/// A few steps of a kind of stage, by one rank.
pub(crate) type Stage = fn(Option<Gang>, &hyperparameters::Optimiser) -> Outcome;

pub(crate) const STAGES: [(&str, Stage); 7] = [
    ("sft", sft),
    ("sft of experts", sft_of_experts),
    ("grpo", grpo),
    ("grpo of experts", grpo_of_experts),
    ("dpo", dpo),
    ("reward model", reward),
    ("ppo", ppo),
];

/// Kinds of stage whose models have experts.
pub(crate) const EXPERT_STAGES: [(&str, Stage); 5] = [
    ("sft of experts", sft_of_experts),
    ("grpo of experts", grpo_of_experts),
    ("dpo of experts", dpo_of_experts),
    ("reward model", reward),
    ("ppo of experts", ppo_of_experts),
];

pub(crate) fn trainer(
    model: &CausalLm,
    settings: &hyperparameters::Optimiser,
    gang: Option<Gang>,
) -> Trainer {
    Trainer::in_gang(model, settings, BALANCED, BUDGET, false, gang).unwrap()
}

pub(crate) fn outcome(model: &CausalLm, trainer: &Trainer, metrics: Vec<Metrics>) -> Outcome {
    let state = trainer.state().into_iter();
    Outcome {
        weights: snapshot(model),
        metrics,
        state: state.map(|(name, own)| (name, own.copy())).collect(),
    }
}

/// Texts of the step, fewer than leaves in the last step. One has no trained id.
pub(crate) fn texts(step: u64) -> Supervise {
    let lengths = [12, 5, 20, 9, 3, 31, 2, 7, 16, 4, 8];
    let mut sequences = text(7 + step, &lengths[..11 - 4 * step as usize]);
    sequences.push(SupervisedSequence {
        ids: ids(99, 6),
        trained: vec![false; 6],
    });
    Supervise { step, sequences }
}

pub(crate) fn sft(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let model = qwen2(Kind::Float);
    let mut trainer = trainer(&model, settings, gang);
    let metrics = (0..3).map(|step| trainer.supervise(&model, &texts(step)).unwrap());
    let metrics = metrics.collect();
    outcome(&model, &trainer, metrics)
}

/// With multi-token prediction, a block at a time.
pub(crate) fn sft_of_experts(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let model = deepseek_v3_of(true, gang.as_ref());
    let mut trainer = trainer(&model, settings, gang)
        .with_prediction(0.3)
        .with_checkpointing(Some(GradientCheckpointing {
            recompute_num_layers: 2,
        }));
    let metrics = (0..2).map(|step| trainer.supervise(&model, &texts(step)).unwrap());
    let metrics = metrics.collect();
    outcome(&model, &trainer, metrics)
}

/// Several updates of a step, with a reference, corrections, and a minibatch of which nothing
/// trains.
pub(crate) fn completions(model: &CausalLm, step: u64, objective: Objective) -> Train {
    let mut batch = rollouts(model, objective, step);
    for (i, sequence) in batch.sequences.iter_mut().enumerate() {
        sequence.truncated = i > 2;
        // A sampler that rounds otherwise.
        for (at, logp) in sequence.behaviour_logprobs.iter_mut().enumerate() {
            *logp += 1e-3 * (at as f32 * 0.7 + i as f32).sin();
        }
    }
    batch.first_update *= 8;
    batch
}

pub(crate) fn grpo_of(
    model: &CausalLm,
    sampled_by: &CausalLm,
    gang: Option<Gang>,
    settings: &hyperparameters::Optimiser,
    objective: Objective,
) -> Outcome {
    let reference = model.deep_copy().unwrap();
    let mut trainer = trainer(model, settings, gang);
    let metrics = (0..2).map(|step| {
        let batch = completions(sampled_by, step, objective.clone());
        let mut done = 0;
        let mut progress = |now, _| done = now;
        trainer
            .train(model, Some(&reference), &batch, &mut progress)
            .unwrap()
    });
    let metrics = metrics.collect();
    outcome(model, &trainer, metrics)
}

pub(crate) fn grpo(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let objective = Objective {
        beta: 0.04,
        num_iterations: 2,
        num_minibatches: 4,
        mask_truncated_completions: true,
        importance_sampling_correction: Some(ImportanceSamplingCorrection {
            mode: ImportanceSamplingMode::TokenTruncate,
            clip_min: 0.0,
            clip_max: 1.0005,
        }),
        ..objective()
    };
    let sampled_by = qwen2(Kind::Float);
    grpo_of(&qwen2(Kind::Float), &sampled_by, gang, settings, objective)
}

/// One update of a step, without balance losses' help: advantages of 0 are left out.
pub(crate) fn grpo_of_experts(
    gang: Option<Gang>,
    settings: &hyperparameters::Optimiser,
) -> Outcome {
    let model = deepseek_v3_of(false, gang.as_ref());
    grpo_of(&model, &deepseek_v3(), gang, settings, objective())
}

pub(crate) fn dpo(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    dpo_of(&qwen2(Kind::Float), gang, settings)
}

pub(crate) fn dpo_of_experts(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let model = deepseek_v3_of(false, gang.as_ref());
    dpo_of(&model, gang, settings)
}

fn dpo_of(model: &CausalLm, gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let reference = model.deep_copy().unwrap();
    let mut trainer = trainer(model, settings, gang);
    let metrics = (0..2).map(|step| {
        let batch = TrainDpo {
            step,
            objective: DpoObjective {
                loss_type: DpoLossType::Sigmoid,
                beta: 0.3,
                label_smoothing: 0.1,
            },
            pairs: pairs(step),
        };
        trainer.train_dpo(model, &reference, &batch).unwrap()
    });
    let metrics = metrics.collect();
    outcome(model, &trainer, metrics)
}

pub(crate) fn reward(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let scorer = deepseek_v3_scorer_of(gang.as_ref());
    let mut trainer = trainer(scorer.model(), settings, gang);
    let metrics = (0..2).map(|step| {
        let batch = RewardBatch::Pairs {
            pairs: pairs(step),
            center_rewards_coefficient: 0.01,
        };
        let batch = TrainReward { step, batch };
        trainer.train_reward(&scorer, &batch).unwrap()
    });
    let metrics = metrics.collect();
    outcome(scorer.model(), &trainer, metrics)
}

pub(crate) fn ppo(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let models = (qwen2(Kind::Float), qwen2_scorer(Kind::Float));
    ppo_of(models, &qwen2(Kind::Float), gang, settings)
}

pub(crate) fn ppo_of_experts(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let gang_of = gang.as_ref();
    let models = (
        deepseek_v3_of(false, gang_of),
        deepseek_v3_scorer_of(gang_of),
    );
    ppo_of(models, &deepseek_v3(), gang, settings)
}

/// Policy and value model, whose trainers share the process groups.
fn ppo_of(
    (model, scorer): (CausalLm, SequenceClassifier),
    sampled_by: &CausalLm,
    gang: Option<Gang>,
    settings: &hyperparameters::Optimiser,
) -> Outcome {
    let reference = model.deep_copy().unwrap();
    let mut policy = trainer(&model, settings, gang.clone());
    let mut value = trainer(scorer.model(), settings, gang);
    let sequences = rollouts(sampled_by, objective(), 1).sequences;
    let batch = TrainPpo {
        step: 0,
        first_update: 0,
        objective: PpoObjective {
            num_ppo_epochs: 2,
            num_mini_batches: 2,
            cliprange: 0.2,
            cliprange_value: 0.2,
            vf_coef: 0.5,
            gamma: 0.98,
            lam: 0.9,
            kl_coef: 0.1,
            temperature: 1.0,
            routing_replay: false,
            routing_replay_reference: false,
        },
        seed: 11,
        scores: (0..sequences.len())
            .map(|i| (i as f32 * 1.7).sin())
            .collect(),
        sequences,
    };
    let mut critic = Critic {
        model: &scorer,
        trainer: &mut value,
    };
    let metrics = policy
        .train_ppo(
            &model,
            &mut critic,
            Some(&reference),
            &batch,
            &mut |_, _| {},
        )
        .unwrap();
    let mut found = outcome(&model, &policy, vec![metrics]);
    found.weights.extend(snapshot(scorer.model()));
    found
}

pub(crate) fn assert_same(a: &Outcome, b: &Outcome, what: &str) {
    assert_eq!(a.weights.len(), b.weights.len());
    for ((name, x), (_, y)) in a.weights.iter().zip(&b.weights) {
        assert!(x.equal(y), "{what}: {name} differs");
    }
    assert_eq!(a.metrics, b.metrics, "{what}");
}

/// The norm of the difference of two lists of tensors over that of the second.
pub(crate) fn relative(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let square = |x: &Tensor| f64::try_from(x.to_kind(Kind::Double).square().sum(Kind::Double));
    let (mut difference, mut size) = (0.0, 0.0);
    for ((name, x), (other, y)) in a.iter().zip(b) {
        assert_eq!(name, other);
        difference += square(&(x - y)).unwrap();
        size += square(y).unwrap();
    }
    (difference / size).sqrt()
}

/// The metrics that differ by more than rounding.
pub(crate) fn unlike(ours: &Metrics, theirs: &Metrics, what: &str) -> Vec<String> {
    assert!(ours.keys().eq(theirs.keys()), "{what}");
    let far = theirs.iter().filter(|(name, value)| {
        // Losses near 0 are sums of much larger terms; others are differences of such sums.
        let least = if *name == "loss" { 0.1 } else { 1.0 };
        let size = value.abs().max(least);
        (ours[*name] - *value).abs() > 1e-6 * size
    });
    far.map(|(name, value)| format!("{what}: {name} is {}, not {value}", ours[name]))
        .collect()
}
