//! The actors of a device. Each file is one actor: its messages, its state, its handlers. The
//! computations live in library crates and run on the device's thread; a handler only hands the
//! work over and awaits it.

pub(crate) mod judge;
pub(crate) mod policy;
pub(crate) mod reference;
pub(crate) mod sampler;
pub(crate) mod scorer;
pub(crate) mod trainer;

use crate::device::DeviceThread;
use crate::source::Placement;
use actix::{Actor, Addr};

/// Messages that may wait for an actor (`LIM-1`). Sends are awaited, so a full mailbox holds the
/// sender back.
const MAILBOX_MAX_MESSAGES: usize = 8;

/// The addresses of one device's actors.
#[derive(Clone)]
pub(crate) struct Actors {
    pub judge: Addr<judge::JudgeActor>,
    pub policy: Addr<policy::Policy>,
    pub reference: Addr<reference::Reference>,
    pub sampler: Addr<sampler::SamplerActor>,
    pub scorer: Addr<scorer::ScorerActor>,
    pub trainer: Addr<trainer::TrainerActor>,
}

impl Actors {
    /// Starts the actors around the device's thread. They hold no tensors, so one that dies is
    /// recreated at no cost.
    pub(crate) fn start(device: &DeviceThread, placement: Placement) -> Actors {
        Actors {
            judge: start(judge::JudgeActor {
                device: device.clone(),
                placement: placement.clone(),
            }),
            policy: start(policy::Policy {
                device: device.clone(),
                placement: placement.clone(),
            }),
            reference: start(reference::Reference {
                device: device.clone(),
            }),
            sampler: start(sampler::SamplerActor {
                device: device.clone(),
            }),
            scorer: start(scorer::ScorerActor {
                device: device.clone(),
                placement,
            }),
            trainer: start(trainer::TrainerActor {
                device: device.clone(),
            }),
        }
    }
}

fn start<A: Actor<Context = actix::Context<A>>>(actor: A) -> Addr<A> {
    A::create(|context| {
        context.set_mailbox_capacity(MAILBOX_MAX_MESSAGES);
        actor
    })
}
