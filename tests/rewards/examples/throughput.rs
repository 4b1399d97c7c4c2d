//! `throughput PLUGIN_DIR`: measures the shipped plugins and prints JSON lines.
//! `tests/bench/rewards/run` runs it.
//!
//! For each plugin and configuration: `load` (compile, or take from the cache; make an instance and
//! configure it), `throughput` for two lengths of completions (the sandbox on one core and on all,
//! the same Rust code natively on one), and `poison`: how much one hostile text among 64
//! completions of 4 KB costs them, for the worst text of the attack corpus, by name. Times of a
//! poison are the least of three runs.

use r1d_proto::world::{Clock, SharedClock, SystemClock};
use r1d_reward_tests::shipped::{PLUGINS, for_host, natively};
use r1d_rewards::{
    Answers, Ask, Compiler, Judged, LoadedReward, Member, Options, RewardSpec, Rewards, World,
    attacks,
};
use reward_sdk::Completion;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Failure = Box<dyn std::error::Error>;

const BATCH: usize = 64;
const GROUP: usize = 16;
/// The place of the poisoned completion in a batch.
const POISONED: usize = 21;
const REPEATS: usize = 3;
const CONFIGURED_TIMES: u32 = 200;
/// Duration of each measurement of throughput.
const WANTED: Duration = Duration::from_millis(800);
const ANSWER: &str = "0.5";

struct Model;

impl Answers for Model {
    fn answer(&self, _: &Ask) -> Option<Result<String, String>> {
        Some(Ok(ANSWER.into()))
    }
}

fn main() -> Result<(), Failure> {
    let dir = PathBuf::from(
        std::env::args()
            .nth(1)
            .ok_or("usage: throughput PLUGIN_DIR")?,
    );
    let clock: SharedClock = SystemClock::shared();
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    for (name, config) in PLUGINS {
        let spec = RewardSpec {
            config_json: config.into(),
            ..RewardSpec::named(name)
        };
        let (rewards, reward) = load(&*clock, &dir, cores, &spec)?;
        let measured = Measured {
            clock: &*clock,
            name,
            config,
            reward: &reward,
        };
        for (input, bytes) in [("short", 0), ("4 KB", 4 << 10)] {
            measured.throughput(input, bytes, cores)?;
        }
        measured.poison()?;
        drop(rewards);
    }
    Ok(())
}

fn load(
    clock: &dyn Clock,
    dir: &Path,
    threads: usize,
    spec: &RewardSpec,
) -> Result<(Rewards, LoadedReward), Failure> {
    let cache = std::env::temp_dir().join(format!("r1d-throughput-{}", std::process::id()));
    let rewards = Rewards::open(Options {
        plugin_dirs: vec![dir.into()],
        cache_dir: Some(cache.clone()),
        threads,
        compiler: Compiler::InProcess,
        clock: SystemClock::shared(),
    })?;
    let (cold, cold_took) = timed(clock, || rewards.load(spec));
    let (reward, cached_took) = timed(clock, || rewards.load(spec));
    std::fs::remove_dir_all(cache)?;
    let (cold, reward) = (cold?, reward?);
    let (configured, took) = timed(clock, || {
        (0..CONFIGURED_TIMES).try_for_each(|_| cold.with_config(&spec.config_json).map(drop))
    });
    configured?;
    let bytes = std::fs::metadata(reward.path())?.len();
    println!(
        "{}",
        json!({
            "measured": "load", "plugin": reward.info().name, "config": spec.config_json,
                "bytes": bytes,
                "cold_load_ms": ms(cold_took),
            "cached_load_ms": ms(cached_took),
                "instantiate_and_configure_us": round(
                took.as_secs_f64() * 1e6 / f64::from(CONFIGURED_TIMES)),
        })
    );
    Ok((rewards, reward))
}

struct Measured<'a> {
    clock: &'a dyn Clock,
    name: &'a str,
    config: &'a str,
    reward: &'a LoadedReward,
}

