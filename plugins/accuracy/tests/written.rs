//! The pairs of `tests/parity/written.tsv`, which the parity script also shows to Math-Verify.

use accuracy::Accuracy;
use reward_sdk::{Completion, Reward};

#[test]
fn written_pairs_get_their_verdicts() {
    let reward: Accuracy = reward_sdk::configure("{}").unwrap();
    let mut wrong = Vec::new();
    let mut count = 0;
    for line in include_str!("../../../tests/parity/written.tsv")
        .lines()
        .filter(|line| !line.starts_with("# "))
    {
        let [reference, answer, verdict] = line.split('\t').collect::<Vec<&str>>()[..] else {
            panic!("three columns: {line}")
        };
        let text = format!("The answer is \\boxed{{{answer}}}.");
        let completion = Completion {
            text,
            reference: Some(reference.into()),
            ..Completion::default()
        };
        let score = reward.score(&completion).map(|score| score.value);
        let wanted = if verdict == "equal" { 1.0 } else { 0.0 };
        count += 1;
        if score != Ok(wanted) {
            wrong.push(format!("{line}: {score:?}"));
        }
    }
    assert!(
        wrong.is_empty() && count > 500,
        "{} of {count} pairs:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
