//! The templates for authors in Python and JavaScript: what `reward-sdk/templates/build` makes of
//! them gives the verdicts of its golden cases.

use crate::guests::{completion, rewards, shipped, spec};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{LoadedReward, RewardError, RewardSpec};
use reward_sdk::golden::{Expected, parse};
use std::path::PathBuf;

/// Path of a template's component; `None` if it is not built.
fn template(language: &str) -> Option<PathBuf> {
    let path = shipped().join(format!("../templates/{language}.wasm"));
    if !path.is_file() {
        eprintln!("skipped: no {}: run `make templates`", path.display());
        return None;
    }
    Some(path)
}

fn judges_its_golden_cases(language: &str, golden: &str) {
    let Some(path) = template(language) else {
        return;
    };
    let rewards = rewards(1);
    let load = |config: String| {
        rewards.load(&RewardSpec {
            config_json: config,
            ..spec(&path)
        })
    };
    for case in parse(golden).unwrap() {
        let reward: LoadedReward = load(case.config_json()).unwrap();
        assert_eq!(
            (
                reward.info().name.as_str(),
                reward.info().min,
                reward.info().max
            ),
            ("brief", 0.0, 1.0)
        );
        let judged = reward
            .score(&completion(&case.completion, case.reference.as_deref()))
            .unwrap();
        let differs = match &judged.outcome {
            Outcome::Score { value, parts } => {
                case.expect
                    .differs(Expected::Score, *value, parts, judged.reason.as_deref())
            }
            Outcome::Abstain { reason } => {
                case.expect
                    .differs(Expected::Abstain, 0.0, &[], Some(reason))
            }
            other => Some(format!("{other:?}")),
        };
        assert_eq!(differs, None, "{language}: {}", case.name);
    }
    for (config, part) in [
        (r#"{"wordsmax": 1}"#, "unknown key `wordsmax`"),
        (r#"{"words_max": "1"}"#, "`words_max` is"),
    ] {
        let error = load(config.into()).err().unwrap();
        assert!(
            matches!(&error, RewardError::Config { why, .. } if why.contains(part)),
            "{language}: {error}"
        );
    }
}

#[test]
fn python() {
    judges_its_golden_cases(
        "python",
        include_str!("../../../../reward-sdk/templates/python/golden.jsonl"),
    );
}

#[test]
fn javascript() {
    judges_its_golden_cases(
        "js",
        include_str!("../../../../reward-sdk/templates/js/golden.jsonl"),
    );
}
