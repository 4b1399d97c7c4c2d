//! The named invariants of r1d, checked by one macro.
//!
//! | name | what holds |
//! |---|---|
//! | `STEP-1` | a step is applied to the weights at most once; a committed step can be rebuilt |
//! | `STEP-2` | a run that was killed and resumed ends with the same weights and metrics, bit for bit |
//! | `ROLL-1` | in batch-invariant mode a rollout depends on (weights, seed, step, prompt, sample) alone |
//! | `ROLL-2` | the trainer's forward gives the log-probs that the decode path recorded |
//! | `RWD-1` | a verdict depends on (module, config, sample) alone |
//! | `RWD-2` | a verdict is score, abstain, trap, out-of-fuel or out-of-time, and out-of-time is never trained on |
//! | `CKP-1` | a reader sees a whole checkpoint or none; every file's hash is in the manifest |
//! | `LNK-1` | what controller and node say to each other means the same after it was encoded |
//! | `LIM-1` | every queue, frame, retry and wait has a limit with a name and a unit |
//!
//! A violation panics where `R1D_STRICT=1` (cargo sets it for tests and `cargo run`); elsewhere it
//! is logged and counted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static VIOLATIONS: AtomicU64 = AtomicU64::new(0);

/// Number of violations that this process has counted.
pub fn violations() -> u64 {
    VIOLATIONS.load(Ordering::Relaxed)
}

/// Whether this process is to find its own faults rather than to serve: `R1D_STRICT=1`.
pub fn is_strict() -> bool {
    static STRICT: OnceLock<bool> = OnceLock::new();
    *STRICT.get_or_init(|| {
        cfg!(debug_assertions) || std::env::var_os("R1D_STRICT").is_some_and(|v| v == "1")
    })
}

#[doc(hidden)]
pub fn violated(name: &str, message: std::fmt::Arguments<'_>) {
    VIOLATIONS.fetch_add(1, Ordering::Relaxed);
    tracing::error!(invariant = name, "{message}");
    if is_strict() {
        panic!("invariant {name} violated: {message}");
    }
}

/// Checks a named invariant: `invariant!("STEP-1", step == expected, "step {step} committed
/// twice")`.
#[macro_export]
macro_rules! invariant {
    ($name:literal, $holds:expr, $($message:tt)+) => {
        if !$holds {
            $crate::invariant::violated($name, format_args!($($message)+));
        }
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_violation_panics_under_cargo_and_is_counted() {
        let before = super::violations();
        let caught = std::panic::catch_unwind(|| crate::invariant!("LIM-1", 1 > 2, "planted"));
        assert!(caught.is_err());
        assert_eq!(super::violations(), before + 1);
        crate::invariant!("LIM-1", 2 > 1, "holds");
        assert_eq!(super::violations(), before + 1);
    }
}
