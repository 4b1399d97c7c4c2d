//! Everything that a job reads, opened and checked: once to accept or plan the job, and again when
//! it runs.

use crate::datasets::{DataSetError, DataSets};
use crate::devices;
use crate::job_sets::{Ingest, JobSets, SetsError};
use crate::judge_models::{JudgeModels, Model};
use crate::reading::{Reading, Unwanted};
use crate::reward_versions::{Recorded, RewardVersions, VersionHistory};
use r1d_data::{DataError, Row, Tokenizer};
use r1d_ingest::{
    Order, Orders, Preferences, Preferred, Prompts, Rows, SetError, StepError, Supervision,
};
use r1d_job::plan::InputFacts;
use r1d_job::reward::Plugin;
use r1d_job::{Eval, Job, JobError, ModelShape, Reward, Sft, Stage, StageKind};
use r1d_proto::ids::JobId;
use r1d_proto::world::counter_hash;
use r1d_rewards::{RewardError, RewardSpec, Rewards, World};
use r1d_runner::{
    Batch, DeclaredScores, EvalInputs, Limits, ModelPlan, Plan, Prompt, Source, StageInputs,
};
use r1d_shape::Head;
use r1d_store::JobLayout;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;
use tokio::sync::RwLock;

/// Most domains that an error lists.
const DOMAINS_SHOWN_MAX: usize = 20;
/// A salt that keeps the extra prompts of dynamic sampling apart from the steps' own.
const RESAMPLE: u64 = 0x7265_7361;

#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(transparent)]
    Job(#[from] JobError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Sets(#[from] SetsError),
    #[error("model: cannot read {}: {source}", path.display())]
    Model {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("model {}: {problem}", path.display())]
    Weights { path: PathBuf, problem: String },
    #[error("model {}: {problem}", path.display())]
    Config { path: PathBuf, problem: String },
    #[error("reward `{name}`: {source}")]
    Reward { name: String, source: RewardError },
    #[error(
        "reward `{name}`: its plugin asks a model, and nothing says which: no reward-model stage \
         of this job is called {plugin:?}: set `model` to a stage that comes before, a table \
         [models.NAME], or the path (with a slash) of a Hugging Face directory"
    )]
    AsksWhom { name: String, plugin: String },
    #[error(
        "reward `{name}`: `model` = {model:?}, and its plugin {plugin} asks nobody: leave `model` \
         out, or name a plugin that asks a model"
    )]
    AsksNobody {
        name: String,
        model: String,
        plugin: String,
    },
    #[error("{0}")]
    OtherKind(String),
    #[error(transparent)]
    DataSet(#[from] DataSetError),
    #[error(
        "[[stage]] {stage:?}, [[stage.reward]] {reward:?}: no row of data.{data} is of the domain \
         {domain:?}, so it would judge none: its rows are of {known}"
    )]
    Domain {
        stage: String,
        reward: String,
        data: String,
        domain: String,
        known: String,
    },
    #[error("data.{name} is not in the job")]
    NoData { name: String },
    #[error("model {model} is not in the job")]
    NoModel { model: usize },
    #[error(transparent)]
    Unwanted(#[from] Unwanted),
}

/// A reward that is ready to judge.
pub(crate) struct JobReward {
    pub reward: Reward,
    /// The index of its components in [`LoadedJob::reward_versions`].
    pub number: usize,
    facts: DeclaredScores,
}

/// Held-out prompts, rendered for each model that is evaluated, and the rewards that judge their
/// completions.
struct LoadedEval {
    rows: Rows,
    /// The prompts by model; all models have the same rows.
    prompts: BTreeMap<usize, Prompts>,
    judges: Vec<JobReward>,
}

impl LoadedEval {
    fn rows(&self) -> u64 {
        self.prompts
            .values()
            .next()
            .map_or(0, |prompts| prompts.len())
    }
}

/// Prompts and the rewards that judge their completions.
struct Prompted {
    rows: Rows,
    prompts: Prompts,
    shuffle: bool,
    judges: Vec<JobReward>,
}

enum LoadedStage {
    Supervised(Supervision),
    Preferred {
        rows: Preferences,
        held_out: Option<Preferences>,
    },
    Prompted(Prompted),
    /// The stage is an evaluation; its data is in [`LoadedJob::evals`].
    Evaluated {
        rows: u64,
    },
    PendingStage(PendingStage),
}

