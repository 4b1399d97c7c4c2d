//! One step of a stage that samples: prompts → completions → verdicts → seal. GRPO seals advantages
//! and trains on them; PPO seals the rewards, from which the trainer estimates advantages;
//! rejection sampling seals an advantage of 1 for kept completions and none for others, and is
//! done.

use crate::advantages::{advantages, has_variance};
use crate::answer::final_answer;
use crate::flow::{Flow, unexpected};
use crate::gather::{Gather, Judged, Sample};
use crate::judge::{beyond_float32, drops_group, judge, rules};
use crate::judge_queue::{JudgeAnswers, JudgeModels};
use crate::message::{Command, End, Event, Keep, Prompt, Recalled, Source, Store};
use crate::metrics::{self, Unscored};
use crate::plan::Plan;
use crate::select::kept;
use crate::wait::{LastHeard, Wait};
use r1d_job::{Grpo, Rollouts, StageKind};
use r1d_proto::control::job::Activity;
use r1d_proto::hyperparameters::ScaleRewards;
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, ScoredRollout};
use r1d_proto::verdict::Verdict;
use r1d_proto::worker::{self, Body, Metrics, Reply, TrainSequence, WorkerRequest};
use r1d_proto::world::counter_hash;
use std::collections::BTreeSet;
use std::time::Duration;

/// Salt that keeps the split into minibatches apart from other uses of the job's seed.
const MINIBATCHES: u64 = 0x6d69_6e69;

/// A step that samples, at work.
#[derive(Debug)]
pub struct RolloutStep {
    stage: usize,
    step: u64,
    /// Number of rounds of further prompts so far (dynamic sampling).
    round: u32,
    phase: RolloutPhase,
    since: Duration,
    started: Duration,
    gather: Gather,
    /// What the journal still had of the step when it began.
    recalled: Recalled,
    /// The step's completions in training order; empty until it is sealed.
    records: Vec<ScoredRollout>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RolloutPhase {
    Prompts,
    Gathering,
    Sealing,
    Training,
}

/// Returns the request for the update of a sealed step; `None` if no completion of it trains. A
/// rebuild sends the same request again.
pub fn train_request(
    plan: &Plan,
    stage: usize,
    step: u64,
    records: &[ScoredRollout],
) -> Option<WorkerRequest> {
    let (settings, _) = plan.stage(stage)?;
    let replays = plan.replays_routing(stage);
    let sequences: Vec<_> = (records.iter())
        .filter_map(|record| {
            Some(TrainSequence {
                advantage: record.advantage?,
                prompt_ids: record.rollout.prompt_ids.clone(),
                completion_ids: record.rollout.completion_ids.clone(),
                behaviour_logprobs: record.rollout.behaviour_logprobs.clone(),
                experts: if replays {
                    record.rollout.experts.clone()
                } else {
                    Vec::new()
                },
                kept_ids: record.rollout.kept_ids.clone(),
                truncated: record.rollout.finish == FinishReason::Length,
            })
        })
        .collect();
    let seed = counter_hash(&[MINIBATCHES, plan.job.seed, stage as u64, step]);
    let first_update = step * settings.updates_per_step();
    if sequences.is_empty() {
        return None;
    }
    match &settings.kind {
        StageKind::Grpo(grpo) => Some(WorkerRequest::Train(worker::Train {
            step,
            first_update,
            objective: grpo.objective(step),
            seed,
            sequences,
        })),
        StageKind::Ppo(ppo) => {
            let scores = sequences
                .iter()
                .map(|sequence| sequence.advantage)
                .collect();
            Some(WorkerRequest::TrainPpo(worker::TrainPpo {
                step,
                first_update,
                objective: ppo.objective(step),
                seed,
                sequences,
                scores,
            }))
        }
        _ => None,
    }
}

impl RolloutStep {
    /// Begins the step. `recalled` is what an earlier attempt left in the journal.
    pub fn begin(
        plan: &Plan,
        rollouts: &Rollouts,
        stage: usize,
        step: u64,
        recalled: Recalled,
        models: JudgeModels,
        now: Duration,
    ) -> (RolloutStep, Vec<Command>) {
        let of = Source::Stage(stage);
        let gather = Gather::new(of, stage, step, plan.scores_groups(of), models, now);
        let mut this = RolloutStep {
            stage,
            step,
            round: 0,
            phase: RolloutPhase::Prompts,
            since: now,
            started: now,
            gather,
            recalled: Recalled::default(),
            records: Vec::new(),
        };
        if recalled.sealed.is_some() {
            if let Some(records) = recalled.into_records() {
                // The earlier attempt sealed the step, so what trains is decided.
                this.records = records;
                let commands = this.train(plan, now).into_iter().collect();
                return (this, commands);
            }
        } else {
            this.recalled = recalled;
        }
        (
            this,
            vec![Command::ReadPrompts {
                of,
                step,
                round: 0,
                count: rollouts.prompts_per_step as u64,
            }],
        )
    }

