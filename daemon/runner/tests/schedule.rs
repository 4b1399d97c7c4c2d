//! Which job gets which device, and which device gets jobs.

mod ledger_queue;

use ledger_queue::LedgerQueue;
use r1d_ledger::{Command, NewJob, State};
use r1d_proto::ids::JobId;
use r1d_runner::life::{History, LifeOutcome};
use r1d_runner::restart::{Attempts, Progress};
use r1d_runner::schedule::{
    FAILED_JOBS_MAX, PROBE_AGAIN_MAX, ProblemKind, REST_FIRST, REST_MAX, STRIKES_MAX, Schedule,
    ScheduleCommand, ScheduleEvent, TRIAL_MAX, given_up,
};
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);

fn id(name: &str) -> JobId {
    JobId(name.into())
}

/// A schedule over a ledger. A moment passes between any two events.
struct Daemon {
    state: State,
    schedule: Schedule,
    now: Duration,
}

impl Daemon {
    /// A daemon that has just started, on a state that is there already.
    fn new(devices: usize, state: State) -> Daemon {
        let mut daemon = Daemon {
            state,
            schedule: Schedule::new(devices),
            now: Duration::from_secs(1000),
        };
        for device in 0..devices {
            let nothing = daemon.schedule.handle(
                ScheduleEvent::Held(true),
                &LedgerQueue(&daemon.state),
                daemon.now,
            );
            assert_eq!(nothing, []);
            daemon.tell(ScheduleEvent::Probed {
                device,
                problem: None,
            });
        }
        daemon
    }

    fn tell(&mut self, event: ScheduleEvent) -> Vec<ScheduleCommand> {
        self.now += Duration::from_millis(1);
        self.schedule
            .handle(event, &LedgerQueue(&self.state), self.now)
    }

    /// Lets jobs begin, and returns which ones do.
    fn begin(&mut self) -> Vec<String> {
        let commands = self.tell(ScheduleEvent::Held(false));
        self.begun(commands)
    }

    fn tick(&mut self) -> Vec<String> {
        let commands = self.tell(ScheduleEvent::Tick);
        self.begun(commands)
    }

    /// Has the ledger start the jobs that are placed, and returns their names.
    fn begun(&mut self, commands: Vec<ScheduleCommand>) -> Vec<String> {
        let placed = commands.into_iter().filter_map(|command| match command {
            ScheduleCommand::Place { job, .. } => Some(job),
            _ => None,
        });
        placed
            .map(|job| {
                start(&mut self.state, &job.0);
                job.0
            })
            .collect()
    }

    /// Hands a job back from a device, and returns what that leads to.
    fn ended(&mut self, device: usize, job: &str, outcome: LifeOutcome) -> Vec<ScheduleCommand> {
        self.tell(ScheduleEvent::Ended {
            device,
            job: id(job),
            outcome: Some(outcome),
        })
    }

    /// What ran the job has panicked.
    fn panicked(&mut self, device: usize, job: &str) -> Vec<ScheduleCommand> {
        self.tell(ScheduleEvent::Ended {
            device,
            job: id(job),
            outcome: None,
        })
    }

    fn begin_again(&mut self) -> Vec<ScheduleCommand> {
        self.now += Duration::from_millis(1);
        self.schedule.begin_again(self.now)
    }

    fn cancel(&mut self, job: &str) {
        let (job, at) = (id(job), 4);
        apply(&mut self.state, Command::Cancel { job, at });
    }

    fn probed(&mut self, device: usize, problem: Option<&str>) -> Vec<ScheduleCommand> {
        let problem = problem.map(Into::into);
        self.tell(ScheduleEvent::Probed { device, problem })
    }
}

fn apply(state: &mut State, command: Command) {
    state.apply(&command).unwrap();
}

fn submit(state: &mut State, job: &str) {
    let job = id(job);
    apply(state, Command::Submit(NewJob::of(job, "seed = 1")));
}

fn submitted(jobs: &[&str]) -> State {
    let mut state = State::default();
    jobs.iter().for_each(|job| submit(&mut state, job));
    state
}

fn start(state: &mut State, job: &str) {
    let job = id(job);
    apply(state, Command::TakeUp { job: job.clone() });
    apply(state, Command::Start { job, at: 2 });
}

/// The daemon ends without a clean stop, and the next one begins.
fn crash(state: &mut State) {
    for record in state.jobs() {
        if record.strikes.taken_up && !record.state().is_final() {
            let job = record.job().clone();
            apply(state, Command::Strike { job });
        }
    }
}

