//! The shipped plugins through the host: their golden cases, and the pool.

use crate::guests::{Guest, completion, load, returns, rewards};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{
    Calls, Line, LoadedReward, QUEUE_PER_THREAD_MAX, RewardError, RewardSpec, Rewards, ScoreError,
    World, golden,
};
use std::time::Duration;

fn named(rewards: &Rewards, name: &str, config: &str) -> LoadedReward {
    rewards
        .load(&RewardSpec {
            config_json: config.into(),
            ..RewardSpec::named(name)
        })
        .unwrap()
}

/// The cases that a plugin was built with, through the sandbox; natively its own test runs them.
#[test]
fn golden_cases_get_the_same_verdicts_as_natively() {
    let rewards = rewards(1);
    for (name, world, range) in [
        ("accuracy", World::Reward, (0.0, 1.0)),
        ("correctness", World::JudgedReward, (0.0, 1.0)),
        ("format", World::Reward, (0.0, 1.0)),
        ("language-consistency", World::Reward, (0.0, 1.0)),
        ("helpfulness", World::JudgedReward, (0.0, 1.0)),
        ("harmlessness", World::JudgedReward, (0.0, 1.0)),
        ("length", World::GroupReward, (-1.0, 1.0)),
        ("readability", World::Reward, (0.0, 1.0)),
        ("repetition", World::Reward, (-1.0, 0.0)),
        ("soft-overlong", World::Reward, (-1.0, 0.0)),
    ] {
        let reward = rewards.unconfigured(&RewardSpec::named(name)).unwrap();
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join(format!("../../plugins/{name}/golden.jsonl"));
        let cases = std::fs::read_to_string(source).unwrap();
        assert_eq!(
            golden::embedded(&std::fs::read(reward.path()).unwrap()),
            Some(cases.as_str()),
            "{name} is not built from this"
        );
        let report = golden::run(&reward, &cases).unwrap();
        assert!(
            report.cases > 0 && report.differing.is_empty(),
            "{name}: {report:?}"
        );
        let info = reward.info();
        assert_eq!(
            (info.name.as_str(), reward.world(), (info.min, info.max)),
            (name, world, range)
        );
    }
}

#[test]
fn a_plugins_refusal_of_its_config_names_the_key() {
    let error = rewards(1)
        .load(&RewardSpec {
            config_json: r#"{"kinds": 1}"#.into(),
            ..RewardSpec::named("accuracy")
        })
        .err()
        .unwrap();
    assert!(
        matches!(&error, RewardError::Config { why, .. } if why.contains("kinds")),
        "{error}"
    );
}

#[test]
fn the_same_completion_costs_the_same_fuel() {
    let rewards = rewards(1);
    let reward = named(&rewards, "accuracy", "{}");
    let judge = || {
        reward
            .score(&completion(
                "<think>1+1</think><answer>2</answer>",
                Some("2"),
            ))
            .unwrap()
    };
    let first = judge();
    assert_eq!(
        first.outcome,
        Outcome::Score {
            value: 1.0,
            parts: vec![]
        }
    );
    assert!(first.fuel > 0 && (0..20).all(|_| judge().fuel == first.fuel));
}

#[tokio::test]
async fn the_pool_answers_each_and_lets_go_of_the_abandoned() {
    let rewards = rewards(2);
    let reward = named(&rewards, "accuracy", "{}");
    let texts: Vec<String> = (0..50).map(|i| format!("<answer>{i}</answer>")).collect();
    for (i, text) in texts.iter().enumerate() {
        let judged = rewards
            .pool()
            .score(reward.clone(), completion(text, Some("7")))
            .await
            .unwrap();
        assert_eq!(
            judged.outcome,
            Outcome::Score {
                value: if i == 7 { 1.0 } else { 0.0 },
                parts: vec![]
            }
        );
    }
    // A queue of real work, behind it completions that would hold the threads for minutes, whose
    // callers go away.
    let endless = "(loop $again (br $again)) (unreachable)";
    let slow = load(
        &rewards,
        &Guest {
            score: endless,
            ..Guest::default()
        },
    );
    for _ in 0..20 {
        rewards
            .pool()
            .try_submit(slow.clone(), completion("", None), |_| ())
            .unwrap();
    }
    let bytes = crate::guests::component(&Guest {
        score: endless,
        ..Guest::default()
    });
    let slower = crate::guests::load_bytes(&rewards, &bytes, |spec| {
        (spec.limits.fuel, spec.limits.wall_ms) = (Some(u64::MAX / 2), Some(600_000));
    });
    let slower = slower.unwrap();
    for _ in 0..100 {
        let score = rewards.pool().score(slower.clone(), completion("", None));
        assert!(tokio::time::timeout(Duration::ZERO, score).await.is_err());
    }
    assert!(
        rewards
            .pool()
            .score(reward, completion("", Some("7")))
            .await
            .is_ok()
    );
}

