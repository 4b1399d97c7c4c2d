//! The policy actor: opens a stage's model, saves, restores and exports it.
//!
//! A checkpoint directory is a Hugging Face directory of the policy, plus `trainer.safetensors`
//! (optimiser moments and counters). A stage with a reference adds `reference/`, a Hugging Face
//! directory of its own; one that trains adapters adds `adapter/`; one with a value model adds
//! `value/`, which has an optimiser's file of its own. A reward model takes the policy's place. The
//! directory appears whole or not at all (`CKP-1`).

use crate::actors::scorer;
use crate::device::{DeviceState, DeviceThread, Model, Opened};
use crate::failure::{invalid, of_learning, of_model, of_sampling, of_the_machine, of_writing};
use crate::outbox::Outbox;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_learn::Trainer;
use r1d_model::{CausalLm, Config, LoraSpec, ModelError, checkpoint};
use r1d_proto::worker::{self, Dtype, Failure, ModelSource};
use r1d_proto::world::SharedClock;
use r1d_sampler::Sampler;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind};

/// Largest file of a saved model; transformers' default.
pub(super) const SHARD_MAX_BYTES: u64 = 5_000_000_000;
pub(super) const TRAINER_FILE: &str = "trainer.safetensors";
const REFERENCE_DIRECTORY: &str = "reference";
/// The directory of a stage's trained adapters in peft's layout, beside the weights that they are
/// merged into.
const ADAPTER_DIRECTORY: &str = "adapter";

/// Where this worker's tensors live, and the clock that its libraries use.
#[derive(Clone)]
pub(crate) struct Placement {
    pub device: Device,
    /// Threads of one tensor operation on the CPU, outside the batch-invariant mode.
    pub threads: u32,
    pub clock: SharedClock,
}

#[derive(Message)]
#[rtype(result = "Result<worker::Opened, Failure>")]
pub(crate) struct Open {
    pub request: Box<worker::Open>,
    pub outbox: Outbox,
}

/// Writes a checkpoint; the answer is the SHA-256 of its manifest.
#[derive(Message)]
#[rtype(result = "Result<String, Failure>")]
pub(crate) struct Save {
    pub dir: PathBuf,
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

/// Whether the stage needs the model's multi-token prediction module in memory.
fn opens_prediction(request: &worker::Open) -> bool {
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

fn build(
    request: worker::Open,
    placement: &Placement,
) -> Result<(Opened, worker::Opened), Failure> {
    let kind = kind(request.dtype);
    // With several threads, the split of an operation and so its rounding depend on the number of
    // rows.
    let threads = if request.batch_invariant {
        1
    } else {
        placement.threads
    };
    r1d_torch::runtime::set_threads(threads).map_err(of_the_machine)?;
    r1d_torch::runtime::set_deterministic(true).map_err(of_the_machine)?;
    if request.scores {
        return scorer::build(request, kind, placement);
    }
    let predicts = opens_prediction(&request);
    check_contents(&request.model)?;
    let mut policy = match &request.model {
        ModelSource::Directory(dir) if predicts => {
            CausalLm::load_with_prediction(dir, placement.device, kind)
        }
        ModelSource::Directory(dir) => CausalLm::load(dir, placement.device, kind),
        ModelSource::Init { config, .. } if predicts => {
            CausalLm::init_with_prediction(config, request.seed, placement.device, kind)
        }
        ModelSource::Init { config, .. } => {
            CausalLm::init(config, request.seed, placement.device, kind)
        }
    }
    .map_err(of_model)?;
    if request.fp8 {
        check_fp8(placement.device)?;
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
    let reference = if request.reference {
        Some(policy.deep_copy().map_err(of_model)?)
    } else {
        None
    };
    let trainer = match &request.optimiser {
        Some(optimiser) => {
            let trainer = Trainer::new(
                &policy,
                optimiser,
                request.router,
                request.max_tokens_per_device,
                request.batch_invariant,
            )
            .map_err(of_learning)?;
            Some(
                trainer
                    .with_prediction(request.mtp_loss_weight)
                    .with_clock(placement.clock.clone()),
            )
        }
        None => None,
    };
    let critic = scorer::critic(&request, &policy, kind, placement)?;
    let sampler = request.sampler.map(|slots| {
        Sampler::new(
            &policy,
            slots,
            request.batch_invariant,
            placement.clock.clone(),
        )
    });
    let sampler = sampler
        .transpose()
        .map_err(of_sampling)?
        .map(|sampler| sampler.with_speculation(request.speculative_decoding));
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
        },
        sizes,
    ))
}

/// Checks a directory against its manifest, if it has one: another stage's checkpoint must be as it
/// was written. A directory from elsewhere has none.
pub(super) fn check_contents(model: &ModelSource) -> Result<(), Failure> {
    match model {
        ModelSource::Directory(dir) if checkpoint::has_manifest(dir).map_err(of_model)? => {
            checkpoint::verify_manifest(dir).map(drop).map_err(of_model)
        }
        _ => Ok(()),
    }
}

pub(super) fn kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::Float32 => Kind::Float,
        Dtype::Bfloat16 => Kind::BFloat16,
    }
}

