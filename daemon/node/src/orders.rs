//! Carries out the controller's orders, one after the other: runs on devices, probes, looks for
//! what jobs wait for, works for clients.

use crate::context::NodeContext;
use crate::gang::{Gang, Rank};
use crate::outside_watch::OutsideWatch;
use crate::removal::FileRemovals;
use crate::run::{Ended, Run, RunContext, RunHandle};
use crate::runs::{RUN_END_MAX, Runs};
use crate::setup;
use crate::tasks::{self, Alive};
use crate::worker::WorkerCommand;
use crate::works::Works;
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Actor, AsyncContext, Context, SpawnHandle, StreamHandler};
use futures_util::stream;
use r1d_link::{Inbox, JobSnapshot, Order, Outbox, Report};
use r1d_proto::control::job::Activity;
use r1d_proto::ids::JobId;
use r1d_runner::life::{Life, LifeOutcome};
use r1d_runner::wait::Wait;
use std::collections::HashMap;
use std::time::Duration;

/// A device, and how its workers are started.
#[derive(Clone)]
pub(crate) struct Device {
    /// The device as a rank of a gang.
    pub rank: Rank,
    pub worker_command: WorkerCommand,
}

/// What orders are carried out with. It outlives an actor that panics: runs, works and waits go on.
#[derive(Clone)]
pub(crate) struct OrderParts {
    pub node: NodeContext,
    pub works: Works,
    pub outside: OutsideWatch,
    pub runs: Runs,
    pub devices: Vec<Device>,
    pub worker_silence: Duration,
}

impl OrderParts {
    pub(crate) fn new(
        node: NodeContext,
        removals: FileRemovals,
        devices: Vec<Device>,
        worker_silence: Duration,
    ) -> OrderParts {
        OrderParts {
            works: Works::new(node.clone(), removals),
            outside: OutsideWatch::new(node.clone()),
            runs: Runs::default(),
            node,
            devices,
            worker_silence,
        }
    }

    /// What a run on these devices needs; an error names one that the node does not have.
    fn run_context(&self, devices: &[usize]) -> Result<RunContext, String> {
        let rank = |&index: &usize| {
            let device = self.devices.get(index);
            device
                .map(|device| device.rank.clone())
                .ok_or_else(|| no_device(index))
        };
        Ok(RunContext {
            node: self.node.clone(),
            gang: Gang::new(
                devices.iter().map(rank).collect::<Result<_, _>>()?,
                self.node.clock.clone(),
            ),
            worker_silence: self.worker_silence,
        })
    }

    /// Waits until no earlier run has the job or one of the devices in hand, and shows the job's
    /// wait.
    async fn until_free(&self, job: &JobId, devices: &[usize]) {
        let since = self.node.clock.now();
        let told = |earlier: &JobId| {
            let what = if earlier == job {
                "the end of its earlier run".into()
            } else {
                format!("the end of an earlier run, of job {earlier}, on its device")
            };
            let wait = Wait::new("job", what, since).until(since + RUN_END_MAX);
            let waiting = JobSnapshot {
                activity: Some(Activity {
                    doing: "waiting".into(),
                    done: 0,
                    total: 1,
                    unit: "runs".into(),
                }),
                waits: vec![wait],
                ..JobSnapshot::default()
            };
            self.node.live.show(job, waiting);
        };
        let of = (job, devices);
        self.runs.until_free(of, told, &self.node.ledger).await;
    }
}

/// A job that was placed, and that the controller has not been told the end of.
enum InHand {
    /// It waits for the end of earlier runs.
    Waits { device: usize, wait: SpawnHandle },
    /// It has a run, whose release of its devices and whose end are awaited.
    Runs {
        run: RunHandle,
        awaited: [SpawnHandle; 2],
    },
}

