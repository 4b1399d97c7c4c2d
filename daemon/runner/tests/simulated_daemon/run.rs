//! Carries out what a job's life decides.

use super::attempt::Attempt;
use super::{Letter, World};
use crate::ledger_queue::progress;
use r1d_ledger::{Command as LedgerCommand, Effect};
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::JobId;
use r1d_runner::life::{Inputs, JobStanding, Life, LifeCommand, LifeEvent};
use r1d_runner::schedule::{ScheduleEvent, given_up};
use r1d_runner::{End, Event};
use std::collections::VecDeque;
use std::time::Duration;

/// What a life decided, and what is left to do of it.
struct UnderWay {
    number: u64,
    commands: VecDeque<LifeCommand>,
}

pub(super) struct Run {
    pub job: JobId,
    /// Its devices, by rank.
    pub devices: Vec<usize>,
    /// The device of the rank that failed last.
    pub at_fault: Option<usize>,
    pub life: Life,
    under_way: Vec<UnderWay>,
    /// What is under way and will be answered, whether anybody still wants to know or not.
    answers: Vec<(u64, LifeEvent)>,
    pub attempt: Option<Attempt>,
    is_down: bool,
}

impl Run {
    pub(super) fn new(job: JobId, devices: Vec<usize>, mut life: Life, now: Duration) -> Run {
        let commands = life.begin(now).into();
        let number = life.number();
        Run {
            job,
            devices,
            at_fault: None,
            life,
            under_way: vec![UnderWay { number, commands }],
            answers: Vec::new(),
            attempt: None,
            is_down: false,
        }
    }
}

impl Run {
    pub(super) fn is_busy(&self) -> bool {
        let newest = self.life.number();
        let is_open =
            |decision: &UnderWay| decision.number == newest && !decision.commands.is_empty();
        self.under_way.iter().any(is_open)
            || !self.answers.is_empty()
            || self.attempt.as_ref().is_some_and(Attempt::is_busy)
    }
}

impl World {
    fn standing(&self, job: &JobId) -> JobStanding {
        let record = self.state.job(job).unwrap();
        JobStanding {
            progress: progress(record),
            is_over: record.state().is_final() || record.state() == RunState::Paused,
            has_to_review: false,
        }
    }

    pub(super) fn tell_life(&mut self, run: u64, number: u64, event: LifeEvent) {
        let Some(job) = self.runs.get(&run).map(|run| run.job.clone()) else {
            return;
        };
        let (standing, now) = (self.standing(&job), self.now);
        let of = self.runs.get_mut(&run).unwrap();
        let before = of.life.number();
        let commands = of.life.handle(number, event, standing, now).into();
        let number = of.life.number();
        if number != before {
            of.attempt = None;
        }
        of.under_way.push(UnderWay { number, commands });
    }

    pub(super) fn tick_run(&mut self, run: u64) {
        let number = self.runs[&run].life.number();
        self.tell_life(run, number, LifeEvent::Tick);
        self.tell_machine(run, Event::Tick);
    }

    pub(super) fn stop_run(&mut self, run: u64, after_step: bool) {
        let Some(of) = self.runs.get(&run) else {
            return;
        };
        let in_step = of.attempt.as_ref().is_some_and(Attempt::is_in_step);
        let number = of.life.number();
        self.tell_life(
            run,
            number,
            LifeEvent::Stop {
                after_step,
                in_step,
            },
        );
    }

    /// One thing happens in a run; returns whether anything did.
    pub(super) fn advance_run(&mut self, run: u64) -> bool {
        let of = self.runs.get_mut(&run).unwrap();
        let newest = of.life.number();
        of.under_way
            .retain(|decision| decision.number == newest && !decision.commands.is_empty());
        let (decisions, answers) = (of.under_way.len() as u64, of.answers.len() as u64);
        let at = self.draw(decisions + answers + 1);
        let of = self.runs.get_mut(&run).unwrap();
        if at < decisions {
            let decision = &mut of.under_way[at as usize];
            // What follows waits for the answer.
            let command = decision.commands.pop_front().unwrap();
            let number = decision.number;
            return self.carry_out(run, number, command);
        }
        if at < decisions + answers {
            let (number, event) = of.answers.swap_remove((at - decisions) as usize);
            self.tell_life(run, number, event);
            return true;
        }
        self.advance_attempt(run)
    }

