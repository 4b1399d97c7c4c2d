//! Opens everything that a job reads, and checks it: once to accept or plan the job, and again when
//! it runs.

use crate::datasets::DataSets;
use crate::job_sets::{Ingest, JobSets, SetsError};
use crate::judge_models::{JudgeModels, Model};
use crate::load_error::LoadError;
use crate::load_warnings;
use crate::loaded_job::{LoadedEval, LoadedJob, LoadedStage, PendingStage, Prompted, parts};
use crate::reading::Reading;
use crate::reward_versions::{JobReward, Recorded, RewardVersions, VersionHistory, spec};
use crate::tokenizers::Tokenizers;
use crate::weights::check_paths;
use r1d_data::DataError;
use r1d_ingest::{Order, Prompts};
use r1d_job::plan::InputFacts;
use r1d_job::{Eval, Job, ModelShape, Reward, Sft, Stage, StageKind};
use r1d_rewards::{RewardSpec, Rewards, World};
use r1d_runner::DeclaredScores;
use r1d_shape::Head;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::path::PathBuf;

/// Most domains that an error lists.
const DOMAINS_SHOWN_MAX: usize = 20;

/// What several stages and evaluations share while a job is loaded.
struct JobLoader<'a> {
    job: &'a Job,
    models: &'a [Model],
    rewards: &'a Rewards,
    recorded: &'a Recorded,
    versions: Vec<VersionHistory>,
    /// Plugins whose files are not what judges, in words.
    replaced: BTreeSet<String>,
    made: &'a DataSets,
    tokenizers: &'a Tokenizers,
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
    /// `recorded` has the reward versions that are known; the progress is reported to `reading`,
    /// which also says when the rest is not wanted.
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
        let rewards = rewards.until(reading.abandoned());
        let rewards = &rewards.telling(reading.of_plugins());
        reading.at("reading the models' files", 0, parts)?;
        let models = open_models(&job, &ingest.tokenizers)?;
        let facts: Vec<ModelShape> = models.iter().map(|model| model.facts.clone()).collect();
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
            replaced: BTreeSet::new(),
            made,
            tokenizers: &ingest.tokenizers,
            sets: JobSets::new(&job, positions, &find, ingest, reading),
            judge_models: JudgeModels::default(),
        };
        let stages = loader.stages(reading, parts)?;
        let evals = loader.evals(reading, parts)?;
        let left_out: Vec<String> = loader
            .sets
            .read()
            .flat_map(load_warnings::columns_left_out)
            .collect();
        let replaced = loader.replaced;
        let (reward_versions, judge_models) =
            (RewardVersions::new(loader.versions), loader.judge_models);
        let seen = InputFacts {
            asked: judge_models.facts.clone(),
            ..seen(&job, &stages, &evals)
        };
        r1d_job::size::check(&job, &seen)?;
        r1d_job::plan::check_records(&job, &facts, &seen)?;
        let mut warnings = r1d_job::plan::warnings(&job, &facts, &seen);
        warnings.extend(replaced);
        warnings.extend(left_out);
        warnings.extend(load_warnings::of_job(&job, &stages, &evals));
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
}

/// Opens the job's models, and checks that they can do what its stages do with them.
fn open_models(job: &Job, tokenizers: &Tokenizers) -> Result<Vec<Model>, LoadError> {
    let named = job.models.keys().map(|name| format!("models.{name}"));
    for (table, weights) in std::iter::once("model".to_owned())
        .chain(named)
        .zip(job.models())
    {
        check_paths(&table, weights)?;
    }
    let models = job
        .models()
        .enumerate()
        .map(|(index, weights)| Model::open(weights, head(job, index), tokenizers))
        .collect::<Result<Vec<_>, _>>()?;
    let facts: Vec<ModelShape> = models.iter().map(|model| model.facts.clone()).collect();
    r1d_job::validate::check_models(job, &facts)?;
    for stage in job.stages.iter().filter(|stage| stage.opens_prediction()) {
        models
            .get(job.model_of(stage))
            .map_or(Ok(()), Model::check_prediction)?;
    }
    Ok(models)
}

impl JobLoader<'_> {
    /// Reads the data of all stages, of `parts` that there are to read.
    fn stages(&mut self, reading: &Reading, parts: usize) -> Result<Vec<LoadedStage>, LoadError> {
        let job = self.job;
        let read = |(i, stage): (usize, &Stage)| {
            let doing = format!("reading the data of stage `{}`", stage.name);
            reading.at(&doing, i + 1, parts)?;
            self.stage(i, stage)
        };
        job.stages.iter().enumerate().map(read).collect()
    }

    /// Reads the data of all evaluations.
    fn evals(&mut self, reading: &Reading, parts: usize) -> Result<Vec<LoadedEval>, LoadError> {
        let job = self.job;
        let every: BTreeSet<usize> = job.stages.iter().map(|stage| job.model_of(stage)).collect();
        let own = job
            .stages
            .iter()
            .filter(|stage| stage.evaluation().is_some())
            .map(|stage| BTreeSet::from([job.model_of(stage)]));
        let models_of = std::iter::repeat_n(every, job.evals.len()).chain(own);
        let read = |(i, (eval, models)): (usize, (&Eval, BTreeSet<usize>))| {
            let doing = format!("reading the evaluation on `{}`", eval.data);
            reading.at(&doing, job.stages.len() + i + 1, parts)?;
            self.eval(eval, models)
        };
        job.evaluations()
            .zip(models_of)
            .enumerate()
            .map(read)
            .collect()
    }

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
        if reward.sha256.is_none()
            && let Some(now) = self.rewards.sha256_now(&spec(reward).plugin)
        {
            (self.replaced).extend(self.recorded.judges_instead(&plugin, &now));
        }
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
            (_, true) => {
                self.judge_models
                    .open(self.job, (self.models, self.tokenizers), reward, &first)?
            }
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
