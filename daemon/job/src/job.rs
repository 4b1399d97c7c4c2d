//! The job as the daemon runs it: every default filled in, every path absolute.

use crate::checkpoint::Checkpoint;
use crate::data::DataSource;
use crate::eval::Eval;
use crate::file::Tabled;
use crate::file::setting::written;
use crate::file::write;
use crate::model::{Model, Weights};
use crate::parallel::Parallel;
use crate::reward::{AskedModel, ModelRef, Reward, plugin_stem};
use crate::sampler::{EVAL_TOKENS_MAX, SLOTS_MAX, Sampler};
use crate::stage::{Origin, Sft, Stage, Tokenize};
use r1d_job_macros::{Keys, Read, Write};
use r1d_proto::worker::{Slots, slot_tokens};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// A job: models, data sets, stages in order, evaluations and checkpoints.
#[derive(Clone, Debug, PartialEq, Keys, Read, Write)]
#[settings(
    path = "",
    meaning = "One run of the recipe: a model, data, stages in order, and what is kept."
)]
pub struct Job {
    /// Name in lists and directories.
    #[key(
        takes = Name,
        required = "write name = \"my-job\" at the top of the file",
        meaning = "What lists and directories call the job."
    )]
    pub name: String,
    /// Seed that everything random is a function of: initial weights, the order of rows, each
    /// sampled token, the split into minibatches.
    #[key(
        default = 42,
        meaning = "Everything random is a function of it: initial weights, the order of rows, \
                   each sampled token, the split into minibatches."
    )]
    pub seed: u64,
    /// Jobs of a higher priority run first; FIFO within a priority.
    #[key(
        takes = integer(-1000, 1000),
        default = 0,
        meaning = "Of the jobs that wait, the one with the highest runs first; jobs of one \
                   priority run in the order in which they came."
    )]
    pub priority: i32,
    /// The day that chat templates get as today's, `YYYY-MM-DD`; `None` until the job is submitted.
    #[key(
        takes = Date,
        unset = "the day (UTC) on which the job is submitted, which is recorded with it",
        meaning = "The day that a chat template is told when it asks for today's \
                   (`strftime_now`), at midnight: however often a job is taken up, its prompts \
                   are the same."
    )]
    pub date: Option<String>,
    /// Whether the job runs in the reference mode: equal bits whatever the batch, slot or order.
    #[key(
        default = false,
        meaning = "The reference mode: a completion is the same bits whatever the batch, slot or \
                   order, and trainer and sampler agree to the last bit. float32 on the CPU; \
                   slower."
    )]
    pub batch_invariant: bool,
    /// The job's own model, which "base" names.
    #[key(
        required = "add a table [model] with `path`, or with `init` and `tokenizer`",
        meaning = "The job's own model: the weights that its first stage starts from."
    )]
    pub model: Model,
    /// Further models, by name.
    #[key(
        meaning = "Further models by name, which stages name by `model`: students, for one. Their \
                   dtype and fp8 are [model]'s."
    )]
    pub models: BTreeMap<String, Weights>,
    /// How the job is spread over devices.
    #[key(
        unset = "the job takes one device",
        or = Parallel::ONE,
        meaning = "How the job is spread over devices."
    )]
    pub parallel: Parallel,
    /// Data sets of the job file, by name.
    #[key(
        required = "add a table [data.train] with a `path`",
        meaning = "Data sets by name."
    )]
    pub data: BTreeMap<String, DataSource>,
    /// Stages in the order in which they run. At least one.
    #[key(
        name = "stage",
        required = "add a [[stage]] with `name`, `kind` and `data`",
        meaning = "The stages, in the order in which they run."
    )]
    pub stages: Vec<Stage>,
    /// Size of the sampler.
    #[key(meaning = "How completions are sampled, in every stage and evaluation.")]
    pub sampler: Sampler,
    /// When checkpoints are written, how many are kept, and where.
    #[key(meaning = "What is written so that a killed job goes on.")]
    pub checkpoint: Checkpoint,
    /// Evaluations of `[[eval]]`; see [`Job::evaluations`] for those of stages too.
    #[key(
        name = "eval",
        default = [],
        meaning = "Evaluations on held-out data: of the weights that the job starts from, inside \
                   stages, and after each stage."
    )]
    pub evals: Vec<Eval>,
}

impl Job {
    /// Writes the job file that parses to this job: every default filled in, keys in the order of
    /// the reference, the same bytes each time.
    pub fn to_toml(&self) -> String {
        write::text(&written(self), Job::table())
    }

