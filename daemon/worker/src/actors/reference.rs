//! The reference actor: the frozen policy that the KL term is measured against.

use crate::device::DeviceThread;
use crate::failure::{invalid, of_model};
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_proto::worker::Failure;

/// Makes the reference equal to the policy.
#[derive(Message)]
#[rtype(result = "Result<(), Failure>")]
pub(crate) struct Sync {
    pub outbox: Outbox,
}

pub(crate) struct Reference {
    pub device: DeviceThread,
}

impl Actor for Reference {
    type Context = Context<Self>;
}

impl Handler<Sync> for Reference {
    type Result = ResponseFuture<Result<(), Failure>>;

    fn handle(&mut self, Sync { outbox }: Sync, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |device_state| {
                    let opened = device_state.opened()?;
                    let reference = opened.reference.as_mut().ok_or_else(|| {
                        invalid("the stage was opened without a reference (beta = 0)")
                    })?;
                    let policy = opened.model.policy()?;
                    outbox
                        .during("copying the policy", "bytes", 0, |_| {
                            reference.copy_from(policy)
                        })
                        .map_err(of_model)
                })
                .await
        })
    }
}
