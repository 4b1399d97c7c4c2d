//! One answer of each kind with every field filled, and one with every optional field empty.

use r1d_proto::control::content::{LogLine, MadeDataSet, Review, Sample};
use r1d_proto::control::job::{
    Activity, EvalExample, EvalResult, JobStatus, JobSummary, RankStatus, StageStatus, State,
};
use r1d_proto::control::node::{DeviceStatus, NodeStatus};
use r1d_proto::control::plan::{Plan, PlanDisk, PlanEval, PlanLayout, PlanStage};
use r1d_proto::control::removal::{KeptJob, RemovalExtent, Removed, RemovedJob};
use r1d_proto::control::why::{Wait, Why};
use r1d_proto::ids::JobId;
use r1d_proto::trace::{Lane, Span, StepTrace};
use r1d_proto::verdict::{Outcome, Verdict};
use std::collections::BTreeMap;

pub(crate) const JOB: &str = "k3v9qx7a";

pub(crate) fn id() -> JobId {
    JobId(JOB.into())
}

fn metrics(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
    pairs
        .iter()
        .map(|(name, value)| (name.to_string(), *value))
        .collect()
}

pub(crate) fn jobs() -> Vec<JobSummary> {
    let job = |id: &str, name: &str, state, stage: Option<&str>, step, steps| JobSummary {
        job: JobId(id.into()),
        name: name.into(),
        state,
        pausing: false,
        priority: 0,
        stage: stage.map(Into::into),
        step,
        steps,
        submitted_at: 1_795_461_725,
        owner: Some("ada".into()),
    };
    vec![
        job(
            JOB,
            "arithmetic",
            State::Running,
            Some("reasoning"),
            12,
            120,
        ),
        JobSummary {
            priority: -5,
            ..job("b81m0c2d", "r1-on-gsm8k", State::Queued, None, 0, 0)
        },
        job(
            "zz9y8x7w",
            "first try",
            State::Failed,
            Some("cold-start"),
            1500,
            2000,
        ),
    ]
}

/// Before training the reference is not known.
fn eval(stage: Option<&str>, step: u64, accuracy: f64, completion: Option<&str>) -> EvalResult {
    let prompt = "What is 17 + 25? Show your work in <think> and the result in <answer>.".into();
    EvalResult {
        stage: stage.map(Into::into),
        step,
        data: "test".into(),
        metrics: metrics(&[("accuracy", accuracy), ("completions/mean_length", 61.5)]),
        example: completion.map(|text| EvalExample {
            prompt,
            completion: text.into(),
            reference: stage.map(|_| "42".into()),
        }),
    }
}

fn stage(
    name: &str,
    kind: &str,
    state: State,
    step: u64,
    steps: u64,
    pairs: &[(&str, f64)],
) -> StageStatus {
    let seconds = step as f64 * 0.5;
    StageStatus {
        name: name.into(),
        kind: kind.into(),
        model: None,
        reused_from: None,
        state,
        step,
        steps,
        durable_step: step / 10 * 10,
        metrics: metrics(pairs),
        seconds,
    }
}

const SFT: [(&str, f64); 2] = [("loss", 1.2345), ("perf/throughput", 15_230.4)];
const GRPO: [(&str, f64); 8] = [
    ("completions/mean_length", 84.25),
    ("entropy", 0.31),
    ("kl", 0.00312),
    ("loss", 0.0121),
    ("perf/throughput", 1523.7),
    ("reward", 0.5125),
    ("step_time", 8.0),
    ("timing_s/exchange", 1.0),
];

fn rank(rank: u32, state: &str) -> RankStatus {
    RankStatus {
        rank,
        device: format!("cuda:{rank}"),
        data: 0,
        expert: rank,
        state: state.into(),
    }
}

