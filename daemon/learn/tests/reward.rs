//! Reward models: tiny ones, from pairs and from labels.

mod tiny;

use r1d_learn::reward::{label_accuracy, pair_accuracy};
use r1d_learn::{LearnError, Trainer};
use r1d_model::{Forward, SequenceClassifier};
use r1d_proto::hyperparameters::{Optimiser, RouterTraining};
use r1d_proto::worker::{Labelled, Metrics, RewardBatch, TrainReward};
use tch::{Kind, Tensor};
use tiny::*;

fn trainer(scorer: &SequenceClassifier, budget: u32) -> Trainer {
    Trainer::new(
        scorer.model(),
        &optimiser(3e-3),
        NO_ROUTER_TRAINING,
        budget,
        false,
    )
    .unwrap()
}

fn of_pairs(step: u64, center_rewards_coefficient: f64) -> TrainReward {
    TrainReward {
        step,
        batch: RewardBatch::Pairs {
            pairs: pairs(step + 1),
            center_rewards_coefficient,
        },
    }
}

fn items(seed: u64) -> Vec<Labelled> {
    let ids = |i: u64| {
        ids(500 * seed + i, 1 + (i as usize * 4) % 11)
            .into_iter()
            .map(|id| id.max(1))
            .collect()
    };
    (0..7)
        .map(|i| Labelled {
            ids: ids(i),
            label: (i % 2) as f32,
        })
        .collect()
}

fn labelled(step: u64) -> TrainReward {
    TrainReward {
        step,
        batch: RewardBatch::Labelled(items(step + 1)),
    }
}

/// The scores of texts, one text at a time, with gradients.
fn scores(scorer: &SequenceClassifier, texts: &[Vec<u32>]) -> Vec<Tensor> {
    let of = |ids: &Vec<u32>| {
        scorer
            .values(
                &hidden(scorer.model(), ids).narrow(0, ids.len() as i64 - 1, 1),
                &Forward::default(),
            )
            .unwrap()
    };
    texts.iter().map(of).collect()
}

/// Computes the equation, a text at a time and in one backward pass.
fn by_hand(scorer: &SequenceClassifier, batch: &RewardBatch) -> Tensor {
    let mean = |losses: Vec<Tensor>| Tensor::cat(&losses, 0).mean(None::<Kind>);
    match batch {
        RewardBatch::Pairs {
            pairs,
            center_rewards_coefficient: c,
        } => mean(
            pairs
                .iter()
                .map(|pair| {
                    let texts = [&pair.chosen_ids, &pair.rejected_ids]
                        .map(|ids| [&pair.prompt_ids[..], ids].concat());
                    let found = scores(scorer, &texts);
                    let difference = &found[0] - &found[1] - f64::from(pair.margin);
                    (difference.neg().exp() + 1.0).log() + (&found[0] + &found[1]).square() * *c
                })
                .collect(),
        ),
        RewardBatch::Labelled(items) => {
            let texts: Vec<Vec<u32>> = items.iter().map(|item| item.ids.clone()).collect();
            let cost = |(score, item): (Tensor, &Labelled)| {
                let safe = score.sigmoid();
                -(safe.log() * f64::from(item.label)
                    + (safe.neg() + 1.0).log() * f64::from(1.0 - item.label))
            };
            mean(
                scores(scorer, &texts)
                    .into_iter()
                    .zip(items)
                    .map(cost)
                    .collect(),
            )
        }
    }
}

/// However the batch is packed, with shared prompts or without, loss and gradients are those of one
/// text at a time.
#[test]
fn loss_and_gradients_are_the_equations() {
    for make in [
        (|| qwen2_scorer(Kind::Float)) as fn() -> SequenceClassifier,
        deepseek_v3_scorer,
    ] {
        for batch in [of_pairs(0, 0.0), of_pairs(0, 0.05), labelled(0)] {
            let plain = make();
            plain.model().set_requires_grad(true);
            let loss = by_hand(&plain, &batch.batch);
            let expected = plain_gradients(plain.model(), &loss);
            for budget in [1, 20, 4096] {
                let scorer = make();
                let settings = Optimiser {
                    max_grad_norm: 0.0,
                    ..optimiser(1e-4)
                };
                let mut trainer =
                    Trainer::new(scorer.model(), &settings, NO_ROUTER_TRAINING, budget, false)
                        .unwrap();
                let metrics = trainer.train_reward(&scorer, &batch).unwrap();
                assert!(
                    (metrics["loss"] - loss.double_value(&[])).abs() < 2e-6,
                    "{metrics:?} {loss:?}"
                );
                assert_close_gradients(&first_gradients(&trainer), &expected, 2e-5);
            }
        }
    }
}

