//! FP8 weights with a scale for each block, as DeepSeek-V3 was released.

/// The scale of tensor `name`.
pub fn scale_name(name: &str) -> String {
    format!("{name}_scale_inv")
}

/// Rows and columns of a block that shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    pub rows: i64,
    pub columns: i64,
}

/// What released checkpoints have, and what is assumed where config.json does not say.
pub const BLOCK_SIZE: BlockSize = BlockSize {
    rows: 128,
    columns: 128,
};

impl BlockSize {
    /// Scales of a matrix of this shape; blocks at its edges may be smaller.
    pub fn scales(self, shape: &[i64]) -> Vec<i64> {
        let blocks = |size: i64, block: i64| (size + block - 1) / block;
        match shape {
            [rows, columns] => vec![blocks(*rows, self.rows), blocks(*columns, self.columns)],
            _ => Vec::new(),
        }
    }
}