/// A stage that reads what an earlier stage keeps, as far as it is known before that one is
/// finished.
struct PendingStage {
    judges: Vec<JobReward>,
    /// Tokens of the longest prompt that the earlier stage may keep.
    prompt_max: u32,
}

pub(crate) struct LoadedJob {
    pub job: Job,
    pub seen: InputFacts,
    pub warnings: Vec<String>,
    pub reward_versions: RwLock<RewardVersions>,
    /// One per [`Job::models`].
    models: Vec<Model>,
    /// The models that rewards ask.
    pub judge_models: JudgeModels,
    orders: Orders,
    stages: Vec<LoadedStage>,
    evals: Vec<LoadedEval>,
}

/// What several stages and evaluations share while a job is loaded.
struct JobLoader<'a> {
    job: &'a Job,
    models: &'a [Model],
    rewards: &'a Rewards,
    recorded: &'a Recorded,
    versions: Vec<VersionHistory>,
    made: &'a DataSets,
    sets: JobSets<'a>,
    judge_models: JudgeModels,
}

/// The head that a model's weights must have. A model that only starts reward models gets a fresh
/// one.
fn head(job: &Job, model: usize) -> Head {
    if job.only_starts_reward_models(model) {
        Head::Fresh
    } else {
        Head::Stored
    }
}

impl LoadedJob {
    /// Opens a job that has not begun; the data that its stages will make is checked as far as
    /// possible. Blocks: reads, tokenises and compiles. Errors name the key, file or plugin.
    /// `recorded` has the reward versions that are known.
    pub(crate) fn open(
        job: Job,
        rewards: &Rewards,
        recorded: &Recorded,
        ingest: &Ingest,
    ) -> Result<LoadedJob, LoadError> {
        LoadedJob::read(job, rewards, recorded, ingest, &Reading::default())
    }

    /// Opens a job as [`LoadedJob::open`] does, and reports the progress to `reading`.
    pub(crate) fn read(
        job: Job,
        rewards: &Rewards,
        recorded: &Recorded,
        ingest: &Ingest,
        reading: &Reading,
    ) -> Result<LoadedJob, LoadError> {
        LoadedJob::open_with(
            job,
            rewards,
            recorded,
            &DataSets::default(),
            ingest,
            reading,
        )
    }

    /// Opens a job some of whose stages have already produced their data sets.
    pub(crate) fn open_with(
        job: Job,
        rewards: &Rewards,
        recorded: &Recorded,
        made: &DataSets,
        ingest: &Ingest,
        reading: &Reading,
    ) -> Result<LoadedJob, LoadError> {
        let parts = parts(&job);
        reading.at("reading the models' files", 0, parts)?;
        let models = job
            .models()
            .enumerate()
            .map(|(index, weights)| Model::open(weights, head(&job, index)))
            .collect::<Result<Vec<_>, _>>()?;
        let facts: Vec<ModelShape> = models.iter().map(|model| model.facts.clone()).collect();
        r1d_job::validate::check_models(&job, &facts)?;
        for stage in job.stages.iter().filter(|stage| stage.opens_prediction()) {
            models
                .get(job.model_of(stage))
                .map_or(Ok(()), Model::check_prediction)?;
        }
        let positions = facts.iter().map(|facts| facts.max_position_embeddings);
        let positions = positions.collect();
        let find = |name: &str| -> Result<Option<PathBuf>, Box<dyn Error + Send + Sync>> {
            Ok(made.find(name)?)
        };
        let mut loader = JobLoader {
            job: &job,
            models: &models,
            rewards,
            recorded,
            versions: Vec::new(),
            made,
            sets: JobSets::new(&job, positions, &find, ingest, reading),
            judge_models: JudgeModels::default(),
        };
        let read = |(i, stage): (usize, &Stage)| {
            reading.at(
                &format!("reading the data of stage `{}`", stage.name),
                i + 1,
                parts,
            )?;
            loader.stage(i, stage)
        };
        let stages = (job.stages.iter().enumerate())
            .map(read)
            .collect::<Result<Vec<_>, _>>()?;
        let every: BTreeSet<usize> = job.stages.iter().map(|stage| job.model_of(stage)).collect();
        let own = job
            .stages
            .iter()
            .filter(|stage| stage.evaluation().is_some())
            .map(|stage| BTreeSet::from([job.model_of(stage)]));
        let models_of = std::iter::repeat_n(every, job.evals.len()).chain(own);
        let read = |(i, (eval, models)): (usize, (&Eval, BTreeSet<usize>))| {
            reading.at(
                &format!("reading the evaluation on `{}`", eval.data),
                job.stages.len() + i + 1,
                parts,
            )?;
            loader.eval(eval, models)
        };
        let evals = job
            .evaluations()
            .zip(models_of)
            .enumerate()
            .map(read)
            .collect::<Result<Vec<_>, _>>()?;
        let left_out: Vec<String> = loader.sets.read().flat_map(columns_left_out).collect();
        let (reward_versions, judge_models) =
            (RewardVersions::new(loader.versions), loader.judge_models);
        let seen = InputFacts {
            asked: judge_models.facts.clone(),
            ..seen(&job, &stages, &evals)
        };
        r1d_job::size::check(&job, &seen)?;
        r1d_job::plan::check_records(&job, &facts, &seen)?;
        let mut warnings = r1d_job::plan::warnings(&job, &facts, &seen);
        warnings.extend(left_out);
        for (stage, loaded_stage) in job.stages.iter().zip(&stages) {
            warnings.extend(material_warnings(stage, loaded_stage));
        }
        warnings.extend(
            job.evaluations()
                .zip(&evals)
                .filter_map(|(eval, loaded_stage)| eval_warnings(eval, loaded_stage)),
        );
        Ok(LoadedJob {
            seen,
            warnings,
            models,
            judge_models,
            orders: ingest.sets.orders(),
            stages,
            evals,
            reward_versions,
            job,
        })
    }

