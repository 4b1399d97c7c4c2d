//! A resolved job parses to the same job.

use crate::keys::{leaves, set};
use crate::{JOB, parse};
use proptest::prelude::*;
use r1d_job::file::{Key, Kind, Tabled};
use r1d_job::{Job, Plugin, Reward, TemplateSource, Weights};
use std::path::PathBuf;
use toml::Value;

/// Any value that the key's kind takes.
fn any_value(key: &Key) -> BoxedStrategy<Value> {
    let text = prop_oneof![
        "[a-zA-Z0-9_.-]{1,12}",
        "\\PC{1,8}",
        Just("train".into()),
        Just("a \"b\" \\ \n".into())
    ];
    match &key.kind {
        Kind::Text | Kind::Path => text.prop_map(Value::from).boxed(),
        Kind::Name => "[a-zA-Z0-9][a-zA-Z0-9_.-]{0,8}"
            .prop_map(Value::from)
            .boxed(),
        Kind::Date => "20[0-9]{2}-0[1-9]-[12][0-8]".prop_map(Value::from).boxed(),
        Kind::Sha256 => "[0-9a-fA-F]{64}".prop_map(Value::from).boxed(),
        Kind::Bool => any::<bool>().prop_map(Value::from).boxed(),
        Kind::Integer { min, max } => prop_oneof![*min..=*max, *min..=(*min + 64).min(*max)]
            .prop_map(Value::from)
            .boxed(),
        Kind::Float { min, max, .. } => {
            let (low, high) = (min.max(-1e9), max.min(1e9));
            prop_oneof![
                (low..=high).prop_map(Value::from),
                (1i64..3).prop_map(Value::from),
                (0.0..1.0f64).prop_map(Value::from)
            ]
            .boxed()
        }
        Kind::OneOf(words) => proptest::sample::select(*words)
            .prop_map(Value::from)
            .boxed(),
        Kind::Texts => prop_oneof![
            proptest::collection::vec("[a-z]{1,6}", 0..4).prop_map(Value::from),
            Just(Value::from(vec!["pass@1"])),
            Just(Value::from(vec!["cons@1", "pass@1"])),
        ]
        .boxed(),
        Kind::WordOrScore(words) => {
            let score = any::<i8>().prop_map(|n| {
                Value::Table(toml::Table::from_iter([(
                    "score".to_string(),
                    (n as f64 / 8.0).into(),
                )]))
            });
            prop_oneof![
                proptest::sample::select(*words).prop_map(Value::from),
                score
            ]
            .boxed()
        }
        Kind::Json => proptest::collection::btree_map(
            "[a-z\" .]{1,4}",
            any::<i64>().prop_map(Value::from),
            0..4,
        )
        .prop_map(|map| Value::Table(map.into_iter().collect()))
        .boxed(),
        _ => panic!("not a plain key: {}", key.name),
    }
}

