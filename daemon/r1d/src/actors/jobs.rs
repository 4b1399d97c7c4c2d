//! The queue: carries out what the schedule decides ([`r1d_runner::schedule`]), and tells it what
//! happened. It watches the ledger, so writing a job into the ledger is all that it takes to queue
//! one.

pub(crate) mod decide;
mod waits;

use crate::actors::run::{Run, RunContext, Started, Stop, ending};
use crate::actors::supervise::Alive;
use crate::actors::worker::WorkerCommand;
use crate::old_workers::{OldWorkers, Remaining};
use crate::outside_waits::{Lacked, Looks};
use crate::queue::LedgerQueue;
use crate::status::JobViews;
use crate::{setup, tasks};
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{
    Actor, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture, StreamHandler,
};
use futures_util::stream;
use r1d_ledger::{Command as LedgerCommand, LedgerError};
use r1d_proto::ids::JobId;
use r1d_runner::attempt::{History, LifeOutcome, Lifecycle};
use r1d_runner::schedule::{Problem, Schedule, ScheduleCommand, ScheduleEvent};
use r1d_store::JobLayout;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Pause before another try to record an end that the ledger could not take.
const RECORD_AGAIN: Duration = Duration::from_secs(5);
/// Time between two looks at free devices without any change of the ledger: a suspect's trial, a
/// device's rest and the pause between two probes end by time.
const TICK: Duration = Duration::from_secs(1);

/// The ledger changed, so another job may be next.
struct QueueChanged;

/// The daemon has looked at all devices; the outcome is in the live status.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DevicesTried;

/// Stops all runs, for another daemon to continue them; no new run starts.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopAll {
    pub after_step: bool,
}

pub(crate) struct Device {
    pub run_context: RunContext,
    pub worker_command: WorkerCommand,
}

/// The run of a job in hand, with or without a device.
struct InHand {
    run: Addr<Run>,
    halt: Arc<watch::Sender<bool>>,
}

pub(crate) struct Jobs {
    devices: Vec<Device>,
    schedule: Schedule,
    in_hand: HashMap<JobId, InHand>,
    old_workers: OldWorkers,
    /// Whether another look for old workers is due later.
    waits_for_workers: bool,
    is_held: bool,
    /// Jobs that wait for something outside of them; dropping the sender ends the wait. They have
    /// no run, because one missing file may stop all jobs.
    outside_waits: HashMap<JobId, oneshot::Sender<()>>,
    looks: Looks,
    /// What the last attempt at a job ended for, where that is waited for.
    lacked: HashMap<JobId, Lacked>,
    /// Ends that the ledger could not take yet.
    unrecorded: Vec<LedgerCommand>,
    _alive: Alive,
}

impl Jobs {
    pub(crate) fn new(devices: Vec<Device>, old_workers: OldWorkers, alive: Alive) -> Jobs {
        Jobs {
            schedule: Schedule::new(devices.len()),
            devices,
            in_hand: HashMap::new(),
            old_workers,
            waits_for_workers: false,
            is_held: false,
            outside_waits: HashMap::new(),
            looks: Looks::default(),
            lacked: HashMap::new(),
            unrecorded: Vec::new(),
            _alive: alive,
        }
    }

    /// What all devices share; `None` if there is no device.
    fn views(&self) -> Option<&JobViews> {
        self.devices.first().map(|device| &device.run_context.views)
    }

    /// Tells the schedule what happened, and carries out what it decides.
    fn tell(&mut self, event: ScheduleEvent, context: &mut Context<Self>) {
        let is_held = self.has_old_workers(context);
        let held = (is_held != self.is_held).then_some(ScheduleEvent::Held(is_held));
        self.is_held = is_held;
        for event in held.into_iter().chain([event]) {
            let Some(views) = self.views() else {
                return;
            };
            let (queue, now) = (LedgerQueue(views.ledger.state()), views.clock.now());
            for command in self.schedule.handle(event, &queue, now) {
                self.carry_out(command, context);
            }
        }
    }

