//! The operations of a decoding step, each a kernel of `cuda/`.

use crate::driver::{Arguments, Function, Launch, Module};
use crate::error::{KernelError, Result};
use crate::gpu::Gpu;
use tch::{Kind, Tensor};

/// Most query heads of one key head that a block of `attend` takes.
const GROUP_MAX: i64 = 8;
/// Most ids of a vocabulary, by the shared memory of `draw`.
const VOCAB_MAX_IDS: i64 = 256 * 1024;
const NORM_THREADS: u32 = 256;
const ROTATE_WARPS: u32 = 4;
const ATTEND_THREADS: u32 = 128;
const DRAW_THREADS: u32 = 1024;
const FEW_WARPS: u32 = 8;
/// Blocks of a product with few rows: more would only norm the same rows again.
const FEW_BLOCKS: u32 = 1056;
/// Shared memory that a block has without asking for more.
const FEW_MAX_BYTES: i64 = 44 << 10;
/// Blocks of `attend` that fill the device: it splits the places where there are fewer.
const ATTEND_BLOCKS: i64 = 264;
/// Places below which another part of them is not worth its merge.
const PART_MIN_PLACES: i64 = 128;

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
    fn block_heads(&self) -> i64 {
        let group = self.heads / self.key_heads;
        (1..=GROUP_MAX.min(group))
            .rev()
            .find(|heads| group % heads == 0)
            .unwrap_or(1)
    }
}

/// The operands of [`DecodeKernels::rotate_and_store`] beside the product.
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

/// What a draw reads and writes beside the logits, all on the device.
pub struct Draw<'a> {
    /// A uniform of each step and row, float32 `[steps, B]`.
    pub uniforms: &'a Tensor,
    /// The step at hand, int32 `[1]`.
    pub step: &'a Tensor,
    /// Rows that live, int32 `[1]`.
    pub live: &'a Tensor,
    /// Takes the drawn id, int32 `[B]`.
    pub last_id: &'a Tensor,
    /// Grows by 1, int32 `[B]`.
    pub position: &'a Tensor,
    /// Takes the drawn ids by step, int32 `[steps, B]`.
    pub ids: &'a Tensor,
    /// Takes their log-probabilities by step, float32 `[steps, B]`.
    pub logprobs: &'a Tensor,
    /// Temperature of the distribution; 0 is greedy.
    pub temperature: f32,
    /// Each row's limit as [`DecodeKernels::threshold`] writes it, float32 `[B]`; `None` draws
    /// from all ids.
    pub limits: Option<&'a Tensor>,
    /// Takes the ids that the limits left, one bit each, uint8 `[steps, B, bytes]`; the
    /// log-probabilities are then among these.
    pub kept: Option<&'a Tensor>,
}

/// Which ids may be drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Cut {
    /// Temperature of the distribution, above 0.
    pub temperature: f32,
    /// The k likeliest ids; 0 is off.
    pub top_k: i32,
    /// The likeliest ids whose mass reaches this share of what top-k left; 1 is off.
    pub top_p: f32,
}

