//! The attack corpus: hostile plugins, each ending in the right verdict, without effect on a
//! neighbour (`RWD-1`, `RWD-2`).

use crate::guests::{
    Guest, RESULT, completion, component, group_core, load, load_bytes, returns, rewards, sharing,
};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Judged, RewardError};
use std::sync::mpsc;

fn judge(guest: &Guest<'_>) -> Judged {
    load(&rewards(1), guest)
        .score(&completion("2", Some("2")))
        .unwrap()
}

fn score_body(body: &str) -> Outcome {
    judge(&Guest {
        score: body,
        ..Guest::default()
    })
    .outcome
}

fn trap_reason(body: &str) -> String {
    match score_body(body) {
        Outcome::Trap { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// Sets a field of the result, then returns it.
fn with(fields: &str) -> String {
    format!("{fields} (i32.const {RESULT})")
}

fn store(offset: u32, value: &str) -> String {
    format!(
        "(i32.store (i32.const {}) (i32.const {value}))",
        RESULT + offset
    )
}

#[test]
fn an_honest_guest_scores() {
    assert_eq!(
        score_body(&returns("(f32.const 0.5)")),
        Outcome::Score {
            value: 0.5,
            parts: vec![]
        }
    );
}

#[test]
fn endless_work_runs_out_of_fuel_at_the_same_count_each_time() {
    let loops = [
        "(loop $again (br $again)) (unreachable)",
        // Bulk memory operations are charged by the byte: 2^30 instructions' worth of time hides in
        // none of them.
        "(loop $again (memory.fill (i32.const 8192) (i32.const 1) (i32.const 65536)) (br $again)) \
         (unreachable)",
        "(loop $again (memory.copy (i32.const 8192) (i32.const 16384) (i32.const 65536)) (br \
         $again)) (unreachable)",
        "(loop $again (drop (memory.grow (i32.const 0))) (br $again)) (unreachable)",
    ];
    for body in loops {
        let guest = Guest {
            score: body,
            ..Guest::default()
        };
        let (first, second) = (judge(&guest), judge(&guest));
        assert_eq!(first.outcome, Outcome::OutOfFuel, "{body}");
        assert_eq!(first.fuel, second.fuel, "{body}");
    }
}

#[test]
fn a_memory_bomb_ends_at_its_limit() {
    let body = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) \
                (unreachable)";
    assert_eq!(trap_reason(body), "out of memory: the limit is 64 MiB");
    let bytes = component(&Guest {
        score: body,
        ..Guest::default()
    });
    let small = load_bytes(&rewards(1), &bytes, |spec| spec.limits.memory_mb = Some(1)).unwrap();
    let Outcome::Trap { reason } = small.score(&completion("2", None)).unwrap().outcome else {
        panic!("no trap")
    };
    assert_eq!(reason, "out of memory: the limit is 1 MiB");
}

#[test]
fn deep_recursion_and_panics_are_traps() {
    let recursion = Guest {
        fields: "(func $down (param i64) (call $down (i64.add (local.get 0) (i64.const 1))) (drop \
                 (i64.eqz (local.get 0))))",
        score: "(call $down (i64.const 0)) (unreachable)",
        ..Guest::default()
    };
    assert_eq!(
        judge(&recursion).outcome,
        Outcome::Trap {
            reason: "stack overflow".into()
        }
    );
    assert_eq!(trap_reason("(unreachable)"), "the plugin panicked");
    assert!(trap_reason("(i32.load (i32.const -4))").contains("out of bounds"));
    assert!(trap_reason("(i32.div_s (i32.const 1) (i32.const 0))").contains("divide by zero"));
}

#[test]
fn results_that_break_the_contract_are_traps() {
    assert_eq!(trap_reason(&returns("(f32.const nan)")), "the score is NaN");
    assert_eq!(
        trap_reason(&returns("(f32.div (f32.const 1) (f32.const 0))")),
        "the score is inf"
    );
    assert_eq!(
        trap_reason(&returns("(f32.const 1.5)")),
        "the score 1.5 is outside 0 to 1"
    );
    assert_eq!(
        trap_reason(&returns("(f32.const -0.5)")),
        "the score -0.5 is outside 0 to 1"
    );
    assert_eq!(
        trap_reason(&with(&(store(8, "16384") + &store(12, "2")))),
        "2 parts, 0 declared"
    );
    // No such case, a result outside of memory, a string outside of memory, one that is not UTF-8.
    for body in [
        with(&store(0, "7")),
        "(i32.const -8)".into(),
        with(&(store(16, "1") + &store(20, "-16") + &store(24, "16"))),
    ] {
        trap_reason(&body);
    }
    trap_reason(&with(
        &(store(8192, "-1")
            + &store(16, "1")
            + &store(20, &(RESULT + 8192).to_string())
            + &store(24, "4")),
    ));
    // An error the plugin reports itself.
    assert!(
        trap_reason(&with(
            &(store(0, "1") + &store(4, "1") + &store(8, "2048") + &store(12, "4"))
        ))
        .contains("the plugin reports: test")
    );
}

#[test]
fn a_bad_reference_is_an_abstention() {
    let body = with(&(store(0, "1") + &store(4, "0") + &store(8, "2048") + &store(12, "4")));
    assert_eq!(
        score_body(&body),
        Outcome::Abstain {
            reason: "test".into()
        }
    );
}

#[test]
fn a_guest_cannot_make_the_host_allocate() {
    // A reason of 16 MiB, a million parts: each is within the guest's memory.
    let grow = "(drop (memory.grow (i32.const 512)))";
    let long_reason =
        with(&(grow.to_owned() + &store(16, "1") + &store(20, "65536") + &store(24, "16777216")));
    let many_parts = with(&(grow.to_owned() + &store(8, "65536") + &store(12, "1000000")));
    for body in [long_reason, many_parts] {
        assert!(
            trap_reason(&body).contains("fuel"),
            "{}",
            trap_reason(&body)
        );
    }
    // 64 strings that are the same 8 MiB.
    let aliased = Guest {
        describe: r#"(local $i i32) (drop (memory.grow (i32.const 256)))
            (loop $next
              (i32.store (i32.add (i32.const 8192) (i32.mul (local.get $i) (i32.const 8))) (i32.const 65536))
              (i32.store (i32.add (i32.const 8196) (i32.mul (local.get $i) (i32.const 8))) (i32.const 8388608))
              (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 64))))
            (i32.store (i32.const 1048) (i32.const 8192)) (i32.store (i32.const 1052) (i32.const 64)) (i32.const 1024)"#,
        ..Guest::default()
    };
    let error = load_bytes(&rewards(1), &component(&aliased), |_| ())
        .err()
        .unwrap();
    assert!(
        matches!(&error, RewardError::Describe { why, .. } if why.contains("fuel")),
        "{error}"
    );
}

