use crate::{file, golden, made, source, tokenizer};
use proptest::prelude::*;
use r1d_data::{Json, Template, Tokenizer};
use r1d_ingest::supervision::Taught;
use r1d_ingest::{Lengths, Order, Rows, Supervision};
use r1d_job::{DataSource, RowBatch, TemplateSource, Tokenize};
use r1d_proto::world::counter_permutation;

const ORDER: Order = Order {
    seed: 5,
    stage: 1,
    shuffle: true,
};

fn corpus(texts: &[&str]) -> Rows {
    let lines: String = texts
        .iter()
        .map(|text| serde_json::json!({ "text": text }).to_string() + "\n")
        .collect();
    let (_directory, path) = file("corpus.jsonl", &lines);
    made::rows(&DataSource {
        text: Some("text".into()),
        ..source(&path)
    })
    .unwrap()
}

fn pairs(rows: &[(&str, &str)]) -> Rows {
    let lines: String = rows
        .iter()
        .map(|(p, c)| serde_json::json!({ "prompt": p, "completion": c }).to_string() + "\n")
        .collect();
    let (_directory, path) = file("pairs.jsonl", &lines);
    made::rows(&DataSource {
        prompt: Some("prompt".into()),
        completion: Some("completion".into()),
        ..source(&path)
    })
    .unwrap()
}

pub(crate) fn taught<'a>(rows: &'a Rows, template: &'a Template) -> Taught<'a> {
    Taught {
        rows,
        template,
        tokenize: Tokenize::Together,
        max_prompt_length: None,
    }
}

#[test]
fn packed_text_is_the_documents_with_their_ends() {
    let tokenizer = tokenizer();
    let texts = ["The quick", " brown fox", "jumps"];
    let data = corpus(&texts);
    let batch = RowBatch {
        batch_size: 2,
        max_length: 3,
    };
    let packed = made::pretrain(
        &[&data],
        &tokenizer,
        &batch,
        Order {
            shuffle: false,
            ..ORDER
        },
    )
    .unwrap();
    let mut stream = Vec::new();
    for text in texts {
        stream.extend(tokenizer.encode(text, false).unwrap());
        stream.push(tokenizer.eos_id());
    }
    assert_eq!(packed.len(), stream.len() as u64 / 3);
    let epoch = packed.len().div_ceil(2);
    let ids: Vec<u32> = (0..epoch)
        .flat_map(|step| packed.step(step).unwrap())
        .take(packed.len() as usize)
        .flat_map(|s| s.ids)
        .collect();
    assert_eq!(ids, stream[..packed.len() as usize * 3]);
    assert!(
        packed
            .step(0)
            .unwrap()
            .iter()
            .all(|s| s.ids.len() == 3 && s.trained == [true; 3])
    );
}

