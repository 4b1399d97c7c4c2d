//! A row's prompt as the model reads it.

use crate::dataset::{Message, Row};
use crate::error::DataError;
use crate::tokenizer::Tokenizer;
use minijinja::{Environment, ErrorKind, UndefinedBehavior, Value, context};
use r1d_job::TemplateSource;
use std::path::Path;

/// Table 1 of the DeepSeek-R1 paper, verbatim.
pub const R1_ZERO: &str = include_str!("../templates/r1-zero.jinja");

const NAME: &str = "prompt";
/// Instructions of one rendering: a hundred times what a long conversation takes (`LIM-1`).
const FUEL: u64 = 50_000_000;

pub struct Template {
    environment: Environment<'static>,
    /// What errors call it.
    name: String,
    kind: Kind,
}

enum Kind {
    /// Sees the row.
    Prompt,
    /// Sees messages; writes the tokenizer's special tokens itself.
    Chat { named_tokens: Vec<(String, String)> },
}

impl Template {
    /// `tokenizer`'s directory is where `chat` finds the chat template.
    pub fn open(source: &TemplateSource, tokenizer: &Tokenizer) -> Result<Template, DataError> {
        match source {
            TemplateSource::R1Zero => Template::prompt("r1-zero", R1_ZERO.into()),
            TemplateSource::Plain => Template::prompt("plain", "{{ prompt }}".into()),
            TemplateSource::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|e| DataError::read(path, e))?;
                Template::prompt(&path.display().to_string(), text)
            }
            TemplateSource::Chat => Template::chat(tokenizer),
        }
    }

    fn prompt(name: &str, text: String) -> Result<Template, DataError> {
        let mut environment = environment();
        // A misspelled variable is an error, not an empty prompt.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        Template::compile(environment, name.into(), text, Kind::Prompt)
    }

    /// As `transformers` renders chat templates: jinja2 with `trim_blocks` and `lstrip_blocks`, lenient about what is undefined.
    fn chat(tokenizer: &Tokenizer) -> Result<Template, DataError> {
        Template::chat_of(tokenizer)?.ok_or_else(|| {
            let missing = format!(
                "{} has no chat template: add `chat_template` to its tokenizer_config.json (or a file chat_template.jinja beside it), or set \
                 `template` to \"r1-zero\", \"plain\" or a template file",
                tokenizer.directory().display()
            );
            DataError::template("chat", missing)
        })
    }

    /// The tokenizer's chat template; `None` where it has none.
    pub fn chat_of(tokenizer: &Tokenizer) -> Result<Option<Template>, DataError> {
        let Some((name, text)) = chat_template(tokenizer.directory())? else { return Ok(None) };
        let mut environment = environment();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        let named_tokens = tokenizer.named_tokens().to_vec();
        Template::compile(environment, name, without_generation_marks(&text), Kind::Chat { named_tokens }).map(Some)
    }

    fn compile(mut environment: Environment<'static>, name: String, text: String, kind: Kind) -> Result<Template, DataError> {
        environment.add_template_owned(NAME, text).map_err(|e| DataError::template(&name, describe(&e)))?;
        Ok(Template { environment, name, kind })
    }

    /// The prompt's text. An error names what the template or the row lacks.
    pub fn render(&self, row: &Row) -> Result<String, DataError> {
        let wrong = |e: minijinja::Error| DataError::template(&self.name, describe(&e));
        let prompt = row.prompt.as_deref().ok_or_else(|| DataError::template(&self.name, "the row has no prompt"))?;
        let template = self.environment.get_template(NAME).map_err(wrong)?;
        let rendered = match &self.kind {
            Kind::Prompt if row.messages.len() > 1 => {
                let problem = "the prompt is a conversation of several messages: use template = \"chat\"";
                return Err(DataError::template(&self.name, problem));
            }
            Kind::Prompt => {
                let meta: serde_json::Value =
                    row.meta.as_deref().and_then(|meta| serde_json::from_str(meta).ok()).unwrap_or_default();
                let meta = if meta.is_null() { serde_json::json!({}) } else { meta };
                let (reference, domain) = (row.reference.as_deref(), row.domain.as_deref());
                template.render(context! { prompt, reference, domain, meta => Value::from_serialize(meta) })
            }
            Kind::Chat { named_tokens } => {
                let alone = [Message { role: "user".into(), content: prompt.into() }];
                let messages = if row.messages.is_empty() { &alone[..] } else { &row.messages[..] };
                let tokens: Value = named_tokens.iter().map(|(name, token)| (name.as_str(), token.as_str())).collect();
                let call =
                    context! { messages, add_generation_prompt => true, tools => Value::from(()), documents => Value::from(()) };
                template.render(context! { ..call, ..tokens })
            }
        };
        rendered.map_err(wrong)
    }

    /// Whether the rendered text still lacks the tokenizer's special ids (a chat template writes its own).
    pub fn adds_special(&self) -> bool {
        matches!(self.kind, Kind::Prompt)
    }

    /// Renders and tokenises: the ids that a completion continues.
    pub fn prompt_ids(&self, row: &Row, tokenizer: &Tokenizer) -> Result<(String, Vec<u32>), DataError> {
        let text = self.render(row)?;
        let ids = tokenizer.encode_open(&text, self.adds_special())?;
        if ids.is_empty() {
            return Err(DataError::template(&self.name, "the prompt has no token: there is nothing to continue"));
        }
        Ok((text, ids))
    }
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    // A template comes with a model, and may loop for ever.
    environment.set_fuel(Some(FUEL));
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_filter("tojson", |value: Value, options: minijinja::value::Kwargs| -> Result<Value, minijinja::Error> {
        let indent: Option<usize> = options.get("indent")?;
        options.get::<Option<bool>>("ensure_ascii")?;
        options.assert_all_used()?;
        let json = serde_json::to_value(&value).map_err(|e| minijinja::Error::new(ErrorKind::BadSerialization, e.to_string()))?;
        let mut text = String::new();
        python_json(&mut text, &json, indent, 0);
        Ok(Value::from_safe_string(text))
    });
    environment
}

