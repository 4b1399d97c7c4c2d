//! The collectives move what they say, for any sizes, over each transport; calls that do not match
//! and ranks that do not come are named.

mod gangs;

use gangs::{LONG, Over, call, run};
use proptest::prelude::*;
use r1d_collectives::flight::Blame;
use r1d_collectives::open::{Member, OpenError, Transport, open};
use r1d_collectives::rendezvous::{Rendezvous, Shared};
use r1d_collectives::{Call, CollectiveError, ProcessGroup};
use r1d_proto::world::SystemClock;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Rows of `width` numbers that no other rank's rows have. All are exact in bfloat16.
fn rows(rank: usize, count: i64, width: i64, kind: Kind) -> Tensor {
    let numbers = Tensor::arange(count * width, (Kind::Int64, Device::Cpu)).remainder(16);
    (numbers + 16 * rank as i64)
        .view([count, width])
        .to_kind(kind)
}

fn numbers(tensor: &Tensor) -> Vec<i64> {
    Vec::try_from(tensor.to_kind(Kind::Int64).contiguous().view([-1])).unwrap()
}

/// A gang: its transport, the rows that each rank has for each other, their width and dtype.
fn gang() -> impl Strategy<Value = (Over, Vec<Vec<i64>>, i64, Kind)> {
    let over = prop_oneof![3 => Just(Over::Memory), 1 => Just(Over::Gloo)];
    let kind = prop_oneof![
        Just(Kind::Float),
        Just(Kind::BFloat16),
        Just(Kind::Int64),
        Just(Kind::Uint8)
    ];
    let counts = (1usize..6).prop_flat_map(|size| {
        let row = prop::collection::vec(prop_oneof![Just(0i64), 0i64..7], size);
        prop::collection::vec(row, size)
    });
    (over, counts, 0i64..4, kind)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn all_to_all_brings_each_rank_its_rows((over, counts, width, kind) in gang()) {
        let got = run(over, counts.len(), |group| {
            let sent = &counts[group.rank()];
            let own = rows(group.rank(), sent.iter().sum(), width, kind);
            let received = group.all_to_all(call("dispatch"), &own, sent).unwrap();
            (received.counts, received.rows.kind(), numbers(&received.rows), received.rows.size())
        });
        for (rank, (found, of, numbers_found, size)) in got.into_iter().enumerate() {
            let wanted: Vec<i64> = counts.iter().map(|sent| sent[rank]).collect();
            prop_assert_eq!(&found, &wanted);
            prop_assert_eq!(of, kind);
            prop_assert_eq!(size, vec![wanted.iter().sum(), width]);
            let parts = counts.iter().enumerate().flat_map(|(from, sent)| {
                let all = rows(from, sent.iter().sum(), width, kind);
                numbers(&all.narrow(0, sent[..rank].iter().sum(), sent[rank]))
            });
            prop_assert_eq!(numbers_found, parts.collect::<Vec<_>>());
        }
    }

    #[test]
    fn all_gather_brings_all_rows_to_all(
        (over, counts, width, kind) in gang(), even in any::<bool>(),
    ) {
        let of = |rank: usize| counts[if even { 0 } else { rank }][0];
        let got = run(over, counts.len(), |group| {
            let own = rows(group.rank(), of(group.rank()), width, kind);
            let received = group.all_gather(call("gather"), &own).unwrap();
            (received.counts, numbers(&received.rows))
        });
        let wanted: Vec<i64> = (0..counts.len()).map(of).collect();
        let all: Vec<i64> =
            (0..counts.len()).flat_map(|r| numbers(&rows(r, of(r), width, kind))).collect();
        for found in got {
            prop_assert_eq!(found, (wanted.clone(), all.clone()));
        }
    }

    #[test]
    fn broadcast_brings_the_roots_tensor((over, counts, width, kind) in gang(), root in 0usize..6) {
        let (size, root) = (counts.len(), root % counts.len());
        let got = run(over, size, |group| {
            let mut tensor = rows(group.rank(), 3, width, kind);
            group.broadcast(call("weights"), &mut tensor, root).unwrap();
            group.barrier(call("done")).unwrap();
            numbers(&tensor)
        });
        for found in got {
            prop_assert_eq!(found, numbers(&rows(root, 3, width, kind)));
        }
    }
}

