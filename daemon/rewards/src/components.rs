//! The components in use, by their hash: a component that judges for several rewards and jobs is
//! compiled, or read from the code cache, once.

use crate::abandoned::Abandoned;
use crate::error::RewardError;
use crate::gate::Gate;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use wasmtime::component::Component;

/// SHA-256 of the file, and whether an interpreter is inside, which decides the engine.
type Key = ([u8; 32], bool);

#[derive(Default)]
pub(crate) struct Components(Mutex<HashMap<Key, Arc<Entry>>>);

struct Entry {
    /// Lets one caller make the component while others wait for it.
    making: Gate,
    made: Mutex<Weak<Component>>,
}

impl Entry {
    fn get(&self) -> Option<Arc<Component>> {
        self.made
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .upgrade()
    }
}

impl Components {
    /// Returns the component of this key if it is in use; otherwise calls `make`, while other
    /// callers with the same key wait, of which their `waits` hears.
    pub(crate) fn get(
        &self,
        key: Key,
        abandoned: &Abandoned,
        waits: impl FnOnce(),
        make: impl FnOnce() -> Result<Component, RewardError>,
    ) -> Result<Arc<Component>, RewardError> {
        let entry = {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Forget components that are neither in use nor being made.
            known.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.get().is_some());
            let fresh = || {
                Arc::new(Entry {
                    making: Gate::new(1),
                    made: Mutex::default(),
                })
            };
            known.entry(key).or_insert_with(fresh).clone()
        };
        let _making = entry
            .making
            .enter_telling(abandoned, waits)
            .ok_or(RewardError::Abandoned)?;
        if let Some(component) = entry.get() {
            return Ok(component);
        }
        let component = Arc::new(make()?);
        *entry.made.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&component);
        Ok(component)
    }
}
