//! The queue: which job gets which device, and which device gets jobs.
//!
//! One job per device. A job that waits for people or for something outside of it has no device
//! meanwhile; afterwards it goes on in its old place, or before all queued jobs if it was running.
//! A job that gave a device up, because workers failed there, does not get it again as long as it
//! may wait for another: so it fails only where each device that is left has failed it.
//! After every event every free device is looked at, so no wake-up can be lost.

mod device;
mod message;
mod turn;

pub use device::{
    DeviceHealth, FAILED_JOBS_MAX, FAILURES_WINDOW, OF_USE_AFTER, PROBE_AGAIN, PROBE_AGAIN_MAX,
    REST_FIRST, REST_MAX,
};
pub use message::{Candidate, Problem, ProblemKind, Queue, ScheduleCommand, ScheduleEvent};
pub use turn::{STRIKES_MAX, TRIAL_MAX, given_up};

use crate::life::{History, JobEnd, LifeOutcome};
use device::{Device, Placement};
use r1d_proto::ids::JobId;
use std::collections::{HashMap, HashSet};
use std::time::Duration;

/// A job is given up after what ran it has panicked this many times.
const PANICS_MAX: u32 = 3;

/// The state machine of the queue.
#[derive(Clone, Debug)]
pub struct Schedule {
    devices: Vec<Device>,
    /// Jobs that wait for people, without a device.
    away: HashSet<JobId>,
    /// Jobs that wait for something outside of them, each with the epoch that it goes on in.
    waiting: HashMap<JobId, Option<u64>>,
    /// Jobs whose end the ledger could not take yet.
    unrecorded: HashMap<JobId, JobEnd>,
    /// Epochs in which jobs go on that gave their device back.
    resumed: HashMap<JobId, u64>,
    /// Numbers of attempts at jobs that gave a device up: people count all, whoever is at fault.
    attempts: HashMap<JobId, u64>,
    panics: HashMap<JobId, u32>,
    is_held: bool,
    is_stopping: bool,
}

impl Schedule {
    /// A schedule for the devices of which this is remembered, at `now`. None gets a job before it
    /// is probed.
    pub fn new(devices: Vec<DeviceHealth>, now: Duration) -> Schedule {
        let device = |health| Device::new(health, now);
        Schedule {
            devices: devices.into_iter().map(device).collect(),
            away: HashSet::new(),
            waiting: HashMap::new(),
            unrecorded: HashMap::new(),
            resumed: HashMap::new(),
            attempts: HashMap::new(),
            panics: HashMap::new(),
            is_held: false,
            is_stopping: false,
        }
    }

    /// Begins again, after a panic of what carries its commands out: no job is in hand, nothing is
    /// probed or watched. What is known of jobs and devices stays: panics and attempts that count,
    /// ends to record, rests.
    pub fn begin_again(&mut self, now: Duration) -> Vec<ScheduleCommand> {
        for device in &mut self.devices {
            device.begin_again(now);
        }
        self.away.clear();
        let waiting = self.waiting.drain();
        self.resumed
            .extend(waiting.filter_map(|(job, epoch)| Some((job, epoch?))));
        let unrecorded = self.unrecorded.iter();
        let record = |(job, end): (&JobId, &JobEnd)| ScheduleCommand::Record {
            job: job.clone(),
            end: end.clone(),
        };
        unrecorded.map(record).collect()
    }

    /// What is to be remembered of the devices, in their order.
    pub fn health(&self) -> impl Iterator<Item = &DeviceHealth> {
        self.devices.iter().map(|device| &device.health)
    }

    /// Takes an event that happened at `now`: a time that never goes back, and means the same to
    /// the next daemon.
    pub fn handle(
        &mut self,
        event: ScheduleEvent,
        queue: &impl Queue,
        now: Duration,
    ) -> Vec<ScheduleCommand> {
        let mut commands = self.take(event, queue, now);
        for (index, device) in self.devices.iter_mut().enumerate() {
            if !self.is_stopping && device.probe_is_due(now) {
                commands.push(ScheduleCommand::Probe { device: index });
            }
        }
        commands.extend(self.place(queue, now));
        commands
    }

