//! One running job: drives its state machine, attempt after attempt, until it ends.
//!
//! The machine decides; this actor carries out. The commands of one decision go out in order, and
//! the actor takes no further event meanwhile. The worker, the writer and the reward pool therefore
//! each hold it back when they are behind, and none of them waits for it.

mod begin;

use self::begin::{Begun, OpenError, Opened, Upkeep, known, open, start};
use crate::actors::MAILBOX_MAX_MESSAGES;
use crate::actors::supervise::Supervised;
use crate::actors::worker::{self, Worker, WorkerReply};
use crate::job_log::JobLog;
use crate::job_writer::{JobWriter, JobWriters, Task, WRITER_END_MAX};
use crate::live_status::JobSnapshot;
use crate::loaded_job::LoadedJob;
use crate::reading::Reading;
use crate::scoring::{self, ScoreRequest};
use crate::status::{JobViews, idle};
use crate::step_times::StepTimes;
use crate::{datasets, outside, outside_waits, review, strikes, tasks};
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{
    Actor, ActorContext, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture,
    StreamHandler,
};
use futures_util::stream;
use r1d_job::Job;
use r1d_ledger::{AttemptWriter, Command as LedgerCommand, JobRecord, LedgerError};
use r1d_proto::control::{Activity, State};
use r1d_proto::ids::JobId;
use r1d_proto::worker::{Body, ToWorker, WorkerRequest};
use r1d_rewards::Rewards;
use r1d_runner::restart::{Attempts, Progress, Retrying};
use r1d_runner::wait::Wait;
use r1d_runner::{Command, End, Event, Machine, Plan, Store};
use r1d_store::{JobLayout, layout};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};

/// Time between two checks of deadlines and updates of the live status.
const TICK: Duration = Duration::from_millis(100);
/// Messages of a worker that may wait (`LIM-1`): a full channel holds the worker back.
const REPLIES_MAX: usize = 64;
/// Longest time for a new attempt to begin in the ledger and on the worker.
const START_MAX: Duration = Duration::from_secs(3600);
/// A pause ends within this time after it is over: the daemon may be busy.
const PAUSE_LATE_MAX: Duration = Duration::from_secs(5);
/// Time between two looks at the record of a data set that waits for its review.
const REVIEW_LOOK: Duration = Duration::from_secs(1);

/// The activity in the status of a job that waits for people.
const WAITING_FOR_REVIEW: &str = "waiting for review";

/// What a running job needs of the daemon.
#[derive(Clone)]
pub(crate) struct RunContext {
    pub views: JobViews,
    pub rewards: Arc<Rewards>,
    pub writers: JobWriters,
    pub worker: Supervised<Worker>,
    pub device: String,
    pub worker_silence: Duration,
}

/// How a run ended, for the queue.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The end is in the ledger, or the run was stopped and the job continues later.
    Over,
    /// The review that the job waited for without a device has come, or its device cannot be used.
    /// The job continues as soon as a device is free, in this epoch if one had begun.
    Ready(Option<u64>),
    /// Something outside of the job is amiss, which the live status describes. The job continues as
    /// after [`Outcome::Ready`], but only once that is mended.
    WaitsOutside { epoch: Option<u64>, cause: String },
    /// The ledger could not take the end; the command is to be retried.
    Unrecorded(LedgerCommand),
}

/// Kills the worker and ends the run: the job was cancelled, or the daemon stops. `after_step`
/// first commits the step in flight.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Stop {
    pub after_step: bool,
}

enum Phase {
    /// Data, tokenizer and plugins are being opened.
    Reading(Reading),
    /// The attempt begins in the ledger and on the worker.
    Starting,
    Working(Box<Attempt>),
    /// The job waits for people to review a data set.
    Reviewing {
        stage: String,
        rows: u64,
    },
    /// Something that the job needs is missing: the attempt is being ended, and the job goes back
    /// to the queue.
    WaitsOutside {
        cause: String,
    },
    /// The worker and the writer of the previous attempt are being ended.
    Closing {
        cause: String,
    },
    /// The next attempt begins at `until`.
    Pausing {
        until: Duration,
        cause: String,
    },
    Ending,
}

struct Attempt {
    epoch: u64,
    machine: Machine,
    writer: mpsc::Sender<Task>,
    items: mpsc::Sender<ScoreRequest>,
    /// The id of the request that the worker carries out.
    in_flight: Option<u64>,
    requests: u64,
}

