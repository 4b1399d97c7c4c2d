//! The order in which tokens go to their experts.

use crate::error::Result;
use tch::{Kind, Tensor};

/// (token, expert) pairs in the order of their experts.
pub(crate) struct Dispatch {
    /// Token of each pair, `[T · K]`.
    pub token: Tensor,
    /// The place in that order of each pair, in the order of the router's list, `[T · K]`.
    pub place: Tensor,
    /// The end of expert e's pairs, int32 `[E]`.
    pub ends: Tensor,
    /// Expert of each pair, `[T · K]`.
    pub expert: Tensor,
}

impl Dispatch {
    /// Sorts the pairs of `chosen` int64 `[T, K]` by expert.
    pub(crate) fn new(chosen: &Tensor, experts: i64) -> Result<Dispatch> {
        let per_token = chosen.size()[1];
        let (expert, order) = chosen.f_reshape([-1])?.f_sort_stable(true, 0, false)?;
        let count = Tensor::f_arange(order.size()[0], (Kind::Int64, order.device()))?;
        let place = order.f_empty_like()?.f_scatter_(0, &order, &count)?;
        let every = Tensor::f_arange(experts, (Kind::Int64, order.device()))?;
        let ends = every.f_searchsorted(&expert, true, true, "right", None::<&Tensor>)?;
        Ok(Dispatch {
            token: order.f_floor_divide_scalar(per_token)?,
            place,
            ends,
            expert,
        })
    }
}

/// The beginning of each expert's pairs, from their ends, int32 `[E]`.
pub(crate) fn starts(ends: &Tensor) -> Result<Tensor> {
    let before = ends.f_narrow(0, 0, ends.size()[0] - 1)?;
    Ok(before.f_constant_pad_nd([1, 0])?)
}

/// The number of each expert's pairs, from their ends, int32 `[E]`.
pub(crate) fn load(ends: &Tensor) -> Result<Tensor> {
    Ok(ends.f_sub(&starts(ends)?)?)
}
