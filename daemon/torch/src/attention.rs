//! Attention that tch does not bind: of one query per sequence over a cache on the CPU, in one pass
//! over keys and values; of whole sequences without padding on a GPU.

use crate::even_gradients;
use crate::function::differentiable;
use crate::shim::{self, KernelError, TorchError, check};
use tch::{Kind, Tensor};

/// Computes softmax(scale · q kᵀ) v over the keys up to each row's position: `query` `[B, H, d]`,
/// `key` `[B, Hk, L, d]`, `value` `[B, Hk, L, dv]` float32 or bfloat16, `positions` int64 `[B]` →
/// `[B, H, dv]` in the query's dtype. Computed in float32; no gradients.
pub fn decode(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    positions: &Tensor,
    scale: f64,
) -> Result<Tensor, KernelError> {
    let (batch, heads, _) = query.size3()?;
    let (_, _, _, value_width) = value.size4()?;
    let wide = query.f_to_kind(Kind::Float)?.f_contiguous()?;
    let positions = positions.f_contiguous()?;
    let out = Tensor::f_empty([batch, heads, value_width], (Kind::Float, query.device()))?;
    // SAFETY: live tensors, read and written for the time of the call; the shim checks their
    // shapes.
    check("attention over a cache", unsafe {
        shim::r1d_decode_attention(
            wide.as_ptr(),
            key.as_ptr(),
            value.as_ptr(),
            positions.as_ptr(),
            scale,
            out.as_ptr(),
        )
    })?;
    Ok(out.f_to_kind(query.kind())?)
}

/// The places of sequences that lie end to end.
pub struct Starts {
    /// The first query of each sequence, and their number, int32 `[sequences + 1]`.
    pub queries: Tensor,
    /// The same of the keys, of which a sequence may have more, before its queries.
    pub keys: Tensor,
    /// Most queries of a sequence.
    pub longest_query: i64,
    /// Most keys of a sequence.
    pub longest_key: i64,
}

/// Computes softmax(scale · q kᵀ) v of each sequence, whose last query sees all of its keys, the
/// one before one fewer, and so on: `query` `[T, H, d]`, `key` and `value` `[Tk, Hk, d]` bfloat16
/// on a GPU (FlashAttention 2, Dao 2023) → `[T, H, d]`. Differentiable.
pub fn varlen(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    starts: &Starts,
    scale: f64,
) -> Result<Tensor, TorchError> {
    let mut out = std::ptr::null_mut();
    // SAFETY: live tensors, read for the time of the call; on success `out` is a new tensor that is
    // ours.
    check("attention without padding", unsafe {
        shim::r1d_varlen_attention(
            query.as_ptr(),
            key.as_ptr(),
            value.as_ptr(),
            starts.queries.as_ptr(),
            starts.keys.as_ptr(),
            starts.longest_query,
            starts.longest_key,
            scale,
            &mut out,
        )
    })?;
    Ok(unsafe { Tensor::from_ptr(out) })
}

/// Computes causal softmax(scale · q kᵀ) v of sequences of one length: `query` `[B, H, L, d]`,
/// `key` and `value` `[B, Hk, L, d]` bfloat16 on a GPU of the Hopper generation → `[B, H, L, d]`.
/// Differentiable.
///
/// It is cuDNN's, which takes half the time of FlashAttention 2 there; backward not as libtorch
/// calls it, which adds in any order, and FlashAttention 2's deterministic kernels where sequences
/// are too long for that. cuDNN makes a plan for each new shape, which takes half a second.
pub fn even(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    scale: f64,
) -> Result<Tensor, TorchError> {
    let kept = [query, key, value].map(|operand| operand.detach());
    let [q, k, v] = &kept;
    let [mut out, mut lse] = [std::ptr::null_mut(); 2];
    // SAFETY: live tensors, read for the time of the call; on success `out` and `lse` are new
    // tensors that are ours.
    check("attention of even sequences", unsafe {
        let (q, k, v) = (q.as_ptr(), k.as_ptr(), v.as_ptr());
        shim::r1d_even_attention(q, k, v, scale, &mut out, &mut lse)
    })?;
    let (out, lse) = unsafe { (Tensor::from_ptr(out), Tensor::from_ptr(lse)) };
    let found = out.detach();
    let gradient = move |given: &[Option<Tensor>]| {
        let Some(given) = &given[0] else {
            return Ok(vec![None, None, None]);
        };
        let gradients = even_backward(given, &kept, &found, &lse, scale);
        Ok(gradients
            .map_err(|error| error.to_string())?
            .map(Some)
            .into())
    };
    let outputs = differentiable(&[query, key, value], vec![out], Box::new(gradient))?;
    Ok(outputs.into_iter().next().unwrap_or_default())
}

