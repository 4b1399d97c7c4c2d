//! What a job's state machine knows from the start: the job, and what was read of its files.

use crate::message::Source;
use r1d_job::{AskedModel, Grpo, Job, Reward, Rollouts, Stage};
use r1d_proto::worker::{ModelSource, Open, ValueModel};
use std::path::PathBuf;
use std::time::Duration;

#[derive(Clone, Debug)]
pub struct Plan {
    pub job: Job,
    /// One per model of the job ([`Job::models`]).
    pub models: Vec<ModelPlan>,
    /// What the worker is called in waits: `worker cpu`.
    pub worker: String,
    /// One per stage of the job.
    pub stages: Vec<StageInputs>,
    /// One per evaluation of the job ([`Job::evaluations`]).
    pub evals: Vec<EvalInputs>,
    /// Checkpoints are `<checkpoints>/<stage>/step-<N>`.
    pub checkpoints: PathBuf,
    /// The job's last weights as a Hugging Face directory.
    pub final_dir: PathBuf,
    pub limits: Limits,
}

#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// What "base" names.
    pub base: ModelSource,
    /// Ids that end a completion.
    pub stop_ids: Vec<u32>,
    /// Tokens of the evaluations' longest prompt.
    pub eval_prompt_max: u32,
}

#[derive(Clone, Debug, Default)]
pub struct StageInputs {
    pub steps: u64,
    /// It reads what a stage before keeps, and that was not there when the inputs were opened,
    /// or it is to be taken over from another job: the inputs have to be opened anew, and the
    /// plan made of them, before the stage begins.
    pub later: bool,
    /// Tokens of the longest prompt; 0 where nothing is sampled.
    pub prompt_max: u32,
    /// In the order of the stage's rewards.
    pub rewards: Vec<DeclaredScores>,
}

#[derive(Clone, Debug, Default)]
pub struct EvalInputs {
    /// Rows that are sampled.
    pub rows: u64,
    /// What judges: the job's [`Job::eval_rewards`].
    pub judges: Vec<Reward>,
    pub rewards: Vec<DeclaredScores>,
}

/// What a plugin declared of its scores.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeclaredScores {
    pub min: f32,
    pub max: f32,
    /// It judges all samples of a prompt together.
    pub of_groups: bool,
    /// It asks a model first.
    pub asks: bool,
}

/// Longest waits, each for one kind of answer (`LIM-1`).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// From the start of the worker's process to its first word.
    pub worker_start: Duration,
    /// Between two words of a worker at work. It speaks every 2 s, but not while one tensor
    /// operation runs.
    pub worker_silence: Duration,
    /// Reading rows or the journal.
    pub read: Duration,
    /// One journal, ledger or file write.
    pub store: Duration,
    /// Between two verdicts, once nothing else is awaited, while some of the job's completions are
    /// being judged.
    pub score: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            worker_start: Duration::from_secs(120),
            worker_silence: Duration::from_secs(600),
            read: Duration::from_secs(600),
            store: Duration::from_secs(600),
            score: Duration::from_secs(600),
        }
    }
}

impl Plan {
    pub fn stage(&self, index: usize) -> Option<(&Stage, &StageInputs)> {
        Some((self.job.stages.get(index)?, self.stages.get(index)?))
    }

    /// The model of a stage.
    pub fn model(&self, stage: &Stage) -> Option<&ModelPlan> {
        self.models.get(self.job.model_of(stage))
    }

    /// Ids that end a completion.
    pub fn stop_ids(&self, of: Source) -> Vec<u32> {
        let model = match of {
            Source::Stage(index) => self
                .job
                .stages
                .get(index)
                .and_then(|stage| self.model(stage)),
            Source::Eval { model, .. } => self.models.get(model),
        };
        model.map_or_else(Vec::new, |model| model.stop_ids.clone())
    }

    /// The settings of a stage that samples.
    pub fn rollouts(&self, index: usize) -> Option<(&Rollouts, &StageInputs)> {
        let (stage, facts) = self.stage(index)?;
        Some((stage.rollouts()?, facts))
    }

    /// The settings of a stage of reinforcement learning.
    pub fn grpo(&self, index: usize) -> Option<(&Grpo, &StageInputs)> {
        let (stage, facts) = self.stage(index)?;
        Some((stage.grpo()?, facts))
    }

    /// A stage that samples, and learns from what it sampled: its committed steps are rebuilt from
    /// the journal.
    pub fn learns_from_rollouts(&self, index: usize) -> bool {
        self.stage(index)
            .is_some_and(|(stage, _)| stage.trains() && stage.rollouts().is_some())
    }

    /// Whether the stage trains with the experts that its completions were sampled with.
    pub fn replays_routing(&self, index: usize) -> bool {
        self.stage(index).is_some_and(|(stage, _)| {
            stage.grpo().is_some_and(|grpo| grpo.routing_replay)
                || stage.ppo().is_some_and(|ppo| ppo.routing_replay)
        })
    }

    pub fn checkpoint_dir(&self, stage: &Stage, step: u64) -> PathBuf {
        self.checkpoints
            .join(&stage.name)
            .join(format!("step-{step}"))
    }

