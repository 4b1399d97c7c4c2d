//! Saves, restores and exports what is open.
//!
//! A checkpoint directory is a Hugging Face directory of the policy, plus `trainer.safetensors`
//! (optimiser moments and counters), which is in several files where ranks share it
//! (`trainer-00001-of-00004.safetensors`, …). A stage with a reference adds `reference/`, a Hugging
//! Face directory of its own; one that trains adapters adds `adapter/`; one with a value model adds
//! `value/`, which has optimiser's files of its own. A reward model takes the policy's place. The
//! directory appears whole or not at all (`CKP-1`), and any layout restores what any other wrote.

use crate::device::{Critic, DeviceState, Opened};
use crate::failure::{of_learning, of_model};
use crate::shares::{Part, Shares, trainer_files};
use r1d_learn::Trainer;
use r1d_model::checkpoint::{FileSink, Folder, Manifest};
use r1d_model::{CausalLm, ModelError, checkpoint, is_of_experts};
use r1d_proto::worker::{self, Failure, ModelSource};
use std::path::{Path, PathBuf};
use tch::Tensor;

/// Largest file of a saved model; transformers' default.
const SHARD_MAX_BYTES: u64 = 5_000_000_000;
const REFERENCE_DIRECTORY: &str = "reference";
/// The directory of a stage's trained adapters in peft's layout, beside the weights that they are
/// merged into.
const ADAPTER_DIRECTORY: &str = "adapter";
/// The directory of a stage's value model.
const VALUE_DIRECTORY: &str = "value";

/// The directory whose tokenizer belongs to the open model.
pub(crate) fn carried_from(request: &worker::Open) -> Option<PathBuf> {
    match &request.model {
        ModelSource::Directory(from) => Some(from.clone()),
        ModelSource::Init { carry, .. } => carry.clone(),
    }
}

/// Copies the tokenizer's files along with the weights, also into checkpoints: a later stage only
/// knows the checkpoint that it starts from.
pub(crate) fn carry_files(from: Option<&Path>, dir: &Path) -> Result<(), ModelError> {
    from.map_or(Ok(()), |from| checkpoint::carry_files(from, dir))
}

/// Puts the weights with adapters merged into them, and the adapters beside them.
fn put_model(opened: &Opened, part: Part, sink: &mut dyn FileSink) -> Result<(), ModelError> {
    let model = opened.model.weights();
    model.put(sink, Path::new(""), SHARD_MAX_BYTES)?;
    match model.adapter() {
        Some(_) => put_adapter(opened, part, model, sink, ADAPTER_DIRECTORY),
        None => Ok(()),
    }
}

/// Puts a model's adapters into a folder of their own. The first rank has those of all experts.
fn put_adapter(
    opened: &Opened,
    part: Part,
    model: &CausalLm,
    sink: &mut dyn FileSink,
    name: &str,
) -> Result<(), ModelError> {
    let within = Path::new(name);
    if part.is_first() {
        sink.folder(within)?;
    }
    model.put_adapter(sink, within, &base_model(&opened.request))
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
                Folder::of(into).folder(Path::new(ADAPTER_DIRECTORY))?;
                checkpoint::carry_adapter(&from, &into.join(ADAPTER_DIRECTORY))
            } else {
                Ok(())
            }
        }
        _ => Ok(()),
    }
}

/// Puts this worker's part of a checkpoint of what is open, without the files that it carries.
pub(crate) fn put_checkpoint(opened: &Opened, sink: &mut dyn FileSink) -> Result<(), ModelError> {
    let part = Part::of(&opened.request);
    if part.has_models() {
        put_model(opened, part, sink)?;
        put_reference(opened, part, sink)?;
    }
    if let Some(trainer) = &opened.trainer {
        put_trainer(trainer, part, sink, Path::new(""))?;
    }
    put_critic(opened, part, sink)
}

fn put_reference(opened: &Opened, part: Part, sink: &mut dyn FileSink) -> Result<(), ModelError> {
    let Some(reference) = &opened.reference else {
        return Ok(());
    };
    match reference.adapter() {
        Some(_) => put_adapter(opened, part, reference, sink, REFERENCE_DIRECTORY),
        None => {
            let within = Path::new(REFERENCE_DIRECTORY);
            sink.folder(within)?;
            reference.put(sink, within, SHARD_MAX_BYTES)
        }
    }
}

/// Puts a trainer's state into a folder, or this rank's share of it.
fn put_trainer(
    trainer: &Trainer,
    part: Part,
    sink: &mut dyn FileSink,
    within: &Path,
) -> Result<(), ModelError> {
    if !part.has_trainers() {
        return Ok(());
    }
    checkpoint::put_tensors(sink, &within.join(part.trainer_file()), &trainer.to_save())
}

