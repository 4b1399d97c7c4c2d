use crate::{file, made, source, tokenizer};
use r1d_data::Template;
use r1d_ingest::preferences::{Reading, Whole};
use r1d_ingest::{MakeError, Order, Preferences, Preferred, Rows};
use r1d_job::{DataSource, TemplateSource, Tokenize};
use serde_json::{Value, json};

const ORDER: Order = Order {
    seed: 5,
    stage: 1,
    shuffle: false,
};
const WHOLE: Reading = Reading {
    pairs: true,
    max_length: 64,
    whole: Whole::Scored,
};
const TOGETHER: Reading = Reading {
    whole: Whole::Learned(Tokenize::Together),
    ..WHOLE
};
const APART: Reading = Reading {
    whole: Whole::Learned(Tokenize::Apart),
    ..WHOLE
};

fn name(column: &str) -> Option<String> {
    Some(column.into())
}

fn of_pairs(rows: &[Value]) -> Result<Rows, MakeError> {
    let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
    let (_directory, path) = file("pairs.jsonl", &lines);
    let columns = DataSource {
        prompt: name("prompt"),
        chosen: name("chosen"),
        rejected: name("rejected"),
        ..source(&path)
    };
    made::rows(&columns)
}

fn of_labels(rows: &[Value]) -> Result<Rows, MakeError> {
    let lines: String = rows.iter().map(|row| row.to_string() + "\n").collect();
    let (_directory, path) = file("labels.jsonl", &lines);
    made::rows(&DataSource {
        prompt: name("prompt"),
        completion: name("completion"),
        label: name("label"),
        ..source(&path)
    })
}

fn template() -> Template {
    crate::open(&TemplateSource::Plain, &tokenizer()).unwrap()
}

fn read(rows: &[Value], reading: Reading) -> Result<Preferences, MakeError> {
    let rows = of_pairs(rows)?;
    made::preferred(rows, template(), &tokenizer(), (2, reading), ORDER)
}

#[test]
fn a_pair_is_a_prompt_and_two_completions_that_end() {
    let rows = [
        json!({"prompt": "Who?", "chosen": " The fox.", "rejected": " No"}),
        json!({"prompt": "a", "chosen": "b", "rejected": ""}),
    ];
    for reading in [WHOLE, APART, TOGETHER] {
        let preferences = read(&rows, reading).unwrap();
        let Preferred::Pairs(pairs) = preferences.step(0).unwrap() else {
            panic!("pairs")
        };
        assert_eq!((preferences.len(), pairs.len()), (2, 2));
        let tokenizer = tokenizer();
        for (pair, row) in pairs.iter().zip(&rows) {
            for (ids, key) in [
                (&pair.chosen_ids, "chosen"),
                (&pair.rejected_ids, "rejected"),
            ] {
                assert_eq!(ids.last(), Some(&tokenizer.eos_id()));
                let whole = [&pair.prompt_ids[..], ids].concat();
                let text = format!(
                    "{}{}",
                    row["prompt"].as_str().unwrap(),
                    row[key].as_str().unwrap()
                );
                assert_eq!(
                    tokenizer.decode(&whole[..whole.len() - 1], false).unwrap(),
                    text
                );
                // A judged reward's question about the same text has the same ids.
                if matches!(reading.whole, Whole::Scored) {
                    assert_eq!(whole, tokenizer.encode_whole(&text, true).unwrap());
                }
            }
        }
    }
}

#[test]
fn whole_dialogues_share_their_prompt() {
    let rows = [
        json!({"chosen": "\n\nHuman: hi\n\nAssistant: Hello", "rejected":
            "\n\nHuman: hi\n\nAssistant: Hey"}),
    ];
    let Preferred::Pairs(pairs) = read(&rows, APART).unwrap().all().unwrap() else {
        panic!("pairs")
    };
    let prompt = tokenizer().decode(&pairs[0].prompt_ids, false).unwrap();
    assert_eq!(prompt, "\n\nHuman: hi\n\nAssistant:");
}

