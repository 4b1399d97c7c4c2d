//! How routed experts are chosen.

use crate::config::contradiction;
use crate::error::Result;

/// How a router chooses and weighs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouterRule {
    pub experts: i64,
    pub experts_per_token: i64,
    pub scoring: Scoring,
    /// It has a correction bias.
    pub correction_bias: bool,
    /// The experts stand in this many groups of equal size …
    pub groups: i64,
    /// … of which a token uses this many.
    pub groups_per_token: i64,
    /// A group is as good as this many of its best experts together.
    pub best_of_group: i64,
    /// Gates of a token sum to 1 before scaling.
    pub normalise: bool,
    pub scaling_factor: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scoring {
    /// Of logits in float32 at least.
    Sigmoid,
    /// Computed in float32 at least, of logits that are so too where `wide`, of logits in the
    /// model's dtype otherwise.
    Softmax { wide: bool },
}

impl RouterRule {
    /// Refuses what cannot choose, with the names that config.json has for experts, groups and
    /// groups per token.
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
