use crate::{file, source, tokenizer};
use proptest::prelude::*;
use r1d_data::supervision::{Order, Taught};
use r1d_data::{DataSet, Lengths, Prompts, Supervision, Template, rows_of_step};
use r1d_job::{DataSource, Pretrain, Sft, TemplateSource, Tokenize};
use std::collections::BTreeSet;

const ORDER: Order = Order {
    seed: 5,
    stage: 1,
    shuffle: true,
};

fn corpus(texts: &[&str]) -> DataSet {
    let lines: String = texts
        .iter()
        .map(|text| serde_json::json!({ "text": text }).to_string() + "\n")
        .collect();
    let (_directory, path) = file("corpus.jsonl", &lines);
    DataSet::open(&DataSource {
        text: Some("text".into()),
        ..source(&path)
    })
    .unwrap()
}

fn pairs(rows: &[(&str, &str)]) -> DataSet {
    let lines: String = rows
        .iter()
        .map(|(p, c)| serde_json::json!({ "prompt": p, "completion": c }).to_string() + "\n")
        .collect();
    let (_directory, path) = file("pairs.jsonl", &lines);
    DataSet::open(&DataSource {
        prompt: Some("prompt".into()),
        completion: Some("completion".into()),
        ..source(&path)
    })
    .unwrap()
}

pub(crate) fn taught<'a>(data: &'a DataSet, template: &'a Template) -> Taught<'a> {
    Taught {
        data,
        template,
        tokenize: Tokenize::Together,
        max_prompt_length: None,
    }
}

#[test]
fn packed_text_is_the_documents_with_their_ends() {
    let tokenizer = tokenizer();
    let data = corpus(&["The quick", " brown fox", "jumps"]);
    let stage = Pretrain {
        batch_size: 2,
        max_length: 3,
    };
    let packed = Supervision::pretrain(
        &[&data],
        &tokenizer,
        &stage,
        Order {
            shuffle: false,
            ..ORDER
        },
    )
    .unwrap();
    let mut stream = Vec::new();
    for row in data.rows() {
        stream.extend(
            tokenizer
                .encode(row.text.as_deref().unwrap(), false)
                .unwrap(),
        );
        stream.push(tokenizer.eos_id());
    }
    assert_eq!(packed.len(), stream.len() as u64 / 3);
    let epoch = packed.len().div_ceil(2);
    let ids: Vec<u32> = (0..epoch)
        .flat_map(|step| packed.step(step))
        .take(packed.len() as usize)
        .flat_map(|s| s.ids)
        .collect();
    assert_eq!(ids, stream[..packed.len() as usize * 3]);
    assert!(
        packed
            .step(0)
            .iter()
            .all(|s| s.ids.len() == 3 && s.trained == [true; 3])
    );
}

#[test]
fn epochs_of_packed_text_are_shuffled_and_the_same_each_time() {
    let tokenizer = tokenizer();
    let texts: Vec<String> = (0..40).map(|i| format!("document number {i}")).collect();
    let data = corpus(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let stage = Pretrain {
        batch_size: 4,
        max_length: 16,
    };
    let build = |order| Supervision::pretrain(&[&data], &tokenizer, &stage, order).unwrap();
    let (first, second) = (build(ORDER), build(ORDER));
    let steps = first.len() / 4 * 2;
    let forward: Vec<_> = (0..steps).map(|step| first.step(step)).collect();
    // A resumed job asks for steps in another order.
    let backward: Vec<_> = (0..steps).rev().map(|step| second.step(step)).collect();
    assert_eq!(forward, backward.into_iter().rev().collect::<Vec<_>>());
    assert_ne!(
        forward[0],
        forward[(steps / 2) as usize],
        "the second epoch has an order of its own"
    );
    assert_ne!(forward[0], build(Order { stage: 2, ..ORDER }).step(0));
    assert_ne!(forward[0], build(Order { seed: 6, ..ORDER }).step(0));
}

#[test]
fn too_little_text_is_said() {
    let stage = Pretrain {
        batch_size: 2,
        max_length: 1000,
    };
    let message = Supervision::pretrain(&[&corpus(&["short"])], &tokenizer(), &stage, ORDER)
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains(
            "one packed sequence takes max_length = 1000: lower `max_length`, or add text"
        ),
        "{message}"
    );
}

