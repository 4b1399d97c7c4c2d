//! Carries out what a job's life decides ([`r1d_runner::life`]).

use super::begin::{Begun, Opened, open, start};
use super::{Ended, Prepared, Run, leave_status};
use crate::meeting::Meeting;
use crate::reading::Reading;
use crate::{datasets, outside, tasks};
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{ActorContext, AsyncContext, Context};
use futures_util::future::LocalBoxFuture;
use r1d_ledger::{Command as LedgerCommand, LedgerError, Session};
use r1d_link::record::ending;
use r1d_runner::life::{Inputs, JobEnd, LifeCommand, LifeEvent, LifeOutcome, LogLevel, Phase};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Messages of a worker that may wait (`LIM-1`): a full channel holds the worker back.
const REPLIES_MAX: usize = 64;
/// Time between two looks at the record of a data set that waits for its review.
const REVIEW_LOOK: Duration = Duration::from_secs(1);

/// What carries a command out, and the event that answers it, if one does.
type CarriedOut = LocalBoxFuture<'static, Option<LifeEvent>>;

impl Run {
    /// Carries out a decision that the life took in place of the one numbered `before`.
    pub(super) fn decided(
        &mut self,
        before: u64,
        commands: Vec<LifeCommand>,
        context: &mut Context<Self>,
    ) {
        if self.life.number() != before {
            // Dropping the attempt closes its channels, so later messages of its parties are lost.
            self.working = None;
            self.show();
        }
        self.carry_out(self.life.number(), commands.into(), context);
    }

    /// Carries the commands out one after the other, as long as no other decision is taken.
    fn carry_out(
        &mut self,
        number: u64,
        mut commands: VecDeque<LifeCommand>,
        context: &mut Context<Self>,
    ) {
        while self.life.number() == number {
            let Some(command) = commands.pop_front() else {
                return;
            };
            let Some(carried_out) = self.carry_out_one(command, context) else {
                continue;
            };
            context.spawn(wrap_future(carried_out).map(
                move |event, run: &mut Self, context: &mut Context<Self>| {
                    if let Some(event) = event {
                        run.tell(number, event, context);
                    }
                    run.carry_out(number, commands, context);
                },
            ));
            return;
        }
    }

    /// Carries out what takes no time, and returns a future for what does.
    fn carry_out_one(
        &mut self,
        command: LifeCommand,
        context: &mut Context<Self>,
    ) -> Option<CarriedOut> {
        match command {
            LifeCommand::Open => self.open(context),
            LifeCommand::Start { resumed } => self.begin_attempt(resumed, context),
            LifeCommand::Work => self.work(context),
            LifeCommand::AwaitReview { stage } => {
                return Some(Box::pin(reviewed(self.outputs.datasets(), stage)));
            }
            LifeCommand::LookOutside => return Some(self.look_outside()),
            LifeCommand::EndWorker => {
                // The keys of an epoch go with its ranks.
                self.meeting = Meeting::new(self.run_context.node.clock.clone());
                return Some(self.end_worker());
            }
            LifeCommand::JoinWriter => return Some(self.join_writer()),
            LifeCommand::PutDown => return Some(self.put_down()),
            LifeCommand::ReleaseDevice => self.release_device(),
            LifeCommand::CountRestart => {
                let node = &self.run_context.node;
                for device in self.run_context.gang.devices() {
                    node.live
                        .device(device, |device| device.worker_restarts += 1);
                }
            }
            LifeCommand::Record(end) => return Some(self.record(end)),
            LifeCommand::LeaveStatus => return Some(self.leave_status()),
            LifeCommand::ClearStatus => self.run_context.node.live.clear(&self.id),
            LifeCommand::ShowUnrecorded { error } => self.show_unrecorded(error),
            LifeCommand::Log(level, line) => match level {
                LogLevel::Info => self.log.info(line),
                LogLevel::Warn => self.log.warn(line),
                LogLevel::Error => self.log.error(line),
            },
            LifeCommand::Report(outcome) => self.report(outcome, context),
        }
        None
    }

