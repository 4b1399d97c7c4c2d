//! Tensors as their bytes. No transport sees a dtype, so none has to know bfloat16.

use tch::{Device, Kind, TchError, Tensor};

/// The tensor's bytes as a flat uint8 tensor: a view of a contiguous tensor, else of a copy.
pub(crate) fn of(tensor: &Tensor) -> Result<Tensor, TchError> {
    let elements = tensor.numel() as i64;
    tensor
        .f_detach()?
        .f_contiguous()?
        .f_view([elements])?
        .f_view_dtype(Kind::Uint8)
}

/// Bytes in a row of this shape.
pub(crate) fn in_row(row: &[i64], kind: Kind) -> i64 {
    row.iter().product::<i64>() * kind.elt_size_in_bytes() as i64
}

/// A new tensor of `rows` rows.
pub(crate) fn rows(
    rows: i64,
    row: &[i64],
    (kind, device): (Kind, Device),
) -> Result<Tensor, TchError> {
    let shape: Vec<i64> = std::iter::once(rows).chain(row.iter().copied()).collect();
    Tensor::f_empty(shape, (kind, device))
}

/// A flat uint8 tensor that holds a copy of these bytes.
pub(crate) fn tensor(bytes: &[u8]) -> Result<Tensor, TchError> {
    Tensor::f_from_slice(bytes)
}

/// A copy of a flat uint8 tensor's bytes.
pub(crate) fn vector(bytes: &Tensor) -> Result<Vec<u8>, TchError> {
    Vec::try_from(bytes)
}
