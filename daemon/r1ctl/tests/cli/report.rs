//! `r1ctl report`, on a job that was recorded: both documents, from a daemon and from a directory.

use crate::fake_daemon::{Act, FakeDaemon};
use crate::fixtures as fix;
use crate::harness::Home;
use r1d_proto::control::content::Sample;
use r1d_proto::control::job::{EvalExample, JobStatus, State};
use r1d_proto::control::{Request, Response, SampleSort};
use roxmltree::{Document, Node, ParsingOptions};
use std::fmt::Write;

/// What a model may write, if it can.
const HOSTILE: &str = "</pre><script>alert(1)</script><img src=x onerror=alert(2)> \" ' & ]]> \
                       \u{1b}[2J\u{fffe} ```` | *bold* </think>";
const STEPS: u64 = 1500;

const JOB: &str = r#"
name = "recorded"
seed = 17

[model]
init = "/models/tiny.json"
tokenizer = "/models/tokenizer"

[models.qwen2]
path = "/models/qwen2"

[[stage]]
name = "zero"
kind = "grpo"
from = "base"
data = "train"

  [[stage.reward]]
  plugin = "accuracy"

[[stage]]
name = "kept"
kind = "rejection-sampling"
from = "zero"
data = "train"

[[stage]]
name = "student"
kind = "distill"
from = "base"
model = "qwen2"
data = "kept"
more_data = ["general"]
"#;

/// Of step `step`, from 1.
fn reward(step: u64) -> f64 {
    0.125
        + 0.5 * step as f64 / STEPS as f64
        + if step.is_multiple_of(2) {
            0.0625
        } else {
            -0.0625
        }
}

/// A job's directory, and how the job stands.
fn recorded(home: &Home) -> JobStatus {
    let mut lines = String::new();
    for step in 1..=STEPS {
        let kl = if step == 3 {
            "null".into()
        } else {
            (step as f64 * 1e-5).to_string()
        };
        let trap = u64::from(step == 7) * 2;
        let _ = writeln!(
            lines,
            r#"{{"stage":"zero","step":{step},"reward":{},"kl":{kl},"loss":0.5,"completions/mean_length":{},"rewards/accuracy/mean":0.25,"rewards/format/mean":0.75,"verdict/score":6,"verdict/trap":{trap},"num_tokens":{},"learning_rate":0.001}}"#,
            reward(step),
            20 + step % 9,
            step * 1000
        );
    }
    for step in 1..=4 {
        let _ = writeln!(
            lines,
            r#"{{"stage":"kept","step":{step},"acceptance_rate":0.25,"completions/mean_length":31.0,"num_tokens":{}}}"#,
            step * 500
        );
    }
    let _ = writeln!(
        lines,
        r#"{{"stage":"student","step":1,"loss":2.5,"num_tokens":77}}"#
    );
    lines += r#"{"stage":"student","st"#;
    home.write("job/metrics.jsonl", &lines);
    home.write("job/job.toml", JOB);
    home.write(
        "job/datasets/kept.json",
        r#"{"rows":21,"sha256":"ab","sampled":84,"acceptance_rate":0.25,"prompts":40,"prompts_with_rows":13}"#,
    );
    let device =
        "{\"at_ms\":1,\"level\":\"info\",\"message\":\"worker cuda:0 runs as process 7\"}\n";
    home.write("job/log.jsonl", device);
    let mut status = fix::succeeded();
    let stage = status.stages[1].clone();
    let named = |name: &str, kind: &str, steps: u64, seconds: f64| {
        let mut stage = stage.clone();
        (
            stage.name,
            stage.kind,
            stage.step,
            stage.steps,
            stage.seconds,
        ) = (name.into(), kind.into(), steps, steps, seconds);
        stage
    };
    status.stages = vec![
        named("zero", "grpo", STEPS, 90.0),
        named("kept", "rejection-sampling", 4, 30.0),
        named("student", "distill", 1, 60.0),
    ];
    status.stages[2].metrics = Default::default();
    status.name = format!("r1 {HOSTILE}");
    status.directory = home.path().join("job");
    let eval = |stage: Option<&str>, step: u64, pass: f64, low: f64, high: f64| {
        let mut eval = status.evals[0].clone();
        (eval.stage, eval.step) = (stage.map(String::from), step);
        let metrics = [
            ("pass@1", pass),
            ("pass@1_ci_low", low),
            ("pass@1_ci_high", high),
            ("rewards/language-consistency/mean", 0.8125),
            ("rows", 64.0),
            ("timing_s/evaluation", 9.0),
        ];
        eval.metrics = metrics
            .into_iter()
            .map(|(name, value)| (name.to_string(), value))
            .collect();
        eval.example = Some(EvalExample {
            prompt: format!("1 + 1 {HOSTILE}"),
            completion: HOSTILE.into(),
            reference: Some("2".into()),
        });
        eval
    };
    status.evals = vec![
        eval(None, 0, 0.0625, 0.03125, 0.125),
        eval(Some("zero"), 750, 0.25, 0.1875, 0.3125),
        eval(Some("zero"), STEPS, 0.5625, 0.5, 0.625),
        eval(Some("student"), 1, 0.4375, 0.375, 0.5),
    ];
    status
}

