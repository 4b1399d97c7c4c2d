//! Which component judges at which step of a job: those that it was submitted with, and those that
//! replaced them since ([`crate::reload`]).
//!
//! The ledger records from which step on a component judges ([`RewardVersion`]), so a step that is
//! done again after a crash is judged as before (`RWD-3`). The components themselves are kept under
//! the state directory, by their hash: once a job is accepted, the files that it names do not
//! matter any more.

use r1d_job::Reward;
use r1d_job::reward::Plugin;
use r1d_ledger::{JobRecord, RewardVersion};
use r1d_rewards::{LoadedReward, RewardSpec};
use r1d_runner::{DeclaredScores, ScoreItem, Source};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use tokio::sync::RwLock;

/// A place in a job: stage, and step from 0.
pub(crate) type StepRef = (u32, u64);

/// A job's reward versions in the ledger, and the job's next step.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    reward_versions: Vec<RewardVersion>,
    /// The step that is done next, or again.
    next: StepRef,
    /// Whether the versions are a client's pins.
    is_pinned: bool,
}

/// Letters of a hash that tell it apart from others.
const HASH_SHOWN: usize = 12;

impl Recorded {
    pub(crate) fn of(record: &JobRecord) -> Recorded {
        Recorded {
            reward_versions: record.reward_versions.to_vec(),
            next: next_place(record),
            is_pinned: false,
        }
    }

    /// The versions of a job that is being submitted with pins: SHA-256 by plugin.
    pub(crate) fn pinned(pins: BTreeMap<String, String>) -> Recorded {
        let reward_version = |(plugin, sha256)| RewardVersion {
            plugin,
            sha256,
            stage: 0,
            step: 0,
            at: 0,
        };
        Recorded {
            reward_versions: pins.into_iter().map(reward_version).collect(),
            next: (0, 0),
            is_pinned: true,
        }
    }

    /// What to say where the plugin names a component with the hash `now`: another one judges.
    /// `None` if none does, or if the job's user has had it replaced.
    pub(crate) fn judges_instead(&self, plugin: &str, now: &str) -> Option<String> {
        let of_plugin = |version: &&RewardVersion| version.plugin == plugin;
        let mut versions = self.reward_versions.iter().filter(of_plugin);
        let (Some(judge), None) = (versions.next(), versions.next()) else {
            return None;
        };
        let short = |hash: &str| hash.chars().take(HASH_SHOWN).collect::<String>();
        let (now, judge, is_same) = (
            short(now),
            short(&judge.sha256),
            judge.sha256.eq_ignore_ascii_case(now),
        );
        if is_same {
            None
        } else if self.is_pinned {
            Some(format!(
                "{plugin} is now {now}…, r1.lock pins {judge}…, which judges this job; \
                 --update-lock takes the new one"
            ))
        } else {
            Some(format!(
                "{plugin} is now {now}…, and the job was submitted with {judge}…, which judges \
                 it; `r1ctl plugin reload` takes the new one"
            ))
        }
    }

    /// The hash of the component that judges the next step; `None` means the file that the job
    /// names.
    pub(crate) fn first(&self, plugin: &str) -> Option<String> {
        let due = |reward_version: &&RewardVersion| {
            reward_version.plugin == plugin
                && (reward_version.stage, reward_version.step) <= self.next
        };
        self.reward_versions
            .iter()
            .rfind(due)
            .map(|reward_version| reward_version.sha256.clone())
    }

    /// The versions that judge later steps.
    pub(crate) fn later(&self, plugin: &str) -> Vec<RewardVersion> {
        let later = |reward_version: &&RewardVersion| {
            reward_version.plugin == plugin
                && (reward_version.stage, reward_version.step) > self.next
        };
        self.reward_versions.iter().filter(later).cloned().collect()
    }
}

/// The step at work, or the first of the next stage.
fn next_place(record: &JobRecord) -> StepRef {
    let next_stage = (record.progress.stages.len() as u32, 0);
    record
        .stage_at_work()
        .map_or(next_stage, |(stage, work)| (stage, work.step))
}

/// A reward that is ready to judge.
pub(crate) struct JobReward {
    pub reward: Reward,
    /// The index of its components in [`RewardVersions`].
    pub number: usize,
    pub facts: DeclaredScores,
}

impl JobReward {
    /// How the reward's plugin is to be loaded, whichever component it is.
    pub(crate) fn spec(&self) -> RewardSpec {
        spec(&self.reward)
    }
}

