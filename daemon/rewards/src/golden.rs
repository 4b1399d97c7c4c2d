//! A component's own golden cases (`reward_sdk::golden`). They are inside it, in a custom section,
//! so that its hash and its signature cover them and a daemon can try a new version before it
//! judges anything.
//!
//! ```text
//! component … | 0x00 | length (LEB128) | 10 | "r1d:golden" | JSON lines
//! ```

use crate::completion::{Ask, Completion, Judged};
use crate::component;
use crate::error::{ComponentizeError, RewardError, ScoreError};
use crate::limits::TRIAL_MS_MAX;
use crate::loaded::LoadedReward;
use crate::world::World;
use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use reward_sdk::Finish;
use reward_sdk::golden::{self, Case, Expected};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const SECTION: &[u8] = b"r1d:golden";
/// Largest size of a component's golden cases, which are a few texts, not a data set.
pub const GOLDEN_BYTES_MAX: usize = 4 << 20;
/// Bytes of magic, version and layer.
const HEADER_BYTES: usize = 8;
const CUSTOM: u8 = 0;

/// The result of judging a plugin's golden cases.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GoldenReport {
    /// Number of cases.
    pub cases: usize,
    /// Names of the cases that got another verdict than they expect, each with the difference.
    pub differing: Vec<(String, String)>,
}

/// Returns the component with these cases in place of any that it had.
pub fn embed(component: &[u8], jsonl: &str) -> Result<Vec<u8>, ComponentizeError> {
    if jsonl.len() > GOLDEN_BYTES_MAX {
        return Err(ComponentizeError::Golden(format!(
            "{} bytes, the limit is {GOLDEN_BYTES_MAX}",
            jsonl.len()
        )));
    }
    golden::parse(jsonl).map_err(ComponentizeError::Golden)?;
    let broken =
        || ComponentizeError::NotModule("its sections do not end where they should".into());
    let mut bytes = component.get(..HEADER_BYTES).ok_or_else(broken)?.to_vec();
    for section in sections(component) {
        let section = section.ok_or_else(broken)?;
        if section.cases().is_none() {
            bytes.extend_from_slice(section.whole);
        }
    }
    bytes.push(CUSTOM);
    write_leb(&mut bytes, 1 + SECTION.len() + jsonl.len());
    write_leb(&mut bytes, SECTION.len());
    bytes.extend_from_slice(SECTION);
    bytes.extend_from_slice(jsonl.as_bytes());
    Ok(bytes)
}

/// The golden cases inside a component, as JSON lines; `None` if it has none.
pub fn embedded(component: &[u8]) -> Option<&str> {
    let found = sections(component)
        .map_while(|section| section)
        .find_map(|section| section.cases())?;
    std::str::from_utf8(found)
        .ok()
        .filter(|text| text.len() <= GOLDEN_BYTES_MAX)
}

/// The golden cases inside a component's file, as JSON lines; `None` if it has none.
pub fn of_file(path: &Path) -> Result<Option<String>, RewardError> {
    Ok(embedded(&component::read(path)?).map(String::from))
}

/// Number of cases in these lines; 0 if they cannot be parsed.
pub fn count(jsonl: &str) -> usize {
    golden::parse(jsonl).map_or(0, |cases| cases.len())
}

/// Number of completions that are tried for a question.
const TRIED_MAX: usize = 64;

