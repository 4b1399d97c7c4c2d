//! Questions to models: judged rewards ask about completions, the worker answers once it has
//! nothing to sample, and the rewards conclude.
//!
//! A reward model answers with a number, a judge with text. Loading a reward shows which of the two
//! it asks; a request holds questions of one reward, and so of one kind.

use crate::message::{Answers, Command, End, JudgeReply, JudgeRequest, Questions, ScoreItem};
use r1d_proto::ids::SampleKey;
use r1d_proto::verdict::Verdict;
use r1d_proto::worker::{Answer, ModelSource, Question, Reply, WorkerRequest};
use std::collections::BTreeMap;

/// Number of questions in one request (`LIM-1`). With [`TOKENS_MAX`], a request takes about a tenth
/// of what a frame holds.
const QUESTIONS_MAX: usize = 4096;
/// Tokens of one request's questions and of the longest answers to them.
const TOKENS_MAX: usize = 4 << 20;

/// The models that a job's judged rewards ask, by the reward's name.
pub type JudgeModels = BTreeMap<String, ModelSource>;

/// Questions that wait, the one request in flight, and completions whose rewards are concluding.
#[derive(Debug, Default)]
pub struct JudgeQueue {
    models: JudgeModels,
    waiting: BTreeMap<SampleKey, Waiting>,
    in_flight: Option<InFlight>,
    concluding: BTreeMap<SampleKey, (Vec<Verdict>, String)>,
}

/// The request that the worker has: questions of one reward.
#[derive(Debug)]
struct InFlight {
    reward: String,
    writes: bool,
    keys: Vec<SampleKey>,
}

/// A completion that lacks only the verdicts that models are asked for.
#[derive(Debug)]
struct Waiting {
    item: ScoreItem,
    verdicts: Vec<Verdict>,
    text: String,
    /// Questions that are not answered yet.
    asked: Vec<JudgeRequest>,
    answers: BTreeMap<String, Answers>,
}

/// The worker's answers to one request, in the order of its questions.
#[derive(Debug)]
pub enum JudgeAnswers {
    /// Scores of a reward model, one per text.
    Numbers(Vec<f32>),
    /// Token ids of a judge's answers, one list per question.
    Texts(Vec<Vec<u32>>),
}

impl JudgeAnswers {
    /// The answers that a reply holds; `None` for a reply to another kind of request.
    pub fn of(reply: Reply) -> Option<JudgeAnswers> {
        match reply {
            Reply::Scored { scores } => Some(JudgeAnswers::Numbers(scores)),
            Reply::Answered { answers } => Some(JudgeAnswers::Texts(answers)),
            _ => None,
        }
    }
}

fn breach(what: impl Into<String>) -> End {
    End::Abandoned { cause: what.into() }
}

impl Questions {
    fn writes(&self) -> bool {
        matches!(self, Questions::Texts { .. })
    }

    /// Number of questions that the worker gets, and the most tokens that they can take with their
    /// answers.
    fn size(&self) -> (usize, usize) {
        let asked = |question: &Question| question.prompt_ids.len() + question.max_tokens as usize;
        match self {
            Questions::Numbers(texts) => (texts.len(), texts.iter().map(Vec::len).sum()),
            Questions::Texts { questions, .. } => questions
                .iter()
                .flatten()
                .fold((0, 0), |(count, tokens), question| {
                    (count + 1, tokens + asked(question))
                }),
        }
    }

    /// Takes the answers to these questions from the front of `said`; `None` if there are too few.
    fn answered(self, said: &mut Remaining) -> Option<Answers> {
        match (self, said) {
            (Questions::Numbers(texts), Remaining::Numbers(numbers)) => {
                let answers: Vec<f32> = numbers.by_ref().take(texts.len()).collect();
                (answers.len() == texts.len()).then_some(Answers::Numbers(answers))
            }
            (Questions::Texts { questions, .. }, Remaining::Texts(texts)) => {
                let answer = |question: Result<Question, String>| match question {
                    Ok(_) => texts.next().map(Ok),
                    Err(why) => Some(Err(why)),
                };
                questions
                    .into_iter()
                    .map(answer)
                    .collect::<Option<_>>()
                    .map(Answers::Texts)
            }
            _ => None,
        }
    }
}

