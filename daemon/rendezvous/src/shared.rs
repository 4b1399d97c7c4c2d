//! A rendezvous in memory, for ranks that are threads of one process.

use crate::table::Table;
use crate::{Rendezvous, RendezvousError};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A rendezvous in memory.
#[derive(Default)]
pub struct Shared {
    table: Mutex<Table>,
    changed: Condvar,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rendezvous for Shared {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), RendezvousError> {
        self.table().set(key, value.to_vec())?;
        self.changed.notify_all();
        Ok(())
    }

    fn get(&self, key: &str, within: Duration) -> Result<Vec<u8>, RendezvousError> {
        let is_absent = |table: &mut Table| table.get(key).is_none();
        let (table, _) = self
            .changed
            .wait_timeout_while(self.table(), within, is_absent)
            .unwrap_or_else(PoisonError::into_inner);
        let value = table.get(key).map(<[u8]>::to_vec);
        value.ok_or_else(|| RendezvousError::Absent {
            key: key.to_owned(),
            within,
        })
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, RendezvousError> {
        let sum = self.table().add(key, amount)?;
        self.changed.notify_all();
        Ok(sum)
    }
}