/// Returns the first question that a judged reward asks, under its own configuration, about a
/// completion: one in the R1-Zero form, or one of its golden cases. `None` if it asks about none of
/// them, which proves little.
pub fn first_question(reward: &LoadedReward) -> Result<Option<Ask>, RewardError> {
    let reward = reward.on_trial();
    let failed = |why: String| RewardError::Golden {
        path: reward.path().into(),
        why,
    };
    let plain = Completion {
        id: 0,
        prompt: "What is 3 + 4?".into(),
        text: "<think>3 + 4 is 7</think><answer>7</answer>".into(),
        reference: Some("7".into()),
        tokens: 1,
        finish: FinishReason::Stop,
        meta: None,
    };
    let cases = of_file(reward.path())?
        .and_then(|jsonl| golden::parse(&jsonl).ok())
        .unwrap_or_default();
    let (began, cases_max) = (reward.now(), Duration::from_millis(TRIAL_MS_MAX));
    for completion in std::iter::once(plain)
        .chain(cases.iter().map(completion_of))
        .take(TRIED_MAX)
    {
        if reward.now().saturating_sub(began) > cases_max {
            return Err(failed(format!(
                "asked for its questions, it takes longer than {} s",
                cases_max.as_secs()
            )));
        }
        if let Ok(asks) = reward
            .plan(&completion)
            .map_err(|e| failed(e.to_string()))?
            && let Some(ask) = asks.into_iter().next()
        {
            return Ok(Some(ask));
        }
    }
    Ok(None)
}

/// Judges every case, each under its own configuration. For a plugin that is [on
/// trial](LoadedReward::on_trial), all together may take [`TRIAL_MS_MAX`].
pub fn run(reward: &LoadedReward, jsonl: &str) -> Result<GoldenReport, RewardError> {
    let refused = |why| RewardError::Golden {
        path: reward.path().into(),
        why,
    };
    let cases = golden::parse(jsonl).map_err(refused)?;
    let mut configured: BTreeMap<String, Result<LoadedReward, RewardError>> = BTreeMap::new();
    let mut report = GoldenReport {
        cases: cases.len(),
        differing: Vec::new(),
    };
    let (began, cases_max) = (reward.now(), Duration::from_millis(TRIAL_MS_MAX));
    let units: Vec<&[Case]> = if reward.world() == World::GroupReward {
        golden::groups(&cases).collect()
    } else {
        cases.chunks(1).collect()
    };
    for unit in units {
        let Some(first) = unit.first() else { continue };
        if reward.is_on_trial() && reward.now().saturating_sub(began) > cases_max {
            return Err(refused(format!(
                "they take longer than {} s together: bring fewer, or quicker ones",
                cases_max.as_secs()
            )));
        }
        let config = first.config_json();
        let reward = configured
            .entry(config.clone())
            .or_insert_with(|| reward.with_config(&config));
        let verdicts = match reward {
            Ok(reward) => judge(reward, unit).map_err(|e| refused(e.to_string()))?,
            Err(e) => unit.iter().map(|_| Err(e.to_string())).collect(),
        };
        report.differing.extend(
            unit.iter()
                .zip(verdicts)
                .filter_map(|(case, verdict)| Some((case.name.clone(), differs(case, verdict)?))),
        );
    }
    Ok(report)
}

fn judge(reward: &LoadedReward, unit: &[Case]) -> Result<Vec<Result<Judged, String>>, ScoreError> {
    let completions: Vec<Completion> = unit.iter().map(completion_of).collect();
    match (reward.world(), unit, completions.as_slice()) {
        (World::GroupReward, ..) => Ok(reward
            .score_group(&completions)?
            .into_iter()
            .map(Ok)
            .collect()),
        (World::JudgedReward, [case], [completion]) => Ok(vec![match reward.plan(completion)? {
            Ok(asks) if asks.len() != case.answers.len() => Err(format!(
                "it asks {} questions, the case has {} answers",
                asks.len(),
                case.answers.len()
            )),
            Ok(_) => Ok(reward.conclude(
                completion,
                &case.answers.iter().map(Result::from).collect::<Vec<_>>(),
            )?),
            Err(judged) => Ok(judged),
        }]),
        (_, _, completions) => completions
            .iter()
            .map(|completion| reward.score(completion).map(Ok))
            .collect(),
    }
}