pub(super) fn sizes(model: &CausalLm) -> worker::Opened {
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

/// Copies the tokenizer's files along with the weights, also into checkpoints: a later stage only
/// knows the checkpoint that it starts from.
fn carry_files(request: &worker::Open, dir: &Path) -> Result<(), ModelError> {
    let from = match &request.model {
        ModelSource::Directory(from) => Some(from),
        ModelSource::Init { carry, .. } => carry.as_ref(),
    };
    from.map_or(Ok(()), |from| checkpoint::carry_files(from, dir))
}

/// Writes the weights with adapters merged into them, and the adapters beside them.
fn save_model(opened: &Opened, into: &Path) -> Result<(), ModelError> {
    let model = opened.model.weights();
    model.save(into, SHARD_MAX_BYTES)?;
    match model.adapter() {
        Some(_) => model.save_adapter(
            &created(into, ADAPTER_DIRECTORY)?,
            &base_model(&opened.request),
        ),
        None => Ok(()),
    }
}

pub(super) fn created(within: &Path, name: &str) -> Result<PathBuf, ModelError> {
    let dir = within.join(name);
    std::fs::create_dir(&dir).map_err(|source| checkpoint::io_error(&dir, source))?;
    Ok(dir)
}

/// The base model in an adapter's configuration.
fn base_model(request: &worker::Open) -> String {
    match &request.model {
        ModelSource::Directory(dir) => dir.display().to_string(),
        ModelSource::Init { .. } => String::new(),
    }
}

/// Copies the adapter of the checkpoint that the model was opened from, if this stage trains none:
/// it is merged into the weights.
fn carry_adapter(request: &worker::Open, into: &Path) -> Result<(), ModelError> {
    match &request.model {
        ModelSource::Directory(from) if request.lora.is_none() => {
            let from = from.join(ADAPTER_DIRECTORY);
            if from.is_dir() {
                checkpoint::carry_adapter(&from, &created(into, ADAPTER_DIRECTORY)?)
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

fn save(device_state: &mut DeviceState, dir: &Path) -> Result<String, Failure> {
    let opened = device_state.opened()?;
    let manifest = checkpoint::write_directory_atomically(dir, |into| {
        // The carried files come first, so that the model's own files (config.json) win.
        carry_files(&opened.request, into)?;
        save_model(opened, into)?;
        if let Some(trainer) = &opened.trainer {
            checkpoint::save_tensors(&into.join(TRAINER_FILE), &trainer.state())?;
        }
        if let Some(reference) = &opened.reference {
            let into = created(into, REFERENCE_DIRECTORY)?;
            match reference.adapter() {
                Some(_) => reference.save_adapter(&into, &base_model(&opened.request))?,
                None => reference.save(&into, SHARD_MAX_BYTES)?,
            }
        }
        scorer::save_critic(opened, into)
    })
    .map_err(of_writing)?;
    Ok(manifest.sha256)
}

/// Reads a checkpoint into the open tensors, one after the other, so that restoring needs no more
/// memory than training.
fn restore(device_state: &mut DeviceState, dir: &Path) -> Result<(), Failure> {
    let opened = device_state.opened()?;
    checkpoint::verify_manifest(dir).map_err(of_model)?;
    let weights = opened.model.weights();
    match weights.adapter() {
        // The weights under the adapters are as the stage found them, and open already.
        Some(_) => weights.restore_adapter(&dir.join(ADAPTER_DIRECTORY)),
        None => weights.restore(dir),
    }
    .map_err(of_model)?;
    if let Some(critic) = opened.critic.as_mut() {
        scorer::restore_critic(critic, dir)?;
    }
    if let Some(reference) = &opened.reference {
        let dir = dir.join(REFERENCE_DIRECTORY);
        match reference.adapter() {
            Some(_) => reference.restore_adapter(&dir),
            None => reference.restore(&dir),
        }
        .map_err(of_model)?;
    }
    match opened.trainer.as_mut() {
        Some(trainer) => trainer
            .restore(&dir.join(TRAINER_FILE))
            .map_err(of_learning),
        None => Ok(()),
    }
}

/// Bytes of everything that a checkpoint holds.
fn checkpoint_bytes(opened: &Opened) -> u64 {
    let critic = opened.critic.as_ref();
    let models = [
        Some(opened.model.weights()),
        opened.reference.as_ref(),
        critic.map(|critic| critic.model.model()),
    ];
    let trainers = [
        opened.trainer.as_ref(),
        critic.map(|critic| &critic.trainer),
    ];
    let tensors = models.into_iter().flatten().flat_map(CausalLm::parameters);
    let tensors = tensors.chain(trainers.into_iter().flatten().flat_map(Trainer::state));
    tensors
        .map(|(_, tensor)| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64)
        .sum()
}

/// Bytes that are read to open a directory's model, or made to initialise one. Files of a directory
/// with a manifest are read twice, because they are hashed first.
pub(super) fn reading_bytes(model: &ModelSource) -> u64 {
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

fn export(device_state: &mut DeviceState, dir: &Path) -> Result<(), Failure> {
    let opened = device_state.opened()?;
    checkpoint::write_directory_atomically(dir, |into| {
        carry_files(&opened.request, into)?;
        save_model(opened, into)?;
        carry_adapter(&opened.request, into)
    })
    .map_err(of_writing)?;
    Ok(())
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
                    let bytes = reading_bytes(&request.model);
                    let (opened, summary) = outbox
                        .during("loading", "bytes", bytes, |_| build(*request, &placement))?;
                    device_state.open = Some(opened);
                    Ok(summary)
                })
                .await
        })
    }
}

impl Handler<Save> for Policy {
    type Result = ResponseFuture<Result<String, Failure>>;

    fn handle(&mut self, Save { dir, outbox }: Save, _: &mut Self::Context) -> Self::Result {
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |device_state| {
                    // The bytes are written, and read again to be hashed.
                    let bytes = 2 * checkpoint_bytes(device_state.opened()?);
                    outbox.during("checkpointing", "bytes", bytes, |_| {
                        save(device_state, &dir)
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
        let device = self.device.clone();
        Box::pin(async move {
            device
                .run(move |device_state| {
                    outbox.during("exporting", "bytes", 0, |_| export(device_state, &dir))
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