fn commit(state: &mut State, job: &str) {
    let epoch = state.job(&id(job)).unwrap().progress.epoch;
    let (name, kind) = ("s".into(), "sft".into());
    let job = id(job);
    apply(
        state,
        Command::BeginStage {
            job: job.clone(),
            epoch,
            stage: 0,
            name,
            kind,
            steps: 1000,
            at: 3,
        },
    );
    let step = state.job(&job).unwrap().progress.stages[0].step;
    apply(
        state,
        Command::CommitStep {
            job,
            epoch,
            stage: 0,
            step,
            metrics: Default::default(),
        },
    );
}

fn fruitless(count: u32) -> History {
    let mut attempts = Attempts::default();
    let progress = Progress {
        stages_finished: 0,
        steps: 0,
        evals: 0,
        checkpoints: 0,
    };
    for _ in 0..count {
        attempts.abandoned("the worker died".into(), progress);
    }
    let number = count.into();
    History { attempts, number }
}

fn doubted() -> LifeOutcome {
    let (history, cause) = (fruitless(3), "the worker died".into());
    LifeOutcome::DeviceDoubted { history, cause }
}

/// The problem that people are shown last.
fn shown(commands: &[ScheduleCommand]) -> Option<ProblemKind> {
    commands.iter().rev().find_map(|command| match command {
        ScheduleCommand::Show { problem, .. } => Some(problem.as_ref().map(|p| p.kind)),
        _ => None,
    })?
}

/// Where jobs are placed, with the number of attempts that count against them.
fn placements(commands: &[ScheduleCommand]) -> Vec<(usize, String, u32)> {
    let placed = commands.iter().filter_map(|command| match command {
        ScheduleCommand::Place {
            device,
            job,
            history,
            ..
        } => Some((*device, job.0.clone(), history.attempts.fruitless())),
        _ => None,
    });
    placed.collect()
}

#[test]
fn after_a_clean_stop_all_running_jobs_go_on_at_once() {
    let mut state = submitted(&["a", "b", "c"]);
    ["a", "b"].iter().for_each(|job| start(&mut state, job));
    for job in ["a", "b"] {
        apply(&mut state, Command::PutDown { job: id(job) });
    }
    crash(&mut state);
    assert_eq!(Daemon::new(3, state).begin(), ["a", "b", "c"]);
}

#[test]
fn after_a_crash_they_come_back_one_at_a_time_and_keep_their_devices() {
    let mut state = submitted(&["a", "b", "c"]);
    ["a", "b"].iter().for_each(|job| start(&mut state, job));
    crash(&mut state);
    let mut daemon = Daemon::new(3, state.clone());
    assert_eq!(
        daemon.begin(),
        ["a"],
        "b waits for its turn, and c does not take b's device"
    );
    commit(&mut daemon.state, "a");
    assert_eq!(daemon.tick(), ["b", "c"]);
    // A suspect that has been at work for a while did not end the daemon by being begun.
    let mut daemon = Daemon::new(3, state);
    assert_eq!(daemon.begin(), ["a"]);
    daemon.now += TRIAL_MAX;
    assert_eq!(daemon.tick(), ["b", "c"]);
}