    /// Takes an event, and returns what follows from it.
    pub fn handle(
        &mut self,
        plan: &Plan,
        rollouts: &Rollouts,
        event: Event,
        now: Duration,
    ) -> Result<Flow, End> {
        match (self.phase, event) {
            (RolloutPhase::Prompts, Event::Prompts(prompts)) => {
                self.prompts(plan, rollouts, prompts, now)
            }
            (
                RolloutPhase::Gathering,
                Event::Worker(Body::Event(worker::Event::Completed(rollout))),
            ) => {
                let keep = Command::Keep(Keep::Sampled(rollout.clone()));
                let score = self.gather.completed(rollout, true, now)?;
                Ok(Flow::Go([keep].into_iter().chain(score).collect()))
            }
            (RolloutPhase::Gathering, Event::Worker(Body::Done(Reply::Generated { metrics }))) => {
                self.gather.generated(&metrics, now)?;
                self.gathered(plan, Vec::new(), now)
            }
            (
                RolloutPhase::Gathering,
                Event::Scored {
                    key,
                    verdicts,
                    asked,
                    text,
                },
            ) => match self.gather.judged(key, verdicts, asked, text, now)? {
                Some((verdicts, text)) => self.scored(plan, key, verdicts, &text, now),
                None => self.gathered(plan, Vec::new(), now),
            },
            (RolloutPhase::Gathering, Event::Concluded { key, verdicts }) => {
                let (verdicts, text) = self.gather.concluded(key, verdicts)?;
                self.scored(plan, key, verdicts, &text, now)
            }
            (RolloutPhase::Sealing, Event::Stored) => match self.train(plan, now) {
                Some(command) => Ok(Flow::Go(vec![command])),
                None => Ok(self.done(plan, Metrics::new(), now)),
            },
            (RolloutPhase::Training, Event::Worker(Body::Done(Reply::Trained { metrics }))) => {
                Ok(self.done(plan, metrics, now))
            }
            (
                RolloutPhase::Gathering,
                Event::Worker(Body::Done(reply @ (Reply::Scored { .. } | Reply::Answered { .. }))),
            ) => {
                if let Some(said) = JudgeAnswers::of(reply) {
                    self.gather.answered(said, now)?;
                }
                self.gathered(plan, Vec::new(), now)
            }
            (phase, event) => Err(unexpected(&format!("{phase:?}"), &event)),
        }
    }

    /// Ends a sealed step that an earlier attempt left and of which no completion trains: it needs
    /// no event.
    pub fn finished_at_once(&mut self, plan: &Plan, now: Duration) -> Option<Flow> {
        let trains = || {
            plan.learns_from_rollouts(self.stage)
                && self.records.iter().any(|r| r.advantage.is_some())
        };
        (self.phase == RolloutPhase::Training && !trains())
            .then(|| self.done(plan, Metrics::new(), now))
    }

    fn prompts(
        &mut self,
        plan: &Plan,
        rollouts: &Rollouts,
        prompts: Vec<Prompt>,
        now: Duration,
    ) -> Result<Flow, End> {
        for prompt in prompts {
            self.gather.add_group(prompt, rollouts.num_generations);
        }
        (self.phase, self.since) = (RolloutPhase::Gathering, now);
        let mut commands = self.take_up_recalled(plan, now)?;
        let version = self.step
            * plan
                .stage(self.stage)
                .map_or(0, |(stage, _)| stage.updates_per_step());
        let stop_ids = plan.stop_ids(Source::Stage(self.stage));
        let sampling = plan
            .stage(self.stage)
            .and_then(|(stage, _)| stage.sampling(self.step, stop_ids, plan.job.seed))
            .ok_or_else(|| self.samples_nothing())?;
        commands.extend(self.gather.request(
            sampling,
            plan.replays_routing(self.stage),
            version,
            now,
        ));
        self.gathered(plan, commands, now)
    }

