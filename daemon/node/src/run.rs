//! One running job: carries out what its life ([`Life`]) and the machine of its attempt
//! ([`Machine`]) decide, and tells them what came of it.
//!
//! The commands of one decision go out in order. While an attempt hands over what its machine
//! decided, the actor takes no further event: the worker, the writer and the reward pool each hold
//! it back when they are behind, and none of them waits for it.

mod attempt;
mod begin;
mod life;
mod show;

use crate::context::NodeContext;
use crate::gang::Gang;
use crate::job_log::JobLog;
use crate::job_writer::Task;
use crate::loaded_job::LoadedJob;
use crate::meeting::Meeting;
use crate::reading::Reading;
use crate::scoring::ScoreRequest;
use crate::step_times::StepTimes;
use crate::tasks::{self, MAILBOX_MAX_MESSAGES};
use crate::upkeep::Upkeep;
use crate::worker::{self, FromRank, WorkerReply};
use actix::{Actor, Addr, AsyncContext, Context, Handler, Message, StreamHandler};
use r1d_ledger::JobRecord;
use r1d_link::record::{NOTHING_DONE, progress};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_proto::worker::Body;
use r1d_runner::life::{JobStanding, Life, LifeEvent, LifeOutcome};
use r1d_runner::{End, Event, Machine, Plan};
use r1d_store::JobLayout;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Time between two checks of deadlines and updates of the live status.
const TICK: Duration = Duration::from_millis(100);

/// What a running job needs of its node and its devices.
#[derive(Clone)]
pub(crate) struct RunContext {
    pub node: NodeContext,
    pub gang: Gang,
    pub worker_silence: Duration,
}

/// The end of a run.
#[derive(Debug)]
pub(crate) struct Ended {
    pub outcome: LifeOutcome,
    /// The rank that the outcome is about: whose worker failed last.
    pub rank: usize,
}

/// Ends the run and kills its workers: the job was cancelled, paused or requeued, another queue
/// begins, or the daemon stops. With `after_step`, the step in flight is committed first.
#[derive(Message)]
#[rtype(result = "()")]
struct Stop {
    after_step: bool,
}

/// An attempt at work.
struct Attempt {
    epoch: u64,
    machine: Machine,
    writer: mpsc::Sender<Task>,
    items: mpsc::Sender<ScoreRequest>,
    /// The id of the request that the workers carry out.
    in_flight: Option<u64>,
    requests: u64,
    /// Workers that have said that they are ready.
    started: usize,
}

/// What an attempt has begun with.
struct Prepared {
    loaded_job: Arc<LoadedJob>,
    plan: Arc<Plan>,
    record: Arc<JobRecord>,
    heard: mpsc::Receiver<FromRank>,
}

pub(crate) struct Run {
    id: JobId,
    run_context: RunContext,
    outputs: JobLayout,
    log: JobLog,
    life: Life,
    /// How far the inputs are read.
    reading: Reading,
    loaded_job: Option<(Arc<LoadedJob>, Arc<Plan>)>,
    /// The SHA-256 of the data sets that finished stages have made, by stage, as the inputs hold
    /// them.
    made: Arc<BTreeMap<String, String>>,
    /// Warnings of the inputs that were logged: each is logged once, however often the inputs are
    /// opened.
    warned: BTreeSet<String>,
    /// The rendezvous of the newest attempt's ranks.
    meeting: Meeting,
    /// An attempt that has begun, until it works.
    prepared: Option<Prepared>,
    working: Option<Box<Attempt>>,
    step_times: StepTimes,
    upkeep: Upkeep,
    outcome: Option<oneshot::Sender<Ended>>,
    /// Whether the run has its devices: it releases them to wait for people. Dropped with the run.
    has_device: watch::Sender<bool>,
    halted: watch::Receiver<bool>,
}

