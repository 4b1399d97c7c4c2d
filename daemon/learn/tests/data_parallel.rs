//! Data parallel: the ranks of a gang train one model together. In layout-independent mode any
//! number of them ends with the same bits; otherwise they compute the same but for rounding.

mod gangs;
mod tiny;

use gangs::{run, run_over_gloo, settings};
use r1d_collectives::exchange::SharedGroup;
use r1d_collectives::in_process;
use r1d_learn::gang::{Gang, Sharding};
use r1d_learn::{Critic, LearnError, Trainer};
use r1d_model::{CausalLm, SequenceClassifier};
use r1d_parallel::Layout;
use r1d_parallel::micro_batches::LEAVES;
use r1d_proto::hyperparameters::{
    self, DpoLossType, DpoObjective, GradientCheckpointing, ImportanceSamplingCorrection,
    ImportanceSamplingMode, Objective, PpoObjective, RouterTraining,
};
use r1d_proto::worker::{
    Metrics, RewardBatch, Supervise, SupervisedSequence, Train, TrainDpo, TrainPpo, TrainReward,
};
use tch::{Kind, Tensor};
use tiny::*;

/// Tokens of a micro-batch: some leaves need two.
const BUDGET: u32 = 30;
/// Every update changes the routers' biases, and has balance losses.
const BALANCED: RouterTraining = RouterTraining {
    bias_update_speed: 1e-3,
    aux_loss_alpha: 0.01,
    device_loss_alpha: 0.02,
};

/// What a rank ends with.
struct Outcome {
    weights: Vec<(String, Tensor)>,
    metrics: Vec<Metrics>,
    state: Vec<(String, Tensor)>,
}

/// A few steps of a kind of stage, by one rank.
type Stage = fn(Option<Gang>, &hyperparameters::Optimiser) -> Outcome;

const STAGES: [(&str, Stage); 7] = [
    ("sft", sft),
    ("sft of experts", sft_of_experts),
    ("grpo", grpo),
    ("grpo of experts", grpo_of_experts),
    ("dpo", dpo),
    ("reward model", reward),
    ("ppo", ppo),
];

fn trainer(model: &CausalLm, settings: &hyperparameters::Optimiser, gang: Option<Gang>) -> Trainer {
    Trainer::in_gang(model, settings, BALANCED, BUDGET, false, gang).unwrap()
}

fn outcome(model: &CausalLm, trainer: &Trainer, metrics: Vec<Metrics>) -> Outcome {
    let state = trainer.state().into_iter();
    Outcome {
        weights: snapshot(model),
        metrics,
        state: state.map(|(name, own)| (name, own.copy())).collect(),
    }
}

/// Texts of the step, fewer than leaves in the last step. One has no trained id.
fn texts(step: u64) -> Supervise {
    let lengths = [12, 5, 20, 9, 3, 31, 2, 7, 16, 4, 8];
    let mut sequences = text(7 + step, &lengths[..11 - 4 * step as usize]);
    sequences.push(SupervisedSequence {
        ids: ids(99, 6),
        trained: vec![false; 6],
    });
    Supervise { step, sequences }
}

fn sft(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let model = qwen2(Kind::Float);
    let mut trainer = trainer(&model, settings, gang);
    let metrics = (0..3).map(|step| trainer.supervise(&model, &texts(step)).unwrap());
    let metrics = metrics.collect();
    outcome(&model, &trainer, metrics)
}

/// With multi-token prediction, a block at a time.
fn sft_of_experts(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let model = deepseek_v3_predicting();
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
fn completions(model: &CausalLm, step: u64, objective: Objective) -> Train {
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

fn grpo_of(
    model: &CausalLm,
    gang: Option<Gang>,
    settings: &hyperparameters::Optimiser,
    objective: Objective,
) -> Outcome {
    let reference = model.deep_copy().unwrap();
    let mut trainer = trainer(model, settings, gang);
    let metrics = (0..2).map(|step| {
        let batch = completions(&reference, step, objective.clone());
        let mut done = 0;
        let mut progress = |now, _| done = now;
        trainer
            .train(model, Some(&reference), &batch, &mut progress)
            .unwrap()
    });
    let metrics = metrics.collect();
    outcome(model, &trainer, metrics)
}

fn grpo(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
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
    grpo_of(&qwen2(Kind::Float), gang, settings, objective)
}

/// One update of a step, without balance losses' help: advantages of 0 are left out.
fn grpo_of_experts(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    grpo_of(&deepseek_v3(), gang, settings, objective())
}

fn dpo(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let model = qwen2(Kind::Float);
    let reference = model.deep_copy().unwrap();
    let mut trainer = trainer(&model, settings, gang);
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
        trainer.train_dpo(&model, &reference, &batch).unwrap()
    });
    let metrics = metrics.collect();
    outcome(&model, &trainer, metrics)
}

