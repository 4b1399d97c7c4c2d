//! The job's machine in a simulated world: a worker, a journal and a ledger in memory, answers in a
//! random order, crashes at random moments. Whatever the seed, the job ends with the weights,
//! metrics and evaluations of a run that nothing disturbed (`STEP-1`, `STEP-2`). A failing seed is
//! in the panic's message.

use r1d_job::{Job, Reward, StageKind};
use r1d_proto::control::job::{Activity, EvalResult};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::ids::SampleKey;
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_proto::worker::{
    Body, CheckpointReport, CheckpointState, Event as WorkerEvent, Failure, FailureKind, Generate,
    Metrics, ModelSource, Open, Opened, Pair, Question, Reply, RewardBatch, SupervisedSequence,
    WorkerRequest,
};
use r1d_proto::world::{counter_hash, counter_uniform};
use r1d_runner::metrics::is_timing;
use r1d_runner::{
    Answers, Batch, Command, DeclaredScores, End, EvalInputs, Event, JudgeReply, JudgeRequest,
    Keep, Limits, Machine, ModelPlan, Plan, Prompt, Questions, Recalled, Record, Source,
    StageInputs, StageRecord, Store,
};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const JOB: &str = r#"
name = "simulated"
seed = 7
batch_invariant = BATCH_INVARIANT
[model]
init = "config.json"
tokenizer = "tokenizer.json"
[data.text]
path = "text.jsonl"
[data.train]
path = "train.jsonl"
reference = "answer"
[data.test]
path = "test.jsonl"
reference = "answer"
[[stage]]
name = "reading"
kind = "pretrain"
data = "text"
steps = 4
batch_size = 2
max_length = 8
[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = 7
prompts_per_step = 3
num_generations = 4
max_completion_length = 6
top_p = 0.9
beta = 0.1
sync_ref_steps = 2
dynamic_sampling = true
max_resample_rounds = 2
  [[stage.reward]]
  plugin = "accuracy"
  on_abstain = "drop-sample"
[[stage]]
name = "more"
kind = "grpo"
data = "train"
steps = 2
prompts_per_step = 2
num_generations = 2
max_completion_length = 6
  [[stage.reward]]
  plugin = "accuracy"
[checkpoint]
every_steps = 3
keep = 2
[[eval]]
data = "test"
every_steps = 2
num_generations = 2
max_completion_length = 6
metrics = ["pass@1", "cons@2"]
"#;

/// Two stages between the others: one that keeps completions and one that trains on them, so that
/// the last one's weights come through both.
const REJECTION: &str = r#"
[[stage]]
name = "keep"
kind = "rejection-sampling"
data = "train"
steps = 5
prompts_per_step = 3
num_generations = 4
max_completion_length = 6
keep = 2
  [[stage.reward]]
  plugin = "accuracy"
  min_score = 0.5
[[stage]]
name = "again"
kind = "sft"
from = "reading"
data = "keep"
epochs = 2
batch_size = 2
max_length = 8
[[stage]]
name = "more"
from = "keep"
"#;

/// Preferences: a reward model, two stages whose rewards ask it, and one that learns from pairs.
const PREFERENCES: &str = r#"
[[stage]]
name = "helpful"
kind = "reward-model"
data = "pairs"
eval_data = "other-pairs"
steps = 5
batch_size = 2
[[stage]]
name = "wise"
kind = "ppo"
data = "train"
steps = 5
prompts_per_step = 3
num_generations = 2
max_completion_length = 6
top_p = 0.9
value_model = "helpful"
  [[stage.schedule]]
  after_step = 2
  temperature = 0.5
  [[stage.reward]]
  plugin = "accuracy"
  [[stage.reward]]
  plugin = "helpfulness"
  model = "helpful"
  after_step = 1
  [[stage.reward]]
  plugin = "correctness"
  model = "reasoning"
[[stage]]
name = "polite"
kind = "dpo"
data = "pairs"
steps = 4
batch_size = 2
[[stage]]
name = "more"
"#;

fn plan_with_preferences(batch_invariant: bool) -> Plan {
    let job = JOB
        .replace("[[stage]]\nname = \"more\"\n", PREFERENCES)
        .replace(
            "[[stage]]\nname = \"reading\"",
            "[data.pairs]\npath = \"pairs.jsonl\"\n[data.other-pairs]\npath = \
             \"other.jsonl\"\n[[stage]]\nname = \"reading\"",
        );
    let job = job.replace(
        "[[eval]]",
        "[[eval]]\nrewards = [\"accuracy\", \"helpfulness\", \"correctness\"]",
    );
    let mut plan = plan_of_job(&job, batch_invariant);
    for reward in [1, 2] {
        plan.stages[3].rewards[reward].asks = true;
        plan.evals[0].rewards[reward].asks = true;
    }
    plan
}

fn plan(batch_invariant: bool) -> Plan {
    plan_of_job(JOB, batch_invariant)
}

fn plan_with_rejection(batch_invariant: bool) -> Plan {
    plan_of_job(
        &JOB.replace("[[stage]]\nname = \"more\"\n", REJECTION),
        batch_invariant,
    )
}

fn plan_of_job(job: &str, batch_invariant: bool) -> Plan {
    let job = Job::parse(
        &job.replace("BATCH_INVARIANT", &batch_invariant.to_string()),
        Path::new("/job"),
    )
    .expect("a sound job");
    let facts = |stage: &r1d_job::Stage| StageInputs {
        steps: stage.steps(100),
        later: false,
        prompt_max: 4,
        rewards: vec![FACTS; stage.rollouts().map_or(0, |r| r.rewards.len())],
        fitting_tokens: None,
        memory: BTreeMap::from([("policy".into(), 3 << 30), ("update".into(), 1 << 29)]),
        memory_peak: 7 << 29,
    };
    let stages = job.stages.iter().map(facts).collect();
    let of_eval = |eval| {
        let judges = job.eval_rewards(eval);
        let rewards = vec![FACTS; judges.len()];
        EvalInputs {
            rows: 3,
            judges,
            rewards,
        }
    };
    Plan {
        stages,
        evals: job.evaluations().map(of_eval).collect(),
        models: (job.models().enumerate())
            .map(|(model, _)| ModelPlan {
                base: ModelSource::Init {
                    config: format!("model {model}"),
                    carry: None,
                },
                stop_ids: vec![1 + model as u32],
                eval_prompt_max: 4 + model as u32,
            })
            .collect(),
        job,
        worker: "worker cpu".into(),
        checkpoints: "/job/checkpoints".into(),
        final_dir: "/job/final".into(),
        limits: Limits::default(),
    }
}

/// The same job with a second reward everywhere, which judges groups.
fn plan_of_groups(batch_invariant: bool) -> Plan {
    let mut plan = plan(batch_invariant);
    let facts = DeclaredScores {
        of_groups: true,
        ..FACTS
    };
    for (stage, known) in plan.job.stages.iter_mut().zip(&mut plan.stages) {
        if let StageKind::Grpo(grpo) = &mut stage.kind {
            grpo.rollouts.rewards.push(Reward::of_plugin("diverse"));
            known.rewards.push(facts);
        }
    }
    plan.evals[0].judges.push(Reward::of_plugin("diverse"));
    plan.evals[0].rewards.push(facts);
    plan
}

/// How many completions the rewards are to get at a time.
fn together(plan: &Plan, of: Source) -> usize {
    match of {
        _ if !plan.scores_groups(of) => 1,
        Source::Stage(stage) => plan.rollouts(stage).unwrap().0.num_generations as usize,
        Source::Eval { eval, .. } => {
            plan.job.evaluations().nth(eval).unwrap().num_generations as usize
        }
    }
}

const FACTS: DeclaredScores = DeclaredScores {
    min: 0.0,
    max: 1.0,
    of_groups: false,
    asks: false,
};

/// What a worker has on its device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Weights {
    policy: u64,
    reference: u64,
    value: u64,
    /// Index of the model that the weights belong to.
    model: u32,
}

fn mix(words: &[u64]) -> u64 {
    counter_hash(words)
}

fn bits(values: &[f32]) -> Vec<u64> {
    values.iter().map(|v| v.to_bits() as u64).collect()
}

/// Sampling mask of a stage whose ids are cut off: the ids that each id might have been drawn from.
fn kept_ids(sampling: &Sampling, completion_ids: &[u32], seed: u64) -> SamplingMask {
    if !sampling.keep_sampling_mask || sampling.top_p == 1.0 {
        return SamplingMask::default();
    }
    let set = |(place, id): (u64, &u32)| [1, *id, 1 + (mix(&[seed, place]) % 3) as u32];
    SamplingMask::from_numbers((0..).zip(completion_ids).flat_map(set).collect())
}

/// All that survives a crash.
#[derive(Default)]
struct Disk {
    record: Record,
    metrics: BTreeMap<(usize, u64), Metrics>,
    evals: Vec<EvalResult>,
    journal: HashMap<(usize, u64), Recalled>,
    /// The rollout files of stages that keep completions.
    rollouts: BTreeMap<(usize, u64), Vec<ScoredRollout>>,
    /// What such stages kept: a hash of each completion.
    kept: BTreeMap<usize, Vec<u64>>,
    checkpoints: HashMap<PathBuf, Weights>,
    exported: Option<u64>,
}

