//! Carries out the controller's orders, one after the other: runs on devices, probes, looks for
//! what jobs wait for, works for clients.

use crate::context::NodeContext;
use crate::outside_watch::OutsideWatch;
use crate::removal::Removals;
use crate::run::{Run, RunContext, Started, Stop};
use crate::setup;
use crate::tasks::Alive;
use crate::worker::WorkerCommand;
use crate::works::Works;
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, Addr, AsyncContext, Context, SpawnHandle, StreamHandler};
use futures_util::stream;
use r1d_link::{Inbox, Order, Outbox, Report};
use r1d_proto::ids::JobId;
use r1d_runner::attempt::{LifeOutcome, Lifecycle};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;

/// A device, and how its workers are started.
#[derive(Clone)]
pub(crate) struct Device {
    pub run_context: RunContext,
    pub worker_command: WorkerCommand,
}

/// What orders are carried out with. It outlives an actor that panics: works and waits go on.
#[derive(Clone)]
pub(crate) struct OrderParts {
    pub node: NodeContext,
    pub works: Works,
    pub outside: OutsideWatch,
    pub devices: Vec<Device>,
}

impl OrderParts {
    pub(crate) fn new(node: NodeContext, removals: Removals, devices: Vec<Device>) -> OrderParts {
        OrderParts {
            works: Works::new(node.clone(), removals),
            outside: OutsideWatch::new(node.clone()),
            node,
            devices,
        }
    }
}

/// A run that the controller has not been told the end of.
struct InHand {
    run: Addr<Run>,
    halt: Arc<watch::Sender<bool>>,
    /// What waits for its end; the run ends by itself when nothing does any more.
    awaited: [SpawnHandle; 2],
}

pub(crate) struct Orders {
    parts: OrderParts,
    in_hand: HashMap<JobId, InHand>,
    /// The number of the queue that gives orders.
    queue: u64,
    /// Whether there was an actor before this one, whose runs nobody reports any more.
    is_successor: bool,
    _alive: Alive,
}

impl Orders {
    /// Carries out the orders that arrive from now on.
    pub(crate) fn new(
        parts: OrderParts,
        orders: Inbox<Order>,
        is_successor: bool,
        (alive, context): (Alive, &mut Context<Self>),
    ) -> Orders {
        context.add_stream(stream::unfold(orders, |orders| async move {
            Some((orders.next().await, orders))
        }));
        Orders {
            parts,
            in_hand: HashMap::new(),
            queue: 0,
            is_successor,
            _alive: alive,
        }
    }

    fn reports(&self) -> &Outbox<Report> {
        self.parts.node.live.reports()
    }

    /// Ends what an earlier queue has placed: its runs end when nobody waits for them. Works go on.
    fn begin(&mut self, queue: u64, context: &mut Context<Self>) {
        self.queue = queue;
        for (_, in_hand) in self.in_hand.drain() {
            for awaited in in_hand.awaited {
                context.cancel_future(awaited);
            }
        }
        self.parts.outside.end_all();
    }

    fn place(&mut self, index: usize, job: JobId, life: Lifecycle, context: &mut Context<Self>) {
        let Some(device) = self.parts.devices.get(index) else {
            tracing::error!(%job, "{}", no_device(index));
            return self.ended(index, job, None);
        };
        let run_context = device.run_context.clone();
        let outputs = run_context.node.layout(&job);
        let Started {
            run,
            halt,
            left,
            ended,
        } = Run::start(job.clone(), run_context, outputs, life);
        let (queue, device, leaver, ending) = (self.queue, index, job.clone(), job.clone());
        let left = context.spawn(wrap_future(left).map(
            move |left, orders: &mut Self, _: &mut Context<Self>| {
                if left.is_ok() {
                    let job = leaver;
                    let released = Report::Released { queue, device, job };
                    orders.reports().send(released);
                }
            },
        ));
        let ended = context.spawn(wrap_future(ended).map(
            move |outcome, orders: &mut Self, _: &mut Context<Self>| {
                orders.ended(index, ending, outcome.ok());
            },
        ));
        let awaited = [left, ended];
        let in_hand = InHand { run, halt, awaited };
        self.in_hand.insert(job, in_hand);
    }

    /// Reports a job's end; without an outcome its run has panicked.
    fn ended(&mut self, device: usize, job: JobId, outcome: Option<LifeOutcome>) {
        self.in_hand.remove(&job);
        if outcome == Some(LifeOutcome::Over) {
            self.parts.outside.forget(&job);
        }
        self.reports().send(Report::Ended {
            queue: self.queue,
            device,
            job,
            outcome,
        });
    }

    fn stop(&self, job: &JobId, after_step: bool, context: &mut Context<Self>) {
        let Some(in_hand) = self.in_hand.get(job) else {
            return;
        };
        if !after_step {
            in_hand.halt.send_replace(true);
        }
        let run = in_hand.run.clone();
        context.spawn(wrap_future(async move {
            // A closed mailbox means that the run has ended by itself.
            let _ = run.send(Stop { after_step }).await;
        }));
    }

    fn probe(&self, device: usize, context: &mut Context<Self>) {
        let Some(known) = self.parts.devices.get(device) else {
            let problem = Some(no_device(device));
            return self.reports().send(Report::Probed { device, problem });
        };
        let looked = setup::look(known.worker_command.clone());
        context.spawn(wrap_future(looked).map(
            move |problem, orders: &mut Self, _: &mut Context<Self>| {
                orders.reports().send(Report::Probed { device, problem });
            },
        ));
    }
}

fn no_device(index: usize) -> String {
    format!("the node has no device {index}")
}

impl Actor for Orders {
    type Context = Context<Self>;

    fn started(&mut self, _: &mut Self::Context) {
        if self.is_successor {
            self.reports().send(Report::Restarted);
        }
    }
}

impl StreamHandler<Order> for Orders {
    fn handle(&mut self, order: Order, context: &mut Self::Context) {
        match order {
            Order::Begin { queue } => self.begin(queue, context),
            Order::Place {
                device,
                job,
                resumed,
                history,
                doubts_device,
            } => {
                let now = self.parts.node.clock.now();
                let life = Lifecycle::new(resumed, history, doubts_device, now);
                self.place(device, job, life, context);
            }
            Order::Stop { job, after_step } => self.stop(&job, after_step, context),
            Order::Probe { device } => self.probe(device, context),
            Order::Watch { job, cause } => self.parts.outside.watch(job, cause),
            Order::Unwatch { job } => self.parts.outside.unwatch(&job),
            Order::Recorded { job } => self.parts.node.live.clear(&job),
            Order::Work { id, work } => self.parts.works.begin(id, *work),
            Order::Abandon { id } => self.parts.works.abandon(id),
        }
    }

    /// Does nothing: orders come as long as the daemon lives.
    fn finished(&mut self, _: &mut Self::Context) {}
}

#[cfg(test)]
pub(crate) mod tests;
