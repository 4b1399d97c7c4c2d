//! Reward models, the rewards that ask them, DPO, PPO, and what changes inside a stage.

use crate::parse;
use r1d_job::{AskedModel, Origin, RewardLoss};

pub(crate) const JOB: &str = r#"
name = "preferences"
[model]
init = "tiny.json"
tokenizer = "tokenizer"
[data.pairs]
path = "pairs.jsonl"
[data.held-out]
path = "held-out.jsonl"
[data.safety]
path = "safety.jsonl"
[data.train]
path = "train.jsonl"
reference = "answer"
domain = "kind"
[[stage]]
name = "sft"
kind = "sft"
data = "train"
epochs = 1
[[stage]]
name = "helpfulness"
kind = "reward-model"
data = "pairs"
eval_data = "held-out"
epochs = 1
[[stage]]
name = "safe"
kind = "reward-model"
loss = "pointwise"
data = "safety"
epochs = 1
[[stage]]
name = "rl"
kind = "grpo"
data = "train"
steps = 100
  [[stage.schedule]]
  after_step = 50
  temperature = 0.7
  [[stage.schedule]]
  after_step = 80
  max_completion_length = 1024
  [[stage.reward]]
  plugin = "accuracy"
  domains = ["math"]
  [[stage.reward]]
  plugin = "helpfulness"
  domains = ["general"]
  after_step = 60
  [[stage.reward]]
  plugin = "harmlessness"
  model = "safe"
[[stage]]
name = "ppo"
kind = "ppo"
data = "train"
steps = 10
value_model = "helpfulness"
  [[stage.reward]]
  plugin = "helpfulness"
  model = "models/judge"
[[stage]]
name = "dpo"
kind = "dpo"
data = "pairs"
epochs = 1
"#;

fn refusal(from: &str, to: &str) -> String {
    assert!(JOB.contains(from), "{from:?} is not in the job");
    parse(&JOB.replacen(from, to, 1))
        .expect_err("the job is wrong")
        .to_string()
}

/// A daemon trains on what is written: a data set that is left out there is never read.
#[test]
fn further_pairs_and_labelled_texts_are_written() {
    let more = JOB.replace(
        "data = \"pairs\"",
        "data = \"pairs\"\nmore_data = [\"held-out\"]",
    );
    for text in [
        more.replace("eval_data = \"held-out\"\n", ""),
        JOB.replace(
            "data = \"safety\"",
            "data = \"safety\"\nmore_data = [\"more-safety\"]",
        )
        .replace(
            "[data.train]",
            "[data.more-safety]\npath = \"more.jsonl\"\n[data.train]",
        ),
    ] {
        let job = parse(&text).unwrap();
        let read: Vec<_> = job
            .stages
            .iter()
            .map(|stage| stage.more_data.len())
            .collect();
        assert!(read.iter().sum::<usize>() > 0, "{read:?}");
        assert_eq!(parse(&job.to_toml()).unwrap(), job);
    }
    assert!(
        !parse(JOB)
            .unwrap()
            .to_toml()
            .contains("more_data = [\"held-out\"]")
    );
}

#[test]
fn policies_start_from_policies_and_reward_models_from_either() {
    let job = parse(JOB).unwrap();
    let from: Vec<_> = job.stages.iter().map(|stage| stage.from.clone()).collect();
    let sft = Origin::Stage("sft".into());
    assert_eq!(
        from,
        [
            Origin::Base,
            sft.clone(),
            sft.clone(),
            sft,
            Origin::Stage("rl".into()),
            Origin::Stage("ppo".into())
        ]
    );
    let pairwise = job.stages[1].reward_model().unwrap();
    assert_eq!(
        (pairwise.loss, pairwise.center_rewards_coefficient),
        (RewardLoss::Pairwise, 0.0)
    );
    assert_eq!(
        job.stages[2].reward_model().unwrap().loss,
        RewardLoss::Pointwise
    );
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
    assert!(
        refusal("name = \"rl\"", "name = \"rl\"\nfrom = \"safe\"")
            .contains("`from` = \"safe\" is a reward model, which writes nothing")
    );
}

#[test]
fn columns_are_those_that_a_kind_reads() {
    let job = parse(JOB).unwrap();
    let of = |name: &str| {
        let data = &job.data[name];
        [
            &data.prompt,
            &data.completion,
            &data.chosen,
            &data.rejected,
            &data.label,
        ]
        .map(|column| column.as_deref().unwrap_or("-"))
    };
    assert_eq!(of("pairs"), ["prompt", "-", "chosen", "rejected", "-"]);
    assert_eq!(of("held-out"), ["prompt", "-", "chosen", "rejected", "-"]);
    assert_eq!(of("safety"), ["prompt", "completion", "-", "-", "label"]);
}