    /// The number of parts that there are to read, for progress reports.
    pub(crate) fn parts(&self) -> usize {
        parts(&self.job)
    }

    /// All rewards of stages and evaluations.
    pub(crate) fn judges(&self) -> impl Iterator<Item = &JobReward> {
        self.stages
            .iter()
            .flat_map(LoadedStage::judges)
            .chain(self.evals.iter().flat_map(|eval| &eval.judges))
    }

    /// Shapes of the models, one per [`Job::models`].
    pub(crate) fn facts(&self) -> Vec<ModelShape> {
        self.models
            .iter()
            .map(|model| model.facts.clone())
            .collect()
    }

    /// The tokenizer of the model that writes the completions of `of`; `None` if the job has no
    /// such model.
    pub(crate) fn tokenizer(&self, of: Source) -> Option<&Tokenizer> {
        let model = match of {
            Source::Stage(index) => self.job.model_of(self.job.stages.get(index)?),
            Source::Eval { model, .. } => model,
        };
        self.models.get(model).map(|model| &*model.tokenizer)
    }

    /// Rows (packed sequences) of a stage's data.
    fn rows(&self, stage: usize) -> u64 {
        self.stages.get(stage).map_or(0, LoadedStage::rows)
    }

    /// The rows of a stage or evaluation, their prompts, and the rewards that judge them.
    fn prompted(&self, of: Source) -> Option<(&Rows, &Prompts, &[JobReward])> {
        match of {
            Source::Stage(index) => match self.stages.get(index)? {
                LoadedStage::Prompted(prompted) => {
                    Some((&prompted.rows, &prompted.prompts, &prompted.judges))
                }
                LoadedStage::Supervised(_)
                | LoadedStage::Preferred { .. }
                | LoadedStage::Evaluated { .. }
                | LoadedStage::PendingStage(_) => None,
            },
            Source::Eval { eval, model } => {
                let eval = self.evals.get(eval)?;
                Some((&eval.rows, eval.prompts.get(&model)?, &eval.judges))
            }
        }
    }

