//! Rewards that a judge answers in text, a stage's policy or a model of the job, beside a reward
//! model that gives numbers: in real processes, killed and not.

use crate::test_daemon::TestDaemon;
use r1d_proto::control::content::Sample;
use r1d_proto::control::{Request, Response, SampleSort};
use r1d_proto::verdict::Outcome;

/// Behind the daemon's own: a reward model, a stage that keeps what a judge finds right, and two
/// that learn from what judges say.
const STAGES: &str = r#"
[data.pairs]
path = "DIR/pairs.jsonl"
template = "plain"
[[stage]]
name = "helpful"
kind = "reward-model"
data = "pairs"
steps = 2
batch_size = 4
[[stage]]
name = "kept"
kind = "rejection-sampling"
from = "reasoning"
data = "train"
steps = 3
prompts_per_step = 3
num_generations = 4
max_completion_length = 8
  [[stage.reward]]
  plugin = "correctness"
  model = "cold-start"
  config = { text = "completion" }
  [[stage.reward]]
  plugin = "helpfulness"
  model = "helpful"
  [[stage.reward]]
  plugin = "accuracy"
  weight = 0.0
[[stage]]
name = "judged"
kind = "grpo"
from = "reasoning"
data = "train"
steps = 3
prompts_per_step = 2
num_generations = 4
max_completion_length = 8
  [[stage.reward]]
  plugin = "correctness"
  model = "cold-start"
  config = { text = "completion" }
  [[stage.reward]]
  plugin = "helpfulness"
  model = "helpful"
[[stage]]
name = "valued"
kind = "ppo"
data = "train"
steps = 2
prompts_per_step = 3
num_generations = 2
max_completion_length = 8
  [[stage.reward]]
  plugin = "correctness"
  model = "judge"
[[stage]]
name = "exam"
kind = "eval"
data = "train"
max_rows = 5
max_completion_length = 8
rewards = ["correctness", "accuracy"]
metrics = ["pass@1"]
[checkpoint]"#;

const TABLE: &str = "[models.judge]\npath = \"DIR/judge\"\n[data.text]";

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
    daemon.write_language_model("judge");
    let here = daemon.path("").display().to_string();
    let mut text = daemon.job(&[
        ("[checkpoint]", &STAGES.replace("DIR/", &here)),
        ("[data.text]", &TABLE.replace("DIR/", &here)),
    ]);
    for (old, new) in changes {
        assert!(text.contains(old), "{old:?} is not in the job");
        text = text.replacen(old, new, 1);
    }
    text
}

