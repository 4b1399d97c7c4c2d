//! Jobs that wait for something outside of them ([`crate::outside_waits`]).

use super::Jobs;
use crate::job_log::JobLog;
use crate::outside_waits::{self, Lacked};
use crate::queue::{NOTHING_DONE, progress};
use crate::status::JobViews;
use crate::{outside, tasks};
use actix::{AsyncContext, Context, Handler, Message};
use r1d_proto::ids::JobId;
use r1d_runner::schedule::ScheduleEvent;
use r1d_store::JobLayout;
use tokio::sync::oneshot;

/// Nothing outside of a job is amiss any more, as far as a look tells.
#[derive(Message)]
#[rtype(result = "()")]
struct FilesBack {
    job: JobId,
    /// A look before has seen what was.
    was_seen: bool,
}

fn log_of(views: &JobViews, job: &JobId) -> JobLog {
    let outputs = JobLayout::of(&views.state_dir, job);
    JobLog::new(outputs.log(), &job.0, views.clock.clone())
}

impl Jobs {
    /// Waits until nothing outside of the job is amiss. What attempt after attempt ends for is told
    /// once.
    pub(super) fn watch(&mut self, job: JobId, cause: String, context: &mut Context<Self>) {
        let Some(views) = self.views().cloned() else {
            return;
        };
        let log = log_of(&views, &job);
        let record = views.ledger.job(&job);
        let far = record.as_deref().map_or(NOTHING_DONE, progress);
        let lacked = Lacked::again(self.lacked.remove(&job), cause, far);
        let attempts = lacked.attempts;
        if attempts == 1 {
            log.warn(format!("the job waits: {}", lacked.cause));
        }
        self.lacked.insert(job.clone(), lacked);
        let amiss = {
            let (views, job) = (views.clone(), job.clone());
            move || outside::amiss(&views, &job)
        };
        let (queue, looks, waits_for) = (context.address(), self.looks.clone(), job.clone());
        let (wait, ended) = oneshot::channel();
        tasks::spawn("files of a job", async move {
            let told = |cause: &str| {
                if views
                    .live_status
                    .renew_wait(&waits_for, &outside_waits::awaited(cause))
                {
                    log.warn(format!("the job waits: {cause}"));
                }
            };
            tokio::select! {
                // The queue is gone, and its waiting jobs with it.
                was_seen = looks.until_mended(amiss, told, attempts)
                    => drop(queue.send(FilesBack { job: waits_for.clone(), was_seen }).await),
                _ = ended => {}
            }
        });
        self.outside_waits.insert(job, wait);
    }

    /// Ends the job's wait.
    pub(super) fn unwatch(&mut self, job: &JobId) {
        self.outside_waits.remove(job);
        if let Some(views) = self.views() {
            views.live_status.clear(job);
        }
    }

    /// Forgets what is remembered of a job that a user has decided about. Returns what its status
    /// is made of if it was waiting for something outside.
    pub(super) fn decided(&mut self, job: &JobId, context: &mut Context<Self>) -> Option<JobViews> {
        let is_waiting = self.outside_waits.contains_key(job);
        self.lacked.remove(job);
        self.tell(ScheduleEvent::Decided { job: job.clone() }, context);
        self.views().filter(|_| is_waiting).cloned()
    }
}

impl Handler<FilesBack> for Jobs {
    type Result = ();

    fn handle(&mut self, FilesBack { job, was_seen }: FilesBack, context: &mut Self::Context) {
        if !self.outside_waits.contains_key(&job) {
            return;
        }
        self.unwatch(&job);
        if let Some(views) = self.views() {
            let log = log_of(views, &job);
            let attempts = self.lacked.get(&job).map_or(0, |lacked| lacked.attempts);
            let goes_on =
                "the job goes on as soon as a device is free: what it waited for is there";
            let tried = "the job is tried again as soon as a device is free, until what it waits \
                         for is there";
            match (was_seen, attempts) {
                (true, _) => {
                    self.lacked.remove(&job);
                    log.info(goes_on);
                }
                (false, 0 | 1) => log.info(tried),
                (false, _) => {}
            }
        }
        self.tell(ScheduleEvent::Mended { job }, context);
    }
}
