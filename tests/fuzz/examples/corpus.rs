//! Writes the corpus, as the README says: the files that it names, and no others.

use r1d_fuzz_tests::{rows, seals};
use r1d_ledger::{Command, Ledger, NewJob, StageRecord};
use r1d_proto::control::job::{EvalExample, EvalResult, State};
use r1d_proto::frame::{self, Format};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::ids::{JobId, SampleKey};
use r1d_proto::rendezvous::{Ask, RendezvousAnswer, RendezvousCall, RendezvousError};
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_proto::worker::{
    Body, Event, Failure, FailureKind, FromWorker, Generate, Group, Labelled, Metrics, ModelSource,
    PROTOCOL, Pair, Part, Reply, RewardBatch, Supervise, SupervisedSequence, ToWorker, TrainReward,
    WorkerRequest,
};
use r1d_store::{Disk, Entry, Journal, RolloutRow, rollouts};
use serde::Serialize;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Done = Result<(), Box<dyn Error>>;

fn main() -> Done {
    frames()?;
    control()?;
    worker()?;
    segments()?;
    ledger()?;
    parquet()?;
    texts()
}

fn put(target: &str, name: &str, bytes: &[u8]) -> Done {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(target);
    std::fs::create_dir_all(&dir)?;
    Ok(std::fs::write(dir.join(name), bytes)?)
}

fn payload(format: Format, message: &impl Serialize) -> Result<Vec<u8>, Box<dyn Error>> {
    Ok(frame::encode(format, message)?.split_off(frame::HEADER_BYTES))
}

