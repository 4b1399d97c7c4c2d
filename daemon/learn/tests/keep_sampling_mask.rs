//! Tests distributions over the ids that sampling left: against goldens of torch and TRL
//! (`tests/golden_trl/make_mask.py`), and through whole updates.

mod tiny;

use r1d_learn::head::{Chunk, Head, entropy_sum};
use r1d_learn::objective::{Sequences, Share, Tokens, is_whole, policy_loss, token_weight};
use r1d_learn::sampling_mask::KeptRows;
use r1d_learn::{Critic, Trainer};
use r1d_model::{CausalLm, Forward};
use r1d_proto::hyperparameters::{
    ImportanceSamplingLevel, LossType, Objective, Optimiser, PpoObjective,
};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::worker::{Metrics, TrainPpo, TrainSequence};
use serde::Deserialize;
use tch::{Device, Kind, Tensor};
use tiny::*;

#[derive(Deserialize)]
struct Goldens {
    vocab_size: i64,
    hidden_size: i64,
    temperature: f64,
    never: Vec<i64>,
    epsilon: [f64; 2],
    max_completion_length: u32,
    advantages: Vec<f32>,
    completion_ids: Vec<Vec<u32>>,
    kept_ids: Vec<Vec<u32>>,
    head: Vec<f32>,
    hidden: Vec<f32>,
    old_hidden: Vec<f32>,
    reference_hidden: Vec<f32>,
    logp: Vec<f64>,
    old: Vec<f64>,
    reference: Vec<f64>,
    entropy: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    loss_type: LossType,
    importance_sampling_level: ImportanceSamplingLevel,
    beta: f64,
    use_bias_correction_kl: bool,
    off_policy_mask_threshold: Option<f64>,
    on_policy: bool,
    loss: f64,
    hidden_gradient: Vec<f64>,
    head_gradient: Vec<f64>,
}

impl Goldens {
    fn read() -> Goldens {
        serde_json::from_str(include_str!("../../../tests/golden_trl/mask.json")).unwrap()
    }

    /// A model with the goldens' output head; its other weights have no effect.
    fn model(&self) -> (CausalLm, Tensor) {
        let config = format!(
            r#"{{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": {}, "hidden_size": {}, "intermediate_size": 8,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0, "tie_word_embeddings": false, "hidden_act": "silu", "initializer_range": 0.1, "use_sliding_window": false}}"#,
            self.vocab_size, self.hidden_size
        );
        r1d_torch::runtime::set_threads(1).unwrap();
        let model = CausalLm::init(&config, 1, Device::Cpu, Kind::Float).unwrap();
        model.set_requires_grad(true);
        let (_, mut head) = model
            .parameters()
            .into_iter()
            .find(|(name, _)| name == "lm_head.weight")
            .unwrap();
        tch::no_grad(|| {
            head.copy_(&Tensor::from_slice(&self.head).view([self.vocab_size, self.hidden_size]))
        });
        (model, head)
    }

    fn states(&self, flat: &[f32]) -> Tensor {
        Tensor::from_slice(flat).view([-1, self.hidden_size])
    }

    fn kept(&self) -> KeptRows {
        let mut rows = KeptRows::default();
        for (numbers, ids) in self.kept_ids.iter().zip(&self.completion_ids) {
            let kept = SamplingMask::from_numbers(numbers.clone());
            kept.check(ids, self.vocab_size as u64).unwrap();
            rows.add(&kept, ids.len());
        }
        rows
    }

    fn targets(&self) -> Tensor {
        let flat: Vec<i64> = self
            .completion_ids
            .iter()
            .flatten()
            .map(|id| i64::from(*id))
            .collect();
        Tensor::from_slice(&flat)
    }

    fn objective(&self, case: &Case) -> Objective {
        Objective {
            loss_type: case.loss_type,
            importance_sampling_level: case.importance_sampling_level,
            epsilon: self.epsilon[0],
            epsilon_high: self.epsilon[1],
            beta: case.beta,
            use_bias_correction_kl: case.use_bias_correction_kl,
            off_policy_mask_threshold: case.off_policy_mask_threshold,
            importance_sampling_correction: None,
            max_completion_length: self.max_completion_length,
            temperature: self.temperature as f32,
            ..objective()
        }
    }
}

fn floats(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_kind(Kind::Double)
        .contiguous()
        .view([-1])
        .try_into()
        .unwrap()
}

#[track_caller]
fn assert_near(found: &[f64], expected: &[f64], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (a, b) in found.iter().zip(expected) {
        assert!((a - b).abs() <= tolerance, "{what}: {a}, expected {b}");
    }
}

