//! What a job's state machine knows from the start: the job, and facts from its files.

use crate::message::Source;
use r1d_job::{AskedModel, Grpo, Job, Reward, Rollouts, Stage};
use r1d_proto::worker::{ModelSource, Open, Place, Transport, ValueModel};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

/// The share of a worker's silence that a rank may wait for the others in a collective call.
const COLLECTIVE_SHARE: f64 = 0.75;

/// A job with the facts from its files that the machine decides by.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The job, with all its settings.
    pub job: Job,
    /// One entry per model of the job ([`Job::models`]).
    pub models: Vec<ModelPlan>,
    /// Name of the worker in waits, for example `worker cpu`.
    pub worker: String,
    /// One entry per stage of the job.
    pub stages: Vec<StageInputs>,
    /// One entry per evaluation of the job ([`Job::evaluations`]).
    pub evals: Vec<EvalInputs>,
    /// Directory of the checkpoints, each at `<checkpoints>/<stage>/step-<N>`.
    pub checkpoints: PathBuf,
    /// Hugging Face directory that the job's last weights are exported to.
    pub final_dir: PathBuf,
    /// Longest waits.
    pub limits: Limits,
}

/// Facts about a model of the job.
#[derive(Clone, Debug)]
pub struct ModelPlan {
    /// The model's own weights, which "base" names.
    pub base: ModelSource,
    /// Ids that end a completion.
    pub stop_ids: Vec<u32>,
    /// Longest prompt of the evaluations, in tokens.
    pub eval_prompt_max: u32,
}

/// Facts about a stage's data and rewards.
#[derive(Clone, Debug, Default)]
pub struct StageInputs {
    /// Steps that the stage has.
    pub steps: u64,
    /// Whether the inputs have to be opened anew, and the plan made of them, before the stage
    /// begins: the stage reads what an earlier one keeps, which was not there when the inputs were
    /// opened, or it is to be taken over from another job.
    pub later: bool,
    /// Longest prompt, in tokens; 0 if the stage samples nothing.
    pub prompt_max: u32,
    /// What the plugins declared, in the order of the stage's rewards.
    pub rewards: Vec<DeclaredScores>,
    /// Tokens that the device's memory has room for in the sampler's cache; `None` if that is not
    /// known.
    pub fitting_tokens: Option<u64>,
    /// Bytes that the plan counts of the device's memory, by holder; empty if that is not known.
    pub memory: BTreeMap<String, u64>,
    /// Most of these bytes at a time.
    pub memory_peak: u64,
}

impl StageInputs {
    /// The plan's count of the device's memory, for a person whose job has run out of it.
    pub(crate) fn memory_in_words(&self) -> String {
        let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
        let mut holders: Vec<String> = self
            .memory
            .iter()
            .map(|(holder, &bytes)| format!("{holder} {}", gib(bytes)))
            .collect();
        holders.push(format!("at most {}", gib(self.memory_peak)));
        holders.join(", ")
    }
}

/// Facts about an evaluation's data and rewards.
#[derive(Clone, Debug, Default)]
pub struct EvalInputs {
    /// Number of rows that are sampled.
    pub rows: u64,
    /// Rewards that judge: the job's [`Job::eval_rewards`].
    pub judges: Vec<Reward>,
    /// What their plugins declared, in the order of `judges`.
    pub rewards: Vec<DeclaredScores>,
}

/// What a plugin declared about its scores and how it judges.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeclaredScores {
    /// Lowest score; a fault counts as it unless the job says otherwise.
    pub min: f32,
    /// Highest score.
    pub max: f32,
    /// Whether it judges all samples of a prompt together.
    pub of_groups: bool,
    /// Whether it asks a model before it judges.
    pub asks: bool,
}