    /// The plan for the job's state machine.
    pub(crate) fn plan(
        &self,
        id: &JobId,
        outputs: &JobLayout,
        device: &str,
        worker_silence: Duration,
    ) -> Plan {
        let facts = |judges: &[JobReward]| judges.iter().map(JobReward::facts).collect::<Vec<_>>();
        let stages = (self.job.stages.iter().enumerate())
            .map(|(i, stage)| StageInputs {
                steps: stage.steps(self.rows(i)),
                later: matches!(self.stages.get(i), Some(LoadedStage::PendingStage(_))),
                prompt_max: self.seen.prompt_max.get(&stage.name).copied().unwrap_or(0),
                rewards: self
                    .stages
                    .get(i)
                    .map_or(Vec::new(), |loaded_stage| facts(loaded_stage.judges())),
            })
            .collect();
        let evals = (self.job.evaluations().zip(&self.evals))
            .map(|(eval, loaded_stage)| EvalInputs {
                rows: eval.rows(loaded_stage.rows()),
                judges: loaded_stage
                    .judges
                    .iter()
                    .map(|judge| judge.reward.clone())
                    .collect(),
                rewards: facts(&loaded_stage.judges),
            })
            .collect();
        let models = (self.models.iter().zip(&self.seen.eval_prompt_max))
            .map(|(model, eval_prompt_max)| ModelPlan {
                base: model.base.clone(),
                stop_ids: model.tokenizer.eos_ids().to_vec(),
                eval_prompt_max: *eval_prompt_max,
            })
            .collect();
        Plan {
            models,
            worker: format!("worker {device}"),
            stages,
            evals,
            checkpoints: outputs.checkpoints(self.job.checkpoint.to.as_deref(), id),
            final_dir: outputs.final_dir(),
            limits: Limits {
                worker_silence,
                ..Limits::default()
            },
            job: self.job.clone(),
        }
    }

    /// The prompts that [`r1d_runner::Command::ReadPrompts`] asks for. Blocks: reads them.
    pub(crate) fn prompts(
        &self,
        of: Source,
        step: u64,
        round: u32,
        count: u64,
    ) -> Result<Vec<Prompt>, StepError> {
        let Some((data, prompts, _)) = self.prompted(of) else {
            return Ok(Vec::new());
        };
        let rows = prompts.len();
        let picked = match of {
            Source::Eval { .. } => (0..count.min(rows)).collect(),
            Source::Stage(stage) => {
                let settings = self.job.stages.get(stage);
                let per_step = settings.map_or(count, Stage::rows_per_step);
                let count =
                    count.min(settings.map_or(count, |settings| settings.rows_of_step(step, rows)));
                let (seed, shuffle) = match round {
                    0 => (self.job.seed, self.shuffles(stage)),
                    round => (counter_hash(&[RESAMPLE, self.job.seed, round as u64]), true),
                };
                let order = Order {
                    seed,
                    stage: stage as u32,
                    shuffle,
                };
                let mut picked = self.orders.rows_of_step(order, step, per_step, rows)?;
                picked.truncate(count as usize);
                picked
            }
        };
        let prompt = |place: u64| {
            let prompt = prompts.at(place)?;
            Ok(Prompt {
                row: prompt.row,
                ids: prompt.ids,
                text: prompt.text,
                reference: data.row(prompt.row)?.reference,
            })
        };
        picked.into_iter().map(prompt).collect()
    }

    /// Makes the order of the rows that a step of a stage takes ahead of the step, on a thread of
    /// its own.
    pub(crate) fn prepare(&self, stage: usize, step: u64) {
        match self.stages.get(stage) {
            Some(LoadedStage::Supervised(supervision)) => supervision.prepare(step),
            Some(LoadedStage::Preferred { rows, .. }) => rows.prepare(step),
            Some(LoadedStage::Prompted(_)) => {
                let (Some(settings), Some((_, prompts, _))) = (
                    self.job.stages.get(stage),
                    self.prompted(Source::Stage(stage)),
                ) else {
                    return;
                };
                let order = Order {
                    seed: self.job.seed,
                    stage: stage as u32,
                    shuffle: self.shuffles(stage),
                };
                (self.orders).prepare(order, step, settings.rows_per_step(), prompts.len());
            }
            _ => {}
        }
    }

    fn shuffles(&self, stage: usize) -> bool {
        matches!(self.stages.get(stage),
            Some(LoadedStage::Prompted(prompted)) if prompted.shuffle)
    }

