//! Time and randomness, as the outside gives them to a component. Nothing else in the control plane
//! reads either, so a simulator that hands in its own replays a run from its seed.

use std::sync::Arc;
use std::time::Duration;

/// Time since an arbitrary start, and the calendar. Contract: `now` never goes back.
pub trait Clock: Send + Sync + 'static {
    /// Time since the clock's start.
    fn now(&self) -> Duration;
    /// Time since the Unix epoch.
    fn unix(&self) -> Duration;
}

/// A clock that many parts of a process share.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clock: the only place that reads it.
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// The system's clock, whose `now` counts from this call.
    #[allow(
        clippy::disallowed_methods,
        reason = "the one owner of the system's clock"
    )]
    pub fn shared() -> SharedClock {
        Arc::new(SystemClock {
            start: std::time::Instant::now(),
        })
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "the one owner of the system's clock"
    )]
    fn unix(&self) -> Duration {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
    }
}

/// A random number that is a function of its key, never of the order of calls.
///
/// Two rounds of the finaliser of SplitMix64 (Steele, Lea, Flood 2014) over the folded key words:
/// far from cryptographic, good enough for sampling, and the same on every machine.
pub fn counter_hash(words: &[u64]) -> u64 {
    mix(folded(words))
}

/// 2⁶⁴ divided by the golden ratio: the increment of SplitMix64.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn folded(words: &[u64]) -> u64 {
    words.iter().fold(GOLDEN, |state, word| fold(state, *word))
}

fn fold(state: u64, word: u64) -> u64 {
    mix(state.wrapping_add(GOLDEN) ^ mix(word.wrapping_add(GOLDEN)))
}

/// A uniform in [0, 1) with 24 random bits, exact in f32.
pub fn counter_uniform(words: &[u64]) -> f32 {
    (counter_hash(words) >> 40) as f32 / (1u32 << 24) as f32
}

/// A permutation of `0..len` that depends on the key alone (Fisher–Yates).
pub fn counter_permutation(key: &[u64], len: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..len).collect();
    shuffle(key, &mut order);
    order
}

/// The permutation of [`counter_permutation`] in half of its memory.
pub fn counter_order(key: &[u64], len: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..len).collect();
    shuffle(key, &mut order);
    order
}

fn shuffle<T>(key: &[u64], order: &mut [T]) {
    // The hash of the key and i; the key's part of it is the same for all.
    let state = folded(key);
    for i in (1..order.len()).rev() {
        let j = (mix(fold(state, i as u64)) % (i as u64 + 1)) as usize;
        order.swap(i, j);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uniforms_fill_the_interval_and_depend_on_every_word() {
        let n = 10_000u64;
        let mean = (0..n)
            .map(|i| counter_uniform(&[7, 1, 2, i]) as f64)
            .sum::<f64>()
            / n as f64;
        assert!((mean - 0.5).abs() < 0.02, "mean {mean}");
        assert_ne!(counter_hash(&[1, 2]), counter_hash(&[2, 1]));
        assert_ne!(counter_hash(&[0]), counter_hash(&[0, 0]));
    }

    /// The orders of all jobs that have begun.
    #[test]
    fn a_permutation_takes_a_hash_of_its_key_and_of_each_place() {
        let (key, mut order) = ([3, 4, 1 << 60], (0..1000).collect::<Vec<usize>>());
        for i in (1..1000).rev() {
            let hash = counter_hash(&[key[0], key[1], key[2], i as u64]);
            order.swap(i, (hash % (i as u64 + 1)) as usize);
        }
        assert_eq!(counter_permutation(&key, 1000), order);
    }

    #[test]
    fn permutation_holds_every_index_once() {
        let mut order = counter_permutation(&[3, 4], 100);
        assert_ne!(order, (0..100).collect::<Vec<_>>());
        order.sort_unstable();
        assert_eq!(order, (0..100).collect::<Vec<_>>());
    }
}
