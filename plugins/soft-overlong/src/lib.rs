//! `soft-overlong`: a penalty that begins before a completion is cut off (DAPO, equation 13).
//!
//! If L is the number of the completion's tokens, the score is 0 up to `max_completion_len` −
//! `soft_punish_cache`, falls linearly from there to −1 at `max_completion_len`, and is −1 beyond.
//! Both keys, named as in TRL, are required. `max_completion_len` should be the stage's
//! `max_completion_length`.

use reward_sdk::{Completion, Info, Result, Reward, Score};

/// The reward's configuration.
#[derive(serde::Deserialize)]
#[serde(try_from = "Raw")]
pub struct SoftOverlong {
    max_completion_len: u32,
    soft_punish_cache: u32,
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    max_completion_len: u32,
    soft_punish_cache: u32,
}

impl TryFrom<Raw> for SoftOverlong {
    type Error = String;

    fn try_from(
        Raw {
            max_completion_len,
            soft_punish_cache,
        }: Raw,
    ) -> std::result::Result<Self, String> {
        if soft_punish_cache == 0 || soft_punish_cache > max_completion_len {
            return Err(format!(
                "`soft_punish_cache` is {soft_punish_cache}: write 1 to `max_completion_len` \
                 ({max_completion_len})"
            ));
        }
        Ok(SoftOverlong {
            max_completion_len,
            soft_punish_cache,
        })
    }
}

impl Reward for SoftOverlong {
    const INFO: Info = Info {
        min: -1.0,
        max: 0.0,
        ..Info::new("soft-overlong", env!("CARGO_PKG_VERSION"))
    };

    fn score(&self, completion: &Completion) -> Result<Score> {
        let free = self.max_completion_len - self.soft_punish_cache;
        let over = completion.tokens.saturating_sub(free);
        let share = f64::from(over) / f64::from(self.soft_punish_cache);
        Ok(Score::from(if over == 0 {
            0.0
        } else {
            -(share.min(1.0)) as f32
        }))
    }
}

reward_sdk::export!(SoftOverlong);

#[cfg(test)]
mod tests {
    #[test]
    fn golden_cases() {
        reward_sdk::golden::check::<super::SoftOverlong>(include_str!("../golden.jsonl"));
    }

    #[test]
    fn what_is_missing_or_out_of_range_is_named() {
        let error = |json: &str| {
            reward_sdk::configure::<super::SoftOverlong>(json)
                .err()
                .unwrap()
        };
        assert!(error("{}").contains("max_completion_len"));
        assert!(error(r#"{"max_completion_len": 10}"#).contains("soft_punish_cache"));
        assert!(error(r#"{"max_completion_len": 10, "soft_punish_cache": 11}"#).contains("1 to"));
        assert!(error(r#"{"max_completion_len": 10, "soft_punish_cache": 0}"#).contains("1 to"));
    }
}