/// A run as others know it.
#[derive(Clone)]
pub(crate) struct RunHandle {
    run: Addr<Run>,
    /// `true` interrupts whatever the run is handing over, so that it takes its next message.
    halt: Arc<watch::Sender<bool>>,
    /// Whether the run has its devices; closed when the run has ended, even by a panic.
    device: watch::Receiver<bool>,
}

impl RunHandle {
    /// Whether nothing of the run is left.
    pub(crate) fn has_ended(&self) -> bool {
        self.device.has_changed().is_err()
    }

    /// Whether the run may touch its devices.
    pub(crate) fn has_device(&self) -> bool {
        !self.has_ended() && *self.device.borrow()
    }

    /// Waits until the run does not touch its devices any more. Returns whether it goes on without
    /// any.
    pub(crate) async fn has_left(&self) -> bool {
        let mut device = self.device.clone();
        device.wait_for(|has| !has).await.is_ok()
    }

    /// Waits until nothing of the run is left.
    pub(crate) async fn ended(&self) {
        let mut device = self.device.clone();
        while device.changed().await.is_ok() {}
    }

    /// Has the run stop; `after_step` lets it commit the step in flight first. Returns when it has
    /// heard of it.
    pub(crate) async fn stop(self, after_step: bool) {
        if !after_step {
            self.halt.send_replace(true);
        }
        // A closed mailbox means that the run has ended by itself.
        let _ = self.run.send(Stop { after_step }).await;
    }
}

/// A message of one of an attempt's parties, with the number of the attempt.
struct FromAttempt<T>(u64, T);

impl Run {
    /// Starts a run of the job with this life. The outcome is dropped if the run panics.
    pub(crate) fn start(
        id: JobId,
        run_context: RunContext,
        outputs: JobLayout,
        life: Life,
    ) -> (RunHandle, oneshot::Receiver<Ended>) {
        let (outcome, ended) = oneshot::channel();
        let (has_device, device) = watch::channel(true);
        let halt = Arc::new(watch::Sender::new(false));
        let halted = halt.subscribe();
        let run = Run::create(|context| {
            context.set_mailbox_capacity(MAILBOX_MAX_MESSAGES);
            let log = JobLog::new(outputs.log(), &id.0, run_context.node.clock.clone());
            Run {
                life,
                id,
                reading: Reading::new(run_context.node.clock.clone()),
                meeting: Meeting::new(run_context.node.clock.clone()),
                run_context,
                outputs,
                log,
                loaded_job: None,
                made: Arc::default(),
                warned: BTreeSet::new(),
                prepared: None,
                working: None,
                step_times: StepTimes::default(),
                upkeep: Upkeep::default(),
                outcome: Some(outcome),
                has_device,
                halted,
            }
        });
        (RunHandle { run, halt, device }, ended)
    }

    fn now(&self) -> Duration {
        self.run_context.node.clock.now()
    }

    /// Tells the job's life what happened, and carries out what it decides. `number` is that of the
    /// decision which the event answers.
    fn tell(&mut self, number: u64, event: LifeEvent, context: &mut Context<Self>) {
        let (before, standing) = (self.life.number(), self.standing());
        let commands = self.life.handle(number, event, standing, self.now());
        self.decided(before, commands, context);
    }

    /// Tells the job's life what happened now.
    fn tell_now(&mut self, event: LifeEvent, context: &mut Context<Self>) {
        self.tell(self.life.number(), event, context);
    }

    /// Ends the attempt.
    fn end(&mut self, end: End, context: &mut Context<Self>) {
        self.tell_now(LifeEvent::Ended { end }, context);
    }

    /// What the ledger says of the job.
    fn standing(&self) -> JobStanding {
        let record = self.run_context.node.ledger.job(&self.id);
        let is_over =
            |record: &JobRecord| record.state().is_final() || record.state() == State::Paused;
        JobStanding {
            progress: record.as_deref().map_or(NOTHING_DONE, progress),
            is_over: record.as_deref().is_some_and(is_over),
            has_to_review: record
                .as_deref()
                .is_some_and(|record| self.has_to_review(record)),
        }
    }

