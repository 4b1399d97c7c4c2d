//! The queue: carries out what the schedule decides ([`r1d_runner::schedule`]), and tells it what
//! happened. It watches the ledger, so writing a job into the ledger is all that it takes to queue
//! one. What touches a device is for the node.

pub(crate) mod decide;

use crate::queue::LedgerQueue;
use crate::status::StatusViews;
use crate::tasks::{self, Alive};
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{
    Actor, ActorContext, AsyncContext, Context, Handler, Message, ResponseActFuture, StreamHandler,
};
use futures_util::stream;
use r1d_ledger::{Command as LedgerCommand, LedgerError};
use r1d_link::record::ending;
use r1d_link::{Order, Report};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_runner::life::LifeOutcome;
use r1d_runner::schedule::{Problem, Schedule, ScheduleCommand, ScheduleEvent};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// Pause before another try to record an end that the ledger could not take.
const RECORD_AGAIN: Duration = Duration::from_secs(5);
/// Time between two looks at free devices without any change of the ledger: a suspect's trial, a
/// device's rest and the pause between two probes end by time.
const TICK: Duration = Duration::from_secs(1);

/// The ledger changed, so another job may be next.
struct QueueChanged;

/// Stops all runs, for another daemon to continue them; no new run starts.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopAll {
    pub after_step: bool,
}

/// Something that the node reports, and that the schedule decides by.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct FromNode(pub Report);

/// The schedule, which outlives a queue that panics: what it knows of jobs and devices holds.
#[derive(Clone)]
pub(crate) struct SharedSchedule {
    schedule: Arc<Mutex<Schedule>>,
    /// When the clock began, since the Unix epoch: the schedule's times mean the same to the next
    /// daemon.
    began: Duration,
}

impl SharedSchedule {
    /// A schedule that goes on with what an earlier daemon knew of the devices.
    pub(crate) fn new(views: &StatusViews) -> SharedSchedule {
        let now = views.clock.now();
        let began = views.clock.unix().saturating_sub(now);
        let is_over = |job: &JobId| {
            let record = views.ledger.job(job);
            record.is_none_or(|record| record.state().is_final())
        };
        let known = views.live_status.names().into_iter().map(|device| {
            let mut health = views.devices_health.of(&device);
            health.forget(is_over);
            health
        });
        let schedule = Schedule::new(known.collect(), began + now);
        SharedSchedule {
            schedule: Arc::new(Mutex::new(schedule)),
            began,
        }
    }

    fn now(&self, views: &StatusViews) -> Duration {
        self.began + views.clock.now()
    }

    fn lock(&self) -> MutexGuard<'_, Schedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Jobs {
    views: StatusViews,
    /// The number of this queue: reports on what an earlier one has placed, or had probed, are none
    /// of its business.
    number: u64,
    schedule: SharedSchedule,
    /// Jobs that were placed, until they are handed back; the drop of a sender says so.
    in_hand: HashMap<JobId, watch::Sender<()>>,
    /// Jobs that wait for something outside of them. They have no run, because one missing file may
    /// stop all jobs.
    waiting: HashSet<JobId>,
    /// What the schedule was told last of whether jobs may begin.
    is_held: Option<bool>,
    /// Ends that the ledger could not take yet.
    unrecorded: Vec<LedgerCommand>,
    _alive: Alive,
}

impl Jobs {
    /// A queue with a number that is higher than those before, and their schedule.
    pub(crate) fn new(
        views: StatusViews,
        schedule: SharedSchedule,
        number: u64,
        alive: Alive,
    ) -> Jobs {
        Jobs {
            views,
            number,
            schedule,
            in_hand: HashMap::new(),
            waiting: HashSet::new(),
            is_held: None,
            unrecorded: Vec::new(),
            _alive: alive,
        }
    }

    fn order(&self, order: Order) {
        self.views.node.order(order);
    }

