//! A worker without tensors, for tests of the daemon: it speaks the whole protocol, and its
//! "weights" are a running hash of everything it was told to train on. Two runs of a job end with
//! the same hash if and only if they trained on the same things in the same order.
//!
//! `FAKE_WORKER_DELAY_MS` is the time that a completion or an update takes. `FAKE_WORKER_FAULTS`
//! names a directory of planted faults: a file `<moment>-<n>` (`train-3`, `save-1`, `start-1`)
//! makes the n-th such moment of the whole job, however many workers it takes, go as the file's
//! text says; `<moment>-always` every one, and `<moment>-on-<device>` every one on that device:
//!
//! | text | what happens |
//! |---|---|
//! | `exit`, `exit N` | the process ends with code 3, or N |
//! | `kill-self`, `kill-daemon`, `kill-both` | SIGKILL; the daemon is the parent process |
//! | `kill-daemon-soon N` | the request is answered, and N microseconds later the daemon is killed |
//! | `hang` | nothing is said any more |
//! | `hold` | the same, until the test takes the file away |
//! | `fail KIND` | the request fails as `invalid`, `storage`, `out-of-memory` or `internal` |

#![allow(
    clippy::disallowed_methods,
    reason = "a process of one thread, which pretends to compute"
)]

use r1d_proto::frame::{Format, FrameError, read_blocking, write_blocking};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::ids::SampleKey;
use r1d_proto::parts::Assembly;
use r1d_proto::remedy::to_mend;
use r1d_proto::rollout::{FinishReason, Rollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::worker::{
    Body, CheckpointReport, CheckpointState, Event, Failure, FailureKind, FromWorker, Generate,
    Metrics, ModelSource, Open, Opened, PROTOCOL, Pair, Question, Reply, RewardBatch, Supervise,
    ToWorker, Train, WorkerRequest,
};
use r1d_proto::world::{counter_hash, counter_uniform};
use sha2::{Digest, Sha256};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Words of the tests' tokenizer.
const EOS: u32 = 0;
const THINK: [u32; 2] = [1, 2];
const ANSWER: [u32; 2] = [3, 4];
const DIGIT_0: u32 = 5;
const VERDICTS: [u32; 2] = [15, 16];

fn main() {
    if std::env::args().nth(1).as_deref() == Some("probe") {
        return probe();
    }
    let socket = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .expect("standard input");
    let mut worker = Worker {
        stream: UnixStream::from(socket),
        delay: Duration::from_millis(
            variable("FAKE_WORKER_DELAY_MS")
                .and_then(|ms| ms.parse().ok())
                .unwrap_or(1),
        ),
        faults: variable("FAKE_WORKER_FAULTS").map(PathBuf::from),
        open: None,
        policy: 0,
        reference: 0,
        updates: 0,
        snapshot: None,
    };
    watch_for_the_end();
    let _ = worker.moment("start");
    worker.say(
        0,
        Body::Event(Event::Started {
            protocol: PROTOCOL,
            version: "fake".into(),
            device: "cpu".into(),
            pid: std::process::id(),
        }),
    );
    let mut assembly = Assembly::default();
    loop {
        match read_blocking::<ToWorker>(&mut worker.stream, Format::Postcard) {
            Ok(message) => {
                let Some(ToWorker { id, request }) =
                    assembly.add(message).expect("parts of one kind")
                else {
                    continue;
                };
                let body = match worker.carry_out(id, request) {
                    Ok(reply) => Body::Done(reply),
                    Err(failure) => Body::Failed(failure),
                };
                worker.say(id, body);
                worker.write_snapshot(id);
            }
            Err(FrameError::Closed) => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// The device that the process is for.
fn device() -> String {
    let mut from_flag = std::env::args().skip_while(|argument| argument != "--device");
    from_flag.nth(1).unwrap_or_else(|| "cpu".into())
}

/// Ends as the file `probe` of the faults says, or `probe-on-<device>`: `CODE what it says`.
fn probe() {
    let read = |name: String| {
        let dir = variable("FAKE_WORKER_FAULTS")?;
        fs::read_to_string(Path::new(&dir).join(name)).ok()
    };
    let of_device = read(format!("probe-on-{}", device()));
    let Some(fault) = of_device.or_else(|| read("probe".into())) else {
        return;
    };
    let (code, said) = fault.split_once(' ').expect("a code and words");
    eprintln!("{said}");
    std::process::exit(code.parse().expect("an exit code"));
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// A worker leaves at once when its daemon is gone, whatever it is at.
fn watch_for_the_end() {
    let parent = std::os::unix::process::parent_id();
    std::thread::spawn(move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(Duration::from_millis(5));
        }
        std::process::exit(0);
    });
}

fn kill(pid: u32) {
    let _ = std::process::Command::new("kill")
        .args(["-9", &pid.to_string()])
        .status();
}

struct Worker {
    stream: UnixStream,
    delay: Duration,
    faults: Option<PathBuf>,
    open: Option<Open>,
    policy: u64,
    reference: u64,
    updates: u64,
    /// Stage and step, directory and text of a checkpoint that is not written yet.
    snapshot: Option<((u32, u64), PathBuf, String)>,
}

impl Worker {
    fn say(&mut self, id: u64, body: Body) {
        if write_blocking(&mut self.stream, Format::Postcard, &FromWorker { id, body }).is_err() {
            std::process::exit(0);
        }
    }

    fn progress(&mut self, id: u64, doing: &str, done: u64, total: u64) {
        self.say(
            id,
            Body::Event(Event::Progress {
                doing: doing.into(),
                done,
                total,
                unit: "steps".into(),
            }),
        );
    }

    /// Counts a moment, and does what is planted for it.
    fn moment(&mut self, name: &str) -> Result<(), Failure> {
        let Some(dir) = self.faults.clone() else {
            return Ok(());
        };
        let counter = dir.join(format!("{name}.count"));
        // The ranks of a gang come to a moment at the same time.
        let turn = fs::File::create(dir.join("turn")).expect("the faults' directory");
        turn.lock().expect("a lock");
        let count = fs::read_to_string(&counter)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
            + 1;
        fs::write(&counter, count.to_string()).expect("the faults' directory");
        drop(turn);
        let on_device = format!("{name}-on-{}", device());
        let planted = [
            format!("{name}-{count}"),
            format!("{name}-always"),
            on_device,
        ]
        .map(|file| fs::read_to_string(dir.join(file)).ok());
        let Some(fault) = planted.into_iter().flatten().next() else {
            return Ok(());
        };
        eprintln!("fault at {name} {count}: {fault}");
        let (word, rest) = fault.trim().split_once(' ').unwrap_or((fault.trim(), ""));
        let daemon = std::os::unix::process::parent_id();
        match word {
            "exit" => std::process::exit(rest.parse().unwrap_or(3)),
            "kill-self" => kill(std::process::id()),
            "kill-daemon" => kill(daemon),
            "kill-both" => {
                kill(daemon);
                kill(std::process::id());
            }
            "kill-daemon-soon" => {
                let wait = Duration::from_micros(rest.parse().expect("microseconds"));
                std::thread::spawn(move || {
                    std::thread::sleep(wait);
                    kill(daemon);
                });
                return Ok(());
            }
            "hang" => {}
            // Until the test has done something and takes its file away.
            "hold" => {
                let held = dir.join(format!("{name}-{count}"));
                while held.exists() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                return Ok(());
            }
            "fail" => {
                let kind = match rest {
                    "invalid" => FailureKind::Invalid,
                    "storage" => FailureKind::Storage,
                    "out-of-memory" => FailureKind::OutOfMemory,
                    _ => FailureKind::Internal,
                };
                let remedy = match kind {
                    FailureKind::Storage => ": make room on that file system",
                    _ => "",
                };
                return Err(Failure {
                    kind,
                    message: format!("planted at {name} {count}{remedy}"),
                });
            }
            other => panic!("unknown fault {other:?}"),
        }
        loop {
            std::thread::park();
        }
    }

    /// Writes the snapshot that was just taken: before the next request, where a worker does it
    /// beside them.
    fn write_snapshot(&mut self, id: u64) {
        let Some(((stage, step), dir, text)) = self.snapshot.take() else {
            return;
        };
        let state = match self.write_whole(&dir, "save", &text) {
            Ok(manifest_sha256) => CheckpointState::Stored { manifest_sha256 },
            Err(failure) => CheckpointState::Failed(failure),
        };
        let report = CheckpointReport { stage, step, state };
        self.say(id, Body::Checkpoint(report));
    }

    fn carry_out(&mut self, id: u64, request: WorkerRequest) -> Result<Reply, Failure> {
        match request {
            WorkerRequest::Open(open) => self.open(*open),
            WorkerRequest::Generate(generate) => self.generate(id, generate),
            WorkerRequest::Train(train) => self.train(id, train),
            WorkerRequest::Supervise(batch) => self.supervise(id, batch),
            WorkerRequest::SyncReference => {
                self.moment("sync")?;
                self.reference = self.policy;
                Ok(Reply::ReferenceSynced)
            }
            // Rank 0 writes for its gang.
            WorkerRequest::Save { .. } if self.rank() > 0 => Ok(Reply::SnapshotTaken),
            WorkerRequest::Export { .. } if self.rank() > 0 => Ok(Reply::Exported),
            WorkerRequest::Save { stage, step, dir } => {
                self.progress(id, "checkpointing", 0, 1);
                let text = format!("{} {} {}", self.policy, self.reference, self.updates);
                self.snapshot = Some(((stage, step), dir, text));
                Ok(Reply::SnapshotTaken)
            }
            WorkerRequest::Restore { dir } => {
                self.moment("restore")?;
                let text = read(&dir.join("state"))?;
                let mut words = text.split(' ').map(|word| word.parse::<u64>());
                let mut next = || {
                    words
                        .next()
                        .and_then(Result::ok)
                        .ok_or_else(|| invalid(format!("{} is damaged", dir.display())))
                };
                (self.policy, self.reference, self.updates) = (next()?, next()?, next()?);
                Ok(Reply::Restored)
            }
            WorkerRequest::Export { dir } => {
                let text = format!("{:016x}", self.policy);
                self.write_whole(&dir, "export", &text)?;
                Ok(Reply::Exported)
            }
            WorkerRequest::Close => Ok(Reply::Closed),
            WorkerRequest::More(_) => Err(invalid("parts without their request")),
            WorkerRequest::Rendezvous(_) => Err(invalid("an answer that nobody waits for")),
            WorkerRequest::TrainReward(batch) => {
                self.moment("reward")?;
                match (
                    batch.batch,
                    self.open.as_ref().is_some_and(|open| open.scores),
                ) {
                    (RewardBatch::Pairs { pairs, .. }, true) => Ok(self.prefer(batch.step, &pairs)),
                    (RewardBatch::Labelled(texts), true) => {
                        let words = texts.iter().flat_map(|text| {
                            text.ids.iter().copied().chain([text.label.to_bits()])
                        });
                        Ok(self.update(&words.map(u64::from).collect::<Vec<_>>()))
                    }
                    (_, false) => Err(invalid("the open model has no scalar head")),
                }
            }
            WorkerRequest::TrainDpo(batch) => {
                self.moment("dpo")?;
                Ok(self.prefer(batch.step, &batch.pairs))
            }
            WorkerRequest::TrainPpo(batch) => {
                self.moment("ppo")?;
                let value = match &self
                    .open
                    .as_ref()
                    .and_then(|open| open.value_model.as_ref())
                    .and_then(|value| value.model.as_ref())
                {
                    Some(ModelSource::Directory(dir)) => weights(dir)?,
                    _ => 0,
                };
                let scores = batch.scores.iter().map(|score| score.to_bits() as u64);
                let ids = batch
                    .sequences
                    .iter()
                    .flat_map(|sequence| &sequence.completion_ids)
                    .map(|id| *id as u64);
                let words: Vec<u64> = [value, self.reference, batch.first_update, batch.seed]
                    .into_iter()
                    .chain(scores)
                    .chain(ids)
                    .collect();
                Ok(self.update(&words))
            }
            WorkerRequest::Answer(asked) => {
                self.progress(id, "judging", 0, asked.questions.len() as u64);
                self.moment("answer")?;
                let ModelSource::Directory(dir) = &asked.model else {
                    return Err(invalid("a judge that is asked has weights"));
                };
                let weights = judge_weights(dir)?;
                let answer = |question: &Question| {
                    let ids: Vec<u64> = question
                        .prompt_ids
                        .iter()
                        .map(|id| u64::from(*id))
                        .collect();
                    let mut ids = match counter_hash(&[weights, counter_hash(&ids)]) % 8 {
                        0 => vec![DIGIT_0, EOS],
                        word => vec![DIGIT_0, VERDICTS[(word % 2) as usize], EOS],
                    };
                    ids.truncate(question.max_tokens as usize);
                    ids
                };
                Ok(Reply::Answered {
                    answers: asked.questions.iter().map(answer).collect(),
                })
            }
            WorkerRequest::Score { model, sequences } => {
                self.progress(id, "scoring", 0, sequences.len() as u64);
                self.moment("score")?;
                let weights = match &model {
                    Some(ModelSource::Directory(dir)) => weights(dir)?,
                    Some(_) => return Err(invalid("a reward model that is asked has weights")),
                    None => self.policy,
                };
                let score = |ids: &Vec<u32>| {
                    2.0 * counter_uniform(&[
                        weights,
                        counter_hash(&ids.iter().map(|id| *id as u64).collect::<Vec<_>>()),
                    ]) - 1.0
                };
                Ok(Reply::Scored {
                    scores: sequences.iter().map(score).collect(),
                })
            }
        }
    }

    fn rank(&self) -> u32 {
        let place = self.open.as_ref().and_then(|open| open.place);
        place.map_or(0, |place| place.rank)
    }

    fn open(&mut self, open: Open) -> Result<Reply, Failure> {
        self.moment("open")?;
        (self.policy, self.updates) = match &open.model {
            ModelSource::Init { config, .. } => {
                (counter_hash(&[open.seed, config.len() as u64]), 0)
            }
            ModelSource::Directory(dir) => (weights(dir)?, 0),
        };
        self.reference = self.policy;
        self.open = Some(open);
        let architecture = "FakeForCausalLM".into();
        Ok(Reply::Opened(Opened {
            architecture,
            parameters: 1,
            active_parameters: 1,
            vocab_size: 32,
            moe_layers: 0,
            experts_per_token: 0,
        }))
    }

    /// A directory with one file and its manifest, whose hash is returned, that appears whole or
    /// not at all; the moment lies in the middle of writing it.
    fn write_whole(&mut self, dir: &Path, moment: &str, text: &str) -> Result<String, Failure> {
        let io = |error: std::io::Error| Failure {
            kind: FailureKind::Storage,
            message: format!("{}: {error}{}", dir.display(), to_mend(&error)),
        };
        if dir.exists() {
            return Err(invalid(format!("{} exists already", dir.display())));
        }
        let partial = dir.with_file_name(format!(
            ".{}.partial",
            dir.file_name().unwrap_or_default().to_string_lossy()
        ));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(&partial).map_err(io)?;
        fs::write(partial.join("state"), &text[..text.len() / 2]).map_err(io)?;
        self.moment(moment)?;
        fs::write(partial.join("state"), text).map_err(io)?;
        let hash = |bytes: &[u8]| {
            Sha256::digest(bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let entry = serde_json::json!({"path": "state", "bytes": text.len(),
            "sha256": hash(text.as_bytes())});
        let manifest = serde_json::json!({"format": 1, "files": [entry]}).to_string();
        fs::write(partial.join("manifest.json"), &manifest).map_err(io)?;
        fs::rename(&partial, dir).map_err(io)?;
        Ok(hash(manifest.as_bytes()))
    }

    fn generate(&mut self, id: u64, request: Generate) -> Result<Reply, Failure> {
        let invariant = self.open.as_ref().is_some_and(|open| open.batch_invariant);
        let mut batch = vec![self.policy, request.sampling.seed];
        if !invariant {
            // Outside the reference mode a completion may depend on all that is sampled with it.
            batch.extend(request.groups.iter().flat_map(|g| {
                g.samples
                    .iter()
                    .map(|s| (g.prompt as u64) << 32 | *s as u64)
            }));
        }
        let batch = counter_hash(&batch);
        let wanted: Vec<_> = request
            .groups
            .iter()
            .flat_map(|g| g.samples.iter().map(move |s| (g, *s)))
            .collect();
        let total = wanted.len() as u64;
        for (done, (group, sample)) in wanted.into_iter().enumerate() {
            if done as u64 == total / 2 {
                self.moment("generate")?;
            }
            std::thread::sleep(self.delay);
            let key = SampleKey {
                stage: request.stage,
                step: request.step,
                prompt: group.prompt,
                sample,
            };
            let word = |i: u64| {
                counter_hash(&[
                    batch,
                    key.stage as u64,
                    key.step,
                    key.prompt as u64,
                    sample as u64,
                    group.row,
                    i,
                ])
            };
            let completion_ids =
                completion(word(0), word(1), request.sampling.max_completion_length);
            let rollout = Rollout {
                key,
                row: group.row,
                prompt_ids: group.prompt_ids.clone(),
                behaviour_logprobs: (0..completion_ids.len() as u64)
                    .map(|i| -counter_uniform(&[word(2), i]))
                    .collect(),
                finish: if completion_ids.last() == Some(&EOS) {
                    FinishReason::Stop
                } else {
                    FinishReason::Length
                },
                kept_ids: kept_ids(&request.sampling, &completion_ids, word(3)),
                completion_ids,
                experts: vec![],
                policy_version: request.policy_version,
            };
            self.progress(id, "sampling", done as u64, total);
            self.say(id, Body::Event(Event::Completed(rollout)));
        }
        Ok(Reply::Generated {
            metrics: Metrics::from([("perf/tokens_per_s".into(), 1e3)]),
        })
    }

    fn train(&mut self, id: u64, train: Train) -> Result<Reply, Failure> {
        self.progress(id, "training", 0, train.sequences.len() as u64);
        self.moment("train")?;
        let mut words = vec![self.reference, train.step, train.first_update, train.seed];
        for sequence in &train.sequences {
            words.extend(
                sequence
                    .prompt_ids
                    .iter()
                    .chain(&sequence.completion_ids)
                    .map(|id| *id as u64),
            );
            words.extend(
                sequence
                    .kept_ids
                    .numbers()
                    .iter()
                    .map(|number| *number as u64),
            );
            words.extend(
                sequence
                    .behaviour_logprobs
                    .iter()
                    .chain([&sequence.advantage])
                    .map(|value| value.to_bits() as u64),
            );
        }
        Ok(self.update(&words))
    }

    fn supervise(&mut self, id: u64, batch: Supervise) -> Result<Reply, Failure> {
        self.progress(id, "training", 0, batch.sequences.len() as u64);
        self.moment("supervise")?;
        let mut words = vec![batch.step];
        for sequence in &batch.sequences {
            words.extend(
                sequence
                    .ids
                    .iter()
                    .zip(&sequence.trained)
                    .map(|(id, trained)| (*id as u64) << 1 | *trained as u64),
            );
        }
        Ok(self.update(&words))
    }

    fn prefer(&mut self, step: u64, pairs: &[Pair]) -> Reply {
        let ids = pairs.iter().flat_map(|pair| {
            pair.prompt_ids
                .iter()
                .chain(&pair.chosen_ids)
                .chain(&pair.rejected_ids)
        });
        let words: Vec<u64> = [self.reference, step]
            .into_iter()
            .chain(ids.map(|id| *id as u64))
            .collect();
        self.update(&words)
    }

    fn update(&mut self, words: &[u64]) -> Reply {
        std::thread::sleep(self.delay);
        self.policy = counter_hash(&[&[self.policy], words].concat());
        self.updates += 1;
        let uniform = counter_uniform(&[self.policy]) as f64;
        Reply::Trained {
            metrics: Metrics::from([
                ("loss".into(), uniform),
                ("kl".into(), uniform / 10.0),
                ("learning_rate".into(), 1e-3),
            ]),
        }
    }
}

/// The sampling mask of a stage that cuts ids off: a possible set of ids for each token.
fn kept_ids(sampling: &Sampling, completion_ids: &[u32], seed: u64) -> SamplingMask {
    if !sampling.keep_sampling_mask || sampling.top_p == 1.0 {
        return SamplingMask::default();
    }
    let set = |(place, id): (u64, &u32)| [1, *id, 1 + (counter_hash(&[seed, place]) % 3) as u32];
    SamplingMask::from_numbers((0..).zip(completion_ids).flat_map(set).collect())
}

/// `<think> … </think> <answer> N </answer>`, or something that falls short of it.
fn completion(shape: u64, answer: u64, length_max: u32) -> Vec<u32> {
    let digit = DIGIT_0 + (answer % 3) as u32;
    let mut ids = match shape % 4 {
        0 => vec![digit, EOS],
        1 => vec![THINK[0], digit, THINK[1], digit, EOS],
        _ => vec![THINK[0], digit, THINK[1], ANSWER[0], digit, ANSWER[1], EOS],
    };
    ids.truncate(length_max as usize);
    ids
}

fn weights(dir: &Path) -> Result<u64, Failure> {
    let text = read(&dir.join("state"))?;
    text.split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .ok_or_else(|| invalid("no weights"))
}

/// A checkpoint's, or those of a directory that no job has made.
fn judge_weights(dir: &Path) -> Result<u64, Failure> {
    if dir.join("state").is_file() {
        weights(dir)
    } else {
        Ok(counter_hash(
            &[read(&dir.join("config.json"))?.len() as u64],
        ))
    }
}

fn invalid(message: impl Into<String>) -> Failure {
    Failure {
        kind: FailureKind::Invalid,
        message: message.into(),
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    fs::read_to_string(path).map_err(|error| invalid(format!("{}: {error}", path.display())))
}
