//! The shipped plugins through the host: their golden cases, what models could poison them with, and the pool.

mod guests;

use guests::{Guest, completion, load, returns, rewards};
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Completion, Judged, LoadedReward, QUEUE_PER_THREAD_MAX, RewardError, RewardSpec, Rewards, ScoreError};
use reward_sdk::golden::{Case, Expected, parse};
use std::collections::BTreeMap;
use std::time::Duration;

fn named(rewards: &Rewards, name: &str, config: &str) -> LoadedReward {
    rewards.load(&RewardSpec { config_json: config.into(), ..RewardSpec::named(name) }).unwrap()
}

fn completion_of(case: &Case) -> Completion {
    let native = case.completion();
    Completion {
        id: native.id,
        prompt: native.prompt,
        text: native.text,
        reference: native.reference,
        tokens: native.tokens,
        finish: if native.finish == reward_sdk::Finish::Length { FinishReason::Length } else { FinishReason::Stop },
        meta: native.meta,
    }
}

fn differs(case: &Case, judged: &Judged) -> Option<String> {
    match &judged.outcome {
        Outcome::Score { value, parts } => case.expect.differs(Expected::Score, *value, parts, judged.reason.as_deref()),
        Outcome::Abstain { reason } => case.expect.differs(Expected::Abstain, 0.0, &[], Some(reason)),
        Outcome::Trap { reason } => case.expect.differs(Expected::Trap, 0.0, &[], Some(reason)),
        other => Some(format!("{other:?}")),
    }
}

#[test]
fn golden_cases_get_the_same_verdicts_as_natively() {
    let rewards = rewards(1);
    for (name, cases, range) in [
        ("accuracy", include_str!("../../../plugins/accuracy/golden.jsonl"), (0.0, 1.0)),
        ("format", include_str!("../../../plugins/format/golden.jsonl"), (0.0, 1.0)),
        ("language-consistency", include_str!("../../../plugins/language-consistency/golden.jsonl"), (0.0, 1.0)),
        ("repetition", include_str!("../../../plugins/repetition/golden.jsonl"), (-1.0, 0.0)),
        ("soft-overlong", include_str!("../../../plugins/soft-overlong/golden.jsonl"), (-1.0, 0.0)),
    ] {
        let cases = parse(cases).unwrap();
        // One load per configuration: it compiles.
        let mut loaded: BTreeMap<String, LoadedReward> = BTreeMap::new();
        let mut judge = |case: &Case| {
            let config = case.config_json();
            let reward = loaded.entry(config.clone()).or_insert_with(|| named(&rewards, name, &config));
            reward.score(&completion_of(case)).unwrap()
        };
        let wrong: Vec<String> = cases
            .iter()
            .filter_map(|case| differs(case, &judge(case)).map(|differs| format!("{}: {differs}", case.name)))
            .collect();
        assert!(wrong.is_empty(), "{name}, {} of {}: {}", wrong.len(), cases.len(), wrong.join("\n"));
        let info = named(&rewards, name, &cases[0].config_json()).info().clone();
        assert_eq!((info.name.as_str(), (info.min, info.max)), (name, range));
    }
}