    /// The batch of a step that samples nothing. Blocks: reads it.
    pub(crate) fn batch(&self, stage: usize, step: u64) -> Result<Batch, StepError> {
        Ok(match self.stages.get(stage) {
            Some(LoadedStage::Supervised(supervision)) => Batch::Sequences(supervision.step(step)?),
            Some(LoadedStage::Preferred { rows, .. }) => batch(rows.step(step)?),
            _ => Batch::Sequences(Vec::new()),
        })
    }

    /// All held-out rows of a reward-model stage. Blocks: reads them.
    pub(crate) fn held_out(&self, stage: usize) -> Result<Batch, StepError> {
        Ok(match self.stages.get(stage) {
            Some(LoadedStage::Preferred {
                held_out: Some(rows),
                ..
            }) => batch(rows.all()?),
            _ => Batch::Sequences(Vec::new()),
        })
    }

    /// A row and its prompt; `None` if the job has no such row. Blocks: reads them.
    pub(crate) fn row(&self, of: Source, row: u64) -> Result<Option<PromptedRow>, SetError> {
        let Some((data, prompts, _)) = self.prompted(of) else {
            return Ok(None);
        };
        let Some(prompt) = prompts.of_row(row)? else {
            return Ok(None);
        };
        Ok(Some(PromptedRow {
            prompt: prompt.text,
            row: data.row(row)?,
            adds_special: prompts.adds_special(),
        }))
    }

    /// The rewards that judge the completions of a row of this domain.
    pub(crate) fn judges_of(&self, of: Source, domain: Option<&str>) -> Vec<&JobReward> {
        let judges = self.prompted(of).map_or(&[][..], |(_, _, judges)| judges);
        let judge = |judge: &&JobReward| judge.reward.judges(domain);
        judges.iter().filter(judge).collect()
    }
}

/// A row of a stage or evaluation that samples.
pub(crate) struct PromptedRow {
    /// The prompt as the model reads it.
    pub prompt: String,
    pub row: Row,
    /// Whether the prompt's text lacks the special ids that the tokenizer adds.
    pub adds_special: bool,
}

/// Counts the parts of a job for progress reports: the models' files, the data of each stage and
/// evaluation, and the hashing.
fn parts(job: &Job) -> usize {
    job.stages.len() + job.evaluations().count() + 2
}

fn batch(preferred: Preferred) -> Batch {
    match preferred {
        Preferred::Pairs(pairs) => Batch::Pairs(pairs),
        Preferred::Labelled(texts) => Batch::Labelled(texts),
    }
}

impl JobReward {
    fn facts(&self) -> DeclaredScores {
        self.facts
    }

    /// How the reward's plugin is to be loaded, whichever component it is.
    pub(crate) fn spec(&self) -> RewardSpec {
        spec(&self.reward)
    }
}

fn spec(reward: &Reward) -> RewardSpec {
    let plugin = match &reward.plugin {
        Plugin::Named(name) => r1d_rewards::Plugin::Named(name.clone()),
        Plugin::Path(path) => r1d_rewards::Plugin::Path(path.clone()),
    };
    let wanted = reward.limits;
    let limits = r1d_rewards::Limits {
        fuel: wanted.fuel,
        memory_mb: wanted.memory_mb,
        wall_ms: wanted.wall_ms,
        hostcall_bytes: Some((wanted.hostcall_kb as usize) << 10),
    };
    RewardSpec {
        plugin,
        sha256: reward.sha256.clone(),
        config_json: reward.config_json.clone(),
        limits,
    }
}

impl LoadedStage {
    fn rows(&self) -> u64 {
        match self {
            LoadedStage::Supervised(supervision) => supervision.len(),
            LoadedStage::Preferred { rows, .. } => rows.len(),
            LoadedStage::Prompted(prompted) => prompted.prompts.len(),
            LoadedStage::Evaluated { rows } => *rows,
            LoadedStage::PendingStage(_) => 0,
        }
    }

    fn judges(&self) -> &[JobReward] {
        match self {
            LoadedStage::Supervised(_)
            | LoadedStage::Preferred { .. }
            | LoadedStage::Evaluated { .. } => &[],
            LoadedStage::Prompted(prompted) => &prompted.judges,
            LoadedStage::PendingStage(later) => &later.judges,
        }
    }
}