#[test]
fn every_completion_gets_a_fresh_instance() {
    // 1 / (number of calls that this memory has seen).
    let counting =
        "(i32.store (i32.const 8192) (i32.add (i32.load (i32.const 8192)) (i32.const 1)))
        (global.set $calls (i32.add (global.get $calls) (i32.const 1)))";
    let value = "(f32.div (f32.const 1) (f32.convert_i32_u (i32.mul (i32.load (i32.const 8192)) \
                 (global.get $calls))))";
    let guest = Guest {
        fields: "(global $calls (mut i32) (i32.const 0))",
        score: &format!("{counting} {}", returns(value)),
        ..Guest::default()
    };
    let reward = load(&rewards(1), &guest);
    for _ in 0..100 {
        assert_eq!(
            reward.score(&completion("2", None)).unwrap().outcome,
            Outcome::Score {
                value: 1.0,
                parts: vec![]
            }
        );
    }
}

#[test]
fn what_fuel_cannot_see_hits_the_backstop_after_a_retry() {
    let bytes = component(&Guest {
        score: "(loop $again (br $again)) (unreachable)",
        ..Guest::default()
    });
    let rewards = rewards(1);
    let endless = load_bytes(&rewards, &bytes, |spec| {
        spec.limits.fuel = Some(u64::MAX / 2);
        spec.limits.wall_ms = Some(20);
    });
    assert_eq!(
        endless
            .unwrap()
            .score(&completion("2", None))
            .unwrap()
            .outcome,
        Outcome::OutOfTime
    );
}