#[test]
fn what_is_no_pair_is_refused_with_its_row() {
    let good = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
    let refused = |row: Value| read(&[good.clone(), row], WHOLE).err().unwrap().to_string();
    let same = refused(json!({"prompt": "a", "chosen": "b", "rejected": "b"}));
    assert!(
        same.contains("row 2") && same.contains("are the same: there is nothing to prefer"),
        "{same}"
    );
    assert!(refused(json!({"prompt": "a", "chosen": "b"})).contains("no column `rejected`"));
    let wrong = refused(json!({"prompt": "a", "chosen": "b", "rejected": 3}));
    assert!(
        wrong.contains("column `rejected` (the `rejected` of ") && wrong.contains(" is a number"),
        "{wrong}"
    );
    let long = refused(json!({"prompt": "a".repeat(300), "chosen": "b", "rejected": "c"}));
    assert!(
        long.contains("row 2") && long.contains("max_length = 64"),
        "{long}"
    );
    // A completion that is too long is cut, and counted.
    let cut = read(
        &[
            good.clone(),
            json!({"prompt": "a", "chosen": "é".repeat(300), "rejected": "c"}),
        ],
        WHOLE,
    )
    .unwrap();
    assert_eq!(cut.truncated(), 1);
}

#[test]
fn labels_are_shares_or_truths() {
    let rows = [
        json!({"prompt": "a", "completion": "b", "label": true}),
        json!({"prompt": "a", "completion": "c", "label": 0}),
        json!({"prompt": "a", "completion": "d", "label": 0.25}),
    ];
    let read = |rows: &[Value]| {
        let reading = Reading {
            pairs: false,
            ..WHOLE
        };
        let rows = of_labels(rows)?;
        made::preferred(rows, template(), &tokenizer(), (2, reading), ORDER)
    };
    let Preferred::Labelled(texts) = read(&rows).unwrap().all().unwrap() else {
        panic!("labels")
    };
    assert_eq!(
        texts.iter().map(|text| text.label).collect::<Vec<_>>(),
        [1.0, 0.0, 0.25]
    );
    assert_eq!(texts[0].ids, tokenizer().encode_whole("ab", true).unwrap());
    assert_eq!(
        read(&rows).unwrap().step(1).unwrap(),
        Preferred::Labelled(vec![texts[2].clone(), texts[0].clone()])
    );
    let refused = |rows: &[Value]| read(rows).err().unwrap().to_string();
    assert!(
        refused(&[json!({"prompt": "a", "completion": "b", "label": 2})])
            .contains(") is 2, expected a number from 0 to 1")
    );
    assert!(
        refused(&rows[..1]).contains("all of its labels are 1: there is nothing to tell apart")
    );
}

/// HH-RLHF as it is published: whole dialogues, no prompt column. Every row is a pair whose prompt
/// ends where the assistant's turn begins, or later where both answers begin alike.
#[test]
fn hh_rlhf_is_read_as_it_is() {
    let Some(data) = std::env::var_os("R1D_TEST_DATA") else {
        return;
    };
    let path = std::path::Path::new(&data).join("hh-rlhf/harmless-base-test.jsonl");
    let columns = DataSource {
        prompt: name("prompt"),
        chosen: name("chosen"),
        rejected: name("rejected"),
        ..source(&path)
    };
    let rows = made::rows(&columns).unwrap();
    let reading = Reading {
        max_length: 1 << 15,
        ..WHOLE
    };
    let preferences =
        made::preferred(rows.clone(), template(), &tokenizer(), (2, reading), ORDER).unwrap();
    assert_eq!((preferences.len(), preferences.truncated()), (2312, 0));
    let Preferred::Pairs(pairs) = preferences.all().unwrap() else {
        panic!("pairs")
    };
    let tokenizer = tokenizer();
    for (pair, row) in pairs
        .iter()
        .zip((0..).map(|index| rows.row(index).unwrap()))
    {
        let prompt = tokenizer.decode(&pair.prompt_ids, false).unwrap();
        assert!(
            prompt.contains("\n\nHuman:") && prompt.trim_end().ends_with([':', '.', ')', '?', '!'])
                || prompt.ends_with('\n'),
            "{prompt:?}"
        );
        let chosen = [&pair.prompt_ids[..], &pair.chosen_ids].concat();
        assert_eq!(
            tokenizer
                .decode(&chosen[..chosen.len() - 1], false)
                .unwrap(),
            row.chosen.as_ref().unwrap().text()
        );
        assert!(!pair.rejected_ids.is_empty() && pair.chosen_ids != pair.rejected_ids);
    }
}