    fn take(
        &mut self,
        event: ScheduleEvent,
        queue: &impl Queue,
        now: Duration,
    ) -> Vec<ScheduleCommand> {
        match event {
            ScheduleEvent::Tick => {}
            ScheduleEvent::Held(is_held) => self.is_held = is_held,
            ScheduleEvent::Stop => self.is_stopping = true,
            ScheduleEvent::Tried { device, problem } => {
                if self.devices.get(device).is_some_and(Device::is_untried) {
                    return self.probed(device, problem, now);
                }
            }
            ScheduleEvent::Probed { device, problem } => return self.probed(device, problem, now),
            ScheduleEvent::Released { device, job } => {
                if self.vacate(device, &job).is_some() {
                    self.away.insert(job);
                }
            }
            ScheduleEvent::Ended {
                device,
                job,
                outcome,
            } => return self.ended(device, job, outcome, queue, now),
            ScheduleEvent::Mended { job } => {
                if let Some(epoch) = self.waiting.remove(&job) {
                    self.resumed.extend(epoch.map(|epoch| (job, epoch)));
                }
            }
            ScheduleEvent::Decided { job } => {
                self.forget(&job);
                if self.waiting.remove(&job).is_some() {
                    return vec![ScheduleCommand::Unwatch { job }];
                }
            }
            ScheduleEvent::Recorded { job } => {
                self.unrecorded.remove(&job);
                self.forget(&job);
            }
        }
        Vec::new()
    }

    fn forget(&mut self, job: &JobId) {
        self.panics.remove(job);
        self.attempts.remove(job);
        for device in &mut self.devices {
            device.health.forget(|known| known == job);
        }
    }

    fn vacate(&mut self, device: usize, job: &JobId) -> Option<Placement> {
        let device = self.devices.get_mut(device)?;
        device.placed.take_if(|placed| placed.job == *job)
    }

    fn ended(
        &mut self,
        index: usize,
        job: JobId,
        outcome: Option<LifeOutcome>,
        queue: &impl Queue,
        now: Duration,
    ) -> Vec<ScheduleCommand> {
        self.away.remove(&job);
        let placed = self.vacate(index, &job);
        let Some(device) = self.devices.get_mut(index) else {
            return Vec::new();
        };
        if placed.is_some_and(|placed| queue.progress(&job) > placed.progress) {
            device.proved(&job);
        }
        let shown = |problem| ScheduleCommand::Show {
            device: index,
            problem: Some(problem),
        };
        match outcome {
            None => return self.panicked(job, queue),
            // The next daemon goes on with what this one stops.
            Some(LifeOutcome::Over) if self.is_stopping => {}
            Some(LifeOutcome::Over) => self.forget(&job),
            Some(LifeOutcome::Ready { epoch }) => {
                self.resumed.extend(epoch.map(|epoch| (job, epoch)));
            }
            Some(LifeOutcome::WaitsOutside { epoch, cause }) => {
                self.waiting.insert(job.clone(), epoch);
                return vec![ScheduleCommand::Watch { job, cause }];
            }
            Some(LifeOutcome::DeviceUnusable { epoch, cause }) => {
                self.resumed.extend(epoch.map(|epoch| (job, epoch)));
                return vec![shown(device.unusable(cause, now))];
            }
            Some(LifeOutcome::DeviceDoubted { history, cause }) => {
                self.attempts.insert(job.clone(), history.number);
                let problem = device.doubted(job, history.attempts, &cause, now);
                return vec![shown(problem), ScheduleCommand::Probe { device: index }];
            }
            Some(LifeOutcome::Unrecorded(end)) => return self.unrecord(job, end),
        }
        Vec::new()
    }

