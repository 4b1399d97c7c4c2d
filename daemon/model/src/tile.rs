//! Matrix products of fixed shapes, for the batch-invariant mode (`ROLL-1`).
//!
//! Which kernel computes a product, and with it how each row is rounded, is chosen by the product's
//! sizes. Cut into tiles of always the same sizes, a row meets the same kernel whatever stands
//! beside it and however many there are. That a row's place within its tile does not matter either
//! is how the kernels at hand behave; [`crate::CausalLm::check_invariance`] makes sure of it on the
//! machine that computes.
//!
//! Element-wise functions need the same care: libtorch computes the last elements of a tensor,
//! those that do not fill its vectors, by other code. A pass therefore carries a multiple of
//! [`TILE_ROWS`] tokens, behind which some may be mere padding.

use crate::error::Result;
use tch::Tensor;

/// Rows of a product.
pub(crate) const TILE_ROWS: i64 = 32;
/// Keys that a query tile meets at a time.
pub(crate) const TILE_KEYS: i64 = 64;

pub(crate) fn whole_tiles(count: i64, tile: i64) -> i64 {
    (count + tile - 1) / tile * tile
}

/// x Wᵀ + b: `[T, K]`, `[N, K]`, `[N]` → `[T, N]`.
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
