//! The policy actor: opens a stage's models, saves, restores and exports them.

use crate::checkpoints::{checkpoint_bytes, export, restore};
use crate::device::DeviceThread;
use crate::failure::invalid;
use crate::gang;
use crate::open::build;
use crate::outbox::Outbox;
use crate::saving::{ToSave, reserve, save, shares};
use crate::source::{Placement, reading_bytes};
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_proto::worker::{self, Failure, ModelSource};
use std::path::PathBuf;
use tch::Device;

#[derive(Message)]
#[rtype(result = "Result<worker::Opened, Failure>")]
pub(crate) struct Open {
    pub request: Box<worker::Open>,
    pub outbox: Outbox,
}

/// Takes a snapshot of what is open, which is then written to a checkpoint.
#[derive(Message)]
#[rtype(result = "Result<(), Failure>")]
pub(crate) struct Save {
    pub to_save: ToSave,
    pub outbox: Outbox,
}

#[derive(Message)]
#[rtype(result = "Result<(), Failure>")]
pub(crate) struct Restore {
    pub dir: PathBuf,
    pub outbox: Outbox,
}

#[derive(Message)]
#[rtype(result = "Result<(), Failure>")]
pub(crate) struct Export {
    pub dir: PathBuf,
    pub outbox: Outbox,
}

#[derive(Message)]
#[rtype(result = "Result<(), Failure>")]
pub(crate) struct Close;

pub(crate) struct Policy {
    pub device: DeviceThread,
    pub placement: Placement,
}

impl Actor for Policy {
    type Context = Context<Self>;
}

impl Handler<Open> for Policy {
    type Result = ResponseFuture<Result<worker::Opened, Failure>>;

    fn handle(&mut self, Open { request, outbox }: Open, _: &mut Self::Context) -> Self::Result {
        let (device, placement) = (self.device.clone(), self.placement.clone());
        Box::pin(async move {
            if request.batch_invariant && placement.device != Device::Cpu {
                return Err(invalid(
                    "batch_invariant = true needs the device \"cpu\" in this release: set \
                     batch_invariant = false",
                ));
            }
            device
                .run(move |device_state| {
                    device_state.open = None; // free the old model before the new one takes memory
                    let meet = |place| {
                        gang::check_built_in(&request, place, placement.device)?;
                        outbox.during("meeting the other ranks", "ranks", 0, |_| {
                            gang::meet(&mut device_state.gang, place, &placement)
                        })
                    };
                    let gang = request.place.map(meet).transpose()?;
                    let bytes = reading_bytes(&request.model);
                    let (mut opened, summary) = outbox.during("loading", "bytes", bytes, |_| {
                        build(*request, &placement, gang.as_ref())
                    })?;
                    reserve(&mut opened, placement.device)?;
                    device_state.open = Some(opened);
                    Ok(summary)
                })
                .await
        })
    }
}

impl Handler<Save> for Policy {
    type Result = ResponseFuture<Result<(), Failure>>;

    fn handle(&mut self, Save { to_save, outbox }: Save, _: &mut Self::Context) -> Self::Result {
        let (device, placement) = (self.device.clone(), self.placement.clone());
        Box::pin(async move {
            device
                .run(move |device_state| {
                    let bytes = checkpoint_bytes(device_state.opened()?);
                    outbox.during("checkpointing", "bytes", bytes, |_| {
                        save(device_state, to_save, &placement, &outbox)
                    })
                })
                .await
        })
    }
}

impl Handler<Restore> for Policy {
    type Result = ResponseFuture<Result<(), Failure>>;

    fn handle(&mut self, Restore { dir, outbox }: Restore, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |device_state| {
                    let bytes = reading_bytes(&ModelSource::Directory(dir.clone()));
                    outbox.during("restoring", "bytes", bytes, |_| restore(device_state, &dir))
                })
                .await
        })
    }
}

impl Handler<Export> for Policy {
    type Result = ResponseFuture<Result<(), Failure>>;

    fn handle(&mut self, Export { dir, outbox }: Export, _: &mut Self::Context) -> Self::Result {
        let (device, placement) = (self.device.clone(), self.placement.clone());
        Box::pin(async move {
            device
                .run(move |device_state| {
                    let opened = device_state.opened()?;
                    let shares = shares(opened, &placement, &outbox).of_export();
                    outbox.during("exporting", "bytes", 0, |_| export(opened, &dir, &shares))
                })
                .await
        })
    }
}

impl Handler<Close> for Policy {
    type Result = ResponseFuture<Result<(), Failure>>;

    fn handle(&mut self, _: Close, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(|device_state| {
                    device_state.open = None;
                    r1d_torch::memory::release_kept();
                    Ok(())
                })
                .await
        })
    }
}
