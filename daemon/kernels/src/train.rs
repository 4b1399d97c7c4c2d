//! The operations of a training pass between its matrix products, forward and backward, each a
//! kernel of `cuda/train.cu`. They run on libtorch's own stream, in bfloat16, and allocate their
//! results with libtorch.

use crate::code::{Code, Source};
use crate::driver::{Arguments, Driver, Function, Launch, Module, Stream};
use crate::error::{KernelError, Result};
use crate::gpu::HOPPER;
use crate::nvrtc::Nvrtc;
use crate::operands::{Operands, address};
use tch::{Device, Kind, Tensor};

const SOURCES: [Source; 4] = [
    ("train.cu", include_str!("../cuda/train.cu")),
    ("routed.cu", include_str!("../cuda/routed.cu")),
    ("adamw.cu", include_str!("../cuda/adamw.cu")),
    ("logprobs.cu", include_str!("../cuda/logprobs.cu")),
];
/// Widest row of a norm: a thread has eight numbers of it.
const WIDTH_MAX: i64 = 8192;
/// Threads that fill a multiprocessor without leaving any kernel short of registers.
const RESIDENT_THREADS: u32 = 1024;
pub(crate) const MULTIPROCESSORS: u32 = 132;
pub(crate) const THREADS: u32 = 256;
const SUM_THREADS: u32 = 1024;
/// Threads' worth of work that a launch may have, by the integers that count it.
const WORK_MAX: i64 = 1 << 31;

/// The kernels of a training pass, compiled for bfloat16.
pub struct TrainKernels {
    stream: Stream,
    add_rms_norm: Function,
    rms_norm_backward: Function,
    sum_parts: Function,
    silu_mul: Function,
    silu_mul_backward: Function,
    rotate: Function,
    rotate_backward: Function,
    pub(crate) rotate_tails: Function,
    pub(crate) rotate_tails_backward: Function,
    pub(crate) expand_latent: Function,
    pub(crate) expand_latent_backward: Function,
    pub(crate) count_pairs: Function,
    pub(crate) place_pairs: Function,
    pub(crate) spread_rows: Function,
    pub(crate) sum_rows: Function,
    pub(crate) weigh_rows: Function,
    pub(crate) weigh_rows_backward: Function,
    pub(crate) weigh_experts: Function,
    pub(crate) weigh_experts_backward: Function,
    pub(crate) adamw: Function,
    pub(crate) square_sums: Function,
    pub(crate) logprobs: Function,
    pub(crate) logits_gradient: Function,
    /// The code of the functions.
    _code: Code,
}

// SAFETY: as of [`crate::Gpu`], and the driver takes launches from several threads at a time.
unsafe impl Send for TrainKernels {}
// SAFETY: as above.
unsafe impl Sync for TrainKernels {}

/// The results of [`TrainKernels::add_rms_norm`].
pub struct Normed {
    /// x + the added one, `[T, D]`; x itself where nothing was added.
    pub sum: Tensor,
    /// The norm of the sum, `[T, D]`.
    pub normed: Tensor,
    /// 1 / √(mean(sum²) + ε), float32 `[T]`.
    pub scale: Tensor,
}

/// Heads of a product of queries above keys above values.
#[derive(Clone, Copy, Debug)]
pub struct QkvSizes {
    /// Query heads.
    pub heads: i64,
    /// Heads of keys, and of values.
    pub key_heads: i64,
    /// Dimensions of a head.
    pub head_dim: i64,
}

impl QkvSizes {
    fn all_heads(&self) -> i64 {
        self.heads + 2 * self.key_heads
    }
}

impl TrainKernels {
    /// Opens the device, which libtorch has used on this thread before, and compiles the kernels.
    pub fn open(device: Device) -> Result<TrainKernels> {
        // The driver's context is there once libtorch has used the device.
        let _ = Tensor::f_zeros([1i64], (Kind::Float, device))?;
        let driver = Driver::get()?;
        let (major, minor) = driver.compute_capability()?;
        if (major, minor) != HOPPER {
            return Err(KernelError::Unsupported { major, minor });
        }
        let nvrtc = Nvrtc::open()?;
        let definitions = ["BFLOAT16=1".to_owned()];
        let code = Code::by(&SOURCES, |file, text| {
            Module::load(driver, &nvrtc.compile(file, text, &definitions)?)
        })?;
        Ok(TrainKernels {
            stream: Stream::of_libtorch(driver),
            add_rms_norm: code.find("add_rms_norm")?,
            rms_norm_backward: code.find("rms_norm_backward")?,
            sum_parts: code.find("sum_parts")?,
            silu_mul: code.find("silu_mul_rows")?,
            silu_mul_backward: code.find("silu_mul_backward")?,
            rotate: code.find("rotate_heads")?,
            rotate_backward: code.find("rotate_heads_backward")?,
            rotate_tails: code.find("rotate_tails")?,
            rotate_tails_backward: code.find("rotate_tails_backward")?,
            expand_latent: code.find("expand_latent")?,
            expand_latent_backward: code.find("expand_latent_backward")?,
            count_pairs: code.find("count_pairs")?,
            place_pairs: code.find("place_pairs")?,
            spread_rows: code.find("spread_rows")?,
            sum_rows: code.find("sum_rows")?,
            weigh_rows: code.find("weigh_rows")?,
            weigh_rows_backward: code.find("weigh_rows_backward")?,
            weigh_experts: code.find("weigh_experts")?,
            weigh_experts_backward: code.find("weigh_experts_backward")?,
            adamw: code.find("adamw")?,
            square_sums: code.find("square_sums")?,
            logprobs: code.find("logprobs")?,
            logits_gradient: code.find("logits_gradient")?,
            _code: code,
        })
    }

