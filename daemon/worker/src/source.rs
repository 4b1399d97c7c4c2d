//! What a stage's models have in common when they are opened: where their weights come from, where
//! their tensors live, and how they are trained.

use crate::failure::{of_learning, of_model};
use r1d_learn::{Gang, Trainer};
use r1d_model::{CausalLm, Config, checkpoint};
use r1d_proto::hyperparameters::Optimiser;
use r1d_proto::worker::{self, Dtype, Failure, ModelSource, Open};
use r1d_proto::world::SharedClock;
use r1d_rendezvous::Carried;
use std::sync::Arc;
use tch::{Device, Kind};

/// Where this worker's tensors live, and the clock that its libraries use.
#[derive(Clone)]
pub(crate) struct Placement {
    pub device: Device,
    /// Threads of one tensor operation on the CPU, outside the batch-invariant mode.
    pub threads: u32,
    /// Whether r1d's own kernels decode where there are some.
    pub own_kernels: bool,
    /// The rendezvous of the worker's gang.
    pub rendezvous: Arc<Carried>,
    pub clock: SharedClock,
}

/// Checks a directory against its manifest, if it has one: another stage's checkpoint must be as it
/// was written. A directory from elsewhere has none.
pub(crate) fn check_contents(model: &ModelSource) -> Result<(), Failure> {
    match model {
        ModelSource::Directory(dir) if checkpoint::has_manifest(dir).map_err(of_model)? => {
            checkpoint::verify_manifest(dir).map(drop).map_err(of_model)
        }
        _ => Ok(()),
    }
}

pub(crate) fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Bfloat16 => Kind::BFloat16,
    }
}

pub(crate) fn sizes(model: &CausalLm) -> worker::Opened {
    let summary = model.summary();
    worker::Opened {
        architecture: summary.architecture,
        parameters: summary.parameters,
        active_parameters: summary.active_parameters,
        vocab_size: summary.vocab_size,
        moe_layers: summary.moe_layers,
        experts_per_token: summary.experts_per_token,
    }
}

/// Bytes that are read to open a directory's model, or made to initialise one. Files of a directory
/// with a manifest are read twice, because they are hashed first.
pub(crate) fn reading_bytes(model: &ModelSource) -> u64 {
    let dir = match model {
        ModelSource::Directory(dir) => dir,
        ModelSource::Init { config, .. } => {
            let parameters = Config::parse(config).map_or(0, |config| config.summary().parameters);
            return parameters * size_of::<f32>() as u64;
        }
    };
    // Any fault of the directory is reported when it is opened.
    let passes = if checkpoint::has_manifest(dir).unwrap_or(false) {
        2
    } else {
        1
    };
    passes * checkpoint::bytes_below(dir).unwrap_or(0)
}

/// A trainer of `model`, as the stage trains; of all ranks together where there is a gang.
pub(crate) fn trainer(
    model: &CausalLm,
    optimiser: &Optimiser,
    request: &Open,
    placement: &Placement,
    gang: Option<&Gang>,
) -> Result<Trainer, Failure> {
    let trainer = Trainer::in_gang(
        model,
        optimiser,
        request.router,
        request.max_tokens_per_device,
        request.batch_invariant,
        gang.cloned(),
    );
    Ok(trainer
        .map_err(of_learning)?
        .with_checkpointing(request.gradient_checkpointing)
        .with_clock(placement.clock.clone())
        .with_peak(r1d_kernels::peak_operations(placement.device, model.kind())))
}
