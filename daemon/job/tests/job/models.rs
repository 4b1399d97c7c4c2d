//! Jobs of several models: a teacher and its students.

use crate::{JOB, parse};
use r1d_job::plan::{InputFacts, Room, stages, warnings};
use r1d_job::{Metric, ModelShape, Origin, StageKind, TemplateSource};
use std::collections::BTreeMap;

/// [`JOB`] with two students: the stages from the sixth on are theirs.
fn with_students() -> String {
    let models = "[models.qwen]\ninit = \"qwen.json\"\ntokenizer = \
                  \"tokenizer-qwen\"\n[models.llama]\npath = \"llama\"\n[data.corpus]";
    let stages = r#"
[[stage]]
name = "qwen-base"
kind = "pretrain"
model = "qwen"
data = "corpus"
steps = 10

[[stage]]
name = "llama-sft"
kind = "sft"
model = "llama"
data = "good"
epochs = 1

[[stage]]
name = "qwen-sft"
kind = "sft"
model = "qwen"
data = "good"
epochs = 1

[[stage]]
name = "last"
kind = "sft"
data = "good"
epochs = 1

[[eval]]"#;
    JOB.replace("[data.corpus]", models)
        .replace("[[eval]]", stages)
}

fn refusal(from: &str, to: &str) -> String {
    let text = with_students();
    assert!(text.contains(from), "{from:?} is not in the job");
    parse(&text.replacen(from, to, 1))
        .expect_err("the job is wrong")
        .to_string()
}

#[test]
fn a_stage_goes_on_from_the_nearest_of_its_own_model() {
    let job = parse(&with_students()).unwrap();
    let from = |name: &str| job.stage(name).unwrap().from.clone();
    assert_eq!(from("qwen-base"), Origin::Base);
    assert_eq!(from("llama-sft"), Origin::Base);
    assert_eq!(from("qwen-sft"), Origin::Stage("qwen-base".into()));
    assert_eq!(
        from("last"),
        Origin::Stage("again".into()),
        "the students' stages lie between"
    );
    assert_eq!(job.models().count(), 3);
    let tokenizers: Vec<_> = job
        .models()
        .map(|model| model.tokenizer().display().to_string())
        .collect();
    assert_eq!(
        tokenizers,
        ["/jobs/tokenizer", "/jobs/llama", "/jobs/tokenizer-qwen"]
    );
    let models: Vec<_> = job
        .stages
        .iter()
        .skip(4)
        .map(|stage| job.model_of(stage))
        .collect();
    assert_eq!(models, [0, 2, 1, 2, 0]);
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
}

#[test]
fn the_weights_that_a_job_starts_from_are_those_of_its_own_model() {
    let job = parse(&with_students()).unwrap();
    assert_eq!(job.first_of_own_model(), Some(0));
    let first_of_a_student = with_students().replacen(
        "kind = \"pretrain\"\n",
        "kind = \"pretrain\"\nmodel = \"qwen\"\n",
        1,
    );
    assert_eq!(
        parse(&first_of_a_student).unwrap().first_of_own_model(),
        Some(1)
    );
}

