//! r1d's own kernels against libtorch's operations, on a GPU.
//!
//! They run with `--ignored` on a machine with an NVIDIA GPU of the Hopper generation;
//! `tests/bench/decode_gpu/check` runs them there.

use r1d_model::{CausalLm, Forward, LoraSpec, Packed, token_logprobs};
use r1d_proto::hyperparameters::Sampling;
use r1d_proto::rollout::Rollout;
use r1d_proto::sampling_mask::TokenMask;
use r1d_proto::worker::{Generate, Group, Slots};
use r1d_proto::world::{SystemClock, counter_hash};
use r1d_sampler::Sampler;
use std::collections::{BTreeMap, BTreeSet};
use tch::{Kind, Tensor};

/// The parts of a config.json that the cases differ by.
struct Shape {
    model: &'static str,
    hidden: u32,
    heads: u32,
    key_heads: u32,
    head_dim: u32,
    vocab: u32,
}

const SHAPES: [Shape; 5] = [
    // The groups and head size of Qwen2.5-0.5B.
    Shape {
        model: "qwen2",
        hidden: 896,
        heads: 14,
        key_heads: 2,
        head_dim: 64,
        vocab: 1111,
    },
    // Of Qwen2.5-1.5B.
    Shape {
        model: "qwen2",
        hidden: 768,
        heads: 6,
        key_heads: 1,
        head_dim: 128,
        vocab: 5000,
    },
    // Norms of each head's queries and keys.
    Shape {
        model: "qwen3",
        hidden: 256,
        heads: 8,
        key_heads: 4,
        head_dim: 64,
        vocab: 777,
    },
    Shape {
        model: "llama",
        hidden: 512,
        heads: 32,
        key_heads: 2,
        head_dim: 16,
        vocab: 2048,
    },
    Shape {
        model: "llama",
        hidden: 512,
        heads: 4,
        key_heads: 4,
        head_dim: 256,
        vocab: 300,
    },
];

/// A model of the cases.
struct Case {
    name: String,
    config: String,
    vocab: u32,
    /// Whether all layers but the head have adapters, those of experts too.
    adapted: bool,
    /// Whether layers multiply in FP8.
    fp8: bool,
}

/// What models with latent attention or experts have in common.
const AROUND: &str = r#""hidden_act": "silu", "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "max_position_embeddings": 4096, "tie_word_embeddings": false, "initializer_range": 0.06,
    "attention_bias": false, "num_hidden_layers": 3, "vocab_size": 777"#;

/// Sizes of latent attention and of experts, of which the tensor cores take the first and the
/// third.
const WITH_EXPERTS: [(&str, &str); 4] = [
    (
        "deepseek_v3 512",
        r#""architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 128,
        "first_k_dense_replace": 1, "num_attention_heads": 16, "num_key_value_heads": 16,
        "q_lora_rank": null, "kv_lora_rank": 512, "qk_nope_head_dim": 32, "qk_rope_head_dim": 64,
        "v_head_dim": 32, "n_routed_experts": 16, "n_shared_experts": 1, "num_experts_per_tok": 4,
        "n_group": 4, "topk_group": 2, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "norm_topk_prob": true, "routed_scaling_factor": 2.5, "moe_layer_freq": 1"#,
    ),
    (
        "deepseek_v3 48",
        r#""architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
        "hidden_size": 72, "intermediate_size": 104, "moe_intermediate_size": 40,
        "first_k_dense_replace": 2, "num_attention_heads": 5, "num_key_value_heads": 5,
        "q_lora_rank": 24, "kv_lora_rank": 48, "qk_nope_head_dim": 24, "qk_rope_head_dim": 16,
        "v_head_dim": 24, "n_routed_experts": 8, "n_shared_experts": 2, "num_experts_per_tok": 3,
        "n_group": 1, "topk_group": 1, "topk_method": "noaux_tc", "scoring_func": "sigmoid",
        "norm_topk_prob": true, "routed_scaling_factor": 1.5, "moe_layer_freq": 1"#,
    ),
    (
        "deepseek_v2 128",
        r#""architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
        "hidden_size": 320, "intermediate_size": 640, "moe_intermediate_size": 64,
        "first_k_dense_replace": 1, "num_attention_heads": 20, "num_key_value_heads": 20,
        "q_lora_rank": 64, "kv_lora_rank": 128, "qk_nope_head_dim": 16, "qk_rope_head_dim": 64,
        "v_head_dim": 16, "n_routed_experts": 24, "n_shared_experts": 2, "num_experts_per_tok": 6,
        "n_group": 6, "topk_group": 3, "topk_method": "group_limited_greedy",
        "scoring_func": "softmax", "norm_topk_prob": false, "routed_scaling_factor": 1.0,
        "moe_layer_freq": 1"#,
    ),
    (
        "qwen3_moe",
        r#""architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe",
        "hidden_size": 256, "intermediate_size": 512, "moe_intermediate_size": 64,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "num_experts": 16,
        "num_experts_per_tok": 4, "norm_topk_prob": true, "decoder_sparse_step": 1,
        "mlp_only_layers": [1]"#,
    ),
];