fn frames() -> Done {
    let list = seals::frame(Format::Json, br#"{"request":"list"}"#);
    let close = payload(
        Format::Postcard,
        &ToWorker {
            id: 1,
            request: WorkerRequest::Close,
        },
    )?;
    let close = seals::frame(Format::Postcard, &close);
    put("frame", "json", &list)?;
    put("frame", "postcard", &close)?;
    put("frame", "two", &[&list[..], &list].concat())?;
    put("frame", "empty", &seals::frame(Format::Json, b""))?;
    put("frame", "cut", &list[..list.len() - 1])?;
    let mut long = list.clone();
    long[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    put("frame", "length-of-4-gib", &long)?;
    put("frame", "not-a-frame", b"GET / HTTP/1.1\r\n\r\n")
}

fn control() -> Done {
    let messages = [
        (
            "submit",
            r##"{"id":"r-1","progress":true,"request":"submit","job":"name = \"a\"","priority":-3,"pins":{"accuracy":"ab"},"no_reuse":true,"hold":true}"##,
        ),
        (
            "reload",
            r##"{"request":"reload","job":"7qx","plugin":"accuracy","file":"/a.wasm"}"##,
        ),
        ("plan", r##"{"request":"plan","job":"seed = 1"}"##),
        ("list", r##"{"request":"list"}"##),
        ("status", r##"{"request":"status","job":"7"}"##),
        (
            "cancel",
            r##"{"progress":false,"request":"cancel","job":""}"##,
        ),
        ("pause", r##"{"request":"pause","job":"7qx"}"##),
        (
            "logs",
            r##"{"request":"logs","job":"7qx","follow":true,"tail":10,"since_s":600}"##,
        ),
        (
            "samples",
            r##"{"request":"samples","job":"7qx","stage":null,"step":3,"sort":"reward","limit":4000000000}"##,
        ),
        (
            "review",
            r##"{"request":"review","job":"7qx","stage":"s","file":null}"##,
        ),
        ("nodes", r##"{"request":"nodes"}"##),
        ("watch", r##"{"request":"watch","job":"7qx"}"##),
        ("answer-end", r##"{"response":"end"}"##),
        (
            "answer-submitted",
            r##"{"response":"submitted","body":{"job":"7qx","warnings":["w"],"plugins":{"a":"b"}}}"##,
        ),
        (
            "answer-jobs",
            r##"{"response":"jobs","body":[{"job":"7qx","name":"n","state":"running","priority":0,"stage":"s","step":1,"steps":2,"submitted_at":3}]}"##,
        ),
        (
            "answer-error",
            r##"{"response":"error","body":{"kind":"busy","message":"later"}}"##,
        ),
        (
            "answer-lines",
            r##"{"response":"lines","body":[{"at_ms":1,"level":"info","message":"m"}]}"##,
        ),
        (
            "answer-why",
            r##"{"response":"why","body":{"job":"7qx","state":"queued","waits":[{"owner":"job","waits_for":"a device","since_s":1.5,"deadline_s":null}]}}"##,
        ),
        (
            "answer-progress",
            r##"{"response":"progress","body":{"doing":"reading","done":1,"total":3,"unit":"parts"}}"##,
        ),
        ("twice", r##"{"request":"list","request":"nodes"}"##),
        (
            "deep",
            r##"{"request":"plan","job":[[[[[[[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]]]]]]}"##,
        ),
    ];
    messages
        .iter()
        .try_for_each(|(name, text)| put("control", name, text.as_bytes()))
}

fn rollout(prompt: u32, sample: u32) -> Rollout {
    Rollout {
        key: SampleKey {
            stage: 1,
            step: 7,
            prompt,
            sample,
        },
        row: 5,
        prompt_ids: vec![1, 200, 70_000],
        completion_ids: vec![9, 8, 0],
        behaviour_logprobs: vec![-0.5, -1.25, f32::NAN],
        experts: vec![3, 250, 3, 1],
        kept_ids: SamplingMask::from_numbers(vec![1, 9, 2, 1, 8, 1, 1, 0, 3]),
        policy_version: 7,
        finish: FinishReason::Stop,
    }
}

fn worker() -> Done {
    let sampling = Sampling {
        temperature: 1.0,
        top_p: 0.9,
        top_k: 20,
        keep_sampling_mask: true,
        max_completion_length: 8,
        stop_ids: vec![0],
        seed: 11,
    };
    let group = Group {
        prompt: 0,
        row: 5,
        prompt_ids: vec![1, 2],
        samples: vec![0, 1, 2],
    };
    let generate = Generate {
        stage: 1,
        step: 7,
        policy_version: 7,
        sampling,
        record_experts: true,
        groups: vec![group.clone()],
    };
    let pair = Pair {
        prompt_ids: vec![1],
        chosen_ids: vec![2],
        rejected_ids: vec![3],
        margin: 0.5,
    };
    let pairs = RewardBatch::Pairs {
        pairs: vec![pair],
        center_rewards_coefficient: 0.01,
    };
    let sequence = SupervisedSequence {
        ids: vec![1, 2, 3],
        trained: vec![false, true, true],
    };
    let (labelled, source) = (
        Labelled {
            ids: vec![1],
            label: 1.0,
        },
        ModelSource::Init {
            config: "{}".into(),
            carry: None,
        },
    );
    let requests = [
        ("generate", WorkerRequest::Generate(generate)),
        (
            "supervise",
            WorkerRequest::Supervise(Supervise {
                step: 3,
                sequences: vec![sequence],
            }),
        ),
        (
            "train-reward",
            WorkerRequest::TrainReward(TrainReward {
                step: 3,
                batch: pairs,
            }),
        ),
        (
            "save",
            WorkerRequest::Save {
                stage: 1,
                step: 50,
                dir: "/checkpoints/s/step-50".into(),
            },
        ),
        (
            "score",
            WorkerRequest::Score {
                model: Some(source),
                sequences: vec![vec![1], vec![]],
            },
        ),
        (
            "more-groups",
            WorkerRequest::More(Part::Groups(vec![group])),
        ),
        (
            "more-labelled",
            WorkerRequest::More(Part::Labelled(vec![labelled])),
        ),
        ("sync-reference", WorkerRequest::SyncReference),
        (
            "rendezvous-answer",
            WorkerRequest::Rendezvous(RendezvousAnswer {
                number: 3,
                result: Err(RendezvousError::Absent {
                    key: "all/member/1".into(),
                    within: Duration::from_secs(60),
                }),
            }),
        ),
    ];
    for (name, request) in requests {
        put(
            "worker",
            name,
            &payload(Format::Postcard, &ToWorker { id: 300, request })?,
        )?;
    }
    let started = Event::Started {
        protocol: PROTOCOL,
        version: "0.1.0".into(),
        device: "cuda:0".into(),
        pid: 70_000,
    };
    let progress = Event::Progress {
        doing: "sampling".into(),
        done: 3,
        total: 8,
        unit: "tokens".into(),
    };
    let metrics = Metrics::from([("loss".into(), f64::NAN), ("kl".into(), 0.125)]);
    let bodies = [
        ("started", Body::Event(started)),
        ("completed", Body::Event(Event::Completed(rollout(0, 0)))),
        ("progress", Body::Event(progress)),
        ("trained", Body::Done(Reply::Trained { metrics })),
        (
            "answered",
            Body::Done(Reply::Answered {
                answers: vec![vec![1, 2], vec![]],
            }),
        ),
        (
            "failed",
            Body::Failed(Failure::new(FailureKind::Storage, "no room")),
        ),
        (
            "rendezvous-call",
            Body::Rendezvous(RendezvousCall {
                number: 3,
                key: "all/member/0".into(),
                ask: Ask::Set(vec![1, 2]),
            }),
        ),
    ];
    for (name, body) in bodies {
        put(
            "worker",
            name,
            &payload(Format::Postcard, &FromWorker { id: 300, body })?,
        )?;
    }
    Ok(())
}

fn verdict() -> Verdict {
    Verdict {
        plugin: "accuracy".into(),
        module_sha256: "ab".repeat(32),
        config_sha256: "cd".repeat(32),
        outcome: Outcome::Score {
            value: 1.0,
            parts: vec![0.5],
        },
        value: Some(1.0),
        fuel: 12_345,
    }
}

fn segments() -> Done {
    let key = |sample| SampleKey {
        stage: 1,
        step: 7,
        prompt: 0,
        sample,
    };
    let scored = |sample| Entry::Scored {
        key: key(sample),
        verdicts: vec![verdict()],
        reward: Some(1.0),
    };
    let sampled = |sample| Entry::Sampled(rollout(0, sample));
    let seal = Entry::Sealed {
        stage: 1,
        step: 7,
        advantages: vec![(key(1), Some(0.5)), (key(0), None)],
    };
    let whole = [sampled(0), sampled(1), scored(1), scored(0), seal];
    for (name, count) in [("nothing", 0), ("sampled", 2), ("scored", 4), ("sealed", 5)] {
        let dir = tempfile::tempdir()?;
        let job = JobId("7qx".into());
        let mut journal = Journal::open(Disk::shared(), dir.path(), &job, (1, 1), 7)?;
        journal.append(&whole[..count])?;
        journal.sync()?;
        drop(journal);
        let path = dir.path().join("stage-1/step-00000007.e1.journal");
        let bytes = if path.exists() {
            std::fs::read(path)?
        } else {
            Vec::new()
        };
        put("segment", name, &bytes)?;
        if count == 5 {
            put("segment", "torn", &bytes[..bytes.len() - 3])?;
            put("segment", "zeros-behind", &[&bytes[..], &[0; 64]].concat())?;
            put("segment", "header-alone", &bytes[..104])?;
        }
    }
    Ok(())
}

fn submit(job: &str, held: bool) -> Command {
    Command::Submit(NewJob {
        name: "n".into(),
        priority: 3,
        request: Some(format!("request-{job}")),
        reward_versions: [("accuracy".into(), "ab".repeat(32))].into(),
        keys: vec!["cd".repeat(32)],
        reuses: true,
        held,
        ..NewJob::of(JobId(job.into()), "seed = 1\n")
    })
}

/// Commands after which a ledger has a row in each table that a job has.
fn commands() -> Vec<Command> {
    let job = JobId("a".into());
    let metrics = Metrics::from([("loss".into(), 0.5)]);
    let example = EvalExample {
        prompt: "p".into(),
        completion: "c".into(),
        reference: None,
    };
    let result = EvalResult {
        stage: Some("s".into()),
        step: 1,
        data: "d".into(),
        metrics: metrics.clone(),
        example: Some(example),
    };
    vec![
        submit("a", false),
        submit("b", true),
        Command::TakeUp { job: job.clone() },
        Command::Start {
            job: job.clone(),
            at: 2,
        },
        Command::BeginStage {
            job: job.clone(),
            epoch: 1,
            stage: 0,
            name: "s".into(),
            kind: "grpo".into(),
            steps: 5,
            at: 3,
        },
        Command::CommitStep {
            job: job.clone(),
            epoch: 1,
            stage: 0,
            step: 0,
            metrics,
        },
        Command::Eval {
            job: job.clone(),
            epoch: 1,
            result,
        },
        Command::Checkpoint {
            job,
            epoch: 1,
            stage: 0,
            step: 1,
            dir: PathBuf::from("/elsewhere/step-1"),
            manifest_sha256: "ef".repeat(32),
        },
    ]
}

fn ledger() -> Done {
    let dump = |path: &Path| -> Result<Vec<u8>, Box<dyn Error>> {
        Ok(rows::of(&redb::Database::open(path)?)?)
    };
    let commands = commands();
    for (name, count) in [("queued", 1), ("held", 2), ("at-work", commands.len())] {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("ledger.redb");
        let opened = Ledger::open(&path)?;
        for command in commands.iter().take(count).cloned() {
            opened.apply(command)?;
        }
        drop(opened);
        put("ledger", name, &dump(&path)?)?;
    }
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("ledger.redb");
    let opened = Ledger::open(&path)?;
    for command in commands.into_iter().take(4) {
        opened.apply(command)?;
    }
    let metrics = Metrics::from([("loss".into(), 0.5)]);
    let record = StageRecord {
        name: "s".into(),
        kind: "sft".into(),
        state: State::Succeeded,
        steps: 2,
        step: 2,
        checkpoints: Vec::new(),
        begun_at: 3,
        ended_at: Some(4),
        metrics: metrics.clone(),
    };
    opened.apply(Command::ReuseStage {
        job: JobId("a".into()),
        epoch: 1,
        of: JobId("b".into()),
        stage: 0,
        record: Box::new(record),
        metrics: (0..2).map(|step| (step, metrics.clone())).collect(),
        evals: Vec::new(),
    })?;
    drop(opened);
    put("ledger", "taken-over", &dump(&path)?)
}

fn parquet() -> Done {
    let row = |sample| RolloutRow {
        scored: ScoredRollout {
            rollout: rollout(0, sample),
            verdicts: vec![verdict()],
            reward: Some(1.0),
            advantage: None,
        },
        prompt: "p".into(),
        completion: "</answer>".into(),
        reference: Some("7".into()),
    };
    for (name, rows) in [
        ("one", vec![row(0)]),
        ("few", (0..5).map(row).collect()),
        ("none", vec![]),
    ] {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("step.parquet");
        rollouts::write(&Disk, &path, &rows)?;
        put("rollouts", name, &std::fs::read(path)?)?;
    }
    Ok(())
}

fn texts() -> Done {
    let job = "name = \"a\"\n[model]\ninit = \"a.json\"\ntokenizer = \"t\"\n[data.d]\npath = \
               \"d.jsonl\"\n[[stage]]\nname = \"s\"\nkind = \"sft\"\ndata = \"d\"\nepochs = 1\n";
    put("job", "smallest", job.as_bytes())?;
    put(
        "job",
        "dotted",
        b"name = \"a\"\nmodel.init = \"m\"\nmodel.tokenizer = \"t\"\ndata.d.path = \"d\"\n",
    )?;
    put(
        "job",
        "numbers",
        format!("seed = 0x7fff_ffff_ffff_ffff\n{job}max_length = 1_000\nlearning_rate = 1e-6\n")
            .as_bytes(),
    )?;
    put(
        "job",
        "nested",
        format!("a = {}{}", "[".repeat(100), "]".repeat(100)).as_bytes(),
    )?;
    put("job", "mistyped", job.replace("kind", "knid").as_bytes())?;
    put("job", "escapes", b"name = \"\\u0000\\u001b[2J\\u202e\"\n")?;
    put(
        "daemon",
        "devices",
        b"[node]\ndevices = [\"cuda:0\", \"cpu\"]\n",
    )?;
    put(
        "daemon",
        "log",
        b"[log]\nlevel = \"info,r1d=debug\"\nformat = \"json\"\n",
    )
}