/// A job may wait for a whole verdict as long as its own calls end one after the other, or all of
/// them wait for their turn; what is at work may not hang, and what was lost is not waited for.
#[tokio::test]
async fn a_line_goes_on_while_its_calls_end_or_wait_for_their_turn() {
    let rewards = rewards(1);
    let bytes = crate::guests::component(&Guest {
        score: "(loop $again (br $again)) (unreachable)",
        ..Guest::default()
    });
    let endless = crate::guests::load_bytes(&rewards, &bytes, |spec| {
        (spec.limits.fuel, spec.limits.wall_ms) = (Some(u64::MAX / 2), Some(2_000));
    });
    let (endless, quick) = (endless.unwrap(), named(&rewards, "accuracy", "{}"));
    let submit = |line: &Line, reward: &LoadedReward| {
        let (sender, done) = tokio::sync::oneshot::channel();
        line.try_submit(reward.clone(), completion("", Some("7")), |judged| {
            drop(sender.send(judged))
        })
        .unwrap();
        done
    };
    let until = async |line: &Line, what: fn(&Calls) -> bool| {
        while !what(&line.calls()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        line.calls()
    };
    let (own, other) = (rewards.pool().line(), rewards.pool().line());
    let empty = own.calls();
    assert!(
        empty == Calls::default() && !empty.go_on_since(&empty),
        "nothing was handed in: {empty:?}"
    );

    let others = submit(&other, &endless);
    until(&other, |calls| calls.at_work == 1).await;
    let (first, second) = (submit(&own, &quick), submit(&own, &endless));
    let waits = own.calls();
    assert_eq!((waits.waiting, waits.at_work, waits.ended), (2, 0, 0));
    assert!(waits.go_on_since(&waits), "another line has its turn");

    // The second of its calls is at work, and no verdict is whole before that has ended.
    others.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    let moved = until(&own, |calls| calls.at_work == 1 && calls.ended == 1).await;
    assert!(
        moved.go_on_since(&waits),
        "one of its calls has ended: {moved:?}"
    );
    assert!(
        !moved.go_on_since(&moved),
        "the same call is at work as before: {moved:?}"
    );

    second.await.unwrap().unwrap();
    let done = until(&own, |calls| calls.ended == 2).await;
    assert_eq!((done.waiting, done.at_work), (0, 0));
    assert!(
        !done.go_on_since(&moved) && !done.go_on_since(&done),
        "nothing is to come: {done:?}"
    );
}

/// Two jobs share one thread, and the reward of one takes a thousand times as long as the other's:
/// the fast job's verdicts come as if it had half the thread, however many calls the slow one has
/// handed in.
#[test]
fn a_slow_reward_delays_its_own_job() {
    let rewards = rewards(1);
    let endless = Guest {
        score: "(loop $again (br $again)) (unreachable)",
        ..Guest::default()
    };
    let (slow, fast) = (load(&rewards, &endless), named(&rewards, "accuracy", "{}"));
    let (slow_job, fast_job) = (rewards.pool().line(), rewards.pool().line());
    for _ in 0..200 {
        slow_job
            .try_submit(slow.clone(), completion("", None), |_| ())
            .unwrap();
    }
    let (sender, verdicts) = std::sync::mpsc::channel();
    for _ in 0..200 {
        let sender = sender.clone();
        fast_job
            .try_submit(fast.clone(), completion("7", Some("7")), move |judged| {
                sender.send(judged).unwrap()
            })
            .unwrap();
    }
    assert!(verdicts.iter().take(200).all(|judged| judged.is_ok()));
    let slow_calls = slow_job.calls();
    assert!(
        slow_calls.ended < 100 && slow_calls.waiting > 100,
        "the fast job waited for the slow one's calls: {slow_calls:?}"
    );
}

#[tokio::test]
async fn a_full_queue_refuses_or_waits_and_closing_answers_everybody() {
    let rewards = rewards(1);
    let slow = load(
        &rewards,
        &Guest {
            score: "(loop $again (br $again)) (unreachable)",
            ..Guest::default()
        },
    );
    let (sender, receiver) = std::sync::mpsc::channel();
    let mut accepted = 0;
    loop {
        let sender = sender.clone();
        match rewards
            .pool()
            .try_submit(slow.clone(), completion("", None), move |judged| {
                sender.send(judged).unwrap()
            }) {
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
    assert!(
        answers
            .iter()
            .filter(|answer| **answer == Err(ScoreError::Closed))
            .count()
            > accepted / 2
    );
}

#[test]
fn a_callback_that_panics_costs_no_thread() {
    let rewards = rewards(1);
    let reward = load(
        &rewards,
        &Guest {
            score: &returns("(f32.const 1)"),
            ..Guest::default()
        },
    );
    let (sender, receiver) = std::sync::mpsc::channel();
    rewards
        .pool()
        .try_submit(reward.clone(), completion("", None), |_| panic!("planted"))
        .unwrap();
    rewards
        .pool()
        .try_submit(reward, completion("", None), move |judged| {
            sender.send(judged).unwrap()
        })
        .unwrap();
    assert!(receiver.recv().unwrap().is_ok());
}

/// Every reference of GSM8K is read, and every worked solution's own answer is right.
#[test]
fn gsm8k_references_are_read() {
    let Some(data) = std::env::var_os("R1D_TEST_DATA") else {
        eprintln!("skipped: R1D_TEST_DATA is not set");
        return;
    };
    let rows =
        std::fs::read_to_string(std::path::Path::new(&data).join("gsm8k/test.jsonl")).unwrap();
    let rewards = rewards(1);
    let accuracy = named(&rewards, "accuracy", "{}");
    let one = Outcome::Score {
        value: 1.0,
        parts: vec![],
    };
    for row in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let solution = row["answer"].as_str().unwrap();
        let answer = solution.rsplit("#### ").next().unwrap();
        for text in [
            format!("<answer>{answer}</answer>"),
            format!(r"so it is $\boxed{{{}}}$", answer.replace(',', "{,}")),
        ] {
            assert_eq!(
                accuracy
                    .score(&completion(&text, Some(solution)))
                    .unwrap()
                    .outcome,
                one,
                "{text}"
            );
        }
    }
}
