//! Time of decoding steps and of training passes on the CPU, one JSON line per row:
//! `cargo run --release -p r1d-model --example speed -- CONFIG.json [THREADS [decode|train]]`
#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use r1d_model::{CausalLm, Forward, Packed, Places, token_logprobs};
use std::time::Instant;
use tch::{Device, Kind, Tensor};

const REPEATS: usize = 9;
const PROMPT: i64 = 64;
const CAPACITY: i64 = 192;

/// Medians of wall time and of this thread's processor time, in milliseconds; the latter is
/// meaningful on a busy machine too.
fn median_ms(mut work: impl FnMut()) -> [f64; 2] {
    work();
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..REPEATS {
        let (start, processor) = (Instant::now(), thread_ms());
        work();
        times[0].push(start.elapsed().as_secs_f64() * 1e3);
        times[1].push(thread_ms() - processor);
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[REPEATS / 2]
    })
}

fn thread_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse::<f64>().unwrap() * 1e-6
}

fn decode(model: &CausalLm, batch: i64, invariant: bool) -> [f64; 2] {
    let packed = model.pack().unwrap();
    let options = Forward {
        invariant,
        packed: Some(&packed),
        record_experts: true,
        ..Forward::default()
    };
    let mut cache = model.cache(batch, CAPACITY, invariant).unwrap();
    let ids = Tensor::randint(model.config.vocab_size, [batch], (Kind::Int64, Device::Cpu));
    let slots = cache.select(&(0..batch).collect::<Vec<_>>()).unwrap();
    let positions = Tensor::full([batch], PROMPT, (Kind::Int64, Device::Cpu));
    tch::no_grad(|| {
        median_ms(|| {
            let out = model
                .decode(
                    &ids,
                    &Places {
                        slots: &slots,
                        positions: &positions,
                        max_position: 2 * PROMPT,
                    },
                    &mut cache,
                    &options,
                )
                .unwrap();
            let _ = model.logits(&out.hidden, &options).unwrap();
        })
    })
}

/// Runs forward and backward over sequences of half to once `length`.
fn train(model: &CausalLm, tokens: i64, length: i64) -> [f64; 2] {
    let mut lengths = Vec::new();
    while lengths.iter().sum::<i64>() < tokens {
        let next = length / 2 + (lengths.len() as i64 * 37) % (length / 2 + 1);
        lengths.push(next.min(tokens - lengths.iter().sum::<i64>()));
    }
    let ids = Tensor::randint(
        model.config.vocab_size,
        [tokens],
        (Kind::Int64, Device::Cpu),
    );
    let batch = Packed::new(ids.shallow_clone(), lengths);
    let parameters: Vec<Tensor> = model.parameters().into_iter().map(|p| p.1).collect();
    median_ms(|| {
        let hidden = model.forward(&batch, &Forward::default()).unwrap().hidden;
        let loss = token_logprobs(
            &model.logits(&hidden, &Forward::default()).unwrap(),
            &ids,
            1.0,
        )
        .unwrap()
        .mean(Kind::Float);
        loss.backward();
        r1d_torch::foreach::clear_gradients(&parameters).unwrap();
    })
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let config = std::fs::read_to_string(arguments.next().expect("CONFIG.json")).unwrap();
    let threads = arguments.next().map_or(1, |n| n.parse().unwrap());
    let only = arguments.next();
    let wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    r1d_torch::mkl::use_intel_kernels(std::env::var_os("INTEL_KERNELS").is_some());
    r1d_torch::runtime::set_threads(threads).unwrap();
    let model = CausalLm::init(&config, 1, Device::Cpu, Kind::Float).unwrap();
    let parameters = model.summary().parameters;
    for batch in [1, 32, 128, 256] {
        for invariant in [false, true] {
            if invariant && threads > 1 || !wanted("decode") {
                continue;
            }
            let [ms, cpu_ms] = decode(&model, batch, invariant);
            let per_second = batch as f64 / ms * 1e3;
            println!(
                r#"{{"decode":{batch},"invariant":{invariant},"threads":{threads},"parameters":{parameters},"ms":{ms:.3},"thread_cpu_ms":{cpu_ms:.3},"tokens_per_s":{per_second:.0}}}"#
            );
        }
    }
    model.set_requires_grad(true);
    for (tokens, length) in [(512, 64), (2048, 64), (8192, 64), (2048, 256), (8192, 1024)] {
        if !wanted("train") {
            continue;
        }
        let [ms, cpu_ms] = train(&model, tokens, length);
        let per_second = tokens as f64 / ms * 1e3;
        println!(
            r#"{{"train":{tokens},"length":{length},"threads":{threads},"ms":{ms:.2},"thread_cpu_ms":{cpu_ms:.2},"tokens_per_s":{per_second:.0}}}"#
        );
    }
}
