//! Stays with a job until it ends: `submit --wait`, `status --watch`.
//!
//! The daemon may be restarted meanwhile, and takes the job up again by itself. A stream that
//! breaks is therefore reopened with growing pauses, for
//! [`Patience::reconnect`](crate::cli::Patience) seconds since its last message.

mod events;
mod live;

use crate::cli::Output;
use crate::client::Client;
use crate::error::{Ended, Error};
use crate::print::{self, Printer};
use crate::show;
use live::Live;
use r1d_proto::control::job::{JobStatus, State};
use r1d_proto::control::{Request, Response};
use r1d_proto::ids::JobId;
use r1d_proto::world::SharedClock;
use std::cell::RefCell;
use std::time::Duration;

/// Pauses between attempts to reach a daemon that went away double from the first to the last.
const PAUSE_FIRST_MS: u64 = 100;
const PAUSE_LAST_MS: u64 = 2000;

/// What people see of a job while it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// Progress for people, then the summary.
    People,
    /// One JSON line for each status.
    JsonStream,
    /// Progress, if there is a terminal; then the last status as JSON.
    JsonAtEnd,
}

impl Style {
    pub(crate) fn of_status(output: Output) -> Style {
        if output == Output::Json {
            Style::JsonStream
        } else {
            Style::People
        }
    }

    pub(crate) fn of_submit(output: Output) -> Style {
        if output == Output::Json {
            Style::JsonAtEnd
        } else {
            Style::People
        }
    }
}

pub(crate) struct Watch<'a> {
    pub client: &'a Client,
    pub printer: &'a Printer,
    pub clock: SharedClock,
    pub reconnect: Duration,
    pub style: Style,
}

/// The display of statuses while the job runs.
enum Display {
    Live(Live),
    Lines,
    Json,
    Silent,
}

impl Watch<'_> {
    /// Stays until the job ends, or until Ctrl-C, which leaves the job alone.
    pub(crate) async fn job(&self, job: &str) -> Result<Ended, Error> {
        let display = self.display();
        // A prefix of the id, until the first status has the whole id: other jobs may come to share
        // the prefix.
        let name = RefCell::new(JobId(job.to_owned()));
        let ended = tokio::select! {
            // This comes first, so that Ctrl-C is handled before anything is shown. If it cannot be
            // handled, SIGINT keeps its default effect.
            biased;
            Ok(()) = tokio::signal::ctrl_c() => None,
            status = self.follow(&name, &display) => Some(status),
        };
        if let Display::Live(live) = &display {
            live.close();
        }
        match ended {
            Some(Ok(status)) => self.conclude(&status),
            Some(Err(error)) => Err(error),
            None => {
                let (job, again) = (name.borrow(), &self.printer.again);
                self.printer.note("detached; the job goes on");
                self.printer
                    .note(&format!("  come back  {again} status --watch {job}"));
                self.printer
                    .note(&format!("  stop it    {again} cancel {job}"));
                Ok(Ended::Interrupted)
            }
        }
    }

    fn display(&self) -> Display {
        let (stdout, stderr) = (self.printer.stdout, self.printer.stderr);
        match self.style {
            Style::JsonStream => Display::Json,
            Style::JsonAtEnd if stderr.width.is_none() => Display::Silent,
            Style::People if stdout.width.is_none() || stderr.width.is_none() => Display::Lines,
            Style::JsonAtEnd | Style::People => {
                Display::Live(Live::new(stderr, self.clock.clone()))
            }
        }
    }

    fn conclude(&self, status: &JobStatus) -> Result<Ended, Error> {
        match self.style {
            Style::People => print::data(&show::summary(
                status,
                self.printer.stdout,
                &self.printer.again,
            ))?,
            Style::JsonAtEnd => print::json(status)?,
            Style::JsonStream => {}
        }
        Ok(if status.state == State::Succeeded {
            Ended::Ok
        } else {
            Ended::JobFailed
        })
    }

    /// Follows the job to its last status. Statuses on the way go to the display.
    async fn follow(&self, name: &RefCell<JobId>, display: &Display) -> Result<JobStatus, Error> {
        let mut last: Option<JobStatus> = None;
        let mut heard_at = self.clock.now();
        let mut pause = Duration::from_millis(PAUSE_FIRST_MS);
        loop {
            let mut heard = false;
            let job = name.borrow().0.clone();
            let broken = self
                .stream(&job, |status| {
                    heard = true;
                    *name.borrow_mut() = status.job.clone();
                    self.show(display, last.as_ref(), &status)?;
                    last = Some(status);
                    Ok(())
                })
                .await;
            match (broken, last.take()) {
                (Ok(()), Some(status)) if status.state.is_final() => return Ok(status),
                // The daemon ended the stream although the job goes on: the daemon is being
                // stopped.
                (Ok(()), status) => last = status,
                (Err(error), status) if error.is_away() => last = status,
                (Err(error), _) => return Err(error),
            }
            if heard {
                heard_at = self.clock.now();
                pause = Duration::from_millis(PAUSE_FIRST_MS);
            }
            if self.clock.now().saturating_sub(heard_at) >= self.reconnect {
                let (socket, again) = (self.client.socket().into(), self.printer.again.clone());
                return Err(Error::Lost {
                    socket,
                    seconds: self.reconnect.as_secs(),
                    job,
                    again,
                });
            }
            self.away(display, heard);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(PAUSE_LAST_MS));
        }
    }

    /// Reads the statuses of one connection until the daemon ends them.
    async fn stream(
        &self,
        job: &str,
        mut on_status: impl FnMut(JobStatus) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let request = Request::Watch {
            job: job.to_owned(),
        };
        let mut answers = self.client.open(&request).await?;
        while let Some(answer) = answers.next().await? {
            match answer {
                Response::Status(status) => on_status(*status)?,
                other => return Err(self.client.unexpected(&request, &other)),
            }
        }
        Ok(())
    }

    fn show(
        &self,
        display: &Display,
        last: Option<&JobStatus>,
        now: &JobStatus,
    ) -> Result<(), Error> {
        match display {
            Display::Live(live) => live.show(last, now),
            Display::Lines => {
                for line in events::between(last, now) {
                    print::data(&(line + "\n"))?;
                }
            }
            Display::Json => print::json_line(now)?,
            Display::Silent => {}
        }
        Ok(())
    }

    fn away(&self, display: &Display, first: bool) {
        let text = format!(
            "{}: the daemon went away, looking for it again",
            self.client.socket().display()
        );
        match display {
            Display::Live(live) => live.away(&text),
            _ if first => self.printer.note(&text),
            _ => {}
        }
    }
}
