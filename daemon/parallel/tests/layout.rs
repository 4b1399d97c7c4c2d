//! Every layout that is taken gives each rank one place and each expert one owner in each replica;
//! every other is refused with what to write instead.

use proptest::prelude::*;
use r1d_parallel::micro_batches::{TreeError, items_of, run_of};
use r1d_parallel::{Layout, LayoutError};
use std::collections::BTreeSet;

proptest! {
    #[test]
    fn groups_part_the_ranks(data in 1usize..9, expert in 1usize..17) {
        let layout = Layout::new(data, expert).unwrap();
        let all: Vec<usize> = (0..layout.ranks()).collect();
        prop_assert_eq!(all.len(), data * expert);

        let by_replica: Vec<usize> = (0..data).flat_map(|d| layout.expert_group(d)).collect();
        prop_assert_eq!(&by_replica, &all, "neighbours exchange tokens");
        let by_shard: BTreeSet<usize> = (0..expert).flat_map(|e| layout.data_group(e)).collect();
        prop_assert_eq!(by_shard.into_iter().collect::<Vec<_>>(), all.clone());

        for rank in all {
            let (shard, replica) = (layout.shard(rank), layout.replica(rank));
            prop_assert_eq!(layout.expert_group(replica).nth(shard), Some(rank));
            prop_assert_eq!(layout.data_group(shard).nth(replica), Some(rank));
            let neighbours = layout.expert_group(replica);
            let meet: Vec<usize> =
                layout.data_group(shard).filter(|r| neighbours.contains(r)).collect();
            prop_assert_eq!(meet, vec![rank]);
        }
    }

    #[test]
    fn each_expert_has_one_owner_in_each_replica(
        data in 1usize..5, expert in 1usize..9, each in 1usize..33,
    ) {
        let layout = Layout::new(data, expert).unwrap();
        let experts = expert * each;
        layout.fits_model(experts).unwrap();
        let parts: Vec<usize> = (0..expert).flat_map(|s| layout.experts_of(s, experts)).collect();
        prop_assert_eq!(parts, (0..experts).collect::<Vec<_>>());
        for replica in 0..data {
            for id in 0..experts {
                let owner = layout.owner(replica, id, experts);
                prop_assert_eq!(layout.replica(owner), replica);
                prop_assert!(layout.experts_of(layout.shard(owner), experts).contains(&id));
            }
        }
    }

    #[test]
    fn what_does_not_divide_is_refused(expert in 2usize..17, experts in 1usize..300) {
        let layout = Layout::new(1, expert).unwrap();
        prop_assert_eq!(layout.fits_model(experts).is_ok(), experts % expert == 0);
        prop_assert_eq!(layout.fits_model(0), Err(LayoutError::Dense { expert }));
    }

    #[test]
    fn the_default_uses_all_devices_and_fits(devices in 1usize..65, experts in 0usize..300) {
        let layout = Layout::for_devices(devices, experts).unwrap();
        layout.fits_devices(devices).unwrap();
        layout.fits_model(experts).unwrap();
        if experts > 0 {
            for more in layout.expert() + 1..=devices {
                prop_assert!(devices % more != 0 || experts % more != 0, "{} shards fit too", more);
            }
        }
    }

    #[test]
    fn micro_batches_are_shared_by_ranks(j in 0u32..5, more in 0u32..4, items in 0usize..200) {
        let (ranks, micro_batches) = (1usize << j, 1usize << (j + more));
        let mut seen = Vec::new();
        for rank in 0..ranks {
            let run = run_of(rank, ranks, micro_batches).unwrap();
            prop_assert_eq!(run.len(), 1 << more);
            seen.extend(run.flat_map(|b| items_of(b, micro_batches, items)));
        }
        prop_assert_eq!(seen, (0..items).collect::<Vec<_>>());
    }
}

#[test]
fn layouts_are_refused_with_what_to_write() {
    let text = |error: LayoutError| error.to_string();
    assert_eq!(
        text(Layout::new(0, 2).unwrap_err()),
        "`data` is 0: it is at least 1"
    );
    assert_eq!(
        text(Layout::new(usize::MAX, 2).unwrap_err()),
        "data = 18446744073709551615 × expert = 2 ranks: at most 4096"
    );
    let layout = Layout::new(2, 4).unwrap();
    assert_eq!(
        text(layout.fits_devices(4).unwrap_err()),
        "data = 2 × expert = 4 needs 8 devices, and the job has 4: change `data` or `expert` so \
         that their product is 4"
    );
    assert_eq!(
        text(layout.fits_model(6).unwrap_err()),
        "6 experts do not divide into expert = 4 shards: `expert` is one of 1, 2, 3, 6"
    );
    assert_eq!(
        text(layout.fits_model(0).unwrap_err()),
        "expert = 4, but the model has no experts: use `data`"
    );
}

#[test]
fn trees_are_of_powers_of_two() {
    assert_eq!(run_of(3, 4, 16), Ok(12..16));
    assert_eq!(
        run_of(0, 3, 16),
        Err(TreeError::NoPowerOfTwo {
            what: "ranks",
            count: 3
        })
    );
    assert_eq!(
        run_of(0, 8, 4),
        Err(TreeError::TooFew {
            micro_batches: 4,
            ranks: 8
        })
    );
}
