//! `plugin inspect` and `plugin list`: what a component declares about itself.

use super::{Host, PluginError, plugin, print, test};
use r1d_plugin_cli::{InspectArgs, PluginDirs};
use r1d_proto::plugin::{About, Plugin};
use r1d_proto::shown;
use r1d_rewards::{LoadedReward, RewardError, RewardSpec, golden, signature};
use sha2::{Digest, Sha256};
use std::path::Path;

pub(super) fn run(args: &InspectArgs) -> Result<bool, PluginError> {
    let described = describe(&Host::open(&args.dirs)?, &args.plugin)?;
    print(&described)?;
    Ok(described.refused.is_none())
}

pub(super) fn list(dirs: &PluginDirs) -> Result<bool, PluginError> {
    let host = Host::open(dirs)?;
    let plugins: Vec<Plugin> = host
        .rewards
        .names()
        .iter()
        .map(|name| describe(&host, name))
        .collect::<Result<_, _>>()?;
    print(&plugins)?;
    Ok(true)
}

/// Describes a plugin, or as much as possible of a file that is not one. An error means that there
/// is no file to describe.
fn describe(host: &Host, name: &str) -> Result<Plugin, PluginError> {
    let path = host.rewards.find(&plugin(name))?;
    let bytes = r1d_rewards::read(&path)?;
    let sha256: [u8; 32] = Sha256::digest(&bytes).into();
    let spec = RewardSpec {
        plugin: r1d_rewards::Plugin::Path(path.clone()),
        ..RewardSpec::named("")
    };
    let (about, refused) = match host.rewards.unconfigured(&spec) {
        Ok(reward) => (Some(about(&reward, &sha256)?), None),
        Err(error @ (RewardError::Engine(_) | RewardError::Cache { .. })) => {
            return Err(error.into());
        }
        Err(error) => (None, Some(shown::line(&error.to_string()))),
    };
    Ok(Plugin {
        plugin: r1d_job::reward::plugin_stem(name),
        file: absolute(&path),
        bytes: bytes.len() as u64,
        sha256: sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
        about,
        refused,
    })
}

fn about(reward: &LoadedReward, sha256: &[u8; 32]) -> Result<About, PluginError> {
    let info = reward.info().clone();
    let signers =
        signature::signers(reward.path(), sha256).map_err(|source| PluginError::File {
            path: signature::beside(reward.path()),
            source,
        })?;
    let cases = test::own_cases(reward)?.map_or(0, |jsonl| golden::count(&jsonl));
    Ok(About {
        name: info.name,
        version: info.version,
        world: reward.world().to_string(),
        min: info.min,
        max: info.max,
        parts: info.parts,
        golden_cases: cases as u64,
        signed_by: signers.iter().map(ToString::to_string).collect(),
    })
}

fn absolute(path: &Path) -> String {
    std::path::absolute(path)
        .unwrap_or_else(|_| path.into())
        .display()
        .to_string()
}
