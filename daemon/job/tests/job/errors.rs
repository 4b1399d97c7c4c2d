//! Each mistake is named with its line, table and key, and with what to do.

use crate::{JOB, parse, refusal};

#[test]
fn the_job_that_the_others_break_is_right() {
    parse(JOB).unwrap();
}

#[test]
fn an_unknown_key_names_the_nearest() {
    assert_eq!(
        refusal("steps = 200", "steps = 200\nnum_generation = 8"),
        "line 37, [[stage]] \"reasoning\": unknown key `num_generation`; the nearest known key is \
         `num_generations`"
    );
    assert_eq!(
        refusal("name = \"all-stages\"", "name = \"x\"\nsede = 1"),
        "line 3, the top level: unknown key `sede`; the nearest known key is `seed`"
    );
}

#[test]
fn second_moments_that_rounding_would_hold_are_refused() {
    let narrow = "steps = 200\nexp_avg_sq_dtype = \"bfloat16\"";
    let error = refusal("steps = 200", narrow);
    assert!(
        error.contains("exp_avg_sq_dtype = \"bfloat16\" with adam_beta2 = 0.999")
            && error.contains("set `adam_beta2` to 0.99 at most"),
        "{error}"
    );
    let followed = format!("{narrow}\nadam_beta2 = 0.95");
    parse(&JOB.replace("steps = 200", &followed)).unwrap();
}

#[test]
fn a_key_that_other_trainers_have_is_named_as_it_is_here() {
    assert_eq!(
        refusal("epochs = 2", "num_train_epochs = 2"),
        "line 30, [[stage]] \"cold-start\": unknown key `num_train_epochs`; here it is called \
         `epochs`"
    );
}

#[test]
fn a_key_of_another_table_says_which() {
    for (wrong, hint) in [
        ("max_prompt_length = 64", "it belongs to [data.NAME]"),
        ("seed = 3", "it belongs to the top level"),
    ] {
        let text = refusal("steps = 200", &format!("steps = 200\n{wrong}"));
        assert!(text.ends_with(hint), "{text}");
    }
}

#[test]
fn a_key_like_no_other_gets_no_suggestion() {
    let text = refusal("steps = 200", "steps = 200\nuse_vllm = true");
    assert!(
        text.ends_with("unknown key `use_vllm`; `r1ctl explain` lists the keys that there are"),
        "{text}"
    );
}

#[test]
fn a_key_of_another_stage_kind_says_which() {
    let text = refusal("epochs = 2", "epochs = 2\nnum_generations = 4");
    assert_eq!(
        text,
        "line 31, [[stage]] \"cold-start\": unknown key `num_generations`; it belongs to kind = \
         \"grpo\""
    );
}

#[test]
fn a_wrong_type_names_key_and_type() {
    assert_eq!(
        refusal("steps = 200", "steps = \"200\""),
        "line 36, [[stage]] \"reasoning\": `steps` is the string \"200\", expected an integer \
         from 1 to 4294967296"
    );
    assert!(
        refusal("steps = 200", "steps = 200\ntemperature = true")
            .contains("`temperature` is true, expected a number of at least 0")
    );
    assert!(
        refusal("steps = 200", "steps = 200\nloss_type = \"ppo\"")
            .contains("expected one of \"grpo\", \"dr_grpo\", \"dapo\"")
    );
    assert!(
        refusal("config = {", "config = { when = 2024-01-01,")
            .contains("`config` is a table, expected a table of values that JSON can say")
    );
    let text = refusal(
        "name = \"all-stages\"",
        "name = \"x\"\n[data.empty]\npath = \"\"",
    );
    assert!(
        text.ends_with("`path` is an empty string, expected a path"),
        "{text}"
    );
    let text = refusal(
        "name = \"all-stages\"",
        "name = \"x\"\n[data.empty]\npath = \"a\"\ntext = \"\"",
    );
    assert!(
        text.ends_with("`text` is an empty string, expected a string that is not empty"),
        "{text}"
    );
    assert!(
        refusal("name = \"all-stages\"", "name = \"../up\"")
            .contains("`name` is the string \"../up\", expected a name")
    );
}

