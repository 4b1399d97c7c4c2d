//! `r1d plugin` as a process: what a line of a file gets, and what is refused before any line is
//! judged.

use crate::guests::{Guest, RESULT, component, core, returns, shipped};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn lines(&self, lines: &[Value]) -> PathBuf {
        self.write(
            "cases.jsonl",
            lines
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        )
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_r1d"));
        command
            .arg("plugin")
            .args(words)
            .env("XDG_CACHE_HOME", cache())
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command.output().unwrap()
    }

    /// Verdicts of `score`; the exit code is 0.
    fn score(&self, words: &[&str]) -> Vec<Value> {
        let shipped = shipped();
        let words = [
            &["score"],
            words,
            &["--plugin-dir", shipped.to_str().unwrap()],
        ]
        .concat();
        let ran = self.run(&words);
        assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
        text(&ran.stdout)
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    /// What is said of input that cannot be read: nothing is printed, the exit code is 1.
    fn refusal(&self, words: &[&str]) -> String {
        let shipped = shipped();
        let ran = self.run(&[words, &["--plugin-dir", shipped.to_str().unwrap()]].concat());
        assert_eq!(
            (ran.status.code(), text(&ran.stdout).as_str()),
            (Some(1), ""),
            "{}",
            text(&ran.stderr)
        );
        text(&ran.stderr)
    }

    fn guest(&self, score: &str) -> String {
        let bytes = component(&Guest {
            score,
            ..Guest::default()
        });
        self.write("guest.wasm", bytes).display().to_string()
    }
}

/// Shared by all tests: a plugin is compiled once.
fn cache() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("plugin-cache")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn case(completion: &str, reference: &str) -> Value {
    json!({"prompt": "6 * 7?", "completion": completion, "reference": reference})
}

/// Verdict, score and reason of each line.
fn short(verdicts: &[Value]) -> Vec<(String, Value, String)> {
    let one = |v: &Value| {
        let keys: Vec<&str> = v.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["verdict", "score", "parts", "reason", "fuel", "ms"]);
        assert!(
            v["fuel"].is_u64() && v["ms"].as_f64().is_some_and(|ms| ms >= 0.0),
            "{v}"
        );
        assert_eq!(v["score"].is_null(), v["verdict"] != "score", "{v}");
        assert_eq!(v["parts"].is_null(), v["verdict"] != "score", "{v}");
        (
            v["verdict"].as_str().unwrap().to_owned(),
            v["score"].clone(),
            v["reason"].as_str().unwrap_or_default().to_owned(),
        )
    };
    verdicts.iter().map(one).collect()
}

#[test]
fn a_line_out_for_each_line_in_and_in_order() {
    let home = Home::new();
    let answers: Vec<Value> = (0..500)
        .map(|i| case(&format!("<answer>{i}</answer>"), "42"))
        .collect();
    home.lines(&answers);
    let verdicts = home.score(&["accuracy", "cases.jsonl"]);
    assert_eq!(verdicts.len(), 500);
    for (i, (verdict, score, _)) in short(&verdicts).into_iter().enumerate() {
        assert_eq!(
            (verdict.as_str(), score),
            ("score", json!(f64::from(i == 42))),
            "line {i}"
        );
    }
    home.lines(&[
        case("<answer>42</answer>", "42"),
        case("no", "42"),
        json!({"prompt": "", "completion": "<answer>42</answer>"}),
    ]);
    let verdicts = short(&home.score(&["accuracy", "cases.jsonl"]));
    assert_eq!(
        verdicts[1],
        ("score".into(), json!(0.0), "no answer".into())
    );
    assert_eq!(
        (verdicts[2].0.as_str(), &verdicts[2].1),
        ("abstain", &Value::Null)
    );
    home.write("cases.jsonl", "");
    assert_eq!(home.score(&["accuracy", "cases.jsonl"]), [] as [Value; 0]);
}

#[test]
fn what_a_line_says_reaches_the_plugin() {
    let home = Home::new();
    let config = r#"{"max_completion_len": 100, "soft_punish_cache": 50}"#;
    home.lines(&[
        json!({"prompt": "", "completion": "", "tokens": 75}),
        json!({"prompt": "", "completion": "", "tokens": 1000, "finish": "length",
            "meta": {"a": [1]},
            "group":
            "g"}),
        json!({"prompt": "", "completion": "", "tokens": null, "reference": null, "meta": null,
            "group": 3,
            "finish": null}),
    ]);
    let verdicts = home.score(&["soft-overlong", "cases.jsonl", "--config", config]);
    assert_eq!(
        verdicts
            .iter()
            .map(|v| v["score"].as_f64().unwrap())
            .collect::<Vec<_>>(),
        [-0.5, -1.0, 0.0]
    );
}