pub(crate) struct Run {
    id: JobId,
    run_context: RunContext,
    outputs: JobLayout,
    log: JobLog,
    phase: Phase,
    since: Duration,
    loaded_job: Option<(Arc<LoadedJob>, Arc<Plan>)>,
    /// The SHA-256 of the data sets that finished stages have made, by stage, as the inputs hold
    /// them.
    made: Arc<BTreeMap<String, String>>,
    /// Warnings of the inputs that were logged: each is logged once, however often the inputs are
    /// opened.
    warned: BTreeSet<String>,
    /// Counts everything that the run has begun. Messages of an earlier attempt or reading carry a
    /// lower number and are ignored.
    number: u64,
    /// The attempt's number, from 1, as shown to people.
    attempt: u64,
    /// The newest epoch that the run knows of: its attempt's, or the one that it found. The end of
    /// the job is recorded in it.
    epoch: u64,
    /// The epoch of the last attempt, if that ended without a failure or never got a worker: the
    /// next attempt continues in it.
    resumed: Option<u64>,
    attempts: Attempts,
    step_times: StepTimes,
    upkeep: Upkeep,
    stop_after_step: bool,
    stopping: Option<oneshot::Sender<()>>,
    outcome: Option<oneshot::Sender<Outcome>>,
    /// Tells the queue that the run has released its device, because it waits for something else.
    leaving: Option<oneshot::Sender<()>>,
    halted: watch::Receiver<bool>,
}

/// A run as the queue holds it. Its receivers close without a message if the actor panics.
pub(crate) struct Started {
    pub run: Addr<Run>,
    /// `true` interrupts whatever the run is handing over, so that it takes its next message.
    pub halt: Arc<watch::Sender<bool>>,
    /// Resolves when the run has released its device and goes on without one.
    pub left: oneshot::Receiver<()>,
    pub ended: oneshot::Receiver<Outcome>,
}

/// One message of a decision; they go out in order.
enum Outgoing {
    JobWriter(Task),
    Reward(ScoreRequest),
    /// A request, and the directory that the worker is to write for it.
    Worker(ToWorker, Option<PathBuf>),
}

/// A message of one of an attempt's parties, with the number of the attempt.
struct FromAttempt<T>(u64, T);

impl Run {
    /// Starts a run. `resumed` is the epoch of the attempt that it continues, if any.
    pub(crate) fn start(
        id: JobId,
        run_context: RunContext,
        outputs: JobLayout,
        resumed: Option<u64>,
    ) -> Started {
        let (outcome, ended) = oneshot::channel();
        let (leaving, left) = oneshot::channel();
        let halt = Arc::new(watch::Sender::new(false));
        let halted = halt.subscribe();
        let run = Run::create(|context| {
            context.set_mailbox_capacity(MAILBOX_MAX_MESSAGES);
            let log = JobLog::new(outputs.log(), &id.0, run_context.views.clock.clone());
            Run {
                since: run_context.views.clock.now(),
                id,
                run_context,
                outputs,
                log,
                phase: Phase::Starting,
                loaded_job: None,
                made: Arc::default(),
                warned: BTreeSet::new(),
                number: 0,
                attempt: 0,
                epoch: 0,
                resumed,
                attempts: Attempts::default(),
                step_times: StepTimes::default(),
                upkeep: Upkeep::default(),
                stop_after_step: false,
                stopping: None,
                outcome: Some(outcome),
                leaving: Some(leaving),
                halted,
            }
        });
        Started {
            run,
            halt,
            left,
            ended,
        }
    }

    fn now(&self) -> Duration {
        self.run_context.views.clock.now()
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.since = self.now();
    }

    /// Opens the inputs, once for all attempts until a stage has made a data set that another
    /// reads, then begins an attempt.
    fn open(&mut self, context: &mut Context<Self>) {
        let Some(record) = self.run_context.views.ledger.job(&self.id) else {
            return self.finish(
                End::Failed {
                    error: "the ledger does not know the job".into(),
                },
                context,
            );
        };
        self.epoch = self.epoch.max(record.progress.epoch);
        if let Some(error) = strikes::given_up(&record) {
            return self.finish(End::Failed { error }, context);
        }
        let reading = Reading::default();
        self.enter(Phase::Reading(reading.clone()));
        self.number += 1;
        let number = self.number;
        let (run_context, outputs, log) = (
            self.run_context.clone(),
            self.outputs.clone(),
            self.log.clone(),
        );
        let upkeep = self.upkeep.clone();
        let opening = async move {
            // A previous run of this job may have panicked and left its writer.
            run_context
                .writers
                .none(record.job(), &run_context.views.ledger)
                .await;
            let _wanted = reading.until_dropped();
            let reading = reading.clone();
            tasks::blocking(move || open(record, &run_context, &outputs, &log, &reading, &upkeep))
                .await
        };
        context.spawn(wrap_future(opening).map(
            move |opened, run: &mut Self, context: &mut Context<Self>| {
                if run.number != number || !matches!(run.phase, Phase::Reading(_)) {
                    return;
                }
                run.opened(opened, context);
            },
        ));
    }

