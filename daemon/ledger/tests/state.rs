//! The state machine against a naive model: a list of the commands accepted so far, searched anew
//! for every answer.

use proptest::prelude::*;
use r1d_ledger::{Command, Effect, FindError, JobRecord, NewJob, Rejected, State, User};
use r1d_proto::control::job::{EvalResult, State as RunState};
use r1d_proto::ids::JobId;
use r1d_proto::worker::Metrics;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

fn id(text: &str) -> JobId {
    JobId(text.to_string())
}

fn submit(job: &str, priority: i32) -> Command {
    Command::Submit(NewJob {
        name: format!("name of {job}"),
        priority,
        at: 100,
        ..NewJob::of(id(job), "seed = 1")
    })
}

/// A submission of a client that may ask again.
fn submit_with(
    job: &str,
    request: Option<&str>,
    reward_versions: &[(&str, &str)],
    keys: &[String],
) -> Command {
    Command::Submit(NewJob {
        request: request.map(String::from),
        reward_versions: reward_versions
            .iter()
            .map(|(plugin, sha256)| (plugin.to_string(), sha256.to_string()))
            .collect(),
        keys: keys.to_vec(),
        reuses: true,
        at: 100,
        ..NewJob::of(id(job), "seed = 1")
    })
}

fn start(job: &str) -> Command {
    Command::Start {
        job: id(job),
        at: 200,
    }
}

fn begin(job: &str, epoch: u64, stage: u32, steps: u64) -> Command {
    Command::BeginStage {
        job: id(job),
        epoch,
        stage,
        name: format!("s{stage}"),
        kind: "grpo".into(),
        steps,
        at: 300,
    }
}

fn commit(job: &str, epoch: u64, stage: u32, step: u64) -> Command {
    Command::CommitStep {
        job: id(job),
        epoch,
        stage,
        step,
        metrics: Metrics::from([("loss".to_string(), step as f64)]),
    }
}

fn checkpoint(job: &str, epoch: u64, stage: u32, step: u64) -> Command {
    Command::Checkpoint {
        job: id(job),
        epoch,
        stage,
        step,
        dir: format!("/c/{step}").into(),
        manifest_sha256: "ab".into(),
    }
}

fn set_reward_version(job: &str, plugin: &str, stage: u32, step: u64) -> Command {
    Command::SetRewardVersion {
        job: id(job),
        plugin: plugin.into(),
        sha256: format!("{stage}-{step}"),
        stage,
        step,
        at: 500,
    }
}

fn finish(job: &str, epoch: u64, state: RunState) -> Command {
    Command::Finish {
        job: id(job),
        epoch,
        state,
        error: None,
        model: None,
        at: 400,
    }
}

fn eval(stage: &str, step: u64, accuracy: f64) -> EvalResult {
    let metrics = Metrics::from([("pass@1".to_string(), accuracy)]);
    EvalResult {
        stage: Some(stage.into()),
        step,
        data: "test".into(),
        metrics,
        example: None,
    }
}

/// Applies all commands, expects each to be accepted and returns the last effect.
fn accept(state: &mut State, commands: &[Command]) -> Effect {
    commands
        .iter()
        .map(|command| {
            state
                .apply(command)
                .unwrap_or_else(|e| panic!("{command:?}: {e}"))
        })
        .last()
        .unwrap()
}

/// The commands that were accepted so far.
#[derive(Default)]
struct History(Vec<Command>);

impl History {
    fn count(&self, job: &JobId, matches: impl Fn(&Command) -> bool) -> u64 {
        self.0
            .iter()
            .filter(|command| command.job() == job && matches(command))
            .count() as u64
    }

    fn submitted(&self, job: &JobId) -> bool {
        self.count(job, |c| matches!(c, Command::Submit(_))) > 0
    }

    fn epoch(&self, job: &JobId) -> u64 {
        self.count(job, |c| matches!(c, Command::Start { .. }))
    }

    /// The job's state, by its last commands.
    fn state(&self, job: &JobId) -> RunState {
        let mut state = RunState::Queued;
        for command in self.0.iter().filter(|command| command.job() == job) {
            state = match command {
                Command::Submit(NewJob { held: true, .. }) | Command::Pause { .. } => {
                    RunState::Paused
                }
                Command::Resume { .. } | Command::Requeue { .. } => RunState::Queued,
                Command::Start { .. } => RunState::Running,
                Command::Cancel { .. } => RunState::Cancelled,
                Command::Finish { state, .. } => *state,
                _ => state,
            };
        }
        state
    }

    fn ended(&self, job: &JobId) -> bool {
        self.state(job).is_final()
    }

    /// How often the job was started again although no user had let it go on.
    fn restarts(&self, job: &JobId) -> u32 {
        let (mut restarts, mut begun, mut crashed) = (0, false, false);
        for command in self.0.iter().filter(|command| command.job() == job) {
            match command {
                Command::Start { .. } => {
                    restarts += u32::from(begun && crashed);
                    (begun, crashed) = (true, true);
                }
                Command::Resume { .. } | Command::Requeue { .. } => crashed = false,
                _ => {}
            }
        }
        restarts
    }

    /// The queued jobs in their order.
    fn queue(&self) -> Vec<JobId> {
        let mut jobs = BTreeMap::new();
        for (place, command) in self.0.iter().enumerate() {
            match command {
                Command::Submit(NewJob { job, priority, .. }) => {
                    jobs.insert(job.clone(), (-*priority, place));
                }
                Command::Requeue { job, .. } => {
                    jobs.entry(job.clone())
                        .and_modify(|(_, known)| *known = place);
                }
                _ => {}
            }
        }
        let mut queue: Vec<JobId> = jobs.keys().cloned().collect();
        queue.retain(|job| self.state(job) == RunState::Queued);
        queue.sort_by_key(|job| jobs[job]);
        queue
    }

    /// Adds a command that was accepted. A removed job leaves nothing but its removal.
    fn add(&mut self, command: Command) {
        let (job, removes) = (
            command.job().clone(),
            matches!(command, Command::Remove { .. }),
        );
        let forgets = matches!(command, Command::Forget { .. });
        self.0.push(command);
        if removes || forgets {
            self.0.retain(|known| {
                *known.job() != job || removes && matches!(known, Command::Remove { .. })
            });
        }
    }

