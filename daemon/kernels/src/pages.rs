//! The cache that kernels of a decoding step read and write: pages of [`PAGE_TOKENS`] tokens.

use crate::error::Result;
use crate::operands::Operands;
use tch::{Kind, Tensor};

/// Tokens of a page; `common.cuh` has the same number.
pub const PAGE_TOKENS: i64 = 64;

/// A layer's cache. A captured kernel reads it through memory of a fixed place, so pages and even
/// the cache itself may move between two replays.
pub struct CachePages<'a> {
    /// Addresses of the layer's keys and values `[pages, key_heads, PAGE_TOKENS, head_dim]`, or of
    /// its latents `[pages, 1, PAGE_TOKENS, width]`; int64 `[2]` or `[1]`.
    pub memory: &'a Tensor,
    /// The pages of each row by the order of its tokens, int32 `[B, pages of a row]`.
    pub table: &'a Tensor,
}

impl CachePages<'_> {
    /// Checks the operands for `rows` rows of a cache with `kinds` kinds of numbers; returns the
    /// most pages of a row.
    pub(crate) fn check(&self, operands: &Operands, rows: i64, kinds: i64) -> Result<i64> {
        operands.are(self.memory, Kind::Int64, &[kinds])?;
        let pages = self.table.size2()?.1;
        operands.are(self.table, Kind::Int, &[rows, pages])?;
        Ok(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::PAGE_TOKENS;

    #[test]
    fn the_kernels_have_pages_of_the_same_size() {
        let text = include_str!("../cuda/common.cuh");
        assert!(text.contains(&format!("#define PAGE {PAGE_TOKENS}\n")));
    }
}
