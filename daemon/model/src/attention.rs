//! Scaled dot-product attention over whole packed sequences, and of single queries over a cache.

use crate::error::Result;
use crate::packed::Span;
use crate::tile::{TILE_KEYS, TILE_ROWS, joined, whole_tiles};
use r1d_torch::attention::{self, Starts, varlen};
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Longest sequence on the CPU that uses matmul–softmax–matmul. Above it libtorch's fused kernel
/// pays; up to it, matmul–softmax–matmul is as fast and rounds less.
const FUSED_MIN_TOKENS: i64 = 128;

/// Shortest sequences, and widest heads, that attend by [`attention::even`].
const EVEN_MIN_TOKENS: i64 = 512;
const EVEN_HEAD_DIM_MAX: i64 = 128;

/// Packed sequences and their padded views, which only attention needs.
pub(crate) struct PackedView {
    pub positions: Tensor,
    pub longest: i64,
    bands: Vec<Band>,
    /// The sequences as they lie in the pass, for attention without padding, which needs no bands.
    unpadded: Option<Unpadded>,
    invariant: bool,
    /// Whether sequences of one length may attend by two libraries' kernels
    /// ([`attention::even`]).
    even: bool,
}

struct Unpadded {
    starts: Starts,
    /// The token of each key, those of a shared prefix once for each sequence; `None`: every token
    /// is one key.
    token: Option<Tensor>,
}

/// Neighbouring sequences of similar lengths, padded to the longest of them: `[B, L]`.
struct Band {
    /// Tokens that the band reads: its own, and before them those from the first shared prefix on.
    tokens: Range<i64>,
    padded: i64,
    /// `None` if all sequences fill the padded view with tokens of their own.
    padding: Option<Padding>,
    /// The mask `[L, L]`: 0 where a query (row) sees a key (column), −∞ elsewhere. Padding is
    /// behind each sequence, so causality hides it. `None` if attention masks by itself, because a
    /// long band's mask would be larger than everything else.
    mask: Option<Tensor>,
}

struct Padding {
    /// The token of each padded place, `[B · L]`, counted from the first that the band reads; any
    /// token for a place that has none.
    token: Tensor,
    /// The padded place of each of the band's own tokens.
    place: Tensor,
    /// Whether some token has several places.
    shares: bool,
}

/// Places that a band may hold beyond [`BAND_PLACES_PER_TOKEN`] times its tokens. For fewer places,
/// padding costs less than one more launch of kernels.
const BAND_SLACK_PLACES: i64 = 4096;
const BAND_PLACES_PER_TOKEN: f64 = 1.5;

/// The number of sequences in each band.
fn band_sizes(lengths: &[i64], slack: i64) -> Vec<usize> {
    let mut sizes = Vec::new();
    let (mut count, mut longest, mut tokens) = (0, 0, 0);
    for &length in lengths {
        let places = (count as i64 + 1) * length.max(longest);
        if count > 0
            && places as f64 > (tokens + length) as f64 * BAND_PLACES_PER_TOKEN + slack as f64
        {
            sizes.push(count);
            (count, longest, tokens) = (0, 0, 0);
        }
        (count, longest, tokens) = (count + 1, length.max(longest), tokens + length);
    }
    sizes.push(count);
    sizes
}

impl PackedView {
    pub(crate) fn new(
        spans: &[Span],
        invariant: bool,
        kind: Kind,
        device: Device,
    ) -> Result<PackedView> {
        PackedView::with_slack(spans, invariant, kind, device, BAND_SLACK_PLACES)
    }

    fn with_slack(
        spans: &[Span],
        invariant: bool,
        kind: Kind,
        device: Device,
        slack: i64,
    ) -> Result<PackedView> {
        let positions: Vec<i64> = spans
            .iter()
            .flat_map(|span| span.prefix_length()..span.length())
            .collect();
        let lengths: Vec<i64> = spans.iter().map(Span::length).collect();
        let (mut bands, mut rest) = (Vec::new(), spans);
        for size in band_sizes(&lengths, slack) {
            let (own, after) = rest.split_at(size);
            bands.push(Band::new(own, invariant, kind, device)?);
            rest = after;
        }
        let longest = lengths.iter().copied().max().unwrap_or(0);
        Ok(PackedView {
            positions: Tensor::f_from_slice(&positions)?.f_to_device(device)?,
            longest,
            bands,
            unpadded: None,
            invariant,
            even: false,
        })
    }

