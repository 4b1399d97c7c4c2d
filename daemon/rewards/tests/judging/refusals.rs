//! Files that are no rewards: each is refused before it runs, with the culprit named.

use crate::guests::{Guest, component, core, load_bytes, returns, rewards, shipped};
use r1d_rewards::{ComponentizeError, Plugin, RewardError, RewardSpec, componentize};

fn refusal(bytes: &[u8]) -> RewardError {
    load_bytes(&rewards(1), bytes, |_| ())
        .err()
        .expect("loaded")
}

fn honest() -> Vec<u8> {
    component(&Guest {
        score: &returns("(f32.const 1)"),
        ..Guest::default()
    })
}

#[test]
fn imports_are_refused_by_name() {
    let with_wasi = r#"(component
        (import "wasi:cli/environment@0.2.0" (instance (export "get-environment" (func (result (list (tuple string string))))))))"#;
    let error = refusal(&wat::parse_str(with_wasi).unwrap());
    assert!(
        matches!(&error, RewardError::Imports { imports, .. } if imports.contains(
            "wasi:cli/environment@0.2.0") && imports.contains(
            "get-environment")),
        "{error}"
    );
    let with_function = r#"(component (import "now" (func (result u64))))"#;
    let error = refusal(&wat::parse_str(with_function).unwrap());
    assert!(
        matches!(&error, RewardError::Imports { imports, .. } if imports == "`now`"),
        "{error}"
    );
    let with_module = r#"(component (import "m" (core module)))"#;
    assert!(matches!(
        refusal(&wat::parse_str(with_module).unwrap()),
        RewardError::Imports { .. }
    ));
}

#[test]
fn a_core_module_is_refused_with_the_way_out() {
    let error = refusal(&core(&Guest::default(), "reward"));
    assert!(matches!(error, RewardError::CoreModule { .. }));
    assert!(error.to_string().contains("r1ctl plugin build"), "{error}");
}

#[test]
fn worlds_with_other_functions_are_refused() {
    // Only the exports' names are looked at before a component is linked.
    let exporting = |names: &[&str]| {
        let exports: String = names
            .iter()
            .map(|name| format!(r#"(export "{name}" (func $f))"#))
            .collect();
        let text = format!(
            r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m)) (func $f (canon lift (core func $i "f"))) {exports})"#
        );
        refusal(&wat::parse_str(text).unwrap())
    };
    let error = exporting(&["describe", "configure", "plan"]);
    assert!(
        matches!(&error, RewardError::NotReward { why, .. } if why.contains("conclude")),
        "{error}"
    );
    for whole in [
        ["describe", "configure", "score-group"].as_slice(),
        &["describe", "configure", "plan", "conclude"],
    ] {
        assert!(
            matches!(exporting(whole), RewardError::NotReward { .. }),
            "wrong types: {whole:?}"
        );
    }
    let error = exporting(&["describe", "score"]);
    assert!(
        matches!(&error, RewardError::NotReward { why, .. } if why.contains("configure")),
        "{error}"
    );
    let error = exporting(&["describe", "configure", "score"]);
    assert!(
        matches!(error, RewardError::NotReward { .. }),
        "wrong types: {error}"
    );
}

#[test]
fn a_damaged_file_is_an_error_whatever_the_damage() {
    let rewards = rewards(1);
    let whole = honest();
    let refused = |bytes: &[u8]| load_bytes(&rewards, bytes, |_| ()).is_err();
    assert!(!refused(&whole));
    // Cut between two sections it may still be a component, but never this reward.
    for length in (0..whole.len())
        .step_by(61)
        .chain([1, 4, 7, 8, whole.len() - 1])
    {
        assert!(refused(&whole[..length]), "cut to {length} bytes");
    }
    for (bytes, word) in [
        (b"".as_slice(), "empty"),
        (b"not wasm at all", "does not start"),
        (b"\x7fELF....", "ELF"),
        (b"\0asm\x09\0\0\0", "unknown version"),
    ] {
        let error = refusal(bytes);
        assert!(
            matches!(&error, RewardError::NotComponent { why, .. } if why.contains(word)),
            "{error}"
        );
    }
    // A flipped bit gives another plugin or an error, but never a crash.
    for bit in (64..whole.len() * 8).step_by(131) {
        let mut bad = whole.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        if let Ok(reward) = load_bytes(&rewards, &bad, |spec| spec.limits.fuel = Some(100_000)) {
            let _ = reward.score(&crate::guests::completion("2", None)).unwrap();
        }
    }
}

