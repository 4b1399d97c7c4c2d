//! Matrix products of cuBLAS, on a stream of ours.

use crate::driver::{Stream, function, open_library};
use crate::error::{KernelError, Result};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use tch::{Kind, Tensor};

const NAME: &str = "libcublas.so.13";
const TRANSPOSE: c_int = 1;
const AS_IT_IS: c_int = 0;
const FLOAT32: c_int = 0;
const BFLOAT16: c_int = 14;
const COMPUTE_FLOAT32: c_int = 68;
const ALGORITHM_DEFAULT: c_int = -1;
/// Sums that are split stay float32 to their end; float32 products are not rounded to TF32.
const MATH_WITHOUT_NARROW_SUMS: c_int = 16;
/// cuBLAS's own advice for Hopper.
pub(crate) const WORKSPACE_BYTES: i64 = 32 << 20;

type Handle = *mut c_void;

type GemmEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    c_int,
    c_int,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    c_int,
    c_int,
) -> c_int;

type GemmStridedBatchedEx = unsafe extern "C" fn(
    Handle,
    c_int,
    c_int,
    c_int,
    c_int,
    c_int,
    *const c_void,
    *const c_void,
    c_int,
    c_int,
    i64,
    *const c_void,
    c_int,
    c_int,
    i64,
    *const c_void,
    *mut c_void,
    c_int,
    c_int,
    i64,
    c_int,
    c_int,
    c_int,
) -> c_int;

/// A batch of matrices within a tensor, in numbers.
pub(crate) struct Matrices<'a> {
    pub tensor: &'a Tensor,
    /// The place of the first.
    pub start: i64,
    /// The distance of two rows.
    pub row: i64,
    /// The distance of two matrices.
    pub next: i64,
}

/// y = x w of each of a batch: x `[rows, inner]`, y `[rows, outer]`, all of one dtype.
pub(crate) struct Products<'a> {
    pub count: i64,
    pub rows: i64,
    pub inner: i64,
    pub outer: i64,
    pub x: Matrices<'a>,
    pub w: Matrices<'a>,
    /// w is `[outer, inner]` and not `[inner, outer]`.
    pub transposed: bool,
    pub y: Matrices<'a>,
}

impl Matrices<'_> {
    /// Whether `count` matrices of `rows` rows of `width` numbers lie in the tensor.
    fn hold(&self, count: i64, rows: i64, width: i64) -> bool {
        let end = self.start + (count - 1) * self.next + (rows - 1) * self.row + width;
        self.tensor.is_contiguous() && self.row >= width && end <= self.tensor.numel() as i64
    }

    fn address(&self) -> *mut c_void {
        let bytes = self.start as usize * self.tensor.kind().elt_size_in_bytes();
        self.tensor.data_ptr().wrapping_byte_add(bytes)
    }
}

/// A handle of cuBLAS with a workspace of its own, so that it allocates nothing in a capture.
pub(crate) struct Blas {
    handle: Handle,
    gemm: GemmEx,
    gemm_batched: GemmStridedBatchedEx,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
    _workspace: Tensor,
}

impl Blas {
    pub(crate) fn new(stream: &Stream, workspace: Tensor) -> Result<Blas> {
        let library = open_library(NAME, NAME)?;
        // SAFETY: the signatures are those of cublas_v2.h.
        let (create, destroy, set_stream, set_workspace, set_math, gemm, gemm_batched) = unsafe {
            (
                function::<unsafe extern "C" fn(*mut Handle) -> c_int>(
                    library,
                    NAME,
                    "cublasCreate_v2",
                )?,
                function(library, NAME, "cublasDestroy_v2")?,
                function::<unsafe extern "C" fn(Handle, *mut c_void) -> c_int>(
                    library,
                    NAME,
                    "cublasSetStream_v2",
                )?,
                function::<unsafe extern "C" fn(Handle, *mut c_void, usize) -> c_int>(
                    library,
                    NAME,
                    "cublasSetWorkspace_v2",
                )?,
                function::<unsafe extern "C" fn(Handle, c_int) -> c_int>(
                    library,
                    NAME,
                    "cublasSetMathMode",
                )?,
                function(library, NAME, "cublasGemmEx")?,
                function(library, NAME, "cublasGemmStridedBatchedEx")?,
            )
        };
        let mut handle = null_mut();
        // SAFETY: the pointer is to a handle that lives through the call.
        check("cublasCreate", unsafe { create(&mut handle) })?;
        let blas = Blas {
            handle,
            gemm,
            gemm_batched,
            destroy,
            _workspace: workspace,
        };
        // SAFETY: handle and stream live; the workspace is kept as long as the handle.
        unsafe {
            check("cublasSetStream", set_stream(handle, stream.handle()))?;
            check(
                "cublasSetWorkspace",
                set_workspace(handle, blas._workspace.data_ptr(), WORKSPACE_BYTES as usize),
            )?;
            check(
                "cublasSetMathMode",
                set_math(handle, MATH_WITHOUT_NARROW_SUMS),
            )?;
        }
        Ok(blas)
    }