#[test]
fn what_does_not_go_together_is_refused_with_the_fix() {
    let text = refusal("model = \"qwen\"", "model = \"qwem\"");
    assert!(
        text.contains(
            "[[stage]] \"qwen-base\": `model` = \"qwem\" is no model of this job (the nearest is \
             \"qwen\")"
        ),
        "{text}"
    );
    assert!(text.contains("leave `model` out for [model]"), "{text}");
    let text = refusal(
        "name = \"qwen-sft\"",
        "name = \"qwen-sft\"\nfrom = \"reasoning\"",
    );
    assert!(
        text.contains(
            "`from` = \"reasoning\" is a stage of [model], and this one is of [models.qwen]"
        ),
        "{text}"
    );
    assert!(
        text.contains("name a stage of [models.qwen], as \"qwen-base\", or \"base\""),
        "{text}"
    );
    let text = refusal("name = \"last\"", "name = \"last\"\nfrom = \"llama-sft\"");
    assert!(
        text.contains("is a stage of [models.llama], and this one is of [model]"),
        "{text}"
    );
    let text = refusal(
        "name = \"llama-sft\"",
        "name = \"llama-sft\"\nfrom = \"qwen-base\"",
    );
    assert!(
        text.contains("set from = \"base\" for the weights of [models.llama]"),
        "{text}"
    );
    for later in ["qwen-base", "qwen-sft"] {
        let text = refusal(
            "name = \"qwen-base\"",
            &format!("name = \"qwen-base\"\nfrom = {later:?}"),
        );
        assert!(
            text.contains(&format!(
                "`from` = {later:?} does not come before this stage; stages run in order"
            )),
            "{text}"
        );
    }
    let text = refusal("path = \"llama\"", "path = \"llama\"\ndtype = \"bfloat16\"");
    assert!(
        text.contains("unknown key `dtype`; [model] says it for every model of the job"),
        "{text}"
    );
    let text = refusal("tokenizer = \"tokenizer-qwen\"", "");
    assert!(
        text.contains("[models.qwen]: `init` gives weights and no tokenizer"),
        "{text}"
    );
    let text = refusal("[models.llama]\npath = \"llama\"", "[models]\nllama = 3");
    assert!(text.contains("as in [models.student]"), "{text}");
}

#[test]
fn memory_and_limits_are_of_each_stages_own_model() {
    let job = parse(&with_students()).unwrap();
    let facts = |parameters, max_position_embeddings| ModelShape {
        scores: false,
        architecture: "Qwen2ForCausalLM".into(),
        parameters,
        active_parameters: parameters,
        vocab_size: 10,
        max_position_embeddings,
        cache_values_per_token: 6,
        activations: Default::default(),
        routing: None,
        prediction: None,
        linear_layers: vec![],
    };
    let all = [facts(1000, 4096), facts(50, 512), facts(7, 4096)];
    let seen = InputFacts {
        eval_prompt_max: vec![100, 200, 300],
        rows: BTreeMap::from([("llama-sft".into(), 9)]),
        ..InputFacts::default()
    };
    let plan = stages(&job, &all, &seen, Room::default());
    let policy: Vec<_> = plan
        .iter()
        .map(|stage| stage.memory["policy"] / 4)
        .collect();
    assert_eq!(policy, [1000, 1000, 1000, 1000, 1000, 7, 50, 7, 1000]);
    assert_eq!(plan[6].model.as_deref(), Some("llama"));
    // Evaluations alone: their longest prompt as the stage's model reads it, 200 + 512 and 300 +
    // 512 tokens in whole blocks of 64.
    assert_eq!(plan[6].memory["sampler"], 256 * 768 * 6 * 4);
    assert_eq!(plan[7].memory["sampler"], 256 * 832 * 6 * 4);
    let warned = warnings(&job, &all, &seen).join("\n");
    assert!(
        warned.contains(
            "\"llama-sft\" makes sequences of up to 1024 tokens; the model's positions reach to 512"
        ),
        "{warned}"
    );
    assert_eq!(warned.matches("positions reach to").count(), 1, "{warned}");
}

#[test]
fn what_a_students_architecture_lacks_is_told_of_its_own_stages() {
    let dense = r#"{"model_type": "qwen2", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}"#;
    let facts = vec![ModelShape::from_config(dense).unwrap(); 3];
    let text = with_students().replace(
        "name = \"llama-sft\"",
        "name = \"llama-sft\"\nmtp_loss_weight = 0.3",
    );
    let error = r1d_job::validate::check_models(&parse(&text).unwrap(), &facts)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("[[stage]] \"llama-sft\"")
            && error.contains("no multi-token prediction module"),
        "{error}"
    );
}

const DISTILL: &str = "\n[[stage]]\nname = \"taught\"\nkind = \"distill\"\nmodel = \"qwen\"\ndata \
                       = \"good\"\nepochs = 1\n\n[[eval]]";

