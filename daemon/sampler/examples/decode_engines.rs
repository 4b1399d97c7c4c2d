//! Measures decoding on a GPU by r1d's own kernels beside libtorch's operations, in turns.
//!
//! `decode_engines CONFIG.json float32|bfloat16|fp8 PROMPT NEW [own] ROWS…` initialises the model
//! at random and prints a JSON line per batch and way, top_p 1 and 0.95: tokens a second of the
//! best of three runs, prefill counted. `own` measures own kernels alone, with top_p 1.

use r1d_model::CausalLm;
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::worker::{Generate, Group, Slots};
use r1d_proto::world::{SystemClock, counter_hash};
use r1d_sampler::Sampler;
use tch::Kind;

type Error = Box<dyn std::error::Error>;

const RUNS: usize = 3;

fn main() -> Result<(), Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [config, dtype, prompt, new, batches @ ..] = &arguments[..] else {
        let usage = "usage: decode_engines CONFIG.json float32|bfloat16|fp8 PROMPT NEW [own] ROWS…";
        return Err(usage.into());
    };
    let (prompt, new): (u32, u32) = (prompt.parse()?, new.parse()?);
    let kind = match dtype.as_str() {
        "float32" => Kind::Float,
        "bfloat16" | "fp8" => Kind::BFloat16,
        other => return Err(format!("unknown dtype {other}").into()),
    };
    let device = r1d_torch::device::open("cuda:0")?;
    let mut model = CausalLm::init_on_device(&std::fs::read_to_string(config)?, device, kind)?;
    model.set_fp8(dtype == "fp8");
    let all = [(true, 1.0), (false, 1.0), (true, 0.95), (false, 0.95)];
    let (ways, batches) = match batches {
        [first, rest @ ..] if first == "own" => (&all[..1], rest),
        batches => (&all[..], batches),
    };
    for rows in batches {
        let rows: u32 = rows.parse()?;
        for &(own, top_p) in ways {
            let slots = Slots::of(rows, prompt + new);
            let sampler = Sampler::new(&model, slots, false, SystemClock::shared())?;
            let mut sampler = sampler.with_own_kernels(own);
            let request = request(&model, rows, prompt, new, top_p);
            let mut best = 0.0f64;
            for _ in 0..RUNS {
                let metrics = sampler.generate(&model, &request, &mut |_| {}, &mut |_, _| {})?;
                best = best.max(metrics["perf/sampling_throughput"]);
            }
            println!(
                "{}",
                serde_json::json!({
                    "rows": rows, "dtype": dtype, "prompt": prompt, "new": new, "top_p": top_p,
                    "own_kernels": own, "used": sampler.uses_own_kernels(),
                    "tokens_per_s": best.round(),
                })
            );
        }
    }
    Ok(())
}

fn request(model: &CausalLm, rows: u32, prompt: u32, new: u32, top_p: f32) -> Generate {
    let vocab = model.config.vocab_size as u64;
    let group = |group: u32| Group {
        prompt: group,
        row: 0,
        prompt_ids: (0..u64::from(prompt))
            .map(|i| (counter_hash(&[group.into(), i]) % vocab) as u32)
            .collect(),
        samples: (0..rows.min(8)).collect(),
    };
    Generate {
        stage: 0,
        step: 0,
        policy_version: 0,
        sampling: Sampling {
            temperature: 1.0,
            top_p,
            top_k: 0,
            keep_sampling_mask: false,
            max_completion_length: new,
            stop_ids: vec![],
            seed: 7,
        },
        record_experts: false,
        groups: (0..rows.div_ceil(8)).map(group).collect(),
    }
}
