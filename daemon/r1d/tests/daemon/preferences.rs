//! Reward models that a job trains and its rewards ask, PPO and DPO: in real processes, killed and
//! not.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::{Request, Response, SampleSort};

const STAGES: &str = r#"
[data.pairs]
path = "DIR/pairs.jsonl"
template = "plain"
[data.held-out]
path = "DIR/held-out.jsonl"
template = "plain"
[[stage]]
name = "helpful"
kind = "reward-model"
data = "pairs"
eval_data = "held-out"
steps = 4
batch_size = 4
[[stage]]
name = "judged"
kind = "grpo"
data = "train"
steps = 4
prompts_per_step = 3
num_generations = 4
max_completion_length = 8
  [[stage.reward]]
  plugin = "format"
  [[stage.reward]]
  plugin = "helpfulness"
  model = "helpful"
  after_step = 1
[[stage]]
name = "valued"
kind = "ppo"
data = "train"
steps = 3
prompts_per_step = 3
num_generations = 2
max_completion_length = 8
top_p = 0.9
value_model = "helpful"
  [[stage.reward]]
  plugin = "helpfulness"
  model = "helpful"
[[stage]]
name = "preferred"
kind = "dpo"
data = "pairs"
steps = 3
batch_size = 4
[checkpoint]"#;

/// The daemon's job with stages that learn preferences behind its own.
fn job(daemon: &TestDaemon, changes: &[(&str, &str)]) -> String {
    let pair = |i: u32| {
        let (good, bad) = (format!("{} {}", i % 10, i % 3), format!("{}", (i + 1) % 10));
        serde_json::json!({"prompt": format!("{} {} ", i % 7, i % 5), "chosen": good,
            "rejected": bad})
        .to_string()
            + "\n"
    };
    std::fs::write(
        daemon.path("pairs.jsonl"),
        (0..30).map(pair).collect::<String>(),
    )
    .unwrap();
    std::fs::write(
        daemon.path("held-out.jsonl"),
        (30..50).map(pair).collect::<String>(),
    )
    .unwrap();
    let mut text = daemon.job(&[(
        "[checkpoint]",
        &STAGES.replace("DIR", &daemon.path("").display().to_string()),
    )]);
    for (old, new) in changes {
        assert!(text.contains(old), "{old:?} is not in the job");
        text = text.replace(old, new);
    }
    text
}

#[test]
fn rewards_ask_the_model_that_a_stage_has_trained() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let id = daemon.submit(job(&daemon, &[]));
    let status = daemon.wait_succeeded(&id);
    let metrics = daemon.outcome(&status).metrics;
    let of = |stage: &str, name: &str| -> Vec<bool> {
        metrics
            .iter()
            .filter(|line| line["stage"] == stage)
            .map(|line| line.contains_key(name))
            .collect()
    };
    assert_eq!(
        of("judged", "rewards/helpfulness/mean"),
        [false, true, true, true]
    );
    assert_eq!(of("valued", "rewards/helpfulness/mean"), [true; 3]);
    assert_eq!(
        (of("helpful", "loss").len(), of("preferred", "loss").len()),
        (4, 3)
    );
    let held_out = status
        .evals
        .iter()
        .find(|eval| eval.data == "held-out")
        .unwrap();
    assert_eq!(
        (
            held_out.stage.as_deref(),
            held_out.step,
            held_out.metrics["rows"]
        ),
        (Some("helpful"), 4, 20.0)
    );
    assert!((0.0..=1.0).contains(&held_out.metrics["accuracy"]));
    // The fake's scores are noise, and the log says so.
    let log = daemon.log_lines(&id);
    assert!(
        log.iter().any(|line| line.level == "warn"
            && line
                .message
                .contains("does not tell good from bad on data.held-out")),
        "{log:?}"
    );
    // Verdicts are scores between the plugin's bounds, from numbers between -1 and 1.
    let wanted = Request::Samples {
        job: id.clone(),
        stage: Some("judged".into()),
        step: Some(3),
        sort: SampleSort::Order,
        limit: 100,
    };
    let Response::Samples(samples) = daemon.ask(wanted) else {
        panic!("no samples")
    };
    let helpful: Vec<_> = samples
        .iter()
        .flat_map(|sample| &sample.verdicts)
        .filter(|v| v.plugin == "helpfulness")
        .collect();
    assert_eq!(helpful.len(), 12);
    let values: Vec<f32> = helpful.iter().filter_map(|verdict| verdict.value).collect();
    assert!(
        values.iter().all(|value| (0.0..=0.74).contains(value)),
        "{values:?}"
    );
    assert!(values.iter().any(|value| *value > 0.26));
}

