//! Data parallel: the ranks of a gang train one model together. In layout-independent mode any
//! number of them ends with the same bits; otherwise they compute the same but for rounding.

mod gangs;
mod stages;
mod tiny;

use gangs::{run, run_over_gloo, settings};
use r1d_collectives::exchange::SharedGroup;
use r1d_collectives::in_process;
use r1d_learn::gang::{Gang, Groups, Sharding};
use r1d_learn::{LearnError, Trainer};
use r1d_model::CausalLm;
use r1d_parallel::Layout;
use r1d_parallel::micro_batches::LEAVES;
use r1d_proto::hyperparameters;
use r1d_proto::worker::{Supervise, SupervisedSequence};
use stages::*;
use tch::{Kind, Tensor};
use tiny::*;

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

#[test]
fn a_gang_of_one_trains_as_without_a_gang() {
    for (stage, train) in STAGES {
        let group = SharedGroup::new(in_process::gang("one", 1).remove(0));
        let mode = settings(Sharding::Optimizer, None);
        let groups = Groups::without_shards(group.clone());
        let gang = Gang::new(Layout::ONE, groups, mode).unwrap();
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
        let groups = Groups::without_shards(group);
        let gang = Gang::new(layout, groups, settings(Sharding::Nothing, leaves));
        gang.err().unwrap().to_string()
    };
    let of = |data, expert| Layout::new(data, expert).unwrap();
    assert!(refused(of(1, 2), 2, None).contains("are of another layout"));
    assert!(refused(of(4, 1), 2, None).contains("are of another layout"));
    assert!(refused(of(3, 1), 3, Some(8)).contains("not 3"));
    assert!(refused(of(4, 1), 4, Some(2)).contains("2 micro-batches are too few for 4 ranks"));
}