    /// Tells the schedule what happened, and carries out what it decides.
    fn tell(&mut self, event: ScheduleEvent) {
        let is_held = self.views.live_status.is_held();
        let is_news = self.is_held.replace(is_held) != Some(is_held);
        let held = is_news.then_some(ScheduleEvent::Held(is_held));
        for event in held.into_iter().chain([event]) {
            let queue = LedgerQueue(self.views.ledger.state());
            let now = self.schedule.now(&self.views);
            let commands = self.schedule.lock().handle(event, &queue, now);
            self.carry_out_all(commands);
        }
        let names = self.views.live_status.names().into_iter();
        let schedule = self.schedule.lock();
        let health = names.zip(schedule.health());
        self.views.devices_health.note(health);
    }

    fn carry_out_all(&mut self, commands: Vec<ScheduleCommand>) {
        for command in commands {
            self.carry_out(command);
        }
    }

    fn carry_out(&mut self, command: ScheduleCommand) {
        match command {
            ScheduleCommand::Place {
                devices,
                job,
                resumed,
                history,
                doubts_device,
            } => {
                self.in_hand.insert(job.clone(), watch::Sender::new(()));
                self.views.live_status.taken(&job);
                self.order(Order::Place {
                    devices,
                    job,
                    resumed,
                    history,
                    doubts_device,
                });
            }
            ScheduleCommand::Probe { device } => self.order(Order::Probe { device }),
            ScheduleCommand::Show { device, problem } => self.show(device, problem),
            // A user has decided while the report was under way.
            ScheduleCommand::Watch { job, .. } if self.is_over(&job) => self.forget(&job),
            ScheduleCommand::Watch { job, cause } => {
                self.waiting.insert(job.clone());
                self.order(Order::Watch { job, cause });
            }
            // Whoever decides about a job says so of every one.
            ScheduleCommand::Unwatch { .. } => {}
            ScheduleCommand::Record { job, end } => {
                let command = ending(&job, end, self.views.clock.unix().as_secs());
                tracing::error!(%job, "the job's end is not recorded yet; it is tried again");
                self.unrecorded.push(command);
            }
        }
    }

    /// Whether nothing is to be done for the job.
    fn is_over(&self, job: &JobId) -> bool {
        let record = self.views.ledger.job(job);
        record.is_none_or(|record| record.state().is_final() || record.state() == State::Paused)
    }

    /// Forgets a job that its run has handed back to wait, and what the run has left of it.
    fn forget(&mut self, job: &JobId) {
        self.decided(job);
        self.order(Order::Recorded { job: job.clone() });
        let (node, job) = (self.views.node.clone(), job.clone());
        tasks::spawn("status of a job", async move {
            decide::leave_status(&node, job).await;
        });
    }

    /// Takes note of a report of the node.
    fn heard(&mut self, report: Report) {
        match report {
            Report::Held(_) => self.tell(ScheduleEvent::Tick),
            Report::Tried { device, problem } => {
                self.tell(ScheduleEvent::Tried { device, problem });
            }
            Report::Probed {
                queue,
                device,
                problem,
            } if queue == self.number => self.tell(ScheduleEvent::Probed { device, problem }),
            Report::Released { queue, device, job } if queue == self.number => {
                self.tell(ScheduleEvent::Released { device, job });
            }
            Report::Ended {
                queue,
                device,
                job,
                outcome,
            } if queue == self.number => self.ended(device, job, outcome),
            Report::Mended { job } => self.mended(job),
            // Such reports are for the live status, for clients, or for an earlier queue.
            _ => {}
        }
    }

    /// Has a job go on that waited for something outside of it, unless a user has decided
    /// otherwise meanwhile.
    fn mended(&mut self, job: JobId) {
        if self.waiting.remove(&job) {
            self.tell(ScheduleEvent::Mended { job });
        }
    }

    /// Takes a job back; without an outcome its runner has panicked.
    fn ended(&mut self, device: usize, job: JobId, outcome: Option<LifeOutcome>) {
        self.in_hand.remove(&job);
        if outcome.is_none() {
            tracing::error!(%job, "the job's runner panicked");
        }
        if !self.is_over(&job) {
            let now = self.views.clock.now();
            self.views.live_status.handed_back(&job, now);
        }
        let event = ScheduleEvent::Ended {
            device,
            job,
            outcome,
        };
        self.tell(event);
    }

