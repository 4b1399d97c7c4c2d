//! Which jobs go, and how much of each: a pure function of what is known of all jobs.
//!
//! A job goes only if it has ended, nothing of its last attempt is left, and no job that stays
//! needs what would go of it. A job needs what its files are read from, and the finished stages
//! that it can still take over. Jobs that go together do not hold each other.

use r1d_link::removal::{Dependence, JobFacts, Use};
use r1d_proto::control::job::State;
use r1d_proto::control::removal::RemovalExtent;
use r1d_proto::ids::JobId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

const DAY_S: u64 = 24 * 60 * 60;

/// Which jobs are meant.
#[derive(Clone, Debug)]
pub enum Selection {
    /// These, as a whole.
    Named(BTreeSet<JobId>),
    /// Those beyond limits.
    Beyond(RetentionLimits),
}

/// What is kept of jobs that have ended.
#[derive(Clone, Debug, Default)]
pub struct RetentionLimits {
    /// Longest time since a job's end, in seconds.
    pub age_max_s: Option<u64>,
    /// The latest time up to which ages count, in seconds since the Unix epoch, where the clock may
    /// be wrong.
    pub age_until_s: Option<u64>,
    /// Most jobs that have ended.
    pub jobs_max: Option<u64>,
    /// Most bytes of jobs that have ended.
    pub bytes_max: Option<u64>,
    /// Whether a job that succeeded keeps its results.
    pub keep_final: bool,
    /// Jobs that ended so stay whole.
    pub spare: Vec<State>,
    /// Only jobs of this user go; `None`: everybody's.
    pub owner: Option<u32>,
}

/// Why a job goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A user has named it.
    Named,
    /// It ended this many seconds ago.
    Age(u64),
    /// More jobs than this have ended since.
    Count(u64),
    /// Jobs that have ended take more bytes than this.
    Bytes(u64),
}

/// Why a job that is meant stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// It has not ended.
    NotEnded {
        /// The job.
        job: JobId,
        /// Its state.
        state: State,
    },
    /// Something of its last attempt is left.
    InHand,
    /// The directory of its checkpoints is away.
    Away(PathBuf),
    /// A job that stays needs it.
    Needed {
        /// That job.
        by: JobId,
        /// That job's state.
        state: State,
        /// What it does with it.
        what: Use,
    },
}

/// A job that goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Going {
    /// The job.
    pub job: JobId,
    /// How much of it.
    pub extent: RemovalExtent,
    /// The reason.
    pub why: Reason,
    /// Jobs that go before it, as they need it: if one of them stays, this one does.
    pub needed_by: BTreeSet<JobId>,
}

/// What goes, in the order in which it has to; and what was meant and stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// The jobs that go.
    pub going: Vec<Going>,
    /// What was meant and stays, each with what is against it.
    pub staying: BTreeMap<JobId, Obstacle>,
}

/// Decides at `now_s`, in seconds since the Unix epoch. `jobs` are in the order of submission.
pub fn decide(jobs: &[JobFacts], selection: &Selection, now_s: u64) -> Decision {
    // Those that ended within one second are in the order in which they were submitted.
    let mut by_end: Vec<&JobFacts> = jobs.iter().collect();
    by_end.sort_by_key(|facts| facts.ended_at);
    let mut staying = BTreeMap::new();
    loop {
        // A job that has to stay may make room for the next one in its place.
        let is_meant = |facts: &&&JobFacts| !staying.contains_key(&facts.job);
        let candidates: Vec<&JobFacts> = by_end.iter().filter(is_meant).copied().collect();
        let going = match selection {
            Selection::Named(named) => by_name(&candidates, named),
            Selection::Beyond(limits) => beyond(&candidates, &by_end, limits, now_s),
        };
        let held = obstacles(jobs, &going);
        if held.is_empty() {
            let going = needers_first(jobs, going);
            return Decision { going, staying };
        }
        staying.extend(held);
    }
}

fn by_name(candidates: &[&JobFacts], named: &BTreeSet<JobId>) -> Vec<Going> {
    let is_named = |facts: &&&JobFacts| named.contains(&facts.job);
    let going = |facts: &&JobFacts| Going {
        job: facts.job.clone(),
        extent: RemovalExtent::Whole,
        why: Reason::Named,
        needed_by: BTreeSet::new(),
    };
    candidates.iter().filter(is_named).map(going).collect()
}