#[test]
fn log_probabilities_loss_entropy_and_gradients_are_the_goldens() {
    let goldens = Goldens::read();
    let (kept, targets) = (goldens.kept(), goldens.targets());
    assert!(goldens.cases.len() >= 5);
    for (number, case) in goldens.cases.iter().enumerate() {
        let objective = goldens.objective(case);
        let whole = is_whole(&objective);
        for chunk in [1000, 7, 1] {
            let what = format!("case {number}, chunks of {chunk}");
            let (model, head_weight) = goldens.model();
            let head = || {
                Head::new(&model, goldens.temperature, false)
                    .keeping(Some(&kept))
                    .in_chunks(chunk)
            };
            let old = head()
                .logprobs(&goldens.states(&goldens.old_hidden), &targets)
                .unwrap();
            let reference = head()
                .logprobs(&goldens.states(&goldens.reference_hidden), &targets)
                .unwrap();
            assert_near(&floats(&old), &goldens.old, 1e-5, &what);
            assert_near(&floats(&reference), &goldens.reference, 1e-5, &what);

            let lengths: Vec<usize> = goldens.completion_ids.iter().map(Vec::len).collect();
            let share = Share {
                sequences: lengths.len() as f64,
                tokens: lengths.iter().sum::<usize>() as f64,
            };
            let each = |of: &dyn Fn(usize) -> f32| {
                let flat = lengths
                    .iter()
                    .enumerate()
                    .flat_map(|(i, length)| std::iter::repeat_n(of(i), *length));
                Tensor::from_slice(&flat.collect::<Vec<f32>>())
            };
            let tokens = Tokens {
                advantage: each(&|i| goldens.advantages[i]),
                weight: each(&|i| token_weight(&objective, lengths[i], share) as f32),
                sampled: case.off_policy_mask_threshold.map(|_| old.shallow_clone()),
                old: (!case.on_policy).then_some(old),
                reference: (case.beta != 0.0).then_some(reference),
                sequences: whole.then(|| Sequences::of(&lengths, Device::Cpu).unwrap()),
            };
            let hidden = goldens.states(&goldens.hidden).set_requires_grad(true);
            let (mut sum, mut entropy, mut seen) = (0.0, 0.0, Vec::new());
            let mut loss = |logp: &Tensor, start: i64| {
                let n = logp.size1()?;
                let part = if n == targets.size1()? {
                    policy_loss(&objective, logp, &tokens)
                } else {
                    policy_loss(&objective, logp, &tokens.narrow(start, n))
                };
                sum += part.sums.double_value(&[0]);
                Ok(part.loss)
            };
            let mut observe = |part: Chunk| {
                let own = targets.narrow(0, part.start, part.logp.size1()?);
                entropy += entropy_sum(&part, &own, goldens.temperature)?.double_value(&[]);
                seen.extend(floats(part.logp));
                Ok(())
            };
            head()
                .backward(
                    &hidden,
                    &targets,
                    None,
                    whole,
                    &mut loss,
                    &mut observe,
                    &mut || Ok(()),
                )
                .unwrap();
            assert_near(&seen, &goldens.logp, 1e-5, &what);
            assert_near(
                &[entropy],
                &[goldens.entropy],
                1e-4,
                &format!("{what}: entropy"),
            );
            assert_near(&[sum], &[case.loss], 1e-5, &format!("{what}: loss"));
            assert_near(
                &floats(&hidden.grad()),
                &case.hidden_gradient,
                1e-5,
                &format!("{what}: hidden"),
            );
            let of_head = head_weight.grad();
            assert_near(
                &floats(&of_head),
                &case.head_gradient,
                1e-5,
                &format!("{what}: head"),
            );
            for id in &goldens.never {
                assert!(
                    floats(&of_head.get(*id)).iter().all(|value| *value == 0.0),
                    "{what}: id {id} was never kept"
                );
            }
        }
    }
}

/// The ids that each of a completion's tokens was drawn from, float64 `[n, V]`: 1 or 0.
fn mask(sequence: &TrainSequence) -> Tensor {
    let mut rows = vec![vec![1.0; VOCAB as usize]; sequence.completion_ids.len()];
    for (row, kept) in rows
        .iter_mut()
        .zip(sequence.kept_ids.tokens())
        .filter(|(_, kept)| !kept.is_whole())
    {
        row.fill(0.0);
        kept.runs()
            .for_each(|run| row[run.start as usize..run.end as usize].fill(1.0));
    }
    Tensor::from_slice(&rows.concat()).view([-1, VOCAB as i64])
}

