//! Which job gets which device, and which device gets jobs.

mod ledger_queue;

use ledger_queue::LedgerQueue;
use r1d_ledger::{Command, NewJob, State};
use r1d_proto::ids::JobId;
use r1d_runner::life::{History, LifeOutcome};
use r1d_runner::restart::{Attempts, Progress};
use r1d_runner::schedule::{
    DeviceHealth, FAILED_JOBS_MAX, PROBE_AGAIN_MAX, ProblemKind, REST_FIRST, REST_MAX, STRIKES_MAX,
    Schedule, ScheduleCommand, ScheduleEvent, TRIAL_MAX, given_up,
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
        let health = vec![DeviceHealth::default(); devices];
        Daemon::after(health, state, Duration::from_secs(1_700_000_000))
    }

    /// The next daemon after one that has left this of its devices, which starts at `now`. What it
    /// finds at the devices is told to it while no job may begin.
    fn after(health: Vec<DeviceHealth>, state: State, now: Duration) -> Daemon {
        let devices = health.len();
        let mut daemon = Daemon {
            state,
            schedule: Schedule::new(health, now),
            now,
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

    /// The daemon ends, and the next one begins at `now`.
    fn restart(self, now: Duration) -> Daemon {
        let health = self.schedule.health().cloned().collect();
        Daemon::after(health, self.state, now)
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

/// Submits a job that needs several devices.
fn submit_gang(state: &mut State, job: &str, devices: u32) {
    let new = NewJob::of(id(job), "seed = 1");
    apply(state, Command::Submit(NewJob { devices, ..new }));
}

/// The devices that a job is placed on.
fn gathered(commands: &[ScheduleCommand], of: &str) -> Option<Vec<usize>> {
    commands.iter().find_map(|command| match command {
        ScheduleCommand::Place { devices, job, .. } if job.0 == of => Some(devices.clone()),
        _ => None,
    })
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
            devices,
            job,
            history,
            ..
        } => Some((devices[0], job.0.clone(), history.attempts.fruitless())),
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

/// Real work shows what a probe does not: the job waits for the other device, although that is busy
/// and this one free, and its failures count there no more than here. Other jobs do not wait.
#[test]
fn a_job_does_not_return_to_a_device_that_it_gave_up_while_another_is_left() {
    let mut daemon = Daemon::new(2, submitted(&["long", "a"]));
    assert_eq!(daemon.begin(), ["long", "a"]);
    daemon.ended(1, "a", doubted());
    let commands = daemon.probed(1, None);
    assert_eq!(shown(&commands), None, "the device can be used");
    assert_eq!(placements(&commands), [], "by other jobs");
    let health: Vec<_> = daemon.schedule.health().collect();
    let given_up = health.iter().map(|health| health.is_given_up_by(&id("a")));
    assert!(given_up.eq([false, true]), "`why` can say so");
    submit(&mut daemon.state, "b");
    let commands = daemon.tell(ScheduleEvent::Tick);
    assert_eq!(placements(&commands), [(1, "b".into(), 0)]);
    start(&mut daemon.state, "b");
    let (job, at) = (id("long"), 4);
    apply(&mut daemon.state, Command::Cancel { job, at });
    let commands = daemon.ended(0, "long", LifeOutcome::Over);
    assert_eq!(placements(&commands), [(0, "a".into(), 0)]);
}

/// A job that every device has failed is tried once more where it is, and its failures there count:
/// two more end it.
#[test]
fn a_job_that_each_device_has_failed_is_the_one_at_fault() {
    for devices in 1..=4 {
        let mut daemon = Daemon::new(devices, submitted(&["a"]));
        let mut commands = daemon.tell(ScheduleEvent::Held(false));
        for device in 0..devices {
            assert_eq!(placements(&commands), [(device, "a".into(), 0)]);
            start(&mut daemon.state, "a");
            commands = daemon.ended(device, "a", doubted());
            let probed = daemon.probed(device, None);
            commands.extend(probed);
        }
        let [(device, _, counted)] = &placements(&commands)[..] else {
            panic!("{devices} devices: {commands:?}");
        };
        assert_eq!(*counted, 3);
        let lasting = commands.iter().any(|command| {
            matches!(command, ScheduleCommand::Place { doubts_device, .. } if !doubts_device)
        });
        assert!(lasting, "and does not give it up again");
        // What fails it decides about that: it may be submitted again, and is a new job.
        daemon.ended(*device, "a", LifeOutcome::Over);
        let mut health = daemon.schedule.health();
        assert!(!health.any(|health| health.is_given_up_by(&id("a"))));
    }
}

/// It goes on where it got furthest: what stopped it there is what people are told.
#[test]
fn a_job_that_each_device_has_failed_goes_on_where_it_got_furthest() {
    let mut daemon = Daemon::new(2, submitted(&["a"]));
    daemon.begin();
    daemon.ended(0, "a", doubted());
    daemon.probed(0, None);
    let (mut attempts, steps) = (Attempts::default(), 7);
    let progress = Progress {
        stages_finished: 0,
        steps,
        evals: 0,
        checkpoints: 0,
    };
    for _ in 0..3 {
        attempts.abandoned("the worker died".into(), progress);
    }
    let (number, cause) = (6, "the worker died".into());
    let history = History { attempts, number };
    daemon.ended(1, "a", LifeOutcome::DeviceDoubted { history, cause });
    let commands = daemon.probed(1, None);
    assert_eq!(placements(&commands), [(1, "a".into(), 3)]);
}

/// A device that cannot be used is nothing to wait for; one that rests is.
#[test]
fn a_job_waits_for_a_device_that_rests_and_not_for_one_that_is_out() {
    let mut daemon = Daemon::new(2, submitted(&["a"]));
    daemon.begin();
    daemon.ended(0, "a", doubted());
    daemon.probed(0, None);
    let cause = "it is gone".into();
    let unusable = LifeOutcome::DeviceUnusable { epoch: None, cause };
    let commands = daemon.ended(1, "a", unusable);
    assert_eq!(placements(&commands), [(0, "a".into(), 3)]);

    let mut daemon = Daemon::new(2, submitted(&["a", "b", "c"]));
    daemon.begin();
    for job in ["b", "c"] {
        daemon.ended(1, job, doubted());
        let commands = daemon.probed(1, None);
        commands.iter().for_each(|command| {
            if let ScheduleCommand::Place { job, .. } = command {
                start(&mut daemon.state, &job.0);
            }
        });
    }
    let commands = daemon.ended(0, "a", doubted());
    let [(0, b, 0)] = &placements(&daemon.probed(0, None))[..] else {
        panic!("{commands:?}");
    };
    assert_eq!(b, "b", "a waits for the device that rests");
    daemon.now += REST_FIRST;
    daemon.tick();
    assert_eq!(
        placements(&daemon.probed(1, None)),
        [(1, "a".into(), 0)],
        "and is its next"
    );
}

/// A restart is no cure: a device goes on to rest, also by a clock that was set back, but for no
/// longer than it was to; and a job does not return to the device that it gave up.
#[test]
fn a_devices_health_outlives_the_daemon() {
    let with_rest = || {
        let mut daemon = Daemon::new(2, submitted(&["long", "a", "b"]));
        daemon.begin();
        daemon.ended(1, "a", doubted());
        daemon.probed(1, None);
        start(&mut daemon.state, "b");
        daemon.ended(1, "b", doubted());
        let commands = daemon.probed(1, None);
        assert_eq!(shown(&commands), Some(ProblemKind::Quarantined));
        submit(&mut daemon.state, "c");
        daemon
    };
    for clock in [-1_000_000_000, 10] {
        let daemon = with_rest();
        let now = daemon.now.as_secs().saturating_add_signed(clock);
        let mut daemon = daemon.restart(Duration::from_secs(now));
        assert_eq!(daemon.begin(), ["long"], "the clock has moved by {clock} s");
        daemon.now += REST_FIRST;
        let commands = daemon.tell(ScheduleEvent::Tick);
        assert_eq!(commands, [ScheduleCommand::Probe { device: 1 }]);
        let commands = daemon.probed(1, None);
        assert_eq!(placements(&commands), [(1, "c".into(), 0)], "not to a or b");
        start(&mut daemon.state, "c");
        daemon.ended(1, "c", doubted());
        daemon.probed(1, None);
        daemon.now += REST_FIRST + SECOND;
        assert_eq!(daemon.tell(ScheduleEvent::Tick), [], "it rests for longer");
    }
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

/// A gang gets its devices at once, and gives them all back.
#[test]
fn a_gang_is_placed_when_all_its_devices_are_free_at_once() {
    let mut state = submitted(&["small"]);
    submit_gang(&mut state, "gang", 3);
    submit(&mut state, "last");
    let mut daemon = Daemon::new(4, state);
    let commands = daemon.tell(ScheduleEvent::Held(false));
    assert_eq!(gathered(&commands, "small"), Some(vec![0]));
    assert_eq!(gathered(&commands, "gang"), Some(vec![1, 2, 3]));
    assert_eq!(daemon.begun(commands), ["small", "gang"]);
    // A rank in the middle fails: its device is doubted, and no other.
    let commands = daemon.ended(2, "gang", doubted());
    assert_eq!(commands[1], ScheduleCommand::Probe { device: 2 });
    assert_eq!(
        gathered(&commands, "last"),
        None,
        "the gang waits for the device that is probed, and keeps the others"
    );
    daemon.cancel("small");
    let commands = daemon.ended(0, "small", LifeOutcome::Over);
    assert_eq!(
        gathered(&commands, "gang"),
        Some(vec![0, 1, 3]),
        "{commands:?}"
    );
    let commands = daemon.probed(2, None);
    assert_eq!(daemon.begun(commands), ["last"]);
    daemon.cancel("gang");
    ["a", "b", "c"]
        .iter()
        .for_each(|job| submit(&mut daemon.state, job));
    let commands = daemon.ended(0, "gang", LifeOutcome::Over);
    assert_eq!(daemon.begun(commands), ["a", "b", "c"]);
}

/// However many small jobs come and go, a gang gets its devices in its turn: those that become free
/// are kept for it.
#[test]
fn small_jobs_do_not_pass_a_gang_by() {
    let mut state = submitted(&["a", "b"]);
    submit_gang(&mut state, "gang", 2);
    ["c", "d", "e"]
        .iter()
        .for_each(|job| submit(&mut state, job));
    let mut daemon = Daemon::new(2, state);
    assert_eq!(daemon.begin(), ["a", "b"]);
    daemon.cancel("a");
    assert_eq!(daemon.ended(0, "a", LifeOutcome::Over), []);
    assert_eq!(daemon.tick(), [] as [&str; 0], "device 0 is kept");
    daemon.cancel("b");
    let commands = daemon.ended(1, "b", LifeOutcome::Over);
    assert_eq!(gathered(&commands, "gang"), Some(vec![0, 1]));
    assert_eq!(daemon.begun(commands), ["gang"]);
    daemon.cancel("gang");
    let commands = daemon.ended(0, "gang", LifeOutcome::Over);
    assert_eq!(daemon.begun(commands), ["c", "d"]);
}

/// Devices that one gang keeps are not counted for another that waits behind it.
#[test]
fn a_gang_does_not_take_what_an_earlier_one_keeps() {
    let mut state = submitted(&["busy", "small"]);
    submit_gang(&mut state, "first", 3);
    submit_gang(&mut state, "second", 2);
    let mut daemon = Daemon::new(4, state);
    let commands = daemon.tell(ScheduleEvent::Held(false));
    assert_eq!(
        daemon.begun(commands),
        ["busy", "small"],
        "two devices are kept for the first gang, which needs three"
    );
    daemon.cancel("busy");
    let commands = daemon.ended(0, "busy", LifeOutcome::Over);
    assert_eq!(gathered(&commands, "first"), Some(vec![0, 2, 3]));
    assert_eq!(daemon.begun(commands), ["first"]);
    daemon.cancel("small");
    let commands = daemon.ended(1, "small", LifeOutcome::Over);
    assert_eq!(gathered(&commands, "second"), None);
    daemon.cancel("first");
    let commands = daemon.ended(0, "first", LifeOutcome::Over);
    assert_eq!(gathered(&commands, "second"), Some(vec![0, 1]));
}

/// A gang for which devices are missing that cannot be used keeps none from others meanwhile.
#[test]
fn a_gang_that_cannot_be_gathered_is_in_nobodys_way() {
    let mut state = State::default();
    submit_gang(&mut state, "gang", 2);
    ["a", "b"].iter().for_each(|job| submit(&mut state, job));
    let mut daemon = Daemon::new(2, state);
    daemon.tell(ScheduleEvent::Held(true));
    daemon.schedule = Schedule::new(vec![DeviceHealth::default(); 2], daemon.now);
    daemon.tell(ScheduleEvent::Held(true));
    daemon.probed(0, None);
    daemon.probed(1, Some("it is gone"));
    assert_eq!(daemon.begin(), ["a"]);
    daemon.now += PROBE_AGAIN_MAX;
    daemon.tick();
    daemon.probed(1, None);
    // Now there are two: the gang is first in turn, and waits for the one that is busy.
    assert_eq!(daemon.tick(), [] as [&str; 0]);
    daemon.cancel("a");
    let commands = daemon.ended(0, "a", LifeOutcome::Over);
    assert_eq!(gathered(&commands, "gang"), Some(vec![0, 1]));
}
