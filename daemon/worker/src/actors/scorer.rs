//! The scorer actor: computes scores with reward models. It also opens, saves and restores models
//! with a scalar head.

use super::policy::{
    Placement, SHARD_MAX_BYTES, TRAINER_FILE, check_contents, created, kind, reading_bytes, sizes,
};
use crate::device::{Critic, DeviceThread, Model, Opened};
use crate::failure::{invalid, of_learning, of_model};
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_learn::Trainer;
use r1d_model::{CausalLm, ModelError, SequenceClassifier, checkpoint};
use r1d_proto::hyperparameters::Optimiser;
use r1d_proto::worker::{self, Failure, ModelSource, Open, ValueModel};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::Path;
use tch::Kind;

const VALUE_DIRECTORY: &str = "value";

#[derive(Message)]
#[rtype(result = "Result<Vec<f32>, Failure>")]
pub(crate) struct Score {
    pub model: Option<ModelSource>,
    pub sequences: Vec<Vec<u32>>,
    pub outbox: Outbox,
}

pub(crate) struct ScorerActor {
    pub device: DeviceThread,
    pub placement: Placement,
}

impl Actor for ScorerActor {
    type Context = Context<Self>;
}

impl Handler<Score> for ScorerActor {
    type Result = ResponseFuture<Result<Vec<f32>, Failure>>;

    fn handle(
        &mut self,
        Score {
            model,
            sequences,
            outbox,
        }: Score,
        _: &mut Self::Context,
    ) -> Self::Result {
        let (device, placement) = (self.device.clone(), self.placement.clone());
        Box::pin(async move {
            device
                .run(move |device_state| {
                    let opened = device_state.opened()?;
                    let scorer = match &model {
                        None => opened.model.scorer()?,
                        Some(source) => asked(opened, source, &placement, &outbox)?,
                    };
                    let tokens = sequences.iter().map(|ids| ids.len() as u64).sum();
                    outbox
                        .during("scoring", "tokens", tokens, |_| scorer.score(&sequences))
                        .map_err(of_model)
                })
                .await
        })
    }
}

/// A reward model beside the stage's models; it is loaded when it is first asked.
fn asked<'a>(
    opened: &'a mut Opened,
    source: &ModelSource,
    placement: &Placement,
    outbox: &Outbox,
) -> Result<&'a SequenceClassifier, Failure> {
    let ModelSource::Directory(dir) = source else {
        return Err(invalid(
            "a reward model that is asked has weights: name its directory",
        ));
    };
    match opened.reward_models.entry(source.clone()) {
        Entry::Occupied(loaded) => Ok(loaded.into_mut()),
        Entry::Vacant(place) => {
            let request = &opened.request;
            let scorer = outbox.during("loading", "bytes", reading_bytes(source), |_| {
                check_contents(source)?;
                finish(
                    SequenceClassifier::open(dir, placement.device, kind(request.dtype))
                        .map_err(of_model)?,
                    request,
                )
            })?;
            Ok(place.insert(scorer))
        }
    }
}

/// Opens a stage's reward model.
pub(crate) fn build(
    request: Open,
    kind: Kind,
    placement: &Placement,
) -> Result<(Opened, worker::Opened), Failure> {
    let unfit = [
        ("a reference", request.reference),
        ("slots", request.sampler.is_some()),
        ("adapters", request.lora.is_some()),
        ("a value model", request.value_model.is_some()),
        (
            "a prediction module",
            request.mtp_loss_weight > 0.0 || request.speculative_decoding,
        ),
        ("FP8 products", request.fp8),
    ];
    if let Some((what, _)) = unfit.into_iter().find(|(_, asked)| *asked) {
        return Err(invalid(format!("a reward model is opened without {what}")));
    }
    let scorer = open(&request.model, &request, kind, placement)?;
    let trainer = request
        .optimiser
        .as_ref()
        .map(|optimiser| trainer(&scorer, optimiser, &request, placement))
        .transpose()?;
    let sizes = sizes(scorer.model());
    let (reward_models, judges) = (BTreeMap::new(), BTreeMap::new());
    let model = Model::Reward(scorer);
    Ok((
        Opened {
            request,
            model,
            reference: None,
            critic: None,
            reward_models,
            judges,
            trainer,
            sampler: None,
        },
        sizes,
    ))
}

/// Opens the value model beside `policy`, if the stage has one.
pub(crate) fn critic(
    request: &Open,
    policy: &CausalLm,
    kind: Kind,
    placement: &Placement,
) -> Result<Option<Critic>, Failure> {
    let Some(ValueModel { model, optimiser }) = &request.value_model else {
        return Ok(None);
    };
    let model = match model {
        Some(source) => open(source, request, kind, placement)?,
        None => finish(
            SequenceClassifier::over(policy, request.seed).map_err(of_model)?,
            request,
        )?,
    };
    if model.model().config.vocab_size < policy.config.vocab_size {
        let sizes = (model.model().config.vocab_size, policy.config.vocab_size);
        return Err(invalid(format!(
            "the value model knows {} ids, the policy {}: they must share a tokenizer",
            sizes.0, sizes.1
        )));
    }
    let trainer = trainer(&model, optimiser, request, placement)?;
    Ok(Some(Critic { model, trainer }))
}

fn open(
    source: &ModelSource,
    request: &Open,
    kind: Kind,
    placement: &Placement,
) -> Result<SequenceClassifier, Failure> {
    check_contents(source)?;
    let scorer = match source {
        ModelSource::Directory(dir) => {
            SequenceClassifier::start(dir, request.seed, placement.device, kind)
        }
        ModelSource::Init { config, .. } => {
            SequenceClassifier::init(config, request.seed, placement.device, kind)
        }
    };
    finish(scorer.map_err(of_model)?, request)
}

fn finish(mut scorer: SequenceClassifier, request: &Open) -> Result<SequenceClassifier, Failure> {
    scorer.invariant = request.batch_invariant;
    if request.batch_invariant {
        scorer.model().check_invariance().map_err(of_model)?;
    }
    Ok(scorer)
}

fn trainer(
    scorer: &SequenceClassifier,
    optimiser: &Optimiser,
    request: &Open,
    placement: &Placement,
) -> Result<Trainer, Failure> {
    let trainer = Trainer::new(
        scorer.model(),
        optimiser,
        request.router,
        request.max_tokens_per_device,
        request.batch_invariant,
    );
    Ok(trainer
        .map_err(of_learning)?
        .with_clock(placement.clock.clone()))
}

/// Restores the value model from its part of a checkpoint.
pub(crate) fn restore_critic(critic: &mut Critic, dir: &Path) -> Result<(), Failure> {
    let dir = dir.join(VALUE_DIRECTORY);
    critic.model.model().restore(&dir).map_err(of_model)?;
    critic
        .trainer
        .restore(&dir.join(TRAINER_FILE))
        .map_err(of_learning)
}

pub(crate) fn save_critic(opened: &Opened, into: &Path) -> Result<(), ModelError> {
    let Some(critic) = &opened.critic else {
        return Ok(());
    };
    let into = created(into, VALUE_DIRECTORY)?;
    critic.model.save(&into, SHARD_MAX_BYTES)?;
    checkpoint::save_tensors(&into.join(TRAINER_FILE), &critic.trainer.state())
}
