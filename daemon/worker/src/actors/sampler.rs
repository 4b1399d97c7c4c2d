//! The sampler actor: draws completions from the policy.

use crate::device::DeviceThread;
use crate::failure::{classify, invalid};
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_proto::worker::{Failure, FailureKind, Generate, Metrics};

#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub struct Draw {
    pub request: Generate,
    pub outbox: Outbox,
}

pub struct SamplerActor {
    pub device: DeviceThread,
}

impl Actor for SamplerActor {
    type Context = Context<Self>;
}

impl Handler<Draw> for SamplerActor {
    type Result = ResponseFuture<Result<Metrics, Failure>>;

    fn handle(&mut self, Draw { request, outbox }: Draw, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |bench| {
                    let opened = bench.opened()?;
                    let mut progress = outbox.progress("sampling", "tokens");
                    let mut completed = |rollout| outbox.completed(rollout);
                    let sampler =
                        opened.sampler.as_mut().ok_or_else(|| invalid("the stage was opened without slots: it cannot sample"))?;
                    sampler.generate(opened.model.policy()?, &request, &mut completed, &mut progress).map_err(|e| {
                        let kind = if e.is_invalid_request() { FailureKind::Invalid } else { FailureKind::Internal };
                        classify(kind, &e)
                    })
                })
                .await
        })
    }
}