struct World {
    plan: Arc<Plan>,
    disk: Disk,
    worker: Weights,
    now: Duration,
    random: u64,
    crash_per_mille: u64,
    crashes: u64,
    /// Number of attempts that ended because there was data to read.
    rereads: u64,
    opened: Option<Open>,
    warnings: Vec<String>,
    /// Number of questions that judges were asked.
    answers: usize,
    /// A checkpoint whose next restore fails, and how.
    refused: Option<(PathBuf, FailureKind)>,
    saver: Saver,
}

/// The worker's thread that writes a checkpoint while the job goes on.
struct Saver {
    /// Stage, step and directory of the snapshot that is being written, and what is in it.
    snapshot: Option<((u32, u64), PathBuf, Weights)>,
    /// Directories that are whole, and not in their place yet.
    stored: HashMap<PathBuf, Weights>,
    /// How often it gets on, and how often the disk is full when it is done.
    ends_per_mille: u64,
    full_per_mille: u64,
    /// Steps that were committed while it wrote, snapshots that were lost, and full disks.
    commits_beside: u64,
    lost: u64,
    full: u64,
}

/// The words of a worker whose disk is full.
const FULL: &str = "no space left on device";

fn written(done: u64) -> Activity {
    Activity {
        doing: "writing the data set".into(),
        done,
        total: 5,
        unit: "steps".into(),
    }
}

impl Saver {
    fn is_idle(&self) -> bool {
        self.snapshot.is_none() && self.stored.is_empty()
    }
}

struct Crash;

/// A worker's message about a checkpoint that it cannot restore.
const REFUSED: &str = "the checkpoint cannot be restored";

impl World {
    fn new(plan: Plan, seed: u64, crash_per_mille: u64) -> World {
        let (disk, worker) = Default::default();
        let (random, now) = (seed, Duration::ZERO);
        let plan = Arc::new(plan);
        let mut world = World {
            plan,
            disk,
            worker,
            now,
            random,
            crash_per_mille,
            crashes: 0,
            rereads: 0,
            opened: None,
            warnings: Vec::new(),
            answers: 0,
            refused: None,
            saver: Saver {
                snapshot: None,
                stored: HashMap::new(),
                ends_per_mille: 200,
                full_per_mille: 0,
                commits_beside: 0,
                lost: 0,
                full: 0,
            },
        };
        world.read();
        world
    }

    /// The inputs are opened: what stages that are finished have kept is there.
    fn read(&mut self) {
        let mut plan = (*self.plan).clone();
        for (stage, facts) in plan.job.stages.iter().zip(&mut plan.stages) {
            let is_maker = |maker: &r1d_job::Stage| {
                maker.name == stage.data && maker.rejection_sampling().is_some()
            };
            let Some(maker) = plan.job.stages.iter().position(is_maker) else {
                continue;
            };
            let finished = self
                .disk
                .record
                .stages
                .get(maker)
                .is_some_and(|record| record.finished);
            facts.later = !finished;
            facts.steps = if finished {
                stage.steps(self.disk.kept[&maker].len() as u64)
            } else {
                0
            };
        }
        self.plan = Arc::new(plan);
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.random = mix(&[self.random, 1]);
        self.random % below
    }

    fn lightning(&mut self) -> Result<(), Crash> {
        if self.crash_per_mille > 0 && self.draw(1000) < self.crash_per_mille {
            Err(Crash)
        } else {
            Ok(())
        }
    }

    /// The whole job, however many attempts it takes.
    fn run(&mut self) -> End {
        for _ in 0..100_000 {
            match self.attempt() {
                Ok(End::Reread) => {
                    self.rereads += 1;
                    self.read();
                }
                Ok(end) => return end,
                Err(Crash) => {
                    self.crashes += 1;
                    // With the daemon gone too, the next attempt is the first of a new one.
                    if self.draw(2) == 0 {
                        self.read();
                    }
                }
            }
        }
        panic!("the job does not end")
    }

    fn attempt(&mut self) -> Result<End, Crash> {
        self.worker = Weights::default();
        self.saver.lost += u64::from(self.saver.snapshot.take().is_some());
        self.saver.stored.clear();
        let mut machine = Machine::new(self.plan.clone(), self.disk.record.clone(), self.now);
        // Answers of each party come in its own order; between parties any order is possible, and
        // verdicts have none.
        let mut worker: VecDeque<Event> = VecDeque::from([Event::WorkerStarted { pid: 1 }]);
        let mut others: VecDeque<Event> = VecDeque::new();
        let mut verdicts: Vec<Event> = Vec::new();
        loop {
            let passed = self.draw(50);
            self.now += Duration::from_millis(passed);
            let waits = machine.waits();
            assert!(
                waits.iter().any(|w| w.deadline.is_some()),
                "every wait has a deadline: {waits:?}"
            );
            let event = match self.draw(5) {
                4 => self.writes(),
                0 => worker.pop_front(),
                1 => others.pop_front(),
                2 if !verdicts.is_empty() => {
                    let at = self.draw(verdicts.len() as u64) as usize;
                    Some(verdicts.swap_remove(at))
                }
                _ => Some(Event::Tick),
            };
            let Some(event) = event else { continue };
            self.lightning()?;
            for command in machine.handle(event, self.now).commands {
                self.lightning()?;
                match command {
                    Command::Worker(request) => worker.extend(self.work(*request)),
                    Command::Score(items) => {
                        assert_eq!(
                            items.len(),
                            together(&self.plan, items[0].of),
                            "groups are whole, others alone"
                        );
                        assert!(
                            items
                                .iter()
                                .all(|item| item.key.prompt == items[0].key.prompt),
                            "of one prompt"
                        );
                        // The group's verdict on each of its members depends on all of them.
                        let word = mix(&items
                            .iter()
                            .map(|item| item.completion_ids[0] as u64)
                            .collect::<Vec<_>>());
                        for item in items {
                            let text = format!("<answer>{}</answer>", item.completion_ids[0] % 3);
                            let mut given = vec![verdict(&item.completion_ids)];
                            if self.plan.scores_groups(item.of) {
                                given.push(group_verdict(word));
                            }
                            let asked = self
                                .asks(&item)
                                .into_iter()
                                .map(|reward| questions(&reward, &item.completion_ids))
                                .collect();
                            verdicts.push(Event::Scored {
                                key: item.key,
                                verdicts: given,
                                asked,
                                text,
                            });
                        }
                    }
                    Command::Conclude(answered) => {
                        for JudgeReply { item, answers } in answered {
                            let asked = self.asks(&item);
                            assert_eq!(answers.keys().cloned().collect::<Vec<_>>(), asked);
                            let concluded = asked.iter().map(|reward| {
                                conclusion(reward, &item.completion_ids, &answers[reward])
                            });
                            verdicts.push(Event::Concluded {
                                key: item.key,
                                verdicts: concluded.collect(),
                            });
                        }
                    }
                    Command::Warn(warning) => self.warnings.push(warning),
                    Command::Trace(trace) => {
                        let stages = self.plan.job.stages.iter();
                        let mut known = stages.zip(&self.disk.record.stages);
                        let stage = known.find(|(stage, _)| stage.name == trace.stage);
                        assert_eq!(trace.step, stage.unwrap().1.step, "of the last step");
                    }
                    Command::ReadHeldOut { .. } => {
                        others.push_back(Event::Batch(Batch::Pairs(pairs(9, 9))))
                    }
                    Command::Keep(keep) => self.keep(keep),
                    Command::Recall { stage, step } => {
                        others.push_back(Event::Recalled(
                            self.disk
                                .journal
                                .get(&(stage, step))
                                .cloned()
                                .unwrap_or_default(),
                        ));
                    }
                    Command::Forget { stage, step } => {
                        self.disk.journal.remove(&(stage, step));
                        others.push_back(Event::Stored);
                    }
                    Command::ReadPrompts {
                        of,
                        step,
                        round,
                        count,
                    } => others.push_back(Event::Prompts(prompts(of, step, round, count))),
                    Command::ReadBatch { stage, step } => {
                        others.push_back(Event::Batch(self.batch(stage, step)))
                    }
                    Command::Store(store) => {
                        self.store(store);
                        others.push_back(Event::Stored);
                    }
                    Command::MakeDataSet { stage } => {
                        assert_eq!(
                            self.disk.record.stages[stage].checkpoints,
                            [],
                            "there are no weights to keep"
                        );
                        let rollouts = self
                            .disk
                            .rollouts
                            .range((stage, 0)..(stage + 1, 0))
                            .flat_map(|(_, rollouts)| rollouts);
                        let kept =
                            rollouts
                                .filter(|scored| scored.advantage == Some(1.0))
                                .map(|scored| {
                                    mix(&scored
                                        .rollout
                                        .completion_ids
                                        .iter()
                                        .map(|id| *id as u64)
                                        .collect::<Vec<_>>())
                                });
                        self.disk.kept.insert(stage, kept.collect());
                        // Its reports and its answer come by different ways.
                        others.push_back(Event::Stored);
                        verdicts.extend((0..3).map(|done| Event::Progress(written(done))));
                    }
                    Command::Prune { stage, step, dir } => {
                        self.disk.record.stages[stage]
                            .checkpoints
                            .retain(|(known, _)| *known != step);
                        self.disk.checkpoints.remove(&dir);
                    }
                    Command::End(End::Abandoned { cause } | End::WorkerFailed { cause })
                        if cause.contains(REFUSED) =>
                    {
                        return Err(Crash);
                    }
                    Command::End(End::Away { cause }) if cause.contains(FULL) => return Err(Crash),
                    Command::End(End::Abandoned { cause } | End::WorkerFailed { cause }) => {
                        panic!("abandoned: {cause}")
                    }
                    Command::End(end) => {
                        assert_eq!(
                            machine.record(),
                            &self.disk.record,
                            "the machine's record is the ledger's"
                        );
                        return Ok(end);
                    }
                }
            }
        }
    }