#[test]
fn epochs_of_packed_text_are_shuffled_and_the_same_each_time() {
    let tokenizer = tokenizer();
    let texts: Vec<String> = (0..40).map(|i| format!("document number {i}")).collect();
    let data = corpus(&texts.iter().map(String::as_str).collect::<Vec<_>>());
    let batch = RowBatch {
        batch_size: 4,
        max_length: 16,
    };
    let build = |order| made::pretrain(&[&data], &tokenizer, &batch, order).unwrap();
    let (first, second) = (build(ORDER), build(ORDER));
    let steps = first.len() / 4 * 2;
    let forward: Vec<_> = (0..steps).map(|step| first.step(step).unwrap()).collect();
    // A resumed job asks for steps in another order.
    let backward: Vec<_> = (0..steps)
        .rev()
        .map(|step| second.step(step).unwrap())
        .collect();
    assert_eq!(forward, backward.into_iter().rev().collect::<Vec<_>>());
    assert_ne!(
        forward[0],
        forward[(steps / 2) as usize],
        "the second epoch has an order of its own"
    );
    assert_ne!(
        forward[0],
        build(Order { stage: 2, ..ORDER }).step(0).unwrap()
    );
    assert_ne!(
        forward[0],
        build(Order { seed: 6, ..ORDER }).step(0).unwrap()
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None,
        ..ProptestConfig::default() })]

    /// A sequence is the part of the epoch's documents, all laid end to end, that it was when the
    /// whole stream was in memory. Documents are longer and shorter than a sequence.
    #[test]
    fn packed_text_is_the_stream_of_all_documents(
        lengths in prop::collection::vec(0usize..40, 1..300), length in 2u32..24,
        seed in any::<u64>(), shuffle in any::<bool>(),
    ) {
        const DOCUMENTS: u64 = 0x646f_6373;
        let ids = |document: usize| -> Vec<u32> {
            (0..=lengths[document] as u32).map(|id| document as u32 * 100 + id).collect()
        };
        let order = Order { seed, shuffle, ..ORDER };
        let set = made::set(|mut making| {
            for document in 0..lengths.len() {
                let bytes: Vec<u8> = ids(document).into_iter().flat_map(u32::to_le_bytes).collect();
                making.writer.add(&bytes)?;
            }
            Ok(making.writer.finish(&made::KEY, &())?)
        }).unwrap();
        let packed = Supervision::pretrain(set, "train", (1, length), order, made::orders());
        let tokens: usize = lengths.iter().map(|length| length + 1).sum();
        prop_assume!(tokens >= length as usize);
        let (packed, length) = (packed.unwrap(), length as usize);
        for epoch in [1, 0, 2] {
            let key = [DOCUMENTS, seed, order.stage as u64, epoch];
            let documents = if shuffle {
                counter_permutation(&key, lengths.len())
            } else {
                (0..lengths.len()).collect()
            };
            let stream: Vec<u32> = documents.into_iter().flat_map(ids).collect();
            for (index, expected) in stream.chunks_exact(length).enumerate() {
                let step = packed.step(epoch * packed.len() + index as u64).unwrap();
                prop_assert_eq!(&step[0].ids, expected);
            }
        }
    }
}

