//! An attempt at work: its machine, its worker, and the writer that makes durable what it decides.

use super::{Device, World};
use r1d_job::Job;
use r1d_ledger::Command as LedgerCommand;
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::JobId;
use r1d_proto::worker::{
    Body, CheckpointReport, CheckpointState, Failure, FailureKind, Metrics, ModelSource, Opened,
    Reply, SupervisedSequence, WorkerRequest,
};
use r1d_runner::life::{LifeEvent, WORKER_FAILURES_MAX};
use r1d_runner::{
    Batch, Command, End, Event, Limits, Machine, ModelPlan, Plan, Record, StageInputs, StageRecord,
    Store,
};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, LazyLock};

const JOB: &str = r#"
name = "simulated"
seed = 7
[model]
init = "config.json"
tokenizer = "tokenizer.json"
[data.text]
path = "text.jsonl"
[[stage]]
name = "reading"
kind = "pretrain"
data = "text"
steps = 4
batch_size = 2
max_length = 8
[checkpoint]
every_steps = 2
keep = 2
"#;

static PLAN: LazyLock<Arc<Plan>> = LazyLock::new(|| {
    let job = Job::parse(JOB, Path::new("/job")).expect("a sound job");
    let base = ModelSource::Init {
        config: "model".into(),
        carry: None,
    };
    let model = ModelPlan {
        base,
        stop_ids: vec![1],
        eval_prompt_max: 4,
    };
    let stage = StageInputs {
        steps: super::STEPS,
        later: false,
        prompt_max: 4,
        rewards: Vec::new(),
        fitting_tokens: None,
        memory: Default::default(),
        memory_peak: 0,
    };
    Arc::new(Plan {
        stages: vec![stage],
        evals: Vec::new(),
        models: vec![model],
        job,
        worker: "worker cpu".into(),
        checkpoints: "/job/checkpoints".into(),
        final_dir: "/job/final".into(),
        limits: Limits::default(),
    })
});

/// An attempt of a run.
pub(super) struct Attempt {
    machine: Machine,
    /// The number of the life's decision that began it.
    number: u64,
    /// What the worker will say.
    worker: VecDeque<FromDevice>,
    /// What the writer has answered.
    written: VecDeque<Event>,
    is_committed: bool,
}

enum FromDevice {
    Says(Event),
    Dies,
}

impl Attempt {
    pub(super) fn is_in_step(&self) -> bool {
        self.machine.is_in_step()
    }

    pub(super) fn is_busy(&self) -> bool {
        !self.worker.is_empty() || !self.written.is_empty()
    }
}

/// The thread that writes for a job.
pub(super) struct Writer {
    run: u64,
    number: u64,
    epoch: u64,
    tasks: VecDeque<Command>,
    pub is_stopped: bool,
}

impl Writer {
    pub(super) fn is_busy(&self) -> bool {
        self.is_stopped || !self.tasks.is_empty()
    }
}

fn sequence() -> SupervisedSequence {
    SupervisedSequence {
        ids: vec![1, 2],
        trained: vec![true; 2],
    }
}

fn fault(cause: &str) -> Event {
    let cause = cause.into();
    Event::Fault(End::Abandoned { cause })
}

impl World {
    fn record_of(&self, job: &JobId) -> Record {
        let record = self.state.job(job).unwrap();
        let stage = |stage: &Arc<r1d_ledger::StageRecord>| StageRecord {
            finished: stage.state == RunState::Succeeded,
            step: stage.step,
            checkpoints: (stage.checkpoints.iter())
                .map(|checkpoint| (checkpoint.step, checkpoint.dir.clone()))
                .collect(),
            num_tokens: 0.0,
        };
        Record {
            stages: record.progress.stages.iter().map(stage).collect(),
            evals: Default::default(),
        }
    }