    /// The thread that writes a checkpoint gets on, or is done.
    fn writes(&mut self) -> Option<Event> {
        self.saver.snapshot.as_ref()?;
        let (ends, full) = (self.draw(1000), self.draw(1000));
        let saver = &mut self.saver;
        let state = if ends >= saver.ends_per_mille {
            CheckpointState::Writing { done: 1, total: 2 }
        } else if full < saver.full_per_mille {
            saver.full += 1;
            CheckpointState::Failed(Failure {
                kind: FailureKind::Storage,
                message: FULL.into(),
            })
        } else {
            CheckpointState::Stored {
                manifest_sha256: "hash".into(),
            }
        };
        let ((stage, step), dir, weights) = saver.snapshot.clone()?;
        if !matches!(state, CheckpointState::Writing { .. }) {
            saver.snapshot = None;
        }
        if matches!(state, CheckpointState::Stored { .. }) {
            saver.stored.insert(dir, weights);
        }
        let report = CheckpointReport { stage, step, state };
        Some(Event::Worker(Body::Checkpoint(report)))
    }

    fn keep(&mut self, keep: Keep) {
        match keep {
            Keep::Sampled(rollout) => {
                let step = self
                    .disk
                    .journal
                    .entry((rollout.key.stage as usize, rollout.key.step))
                    .or_default();
                if let Some(known) = step.sampled.insert(rollout.key, rollout.clone()) {
                    assert_eq!(known, rollout, "a completion contradicts the journal");
                }
            }
            Keep::Scored {
                key,
                verdicts,
                reward,
            } => {
                let step = self
                    .disk
                    .journal
                    .get_mut(&(key.stage as usize, key.step))
                    .expect("sampled before it is scored");
                assert!(step.sampled.contains_key(&key));
                step.scored.insert(key, (verdicts, reward));
            }
        }
    }

    fn store(&mut self, store: Store) {
        let record = &mut self.disk.record;
        match store {
            Store::BeginStage { stage } if record.stages.len() == stage => {
                record.stages.push(StageRecord::default())
            }
            Store::BeginStage { stage } => assert_eq!(stage + 1, record.stages.len()),
            Store::Seal {
                stage,
                step,
                advantages,
            } => {
                let journal = self.disk.journal.entry((stage, step)).or_default();
                assert_eq!(journal.sealed, None, "sealed twice");
                assert!(
                    advantages
                        .iter()
                        .all(|(key, _)| journal.sampled.contains_key(key)
                            && journal.scored.contains_key(key))
                );
                journal.sealed = Some(advantages);
            }
            Store::Commit {
                stage,
                step,
                metrics,
                rollouts,
            } => {
                assert_eq!(
                    step, record.stages[stage].step,
                    "a step is committed once and in order"
                );
                self.saver.commits_beside += u64::from(self.saver.snapshot.is_some());
                let sealed = self
                    .disk
                    .journal
                    .get(&(stage, step))
                    .map_or(0, |j| j.sealed.as_ref().map_or(0, Vec::len));
                assert_eq!(rollouts.len(), sealed);
                if self.plan.job.stages[stage].rejection_sampling().is_some() {
                    self.disk.rollouts.insert((stage, step), rollouts);
                }
                record.stages[stage].step += 1;
                record.stages[stage].num_tokens = metrics["num_tokens"];
                self.disk.metrics.insert((stage, step), metrics);
            }
            Store::Checkpoint {
                stage, step, dir, ..
            } => {
                let stored = self.saver.stored.remove(&dir);
                let weights = stored.expect("it is whole before it is on record");
                self.disk.checkpoints.insert(dir.clone(), weights);
                record.stages[stage].checkpoints.push((step, dir));
            }
            Store::DropCheckpoint { stage, step } => record.stages[stage]
                .checkpoints
                .retain(|(known, _)| *known != step),
            Store::Eval(result) => {
                record
                    .evals
                    .push((result.stage.clone(), result.step, result.data.clone()));
                self.disk.evals.push(*result);
            }
            Store::FinishStage { stage } => {
                let keeps = self.plan.job.stages[stage].rejection_sampling().is_some();
                assert_eq!(
                    keeps,
                    self.disk.kept.contains_key(&stage),
                    "a stage that keeps completions has its data set first"
                );
                assert!(self.saver.is_idle(), "a stage ends with its checkpoint");
                record.stages[stage].finished = true;
            }
        }
    }

    /// The rewards that ask about the completion, by name.
    fn asks(&self, item: &r1d_runner::ScoreItem) -> Vec<String> {
        let asking = self.plan.asking(item.of);
        let asking = asking.filter(|(reward, _)| {
            matches!(item.of, Source::Eval { .. }) || item.key.step >= reward.after_step
        });
        let mut names: Vec<String> = asking.map(|(reward, _)| reward.name.clone()).collect();
        names.sort();
        names
    }

    fn batch(&self, stage: usize, step: u64) -> Batch {
        if self.plan.job.stages[stage].reads_pairs() {
            return Batch::Pairs(pairs(stage, step));
        }
        let facts = &self.plan.stages[stage];
        assert!(!facts.later, "a stage begins once its data is there");
        let name = &self.plan.job.stages[stage].data;
        let maker = self
            .plan
            .job
            .stages
            .iter()
            .position(|maker| &maker.name == name);
        let kept = maker.and_then(|maker| self.disk.kept.get(&maker));
        let mut batch = batch(stage, step);
        if let Some(kept) = kept {
            for (sequence, row) in batch
                .iter_mut()
                .zip(kept.iter().cycle().skip(step as usize * 2))
            {
                sequence.ids.fill((row % 9) as u32);
            }
        }
        Batch::Sequences(batch)
    }

