//! A job's life while it has a device: opening its inputs, then attempt after attempt until it
//! ends, is stopped, or gives its device up to wait for something.
//!
//! ```text
//! open ─▶ start ─▶ work ─▶ end worker, join writer ─┬─▶ pause ─▶ start
//!  │ ▲                                              ├─▶ open          a stage has made data
//!  │ └──────────────────────────────────────────────┘
//!  └─▶ review, without a device ─▶ queue            └─▶ record the end ─▶ queue
//! ```
//!
//! Whatever begins has a number, and what comes of it bears that number: an answer to something
//! that is no longer wanted is late, and changes nothing. Between two attempts lies the end of the
//! worker and of the writer, so no two attempts ever write for one job (`STEP-1`).

mod message;

pub use message::{
    History, Inputs, JobEnd, JobStanding, LifeCommand, LifeEvent, LifeOutcome, LogLevel,
};

use crate::message::End;
use crate::restart::{FRUITLESS_ATTEMPTS_MAX, Retrying};
use std::path::PathBuf;
use std::time::Duration;

/// Longest time for a new attempt to begin in the ledger and on the worker.
pub const START_MAX: Duration = Duration::from_secs(3600);
/// After so many failures of the worker in a row, a job gives its device up, which is then probed.
pub const WORKER_FAILURES_MAX: u32 = 3;

/// The state machine of one job's life.
#[derive(Clone, Debug)]
pub struct Life {
    phase: Phase,
    since: Duration,
    /// Counts the phases that were entered.
    number: u64,
    /// The newest epoch known: the end of the job is recorded in it.
    epoch: u64,
    /// The epoch in which the next attempt goes on, because nothing went wrong in it.
    resumed: Option<u64>,
    /// The attempts so far, those of lives before included.
    history: History,
    /// Failures of the worker in a row, on this device.
    failures: u32,
    /// Whether such failures may be the device's fault.
    doubts_device: bool,
    has_inputs: bool,
    has_device: bool,
    stops_after_step: bool,
}

/// The place that a life has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has begun.
    New,
    /// Data, tokenizer and plugins are being opened.
    Opening,
    /// The attempt begins in the ledger and on the worker.
    Starting,
    /// The attempt's machine is at work.
    Working,
    /// The job waits, without a device, for people to review a data set.
    Reviewing {
        /// The stage that has made it.
        stage: String,
        /// Its number of rows.
        rows: u64,
    },
    /// Before the job fails, what it needs is looked at.
    Checking {
        /// What it would fail with.
        error: String,
    },
    /// The attempt's worker and writer are being ended.
    Closing(Next),
    /// The next attempt begins at `until`.
    Pausing {
        /// The time of the next attempt.
        until: Duration,
        /// Why the last one was abandoned.
        cause: String,
    },
    /// The job goes back to the queue, unless it is stopped before.
    Leaving(LifeOutcome),
    /// The job's end is being recorded.
    Recording(JobEnd),
    /// The job is being handed back: nothing else happens any more.
    Ending,
}

/// What follows when nothing works for the job any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// The inputs are opened again.
    Reopen,
    /// Another attempt.
    Retry {
        /// How long to wait before it.
        after: Duration,
        /// Why the last one was abandoned.
        cause: String,
    },
    /// The job waits for something outside of it.
    WaitOutside {
        /// What is amiss.
        cause: String,
    },
    /// The job goes back to the queue, for another device.
    GiveDeviceUp {
        /// What is wrong with this one.
        cause: String,
        /// Whether that is known, or only probable.
        is_known: bool,
    },
    /// The job's end is recorded.
    Record(Result<PathBuf, String>),
    /// Nothing: the job was stopped.
    Stop,
}

impl Life {
    /// A life that begins at `now`. `resumed` is the epoch that the job goes on in, if any;
    /// `history` has the attempts before. `doubts_device` says whether failures of the worker may
    /// be the device's fault.
    pub fn new(resumed: Option<u64>, history: History, doubts_device: bool, now: Duration) -> Life {
        Life {
            phase: Phase::New,
            since: now,
            number: 0,
            epoch: 0,
            resumed,
            history,
            failures: 0,
            doubts_device,
            has_inputs: false,
            has_device: true,
            stops_after_step: false,
        }
    }

    /// The place that the life has come to.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// When that began.
    pub fn since(&self) -> Duration {
        self.since
    }

    /// The number that answers to the newest decision bear.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The newest epoch known.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Number of attempts in a row that got no further.
    pub fn fruitless(&self) -> u32 {
        self.history.attempts.fruitless()
    }

