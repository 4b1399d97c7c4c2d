//! What lies between two steps, and behind the last one: checkpoints, evaluations, the stage's end.

use super::ends::failed;
use super::show::describe;
use super::{Following, Machine, State, to_worker};
use crate::evaluation::Evaluation;
use crate::message::{Command, End, Event, Recalled, Source, Store};
use crate::pending_checkpoint::PendingCheckpoint;
use crate::reward_model_eval::{Compared, RewardModelEval};
use r1d_proto::control::job::EvalResult;
use r1d_proto::worker::{Body, Reply, WorkerRequest};
use std::path::PathBuf;
use std::time::Duration;

impl Machine {
    /// Does what is due between two steps: checkpoints and evaluations.
    pub(super) fn between_steps(&mut self, state: State, event: Event, now: Duration) -> Following {
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
    pub(super) fn finishing(&mut self, state: State, event: Event) -> Following {
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

    /// Decides what comes between two steps: everything that is due and not on record, one after
    /// the other; then the next step, or the stage's end.
    pub(super) fn boundary(&mut self, stage: usize, now: Duration) -> Following {
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
    pub(super) fn evaluate(&self, stage: usize, step: u64, now: Duration) -> Option<Following> {
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
    pub(super) fn save(
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
    pub(super) fn record_pending(&mut self) -> Option<Following> {
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

    /// Notes the new checkpoint, and deletes the oldest ones of its stage that exceed the limit.
    pub(super) fn prune(&mut self, stage: usize, step: u64, dir: PathBuf) -> Vec<Command> {
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

    pub(super) fn record_eval(
        &mut self,
        stage: usize,
        result: EvalResult,
    ) -> (State, Vec<Command>) {
        let recorded = (result.stage.clone(), result.step, result.data.clone());
        (
            State::RecordingEval { stage, recorded },
            vec![Command::Store(Store::Eval(Box::new(result)))],
        )
    }

    pub(super) fn export(&mut self) -> (State, Vec<Command>) {
        (
            State::Exporting,
            to_worker(WorkerRequest::Export {
                dir: self.plan.final_dir.clone(),
            }),
        )
    }
}
