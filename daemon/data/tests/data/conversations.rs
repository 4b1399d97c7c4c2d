//! Conversations with all their keys, and the ids that stages learn from them, compared with
//! transformers and TRL (`make_conversations.py`).

use crate::{file, golden, messages};
use r1d_data::{Json, Row, Telling, Template, Tokenizer};
use r1d_job::TemplateSource;
use serde_json::Value;

fn cases(name: &str) -> Value {
    serde_json::from_str(&std::fs::read_to_string(golden(name)).unwrap()).unwrap()
}

fn json(value: &Value) -> Option<Json> {
    (!value.is_null()).then(|| Json::parse(&value.to_string()).unwrap())
}

/// Renders tool calls, tools, reasoning, names, settings; messages that are continued; line ends,
/// dates in macros, guards against None.
#[test]
fn conversations_render_as_in_transformers() {
    let text = std::fs::read_to_string(golden("conversations.json")).unwrap();
    // Numbers of the file reach the template as they are written: serde_json alone would round
    // 2**70.
    let all = Json::parse(&text).unwrap();
    let date = all.get("date").unwrap().as_text().unwrap();
    let cases = all.get("cases").unwrap().as_list().unwrap();
    assert!(cases.len() >= 45);
    for case in cases {
        let field = |name: &str| case.get(name).cloned().filter(|value| *value != Json::Null);
        let (style, template) = (field("style").unwrap(), field("template").unwrap());
        let (_directory, path) = file("own.jinja", template.as_text().unwrap());
        let telling = Telling {
            date: Some(date),
            ..Telling::default()
        };
        let template =
            Template::open(&TemplateSource::File(path), &crate::tokenizer(), &telling).unwrap();
        let row = Row {
            messages: r1d_data::Message::list(field("messages").unwrap().as_list().unwrap())
                .unwrap(),
            tools: field("tools"),
            chat_template_kwargs: field("chat_template_kwargs"),
            ..Row::default()
        };
        let rendered = template.render(&row);
        let what = format!("{style} {}", case.get("messages").unwrap());
        match field("text") {
            Some(text) => assert_eq!(
                rendered.unwrap_or_else(|e| panic!("{what}: {e}")),
                text.as_text().unwrap(),
                "{what}"
            ),
            None => assert!(rendered.is_err(), "{what}: transformers refuses it"),
        }
    }
}

