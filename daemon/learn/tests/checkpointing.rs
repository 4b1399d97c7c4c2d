//! Gradient checkpointing: an update that differentiates one block at a time is the update that
//! differentiates the whole pass.

mod tiny;

use r1d_learn::{Critic, Trainer};
use r1d_model::{CausalLm, Forward, LoraSpec, Packed};
use r1d_proto::hyperparameters::{
    DpoLossType, DpoObjective, GradientCheckpointing, Objective, PpoObjective, RouterTraining,
};
use r1d_proto::worker::{
    Metrics, RewardBatch, Supervise, Train, TrainDpo, TrainPpo, TrainReward, TrainSequence,
};
use tch::{Kind, Tensor};
use tiny::*;

/// Everything that balances experts.
const BALANCED: RouterTraining = RouterTraining {
    bias_update_speed: 1e-3,
    aux_loss_alpha: 0.02,
    device_loss_alpha: 0.01,
};

type Checkpointing = Option<GradientCheckpointing>;
/// An update's metrics, and all that it changed.
type Update = (Metrics, Vec<(String, Tensor)>);

/// No checkpointing first; then all, one and none of the blocks are run again.
fn ways() -> (Checkpointing, [Checkpointing; 3]) {
    let recomputed = |recompute_num_layers| {
        Some(GradientCheckpointing {
            recompute_num_layers,
        })
    };
    (None, [u32::MAX, 1, 0].map(recomputed))
}

/// Checks that all ways of checkpointing make the same update, bit for bit.
fn assert_same_updates(what: &str, update: impl Fn(Checkpointing) -> Update) {
    let (whole, ways) = ways();
    let (expected, changed) = update(whole);
    for way in ways {
        let (metrics, after) = update(way);
        println!("{what}, {way:?}");
        assert_eq!(metrics, expected);
        assert_same_bits(&after, &changed);
    }
}

fn trainer(model: &CausalLm, router: RouterTraining, budget: u32, way: Checkpointing) -> Trainer {
    Trainer::new(model, &optimiser(1e-3), router, budget, false)
        .unwrap()
        .with_checkpointing(way)
}

/// The optimiser's state, which has the gradients, and the weights and buffers.
fn changed(trainer: &Trainer, model: &CausalLm) -> Vec<(String, Tensor)> {
    let state = trainer.state().into_iter();
    state
        .map(|(name, tensor)| (name, tensor.copy()))
        .chain(snapshot(model))
        .collect()
}

fn reinforce(model: &CausalLm, mut trainer: Trainer, batch: &Train) -> Update {
    let metrics = trainer.train(model, None, batch, &mut |_, _| {}).unwrap();
    (metrics, changed(&trainer, model))
}

/// Records the experts that the model chooses for each sequence's tokens, shifted by one expert, so
/// that a router by itself would choose others.
fn with_other_experts(model: &CausalLm, mut batch: Train) -> Train {
    for TrainSequence {
        prompt_ids,
        completion_ids,
        experts,
        ..
    } in &mut batch.sequences
    {
        let ids: Vec<i64> = prompt_ids
            .iter()
            .chain(completion_ids.iter())
            .map(|&id| i64::from(id))
            .collect();
        let length = ids.len() as i64 - 1;
        let packed = Packed::new(Tensor::from_slice(&ids[..ids.len() - 1]), vec![length]);
        let options = Forward {
            record_experts: true,
            ..Forward::default()
        };
        let chosen = tch::no_grad(|| model.forward(&packed, &options).unwrap()).experts;
        let chosen: Vec<i64> = Vec::try_from(chosen.unwrap().view([-1])).unwrap();
        *experts = chosen.iter().map(|&e| ((e + 1) % 8) as u16).collect();
    }
    batch
}

#[test]
fn policy_gradients_are_the_whole_passs() {
    // In one micro-batch with shared prompts, and in several.
    for budget in [4096, 20] {
        assert_same_updates(&format!("budget {budget}"), |way| {
            let model = qwen2(Kind::Float);
            let batch = rollouts(&model, objective(), 0);
            let trainer = trainer(&model, NO_ROUTER_TRAINING, budget, way);
            reinforce(&model, trainer, &batch)
        });
    }
}

#[test]
fn experts_are_replayed_and_balanced_as_in_the_whole_pass() {
    for (replays, router) in [
        (true, NO_ROUTER_TRAINING),
        (true, BALANCED),
        (false, BALANCED),
    ] {
        assert_same_updates(&format!("replays {replays}, {router:?}"), |way| {
            let model = deepseek_v3();
            let objective = Objective {
                routing_replay: replays,
                ..objective()
            };
            let mut batch = rollouts(&model, objective, 0);
            if replays {
                batch = with_other_experts(&model, batch);
            }
            reinforce(&model, trainer(&model, router, 4096, way), &batch)
        });
    }
}

