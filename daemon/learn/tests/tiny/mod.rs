//! Models of a few thousand parameters, and batches for them.
#![allow(dead_code, reason = "each test binary uses its part")]

use r1d_learn::head::Head;
use r1d_learn::sampling_mask::KeptRows;
use r1d_learn::{Gang, Trainer};
use r1d_model::{CausalLm, Forward, Opening, Packed, SequenceClassifier};
use r1d_proto::hyperparameters::{
    Dtype, ImportanceSamplingLevel, LossType, LrSchedule, Objective, Optimiser, OptimizerOffload,
    RouterTraining,
};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::worker::{Pair, SupervisedSequence, Train, TrainSequence};
use r1d_proto::world::counter_hash;
use tch::{Device, Kind, Tensor};

pub(crate) const VOCAB: u32 = 48;

const QWEN2: &str = r#"{
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "initializer_range": 0.1, "use_sliding_window": false
}"#;

const DEEPSEEK_V3: &str = r#"{
    "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3", "vocab_size": 48, "hidden_size": 32, "intermediate_size": 48,
    "moe_intermediate_size": 16, "num_hidden_layers": 3, "first_k_dense_replace": 1, "num_attention_heads": 2, "num_key_value_heads": 2,
    "q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "n_routed_experts": 8,
    "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 4, "topk_group": 2, "norm_topk_prob": true, "routed_scaling_factor": 2.5,
    "scoring_func": "sigmoid", "topk_method": "noaux_tc", "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "attention_bias": false, "tie_word_embeddings": false, "hidden_act": "silu", "initializer_range": 0.1
}"#;

pub(crate) fn qwen2(kind: Kind) -> CausalLm {
    init(QWEN2, kind)
}

/// The Qwen2 model with its embedding as output head.
pub(crate) fn tied() -> CausalLm {
    init(
        &QWEN2.replace(
            "\"tie_word_embeddings\": false",
            "\"tie_word_embeddings\": true",
        ),
        Kind::Float,
    )
}

/// A Qwen2 model of 32 layers that are wide enough for activations to be most of its memory.
pub(crate) fn deep_qwen2() -> CausalLm {
    let wide = QWEN2
        .replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 32")
        .replace("\"hidden_size\": 32", "\"hidden_size\": 64");
    init(&wide, Kind::Float)
}

pub(crate) fn deepseek_v3() -> CausalLm {
    init(DEEPSEEK_V3, Kind::Float)
}

/// The DeepSeek-V3 model with its multi-token prediction module.
pub(crate) fn deepseek_v3_predicting() -> CausalLm {
    deepseek_v3_of(true, None)
}

/// The DeepSeek-V3 model as a rank of a gang has it, with or without its prediction module.
pub(crate) fn deepseek_v3_of(prediction: bool, gang: Option<&Gang>) -> CausalLm {
    r1d_torch::runtime::set_threads(1).unwrap();
    let config = DEEPSEEK_V3.replacen(
        "\"vocab_size\"",
        "\"num_nextn_predict_layers\": 1, \"vocab_size\"",
        prediction as usize,
    );
    let opening = Opening {
        prediction,
        expert_group: gang.and_then(Gang::expert_group),
    };
    CausalLm::init_as(&config, 1, &opening, Device::Cpu, Kind::Float).unwrap()
}

/// Reward or value models with the trunks of [`qwen2`] and [`deepseek_v3`]; id 0 is padding.
pub(crate) fn qwen2_scorer(kind: Kind) -> SequenceClassifier {
    scorer(QWEN2, kind, None)
}

pub(crate) fn deepseek_v3_scorer() -> SequenceClassifier {
    deepseek_v3_scorer_of(None)
}

/// The scorer as a rank of a gang has it.
pub(crate) fn deepseek_v3_scorer_of(gang: Option<&Gang>) -> SequenceClassifier {
    scorer(DEEPSEEK_V3, Kind::Float, gang)
}

fn scorer(config: &str, kind: Kind, gang: Option<&Gang>) -> SequenceClassifier {
    r1d_torch::runtime::set_threads(1).unwrap();
    let config = config.replacen("\"vocab_size\"", "\"pad_token_id\": 0, \"vocab_size\"", 1);
    let expert_group = gang.and_then(Gang::expert_group);
    SequenceClassifier::init(&config, 2, expert_group.as_ref(), Device::Cpu, kind).unwrap()
}

/// Pairs of various lengths, none of which ends in id 0.
pub(crate) fn pairs(seed: u64) -> Vec<Pair> {
    let text = |stream: u64, length: usize| {
        ids(1000 * seed + stream, length)
            .into_iter()
            .map(|id| id.max(1))
            .collect::<Vec<_>>()
    };
    let pair = |i: u64| Pair {
        prompt_ids: text(10 * i, 2 + i as usize % 3),
        chosen_ids: text(10 * i + 1, 1 + (i as usize * 5) % 9),
        rejected_ids: text(10 * i + 2, 1 + (i as usize * 7) % 6),
        margin: 0.1 * i as f32,
    };
    (0..6).map(pair).collect()
}

