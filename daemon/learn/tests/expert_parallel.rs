//! Expert parallel: ranks share the experts and exchange tokens. In layout-independent mode any
//! layout ends with the same bits; otherwise they compute the same but for rounding.

mod gangs;
mod stages;
mod tiny;

use gangs::{run, run_layout, settings};
use r1d_learn::gang::{Gang, Sharding};
use r1d_parallel::Layout;
use r1d_parallel::micro_batches::LEAVES;
use r1d_proto::hyperparameters::{self, OptimizerOffload};
use stages::*;
use tch::Tensor;
use tiny::*;

/// A rank's experts of a tensor that one rank has whole.
fn share_of(name: &str, whole: &Tensor, layout: Layout, rank: usize) -> Tensor {
    if !name.contains(".experts.") {
        return whole.shallow_clone();
    }
    let own = layout.experts_of(layout.shard(rank), whole.size()[0] as usize);
    whole.narrow(0, own.start as i64, own.len() as i64)
}

#[test]
fn any_layout_ends_with_the_same_weights_and_metrics() {
    for (stage, train) in EXPERT_STAGES {
        let train = |gang| train(Some(gang), &optimiser(3e-3));
        let alone = run(1, settings(Sharding::Nothing, Some(LEAVES)), train).remove(0);
        for (data, expert, sharding) in [
            (1, 2, Sharding::Nothing),
            (2, 2, Sharding::Optimizer),
            (1, 8, Sharding::Optimizer),
            (2, 4, Sharding::Nothing),
        ] {
            let layout = Layout::new(data, expert).unwrap();
            let found = run_layout(layout, settings(sharding, Some(LEAVES)), train);
            for (rank, own) in found.iter().enumerate() {
                let what = format!("{stage}, rank {rank} of {data} x {expert}");
                assert_eq!(own.metrics, alone.metrics, "{what}");
                for ((name, x), (other, y)) in own.weights.iter().zip(&alone.weights) {
                    assert_eq!(name, other);
                    assert!(
                        x.equal(&share_of(name, y, layout, rank)),
                        "{what}: {name} differs"
                    );
                }
            }
        }
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
    for (stage, train) in EXPERT_STAGES {
        let alone = train(None, &still);
        let moment = |name: &str| {
            let wanted = alone.state.iter().find(|(other, _)| other == name);
            wanted.map(|(_, whole)| whole)
        };
        for (data, expert) in [(1, 2), (2, 2), (3, 1), (1, 8)] {
            let layout = Layout::new(data, expert).unwrap();
            let train = |gang: Gang| train(Some(gang), &still);
            let found = run_layout(layout, settings(Sharding::Nothing, None), train);
            for (rank, own) in found.iter().enumerate() {
                let what = format!("{stage}, rank {rank} of {data} x {expert}");
                let moments = own
                    .state
                    .iter()
                    .filter(|(name, _)| name.starts_with("exp_avg."));
                let (mut ours, mut theirs) = (Vec::new(), Vec::new());
                for (name, own) in moments {
                    let name = name.split(':').next().unwrap();
                    let whole = moment(name).unwrap();
                    let share = share_of(name, whole, layout, rank);
                    ours.push((name.to_owned(), own.view_as(&share)));
                    theirs.push((name.to_owned(), share));
                }
                let gradients = relative(&ours, &theirs);
                if gradients >= 1e-6 {
                    apart.push(format!("{what}: gradients by {gradients:e}"));
                }
                assert_eq!(own.metrics, found[0].metrics, "{what}");
                for (ours, theirs) in own.metrics.iter().zip(&alone.metrics) {
                    apart.extend(unlike(ours, theirs, &what));
                }
            }
        }
    }
    assert!(apart.is_empty(), "{apart:#?}");
}

/// Who has which optimiser states, and where, changes nothing.
#[test]
fn shared_states_and_states_on_the_host_change_no_bit() {
    let layout = Layout::new(2, 2).unwrap();
    let on_host = hyperparameters::Optimiser {
        optimizer_offload: OptimizerOffload::Cpu,
        ..optimiser(3e-3)
    };
    let found = |sharding, optimiser: &hyperparameters::Optimiser| {
        let train = |gang| sft_of_experts(Some(gang), optimiser);
        run_layout(layout, settings(sharding, None), train)
    };
    let whole = found(Sharding::Nothing, &optimiser(3e-3));
    for (what, others) in [
        ("shared", found(Sharding::Optimizer, &optimiser(3e-3))),
        ("on the host", found(Sharding::Nothing, &on_host)),
        ("shared on the host", found(Sharding::Optimizer, &on_host)),
    ] {
        for (own, other) in whole.iter().zip(&others) {
            assert_same(other, own, what);
        }
    }
}