#[test]
fn fine_tuning_trains_the_completion_and_the_end_alone() {
    let tokenizer = tokenizer();
    let data = pairs(&[("User: a", " jumps over"), ("User: b", "done<|end|>")]);
    let template = crate::open(&TemplateSource::Plain, &tokenizer).unwrap();
    let stage = Sft {
        batch_size: 2,
        max_length: 64,
        tokenize: None,
        template: None,
    };
    let rows = Supervision::sft(
        &[taught(&data, &template)],
        &tokenizer,
        &stage,
        Order {
            shuffle: false,
            ..ORDER
        },
    )
    .unwrap();
    assert_eq!((rows.len(), rows.truncated()), (2, 0));
    let prompts = Prompts::build(&data, &template, &tokenizer, Lengths::default()).unwrap();
    for (index, sequence) in rows.step(0).into_iter().enumerate() {
        // The same prompt ids as reinforcement learning will continue.
        let prompt = &prompts.of_row(index as u64).unwrap().ids;
        assert_eq!(&sequence.ids[..prompt.len()], prompt);
        let trained: Vec<u32> = sequence
            .ids
            .iter()
            .zip(&sequence.trained)
            .filter(|(_, t)| **t)
            .map(|(id, _)| *id)
            .collect();
        let completion = data.rows()[index]
            .completion
            .as_ref()
            .unwrap()
            .text()
            .replace("<|end|>", "");
        assert_eq!(
            trained,
            [
                tokenizer.encode(&completion, false).unwrap(),
                vec![tokenizer.eos_id()]
            ]
            .concat(),
            "one end, no more"
        );
        assert_eq!(trained.len(), sequence.ids.len() - prompt.len());
    }
}

#[test]
fn further_data_sets_are_appended_each_with_its_template() {
    let tokenizer = tokenizer();
    let (plain, r1_zero) = (TemplateSource::Plain, TemplateSource::R1Zero);
    let (plain, r1_zero) = (
        crate::open(&plain, &tokenizer).unwrap(),
        crate::open(&r1_zero, &tokenizer).unwrap(),
    );
    let (first, second) = (pairs(&[("a", "b"), ("c", "d")]), pairs(&[("e", "f")]));
    let stage = Sft {
        batch_size: 3,
        max_length: 1000,
        tokenize: None,
        template: None,
    };
    let order = Order {
        shuffle: false,
        ..ORDER
    };
    let both = Supervision::sft(
        &[taught(&first, &plain), taught(&second, &r1_zero)],
        &tokenizer,
        &stage,
        order,
    )
    .unwrap();
    let alone = |data, template| {
        Supervision::sft(&[taught(data, template)], &tokenizer, &stage, order).unwrap()
    };
    let (first, second) = (alone(&first, &plain), alone(&second, &r1_zero));
    assert_eq!(both.len(), 3);
    assert_eq!(
        both.step(0),
        [&first.step(0)[..2], &second.step(0)[..1]].concat()
    );

    let stage = Pretrain {
        batch_size: 1,
        max_length: 8,
    };
    let (one, other) = (corpus(&["a first document"]), corpus(&["another one"]));
    let both = Supervision::pretrain(&[&one, &other], &tokenizer, &stage, order).unwrap();
    let whole = corpus(&["a first document", "another one"]);
    let whole = Supervision::pretrain(&[&whole], &tokenizer, &stage, order).unwrap();
    assert_eq!((both.len(), both.step(1)), (whole.len(), whole.step(1)));
}

#[test]
fn long_rows_are_cut_and_counted_and_endless_prompts_refused() {
    let tokenizer = tokenizer();
    let template = crate::open(&TemplateSource::Plain, &tokenizer).unwrap();
    let stage = Sft {
        batch_size: 1,
        max_length: 10,
        tokenize: None,
        template: None,
    };
    let data = pairs(&[("ab", &"xyz ".repeat(20)), ("a", "b")]);
    let rows = Supervision::sft(
        &[taught(&data, &template)],
        &tokenizer,
        &stage,
        Order {
            shuffle: false,
            ..ORDER
        },
    )
    .unwrap();
    assert_eq!(rows.truncated(), 1);
    assert_eq!(
        (rows.step(0)[0].ids.len(), rows.step(0)[0].trained.len()),
        (10, 10)
    );
    assert_ne!(
        rows.step(0)[0].ids.last(),
        Some(&tokenizer.eos_id()),
        "a cut completion has no end to learn"
    );
    let data = pairs(&[("a", "b"), (&"q".repeat(50), "b")]);
    let message = Supervision::sft(&[taught(&data, &template)], &tokenizer, &stage, ORDER)
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.starts_with("data.train: row 2 (")
            && message.contains(":2): its prompt has ")
            && message.ends_with("raise it"),
        "{message}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// Whatever the step size, the steps together are whole permutations of the rows, one after the
    /// other.
    #[test]
    fn an_epoch_takes_every_row_once(seed in any::<u64>(), stage in 0u32..4, len in 1u64..40,
        per_step in 1u64..50) {
        let steps = (3 * len).div_ceil(per_step);
        let stream: Vec<u64> = (0..steps)
            .flat_map(|step| rows_of_step(seed, stage, step, per_step, len, true)).collect();
        prop_assert_eq!(stream.len() as u64, steps * per_step);
        for epoch in stream.chunks_exact(len as usize) {
            prop_assert_eq!(epoch.iter().copied().collect::<BTreeSet<_>>(), (0..len)
                .collect::<BTreeSet<_>>());
        }
    }
}

