//! `plugin check`: a daemon's requirements of a plugin, repeated verdicts, its golden cases, and
//! the attack corpus.

use super::{Host, PluginError, SomeAnswer, print, score::ms, test};
use r1d_plugin_cli::Subject;
use r1d_proto::plugin::{Check, Checked, VerdictKind};
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use r1d_rewards::{Completion, Judged, LoadedReward, Member, attacks, golden};

pub(super) fn run(subject: &Subject) -> Result<bool, PluginError> {
    let host = Host::open(&subject.dirs)?;
    // Loading refuses imports, other worlds, an invalid range, and files that are too large.
    let reward = host.load(subject)?;
    let info = reward.info();
    let mut checks = vec![
        check(
            "component",
            true,
            format!(
                "imports nothing, world {}, {} {}",
                reward.world(),
                info.name,
                info.version
            ),
        ),
        check(
            "size",
            true,
            format!(
                "{} bytes, the limit is {}",
                size(&reward)?,
                r1d_rewards::FILE_BYTES_MAX
            ),
        ),
        check("range", true, format!("{} to {}", info.min, info.max)),
        golden_cases(&reward)?,
        repeats(&reward)?,
    ];
    checks.extend(attacked(&host, &reward)?);
    let passed = checks.iter().all(|check| check.passed);
    print(&Checked {
        plugin: info.name.clone(),
        passed,
        checks,
    })?;
    Ok(passed)
}

fn check(name: &str, passed: bool, found: String) -> Check {
    Check {
        check: name.into(),
        passed,
        found,
    }
}

fn size(reward: &LoadedReward) -> Result<u64, PluginError> {
    let path = reward.path();
    Ok(std::fs::metadata(path)
        .map_err(|source| PluginError::Read {
            path: path.into(),
            source,
        })?
        .len())
}

fn golden_cases(reward: &LoadedReward) -> Result<Check, PluginError> {
    let Some(jsonl) = test::own_cases(reward)? else {
        return Ok(check(
            "golden cases",
            true,
            "it brings none: a hot reload cannot try it first".into(),
        ));
    };
    let report = golden::run(reward, &jsonl)?;
    let found = match report.differing.first() {
        None => format!("{} as expected", report.cases),
        Some((case, difference)) => format!(
            "{} of {} differ, first {case}: {difference}",
            report.differing.len(),
            report.cases
        ),
    };
    Ok(check("golden cases", report.differing.is_empty(), found))
}

fn member(text: &str, reference: &str) -> Member {
    let completion = Completion {
        id: 0,
        prompt: "What is 3 + 4?".into(),
        text: text.into(),
        reference: Some(reference.into()),
        tokens: 1,
        finish: FinishReason::Stop,
        meta: None,
    };
    Member {
        completion,
        group: "0".into(),
    }
}

/// Checks that the same completion gets the same verdict for the same fuel each time.
fn repeats(reward: &LoadedReward) -> Result<Check, PluginError> {
    const TIMES: usize = 20;
    let members = [member("<think>3 + 4 is 7</think><answer>7</answer>", "7")];
    let mut seen: Vec<(Outcome, u64)> = Vec::new();
    for _ in 0..TIMES {
        reward.judge_all(&members, &SomeAnswer, 1, |_, judged| {
            seen.push((judged.outcome, judged.fuel));
            true
        })?;
    }
    let same = seen.windows(2).all(|pair| pair.first() == pair.last());
    let found = match (same, seen.first()) {
        (true, Some((outcome, fuel))) => format!(
            "{TIMES} times {} for {fuel} fuel",
            VerdictKind::of(outcome).name()
        ),
        _ => "verdicts or fuel differ from call to call".into(),
    };
    Ok(check("same verdict again", same, found))
}

/// Scores each attack text once as completion and once as reference. Any verdict will do, but there
/// must be one.
fn attacked(host: &Host, reward: &LoadedReward) -> Result<Vec<Check>, PluginError> {
    let texts = attacks::texts();
    // Each member is alone in its group, so that one cannot affect the verdicts of others.
    let alone = |(i, member): (usize, Member)| Member {
        group: i.to_string(),
        ..member
    };
    let as_completion = texts.iter().map(|(_, text)| member(text, "7"));
    let members: Vec<Member> = as_completion
        .chain(
            texts
                .iter()
                .map(|(_, text)| member("<answer>7</answer>", text)),
        )
        .enumerate()
        .map(alone)
        .collect();
    let mut judged: Vec<Judged> = Vec::new();
    reward.judge_all(&members, &SomeAnswer, host.threads, |_, one| {
        judged.push(one);
        true
    })?;
    let (completions, references) = judged.split_at(texts.len().min(judged.len()));
    let verdict = |(name, judged): (String, &Judged)| {
        let kind = VerdictKind::of(&judged.outcome);
        let why = match &judged.outcome {
            Outcome::Score { value, .. } => format!(" {value}"),
            Outcome::Abstain { reason } | Outcome::Trap { reason } => format!(": {reason}"),
            Outcome::OutOfFuel | Outcome::OutOfTime => String::new(),
        };
        let found = format!(
            "{}{why} ({} fuel, {} ms)",
            kind.name(),
            judged.fuel,
            ms(judged.took)
        );
        check(
            &name,
            matches!(kind, VerdictKind::Score | VerdictKind::Abstain),
            found,
        )
    };
    let named = |prefix: &'static str| {
        texts
            .iter()
            .map(move |(name, _)| format!("{prefix}: {name}"))
    };
    Ok(named("completion")
        .zip(completions)
        .chain(named("reference").zip(references))
        .map(verdict)
        .collect())
}