    /// The view for attention without padding, on a GPU.
    pub(crate) fn unpadded(spans: &[Span], device: Device) -> Result<PackedView> {
        let starts = |lengths: &mut dyn Iterator<Item = i64>| -> Result<(Tensor, i64)> {
            let (mut at, mut starts, mut longest) = (0, vec![0i32], 0);
            for length in lengths {
                at += length;
                longest = length.max(longest);
                starts.push(at as i32);
            }
            Ok((Tensor::f_from_slice(&starts)?.f_to_device(device)?, longest))
        };
        let own = |span: &Span| span.length() - span.prefix_length();
        let (queries, longest_query) = starts(&mut spans.iter().map(own))?;
        let (keys, longest_key) = starts(&mut spans.iter().map(Span::length))?;
        let on_device = |host: Vec<i64>| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(&host)?.f_to_device(device)?)
        };
        let token = if spans.iter().all(|span| span.prefix.is_empty()) {
            None
        } else {
            Some(on_device(spans.iter().flat_map(Span::tokens).collect())?)
        };
        let positions = spans
            .iter()
            .flat_map(|span| span.prefix_length()..span.length());
        Ok(PackedView {
            positions: on_device(positions.collect())?,
            longest: longest_key,
            bands: Vec::new(),
            unpadded: Some(Unpadded {
                starts: Starts {
                    queries,
                    keys,
                    longest_query,
                    longest_key,
                },
                token,
            }),
            invariant: false,
            even: false,
        })
    }

    /// The view for a pass whose keys no cache needs, on a GPU that r1d's own kernels are for.
    pub(crate) fn for_training(self) -> PackedView {
        PackedView { even: true, ..self }
    }
}

impl Unpadded {
    /// [`causal`] without padding.
    fn causal(&self, query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Result<Tensor> {
        let of_keys = |t: &Tensor| -> Result<Tensor> {
            let (_, heads, width) = t.size3()?;
            match &self.token {
                Some(token) => Ok(gather_rows(&t.f_reshape([-1, heads * width])?, token)?
                    .f_view([-1, heads, width])?),
                None => Ok(t.shallow_clone()),
            }
        };
        let (key, value) = (of_keys(key)?, of_keys(value)?);
        Ok(varlen(query, &key, &value, &self.starts, scale)?.f_flatten(1, 2)?)
    }
}

/// Whether padding would be needed to see these sequences side by side.
pub(crate) fn are_uneven(spans: &[Span]) -> bool {
    let longest = spans.iter().map(Span::length).max().unwrap_or(0);
    let fills = |span: &Span| span.length() == longest && span.prefix.is_empty();
    !spans.iter().all(fills)
}

impl Band {
    fn new(spans: &[Span], invariant: bool, kind: Kind, device: Device) -> Result<Band> {
        let longest = spans.iter().map(Span::length).max().unwrap_or(0);
        let first = spans.iter().map(Span::start).min().unwrap_or(0);
        let tokens = first..spans.last().map_or(first, |span| span.own.end);
        let padded = if invariant {
            whole_tiles(longest, TILE_KEYS)
        } else {
            longest
        };
        let on_device = |host: &[i64]| -> Result<Tensor> {
            Ok(Tensor::f_from_slice(host)?.f_to_device(device)?)
        };
        let padding = if spans
            .iter()
            .all(|span| span.length() == padded && span.prefix.is_empty())
        {
            None
        } else {
            let mut token = vec![0; spans.len() * padded as usize];
            let mut place = Vec::new();
            for (row, span) in token.chunks_mut(padded as usize).zip(spans) {
                row.iter_mut()
                    .zip(span.tokens())
                    .for_each(|(place, token)| *place = token - first);
            }
            for (start, span) in (0..).step_by(padded as usize).zip(spans) {
                place.extend(start + span.prefix_length()..start + span.length());
            }
            let shares = spans.iter().any(|span| !span.prefix.is_empty());
            Some(Padding {
                token: on_device(&token)?,
                place: on_device(&place)?,
                shares,
            })
        };
        let fused = (device != Device::Cpu || longest > FUSED_MIN_TOKENS) && kind != Kind::Double;
        let mask = if invariant || fused {
            None
        } else {
            Some(Tensor::f_full([padded, padded], f64::NEG_INFINITY, (kind, device))?.f_triu(1)?)
        };
        Ok(Band {
            tokens,
            padded,
            padding,
            mask,
        })
    }