#[test]
fn a_name_is_looked_up_in_the_plugin_directories_only() {
    let rewards = rewards(1);
    assert!(rewards.names().contains(&"accuracy".to_owned()));
    let error = rewards
        .load(&RewardSpec::named("acuracy"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("acuracy")
            && error.contains("accuracy, ")
            && error.contains("format")
            && error.contains("plugins"),
        "{error}"
    );
    for name in ["../plugins/accuracy", "", "..", "."] {
        assert!(
            matches!(
                rewards.load(&RewardSpec::named(name)),
                Err(RewardError::NotFound { .. })
            ),
            "{name}"
        );
    }
    let missing = RewardSpec {
        plugin: Plugin::Path("/nowhere/x.wasm".into()),
        ..RewardSpec::named("")
    };
    assert!(matches!(
        rewards.load(&missing),
        Err(RewardError::Read { .. })
    ));
}

#[test]
fn a_pin_that_does_not_fit_is_refused() {
    let rewards = rewards(1);
    let sha256 = rewards
        .load(&RewardSpec::named("accuracy"))
        .unwrap()
        .module_sha256()
        .to_owned();
    let pinned = |sha256: &str| {
        rewards.load(&RewardSpec {
            sha256: Some(sha256.into()),
            ..RewardSpec::named("accuracy")
        })
    };
    assert!(pinned(&sha256).is_ok());
    assert!(pinned(&sha256.to_uppercase()).is_ok());
    let other = pinned(&"0".repeat(64)).err().unwrap();
    assert!(other.to_string().contains(&sha256), "{other}");
    assert!(matches!(pinned("abc"), Err(RewardError::BadPin { .. })));
}

#[test]
fn limits_out_of_range_are_refused_by_name() {
    let rewards = rewards(1);
    for (key, memory_mb, fuel) in [
        ("memory_mb", 0, None),
        ("memory_mb", 4_096, None),
        ("fuel", 64, Some(0)),
    ] {
        let mut spec = RewardSpec::named("format");
        (spec.limits.memory_mb, spec.limits.fuel) = (Some(memory_mb), fuel);
        let error = rewards.load(&spec).err().unwrap();
        assert!(error.to_string().contains(key), "{error}");
    }
}

#[test]
fn only_a_core_module_of_the_sdk_becomes_a_component() {
    assert!(matches!(
        componentize(&honest()),
        Err(ComponentizeError::AlreadyComponent)
    ));
    assert!(matches!(
        componentize(&wat::parse_str("(module)").unwrap()),
        Err(ComponentizeError::NoWorld)
    ));
    assert!(matches!(
        componentize(b"text"),
        Err(ComponentizeError::NotModule(_))
    ));
    let module = core(&Guest::default(), "reward");
    assert_eq!(
        componentize(&module).unwrap(),
        componentize(&module).unwrap()
    );
    assert!(componentize(&module[..module.len() - 9]).is_err());
    let accuracy = std::fs::read(shipped().join("accuracy.wasm")).unwrap();
    assert!(matches!(
        componentize(&accuracy),
        Err(ComponentizeError::AlreadyComponent)
    ));
}

#[test]
fn where_keys_are_trusted_only_what_they_signed_is_loaded() {
    let dir = tempfile::tempdir().unwrap();
    let (file, key, other) = (
        dir.path().join("guest.wasm"),
        dir.path().join("key"),
        dir.path().join("other"),
    );
    std::fs::write(&file, honest()).unwrap();
    let (trusted, stranger) = (
        r1d_rewards::signature::generate(&key).unwrap(),
        r1d_rewards::signature::generate(&other).unwrap(),
    );
    assert_ne!(trusted, stranger);
    let trusting = rewards(1).trusting(vec![trusted]);
    let refused = || {
        trusting
            .load(&crate::guests::spec(&file))
            .err()
            .map(|error| error.to_string())
    };
    assert!(
        refused().unwrap().contains("guest.wasm.sig"),
        "{:?}",
        refused()
    );
    r1d_rewards::signature::sign(&file, &other).unwrap();
    assert!(refused().is_some(), "signed by a stranger");
    r1d_rewards::signature::sign(&file, &key).unwrap();
    assert_eq!(refused(), None);
    std::fs::write(
        &file,
        component(&Guest {
            score: "(unreachable) (unreachable)",
            ..Guest::default()
        }),
    )
    .unwrap();
    assert!(refused().is_some(), "changed since");
}
