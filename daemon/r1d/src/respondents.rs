//! Whom a job's judged rewards ask: reward models, which answer with a number, and judges, which
//! write. A question becomes token ids here, an answer becomes text.

use crate::materials::MaterialsError;
use crate::weights::{Gives, check_weights, read_config};
use r1d_data::{DataError, Questions, Telling, Tokenizer};
use r1d_job::reward::plugin_stem;
use r1d_job::{Answering, Job, ModelFacts, Reward, Weights};
use r1d_proto::worker::{ModelSource, Question};
use r1d_rewards::{Ask, LoadedReward, RewardError, golden};
use r1d_runner::{Answers, Questions as Asked};
use r1d_shape::{Config, Head};
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::PathBuf;
use std::sync::Arc;

/// A model of the job, as far as the control plane knows it.
pub struct Model {
    pub facts: ModelFacts,
    pub tokenizer: Arc<Tokenizer>,
    pub base: ModelSource,
    config: Config,
}

impl Model {
    /// Errors name the file. With a fresh `head` the weights of a language model need none of their
    /// own.
    pub fn open(weights: &Weights, head: Head) -> Result<Model, MaterialsError> {
        let (config, text) = read_config(&weights.config())?;
        let config = match weights {
            Weights::Directory(dir) => check_weights(dir, config, head)?,
            Weights::Init { .. } => config,
        };
        let facts = ModelFacts::of(&config);
        let tokenizer = Tokenizer::open(weights.tokenizer())?;
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
            tokenizer: Arc::new(tokenizer),
            base,
            config,
        })
    }

    /// The weights have the multi-token prediction module too, for a stage that runs it.
    pub fn check_prediction(&self) -> Result<(), MaterialsError> {
        match (&self.base, self.config.clone().with_prediction()) {
            (ModelSource::Directory(dir), Ok(config)) => {
                check_weights(dir, config, Head::Stored).map(drop)
            }
            // That config.json announces none is told in the job's own words.
            _ => Ok(()),
        }
    }
}

/// A model that is asked.
enum Respondent {
    /// With its own tokenizer, where it has one.
    RewardModel(Option<Arc<Tokenizer>>),
    Judge {
        questions: Box<Questions>,
        /// Tokens of question and answer.
        positions: u64,
    },
}

impl Respondent {
    fn judge(job: &Job, model: &Model) -> Result<Respondent, DataError> {
        let positions = model.facts.max_position_embeddings;
        let telling = Telling {
            date: job.date.as_deref(),
            ..Telling::default()
        };
        Ok(Respondent::Judge {
            questions: Box::new(Questions::open(model.tokenizer.clone(), &telling)?),
            positions,
        })
    }

    fn gives(&self) -> Gives {
        match self {
            Respondent::RewardModel(_) => Gives::Number,
            Respondent::Judge { .. } => Gives::Text,
        }
    }
}

#[derive(Default)]
pub struct Respondents {
    known: BTreeMap<Answering, Respondent>,
    /// Of those that rewards name by their directory.
    pub facts: BTreeMap<PathBuf, ModelFacts>,
}

fn wants(ask: &Ask) -> Gives {
    if ask.max_tokens == 0 {
        Gives::Number
    } else {
        Gives::Text
    }
}

/// A plugin asks a model for what it does not give.
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

impl Respondents {
    /// Opens whom a reward asks, and sees by a trial that its plugin asks for what that gives.
    pub fn open(
        &mut self,
        job: &Job,
        models: &[Model],
        reward: &Reward,
        loaded: &LoadedReward,
    ) -> Result<(), MaterialsError> {
        let whom = job.asked(reward).ok_or_else(|| MaterialsError::AsksWhom {
            name: reward.name.clone(),
            plugin: plugin_stem(&reward.plugin.to_string()),
        })?;
        if let Entry::Vacant(place) = self.known.entry(whom.clone()) {
            let (respondent, facts) = respondent(job, models, &whom)?;
            place.insert(respondent);
            if let Answering::Directory(dir) = whom {
                self.facts.insert(dir, facts);
            }
        }
        let misfit = self.misfit(job, reward, loaded);
        match misfit.map_err(|source| MaterialsError::Reward {
            name: reward.name.clone(),
            source,
        })? {
            Some(misfit) => Err(MaterialsError::OtherKind(misfit)),
            None => Ok(()),
        }
    }

