//! What a token set is made of, and how: a request holds everything that its maker needs, so that
//! another process can be the maker.

use crate::file::{SetError, TokenSet};
use crate::key::{Key, KeyParts};
use crate::make::{MakeError, Making};
use crate::preferences::{self, Reading};
use crate::prompts::{Lengths, Prompts};
use crate::rows::Rows;
use crate::supervision::{self, Taught};
use r1d_data::{Telling, Template, Tokenizer, dataset, template, tokenizer};
use r1d_job::{DataSource, TemplateSource, Tokenize};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A token set that is wanted.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Request {
    /// The rows of a data set.
    Rows {
        /// The data set's name and columns.
        source: DataSource,
        /// Its files, in order.
        files: Vec<PathBuf>,
    },
    /// A prompt for each row.
    Prompts {
        /// The rows.
        rows: RowsRef,
        /// How the prompts are rendered.
        rendering: Rendering,
        /// The tokenizer's directory or file.
        tokenizer: PathBuf,
        /// Limits of a prompt's length.
        lengths: Lengths,
    },
    /// The documents of a pretrain stage.
    Documents {
        /// The rows of each data set.
        data: Vec<RowsRef>,
        /// The tokenizer's directory or file.
        tokenizer: PathBuf,
    },
    /// The sequences of an sft stage.
    Sequences {
        /// Each data set, and how its rows are read.
        data: Vec<TaughtRef>,
        /// The tokenizer's directory or file.
        tokenizer: PathBuf,
        /// Length limit of a row in tokens; longer rows are cut there.
        max_length: u32,
    },
    /// The rows of a stage that learns from preferences.
    Preferences {
        /// Each data set, and how its prompts are rendered.
        data: Vec<(RowsRef, Rendering)>,
        /// The tokenizer's directory or file.
        tokenizer: PathBuf,
        /// How the rows are read.
        reading: Reading,
    },
}

/// A set of rows that another set is made of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RowsRef {
    /// The set's key.
    pub key: Key,
    /// The data set's name in the job file, for errors.
    pub name: String,
    /// The data set's files, for errors.
    pub files: Vec<PathBuf>,
}

/// A data set of an sft stage, and how its rows are read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TaughtRef {
    /// The rows.
    pub rows: RowsRef,
    /// How the prompts are rendered.
    pub rendering: Rendering,
    /// Whether prompt and completion are tokenised together or apart.
    pub tokenize: Tokenize,
    /// Rows with a longer prompt, in tokens, are left out. `None`: no limit.
    pub max_prompt_length: Option<u32>,
}

/// How a row's prompt is rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendering {
    /// The template.
    pub template: TemplateSource,
    /// The date that `strftime_now` gives, `YYYY-MM-DD`.
    pub date: Option<String>,
    /// Further variables of a chat template: a JSON object, or an empty text.
    pub chat_template_kwargs: String,
    /// The column that the job names for a row's tools.
    pub tools: Option<String>,
}

impl Rendering {
    /// Opens the template. Errors name it.
    pub fn open(&self, tokenizer: &Tokenizer) -> Result<Template, MakeError> {
        let telling = Telling {
            date: self.date.as_deref(),
            chat_template_kwargs: &self.chat_template_kwargs,
            tools: self.tools.as_deref(),
        };
        Ok(Template::open(&self.template, tokenizer, &telling)?)
    }

    /// Whether the date has a say in what is rendered.
    fn depends_on_date(&self, tokenizer: &Path) -> bool {
        match &self.template {
            TemplateSource::R1Zero | TemplateSource::Plain => false,
            TemplateSource::File(path) => template::asks_for_date(path),
            TemplateSource::Chat => {
                let beside = if tokenizer.is_dir() {
                    Some(tokenizer)
                } else {
                    tokenizer.parent()
                };
                beside.is_some_and(template::asks_for_date)
            }
        }
    }

    fn key_parts(&self, tokenizer: &Path, parts: &mut KeyParts) {
        let name: &[u8] = match &self.template {
            TemplateSource::R1Zero => b"r1-zero",
            TemplateSource::Chat => b"chat",
            TemplateSource::Plain => b"plain",
            TemplateSource::File(_) => b"file",
        };
        parts.add("template", name);
        parts.add("chat_template_kwargs", &self.chat_template_kwargs);
        parts.add("tools", format!("{:?}", self.tools));
        let date = self
            .date
            .as_ref()
            .filter(|_| self.depends_on_date(tokenizer));
        parts.add("date", format!("{date:?}"));
    }
}

impl Request {
    /// The files that the set is made of, without the sets of rows.
    pub fn files(&self) -> Vec<PathBuf> {
        let rendering = |rendering: &Rendering| match &rendering.template {
            TemplateSource::File(path) => Some(path.clone()),
            _ => None,
        };
        let (templates, tokenizer): (Vec<PathBuf>, &Path) = match self {
            Request::Rows { files, .. } => return files.clone(),
            Request::Prompts {
                rendering: only,
                tokenizer,
                ..
            } => (rendering(only).into_iter().collect(), tokenizer),
            Request::Documents { tokenizer, .. } => (Vec::new(), tokenizer),
            Request::Sequences {
                data, tokenizer, ..
            } => {
                let templates = data
                    .iter()
                    .filter_map(|taught| rendering(&taught.rendering));
                (templates.collect(), tokenizer)
            }
            Request::Preferences {
                data, tokenizer, ..
            } => {
                let templates = data.iter().filter_map(|(_, own)| rendering(own));
                (templates.collect(), tokenizer)
            }
        };
        let mut files = templates;
        files.extend(tokenizer::files(tokenizer));
        files
    }