    fn work(&mut self, request: WorkerRequest) -> Vec<Event> {
        let done = |reply| Event::Worker(Body::Done(reply));
        match request {
            WorkerRequest::Open(open) => {
                let (policy, model) = match &open.model {
                    ModelSource::Init { config, .. } => {
                        let model = config
                            .strip_prefix("model ")
                            .unwrap()
                            .parse::<u32>()
                            .unwrap();
                        (mix(&[open.seed, model as u64]), model)
                    }
                    ModelSource::Directory(dir) => (
                        self.disk.checkpoints[dir].policy,
                        self.disk.checkpoints[dir].model,
                    ),
                };
                let value = match open.value_model.as_ref().map(|value| value.model.as_ref()) {
                    Some(Some(ModelSource::Directory(dir))) => self.disk.checkpoints[dir].policy,
                    Some(_) => policy,
                    None => 0,
                };
                self.worker = Weights {
                    policy,
                    reference: policy,
                    value,
                    model,
                };
                if let Some(slots) = open.sampler {
                    let longest = slots.tokens;
                    assert!(
                        longest >= u64::from(6 + 4 + model),
                        "the evaluations' prompts, as this model reads them, have room: {longest}"
                    );
                }
                self.opened = Some(*open);
                let sizes = Opened {
                    architecture: "fake".into(),
                    parameters: 1,
                    active_parameters: 1,
                    vocab_size: 9,
                    moe_layers: 0,
                    experts_per_token: 0,
                };
                vec![done(Reply::Opened(sizes))]
            }
            WorkerRequest::Generate(generate) => self.generate(generate),
            WorkerRequest::Train(train) => {
                let mut words = vec![
                    self.worker.policy,
                    self.worker.reference,
                    train.step,
                    train.first_update,
                    train.seed,
                ];
                for s in &train.sequences {
                    words.extend(s.completion_ids.iter().map(|id| *id as u64));
                    let cut = train.objective.beta > 0.0;
                    assert_eq!(
                        s.kept_ids.is_empty(),
                        !cut,
                        "top_p is that of the stage with a reference, and training sees what it \
                         left"
                    );
                    words.extend(bits(&s.behaviour_logprobs));
                    words.extend(s.kept_ids.numbers().iter().map(|number| *number as u64));
                    words.push(s.advantage.to_bits() as u64);
                }
                self.trained(&words)
            }
            WorkerRequest::Supervise(batch) => {
                let mut words = vec![self.worker.policy, batch.step];
                words.extend(
                    batch
                        .sequences
                        .iter()
                        .flat_map(|s| &s.ids)
                        .map(|id| *id as u64),
                );
                self.trained(&words)
            }
            WorkerRequest::TrainReward(batch) => {
                assert!(self.opened.as_ref().unwrap().scores);
                let RewardBatch::Pairs { pairs, .. } = batch.batch else {
                    panic!("pairs")
                };
                self.trained(&[self.worker.policy, batch.step, hash_of(&pairs)])
            }
            WorkerRequest::TrainDpo(batch) => {
                assert!(self.opened.as_ref().unwrap().reference);
                self.trained(&[
                    self.worker.policy,
                    self.worker.reference,
                    batch.step,
                    hash_of(&batch.pairs),
                ])
            }
            WorkerRequest::TrainPpo(batch) => {
                let scores = mix(&bits(&batch.scores));
                let ids = batch
                    .sequences
                    .iter()
                    .flat_map(|s| s.completion_ids.iter().chain(s.kept_ids.numbers()))
                    .map(|id| *id as u64)
                    .collect::<Vec<_>>();
                assert_eq!(batch.sequences.len(), batch.scores.len());
                assert!(
                    batch.sequences.iter().all(|s| !s.kept_ids.is_empty()),
                    "top_p is on"
                );
                let temperature = batch.objective.temperature.to_bits() as u64;
                let words = [
                    self.worker.policy,
                    self.worker.value,
                    self.worker.reference,
                    batch.first_update,
                    batch.seed,
                    scores,
                ];
                self.worker.value = mix(&[self.worker.value, scores]);
                self.trained(&[&words[..], &[mix(&ids), temperature]].concat())
            }
            WorkerRequest::Score { model, sequences } => {
                let weights = match model {
                    Some(ModelSource::Directory(dir)) => self.disk.checkpoints[&dir].policy,
                    Some(other) => panic!("{other:?} was never trained"),
                    None => self.worker.policy,
                };
                // Outside the batch-invariant mode a score depends on what is scored beside it.
                let all: Vec<u64> = sequences.iter().flatten().map(|id| *id as u64).collect();
                let beside = if self.plan.job.batch_invariant {
                    0
                } else {
                    mix(&all)
                };
                let score = |ids: &Vec<u32>| {
                    counter_uniform(&[
                        weights,
                        beside,
                        mix(&ids.iter().map(|id| *id as u64).collect::<Vec<_>>()),
                    ])
                };
                vec![done(Reply::Scored {
                    scores: sequences.iter().map(score).collect(),
                })]
            }
            WorkerRequest::Answer(asked) => {
                let ModelSource::Directory(dir) = &asked.model else {
                    panic!("{:?} was never trained", asked.model)
                };
                let (weights, reasoning) = (
                    self.disk.checkpoints[dir].policy,
                    "/job/checkpoints/reasoning/step-7",
                );
                assert_eq!(
                    (dir.to_str(), &asked.stop_ids[..]),
                    (Some(reasoning), &[77][..]),
                    "the stage's last weights"
                );
                let all: Vec<u64> = asked
                    .questions
                    .iter()
                    .flat_map(|question| &question.prompt_ids)
                    .map(|id| *id as u64)
                    .collect();
                let beside = if self.plan.job.batch_invariant {
                    0
                } else {
                    mix(&all)
                };
                let answer = |question: &Question| {
                    let ids: Vec<u64> = question.prompt_ids.iter().map(|id| *id as u64).collect();
                    vec![
                        (mix(&[weights, beside, mix(&ids)]) % 9) as u32;
                        question.max_tokens as usize
                    ]
                };
                self.answers += asked.questions.len();
                vec![done(Reply::Answered {
                    answers: asked.questions.iter().map(answer).collect(),
                })]
            }
            WorkerRequest::SyncReference => {
                self.worker.reference = self.worker.policy;
                vec![done(Reply::ReferenceSynced)]
            }
            WorkerRequest::Save { stage, step, dir } => {
                assert!(self.saver.is_idle(), "one checkpoint is written at a time");
                self.saver.snapshot = Some(((stage, step), dir, self.worker));
                vec![done(Reply::SnapshotTaken)]
            }
            WorkerRequest::Restore { dir }
                if self
                    .refused
                    .as_ref()
                    .is_some_and(|(refused, _)| *refused == dir) =>
            {
                let kind = self.refused.take().unwrap().1;
                vec![Event::Worker(Body::Failed(Failure {
                    kind,
                    message: REFUSED.into(),
                }))]
            }
            WorkerRequest::More(_) => panic!("a request is cut where it is written"),
            WorkerRequest::Rendezvous(_) => panic!("nobody calls the rendezvous"),
            WorkerRequest::Restore { dir } => {
                self.worker = self.disk.checkpoints[&dir];
                vec![done(Reply::Restored)]
            }
            WorkerRequest::Export { .. } => {
                assert!(self.saver.is_idle());
                self.disk.exported = Some(self.worker.policy);
                vec![done(Reply::Exported)]
            }
            WorkerRequest::Close => vec![done(Reply::Closed)],
        }
    }

    fn trained(&mut self, words: &[u64]) -> Vec<Event> {
        assert!(
            self.opened.as_ref().unwrap().optimiser.is_some(),
            "a stage that keeps completions does not train"
        );
        self.worker.policy = mix(words);
        let metrics =
            Metrics::from([("loss".into(), counter_uniform(&[self.worker.policy]) as f64)]);
        vec![Event::Worker(Body::Done(Reply::Trained { metrics }))]
    }

    /// Completions that, outside the batch-invariant mode, depend on all that is sampled together.
    fn generate(&mut self, request: Generate) -> Vec<Event> {
        assert_eq!(
            request.sampling.stop_ids,
            [1 + self.worker.model],
            "what ends a completion is the open model's"
        );
        let mut batch = vec![self.worker.policy, request.sampling.seed];
        if !self.plan.job.batch_invariant {
            batch.extend(request.groups.iter().flat_map(|g| {
                g.samples
                    .iter()
                    .map(|s| (g.prompt as u64) << 32 | *s as u64)
            }));
        }
        let batch = mix(&batch);
        let mut events = Vec::new();
        for group in &request.groups {
            for sample in &group.samples {
                let key = SampleKey {
                    stage: request.stage,
                    step: request.step,
                    prompt: group.prompt,
                    sample: *sample,
                };
                let word = |i: u64| {
                    mix(&[
                        batch,
                        request.stage as u64,
                        request.step,
                        group.prompt as u64,
                        *sample as u64,
                        group.row,
                        i,
                    ])
                };
                let length = 1 + word(0) % 6;
                let completion_ids: Vec<u32> = (1..=length).map(|i| (word(i) % 9) as u32).collect();
                events.push(Event::Worker(Body::Event(WorkerEvent::Completed(
                    Rollout {
                        key,
                        row: group.row,
                        prompt_ids: group.prompt_ids.clone(),
                        behaviour_logprobs: (1..=length)
                            .map(|i| -counter_uniform(&[word(i)]))
                            .collect(),
                        kept_ids: kept_ids(&request.sampling, &completion_ids, word(0)),
                        completion_ids,
                        experts: vec![],
                        policy_version: request.policy_version,
                        finish: FinishReason::Stop,
                    },
                ))));
            }
        }
        // Completions end in any order.
        for i in (1..events.len()).rev() {
            let j = self.draw(i as u64 + 1) as usize;
            events.swap(i, j);
        }
        events.push(Event::Worker(Body::Done(Reply::Generated {
            metrics: Metrics::from([("timing_s/decode".into(), 1.0)]),
        })));
        events
    }
}

fn verdict(ids: &[u32]) -> Verdict {
    let outcome = match ids[0] {
        8 => Outcome::Abstain {
            reason: "no reference".into(),
        },
        7 => Outcome::OutOfFuel,
        id => Outcome::Score {
            value: (id < 3) as u32 as f32,
            parts: vec![],
        },
    };
    let (module_sha256, config_sha256) = (String::new(), String::new());
    Verdict {
        plugin: "accuracy".into(),
        module_sha256,
        config_sha256,
        outcome,
        value: None,
        fuel: 9,
    }
}

fn group_verdict(word: u64) -> Verdict {
    let outcome = Outcome::Score {
        value: (word % 5) as f32 / 4.0,
        parts: vec![],
    };
    let (module_sha256, config_sha256) = (String::new(), String::new());
    Verdict {
        plugin: "diverse".into(),
        module_sha256,
        config_sha256,
        outcome,
        value: None,
        fuel: 9,
    }
}

/// Questions of a reward to its model: a number for a text, or an answer to two questions, some of
/// which cannot be asked.
fn questions(reward: &str, ids: &[u32]) -> JudgeRequest {
    let question = |id: u32| match ids.first() {
        Some(5) => Err("it is too long".to_string()),
        Some(6) if id == 1 => Err("it is too long".to_string()),
        _ => Ok(Question {
            prompt_ids: [ids, &[id]].concat(),
            max_tokens: 1 + id,
        }),
    };
    let questions = match reward {
        "helpfulness" => Questions::Numbers(vec![ids.to_vec()]),
        _ => Questions::Texts {
            stop_ids: vec![77],
            questions: vec![question(1), question(2)],
        },
    };
    JudgeRequest {
        reward: reward.into(),
        questions,
    }
}

/// The verdict of the reward from its model's answers.
fn conclusion(reward: &str, ids: &[u32], answers: &Answers) -> Verdict {
    let (module_sha256, config_sha256) = (String::new(), String::new());
    let outcome = match answers {
        Answers::Numbers(numbers) => Outcome::Score {
            value: numbers[0],
            parts: vec![],
        },
        Answers::Texts(texts) => {
            let whether: Vec<bool> = texts.iter().map(Result::is_ok).collect();
            assert_eq!(
                whether,
                [![5, 6].contains(&ids[0]), ids[0] != 5],
                "each answer to its question"
            );
            let lengths: Vec<usize> = texts.iter().flatten().map(Vec::len).collect();
            assert!(
                [&[][..], &[3], &[2, 3]].contains(&&lengths[..]),
                "{lengths:?}"
            );
            match texts
                .iter()
                .flatten()
                .flatten()
                .map(|id| *id as f32 / 9.0)
                .next()
            {
                Some(value) => Outcome::Score {
                    value,
                    parts: vec![],
                },
                None => Outcome::Abstain {
                    reason: "it is too long".into(),
                },
            }
        }
    };
    Verdict {
        plugin: reward.into(),
        module_sha256,
        config_sha256,
        outcome,
        value: None,
        fuel: 9,
    }
}

