//! The disk that a job will need.

use crate::plan::facts;
use r1d_job::plan::{InputFacts, disk};
use r1d_job::{Job, ModelShape};
use std::collections::BTreeMap;
use std::path::Path;

fn disk_of(changes: &[(&str, &str)], steps: u64) -> BTreeMap<String, u64> {
    let mut text = "name = \"a\"\n[model]\npath = \"/m\"\ndtype = \"bfloat16\"\n[data.d]\npath \
                    = \"d.jsonl\"\nreference = \"r\"\n[[stage]]\nname = \"s\"\nkind = \
                    \"grpo\"\ndata = \"d\"\n\
                    steps = STEPS\nprompts_per_step = 2\nnum_generations = 4\n\
                    max_completion_length = 10\nbeta = 0.1\n[[stage.reward]]\nplugin = \
                    \"accuracy\"\n[checkpoint]\nevery_steps = 10\nkeep = 3\n"
        .replace("STEPS", &steps.to_string());
    for (old, new) in changes {
        assert!(text.contains(old), "{old:?} is not in the job");
        text = text.replace(old, new);
    }
    let job = Job::parse(&text, Path::new("/")).unwrap();
    let shape = ModelShape {
        parameters: 1000,
        ..facts()
    };
    let seen = InputFacts {
        prompt_max: [("s".to_string(), 6)].into(),
        ..InputFacts::default()
    };
    disk(&job, &job.stages[0], &[shape], &seen)
}

/// Numbers that were added up by hand.
#[test]
fn a_stage_takes_what_it_saves_and_samples() {
    // Weights 2, moments 8, float32 weights 4, reference 2 bytes for each parameter.
    let checkpoint = 1000u64 * (2 + 8 + 4 + 2);
    // 2 prompts × 4 completions × (6 + 10) tokens.
    let step = 2u64 * 4 * 16 * 12;
    let expected = |checkpoints: u64, steps: u64, journaled: u64| {
        BTreeMap::from([
            ("checkpoints".to_string(), checkpoints * checkpoint),
            ("rollouts".to_string(), steps * step),
            ("journal".to_string(), journaled * step),
            ("final".to_string(), 2000),
        ])
    };
    // Three of ten checkpoints are kept, and one more is there while it is written.
    assert_eq!(disk_of(&[], 100), expected(4, 100, 30));
    assert_eq!(disk_of(&[], 15), expected(2, 15, 15));
    let at_the_end = ("every_steps = 10", "every_steps = 0");
    assert_eq!(disk_of(&[at_the_end], 100), expected(1, 100, 100));
    assert!(disk_of(&[("beta = 0.1", "beta = 0.0")], 100)["checkpoints"] < 4 * checkpoint);
}
