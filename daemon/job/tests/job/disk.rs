//! The disk that a job will need.

use crate::plan::facts;
use r1d_job::plan::{InputFacts, disk};
use r1d_job::{Job, ModelShape};
use r1d_proto::ids::{JobId, SampleKey};
use r1d_proto::rollout::{FinishReason, Rollout, ScoredRollout};
use r1d_proto::sampling_mask::SamplingMask;
use r1d_proto::verdict::{Outcome, Verdict};
use r1d_store::rollouts::RolloutRow;
use r1d_store::{Disk, Entry, Journal};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

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
    // 2 prompts × 4 completions × (6 + 10) tokens; a record and one verdict for each completion.
    let step = 2u64 * 4 * (16 * 12 + 128 + 224);
    let expected = |checkpoints: u64, steps: u64, journaled: u64| {
        BTreeMap::from([
            ("checkpoints".to_string(), checkpoints * checkpoint),
            ("rollouts".to_string(), steps * (step + (16 << 10))),
            ("journal".to_string(), journaled * (step + 256)),
            ("final".to_string(), 2000),
        ])
    };
    // Three of ten checkpoints are kept, and one more is there while it is written.
    // The journal has the steps of three intervals, of one more until its checkpoint is on record,
    // and of one in which that is written.
    assert_eq!(disk_of(&[], 100), expected(4, 100, 50));
    assert_eq!(disk_of(&[], 15), expected(2, 15, 15));
    let at_the_end = ("every_steps = 10", "every_steps = 0");
    assert_eq!(disk_of(&[at_the_end], 100), expected(1, 100, 100));
    assert!(disk_of(&[("beta = 0.1", "beta = 0.0")], 100)["checkpoints"] < 4 * checkpoint);
    let rounds = "beta = 0.1\ndynamic_sampling = true\nmax_resample_rounds = 2";
    let resampled = disk_of(&[("beta = 0.1", rounds)], 100);
    assert_eq!(resampled["rollouts"], 100 * (3 * step + (16 << 10)));
    assert_eq!(resampled["journal"], 50 * (3 * step + 256));
    let kind = "kind = \"rejection-sampling\"";
    let made = disk_of(&[("kind = \"grpo\"", kind), ("beta = 0.1\n", "")], 100);
    assert_eq!(made["data set"], 100 * step);
    assert_eq!(made["journal"], step + 256);
}

/// The completions of [`disk_of`]'s steps, as long as they may be.
fn completions(steps: u64) -> Vec<ScoredRollout> {
    let keys = (0..steps).flat_map(|step| {
        (0..8).map(move |index| SampleKey {
            stage: 0,
            step,
            prompt: index / 4,
            sample: index % 4,
        })
    });
    let verdict = || Verdict {
        plugin: "accuracy".into(),
        module_sha256: "ab".repeat(32),
        config_sha256: "cd".repeat(32),
        outcome: Outcome::Score {
            value: 1.0,
            parts: vec![0.5, 0.5],
        },
        value: Some(1.0),
        fuel: 12_345_678,
    };
    keys.map(|key| ScoredRollout {
        rollout: Rollout {
            key,
            row: 70_000,
            prompt_ids: vec![150_000; 6],
            completion_ids: vec![150_000; 10],
            behaviour_logprobs: vec![-0.25; 10],
            experts: Vec::new(),
            kept_ids: SamplingMask::default(),
            policy_version: key.step,
            finish: FinishReason::Length,
        },
        verdicts: vec![verdict()],
        reward: Some(1.0),
        advantage: Some(0.5),
    })
    .collect()
}

fn size_of(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap());
    let size = |entry: std::fs::DirEntry| {
        if entry.path().is_dir() {
            size_of(&entry.path())
        } else {
            entry.metadata().unwrap().len()
        }
    };
    entries.map(size).sum()
}

/// What the journal and the Parquet files of a small stage really take.
#[test]
fn a_bound_is_not_below_what_a_real_stage_leaves() {
    let steps = 4;
    let bound = disk_of(&[], steps);
    let all = completions(steps);
    let dir = tempfile::tempdir().unwrap();
    let (journaled, files) = (dir.path().join("journal"), dir.path().join("rollouts"));
    std::fs::create_dir_all(&files).unwrap();
    let job = JobId("k3v9qx7a".into());
    let mut journal = Journal::open(Arc::new(Disk), &journaled, &job, (0, 1), 0).unwrap();
    for (step, of_step) in all.chunks(8).enumerate() {
        let scored = of_step.iter().flat_map(|it| {
            let scored = Entry::Scored {
                key: it.rollout.key,
                verdicts: it.verdicts.clone(),
                reward: it.reward,
            };
            [Entry::Sampled(it.rollout.clone()), scored]
        });
        let sealed = Entry::Sealed {
            stage: 0,
            step: step as u64,
            advantages: of_step
                .iter()
                .map(|it| (it.rollout.key, it.advantage))
                .collect(),
        };
        let entries: Vec<Entry> = scored.chain([sealed]).collect();
        journal.append(&entries).unwrap();
        let rows: Vec<RolloutRow> = of_step
            .iter()
            .map(|scored| RolloutRow {
                scored: scored.clone(),
                prompt: "words".repeat(6),
                completion: "words".repeat(10),
                reference: Some("16".into()),
            })
            .collect();
        r1d_store::rollouts::write(&Disk, &files.join(format!("{step}.parquet")), &rows).unwrap();
    }
    journal.sync().unwrap();
    for (what, dir) in [("journal", journaled), ("rollouts", files)] {
        let (found, bound) = (size_of(&dir), bound[what]);
        assert!(
            found <= bound,
            "{what}: {found} bytes, at most {bound} were expected"
        );
        assert!(
            bound < 3 * found,
            "{what}: {found} bytes, and {bound} were expected"
        );
    }
}