#[test]
fn the_order_of_rows_depends_on_seed_stage_and_epoch() {
    let order = |seed, stage, step| rows_of_step(seed, stage, step, 50, 50, true);
    assert_eq!(order(1, 0, 0), order(1, 0, 0));
    assert_ne!(order(1, 0, 0), order(2, 0, 0));
    assert_ne!(order(1, 0, 0), order(1, 1, 0));
    assert_ne!(order(1, 0, 0), order(1, 0, 1));
    assert_eq!(rows_of_step(1, 0, 1, 3, 4, false), [3, 0, 1]);
}

#[test]
fn a_prompt_that_fails_names_its_row() {
    let data = pairs(&[("a", "b"), ("", "b")]);
    let template = crate::open(&TemplateSource::Plain, &tokenizer()).unwrap();
    let message = Prompts::build(&data, &template, &tokenizer(), Lengths::default())
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains(":2): template plain: the prompt has no token"),
        "{message}"
    );
    // A row of several files is named with its own file.
    let directory = tempfile::tempdir().unwrap();
    let row = |prompt: &str| format!("{{\"prompt\": \"{prompt}\"}}\n");
    std::fs::write(directory.path().join("a.jsonl"), row("a") + &row("b")).unwrap();
    std::fs::write(directory.path().join("b.jsonl"), format!("\n\n{}", row(""))).unwrap();
    let all = directory.path().join("*.jsonl");
    let glob = DataSet::open(&DataSource {
        prompt: Some("prompt".into()),
        ..source(&all)
    })
    .unwrap();
    let message = Prompts::build(&glob, &template, &tokenizer(), Lengths::default())
        .err()
        .unwrap()
        .to_string();
    let place = directory.path().join("b.jsonl:3").display().to_string();
    assert!(
        message.starts_with(&format!("data.train: row 3 ({place}): template plain: ")),
        "{message}"
    );
    let data = pairs(&[("ab", "b"), ("User: what is", "b")]);
    let prompts = Prompts::build(&data, &template, &tokenizer(), Lengths::default()).unwrap();
    assert_eq!(prompts.length_max() as usize, prompts.at(1).ids.len());
    assert_eq!(prompts.at(3), &prompts.all()[1]);
}

/// A prompt that leaves the model no place for an answer is refused with its row and the count of
/// such rows; a key leaves long prompts out instead.
#[test]
fn a_prompt_beyond_the_models_positions_is_named_or_left_out() {
    let long = "q ".repeat(60);
    let data = pairs(&[("a", "b"), (&long, "b"), ("c", "d"), (&long, "e")]);
    let template = crate::open(&TemplateSource::Plain, &tokenizer()).unwrap();
    let build = |lengths| Prompts::build(&data, &template, &tokenizer(), lengths);
    let message = build(Lengths {
        positions: Some(100),
        max_prompt_length: None,
    })
    .err()
    .unwrap()
    .to_string();
    let tokens = tokenizer().encode(&long, true).unwrap().len();
    assert!(
        message.contains(&format!(
            ":2): its prompt has {tokens} tokens, and the model's positions reach to 100"
        )),
        "{message}"
    );
    assert!(
        message.contains("2 of its 4 rows are so")
            && message.contains("set max_prompt_length below 100"),
        "{message}"
    );

    let prompts = build(Lengths {
        positions: Some(100),
        max_prompt_length: Some(50),
    })
    .unwrap();
    assert_eq!((prompts.len(), prompts.left_out()), (2, 2));
    assert_eq!(
        (prompts.at(1).row, prompts.at(2).row),
        (2, 0),
        "places count the rows that are left"
    );
    assert!(prompts.of_row(1).is_none() && prompts.of_row(2).is_some());
    assert!(
        build(Lengths {
            max_prompt_length: Some(0),
            positions: None
        })
        .err()
        .unwrap()
        .to_string()
        .contains("raise it")
    );

    let stage = Sft {
        batch_size: 1,
        max_length: 20,
        tokenize: None,
        template: None,
    };
    let rows = [Taught {
        max_prompt_length: Some(50),
        ..taught(&data, &template)
    }];
    let learned = Supervision::sft(&rows, &tokenizer(), &stage, ORDER).unwrap();
    assert_eq!((learned.len(), learned.left_out()), (2, 2));
}

/// A prompt that fills all of the model's positions leaves none for a completion; one token less
/// leaves one.
#[test]
fn a_prompt_must_leave_a_position() {
    let (_directory, path) = file("rows.jsonl", "{\"prompt\": \"Who is the fox?\"}");
    let data = DataSet::open(&DataSource {
        prompt: Some("prompt".into()),
        ..source(&path)
    })
    .unwrap();
    let (template, tokenizer) = (
        crate::open(&TemplateSource::Plain, &tokenizer()).unwrap(),
        tokenizer(),
    );
    let tokens = tokenizer.encode("Who is the fox?", true).unwrap().len() as u64;
    let build = |positions| {
        let lengths = Lengths {
            positions: Some(positions),
            max_prompt_length: None,
        };
        Prompts::build(&data, &template, &tokenizer, lengths)
    };
    assert!(build(tokens).is_err() && build(tokens + 1).is_ok());
}
