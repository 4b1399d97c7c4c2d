//! Matrix products of fixed shapes, for the batch-invariant mode (`ROLL-1`).
//!
//! The sizes of a product decide which kernel computes it, and so how each row is rounded. If
//! products are cut into tiles of one size, a row gets the same kernel whatever the other rows are
//! and however many there are. A row's place within its tile does not matter either, but only
//! because the present kernels behave so; [`crate::CausalLm::check_invariance`] checks it on the
//! machine that computes.
//!
//! Element-wise functions need the same care: libtorch computes the last elements of a tensor,
//! which do not fill its vectors, by other code. A pass therefore has a multiple of [`TILE_ROWS`]
//! tokens, the last of which may be padding.

use crate::error::Result;
use tch::Tensor;

/// Rows of a product.
pub(crate) const TILE_ROWS: i64 = 32;
/// Keys that a tile of queries reads at a time.
pub(crate) const TILE_KEYS: i64 = 64;

pub(crate) fn whole_tiles(count: i64, tile: i64) -> i64 {
    (count + tile - 1) / tile * tile
}

/// Computes x Wᵀ + b: `[T, K]`, `[N, K]`, `[N]` → `[T, N]`.
pub(crate) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let rows = x.size2()?.0;
    let missing = whole_tiles(rows, TILE_ROWS) - rows;
    let x = if missing > 0 {
        x.f_constant_pad_nd([0, 0, 0, missing])?
    } else {
        x.shallow_clone()
    };
    let tiles = x.f_split(TILE_ROWS, 0)?;
    let products = tiles
        .iter()
        .map(|tile| Ok(tile.f_linear(weight, bias)?))
        .collect::<Result<Vec<_>>>()?;
    Ok(joined(products, 0)?.f_narrow(0, 0, rows)?)
}

pub(crate) fn joined(mut tiles: Vec<Tensor>, dim: i64) -> Result<Tensor> {
    Ok(if tiles.len() == 1 {
        tiles.swap_remove(0)
    } else {
        Tensor::f_cat(&tiles, dim)?
    })
}
