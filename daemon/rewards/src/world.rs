//! The three worlds of `reward-sdk/wit`.

use std::fmt;

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