    fn is_being_removed(&self, job: &JobId) -> bool {
        self.count(job, |c| matches!(c, Command::Remove { .. })) > 0
    }

    fn begun(&self, job: &JobId) -> u32 {
        let stages: BTreeSet<u32> = self
            .0
            .iter()
            .filter_map(|c| {
                if let Command::BeginStage { job: j, stage, .. } = c {
                    (j == job).then_some(*stage)
                } else {
                    None
                }
            })
            .collect();
        stages.len() as u32
    }

    fn finished(&self, job: &JobId) -> u32 {
        self.count(job, |c| matches!(c, Command::FinishStage { .. })) as u32
    }

    fn at_work(&self, job: &JobId) -> Option<u32> {
        (self.begun(job) > self.finished(job)).then(|| self.begun(job) - 1)
    }

    fn steps(&self, job: &JobId, of: u32) -> u64 {
        let steps = |c: &Command| {
            if let Command::BeginStage {
                job: j,
                stage,
                steps,
                ..
            } = c
            {
                (j == job && *stage == of).then_some(*steps)
            } else {
                None
            }
        };
        self.0.iter().find_map(steps).unwrap_or(0)
    }

    fn committed(&self, job: &JobId, of: u32) -> u64 {
        self.count(
            job,
            |c| matches!(c, Command::CommitStep { stage, .. } if *stage == of),
        )
    }

    /// Steps with a checkpoint now.
    fn checkpoints(&self, job: &JobId, of: u32) -> BTreeSet<u64> {
        let mut steps = BTreeSet::new();
        for command in self.0.iter().filter(|command| command.job() == job) {
            match command {
                Command::Checkpoint { stage, step, .. } if *stage == of => steps.insert(*step),
                Command::DropCheckpoint { stage, step, .. } if *stage == of => steps.remove(step),
                _ => false,
            };
        }
        steps
    }

    /// How often the daemon ended while it worked for the job, since something of it was committed.
    fn strikes(&self, job: &JobId) -> u32 {
        let (mut taken_up, mut count) = (false, 0);
        for command in self.0.iter().filter(|command| command.job() == job) {
            match command {
                Command::TakeUp { .. } => taken_up = true,
                Command::PutDown { .. } => taken_up = false,
                Command::Strike { .. } => {
                    count += u32::from(taken_up);
                    taken_up = false;
                }
                Command::CommitStep { .. }
                | Command::Checkpoint { .. }
                | Command::Eval { .. }
                | Command::FinishStage { .. }
                | Command::Requeue { .. } => count = 0,
                _ => {}
            }
        }
        count
    }

    fn accepts(&self, command: &Command) -> bool {
        let job = command.job();
        if let Command::Submit(_) = command {
            return !self.submitted(job) && !self.is_being_removed(job);
        }
        if let Command::Forget { .. } = command {
            return self.is_being_removed(job);
        }
        if !self.submitted(job) {
            return false;
        }
        match command {
            Command::Requeue { .. } => {
                let states = [RunState::Running, RunState::Failed, RunState::Cancelled];
                return states.contains(&self.state(job));
            }
            Command::Remove { .. } => return self.ended(job),
            _ if self.ended(job) => return false,
            _ => {}
        }
        let current = |epoch: &u64| *epoch > 0 && *epoch == self.epoch(job);
        match command {
            Command::Submit(_) | Command::Cancel { .. } => true,
            Command::Start { .. } | Command::Pause { .. } => self.state(job) != RunState::Paused,
            Command::Resume { .. } => self.state(job) == RunState::Paused,
            Command::Requeue { .. } | Command::Remove { .. } | Command::Forget { .. } => {
                unreachable!("answered above")
            }
            Command::TakeUp { .. } | Command::PutDown { .. } | Command::Strike { .. } => true,
            Command::ReuseStage { .. } => unreachable!("no history has it: it is tested alone"),
            Command::SetRewardVersion { stage, step, .. } => {
                let from = (*stage, *step);
                let later = match self.at_work(job) {
                    Some(at_work) => from > (at_work, self.committed(job, at_work)),
                    None => *stage >= self.begun(job),
                };
                let last = self.0.iter().rev().find_map(|command| match command {
                    Command::SetRewardVersion {
                        job: of,
                        stage,
                        step,
                        ..
                    } if of == job => Some((*stage, *step)),
                    _ => None,
                });
                later && last.is_none_or(|last| from >= last)
            }
            Command::BeginStage {
                epoch,
                stage,
                steps,
                ..
            } => {
                current(epoch)
                    && match self.at_work(job) {
                        Some(at_work) => at_work == *stage && self.steps(job, *stage) == *steps,
                        None => self.begun(job) == *stage,
                    }
            }
            Command::CommitStep {
                epoch, stage, step, ..
            } => {
                current(epoch)
                    && self.at_work(job) == Some(*stage)
                    && self.committed(job, *stage) == *step
                    && *step < self.steps(job, *stage)
            }
            Command::Checkpoint {
                epoch, stage, step, ..
            } => {
                current(epoch)
                    && self.at_work(job) == Some(*stage)
                    && *step <= self.committed(job, *stage)
            }
            Command::DropCheckpoint { epoch, stage, .. } => {
                current(epoch) && *stage < self.begun(job)
            }
            Command::GoBack {
                epoch, stage, step, ..
            } => {
                current(epoch)
                    && self.at_work(job) == Some(*stage)
                    && *step <= self.committed(job, *stage)
            }
            Command::Eval { epoch, .. } => current(epoch),
            Command::FinishStage { epoch, stage, .. } => {
                current(epoch)
                    && self.at_work(job) == Some(*stage)
                    && self.committed(job, *stage) == self.steps(job, *stage)
            }
            Command::Finish { epoch, state, .. } => {
                // A job that was never started may fail.
                let started = self.epoch(job) > 0;
                let succeeds = *state == RunState::Succeeded;
                *epoch == self.epoch(job)
                    && state.is_final()
                    && !(succeeds && (!started || self.at_work(job).is_some()))
            }
        }
    }
}

const JOBS: [&str; 3] = ["a1", "a2", "b1"];

/// A command as an offset from what the state would accept: mostly 0, so that sequences get far.
#[derive(Clone, Debug)]
struct Intent {
    kind: usize,
    job: usize,
    priority: i32,
    epoch: i64,
    stage: i64,
    step: i64,
    steps: u64,
}

