//! A job's life, driven by every order of events that a seed makes: what it may never do, and what
//! it must come to.

use r1d_proto::world::counter_hash;
use r1d_runner::End;
use r1d_runner::life::{
    History, Inputs, JobStanding, Life, LifeCommand, LifeEvent, LifeOutcome, Phase,
    WORKER_FAILURES_MAX,
};
use r1d_runner::restart::{FRUITLESS_ATTEMPTS_MAX, Progress};
use std::collections::VecDeque;
use std::time::Duration;

const FRESH: JobStanding = JobStanding {
    progress: Progress {
        stages_finished: 0,
        steps: 0,
        evals: 0,
        checkpoints: 0,
    },
    is_over: false,
    has_to_review: false,
};

fn crash() -> LifeEvent {
    LifeEvent::Ended {
        end: End::Abandoned {
            cause: "the worker died".into(),
        },
    }
}

fn opened(inputs: Inputs) -> LifeEvent {
    LifeEvent::Opened { epoch: 3, inputs }
}

fn begun(epoch: u64) -> LifeEvent {
    LifeEvent::Started {
        epoch: Some(epoch),
        begun: Ok(()),
    }
}

fn stop(after_step: bool, in_step: bool) -> LifeEvent {
    LifeEvent::Stop {
        after_step,
        in_step,
    }
}

/// A life with the time of its last event.
struct Driven {
    life: Life,
    now: Duration,
}

impl Driven {
    /// A life that has begun.
    fn new() -> Driven {
        let mut life = Life::new(None, History::default(), true, Duration::ZERO);
        assert_eq!(life.begin(Duration::ZERO), [LifeCommand::Open]);
        let now = Duration::ZERO;
        Driven { life, now }
    }

    /// A life whose first attempt works in epoch 4.
    fn working() -> Driven {
        let mut driven = Driven::new();
        driven.tell(opened(Inputs::Ready));
        driven.tell(begun(4));
        assert_eq!(driven.life.phase(), &Phase::Working);
        driven
    }

    fn tell(&mut self, event: LifeEvent) -> Vec<LifeCommand> {
        self.tell_of(self.life.number(), event, FRESH)
    }

    fn tell_of(
        &mut self,
        number: u64,
        event: LifeEvent,
        standing: JobStanding,
    ) -> Vec<LifeCommand> {
        self.now += Duration::from_secs(1);
        self.life.handle(number, event, standing, self.now)
    }
}

/// The report among the commands.
fn outcome(commands: &[LifeCommand]) -> Option<&LifeOutcome> {
    commands.iter().find_map(|command| match command {
        LifeCommand::Report(outcome) => Some(outcome),
        _ => None,
    })
}

#[test]
fn a_stop_while_the_inputs_are_read_starts_nothing() {
    let mut driven = Driven::new();
    let reading = driven.life.number();
    let commands = driven.tell(stop(true, false));
    assert_eq!(
        commands,
        [
            LifeCommand::PutDown,
            LifeCommand::EndWorker,
            LifeCommand::JoinWriter
        ]
    );
    let late = driven.tell_of(reading, opened(Inputs::Ready), FRESH);
    assert_eq!(late, [], "the answer to a reading that nobody wants");
    let commands = driven.tell(LifeEvent::WriterJoined);
    assert_eq!(outcome(&commands), Some(&LifeOutcome::Over));
}

#[test]
fn an_end_is_recorded_in_the_epoch_of_an_attempt_that_came_late() {
    let mut driven = Driven::new();
    driven.tell(opened(Inputs::Ready));
    let starting = driven.life.number();
    driven.now += r1d_runner::life::START_MAX;
    driven.tell(LifeEvent::Tick);
    assert_eq!(driven.tell_of(starting, begun(9), FRESH), []);
    assert_eq!(driven.life.epoch(), 9);
}