    /// The stage of this name; `None` if there is none.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The job's own model, then those of `[models.NAME]` in the order of their names. Elsewhere a
    /// model is its index here.
    pub fn models(&self) -> impl Iterator<Item = &Weights> {
        std::iter::once(&self.model.weights).chain(self.models.values())
    }

    /// The model that a stage trains or samples, as an index into [`Job::models`].
    pub fn model_of(&self, stage: &Stage) -> usize {
        let named = stage
            .model
            .as_ref()
            .and_then(|model| self.models.keys().position(|name| name == model));
        named.map_or(0, |index| index + 1)
    }

    /// Whether a model's own weights are read only as the beginning of reward models: no stage or
    /// judge generates with them.
    pub fn only_starts_reward_models(&self, model: usize) -> bool {
        let mut stages = self
            .stages
            .iter()
            .filter(|stage| self.model_of(stage) == model)
            .peekable();
        let is_asked = || {
            let rewards = self
                .stages
                .iter()
                .filter_map(Stage::rollouts)
                .flat_map(|rollouts| rollouts.rewards.clone());
            let evals = self.evaluations().flat_map(|eval| self.eval_rewards(eval));
            rewards
                .chain(evals)
                .any(|reward| self.asked(&reward) == Some(AskedModel::Model(model)))
        };
        stages.peek().is_some() && stages.all(|stage| stage.reward_model().is_some()) && !is_asked()
    }

    /// Index of the stage before which `at_start` evaluates the job's own model: the first stage
    /// that has it as a policy.
    pub fn first_of_own_model(&self) -> Option<usize> {
        self.stages
            .iter()
            .position(|stage| stage.model.is_none() && stage.reward_model().is_none())
    }

    /// Index of the stage whose final weights `stage` starts from; `None` for its model's own
    /// weights. A stage that trains nothing passes on the weights that it started from.
    pub fn origin(&self, stage: &Stage) -> Option<usize> {
        let mut from = &stage.from;
        // Each origin comes before the stage that names it, which validation makes sure of, so this
        // many rounds reach the first.
        for _ in 0..self.stages.len() {
            let Origin::Stage(name) = from else {
                return None;
            };
            let index = self.stages.iter().position(|s| &s.name == name)?;
            match self.stages.get(index) {
                Some(origin) if !origin.trains() => from = &origin.from,
                _ => return Some(index),
            }
        }
        None
    }

    /// The rejection-sampling stage whose kept completions are the data set `name`; `None` if
    /// `name` is no such stage.
    pub fn maker(&self, name: &str) -> Option<&Stage> {
        self.stage(name)
            .filter(|stage| stage.rejection_sampling().is_some())
    }

