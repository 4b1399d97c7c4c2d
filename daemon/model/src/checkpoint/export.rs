//! Writes a model as a Hugging Face directory.

use super::file_sink::{FileSink, Folder};
use super::tensors::{byte_count, put_tensors};
use crate::causal_lm::{CausalLm, weights_of};
use crate::error::{ModelError, Result};
use crate::weights::{Piece, Weight};
use r1d_shape::{Config, EMBEDDING, HEAD};
use r1d_shape::{INDEX_FILE, SINGLE_FILE};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::path::Path;
use tch::{Kind, Tensor};

/// A tensor of a file, before it is read from the weight that contains it.
struct Part<'a> {
    name: String,
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
        let owner = self
            .expert_group()
            .map(|group| (group.rank(), group.ranks()));
        put_directory(
            (&self.config, self.weights()),
            owner.unwrap_or((0, 1)),
            kind,
            (sink, within),
            shard_bytes,
            &read,
        )
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
/// one file, or shards and their index. Of a model whose experts are on several ranks, each puts
/// the files of its own experts, and the first all else; `rank` of `ranks` puts its part.
pub(super) fn put_directory(
    (config, weights): (&Config, &[Weight]),
    (rank, ranks): (i64, i64),
    kind: Kind,
    (sink, within): (&mut dyn FileSink, &Path),
    shard_bytes: u64,
    read: Read,
) -> Result<()> {
    if rank == 0 {
        let text = config.to_json(dtype_name(kind)?);
        sink.put_file(&within.join("config.json"), text.as_bytes())?;
    }
    let whole;
    let all = if ranks == 1 {
        weights
    } else {
        whole = weights_of(config)?;
        &whole[..]
    };
    let shards = divide(config, all, ranks, kind, shard_bytes);
    let here = weights
        .iter()
        .flat_map(|w| w.pieces.iter().map(move |p| (&p.name, (w, p))));
    let here: HashMap<&String, (&Weight, &Piece)> = here.collect();
    let taken_out = |shard: &FileShard| -> Result<Vec<(String, Tensor)>> {
        let of = |part: &Part| match here.get(&part.piece.name) {
            Some((weight, piece)) => Ok((part.name.clone(), read(weight, piece)?)),
            None => Err(ModelError::Input(format!(
                "the model has no `{}`",
                part.piece.name
            ))),
        };
        shard.parts.iter().map(of).collect()
    };
    let file_of = |number: usize| match shards.len() {
        1 => SINGLE_FILE.to_owned(),
        count => format!("model-{number:05}-of-{count:05}.safetensors"),
    };
    let mut weight_map = Map::new();
    for (number, shard) in (1..).zip(&shards) {
        let file = file_of(number);
        if shard.owner == rank {
            put_tensors(sink, &within.join(&file), &taken_out(shard)?)?;
        }
        let names = shard.parts.iter().map(|part| part.name.clone());
        weight_map.extend(names.map(|name| (name, Value::from(file.as_str()))));
    }
    if rank > 0 || shards.len() == 1 {
        return Ok(());
    }
    let parts = shards.iter().flat_map(|shard| &shard.parts);
    let total: u64 = parts.map(|part| part.bytes).sum();
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

/// A file of a directory.
struct FileShard<'a> {
    /// The rank that has its tensors.
    owner: i64,
    parts: Vec<Part<'a>>,
}

/// The rank of `ranks` that writes a piece: of an expert the one that has it, else the first.
fn owner(weight: &Weight, piece: &Piece, ranks: i64) -> i64 {
    match (piece.expert(), weight.shape.first()) {
        (Some(expert), Some(experts)) => expert * ranks / experts,
        _ => 0,
    }
}

/// Divides the tensors into shards, filled one after the other in the model's order, those of one
/// rank behind those of the rank before.
fn divide<'a>(
    config: &Config,
    weights: &'a [Weight],
    ranks: i64,
    kind: Kind,
    shard_bytes: u64,
) -> Vec<FileShard<'a>> {
    let shard = |owner| FileShard {
        owner,
        parts: Vec::new(),
    };
    let mut shards = vec![shard(0)];
    let mut filled = 0;
    let pieces = weights
        .iter()
        .flat_map(|w| w.pieces.iter().map(move |p| (p.name.clone(), w, p)));
    let pieces = pieces.chain(repeated(config, weights));
    let mut pieces: Vec<_> = pieces
        .map(|(name, weight, piece)| (owner(weight, piece, ranks), name, weight, piece))
        .collect();
    pieces.sort_by_key(|(owner, ..)| *owner);
    for (owner, name, weight, piece) in pieces {
        let bytes = byte_count(&piece.shape, weight.kind_within(kind));
        let is_others = shards.last().is_some_and(|shard| shard.owner != owner);
        if is_others || filled > 0 && filled + bytes > shard_bytes {
            shards.push(shard(owner));
            filled = 0;
        }
        filled += bytes;
        if let Some(shard) = shards.last_mut() {
            shard.parts.push(Part { name, piece, bytes });
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

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = r#"{"model_type": "qwen3_moe", "vocab_size": 96, "hidden_size": 32,
        "intermediate_size": 48, "moe_intermediate_size": 16, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "num_experts": 12,
        "num_experts_per_tok": 2}"#;

    /// Each rank has its own experts in files of its own, the first all else; every tensor is in
    /// one file, and no file is larger than it may be.
    #[test]
    fn files_are_of_one_rank_each() {
        let config = Config::parse(CONFIG).unwrap();
        let weights = weights_of(&config).unwrap();
        let all: usize = weights.iter().map(|weight| weight.pieces.len()).sum();
        for (ranks, bytes) in [(1, u64::MAX), (3, u64::MAX), (4, 9000), (1, 9000)] {
            let shards = divide(&config, &weights, ranks, Kind::Float, bytes);
            if bytes == u64::MAX {
                assert_eq!(shards.len() as i64, ranks);
            }
            let mut seen = 0;
            for shard in &shards {
                let size: u64 = shard.parts.iter().map(|part| part.bytes).sum();
                assert!(size <= bytes || shard.parts.len() == 1, "{size} bytes");
                for part in &shard.parts {
                    let experts = 12 / ranks;
                    let owner = part.piece.expert().map_or(0, |expert| expert / experts);
                    assert_eq!(shard.owner, owner, "{}", part.name);
                    seen += 1;
                }
            }
            assert_eq!(seen, all);
            assert!(shards.is_sorted_by_key(|shard| shard.owner));
        }
    }
}