#[test]
fn rows_that_are_not_contiguous_travel_too() {
    for over in [Over::Memory, Over::Gloo] {
        let got = run(over, 2, |group| {
            let own = rows(group.rank(), 2, 4, Kind::Float).transpose(0, 1);
            assert!(!own.is_contiguous());
            let received = group.all_to_all(call("dispatch"), &own, &[1, 3]).unwrap();
            numbers(&received.rows)
        });
        assert_eq!(
            got,
            [
                vec![0, 4, 16, 20],
                vec![1, 5, 2, 6, 3, 7, 17, 21, 18, 22, 19, 23]
            ]
        );
    }
}

/// Runs two ranks that make these calls at the same time, and returns the errors of both.
fn mismatched(
    over: Over,
    first: impl Fn(&mut ProcessGroup) -> Result<(), CollectiveError> + Sync,
    second: impl Fn(&mut ProcessGroup) -> Result<(), CollectiveError> + Sync,
) -> Vec<String> {
    run(over, 2, |group| {
        group.barrier(call("begin")).unwrap();
        let error = match group.rank() {
            0 => first(group),
            _ => second(group),
        }
        .unwrap_err();
        assert!(matches!(error, CollectiveError::Mismatch { .. }), "{error}");
        let over = group.barrier(call("after")).unwrap_err();
        assert!(matches!(over, CollectiveError::Over { .. }), "{over}");
        let last = group.flight().last().unwrap().to_string();
        assert!(last.contains("failed"), "{last}");
        error.to_string()
    })
}

#[test]
fn calls_that_do_not_match_are_named_on_both_ranks() {
    let floats = |width: i64| rows(0, 2, width, Kind::Float);
    for over in [Over::Memory, Over::Gloo] {
        let order = mismatched(
            over,
            |group| {
                group
                    .all_to_all(call("dispatch"), &floats(3), &[1, 1])
                    .map(|_| ())
            },
            |group| group.all_gather(call("weights"), &floats(3)).map(|_| ()),
        );
        let [dispatch, weights] = [
            "`dispatch` (call 2: all-to-all of Float rows [3])",
            "`weights` (call 2: all-gather of Float rows [3])",
        ];
        assert_eq!(
            order,
            [
                format!("group `test`: rank 0 calls {dispatch}, rank 1 calls {weights}"),
                format!("group `test`: rank 1 calls {weights}, rank 0 calls {dispatch}"),
            ]
        );
        let shape = mismatched(
            over,
            |group| group.all_gather(call("weights"), &floats(3)).map(|_| ()),
            |group| group.all_gather(call("weights"), &floats(4)).map(|_| ()),
        );
        assert!(
            shape[0].contains("rows [3]") && shape[0].contains("rows [4]"),
            "{shape:?}"
        );
        let kind = mismatched(
            over,
            |group| group.all_gather(call("weights"), &floats(3)).map(|_| ()),
            |group| {
                let half = floats(3).to_kind(Kind::BFloat16);
                group.all_gather(call("weights"), &half).map(|_| ())
            },
        );
        assert!(
            kind[1].contains("Float") && kind[1].contains("BFloat16"),
            "{kind:?}"
        );
        // The same bytes for another purpose: only the name tells.
        let name = mismatched(
            over,
            |group| group.barrier(call("step 3")),
            |group| group.barrier(call("step 4")),
        );
        assert!(
            name[0].contains("`step 3`") && name[0].contains("`step 4`"),
            "{name:?}"
        );
    }
}

