//! `plugin bench`: the cost of a plugin on one core.

use super::{Host, PluginError, SomeAnswer, input, print, score::ms};
use r1d_plugin_cli::BenchArgs;
use r1d_proto::plugin::{Benched, BenchedInput};
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Completion, LoadedReward, Member};
use std::time::Duration;

/// Completions between two looks at the clock, and members of a group.
const BATCH: usize = 16;
/// Most durations that are kept for the percentiles.
const SAMPLES_MAX: usize = 1_000_000;

pub(super) fn run(args: &BenchArgs) -> Result<bool, PluginError> {
    let (subject, limit) = (&args.subject, Duration::from_secs(args.seconds.into()));
    let host = Host::open(&subject.dirs)?;
    host.load(subject)?;
    let start = host.clock.now();
    let reward = host.load(subject)?;
    let load = host.clock.now().saturating_sub(start);
    let mut sets: Vec<(String, Vec<Member>)> = Vec::new();
    match &args.cases {
        Some(path) => sets.push((path.display().to_string(), input::read(path)?)),
        None => {
            sets.extend(texts().map(|(name, text)| (name.to_owned(), vec![member(&text); BATCH])))
        }
    }
    let inputs = sets
        .iter()
        .filter(|(_, members)| !members.is_empty())
        .map(|(name, members)| measure(&host, &reward, name, members, limit))
        .collect::<Result<_, _>>()?;
    print(&Benched {
        plugin: reward.info().name.clone(),
        load_ms: ms(load),
        inputs,
    })?;
    Ok(true)
}

fn texts() -> impl Iterator<Item = (&'static str, String)> {
    let thought =
        |bytes: usize| "so 12 times 7 is 84 and then we add the rest of them ".repeat(bytes / 53);
    let text = move |bytes| format!("<think>{} 6 * 7</think><answer>42</answer>", thought(bytes));
    [("short", 0), ("4 KB", 4 << 10), ("64 KB", 64 << 10)]
        .into_iter()
        .map(move |(name, bytes)| (name, text(bytes)))
}

fn member(text: &str) -> Member {
    let completion = Completion {
        id: 0,
        prompt: "What is 6 * 7?".into(),
        text: text.into(),
        reference: Some("42".into()),
        tokens: u32::try_from(text.len() / 4).unwrap_or(u32::MAX),
        finish: FinishReason::Stop,
        meta: None,
    };
    Member {
        completion,
        group: "0".into(),
    }
}

/// Judges all members, again and again until the time is over.
fn measure(
    host: &Host,
    reward: &LoadedReward,
    name: &str,
    members: &[Member],
    wanted: Duration,
) -> Result<BenchedInput, PluginError> {
    let (mut took, mut fuel, mut count, mut unscored) = (Vec::new(), 0u64, 0u64, 0u64);
    let start = host.clock.now();
    let mut spent = Duration::ZERO;
    while spent < wanted || count == 0 {
        reward.judge_all(members, &SomeAnswer, 1, |_, judged| {
            fuel = fuel.saturating_add(judged.fuel);
            count += 1;
            unscored += u64::from(!matches!(judged.outcome, Outcome::Score { .. }));
            if took.len() < SAMPLES_MAX {
                took.push(judged.took);
            }
            true
        })?;
        spent = host.clock.now().saturating_sub(start);
    }
    took.sort_unstable();
    let percentile = |p: usize| {
        took.get((took.len() * p / 100).min(took.len() - 1))
            .copied()
            .unwrap_or_default()
    };
    let bytes = members
        .iter()
        .map(|member| (member.completion.prompt.len() + member.completion.text.len()) as u64)
        .sum::<u64>();
    let bytes = bytes / members.len() as u64;
    let fuel_per_completion = fuel / count;
    Ok(BenchedInput {
        input: name.into(),
        completions: count,
        bytes,
        fuel_per_completion,
        fuel_per_kb: fuel_per_completion.saturating_mul(1024) / bytes.max(1),
        completions_per_s: (count as f64 / spent.as_secs_f64() * 10.0).round() / 10.0,
        p50_ms: ms(percentile(50)),
        p99_ms: ms(percentile(99)),
        unscored,
    })
}