    fn show(&self, index: usize, problem: Option<Problem>) {
        let live_status = &self.views.live_status;
        let Some(device) = live_status.name(index) else {
            return;
        };
        let cause = problem.as_ref().map(|problem| problem.cause.clone());
        if live_status.found(index, problem) {
            match cause {
                Some(cause) => tracing::error!("device {device} gets no jobs: {cause}"),
                None => tracing::info!("device {device} can be used"),
            }
        }
    }

    /// Tells the schedule what was found of devices when no queue was there to hear of it.
    fn look_at_devices(&mut self) {
        let devices = self.views.live_status.devices_found();
        for (device, problem) in devices.into_iter().enumerate() {
            if let Some(problem) = problem {
                self.tell(ScheduleEvent::Tried { device, problem });
            }
        }
    }

    /// Retries the ends that the ledger could not take.
    fn record(&mut self, context: &mut Context<Self>) {
        let Some(command) = self.unrecorded.first().cloned() else {
            return;
        };
        let job = command.job().clone();
        let ledger = self.views.ledger.clone();
        let applied = tasks::blocking(move || ledger.apply(command));
        context.wait(wrap_future(applied).map(
            move |applied, jobs: &mut Self, _: &mut Context<Self>| match applied {
                Ok(Ok(_)) | Ok(Err(LedgerError::Rejected(_))) => {
                    jobs.unrecorded.retain(|command| command.job() != &job);
                    jobs.order(Order::Recorded { job: job.clone() });
                    jobs.views.live_status.taken(&job);
                    jobs.tell(ScheduleEvent::Recorded { job });
                }
                Ok(Err(error)) => {
                    tracing::warn!(%job, "the ledger still cannot take the job's end: {error}")
                }
                Err(panic) => tracing::error!(%job, "recording the job's end: {panic}"),
            },
        ));
    }

    /// Has the node stop a job, if it has it in hand; the answer resolves when it is handed back.
    fn stop(&self, job: &JobId, after_step: bool) -> Option<impl Future<Output = ()> + use<>> {
        let mut ended = self.in_hand.get(job)?.subscribe();
        let job = job.clone();
        self.order(Order::Stop { job, after_step });
        // Nothing is ever sent: the error is the end.
        Some(async move { while ended.changed().await.is_ok() {} })
    }
}

impl Actor for Jobs {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        let queue = self.number;
        self.order(Order::Begin { queue });
        let now = self.schedule.now(&self.views);
        let commands = self.schedule.lock().begin_again(now);
        self.carry_out_all(commands);
        context.run_interval(RECORD_AGAIN, |jobs, context| jobs.record(context));
        context.run_interval(TICK, |jobs, _| jobs.tell(ScheduleEvent::Tick));
        let changes = self.views.ledger.queue_changes();
        context.add_stream(stream::unfold(changes, |mut changes| async move {
            changes.changed().await.ok()?;
            Some((QueueChanged, changes))
        }));
        self.look_at_devices();
    }
}

impl StreamHandler<QueueChanged> for Jobs {
    fn handle(&mut self, _: QueueChanged, _: &mut Self::Context) {
        self.tell(ScheduleEvent::Tick);
    }

    /// Does nothing: the stream ends with the ledger, which lives as long as the daemon.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<FromNode> for Jobs {
    type Result = ();

    fn handle(&mut self, FromNode(report): FromNode, context: &mut Self::Context) {
        match report {
            // The next queue begins with what the ledger has.
            Report::Restarted => context.stop(),
            report => self.heard(report),
        }
    }
}

impl Handler<StopAll> for Jobs {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, StopAll { after_step }: StopAll, _: &mut Self::Context) -> Self::Result {
        self.tell(ScheduleEvent::Stop);
        let jobs = self.in_hand.keys();
        let stopped: Vec<_> = jobs.filter_map(|job| self.stop(job, after_step)).collect();
        Box::pin(wrap_future(async move {
            for stopped in stopped {
                stopped.await;
            }
        }))
    }
}
