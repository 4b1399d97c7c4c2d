//! Converts one Hugging Face directory into another, and inspects one, a tensor at a time: the
//! whole model is never in memory.

use super::export;
use super::file_sink::Folder;
use super::shards::{Contents, finite, open};
use crate::causal_lm::weights_of;
use crate::error::Result;
use crate::weights::{Weight, own};
use r1d_shape::{Config, Head};
use std::path::Path;
use tch::Kind;

/// Checks config.json and the shards' headers: an error unless every tensor is there, in the right
/// shape and a float dtype, and no other tensor. With `values` all weights are read too and must be
/// finite.
pub fn inspect(dir: &Path, values: bool) -> Result<(Config, Contents)> {
    let (config, shards) = open(dir)?;
    shards.check(&config, Head::Stored)?;
    for piece in weights_of(&config)?
        .iter()
        .filter(|_| values)
        .flat_map(|weight| &weight.pieces)
    {
        shards.read(piece, |tensor| finite(dir, &piece.name, tensor))?;
    }
    let contents = shards.contents(|name| config.leaves_out(name));
    Ok((config, contents))
}

/// Writes the model of `from` into `to`, which must exist, with weights of `kind` (float32,
/// bfloat16 or float16; routers' correction biases and scalar heads stay float32) in shards of at
/// most `shard_bytes`. FP8 weights are dequantised; a multi-token prediction module is written too
/// if `prediction` is set.
pub fn convert(
    from: &Path,
    to: &Path,
    kind: Kind,
    shard_bytes: u64,
    prediction: bool,
) -> Result<()> {
    let (config, shards) = open(from)?;
    let config = if prediction {
        config.with_prediction()?
    } else {
        config
    };
    shards.check(&config, Head::Stored)?;
    let weights = weights_of(&config)?;
    export::put_directory(
        (&config, &weights),
        (0, 1),
        kind,
        (&mut Folder::of(to), Path::new("")),
        shard_bytes,
        &|weight: &Weight, piece| {
            let kind = weight.kind_within(kind);
            shards.read(piece, |tensor| {
                let copy = own(tensor, kind, tensor.device())?;
                export::fits(&piece.name, &copy)?;
                Ok(copy)
            })
        },
    )
}
