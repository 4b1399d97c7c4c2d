//! The three worlds of `reward-sdk/wit`, with one way to link a component, make an instance of it,
//! and hand it its configuration.

use crate::bindings::group::{GroupReward, GroupRewardPre};
use crate::bindings::judged::{JudgedReward, JudgedRewardPre};
use crate::bindings::r1d::reward::types as guest;
use crate::bindings::{Reward, RewardPre};
use crate::judge::Memory;
use std::fmt;
use wasmtime::Store;
use wasmtime::component::InstancePre;

/// What a plugin judges in one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum World {
    /// One completion.
    Reward,
    /// All samples of one prompt together.
    GroupReward,
    /// One completion, in two phases: the plugin first has questions for a model, then judges with
    /// the answers.
    JudgedReward,
}

impl World {
    /// Tells the world by the names of the functions that a component exports; the error names
    /// those that are missing.
    pub(crate) fn of_exports(exports: impl Fn(&str) -> bool) -> Result<World, Vec<&'static str>> {
        let world = [World::Reward, World::GroupReward, World::JudgedReward]
            .into_iter()
            .find(|world| exports(world.functions()[0]));
        let world = world.unwrap_or(World::Reward);
        let wanted = ["describe", "configure"].iter().chain(world.functions());
        let missing: Vec<&str> = wanted.copied().filter(|name| !exports(name)).collect();
        if missing.is_empty() {
            Ok(world)
        } else {
            Err(missing)
        }
    }

    /// The functions that it exports besides `describe` and `configure`; the first distinguishes it
    /// from the others.
    fn functions(self) -> &'static [&'static str] {
        match self {
            World::Reward => &["score"],
            World::GroupReward => &["score-group"],
            World::JudgedReward => &["plan", "conclude"],
        }
    }
}

impl fmt::Display for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            World::Reward => "reward",
            World::GroupReward => "group-reward",
            World::JudgedReward => "judged-reward",
        })
    }
}

/// A component whose types are checked.
#[derive(Clone)]
pub(crate) enum Linked {
    Reward(RewardPre<Memory>),
    Group(GroupRewardPre<Memory>),
    Judged(JudgedRewardPre<Memory>),
}

/// A fresh instance.
pub(crate) enum Instance {
    Reward(Reward),
    Group(GroupReward),
    Judged(JudgedReward),
}

impl Linked {
    pub(crate) fn new(world: World, component: InstancePre<Memory>) -> wasmtime::Result<Linked> {
        Ok(match world {
            World::Reward => Linked::Reward(RewardPre::new(component)?),
            World::GroupReward => Linked::Group(GroupRewardPre::new(component)?),
            World::JudgedReward => Linked::Judged(JudgedRewardPre::new(component)?),
        })
    }

    pub(crate) fn world(&self) -> World {
        match self {
            Linked::Reward(_) => World::Reward,
            Linked::Group(_) => World::GroupReward,
            Linked::Judged(_) => World::JudgedReward,
        }
    }

    pub(crate) fn instantiate(&self, store: &mut Store<Memory>) -> wasmtime::Result<Instance> {
        Ok(match self {
            Linked::Reward(pre) => Instance::Reward(pre.instantiate(store)?),
            Linked::Group(pre) => Instance::Group(pre.instantiate(store)?),
            Linked::Judged(pre) => Instance::Judged(pre.instantiate(store)?),
        })
    }
}

impl Instance {
    pub(crate) fn describe(&self, store: &mut Store<Memory>) -> wasmtime::Result<guest::Info> {
        match self {
            Instance::Reward(instance) => instance.call_describe(store),
            Instance::Group(instance) => instance.call_describe(store),
            Instance::Judged(instance) => instance.call_describe(store),
        }
    }

    pub(crate) fn configure(
        &self,
        store: &mut Store<Memory>,
        json: &str,
    ) -> wasmtime::Result<Result<(), String>> {
        match self {
            Instance::Reward(instance) => instance.call_configure(store, json),
            Instance::Group(instance) => instance.call_configure(store, json),
            Instance::Judged(instance) => instance.call_configure(store, json),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_world_is_known_by_what_it_exports() {
        let of = |names: &[&str]| World::of_exports(|name| names.contains(&name));
        assert_eq!(
            of(&["describe", "configure", "score", "cabi_extra"]),
            Ok(World::Reward)
        );
        assert_eq!(
            of(&["describe", "configure", "score-group"]),
            Ok(World::GroupReward)
        );
        assert_eq!(
            of(&["describe", "configure", "plan", "conclude"]),
            Ok(World::JudgedReward)
        );
        assert_eq!(
            of(&["describe", "configure", "plan"]),
            Err(vec!["conclude"])
        );
        assert_eq!(of(&["run"]), Err(vec!["describe", "configure", "score"]));
    }
}
