//! How routed experts are chosen.

use crate::error::{Result, contradiction};

/// How a router chooses and weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterRule {
    /// Routed experts (E).
    pub experts: i64,
    /// Routed experts that each token goes to (K).
    pub experts_per_token: i64,
    /// How logits become scores.
    pub scoring: Scoring,
    /// The router has a correction bias, which counts for the choice and not for the gates.
    pub correction_bias: bool,
    /// Groups of equal size that the experts are divided into; 1 if they are not.
    pub groups: i64,
    /// Groups that the experts of one token may come from.
    pub groups_per_token: i64,
    /// The score of a group is the sum of this many of its best experts.
    pub best_of_group: i64,
    /// Gates of a token sum to 1 before scaling.
    pub normalise: bool,
    /// The factor of all gates, applied last.
    pub scaling_factor: f64,
}

/// How a router's logits become scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scoring {
    /// Each expert's score is the sigmoid of its own logit. Logits are float32 at least.
    Sigmoid,
    /// Scores are the softmax over all experts, computed in float32 at least.
    Softmax {
        /// The logits are float32 at least too; otherwise they have the model's dtype.
        wide: bool,
    },
}

impl RouterRule {
    /// Refuses a rule that cannot choose enough experts. Errors use the names that config.json has
    /// for experts, groups and groups per token.
    pub fn check(
        &self,
        experts_key: &str,
        groups_key: &str,
        groups_per_token_key: &str,
    ) -> Result<()> {
        let RouterRule {
            experts,
            experts_per_token,
            groups,
            groups_per_token,
            best_of_group,
            ..
        } = *self;
        if experts % groups != 0 {
            return Err(contradiction(format!(
                "`{groups_key}` {groups} does not divide `{experts_key}` {experts}"
            )));
        }
        if groups_per_token > groups {
            return Err(contradiction(format!(
                "`{groups_per_token_key}` {groups_per_token} is above `{groups_key}` {groups}"
            )));
        }
        if groups_per_token < groups && experts / groups < best_of_group {
            let message = format!(
                "`{groups_key}` {groups} leaves groups of one expert: a group is scored by its \
                 best two"
            );
            return Err(contradiction(message));
        }
        let reachable = groups_per_token * (experts / groups);
        if experts_per_token > reachable {
            let of = if groups > 1 {
                format!(" of `{groups_per_token_key}` {groups_per_token} groups")
            } else {
                String::new()
            };
            return Err(contradiction(format!(
                "`num_experts_per_tok` {experts_per_token} is above the {reachable} experts{of}"
            )));
        }
        Ok(())
    }
}
