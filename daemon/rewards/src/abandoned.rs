//! A flag for work that is no longer wanted: loading a component takes seconds at worst, and its
//! caller may leave before that.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A flag shared between a caller that waits and the work that it waits for. Work that began with
/// it ends soon after it is [set](Abandoned::set).
#[derive(Clone, Default)]
pub struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    /// Tells the work that its result is no longer wanted.
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the result is no longer wanted.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
