//! Writes a model as a Hugging Face directory.

use super::file_sink::{FileSink, Folder};
use super::tensors::{byte_count, put_tensors};
use crate::causal_lm::CausalLm;
use crate::error::{ModelError, Result};
use crate::weights::{Piece, Weight};
use r1d_shape::{Config, EMBEDDING, HEAD};
use r1d_shape::{INDEX_FILE, SINGLE_FILE};
use serde_json::{Map, Value, json};
use std::path::Path;
use tch::{Kind, Tensor};

/// A tensor of a file, before it is read from the weight that contains it.
struct Part<'a> {
    name: String,
    weight: &'a Weight,
    piece: &'a Piece,
    bytes: u64,
}

/// Reads a piece of a weight.
pub(super) type Read<'a> = &'a dyn Fn(&Weight, &Piece) -> Result<Tensor>;

impl CausalLm {
    /// Writes config.json and the weights, with the adapters merged into them, into `dir`, which
    /// must exist: model.safetensors, or shards of at most `shard_bytes` (a larger tensor gets one
    /// of its own) with their index. transformers 4 and 5 can read it.
    pub fn save(&self, dir: &Path, shard_bytes: u64) -> Result<()> {
        self.save_as(dir, self.kind(), shard_bytes)
    }

    /// Writes the model like [`Self::save`], with the trained weights in another dtype.
    pub fn save_as(&self, dir: &Path, kind: Kind, shard_bytes: u64) -> Result<()> {
        self.put_as(&mut Folder::of(dir), Path::new(""), kind, shard_bytes)
    }

    /// Puts the files that [`Self::save`] writes into the folder `within` of a sink.
    pub fn put(&self, sink: &mut dyn FileSink, within: &Path, shard_bytes: u64) -> Result<()> {
        self.put_as(sink, within, self.kind(), shard_bytes)
    }

    fn put_as(
        &self,
        sink: &mut dyn FileSink,
        within: &Path,
        kind: Kind,
        shard_bytes: u64,
    ) -> Result<()> {
        let read = |weight: &Weight, piece: &Piece| {
            tch::no_grad(|| {
                let read = match self.lora() {
                    Some(lora) => piece.in_disk_order(lora.merged_piece(&weight.tensor, piece)?)?,
                    None => piece.read(&weight.tensor)?,
                };
                let read = read.f_to_kind(weight.kind_within(kind))?;
                if kind != self.kind() {
                    fits(&piece.name, &read)?;
                }
                Ok(read)
            })
        };
        let (config, weights) = (&self.config, self.weights());
        put_directory((config, weights), kind, (sink, within), shard_bytes, &read)
    }
}

/// Checks that values fit float16, whose range is the only one smaller than a model's.
pub(super) fn fits(name: &str, tensor: &Tensor) -> Result<()> {
    if tensor.kind() == Kind::Half && !bool::try_from(tensor.f_isfinite()?.f_all()?)? {
        return Err(ModelError::Input(format!(
            "tensor `{name}` does not fit into float16: use bfloat16"
        )));
    }
    Ok(())
}

/// Puts config.json, and the weights with the trained ones in `kind`, into a folder of a sink:
/// one file, or shards and their index.
pub(super) fn put_directory(
    (config, weights): (&Config, &[Weight]),
    kind: Kind,
    (sink, within): (&mut dyn FileSink, &Path),
    shard_bytes: u64,
    read: Read,
) -> Result<()> {
    let text = config.to_json(dtype_name(kind)?);
    sink.put_file(&within.join("config.json"), text.as_bytes())?;
    let taken_out = |shard: &[Part]| -> Result<Vec<(String, Tensor)>> {
        shard
            .iter()
            .map(|part| Ok((part.name.clone(), read(part.weight, part.piece)?)))
            .collect()
    };
    let shards = divide(config, weights, kind, shard_bytes);
    if let [only] = &shards[..] {
        return put_tensors(sink, &within.join(SINGLE_FILE), &taken_out(only)?);
    }
    let mut weight_map = Map::new();
    for (number, shard) in (1..).zip(&shards) {
        let file = format!("model-{number:05}-of-{:05}.safetensors", shards.len());
        put_tensors(sink, &within.join(&file), &taken_out(shard)?)?;
        weight_map.extend(
            shard
                .iter()
                .map(|part| (part.name.clone(), Value::from(file.as_str()))),
        );
    }
    let total: u64 = shards.iter().flatten().map(|part| part.bytes).sum();
    let index = json!({ "metadata": { "total_size": total }, "weight_map": weight_map });
    sink.put_file(&within.join(INDEX_FILE), format!("{index:#}\n").as_bytes())
}

/// The copies of embedding and head that accompany a multi-token prediction module in DeepSeek's
/// files.
fn repeated<'a>(config: &Config, weights: &'a [Weight]) -> Vec<(String, &'a Weight, &'a Piece)> {
    if !config.runs_prediction_module {
        return Vec::new();
    }
    let head = if config.tie_word_embeddings {
        EMBEDDING
    } else {
        HEAD
    };
    let shared = [
        (EMBEDDING, "embed_tokens.weight"),
        (head, "shared_head.head.weight"),
    ];
    let piece = |(of, name): (&str, &str)| {
        let weight = weights.iter().find(|weight| weight.name == of)?;
        Some((
            format!("model.layers.{}.{name}", config.num_hidden_layers),
            weight,
            weight.pieces.first()?,
        ))
    };
    shared.into_iter().filter_map(piece).collect()
}

/// Divides the tensors into shards, filled one after the other in the model's order.
fn divide<'a>(
    config: &Config,
    weights: &'a [Weight],
    kind: Kind,
    shard_bytes: u64,
) -> Vec<Vec<Part<'a>>> {
    let mut shards = vec![Vec::new()];
    let mut filled = 0;
    let pieces = weights
        .iter()
        .flat_map(|w| w.pieces.iter().map(move |p| (p.name.clone(), w, p)));
    for (name, weight, piece) in pieces.chain(repeated(config, weights)) {
        let bytes = byte_count(&piece.shape, weight.kind_within(kind));
        if filled > 0 && filled + bytes > shard_bytes {
            shards.push(Vec::new());
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.push(Part {
                name,
                weight,
                piece,
                bytes,
            });
        }
    }
    shards
}

/// The dtype's name in torch and in config.json.
fn dtype_name(kind: Kind) -> Result<&'static str> {
    match kind {
        Kind::Float => Ok("float32"),
        Kind::BFloat16 => Ok("bfloat16"),
        Kind::Half => Ok("float16"),
        Kind::Double => Ok("float64"),
        other => Err(ModelError::Input(format!(
            "a model of {other:?} cannot be saved"
        ))),
    }
}