    /// Whether a stage that people review has finished since the inputs were opened.
    fn has_to_review(&self, record: &JobRecord) -> bool {
        let Some((loaded_job, _)) = &self.loaded_job else {
            return false;
        };
        let stages = record.progress.stages.iter().zip(&loaded_job.job.stages);
        stages
            .filter(|(begun, _)| begun.state == State::Succeeded)
            .any(|(begun, settings)| settings.is_reviewed() && !self.made.contains_key(&begun.name))
    }

    /// A worker is ready, or of no use. The attempt begins when all of them are ready.
    fn started_rank(
        &mut self,
        rank: usize,
        started: Result<u32, String>,
        context: &mut Context<Self>,
    ) {
        let pid = match started {
            Ok(pid) => pid,
            Err(cause) => {
                self.run_context.gang.live().failed(rank);
                return self.end(End::Unusable { cause }, context);
            }
        };
        let device = self.run_context.gang.devices().nth(rank);
        let device = device.unwrap_or_default();
        self.log
            .info(format!("worker {device} runs as process {pid}"));
        let Some(attempt) = &mut self.working else {
            return;
        };
        attempt.started += 1;
        if attempt.started == self.run_context.gang.size() {
            self.happened(Event::WorkerStarted { pid }, context);
        }
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        self.tell_now(LifeEvent::Tick, context);
        self.happened(Event::Tick, context);
        self.show();
    }
}

impl Actor for Run {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(TICK, |run, context| run.tick(context));
        let before = self.life.number();
        let commands = self.life.begin(self.now());
        self.decided(before, commands, context);
    }
}

impl StreamHandler<FromAttempt<FromRank>> for Run {
    fn handle(
        &mut self,
        FromAttempt(number, FromRank { rank, reply }): FromAttempt<FromRank>,
        context: &mut Self::Context,
    ) {
        if number != self.life.number() {
            return;
        }
        let message = match reply {
            WorkerReply::Lost { cause } => {
                self.run_context.gang.live().failed(rank);
                return self.end(End::WorkerFailed { cause }, context);
            }
            WorkerReply::Unusable { cause } => {
                self.run_context.gang.live().failed(rank);
                return self.end(End::Unusable { cause }, context);
            }
            WorkerReply::Message(message) => message,
        };
        if let Some(started) = worker::started(&message) {
            return self.started_rank(rank, started, context);
        }
        let Some(attempt) = &mut self.working else {
            return;
        };
        if matches!(message.body, Body::Failed(_)) {
            self.run_context.gang.live().failed(rank);
        }
        // A checkpoint is written beside the request in flight.
        if matches!(message.body, Body::Checkpoint(_)) {
            return self.happened(Event::Worker(message.body), context);
        }
        if attempt.in_flight != Some(message.id) {
            tracing::warn!(job = %self.id, "the worker answers request {}, which is not in flight",
                message.id);
            return;
        }
        if !matches!(message.body, Body::Event(_)) {
            attempt.in_flight = None;
        }
        self.happened(Event::Worker(message.body), context);
    }

    /// An attempt's stream ends with the attempt; the job goes on.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl StreamHandler<FromAttempt<Event>> for Run {
    fn handle(
        &mut self,
        FromAttempt(number, event): FromAttempt<Event>,
        context: &mut Self::Context,
    ) {
        if number == self.life.number() {
            self.happened(event, context);
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Stop> for Run {
    type Result = ();

    fn handle(&mut self, Stop { after_step }: Stop, context: &mut Self::Context) {
        let is_in_step = |attempt: &Attempt| attempt.machine.is_in_step();
        let in_step = self.working.as_deref().is_some_and(is_in_step);
        self.tell_now(
            LifeEvent::Stop {
                after_step,
                in_step,
            },
            context,
        );
        self.show();
    }
}

/// Writes the job's status into its directory.
pub(crate) async fn leave_status(node: NodeContext, job: JobId) {
    // A panic is logged there; the job has ended.
    let _ = tasks::blocking(move || node.leave_status(&job)).await;
}
