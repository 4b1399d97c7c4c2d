//! Measures the kernels of latent attention and experts one by one on a GPU, at the sizes of
//! `tests/bench/h200/decode_mla/model.json`: how far each is from float32, its time in a captured
//! graph, and its share of what a copy moves in the same run. JSON lines.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use r1d_kernels::{
    CachePages, Choice, ExpertSizes, Experts, Gpu, KernelError, LatentAttention, LatentSizes,
    LatentToken, PAGE_TOKENS, Routing, Scores,
};
use serde_json::json;
use std::time::Instant;
use tch::{Device, Kind, Tensor};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HEADS: LatentSizes = LatentSizes {
    heads: 16,
    latent: 512,
    nope: 128,
    rope: 64,
    value: 128,
};
const EXPERTS: ExpertSizes = ExpertSizes {
    experts: 64,
    per_token: 6,
    hidden: 2048,
    intermediate: 1024,
};
const ROUTING: Routing = Routing {
    scores: Scores::Sigmoid,
    groups: 1,
    groups_per_token: 1,
    best_of_group: 1,
    normalise: true,
    factor: 2.5,
};
const SCALE: f32 = 0.072;
/// Copies of what is read from memory, so that no cache holds it from call to call.
const COPIES: usize = 6;
const REPLAYS: usize = 5;

struct Bench {
    gpu: Gpu,
    device: Device,
    /// Bytes a second of a copy, read and written.
    limit: f64,
}

fn main() -> Result<()> {
    let device = r1d_torch::device::open("cuda:0")?;
    tch::manual_seed(1);
    let mut bench = Bench {
        gpu: Gpu::open(device)?,
        device,
        limit: 1.0,
    };
    bench.limit = bench.copy()?;
    println!("{}", json!({"copy_tb_per_s": round(bench.limit / 1e12)}));
    for rows in [1, 8, 64, 256] {
        bench.experts(rows)?;
    }
    for (rows, context) in [
        (1, 384),
        (1, 2048),
        (64, 384),
        (64, 2048),
        (256, 384),
        (256, 2048),
    ] {
        bench.attention(rows, context)?;
    }
    Ok(())
}

impl Bench {
    fn random(&self, shape: &[i64], scale: f64) -> Result<Tensor> {
        let numbers = Tensor::f_randn(shape, (Kind::BFloat16, self.device))?;
        Ok(numbers.f_mul_scalar(scale)?)
    }

    fn zeros(&self, shape: &[i64], kind: Kind) -> Result<Tensor> {
        Ok(Tensor::f_zeros(shape, (kind, self.device))?)
    }

    /// Seconds of a call, within a graph of `calls` of them.
    fn seconds(
        &self,
        calls: usize,
        call: impl Fn(usize) -> std::result::Result<(), KernelError>,
    ) -> Result<f64> {
        let all = || (0..calls).try_for_each(&call);
        all()?;
        let graph = self.gpu.capture(all)?;
        self.gpu.replay(&graph)?;
        self.gpu.synchronize()?;
        let begun = Instant::now();
        for _ in 0..REPLAYS {
            self.gpu.replay(&graph)?;
        }
        self.gpu.synchronize()?;
        Ok(begun.elapsed().as_secs_f64() / (REPLAYS * calls) as f64)
    }

    fn copy(&self) -> Result<f64> {
        let from = self.zeros(&[1 << 30], Kind::Float)?;
        let mut to = from.f_empty_like()?;
        to.f_copy_(&from)?;
        // Waits for libtorch's stream, and has the operation ready.
        let _ = f64::try_from(to.f_get(0)?)?;
        let begun = Instant::now();
        for _ in 0..10 {
            to.f_copy_(&from)?;
        }
        let _ = f64::try_from(to.f_get(0)?)?;
        Ok(10.0 * 2.0 * 4.0 * (1u64 << 30) as f64 / begun.elapsed().as_secs_f64())
    }

    fn print(&self, name: &str, rows: i64, what: serde_json::Value, seconds: f64, bytes: f64) {
        let speed = bytes / seconds;
        println!(
            "{}",
            json!({
                "kernel": name, "rows": rows, "of": what, "us": round(seconds * 1e6),
                "tb_per_s": round(speed / 1e12), "share_of_copy": round(speed / self.limit),
            })
        );
    }

