//! What users decide about jobs that are there: cancel, pause, resume, requeue. Each is in the
//! job's log, with its user.

use super::{ControlErrorOf, ControlService, Sender, error, internal};
use crate::actors::jobs::decide::{Cancel, Decide};
use crate::job_log::JobLog;
use crate::tasks;
use r1d_ledger::{Command, LedgerError, User};
use r1d_proto::control::{ErrorKind, Request, Response};
use r1d_proto::ids::JobId;
use r1d_store::JobLayout;

impl ControlService {
    pub(super) async fn cancel(&self, job: JobId) -> Result<Response, ControlErrorOf> {
        let asked = self.jobs.ask("the queue", Cancel(job.clone())).await;
        asked.map_err(internal)?.map_err(unchanged)?;
        Ok(Response::Cancelled { job })
    }

    /// Carries out a pause, a resumption or a requeue.
    pub(super) async fn decision(
        &self,
        request: Request,
        sender: Sender,
    ) -> Result<Response, ControlErrorOf> {
        let no_decision = || internal("no decision about a job");
        let by = sender.user().ok_or_else(no_decision)?;
        let job = match &request {
            Request::Pause { job } | Request::Resume { job } | Request::Requeue { job } => job,
            _ => return Err(no_decision().into()),
        };
        let job = self.find(job)?.job().clone();
        self.change(&self.admission.cancels, move |service| async move {
            match request {
                Request::Pause { .. } => service.pause(job, by).await,
                Request::Resume { .. } => service.resume(job, by).await,
                _ => service.requeue(job, by).await,
            }
        })
        .await
    }

    async fn pause(&self, job: JobId, by: User) -> Result<Response, ControlErrorOf> {
        let command = Command::Pause {
            job: job.clone(),
            by: Some(by.clone()),
            at: self.views.clock.unix().as_secs(),
        };
        let at_work = self.decide(command).await?;
        let after = if at_work {
            ", after the step in flight"
        } else {
            ""
        };
        self.log(&job, format!("paused by {}{after}", by.name))
            .await;
        Ok(Response::Paused { job, at_work })
    }

    async fn resume(&self, job: JobId, by: User) -> Result<Response, ControlErrorOf> {
        self.decide(Command::Resume { job: job.clone() }).await?;
        self.log(&job, format!("resumed by {}", by.name)).await;
        Ok(Response::Resumed { job })
    }

    async fn requeue(&self, job: JobId, by: User) -> Result<Response, ControlErrorOf> {
        self.decide(Command::Requeue { job: job.clone() }).await?;
        self.log(&job, format!("requeued by {}", by.name)).await;
        Ok(Response::Requeued { job })
    }

    async fn decide(&self, command: Command) -> Result<bool, ControlErrorOf> {
        let asked = self.jobs.ask("the queue", Decide(command)).await;
        let at_work = asked.map_err(internal)?.map_err(unchanged)?;
        Ok(at_work)
    }

    async fn log(&self, job: &JobId, line: String) {
        let path = JobLayout::of(&self.views.state_dir, job).log();
        let log = JobLog::new(path, &job.0, self.views.clock.clone());
        // A panic is logged there.
        let _ = tasks::blocking(move || log.info(line)).await;
    }
}

/// The answer to a change that the ledger did not take.
fn unchanged(refused: LedgerError) -> ControlErrorOf {
    match refused {
        LedgerError::Rejected(rejected) => error(ErrorKind::Invalid, rejected).into(),
        other => internal(other).into(),
    }
}
