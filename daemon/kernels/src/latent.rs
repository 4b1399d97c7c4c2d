//! Multi-head latent attention of a decoding step, in the absorbed form: one token of each row over
//! the row's pages of the cache.

use crate::attention::MERGE;
use crate::blas::{Matrices, Products};
use crate::code::{Code, Source};
use crate::decode::of_dtype;
use crate::driver::{Arguments, Function, Launch};
use crate::error::Result;
use crate::gpu::Gpu;
use crate::operands::{Operands, address};
use crate::pages::{CachePages, PAGE_TOKENS};
use tch::{Kind, Tensor};

const GENERAL: Source = ("latent.cu", include_str!("../cuda/latent.cu"));
const TENSOR_CORES: Source = ("latent_mma.cu", include_str!("../cuda/latent_mma.cu"));
/// Multiprocessors of an H100 or H200.
const MULTIPROCESSORS: i64 = 132;
const STORE_THREADS: u32 = 256;
const ATTEND_THREADS: u32 = 128;
/// Heads that a block takes on the tensor cores.
const BLOCK_HEADS: i64 = 16;
/// Places of a row from which on parts of them are worth their merge.
const SPLIT_FROM_PLACES: i64 = 768;
/// Places below which another part is not.
const PART_MIN_PLACES: i64 = 128;
/// Threads of a block of the merge, one for each dimension of a latent.
const LATENT_MAX: i64 = 1024;

/// Sizes of multi-head latent attention, by their names in DeepSeek-V2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatentSizes {
    /// Heads.
    pub heads: i64,
    /// Dimensions of the latent of keys and values (r).
    pub latent: i64,
    /// Dimensions of a head's query that do not rotate (dn).
    pub nope: i64,
    /// Dimensions that do, and of the rotary key (dr).
    pub rope: i64,
    /// Dimensions of a head's value (dv).
    pub value: i64,
}

impl LatentSizes {
    /// Numbers of a place of the cache.
    pub fn width(&self) -> i64 {
        self.latent + self.rope
    }

    /// Numbers of all heads' queries before they are absorbed.
    pub fn query_width(&self) -> i64 {
        self.heads * (self.nope + self.rope)
    }

    /// Whether there are kernels for these sizes.
    pub fn are_known(&self) -> bool {
        (1..=LATENT_MAX).contains(&self.latent) && self.rope % 2 == 0 && self.heads > 0
    }

    fn are_for_tensor_cores(&self, kind: Kind) -> bool {
        kind == Kind::BFloat16 && self.latent % 128 == 0 && self.latent <= 512 && self.rope == 64
    }
}

/// A compressed query: its norm, and where it goes.
pub struct Compression<'a> {
    /// Its bias `[rank]`, if it has one.
    pub bias: Option<&'a Tensor>,
    /// The norm's weight `[rank]`, and its ε.
    pub norm: (&'a Tensor, f32),
    /// Takes the normed query, `[B, rank]`.
    pub to: &'a Tensor,
}

/// The operands of [`LatentAttention::store`] beside the product, the cache and the query.
pub struct LatentToken<'a> {
    /// Bias of latent and rotary key, `[r + dr]`, if they have one.
    pub bias: Option<&'a Tensor>,
    /// Weight `[r]` and ε of the latent's norm.
    pub norm: (&'a Tensor, f32),
    /// Cosines and signed sines of every position, float32 `[positions, 2, dr]`.
    pub table: &'a Tensor,
    /// The place that each row's token goes to, int32 `[B]`.
    pub position: &'a Tensor,
    /// Rows that live, int32 `[1]`: rows behind them are left out.
    pub live: &'a Tensor,
}

/// The kernels of one dtype and shape.
pub struct LatentAttention {
    kind: Kind,
    sizes: LatentSizes,
    store: Function,
    rotate: Function,
    attend: Function,
    /// Heads that a block takes.
    block_heads: i64,
    merge: Function,
    /// The code of the functions.
    _code: Code,
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for LatentAttention {}

impl LatentAttention {
    /// Compiles the kernels of these sizes, of which [`LatentSizes::are_known`] said that there
    /// are.
    pub fn compile(gpu: &Gpu, kind: Kind, sizes: LatentSizes) -> Result<LatentAttention> {
        let definitions = [
            of_dtype(kind),
            format!("LATENT={}", sizes.latent),
            format!("ROPE={}", sizes.rope),
        ];
        let sources = [GENERAL, MERGE, TENSOR_CORES];
        let on_tensor_cores = sizes.are_for_tensor_cores(kind);
        let texts = if on_tensor_cores { 3 } else { 2 };
        let code = Code::compile(gpu, &sources[..texts], &definitions)?;
        let (attend, block_heads) = if on_tensor_cores {
            ("attend_latent_mma", BLOCK_HEADS)
        } else {
            ("attend_latent", 1)
        };
        Ok(LatentAttention {
            kind,
            sizes,
            store: code.find("store_latent")?,
            rotate: code.find("rotate_query")?,
            attend: code.find(attend)?,
            block_heads,
            merge: code.find("merge")?,
            _code: code,
        })
    }

