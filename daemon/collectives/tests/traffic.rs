//! What a rank's calls come to.

use r1d_collectives::{Call, in_process};
use std::thread::scope;
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// Bytes of a call's header to another rank.
const HEADER: u64 = 256;

#[test]
fn bytes_to_others_are_counted_and_those_that_stay_are_not() {
    let sent = |group: &mut r1d_collectives::ProcessGroup| {
        let rows = Tensor::ones([6, 2], (Kind::Float, Device::Cpu));
        let call = |name| Call::new(name, Duration::from_secs(60));
        let mut before = group.traffic();
        let mut took = |group: &r1d_collectives::ProcessGroup| {
            let own = group.traffic().since(before);
            before = group.traffic();
            own.sent_bytes
        };
        let counts = [[1, 2, 3], [0, 6, 0], [6, 0, 0]][group.rank()];
        group.all_to_all(call("rows"), &rows, &counts).unwrap();
        let exchanged = took(group);
        group.all_gather(call("all"), &rows).unwrap();
        let gathered = took(group);
        group.broadcast(call("one"), &mut rows.copy(), 1).unwrap();
        let told = took(group);
        group.barrier(call("none")).unwrap();
        assert!(group.traffic().time > Duration::ZERO);
        [exchanged, gathered, told, took(group)].map(|bytes| bytes - 2 * HEADER)
    };
    let groups = in_process::gang("test", 3);
    let found: Vec<[u64; 4]> = scope(|scope| {
        let ranks: Vec<_> = groups
            .into_iter()
            .map(|mut group| scope.spawn(move || sent(&mut group)))
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert_eq!(
        found,
        [[40, 96, 0, 0], [0, 96, 96, 0], [48, 96, 0, 0]],
        "rows of 8 bytes"
    );
}