    pub(crate) fn launch(
        &self,
        function: Function,
        launch: Launch,
        arguments: Arguments,
    ) -> Result<()> {
        self.stream.launch(function, launch, arguments)
    }

    /// Whether [`Self::add_rms_norm`] takes rows of this width.
    pub fn takes_width(width: i64) -> bool {
        width % 8 == 0 && width <= WIDTH_MAX
    }

    /// Computes sum = x + added and y = w · sum / √(mean(sum²) + ε): `x`, `added` `[T, D]`,
    /// `weight` `[D]`.
    pub fn add_rms_norm(
        &self,
        x: &Tensor,
        added: Option<&Tensor>,
        weight: &Tensor,
        epsilon: f32,
    ) -> Result<Normed> {
        let (rows, width) = x.size2()?;
        let operands = Operands::of("add_rms_norm");
        if !TrainKernels::takes_width(width) {
            return operands.refuse(format!("rows of {width} numbers"));
        }
        operands.are(x, Kind::BFloat16, &[rows, width])?;
        operands.are(weight, Kind::BFloat16, &[width])?;
        let sum = match added {
            Some(added) => {
                operands.are(added, Kind::BFloat16, &[rows, width])?;
                x.f_empty_like()?
            }
            None => x.f_detach()?,
        };
        let normed = x.f_empty_like()?;
        let scale = Tensor::f_empty([rows], (Kind::Float, x.device()))?;
        let arguments = Arguments::new()
            .address(address(x))
            .address(added.map_or(0, address))
            .address(address(weight))
            .address(address(&sum))
            .address(address(&normed))
            .address(address(&scale))
            .int(width as i32)
            .float(epsilon);
        let launch = Launch::of_rows(rows, threads_of(width));
        self.launch(self.add_rms_norm, launch, arguments)?;
        Ok(Normed { sum, normed, scale })
    }

    /// Computes the gradients of [`Self::add_rms_norm`] from those of its norm, and of its sum
    /// where there is one: those of x (and of what was added), `[T, D]`, and of the weight, `[D]`.
    pub fn rms_norm_backward(
        &self,
        of_normed: &Tensor,
        of_sum: Option<&Tensor>,
        forward: (&Tensor, &Tensor),
        weight: &Tensor,
    ) -> Result<(Tensor, Tensor)> {
        let (sum, scale) = forward;
        let (rows, width) = sum.size2()?;
        let operands = Operands::of("rms_norm_backward");
        if !TrainKernels::takes_width(width) {
            return operands.refuse(format!("rows of {width} numbers"));
        }
        let shape = [rows, width];
        operands.are(sum, Kind::BFloat16, &shape)?;
        operands.are(of_normed, Kind::BFloat16, &shape)?;
        operands.are(weight, Kind::BFloat16, &[width])?;
        operands.are(scale, Kind::Float, &[rows])?;
        if let Some(of_sum) = of_sum {
            operands.are(of_sum, Kind::BFloat16, &shape)?;
        }
        let threads = threads_of(width);
        let blocks = MULTIPROCESSORS * (RESIDENT_THREADS / threads).max(1);
        let blocks = i64::from(blocks).min(rows);
        let options = (Kind::Float, sum.device());
        let (gradient, parts) = (
            sum.f_empty_like()?,
            Tensor::f_empty([blocks, width], options)?,
        );
        let arguments = Arguments::new()
            .address(address(of_normed))
            .address(of_sum.map_or(0, address))
            .address(address(sum))
            .address(address(weight))
            .address(address(scale))
            .address(address(&gradient))
            .address(address(&parts))
            .int(rows as i32)
            .int(width as i32);
        let launch = Launch::of_rows(blocks, threads);
        self.launch(self.rms_norm_backward, launch, arguments)?;
        let of_weight = weight.f_empty_like()?;
        let arguments = Arguments::new()
            .address(address(&parts))
            .address(address(&of_weight))
            .int(blocks as i32)
            .int(width as i32);
        let launch = Launch::of_rows((width + 31) / 32, SUM_THREADS);
        self.launch(self.sum_parts, launch, arguments)?;
        Ok((gradient, of_weight))
    }