#[test]
fn packing_changes_nothing_of_the_balance_loss_and_the_metrics() {
    let run = |budget: u32| {
        let scorer = deepseek_v3_scorer();
        let router = RouterTraining {
            bias_update_speed: 1e-3,
            aux_loss_alpha: 0.05,
            device_loss_alpha: 0.0,
        };
        let settings = Optimiser {
            max_grad_norm: 0.0,
            ..optimiser(1e-4)
        };
        let mut trainer = Trainer::new(scorer.model(), &settings, router, budget, false).unwrap();
        (
            trainer.train_reward(&scorer, &of_pairs(0, 0.01)).unwrap(),
            first_gradients(&trainer),
        )
    };
    let (whole, gradients) = run(4096);
    let (cut, others) = run(25);
    assert_close_gradients(&others, &gradients, 5e-5);
    for (name, value) in &whole {
        assert!(
            (cut[name] - value).abs() < 1e-5 * value.abs().max(1.0),
            "{name} {} {value}",
            cut[name]
        );
    }
}

#[test]
fn metrics_are_those_of_the_scores_before_the_update() {
    let scorer = qwen2_scorer(Kind::Float);
    let batch = of_pairs(0, 0.0);
    let RewardBatch::Pairs { pairs, .. } = &batch.batch else {
        unreachable!()
    };
    let of = |ids: &dyn Fn(usize) -> Vec<u32>| {
        scorer
            .score(&(0..pairs.len()).map(ids).collect::<Vec<_>>())
            .unwrap()
    };
    let chosen = of(&|i| [&pairs[i].prompt_ids[..], &pairs[i].chosen_ids].concat());
    let rejected = of(&|i| [&pairs[i].prompt_ids[..], &pairs[i].rejected_ids].concat());
    let right =
        chosen.iter().zip(&rejected).filter(|(c, r)| c > r).count() as f64 / pairs.len() as f64;
    assert!(right > 0.0 && right < 1.0, "{chosen:?} {rejected:?}");
    assert_eq!(pair_accuracy(&scorer, pairs).unwrap(), right);
    let metrics = trainer(&scorer, 30).train_reward(&scorer, &batch).unwrap();
    let all = || chosen.iter().chain(&rejected).map(|&r| f64::from(r));
    let sum = |of: &[f32]| of.iter().map(|&r| f64::from(r)).sum::<f64>();
    let expected = [
        ("accuracy", right),
        (
            "margin",
            (sum(&chosen) - sum(&rejected)) / pairs.len() as f64,
        ),
        ("min_reward", all().fold(f64::INFINITY, f64::min)),
        ("max_reward", all().fold(f64::NEG_INFINITY, f64::max)),
        ("mean_reward", all().sum::<f64>() / (2 * pairs.len()) as f64),
        ("learning_rate", 3e-3),
        (
            "num_tokens",
            pairs
                .iter()
                .map(|p| 2 * p.prompt_ids.len() + p.chosen_ids.len() + p.rejected_ids.len())
                .sum::<usize>() as f64,
        ),
    ];
    for (name, value) in expected {
        assert!(
            (metrics[name] - value).abs() < 1e-5,
            "{name} {} {value}",
            metrics[name]
        );
    }
}

#[test]
fn a_reward_model_learns_to_tell_apart() {
    for scorer in [
        qwen2_scorer(Kind::Float),
        qwen2_scorer(Kind::BFloat16),
        deepseek_v3_scorer(),
    ] {
        let mut trainer = trainer(&scorer, 64);
        let mut run = |batch: TrainReward| trainer.train_reward(&scorer, &batch).unwrap();
        let first = run(of_pairs(0, 0.01));
        let last: Metrics = (0..60).map(|_| run(of_pairs(0, 0.01))).last().unwrap();
        assert!(
            last["loss"] < 0.3 && last["loss"] < 0.5 * first["loss"] && last["accuracy"] == 1.0,
            "{first:?} {last:?}"
        );
        assert_eq!(pair_accuracy(&scorer, &pairs(1)).unwrap(), 1.0);
        let last: Metrics = (0..80).map(|_| run(labelled(0))).last().unwrap();
        assert!(
            last["loss"] < 0.2 && last["accuracy"] == 1.0 && !last.contains_key("margin"),
            "{last:?}"
        );
        assert_eq!(label_accuracy(&scorer, &items(1)).unwrap(), 1.0);
    }
}