/// A worker that was given up may say how it ended when the next one is at work.
#[test]
fn what_an_earlier_attempt_says_late_ends_no_later_one() {
    let mut driven = Driven::working();
    let first = driven.life.number();
    driven.tell(crash());
    driven.tell(LifeEvent::WriterJoined);
    driven.now += Duration::from_secs(3600);
    driven.tell(LifeEvent::Tick);
    driven.tell(begun(5));
    assert_eq!(driven.life.phase(), &Phase::Working);
    assert_eq!(driven.tell_of(first, crash(), FRESH), []);
    assert_eq!(driven.life.phase(), &Phase::Working);
}

#[test]
fn a_stop_after_the_step_waits_for_its_commit() {
    let mut driven = Driven::working();
    assert_eq!(driven.tell(stop(true, true)), []);
    assert_eq!(driven.life.phase(), &Phase::Working);
    assert_eq!(
        driven.tell(LifeEvent::Committed)[0],
        LifeCommand::PutDown,
        "the commit ends it"
    );
    // Where the step does not come to its commit, no other attempt begins.
    let mut driven = Driven::working();
    driven.tell(stop(true, true));
    assert!(driven.tell(crash()).contains(&LifeCommand::PutDown));
    let commands = driven.tell(LifeEvent::WriterJoined);
    assert_eq!(outcome(&commands), Some(&LifeOutcome::Over));
}

#[test]
fn a_data_set_made_for_later_stages_costs_no_restart_and_a_crash_does() {
    let mut driven = Driven::working();
    driven.tell(LifeEvent::Ended { end: End::Reread });
    assert_eq!(driven.tell(LifeEvent::WriterJoined), [LifeCommand::Open]);
    let commands = driven.tell(opened(Inputs::Ready));
    assert_eq!(commands, [LifeCommand::Start { resumed: Some(4) }]);
    driven.tell(begun(4));
    driven.tell(crash());
    assert_eq!(driven.tell(LifeEvent::WriterJoined), [], "it pauses first");
    let commands = driven.tell(LifeEvent::Tick);
    assert_eq!(commands, [LifeCommand::Start { resumed: None }]);
}

#[test]
fn a_data_set_that_people_review_is_found_before_the_next_attempt() {
    let mut driven = Driven::working();
    driven.tell(crash());
    driven.tell(LifeEvent::WriterJoined);
    let number = driven.life.number();
    let standing = JobStanding {
        has_to_review: true,
        ..FRESH
    };
    let commands = driven.tell_of(number, LifeEvent::Tick, standing);
    assert_eq!(commands, [LifeCommand::Open]);
    let (stage, rows) = ("keep".into(), 7);
    let commands = driven.tell(opened(Inputs::Review { stage, rows }));
    assert!(commands.contains(&LifeCommand::ReleaseDevice));
    let stopped = driven.clone_and(stop(false, false));
    assert!(
        !stopped.contains(&LifeCommand::EndWorker),
        "the worker is another job's by now"
    );
    let commands = driven.tell(LifeEvent::Reviewed);
    assert_eq!(
        outcome(&commands),
        Some(&LifeOutcome::Ready { epoch: None })
    );
}

impl Driven {
    fn clone_and(&self, event: LifeEvent) -> Vec<LifeCommand> {
        let mut life = self.life.clone();
        life.handle(life.number(), event, FRESH, self.now)
    }
}

#[test]
fn a_job_fails_only_where_nothing_outside_of_it_is_amiss() {
    let failed = |looked: Option<&str>| {
        let mut driven = Driven::working();
        let error = "diverged".into();
        let end = End::Failed { error };
        assert_eq!(
            driven.tell(LifeEvent::Ended { end }),
            [LifeCommand::LookOutside]
        );
        driven.tell(LifeEvent::Looked(looked.map(Into::into)));
        driven.tell(LifeEvent::WriterJoined)
    };
    let commands = failed(Some("rows.jsonl is away"));
    assert!(
        matches!(outcome(&commands), Some(LifeOutcome::WaitsOutside { cause, .. })
            if cause == "rows.jsonl is away")
    );
    assert!(matches!(&failed(None)[..], [LifeCommand::Record(end)]
        if end.epoch == 4 && end.result == Err("diverged".into())));
}