    fn opened(
        &mut self,
        opened: Result<Result<Opened, OpenError>, tokio::task::JoinError>,
        context: &mut Context<Self>,
    ) {
        match opened {
            Ok(Ok(Opened::Review(stage, rows))) => self.review(stage, rows, context),
            Ok(Ok(Opened::Ready {
                loaded_job,
                made,
                to_take_over,
            })) => {
                self.made = Arc::new(made);
                for warning in &loaded_job.warnings {
                    if self.warned.insert(warning.clone()) {
                        self.log.warn(warning);
                    }
                }
                let mut plan = loaded_job.plan(
                    &self.id,
                    &self.outputs,
                    &self.run_context.device,
                    self.run_context.worker_silence,
                );
                for (index, facts) in plan.stages.iter_mut().enumerate() {
                    facts.later |= to_take_over.contains(&index);
                }
                let loaded_job = Arc::new(*loaded_job);
                self.run_context
                    .views
                    .open_jobs
                    .opened(&self.id, &loaded_job);
                self.loaded_job = Some((loaded_job, Arc::new(plan)));
                self.attempt(context);
            }
            Ok(Err(error)) => self.end(error.end(), context),
            Err(panic) => self.finish(
                End::Failed {
                    error: format!("reading the job's files: {panic}"),
                },
                context,
            ),
        }
    }

    /// Begins an attempt: a new epoch in the ledger, a fresh worker, a machine that starts from the
    /// record.
    fn attempt(&mut self, context: &mut Context<Self>) {
        let Some((loaded_job, plan)) = self
            .loaded_job
            .clone()
            .filter(|(loaded_job, _)| !self.has_to_review(&loaded_job.job))
        else {
            return self.open(context);
        };
        self.number += 1;
        self.attempt += 1;
        self.enter(Phase::Starting);
        let number = self.number;
        let (said, heard) = mpsc::channel(REPLIES_MAX);
        let starting = start(
            self.id.clone(),
            self.run_context.clone(),
            self.outputs.clone(),
            plan.clone(),
            said,
            self.log.clone(),
            self.resumed.take(),
        );
        context.spawn(wrap_future(starting).map(
            move |begun, run: &mut Self, context: &mut Context<Self>| {
                let Begun { epoch, record } = begun;
                // Record the newest epoch whatever has become of the attempt: the end of the job is
                // recorded in it.
                run.epoch = run.epoch.max(epoch.unwrap_or(0));
                if !matches!(run.phase, Phase::Starting) || run.number != number {
                    return;
                }
                match record {
                    Ok(record) => run.work(run.epoch, &record, loaded_job, plan, heard, context),
                    Err(end) => {
                        // Nothing was launched in this epoch.
                        if matches!(end, End::Away { .. } | End::Unusable { .. }) {
                            run.resumed = epoch;
                        }
                        run.end(end, context)
                    }
                }
            },
        ));
    }

    /// Whether a stage that people review has finished since the inputs were opened.
    fn has_to_review(&self, job: &Job) -> bool {
        let record = self.run_context.views.ledger.job(&self.id);
        let stages = record
            .iter()
            .flat_map(|record| &record.progress.stages)
            .zip(&job.stages);
        stages
            .filter(|(begun, _)| begun.state == State::Succeeded)
            .any(|(begun, settings)| settings.is_reviewed() && !self.made.contains_key(&begun.name))
    }

    /// Waits until people have reviewed the data set. Other jobs can use the device meanwhile.
    fn review(&mut self, stage: String, rows: u64, context: &mut Context<Self>) {
        self.log.info(format!(
            "data set {stage} ({rows} rows) waits for its review"
        ));
        let (dir, name) = (self.outputs.datasets(), stage.clone());
        self.enter(Phase::Reviewing { stage, rows });
        self.leave_device();
        self.number += 1;
        self.show();
        context.spawn(wrap_future(self.put_down()));
        let number = self.number;
        let waiting = async move {
            loop {
                tokio::time::sleep(REVIEW_LOOK).await;
                let (dir, name) = (dir.clone(), name.clone());
                let looked =
                    tasks::blocking(move || datasets::made(&dir, &name).map(|made| made.reviewed))
                        .await;
                // A bad record is reported when the inputs are opened.
                if !matches!(looked, Ok(Ok(false))) {
                    return;
                }
            }
        };
        context.spawn(wrap_future(waiting).map(
            move |(), run: &mut Self, context: &mut Context<Self>| {
                if run.number == number && matches!(run.phase, Phase::Reviewing { .. }) {
                    run.give_back(context);
                }
            },
        ));
    }

    /// Something outside of the job is amiss: ends the run, and the queue waits until it is mended.
    fn lack(&mut self, cause: String, context: &mut Context<Self>) {
        self.enter(Phase::WaitsOutside {
            cause: cause.clone(),
        });
        self.number += 1;
        self.show();
        let (closed, putting_down) = (self.close(), self.put_down());
        let (views, job, outputs, epoch) = (
            self.run_context.views.clone(),
            self.id.clone(),
            self.outputs.clone(),
            self.resumed,
        );
        let number = self.number;
        let leaving = async move {
            closed.await;
            putting_down.await;
            leave_status(views, job, outputs).await;
        };
        context.spawn(wrap_future(leaving).map(
            move |(), run: &mut Self, context: &mut Context<Self>| {
                if run.number == number {
                    run.enter(Phase::Ending);
                    run.over(Outcome::WaitsOutside { epoch, cause }, context);
                }
            },
        ));
    }