#[test]
fn a_number_out_of_range_says_the_range() {
    let text = refusal("steps = 200", "steps = 200\ntop_p = 1.5");
    assert_eq!(
        text,
        "line 37, [[stage]] \"reasoning\": `top_p` = 1.5 is out of range: expected a number above \
         0 and at most 1"
    );
    assert!(refusal("steps = 200", "steps = 200\nlearning_rate = nan").contains("out of range"));
    assert!(
        refusal("steps = 200", "steps = 200\ntop_p = 0").contains("`top_p` = 0 is out of range")
    );
    assert!(refusal("steps = 200", "steps = 0").contains("`steps` = 0 is out of range"));
}

#[test]
fn what_is_missing_is_named_with_what_to_write() {
    assert_eq!(
        parse("seed = 1").unwrap_err().to_string(),
        "line 1, the top level: `name` is missing: write name = \"my-job\" at the top of the file"
    );
    assert!(
        refusal("data = \"corpus\"", "")
            .contains("[[stage]] \"language\": `data` is missing: name a table [data.NAME]")
    );
    assert!(refusal("kind = \"sft\"", "").contains(
        "[[stage]] \"cold-start\": `kind` is missing: one of \"pretrain\", \"sft\", \"distill\", \
         \"grpo\", \"ppo\", \"dpo\", \"rejection-sampling\", \"reward-model\", \"eval\""
    ));
}

#[test]
fn a_text_that_is_not_toml_names_the_line() {
    let text = refusal("steps = 200", "steps 200");
    assert!(text.starts_with("line 36: not TOML: "), "{text}");
    let text = refusal("plugin = \"accuracy\"", "plugin = accuracy");
    assert!(
        text.starts_with("line 39: not TOML: `plugin`: string values must be quoted"),
        "{text}"
    );
}

#[test]
fn what_a_later_release_brings_is_refused_by_name() {
    let text = refusal("kind = \"sft\"", "kind = \"sftt\"");
    assert!(
        text.contains("expected one of \"pretrain\", \"sft\""),
        "{text}"
    );
    let text = refusal(
        "[[eval]]",
        "[checkpoint]\nto = \"s3://bucket/prefix\"\n[[eval]]",
    );
    assert!(
        text.contains("(s3://) is not in this release: write file:// and an absolute path"),
        "{text}"
    );
}

#[test]
fn unsound_pairs_are_refused_with_the_fix() {
    let grpo = |keys: &str| refusal("steps = 200", &format!("steps = 200\n{keys}"));
    assert_eq!(
        grpo("num_generations = 1"),
        "[[stage]] \"reasoning\": num_generations = 1: a completion is judged relative to its \
         group, and alone it has none; set num_generations to 2 or more (R1 used 16), or \
         baseline = \"batch\""
    );
    assert!(grpo("epsilon_high = 0.1").contains(
        "epsilon_high = 0.1 is below epsilon = 0.2; set epsilon_high to epsilon or more"
    ));
    assert!(
        grpo("prompts_per_step = 3\nsteps_per_generation = 16")
            .ends_with("set steps_per_generation = 12, or change the others")
    );
    assert!(grpo("temperature = 0").contains("set temperature = 1.0"));
    assert!(grpo("sync_ref_steps = 400").contains("set beta above 0"));
    assert!(
        grpo("max_completion_length = 20000")
            .contains("raise `max_tokens_per_device` to at least 20000")
    );
    assert!(
        grpo("warmup_steps = 201")
            .contains("warmup_steps = 201 is longer than the stage's 200 updates")
    );
    assert!(
        grpo("epochs = 1")
            .contains("`steps` and `epochs` both say how long it runs; keep one of them")
    );
    assert!(grpo("from = \"cold-strat\"").contains(
        "`from` = \"cold-strat\" is no stage before this one (the nearest is \"cold-start\")"
    ));
    assert!(refusal("data = \"corpus\"", "data = \"corpse\"").contains(
        "is no data set of this job (the nearest is \"corpus\"); add a table [data.corpse]"
    ));
    assert!(
        refusal("name = \"cold-start\"", "name = \"language\"")
            .contains("two stages have this name")
    );
    assert!(
        refusal("name = \"cold-start\"", "name = \"base\"")
            .contains("\"base\" names a model's own weights")
    );
    assert!(
        refusal(
            "plugin = \"accuracy\"",
            "plugin = \"accuracy\"\nname = \"brevity\""
        )
        .contains("two rewards of the stage have this name")
    );
    let undomained = JOB.replace("domain = \"kind\"", "").replace(
        "plugin = \"accuracy\"",
        "plugin = \"accuracy\"\ndomains = [\"math\"]",
    );
    assert!(
        parse(&undomained)
            .unwrap_err()
            .to_string()
            .contains("add `domain` to [data.train], or leave `domains` out")
    );
    assert!(refusal("reference = \"answer\"", "").contains("add `reference` to [data.train]"));
    assert!(
        refusal("[[eval]]\ndata = \"train\"", "[[eval]]\ndata = \"tset\"")
            .contains("[[eval]] \"tset\": `data` = \"tset\" is no data set")
    );
    assert!(
        refusal("[[eval]]", "[[eval]]\nmetrics = [\"pass@4\"]").contains(
            "pass@4 needs more completions than num_generations = 1; set num_generations = 4"
        )
    );
    assert!(
        refusal("[[eval]]", "[[eval]]\nmetrics = [\"f1\"]")
            .contains("write pass@k, avg@k or cons@k")
    );
    assert!(
        refusal("[[eval]]", "[[eval]]\nstages = [\"reasonin\"]")
            .contains("(the nearest is \"reasoning\")")
    );
    assert!(refusal("tokenizer = \"tokenizer\"", "").contains("add `tokenizer`"));
    assert!(
        refusal(
            "init = \"tiny.json\"",
            "init = \"tiny.json\"\npath = \"model\""
        )
        .contains("`path` and `init` both say")
    );
    let text = refusal(
        "[model]",
        "batch_invariant = true\n[model]\ndtype = \"bfloat16\"",
    );
    assert!(
        text.contains(
            "`batch_invariant` is exact in float32 alone; set dtype = \"float32\" in [model]"
        ),
        "{text}"
    );
}