/// Questions to a judge go out as a file, its replies come back as one.
#[test]
fn a_judges_replies_are_read_from_a_file() {
    let home = Home::new();
    home.lines(&[
        case("<answer>42</answer>", "42"),
        case("<answer>41</answer>", "42"),
        case("<think>so", "42"),
    ]);
    let asks = home.0.path().join("asks.jsonl");
    let open = short(&home.score(&[
        "correctness",
        "cases.jsonl",
        "--asks",
        asks.to_str().unwrap(),
    ]));
    assert_eq!(
        (open[0].0.as_str(), &open[0].2[..]),
        (
            "abstain",
            "no answer to 1 of 1 questions to model `correctness`"
        )
    );
    assert_eq!(
        open[2],
        ("score".into(), json!(0.0), "no answer".into()),
        "nobody is asked about nothing"
    );
    let asked: Vec<Value> = std::fs::read_to_string(&asks)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(asked.len(), 2);
    let replies: String = (asked.iter())
        .map(|ask| {
            assert_eq!(
                (&ask["model"], &ask["max_tokens"]),
                (&json!("correctness"), &json!(512))
            );
            let right = ask["prompt"]
                .as_str()
                .unwrap()
                .contains("\n42\n=====#1=====\n\nThe answer is");
            let reply = json!({"analysis": "Compared.", "correctness": if right { "correct" } else {
                "incorrect" }});
            json!({"model": "correctness", "prompt": ask["prompt"], "answer": reply.to_string()})
                .to_string()
                + "\n"
        })
        .collect();
    let answers = home.write("answers.jsonl", replies);
    let judged = short(&home.score(&[
        "correctness",
        "cases.jsonl",
        "--answers",
        answers.to_str().unwrap(),
    ]));
    let compared = |score: f64| ("score".to_string(), json!(score), "`Compared.`".to_string());
    assert_eq!(judged[..2], [compared(1.0), compared(0.0)]);
}

#[test]
fn every_kind_of_fault_is_a_verdict_and_the_exit_code_is_zero() {
    let home = Home::new();
    home.lines(&[case("2", "2")]);
    let long = format!(
        "(i32.store (i32.const {}) (i32.const 16384)) (i32.store (i32.const {}) (i32.const 2)) \
         (i32.const {RESULT})",
        RESULT + 8,
        RESULT + 12
    );
    let internal = format!(
        "(i32.store (i32.const {RESULT}) (i32.const 1)) (i32.store (i32.const {}) (i32.const 1)) \
         (i32.store (i32.const {}) (i32.const 2048)) (i32.store (i32.const {}) (i32.const 4)) \
         (i32.const {RESULT})",
        RESULT + 4,
        RESULT + 8,
        RESULT + 12
    );
    let cases = [
        (returns("(f32.const 0.5)"), "score", ""),
        (returns("(f32.const nan)"), "trap", "NaN"),
        (returns("(f32.const 2)"), "trap", "outside 0 to 1"),
        (long, "trap", "2 parts, 0 declared"),
        (internal, "trap", "the plugin reports: test"),
        ("(unreachable)".into(), "trap", "panicked"),
        (
            "(loop $again (br $again)) (unreachable)".into(),
            "out_of_fuel",
            "limit",
        ),
    ];
    for (score, verdict, reason) in cases {
        let guest = home.guest(&score);
        let got = short(&home.score(&[&guest, "cases.jsonl"]));
        assert!(
            got[0].0 == verdict && got[0].2.contains(reason),
            "{score}: {got:?}"
        );
    }
}

