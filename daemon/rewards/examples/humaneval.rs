//! `humaneval PLUGIN_DIR HUMANEVAL_JSONL [THREADS]` prints what the reward `code` costs on the
//! canonical solutions of HumanEval, as JSON lines. See tests/bench/rewards.

use r1d_proto::rollout::FinishReason;
use r1d_proto::verdict::Outcome;
use r1d_proto::world::{SharedClock, SystemClock};
use r1d_rewards::{Compiler, Completion, Judged, LoadedReward, Options, RewardSpec, Rewards};
use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

/// Number of times that the smallest program is judged. What it costs is the instance and the
/// interpreter's start.
const SMALLEST_TIMES: u32 = 200;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let usage = "usage: humaneval PLUGIN_DIR HUMANEVAL_JSONL [THREADS]";
    let (dir, rows) = (
        PathBuf::from(args.next().ok_or(usage)?),
        PathBuf::from(args.next().ok_or(usage)?),
    );
    let threads = args.next().map_or(Ok(1), |threads| threads.parse())?;
    let problems = problems(&std::fs::read_to_string(rows)?)?;
    let clock: SharedClock = SystemClock::shared();
    let cache = std::env::temp_dir().join(format!("r1d-humaneval-{}", std::process::id()));
    let open = || {
        let (plugin_dirs, cache_dir) = (vec![dir.clone()], Some(cache.clone()));
        Rewards::open(Options {
            plugin_dirs,
            cache_dir,
            threads,
            compiler: Compiler::InProcess,
            clock: clock.clone(),
        })
    };
    let timed = |work: &dyn Fn() -> Result<LoadedReward,
        Box<dyn Error>>| -> Result<(LoadedReward, f64), Box<dyn Error>> {
        let start = clock.now();
        let result = work()?;
        Ok((result, ms(clock.now() - start)))
    };
    let rewards = open()?;
    let load = || Ok(rewards.load(&RewardSpec::named("code"))?);
    let (_, cold) = timed(&load)?;
    let (reward, cached) = timed(&load)?;
    println!(
        "{}",
        serde_json::json!({ "plugin": "code", "cold_load_ms": cold, "cached_load_ms": cached })
    );

    let smallest = completion("```python\nf = abs\n```".into(), "assert f(-1) == 1".into());
    let mut took = Vec::new();
    for _ in 0..SMALLEST_TIMES {
        took.push(reward.score(&smallest)?);
    }
    print("the smallest program", 1, &took, None);
    let start = clock.now();
    let judged = all(&rewards, &reward, &problems)?;
    let wall = clock.now() - start;
    let failed = judged
        .iter()
        .filter(|judged| !matches!(judged.outcome, Outcome::Score { value: 1.0, .. }))
        .count();
    if failed > 0 {
        return Err(format!("{failed} canonical solutions do not pass").into());
    }
    print("HumanEval", threads, &judged, Some(wall));
    // One problem in a hundred is a thousand times the median: it says little about the rest.
    let mut by_fuel = judged;
    by_fuel.sort_by_key(|judged| judged.fuel);
    by_fuel.truncate(by_fuel.len() * 95 / 100);
    print("HumanEval without the slowest 5 %", threads, &by_fuel, None);
    Ok(std::fs::remove_dir_all(cache)?)
}

fn problems(rows: &str) -> Result<Vec<Completion>, Box<dyn Error>> {
    let problem = |row: &str| {
        let row: serde_json::Value = serde_json::from_str(row)?;
        let [prompt, solution, test, entry] =
            ["prompt", "canonical_solution", "test", "entry_point"]
                .map(|key| row[key].as_str().unwrap_or_default());
        Ok(completion(
            format!("```python\n{prompt}{solution}```"),
            format!("{test}\ncheck({entry})"),
        ))
    };
    rows.lines().map(problem).collect()
}

fn completion(text: String, reference: String) -> Completion {
    let reference = Some(reference);
    Completion {
        id: 0,
        prompt: String::new(),
        text,
        reference,
        tokens: 1,
        finish: FinishReason::Stop,
        meta: None,
    }
}

/// Judges on the pool; the problems are fewer than its queue holds.
fn all(
    rewards: &Rewards,
    reward: &LoadedReward,
    problems: &[Completion],
) -> Result<Vec<Judged>, Box<dyn Error>> {
    let (sender, receiver) = std::sync::mpsc::channel();
    for problem in problems {
        let sender = sender.clone();
        rewards
            .pool()
            .try_submit(reward.clone(), problem.clone(), move |judged| {
                drop(sender.send(judged))
            })?;
    }
    drop(sender);
    Ok(receiver.iter().collect::<Result<_, _>>()?)
}

fn print(input: &str, threads: usize, judged: &[Judged], wall: Option<Duration>) {
    let mut fuel: Vec<f64> = judged
        .iter()
        .map(|judged| judged.fuel as f64 / 1e6)
        .collect();
    let mut took: Vec<f64> = judged.iter().map(|judged| ms(judged.took)).collect();
    let total: f64 = took.iter().sum();
    let quantiles = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        let at = |share: f64| {
            values
                .get((share * (values.len() - 1) as f64).round() as usize)
                .copied()
                .unwrap_or_default()
        };
        serde_json::json!({ "min": at(0.0), "median": at(0.5), "p90": at(0.9), "p99": at(0.99),
            "max": at(1.0) })
    };
    println!(
        "{}",
        serde_json::json!({
            "plugin": "code", "input": input, "completions": judged.len(), "threads": threads,
            "completions_per_s_per_thread": (judged.len() as f64 / total * 1e4).round() / 10.0,
            "completions_per_s": wall.map(|wall| (judged.len() as f64 / wall.as_secs_f64() * 10.0)
                .round() / 10.0),
            "million_fuel": quantiles(&mut fuel), "ms": quantiles(&mut took),
        })
    );
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
