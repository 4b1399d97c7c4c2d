//! The schedule of a request: in slots of the cache, or in pages.

use crate::paged_schedule::PagedSchedule;
use crate::schedule::Schedule;

pub(crate) enum Scheduler {
    /// Each row has a slot, as libtorch's operations read it.
    Slots(Schedule),
    /// Rows have pages, as r1d's own kernels read them.
    Pages(PagedSchedule),
}

impl Scheduler {
    /// Whether samples of `group`, which was prefilled, still wait.
    pub(crate) fn waits(&self, group: usize) -> bool {
        match self {
            Scheduler::Slots(schedule) => schedule.waits(group),
            Scheduler::Pages(schedule) => schedule.waits(group),
        }
    }

    /// The number of samples that have not started.
    pub(crate) fn waiting(&self) -> usize {
        match self {
            Scheduler::Slots(schedule) => schedule.waiting(),
            Scheduler::Pages(schedule) => schedule.waiting(),
        }
    }

    /// The pages of each row; none where rows have slots.
    pub(crate) fn tables(&self) -> Vec<&[u32]> {
        match self {
            Scheduler::Slots(_) => Vec::new(),
            Scheduler::Pages(schedule) => schedule.tables(),
        }
    }

    /// Rows that were put back so far.
    pub(crate) fn preemptions(&self) -> u64 {
        match self {
            Scheduler::Slots(_) => 0,
            Scheduler::Pages(schedule) => schedule.preemptions,
        }
    }
}