#[test]
fn a_reward_asks_the_model_of_its_name_unless_told_otherwise() {
    let job = parse(JOB).unwrap();
    let asked = |stage: usize, reward: usize| {
        job.asked(&job.stages[stage].rollouts().unwrap().rewards[reward])
    };
    assert_eq!(asked(3, 0), None);
    assert_eq!(asked(3, 1), Some(AskedModel::Stage(1)));
    assert_eq!(asked(3, 2), Some(AskedModel::Stage(2)));
    assert_eq!(
        asked(4, 0),
        Some(AskedModel::Directory("/jobs/models/judge".into()))
    );
    let late = JOB.replace("[[stage]]\nname = \"safe\"", "[[stage]]\nname = \"other\"");
    let late = format!(
        "{late}[[stage]]\nname = \"safe\"\nkind = \"reward-model\"\ndata = \"pairs\"\nepochs = 1\n"
    );
    let error = parse(&late).unwrap_err().to_string();
    assert!(
        error.contains("it asks what stage \"safe\" has trained, which does not come before it"),
        "{error}"
    );
}

#[test]
fn settings_change_where_the_schedule_says() {
    let job = parse(JOB).unwrap();
    let rollouts = job.stages[3].rollouts().unwrap();
    let at = |step| {
        (
            rollouts.temperature(step),
            rollouts.max_completion_length(step),
        )
    };
    assert_eq!(
        [at(0), at(49), at(50), at(79), at(80), at(99)],
        [
            (1.0, 512),
            (1.0, 512),
            (0.7, 512),
            (0.7, 512),
            (0.7, 1024),
            (0.7, 1024)
        ]
    );
    assert_eq!(rollouts.longest_completion(), 1024);
    let objective = |step| job.stages[3].grpo().unwrap().objective(step);
    assert_eq!(
        (
            objective(50).temperature,
            objective(80).max_completion_length
        ),
        (0.7, 1024)
    );
    let slots = job.slots(&job.stages[3], 10, 0, None).unwrap();
    assert!(
        slots.tokens >= 10 + 1024 && slots.fitting(10 + 1024) > 0,
        "a slot holds the longest of any step: {slots:?}"
    );
    assert!(
        refusal("after_step = 80", "after_step = 50")
            .contains("write them in the order of their steps")
    );
    assert!(
        refusal("after_step = 80", "after_step = 100")
            .contains("the stage has 100 steps: it would never come")
    );
    assert!(
        refusal("after_step = 60", "after_step = 160")
            .contains("helpfulness: after_step = 160, and the stage has 100 steps")
    );
    assert!(refusal("temperature = 0.7", "").contains("changes nothing"));
    let silent = JOB.replace("model = \"models/judge\"", "after_step = 2");
    assert!(
        parse(&silent)
            .unwrap_err()
            .to_string()
            .contains("nothing judges the first steps")
    );
}

#[test]
fn what_cannot_work_is_refused_with_the_fix() {
    assert!(
        refusal("eval_data = \"held-out\"", "eval_data = \"pairs\"")
            .contains("is what the stage trains on")
    );
    assert!(
        refusal("eval_data = \"held-out\"", "eval_data = \"held\"")
            .contains("(the nearest is \"held-out\")")
    );
    let wrong = refusal(
        "value_model = \"helpfulness\"",
        "value_model = \"helpfullness\"",
    );
    assert!(
        wrong.contains("no reward-model stage before this one (the nearest is \"helpfulness\")"),
        "{wrong}"
    );
    let ipo = refusal(
        "kind = \"dpo\"",
        "kind = \"dpo\"\nloss_type = \"ipo\"\nlabel_smoothing = 0.1",
    );
    assert!(
        ipo.contains("label_smoothing = 0.1 with loss_type = \"ipo\""),
        "{ipo}"
    );
    assert!(
        refusal("kind = \"ppo\"", "kind = \"ppo\"\nnum_mini_batches = 5")
            .contains("do not divide into num_mini_batches = 5")
    );
    assert!(
        refusal("kind = \"dpo\"", "kind = \"dpo\"\nlora_r = 8").contains("unknown key `lora_r`")
    );
}

/// TRL has no such key there: pairs and labelled texts are cut at `max_length`.
#[test]
fn rows_of_pairs_and_texts_are_not_left_out_by_their_prompts() {
    for (data, kind) in [
        ("[data.pairs]", "dpo"),
        ("[data.safety]", "reward-model"),
        ("[data.held-out]", "reward-model"),
    ] {
        let error = refusal(data, &format!("{data}\nmax_prompt_length = 99"));
        assert!(
            error.contains(data.trim_matches(['[', ']'])) && error.contains("`max_prompt_length`"),
            "{error}"
        );
        assert!(error.contains(&format!("a {kind} stage")), "{error}");
    }
    assert!(
        parse(&JOB.replacen("[data.train]", "[data.train]\nmax_prompt_length = 99", 1)).is_ok()
    );
}
