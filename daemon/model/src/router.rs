//! Routers, and the ways their load is balanced.

use crate::error::Result;
use crate::fused;
use crate::matmul::Products;
use crate::packed::AuxLoss;
use crate::weights::{Builder, Initial};
use r1d_shape::{RouterRule, Scoring};
use tch::{Kind, Tensor};

/// Scores experts, chooses the best by score plus a correction bias within the best groups, and
/// weighs by the score only (DeepSeek-V3 (12)–(16), node-limited routing; DeepSeek-V2 (20)–(22) and
/// Qwen3-MoE without the bias).
pub(crate) struct Router {
    /// W, `[E, hidden]`.
    weight: Tensor,
    /// Bias for the choice only, float32 `[E]`.
    pub correction_bias: Option<Tensor>,
    pub rule: RouterRule,
}

/// Keeps the sum of a token's scores away from 0.
const NORMALISATION_EPSILON: f64 = 1e-20;

impl Router {
    pub(crate) fn build(
        weights: &mut Builder,
        prefix: &str,
        hidden: i64,
        rule: RouterRule,
    ) -> Result<Router> {
        Ok(Router {
            weight: weights.tensor(
                &format!("{prefix}weight"),
                &[rule.experts, hidden],
                Initial::Normal,
            )?,
            correction_bias: if rule.correction_bias {
                Some(weights.buffer(&format!("{prefix}e_score_correction_bias"), rule.experts)?)
            } else {
                None
            },
            rule,
        })
    }

    /// W, `[E, hidden]`.
    pub(crate) fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// Computes s = sigmoid(W x) or softmax(W x), float32 at least: `[T, hidden]` → `[T, E]`.
    /// On a GPU whose kernels are r1d's own, bfloat16 operands need not be widened for that.
    pub(crate) fn scores(&self, x: &Tensor, products: Products, own: bool) -> Result<Tensor> {
        let wide = if x.kind() == Kind::Double {
            Kind::Double
        } else {
            Kind::Float
        };
        let narrow = [x, &self.weight]
            .iter()
            .all(|of| of.kind() == Kind::BFloat16);
        let plain = own && products.rank(&self.weight).is_none();
        let logits = match self.rule.scoring {
            Scoring::Softmax { wide: false } => products.wide().linear(x, &self.weight, None)?,
            _ if plain && narrow => fused::wide_product(x, &self.weight)?,
            _ => products.linear(&x.f_to_kind(wide)?, &self.weight.f_to_kind(wide)?, None)?,
        };
        Ok(match self.rule.scoring {
            Scoring::Sigmoid => logits.f_sigmoid()?,
            Scoring::Softmax { .. } => logits.f_softmax(-1, wide)?,
        })
    }

    /// Chooses each token's experts: `scores` `[T, E]` → int64 `[T, K]`.
    pub(crate) fn choose(&self, scores: &Tensor) -> Result<Tensor> {
        tch::no_grad(|| self.rule.choose(scores, self.correction_bias.as_ref()))
    }
}

/// Applies the rule to tensors.
pub(crate) trait Choosing {
    fn choose(&self, scores: &Tensor, correction_bias: Option<&Tensor>) -> Result<Tensor>;
    fn gates(&self, scores: &Tensor, experts: &Tensor) -> Result<Tensor>;
    fn balance_loss(
        &self,
        scores: &Tensor,
        chosen: &Tensor,
        lengths: &Tensor,
        weights: AuxLoss,
    ) -> Result<Tensor>;
}

impl Choosing for RouterRule {
    /// Chooses the K experts of highest score + bias among the best groups.
    fn choose(&self, scores: &Tensor, correction_bias: Option<&Tensor>) -> Result<Tensor> {
        let mut choice = match correction_bias {
            Some(bias) => scores.f_add(bias)?,
            None => scores.shallow_clone(),
        };
        if self.groups_per_token < self.groups {
            let grouped = choice.f_view([-1, self.groups, self.experts / self.groups])?;
            let group_scores = grouped
                .f_topk(self.best_of_group, -1, true, false)?
                .0
                .f_sum_dim_intlist(-1, false, None)?;
            let best = group_scores
                .f_topk(self.groups_per_token, -1, true, false)?
                .1;
            let outside = group_scores
                .f_ones_like()?
                .f_scatter_value(1, &best, 0.0)?
                .f_to_kind(Kind::Bool)?;
            // The mask is −∞ and not 0: with a negative bias an expert of a kept group may be below
            // 0.
            choice = grouped
                .f_masked_fill(&outside.f_unsqueeze(-1)?, f64::NEG_INFINITY)?
                .f_view([-1, self.experts])?;
        }
        // The experts are sorted, so that a token's gates are always summed in the same order.
        Ok(choice.f_topk(self.experts_per_token, -1, true, true)?.1)
    }