/// The gradient of a trainer's first update, which was not clipped: AdamW's first moment is (1 −
/// β₁) of it.
pub(crate) fn first_gradients(trainer: &Trainer) -> Vec<(String, Tensor)> {
    let state = trainer.state().into_iter();
    state
        .filter_map(|(name, moment)| {
            Some((name.strip_prefix("exp_avg.")?.to_owned(), moment / 0.1))
        })
        .collect()
}

/// The gradients that `loss` leaves in the model's parameters by one plain backward pass.
pub(crate) fn plain_gradients(model: &CausalLm, loss: &Tensor) -> Vec<(String, Tensor)> {
    loss.backward();
    let gradients = model
        .parameters()
        .into_iter()
        .map(|(name, parameter)| (name, parameter.grad().copy()));
    let gradients = gradients.collect();
    model
        .parameters()
        .into_iter()
        .for_each(|(_, mut parameter)| parameter.zero_grad());
    gradients
}

/// Checks each tensor's largest difference, as a share of its largest value.
pub(crate) fn assert_close_gradients(
    found: &[(String, Tensor)],
    expected: &[(String, Tensor)],
    tolerance: f64,
) {
    assert_eq!(found.len(), expected.len());
    for ((name, a), (other, b)) in found.iter().zip(expected) {
        assert_eq!(name, other);
        let most = |t: &Tensor| f64::try_from(t.abs().max().to_kind(Kind::Double)).unwrap();
        assert!(most(b) > 1e-7, "{name}: nothing reaches it");
        assert!(
            most(&(a - b)) < tolerance * most(b),
            "{name}: {} of {}",
            most(&(a - b)),
            most(b)
        );
    }
}

/// The hidden states of a text by itself, with gradients.
pub(crate) fn hidden(model: &CausalLm, ids: &[u32]) -> Tensor {
    let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
    let packed = Packed::new(Tensor::from_slice(&ids), vec![ids.len() as i64]);
    model.forward(&packed, &Forward::default()).unwrap().hidden
}

/// Log-probabilities of a completion by itself, with gradients.
pub(crate) fn completion_logprobs(model: &CausalLm, prompt: &[u32], completion: &[u32]) -> Tensor {
    let all = [prompt, completion].concat();
    let rows = hidden(model, &all[..all.len() - 1]).narrow(
        0,
        prompt.len() as i64 - 1,
        completion.len() as i64,
    );
    let targets: Vec<i64> = completion.iter().map(|&id| i64::from(id)).collect();
    let logits = model.logits(&rows, &Forward::default()).unwrap();
    r1d_model::token_logprobs(&logits, &Tensor::from_slice(&targets), 1.0).unwrap()
}

fn init(config: &str, kind: Kind) -> CausalLm {
    // Tests of one binary run side by side; batch-invariant mode needs one thread besides.
    r1d_torch::runtime::set_threads(1).unwrap();
    CausalLm::init(config, 1, Device::Cpu, kind).unwrap()
}

pub(crate) fn ids(seed: u64, count: usize) -> Vec<u32> {
    (0..count as u64)
        .map(|i| (counter_hash(&[seed, i]) % VOCAB as u64) as u32)
        .collect()
}

pub(crate) fn optimiser(learning_rate: f64) -> Optimiser {
    Optimiser {
        learning_rate,
        lr_scheduler_type: LrSchedule::Constant,
        warmup_steps: 0,
        total_steps: 100,
        min_lr_ratio: 0.0,
        adam_beta1: 0.9,
        adam_beta2: 0.95,
        adam_epsilon: 1e-8,
        weight_decay: 0.01,
        max_grad_norm: 1.0,
        exp_avg_dtype: Dtype::Float32,
        exp_avg_sq_dtype: Dtype::Float32,
        optimizer_offload: OptimizerOffload::None,
    }
}

pub(crate) const NO_ROUTER_TRAINING: RouterTraining = RouterTraining {
    bias_update_speed: 0.0,
    aux_loss_alpha: 0.0,
    device_loss_alpha: 0.0,
};

pub(crate) fn objective() -> Objective {
    Objective {
        loss_type: LossType::Grpo,
        importance_sampling_level: ImportanceSamplingLevel::Token,
        epsilon: 0.2,
        epsilon_high: 0.2,
        beta: 0.0,
        use_bias_correction_kl: false,
        off_policy_mask_threshold: None,
        importance_sampling_correction: None,
        num_iterations: 1,
        num_minibatches: 1,
        mask_truncated_completions: false,
        max_completion_length: 16,
        temperature: 1.0,
        routing_replay: false,
        routing_replay_reference: false,
    }
}

