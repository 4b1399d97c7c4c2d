//! Loading is apart from judging: a plugin that is slow, greedy or hostile before it judges
//! anything costs only the caller that loads it.

use crate::guests::{Guest, completion, component, load, load_bytes, returns, rewards, spec};
use r1d_proto::verdict::Outcome;
use r1d_rewards::{
    Abandoned, Compiler, LoadedReward, Options, Plugin, RewardError, RewardSpec, Rewards, golden,
};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

const LOOP: &str = "(loop $again (br $again)) (unreachable)";

/// A component of the size of one with an interpreter inside, which gets a hundred times the fuel.
fn padded(guest: &Guest<'_>) -> Vec<u8> {
    const PADDING: usize = 2 << 20;
    let mut bytes = component(guest);
    // A custom section: id, length, name, contents.
    let length = 1 + 3 + PADDING;
    bytes.push(0);
    let mut left = length;
    while left >= 0x80 {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
    bytes.extend([3, b'p', b'a', b'd']);
    bytes.resize(bytes.len() + PADDING, 0);
    bytes
}

fn honest() -> Vec<u8> {
    component(&Guest {
        score: &returns("(f32.const 1)"),
        ..Guest::default()
    })
}

fn score(reward: &LoadedReward) -> Outcome {
    reward.score(&completion("2", None)).unwrap().outcome
}

const ONE: Outcome = Outcome::Score {
    value: 1.0,
    parts: Vec::new(),
};

/// More loads than places, each of which would take as long as it is let.
#[test]
fn plugins_that_loop_while_loading_keep_nobody_from_judging_and_end_when_abandoned() {
    let rewards = rewards(1);
    let judge = load(
        &rewards,
        &Guest {
            score: &returns("(f32.const 1)"),
            ..Guest::default()
        },
    );
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("hostile.wasm");
    std::fs::write(
        &path,
        padded(&Guest {
            configure: LOOP,
            ..Guest::default()
        }),
    )
    .unwrap();
    let mut hostile = spec(&path);
    (hostile.limits.fuel, hostile.limits.wall_ms) = (Some(i64::MAX as u64), Some(3_600_000));
    let (abandoned, ended) = (Abandoned::default(), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        let load = || {
            let loaded = rewards.until(abandoned.clone()).load(&hostile).err();
            ended.fetch_add(1, Ordering::Relaxed);
            loaded
        };
        let loads: Vec<_> = (0..8).map(|_| scope.spawn(load)).collect();
        for _ in 0..20 {
            assert_eq!(score(&judge), ONE);
        }
        assert_eq!(ended.load(Ordering::Relaxed), 0, "they are all still at it");
        abandoned.set();
        for load in loads {
            let error = load.join().unwrap();
            assert!(matches!(error, Some(RewardError::Abandoned)), "{error:?}");
        }
    });
    assert_eq!(score(&judge), ONE);
}

#[test]
fn what_a_job_allows_for_judging_does_not_hold_for_loading() {
    let limits = |spec: &mut RewardSpec| {
        (spec.limits.fuel, spec.limits.wall_ms) = (Some(i64::MAX as u64), Some(3_600_000))
    };
    for (guest, what) in [
        (
            Guest {
                configure: LOOP,
                ..Guest::default()
            },
            "refuses its config",
        ),
        (
            Guest {
                describe: LOOP,
                ..Guest::default()
            },
            "describe failed",
        ),
    ] {
        let error = load_bytes(&rewards(1), &component(&guest), limits)
            .err()
            .unwrap()
            .to_string();
        assert!(
            error.contains(what) && error.contains("out of fuel: the limit is 500000000"),
            "{error}"
        );
    }
    // Nor for the cases that it is tried on before it is taken.
    let loops = load_bytes(
        &rewards(1),
        &component(&Guest {
            score: LOOP,
            ..Guest::default()
        }),
        limits,
    )
    .unwrap();
    let report = golden::run(
        &loops.on_trial(),
        r#"{"case": "a", "completion": "b", "expect": {"score": 1}}"#,
    )
    .unwrap();
    assert_eq!(
        report.differing,
        [("a".to_string(), "out of fuel".to_string())]
    );
}

#[test]
fn names_of_a_plugin_are_short_and_its_words_are_quoted_tamely() {
    // A name of 1,024 bytes: its length stands behind its address in the static info.
    let long = Guest {
        fields: r#"(data (i32.const 1028) "\00\04\00\00")"#,
        ..Guest::default()
    };
    let error = load_bytes(&rewards(1), &component(&long), |_| ())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("longer than the 256 bytes of a name") && error.len() < 1000,
        "{error}"
    );
    let config = format!("{{\"a\": \"{}\"}}", "\\u001b[2J".repeat(100_000));
    let refusing = Guest {
        configure: LOOP,
        ..Guest::default()
    };
    let error = load_bytes(&rewards(1), &component(&refusing), |spec| {
        spec.config_json = config.clone()
    })
    .err()
    .unwrap()
    .to_string();
    assert!(
        error.contains("refuses its config") && error.len() < 1000,
        "{} bytes",
        error.len()
    );
}