    /// Whether workers of the daemon before this one are still there. If so, another look follows.
    fn has_old_workers(&mut self, context: &mut Context<Self>) -> bool {
        if self.waits_for_workers {
            return true;
        }
        let remaining = self.old_workers.look();
        if let Some(views) = self.views() {
            let cause = remaining.as_ref().map(|remaining| remaining.cause.clone());
            views.live_status.hold(cause);
        }
        let Some(Remaining { pause, .. }) = remaining else {
            return false;
        };
        self.waits_for_workers = true;
        context.run_later(pause, |jobs, context| {
            jobs.waits_for_workers = false;
            jobs.tell(ScheduleEvent::Tick, context);
        });
        true
    }

    fn carry_out(&mut self, command: ScheduleCommand, context: &mut Context<Self>) {
        match command {
            ScheduleCommand::Place {
                device,
                job,
                resumed,
                history,
                doubts_device,
            } => self.place(device, job, (resumed, history, doubts_device), context),
            ScheduleCommand::Probe { device } => self.probe(device, context),
            ScheduleCommand::Show { device, problem } => self.show(device, problem),
            ScheduleCommand::Watch { job, cause } => self.watch(job, cause, context),
            ScheduleCommand::Unwatch { job } => self.unwatch(&job),
            ScheduleCommand::Record { job, end } => {
                if let Some(views) = self.views() {
                    let command = ending(&job, end, views.clock.unix().as_secs());
                    tracing::error!(%job, "the job's end is not recorded yet; it is tried again");
                    self.unrecorded.push(command);
                }
            }
        }
    }

    fn place(
        &mut self,
        index: usize,
        job: JobId,
        (resumed, history, doubts_device): (Option<u64>, History, bool),
        context: &mut Context<Self>,
    ) {
        let Some(device) = self.devices.get(index) else {
            return;
        };
        let run_context = device.run_context.clone();
        let outputs = JobLayout::of(&run_context.views.state_dir, &job);
        let now = run_context.views.clock.now();
        let life = Lifecycle::new(resumed, history, doubts_device, now);
        let Started {
            run,
            halt,
            left,
            ended,
        } = Run::start(job.clone(), run_context, outputs, life);
        self.in_hand.insert(job.clone(), InHand { run, halt });
        let leaver = job.clone();
        context.spawn(wrap_future(left).map(
            move |left, jobs: &mut Self, context: &mut Context<Self>| {
                if left.is_ok() {
                    let (device, job) = (index, leaver);
                    jobs.tell(ScheduleEvent::Released { device, job }, context);
                }
            },
        ));
        context.spawn(wrap_future(ended).map(
            move |outcome, jobs: &mut Self, context: &mut Context<Self>| {
                jobs.ended(index, job, outcome.ok(), context);
            },
        ));
    }

    /// Takes a job back; without an outcome its runner has panicked.
    fn ended(
        &mut self,
        device: usize,
        job: JobId,
        outcome: Option<LifeOutcome>,
        context: &mut Context<Self>,
    ) {
        self.in_hand.remove(&job);
        match outcome {
            None => tracing::error!(%job, "the job's runner panicked"),
            Some(LifeOutcome::Over) => drop(self.lacked.remove(&job)),
            _ => {}
        }
        let event = ScheduleEvent::Ended {
            device,
            job,
            outcome,
        };
        self.tell(event, context);
    }

    fn probe(&mut self, index: usize, context: &mut Context<Self>) {
        let Some(device) = self.devices.get(index) else {
            return;
        };
        let looked = setup::look(device.worker_command.clone());
        context.spawn(wrap_future(looked).map(
            move |problem, jobs: &mut Self, context: &mut Context<Self>| {
                let device = index;
                jobs.tell(ScheduleEvent::Probed { device, problem }, context);
            },
        ));
    }