/// Log-probabilities of a completion over its kept ids, computed from the definition: float64, with
/// gradients.
fn renormalised(model: &CausalLm, sequence: &TrainSequence, temperature: f64) -> Tensor {
    let all = [&sequence.prompt_ids[..], &sequence.completion_ids].concat();
    let (prompt, completion) = (
        sequence.prompt_ids.len() as i64,
        sequence.completion_ids.len() as i64,
    );
    let rows = hidden(model, &all[..all.len() - 1]).narrow(0, prompt - 1, completion);
    let logits = model
        .logits(&rows, &Forward::default())
        .unwrap()
        .to_kind(Kind::Double)
        / temperature;
    let mass = (logits.exp() * mask(sequence)).sum_dim_intlist(&[-1i64][..], false, None::<Kind>);
    let targets: Vec<i64> = sequence
        .completion_ids
        .iter()
        .map(|&id| i64::from(id))
        .collect();
    logits
        .gather(1, &Tensor::from_slice(&targets).unsqueeze(1), false)
        .squeeze_dim(1)
        - mass.log()
}

fn unclipped() -> Optimiser {
    Optimiser {
        max_grad_norm: 0.0,
        ..optimiser(1e-3)
    }
}

fn moved(model: &CausalLm) -> CausalLm {
    let other = model.deep_copy().unwrap();
    for (place, (_, mut parameter)) in (0..).zip(other.parameters()) {
        let noise = Tensor::arange(parameter.numel() as i64, (Kind::Float, Device::Cpu)) * 1.3
            + f64::from(place);
        tch::no_grad(|| parameter.copy_(&(&parameter + noise.sin().view_as(&parameter) * 0.02)));
    }
    other
}

/// The sampler's record, policy and reference use the same sets: loss and gradients of an update
/// follow the definition.
#[test]
fn an_update_is_that_of_renormalised_policies() {
    for model in [qwen2(Kind::Float), deepseek_v3()] {
        let reference = moved(&model);
        let temperature = 0.7;
        let objective = Objective {
            beta: 0.3,
            temperature: temperature as f32,
            loss_type: LossType::Dapo,
            ..objective()
        };
        let mut batch = with_kept_ids(rollouts(&model, objective, 0));
        model.set_requires_grad(true);
        let tokens: usize = batch
            .sequences
            .iter()
            .map(|sequence| sequence.completion_ids.len())
            .sum();
        let (mut cost, mut kl_sum, mut kept_sum) = (Tensor::from(0.0), 0.0, 0.0);
        for sequence in &mut batch.sequences {
            let logp = renormalised(&model, sequence, temperature);
            sequence.behaviour_logprobs = logp.detach().to_kind(Kind::Float).try_into().unwrap();
            let theirs = renormalised(&reference, sequence, temperature).detach();
            let difference = &theirs - &logp;
            let kl = difference.exp() - &difference - 1.0;
            kl_sum += kl.sum(Kind::Double).double_value(&[]);
            kept_sum += mask(sequence).sum(Kind::Double).double_value(&[]);
            // The ratio is 1, and its gradient is that of logp.
            let ratio = (&logp - logp.detach()).exp();
            cost += (kl * 0.3 - ratio * f64::from(sequence.advantage)).sum(Kind::Double)
                / tokens as f64;
        }
        let loss = cost.double_value(&[]);
        let expected = plain_gradients(&model, &cost);
        for budget in [4096, 20] {
            let model = model.deep_copy().unwrap();
            let mut trainer =
                Trainer::new(&model, &unclipped(), NO_ROUTER_TRAINING, budget, false).unwrap();
            let metrics = trainer
                .train(&model, Some(&reference), &batch, &mut |_, _| {})
                .unwrap();
            assert_close_gradients(&first_gradients(&trainer), &expected, 2e-4);
            assert!((metrics["loss"] - loss).abs() < 1e-5, "{metrics:?}, {loss}");
            assert!(
                (metrics["kl"] - kl_sum / tokens as f64).abs() < 1e-5 && metrics["kl"] > 1e-4,
                "{metrics:?}, {kl_sum}"
            );
            assert!(
                metrics["sampling/sampling_logp_difference/max"] < 1e-5,
                "{metrics:?}"
            );
            assert!(
                (metrics["sampling/kept_ids/mean"] - kept_sum / tokens as f64).abs() < 1e-9,
                "{metrics:?}, {kept_sum}"
            );
        }
        // The sets have an effect, so that the results differ from those over whole vocabularies.
        batch
            .sequences
            .iter_mut()
            .for_each(|sequence| sequence.kept_ids = SamplingMask::default());
        let mut trainer =
            Trainer::new(&model, &unclipped(), NO_ROUTER_TRAINING, 4096, false).unwrap();
        let metrics = trainer
            .train(&model, Some(&reference), &batch, &mut |_, _| {})
            .unwrap();
        assert!(
            metrics["sampling/sampling_logp_difference/mean"] > 0.3,
            "{metrics:?}"
        );
        assert!(
            (metrics["kl"] - kl_sum / tokens as f64).abs() > 1e-4,
            "{metrics:?}"
        );
        assert!(!metrics.contains_key("sampling/kept_ids/mean"));
    }
}