/// The jobs beyond limits. `candidates` and `all` are in the order of their ends.
fn beyond(
    candidates: &[&JobFacts],
    all: &[&JobFacts],
    limits: &RetentionLimits,
    now_s: u64,
) -> Vec<Going> {
    let has_ended = |facts: &&JobFacts| facts.state.is_final();
    let extent = |facts: &JobFacts| {
        if limits.keep_final && facts.state == State::Succeeded {
            RemovalExtent::AllButResults
        } else {
            RemovalExtent::Whole
        }
    };
    let freed = |facts: &JobFacts| match extent(facts) {
        RemovalExtent::AllButResults => facts.more_bytes,
        RemovalExtent::Whole => facts.bytes,
    };
    let can_go = |facts: &&JobFacts| {
        has_ended(facts)
            && !limits.spare.contains(&facts.state)
            && (extent(facts) == RemovalExtent::Whole || facts.has_more)
    };
    let bytes = all.iter().copied().filter(has_ended);
    let mut bytes = bytes.fold(0u64, |sum, facts| sum.saturating_add(facts.bytes));
    let mut count = all.iter().copied().filter(can_go).count() as u64;
    let now_s = now_s.min(limits.age_until_s.unwrap_or(u64::MAX));
    let mut going = Vec::new();
    for facts in candidates.iter().copied().filter(can_go) {
        let age_s = now_s.saturating_sub(facts.ended_at);
        let why = if limits.age_max_s.is_some_and(|limit| age_s >= limit) {
            Reason::Age(age_s)
        } else if let Some(limit) = limits.jobs_max.filter(|limit| count > *limit) {
            Reason::Count(limit)
        } else if let Some(limit) = limits.bytes_max.filter(|limit| bytes > *limit) {
            Reason::Bytes(limit)
        } else {
            continue;
        };
        count -= 1;
        bytes = bytes.saturating_sub(freed(facts));
        // Others' jobs are for their owners, or for administrators, to remove.
        if limits.owner.is_none() || limits.owner == facts.owner {
            going.push(Going {
                job: facts.job.clone(),
                extent: extent(facts),
                why,
                needed_by: BTreeSet::new(),
            });
        }
    }
    going
}

/// What is against each of the jobs that are to go together.
fn obstacles(jobs: &[JobFacts], going: &[Going]) -> BTreeMap<JobId, Obstacle> {
    let extents: BTreeMap<&JobId, RemovalExtent> = going
        .iter()
        .map(|going| (&going.job, going.extent))
        .collect();
    let mut found = BTreeMap::new();
    for facts in jobs {
        let own = extents.get(&facts.job);
        if own.is_some() {
            let obstacle = if !facts.state.is_final() {
                Some(Obstacle::NotEnded {
                    job: facts.job.clone(),
                    state: facts.state,
                })
            } else if facts.is_in_hand {
                Some(Obstacle::InHand)
            } else {
                facts.away.clone().map(Obstacle::Away)
            };
            found.extend(obstacle.map(|obstacle| (facts.job.clone(), obstacle)));
        }
        if own == Some(&RemovalExtent::Whole) {
            continue;
        }
        let is_lost = |need: &Dependence| match extents.get(&need.on) {
            Some(RemovalExtent::Whole) => true,
            Some(RemovalExtent::AllButResults) => !need.results_suffice,
            None => false,
        };
        for need in facts.needs.iter().filter(|need| is_lost(need)) {
            // One job that has finished a stage is enough: of several, the last one stays.
            let same = facts.needs.iter().filter(|other| other.what == need.what);
            let serves = |other: &&Dependence| !is_lost(other) || other.on > need.on;
            if matches!(need.what, Use::File(_)) || !same.into_iter().any(|other| serves(&other)) {
                let needed = || Obstacle::Needed {
                    by: facts.job.clone(),
                    state: facts.state,
                    what: need.what.clone(),
                };
                found.entry(need.on.clone()).or_insert_with(needed);
            }
        }
    }
    found
}

/// Puts each job behind those that need it: a crash between two of them leaves no job without what
/// it needs.
fn needers_first(jobs: &[JobFacts], mut going: Vec<Going>) -> Vec<Going> {
    let places: BTreeMap<JobId, usize> = going
        .iter()
        .enumerate()
        .map(|(place, going)| (going.job.clone(), place))
        .collect();
    for facts in jobs.iter().filter(|facts| places.contains_key(&facts.job)) {
        for need in &facts.needs {
            let needed = places.get(&need.on).and_then(|place| going.get_mut(*place));
            if let Some(needed) = needed {
                needed.needed_by.insert(facts.job.clone());
            }
        }
    }
    let (mut placed, mut ordered) = (BTreeSet::new(), Vec::new());
    while !going.is_empty() {
        let is_ready = |going: &mut Going| going.needed_by.is_subset(&placed);
        let mut ready: Vec<Going> = going.extract_if(.., is_ready).collect();
        if ready.is_empty() {
            // Jobs that need each other go together or not at all.
            ready.append(&mut going);
        }
        placed.extend(ready.iter().map(|going| going.job.clone()));
        ordered.append(&mut ready);
    }
    ordered
}

