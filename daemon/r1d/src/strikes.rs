//! Decides which job gets a free device.
//!
//! Jobs that were running when the daemon ended come first, then the queue. If the daemon ended
//! without a clean stop, one of the jobs that it worked for may be the cause, and it is unknown
//! which: each of them is suspected ([`r1d_ledger::Strikes`]) until something of it is committed.
//! Suspects come back one at a time, so that the one that ends the daemon again is known, and the
//! others lose nothing by it. The more often a job was at work when the daemon ended, the later it
//! comes.

use r1d_ledger::{JobRecord, State};
use r1d_proto::control::State as RunState;
use r1d_proto::ids::JobId;
use std::collections::HashSet;
use std::time::Duration;

/// A job is given up after this many ends of the daemon in a row while it worked for the job and
/// committed nothing of it (`LIM-1`). An operator's kill looks like the job's doing, and a step may
/// take long, so this is more than any series of kills by hand.
pub(crate) const STRIKES_MAX: u32 = 12;
/// A suspect that has been at work for this long did not end the daemon by being read or begun: the
/// next one may come.
pub(crate) const TRIAL_MAX: Duration = Duration::from_secs(300);

/// The turn of a job; lower is earlier.
fn turn(record: &JobRecord) -> u32 {
    match (record.state(), record.strikes.count) {
        (RunState::Running, count @ 0..=1) => count,
        (_, count) => 2 + count,
    }
}

/// The job for a free device. `taken` jobs are at work already or must not be started; `on_trial`
/// says whether a suspect is at work.
pub(crate) fn next(state: &State, taken: &HashSet<&JobId>, on_trial: bool) -> Option<JobId> {
    let running = state.running();
    let first = running
        .iter()
        .chain(state.queued())
        .filter(|record| !taken.contains(record.job()))
        .min_by_key(|record| turn(record))?;
    // The devices of jobs that were running are kept for them. Only other suspects come after them.
    let waits = on_trial && first.strikes.count > 0;
    (!waits).then(|| first.job().clone())
}

/// Why the job is given up; `None` if it is not.
pub(crate) fn given_up(record: &JobRecord) -> Option<String> {
    let count = record.strikes.count;
    (count >= STRIKES_MAX).then(|| {
        format!(
            "the daemon ended {count} times in a row while it worked for this job, and nothing of \
             the job was committed in between: it takes more memory than there is, or makes the \
             daemon abort (the daemon's and the kernel's log say which); submit it again when \
             that is mended"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_ledger::Command;

    fn id(name: &str) -> JobId {
        JobId(name.into())
    }

    fn apply(state: &mut State, command: Command) {
        state.apply(&command).unwrap();
    }

    fn submit(state: &mut State, job: &str) {
        let (reward_versions, keys) = Default::default();
        let (name, job_toml) = ("n".into(), "seed = 1".into());
        let job = id(job);
        apply(
            state,
            Command::Submit {
                job,
                name,
                priority: 0,
                job_toml,
                request: None,
                reward_versions,
                keys,
                reuses: false,
                owner: None,
                held: false,
                at: 1,
            },
        );
    }

    fn start(state: &mut State, job: &str) {
        apply(state, Command::TakeUp { job: id(job) });
        apply(
            state,
            Command::Start {
                job: id(job),
                at: 2,
            },
        );
    }

    /// The daemon ends without a clean stop, and the next one begins.
    fn crash(state: &mut State) {
        for record in state
            .jobs()
            .iter()
            .filter(|record| record.strikes.taken_up && !record.state().is_final())
        {
            apply(
                state,
                Command::Strike {
                    job: record.job().clone(),
                },
            );
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

    fn next_of(state: &State, taken: &[&str], on_trial: bool) -> Option<String> {
        let taken: Vec<JobId> = taken.iter().map(|job| id(job)).collect();
        next(state, &taken.iter().collect(), on_trial).map(|job| job.0)
    }

    #[test]
    fn after_a_clean_stop_all_running_jobs_go_on_at_once() {
        let mut state = State::default();
        ["a", "b", "c"]
            .iter()
            .for_each(|job| submit(&mut state, job));
        ["a", "b"].iter().for_each(|job| start(&mut state, job));
        ["a", "b"]
            .iter()
            .for_each(|job| apply(&mut state, Command::PutDown { job: id(job) }));
        crash(&mut state);
        assert_eq!(next_of(&state, &[], false).as_deref(), Some("a"));
        assert_eq!(next_of(&state, &["a"], false).as_deref(), Some("b"));
        assert_eq!(next_of(&state, &["a", "b"], false).as_deref(), Some("c"));
    }

    #[test]
    fn after_a_crash_they_come_back_one_at_a_time_and_keep_their_devices() {
        let mut state = State::default();
        ["a", "b", "c"]
            .iter()
            .for_each(|job| submit(&mut state, job));
        ["a", "b"].iter().for_each(|job| start(&mut state, job));
        crash(&mut state);
        assert_eq!(next_of(&state, &[], false).as_deref(), Some("a"));
        start(&mut state, "a");
        assert_eq!(
            next_of(&state, &["a"], true),
            None,
            "b waits for its turn, and c does not take b's device"
        );
        commit(&mut state, "a");
        assert_eq!(next_of(&state, &["a"], false).as_deref(), Some("b"));
    }

    /// The whole story: one job ends the daemon each time that it is taken up, and the others lose
    /// at most the time until it is given up.
    #[test]
    fn a_job_that_ends_the_daemon_is_found_and_given_up() {
        for (jobs, devices) in [(1, 1), (2, 1), (3, 2), (5, 3)] {
            let mut state = State::default();
            let names: Vec<String> = (0..jobs).map(|i| format!("job{i}")).collect();
            names.iter().for_each(|job| submit(&mut state, job));
            let poison = names[0].as_str();
            let mut crashes = 0;
            'daemon: loop {
                let mut at_work: Vec<JobId> = Vec::new();
                while at_work.len() < devices {
                    let on_trial = at_work
                        .iter()
                        .any(|job| state.job(job).unwrap().strikes.count > 0);
                    let Some(job) = next(&state, &at_work.iter().collect(), on_trial) else {
                        break;
                    };
                    if given_up(state.job(&job).unwrap()).is_some() {
                        break 'daemon;
                    }
                    start(&mut state, &job.0);
                    at_work.push(job);
                }
                // The harmless jobs commit if they have the time; the other one ends the daemon.
                if at_work.iter().any(|job| job.0 == poison) {
                    crashes += 1;
                    assert!(
                        crashes < 20,
                        "{jobs} jobs on {devices} devices: never given up"
                    );
                    crash(&mut state);
                    continue;
                }
                for job in at_work {
                    commit(&mut state, &job.0);
                    apply(&mut state, Command::Cancel { job, at: 4 });
                }
            }
            for record in state.jobs() {
                let is_poison = record.job().0 == poison;
                assert_eq!(
                    given_up(&record).is_some(),
                    is_poison,
                    "{jobs} jobs on {devices} devices: {:?}",
                    record.job()
                );
            }
            assert_eq!(crashes, STRIKES_MAX, "{jobs} jobs on {devices} devices");
        }
    }

    #[test]
    fn a_queued_job_that_ended_the_daemon_comes_behind_the_others() {
        let mut state = State::default();
        ["a", "b"].iter().for_each(|job| submit(&mut state, job));
        // The job was being read, and never started.
        apply(&mut state, Command::TakeUp { job: id("a") });
        crash(&mut state);
        assert_eq!(next_of(&state, &[], false).as_deref(), Some("b"));
        assert_eq!(next_of(&state, &["b"], false).as_deref(), Some("a"));
    }
}
