//! An attempt at work: gives its machine what happened, and hands over what it decides.

use super::begin::known;
use super::{Attempt, FromAttempt, Prepared, Run};
use crate::gang::Gang;
use crate::job_writer::{JobWriter, Task};
use crate::scoring::{self, ScoreRequest};
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{AsyncContext, Context};
use futures_util::stream;
use r1d_ledger::AttemptWriter;
use r1d_proto::worker::{ToWorker, WorkerRequest};
use r1d_runner::life::LifeEvent;
use r1d_runner::{Command, End, Event, Machine, Store};
use r1d_store::layout;
use std::path::PathBuf;
use tokio::sync::{mpsc, oneshot};

/// One message of a decision; they go out in order.
enum Outgoing {
    JobWriter(Task),
    Reward(ScoreRequest),
    /// A request, and the directory that the worker is to write for it.
    Worker(ToWorker, Option<PathBuf>),
}

impl Run {
    /// Lets the attempt that has begun work: a writer of its own, and a machine that starts from
    /// the record.
    pub(super) fn work(&mut self, context: &mut Context<Self>) {
        let Some(Prepared {
            loaded_job,
            plan,
            record,
            heard,
        }) = self.prepared.take()
        else {
            return;
        };
        let (begun, writing) = mpsc::channel(1);
        let (node, id) = (self.run_context.node.clone(), self.id.clone());
        let (held, epoch) = (node.writers.begin(&id), self.life.epoch());
        let (ledger, outputs) = (node.ledger.clone(), self.outputs.clone());
        let writer = JobWriter {
            begun,
            attempt: AttemptWriter::new(ledger.clone(), held.storage(), outputs, id, epoch),
            job: self.id.clone(),
            epoch,
            ledger,
            clock: node.clock.clone(),
            node,
            loaded_job: loaded_job.clone(),
            made: self.made.clone(),
            outputs: self.outputs.clone(),
            log: self.log.clone(),
            failed: None,
        };
        let writer = match writer.start(held) {
            Ok(writer) => writer,
            Err(error) => {
                let cause = format!("cannot start a thread: {error}");
                return self.end(End::Abandoned { cause }, context);
            }
        };
        let (items, verdicts) = scoring::bridge(loaded_job, &self.run_context.node.rewards);
        let number = self.life.number();
        context.add_stream(tagged(number, heard));
        context.add_stream(tagged(number, verdicts));
        context.add_stream(tagged(number, writing));
        self.working = Some(Box::new(Attempt {
            epoch,
            machine: Machine::new(plan, known(&record), self.now()),
            writer,
            items,
            in_flight: None,
            requests: 0,
            started: 0,
        }));
        self.show();
    }

    /// Gives the event to the machine and carries out its decision.
    pub(super) fn happened(&mut self, event: Event, context: &mut Context<Self>) {
        let now = self.now();
        let Some(attempt) = &mut self.working else {
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
            Some(end) => self.end(self.charged(end), context),
            None if outgoing.is_empty() => {}
            None => self.send(outgoing, context),
        }
    }

    /// Names the rank whose device an end is charged to that no rank has told of itself.
    fn charged(&self, end: End) -> End {
        let gang = &self.run_context.gang;
        let End::WorkerFailed { cause } = end else {
            return end;
        };
        let silent = gang.live().was_silent().filter(|_| gang.size() > 1);
        let named = silent.and_then(|rank| Some((rank, gang.devices().nth(rank)?)));
        let cause = match named {
            Some((rank, device)) => format!("{cause} (rank {rank}, on {device})"),
            None => cause,
        };
        End::WorkerFailed { cause }
    }

    fn outgoing(&mut self, command: Command, context: &mut Context<Self>) -> Option<Outgoing> {
        let task = match command {
            Command::Worker(request) => return self.request(*request),
            Command::Score(items) => return Some(Outgoing::Reward(ScoreRequest::Score(items))),
            Command::Conclude(answered) => {
                return Some(Outgoing::Reward(ScoreRequest::Conclude(answered)));
            }
            Command::Warn(warning) => {
                self.log.warn(warning);
                return None;
            }
            Command::Trace(trace) => Task::Trace(trace),
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
                context.add_stream(tagged(self.life.number(), heard));
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

    /// A request for the worker, with the directory that it is to write for it.
    fn request(&mut self, request: WorkerRequest) -> Option<Outgoing> {
        let attempt = self.working.as_mut()?;
        attempt.requests += 1;
        attempt.in_flight = Some(attempt.requests);
        let (id, epoch) = (attempt.requests, attempt.epoch);
        let (request, dir) = match request {
            // The writer puts it in its place when it puts it on record.
            WorkerRequest::Save {
                stage,
                step,
                dir: place,
            } => {
                let dir = layout::unplaced(&place, epoch);
                (WorkerRequest::Save { stage, step, dir }, Some(place))
            }
            WorkerRequest::Export { dir } => {
                (WorkerRequest::Export { dir: dir.clone() }, Some(dir))
            }
            request => (request, None),
        };
        Some(Outgoing::Worker(ToWorker { id, request }, dir))
    }

    /// Makes a sender for the writer's answer, which goes to the machine unless another attempt
    /// runs by then.
    fn answer(&mut self, commits: bool, context: &mut Context<Self>) -> oneshot::Sender<Event> {
        let (answer, answered) = oneshot::channel();
        let number = self.life.number();
        context.spawn(wrap_future(answered).map(
            move |event, run: &mut Self, context: &mut Context<Self>| {
                if run.life.number() != number {
                    return;
                }
                if commits && run.life.stops_after_step() {
                    return run.tell(number, LifeEvent::Committed, context);
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
        let Some(attempt) = &self.working else {
            return;
        };
        let (writer, items, gang) = (
            attempt.writer.clone(),
            attempt.items.clone(),
            self.run_context.gang.clone(),
        );
        let mut halted = self.halted.clone();
        let handing_over = async move {
            tokio::select! {
                sent = hand_over(outgoing, writer, items, gang) => sent,
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
}

async fn hand_over(
    outgoing: Vec<Outgoing>,
    writer: mpsc::Sender<Task>,
    items: mpsc::Sender<ScoreRequest>,
    gang: Gang,
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
                gang.ask(request).await;
            }
        }
    }
    Ok(())
}

fn tagged<T: 'static>(
    number: u64,
    receiver: mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = FromAttempt<T>> + 'static {
    stream::unfold(receiver, move |mut receiver| async move {
        Some((FromAttempt(number, receiver.recv().await?), receiver))
    })
}