/// A job at the given step of its second stage.
pub(crate) fn running(step: u64) -> JobStatus {
    JobStatus {
        job: id(),
        name: "arithmetic".into(),
        state: State::Running,
        pausing: false,
        priority: 3,
        submitted_at: 1_795_461_725,
        owner: Some("ada".into()),
        pause: None,
        started_at: Some(1_795_461_730),
        ended_at: None,
        queue_position: None,
        stages: vec![
            stage("cold-start", "sft", State::Succeeded, 40, 40, &SFT),
            stage(
                "reasoning",
                "grpo",
                State::Running,
                step,
                120,
                if step == 0 { &[] } else { &GRPO },
            ),
        ],
        activity: Some(Activity {
            doing: "sampling".into(),
            done: 312,
            total: 512,
            unit: "completions".into(),
        }),
        ranks: vec![
            rank(0, "sampling 312/512 completions"),
            rank(1, "waiting for rank 0 in all.agree 41"),
        ],
        evals: vec![
            eval(None, 0, 0.0, Some("qq zx\x1b[2J(( ")),
            eval(Some("cold-start"), 40, 0.3125, None),
        ],
        directory: "/var/lib/r1d/jobs/k3v9qx7a".into(),
        model: None,
        error: None,
        restarts: 1,
        eta_s: Some(192.4),
    }
}

pub(crate) fn queued() -> JobStatus {
    JobStatus {
        state: State::Queued,
        started_at: None,
        queue_position: Some(2),
        stages: vec![
            stage("cold-start", "sft", State::Queued, 0, 40, &[]),
            stage("reasoning", "grpo", State::Queued, 0, 120, &[]),
        ],
        activity: None,
        ranks: vec![],
        evals: vec![],
        restarts: 0,
        eta_s: None,
        ..running(0)
    }
}

pub(crate) fn succeeded() -> JobStatus {
    let mut job = running(120);
    job.state = State::Succeeded;
    job.ended_at = Some(1_795_461_912);
    job.stages[1].state = State::Succeeded;
    job.activity = None;
    job.ranks.clear();
    job.eta_s = None;
    job.evals.push(eval(Some("reasoning"), 60, 0.71, None));
    let completion =
        "<think>17 + 25: 7 + 5 = 12, write 2 carry 1; 1 + 2 + 1 = 4.</think> <answer>42</answer>";
    job.evals
        .push(eval(Some("reasoning"), 120, 0.875, Some(completion)));
    job.model = Some("/var/lib/r1d/jobs/k3v9qx7a/final".into());
    job
}

pub(crate) fn failed() -> JobStatus {
    let mut job = running(12);
    job.state = State::Failed;
    job.ended_at = Some(1_795_461_800);
    job.stages[1].state = State::Failed;
    job.activity = None;
    job.ranks.clear();
    job.eta_s = None;
    job.error = Some(
        "reward plugin `accuracy` ran out of time 3 times: raise its limits, or mend it".into(),
    );
    job
}

pub(crate) fn cancelled() -> JobStatus {
    JobStatus {
        state: State::Cancelled,
        error: None,
        ..failed()
    }
}

pub(crate) fn log_lines() -> Vec<LogLine> {
    let line = |at_ms, level: &str, message: &str| LogLine {
        at_ms,
        level: level.into(),
        message: message.into(),
    };
    vec![
        line(1_795_461_730_123, "info", "stage cold-start began"),
        line(
            1_795_461_731_000,
            "warn",
            "reward `format`: 3 traps in step 2",
        ),
        line(
            1_795_461_732_999,
            "error",
            "worker of cpu exited with signal 9\nstarted again",
        ),
    ]
}

fn verdict(plugin: &str, outcome: Outcome, value: Option<f32>) -> Verdict {
    Verdict {
        plugin: plugin.into(),
        module_sha256: "5e".repeat(32),
        config_sha256: "c0".repeat(32),
        outcome,
        value,
        fuel: 12_345,
    }
}

pub(crate) fn trace() -> StepTrace {
    let span = |lane, name: &str, start_us, duration_us| Span {
        lane,
        name: name.into(),
        start_us,
        duration_us,
    };
    let spans = vec![
        span(Lane::Writer, "reading rows", 0, 1_500),
        span(Lane::Device, "prefill", 2_000, 400_000),
        span(Lane::Device, "decode", 402_000, 80_000),
        span(Lane::Device, "sampling", 1_600, 500_000),
        span(Lane::Rewards, "group 0", 410_000, 120_000),
        span(Lane::Rewards, "group 1", 450_000, 30_000),
        span(Lane::Writer, "sealing the step", 530_000, 9_000),
        span(Lane::Checkpoint, "writing the checkpoint", 0, 700_000),
    ];
    StepTrace {
        stage: "reasoning".into(),
        step: 12,
        spans,
        left_out: 3,
    }
}