    /// The parts of a row's places, each of a block of its own, for `rows` rows of at most
    /// `places` places.
    pub fn parts(&self, rows: i64, places: i64) -> i64 {
        if places < SPLIT_FROM_PLACES {
            return 1;
        }
        // Two blocks on each multiprocessor.
        let wanted = 2 * MULTIPROCESSORS / (rows * self.blocks_of_row()).max(1);
        wanted.clamp(1, places / PART_MIN_PLACES)
    }

    /// Numbers of `partial` of [`Self::attend`] for any number of rows up to `rows`.
    pub fn partial_numbers(&self, rows: i64, places: i64) -> i64 {
        (1..=rows)
            .map(|rows| self.partial_of(rows, self.parts(rows, places)))
            .max()
            .unwrap_or(0)
    }

    fn blocks_of_row(&self) -> i64 {
        (self.sizes.heads + self.block_heads - 1) / self.block_heads
    }

    fn partial_of(&self, rows: i64, parts: i64) -> i64 {
        match parts {
            1 => 0,
            parts => rows * self.sizes.heads * parts * (self.sizes.latent + 2),
        }
    }

    /// Puts each row's token into the cache, and prepares its query: `product` `[B, q + r + dr]`,
    /// where q is the width of the compressed query or, without compression, of all heads' queries
    /// → each row's place of the cache; the normed compressed query, or the rotary part of each
    /// head in `query` `[B, heads, r + dr]`.
    pub fn store(
        &self,
        gpu: &Gpu,
        product: &Tensor,
        token: &LatentToken,
        compression: Option<&Compression>,
        (cache, query): (&CachePages, &Tensor),
    ) -> Result<()> {
        let operands = Operands::of("store_latent");
        let (rows, width) = (product.size2()?.0, self.sizes.width());
        let before = match compression {
            Some(compression) => compression.norm.0.size1()?,
            None => self.sizes.query_width(),
        };
        operands.are(product, self.kind, &[rows, before + width])?;
        let row_pages = self.check_rows(&operands, token.position, token.live, (cache, query))?;
        operands.are(token.norm.0, self.kind, &[self.sizes.latent])?;
        if let Some(bias) = token.bias {
            operands.are(bias, self.kind, &[width])?;
        }
        self.check_table(&operands, token.table, row_pages * PAGE_TOKENS)?;
        if let Some(compression) = compression {
            operands.are(compression.norm.0, self.kind, &[before])?;
            operands.are(compression.to, self.kind, &[rows, before])?;
            if let Some(bias) = compression.bias {
                operands.are(bias, self.kind, &[before])?;
            }
        }
        let of_query = compression.map(|one| (one.bias, one.norm, one.to));
        let arguments = Arguments::new()
            .address(address(product))
            .address(of_query.and_then(|(bias, ..)| bias).map_or(0, address))
            .address(of_query.map_or(0, |(_, norm, _)| address(norm.0)))
            .float(of_query.map_or(0.0, |(_, norm, _)| norm.1))
            .address(of_query.map_or(0, |(.., to)| address(to)))
            .int(before as i32)
            .address(token.bias.map_or(0, address))
            .address(address(token.norm.0))
            .float(token.norm.1)
            .address(address(token.table))
            .address(address(token.position))
            .address(address(token.live))
            .address(address(cache.memory))
            .address(address(cache.table))
            .int(row_pages as i32)
            .address(address(query))
            .int(self.sizes.heads as i32)
            .int(self.sizes.nope as i32);
        let launch = Launch::of_rows(rows, STORE_THREADS);
        gpu.stream().launch(self.store, launch, arguments)
    }

    /// Rotates queries that were compressed: `product` `[B, heads · (dn + dr)]` → the rotary part
    /// of each head in `query` `[B, heads, r + dr]`.
    pub fn rotate(
        &self,
        gpu: &Gpu,
        product: &Tensor,
        token: &LatentToken,
        query: &Tensor,
    ) -> Result<()> {
        let operands = Operands::of("rotate_query");
        let rows = product.size2()?.0;
        operands.are(product, self.kind, &[rows, self.sizes.query_width()])?;
        let (heads, width) = (self.sizes.heads, self.sizes.width());
        operands.are(query, self.kind, &[rows, heads, width])?;
        operands.are(token.position, Kind::Int, &[rows])?;
        operands.are(token.live, Kind::Int, &[1])?;
        self.check_table(&operands, token.table, 0)?;
        let arguments = Arguments::new()
            .address(address(product))
            .address(address(token.table))
            .address(address(token.position))
            .address(address(token.live))
            .address(address(query))
            .int(heads as i32)
            .int(self.sizes.nope as i32);
        let launch = Launch::of_rows(rows, STORE_THREADS);
        gpu.stream().launch(self.rotate, launch, arguments)
    }

