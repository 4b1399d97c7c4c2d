//! Counters of the changes of single jobs, for those who show one job and have nothing to do while
//! nothing of it changes.

use r1d_proto::ids::JobId;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A counter of changes for each job that somebody watches. Counters that nobody watches any more
/// are dropped.
#[derive(Debug, Default)]
pub struct Changes(Mutex<HashMap<JobId, watch::Sender<u64>>>);

impl Changes {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, watch::Sender<u64>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A receiver that is notified of every change of the job from now on.
    pub fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        let mut watched = self.lock();
        watched.retain(|_, counter| counter.receiver_count() > 0);
        let counter = watched.entry(job.clone());
        counter.or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Counts a change of the job.
    pub fn note(&self, job: &JobId) {
        if let Some(counter) = self.lock().get(job) {
            counter.send_modify(|count| *count += 1);
        }
    }

    /// Counts a change of every job.
    pub fn note_all(&self) {
        for counter in self.lock().values() {
            counter.send_modify(|count| *count += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(job: &str) -> JobId {
        JobId(job.into())
    }

    #[test]
    fn only_who_watches_the_job_hears_of_its_change() {
        let changes = Changes::default();
        let (mut a, mut b) = (changes.watch(&id("a")), changes.watch(&id("b")));
        let mut second = changes.watch(&id("a"));
        changes.note(&id("a"));
        changes.note(&id("c"));
        let heard = |watch: &mut watch::Receiver<u64>| {
            let changed = watch.has_changed().unwrap();
            watch.mark_unchanged();
            changed
        };
        assert_eq!(
            (heard(&mut a), heard(&mut second), heard(&mut b)),
            (true, true, false)
        );
        changes.note_all();
        assert_eq!((heard(&mut a), heard(&mut b)), (true, true));
        drop((a, second));
        let _c = changes.watch(&id("c"));
        assert_eq!(changes.lock().len(), 2, "what nobody watches is forgotten");
    }
}