#[test]
fn batch_invariant_is_refused_where_it_does_not_hold() {
    let job = parse(&JOB.replace(
        "name = \"all-stages\"",
        "name = \"exact\"\nbatch_invariant = true",
    ))
    .unwrap();
    r1d_job::validate::check_device(&job, "cpu").unwrap();
    let eighth =
        parse(&JOB.replace("[model]", "[model]\ndtype = \"bfloat16\"\nfp8 = true")).unwrap();
    r1d_job::validate::check_device(&eighth, "cuda:0").unwrap();
    let text = r1d_job::validate::check_device(&eighth, "cpu")
        .unwrap_err()
        .to_string();
    assert!(text.contains("fp8 = true needs a GPU"), "{text}");
    let text = refusal("[model]", "[model]\nfp8 = true");
    assert!(text.contains("set dtype = \"bfloat16\""), "{text}");
    let text = r1d_job::validate::check_device(&job, "cuda:0")
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("the job's device is cuda:0; set batch_invariant = false"),
        "{text}"
    );
}

#[test]
fn names_may_not_leave_the_jobs_directory() {
    for name in ["..", ".hidden", "a/b", "", "-x", &"x".repeat(65)] {
        assert!(
            parse(&JOB.replace("\"cold-start\"", &format!("{name:?}"))).is_err(),
            "{name:?}"
        );
    }
}

#[test]
fn a_prediction_module_is_trained_from_the_first_stage_on() {
    let both = JOB.replace(
        "kind = \"pretrain\"",
        "kind = \"pretrain\"\nmtp_loss_weight = 0.3",
    );
    let job =
        parse(&both.replace("kind = \"sft\"", "kind = \"sft\"\nmtp_loss_weight = 0.1")).unwrap();
    assert_eq!(
        (
            job.stages[0].mtp_loss_weight(),
            job.stages[1].mtp_loss_weight(),
            job.stages[2].mtp_loss_weight()
        ),
        (0.3, 0.1, 0.0)
    );
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
    let text = refusal("kind = \"sft\"", "kind = \"sft\"\nmtp_loss_weight = 0.1");
    assert!(
        text.contains("after stage \"language\", which leaves the prediction module out"),
        "{text}"
    );
    let drafting = "kind = \"grpo\"\nspeculative_decoding = true";
    let text = refusal("kind = \"grpo\"", drafting);
    assert!(
        text.contains("speculative_decoding = true after stage")
            && text.contains("leaves the prediction module out"),
        "{text}"
    );
    let job = parse(&job.to_toml().replace(
        "speculative_decoding = false",
        "speculative_decoding = true",
    ))
    .unwrap();
    assert!(job.stages[2].speculative_decoding() && job.stages[2].opens_prediction());
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
}