    /// Pads the band's part of `[T, H, d]` → `[B, H, L, d]`, a transposed view.
    fn pad(&self, packed: &Tensor) -> Result<Tensor> {
        let (_, heads, width) = packed.size3()?;
        let packed = packed.f_narrow(0, self.tokens.start, self.tokens.end - self.tokens.start)?;
        let rows = match &self.padding {
            None => packed.f_reshape([-1, heads * width])?,
            Some(padding) => {
                let rows = packed.f_reshape([-1, heads * width])?;
                // Gradients of a shared token are summed one by one, on the CPU in the tensor's own
                // dtype.
                let narrow =
                    padding.shares && rows.kind() == Kind::BFloat16 && rows.device() == Device::Cpu;
                let wide = if narrow {
                    rows.f_to_kind(Kind::Float)?
                } else {
                    rows.shallow_clone()
                };
                gather_rows(&wide, &padding.token)?.f_to_kind(rows.kind())?
            }
        };
        Ok(rows
            .f_view([-1, self.padded, heads, width])?
            .f_transpose(1, 2)?)
    }

    /// Removes the padding: `[B, H, L, d]` → `[own tokens, H · d]`.
    fn unpad(&self, padded: &Tensor) -> Result<Tensor> {
        let (batch, heads, length, width) = padded.size4()?;
        let rows = padded
            .f_transpose(1, 2)?
            .f_reshape([batch * length, heads * width])?;
        match &self.padding {
            None => Ok(rows),
            Some(padding) => gather_rows(&rows, &padding.place),
        }
    }
}

/// Selects rows like `index_select`, but through `embedding`, whose backward pass is deterministic
/// and several times faster on the CPU.
pub(crate) fn gather_rows(rows: &Tensor, index: &Tensor) -> Result<Tensor> {
    Ok(Tensor::f_embedding(rows, index, -1, false, false)?)
}

/// Causal attention of every token to its own sequence up to itself: softmax(scale · q kᵀ) v.
///
/// `query` `[T, H, d]`, `key` `[T, Hk, d]`, `value` `[T, Hk, dv]`, H a multiple of Hk (query head h
/// uses key head h / (H/Hk)) → `[T, H · dv]`.
pub(crate) fn causal(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
    view: &PackedView,
) -> Result<Tensor> {
    if let Some(unpadded) = &view.unpadded {
        return unpadded.causal(query, key, value, scale);
    }
    let of_band = |band: &Band| -> Result<Tensor> {
        let (query, key, value) = (band.pad(query)?, band.pad(key)?, band.pad(value)?);
        let attended = match &band.mask {
            _ if view.invariant => tiled_causal(&query, &key, &value, scale)?,
            Some(mask) => naive_causal(&query, &key, &value, scale, mask)?,
            None if view.even && band.padding.is_none() && are_even(&query, &value)? => {
                attention::even(&query, &key, &value, scale)?
            }
            None => fused_causal(&query, &key, &value, scale)?,
        };
        band.unpad(&attended)
    };
    joined(view.bands.iter().map(of_band).collect::<Result<_>>()?, 0)
}

/// Whether [`attention::even`] takes these sequences. A few short ones are not worth its plans, of
/// which each new shape needs one.
fn are_even(query: &Tensor, value: &Tensor) -> Result<bool> {
    let (batch, _, length, width) = query.size4()?;
    Ok(batch > 1
        && length >= EVEN_MIN_TOKENS
        && width == value.size4()?.3
        && width % 8 == 0
        && width <= EVEN_HEAD_DIM_MAX)
}

fn fused_causal(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Result<Tensor> {
    let (_, heads, _, width) = query.size4()?;
    let (_, key_heads, _, value_width) = value.size4()?;
    // The fused kernels need one head size.
    let value = if value_width < width {
        value.f_constant_pad_nd([0, width - value_width])?
    } else {
        value.shallow_clone()
    };
    // The only float32 kernel on a GPU that does not store all scores does not support groups.
    let repeats =
        heads != key_heads && query.kind() == Kind::Float && query.device() != Device::Cpu;
    let (key, value) = if repeats {
        (
            repeat_heads(key, heads / key_heads)?,
            repeat_heads(&value, heads / key_heads)?,
        )
    } else {
        (key.shallow_clone(), value)
    };
    let (no_mask, grouped): (Option<&Tensor>, bool) = (None, heads != key_heads && !repeats);
    let attended = Tensor::f_scaled_dot_product_attention(
        query, &key, &value, no_mask, 0.0, true, scale, grouped,
    )?;
    Ok(if value_width < width {
        attended.f_narrow(3, 0, value_width)?
    } else {
        attended
    })
}

/// Repeats each head `times` times, one copy behind the other: `[B, Hk, L, d]` → `[B, Hk · times,
/// L, d]`.
fn repeat_heads(t: &Tensor, times: i64) -> Result<Tensor> {
    let (batch, heads, length, width) = t.size4()?;
    Ok(t.f_unsqueeze(2)?
        .f_expand([batch, heads, times, length, width], false)?
        .f_reshape([batch, heads * times, length, width])?)
}

fn naive_causal(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
    mask: &Tensor,
) -> Result<Tensor> {
    let (batch, heads, length, width) = query.size4()?;
    let (_, key_heads, _, value_width) = value.size4()?;
    let group = heads / key_heads;
    // The queries that share a key head form the rows of one matrix, so keys and values are never
    // copied per query head.
    let query = query.f_reshape([batch * key_heads, group * length, width])?;
    let key = key.f_reshape([batch * key_heads, length, width])?;
    let value = value.f_reshape([batch * key_heads, length, value_width])?;
    let mask = if group > 1 {
        mask.f_repeat([group, 1])?
    } else {
        mask.shallow_clone()
    };
    Ok(weigh(&query, &key, &value, &mask, scale)?.f_view([batch, heads, length, value_width])?)
}

/// The same as [`naive_causal`], but one tile of queries at a time over the keys that it can see.
fn tiled_causal(query: &Tensor, key: &Tensor, value: &Tensor, scale: f64) -> Result<Tensor> {
    let (batch, heads, length, width) = query.size4()?;
    let (_, key_heads, _, value_width) = value.size4()?;
    let group = heads / key_heads;
    let key = key.f_reshape([batch * key_heads, length, width])?;
    let value = value.f_reshape([batch * key_heads, length, value_width])?;
    let tile = |start: i64| -> Result<Tensor> {
        let seen = whole_tiles(start + TILE_ROWS, TILE_KEYS);
        let query = query.f_narrow(2, start, TILE_ROWS)?.f_reshape([
            batch * key_heads,
            group * TILE_ROWS,
            width,
        ])?;
        let mask = Tensor::f_full(
            [TILE_ROWS, seen],
            f64::NEG_INFINITY,
            (query.kind(), query.device()),
        )?
        .f_triu(start + 1)?;
        let mask = if group > 1 {
            mask.f_repeat([group, 1])?
        } else {
            mask
        };
        let (key, value) = (key.f_narrow(1, 0, seen)?, value.f_narrow(1, 0, seen)?);
        Ok(weigh_in_tiles(&query, &key, &value, &mask, scale)?.f_view([
            batch,
            heads,
            TILE_ROWS,
            value_width,
        ])?)
    };
    joined(
        (0..length)
            .step_by(TILE_ROWS as usize)
            .map(tile)
            .collect::<Result<_>>()?,
        2,
    )
}

/// The same as [`weigh`], but one tile of keys at a time, whose contributions are added in order:
/// masked keys behind the last visible one add zeros, so a query's bits do not depend on their
/// number.
fn weigh_in_tiles(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    let tiles = |t: &Tensor, dim: i64| t.f_split(TILE_KEYS, dim);
    let scores = tiles(key, 1)?
        .iter()
        .zip(tiles(mask, -1)?)
        .map(|(key, mask)| Ok(mask.f_baddbmm(query, &key.f_transpose(1, 2)?, 1.0, scale)?))
        .collect::<Result<_>>()?;
    let weights = softmax(&joined(scores, -1)?)?;
    let mut sum: Option<Tensor> = None;
    for (weights, value) in tiles(&weights, -1)?.iter().zip(tiles(value, 1)?) {
        let part = weights.f_bmm(&value)?;
        sum = Some(match sum {
            Some(sum) => sum.f_add(&part)?,
            None => part,
        });
    }
    sum.ok_or_else(|| crate::ModelError::Input("attention over no keys".into()))
}

/// Computes softmax(mask + scale · q kᵀ) v: `[N, M, d]`, `[N, L, d]`, `[N, L, dv]`, a mask that
/// expands to `[N, M, L]` → `[N, M, dv]`.
fn weigh(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    mask: &Tensor,
    scale: f64,
) -> Result<Tensor> {
    Ok(softmax(&mask.f_baddbmm(query, &key.f_transpose(1, 2)?, 1.0, scale)?)?.f_bmm(value)?)
}

/// Softmax over the last dimension, in float32 at least.
fn softmax(scores: &Tensor) -> Result<Tensor> {
    let kind = if scores.kind() == Kind::Double {
        Kind::Double
    } else {
        Kind::Float
    };
    Ok(scores.f_softmax(-1, kind)?.f_to_kind(scores.kind())?)
}

/// The places of its slot that each query of a decoding step sees.
pub(crate) enum CacheView {
    /// Places up to these positions, int64 `[B]`, for the CPU's kernel that reads a cache once.
    UpTo(Tensor),
    /// 0 where a query sees a place, −∞ elsewhere, `[B, 1, L]`, for libtorch's products.
    Mask(Tensor),
    /// The same mask, for products in tiles.
    MaskOfTiles(Tensor),
}

impl CacheView {
    /// The view of `count` queries from `start` on.
    fn narrow(&self, start: i64, count: i64) -> Result<CacheView> {
        let narrow = |t: &Tensor| t.f_narrow(0, start, count);
        Ok(match self {
            CacheView::UpTo(positions) => CacheView::UpTo(narrow(positions)?),
            CacheView::Mask(mask) => CacheView::Mask(narrow(mask)?),
            CacheView::MaskOfTiles(mask) => CacheView::MaskOfTiles(narrow(mask)?),
        })
    }
}

/// Attention of a decoding step's queries over the cached keys: `query` `[n · B, H, d]`, `key` `[B,
/// Hk, L, d]`, `value` `[B, Hk, L, dv]` → `[n · B, H, dv]`. Query i belongs to slot i mod B.
pub(crate) fn step(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
    seen: &CacheView,
) -> Result<Tensor> {
    let (queries, slots) = (query.size()[0], key.size()[0]);
    if queries == slots {
        return single(query, key, value, scale, seen);
    }
    let of_one = |start: usize| {
        single(
            &query.f_narrow(0, start as i64, slots)?,
            key,
            value,
            scale,
            &seen.narrow(start as i64, slots)?,
        )
    };
    joined(
        (0..queries as usize)
            .step_by(slots as usize)
            .map(of_one)
            .collect::<Result<_>>()?,
        0,
    )
}

/// Attention of one query per sequence over its cached keys: `query` `[B, H, d]`, `key` `[B, Hk, L,
/// d]`, `value` `[B, Hk, L, dv]` → `[B, H, dv]`.
fn single(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
    seen: &CacheView,
) -> Result<Tensor> {
    let (mask, rows) = match seen {
        CacheView::UpTo(positions) => {
            return Ok(r1d_torch::attention::decode(
                query, key, value, positions, scale,
            )?);
        }
        CacheView::Mask(mask) => (mask, 1),
        // Each query is the first row of its own tile.
        CacheView::MaskOfTiles(mask) => (mask, TILE_ROWS),
    };
    let (batch, heads, width) = query.size3()?;
    let (_, key_heads, length, value_width) = value.size4()?;
    let group = heads / key_heads;
    let mut query = query.f_reshape([batch * key_heads, group, 1, width])?;
    if rows > 1 {
        query = query.f_constant_pad_nd([0, 0, 0, rows - 1])?;
    }
    let query = query.f_reshape([batch * key_heads, group * rows, width])?;
    let mask = mask
        .f_unsqueeze(1)?
        .f_expand([batch, key_heads, 1, length], false)?
        .f_reshape([-1, 1, length])?;
    let key = key.f_reshape([-1, length, width])?;
    let value = value.f_reshape([-1, length, value_width])?;
    let attended = match seen {
        CacheView::MaskOfTiles(_) => weigh_in_tiles(&query, &key, &value, &mask, scale)?,
        _ => weigh(&query, &key, &value, &mask, scale)?,
    };
    let attended = attended
        .f_view([batch * key_heads, group, rows, value_width])?
        .f_select(2, 0)?;
    Ok(attended.f_reshape([batch, heads, value_width])?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packed::Packed;

    #[test]
    fn bands_hold_neighbours_of_like_length() {
        assert_eq!(band_sizes(&[5, 4, 4, 3], 0), [4]);
        assert_eq!(
            band_sizes(&[4096, 128, 128, 128], BAND_SLACK_PLACES),
            [2, 2]
        );
        assert_eq!(band_sizes(&[100, 10, 10, 10, 100], 0), [1, 3, 1]);
        assert_eq!(band_sizes(&[100, 10, 10, 10, 100], 4096), [5]);
    }

    #[test]
    fn repeated_heads_are_those_of_their_group() {
        let random = |heads: i64, seed: f64| {
            let count = 2 * heads * 5 * 8;
            (Tensor::arange(count, (Kind::Float, Device::Cpu)) * 0.731 + seed)
                .sin()
                .view([2, heads, 5, 8])
        };
        let (query, key, value) = (random(6, 1.0), random(2, 2.0), random(2, 3.0));
        let attend = |key: &Tensor, value: &Tensor, grouped| {
            Tensor::scaled_dot_product_attention(
                &query,
                key,
                value,
                None::<&Tensor>,
                0.0,
                true,
                0.3,
                grouped,
            )
        };
        let repeated = attend(
            &repeat_heads(&key, 3).unwrap(),
            &repeat_heads(&value, 3).unwrap(),
            false,
        );
        let difference =
            f64::try_from((repeated - attend(&key, &value, true)).abs().max()).unwrap();
        assert!(difference < 1e-6, "{difference:e}");
    }

    #[test]
    fn attention_does_not_depend_on_the_bands() {
        let lengths = [9, 8, 3, 2, 2, 1, 7];
        let tokens = lengths.iter().sum::<i64>();
        let spans = Packed::new(Tensor::from_slice(&[0i64]), lengths.to_vec()).spans();
        let random = |heads: i64, width: i64, seed: i64| {
            (Tensor::arange(tokens * heads * width, (Kind::Double, Device::Cpu))
                * (0.37 + seed as f64))
                .sin()
                .view([tokens, heads, width])
        };
        let (query, key, value) = (random(4, 6, 1), random(2, 6, 2), random(2, 5, 3));
        let attended = |slack: i64| {
            let view =
                PackedView::with_slack(&spans, false, Kind::Double, Device::Cpu, slack).unwrap();
            (
                causal(&query, &key, &value, 0.4, &view).unwrap(),
                view.bands.len(),
            )
        };
        let ((split, several), (whole, one)) = (attended(0), attended(4096));
        assert!(several > 2 && one == 1);
        assert!(f64::try_from((split - whole).abs().max()).unwrap() < 1e-12);
    }
}
