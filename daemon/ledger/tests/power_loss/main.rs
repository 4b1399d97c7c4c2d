//! Power is lost at any operation of an attempt at a job, across journal, rollout files, ledger,
//! checkpoints and the reuse of a stage; or an attempt is given up and goes on writing beside the
//! next one. The code that writes is the daemon's ([`AttemptWriter`]); the disk is simulated.
//!
//! What must hold after each restart is in `check`: nothing that was acknowledged is lost, and
//! whatever the ledger has on record is there, whole, and is what was put there.

mod attempt;
mod check;
#[path = "../sim_backend/mod.rs"]
mod sim_backend;
mod world;

use attempt::Attempt;
use check::{check, check_end};
use r1d_proto::world::counter_hash;
use world::World;

/// Lives that are lived. Seeds are their numbers.
const LIVES: u64 = 10_000;
/// Operations of the longest undisturbed life: power is lost in one of so many, or in none.
const OPERATIONS: u64 = 400;
/// Tasks of an undisturbed attempt, about.
const TASKS: u64 = 20;
/// Losses of power in one life, at most.
const LOSSES_MAX: u64 = 3;

fn draw(seed: u64, what: u64, below: u64) -> u64 {
    counter_hash(&[seed, what]) % below
}

/// The tasks after which attempts of a life are given up.
fn gives_up(seed: u64, life: u64) -> [u64; 2] {
    [20, 30].map(|what| draw(seed, what + life, TASKS * 2))
}

/// Lets attempts follow one another until one comes to its end, and loses power on the way.
fn live(seed: u64) {
    let mut world = World::new();
    for life in 0.. {
        if life < LOSSES_MAX {
            let last = world.disk.operations() + 1 + draw(seed, 10 + life, OPERATIONS);
            world.disk.lose_power_at(last);
        }
        match attempts(&mut world, &gives_up(seed, life)) {
            Ok(()) => break,
            Err(error) => {
                assert!(life < LOSSES_MAX, "seed {seed}: {error}");
                world.lose_power(seed);
                check(&world).unwrap_or_else(|what| panic!("seed {seed}, life {life}: {what}"));
            }
        }
    }
    world.lose_power(seed);
    let ended = check(&world).and_then(|()| check_end(&world));
    ended.unwrap_or_else(|what| panic!("seed {seed}, at the end: {what}"));
}

/// Attempts until one comes to its end. The first ones are given up after so many tasks; they go on
/// with what they had to do, a task before each of the next one's.
fn attempts(world: &mut World, gives_up: &[u64]) -> Result<(), String> {
    let mut given_up: Vec<Attempt> = Vec::new();
    for tasks in gives_up.iter().copied().chain([u64::MAX]) {
        let mut attempt = Attempt::begin(world)?;
        let mut done = 0;
        while done < tasks && attempt.has_more() {
            for old in &mut given_up {
                // Whatever it is told, it goes on.
                let _ = old.go_on(world, false);
            }
            attempt.go_on(world, true)?;
            done += 1;
        }
        if !attempt.has_more() {
            return Ok(());
        }
        given_up.push(attempt);
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_and_what_is_on_record_is_there() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    std::thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || (thread..LIVES).step_by(threads as usize).for_each(live));
        }
    });
}

/// Power can be lost in the last operation of any life, and is lost in most lives.
#[test]
fn power_is_lost_in_every_part_of_a_life() {
    let undisturbed = |seed: u64| {
        let mut world = World::new();
        let before = world.disk.operations();
        attempts(&mut world, &gives_up(seed, 0)).unwrap();
        world.disk.operations() - before
    };
    let mut lengths: Vec<u64> = (0..200).map(undisturbed).collect();
    lengths.sort_unstable();
    let (median, longest) = (lengths[lengths.len() / 2], lengths[lengths.len() - 1]);
    assert!(
        longest <= OPERATIONS,
        "a life has up to {longest} operations"
    );
    assert!(
        2 * OPERATIONS < 3 * median,
        "half of all lives have at most {median} operations"
    );
}
