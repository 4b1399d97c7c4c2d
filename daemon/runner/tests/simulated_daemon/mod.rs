//! A daemon in memory: what carries out the commands of schedule, lives and machines, and what
//! disturbs it.

mod attempt;
mod run;

use crate::ledger_queue::LedgerQueue;
use attempt::Writer;
use r1d_ledger::{Command as LedgerCommand, Effect, NewJob, State};
use r1d_proto::control::job::State as RunState;
use r1d_proto::ids::JobId;
use r1d_proto::world::counter_hash;
use r1d_runner::life::{Life, LifeOutcome};
use r1d_runner::schedule::{DeviceHealth, ProblemKind, Schedule, ScheduleCommand, ScheduleEvent};
use run::Run;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Steps of every job.
pub(crate) const STEPS: u64 = 4;
/// Daemon crashes of one seed: fewer than the strikes that end a job.
const CRASHES_MAX: u64 = 5;
const JOBS_MAX: u64 = 6;
/// A paused job is still in hand for no longer than this: a worker may be silent for a while.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

/// What the run that has a job in hand is to do, once the ledger has what a client wants.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Wish {
    Stop,
    StopAfterStep,
    Nothing,
}

/// A message under way in the daemon.
enum Letter {
    ToSchedule(ScheduleEvent),
    /// The second part of a client's request; the client may be gone.
    Second(Wish, JobId),
    Stop {
        run: u64,
        after_step: bool,
    },
}

#[derive(Default)]
struct Device {
    /// Its probes go well, and no job gets further on it.
    is_bad: bool,
    is_broken: bool,
    /// A device that breaks stays so at least until a probe has seen it.
    was_seen: bool,
    is_probed: bool,
}

pub(crate) struct World {
    seed: u64,
    draws: u64,
    now: Duration,
    state: State,
    schedule: Schedule,
    devices: Vec<Device>,
    /// A device that never breaks, in worlds with bad ones.
    good: Option<usize>,
    /// What the daemon has on disk of its devices.
    health: Vec<DeviceHealth>,
    /// Bad devices that jobs gave up, since a user last decided about the job.
    left: BTreeSet<(JobId, usize)>,
    runs: BTreeMap<u64, Run>,
    writers: BTreeMap<JobId, Writer>,
    letters: Vec<Letter>,
    /// Jobs that are looked after because something outside of them is missing.
    watched: BTreeSet<JobId>,
    files_are_away: bool,
    /// Jobs whose workers die at their second step, wherever they run.
    poison: BTreeSet<JobId>,
    /// Steps at which a worker has died by chance.
    unlucky: BTreeSet<(JobId, u64)>,
    paused_at: BTreeMap<JobId, Duration>,
    next_run: u64,
    is_calm: bool,
    pub crashes: u64,
    pub doubts: u64,
    pub pauses: u64,
    /// Times that a sound job gave a bad device up.
    pub escapes: u64,
    /// Jobs that need several devices.
    pub gangs: u64,
}

impl World {
    pub(crate) fn new(seed: u64) -> World {
        let devices = 1 + counter_hash(&[seed]) % 3;
        let now = Duration::from_secs(1000);
        let health = vec![DeviceHealth::default(); devices as usize];
        let mut world = World {
            seed,
            draws: 0,
            now,
            state: State::default(),
            schedule: Schedule::new(health.clone(), now),
            devices: (0..devices).map(|_| Device::default()).collect(),
            good: None,
            health,
            left: BTreeSet::new(),
            runs: BTreeMap::new(),
            writers: BTreeMap::new(),
            letters: Vec::new(),
            watched: BTreeSet::new(),
            files_are_away: false,
            poison: BTreeSet::new(),
            unlucky: BTreeSet::new(),
            paused_at: BTreeMap::new(),
            next_run: 0,
            is_calm: false,
            crashes: 0,
            doubts: 0,
            pauses: 0,
            escapes: 0,
            gangs: 0,
        };
        world.choose_bad_devices();
        world.try_devices();
        world
    }

    /// In every other world with several devices, one of them is good and some others are bad.
    fn choose_bad_devices(&mut self) {
        let devices = self.devices.len() as u64;
        if devices < 2 || self.draw(2) == 0 {
            return;
        }
        let good = self.draw(devices) as usize;
        self.good = Some(good);
        for index in 0..self.devices.len() {
            self.devices[index].is_bad = index != good && self.draw(3) > 0;
        }
    }