pub(crate) fn samples() -> Vec<Sample> {
    let whole = Sample {
        stage: "reasoning".into(),
        step: 12,
        prompt_index: 3,
        sample_index: 0,
        row: 812,
        prompt: "What is 17 + 25?".into(),
        completion: "<think>17 + 25 = 42</think>\n<answer>42</answer>".into(),
        reference: Some("42".into()),
        tokens: 84,
        finish: "stop".into(),
        reward: Some(1.25),
        advantage: Some(0.75),
        verdicts: vec![
            verdict(
                "accuracy",
                Outcome::Score {
                    value: 1.0,
                    parts: vec![],
                },
                Some(1.0),
            ),
            verdict(
                "format",
                Outcome::Score {
                    value: 0.25,
                    parts: vec![0.125, 0.125],
                },
                Some(0.25),
            ),
        ],
    };
    let dropped = Sample {
        sample_index: 1,
        completion: "\x1b]0;owned\x07 42 42 42".into(),
        reference: None,
        tokens: 1024,
        finish: "length".into(),
        reward: None,
        advantage: None,
        verdicts: vec![
            verdict(
                "accuracy",
                Outcome::Abstain {
                    reason: "no number in the reference".into(),
                },
                None,
            ),
            verdict(
                "format",
                Outcome::Trap {
                    reason: "unreachable".into(),
                },
                Some(0.0),
            ),
            verdict("length", Outcome::OutOfFuel, Some(-1.0)),
            verdict("slow", Outcome::OutOfTime, None),
        ],
        ..whole.clone()
    };
    vec![whole, dropped]
}

pub(crate) fn datasets() -> Vec<MadeDataSet> {
    let set = |stage: &str, rows, review| MadeDataSet {
        stage: stage.into(),
        rows,
        rows_made: 812,
        sampled: 4096,
        acceptance_rate: 0.1982,
        review,
        sha256: "ab12".repeat(16),
        file: format!("/var/lib/r1d/jobs/k3v9qx7a/datasets/{stage}.jsonl").into(),
    };
    vec![
        set("cold", 790, Review::Imported),
        set("again", 812, Review::Accepted),
        set("readable", 812, Review::Waiting),
        set("final", 812, Review::NotAsked),
    ]
}

pub(crate) fn why() -> Why {
    let wait = |owner: &str, waits_for: &str, since_s, deadline_s| Wait {
        owner: owner.into(),
        waits_for: waits_for.into(),
        since_s,
        deadline_s,
    };
    Why {
        job: id(),
        state: State::Running,
        pausing: false,
        waits: vec![
            wait("job k3v9qx7a", "step 13 of reasoning", 4.2, None),
            wait("trainer", "completions of 88 prompts", 4.1, Some(600.0)),
            wait(
                "sampler",
                "worker cpu: 312/512 completions",
                700.0,
                Some(600.0),
            ),
        ],
        error: None,
    }
}

pub(crate) fn nodes() -> Vec<NodeStatus> {
    let device = |device: &str, state: &str, worker_pid, job: Option<JobId>| DeviceStatus {
        device: device.into(),
        state: state.into(),
        worker_pid,
        worker_restarts: 1,
        rank: job.as_ref().map(|_| 0),
        job,
        problem: (state == "failed").then(|| "this machine has 0 GPU(s)".into()),
    };
    vec![NodeStatus {
        name: "gpu-01".into(),
        version: "0.1.0".into(),
        state_dir: "/var/lib/r1d".into(),
        uptime_s: 7512,
        devices: vec![
            device("cuda:0", "busy", Some(4711), Some(id())),
            device("cpu", "failed", None, None),
        ],
        plugins: vec!["accuracy".into(), "format".into()],
    }]
}

