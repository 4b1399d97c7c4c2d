//! `r1ctl status --watch` and `r1ctl logs`: answers in many parts.

use super::ControlService;
use super::connection::send;
use super::senders::without_texts;
use crate::job_changes::JobChanges;
use r1d_ledger::JobRecord;
use r1d_link::work::Tail;
use r1d_link::{Answer, Work};
use r1d_proto::control::content::LogLine;
use r1d_proto::control::error::ControlError;
use r1d_proto::control::job::JobStatus;
use r1d_proto::control::{Request, Response};
use r1d_proto::frame::FrameError;
use r1d_proto::ids::JobId;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::OwnedSemaphorePermit;

/// Shortest time between two statuses of a watched job.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// Time between two reads of a followed log.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);

impl ControlService {
    /// Answers a request for a stream, until the client leaves or there is nothing more.
    pub(super) async fn stream(
        &self,
        request: Request,
        owns: bool,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let refused = match request {
            Request::Watch { job } => match self.stream_of(&job) {
                Ok((record, _place)) => return self.watch(record.job(), owns, writer).await,
                Err(refused) => refused,
            },
            Request::Logs {
                job,
                follow,
                tail,
                since_s,
            } => match self.stream_of(&job) {
                Ok((record, _place)) => {
                    let now_ms = self.views.clock.unix().as_millis() as u64;
                    let since = |seconds: u64| now_ms.saturating_sub(seconds.saturating_mul(1000));
                    let tail = Tail {
                        lines: tail,
                        since_ms: since_s.map(since),
                    };
                    return self.logs(record.job(), follow, tail, writer).await;
                }
                Err(refused) => refused,
            },
            _ => ControlError::internal("such a request is answered once"),
        };
        self.send_answer(&Err(refused), writer).await
    }

    /// Finds the job of a stream, and takes a place for the stream.
    fn stream_of(&self, job: &str) -> Result<(Arc<JobRecord>, OwnedSemaphorePermit), ControlError> {
        Ok((self.find(job)?, self.admission.stream()?))
    }

    /// Sends the job's status whenever it changes, until the job has ended.
    async fn watch(
        &self,
        job: &JobId,
        owns: bool,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let mut changes = JobChanges::of(&self.views, job);
        let mut shown: Option<JobStatus> = None;
        while let Some(record) = self.views.ledger.job(job) {
            let status = self.views.status(&record);
            let status = if owns { status } else { without_texts(status) };
            let (ended, is_queued) = (status.state.is_final(), status.queue_position.is_some());
            if shown.as_ref() != Some(&status) {
                send(writer, &Response::Status(Box::new(status.clone()))).await?;
                shown = Some(status);
            }
            if ended {
                break;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
            changes.next(is_queued).await;
        }
        send(writer, &Response::End).await
    }

    /// Sends the job's log in parts, each with many lines.
    async fn logs(
        &self,
        job: &JobId,
        follow: bool,
        tail: Tail,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let mut offset = self.first_line(job, tail).await;
        loop {
            // Look at the state before reading: all that was written before the end is then read.
            let ended = self
                .views
                .ledger
                .job(job)
                .is_none_or(|record| record.state().is_final());
            let (lines, length) = self.lines(job, offset).await;
            if !lines.is_empty() {
                send(writer, &Response::Lines(lines)).await?;
            }
            offset += length;
            if length == 0 && (ended || !follow) {
                return send(writer, &Response::End).await;
            }
            if length == 0 {
                tokio::time::sleep(FOLLOW_INTERVAL).await;
            }
        }
    }

    /// The offset of the first wanted line; 0 if the log cannot be read.
    async fn first_line(&self, job: &JobId, tail: Tail) -> u64 {
        let job = job.clone();
        match self.node().ask(Work::FindInLog { job, tail }).await {
            Ok(Answer::Offset(offset)) => offset,
            _ => 0,
        }
    }

    /// The next lines and the bytes that they take; none if the log cannot be read.
    async fn lines(&self, job: &JobId, offset: u64) -> (Vec<LogLine>, u64) {
        let job = job.clone();
        match self.node().ask(Work::ReadLog { job, offset }).await {
            Ok(Answer::Lines { lines, bytes }) => (lines, bytes),
            _ => (Vec::new(), 0),
        }
    }
}