fn intent() -> impl Strategy<Value = Intent> {
    let offset = || prop_oneof![8 => Just(0i64), 1 => Just(-1), 1 => Just(1)];
    (
        0usize..30,
        0..JOBS.len(),
        -1i32..2,
        offset(),
        offset(),
        offset(),
        0u64..4,
    )
        .prop_map(|(kind, job, priority, epoch, stage, step, steps)| Intent {
            kind,
            job,
            priority,
            epoch,
            stage,
            step,
            steps,
        })
}

fn near(value: u64, offset: i64) -> u64 {
    value.saturating_add_signed(offset)
}

fn resolve(intent: &Intent, history: &History) -> Command {
    let job = id(JOBS[intent.job]);
    let epoch = near(history.epoch(&job), intent.epoch);
    let at_work = history.at_work(&job).unwrap_or(history.begun(&job));
    let stage = near(at_work as u64, intent.stage) as u32;
    let step = near(history.committed(&job, stage), intent.step);
    let steps = if history.at_work(&job) == Some(stage) && intent.step == 0 {
        history.steps(&job, stage)
    } else {
        intent.steps
    };
    match intent.kind {
        0 => submit(JOBS[intent.job], intent.priority),
        1 | 2 => Command::Start { job, at: 1 },
        3..=5 => begin(JOBS[intent.job], epoch, stage, steps),
        6..=9 => commit(JOBS[intent.job], epoch, stage, step),
        10 => checkpoint(JOBS[intent.job], epoch, stage, step),
        11 => Command::DropCheckpoint {
            job,
            epoch,
            stage,
            step,
        },
        12 => Command::Eval {
            job,
            epoch,
            result: eval("s0", step, 0.5),
        },
        13 | 14 => Command::FinishStage {
            job,
            epoch,
            stage,
            at: 2,
        },
        16 => set_reward_version(JOBS[intent.job], "accuracy", stage, step + 1),
        17 => set_reward_version(JOBS[intent.job], "accuracy", stage + 1, 0),
        18 | 19 => Command::TakeUp { job },
        20 => Command::PutDown { job },
        21..=23 => Command::Strike { job },
        24 => Command::Pause {
            job,
            by: None,
            at: 4,
        },
        25 | 26 => Command::Resume { job, at: 30 },
        27 => Command::Requeue { job, at: 30 },
        28 => Command::Remove {
            job,
            elsewhere: Vec::new(),
        },
        29 => Command::Forget { job },
        _ if intent.priority == -1 => Command::Cancel { job, at: 3 },
        _ => finish(
            JOBS[intent.job],
            epoch,
            if intent.priority == 0 {
                RunState::Succeeded
            } else {
                RunState::Failed
            },
        ),
    }
}

/// The order of a list, made anew from all jobs in the order of their submission.
fn listed_anew(jobs: &[Arc<JobRecord>], queue: &[JobId]) -> Vec<JobId> {
    let in_state = |state: RunState| {
        let jobs = jobs.iter().filter(move |record| record.state() == state);
        jobs.map(|record| record.job().clone())
    };
    let ended = jobs.iter().filter(|record| record.state().is_final());
    let mut ended: Vec<_> = ended.collect();
    ended.sort_by_key(|record| std::cmp::Reverse(record.progress.ended_at));
    let live = in_state(RunState::Running).chain(queue.iter().cloned());
    let live = live.chain(in_state(RunState::Paused));
    let ended = ended.into_iter().map(|record| record.job().clone());
    live.chain(ended).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None,
        ..ProptestConfig::default() })]

    #[test]
    fn random_commands_agree_with_the_model(intents in prop::collection::vec(intent(), 1..120)) {
        let (mut state, mut history) = (State::default(), History::default());
        let mut committed_once = BTreeSet::new();
        for intent in &intents {
            let command = resolve(intent, &history);
            let before = state.clone();
            let answer = state.apply(&command);
            prop_assert_eq!(answer.is_ok(), history.accepts(&command), "{:?} gave {:?}", command,
                answer);
            if answer.is_err() {
                prop_assert_eq!(&state, &before);
                continue;
            }
            if let Command::CommitStep { job, stage, step, .. } = &command {
                prop_assert!(committed_once.insert((job.clone(), *stage, *step)), "STEP-1: {:?}",
                    command);
            }
            if let Command::Remove { job, .. } = &command {
                committed_once.retain(|(known, _, _)| known != job);
            }
            history.add(command);
            let queue = state.queue();
            prop_assert!(queue.iter().map(|record| record.job()).eq(&history.queue()));
            let listed: Vec<_> = state.listed().map(|record| record.job().clone()).collect();
            prop_assert_eq!(listed, listed_anew(&state.jobs(), &history.queue()));
            for record in state.jobs() {
                let job = record.job();
                prop_assert_eq!(record.progress.epoch, history.epoch(job));
                prop_assert_eq!(record.strikes.count, history.strikes(job));
                prop_assert_eq!(record.state(), history.state(job));
                prop_assert_eq!(record.restarts(), history.restarts(job));
                let is_paused = record.state() == RunState::Paused;
                prop_assert_eq!(record.standing.pause.is_some(), is_paused);
                prop_assert_eq!(record.progress.stages.len() as u32, history.begun(job));
                for (index, stage) in record.progress.stages.iter().enumerate() {
                    prop_assert_eq!(stage.step, history.committed(job, index as u32));
                    let checkpoints = history.checkpoints(job, index as u32);
                    prop_assert_eq!(stage.durable_step(), checkpoints.last().copied().unwrap_or(0));
                    prop_assert!(stage.checkpoints.iter().map(|c| c.step).eq(checkpoints));
                }
            }
        }
    }

    #[test]
    fn the_queue_is_first_come_first_served_within_priority(
        priorities in prop::collection::vec(-2i32..3, 1..20)) {
        let mut state = State::default();
        for (i, priority) in priorities.iter().enumerate() {
            // Ids that sort against the order of submission.
            accept(&mut state, &[submit(&format!("{:02}", 99 - i), *priority)]);
        }
        let queue: Vec<(i32, u64)> = state.queue().iter()
            .map(|r| (r.submission.priority, r.submission.sequence)).collect();
        for pair in queue.windows(2) {
            prop_assert!(pair[0].0 > pair[1].0 || (pair[0].0 == pair[1].0 && pair[0].1 < pair[1].1),
                "{:?}", queue);
        }
        let first = state.queue()[0].job().clone();
        accept(&mut state, &[Command::Start { job: first.clone(), at: 1 }]);
        prop_assert!(state.queue().iter().all(|record| *record.job() != first));
    }
}