/// What is done before and behind a product with few rows.
pub enum Few<'a> {
    /// y = norm(x) Wᵀ; y is float32.
    Normed(&'a Tensor, f32),
    /// y = norm(x) Wᵀ.
    Plain(&'a Tensor, f32),
    /// y = silu(gate) · up of norm(x) Wᵀ, gate before up.
    Gated(&'a Tensor, f32),
    /// y += x Wᵀ.
    Added,
}

/// The kernels, compiled for one dtype and one shape of attention.
pub struct DecodeKernels {
    kind: Kind,
    sizes: AttentionSizes,
    embed: Function,
    rms_norm: Function,
    silu_mul: Function,
    rotate_and_store: Function,
    attend: Function,
    merge: Function,
    threshold: Function,
    draw: Function,
    advance: Function,
    /// Products with few rows, by what is done around them and log2 of the rows.
    few: [[Function; 3]; 4],
    /// The code of the functions.
    _modules: Vec<Module>,
}

// SAFETY: as of [`Gpu`].
unsafe impl Send for DecodeKernels {}

impl DecodeKernels {
    /// Whether there are kernels for a model of these sizes.
    pub fn takes(
        kind: Kind,
        sizes: AttentionSizes,
        hidden: i64,
        intermediate: i64,
        vocab: i64,
    ) -> bool {
        let lanes = sizes.head_dim / 8;
        matches!(kind, Kind::BFloat16 | Kind::Float)
            && sizes.key_heads > 0
            && sizes.heads % sizes.key_heads == 0
            && sizes.head_dim % 16 == 0
            && lanes <= 32
            && lanes.count_ones() == 1
            && [hidden, intermediate].iter().all(|width| width % 8 == 0)
            && vocab <= VOCAB_MAX_IDS
    }

    /// Compiles the kernels, which takes tens of milliseconds. [`Self::takes`] said that there are.
    pub fn compile(gpu: &Gpu, kind: Kind, sizes: AttentionSizes) -> Result<DecodeKernels> {
        let definitions = definitions(kind, sizes);
        let modules = crate::sources()
            .iter()
            .map(|(file, text)| gpu.compile(file, text, &definitions))
            .collect::<Result<Vec<_>>>()?;
        let find = |name: &str| {
            let found = modules.iter().find_map(|module| module.function(name).ok());
            found.ok_or_else(|| KernelError::Call {
                call: "cuModuleGetFunction",
                message: format!("no kernel `{name}`"),
            })
        };
        let few = |name: &str| {
            let of_rows = |rows: u32| find(&format!("{name}_{rows}"));
            Ok::<_, KernelError>([of_rows(1)?, of_rows(2)?, of_rows(4)?])
        };
        Ok(DecodeKernels {
            kind,
            sizes,
            embed: find("embed")?,
            rms_norm: find("rms_norm")?,
            silu_mul: find("silu_mul")?,
            rotate_and_store: find("rotate_and_store")?,
            attend: find("attend")?,
            merge: find("merge")?,
            threshold: find("threshold")?,
            draw: find("draw")?,
            advance: find("advance")?,
            few: [few("normed")?, few("plain")?, few("gated")?, few("added")?],
            _modules: modules,
        })
    }

    /// Looks rows of the embedding up: `ids` int32 `[B]`, `table` `[V, D]` → `hidden` `[B, D]`.
    pub fn embed(&self, gpu: &Gpu, ids: &Tensor, table: &Tensor, hidden: &Tensor) -> Result<()> {
        let (rows, width) = hidden.size2()?;
        let operands = Operands::of("embed");
        operands.are(ids, Kind::Int, &[rows])?;
        operands.are(hidden, self.kind, &[rows, width])?;
        operands.are(table, self.kind, &[table.size()[0], width])?;
        let launch = Launch::of_rows(rows, NORM_THREADS);
        let arguments = Arguments::new()
            .address(address(ids))
            .address(address(table))
            .address(address(hidden))
            .int(width as i32);
        gpu.stream().launch(self.embed, launch, arguments)
    }

    /// Computes y = w · x / √(mean(x²) + ε): `x`, `y` `[B, D]`, `weight` `[D]`.
    pub fn rms_norm(
        &self,
        gpu: &Gpu,
        x: &Tensor,
        weight: &Tensor,
        epsilon: f32,
        y: &Tensor,
    ) -> Result<()> {
        let (rows, width) = x.size2()?;
        let operands = Operands::of("rms_norm");
        operands.are(x, self.kind, &[rows, width])?;
        operands.are(weight, self.kind, &[width])?;
        operands.are(y, self.kind, &[rows, width])?;
        let launch = Launch::of_rows(rows, NORM_THREADS);
        let arguments = Arguments::new()
            .address(address(x))
            .address(address(weight))
            .address(address(y))
            .int(width as i32)
            .float(epsilon);
        gpu.stream().launch(self.rms_norm, launch, arguments)
    }

    /// Computes y = silu(gate) · up: `gate_up` `[B, 2 · I]`, gate before up, `y` `[B, I]`.
    pub fn silu_mul(&self, gpu: &Gpu, gate_up: &Tensor, y: &Tensor) -> Result<()> {
        let (rows, width) = y.size2()?;
        let operands = Operands::of("silu_mul");
        operands.are(gate_up, self.kind, &[rows, 2 * width])?;
        operands.are(y, self.kind, &[rows, width])?;
        let blocks = (width as u32).div_ceil(8 * NORM_THREADS);
        let launch = Launch {
            grid: [rows as u32, blocks, 1],
            threads: NORM_THREADS,
            shared_bytes: 0,
        };
        let arguments = Arguments::new()
            .address(address(gate_up))
            .address(address(y))
            .int(width as i32);
        gpu.stream().launch(self.silu_mul, launch, arguments)
    }

    /// Adds biases, norms, rotates, and puts keys and values into the cache: `qkv` float32 `[B,
    /// (heads + 2 · key_heads) · head_dim]` → `query` `[B, heads · head_dim]`; `keys` and `values`
    /// `[slots, key_heads, places, head_dim]`, of which row b has slot b.
    pub fn rotate_and_store(
        &self,
        gpu: &Gpu,
        qkv: &Tensor,
        rotation: &Rotation,
        query: &Tensor,
        keys: &Tensor,
        values: &Tensor,
    ) -> Result<()> {
        let AttentionSizes {
            heads,
            key_heads,
            head_dim,
        } = self.sizes;
        let (rows, all_heads) = (qkv.size2()?.0, heads + 2 * key_heads);
        let operands = Operands::of("rotate_and_store");
        operands.are(qkv, Kind::Float, &[rows, all_heads * head_dim])?;
        operands.are(query, self.kind, &[rows, heads * head_dim])?;
        let places = operands.are_cache(self, keys, values)?;
        operands.are(rotation.position, Kind::Int, &[rows])?;
        operands.are(rotation.live, Kind::Int, &[1])?;
        let positions = rotation.table.size().first().copied().unwrap_or(0);
        operands.are(rotation.table, Kind::Float, &[positions, 2, head_dim])?;
        if positions < places {
            return operands.refuse(format!("{positions} rotations for {places} places"));
        }
        if let Some(bias) = rotation.bias {
            operands.are(bias, self.kind, &[all_heads * head_dim])?;
        }
        let (query_norm, key_norm, epsilon) = match rotation.norms {
            Some((query_norm, key_norm, epsilon)) => {
                operands.are(query_norm, self.kind, &[head_dim])?;
                operands.are(key_norm, self.kind, &[head_dim])?;
                (address(query_norm), address(key_norm), epsilon)
            }
            None => (0, 0, 0.0),
        };
        let launch = Launch {
            grid: [rows as u32, (all_heads as u32).div_ceil(ROTATE_WARPS), 1],
            threads: 32 * ROTATE_WARPS,
            shared_bytes: ROTATE_WARPS * head_dim as u32 * 4,
        };
        let arguments = Arguments::new()
            .address(address(qkv))
            .address(rotation.bias.map_or(0, address))
            .address(query_norm)
            .address(key_norm)
            .float(epsilon)
            .address(address(rotation.table))
            .address(address(rotation.position))
            .address(address(rotation.live))
            .address(address(query))
            .address(address(keys))
            .address(address(values))
            .int(heads as i32)
            .int(key_heads as i32)
            .int(places as i32);
        gpu.stream()
            .launch(self.rotate_and_store, launch, arguments)
    }

    /// Parts into which the places are cut, so that `rows` rows keep the device busy.
    pub fn parts(&self, rows: i64, places: i64) -> i64 {
        let blocks = rows * self.sizes.heads / self.sizes.block_heads();
        let wanted = (ATTEND_BLOCKS + blocks - 1) / blocks.max(1);
        wanted.clamp(1, (places / PART_MIN_PLACES).max(1))
    }

    /// Numbers of [`Self::attend`]'s `partial`.
    pub fn partial_numbers(&self, rows: i64, parts: i64) -> i64 {
        rows * self.sizes.heads * parts * (self.sizes.head_dim + 2)
    }

    /// Computes softmax(q kᵀ / √d) v over the places up to each row's position: `query` and `out`
    /// `[B, heads · head_dim]`, the cache as [`Self::rotate_and_store`] writes it, `position` int32
    /// `[B]`, `live` int32 `[1]`, `partial` float32 of [`Self::partial_numbers`].
    #[allow(clippy::too_many_arguments, reason = "the operands of one kernel")]
    pub fn attend(
        &self,
        gpu: &Gpu,
        query: &Tensor,
        (keys, values): (&Tensor, &Tensor),
        position: &Tensor,
        live: &Tensor,
        (partial, parts): (&Tensor, i64),
        out: &Tensor,
    ) -> Result<()> {
        let AttentionSizes {
            heads,
            key_heads,
            head_dim,
        } = self.sizes;
        let rows = query.size2()?.0;
        let operands = Operands::of("attend");
        operands.are(query, self.kind, &[rows, heads * head_dim])?;
        operands.are(out, self.kind, &[rows, heads * head_dim])?;
        let places = operands.are_cache(self, keys, values)?;
        operands.are(position, Kind::Int, &[rows])?;
        operands.are(live, Kind::Int, &[1])?;
        operands.are(partial, Kind::Float, &[partial.numel() as i64])?;
        if (partial.numel() as i64) < self.partial_numbers(rows, parts) {
            return operands.refuse(format!("{parts} parts do not fit {partial:?}"));
        }
        let blocks = heads / self.sizes.block_heads();
        let launch = Launch {
            grid: [rows as u32, blocks as u32, parts as u32],
            threads: ATTEND_THREADS,
            shared_bytes: 0,
        };
        let arguments = Arguments::new()
            .address(address(query))
            .address(address(keys))
            .address(address(values))
            .address(address(position))
            .address(address(live))
            .address(address(out))
            .address(address(partial))
            .int(heads as i32)
            .int(key_heads as i32)
            .int(places as i32)
            .int(parts as i32)
            .float((head_dim as f32).powf(-0.5));
        gpu.stream().launch(self.attend, launch, arguments)?;
        if parts == 1 {
            return Ok(());
        }
        let launch = Launch {
            grid: [rows as u32, heads as u32, 1],
            threads: head_dim as u32,
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

    /// Whether [`Self::few`] takes products of this many rows of `inner` numbers, norm included.
    pub fn takes_few(&self, rows: i64, inner: i64) -> bool {
        let bytes = self.kind.elt_size_in_bytes() as i64;
        matches!(rows, 1 | 2 | 4) && rows * inner * bytes <= FEW_MAX_BYTES
    }

    /// Multiplies few rows: `x` `[B, K]`, `weight` `[N, K]` → `y` `[B, N]`, or `[B, N / 2]` where
    /// gates are applied. [`Self::takes_few`] said that it can.
    pub fn few(&self, gpu: &Gpu, few: &Few, x: &Tensor, weight: &Tensor, y: &Tensor) -> Result<()> {
        let ((rows, inner), (height, _)) = (x.size2()?, weight.size2()?);
        let operands = Operands::of("few");
        let takes = match few {
            Few::Added => matches!(rows, 1 | 2 | 4),
            _ => self.takes_few(rows, inner),
        };
        if !takes {
            return operands.refuse(format!("{rows} rows of {inner} numbers"));
        }
        let (functions, kind, outer, norm) = match *few {
            Few::Normed(norm, epsilon) => {
                (&self.few[0], Kind::Float, height, Some((norm, epsilon)))
            }
            Few::Plain(norm, epsilon) => (&self.few[1], self.kind, height, Some((norm, epsilon))),
            Few::Gated(norm, epsilon) => {
                (&self.few[2], self.kind, height / 2, Some((norm, epsilon)))
            }
            Few::Added => (&self.few[3], self.kind, height, None),
        };
        operands.are(x, self.kind, &[rows, inner])?;
        operands.are(weight, self.kind, &[height, inner])?;
        operands.are(y, kind, &[rows, outer])?;
        if let Some((norm, _)) = norm {
            operands.are(norm, self.kind, &[inner])?;
        }
        let function = functions[rows.trailing_zeros() as usize];
        let normed = rows * inner * self.kind.elt_size_in_bytes() as i64;
        let launch = Launch {
            grid: [(outer as u32).div_ceil(FEW_WARPS).min(FEW_BLOCKS), 1, 1],
            threads: 32 * FEW_WARPS,
            shared_bytes: norm.map_or(0, |_| normed as u32),
        };
        let arguments = Arguments::new()
            .address(address(x))
            .address(norm.map_or(0, |(norm, _)| address(norm)))
            .float(norm.map_or(0.0, |(_, epsilon)| epsilon))
            .address(address(weight))
            .address(address(y))
            .int(inner as i32)
            .int(outer as i32);
        gpu.stream().launch(function, launch, arguments)
    }

    /// Finds which ids of each row may be drawn: `logits` `[B, V]`, `live` int32 `[1]` → `limits`
    /// float32 `[B]`, the largest distance (largest logit − logit) / temperature.
    pub fn threshold(
        &self,
        gpu: &Gpu,
        logits: &Tensor,
        live: &Tensor,
        cut: Cut,
        limits: &Tensor,
    ) -> Result<()> {
        let (rows, vocab) = logits.size2()?;
        let operands = Operands::of("threshold");
        operands.are(logits, self.kind, &[rows, vocab])?;
        operands.are(live, Kind::Int, &[1])?;
        operands.are(limits, Kind::Float, &[rows])?;
        let launch = Launch::of_rows(rows, DRAW_THREADS);
        let arguments = Arguments::new()
            .address(address(logits))
            .address(address(live))
            .address(address(limits))
            .int(vocab as i32)
            .float(cut.temperature)
            .int(cut.top_k)
            .float(cut.top_p);
        gpu.stream().launch(self.threshold, launch, arguments)
    }

    /// Draws the next id of each row from `logits` `[B, V]`.
    pub fn draw(&self, gpu: &Gpu, logits: &Tensor, draw: &Draw) -> Result<()> {
        let (rows, vocab) = logits.size2()?;
        let operands = Operands::of("draw");
        operands.are(logits, self.kind, &[rows, vocab])?;
        let steps = draw.ids.size2()?.0;
        operands.are(draw.uniforms, Kind::Float, &[steps, rows])?;
        operands.are(draw.ids, Kind::Int, &[steps, rows])?;
        operands.are(draw.logprobs, Kind::Float, &[steps, rows])?;
        operands.are(draw.last_id, Kind::Int, &[rows])?;
        operands.are(draw.position, Kind::Int, &[rows])?;
        operands.are(draw.step, Kind::Int, &[1])?;
        operands.are(draw.live, Kind::Int, &[1])?;
        if let Some(limits) = draw.limits {
            operands.are(limits, Kind::Float, &[rows])?;
        }
        let kept_bytes = kept_bytes(vocab);
        if let Some(kept) = draw.kept {
            operands.are(kept, Kind::Uint8, &[steps, rows, kept_bytes])?;
        }
        let launch = Launch::of_rows(rows, DRAW_THREADS);
        let arguments = Arguments::new()
            .address(address(logits))
            .address(address(draw.uniforms))
            .address(address(draw.step))
            .address(address(draw.live))
            .address(address(draw.last_id))
            .address(address(draw.position))
            .address(address(draw.ids))
            .address(address(draw.logprobs))
            .address(draw.limits.map_or(0, address))
            .address(draw.kept.map_or(0, address))
            .int(kept_bytes as i32)
            .int(vocab as i32)
            .int(rows as i32)
            .float(draw.temperature);
        gpu.stream().launch(self.draw, launch, arguments)
    }

    /// Adds 1 to `step` int32 `[1]`, behind the step's last kernel.
    pub fn advance(&self, gpu: &Gpu, step: &Tensor) -> Result<()> {
        Operands::of("advance").are(step, Kind::Int, &[1])?;
        let launch = Launch {
            grid: [1, 1, 1],
            threads: 1,
            shared_bytes: 0,
        };
        let arguments = Arguments::new().address(address(step));
        gpu.stream().launch(self.advance, launch, arguments)
    }
}

/// Bytes of a set of kept ids: a bit each, in whole words of 64.
pub fn kept_bytes(vocab: i64) -> i64 {
    (vocab + 63) / 64 * 8
}

/// The definitions under which the texts compile.
fn definitions(kind: Kind, sizes: AttentionSizes) -> Vec<String> {
    vec![
        format!("BFLOAT16={}", i32::from(kind == Kind::BFloat16)),
        format!("HEAD_DIM={}", sizes.head_dim),
        format!("GROUP={}", sizes.block_heads()),
    ]
}

fn address(tensor: &Tensor) -> u64 {
    tensor.data_ptr().addr() as u64
}

/// Checks the operands of one operation: a kernel would read and write outside of them.
struct Operands {
    operation: &'static str,
}

impl Operands {
    fn of(operation: &'static str) -> Operands {
        Operands { operation }
    }

    fn refuse<T>(&self, message: String) -> Result<T> {
        Err(KernelError::Operand {
            operation: self.operation,
            message,
        })
    }

    fn are(&self, tensor: &Tensor, kind: Kind, shape: &[i64]) -> Result<()> {
        let fits = tensor.kind() == kind
            && tensor.size() == shape
            && tensor.is_contiguous()
            && tensor.device().is_cuda();
        if fits {
            return Ok(());
        }
        self.refuse(format!(
            "{tensor:?} is not a contiguous {kind:?} of {shape:?} on a GPU"
        ))
    }

    /// Checks a cache, which has a slot for each row that lives; returns the places of a slot.
    fn are_cache(&self, kernels: &DecodeKernels, keys: &Tensor, values: &Tensor) -> Result<i64> {
        let (slots, _, places, _) = keys.size4()?;
        let shape = [
            slots,
            kernels.sizes.key_heads,
            places,
            kernels.sizes.head_dim,
        ];
        self.are(keys, kernels.kind, &shape)?;
        self.are(values, kernels.kind, &shape)?;
        Ok(places)
    }
}