#[test]
fn batch_invariant_updates_keep_their_bits() {
    for make in [(|| qwen2(Kind::Float)) as fn() -> CausalLm, deepseek_v3] {
        assert_same_updates("batch-invariant", |way| {
            let model = make();
            let batch = rollouts(&model, objective(), 0);
            let trainer = Trainer::new(&model, &optimiser(1e-3), BALANCED, 4096, true)
                .unwrap()
                .with_checkpointing(way);
            reinforce(&model, trainer, &batch)
        });
    }
}

#[test]
fn adapters_get_their_gradients_wherever_they_are() {
    for targets in [
        &["all-linear"][..],
        &["model.layers.1.self_attn.q_proj"],
        &["model.layers.0.mlp.down_proj"],
        &["lm_head"],
    ] {
        assert_same_updates(&format!("{targets:?}"), |way| {
            let mut model = qwen2(Kind::Float);
            let spec = LoraSpec {
                r: 4,
                lora_alpha: 8.0,
                target_modules: targets.iter().map(|&target| target.to_owned()).collect(),
            };
            model.adapt(&spec, 5).unwrap();
            let mut trainer = trainer(&model, NO_ROUTER_TRAINING, 4096, way);
            // B is zero before the first update, and with it the gradient of A.
            let _ = trainer
                .train(
                    &model,
                    None,
                    &rollouts(&model, objective(), 0),
                    &mut |_, _| {},
                )
                .unwrap();
            let batch = rollouts(&model, objective(), 1);
            reinforce(&model, trainer, &batch)
        });
    }
}

#[test]
fn the_prediction_module_is_trained_as_in_the_whole_pass() {
    assert_same_updates("multi-token prediction", |way| {
        let model = deepseek_v3_predicting();
        let mut trainer = trainer(&model, BALANCED, 4096, way).with_prediction(0.3);
        let batch = Supervise {
            step: 0,
            sequences: text(7, &[12, 5, 20, 9, 3]),
        };
        let metrics = trainer.supervise(&model, &batch).unwrap();
        (metrics, changed(&trainer, &model))
    });
}

#[test]
fn preferences_are_learned_as_in_the_whole_pass() {
    assert_same_updates("dpo", |way| {
        let model = qwen2(Kind::Float);
        let reference = qwen2(Kind::Float);
        let mut trainer = trainer(&model, NO_ROUTER_TRAINING, 40, way);
        let batch = TrainDpo {
            step: 0,
            objective: DpoObjective {
                loss_type: DpoLossType::Sigmoid,
                beta: 0.3,
                label_smoothing: 0.0,
            },
            pairs: pairs(1),
        };
        let metrics = trainer.train_dpo(&model, &reference, &batch).unwrap();
        (metrics, changed(&trainer, &model))
    });
    assert_same_updates("reward model", |way| {
        let scorer = deepseek_v3_scorer();
        let mut trainer = trainer(scorer.model(), BALANCED, 40, way);
        let batch = TrainReward {
            step: 0,
            batch: RewardBatch::Pairs {
                pairs: pairs(1),
                center_rewards_coefficient: 0.01,
            },
        };
        let metrics = trainer.train_reward(&scorer, &batch).unwrap();
        (metrics, changed(&trainer, scorer.model()))
    });
}

#[test]
fn values_are_learned_as_in_the_whole_pass() {
    assert_same_updates("ppo", |way| {
        let (policy, value) = (qwen2(Kind::Float), deepseek_v3_scorer());
        let mut of_policy = trainer(&policy, NO_ROUTER_TRAINING, 4096, way);
        let mut of_value = trainer(value.model(), BALANCED, 4096, way);
        let sequences = rollouts(&policy, objective(), 0).sequences;
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
                kl_coef: 0.0,
                temperature: 1.0,
                routing_replay: false,
                routing_replay_reference: false,
            },
            seed: 11,
            scores: (0..sequences.len()).map(|i| (i as f32).sin()).collect(),
            sequences,
        };
        let mut critic = Critic {
            model: &value,
            trainer: &mut of_value,
        };
        let metrics = of_policy
            .train_ppo(&policy, &mut critic, None, &batch, &mut |_, _| {})
            .unwrap();
        let mut all = changed(&of_policy, &policy);
        all.extend(changed(&of_value, value.model()));
        (metrics, all)
    });
}

/// Where the embedding is the head too, the gradients of both are added in another order over
/// several micro-batches; below float32 each is added to a float32 sum by itself.
#[test]
fn tied_and_bfloat16_models_differ_by_rounding_only() {
    for make in [tied as fn() -> CausalLm, || qwen2(Kind::BFloat16)] {
        let update = |way: Checkpointing| {
            let model = make();
            let batch = rollouts(&model, objective(), 0);
            let mut trainer = trainer(&model, NO_ROUTER_TRAINING, 20, way);
            let metrics = trainer.train(&model, None, &batch, &mut |_, _| {}).unwrap();
            (metrics, first_gradients(&trainer))
        };
        let (whole, ways) = ways();
        let (expected, gradients) = update(whole);
        for way in ways {
            let (metrics, own) = update(way);
            assert_eq!(metrics["loss"], expected["loss"]);
            assert_close_gradients(&own, &gradients, 1e-2);
        }
    }
}