#[test]
fn a_runner_of_an_old_epoch_can_change_nothing() {
    let mut state = State::default();
    accept(
        &mut state,
        &[
            submit("a", 0),
            start("a"),
            begin("a", 1, 0, 10),
            commit("a", 1, 0, 0),
        ],
    );
    assert_eq!(
        accept(&mut state, &[start("a")]),
        Effect::Started {
            epoch: 2,
            restarts: 1
        }
    );
    let stale = [
        begin("a", 1, 0, 10),
        commit("a", 1, 0, 1),
        checkpoint("a", 1, 0, 1),
        Command::DropCheckpoint {
            job: id("a"),
            epoch: 1,
            stage: 0,
            step: 1,
        },
        Command::GoBack {
            job: id("a"),
            epoch: 1,
            stage: 0,
            step: 0,
            metrics: Metrics::new(),
        },
        Command::Eval {
            job: id("a"),
            epoch: 1,
            result: eval("s0", 1, 0.5),
        },
        Command::FinishStage {
            job: id("a"),
            epoch: 1,
            stage: 0,
            at: 1,
        },
        finish("a", 1, RunState::Failed),
    ];
    for command in stale {
        assert_eq!(
            state.apply(&command),
            Err(Rejected::StaleEpoch {
                job: id("a"),
                found: 1,
                current: 2
            }),
            "{command:?}"
        );
    }
    assert_eq!(
        accept(&mut state, &[begin("a", 2, 0, 10)]),
        Effect::StageBegun {
            step: 1,
            durable_step: 0
        }
    );
}

#[test]
fn a_step_commits_once() {
    let mut state = State::default();
    accept(
        &mut state,
        &[
            submit("a", 0),
            start("a"),
            begin("a", 1, 0, 2),
            commit("a", 1, 0, 0),
        ],
    );
    let refused = state.apply(&commit("a", 1, 0, 0));
    assert_eq!(
        refused,
        Err(Rejected::WrongStep {
            job: id("a"),
            stage: 0,
            step: 0,
            committed: 1,
            steps: 2
        })
    );
    assert!(
        state.apply(&commit("a", 1, 0, 2)).is_err(),
        "a step was skipped"
    );
    assert_eq!(
        accept(&mut state, &[commit("a", 1, 0, 1)]),
        Effect::StepCommitted { step: 2 }
    );
    assert!(
        state.apply(&commit("a", 1, 0, 2)).is_err(),
        "the stage has no third step"
    );
}

#[test]
fn a_cancelled_job_leaves_the_queue_and_refuses_its_runner() {
    let mut state = State::default();
    accept(
        &mut state,
        &[
            submit("a", 0),
            submit("b", 0),
            start("b"),
            begin("b", 1, 0, 5),
        ],
    );
    assert_eq!(
        accept(
            &mut state,
            &[Command::Cancel {
                job: id("a"),
                at: 7
            }]
        ),
        Effect::Cancelled {
            was: RunState::Queued
        }
    );
    assert!(state.queue().is_empty());
    assert_eq!(
        accept(
            &mut state,
            &[Command::Cancel {
                job: id("b"),
                at: 8
            }]
        ),
        Effect::Cancelled {
            was: RunState::Running
        }
    );
    let record = state.job(&id("b")).unwrap();
    assert_eq!(
        (record.progress.stages[0].state, record.progress.ended_at),
        (RunState::Cancelled, Some(8))
    );
    assert_eq!(
        state.apply(&commit("b", 1, 0, 0)),
        Err(Rejected::Ended {
            job: id("b"),
            state: RunState::Cancelled
        })
    );
    assert!(matches!(
        state.apply(&Command::Cancel {
            job: id("b"),
            at: 9
        }),
        Err(Rejected::Ended { .. })
    ));
}

#[test]
fn a_judge_changes_from_a_later_step_on_only() {
    let mut state = State::default();
    let first = set_reward_version("a1", "accuracy", 0, 0);
    accept(
        &mut state,
        &[
            submit("a1", 0),
            first,
            start("a1"),
            begin("a1", 1, 0, 9),
            commit("a1", 1, 0, 0),
        ],
    );
    for (stage, step) in [(0, 0), (0, 1)] {
        let late = Err(Rejected::RewardLate {
            job: id("a1"),
            stage,
            step,
        });
        assert_eq!(
            state.apply(&set_reward_version("a1", "accuracy", stage, step)),
            late,
            "step 1 is at work"
        );
    }
    accept(
        &mut state,
        &[
            set_reward_version("a1", "accuracy", 0, 3),
            set_reward_version("a1", "format", 0, 2),
            set_reward_version("a1", "accuracy", 0, 3),
        ],
    );
    assert!(
        state
            .apply(&set_reward_version("a1", "accuracy", 0, 2))
            .is_err(),
        "another one judges from step 3 on already"
    );
    let known: Vec<_> = state
        .job(&id("a1"))
        .unwrap()
        .reward_versions
        .iter()
        .map(|g| (g.plugin.as_str(), g.stage, g.step))
        .collect();
    assert_eq!(
        known,
        [("accuracy", 0, 0), ("accuracy", 0, 3), ("format", 0, 2)]
    );
}

#[test]
fn a_damaged_checkpoint_falls_back_to_the_one_before() {
    let mut state = State::default();
    let steps = (0..6).map(|step| commit("a", 1, 0, step));
    accept(
        &mut state,
        &[submit("a", 0), start("a"), begin("a", 1, 0, 9)]
            .into_iter()
            .chain(steps)
            .collect::<Vec<_>>(),
    );
    accept(
        &mut state,
        &[checkpoint("a", 1, 0, 2), checkpoint("a", 1, 0, 5)],
    );
    let drop = Command::DropCheckpoint {
        job: id("a"),
        epoch: 1,
        stage: 0,
        step: 5,
    };
    assert_eq!(
        accept(&mut state, &[drop]),
        Effect::CheckpointDropped { durable_step: 2 }
    );
    assert!(matches!(
        state.apply(&checkpoint("a", 1, 0, 7)),
        Err(Rejected::CheckpointAhead { committed: 6, .. })
    ));
}

