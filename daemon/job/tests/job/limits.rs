//! No setting is accepted that the daemon cannot hold, and no text of a job file comes back longer
//! than an error should be.

use crate::keys::{leaves, set};
use crate::preferences::JOB as PREFERENCES;
use crate::{JOB, parse, plan, refusal};
use r1d_job::file::keys::tables;
use r1d_job::file::{Key, Kind, Table, Tabled};
use r1d_job::limits::{
    EVALUATION_MAX_COMPLETIONS, JOB_MAX_BYTES, NAMED_MAX, SEQUENCE_MAX_TOKENS, STAGE_MAX_STEPS,
    STEP_MAX_COMPLETIONS, STEP_MAX_ROWS, STEP_MAX_TOKENS, TABLES_MAX, TEXT_MAX_BYTES, TEXTS_MAX,
};
use r1d_job::plan::{InputFacts, Room, stages, warnings};
use r1d_job::{Job, JobError, size};
use std::collections::{BTreeMap, BTreeSet};
use toml::Value;

/// A job with everything that [`JOB`] and [`PREFERENCES`] lack.
const REST: &str = r#"
name = "rest"
[model]
path = "model"
[models.student]
path = "student"
[data.train]
path = "train.jsonl"
reference = "answer"
[[stage]]
name = "student"
kind = "distill"
model = "student"
data = "train"
steps = 5000
[[stage]]
name = "reasoning"
kind = "grpo"
data = "train"
steps = 5000
off_policy_mask_threshold = 0.5
epsilon_high = 0.3
  [[stage.schedule]]
  after_step = 10
  temperature = 0.5
  max_completion_length = 600
  [[stage.reward]]
  plugin = "accuracy"
  limits = { fuel = 1000, memory_mb = 1, wall_ms = 10 }
[[stage]]
name = "good"
kind = "rejection-sampling"
data = "train"
epochs = 1
keep = 1
  [[stage.reward]]
  plugin = "accuracy"
  min_score = 0.5
[[stage]]
name = "examined"
kind = "eval"
data = "train"
"#;

/// A tiny data set: a row, a token.
fn seen(job: &Job) -> InputFacts {
    let names = || job.stages.iter().map(|stage| stage.name.clone());
    InputFacts {
        rows: names().map(|name| (name, 1)).collect(),
        prompt_max: names().map(|name| (name, 1)).collect(),
        eval_prompt_max: job.models().map(|_| 1).collect(),
        eval_rows: job.evaluations().map(|_| 1).collect(),
        asked: BTreeMap::new(),
    }
}

/// Everything that is computed from settings before a step begins; panics where a number does not
/// fit.
fn plans(job: &Job, what: &str) {
    let (seen, facts) = (seen(job), vec![plan::facts(); job.models().count()]);
    for device in [None, Some(1), Some(u64::MAX)] {
        stages(job, &facts, &seen, Room { device, host: None });
    }
    warnings(job, &facts, &seen);
    for stage in &job.stages {
        let (rows, steps) = (stage.rows_per_step(), stage.steps(1));
        assert!(
            rows <= STEP_MAX_ROWS.into(),
            "{what}: {rows} rows of one step"
        );
        assert!(steps <= STAGE_MAX_STEPS, "{what}: {steps} steps");
        steps
            .checked_mul(rows)
            .unwrap_or_else(|| panic!("{what}: {steps} steps of {rows} rows"));
        steps
            .checked_mul(stage.updates_per_step())
            .unwrap_or_else(|| panic!("{what}: {} updates", stage.updates_per_step()));
        assert!(
            stage.tokens_per_step(1) <= STEP_MAX_TOKENS,
            "{what}: {} tokens",
            stage.tokens_per_step(1)
        );
        stage.optimiser(steps);
        job.slots(stage, 1, 1, None);
        if let Some(rollouts) = stage.rollouts() {
            let completions =
                u64::from(rollouts.prompts_per_step) * u64::from(rollouts.num_generations);
            assert!(
                completions <= STEP_MAX_COMPLETIONS,
                "{what}: {completions} completions"
            );
            assert!(
                rollouts.longest_completion() <= SEQUENCE_MAX_TOKENS,
                "{what}"
            );
            let sampling = stage.sampling(0, Vec::new(), 0).unwrap();
            assert!(
                sampling.temperature.is_finite() && sampling.temperature > 0.0,
                "{what}: {}",
                sampling.temperature
            );
            rollouts
                .rewards
                .iter()
                .for_each(|reward| assert!((reward.weight as f32).is_finite(), "{what}"));
        }
    }
    for eval in job.evaluations() {
        assert!(
            u64::from(eval.num_generations) <= EVALUATION_MAX_COMPLETIONS,
            "{what}"
        );
    }
}

