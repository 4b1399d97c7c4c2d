use crate::{file, golden, tokenizer};
use r1d_data::{Json, Message, Row, Spoken, Telling, Template, Tokenizer};
use r1d_job::TemplateSource;

fn row(prompt: &str) -> Row {
    Row {
        prompt: Some(prompt.into()),
        ..Row::default()
    }
}

#[test]
fn r1_zero_is_the_papers_table_verbatim() {
    let template = crate::open(&TemplateSource::R1Zero, &tokenizer()).unwrap();
    let expected = "A conversation between User and Assistant. The user asks a question, and the \
                    Assistant solves it. The assistant first thinks about the reasoning process \
                    in the mind and then provides the user with the answer. The reasoning process \
                    and answer are enclosed within <think> </think> and <answer> </answer> tags, \
                    respectively, i.e., <think> reasoning process here </think> <answer> answer \
                    here </answer>. User: What is {{ 1 }}?. Assistant:";
    assert_eq!(template.render(&row("What is {{ 1 }}?")).unwrap(), expected);
}

#[test]
fn plain_is_the_prompt_itself() {
    let template = crate::open(&TemplateSource::Plain, &tokenizer()).unwrap();
    assert_eq!(template.render(&row(" <b>\n&\n")).unwrap(), " <b>\n&\n");
}

#[test]
fn a_template_file_sees_the_row() {
    let (_directory, path) = file(
        "own.jinja",
        "{{ domain }}/{{ reference }}/{{ meta.level }}: {{ prompt | upper }}\n",
    );
    let template = crate::open(&TemplateSource::File(path), &tokenizer()).unwrap();
    let row = Row {
        reference: Some("2".into()),
        domain: Some("math".into()),
        meta: Some(r#"{"level": 3}"#.into()),
        ..row("why")
    };
    assert_eq!(template.render(&row).unwrap(), "math/2/3: WHY");
}

#[test]
fn mistakes_in_a_template_name_file_and_line() {
    let open = |text: &str| {
        let (directory, path) = file("own.jinja", text);
        let template = crate::open(&TemplateSource::File(path), &tokenizer());
        (directory, template)
    };
    let (_directory, template) = open("a\n{% if prompt %}\n");
    let message = template.err().unwrap().to_string();
    assert!(
        message.contains("own.jinja: line 2: syntax error"),
        "{message}"
    );
    let (_directory, template) = open("{{ promt }}");
    let message = template.unwrap().render(&row("x")).unwrap_err().to_string();
    assert!(
        message.contains("own.jinja: line 1: undefined value"),
        "{message}"
    );
}

#[test]
fn chat_templates_render_as_in_transformers() {
    let cases: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("plain/cases.json")).unwrap())
            .unwrap();
    let template = crate::open(&TemplateSource::Chat, &tokenizer()).unwrap();
    assert!(!template.adds_special());
    for case in cases["conversations"].as_array().unwrap() {
        let messages = crate::messages(&case["messages"]);
        let row = Row {
            prompt: Some(messages.last().unwrap().text()),
            messages,
            ..Row::default()
        };
        assert_eq!(
            template.render(&row).unwrap(),
            case["text"].as_str().unwrap()
        );
    }
    // A prompt that is text is a user's message.
    assert_eq!(
        template.render(&row(" What is 2+2? ")).unwrap(),
        cases["conversations"][0]["text"].as_str().unwrap()
    );
}

/// Renders templates in the manner of Qwen2.5's, Qwen3's, Llama 3's and R1's: history without its
/// reasoning, tool results, dates with a fallback.
#[test]
fn templates_in_the_manner_of_each_family_render_as_in_transformers() {
    let cases: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("chat_styles.json")).unwrap())
            .unwrap();
    let (directory, path) = file(
        "tokenizer.json",
        &std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap(),
    );
    for name in ["tokenizer_config.json", "generation_config.json"] {
        std::fs::copy(golden("plain").join(name), directory.path().join(name)).unwrap();
    }
    let cases = cases.as_array().unwrap();
    assert!(cases.len() >= 20);
    for case in cases {
        std::fs::write(
            directory.path().join("chat_template.jinja"),
            case["template"].as_str().unwrap(),
        )
        .unwrap();
        let template =
            crate::open(&TemplateSource::Chat, &Tokenizer::open(&path).unwrap()).unwrap();
        let messages = crate::messages(&case["messages"]);
        let row = Row {
            prompt: Some("unused".into()),
            messages,
            ..Row::default()
        };
        assert_eq!(
            template.render(&row).unwrap(),
            case["text"].as_str().unwrap(),
            "{}",
            case["style"]
        );
    }
}