#[test]
fn a_stage_that_goes_back_does_its_steps_again() {
    let mut state = State::default();
    let steps = (0..6).map(|step| commit("a", 1, 0, step));
    accept(
        &mut state,
        &[submit("a", 0), start("a"), begin("a", 1, 0, 9)]
            .into_iter()
            .chain(steps)
            .collect::<Vec<_>>(),
    );
    accept(
        &mut state,
        &[checkpoint("a", 1, 0, 2), checkpoint("a", 1, 0, 5)],
    );
    let evals = [2, 3].map(|step| Command::Eval {
        job: id("a"),
        epoch: 1,
        result: eval("s0", step, 0.5),
    });
    accept(&mut state, &evals);
    let back = |stage, step| Command::GoBack {
        job: id("a"),
        epoch: 1,
        stage,
        step,
        metrics: Metrics::new(),
    };
    assert!(matches!(
        state.apply(&back(0, 7)),
        Err(Rejected::WrongStep { committed: 6, .. })
    ));
    assert!(matches!(
        state.apply(&back(1, 0)),
        Err(Rejected::WrongStage { .. })
    ));
    assert_eq!(
        accept(&mut state, &[back(0, 2)]),
        Effect::WentBack { step: 2 }
    );
    let record = state.job(&id("a")).unwrap();
    assert_eq!(record.progress.stages[0].durable_step(), 2);
    assert_eq!(
        record
            .evals
            .iter()
            .map(|eval| eval.step)
            .collect::<Vec<_>>(),
        [2]
    );
    assert_eq!(
        accept(&mut state, &[commit("a", 1, 0, 2)]),
        Effect::StepCommitted { step: 3 }
    );
}

#[test]
fn an_evaluation_that_is_redone_is_recorded_once() {
    let mut state = State::default();
    accept(&mut state, &[submit("a", 0), start("a")]);
    for accuracy in [0.25, 0.5] {
        accept(
            &mut state,
            &[Command::Eval {
                job: id("a"),
                epoch: 1,
                result: eval("s0", 3, accuracy),
            }],
        );
    }
    accept(
        &mut state,
        &[Command::Eval {
            job: id("a"),
            epoch: 1,
            result: eval("s0", 4, 0.75),
        }],
    );
    assert_eq!(
        state.job(&id("a")).unwrap().evals,
        Arc::new(vec![
            Arc::new(eval("s0", 3, 0.5)),
            Arc::new(eval("s0", 4, 0.75))
        ])
    );
}

#[test]
fn a_job_is_found_by_any_unambiguous_prefix() {
    let mut state = State::default();
    accept(
        &mut state,
        &[submit("7qx", 0), submit("7qxab", 0), submit("8b", 0)],
    );
    assert_eq!(state.find("8"), Ok(id("8b")));
    assert_eq!(state.find("7qxa"), Ok(id("7qxab")));
    assert_eq!(
        state.find("7qx"),
        Ok(id("7qx")),
        "a whole id wins over longer ones"
    );
    assert_eq!(
        state.find("7"),
        Err(FindError::Ambiguous {
            prefix: "7".into(),
            jobs: vec![id("7qx"), id("7qxab")]
        })
    );
    assert_eq!(
        state.find("9"),
        Err(FindError::NotFound { prefix: "9".into() })
    );
    assert_eq!(state.find(""), Err(FindError::Empty));
    let named = state.find("name of 8b").unwrap_err();
    assert_eq!(
        named.to_string(),
        "no job's id starts with `name of 8b`, but 8b has that name"
    );
}

#[test]
fn limits_are_named() {
    let mut state = State::default();
    for bad in ["", "Upper", "a b", "a/b", &"x".repeat(65)] {
        assert!(
            matches!(
                state.apply(&submit(bad, 0)),
                Err(Rejected::InvalidJobId { .. })
            ),
            "{bad}"
        );
    }
    accept(
        &mut state,
        &[submit("a", 0), start("a"), begin("a", 1, 0, 1)],
    );
    let metrics = (0..5000).map(|i| (format!("m{i}"), 0.0)).collect();
    let refused = state
        .apply(&Command::CommitStep {
            job: id("a"),
            epoch: 1,
            stage: 0,
            step: 0,
            metrics,
        })
        .unwrap_err();
    assert_eq!(
        refused.to_string(),
        "the number of metrics of job `a` is 5000, the limit is 4096"
    );
    // An error text of any length must not keep a job from ending.
    let error = Some("é".repeat(100_000));
    accept(
        &mut state,
        &[Command::Finish {
            job: id("a"),
            epoch: 1,
            state: RunState::Failed,
            error,
            model: None,
            at: 1,
        }],
    );
    assert!(
        state
            .job(&id("a"))
            .unwrap()
            .progress
            .error
            .as_ref()
            .unwrap()
            .len()
            < 20_000
    );
}

#[test]
fn only_the_next_stage_is_taken_over_and_only_whole() {
    let take = |stage: u32, step: u64, metrics: u64| Command::ReuseStage {
        job: id("b"),
        epoch: 0,
        of: id("a"),
        stage,
        record: Box::new(r1d_ledger::StageRecord {
            name: format!("s{stage}"),
            kind: "grpo".into(),
            state: RunState::Succeeded,
            steps: 2,
            step,
            checkpoints: Vec::new(),
            begun_at: 1,
            ended_at: Some(2),
            metrics: Metrics::new(),
        }),
        metrics: (0..metrics).map(|step| (step, Metrics::new())).collect(),
        evals: vec![eval("s0", 2, 0.5)],
    };
    let mut state = State::default();
    accept(&mut state, &[submit("b", 0)]);
    for (step, metrics) in [(1, 2), (2, 1)] {
        assert_eq!(
            state.apply(&take(0, step, metrics)),
            Err(Rejected::NotWhole {
                job: id("b"),
                stage: 0
            })
        );
    }
    assert!(
        matches!(
            state.apply(&take(1, 2, 2)),
            Err(Rejected::WrongStage { .. })
        ),
        "not the next"
    );
    assert_eq!(accept(&mut state, &[take(0, 2, 2)]), Effect::StageReused);
    assert!(
        matches!(
            state.apply(&take(0, 2, 2)),
            Err(Rejected::WrongStage { .. })
        ),
        "it is there"
    );
    // The job goes on behind it; while a stage is at work none is taken over.
    accept(&mut state, &[start("b"), begin("b", 1, 1, 3)]);
    assert!(matches!(
        state.apply(&of_epoch(1, take(1, 2, 2))),
        Err(Rejected::WrongStage { .. })
    ));
    assert!(matches!(
        state.apply(&of_epoch(1, take(2, 2, 2))),
        Err(Rejected::WrongStage { .. })
    ));
    // Whoever looked at the job before another took it up has nothing to say.
    let stale = Err(Rejected::StaleEpoch {
        job: id("b"),
        found: 0,
        current: 1,
    });
    assert_eq!(state.apply(&take(1, 2, 2)), stale);
    assert_eq!(state.job(&id("b")).unwrap().evals.len(), 1);
}

