//! `plugin test`: golden cases through the sandbox.

use super::{Bench, PluginError, print, read};
use crate::cli::Subject;
use r1d_proto::plugin::{Difference, Tested};
use r1d_rewards::{LoadedReward, golden};
use std::path::Path;

pub fn run(subject: &Subject, file: Option<&Path>) -> Result<bool, PluginError> {
    let bench = Bench::open(&subject.dirs)?;
    let reward = bench.load_unconfigured(subject)?;
    let jsonl = match file {
        Some(path) => read(path)?,
        None => own_cases(&reward)?.ok_or_else(|| PluginError::NoGolden { plugin: subject.plugin.clone() })?,
    };
    let report = golden::run(&reward, &jsonl)?;
    let differing: Vec<_> = report.differing.into_iter().map(|(case, difference)| Difference { case, difference }).collect();
    let passed = differing.is_empty() && report.cases > 0;
    print(&Tested { plugin: reward.info().name.clone(), cases: report.cases as u64, differing })?;
    Ok(passed)
}

pub fn own_cases(reward: &LoadedReward) -> Result<Option<String>, PluginError> {
    let path = reward.path();
    let bytes = std::fs::read(path).map_err(|source| PluginError::Read { path: path.into(), source })?;
    Ok(golden::embedded(&bytes).map(String::from))
}
