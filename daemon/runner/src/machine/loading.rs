//! From a fresh worker to the last committed step: the model, its checkpoint, the steps since.

use super::ends::not_returned;
use super::{Following, Machine, OpenedFor, State, to_worker};
use crate::judge_queue::JudgeModels;
use crate::message::{Command, End, Event, Source, Store};
use crate::rebuild::Rebuild;
use crate::record::StageRecord;
use r1d_job::AskedModel;
use r1d_proto::worker::{Body, Failure, FailureKind, ModelSource, Reply, WorkerRequest};
use std::time::Duration;

impl Machine {
    /// Goes from a fresh worker to the last committed step: model, checkpoint, rebuilt steps.
    pub(super) fn loading(&mut self, state: State, event: Event, now: Duration) -> Following {
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

    /// Opens the weights that the stage at work starts from, or the last weights when all stages
    /// are done.
    pub(super) fn open(&mut self) -> Following {
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
    pub(super) fn made_by(&self, stage: usize) -> Result<ModelSource, End> {
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
    pub(super) fn judge_models(&self, of: Source) -> Result<JudgeModels, End> {
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

    pub(super) fn restore(&mut self, stage: usize, now: Duration) -> Following {
        match self.record.newest_checkpoint(stage) {
            Some((step, dir)) => {
                let request = WorkerRequest::Restore { dir: dir.clone() };
                Ok((State::Restoring { stage, step: *step }, to_worker(request)))
            }
            None => self.rebuild(stage, 0, now),
        }
    }

    /// Falls back to the checkpoint before a damaged one; any other failure ends the attempt.
    pub(super) fn not_restored(&mut self, stage: usize, step: u64, failure: Failure) -> Following {
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
    pub(super) fn rebuild(&mut self, stage: usize, step: u64, now: Duration) -> Following {
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
}

pub(super) fn nobody(reward: &str) -> End {
    End::Failed {
        error: format!("reward `{reward}` asks a model that is not in the job"),
    }
}
