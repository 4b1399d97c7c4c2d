//! `plugin test`: golden cases through the sandbox.

use super::{Host, PluginError, print, read};
use r1d_plugin_cli::TestArgs;
use r1d_proto::plugin::{Difference, Tested};
use r1d_rewards::{LoadedReward, golden};

pub(super) fn run(
    TestArgs {
        subject,
        golden: file,
    }: &TestArgs,
) -> Result<bool, PluginError> {
    let host = Host::open(&subject.dirs)?;
    let reward = host.load_unconfigured(subject)?;
    let jsonl = match file {
        Some(path) => read(path)?,
        None => own_cases(&reward)?.ok_or_else(|| PluginError::NoGolden {
            plugin: subject.plugin.clone(),
        })?,
    };
    let report = golden::run(&reward, &jsonl)?;
    let differing: Vec<_> = report
        .differing
        .into_iter()
        .map(|(case, difference)| Difference { case, difference })
        .collect();
    let passed = differing.is_empty() && report.cases > 0;
    print(&Tested {
        plugin: reward.info().name.clone(),
        cases: report.cases as u64,
        differing,
    })?;
    Ok(passed)
}

pub(super) fn own_cases(reward: &LoadedReward) -> Result<Option<String>, PluginError> {
    Ok(golden::of_file(reward.path())?)
}
