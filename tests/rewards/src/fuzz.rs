//! The bodies of the fuzz targets. Each takes any bytes; whatever they are, it must neither panic
//! nor break what it asserts.

use crate::shipped::{Judge, PLUGINS, natively};
use r1d_proto::rollout::FinishReason;
use r1d_proto::world::SystemClock;
use r1d_rewards::{
    Compiler, Limits, Options, Plugin, RewardSpec, Rewards, componentize, golden, line,
};
use reward_sdk::{Completion, Error, Result, Score, boxed, number, reward_model, tags, words};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::sync::OnceLock;

/// The body of a fuzz target.
pub type Body = fn(&[u8]);

/// The targets, under the names that cargo-fuzz and the corpus use.
pub const TARGETS: [(&str, Body); 4] = [
    ("answer", answer),
    ("text", text),
    ("line", case_line),
    ("component", component),
];

/// Reads `ANSWER\nREFERENCE` with `accuracy` in all its kinds, and with reward-sdk's readers of
/// answers.
pub fn answer(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (answer, reference) = text.split_once('\n').unwrap_or((&text, &text));
    for judge in kinds() {
        for given in [
            format!("<answer>{answer}</answer>"),
            format!(r"so $\boxed{{{answer}}}$"),
        ] {
            let completion = Completion {
                text: given,
                reference: Some(reference.into()),
                ..Completion::default()
            };
            check(judge(std::slice::from_ref(&completion), ""), 0.0, 1.0);
        }
    }
    if let Some(read) = number::read(answer) {
        assert!(read.agrees_with(&read), "a number is itself: {answer:?}");
    }
}

fn kinds() -> &'static [Judge] {
    static KINDS: OnceLock<Vec<Judge>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let configs = [
            r#"{}"#,
            r#"{"lenient": true}"#,
            r#"{"kind": "choice"}"#,
            r#"{"kind": "exact", "lenient": true}"#,
        ];
        configs
            .iter()
            .filter_map(|config| natively("accuracy", config).ok())
            .collect()
    })
}

/// Reads a completion with every plugin, and with reward-sdk's readers of texts.
pub fn text(bytes: &[u8]) {
    static JUDGES: OnceLock<Vec<Judge>> = OnceLock::new();
    let text = String::from_utf8_lossy(bytes).into_owned();
    let judges = JUDGES.get_or_init(|| {
        PLUGINS
            .iter()
            .filter_map(|(name, config)| natively(name, config).ok())
            .collect()
    });
    let completion = |text: &str, tokens| Completion {
        prompt: "What is one and one?".into(),
        text: text.into(),
        reference: Some("2".into()),
        tokens,
        ..Completion::default()
    };
    let group = [
        completion(&text, 70),
        completion("<answer>2</answer>", 20),
        completion("", 0),
    ];
    for judge in judges {
        check(judge(&group, &text), -1.0, 1.0);
        check(judge(&group, "0.5"), -1.0, 1.0);
    }
    reading(&text);
}

fn reading(text: &str) {
    let within = |part: Option<&str>| assert!(part.is_none_or(|part| text.contains(part)));
    within(boxed::last(text));
    within(tags::last(text, "answer"));
    within(Some(tags::split_think(text).rest));
    let _ = tags::is_exactly(text, &["think", "answer"]);
    let prose = words::prose(text);
    assert!(prose.len() <= 2 * text.len());
    let found = words::words(&prose);
    let mut rest = prose.as_str();
    for word in &found {
        assert!(!word.text.is_empty());
        rest = rest
            .split_once(word.text)
            .expect("words stand in the text, in their order")
            .1;
    }
    let dominant = words::dominant(&prose);
    assert_eq!(dominant.is_some(), !found.is_empty());
    if let Some(script) = dominant {
        assert!(words::share(&prose, &[script]).is_some_and(|share| share > 0.0 && share <= 1.0));
    }
    let _ = reward_model::number("model", &[Ok(text.into())]);
}

/// Checks each result: it is a score within the plugin's bounds, or an abstention.
fn check(results: Vec<Result<Score>>, min: f32, max: f32) {
    for result in results {
        match result {
            Ok(score) => assert!(
                (min..=max).contains(&score.value) && score.parts.is_empty(),
                "{score:?}"
            ),
            Err(Error::Unscorable(_)) => {}
            // The only internal error is about a reward model's answer.
            Err(Error::Internal(why)) => assert!(why.starts_with("reward model"), "{why}"),
        }
    }
}

/// Reads a line of `plugin score`, of golden cases, or of a configuration.
pub fn case_line(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut unknown = BTreeMap::new();
    if let Ok(object) = line::object(&text)
        && let Ok(member) = line::member(7, object, &mut unknown)
    {
        assert!(
            member
                .completion
                .meta
                .is_none_or(|meta| line::object(&meta).is_ok()),
            "meta is a JSON object"
        );
    }
    let _ = reward_sdk::golden::parse(&text);
    for (name, _) in PLUGINS {
        let _ = natively(name, &text);
    }
}

/// Reads a file that claims to be a plugin.
pub fn component(bytes: &[u8]) {
    let _ = componentize(bytes);
    if let Some(cases) = golden::embedded(bytes) {
        golden::count(cases);
    }
    if let Ok(with_case) = golden::embed(bytes, CASE) {
        assert_eq!(golden::embedded(&with_case), Some(CASE));
    }
    let Some(path) = file(bytes) else { return };
    // A hostile plugin may use all that its limits allow, so they are small here.
    let limits = Limits {
        fuel: Some(100_000),
        memory_mb: Some(8),
        wall_ms: Some(1_000),
        ..Limits::default()
    };
    let spec = RewardSpec {
        plugin: Plugin::Path(path),
        sha256: None,
        config_json: "{}".into(),
        limits,
    };
    if let Ok(reward) = host().load(&spec) {
        let completion = r1d_rewards::Completion {
            id: 0,
            prompt: "p".into(),
            text: "t".into(),
            reference: None,
            tokens: 1,
            finish: FinishReason::Stop,
            meta: None,
        };
        // The result is a verdict, or the error of a wrong world, but never a failure of the host.
        let judged = reward.score(&completion);
        assert!(
            !matches!(judged, Err(r1d_rewards::ScoreError::Host(_))),
            "{judged:?}"
        );
    }
}

const CASE: &str = r#"{"case": "a", "completion": "b", "expect": {"score": 1}}"#;

fn host() -> &'static Rewards {
    static HOST: OnceLock<Rewards> = OnceLock::new();
    HOST.get_or_init(|| {
        let clock = SystemClock::shared();
        let options = Options {
            plugin_dirs: Vec::new(),
            cache_dir: None,
            threads: 1,
            compiler: Compiler::InProcess,
            clock,
        };
        Rewards::open(options).expect("a host opens")
    })
}

/// Writes these bytes to a file that only this process uses.
fn file(bytes: &[u8]) -> Option<PathBuf> {
    static DIRECTORY: OnceLock<tempfile::TempDir> = OnceLock::new();
    let path = DIRECTORY
        .get_or_init(|| tempfile::tempdir().expect("a directory"))
        .path()
        .join("fuzzed.wasm");
    std::fs::File::create(&path)
        .and_then(|mut file| file.write_all(bytes))
        .ok()?;
    Some(path)
}