    /// Gives the attempt that has begun its worker, its writer and its machine.
    pub(super) fn begin_attempt(&mut self, run: u64, number: u64) -> bool {
        let (job, epoch) = (self.runs[&run].job.clone(), self.runs[&run].life.epoch());
        let writer = Writer {
            run,
            number,
            epoch,
            tasks: VecDeque::new(),
            is_stopped: false,
        };
        let before = self.writers.insert(job.clone(), writer);
        assert!(
            before.is_none(),
            "seed {}: {job} has two writers",
            self.seed
        );
        let starts = if self.is_struck(run, None) {
            self.broken(true)
        } else {
            Some(FromDevice::Says(Event::WorkerStarted { pid: 1 }))
        };
        let attempt = Attempt {
            machine: Machine::new(PLAN.clone(), self.record_of(&job), self.now),
            number,
            worker: starts.into_iter().collect(),
            written: VecDeque::new(),
            is_committed: false,
        };
        self.runs.get_mut(&run).unwrap().attempt = Some(attempt);
        true
    }

    /// What a worker says on a device that is broken: it dies, fails, or says nothing for ever.
    fn broken(&mut self, is_start: bool) -> Option<FromDevice> {
        match self.draw(4) {
            0 => None,
            1 if !is_start => Some(FromDevice::Says(Event::Worker(Body::Failed(Failure {
                kind: FailureKind::Internal,
                message: "an illegal memory access".into(),
            })))),
            _ => Some(FromDevice::Dies),
        }
    }

    /// Whether a request goes wrong: by the device, by the job's own doing, or by chance, which
    /// strikes a step only once, and a job less often than it takes to suspect its device.
    fn is_struck(&mut self, run: u64, step: Option<u64>) -> bool {
        let of = &self.runs[&run];
        let (job, devices) = (of.job.clone(), of.devices.clone());
        let is_poisoned = step == Some(1) && self.poison.contains(&job);
        let fails = |device: &usize| {
            let Device {
                is_broken, is_bad, ..
            } = self.devices[*device];
            is_broken || (is_bad && step.is_some())
        };
        let at_fault = devices.into_iter().find(fails);
        if at_fault.is_some() || is_poisoned {
            self.runs.get_mut(&run).unwrap().at_fault = at_fault;
            return true;
        }
        let struck = self.unlucky.iter().filter(|(known, _)| *known == job);
        let may_be = struck.count() < WORKER_FAILURES_MAX as usize - 1;
        let moment = (job, step.unwrap_or(u64::MAX));
        self.chance(30) && may_be && self.unlucky.insert(moment)
    }

    fn work(&mut self, run: u64, request: WorkerRequest) -> Option<FromDevice> {
        let step = match &request {
            WorkerRequest::Supervise(batch) => Some(batch.step),
            _ => None,
        };
        if step.is_some() && self.is_struck(run, step) {
            return self.broken(false);
        }
        let reply = match request {
            WorkerRequest::Open(_) => Reply::Opened(Opened {
                architecture: "fake".into(),
                parameters: 1,
                active_parameters: 1,
                vocab_size: 9,
                moe_layers: 0,
                experts_per_token: 0,
            }),
            WorkerRequest::Supervise(_) => Reply::Trained {
                metrics: Metrics::from([("loss".into(), 1.0)]),
            },
            WorkerRequest::Save { stage, step, .. } => {
                self.tell_stored(run, stage, step);
                Reply::SnapshotTaken
            }
            WorkerRequest::Restore { .. } => Reply::Restored,
            WorkerRequest::Export { .. } => Reply::Exported,
            other => panic!("{other:?}"),
        };
        Some(FromDevice::Says(Event::Worker(Body::Done(reply))))
    }

    /// The worker's thread that writes checkpoints has stored one.
    fn tell_stored(&mut self, run: u64, stage: u32, step: u64) {
        let state = CheckpointState::Stored {
            manifest_sha256: "hash".into(),
        };
        let report = CheckpointReport { stage, step, state };
        let attempt = self.runs.get_mut(&run).and_then(|run| run.attempt.as_mut());
        let said = FromDevice::Says(Event::Worker(Body::Checkpoint(report)));
        attempt.unwrap().worker.push_back(said);
    }

    /// One party of the attempt says something; returns whether one did.
    pub(super) fn advance_attempt(&mut self, run: u64) -> bool {
        let is_workers = self.draw(2) == 0;
        let Some(attempt) = &mut self.runs.get_mut(&run).unwrap().attempt else {
            return false;
        };
        let number = attempt.number;
        if is_workers {
            match attempt.worker.pop_front() {
                None => return false,
                Some(FromDevice::Says(event)) => self.tell_machine(run, event),
                Some(FromDevice::Dies) => {
                    let cause = "the worker died".into();
                    let end = End::WorkerFailed { cause };
                    self.tell_life(run, number, LifeEvent::Ended { end });
                }
            }
            return true;
        }
        let Some(event) = attempt.written.pop_front() else {
            return false;
        };
        let commits = std::mem::take(&mut attempt.is_committed);
        if commits && self.runs[&run].life.stops_after_step() {
            self.tell_life(run, number, LifeEvent::Committed);
        } else {
            self.tell_machine(run, event);
        }
        true
    }

