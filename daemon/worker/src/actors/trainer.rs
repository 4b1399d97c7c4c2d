//! The trainer actor: turns sequences into updates of the policy.

use crate::device::{DeviceThread, Opened};
use crate::failure::{classify, invalid};
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_learn::Trainer;
use r1d_proto::worker::{Failure, FailureKind, Metrics, Supervise, Train};

/// A policy-gradient batch.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub struct Reinforce {
    pub batch: Train,
    pub outbox: Outbox,
}

/// A batch with given targets.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub struct Imitate {
    pub batch: Supervise,
    pub outbox: Outbox,
}

pub struct TrainerActor {
    pub device: DeviceThread,
}

impl Actor for TrainerActor {
    type Context = Context<Self>;
}

fn trainer(opened: &mut Option<Trainer>) -> Result<&mut Trainer, Failure> {
    opened.as_mut().ok_or_else(|| invalid("the stage was opened without an optimiser: it cannot train"))
}

impl Handler<Reinforce> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(&mut self, Reinforce { batch, outbox }: Reinforce, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |bench| {
                    let Opened { policy, reference, trainer: optional, .. } = bench.opened()?;
                    let mut progress = outbox.progress("training", "tokens");
                    trainer(optional)?
                        .train(policy, reference.as_ref(), &batch, &mut progress)
                        .map_err(|e| classify(FailureKind::Internal, &e))
                })
                .await
        })
    }
}

impl Handler<Imitate> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(&mut self, Imitate { batch, outbox }: Imitate, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |bench| {
                    let Opened { policy, trainer: optional, .. } = bench.opened()?;
                    outbox.progress("training", "sequences")(0, batch.sequences.len() as u64);
                    trainer(optional)?.supervise(policy, &batch).map_err(|e| classify(FailureKind::Internal, &e))
                })
                .await
        })
    }
}