    /// Carries a command out, or puts it back if that has to wait.
    fn carry_out(&mut self, run: u64, number: u64, command: LifeCommand) -> bool {
        let (job, device) = (self.runs[&run].job.clone(), self.runs[&run].devices[0]);
        let answer = match &command {
            LifeCommand::Open | LifeCommand::JoinWriter if self.has_writer(&job) => {
                let of = self.runs.get_mut(&run).unwrap();
                let commands = VecDeque::from([command]);
                of.under_way.push(UnderWay { number, commands });
                return true;
            }
            LifeCommand::Open => self.open(run, &job),
            LifeCommand::Start { resumed } => self.start(&job, *resumed),
            LifeCommand::Work => return self.begin_attempt(run, number),
            LifeCommand::LookOutside => {
                LifeEvent::Looked(self.files_are_away.then(|| "away".into()))
            }
            LifeCommand::JoinWriter => LifeEvent::WriterJoined,
            LifeCommand::PutDown => {
                self.runs.get_mut(&run).unwrap().is_down = true;
                self.apply(LedgerCommand::PutDown { job });
                return true;
            }
            LifeCommand::Record(end) => {
                let (state, error, model) = match end.result.clone() {
                    Ok(model) => (RunState::Succeeded, None, Some(model)),
                    Err(error) => (RunState::Failed, Some(error), None),
                };
                let is_poison = self.poison.contains(&job);
                assert!(
                    is_poison || error.is_none(),
                    "seed {}: {job} fails: {error:?}",
                    self.seed
                );
                self.apply(LedgerCommand::Finish {
                    job,
                    epoch: end.epoch,
                    state,
                    error,
                    model,
                    at: 9,
                });
                LifeEvent::Recorded(Ok(()))
            }
            LifeCommand::ReleaseDevice => {
                let event = ScheduleEvent::Released { device, job };
                self.letters.push(Letter::ToSchedule(event));
                return true;
            }
            LifeCommand::Report(outcome) => {
                self.ended(run, outcome.clone());
                return true;
            }
            _ => return true,
        };
        let of = self.runs.get_mut(&run).unwrap();
        of.answers.push((number, answer));
        true
    }

    /// Whether a writer still writes for the job. It is told to stop.
    fn has_writer(&mut self, job: &JobId) -> bool {
        let writer = self.writers.get_mut(job);
        writer.map(|writer| writer.is_stopped = true).is_some()
    }

    fn open(&mut self, run: u64, job: &JobId) -> LifeEvent {
        let record = self.state.job(job).unwrap();
        let epoch = record.progress.epoch;
        let inputs = if let Some(error) = given_up(record.strikes.count) {
            Inputs::GivenUp { error }
        } else if self.runs[&run].is_down {
            let cause = "it was put down".into();
            Inputs::Ended(End::Abandoned { cause })
        } else {
            self.apply(LedgerCommand::TakeUp { job: job.clone() });
            let cause = "away".into();
            let away = Inputs::Ended(End::Away { cause });
            if self.files_are_away {
                away
            } else {
                Inputs::Ready
            }
        };
        LifeEvent::Opened { epoch, inputs }
    }

    fn start(&mut self, job: &JobId, resumed: Option<u64>) -> LifeEvent {
        let (epoch, begun) = if self.files_are_away {
            let cause = "away".into();
            (resumed, Err(End::Away { cause }))
        } else if resumed.is_some() {
            (resumed, Ok(()))
        } else {
            let job = job.clone();
            match self.apply(LedgerCommand::Start { job, at: 2 }) {
                Some(Effect::Started { epoch, .. }) => (Some(epoch), Ok(())),
                _ => {
                    let cause = "the ledger refuses".into();
                    (None, Err(End::Abandoned { cause }))
                }
            }
        };
        LifeEvent::Started { epoch, begun }
    }
}