fn reward(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let scorer = deepseek_v3_scorer();
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

/// Policy and value model, whose trainers share the process group.
fn ppo(gang: Option<Gang>, settings: &hyperparameters::Optimiser) -> Outcome {
    let (model, scorer): (CausalLm, SequenceClassifier) =
        (qwen2(Kind::Float), qwen2_scorer(Kind::Float));
    let reference = model.deep_copy().unwrap();
    let mut policy = trainer(&model, settings, gang.clone());
    let mut value = trainer(scorer.model(), settings, gang);
    let sequences = rollouts(&model, objective(), 1).sequences;
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

fn assert_same(a: &Outcome, b: &Outcome, what: &str) {
    assert_eq!(a.weights.len(), b.weights.len());
    for ((name, x), (_, y)) in a.weights.iter().zip(&b.weights) {
        assert!(x.equal(y), "{what}: {name} differs");
    }
    assert_eq!(a.metrics, b.metrics, "{what}");
}

#[test]
fn any_number_of_ranks_ends_with_the_same_weights_and_metrics() {
    for (stage, train) in STAGES {
        let train = |gang| train(Some(gang), &optimiser(3e-3));
        let alone = run(1, settings(Sharding::Nothing, Some(LEAVES)), train).remove(0);
        let moved = alone.metrics.iter().any(|own| own["grad_norm"] > 0.0);
        assert!(moved, "{stage}: nothing was learned");
        for ranks in [2, 4, 8] {
            let sharding = if ranks == 4 {
                Sharding::Nothing
            } else {
                Sharding::Optimizer
            };
            for (rank, own) in run(ranks, settings(sharding, Some(LEAVES)), train)
                .iter()
                .enumerate()
            {
                assert_same(own, &alone, &format!("{stage}, rank {rank} of {ranks}"));
            }
        }
    }
}

/// Trains for two steps on a gang of one layout, and for a third on one of another, which starts
/// from what the first one's ranks saved.
#[test]
fn a_checkpoint_of_any_layout_goes_on_in_any_other() {
    let mode = settings(Sharding::Optimizer, Some(LEAVES));
    let dir = tempfile::tempdir().unwrap();
    let file = |ranks: usize, rank: usize, what: &str| {
        dir.path()
            .join(format!("{what}-{rank}-of-{ranks}.safetensors"))
    };
    let step = |trainer: &mut Trainer, model: &CausalLm, step: u64| {
        trainer.supervise(model, &texts(step)).unwrap()
    };
    for (before, after) in [(4, 2), (2, 8), (1, 4), (8, 1)] {
        let straight = run(before, mode, |gang| {
            let (model, rank) = (deepseek_v3(), gang.rank());
            let mut trainer = trainer(&model, &optimiser(3e-3), Some(gang));
            let save = r1d_model::checkpoint::save_tensors;
            let metrics = (0..2)
                .map(|at| step(&mut trainer, &model, at))
                .collect::<Vec<_>>();
            save(&file(before, rank, "model"), &snapshot(&model)).unwrap();
            save(&file(before, rank, "trainer"), &trainer.state()).unwrap();
            let last = step(&mut trainer, &model, 2);
            assert_eq!(metrics.len(), 2);
            outcome(&model, &trainer, vec![last])
        });
        let resumed = run(after, mode, |gang| {
            let model = deepseek_v3();
            let live: Vec<_> = model
                .parameters()
                .into_iter()
                .chain(model.buffers())
                .collect();
            let weights = file(before, before - 1, "model");
            tch::no_grad(|| r1d_model::checkpoint::restore_tensors(&[&weights], &live)).unwrap();
            let mut trainer = trainer(&model, &optimiser(3e-3), Some(gang));
            let files: Vec<_> = (0..before)
                .map(|rank| file(before, rank, "trainer"))
                .collect();
            let files: Vec<_> = files.iter().map(|file| file.as_path()).collect();
            trainer.restore_shares(&files).unwrap();
            let last = step(&mut trainer, &model, 2);
            outcome(&model, &trainer, vec![last])
        });
        for own in &resumed {
            assert_same(own, &straight[0], &format!("{before} ranks, then {after}"));
        }
    }
}

#[test]
fn gloo_brings_the_same_bits() {
    let train = |gang| sft_of_experts(Some(gang), &optimiser(3e-3));
    let mode = settings(Sharding::Optimizer, Some(LEAVES));
    let alone = run(1, mode, train).remove(0);
    for own in run_over_gloo(2, mode, train) {
        assert_same(&own, &alone, "over Gloo");
    }
}

/// The norm of the difference of two lists of tensors over that of the second.
fn relative(a: &[(String, Tensor)], b: &[(String, Tensor)]) -> f64 {
    let square = |x: &Tensor| f64::try_from(x.to_kind(Kind::Double).square().sum(Kind::Double));
    let (mut difference, mut size) = (0.0, 0.0);
    for ((name, x), (other, y)) in a.iter().zip(b) {
        assert_eq!(name, other);
        difference += square(&(x - y)).unwrap();
        size += square(y).unwrap();
    }
    (difference / size).sqrt()
}

/// AdamW's first moments after steps that change nothing are sums of the gradients, which are not
/// clipped.
#[test]
fn every_layout_has_the_losses_and_gradients_of_one_rank() {
    let still = hyperparameters::Optimiser {
        max_grad_norm: 0.0,
        ..optimiser(0.0)
    };
    let mut apart = Vec::new();
    for (stage, train) in STAGES {
        let moments = |own: &Outcome| -> Vec<(String, Tensor)> {
            let state = own.state.iter();
            state
                .filter(|(name, _)| name.starts_with("exp_avg."))
                .map(|(name, own)| (name.clone(), own.copy()))
                .collect()
        };
        let alone = train(None, &still);
        for ranks in [2, 7] {
            let together = run(ranks, settings(Sharding::Nothing, None), |gang| {
                train(Some(gang), &still)
            });
            for own in &together {
                let gradients = relative(&moments(own), &moments(&alone));
                if gradients >= 1e-6 {
                    apart.push(format!(
                        "{stage}, {ranks} ranks: gradients by {gradients:e}"
                    ));
                }
                assert_eq!(own.metrics, together[0].metrics, "{stage}, {ranks} ranks");
                for (ours, theirs) in own.metrics.iter().zip(&alone.metrics) {
                    apart.extend(unlike(ours, theirs, &format!("{stage}, {ranks} ranks")));
                }
            }
        }
    }
    assert!(apart.is_empty(), "{apart:#?}");
}

/// The metrics that differ by more than rounding.
fn unlike(ours: &Metrics, theirs: &Metrics, what: &str) -> Vec<String> {
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

#[test]
fn a_gang_of_one_trains_as_without_a_gang() {
    for (stage, train) in STAGES {
        let group = SharedGroup::new(in_process::gang("one", 1).remove(0));
        let mode = settings(Sharding::Optimizer, None);
        let gang = Gang::new(Layout::ONE, group.clone(), mode).unwrap();
        let settings = optimiser(3e-3);
        let (with, without) = (train(Some(gang), &settings), train(None, &settings));
        assert_same(&with, &without, stage);
        assert_same_bits(&with.state, &without.state);
        assert_eq!(group.lock().flight().count(), 0, "{stage}: calls were made");
    }
}

#[test]
fn an_update_that_is_not_finite_on_one_rank_is_made_on_none() {
    let errors = run(4, settings(Sharding::Optimizer, None), |gang| {
        let model = qwen2(Kind::Float);
        // Weights that one id alone reaches.
        let hit = SupervisedSequence {
            ids: vec![5, 6, 7],
            trained: vec![true; 3],
        };
        let embedding = model
            .parameters()
            .into_iter()
            .find(|(name, _)| name.contains("embed"));
        let mut row = embedding.unwrap().1.get(5);
        let _ = tch::no_grad(|| row.fill_(f64::NAN));
        let before = snapshot(&model);
        let mut trainer = trainer(&model, &optimiser(3e-3), Some(gang));
        let mut batch = Supervise {
            step: 0,
            sequences: text(3, &[9, 8, 7, 6]),
        };
        for sequence in &mut batch.sequences {
            sequence.ids.iter_mut().for_each(|id| *id = (*id).max(8));
        }
        batch.sequences.push(hit);
        let error = trainer.supervise(&model, &batch).unwrap_err();
        let after = snapshot(&model);
        for ((name, x), (_, y)) in before.iter().zip(&after) {
            assert!(
                x.eq_tensor(y)
                    .logical_or(&x.isnan())
                    .all()
                    .double_value(&[])
                    == 1.0,
                "{name}"
            );
        }
        assert!(matches!(error, LearnError::NonFinite { .. }), "{error}");
        error.to_string()
    });
    assert!(errors.iter().all(|own| *own == errors[0]), "{errors:?}");
}

#[test]
fn a_gang_that_cannot_be_is_refused() {
    let refused = |layout: Layout, ranks: usize, leaves: Option<usize>| {
        let group = SharedGroup::new(in_process::gang("refused", ranks).remove(0));
        let gang = Gang::new(layout, group, settings(Sharding::Nothing, leaves));
        gang.err().unwrap().to_string()
    };
    let of = |data, expert| Layout::new(data, expert).unwrap();
    assert!(refused(of(1, 2), 2, None).contains("use `data`"));
    assert!(refused(of(4, 1), 2, None).contains("the job has 2"));
    assert!(refused(of(3, 1), 3, Some(8)).contains("not 3"));
    assert!(refused(of(4, 1), 4, Some(2)).contains("2 micro-batches are too few for 4 ranks"));
}