    /// Opens the inputs, once for all attempts until a stage has made a data set that another
    /// reads.
    fn open(&mut self, context: &mut Context<Self>) {
        let clock = self.run_context.node.clock.clone();
        let (number, reading) = (self.life.number(), Reading::new(clock));
        (self.loaded_job, self.reading) = (None, reading.clone());
        let (run_context, outputs, log, upkeep) = (
            self.run_context.clone(),
            self.outputs.clone(),
            self.log.clone(),
            self.upkeep.clone(),
        );
        let job = self.id.clone();
        let (id, ledger) = (job.clone(), run_context.node.ledger.clone());
        // What was begun goes on when the run has ended.
        let hold = run_context.node.writers.hold(&job);
        let opening = async move {
            // A previous run of this job may have panicked and left its writer.
            let node = &run_context.node;
            node.writers.none(&job, &node.ledger).await;
            let _wanted = reading.until_dropped();
            let reading = reading.clone();
            let opened = tasks::blocking(move || {
                let _hold = hold;
                // Lines of the log that know of data and plugins alone are of this job.
                let _span = tracing::info_span!("reading", %job).entered();
                open(&job, &run_context, &outputs, &log, &reading, &upkeep)
            });
            opened.await.unwrap_or_else(|panic| {
                let error = format!("reading the job's files: {panic}");
                // An end in an older epoch would be refused, and the job placed again at once.
                let epoch = ledger.job(&id).map_or(0, |record| record.progress.epoch);
                (epoch, Opened::Not(Inputs::GivenUp { error }))
            })
        };
        context.spawn(wrap_future(opening).map(
            move |(epoch, opened), run: &mut Self, context: &mut Context<Self>| {
                let inputs = run.opened(number, opened);
                run.tell(number, LifeEvent::Opened { epoch, inputs }, context);
            },
        ));
    }

    /// Keeps what was opened, if it is still wanted.
    fn opened(&mut self, number: u64, opened: Opened) -> Inputs {
        match opened {
            Opened::Not(inputs) => inputs,
            Opened::Ready {
                loaded_job,
                made,
                to_take_over,
            } => {
                if self.life.number() != number {
                    return Inputs::Ready;
                }
                self.made = Arc::new(made);
                for warning in &loaded_job.warnings {
                    if self.warned.insert(warning.clone()) {
                        self.log.warn(warning);
                    }
                }
                let device = self.run_context.gang.device();
                let room = self.run_context.node.device_memory.room_on(device);
                for small in loaded_job.small_caches(room) {
                    if self.warned.insert(small.clone()) {
                        self.log.info(small);
                    }
                }
                let mut plan = loaded_job.plan(
                    &self.id,
                    &self.outputs,
                    (&self.run_context.gang.in_words(), room),
                    self.run_context.worker_silence,
                );
                for (index, facts) in plan.stages.iter_mut().enumerate() {
                    facts.later |= to_take_over.contains(&index);
                }
                let loaded_job = Arc::new(*loaded_job);
                let node = &self.run_context.node;
                node.open_jobs.opened(&self.id, &loaded_job);
                self.loaded_job = Some((loaded_job, Arc::new(plan)));
                Inputs::Ready
            }
        }
    }

    /// Begins an attempt: a new epoch in the ledger, fresh workers.
    fn begin_attempt(&mut self, resumed: Option<u64>, context: &mut Context<Self>) {
        // Inputs are opened before an attempt is begun.
        let Some((loaded_job, plan)) = self.loaded_job.clone() else {
            return;
        };
        let number = self.life.number();
        self.run_context.gang.live().begin();
        let (said, heard) = mpsc::channel(REPLIES_MAX);
        // Ranks of this attempt meet nothing that those of an earlier one have left.
        self.meeting = Meeting::new(self.run_context.node.clock.clone());
        let starting = start(
            self.id.clone(),
            self.run_context.clone(),
            self.outputs.clone(),
            plan.clone(),
            (said, self.meeting.clone()),
            self.log.clone(),
            resumed,
        );
        context.spawn(wrap_future(starting).map(
            move |Begun { epoch, record }, run: &mut Self, context: &mut Context<Self>| {
                let begun = record.map(|record| {
                    if run.life.number() == number {
                        run.prepared = Some(Prepared {
                            loaded_job,
                            plan,
                            record,
                            heard,
                        });
                    }
                });
                run.tell(number, LifeEvent::Started { epoch, begun }, context);
            },
        ));
    }

