//! Rejection sampling and the data sets that it makes.

use crate::{JOB, parse, refusal};
use r1d_job::{Length, Select, StageKind, TemplateSource, Tokenize};

#[test]
fn a_stage_samples_each_prompt_once_unless_told_otherwise() {
    let job = parse(JOB).unwrap();
    let stage = &job.stages[3];
    let rejection = stage.rejection_sampling().unwrap();
    assert_eq!(
        (stage.length, rejection.select, rejection.keep),
        (Length::Epochs(1.0), Select::Correct { at: 1.0 }, 0)
    );
    assert_eq!(
        (
            rejection.rollouts.num_generations,
            rejection.rollouts.temperature
        ),
        (16, 1.0)
    );
    assert!(!stage.trains() && stage.optimiser(3).is_none() && stage.updates_per_step() == 0);
    // 70 rows, 32 a step: the third step takes what is left, so no prompt is sampled twice.
    assert_eq!(stage.steps(70), 3);
    assert_eq!(
        [0, 1, 2].map(|step| stage.rows_of_step(step, 70)),
        [32, 32, 6]
    );
    let by_steps = parse(&JOB.replace(
        "kind = \"rejection-sampling\"",
        "kind = \"rejection-sampling\"\nsteps = 3",
    ))
    .unwrap();
    assert_eq!(
        by_steps.stages[3].rows_of_step(2, 70),
        32,
        "so many steps are so many full ones"
    );
}

#[test]
fn what_is_kept_by_default_depends_on_how_it_is_chosen() {
    let of = |keys: &str| {
        let job = parse(&JOB.replace(
            "kind = \"rejection-sampling\"",
            &format!("kind = \"rejection-sampling\"\n{keys}"),
        ))
        .unwrap();
        assert_eq!(parse(&job.to_toml()).unwrap(), job);
        let rejection = job.stages[3].rejection_sampling().unwrap();
        (rejection.select, rejection.keep)
    };
    assert_eq!(
        of("correct_at = 0.5\nkeep = 2"),
        (Select::Correct { at: 0.5 }, 2)
    );
    assert_eq!(of("select = \"best-of-n\""), (Select::BestOfN, 1));
    assert_eq!(of("select = \"best-of-n\"\nkeep = 0"), (Select::BestOfN, 0));
    assert_eq!(of("select = \"top-p\""), (Select::TopP { share: 0.25 }, 0));
    assert_eq!(
        of("select = \"top-p\"\nkeep_share = 0.5"),
        (Select::TopP { share: 0.5 }, 0)
    );
    let job = parse(&JOB.replace("name = \"right\"", "name = \"right\"\nmin_score = 0.5")).unwrap();
    assert_eq!(
        job.stages[3].rollouts().unwrap().rewards[0].min_score,
        Some(0.5)
    );
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
}

#[test]
fn its_data_set_has_the_columns_and_the_template_of_its_prompts() {
    let job = parse(&JOB.replace(
        "domain = \"kind\"",
        "domain = \"kind\"\ntemplate = \"chat\"",
    ))
    .unwrap();
    let source = job.source("good").unwrap();
    let columns = [
        &source.prompt,
        &source.completion,
        &source.text,
        &source.reference,
        &source.domain,
    ];
    assert_eq!(
        columns.map(|column| column.as_deref().unwrap_or("-")),
        ["prompt", "completion", "-", "reference", "domain"]
    );
    assert_eq!(
        (&source.template, source.path.to_str()),
        (&TemplateSource::Chat, Some("good.jsonl"))
    );
    assert_eq!(job.prompts_of("good"), Some("train"));
    assert!(job.source("reasoning").is_none());
}

/// What a stage sampled is learned by the ids that it sampled; what a file holds is learned as TRL
/// does, and so is another model's text.
#[test]
fn what_it_kept_is_tokenised_apart() {
    let tokenize = |keys: &str, name: &str| {
        let job =
            parse(&JOB.replace("data = \"good\"", &format!("data = \"good\"\n{keys}"))).unwrap();
        assert_eq!(parse(&job.to_toml()).unwrap(), job);
        let StageKind::Sft(sft) = &job.stages[4].kind else {
            panic!("{:?}", job.stages[4])
        };
        job.tokenize(&job.stages[4], sft, name)
    };
    assert_eq!(
        (tokenize("", "good"), tokenize("", "cold-start")),
        (Tokenize::Apart, Tokenize::Together)
    );
    assert_eq!(
        tokenize("tokenize = \"together\"", "good"),
        Tokenize::Together
    );
    assert_eq!(
        tokenize("tokenize = \"apart\"", "cold-start"),
        Tokenize::Apart
    );
}

