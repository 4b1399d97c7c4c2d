//! The queue: gives every free device the next job ([`crate::strikes`]), one job per device. A job
//! that waits for people or for its files has no device meanwhile. Afterwards it is queued again:
//! in its old place, or before all queued jobs if it was running. The queue watches the ledger, so
//! writing a job into the ledger is all that it takes to queue one.

pub(crate) mod decide;

use crate::actors::run::{
    NOTHING_DONE, Run, RunContext, Started, Stop, ending, leave_status, progress,
};
use crate::actors::supervise::Alive;
use crate::job_log::JobLog;
use crate::old_workers::{OldWorkers, Remaining};
use crate::outside_waits::{Lacked, Looks, OutsideWait};
use crate::{outside, outside_waits, strikes, tasks};
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{
    Actor, Addr, AsyncContext, Context, Handler, Message, ResponseActFuture, StreamHandler,
};
use futures_util::stream;
use r1d_ledger::{Command as LedgerCommand, JobRecord, LedgerError};
use r1d_proto::control::State;
use r1d_proto::ids::JobId;
use r1d_runner::attempt::{JobEnd, LifeOutcome};
use r1d_store::JobLayout;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// A job is given up after this many panics of its runner.
const RUN_PANICS_MAX: u32 = 3;
/// Pause before another try to record an end that the ledger could not take.
const RECORD_AGAIN: Duration = Duration::from_secs(5);
/// Time between two looks at free devices without any change of the ledger: a suspect's trial ends
/// by time.
const DISPATCH_AGAIN: Duration = Duration::from_secs(10);

/// The ledger changed, so another job may be next.
struct QueueChanged;

/// A device has become usable.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct DeviceUsable;

/// Nothing outside of a job is amiss any more, as far as a look tells.
#[derive(Message)]
#[rtype(result = "()")]
struct FilesBack {
    job: JobId,
    /// A look before has seen what was.
    was_seen: bool,
}

/// Ends a job for good.
#[derive(Message)]
#[rtype(result = "Result<(), LedgerError>")]
pub(crate) struct Cancel(pub JobId);

/// Stops all runs, for another daemon to continue them; no new run starts.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct StopAll {
    pub after_step: bool,
}

pub(crate) struct Device {
    pub run_context: RunContext,
    pub running: Option<Running>,
}

/// The job that occupies a device.
pub(crate) struct Running {
    job: JobId,
    run: Addr<Run>,
    halt: Arc<watch::Sender<bool>>,
    since: Duration,
}

pub(crate) struct Jobs {
    pub devices: Vec<Device>,
    pub old_workers: OldWorkers,
    /// Runs that wait for people, without a device.
    pub away: HashMap<JobId, Addr<Run>>,
    /// Jobs that wait for their files. They have no run, because one missing file may stop all
    /// jobs.
    pub outside_waits: HashMap<JobId, OutsideWait>,
    pub looks: Looks,
    /// What the last attempt at a job ended for, where that is waited for.
    pub lacked: HashMap<JobId, Lacked>,
    /// Epochs in which jobs go on that waited without a device.
    pub resumed: HashMap<JobId, u64>,
    pub panics: HashMap<JobId, u32>,
    /// Ends that the ledger could not take yet.
    pub unrecorded: Vec<LedgerCommand>,
    pub stopping: bool,
    /// Whether a dispatch is scheduled for when the old workers may be gone.
    pub waits_for_workers: bool,
    pub _alive: Alive,
}

impl Jobs {
    fn dispatch(&mut self, context: &mut Context<Self>) {
        if self.waits_for_workers {
            return;
        }
        let remaining = self.old_workers.look();
        if let Some(device) = self.devices.first() {
            device
                .run_context
                .views
                .live_status
                .hold(remaining.as_ref().map(|remaining| remaining.cause.clone()));
        }
        if let Some(Remaining { pause, .. }) = remaining {
            self.waits_for_workers = true;
            context.run_later(pause, |jobs, context| {
                jobs.waits_for_workers = false;
                jobs.dispatch(context);
            });
            return;
        }
        for index in 0..self.devices.len() {
            if self.stopping
                || self
                    .devices
                    .get(index)
                    .is_none_or(|device| device.running.is_some())
            {
                continue;
            }
            // A device that cannot be used would fail one job after another.
            if self.devices.get(index).is_some_and(|device| {
                !device
                    .run_context
                    .views
                    .live_status
                    .is_usable(&device.run_context.device)
            }) {
                continue;
            }
            if let Some(job) = self.next() {
                self.start(index, job, context);
            }
        }
    }

