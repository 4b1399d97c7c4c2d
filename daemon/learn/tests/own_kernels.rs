//! Updates by r1d's own kernels beside those by libtorch's operations, on a GPU of the Hopper
//! generation: they run with `--ignored`, and two of them print where the time goes.

#![allow(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

mod tiny;

use r1d_kernels::{QkvSizes, TrainKernels};
use r1d_learn::Trainer;
use r1d_learn::head::Head;
use r1d_learn::optimiser::Optimiser;
use r1d_model::{CausalLm, Forward, Packed};
use r1d_proto::hyperparameters::{self, Dtype, GradientCheckpointing};
use r1d_proto::worker::{Supervise, Train};
use r1d_torch::{attention, runtime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use tch::{Cuda, Device, Kind, Tensor};
use tiny::*;

fn gpu() -> Device {
    let device = r1d_torch::device::open("cuda:0").unwrap();
    runtime::set_deterministic(true).unwrap();
    runtime::sum_in_float32().unwrap();
    device
}

fn config(layers: u32, hidden: u32, heads: u32, width: u32, vocab: u32) -> String {
    format!(
        r#"{{"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": {vocab},
            "hidden_size": {hidden}, "intermediate_size": {width}, "num_hidden_layers": {layers},
            "num_attention_heads": {heads}, "num_key_value_heads": 2, "hidden_act": "silu",
            "max_position_embeddings": 4096, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6,
            "tie_word_embeddings": true, "initializer_range": 0.1}}"#
    )
}

/// The model of the decoding bench, with latent attention and experts: 4.85 B parameters in 12
/// layers.
fn latent(layers: u32) -> String {
    let config = include_str!("../../../tests/bench/h200/decode_mla/model.json");
    let [of, to] = [12, layers].map(|layers| format!("\"num_hidden_layers\": {layers}"));
    assert!(config.contains(&of));
    config.replace(&of, &to)
}

/// Three small layers with latent attention, two of them with experts, which every token goes to:
/// choices would differ between dtypes.
fn small_latent(q_lora_rank: &str) -> String {
    format!(
        r#"{{"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
            "vocab_size": 1111, "hidden_size": 256, "intermediate_size": 384,
            "moe_intermediate_size": 64, "num_hidden_layers": 3, "first_k_dense_replace": 1,
            "num_attention_heads": 4, "num_key_value_heads": 4, "q_lora_rank": {q_lora_rank},
            "kv_lora_rank": 64, "qk_nope_head_dim": 48, "qk_rope_head_dim": 16, "v_head_dim": 40,
            "n_routed_experts": 5, "n_shared_experts": 1, "num_experts_per_tok": 5, "n_group": 1,
            "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
            "norm_topk_prob": true, "routed_scaling_factor": 2.5, "moe_layer_freq": 1,
            "hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
            "max_position_embeddings": 4096, "attention_bias": false,
            "tie_word_embeddings": false, "initializer_range": 0.1}}"#
    )
}

fn kernels(device: Device) -> Arc<TrainKernels> {
    Arc::new(TrainKernels::open(device).unwrap())
}

/// A bfloat16 model, or the same weights in float64.
fn model(config: &str, own: bool, exact: bool) -> CausalLm {
    let device = gpu();
    let mut model = CausalLm::init(config, 1, device, Kind::BFloat16).unwrap();
    if exact {
        let wide = CausalLm::init(config, 1, device, Kind::Double).unwrap();
        tch::no_grad(|| {
            for ((_, mut to), (_, from)) in wide.parameters().into_iter().zip(model.parameters()) {
                to.copy_(&from);
            }
        });
        model = wide;
    }
    if own {
        model.use_kernels(kernels(device));
    }
    model
}

fn unclipped() -> hyperparameters::Optimiser {
    hyperparameters::Optimiser {
        max_grad_norm: 0.0,
        ..optimiser(1e-3)
    }
}

fn off(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    ((&found - &expected).norm() / expected.norm()).double_value(&[])
}