    fn attention(&self, rows: i64, context: i64) -> Result<()> {
        let LatentSizes {
            heads,
            latent,
            nope,
            rope,
            value,
        } = HEADS;
        let attention = LatentAttention::compile(&self.gpu, Kind::BFloat16, HEADS)?;
        let row_pages = context / PAGE_TOKENS + 1;
        let places = row_pages * PAGE_TOKENS;
        let caches = (0..COPIES)
            .map(|_| self.random(&[rows, places, HEADS.width()], 1.0))
            .collect::<Result<Vec<_>>>()?;
        let addresses = caches
            .iter()
            .map(|cache| {
                let address = Tensor::f_from_slice(&[cache.data_ptr().addr() as i64])?;
                Ok(address.f_to_device(self.device)?)
            })
            .collect::<Result<Vec<_>>>()?;
        let table = Tensor::f_arange(rows * row_pages, (Kind::Int, self.device))?
            .f_view([rows, row_pages])?;
        let pages = |copy: usize| CachePages {
            memory: &addresses[copy % COPIES],
            table: &table,
        };
        let query = self.random(&[rows, heads, HEADS.width()], 0.5)?;
        let position = self.zeros(&[rows], Kind::Int)?.f_fill_(context - 1)?;
        let live = self.zeros(&[1], Kind::Int)?.f_fill_(rows)?;
        let out = self.zeros(&[rows, heads, latent], Kind::BFloat16)?;
        let bytes = (rows * context * HEADS.width() * 2) as f64;
        let chosen = attention.parts(rows, places);
        for parts in [1, 2, 3, 4, 8, 16] {
            if rows * parts > 1024 || parts * 64 > context {
                continue;
            }
            let partial = self.zeros(&[rows * heads * parts * (latent + 2)], Kind::Float)?;
            let attend = |copy: usize| {
                let (cache, rows) = (pages(copy), (&position, &live));
                let into = (&out, &partial);
                attention.attend(&self.gpu, &query, &cache, rows, (SCALE, parts), into)
            };
            attend(0)?;
            let read = caches[0].f_narrow(1, 0, context)?;
            let off = attention_off(&query, &read, &out)?;
            let seconds = self.seconds(24, attend)?;
            let what = json!({"context": context, "parts": parts, "off": off,
                "chosen": parts == chosen});
            self.print("attend", rows, what, seconds, bytes);
        }
        if context > 512 {
            return Ok(());
        }
        // What stands around it.
        let product = self.random(&[rows, HEADS.query_width() + HEADS.width()], 1.0)?;
        let kv_b = self.random(&[heads * (nope + value), latent], 0.05)?;
        let rotations = self
            .random(&[places, 2, rope], 1.0)?
            .f_to_kind(Kind::Float)?;
        let norm = self.random(&[latent], 1.0)?;
        let token = LatentToken {
            bias: None,
            norm: (&norm, 1e-6),
            table: &rotations,
            position: &position,
            live: &live,
        };
        let attended = self.zeros(&[rows, heads * value], Kind::BFloat16)?;
        let none = serde_json::Value::Null;
        let store = |copy: usize| {
            let into = (&pages(copy), &query);
            attention.store(&self.gpu, &product, &token, None, into)
        };
        let seconds = self.seconds(24, store)?;
        self.print("store_latent", rows, none.clone(), seconds, 0.0);
        let absorb = |_| attention.absorb(&self.gpu, &product, &kv_b, &query);
        let seconds = self.seconds(24, absorb)?;
        self.print("absorb", rows, none.clone(), seconds, 0.0);
        let project = |_| attention.project(&self.gpu, &out, &kv_b, &attended);
        let seconds = self.seconds(24, project)?;
        self.print("project", rows, none.clone(), seconds, 0.0);
        for (name, width, outer) in [
            ("a_proj", 2048, HEADS.query_width() + HEADS.width()),
            ("o_proj", heads * value, 2048),
            ("shared gate_up", 2048, 2048),
            ("shared down", 1024, 2048),
            ("dense gate_up", 2048, 16384),
            ("lm_head", 2048, 32000),
        ] {
            let (x, y) = (
                self.random(&[rows, width], 1.0)?,
                self.random(&[rows, outer], 1.0)?,
            );
            let weights = (0..COPIES)
                .map(|_| self.random(&[outer, width], 0.05))
                .collect::<Result<Vec<_>>>()?;
            let linear = |copy: usize| self.gpu.linear(&x, &weights[copy % COPIES], &y);
            let seconds = self.seconds(24, linear)?;
            self.print(
                name,
                rows,
                none.clone(),
                seconds,
                (2 * width * outer) as f64,
            );
        }
        Ok(())
    }