#[test]
fn a_bad_line_is_named_with_its_key_before_anything_is_judged() {
    let home = Home::new();
    let good = case("<answer>42</answer>", "42").to_string();
    let cases = [
        ("{\"prompt\": \"\"}", "line 2: `completion` is missing"),
        ("{\"completion\": \"\"}", "line 2: `prompt` is missing"),
        (
            r#"{"prompt": "", "completion": 7}"#,
            "line 2: `completion` is a number",
        ),
        (
            r#"{"prompt": "", "completion": "", "tokens": -1}"#,
            "line 2: `tokens` is -1",
        ),
        (
            r#"{"prompt": "", "completion": "", "finish": "done"}"#,
            "line 2: `finish` is \"done\"",
        ),
        (
            r#"{"prompt": "", "completion": "", "meta": []}"#,
            "line 2: `meta` is a list",
        ),
        (
            r#"{"prompt": "", "completion": "", "group": {}}"#,
            "line 2: `group` is an object",
        ),
        (
            r#"{"prompt": "", "completion": "", "reference": 42}"#,
            "line 2: `reference` is a number",
        ),
        ("[1]", "line 2: a list"),
        ("{", "line 2: not JSON"),
        ("", "line 2: is empty"),
    ];
    for (line, part) in cases {
        home.write("cases.jsonl", format!("{good}\n{line}\n{good}\n"));
        let said = home.refusal(&["score", "accuracy", "cases.jsonl"]);
        assert!(
            said.contains("cases.jsonl") && said.contains(part),
            "{line}: {said}"
        );
    }
    home.write(
        "cases.jsonl",
        format!("{good}\n{{\"prompt\": \"{}\"}}\n", "x".repeat(17 << 20)),
    );
    assert!(
        home.refusal(&["score", "accuracy", "cases.jsonl"])
            .contains("line 2: longer than 16 MiB")
    );
    home.write(
        "cases.jsonl",
        [good.as_bytes(), b"\n{\"prompt\": \"\xff\"}\n"].concat(),
    );
    assert!(
        home.refusal(&["score", "accuracy", "cases.jsonl"])
            .contains("line 2: not UTF-8")
    );
    assert!(
        home.refusal(&["score", "accuracy", "none.jsonl"])
            .contains("none.jsonl")
    );
    // What is not known is left out, and said.
    home.write(
        "cases.jsonl",
        format!("{}\n\n\n", good.replace("reference", "refrence")),
    );
    let shipped = shipped();
    let ran = home.run(&[
        "score",
        "accuracy",
        "cases.jsonl",
        "--plugin-dir",
        shipped.to_str().unwrap(),
    ]);
    assert!(
        ran.status.success() && text(&ran.stderr).contains("line 1: unknown key `refrence`"),
        "{}",
        text(&ran.stderr)
    );
    assert_eq!(text(&ran.stdout).lines().count(), 1);
}