    fn probed(
        &mut self,
        index: usize,
        problem: Option<String>,
        now: Duration,
    ) -> Vec<ScheduleCommand> {
        let device = self.devices.get_mut(index);
        let Some(problem) = device.and_then(|device| device.probed(problem, now)) else {
            return Vec::new();
        };
        vec![ScheduleCommand::Show {
            device: index,
            problem,
        }]
    }

    /// Counts a panic of what ran the job. The ledger still has the job as running, so it is taken
    /// up again, unless there were too many.
    fn panicked(&mut self, job: JobId, queue: &impl Queue) -> Vec<ScheduleCommand> {
        let count = self.panics.entry(job.clone()).or_insert(0);
        *count += 1;
        if *count < PANICS_MAX {
            return Vec::new();
        }
        let error = format!(
            "the daemon panicked {count} times while it ran the job: a bug, see the daemon's log"
        );
        let end = JobEnd {
            epoch: queue.epoch(&job),
            result: Err(error),
        };
        self.unrecord(job, end)
    }

    fn unrecord(&mut self, job: JobId, end: JobEnd) -> Vec<ScheduleCommand> {
        self.unrecorded.insert(job.clone(), end.clone());
        vec![ScheduleCommand::Record { job, end }]
    }

    /// Gives every free device the job whose turn it is.
    fn place(&mut self, queue: &impl Queue, now: Duration) -> Vec<ScheduleCommand> {
        let mut commands = Vec::new();
        if self.is_held || self.is_stopping {
            return commands;
        }
        for index in 0..self.devices.len() {
            let is_free = |device: &Device| device.is_usable() && device.placed.is_none();
            if !self.devices.get(index).is_some_and(is_free) {
                continue;
            }
            let next = turn::next(
                queue.candidates(),
                |candidate| self.is_taken(&candidate.job) || !self.may_have(index, &candidate.job),
                self.is_on_trial(queue, now),
            );
            let (Some(next), Some(device)) = (next, self.devices.get_mut(index)) else {
                continue;
            };
            device.placed = Some(Placement {
                job: next.job.clone(),
                since: now,
                progress: queue.progress(&next.job),
            });
            // A job that a user has paused or requeued since begins an epoch of its own.
            let resumed = self.resumed.remove(&next.job);
            commands.push(ScheduleCommand::Place {
                device: index,
                resumed: resumed.filter(|_| next.is_running),
                history: History {
                    attempts: device.attempts_of(&next.job).cloned().unwrap_or_default(),
                    number: self.attempts.get(&next.job).copied().unwrap_or_default(),
                },
                doubts_device: device.attempts_of(&next.job).is_none(),
                job: next.job,
            });
        }
        commands
    }

    /// Whether the job may have the device: it has not given it up, or it has given up each that is
    /// left and got nowhere further on any.
    fn may_have(&self, index: usize, job: &JobId) -> bool {
        let device = self.devices.get(index);
        let Some(here) = device.and_then(|device| device.attempts_of(job)) else {
            return true;
        };
        let is_no_better = |other: &Device| {
            let there = other.attempts_of(job);
            there.is_some_and(|there| there.progress() <= here.progress())
        };
        let mut left = self.devices.iter().filter(|device| device.is_left());
        left.all(is_no_better)
    }

    /// Whether the job is in hand already, or must not be started.
    fn is_taken(&self, job: &JobId) -> bool {
        let is_placed = |device: &Device| {
            let placed = device.placed.as_ref();
            placed.is_some_and(|placed| placed.job == *job)
        };
        self.away.contains(job)
            || self.waiting.contains_key(job)
            || self.unrecorded.contains_key(job)
            || self.devices.iter().any(is_placed)
    }

    /// Whether a suspect has just come back.
    fn is_on_trial(&self, queue: &impl Queue, now: Duration) -> bool {
        let placed = self
            .devices
            .iter()
            .filter_map(|device| device.placed.as_ref());
        let mut recent = placed.filter(|placed| now.saturating_sub(placed.since) < TRIAL_MAX);
        recent.any(|placed| queue.strikes(&placed.job) > 0)
    }
}
