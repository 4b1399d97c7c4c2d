//! One attempt at a job as a state machine: it decides what the attempt does next. What follows an
//! attempt is decided by the job's life, and which job gets a device by [`crate::schedule`].

use crate::evaluation::Evaluation;
use crate::flow::{Flow, unexpected};
use crate::judge_queue::JudgeModels;
use crate::message::{Command, End, Event, Recalled, Source, Store};
use crate::pending_checkpoint::PendingCheckpoint;
use crate::plan::Plan;
use crate::rebuild::Rebuild;
use crate::record::{Record, StageRecord};
use crate::reward_model_eval::{Compared, RewardModelEval};
use crate::step::Step;
use crate::trace::Tracer;
use crate::wait::{LastHeard, Wait};
use r1d_job::AskedModel;
use r1d_proto::control::job::{Activity, EvalResult};
use r1d_proto::rollout::ScoredRollout;
use r1d_proto::trace::StepTrace;
use r1d_proto::worker::{
    self, Body, CheckpointReport, Failure, FailureKind, Metrics, ModelSource, Reply, WorkerRequest,
};
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

    /// Goes from a fresh worker to the last committed step: model, checkpoint, rebuilt steps.
    fn loading(&mut self, state: State, event: Event, now: Duration) -> Following {
        match (state, event) {
            (State::StartingWorker, Event::WorkerStarted { .. }) => self.open(),
            (State::Opening(work), Event::Worker(Body::Done(Reply::Opened(_)))) => match work {
                OpenedFor::Stage(stage) => Ok((
                    State::BeginningStage(stage),
                    vec![Command::Store(Store::BeginStage { stage })],
                )),
                OpenedFor::Export => Ok(self.export()),
            },
            (State::BeginningStage(stage), Event::Stored) => {
                if self.record.stages.len() == stage {
                    self.record.stages.push(StageRecord::default());
                }
                self.restore(stage, now)
            }
            (State::Restoring { stage, step }, Event::Worker(Body::Done(Reply::Restored))) => {
                self.rebuild(stage, step, now)
            }
            (State::Restoring { stage, step }, Event::Worker(Body::Failed(failure))) => {
                self.not_restored(stage, step, failure)
            }
            (State::DroppingCheckpoint { stage }, Event::Stored) => {
                if let Some(record) = self.record.stages.get_mut(stage) {
                    record.checkpoints.pop();
                }
                self.open()
            }
            (State::Rebuilding { stage, mut rebuild }, event) => {
                match rebuild.handle(&self.plan, event, now)? {
                    Some(commands) => Ok((State::Rebuilding { stage, rebuild }, commands)),
                    None => self.boundary(stage, now),
                }
            }
            (state, event) => Err(self.unexpected(&state, &event)),
        }
    }

    /// Takes a step from what the journal has of it to its commit.
    fn stepping(&mut self, state: State, event: Event, now: Duration) -> Following {
        match (state, event) {
            (State::Recalling { stage }, Event::Recalled(recalled)) => {
                self.step(stage, recalled, now)
            }
            (State::Recalling { stage }, Event::Stored) => {
                self.step(stage, Recalled::default(), now)
            }
            (State::Stepping { stage, mut step }, event) => {
                match step.handle(&self.plan, stage, event, now)? {
                    Flow::Go(commands) => Ok((State::Stepping { stage, step }, commands)),
                    Flow::Done {
                        metrics,
                        tokens,
                        rollouts,
                    } => self.commit(stage, metrics, tokens, rollouts),
                }
            }
            (State::Committing { stage, num_tokens }, Event::Stored) => {
                if let Some(record) = self.record.stages.get_mut(stage) {
                    record.step += 1;
                    record.num_tokens = num_tokens;
                }
                if self
                    .plan
                    .syncs_reference(stage, self.record.committed(stage))
                {
                    Ok((
                        State::SyncingReference { stage },
                        to_worker(WorkerRequest::SyncReference),
                    ))
                } else {
                    self.boundary(stage, now)
                }
            }
            (
                State::SyncingReference { stage },
                Event::Worker(Body::Done(Reply::ReferenceSynced)),
            ) => self.boundary(stage, now),
            (state, event) => Err(self.unexpected(&state, &event)),
        }
    }

    /// Does what is due between two steps: checkpoints and evaluations.
    fn between_steps(&mut self, state: State, event: Event, now: Duration) -> Following {
        match (state, event) {
            (State::Saving { stage, .. }, Event::Worker(Body::Done(Reply::SnapshotTaken)))
            | (State::AwaitingCheckpoint { stage }, Event::Worker(Body::Checkpoint(_))) => {
                self.boundary(stage, now)
            }
            (State::RecordingCheckpoint { stage, step, dir }, Event::Stored) => {
                let mut commands = self.prune(stage, step, dir);
                let (state, more) = self.boundary(stage, now)?;
                commands.extend(more);
                Ok((state, commands))
            }
            (
                State::Evaluating {
                    stage,
                    mut evaluation,
                },
                event,
            ) => match evaluation.handle(&self.plan, event, now)? {
                Ok(result) => Ok(self.record_eval(stage, result)),
                Err(commands) => Ok((State::Evaluating { stage, evaluation }, commands)),
            },
            (
                State::Comparing {
                    stage,
                    mut separation,
                },
                event,
            ) => match separation.handle(&self.plan, event, now)? {
                Compared::Whole { result, warning } => {
                    let (state, mut commands) = self.record_eval(stage, *result);
                    commands.extend(warning.map(Command::Warn));
                    Ok((state, commands))
                }
                Compared::Not(commands) => Ok((State::Comparing { stage, separation }, commands)),
            },
            (State::RecordingEval { stage, recorded }, Event::Stored) => {
                self.record.evals.push(recorded);
                self.boundary(stage, now)
            }
            (state, event) => Err(self.unexpected(&state, &event)),
        }
    }

    /// Ends a stage, and the job.
    fn finishing(&mut self, state: State, event: Event) -> Following {
        match (state, event) {
            (State::MakingDataSet(stage), Event::Stored) => {
                self.progress = None;
                Ok((
                    State::FinishingStage(stage),
                    vec![Command::Store(Store::FinishStage { stage })],
                ))
            }
            (State::FinishingStage(stage), Event::Stored) => {
                if let Some(record) = self.record.stages.get_mut(stage) {
                    record.finished = true;
                }
                if self
                    .plan
                    .stage(stage)
                    .is_some_and(|(settings, _)| settings.is_reviewed())
                {
                    return Err(End::Reread);
                }
                match self.record.stage_at_work(self.plan.job.stages.len()) {
                    Some(_) => self.open(),
                    None => Ok(self.export()),
                }
            }
            (State::Exporting, Event::Worker(Body::Done(Reply::Exported))) => Err(End::Succeeded {
                model: self.plan.final_dir.clone(),
            }),
            (state, event) => Err(self.unexpected(&state, &event)),
        }
    }

    fn unexpected(&self, state: &State, event: &Event) -> End {
        unexpected(&describe(state, &self.plan, &self.record), event)
    }

    /// Opens the weights that the stage at work starts from, or the last weights when all stages
    /// are done.
    fn open(&mut self) -> Following {
        let stages = self.plan.job.stages.len();
        let at_work = self.record.stage_at_work(stages);
        let work = at_work.map_or(OpenedFor::Export, OpenedFor::Stage);
        let stage = at_work.unwrap_or(stages.saturating_sub(1));
        let Some((settings, facts)) = self.plan.stage(stage) else {
            return Err(End::Failed {
                error: "the job has no stage".into(),
            });
        };
        let from = match work {
            OpenedFor::Export if settings.trains() => Some(stage),
            OpenedFor::Stage(_) | OpenedFor::Export => self.plan.job.origin(settings),
        };
        if facts.later && at_work.is_some() {
            return Err(End::Reread);
        }
        let model = match from {
            None => {
                let base = self.plan.model(settings).map(|model| model.base.clone());
                base.ok_or_else(|| End::Failed {
                    error: format!("the model of stage {stage} is not in the job"),
                })?
            }
            Some(origin) => self.made_by(origin)?,
        };
        let value = settings
            .ppo()
            .and_then(|ppo| ppo.value_model.as_deref())
            .and_then(|name| self.plan.job.reward_model(name));
        let value = value.map(|stage| self.made_by(stage)).transpose()?;
        let mut open = self.plan.open(settings, facts, model, value);
        if work == OpenedFor::Export {
            (open.optimiser, open.reference, open.lora, open.value_model) =
                (None, false, None, None);
        }
        Ok((
            State::Opening(work),
            to_worker(WorkerRequest::Open(Box::new(open))),
        ))
    }

    /// The last weights of a finished stage.
    fn made_by(&self, stage: usize) -> Result<ModelSource, End> {
        let (_, dir) = self
            .record
            .newest_checkpoint(stage)
            .ok_or_else(|| End::Failed {
                error: format!(
                    "stage {stage} is finished and has no checkpoint left: resubmit the job"
                ),
            })?;
        Ok(ModelSource::Directory(dir.clone()))
    }

    /// The models that the rewards of a stage or evaluation ask, by the reward's name.
    fn judge_models(&self, of: Source) -> Result<JudgeModels, End> {
        let source = |reward: &str, model: Option<AskedModel>| match model {
            Some(AskedModel::Directory(dir)) => Ok(ModelSource::Directory(dir)),
            Some(AskedModel::Stage(stage)) => self.made_by(stage),
            Some(AskedModel::Model(model)) => self
                .plan
                .models
                .get(model)
                .map(|model| model.base.clone())
                .ok_or_else(|| nobody(reward)),
            None => Err(nobody(reward)),
        };
        self.plan
            .asking(of)
            .map(|(reward, model)| Ok((reward.name.clone(), source(&reward.name, model)?)))
            .collect()
    }

    fn restore(&mut self, stage: usize, now: Duration) -> Following {
        match self.record.newest_checkpoint(stage) {
            Some((step, dir)) => {
                let request = WorkerRequest::Restore { dir: dir.clone() };
                Ok((State::Restoring { stage, step: *step }, to_worker(request)))
            }
            None => self.rebuild(stage, 0, now),
        }
    }

    /// Falls back to the checkpoint before a damaged one; any other failure ends the attempt.
    fn not_restored(&mut self, stage: usize, step: u64, failure: Failure) -> Following {
        let doing = format!("restoring the checkpoint of step {step}");
        if failure.kind != FailureKind::Invalid {
            return Err(not_returned(&doing, failure));
        }
        let warning = format!("{doing}: {}; the one before it is taken", failure.message);
        let drop = Store::DropCheckpoint { stage, step };
        Ok((
            State::DroppingCheckpoint { stage },
            vec![Command::Warn(warning), Command::Store(drop)],
        ))
    }

    /// Trains committed steps again, from weights that hold `step` steps to those that hold all of
    /// them.
    fn rebuild(&mut self, stage: usize, step: u64, now: Duration) -> Following {
        if self
            .plan
            .stage(stage)
            .is_some_and(|(settings, _)| !settings.trains())
        {
            return self.boundary(stage, now);
        }
        match Rebuild::begin(&self.plan, stage, step, self.record.committed(stage), now) {
            Some((rebuild, commands)) => Ok((State::Rebuilding { stage, rebuild }, commands)),
            None => self.boundary(stage, now),
        }
    }

    /// Decides what comes between two steps: everything that is due and not on record, one after
    /// the other; then the next step, or the stage's end.
    fn boundary(&mut self, stage: usize, now: Duration) -> Following {
        if let Some(following) = self.record_pending() {
            return following;
        }
        let Some((settings, facts)) = self.plan.stage(stage) else {
            return Err(End::Failed {
                error: format!("stage {stage} is not in the job"),
            });
        };
        let step = self.record.committed(stage);
        if self.plan.checkpoints_at(stage, step) && !self.record.has_checkpoint(stage, step) {
            let dir = self.plan.checkpoint_dir(settings, step);
            match &self.pending {
                None => return Ok(self.save(stage, step, dir, now)),
                Some(pending) if pending.step != step => {
                    return Ok((State::AwaitingCheckpoint { stage }, Vec::new()));
                }
                Some(_) => {}
            }
        }
        if let Some(evaluating) = self.evaluate(stage, step, now) {
            return evaluating;
        }
        if step == facts.steps
            && let Some(data) = settings.held_out()
            && !self
                .record
                .has_eval(&Some(settings.name.clone()), step, data)
        {
            let (separation, commands) = RewardModelEval::begin(stage, step, now);
            return Ok((
                State::Comparing {
                    stage,
                    separation: Box::new(separation),
                },
                commands,
            ));
        }
        // Whatever comes after the stage may start from its last checkpoint.
        if step == facts.steps && self.pending.is_some() {
            return Ok((State::AwaitingCheckpoint { stage }, Vec::new()));
        }
        if step == facts.steps && settings.rejection_sampling().is_some() {
            self.progress = None;
            return Ok((
                State::MakingDataSet(stage),
                vec![Command::MakeDataSet { stage }],
            ));
        }
        if step == facts.steps {
            return Ok((
                State::FinishingStage(stage),
                vec![Command::Store(Store::FinishStage { stage })],
            ));
        }
        if settings.rollouts().is_some() && std::mem::take(&mut self.leftovers) {
            return Ok((
                State::Recalling { stage },
                vec![Command::Recall { stage, step }],
            ));
        }
        self.step(stage, Recalled::default(), now)
    }

    /// Begins the first evaluation that is due behind a step and not on record; `None` if none is.
    fn evaluate(&self, stage: usize, step: u64, now: Duration) -> Option<Following> {
        let (settings, _) = self.plan.stage(stage)?;
        let is_due = |(index, name): &(usize, Option<String>)| {
            let eval = self.plan.job.evaluations().nth(*index);
            !(self.record).has_eval(name, step, eval.map_or("", |eval| &eval.data))
        };
        let (eval, name) = self.plan.evals_at(stage, step).into_iter().find(is_due)?;
        let model = self.plan.job.model_of(settings);
        let begin = |models| {
            let (evaluation, commands) =
                Evaluation::begin(&self.plan, (eval, model), (name, step), models, now);
            let evaluation = Box::new(evaluation);
            (State::Evaluating { stage, evaluation }, commands)
        };
        Some((self.judge_models(Source::Eval { eval, model })).map(begin))
    }

    /// Has the worker take a snapshot and write it.
    fn save(
        &mut self,
        stage: usize,
        step: u64,
        dir: PathBuf,
        now: Duration,
    ) -> (State, Vec<Command>) {
        self.pending = Some(PendingCheckpoint::new(stage, step, dir.clone(), now));
        let request = WorkerRequest::Save {
            stage: stage as u32,
            step,
            dir,
        };
        (State::Saving { stage, step }, to_worker(request))
    }

    /// Puts the pending checkpoint on record once it is stored, or ends the attempt if it could not
    /// be; `None` while it is written, or if there is none.
    fn record_pending(&mut self) -> Option<Following> {
        let outcome = self.pending.as_ref()?.outcome()?;
        let PendingCheckpoint {
            stage, step, dir, ..
        } = self.pending.take()?;
        let state = State::RecordingCheckpoint { stage, step, dir };
        Some(match outcome {
            Ok(store) => Ok((state, vec![Command::Store(store)])),
            Err(failure) => Err(failed(&describe(&state, &self.plan, &self.record), failure)),
        })
    }

    /// Begins the next step. Completions that an earlier attempt left are the same bits as new ones
    /// only in the batch-invariant mode; otherwise those of an unsealed step are dropped and all
    /// are sampled again. A sealed step goes on to its update in any mode.
    ///
    /// If the ledger is an older copy, the sealed steps behind it go on to their updates too, up to
    /// a gap: completions behind the gap were sampled with other weights.
    fn step(&mut self, stage: usize, recalled: Recalled, now: Duration) -> Following {
        let step = self.record.committed(stage);
        let usable = self.plan.job.batch_invariant || recalled.sealed.is_some();
        let (stale, behind_a_gap) = (
            !usable && !recalled.sampled.is_empty(),
            recalled.later && recalled.sampled.is_empty(),
        );
        if stale || behind_a_gap {
            return Ok((
                State::Recalling { stage },
                vec![Command::Forget { stage, step }],
            ));
        }
        self.leftovers |= recalled.later;
        let models = self.judge_models(Source::Stage(stage))?;
        let (mut begun, commands) = Step::begin(&self.plan, stage, step, recalled, models, now);
        if let Some(Flow::Done {
            metrics,
            tokens,
            rollouts,
        }) = begun.finished_at_once(&self.plan, now)
        {
            return self.commit(stage, metrics, tokens, rollouts);
        }
        Ok((
            State::Stepping {
                stage,
                step: Box::new(begun),
            },
            commands,
        ))
    }

    fn commit(
        &mut self,
        stage: usize,
        mut metrics: Metrics,
        tokens: u64,
        rollouts: Vec<ScoredRollout>,
    ) -> Following {
        let before = self
            .record
            .stages
            .get(stage)
            .map_or(0.0, |record| record.num_tokens);
        let num_tokens = before + tokens as f64;
        metrics.insert("num_tokens".into(), num_tokens);
        let step = self.record.committed(stage);
        let store = Store::Commit {
            stage,
            step,
            metrics,
            rollouts,
        };
        Ok((
            State::Committing { stage, num_tokens },
            vec![Command::Store(store)],
        ))
    }

    /// Notes the new checkpoint, and deletes the oldest ones of its stage that exceed the limit.
    fn prune(&mut self, stage: usize, step: u64, dir: PathBuf) -> Vec<Command> {
        let keep = self.plan.job.checkpoint.keep.max(1) as usize;
        let Some(record) = self.record.stages.get_mut(stage) else {
            return Vec::new();
        };
        record.checkpoints.push((step, dir));
        let surplus = record.checkpoints.len().saturating_sub(keep);
        record
            .checkpoints
            .drain(..surplus)
            .map(|(step, dir)| Command::Prune { stage, step, dir })
            .collect()
    }

    fn record_eval(&mut self, stage: usize, result: EvalResult) -> (State, Vec<Command>) {
        let recorded = (result.stage.clone(), result.step, result.data.clone());
        (
            State::RecordingEval { stage, recorded },
            vec![Command::Store(Store::Eval(Box::new(result)))],
        )
    }

    fn export(&mut self) -> (State, Vec<Command>) {
        (
            State::Exporting,
            to_worker(WorkerRequest::Export {
                dir: self.plan.final_dir.clone(),
            }),
        )
    }

    fn tick(&self, now: Duration) -> Result<(), End> {
        match self.waits().into_iter().find(|wait| wait.is_over(now)) {
            Some(wait) => {
                let waited = now.saturating_sub(wait.since).as_secs();
                let cause = format!(
                    "{} waited {waited} s for {}: past its deadline",
                    wait.owner, wait.waits_for
                );
                Err(if wait.is_workers {
                    End::WorkerFailed { cause }
                } else {
                    End::Abandoned { cause }
                })
            }
            None => Ok(()),
        }
    }

    /// What is awaited, and by which part of the job, outermost first.
    pub fn waits(&self) -> Vec<Wait> {
        let (plan, limits) = (&self.plan, &self.plan.limits);
        let owner = describe(&self.state, plan, &self.record);
        let at_worker = |doing: &str| {
            let what = format!("{}: {doing}", plan.worker);
            vec![
                Wait::new(&owner, what, self.since)
                    .worker_silent(self.heard.worker, limits.worker_silence),
            ]
        };
        let at_store = |what: &str| {
            vec![Wait::new(&owner, what, self.since).silent(self.heard.writer, limits.store)]
        };
        let inner = match &self.state {
            State::StartingWorker => {
                vec![
                    Wait::new(
                        &owner,
                        format!("{}: its first word", plan.worker),
                        self.since,
                    )
                    .of_worker()
                    .until(self.since + limits.worker_start),
                ]
            }
            State::Opening(_) => at_worker("loading"),
            State::Restoring { .. } => at_worker("restoring"),
            State::Rebuilding { rebuild, .. } => rebuild.waits(plan, &owner, self.heard),
            State::Recalling { .. } => {
                vec![
                    Wait::new(&owner, "journal", self.since).silent(self.heard.writer, limits.read),
                ]
            }
            State::Stepping { step, .. } => step.waits(plan, &owner, self.heard),
            State::SyncingReference { .. } => at_worker("copying the policy to the reference"),
            State::Saving { .. } => at_worker("copying the checkpoint"),
            State::AwaitingCheckpoint { .. } => {
                let wait = |pending: &PendingCheckpoint| {
                    pending.wait(&owner, &plan.worker, self.since, limits.worker_silence)
                };
                self.pending.iter().map(wait).collect()
            }
            State::Evaluating { evaluation, .. } => evaluation.waits(plan, &owner, self.heard),
            State::Comparing { separation, .. } => separation.waits(plan, &owner, self.heard),
            State::Exporting => at_worker("exporting"),
            // The writing may take any time, but it is never silent for long.
            State::MakingDataSet(_) => {
                let far = self.progress.as_ref().map_or(String::new(), |at| {
                    format!(" ({} of {} {})", at.done, at.total, at.unit)
                });
                vec![
                    Wait::new(&owner, format!("data set: being written{far}"), self.since)
                        .silent(self.heard.writer, limits.store),
                ]
            }
            State::Committing { .. } => at_store("rollout file and ledger"),
            State::BeginningStage(_)
            | State::DroppingCheckpoint { .. }
            | State::RecordingCheckpoint { .. }
            | State::RecordingEval { .. }
            | State::FinishingStage(_) => at_store("ledger"),
            State::Ended => Vec::new(),
        };
        let outer = inner
            .iter()
            .map(|wait| wait.since)
            .min()
            .map(|since| Wait::new("job", &owner, since.min(self.since)));
        outer.into_iter().chain(inner).collect()
    }

    /// What the job does now, for status.
    pub fn activity(&self) -> Activity {
        if let (State::AwaitingCheckpoint { .. }, Some(pending)) = (&self.state, &self.pending) {
            return pending.activity();
        }
        let (own, busy) = match &self.state {
            State::Stepping { step, .. } => (step.activity(), step.worker_is_busy()),
            State::Evaluating { evaluation, .. } => {
                (evaluation.activity(), evaluation.worker_is_busy())
            }
            State::Comparing { separation, .. } => {
                (separation.activity(), separation.worker_is_busy())
            }
            State::Rebuilding { rebuild, .. } => (rebuild.activity(), false),
            state => {
                let doing = match state {
                    State::Saving { .. } | State::RecordingCheckpoint { .. } => "checkpointing",
                    State::Exporting => "exporting",
                    State::Committing { .. } | State::SyncingReference { .. } => "training",
                    State::MakingDataSet(_) => "writing the data set",
                    State::FinishingStage(_) | State::RecordingEval { .. } => "recording",
                    _ => "loading",
                };
                (
                    Activity {
                        doing: doing.into(),
                        done: 0,
                        total: 1,
                        unit: "models".into(),
                    },
                    true,
                )
            }
        };
        match &self.progress {
            // The worker's own reports are finer, but it calls evaluating sampling.
            Some(progress) if busy => match own.doing.as_str() {
                "evaluating" => Activity {
                    doing: own.doing,
                    ..progress.clone()
                },
                _ => progress.clone(),
            },
            _ => own,
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

fn nobody(reward: &str) -> End {
    End::Failed {
        error: format!("reward `{reward}` asks a model that is not in the job"),
    }
}

/// How an attempt ends when the weights of a job cannot be brought back to where they were. There
/// was room for them before, so memory that is missing now is left for a fresh worker to find.
fn not_returned(doing: &str, failure: Failure) -> End {
    match failed(doing, failure.clone()) {
        End::Failed { error: cause } if failure.kind == FailureKind::OutOfMemory => {
            End::Abandoned { cause }
        }
        end => end,
    }
}

/// How an attempt ends after a failed request.
fn failed(doing: &str, failure: Failure) -> End {
    let message = failure.message;
    let error = match failure.kind {
        FailureKind::Internal => {
            return End::WorkerFailed {
                cause: format!("{doing}: {message}"),
            };
        }
        FailureKind::Invalid => format!("{doing}: {message}"),
        FailureKind::Storage => {
            return End::Away {
                cause: format!("{doing}: {message}: make room on that file system, or see to it"),
            };
        }
        FailureKind::OutOfMemory => format!(
            "{doing}: the device ran out of memory ({message}): lower max_tokens_per_device, \
             sampler.slots or max_completion_length"
        ),
    };
    End::Failed { error }
}

/// The state in words, in which owners of waits and reasons in the log are named.
fn describe(state: &State, plan: &Plan, record: &Record) -> String {
    let stage = |index: usize| {
        plan.job
            .stages
            .get(index)
            .map_or("?", |stage| stage.name.as_str())
    };
    let place = |index: usize| {
        let steps = plan.stages.get(index).map_or(0, |facts| facts.steps);
        format!(
            "stage `{}` step {} of {steps}",
            stage(index),
            record.committed(index) + 1
        )
    };
    match state {
        State::StartingWorker => "starting the worker".into(),
        State::Opening(OpenedFor::Stage(index)) => {
            format!("opening the model for stage `{}`", stage(*index))
        }
        State::Opening(OpenedFor::Export) => "opening the last checkpoint".into(),
        State::BeginningStage(index) => format!("beginning stage `{}`", stage(*index)),
        State::Restoring { stage: index, step } => {
            format!(
                "restoring stage `{}` from its checkpoint of step {step}",
                stage(*index)
            )
        }
        State::DroppingCheckpoint { stage: index } => {
            format!("dropping a damaged checkpoint of stage `{}`", stage(*index))
        }
        State::Rebuilding { stage: index, .. } => {
            format!(
                "rebuilding stage `{}` up to its {} committed steps",
                stage(*index),
                record.committed(*index)
            )
        }
        State::Recalling { stage: index } => format!("{}: looking for leftovers", place(*index)),
        State::Stepping { stage: index, .. } => place(*index),
        State::Committing { stage: index, .. } => format!("{}: committing", place(*index)),
        State::SyncingReference { stage: index } => {
            format!("refreshing the reference of stage `{}`", stage(*index))
        }
        State::AwaitingCheckpoint { stage: index } => {
            format!(
                "stage `{}` after {} steps: waiting for the last checkpoint",
                stage(*index),
                record.committed(*index)
            )
        }
        State::Saving { stage: index, step }
        | State::RecordingCheckpoint {
            stage: index, step, ..
        } => {
            format!("checkpoint of stage `{}` after {step} steps", stage(*index))
        }
        State::Evaluating { stage: index, .. }
        | State::Comparing { stage: index, .. }
        | State::RecordingEval { stage: index, .. } => {
            format!(
                "evaluation in stage `{}` after {} steps",
                stage(*index),
                record.committed(*index)
            )
        }
        State::MakingDataSet(index) => format!("making the data set of stage `{}`", stage(*index)),
        State::FinishingStage(index) => format!("finishing stage `{}`", stage(*index)),
        State::Exporting => "exporting the final model".into(),
        State::Ended => "ended".into(),
    }
}
