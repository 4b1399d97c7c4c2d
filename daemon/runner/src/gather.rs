//! Gathers the completions of a set of prompts: it requests them from the worker, sends each to the
//! rewards as it ends, and takes answers in any order.

use crate::judge_queue::{JudgeAnswers, JudgeModels, JudgeQueue};
use crate::message::{Command, End, JudgeRequest, Prompt, ScoreItem, Source};
use crate::plan::Limits;
use crate::wait::{LastHeard, Wait};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::Rollout;
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::verdict::Verdict;
use r1d_proto::worker::{self, Generate, Metrics, WorkerRequest};
use std::collections::BTreeSet;
use std::time::Duration;

/// The completions of one prompt.
#[derive(Debug)]
pub struct Group {
    /// The prompt.
    pub prompt: Prompt,
    /// One per completion that is asked for.
    pub samples: Vec<Sample>,
}

/// How far a completion of a group is.
#[derive(Debug)]
pub enum Sample {
    /// The worker has not finished it.
    Missing,
    /// The rewards, or the models that they ask, have it.
    Scoring(Box<Rollout>),
    /// All its verdicts are here.
    Scored(Box<Judged>),
}

/// A completion with its verdicts.
#[derive(Debug)]
pub struct Judged {
    /// The completion; in an evaluation without prompt ids, log-probabilities, experts and sampling
    /// mask.
    pub rollout: Rollout,
    /// One verdict per reward that judges its row.
    pub verdicts: Vec<Verdict>,
    /// The weighted sum of the verdicts' values; `None` if a verdict takes the completion out of
    /// training, or no reward judges its row.
    pub reward: Option<f32>,
    /// The completion's final answer, from [`final_answer`](crate::answer::final_answer).
    pub answer: String,
}

/// The state of gathering: where the completions belong, those that are here, and what is awaited.
#[derive(Debug)]
pub struct Gather {
    of: Source,
    stage: u32,
    step: u64,
    /// Whether completions go to the rewards as whole groups, once all of a group is sampled.
    whole_groups: bool,
    /// Groups in the order of their prompts.
    pub groups: Vec<Group>,
    /// Whether a request for completions is in flight to the worker.
    generating: bool,
    scoring: BTreeSet<SampleKey>,
    /// Those completions of `scoring` that wait for a model's answers.
    judge_queue: JudgeQueue,
    since: Duration,
    /// When the worker or the rewards last answered.
    heard: Duration,
    /// When the job's rewards last made progress, or were known to wait for their turn: a whole
    /// verdict may take many calls, and time spent on other jobs' rewards does not count against
    /// this one (`RWD-2`).
    judging: Duration,
    /// Sums of `timing_s/*` over the requests, measured by the worker and here, and the newest
    /// `perf/*`.
    pub timings: Metrics,
}

fn add(timings: &mut Metrics, name: &str, seconds: f64) {
    *timings.entry(name.into()).or_insert(0.0) += seconds;
}

fn breach(what: impl Into<String>) -> End {
    End::Abandoned {
        cause: format!("the worker broke its protocol: {}", what.into()),
    }
}

impl Gather {
    /// An empty set of completions of one step of `of`; `stage` and `step` are those of their keys.
    /// `whole_groups`: completions go to the rewards as whole groups. `models` answer the rewards'
    /// questions.
    pub fn new(
        of: Source,
        stage: usize,
        step: u64,
        whole_groups: bool,
        models: JudgeModels,
        now: Duration,
    ) -> Gather {
        Gather {
            of,
            stage: stage as u32,
            step,
            whole_groups,
            groups: Vec::new(),
            generating: false,
            scoring: BTreeSet::new(),
            judge_queue: JudgeQueue::of(models),
            since: now,
            heard: now,
            judging: now,
            timings: Metrics::new(),
        }
    }

