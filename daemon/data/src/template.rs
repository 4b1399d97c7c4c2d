//! Renders a row's prompt as the model reads it, and its completion if that is a message.

use crate::concat;
use crate::error::DataError;
use crate::jinja::{self, describe};
use crate::json::Json;
use crate::message::{Message, Spoken};
use crate::naming;
use crate::python;
use crate::rendered::Rendered;
use crate::row::Row;
use crate::tokenizer::Tokenizer;
use chrono::NaiveDate;
use minijinja::{Environment, UndefinedBehavior, Value, context};
use r1d_job::TemplateSource;
use r1d_proto::user_file;
use std::path::Path;

/// Table 1 of the DeepSeek-R1 paper, verbatim.
pub const R1_ZERO: &str = include_str!("../templates/r1-zero.jinja");
/// Most bytes of a template file (`LIM-1`).
pub const TEMPLATE_BYTES_MAX: u64 = 16 << 20;

const NAME: &str = "prompt";
/// The name of the template that transformers uses for rows with tools, if a tokenizer has several.
const TOOL_USE: &str = "tool_use";
/// The tag that transformers appends to a message that is to be continued, to find the place again.
const CONTINUE_TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";
/// Variables that may not be settings.
const RESERVED: [&str; 6] = [
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "tokenize",
    "return_dict",
];

/// The values that a job gives a chat template, the same for all rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct Telling<'a> {
    /// The date that `strftime_now` gives, `YYYY-MM-DD`. Without it, a template that asks for the
    /// date is refused.
    pub date: Option<&'a str>,
    /// Further variables: a JSON object, or an empty text.
    pub chat_template_kwargs: &'a str,
    /// The column that the job names for a row's tools.
    pub tools: Option<&'a str>,
}

impl Telling<'_> {
    /// The key of the job that would have no effect, because only a chat template reads it.
    fn unheard(&self) -> Result<Option<&'static str>, DataError> {
        let settings = settings(self.chat_template_kwargs)
            .map_err(|e| DataError::template("chat_template_kwargs", e))?;
        Ok(match (self.tools, settings.is_empty()) {
            (Some(_), _) => Some("tools"),
            (None, false) => Some("chat_template_kwargs"),
            (None, true) => None,
        })
    }
}

/// A template that renders rows of a data set.
pub struct Template {
    environment: Environment<'static>,
    /// The name in errors.
    name: String,
    kind: Kind,
}

enum Kind {
    /// A template that reads the row's columns.
    Prompt,
    /// A template that reads messages, and writes the tokenizer's special tokens itself.
    Chat(Chat),
}

struct Chat {
    named_tokens: Vec<(String, String)>,
    kwargs: Vec<(String, Json)>,
    /// Whether the template reads a message's content. If not, transformers refuses to continue a
    /// message.
    reads_content: bool,
    /// Whether it reads the row beside the messages: true for a file of the job.
    sees_row: bool,
    /// Whether rows with tools have a template of their own.
    has_tool_use: bool,
}

impl Template {
    /// Reads and compiles a template. For `chat` it is the chat template in `tokenizer`'s
    /// directory.
    pub fn open(
        source: &TemplateSource,
        tokenizer: &Tokenizer,
        telling: &Telling<'_>,
    ) -> Result<Template, DataError> {
        let told_in_vain = |name: &str| match telling.unheard()? {
            None => Ok(()),
            Some(key) => {
                let problem = format!(
                    "it takes no `{key}`, which the data set has: use template = \"chat\", or \
                     leave `{key}` out"
                );
                Err(DataError::template(name, problem))
            }
        };
        match source {
            TemplateSource::R1Zero => {
                told_in_vain("r1-zero").and_then(|()| Template::prompt("r1-zero", R1_ZERO.into()))
            }
            TemplateSource::Plain => told_in_vain("plain")
                .and_then(|()| Template::prompt("plain", "{{ prompt }}".into())),
            TemplateSource::File(path) => {
                let (name, text) = (path.display().to_string(), read(path)?);
                let file = Template::prompt(&name, text.clone())?;
                let sees = file
                    .environment
                    .get_template(NAME)
                    .map(|template| template.undeclared_variables(false));
                if sees.is_ok_and(|names| names.contains("messages")) {
                    Template::chat(
                        name,
                        &Texts {
                            default: text,
                            tool_use: None,
                        },
                        tokenizer,
                        telling,
                        true,
                    )
                } else {
                    told_in_vain(&name).map(|()| file)
                }
            }
            TemplateSource::Chat => Template::chat_of(tokenizer, telling)?.ok_or_else(|| {
                let missing = format!(
                    "{} has no chat template: add `chat_template` to its tokenizer_config.json \
                     (or a file chat_template.jinja beside it), or set `template` to \"r1-zero\", \
                     \"plain\" or a template file",
                    tokenizer.directory().display()
                );
                DataError::template("chat", missing)
            }),
        }
    }