#[test]
fn a_plugins_refusal_of_its_config_names_the_key() {
    let error =
        rewards(1).load(&RewardSpec { config_json: r#"{"kinds": 1}"#.into(), ..RewardSpec::named("accuracy") }).err().unwrap();
    assert!(matches!(&error, RewardError::Config { why, .. } if why.contains("kinds")), "{error}");
}

/// What a model could write to stall its judge: scored like any wrong answer, within the default limits.
#[test]
fn poisoned_answers_are_only_wrong() {
    let poisons = poisons();
    let rewards = rewards(1);
    for name in ["accuracy", "format"] {
        let reward = named(&rewards, name, "{}");
        for poison in &poisons {
            let judged = reward.score(&completion(poison, Some("7"))).unwrap();
            let start: String = poison.chars().take(40).collect();
            assert_eq!(judged.outcome, Outcome::Score { value: 0.0, parts: vec![] }, "{name}: {start}");
            assert!(judged.reason.is_some_and(|reason| reason.len() < 300), "{name}: {start}");
        }
    }
    // A poisoned reference is the data's fault: no score, no fault.
    let accuracy = named(&rewards, "accuracy", "{}");
    for reference in poisons.iter().filter(|poison| !poison.contains("1e-4000") && !poison.contains("\u{0}7")) {
        let outcome = accuracy.score(&completion("<answer>7</answer>", Some(reference))).unwrap().outcome;
        assert!(matches!(outcome, Outcome::Abstain { .. }), "{outcome:?}");
    }
}

/// Rewards of the text's form have a score for any text, within the default limits.
#[test]
fn poisoned_answers_have_a_form_too() {
    let rewards = rewards(1);
    let overlong = r#"{"max_completion_len": 100, "soft_punish_cache": 50}"#;
    for (name, config) in [("language-consistency", r#"{"language": "en"}"#), ("repetition", "{}"), ("soft-overlong", overlong)] {
        let reward = named(&rewards, name, config);
        for poison in poisons() {
            let outcome = reward.score(&completion(&poison, None)).unwrap().outcome;
            let start: String = poison.chars().take(40).collect();
            assert!(
                matches!(outcome, Outcome::Score { value, .. } if (-1.0..=1.0).contains(&value)),
                "{name}: {start}: {outcome:?}"
            );
        }
    }
}

fn poisons() -> Vec<String> {
    let megabyte = 1 << 20;
    vec![
        r"\boxed{9^{9^{9^{9}}}}".to_owned(),
        format!(r"\boxed{{{}1{}}}", r"\frac{1}{".repeat(10_000), "}".repeat(10_000)),
        r"\boxed{\frac{".repeat(megabyte / 13),
        r"\boxed{".repeat(megabyte / 7),
        format!(r"\boxed{{{}}}", "9".repeat(megabyte)),
        format!(r"<answer>0.{}1</answer>", "0".repeat(megabyte)),
        "<answer>1e999999999</answer>".into(),
        "<answer>1e-4000</answer>".into(),
        format!("<answer>{}</answer>", "(".repeat(megabyte)),
        format!("<answer>{}</answer>", "1/".repeat(megabyte / 2)),
        format!("<answer>{}</answer>", "1,000".repeat(800)),
        format!("<answer>{}</answer>", "a".repeat(megabyte)),
        format!("<answer>{}</answer>", "The answer is ".repeat(70_000)),
        format!("<answer>{}</answer>", "$".repeat(megabyte)),
        "<answer>".repeat(megabyte / 8),
        "</answer>".repeat(megabyte / 9),
        "<think>".repeat(megabyte / 7),
        format!("{}</think>", "<answer></answer>".repeat(megabyte / 17)),
        " ".repeat(megabyte),
        "{".repeat(megabyte),
        "\\".repeat(megabyte),
        "\0".repeat(megabyte),
        "é\u{202e}\u{0300}🦀".repeat(megabyte / 11),
        "<answer>\u{0}7\u{0}</answer>".into(),
    ]
}

#[test]
fn the_same_completion_costs_the_same_fuel() {
    let rewards = rewards(1);
    let reward = named(&rewards, "accuracy", "{}");
    let judge = || reward.score(&completion("<think>1+1</think><answer>2</answer>", Some("2"))).unwrap();
    let first = judge();
    assert_eq!(first.outcome, Outcome::Score { value: 1.0, parts: vec![] });
    assert!(first.fuel > 0 && (0..20).all(|_| judge().fuel == first.fuel));
}

#[tokio::test]
async fn the_pool_answers_each_and_lets_go_of_the_abandoned() {
    let rewards = rewards(2);
    let reward = named(&rewards, "accuracy", "{}");
    let texts: Vec<String> = (0..50).map(|i| format!("<answer>{i}</answer>")).collect();
    for (i, text) in texts.iter().enumerate() {
        let judged = rewards.pool().score(reward.clone(), completion(text, Some("7"))).await.unwrap();
        assert_eq!(judged.outcome, Outcome::Score { value: if i == 7 { 1.0 } else { 0.0 }, parts: vec![] });
    }
    // A queue of real work, behind it completions that would hold the threads for minutes, whose callers go away.
    let endless = "(loop $again (br $again)) (unreachable)";
    let slow = load(&rewards, &Guest { score: endless, ..Guest::default() });
    for _ in 0..20 {
        rewards.pool().try_submit(slow.clone(), completion("", None), |_| ()).unwrap();
    }
    let bytes = guests::component(&Guest { score: endless, ..Guest::default() });
    let slower = guests::load_bytes(&rewards, &bytes, |spec| {
        (spec.limits.fuel, spec.limits.wall_ms) = (Some(u64::MAX / 2), Some(600_000));
    });
    let slower = slower.unwrap();
    for _ in 0..100 {
        let score = rewards.pool().score(slower.clone(), completion("", None));
        assert!(tokio::time::timeout(Duration::ZERO, score).await.is_err());
    }
    assert!(rewards.pool().score(reward, completion("", Some("7"))).await.is_ok());
}

#[tokio::test]
async fn a_full_queue_refuses_or_waits_and_closing_answers_everybody() {
    let rewards = rewards(1);
    let slow = load(&rewards, &Guest { score: "(loop $again (br $again)) (unreachable)", ..Guest::default() });
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut accepted = 0;
    loop {
        let sender = sender.clone();
        match rewards.pool().try_submit(slow.clone(), completion("", None), move |judged| sender.send(judged).unwrap()) {
            Ok(()) => accepted += 1,
            Err(_) => break,
        }
        assert!(accepted <= 2 * QUEUE_PER_THREAD_MAX, "the queue has no end");
    }
    assert!(accepted >= QUEUE_PER_THREAD_MAX);
    assert!(rewards.pool().load().queued <= QUEUE_PER_THREAD_MAX);
    drop((rewards, sender));
    let answers: Vec<_> = receiver.iter().collect();
    assert_eq!(answers.len(), accepted);
    assert!(answers.iter().filter(|answer| **answer == Err(ScoreError::Closed)).count() > accepted / 2);
}

#[test]
fn a_callback_that_panics_costs_no_thread() {
    let rewards = rewards(1);
    let reward = load(&rewards, &Guest { score: &returns("(f32.const 1)"), ..Guest::default() });
    let (sender, receiver) = std::sync::mpsc::channel();
    rewards.pool().try_submit(reward.clone(), completion("", None), |_| panic!("planted")).unwrap();
    rewards.pool().try_submit(reward, completion("", None), move |judged| sender.send(judged).unwrap()).unwrap();
    assert!(receiver.recv().unwrap().is_ok());
}

/// Every reference of GSM8K is read, and every worked solution's own answer is right.
#[test]
fn gsm8k_references_are_read() {
    let Some(data) = std::env::var_os("R1D_TEST_DATA") else {
        eprintln!("skipped: R1D_TEST_DATA is not set");
        return;
    };
    let rows = std::fs::read_to_string(std::path::Path::new(&data).join("gsm8k/test.jsonl")).unwrap();
    let rewards = rewards(1);
    let accuracy = named(&rewards, "accuracy", "{}");
    let one = Outcome::Score { value: 1.0, parts: vec![] };
    for row in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let solution = row["answer"].as_str().unwrap();
        let answer = solution.rsplit("#### ").next().unwrap();
        for text in [format!("<answer>{answer}</answer>"), format!(r"so it is $\boxed{{{}}}$", answer.replace(',', "{,}"))] {
            assert_eq!(accuracy.score(&completion(&text, Some(solution))).unwrap().outcome, one, "{text}");
        }
    }
}