    /// Adds a prompt with this many completions to sample.
    pub fn add_group(&mut self, prompt: Prompt, samples: u32) {
        self.groups.push(Group {
            prompt,
            samples: (0..samples).map(|_| Sample::Missing).collect(),
        });
    }

    fn group(&self, key: SampleKey) -> Option<&Group> {
        let here = key.stage == self.stage && key.step == self.step;
        self.groups.get(key.prompt as usize).filter(|_| here)
    }

    fn sample(&mut self, key: SampleKey) -> Option<&mut Sample> {
        self.group(key)?;
        self.groups
            .get_mut(key.prompt as usize)?
            .samples
            .get_mut(key.sample as usize)
    }

    /// The key of completion `sample` of prompt `prompt`, both from 0.
    pub fn key(&self, prompt: usize, sample: usize) -> SampleKey {
        SampleKey {
            stage: self.stage,
            step: self.step,
            prompt: prompt as u32,
            sample: sample as u32,
        }
    }

    /// Whether a completion that the journal still has belongs to one of these prompts.
    pub fn fits(&self, rollout: &Rollout) -> bool {
        self.group(rollout.key)
            .is_some_and(|g| g.prompt.row == rollout.row && g.prompt.ids == rollout.prompt_ids)
    }

    /// Returns the request for all missing completions; `None` if nothing is missing. With
    /// `record_experts`, the worker records the experts that each token took.
    pub fn request(
        &mut self,
        sampling: Sampling,
        record_experts: bool,
        policy_version: u64,
        now: Duration,
    ) -> Option<Command> {
        let missing = |group: &Group| -> Vec<u32> {
            let samples = group.samples.iter().enumerate();
            samples
                .filter(|(_, s)| matches!(s, Sample::Missing))
                .map(|(i, _)| i as u32)
                .collect()
        };
        let groups: Vec<_> = (self.groups.iter().enumerate())
            .map(|(i, g)| worker::Group {
                prompt: i as u32,
                row: g.prompt.row,
                prompt_ids: g.prompt.ids.clone(),
                samples: missing(g),
            })
            .filter(|group| !group.samples.is_empty())
            .collect();
        if groups.is_empty() {
            return None;
        }
        (self.generating, self.since, self.heard) = (true, now, now);
        let request = Generate {
            stage: self.stage,
            step: self.step,
            policy_version,
            sampling,
            record_experts,
            groups,
        };
        Some(Command::Worker(Box::new(WorkerRequest::Generate(request))))
    }

    /// Takes a completion that has ended. It goes to the rewards, or waits for the rest of its
    /// group. Without `keeps_record`, whatever only training needs of it is dropped.
    pub fn completed(
        &mut self,
        mut rollout: Rollout,
        keeps_record: bool,
        now: Duration,
    ) -> Result<Option<Command>, End> {
        let key = rollout.key;
        if !self.fits(&rollout) {
            return Err(breach(format!(
                "a completion {key:?} that was not asked for"
            )));
        }
        if rollout.behaviour_logprobs.len() != rollout.completion_ids.len()
            || rollout.completion_ids.is_empty()
        {
            return Err(breach(format!(
                "completion {key:?} has {} ids and {} log-probs",
                rollout.completion_ids.len(),
                rollout.behaviour_logprobs.len()
            )));
        }
        let item = ScoreItem::of(self.of, &rollout);
        if !keeps_record {
            // An evaluation can be large, and its completions do not train.
            rollout.prompt_ids = Vec::new();
            rollout.behaviour_logprobs = Vec::new();
            rollout.experts = Vec::new();
            rollout.kept_ids = SamplingMask::default();
        }
        match self.sample(key) {
            Some(sample @ Sample::Missing) => *sample = Sample::Scoring(Box::new(rollout)),
            _ => return Err(breach(format!("completion {key:?} came twice"))),
        }
        self.scoring.insert(key);
        self.heard = now;
        if !self.whole_groups {
            return Ok(Some(Command::Score(vec![item])));
        }
        let items = |group: &Group| -> Option<Vec<ScoreItem>> {
            let sampled = |sample: &Sample| match sample {
                Sample::Scoring(rollout) => Some(ScoreItem::of(self.of, rollout)),
                Sample::Missing | Sample::Scored(_) => None,
            };
            group.samples.iter().map(sampled).collect()
        };
        Ok(self.group(key).and_then(items).map(Command::Score))
    }