    fn next(&self) -> Option<JobId> {
        let on_devices = || {
            self.devices
                .iter()
                .filter_map(|device| device.running.as_ref())
        };
        let taken: HashSet<&JobId> = on_devices()
            .map(|running| &running.job)
            .chain(self.away.keys())
            .chain(self.outside_waits.keys())
            .chain(self.unrecorded.iter().map(|command| command.job()))
            .collect();
        let views = &self.devices.first()?.run_context.views;
        let (state, now) = (views.ledger.state(), views.clock.now());
        let is_on_trial = |running: &Running| {
            let is_suspected = state
                .job(&running.job)
                .is_some_and(|record| record.strikes.count > 0);
            is_suspected && now.saturating_sub(running.since) < strikes::TRIAL_MAX
        };
        strikes::next(&state, &taken, on_devices().any(is_on_trial))
    }

    fn start(&mut self, index: usize, job: JobId, context: &mut Context<Self>) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        let run_context = device.run_context.clone();
        let outputs = JobLayout::of(&run_context.views.state_dir, &job);
        // A job that a user has paused or requeued since begins an epoch of its own.
        let is_running = |record: &JobRecord| record.state() == State::Running;
        let record = run_context.views.ledger.job(&job);
        let resumed = self
            .resumed
            .remove(&job)
            .filter(|_| record.as_deref().is_some_and(is_running));
        let Started {
            run,
            halt,
            left,
            ended,
        } = Run::start(job.clone(), run_context, outputs, resumed);
        device.running = Some(Running {
            job: job.clone(),
            run: run.clone(),
            halt,
            since: device.run_context.views.clock.now(),
        });
        context.spawn(wrap_future(left).map(
            move |left, jobs: &mut Self, context: &mut Context<Self>| {
                if left.is_ok() {
                    jobs.left(index, &run, context);
                }
            },
        ));
        context.spawn(wrap_future(ended).map(
            move |outcome, jobs: &mut Self, context: &mut Context<Self>| {
                jobs.ended(index, job, outcome, context);
            },
        ));
    }

    /// The run waits for something and releases its device.
    fn left(&mut self, index: usize, leaver: &Addr<Run>, context: &mut Context<Self>) {
        let Some(device) = self.devices.get_mut(index) else {
            return;
        };
        if let Some(Running { job, run, .. }) =
            device.running.take_if(|running| running.run == *leaver)
        {
            self.away.insert(job, run);
            self.dispatch(context);
        }
    }

    fn ended(
        &mut self,
        index: usize,
        job: JobId,
        outcome: Result<LifeOutcome, oneshot::error::RecvError>,
        context: &mut Context<Self>,
    ) {
        self.away.remove(&job);
        if let Some(device) = self.devices.get_mut(index) {
            device.running.take_if(|running| running.job == job);
        }
        match outcome {
            Ok(LifeOutcome::Over) => {
                self.panics.remove(&job);
                self.lacked.remove(&job);
            }
            Ok(LifeOutcome::Ready { epoch }) => {
                self.resumed.extend(epoch.map(|epoch| (job, epoch)))
            }
            Ok(LifeOutcome::WaitsOutside { epoch, cause }) => {
                self.lacks(job, epoch, cause, context)
            }
            Ok(LifeOutcome::Unrecorded(end)) => {
                tracing::error!(%job, "the ledger could not take the job's end; it is tried again");
                self.unrecord(index, &job, end);
            }
            Err(_) => self.panicked(index, job),
        }
        self.dispatch(context);
    }

    /// Waits until nothing outside of the job is amiss. What attempt after attempt ends for is told
    /// once.
    fn lacks(
        &mut self,
        job: JobId,
        epoch: Option<u64>,
        cause: String,
        context: &mut Context<Self>,
    ) {
        let Some(device) = self.devices.first() else {
            return;
        };
        let views = device.run_context.views.clone();
        let outputs = JobLayout::of(&views.state_dir, &job);
        let log = JobLog::new(outputs.log(), &job.0, views.clock.clone());
        let far = views
            .ledger
            .job(&job)
            .as_deref()
            .map_or(NOTHING_DONE, progress);
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
        self.outside_waits
            .insert(job, OutsideWait { epoch, _wait: wait });
    }

    /// Ends the job's wait for its files.
    fn lacks_no_more(&mut self, job: &JobId) -> Option<OutsideWait> {
        let outside_waits = self.outside_waits.remove(job)?;
        if let Some(device) = self.devices.first() {
            device.run_context.views.live_status.clear(job);
        }
        Some(outside_waits)
    }

    /// Counts a panic of the job's runner. The ledger still has the job as running, so it is taken
    /// up again, unless there were too many.
    fn panicked(&mut self, index: usize, job: JobId) {
        let count = self.panics.entry(job.clone()).or_insert(0);
        *count += 1;
        tracing::error!(%job, panics = *count, "the job's runner panicked");
        if let (Some(device), RUN_PANICS_MAX..) = (self.devices.get(index), *count) {
            let record = device.run_context.views.ledger.job(&job);
            let error = format!(
                "the daemon panicked {count} times while it ran the job: a bug, see the daemon's \
                 log"
            );
            let end = JobEnd {
                epoch: record.map_or(0, |record| record.progress.epoch),
                result: Err(error),
            };
            self.unrecord(index, &job, end);
        }
    }

    /// Keeps an end for the ledger to take later.
    fn unrecord(&mut self, index: usize, job: &JobId, end: JobEnd) {
        if let Some(device) = self.devices.get(index) {
            let at = device.run_context.views.clock.unix().as_secs();
            self.unrecorded.push(ending(job, end, at));
        }
    }

    /// Retries the ends that the ledger could not take.
    fn record(&mut self, context: &mut Context<Self>) {
        let Some(views) = self
            .devices
            .first()
            .map(|device| device.run_context.views.clone())
        else {
            return;
        };
        let Some(command) = self.unrecorded.first().cloned() else {
            return;
        };
        let job = command.job().clone();
        let ledger = views.ledger.clone();
        let applied = tasks::blocking(move || ledger.apply(command));
        context.wait(wrap_future(applied).map(
            move |applied, jobs: &mut Self, _: &mut Context<Self>| match applied {
                Ok(Ok(_)) | Ok(Err(LedgerError::Rejected(_))) => {
                    jobs.unrecorded.retain(|command| command.job() != &job);
                    views.live_status.clear(&job);
                }
                Ok(Err(error)) => {
                    tracing::warn!(%job, "the ledger still cannot take the job's end: {error}")
                }
                Err(panic) => tracing::error!(%job, "recording the job's end: {panic}"),
            },
        ));
    }

    fn runs(&self) -> impl Iterator<Item = (&JobId, &Addr<Run>)> {
        let on_devices = self
            .devices
            .iter()
            .filter_map(|device| device.running.as_ref());
        let on_devices = on_devices.map(|Running { job, run, .. }| (job, run));
        on_devices.chain(&self.away)
    }

    /// Interrupts what the meant runs are handing over, so that they can end at once. A run without
    /// a device hands nothing over.
    fn halt(&self, is_meant: impl Fn(&JobId) -> bool) {
        let running = self
            .devices
            .iter()
            .filter_map(|device| device.running.as_ref());
        for running in running.filter(|running| is_meant(&running.job)) {
            running.halt.send_replace(true);
        }
    }

    fn run_of(&self, job: &JobId) -> Option<Addr<Run>> {
        self.runs()
            .find(|(running, _)| *running == job)
            .map(|(_, run)| run.clone())
    }
}