/// UltraFeedback as it is published: whole conversations in both columns, the question as text
/// beside them. The messages that both begin with are the prompt, as in TRL.
#[test]
fn conversations_share_the_messages_that_they_begin_with() {
    let user = json!({"role": "user", "content": "Hi"});
    let says = |text: &str| json!([user, {"role": "assistant", "content": text}]);
    let answers = |text: &str| json!([{"role": "assistant", "content": text}]);
    let tokenizer = tokenizer();
    let read = |row: Value| {
        let template = crate::open(&TemplateSource::Chat, &tokenizer).unwrap();
        let rows = of_pairs(&[row])?;
        let read = made::preferred(rows, template, &tokenizer, (2, TOGETHER), ORDER);
        read.map(|rows| match rows.all().unwrap() {
            Preferred::Pairs(pairs) => pairs,
            Preferred::Labelled(_) => panic!("pairs"),
        })
    };
    let expected =
        read(json!({"prompt": [user], "chosen": answers("A"), "rejected": answers("B")})).unwrap();
    let text = |ids: &[u32]| tokenizer.decode(ids, false).unwrap();
    assert!(
        text(&expected[0].chosen_ids).contains('A') && !text(&expected[0].prompt_ids).contains('A')
    );
    for row in [
        json!({"chosen": says("A"), "rejected": says("B")}),
        json!({"prompt": "Hi", "chosen": says("A"), "rejected": says("B")}),
        json!({"prompt": "Hi", "chosen": answers("A"), "rejected": answers("B")}),
    ] {
        assert_eq!(read(row.clone()).unwrap(), expected, "{row}");
    }
    let refused = |row: Value| read(row).err().unwrap().to_string();
    assert!(
        refused(json!({"chosen": says("A"), "rejected": [{"role": "user", "content": "Ho"}]}))
            .contains("share no message")
    );
    assert!(
        refused(json!({"chosen": says("A"), "rejected": [user]}))
            .contains("only the beginning of the other")
    );
}

/// A pair whose texts become equal once they are cut, or written by the template, teaches nothing.
#[test]
fn pairs_that_are_the_same_tokens_are_refused_with_their_row() {
    let good = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
    let long = json!({"prompt": "Who?", "chosen": "The same words at first, then this", "rejected":
        "The same words at first, then that"});
    let short = Reading {
        max_length: 12,
        ..TOGETHER
    };
    for reading in [
        short,
        Reading {
            whole: Whole::Scored,
            ..short
        },
        Reading {
            whole: Whole::Learned(Tokenize::Apart),
            ..short
        },
    ] {
        let message = read(&[good.clone(), long.clone()], reading)
            .err()
            .unwrap()
            .to_string();
        assert!(
            message.contains(
                ":2): `chosen` and `rejected` are the same up to max_length = 12 tokens: raise it"
            ),
            "{message}"
        );
    }
    assert_eq!(read(&[good, long], TOGETHER).unwrap().truncated(), 0);

    // The template leaves out the difference, or all of one text.
    let written = |text: &str, chosen: Value, rejected: Value| {
        let (_directory, path) = file("own.jinja", text);
        let template = crate::open(&TemplateSource::File(path), &tokenizer()).unwrap();
        let row = json!({"prompt": [{"role": "user", "content": "2+2?"}], "chosen": [chosen],
            "rejected": [rejected]});
        let rows = of_pairs(&[row]).unwrap();
        made::preferred(rows, template, &tokenizer(), (2, APART), ORDER)
            .err()
            .unwrap()
            .to_string()
    };
    let said =
        |content: &str, name: &str| json!({"role": "assistant", "content": content, "name": name});
    let all = "{% for m in messages %}{{ m.content }}{% endfor %}";
    let message = written(all, said("4", "Ada"), said("4", "Bob"));
    assert!(
        message.contains(":1): `chosen` and `rejected` are the same tokens"),
        "{message}"
    );
    let message = written(all, said("4", "Ada"), said("", "Bob"));
    assert!(
        message.contains(":1): the template writes nothing of `rejected`"),
        "{message}"
    );
}