    fn look_outside(&self) -> CarriedOut {
        let Phase::Checking { error } = self.life.phase().clone() else {
            return Box::pin(async { None });
        };
        let (node, job) = (self.run_context.node.clone(), self.id.clone());
        Box::pin(async move {
            let id = job.clone();
            // A panic in the check is no reason to go on.
            let looked = tasks::blocking(move || outside::harmed(&node, &id)).await;
            let amiss = looked.ok().flatten();
            if amiss.as_ref().is_some_and(|cause| !cause.contains(&error)) {
                tracing::info!(%job, "the attempt ended with: {error}");
            }
            Some(LifeEvent::Looked(amiss))
        })
    }

    fn end_worker(&self) -> CarriedOut {
        let gang = self.run_context.gang.clone();
        Box::pin(async move {
            gang.end().await;
            None
        })
    }

    fn join_writer(&self) -> CarriedOut {
        let (writers, job, ledger) = (
            self.run_context.node.writers.clone(),
            self.id.clone(),
            self.run_context.node.ledger.clone(),
        );
        Box::pin(async move {
            writers.none(&job, &ledger).await;
            Some(LifeEvent::WriterJoined)
        })
    }

    fn put_down(&self) -> CarriedOut {
        let (upkeep, ledger, job) = (
            self.upkeep.clone(),
            self.run_context.node.ledger.clone(),
            self.id.clone(),
        );
        Box::pin(async move {
            let id = job.clone();
            if let Err(panic) = tasks::blocking(move || upkeep.put_down(&ledger, &id)).await {
                tracing::error!(%job, "putting the job down: {panic}");
            }
            None
        })
    }

    /// Releases the devices. From now on the run touches neither them nor their workers, which have
    /// no model open.
    fn release_device(&mut self) {
        self.leave_live_status();
        self.has_device.send_replace(false);
    }

    fn leave_live_status(&self) {
        if *self.has_device.borrow() {
            let node = &self.run_context.node;
            for device in self.run_context.gang.devices() {
                node.live.left(device);
            }
        }
    }

    fn record(&self, end: JobEnd) -> CarriedOut {
        let node = &self.run_context.node;
        let command = ending(&self.id, end, node.clock.unix().as_secs());
        let ledger = node.ledger.clone();
        Box::pin(async move { Some(LifeEvent::Recorded(record_end(ledger, command).await)) })
    }

    fn leave_status(&self) -> CarriedOut {
        let (node, job) = (self.run_context.node.clone(), self.id.clone());
        Box::pin(async move {
            leave_status(node, job).await;
            None
        })
    }

    fn report(&mut self, outcome: LifeOutcome, context: &mut Context<Self>) {
        self.leave_live_status();
        if let Some(sender) = self.outcome.take() {
            let rank = self.run_context.gang.live().at_fault();
            let _ = sender.send(Ended { outcome, rank });
        }
        context.stop();
    }
}

/// Waits until people have reviewed the data set of a stage.
async fn reviewed(dir: PathBuf, stage: String) -> Option<LifeEvent> {
    loop {
        tokio::time::sleep(REVIEW_LOOK).await;
        let (dir, stage) = (dir.clone(), stage.clone());
        let looked =
            tasks::blocking(move || datasets::made(&dir, &stage).map(|made| made.reviewed)).await;
        // A bad record is reported when the inputs are opened.
        if !matches!(looked, Ok(Ok(false))) {
            return Some(LifeEvent::Reviewed);
        }
    }
}

/// Records the job's end in the ledger. A refusal means that an end was recorded before (a
/// cancellation).
async fn record_end(ledger: Arc<Session>, command: LedgerCommand) -> Result<(), String> {
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
