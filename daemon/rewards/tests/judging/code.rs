//! The plugin `code` through the host: CPython inside WASM runs what models write.
//! `make plugins-python` builds it; without it these tests are skipped.

use crate::guests::{rewards, shipped};
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Completion, Judged, Limits, LoadedReward, RewardSpec, Rewards};
use reward_sdk::golden::{Expected, parse};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, mpsc};

/// One test compiles the component, the others find it in the cache.
static COMPILING: Mutex<()> = Mutex::new(());

/// Loads the plugin; `None` if it is not built.
fn load(rewards: &Rewards, config: &str, limits: Limits) -> Option<LoadedReward> {
    if !shipped().join("code.wasm").is_file() {
        eprintln!(
            "skipped: no code.wasm in {}: run `make plugins-python`",
            shipped().display()
        );
        return None;
    }
    let _one = COMPILING.lock().unwrap_or_else(PoisonError::into_inner);
    Some(
        rewards
            .load(&RewardSpec {
                config_json: config.into(),
                limits,
                ..RewardSpec::named("code")
            })
            .unwrap(),
    )
}

fn code(rewards: &Rewards) -> Option<LoadedReward> {
    load(rewards, "{}", Limits::default())
}

fn completion(text: &str, reference: Option<&str>, meta: Option<&str>) -> Completion {
    Completion {
        id: 0,
        prompt: "Write a function.".into(),
        text: text.into(),
        reference: reference.map(String::from),
        tokens: 1,
        finish: FinishReason::Stop,
        meta: meta.map(String::from),
    }
}

/// A program that the test `f(2) == 4` judges.
fn run(reward: &LoadedReward, program: &str) -> Judged {
    reward
        .score(&completion(
            &format!("```python\n{program}\n```"),
            Some("assert f(2) == 4"),
            None,
        ))
        .unwrap()
}

fn score(value: f32) -> Outcome {
    Outcome::Score {
        value,
        parts: vec![],
    }
}