    /// The rewards that judge, and what their plugins declared.
    pub fn rewards(&self, of: Source) -> (&[Reward], &[DeclaredScores]) {
        match of {
            Source::Stage(index) => self
                .rollouts(index)
                .map_or((&[], &[]), |(rollouts, facts)| {
                    (&rollouts.rewards, &facts.rewards)
                }),
            Source::Eval { eval, .. } => self
                .evals
                .get(eval)
                .map_or((&[], &[]), |facts| (&facts.judges, &facts.rewards)),
        }
    }

    /// Completions go to the rewards as whole groups, because one of the rewards judges them so.
    pub fn scores_groups(&self, of: Source) -> bool {
        self.rewards(of).1.iter().any(|facts| facts.of_groups)
    }

    /// The rewards that ask a model, and which one.
    pub fn asking(&self, of: Source) -> impl Iterator<Item = (&Reward, Option<AskedModel>)> {
        let (rewards, facts) = self.rewards(of);
        rewards
            .iter()
            .zip(facts)
            .filter(|(_, facts)| facts.asks)
            .map(|(reward, _)| (reward, self.job.asked(reward)))
    }

    /// Whether all models that an evaluation asks are there while `stage` is at work.
    fn can_ask(&self, eval: usize, stage: usize) -> bool {
        self.asking(Source::Eval { eval, model: 0 })
            .all(|(_, model)| match model {
                Some(AskedModel::Directory(_) | AskedModel::Model(_)) => true,
                Some(AskedModel::Stage(maker)) => maker < stage,
                None => false,
            })
    }

    /// What the worker is to open for a stage that starts from `model`; `value` is what its value
    /// model starts from.
    pub fn open(
        &self,
        stage: &Stage,
        facts: &StageInputs,
        model: ModelSource,
        value: Option<ModelSource>,
    ) -> Open {
        let optimiser = stage.optimiser(facts.steps);
        let value_model = stage
            .ppo()
            .zip(optimiser.clone())
            .map(|(ppo, optimiser)| ValueModel {
                model: value,
                optimiser: r1d_proto::hyperparameters::Optimiser {
                    learning_rate: ppo.value_learning_rate,
                    ..optimiser
                },
            });
        let eval_prompt_max = self.model(stage).map_or(0, |model| model.eval_prompt_max);
        Open {
            model,
            dtype: self.job.model.dtype,
            fp8: self.job.model.fp8 && stage.reward_model().is_none(),
            batch_invariant: self.job.batch_invariant,
            reference: stage.needs_reference(),
            optimiser,
            router: stage.router,
            lora: stage.adapters().cloned(),
            mtp_loss_weight: stage.mtp_loss_weight,
            speculative_decoding: stage.speculative_decoding,
            scores: stage.reward_model().is_some(),
            value_model,
            sampler: self.job.slots(stage, facts.prompt_max, eval_prompt_max),
            max_tokens_per_device: stage.max_tokens_per_device,
            seed: self.job.seed,
        }
    }

    /// Whether the reference is refreshed after `step` committed steps. Not after the last: nobody
    /// would see it.
    pub fn syncs_reference(&self, stage: usize, step: u64) -> bool {
        self.grpo(stage).is_some_and(|(grpo, facts)| {
            grpo.needs_reference()
                && grpo.sync_ref_steps > 0
                && step > 0
                && step < facts.steps
                && step.is_multiple_of(grpo.sync_ref_steps)
        })
    }

    /// Whether a checkpoint is due after `step` committed steps: always after the last, which later
    /// stages start from. Never of weights that the stage does not change.
    pub fn checkpoints_at(&self, stage: usize, step: u64) -> bool {
        let every = self.job.checkpoint.every_steps;
        let due = |facts: &StageInputs| {
            step == facts.steps || (every > 0 && step > 0 && step.is_multiple_of(every))
        };
        self.stage(stage)
            .is_some_and(|(settings, facts)| settings.trains() && due(facts))
    }

    /// Evaluations due after `step` committed steps of a stage, with the stage's name as they are
    /// recorded (`None` for the weights that the job starts from). None of weights that the stage
    /// does not change, unless that is what it is for; none of a reward model, none that asks a
    /// model that is not there yet.
    pub fn evals_at(&self, stage: usize, step: u64) -> Vec<(usize, Option<String>)> {
        let Some((settings, facts)) = self.stage(stage) else {
            return Vec::new();
        };
        let name = Some(settings.name.clone());
        let own = self
            .job
            .evaluation_of(settings)
            .filter(|_| step == 0)
            .map(|index| (index, name.clone()));
        let due = |eval: &r1d_job::Eval| match step {
            0 => (self.job.first_of_own_model() == Some(stage) && eval.at_start).then_some(None),
            _ if !settings.trains() || settings.reward_model().is_some() => None,
            _ => (step == facts.steps || eval.due(&settings.name, step)).then(|| name.clone()),
        };
        let evals = self
            .job
            .evals
            .iter()
            .enumerate()
            .filter(|(i, _)| self.can_ask(*i, stage));
        evals
            .filter_map(|(i, eval)| Some((i, due(eval)?)))
            .chain(own)
            .collect()
    }
}