    /// Takes what the journal still has: recalled completions need no sampling, those with verdicts
    /// no scoring.
    fn take_up_recalled(&mut self, plan: &Plan, now: Duration) -> Result<Vec<Command>, End> {
        let mut commands = Vec::new();
        let here: Vec<SampleKey> = self
            .recalled
            .sampled
            .values()
            .filter(|r| self.gather.fits(r))
            .map(|r| r.key)
            .collect();
        let has_verdicts = |key| {
            self.recalled.sampled.contains_key(&key) && self.recalled.scored.contains_key(&key)
        };
        let scored: BTreeSet<SampleKey> = here
            .iter()
            .copied()
            .filter(|key| self.gather.counts_as_scored(*key, has_verdicts))
            .collect();
        for key in here {
            let Some(rollout) = self.recalled.sampled.remove(&key) else {
                continue;
            };
            let score = self.gather.completed(rollout, true, now)?;
            match self
                .recalled
                .scored
                .remove(&key)
                .filter(|_| scored.contains(&key))
            {
                Some((verdicts, reward)) => {
                    self.gather
                        .scored(key, verdicts, reward, String::new(), now)?
                }
                None => commands.extend(score),
            }
        }
        r1d_proto::invariant!(
            "STEP-1",
            self.recalled
                .sampled
                .keys()
                .all(|key| key.prompt as usize >= self.gather.groups.len()),
            "the journal of {}'s step {} holds completions of other prompts than its rows give",
            plan.stage(self.stage).map_or("?", |(stage, _)| &stage.name),
            self.step
        );
        Ok(commands)
    }

    fn scored(
        &mut self,
        plan: &Plan,
        key: SampleKey,
        mut verdicts: Vec<Verdict>,
        text: &str,
        now: Duration,
    ) -> Result<Flow, End> {
        let (rewards, facts) = plan.rewards(Source::Stage(self.stage));
        let rules = rules(rewards, facts);
        let reward = judge(&rules, &mut verdicts)?;
        if let Some(problem) = beyond_float32(&rules, &verdicts, reward) {
            return Err(self.failed(plan, problem));
        }
        let keep = Command::Keep(Keep::Scored {
            key,
            verdicts: verdicts.clone(),
            reward,
        });
        self.gather
            .scored(key, verdicts, reward, final_answer(text).into(), now)?;
        self.gathered(plan, vec![keep], now)
    }

    /// A failure that another attempt would meet again.
    fn failed(&self, plan: &Plan, problem: String) -> End {
        let stage = plan.stage(self.stage).map_or("?", |(stage, _)| &stage.name);
        End::Failed {
            error: format!("stage `{stage}` step {}: {problem}", self.step + 1),
        }
    }

    fn samples_nothing(&self) -> End {
        End::Failed {
            error: format!("stage {} does not sample", self.stage),
        }
    }

    /// Continues once everything requested is here: with more prompts, or with the seal.
    fn gathered(
        &mut self,
        plan: &Plan,
        mut commands: Vec<Command>,
        now: Duration,
    ) -> Result<Flow, End> {
        commands.extend(self.gather.next_question(now)?);
        if !self.gather.is_complete() {
            return Ok(Flow::Go(commands));
        }
        let rewards = self.training_rewards(plan);
        if let Some(count) = self.missing_prompts(plan, &rewards) {
            self.round += 1;
            (self.phase, self.since) = (RolloutPhase::Prompts, now);
            commands.push(Command::ReadPrompts {
                of: Source::Stage(self.stage),
                step: self.step,
                round: self.round,
                count,
            });
            return Ok(Flow::Go(commands));
        }
        let decided = self.decide(plan, rewards)?;
        self.seal(decided);
        let warnings = [self.all_unscored(plan), self.indifference(plan)];
        commands.extend(warnings.into_iter().flatten().map(Command::Warn));
        let advantages = self
            .records
            .iter()
            .map(|r| (r.rollout.key, r.advantage))
            .collect();
        (self.phase, self.since) = (RolloutPhase::Sealing, now);
        commands.push(Command::Store(Store::Seal {
            stage: self.stage,
            step: self.step,
            advantages,
        }));
        Ok(Flow::Go(commands))
    }

    /// The number of further prompts that dynamic sampling asks for; `None`: the step has what it
    /// needs, or has asked often enough.
    fn missing_prompts(&self, plan: &Plan, rewards: &[Vec<Option<f32>>]) -> Option<u64> {
        let grpo = plan.stage(self.stage)?.0.grpo()?;
        let telling = rewards.iter().filter(|group| has_variance(group)).count() as u64;
        let wanted = grpo.rollouts.prompts_per_step as u64;
        let asks = grpo.dynamic_sampling && self.round < grpo.max_resample_rounds;
        (asks && telling < wanted).then(|| wanted - telling)
    }

