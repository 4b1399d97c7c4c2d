//! The models that a job's judged rewards ask: reward models, which answer with a number, and
//! judges, which write text. Questions become token ids here, and answers become text.

use crate::load_error::LoadError;
use crate::tokenizers::Tokenizers;
use crate::weights::{Gives, check_weights, read_config};
use r1d_data::{DataError, Questions, Telling, Tokenizer};
use r1d_job::reward::plugin_stem;
use r1d_job::{AskedModel, Job, ModelShape, Reward, Weights};
use r1d_proto::worker::{ModelSource, Question};
use r1d_rewards::{Ask, LoadedReward, RewardError, golden};
use r1d_runner::{Answers, Questions as JudgeRequest};
use r1d_shape::{Config, Head};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

/// A model of the job, as far as the control plane knows it.
pub(crate) struct Model {
    pub facts: ModelShape,
    pub tokenizer: Arc<Tokenizer>,
    pub base: ModelSource,
    config: Config,
}

impl Model {
    /// Opens the model's files. Errors name the file. With a fresh `head`, the weights of a
    /// language model need no head of their own.
    pub(crate) fn open(
        weights: &Weights,
        head: Head,
        tokenizers: &Tokenizers,
    ) -> Result<Model, LoadError> {
        let (config, text) = read_config(&weights.config())?;
        let config = match weights {
            Weights::Directory(dir) => check_weights(dir, config, head)?,
            Weights::Init { .. } => config,
        };
        let facts = ModelShape::of(&config);
        let tokenizer = tokenizers.open(weights.tokenizer())?;
        tokenizer.check_vocabulary(u32::try_from(facts.vocab_size).unwrap_or(u32::MAX))?;
        let base = match weights {
            Weights::Directory(dir) => ModelSource::Directory(dir.clone()),
            Weights::Init { .. } => ModelSource::Init {
                config: text,
                carry: Some(tokenizer.directory().into()),
            },
        };
        Ok(Model {
            facts,
            tokenizer,
            base,
            config,
        })
    }

    /// Checks that the weights include the multi-token prediction module, for a stage that runs it.
    pub(crate) fn check_prediction(&self) -> Result<(), LoadError> {
        match (&self.base, self.config.clone().with_prediction()) {
            (ModelSource::Directory(dir), Ok(config)) => {
                check_weights(dir, config, Head::Stored).map(drop)
            }
            // A config.json that announces none is reported in terms of the job file.
            _ => Ok(()),
        }
    }
}

/// A model that rewards ask.
enum JudgeModel {
    /// A reward model and its own tokenizer, if it has one.
    RewardModel(Option<Arc<Tokenizer>>),
    Judge {
        questions: Box<Questions>,
        /// Tokens that question and answer may have together.
        positions: u64,
    },
}

impl JudgeModel {
    fn judge(job: &Job, model: &Model) -> Result<JudgeModel, DataError> {
        let positions = model.facts.max_position_embeddings;
        let telling = Telling {
            date: job.date.as_deref(),
            ..Telling::default()
        };
        Ok(JudgeModel::Judge {
            questions: Box::new(Questions::open(model.tokenizer.clone(), &telling)?),
            positions,
        })
    }

    fn gives(&self) -> Gives {
        match self {
            JudgeModel::RewardModel(_) => Gives::Number,
            JudgeModel::Judge { .. } => Gives::Text,
        }
    }
}

#[derive(Default)]
pub(crate) struct JudgeModels {
    known: BTreeMap<AskedModel, JudgeModel>,
    /// Shapes of the models that rewards name by their directory.
    pub facts: BTreeMap<PathBuf, ModelShape>,
}

fn wants(ask: &Ask) -> Gives {
    if ask.max_tokens == 0 {
        Gives::Number
    } else {
        Gives::Text
    }
}

/// The error of a plugin that asks its model for what the model does not give.
fn other_kind(reward: &Reward, wanted: Gives) -> String {
    let model = reward.model.as_ref().map_or_else(
        || plugin_stem(&reward.plugin.to_string()),
        ToString::to_string,
    );
    let (asks, is, fix) = match wanted {
        Gives::Number => (
            "a number",
            "writes text",
            "name a reward-model stage, or a …ForSequenceClassification with one label",
        ),
        Gives::Text => (
            "text",
            "is a reward model, which gives numbers",
            "name a stage that trains a policy, or a language model",
        ),
    };
    format!(
        "reward `{}`: its plugin {} asks its model for {asks}, and `model` = {model:?} {is}: {fix}",
        reward.name, reward.plugin
    )
}

impl JudgeModels {
    /// Opens the model that a reward asks, and checks by a trial that its plugin asks for what the
    /// model gives.
    pub(crate) fn open(
        &mut self,
        job: &Job,
        (models, tokenizers): (&[Model], &Tokenizers),
        reward: &Reward,
        loaded: &LoadedReward,
    ) -> Result<(), LoadError> {
        let whom = job.asked(reward).ok_or_else(|| LoadError::AsksWhom {
            name: reward.name.clone(),
            plugin: plugin_stem(&reward.plugin.to_string()),
        })?;
        if let Entry::Vacant(place) = self.known.entry(whom.clone()) {
            let (judge_model, facts) = judge_model(job, models, tokenizers, &whom)?;
            place.insert(judge_model);
            if let AskedModel::Directory(dir) = whom {
                self.facts.insert(dir, facts);
            }
        }
        let misfit = self.misfit(job, reward, loaded);
        match misfit.map_err(|source| LoadError::Reward {
            name: reward.name.clone(),
            source,
        })? {
            Some(misfit) => Err(LoadError::OtherKind(misfit)),
            None => Ok(()),
        }
    }

