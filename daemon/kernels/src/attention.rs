//! Attention of a decoding step: one token of each row over the row's pages of the cache.

use crate::code::{Code, Source};
use crate::decode::of_dtype;
use crate::driver::{Arguments, Function, Launch};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::operands::{Operands, address};
use crate::pages::{CachePages, PAGE_TOKENS};
use tch::{Kind, Tensor};

/// Most query heads of one key head that a block takes.
const GROUP_MAX: i64 = 8;
/// Multiprocessors of an H100 or H200.
const MULTIPROCESSORS: i64 = 132;
/// Blocks that fill the device: where there are fewer, the places are cut into parts, or a block
/// has more warps.
const BLOCKS: i64 = 2 * MULTIPROCESSORS;
/// Places below which another part of them is not worth its merge.
const PART_MIN_PLACES: i64 = 128;
/// The same where a block reads more places at a time.
const TENSOR_CORES_PART_MIN_PLACES: i64 = 512;
const GENERAL: Source = ("attention.cu", include_str!("../cuda/attention.cu"));
const TENSOR_CORES: Source = ("attention_mma.cu", include_str!("../cuda/attention_mma.cu"));
/// Merges the parts of places.
pub(crate) const MERGE: Source = ("merge.cu", include_str!("../cuda/merge.cu"));
const ROTATE_WARPS: u32 = 4;
const ATTEND_THREADS: u32 = 128;

/// Sizes of grouped-query attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionSizes {
    /// Query heads.
    pub heads: i64,
    /// Heads of keys and values.
    pub key_heads: i64,
    /// Dimensions of a head.
    pub head_dim: i64,
}

impl AttentionSizes {
    /// Query heads that a block takes: the largest divisor of a key head's that it can.
    pub(crate) fn block_heads(&self) -> i64 {
        let group = self.heads / self.key_heads;
        (1..=GROUP_MAX.min(group))
            .rev()
            .find(|heads| group % heads == 0)
            .unwrap_or(1)
    }

    /// Whether there are kernels for these sizes.
    pub fn are_known(&self) -> bool {
        let lanes = self.head_dim / 8;
        self.key_heads > 0
            && self.heads % self.key_heads == 0
            && self.head_dim % 16 == 0
            && lanes <= 32
            && lanes.count_ones() == 1
    }

    /// Whether there are kernels for the tensor cores, in `attention_mma.cu`.
    pub(crate) fn are_for_tensor_cores(&self, kind: Kind) -> bool {
        kind == Kind::BFloat16 && matches!(self.head_dim, 64 | 128)
    }

    fn blocks(&self, rows: i64) -> i64 {
        rows * self.heads / self.block_heads()
    }

    /// Parts into which the places are cut, so that `rows` rows keep the device busy.
    fn parts(&self, kind: Kind, rows: i64, places: i64) -> i64 {
        let blocks = self.blocks(rows).max(1);
        if self.are_for_tensor_cores(kind) {
            let wanted = if blocks < MULTIPROCESSORS {
                BLOCKS / blocks
            } else {
                1
            };
            return wanted.clamp(1, (places / TENSOR_CORES_PART_MIN_PLACES).max(1));
        }
        let wanted = (BLOCKS + blocks - 1) / blocks;
        wanted.clamp(1, (places / PART_MIN_PLACES).max(1))
    }
}

/// The operands of [`Attention::run`] beside the product and the cache.
pub struct Rotation<'a> {
    /// Biases of the product, `[(heads + 2 · key_heads) · head_dim]`.
    pub bias: Option<&'a Tensor>,
    /// Weights of the norms of each head's queries and keys, `[head_dim]` each, and their ε.
    pub norms: Option<(&'a Tensor, &'a Tensor, f32)>,
    /// Cosines and signed sines of every position, float32 `[positions, 2, head_dim]`.
    pub table: &'a Tensor,
    /// The place that each row's token goes to, int32 `[B]`.
    pub position: &'a Tensor,
    /// Rows that live, int32 `[1]`: rows behind them are left out.
    pub live: &'a Tensor,
}

/// Memory of [`Attention::run`] that holds nothing between its calls.
pub struct Scratch<'a> {
    /// Rotated queries, `[B, heads · head_dim]`.
    pub query: &'a Tensor,
    /// Sums of parts, float32 of at least [`Attention::partial_numbers`].
    pub partial: &'a Tensor,
}