    pub(super) fn tell_machine(&mut self, run: u64, event: Event) {
        let now = self.now;
        let Some(of) = self.runs.get_mut(&run) else {
            return;
        };
        let Some(attempt) = &mut of.attempt else {
            return;
        };
        let (job, number) = (of.job.clone(), attempt.number);
        for command in attempt.machine.handle(event, now).commands {
            match command {
                Command::End(end) => {
                    return self.tell_life(run, number, LifeEvent::Ended { end });
                }
                Command::Warn(_) => {}
                Command::Worker(request) => {
                    let said = self.work(run, *request);
                    let of = self.runs.get_mut(&run).unwrap();
                    of.attempt.as_mut().unwrap().worker.extend(said);
                }
                task => {
                    let writer = self.writers.get_mut(&job).unwrap();
                    assert_eq!(
                        writer.number, number,
                        "seed {}: another's writer",
                        self.seed
                    );
                    writer.tasks.push_back(task);
                }
            }
        }
    }

    /// The job's writer does its next task, or ends.
    pub(super) fn advance_writer(&mut self, job: &JobId) {
        let writer = self.writers.get_mut(job).unwrap();
        if writer.is_stopped {
            self.writers.remove(job);
            return;
        }
        let Some(task) = writer.tasks.pop_front() else {
            return;
        };
        let (run, number, epoch) = (writer.run, writer.number, writer.epoch);
        let commits = matches!(task, Command::Store(Store::Commit { .. }));
        let Some(event) = self.written(job, epoch, task) else {
            return;
        };
        let of = self.runs.get_mut(&run);
        let attempt = of.and_then(|run| run.attempt.as_mut());
        if let Some(attempt) = attempt.filter(|attempt| attempt.number == number) {
            attempt.is_committed |= commits;
            attempt.written.push_back(event);
        }
    }

    fn written(&mut self, job: &JobId, epoch: u64, task: Command) -> Option<Event> {
        let job = job.clone();
        let command = match task {
            Command::ReadBatch { .. } => {
                return Some(Event::Batch(Batch::Sequences(vec![sequence(); 2])));
            }
            Command::Recall { .. } => return Some(Event::Recalled(Default::default())),
            Command::Forget { .. } => return Some(Event::Stored),
            Command::Prune { stage, step, .. } => {
                let stage = stage as u32;
                self.apply(LedgerCommand::DropCheckpoint {
                    job,
                    epoch,
                    stage,
                    step,
                });
                return None;
            }
            Command::Trace(_) => return None,
            Command::Store(store) => of_store(job, epoch, store),
            other => panic!("{other:?}"),
        };
        let is_taken = self.apply(command).is_some();
        Some(if is_taken {
            Event::Stored
        } else {
            fault("the ledger refuses")
        })
    }
}

fn of_store(job: JobId, epoch: u64, store: Store) -> LedgerCommand {
    match store {
        Store::BeginStage { stage } => LedgerCommand::BeginStage {
            job,
            epoch,
            stage: stage as u32,
            name: "reading".into(),
            kind: "pretrain".into(),
            steps: super::STEPS,
            at: 3,
        },
        Store::Commit {
            stage,
            step,
            metrics,
            ..
        } => LedgerCommand::CommitStep {
            job,
            epoch,
            stage: stage as u32,
            step,
            metrics,
        },
        Store::Checkpoint {
            stage,
            step,
            dir,
            manifest_sha256,
        } => LedgerCommand::Checkpoint {
            job,
            epoch,
            stage: stage as u32,
            step,
            dir,
            manifest_sha256,
        },
        Store::FinishStage { stage } => LedgerCommand::FinishStage {
            job,
            epoch,
            stage: stage as u32,
            at: 5,
        },
        other => panic!("{other:?}"),
    }
}