    /// Computes y = x Wᵀ, or y += x Wᵀ: `x` `[B, K]`, `weight` `[N, K]`, both of one dtype
    /// (bfloat16 or float32), `y` `[B, N]` of that dtype or float32; all contiguous. Sums are
    /// float32.
    pub(crate) fn linear(&self, x: &Tensor, weight: &Tensor, y: &Tensor, adds: bool) -> Result<()> {
        let (rows, inner) = x.size2()?;
        let (outer, weight_inner) = weight.size2()?;
        let kinds = (x.kind(), weight.kind(), y.kind());
        let kinds_fit = matches!(
            kinds,
            (Kind::BFloat16, Kind::BFloat16, Kind::BFloat16 | Kind::Float)
                | (Kind::Float, Kind::Float, Kind::Float)
        );
        let shapes_fit = inner == weight_inner && y.size2()? == (rows, outer);
        let all = [x, weight, y];
        if !kinds_fit || !shapes_fit || all.iter().any(|one| !one.is_contiguous()) {
            return Err(KernelError::Operand {
                operation: "linear",
                message: format!("{x:?} · {weight:?}ᵀ → {y:?}"),
            });
        }
        let (one, beta) = (1.0f32, if adds { 1.0f32 } else { 0.0 });
        let [rows, inner, outer] = [rows, inner, outer].map(|size| size as c_int);
        // cuBLAS counts by columns: what is y row by row is yᵀ = W xᵀ column by column.
        // SAFETY: sizes and dtypes were checked; the scalars live through the call.
        check("cublasGemmEx", unsafe {
            (self.gemm)(
                self.handle,
                TRANSPOSE,
                AS_IT_IS,
                outer,
                rows,
                inner,
                std::ptr::from_ref(&one).cast(),
                weight.data_ptr(),
                dtype(weight),
                inner,
                x.data_ptr(),
                dtype(x),
                inner,
                std::ptr::from_ref(&beta).cast(),
                y.data_ptr(),
                dtype(y),
                outer,
                COMPUTE_FLOAT32,
                ALGORITHM_DEFAULT,
            )
        })
    }
}

impl Blas {
    /// Computes the products of a batch; sums are float32.
    pub(crate) fn batched(&self, products: &Products) -> Result<()> {
        let Products {
            count,
            rows,
            inner,
            outer,
            x,
            w,
            transposed,
            y,
        } = products;
        let (height, width) = if *transposed {
            (outer, inner)
        } else {
            (inner, outer)
        };
        let kinds = [x, w, y].map(|one| one.tensor.kind());
        let fit = kinds.iter().all(|kind| *kind == kinds[0])
            && matches!(kinds[0], Kind::BFloat16 | Kind::Float)
            && x.hold(*count, *rows, *inner)
            && w.hold(*count, *height, *width)
            && y.hold(*count, *rows, *outer);
        if !fit {
            return Err(KernelError::Operand {
                operation: "batched",
                message: format!(
                    "{count} × [{rows}, {inner}] · [{inner}, {outer}] of {:?}, {:?} → {:?}",
                    x.tensor, w.tensor, y.tensor
                ),
            });
        }
        let (one, zero) = (1.0f32, 0.0f32);
        let int = |size: i64| size as c_int;
        // cuBLAS reads matrices by columns, as in `linear`.
        // SAFETY: sizes and dtypes were checked; the scalars live through the call.
        check("cublasGemmStridedBatchedEx", unsafe {
            (self.gemm_batched)(
                self.handle,
                if *transposed { TRANSPOSE } else { AS_IT_IS },
                AS_IT_IS,
                int(*outer),
                int(*rows),
                int(*inner),
                std::ptr::from_ref(&one).cast(),
                w.address(),
                dtype(w.tensor),
                int(w.row),
                w.next,
                x.address(),
                dtype(x.tensor),
                int(x.row),
                x.next,
                std::ptr::from_ref(&zero).cast(),
                y.address(),
                dtype(y.tensor),
                int(y.row),
                y.next,
                int(*count),
                COMPUTE_FLOAT32,
                ALGORITHM_DEFAULT,
            )
        })
    }
}

fn dtype(tensor: &Tensor) -> c_int {
    match tensor.kind() {
        Kind::BFloat16 => BFLOAT16,
        _ => FLOAT32,
    }
}

impl Drop for Blas {
    fn drop(&mut self) {
        // SAFETY: created once, destroyed once. An error has no one to go to.
        let _ = unsafe { (self.destroy)(self.handle) };
    }
}

fn check(call: &'static str, status: c_int) -> Result<()> {
    if status == 0 {
        return Ok(());
    }
    Err(KernelError::Call {
        call,
        message: format!("cuBLAS status {status}"),
    })
}