    /// Describes the mistake of a plugin that asks for what its reward's model does not give, as
    /// far as a trial on its golden cases shows; `None` if it shows none.
    pub(crate) fn misfit(
        &self,
        job: &Job,
        reward: &Reward,
        loaded: &LoadedReward,
    ) -> Result<Option<String>, RewardError> {
        let Some(judge_model) = job.asked(reward).and_then(|whom| self.known.get(&whom)) else {
            return Ok(None);
        };
        let wanted = golden::first_question(loaded)?.map(|ask| wants(&ask));
        Ok(wanted
            .filter(|wanted| *wanted != judge_model.gives())
            .map(|wanted| other_kind(reward, wanted)))
    }

    fn of(&self, job: &Job, reward: &Reward) -> Result<&JudgeModel, String> {
        let known = job.asked(reward).and_then(|whom| self.known.get(&whom));
        known.ok_or_else(|| {
            format!(
                "reward `{}` asks a model that is not in the job",
                reward.name
            )
        })
    }

    /// Encodes the questions for the model. `policy` is the tokenizer of the completions, which a
    /// reward model without its own shares; `adds_special` applies to it. An error ends the job.
    pub(crate) fn questions(
        &self,
        job: &Job,
        reward: &Reward,
        asks: Vec<Ask>,
        policy: &Tokenizer,
        adds_special: bool,
    ) -> Result<JudgeRequest, String> {
        let judge_model = self.of(job, reward)?;
        if let Some(ask) = asks.iter().find(|ask| wants(ask) != judge_model.gives()) {
            return Err(other_kind(reward, wants(ask)));
        }
        match judge_model {
            JudgeModel::RewardModel(own) => {
                let tokenizer = own.as_deref().unwrap_or(policy);
                let texts = asks
                    .iter()
                    .map(|ask| tokenizer.encode_whole(&ask.prompt, adds_special));
                Ok(JudgeRequest::Numbers(
                    texts
                        .collect::<Result<_, _>>()
                        .map_err(|error| error.to_string())?,
                ))
            }
            JudgeModel::Judge {
                questions,
                positions,
            } => {
                let question = |ask: &Ask| {
                    let prompt_ids = questions
                        .ids(&ask.prompt)
                        .map_err(|error| error.to_string())?;
                    let left = positions.saturating_sub(prompt_ids.len() as u64);
                    let max_tokens =
                        u64::from(ask.max_tokens.min(reward.max_answer_length)).min(left) as u32;
                    match (prompt_ids.len(), max_tokens) {
                        (0, _) => Err("an empty question".into()),
                        (long, 0) => Err(format!(
                            "the question has {long} tokens, and the judge's positions reach to \
                             {positions}"
                        )),
                        _ => Ok(Question {
                            prompt_ids,
                            max_tokens,
                        }),
                    }
                };
                let stop_ids = questions.tokenizer().eos_ids().to_vec();
                Ok(JudgeRequest::Texts {
                    stop_ids,
                    questions: asks.iter().map(question).collect(),
                })
            }
        }
    }

    /// Decodes the model's answers for the plugin. An error ends the job.
    pub(crate) fn answers(
        &self,
        job: &Job,
        reward: &Reward,
        answers: Answers,
    ) -> Result<Vec<Result<String, String>>, String> {
        match (self.of(job, reward)?, answers) {
            // Use as many digits as distinguish a float32 from its neighbours.
            (JudgeModel::RewardModel(_), Answers::Numbers(numbers)) => Ok(numbers
                .into_iter()
                .map(|number| Ok(number.to_string()))
                .collect()),
            (JudgeModel::Judge { questions, .. }, Answers::Texts(texts)) => {
                let text =
                    |ids: Vec<u32>| questions.answer(&ids).map_err(|error| error.to_string());
                Ok(texts
                    .into_iter()
                    .map(|answer| answer.and_then(text))
                    .collect())
            }
            _ => Err(format!(
                "the answers to reward `{}` are of another kind than its model's",
                reward.name
            )),
        }
    }
}

fn judge_model(
    job: &Job,
    models: &[Model],
    tokenizers: &Tokenizers,
    whom: &AskedModel,
) -> Result<(JudgeModel, ModelShape), LoadError> {
    let model = |index: usize| models.get(index).ok_or(LoadError::NoModel { model: index });
    match whom {
        AskedModel::Stage(index) => {
            let stage = job.stages.get(*index);
            let model = model(stage.map_or(0, |stage| job.model_of(stage)))?;
            let judge_model = if stage.is_some_and(|stage| stage.reward_model().is_some()) {
                JudgeModel::RewardModel(Some(model.tokenizer.clone()))
            } else {
                JudgeModel::judge(job, model)?
            };
            Ok((judge_model, model.facts.clone()))
        }
        AskedModel::Model(index) => {
            let model = model(*index)?;
            let judge_model = match Gives::of(&model.config) {
                Gives::Number => JudgeModel::RewardModel(Some(model.tokenizer.clone())),
                Gives::Text => JudgeModel::judge(job, model)?,
            };
            Ok((judge_model, model.facts.clone()))
        }
        AskedModel::Directory(dir) => {
            let (config, _) = read_config(&dir.join("config.json"))?;
            match Gives::of(&config) {
                Gives::Text => {
                    let weights = Weights::Directory(dir.clone());
                    let model = Model::open(&weights, Head::Stored, tokenizers)?;
                    Ok((JudgeModel::judge(job, &model)?, model.facts))
                }
                Gives::Number => {
                    let facts = ModelShape::of(&check_weights(dir, config, Head::Stored)?);
                    let tokenizer = dir
                        .join("tokenizer.json")
                        .is_file()
                        .then(|| tokenizers.open(dir))
                        .transpose()?;
                    Ok((JudgeModel::RewardModel(tokenizer), facts))
                }
            }
        }
    }
}