    fn draw(&mut self, below: u64) -> u64 {
        self.draws += 1;
        counter_hash(&[self.seed, self.draws]) % below
    }

    fn chance(&mut self, one_in: u64) -> bool {
        !self.is_calm && self.draw(one_in) == 0
    }

    /// A life full of disturbances.
    pub(crate) fn live(&mut self, rounds: u64) {
        for _ in 0..rounds {
            self.disturb();
            self.step();
        }
    }

    /// The disturbances end, users let everything go on, and everything that can run does.
    pub(crate) fn settle(&mut self) {
        self.is_calm = true;
        self.files_are_away = false;
        for device in &mut self.devices {
            device.is_broken = false;
        }
        self.calm_down();
        let in_hand: Vec<&JobId> = self.runs.values().map(|run| &run.job).collect();
        for record in self.state.jobs() {
            let is_paused = record.state() == RunState::Paused;
            assert!(
                !(is_paused && in_hand.contains(&record.job())),
                "seed {}: a paused job is in hand",
                self.seed
            );
        }
        for record in self.state.jobs() {
            if record.state() == RunState::Paused {
                let job = record.job().clone();
                self.apply(LedgerCommand::Resume { job, at: 30 });
            }
        }
        self.calm_down();
        for record in self.state.jobs() {
            let (job, is_poison) = (record.job(), self.poison.contains(record.job()));
            let seed = self.seed;
            match record.state() {
                RunState::Cancelled => {}
                RunState::Succeeded => {
                    assert!(!is_poison, "seed {seed}: {job}");
                    assert_eq!(record.progress.stages[0].step, STEPS, "seed {seed}: {job}");
                }
                RunState::Failed => assert!(is_poison, "seed {seed}: {job} failed"),
                state => panic!("seed {seed}: {job} is {state:?} for ever"),
            }
            let strikes = u64::from(record.strikes.count);
            assert!(strikes <= self.crashes, "seed {seed}: {strikes} strikes");
        }
    }

    /// Lets everything that is under way come to its end.
    fn calm_down(&mut self) {
        let mut idle = 0;
        for _ in 0..40_000 {
            let is_busy = self.step();
            idle = if is_busy || !self.runs.is_empty() {
                0
            } else {
                idle + 1
            };
            // Long enough for the last back-off, and for a rest.
            if idle > 1000 {
                return;
            }
        }
        panic!("seed {}: it never settles: {}", self.seed, self.picture());
    }

    fn picture(&self) -> String {
        let runs = self.runs.values();
        let runs: Vec<_> = runs
            .map(|run| (&run.job, &run.devices, run.life.phase()))
            .collect();
        format!("{runs:?}, {:?}", self.schedule)
    }

    /// One thing happens; returns whether it was more than time.
    fn step(&mut self) -> bool {
        let millis = self.draw(300);
        self.now += Duration::from_millis(millis);
        self.check_pauses();
        let choices =
            self.letters.len() as u64 + self.runs.len() as u64 + self.writers.len() as u64;
        let at = self.draw(choices + 2);
        let (letters, runs) = (self.letters.len() as u64, self.runs.len() as u64);
        if at < letters {
            let letter = self.letters.swap_remove(at as usize);
            self.deliver(letter);
        } else if at < letters + runs {
            let run = *self.runs.keys().nth((at - letters) as usize).unwrap();
            return self.advance_run(run);
        } else if at < choices {
            let job = self
                .writers
                .keys()
                .nth((at - letters - runs) as usize)
                .unwrap();
            let job = job.clone();
            self.advance_writer(&job);
        } else {
            self.tick();
            return false;
        }
        true
    }

    fn tick(&mut self) {
        // Time leaps only where nothing else would happen: nobody is late who has just no turn.
        let seconds = match (self.is_busy(), self.draw(8)) {
            (true, _) => 0,
            (false, 0) => 120,
            (false, _) => 2,
        };
        self.now += Duration::from_secs(seconds);
        let runs: Vec<u64> = self.runs.keys().copied().collect();
        for run in runs {
            self.tick_run(run);
        }
        if !self.files_are_away {
            for job in std::mem::take(&mut self.watched) {
                self.letters
                    .push(Letter::ToSchedule(ScheduleEvent::Mended { job }));
            }
        }
        self.tell(ScheduleEvent::Tick);
        self.probe();
    }

