//! The plan's arithmetic.

use crate::{JOB, parse};
use r1d_job::plan::{
    InputFacts, Room, check_records, check_room, fitting_tokens, host_memory, memory, peak,
    small_caches, stages, warnings,
};
use r1d_job::{LinearLayers, ModelShape, RoutingShape};
use r1d_shape::Activations;
use std::collections::BTreeMap;

/// Sizes that `transformers` counts; `model_sizes.py` writes them.
const SIZES: &str = include_str!("golden/model_sizes.json");

#[test]
fn sizes_are_those_of_transformers() {
    let cases: Vec<serde_json::Value> = serde_json::from_str(SIZES).unwrap();
    assert!(cases.len() >= 6);
    for case in cases {
        let facts = ModelShape::from_config(&case["config"].to_string()).unwrap();
        assert_eq!(
            facts.parameters,
            case["parameters"].as_u64().unwrap(),
            "{}",
            case["config"]
        );
        assert_eq!(
            facts.active_parameters,
            case["active_parameters"].as_u64().unwrap(),
            "{}",
            case["config"]
        );
        assert_eq!(
            facts.cache_values_per_token,
            case["cache_values_per_token"].as_u64().unwrap(),
            "{}",
            case["config"]
        );
        assert_eq!(facts.architecture, case["architecture"].as_str().unwrap());
    }
}