#[test]
fn kills_where_preferences_are_learned_or_asked_for_change_nothing() {
    for invariant in [true, false] {
        let invariance = format!("batch_invariant = {invariant}");
        let changes: &[(&str, &str)] = &[("batch_invariant = true", &invariance)];
        let mut quiet = TestDaemon::new();
        quiet.start();
        let id = quiet.submit(job(&quiet, changes));
        let status = quiet.wait_succeeded(&id);
        let expected = quiet.outcome(&status);
        let mut daemon = TestDaemon::new();
        let faults = [
            "reward-2 kill-both",
            "score-1 kill-daemon",
            "score-3 exit",
            "score-5 kill-both",
            "ppo-2 kill-daemon",
            "dpo-2 exit",
            "score-8 kill-self",
        ];
        for fault in faults {
            let (moment, what) = fault.split_once(' ').unwrap();
            daemon.plant(moment, what);
        }
        daemon.start();
        let id = daemon.submit(job(&daemon, changes));
        let status = daemon.wait_succeeded(&id);
        assert_eq!(
            daemon.outcome(&status),
            expected,
            "batch_invariant {invariant}"
        );
        for moment in ["reward", "score", "ppo", "dpo"] {
            let count = std::fs::read_to_string(daemon.path(&format!("faults/{moment}.count")))
                .unwrap()
                .parse::<u64>()
                .unwrap();
            assert!(count >= 3, "{moment}: {count}");
        }
    }
}

#[test]
fn what_cannot_be_asked_is_refused_at_submission() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let nobody = daemon.refused(job(
        &daemon,
        &[(
            "  model = \"helpful\"\n  after_step = 1",
            "  after_step = 1",
        )],
    ));
    assert!(
        nobody.contains("reward `helpfulness`")
            && nobody.contains("no reward-model stage of this job is called \"helpfulness\""),
        "{nobody}"
    );
    let absent = daemon.refused(job(
        &daemon,
        &[(
            "  model = \"helpful\"\n  after_step = 1",
            "  model = \"/nowhere/judge\"\n  after_step = 1",
        )],
    ));
    assert!(absent.contains("/nowhere/judge"), "{absent}");
    // A directory of a language model, and one of a classifier.
    let dir = daemon.path("judge");
    daemon.write_language_model("judge");
    let asked = format!("  model = \"{}\"\n  after_step = 1", dir.display());
    let refused = |config: &str| {
        std::fs::write(dir.join("config.json"), config).unwrap();
        daemon.refused(job(
            &daemon,
            &[("  model = \"helpful\"\n  after_step = 1", &asked)],
        ))
    };
    let writes = refused(&std::fs::read_to_string(dir.join("config.json")).unwrap());
    assert!(
        writes.contains("asks its model for a number") && writes.contains("judge\" writes text"),
        "{writes}"
    );
    let labels =
        refused(r#"{"architectures": ["Qwen2ForSequenceClassification"], "num_labels": 3}"#);
    assert!(
        labels.contains("judge/config.json") && labels.contains("`num_labels` is 3"),
        "{labels}"
    );
    let text = job(&daemon, &[]);
    std::fs::write(
        daemon.path("pairs.jsonl"),
        "{\"prompt\": \"1\", \"chosen\": \"2\", \"rejected\": \"2\"}\n",
    )
    .unwrap();
    let same = daemon.refused(text);
    assert!(
        same.contains("pairs") && same.contains("row 1") && same.contains("nothing to prefer"),
        "{same}"
    );
}

