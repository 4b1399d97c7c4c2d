//! Scaled dot-product attention over whole packed sequences, and of single queries over a cache.

use crate::error::Result;
use tch::{Device, Kind, Tensor};

/// Sequences longer than this are worth libtorch's fused kernel on the CPU; below, matmul–softmax–matmul is as fast and rounds less.
const FUSED_MIN_TOKENS: i64 = 128;

/// Rows that a matrix product has at least in batch-invariant mode: with fewer, libtorch takes other kernels, which round differently.
pub(crate) const INVARIANT_MIN_ROWS: i64 = 4;
const INVARIANT_KEYS_MULTIPLE: i64 = 32;

/// Keys that attention looks at in batch-invariant mode, so that the products of training and of decoding take the same kernels.
pub(crate) fn invariant_keys(tokens: i64) -> i64 {
    (tokens + INVARIANT_KEYS_MULTIPLE - 1) / INVARIANT_KEYS_MULTIPLE * INVARIANT_KEYS_MULTIPLE
}

/// Packed sequences and their padded `[B, L]` view, which attention alone needs.
pub(crate) struct PackedView {
    pub positions: Tensor,
    pub longest: i64,
    padded: i64,
    /// Absent where all sequences fill the padded view.
    padding: Option<Padding>,
    /// `[L, L]`: 0 where a query (row) sees a key (column), −∞ elsewhere. Padding lies behind each sequence, so causality hides it.
    mask: Tensor,
    invariant: bool,
}

struct Padding {
    /// Token of each padded place, `[B · L]`; any token where there is none.
    token: Tensor,
    /// Padded place of each token, `[T]`.
    place: Tensor,
}

impl PackedView {
    pub fn new(lengths: &[i64], invariant: bool, kind: Kind, device: Device) -> Result<PackedView> {
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let padded = if invariant { invariant_keys(longest) } else { longest };
        let on_device = |host: &[i64]| -> Result<Tensor> { Ok(Tensor::f_from_slice(host)?.f_to_device(device)?) };
        let positions: Vec<i64> = lengths.iter().flat_map(|&n| 0..n).collect();
        let padding = if lengths.iter().all(|&n| n == padded) {
            None
        } else {
            let mut token = vec![0; lengths.len() * padded as usize];
            let mut place = Vec::with_capacity(positions.len());
            for (sequence, &length) in lengths.iter().enumerate() {
                let start = sequence * padded as usize;
                for at in start..start + length as usize {
                    token[at] = place.len() as i64;
                    place.push(at as i64);
                }
            }
            Some(Padding { token: on_device(&token)?, place: on_device(&place)? })
        };
        let mask = Tensor::f_full([padded, padded], f64::NEG_INFINITY, (kind, device))?.f_triu(1)?;
        Ok(PackedView { positions: on_device(&positions)?, longest, padded, padding, mask, invariant })
    }

    /// `[T, H, d]` → `[B, H, L, d]`, a transposed view.
    fn pad(&self, packed: &Tensor) -> Result<Tensor> {
        let (_, heads, width) = packed.size3()?;
        let rows = match &self.padding {
            None => packed.shallow_clone(),
            Some(padding) => gather_rows(&packed.f_reshape([-1, heads * width])?, &padding.token)?,
        };
        Ok(rows.f_view([-1, self.padded, heads, width])?.f_transpose(1, 2)?)
    }

    /// `[B, H, L, d]` → `[T, H · d]`.
    fn unpad(&self, padded: &Tensor) -> Result<Tensor> {
        let (batch, heads, length, width) = padded.size4()?;
        let rows = padded.f_transpose(1, 2)?.f_reshape([batch * length, heads * width])?;
        match &self.padding {
            None => Ok(rows),
            Some(padding) => gather_rows(&rows, &padding.place),
        }
    }
}

/// `index_select` on rows by way of `embedding`, whose backward pass is several times faster on the CPU, and deterministic.
pub(crate) fn gather_rows(rows: &Tensor, index: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_embedding(rows, index, -1, false, false)?)
}