/// transformers scores a padded text in the same way.
#[test]
fn padding_behind_a_text_is_not_learned_from() {
    let run = |padding: usize| {
        let scorer = qwen2_scorer(Kind::Float);
        let mut batch = of_pairs(0, 0.0);
        let RewardBatch::Pairs { pairs, .. } = &mut batch.batch else {
            unreachable!()
        };
        pairs
            .iter_mut()
            .for_each(|pair| pair.chosen_ids.extend(vec![0; padding]));
        let mut trainer = trainer(&scorer, 4096);
        (
            trainer.train_reward(&scorer, &batch).unwrap(),
            snapshot(scorer.model()),
        )
    };
    let ((plain, weights), (padded, same)) = (run(0), run(3));
    assert_eq!(plain, padded);
    assert_same_bits(&weights, &same);
}

#[test]
fn a_resumed_run_has_the_same_bits() {
    for make in [
        (|| qwen2_scorer(Kind::Float)) as fn() -> SequenceClassifier,
        || qwen2_scorer(Kind::BFloat16),
        deepseek_v3_scorer,
    ] {
        let batch = |step: u64| {
            if step.is_multiple_of(2) {
                of_pairs(step, 0.01)
            } else {
                labelled(step)
            }
        };
        let straight = make();
        let mut trainer = trainer(&straight, 30);
        let (mut expected, mut halfway) = (Vec::new(), None);
        for step in 0..4 {
            if step == 2 {
                let state = trainer
                    .state()
                    .into_iter()
                    .map(|(name, tensor)| (name, tensor.copy()))
                    .collect::<Vec<_>>();
                halfway = Some((straight.deep_copy().unwrap(), state));
            }
            expected.push(trainer.train_reward(&straight, &batch(step)).unwrap());
        }
        let (resumed, state) = halfway.unwrap();
        let mut continued = self::trainer(&resumed, 30);
        restore(&mut continued, &state);
        for step in 2..4 {
            assert_eq!(
                continued.train_reward(&resumed, &batch(step)).unwrap(),
                expected[step as usize]
            );
        }
        assert_same_bits(&snapshot(resumed.model()), &snapshot(straight.model()));
    }
}

#[test]
fn unsound_batches_are_refused_and_change_nothing() {
    let scorer = qwen2_scorer(Kind::Float);
    let mut trainer = trainer(&scorer, 64);
    let before = snapshot(scorer.model());
    let mut refusal = |batch: RewardBatch| {
        let error = trainer
            .train_reward(&scorer, &TrainReward { step: 0, batch })
            .unwrap_err();
        assert!(error.is_invalid_request(), "{error}");
        error.to_string()
    };
    let mut with = |center_rewards_coefficient: f64,
                    change: &dyn Fn(&mut r1d_proto::worker::Pair)| {
        let mut pairs = pairs(1);
        change(&mut pairs[2]);
        refusal(RewardBatch::Pairs {
            pairs,
            center_rewards_coefficient,
        })
    };
    assert!(with(0.0, &|pair| pair.chosen_ids.clear()).starts_with("sequence 2: no chosen ids"));
    assert!(with(0.0, &|pair| pair.prompt_ids.clear()).contains("no prompt ids"));
    assert!(with(0.0, &|pair| pair.rejected_ids[0] = VOCAB).contains("id 48 is beyond"));
    assert!(with(0.0, &|pair| pair.margin = f32::NAN).contains("margin is NaN"));
    assert!(with(-1.0, &|_| ()).contains("center_rewards_coefficient = -1"));
    assert!(refusal(RewardBatch::Labelled(Vec::new())).contains("empty"));
    assert!(
        refusal(RewardBatch::Pairs {
            pairs: Vec::new(),
            center_rewards_coefficient: 0.0
        })
        .contains("empty")
    );
    let labelled = |ids: Vec<u32>, label: f32| RewardBatch::Labelled(vec![Labelled { ids, label }]);
    assert!(refusal(labelled(vec![1], 1.5)).contains("label is 1.5"));
    assert!(refusal(labelled(vec![], 1.0)).contains("no ids"));
    assert!(refusal(labelled(vec![VOCAB], 1.0)).contains("id 48"));
    assert_same_bits(&snapshot(scorer.model()), &before);

    let (_, head) = scorer
        .model()
        .parameters()
        .into_iter()
        .find(|(name, _)| name == "score.weight")
        .unwrap();
    let _ = tch::no_grad(|| head.shallow_clone().fill_(f64::NAN));
    let error = trainer
        .train_reward(&scorer, &labelled_step(9))
        .unwrap_err();
    assert!(
        matches!(error, LearnError::NonFinite { step: 9, .. }),
        "{error}"
    );
}

fn labelled_step(step: u64) -> TrainReward {
    TrainReward {
        step,
        ..labelled(0)
    }
}