fn samples(stage: &str) -> Vec<Sample> {
    let sample = |reward: f32, completion: String| {
        let mut sample = fix::samples().remove(0);
        sample.verdicts.extend(fix::samples().remove(1).verdicts);
        sample.verdicts[0].plugin = HOSTILE.into();
        (sample.stage, sample.reward, sample.completion) = (stage.into(), Some(reward), completion);
        sample
    };
    vec![
        sample(1.5, format!("the best {HOSTILE}")),
        sample(0.5, "the median".into()),
        sample(0.5, "not shown".into()),
        sample(-1.25, format!("the worst {}", "y".repeat(50_000))),
    ]
}

fn daemon(home: &Home, status: JobStatus) -> FakeDaemon {
    FakeDaemon::start(&home.socket(), move |request, _| match request {
        Request::Status { .. } => vec![Act::Send(Response::Status(Box::new(status.clone())))],
        Request::Samples {
            stage: Some(stage),
            sort: SampleSort::Reward,
            ..
        } => vec![Act::Send(Response::Samples(samples(stage)))],
        other => panic!("{other:?}"),
    })
}

fn text(node: Node<'_, '_>) -> String {
    node.descendants()
        .filter(Node::is_text)
        .filter_map(|node| node.text())
        .collect()
}

/// The cells of the table whose head starts with these words.
fn table(page: &Document<'_>, first: &[&str]) -> Vec<Vec<String>> {
    let rows = |table: Node<'_, '_>| -> Vec<Vec<String>> {
        let rows = table.descendants().filter(|node| node.has_tag_name("tr"));
        rows.map(|row| row.children().filter(Node::is_element).map(text).collect())
            .collect()
    };
    let tables = page
        .descendants()
        .filter(|node| node.has_tag_name("table"))
        .map(rows);
    let found = tables.into_iter().find(|rows| {
        rows.iter()
            .any(|row| row.iter().zip(first).all(|(a, b)| a == b) && row.len() >= first.len())
    });
    found.unwrap_or_else(|| panic!("no table {first:?}"))
}