    fn show(&self, index: usize, problem: Option<Problem>) {
        let Some(device) = self.devices.get(index) else {
            return;
        };
        let RunContext { device, views, .. } = &device.run_context;
        let cause = problem.as_ref().map(|problem| problem.cause.clone());
        if views.live_status.found(device, problem) {
            match cause {
                Some(cause) => tracing::error!("device {device} gets no jobs: {cause}"),
                None => tracing::info!("device {device} can be used"),
            }
        }
    }

    /// Tells the schedule of devices what the daemon has found of them when it started.
    fn look_at_devices(&mut self, context: &mut Context<Self>) {
        let Some(views) = self.views() else {
            return;
        };
        let devices = views.live_status.devices_found();
        for (device, problem) in devices.into_iter().enumerate() {
            if let Some(problem) = problem {
                self.tell(ScheduleEvent::Probed { device, problem }, context);
            }
        }
    }

    /// Retries the ends that the ledger could not take.
    fn record(&mut self, context: &mut Context<Self>) {
        let (Some(views), Some(command)) =
            (self.views().cloned(), self.unrecorded.first().cloned())
        else {
            return;
        };
        let job = command.job().clone();
        let ledger = views.ledger.clone();
        let applied = tasks::blocking(move || ledger.apply(command));
        context.wait(wrap_future(applied).map(
            move |applied, jobs: &mut Self, context: &mut Context<Self>| match applied {
                Ok(Ok(_)) | Ok(Err(LedgerError::Rejected(_))) => {
                    jobs.unrecorded.retain(|command| command.job() != &job);
                    views.live_status.clear(&job);
                    jobs.tell(ScheduleEvent::Recorded { job }, context);
                }
                Ok(Err(error)) => {
                    tracing::warn!(%job, "the ledger still cannot take the job's end: {error}")
                }
                Err(panic) => tracing::error!(%job, "recording the job's end: {panic}"),
            },
        ));
    }

    /// Interrupts what the meant runs are handing over, so that they can end at once.
    fn halt(&self, is_meant: impl Fn(&JobId) -> bool) {
        for (_, in_hand) in self.in_hand.iter().filter(|(job, _)| is_meant(job)) {
            in_hand.halt.send_replace(true);
        }
    }

    fn run_of(&self, job: &JobId) -> Option<Addr<Run>> {
        self.in_hand.get(job).map(|in_hand| in_hand.run.clone())
    }
}

impl Actor for Jobs {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(RECORD_AGAIN, |jobs, context| jobs.record(context));
        context.run_interval(TICK, |jobs, context| {
            jobs.tell(ScheduleEvent::Tick, context)
        });
        if let Some(views) = self.views() {
            let changes = views.ledger.queue_changes();
            context.add_stream(stream::unfold(changes, |mut changes| async move {
                changes.changed().await.ok()?;
                Some((QueueChanged, changes))
            }));
        }
        self.look_at_devices(context);
    }
}

impl StreamHandler<QueueChanged> for Jobs {
    fn handle(&mut self, _: QueueChanged, context: &mut Self::Context) {
        self.tell(ScheduleEvent::Tick, context);
    }

    /// Does nothing: the stream ends with the ledger, which lives as long as the daemon.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<DevicesTried> for Jobs {
    type Result = ();

    fn handle(&mut self, _: DevicesTried, context: &mut Self::Context) {
        self.look_at_devices(context);
    }
}

impl Handler<StopAll> for Jobs {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(
        &mut self,
        StopAll { after_step }: StopAll,
        context: &mut Self::Context,
    ) -> Self::Result {
        self.tell(ScheduleEvent::Stop, context);
        if !after_step {
            self.halt(|_| true);
        }
        let runs = self.in_hand.values().map(|in_hand| in_hand.run.clone());
        let runs: Vec<Addr<Run>> = runs.collect();
        Box::pin(wrap_future(async move {
            for run in runs {
                // A closed mailbox means that the run has ended by itself.
                let _ = run.send(Stop { after_step }).await;
            }
        }))
    }
}