enum Batch {
    Text(Supervise),
    Rollouts(Box<Train>),
}

/// Gradients of a first update, its loss, and its entropy if it has one.
fn gradients(
    config: &str,
    (own, exact, recomputes): (bool, bool, bool),
    batch: &Batch,
) -> (Vec<(String, Tensor)>, f64, f64) {
    let model = model(config, own, exact);
    let trainer = Trainer::new(&model, &unclipped(), NO_ROUTER_TRAINING, 300, false);
    let mut trainer =
        trainer
            .unwrap()
            .with_checkpointing(recomputes.then_some(GradientCheckpointing {
                recompute_num_layers: u32::MAX,
            }));
    let metrics = match batch {
        Batch::Text(text) => trainer.supervise(&model, text).unwrap(),
        Batch::Rollouts(batch) => trainer.train(&model, None, batch, &mut |_, _| {}).unwrap(),
    };
    let entropy = metrics.get("entropy").copied().unwrap_or(0.0);
    (first_gradients(&trainer), metrics["loss"], entropy)
}

fn check(config: &str, batch: &Batch, what: &str) {
    let (exact, loss, entropy) = gradients(config, (false, true, false), batch);
    let (torch, torch_loss, _) = gradients(config, (false, false, false), batch);
    let (own, own_loss, own_entropy) = gradients(config, (true, false, false), batch);
    let (mut most, mut ratio) = (0f64, 0f64);
    for (((name, exact), (_, torch)), (_, own)) in exact.iter().zip(&torch).zip(&own) {
        let (theirs, ours) = (off(torch, exact), off(own, exact));
        println!("{what} {name}: torch {theirs:.2e}, own {ours:.2e}");
        (most, ratio) = (most.max(ours), ratio.max(ours / theirs));
        // bfloat16 activations put each gradient off; the kernels must not put it further off.
        assert!(
            ours < 1.3 * theirs + 1e-3,
            "{what} {name}: {ours:e} and {theirs:e}"
        );
    }
    println!("{what}: losses {loss} {torch_loss} {own_loss}, largest {most:.2e}, ratio {ratio:.2}");
    assert!((own_loss - loss).abs() < 2.0 * (torch_loss - loss).abs() + 2e-3 * loss.abs() + 1e-4);
    assert!((own_entropy - entropy).abs() < 1e-2 * entropy.abs() + 1e-9);
    let (again, _, _) = gradients(config, (true, false, false), batch);
    assert_same_bits(&again, &own);
}

fn assert_same_bits(found: &[(String, Tensor)], expected: &[(String, Tensor)]) {
    for ((name, a), (_, b)) in found.iter().zip(expected) {
        assert!(a.equal(b), "{name}");
    }
}

fn texts() -> Batch {
    Batch::Text(Supervise {
        step: 0,
        sequences: text(7, &[130, 257, 64, 64, 3]),
    })
}

#[test]
#[ignore = "needs a GPU"]
fn gradients_of_texts_are_as_near_to_float64_as_libtorchs() {
    for vocab in [1111, 5000] {
        let config = config(4, 256, 4, 512, vocab);
        check(&config, &texts(), &format!("texts, {vocab} ids"));
    }
    // Wide heads, and rows that do not fill a block.
    check(&config(2, 384, 3 * 2, 344, 48), &texts(), "narrow");
}

#[test]
#[ignore = "needs a GPU"]
fn gradients_of_latent_attention_and_experts_are_as_near_to_float64_as_libtorchs() {
    check(&small_latent("null"), &texts(), "latent");
    check(&small_latent("72"), &texts(), "latent queries");
    // Sequences of one length attend side by side, others without padding.
    let even = Batch::Text(Supervise {
        step: 0,
        sequences: text(7, &[130; 2]),
    });
    check(&small_latent("null"), &even, "latent, even");
}

