//! One attempt at a job as a state machine: it decides what the attempt does next. What follows an
//! attempt is decided by the job's life, and which job gets a device by [`crate::schedule`].
//!
//! | module | what it holds |
//! |---|---|
//! | this one | the states, and which part takes an event in which |
//! | `loading` | from a fresh worker to the last committed step |
//! | `stepping` | a step, to its commit |
//! | `boundary` | what lies between two steps, and behind a stage's last one |
//! | `show` | the state in words, waits and deadlines |
//! | `ends` | how an attempt ends after a failed request |

mod boundary;
mod ends;
mod loading;
mod show;
mod stepping;

use crate::evaluation::Evaluation;
use crate::flow::unexpected;
use crate::message::{Command, End, Event};
use crate::pending_checkpoint::PendingCheckpoint;
use crate::plan::Plan;
use crate::rebuild::Rebuild;
use crate::record::Record;
use crate::reward_model_eval::RewardModelEval;
use crate::step::Step;
use crate::trace::Tracer;
use crate::wait::LastHeard;
use ends::{failed, not_returned};
use r1d_proto::control::job::Activity;
use r1d_proto::trace::StepTrace;
use r1d_proto::worker::{self, Body, CheckpointReport, Failure, FailureKind, WorkerRequest};
use show::describe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The state machine of one attempt at a job, from a fresh worker to its end.
#[derive(Debug)]
pub struct Machine {
    plan: Arc<Plan>,
    record: Record,
    state: State,
    /// When the state was entered.
    since: Duration,
    heard: LastHeard,
    /// What the worker last reported that it does.
    progress: Option<Activity>,
    /// Whether the journal may hold uncommitted steps: one, until the first step with rollouts
    /// of this attempt begins, in whatever stage that is, or more, until they are used up.
    leftovers: bool,
    /// The checkpoint that is not on record yet.
    pending: Option<PendingCheckpoint>,
    tracer: Tracer,
}

#[derive(Debug)]
enum State {
    StartingWorker,
    Opening(OpenedFor),
    BeginningStage(usize),
    Restoring {
        stage: usize,
        step: u64,
    },
    DroppingCheckpoint {
        stage: usize,
    },
    Rebuilding {
        stage: usize,
        rebuild: Rebuild,
    },
    /// The journal is read for what is left of the next step.
    Recalling {
        stage: usize,
    },
    Stepping {
        stage: usize,
        step: Box<Step>,
    },
    Committing {
        stage: usize,
        num_tokens: f64,
    },
    SyncingReference {
        stage: usize,
    },
    /// The snapshot of a checkpoint is being taken.
    Saving {
        stage: usize,
        step: u64,
    },
    /// What comes next needs the checkpoint that is being written.
    AwaitingCheckpoint {
        stage: usize,
    },
    RecordingCheckpoint {
        stage: usize,
        step: u64,
        dir: PathBuf,
    },
    Evaluating {
        stage: usize,
        evaluation: Box<Evaluation>,
    },
    /// A reward model is evaluated on rows that it has not seen.
    Comparing {
        stage: usize,
        separation: Box<RewardModelEval>,
    },
    RecordingEval {
        stage: usize,
        recorded: (Option<String>, u64, String),
    },
    /// The data set of a stage's kept completions is being written; its progress comes as events.
    MakingDataSet(usize),
    FinishingStage(usize),
    Exporting,
    Ended,
}

/// Why a model is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenedFor {
    Stage(usize),
    Export,
}

/// The machine's answer to an event: what to do, and why.
#[derive(Debug)]
pub struct Decision {
    /// Commands to carry out, in order.
    pub commands: Vec<Command>,
    /// A line for the job's log. `None` if the state's description did not change.
    pub reason: Option<String>,
}

type Following = Result<(State, Vec<Command>), End>;

fn to_worker(request: WorkerRequest) -> Vec<Command> {
    vec![Command::Worker(Box::new(request))]
}

impl Machine {
    /// Begins an attempt from what `record` holds as durable. The worker's process must already be
    /// starting.
    pub fn new(plan: Arc<Plan>, record: Record, now: Duration) -> Machine {
        Machine {
            plan,
            record,
            state: State::StartingWorker,
            since: now,
            heard: LastHeard {
                worker: now,
                writer: now,
            },
            progress: None,
            leftovers: true,
            pending: None,
            tracer: Tracer::new(now),
        }
    }

    /// Takes an event that happened at `now`, a time of the clock that all events share. After the
    /// end it returns no more commands.
    pub fn handle(&mut self, event: Event, now: Duration) -> Decision {
        if matches!(self.state, State::Ended) {
            return Decision {
                commands: Vec::new(),
                reason: None,
            };
        }
        let before = self.describe();
        self.tracer.hear(&event, now);
        let commands = match self.advance(event, now) {
            Ok(mut commands) => {
                let trace = self.tracer.follow(&commands, now);
                commands.extend(trace.map(|trace| self.named(trace)));
                commands
            }
            Err(end) => {
                self.state = State::Ended;
                vec![Command::End(end)]
            }
        };
        let after = self.describe();
        Decision {
            commands,
            reason: (after != before).then_some(after),
        }
    }

    fn named(&self, (stage, trace): (usize, StepTrace)) -> Command {
        let name = self.plan.stage(stage).map(|(stage, _)| stage.name.clone());
        Command::Trace(StepTrace {
            stage: name.unwrap_or_default(),
            ..trace
        })
    }

    /// What is durable so far.
    pub fn record(&self) -> &Record {
        &self.record
    }

