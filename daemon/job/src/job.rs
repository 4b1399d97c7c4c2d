//! The job as the daemon runs it: every default filled in, every path absolute.

use crate::daemon::DaemonConfig;
use crate::error::JobError;
use crate::eval::Eval;
use crate::fields::ResolvedTable;
use crate::file::absolute;
use crate::file::{Key, Keys, Table, Tabled, check};
use crate::job_keys::JOB;
use crate::limits::JOB_MAX_BYTES;
use crate::plan::InputFacts;
use crate::reward::{AskedModel, ModelRef, Reward, plugin_stem};
use crate::stage::{Origin, Sft, Stage, Tokenize};
use crate::{size, validate};
use r1d_proto::worker::{Dtype, Slots, slot_tokens};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A job: models, data sets, stages in order, evaluations and checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Name in lists and directories.
    pub name: String,
    /// Seed that everything random is a function of: initial weights, the order of rows, each
    /// sampled token, the split into minibatches.
    pub seed: u64,
    /// Jobs of a higher priority run first; FIFO within a priority.
    pub priority: i32,
    /// The day that chat templates get as today's, `YYYY-MM-DD`; `None` until the job is submitted.
    pub date: Option<String>,
    /// Whether the job runs in the reference mode: equal bits whatever the batch, slot or order.
    pub batch_invariant: bool,
    /// The job's own model, which "base" names.
    pub model: Model,
    /// Further models, by name.
    pub models: BTreeMap<String, Weights>,
    /// Data sets of the job file, by name.
    pub data: BTreeMap<String, DataSource>,
    /// Stages in the order in which they run. At least one.
    pub stages: Vec<Stage>,
    /// Size of the sampler.
    pub sampler: Sampler,
    /// When checkpoints are written, how many are kept, and where.
    pub checkpoint: Checkpoint,
    /// Evaluations of `[[eval]]`; see [`Job::evaluations`] for those of stages too.
    pub evals: Vec<Eval>,
}

/// The job's own model, and the precision of all its models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// Source of the initial weights.
    pub weights: Weights,
    /// Data type of weights and activations.
    pub dtype: Dtype,
    /// Whether linear layers multiply in FP8 in forward passes.
    pub fp8: bool,
}

/// A model's own weights, before any stage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weights {
    /// The weights in a Hugging Face directory.
    Directory(PathBuf),
    /// Random weights by the job's seed.
    Init {
        /// Path of a `config.json`.
        config: PathBuf,
        /// Path of a `tokenizer.json`, or of a directory that holds one.
        tokenizer: PathBuf,
    },
}

impl Weights {
    /// Path of the tokenizer: the model's directory, or a directory or `tokenizer.json` of its own.
    pub fn tokenizer(&self) -> &Path {
        match self {
            Weights::Directory(path) => path,
            Weights::Init { tokenizer, .. } => tokenizer,
        }
    }

    /// The Hugging Face directory; `None` for random weights.
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Weights::Directory(path) => Some(path),
            Weights::Init { .. } => None,
        }
    }

    /// Path of the model's `config.json`.
    pub fn config(&self) -> PathBuf {
        match self {
            Weights::Directory(path) => path.join("config.json"),
            Weights::Init { config, .. } => config.clone(),
        }
    }
}

/// A data set. A column that is `Some` must be in every row; the columns that a job's stages need
/// are `Some`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataSource {
    /// Name by which stages and evaluations read it.
    pub name: String,
    /// Path of a JSON or Parquet file, by extension; a glob takes every file that matches, sorted
    /// by name.
    pub path: PathBuf,
    /// Column of whole conversations, which stand for prompt and completion. `None`: rows without a
    /// prompt's column may still have a column `messages`.
    pub messages: Option<String>,
    /// Column of the prompt: a text, or a list of messages.
    pub prompt: Option<String>,
    /// Column of the completion: a text, or messages.
    pub completion: Option<String>,
    /// Column of a pair's preferred completion.
    pub chosen: Option<String>,
    /// Column of a pair's other completion.
    pub rejected: Option<String>,
    /// Column of a single text's label, 0 to 1.
    pub label: Option<String>,
    /// Column of the smallest difference that a pair's scores should have.
    pub margin: Option<String>,
    /// Column of the text that a pretrain stage reads.
    pub text: Option<String>,
    /// Column of the right answer that rewards compare with.
    pub reference: Option<String>,
    /// Column that decides which rewards judge the row, through their `domains`.
    pub domain: Option<String>,
    /// Column of the tools that a chat template gets. `None`: the column `tools`, where a row has
    /// one.
    pub tools: Option<String>,
    /// Whether each epoch has an order of its own, by the job's seed; otherwise it is the file's
    /// order.
    pub shuffle: bool,
    /// How its prompts are rendered.
    pub template: TemplateSource,
    /// Further variables of a chat template: a JSON object.
    pub chat_template_kwargs: String,
    /// Length limit of prompts, in tokens; rows with a longer prompt are left out.
    pub max_prompt_length: Option<u32>,
}