#[test]
fn both_documents_tell_the_recorded_figures() {
    let home = Home::new();
    let _daemon = daemon(&home, recorded(&home));
    let run = home.run(&["report", fix::JOB, "--to", "out"]).expect(0);
    assert_eq!(run.stdout, "out/report.html\nout/report.md\n");
    let html = std::fs::read_to_string(home.path().join("out/report.html")).unwrap();
    let page = Document::parse_with_options(
        &html,
        ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        },
    )
    .expect("well-formed");

    let results = table(&page, &["evaluated", "step"]);
    assert_eq!(results[0][2..], ["test"]);
    assert_eq!(
        results[1],
        ["evaluated", "step", "pass@1", "language-consistency"]
    );
    assert_eq!(
        results[2],
        ["before training", "0", "6.2 % [3.1, 12.5]", "0.812"]
    );
    assert_eq!(
        results[3],
        ["after zero", "1,500", "56.2 % [50.0, 62.5]", "0.812"],
        "the last of the stage's evaluations"
    );
    assert_eq!(
        results[4][..3],
        ["after student", "1", "43.8 % [37.5, 50.0]"]
    );
    let cost = table(&page, &["stage", "kind", "steps", "tokens"]);
    assert_eq!(
        cost[1][..7],
        [
            "zero",
            "grpo",
            "1,500",
            "1,500,000",
            "1m30s",
            "16,667",
            "50.0 %"
        ]
    );
    assert_eq!(
        cost[2][..7],
        [
            "kept",
            "rejection-sampling",
            "4",
            "2,000",
            "30 s",
            "66.67",
            "16.7 %"
        ]
    );
    assert_eq!(
        cost[4][..5],
        ["all stages", "", "1,505", "1,502,077", "3m00s"]
    );
    let stages = table(&page, &["stage", "kind", "starts from"]);
    assert_eq!(
        stages[2],
        [
            "kept",
            "rejection-sampling",
            "zero",
            "train",
            "succeeded",
            "4 / 4",
            "21 rows"
        ]
    );
    assert_eq!(stages[3][2..4], ["qwen2", "kept + general"]);
    let verdicts = table(&page, &["stage", "score", "abstain"]);
    assert_eq!(
        verdicts[1..],
        [["zero", "9000", "0", "2", "0", "0"].map(|cell| cell.replace("9000", "9,000"))]
    );

    // What the summary says of the curves is their first and last tenth.
    let tenth = |steps: std::ops::RangeInclusive<u64>| steps.map(reward).sum::<f64>() / 150.0;
    let went = format!(
        "over 1,500 steps reward went from {:.3} to {:.3}",
        tenth(1..=150),
        tenth(1351..=1500)
    );
    let body = text(page.root_element());
    let markdown = std::fs::read_to_string(home.path().join("out/report.md")).unwrap();
    for said in [
        went.as_str(),
        "on test, against the weights at the start, pass@1 6.2 % → 56.2 % (+50.0 points, the 95 % \
         intervals are apart);",
        "21 of 84 completions are its data set (acceptance rate 25.0 %), of 13 of 40 prompts",
        "2 of 9,002 verdicts were no scores.",
    ] {
        assert!(body.contains(said), "{said:?} is not in\n{body}");
        assert!(markdown.contains(said), "{said:?} is not in\n{markdown}");
    }
    // The student's weights are another model's: nothing to compare with.
    assert!(
        body.contains(
            "student (distill, from qwen2): on test pass@1 43.8 %, language-consistency 0.812"
        ),
        "{body}"
    );
    assert!(
        markdown.contains("| after zero | 1,500 | 56.2 % \\[50.0, 62.5\\] | 0.812 |"),
        "{markdown}"
    );
    assert!(
        body.contains("cuda:0") && body.contains("random weights of /models/tiny.json"),
        "{body}"
    );
    for shown in [
        "the best",
        "the median",
        "the worst",
        "more letters",
        "out of fuel",
        "1 values are no numbers",
    ] {
        assert!(body.contains(shown), "{shown:?} is not in the page");
    }
    assert!(
        !body.contains("not shown") && html.len() < 2_000_000,
        "{} bytes",
        html.len()
    );
}

#[test]
fn what_a_model_wrote_stays_text() {
    let home = Home::new();
    let _daemon = daemon(&home, recorded(&home));
    home.run(&["report", fix::JOB, "--to", "."]).expect(0);
    let html = std::fs::read_to_string(home.path().join("report.html")).unwrap();
    assert!(
        !html.contains("<script")
            && !html.contains("<img")
            && !html.contains('\x1b')
            && !html.contains('\u{fffe}')
    );
    assert!(
        !html.contains("http://")
            && !html.contains("https://")
            && html.contains("default-src 'none'"),
        "nothing is fetched"
    );
    let page = Document::parse_with_options(
        &html,
        ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        },
    )
    .expect("well-formed");
    let known = [
        "html",
        "head",
        "body",
        "meta",
        "title",
        "style",
        "section",
        "nav",
        "h1",
        "h2",
        "h3",
        "h4",
        "p",
        "a",
        "ul",
        "li",
        "dl",
        "dt",
        "dd",
        "div",
        "span",
        "small",
        "b",
        "i",
        "code",
        "pre",
        "table",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "figure",
        "figcaption",
        "svg",
        "defs",
        "marker",
        "line",
        "circle",
        "rect",
        "path",
        "polyline",
        "text",
    ];
    let other = page
        .descendants()
        .filter(|node| node.is_element() && !known.contains(&node.tag_name().name()));
    assert_eq!(
        other.map(|node| node.tag_name().name()).collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
    assert!(
        text(page.root_element()).contains("</pre><script>alert(1)</script>"),
        "and is there to be read"
    );
    let points = page
        .descendants()
        .filter(|node| node.has_tag_name("polyline"))
        .filter_map(|node| node.attribute("points"));
    let longest = points
        .map(|points| points.split(' ').count())
        .max()
        .unwrap();
    assert!((100..=400).contains(&longest), "{longest} points in a line");
    let markdown = std::fs::read_to_string(home.path().join("report.md")).unwrap();
    let mut fence = None;
    for line in markdown.lines() {
        match fence {
            None if line.starts_with("```") => fence = Some(line.trim_end_matches("text")),
            Some(end) if line == end => fence = None,
            None => assert!(
                !line.contains("<script") && !line.contains("*bold* "),
                "{line}"
            ),
            Some(_) => {}
        }
    }
    assert_eq!(fence, None, "every block ends");
}