/// Attention's result, and the gradient of a product of queries above keys above values.
fn attended(qkv: &Tensor, slope: &Tensor, attend: &dyn Fn([&Tensor; 3]) -> Tensor) -> [Tensor; 2] {
    let qkv = leaf(qkv);
    let parts = qkv.split_with_sizes([6, 2, 2], 2);
    let [q, k, v] = [0, 1, 2].map(|i: usize| parts[i].transpose(1, 2));
    let out = attend([&q, &k, &v]);
    runtime::backward(&(&out * slope).sum(Kind::Float)).unwrap();
    [out.detach(), qkv.grad()]
}

#[test]
#[ignore = "needs a GPU"]
fn attention_of_even_sequences_is_as_near_to_float64_as_libtorchs() {
    gpu();
    let (scale, no_mask) = (128f64.powf(-0.5), None::<&Tensor>);
    for length in [512, 1023] {
        let (qkv, slope) = (random(&[3, length, 10, 128]), random(&[3, 6, length, 128]));
        let theirs = |[q, k, v]: [&Tensor; 3]| {
            Tensor::scaled_dot_product_attention(q, k, v, no_mask, 0.0, true, scale, true)
        };
        let exact = |[q, k, v]: [&Tensor; 3]| {
            let [k, v] = [k, v].map(|t| t.repeat_interleave_self_int(3, 1, 6));
            let hidden = Tensor::ones([length, length], (Kind::Bool, q.device())).triu(1);
            let scores = q.matmul(&k.transpose(2, 3)) * scale;
            let scores = scores.masked_fill(&hidden, f64::NEG_INFINITY);
            scores.softmax(-1, Kind::Double).matmul(&v)
        };
        let own = |[q, k, v]: [&Tensor; 3]| attention::even(q, k, v, scale).unwrap();
        let wide = [&qkv, &slope].map(|t| t.to_kind(Kind::Double));
        let expected = attended(&wide[0], &wide[1], &exact);
        let (torch, found) = (
            attended(&qkv, &slope, &theirs),
            attended(&qkv, &slope, &own),
        );
        for ((found, torch), expected) in found.iter().zip(&torch).zip(&expected) {
            let (ours, theirs) = (off(found, expected), off(torch, expected));
            println!("even, {length}: torch {theirs:.2e}, own {ours:.2e}");
            assert!(ours < 1.1 * theirs + 1e-4, "{ours:e} and {theirs:e}");
        }
        for _ in 0..5 {
            let again = attended(&qkv, &slope, &own);
            assert!(again.iter().zip(&found).all(|(a, b)| a.equal(b)));
        }
    }
}

/// The optimiser's state and the parameters after three updates of a few parameters, whose second
/// one has two backward passes.
fn updated(kernels: Option<Arc<TrainKernels>>, holds: bool, narrow: bool) -> Vec<(String, Tensor)> {
    let device = gpu();
    tch::manual_seed(3);
    let shapes: [(&str, &[i64]); 3] = [("a", &[70, 33]), ("norm", &[64]), ("b", &[300, 512])];
    let parameters: Vec<(String, Tensor)> = shapes
        .iter()
        .map(|(name, shape)| {
            let parameter = Tensor::randn(*shape, (Kind::BFloat16, device));
            ((*name).to_owned(), parameter.set_requires_grad(true))
        })
        .collect();
    let mut settings = optimiser(1e-2);
    if narrow {
        settings.exp_avg_dtype = Dtype::Bfloat16;
        (settings.exp_avg_sq_dtype, settings.adam_beta2) = (Dtype::Bfloat16, 0.95);
    }
    let copies = parameters
        .iter()
        .map(|(n, p)| (n.clone(), p.shallow_clone()));
    let optimiser = Optimiser::new(copies.collect(), &settings).unwrap();
    let mut optimiser = optimiser.with_kernels(kernels);
    for passes in [1, 2, 1] {
        optimiser.clear_gradients().unwrap();
        optimiser.hold_gradients(holds);
        for _ in 0..passes {
            for (_, parameter) in &parameters {
                let slope = Tensor::randn(parameter.size(), (Kind::BFloat16, device));
                runtime::backward(&(parameter * slope).sum(Kind::Float)).unwrap();
            }
            optimiser.accumulate().unwrap();
        }
        let norm = optimiser.gradient_norm().unwrap();
        optimiser.update(1e-2, &norm, &norm.isfinite()).unwrap();
    }
    let state = optimiser.state().into_iter().chain(parameters);
    state.map(|(name, t)| (name, t.detach().copy())).collect()
}