/// How a row's prompt becomes the text that the model reads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TemplateSource {
    /// The template of DeepSeek-R1's Table 1, verbatim.
    R1Zero,
    /// The chat template beside the model's tokenizer.
    Chat,
    /// No template: the prompt's text as it is.
    Plain,
    /// A jinja file; it sees `prompt`, `reference`, `domain` and the row's other columns as `meta`.
    /// A file that reads `messages` is a chat template.
    File(PathBuf),
}

/// Size of the sampler, in every stage and evaluation; see [`Job::slots`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Number of completions decoded at a time; 0: all of a step's, at most [`SLOTS_MAX`].
    pub slots: u32,
    /// Number of prompt and completion tokens that the cache holds; 0: what the stage's own steps
    /// need, or [`EVAL_TOKENS_MAX`] for evaluations alone.
    pub tokens: u32,
}

/// Largest number of slots that `sampler.slots = 0` takes.
pub const SLOTS_MAX: u32 = 256;

/// Largest number of tokens that `sampler.tokens = 0` takes in a stage that samples for evaluations
/// alone: 6 GB of a 0.5B Qwen2.5 in bfloat16, 30 GB of a 7B. One completion always fits.
pub const EVAL_TOKENS_MAX: u64 = 1 << 19;

/// When checkpoints are written, how many are kept, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Steps between checkpoints; 0: only at the end of each stage.
    pub every_steps: u64,
    /// Number of checkpoints kept per stage, the newest ones.
    pub keep: u32,
    /// Directory of the checkpoints. `None`: the job's directory under the daemon's state
    /// directory.
    pub to: Option<PathBuf>,
}

impl Keys for Job {
    fn keys() -> Vec<Key> {
        JOB.keys().copied().collect()
    }
}

impl Tabled for Job {
    fn table() -> &'static Table {
        JOB
    }
}

impl Job {
    /// Reads a job file. Relative paths resolve against `base_dir`, the job file's own directory.
    pub fn parse(text: &str, base_dir: &Path) -> Result<Job, JobError> {
        if text.len() > JOB_MAX_BYTES {
            return Err(JobError::TooLong {
                bytes: text.len(),
                limit: JOB_MAX_BYTES,
            });
        }
        let document = check::Document::parse(text)?;
        let table = check::resolve(&document, JOB, &[JOB, DaemonConfig::table()])?;
        let job = read(&ResolvedTable::new(&table, "the top level"), base_dir)?;
        validate::check(&job)?;
        size::check(&job, &InputFacts::default())?;
        Ok(job)
    }

    /// Writes the job file that parses to this job: every default filled in, keys in the order of
    /// [`keys`], the same bytes each time.
    pub fn to_toml(&self) -> String {
        crate::write::job(self)
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

    /// Size of a stage's sampler: what its own steps need, so that a long evaluation decodes fewer
    /// completions at a time instead of taking the memory of training, but at least one completion
    /// of any evaluation. `None` if neither the stage nor an evaluation samples. `prompt_max` and
    /// `eval_prompt_max` are in tokens.
    pub fn slots(&self, stage: &Stage, prompt_max: u32, eval_prompt_max: u32) -> Option<Slots> {
        let evals = || self.evals.iter().chain(stage.evaluation());
        if stage.reward_model().is_some()
            || (stage.rollouts().is_none() && evals().next().is_none())
        {
            return None;
        }
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
            needed
        };
        Some(Slots {
            count,
            tokens: tokens.max(longest),
        })
    }
}