#[test]
fn golden_cases() {
    let cases = parse(include_str!("../../../../plugins/code/golden.jsonl")).unwrap();
    let rewards = rewards(1);
    let mut loaded: BTreeMap<String, LoadedReward> = BTreeMap::new();
    let mut wrong = Vec::new();
    for case in &cases {
        let config = case.config_json();
        if !loaded.contains_key(&config) {
            let Some(reward) = load(&rewards, &config, Limits::default()) else {
                return;
            };
            loaded.insert(config.clone(), reward);
        }
        let native = case.completion();
        let given = completion(
            &native.text,
            native.reference.as_deref(),
            native.meta.as_deref(),
        );
        let judged = loaded[&config].score(&given).unwrap();
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
        wrong.extend(differs.map(|differs| format!("{}: {differs}", case.name)));
    }
    assert!(
        wrong.is_empty(),
        "{} of {}: {}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
}

#[test]
fn what_has_no_end_runs_out_of_fuel() {
    let Some(reward) = load(
        &rewards(1),
        "{}",
        Limits {
            fuel: Some(300_000_000),
            ..Limits::default()
        },
    ) else {
        return;
    };
    let endless = [
        "while True: pass",
        "def f(x):\n    while True: pass",
        "x = 9**9**9",
        "import re\nre.match('(a+)+$', 'a' * 40 + 'b')",
        "while True: print('x' * 100000)",
        "import time\nwhile True: time.sleep(1)",
        // Whatever it catches, there is no more fuel.
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ];
    for program in endless {
        assert_eq!(
            run(&reward, program).outcome,
            Outcome::OutOfFuel,
            "{program}"
        );
    }
}

#[test]
fn memory_ends_at_its_limit() {
    let Some(reward) = load(
        &rewards(1),
        "{}",
        Limits {
            memory_mb: Some(128),
            ..Limits::default()
        },
    ) else {
        return;
    };
    for program in [
        "a = []\nwhile True: a.append(bytearray(1 << 20))",
        "a = 'x'\nwhile True: a += a",
        "x = list(range(10**9))",
    ] {
        let judged = run(&reward, program);
        assert!(
            judged.outcome == score(0.0) && judged.reason.as_deref() == Some("MemoryError"),
            "{program}: {judged:?}"
        );
    }
    // An exception like another: a program may free what it took and go on.
    let caught = "a = []\ntry:\n    while True: a.append(bytearray(1 << 20))\nexcept \
                  MemoryError:\n    a = None\ndef f(x): return 4";
    assert_eq!(run(&reward, caught).outcome, score(1.0));
}

/// Recursion that nothing in Python counts may end in a trap, but never in another completion's
/// verdict.
#[test]
fn no_program_changes_a_neighbours_verdict() {
    let rewards = rewards(2);
    let Some(reward) = code(&rewards) else { return };
    let attacks = [
        "a = []\nfor i in range(100000): a = [a]\nrepr(a)",
        "import builtins, sys, random\nrandom.seed(7)\nbuiltins.print = \
         None\nsys.modules.clear()\ndef f(x): return 1",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(n): return f(n)\nf(1)",
        "open('/tmp/x', 'w')",
    ];
    let honest =
        "import random\ndef f(x): return 4 if random.random() == random.Random(0).random() else 3";
    let before = run(&reward, honest);
    assert_eq!(before.outcome, score(1.0));
    let (sender, receiver) = mpsc::channel();
    for attack in attacks.iter().cycle().take(12) {
        for (program, expected) in [
            (*attack, None),
            (honest, Some((before.outcome.clone(), before.fuel))),
        ] {
            let sender = sender.clone();
            let given = completion(
                &format!("```python\n{program}\n```"),
                Some("assert f(2) == 4"),
                None,
            );
            let answered = move |judged| drop(sender.send((judged, expected)));
            rewards
                .pool()
                .try_submit(reward.clone(), given, answered)
                .unwrap();
        }
    }
    drop(sender);
    for (judged, expected) in receiver {
        let Judged { outcome, fuel, .. }: Judged = judged.unwrap();
        assert_ne!(outcome, score(if expected.is_some() { 0.0 } else { 1.0 }));
        assert!(expected.is_none_or(|expected| expected == (outcome, fuel)));
    }
}

#[test]
fn a_verdict_costs_the_same_fuel_each_time() {
    let (first, second) = (rewards(1), rewards(1));
    let (Some(first), Some(second)) = (code(&first), code(&second)) else {
        return;
    };
    // Order of sets, addresses, chance and time: all that differs between two runs of an ordinary
    // Python.
    let program = "import random, time, uuid\ndef f(x):\n    s = \
                   ''.join({str(i) for i in range(50)}) + str(id(object()))\n    return 4 if \
                   len(s) * random.random() * time.time() else uuid.uuid4()";
    let judged = run(&first, program);
    assert_eq!(judged.outcome, score(1.0));
    for reward in [&first, &second, &first] {
        let again = run(reward, program);
        assert_eq!(
            (again.outcome, again.fuel),
            (judged.outcome.clone(), judged.fuel)
        );
    }
}

#[test]
fn the_standard_library_is_there() {
    let Some(reward) = code(&rewards(1)) else {
        return;
    };
    // What programs of HumanEval, MBPP and competitive programming import.
    let modules = "abc array ast base64 bisect builtins calendar cmath collections \
                   collections.abc contextlib copy csv dataclasses datetime decimal difflib enum \
                   fractions functools gc hashlib heapq html inspect io itertools json keyword \
                   logging math numbers operator os os.path pickle pprint queue random re secrets \
                   shlex statistics string struct sys textwrap threading time timeit traceback \
                   types typing unicodedata unittest uuid urllib.parse warnings weakref \
                   xml.etree.ElementTree zlib";
    for module in modules.split_whitespace() {
        let judged = run(&reward, &format!("import {module}\ndef f(x): return x * 2"));
        assert_eq!(judged.outcome, score(1.0), "{module}: {judged:?}");
    }
    let uses = [
        "import datetime; datetime.datetime.now(); datetime.date.today(); \
         datetime.datetime.now(datetime.timezone.utc)",
        "import time; time.localtime(); time.gmtime(); time.ctime(); time.strftime('%Y'); \
         time.perf_counter_ns()",
        "import random; random.seed(); random.Random().random(); random.SystemRandom().random(); \
         random.shuffle([1, 2])",
        "import uuid, secrets, os; uuid.uuid4(); secrets.token_hex(); os.urandom(3)",
        "import logging, warnings; logging.warning('x'); warnings.warn('x')",
        "import hashlib; hashlib.sha256(b'x').hexdigest(); hashlib.md5(b'x'); hashlib.new('sha1', \
         b'')",
        "import pickle, copy, json; pickle.loads(pickle.dumps([1])); copy.deepcopy({1: [2]}); \
         json.loads(json.dumps([1]))",
        "import timeit; timeit.timeit('1', number=10)",
        "import traceback\ntry: 1 / 0\nexcept Exception: assert 'ZeroDivisionError' in \
         traceback.format_exc()",
        "import io, contextlib\nwith contextlib.redirect_stdout(io.StringIO()) as out: \
         print('x')\nassert out.getvalue() == 'x\\n'",
        "from dataclasses import dataclass\n@dataclass(order=True)\nclass P: x: int = 1\nassert \
         P(1) < P(2)",
        "import typing\nclass N(typing.NamedTuple): a: int\nassert typing.get_type_hints(N) == \
         {'a': int}",
        "import threading, queue; queue.Queue().put(1); threading.Lock().acquire()",
        "import os; os.environ['X'] = '1'; assert os.getenv('X') == '1' and os.getcwd() == '/'",
    ];
    for program in uses {
        let judged = run(&reward, &format!("{program}\ndef f(x): return x * 2"));
        assert_eq!(judged.outcome, score(1.0), "{program}: {judged:?}");
    }
}

#[test]
fn a_refused_config_names_the_key() {
    let rewards = rewards(1);
    if code(&rewards).is_none() {
        return;
    }
    let error = |config: &str| {
        rewards
            .load(&RewardSpec {
                config_json: config.into(),
                ..RewardSpec::named("code")
            })
            .err()
            .unwrap()
            .to_string()
    };
    assert!(
        error(r#"{"partail": true}"#).contains("unknown key `partail`"),
        "{}",
        error(r#"{"partail": true}"#)
    );
    assert!(error(r#"{"partial": 1}"#).contains("`partial` is 1"));
}

/// Every canonical solution passes, and no mutation of one does.
#[test]
fn humaneval() {
    let Some(data) = std::env::var_os("R1D_TEST_DATA") else {
        eprintln!("skipped: R1D_TEST_DATA is not set");
        return;
    };
    let rows =
        std::fs::read_to_string(std::path::Path::new(&data).join("humaneval/HumanEval.jsonl"))
            .unwrap();
    let rewards = rewards(2);
    let Some(reward) = code(&rewards) else { return };
    let (sender, receiver) = mpsc::channel();
    let mut given = 0;
    for row in rows.lines() {
        let row: serde_json::Value = serde_json::from_str(row).unwrap();
        let [task, prompt, entry, solution, test] = [
            "task_id",
            "prompt",
            "entry_point",
            "canonical_solution",
            "test",
        ]
        .map(|key| row[key].as_str().unwrap().to_owned());
        let right = format!("{prompt}{solution}");
        let wrapped = |name: &str, body: &str| {
            (
                name.to_owned(),
                format!("{right}\n_right = {entry}\ndef {entry}(*args):\n{body}"),
                0.0,
            )
        };
        let mutants = [
            ("canonical".to_owned(), right.clone(), 1.0),
            ("pass".to_owned(), format!("{prompt}    pass\n"), 0.0),
            wrapped("returns nothing", "    _right(*args)\n"),
            wrapped("off by one", OFF_BY_ONE),
        ];
        for (name, program, expected) in mutants {
            let text =
                format!("<think>Let me see.</think>\n<answer>\n```python\n{program}```\n</answer>");
            let reference = format!("{test}\ncheck({entry})");
            let (sender, name) = (sender.clone(), format!("{task}, {name}"));
            let answered = move |judged| drop(sender.send((name, expected, judged)));
            rewards
                .pool()
                .try_submit(
                    reward.clone(),
                    completion(&text, Some(&reference), None),
                    answered,
                )
                .unwrap();
            given += 1;
        }
    }
    drop(sender);
    assert_eq!(given, 4 * 164);
    let wrong: Vec<String> = receiver
        .iter()
        .filter_map(|(name, expected, judged)| {
            let judged: Judged = judged.unwrap();
            (judged.outcome != score(expected)).then(|| format!("{name}: {judged:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Another value of the same type.
const OFF_BY_ONE: &str = "    def off(x):
        if x is None: return 0
        if isinstance(x, bool): return not x
        if isinstance(x, (int, float)): return x + 1
        if isinstance(x, str): return x + 'x'
        if isinstance(x, dict): return {**x, 'x': 1}
        return type(x)([*x, 1])
    return off(_right(*args))
";