/// A chat template's settings may come from the job and from the row, which takes precedence.
#[test]
fn settings_of_a_chat_template_have_a_key() {
    let text = "{% for m in messages %}{{ m.content }}{% endfor %}\
                {% if enable_thinking is defined and not enable_thinking %}<quick>{% endif %}\
                {{ depth | default('') }}";
    let (_directory, path) = file("own.jinja", text);
    let open = |kwargs| {
        Template::open(
            &TemplateSource::File(path.clone()),
            &crate::tokenizer(),
            &Telling {
                chat_template_kwargs: kwargs,
                ..Telling::default()
            },
        )
    };
    let row = Row {
        prompt: Some("Hi".into()),
        ..Row::default()
    };
    assert_eq!(open("{}").unwrap().render(&row).unwrap(), "Hi");
    assert_eq!(
        open(r#"{"enable_thinking": false, "depth": 3}"#)
            .unwrap()
            .render(&row)
            .unwrap(),
        "Hi<quick>3"
    );
    let own = Row {
        chat_template_kwargs: Some(Json::parse(r#"{"enable_thinking": true}"#).unwrap()),
        ..row.clone()
    };
    assert_eq!(
        open(r#"{"enable_thinking": false}"#)
            .unwrap()
            .render(&own)
            .unwrap(),
        "Hi"
    );
    assert!(
        open(r#"{"messages": []}"#)
            .err()
            .unwrap()
            .to_string()
            .contains("`messages`, which is no setting")
    );
}

/// Tests transformers' order of files, and tokens that are only in `added_tokens_decoder` or
/// added_tokens.json.
#[test]
fn the_end_of_a_sequence_is_the_one_of_transformers() {
    for case in cases("ends.json").as_array().unwrap() {
        let (directory, path) = file(
            "tokenizer.json",
            &std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap(),
        );
        for (name, content) in case["files"].as_object().unwrap() {
            std::fs::write(directory.path().join(name), content.to_string()).unwrap();
        }
        let tokenizer = Tokenizer::open(&path).unwrap_or_else(|e| panic!("{case}: {e}"));
        assert_eq!(
            u64::from(tokenizer.eos_id()),
            case["eos_id"].as_u64().unwrap(),
            "{case}"
        );
        assert_eq!(
            tokenizer.bos_id().map(u64::from),
            case["bos_id"].as_u64(),
            "{case}"
        );
        let named = tokenizer
            .named_tokens()
            .iter()
            .map(|(name, token)| (name.clone(), token.clone().into()));
        assert_eq!(Value::Object(named.collect()), case["named"], "{case}");
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(
            tokenizer
                .encode(case["text"].as_str().unwrap(), true)
                .unwrap(),
            ids,
            "{case}"
        );
    }
    // Generation stops by generation_config.json, or else by config.json; the tokenizer's own end
    // comes first.
    let (directory, path) = file(
        "tokenizer.json",
        &std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap(),
    );
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("special_tokens_map.json", r#"{"eos_token": "<|end|>"}"#);
    write("config.json", r#"{"eos_token_id": [3, 4]}"#);
    assert_eq!(Tokenizer::open(&path).unwrap().eos_ids(), [1, 3, 4]);
    write("generation_config.json", r#"{"eos_token_id": 2}"#);
    assert_eq!(Tokenizer::open(&path).unwrap().eos_ids(), [1, 2]);
    write("special_tokens_map.json", r#"{"eos_token": "<|nowhere|>"}"#);
    let message = Tokenizer::open(&path).err().unwrap().to_string();
    assert!(
        message.contains("its `eos_token` is \"<|nowhere|>\", and it has no such token"),
        "{message}"
    );
}

/// transformers uses a tokenizer's template for tools if a row has some.
#[test]
fn a_row_with_tools_has_the_template_for_tools() {
    let (directory, path) = file(
        "tokenizer.json",
        &std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap(),
    );
    let named = serde_json::json!({"eos_token": "<|end|>", "chat_template": [
        {"name": "default", "template": "plain:{{ messages[0].content }}"},
        {"name": "tool_use", "template": "tools:{{ tools | length }}{{ messages[0].content }}"}]});
    std::fs::write(
        directory.path().join("tokenizer_config.json"),
        named.to_string(),
    )
    .unwrap();
    let template = crate::open(&TemplateSource::Chat, &Tokenizer::open(&path).unwrap()).unwrap();
    let row = Row {
        messages: messages(&serde_json::json!([{"role": "user", "content": "Hi"}])),
        ..Row::default()
    };
    assert_eq!(template.render(&row).unwrap(), "plain:Hi");
    let tools = json(&serde_json::json!([{"type": "function"}]));
    assert_eq!(
        template
            .render(&Row {
                tools,
                ..row.clone()
            })
            .unwrap(),
        "tools:1Hi"
    );
    let wrong = Row {
        tools: json(&serde_json::json!("hammer, saw")),
        ..row
    };
    assert!(
        template
            .render(&wrong)
            .unwrap_err()
            .to_string()
            .contains("the row's tools are a string that is no JSON")
    );
}

/// An empty list of tools stays one in what SFT, DPO and reward models learn, and counts as no
/// tools in a prompt that is sampled from, as in TRL.
#[test]
fn an_empty_list_of_tools_is_none_where_a_prompt_is_sampled_from() {
    let text = "{% if tools is not none %}tools:{{ tools | length }} \
                {% endif %}{% for m in messages %}{{ m.content }}{% endfor %}";
    let (_directory, path) = file("own.jinja", text);
    let template = crate::open(&TemplateSource::File(path), &crate::tokenizer()).unwrap();
    let said = r1d_data::Spoken::Messages(messages(
        &serde_json::json!([{"role": "assistant", "content": "4"}]),
    ));
    for tools in ["[]", r#""[]""#] {
        let row = Row {
            prompt: Some("2+2?".into()),
            tools: Some(Json::parse(tools).unwrap()),
            ..Row::default()
        };
        assert_eq!(template.render(&row).unwrap(), "2+2?");
        let learned = template.render_with(&row, &said).unwrap();
        assert_eq!(
            (learned.prompt.as_str(), learned.whole.as_str()),
            ("tools:0 2+2?", "tools:0 2+2?4")
        );
    }
}

/// A data set's keys are never ignored in silence: a template without messages takes neither tools
/// nor settings.
#[test]
fn a_template_without_messages_refuses_tools_and_settings() {
    let (_directory, path) = file("row.jinja", "{{ prompt }}");
    for source in [
        TemplateSource::R1Zero,
        TemplateSource::Plain,
        TemplateSource::File(path),
    ] {
        let open = |telling| Template::open(&source, &crate::tokenizer(), &telling);
        assert!(
            open(Telling {
                chat_template_kwargs: "{}",
                ..Telling::default()
            })
            .is_ok()
        );
        let tools = open(Telling {
            tools: Some("functions"),
            ..Telling::default()
        })
        .err()
        .unwrap()
        .to_string();
        assert!(
            tools.contains("takes no `tools`") && tools.contains("use template = \"chat\""),
            "{tools}"
        );
        let settings = open(Telling {
            chat_template_kwargs: r#"{"enable_thinking": false}"#,
            ..Telling::default()
        });
        let settings = settings.err().unwrap().to_string();
        assert!(
            settings.contains("takes no `chat_template_kwargs`"),
            "{settings}"
        );
    }
}