#[test]
fn a_layout_that_cannot_be_names_one_that_can() {
    let job = |layout: &str| {
        let table = format!("[parallel]\n{layout}\n[model]");
        parse(&JOB.replace("[model]", &table))
    };
    let refusal = |layout: &str| job(layout).unwrap_err().to_string();
    let text = refusal("data = 0");
    assert!(text.contains("`data` = 0 is out of range"), "{text}");
    let text = refusal("data = 4096\nexpert = 2");
    assert!(text.contains("at most 4096"), "{text}");
    let text = refusal("shard = \"weights\"");
    assert!(text.contains("\"optimizer\", \"parameters\""), "{text}");
    let text = refusal("data = 16\nlayout_independent = true");
    assert!(
        text.contains("holds on 8 devices at most; make `data` × `expert` 8"),
        "{text}"
    );
    let text = refusal("data = 2\nlayout_independent = true");
    assert!(
        text.contains("set batch_invariant = true at the top level"),
        "{text}"
    );

    let fits = |layout: &str, config: &str| {
        let facts = r1d_job::ModelShape::from_config(config).unwrap();
        r1d_job::validate::check_models(&job(layout).unwrap(), &[facts])
    };
    let refusal = |layout: &str, config: &str| fits(layout, config).unwrap_err().to_string();
    let experts = r#"{"model_type": "qwen3_moe", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
        "moe_intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "head_dim": 8, "num_experts": 12, "num_experts_per_tok": 2}"#;
    fits("data = 5\nexpert = 6", experts).unwrap();
    let text = refusal("expert = 8", experts);
    assert!(
        text.contains("`expert` is one of 1, 2, 3, 4, 6, 12") && text.contains("set expert = 6"),
        "{text}"
    );
    let dense = r#"{"model_type": "qwen2", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}"#;
    fits("data = 5", dense).unwrap();
    let text = refusal("expert = 2", dense);
    assert!(
        text.contains("expert = 2, but the model has no experts"),
        "{text}"
    );

    let devices = ["cpu:0", "cpu:1", "cpu:2"].map(String::from);
    let on_node = |layout: &str| {
        let job = job(layout).unwrap();
        r1d_job::validate::check_devices(&job, &devices).map_err(|error| error.to_string())
    };
    on_node("data = 3").unwrap();
    let text = on_node("data = 2\nexpert = 2").unwrap_err();
    assert!(
        text.contains("needs 4 devices, and the node has 3 (cpu:0, cpu:1, cpu:2)")
            && text.contains("set data = 1 instead of 2"),
        "{text}"
    );
    let text = on_node("expert = 4").unwrap_err();
    assert!(
        text.contains("set data = 1 and an expert of 3 at most"),
        "{text}"
    );
    let tree = |layout: &str, count: usize| {
        let table = format!(
            "batch_invariant = true\n[parallel]\nlayout_independent = true\n{layout}\n[model]"
        );
        let job = parse(&JOB.replace("[model]", &table)).unwrap();
        let devices = crate::parallel::devices("cpu", count);
        let checked = r1d_job::validate::check_devices(&job, &devices);
        checked.map_err(|error| error.to_string())
    };
    tree("data = 2\nexpert = 2", 4).unwrap();
    // What is advised fits the node, beside the factor that is right.
    for (layout, count, refused, fix) in [
        (
            "expert = 3",
            2,
            "expert = 3 is no power",
            "set expert to 1 or 2, whichever",
        ),
        (
            "expert = 3",
            20,
            "expert = 3 is no power",
            "set expert to 1 or 2 or 4 or 8, whichever",
        ),
        (
            "expert = 3\ndata = 2",
            7,
            "expert = 3",
            "set expert to 1 or 2, whichever",
        ),
        (
            "data = 3\nexpert = 2",
            8,
            "data = 3",
            "set data to 1 or 2 or 4, or layout",
        ),
        (
            "data = 3\nexpert = 2",
            3,
            "data = 3",
            "set data to 1, or layout",
        ),
    ] {
        let text = tree(layout, count).unwrap_err();
        assert!(
            text.contains(refused) && text.contains(fix),
            "{layout}: {text}"
        );
    }
    let built_in = |layout: &str, devices: &[String]| {
        let job = job(layout).unwrap();
        r1d_job::validate::check_built_in(&job, devices).map_err(|error| error.to_string())
    };
    built_in("data = 3\nshard = \"optimizer\"", &devices).unwrap();
    built_in("data = 2\nexpert = 2", &devices).unwrap();
    let drafting = JOB
        .replace("[model]", "[parallel]\nexpert = 2\n[model]")
        .replace(
            "kind = \"grpo\"",
            "kind = \"grpo\"\nfrom = \"base\"\nspeculative_decoding = true",
        );
    let drafting = parse(&drafting).unwrap();
    let text = r1d_job::validate::check_built_in(&drafting, &devices)
        .unwrap_err()
        .to_string();
    assert!(
        text.contains("with experts on several devices is not in this release: set it to false"),
        "{text}"
    );
    let gpus = ["cuda:0", "cuda:1"].map(String::from);
    built_in("shard = \"optimizer\"", &gpus).unwrap();
    for (layout, devices, fix) in [
        (
            "data = 2\nshard = \"parameters\"",
            &devices[..],
            "set shard = \"optimizer\"",
        ),
        ("data = 2\ntransport = \"nccl\"", &devices, "leave it out"),
        ("data = 2", &gpus, "a gang on GPUs (the node has cuda:0)"),
    ] {
        let text = built_in(layout, devices).unwrap_err();
        let is_told = text.contains("is not in this release") && text.contains(fix);
        assert!(is_told, "{layout}: {text}");
    }
}

