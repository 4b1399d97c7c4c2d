//! Operations of a pass by r1d's own kernels, with their gradients: what lies between a layer's
//! products, where libtorch would go through memory once for each small step.
//!
//! What an operation keeps for its gradient is what libtorch's would: its operands. A gradient is
//! computed once, so two of them are written over what is not needed any more.

use crate::error::Result;
use r1d_kernels::{Gating, LatentHeads, Normed, QkvSizes, TrainKernels};
use r1d_torch::function::differentiable;
use std::sync::Arc;
use tch::{Kind, Tensor};

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
    one(differentiable(&[gate_up], vec![out], Box::new(backward))?)
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

/// Rotates the tails of queries, which rows of `x` `[T, W]` begin with (`[H, dn + dr]`), in place
/// by the tokens' `table`, float32 `[T, 2, dr]`; nothing else may need `x`. Returns the queries
/// `[T, H, dn + dr]` and the `rest` of the rows in parts of these widths, views of it.
pub(crate) fn rotate_tails(
    kernels: &Arc<TrainKernels>,
    x: &Tensor,
    table: &Tensor,
    heads: LatentHeads,
    rest: &[i64],
) -> Result<Vec<Tensor>> {
    let turned = x.f_detach()?.f_contiguous()?;
    tch::no_grad(|| kernels.rotate_tails(&turned, table, heads))?;
    let queries = heads.heads * heads.width();
    let widths: Vec<i64> = [queries].iter().chain(rest).copied().collect();
    let mut outputs = turned.f_split_with_sizes(&widths, 1)?;
    outputs[0] = outputs[0].f_unflatten(1, [heads.heads, heads.width()])?;
    let (kernels, table) = (Arc::clone(kernels), table.shallow_clone());
    let (shape, options) = (turned.size(), (turned.kind(), turned.device()));
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let whole = Tensor::f_empty(&shape, options).map_err(text)?;
        let parts = whole.f_split_with_sizes(&widths, 1).map_err(text)?;
        for (mut part, of) in parts.into_iter().zip(given).skip(1) {
            match of {
                Some(of) => part.f_copy_(of).map_err(text)?,
                None => part.f_zero_().map(drop).map_err(text)?,
            }
        }
        let of_queries = match &given[0] {
            Some(of) => of.f_contiguous(),
            None => Tensor::f_zeros([shape[0], heads.heads, heads.width()], options),
        };
        let of_queries = of_queries.map_err(text)?;
        kernels
            .rotate_tails_backward(&of_queries, &table, &whole, heads)
            .map_err(text)?;
        Ok(vec![Some(whole)])
    };
    Ok(differentiable(&[x], outputs, Box::new(backward))?)
}

/// Makes keys and values of latent attention: `expanded` `[T, H, dn + dv]`, each head's own, and
/// `shared` `[T, dr]`, the key of all heads before its rotation. Returns both as `[T, H, dn + dr]`,
/// values with zeros behind them.
pub(crate) fn expand_latent(
    kernels: &Arc<TrainKernels>,
    expanded: &Tensor,
    shared: &Tensor,
    table: &Tensor,
    heads: LatentHeads,
) -> Result<[Tensor; 2]> {
    let (keys, values) =
        tch::no_grad(|| kernels.expand_latent(&expanded.f_contiguous()?, shared, table, heads))?;
    let (kernels, table) = (Arc::clone(kernels), table.shallow_clone());
    let (shape, options) = (keys.size(), (keys.kind(), keys.device()));
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let whole = |of: &Option<Tensor>| match of {
            Some(of) => of.f_contiguous().map_err(text),
            None => Tensor::f_zeros(&shape, options).map_err(text),
        };
        let (of_keys, of_values) = (whole(&given[0])?, whole(&given[1])?);
        let (of_expanded, of_shared) = kernels
            .expand_latent_backward([&of_keys, &of_values], &table, heads)
            .map_err(text)?;
        Ok(vec![Some(of_expanded), Some(of_shared)])
    };
    let outputs = differentiable(&[expanded, shared], vec![keys, values], Box::new(backward))?;
    Ok(<[Tensor; 2]>::try_from(outputs).unwrap_or_default())
}