/// An age in the largest unit that it has two of, else one.
fn age(seconds: u64) -> String {
    let (count, unit) = match seconds {
        0..60 => return "less than a minute".into(),
        60..7200 => (seconds / 60, "minute"),
        7200..172_800 => (seconds / 3600, "hour"),
        _ => (seconds / DAY_S, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Named => f.write_str("asked for"),
            Reason::Age(seconds) => write!(f, "ended {} ago", age(*seconds)),
            Reason::Count(limit) => write!(f, "more than {limit} jobs have ended"),
            Reason::Bytes(limit) => {
                let gigabytes = limit / 1_000_000_000;
                write!(f, "jobs that have ended take more than {gigabytes} GB")
            }
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::NotEnded { job, state } => {
                let does = match state {
                    State::Running => "runs",
                    State::Paused => "is paused",
                    _ => "is queued",
                };
                write!(f, "it {does}: cancel it first, `r1ctl cancel {job}`")
            }
            Obstacle::InHand => {
                f.write_str("its last attempt is still being stopped: try again in a moment")
            }
            Obstacle::Away(dir) => write!(
                f,
                "its checkpoints are in {}, which is away: mount it, or make an empty directory \
                 there if they are gone for good",
                dir.display()
            ),
            Obstacle::Needed { by, state, what } => {
                let name = state.name();
                match what {
                    Use::File(path) => write!(f, "job {by} ({name}) needs {}", path.display())?,
                    Use::Stage(stage) => {
                        write!(f, "job {by} ({name}) can take over its stage `{stage}`")?
                    }
                }
                f.write_str(if state.is_final() {
                    ": remove both at once, or that one first"
                } else {
                    ": wait until that one has ended, or cancel it"
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A job that succeeded at this time, of 100 bytes, 60 of them more than its results.
    fn ended(job: &str, ended_at: u64) -> JobFacts {
        JobFacts {
            job: JobId(job.into()),
            owner: Some(1),
            state: State::Succeeded,
            ended_at,
            is_in_hand: false,
            away: None,
            has_more: true,
            bytes: 100,
            more_bytes: 60,
            needs: vec![],
        }
    }

    fn going(jobs: &[JobFacts], limits: RetentionLimits) -> Vec<(String, Reason)> {
        let decision = decide(jobs, &Selection::Beyond(limits), 1000);
        let going = decision.going.into_iter();
        going.map(|going| (going.job.0, going.why)).collect()
    }

    fn names(jobs: &[JobFacts], limits: RetentionLimits) -> String {
        going(jobs, limits)
            .into_iter()
            .map(|(job, _)| job)
            .collect()
    }

    #[test]
    fn an_age_is_told_in_the_unit_that_people_count_it_in() {
        let told = [0, 60, 119 * 60, 7200, 47 * 3600, 2 * DAY_S, 41 * DAY_S];
        let told = told.map(|seconds| Reason::Age(seconds).to_string());
        let ages = [
            "less than a minute",
            "1 minute",
            "119 minutes",
            "2 hours",
            "47 hours",
        ];
        let ages = ages.into_iter().chain(["2 days", "41 days"]);
        let expected: Vec<String> = ages.map(|age| format!("ended {age} ago")).collect();
        assert_eq!(told.to_vec(), expected);
    }

    #[test]
    fn each_limit_takes_the_jobs_that_ended_first() {
        let jobs = [ended("c", 900), ended("a", 100), ended("b", 500)];
        let none = RetentionLimits::default;
        assert_eq!(names(&jobs, none()), "");
        let limits = |age_max_s, jobs_max, bytes_max| RetentionLimits {
            age_max_s,
            jobs_max,
            bytes_max,
            ..none()
        };
        let expected = vec![
            ("a".into(), Reason::Age(900)),
            ("b".into(), Reason::Age(500)),
        ];
        assert_eq!(going(&jobs, limits(Some(500), None, None)), expected);
        assert_eq!(names(&jobs, limits(Some(501), None, None)), "a");
        assert_eq!(names(&jobs, limits(None, Some(1), None)), "ab");
        assert_eq!(names(&jobs, limits(None, Some(0), None)), "abc");
        assert_eq!(names(&jobs, limits(None, None, Some(299))), "a");
        assert_eq!(names(&jobs, limits(None, None, Some(100))), "ab");
        // A clock that is years ahead makes jobs no older than what is known of the time.
        let until = |age_until_s| RetentionLimits {
            age_until_s,
            ..limits(Some(300), None, None)
        };
        assert_eq!(names(&jobs, until(None)), "ab");
        assert_eq!(names(&jobs, until(Some(799))), "a");
        assert_eq!(names(&jobs, until(Some(5000))), "ab");
        // What one limit takes counts for the others.
        assert_eq!(names(&jobs, limits(Some(900), Some(2), Some(200))), "a");
        // Results stay, and so their bytes.
        let keep_final = true;
        let all = |bytes| RetentionLimits {
            keep_final,
            ..limits(None, None, Some(bytes))
        };
        assert_eq!(names(&jobs, all(240)), "a");
        assert_eq!(names(&jobs, all(239)), "ab");
        let mut bare = jobs.clone();
        bare[1].has_more = false;
        assert_eq!(names(&bare, all(240)), "b", "nothing more of it can go");
    }

    #[test]
    fn what_stays_makes_room_for_the_next() {
        let mut jobs = [ended("a", 100), ended("b", 500), ended("c", 900)];
        let one = || RetentionLimits {
            jobs_max: Some(2),
            ..RetentionLimits::default()
        };
        let file = || Dependence {
            on: JobId("a".into()),
            results_suffice: true,
            what: Use::File("/a/final".into()),
        };
        jobs[2].needs = vec![file()];
        assert_eq!(names(&jobs, one()), "b");
        // The results suffice.
        let keep_final = RetentionLimits {
            keep_final: true,
            ..one()
        };
        assert_eq!(names(&jobs, keep_final), "a");
        // Who needs it goes, too, and before it.
        let both = RetentionLimits {
            jobs_max: Some(1),
            ..one()
        };
        jobs[1].needs = vec![file()];
        jobs[2].needs = vec![];
        assert_eq!(names(&jobs, both), "ba");
        jobs[2].needs = vec![file()];
        jobs[2].state = State::Running;
        jobs[2].ended_at = 0;
        let named = ["a", "b", "c"].map(|job| JobId(job.into())).into();
        let decision = decide(&jobs, &Selection::Named(named), 1000);
        let staying: Vec<_> = decision.staying.values().collect();
        assert!(
            matches!(staying[..], [
            Obstacle::Needed { by, .. }, Obstacle::NotEnded { state: State::Running, .. }
        ] if by.0 == "c"),
            "{staying:?}"
        );
        assert_eq!(decision.going.len(), 1);
    }

    /// A held job can take a stage over from either of two: one of them may go, whichever it is.
    #[test]
    fn of_two_jobs_with_one_stage_either_may_go_and_not_both() {
        let mut held = ended("h", 0);
        held.state = State::Paused;
        let need = |on: &str| Dependence {
            on: JobId(on.into()),
            results_suffice: false,
            what: Use::Stage("warm-up".into()),
        };
        held.needs = vec![need("a"), need("b")];
        let jobs = [ended("a", 100), ended("b", 500), held];
        let named = |names: &[&str]| {
            let named = names.iter().map(|name| JobId((*name).into())).collect();
            let going = decide(&jobs, &Selection::Named(named), 1000).going;
            let names: Vec<String> = going.into_iter().map(|going| going.job.0).collect();
            names.concat()
        };
        assert_eq!(named(&["a"]), "a");
        assert_eq!(named(&["b"]), "b");
        assert_eq!(named(&["a", "b"]), "a", "one of them stays");
    }

    #[test]
    fn others_jobs_and_spared_ones_stay() {
        let mut jobs = [ended("a", 100), ended("b", 500), ended("c", 900)];
        jobs[0].owner = None;
        jobs[1].state = State::Failed;
        let limits = || RetentionLimits {
            age_max_s: Some(0),
            ..RetentionLimits::default()
        };
        let own = RetentionLimits {
            owner: Some(1),
            ..limits()
        };
        assert_eq!(names(&jobs, own), "bc");
        let spare = RetentionLimits {
            spare: vec![State::Failed],
            ..limits()
        };
        assert_eq!(names(&jobs, spare), "ac");
        jobs[0].is_in_hand = true;
        jobs[2].away = Some("/mnt".into());
        assert_eq!(names(&jobs, limits()), "b");
    }
}