    fn prompt(name: &str, text: String) -> Result<Template, DataError> {
        let mut environment = jinja::environment(None);
        // A misspelled variable is an error, not an empty prompt.
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        Template::compile(
            environment,
            name.into(),
            jinja::without_generation_marks(&jinja::normalised(&text)),
            Kind::Prompt,
        )
    }

    /// The tokenizer's chat template; `None` if it has none.
    pub fn chat_of(
        tokenizer: &Tokenizer,
        telling: &Telling<'_>,
    ) -> Result<Option<Template>, DataError> {
        let Some((name, texts)) = chat_template(tokenizer.directory())? else {
            return Ok(None);
        };
        Template::chat(name, &texts, tokenizer, telling, false).map(Some)
    }

    /// Compiles a chat template as `transformers` does: jinja2 with `trim_blocks` and
    /// `lstrip_blocks`, with undefined values allowed.
    fn chat(
        name: String,
        texts: &Texts,
        tokenizer: &Tokenizer,
        telling: &Telling<'_>,
        sees_row: bool,
    ) -> Result<Template, DataError> {
        let wrong = |problem: String| DataError::template(&name, problem);
        let date = match telling.date {
            None => None,
            Some(date) => {
                let day = NaiveDate::parse_from_str(date, "%Y-%m-%d")
                    .map_err(|e| wrong(format!("`date` = {date:?}: {e}")))?;
                Some(day)
            }
        };
        let kwargs = settings(telling.chat_template_kwargs).map_err(wrong)?;
        let chat = Chat {
            named_tokens: tokenizer.named_tokens().to_vec(),
            kwargs,
            reads_content: texts.default.contains("content"),
            sees_row,
            has_tool_use: texts.tool_use.is_some(),
        };
        let compiled = |text: &str| {
            concat::as_in_python(&jinja::without_generation_marks(&jinja::normalised(text)))
        };
        let mut environment = jinja::chat_environment(date);
        if let Some(text) = &texts.tool_use {
            environment
                .add_template_owned(TOOL_USE, compiled(text))
                .map_err(|e| DataError::template(&name, describe(&e)))?;
        }
        Template::compile(
            environment,
            name,
            compiled(&texts.default),
            Kind::Chat(chat),
        )
    }

    fn compile(
        mut environment: Environment<'static>,
        name: String,
        text: String,
        kind: Kind,
    ) -> Result<Template, DataError> {
        environment
            .add_template_owned(NAME, text)
            .map_err(|e| DataError::template(&name, describe(&e)))?;
        Ok(Template {
            environment,
            name,
            kind,
        })
    }

    fn wrong(&self, problem: impl ToString) -> DataError {
        DataError::template(&self.name, problem)
    }

    /// Renders the prompt. An error names what the template or the row lacks. If the last message
    /// is an assistant's, it is left open for a completion to continue.
    pub fn render(&self, row: &Row) -> Result<String, DataError> {
        let chat = match &self.kind {
            Kind::Prompt => return self.render_prompt(row),
            Kind::Chat(chat) => chat,
        };
        let messages = self.messages(row)?;
        match messages.split_last() {
            Some((last, before)) if last.role() == "assistant" => {
                self.render_continued(chat, row, before, last)
            }
            _ => self.render_messages(chat, row, &messages, self.offered_tools(row)?, true),
        }
    }