    /// Whether the attempt ends with the next commit.
    pub fn stops_after_step(&self) -> bool {
        self.stops_after_step
    }

    /// Whether the device may still be touched.
    pub fn has_device(&self) -> bool {
        self.has_device
    }

    /// Begins: opens the inputs.
    pub fn begin(&mut self, now: Duration) -> Vec<LifeCommand> {
        self.open(now)
    }

    /// Takes an event that answers, or belongs to, what was begun under `number`; `standing` is
    /// what the ledger says of the job now.
    pub fn handle(
        &mut self,
        number: u64,
        event: LifeEvent,
        standing: JobStanding,
        now: Duration,
    ) -> Vec<LifeCommand> {
        // The end of the job is recorded in the newest epoch, whatever has become of its attempt.
        match &event {
            LifeEvent::Opened { epoch, .. } => self.epoch = self.epoch.max(*epoch),
            LifeEvent::Started { epoch, .. } => self.epoch = self.epoch.max(epoch.unwrap_or(0)),
            _ => {}
        }
        if number != self.number {
            return Vec::new();
        }
        match (self.phase.clone(), event) {
            (phase, LifeEvent::Stop { .. }) if phase.is_end() => Vec::new(),
            (
                Phase::Working,
                LifeEvent::Stop {
                    after_step,
                    in_step,
                },
            ) if after_step && in_step => {
                self.stops_after_step = true;
                Vec::new()
            }
            (_, LifeEvent::Stop { .. }) => self.stop(now),
            (Phase::Opening, LifeEvent::Opened { inputs, .. }) => {
                self.opened(inputs, standing, now)
            }
            (Phase::Starting, LifeEvent::Started { epoch, begun }) => {
                self.started(epoch, begun, standing, now)
            }
            (Phase::Starting, LifeEvent::Tick) if now > self.since + START_MAX => {
                let cause = format!(
                    "neither ledger nor worker has taken the attempt up within {} s",
                    START_MAX.as_secs()
                );
                self.ended(End::Abandoned { cause }, standing, now)
            }
            (Phase::Working, LifeEvent::Ended { end }) => self.ended(end, standing, now),
            (Phase::Working, LifeEvent::Committed) if self.stops_after_step => self.stop(now),
            (Phase::Reviewing { .. }, LifeEvent::Reviewed) => {
                let epoch = self.resumed;
                self.leave(Vec::new(), LifeOutcome::Ready { epoch }, now)
            }
            (Phase::Checking { error }, LifeEvent::Looked(amiss)) => match amiss {
                Some(cause) => self.close(Next::WaitOutside { cause }, now),
                None => self.finish(Err(error), now),
            },
            (Phase::Closing(next), LifeEvent::WriterJoined) => self.closed(next, now),
            (Phase::Pausing { until, .. }, LifeEvent::Tick) if now >= until => {
                self.attempt(standing, now)
            }
            (Phase::Recording(end), LifeEvent::Recorded(recorded)) => {
                self.recorded(end, recorded, now)
            }
            _ => Vec::new(),
        }
    }

    fn enter(&mut self, phase: Phase, now: Duration) {
        (self.phase, self.since) = (phase, now);
        self.number += 1;
    }

    fn open(&mut self, now: Duration) -> Vec<LifeCommand> {
        self.has_inputs = false;
        self.enter(Phase::Opening, now);
        vec![LifeCommand::Open]
    }

    fn opened(&mut self, inputs: Inputs, standing: JobStanding, now: Duration) -> Vec<LifeCommand> {
        match inputs {
            Inputs::Ready => {
                self.has_inputs = true;
                self.attempt(standing, now)
            }
            Inputs::Review { stage, rows } => self.review(stage, rows, now),
            Inputs::Ended(end) => self.ended(end, standing, now),
            Inputs::GivenUp { error } => self.finish(Err(error), now),
        }
    }

    /// Waits until people have reviewed the data set. Other jobs can use the device meanwhile.
    fn review(&mut self, stage: String, rows: u64, now: Duration) -> Vec<LifeCommand> {
        let told = format!("data set {stage} ({rows} rows) waits for its review");
        let awaited = stage.clone();
        self.enter(Phase::Reviewing { stage, rows }, now);
        self.has_device = false;
        vec![
            LifeCommand::Log(LogLevel::Info, told),
            LifeCommand::ReleaseDevice,
            LifeCommand::PutDown,
            LifeCommand::AwaitReview { stage: awaited },
        ]
    }