    /// Computes the gate weights of the chosen experts from their scores without bias: `[T, E]`,
    /// `[T, K]` → `[T, K]`.
    fn gates(&self, scores: &Tensor, experts: &Tensor) -> Result<Tensor> {
        let mut gates = scores.f_gather(1, experts, false)?;
        if self.normalise {
            gates = gates.f_div(
                &gates
                    .f_sum_dim_intlist(-1, true, None)?
                    .f_add_scalar(NORMALISATION_EPSILON)?,
            )?;
        }
        Ok(gates.f_mul_scalar(self.scaling_factor)?)
    }

    /// Computes the balance losses of sequences of `lengths` (int64), and their mean: `scores` `[T,
    /// E]`, `chosen` int64 `[T, K]`.
    ///
    /// fᵢ = E/(K·T) · tokens that have expert i among their K, Pᵢ = mean over tokens of sᵢ / Σⱼ sⱼ.
    /// DeepSeek-V3 (17)–(20) means the K highest scores, without bias and groups; DeepSeek-V2
    /// (23)–(25) the K chosen ones. The expert-level loss is Σᵢ fᵢ Pᵢ; the device-level one, V2
    /// (26)–(28), Σ over the groups of the mean of their f times the sum of their P.
    fn balance_loss(
        &self,
        scores: &Tensor,
        chosen: &Tensor,
        lengths: &Tensor,
        weights: AuxLoss,
    ) -> Result<Tensor> {
        let mean = |rows: &Tensor| {
            Tensor::f_segment_reduce(rows, "mean", Some(lengths), None, None, 0, false, 0.0)
        };
        let frequency = tch::no_grad(|| -> Result<Tensor> {
            let top = match self.scoring {
                Scoring::Sigmoid => scores.f_topk(self.experts_per_token, -1, true, false)?.1,
                Scoring::Softmax { .. } => chosen.shallow_clone(),
            };
            let among = scores.f_zeros_like()?.f_scatter_value(1, &top, 1.0)?;
            Ok(mean(&among)?.f_mul_scalar(self.experts as f64 / self.experts_per_token as f64)?)
        })?;
        let affinity = mean(&scores.f_div(&scores.f_sum_dim_intlist(-1, true, None)?)?)?;
        let total = |f: &Tensor, p: &Tensor| -> Result<Tensor> {
            Ok(f.f_mul(p)?
                .f_sum_dim_intlist(-1, false, None)?
                .f_mean(None)?)
        };
        let expert = total(&frequency, &affinity)?.f_mul_scalar(weights.expert_alpha)?;
        if weights.device_alpha == 0.0 {
            return Ok(expert);
        }
        let by_group = |t: &Tensor| t.f_view([-1, self.groups, self.experts / self.groups]);
        let frequency = by_group(&frequency)?.f_mean_dim(-1, false, None)?;
        let affinity = by_group(&affinity)?.f_sum_dim_intlist(-1, false, None)?;
        Ok(expert.f_add(&total(&frequency, &affinity)?.f_mul_scalar(weights.device_alpha)?)?)
    }
}