/// A prompt must be the same each time: a template gets the job's date, and without one the error
/// says what is missing.
#[test]
fn a_chat_template_is_told_the_jobs_day() {
    let (directory, path) = file(
        "tokenizer.json",
        &std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap(),
    );
    std::fs::copy(
        golden("plain/generation_config.json"),
        directory.path().join("generation_config.json"),
    )
    .unwrap();
    let rendered = |text: &str, date: Option<&str>| {
        std::fs::write(directory.path().join("chat_template.jinja"), text).unwrap();
        let telling = Telling {
            date,
            ..Telling::default()
        };
        Template::open(
            &TemplateSource::Chat,
            &Tokenizer::open(&path).unwrap(),
            &telling,
        )
        .unwrap()
        .render(&row("x"))
    };
    let guarded =
        "{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}fixed{% endif %}";
    assert_eq!(rendered(guarded, None).unwrap(), "fixed");
    assert_eq!(rendered(guarded, Some("2024-07-04")).unwrap(), "2024");
    let message = rendered("{{ strftime_now('%Y') }}", None)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("strftime_now") && message.contains("set `date`"),
        "{message}"
    );
}

/// A file that reads `messages` renders a conversation like a chat template, and can read the row
/// too; a file that does not read `messages` refuses a conversation.
#[test]
fn a_template_file_may_render_a_conversation() {
    let text = "{{ domain }} {% for message in messages %}\n{{ bos_token }}{{ message.role }}: {{ \
                message.content \
                }}\n{% endfor %}\n{% if add_generation_prompt %}assistant:{% endif %}";
    let (_directory, path) = file("own.jinja", text);
    let template = crate::open(&TemplateSource::File(path), &tokenizer()).unwrap();
    assert!(template.is_chat() && !template.adds_special());
    let messages = vec![
        Message::new("system", "Be brief."),
        Message::new("user", "Hi"),
    ];
    let row = Row {
        messages,
        domain: Some("talk".into()),
        ..row("Hi")
    };
    assert_eq!(
        template.render(&row).unwrap(),
        "talk <|begin|>system: Be brief.\n<|begin|>user: Hi\nassistant:"
    );
    let (_directory, path) = file("row.jinja", "{{ prompt }}");
    let message = crate::open(&TemplateSource::File(path), &tokenizer())
        .unwrap()
        .render(&row)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("a conversation of several messages"),
        "{message}"
    );
}