/// Completions of various lengths with alternating advantages; behaviour log-probabilities are the
/// model's own.
pub(crate) fn rollouts(model: &CausalLm, objective: Objective, step: u64) -> Train {
    let mut sequences: Vec<TrainSequence> = (0..8u64)
        .map(|i| TrainSequence {
            prompt_ids: ids(100 * step + i / 4, 3 + (i / 4) as usize),
            completion_ids: ids(100 * step + 50 + i, 2 + (i as usize * 5) % 11),
            behaviour_logprobs: Vec::new(),
            experts: Vec::new(),
            kept_ids: Default::default(),
            advantage: if i % 2 == 0 {
                1.0 + i as f32 / 10.0
            } else {
                -0.8
            },
            truncated: i % 4 == 3,
        })
        .collect();
    for sequence in &mut sequences {
        sequence.behaviour_logprobs = logprobs(model, sequence, objective.temperature as f64);
    }
    Train {
        step,
        first_update: step,
        objective,
        seed: 11,
        sequences,
    }
}

/// Gives each completion id a set that contains it: the first ids of two sequences get the whole
/// vocabulary, and so do all ids of every fourth sequence.
pub(crate) fn with_kept_ids(mut batch: Train) -> Train {
    for (i, sequence) in batch
        .sequences
        .iter_mut()
        .enumerate()
        .filter(|(i, _)| i % 4 != 1)
    {
        let mut kept = SamplingMask::default();
        for (place, &id) in sequence.completion_ids.iter().enumerate() {
            let drawn = |other: u32| {
                counter_hash(&[i as u64, place as u64, other.into()]).is_multiple_of(3)
            };
            let word = (0..VOCAB)
                .filter(|&other| other == id || drawn(other) || (i < 2 && place == 0))
                .map(|other| 1u64 << other)
                .sum();
            assert!(kept.push(&[word], VOCAB));
        }
        sequence.kept_ids = kept.or_none();
    }
    batch
}

/// Log-probability of each completion id over its kept ids, each sequence on its own.
pub(crate) fn logprobs(model: &CausalLm, sequence: &TrainSequence, temperature: f64) -> Vec<f32> {
    single(model, sequence, temperature, false)
}

fn single(
    model: &CausalLm,
    sequence: &TrainSequence,
    temperature: f64,
    invariant: bool,
) -> Vec<f32> {
    let all: Vec<i64> = sequence
        .prompt_ids
        .iter()
        .chain(&sequence.completion_ids)
        .map(|&id| id as i64)
        .collect();
    let (prompt, completion) = (
        sequence.prompt_ids.len() as i64,
        sequence.completion_ids.len() as i64,
    );
    let packed = Packed::new(
        Tensor::from_slice(&all[..all.len() - 1]),
        vec![all.len() as i64 - 1],
    );
    let hidden = tch::no_grad(|| {
        model
            .forward(
                &packed,
                &Forward {
                    invariant,
                    ..Forward::default()
                },
            )
            .unwrap()
    })
    .hidden;
    let hidden = hidden.narrow(0, prompt - 1, completion);
    let targets = Tensor::from_slice(&all[prompt as usize..]);
    let mut kept = KeptRows::default();
    kept.add(&sequence.kept_ids, sequence.completion_ids.len());
    let kept = kept.or_none();
    let head = Head::new(model, temperature, invariant).keeping(kept.as_ref());
    Vec::try_from(head.logprobs(&hidden, &targets).unwrap()).unwrap()
}

pub(crate) fn text(seed: u64, lengths: &[usize]) -> Vec<SupervisedSequence> {
    let of = |(i, &length): (usize, &usize)| SupervisedSequence {
        ids: ids(1000 * seed + i as u64, length),
        trained: (0..length).map(|t| t >= length / 3).collect(),
    };
    lengths.iter().enumerate().map(of).collect()
}

pub(crate) fn snapshot(model: &CausalLm) -> Vec<(String, Tensor)> {
    model
        .parameters()
        .into_iter()
        .chain(model.buffers())
        .map(|(name, tensor)| (name, tensor.detach().copy()))
        .collect()
}

/// Largest difference of any weight.
pub(crate) fn distance(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let of = |(x, y): (&Tensor, &Tensor)| {
        f64::try_from((x - y).abs().max().to_kind(Kind::Double)).unwrap()
    };
    a.iter()
        .zip(b)
        .map(|((_, x), (_, y))| of((x, y)))
        .fold(0.0, f64::max)
}

pub(crate) fn assert_same_bits(a: &[(String, Tensor)], b: &[(String, Tensor)]) {
    assert_eq!(a.len(), b.len());
    for ((name, x), (other, y)) in a.iter().zip(b) {
        assert_eq!(name, other);
        assert!(x.equal(y), "{name} differs");
    }
}

/// Computes [`logprobs`] at temperature 1 through the batch-invariant forward pass.
pub(crate) fn invariant_logprobs(model: &CausalLm, sequence: &TrainSequence) -> Vec<f32> {
    single(model, sequence, 1.0, true)
}

/// Restores the state through a file, as a worker does.
pub(crate) fn restore(trainer: &mut Trainer, state: &[(String, Tensor)]) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("trainer.safetensors");
    r1d_model::checkpoint::save_tensors(&file, state).unwrap();
    trainer.restore(&file).unwrap();
}