    /// The device cannot be used by any job: this one goes back to the queue.
    fn unusable(&mut self, cause: String, context: &mut Context<Self>) {
        self.keep_epoch();
        self.log
            .warn(format!("the job waits for a device: {cause}"));
        tracing::error!(
            "device {} gets no jobs until this is mended: {cause}",
            self.run_context.device
        );
        self.enter(Phase::WaitsOutside {
            cause: cause.clone(),
        });
        self.number += 1;
        self.show();
        let number = self.number;
        let (closed, putting_down) = (self.close(), self.put_down());
        let left = async move {
            closed.await;
            putting_down.await;
        };
        context.spawn(wrap_future(left).map(
            move |(), run: &mut Self, context: &mut Context<Self>| {
                if run.number == number {
                    run.run_context
                        .views
                        .live_status
                        .found(&run.run_context.device, Some(cause));
                    run.give_back(context);
                }
            },
        ));
    }

    /// Ends the run, so that the queue takes the job up as soon as a device is free.
    fn give_back(&mut self, context: &mut Context<Self>) {
        self.enter(Phase::Ending);
        self.number += 1;
        self.run_context.views.live_status.clear(&self.id);
        self.over(Outcome::Ready(self.resumed), context);
    }

    /// Tells the ledger that the daemon no longer works for the job.
    fn put_down(&self) -> impl Future<Output = ()> + use<> {
        let (upkeep, ledger, job) = (
            self.upkeep.clone(),
            self.run_context.views.ledger.clone(),
            self.id.clone(),
        );
        async move {
            let id = job.clone();
            if let Err(panic) = tasks::blocking(move || upkeep.put_down(&ledger, &id)).await {
                tracing::error!(%job, "putting the job down: {panic}");
            }
        }
    }

    /// Releases the device. From now on the run touches neither it nor its worker, which has no
    /// model open.
    fn leave_device(&mut self) {
        if let Some(leaving) = self.leave_live_status() {
            let _ = leaving.send(());
        }
    }

    fn leave_live_status(&mut self) -> Option<oneshot::Sender<()>> {
        let leaving = self.leaving.take()?;
        self.run_context
            .views
            .live_status
            .left(&self.run_context.device);
        Some(leaving)
    }

    /// Ends the attempt's worker, if it is still this job's, and its writer. Nothing works for the
    /// job afterwards.
    fn close(&self) -> impl Future<Output = ()> + use<> {
        let worker = self
            .leaving
            .as_ref()
            .map(|_| self.run_context.worker.clone());
        let (writers, job, ledger) = (
            self.run_context.writers.clone(),
            self.id.clone(),
            self.run_context.views.ledger.clone(),
        );
        async move {
            if let Some(worker) = worker {
                let _ = worker.ask("worker", worker::End).await;
            }
            writers.none(&job, &ledger).await;
        }
    }

    fn work(
        &mut self,
        epoch: u64,
        record: &JobRecord,
        loaded_job: Arc<LoadedJob>,
        plan: Arc<Plan>,
        heard: mpsc::Receiver<WorkerReply>,
        context: &mut Context<Self>,
    ) {
        let (begun, writing) = mpsc::channel(1);
        let held = self.run_context.writers.begin(&self.id);
        let (views, id) = (self.run_context.views.clone(), self.id.clone());
        let (ledger, outputs) = (views.ledger.clone(), self.outputs.clone());
        let writer = JobWriter {
            begun,
            attempt: AttemptWriter::new(ledger.clone(), held.storage(), outputs, id, epoch),
            job: self.id.clone(),
            epoch,
            ledger,
            views,
            loaded_job: loaded_job.clone(),
            made: self.made.clone(),
            outputs: self.outputs.clone(),
            clock: self.run_context.views.clock.clone(),
            log: self.log.clone(),
            failed: None,
        };
        let writer = match writer.start(held) {
            Ok(writer) => writer,
            Err(error) => {
                return self.end(
                    End::Abandoned {
                        cause: format!("cannot start a thread: {error}"),
                    },
                    context,
                );
            }
        };
        let (items, verdicts) = scoring::bridge(loaded_job, &self.run_context.rewards);
        let number = self.number;
        context.add_stream(tagged(number, heard));
        context.add_stream(tagged(number, verdicts));
        context.add_stream(tagged(number, writing));
        let machine = Machine::new(plan, known(record), self.now());
        self.enter(Phase::Working(Box::new(Attempt {
            epoch,
            machine,
            writer,
            items,
            in_flight: None,
            requests: 0,
        })));
        self.show();
    }

    /// Gives the event to the machine and carries out its decision.
    fn happened(&mut self, event: Event, context: &mut Context<Self>) {
        let now = self.now();
        let Phase::Working(attempt) = &mut self.phase else {
            return;
        };
        let decision = attempt.machine.handle(event, now);
        let mut end = None;
        let mut outgoing = Vec::new();
        for command in decision.commands {
            match command {
                Command::End(reached) => end = Some(reached),
                command => outgoing.extend(self.outgoing(command, context)),
            }
        }
        if let Some(reason) = decision.reason.filter(|_| end.is_none()) {
            tracing::debug!(job = %self.id, "{reason}");
            self.show();
        }
        match end {
            Some(end) => self.end(end, context),
            None if outgoing.is_empty() => {}
            None => self.send(outgoing, context),
        }
    }

