//! Rewards that ask a model which writes: a stage's policy, a model of the job, a directory.

use crate::parse;
use r1d_job::fingerprint::depends;
use r1d_job::plan::{InputFacts, Room, memory};
use r1d_job::{AskedModel, ModelShape};

const JOB: &str = r#"
name = "judged"
[model]
init = "tiny.json"
tokenizer = "tokenizer"
[models.wise]
path = "models/wise"
[models.random]
init = "other.json"
tokenizer = "other"
[data.rows]
path = "rows.jsonl"
reference = "answer"
[[stage]]
name = "policy"
kind = "sft"
data = "rows"
epochs = 1
[[stage]]
name = "judge"
kind = "sft"
from = "base"
data = "rows"
epochs = 1
[[stage]]
name = "kept"
kind = "rejection-sampling"
from = "policy"
data = "rows"
num_generations = 4
  [[stage.reward]]
  plugin = "correctness"
  model = "judge"
  max_answer_length = 64
  [[stage.reward]]
  plugin = "correctness"
  name = "second"
  model = "wise"
  [[stage.reward]]
  plugin = "accuracy"
  weight = 0.0
[[stage]]
name = "later"
kind = "sft"
from = "policy"
data = "kept"
epochs = 1
"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(JOB.contains(from), "{from:?} is not in the job");
    parse(&JOB.replacen(from, to, 1))
        .expect_err("the job is wrong")
        .to_string()
}

#[test]
fn a_judge_is_a_stage_or_a_model_of_the_job() {
    let job = parse(JOB).unwrap();
    let rewards = &job.stages[2].rollouts().unwrap().rewards;
    let asked: Vec<_> = rewards.iter().map(|reward| job.asked(reward)).collect();
    // After the job's own, models are in the order of their names.
    assert_eq!(
        asked,
        [Some(AskedModel::Stage(1)), Some(AskedModel::Model(2)), None]
    );
    assert_eq!(
        (rewards[0].max_answer_length, rewards[1].max_answer_length),
        (64, 1024)
    );
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
    // A stage with the name of a plugin that asks no model is not that plugin's judge, wherever it
    // stands.
    let named = JOB.replace("name = \"later\"", "name = \"accuracy\"");
    assert_eq!(parse(&named).unwrap().asked(&rewards[2]), None);
}

#[test]
fn who_cannot_be_asked_is_refused_with_the_fix() {
    let misspelt = refusal("model = \"judge\"", "model = \"jugde\"");
    assert!(
        misspelt.contains(
            "neither a stage before this one nor a table [models.NAME] (the nearest is \"judge\")"
        ),
        "{misspelt}"
    );
    let later = refusal("model = \"judge\"", "model = \"later\"");
    assert!(
        later.contains(
            "stage \"later\" has trained, which does not come before it; put that stage before"
        ),
        "{later}"
    );
    assert!(refusal("model = \"judge\"", "model = \"kept\"").contains("does not come before it"));
    let random = refusal("model = \"wise\"", "model = \"random\"");
    assert!(
        random.contains("[models.random], which starts from random weights"),
        "{random}"
    );
    let both = refusal(
        "[models.wise]",
        "[models.judge]\npath = \"models/judge\"\n[models.wise]",
    );
    assert!(
        both.contains(
            "`model` = \"judge\" is a stage and a table [models.judge]; give one of them another \
             name"
        ),
        "{both}"
    );
    let exam = "[[stage]]\nname = \"exam\"\nkind = \"eval\"\nfrom = \"policy\"\ndata = \
                \"rows\"\n[[stage]]\nname = \"kept\"";
    let idle = JOB
        .replace("[[stage]]\nname = \"kept\"", exam)
        .replace("model = \"judge\"", "model = \"exam\"");
    let idle = parse(&idle).unwrap_err().to_string();
    assert!(
        idle.contains(
            "it asks stage \"exam\", which trains nothing; name \"policy\", whose weights it has"
        ),
        "{idle}"
    );
    let bare = parse(&JOB.replace("reference = \"answer\"\n", ""))
        .unwrap_err()
        .to_string();
    assert!(
        bare.contains(
            "correctness compares with a reference, and [data.rows] names no column for it"
        ),
        "{bare}"
    );
    assert!(
        refusal("max_answer_length = 64", "max_answer_length = 0").contains("max_answer_length")
    );
}

#[test]
fn what_is_kept_depends_on_its_judges() {
    let of = |job: &str| depends(&parse(job).unwrap(), 2).unwrap();
    let on = of(JOB);
    assert!(on.stages.contains(&1), "{on:?}");
    assert!(
        on.directories
            .iter()
            .any(|dir| dir.ends_with("models/wise")),
        "{on:?}"
    );
    assert_ne!(
        of(&JOB.replace("max_answer_length = 64", "max_answer_length = 65")).settings,
        on.settings
    );
    assert!(
        !of(&JOB.replace("model = \"judge\"", "model = \"policy\""))
            .stages
            .contains(&1)
    );
    assert!(
        !depends(&parse(JOB).unwrap(), 3)
            .unwrap()
            .stages
            .contains(&1),
        "through the stage that it reads alone"
    );
}

#[test]
fn memory_counts_judges_and_their_caches() {
    let job = parse(JOB).unwrap();
    let facts = |parameters, scores| ModelShape {
        architecture: "Qwen2ForCausalLM".into(),
        scores,
        parameters,
        active_parameters: parameters,
        vocab_size: 10,
        max_position_embeddings: 256,
        cache_values_per_token: 6,
        activations: Default::default(),
        routing: None,
        prediction: None,
        linear_layers: vec![],
    };
    let seen = InputFacts {
        prompt_max: [("kept".to_string(), 88)].into(),
        ..InputFacts::default()
    };
    let slots = job.slots(&job.stages[2], 88, 0, None).unwrap();
    let cache = slots.tokens * 6;
    let bytes = |scores| {
        memory(
            &job,
            &job.stages[2],
            &[facts(1000, false), facts(5, false), facts(3000, scores)],
            &seen,
            Room::default(),
        )
    };
    assert_eq!(bytes(false)["judges"], (1000 + 3000 + 2 * cache) * 4);
    assert_eq!(
        (bytes(true)["judges"], bytes(true)["reward models"]),
        ((1000 + cache) * 4, 3000 * 4)
    );
    // Named by its directory: as large as it is, not as the policy.
    let job = parse(&JOB.replace("model = \"wise\"", "model = \"./elsewhere\"")).unwrap();
    let Some(AskedModel::Directory(dir)) = job.asked(&job.stages[2].rollouts().unwrap().rewards[1])
    else {
        panic!("no directory")
    };
    let seen = InputFacts {
        asked: [(dir, facts(7000, false))].into(),
        ..seen
    };
    let bytes = memory(
        &job,
        &job.stages[2],
        &[facts(1000, false), facts(5, false), facts(3000, false)],
        &seen,
        Room::default(),
    );
    assert_eq!(bytes["judges"], (1000 + 7000 + 2 * cache) * 4);
}
