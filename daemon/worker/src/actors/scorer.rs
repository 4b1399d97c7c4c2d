//! The scorer actor: computes scores with reward models.

use crate::device::{DeviceThread, Opened};
use crate::failure::{invalid, of_model};
use crate::outbox::Outbox;
use crate::reward_model::finish;
use crate::source::{Placement, check_contents, kind, reading_bytes};
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_model::SequenceClassifier;
use r1d_proto::worker::{Failure, ModelSource};
use std::collections::btree_map::Entry;

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
