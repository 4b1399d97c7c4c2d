//! Jobs of several models: a teacher and its students.

use crate::{JOB, parse};
use r1d_job::plan::{Seen, stages, warnings};
use r1d_job::{ModelFacts, Origin};
use std::collections::BTreeMap;

/// [`JOB`] with two students: the stages from the sixth on are theirs.
fn with_students() -> String {
    let models = "[models.qwen]\ninit = \"qwen.json\"\ntokenizer = \"tokenizer-qwen\"\n[models.llama]\npath = \"llama\"\n[data.corpus]";
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
    JOB.replace("[data.corpus]", models).replace("[[eval]]", stages)
}

fn refusal(from: &str, to: &str) -> String {
    let text = with_students();
    assert!(text.contains(from), "{from:?} is not in the job");
    parse(&text.replacen(from, to, 1)).expect_err("the job is wrong").to_string()
}

#[test]
fn a_stage_goes_on_from_the_nearest_of_its_own_model() {
    let job = parse(&with_students()).unwrap();
    let from = |name: &str| job.stage(name).unwrap().from.clone();
    assert_eq!(from("qwen-base"), Origin::Base);
    assert_eq!(from("llama-sft"), Origin::Base);
    assert_eq!(from("qwen-sft"), Origin::Stage("qwen-base".into()));
    assert_eq!(from("last"), Origin::Stage("again".into()), "the students' stages lie between");
    assert_eq!(job.models().count(), 3);
    let tokenizers: Vec<_> = job.models().map(|model| model.tokenizer().display().to_string()).collect();
    assert_eq!(tokenizers, ["/jobs/tokenizer", "/jobs/llama", "/jobs/tokenizer-qwen"]);
    let models: Vec<_> = job.stages.iter().skip(4).map(|stage| job.model_of(stage)).collect();
    assert_eq!(models, [0, 2, 1, 2, 0]);
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
}

#[test]
fn the_weights_that_a_job_starts_from_are_those_of_its_own_model() {
    let job = parse(&with_students()).unwrap();
    assert_eq!(job.first_of_own_model(), Some(0));
    let first_of_a_student = with_students().replacen("kind = \"pretrain\"\n", "kind = \"pretrain\"\nmodel = \"qwen\"\n", 1);
    assert_eq!(parse(&first_of_a_student).unwrap().first_of_own_model(), Some(1));
}

#[test]
fn what_does_not_go_together_is_refused_with_the_fix() {
    let text = refusal("model = \"qwen\"", "model = \"qwem\"");
    assert!(text.contains("[[stage]] \"qwen-base\": `model` = \"qwem\" is no model of this job (the nearest is \"qwen\")"), "{text}");
    assert!(text.contains("leave `model` out for [model]"), "{text}");
    let text = refusal("name = \"qwen-sft\"", "name = \"qwen-sft\"\nfrom = \"reasoning\"");
    assert!(text.contains("`from` = \"reasoning\" is a stage of [model], and this one is of [models.qwen]"), "{text}");
    assert!(text.contains("name a stage of [models.qwen], as \"qwen-base\", or \"base\""), "{text}");
    let text = refusal("name = \"last\"", "name = \"last\"\nfrom = \"llama-sft\"");
    assert!(text.contains("is a stage of [models.llama], and this one is of [model]"), "{text}");
    let text = refusal("name = \"llama-sft\"", "name = \"llama-sft\"\nfrom = \"qwen-base\"");
    assert!(text.contains("set from = \"base\" for the weights of [models.llama]"), "{text}");
    let text = refusal("path = \"llama\"", "path = \"llama\"\ndtype = \"bfloat16\"");
    assert!(text.contains("unknown key `dtype`; [model] says it for every model of the job"), "{text}");
    let text = refusal("tokenizer = \"tokenizer-qwen\"", "");
    assert!(text.contains("[models.qwen]: `init` gives weights and no tokenizer"), "{text}");
    let text = refusal("[models.llama]\npath = \"llama\"", "[models]\nllama = 3");
    assert!(text.contains("as in [models.student]"), "{text}");
}

#[test]
fn memory_and_limits_are_of_each_stages_own_model() {
    let job = parse(&with_students()).unwrap();
    let facts = |parameters, max_position_embeddings| ModelFacts {
        architecture: "Qwen2ForCausalLM".into(),
        parameters,
        active_parameters: parameters,
        vocab_size: 10,
        max_position_embeddings,
        cache_values_per_token: 6,
        prediction: None,
        linear_layers: vec!["q_proj"],
    };
    let all = [facts(1000, 4096), facts(50, 512), facts(7, 4096)];
    let seen = Seen { eval_prompt_max: vec![100, 200, 300], rows: BTreeMap::from([("llama-sft".into(), 9)]), ..Seen::default() };
    let plan = stages(&job, &all, &seen);
    let policy: Vec<_> = plan.iter().map(|stage| stage.memory["policy"] / 4).collect();
    assert_eq!(policy, [1000, 1000, 1000, 1000, 1000, 7, 50, 7, 1000]);
    assert_eq!(plan[6].model.as_deref(), Some("llama"));
    // Evaluations alone: their longest prompt as the stage's model reads it.
    assert_eq!(plan[6].memory["sampler"], 256 * (200 + 512) * 6 * 4);
    assert_eq!(plan[7].memory["sampler"], 256 * (300 + 512) * 6 * 4);
    let warned = warnings(&job, &all, &seen).join("\n");
    assert!(warned.contains("\"llama-sft\" makes sequences of up to 1024 tokens; the model's positions reach to 512"), "{warned}");
    assert_eq!(warned.matches("positions reach to").count(), 1, "{warned}");
}

#[test]
fn what_a_students_architecture_lacks_is_told_of_its_own_stages() {
    let dense = r#"{"model_type": "qwen2", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}"#;
    let facts = vec![ModelFacts::from_config(dense).unwrap(); 3];
    let text = with_students().replace("name = \"llama-sft\"", "name = \"llama-sft\"\nmtp_loss_weight = 0.3");
    let error = r1d_job::sound::check_models(&parse(&text).unwrap(), &facts).unwrap_err().to_string();
    assert!(error.contains("[[stage]] \"llama-sft\"") && error.contains("no multi-token prediction module"), "{error}");
}
