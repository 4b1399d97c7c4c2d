//! Opens models with a scalar head: a stage's reward model, and PPO's value model.

use crate::device::{Critic, Model, Opened};
use crate::failure::{invalid, of_model};
use crate::source::{Placement, check_contents, sizes, trainer};
use r1d_learn::Gang;
use r1d_model::{CausalLm, SequenceClassifier};
use r1d_proto::worker::{self, Failure, ModelSource, Open, ValueModel};
use std::collections::BTreeMap;
use tch::Kind;

/// Opens a stage's reward model.
pub(crate) fn build(
    request: Open,
    kind: Kind,
    placement: &Placement,
    gang: Option<&Gang>,
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
    let scorer = open(&request.model, &request, kind, placement, gang)?;
    let trainer = request
        .optimiser
        .as_ref()
        .map(|optimiser| trainer(scorer.model(), optimiser, &request, placement, gang))
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
            snapshot_memory: None,
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
    gang: Option<&Gang>,
) -> Result<Option<Critic>, Failure> {
    let Some(ValueModel { model, optimiser }) = &request.value_model else {
        return Ok(None);
    };
    let model = match model {
        Some(source) => open(source, request, kind, placement, gang)?,
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
    let trainer = trainer(model.model(), optimiser, request, placement, gang)?;
    Ok(Some(Critic { model, trainer }))
}

fn open(
    source: &ModelSource,
    request: &Open,
    kind: Kind,
    placement: &Placement,
    gang: Option<&Gang>,
) -> Result<SequenceClassifier, Failure> {
    check_contents(source)?;
    let expert_group = gang.and_then(Gang::expert_group);
    let (seed, device) = (request.seed, placement.device);
    let scorer = match source {
        ModelSource::Directory(dir) => {
            SequenceClassifier::start(dir, seed, expert_group.as_ref(), device, kind)
        }
        ModelSource::Init { config, .. } => {
            SequenceClassifier::init(config, seed, expert_group.as_ref(), device, kind)
        }
    };
    finish(scorer.map_err(of_model)?, request)
}

/// Sets how the model computes.
pub(crate) fn finish(
    mut scorer: SequenceClassifier,
    request: &Open,
) -> Result<SequenceClassifier, Failure> {
    scorer.invariant = request.batch_invariant;
    if request.batch_invariant {
        scorer.model().check_invariance().map_err(of_model)?;
    }
    Ok(scorer)
}