#[test]
#[ignore = "needs a GPU"]
fn updates_are_those_of_libtorchs_adamw() {
    for narrow in [false, true] {
        let expected = updated(None, false, narrow);
        let own = updated(Some(kernels(gpu())), false, narrow);
        for ((name, own), (_, expected)) in own.iter().zip(&expected) {
            let most = match own.kind() {
                Kind::BFloat16 => 1e-3,
                _ => 1e-6,
            };
            let difference = off(own, expected);
            assert!(difference < most, "{name}: {difference:e}");
        }
        // A gradient that waits for a second one is the same number.
        assert_same_bits(&updated(Some(kernels(gpu())), true, narrow), &own);
    }
}

#[test]
#[ignore = "needs a GPU"]
fn gradients_of_rollouts_are_as_near_to_float64_as_libtorchs() {
    let mut objective = objective();
    objective.temperature = 0.8;
    let batch = rollouts(&qwen2(Kind::Float), objective, 3);
    let config = config(3, 256, 4, 512, VOCAB);
    check(
        &config,
        &Batch::Rollouts(Box::new(batch.clone())),
        "rollouts",
    );
    let batch = with_kept_ids(batch);
    check(&config, &Batch::Rollouts(Box::new(batch)), "kept ids");
}

/// A tied embedding's gradients are added in another order.
#[test]
#[ignore = "needs a GPU"]
fn blocks_that_are_run_again_have_the_same_gradients() {
    let config = config(3, 256, 4, 512, 1111).replace(
        "\"tie_word_embeddings\": true",
        "\"tie_word_embeddings\": false",
    );
    let (whole, _, _) = gradients(&config, (true, false, false), &texts());
    let (again, _, _) = gradients(&config, (true, false, true), &texts());
    assert_same_bits(&again, &whole);
}

// --- times

const TOKENS: i64 = 8 * 2048;
const TEXTS: i64 = 8;
/// Bytes a second that a copy reaches on an H200, reads and writes.
const PEAK: f64 = 4.2e12;

fn qwen(layers: u32) -> String {
    config(layers, 896, 14, 4864, 151_936)
}

fn wait() {
    Cuda::synchronize(0);
}