/// The number as it is, or as a float.
fn extremes(kind: &Kind) -> Vec<Value> {
    match kind {
        Kind::Integer { min, max } => vec![(*max).into(), (*min).into()],
        Kind::Float { min, max, .. } => {
            let finite = |x: f64| x.clamp(f64::MIN, f64::MAX);
            vec![
                finite(*max).into(),
                finite(*min).into(),
                f64::MIN_POSITIVE.into(),
            ]
        }
        _ => Vec::new(),
    }
}

#[test]
fn every_number_at_its_limits_is_refused_or_planned_within_the_daemons() {
    let mut covered = BTreeSet::new();
    for text in [JOB, PREFERENCES, REST] {
        parse(text).unwrap();
        let base: Value = toml::from_str(text).unwrap();
        for (at, key) in leaves(&base, Job::table()) {
            covered.insert(std::ptr::from_ref(key).addr());
            for value in extremes(&key.kind) {
                let mut changed = base.clone();
                set(&mut changed, &at, value.clone());
                let what = format!("{} = {value}", key.name);
                match parse(&toml::to_string(&changed).unwrap()) {
                    Ok(job) => plans(&job, &what),
                    Err(JobError::Unsound { .. } | JobError::OutOfRange { .. }) => {}
                    Err(other) => panic!("{what}: {other}"),
                }
            }
        }
    }
    for table in tables(Job::table()) {
        for key in table.keys().filter(|key| !extremes(&key.kind).is_empty()) {
            assert!(
                covered.contains(&std::ptr::from_ref(key).addr()),
                "{}.{} of {:?} is not tried",
                table.path,
                key.name,
                table.meaning
            );
        }
    }
}

#[test]
fn settings_that_ask_for_too_much_together_are_refused_with_the_product() {
    let grpo = |keys: &str| refusal("steps = 200", &format!("steps = 200\n{keys}"));
    assert_eq!(
        grpo("prompts_per_step = 65536\nnum_generations = 64"),
        "[[stage]] \"reasoning\": prompts_per_step = 65536 × num_generations = 64 are 4194304 \
         completions of one step, at most 1048576 are possible; lower one of them, and raise \
         `steps`"
    );
    let text = grpo("prompts_per_step = 65536\nnum_generations = 16\nmax_completion_length = 4096");
    assert!(
        text.contains("one step is up to 4294967296 tokens, at most 1073741824 are possible"),
        "{text}"
    );
    let text = refusal(
        "steps = 100",
        "steps = 100\nbatch_size = 65536\nmax_length = 32768\nmax_tokens_per_device = 32768",
    );
    assert!(
        text.contains("lower `batch_size`, or `max_length`"),
        "{text}"
    );
    // R1's largest step: 8,192 completions of 65,536 tokens, of prompts with 4,096.
    let largest = JOB.replace(
        "steps = 200",
        "steps = 200\nprompts_per_step = 512\nnum_generations = 16\nmax_completion_length = \
         65536\nmax_tokens_per_device = 131072",
    );
    let job = parse(&largest).unwrap();
    let with = |prompt_max: u32| InputFacts {
        prompt_max: [("reasoning".into(), prompt_max)].into(),
        ..seen(&job)
    };
    size::check(&job, &with(4096)).unwrap();
    assert!(
        size::check(&job, &with(65_600))
            .unwrap_err()
            .to_string()
            .contains("one step is up to")
    );
    // Whether the rows are too many is known once the data is read.
    let job = parse(&JOB.replace("[[eval]]", "[[eval]]\nnum_generations = 16384")).unwrap();
    let with = |rows: u64| InputFacts {
        eval_rows: vec![rows],
        ..seen(&job)
    };
    size::check(&job, &with(64)).unwrap();
    let text = size::check(&job, &with(65)).unwrap_err().to_string();
    assert!(
        text.contains("65 rows × num_generations = 16384 are 1064960 completions")
            && text.contains("set `max_rows`"),
        "{text}"
    );
    let job = parse(&JOB.replace("epochs = 2", "epochs = 1000000")).unwrap();
    let with = |rows: u64| InputFacts {
        rows: [("cold-start".into(), rows)].into(),
        ..seen(&job)
    };
    assert!(
        size::check(&job, &with(1 << 30))
            .unwrap_err()
            .to_string()
            .contains("lower `epochs`")
    );
}