#[test]
fn distillation_is_fine_tuning_of_another_model_in_its_chat_template() {
    let text = with_students().replace("\n[[eval]]", DISTILL);
    let job = parse(&text).unwrap();
    let stage = job.stage("taught").unwrap();
    let StageKind::Sft(sft) = &stage.kind else {
        panic!("{stage:?}")
    };
    assert_eq!(
        (stage.kind_name(), &sft.template),
        ("distill", &Some(TemplateSource::Chat))
    );
    assert_eq!(stage.from, Origin::Stage("qwen-sft".into()));
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
    let own = parse(&text.replace(
        "name = \"taught\"",
        "name = \"taught\"\ntemplate = \"prompt.jinja\"",
    ))
    .unwrap();
    let StageKind::Sft(sft) = &own.stage("taught").unwrap().kind else {
        panic!()
    };
    assert_eq!(
        sft.template,
        Some(TemplateSource::File("/jobs/prompt.jinja".into()))
    );
    assert_eq!(parse(&own.to_toml()).unwrap(), own);
    let alone = text.replace(
        "kind = \"distill\"\nmodel = \"qwen\"\n",
        "kind = \"distill\"\n",
    );
    let error = parse(&alone).unwrap_err().to_string();
    assert!(
        error.contains(
            "[[stage]] \"taught\": nothing says which student learns; name [models.llama], and \
             set `model`"
        ),
        "{error}"
    );
    // Its columns are those of an sft stage.
    let direct = parse(&text.replace(
        "data = \"good\"\nepochs = 1\n\n[[eval]]",
        "data = \"more\"\nepochs = 1\n[data.more]\npath = \"more.jsonl\"\n[[eval]]",
    ))
    .unwrap();
    let more = &direct.data["more"];
    assert_eq!(
        (more.prompt.as_deref(), more.completion.as_deref()),
        (Some("prompt"), Some("completion"))
    );
}

#[test]
fn an_evaluation_may_be_a_stage() {
    let exam = "\n[[stage]]\nname = \"exam\"\nkind = \"eval\"\nmodel = \"qwen\"\ndata = \
                \"train\"\nnum_generations = 4\nmetrics = [\"avg@4\", \"pass@1\"]\n\n[[eval]]";
    let text = with_students().replace("\n[[eval]]", exam);
    let job = parse(&text).unwrap();
    let stage = job.stage("exam").unwrap();
    let eval = stage.evaluation().unwrap();
    assert_eq!(
        (eval.temperature, eval.top_p, eval.max_completion_length),
        (0.6, 0.95, 512),
        "R1's protocol"
    );
    assert_eq!(eval.metrics, [Metric::Avg(4), Metric::Pass(1)]);
    assert_eq!(
        (stage.trains(), stage.steps(70), &stage.from),
        (false, 0, &Origin::Stage("qwen-sft".into()))
    );
    assert_eq!(
        job.evaluations()
            .map(|eval| eval.data.as_str())
            .collect::<Vec<_>>(),
        ["train", "train"]
    );
    assert_eq!(
        (job.evaluation_of(stage), job.evaluation_of(&job.stages[0])),
        (Some(1), None)
    );
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
    assert!(!job.to_toml().contains("\nsteps = 0"));
    let refused = |from: &str, to: &str| parse(&text.replace(from, to)).unwrap_err().to_string();
    let error = refused("num_generations = 4", "num_generations = 3");
    assert!(
        error.contains("[[stage]] \"exam\": avg@4 needs more completions than num_generations = 3"),
        "{error}"
    );
    let error = refused(
        "data = \"train\"\nnum_generations",
        "data = \"good\"\nnum_generations",
    );
    assert!(
        error.contains("[[stage]] \"exam\": \"good\" is what a stage keeps"),
        "{error}"
    );
    let error = refused("num_generations = 4", "steps = 4");
    assert!(error.contains("unknown key `steps`"), "{error}");
    let error = refused("[[eval]]", "[[eval]]\nstages = [\"exam\"]");
    assert!(error.contains("which trains nothing"), "{error}");
}