/// Answers that are not yet matched with their questions.
enum Remaining {
    Numbers(std::vec::IntoIter<f32>),
    Texts(std::vec::IntoIter<Vec<u32>>),
}

/// The questions of one request, as they are gathered.
#[derive(Default)]
struct QuestionBatch {
    texts: Vec<Vec<u32>>,
    questions: Vec<Question>,
    stop_ids: Vec<u32>,
    count: usize,
    tokens: usize,
}

impl QuestionBatch {
    fn has_room(&self, asked: &Questions) -> bool {
        let (count, tokens) = asked.size();
        self.count + count <= QUESTIONS_MAX && self.tokens + tokens <= TOKENS_MAX
    }

    fn add(&mut self, asked: &Questions) {
        let (count, tokens) = asked.size();
        (self.count, self.tokens) = (self.count + count, self.tokens + tokens);
        match asked {
            Questions::Numbers(texts) => self.texts.extend(texts.iter().cloned()),
            Questions::Texts {
                stop_ids,
                questions,
            } => {
                self.questions.extend(questions.iter().flatten().cloned());
                self.stop_ids.clone_from(stop_ids);
            }
        }
    }

    /// The request to `model`, which writes its answers or gives numbers.
    fn request(self, model: ModelSource, writes: bool) -> WorkerRequest {
        if writes {
            WorkerRequest::Answer(Answer {
                model,
                stop_ids: self.stop_ids,
                questions: self.questions,
            })
        } else {
            WorkerRequest::Score {
                model: Some(model),
                sequences: self.texts,
            }
        }
    }
}

impl JudgeQueue {
    /// An empty queue whose questions go to these models.
    pub fn of(models: JudgeModels) -> JudgeQueue {
        JudgeQueue {
            models,
            ..JudgeQueue::default()
        }
    }

    /// Number of completions that wait for answers.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The request in flight: `reward model` or `judge`, the reward's name, and the number of
    /// completions.
    pub fn in_flight(&self) -> Option<(&str, &str, usize)> {
        let whom = |writes| if writes { "judge" } else { "reward model" };
        self.in_flight.as_ref().map(
            |InFlight {
                 reward,
                 writes,
                 keys,
             }| (whom(*writes), reward.as_str(), keys.len()),
        )
    }

    /// Adds a completion with the verdicts that it already has, and the questions of the rewards
    /// that ask. `text` is the completion's text.
    pub fn add(
        &mut self,
        item: ScoreItem,
        verdicts: Vec<Verdict>,
        asked: Vec<JudgeRequest>,
        text: String,
    ) {
        let key = item.key;
        self.waiting.insert(
            key,
            Waiting {
                item,
                verdicts,
                text,
                asked,
                answers: BTreeMap::new(),
            },
        );
    }

