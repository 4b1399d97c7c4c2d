//! What holds of any reply and any answer.

use correctness::Correctness;
use correctness::verdict::read;
use proptest::prelude::*;
use reward_sdk::{Completion, JudgedReward};

/// Text with much of what replies are made of.
fn messy() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("{".to_string()),
        Just("}".into()),
        Just("\"".into()),
        Just("\\".into()),
        Just("[".into()),
        Just(",".into()),
        Just("\"correctness\":".into()),
        Just("\"correct\"".into()),
        Just("=====#1=====".into()),
        Just("=====#".into()),
        Just("{answer}".into()),
        "[0-9]{1,3}",
        "\\PC{0,4}",
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_reply_is_read_or_refused(reply in messy()) {
        let _ = read(&reply);
    }

    /// A well-formed verdict counts, whatever the judge has quoted in its analysis and whatever thought or prose without braces came before.
    #[test]
    fn a_verdict_is_found_behind_whatever_was_quoted(analysis in messy(), before in "[^{}]{0,40}", correct: bool, fenced: bool) {
        let word = if correct { "correct" } else { "incorrect" };
        let object = serde_json::json!({"analysis": analysis, "correctness": word}).to_string();
        let reply = if fenced { format!("{before}```json\n{object}\n```") } else { format!("{before}{object}") };
        let verdict = read(&reply).unwrap();
        prop_assert_eq!(verdict.correct, correct);
    }

    /// The fence occurs where the template has it and nowhere else, whatever is quoted.
    #[test]
    fn no_answer_forges_a_fence(question in messy(), reference in messy(), text in messy()) {
        let config = r#"{"text": "completion", "needs_reference": false, "prompt": "{fence}\n{question}\n{fence}\n{answer}\n{fence}\n{reference}"}"#;
        let plugin: Correctness = reward_sdk::configure(config).unwrap();
        let completion = Completion { prompt: question, text, reference: Some(reference), ..Completion::default() };
        for ask in plugin.plan(&completion) {
            let fence = ask.prompt.lines().next().unwrap_or_default();
            prop_assert!(fence.starts_with("=====#"));
            prop_assert_eq!(ask.prompt.matches(fence).count(), 3, "{}", ask.prompt);
        }
    }
}