    fn outgoing(&mut self, command: Command, context: &mut Context<Self>) -> Option<Outgoing> {
        let task = match command {
            Command::Worker(request) => {
                let Phase::Working(attempt) = &mut self.phase else {
                    return None;
                };
                attempt.requests += 1;
                attempt.in_flight = Some(attempt.requests);
                let id = attempt.requests;
                let (request, dir) = match *request {
                    // The writer puts it in its place when it puts it on record.
                    WorkerRequest::Save { dir } => {
                        let written = layout::unplaced(&dir, attempt.epoch);
                        (WorkerRequest::Save { dir: written }, Some(dir))
                    }
                    WorkerRequest::Export { dir } => {
                        (WorkerRequest::Export { dir: dir.clone() }, Some(dir))
                    }
                    request => (request, None),
                };
                return Some(Outgoing::Worker(ToWorker { id, request }, dir));
            }
            Command::Score(items) => return Some(Outgoing::Reward(ScoreRequest::Score(items))),
            Command::Conclude(answered) => {
                return Some(Outgoing::Reward(ScoreRequest::Conclude(answered)));
            }
            Command::Warn(warning) => {
                self.log.warn(warning);
                return None;
            }
            Command::Keep(keep) => Task::Keep(keep),
            Command::Prune { stage, step, dir } => Task::Prune { stage, step, dir },
            Command::Store(store) => {
                if let Store::Commit { stage, metrics, .. } = &store {
                    self.step_times.step(*stage, metrics);
                }
                let commits = matches!(store, Store::Commit { .. });
                Task::Store(store, self.answer(commits, context))
            }
            Command::MakeDataSet { stage } => {
                let (progress, heard) = mpsc::channel(1);
                context.add_stream(tagged(self.number, heard));
                Task::MakeDataSet {
                    stage,
                    progress,
                    answer: self.answer(false, context),
                }
            }
            Command::Recall { stage, step } => Task::Recall {
                stage,
                step,
                answer: self.answer(false, context),
            },
            Command::Forget { stage, step } => Task::Forget {
                stage,
                step,
                answer: self.answer(false, context),
            },
            Command::ReadPrompts {
                of,
                step,
                round,
                count,
            } => Task::Prompts {
                of,
                step,
                round,
                count,
                answer: self.answer(false, context),
            },
            Command::ReadBatch { stage, step } => Task::Batch {
                stage,
                step,
                answer: self.answer(false, context),
            },
            Command::ReadHeldOut { stage } => Task::HeldOut {
                stage,
                answer: self.answer(false, context),
            },
            Command::End(_) => return None,
        };
        Some(Outgoing::JobWriter(task))
    }

    /// Makes a sender for the writer's answer, which goes to the machine unless another attempt
    /// runs by then.
    fn answer(&mut self, commits: bool, context: &mut Context<Self>) -> oneshot::Sender<Event> {
        let (answer, answered) = oneshot::channel();
        let number = self.number;
        context.spawn(wrap_future(answered).map(
            move |event, run: &mut Self, context: &mut Context<Self>| {
                if run.number != number {
                    return;
                }
                if commits && run.stop_after_step {
                    return run.stop(context);
                }
                let gone = End::Abandoned {
                    cause: "the job's writer is gone (see the panic in the daemon's log)".into(),
                };
                run.happened(event.unwrap_or(Event::Fault(gone)), context);
            },
        ));
        answer
    }

    /// Hands everything over before the actor handles another message, unless the run is to end.
    fn send(&mut self, outgoing: Vec<Outgoing>, context: &mut Context<Self>) {
        let Phase::Working(attempt) = &self.phase else {
            return;
        };
        let (writer, items, worker) = (
            attempt.writer.clone(),
            attempt.items.clone(),
            self.run_context.worker.clone(),
        );
        let mut halted = self.halted.clone();
        let handing_over = async move {
            tokio::select! {
                sent = hand_over(outgoing, writer, items, worker) => sent,
                // A disk or a worker that takes nothing more must not keep people from cancelling
                // the job.
                _ = halted.wait_for(|halted| *halted) => Ok(()),
            }
        };
        context.wait(wrap_future(handing_over).map(
            |sent, run: &mut Self, context: &mut Context<Self>| {
                if let Err(end) = sent {
                    run.end(end, context);
                }
            },
        ));
    }