/// The kernels of one dtype and shape.
pub struct Attention {
    kind: Kind,
    sizes: AttentionSizes,
    way: Way,
    merge: Function,
    /// The code of the functions.
    _code: Code,
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for Attention {}

/// Which kernels they are.
pub(crate) enum Way {
    /// Takes all dtypes and head sizes: queries, keys and values are rotated first.
    General {
        rotate_and_store: Function,
        attend: Function,
    },
    /// For the tensor cores, in one kernel: with blocks of four and of eight warps.
    TensorCores { four: Function, eight: Function },
}

impl Attention {
    /// Compiles the kernels of these sizes, of which [`AttentionSizes::are_known`] said that there
    /// are.
    pub fn compile(gpu: &Gpu, kind: Kind, sizes: AttentionSizes) -> Result<Attention> {
        let definitions = [
            of_dtype(kind),
            format!("HEAD_DIM={}", sizes.head_dim),
            format!("GROUP={}", sizes.block_heads()),
        ];
        let on_tensor_cores = sizes.are_for_tensor_cores(kind);
        let text = if on_tensor_cores {
            TENSOR_CORES
        } else {
            GENERAL
        };
        let code = Code::compile(gpu, &[text, MERGE], &definitions)?;
        let way = if on_tensor_cores {
            Way::TensorCores {
                four: code.find("rotate_and_attend_4")?,
                eight: code.find("rotate_and_attend_8")?,
            }
        } else {
            Way::General {
                rotate_and_store: code.find("rotate_and_store")?,
                attend: code.find("attend")?,
            }
        };
        Ok(Attention {
            kind,
            sizes,
            way,
            merge: code.find("merge")?,
            _code: code,
        })
    }

    /// Numbers of [`Scratch::partial`] for any number of rows up to `rows`.
    pub fn partial_numbers(&self, rows: i64, places: i64) -> i64 {
        let AttentionSizes {
            heads, head_dim, ..
        } = self.sizes;
        // Fewer rows are cut into more parts.
        (1..=rows)
            .map(|rows| match self.sizes.parts(self.kind, rows, places) {
                1 => 0,
                parts => rows * heads * parts * (head_dim + 2),
            })
            .max()
            .unwrap_or(0)
    }

    /// Adds biases to each row's product, norms, rotates, puts keys and values into the cache, and
    /// attends: `qkv` float32 `[B, (heads + 2 · key_heads) · head_dim]` → `out` `[B, heads ·
    /// head_dim]`, softmax(q kᵀ / √d) v over the places up to each row's position.
    pub fn run(
        &self,
        gpu: &Gpu,
        qkv: &Tensor,
        rotation: &Rotation,
        cache: &CachePages,
        scratch: &Scratch,
        out: &Tensor,
    ) -> Result<()> {
        let (rows, row_pages) = self.check(qkv, rotation, cache, scratch, out)?;
        let parts = self.sizes.parts(self.kind, rows, row_pages * PAGE_TOKENS);
        let row_pages = row_pages as i32;
        match self.way {
            Way::TensorCores { four, eight } => {
                let many = self.sizes.blocks(rows) >= BLOCKS;
                let (function, warps) = if many { (four, 4) } else { (eight, 8) };
                let arguments = token(qkv, rotation)
                    .address(address(cache.memory))
                    .address(address(cache.table))
                    .address(address(out))
                    .address(address(scratch.partial));
                let launch = self.blocks(rows, parts, 32 * warps);
                let arguments = self.sized(arguments, row_pages).int(parts as i32);
                gpu.stream()
                    .launch(function, launch, arguments.float(self.scale()))?;
            }
            Way::General {
                rotate_and_store,
                attend,
            } => {
                self.rotate(
                    gpu,
                    rotate_and_store,
                    qkv,
                    rotation,
                    (cache, row_pages),
                    scratch,
                )?;
                let arguments = Arguments::new()
                    .address(address(scratch.query))
                    .address(address(cache.memory))
                    .address(address(cache.table))
                    .address(address(rotation.position))
                    .address(address(rotation.live))
                    .address(address(out))
                    .address(address(scratch.partial));
                let launch = self.blocks(rows, parts, ATTEND_THREADS);
                let arguments = self.sized(arguments, row_pages).int(parts as i32);
                gpu.stream()
                    .launch(attend, launch, arguments.float(self.scale()))?;
            }
        }
        if parts == 1 {
            return Ok(());
        }
        let launch = Launch {
            grid: [rows as u32, self.sizes.heads as u32, 1],
            threads: self.sizes.head_dim as u32,
            shared_bytes: 0,
        };
        let arguments = Arguments::new()
            .address(address(scratch.partial))
            .address(address(rotation.live))
            .address(address(out))
            .int(self.sizes.heads as i32)
            .int(parts as i32);
        gpu.stream().launch(self.merge, launch, arguments)
    }

