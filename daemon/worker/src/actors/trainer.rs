//! The trainer actor: updates the policy or a reward model from sequences.

use crate::checksum;
use crate::device::{DeviceState, DeviceThread, Opened};
use crate::failure::{invalid, of_learning, of_sampling};
use crate::gang::Exchange;
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_learn::Trainer;
use r1d_proto::worker::{
    Failure, Metrics, RewardBatch, Supervise, Train, TrainDpo, TrainPpo, TrainReward,
    WEIGHTS_CHECKSUM,
};

/// Trains the policy on a policy-gradient batch.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub(crate) struct Reinforce {
    pub batch: Train,
    pub outbox: Outbox,
}

/// Trains the policy on a batch with given targets.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub(crate) struct Imitate {
    pub batch: Supervise,
    pub outbox: Outbox,
}

/// Trains policy and value model on a policy-gradient batch.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub(crate) struct ReinforceWithValues {
    pub batch: TrainPpo,
    pub outbox: Outbox,
}

/// Trains the policy on preference pairs.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub(crate) struct Prefer {
    pub batch: TrainDpo,
    pub outbox: Outbox,
}

/// Trains a reward model on pairs or labels.
#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub(crate) struct TrainRewardModel {
    pub batch: TrainReward,
    pub outbox: Outbox,
}

pub(crate) struct TrainerActor {
    pub device: DeviceThread,
}

impl Actor for TrainerActor {
    type Context = Context<Self>;
}

impl TrainerActor {
    /// Makes an update on the device's thread. A rank of several adds what its calls took, and the
    /// checksum of the weights that it has then.
    fn update(
        &self,
        outbox: Outbox,
        update: impl FnOnce(&mut DeviceState) -> Result<Metrics, Failure> + Send + 'static,
    ) -> ResponseFuture<Result<Metrics, Failure>> {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |device_state| {
                    let exchange = Exchange::begin(device_state.gang.as_ref(), &outbox);
                    let mut metrics = update(device_state)?;
                    let gang = device_state.gang.as_ref();
                    exchange.report(gang, "exchange", &mut metrics);
                    if gang.is_some_and(|gang| gang.ranks() > 1) {
                        let sum = checksum::of_weights(device_state.opened()?)?;
                        metrics.insert(WEIGHTS_CHECKSUM.to_owned(), sum);
                    }
                    Ok(metrics)
                })
                .await
        })
    }
}

/// What is open, with the memory of the sampler's cache free for training.
fn to_train(state: &mut DeviceState) -> Result<&mut Opened, Failure> {
    let opened = state.opened()?;
    if let Some(sampler) = &mut opened.sampler {
        sampler.release().map_err(of_sampling)?;
    }
    Ok(opened)
}

fn trainer(opened: &mut Option<Trainer>) -> Result<&mut Trainer, Failure> {
    opened
        .as_mut()
        .ok_or_else(|| invalid("the stage was opened without an optimiser: it cannot train"))
}

impl Handler<Reinforce> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(
        &mut self,
        Reinforce { batch, outbox }: Reinforce,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.update(outbox.clone(), move |device_state| {
            let Opened {
                model,
                reference,
                trainer: optional,
                ..
            } = to_train(device_state)?;
            let (trainer, policy) = (trainer(optional)?, model.policy()?);
            let trained = outbox.during("training", "tokens", 0, |report| {
                trainer.train(policy, reference.as_ref(), &batch, &mut |done, total| {
                    report.at(done, total)
                })
            });
            trained.map_err(of_learning)
        })
    }
}

impl Handler<Imitate> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(
        &mut self,
        Imitate { batch, outbox }: Imitate,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.update(outbox.clone(), move |device_state| {
            let Opened {
                model,
                trainer: optional,
                ..
            } = to_train(device_state)?;
            let (trainer, policy) = (trainer(optional)?, model.policy()?);
            let tokens = batch
                .sequences
                .iter()
                .map(|sequence| sequence.ids.len() as u64)
                .sum();
            outbox
                .during("training", "tokens", tokens, |_| {
                    trainer.supervise(policy, &batch)
                })
                .map_err(of_learning)
        })
    }
}

impl Handler<ReinforceWithValues> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(
        &mut self,
        ReinforceWithValues { batch, outbox }: ReinforceWithValues,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.update(outbox.clone(), move |device_state| {
            let Opened {
                model,
                reference,
                critic,
                trainer: optional,
                ..
            } = to_train(device_state)?;
            let critic = critic.as_mut().ok_or_else(|| {
                invalid("the stage was opened without a value model, which PPO needs")
            })?;
            let mut critic = r1d_learn::Critic {
                model: &critic.model,
                trainer: &mut critic.trainer,
            };
            let (trainer, policy) = (trainer(optional)?, model.policy()?);
            let trained = outbox.during("training", "tokens", 0, |report| {
                let mut progress = |done, total| report.at(done, total);
                trainer.train_ppo(
                    policy,
                    &mut critic,
                    reference.as_ref(),
                    &batch,
                    &mut progress,
                )
            });
            trained.map_err(of_learning)
        })
    }
}

impl Handler<Prefer> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(&mut self, Prefer { batch, outbox }: Prefer, _: &mut Self::Context) -> Self::Result {
        self.update(outbox.clone(), move |device_state| {
            let Opened {
                model,
                reference,
                trainer: optional,
                ..
            } = to_train(device_state)?;
            let reference = reference.as_ref().ok_or_else(|| {
                invalid("the stage was opened without a reference, which DPO needs")
            })?;
            let (trainer, policy, pairs) = (
                trainer(optional)?,
                model.policy()?,
                batch.pairs.len() as u64,
            );
            let trained = outbox.during("training", "pairs", pairs, |_| {
                trainer.train_dpo(policy, reference, &batch)
            });
            trained.map_err(of_learning)
        })
    }
}

impl Handler<TrainRewardModel> for TrainerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(
        &mut self,
        TrainRewardModel { batch, outbox }: TrainRewardModel,
        _: &mut Self::Context,
    ) -> Self::Result {
        self.update(outbox.clone(), move |device_state| {
            let Opened {
                model,
                trainer: optional,
                ..
            } = to_train(device_state)?;
            let (items, unit) = match &batch.batch {
                RewardBatch::Pairs { pairs, .. } => (pairs.len(), "pairs"),
                RewardBatch::Labelled(items) => (items.len(), "texts"),
            };
            let (trainer, scorer) = (trainer(optional)?, model.scorer()?);
            let trained = outbox.during("training", unit, items as u64, |_| {
                trainer.train_reward(scorer, &batch)
            });
            trained.map_err(of_learning)
        })
    }
}
