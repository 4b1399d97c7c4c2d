//! `r1ctl model`: the sibling's words, output and exit code pass through.

use crate::harness::{Home, Run};
use std::path::PathBuf;
use std::process::Command;

/// A copy of r1ctl with a sibling that is this shell script. Other processes write both: a file
/// that this one held open for writing could be held by a fork of another test's still, and would
/// then not run ("text file busy").
fn installed(home: &Home, sibling: Option<&str>) -> PathBuf {
    let write = r#"mkdir -p bin && cp "$1" bin/r1ctl && if [ -n "$2" ]; then printf '#!/bin/sh\n%s\n' "$2" > bin/r1d-worker && chmod +x bin/r1d-worker; fi"#;
    let words = [
        "-c",
        write,
        "sh",
        env!("CARGO_BIN_EXE_r1ctl"),
        sibling.unwrap_or_default(),
    ];
    assert!(
        Command::new("sh")
            .args(words)
            .current_dir(home.path())
            .status()
            .unwrap()
            .success()
    );
    home.path().join("bin/r1ctl")
}

fn run(home: &Home, sibling: Option<&str>, words: &[&str], variables: &[(&str, &str)]) -> Run {
    let mut command = Command::new(installed(home, sibling));
    command
        .args(words)
        .env_clear()
        .env("HOME", home.path())
        .env("PATH", "/usr/bin:/bin")
        .envs(variables.iter().copied());
    home.finish(command)
}

const ECHO: &str =
    r#"for word in "$@"; do printf '%s\n' "$word"; done; echo talk >&2; exit ${CODE:-0}"#;

#[test]
fn verify_hands_its_words_to_the_worker() {
    let home = Home::new();
    let words = [
        "model",
        "verify",
        "DIR",
        "--golden",
        "g.safetensors",
        "-o",
        "json",
    ];
    let ran = run(&home, Some(ECHO), &words, &[]).expect(0);
    assert_eq!(
        ran.stdout.lines().collect::<Vec<_>>().join(" "),
        "verify DIR --golden=g.safetensors --atol=0.00002 --prompt-len=16 --device=cpu \
         --dtype=float32 --output=json"
    );
    assert_eq!(ran.stderr, "talk\n");
}

#[test]
fn generate_hands_its_words_to_the_worker() {
    let home = Home::new();
    let words = [
        "model",
        "generate",
        "DIR",
        "--prompt",
        "- one two",
        "--temperature",
        "0",
        "--seed",
        "7",
    ];
    let ran = run(&home, Some(ECHO), &words, &[]).expect(0);
    assert_eq!(
        ran.stdout.lines().collect::<Vec<_>>().join(" "),
        "generate DIR --prompt=- one two --temperature=0 --seed=7 --device=cpu --dtype=float32 -n \
         1 --output=text"
    );
    let more = [
        "--speculative",
        "--device",
        "cuda:1",
        "--dtype",
        "bfloat16",
        "--fp8",
    ];
    let ran = run(&home, Some(ECHO), &[&words[..], &more].concat(), &[]).expect(0);
    let words = ran.stdout.lines().collect::<Vec<_>>().join(" ");
    assert!(
        words.contains("--speculative --device=cuda:1 --dtype=bfloat16 --fp8"),
        "{words}"
    );
}

#[test]
fn the_worker_s_exit_code_is_r1ctl_s() {
    for code in ["1", "64"] {
        let home = Home::new();
        let words = ["model", "verify", "DIR", "--golden", "g"];
        run(&home, Some(&format!("exit {code}")), &words, &[]).expect(code.parse().unwrap());
    }
}

#[test]
fn libtorch_s_directory_is_put_before_the_library_path() {
    let home = Home::new();
    let variables = [
        ("R1D_TORCH_LIB", "/torch/lib"),
        ("LD_LIBRARY_PATH", "/other"),
    ];
    let words = ["model", "generate", "DIR", "--prompt", "x"];
    let ran = run(&home, Some("echo \"$LD_LIBRARY_PATH\""), &words, &variables).expect(0);
    assert_eq!(ran.stdout, "/torch/lib:/other\n");
    let ran = run(
        &home,
        Some("echo \"${LD_LIBRARY_PATH-unset}\""),
        &words,
        &[],
    )
    .expect(0);
    assert_eq!(ran.stdout, "unset\n");
}

#[test]
fn a_missing_worker_a_missing_library_and_a_crash_are_told_apart() {
    let words = ["model", "generate", "DIR", "--prompt", "x"];
    let cases = [
        (None, "make build"),
        (Some("exit 127"), "R1D_TORCH_LIB"),
        (Some("kill -SEGV $$"), "signal 11"),
    ];
    for (sibling, part) in cases {
        let home = Home::new();
        let ran = run(&home, sibling, &words, &[]).expect(1);
        assert!(
            ran.stderr.contains(part) && ran.stderr.contains("r1d-worker"),
            "{}",
            ran.stderr
        );
    }
}