fn of_epoch(now: u64, command: Command) -> Command {
    match command {
        Command::ReuseStage {
            job,
            of,
            stage,
            record,
            metrics,
            evals,
            ..
        } => Command::ReuseStage {
            job,
            epoch: now,
            of,
            stage,
            record,
            metrics,
            evals,
        },
        other => other,
    }
}

/// A stage that another component judges is not what its key means: from that stage on, the changed
/// job has no keys.
#[test]
fn a_changed_judge_takes_the_keys_of_what_it_judges() {
    let keys = vec!["a".to_string(), "b".to_string(), "c".to_string()];
    let reward_version = |sha256: &str, stage, step| Command::SetRewardVersion {
        job: id("j"),
        plugin: "p".into(),
        sha256: sha256.into(),
        stage,
        step,
        at: 1,
    };
    let after = |reward_versions: Vec<Command>| {
        let mut state = State::default();
        accept(
            &mut state,
            &[submit_with("j", None, &[("p", "first")], &keys)],
        );
        for reward_version in &reward_versions {
            accept(&mut state, std::slice::from_ref(reward_version));
        }
        state.job(&id("j")).unwrap().reuse.keys.clone()
    };
    assert_eq!(after(vec![]), keys, "the one that it was submitted with");
    assert_eq!(
        after(vec![reward_version("first", 1, 0)]),
        keys,
        "the same again"
    );
    assert_eq!(after(vec![reward_version("other", 1, 0)]), ["a", "", ""]);
    assert_eq!(
        after(vec![reward_version("other", 0, 0)]),
        ["", "", ""],
        "before its first step"
    );
}

/// A client that submits again with the id of its first try gets the job of the first try, whatever
/// has become of it.
#[test]
fn a_submission_that_is_asked_for_again_makes_no_second_job() {
    let mut state = State::default();
    accept(
        &mut state,
        &[
            submit_with("a", Some("r-1"), &[], &[]),
            submit_with("b", Some("r-2"), &[], &[]),
        ],
    );
    let before = state.clone();
    let known = Err(Rejected::SubmittedBefore { job: id("a") });
    assert_eq!(state.apply(&submit_with("c", Some("r-1"), &[], &[])), known);
    assert_eq!(state, before);
    accept(
        &mut state,
        &[Command::Cancel {
            job: id("a"),
            at: 1,
        }],
    );
    assert_eq!(
        state.apply(&submit_with("c", Some("r-1"), &[], &[])),
        known,
        "an ended job is the submission's, too"
    );
    assert_eq!(state.of_request("r-2").unwrap().job(), &id("b"));
    // Clients without such an id may submit the same job as often as they like.
    accept(&mut state, &[submit("d", 0), submit("e", 0)]);
    let long = "x".repeat(65);
    assert!(matches!(
        state.apply(&submit_with("f", Some(&long), &[], &[])),
        Err(Rejected::OverLimit { found: 65, .. })
    ));
}

/// The job is never in the queue without its judges and keys: a device that is free takes it up at
/// once.
#[test]
fn a_queued_job_has_its_judges_and_keys_from_the_first_moment() {
    let mut state = State::default();
    let keys = vec!["ab".repeat(32)];
    accept(
        &mut state,
        &[submit_with(
            "a",
            None,
            &[("accuracy", "11"), ("format", "22")],
            &keys,
        )],
    );
    let record = state.queue().remove(0);
    let judges: Vec<_> = record
        .reward_versions
        .iter()
        .map(|g| (g.plugin.as_str(), g.sha256.as_str(), g.stage, g.step))
        .collect();
    assert_eq!(judges, [("accuracy", "11", 0, 0), ("format", "22", 0, 0)]);
    assert_eq!((&record.reuse.keys, record.reuse.enabled), (&keys, true));
}

#[test]
fn the_queue_has_a_limit_in_jobs_and_in_text() {
    let mut state = State::default();
    for job in 0..10_000 {
        accept(&mut state, &[submit(&format!("{job:05}"), 0)]);
    }
    let refused = state.apply(&submit("x", 0)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "10000 jobs wait or run, the limit is 10000: cancel some, or wait until some have ended"
    );
    accept(
        &mut state,
        &[
            Command::Cancel {
                job: id("00007"),
                at: 1,
            },
            submit("x", 0),
        ],
    );

    let mut state = State::default();
    let long = |job: &str| Command::Submit(NewJob::of(id(job), "#".repeat(1 << 20)));
    for job in 0..256 {
        accept(&mut state, &[long(&format!("{job:03}"))]);
    }
    assert!(matches!(
        state.apply(&long("x")),
        Err(Rejected::QueueFull {
            what: "bytes of job files",
            ..
        })
    ));
}

/// A job whose files are gone before its first attempt fails; it is not tried again for ever.
#[test]
fn a_job_that_was_never_started_can_fail() {
    let mut state = State::default();
    accept(&mut state, &[submit("a", 0)]);
    assert!(matches!(
        state.apply(&finish("a", 0, RunState::Succeeded)),
        Err(Rejected::CannotFinish { .. })
    ));
    assert!(matches!(
        state.apply(&finish("a", 1, RunState::Failed)),
        Err(Rejected::StaleEpoch { .. })
    ));
    accept(&mut state, &[finish("a", 0, RunState::Failed)]);
    assert!(state.queue().is_empty());
}