    /// Computes silu(gate) · up: `gate_up` `[T, 2I]`, gate before up, I a multiple of 8 → `[T, I]`.
    pub fn silu_mul(&self, gate_up: &Tensor) -> Result<Tensor> {
        let (rows, width) = gate_up.size2()?;
        let operands = Operands::of("silu_mul");
        operands.are(gate_up, Kind::BFloat16, &[rows, width])?;
        if width % 16 != 0 {
            return operands.refuse(format!("gate and up of {width} numbers"));
        }
        let width = width / 2;
        let out = Tensor::f_empty([rows, width], (Kind::BFloat16, gate_up.device()))?;
        let arguments = Arguments::new()
            .address(address(gate_up))
            .address(address(&out))
            .int(rows as i32)
            .int(width as i32);
        self.launch(
            self.silu_mul,
            of_threads(&operands, rows * (width / 8))?,
            arguments,
        )?;
        Ok(out)
    }

    /// Computes the gradient of [`Self::silu_mul`] in the place of its operand: `gradient` `[T, I]`
    /// → `gate_up` `[T, 2I]`.
    pub fn silu_mul_backward(&self, gradient: &Tensor, gate_up: &Tensor) -> Result<()> {
        let (rows, width) = gradient.size2()?;
        let operands = Operands::of("silu_mul_backward");
        operands.are(gradient, Kind::BFloat16, &[rows, width])?;
        operands.are(gate_up, Kind::BFloat16, &[rows, 2 * width])?;
        let arguments = Arguments::new()
            .address(address(gradient))
            .address(address(gate_up))
            .int(rows as i32)
            .int(width as i32);
        let launch = of_threads(&operands, rows * (width / 8))?;
        self.launch(self.silu_mul_backward, launch, arguments)
    }

    /// Whether [`Self::rotate`] takes heads of this size.
    pub fn takes_head_dim(head_dim: i64) -> bool {
        head_dim % 16 == 0
    }

    /// Rotates queries and keys in place: `qkv` `[T, heads + 2 · key_heads, d]`, `table` float32
    /// `[T, 2, d]`, each token's cosines, and sines with the sign that the swapped half needs.
    pub fn rotate(&self, qkv: &Tensor, table: &Tensor, sizes: QkvSizes) -> Result<()> {
        let rows = self.check_rotation(qkv, table, sizes)?;
        let operands = Operands::of("rotate");
        let turning = sizes.heads + sizes.key_heads;
        let arguments = Arguments::new()
            .address(address(qkv))
            .address(address(table))
            .int(rows as i32)
            .int(turning as i32)
            .int(sizes.all_heads() as i32)
            .int(sizes.head_dim as i32);
        let launch = of_threads(&operands, rows * turning * (sizes.head_dim / 16))?;
        self.launch(self.rotate, launch, arguments)
    }

    /// Computes the gradient of [`Self::rotate`]'s operand from those of queries `[T, heads, d]`,
    /// keys and values `[T, key_heads, d]`.
    pub fn rotate_backward(
        &self,
        [query, key, value]: [&Tensor; 3],
        table: &Tensor,
        sizes: QkvSizes,
    ) -> Result<Tensor> {
        let QkvSizes {
            heads,
            key_heads,
            head_dim,
        } = sizes;
        let rows = query.size3()?.0;
        let options = (Kind::BFloat16, query.device());
        let gradient = Tensor::f_empty([rows, sizes.all_heads(), head_dim], options)?;
        self.check_rotation(&gradient, table, sizes)?;
        let operands = Operands::of("rotate_backward");
        operands.are(query, Kind::BFloat16, &[rows, heads, head_dim])?;
        for of in [key, value] {
            operands.are(of, Kind::BFloat16, &[rows, key_heads, head_dim])?;
        }
        let arguments = Arguments::new()
            .address(address(query))
            .address(address(key))
            .address(address(value))
            .address(address(table))
            .address(address(&gradient))
            .int(rows as i32)
            .int(heads as i32)
            .int(key_heads as i32)
            .int(head_dim as i32);
        let launch = of_threads(&operands, rows * sizes.all_heads() * (head_dim / 16))?;
        self.launch(self.rotate_backward, launch, arguments)?;
        Ok(gradient)
    }

    fn check_rotation(&self, qkv: &Tensor, table: &Tensor, sizes: QkvSizes) -> Result<i64> {
        let operands = Operands::of("rotate");
        let (rows, head_dim) = (qkv.size3()?.0, sizes.head_dim);
        if !TrainKernels::takes_head_dim(head_dim) {
            return operands.refuse(format!("heads of {head_dim} dimensions"));
        }
        operands.are(qkv, Kind::BFloat16, &[rows, sizes.all_heads(), head_dim])?;
        operands.are(table, Kind::Float, &[rows, 2, head_dim])?;
        Ok(rows)
    }
}

/// Threads of a block that has a row.
pub(crate) fn threads_of(width: i64) -> u32 {
    (width as u32 / 8).div_ceil(32) * 32
}

/// Blocks of as many threads as there are items of work, each of eight numbers or so.
pub(crate) fn of_threads(operands: &Operands, count: i64) -> Result<Launch> {
    if count >= WORK_MAX {
        return operands.refuse(format!("{count} times eight numbers are too many"));
    }
    Ok(Launch::of_rows(
        (count + i64::from(THREADS) - 1) / i64::from(THREADS),
        THREADS,
    ))
}