#[test]
fn a_rank_that_does_not_come_is_waited_for_until_the_deadline_and_named() {
    for over in [Over::Memory, Over::Gloo] {
        let ended = Shared::default();
        let got = run(over, 3, |group| {
            group.barrier(call("begin")).unwrap();
            if group.rank() == 1 {
                // Holds its connections until the deadline has ended the others' calls.
                ended.get("0", LONG / 2).unwrap();
                ended.get("2", LONG / 2).unwrap();
                return None;
            }
            let soon = Call::new("dispatch", Duration::from_millis(300));
            let error = group.barrier(soon).unwrap_err();
            ended.set(&group.rank().to_string(), b"").unwrap();
            Some(error)
        });
        for rank in [0, 2] {
            let Some(CollectiveError::Failed { call, blame, .. }) = &got[rank] else {
                panic!("{:?}", got[rank]);
            };
            assert_eq!(call.name, "dispatch");
            assert_eq!(*blame, Blame::Silent(vec![1]), "{over:?}");
            let text = got[rank].as_ref().unwrap().to_string();
            assert!(text.contains("rank 1 is waited for"), "{text}");
        }
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_moves() {
    let got = run(Over::Memory, 2, |group| {
        let tensor = rows(0, 3, 2, Kind::Float);
        let refused = [
            group.all_to_all(call("a"), &tensor, &[1, 1]).unwrap_err(),
            group.all_to_all(call("b"), &tensor, &[3]).unwrap_err(),
            group.all_to_all(call("c"), &tensor, &[4, -1]).unwrap_err(),
            group.all_gather(call("d"), &Tensor::from(1.0)).unwrap_err(),
            group
                .broadcast(call("e"), &mut rows(0, 1, 1, Kind::Float), 2)
                .unwrap_err(),
            group
                .all_gather(
                    call("f"),
                    &Tensor::zeros([1; 9], (Kind::Float, Device::Cpu)),
                )
                .unwrap_err(),
        ];
        // The group is none the worse for it.
        group.barrier(call("end")).unwrap();
        refused
            .iter()
            .all(|e| matches!(e, CollectiveError::Refused { .. }))
    });
    assert_eq!(got, [true, true]);
}

#[test]
fn ranks_that_are_missing_or_unlike_are_named_before_anything_is_connected() {
    let try_open = |rank, size, build: &str, transport, at: Arc<dyn Rendezvous>| {
        let build = build.to_owned();
        let own = Member { rank, size, build };
        let within = Duration::from_millis(200);
        open(
            "job 7/epoch 2/all",
            &own,
            &transport,
            at,
            SystemClock::shared(),
            within,
        )
        .map(|_| ())
        .unwrap_err()
    };
    let gloo = Transport::Gloo {
        host: "127.0.0.1".to_owned(),
    };
    let shared: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    let missing = try_open(1, 4, "a", gloo.clone(), Arc::clone(&shared));
    assert_eq!(
        missing.to_string(),
        "group `job 7/epoch 2/all`: ranks 0, 2, 3 did not come within 200ms"
    );
    let shared: Arc<dyn Rendezvous> = Arc::new(Shared::default());
    let got: Vec<String> = std::thread::scope(|scope| {
        let threads = ["a", "b"].into_iter().enumerate().map(|(rank, build)| {
            let (gloo, shared) = (gloo.clone(), Arc::clone(&shared));
            let run = move || try_open(rank, 2, build, gloo, shared).to_string();
            scope.spawn(run)
        });
        let threads: Vec<_> = threads.collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(
        got[0].contains("build a") && got[0].contains("build b"),
        "{got:?}"
    );
    let on = |device| Transport::Nccl {
        host: "127.0.0.1".to_owned(),
        device,
    };
    let nccl = try_open(0, 1, "a", on(Device::Cpu), shared.clone());
    assert!(matches!(nccl, OpenError::NotAGpu { .. }));
    assert!(nccl.to_string().contains("is for GPUs"), "{nccl}");
}
