use crate::error::Result;
use tch::{Kind, Tensor};

/// Log-probability of each id under softmax(logits / temperature), natural logarithm: the one function of trainer and sampler (`ROLL-2`).
///
/// `logits` `[N, V]` float, `ids` `[N]` int64 → float32 `[N]`.
pub fn token_logprobs(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    let logits = logits.f_to_kind(Kind::Float)?;
    let scaled = if temperature == 1.0 { logits } else { logits.f_div_scalar(temperature)? };
    Ok(scaled.f_log_softmax(-1, Kind::Float)?.f_gather(1, &ids.f_unsqueeze(1)?, false)?.f_squeeze_dim(1)?)
}
