//! What users decide about jobs that are there: cancel, pause, resume, requeue. Each is in the
//! job's log, with its user.

use super::ControlService;
use super::senders::Sender;
use crate::jobs::decide::{Cancel, Decide};
use r1d_ledger::{Command, LedgerError, User};
use r1d_link::Work;
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::{Request, Response};
use r1d_proto::ids::JobId;

impl ControlService {
    pub(super) async fn cancel(&self, job: JobId) -> Result<Response, ControlError> {
        let asked = self.jobs.ask("the queue", Cancel(job.clone())).await;
        asked.map_err(ControlError::internal)?.map_err(unchanged)?;
        Ok(Response::Cancelled { job })
    }

    /// Carries out a pause, a resumption or a requeue.
    pub(super) async fn decision(
        &self,
        request: Request,
        sender: Sender,
    ) -> Result<Response, ControlError> {
        let no_decision = || ControlError::internal("no decision about a job");
        let by = sender.user().ok_or_else(no_decision)?;
        let job = match &request {
            Request::Pause { job } | Request::Resume { job } | Request::Requeue { job } => job,
            _ => return Err(no_decision()),
        };
        let job = self.find(job)?.job().clone();
        let room = (&self.admission.cancels, sender.uid);
        self.change(room, move |service| async move {
            match request {
                Request::Pause { .. } => service.pause(job, by).await,
                Request::Resume { .. } => service.resume(job, by).await,
                _ => service.requeue(job, by).await,
            }
        })
        .await
    }

    async fn pause(&self, job: JobId, by: User) -> Result<Response, ControlError> {
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

    async fn resume(&self, job: JobId, by: User) -> Result<Response, ControlError> {
        let at = self.views.clock.unix().as_secs();
        let command = Command::Resume {
            job: job.clone(),
            at,
        };
        self.decide(command).await?;
        self.log(&job, format!("resumed by {}", by.name)).await;
        Ok(Response::Resumed { job })
    }

    async fn requeue(&self, job: JobId, by: User) -> Result<Response, ControlError> {
        let at = self.views.clock.unix().as_secs();
        let command = Command::Requeue {
            job: job.clone(),
            at,
        };
        self.decide(command).await?;
        self.log(&job, format!("requeued by {}", by.name)).await;
        Ok(Response::Requeued { job })
    }

    async fn decide(&self, command: Command) -> Result<bool, ControlError> {
        let asked = self.jobs.ask("the queue", Decide(command)).await;
        let at_work = asked.map_err(ControlError::internal)?.map_err(unchanged)?;
        Ok(at_work)
    }

    pub(super) async fn log(&self, job: &JobId, line: String) {
        let log = Work::Log {
            job: job.clone(),
            line,
            is_warning: false,
        };
        if let Err(error) = self.node().ask(log).await {
            tracing::warn!("a line of a job's log is lost: {}", error.message);
        }
    }
}

/// The answer to a change that the ledger did not take. Where its file system refused it, the
/// answer says what to do.
fn unchanged(refused: LedgerError) -> ControlError {
    match refused {
        LedgerError::Rejected(rejected) => ControlError::new(ErrorKind::Invalid, rejected),
        other => ControlError::with_remedy(&other),
    }
}