fn dense(shape: &Shape) -> Case {
    let Shape {
        model,
        hidden,
        heads,
        key_heads,
        head_dim,
        vocab,
    } = shape;
    let class = match *model {
        "qwen2" => "Qwen2ForCausalLM",
        "qwen3" => "Qwen3ForCausalLM",
        _ => "LlamaForCausalLM",
    };
    Case {
        name: format!("{model} {head_dim}"),
        config: format!(
            r#"{{"architectures": ["{class}"], "model_type": "{model}", "vocab_size": {vocab},
                "hidden_size": {hidden}, "intermediate_size": 1000, "num_hidden_layers": 3,
                "num_attention_heads": {heads}, "num_key_value_heads": {key_heads},
                "head_dim": {head_dim}, "hidden_act": "silu", "rms_norm_eps": 1e-6,
                "rope_theta": 10000.0, "max_position_embeddings": 4096,
                "tie_word_embeddings": false, "initializer_range": 0.06}}"#
        ),
        vocab: *vocab,
        adapted: false,
        fp8: false,
    }
}

/// The cases that are tried with adapters too: grouped and latent attention, and experts.
const ADAPTED: [&str; 3] = ["qwen2 64", "deepseek_v3 512", "qwen3_moe"];

fn cases() -> Vec<Case> {
    let with_experts = WITH_EXPERTS.iter().map(|(name, sizes)| Case {
        name: (*name).into(),
        config: format!("{{{AROUND}, {sizes}}}"),
        vocab: 777,
        adapted: false,
        fp8: false,
    });
    SHAPES.iter().map(dense).chain(with_experts).collect()
}

fn adapted_cases() -> Vec<Case> {
    let all = cases();
    let chosen = all.iter().filter(|case| ADAPTED.contains(&&*case.name));
    chosen.map(adapted).collect()
}

fn adapted(case: &Case) -> Case {
    Case {
        name: format!("{} adapted", case.name),
        config: case.config.clone(),
        vocab: case.vocab,
        adapted: true,
        fp8: false,
    }
}

/// Gives the model adapters as after training: B is not zero.
fn adapt(model: &mut CausalLm) {
    let targets = ["all-linear", "gate_proj", "up_proj", "down_proj"];
    let spec = LoraSpec {
        r: 8,
        lora_alpha: 16.0,
        target_modules: targets.map(str::to_owned).to_vec(),
    };
    model.adapt(&spec, 5).unwrap();
    fill_adapters(model, 0.0);
}

fn fill_adapters(model: &CausalLm, phase: f64) {
    for (index, (_, tensor)) in (0..).zip(model.parameters()) {
        let places = Tensor::arange(tensor.numel() as i64, (Kind::Double, tensor.device()));
        let values = (places * 0.37 + f64::from(index) + phase).sin() * 0.04;
        tch::no_grad(|| tensor.shallow_clone().copy_(&values.view_as(&tensor)));
    }
}