fn pairs(stage: usize, step: u64) -> Vec<Pair> {
    let id = |i: u64| (mix(&[stage as u64, step, i]) % 9) as u32;
    (0..2)
        .map(|i| Pair {
            prompt_ids: vec![i],
            chosen_ids: vec![id(1), 1],
            rejected_ids: vec![id(2), 2, 1],
            margin: 0.0,
        })
        .collect()
}

fn hash_of(pairs: &[Pair]) -> u64 {
    mix(&pairs
        .iter()
        .flat_map(|pair| pair.chosen_ids.iter().chain(&pair.rejected_ids))
        .map(|id| *id as u64)
        .collect::<Vec<_>>())
}

fn prompts(of: Source, step: u64, round: u32, count: u64) -> Vec<Prompt> {
    let salt = match of {
        Source::Stage(index) => index as u64,
        Source::Eval { eval, model } => 100 + 10 * model as u64 + eval as u64,
    };
    let row = |i: u64| mix(&[salt, step, round as u64, i]) % 50;
    (0..count)
        .map(row)
        .map(|row| Prompt {
            row,
            ids: vec![row as u32 % 9; 3],
            text: format!("{row}?"),
            reference: None,
        })
        .collect()
}

fn batch(stage: usize, step: u64) -> Vec<SupervisedSequence> {
    (0..2)
        .map(|i| SupervisedSequence {
            ids: vec![(mix(&[stage as u64, step, i]) % 9) as u32; 8],
            trained: vec![true; 8],
        })
        .collect()
}

/// Everything about a finished job that may not depend on crashes.
type Outcomes = (
    Option<u64>,
    Vec<((usize, u64), Metrics)>,
    Vec<(Option<String>, u64, String, Metrics)>,
    BTreeMap<usize, Vec<u64>>,
);

fn outcome(world: &World) -> Outcomes {
    let exact = |m: &Metrics| -> Metrics {
        m.iter()
            .filter(|(name, _)| !is_timing(name))
            .map(|(n, v)| (n.clone(), *v))
            .collect()
    };
    let metrics = world
        .disk
        .metrics
        .iter()
        .map(|(key, m)| (*key, exact(m)))
        .collect();
    let evals = world
        .disk
        .evals
        .iter()
        .map(|e| (e.stage.clone(), e.step, e.data.clone(), exact(&e.metrics)))
        .collect();
    (world.disk.exported, metrics, evals, world.disk.kept.clone())
}

fn undisturbed(batch_invariant: bool) -> Outcomes {
    undisturbed_of(plan(batch_invariant))
}

fn undisturbed_of(plan: Plan) -> Outcomes {
    let mut world = World::new(plan, 0, 0);
    assert_eq!(
        world.run(),
        End::Succeeded {
            model: "/job/final".into()
        }
    );
    outcome(&world)
}

#[test]
fn an_undisturbed_job_does_all_its_steps_and_evaluations() {
    let (exported, metrics, evals, _) = undisturbed(true);
    assert!(exported.is_some());
    assert_eq!(metrics.len(), 4 + 7 + 2);
    let places: Vec<_> = evals
        .iter()
        .map(|(stage, step, ..)| (stage.as_deref(), *step))
        .collect();
    let (base, reasoning, more) = (Some("reading"), Some("reasoning"), Some("more"));
    let expected = [
        (None, 0),
        (base, 2),
        (base, 4),
        (reasoning, 2),
        (reasoning, 4),
        (reasoning, 6),
        (reasoning, 7),
        (more, 2),
    ];
    assert_eq!(places, expected);
    let step = &metrics[4].1;
    for name in [
        "reward",
        "reward_std",
        "frac_reward_zero_std",
        "rewards/accuracy/mean",
        "completions/mean_length",
        "loss",
        "num_tokens",
        "verdict/score",
    ] {
        assert!(step.contains_key(name), "{name} is missing of {step:?}");
    }
    // Dynamic sampling asks for more prompts now and then.
    assert!(
        metrics[4..11]
            .iter()
            .any(|(_, m)| m["groups/sampled"] > 3.0)
    );
    assert!(
        metrics[4..11]
            .iter()
            .all(|(_, m)| m["groups/trained"] <= 3.0)
    );
}

#[test]
fn any_order_of_events_ends_the_same() {
    for batch_invariant in [true, false] {
        let expected = undisturbed(batch_invariant);
        for seed in 1..60 {
            let mut world = World::new(plan(batch_invariant), seed, 0);
            world.run();
            assert!(
                outcome(&world) == expected,
                "seed {seed}, batch_invariant {batch_invariant}"
            );
        }
    }
}

#[test]
fn any_crashes_end_the_same() {
    for batch_invariant in [true, false] {
        let expected = undisturbed(batch_invariant);
        let mut crashes = 0;
        for seed in 1..250 {
            let mut world = World::new(plan(batch_invariant), seed, 1 + seed % 12);
            assert_eq!(
                world.run(),
                End::Succeeded {
                    model: "/job/final".into()
                }
            );
            assert!(
                outcome(&world) == expected,
                "seed {seed}, batch_invariant {batch_invariant}, {} crashes",
                world.crashes
            );
            crashes += world.crashes;
        }
        assert!(
            crashes > 1000,
            "{crashes} crashes are too few to mean anything"
        );
    }
}

/// A group of which a crash left some verdicts is judged whole again.
#[test]
fn groups_are_never_split_whatever_crashes() {
    for batch_invariant in [true, false] {
        let expected = undisturbed_of(plan_of_groups(batch_invariant));
        assert!(
            expected != undisturbed(batch_invariant),
            "the second reward counts"
        );
        let mut crashes = 0;
        for seed in 1..250 {
            let mut world = World::new(plan_of_groups(batch_invariant), seed, seed % 12);
            assert_eq!(
                world.run(),
                End::Succeeded {
                    model: "/job/final".into()
                }
            );
            assert!(
                outcome(&world) == expected,
                "seed {seed}, batch_invariant {batch_invariant}, {} crashes",
                world.crashes
            );
            crashes += world.crashes;
        }
        assert!(
            crashes > 1000,
            "{crashes} crashes are too few to mean anything"
        );
    }
}

/// Completions are kept, a stage trains on them, another goes on from the weights that they were
/// sampled from.
#[test]
fn what_a_stage_keeps_is_what_later_stages_read_whatever_crashes() {
    for batch_invariant in [true, false] {
        let mut world = World::new(plan_with_rejection(batch_invariant), 0, 0);
        assert_eq!(
            world.run(),
            End::Succeeded {
                model: "/job/final".into()
            }
        );
        assert_eq!(world.rereads, 1);
        let expected = outcome(&world);
        let (_, metrics, evals, kept) = &expected;
        let kept = &kept[&2];
        assert!(
            (2..=5 * 3 * 2).contains(&kept.len()),
            "at most two of each prompt: {}",
            kept.len()
        );
        let steps = |stage| {
            metrics
                .iter()
                .filter(|((of, _), _)| *of == stage)
                .map(|(_, metrics)| metrics)
                .collect::<Vec<_>>()
        };
        assert_eq!(steps(2).len(), 5);
        let accepted: f64 = steps(2)
            .iter()
            .map(|metrics| metrics["acceptance_rate"] * 12.0)
            .sum();
        assert!((accepted - kept.len() as f64).abs() < 1e-9, "{accepted}");
        assert!(steps(2).iter().all(|m| m.contains_key("reward")
            && m.contains_key("verdict/score")
            && !m.contains_key("loss")));
        assert_eq!(steps(3).len(), kept.len(), "two epochs of pairs");
        assert!(
            evals
                .iter()
                .all(|(stage, ..)| stage.as_deref() != Some("keep")),
            "its weights were evaluated before"
        );
        // The last stage's weights are what it made of those of the stage before the one that
        // keeps.
        let record = &world.disk.record.stages;
        let of = |stage: usize| {
            world.disk.checkpoints[&record[stage].checkpoints.last().unwrap().1].policy
        };
        assert_ne!(of(4), of(3));
        assert_eq!(world.disk.exported, Some(of(4)));
        let mut crashes = 0;
        for seed in 1..250 {
            let mut world = World::new(plan_with_rejection(batch_invariant), seed, seed % 12);
            assert_eq!(
                world.run(),
                End::Succeeded {
                    model: "/job/final".into()
                }
            );
            assert!(
                outcome(&world) == expected,
                "seed {seed}, batch_invariant {batch_invariant}, {} crashes",
                world.crashes
            );
            assert!(world.rereads <= 1 + world.crashes);
            crashes += world.crashes;
        }
        assert!(
            crashes > 1000,
            "{crashes} crashes are too few to mean anything"
        );
    }
}

/// A student's stage between the others, which reads what its teacher kept.
const STUDENT: &str = r#"
[[stage]]
name = "student-reading"
kind = "pretrain"
model = "student"
data = "text"
steps = 3
batch_size = 2
max_length = 8
[[stage]]
name = "reasoning"
"#;

const STUDENT_LAST: &str = r#"
[[stage]]
name = "distilled"
kind = "sft"
model = "student"
data = "keep"
epochs = 1
batch_size = 2
max_length = 8
[[stage]]
name = "student-more"
kind = "grpo"
model = "student"
data = "train"
steps = 3
prompts_per_step = 2
num_generations = 2
max_completion_length = 6
  [[stage.reward]]
  plugin = "accuracy"