fn completion_of(case: &Case) -> Completion {
    let native = case.completion();
    Completion {
        id: native.id,
        prompt: native.prompt,
        text: native.text,
        reference: native.reference,
        tokens: native.tokens,
        finish: if native.finish == Finish::Length {
            FinishReason::Length
        } else {
            FinishReason::Stop
        },
        meta: native.meta,
    }
}

fn differs(case: &Case, verdict: Result<Judged, String>) -> Option<String> {
    let judged = match verdict {
        Ok(judged) => judged,
        Err(why) => return Some(why),
    };
    match &judged.outcome {
        Outcome::Score { value, parts } => {
            case.expect
                .differs(Expected::Score, *value, parts, judged.reason.as_deref())
        }
        Outcome::Abstain { reason } => {
            case.expect
                .differs(Expected::Abstain, 0.0, &[], Some(reason))
        }
        Outcome::Trap { reason } => case.expect.differs(Expected::Trap, 0.0, &[], Some(reason)),
        Outcome::OutOfFuel => Some("out of fuel".into()),
        Outcome::OutOfTime => Some("out of time".into()),
    }
}

struct Section<'a> {
    id: u8,
    /// The section with its id and length.
    whole: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Section<'a> {
    fn cases(&self) -> Option<&'a [u8]> {
        let (name_length, rest) = read_leb(self.payload)?;
        let (name, cases) = rest.split_at_checked(name_length)?;
        (self.id == CUSTOM && name == SECTION).then_some(cases)
    }
}

/// The top-level sections. If the bytes end too early, the last item is `None`.
fn sections(component: &[u8]) -> impl Iterator<Item = Option<Section<'_>>> {
    let mut rest = component.get(HEADER_BYTES..).unwrap_or_default();
    std::iter::from_fn(move || {
        let section = next_section(rest);
        let (&id, _) = rest.split_first()?;
        let Some((payload, after)) = section else {
            rest = &[];
            return Some(None);
        };
        let whole = &rest[..rest.len() - after.len()];
        rest = after;
        Some(Some(Section { id, whole, payload }))
    })
}

fn next_section(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = read_leb(bytes.get(1..)?)?;
    rest.split_at_checked(length)
}

/// Reads an unsigned LEB128 of at most 32 bits; returns it and the bytes behind it.
fn read_leb(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let mut value = 0u64;
    for (i, byte) in bytes.iter().take(5).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((
                usize::try_from(u32::try_from(value).ok()?).ok()?,
                bytes.get(i + 1..)?,
            ));
        }
    }
    None
}

fn write_leb(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push(value as u8 & 0x7f | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &[u8] = b"\0asm\x0d\0\x01\0";
    const CASE: &str = r#"{"case": "a", "completion": "b", "expect": {"score": 1}}"#;

    #[test]
    fn cases_travel_in_the_component_and_are_replaced() {
        let once = embed(EMPTY, CASE).unwrap();
        assert_eq!(embedded(&once), Some(CASE));
        let long = format!("{CASE}\n").repeat(300);
        let twice = embed(&once, &long).unwrap();
        assert_eq!(embedded(&twice), Some(long.as_str()));
        assert_eq!(
            embed(&twice, CASE).unwrap(),
            once,
            "the same bytes for the same cases"
        );
        assert_eq!(embedded(EMPTY), None);
    }

    #[test]
    fn what_is_cut_off_or_no_case_is_refused() {
        let whole = embed(EMPTY, CASE).unwrap();
        for end in 0..whole.len() {
            assert_eq!(embedded(&whole[..end]), None, "cut to {end}");
            assert!(
                embed(&whole[..end], CASE).is_err() || end == EMPTY.len(),
                "cut to {end}"
            );
        }
        assert!(embed(EMPTY, "{}").is_err());
        assert!(embed(EMPTY, &" ".repeat(GOLDEN_BYTES_MAX + 1)).is_err());
        let endless = [EMPTY, &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]].concat();
        assert_eq!(embedded(&endless), None);
    }
}
