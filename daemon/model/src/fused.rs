//! Operations of a pass by r1d's own kernels, with their gradients: what lies between a layer's
//! products, where libtorch would go through memory once for each small step.
//!
//! What an operation keeps for its gradient is what libtorch's would: its operands. A gradient is
//! computed once, so two of them are written over what is not needed any more.

use crate::error::Result;
use r1d_kernels::{Normed, QkvSizes, TrainKernels};
use r1d_torch::function::differentiable;
use std::sync::Arc;
use tch::Tensor;

/// The gradients of an operation's inputs, or what went wrong.
type Gradients = std::result::Result<Vec<Option<Tensor>>, String>;

/// Turns an error into the text that libtorch passes on.
fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// Computes h = x + added, and its norm: `[T, D]` each.
pub(crate) fn add_rms_norm(
    kernels: &Arc<TrainKernels>,
    x: &Tensor,
    added: Option<&Tensor>,
    weight: &Tensor,
    epsilon: f32,
) -> Result<(Tensor, Tensor)> {
    let Normed { sum, normed, scale } = tch::no_grad(|| {
        let added = added.map(Tensor::f_contiguous).transpose()?;
        kernels.add_rms_norm(&x.f_contiguous()?, added.as_ref(), weight, epsilon)
    })?;
    let mut inputs = vec![x, weight];
    inputs.extend(added);
    let backward = {
        let (kernels, kept, weight) = (Arc::clone(kernels), sum.f_detach()?, weight.f_detach()?);
        let adds = added.is_some();
        move |given: &[Option<Tensor>]| -> Gradients {
            let contiguous = |of: &Option<Tensor>| {
                let made = of.as_ref().map(Tensor::f_contiguous);
                made.transpose().map_err(text)
            };
            let (of_sum, of_normed) = (contiguous(&given[0])?, contiguous(&given[1])?);
            let (of_x, of_weight) = match of_normed {
                Some(of_normed) => {
                    let (of_x, of_weight) = kernels
                        .rms_norm_backward(&of_normed, of_sum.as_ref(), (&kept, &scale), &weight)
                        .map_err(text)?;
                    (Some(of_x), Some(of_weight))
                }
                None => (of_sum, None),
            };
            let of_added = of_x.as_ref().map(Tensor::shallow_clone);
            let mut gradients = vec![of_x, of_weight];
            gradients.extend(adds.then_some(of_added));
            Ok(gradients)
        }
    };
    let outputs = differentiable(&inputs, vec![sum, normed], Box::new(backward))?;
    let [sum, normed] = <[Tensor; 2]>::try_from(outputs).unwrap_or_default();
    Ok((sum, normed))
}

/// Computes silu(gate) · up: `[T, 2I]`, gate before up → `[T, I]`. The gradient is written over
/// `gate_up`, which nothing else may need.
pub(crate) fn silu_mul(kernels: &Arc<TrainKernels>, gate_up: &Tensor) -> Result<Tensor> {
    let kept = gate_up.f_detach()?.f_contiguous()?;
    let out = tch::no_grad(|| kernels.silu_mul(&kept))?;
    let kernels = Arc::clone(kernels);
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let Some(gradient) = &given[0] else {
            return Ok(vec![None]);
        };
        let gradient = gradient.f_contiguous().map_err(text)?;
        kernels.silu_mul_backward(&gradient, &kept).map_err(text)?;
        Ok(vec![Some(kept)])
    };
    let outputs = differentiable(&[gate_up], vec![out], Box::new(backward))?;
    Ok(outputs.into_iter().next().unwrap_or_default())
}

/// Rotates queries and keys of a product `[T, heads + 2 · key_heads, d]` in place by the tokens'
/// `table`, float32 `[T, 2, d]`; nothing else may need the product. Returns queries, keys and
/// values, views of it.
pub(crate) fn rotate(
    kernels: &Arc<TrainKernels>,
    qkv: &Tensor,
    table: &Tensor,
    sizes: QkvSizes,
) -> Result<[Tensor; 3]> {
    let turned = qkv.f_detach()?.f_contiguous()?;
    tch::no_grad(|| kernels.rotate(&turned, table, sizes))?;
    let QkvSizes {
        heads, key_heads, ..
    } = sizes;
    let outputs = turned.f_split_with_sizes([heads, key_heads, key_heads], 1)?;
    let (kernels, table) = (Arc::clone(kernels), table.shallow_clone());
    let shapes: Vec<Tensor> = outputs.iter().map(Tensor::detach).collect();
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let whole = given.iter().zip(&shapes).map(|(of, like)| match of {
            Some(of) => of.f_contiguous(),
            None => like.f_zeros_like()?.f_contiguous(),
        });
        let whole = whole
            .collect::<std::result::Result<Vec<_>, _>>()
            .map_err(text)?;
        let [query, key, value] = &whole[..] else {
            return Err("queries, keys and values".to_owned());
        };
        let gradient = kernels.rotate_backward([query, key, value], &table, sizes);
        Ok(vec![Some(gradient.map_err(text)?)])
    };
    let outputs = differentiable(&[qkv], outputs, Box::new(backward))?;
    Ok(<[Tensor; 3]>::try_from(outputs).unwrap_or_default())
}
