//! Everything that a job reads, opened and checked ([`crate::load_job`]), and what an attempt takes
//! of it.

use crate::judge_models::{JudgeModels, Model};
use crate::reward_versions::{JobReward, RewardVersions};
use r1d_data::{Row, Tokenizer};
use r1d_ingest::{
    Order, Orders, Preferences, Preferred, Prompts, Rows, SetError, StepError, Supervision,
};
use r1d_job::plan::{self, InputFacts, Room};
use r1d_job::{Job, ModelShape, Stage};
use r1d_proto::ids::JobId;
use r1d_proto::world::counter_hash;
use r1d_rewards::{RewardError, Rewards};
use r1d_runner::{Batch, EvalInputs, Limits, ModelPlan, Plan, Prompt, Source, StageInputs};
use r1d_store::JobLayout;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::RwLock;

/// A salt that keeps the extra prompts of dynamic sampling apart from the steps' own.
const RESAMPLE: u64 = 0x7265_7361;

/// Held-out prompts, rendered for each model that is evaluated, and the rewards that judge their
/// completions.
pub(crate) struct LoadedEval {
    pub rows: Rows,
    /// The prompts by model; all models have the same rows.
    pub prompts: BTreeMap<usize, Prompts>,
    pub judges: Vec<JobReward>,
}

impl LoadedEval {
    pub(crate) fn rows(&self) -> u64 {
        self.prompts
            .values()
            .next()
            .map_or(0, |prompts| prompts.len())
    }
}

/// Prompts and the rewards that judge their completions.
pub(crate) struct Prompted {
    pub rows: Rows,
    pub prompts: Prompts,
    pub shuffle: bool,
    pub judges: Vec<JobReward>,
}

pub(crate) enum LoadedStage {
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
pub(crate) struct PendingStage {
    pub judges: Vec<JobReward>,
    /// Tokens of the longest prompt that the earlier stage may keep.
    pub prompt_max: u32,
}

pub(crate) struct LoadedJob {
    pub job: Job,
    pub seen: InputFacts,
    pub warnings: Vec<String>,
    pub reward_versions: RwLock<RewardVersions>,
    /// One per [`Job::models`].
    pub models: Vec<Model>,
    /// The models that rewards ask.
    pub judge_models: JudgeModels,
    pub orders: Orders,
    pub stages: Vec<LoadedStage>,
    pub evals: Vec<LoadedEval>,
}

impl LoadedJob {
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

    /// The hash of every component that judges the job first, by plugin. Blocks.
    pub(crate) fn component_hashes(&self) -> BTreeMap<String, String> {
        let reward_versions = self.reward_versions.blocking_read();
        let hash = |judge: &JobReward| {
            let first = reward_versions.first(judge.number)?;
            Some((
                judge.reward.plugin.to_string(),
                first.module_sha256().to_owned(),
            ))
        };
        self.judges().filter_map(hash).collect()
    }

    /// Keeps a copy of every component that judges the job first; returns their hashes, by plugin.
    /// Blocks.
    pub(crate) fn keep_components(
        &self,
        rewards: &Rewards,
    ) -> Result<BTreeMap<String, String>, RewardError> {
        let reward_versions = self.reward_versions.blocking_read();
        let mut kept = BTreeMap::new();
        for judge in self.judges() {
            if let Some(first) = reward_versions.first(judge.number) {
                rewards.keep(first)?;
                kept.insert(
                    judge.reward.plugin.to_string(),
                    first.module_sha256().to_owned(),
                );
            }
        }
        Ok(kept)
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

    /// A sentence for each stage whose sampler's cache is smaller than it might be, by the memory
    /// of the device.
    pub(crate) fn small_caches(&self, room: Room) -> Vec<String> {
        plan::small_caches(&self.job, &self.facts(), &self.seen, room)
    }

    /// The plan for the job's state machine, on a device whose memory is `room`.
    pub(crate) fn plan(
        &self,
        id: &JobId,
        outputs: &JobLayout,
        (worker, room): (&str, Room),
        worker_silence: Duration,
    ) -> Plan {
        let (job, shapes) = (&self.job, self.facts());
        let memory = |stage| plan::memory(job, stage, &shapes, &self.seen, room);
        let facts =
            |judges: &[JobReward]| judges.iter().map(|judge| judge.facts).collect::<Vec<_>>();
        let stages = (self.job.stages.iter().enumerate())
            .map(|(i, stage)| StageInputs {
                steps: stage.steps(self.rows(i)),
                later: matches!(self.stages.get(i), Some(LoadedStage::PendingStage(_))),
                prompt_max: self.seen.prompt_max.get(&stage.name).copied().unwrap_or(0),
                rewards: self
                    .stages
                    .get(i)
                    .map_or(Vec::new(), |loaded_stage| facts(loaded_stage.judges())),
                fitting_tokens: plan::fitting_tokens(job, stage, &shapes, &self.seen, room),
                memory_peak: plan::peak(&memory(stage), room),
                memory: memory(stage),
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
            worker: worker.into(),
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
pub(crate) fn parts(job: &Job) -> usize {
    job.stages.len() + job.evaluations().count() + 2
}

fn batch(preferred: Preferred) -> Batch {
    match preferred {
        Preferred::Pairs(pairs) => Batch::Pairs(pairs),
        Preferred::Labelled(texts) => Batch::Labelled(texts),
    }
}

impl LoadedStage {
    pub(crate) fn rows(&self) -> u64 {
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
