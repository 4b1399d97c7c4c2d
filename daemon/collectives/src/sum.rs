//! Sums over ranks, and over micro-batches, in an order that is written here and nowhere else.
//!
//! A library's all-reduce adds in an order of its own, which depends on the number of ranks, and in
//! bfloat16 if that is what the tensors are. Here parts travel as they are (an all-to-all), their
//! owner adds them in float32, and what was added is gathered: the same bytes on the wire as a
//! ring, and the same bits on every rank.
//!
//! All sums go along one binary tree ([`TreeSum`]): neighbours first, then neighbours of those.
//! With 2^k leaves, of which each of 2^j ranks has an aligned run, the ranks' own sums are nodes of
//! the very tree that one rank would go through alone. So a step that is cut into 2^k micro-batches
//! has the same gradients, to the bit, on 1, 2, 4, … 2^k ranks. Nothing is divided by a number of
//! ranks.

use crate::call::Call;
use crate::process_group::{CollectiveError, ProcessGroup};
use tch::{Kind, TchError, Tensor};

/// The sum of a row of tensors along a binary tree: `((a+b)+(c+d))+…`. A leaf that is not there
/// counts as +0. At most log2(leaves) + 1 sums are held.
#[derive(Debug, Default)]
pub struct TreeSum {
    /// Sums of 2^level leaves each, of falling levels.
    nodes: Vec<(u32, Option<Tensor>)>,
}

impl TreeSum {
    /// Adds the next leaf. Takes the tensor's memory: what it is a view of changes.
    pub fn push(&mut self, leaf: Option<Tensor>) -> Result<(), TchError> {
        let (mut level, mut sum) = (0, leaf);
        while self.nodes.last().is_some_and(|(of, _)| *of == level) {
            let left = self.nodes.pop().and_then(|(_, left)| left);
            sum = added(left, sum)?;
            level += 1;
        }
        self.nodes.push((level, sum));
        Ok(())
    }

    /// The sum of all leaves; `None` if none of them was there. Where their number is no power of
    /// two, the smaller trees behind are added from the last on.
    pub fn finish(mut self) -> Result<Option<Tensor>, TchError> {
        let mut sum = self.nodes.pop().and_then(|(_, last)| last);
        while let Some((_, left)) = self.nodes.pop() {
            sum = added(left, sum)?;
        }
        Ok(sum)
    }
}

/// The sum of two nodes, in the memory of one of them.
fn added(left: Option<Tensor>, right: Option<Tensor>) -> Result<Option<Tensor>, TchError> {
    match (left, right) {
        (Some(mut left), Some(right)) => left.f_add_(&right).map(Some),
        // A missing leaf is +0 and not nothing: -0 + 0 is 0, as it is where zeros came from
        // another rank.
        (Some(mut one), None) | (None, Some(mut one)) => one.f_add_scalar_(0.0).map(Some),
        (None, None) => Ok(None),
    }
}

/// The dtype in which tensors of `kind` are summed: float32 for what is narrower.
fn summed_in(kind: Kind) -> Option<Kind> {
    match kind {
        Kind::BFloat16 | Kind::Half | Kind::Float => Some(Kind::Float),
        Kind::Double => Some(Kind::Double),
        Kind::Int64 => Some(Kind::Int64),
        _ => None,
    }
}

/// The number of rows of each of `size` ranks that share `rows` evenly: the first ones have one
/// more where it does not divide.
pub fn even_shares(rows: i64, size: usize) -> Vec<i64> {
    let (share, rest) = (rows / size as i64, rows % size as i64);
    (0..size as i64)
        .map(|r| share + i64::from(r < rest))
        .collect()
}

/// Sums `tensor` `[Σ rows, row…]` over all ranks and leaves each with its part: rank r gets the sum
/// of `rows[r]` rows. Shape and `rows` are the same on all ranks. Narrow floats are summed in
/// float32, which the result is of; float64 and int64 stay what they are.
pub fn reduce_scatter(
    group: &mut ProcessGroup,
    call: Call,
    tensor: &Tensor,
    rows: &[i64],
) -> Result<Tensor, CollectiveError> {
    let Some(kind) = summed_in(tensor.kind()) else {
        return Err(group.refused(call, format!("{:?} has no sums", tensor.kind())));
    };
    let received = group.all_to_all(call, tensor, rows)?;
    let own = rows[group.rank()];
    if received.counts.iter().any(|n| *n != own) {
        return Err(group.split_unlike(call, received.counts, own));
    }
    let mut sum = TreeSum::default();
    for rank in 0..group.size() as i64 {
        let part = received.rows.f_narrow(0, rank * own, own)?;
        sum.push(Some(part.f_to_kind(kind)?))?;
    }
    match sum.finish()? {
        // Not a view that keeps all ranks' parts.
        Some(sum) => Ok(sum.f_detach_copy()?),
        None => Err(group.refused(call, "a group has a rank".to_owned())),
    }
}

/// Sums `tensor` over all ranks: the same bits on each. Shape and dtype are the same on all ranks;
/// the sum's dtype is that of [`reduce_scatter`].
pub fn all_reduce(
    group: &mut ProcessGroup,
    call: Call,
    tensor: &Tensor,
) -> Result<Tensor, CollectiveError> {
    let shape = tensor.size();
    let elements = tensor.numel() as i64;
    let flat = tensor.f_detach()?.f_contiguous()?.f_view([elements])?;
    let shares = even_shares(elements, group.size());
    let own = reduce_scatter(group, call, &flat, &shares)?;
    let all = group.all_gather(call, &own)?;
    Ok(all.rows.f_view(shape.as_slice())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum_of(leaves: &[Option<f32>]) -> Option<f32> {
        let mut sum = TreeSum::default();
        for leaf in leaves {
            sum.push(leaf.map(|x| Tensor::from_slice(&[x]))).unwrap();
            assert!(sum.nodes.len() <= leaves.len().ilog2() as usize + 1);
        }
        let found = sum.finish().unwrap()?;
        Some(Vec::<f32>::try_from(&found).unwrap()[0])
    }

    #[test]
    fn neighbours_are_added_first() {
        // 1 + 2^-24 is 1 in float32: what is added first shows in the sum.
        let small = Some(2f32.powi(-24));
        let leaves = [Some(1.0), small, small, small];
        let in_order = leaves.iter().flatten().sum::<f32>();
        assert_eq!(in_order, 1.0);
        assert_eq!(sum_of(&leaves), Some(1.0 + 2f32.powi(-23)));
        // Of six, the last two are a tree of their own: 1 + (2^-24 + 2^-24).
        let leaves = [Some(1.0), None, None, None, small, small];
        assert_eq!(sum_of(&leaves), Some(1.0 + 2f32.powi(-23)));
    }

    #[test]
    fn a_missing_leaf_is_zero() {
        let bits = |leaves: &[Option<f32>]| sum_of(leaves).map(f32::to_bits);
        assert_eq!(bits(&[None, None, None]), None);
        for leaves in [[Some(-0.0), None], [None, Some(-0.0)]] {
            assert_eq!(bits(&leaves), Some(0.0f32.to_bits()), "{leaves:?}");
        }
        assert_eq!(bits(&[Some(-0.0), Some(-0.0)]), Some((-0.0f32).to_bits()));
    }

    #[test]
    fn shares_are_even_and_complete() {
        assert_eq!(even_shares(10, 4), [3, 3, 2, 2]);
        assert_eq!(even_shares(2, 3), [1, 1, 0]);
        assert_eq!(even_shares(0, 2), [0, 0]);
    }
}