[[stage]]
name = "teachers-exam"
kind = "eval"
data = "test"
max_completion_length = 6
[[stage]]
name = "exam"
kind = "eval"
from = "student-more"
model = "student"
data = "test"
num_generations = 3
max_completion_length = 6
metrics = ["avg@3"]
[checkpoint]
"#;

fn plan_of_two_models(batch_invariant: bool) -> Plan {
    let with_models = JOB.replace(
        "[data.text]",
        "[models.student]\ninit = \"s.json\"\ntokenizer = \"s\"\n[data.text]",
    );
    let job = with_models
        .replace("[[stage]]\nname = \"more\"\n", REJECTION)
        .replace("\n[[stage]]\nname = \"reasoning\"\n", STUDENT);
    plan_of_job(
        &job.replace("[checkpoint]\n", STUDENT_LAST),
        batch_invariant,
    )
}

/// Each model goes its own way through the job, whatever lies between its stages and whatever
/// crashes.
#[test]
fn a_teacher_and_its_student_end_the_same_whatever_crashes() {
    for batch_invariant in [true, false] {
        let mut world = World::new(plan_of_two_models(batch_invariant), 0, 0);
        assert_eq!(
            world.run(),
            End::Succeeded {
                model: "/job/final".into()
            }
        );
        let expected = outcome(&world);
        let place = |name: &str| {
            world
                .plan
                .job
                .stages
                .iter()
                .position(|stage| stage.name == name)
                .unwrap()
        };
        let last = |name: &str| {
            let (_, dir) = world.disk.record.stages[place(name)]
                .checkpoints
                .last()
                .unwrap();
            world.disk.checkpoints[dir]
        };
        for (name, model) in [
            ("reasoning", 0),
            ("more", 0),
            ("student-reading", 1),
            ("distilled", 1),
            ("student-more", 1),
        ] {
            assert_eq!(last(name).model, model, "{name}");
        }
        assert_eq!(
            world.disk.exported,
            Some(last("student-more").policy),
            "the last stage's model, which an evaluation passes on"
        );
        let result = |stage: &str, step| {
            let found = expected
                .2
                .iter()
                .find(|(of, at, ..)| of.as_deref() == Some(stage) && *at == step);
            found
                .map(|(.., metrics)| metrics.clone())
                .unwrap_or_else(|| panic!("{stage} {step}"))
        };
        let exam = result("exam", 0);
        assert!(
            exam["avg@3"] >= exam["avg@3_ci_low"] && exam["avg@3"] <= exam["avg@3_ci_high"],
            "{exam:?}"
        );
        // Every plugin has declared 0 to 1.
        let is_end = |name: &str| name.ends_with("_ci_low") || name.ends_with("_ci_high");
        let ends = exam
            .iter()
            .filter(|(name, _)| name.starts_with("rewards/") && is_end(name));
        let ends: Vec<_> = ends.collect();
        let within = |(_, end): &(&String, &f64)| (0.0..=1.0).contains(*end);
        assert!(!ends.is_empty() && ends.iter().all(within), "{ends:?}");
        assert_eq!(exam["rows"], 3.0);
        assert!(
            !expected
                .1
                .iter()
                .any(|((stage, _), _)| *stage == place("exam")),
            "it has no steps"
        );
        assert!(result("teachers-exam", 0)["pass@1"] >= 0.0);
        // The teacher knows nothing of its student: without it, the same steps.
        let mut alone = World::new(plan_with_rejection(batch_invariant), 0, 0);
        alone.run();
        let numbers = |world: &World, name: &str| {
            let index = world
                .plan
                .job
                .stages
                .iter()
                .position(|stage| stage.name == name)
                .unwrap();
            let steps = world.disk.metrics.range((index, 0)..(index + 1, 0));
            steps
                .map(|(_, metrics)| metrics.get("loss").copied())
                .collect::<Vec<_>>()
        };
        assert_eq!(numbers(&alone, "reading"), numbers(&world, "reading"));
        // Evaluated once before training, and after the stages of both.
        let evaluated: Vec<_> = expected
            .2
            .iter()
            .map(|(stage, ..)| stage.as_deref())
            .collect();
        assert_eq!(evaluated.iter().filter(|stage| stage.is_none()).count(), 1);
        for name in [
            "reading",
            "student-reading",
            "reasoning",
            "again",
            "more",
            "distilled",
            "student-more",
        ] {
            assert!(evaluated.contains(&Some(name)), "{name} of {evaluated:?}");
        }
        let mut crashes = 0;
        for seed in 1..120 {
            let mut world = World::new(plan_of_two_models(batch_invariant), seed, seed % 12);
            assert_eq!(
                world.run(),
                End::Succeeded {
                    model: "/job/final".into()
                }
            );
            assert!(
                outcome(&world) == expected,
                "seed {seed}, batch_invariant {batch_invariant}, {} crashes",
                world.crashes
            );
            crashes += world.crashes;
        }
        assert!(
            crashes > 500,
            "{crashes} crashes are too few to mean anything"
        );
    }
}

/// What is evaluated before training is the job's own model, also where a student's stage comes
/// first.
#[test]
fn the_first_evaluation_is_of_the_jobs_own_model() {
    let job = JOB.replace(
        "[data.text]",
        "[models.student]\ninit = \"s.json\"\ntokenizer = \"s\"\n[data.text]",
    );
    let job = job.replacen(
        "kind = \"pretrain\"\n",
        "kind = \"pretrain\"\nmodel = \"student\"\n",
        1,
    );
    let of_start = |plan: Plan| {
        let mut world = World::new(plan, 0, 0);
        world.run();
        let first = world
            .disk
            .evals
            .iter()
            .filter(|eval| eval.stage.is_none())
            .cloned()
            .collect::<Vec<_>>();
        assert_eq!(first.len(), 1);
        first[0].metrics["pass@1"]
    };
    assert_eq!(of_start(plan_of_job(&job, true)), of_start(plan(true)));
}

/// A reward model is trained and asked, and so is a judge, a policy that writes, by a PPO stage's
/// rewards and by evaluations; PPO's value model starts from it; DPO learns from pairs.
#[test]
fn preferences_end_the_same_whatever_crashes() {
    for batch_invariant in [true, false] {
        let mut world = World::new(plan_with_preferences(batch_invariant), 0, 0);
        assert_eq!(
            world.run(),
            End::Succeeded {
                model: "/job/final".into()
            }
        );
        let expected = outcome(&world);
        let (_, metrics, evals, _) = &expected;
        let of = |stage| {
            metrics
                .iter()
                .filter(move |((of, _), _)| *of == stage)
                .map(|(_, metrics)| metrics)
        };
        let asked: Vec<bool> = of(3)
            .map(|metrics| metrics.contains_key("rewards/helpfulness/mean"))
            .collect();
        assert_eq!(
            asked,
            [false, true, true, true, true],
            "from the step after the first on"
        );
        assert!(
            of(3).all(|metrics| metrics.contains_key("rewards/correctness/mean"))
                && world.answers > 50,
            "{}",
            world.answers
        );
        assert_eq!((of(2).count(), of(4).count()), (5, 4));
        // Held-out pairs after the reward model's stage, its own name; those that ask it only after
        // it.
        let held_out: Vec<_> = evals
            .iter()
            .filter(|(.., data, _)| data == "other-pairs")
            .collect();
        assert_eq!(held_out.len(), 1);
        assert_eq!(
            (
                held_out[0].0.as_deref(),
                held_out[0].1,
                held_out[0].3["rows"]
            ),
            (Some("helpful"), 5, 2.0)
        );
        assert!(
            world
                .warnings
                .iter()
                .any(|warning| warning.contains("stage `helpful` does not tell good from bad"))
        );
        let evaluated: Vec<_> = evals
            .iter()
            .filter(|(.., data, _)| data == "test")
            .map(|(stage, step, ..)| (stage.as_deref(), *step))
            .collect();
        let (wise, polite, more) = (Some("wise"), Some("polite"), Some("more"));
        assert_eq!(
            evaluated,
            [
                (wise, 2),
                (wise, 4),
                (wise, 5),
                (polite, 2),
                (polite, 4),
                (more, 2)
            ]
        );
        assert!(
            evals
                .iter()
                .filter(|(.., data, _)| data == "test")
                .all(
                    |(.., metrics)| metrics.contains_key("rewards/helpfulness/mean")
                        && metrics.contains_key("rewards/correctness/mean")
                )
        );
        // No policy starts from the reward model.
        let record = &world.disk.record.stages;
        let last =
            |stage: usize| world.disk.checkpoints[&record[stage].checkpoints.last().unwrap().1];
        assert_ne!(last(3).policy, last(2).policy);
        let mut crashes = 0;
        for seed in 1..250 {
            let mut world = World::new(plan_with_preferences(batch_invariant), seed, seed % 12);
            assert_eq!(
                world.run(),
                End::Succeeded {
                    model: "/job/final".into()
                }
            );
            assert!(
                outcome(&world) == expected,
                "seed {seed}, batch_invariant {batch_invariant}, {} crashes",
                world.crashes
            );
            crashes += world.crashes;
        }
        assert!(
            crashes > 1000,
            "{crashes} crashes are too few to mean anything"
        );
    }
}

