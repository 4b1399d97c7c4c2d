//! One sender of commands: it gives each its id, and reads the record.

use crate::answers::ANSWERS_MAX;
use crate::api::{Record, RowsOf};
use crate::command::{Command, CommandId, Effect};
use crate::error::LedgerError;
use crate::record::JobRecord;
use crate::state::{FindError, State};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;

/// A sender's session with the record of jobs.
pub struct Session {
    record: Arc<dyn Record>,
    session: u64,
    numbers: Mutex<Numbers>,
    /// Notified when a command is answered.
    answered: Condvar,
}

#[derive(Default)]
struct Numbers {
    last: u64,
    /// Numbers of the commands under way.
    open: BTreeSet<u64>,
}

impl Numbers {
    /// Whether one more command could make the record forget the oldest one under way.
    fn is_full(&self) -> bool {
        let oldest = self.open.first().copied().unwrap_or(self.last);
        self.last + 1 - oldest >= ANSWERS_MAX
    }
}

/// Ends a command's time under way, however that ends.
struct UnderWay<'s> {
    session: &'s Session,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.session.numbers().open.remove(&self.number);
        self.session.answered.notify_all();
    }
}

impl Session {
    /// Opens a session at `unix_ns`, in nanoseconds since the Unix epoch.
    pub fn open(record: Arc<dyn Record>, unix_ns: u64) -> Session {
        let session = record.snapshot().next_session(unix_ns);
        Session {
            record,
            session,
            numbers: Mutex::default(),
            answered: Condvar::new(),
        }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out one command, under an id of its own; when it returns `Ok` the command survives a
    /// crash of the machine. Blocks.
    pub fn apply(&self, command: Command) -> Result<Effect, LedgerError> {
        let under_way = self.next();
        let session = self.session;
        let number = under_way.number;
        self.record.apply(CommandId { session, number }, command)
    }

    /// Takes the next number, once the record will remember all commands under way.
    fn next(&self) -> UnderWay<'_> {
        let numbers = self
            .answered
            .wait_while(self.numbers(), |numbers| numbers.is_full());
        let mut numbers = numbers.unwrap_or_else(PoisonError::into_inner);
        numbers.last += 1;
        let number = numbers.last;
        numbers.open.insert(number);
        UnderWay {
            session: self,
            number,
        }
    }

    /// All jobs, as they were after the last durable command.
    pub fn state(&self) -> Arc<State> {
        self.record.snapshot()
    }

    /// All jobs, in order of submission.
    pub fn jobs(&self) -> Vec<Arc<JobRecord>> {
        self.state().jobs()
    }

    /// The job of this id; `None` if there is none.
    pub fn job(&self, job: &JobId) -> Option<Arc<JobRecord>> {
        self.state().job(job).cloned()
    }

    /// The queued jobs in the order in which they are to run.
    pub fn queue(&self) -> Vec<Arc<JobRecord>> {
        self.state().queue()
    }

    /// Finds the job that an id or an unambiguous prefix of one names.
    pub fn find(&self, prefix: &str) -> Result<JobId, FindError> {
        self.state().find(prefix)
    }

    /// The job of the submission that has this id of its client's.
    pub fn of_request(&self, request: &str) -> Option<Arc<JobRecord>> {
        self.state().of_request(request).cloned()
    }

    /// Checks what [`Record::is_in_place`] checks. Blocks.
    pub fn is_in_place(&self) -> Result<(), LedgerError> {
        self.record.is_in_place()
    }

    /// The counter of [`Record::queue_changes`].
    pub fn queue_changes(&self) -> watch::Receiver<u64> {
        self.record.queue_changes()
    }

    /// The counter of [`Record::watch`].
    pub fn watch(&self, job: &JobId) -> watch::Receiver<u64> {
        self.record.watch(job)
    }

    /// Reads all metrics of a stage, by step (from 0). Blocks.
    pub fn metrics(&self, job: &JobId, stage: u32) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        self.record.metrics(job, stage)
    }

    /// Reads metrics of steps, as [`Record::metrics_in`] does. Blocks.
    pub fn metrics_in(
        &self,
        job: &JobId,
        stage: u32,
        steps: Range<u64>,
    ) -> Result<Vec<(u64, Metrics)>, LedgerError> {
        self.record.metrics_in(job, stage, steps)
    }

    /// Makes metrics whole, as [`Record::mend_metrics`] does. Blocks.
    pub fn mend_metrics(&self, job: &JobId, rows: &RowsOf<'_>) -> Result<bool, LedgerError> {
        self.record.mend_metrics(job, rows)
    }
}