/// What the ledger cannot take is handed to the queue, and a stop in between loses nothing.
#[test]
fn an_end_that_the_ledger_cannot_take_is_kept() {
    let mut driven = Driven::working();
    let model = "/job/final".into();
    driven.tell(LifeEvent::Ended {
        end: End::Succeeded { model },
    });
    assert_eq!(driven.tell(stop(false, false)), []);
    driven.tell(LifeEvent::WriterJoined);
    let commands = driven.tell(LifeEvent::Recorded(Err("the disk is full".into())));
    assert!(matches!(
        &commands[..],
        [
            LifeCommand::ShowUnrecorded { error },
            LifeCommand::Report(LifeOutcome::Unrecorded(end))
        ] if error.contains("disk is full") && end.result.is_ok()
    ));
}

/// What runs for a job at a moment of a random life.
#[derive(Default)]
struct Parties {
    worker: bool,
    writer: bool,
    attempts: u32,
    reports: u32,
}

impl Parties {
    fn carry_out(&mut self, command: &LifeCommand, seed: u64) {
        match command {
            LifeCommand::Start { .. } => {
                assert!(!self.worker && !self.writer, "seed {seed}: two attempts");
                self.worker = true;
                self.attempts += 1;
            }
            LifeCommand::Work => self.writer = true,
            LifeCommand::EndWorker => self.worker = false,
            LifeCommand::JoinWriter => self.writer = false,
            LifeCommand::Open => assert!(!self.writer, "seed {seed}: read while written"),
            LifeCommand::Record(_) | LifeCommand::Report(_) => {
                assert!(!self.worker && !self.writer, "seed {seed}: left behind");
                self.reports += matches!(command, LifeCommand::Report(_)) as u32;
            }
            _ => {}
        }
    }
}

/// The answer to a command, as the world gives it at random.
fn answer(command: &LifeCommand, epoch: &mut u64, roll: u64) -> Option<LifeEvent> {
    let end = |roll| match roll % 6 {
        0 => End::Reread,
        1 => End::Away { cause: "x".into() },
        2 => End::Unusable { cause: "x".into() },
        3 => End::Failed { error: "x".into() },
        4 => End::WorkerFailed { cause: "x".into() },
        _ => End::Abandoned { cause: "x".into() },
    };
    Some(match command {
        LifeCommand::Open => opened(match roll % 8 {
            0 => Inputs::Review {
                stage: "s".into(),
                rows: 1,
            },
            1 => Inputs::Ended(end(roll / 8)),
            _ => Inputs::Ready,
        }),
        LifeCommand::Start { resumed } => {
            *epoch += resumed.is_none() as u64;
            let begun = if roll.is_multiple_of(6) {
                Err(end(roll / 6))
            } else {
                Ok(())
            };
            LifeEvent::Started {
                epoch: Some(*epoch),
                begun,
            }
        }
        LifeCommand::Work if roll.is_multiple_of(4) => LifeEvent::Ended {
            end: End::Succeeded { model: "m".into() },
        },
        LifeCommand::Work => LifeEvent::Ended { end: end(roll / 4) },
        LifeCommand::AwaitReview { .. } => LifeEvent::Reviewed,
        LifeCommand::LookOutside => LifeEvent::Looked(roll.is_multiple_of(2).then(|| "x".into())),
        LifeCommand::JoinWriter => LifeEvent::WriterJoined,
        LifeCommand::Record(_) => LifeEvent::Recorded(Ok(())),
        _ => return None,
    })
}