/// The whole story: one job ends the daemon each time that it is taken up, and the others lose at
/// most the time until it is given up.
#[test]
fn a_job_that_ends_the_daemon_is_found_and_given_up() {
    for (jobs, devices) in [(1, 1), (2, 1), (3, 2), (5, 3)] {
        let names: Vec<String> = (0..jobs).map(|i| format!("job{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (mut state, poison) = (submitted(&names), names[0]);
        let strikes = |state: &State, job: &str| state.job(&id(job)).unwrap().strikes.count;
        let mut crashes = 0;
        while given_up(strikes(&state, poison)).is_none() {
            let mut daemon = Daemon::new(devices, state);
            let at_work = daemon.begin();
            state = daemon.state;
            // The harmless jobs commit if they have the time; the other one ends the daemon.
            if at_work.iter().any(|job| job == poison) {
                crashes += 1;
                assert!(
                    crashes < 20,
                    "{jobs} jobs on {devices} devices: never given up"
                );
                crash(&mut state);
                continue;
            }
            assert!(
                !at_work.is_empty(),
                "{jobs} jobs on {devices} devices: stuck"
            );
            for job in at_work {
                commit(&mut state, &job);
                let job = id(&job);
                apply(&mut state, Command::Cancel { job, at: 4 });
            }
        }
        for job in names.iter().skip(1) {
            assert_eq!(given_up(strikes(&state, job)), None, "{job} of {jobs} jobs");
        }
        assert_eq!(crashes, STRIKES_MAX, "{jobs} jobs on {devices} devices");
    }
}

#[test]
fn a_queued_job_that_ended_the_daemon_comes_behind_the_others() {
    let mut state = submitted(&["a", "b"]);
    // The job was being read, and never started.
    apply(&mut state, Command::TakeUp { job: id("a") });
    crash(&mut state);
    assert_eq!(Daemon::new(2, state).begin(), ["b", "a"]);
}

/// A device that fails a job is probed, and the job goes on another. Where the probe fails too, the
/// failures count against nobody.
#[test]
fn a_device_that_fails_its_probe_costs_the_job_nothing() {
    let mut daemon = Daemon::new(2, submitted(&["a"]));
    assert_eq!(daemon.begin(), ["a"]);
    let commands = daemon.ended(0, "a", doubted());
    assert!(commands.contains(&ScheduleCommand::Probe { device: 0 }));
    assert_eq!(shown(&commands), Some(ProblemKind::Probing));
    assert_eq!(placements(&commands), [(1, "a".into(), 0)]);

    let commands = daemon.probed(0, Some("it computes wrongly"));
    assert_eq!(shown(&commands), Some(ProblemKind::Failed));
    submit(&mut daemon.state, "b");
    assert_eq!(daemon.tick(), [""; 0], "no job gets the device");
    daemon.now += PROBE_AGAIN_MAX;
    assert_eq!(
        daemon.tell(ScheduleEvent::Tick),
        [ScheduleCommand::Probe { device: 0 }]
    );
    assert_eq!(daemon.tell(ScheduleEvent::Tick), [], "one probe at a time");
    let commands = daemon.probed(0, None);
    assert_eq!(shown(&commands), None);
    assert_eq!(placements(&commands), [(0, "b".into(), 0)], "it is back");

    let commands = daemon.ended(1, "a", doubted());
    assert_eq!(placements(&commands), [], "both devices are taken");
    assert_eq!(
        placements(&daemon.probed(1, Some("it computes wrongly"))),
        [],
        "and this one is out"
    );
    let commands = daemon.ended(0, "b", LifeOutcome::Over);
    assert_eq!(placements(&commands)[0], (0, "a".into(), 0));
}

/// Where the probe finds nothing, the failures were the job's, which doubts that device no more.
#[test]
fn a_device_that_passes_its_probe_leaves_the_failures_with_the_job() {
    let mut daemon = Daemon::new(1, submitted(&["a"]));
    daemon.begin();
    daemon.ended(0, "a", doubted());
    let commands = daemon.probed(0, None);
    assert_eq!(placements(&commands), [(0, "a".into(), 3)]);
    assert!(commands.iter().any(|command| matches!(
        command,
        ScheduleCommand::Place {
            doubts_device: false,
            ..
        }
    )));
}

/// A probe that ends late takes back no failures that another device's probe has counted since.
#[test]
fn a_late_probe_does_not_lower_the_count() {
    let mut daemon = Daemon::new(2, submitted(&["a"]));
    daemon.begin();
    daemon.ended(0, "a", doubted());
    let (history, cause) = (fruitless(4), "the worker died".into());
    daemon.ended(1, "a", LifeOutcome::DeviceDoubted { history, cause });
    let commands = daemon.probed(1, None);
    assert_eq!(placements(&commands), [(1, "a".into(), 4)]);
    daemon.probed(0, None);
    let commands = daemon.ended(1, "a", LifeOutcome::Ready { epoch: None });
    assert_eq!(placements(&commands), [(0, "a".into(), 4)]);
}

/// Its probe passes and every job fails: such a device gets ever fewer of them.
#[test]
fn a_device_that_fails_one_job_after_the_other_rests_ever_longer() {
    let names: Vec<String> = (0..100).map(|i| format!("job{i:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut daemon = Daemon::new(1, submitted(&names));
    let (mut failed, mut rested) = (0, 0);
    let begun = daemon.now;
    let mut commands = daemon.tell(ScheduleEvent::Held(false));
    while daemon.now < begun + 4 * REST_MAX {
        if let Some((device, job, counted)) = placements(&commands).pop() {
            if counted == 0 {
                start(&mut daemon.state, &job);
                commands = daemon.ended(device, &job, doubted());
                continue;
            }
            // It fails twice more.
            failed += 1;
            let (job, at) = (id(&job), 4);
            apply(
                &mut daemon.state,
                Command::Cancel {
                    job: job.clone(),
                    at,
                },
            );
            commands = daemon.ended(device, &job.0, LifeOutcome::Over);
            continue;
        }
        let probes = |command: &ScheduleCommand| matches!(command, ScheduleCommand::Probe { .. });
        if commands.iter().any(probes) {
            commands = daemon.probed(0, None);
            let rests = shown(&commands) == Some(ProblemKind::Quarantined);
            assert!(rests == (failed + 1 >= FAILED_JOBS_MAX && placements(&commands).is_empty()));
            rested += rests as u32;
            continue;
        }
        daemon.now += SECOND;
        commands = daemon.tell(ScheduleEvent::Tick);
    }
    assert!((3..12).contains(&failed), "{failed} jobs in four hours");
    assert!(rested >= 3);
}

/// A step that a job commits on a device shows that the device computes.
#[test]
fn progress_ends_a_devices_series_of_failures() {
    let mut daemon = Daemon::new(1, submitted(&["a", "b", "c"]));
    let mut commands = daemon.tell(ScheduleEvent::Held(false));
    for job in ["a", "b", "c"] {
        assert_eq!(placements(&commands), [(0, job.into(), 0)]);
        start(&mut daemon.state, job);
        commit(&mut daemon.state, job);
        let doubting = daemon.ended(0, job, doubted());
        assert_eq!(shown(&doubting), Some(ProblemKind::Probing));
        let (job, at) = (id(job), 4);
        apply(&mut daemon.state, Command::Cancel { job, at });
        commands = daemon.probed(0, None);
        assert_eq!(shown(&commands), None, "no rest");
    }
}

/// A job that panics whatever runs it is given up, although the queue begins again in between.
#[test]
fn panics_count_across_queues() {
    let mut daemon = Daemon::new(1, submitted(&["a"]));
    assert_eq!(daemon.begin(), ["a"]);
    for _ in 1..3 {
        assert_eq!(placements(&daemon.panicked(0, "a")).len(), 1);
        assert_eq!(daemon.begin_again(), []);
        assert_eq!(daemon.tick(), ["a"]);
    }
    let given_up = daemon.panicked(0, "a");
    assert!(
        matches!(&given_up[..], [ScheduleCommand::Record { end, .. }] if end.result.is_err()),
        "{given_up:?}"
    );
    assert_eq!(daemon.begin_again(), given_up, "it is still to be recorded");
    assert_eq!(daemon.tick(), [""; 0]);
}

/// A device that rests does so to its end, and one that is doubted is probed before it has a job.
#[test]
fn a_device_stays_out_across_queues() {
    let mut daemon = Daemon::new(1, submitted(&["a", "b"]));
    let probe = [ScheduleCommand::Probe { device: 0 }];
    daemon.begin();
    daemon.ended(0, "a", doubted());
    assert_eq!(daemon.begin_again(), []);
    assert_eq!(daemon.tell(ScheduleEvent::Tick), probe);
    let commands = daemon.probed(0, None);
    assert_eq!(placements(&commands), [(0, "a".into(), 3)], "they count");
    daemon.cancel("a");
    daemon.ended(0, "a", LifeOutcome::Over);
    daemon.ended(0, "b", doubted());
    assert_eq!(
        shown(&daemon.probed(0, None)),
        Some(ProblemKind::Quarantined)
    );
    assert_eq!(daemon.begin_again(), []);
    assert_eq!(daemon.tell(ScheduleEvent::Tick), []);
    daemon.now += REST_FIRST;
    assert_eq!(daemon.tell(ScheduleEvent::Tick), probe);
}

/// A job that waited for something outside of it goes on in its epoch under the next queue.
#[test]
fn a_waiting_job_goes_on_in_its_epoch_under_the_next_queue() {
    let mut daemon = Daemon::new(1, submitted(&["a"]));
    assert_eq!(daemon.begin(), ["a"]);
    let cause = "a file is gone".into();
    let epoch = Some(1);
    daemon.ended(0, "a", LifeOutcome::WaitsOutside { epoch, cause });
    assert_eq!(daemon.begin_again(), []);
    let commands = daemon.tell(ScheduleEvent::Tick);
    assert!(
        matches!(
            commands[..],
            [ScheduleCommand::Place {
                resumed: Some(1),
                ..
            }]
        ),
        "{commands:?}"
    );
}