    /// Renders prompt and completion, as TRL's stages learn them.
    pub fn render_with(&self, row: &Row, completion: &Spoken) -> Result<Rendered, DataError> {
        let text = match (completion, &self.kind) {
            (Spoken::Text(text), _) => text.clone(),
            (Spoken::Messages(messages), Kind::Prompt) => self.alone(messages)?,
            (Spoken::Messages(messages), Kind::Chat(chat)) => {
                let prompt = self.messages(row)?;
                let all = [&prompt[..], messages].concat();
                let tools = self.tools(row)?;
                return Ok(Rendered {
                    prompt: self.render_messages(chat, row, &prompt, tools.clone(), true)?,
                    whole: self.render_messages(chat, row, &all, tools, false)?,
                    is_ended: true,
                });
            }
        };
        let prompt = self.render(row)?;
        Ok(Rendered {
            whole: format!("{prompt}{text}"),
            prompt,
            is_ended: false,
        })
    }

    /// The text of the single message that a template without messages can take.
    fn alone(&self, messages: &[Message]) -> Result<String, DataError> {
        let [message] = messages else {
            return Err(self.wrong("the completion is several messages: use template = \"chat\""));
        };
        match message.other_key() {
            Some(key) => Err(self.wrong(format!(
                "the completion's message has `{key}`, which only template = \"chat\" can write"
            ))),
            None => Ok(message.text()),
        }
    }

    fn render_prompt(&self, row: &Row) -> Result<String, DataError> {
        let prompt = row
            .prompt
            .as_deref()
            .ok_or_else(|| self.wrong("the row has no prompt"))?;
        if row.messages.len() > 1 {
            let problem = "the prompt is a conversation of several messages: use template = \
                           \"chat\", or a file that reads `messages`";
            return Err(self.wrong(problem));
        }
        if let Some(key) = row.messages.iter().find_map(Message::other_key) {
            return Err(self.wrong(format!(
                "the prompt's message has `{key}`, which only template = \"chat\" can write"
            )));
        }
        // If the prompt is a text, these may be any columns; if it is messages, they are meant for
        // a chat template.
        let told = [
            ("tools", &row.tools),
            ("chat_template_kwargs", &row.chat_template_kwargs),
        ];
        let is_told = |value: &Option<Json>| match value {
            None | Some(Json::Null) => false,
            Some(Json::List(items)) => !items.is_empty(),
            Some(Json::Object(pairs)) => !pairs.is_empty(),
            Some(Json::Text(text)) => !["", "[]", "{}", "null"].contains(&text.trim()),
            Some(_) => true,
        };
        if let Some((key, _)) = told
            .into_iter()
            .find(|(_, value)| !row.messages.is_empty() && is_told(value))
        {
            return Err(self.wrong(format!(
                "the row has `{key}`, which only template = \"chat\" can write"
            )));
        }
        self.run(NAME, context! { prompt, ..self.row_context(row)? })
    }

    /// The variables that a template file gets from the row.
    fn row_context(&self, row: &Row) -> Result<Value, DataError> {
        let meta = match row.meta.as_deref() {
            None => Json::Object(Vec::new()),
            Some(meta) => Json::parse(meta)
                .map_err(|e| self.wrong(format!("the row's other columns: {}", e.problem)))?,
        };
        let (reference, domain) = (row.reference.as_deref(), row.domain.as_deref());
        Ok(context! { reference, domain, meta => python::value(&meta) })
    }

    fn messages(&self, row: &Row) -> Result<Vec<Message>, DataError> {
        if row.messages.is_empty() {
            let prompt = row
                .prompt
                .as_deref()
                .ok_or_else(|| self.wrong("the row has no prompt"))?;
            Ok(vec![Message::new("user", prompt)])
        } else {
            Ok(row.messages.clone())
        }
    }