/// Whatever happens, and whenever it is stopped: no two attempts at a time, nothing left behind,
/// one report.
#[test]
fn any_life_comes_to_one_report_and_leaves_nothing_behind() {
    for seed in 0..5_000 {
        let mut draws = 0;
        let mut roll = |below: u64| {
            draws += 1;
            counter_hash(&[seed, draws]) % below
        };
        let mut now = Duration::ZERO;
        let mut life = Life::new(None, History::default(), true, now);
        let (mut parties, mut epoch) = (Parties::default(), 0);
        let commands = life.begin(now);
        // Decisions under way; each carries its commands out in order.
        let mut under_way = vec![(life.number(), VecDeque::from(commands))];
        for round in 0.. {
            assert!(round < 2_000, "seed {seed}: it never ends");
            now += Duration::from_millis(roll(2_000));
            let number = life.number();
            under_way.retain(|(of, commands)| *of == number && !commands.is_empty());
            let (of, event) = if under_way.is_empty() || roll(40) == 0 {
                let events = [
                    LifeEvent::Tick,
                    stop(true, true),
                    stop(false, false),
                    LifeEvent::Committed,
                ];
                // Mostly time passes.
                let which = if roll(8) == 0 { roll(4) as usize } else { 0 };
                (number, events[which].clone())
            } else {
                let which = roll(under_way.len() as u64) as usize;
                let (of, commands) = &mut under_way[which];
                let command = commands.pop_front().unwrap();
                parties.carry_out(&command, seed);
                let Some(event) = answer(&command, &mut epoch, roll(1_000)) else {
                    continue;
                };
                (*of, event)
            };
            if parties.reports > 0 {
                break;
            }
            let progress = Progress {
                steps: parties.attempts as u64 / 3,
                ..FRESH.progress
            };
            let standing = JobStanding { progress, ..FRESH };
            let commands = life.handle(of, event, standing, now);
            under_way.push((life.number(), commands.into()));
        }
        assert_eq!(parties.reports, 1, "seed {seed}");
    }
}

#[test]
fn a_job_that_gets_no_further_fails_after_a_few_attempts() {
    let mut driven = Driven::working();
    for _ in 1..FRUITLESS_ATTEMPTS_MAX {
        driven.tell(crash());
        driven.tell(LifeEvent::WriterJoined);
        driven.now += Duration::from_secs(60);
        driven.tell(LifeEvent::Tick);
        driven.tell(begun(5));
    }
    assert_eq!(
        driven.tell(crash()).last(),
        Some(&LifeCommand::LookOutside),
        "the last one"
    );
}

fn worker_failed() -> LifeEvent {
    let cause = "the worker died".into();
    let end = End::WorkerFailed { cause };
    LifeEvent::Ended { end }
}

impl Driven {
    /// Has the worker fail attempt after attempt, and returns what the job is handed back with.
    fn fail_until_handed_back(&mut self, times_max: u32) -> (u32, Option<LifeOutcome>) {
        for times in 1..=times_max {
            self.tell(worker_failed());
            let commands = self.tell(LifeEvent::WriterJoined);
            if let Some(outcome) = outcome(&commands) {
                return (times, Some(outcome.clone()));
            }
            self.now += Duration::from_secs(60);
            self.tell(LifeEvent::Tick);
            self.tell(begun(5));
        }
        (times_max, None)
    }
}

/// After a few failures of the worker in a row the device may be at fault: the job gives it up. It
/// does not where a probe has found that device well.
#[test]
fn a_job_gives_up_a_device_on_which_workers_keep_failing() {
    let (times, outcome) = Driven::working().fail_until_handed_back(9);
    assert_eq!(times, WORKER_FAILURES_MAX);
    let Some(LifeOutcome::DeviceDoubted { history, .. }) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((history.attempts.fruitless(), history.number), (3, 3));

    let again = |doubts_device| {
        let now = Duration::ZERO;
        let mut life = Life::new(None, history.clone(), doubts_device, now);
        life.begin(now);
        let mut driven = Driven { life, now };
        driven.tell(opened(Inputs::Ready));
        driven.tell(begun(5));
        driven
    };
    // On another device, which is probed before the job is given up for what happens there.
    let (times, outcome) = again(true).fail_until_handed_back(9);
    assert_eq!(times, FRUITLESS_ATTEMPTS_MAX - 3);
    assert!(matches!(outcome, Some(LifeOutcome::DeviceDoubted { .. })));
    let mut driven = again(false);
    assert_eq!(driven.fail_until_handed_back(1), (1, None));
    let commands = driven.tell(worker_failed());
    assert_eq!(commands.last(), Some(&LifeCommand::LookOutside), "it fails");
}