fn even_backward(
    gradient: &Tensor,
    [query, key, value]: &[Tensor; 3],
    out: &Tensor,
    lse: &Tensor,
    scale: f64,
) -> Result<[Tensor; 3], TorchError> {
    let kept = [query, key, value];
    if let Some(found) = even_gradients::causal_gradients(gradient, kept, (out, lse), scale)? {
        return Ok(found);
    }
    let mut found = [std::ptr::null_mut(); 3];
    let [of_query, of_key, of_value] = &mut found;
    // SAFETY: as above.
    check("gradients of attention of even sequences", unsafe {
        shim::r1d_even_attention_backward(
            gradient.as_ptr(),
            query.as_ptr(),
            key.as_ptr(),
            value.as_ptr(),
            out.as_ptr(),
            lse.as_ptr(),
            scale,
            of_query,
            of_key,
            of_value,
        )
    })?;
    Ok(found.map(|pointer| unsafe { Tensor::from_ptr(pointer) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    fn random(shape: &[i64], seed: f64) -> Tensor {
        let count = shape.iter().product::<i64>();
        (Tensor::arange(count, (Kind::Double, Device::Cpu)) * 0.731 + seed)
            .sin()
            .view(shape)
            .to_kind(Kind::Float)
    }

    #[test]
    fn it_is_softmax_over_the_keys_up_to_the_position() {
        for (width, value_width, kind, tolerance) in [
            (64, 64, Kind::Float, 1e-6),
            (20, 37, Kind::Float, 1e-6),
            (48, 16, Kind::BFloat16, 1e-2),
        ] {
            let (batch, heads, key_heads, capacity) = (3, 6, 2, 50);
            let query = random(&[batch, heads, width], 1.0).to_kind(kind);
            // Keys and values are a part of larger storage, as in a cache.
            let key = random(&[batch, key_heads, capacity + 9, width], 2.0)
                .to_kind(kind)
                .narrow(2, 0, capacity);
            let value = random(&[batch, key_heads, capacity + 9, value_width], 3.0)
                .to_kind(kind)
                .narrow(2, 0, capacity);
            let positions = [0i64, 17, 49];
            let found = decode(&query, &key, &value, &Tensor::from_slice(&positions), 0.3).unwrap();
            assert_eq!(
                (found.size(), found.kind()),
                (vec![batch, heads, value_width], kind)
            );
            for (row, position) in (0..batch).zip(positions) {
                for head in 0..heads {
                    let of = |t: &Tensor| {
                        t.get(row)
                            .get(head / 3)
                            .narrow(0, 0, position + 1)
                            .to_kind(Kind::Double)
                    };
                    let scores =
                        of(&key).matmul(&query.get(row).get(head).to_kind(Kind::Double)) * 0.3;
                    let expected = scores.softmax(0, Kind::Double).matmul(&of(&value));
                    let difference = f64::try_from(
                        (found.get(row).get(head).to_kind(Kind::Double) - expected)
                            .abs()
                            .max(),
                    )
                    .unwrap();
                    assert!(
                        difference < tolerance,
                        "{kind:?} width {width}, row {row}, head {head}: {difference:e}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_position_outside_the_cache_is_refused() {
        let (query, key) = (random(&[1, 2, 16], 0.0), random(&[1, 2, 4, 16], 0.0));
        let refused = decode(&query, &key, &key, &Tensor::from_slice(&[4i64]), 1.0)
            .unwrap_err()
            .to_string();
        assert!(refused.contains("outside the keys"), "{refused}");
    }
}
