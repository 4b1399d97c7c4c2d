//! Compiling in a child process and the cache of compiled code. Without a test harness, because this executable is the child too.

mod guests;

use guests::{Guest, completion, component, load_bytes, returns, shipped};
use r1d_proto::verdict::Outcome;
use r1d_proto::world::SystemClock;
use r1d_rewards::{Compiler, Options, RewardError, RewardSpec, Rewards};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("compile-child") => return r1d_rewards::serve_child(),
        Some("die-child") => std::process::abort(),
        Some("--list") => return ExitCode::SUCCESS,
        _ => {}
    }
    let tests: [(&str, fn()); 4] = [
        ("a_plugin_compiled_by_the_child_runs", a_plugin_compiled_by_the_child_runs),
        ("a_child_that_dies_is_an_error", a_child_that_dies_is_an_error),
        ("a_bad_component_is_the_childs_error", a_bad_component_is_the_childs_error),
        ("a_flipped_bit_in_the_cache_is_compiled_again", a_flipped_bit_in_the_cache_is_compiled_again),
    ];
    for (name, test) in tests {
        test();
        println!("test {name} ... ok");
    }
    ExitCode::SUCCESS
}

fn open(cache_dir: Option<&Path>, child: &str) -> Rewards {
    let compiler = Compiler::Child { program: std::env::current_exe().unwrap(), args: vec![child.into()] };
    let options = Options {
        plugin_dirs: vec![shipped()],
        cache_dir: cache_dir.map(PathBuf::from),
        threads: 1,
        compiler,
        clock: SystemClock::shared(),
    };
    Rewards::open(options).unwrap()
}

fn score_is_one(rewards: &Rewards) {
    let accuracy = rewards.load(&RewardSpec::named("accuracy")).unwrap();
    let judged = accuracy.score(&completion("<answer>2</answer>", Some("2"))).unwrap();
    assert_eq!(judged.outcome, Outcome::Score { value: 1.0, parts: vec![] });
}

fn a_plugin_compiled_by_the_child_runs() {
    score_is_one(&open(None, "compile-child"));
}

fn a_child_that_dies_is_an_error() {
    let error = open(None, "die-child").load(&RewardSpec::named("accuracy")).err().unwrap();
    assert!(matches!(&error, RewardError::Compile { why, .. } if why.contains("ended without an answer")), "{error}");
}

fn a_bad_component_is_the_childs_error() {
    let mut bytes = component(&Guest { score: &returns("(f32.const 1)"), ..Guest::default() });
    bytes.truncate(bytes.len() / 2);
    let error = load_bytes(&open(None, "compile-child"), &bytes, |_| ()).err().unwrap();
    assert!(matches!(error, RewardError::Compile { .. }), "{error}");
}

/// wasmtime itself would run the damaged code.
fn a_flipped_bit_in_the_cache_is_compiled_again() {
    let dir = tempfile::tempdir().unwrap();
    score_is_one(&open(Some(dir.path()), "compile-child"));
    let file = || {
        let mut files = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
        files.find(|path| path.extension().is_some_and(|extension| extension == "code")).unwrap()
    };
    // From the cache: the child is not asked.
    score_is_one(&open(Some(dir.path()), "die-child"));
    let good = std::fs::read(file()).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    std::fs::write(file(), &bad).unwrap();
    assert!(open(Some(dir.path()), "die-child").load(&RewardSpec::named("accuracy")).is_err(), "damaged code was used");
    score_is_one(&open(Some(dir.path()), "compile-child"));
    assert_eq!(std::fs::read(file()).unwrap(), good, "the cache is whole again");
}