/// Each end of the daemon while it worked for a job is held against the job, until something of it
/// is committed.
#[test]
fn a_job_is_struck_once_for_each_end_of_the_daemon_while_it_was_at_work() {
    let mut state = State::default();
    let (up, down, strike) = (
        Command::TakeUp { job: id("a") },
        Command::PutDown { job: id("a") },
        Command::Strike { job: id("a") },
    );
    accept(&mut state, &[submit("a", 0)]);
    assert_eq!(
        accept(&mut state, std::slice::from_ref(&strike)),
        Effect::Struck { count: 0 },
        "it waited in the queue"
    );
    assert_eq!(
        accept(&mut state, &[up.clone(), down, strike.clone()]),
        Effect::Struck { count: 0 },
        "a clean stop"
    );
    assert_eq!(
        accept(&mut state, &[up.clone(), strike.clone()]),
        Effect::Struck { count: 1 },
        "while its files were read"
    );
    assert_eq!(
        accept(&mut state, std::slice::from_ref(&strike)),
        Effect::Struck { count: 1 },
        "it was not taken up since"
    );
    assert_eq!(
        accept(&mut state, &[up.clone(), start("a"), strike.clone()]),
        Effect::Struck { count: 2 }
    );
    accept(&mut state, &[up.clone(), start("a"), begin("a", 2, 0, 3)]);
    assert_eq!(
        state.job(&id("a")).unwrap().strikes.count,
        2,
        "a start alone proves nothing"
    );
    accept(&mut state, &[commit("a", 2, 0, 0)]);
    assert_eq!(
        accept(&mut state, &[strike]),
        Effect::Struck { count: 1 },
        "a committed step wipes the slate"
    );
}

fn user(name: &str) -> User {
    User {
        uid: 1000,
        name: name.into(),
    }
}

fn held(job: &str, by: User) -> Command {
    Command::Submit(NewJob {
        owner: Some(by),
        held: true,
        at: 100,
        ..NewJob::of(id(job), "seed = 1")
    })
}

fn pause(job: &str) -> Command {
    Command::Pause {
        job: id(job),
        by: Some(user("ada")),
        at: 9,
    }
}

fn states(state: &State) -> Vec<(String, RunState)> {
    let jobs = state.jobs();
    jobs.iter()
        .map(|record| (record.job().0.clone(), record.state()))
        .collect()
}

fn queue(state: &State) -> Vec<String> {
    let queue = state.queue();
    queue.iter().map(|record| record.job().0.clone()).collect()
}

/// What a user who has paused a job relies on: it keeps its place, and what it was at is committed.
#[test]
fn a_paused_job_keeps_its_place_and_finishes_its_step() {
    let mut state = State::default();
    accept(&mut state, &[submit("a", 0), submit("b", 0)]);
    assert_eq!(
        accept(&mut state, &[pause("a")]),
        Effect::Paused {
            was: RunState::Queued
        }
    );
    assert_eq!(queue(&state), ["b"]);
    let told = state.apply(&start("a")).unwrap_err().to_string();
    assert_eq!(told, "job `a` is paused: `r1ctl resume a` lets it go on");
    let by = state.job(&id("a")).unwrap().standing.pause.clone().unwrap();
    assert_eq!((by.by, by.at), (Some(user("ada")), 9));
    accept(
        &mut state,
        &[Command::Resume {
            job: id("a"),
            at: 30,
        }],
    );
    assert_eq!(queue(&state), ["a", "b"]);
    let since = |state: &State| state.job(&id("a")).unwrap().queued_since();
    assert_eq!(since(&state), 30, "it waits since it is back");

    // The attempt ends its step, whether the job waits for a user by then or for a device.
    accept(&mut state, &[start("a"), begin("a", 1, 0, 9), pause("a")]);
    accept(&mut state, &[commit("a", 1, 0, 0)]);
    accept(
        &mut state,
        &[
            Command::Resume {
                job: id("a"),
                at: 30,
            },
            commit("a", 1, 0, 1),
        ],
    );
    assert_eq!(queue(&state), ["a", "b"]);
    assert_eq!(
        accept(&mut state, &[start("a")]),
        Effect::Started {
            epoch: 2,
            restarts: 0
        },
        "that a user let it go on is no crash"
    );
    assert!(matches!(
        state.apply(&commit("a", 1, 0, 2)),
        Err(Rejected::StaleEpoch { .. })
    ));
}

#[test]
fn a_job_that_is_submitted_on_hold_waits_for_its_user() {
    let mut state = State::default();
    accept(&mut state, &[held("a", user("ada")), submit("b", 0)]);
    let record = state.job(&id("a")).unwrap();
    assert_eq!(record.owner, Some(user("ada")));
    assert_eq!(record.standing.pause.clone().unwrap().by, Some(user("ada")));
    assert_eq!(queue(&state), ["b"]);
    accept(
        &mut state,
        &[Command::Resume {
            job: id("a"),
            at: 30,
        }],
    );
    assert_eq!(queue(&state), ["a", "b"]);
}

#[test]
fn a_requeued_job_goes_on_from_what_it_has_behind_the_others() {
    let mut state = State::default();
    let steps = (0..3).map(|step| commit("a", 1, 0, step));
    let begun = [
        submit("a", 0),
        submit("b", 0),
        start("a"),
        begin("a", 1, 0, 9),
    ];
    accept(
        &mut state,
        &begun.into_iter().chain(steps).collect::<Vec<_>>(),
    );
    accept(&mut state, &[checkpoint("a", 1, 0, 2)]);
    let requeue = || Command::Requeue {
        job: id("a"),
        at: 31,
    };
    assert_eq!(
        accept(&mut state, &[requeue()]),
        Effect::Requeued {
            was: RunState::Running
        }
    );
    assert_eq!(
        queue(&state),
        ["b", "a"],
        "it would have its device at once"
    );
    assert_eq!(state.job(&id("a")).unwrap().queued_since(), 31);
    let error = Some("no luck".into());
    let failed = Command::Finish {
        job: id("a"),
        epoch: 2,
        state: RunState::Failed,
        error,
        model: None,
        at: 400,
    };
    accept(&mut state, &[start("a"), failed, requeue()]);
    let record = state.job(&id("a")).unwrap();
    let progress = &record.progress;
    assert_eq!((&progress.error, progress.ended_at), (&None, None));
    let stage = &progress.stages[0];
    assert_eq!(
        (
            stage.state,
            stage.ended_at,
            stage.step,
            stage.durable_step()
        ),
        (RunState::Running, None, 3, 2)
    );
    accept(&mut state, &[start("a"), commit("a", 3, 0, 3)]);
}