/// A job that ends with a stage that trains nothing exports the weights that it sampled from.
#[test]
fn a_job_may_end_by_keeping_completions() {
    let alone = &REJECTION[..REJECTION.find("[[stage]]\nname = \"again\"").unwrap()];
    let job = &JOB[..JOB.find("[[stage]]\nname = \"more\"").unwrap()];
    let checkpoints =
        "[checkpoint]\nevery_steps = 3\n[[eval]]\ndata = \"test\"\nmax_completion_length = 6\n";
    let mut world = World::new(
        plan_of_job(&format!("{job}{alone}{checkpoints}"), true),
        0,
        0,
    );
    assert_eq!(
        world.run(),
        End::Succeeded {
            model: "/job/final".into()
        }
    );
    let dir = &world.disk.record.stages[1].checkpoints.last().unwrap().1;
    assert_eq!(
        world.disk.exported,
        Some(world.disk.checkpoints[dir].policy)
    );
    assert!(!world.disk.kept[&2].is_empty() && world.rereads == 0);
    // If the completions are to be reviewed, the attempt ends, so that the machine's driver can
    // wait.
    let reviewed = alone.replace(
        "kind = \"rejection-sampling\"",
        "kind = \"rejection-sampling\"\nreview = true",
    );
    let mut waited = World::new(
        plan_of_job(&format!("{job}{reviewed}{checkpoints}"), true),
        0,
        0,
    );
    assert_eq!(
        waited.run(),
        End::Succeeded {
            model: "/job/final".into()
        }
    );
    assert_eq!(
        (waited.rereads, waited.disk.exported),
        (1, world.disk.exported)
    );
}

#[test]
fn only_the_newest_checkpoints_are_kept() {
    let mut world = World::new(plan(true), 0, 0);
    world.run();
    let kept: Vec<Vec<u64>> = world
        .disk
        .record
        .stages
        .iter()
        .map(|s| s.checkpoints.iter().map(|(step, _)| *step).collect())
        .collect();
    assert_eq!(kept, [vec![3, 4], vec![6, 7], vec![2]]);
    assert_eq!(world.disk.checkpoints.len(), 5);
}

/// A snapshot is written while steps go on, or is lost with its worker; the next one waits for it,
/// and so does the stage's end.
#[test]
fn checkpoints_that_are_written_beside_the_steps_change_nothing() {
    for batch_invariant in [true, false] {
        let expected = undisturbed(batch_invariant);
        let (mut commits_beside, mut lost) = (0, 0);
        for seed in 1..250 {
            let mut plan = plan(batch_invariant);
            plan.job.checkpoint.every_steps = 1 + seed % 3;
            let mut world = World::new(plan, seed, seed % 4);
            world.saver.ends_per_mille = [2, 20, 1000][seed as usize % 3];
            assert!(matches!(world.run(), End::Succeeded { .. }));
            assert!(outcome(&world) == expected, "seed {seed}");
            commits_beside += world.saver.commits_beside;
            lost += world.saver.lost;
        }
        assert!(
            commits_beside > 1000 && lost > 100,
            "{commits_beside} steps beside a writing, {lost} snapshots lost"
        );
    }
}

/// A disk that fills up while a checkpoint is written ends the attempt as one that is full at
/// first does: the job waits, and goes on from the checkpoint before.
#[test]
fn a_disk_that_is_full_when_a_snapshot_is_written_costs_time_and_nothing_else() {
    let expected = undisturbed(true);
    let mut full = 0;
    for seed in 1..100 {
        let mut plan = plan(true);
        plan.job.checkpoint.every_steps = 2;
        let mut world = World::new(plan, seed, seed % 3);
        (world.saver.ends_per_mille, world.saver.full_per_mille) = (20, 400);
        assert!(matches!(world.run(), End::Succeeded { .. }));
        assert!(outcome(&world) == expected, "seed {seed}");
        full += world.saver.full;
    }
    assert!(full > 200, "{full} full disks");
}