/// Puts the value model and its optimiser, if the stage has one.
fn put_critic(opened: &Opened, part: Part, sink: &mut dyn FileSink) -> Result<(), ModelError> {
    let Some(critic) = &opened.critic else {
        return Ok(());
    };
    let within = Path::new(VALUE_DIRECTORY);
    sink.folder(within)?;
    if part.has_models() {
        critic.model.model().put(sink, within, SHARD_MAX_BYTES)?;
    }
    put_trainer(&critic.trainer, part, sink, within)
}

/// Reads a checkpoint into the open tensors, one after the other, so that restoring needs no more
/// memory than training.
pub(crate) fn restore(device_state: &mut DeviceState, dir: &Path) -> Result<(), Failure> {
    let opened = device_state.opened()?;
    let manifest = checkpoint::verify_manifest(dir).map_err(of_model)?;
    let weights = opened.model.weights();
    match weights.adapter() {
        // The weights under the adapters are as the stage found them, and open already.
        Some(_) => weights.restore_adapter(&dir.join(ADAPTER_DIRECTORY)),
        None => weights.restore(dir),
    }
    .map_err(of_model)?;
    if let Some(critic) = opened.critic.as_mut() {
        restore_critic(critic, dir, &manifest)?;
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
        Some(trainer) => restore_trainer(trainer, dir, &manifest, ""),
        None => Ok(()),
    }
}

/// Restores a trainer, or this rank's share of it, from what any layout wrote.
fn restore_trainer(
    trainer: &mut Trainer,
    dir: &Path,
    manifest: &Manifest,
    within: &str,
) -> Result<(), Failure> {
    let files = trainer_files(dir, manifest, within);
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    trainer.restore_shares(&files).map_err(of_learning)
}

/// Restores the value model from its part of a checkpoint.
fn restore_critic(critic: &mut Critic, dir: &Path, manifest: &Manifest) -> Result<(), Failure> {
    let model = critic.model.model();
    model
        .restore(&dir.join(VALUE_DIRECTORY))
        .map_err(of_model)?;
    restore_trainer(&mut critic.trainer, dir, manifest, VALUE_DIRECTORY)
}

/// Bytes of this worker's part of a checkpoint; 0 if it has none.
pub(crate) fn checkpoint_bytes(opened: &Opened) -> u64 {
    let part = Part::of(&opened.request);
    let critic = opened.critic.as_ref();
    let trainers = [
        opened.trainer.as_ref(),
        critic.map(|critic| &critic.trainer),
    ];
    let trainers = trainers.into_iter().flatten();
    let states = trainers.filter(|_| part.has_trainers());
    let states = bytes_of(states.flat_map(Trainer::to_save));
    if !part.has_models() {
        return states;
    }
    let models = [
        Some(opened.model.weights()),
        opened.reference.as_ref(),
        critic.map(|critic| critic.model.model()),
    ];
    let weights = models.into_iter().flatten().flat_map(CausalLm::parameters);
    let weights = weights.filter(|(name, _)| part.is_first() || is_of_experts(name));
    states + bytes_of(weights) + merged_bytes(opened.model.weights())
}

fn bytes_of(tensors: impl Iterator<Item = (String, Tensor)>) -> u64 {
    let bytes = |tensor: Tensor| (tensor.numel() * tensor.kind().elt_size_in_bytes()) as u64;
    tensors.map(|(_, tensor)| bytes(tensor)).sum()
}

/// Bytes of the weights that a model's adapters are merged into; its parameters are the adapters'.
fn merged_bytes(model: &CausalLm) -> u64 {
    match model.adapter() {
        Some(_) => model.summary().parameters * model.kind().elt_size_in_bytes() as u64,
        None => 0,
    }
}

/// Writes the policy as a Hugging Face directory. Of a gang the first rank does, with the files of
/// those that have other experts.
pub(crate) fn export(opened: &Opened, dir: &Path, shares: &Shares) -> Result<(), Failure> {
    let part = shares.part;
    if !part.is_first() {
        if part.has_models() {
            let written =
                shares.hand_over(dir, |into| put_model(opened, part, &mut Folder::of(into)));
            shares.tell(dir, &written)?;
            written?;
        }
        return Ok(());
    }
    let written = shares.write(dir, |into| {
        // The carried files come first, so that the model's own files (config.json) win.
        carry_files(carried_from(&opened.request).as_deref(), into)?;
        put_model(opened, part, &mut Folder::of(into))?;
        carry_adapter(&opened.request, into)
    });
    if written.is_err() {
        shares.give_up(dir);
    }
    written.map(drop)
}