/// Strikes made the daemon give the job up: a user who requeues it asks for another try.
#[test]
fn a_requeued_job_has_no_strikes() {
    let mut state = State::default();
    let (up, strike) = (
        Command::TakeUp { job: id("a") },
        Command::Strike { job: id("a") },
    );
    accept(
        &mut state,
        &[submit("a", 0), up, strike, finish("a", 0, RunState::Failed)],
    );
    accept(
        &mut state,
        &[Command::Requeue {
            job: id("a"),
            at: 30,
        }],
    );
    assert_eq!(state.job(&id("a")).unwrap().strikes.count, 0);
}

#[test]
fn a_refusal_says_what_to_do() {
    let mut state = State::default();
    accept(&mut state, &[submit("a", 0)]);
    let (resume, requeue) = (
        Command::Resume {
            job: id("a"),
            at: 30,
        },
        Command::Requeue {
            job: id("a"),
            at: 30,
        },
    );
    let remove = Command::Remove {
        job: id("a"),
        elsewhere: Vec::new(),
    };
    let mut told = |command: &Command| state.apply(command).unwrap_err().to_string();
    assert_eq!(told(&resume), "job `a` is not paused, it is queued");
    assert_eq!(told(&requeue), "job `a` cannot be requeued: it is queued");
    assert_eq!(
        told(&remove),
        "job `a` is queued: `r1ctl cancel a` it before it is removed"
    );
    accept(&mut state, &[pause("a")]);
    assert_eq!(
        state.apply(&requeue).unwrap_err().to_string(),
        "job `a` cannot be requeued: it is paused; `r1ctl resume a` lets it go on"
    );
    accept(
        &mut state,
        &[Command::Cancel {
            job: id("a"),
            at: 1,
        }],
    );
    assert_eq!(
        state.apply(&resume).unwrap_err().to_string(),
        "job `a` is not paused, it was cancelled: `r1ctl requeue a` lets it go on"
    );
}

#[test]
fn a_removed_job_leaves_its_removal_until_its_files_are_gone() {
    let mut state = State::default();
    accept(&mut state, &[submit_with("a", Some("r-1"), &[], &[])]);
    accept(&mut state, &[finish("a", 0, RunState::Failed)]);
    let remove = Command::Remove {
        job: id("a"),
        elsewhere: vec!["/data/a".into()],
    };
    assert_eq!(accept(&mut state, &[remove]), Effect::Removed);
    assert!(states(&state).is_empty() && state.of_request("r-1").is_none());
    assert_eq!(
        state.removals()[&id("a")].elsewhere,
        [std::path::PathBuf::from("/data/a")]
    );
    let known = state.apply(&submit("a", 0)).unwrap_err();
    assert_eq!(known, Rejected::BeingRemoved { job: id("a") });
    accept(&mut state, &[Command::Forget { job: id("a") }]);
    assert_eq!(state, {
        let mut anew = State::default();
        accept(
            &mut anew,
            &[submit("z", 0), finish("z", 0, RunState::Failed)],
        );
        let remove = Command::Remove {
            job: id("z"),
            elsewhere: Vec::new(),
        };
        accept(&mut anew, &[remove, Command::Forget { job: id("z") }]);
        anew
    });
}

/// A command copies what it changes: not the other jobs, and not the job's text or evaluations.
#[test]
fn a_copy_shares_what_a_command_does_not_change() {
    let mut state = State::default();
    accept(
        &mut state,
        &[
            submit("a", 0),
            submit("b", 0),
            start("a"),
            begin("a", 1, 0, 5),
            Command::Eval {
                job: id("a"),
                epoch: 1,
                result: eval("s0", 0, 0.5),
            },
        ],
    );
    let before = state.clone();
    accept(&mut state, &[commit("a", 1, 0, 0)]);
    let of = |state: &State, job: &str| state.job(&id(job)).unwrap().clone();
    let (was, now) = (of(&before, "a"), of(&state, "a"));
    assert_eq!(
        (was.progress.stages[0].step, now.progress.stages[0].step),
        (0, 1)
    );
    assert!(Arc::ptr_eq(&was.submission, &now.submission));
    assert!(Arc::ptr_eq(&was.evals, &now.evals));
    assert!(Arc::ptr_eq(&of(&before, "b"), &of(&state, "b")));
    // A second evaluation shares the first one's texts.
    let second = Command::Eval {
        job: id("a"),
        epoch: 1,
        result: eval("s0", 1, 0.5),
    };
    accept(&mut state, &[second]);
    assert!(Arc::ptr_eq(&was.evals[0], &of(&state, "a").evals[0]));
}

proptest! {
    /// The indexes answer as a search of all records does, in whatever order jobs come and go.
    #[test]
    fn the_indexes_agree_with_a_search_of_all_jobs(
        changes in prop::collection::vec((0usize..6, -2i32..3, 0u8..4), 1..60)
    ) {
        let mut state = State::default();
        for (job, priority, what) in changes {
            let job = format!("j{job}");
            let epoch = state.job(&id(&job)).map_or(0, |record| record.progress.epoch);
            let command = match what {
                0 => submit(&job, priority),
                1 => start(&job),
                2 => Command::Cancel { job: id(&job), at: 1 },
                _ => finish(&job, epoch, RunState::Failed),
            };
            let before = state.clone();
            if state.apply(&command).is_err() {
                prop_assert_eq!(&before, &state);
            }
            let jobs = state.jobs();
            let those = |wanted| -> Vec<_> {
                jobs.iter().filter(|record| record.state() == wanted).cloned().collect()
            };
            prop_assert_eq!(state.running(), those(RunState::Running));
            let mut queued = those(RunState::Queued);
            queued.sort_by_key(|record| std::cmp::Reverse(record.submission.priority));
            prop_assert_eq!(state.queue(), queued);
            let records = jobs.iter().map(|record| JobRecord::clone(record));
            let again = State::from_records(records, state.removals().clone());
            prop_assert_eq!(&again, &state);
        }
    }
}