/// At rate 0 the policy never changes, so every ratio of every minibatch is 1, whatever is clipped,
/// if the old policy has the policy's sets.
#[test]
fn the_old_policy_is_over_the_same_ids() {
    let model = qwen2(Kind::Float);
    let narrow = Objective {
        epsilon: 1e-4,
        epsilon_high: 1e-4,
        num_iterations: 2,
        num_minibatches: 2,
        ..objective()
    };
    for importance_sampling_level in [
        ImportanceSamplingLevel::Token,
        ImportanceSamplingLevel::Sequence,
    ] {
        let mut batch = with_kept_ids(rollouts(
            &model,
            Objective {
                importance_sampling_level,
                ..narrow.clone()
            },
            0,
        ));
        for sequence in &mut batch.sequences {
            sequence.behaviour_logprobs = renormalised(&model, sequence, 1.0)
                .detach()
                .to_kind(Kind::Float)
                .try_into()
                .unwrap();
        }
        let mut trainer =
            Trainer::new(&model, &optimiser(0.0), NO_ROUTER_TRAINING, 40, false).unwrap();
        let metrics = trainer.train(&model, None, &batch, &mut |_, _| {}).unwrap();
        let mean: f64 = batch
            .sequences
            .iter()
            .map(|s| f64::from(s.advantage))
            .sum::<f64>()
            / 8.0;
        assert!((metrics["loss"] + mean).abs() < 1e-5, "{metrics:?}, {mean}");
        assert_eq!(metrics["clip_ratio/region_mean"], 0.0, "{metrics:?}");
        assert!(
            metrics["sampling/sampling_logp_difference/max"] < 1e-5,
            "{metrics:?}"
        );
    }
}

#[test]
fn ppo_compares_over_the_same_ids() {
    let (policy, scorer) = (qwen2(Kind::Float), qwen2_scorer(Kind::Float));
    let reference = moved(&policy);
    let settings = PpoObjective {
        num_ppo_epochs: 2,
        num_mini_batches: 2,
        cliprange: 1e-4,
        cliprange_value: 0.2,
        vf_coef: 0.1,
        gamma: 1.0,
        lam: 0.95,
        kl_coef: 0.1,
        temperature: 1.0,
        routing_replay: false,
        routing_replay_reference: false,
    };
    let mut sequences = with_kept_ids(rollouts(&policy, objective(), 0)).sequences;
    let (mut kl, mut entropy) = (0.0, 0.0);
    for sequence in &mut sequences {
        let old = renormalised(&policy, sequence, 1.0).detach();
        let theirs = renormalised(&reference, sequence, 1.0).detach();
        kl += (&old - theirs).sum(Kind::Double).double_value(&[]);
        entropy -= old.sum(Kind::Double).double_value(&[]);
        sequence.behaviour_logprobs = old.to_kind(Kind::Float).try_into().unwrap();
    }
    let scores = (0..sequences.len()).map(|i| i as f32 / 4.0).collect();
    let batch = TrainPpo {
        step: 0,
        first_update: 0,
        objective: settings,
        seed: 5,
        sequences,
        scores,
    };
    let train = |batch: &TrainPpo| -> Metrics {
        let mut of_policy =
            Trainer::new(&policy, &optimiser(0.0), NO_ROUTER_TRAINING, 40, false).unwrap();
        let mut of_value = Trainer::new(
            scorer.model(),
            &optimiser(0.0),
            NO_ROUTER_TRAINING,
            40,
            false,
        )
        .unwrap();
        let mut critic = Critic {
            model: &scorer,
            trainer: &mut of_value,
        };
        of_policy
            .train_ppo(
                &policy,
                &mut critic,
                Some(&reference),
                batch,
                &mut |_, _| {},
            )
            .unwrap()
    };
    let metrics = train(&batch);
    assert!(
        (metrics["objective/kl"] - kl / 8.0).abs() < 1e-4,
        "{metrics:?}, {kl}"
    );
    assert!(
        (metrics["objective/entropy"] - entropy / 8.0).abs() < 1e-4,
        "{metrics:?}, {entropy}"
    );
    assert_eq!(metrics["policy/clipfrac_avg"], 0.0, "{metrics:?}");
    assert!(
        metrics["sampling/sampling_logp_difference/max"] < 1e-5
            && metrics["sampling/kept_ids/mean"] < 40.0,
        "{metrics:?}"
    );
    let mut whole = batch;
    whole
        .sequences
        .iter_mut()
        .for_each(|sequence| sequence.kept_ids = SamplingMask::default());
    let metrics = train(&whole);
    assert!(
        (metrics["objective/kl"] - kl / 8.0).abs() > 1e-3,
        "{metrics:?}, {kl}"
    );
}