impl Measured<'_> {
    fn throughput(&self, input: &str, bytes: usize, cores: usize) -> Result<(), Failure> {
        let completions = completions(bytes);
        let members = members(&completions);
        let one = self.rate(|| self.alone(&members))?;
        let all = self.rate(|| self.judge(&members, cores).map(drop))?;
        let native = natively(self.name, self.config)?;
        let native = self.rate(|| {
            completions
                .chunks(GROUP)
                .for_each(|group| drop(native(group, ANSWER)));
            Ok(())
        })?;
        let fuel = self
            .judge(&members, 1)?
            .iter()
            .map(|judged| judged.fuel)
            .sum::<u64>()
            / BATCH as u64;
        println!(
            "{}",
            json!({
                "measured": "throughput", "plugin": self.name, "config": self.config,
                    "input": input,
                "bytes": completions.first().map_or(0, |completion| completion.text.len()),
                    "fuel": fuel,
                "completions_per_s_per_core": one.round(), "cores": cores,
                    "completions_per_s_all_cores": all.round(),
                "native_completions_per_s_per_core": native.round(),
                    "native_over_sandbox": round(native / one),
            })
        );
        Ok(())
    }

    /// Judges on this thread, without a queue.
    fn alone(&self, members: &[Member]) -> Result<(), Failure> {
        let answers = [Ok(ANSWER.to_owned())];
        for group in members.chunks(GROUP) {
            let completions = group.iter().map(|member| &member.completion);
            match self.reward.world() {
                World::Reward => completions
                    .map(|completion| self.reward.score(completion))
                    .try_for_each(|judged| judged.map(drop))?,
                World::GroupReward => self
                    .reward
                    .score_group(&completions.cloned().collect::<Vec<_>>())
                    .map(drop)?,
                World::JudgedReward => {
                    for completion in completions {
                        if self.reward.plan(completion)?.is_ok() {
                            self.reward.conclude(completion, &answers)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Completions per second, measured in batches.
    fn rate(&self, batch: impl Fn() -> Result<(), Failure>) -> Result<f64, Failure> {
        let start = self.clock.now();
        let (mut batches, mut spent) = (0u32, Duration::ZERO);
        while spent < WANTED {
            batch()?;
            batches += 1;
            spent = self.clock.now().saturating_sub(start);
        }
        Ok(f64::from(batches) * BATCH as f64 / spent.as_secs_f64())
    }

    fn poison(&self) -> Result<(), Failure> {
        let clean = members(&completions(4 << 10));
        let (expected, clean_took) = self.least(&clean)?;
        let (mut added, mut changed) = (Vec::new(), 0);
        for (attack, text) in attacks::texts() {
            let mut batch = clean.clone();
            if let Some(member) = batch.get_mut(POISONED) {
                member.completion.text = text;
            }
            let (found, took) = self.least(&batch)?;
            let others = found
                .iter()
                .zip(&expected)
                .enumerate()
                .filter(|(i, _)| *i != POISONED);
            changed += others
                .filter(|(_, (found, expected))| {
                    (&found.outcome, &found.reason) != (&expected.outcome, &expected.reason)
                })
                .count();
            added.push((took.saturating_sub(clean_took), attack));
        }
        added.sort();
        let worst = added.last().cloned().unwrap_or_default();
        println!(
            "{}",
            json!({
                "measured": "poison", "plugin": self.name, "config": self.config, "batch": BATCH,
                    "clean_batch_ms": ms(clean_took),
                "attacks": added.len(),
                    "added_ms_median": ms(added.get(added.len() / 2)
                    .map_or(Duration::ZERO, |(took, _)| *took)),
                "added_ms_max": ms(worst.0), "worst": worst.1, "other_verdicts_changed": changed,
            })
        );
        Ok(())
    }

    fn least(&self, members: &[Member]) -> Result<(Vec<Judged>, Duration), Failure> {
        let (mut judged, mut least) = (Vec::new(), Duration::MAX);
        for _ in 0..REPEATS {
            let (found, took) = timed(self.clock, || self.judge(members, 1));
            (judged, least) = (found?, least.min(took));
        }
        Ok((judged, least))
    }

    fn judge(&self, members: &[Member], threads: usize) -> Result<Vec<Judged>, Failure> {
        let mut all = Vec::with_capacity(members.len());
        self.reward
            .judge_all(members, &Model, threads, |_, judged| {
                all.push(judged);
                true
            })?;
        Ok(all)
    }
}

/// Makes thoughts of about `bytes` bytes; every third answer is wrong.
fn completions(bytes: usize) -> Vec<Completion> {
    let thought = "so 12 times 7 is 84 and then we add the rest of them ";
    let completion = |i: usize| Completion {
        id: i as u64,
        prompt: "What is 6 * 7?".into(),
        text: format!(
            "<think>{}6 * 7</think><answer>{}</answer>",
            thought.repeat(bytes / thought.len()),
            if i.is_multiple_of(3) { 41 } else { 42 }
        ),
        reference: Some("42".into()),
        tokens: 10 + (i % GROUP) as u32,
        ..Completion::default()
    };
    (0..BATCH).map(completion).collect()
}

fn members(completions: &[Completion]) -> Vec<Member> {
    let member = |(i, completion): (usize, &Completion)| Member {
        completion: for_host(completion),
        group: (i / GROUP).to_string(),
    };
    completions.iter().enumerate().map(member).collect()
}

fn timed<T>(clock: &dyn Clock, work: impl FnOnce() -> T) -> (T, Duration) {
    let start = clock.now();
    let result = work();
    (result, clock.now().saturating_sub(start))
}

fn ms(duration: Duration) -> f64 {
    round(duration.as_secs_f64() * 1e3)
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