/// Causal attention of every token on its own sequence up to itself: softmax(scale · q kᵀ) v.
///
/// `query` `[T, H, d]`, `key` `[T, Hk, d]`, `value` `[T, Hk, dv]`, H a multiple of Hk (query head h uses key head h / (H/Hk)) →
/// `[T, H · dv]`.
pub(crate) fn causal(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64, view: &PackedView) -> Result<Tensor> {
    let (query, key, value) = (view.pad(query)?, view.pad(key)?, view.pad(value)?);
    let fused =
        !view.invariant && (query.device() != Device::Cpu || view.longest > FUSED_MIN_TOKENS) && query.kind() != Kind::Double;
    let attended =
        if fused { fused_causal(&query, &key, &value, scale)? } else { naive_causal(&query, &key, &value, scale, &view.mask)? };
    view.unpad(&attended)
}

fn fused_causal(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Result<Tensor> {
    let (_, heads, _, width) = query.size4()?;
    let (_, key_heads, _, value_width) = value.size4()?;
    // The fused kernels want one head size.
    let value = if value_width < width { value.f_constant_pad_nd([0, width - value_width])? } else { value.shallow_clone() };
    let no_mask: Option<&Tensor> = None;
    let attended = Tensor::f_scaled_dot_product_attention(query, key, &value, no_mask, 0.0, true, scale, heads != key_heads)?;
    Ok(if value_width < width { attended.f_narrow(3, 0, value_width)? } else { attended })
}

fn naive_causal(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64, mask: &Tensor) -> Result<Tensor> {
    let (batch, heads, length, width) = query.size4()?;
    let (_, key_heads, _, value_width) = value.size4()?;
    let group = heads / key_heads;
    // The queries that share a key head stand one below the other: keys and values are never copied per query head.
    let query = query.f_reshape([batch * key_heads, group * length, width])?;
    let key = key.f_reshape([batch * key_heads, length, width])?;
    let value = value.f_reshape([batch * key_heads, length, value_width])?;
    let mask = if group > 1 { mask.f_repeat([group, 1])? } else { mask.shallow_clone() };
    Ok(weigh(&query, &key, &value, &mask, scale)?.f_view([batch, heads, length, value_width])?)
}

/// softmax(mask + scale · q kᵀ) v: `[N, M, d]`, `[N, L, d]`, `[N, L, dv]`, a mask that expands to `[N, M, L]` → `[N, M, dv]`. The softmax
/// is computed in float32 at least.
pub(crate) fn weigh(query: &Tensor, key: &Tensor, value: &Tensor, mask: &Tensor, scale: f64) -> Result<Tensor> {
    let kind = query.kind();
    let scores = mask.f_baddbmm(query, &key.f_transpose(1, 2)?, 1.0, scale)?;
    let softmax_kind = if kind == Kind::Double { Kind::Double } else { Kind::Float };
    Ok(scores.f_softmax(-1, softmax_kind)?.f_to_kind(kind)?.f_bmm(value)?)
}

/// One query per sequence over its cached keys: `query` `[B, H, d]`, `key` `[B, Hk, L, d]`, `value` `[B, Hk, L, dv]`, `mask` `[B, 1, L]` →
/// `[B, H · dv]`.
pub(crate) fn single(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64, mask: &Tensor, invariant: bool) -> Result<Tensor> {
    let (batch, heads, width) = query.size3()?;
    let (_, key_heads, length, value_width) = value.size4()?;
    let group = heads / key_heads;
    let mut query = query.f_reshape([batch * key_heads, group, width])?;
    let rows = if invariant { group.max(INVARIANT_MIN_ROWS) } else { group };
    if rows > group {
        query = query.f_constant_pad_nd([0, 0, 0, rows - group])?;
    }
    let mask = mask.f_unsqueeze(1)?.f_expand([batch, key_heads, rows, length], false)?.f_reshape([-1, rows, length])?;
    let key = key.f_reshape([-1, length, width])?;
    let value = value.f_reshape([-1, length, value_width])?;
    let attended = weigh(&query, &key, &value, &mask, scale)?;
    Ok(attended.f_narrow(1, 0, group)?.f_reshape([batch, heads * value_width])?)
}
