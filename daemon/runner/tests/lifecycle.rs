//! Queue, lives and machines together in a simulated daemon: the schedule, a life for each job in
//! hand, the machine of its attempt, and the ledger's own state, with everything around them by
//! seed. Devices break and heal, some fail every job and no probe shows it, workers die, the daemon
//! crashes, files go away, and clients submit, cancel, pause, resume and requeue, in two parts that
//! other things come between.
//!
//! Whatever the seed: a job is in hand once, one writer writes for it, it is paused where a user
//! paused it, no device's fault counts against it as long as there is a good one, and in the end
//! every job that can has run.

mod ledger_queue;
mod simulated_daemon;

use simulated_daemon::World;

/// Seeds per test.
const SEEDS: u64 = 1500;

#[test]
fn whatever_happens_every_job_that_can_ends_as_it_should() {
    let (mut crashes, mut doubts, mut pauses, mut escapes, mut gangs) = (0, 0, 0, 0, 0);
    for seed in 0..SEEDS {
        let mut world = World::new(seed);
        world.live(400);
        world.settle();
        crashes += world.crashes;
        doubts += world.doubts;
        pauses += world.pauses;
        escapes += world.escapes;
        gangs += world.gangs;
    }
    // The world is as rough as it claims to be.
    assert!(crashes > SEEDS / 2, "{crashes} crashes");
    assert!(gangs > SEEDS / 4, "{gangs} gangs");
    assert!(doubts > SEEDS / 4, "{doubts} devices doubted");
    assert!(pauses > SEEDS / 2, "{pauses} pauses");
    assert!(escapes > SEEDS / 4, "{escapes} sound jobs left bad devices");
}
