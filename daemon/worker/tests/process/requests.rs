//! Requests for a worker: small stages of each kind, and their steps.

use r1d_proto::hyperparameters::*;
use r1d_proto::rollout::Rollout;
use r1d_proto::worker::*;

const CONFIG: &str = include_str!("../../../../configs/models/tiny-deepseek-v3.json");
pub(crate) const VOCAB: u32 = 64;

pub(crate) fn config() -> String {
    let mut config: serde_json::Value = serde_json::from_str(CONFIG).unwrap();
    config["vocab_size"] = VOCAB.into();
    config.to_string()
}

pub(crate) fn open(reference: bool) -> WorkerRequest {
    WorkerRequest::Open(Box::new(Open {
        model: ModelSource::Init {
            config: config(),
            carry: None,
        },
        dtype: Dtype::Float32,
        fp8: false,
        batch_invariant: true,
        reference,
        optimiser: Some(Optimiser {
            learning_rate: 1e-3,
            lr_scheduler_type: LrSchedule::Constant,
            warmup_steps: 0,
            total_steps: 10,
            min_lr_ratio: 0.0,
            adam_beta1: 0.9,
            adam_beta2: 0.95,
            adam_epsilon: 1e-8,
            weight_decay: 0.0,
            max_grad_norm: 1.0,
            exp_avg_dtype: Dtype::Float32,
            exp_avg_sq_dtype: Dtype::Float32,
            optimizer_offload: OptimizerOffload::None,
        }),
        router: RouterTraining {
            bias_update_speed: 1e-3,
            aux_loss_alpha: 1e-4,
            device_loss_alpha: 0.0,
        },
        lora: None,
        mtp_loss_weight: 0.0,
        speculative_decoding: false,
        scores: false,
        value_model: None,
        sampler: Some(Slots::of(4, 64)),
        max_tokens_per_device: 256,
        gradient_checkpointing: None,
        seed: 3,
        place: None,
    }))
}

pub(crate) fn generate(step: u64) -> WorkerRequest {
    let groups = (0..2)
        .map(|prompt| Group {
            prompt,
            row: prompt as u64,
            prompt_ids: (5..12).map(|i| i + prompt).collect(),
            samples: vec![0, 1, 2],
        })
        .collect();
    // As a stage that trains on what it samples, with ids cut off.
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 0.9,
        top_k: 20,
        keep_sampling_mask: true,
        max_completion_length: 12,
        stop_ids: vec![1],
        seed: 9,
    };
    WorkerRequest::Generate(Generate {
        stage: 0,
        step,
        policy_version: step,
        sampling,
        record_experts: true,
        groups,
    })
}

pub(crate) fn opened(change: impl FnOnce(&mut Open)) -> WorkerRequest {
    let WorkerRequest::Open(mut request) = open(false) else {
        unreachable!()
    };
    change(&mut request);
    WorkerRequest::Open(request)
}

pub(crate) fn reward_model(request: &mut Open) {
    request.scores = true;
    request.sampler = None;
}

pub(crate) fn with_values(request: &mut Open) {
    request.reference = true;
    request.value_model = Some(ValueModel {
        model: None,
        optimiser: request.optimiser.clone().unwrap(),
    });
}

pub(crate) fn ids(seed: u64, count: u64) -> Vec<u32> {
    (0..count)
        .map(|i| 2 + (r1d_proto::world::counter_hash(&[seed, i]) % (VOCAB as u64 - 2)) as u32)
        .collect()
}

pub(crate) fn pairs(step: u64) -> Vec<Pair> {
    let pair = |i| Pair {
        prompt_ids: ids(3 * i, 4),
        chosen_ids: ids(3 * i + 1, 2 + i % 5),
        rejected_ids: ids(3 * i + 2, 1 + i % 4),
        margin: 0.0,
    };
    (10 * step..10 * step + 6).map(pair).collect()
}

/// What is trained on of rollouts, with advantages of both signs.
fn sequences(rollouts: &[Rollout]) -> Vec<TrainSequence> {
    let sequences = rollouts.iter().enumerate().map(|(i, r)| TrainSequence {
        prompt_ids: r.prompt_ids.clone(),
        completion_ids: r.completion_ids.clone(),
        behaviour_logprobs: r.behaviour_logprobs.clone(),
        experts: r.experts.clone(),
        kept_ids: r.kept_ids.clone(),
        advantage: if i % 2 == 0 { 1.0 } else { -1.0 },
        truncated: false,
    });
    sequences.collect()
}

pub(crate) fn train(step: u64, rollouts: &[Rollout]) -> WorkerRequest {
    let objective = Objective {
        loss_type: LossType::Grpo,
        importance_sampling_level: ImportanceSamplingLevel::Token,
        epsilon: 0.2,
        epsilon_high: 0.2,
        beta: 0.01,
        use_bias_correction_kl: false,
        off_policy_mask_threshold: None,
        importance_sampling_correction: None,
        num_iterations: 1,
        num_minibatches: 1,
        mask_truncated_completions: false,
        max_completion_length: 12,
        temperature: 1.0,
        routing_replay: true,
        routing_replay_reference: false,
    };
    WorkerRequest::Train(Train {
        step,
        first_update: step,
        objective,
        seed: 1,
        sequences: sequences(rollouts),
    })
}

pub(crate) fn ppo_objective() -> PpoObjective {
    PpoObjective {
        num_ppo_epochs: 2,
        num_mini_batches: 2,
        cliprange: 0.2,
        cliprange_value: 0.2,
        vf_coef: 0.1,
        gamma: 1.0,
        lam: 0.95,
        kl_coef: 0.05,
        temperature: 1.0,
        routing_replay: true,
        routing_replay_reference: false,
    }
}

pub(crate) fn train_ppo(step: u64, rollouts: &[Rollout]) -> WorkerRequest {
    let scores = (0..rollouts.len()).map(|i| (i % 3) as f32 - 1.0).collect();
    WorkerRequest::TrainPpo(TrainPpo {
        step,
        first_update: 4 * step,
        objective: ppo_objective(),
        seed: 5,
        sequences: sequences(rollouts),
        scores,
    })
}

pub(crate) fn train_reward(step: u64) -> WorkerRequest {
    let batch = match step % 2 {
        0 => RewardBatch::Pairs {
            pairs: pairs(step),
            center_rewards_coefficient: 0.01,
        },
        _ => RewardBatch::Labelled(
            (0..5)
                .map(|i| Labelled {
                    ids: ids(100 * step + i, 3 + i),
                    label: (i % 2) as f32,
                })
                .collect(),
        ),
    };
    WorkerRequest::TrainReward(TrainReward { step, batch })
}