#[test]
fn numbers_that_float32_does_not_know_are_refused() {
    let reward = |keys: &str| {
        refusal(
            "plugin = \"accuracy\"",
            &format!("plugin = \"accuracy\"\n{keys}"),
        )
    };
    let text = reward("weight = 1e39");
    assert!(
        text.ends_with("is out of range: expected a number of at least -1e30 and at most 1e30"),
        "{text}"
    );
    assert!(reward("on_fault = { score = -1e300 }").contains("`on_fault` is a table"));
    for job in [
        JOB.replace("steps = 200", "steps = 200\ntemperature = 1e-20"),
        JOB.replace("[[eval]]", "[[eval]]\ntemperature = 1e-20"),
    ] {
        let text = parse(&job).unwrap_err().to_string();
        assert!(
            text.contains("temperature = 1e-20 is too low to divide by; set it to 0.0001 or more"),
            "{text}"
        );
    }
}

/// Every key of every table that is a number that is no whole one, with its table's path.
fn float_keys() -> Vec<(&'static str, &'static Key)> {
    let all = tables(Job::table()).into_iter();
    let of = |table: &'static Table| table.keys().map(move |key| (table.path, key));
    all.flat_map(of)
        .filter(|(_, key)| matches!(key.kind, Kind::Float { .. }))
        .collect()
}

#[test]
fn no_number_is_lost_or_infinite_in_float32() {
    let keys = float_keys();
    assert!(keys.len() > 50, "{}", keys.len());
    for (path, key) in keys {
        let Kind::Float { min, max, .. } = key.kind else {
            continue;
        };
        assert!(
            min as f32 == 0.0 || (min as f32).is_normal(),
            "{path}.{}: {min}",
            key.name
        );
        assert!((max as f32).is_normal(), "{path}.{}: {max}", key.name);
    }
    let told = |job: String, key: &str, value: &str| {
        let text = parse(&job).expect_err(&job).to_string();
        assert!(
            text.contains(&format!("`{key}` = {value} is out of range: ")) && text.len() < 400,
            "{text}"
        );
    };
    let stage = |kind: &str, line: &str| {
        let all = "name = \"x\"\nseed = 1\n[model]\ninit = \"c.json\"\ntokenizer = \
                   \"t.json\"\n[data.d]\npath = \"d.jsonl\"\n";
        format!("{all}[[stage]]\nname = \"s\"\nkind = \"{kind}\"\ndata = \"d\"\n{line}\n")
    };
    let Some(Kind::Variants { variants, .. }) = Job::table().key("stage").map(|key| &key.kind)
    else {
        panic!("stages have kinds")
    };
    for (kind, table) in *variants {
        for key in table
            .keys()
            .filter(|key| matches!(key.kind, Kind::Float { .. }))
        {
            for value in ["1e-300", "1e-46", "1e39", "1e308"] {
                told(
                    stage(kind, &format!("{} = {value}", key.name)),
                    key.name,
                    value,
                );
            }
        }
    }
    for key in ["temperature", "top_p", "correct_at"] {
        told(
            JOB.replace("[[eval]]", &format!("[[eval]]\n{key} = 1e-300")),
            key,
            "1e-300",
        );
    }
    let reward = |keys: &str| {
        refusal(
            "plugin = \"accuracy\"",
            &format!("plugin = \"accuracy\"\n{keys}"),
        )
    };
    assert!(
        reward("weight = -1e-60")
            .contains("`weight` = -1e-60 is out of range: expected a number of at least -1e30")
    );
    assert!(reward("on_abstain = { score = 1e-60 }").contains("`on_abstain` is a table"));
    parse(&JOB.replace("[[eval]]", "[[eval]]\ntop_p = 1e-30")).unwrap();
}

/// Whatever the text, an error is short and moves no cursor.
fn is_tame(text: &str, job: &str) {
    assert!(
        text.len() < 3 * TEXT_MAX_BYTES && !text.chars().any(|c| c.is_control()),
        "{} bytes for {:.80}: {:.200}",
        text.len(),
        job,
        text
    );
}