    /// The advantage of each completion, group by group.
    fn decide(
        &self,
        plan: &Plan,
        rewards: Vec<Vec<Option<f32>>>,
    ) -> Result<Vec<Vec<Option<f32>>>, End> {
        let decided = match plan.stage(self.stage).map(|(stage, _)| &stage.kind) {
            Some(StageKind::Grpo(grpo)) => trained(grpo, rewards),
            Some(StageKind::RejectionSampling(rejection)) => self
                .gather
                .groups
                .iter()
                .zip(&rewards)
                .map(|(group, rewards)| kept(rejection, group, rewards))
                .collect(),
            Some(StageKind::Ppo(_)) => rewards,
            _ => return Err(self.samples_nothing()),
        };
        let mut advantages = decided.iter().flatten().flatten();
        match advantages.find(|advantage| !advantage.is_finite()) {
            None => Ok(decided),
            Some(advantage) => Err(self.failed(
                plan,
                format!(
                    "an advantage is {advantage}: the rewards of its group are too far apart for \
                     float32; lower the rewards' weights, or their plugins' scores"
                ),
            )),
        }
    }

    /// A warning for a step none of whose completions has a reward; at steps 1, 2, 4, 8 …, because
    /// a stage may go on like that for long.
    fn all_unscored(&self, plan: &Plan) -> Option<String> {
        let mut unscored = Unscored::default();
        (self.records.iter()).for_each(|record| unscored.add(record.reward, &record.verdicts));
        let stage = plan.stage(self.stage).map_or("?", |(stage, _)| &stage.name);
        let is_told = unscored.is_all() && (self.step + 1).is_power_of_two();
        is_told.then(|| {
            format!(
                "stage `{stage}` step {}: {unscored}: nothing is learned from them",
                self.step + 1
            )
        })
    }

    /// A warning for a step that has rewards but no advantage other than 0, so that nothing is
    /// learned; at steps 1, 2, 4, 8 …
    fn indifference(&self, plan: &Plan) -> Option<String> {
        let (stage, _) = plan.stage(self.stage)?;
        let trains = stage.grpo().is_some() && (self.step + 1).is_power_of_two();
        let scored = self.records.iter().any(|record| record.reward.is_some());
        let indifferent = self
            .records
            .iter()
            .all(|record| record.advantage.is_none_or(|advantage| advantage == 0.0));
        (trains && scored && indifferent).then(|| {
            format!(
                "stage `{}` step {}: in each group all completions have the same reward, so \
                 nothing is learned from them: the prompts are too hard or too easy for the \
                 model, or the rewards do not tell its completions apart (`r1ctl samples` shows \
                 them)",
                stage.name,
                self.step + 1
            )
        })
    }

    /// Rewards by group; all `None` for a group that an abstention drops.
    fn training_rewards(&self, plan: &Plan) -> Vec<Vec<Option<f32>>> {
        let (rewards, facts) = plan.rewards(Source::Stage(self.stage));
        let rules = rules(rewards, facts);
        let judged = |sample: &Sample| match sample {
            Sample::Scored(judged) => judged.reward,
            _ => None,
        };
        let dropped = |sample: &Sample| {
            matches!(sample,
            Sample::Scored(judged) if drops_group(&rules, &judged.verdicts))
        };
        (self.gather.groups.iter())
            .map(|group| {
                if group.samples.iter().any(dropped) {
                    vec![None; group.samples.len()]
                } else {
                    group.samples.iter().map(judged).collect()
                }
            })
            .collect()
    }

    /// Gives each sample its advantage. `advantages` are by group.
    fn seal(&mut self, advantages: Vec<Vec<Option<f32>>>) {
        for (group, advantages) in self.gather.groups.drain(..).zip(advantages) {
            for (sample, advantage) in group.samples.into_iter().zip(advantages) {
                if let Sample::Scored(judged) = sample {
                    let Judged {
                        rollout,
                        verdicts,
                        reward,
                        ..
                    } = *judged;
                    self.records.push(ScoredRollout {
                        rollout,
                        verdicts,
                        reward,
                        advantage,
                    });
                }
            }
        }
    }

    fn train(&mut self, plan: &Plan, now: Duration) -> Option<Command> {
        (self.phase, self.since) = (RolloutPhase::Training, now);
        train_request(plan, self.stage, self.step, &self.records)
            .map(|request| Command::Worker(Box::new(request)))
    }

