//! A job of two models: what the teacher keeps, its student reads with a tokenizer of its own.

use crate::test_daemon::{Outcome, TestDaemon};
use r1d_proto::control::content::Sample;
use r1d_proto::control::{Request, Response, SampleSort};
use std::fs;

const STUDENT: &str = r#"
[[stage]]
name = "student-reading"
kind = "pretrain"
model = "student"
data = "text"
steps = 3
batch_size = 2
max_length = 8

[[stage]]
name = "keep"
kind = "rejection-sampling"
data = "train"
prompts_per_step = 10
num_generations = 4
max_completion_length = 8

  [[stage.reward]]
  plugin = "accuracy"

[[stage]]
name = "distilled"
kind = "distill"
model = "student"
data = "keep"
epochs = 1
batch_size = 8
max_length = 32

[[stage]]
name = "student-reasoning"
kind = "grpo"
model = "student"
data = "train"
steps = 2
prompts_per_step = 4
num_generations = 4
max_completion_length = 8

  [[stage.reward]]
  plugin = "accuracy"

[[stage]]
name = "exam"
kind = "eval"
model = "student"
data = "train"
num_generations = 4
max_rows = 5
max_completion_length = 8
metrics = ["pass@1", "avg@4"]
rewards = ["accuracy", "format"]

[checkpoint]
"#;

fn with_student(daemon: &TestDaemon, changes: &[(&str, &str)]) -> String {
    daemon.write_student();
    let models = "[models.student]\ninit = \"DIR/student.json\"\ntokenizer = \
                  \"DIR/student-tokenizer\"\n\n[data.text]";
    let models = models.replace("DIR", &daemon.path("").display().to_string());
    let text = daemon.job(&[("[data.text]", &models), ("\n[checkpoint]\n", STUDENT)]);
    changes.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{old:?} is not in the job");
        text.replace(old, new)
    })
}

fn samples(daemon: &TestDaemon, job: &str, stage: &str) -> Vec<Sample> {
    let of = Request::Samples {
        job: job.into(),
        stage: Some(stage.into()),
        step: None,
        sort: SampleSort::Order,
        limit: 1000,
    };
    match daemon.ask(of) {
        Response::Samples(samples) => samples,
        other => panic!("{other:?}"),
    }
}

#[test]
fn each_model_reads_and_is_read_by_its_own_tokenizer() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let text = with_student(&daemon, &[]);
    let plan = match daemon.ask(Request::Plan {
        job: text.clone(),
        pins: Default::default(),
    }) {
        Response::Plan(plan) => plan,
        other => panic!("{other:?}"),
    };
    let lines: Vec<_> = plan
        .stages
        .iter()
        .map(|s| (s.name.as_str(), s.model.as_deref(), s.from.as_str()))
        .collect();
    let student = Some("student");
    let expected = [
        ("student-reading", student, "base"),
        ("keep", None, "reasoning"),
        ("distilled", student, "student-reading"),
        ("student-reasoning", student, "distilled"),
    ];
    assert_eq!(lines[3..7], expected);
    assert_eq!(
        (
            plan.stages[7].kind.as_str(),
            plan.stages[7].rows,
            plan.stages[7].from.as_str()
        ),
        ("eval", 5, "student-reasoning")
    );
    assert!(
        !plan.stages[7].memory.contains_key("optimiser")
            && plan.stages[7].memory.contains_key("sampler")
    );
    assert!(
        plan.stages[3].memory["policy"] * 10 < plan.stages[2].memory["policy"],
        "the student is small: {:?}",
        plan.stages
    );

    let job = daemon.submit(text);
    let status = daemon.wait_succeeded(&job);
    assert_eq!(status.stages[5].model.as_deref(), student);
    // What judges a completion sees it as its own model wrote it: the ids are the same, the digits
    // are not.
    for (stage, digits) in [
        ("keep", ["0", "1", "2"]),
        ("student-reasoning", ["2", "0", "1"]),
    ] {
        let samples = samples(&daemon, &job, stage);
        assert!(samples.len() >= 16);
        let mut right = 0;
        for sample in &samples {
            let answer = sample
                .completion
                .split_once("<answer> ")
                .and_then(|(_, rest)| rest.split(' ').next());
            assert!(
                answer.is_none_or(|answer| digits.contains(&answer)),
                "{sample:?}"
            );
            let is_right = answer.is_some() && answer == sample.reference.as_deref();
            assert_eq!(
                sample.verdicts[0].value == Some(1.0),
                is_right,
                "{stage}: {sample:?}"
            );
            right += u32::from(is_right);
        }
        assert!(right > 0, "{stage}");
    }
    // One evaluation before training, of the teacher; then after stages of both.
    let evals: Vec<_> = status
        .evals
        .iter()
        .map(|eval| (eval.stage.as_deref(), eval.step))
        .collect();
    assert_eq!(evals.iter().filter(|(stage, _)| stage.is_none()).count(), 1);
    assert!(
        evals.contains(&(Some("student-reading"), 3))
            && evals.contains(&(Some("student-reasoning"), 2)),
        "{evals:?}"
    );
    assert!(!evals.iter().any(|(stage, _)| *stage == Some("keep")));
    let exam = status
        .evals
        .iter()
        .find(|eval| eval.stage.as_deref() == Some("exam"))
        .unwrap();
    let number = |name: &str| {
        exam.metrics
            .get(name)
            .copied()
            .unwrap_or_else(|| panic!("{name} of {:?}", exam.metrics))
    };
    assert_eq!((number("rows"), number("pass@1")), (5.0, number("avg@4")));
    for name in ["avg@4", "rewards/accuracy/mean", "rewards/format/mean"] {
        let (low, value, high) = (
            number(&format!("{name}_ci_low")),
            number(name),
            number(&format!("{name}_ci_high")),
        );
        assert!(
            low <= value && value <= high,
            "{name}: {low} {value} {high}"
        );
    }
    assert!(
        exam.example
            .as_ref()
            .is_some_and(|example| !example.completion.is_empty())
    );
}