/// Longest waits, each for one kind of answer (`LIM-1`).
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Time from the start of the worker's process to its first message.
    pub worker_start: Duration,
    /// Time between two messages of a worker at work. It reports every 2 s, but not while one
    /// tensor operation runs.
    pub worker_silence: Duration,
    /// Time of reading rows or the journal.
    pub read: Duration,
    /// Time of one write of journal, ledger or file.
    pub store: Duration,
    /// Time between two verdicts, once nothing else is awaited, while some of the job's completions
    /// are being judged.
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
    /// The settings and facts of stage `index`; `None` if the job has no such stage.
    pub fn stage(&self, index: usize) -> Option<(&Stage, &StageInputs)> {
        Some((self.job.stages.get(index)?, self.stages.get(index)?))
    }

    /// Facts about the model that a stage trains or samples.
    pub fn model(&self, stage: &Stage) -> Option<&ModelPlan> {
        self.models.get(self.job.model_of(stage))
    }

    /// Ids that end a completion of a stage's or evaluation's model.
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

    /// The rollout settings and facts of stage `index`; `None` if it samples nothing.
    pub fn rollouts(&self, index: usize) -> Option<(&Rollouts, &StageInputs)> {
        let (stage, facts) = self.stage(index)?;
        Some((stage.rollouts()?, facts))
    }

    /// The settings and facts of stage `index`; `None` if it is no grpo stage.
    pub fn grpo(&self, index: usize) -> Option<(&Grpo, &StageInputs)> {
        let (stage, facts) = self.stage(index)?;
        Some((stage.grpo()?, facts))
    }

    /// Whether the stage samples and learns from what it sampled: its committed steps are rebuilt
    /// from the journal.
    pub fn learns_from_rollouts(&self, index: usize) -> bool {
        self.stage(index)
            .is_some_and(|(stage, _)| stage.trains() && stage.rollouts().is_some())
    }

    /// Whether the stage trains with the experts that its completions were sampled with.
    pub fn replays_routing(&self, index: usize) -> bool {
        let replay = self.stage(index).and_then(|(stage, _)| stage.replay());
        replay.is_some_and(|replay| replay.routing_replay)
    }

    /// The directory of the checkpoint that holds `step` steps of a stage.
    pub fn checkpoint_dir(&self, stage: &Stage, step: u64) -> PathBuf {
        self.checkpoints
            .join(&stage.name)
            .join(format!("step-{step}"))
    }

    /// The rewards that judge a stage's or evaluation's completions, and what their plugins
    /// declared.
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

    /// Whether completions go to the rewards as whole groups, because one of the rewards judges
    /// them so.
    pub fn scores_groups(&self, of: Source) -> bool {
        self.rewards(of).1.iter().any(|facts| facts.of_groups)
    }

    /// The rewards that ask a model, each with that model; `None` if the job has no model for it.
    pub fn asking(&self, of: Source) -> impl Iterator<Item = (&Reward, Option<AskedModel>)> {
        let (rewards, facts) = self.rewards(of);
        rewards
            .iter()
            .zip(facts)
            .filter(|(_, facts)| facts.asks)
            .map(|(reward, _)| (reward, self.job.asked(reward)))
    }

    /// Whether all models that an evaluation asks exist while `stage` is at work.
    fn can_ask(&self, eval: usize, stage: usize) -> bool {
        self.asking(Source::Eval { eval, model: 0 })
            .all(|(_, model)| match model {
                Some(AskedModel::Directory(_) | AskedModel::Model(_)) => true,
                Some(AskedModel::Stage(maker)) => maker < stage,
                None => false,
            })
    }

    /// The request that opens a stage's model. `model` holds the weights that the stage starts
    /// from, `value` those that its value model starts from (`None`: a fresh head).
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
            gradient_checkpointing: stage.gradient_checkpointing(),
            reference: stage.needs_reference(),
            optimiser,
            router: stage.router(),
            lora: stage.adapters(),
            mtp_loss_weight: stage.mtp_loss_weight(),
            speculative_decoding: stage.speculative_decoding(),
            scores: stage.reward_model().is_some(),
            value_model,
            sampler: self.job.slots(
                stage,
                facts.prompt_max,
                eval_prompt_max,
                facts.fitting_tokens,
            ),
            max_tokens_per_device: stage.max_tokens_per_device(),
            seed: self.job.seed,
            place: self.place(),
        }
    }

    /// The place of rank 0 in the job's gang; `None` for a job of one worker that needs none.
    fn place(&self) -> Option<Place> {
        let parallel = &self.job.parallel;
        if parallel.devices() <= 1 && !parallel.layout_independent {
            return None;
        }
        // Shorter than the watchdog's, so that a rank which waits in vain can say for whom.
        let within = self.limits.worker_silence.mul_f64(COLLECTIVE_SHARE);
        Some(Place {
            rank: 0,
            data: parallel.data(),
            expert: parallel.expert(),
            transport: parallel.transport.unwrap_or(Transport::Gloo),
            shard: parallel.shard,
            layout_independent: parallel.layout_independent,
            within_ms: u64::try_from(within.as_millis()).unwrap_or(u64::MAX),
        })
    }

    /// Whether the reference is refreshed after `step` committed steps. It is not after the last
    /// step, because no later step would use it.
    pub fn syncs_reference(&self, stage: usize, step: u64) -> bool {
        self.grpo(stage).is_some_and(|(grpo, facts)| {
            grpo.beta > 0.0
                && grpo.sync_ref_steps > 0
                && step > 0
                && step < facts.steps
                && step.is_multiple_of(grpo.sync_ref_steps)
        })
    }

    /// Whether a checkpoint is due after `step` committed steps: always after the last, because
    /// later stages start from it. A stage that does not change its weights never has one due.
    pub fn checkpoints_at(&self, stage: usize, step: u64) -> bool {
        let every = self.job.checkpoint.every_steps;
        let due = |facts: &StageInputs| {
            step == facts.steps || (every > 0 && step > 0 && step.is_multiple_of(every))
        };
        self.stage(stage)
            .is_some_and(|(settings, facts)| settings.trains() && due(facts))
    }

    /// Evaluations due after `step` committed steps of a stage, as indices into
    /// [`Job::evaluations`], each with the stage's name that it is recorded under (`None` for the
    /// weights that the job starts from). Left out are evaluations of weights that the stage does
    /// not change (except an `eval` stage's own), of reward models, and those that ask a model
    /// which does not exist yet.
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
