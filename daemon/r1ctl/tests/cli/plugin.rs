//! `r1ctl plugin` and `r1ctl rescore`: the sibling's documents as tables, its lines, words and exit
//! codes as they are.

use crate::fake_daemon::FakeDaemon;
use crate::fixtures as fix;
use crate::harness::{Home, Run, golden};
use r1d_proto::control::{Request, Response};
use std::process::Command;

/// A copy of r1ctl with a sibling r1d that is this shell script; without one when it is empty.
/// Other processes write both, see `model`.
fn run(home: &Home, sibling: &str, words: &[&str]) -> Run {
    let write = r#"mkdir -p bin && cp "$1" bin/r1ctl && if [ -n "$2" ]; then printf '#!/bin/sh\n%s\n' "$2" > bin/r1d && chmod +x bin/r1d; fi"#;
    let arguments = ["-c", write, "sh", env!("CARGO_BIN_EXE_r1ctl"), sibling];
    assert!(
        Command::new("sh")
            .args(arguments)
            .current_dir(home.path())
            .status()
            .unwrap()
            .success()
    );
    let mut command = Command::new(home.path().join("bin/r1ctl"));
    command
        .args(words)
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", "/usr/bin:/bin")
        .current_dir(home.path());
    home.finish(command)
}

/// Prints the document and ends with this code.
fn prints(document: &str, code: u8) -> String {
    format!("cat <<'END'\n{document}\nEND\nexit {code}")
}

const WORDS: &str =
    r#"for word in "$@"; do printf '%s\n' "$word"; done; echo talk >&2; exit ${CODE:-0}"#;

#[test]
fn score_s_lines_and_exit_code_pass_through() {
    let home = Home::new();
    let words = [
        "plugin",
        "score",
        "accuracy",
        "c.jsonl",
        "--config",
        "{\"a\": -1}",
        "--fuel",
        "9",
        "--answers",
        "a.jsonl",
    ];
    let ran = run(&home, WORDS, &words).expect(0);
    let expected = "plugin score --config={\"a\": -1} --fuel=9 accuracy c.jsonl --answers=a.jsonl";
    assert_eq!(
        (
            ran.stdout.lines().collect::<Vec<_>>().join(" ").as_str(),
            ran.stderr.as_str()
        ),
        (expected, "talk\n")
    );
    run(&home, "exit 1", &words).expect(1);
    assert!(
        run(&home, "kill -SEGV $$", &words)
            .expect(1)
            .stderr
            .contains("r1d was ended by signal 11")
    );
}

#[test]
fn without_r1d_it_says_what_is_missing() {
    let missing = run(&Home::new(), "", &["plugin", "list"]).expect(1).stderr;
    assert!(missing.contains("needs r1d beside r1ctl"), "{missing}");
    let other = run(&Home::new(), &prints("hello", 0), &["plugin", "list"])
        .expect(1)
        .stderr;
    assert!(
        other.contains("run the same release of r1d and r1ctl"),
        "{other}"
    );
}

const LISTED: &str = r#"{"plugin":"accuracy","file":"/p/accuracy.wasm","bytes":244910,"sha256":"bc6dfd2d3e19aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
"about":{"name":"accuracy","version":"0.1.0","world":"reward","min":0.0,"max":1.0,"parts":["a\u001b[2J"],"golden_cases":72,"signed_by":[]},"refused":null}"#;
const REFUSED: &str = r#"{"plugin":"bad","file":"/p/bad.wasm","bytes":12,"sha256":"00","about":null,"refused":"imports `wasi:cli`"}"#;

#[test]
fn documents_are_tables_for_people_and_themselves_for_programs() {
    let home = Home::new();
    let tested =
        r#"{"plugin":"a","cases":3,"differing":[{"case":"two","difference":"expected 1"}]}"#;
    let checked = r#"{"plugin":"a","passed":false,"checks":[{"check":"size","passed":true,"found":"9 bytes"},{"check":"completion: braces","passed":false,"found":"out_of_fuel"}]}"#;
    let benched = r#"{"plugin":"a","load_ms":1.5,"inputs":[{"input":"short","completions":100,"bytes":54,"fuel_per_completion":2000,"fuel_per_kb":38000,"completions_per_s":13000.5,"p50_ms":0.02,"p99_ms":0.07,"unscored":0}]}"#;
    let rescored = r#"{"reward":"accuracy","plugin":"other","sha256":"ab","completions":4,"agreeing":3,"pairs":[{"recorded":"score 1","rescored":"score 1","completions":3},{"recorded":"score 0","rescored":"trap","completions":1}],
    "disagreements":[{"stage":0,"step":2,"prompt_index":1,"sample_index":0,"recorded":"score 0","rescored":"trap","prompt":"6 * 7?","completion":"<answer>\n43</answer>","reference":"42"}]}"#;
    let list = format!("[{LISTED},{REFUSED}]");
    let cases: [(&str, &[&str], &str, i32); 7] = [
        ("list", &["plugin", "list"], &list, 0),
        ("inspect", &["plugin", "inspect", "accuracy"], LISTED, 0),
        ("inspect-refused", &["plugin", "inspect", "bad"], REFUSED, 1),
        ("test", &["plugin", "test", "a"], tested, 1),
        ("check", &["plugin", "check", "a"], checked, 1),
        ("bench", &["plugin", "bench", "a"], benched, 0),
        (
            "rescore",
            &["rescore", "./run", "--plugin", "other"],
            rescored,
            0,
        ),
    ];
    for (name, words, document, code) in cases {
        let sibling = prints(document, code as u8);
        golden(
            &format!("table/plugin-{name}.txt"),
            &run(&home, &sibling, words).expect(code).stdout,
        );
        let json = run(&home, &sibling, &[words, &["-o", "json"]].concat())
            .expect(code)
            .stdout;
        let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(parse(&json), parse(document), "{name}");
    }
}