    /// An attempt has ended.
    fn end(&mut self, end: End, context: &mut Context<Self>) {
        if matches!(self.phase, Phase::Ending) {
            return;
        }
        let cause = match end {
            End::Abandoned { cause } => cause,
            End::Reread => return self.reread(context),
            End::Away { cause } => return self.lack(cause, context),
            End::Unusable { cause } => return self.unusable(cause, context),
            End::Failed { error } => return self.failed(error, context),
            End::Succeeded { .. } => return self.finish(end, context),
        };
        self.log
            .warn(format!("attempt {} is abandoned: {cause}", self.attempt));
        let record = self.run_context.views.ledger.job(&self.id);
        let is_over = |state: State| state.is_final() || state == State::Paused;
        if self.stop_after_step
            || record
                .as_ref()
                .is_some_and(|record| is_over(record.state()))
        {
            return self.stop(context);
        }
        match self.attempts.abandoned(
            cause.clone(),
            record.as_deref().map_or(NOTHING_DONE, progress),
        ) {
            Retrying::GiveUp { error } => self.failed(error, context),
            Retrying::Retry { after } => self.pause(after, cause, context),
        }
    }

    /// Fails the job, unless something that it needs is amiss: that is the likelier cause, and is
    /// waited for.
    fn failed(&mut self, error: String, context: &mut Context<Self>) {
        self.enter(Phase::Closing {
            cause: error.clone(),
        });
        self.number += 1;
        let number = self.number;
        let (views, job) = (self.run_context.views.clone(), self.id.clone());
        let looked = tasks::blocking(move || outside::harmed(&views, &job));
        context.spawn(wrap_future(looked).map(
            move |amiss, run: &mut Self, context: &mut Context<Self>| {
                if run.number != number || !matches!(run.phase, Phase::Closing { .. }) {
                    return;
                }
                match amiss {
                    Ok(Some(cause)) => {
                        if !cause.contains(&error) {
                            tracing::info!(job = %run.id, "the attempt ended with: {error}");
                        }
                        run.lack(cause, context)
                    }
                    // A panic in the check is no reason to go on.
                    _ => run.finish(End::Failed { error }, context),
                }
            },
        ));
    }

    /// Lets the next attempt continue in this epoch, because nothing went wrong with this one.
    fn keep_epoch(&mut self) {
        if let Phase::Working(attempt) = &self.phase {
            self.resumed = Some(attempt.epoch);
        }
    }

    /// A stage has made its data set: opens the inputs again and goes on with a fresh worker.
    fn reread(&mut self, context: &mut Context<Self>) {
        self.keep_epoch();
        self.loaded_job = None;
        self.enter(Phase::Closing {
            cause: "a stage has made data that is to be read".into(),
        });
        self.number += 1;
        self.show();
        let number = self.number;
        context.spawn(wrap_future(self.close()).map(
            move |(), run: &mut Self, context: &mut Context<Self>| {
                if run.number == number && matches!(run.phase, Phase::Closing { .. }) {
                    run.open(context);
                }
            },
        ));
    }

    /// Ends what is left of the attempt, pauses for `after`, and begins the next one.
    fn pause(&mut self, after: Duration, cause: String, context: &mut Context<Self>) {
        self.log.info(format!(
            "the job is taken up again in {:.1} s",
            after.as_secs_f64()
        ));
        // Dropping the attempt closes its channels, so later messages of its parties are lost.
        self.enter(Phase::Closing { cause });
        self.number += 1;
        let number = self.number;
        self.run_context
            .views
            .live_status
            .device(&self.run_context.device, |device| {
                device.worker_restarts += 1
            });
        self.show();
        context.spawn(wrap_future(self.close()).then(
            move |(), run: &mut Self, _: &mut Context<Self>| {
                if let (true, Phase::Closing { cause }) = (run.number == number, &run.phase) {
                    let cause = cause.clone();
                    run.enter(Phase::Pausing {
                        until: run.now() + after + PAUSE_LATE_MAX,
                        cause,
                    });
                    run.show();
                }
                wrap_future(tokio::time::sleep(after)).map(
                    move |(), run: &mut Self, context: &mut Context<Self>| {
                        if run.number == number && matches!(run.phase, Phase::Pausing { .. }) {
                            run.attempt(context);
                        }
                    },
                )
            },
        ));
    }

    /// Ends the job: ends the worker and records the end in the ledger.
    fn finish(&mut self, end: End, context: &mut Context<Self>) {
        let (state, error, model) = match end {
            End::Succeeded { model } => (State::Succeeded, None, Some(model)),
            End::Failed { error: why }
            | End::Abandoned { cause: why }
            | End::Away { cause: why }
            | End::Unusable { cause: why } => (State::Failed, Some(why), None),
            End::Reread => (
                State::Failed,
                Some("its data was to be read again".into()),
                None,
            ),
        };
        match &error {
            Some(error) => self.log.error(format!("the job failed: {error}")),
            None => self.log.info("the job succeeded"),
        }
        self.enter(Phase::Ending);
        self.number += 1;
        let (ledger, live_status) = (
            self.run_context.views.ledger.clone(),
            self.run_context.views.live_status.clone(),
        );
        let (views, outputs) = (self.run_context.views.clone(), self.outputs.clone());
        let (job, epoch, closed, at) = (
            self.id.clone(),
            self.epoch,
            self.close(),
            self.run_context.views.clock.unix().as_secs(),
        );
        let ending = async move {
            closed.await;
            let command = LedgerCommand::Finish {
                job: job.clone(),
                epoch,
                state,
                error: error.clone(),
                model,
                at,
            };
            match record_end(ledger, command.clone()).await {
                Ok(()) => {
                    leave_status(views, job.clone(), outputs).await;
                    live_status.clear(&job);
                    Outcome::Over
                }
                Err(why) => {
                    let failed = format!(
                        "{}; and the ledger cannot record it: {why}",
                        error.unwrap_or_else(|| "the job is done".into())
                    );
                    live_status.show(
                        &job,
                        JobSnapshot {
                            failed: Some(failed),
                            ..JobSnapshot::default()
                        },
                    );
                    Outcome::Unrecorded(command)
                }
            }
        };
        context.spawn(wrap_future(ending).map(
            |outcome, run: &mut Self, context: &mut Context<Self>| run.over(outcome, context),
        ));
    }