    fn render_messages(
        &self,
        chat: &Chat,
        row: &Row,
        messages: &[Message],
        tools: Value,
        add_generation_prompt: bool,
    ) -> Result<String, DataError> {
        let mut variables: Vec<(String, Value)> = Vec::new();
        let mut set = |name: &str, value: Value| match variables
            .iter_mut()
            .find(|(known, _)| known == name)
        {
            Some(variable) => variable.1 = value,
            None => variables.push((name.into(), value)),
        };
        if chat.sees_row {
            let seen = self.row_context(row)?;
            for name in ["reference", "domain", "meta"] {
                set(name, seen.get_attr(name).unwrap_or_default());
            }
            set("prompt", Value::from(row.prompt.as_deref()));
        }
        for (name, token) in &chat.named_tokens {
            set(name, Value::from(token.as_str()));
        }
        let name = if chat.has_tool_use && !tools.is_none() {
            TOOL_USE
        } else {
            NAME
        };
        set("tools", tools);
        set("documents", Value::from(()));
        let own = row
            .chat_template_kwargs
            .as_ref()
            .map(kwargs)
            .transpose()
            .map_err(|e| self.wrong(e))?;
        for (name, value) in chat.kwargs.iter().chain(own.iter().flatten()) {
            set(name, python::value(value));
        }
        set(
            "messages",
            python::list(
                messages
                    .iter()
                    .map(|message| python::value(&message.to_json()))
                    .collect(),
            ),
        );
        set("add_generation_prompt", Value::from(add_generation_prompt));
        self.run(name, python::object(variables))
    }

    /// Renders as transformers does with `continue_final_message`: the text ends with the last
    /// message's text.
    fn render_continued(
        &self,
        chat: &Chat,
        row: &Row,
        before: &[Message],
        last: &Message,
    ) -> Result<String, DataError> {
        let cannot = |why: &str| {
            self.wrong(format!(
                "the prompt ends in an assistant's message, which is to be continued, and {why}"
            ))
        };
        if !chat.reads_content {
            return Err(cannot("the template reads no `content`"));
        }
        let (tagged, text) = last
            .tagged(CONTINUE_TAG)
            .ok_or_else(|| cannot("it has no text"))?;
        let messages: Vec<Message> = before.iter().cloned().chain([tagged]).collect();
        let rendered =
            self.render_messages(chat, row, &messages, self.offered_tools(row)?, false)?;
        let place = rendered
            .rfind(CONTINUE_TAG.trim())
            .filter(|_| rendered.contains(text.trim()));
        let place =
            place.ok_or_else(|| cannot("the template leaves its text out, or parts of it"))?;
        let (open, behind) = rendered.split_at_checked(place).unwrap_or_default();
        // If the template trims its messages, the end of this one is trimmed too.
        Ok(if behind.starts_with(CONTINUE_TAG) {
            open.into()
        } else {
            open.trim_end().into()
        })
    }

    /// The tools of a prompt that is sampled from. An empty list counts as no tools, as in TRL's
    /// GRPO.
    fn offered_tools(&self, row: &Row) -> Result<Value, DataError> {
        let tools = self.tools(row)?;
        Ok(if tools.len() == Some(0) {
            Value::from(())
        } else {
            tools
        })
    }

    /// The row's tools: none, or a list of JSON schemas. An empty list stays empty, as in TRL's
    /// SFT, DPO and reward models, because a template may test `tools is not none`.
    fn tools(&self, row: &Row) -> Result<Value, DataError> {
        let wrong = |found: &str| {
            self.wrong(format!(
                "the row's tools are {found}, expected a list of JSON schemas, or a string that \
                 is one"
            ))
        };
        let parsed = match &row.tools {
            Some(Json::Text(text)) => {
                Some(Json::parse(text).map_err(|_| wrong("a string that is no JSON"))?)
            }
            _ => None,
        };
        match parsed.as_ref().or(row.tools.as_ref()) {
            None | Some(Json::Null) => Ok(Value::from(())),
            Some(Json::List(tools)) => match tools.iter().find(|tool| tool.as_object().is_none()) {
                Some(tool) => Err(wrong(&format!("a list with {}", tool.kind()))),
                None => Ok(python::list(tools.iter().map(python::value).collect())),
            },
            Some(other) => Err(wrong(other.kind())),
        }
    }

    fn run(&self, name: &str, variables: Value) -> Result<String, DataError> {
        let template = self
            .environment
            .get_template(name)
            .map_err(|e| self.wrong(describe(&e)))?;
        template
            .render(variables)
            .map_err(|e| self.wrong(describe(&e)))
    }

    /// Whether the rendered text still lacks the tokenizer's special ids (a chat template writes
    /// its own).
    pub fn adds_special(&self) -> bool {
        matches!(self.kind, Kind::Prompt)
    }

    /// Whether the template takes messages, with all their keys.
    pub fn is_chat(&self) -> bool {
        matches!(self.kind, Kind::Chat(_))
    }