/// They find the same file at the same time, and keep it at the same time.
#[test]
fn eight_jobs_that_share_a_new_plugin_all_keep_it() {
    let (dir, path) = plugin();
    let store = dir.path().join("kept");
    let rewards = rewards(2).storing(store.clone());
    for _ in 0..10 {
        std::thread::scope(|scope| {
            let keep = || {
                let reward = rewards.load(&spec(&path))?;
                rewards.keep(&reward)?;
                Ok::<_, RewardError>(reward)
            };
            let submits: Vec<_> = (0..8).map(|_| scope.spawn(keep)).collect();
            for submit in submits {
                assert_eq!(score(&submit.join().unwrap().unwrap()), ONE);
            }
        });
        let kept: Vec<_> = std::fs::read_dir(&store)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(kept.len(), 1, "{kept:?}");
        assert_eq!(rewards.prune(&BTreeSet::new()).unwrap(), 1);
    }
}

/// A job's plugin is found by its pin in what the daemon keeps, and made anew there from the file
/// that the job names.
#[test]
fn a_damaged_copy_is_made_anew_from_the_original_or_named_with_what_to_do() {
    let (dir, path) = plugin();
    let rewards = rewards(1).storing(dir.path().join("kept"));
    let reward = rewards.load(&spec(&path)).unwrap();
    rewards.keep(&reward).unwrap();
    let sha256 = reward.module_sha256().to_owned();
    let kept = dir.path().join("kept").join(format!("{sha256}.wasm"));
    let pinned = RewardSpec {
        sha256: Some(sha256.clone()),
        ..spec(&path)
    };
    let whole = std::fs::read(&kept).unwrap();
    for damaged in [
        &b"oops"[..],
        &[],
        &whole[..whole.len() - 1],
        &[&[0][..], &whole[1..], &[0]].concat(),
    ] {
        std::fs::write(&kept, damaged).unwrap();
        assert_eq!(score(&rewards.load(&pinned).unwrap()), ONE);
        assert_eq!(
            std::fs::read(&kept).unwrap(),
            whole,
            "the copy is whole again"
        );
    }
    // Nothing has the pinned bytes any more.
    std::fs::write(&kept, "oops").unwrap();
    std::fs::write(&path, "other").unwrap();
    let error = rewards.load(&pinned).err().unwrap().to_string();
    for part in [
        "the daemon's copy, is damaged",
        kept.to_str().unwrap(),
        path.to_str().unwrap(),
        &sha256,
        "submit the job again",
    ] {
        assert!(error.contains(part), "{part}: {error}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = rewards.load(&pinned).err().unwrap().to_string();
    assert!(
        error.contains("is damaged") && error.contains("No such file"),
        "{error}"
    );
}

fn plugin() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("guest.wasm");
    std::fs::write(&path, honest()).unwrap();
    (dir, path)
}

/// Each place of which a path is read, with something there that is no file.
#[test]
fn what_is_no_regular_file_is_refused_by_its_path_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let (fifo, zero, socket) = (
        dir.path().join("fifo.wasm"),
        dir.path().join("zero.wasm"),
        dir.path().join("socket.wasm"),
    );
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    std::os::unix::fs::symlink("/dev/zero", &zero).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let rewards = rewards(1);
    for path in [
        &fifo,
        &zero,
        &socket,
        dir.path(),
        Path::new("/proc/self/status"),
        Path::new("/proc/kmsg"),
    ] {
        let said = |error: String| {
            assert!(
                error.contains(&path.display().to_string()),
                "{}: {error}",
                path.display()
            )
        };
        said(rewards.load(&spec(path)).err().unwrap().to_string());
        said(golden::of_file(path).err().unwrap().to_string());
        said(r1d_rewards::read(path).err().unwrap().to_string());
    }
    // Signatures lie beside a plugin; keys are named.
    let (other, path) = plugin();
    let signatures = r1d_rewards::signature::beside(&path);
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &signatures,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    rewards.load(&spec(&path)).unwrap();
    let key = r1d_rewards::signature::PublicKey::parse(&"ab".repeat(32)).unwrap();
    assert!(matches!(
        crate::guests::rewards(1)
            .trusting(vec![key])
            .load(&spec(&path)),
        Err(RewardError::Unsigned { .. })
    ));
    assert!(r1d_rewards::signature::sign(&path, &fifo).is_err());
    drop(other);
}

#[test]
fn a_pipe_that_is_called_like_a_plugin_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("piped.wasm");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RWXU,
        0,
    )
    .unwrap();
    let options = Options {
        plugin_dirs: vec![dir.path().into()],
        cache_dir: None,
        threads: 1,
        compiler: Compiler::InProcess,
        clock: r1d_proto::world::SystemClock::shared(),
    };
    let rewards = Rewards::open(options).unwrap();
    let named = RewardSpec {
        plugin: Plugin::Named("piped".into()),
        ..RewardSpec::named("piped")
    };
    assert!(matches!(
        rewards.load(&named),
        Err(RewardError::NotFound { .. })
    ));
}
