//! Whom a call waits for is said while it waits.

use r1d_collectives::{Call, in_process};
use r1d_proto::world::SystemClock;
use std::sync::mpsc::channel;
use std::thread::scope;
use std::time::Duration;

const LONG: Duration = Duration::from_secs(60);

#[test]
fn a_rank_that_does_not_come_is_named_before_the_deadline() {
    let mut groups = in_process::gang("test", 3).into_iter();
    let [mut first, mut late, mut last] = [(); 3].map(|()| groups.next().unwrap());
    let (mut of_first, mut of_last) = (first.watch(), last.watch());
    assert_eq!(
        of_first.look(Duration::ZERO).unwrap(),
        None,
        "no call is made"
    );
    let (come, is_wanted) = channel::<()>();
    scope(|scope| {
        for group in [&mut first, &mut last] {
            scope.spawn(move || group.barrier(Call::new("step", LONG)).unwrap());
        }
        scope.spawn(move || {
            is_wanted.recv().unwrap();
            late.barrier(Call::new("step", LONG)).unwrap();
        });
        let clock = SystemClock::shared();
        let until = clock.now() + LONG;
        let named = loop {
            assert!(clock.now() < until, "nobody is named");
            let _ = of_last.look(Duration::ZERO).unwrap();
            match of_first.look(Duration::ZERO).unwrap() {
                Some(waiting) if waiting.ranks == [1] => break waiting.to_string(),
                _ => std::thread::yield_now(),
            }
        };
        assert_eq!(named, "waiting for rank 1 in `step` (call 1: barrier)");
        assert_eq!(
            of_first.look(LONG).unwrap(),
            None,
            "it has not waited for long"
        );
        come.send(()).unwrap();
    });
    assert_eq!(
        of_first.look(Duration::ZERO).unwrap(),
        None,
        "the call is over"
    );
}