    /// Renders and tokenises the prompt: the text, and the ids that a completion continues.
    pub fn prompt_ids(
        &self,
        row: &Row,
        tokenizer: &Tokenizer,
    ) -> Result<(String, Vec<u32>), DataError> {
        let text = self.render(row)?;
        let ids = tokenizer.encode_open(&text, self.adds_special())?;
        if ids.is_empty() {
            return Err(self.wrong("the prompt has no token: there is nothing to continue"));
        }
        Ok((text, ids))
    }
}

/// Reads the job's settings of a chat template: a JSON object, or an empty text.
fn settings(text: &str) -> Result<Vec<(String, Json)>, String> {
    match text.trim() {
        "" => Ok(Vec::new()),
        text => {
            kwargs(&Json::parse(text).map_err(|e| format!("chat_template_kwargs: {}", e.problem))?)
        }
    }
}

/// Checks settings of a chat template.
fn kwargs(value: &Json) -> Result<Vec<(String, Json)>, String> {
    let Json::Object(pairs) = value else {
        return Err(format!(
            "chat_template_kwargs is {}, expected an object",
            value.kind()
        ));
    };
    match pairs
        .iter()
        .find(|(name, _)| RESERVED.contains(&name.as_str()))
    {
        Some((name, _)) => Err(format!(
            "chat_template_kwargs has `{name}`, which is no setting: leave it out"
        )),
        None => Ok(pairs.clone()),
    }
}

/// Reads a template's text. If the file is of another kind, the error names that kind.
fn read(path: &Path) -> Result<String, DataError> {
    let bytes = user_file::read(path, TEMPLATE_BYTES_MAX).map_err(|e| DataError::read(path, e))?;
    if let Some(what) = naming::instead(
        bytes
            .get(..naming::HEAD_BYTES.min(bytes.len()))
            .unwrap_or_default(),
    ) && !what.contains("HTML")
    {
        return Err(DataError::Instead {
            path: path.into(),
            what,
        });
    }
    String::from_utf8(bytes)
        .map_err(|_| DataError::template(path.display().to_string(), "it is not text in UTF-8"))
}

/// A tokenizer's chat templates.
struct Texts {
    default: String,
    tool_use: Option<String>,
}

/// Reads `chat_template.jinja`, or else `chat_template` of tokenizer_config.json (a string, or a
/// list of named ones: "default", and "tool_use" for rows with tools).
fn chat_template(directory: &Path) -> Result<Option<(String, Texts)>, DataError> {
    let of_files = |path: &Path| match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(DataError::Read { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    };
    let file = directory.join("chat_template.jinja");
    if let Some(default) = of_files(&file)? {
        let tool_use = of_files(&directory.join("additional_chat_templates/tool_use.jinja"))?;
        return Ok(Some((
            file.display().to_string(),
            Texts { default, tool_use },
        )));
    }
    let config = directory.join("tokenizer_config.json");
    let value = crate::tokenizer::json(&config)?;
    let named = |name: &str| {
        let all = value["chat_template"].as_array()?;
        all.iter().find(|template| template["name"] == name)?["template"]
            .as_str()
            .map(String::from)
    };
    let default = value["chat_template"]
        .as_str()
        .map(String::from)
        .or_else(|| named("default"));
    Ok(default.map(|default| {
        (
            config.display().to_string(),
            Texts {
                default,
                tool_use: named(TOOL_USE),
            },
        )
    }))
}

/// Whether a template file, or the chat template beside a tokenizer, asks for today's date.
pub fn asks_for_date(path: &Path) -> bool {
    let text = if path.is_dir() {
        chat_template(path)
            .ok()
            .flatten()
            .map(|(_, texts)| texts.default + &texts.tool_use.unwrap_or_default())
    } else {
        read(path).ok()
    };
    text.is_some_and(|text| text.contains("strftime_now"))
}

/// The date of a time in seconds since 1970, as a job's `date` has it.
pub fn date_of(unix_seconds: u64) -> Option<String> {
    let at = chrono::DateTime::from_timestamp(i64::try_from(unix_seconds).ok()?, 0)?;
    Some(at.format("%Y-%m-%d").to_string())
}