#[test]
fn what_is_no_plugin_is_refused_in_words() {
    let home = Home::new();
    home.lines(&[case("2", "2")]);
    home.write("core.wasm", core(&Guest::default(), "reward"));
    home.write("text.wasm", "hello");
    let wasi = wat::parse_str(
        r#"(component (import "wasi:cli/environment@0.2.0" (instance (export "get" (func)))))"#,
    )
    .unwrap();
    home.write("wasi.wasm", wasi);
    let whole = component(&Guest::default());
    home.write("cut.wasm", &whole[..whole.len() / 2]);
    let cases = [
        ("./core.wasm", "plugin build"),
        ("./text.wasm", "not a WASM component"),
        ("./wasi.wasm", "wasi:cli/environment@0.2.0"),
        ("./cut.wasm", "does not compile"),
        ("./none.wasm", "none.wasm"),
        ("accuracie", "known: accuracy, "),
    ];
    for (plugin, part) in cases {
        let said = home.refusal(&["score", plugin, "cases.jsonl"]);
        assert!(said.contains(part), "{plugin}: {said}");
    }
    for (config, part) in [
        ("{", "--config"),
        ("[]", "not a JSON object"),
        (r#"{"kinds": 1}"#, "kinds"),
    ] {
        let said = home.refusal(&["score", "accuracy", "cases.jsonl", "--config", config]);
        assert!(said.contains(part), "{config}: {said}");
    }
}

#[test]
fn golden_cases_of_the_shipped_plugins_pass_in_the_sandbox() {
    let home = Home::new();
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../plugins/format/golden.jsonl");
    let shipped = shipped();
    let words = [
        "test",
        "format",
        "--golden",
        golden.to_str().unwrap(),
        "--plugin-dir",
        shipped.to_str().unwrap(),
    ];
    let ran = home.run(&words);
    let tested: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(
        ran.status.success()
            && tested["cases"].as_u64().unwrap() > 10
            && tested["differing"] == json!([]),
        "{tested}"
    );
    let wrong = home.write(
        "wrong.jsonl",
        r#"{"case": "wrong", "completion": "", "expect": {"score": 1}}"#,
    );
    let ran = home.run(&[
        "test",
        "format",
        "--golden",
        wrong.to_str().unwrap(),
        "--plugin-dir",
        shipped.to_str().unwrap(),
    ]);
    let tested: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(
        (ran.status.code(), &tested["differing"][0]["case"]),
        (Some(1), &json!("wrong"))
    );
}

#[test]
fn a_component_brings_its_golden_cases_and_a_check_attacks_it() {
    let home = Home::new();
    let golden = home.write(
        "golden.jsonl",
        r#"{"case": "half", "completion": "", "expect": {"score": 0.5}}"#,
    );
    let module = home.write(
        "core.wasm",
        core(
            &Guest {
                score: &returns("(f32.const 0.5)"),
                ..Guest::default()
            },
            "reward",
        ),
    );
    let made = home.0.path().join("half.wasm");
    let words = [
        "componentize",
        module.to_str().unwrap(),
        made.to_str().unwrap(),
        "--golden",
        golden.to_str().unwrap(),
    ];
    assert!(home.run(&words).status.success());
    let tested: Value = serde_json::from_slice(&home.run(&["test", "./half.wasm"]).stdout).unwrap();
    assert_eq!(
        tested,
        json!({"plugin": "test", "cases": 1, "differing": []})
    );
    let ran = home.run(&["check", "./half.wasm"]);
    let checked: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(
        ran.status.success() && checked["passed"] == json!(true),
        "{checked}"
    );
    assert!(
        checked["checks"].as_array().unwrap().len() > 60,
        "{checked}"
    );

    // One that runs out of fuel where the text is long.
    let greedy = "(local $i i32) (local.set $i (i32.mul (local.get 4) (i32.const 16)))
        (loop $again (br_if $again
          (i32.gt_s (local.tee $i (i32.sub (local.get $i) (i32.const 1))) (i32.const 0))))";
    let module = home.write(
        "greedy.wasm",
        core(
            &Guest {
                score: &format!("{greedy} {}", returns("(f32.const 0)")),
                ..Guest::default()
            },
            "reward",
        ),
    );
    let made = home.0.path().join("made.wasm");
    assert!(
        home.run(&[
            "componentize",
            module.to_str().unwrap(),
            made.to_str().unwrap()
        ])
        .status
        .success()
    );
    let ran = home.run(&["check", "./made.wasm", "--fuel", "1000000"]);
    let checked: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert_eq!(
        (ran.status.code(), &checked["passed"]),
        (Some(1), &json!(false)),
        "{checked}"
    );
    let failed: Vec<&Value> = checked["checks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|check| check["passed"] == json!(false))
        .collect();
    assert!(
        failed
            .iter()
            .all(|check| check["found"].as_str().unwrap().contains("out_of_fuel"))
            && !failed.is_empty(),
        "{failed:?}"
    );
}

#[test]
fn inspect_and_list_tell_what_plugins_say_of_themselves() {
    let home = Home::new();
    let shipped = shipped();
    let ran = home.run(&["list", "--plugin-dir", shipped.to_str().unwrap()]);
    let listed: Vec<Value> = serde_json::from_slice(&ran.stdout).unwrap();
    let names: Vec<&str> = listed
        .iter()
        .map(|plugin| plugin["plugin"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"accuracy") && names.contains(&"soft-overlong"),
        "{names:?}"
    );
    assert!(
        listed
            .iter()
            .all(|plugin| plugin["about"]["world"].is_string()),
        "{listed:?}"
    );
    home.write("core.wasm", core(&Guest::default(), "reward"));
    let ran = home.run(&["inspect", "./core.wasm"]);
    let described: Value = serde_json::from_slice(&ran.stdout).unwrap();
    assert!(
        ran.status.code() == Some(1)
            && described["refused"]
                .as_str()
                .unwrap()
                .contains("plugin build"),
        "{described}"
    );
}

#[test]
fn bench_measures_each_input() {
    let home = Home::new();
    let shipped = shipped();
    home.lines(&[
        case("<answer>42</answer>", "42"),
        case("<answer>43</answer>", "42"),
    ]);
    let ran = home.run(&[
        "bench",
        "accuracy",
        "cases.jsonl",
        "--plugin-dir",
        shipped.to_str().unwrap(),
    ]);
    let benched: Value =
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{}", text(&ran.stderr)));
    let input = &benched["inputs"][0];
    for key in [
        "completions",
        "bytes",
        "fuel_per_completion",
        "fuel_per_kb",
        "completions_per_s",
        "p50_ms",
        "p99_ms",
    ] {
        assert!(input[key].as_f64().unwrap() > 0.0, "{key}: {benched}");
    }
    assert_eq!(input["unscored"], json!(0));
}

#[test]
fn a_signature_is_shown_while_the_file_is_as_it_was_signed() {
    let home = Home::new();
    let guest = home.guest(&returns("(f32.const 0.5)"));
    let key: Value = serde_json::from_slice(&home.run(&["keygen", "key"]).stdout).unwrap();
    assert!(home.run(&["sign", &guest, "--key", "key"]).status.success());
    let signed_by = |file: &str| {
        let described: Value =
            serde_json::from_slice(&home.run(&["inspect", file]).stdout).unwrap();
        described["about"]["signed_by"].clone()
    };
    assert_eq!(signed_by(&guest), json!([key["public_key"]]));
    home.guest(&returns("(f32.const 0.25)"));
    assert_eq!(signed_by(&guest), json!([]));
    assert_eq!(
        home.run(&["keygen", "key"]).status.code(),
        Some(1),
        "a key is never written over"
    );
}

/// Pipes would wait for a writer for ever, devices have no end: wherever a command reads a file.
#[test]
fn what_is_no_regular_file_is_refused_by_its_path() {
    let home = Home::new();
    let path = |name: &str| home.0.path().join(name);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        path("fifo"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/dev/zero", path("zero")).unwrap();
    std::fs::create_dir(path("directory")).unwrap();
    home.lines(&[case("<answer>42</answer>", "42")]);
    let key = path("key").display().to_string();
    home.run(&["keygen", &key]);
    for name in ["fifo", "zero", "directory", "/proc/self/status"] {
        let wasm = if name.starts_with('/') {
            name.to_owned()
        } else {
            format!("./{name}")
        };
        for words in [
            &["score", "accuracy", name][..],
            &["score", "accuracy", "cases.jsonl", "--answers", name],
            &["score", &wasm, "cases.jsonl"],
            &["test", "accuracy", "--golden", name],
            &["bench", "accuracy", name],
            &["check", &wasm],
            &["inspect", &wasm],
        ] {
            let error = home.refusal(words);
            assert!(
                error.contains(name) && error.contains("only a regular file is read"),
                "{words:?}: {error}"
            );
        }
        for words in [
            &["componentize", name, "out.wasm"][..],
            &["sign", name, "--key", &key],
        ] {
            let ran = home.run(words);
            let error = text(&ran.stderr);
            assert!(
                ran.status.code() == Some(1) && error.contains("only a regular file is read"),
                "{words:?}: {error}"
            );
        }
    }
}

#[test]
fn no_error_echoes_a_megabyte_or_an_escape_sequence() {
    let home = Home::new();
    let escapes = "\u{1b}]0;pwned\u{7}".repeat(1000);
    for line in [
        format!(
            "{{\"prompt\": \"\", \"completion\": \"\", \"finish\": {}}}",
            json!(escapes)
        ),
        format!(
            "{{\"prompt\": \"\", \"completion\": \"\", \"tokens\": {}}}",
            "9".repeat(1_000_000)
        ),
        "x".repeat(1_000_000),
    ] {
        home.write("cases.jsonl", &line);
        let error = home.refusal(&["score", "accuracy", "cases.jsonl"]);
        assert!(
            error.len() < 8 << 10 && !error.contains('\u{1b}'),
            "{} bytes",
            error.len()
        );
    }
    home.lines(&[json!({"prompt": "", "completion": "", escapes.clone(): 1})]);
    let shipped = shipped();
    let ran = home.run(&[
        "score",
        "accuracy",
        "cases.jsonl",
        "--plugin-dir",
        shipped.to_str().unwrap(),
    ]);
    let warned = text(&ran.stderr);
    assert!(
        warned.contains("unknown key") && warned.len() < 8 << 10 && !warned.contains('\u{1b}'),
        "{} bytes",
        warned.len()
    );
    let error = home.refusal(&[
        "score",
        "accuracy",
        "cases.jsonl",
        "--config",
        &json!([escapes]).to_string(),
    ]);
    assert!(
        error.len() < 8 << 10 && !error.contains('\u{1b}'),
        "{} bytes",
        error.len()
    );
}
