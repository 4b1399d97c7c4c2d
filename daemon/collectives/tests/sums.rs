//! Sums have the same bits on every rank, and, along the tree of a step's micro-batches, on every
//! number of ranks.

mod gangs;

use gangs::{Over, call, run};
use proptest::prelude::*;
use r1d_collectives::CollectiveError;
use r1d_collectives::sum::{TreeSum, all_reduce, even_shares, reduce_scatter};
use r1d_parallel::micro_batches::run_of;
use r1d_proto::world::counter_hash;
use tch::{Kind, Tensor};

/// Numbers of very different sizes and both signs, zeros of both signs among them: hardly a sum of
/// some of them is the same in another order.
fn gradient(seed: u64, leaf: usize, elements: usize) -> Vec<f32> {
    (0..elements)
        .map(|element| {
            let bits = counter_hash(&[seed, leaf as u64, element as u64]);
            let sign = if bits & 1 == 0 { 1.0 } else { -1.0 };
            match (bits >> 1) % 8 {
                0 => 0.0 * sign,
                scale => sign * (1.0 + (bits >> 40) as f32 / 1e7) * 10f32.powi(scale as i32 - 4),
            }
        })
        .collect()
}

/// The sum along the tree by recursion, for a power of two.
fn tree(leaves: &[Vec<f32>]) -> Vec<f32> {
    match leaves {
        [one] => one.clone(),
        _ => {
            let (left, right) = leaves.split_at(leaves.len() / 2);
            tree(left)
                .iter()
                .zip(tree(right))
                .map(|(a, b)| a + b)
                .collect()
        }
    }
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let flat = tensor.contiguous().view([-1]);
    Vec::<f32>::try_from(flat)
        .unwrap()
        .into_iter()
        .map(f32::to_bits)
        .collect()
}

fn over() -> impl Strategy<Value = Over> {
    prop_oneof![3 => Just(Over::Memory), 1 => Just(Over::Gloo)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn all_ranks_have_the_same_bits_and_they_are_the_sum(
        over in over(), size in 1usize..7, elements in 0usize..40, seed in any::<u64>(),
    ) {
        let got = run(over, size, |group| {
            let own = Tensor::from_slice(&gradient(seed, group.rank(), elements));
            let whole = all_reduce(group, call("gradients"), &own).unwrap();
            let shares = even_shares(elements as i64, size);
            let part = reduce_scatter(group, call("gradients"), &own, &shares).unwrap();
            let parts = group.all_gather(call("parts"), &part).unwrap();
            (bits(&whole), bits(&parts.rows))
        });
        let leaves: Vec<Vec<f32>> = (0..size).map(|rank| gradient(seed, rank, elements)).collect();
        for (whole, parts) in &got {
            prop_assert_eq!(whole, &got[0].0);
            prop_assert_eq!(parts, whole);
        }
        if size.is_power_of_two() {
            let wanted: Vec<u32> = tree(&leaves).into_iter().map(f32::to_bits).collect();
            prop_assert_eq!(&got[0].0, &wanted);
        }
        for element in 0..elements {
            let exact: f64 = leaves.iter().map(|l| f64::from(l[element])).sum();
            let size: f64 = leaves.iter().map(|l| f64::from(l[element]).abs()).sum();
            let found = f64::from(f32::from_bits(got[0].0[element]));
            // Each of at most three additions rounds once.
            prop_assert!((found - exact).abs() <= 3.0 * size * f64::from(f32::EPSILON));
        }
    }

    #[test]
    fn gradients_of_a_step_do_not_depend_on_the_number_of_ranks(
        over in over(),
        elements in 1usize..20,
        seed in any::<u64>(),
        there in prop::collection::vec(prop::bool::weighted(0.7), 8),
    ) {
        let leaf = |at: usize| there[at].then(|| Tensor::from_slice(&gradient(seed, at, elements)));
        let mut found = Vec::new();
        for ranks in [1, 2, 4, 8] {
            let got = run(over, ranks, |group| {
                let mut own = TreeSum::default();
                for at in run_of(group.rank(), ranks, there.len()).unwrap() {
                    own.push(leaf(at)).unwrap();
                }
                // A rank without tokens makes the same calls.
                let own = own.finish().unwrap().unwrap_or_else(|| {
                    Tensor::from_slice(&vec![0f32; elements])
                });
                bits(&all_reduce(group, call("gradients"), &own).unwrap())
            });
            found.extend(got);
        }
        prop_assert!(found.iter().all(|of| *of == found[0]), "{:?}", found);
    }
}

#[test]
fn adding_in_another_order_would_show() {
    // What the properties above would not see if their numbers were too tame: sums from the first
    // to the last leaf, and sums that begin with a rank's own part.
    let leaves: Vec<Vec<f32>> = (0..8).map(|leaf| gradient(7, leaf, 40)).collect();
    let in_order = |from: usize| -> Vec<f32> {
        let mut sum = leaves[from].clone();
        for other in (0..8).filter(|leaf| *leaf != from) {
            sum.iter_mut()
                .zip(&leaves[other])
                .for_each(|(a, b)| *a += b);
        }
        sum
    };
    let unlike = |a: &[f32], b: &[f32]| a.iter().zip(b).filter(|(a, b)| a != b).count();
    assert!(unlike(&tree(&leaves), &in_order(0)) > 10);
    assert!(unlike(&in_order(0), &in_order(5)) > 10);
}

#[test]
fn narrow_floats_are_summed_in_float32_and_rounded_by_nobody() {
    // 256 + 1 is 256 in bfloat16.
    for over in [Over::Memory, Over::Gloo] {
        let got = run(over, 4, |group| {
            let own = if group.rank() == 0 { 256.0 } else { 1.0 };
            let own = Tensor::from_slice(&[own; 3])
                .to_kind(Kind::BFloat16)
                .view([3, 1]);
            let sum = all_reduce(group, call("gradients"), &own).unwrap();
            (sum.kind(), sum.size(), f64::try_from(sum.max()).unwrap())
        });
        assert!(
            got.iter().all(|of| *of == (Kind::Float, vec![3, 1], 259.0)),
            "{got:?}"
        );
    }
}

#[test]
fn counts_and_norms_are_summed_in_their_own_dtype() {
    let got = run(Over::Memory, 3, |group| {
        let count = Tensor::from_slice(&[i64::MAX / 4, group.rank() as i64]);
        let count = all_reduce(group, call("tokens"), &count).unwrap();
        let norm = Tensor::from_slice(&[1.0 + f64::EPSILON]);
        let norm = all_reduce(group, call("norm"), &norm).unwrap();
        (
            Vec::<i64>::try_from(count).unwrap(),
            f64::try_from(norm).unwrap(),
        )
    });
    let sum = (1.0 + f64::EPSILON) + (1.0 + f64::EPSILON) + (1.0 + f64::EPSILON);
    assert!(
        got.iter().all(|of| *of == (vec![i64::MAX / 4 * 3, 3], sum)),
        "{got:?}"
    );
}

#[test]
fn ranks_that_split_a_sum_in_different_ways_are_told() {
    let got = run(Over::Memory, 2, |group| {
        let own = Tensor::from_slice(&[1f32, 2.0]);
        let rows = if group.rank() == 0 { [1, 1] } else { [0, 2] };
        reduce_scatter(group, call("gradients"), &own, &rows).unwrap_err()
    });
    assert!(
        got.iter()
            .all(|e| matches!(e, CollectiveError::Split { .. })),
        "{got:?}"
    );
    assert!(
        got[0].to_string().contains("[1, 0] rows came"),
        "{}",
        got[0]
    );
}