/// A thread that writes nothing more is noticed where the job needs its checkpoint, and named.
#[test]
fn a_checkpoint_that_is_never_stored_ends_the_attempt_by_its_name() {
    let mut plan = plan(true);
    plan.job.evals.clear();
    plan.evals.clear();
    let mut world = World::new(plan, 1, 0);
    world.saver.ends_per_mille = 0;
    let mut machine = Machine::new(world.plan.clone(), Record::default(), Duration::ZERO);
    let mut events = VecDeque::from([Event::WorkerStarted { pid: 1 }]);
    while let Some(event) = events.pop_front() {
        for command in machine.handle(event, Duration::ZERO).commands {
            match command {
                Command::Worker(request) => events.extend(world.work(*request)),
                Command::ReadBatch { stage, step } => {
                    events.push_back(Event::Batch(world.batch(stage, step)))
                }
                Command::Store(store) => {
                    world.store(store);
                    events.push_back(Event::Stored);
                }
                Command::Trace(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    let limit = Limits::default().worker_silence;
    let report = world.writes().unwrap();
    machine.handle(report, limit);
    let wait = machine.waits().pop().unwrap();
    assert_eq!(
        wait.waits_for,
        "worker cpu: writing the checkpoint (1 of 2 bytes)"
    );
    assert!(machine.handle(Event::Tick, limit).commands.is_empty());
    let commands = machine.handle(Event::Tick, limit * 2).commands;
    assert!(
        matches!(&commands[..], [Command::End(End::WorkerFailed { cause })] if cause.contains(
            "waiting for the last checkpoint")),
        "{commands:?}"
    );
}

#[test]
fn a_damaged_checkpoint_costs_time_and_nothing_else() {
    let expected = undisturbed(true);
    let mut world = World::new(plan(true), 3, 6);
    // Every checkpoint of the second stage is bad when it is first restored.
    world.refused = Some((
        "/job/checkpoints/reasoning/step-3".into(),
        FailureKind::Invalid,
    ));
    world.run();
    assert!(outcome(&world) == expected);
    assert!(
        world
            .warnings
            .iter()
            .any(|warning| warning.contains(REFUSED)),
        "{:?}",
        world.warnings
    );
}

/// A disk, a device or memory that fails while a checkpoint is restored does not show that the
/// checkpoint is bad: a fresh worker takes the same one.
#[test]
fn a_checkpoint_that_could_not_be_read_is_kept() {
    let expected = undisturbed(true);
    let checkpoint = PathBuf::from("/job/checkpoints/reasoning/step-3");
    for kind in [FailureKind::Internal, FailureKind::OutOfMemory] {
        let mut world = World::new(plan(true), 3, 6);
        world.refused = Some((checkpoint.clone(), kind));
        world.run();
        assert!(world.refused.is_none() && outcome(&world) == expected);
        assert!(
            !world
                .warnings
                .iter()
                .any(|warning| warning.contains(REFUSED)),
            "{:?}",
            world.warnings
        );
    }
}

/// Without any event, the machine gives up at the deadline and names the wait.
#[test]
fn a_silent_worker_is_given_up_and_named() {
    let mut machine = Machine::new(Arc::new(plan(true)), Record::default(), Duration::ZERO);
    machine.handle(Event::WorkerStarted { pid: 1 }, Duration::from_secs(1));
    assert_eq!(machine.waits()[1].waits_for, "worker cpu: loading");
    let limit = Limits::default().worker_silence;
    assert!(machine.handle(Event::Tick, limit).commands.is_empty());
    let progress = WorkerEvent::Progress {
        doing: "loading".into(),
        done: 1,
        total: 2,
        unit: "models".into(),
    };
    machine.handle(Event::Worker(Body::Event(progress)), limit);
    assert!(
        machine
            .handle(Event::Tick, limit + Duration::from_secs(2))
            .commands
            .is_empty(),
        "a word of the worker extends the wait"
    );
    let commands = machine.handle(Event::Tick, limit * 2).commands;
    let [Command::End(End::WorkerFailed { cause })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(
        cause.contains("worker cpu: loading") && cause.contains("past its deadline"),
        "{cause}"
    );
}

#[test]
fn failures_of_the_worker_end_or_abandon_by_their_kind() {
    let of = |kind| {
        let mut machine = Machine::new(Arc::new(plan(true)), Record::default(), Duration::ZERO);
        machine.handle(Event::WorkerStarted { pid: 1 }, Duration::ZERO);
        let failure = Failure {
            kind,
            message: "the words of the worker".into(),
        };
        let mut commands = machine
            .handle(Event::Worker(Body::Failed(failure)), Duration::ZERO)
            .commands;
        assert!(
            machine
                .handle(Event::Tick, Duration::MAX)
                .commands
                .is_empty(),
            "nothing follows an end"
        );
        match commands.pop() {
            Some(Command::End(end)) => end,
            other => panic!("{other:?}"),
        }
    };
    assert!(
        matches!(of(FailureKind::Storage), End::Away { cause } if cause.contains(
            "the words of the worker"))
    );
    assert!(
        matches!(of(FailureKind::Internal), End::WorkerFailed { cause } if cause.contains(
            "the words of the worker"))
    );
    let invalid = of(FailureKind::Invalid);
    assert!(
        matches!(&invalid, End::Failed { error } if error.contains("the words of the worker")
            && error.contains(
            "stage `reading`")),
        "{invalid:?}"
    );
    // There was room for the model when the job began, or will be when another process has ended:
    // bounded tries.
    let full = of(FailureKind::OutOfMemory);
    assert!(
        matches!(&full, End::Abandoned { cause } if cause.contains("the device ran out of memory")
            && cause.contains("the plan counts policy 3.0 GiB, update 0.5 GiB, at most 3.5 GiB")),
        "{full:?}"
    );
}

/// A machine whose stage has all its steps, and is now to make its data set; with when that began.
fn about_to_keep() -> (Machine, Duration) {
    let plan = plan_with_rejection(true);
    let trained = |step: u64, name: &str| {
        let checkpoints = vec![(
            step,
            PathBuf::from(format!("/job/checkpoints/{name}/step-{step}")),
        )];
        StageRecord {
            finished: true,
            step,
            checkpoints,
            num_tokens: 1.0,
        }
    };
    let kept = StageRecord {
        step: 5,
        ..StageRecord::default()
    };
    let record = Record {
        stages: vec![trained(4, "reading"), trained(7, "reasoning"), kept],
        evals: Vec::new(),
    };
    let mut machine = Machine::new(Arc::new(plan), record, Duration::ZERO);
    let sizes = Opened {
        architecture: "fake".into(),
        parameters: 1,
        active_parameters: 1,
        vocab_size: 9,
        moe_layers: 0,
        experts_per_token: 0,
    };
    let began = Duration::from_secs(3);
    machine.handle(Event::WorkerStarted { pid: 1 }, Duration::ZERO);
    machine.handle(
        Event::Worker(Body::Done(Reply::Opened(sizes))),
        Duration::ZERO,
    );
    let commands = machine.handle(Event::Stored, began).commands;
    assert!(
        matches!(&commands[..], [Command::MakeDataSet { stage: 2 }]),
        "{commands:?}"
    );
    (machine, began)
}

/// An old copy of the ledger knows fewer steps than the journal. Where the journal lacks the next
/// one, those behind it were sampled with weights that will not be there again.
#[test]
fn what_the_journal_holds_behind_a_gap_is_forgotten() {
    for (later, batch_invariant) in [(true, true), (true, false), (false, false)] {
        let checkpoints = vec![(4, PathBuf::from("/job/checkpoints/reading/step-4"))];
        let finished = StageRecord {
            finished: true,
            step: 4,
            checkpoints,
            num_tokens: 1.0,
        };
        let record = Record {
            stages: vec![finished],
            evals: Vec::new(),
        };
        let mut machine = Machine::new(Arc::new(plan(batch_invariant)), record, Duration::ZERO);
        let (architecture, vocab_size) = ("fake".into(), 9);
        let sizes = Opened {
            architecture,
            parameters: 1,
            active_parameters: 1,
            vocab_size,
            moe_layers: 0,
            experts_per_token: 0,
        };
        let mut commands = Vec::new();
        for event in [
            Event::WorkerStarted { pid: 1 },
            Event::Worker(Body::Done(Reply::Opened(sizes))),
            Event::Stored,
        ] {
            commands = machine.handle(event, Duration::ZERO).commands;
        }
        assert!(
            matches!(&commands[..], [Command::Recall { stage: 1, step: 0 }]),
            "{commands:?}"
        );
        let recalled = Recalled {
            later,
            ..Recalled::default()
        };
        let commands = machine
            .handle(Event::Recalled(recalled), Duration::ZERO)
            .commands;
        let forgets = matches!(&commands[..], [Command::Forget { stage: 1, step: 0 }]);
        assert_eq!(forgets, later, "{commands:?}");
    }
}

/// A data set may take hours to write: its writer reports progress, and only silence ends the
/// attempt.
#[test]
fn a_data_set_that_takes_long_to_write_is_waited_for() {
    let (mut machine, began) = about_to_keep();
    let limit = Limits::default().store;
    let mut now = began;
    for done in 0..50 {
        now += limit - Duration::from_secs(1);
        assert!(
            machine.handle(Event::Tick, now).commands.is_empty(),
            "after {now:?}"
        );
        machine.handle(Event::Progress(written(done)), now);
        assert_eq!(machine.activity(), written(done));
    }
    let wait = machine.waits().pop().unwrap();
    assert_eq!(wait.waits_for, "data set: being written (49 of 5 steps)");
    let commands = machine.handle(Event::Stored, now).commands;
    assert!(
        matches!(
            &commands[..],
            [Command::Store(Store::FinishStage { stage: 2 })]
        ),
        "{commands:?}"
    );
    // A report that comes after the answer is ignored.
    assert!(
        machine
            .handle(Event::Progress(written(4)), now)
            .commands
            .is_empty()
    );
    assert!(
        machine
            .handle(Event::Stored, now)
            .commands
            .iter()
            .all(|command| !matches!(command, Command::End(End::Abandoned { .. })))
    );

    let (mut silent, began) = about_to_keep();
    assert!(
        silent
            .handle(Event::Tick, began + limit - Duration::from_secs(1))
            .commands
            .is_empty()
    );
    let commands = silent.handle(Event::Tick, began + limit).commands;
    let [Command::End(End::Abandoned { cause })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(
        cause.contains("making the data set of stage `keep`"),
        "{cause}"
    );
}

/// An event that has no place is named in a few words, whatever it carries.
#[test]
fn an_unexpected_event_is_shown_by_its_beginning() {
    let mut machine = Machine::new(Arc::new(plan(true)), Record::default(), Duration::ZERO);
    let commands = machine
        .handle(
            Event::Prompts(prompts(Source::Stage(0), 0, 0, 10_000)),
            Duration::ZERO,
        )
        .commands;
    let [Command::End(End::Abandoned { cause })] = &commands[..] else {
        panic!("{commands:?}")
    };
    assert!(
        cause.contains("in state starting the worker: Prompts([Prompt {"),
        "{cause}"
    );
    assert!(cause.len() < 250, "{} bytes", cause.len());
}

/// A machine that has sampled its first evaluation, and has no verdict yet.
fn waiting_for_verdicts() -> Machine {
    let mut world = World::new(plan(true), 0, 0);
    let mut machine = Machine::new(world.plan.clone(), Record::default(), Duration::ZERO);
    let mut events = VecDeque::from([Event::WorkerStarted { pid: 1 }]);
    let mut completions = 0;
    while let Some(event) = events.pop_front() {
        for command in machine.handle(event, Duration::ZERO).commands {
            match command {
                Command::Worker(request) => events.extend(world.work(*request)),
                Command::ReadPrompts {
                    of,
                    step,
                    round,
                    count,
                } => events.push_back(Event::Prompts(prompts(of, step, round, count))),
                Command::Store(store) => {
                    world.store(store);
                    events.push_back(Event::Stored);
                }
                Command::Score(items) => completions += items.len(),
                Command::Trace(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(completions, 6, "two of each of three rows");
    machine
}

/// Rewards have one queue for all jobs: while other jobs' completions are judged, this one's are
/// late for no fault of theirs.
#[test]
fn waiting_for_other_jobs_verdicts_is_no_fault() {
    let limit = Limits::default().score;
    let mut machine = waiting_for_verdicts();
    let mut now = Duration::ZERO;
    for _ in 0..20 {
        now += limit - Duration::from_secs(1);
        assert!(
            machine.handle(Event::Tick, now).commands.is_empty(),
            "after {now:?}"
        );
        assert!(machine.handle(Event::Judging, now).commands.is_empty());
    }
    let commands = machine.handle(Event::Tick, now + limit).commands;
    assert!(
        matches!(&commands[..], [Command::End(End::Abandoned { cause })] if cause.contains(
            "rewards")),
        "nobody judges: {commands:?}"
    );
}

/// A write waits behind up to hundreds of others; each of them may take its time, and the writer
/// reports that it makes progress.
#[test]
fn a_store_that_waits_behind_others_is_not_late() {
    let limit = Limits::default().store;
    let mut machine = Machine::new(plan(true).into(), Record::default(), Duration::ZERO);
    let mut now = Duration::ZERO;
    machine.handle(Event::WorkerStarted { pid: 1 }, now);
    let sizes = Opened {
        architecture: "test".into(),
        parameters: 1,
        active_parameters: 1,
        vocab_size: 9,
        moe_layers: 0,
        experts_per_token: 0,
    };
    machine.handle(Event::Worker(Body::Done(Reply::Opened(sizes))), now);
    assert!(
        machine
            .waits()
            .iter()
            .any(|wait| wait.waits_for == "ledger"),
        "{:?}",
        machine.waits()
    );
    for _ in 0..20 {
        now += limit - Duration::from_secs(1);
        assert!(
            machine.handle(Event::Tick, now).commands.is_empty(),
            "after {now:?}"
        );
        assert!(machine.handle(Event::Writing, now).commands.is_empty());
    }
    let commands = machine.handle(Event::Tick, now + limit).commands;
    assert!(
        matches!(&commands[..], [Command::End(End::Abandoned { cause })] if cause.contains(
            "ledger")),
        "{commands:?}"
    );
}

/// A reward that is no number would be sealed, refused by the trainer, and met again by each
/// attempt.
#[test]
fn rewards_that_float32_does_not_hold_end_the_job_at_once_and_are_named() {
    let failed = |changes: &str| {
        let job = JOB
            .replace("on_abstain = \"drop-sample\"", changes)
            .replace("beta = 0.1", "beta = 0.1\nscale_rewards = \"none\"");
        match World::new(plan_of_job(&job, true), 0, 0).run() {
            End::Failed { error } => error,
            other => panic!("{other:?}"),
        }
    };
    let error = failed("on_abstain = { score = 1e30 }\n  weight = 1e30");
    assert!(
        error.contains("stage `reasoning` step ")
            && error.contains("reward `accuracy` gives 1000000000000000000000000000000 × weight"),
        "{error}"
    );
    // Each reward is a number, but their distance is not.
    let error =
        failed("on_abstain = { score = 3e8 }\n  on_fault = { score = -3e8 }\n  weight = 1e30");
    assert!(
        error.contains("stage `reasoning` step ") && error.contains("an advantage is"),
        "{error}"
    );
}