    /// Begins an attempt, from inputs that are opened again where a data set has come that people
    /// review.
    fn attempt(&mut self, standing: JobStanding, now: Duration) -> Vec<LifeCommand> {
        if !self.has_inputs || standing.has_to_review {
            return self.open(now);
        }
        self.history.number += 1;
        self.enter(Phase::Starting, now);
        vec![LifeCommand::Start {
            resumed: self.resumed.take(),
        }]
    }

    fn started(
        &mut self,
        epoch: Option<u64>,
        begun: Result<(), End>,
        standing: JobStanding,
        now: Duration,
    ) -> Vec<LifeCommand> {
        match begun {
            Ok(()) => {
                self.enter(Phase::Working, now);
                vec![LifeCommand::Work]
            }
            Err(end) => {
                // Nothing was launched in this epoch.
                if matches!(end, End::Away { .. } | End::Unusable { .. }) {
                    self.resumed = epoch;
                }
                self.ended(end, standing, now)
            }
        }
    }

    fn ended(&mut self, end: End, standing: JobStanding, now: Duration) -> Vec<LifeCommand> {
        let was_working = self.phase == Phase::Working;
        match end {
            End::Abandoned { cause } => self.abandoned(cause, false, standing, now),
            End::WorkerFailed { cause } => self.abandoned(cause, true, standing, now),
            End::Reread => {
                self.keep_epoch(was_working);
                self.close(Next::Reopen, now)
            }
            End::Away { cause } => self.close(Next::WaitOutside { cause }, now),
            End::Unusable { cause } => {
                self.keep_epoch(was_working);
                let told = format!("the job waits for a device: {cause}");
                let is_known = true;
                let commands = self.close(Next::GiveDeviceUp { cause, is_known }, now);
                logged(LogLevel::Warn, told, commands)
            }
            End::Failed { error } => self.check(error, now),
            End::Succeeded { model } => self.finish(Ok(model), now),
        }
    }

    /// Lets the next attempt go on in this one's epoch, because nothing went wrong with it.
    fn keep_epoch(&mut self, was_working: bool) {
        if was_working {
            self.resumed = Some(self.epoch);
        }
    }

    fn abandoned(
        &mut self,
        cause: String,
        is_workers: bool,
        standing: JobStanding,
        now: Duration,
    ) -> Vec<LifeCommand> {
        let told = format!("attempt {} is abandoned: {cause}", self.history.number);
        let commands = if self.stops_after_step || standing.is_over {
            self.stop(now)
        } else {
            let attempts = &mut self.history.attempts;
            let retrying = attempts.abandoned(cause.clone(), standing.progress);
            let is_first = attempts.fruitless() == 1;
            self.failures = if is_first { 0 } else { self.failures } + is_workers as u32;
            match retrying {
                _ if is_workers && self.is_device_likely(&retrying) => self.doubt(cause, now),
                Retrying::GiveUp { error } => self.check(error, now),
                Retrying::Retry { after } => self.retry(after, cause, now),
            }
        };
        logged(LogLevel::Warn, told, commands)
    }

    /// Whether the device is to be probed after the worker has failed. It is before the job is
    /// given up, unless enough attempts failed that were not the device's fault.
    fn is_device_likely(&self, retrying: &Retrying) -> bool {
        let is_last = matches!(retrying, Retrying::GiveUp { .. });
        self.doubts_device
            && (self.failures >= WORKER_FAILURES_MAX || is_last)
            && self.fruitless() <= FRUITLESS_ATTEMPTS_MAX
    }

    /// Gives the device up, to be probed.
    fn doubt(&mut self, cause: String, now: Duration) -> Vec<LifeCommand> {
        let told = "the job goes on another device, if there is one: this one is probed".into();
        let is_known = false;
        let commands = self.close(Next::GiveDeviceUp { cause, is_known }, now);
        logged(LogLevel::Info, told, commands)
    }

    fn retry(&mut self, after: Duration, cause: String, now: Duration) -> Vec<LifeCommand> {
        let told = format!("the job is taken up again in {:.1} s", after.as_secs_f64());
        let mut commands = self.close(Next::Retry { after, cause }, now);
        commands.insert(0, LifeCommand::CountRestart);
        logged(LogLevel::Info, told, commands)
    }

    /// Fails the job, unless something that it needs is amiss: that is the likelier cause, and is
    /// waited for.
    fn check(&mut self, error: String, now: Duration) -> Vec<LifeCommand> {
        self.enter(Phase::Checking { error }, now);
        vec![LifeCommand::LookOutside]
    }