#[test]
fn what_starts_from_it_starts_from_where_it_starts() {
    let job = parse(&JOB.replace("from = \"base\"\ndata = \"good\"", "data = \"good\"")).unwrap();
    assert_eq!(
        job.origin(&job.stages[4]),
        Some(2),
        "the weights of \"reasoning\""
    );
    assert_eq!(job.origin(&job.stages[3]), Some(2));
    assert_eq!(job.origin(&parse(JOB).unwrap().stages[4]), None);
}

#[test]
fn further_data_is_read_and_written() {
    let job = parse(&JOB.replace(
        "data = \"good\"",
        "data = \"good\"\nmore_data = [\"cold-start\"]",
    ))
    .unwrap();
    assert_eq!(
        job.stages[4].data_sets().collect::<Vec<_>>(),
        ["good", "cold-start"]
    );
    assert_eq!(parse(&job.to_toml()).unwrap(), job);
    // Its columns are those that an sft stage reads.
    let text = JOB
        .replace(
            "data = \"good\"",
            "data = \"good\"\nmore_data = [\"general\"]",
        )
        .replace(
            "[[eval]]",
            "[data.general]\npath = \"general.jsonl\"\n[[eval]]",
        );
    let general = parse(&text).unwrap().data["general"].clone();
    assert_eq!(
        (general.prompt.as_deref(), general.completion.as_deref()),
        (Some("prompt"), Some("completion"))
    );
}

#[test]
fn what_cannot_work_is_refused_with_the_fix() {
    let stage = |keys: &str| {
        refusal(
            "kind = \"rejection-sampling\"",
            &format!("kind = \"rejection-sampling\"\n{keys}"),
        )
    };
    assert!(stage("temperature = 0").contains("set temperature = 1.0, or num_generations = 1"));
    assert!(
        stage("keep = 17").contains("keep = 17 of num_generations = 16 completions; lower `keep`")
    );
    assert!(stage("learning_rate = 0.1").contains("unknown key `learning_rate`"));
    assert!(stage("beta = 0.1").contains("it belongs to kind = \"grpo\""));
    let silent = JOB.replace("name = \"right\"", "name = \"right\"\nweight = 0.0");
    parse(&silent).unwrap();
    let ranked = silent.replace(
        "kind = \"rejection-sampling\"",
        "kind = \"rejection-sampling\"\nselect = \"top-p\"",
    );
    assert!(
        parse(&ranked)
            .unwrap_err()
            .to_string()
            .contains("no completion is better than another")
    );
    let text = refusal(
        "plugin = \"accuracy\"",
        "plugin = \"accuracy\"\nmin_score = 1.0",
    );
    assert!(
        text.contains("[[stage]] \"reasoning\"")
            && text.contains("`min_score` says what a rejection-sampling stage keeps"),
        "{text}"
    );

    let early = refusal("data = \"cold-start\"", "data = \"good\"");
    assert!(
        early.contains("it reads what stage \"good\" keeps, which does not come before it"),
        "{early}"
    );
    assert!(
        refusal(
            "data = \"train\"\n\n  [[stage.reward]]\n  plugin = \"accuracy\"\n  name",
            "data = \"good\"\n\n  [[stage.reward]]\n  plugin = \"accuracy\"\n  name"
        )
        .contains("which does not come before it"),
        "its own"
    );
    let twice = refusal(
        "[data.train]",
        "[data.good]\npath = \"good.jsonl\"\n[data.train]",
    );
    assert!(
        twice.contains("[data.good] has the name of this stage"),
        "{twice}"
    );
    let text = refusal(
        "kind = \"sft\"\nfrom = \"base\"",
        "kind = \"pretrain\"\nfrom = \"base\"",
    );
    assert!(
        text.contains("keeps prompts and completions, and a pretrain stage reads text"),
        "{text}"
    );
    assert!(refusal("data = \"good\"", "data = \"god\"").contains("(the nearest is \"good\")"));
    assert!(
        refusal("data = \"good\"", "data = \"good\"\nmore_data = [\"good\"]")
            .contains("\"good\" is named twice")
    );
    assert!(
        refusal(
            "data = \"good\"",
            "data = \"good\"\nmore_data = [\"other\"]"
        )
        .contains("\"other\" is no data set")
    );
    assert!(
        refusal("[[eval]]\ndata = \"train\"", "[[eval]]\ndata = \"good\"")
            .contains("it is not there at the start")
    );
    assert!(refusal("[[eval]]", "[[eval]]\nstages = [\"good\"]").contains("which trains nothing"));
    // A reward that compares needs something to compare with, whoever made the rows.
    let chained = JOB.replace(
        "kind = \"sft\"\nfrom = \"base\"\ndata = \"good\"\nepochs = 2",
        "kind = \"rejection-sampling\"\ndata = \"good\"\n[[stage.reward]]\nplugin = \"accuracy\"",
    );
    assert_eq!(parse(&chained).unwrap().prompts_of("again"), Some("train"));
}