fn read(job: &ResolvedTable<'_>, base_dir: &Path) -> Result<Job, JobError> {
    let mut stages = Vec::new();
    for table in job.tables("stage") {
        stages.push(Stage::read(
            &ResolvedTable::new(table, titled("stage", table)),
            &stages,
            base_dir,
        )?);
    }
    let evals = job
        .tables("eval")
        .map(|table| Eval::read(&ResolvedTable::new(table, titled("eval", table)), &stages));
    let evals = evals.collect::<Result<Vec<_>, _>>()?;
    let data = job.named("data").map(|(name, table)| {
        let source = DataSource::read(
            name,
            &ResolvedTable::new(table, format!("[data.{name}]")),
            &stages,
            &evals,
            base_dir,
        )?;
        Ok((name.clone(), source))
    });
    let models = job.named("models").map(|(name, table)| {
        Ok((
            name.clone(),
            Weights::read(
                &ResolvedTable::new(table, format!("[models.{name}]")),
                base_dir,
            )?,
        ))
    });
    Ok(Job {
        name: job.get("name")?,
        seed: job.get("seed")?,
        priority: job.get("priority")?,
        date: job.optional("date")?,
        batch_invariant: job.get("batch_invariant")?,
        model: Model::read(&job.table("model", "[model]")?, base_dir)?,
        models: models.collect::<Result<_, JobError>>()?,
        data: data.collect::<Result<_, JobError>>()?,
        stages,
        sampler: Sampler::read(&job.table("sampler", "[sampler]")?)?,
        checkpoint: Checkpoint::read(&job.table("checkpoint", "[checkpoint]")?)?,
        evals,
    })
}

/// Names a table as errors do: `[[stage]] "cold-start"`.
fn titled(path: &str, table: &toml::Table) -> String {
    let name = table
        .get("name")
        .or_else(|| table.get("data"))
        .and_then(toml::Value::as_str)
        .unwrap_or_default();
    format!("[[{path}]] {name:?}")
}

impl Sampler {
    fn read(sampler: &ResolvedTable<'_>) -> Result<Sampler, JobError> {
        Ok(Sampler {
            slots: sampler.get("slots")?,
            tokens: sampler.get("tokens")?,
        })
    }
}

impl Model {
    fn read(model: &ResolvedTable<'_>, base_dir: &Path) -> Result<Model, JobError> {
        Ok(Model {
            weights: Weights::read(model, base_dir)?,
            dtype: model.get("dtype")?,
            fp8: model.get("fp8")?,
        })
    }
}

impl Weights {
    fn read(model: &ResolvedTable<'_>, base_dir: &Path) -> Result<Weights, JobError> {
        match (
            model.path("path", base_dir)?,
            model.path("init", base_dir)?,
            model.path("tokenizer", base_dir)?,
        ) {
            (Some(path), None, None) => Ok(Weights::Directory(path)),
            (None, Some(config), Some(tokenizer)) => Ok(Weights::Init { config, tokenizer }),
            (None, Some(_), None) => Err(model.unsound(
                "`init` gives weights and no tokenizer",
                "add `tokenizer`, a tokenizer.json or its directory",
            )),
            (Some(_), Some(_), _) => Err(model.unsound(
                "`path` and `init` both say where the weights come from",
                "keep one of them",
            )),
            (Some(_), None, Some(_)) => {
                Err(model.unsound("`path` brings its own tokenizer", "leave `tokenizer` out"))
            }
            (None, None, _) => Err(model.unsound(
                "nothing says where the weights come from",
                "add `path`, or `init` and `tokenizer`",
            )),
        }
    }
}

impl TemplateSource {
    pub(crate) fn read(text: &str, base_dir: &Path) -> TemplateSource {
        match text {
            "r1-zero" => TemplateSource::R1Zero,
            "chat" => TemplateSource::Chat,
            "plain" => TemplateSource::Plain,
            path => TemplateSource::File(absolute(path, base_dir)),
        }
    }
}

impl DataSource {
    /// A data set without columns, shuffled, whose prompts are rendered without a template.
    pub fn new(name: impl Into<String>, path: impl Into<PathBuf>) -> DataSource {
        DataSource {
            name: name.into(),
            path: path.into(),
            messages: None,
            prompt: None,
            completion: None,
            chosen: None,
            rejected: None,
            label: None,
            margin: None,
            text: None,
            reference: None,
            domain: None,
            tools: None,
            shuffle: true,
            template: TemplateSource::Plain,
            chat_template_kwargs: "{}".into(),
            max_prompt_length: None,
        }
    }