#[test]
fn what_the_model_lacks_is_refused_before_anything_is_trained() {
    let facts = |more: &str| {
        let config = r#"{"model_type": "deepseek_v3", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "moe_intermediate_size": 16,
            "num_hidden_layers": 3, "num_attention_heads": 4, "n_routed_experts": 8, "kv_lora_rank": 16, "q_lora_rank": 12, "qk_rope_head_dim": 8,
            "v_head_dim": 10, "qk_nope_head_dim": 6, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1 MORE}"#;
        r1d_job::ModelShape::from_config(&config.replace(" MORE", more)).unwrap()
    };
    let check = |job: &str, more: &str| {
        r1d_job::validate::check_models(&parse(job).unwrap(), &[facts(more)])
    };
    let predicting = JOB.replace(
        "kind = \"pretrain\"",
        "kind = \"pretrain\"\nmtp_loss_weight = 0.3",
    );
    check(&predicting, ", \"num_nextn_predict_layers\": 1").unwrap();
    let text = check(&predicting, "").unwrap_err().to_string();
    assert!(
        text.contains("mtp_loss_weight = 0.3") && text.contains("num_nextn_predict_layers"),
        "{text}"
    );
    let drafting = JOB.replace(
        "kind = \"grpo\"",
        "kind = \"grpo\"\nfrom = \"base\"\nspeculative_decoding = true",
    );
    check(&drafting, ", \"num_nextn_predict_layers\": 1").unwrap();
    let text = check(&drafting, "").unwrap_err().to_string();
    assert!(
        text.contains("speculative_decoding = true") && text.contains("num_nextn_predict_layers"),
        "{text}"
    );
    let adapted = |targets: &str| {
        JOB.replace(
            "kind = \"sft\"",
            &format!("kind = \"sft\"\nlora_r = 4\nlora_target_modules = {targets}"),
        )
    };
    check(&adapted("[\"q_b_proj\", \"self_attn.o_proj\"]"), "").unwrap();
    check(&adapted("[\"all-linear\"]"), "").unwrap();
    check(&adapted("[\"all-linear\", \"experts.gate_proj\"]"), "").unwrap();
    let text = check(&adapted("[\"gate\"]"), "").unwrap_err().to_string();
    assert!(
        text.contains("\"gate\"") && text.contains("kv_b_proj"),
        "{text}"
    );
}

#[test]
fn a_metric_without_its_number_is_told_to_have_one() {
    let text = refusal("[[eval]]", "[[eval]]\nmetrics = [\"pass@k\"]");
    assert!(
        text.contains("`metrics` names \"pass@k\"")
            && text.contains("k is a number, as in \"pass@8\""),
        "{text}"
    );
}
