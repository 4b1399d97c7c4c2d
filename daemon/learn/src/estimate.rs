//! Computes each token's reward, advantage and return from a rollout batch, before PPO learns from
//! it. It is plain arithmetic without tensors.
//!
//! ```text
//! o_t is the completion's token t.
//! r_t = −kl_coef · (logπ_old(o_t) − logπ_ref(o_t)) + [t = last] · score   k1 in the reward
//! δ_t = r_t + γ · V_{t+1} − V_t                                      V is 0 behind the last token
//! A_t = δ_t + γλ · A_{t+1}                            GAE (Schulman et al. 2016)
//! R_t = A_t + V_t                                                    what the value model learns
//! ```
//!
//! Advantages are then whitened over all tokens of the batch, returns are not.

use r1d_proto::hyperparameters::PpoObjective;

/// The estimates of one completion, with an entry per token.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Estimate {
    /// A_t.
    pub advantages: Vec<f64>,
    /// R_t.
    pub returns: Vec<f64>,
    /// Σ_t logπ_old − logπ_ref, nats.
    pub kl: f64,
}

/// Computes the estimates of one completion from its log-probabilities before the first update, the
/// reference's (empty if there is none, for `kl_coef` 0), the value model's values, and its score.
/// All lists have an entry per token.
pub fn estimate(
    objective: &PpoObjective,
    old: &[f32],
    reference: &[f32],
    values: &[f32],
    score: f32,
) -> Estimate {
    let tokens = old.len().min(values.len());
    let mut out = Estimate {
        advantages: vec![0.0; tokens],
        returns: vec![0.0; tokens],
        kl: 0.0,
    };
    let (mut next_value, mut next_advantage) = (0.0, 0.0);
    let places = out
        .advantages
        .iter_mut()
        .zip(&mut out.returns)
        .zip(old.iter().zip(values))
        .enumerate();
    for (t, ((advantage, returned), (&old, &value))) in places.rev() {
        let kl = reference
            .get(t)
            .map_or(0.0, |&reference| f64::from(old) - f64::from(reference));
        let score = if t + 1 == tokens {
            f64::from(score)
        } else {
            0.0
        };
        let reward = score - objective.kl_coef * kl;
        let value = f64::from(value);
        *advantage = reward + objective.gamma * next_value - value
            + objective.gamma * objective.lam * next_advantage;
        *returned = *advantage + value;
        out.kl += kl;
        (next_value, next_advantage) = (value, *advantage);
    }
    out
}

/// Whitens advantages to mean 0 and standard deviation 1 (ddof 1) over all tokens; the advantage of
/// a single token becomes 0.
pub fn whiten(estimates: &mut [Estimate]) {
    let all = || estimates.iter().flat_map(|estimate| &estimate.advantages);
    let count = all().count() as f64;
    let mean = all().sum::<f64>() / count.max(1.0);
    let variance = all().map(|a| (a - mean) * (a - mean)).sum::<f64>() / (count - 1.0).max(1.0);
    let scale = 1.0 / (variance + EPSILON).sqrt();
    estimates
        .iter_mut()
        .flat_map(|estimate| &mut estimate.advantages)
        .for_each(|a| *a = (*a - mean) * scale);
}

/// 1 − Var(R − V) / Var(R) over all tokens: 1 if the values predict the returns, 0 if a constant
/// would do as well, and negative if they are worse than that. It is 0 if all returns are equal.
pub fn explained_variance(values: &[Vec<f32>], estimates: &[Estimate]) -> f64 {
    let returns: Vec<f64> = estimates
        .iter()
        .flat_map(|estimate| estimate.returns.iter().copied())
        .collect();
    let errors: Vec<f64> = returns
        .iter()
        .zip(values.iter().flatten())
        .map(|(r, &v)| r - f64::from(v))
        .collect();
    let variance = |of: &[f64]| {
        let mean = of.iter().sum::<f64>() / of.len().max(1) as f64;
        of.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>()
    };
    let spread = variance(&returns);
    if spread > 0.0 {
        1.0 - variance(&errors) / spread
    } else {
        0.0
    }
}

/// Keeps the divisor above 0; the same as in TRL.
const EPSILON: f64 = 1e-8;