    fn advance(&mut self, event: Event, now: Duration) -> Result<Vec<Command>, End> {
        if self.is_report(&event, now)? {
            return Ok(Vec::new());
        }
        match event {
            Event::Tick => return self.tick(now).map(|_| Vec::new()),
            Event::Fault(end) => return Err(end),
            Event::Worker(Body::Failed(failure))
                if !matches!(self.state, State::Restoring { .. }) =>
            {
                let asked = match &self.state {
                    State::Stepping { step, .. } => step.asked(),
                    State::Evaluating { evaluation, .. } => evaluation.asked(),
                    _ => None,
                };
                let failure = self.with_plan(failure);
                let doing =
                    self.describe() + &asked.map(|whom| format!(": {whom}")).unwrap_or_default();
                let returns = matches!(self.state, State::Opening(_) | State::Rebuilding { .. });
                return Err(if returns {
                    not_returned(&doing, failure)
                } else {
                    failed(&doing, failure)
                });
            }
            Event::Worker(_) | Event::WorkerStarted { .. } => self.heard.worker = now,
            _ => {}
        }
        let state = std::mem::replace(&mut self.state, State::Ended);
        let was = std::mem::discriminant(&state);
        let (state, commands) = self.transition(state, event, now)?;
        if was != std::mem::discriminant(&state) {
            self.since = now;
        }
        if commands.iter().any(|c| matches!(c, Command::Worker(_))) {
            (self.heard.worker, self.progress) = (now, None);
        }
        self.state = state;
        Ok(commands)
    }

    /// Takes an event that only says how far something is; returns whether it is one.
    fn is_report(&mut self, event: &Event, now: Duration) -> Result<bool, End> {
        match event {
            Event::Worker(Body::Checkpoint(report)) => {
                return Ok(!self.hear_of_checkpoint(report.clone(), now)?);
            }
            Event::Worker(Body::Event(worker::Event::Progress {
                doing,
                done,
                total,
                unit,
            })) => {
                self.heard.worker = now;
                self.progress = Some(Activity {
                    doing: doing.clone(),
                    done: *done,
                    total: *total,
                    unit: unit.clone(),
                });
            }
            Event::Worker(Body::Event(worker::Event::Spans(_))) => self.heard.worker = now,
            Event::Writing => self.heard.writer = now,
            Event::Judging => match &mut self.state {
                State::Stepping { step, .. } => step.judging(now),
                State::Evaluating { evaluation, .. } => evaluation.judging(now),
                _ => {}
            },
            Event::Progress(progress) => {
                // The last report may come after the answer.
                if matches!(self.state, State::MakingDataSet(_)) {
                    (self.heard.writer, self.progress) = (now, Some(progress.clone()));
                }
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Takes a report on the checkpoint that is being written. Returns whether the machine has
    /// waited for it.
    fn hear_of_checkpoint(&mut self, report: CheckpointReport, now: Duration) -> Result<bool, End> {
        let heard = match &mut self.pending {
            Some(pending) => pending.hear(report, now),
            None => Err(Event::Worker(Body::Checkpoint(report))),
        };
        heard.map_err(|event| unexpected(&self.describe(), &event))?;
        let is_over = self
            .pending
            .as_ref()
            .is_some_and(PendingCheckpoint::is_over);
        Ok(is_over && matches!(self.state, State::AwaitingCheckpoint { .. }))
    }

    /// Takes an event in a state, and returns the state after it with what is to be done.
    fn transition(&mut self, state: State, event: Event, now: Duration) -> Following {
        match state {
            State::StartingWorker
            | State::Opening(_)
            | State::BeginningStage(_)
            | State::Restoring { .. }
            | State::DroppingCheckpoint { .. }
            | State::Rebuilding { .. } => self.loading(state, event, now),
            State::Recalling { .. }
            | State::Stepping { .. }
            | State::Committing { .. }
            | State::SyncingReference { .. } => self.stepping(state, event, now),
            State::Saving { .. }
            | State::AwaitingCheckpoint { .. }
            | State::RecordingCheckpoint { .. }
            | State::Evaluating { .. }
            | State::Comparing { .. }
            | State::RecordingEval { .. } => self.between_steps(state, event, now),
            State::MakingDataSet(_)
            | State::FinishingStage(_)
            | State::Exporting
            | State::Ended => self.finishing(state, event),
        }
    }

    fn unexpected(&self, state: &State, event: &Event) -> End {
        unexpected(&describe(state, &self.plan, &self.record), event)
    }

    /// A failure with what the plan counts of the stage's memory, if that has run out.
    fn with_plan(&self, failure: Failure) -> Failure {
        let stage = self.stage().and_then(|index| self.plan.stages.get(index));
        match stage.filter(|_| failure.kind == FailureKind::OutOfMemory) {
            Some(stage) if !stage.memory.is_empty() => {
                let counted = stage.memory_in_words();
                Failure {
                    message: format!("{}; the plan counts {counted}", failure.message),
                    ..failure
                }
            }
            _ => failure,
        }
    }

    /// Whether a step is under way: one of which at least a part would have to be redone if the
    /// attempt stopped now.
    pub fn is_in_step(&self) -> bool {
        matches!(
            self.state,
            State::Stepping { .. } | State::Committing { .. }
        )
    }

    /// The index of the stage at work; `None` when all are finished.
    pub fn stage(&self) -> Option<usize> {
        self.record.stage_at_work(self.plan.job.stages.len())
    }

    /// The state in words, as in the job's log.
    pub fn describe(&self) -> String {
        describe(&self.state, &self.plan, &self.record)
    }
}