    fn finish(&mut self, result: Result<PathBuf, String>, now: Duration) -> Vec<LifeCommand> {
        let (level, told) = match &result {
            Ok(_) => (LogLevel::Info, "the job succeeded".into()),
            Err(error) => (LogLevel::Error, format!("the job failed: {error}")),
        };
        let commands = self.close(Next::Record(result), now);
        logged(level, told, commands)
    }

    /// Ends the life without an end in the ledger: the job was cancelled, or another life goes on
    /// with it. That it is put down comes first: the daemon may have little time left.
    fn stop(&mut self, now: Duration) -> Vec<LifeCommand> {
        let mut commands = self.close(Next::Stop, now);
        commands.insert(0, LifeCommand::PutDown);
        commands
    }

    /// Ends the worker, if it is still this job's, and the writer. Nothing works for the job
    /// afterwards, but for what still blocks in [`LifeCommand::Open`] or [`LifeCommand::Start`].
    fn close(&mut self, next: Next, now: Duration) -> Vec<LifeCommand> {
        self.enter(Phase::Closing(next), now);
        let worker = self.has_device.then_some(LifeCommand::EndWorker);
        worker
            .into_iter()
            .chain([LifeCommand::JoinWriter])
            .collect()
    }

    fn closed(&mut self, next: Next, now: Duration) -> Vec<LifeCommand> {
        match next {
            Next::Reopen => self.open(now),
            Next::Retry { after, cause } => {
                let until = now + after;
                self.enter(Phase::Pausing { until, cause }, now);
                Vec::new()
            }
            Next::WaitOutside { cause } => {
                let epoch = self.resumed;
                let first = vec![LifeCommand::PutDown, LifeCommand::LeaveStatus];
                self.leave(first, LifeOutcome::WaitsOutside { epoch, cause }, now)
            }
            Next::GiveDeviceUp { cause, is_known } => {
                let (epoch, history) = (self.resumed, self.history.clone());
                let outcome = if is_known {
                    LifeOutcome::DeviceUnusable { epoch, cause }
                } else {
                    LifeOutcome::DeviceDoubted { history, cause }
                };
                self.leave(vec![LifeCommand::PutDown], outcome, now)
            }
            Next::Record(result) => {
                let end = JobEnd {
                    epoch: self.epoch,
                    result,
                };
                self.enter(Phase::Recording(end.clone()), now);
                vec![LifeCommand::Record(end)]
            }
            Next::Stop => self.end(LifeOutcome::Over, now),
        }
    }

    fn recorded(
        &mut self,
        end: JobEnd,
        recorded: Result<(), String>,
        now: Duration,
    ) -> Vec<LifeCommand> {
        let Err(why) = recorded else {
            return self.end(LifeOutcome::Over, now);
        };
        let ended = match &end.result {
            Ok(_) => "the job is done",
            Err(error) => error.as_str(),
        };
        let error = format!("{ended}; and the ledger cannot record it: {why}");
        self.enter(Phase::Ending, now);
        vec![
            LifeCommand::ShowUnrecorded { error },
            LifeCommand::Report(LifeOutcome::Unrecorded(end)),
        ]
    }

    /// Hands the job back to the queue, which may give it a device again.
    fn leave(
        &mut self,
        mut first: Vec<LifeCommand>,
        outcome: LifeOutcome,
        now: Duration,
    ) -> Vec<LifeCommand> {
        if !matches!(outcome, LifeOutcome::WaitsOutside { .. }) {
            first.push(LifeCommand::ClearStatus);
        }
        self.enter(Phase::Leaving(outcome.clone()), now);
        first.push(LifeCommand::Report(outcome));
        first
    }

    fn end(&mut self, outcome: LifeOutcome, now: Duration) -> Vec<LifeCommand> {
        self.enter(Phase::Ending, now);
        vec![
            LifeCommand::LeaveStatus,
            LifeCommand::ClearStatus,
            LifeCommand::Report(outcome),
        ]
    }
}

impl Phase {
    /// Whether a stop changes nothing any more.
    fn is_end(&self) -> bool {
        matches!(
            self,
            Phase::Closing(Next::Record(_) | Next::Stop) | Phase::Recording(_) | Phase::Ending
        )
    }
}

/// Has a line of the log go before the commands.
fn logged(level: LogLevel, line: String, mut commands: Vec<LifeCommand>) -> Vec<LifeCommand> {
    commands.insert(0, LifeCommand::Log(level, line));
    commands
}