    /// The data set `name`: one of the job file, or one that a rejection-sampling stage makes. The
    /// latter is a file `<stage>.jsonl` whose columns are named as the keys, with the template of
    /// the prompts that the stage read.
    pub fn source(&self, name: &str) -> Option<Cow<'_, DataSource>> {
        if let Some(source) = self.data.get(name) {
            return Some(Cow::Borrowed(source));
        }
        let maker = self.maker(name)?;
        let prompts = self.data.get(self.prompts_of(name)?)?;
        let column = |name: &str, there: bool| there.then(|| name.to_string());
        Some(Cow::Owned(DataSource {
            prompt: column("prompt", true),
            completion: column("completion", true),
            reference: column("reference", prompts.reference.is_some()),
            domain: column("domain", prompts.domain.is_some()),
            tools: column("tools", prompts.tools.is_some()),
            template: prompts.template.clone(),
            chat_template_kwargs: prompts.chat_template_kwargs.clone(),
            max_prompt_length: prompts.max_prompt_length,
            ..DataSource::new(name, format!("{}.jsonl", maker.name))
        }))
    }

    /// How a stage that learns completions tokenises those of the data set `name`: as the stage's
    /// settings say, else apart for completions that the stage's own model sampled, else together.
    pub fn tokenize(&self, stage: &Stage, sft: &Sft, name: &str) -> Tokenize {
        let own = self
            .maker(name)
            .filter(|maker| maker.model == stage.model)
            .map(|_| Tokenize::Apart);
        sft.tokenize.or(own).unwrap_or(Tokenize::Together)
    }

    /// Name of the data set of the job file that the prompts of `name` come from, however many
    /// stages they went through.
    pub fn prompts_of<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        let mut name = name;
        for _ in 0..=self.stages.len() {
            if self.data.contains_key(name) {
                return Some(name);
            }
            name = &self.maker(name)?.data;
        }
        None
    }

    /// All evaluations: those of `[[eval]]`, then those of `eval` stages. Elsewhere an evaluation
    /// is its index here.
    pub fn evaluations(&self) -> impl Iterator<Item = &Eval> {
        self.evals
            .iter()
            .chain(self.stages.iter().filter_map(Stage::evaluation))
    }

    /// Index into [`Job::evaluations`] of an `eval` stage's evaluation; `None` for other stages.
    pub fn evaluation_of(&self, stage: &Stage) -> Option<usize> {
        let before = self
            .stages
            .iter()
            .filter(|stage| stage.evaluation().is_some());
        Some(
            self.evals.len()
                + before
                    .take_while(|before| before.name != stage.name)
                    .count(),
        )
        .filter(|_| stage.evaluation().is_some())
    }

    /// Index of the reward-model stage of this name.
    pub fn reward_model(&self, name: &str) -> Option<usize> {
        self.stages
            .iter()
            .position(|stage| stage.name == name && stage.reward_model().is_some())
    }

    /// The model that a reward asks, if its plugin asks one: the one that its `model` names, else
    /// the reward-model stage with the plugin's name. `None` if there is no such model.
    pub fn asked(&self, reward: &Reward) -> Option<AskedModel> {
        match &reward.model {
            None => self
                .reward_model(&plugin_stem(&reward.plugin.to_string()))
                .map(AskedModel::Stage),
            Some(ModelRef::Directory(dir)) => Some(AskedModel::Directory(dir.clone())),
            Some(ModelRef::Named(name)) => {
                let stage = self
                    .stages
                    .iter()
                    .position(|stage| &stage.name == name)
                    .map(AskedModel::Stage);
                let model = || {
                    self.models
                        .keys()
                        .position(|model| model == name)
                        .map(|index| AskedModel::Model(index + 1))
                };
                stage.or_else(model)
            }
        }
    }

    /// The rewards that an evaluation scores with: rewards of the job's stages by name, else
    /// plugins by name with their defaults.
    pub fn eval_rewards(&self, eval: &Eval) -> Vec<Reward> {
        let defined = |name: &String| {
            let mut rewards = self
                .stages
                .iter()
                .filter_map(Stage::rollouts)
                .flat_map(|rollouts| &rollouts.rewards);
            rewards.find(|reward| &reward.name == name).cloned()
        };
        eval.rewards
            .iter()
            .map(|name| defined(name).unwrap_or_else(|| Reward::of_plugin(name)))
            .collect()
    }

    /// Whether a stage's policy writes completions, be it for an evaluation alone.
    pub(crate) fn samples(&self, stage: &Stage) -> bool {
        let for_itself = stage.rollouts().is_some() || stage.evaluation().is_some();
        stage.reward_model().is_none() && (for_itself || !self.evals.is_empty())
    }

    /// Size of a stage's sampler: what its own steps need, so that a long evaluation decodes fewer
    /// completions at a time instead of taking the memory of training, and no more than `fitting`
    /// tokens unless the job file asks for more ([`fitting_tokens`]), but at least one completion
    /// of any evaluation. `None` if neither the stage nor an evaluation samples. All lengths are in
    /// tokens.
    ///
    /// [`fitting_tokens`]: crate::plan::fitting_tokens
    pub fn slots(
        &self,
        stage: &Stage,
        prompt_max: u32,
        eval_prompt_max: u32,
        fitting: Option<u64>,
    ) -> Option<Slots> {
        if !self.samples(stage) {
            return None;
        }
        let evals = || self.evals.iter().chain(stage.evaluation());
        let count = if self.sampler.slots > 0 {
            self.sampler.slots
        } else {
            SLOTS_MAX
        };
        let eval = evals()
            .map(|e| slot_tokens(u64::from(eval_prompt_max) + u64::from(e.max_completion_length)))
            .max()
            .unwrap_or(0);
        let (longest, needed) = match stage.rollouts() {
            Some(rollouts) => {
                let own =
                    slot_tokens(u64::from(prompt_max) + u64::from(rollouts.longest_completion()));
                let samples = rollouts
                    .prompts_per_step
                    .saturating_mul(rollouts.num_generations);
                (own.max(eval), own * u64::from(count.min(samples)))
            }
            None if self.sampler.slots > 0 => (eval, eval * u64::from(count)),
            None => (eval, (eval * u64::from(count)).min(EVAL_TOKENS_MAX)),
        };
        let tokens = if self.sampler.tokens > 0 {
            self.sampler.tokens.into()
        } else {
            needed.min(fitting.unwrap_or(u64::MAX))
        };
        Some(Slots {
            count,
            tokens: tokens.max(longest),
        })
    }
}