    /// Reads a `[data.NAME]` table. A column that a stage or evaluation reads and the file does not
    /// name is named like its key.
    fn read(
        name: &str,
        data: &ResolvedTable<'_>,
        stages: &[Stage],
        evals: &[Eval],
        base_dir: &Path,
    ) -> Result<DataSource, JobError> {
        let readers = || {
            stages.iter().filter(|stage| {
                stage
                    .data_sets()
                    .chain(stage.held_out())
                    .any(|data| data == name)
            })
        };
        let read_by = |kind: &str| readers().any(|stage| stage.kind_name() == kind);
        let labelled =
            readers().any(|stage| stage.reward_model().is_some() && !stage.reads_pairs());
        let paired = readers().any(Stage::reads_pairs);
        let prompted = readers().any(|stage| stage.kind_name() != "pretrain")
            || evals.iter().any(|eval| eval.data == name);
        let column = |key: &str, needed: bool| -> Result<Option<String>, JobError> {
            Ok(data
                .optional(key)?
                .or_else(|| needed.then(|| key.to_string())))
        };
        let messages: Option<String> = data.optional("messages")?;
        if messages.is_some()
            && let Some(key) = ["prompt", "completion", "chosen", "rejected"]
                .into_iter()
                .find(|key| data.has(key))
        {
            let problem =
                format!("`messages` names whole conversations, and `{key}` a part of one");
            return Err(data.unsound(problem, "keep one of them"));
        }
        let unprompted = ["dpo", "reward-model"]
            .into_iter()
            .find(|kind| read_by(kind));
        if let Some(kind) = unprompted.filter(|_| data.has("max_prompt_length")) {
            let problem = format!(
                "`max_prompt_length` leaves out no row of a {kind} stage, which cuts its texts at \
                 its own `max_length`"
            );
            return Err(data.unsound(
                problem,
                "leave it out, or give the stage a data set of its own",
            ));
        }
        // A whole conversation stands for both columns.
        let prompted = prompted && messages.is_none();
        let completed = (read_by("sft") || read_by("distill") || labelled) && messages.is_none();
        // A TOML table is sorted by key, so the JSON is the same bytes each time.
        let kwargs: serde_json::Value = data.get("chat_template_kwargs")?;
        Ok(DataSource {
            name: name.into(),
            path: absolute(&data.get::<String>("path")?, base_dir),
            messages,
            prompt: column("prompt", prompted)?,
            completion: column("completion", completed)?,
            chosen: column("chosen", paired)?,
            rejected: column("rejected", paired)?,
            label: column("label", labelled)?,
            margin: data.optional("margin")?,
            text: column("text", read_by("pretrain"))?,
            reference: data.optional("reference")?,
            domain: data.optional("domain")?,
            tools: data.optional("tools")?,
            shuffle: data.get("shuffle")?,
            template: TemplateSource::read(&data.get::<String>("template")?, base_dir),
            chat_template_kwargs: kwargs.to_string(),
            max_prompt_length: data.optional("max_prompt_length")?,
        })
    }
}

impl Checkpoint {
    fn read(checkpoint: &ResolvedTable<'_>) -> Result<Checkpoint, JobError> {
        let to = match checkpoint.optional::<String>("to")? {
            None => None,
            Some(url) => Some(local_path(&url).ok_or_else(|| {
                let fix =
                    "write file:// and an absolute path, as in \"file:///srv/r1d/checkpoints\"";
                match url.split_once("://") {
                    Some((scheme, _)) if scheme != "file" => JobError::NotInThisRelease {
                        place: checkpoint.place.clone(),
                        what: format!("`to` = {url:?} ({scheme}://)"),
                        fix: format!(": {fix}"),
                    },
                    _ => checkpoint.unsound(
                        format!("`to` = {url:?} is not where a checkpoint can go"),
                        fix,
                    ),
                }
            })?),
        };
        Ok(Checkpoint {
            every_steps: checkpoint.get("every_steps")?,
            keep: checkpoint.get("keep")?,
            to,
        })
    }
}

fn local_path(url: &str) -> Option<PathBuf> {
    url.strip_prefix("file://")
        .filter(|path| path.starts_with('/'))
        .map(PathBuf::from)
}