/// Content that only a chat template can write is never left out.
#[test]
fn a_template_without_messages_refuses_a_messages_other_keys() {
    let value = serde_json::json!([{"role": "user", "content": "Hi", "name": "Ada"}]);
    let plain = crate::open(&TemplateSource::Plain, &tokenizer()).unwrap();
    let named = Row {
        messages: crate::messages(&value),
        ..row("Hi")
    };
    assert!(
        plain
            .render(&named)
            .unwrap_err()
            .to_string()
            .contains("`name`, which only template = \"chat\" can write")
    );
    let call = Spoken::Messages(crate::messages(
        &serde_json::json!([{"role": "assistant", "content": "4", "reasoning_content": "easy"}]),
    ));
    assert!(
        plain
            .render_with(&row("Hi"), &call)
            .unwrap_err()
            .to_string()
            .contains("`reasoning_content`")
    );
    for (key, value) in [
        ("tools", r#"[{"type": "function"}]"#),
        ("chat_template_kwargs", r#"{"enable_thinking": false}"#),
    ] {
        let value = r1d_data::Json::parse(value).ok();
        let (tools, chat_template_kwargs) = if key == "tools" {
            (value, None)
        } else {
            (None, value)
        };
        let told = Row {
            messages: vec![Message::new("user", "Hi")],
            tools,
            chat_template_kwargs,
            ..row("Hi")
        };
        assert!(
            plain
                .render(&told)
                .unwrap_err()
                .to_string()
                .contains(&format!("the row has `{key}`"))
        );
        assert_eq!(
            plain
                .render(&Row {
                    messages: Vec::new(),
                    ..told
                })
                .unwrap(),
            "Hi",
            "a column of that name beside a text"
        );
    }
    // A file of several rows gives each message all keys.
    let padded = serde_json::json!([{"role": "user", "content": "Hi", "name": null}]);
    assert_eq!(
        plain
            .render(&Row {
                messages: crate::messages(&padded),
                ..row("Hi")
            })
            .unwrap(),
        "Hi"
    );
}

#[test]
fn a_chat_template_may_refuse_and_says_why() {
    let template = crate::open(&TemplateSource::Chat, &tokenizer()).unwrap();
    let messages = vec![Message::new("tool", "x")];
    let message = template
        .render(&Row {
            messages,
            ..row("x")
        })
        .unwrap_err()
        .to_string();
    assert!(message.contains("unknown role tool"), "{message}");
}

#[test]
fn a_tokenizer_without_a_chat_template_is_named() {
    let (directory, path) = file(
        "tokenizer.json",
        &std::fs::read_to_string(golden("plain/tokenizer.json")).unwrap(),
    );
    std::fs::write(
        directory.path().join("generation_config.json"),
        r#"{"eos_token_id": 1}"#,
    )
    .unwrap();
    let message = crate::open(&TemplateSource::Chat, &Tokenizer::open(&path).unwrap())
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.ends_with("`template` to \"r1-zero\", \"plain\" or a template file"),
        "{message}"
    );
}

#[test]
fn prompt_ids_are_the_template_and_what_the_tokenizer_puts_in_front() {
    let tokenizer = Tokenizer::open(&golden("begin")).unwrap();
    let plain = crate::open(&TemplateSource::Plain, &tokenizer).unwrap();
    let (text, ids) = plain.prompt_ids(&row("Hi"), &tokenizer).unwrap();
    assert_eq!(
        (text.as_str(), ids[0], ids[1..].to_vec()),
        ("Hi", 0, tokenizer.encode("Hi", false).unwrap())
    );
    let chat = crate::open(&TemplateSource::Chat, &tokenizer).unwrap();
    let (text, ids) = chat.prompt_ids(&row("Hi"), &tokenizer).unwrap();
    assert_eq!(
        ids.iter().filter(|id| **id == 0).count(),
        1,
        "the template writes the beginning itself, once"
    );
    assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    let empty = plain
        .prompt_ids(&row(""), &crate::tokenizer())
        .unwrap_err()
        .to_string();
    assert!(empty.contains("the prompt has no token"), "{empty}");
}

/// Templates come with models: one that loops for ever gives an error that names it, and does not
/// hold a thread.
#[test]
fn an_endless_template_is_refused_by_name() {
    let text = "{% for i in range(90000) %}{% for j in range(90000) %}\
                {% if j < 0 %}x{% endif %}{% endfor %}{% endfor %}";
    let (_directory, path) = file("endless.jinja", text);
    let template = crate::open(&TemplateSource::File(path), &tokenizer()).unwrap();
    let error = template.render(&row("why")).unwrap_err().to_string();
    assert!(
        error.contains("endless.jinja") && error.contains("fuel"),
        "{error}"
    );
    // A long conversation is far from it.
    let (_directory, path) = file(
        "long.jinja",
        "{% for i in range(10000) %}{{ i }} {{ prompt }}\n{% endfor %}",
    );
    assert!(
        crate::open(&TemplateSource::File(path), &tokenizer())
            .unwrap()
            .render(&row("why"))
            .is_ok()
    );
}

/// Follows jinja2 3.1 as transformers sets it up: None cannot be iterated, an undefined value is
/// empty, and neither can be sliced.
#[test]
fn none_is_gone_through_as_in_python() {
    let message =
        Message::list(&[
            Json::parse(r#"{"role": "user", "content": null, "tool_calls": []}"#).unwrap(),
        ])
        .unwrap();
    let row = Row {
        messages: message,
        ..Row::default()
    };
    let rendered = |text: &str| {
        let (_directory, path) = file("own.jinja", &format!("{{% set m = messages[0] %}}{text}"));
        crate::open(&TemplateSource::File(path), &tokenizer())
            .unwrap()
            .render(&row)
            .map_err(|e| e.to_string())
    };
    for refused in [
        "{% for p in m.content %}{% endfor %}",
        "{%- for p in m['content'] if p -%}{%- endfor -%}",
        "{% for p in m.content recursive %}{% endfor %}",
        "{% for p in [1] recursive %}{{ loop(m.content) }}{% endfor %}",
        "{{ m.content|join }}",
        "{{ m.content|join(', ') }}",
        "{{ m.content|first }}",
        "{{ m.content|last }}",
        "{{ m.content|list }}",
        "{{ m.content|sort }}",
        "{{ m.content|unique|list }}",
        "{{ m.content|batch(2)|list }}",
        "{{ m.content|slice(2)|list }}",
        "{{ m.content|groupby('a')|list }}",
        "{{ m.content|min }}",
        "{{ m.content|max }}",
        "{{ m.content|sum }}",
        "{{ m.content|reverse }}",
        "{{ m.content|dictsort }}",
        "{{ m.content|items|list }}",
        "{{ m.content|length }}",
        "{{ 'a' in m.content }}",
        "{% for p in m.content[1:] %}{% endfor %}",
        "{{ m.content[:1] }}",
        "{{ m.missing[1:] }}",
        "{% set a, b = m.content %}",
    ] {
        assert!(
            rendered(refused).is_err(),
            "{refused}: {:?}",
            rendered(refused)
        );
    }
    let why = rendered("\n{% for p in m.content %}{% endfor %}").unwrap_err();
    assert!(
        why.contains("line 2") && why.contains("None is not iterable"),
        "{why}"
    );
    for (text, expected) in [
        ("{% for p in m.missing %}{% else %}none{% endfor %}", "none"),
        ("{% for p in m.content or [] %}{% endfor %}.", "."),
        (
            "{% for p in [3, 1, 2]|sort %}{{ loop.index }}={{ p }},{% endfor %}",
            "1=1,2=2,3=3,",
        ),
        (
            "{% for k, v in {'a': 1}.items() if v > 0 %}{{ k ~ v }}{% endfor %}",
            "a1",
        ),
        (
            "{% for n in [[1, [2]]] recursive %}{% for x in n %}{{ x }}{% endfor %}{% endfor %}",
            "1[2]",
        ),
        (
            "{% for n in [{'c': [{'c': []}]}] recursive %}<{{ loop(n.c) }}>{% endfor %}",
            "<<>>",
        ),
        (
            "{{ [1, 2, 3][1:] }}{{ 'abc'[::-1] }}{{ (1, 2)[:1]|list }}{{ messages[0].role[:2] ~ \
             'x' }}",
            "[2, 3]cba[1]usx",
        ),
        (
            "{{ [{'a': 2}, {'a': 1}]|sort(attribute='a')|map(attribute='a')|join('-') }}",
            "1-2",
        ),
        (
            "{{ [3, 1]|max }}{{ [3, 1]|sum }}{{ [1, 1, 2]|unique|list }}{{ [1, 2, \
             3]|batch(2)|list }}",
            "34[1, 2][[1, 2], [3]]",
        ),
        (
            "{{ m.content|map('upper')|list }}{{ m.content|select|list }}{{ m.missing|list }}{{ \
             m.missing|first }}{{ m.missing|last }}",
            "[][][]",
        ),
        (
            "{{ m.missing|join }}{{ m.missing|length }}{{ m.missing|sum }}",
            "00",
        ),
    ] {
        assert_eq!(rendered(text).as_deref(), Ok(expected), "{text}");
    }
}