/// How the plugin of a reward is to be loaded.
pub(crate) fn spec(reward: &Reward) -> RewardSpec {
    let plugin = match &reward.plugin {
        Plugin::Named(name) => r1d_rewards::Plugin::Named(name.clone()),
        Plugin::Path(path) => r1d_rewards::Plugin::Path(path.clone()),
    };
    let wanted = reward.limits;
    let limits = r1d_rewards::Limits {
        fuel: wanted.fuel,
        memory_mb: wanted.memory_mb,
        wall_ms: wanted.wall_ms,
        hostcall_bytes: Some((wanted.hostcall_kb as usize) << 10),
    };
    RewardSpec {
        plugin,
        sha256: reward.sha256.clone(),
        config_json: reward.config_json.clone(),
        limits,
    }
}

/// The components that judge for one reward, each with the step from which it judges.
pub(crate) struct VersionHistory {
    first: LoadedReward,
    later: Vec<(StepRef, LoadedReward)>,
}

impl VersionHistory {
    pub(crate) fn new(first: LoadedReward) -> VersionHistory {
        VersionHistory {
            first,
            later: Vec::new(),
        }
    }

    /// Adds a component that judges from this step on; steps are added in ascending order.
    pub(crate) fn set(&mut self, from: StepRef, reward: LoadedReward) {
        self.later.retain(|(known, _)| *known < from);
        self.later.push((from, reward));
    }

    /// Drops the components that judge no step from `next` on.
    fn forget_before(&mut self, next: StepRef) {
        let due = self
            .later
            .iter()
            .take_while(|(from, _)| *from <= next)
            .count();
        if let Some((_, reward)) = self.later.drain(..due).next_back() {
            self.first = reward;
        }
    }

    fn at(&self, place: StepRef) -> &LoadedReward {
        self.later
            .iter()
            .rev()
            .find(|(from, _)| *from <= place)
            .map_or(&self.first, |(_, reward)| reward)
    }

    fn newest(&self) -> &LoadedReward {
        self.later.last().map_or(&self.first, |(_, reward)| reward)
    }
}

/// The components that judge an open job, and how far judging has come.
pub(crate) struct RewardVersions {
    /// The histories by [`JobReward::number`].
    versions: Vec<VersionHistory>,
    /// The last step of which a completion was judged.
    judged: Mutex<Option<StepRef>>,
}

impl RewardVersions {
    pub(crate) fn new(versions: Vec<VersionHistory>) -> RwLock<RewardVersions> {
        RwLock::new(RewardVersions {
            versions,
            judged: Mutex::new(None),
        })
    }

    /// The components for completions of one step. Evaluations belong to no step and get the
    /// newest.
    pub(crate) fn of(
        &self,
        judges: &[&JobReward],
        of: Source,
        items: &[ScoreItem],
    ) -> Vec<LoadedReward> {
        let place = match (of, items.first()) {
            (Source::Stage(_), Some(item)) => Some((item.key.stage, item.key.step)),
            _ => None,
        };
        if place.is_some() {
            let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
            *judged = place.max(*judged);
        }
        let versions = judges
            .iter()
            .filter_map(|judge| self.versions.get(judge.number));
        versions
            .map(|versions| {
                place
                    .map_or_else(|| versions.newest(), |place| versions.at(place))
                    .clone()
            })
            .collect()
    }

    /// The component that judged first for the reward of this number.
    pub(crate) fn first(&self, number: usize) -> Option<&LoadedReward> {
        Some(&self.versions.get(number)?.first)
    }

    /// The component that judges last for the reward of this number.
    pub(crate) fn newest(&self, number: usize) -> Option<&LoadedReward> {
        Some(self.versions.get(number)?.newest())
    }

    /// Adds a component that judges from a step on for the reward of this number; those that judge
    /// no step of what the record has to come are dropped.
    pub(crate) fn set(
        &mut self,
        number: usize,
        from: StepRef,
        reward: LoadedReward,
        record: &JobRecord,
    ) {
        if let Some(versions) = self.versions.get_mut(number) {
            versions.forget_before(next_place(record));
            versions.set(from, reward);
        }
    }

    /// The first step of which no completion has been judged.
    pub(crate) fn untouched(&self, record: &JobRecord) -> StepRef {
        let judged = *self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match record.stage_at_work() {
            Some((stage, work)) => (stage, work.step + 1),
            None => next_place(record),
        };
        judged.map_or(next, |(stage, step)| next.max((stage, step + 1)))
    }
}
