//! Opens what a stage needs on the device: its policy with the models beside it, or its reward
//! model.

use crate::device::{Model, Opened};
use crate::failure::{invalid, of_model, of_sampling, of_the_machine};
use crate::reward_model;
use crate::source::{Placement, check_contents, kind, sizes, trainer};
use r1d_kernels::TrainKernels;
use r1d_learn::Gang;
use r1d_model::{CausalLm, LoraSpec, Opening};
use r1d_proto::worker::{self, Failure, ModelSource, Open};
use r1d_sampler::Sampler;
use std::collections::BTreeMap;
use std::sync::Arc;
use tch::{Device, Kind};

/// Whether the stage needs the model's multi-token prediction module in memory.
fn opens_prediction(request: &Open) -> bool {
    request.mtp_loss_weight > 0.0 || request.speculative_decoding
}

/// Tries an FP8 product, because some devices have none.
fn check_fp8(device: Device) -> Result<(), Failure> {
    let ones = tch::Tensor::f_ones([16, 16], (Kind::BFloat16, device)).map_err(of_the_machine)?;
    let product = r1d_torch::fp8::linear(&ones, &ones).map_err(|e| {
        invalid(format!(
            "fp8 = true, and the device cannot: {e}: set it to false"
        ))
    })?;
    match f64::try_from(product.f_sum(Kind::Float).map_err(of_the_machine)?) {
        Ok(4096.0) => Ok(()),
        _ => Err(invalid(
            "fp8 = true, and the device's FP8 product of ones is wrong: set it to false",
        )),
    }
}

/// Threads of one tensor operation. With several, the split of an operation and so its rounding
/// depend on the number of rows, and on how many threads a device's worker was given.
fn threads(request: &Open, placement: &Placement) -> u32 {
    let is_independent = request.place.is_some_and(|place| place.layout_independent);
    if request.batch_invariant || is_independent {
        1
    } else {
        placement.threads
    }
}

/// Opens everything that the stage needs; what it trains, as one of the `gang` if there is one.
pub(crate) fn build(
    request: Open,
    placement: &Placement,
    gang: Option<&Gang>,
) -> Result<(Opened, worker::Opened), Failure> {
    let kind = kind(request.dtype);
    let threads = threads(&request, placement);
    r1d_torch::runtime::set_threads(threads).map_err(of_the_machine)?;
    r1d_torch::runtime::set_deterministic(true).map_err(of_the_machine)?;
    if request.scores {
        return reward_model::build(request, kind, placement, gang);
    }
    let policy = policy(&request, kind, placement, gang)?;
    let reference = if request.reference {
        Some(policy.deep_copy().map_err(of_model)?)
    } else {
        None
    };
    let trainer = match &request.optimiser {
        Some(optimiser) => Some(
            trainer(&policy, optimiser, &request, placement, gang)?
                .with_prediction(request.mtp_loss_weight),
        ),
        None => None,
    };
    let critic = reward_model::critic(&request, &policy, kind, placement, gang)?;
    let sampler = sampler(&request, &policy, placement)?;
    if request.batch_invariant {
        policy.check_invariance().map_err(of_model)?;
    }
    let sizes = sizes(&policy);
    Ok((
        Opened {
            request,
            model: Model::Policy(policy),
            reference,
            critic,
            reward_models: BTreeMap::new(),
            judges: BTreeMap::new(),
            trainer,
            sampler,
            snapshot_memory: None,
        },
        sizes,
    ))
}

/// Loads or initialises the policy, as the stage trains it.
fn policy(
    request: &Open,
    kind: Kind,
    placement: &Placement,
    gang: Option<&Gang>,
) -> Result<CausalLm, Failure> {
    let device = placement.device;
    let opening = Opening {
        prediction: opens_prediction(request),
        expert_group: gang.and_then(Gang::expert_group),
    };
    check_contents(&request.model)?;
    let mut policy = match &request.model {
        ModelSource::Directory(dir) => CausalLm::open(dir, &opening, device, kind),
        ModelSource::Init { config, .. } => {
            CausalLm::init_as(config, request.seed, &opening, device, kind)
        }
    }
    .map_err(of_model)?;
    if request.fp8 {
        check_fp8(device)?;
        policy.set_fp8(true);
    }
    if request.mtp_loss_weight == 0.0 {
        policy.freeze_prediction();
    }
    if let Some(lora) = &request.lora {
        let spec = LoraSpec {
            r: lora.r.into(),
            lora_alpha: lora.lora_alpha,
            target_modules: lora.target_modules.clone(),
        };
        policy.adapt(&spec, request.seed).map_err(of_model)?;
    }
    if placement.own_kernels && !request.batch_invariant {
        use_kernels(&mut policy);
    }
    Ok(policy)
}

/// Makes the policy's passes use r1d's own kernels where there are some. Where they cannot be used,
/// libtorch's operations do the same, slower; that is told.
fn use_kernels(policy: &mut CausalLm) {
    if !policy.device().is_cuda() || policy.kind() != Kind::BFloat16 {
        return;
    }
    match TrainKernels::open(policy.device()) {
        Ok(kernels) => policy.use_kernels(Arc::new(kernels)),
        Err(why) => {
            tracing::warn!("r1d's own kernels are not used, libtorch's operations train: {why}");
        }
    }
}

/// The stage's sampler, if it samples.
fn sampler(
    request: &Open,
    policy: &CausalLm,
    placement: &Placement,
) -> Result<Option<Sampler>, Failure> {
    let Some(slots) = request.sampler else {
        return Ok(None);
    };
    let sampler = Sampler::new(
        policy,
        slots,
        request.batch_invariant,
        placement.clock.clone(),
    );
    Ok(Some(
        sampler
            .map_err(of_sampling)?
            .with_own_kernels(placement.own_kernels)
            .with_speculation(request.speculative_decoding),
    ))
}