impl Actor for Jobs {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Self::Context) {
        context.run_interval(RECORD_AGAIN, |jobs, context| jobs.record(context));
        context.run_interval(DISPATCH_AGAIN, |jobs, context| jobs.dispatch(context));
        if let Some(device) = self.devices.first() {
            let changes = device.run_context.views.ledger.queue_changes();
            context.add_stream(stream::unfold(changes, |mut changes| async move {
                changes.changed().await.ok()?;
                Some((QueueChanged, changes))
            }));
        }
        self.dispatch(context);
    }
}

impl StreamHandler<QueueChanged> for Jobs {
    fn handle(&mut self, _: QueueChanged, context: &mut Self::Context) {
        if let Some(device) = self.devices.first() {
            device.run_context.views.live_status.touch();
        }
        self.dispatch(context);
    }

    /// Does nothing: the stream ends with the ledger, which lives as long as the daemon.
    fn finished(&mut self, _: &mut Self::Context) {}
}

impl Handler<DeviceUsable> for Jobs {
    type Result = ();

    fn handle(&mut self, _: DeviceUsable, context: &mut Self::Context) {
        self.dispatch(context);
    }
}

impl Handler<FilesBack> for Jobs {
    type Result = ();

    fn handle(&mut self, FilesBack { job, was_seen }: FilesBack, context: &mut Self::Context) {
        let Some(OutsideWait { epoch, .. }) = self.lacks_no_more(&job) else {
            return;
        };
        if let Some(views) = self.devices.first().map(|device| &device.run_context.views) {
            let log = JobLog::new(
                JobLayout::of(&views.state_dir, &job).log(),
                &job.0,
                views.clock.clone(),
            );
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
        self.resumed.extend(epoch.map(|epoch| (job, epoch)));
        self.dispatch(context);
    }
}

impl Handler<Cancel> for Jobs {
    type Result = ResponseActFuture<Self, Result<(), LedgerError>>;