    /// Whether the verdicts that the journal has on a completion can be used. A group that is
    /// judged whole needs verdicts on all its completions.
    pub fn counts_as_scored(
        &self,
        key: SampleKey,
        has_verdicts: impl Fn(SampleKey) -> bool,
    ) -> bool {
        if !self.whole_groups {
            return has_verdicts(key);
        }
        let samples = self
            .group(key)
            .map_or(0, |group| group.samples.len() as u32);
        (0..samples).all(|sample| has_verdicts(SampleKey { sample, ..key }))
    }

    /// Takes what the rewards return for a completion. Returns all verdicts and the text, or `None`
    /// if a reward first asks a model (`asked`).
    pub fn judged(
        &mut self,
        key: SampleKey,
        verdicts: Vec<Verdict>,
        asked: Vec<JudgeRequest>,
        text: String,
        now: Duration,
    ) -> Result<Option<(Vec<Verdict>, String)>, End> {
        if asked.is_empty() {
            return Ok(Some((verdicts, text)));
        }
        let of = self.of;
        match self.sample(key) {
            Some(Sample::Scoring(rollout)) => {
                let item = ScoreItem::of(of, rollout);
                self.judge_queue.add(item, verdicts, asked, text);
                self.heard = now;
                Ok(None)
            }
            _ => Err(End::Abandoned {
                cause: format!("questions about {key:?}, which was not asked for"),
            }),
        }
    }

    /// Takes a model's answers to the questions in flight.
    pub fn answered(&mut self, said: JudgeAnswers, now: Duration) -> Result<(), End> {
        let timing = match said {
            JudgeAnswers::Numbers(_) => "timing_s/reward_model",
            JudgeAnswers::Texts(_) => "timing_s/judge",
        };
        add(
            &mut self.timings,
            timing,
            now.saturating_sub(self.heard).as_secs_f64(),
        );
        self.heard = now;
        self.judge_queue.answered(said)
    }

    /// Takes the last verdicts on a completion that models were asked about. Returns all its
    /// verdicts, and its text.
    pub fn concluded(
        &mut self,
        key: SampleKey,
        verdicts: Vec<Verdict>,
    ) -> Result<(Vec<Verdict>, String), End> {
        self.judge_queue.concluded(key, verdicts)
    }

    /// Returns the next questions to a model, or the completions whose questions are all answered.
    /// `None` until the worker has nothing to sample and the rewards have no further questions.
    pub fn next_question(&mut self, now: Duration) -> Result<Option<Command>, End> {
        if self.generating || self.scoring.len() > self.judge_queue.waiting() {
            return Ok(None);
        }
        let command = self.judge_queue.next_request()?;
        if command.is_some() {
            self.heard = now;
        }
        Ok(command)
    }

    /// Records a completion's verdicts and its reward. A completion that is not awaited is an
    /// error.
    pub fn scored(
        &mut self,
        key: SampleKey,
        verdicts: Vec<Verdict>,
        reward: Option<f32>,
        answer: String,
        now: Duration,
    ) -> Result<(), End> {
        let slot = self.sample(key).ok_or_else(|| End::Abandoned {
            cause: format!("verdicts on {key:?}, which was not asked for"),
        })?;
        match std::mem::replace(slot, Sample::Missing) {
            Sample::Scoring(rollout) => {
                *slot = Sample::Scored(Box::new(Judged {
                    rollout: *rollout,
                    verdicts,
                    reward,
                    answer,
                }))
            }
            other => {
                *slot = other;
                return Err(End::Abandoned {
                    cause: format!("verdicts on {key:?} came twice"),
                });
            }
        }
        self.scoring.remove(&key);
        if !self.generating {
            add(
                &mut self.timings,
                "timing_s/scoring",
                now.saturating_sub(self.heard).as_secs_f64(),
            );
        }
        self.heard = now;
        Ok(())
    }

