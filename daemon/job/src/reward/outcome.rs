//! What a verdict does that is no score.

use crate::error::JobError;
use crate::file::{Fields, Kind, Setting};
use toml::Value;

/// What an abstention (for example on an unusable reference) does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnAbstain {
    /// The completion has no reward and does not train.
    DropSample,
    /// No completion of the group trains.
    DropGroup,
    /// The completion gets this score.
    Score(f64),
}

/// What a fault (a trap, or no fuel left) does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OnFault {
    /// The completion gets the plugin's declared minimum.
    Min,
    /// The completion gets this score.
    Score(f64),
    /// The completion has no reward and does not train.
    DropSample,
}

/// The score of `{ score = … }`; `None` for a word.
fn score(value: &Value) -> Option<f64> {
    value.get("score")?.as_float()
}

fn scored(score: f64) -> Value {
    Value::Table([("score".to_string(), score.into())].into_iter().collect())
}

impl Setting for OnAbstain {
    fn kind() -> Kind {
        Kind::WordOrScore(&["drop-sample", "drop-group"])
    }

    fn from_value(value: &Value, _: &Fields<'_>, _: &str) -> Result<OnAbstain, JobError> {
        Ok(match (score(value), value.as_str()) {
            (Some(score), _) => OnAbstain::Score(score),
            (None, Some("drop-group")) => OnAbstain::DropGroup,
            _ => OnAbstain::DropSample,
        })
    }

    fn to_value(&self) -> Option<Value> {
        Some(match self {
            OnAbstain::DropSample => "drop-sample".into(),
            OnAbstain::DropGroup => "drop-group".into(),
            OnAbstain::Score(score) => scored(*score),
        })
    }
}

impl Setting for OnFault {
    fn kind() -> Kind {
        Kind::WordOrScore(&["min", "drop-sample"])
    }

    fn from_value(value: &Value, _: &Fields<'_>, _: &str) -> Result<OnFault, JobError> {
        Ok(match (score(value), value.as_str()) {
            (Some(score), _) => OnFault::Score(score),
            (None, Some("drop-sample")) => OnFault::DropSample,
            _ => OnFault::Min,
        })
    }

    fn to_value(&self) -> Option<Value> {
        Some(match self {
            OnFault::Min => "min".into(),
            OnFault::DropSample => "drop-sample".into(),
            OnFault::Score(score) => scored(*score),
        })
    }
}
