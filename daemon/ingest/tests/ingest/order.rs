//! Which rows a step takes.

use crate::made::orders;
use proptest::prelude::*;
use r1d_ingest::{InThisProcess, Order, Orders};
use r1d_proto::world::counter_permutation;
use std::collections::BTreeSet;
use std::sync::Arc;

fn shuffled(seed: u64, stage: u32) -> Order {
    Order {
        seed,
        stage,
        shuffle: true,
    }
}

/// The rows of a step as they were found before the orders of epochs were kept: the whole
/// permutation, for each step.
fn found_anew(order: Order, step: u64, per_step: u64, len: u64) -> Vec<u64> {
    const ROWS: u64 = 0x726f_7773;
    let row = |position: u64| {
        let key = [ROWS, order.seed, order.stage as u64, position / len];
        counter_permutation(&key, len as usize)[(position % len) as usize] as u64
    };
    (step * per_step..(step + 1) * per_step).map(row).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// Whatever the step size, the steps together are whole permutations of the rows, one after the
    /// other.
    #[test]
    fn an_epoch_takes_every_row_once(seed in any::<u64>(), stage in 0u32..4, len in 1u64..40,
        per_step in 1u64..50) {
        let (orders, order) = (orders(), shuffled(seed, stage));
        let steps = (3 * len).div_ceil(per_step);
        let stream: Vec<u64> = (0..steps)
            .flat_map(|step| orders.rows_of_step(order, step, per_step, len).unwrap()).collect();
        prop_assert_eq!(stream.len() as u64, steps * per_step);
        for epoch in stream.chunks_exact(len as usize) {
            prop_assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), (0..len)
                .collect::<BTreeSet<_>>());
        }
    }

    /// The order of every job that has begun stays what it was.
    #[test]
    fn kept_orders_are_those_of_whole_permutations(seed in any::<u64>(), stage in 0u32..4,
        len in 1u64..30, per_step in 1u64..40, step in 0u64..5) {
        let (orders, order) = (orders(), shuffled(seed, stage));
        for step in [step, 0, step] {
            prop_assert_eq!(orders.rows_of_step(order, step, per_step, len).unwrap(),
                found_anew(order, step, per_step, len));
        }
    }
}

#[test]
fn the_order_of_rows_depends_on_seed_stage_and_epoch() {
    let orders = orders();
    let order = |seed, stage, step| {
        let rows = orders.rows_of_step(shuffled(seed, stage), step, 50, 50);
        rows.unwrap()
    };
    assert_eq!(order(1, 0, 0), order(1, 0, 0));
    assert_ne!(order(1, 0, 0), order(2, 0, 0));
    assert_ne!(order(1, 0, 0), order(1, 1, 0));
    assert_ne!(order(1, 0, 0), order(1, 0, 1));
    let in_order = Order {
        shuffle: false,
        ..shuffled(1, 0)
    };
    assert_eq!(orders.rows_of_step(in_order, 1, 3, 4).unwrap(), [3, 0, 1]);
}

/// The order of a long epoch is in a file that has no name: it is the same order.
#[test]
fn a_long_order_is_on_the_disk_and_the_same() {
    const LEN: u64 = (1 << 20) + 5;
    let dir = tempfile::tempdir().unwrap();
    let orders = Orders::new(dir.path(), Arc::new(InThisProcess));
    let whole = counter_permutation(&[0x726f_7773, 3, 1, 1], LEN as usize);
    let order = shuffled(3, 1);
    let first = orders.rows_of_step(order, 1, LEN, LEN).unwrap();
    assert!(
        first
            .iter()
            .zip(&whole)
            .all(|(row, other)| *row == *other as u64)
    );
    let step = orders.rows_of_step(order, LEN / 100 + 7, 100, LEN).unwrap();
    let place = ((LEN / 100 + 7) * 100 - LEN) as usize;
    let expected: Vec<u64> = whole[place..place + 100]
        .iter()
        .map(|row| *row as u64)
        .collect();
    assert_eq!(step, expected);
    assert_eq!(
        std::fs::read_dir(dir.path()).unwrap().count(),
        0,
        "no name is left"
    );
}

/// Prints what the rows of a step from 10 million cost: `cargo test … -- --ignored --nocapture`.
#[test]
#[ignore = "prints times"]
fn rows_of_ten_million() {
    const LEN: u64 = 10_000_000;
    let clock = r1d_proto::world::SystemClock::shared();
    let orders = orders();
    for (what, steps) in [("the first step", 0..1), ("each of 1,000 more", 1..1001)] {
        let (begun, count) = (clock.now(), steps.end - steps.start);
        for step in steps {
            let rows = orders.rows_of_step(shuffled(1, 0), step, 512, LEN).unwrap();
            assert_eq!(rows.len(), 512);
        }
        println!("{what}: {:?}", (clock.now() - begun) / count as u32);
    }
}
