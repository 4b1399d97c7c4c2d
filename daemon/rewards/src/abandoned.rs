//! Work that nobody waits for any more: loading a component takes seconds at worst, and whoever
//! asked for it may leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Shared between who waits and who works; what is begun under it ends soon after it is
/// [set](Abandoned::set).
#[derive(Clone, Default)]
pub struct Abandoned(Arc<AtomicBool>);

impl Abandoned {
    pub fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
