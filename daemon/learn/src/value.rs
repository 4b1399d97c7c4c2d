//! The loss of PPO's value model.

use tch::{Kind, Tensor};

/// A share of a minibatch's value loss, and sums for the metrics.
pub struct ValueLoss {
    /// Scalar; differentiable in the values.
    pub loss: Tensor,
    /// Scalar float64: at how many tokens the clip held the value back.
    pub held: Tensor,
}

/// N tokens out of `tokens`: L = ½ · mean max((V − R)², (clip(V, V_old − ε, V_old + ε) − R)²). All
/// `[N]`: the values V, those before the first update, the returns R. ε is `cliprange_value`.
pub fn value_loss(
    values: &Tensor,
    old: &Tensor,
    returns: &Tensor,
    cliprange_value: f64,
    tokens: f64,
) -> ValueLoss {
    let clipped = values
        .maximum(&(old - cliprange_value))
        .minimum(&(old + cliprange_value));
    let (free, bound) = ((values - returns).square(), (clipped - returns).square());
    let held = tch::no_grad(|| bound.gt_tensor(&free).sum(Kind::Double));
    ValueLoss {
        loss: free.maximum(&bound).sum(None::<Kind>) * (0.5 / tokens),
        held,
    }
}
