//! Tokens that go to experts on other ranks and come back have the gradients that they would have
//! at home, and a rank without tokens takes part.

mod gangs;

use gangs::{Over, call, run};
use proptest::prelude::*;
use r1d_collectives::exchange::{ExchangeError, SharedGroup};
use r1d_collectives::{ProcessGroup, Received, in_process};
use r1d_proto::world::counter_uniform;
use r1d_torch::runtime::backward;
use tch::{Kind, Tensor};

/// Runs `rank` on each rank of a gang with a group that gradients can travel over.
fn shared<T: Send>(
    over: Over,
    size: usize,
    rank: impl Fn(&SharedGroup, usize) -> T + Sync,
) -> Vec<T> {
    run(over, size, |group: &mut ProcessGroup| {
        let number = group.rank();
        // The gang's own group stays behind; this one is shared.
        let spare = in_process::gang("spare", 1).remove(0);
        let group = SharedGroup::new(std::mem::replace(group, spare));
        rank(&group, number)
    })
}

fn values(tensor: &Tensor) -> Vec<f64> {
    Vec::try_from(tensor.contiguous().view([-1])).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn gradients_come_back_to_the_tokens_that_they_are_of(
        over in prop_oneof![3 => Just(Over::Memory), 1 => Just(Over::Gloo)],
        counts in (1usize..5).prop_flat_map(|size| {
            let row = prop::collection::vec(prop_oneof![Just(0i64), 0i64..5], size);
            prop::collection::vec(row, size)
        }),
        seed in any::<u64>(),
    ) {
        const WIDTH: i64 = 3;
        let tokens = |rank: usize| {
            let count = counts[rank].iter().sum::<i64>() * WIDTH;
            let draw = |at: i64| f64::from(counter_uniform(&[seed, rank as u64, at as u64])) - 0.5;
            let numbers: Vec<f64> = (0..count).map(draw).collect();
            Tensor::from_slice(&numbers).view([-1, WIDTH])
        };
        // The expert on rank d: (d + 1) x³ + x. The loss: Σ y², on the token's own rank.
        let expert = |rank: usize, x: &Tensor| x.pow_tensor_scalar(3) * (rank as f64 + 1.0) + x;
        let found = shared(over, counts.len(), |group, rank| {
            let x = tokens(rank).set_requires_grad(true);
            let sent = &counts[rank];
            let Received { rows, counts } = group.all_to_all(call("dispatch"), &x, sent).unwrap();
            let y = expert(rank, &rows);
            let back = group.all_to_all(call("combine"), &y, &counts).unwrap();
            assert_eq!(&back.counts, sent);
            backward(&back.rows.square().sum(Kind::Double)).unwrap();
            (values(&back.rows.detach()), values(&x.grad()))
        });
        for (rank, (outputs, gradients)) in found.into_iter().enumerate() {
            let x = tokens(rank).set_requires_grad(true);
            let mut at = 0;
            let parts: Vec<Tensor> = counts[rank].iter().enumerate().map(|(d, n)| {
                at += n;
                expert(d, &x.narrow(0, at - n, *n))
            }).collect();
            let y = Tensor::cat(&parts, 0);
            backward(&y.square().sum(Kind::Double)).unwrap();
            prop_assert_eq!(outputs, values(&y.detach()));
            let wanted = values(&x.grad());
            for (found, wanted) in gradients.iter().zip(&wanted) {
                prop_assert!((found - wanted).abs() <= 1e-14, "{} is not {}", found, wanted);
            }
        }
    }
}

#[test]
fn rows_that_one_rank_does_not_use_have_gradients_of_the_other() {
    let found = shared(Over::Memory, 2, |group, rank| {
        let x = Tensor::from_slice(&[1.0, 2.0])
            .view([2, 1])
            .set_requires_grad(true);
        let received = group.all_to_all(call("dispatch"), &x, &[1, 1]).unwrap();
        // Rank 1 looks at nothing of its rows, but its loss depends on them.
        let used = if rank == 0 { 3.0 } else { 0.0 };
        backward(&(received.rows * used).sum(Kind::Double)).unwrap();
        values(&x.grad())
    });
    assert_eq!(found, [[3.0, 0.0], [3.0, 0.0]]);
}

#[test]
fn without_gradients_nothing_comes_back() {
    let got = shared(Over::Memory, 2, |group, _| {
        let x = Tensor::from_slice(&[1.0, 2.0]).view([2, 1]);
        let received = group.all_to_all(call("dispatch"), &x, &[1, 1]).unwrap();
        let calls = group.lock().flight().count();
        (received.rows.requires_grad(), calls)
    });
    assert_eq!(got, [(false, 1), (false, 1)]);
}

#[test]
fn a_group_that_is_in_use_is_an_error_and_no_deadlock() {
    let group = SharedGroup::new(in_process::gang("one", 1).remove(0));
    let x = Tensor::from_slice(&[1.0])
        .view([1, 1])
        .set_requires_grad(true);
    let received = group.all_to_all(call("dispatch"), &x, &[1]).unwrap();
    let held = group.lock();
    let again = group.all_to_all(call("dispatch"), &x, &[1]).unwrap_err();
    assert!(matches!(again, ExchangeError::InUse(_)), "{again}");
    let error = backward(&received.rows.sum(Kind::Double)).unwrap_err();
    assert!(
        error.to_string().contains("`dispatch, backward`"),
        "{error}"
    );
    drop(held);
}
