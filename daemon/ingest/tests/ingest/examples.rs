//! The examples' data and tokenizers, as `generate.py` makes them.

use crate::made;
use r1d_data::{DataSet, Spoken, Tokenizer};
use r1d_ingest::{Lengths, Order};
use r1d_job::{Job, ModelShape, StageKind};
use std::path::{Path, PathBuf};

/// The arithmetic example with its data generated, in a directory of its own that looks like the
/// project.
fn arithmetic(seed: &str) -> (tempfile::TempDir, PathBuf) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let directory = tempfile::tempdir().unwrap();
    for file in [
        "examples/arithmetic/generate.py",
        "examples/arithmetic/job.toml",
        "configs/models/tiny-deepseek-v3.json",
    ] {
        let to = directory.path().join(file);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(root.join(file), to).unwrap_or_else(|e| panic!("{file}: {e}"));
    }
    let example = directory.path().join("examples/arithmetic");
    let status = std::process::Command::new("python3")
        .arg(example.join("generate.py"))
        .args(["--seed", seed])
        .status()
        .unwrap();
    assert!(status.success());
    (directory, example)
}

#[test]
fn arithmetic_is_the_same_for_a_seed_and_its_texts_survive_the_tokenizer() {
    let ((_one, first), (_two, second), (_three, other)) =
        (arithmetic("7"), arithmetic("7"), arithmetic("8"));
    let job = Job::parse(
        &std::fs::read_to_string(first.join("job.toml")).unwrap(),
        &first,
    )
    .unwrap();
    let tokenizer = Tokenizer::open(job.model.weights.tokenizer()).unwrap();
    let vocab_size =
        ModelShape::from_config(&std::fs::read_to_string(job.model.weights.config()).unwrap())
            .unwrap()
            .vocab_size;
    tokenizer.check_vocabulary(vocab_size as u32).unwrap();
    for name in ["pretrain", "cold-start", "train", "test"] {
        let bytes =
            |example: &Path| std::fs::read(example.join(format!("data/{name}.jsonl"))).unwrap();
        assert!(
            bytes(&first) == bytes(&second),
            "{name}: the same seed makes the same bytes"
        );
        assert!(
            bytes(&first) != bytes(&other),
            "{name}: another seed makes others"
        );
    }
    for source in job.data.values() {
        let data = DataSet::open(source).unwrap();
        let template = crate::open(&source.template, &tokenizer).unwrap();
        for row in data
            .rows()
            .iter()
            .step_by(if data.len() > 10_000 { 16 } else { 1 })
        {
            let mut texts: Vec<String> = row
                .text
                .iter()
                .cloned()
                .chain(row.completion.iter().map(Spoken::text))
                .collect();
            if row.prompt.is_some() {
                texts.push(template.render(row).unwrap());
            }
            for text in texts {
                let ids = tokenizer.encode(&text, false).unwrap();
                assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
            }
        }
    }
    // Every stage finds its batches, and prompts are short enough to leave the compute to the sums.
    for (index, stage) in job.stages.iter().enumerate() {
        let source = &job.data[&stage.data];
        let (data, template) = (
            made::rows(source).unwrap(),
            crate::open(&source.template, &tokenizer).unwrap(),
        );
        let order = Order {
            seed: job.seed,
            stage: index as u32,
            shuffle: source.shuffle,
        };
        match &stage.kind {
            StageKind::Pretrain(p) => {
                assert_eq!(
                    made::pretrain(&[&data], &tokenizer, &p.rows, order)
                        .unwrap()
                        .step(0)
                        .unwrap()
                        .len(),
                    p.rows.batch_size as usize
                )
            }
            StageKind::Sft(s) => assert_eq!(
                made::sft(
                    &[crate::supervision::taught(&data, &template)],
                    &tokenizer,
                    &s.rows,
                    order
                )
                .unwrap()
                .truncated(),
                0
            ),
            _ => {
                assert!(
                    made::prompts(&data, &template, &tokenizer, Lengths::default())
                        .unwrap()
                        .length_max()
                        <= 75
                )
            }
        }
    }
}

/// The numbers of a sum with their signs, in an order that forgets how they stood.
fn canonical(text: &str) -> Vec<String> {
    let sum: String = text
        .chars()
        .filter(|c| c.is_ascii_digit() || "+-".contains(*c))
        .collect();
    let mut terms: Vec<String> = sum
        .replace('-', "+-")
        .split('+')
        .filter(|t| !t.is_empty())
        .map(String::from)
        .collect();
    terms.sort();
    terms
}

/// Held-out accuracy means nothing if training has a problem of the test, in whatever order of its
/// numbers.
#[test]
fn no_test_problem_of_arithmetic_is_in_the_training_data() {
    let (_directory, example) = arithmetic("7");
    let lines = |name: &str| -> Vec<serde_json::Value> {
        let text = std::fs::read_to_string(example.join(format!("data/{name}.jsonl"))).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    let held_out: std::collections::BTreeSet<_> = lines("test")
        .iter()
        .map(|row| canonical(row["prompt"].as_str().unwrap()))
        .collect();
    assert!(held_out.len() > 100);
    for name in ["cold-start", "train"] {
        for row in lines(name) {
            assert!(
                !held_out.contains(&canonical(row["prompt"].as_str().unwrap())),
                "{name}: {row}"
            );
        }
    }
    for row in lines("pretrain") {
        // `7+5-3:7+5=12;…` poses the problem before the colon; other rows are facts of two numbers.
        if let Some((problem, _)) = row["text"].as_str().unwrap().split_once(':') {
            assert!(!held_out.contains(&canonical(problem)), "pretrain: {row}");
        }
    }
}