/// Milliseconds of the median run.
fn time(runs: usize, mut work: impl FnMut()) -> f64 {
    work();
    let mut times: Vec<f64> = (0..5)
        .map(|_| {
            wait();
            let begun = Instant::now();
            (0..runs).for_each(|_| work());
            wait();
            begun.elapsed().as_secs_f64() * 1e3 / runs as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[2]
}

/// Prints a kernel's time and share of the bandwidth, and libtorch's time for the same.
fn show(what: &str, bytes: f64, own: f64, torch: f64) {
    let share = bytes / (own * 1e-3) / PEAK;
    println!(
        "kernel {what}: own {:.1} us, {:.0} MB, {:.0} % of bandwidth; libtorch {:.1} us",
        own * 1e3,
        bytes / 1e6,
        share * 100.0,
        torch * 1e3
    );
}

fn random(shape: &[i64]) -> Tensor {
    Tensor::randn(shape, (Kind::BFloat16, Device::Cuda(0)))
}

fn leaf(tensor: &Tensor) -> Tensor {
    tensor.detach().copy().set_requires_grad(true)
}

/// Milliseconds of a differentiable operation's forward pass, and of its backward pass.
fn torch_times(operation: &dyn Fn() -> Tensor, slope: &Tensor) -> (f64, f64) {
    let forward = time(10, || drop(tch::no_grad(operation)));
    let whole = time(10, || {
        let y = operation();
        runtime::backward(&(&y * slope).sum(Kind::Float)).unwrap();
    });
    let surrogate = time(10, || {
        let y = leaf(slope);
        runtime::backward(&(&y * slope).sum(Kind::Float)).unwrap();
    });
    (forward, whole - forward - surrogate)
}

#[test]
#[ignore = "prints times, and needs a GPU"]
fn what_each_kernel_takes() {
    let device = gpu();
    let own = TrainKernels::open(device).unwrap();
    norms(&own);
    feed_forward(&own);
    rotations(&own);
    log_probabilities(&own);
    products();
    attention_times();
}

fn norms(own: &TrainKernels) {
    let width = 896;
    let (x, added, slope) = (
        random(&[TOKENS, width]),
        random(&[TOKENS, width]),
        random(&[TOKENS, width]),
    );
    let weight = random(&[width]);
    let bytes = (TOKENS * width * 2) as f64;
    let (a, w) = (leaf(&x), leaf(&weight));
    let torch = || (&a + &added).rms_norm([width], Some(&w), 1e-6);
    let (forward, backward) = torch_times(&torch, &slope);
    let normed = own.add_rms_norm(&x, Some(&added), &weight, 1e-6).unwrap();
    assert!(off(&normed.normed, &torch()) < 5e-3);
    let ours = time(20, || {
        drop(own.add_rms_norm(&x, Some(&added), &weight, 1e-6))
    });
    show("add_rms_norm", 4.0 * bytes, ours, forward);
    let state = (&normed.sum, &normed.scale);
    let ours = time(20, || {
        drop(own.rms_norm_backward(&slope, Some(&added), state, &weight));
    });
    show("rms_norm_backward", 4.0 * bytes, ours, backward);
}

fn feed_forward(own: &TrainKernels) {
    let width = 4864;
    let (gate_up, slope) = (random(&[TOKENS, 2 * width]), random(&[TOKENS, width]));
    let bytes = (TOKENS * width * 2) as f64;
    let operand = leaf(&gate_up);
    let torch = || {
        let halves = operand.chunk(2, -1);
        halves[0].silu() * &halves[1]
    };
    let (forward, backward) = torch_times(&torch, &slope);
    assert!(off(&own.silu_mul(&gate_up).unwrap(), &torch()) < 5e-3);
    let ours = time(20, || drop(own.silu_mul(&gate_up)));
    show("silu_mul", 3.0 * bytes, ours, forward);
    let ours = time(20, || own.silu_mul_backward(&slope, &gate_up).unwrap());
    show("silu_mul_backward", 5.0 * bytes, ours, backward);
}

fn rotations(own: &TrainKernels) {
    let sizes = QkvSizes {
        heads: 14,
        key_heads: 2,
        head_dim: 64,
    };
    let (qkv, table) = (
        random(&[TOKENS, 18, 64]),
        random(&[TOKENS, 2, 64]).to_kind(Kind::Float),
    );
    let bytes = (TOKENS * 64 * 2) as f64;
    let angles = (TOKENS * 64 * 4) as f64;
    let ours = time(20, || own.rotate(&qkv, &table, sizes).unwrap());
    let turning = leaf(&random(&[TOKENS, 16, 64]));
    let slope = random(&[TOKENS, 16, 64]);
    let torch = || {
        let x = turning.to_kind(Kind::Float);
        let sines = table.narrow(1, 1, 1);
        (&x * table.narrow(1, 0, 1) + x.roll([32], [-1]) * sines).to_kind(Kind::BFloat16)
    };
    let (forward, backward) = torch_times(&torch, &slope);
    show("rotate", 2.0 * 16.0 * bytes + angles, ours, forward);
    let slopes = [14, 2, 2].map(|heads| random(&[TOKENS, heads, 64]));
    let slopes = [&slopes[0], &slopes[1], &slopes[2]];
    let ours = time(20, || drop(own.rotate_backward(slopes, &table, sizes)));
    show(
        "rotate_backward",
        2.0 * 18.0 * bytes + angles,
        ours,
        backward,
    );
}

fn log_probabilities(own: &TrainKernels) {
    let (tokens, vocab) = (3456, 151_936);
    let logits = random(&[tokens, vocab]) * 3.0;
    let targets = Tensor::randint(vocab, [tokens], (Kind::Int64, logits.device()));
    let slope = Tensor::randn([tokens], (Kind::Float, logits.device()));
    let bytes = (tokens * vocab * 2) as f64;
    let found = own.logprobs(&logits, &targets, None, 1.0).unwrap();
    let torch = r1d_model::token_logprobs(&logits, &targets, 1.0).unwrap();
    assert!(off(&found.logp, &torch) < 1e-5);
    let theirs = time(3, || {
        drop(r1d_model::token_logprobs(&logits, &targets, 1.0).unwrap());
    });
    let ours = time(10, || drop(own.logprobs(&logits, &targets, None, 1.0)));
    show("logprobs", bytes, ours, theirs);
    let ours = time(10, || {
        own.logits_gradient(&logits, &targets, None, &found, &slope, 1.0)
            .unwrap();
    });
    show("logits_gradient", 2.0 * bytes, ours, 0.0);
}

/// Prints the time of a product `[m, k] × [k, n]`.
fn product(what: &str, m: i64, k: i64, n: i64, work: impl FnMut()) {
    let ms = time(10, work);
    let rate = 2.0 * (m * k * n) as f64 / (ms * 1e-3) / 1e12;
    println!("product {what}: {:.1} us, {rate:.0} TFLOP/s", ms * 1e3);
}

fn products() {
    let shapes = [
        ("qkv", 896, 1152),
        ("o", 896, 896),
        ("gate_up", 896, 9728),
        ("down", 4864, 896),
    ];
    for (what, inner, outer) in shapes {
        let (x, w, g) = (
            random(&[TOKENS, inner]),
            random(&[outer, inner]),
            random(&[TOKENS, outer]),
        );
        product(what, TOKENS, inner, outer, || {
            drop(x.linear(&w, None::<&Tensor>))
        });
        product(&format!("{what} dx"), TOKENS, outer, inner, || {
            drop(g.mm(&w))
        });
        product(&format!("{what} dw"), outer, TOKENS, inner, || {
            drop(g.tr().mm(&x));
        });
    }
    let (rows, vocab, width) = (3456, 151_936, 896);
    let (x, w) = (random(&[rows, width]), random(&[vocab, width]));
    let g = random(&[rows, vocab]);
    let sum = Tensor::zeros([vocab, width], (Kind::Float, x.device()));
    product("head", rows, width, vocab, || {
        drop(x.linear(&w, None::<&Tensor>))
    });
    product("head dx", rows, vocab, width, || drop(g.mm(&w)));
    product("head dw, bfloat16", vocab, rows, width, || {
        drop(g.tr().mm(&x))
    });
    product("head dw, added to float32", vocab, rows, width, || {
        let transposed = g.tr();
        drop(
            sum.f_addmm_dtype_out(&sum, &transposed, &x, Kind::Float)
                .unwrap(),
        );
    });
}

fn attention_times() {
    let heads = |count: i64| leaf(&random(&[TEXTS, TOKENS / TEXTS, count, 64]));
    let (q, k, v) = (heads(14), heads(2), heads(2));
    let attend = || {
        let [q, k, v] = [&q, &k, &v].map(|t| t.transpose(1, 2));
        Tensor::scaled_dot_product_attention(&q, &k, &v, None::<&Tensor>, 0.0, true, 0.125, true)
    };
    let slope = random(&[TEXTS, 14, TOKENS / TEXTS, 64]);
    for deterministic in [true, false] {
        runtime::set_deterministic(deterministic).unwrap();
        let (forward, backward) = torch_times(&attend, &slope);
        println!(
            "attention, deterministic {deterministic}: {:.1} us, backward {:.1} us",
            forward * 1e3,
            backward * 1e3
        );
    }
    runtime::set_deterministic(true).unwrap();
}

#[test]
#[ignore = "prints times, and needs a GPU"]
fn where_an_update_goes() {
    update(&qwen(24), false);
    update(&qwen(24), true);
}

#[test]
#[ignore = "prints times, and needs a GPU"]
fn where_an_update_goes_with_experts() {
    update(&latent(12), true);
}

fn update(config: &str, own: bool) {
    let model = model(config, own, false);
    phases(&model, own);
    let mut trainer = Trainer::new(
        &model,
        &optimiser(1e-5),
        NO_ROUTER_TRAINING,
        TOKENS as u32,
        false,
    )
    .unwrap();
    let batch = Supervise {
        step: 0,
        sequences: text(3, &[2049; TEXTS as usize]),
    };
    let mut loss = 0.0;
    let ms = time(2, || {
        loss = trainer.supervise(&model, &batch).unwrap()["loss"]
    });
    let rate = TOKENS as f64 / ms;
    println!("update, own {own}: {ms:.1} ms, {rate:.1} k tok/s, loss {loss:.4}");
}

/// Prints the parts of an update on their own, each waited for.
fn phases(model: &CausalLm, own: bool) {
    model.set_requires_grad(true);
    let device = model.device();
    let mut optimiser = Optimiser::new(model.parameters(), &optimiser(1e-5)).unwrap();
    let ids = Tensor::randint(30_000, [TOKENS], (Kind::Int64, device));
    let targets = Tensor::randint(30_000, [TOKENS], (Kind::Int64, device));
    let packed = Packed::new(ids, vec![TOKENS / TEXTS; TEXTS as usize]);
    let mut times: BTreeMap<&str, f64> = BTreeMap::new();
    for _ in 0..4 {
        let mut at = Instant::now();
        let mut end = |what| {
            wait();
            times.insert(what, at.elapsed().as_secs_f64() * 1e3);
            at = Instant::now();
        };
        let hidden = model.forward(&packed, &Forward::default()).unwrap().hidden;
        end("1 trunk forward");
        let weight = model.plain_head().map(|(_, weight)| weight);
        let sum = weight.and_then(|weight| optimiser.sum_of(weight).unwrap());
        let head = Head::new(model, 1.0, false).adding_to(sum);
        let leaf = hidden.detach().set_requires_grad(true);
        let mut loss = |logp: &Tensor, _| Ok(logp.sum(Kind::Float) * (-1.0 / TOKENS as f64));
        let mut take = || optimiser.accumulate();
        head.backward(
            &leaf,
            &targets,
            None,
            false,
            &mut loss,
            &mut |chunk| chunk.likeliest().map(drop),
            &mut take,
        )
        .unwrap();
        end("2 head, both ways");
        runtime::backward(&(&hidden * leaf.grad()).sum(Kind::Float)).unwrap();
        drop(hidden);
        end("3 trunk backward");
        optimiser.accumulate().unwrap();
        end("4 accumulate");
        let norm = optimiser.gradient_norm().unwrap();
        end("5 norm");
        optimiser.update(1e-5, &norm, &norm.isfinite()).unwrap();
        end("6 AdamW and publish");
    }
    for (what, ms) in times {
        println!("part, own {own}: {what}: {ms:.2} ms");
    }
}

/// One update of a model of two layers, for a profiler that sees every kernel.
#[test]
#[ignore = "for a profiler, and needs a GPU"]
fn one_update_of_two_layers() {
    one_update(&qwen(2));
}

/// One update of three layers with latent attention, two of them with experts, for a profiler.
#[test]
#[ignore = "for a profiler, and needs a GPU"]
fn one_update_with_experts() {
    one_update(&latent(3));
}

fn one_update(config: &str) {
    let model = model(config, true, false);
    let settings = optimiser(1e-5);
    let mut trainer =
        Trainer::new(&model, &settings, NO_ROUTER_TRAINING, TOKENS as u32, false).unwrap();
    let batch = Supervise {
        step: 0,
        sequences: text(3, &[2049; TEXTS as usize]),
    };
    trainer.supervise(&model, &batch).unwrap();
    wait();
}