/// JSON as Python's `json.dumps(value, ensure_ascii=False, indent=indent)` writes it.
fn python_json(text: &mut String, value: &serde_json::Value, indent: Option<usize>, depth: usize) {
    let items: Vec<(Option<&String>, &serde_json::Value)> = match value {
        serde_json::Value::Array(items) if !items.is_empty() => items.iter().map(|item| (None, item)).collect(),
        serde_json::Value::Object(map) if !map.is_empty() => map.iter().map(|(key, item)| (Some(key), item)).collect(),
        other => return text.push_str(&other.to_string()),
    };
    let (open, close) = if value.is_array() { ('[', ']') } else { ('{', '}') };
    let newline = |text: &mut String, depth: usize| {
        if let Some(indent) = indent {
            text.push('\n');
            text.push_str(&" ".repeat(indent * depth));
        }
    };
    text.push(open);
    for (index, (key, item)) in items.into_iter().enumerate() {
        if index > 0 {
            text.push_str(if indent.is_some() { "," } else { ", " });
        }
        newline(text, depth + 1);
        if let Some(key) = key {
            text.push_str(&serde_json::Value::from(key.as_str()).to_string());
            text.push_str(": ");
        }
        python_json(text, item, indent, depth + 1);
    }
    newline(text, depth);
    text.push(close);
}

/// `chat_template.jinja`, else `chat_template` of tokenizer_config.json (a string, or a list of named ones: "default").
fn chat_template(directory: &Path) -> Result<Option<(String, String)>, DataError> {
    let file = directory.join("chat_template.jinja");
    match std::fs::read_to_string(&file) {
        Ok(text) => return Ok(Some((file.display().to_string(), text))),
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(DataError::read(&file, e)),
        Err(_) => {}
    }
    let config = directory.join("tokenizer_config.json");
    let name = config.display().to_string();
    let text = std::fs::read_to_string(&config).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let template = match &value["chat_template"] {
        serde_json::Value::Array(named) => named.iter().find(|t| t["name"] == "default").and_then(|t| t["template"].as_str()),
        other => other.as_str(),
    };
    Ok(template.map(|text| (name, text.to_string())))
}

/// `{% generation %}` marks what an assistant said, for loss masks; jinja knows it only through an extension of `transformers`.
fn without_generation_marks(text: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some((before, tag)) = rest.split_once("{%") {
        result.push_str(before);
        result.push_str("{%");
        let Some((inside, after)) = tag.split_once("%}") else {
            rest = tag;
            continue;
        };
        match inside.trim_matches(['-', '+']).trim() {
            "generation" => result.push_str(&inside.replace("generation", " if true ")),
            "endgeneration" => result.push_str(&inside.replace("endgeneration", " endif ")),
            _ => result.push_str(inside),
        }
        result.push_str("%}");
        rest = after;
    }
    result.push_str(rest);
    result
}

/// What went wrong and in which line, without minijinja's own name for the template.
fn describe(error: &minijinja::Error) -> String {
    if error.kind() == ErrorKind::UnknownFunction && error.detail().is_some_and(|detail| detail.contains("strftime_now")) {
        return "the template asks for today's date (strftime_now), and a prompt must be the same each time: use a template file without it".into();
    }
    let what = error.detail().map_or_else(|| error.kind().to_string(), |detail| format!("{}: {detail}", error.kind()));
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}