fn changed_job() -> impl Strategy<Value = Value> {
    let base: Value = toml::from_str(JOB).unwrap();
    let places = leaves(&base, Job::table());
    let change = (0..places.len()).prop_flat_map(move |i| {
        let (at, key) = places[i].clone();
        any_value(key).prop_map(move |value| (at.clone(), value))
    });
    proptest::collection::vec(change, 0..6).prop_map(move |changes| {
        let mut document = base.clone();
        for (at, value) in changes {
            set(&mut document, &at, value);
        }
        document
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_global_rejects: 20_000,
        failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_job_resolves_to_parses_to_the_same_job(document in changed_job()) {
        let parsed = parse(&toml::to_string(&document).unwrap());
        prop_assume!(parsed.is_ok());
        let job = parsed.unwrap();
        let text = job.to_toml();
        let again = r1d_job::Job::parse(&text, std::path::Path::new("/elsewhere"))
            .map_err(|e| TestCaseError::fail(format!(
            "{e}\n{text}")))?;
        prop_assert_eq!(&again, &job);
        prop_assert_eq!(again.to_toml(), text);
    }
}

#[test]
fn paths_resolve_against_the_job_files_directory() {
    let text = JOB.replace(
        "path = \"corpus.jsonl\"",
        "path = \"../data/./corpus-*.jsonl\"\ntemplate = \"own.jinja\"",
    );
    let job = parse(&text).unwrap();
    assert_eq!(
        job.data["corpus"].path,
        PathBuf::from("/data/corpus-*.jsonl")
    );
    assert_eq!(
        job.data["corpus"].template,
        TemplateSource::File("/jobs/own.jinja".into())
    );
    assert_eq!(
        job.model.weights,
        Weights::Init {
            config: "/jobs/tiny.json".into(),
            tokenizer: "/jobs/tokenizer".into()
        }
    );
    let rewards = &job.stages[2].grpo().unwrap().rollouts.rewards;
    assert_eq!(
        (&rewards[0].plugin, rewards[0].name.as_str()),
        (&Plugin::Named("accuracy".into()), "accuracy")
    );
    assert_eq!(
        (&rewards[1].plugin, rewards[1].name.as_str()),
        (
            &Plugin::Path("/jobs/plugins/brevity.wasm".into()),
            "brevity"
        )
    );
}

#[test]
fn columns_are_those_that_the_stages_read() {
    let job = parse(JOB).unwrap();
    let columns = |name: &str| {
        let d = &job.data[name];
        [&d.prompt, &d.completion, &d.text, &d.reference, &d.domain]
            .map(|column| column.as_deref().unwrap_or("-").to_string())
    };
    assert_eq!(columns("corpus"), ["-", "-", "text", "-", "-"]);
    assert_eq!(
        columns("cold-start"),
        ["prompt", "completion", "-", "-", "-"]
    );
    assert_eq!(columns("train"), ["question", "-", "-", "answer", "kind"]);
}

#[test]
fn whole_conversations_stand_for_prompt_and_completion() {
    let keys = "[data.cold-start]\nmessages = \"talk\"\ntools = \"functions\"\nmax_prompt_length \
                = 99\nchat_template_kwargs = { enable_thinking = false }\n";
    let text = JOB.replace("[data.cold-start]\n", keys);
    assert_ne!(text, JOB);
    let data = &parse(&text).unwrap().data["cold-start"];
    assert_eq!(
        (data.messages.as_deref(), &data.prompt, &data.completion),
        (Some("talk"), &None, &None)
    );
    assert_eq!(
        (data.tools.as_deref(), data.max_prompt_length),
        (Some("functions"), Some(99))
    );
    assert_eq!(data.chat_template_kwargs, r#"{"enable_thinking":false}"#);
    let both = text.replace(
        "messages = \"talk\"",
        "messages = \"talk\"\nprompt = \"question\"",
    );
    let message = parse(&both).unwrap_err().to_string();
    assert!(
        message.contains("`messages` names whole conversations, and `prompt` a part of one"),
        "{message}"
    );
}

/// The date in a job file is a day of the calendar.
#[test]
fn the_date_of_a_job_is_a_day() {
    let dated = |date: &str| parse(&JOB.replacen("name =", &format!("date = {date:?}\nname ="), 1));
    assert_eq!(
        dated("2024-02-29").unwrap().date.as_deref(),
        Some("2024-02-29")
    );
    assert_eq!(
        parse(JOB).unwrap().date,
        None,
        "the daemon says, when the job is submitted"
    );
    for wrong in ["2023-02-29", "2024-13-01", "2024-1-1", "today"] {
        let message = dated(wrong).unwrap_err().to_string();
        assert!(
            message.contains("`date`") && message.contains("a day as \"2025-01-31\""),
            "{message}"
        );
    }
}

#[test]
fn a_plugins_configuration_is_the_same_bytes_each_time() {
    let job = parse(JOB).unwrap();
    let json = &job.stages[2].grpo().unwrap().rollouts.rewards[0].config_json;
    assert_eq!(
        json,
        r#"{"kind":"math","strict":true,"tolerance":0.5,"words":["a","b"]}"#
    );
}

#[test]
fn an_evaluation_scores_with_the_stages_reward_of_that_name() {
    let job = parse(JOB).unwrap();
    assert_eq!(
        job.eval_rewards(&job.evals[0]),
        vec![job.stages[2].grpo().unwrap().rollouts.rewards[0].clone()]
    );
    let other = parse(&JOB.replace("[[eval]]", "[[eval]]\nrewards = [\"exact\"]")).unwrap();
    let reward = &other.eval_rewards(&other.evals[0])[0];
    assert_eq!(
        (&reward.plugin, reward.limits.memory_mb),
        (&Plugin::Named("exact".into()), None)
    );
}

/// An evaluation may name a plugin that no stage has: it judges as one without any settings.
#[test]
fn a_plugin_alone_is_a_reward_with_every_default() {
    let job = parse(JOB).unwrap();
    let plain = job.stage("good").unwrap().rollouts().unwrap().rewards[0].clone();
    let named = Reward {
        name: "right".into(),
        ..Reward::of_plugin("accuracy")
    };
    assert_eq!(plain, named);
}