/// Computes x Wᵀ in float32 of bfloat16 operands, whose products are exact in it: `x` `[T, D]`,
/// `weight` `[E, D]` → float32 `[T, E]`. Backward a slope is the sum of two bfloat16 numbers, which
/// have 16 of its bits.
pub(crate) fn wide_product(x: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (rows, matrix) = (x.f_detach()?, weight.f_detach()?);
    let y = tch::no_grad(|| rows.f_mm_dtype(&matrix.f_transpose(0, 1)?, Kind::Float))?;
    let gradients = move |slope: &Tensor| -> Result<[Tensor; 2]> {
        let high = slope.f_to_kind(rows.kind())?;
        let low = slope.f_sub(&high)?.f_to_kind(rows.kind())?;
        let slopes = Tensor::f_cat(&[high, low], 1)?;
        let of_x = slopes.f_mm(&Tensor::f_cat(&[&matrix, &matrix], 0)?)?;
        let halves = slopes.f_transpose(0, 1)?.f_mm_dtype(&rows, Kind::Float)?;
        let halves = halves.f_chunk(2, 0)?;
        Ok([of_x, halves[0].f_add(&halves[1])?.f_to_kind(rows.kind())?])
    };
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let Some(slope) = &given[0] else {
            return Ok(vec![None, None]);
        };
        Ok(gradients(slope).map_err(text)?.map(Some).into())
    };
    one(differentiable(&[x, weight], vec![y], Box::new(backward))?)
}

/// Computes the gates of the chosen experts: `scores` float32 `[T, E]`, `chosen` int64 `[T, K]` →
/// float32 `[T, K]`.
pub(crate) fn gates(
    kernels: &Arc<TrainKernels>,
    scores: &Tensor,
    chosen: &Tensor,
    gating: Gating,
) -> Result<Tensor> {
    let kept = scores.f_detach()?.f_contiguous()?;
    let gates = tch::no_grad(|| kernels.gates(&kept, chosen, gating))?;
    let (kernels, chosen) = (Arc::clone(kernels), chosen.shallow_clone());
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let Some(gradient) = &given[0] else {
            return Ok(vec![None]);
        };
        let gradient = gradient.f_contiguous().map_err(text)?;
        let of_scores = kernels.gates_backward(&gradient, &kept, &chosen, gating);
        Ok(vec![Some(of_scores.map_err(text)?)])
    };
    one(differentiable(&[scores], vec![gates], Box::new(backward))?)
}

/// Puts each token's row at the places of its pairs: `x` `[T, D]`, `place` int32 `[T, K]` → `[T ·
/// K, D]`.
pub(crate) fn spread(kernels: &Arc<TrainKernels>, x: &Tensor, place: &Tensor) -> Result<Tensor> {
    let rows = tch::no_grad(|| kernels.spread(&x.f_contiguous()?, place))?;
    let (kernels, place) = (Arc::clone(kernels), place.shallow_clone());
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let Some(gradient) = &given[0] else {
            return Ok(vec![None]);
        };
        let gradient = gradient.f_contiguous().map_err(text)?;
        let of_x = kernels.spread_backward(&gradient, &place);
        Ok(vec![Some(of_x.map_err(text)?)])
    };
    one(differentiable(&[x], vec![rows], Box::new(backward))?)
}

/// Computes Σ_k gates[t, k] · rows[place[t, k]] + more[t]: `rows` `[T · K, D]`, `gates` float32
/// `[T, K]`, `more` `[T, D]` → `[T, D]`. The gradient is written over `rows`, which nothing else
/// may need.
pub(crate) fn weigh(
    kernels: &Arc<TrainKernels>,
    rows: &Tensor,
    place: &Tensor,
    gates: &Tensor,
    more: Option<&Tensor>,
) -> Result<Tensor> {
    let kept = rows.f_detach()?.f_contiguous()?;
    let gates_kept = gates.f_detach()?;
    let y = tch::no_grad(|| {
        let more = more.map(Tensor::f_contiguous).transpose()?;
        kernels.weigh(&kept, place, &gates_kept, more.as_ref())
    })?;
    let mut inputs = vec![rows, gates];
    inputs.extend(more);
    let (kernels, place, adds) = (Arc::clone(kernels), place.shallow_clone(), more.is_some());
    let backward = move |given: &[Option<Tensor>]| -> Gradients {
        let Some(gradient) = &given[0] else {
            return Ok((0..2 + usize::from(adds)).map(|_| None).collect());
        };
        let gradient = gradient.f_contiguous().map_err(text)?;
        let of_gates = kernels
            .weigh_backward(&gradient, &kept, &place, &gates_kept)
            .map_err(text)?;
        let mut gradients = vec![Some(kept), Some(of_gates)];
        gradients.extend(adds.then_some(Some(gradient)));
        Ok(gradients)
    };
    one(differentiable(&inputs, vec![y], Box::new(backward))?)
}

/// The only output of an operation.
fn one(outputs: Vec<Tensor>) -> Result<Tensor> {
    Ok(outputs.into_iter().next().unwrap_or_default())
}