    /// The sets of rows that the set is made of.
    pub fn rows(&self) -> Vec<&RowsRef> {
        match self {
            Request::Rows { .. } => Vec::new(),
            Request::Prompts { rows, .. } => vec![rows],
            Request::Documents { data, .. } => data.iter().collect(),
            Request::Sequences { data, .. } => data.iter().map(|taught| &taught.rows).collect(),
            Request::Preferences { data, .. } => data.iter().map(|(rows, _)| rows).collect(),
        }
    }

    /// The key of the set: a hash of the build that makes it, of the settings, and of the contents
    /// of [`Request::files`], whose hashes are in their order. Where the files are has no say.
    pub(crate) fn key(&self, build: &str, hashes: &[String]) -> io::Result<Key> {
        let mut parts = KeyParts::default();
        parts.add("build", build);
        for rows in self.rows() {
            parts.add("rows", rows.key.bytes());
        }
        match self {
            Request::Rows { source, files } => {
                parts.add("kind", "rows");
                let columns = DataSource {
                    name: String::new(),
                    path: PathBuf::new(),
                    shuffle: false,
                    template: TemplateSource::Plain,
                    chat_template_kwargs: String::new(),
                    max_prompt_length: None,
                    ..source.clone()
                };
                let columns = postcard::to_stdvec(&columns).map_err(io::Error::other)?;
                parts.add("columns", columns);
                for file in files {
                    parts.add("format", dataset::format_name(file).unwrap_or_default());
                }
            }
            Request::Prompts {
                rendering,
                tokenizer,
                lengths,
                ..
            } => {
                parts.add("kind", "prompts");
                rendering.key_parts(tokenizer, &mut parts);
                parts.add("lengths", format!("{lengths:?}"));
            }
            Request::Documents { .. } => parts.add("kind", "documents"),
            Request::Sequences {
                data,
                tokenizer,
                max_length,
            } => {
                parts.add("kind", "sequences");
                parts.add("max_length", max_length.to_le_bytes());
                for taught in data {
                    taught.rendering.key_parts(tokenizer, &mut parts);
                    let (tokenize, max) = (taught.tokenize, taught.max_prompt_length);
                    parts.add("taught", format!("{tokenize:?} {max:?}"));
                }
            }
            Request::Preferences {
                data,
                tokenizer,
                reading,
            } => {
                parts.add("kind", "preferences");
                parts.add("reading", format!("{reading:?}"));
                for (_, rendering) in data {
                    rendering.key_parts(tokenizer, &mut parts);
                }
            }
        }
        for (file, hash) in self.files().iter().zip(hashes) {
            // What a tokenizer's file means is said by its name.
            let name = file
                .file_name()
                .filter(|_| !matches!(self, Request::Rows { .. }));
            parts.add("file", name.unwrap_or_default().as_encoded_bytes());
            parts.add("contents", hash);
        }
        Ok(parts.key())
    }

    /// The names of the data sets, for errors.
    pub(crate) fn names(&self) -> String {
        match self {
            Request::Rows { source, .. } => source.name.clone(),
            _ => {
                let names: Vec<&str> = self.rows().iter().map(|rows| &*rows.name).collect();
                names.join(" + ")
            }
        }
    }

    /// Makes the set. The sets of rows are in `dir`.
    pub(crate) fn make(&self, key: &Key, making: Making<'_>, dir: &Path) -> Result<(), MakeError> {
        let rows = |rows: &RowsRef| -> Result<Rows, MakeError> {
            let file = File::open(dir.join(rows.key.to_string())).map_err(SetError::Io)?;
            let set = Arc::new(TokenSet::open(file, &rows.key)?);
            Ok(Rows::open(set, &rows.name, rows.files.clone())?)
        };
        let open = |path: &Path| Ok::<_, MakeError>(Tokenizer::open(path)?.remembering_words());
        match self {
            Request::Rows { source, files } => Rows::make(source, files, key, making),
            Request::Prompts {
                rows: of,
                rendering,
                tokenizer,
                lengths,
            } => {
                let tokenizer = open(tokenizer)?;
                let template = rendering.open(&tokenizer)?;
                Prompts::make(&rows(of)?, &template, &tokenizer, *lengths, key, making)
            }
            Request::Documents { data, tokenizer } => {
                let data = data.iter().map(rows).collect::<Result<Vec<_>, _>>()?;
                supervision::make_documents(&data, &open(tokenizer)?, key, making)
            }
            Request::Sequences {
                data,
                tokenizer,
                max_length,
            } => {
                let tokenizer = open(tokenizer)?;
                let opened = data
                    .iter()
                    .map(|taught| Ok((rows(&taught.rows)?, taught.rendering.open(&tokenizer)?)))
                    .collect::<Result<Vec<_>, MakeError>>()?;
                let read = data
                    .iter()
                    .zip(&opened)
                    .map(|(taught, (rows, template))| Taught {
                        rows,
                        template,
                        tokenize: taught.tokenize,
                        max_prompt_length: taught.max_prompt_length,
                    });
                let read: Vec<Taught<'_>> = read.collect();
                supervision::make_sequences(&read, &tokenizer, *max_length, key, making)
            }
            Request::Preferences {
                data,
                tokenizer,
                reading,
            } => {
                let tokenizer = open(tokenizer)?;
                let data = data
                    .iter()
                    .map(|(of, rendering)| Ok((rows(of)?, rendering.open(&tokenizer)?)))
                    .collect::<Result<Vec<_>, MakeError>>()?;
                preferences::make(&data, &tokenizer, *reading, key, making)
            }
        }
    }
}