    fn rotate(
        &self,
        gpu: &Gpu,
        function: Function,
        qkv: &Tensor,
        rotation: &Rotation,
        (cache, row_pages): (&CachePages, i32),
        scratch: &Scratch,
    ) -> Result<()> {
        let all_heads = (self.sizes.heads + 2 * self.sizes.key_heads) as u32;
        let launch = Launch {
            grid: [qkv.size2()?.0 as u32, all_heads.div_ceil(ROTATE_WARPS), 1],
            threads: 32 * ROTATE_WARPS,
            shared_bytes: ROTATE_WARPS * self.sizes.head_dim as u32 * 4,
        };
        let arguments = token(qkv, rotation)
            .address(address(scratch.query))
            .address(address(cache.memory))
            .address(address(cache.table));
        gpu.stream()
            .launch(function, launch, self.sized(arguments, row_pages))
    }

    fn blocks(&self, rows: i64, parts: i64, threads: u32) -> Launch {
        let tiles = self.sizes.heads / self.sizes.block_heads();
        Launch {
            grid: [rows as u32, tiles as u32, parts as u32],
            threads,
            shared_bytes: 0,
        }
    }

    fn sized(&self, arguments: Arguments, row_pages: i32) -> Arguments {
        arguments
            .int(self.sizes.heads as i32)
            .int(self.sizes.key_heads as i32)
            .int(row_pages)
    }

    fn scale(&self) -> f32 {
        (self.sizes.head_dim as f32).powf(-0.5)
    }

    /// Checks the operands; returns the rows, and the most pages of one.
    fn check(
        &self,
        qkv: &Tensor,
        rotation: &Rotation,
        cache: &CachePages,
        scratch: &Scratch,
        out: &Tensor,
    ) -> Result<(i64, i64)> {
        let AttentionSizes {
            heads,
            key_heads,
            head_dim,
        } = self.sizes;
        let operands = Operands::of("attention");
        let (rows, width) = (qkv.size2()?.0, (heads + 2 * key_heads) * head_dim);
        operands.are(qkv, Kind::Float, &[rows, width])?;
        operands.are(out, self.kind, &[rows, heads * head_dim])?;
        operands.are(scratch.query, self.kind, &[rows, heads * head_dim])?;
        operands.are(rotation.position, Kind::Int, &[rows])?;
        operands.are(rotation.live, Kind::Int, &[1])?;
        let row_pages = cache.check(&operands, rows, 2)?;
        let places = row_pages * PAGE_TOKENS;
        let positions = rotation.table.size3()?.0;
        operands.are(rotation.table, Kind::Float, &[positions, 2, head_dim])?;
        if positions < places {
            return operands.refuse(format!("{positions} rotations for {places} places"));
        }
        if let Some(bias) = rotation.bias {
            operands.are(bias, self.kind, &[width])?;
        }
        if let Some((query_norm, key_norm, _)) = rotation.norms {
            operands.are(query_norm, self.kind, &[head_dim])?;
            operands.are(key_norm, self.kind, &[head_dim])?;
        }
        let partial = scratch.partial.numel() as i64;
        operands.are(scratch.partial, Kind::Float, &[partial])?;
        let parts = self.sizes.parts(self.kind, rows, places);
        if parts > 1 && partial < rows * heads * parts * (head_dim + 2) {
            return operands.refuse(format!("{parts} parts do not fit {:?}", scratch.partial));
        }
        Ok((rows, row_pages))
    }
}

/// The first arguments of a kernel that rotates.
fn token(qkv: &Tensor, rotation: &Rotation) -> Arguments {
    let (query_norm, key_norm, epsilon) = match rotation.norms {
        Some((query_norm, key_norm, epsilon)) => (address(query_norm), address(key_norm), epsilon),
        None => (0, 0, 0.0),
    };
    Arguments::new()
        .address(address(qkv))
        .address(rotation.bias.map_or(0, address))
        .address(query_norm)
        .address(key_norm)
        .float(epsilon)
        .address(address(rotation.table))
        .address(address(rotation.position))
        .address(address(rotation.live))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_cut_into_parts_and_many_are_not() {
        let qwen = AttentionSizes {
            heads: 14,
            key_heads: 2,
            head_dim: 64,
        };
        // (rows, places) → parts on the tensor cores, and without them.
        for (rows, places, expected) in [
            (1, 512, (1, 4)),
            (1, 32_768, (64, 132)),
            (16, 4_096, (8, 9)),
            (64, 4_096, (2, 3)),
            (66, 4_096, (1, 2)),
            (256, 32_768, (1, 1)),
        ] {
            let parts = |kind| qwen.parts(kind, rows, places);
            assert_eq!(
                (parts(Kind::BFloat16), parts(Kind::Float)),
                expected,
                "{rows} {places}"
            );
        }
    }

    #[test]
    fn a_block_takes_as_many_heads_as_it_can() {
        let of_group = |group: i64| {
            let sizes = AttentionSizes {
                heads: 2 * group,
                key_heads: 2,
                head_dim: 64,
            };
            sizes.block_heads()
        };
        let groups = [1, 4, 7, 8, 12, 16, 11];
        assert_eq!(groups.map(of_group), [1, 4, 7, 8, 6, 8, 1]);
    }
}
