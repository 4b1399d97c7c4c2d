//! The queue: which job gets which device, and which device gets jobs.
//!
//! One job per device; a gang is a job on several, which it gets at once. The first job in turn
//! that needs more devices than are free keeps those, so no stream of smaller jobs passes it by; it
//! keeps none as long as it could not have all, because some cannot be used.
//!
//! A job that waits for people or for something outside of it has no device
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
                if self.has(device, &job) && self.vacate(&job).is_some() {
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

    /// Takes the job from all of its devices.
    fn vacate(&mut self, job: &JobId) -> Option<Placement> {
        let devices = self.devices.iter_mut();
        let placed = devices
            .filter_map(|device| device.placed.take_if(|placed| placed.job == *job))
            .collect::<Vec<_>>();
        placed.into_iter().next()
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
        let devices = self.devices_of(&job);
        let placed = self.has(index, &job).then(|| self.vacate(&job)).flatten();
        if placed.is_some_and(|placed| queue.progress(&job) > placed.progress) {
            for index in devices {
                if let Some(device) = self.devices.get_mut(index) {
                    device.proved(&job);
                }
            }
        }
        let Some(device) = self.devices.get_mut(index) else {
            return Vec::new();
        };
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

    /// The devices on which the job is.
    fn devices_of(&self, job: &JobId) -> Vec<usize> {
        let has = |index: &usize| self.has(*index, job);
        (0..self.devices.len()).filter(has).collect()
    }

    /// Whether the job is on the device.
    fn has(&self, index: usize, job: &JobId) -> bool {
        let placed = self
            .devices
            .get(index)
            .and_then(|device| device.placed.as_ref());
        placed.is_some_and(|placed| placed.job == *job)
    }

    /// Gives every free device the job whose turn it is. A gang is placed when as many devices as
    /// it needs are free at once. Until then it keeps the free ones that it may have: no job behind
    /// it gets those.
    fn place(&mut self, queue: &impl Queue, now: Duration) -> Vec<ScheduleCommand> {
        let mut commands = Vec::new();
        if self.is_held || self.is_stopping {
            return commands;
        }
        for index in 0..self.devices.len() {
            if !self.is_free(index) {
                continue;
            }
            let Some(next) = self.next_on(index, queue, now) else {
                continue;
            };
            let devices = self.gathered(index, &next, queue, now);
            if devices.len() >= next.devices {
                commands.push(self.place_on(devices, next, queue, now));
            }
        }
        commands
    }

    /// The job whose turn it is on the device.
    fn next_on(&self, index: usize, queue: &impl Queue, now: Duration) -> Option<Candidate> {
        turn::next(
            queue.candidates(),
            |candidate| self.is_taken(&candidate.job) || !self.may_wait_for(index, candidate),
            self.is_on_trial(queue, now),
        )
    }

    fn is_free(&self, index: usize) -> bool {
        let is_free = |device: &Device| device.is_usable() && device.placed.is_none();
        self.devices.get(index).is_some_and(is_free)
    }

    /// The free devices on which it is the job's turn, this one among them: as many as it needs, or
    /// fewer.
    fn gathered(
        &self,
        index: usize,
        candidate: &Candidate,
        queue: &impl Queue,
        now: Duration,
    ) -> Vec<usize> {
        let has_turn = |other: usize| {
            let next = self.next_on(other, queue, now);
            next.is_some_and(|next| next.job == candidate.job)
        };
        let is_kept = |other: &usize| *other != index && self.is_free(*other) && has_turn(*other);
        let others = (0..self.devices.len()).filter(is_kept);
        let mut devices: Vec<usize> = others.take(candidate.devices.saturating_sub(1)).collect();
        devices.push(index);
        devices.sort_unstable();
        devices
    }

    fn place_on(
        &mut self,
        devices: Vec<usize>,
        next: Candidate,
        queue: &impl Queue,
        now: Duration,
    ) -> ScheduleCommand {
        let mut attempts = None;
        for index in &devices {
            let Some(device) = self.devices.get_mut(*index) else {
                continue;
            };
            attempts = attempts.or_else(|| device.attempts_of(&next.job).cloned());
            device.placed = Some(Placement {
                job: next.job.clone(),
                since: now,
                progress: queue.progress(&next.job),
            });
        }
        // A job that a user has paused or requeued since begins an epoch of its own.
        let resumed = self.resumed.remove(&next.job);
        ScheduleCommand::Place {
            devices,
            resumed: resumed.filter(|_| next.is_running),
            doubts_device: attempts.is_none(),
            history: History {
                attempts: attempts.unwrap_or_default(),
                number: self.attempts.get(&next.job).copied().unwrap_or_default(),
            },
            job: next.job,
        }
    }

    /// Whether the job may have the device, and there are as many as it needs: in use, or free, and
    /// neither broken nor quarantined.
    fn may_wait_for(&self, index: usize, candidate: &Candidate) -> bool {
        let is_near = |other: &usize| {
            let device = self.devices.get(*other);
            device.is_some_and(Device::is_near) && self.may_have(*other, candidate)
        };
        let are_there = || (0..self.devices.len()).filter(is_near).count() >= candidate.devices;
        self.may_have(index, candidate) && (candidate.devices <= 1 || are_there())
    }

    /// Whether the job may have the device: it has not given it up, or there are not as many as it
    /// needs among those that are left which it has not given up, or on which it got further.
    fn may_have(&self, index: usize, candidate: &Candidate) -> bool {
        let device = self.devices.get(index);
        let Some(here) = device.and_then(|device| device.attempts_of(&candidate.job)) else {
            return true;
        };
        let is_better = |other: &&Device| {
            let there = other.attempts_of(&candidate.job);
            there.is_none_or(|there| there.progress() > here.progress())
        };
        let left = self.devices.iter().filter(|device| device.is_left());
        left.filter(is_better).count() < candidate.devices.max(1)
    }

    /// Whether the job is in hand already, or must not be started.
    fn is_taken(&self, job: &JobId) -> bool {
        self.away.contains(job)
            || self.waiting.contains_key(job)
            || self.unrecorded.contains_key(job)
            || !self.devices_of(job).is_empty()
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