    /// What is wrong with a plugin that asks for what its reward's model does not give, as far as a
    /// trial on its golden cases shows.
    pub fn misfit(
        &self,
        job: &Job,
        reward: &Reward,
        loaded: &LoadedReward,
    ) -> Result<Option<String>, RewardError> {
        let Some(respondent) = job.asked(reward).and_then(|whom| self.known.get(&whom)) else {
            return Ok(None);
        };
        let wanted = golden::first_question(loaded)?.map(|ask| wants(&ask));
        Ok(wanted
            .filter(|wanted| *wanted != respondent.gives())
            .map(|wanted| other_kind(reward, wanted)))
    }

    fn of(&self, job: &Job, reward: &Reward) -> Result<&Respondent, String> {
        let known = job.asked(reward).and_then(|whom| self.known.get(&whom));
        known.ok_or_else(|| {
            format!(
                "reward `{}` asks a model that is not in the job",
                reward.name
            )
        })
    }

    /// The questions as the model reads them. `policy` is the tokenizer of the completions, which a
    /// reward model without one of its own shares; `adds_special` holds for it. An error ends the
    /// job.
    pub fn questions(
        &self,
        job: &Job,
        reward: &Reward,
        asks: Vec<Ask>,
        policy: &Tokenizer,
        adds_special: bool,
    ) -> Result<Asked, String> {
        let respondent = self.of(job, reward)?;
        if let Some(ask) = asks.iter().find(|ask| wants(ask) != respondent.gives()) {
            return Err(other_kind(reward, wants(ask)));
        }
        match respondent {
            Respondent::RewardModel(own) => {
                let tokenizer = own.as_deref().unwrap_or(policy);
                let texts = asks
                    .iter()
                    .map(|ask| tokenizer.encode_whole(&ask.prompt, adds_special));
                Ok(Asked::Numbers(
                    texts
                        .collect::<Result<_, _>>()
                        .map_err(|error| error.to_string())?,
                ))
            }
            Respondent::Judge {
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
                Ok(Asked::Texts {
                    stop_ids,
                    questions: asks.iter().map(question).collect(),
                })
            }
        }
    }

    /// What the model said, as the plugin reads it. An error ends the job.
    pub fn answers(
        &self,
        job: &Job,
        reward: &Reward,
        answers: Answers,
    ) -> Result<Vec<Result<String, String>>, String> {
        match (self.of(job, reward)?, answers) {
            // In as many digits as tell a float32 from its neighbours.
            (Respondent::RewardModel(_), Answers::Numbers(numbers)) => Ok(numbers
                .into_iter()
                .map(|number| Ok(number.to_string()))
                .collect()),
            (Respondent::Judge { questions, .. }, Answers::Texts(texts)) => {
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

fn respondent(
    job: &Job,
    models: &[Model],
    whom: &Answering,
) -> Result<(Respondent, ModelFacts), MaterialsError> {
    let model = |index: usize| {
        models
            .get(index)
            .ok_or(MaterialsError::NoModel { model: index })
    };
    match whom {
        Answering::Stage(index) => {
            let stage = job.stages.get(*index);
            let model = model(stage.map_or(0, |stage| job.model_of(stage)))?;
            let respondent = match stage.is_some_and(|stage| stage.reward_model().is_some()) {
                true => Respondent::RewardModel(Some(model.tokenizer.clone())),
                false => Respondent::judge(job, model)?,
            };
            Ok((respondent, model.facts.clone()))
        }
        Answering::Model(index) => {
            let model = model(*index)?;
            let respondent = match Gives::of(&model.config) {
                Gives::Number => Respondent::RewardModel(Some(model.tokenizer.clone())),
                Gives::Text => Respondent::judge(job, model)?,
            };
            Ok((respondent, model.facts.clone()))
        }
        Answering::Directory(dir) => {
            let (config, _) = read_config(&dir.join("config.json"))?;
            match Gives::of(&config) {
                Gives::Text => {
                    let model = Model::open(&Weights::Directory(dir.clone()), Head::Stored)?;
                    Ok((Respondent::judge(job, &model)?, model.facts))
                }
                Gives::Number => {
                    let facts = ModelFacts::of(&check_weights(dir, config, Head::Stored)?);
                    let tokenizer = dir
                        .join("tokenizer.json")
                        .is_file()
                        .then(|| Tokenizer::open(dir))
                        .transpose()?;
                    Ok((Respondent::RewardModel(tokenizer.map(Arc::new)), facts))
                }
            }
        }
    }
}
