//! Queries, keys and values of latent attention in a training pass, with their gradients, by
//! `cuda/train.cu`.

use crate::driver::Arguments;
use crate::error::Result;
use crate::operands::{Operands, address};
use crate::train::{TrainKernels, of_threads};
use tch::{Kind, Tensor};

/// Sizes of the heads of latent attention.
#[derive(Clone, Copy, Debug)]
pub struct LatentHeads {
    /// Heads (H).
    pub heads: i64,
    /// Dimensions of a query's and a key's part that does not rotate (dn).
    pub plain: i64,
    /// Dimensions of the part that does (dr).
    pub rotary: i64,
    /// Dimensions of a value (dv).
    pub value: i64,
}

impl LatentHeads {
    /// Whether there are kernels for these sizes.
    pub fn are_known(&self) -> bool {
        self.plain % 8 == 0
            && self.rotary % 16 == 0
            && self.value % 8 == 0
            && self.value <= self.width()
    }

    /// Dimensions of a query and of a key.
    pub fn width(&self) -> i64 {
        self.plain + self.rotary
    }

    fn arguments(&self, arguments: Arguments, rows: i64) -> Arguments {
        arguments
            .int(rows as i32)
            .int(self.heads as i32)
            .int(self.plain as i32)
            .int(self.rotary as i32)
    }

    fn check(&self, operands: &Operands, table: &Tensor, rows: i64) -> Result<()> {
        if !self.are_known() {
            return operands.refuse(format!("{self:?}"));
        }
        operands.are(table, Kind::Float, &[rows, 2, self.rotary])
    }
}

impl TrainKernels {
    /// Rotates the last dimensions of each query in place: `x` `[T, W]`, whose rows begin with `[H,
    /// dn + dr]`, `table` float32 `[T, 2, dr]` as [`Self::rotate`]'s.
    pub fn rotate_tails(&self, x: &Tensor, table: &Tensor, heads: LatentHeads) -> Result<()> {
        let operands = Operands::of("rotate_tails");
        let (rows, stride) = x.size2()?;
        operands.are(x, Kind::BFloat16, &[rows, stride])?;
        heads.check(&operands, table, rows)?;
        check_stride(&operands, stride, heads.heads * heads.width())?;
        let arguments = Arguments::new().address(address(x)).address(address(table));
        let arguments = heads.arguments(arguments, rows).long(stride);
        let launch = of_threads(&operands, rows * heads.heads * heads.rotary / 16)?;
        self.launch(self.rotate_tails, launch, arguments)
    }

    /// Writes the gradient of [`Self::rotate_tails`]' queries to the beginning of the rows of `to`,
    /// `[T, W]`: `gradient` `[T, H, dn + dr]`.
    pub fn rotate_tails_backward(
        &self,
        gradient: &Tensor,
        table: &Tensor,
        to: &Tensor,
        heads: LatentHeads,
    ) -> Result<()> {
        let operands = Operands::of("rotate_tails_backward");
        let (rows, stride) = to.size2()?;
        operands.are(to, Kind::BFloat16, &[rows, stride])?;
        heads.check(&operands, table, rows)?;
        check_stride(&operands, stride, heads.heads * heads.width())?;
        operands.are(
            gradient,
            Kind::BFloat16,
            &[rows, heads.heads, heads.width()],
        )?;
        let arguments = Arguments::new()
            .address(address(gradient))
            .address(address(table))
            .address(address(to));
        let arguments = heads.arguments(arguments, rows).long(stride);
        let items = heads.plain / 8 + heads.rotary / 16;
        let launch = of_threads(&operands, rows * heads.heads * items)?;
        self.launch(self.rotate_tails_backward, launch, arguments)
    }

    /// Puts the rotated key that all heads share beside each head's own, and zeros behind the
    /// values: `expanded` `[T, H, dn + dv]`, `shared` `[T, dr]`, which may be columns of a wider
    /// tensor, → keys and values `[T, H, dn + dr]`.
    pub fn expand_latent(
        &self,
        expanded: &Tensor,
        shared: &Tensor,
        table: &Tensor,
        heads: LatentHeads,
    ) -> Result<(Tensor, Tensor)> {
        let operands = Operands::of("expand_latent");
        let rows = expanded.size3()?.0;
        heads.check(&operands, table, rows)?;
        let of_head = heads.plain + heads.value;
        operands.are(expanded, Kind::BFloat16, &[rows, heads.heads, of_head])?;
        let stride = shared.stride()[0];
        let are_columns = shared.kind() == Kind::BFloat16
            && shared.size() == [rows, heads.rotary]
            && shared.stride()[1] == 1
            && shared.device() == expanded.device();
        if !are_columns || !address(shared).is_multiple_of(16) {
            return operands.refuse(format!("{shared:?} has no columns of {heads:?}"));
        }
        check_stride(&operands, stride, heads.rotary)?;
        let options = (Kind::BFloat16, expanded.device());
        let empty = || Tensor::f_empty([rows, heads.heads, heads.width()], options);
        let (keys, values) = (empty()?, empty()?);
        let arguments = Arguments::new()
            .address(address(expanded))
            .address(address(shared))
            .address(address(table))
            .address(address(&keys))
            .address(address(&values));
        let arguments = heads
            .arguments(arguments, rows)
            .int(heads.value as i32)
            .long(stride);
        let items = heads.plain / 8 + heads.rotary / 16 + heads.width() / 8;
        let launch = of_threads(&operands, rows * heads.heads * items)?;
        self.launch(self.expand_latent, launch, arguments)?;
        Ok((keys, values))
    }

    /// Computes the gradients of [`Self::expand_latent`]'s `expanded` and `shared` from those of
    /// keys and values.
    pub fn expand_latent_backward(
        &self,
        [keys, values]: [&Tensor; 2],
        table: &Tensor,
        heads: LatentHeads,
    ) -> Result<(Tensor, Tensor)> {
        let operands = Operands::of("expand_latent_backward");
        let rows = keys.size3()?.0;
        heads.check(&operands, table, rows)?;
        for of in [keys, values] {
            operands.are(of, Kind::BFloat16, &[rows, heads.heads, heads.width()])?;
        }
        let of_head = heads.plain + heads.value;
        let options = (Kind::BFloat16, keys.device());
        let expanded = Tensor::f_empty([rows, heads.heads, of_head], options)?;
        let shared = Tensor::f_empty([rows, heads.rotary], options)?;
        let arguments = Arguments::new()
            .address(address(keys))
            .address(address(values))
            .address(address(table))
            .address(address(&expanded))
            .address(address(&shared));
        let arguments = heads.arguments(arguments, rows).int(heads.value as i32);
        let items = heads.heads * of_head / 8 + heads.rotary / 16;
        let launch = of_threads(&operands, rows * items)?;
        self.launch(self.expand_latent_backward, launch, arguments)?;
        Ok((expanded, shared))
    }
}

/// Rows must begin at multiples of a vector's 16 bytes.
fn check_stride(operands: &Operands, stride: i64, least: i64) -> Result<()> {
    if stride % 8 == 0 && stride >= least {
        return Ok(());
    }
    operands.refuse(format!("rows of {stride} numbers, {least} at least"))
}