/// Balances without an auxiliary loss (DeepSeek-V3 2.1.2; Wang et al. 2024, algorithm 1): bᵢ += γ ·
/// sign(mean(c) − cᵢ), with c the tokens that each expert got over an optimiser step's whole batch.
pub(crate) fn update_correction_bias(
    correction_bias: &Tensor,
    load: &Tensor,
    gamma: f64,
) -> Result<()> {
    let load = load
        .f_to_device(correction_bias.device())?
        .f_to_kind(Kind::Double)?;
    let direction = load
        .f_mean(None)?
        .f_sub(&load)?
        .f_sign()?
        .f_mul_scalar(gamma)?;
    let _ = tch::no_grad(|| {
        correction_bias
            .shallow_clone()
            .f_add_(&direction.f_to_kind(correction_bias.kind())?)
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: RouterRule = RouterRule {
        experts: 8,
        experts_per_token: 2,
        scoring: Scoring::Sigmoid,
        correction_bias: true,
        groups: 4,
        groups_per_token: 2,
        best_of_group: 2,
        normalise: true,
        scaling_factor: 2.5,
    };
    const LOGITS: [f64; 8] = [0., 1., 2., -1., 0.5, 0.4, -2., 3.];

    /// The chosen (expert, gate) pairs, sorted by expert.
    fn route(bias: [f64; 8]) -> Vec<(i64, f64)> {
        let scores = Tensor::from_slice(&LOGITS).sigmoid().unsqueeze(0);
        let experts = RULE
            .choose(&scores, Some(&Tensor::from_slice(&bias)))
            .unwrap();
        let gates = RULE.gates(&scores, &experts).unwrap();
        let mut routed: Vec<_> = Vec::<i64>::try_from(experts.view([-1]))
            .unwrap()
            .into_iter()
            .zip(Vec::<f64>::try_from(gates.view([-1])).unwrap())
            .collect();
        routed.sort_by_key(|r| r.0);
        routed
    }

    fn assert_routed(found: Vec<(i64, f64)>, expected: [(i64, f64); 2]) {
        assert_eq!(
            found.iter().map(|r| r.0).collect::<Vec<_>>(),
            expected.map(|r| r.0)
        );
        for (found, expected) in found.iter().zip(expected) {
            assert!(
                (found.1 - expected.1).abs() < 1e-12,
                "{found:?} {expected:?}"
            );
        }
    }

    #[test]
    fn bias_moves_the_choice_but_not_the_gates() {
        assert_routed(
            route([0., 0., -0.5, 0., 0.3, 0.3, 0., -0.6]),
            [(4, 1.2743333432200261), (5, 1.2256666567799739)],
        );
        assert_routed(
            route([0.; 8]),
            [(1, 1.3502935079758576), (4, 1.1497064920241424)],
        );
    }

    #[test]
    fn candidates_below_zero_still_beat_masked_groups() {
        assert_eq!(
            route([-1.0; 8]).iter().map(|r| r.0).collect::<Vec<_>>(),
            [1, 4]
        );
    }

    #[test]
    fn gates_are_scores_times_the_factor_where_they_are_not_normalised() {
        let rule = RouterRule {
            normalise: false,
            ..RULE
        };
        let scores = Tensor::from_slice(&[0.5f64, 0.25]).view([1, 2]);
        let gates = rule
            .gates(&scores, &Tensor::from_slice(&[1i64, 0]).view([1, 2]))
            .unwrap();
        assert_eq!(
            Vec::<f64>::try_from(gates.view([-1])).unwrap(),
            [0.625, 1.25]
        );
    }

    const EXPERT: AuxLoss = AuxLoss {
        expert_alpha: 1.0,
        device_alpha: 0.0,
    };
    const DEVICE: AuxLoss = AuxLoss {
        expert_alpha: 0.0,
        device_alpha: 1.0,
    };

    fn balance(
        rule: RouterRule,
        scores: &Tensor,
        chosen: &[i64],
        lengths: &[i64],
        weights: AuxLoss,
    ) -> f64 {
        let chosen = Tensor::from_slice(chosen).view([-1, rule.experts_per_token]);
        f64::try_from(
            rule.balance_loss(scores, &chosen, &Tensor::from_slice(lengths), weights)
                .unwrap(),
        )
        .unwrap()
    }

    #[test]
    fn balance_loss_matches_the_papers_equations() {
        let rule = RouterRule {
            experts: 4,
            groups: 1,
            groups_per_token: 1,
            ..RULE
        };
        let rows = [
            [0.9, 0.8, 0.1, 0.2],
            [0.7, 0.2, 0.6, 0.1],
            [0.9, 0.3, 0.2, 0.8f64],
        ];
        let scores = Tensor::from_slice(rows.as_flattened()).view([3, 4]);
        // The chosen experts do not matter to DeepSeek-V3's loss.
        let loss = balance(rule, &scores, &[3, 3, 3, 3, 3, 3], &[3], EXPERT);
        assert!((loss - 1.2429292929292928).abs() < 1e-12, "{loss}");
        // There is a second sequence of one token, f = 4/(2·1)·[1, 1, 0, 0], P = [.45, .4, .05, .1]
        // → 1.7; the result is the mean of both.
        let scores = Tensor::cat(
            &[
                scores,
                Tensor::from_slice(&[0.9f64, 0.8, 0.1, 0.2]).view([1, 4]),
            ],
            0,
        );
        let loss = balance(rule, &scores, &[0; 8], &[3, 1], EXPERT);
        assert!(
            (loss - (1.2429292929292928 + 1.7) / 2.0).abs() < 1e-12,
            "{loss}"
        );
        assert!(
            (balance(
                rule,
                &scores,
                &[0; 8],
                &[3, 1],
                AuxLoss {
                    expert_alpha: 0.5,
                    ..EXPERT
                }
            ) - loss / 2.0)
                .abs()
                < 1e-12
        );
    }

    /// The values are worked out by hand: 2 tokens, 4 experts in 2 groups, K = 2.
    #[test]
    fn deepseek_v2_balances_what_was_chosen_by_expert_and_by_device() {
        let rule = RouterRule {
            experts: 4,
            groups: 2,
            groups_per_token: 1,
            scoring: Scoring::Softmax { wide: true },
            ..RULE
        };
        let scores = Tensor::from_slice(&[0.4f64, 0.3, 0.2, 0.1, 0.1, 0.2, 0.3, 0.4]).view([2, 4]);
        // f = 4/(2·2) · [1, 1, 1, 1] for these choices, P = 1/4 each: 1, and by device 2 · (1 ·
        // 1/2) = 1.
        assert!((balance(rule, &scores, &[0, 1, 3, 2], &[2], EXPERT) - 1.0).abs() < 1e-12);
        assert!((balance(rule, &scores, &[0, 1, 3, 2], &[2], DEVICE) - 1.0).abs() < 1e-12);
        // All on the first device: f = [2, 2, 0, 0]; P of the tokens [.25 …]: 1; by device f' = [2,
        // 0], P' = [.5, .5]: 1. One token: P = [.4, .3, .2, .1], f = 4/2 · [1, 1, 0, 0]: 1.4; f' =
        // [2, 0], P' = [.7, .3]: 1.4.
        let one = scores.narrow(0, 0, 1);
        assert!((balance(rule, &one, &[0, 1], &[1], EXPERT) - 1.4).abs() < 1e-12);
        assert!((balance(rule, &one, &[0, 1], &[1], DEVICE) - 1.4).abs() < 1e-12);
        // Chosen against the scores: f = 2 · [0, 0, 1, 1]: .6; f' = [0, 2], P' = [.7, .3]: .6.
        // Unevenly within a device: f = 2 · [1, 0, 0, 1].
        assert!((balance(rule, &one, &[2, 3], &[1], EXPERT) - 0.6).abs() < 1e-12);
        assert!((balance(rule, &one, &[0, 3], &[1], EXPERT) - 1.0).abs() < 1e-12);
        assert!((balance(rule, &one, &[0, 3], &[1], DEVICE) - 1.0).abs() < 1e-12);
        let both = AuxLoss {
            expert_alpha: 0.003,
            device_alpha: 0.05,
        };
        assert!((balance(rule, &one, &[2, 3], &[1], both) - 0.6 * 0.053).abs() < 1e-12);
    }

    #[test]
    fn balance_losses_push_the_loaded_down() {
        let scores = || {
            Tensor::from_slice(&[0.9f64, 0.1, 0.1, 0.8, 0.2, 0.1])
                .view([2, 3])
                .set_requires_grad(true)
        };
        let rule = RouterRule {
            experts: 3,
            experts_per_token: 1,
            groups: 3,
            groups_per_token: 1,
            ..RULE
        };
        for weights in [EXPERT, DEVICE] {
            let scores = scores();
            rule.balance_loss(
                &scores,
                &Tensor::from_slice(&[0i64, 0]).view([2, 1]),
                &Tensor::from_slice(&[2i64]),
                weights,
            )
            .unwrap()
            .backward();
            let gradient = Vec::<f64>::try_from(scores.grad().view([-1])).unwrap();
            assert!(
                gradient[0] > 0.0 && gradient[1] < 0.0 && gradient[3] > 0.0,
                "{gradient:?}"
            );
        }
    }

    #[test]
    fn correction_bias_steps_against_the_load() {
        let bias = Tensor::zeros([4], tch::kind::FLOAT_CPU);
        update_correction_bias(&bias, &Tensor::from_slice(&[10i64, 2, 4, 4]), 1e-3).unwrap();
        assert_eq!(
            Vec::<f32>::try_from(&bias).unwrap(),
            [-1e-3, 1e-3, 1e-3, 1e-3]
        );
        update_correction_bias(&bias, &Tensor::from_slice(&[5i64, 5, 5, 5]), 1e-3).unwrap();
        assert_eq!(
            Vec::<f32>::try_from(&bias).unwrap(),
            [-1e-3, 1e-3, 1e-3, 1e-3]
        );
    }
}