    fn done(&mut self, plan: &Plan, trained: Metrics, now: Duration) -> Flow {
        let rollouts = std::mem::take(&mut self.records);
        let mut metrics = trained;
        metrics.append(&mut self.gather.timings);
        if plan.learns_from_rollouts(self.stage) {
            let scale = plan
                .grpo(self.stage)
                .map_or(ScaleRewards::None, |(grpo, _)| grpo.scale_rewards);
            metrics.extend(metrics::of_rollouts(&rollouts, scale));
            metrics.insert(
                "timing_s/training".into(),
                now.saturating_sub(self.since).as_secs_f64(),
            );
        } else {
            metrics.extend(metrics::of_selection(&rollouts));
        }
        let tokens = metrics::tokens_of_rollouts(&rollouts);
        let seconds = now.saturating_sub(self.started).as_secs_f64();
        metrics::step_time(&mut metrics, tokens, seconds);
        Flow::Done {
            metrics,
            tokens,
            rollouts,
        }
    }

    /// Notes that the job's rewards make progress or wait for their turn, so that the deadline of
    /// the next verdict begins at `now`.
    pub fn judging(&mut self, now: Duration) {
        self.gather.judging(now);
    }

    /// What the step waits for, with deadlines; `owner` waits.
    pub fn waits(&self, plan: &Plan, owner: &str, heard: LastHeard) -> Vec<Wait> {
        let limits = &plan.limits;
        let wait = |what: &str| vec![Wait::new(owner, what, self.since)];
        match self.phase {
            RolloutPhase::Prompts => wait("data: prompts")
                .into_iter()
                .map(|w| w.silent(heard.writer, limits.read))
                .collect(),
            RolloutPhase::Sealing => wait("journal: seal of the step")
                .into_iter()
                .map(|w| w.silent(heard.writer, limits.store))
                .collect(),
            RolloutPhase::Training => {
                let what = format!("{}: training", plan.worker);
                wait(&what)
                    .into_iter()
                    .map(|w| w.worker_silent(heard.worker, limits.worker_silence))
                    .collect()
            }
            RolloutPhase::Gathering => {
                let (rewards, _) = plan.rewards(Source::Stage(self.stage));
                let names = rewards
                    .iter()
                    .map(|r| r.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", ");
                self.gather
                    .waits(owner, &plan.worker, &names, limits, heard)
            }
        }
    }

    /// What the step does, for as long as the worker has not reported anything finer.
    pub fn activity(&self) -> Activity {
        let (scored, ended, all) = self.gather.counts();
        let activity = |doing: &str, done, total| Activity {
            doing: doing.into(),
            done,
            total,
            unit: "completions".into(),
        };
        match self.phase {
            RolloutPhase::Prompts | RolloutPhase::Gathering
                if self.gather.is_generating() || all == 0 =>
            {
                activity("sampling", ended, all)
            }
            RolloutPhase::Prompts | RolloutPhase::Gathering => activity("scoring", scored, all),
            RolloutPhase::Sealing | RolloutPhase::Training => {
                activity("training", 0, self.records.len() as u64)
            }
        }
    }

    /// The judge or reward model whose questions the worker is answering, in words for an error;
    /// `None` if it is not answering any.
    pub fn asked(&self) -> Option<String> {
        self.gather.asked()
    }

    /// Whether the worker has a request of this step.
    pub fn worker_is_busy(&self) -> bool {
        self.phase == RolloutPhase::Training || self.gather.worker_is_busy()
    }
}

/// The advantages of the groups that train; `None` for all others.
fn trained(grpo: &Grpo, mut rewards: Vec<Vec<Option<f32>>>) -> Vec<Vec<Option<f32>>> {
    let trains = chosen(&rewards, grpo);
    for (group, _) in rewards.iter_mut().zip(trains).filter(|(_, trains)| !trains) {
        group.fill(None);
    }
    advantages(&rewards, grpo.baseline, grpo.scale_rewards)
}

/// Whether each group trains. All do, unless sampling is dynamic: then groups whose rewards differ
/// come first, and others fill up to the step's size, both in the order of the prompts, so that
/// every step has the same number of groups.
fn chosen(groups: &[Vec<Option<f32>>], grpo: &Grpo) -> Vec<bool> {
    if !grpo.dynamic_sampling {
        return vec![true; groups.len()];
    }
    let mut room = grpo.rollouts.prompts_per_step as usize;
    let mut trains = vec![false; groups.len()];
    for telling in [true, false] {
        for (group, trains) in groups.iter().zip(&mut trains) {
            if has_variance(group) == telling && room > 0 {
                *trains = true;
                room -= 1;
            }
        }
    }
    trains
}