    /// Ends the run without an end in the ledger: the job was cancelled, or another daemon
    /// continues it.
    fn stop(&mut self, context: &mut Context<Self>) {
        self.enter(Phase::Ending);
        self.number += 1;
        let (live_status, job, closed) = (
            self.run_context.views.live_status.clone(),
            self.id.clone(),
            self.close(),
        );
        let (views, outputs, putting_down) = (
            self.run_context.views.clone(),
            self.outputs.clone(),
            self.put_down(),
        );
        let ending = async move {
            // This comes first: the daemon may have little time left.
            putting_down.await;
            closed.await;
            leave_status(views, job.clone(), outputs).await;
            live_status.clear(&job);
        };
        context.spawn(wrap_future(ending).map(
            |(), run: &mut Self, context: &mut Context<Self>| run.over(Outcome::Over, context),
        ));
    }

    fn over(&mut self, outcome: Outcome, context: &mut Context<Self>) {
        self.leave_live_status();
        if let Some(sender) = self.outcome.take() {
            let _ = sender.send(outcome);
        }
        if let Some(stopped) = self.stopping.take() {
            let _ = stopped.send(());
        }
        context.stop();
    }

    /// Brings the live status up to date.
    fn show(&mut self) {
        let wait = |what: &str| Wait::new("job", what, self.since);
        let mut live = JobSnapshot {
            steps: self.steps(),
            ..JobSnapshot::default()
        };
        match &self.phase {
            // The duration depends on how much there is to read.
            Phase::Reading(reading) => {
                let Activity {
                    doing,
                    done,
                    total,
                    unit,
                } = reading.now();
                live.waits = vec![wait(&format!(
                    "data, tokenizer and plugins: {doing} ({done} of {total} parts)"
                ))];
                live.activity = Some(Activity {
                    doing: "loading".into(),
                    done,
                    total,
                    unit,
                });
            }
            Phase::Starting => {
                live.activity = Some(idle("loading"));
                live.waits = vec![
                    wait(&format!(
                        "ledger and worker {}: a new attempt",
                        self.run_context.device
                    ))
                    .until(self.since + START_MAX),
                ];
            }
            Phase::Closing { cause } => {
                live.activity = Some(idle("restarting"));
                let what = format!(
                    "the end of worker {} and of the attempt's writer, after: {cause}",
                    self.run_context.device
                );
                live.waits = vec![wait(&what).until(self.since + WRITER_END_MAX)];
            }
            Phase::Reviewing { stage, rows } => {
                live.activity = Some(Activity {
                    doing: WAITING_FOR_REVIEW.into(),
                    done: 0,
                    total: 0,
                    unit: "rows".into(),
                });
                live.waits = vec![wait(&review::wanted(&self.id, stage, *rows))];
            }
            Phase::WaitsOutside { cause } => {
                live.activity = Some(idle("waiting"));
                live.waits = vec![wait(&outside_waits::awaited(cause))];
            }
            Phase::Pausing { until, cause } => {
                live.activity = Some(idle("restarting"));
                let what = format!(
                    "its next attempt (after {} that got no further): {cause}",
                    self.attempts.fruitless()
                );
                live.waits = vec![wait(&what).until(*until)];
                self.run_context
                    .views
                    .live_status
                    .device(&self.run_context.device, |device| {
                        (device.state, device.job) = ("restarting".into(), Some(self.id.clone()));
                    });
            }
            Phase::Working(attempt) => {
                live.activity = Some(attempt.machine.activity());
                live.waits = attempt.machine.waits();
                if let Some((loaded_job, plan)) = &self.loaded_job {
                    live.eta_s =
                        self.step_times
                            .time_left(loaded_job, plan, attempt.machine.record());
                }
            }
            Phase::Ending => return,
        }
        self.run_context.views.live_status.show(&self.id, live);
    }

    fn steps(&self) -> Vec<u64> {
        self.loaded_job.as_ref().map_or_else(Vec::new, |(_, plan)| {
            plan.stages.iter().map(|facts| facts.steps).collect()
        })
    }