impl JobLoader<'_> {
    /// Whether all data sets of a stage exist.
    fn is_ready(&self, stage: &Stage) -> bool {
        stage
            .data_sets()
            .chain(stage.held_out())
            .all(|name| self.job.data.contains_key(name) || self.made.finished.contains(name))
    }

    /// Renders an evaluation's prompts for each of these models.
    fn eval(&mut self, eval: &Eval, models: BTreeSet<usize>) -> Result<LoadedEval, LoadError> {
        let prompts = models.into_iter().map(|model| -> Result<_, LoadError> {
            Ok((model, self.sets.prompts(&eval.data, model, None)?))
        });
        let prompts = of_the_same_rows(prompts.collect::<Result<_, LoadError>>()?, &eval.data)?;
        let judges = self
            .job
            .eval_rewards(eval)
            .iter()
            .map(|reward| self.judge(reward))
            .collect::<Result<_, _>>()?;
        Ok(LoadedEval {
            rows: self.sets.rows(&eval.data)?,
            prompts,
            judges,
        })
    }

    fn stage(&mut self, index: usize, stage: &Stage) -> Result<LoadedStage, LoadError> {
        if let Some(prompts) = self.job.prompts_of(&stage.data) {
            self.check_domains(stage, prompts)?;
        }
        if !self.is_ready(stage) {
            return Ok(LoadedStage::PendingStage(self.later(stage)?));
        }
        let model = self.job.model_of(stage);
        let order = Order {
            seed: self.job.seed,
            stage: index as u32,
            shuffle: self.sets.source(&stage.data)?.shuffle,
        };
        Ok(match &stage.kind {
            StageKind::Pretrain(pretrain) => {
                LoadedStage::Supervised(self.sets.pretrain(stage, pretrain, order)?)
            }
            StageKind::Sft(sft) => LoadedStage::Supervised(self.sets.sft(stage, sft, order)?),
            StageKind::Dpo(dpo) => LoadedStage::Preferred {
                rows: self.sets.dpo(stage, dpo, order)?,
                held_out: None,
            },
            StageKind::RewardModel(settings) => {
                let (rows, held_out) = self.sets.reward_model(stage, settings, order)?;
                LoadedStage::Preferred { rows, held_out }
            }
            StageKind::Grpo(_) | StageKind::Ppo(_) | StageKind::RejectionSampling(_) => {
                let rewards = stage
                    .rollouts()
                    .map_or(&[][..], |rollouts| &rollouts.rewards[..]);
                LoadedStage::Prompted(self.prompted(stage, rewards)?)
            }
            StageKind::Eval(eval) => LoadedStage::Evaluated {
                rows: eval.rows(self.sets.prompts(&stage.data, model, None)?.len()),
            },
        })
    }

    /// Checks a stage before its data exists, as far as possible: the prompts that it may get,
    /// their template, its rewards, and its other inputs.
    fn later(&mut self, stage: &Stage) -> Result<PendingStage, LoadError> {
        let mut prompt_max = 0;
        for name in stage.data_sets() {
            let no_data = || LoadError::NoData { name: name.into() };
            let source = self.job.prompts_of(name).ok_or_else(no_data)?;
            let prompts = self
                .sets
                .prompts(source, self.job.model_of(stage), stage.template())?
                .length_max();
            prompt_max = prompt_max.max(prompts);
            if let StageKind::Sft(Sft { rows, .. }) = &stage.kind
                && prompts >= rows.max_length
            {
                let max_length = rows.max_length;
                let problem = format!(
                    "its prompts have up to {prompts} tokens, and max_length = {max_length} of \
                     stage `{}` leaves nothing to train: raise it",
                    stage.name
                );
                return Err(DataError::Source {
                    name: name.into(),
                    problem,
                }
                .into());
            }
        }
        let rewards = stage
            .rollouts()
            .map_or(&[][..], |rollouts| &rollouts.rewards[..]);
        let judges = rewards
            .iter()
            .map(|reward| self.judge(reward))
            .collect::<Result<_, _>>()?;
        Ok(PendingStage { judges, prompt_max })
    }

    fn prompted(&mut self, stage: &Stage, rewards: &[Reward]) -> Result<Prompted, LoadError> {
        let judges = rewards
            .iter()
            .map(|reward| self.judge(reward))
            .collect::<Result<Vec<_>, _>>()?;
        let (data, model) = (&stage.data, self.job.model_of(stage));
        let shuffle = self.sets.source(data)?.shuffle;
        Ok(Prompted {
            rows: self.sets.rows(data)?,
            prompts: self.sets.prompts(data, model, None)?,
            shuffle,
            judges,
        })
    }

    /// Refuses a domain that a reward names but no row has: it is misspelt in the reward or in the
    /// data. `data` names the source of the stage's prompts.
    fn check_domains(&mut self, stage: &Stage, data: &str) -> Result<(), LoadError> {
        let named = stage
            .rollouts()
            .map_or(&[][..], |rollouts| &rollouts.rewards[..]);
        if named.iter().all(|reward| reward.domains.is_empty()) {
            return Ok(());
        }
        let rows = self.sets.rows(data)?;
        let known = rows.domains();
        for reward in named {
            if let Some(domain) = reward
                .domains
                .iter()
                .find(|domain| !known.contains(domain.as_str()))
            {
                let shown: Vec<String> = known
                    .iter()
                    .take(DOMAINS_SHOWN_MAX)
                    .map(|domain| format!("{domain:?}"))
                    .collect();
                return Err(LoadError::Domain {
                    stage: stage.name.clone(),
                    reward: reward.name.clone(),
                    data: data.into(),
                    domain: domain.clone(),
                    known: if shown.is_empty() {
                        "none".into()
                    } else {
                        shown.join(", ")
                    },
                });
            }
        }
        Ok(())
    }

    fn judge(&mut self, reward: &Reward) -> Result<JobReward, LoadError> {
        let refused = |source| LoadError::Reward {
            name: reward.name.clone(),
            source,
        };
        let load = |sha256: Option<String>| {
            let spec = spec(reward);
            self.rewards
                .load(&RewardSpec {
                    sha256: spec.sha256.clone().or(sha256),
                    ..spec
                })
                .map_err(refused)
        };
        let plugin = reward.plugin.to_string();
        let first = load(self.recorded.first(&plugin))?;
        let info = first.info();
        let asks = first.world() == World::JudgedReward;
        let facts = DeclaredScores {
            min: info.min,
            max: info.max,
            of_groups: first.world() == World::GroupReward,
            asks,
        };
        match (&reward.model, asks) {
            (_, true) => self
                .judge_models
                .open(self.job, self.models, reward, &first)?,
            (Some(model), false) => {
                let (name, plugin) = (reward.name.clone(), reward.plugin.to_string());
                return Err(LoadError::AsksNobody {
                    name,
                    model: model.to_string(),
                    plugin,
                });
            }
            (None, false) => {}
        }
        let mut versions = VersionHistory::new(first);
        for later in self.recorded.later(&plugin) {
            versions.set((later.stage, later.step), load(Some(later.sha256.clone()))?);
        }
        self.versions.push(versions);
        Ok(JobReward {
            reward: reward.clone(),
            number: self.versions.len() - 1,
            facts,
        })
    }
}