    /// Whether something is under way that takes no time.
    fn is_busy(&self) -> bool {
        !self.letters.is_empty()
            || self.runs.values().any(Run::is_busy)
            || self.writers.values().any(Writer::is_busy)
    }

    /// Probes that are under way come to their end.
    fn probe(&mut self) {
        for (index, device) in self.devices.iter_mut().enumerate() {
            if std::mem::take(&mut device.is_probed) {
                device.was_seen |= device.is_broken;
                let problem = device.is_broken.then(|| "it computes wrongly".into());
                let event = ScheduleEvent::Probed {
                    device: index,
                    problem,
                };
                self.letters.push(Letter::ToSchedule(event));
            }
        }
    }

    /// The look at the devices when the daemon starts.
    fn try_devices(&mut self) {
        for device in &mut self.devices {
            device.is_probed = true;
        }
        self.probe();
    }

    fn deliver(&mut self, letter: Letter) {
        match letter {
            Letter::ToSchedule(event) => self.tell(event),
            Letter::Second(wish, job) => self.second(wish, job),
            Letter::Stop { run, after_step } => self.stop_run(run, after_step),
        }
    }

    /// Has the ledger take a command, and tells the queue that it changed.
    fn apply(&mut self, command: LedgerCommand) -> Option<Effect> {
        let effect = self.state.apply(&command).ok();
        let changed = Letter::ToSchedule(ScheduleEvent::Tick);
        self.letters.push(changed);
        effect
    }

    fn tell(&mut self, event: ScheduleEvent) {
        self.note_escapes(&event);
        let commands = self
            .schedule
            .handle(event, &LedgerQueue(&self.state), self.now);
        self.health = self.schedule.health().cloned().collect();
        for command in commands {
            match command {
                ScheduleCommand::Place {
                    devices,
                    job,
                    resumed,
                    history,
                    doubts_device,
                } => {
                    let left = |device: &usize| self.left.contains(&(job.clone(), *device));
                    assert!(
                        !devices.iter().any(left),
                        "seed {}: {job} is back on one of {devices:?}, which failed it",
                        self.seed
                    );
                    let record = self.state.job(&job).unwrap();
                    assert_eq!(devices.len(), record.submission.devices as usize);
                    let is_in_hand = self.runs.values().any(|run| run.job == job);
                    assert!(!is_in_hand, "seed {}: {job} is in hand twice", self.seed);
                    let shares = |run: &&Run| run.devices.iter().any(|one| devices.contains(one));
                    let mut on_devices = self.runs.values().filter(shares);
                    assert!(
                        on_devices.all(|run| !run.life.has_device()),
                        "seed {}: two jobs on a device",
                        self.seed
                    );
                    let life = Life::new(resumed, history, doubts_device, self.now);
                    self.next_run += 1;
                    let run = Run::new(job, devices, life, self.now);
                    self.runs.insert(self.next_run, run);
                }
                ScheduleCommand::Probe { device } => self.devices[device].is_probed = true,
                ScheduleCommand::Show { problem, .. } => {
                    let kind = problem.map(|problem| problem.kind);
                    self.doubts += (kind == Some(ProblemKind::Probing)) as u64;
                }
                ScheduleCommand::Watch { job, .. } => {
                    self.watched.insert(job);
                }
                ScheduleCommand::Unwatch { job } => {
                    self.watched.remove(&job);
                }
                ScheduleCommand::Record { .. } => panic!("the ledger takes every end"),
            }
        }
    }

    /// Notes which sound jobs have given which bad devices up: they never return there, because the
    /// good device is left.
    fn note_escapes(&mut self, event: &ScheduleEvent) {
        match event {
            ScheduleEvent::Ended {
                device,
                job,
                outcome: Some(LifeOutcome::DeviceDoubted { .. }),
            } if self.devices[*device].is_bad && !self.poison.contains(job) => {
                self.escapes += 1;
                self.left.insert((job.clone(), *device));
            }
            ScheduleEvent::Ended {
                job,
                outcome: Some(LifeOutcome::Over),
                ..
            }
            | ScheduleEvent::Decided { job } => self.left.retain(|(known, _)| known != job),
            _ => {}
        }
    }

    /// A run hands its job back.
    fn ended(&mut self, run: u64, outcome: LifeOutcome) {
        let Run {
            job,
            devices,
            at_fault,
            ..
        } = self.runs.remove(&run).unwrap();
        let device = at_fault.unwrap_or(devices[0]);
        assert!(
            !self.writers.contains_key(&job),
            "seed {}: {job} is handed back with its writer",
            self.seed
        );
        let event = ScheduleEvent::Ended {
            device,
            job,
            outcome: Some(outcome),
        };
        self.letters.push(Letter::ToSchedule(event));
    }