/// A large component gets an interpreter's limits, outside of the pool. They are limits too.
#[test]
fn a_large_guest_is_bounded_too() {
    let large = format!("(data \"{}\")", "x".repeat(3 << 19));
    let bomb = "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) \
                (unreachable)";
    let reason = match judge(&Guest {
        fields: &large,
        score: bomb,
        ..Guest::default()
    })
    .outcome
    {
        Outcome::Trap { reason } => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(reason, "out of memory: the limit is 512 MiB");
    let asks = |fields: &str| {
        let bytes = component(&Guest {
            fields: &(large.clone() + fields),
            score: &returns("(f32.const 1)"),
            ..Guest::default()
        });
        load_bytes(&rewards(1), &bytes, |_| ())
            .map(|reward| reward.score(&completion("2", None)).unwrap().outcome)
    };
    assert_eq!(
        asks(&"(memory 1)".repeat(3)).unwrap(),
        Outcome::Score {
            value: 1.0,
            parts: vec![]
        }
    );
    for many in [
        "(memory 1)".repeat(4),
        "(table 1 funcref)".repeat(65),
        "(table 20001 funcref)".into(),
        "(memory 8192)".into(),
    ] {
        let error = asks(&many).err().unwrap();
        assert!(matches!(error, RewardError::Describe { .. }), "{error}");
    }
    // A call that never ends is interrupted there as well.
    let bytes = component(&Guest {
        fields: &large,
        score: "(loop $again (br $again)) (unreachable)",
        ..Guest::default()
    });
    let endless = load_bytes(&rewards(1), &bytes, |spec| {
        (spec.limits.fuel, spec.limits.wall_ms) = (Some(u64::MAX / 2), Some(20));
    });
    assert_eq!(
        endless
            .unwrap()
            .score(&completion("2", None))
            .unwrap()
            .outcome,
        Outcome::OutOfTime
    );
}

/// A caller's thread may have less stack than a guest.
#[test]
fn a_deep_guest_needs_no_deep_thread() {
    let recursion = Guest {
        fields: "(func $down (param i64) (call $down (i64.add (local.get 0) (i64.const 1))) (drop \
                 (i64.eqz (local.get 0))))",
        score: "(call $down (i64.const 0)) (unreachable)",
        ..Guest::default()
    };
    let reward = load(&rewards(1), &recursion);
    let small = std::thread::Builder::new().stack_size(256 << 10);
    let judged = small
        .spawn(move || reward.score(&completion("2", None)).unwrap())
        .unwrap()
        .join()
        .unwrap();
    assert_eq!(
        judged.outcome,
        Outcome::Trap {
            reason: "stack overflow".into()
        }
    );
}

#[test]
fn work_at_load_time_is_bounded_too() {
    let start = Guest {
        fields: "(func $main (loop $again (br $again))) (start $main)",
        ..Guest::default()
    };
    let error = load_bytes(&rewards(1), &component(&start), |_| ())
        .err()
        .unwrap();
    assert!(
        matches!(&error, RewardError::Describe { why, .. } if why.contains("fuel")),
        "{error}"
    );
    let greedy = Guest {
        fields: "(memory 2000)",
        ..Guest::default()
    };
    let error = load_bytes(&rewards(1), &component(&greedy), |_| ())
        .err()
        .unwrap();
    assert!(
        matches!(&error, RewardError::Describe { why, .. } if why.contains("the limit is 64 MiB")),
        "{error}"
    );
    let configured = Guest {
        configure: "(i32.store8 (i32.const 512) (i32.const 1)) (i32.store (i32.const 516) \
                    (i32.const 2048)) (i32.store (i32.const 520) (i32.const 4)) (i32.const 512)",
        ..Guest::default()
    };
    let error = load_bytes(&rewards(1), &component(&configured), |_| ())
        .err()
        .unwrap();
    assert!(
        matches!(&error, RewardError::Config { why, .. } if why == "test"),
        "{error}"
    );
    // info.max at 1044 is NaN
    let rangeless = Guest {
        describe: "(f32.store (i32.const 1044) (f32.const nan)) (i32.const 1024)",
        ..Guest::default()
    };
    let error = load_bytes(&rewards(1), &component(&rangeless), |_| ())
        .err()
        .unwrap();
    assert!(error.to_string().contains("not a finite range"), "{error}");
}

#[test]
fn no_attack_changes_a_neighbours_verdict() {
    let rewards = rewards(2);
    let accuracy = rewards
        .load(&r1d_rewards::RewardSpec::named("accuracy"))
        .unwrap();
    let texts: Vec<String> = (0..64)
        .map(|i| format!("<think>{}</think><answer>{i}</answer>", "a ".repeat(i * 7)))
        .collect();
    let judge_alone = |text: &str| accuracy.score(&completion(text, Some("7"))).unwrap();
    let alone: Vec<_> = texts
        .iter()
        .map(|text| judge_alone(text))
        .map(|judged| (judged.outcome, judged.reason, judged.fuel))
        .collect();

    let bodies = [
        "(loop $again (br $again)) (unreachable)",
        "(loop $again (br_if $again (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) \
         (unreachable)",
        "(memory.fill (i32.const 0) (i32.const 255) (i32.const 131072)) (unreachable)",
        "(unreachable)",
    ];
    let attackers: Vec<_> = bodies
        .iter()
        .map(|score| {
            load(
                &rewards,
                &Guest {
                    score,
                    ..Guest::default()
                },
            )
        })
        .collect();
    let (sender, receiver) = mpsc::channel();
    for (i, text) in texts.iter().enumerate() {
        let attacker = attackers[i % attackers.len()].clone();
        rewards
            .pool()
            .try_submit(attacker, completion("2", None), |judged| {
                assert!(judged.is_ok())
            })
            .unwrap();
        let sender = sender.clone();
        let answered = move |judged| sender.send((i, judged)).unwrap();
        rewards
            .pool()
            .try_submit(accuracy.clone(), completion(text, Some("7")), answered)
            .unwrap();
    }
    drop(sender);
    let mut beside = vec![None; texts.len()];
    for (i, judged) in receiver {
        let judged: Judged = judged.unwrap();
        beside[i] = Some((judged.outcome, judged.reason, judged.fuel));
    }
    assert_eq!(alone.into_iter().map(Some).collect::<Vec<_>>(), beside);
}

#[test]
fn a_group_is_one_call_and_its_faults_are_everybodys() {
    let rewards = rewards(1);
    let group: Vec<_> = (0..4).map(|i| completion(&"x".repeat(i), None)).collect();
    let reward = load_bytes(&rewards, &sharing(), |_| ()).unwrap();
    let judged = reward.score_group(&group).unwrap();
    assert!(
        judged.iter().all(|judged| judged.outcome
            == Outcome::Score {
                value: 0.25,
                parts: vec![]
            }),
        "{judged:?}"
    );
    assert_eq!(
        reward.score_group(&group[..1]).unwrap()[0].outcome,
        Outcome::Score {
            value: 1.0,
            parts: vec![]
        }
    );
    assert_eq!(reward.score_group(&[]).unwrap(), []);
    assert!(
        reward
            .score(&group[0])
            .unwrap_err()
            .to_string()
            .contains("world `group-reward`")
    );

    let outcomes = |body: &str| -> Vec<Outcome> {
        let reward = load_bytes(
            &rewards,
            &r1d_rewards::componentize(&group_core(body)).unwrap(),
            |_| (),
        )
        .unwrap();
        reward
            .score_group(&group)
            .unwrap()
            .into_iter()
            .map(|judged| judged.outcome)
            .collect()
    };
    let empty = "(i32.store (i32.const 4096) (i32.const 8192)) (i32.store (i32.const 4100) \
                 (i32.const 0)) (i32.const 4096)";
    let wrong_count = Outcome::Trap {
        reason: "0 results for 4 completions".into(),
    };
    assert_eq!(outcomes(empty), vec![wrong_count; 4]);
    assert_eq!(
        outcomes("(loop $again (br $again)) (unreachable)"),
        vec![Outcome::OutOfFuel; 4]
    );
    assert_eq!(
        outcomes("(unreachable)"),
        vec![
            Outcome::Trap {
                reason: "the plugin panicked".into()
            };
            4
        ]
    );
    // One result that breaks the contract is its completion's alone.
    let one_bad =
        "(i32.store (i32.const 4096) (i32.const 8192)) (i32.store (i32.const 4100) (i32.const 4))
        (f32.store (i32.const 8196) (f32.const nan)) (i32.const 4096)";
    let outcomes = outcomes(one_bad);
    assert_eq!(
        outcomes[0],
        Outcome::Trap {
            reason: "the score is NaN".into()
        }
    );
    assert_eq!(
        outcomes[1..],
        vec![
            Outcome::Score {
                value: 0.0,
                parts: vec![]
            };
            3
        ]
    );
}

/// Functions without end, and one function that is all the file: each is refused or compiled within
/// the compiler's limits, and the daemon goes on.
#[test]
fn compile_bombs_are_a_plugins_own_problem() {
    let rewards = rewards(1);
    let many: String = (0..20_000)
        .map(|i| {
            format!("(func $f{i} (param i32) (result i32) (i32.add (local.get 0) (i32.const {i})))")
        })
        .collect();
    let reward = load(
        &rewards,
        &Guest {
            fields: &many,
            score: &returns("(f32.const 0.5)"),
            ..Guest::default()
        },
    );
    assert_eq!(
        reward.score(&completion("2", None)).unwrap().outcome,
        Outcome::Score {
            value: 0.5,
            parts: vec![]
        }
    );
    let deep = format!("{}{}", "(block ".repeat(5_000), ")".repeat(5_000));
    let guest = Guest {
        score: &format!("{deep} {}", returns("(f32.const 0.5)")),
        ..Guest::default()
    };
    if let Ok(reward) = load_bytes(&rewards, &component(&guest), |_| ()) {
        assert!(reward.score(&completion("2", None)).is_ok());
    }
}
