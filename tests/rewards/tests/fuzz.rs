//! The fuzz bodies on a stable compiler: the corpus, the attack corpus, and mutations of both, the
//! same in every run.

#[path = "../../../daemon/rewards/tests/guests/mod.rs"]
mod guests;

use guests::Guest;
use r1d_reward_tests::fuzz::{self, Body, TARGETS};
use r1d_reward_tests::mutate::Random;
use r1d_rewards::attacks;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

const MUTATIONS: usize = 20_000;
/// Fewer than of other inputs, because each is written to a file, and compiled if it is valid.
const COMPONENTS: usize = 1_500;

/// Names and bytes of the corpus, in the order of the names.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    let entries =
        std::fs::read_dir(&directory).unwrap_or_else(|e| panic!("{}: {e}", directory.display()));
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{target} has no corpus");
    files
        .into_iter()
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect()
}

/// Inputs that cargo-fuzz found worth keeping: `found/pack.py` writes these files, with an input in
/// hexadecimal digits on each line.
fn found(target: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("found")
        .join(format!("{target}.hex"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let byte = |line: &str, at: usize| {
        u8::from_str_radix(&line[at..at + 2], 16)
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    };
    text.lines()
        .map(|line| (0..line.len() / 2).map(|at| byte(line, 2 * at)).collect())
        .collect()
}

/// Runs a body, and names the input if it panics.
fn run(body: Body, name: &str, bytes: &[u8]) {
    let ended = catch_unwind(AssertUnwindSafe(|| body(bytes)));
    assert!(
        ended.is_ok(),
        "{name}: {:?}",
        String::from_utf8_lossy(&bytes[..bytes.len().min(4_096)])
    );
}

#[test]
fn every_input_of_the_corpus_ends() {
    for (target, body) in TARGETS {
        for (name, bytes) in corpus(target) {
            run(body, &name, &bytes);
        }
        let found = found(target);
        assert!(!found.is_empty(), "{target} has no finds");
        for (i, bytes) in found.iter().enumerate() {
            run(body, &format!("{target}, find {i}"), bytes);
        }
    }
}

/// The large attacks are made here and not stored.
#[test]
fn every_attack_ends() {
    for (name, text) in attacks::texts() {
        for (target, body) in [
            ("answer", fuzz::answer as Body),
            ("text", fuzz::text),
            ("line", fuzz::case_line),
        ] {
            run(body, &format!("{target}, {name}"), text.as_bytes());
        }
        // The text is the reference of a plain answer, and the answer to a plain reference.
        run(fuzz::answer, name, format!("7\n{text}").as_bytes());
        run(
            fuzz::answer,
            name,
            format!("{}\n7", text.replace('\n', " ")).as_bytes(),
        );
    }
}

/// How many times as many mutations to run: `R1D_FUZZ_ROUNDS=50 cargo test …`.
fn rounds() -> usize {
    std::env::var("R1D_FUZZ_ROUNDS").map_or(1, |rounds| {
        rounds.parse().expect("R1D_FUZZ_ROUNDS is a number")
    })
}

fn mutate(target: &str, body: Body, count: usize, more: &[Vec<u8>]) {
    let corpus = corpus(target);
    let seeds: Vec<&[u8]> = corpus
        .iter()
        .map(|(_, bytes)| bytes.as_slice())
        .chain(more.iter().map(Vec::as_slice))
        .collect();
    let mut random = Random::of(0x5eed);
    for i in 0..count * rounds() {
        run(
            body,
            &format!("{target}, mutation {i}"),
            &random.mutation(&seeds),
        );
    }
}

#[test]
fn mutated_answers_end() {
    mutate("answer", fuzz::answer, MUTATIONS, &[]);
}

#[test]
fn mutated_texts_end() {
    mutate("text", fuzz::text, MUTATIONS, &[]);
}

#[test]
fn mutated_lines_end() {
    mutate("line", fuzz::case_line, MUTATIONS, &[]);
}

#[test]
fn mutated_components_end() {
    let honest = guests::component(&Guest {
        score: &guests::returns("(f32.const 0.5)"),
        ..Guest::default()
    });
    let endless = guests::component(&Guest {
        score: "(loop $again (br $again)) (unreachable)",
        ..Guest::default()
    });
    mutate(
        "component",
        fuzz::component,
        COMPONENTS,
        &[honest, endless, guests::sharing()],
    );
}