    fn tick(&mut self, context: &mut Context<Self>) {
        if self
            .outcome
            .as_ref()
            .is_some_and(|outcome| outcome.is_closed())
            && !matches!(self.phase, Phase::Ending)
        {
            // The queue that started this run is gone; its successor starts runs of its own.
            return self.stop(context);
        }
        if matches!(self.phase, Phase::Starting) && self.now() > self.since + START_MAX {
            let cause = format!(
                "neither ledger nor worker has taken the attempt up within {} s",
                START_MAX.as_secs()
            );
            return self.end(End::Abandoned { cause }, context);
        }
        self.happened(Event::Tick, context);
        self.show();
    }
}

impl Actor for Run {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(TICK, |run, context| run.tick(context));
        self.show();
        self.open(context);
    }
}

impl StreamHandler<FromAttempt<WorkerReply>> for Run {
    fn handle(
        &mut self,
        FromAttempt(number, said): FromAttempt<WorkerReply>,
        context: &mut Self::Context,
    ) {
        if number != self.number {
            return;
        }
        let message = match said {
            WorkerReply::Lost { cause } => return self.end(End::Abandoned { cause }, context),
            WorkerReply::Unusable { cause } => return self.end(End::Unusable { cause }, context),
            WorkerReply::Message(message) => message,
        };
        if let Some(pid) = worker::started(&message) {
            self.log.info(format!(
                "worker {} runs as process {pid}",
                self.run_context.device
            ));
            return self.happened(Event::WorkerStarted { pid }, context);
        }
        let Phase::Working(attempt) = &mut self.phase else {
            return;
        };
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
        if number == self.number {
            self.happened(event, context);
        }
    }

    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<Stop> for Run {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, stop: Stop, context: &mut Self::Context) -> Self::Result {
        let (sender, stopped) = oneshot::channel();
        self.stopping = Some(sender);
        let in_step =
            matches!(&self.phase, Phase::Working(attempt) if attempt.machine.is_in_step());
        match (&self.phase, stop.after_step && in_step) {
            (Phase::Ending, _) => {}
            (_, true) => self.stop_after_step = true,
            (_, false) => self.stop(context),
        }
        Box::pin(wrap_future(async {
            // If the actor ends before it answers, it has stopped too.
            let _ = stopped.await;
        }))
    }
}

pub(crate) const NOTHING_DONE: Progress = Progress {
    stages_finished: 0,
    steps: 0,
    evals: 0,
    checkpoints: 0,
};

pub(crate) fn progress(record: &JobRecord) -> Progress {
    let stages = &record.progress.stages;
    Progress {
        stages_finished: stages
            .iter()
            .filter(|stage| stage.ended_at.is_some())
            .count() as u64,
        steps: stages.iter().map(|stage| stage.step).sum(),
        evals: record.evals.len() as u64,
        checkpoints: stages.iter().map(|stage| stage.durable_step()).sum(),
    }
}

async fn hand_over(
    outgoing: Vec<Outgoing>,
    writer: mpsc::Sender<Task>,
    items: mpsc::Sender<ScoreRequest>,
    worker: Supervised<Worker>,
) -> Result<(), End> {
    let gone = |who: &str| End::Abandoned {
        cause: format!("{who} is gone (see the daemon's log)"),
    };
    for part in outgoing {
        match part {
            Outgoing::JobWriter(task) => writer
                .send(task)
                .await
                .map_err(|_| gone("the job's writer"))?,
            Outgoing::Reward(group) => items
                .send(group)
                .await
                .map_err(|_| gone("the bridge to the reward pool"))?,
            Outgoing::Worker(request, dir) => {
                if let Some(dir) = dir {
                    let (answer, cleared) = oneshot::channel();
                    writer
                        .send(Task::Clear { dir, answer })
                        .await
                        .map_err(|_| gone("the job's writer"))?;
                    if let Event::Fault(end) =
                        cleared.await.map_err(|_| gone("the job's writer"))?
                    {
                        return Err(end);
                    }
                }
                // The process's end is reported on its own stream, with the cause.
                let _ = worker.ask("worker", worker::Ask(request)).await;
            }
        }
    }
    Ok(())
}

pub(crate) async fn leave_status(views: JobViews, job: JobId, outputs: JobLayout) {
    // A panic is logged there; the job has ended.
    let _ = tasks::blocking(move || views.leave_status(&job, &outputs)).await;
}

/// Records the job's end in the ledger. A refusal means that an end was recorded before (a
/// cancellation).
async fn record_end(ledger: Arc<r1d_ledger::Ledger>, command: LedgerCommand) -> Result<(), String> {
    match tasks::blocking(move || ledger.apply(command)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(LedgerError::Rejected(rejected))) => {
            tracing::debug!("the end of a job is refused: {rejected}");
            Ok(())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => Err(panic.to_string()),
    }
}

fn tagged<T: 'static>(
    number: u64,
    receiver: mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = FromAttempt<T>> + 'static {
    stream::unfold(receiver, move |mut receiver| async move {
        Some((FromAttempt(number, receiver.recv().await?), receiver))
    })
}