#[test]
fn no_error_echoes_a_megabyte_or_an_escape_sequence() {
    for long in [
        "x".repeat(900_000),
        "\u{1b}]0;x\u{7}".repeat(70_000),
        "\\u001b[2J".repeat(90_000),
    ] {
        // As a basic string takes it.
        let quoted = if long.starts_with('\\') {
            long.clone()
        } else {
            long.replace(['\u{1b}', '\u{7}'], "\\u001b")
        };
        for job in [
            format!("\"{quoted}\" = 1\n{JOB}"),
            format!("{JOB}\n[data.\"{quoted}\"]\npath = \"x.jsonl\""),
            format!("{JOB}\n[data]\n\"{quoted}\" = 1"),
            format!("{JOB}\n[models.\"{quoted}\"]\npath = \"x\""),
            JOB.replace(
                "plugin = \"accuracy\"",
                &format!("plugin = \"accuracy\"\n\"{quoted}\" = 1"),
            ),
            JOB.replace("name = \"all-stages\"", &format!("name = \"{quoted}\"")),
            JOB.replace("name = \"cold-start\"", &format!("name = \"{quoted}\"")),
            JOB.replace("kind = \"sft\"", &format!("kind = \"{quoted}\"")),
            JOB.replace("data = \"cold-start\"", &format!("data = \"{quoted}\"")),
            JOB.replace(
                "data = \"cold-start\"",
                &format!("data = \"cold-start\"\nfrom = \"{quoted}\""),
            ),
            JOB.replace(
                "plugin = \"accuracy\"",
                &format!("plugin = \"{quoted}\"\nwrong = 1"),
            ),
            JOB.replace("[[eval]]", &format!("[[eval]]\nmetrics = [\"{quoted}\"]")),
            JOB.replace(
                "[[eval]]",
                &format!("[checkpoint]\nto = \"{quoted}\"\n[[eval]]"),
            ),
            format!("seed = \"{quoted}\"\n{JOB}"),
            format!("{JOB}\n{quoted}"),
        ] {
            is_tame(&parse(&job).unwrap_err().to_string(), &job);
        }
    }
    for number in [
        "9".repeat(900_000),
        format!("0x{}", "f".repeat(900_000)),
        format!("1.{}", "0".repeat(900_000)),
        "1e999999".into(),
    ] {
        let job = format!("seed = {number}\n{JOB}");
        is_tame(&parse(&job).unwrap_err().to_string(), &job);
    }
}

#[test]
fn what_is_too_long_or_too_many_says_the_limit() {
    let long = format!("# {}\n{JOB}", "x".repeat(JOB_MAX_BYTES));
    let text = parse(&long).unwrap_err().to_string();
    assert!(
        text.contains(&format!("at most {JOB_MAX_BYTES} are possible")),
        "{text}"
    );
    let text = refusal(
        "data = \"corpus\"",
        &format!("data = \"{}\"", "x".repeat(TEXT_MAX_BYTES + 1)),
    );
    assert!(
        text.contains("`data` = … (4097 bytes) is out of range: expected at most 4096 bytes"),
        "{text}"
    );
    let text = refusal(
        "data = \"corpus\"",
        &format!(
            "data = \"corpus\"\nmore_data = [{}]",
            "\"a\",".repeat(TEXTS_MAX + 1)
        ),
    );
    assert!(
        text.contains("(257 strings) is out of range: expected at most 256 strings"),
        "{text}"
    );
    let sets: String = (0..=NAMED_MAX)
        .map(|i| format!("[data.d{i}]\npath = \"x.jsonl\"\n"))
        .collect();
    assert!(
        parse(&format!("{JOB}{sets}"))
            .unwrap_err()
            .to_string()
            .contains("expected at most 256 tables")
    );
    let evals: String = (0..=TABLES_MAX)
        .map(|i| format!("[[eval]]\ndata = \"d{i}\"\n"))
        .collect();
    assert!(
        parse(&format!("{JOB}{evals}"))
            .unwrap_err()
            .to_string()
            .contains("expected at most 64 tables")
    );
}

/// The line of a place is found without counting from the start for each key.
#[test]
fn a_place_has_its_line_however_long_the_file() {
    let job = format!("{}{JOB}wrong = 1\n", "# a comment\n".repeat(50_000));
    let line = job.lines().count();
    assert!(
        parse(&job)
            .unwrap_err()
            .to_string()
            .starts_with(&format!("line {line}, [[eval]]")),
        "line {line}"
    );
    let job = format!("{}{JOB}", "\n".repeat(12)).replace("steps = 200", "steps 200");
    assert!(
        parse(&job)
            .unwrap_err()
            .to_string()
            .starts_with("line 48: not TOML")
    );
}