/// Keeps the rows that all models have, because an evaluation compares models on the same rows: a
/// row that one model leaves out is left out for all.
fn of_the_same_rows(
    mut prompts: BTreeMap<usize, Prompts>,
    data: &str,
) -> Result<BTreeMap<usize, Prompts>, LoadError> {
    if prompts.values().all(|prompts| prompts.left_out() == 0) {
        return Ok(prompts);
    }
    let mut shared: Option<BTreeSet<u64>> = None;
    for prompts in prompts.values() {
        let rows = prompts.rows().map_err(SetsError::Open)?;
        shared = Some(match shared {
            None => rows,
            Some(shared) => shared.intersection(&rows).copied().collect(),
        });
    }
    let shared = shared.unwrap_or_default();
    if shared.is_empty() {
        let problem = "no row's prompt is within max_prompt_length for every model that is \
                       evaluated: raise it"
            .into();
        return Err(DataError::Source {
            name: data.into(),
            problem,
        }
        .into());
    }
    for prompts in prompts.values_mut() {
        if prompts.len() > shared.len() as u64 {
            prompts.keep(&shared).map_err(SetsError::Open)?;
        }
    }
    Ok(prompts)
}

fn seen(job: &Job, stages: &[LoadedStage], evals: &[LoadedEval]) -> InputFacts {
    let mut seen = InputFacts::default();
    for (stage, loaded_stage) in job.stages.iter().zip(stages) {
        match loaded_stage {
            LoadedStage::Prompted(prompted) => {
                seen.prompt_max
                    .insert(stage.name.clone(), prompted.prompts.length_max());
            }
            LoadedStage::PendingStage(later) => {
                seen.prompt_max.insert(stage.name.clone(), later.prompt_max);
                continue;
            }
            LoadedStage::Supervised(_)
            | LoadedStage::Preferred { .. }
            | LoadedStage::Evaluated { .. } => {}
        }
        seen.rows.insert(stage.name.clone(), loaded_stage.rows());
    }
    let longest = |model: usize| {
        evals
            .iter()
            .filter_map(|eval| Some(eval.prompts.get(&model)?.length_max()))
            .max()
            .unwrap_or(0)
    };
    seen.eval_prompt_max = (0..job.models().count()).map(longest).collect();
    seen.eval_rows = evals.iter().map(|eval| eval.rows.len()).collect();
    seen
}

