//! Reloads and poisoned batches leave nothing behind. These tests measure the process, so they run
//! one at a time and in a binary of their own.

mod guests;

use guests::shipped::{PLUGINS, THREADS, batch, judge_all, load_shipped, with_poison};
use guests::{Guest, completion, load, resident_bytes, returns, rewards};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{LoadedReward, attacks};
use std::sync::Mutex;

static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn two_hundred_reloads_leave_nothing_behind() {
    let _alone = ALONE.lock();
    let rewards = rewards(1);
    let reload = |i: u32| {
        let reward = load(
            &rewards,
            &Guest {
                score: &returns(&format!("(f32.const {})", i as f32 / 1000.0)),
                ..Guest::default()
            },
        );
        assert_eq!(
            reward.score(&completion("2", None)).unwrap().outcome,
            Outcome::Score {
                value: i as f32 / 1000.0,
                parts: vec![]
            }
        );
    };
    (0..50).for_each(reload);
    let before = resident_bytes();
    (50..250).for_each(reload);
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes more after 200 reloads");
}

#[test]
fn two_hundred_poisoned_batches_leave_nothing_behind() {
    let _alone = ALONE.lock();
    const GROWTH_BYTES_MAX: usize = 16 << 20;
    let rewards = rewards(THREADS);
    let loaded: Vec<LoadedReward> = PLUGINS
        .into_iter()
        .map(|plugin| load_shipped(&rewards, plugin))
        .collect();
    let clean = batch();
    let texts = attacks::texts();
    // Every plugin in turn, and each time another poison.
    let run = |i: usize| {
        drop(judge_all(
            &loaded[i % loaded.len()],
            &with_poison(&clean, &texts[i % texts.len()].1),
            "0.5",
        ))
    };
    (0..100).for_each(run);
    let before = resident_bytes();
    (100..300).for_each(run);
    let grown = resident_bytes().saturating_sub(before);
    assert!(
        grown < GROWTH_BYTES_MAX,
        "{grown} bytes more after 200 poisoned batches"
    );
}