    fn experts(&self, rows: i64) -> Result<()> {
        let ExpertSizes {
            experts: count,
            per_token,
            hidden,
            intermediate,
        } = EXPERTS;
        let experts = Experts::compile(&self.gpu, Kind::BFloat16, EXPERTS, ROUTING)?;
        let weights = (0..COPIES)
            .map(|_| {
                let gate_up = self.random(&[count, 2 * intermediate, hidden], 0.03)?;
                Ok((gate_up, self.random(&[count, hidden, intermediate], 0.03)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let x = self.random(&[rows, hidden], 1.0)?;
        let router = self.random(&[count, hidden], 0.02)?;
        let logits = self.zeros(&[rows, count], Kind::Float)?;
        let live = self.zeros(&[1], Kind::Int)?.f_fill_(rows)?;
        let step = self.zeros(&[1], Kind::Int)?;
        let choice = Choice {
            chosen: &self.zeros(&[rows, per_token], Kind::Int)?,
            gates: &self.zeros(&[rows, per_token], Kind::Float)?,
            order: &self.zeros(&[rows * per_token], Kind::Int)?,
            starts: &self.zeros(&[count + 1], Kind::Int)?,
        };
        let between = self.zeros(&[rows * per_token, intermediate], Kind::BFloat16)?;
        let outputs = self.zeros(&[rows * per_token, hidden], Kind::BFloat16)?;
        let into = self.zeros(&[rows, hidden], Kind::BFloat16)?;
        let none = serde_json::Value::Null;
        let linear = |_| self.gpu.linear(&x, &router, &logits);
        self.print(
            "router product",
            rows,
            none.clone(),
            self.seconds(24, linear)?,
            0.0,
        );
        let route = |_| experts.route(&self.gpu, (&logits, None), (&live, &step), &choice, None);
        self.print(
            "route and sort",
            rows,
            none.clone(),
            self.seconds(24, route)?,
            0.0,
        );
        let starts: Vec<i64> = Vec::try_from(&choice.starts.f_to_kind(Kind::Int64)?)?;
        let loads: Vec<i64> = starts.windows(2).map(|two| two[1] - two[0]).collect();
        let active = loads.iter().filter(|load| **load > 0).count();
        let bytes = (active as i64 * 3 * hidden * intermediate * 2) as f64;
        for blocks in Experts::BLOCKS {
            let run = |copy: usize| {
                let (gate_up, down) = &weights[copy % COPIES];
                let chosen = (&choice, &live, blocks);
                experts.run(&self.gpu, &x, (gate_up, down), chosen, (&between, &outputs))
            };
            run(0)?;
            let (gate_up, down) = &weights[0];
            let off = experts_off(&x, (gate_up, down), choice.chosen, &outputs)?;
            let seconds = self.seconds(12, run)?;
            let what = json!({"blocks": blocks, "active": active, "most": loads.iter().max(),
                "off": off, "chosen": blocks == experts.blocks(rows)});
            self.print("experts", rows, what, seconds, bytes);
        }
        let combine = |_| experts.combine(&self.gpu, (&outputs, Some(&x)), (&choice, &live), &into);
        self.print("combine", rows, none, self.seconds(24, combine)?, 0.0);
        Ok(())
    }
}

/// How far attention of the first and the last row is from float32.
fn attention_off(query: &Tensor, cache: &Tensor, out: &Tensor) -> Result<f64> {
    let rows = query.size()[0];
    let of_row = |row: i64| -> Result<f64> {
        let [q, c, found] = [query, cache, out].map(|all| all.get(row).to_kind(Kind::Float));
        let weights = (q.f_matmul(&c.f_tr()?)? * f64::from(SCALE)).f_softmax(-1, Kind::Float)?;
        let expected = weights.f_matmul(&c.f_narrow(1, 0, HEADS.latent)?)?;
        off(&found, &expected)
    };
    Ok(of_row(0)?.max(of_row(rows - 1)?))
}

/// How far the experts of the first and the last row are from float32.
fn experts_off(
    x: &Tensor,
    (gate_up, down): (&Tensor, &Tensor),
    chosen: &Tensor,
    outputs: &Tensor,
) -> Result<f64> {
    let mut furthest = 0.0f64;
    for row in [0, x.size()[0] - 1] {
        let x = x.get(row).to_kind(Kind::Float);
        for slot in 0..EXPERTS.per_token {
            let expert = i64::try_from(chosen.get(row).get(slot))?;
            let both = gate_up.get(expert).to_kind(Kind::Float).f_mv(&x)?;
            let halves = both.f_chunk(2, 0)?;
            let between = halves[0].f_silu()?.f_mul(&halves[1])?;
            let expected = down.get(expert).to_kind(Kind::Float).f_mv(&between)?;
            let found = outputs.get(row * EXPERTS.per_token + slot);
            furthest = furthest.max(off(&found.to_kind(Kind::Float), &expected)?);
        }
    }
    Ok(furthest)
}

fn off(found: &Tensor, expected: &Tensor) -> Result<f64> {
    let relative = found
        .f_sub(expected)?
        .f_norm()?
        .f_div(&expected.f_norm()?)?;
    Ok((f64::try_from(relative)? * 1e5).round() / 1e5)
}

fn round(x: f64) -> f64 {
    (x * 1000.0).round() / 1000.0
}