/// Columns that are left out of `meta`, where a prompt or reward might look for them.
fn columns_left_out(data: &Rows) -> impl Iterator<Item = String> {
    data.left_out()
        .map(|column| format!("data.{}: {column}; it is left out", data.name()))
}

fn material_warnings(stage: &Stage, loaded_stage: &LoadedStage) -> Vec<String> {
    let place = format!("[[stage]] {:?}", stage.name);
    let left_out = |count: u64, data: &str| {
        format!(
            "{place} leaves out {count} rows of data.{data} whose prompt is longer than \
             max_prompt_length"
        )
    };
    let mut warnings = Vec::new();
    match loaded_stage {
        LoadedStage::Supervised(supervision) => {
            if supervision.truncated() > 0 {
                warnings.push(format!(
                    "{place} cuts {} of its {} rows at max_length",
                    supervision.truncated(),
                    supervision.len()
                ));
            }
            if supervision.left_out() > 0 {
                warnings.push(left_out(supervision.left_out(), &stage.data));
            }
            if supervision.merged() > 0 {
                let (merged, rows) = (supervision.merged(), supervision.len());
                warnings.push(format!(
                    "{place}: in {merged} of its {rows} rows the prompt's last tokens are other \
                     ones when the completion follows, and the loss begins there, as in TRL; \
                     tokenize = \"apart\" keeps the prompt as it is sampled from"
                ));
            }
        }
        LoadedStage::Preferred { rows, .. } if rows.truncated() > 0 => {
            warnings.push(format!(
                "{place} cuts texts of {} of its {} rows at max_length",
                rows.truncated(),
                rows.len()
            ));
        }
        LoadedStage::Preferred { .. }
        | LoadedStage::Evaluated { .. }
        | LoadedStage::PendingStage(_) => {}
        LoadedStage::Prompted(prompted) => {
            let judged = |domain: Option<&str>| {
                prompted
                    .judges
                    .iter()
                    .any(|judge| judge.reward.judges(domain))
            };
            let rows: u64 = prompted
                .prompts
                .domains()
                .filter(|(domain, _)| !judged(*domain))
                .map(|(_, rows)| rows)
                .sum();
            if rows > 0 {
                warnings.push(format!(
                    "{place}: no reward judges the domain of {rows} rows of data.{}: they never \
                     train",
                    stage.data
                ));
            }
            if prompted.prompts.left_out() > 0 {
                warnings.push(left_out(prompted.prompts.left_out(), &stage.data));
            }
        }
    }
    warnings
}

fn eval_warnings(eval: &Eval, loaded_stage: &LoadedEval) -> Option<String> {
    let left_out = loaded_stage.rows.len() - loaded_stage.rows().min(loaded_stage.rows.len());
    let place = format!("[[eval]] {:?}", eval.data);
    (left_out > 0).then(|| {
        format!("{place} leaves out {left_out} rows whose prompt is longer than max_prompt_length")
    })
}

/// Threads that a worker of `device` may use for one tensor operation.
pub(crate) fn worker_threads(device: &str, configured: u32) -> u32 {
    if device == "cpu" {
        devices::torch_threads(configured)
    } else {
        1
    }
}
