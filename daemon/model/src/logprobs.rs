use crate::error::Result;
use tch::{Kind, Tensor};

/// Computes [`kept_logprobs`] over the whole vocabulary.
pub fn token_logprobs(logits: &Tensor, ids: &Tensor, temperature: f64) -> Result<Tensor> {
    kept_logprobs(logits, ids, temperature, None)
}

/// Computes the log-probability of each id under softmax(logits / temperature) over the ids in
/// `kept`, natural logarithm. Trainer and sampler both use this function (`ROLL-2`). The logits of
/// other ids get a gradient of 0.
///
/// `logits` `[N, V]` float, `ids` `[N]` int64, `kept` `[N, V]` bool (`None`: all) → float32 `[N]`;
/// −∞ if the id is not kept, NaN if the row keeps no id.
pub fn kept_logprobs(
    logits: &Tensor,
    ids: &Tensor,
    temperature: f64,
    kept: Option<&Tensor>,
) -> Result<Tensor> {
    let logits = logits.f_to_kind(Kind::Float)?;
    let scaled = if temperature == 1.0 {
        logits
    } else {
        logits.f_div_scalar(temperature)?
    };
    let scaled = match kept {
        Some(kept) => scaled.f_masked_fill(&kept.f_logical_not()?, f64::NEG_INFINITY)?,
        None => scaled,
    };
    Ok(scaled
        .f_log_softmax(-1, Kind::Float)?
        .f_gather(1, &ids.f_unsqueeze(1)?, false)?
        .f_squeeze_dim(1)?)
}
