//! The trainer actor: turns sequences into updates of the policy, or of a reward model.

use crate::device::{DeviceThread, Opened};
use crate::failure::{classify, invalid};
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_learn::Trainer;
use r1d_proto::worker::{Failure, FailureKind, Metrics, RewardBatch, Supervise, Train, TrainDpo, TrainPpo, TrainReward};

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

/// A policy-gradient batch for policy and value model.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub struct ReinforceWithValues {
    pub batch: TrainPpo,
    pub outbox: Outbox,
}

/// Pairs for a policy.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub struct Prefer {
    pub batch: TrainDpo,
    pub outbox: Outbox,
}

/// Pairs or labels for a reward model.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub struct Judge {
    pub batch: TrainReward,
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
                    let Opened { model, reference, trainer: optional, .. } = bench.opened()?;
                    let mut progress = outbox.progress("training", "tokens");
                    trainer(optional)?
                        .train(model.policy()?, reference.as_ref(), &batch, &mut progress)
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
                    let Opened { model, trainer: optional, .. } = bench.opened()?;
                    outbox.progress("training", "sequences")(0, batch.sequences.len() as u64);
                    trainer(optional)?.supervise(model.policy()?, &batch).map_err(|e| classify(FailureKind::Internal, &e))
                })
                .await
        })
    }
}

impl Handler<ReinforceWithValues> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(&mut self, ReinforceWithValues { batch, outbox }: ReinforceWithValues, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |bench| {
                    let Opened { model, reference, critic, trainer: optional, .. } = bench.opened()?;
                    let critic =
                        critic.as_mut().ok_or_else(|| invalid("the stage was opened without a value model, which PPO needs"))?;
                    let mut critic = r1d_learn::Critic { model: &critic.model, trainer: &mut critic.trainer };
                    let mut progress = outbox.progress("training", "tokens");
                    trainer(optional)?
                        .train_ppo(model.policy()?, &mut critic, reference.as_ref(), &batch, &mut progress)
                        .map_err(|e| classify(FailureKind::Internal, &e))
                })
                .await
        })
    }
}

impl Handler<Prefer> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(&mut self, Prefer { batch, outbox }: Prefer, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |bench| {
                    let Opened { model, reference, trainer: optional, .. } = bench.opened()?;
                    let reference =
                        reference.as_ref().ok_or_else(|| invalid("the stage was opened without a reference, which DPO needs"))?;
                    outbox.progress("training", "pairs")(0, batch.pairs.len() as u64);
                    trainer(optional)?
                        .train_dpo(model.policy()?, reference, &batch)
                        .map_err(|e| classify(FailureKind::Internal, &e))
                })
                .await
        })
    }
}

impl Handler<Judge> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(&mut self, Judge { batch, outbox }: Judge, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |bench| {
                    let Opened { model, trainer: optional, .. } = bench.opened()?;
                    let (items, unit) = match &batch.batch {
                        RewardBatch::Pairs { pairs, .. } => (pairs.len(), "pairs"),
                        RewardBatch::Labelled(items) => (items.len(), "texts"),
                    };
                    outbox.progress("training", unit)(0, items as u64);
                    trainer(optional)?.train_reward(model.scorer()?, &batch).map_err(|e| classify(FailureKind::Internal, &e))
                })
                .await
        })
    }
}