/// What a student reads is in its own chat template: another one, other weights.
#[test]
fn distillation_is_in_the_students_chat_template() {
    let weights = |changes: &[(&str, &str)]| {
        let mut daemon = TestDaemon::new();
        daemon.start();
        let job = daemon.submit(with_student(&daemon, changes));
        let status = daemon.wait_succeeded(&job);
        daemon.outcome(&status).weights
    };
    let chat = weights(&[]);
    assert_eq!(
        chat,
        weights(&[(
            "kind = \"distill\"",
            "kind = \"distill\"\ntemplate = \"chat\""
        )])
    );
    assert_ne!(
        chat,
        weights(&[(
            "kind = \"distill\"",
            "kind = \"distill\"\ntemplate = \"plain\""
        )])
    );
    // The data set says \"plain\", and sft does as it says.
    let plain = weights(&[("kind = \"distill\"", "kind = \"sft\"")]);
    assert_eq!(
        plain,
        weights(&[(
            "kind = \"distill\"",
            "kind = \"distill\"\ntemplate = \"plain\""
        )])
    );
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = with_student(&daemon, &[]);
    fs::write(daemon.path("student-tokenizer/tokenizer_config.json"), "{}").unwrap();
    let text = daemon.refused(job);
    assert!(
        text.contains(
            "student-tokenizer has no chat template: add `chat_template` to its \
             tokenizer_config.json"
        ),
        "{text}"
    );
}

/// What the job ends with, and the data set on the way.
fn ended_with(daemon: &mut TestDaemon, job: &str) -> (Outcome, Vec<u8>) {
    let status = daemon.wait_succeeded(job);
    (
        daemon.outcome(&status),
        fs::read(status.directory.join("datasets/keep.jsonl")).unwrap(),
    )
}

#[test]
fn kills_among_two_models_change_nothing() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let job = daemon.submit(with_student(&daemon, &[]));
    let expected = ended_with(&mut daemon, &job);
    let faults: [&[(&str, &str)]; 3] = [
        // The student's first stage, and where its teacher goes on.
        &[
            ("open-4", "kill-daemon"),
            ("supervise-8", "kill-both"),
            ("open-9", "kill-self"),
        ],
        &[
            ("save-8", "kill-daemon-soon 300"),
            ("generate-12", "kill-both"),
            ("open-8", "exit"),
        ],
        &[
            ("supervise-12", "kill-daemon"),
            ("train-8", "kill-daemon"),
            ("export-1", "kill-both"),
        ],
    ];
    for faults in faults {
        let mut daemon = TestDaemon::new();
        for (moment, fault) in faults {
            daemon.plant(moment, fault);
        }
        daemon.start();
        let job = daemon.submit(with_student(&daemon, &[]));
        assert_eq!(
            ended_with(&mut daemon, &job),
            expected,
            "{faults:?}\n{}",
            daemon.log()
        );
        assert!(
            daemon.try_status(&job).unwrap().restarts > 0,
            "{faults:?}: nothing happened"
        );
    }
}

#[test]
fn a_students_files_are_checked_before_the_job_is_queued() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let missing = daemon.refused(with_student(&daemon, &[("student.json", "none.json")]));
    assert!(missing.contains("none.json"), "{missing}");
    // Its template is asked of its own tokenizer, which has one; the teacher's has none.
    let chat = [("template = \"plain\"", "template = \"chat\"")];
    let text = daemon.refused(with_student(&daemon, &chat));
    assert!(text.contains("/tokenizer has no chat template"), "{text}");
    let config = fs::read_to_string(daemon.path("student.json"))
        .unwrap()
        .replace("\"vocab_size\":32", "\"vocab_size\":9");
    let job = with_student(&daemon, &[]);
    fs::write(daemon.path("student.json"), config).unwrap();
    let text = daemon.refused(job);
    assert!(
        text.contains("student-tokenizer") && text.contains("vocab_size of at least 17"),
        "{text}"
    );
}

#[test]
fn a_reward_of_a_domain_that_no_row_has_is_refused() {
    let mut daemon = TestDaemon::new();
    daemon.start();
    let rows = fs::read_to_string(daemon.path("rows.jsonl")).unwrap();
    let with_kinds = |(i, line): (usize, &str)| {
        line.replacen(
            '{',
            &format!("{{\"kind\":\"{}\",", ["math", "chat"][i % 2]),
            1,
        ) + "\n"
    };
    fs::write(
        daemon.path("rows.jsonl"),
        rows.lines().enumerate().map(with_kinds).collect::<String>(),
    )
    .unwrap();
    let job = |domain: &str| {
        let reward = format!("plugin = \"format\"\n  domains = [\"math\", {domain:?}]");
        daemon.job(&[
            ("plugin = \"format\"", &reward),
            (
                "template = \"plain\"",
                "template = \"plain\"\ndomain = \"kind\"",
            ),
        ])
    };
    let text = daemon.refused(job("maths"));
    assert!(
        text.contains(
            "[[stage]] \"reasoning\", [[stage.reward]] \"format\": no row of data.train is of the \
             domain \"maths\""
        ),
        "{text}"
    );
    assert!(
        text.contains("its rows are of \"chat\", \"math\""),
        "{text}"
    );
    daemon.submit(job("chat"));
}