    /// Returns the next request to the worker; when everything is answered, the command that sends
    /// the completions back to their rewards. `None` while a request is in flight, and if no
    /// completion waits. Completions are taken in the order of their keys, not of arrival: a
    /// request is a function of what was sampled.
    pub fn next_request(&mut self) -> Result<Option<Command>, End> {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return Ok(None);
        }
        self.answer_unaskable();
        let first = self
            .waiting
            .values()
            .flat_map(|waiting| &waiting.asked)
            .min_by(|a, b| a.reward.cmp(&b.reward));
        let Some(first) = first else {
            return Ok(Some(self.conclude()));
        };
        let (reward, writes) = (first.reward.clone(), first.questions.writes());
        let model = self
            .models
            .get(&reward)
            .cloned()
            .ok_or_else(|| End::Failed {
                error: format!(
                    "reward `{reward}` asks a model, and the job has none for it: set `model` in \
                     its [[stage.reward]]"
                ),
            })?;
        let mut batch = QuestionBatch::default();
        let mut keys = Vec::new();
        for (key, waiting) in &self.waiting {
            let Some(asked) = waiting.asked.iter().find(|asked| asked.reward == reward) else {
                continue;
            };
            if asked.questions.writes() != writes {
                return Err(End::Failed {
                    error: format!(
                        "reward `{reward}` asks its model now for a number, now for text"
                    ),
                });
            }
            if !keys.is_empty() && !batch.has_room(&asked.questions) {
                break;
            }
            batch.add(&asked.questions);
            keys.push(*key);
        }
        self.in_flight = Some(InFlight {
            reward,
            writes,
            keys,
        });
        Ok(Some(Command::Worker(Box::new(
            batch.request(model, writes),
        ))))
    }

    /// Answers the rewards that have no question which can be asked: there is nothing to wait for.
    fn answer_unaskable(&mut self) {
        for waiting in self.waiting.values_mut() {
            let (asked, unaskable) = std::mem::take(&mut waiting.asked)
                .into_iter()
                .partition(|asked| asked.questions.size().0 > 0);
            waiting.asked = asked;
            for JudgeRequest { reward, questions } in unaskable {
                let mut nobody = if questions.writes() {
                    Remaining::Texts(Vec::new().into_iter())
                } else {
                    Remaining::Numbers(Vec::new().into_iter())
                };
                waiting.answers.extend(
                    questions
                        .answered(&mut nobody)
                        .map(|answers| (reward, answers)),
                );
            }
        }
    }

    fn conclude(&mut self) -> Command {
        let mut answered = Vec::new();
        for (
            key,
            Waiting {
                item,
                verdicts,
                text,
                answers,
                ..
            },
        ) in std::mem::take(&mut self.waiting)
        {
            self.concluding.insert(key, (verdicts, text));
            answered.push(JudgeReply { item, answers });
        }
        Command::Conclude(answered)
    }

    /// Takes the worker's answers to the request in flight. Too few or too many are an error.
    pub fn answered(&mut self, said: JudgeAnswers) -> Result<(), End> {
        let InFlight { reward, keys, .. } = self
            .in_flight
            .take()
            .ok_or_else(|| breach("answers that nobody asked for"))?;
        let mut said = match said {
            JudgeAnswers::Numbers(numbers) => Remaining::Numbers(numbers.into_iter()),
            JudgeAnswers::Texts(texts) => Remaining::Texts(texts.into_iter()),
        };
        for key in keys {
            let Some(waiting) = self.waiting.get_mut(&key) else {
                continue;
            };
            let Some(at) = waiting
                .asked
                .iter()
                .position(|asked| asked.reward == reward)
            else {
                continue;
            };
            let answers = waiting.asked.remove(at).questions.answered(&mut said);
            let answers = answers.ok_or_else(|| {
                breach(format!(
                    "the worker has too few answers for reward `{reward}`"
                ))
            })?;
            waiting.answers.insert(reward.clone(), answers);
        }
        let more = match &mut said {
            Remaining::Numbers(numbers) => numbers.next().is_some(),
            Remaining::Texts(texts) => texts.next().is_some(),
        };
        if more {
            Err(breach(format!(
                "the worker has too many answers for reward `{reward}`"
            )))
        } else {
            Ok(())
        }
    }

    /// Takes the verdicts of the rewards that had asked. Returns all verdicts on the completion,
    /// and its text.
    pub fn concluded(
        &mut self,
        key: SampleKey,
        concluded: Vec<Verdict>,
    ) -> Result<(Vec<Verdict>, String), End> {
        let (mut verdicts, text) = self
            .concluding
            .remove(&key)
            .ok_or_else(|| breach(format!("verdicts on {key:?}, which nobody asked about")))?;
        verdicts.extend(concluded);
        Ok((verdicts, text))
    }
}
