//! The loss of PPO's value model.

use tch::{Kind, Tensor};

/// A part of a minibatch's value loss, and a sum for the metrics.
pub struct ValueLoss {
    /// The loss, a scalar that is differentiable in the values.
    pub loss: Tensor,
    /// The number of tokens at which the clip held the value back, a float64 scalar.
    pub held: Tensor,
}

/// The loss of N tokens out of `tokens`: L = ½ · mean max((V − R)², (clip(V, V_old − ε, V_old + ε)
/// − R)²). The inputs are `[N]`: the values V, those before the first update, and the returns R. ε
/// is `cliprange_value`.
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