fn model(case: &Case, kind: Kind) -> CausalLm {
    let device = r1d_torch::device::open("cuda:0").unwrap();
    let mut model = CausalLm::init(&case.config, 5, device, kind).unwrap();
    // Biases and norms start as 0 and 1, which would hide them.
    for (at, (name, tensor)) in model.parameters().into_iter().enumerate() {
        if tensor.dim() == 1 {
            let noise = (Tensor::arange(tensor.numel() as i64, (Kind::Float, device)) * 0.37
                + at as f64)
                .sin()
                * 0.2;
            let _ = tch::no_grad(|| tensor.shallow_clone().f_add_(&noise.to_kind(kind)))
                .unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }
    if model.config.moe_layers > 0 {
        let (layers, experts) = (model.config.moe_layers, model.config.experts);
        let load = (Tensor::arange(layers * experts, (Kind::Int64, device)) * 37).remainder(11);
        model
            .update_router_bias(&load.view([layers, experts]), 0.03)
            .unwrap();
    }
    if case.adapted {
        adapt(&mut model);
    }
    model.set_fp8(case.fp8);
    model
}

fn request(case: &Case, prompts: &[u32], samples: u32, new: u32, temperature: f32) -> Generate {
    let group = |(prompt, length): (usize, &u32)| Group {
        prompt: prompt as u32,
        row: 0,
        prompt_ids: (0..u64::from(*length))
            .map(|i| (counter_hash(&[prompt as u64, i]) % u64::from(case.vocab)) as u32)
            .collect(),
        samples: (0..samples).collect(),
    };
    Generate {
        stage: 1,
        step: 5,
        policy_version: 0,
        sampling: Sampling {
            temperature,
            top_p: 1.0,
            top_k: 0,
            keep_sampling_mask: false,
            max_completion_length: new,
            stop_ids: vec![1],
            seed: 42,
        },
        record_experts: true,
        groups: prompts.iter().enumerate().map(group).collect(),
    }
}

/// Makes a sampler; what it compiles is kept for the others.
fn sampler(model: &CausalLm, slots: u32, capacity: u32) -> Sampler {
    r1d_kernels::keep_compiled_in(&std::env::temp_dir().join("r1d-captured-kernels"));
    Sampler::new(
        model,
        Slots::of(slots, capacity),
        false,
        SystemClock::shared(),
    )
    .unwrap()
}

type Rollouts = BTreeMap<(u32, u32), Rollout>;

fn generate(sampler: &mut Sampler, model: &CausalLm, request: &Generate) -> Rollouts {
    let mut rollouts = Rollouts::new();
    let mut completed = |rollout: Rollout| {
        rollouts.insert((rollout.key.prompt, rollout.key.sample), rollout);
    };
    sampler
        .generate(model, request, &mut completed, &mut |_, _| {})
        .unwrap();
    rollouts
}

/// The experts that a completion's tokens took, `[tokens, moe_layers, K]`; `None` without experts.
fn experts(model: &CausalLm, rollout: &Rollout) -> Option<Tensor> {
    let layers = model.config.moe_layers;
    if layers == 0 {
        return None;
    }
    let tokens = (rollout.prompt_ids.len() + rollout.completion_ids.len()) as i64;
    let recorded: Vec<i64> = rollout.experts.iter().map(|e| i64::from(*e)).collect();
    let recorded = Tensor::from_slice(&recorded).view([tokens - 1, layers, -1]);
    // The last token is not fed while sampling, and nothing depends on it here.
    let last = recorded.narrow(0, tokens - 2, 1);
    Some(Tensor::cat(&[recorded, last], 0).to_device(model.device()))
}

/// The largest difference between recorded log-probabilities and those of whole sequences, whose
/// tokens take the recorded experts.
fn difference(model: &CausalLm, rollouts: &Rollouts, temperature: f64) -> f64 {
    let temperature = if temperature == 0.0 { 1.0 } else { temperature };
    let of_one = |rollout: &Rollout| {
        let ids: Vec<i64> = rollout
            .prompt_ids
            .iter()
            .chain(&rollout.completion_ids)
            .map(|id| i64::from(*id))
            .collect();
        let completion = rollout.completion_ids.len() as i64;
        let batch = Packed::new(
            Tensor::from_slice(&ids).to_device(model.device()),
            vec![ids.len() as i64],
        );
        let experts = experts(model, rollout);
        let options = Forward {
            forced_experts: experts.as_ref(),
            ..Forward::default()
        };
        let expected = tch::no_grad(|| {
            let output = model.forward(&batch, &options).unwrap();
            let first = rollout.prompt_ids.len() as i64 - 1;
            let hidden = output.hidden.narrow(0, first, completion);
            let logits = model.logits(&hidden, &Forward::default()).unwrap();
            let ids = batch.ids.narrow(0, first + 1, completion);
            token_logprobs(&logits, &ids, temperature).unwrap()
        });
        let recorded = Tensor::from_slice(&rollout.behaviour_logprobs).to_device(model.device());
        f64::try_from((expected - recorded).abs().max()).unwrap()
    };
    rollouts.values().map(of_one).fold(0.0, f64::max)
}

/// The metric of the kernels' use: without them a test would compare libtorch with itself.
fn used_own_kernels(sampler: &Sampler) -> bool {
    sampler.uses_own_kernels()
}

#[test]
#[ignore = "needs a GPU"]
fn in_float32_both_ways_draw_the_same_ids() {
    both_ways_draw_the_same_ids(&cases());
}

#[test]
#[ignore = "needs a GPU"]
fn with_adapters_in_float32_both_ways_draw_the_same_ids() {
    both_ways_draw_the_same_ids(&adapted_cases());
}

fn both_ways_draw_the_same_ids(cases: &[Case]) {
    for case in cases {
        let model = model(case, Kind::Float);
        for temperature in [1.0, 0.7, 0.0] {
            // Refilled slots, prompts of several lengths, graphs of 8, 4, 2 and 1 rows.
            let request = request(case, &[1, 17, 64, 130], 3, 40, temperature);
            let mut own = sampler(&model, 7, 256).with_own_kernels(true);
            let drawn = generate(&mut own, &model, &request);
            assert!(used_own_kernels(&own));
            let mut other = sampler(&model, 7, 256).with_own_kernels(false);
            let expected = generate(&mut other, &model, &request);
            let (mut experts, mut unlike) = (0, 0);
            for (key, rollout) in &drawn {
                let others = &expected[key].experts;
                assert_eq!(rollout.experts.len(), others.len());
                let pairs = rollout.experts.iter().zip(others);
                unlike += pairs.filter(|(ours, theirs)| ours != theirs).count();
                experts += others.len();
                let same = rollout.completion_ids == expected[key].completion_ids;
                assert!(same, "{key:?}, temperature {temperature}, {}", case.name);
            }
            // Scores within rounding of each other may have swapped two.
            assert!(unlike * 1000 <= experts, "{unlike} of {experts} experts");
            let [ours, theirs] = [&drawn, &expected]
                .map(|rollouts| difference(&model, rollouts, f64::from(temperature)));
            println!(
                "{} T {temperature}: ours {ours:e}, libtorch's {theirs:e}, {unlike} experts",
                case.name
            );
            assert!(ours < 2.0 * theirs + 1e-5, "{ours:e}, {theirs:e}");
        }
    }
}

/// What top-k and top-p leave, and what is drawn of it.
#[test]
#[ignore = "needs a GPU"]
fn the_same_ids_are_left_and_drawn() {
    for case in &cases() {
        let model = model(case, Kind::Float);
        for (temperature, top_k, top_p) in [
            (1.0, 0, 0.95),
            (0.7, 0, 0.5),
            (1.0, 20, 1.0),
            (1.3, 50, 0.9),
            (1.0, 1, 1.0),
            (1.0, 1_000_000, 0.999),
            (0.0, 5, 0.5),
        ] {
            let mut request = request(case, &[1, 17, 64], 5, 40, temperature);
            request.sampling = Sampling {
                top_k,
                top_p,
                keep_sampling_mask: true,
                ..request.sampling
            };
            let mut own = sampler(&model, 11, 256).with_own_kernels(true);
            let drawn = generate(&mut own, &model, &request);
            assert!(used_own_kernels(&own));
            let mut other = sampler(&model, 11, 256).with_own_kernels(false);
            let expected = generate(&mut other, &model, &request);
            let (mut steps, mut unlike) = (0, 0);
            for (key, rollout) in &drawn {
                let (alike, compared) = compare(rollout, &expected[key]);
                (steps, unlike) = (steps + compared, unlike + compared - alike);
            }
            println!(
                "{} T {temperature} k {top_k} p {top_p}: {unlike} of {steps} steps unlike",
                case.name
            );
            // An id that is within rounding of the border is in one set and not in the other, and
            // behind it the completions part.
            assert!(unlike * 200 <= steps, "{unlike} of {steps}");
        }
    }
}

/// Compares two completions up to the first step that differs: (steps alike, steps compared). The
/// sets of a step that differs may do so by an id at the border, or have swapped two of them.
fn compare(ours: &Rollout, theirs: &Rollout) -> (usize, usize) {
    let sets = |rollout: &Rollout| -> Vec<BTreeSet<i64>> {
        let of_token = |token: TokenMask| token.runs().flatten().collect();
        rollout.kept_ids.tokens().map(of_token).collect()
    };
    let (our_sets, their_sets) = (sets(ours), sets(theirs));
    assert_eq!(our_sets.is_empty(), their_sets.is_empty());
    for at in 0..ours.completion_ids.len() {
        let same_set = our_sets.get(at) == their_sets.get(at);
        if same_set && ours.completion_ids.get(at) == theirs.completion_ids.get(at) {
            let (own, other) = (ours.behaviour_logprobs[at], theirs.behaviour_logprobs[at]);
            assert!((own - other).abs() < 1e-4, "{own} {other} at {at}");
            continue;
        }
        if !same_set {
            let (ours, theirs) = (&our_sets[at], &their_sets[at]);
            let unlike = ours.symmetric_difference(theirs).count();
            let sizes = (ours.len(), theirs.len());
            assert!(unlike <= 2, "{unlike} ids unlike at {at}, of {sizes:?}");
        }
        return (at, at + 1);
    }
    (ours.completion_ids.len(), ours.completion_ids.len())
}

/// Rows that have to give up their pages come back and draw what they would have drawn.
#[test]
#[ignore = "needs a GPU"]
fn rows_that_were_put_back_draw_the_same_ids() {
    for case in &cases() {
        let model = model(case, Kind::Float);
        // 12 rows of up to 4 pages, in 14 pages.
        let request = request(case, &[1, 17, 64, 130], 3, 110, 1.0);
        let few = Slots {
            count: 12,
            tokens: 14 * 64,
        };
        let mut own = Sampler::new(&model, few, false, SystemClock::shared()).unwrap();
        let mut drawn = Rollouts::new();
        let mut completed = |rollout: Rollout| {
            drawn.insert((rollout.key.prompt, rollout.key.sample), rollout);
        };
        let metrics = own
            .generate(&model, &request, &mut completed, &mut |_, _| {})
            .unwrap();
        assert!(used_own_kernels(&own));
        let preemptions = metrics["perf/sampling_preemptions"];
        let expected = generate(&mut sampler(&model, 12, 256), &model, &request);
        assert_eq!(drawn.len(), expected.len());
        for (key, rollout) in &drawn {
            let same = rollout.completion_ids == expected[key].completion_ids;
            assert!(same, "{key:?}, {}", case.name);
        }
        let [ours, theirs] = [&drawn, &expected].map(|drawn| difference(&model, drawn, 1.0));
        println!(
            "{}: {preemptions} put back, {ours:e}, without {theirs:e}",
            case.name
        );
        assert!(ours < 2.0 * theirs + 1e-5, "{ours:e}, {theirs:e}");
    }
}

/// Memory that training had in between, and graphs of the cache's earlier place.
#[test]
#[ignore = "needs a GPU"]
fn a_cache_that_was_given_back_serves_again() {
    let (first, latent) = (dense(&SHAPES[0]), cases().remove(SHAPES.len()));
    for case in [adapted(&first), first, latent] {
        let model = model(&case, Kind::BFloat16);
        let request = request(&case, &[1, 17, 64, 130], 8, 64, 1.0);
        let mut own = sampler(&model, 32, 256).with_own_kernels(true);
        let drawn = generate(&mut own, &model, &request);
        let mut others = vec![];
        for size in [1 << 14, 1 << 18, 1 << 22] {
            own.release().unwrap();
            let options = (Kind::Float, model.device());
            let noise = (0..64).map(|_| Tensor::full([size], f64::NAN, options));
            others.extend(noise);
            assert!(generate(&mut own, &model, &request) == drawn, "{size}");
        }
        assert!(used_own_kernels(&own));
    }
}

/// A request decodes by the adapters as they are when it comes, although its graphs are of an
/// earlier one.
#[test]
#[ignore = "needs a GPU"]
fn adapters_that_have_changed_are_merged_again() {
    let case = adapted(&dense(&SHAPES[0]));
    let model = model(&case, Kind::BFloat16);
    let request = request(&case, &[1, 17, 64], 4, 40, 1.0);
    let mut own = sampler(&model, 12, 256).with_own_kernels(true);
    let before = generate(&mut own, &model, &request);
    fill_adapters(&model, 1.0);
    let after = generate(&mut own, &model, &request);
    assert!(used_own_kernels(&own));
    assert!(before != after, "the adapters do something");
    assert!(after == generate(&mut sampler(&model, 12, 256), &model, &request));
}

#[test]
#[ignore = "needs a GPU"]
fn long_caches_are_read_in_parts() {
    for case in [dense(&SHAPES[0]), cases().remove(SHAPES.len())] {
        for kind in [Kind::Float, Kind::BFloat16] {
            let model = model(&case, kind);
            let request = request(&case, &[1500, 3, 700], 1, 60, 1.0);
            let mut own = sampler(&model, 3, 2048).with_own_kernels(true);
            let drawn = generate(&mut own, &model, &request);
            assert!(used_own_kernels(&own));
            let mut other = sampler(&model, 3, 2048).with_own_kernels(false);
            let others = generate(&mut other, &model, &request);
            let [ours, theirs] =
                [&drawn, &others].map(|rollouts| difference(&model, rollouts, 1.0));
            println!(
                "{} parts {kind:?}: ours {ours:e}, libtorch's {theirs:e}",
                case.name
            );
            let rounding = if kind == Kind::Float { 5e-5 } else { 0.01 };
            assert!(ours < 2.0 * theirs + rounding, "{ours:e}, {theirs:e}");
        }
    }
}

#[test]
#[ignore = "needs a GPU"]
fn in_bfloat16_they_are_no_farther_from_training_than_libtorch() {
    no_farther_from_training_than_libtorch(&cases());
}

#[test]
#[ignore = "needs a GPU"]
fn with_adapters_in_bfloat16_they_are_no_farther_from_training_than_libtorch() {
    no_farther_from_training_than_libtorch(&adapted_cases());
}

fn no_farther_from_training_than_libtorch(cases: &[Case]) {
    for case in cases {
        let model = model(case, Kind::BFloat16);
        let request = request(case, &[1, 17, 64, 130], 8, 64, 1.0);
        let mut own = sampler(&model, 32, 256).with_own_kernels(true);
        let drawn = generate(&mut own, &model, &request);
        assert!(used_own_kernels(&own));
        let again = generate(&mut own, &model, &request);
        assert!(drawn == again, "the same bits each time");
        let mut other = sampler(&model, 32, 256).with_own_kernels(false);
        let others = generate(&mut other, &model, &request);
        let (ours, theirs) = (
            difference(&model, &drawn, 1.0),
            difference(&model, &others, 1.0),
        );
        println!(
            "{} bfloat16: ours {ours:e}, libtorch's {theirs:e}",
            case.name
        );
        assert!(ours < 2.0 * theirs + 0.01, "{ours:e}, {theirs:e}");
    }
}

/// With few rows by kernels of FP8, with many by products of what was rounded; the second shape has
/// a matrix whose width FP8 does not take.
#[test]
#[ignore = "needs a GPU"]
fn in_fp8_they_are_no_farther_from_training_than_libtorch() {
    for (shape, width) in [(&SHAPES[0], 1024), (&SHAPES[1], 1000), (&SHAPES[2], 512)] {
        let plain = dense(shape);
        let sizes = format!("\"intermediate_size\": {width}");
        let case = Case {
            name: format!("{} FP8", plain.name),
            config: plain.config.replace("\"intermediate_size\": 1000", &sizes),
            fp8: true,
            ..plain
        };
        let model = model(&case, Kind::BFloat16);
        for samples in [1, 3, 8, 25] {
            let request = request(&case, &[1, 17, 64, 130], samples, 64, 1.0);
            let mut own = sampler(&model, 128, 256).with_own_kernels(true);
            let drawn = generate(&mut own, &model, &request);
            assert!(used_own_kernels(&own));
            assert!(
                drawn == generate(&mut own, &model, &request),
                "the same bits"
            );
            let mut other = sampler(&model, 128, 256).with_own_kernels(false);
            let others = generate(&mut other, &model, &request);
            let [ours, theirs] = [&drawn, &others].map(|drawn| difference(&model, drawn, 1.0));
            println!(
                "{} × {samples}: ours {ours:e}, libtorch's {theirs:e}",
                case.name
            );
            assert!(ours < 2.0 * theirs + 0.01, "{ours:e}, {theirs:e}");
        }
    }
}

/// The share of samples that an id gets is its probability, over many draws.
#[test]
#[ignore = "needs a GPU"]
fn many_draws_follow_the_probabilities() {
    let case = &dense(&SHAPES[4]);
    let model = model(case, Kind::Float);
    let request = request(case, &[4], 4000, 2, 1.0);
    let mut own = sampler(&model, 256, 64).with_own_kernels(true);
    let drawn = generate(&mut own, &model, &request);
    // Second ids after each first id that is frequent.
    let mut pairs: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for rollout in drawn.values() {
        if let [first, second] = rollout.completion_ids[..] {
            pairs.entry(first).or_default().push(second);
        }
    }
    let (first, seconds) = pairs
        .iter()
        .max_by_key(|(_, seconds)| seconds.len())
        .unwrap();
    let mut ids: Vec<i64> = request.groups[0]
        .prompt_ids
        .iter()
        .map(|id| i64::from(*id))
        .collect();
    ids.push(i64::from(*first));
    let batch = Packed::new(
        Tensor::from_slice(&ids).to_device(model.device()),
        vec![ids.len() as i64],
    );
    let probabilities: Vec<f32> = tch::no_grad(|| {
        let hidden = model.forward(&batch, &Forward::default()).unwrap().hidden;
        let last = hidden.narrow(0, ids.len() as i64 - 1, 1);
        let logits = model.logits(&last, &Forward::default()).unwrap();
        logits
            .softmax(-1, Kind::Float)
            .view([-1])
            .to_device(tch::Device::Cpu)
    })
    .try_into()
    .unwrap();
    let count = seconds.len() as f64;
    for (id, p) in probabilities.iter().enumerate() {
        let share = seconds
            .iter()
            .filter(|drawn| **drawn as usize == id)
            .count() as f64
            / count;
        let p = f64::from(*p);
        let deviation = (p * (1.0 - p) / count).sqrt();
        assert!(
            (share - p).abs() < 5.0 * deviation + 1e-3,
            "id {id}: {share} of {count}, probability {p}"
        );
    }
    println!("draws: {count} seconds after {first}");
}
