//! `throughput PLUGIN_DIR [THREADS]`: what the shipped plugins cost, as JSON lines. See tests/bench/rewards.

use r1d_proto::rollout::FinishReason;
use r1d_proto::world::{Clock, SharedClock, SystemClock};
use r1d_rewards::{Compiler, Completion, LoadedReward, Options, RewardSpec, Rewards};
use std::path::PathBuf;
use std::time::Duration;

const COMPLETIONS: u32 = 20_000;
/// Kept below the queue's bound.
const IN_FLIGHT: u32 = 512;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().ok_or("usage: throughput PLUGIN_DIR [THREADS]")?);
    let threads = args.next().map_or(Ok(1), |threads| threads.parse())?;
    let clock: SharedClock = SystemClock::shared();
    let cache = std::env::temp_dir().join(format!("r1d-throughput-{}", std::process::id()));
    let open = || {
        let (plugin_dirs, cache_dir) = (vec![dir.clone()], Some(cache.clone()));
        Rewards::open(Options { plugin_dirs, cache_dir, threads, compiler: Compiler::InProcess, clock: clock.clone() })
    };
    // `code` runs programs: see the example humaneval.
    for name in open()?.names().into_iter().filter(|name| name != "code") {
        let spec = RewardSpec::named(&name);
        let rewards = open()?;
        let (_, cold) = timed(&*clock, || rewards.load(&spec));
        let (reward, cached) = timed(&*clock, || rewards.load(&spec));
        let reward = reward?;
        for (kind, text) in texts() {
            let judged = reward.score(&completion(&text))?;
            let (_, took) = timed(&*clock, || run(&rewards, &reward, &text));
            println!(
                "{}",
                serde_json::json!({
                    "plugin": name, "input": kind, "bytes": text.len(), "threads": threads,
                    "completions_per_s": (COMPLETIONS as f64 / took.as_secs_f64()).round(),
                    "fuel": judged.fuel, "cold_load_ms": ms(cold), "cached_load_ms": ms(cached),
                })
            );
        }
        let poison = format!(r"<answer>{}</answer>", r"\boxed{".repeat(150_000));
        let (judged, took) = timed(&*clock, || reward.score(&completion(&poison)));
        println!("{}", serde_json::json!({ "plugin": name, "input": "1 MB of open boxes", "fuel": judged?.fuel, "ms": ms(took) }));
    }
    Ok(std::fs::remove_dir_all(cache)?)
}

fn texts() -> [(&'static str, String); 2] {
    let thought = "so 12 times 7 is 84 and then we add the rest of them ".repeat(4096 / 53);
    [("short", "<think>6 * 7</think><answer>42</answer>".into()), ("4 KB", format!("<think>{thought}</think><answer>42</answer>"))]
}

fn completion(text: &str) -> Completion {
    let (prompt, reference) = ("What is 6 * 7?".into(), Some("42".into()));
    Completion { id: 0, prompt, text: text.into(), reference, tokens: 1, finish: FinishReason::Stop, meta: None }
}

/// Judges on the pool, a bounded number at a time.
fn run(rewards: &Rewards, reward: &LoadedReward, text: &str) {
    let (sender, receiver) = std::sync::mpsc::channel();
    let submit = || {
        let sender = sender.clone();
        rewards.pool().try_submit(reward.clone(), completion(text), move |judged| drop(sender.send(judged)))
    };
    let mut in_flight = 0;
    for _ in 0..COMPLETIONS {
        while in_flight >= IN_FLIGHT {
            in_flight -= u32::from(receiver.recv().is_ok());
        }
        in_flight += u32::from(submit().is_ok());
    }
    receiver.iter().take(in_flight as usize).for_each(drop);
}

fn timed<T>(clock: &dyn Clock, work: impl FnOnce() -> T) -> (T, Duration) {
    let start = clock.now();
    let result = work();
    (result, clock.now() - start)
}

fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
