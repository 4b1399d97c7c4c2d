//! The jobs whose inputs are open.

use crate::loaded_job::LoadedJob;
use r1d_proto::ids::JobId;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The opened jobs that are running.
#[derive(Clone, Default)]
pub(crate) struct OpenJobs(Arc<Mutex<HashMap<JobId, Weak<LoadedJob>>>>);

impl OpenJobs {
    pub(crate) fn opened(&self, job: &JobId, loaded_job: &Arc<LoadedJob>) {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, loaded_job| loaded_job.strong_count() > 0);
        open.insert(job.clone(), Arc::downgrade(loaded_job));
    }

    /// The inputs of a job, if they are open.
    pub(crate) fn get(&self, job: &JobId) -> Option<Arc<LoadedJob>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(job)?
            .upgrade()
    }
}