    /// Takes the end of the worker's request. Any completion that is still missing is an error.
    pub fn generated(&mut self, metrics: &Metrics, now: Duration) -> Result<(), End> {
        if let Some(group) = self
            .groups
            .iter()
            .position(|g| g.samples.iter().any(|s| matches!(s, Sample::Missing)))
        {
            return Err(breach(format!(
                "it ended without all completions of prompt {group}"
            )));
        }
        // The trainer measures what depends on the weights; only time and speed are taken from the
        // sampler.
        for (name, value) in metrics {
            if name.starts_with("timing_s/") {
                add(&mut self.timings, name, *value);
            } else if name.starts_with("perf/") {
                self.timings.insert(name.clone(), *value);
            }
        }
        (self.generating, self.heard) = (false, now);
        Ok(())
    }

    /// Whether everything that was requested is sampled and scored.
    pub fn is_complete(&self) -> bool {
        !self.generating && self.scoring.is_empty()
    }

    /// Whether a request for completions is in flight.
    pub fn is_generating(&self) -> bool {
        self.generating
    }

    /// The model whose questions the worker is answering, in words: `the judge of` a reward, or
    /// `the reward model of` it. `None` if it is not answering any.
    pub fn asked(&self) -> Option<String> {
        self.judge_queue
            .in_flight()
            .map(|(whom, reward, _)| format!("the {whom} of `{reward}`"))
    }

    /// Whether the worker samples, or answers questions about what it has sampled.
    pub fn worker_is_busy(&self) -> bool {
        self.generating || self.judge_queue.in_flight().is_some()
    }

    /// Numbers of completions: those that are scored, those that have ended, and all.
    pub fn counts(&self) -> (u64, u64, u64) {
        let samples = self.groups.iter().flat_map(|g| &g.samples);
        samples.fold((0, 0, 0), |(scored, ended, all), sample| match sample {
            Sample::Missing => (scored, ended, all + 1),
            Sample::Scoring(_) => (scored, ended + 1, all + 1),
            Sample::Scored(_) => (scored + 1, ended + 1, all + 1),
        })
    }

    /// Notes that the job's rewards make progress or wait for their turn, so that the deadline of
    /// the next verdict begins at `now`.
    pub fn judging(&mut self, now: Duration) {
        self.judging = now;
    }

    /// What is awaited, with deadlines. `heard` holds the times of the last message of any kind
    /// from the worker and from the writer.
    pub fn waits(
        &self,
        owner: &str,
        worker: &str,
        rewards: &str,
        limits: &Limits,
        heard: LastHeard,
    ) -> Vec<Wait> {
        let (_, ended, all) = self.counts();
        let mut waits = Vec::new();
        if self.generating {
            let what = format!("{worker}: sampling, {ended} of {all} completions ended");
            waits.push(
                Wait::new(owner, what, self.since)
                    .worker_silent(heard.worker, limits.worker_silence),
            );
        }
        if let Some((whom, reward, count)) = self.judge_queue.in_flight() {
            let what = format!("{worker}: asking the {whom} of {reward} about {count} completions");
            waits.push(
                Wait::new(owner, what, self.heard)
                    .worker_silent(heard.worker, limits.worker_silence),
            );
        } else if let Some(first) = self.scoring.first() {
            let count = self.scoring.len();
            let what = format!(
                "rewards {rewards}: {count} completions, first sample {} of prompt {}",
                first.sample, first.prompt
            );
            let wait = Wait::new(owner, what, self.heard);
            waits.push(if self.generating {
                wait
            } else {
                wait.silent(self.heard.max(self.judging), limits.score)
            });
        }
        waits
    }
}