    fn handle(&mut self, Cancel(job): Cancel, _: &mut Self::Context) -> Self::Result {
        let views = self
            .devices
            .first()
            .map(|device| device.run_context.views.clone());
        let id = job.clone();
        let cancelled = async move {
            let Some(views) = views else { return Ok(()) };
            let command = LedgerCommand::Cancel {
                job: id,
                at: views.clock.unix().as_secs(),
            };
            let applied = tasks::blocking(move || views.ledger.apply(command)).await;
            match applied {
                Ok(effect) => effect.map(drop),
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        };
        Box::pin(wrap_future(cancelled).then(
            move |effect, jobs: &mut Self, _: &mut Context<Self>| {
                // A run may have the job in hand although it is still queued in the ledger.
                let run = jobs.run_of(&job);
                let mut lacked = None;
                if effect.is_ok() {
                    jobs.halt(|running| *running == job);
                    jobs.lacked.remove(&job);
                    lacked = jobs
                        .lacks_no_more(&job)
                        .and_then(|_| Some(jobs.devices.first()?.run_context.views.clone()));
                }
                wrap_future(async move {
                    effect?;
                    if let Some(views) = lacked {
                        let outputs = JobLayout::of(&views.state_dir, &job);
                        leave_status(views, job, outputs).await;
                    }
                    if let Some(run) = run {
                        let _ = run.send(Stop { after_step: false }).await;
                    }
                    Ok(())
                })
            },
        ))
    }
}

impl Handler<StopAll> for Jobs {
    type Result = ResponseActFuture<Self, ()>;

    fn handle(&mut self, StopAll { after_step }: StopAll, _: &mut Self::Context) -> Self::Result {
        self.stopping = true;
        if !after_step {
            self.halt(|_| true);
        }
        let runs: Vec<Addr<Run>> = self.runs().map(|(_, run)| run.clone()).collect();
        Box::pin(wrap_future(async move {
            for run in runs {
                // A closed mailbox means that the run has ended by itself.
                let _ = run.send(Stop { after_step }).await;
            }
        }))
    }
}