#[test]
fn a_directory_is_enough() {
    let home = Home::new();
    let mut status = recorded(&home);
    status.state = State::Running;
    let missing = home.run(&["report", "--dir", "job"]).expect(1);
    assert!(
        missing.stderr.contains("job/status.json") && missing.stderr.contains("r1ctl report JOB"),
        "{}",
        missing.stderr
    );
    status.directory = "/elsewhere".into();
    home.write("job/status.json", &serde_json::to_string(&status).unwrap());
    let run = home
        .run(&["report", "--dir", "job", "-o", "json"])
        .expect(0);
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(&run.stdout).unwrap(),
        serde_json::json!({"html": "./report.html", "markdown": "./report.md"})
    );
    let html = std::fs::read_to_string(home.path().join("report.html")).unwrap();
    assert!(html.contains("running") && html.contains("1,502,077"));
    // There is no r1d beside this r1ctl that could read Parquet, or there is and finds none: the
    // page is there either way.
    assert!(!html.contains("the best"));
    for words in [&["report"][..], &["report", "k3", "--dir", "job"]] {
        home.run(words).expect(64);
    }
}

#[test]
fn a_job_that_has_not_begun_has_a_report_too() {
    let home = Home::new();
    let status = JobStatus {
        directory: home.path().join("nothing"),
        ..fix::queued()
    };
    let _daemon = daemon(&home, status);
    home.run(&["report", fix::JOB]).expect(0);
    let html = std::fs::read_to_string(home.path().join("report.html")).unwrap();
    Document::parse_with_options(
        &html,
        ParsingOptions {
            allow_dtd: true,
            ..Default::default()
        },
    )
    .expect("well-formed");
    assert!(
        html.contains("queued") && html.contains("0 of 2 stages are finished"),
        "{html}"
    );
}

/// `status.json` is as old as the last end of something; the steps since then are in
/// `metrics.jsonl` alone.
#[test]
fn the_figures_of_a_directory_are_of_one_moment() {
    let home = Home::new();
    let mut status = recorded(&home);
    // Left when the evaluation of step 750 ended.
    status.state = State::Running;
    (status.stages[0].step, status.stages[0].state) = (750, State::Running);
    status.stages.truncate(1);
    home.write("job/status.json", &serde_json::to_string(&status).unwrap());
    home.run(&["report", "--dir", "job"]).expect(0);
    let page = std::fs::read_to_string(home.path().join("report.md")).unwrap();
    assert!(
        page.contains("over 1,500 steps") && !page.contains("over 750 steps"),
        "{page}"
    );
}

#[test]
fn a_stage_that_learned_nothing_says_why() {
    let home = Home::new();
    let status = recorded(&home);
    let line = |step: u64, share: f64, loss: &str| {
        format!(
            "{{\"stage\":\"zero\",\"step\":{step},\"reward\":0.0,\"loss\":{loss},\
             \"frac_reward_zero_std\":{share},\"completions/mean_length\":9.0}}\n"
        )
    };
    home.write("job/status.json", &serde_json::to_string(&status).unwrap());
    let page = |lines: String| {
        home.write("job/metrics.jsonl", &lines);
        home.run(&["report", "--dir", "job"]).expect(0);
        std::fs::read_to_string(home.path().join("report.md")).unwrap()
    };
    let why = "in no group did the rewards differ, so nothing was learned";
    assert!(page((1..9).map(|step| line(step, 1.0, "0.0")).collect()).contains(why));
    assert!(
        !page(
            (1..9)
                .map(|step| line(step, if step == 5 { 0.5 } else { 1.0 }, "0.0"))
                .collect()
        )
        .contains(why)
    );
    let page = page(
        (1..9)
            .map(|step| line(step, 0.5, if step < 3 { "0.5" } else { "null" }))
            .collect(),
    );
    assert!(page.contains("loss is not a number at step 3"), "{page}");
}