#[test]
fn a_run_is_found_by_its_job_or_its_directory() {
    let home = Home::new();
    let ran = run(
        &home,
        &WORDS.replace("exit ${CODE:-0}", "exit 1"),
        &["rescore", "./run", "--plugin", "p.wasm", "--reward", "r"],
    );
    // The words are no document: they show in the error alone, and the exit code is the sibling's
    // where it says nothing.
    assert!(
        ran.stderr.contains("run the same release"),
        "{}",
        ran.stderr
    );
    let silent = run(
        &home,
        "printf '%s\\n' \"$@\" >&2; exit 1",
        &["rescore", "./run", "--plugin", "p.wasm", "--reward", "r"],
    )
    .expect(1);
    assert_eq!(
        silent.stderr.lines().collect::<Vec<_>>().join(" "),
        "plugin rescore ./run --plugin=p.wasm --reward=r --limit=10"
    );
    let away = run(&home, "", &["rescore", "abc", "--plugin", "p.wasm"])
        .expect(1)
        .stderr;
    assert!(away.contains("no daemon found"), "{away}");
}

#[test]
fn reload_asks_the_daemon_and_tells_from_which_step() {
    let home = Home::new();
    let sha256 = "ab".repeat(32);
    let reloaded = Response::Reloaded {
        job: fix::id(),
        plugin: "accuracy".into(),
        sha256,
        stage: "reasoning".into(),
        step: 7,
    };
    let daemon = FakeDaemon::answering(&home.socket(), reloaded);
    let ran = home
        .run(&["plugin", "reload", "abc", "accuracy", "new.wasm"])
        .expect(0);
    assert_eq!(
        ran.stdout,
        "accuracy: abababababab judges from step 7 of stage reasoning on\n"
    );
    let file = home.path().join("new.wasm");
    assert_eq!(
        daemon.requests(),
        [Request::Reload {
            job: "abc".into(),
            plugin: "accuracy".into(),
            file
        }]
    );
}

#[test]
fn a_new_plugin_is_a_directory_of_its_own() {
    let home = Home::new();
    let made = home.run(&["plugin", "new", "brief"]).expect(0);
    assert_eq!(made.stdout, "brief\n");
    let read = |name: &str| std::fs::read_to_string(home.path().join("brief").join(name)).unwrap();
    assert!(
        read("Cargo.toml").contains("name = \"brief\"")
            && read("Cargo.toml").contains("path = \"reward-sdk\"")
    );
    assert!(
        read("README.md").contains("plugin = \"brief.wasm\"")
            && read("golden.jsonl").contains("\"case\"")
    );
    assert!(
        read("reward-sdk/src/lib.rs").contains("pub trait Reward")
            && read("reward-sdk/macros/src/lib.rs").contains("proc_macro")
    );
    assert!(
        home.run(&["plugin", "new", "brief"])
            .expect(1)
            .stderr
            .contains("brief")
    );
    assert!(
        home.run(&["plugin", "new", "Brief"])
            .expect(1)
            .stderr
            .contains("no name of a plugin")
    );
    std::fs::create_dir_all(home.path().join("sdk")).unwrap();
    assert!(
        home.run(&["plugin", "new", "other", "--sdk", "sdk"])
            .expect(1)
            .stderr
            .contains("has no Cargo.toml")
    );
    home.write("sdk/Cargo.toml", "");
    home.run(&["plugin", "new", "other", "--sdk", "sdk"])
        .expect(0);
    let manifest = std::fs::read_to_string(home.path().join("other/Cargo.toml")).unwrap();
    assert!(
        manifest.contains(&format!("path = \"{}\"", home.path().join("sdk").display())),
        "{manifest}"
    );
    assert!(!home.path().join("other/reward-sdk").exists());
}

#[test]
fn what_cannot_be_built_is_told() {
    let home = Home::new();
    std::fs::create_dir_all(home.path().join("empty")).unwrap();
    assert!(
        home.run(&["plugin", "build", "empty"])
            .expect(1)
            .stderr
            .contains("neither a Cargo.toml nor a script `build`")
    );
    home.write("scripted/build", "exit 3");
    assert!(
        home.run(&["plugin", "build", "scripted"])
            .expect(1)
            .stderr
            .contains("its script `build` failed")
    );
    home.write("scripted/build", "true");
    assert!(
        home.run(&["plugin", "build", "scripted"])
            .expect(1)
            .stderr
            .contains("left no scripted.wasm")
    );
    home.write("scripted/build", "echo talk; printf wasm > scripted.wasm");
    let built = home.run(&["plugin", "build", "scripted"]).expect(0);
    assert_eq!(
        (built.stdout.as_str(), built.stderr.as_str()),
        ("scripted/scripted.wasm\n", "talk\n")
    );
    home.run(&["plugin", "build", "scripted", "--out", "there.wasm"])
        .expect(0);
    assert_eq!(
        std::fs::read_to_string(home.path().join("there.wasm")).unwrap(),
        "wasm"
    );
}