fn samples(daemon: &TestDaemon, job: &str, stage: &str, step: u64) -> Vec<Sample> {
    let wanted = Request::Samples {
        job: job.into(),
        stage: Some(stage.into()),
        step: Some(step),
        sort: SampleSort::Order,
        limit: 100,
    };
    match daemon.ask(wanted) {
        Response::Samples(samples) => samples,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_judge_answers_in_every_kind_of_stage() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let id = daemon.submit(job(&daemon, &[]));
    let status = daemon.wait_succeeded(&id);
    let metrics = daemon.outcome(&status).metrics;
    for (stage, steps) in [("kept", 3), ("judged", 3), ("valued", 2)] {
        let said = metrics
            .iter()
            .filter(|line| line["stage"] == stage && line.contains_key("rewards/correctness/mean"))
            .count();
        assert_eq!(said, steps, "{stage}");
    }
    let exam = status
        .evals
        .iter()
        .find(|eval| eval.stage.as_deref() == Some("exam"))
        .expect("an exam");
    assert!(
        exam.metrics.contains_key("rewards/correctness/mean") && exam.metrics["pass@1"] <= 1.0,
        "{:?}",
        exam.metrics
    );
    // The fake judge finds some right, some wrong, and of some it says nothing: those are masked,
    // and not kept.
    let all: Vec<Sample> = (1..=3)
        .flat_map(|step| samples(&daemon, &id, "kept", step))
        .collect();
    let said = |sample: &Sample| {
        sample
            .verdicts
            .iter()
            .find(|v| v.plugin == "correctness")
            .expect("a verdict")
            .clone()
    };
    let count = |wanted: Option<f32>| {
        all.iter()
            .filter(|sample| said(sample).value == wanted)
            .count()
    };
    assert!(
        count(Some(1.0)) > 0 && count(Some(0.0)) > 0 && count(None) > 0,
        "{:?}",
        all.iter().map(said).collect::<Vec<_>>()
    );
    for sample in &all {
        let silent = said(sample).value.is_none();
        assert_eq!(silent, sample.reward.is_none());
        let Outcome::Abstain { reason } = said(sample).outcome else {
            continue;
        };
        assert!(
            reason.contains("no verdict: the reply has no JSON object"),
            "{reason}"
        );
    }
    let rows = std::fs::read_to_string(status.directory.join("datasets/kept.jsonl")).unwrap();
    let right = all
        .iter()
        .filter(|sample| said(sample).value == Some(1.0))
        .map(|sample| sample.completion.clone());
    let right: std::collections::BTreeSet<String> = right.collect();
    let kept: Vec<serde_json::Value> = rows
        .lines()
        .map(|row| serde_json::from_str(row).unwrap())
        .collect();
    assert!(!kept.is_empty());
    for row in &kept {
        assert!(right.contains(row["completion"].as_str().unwrap()), "{row}");
    }
}

#[test]
fn kills_where_a_judge_is_asked_change_nothing() {
    for invariant in [true, false] {
        let invariance = format!("batch_invariant = {invariant}");
        let changes: &[(&str, &str)] = &[("batch_invariant = true", &invariance)];
        let mut quiet = TestDaemon::new();
        quiet.start();
        let id = quiet.submit(job(&quiet, changes));
        let status = quiet.wait_succeeded(&id);
        let expected = quiet.outcome(&status);
        let kept = std::fs::read(status.directory.join("datasets/kept.jsonl")).unwrap();
        let asked = |daemon: &TestDaemon| {
            std::fs::read_to_string(daemon.path("faults/answer.count"))
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        let undisturbed = asked(&quiet);
        let mut daemon = TestDaemon::new();
        for fault in [
            "answer-1 kill-daemon",
            "answer-3 exit",
            "answer-5 kill-both",
            "score-4 kill-daemon",
            "train-9 exit",
            "answer-9 kill-self",
        ] {
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
        assert!(std::fs::read(status.directory.join("datasets/kept.jsonl")).unwrap() == kept);
        // A request is repeated for each fault that it met, and no committed step is asked about
        // again.
        assert!(
            (undisturbed + 4..=undisturbed + 6).contains(&asked(&daemon)),
            "{} and {undisturbed}",
            asked(&daemon)
        );
    }
}

#[test]
fn a_judge_that_hangs_is_named_while_it_is_waited_for() {
    let mut daemon = TestDaemon::new();
    daemon.plant("answer-1", "hang");
    daemon.start();
    let id = daemon.submit(job(&daemon, &[]));
    let waits = daemon.wait("a question to the judge", |daemon| {
        let why = daemon.why(&id);
        let text = serde_json::to_string(&why).unwrap();
        text.contains("asking the judge of correctness")
            .then_some(text)
    });
    assert!(
        waits.contains("asking the judge of correctness about"),
        "{waits}"
    );
    let activity = daemon
        .try_status(&id)
        .unwrap()
        .activity
        .expect("an activity");
    assert_eq!(activity.doing, "judging");
}

#[test]
fn a_reload_that_asks_for_something_else_is_refused() {
    let mut daemon = TestDaemon::new().with_delay_ms(20);
    daemon.start();
    let job = daemon.submit(job(
        &daemon,
        &[("\n  config = { text = \"completion\" }", "")],
    ));
    daemon.wait("the job to judge", |daemon| {
        let status = daemon.try_status(&job)?;
        status
            .stages
            .iter()
            .any(|stage| stage.step > 0)
            .then_some(())
    });
    let plugins = std::path::Path::new(env!("CARGO_BIN_EXE_r1d"))
        .parent()
        .unwrap()
        .join("plugins");
    let file = plugins.join("helpfulness.wasm");
    let error = match daemon.ask(Request::Reload {
        job: job.clone(),
        plugin: "correctness".into(),
        file,
    }) {
        Response::Error(error) => error.message,
        other => panic!("{other:?}"),
    };
    assert!(
        error.contains("helpfulness.wasm: reward `correctness`")
            && error.contains("asks its model for a number"),
        "{error}"
    );
    daemon.ask(Request::Cancel { job });
}

#[test]
fn who_gives_something_else_is_refused_at_submission() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let refused = |old: &str, new: &str| daemon.refused(job(&daemon, &[(old, new)]));
    let number = refused(
        "plugin = \"correctness\"\n  model = \"cold-start\"",
        "plugin = \"correctness\"\n  model = \"helpful\"",
    );
    assert!(
        number.contains("reward `correctness`: its plugin correctness asks its model for text")
            && number.contains(
                "`model` = \"helpful\" is a reward model, which gives numbers: name a stage that \
                 trains a policy"
            ),
        "{number}"
    );
    let text = refused(
        "plugin = \"helpfulness\"\n  model = \"helpful\"",
        "plugin = \"helpfulness\"\n  model = \"judge\"",
    );
    assert!(
        text.contains(
            "asks its model for a number, and `model` = \"judge\" writes text: name a \
             reward-model stage"
        ),
        "{text}"
    );
    let nobody = refused(
        "plugin = \"accuracy\"\n  weight = 0.0",
        "plugin = \"accuracy\"\n  model = \"judge\"",
    );
    assert!(
        nobody.contains(
            "reward `accuracy`: `model` = \"judge\", and its plugin accuracy asks nobody: leave \
             `model` out"
        ),
        "{nobody}"
    );
    let whom = refused(
        "plugin = \"correctness\"\n  model = \"cold-start\"",
        "plugin = \"correctness\"",
    );
    assert!(
        whom.contains(
            "asks a model, and nothing says which: no reward-model stage of this job is called \
             \"correctness\""
        ),
        "{whom}"
    );
    let misspelt = refused("model = \"cold-start\"", "model = \"cold-strat\"");
    assert!(
        misspelt.contains("(the nearest is \"cold-start\")"),
        "{misspelt}"
    );
    // What the table names.
    let broken = |file: &str, text: &str| {
        let job = job(&daemon, &[]);
        std::fs::write(daemon.path("judge").join(file), text).unwrap();
        daemon.refused(job)
    };
    let config = std::fs::read_to_string(daemon.path("judge/config.json")).unwrap();
    let neither = broken(
        "config.json",
        &config.replace("ForCausalLM", "ForTokenClassification"),
    );
    assert!(
        neither.contains("judge/config.json")
            && neither.contains("\"Qwen2ForTokenClassification\", which is not supported"),
        "{neither}"
    );
    let template = broken("chat_template.jinja", "{% for %}");
    assert!(template.contains("chat_template.jinja"), "{template}");
    std::fs::remove_file(daemon.path("judge/chat_template.jinja")).unwrap();
    let text = job(&daemon, &[]);
    std::fs::remove_file(daemon.path("judge/tokenizer.json")).unwrap();
    let silent = daemon.refused(text);
    assert!(silent.contains("judge/tokenizer.json"), "{silent}");
}
