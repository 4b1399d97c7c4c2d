//! r1d's side of `tests/bench/decode_cpu` and `decode_gpu`: loads a model once and decodes batches
//! on request, so that a bench can alternate between it and a peer.
//!
//! `decode_server DIR float32|bfloat16 THREADS DEVICE [--mkl-intel-kernels] [--prediction]` reads
//! one JSON object a line, `{"prompts": [[id, …], …], "new_tokens": N, "temperature": T,
//! "invariant": false, "speculative": false}`, and answers each with `{"seconds": wall,
//! "cpu_seconds": user + system, "ids": [[id, …], …], "draft_acceptance_rate": share or null}`.
//! With `--prediction` the model is loaded with its multi-token prediction module.

use r1d_model::CausalLm;
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::worker::{Generate, Group, Slots};
use r1d_proto::world::SystemClock;
use r1d_sampler::Sampler;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};
use tch::Kind;

type Error = Box<dyn std::error::Error>;

/// State that is the same for all batches of a bench.
struct Server {
    model: CausalLm,
    /// Samplers by slots, capacity, and whether they are batch-invariant and speculative.
    samplers: BTreeMap<(u32, u32, bool, bool), Sampler>,
}

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [dir, dtype, threads, device, switches @ ..] = &arguments[..] else {
        return Err("usage: decode_server DIR float32|bfloat16 THREADS DEVICE \
                    [--mkl-intel-kernels] [--prediction]"
            .into());
    };
    // The worker does this too.
    r1d_torch::mkl::use_intel_kernels(
        switches
            .iter()
            .any(|switch| switch == "--mkl-intel-kernels"),
    );
    let device = r1d_torch::device::open(device)?;
    r1d_torch::runtime::set_deterministic(true)?;
    r1d_torch::runtime::set_flush_denormal(true);
    let kind = match dtype.as_str() {
        "float32" => Kind::Float,
        "bfloat16" => Kind::BFloat16,
        other => return Err(format!("unknown dtype {other}").into()),
    };
    r1d_torch::runtime::set_threads(threads.parse()?)?;
    let prediction = switches.iter().any(|switch| switch == "--prediction");
    let load = if prediction {
        CausalLm::load_with_prediction
    } else {
        CausalLm::load
    };
    let mut server = Server {
        model: load(dir.as_ref(), device, kind)?,
        samplers: BTreeMap::new(),
    };
    for line in std::io::stdin().lock().lines() {
        let answer = server.answer(&serde_json::from_str(&line?)?)?;
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &answer)?;
        writeln!(out)?;
        out.flush()?;
    }
    Ok(())
}

impl Server {
    fn answer(&mut self, batch: &serde_json::Value) -> Result<serde_json::Value, Error> {
        let prompts: Vec<Vec<u32>> = serde_json::from_value(batch["prompts"].clone())?;
        let new_tokens: u32 = serde_json::from_value(batch["new_tokens"].clone())?;
        let temperature: f32 = serde_json::from_value(batch["temperature"].clone())?;
        let invariant: bool = serde_json::from_value(batch["invariant"].clone())?;
        let (count, longest) = (
            prompts.len() as u32,
            prompts.iter().map(Vec::len).max().unwrap_or(0) as u32,
        );
        let group = |(prompt, ids): (usize, Vec<u32>)| Group {
            prompt: prompt as u32,
            row: 0,
            prompt_ids: ids,
            samples: vec![0],
        };
        let request = Generate {
            stage: 0,
            step: 0,
            policy_version: 0,
            sampling: Sampling {
                temperature,
                top_p: 1.0,
                top_k: 0,
                keep_sampling_mask: false,
                max_completion_length: new_tokens,
                stop_ids: vec![],
                seed: 0,
            },
            record_experts: false,
            groups: prompts.into_iter().enumerate().map(group).collect(),
        };
        let speculative = batch["speculative"].as_bool().unwrap_or(false);
        let key = (count, longest + new_tokens, invariant, speculative);
        if !self.samplers.contains_key(&key) {
            let slots = Slots::of(key.0, key.1);
            let sampler = Sampler::new(&self.model, slots, invariant, SystemClock::shared())?;
            self.samplers
                .insert(key, sampler.with_speculation(speculative));
        }
        let sampler = self.samplers.get_mut(&key).ok_or("no sampler")?;
        let mut ids = vec![vec![]; count as usize];
        let before = cpu_seconds()?;
        let metrics = sampler.generate(
            &self.model,
            &request,
            &mut |r| ids[r.key.prompt as usize] = r.completion_ids,
            &mut |_, _| {},
        )?;
        Ok(serde_json::json!({
            "seconds": metrics["timing_s/sampling"],
            "cpu_seconds": cpu_seconds()? - before,
            "ids": ids,
            "draft_acceptance_rate": metrics.get("perf/draft_acceptance_rate"),
        }))
    }
}

/// User and system time of all threads of this process, in steps of the kernel's tick (10 ms).
fn cpu_seconds() -> Result<f64, Error> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields 14 and 15, counted behind the parenthesised name.
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or("")
        .split_whitespace()
        .collect();
    let ticks = |i: usize| {
        fields
            .get(i)
            .and_then(|field| field.parse::<f64>().ok())
            .ok_or("unexpected /proc/self/stat")
    };
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}