#[test]
fn too_little_text_is_said() {
    let batch = RowBatch {
        batch_size: 2,
        max_length: 1000,
    };
    let message = made::pretrain(&[&corpus(&["short"])], &tokenizer(), &batch, ORDER)
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
    let batch = RowBatch {
        batch_size: 2,
        max_length: 64,
    };
    let rows = made::sft(
        &[taught(&data, &template)],
        &tokenizer,
        &batch,
        Order {
            shuffle: false,
            ..ORDER
        },
    )
    .unwrap();
    assert_eq!((rows.len(), rows.truncated()), (2, 0));
    let prompts = made::prompts(&data, &template, &tokenizer, Lengths::default()).unwrap();
    for (index, sequence) in rows.step(0).unwrap().into_iter().enumerate() {
        // The same prompt ids as reinforcement learning will continue.
        let prompt = &prompts.of_row(index as u64).unwrap().unwrap().ids;
        assert_eq!(&sequence.ids[..prompt.len()], prompt);
        let trained: Vec<u32> = sequence
            .ids
            .iter()
            .zip(&sequence.trained)
            .filter(|(_, t)| **t)
            .map(|(id, _)| *id)
            .collect();
        let row = data.row(index as u64).unwrap();
        let completion = row
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
    let batch = RowBatch {
        batch_size: 3,
        max_length: 1000,
    };
    let order = Order {
        shuffle: false,
        ..ORDER
    };
    let both = made::sft(
        &[taught(&first, &plain), taught(&second, &r1_zero)],
        &tokenizer,
        &batch,
        order,
    )
    .unwrap();
    let alone =
        |data, template| made::sft(&[taught(data, template)], &tokenizer, &batch, order).unwrap();
    let (first, second) = (alone(&first, &plain), alone(&second, &r1_zero));
    assert_eq!(both.len(), 3);
    assert_eq!(
        both.step(0).unwrap(),
        [&first.step(0).unwrap()[..2], &second.step(0).unwrap()[..1]].concat()
    );

    let batch = RowBatch {
        batch_size: 1,
        max_length: 8,
    };
    let (one, other) = (corpus(&["a first document"]), corpus(&["another one"]));
    let both = made::pretrain(&[&one, &other], &tokenizer, &batch, order).unwrap();
    let whole = corpus(&["a first document", "another one"]);
    let whole = made::pretrain(&[&whole], &tokenizer, &batch, order).unwrap();
    assert_eq!(
        (both.len(), both.step(1).unwrap()),
        (whole.len(), whole.step(1).unwrap())
    );
}

#[test]
fn long_rows_are_cut_and_counted_and_endless_prompts_refused() {
    let tokenizer = tokenizer();
    let template = crate::open(&TemplateSource::Plain, &tokenizer).unwrap();
    let batch = RowBatch {
        batch_size: 1,
        max_length: 10,
    };
    let data = pairs(&[("ab", &"xyz ".repeat(20)), ("a", "b")]);
    let rows = made::sft(
        &[taught(&data, &template)],
        &tokenizer,
        &batch,
        Order {
            shuffle: false,
            ..ORDER
        },
    )
    .unwrap();
    assert_eq!(rows.truncated(), 1);
    assert_eq!(
        (
            rows.step(0).unwrap()[0].ids.len(),
            rows.step(0).unwrap()[0].trained.len()
        ),
        (10, 10)
    );
    assert_ne!(
        rows.step(0).unwrap()[0].ids.last(),
        Some(&tokenizer.eos_id()),
        "a cut completion has no end to learn"
    );
    let data = pairs(&[("a", "b"), (&"q".repeat(50), "b")]);
    let message = made::sft(&[taught(&data, &template)], &tokenizer, &batch, ORDER)
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

#[test]
fn a_prompt_that_fails_names_its_row() {
    let data = pairs(&[("a", "b"), ("", "b")]);
    let template = crate::open(&TemplateSource::Plain, &tokenizer()).unwrap();
    let message = made::prompts(&data, &template, &tokenizer(), Lengths::default())
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
    let glob = made::rows(&DataSource {
        prompt: Some("prompt".into()),
        ..source(&all)
    })
    .unwrap();
    let message = made::prompts(&glob, &template, &tokenizer(), Lengths::default())
        .err()
        .unwrap()
        .to_string();
    let place = directory.path().join("b.jsonl:3").display().to_string();
    assert!(
        message.starts_with(&format!("data.train: row 3 ({place}): template plain: ")),
        "{message}"
    );
    let data = pairs(&[("ab", "b"), ("User: what is", "b")]);
    let prompts = made::prompts(&data, &template, &tokenizer(), Lengths::default()).unwrap();
    assert_eq!(
        prompts.length_max() as usize,
        prompts.at(1).unwrap().ids.len()
    );
}

/// A prompt that leaves the model no place for an answer is refused with its row and the count of
/// such rows; a key leaves long prompts out instead.
#[test]
fn a_prompt_beyond_the_models_positions_is_named_or_left_out() {
    let long = "q ".repeat(60);
    let data = pairs(&[("a", "b"), (&long, "b"), ("c", "d"), (&long, "e")]);
    let template = crate::open(&TemplateSource::Plain, &tokenizer()).unwrap();
    let build = |lengths| made::prompts(&data, &template, &tokenizer(), lengths);
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
        (prompts.at(0).unwrap().row, prompts.at(1).unwrap().row),
        (0, 2),
        "places count the rows that are left"
    );
    assert!(prompts.of_row(1).unwrap().is_none() && prompts.of_row(2).unwrap().is_some());
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

    let batch = RowBatch {
        batch_size: 1,
        max_length: 20,
    };
    let rows = [Taught {
        max_prompt_length: Some(50),
        ..taught(&data, &template)
    }];
    let learned = made::sft(&rows, &tokenizer(), &batch, ORDER).unwrap();
    assert_eq!((learned.len(), learned.left_out()), (2, 2));
}

/// A prompt that fills all of the model's positions leaves none for a completion; one token less
/// leaves one.
#[test]
fn a_prompt_must_leave_a_position() {
    let (_directory, path) = file("rows.jsonl", "{\"prompt\": \"Who is the fox?\"}");
    let data = made::rows(&DataSource {
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
        made::prompts(&data, &template, &tokenizer, lengths)
    };
    assert!(build(tokens).is_err() && build(tokens + 1).is_ok());
}

/// Compares prompt and completion with TRL's ids and border, with tokenizers in the manner of Llama
/// 2, Mistral and Qwen.
#[test]
fn fine_tuning_learns_trls_ids() {
    let all = Json::parse(&std::fs::read_to_string(golden("sft.json")).unwrap()).unwrap();
    let all = all.as_list().unwrap();
    assert!(all.len() >= 36);
    for case in all {
        let tokenizer =
            Tokenizer::open(&golden("sft").join(case.get("tokenizer").unwrap().as_text().unwrap()))
                .unwrap();
        let row = case.get("row").unwrap();
        let kind = if row.get("prompt").unwrap().as_list().is_some() {
            TemplateSource::Chat
        } else {
            TemplateSource::Plain
        };
        let template = crate::open(&kind, &tokenizer).unwrap();
        let (_directory, path) = file("rows.jsonl", &row.to_string());
        let columns = DataSource {
            prompt: Some("prompt".into()),
            completion: Some("completion".into()),
            ..source(&path)
        };
        let data = made::rows(&columns).unwrap();
        let batch = RowBatch {
            batch_size: 1,
            max_length: 4096,
        };
        let order = Order {
            seed: 1,
            stage: 0,
            shuffle: false,
        };
        let taught = [taught(&data, &template)];
        let learned = made::sft(&taught, &tokenizer, &batch, order)
            .unwrap()
            .step(0)
            .unwrap()
            .remove(0);
        let ids: Vec<u32> = case
            .get("ids")
            .unwrap()
            .as_list()
            .unwrap()
            .iter()
            .map(|id| id.to_string().parse().unwrap())
            .collect();
        assert_eq!(learned.ids, ids, "{case}");
        let prompt = learned
            .trained
            .iter()
            .take_while(|trained| !**trained)
            .count();
        assert_eq!(
            prompt.to_string(),
            case.get("prompt").unwrap().to_string(),
            "{case}"
        );
        assert!(learned.trained[prompt..].iter().all(|trained| *trained));
    }
}

/// With `tokenize = "apart"` a completion's ids are those that the sampler would make, whatever the
/// prompt ends in.
#[test]
fn tokenised_apart_no_token_spans_the_border() {
    let tokenizer = Tokenizer::open(&golden("sft/qwen")).unwrap();
    let template = crate::open(&TemplateSource::Plain, &tokenizer).unwrap();
    let (_directory, path) = file(
        "rows.jsonl",
        r#"{"prompt": "The qui", "completion": "ck brown fox"}"#,
    );
    let columns = DataSource {
        prompt: Some("prompt".into()),
        completion: Some("completion".into()),
        ..source(&path)
    };
    let data = made::rows(&columns).unwrap();
    let learned = |tokenize| {
        let batch = RowBatch {
            batch_size: 1,
            max_length: 4096,
        };
        let taught = [Taught {
            tokenize,
            ..taught(&data, &template)
        }];
        let rows = made::sft(
            &taught,
            &tokenizer,
            &batch,
            Order {
                seed: 1,
                stage: 0,
                shuffle: false,
            },
        )
        .unwrap();
        (rows.step(0).unwrap().remove(0).ids, rows.merged())
    };
    let apart = [
        tokenizer.encode("The qui", true).unwrap(),
        tokenizer.encode("ck brown fox", false).unwrap(),
        vec![tokenizer.eos_id()],
    ];
    assert_eq!(learned(Tokenize::Apart), (apart.concat(), 0));
    let (together, merged) = learned(Tokenize::Together);
    assert_ne!(together, apart.concat());
    assert_eq!(merged, 1, "and it is counted");
}