pub(crate) struct Orders {
    parts: OrderParts,
    in_hand: HashMap<JobId, InHand>,
    /// The probes under way, by device: dropping one kills its process.
    probes: HashMap<usize, SpawnHandle>,
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
            probes: HashMap::new(),
            queue: 0,
            is_successor,
            _alive: alive,
        }
    }

    fn reports(&self) -> &Outbox<Report> {
        self.parts.node.live.reports()
    }

    /// Stops what an earlier queue has placed, breaks off its probes, and reports nothing of them
    /// any more. Works go on.
    fn begin(&mut self, queue: u64, context: &mut Context<Self>) {
        self.queue = queue;
        for (job, in_hand) in std::mem::take(&mut self.in_hand) {
            match in_hand {
                InHand::Waits { wait, .. } => self.wait_no_longer(&job, wait, context),
                InHand::Runs { awaited, .. } => {
                    for awaited in awaited {
                        context.cancel_future(awaited);
                    }
                }
            }
        }
        for (_, probe) in self.probes.drain() {
            context.cancel_future(probe);
        }
        self.parts.runs.stop_all();
        self.parts.outside.end_all();
    }

    /// Has a run of the job begin as soon as no earlier one is in its way.
    fn place(&mut self, devices: Vec<usize>, job: JobId, life: Life, context: &mut Context<Self>) {
        let device = first(&devices);
        let run_context = match self.parts.run_context(&devices) {
            Ok(run_context) => run_context,
            Err(error) => {
                tracing::error!(%job, "{error}");
                return self.ended(device, job, None);
            }
        };
        let (parts, placed) = (self.parts.clone(), job.clone());
        let until_free = async move {
            parts.until_free(&placed, &devices).await;
            (devices, placed)
        };
        let wait = context.spawn(wrap_future(until_free).map(
            move |(devices, job), orders: &mut Self, context: &mut Context<Self>| {
                orders.run((devices, job), run_context, life, context);
            },
        ));
        self.in_hand.insert(job, InHand::Waits { device, wait });
    }

    fn run(
        &mut self,
        (devices, job): (Vec<usize>, JobId),
        run_context: RunContext,
        life: Life,
        context: &mut Context<Self>,
    ) {
        let outputs = run_context.node.layout(&job);
        let (run, ended) = Run::start(job.clone(), run_context, outputs, life);
        let known = devices.clone();
        self.parts.runs.began(job.clone(), known, run.clone());
        let (queue, device) = (self.queue, first(&devices));
        let (leaver, ending) = (job.clone(), job.clone());
        let leaving = run.clone();
        let left = async move { leaving.has_left().await };
        let left = context.spawn(wrap_future(left).map(
            move |goes_on, orders: &mut Self, _: &mut Context<Self>| {
                if goes_on {
                    let job = leaver;
                    let released = Report::Released { queue, device, job };
                    orders.reports().send(released);
                }
            },
        ));
        let ended = context.spawn(wrap_future(ended).map(
            move |ended, orders: &mut Self, _: &mut Context<Self>| match ended {
                Ok(Ended { outcome, rank }) => {
                    let about = devices.get(rank).copied().unwrap_or(device);
                    orders.ended(about, ending, Some(outcome));
                }
                Err(_) => orders.ended(device, ending, None),
            },
        ));
        let awaited = [left, ended];
        self.in_hand.insert(job, InHand::Runs { run, awaited });
    }

    /// Reports a job's end, which is about this device; without an outcome its run has panicked.
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

    fn stop(&mut self, job: &JobId, after_step: bool, context: &mut Context<Self>) {
        match self.in_hand.get(job) {
            Some(InHand::Waits { device, wait }) => {
                let (device, wait) = (*device, *wait);
                self.wait_no_longer(job, wait, context);
                self.ended(device, job.clone(), Some(LifeOutcome::Over));
            }
            Some(InHand::Runs { run, .. }) => {
                tasks::spawn("stop of a run", run.clone().stop(after_step));
            }
            None => {}
        }
    }

    /// Ends a job's wait for earlier runs. What such a run of the job shows is for it to clear.
    fn wait_no_longer(&self, job: &JobId, wait: SpawnHandle, context: &mut Context<Self>) {
        context.cancel_future(wait);
        if !self.parts.runs.has(job) {
            self.parts.node.live.clear(job);
        }
    }

    fn probe(&mut self, device: usize, context: &mut Context<Self>) {
        let Some(known) = self.parts.devices.get(device) else {
            return self.probed(device, Some(no_device(device)));
        };
        let looked = setup::look(known.worker_command.clone());
        let probe = context.spawn(wrap_future(looked).map(
            move |problem, orders: &mut Self, _: &mut Context<Self>| {
                orders.probes.remove(&device);
                orders.probed(device, problem);
            },
        ));
        self.probes.insert(device, probe);
    }

    fn probed(&self, device: usize, problem: Option<String>) {
        self.reports().send(Report::Probed {
            queue: self.queue,
            device,
            problem,
        });
    }
}

/// The device of rank 0.
fn first(devices: &[usize]) -> usize {
    devices.first().copied().unwrap_or_default()
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
                devices,
                job,
                resumed,
                history,
                doubts_device,
            } => {
                let now = self.parts.node.clock.now();
                let life = Life::new(resumed, history, doubts_device, now);
                self.place(devices, job, life, context);
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