pub(crate) fn plan() -> Plan {
    let gib = |pairs: &[(&str, u64)]| {
        pairs
            .iter()
            .map(|(name, n)| (name.to_string(), n << 20))
            .collect()
    };
    let eval = |times: u64| PlanEval {
        data: "test".into(),
        times,
        completions: 256,
        tokens: times * 256 * 640,
    };
    Plan {
        name: "arithmetic".into(),
        model: "random weights of tiny-deepseek-v3.json".into(),
        parameters: Some(1_234_567),
        layout: Some(PlanLayout {
            data: 2,
            expert: 4,
            shard: "optimizer".into(),
            layout_independent: true,
        }),
        stages: vec![
            PlanStage {
                name: "cold-start".into(),
                kind: "sft".into(),
                model: None,
                reused_from: None,
                from: "base".into(),
                data: "cold-start".into(),
                rows: 2000,
                steps: 40,
                tokens_per_step: 16_384,
                rewards: vec![],
                memory: gib(&[("policy", 5), ("optimiser", 10), ("update", 12)]),
                memory_peak: 27 << 20,
                host_memory: gib(&[("snapshot", 15)]),
                evals: vec![eval(2)],
                disk: gib(&[("checkpoints", 45)]),
            },
            PlanStage {
                name: "reasoning".into(),
                kind: "grpo".into(),
                model: None,
                reused_from: None,
                from: "cold-start".into(),
                data: "train".into(),
                rows: 50_000,
                steps: 120,
                tokens_per_step: 98_304,
                rewards: vec!["accuracy".into(), "format".into()],
                memory: gib(&[
                    ("policy", 5),
                    ("reference", 5),
                    ("optimiser", 10),
                    ("sampler", 1536),
                    ("update", 512),
                ]),
                memory_peak: (20 + 1536) << 20,
                host_memory: gib(&[("snapshot", 20)]),
                evals: vec![eval(3)],
                disk: gib(&[
                    ("checkpoints", 80),
                    ("final", 5),
                    ("journal", 192),
                    ("rollouts", 1536),
                ]),
            },
        ],
        warnings: vec![
            "max_completion_length = 128 cuts off 12 of the 100 longest references".into(),
        ],
        disk: vec![PlanDisk {
            directory: "/var/lib/r1d".into(),
            bytes: 1858 << 20,
            free: Some(300 << 30),
        }],
        resolved: "name = \"arithmetic\"\nseed = 17\n".into(),
    }
}

/// What a dry run of a removal finds.
pub(crate) fn removed() -> Removed {
    let removed = |job: &str, name: &str, extent, bytes, why: &str| RemovedJob {
        job: JobId(job.into()),
        name: name.into(),
        extent,
        bytes,
        why: why.into(),
    };
    Removed {
        dry_run: true,
        jobs: vec![
            removed(
                "7f3k9qzx",
                "arithmetic",
                RemovalExtent::AllButResults,
                7 << 30,
                "ended 41 days ago",
            ),
            removed(
                "c02n4d6e",
                "try",
                RemovalExtent::Whole,
                3 << 20,
                "ended 33 days ago",
            ),
        ],
        kept: vec![KeptJob {
            job: JobId("b81m0c2d".into()),
            name: "base".into(),
            why: "job k3v0a1b2 (queued) needs /var/lib/r1d/jobs/b81m0c2d/final: wait until that \
                  one has ended, or cancel it"
                .into(),
        }],
    }
}

/// The same kinds with nothing in what may be empty: a schema says what can be null.
pub(crate) fn bare_job() -> JobSummary {
    JobSummary {
        stage: None,
        owner: None,
        ..jobs().remove(0)
    }
}

pub(crate) fn bare_sample() -> Sample {
    Sample {
        reference: None,
        reward: None,
        advantage: None,
        ..samples().remove(0)
    }
}

pub(crate) fn bare_plan() -> Plan {
    Plan {
        parameters: None,
        layout: None,
        disk: Vec::new(),
        ..plan()
    }
}

pub(crate) fn pausing_why() -> Why {
    Why {
        state: State::Paused,
        pausing: true,
        ..why()
    }
}

pub(crate) fn bare_why() -> Why {
    Why {
        waits: vec![],
        state: State::Failed,
        error: Some("stage `reasoning` step 13 of 120: the disk is full".into()),
        ..why()
    }
}
