//! Waits for a change of what a job's status shows, at no cost while there is none.

use crate::status::StatusViews;
use r1d_proto::ids::JobId;
use std::time::Duration;
use tokio::sync::watch;

/// Shortest time in which the place of a queued job is looked up again: in a long queue that costs
/// more than all else, and a submission may change the places of thousands.
const QUEUE_INTERVAL: Duration = Duration::from_secs(1);

/// The changes of a job since the last look, wherever they come from.
pub(crate) struct JobChanges {
    record: watch::Receiver<u64>,
    live: watch::Receiver<u64>,
    queue: watch::Receiver<u64>,
}

impl JobChanges {
    /// The changes from now on.
    pub(crate) fn of(views: &StatusViews, job: &JobId) -> JobChanges {
        JobChanges {
            record: views.ledger.watch(job),
            live: views.live_status.watch(job),
            queue: views.ledger.queue_changes(),
        }
    }

    /// Returns after a change since it last returned; for a queued job, also after a change of the
    /// queue. The senders live as long as the daemon.
    pub(crate) async fn next(&mut self, is_queued: bool) {
        let queue = &mut self.queue;
        let place = async {
            tokio::time::sleep(QUEUE_INTERVAL).await;
            let _ = queue.changed().await;
        };
        tokio::select! {
            _ = self.record.changed() => {}
            _ = self.live.changed() => {}
            () = place, if is_queued => {}
        }
        self.record.mark_unchanged();
        self.live.mark_unchanged();
    }
}
