//! The sampler actor: draws completions from the policy.

use crate::device::DeviceThread;
use crate::failure::{invalid, of_sampling};
use crate::gang::Exchange;
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_proto::worker::{Failure, Generate, Metrics};

#[derive(Message)]
#[rtype(result = "Result<Metrics, Failure>")]
pub(crate) struct Draw {
    pub request: Generate,
    pub outbox: Outbox,
}

pub(crate) struct SamplerActor {
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
                .run(move |device_state| {
                    let exchange = Exchange::begin(device_state.gang.as_ref(), &outbox);
                    let opened = device_state.opened()?;
                    let mut completed = |rollout| outbox.completed(rollout);
                    let sampler = opened.sampler.as_mut().ok_or_else(|| {
                        invalid("the stage was opened without slots: it cannot sample")
                    })?;
                    let policy = opened.model.policy()?;
                    let drawn = outbox.during("sampling", "tokens", 0, |report| {
                        sampler.generate(policy, &request, &mut completed, &mut |done, total| {
                            report.at(done, total)
                        })
                    });
                    let mut metrics = drawn.map_err(of_sampling)?;
                    let gang = device_state.gang.as_ref();
                    exchange.report(gang, "sampling_exchange", &mut metrics);
                    Ok(metrics)
                })
                .await
        })
    }
}