const OF_A_DIRECTORY: &str = r#"
name = "of-a-directory"
seed = 1
[model]
path = "DIR/lm"
[data.pairs]
path = "DIR/pairs.jsonl"
template = "plain"
[[stage]]
name = "helpful"
kind = "reward-model"
data = "pairs"
steps = 2
batch_size = 2
"#;

const PREFERRED: &str = r#"
[[stage]]
name = "preferred"
kind = "dpo"
data = "pairs"
steps = 2
batch_size = 2
"#;

/// Makes a model's directory whose head is tied or not, and changes the last bytes of its weights,
/// which are the head's where there is one.
fn write_model(
    daemon: &TestDaemon,
    tied: bool,
    change: impl Fn(&mut serde_json::Value, &mut Vec<u8>),
) {
    daemon.write_language_model("lm");
    let (config, weights) = (
        daemon.path("lm/config.json"),
        daemon.path("lm/model.safetensors"),
    );
    let mut fields: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&config).unwrap()).unwrap();
    fields["tie_word_embeddings"] = tied.into();
    std::fs::write(config, fields.to_string()).unwrap();
    let bytes = std::fs::read(&weights).unwrap();
    let (length, rest) = bytes.split_at(8);
    let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
    let (mut header, mut data) = (serde_json::from_slice(header).unwrap(), data.to_vec());
    change(&mut header, &mut data);
    let header = header.to_string();
    std::fs::write(
        weights,
        [
            &(header.len() as u64).to_le_bytes()[..],
            header.as_bytes(),
            &data,
        ]
        .concat(),
    )
    .unwrap();
}

fn without_head(header: &mut serde_json::Value, data: &mut Vec<u8>) {
    let head = header
        .as_object_mut()
        .unwrap()
        .remove("lm_head.weight")
        .unwrap();
    data.truncate(head["data_offsets"][0].as_u64().unwrap() as usize);
}

/// transformers unties a head whose numbers are not the embedding's, and so does the worker.
#[test]
fn a_plan_counts_the_head_that_the_weights_have() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let _ = job(&daemon, &[]);
    let text = OF_A_DIRECTORY.replace("DIR", &daemon.path("").display().to_string()) + PREFERRED;
    let parameters = || match daemon.ask(Request::Plan {
        job: text.clone(),
        pins: Default::default(),
    }) {
        Response::Plan(plan) => plan.parameters.unwrap(),
        other => panic!("{other:?}"),
    };
    write_model(&daemon, true, without_head);
    let tied = parameters();
    write_model(&daemon, true, |_, _| ());
    assert_eq!(
        parameters(),
        tied,
        "a head that is the embedding is no other"
    );
    write_model(&daemon, true, |_, data| *data.last_mut().unwrap() = 1);
    assert_eq!(
        parameters(),
        tied + 32 * 16,
        "the head has numbers of its own"
    );
}

#[test]
fn a_reward_model_starts_from_a_directory_without_a_head() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let _ = job(&daemon, &[]);
    let text = OF_A_DIRECTORY.replace("DIR", &daemon.path("").display().to_string());
    write_model(&daemon, false, without_head);
    match daemon.ask(Request::Plan {
        job: text.clone(),
        pins: Default::default(),
    }) {
        Response::Plan(plan) => assert_eq!(plan.stages.len(), 1),
        other => panic!("{other:?}"),
    }
    let refused = daemon.refused(text + PREFERRED);
    assert!(
        refused.contains("no tensor named \"lm_head.weight\""),
        "{refused}"
    );
}