    fn disturb(&mut self) {
        if self.chance(40) && (self.state.jobs().len() as u64) < JOBS_MAX {
            self.submit();
        }
        if self.chance(60) {
            self.first();
        }
        if self.chance(80) {
            self.files_are_away ^= true;
        }
        if self.chance(60) {
            let index = self.draw(self.devices.len() as u64) as usize;
            let is_good = self.good == Some(index);
            let device = &mut self.devices[index];
            if is_good || device.is_bad {
                // It stays as it is.
            } else if !device.is_broken {
                (device.is_broken, device.was_seen) = (true, false);
            } else if device.was_seen {
                device.is_broken = false;
            }
        }
        if self.crashes < CRASHES_MAX && self.chance(250) {
            self.crash();
        }
    }

    fn submit(&mut self) {
        let job = JobId(format!("job{}", self.state.jobs().len()));
        if self.draw(6) == 0 {
            self.poison.insert(job.clone());
        }
        let (priority, held) = (self.draw(2) as i32, self.draw(8) == 0);
        // With bad devices there are too few good ones for a gang.
        let devices = match self.devices.len() as u64 {
            all if all > 1 && self.good.is_none() && self.draw(3) == 0 => 2 + self.draw(all - 1),
            _ => 1,
        };
        self.gangs += u64::from(devices > 1);
        self.apply(LedgerCommand::Submit(NewJob {
            priority,
            held,
            devices: devices as u32,
            ..NewJob::of(job, "seed = 1")
        }));
    }

    /// The first part of a client's request: the ledger.
    fn first(&mut self) {
        let jobs = self.state.jobs();
        if jobs.is_empty() {
            return;
        }
        let at = self.draw(jobs.len() as u64) as usize;
        let job = jobs[at].job().clone();
        let (of, by, at) = (job.clone(), None, 1);
        let command = match self.draw(8) {
            0 => LedgerCommand::Cancel { job: of, at },
            1..=3 => LedgerCommand::Pause { job: of, by, at },
            4..=5 => LedgerCommand::Resume { job: of, at: 30 },
            _ => LedgerCommand::Requeue { job: of, at: 30 },
        };
        let is_cancel = matches!(command, LedgerCommand::Cancel { .. });
        let wish = match self.apply(command) {
            Some(Effect::Paused { .. }) => {
                self.pauses += 1;
                Wish::StopAfterStep
            }
            Some(Effect::Requeued {
                was: RunState::Running,
            }) => Wish::Stop,
            Some(Effect::Requeued { .. }) => Wish::Nothing,
            Some(_) if is_cancel => Wish::Stop,
            _ => return,
        };
        self.letters.push(Letter::Second(wish, job));
    }

    /// The second part: the queue, and the run that has the job in hand.
    fn second(&mut self, wish: Wish, job: JobId) {
        let run = self.runs.iter().find(|(_, run)| run.job == job);
        if let Some((run, _)) = run.filter(|_| wish != Wish::Nothing) {
            let (run, after_step) = (*run, wish == Wish::StopAfterStep);
            self.letters.push(Letter::Stop { run, after_step });
        }
        self.tell(ScheduleEvent::Decided { job });
    }

    fn check_pauses(&mut self) {
        for run in self.runs.values() {
            let record = self.state.job(&run.job).unwrap();
            if record.state() != RunState::Paused {
                self.paused_at.remove(&run.job);
                continue;
            }
            let since = *self.paused_at.entry(run.job.clone()).or_insert(self.now);
            assert!(
                self.now - since < PAUSE_MAX,
                "seed {}: {} is paused and runs: {}",
                self.seed,
                run.job,
                self.picture()
            );
        }
    }

    /// The daemon ends without a word, and the next one begins.
    fn crash(&mut self) {
        self.crashes += 1;
        self.runs.clear();
        self.writers.clear();
        self.letters.clear();
        self.watched.clear();
        self.paused_at.clear();
        for record in self.state.jobs() {
            if record.strikes.taken_up && !record.state().is_final() {
                let job = record.job().clone();
                self.apply(LedgerCommand::Strike { job });
            }
        }
        self.schedule = Schedule::new(self.health.clone(), self.now);
        self.try_devices();
    }
}
