//! Questions to reward models: judged rewards ask about completions, the worker answers once it has nothing to sample, the rewards conclude.

use crate::message::{Answered, Asked, Command, End, ScoreItem};
use r1d_proto::ids::SampleKey;
use r1d_proto::verdict::Verdict;
use r1d_proto::worker::{ModelSource, Request};
use std::collections::BTreeMap;

/// Texts of one request (`LIM-1`).
const TEXTS_MAX: usize = 4096;

/// Whom a job's judged rewards ask, by reward.
pub type RewardModels = BTreeMap<String, ModelSource>;

#[derive(Debug, Default)]
pub struct Asks {
    models: RewardModels,
    waiting: BTreeMap<SampleKey, Waiting>,
    /// The reward that the worker is asked for, and the completions.
    in_flight: Option<(String, Vec<SampleKey>)>,
    concluding: BTreeMap<SampleKey, (Vec<Verdict>, String)>,
}

/// A completion that is judged but for what its reward models say.
#[derive(Debug)]
struct Waiting {
    item: ScoreItem,
    verdicts: Vec<Verdict>,
    text: String,
    /// Not answered yet.
    asked: Vec<Asked>,
    answers: BTreeMap<String, Vec<f32>>,
}

fn breach(what: impl Into<String>) -> End {
    End::Abandoned { cause: what.into() }
}

impl Asks {
    pub fn of(models: RewardModels) -> Asks {
        Asks { models, ..Asks::default() }
    }

    /// Completions that wait for the worker.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The reward and the number of completions that the worker is asked about.
    pub fn in_flight(&self) -> Option<(&str, usize)> {
        self.in_flight.as_ref().map(|(reward, keys)| (reward.as_str(), keys.len()))
    }

    pub fn add(&mut self, item: ScoreItem, verdicts: Vec<Verdict>, asked: Vec<Asked>, text: String) {
        let key = item.key;
        self.waiting.insert(key, Waiting { item, verdicts, text, asked, answers: BTreeMap::new() });
    }

    /// The next request to the worker; when everything is answered, the completions go back to their rewards. `None` while an answer is awaited, and when
    /// nobody asks. In the order of the completions, whatever order they came in: a request is a function of what was sampled.
    pub fn next_request(&mut self) -> Result<Option<Command>, End> {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return Ok(None);
        }
        let reward = self.waiting.values().flat_map(|waiting| &waiting.asked).map(|asked| asked.reward.as_str()).min();
        let Some(reward) = reward.map(String::from) else { return Ok(Some(self.conclude())) };
        let model =
            self.models.get(&reward).cloned().ok_or_else(|| End::Failed {
                error: format!("reward `{reward}` asks a reward model, and the job has none for it"),
            })?;
        let (mut sequences, mut keys) = (Vec::new(), Vec::new());
        for (key, waiting) in &self.waiting {
            if let Some(asked) = waiting.asked.iter().find(|asked| asked.reward == reward) {
                if !keys.is_empty() && sequences.len() + asked.texts.len() > TEXTS_MAX {
                    break;
                }
                sequences.extend(asked.texts.iter().cloned());
                keys.push(*key);
            }
        }
        self.in_flight = Some((reward, keys));
        Ok(Some(Command::Worker(Box::new(Request::Score { model: Some(model), sequences }))))
    }

    fn conclude(&mut self) -> Command {
        let mut answered = Vec::new();
        for (key, Waiting { item, verdicts, text, answers, .. }) in std::mem::take(&mut self.waiting) {
            self.concluding.insert(key, (verdicts, text));
            answered.push(Answered { item, answers });
        }
        Command::Conclude(answered)
    }

    /// The worker's answer to the request in flight.
    pub fn answered(&mut self, scores: Vec<f32>) -> Result<(), End> {
        let (reward, keys) = self.in_flight.take().ok_or_else(|| breach("scores that nobody asked for"))?;
        let mut scores = scores.into_iter();
        for key in keys {
            let Some(waiting) = self.waiting.get_mut(&key) else { continue };
            let Some(at) = waiting.asked.iter().position(|asked| asked.reward == reward) else { continue };
            let asked = waiting.asked.remove(at);
            let answers: Vec<f32> = scores.by_ref().take(asked.texts.len()).collect();
            if answers.len() < asked.texts.len() {
                return Err(breach(format!("the worker has too few scores for reward `{reward}`")));
            }
            waiting.answers.insert(reward.clone(), answers);
        }
        match scores.next() {
            Some(_) => Err(breach(format!("the worker has too many scores for reward `{reward}`"))),
            None => Ok(()),
        }
    }

    /// All verdicts on a completion, and its text.
    pub fn concluded(&mut self, key: SampleKey, concluded: Vec<Verdict>) -> Result<(Vec<Verdict>, String), End> {
        let (mut verdicts, text) =
            self.concluding.remove(&key).ok_or_else(|| breach(format!("verdicts on {key:?}, which nobody asked about")))?;
        verdicts.extend(concluded);
        Ok((verdicts, text))
    }
}