    /// Brings the rest of the queries into the latent space, where keys need no projection:
    /// `product`, of whose rows the first heads · (dn + dr) numbers are queries, `kv_b` `[heads ·
    /// (dn + dv), r]` → the first r numbers of each head in `query` `[B, heads, r + dr]`.
    pub fn absorb(&self, gpu: &Gpu, product: &Tensor, kv_b: &Tensor, query: &Tensor) -> Result<()> {
        let LatentSizes {
            heads,
            latent,
            nope,
            rope,
            value,
        } = self.sizes;
        let (rows, row) = product.size2()?;
        gpu.batched(&Products {
            count: heads,
            rows,
            inner: nope,
            outer: latent,
            x: Matrices {
                tensor: product,
                start: 0,
                row,
                next: nope + rope,
            },
            w: Matrices {
                tensor: kv_b,
                start: 0,
                row: latent,
                next: (nope + value) * latent,
            },
            transposed: false,
            y: Matrices {
                tensor: query,
                start: 0,
                row: heads * (latent + rope),
                next: latent + rope,
            },
        })
    }

    /// Projects what each head read back from the latent space: `weighed` `[B, heads, r]`, `kv_b`
    /// `[heads · (dn + dv), r]` → `out` `[B, heads · dv]`.
    pub fn project(&self, gpu: &Gpu, weighed: &Tensor, kv_b: &Tensor, out: &Tensor) -> Result<()> {
        let LatentSizes {
            heads,
            latent,
            nope,
            value,
            ..
        } = self.sizes;
        gpu.batched(&Products {
            count: heads,
            rows: weighed.size3()?.0,
            inner: latent,
            outer: value,
            x: Matrices {
                tensor: weighed,
                start: 0,
                row: heads * latent,
                next: latent,
            },
            w: Matrices {
                tensor: kv_b,
                start: nope * latent,
                row: latent,
                next: (nope + value) * latent,
            },
            transposed: true,
            y: Matrices {
                tensor: out,
                start: 0,
                row: heads * value,
                next: value,
            },
        })
    }

    /// Attends: `query` `[B, heads, r + dr]` → `out` `[B, heads, r]`, softmax(scale · q kᵀ) c over
    /// the places up to each row's position. `partial` float32 holds nothing between calls.
    pub fn attend(
        &self,
        gpu: &Gpu,
        query: &Tensor,
        cache: &CachePages,
        (position, live): (&Tensor, &Tensor),
        (scale, parts): (f32, i64),
        (out, partial): (&Tensor, &Tensor),
    ) -> Result<()> {
        let operands = Operands::of("attend_latent");
        let LatentSizes { heads, latent, .. } = self.sizes;
        let row_pages = self.check_rows(&operands, position, live, (cache, query))?;
        let rows = query.size3()?.0;
        operands.are(out, self.kind, &[rows, heads, latent])?;
        operands.are(partial, Kind::Float, &[partial.numel() as i64])?;
        if (partial.numel() as i64) < self.partial_of(rows, parts) {
            return operands.refuse(format!("{parts} parts do not fit {partial:?}"));
        }
        let arguments = Arguments::new()
            .address(address(query))
            .address(address(cache.memory))
            .address(address(cache.table))
            .address(address(position))
            .address(address(live))
            .address(address(out))
            .address(address(partial))
            .int(heads as i32)
            .int(row_pages as i32)
            .int(parts as i32)
            .float(scale);
        let launch = Launch {
            grid: [rows as u32, self.blocks_of_row() as u32, parts as u32],
            threads: ATTEND_THREADS,
            shared_bytes: 0,
        };
        gpu.stream().launch(self.attend, launch, arguments)?;
        if parts == 1 {
            return Ok(());
        }
        let launch = Launch {
            grid: [rows as u32, heads as u32, 1],
            threads: latent as u32,
            shared_bytes: 0,
        };
        let arguments = Arguments::new()
            .address(address(partial))
            .address(address(live))
            .address(address(out))
            .int(heads as i32)
            .int(parts as i32);
        gpu.stream().launch(self.merge, launch, arguments)
    }

    /// Checks what belongs to the rows; returns the most pages of one.
    fn check_rows(
        &self,
        operands: &Operands,
        position: &Tensor,
        live: &Tensor,
        (cache, query): (&CachePages, &Tensor),
    ) -> Result<i64> {
        let (rows, width) = (position.size1()?, self.sizes.width());
        operands.are(position, Kind::Int, &[rows])?;
        operands.are(live, Kind::Int, &[1])?;
        operands.are(query, self.kind, &[rows, self.sizes.heads, width])?;
        cache.check(operands, rows, 1)
    }

    fn check_table(&self, operands: &Operands, table: &Tensor, places: i64) -> Result<()> {
        let positions = table.size3()?.0;
        operands.are(table, Kind::Float, &[positions, 2, self.sizes.rope])?;
        if positions < places {
            return operands.refuse(format!("{positions} rotations for {places} places"));
        }
        Ok(())
    }
}