#[test]
fn a_config_that_cannot_be_counted_says_why() {
    let error = |text: &str| ModelShape::from_config(text).unwrap_err().to_string();
    assert!(error("{").starts_with("model config: not JSON"));
    assert!(error(r#"{"model_type": "mamba"}"#).contains(
        "`model_type` is \"mamba\", which is not supported: supported are DeepseekV3ForCausalLM"
    ));
    assert!(
        error(r#"{"model_type": "qwen2", "num_hidden_layers": 2, "vocab_size": 8}"#)
            .contains("`hidden_size` is missing")
    );
}

pub(crate) fn facts() -> ModelShape {
    ModelShape {
        scores: false,
        architecture: "Qwen2ForCausalLM".into(),
        parameters: 1000,
        active_parameters: 1000,
        vocab_size: 10,
        max_position_embeddings: 256,
        cache_values_per_token: 6,
        activations: Activations {
            all_blocks: 60,
            largest_block: 40,
            blocks: 2,
            inputs: 10,
        },
        routing: None,
        prediction: None,
        linear_layers: vec![LinearLayers {
            name: "q_proj",
            adapter_values: 30,
            weight_values: 200,
            fused: "qkv_proj",
            by_default: true,
        }],
    }
}

fn seen() -> InputFacts {
    InputFacts {
        rows: BTreeMap::from([
            ("language".into(), 90),
            ("cold-start".into(), 100),
            ("reasoning".into(), 7000),
            ("good".into(), 7000),
        ]),
        prompt_max: BTreeMap::from([("reasoning".into(), 100)]),
        eval_prompt_max: vec![120],
        eval_rows: vec![7000],
        asked: BTreeMap::new(),
    }
}

#[test]
fn steps_tokens_and_memory_add_up() {
    let job = parse(&JOB.replace("steps = 200", "steps = 200\nbeta = 0.1")).unwrap();
    let plan = stages(&job, &[facts()], &seen(), Room::default());
    assert_eq!(
        plan.iter().map(|s| s.steps).collect::<Vec<_>>(),
        [100, 25, 200, 219, 0],
        "2 epochs of 100 rows by 8 are 25 steps"
    );
    assert_eq!(
        plan.iter().map(|s| s.from.as_str()).collect::<Vec<_>>(),
        ["base", "language", "cold-start", "reasoning", "base"]
    );
    assert_eq!(plan[2].tokens_per_step, 32 * 8 * (100 + 512));
    assert_eq!(plan[2].rewards, ["accuracy", "brevity"]);
    assert_eq!(job.stages[0].tokens_per_step(0), 8 * 1024);
    // float32: weights 4 bytes, two moments 8; 256 slots of 120 + 512 tokens, in blocks of 64.
    // An update of several micro-batches of 16,384 tokens: activations, logits, gradients.
    let update = 60 * 16_384 * 4 + 10 * 16_384 * 4 * 7 + 4000;
    let expected = BTreeMap::from([
        ("policy".to_string(), 4000),
        ("reference".to_string(), 4000),
        ("optimiser".to_string(), 8000),
        ("update".to_string(), update),
        ("sampler".to_string(), 256 * 640 * 6 * 4),
    ]);
    assert_eq!(
        memory(&job, &job.stages[2], &[facts()], &seen(), Room::default()),
        expected
    );
}

/// What is sampled to evaluate: before the first step, inside the stages and behind them.
#[test]
fn evaluations_are_planned_with_their_stages() {
    let evals = |more: &str, seen: &InputFacts| {
        let with = format!("num_generations = 4\nmax_rows = 50\n{more}");
        let job = parse(&format!("{JOB}{with}")).unwrap();
        let plan = stages(&job, &[facts()], seen, Room::default());
        let times = plan.iter().map(|stage| {
            let times = stage.evals.iter().map(|eval| (eval.times, eval.tokens));
            times.collect::<Vec<_>>()
        });
        times.collect::<Vec<_>>()
    };
    // 50 rows, 4 completions of each; 120 + 512 tokens.
    let tokens = |times: u64| (times, times * 50 * 4 * 632);
    // Rejection sampling leaves the weights as they are; how long the last stage is, is not known.
    let of = |language, cold_start, reasoning| {
        let known = [language, cold_start, reasoning].map(|times| vec![tokens(times)]);
        [&known[..], &[vec![], vec![tokens(0)]]].concat()
    };
    assert_eq!(evals("", &seen()), of(2, 1, 1));
    assert_eq!(evals("at_start = false", &seen()), of(1, 1, 1));
    // Of 100, 25 and 200 steps; the last one of a stage is not counted twice.
    assert_eq!(evals("every_steps = 50", &seen()), of(3, 1, 4));
    let inside = "every_steps = 50\nstages = [\"reasoning\"]";
    assert_eq!(evals(inside, &seen()), of(2, 1, 4));
}

/// An evaluation that is a stage is made once.
#[test]
fn an_eval_stage_is_planned_once() {
    let stage = "[[stage]]\nname = \"exam\"\nkind = \"eval\"\ndata = \"train\"\n\n[[eval]]";
    let job = parse(&JOB.replace("[[eval]]", stage)).unwrap();
    let seen = InputFacts {
        eval_rows: vec![10, 30],
        ..seen()
    };
    let plan = stages(&job, &[facts()], &seen, Room::default());
    let exam = plan.last().unwrap();
    assert_eq!((exam.evals.len(), exam.evals[0].times), (1, 1));
    assert_eq!(exam.evals[0].completions, 30);
}

#[test]
fn moments_in_bfloat16_need_half_the_memory() {
    let narrow = "steps = 200\nadam_beta2 = 0.95\nexp_avg_dtype = \"bfloat16\"\n\
                  exp_avg_sq_dtype = \"bfloat16\"";
    let job = parse(&JOB.replace("steps = 200", narrow)).unwrap();
    let bytes = memory(&job, &job.stages[2], &[facts()], &seen(), Room::default());
    // Two moments 4 bytes.
    assert_eq!(bytes["optimiser"], 4000);
}

/// Blocks that run again keep their inputs alone, and one of them is whole at a time.
#[test]
fn blocks_that_run_again_keep_their_inputs() {
    let update = |settings: &str| {
        let job = parse(&JOB.replace("steps = 200", &format!("steps = 200\n{settings}"))).unwrap();
        memory(&job, &job.stages[2], &[facts()], &seen(), Room::default())["update"]
    };
    let logits_and_gradients = 10 * 16_384 * 4 * 7 + 4000;
    let values = |settings: &str| (update(settings) - logits_and_gradients) / (16_384 * 4);
    assert_eq!(values(""), 60);
    assert_eq!(values("gradient_checkpointing = true"), 40 + 10);
    let half = "gradient_checkpointing = true\nrecompute_num_layers = 1";
    assert_eq!(values(half), 30 + 40 + 5);
    // An update that is one small micro-batch: its tokens, and no sums beside them.
    let small = update("prompts_per_step = 2\nnum_generations = 2");
    assert_eq!(small, 4 * 612 * (60 + 10 * 7) * 4);
}

/// In bfloat16 gradients are summed in float32 beside the weights; with the optimiser on the host
/// the device has neither moments nor masters; and adapters take the weights' place.
#[test]
fn the_optimiser_is_counted_where_it_is() {
    let job = |settings: &str| {
        let wide = JOB.replace("[model]", "[model]\ndtype = \"bfloat16\"");
        parse(&wide.replace("steps = 200", &format!("steps = 200\n{settings}"))).unwrap()
    };
    let device = |settings: &str| {
        let job = job(settings);
        memory(&job, &job.stages[2], &[facts()], &seen(), Room::default())
    };
    let host = |settings: &str| {
        let job = job(settings);
        host_memory(&job, &job.stages[2], &[facts()])
            .get("optimiser")
            .copied()
    };
    let counted = device("");
    assert_eq!((counted["optimiser"], counted["gradients"]), (12_000, 4000));
    assert_eq!(host(""), None);
    let counted = device("optimizer_offload = \"cpu\"");
    assert_eq!(
        (counted.get("optimiser"), counted["gradients"]),
        (None, 4000)
    );
    // Beside it, what passes between the two: gradients and weights, two of each.
    assert_eq!(host("optimizer_offload = \"cpu\""), Some(12_000 + 16_000));
    let counted = device("beta = 0.1\nlora_r = 2\nlora_target_modules = [\"q_proj\"]");
    assert_eq!((counted["policy"], counted["reference"]), (2000 + 120, 120));
    assert_eq!((counted["optimiser"], counted["gradients"]), (60 * 12, 240));
}

/// On a GPU the sampler multiplies by copies of adapted matrices, whole ones: k_proj is a part of
/// the matrix that q_proj is in.
#[test]
fn copies_of_adapted_weights_are_the_samplers() {
    let layers = |name, weight_values, fused| LinearLayers {
        name,
        adapter_values: 30,
        weight_values,
        fused,
        by_default: true,
    };
    let shape = ModelShape {
        linear_layers: vec![
            layers("q_proj", 200, "qkv_proj"),
            layers("k_proj", 50, "qkv_proj"),
            layers("o_proj", 7, "o_proj"),
        ],
        ..facts()
    };
    let lora = "steps = 200\nlora_r = 2\nlora_target_modules = [\"q_proj\"]";
    let job = parse(&JOB.replace("steps = 200", lora)).unwrap();
    let of_device = |device| {
        let room = Room { device, host: None };
        memory(
            &job,
            &job.stages[2],
            std::slice::from_ref(&shape),
            &seen(),
            room,
        )["sampler"]
    };
    let cache = 256 * 640 * 6 * 4;
    assert_eq!(of_device(None), cache);
    assert_eq!(of_device(Some(1 << 40)), cache + 250 * 4);
    // In FP8 they are of all layers, in e4m3 and in bfloat16.
    let fp8 = JOB.replace("[model]", "[model]\ndtype = \"bfloat16\"\nfp8 = true");
    let job = parse(&fp8).unwrap();
    let shape = std::slice::from_ref(&shape);
    let room = Room {
        device: Some(1 << 40),
        host: None,
    };
    let counted = memory(&job, &job.stages[2], shape, &seen(), room)["sampler"];
    assert_eq!(counted, cache / 2 + 257 * 3);
}

/// A snapshot is a checkpoint in the host's memory.
#[test]
fn the_hosts_memory_holds_a_checkpoint() {
    let job = parse(JOB).unwrap();
    let plan = stages(&job, &[facts()], &seen(), Room::default());
    let snapshot = |stage: usize| plan[stage].host_memory.get("snapshot").copied();
    assert_eq!(
        snapshot(0),
        Some(12_000),
        "weights and two moments in float32"
    );
    assert_eq!(snapshot(3), None, "it keeps completions and trains nothing");
}

#[test]
fn gradient_checkpointing_reaches_the_worker() {
    let recomputed = |settings: &str| {
        let job = parse(&JOB.replace("steps = 200", &format!("steps = 200\n{settings}"))).unwrap();
        job.stages[2]
            .gradient_checkpointing()
            .map(|checkpointing| checkpointing.recompute_num_layers)
    };
    assert_eq!(recomputed("recompute_num_layers = 3"), None);
    assert_eq!(recomputed("gradient_checkpointing = true"), Some(u32::MAX));
    assert_eq!(
        recomputed("gradient_checkpointing = true\nrecompute_num_layers = 3"),
        Some(3)
    );
}

/// 256 completions of 612 tokens train; evaluations need not decode 256 completions of 33 thousand
/// tokens at a time.
#[test]
fn a_long_evaluation_does_not_size_the_cache_of_training() {
    let long = |settings: &str| {
        let job = JOB.replace(
            "[[eval]]\ndata = \"train\"",
            "[[eval]]\ndata = \"train\"\nmax_completion_length = 32768",
        );
        assert!(job.contains("32768"));
        parse(&format!("{job}\n{settings}")).unwrap()
    };
    let slots =
        |job: &r1d_job::Job, stage: usize| job.slots(&job.stages[stage], 100, 120, None).unwrap();
    let job = long("");
    assert_eq!(
        slots(&job, 2).tokens,
        256 * 640,
        "what the stage's own steps need"
    );
    assert_eq!(
        (
            slots(&job, 2).fitting(100 + 512),
            slots(&job, 2).fitting(120 + 32768)
        ),
        (256, 4)
    );
    // A stage that samples for evaluations alone.
    assert_eq!(
        (slots(&job, 1).tokens, slots(&job, 1).fitting(120 + 32768)),
        (1 << 19, 15)
    );
    assert_eq!(
        memory(&job, &job.stages[2], &[facts()], &seen(), Room::default())["sampler"],
        256 * 640 * 6 * 4
    );
    // One completion of an evaluation always fits.
    assert_eq!(slots(&long("[sampler]\nslots = 2"), 2).tokens, 32896);
    let job = long("[sampler]\ntokens = 1_000_000");
    assert_eq!(
        (slots(&job, 2).tokens, slots(&job, 2).fitting(120 + 32768)),
        (1_000_000, 30)
    );
    assert_eq!(
        slots(&long("[sampler]\nslots = 3"), 1).tokens,
        3 * 32896,
        "what was asked for"
    );
}

/// Without a size in the job file, the cache has what nine tenths of the device leave beside models
/// and optimisers, and no more than all completions come to.
#[test]
fn the_device_sizes_a_cache_that_is_not_given() {
    let room = |device| Room {
        device: Some(device),
        host: None,
    };
    let all = 256 * 640;
    let cached = |job: &r1d_job::Job, device: u64| {
        let (stage, room) = (&job.stages[2], room(device));
        let fitting = fitting_tokens(job, stage, &[facts()], &seen(), room);
        let slots = job.slots(stage, 100, 120, fitting).unwrap();
        let counted = memory(job, stage, &[facts()], &seen(), room)["sampler"];
        assert_eq!(
            counted,
            slots.tokens * 6 * 4,
            "the plan counts what is opened"
        );
        slots.tokens
    };
    let job = parse(JOB).unwrap();
    assert_eq!(cached(&job, 1 << 40), all);
    // Weights of 4,000 bytes and moments of 8,000, and 24 bytes for each token.
    let leaves = |tokens: u64| (tokens * 24 + 12_000) / 90 * 100 + 200;
    assert_eq!(cached(&job, leaves(640 * 100)), 640 * 100);
    assert_eq!(
        cached(&job, leaves(640 * 100 + 32)),
        640 * 100,
        "whole pages"
    );
    assert_eq!(cached(&job, 1000), 640, "one completion always has room");
    let referred = parse(&JOB.replace("steps = 200", "steps = 200\nbeta = 0.1")).unwrap();
    assert_eq!(
        cached(&referred, leaves(640 * 100)),
        (640 * 100 - 4000 / 24) / 64 * 64,
        "the reference takes its part"
    );
    let given = parse(&format!("{JOB}\n[sampler]\ntokens = 100_000")).unwrap();
    assert_eq!(cached(&given, 1000), 100_000, "what was asked for");
    // It is said of the stage whose cache became smaller, and of no other.
    let small = |job, device| small_caches(job, &[facts()], &seen(), room(device));
    assert_eq!(small(&job, 1 << 40), [] as [&str; 0]);
    assert_eq!(small(&given, 1000), [] as [&str; 0]);
    let told = small(&job, leaves(640 * 100)).join("\n");
    assert!(
        told.contains("\"reasoning\": the sampler's cache holds 64000 tokens of the 163840"),
        "{told}"
    );
}

/// A device's size decides nothing where it is not known, as on a CPU.
#[test]
fn a_cache_on_a_cpu_holds_all_completions() {
    let job = parse(JOB).unwrap();
    let of_host = Room {
        device: None,
        host: Some(1000),
    };
    let fitting = fitting_tokens(&job, &job.stages[2], &[facts()], &seen(), of_host);
    assert_eq!(fitting, None);
}

/// On a GPU update and cache take turns; on a CPU both stay.
#[test]
fn the_peak_is_the_larger_of_the_phases() {
    let memory = |sampler, update| {
        let each = [("policy", 100), ("sampler", sampler), ("update", update)];
        BTreeMap::from(each.map(|(holder, bytes)| (holder.to_owned(), bytes)))
    };
    let gpu = Room {
        device: Some(1),
        host: None,
    };
    assert_eq!(peak(&memory(30, 50), gpu), 150);
    assert_eq!(peak(&memory(50, 30), gpu), 150);
    assert_eq!(peak(&memory(50, 30), Room::default()), 180);
    let of_stage = BTreeMap::from([("policy".to_owned(), 100), ("update".to_owned(), 7)]);
    assert_eq!(peak(&of_stage, gpu), 107, "a stage that samples nothing");
    // The plan's line has it, and a warning is given where the peak is too high.
    let job = parse(JOB).unwrap();
    let device = 1 << 26;
    let room = Room {
        device: Some(device),
        host: None,
    };
    let plan = stages(&job, &[facts()], &seen(), room);
    let line = &plan[2];
    assert_eq!(
        line.memory_peak,
        12_000 + line.memory["update"].max(line.memory["sampler"])
    );
    let all: u64 = line.memory.values().sum();
    let between = Room {
        device: Some(all - 1),
        host: None,
    };
    assert_eq!(
        check_room(&job, &plan[2..3], &[facts()], &seen(), between, &[]).unwrap(),
        [] as [&str; 0]
    );
}

#[test]
fn a_schedule_is_as_long_as_the_updates() {
    let job = parse(&JOB.replace(
        "steps = 200",
        "steps = 200\nnum_iterations = 2\nsteps_per_generation = 4",
    ))
    .unwrap();
    assert_eq!(job.stages[2].optimiser(200).unwrap().total_steps, 1600);
    let objective = job.stages[2].grpo().unwrap().objective(0);
    assert_eq!(
        (objective.num_iterations, objective.num_minibatches),
        (2, 4)
    );
}

/// The number of updates of a stage that counts epochs is known once its rows are.
#[test]
fn a_warm_up_that_is_longer_than_its_epochs_is_warned_of() {
    let told = |warmup: u64| {
        let job = parse(&JOB.replace(
            "epochs = 2",
            &format!("epochs = 2\nwarmup_steps = {warmup}"),
        ))
        .unwrap();
        let all = warnings(&job, &[facts()], &seen());
        all.into_iter()
            .find(|warning| warning.contains("warmup_steps"))
    };
    let warning = told(26).unwrap();
    assert!(
        warning.contains("\"cold-start\"")
            && warning.contains("warmup_steps = 26 is longer than its 25 updates"),
        "{warning}"
    );
    assert_eq!(told(25), None);
}

#[test]
fn what_is_probably_not_meant_is_said() {
    let job = parse(&JOB.replace(
        "[data.corpus]",
        "[data.spare]\npath = \"spare.jsonl\"\n[data.corpus]",
    ))
    .unwrap();
    let all = warnings(&job, &[facts()], &seen()).join("\n");
    assert!(
        all.contains("[data.spare] is used by no stage and no evaluation"),
        "{all}"
    );
    assert!(
        all.contains(
            "\"reasoning\" makes sequences of up to 612 tokens; the model's positions reach to 256"
        ),
        "{all}"
    );
    let scratch = JOB.replace("kind = \"grpo\"", "kind = \"grpo\"\nfrom = \"base\"");
    assert!(
        warnings(&parse(&scratch).unwrap(), &[], &seen())
            .join("\n")
            .contains("starts reinforcement learning from random weights")
    );
    let few = InputFacts {
        rows: BTreeMap::from([("reasoning".into(), 20)]),
        ..InputFacts::default()
    };
    let all = warnings(&parse(JOB).unwrap(), &[], &few).join("\n");
    assert!(
        all.contains("goes through its 20 rows 320 times") && all.contains("a step repeats rows"),
        "{all}"
    );
}

#[test]
fn a_step_that_takes_each_row_once_repeats_none() {
    let warned = |job: &str, rows: u64| {
        let job = parse(job).unwrap();
        let seen = InputFacts {
            rows: job
                .stages
                .iter()
                .map(|stage| (stage.name.clone(), rows))
                .collect(),
            ..InputFacts::default()
        };
        warnings(&job, &[], &seen)
            .join("\n")
            .contains("a step repeats rows")
    };
    let sampled = |length: &str| {
        format!(
            "name = \"x\"\n[model]\npath = \"m\"\n[data.d]\npath = \"d.jsonl\"\nreference = \
             \"answer\"\n[[stage]]\nname = \"s\"\nkind = \"rejection-sampling\"\ndata = \
             \"d\"\nprompts_per_step = 64\n{length}\n[[stage.reward]]\nplugin = \"accuracy\"\n"
        )
    };
    assert!(
        !warned(&sampled("epochs = 1"), 2),
        "two completions are sampled"
    );
    assert!(warned(&sampled("epochs = 2"), 2) && warned(&sampled("steps = 1"), 2));
}

#[test]
fn a_completion_whose_experts_no_record_holds_is_refused_before_it_is_sampled() {
    let check = |routing, tokens: u32| {
        let job = parse(&JOB.replace(
            "steps = 200",
            &format!(
                "steps = 200\nmax_completion_length = {tokens}\nmax_tokens_per_device = {tokens}"
            ),
        ))
        .unwrap();
        check_records(&job, &[ModelShape { routing, ..facts() }], &seen())
            .map_err(|error| error.to_string())
    };
    let r1 = Some(RoutingShape {
        layers: 58,
        experts: 256,
        per_token: 8,
    });
    // The paper's own lengths, and the longest that its positions allow.
    for tokens in [8192, 32_768, 131_072] {
        check(r1, tokens).unwrap();
    }
    let refused = check(r1, 400_000).unwrap_err();
    assert!(
        refused.contains("\"reasoning\"")
            && refused.contains("400100 tokens")
            && refused.contains("max_completion_length"),
        "{refused}"
    );
    check(None, 400_000).unwrap();
}

#[test]
fn masks_that_may_not_fit_are_warned_of_with_a_top_k_that_does() {
    let large = ModelShape {
        vocab_size: 151_936,
        ..facts()
    };
    let told = |keys: &str, facts: ModelShape| {
        let job = parse(&JOB.replace("steps = 200", &format!("steps = 200\n{keys}"))).unwrap();
        let all = warnings(&job, &[facts], &seen());
        all.into_iter()
            .find(|warning| warning.contains("keeps the sampling mask"))
    };
    // Completions of 512 tokens: 16,384 numbers of a record for each.
    let warning = told("top_p = 0.9", large.clone()).unwrap();
    assert!(
        warning.contains("\"reasoning\"") && warning.contains("top_k = 8191 always fits"),
        "{warning}"
    );
    assert!(
        told("top_p = 0.9\ntop_k = 9000", large.clone())
            .unwrap()
            .contains("top_k = 8191")
    );
    for fits in [
        "",
        "top_p = 0.9\ntop_k = 8191",
        "top_p = 0.9\nkeep_sampling_mask = false",
    ] {
        assert_eq!(told(fits, large.clone()), None, "{fits}");
    }
    assert_eq!(
        told("top_p = 0.9", facts()),
        None,
        "no set of a small vocabulary is long"
    );
}

/// What no GPU of the node can hold is refused with what the plan counts; what may be too large at
/// its peak is warned of.
#[test]
fn a_job_that_cannot_fit_is_refused_with_the_plans_count() {
    let job = parse(JOB).unwrap();
    let plan = stages(&job, &[facts()], &seen(), Room::default());
    let check = |device: Option<u64>, host: u64| {
        let host = Some(host);
        let room = Room { device, host };
        check_room(&job, &plan, &[facts()], &seen(), room, &[])
    };
    assert_eq!(check(Some(1 << 40), 1 << 40).unwrap(), [] as [&str; 0]);
    let text = check(Some(11_999), 1 << 40).unwrap_err().to_string();
    assert!(
        text.contains("\"language\"") && text.contains("optimiser 0.0 GiB"),
        "{text}"
    );
    let warned = check(Some(1 << 20), 1 << 40).unwrap().join("\n");
    assert!(
        warned.contains("\"reasoning\" may take") && warned.contains("gradient_checkpointing"),
        "{warned}"
    );
    // On a CPU both are the host's, which may get more.
    let warned = check(None, 15_999).unwrap().join("\n");
    assert!(warned.contains("of the host's memory"), "{warned}");
    // Two CPU devices have it twice.
    let of_host = plan
        .iter()
        .map(|stage| stage.memory_peak + stage.host_memory.get("optimiser").copied().unwrap_or(0));
    let host = of_host.max().unwrap();
    let told = |data| {
        let table = format!("[parallel]\ndata = {data}\n[model]");
        let job = parse(&JOB.replace("[model]", &table)).unwrap();
        let room = Room {
            device: None,
            host: Some(host),
        };
        let warned = check_room(&job, &plan, &[facts()], &seen(), room, &[]);
        warned.unwrap().join("\n")
    };
    assert_eq!(told(1), "");
    assert!(told(2).contains("of the host's memory"), "{}", told(2));
}
