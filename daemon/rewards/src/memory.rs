//! The memory of an instance, counted by the host.

use crate::limits;
use wasmtime::ResourceLimiter;

/// Counts the memory that an instance may still take.
pub(crate) struct Memory {
    left: usize,
    /// All that it may take, in bytes.
    pub limit: usize,
    /// Whether it wanted more.
    pub refused: bool,
}

impl Memory {
    /// Memory for an instance that may take `limit` bytes.
    pub(crate) fn new(limit: usize) -> Memory {
        Memory {
            left: limit,
            limit,
            refused: false,
        }
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let wanted = desired.saturating_sub(current);
        match self.left.checked_sub(wanted) {
            Some(left) => self.left = left,
            None => self.refused = true,
        }
        Ok(!self.refused)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= limits::TABLE_ELEMENTS_MAX)
    }

    fn instances(&self) -> usize {
        limits::CORE_INSTANCES_MAX
    }

    fn tables(&self) -> usize {
        limits::TABLES_MAX
    }

    fn memories(&self) -> usize {
        limits::MEMORIES_MAX
    }
}
