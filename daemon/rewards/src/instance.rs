//! One way to link a component of any world, to make an instance of it, and to hand it its
//! configuration.

use crate::bindings::group::{GroupReward, GroupRewardPre};
use crate::bindings::judged::{JudgedReward, JudgedRewardPre};
use crate::bindings::r1d::reward::types as guest;
use crate::bindings::{Reward, RewardPre};
use crate::memory::Memory;
use crate::world::World;
use wasmtime::Store;
use wasmtime::component::InstancePre;

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
