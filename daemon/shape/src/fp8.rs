//! FP8 weights with a scale for each block, as DeepSeek-V3 was released.

/// The name of the tensor that has the scales of tensor `name`.
pub fn scale_name(name: &str) -> String {
    format!("{name}_scale_inv")
}

/// Rows and columns of a block that shares a scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockSize {
    /// Rows of a block.
    pub rows: i64,
    /// Columns of a block.
    pub columns: i64,
}

/// The block size of released checkpoints, which is assumed if config.json has none.
pub const BLOCK_SIZE: BlockSize = BlockSize {
    rows: 128,
    columns: 128,
};

impl BlockSize {
    /// The shape of the scales of a matrix of this shape; blocks at its edges may be smaller. It is
    /// empty for a tensor that is not a matrix.
    pub fn scales(self, shape: &[i64]) -> Vec<i64> {
        let blocks = |size: i64, block: i64| (size + block - 1) / block;
        match shape {
            [rows, columns] => vec![blocks(*rows, self.rows), blocks(*columns, self.columns)],
            _ => Vec::new(),
        }
    }
}
