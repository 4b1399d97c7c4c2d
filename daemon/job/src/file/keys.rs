//! What is known of the keys of a table: it checks documents, fills in defaults, orders what is
//! written, and generates `r1ctl explain`, the reference page and the JSON schema. A key that no
//! table has does not exist.

use r1d_proto::shown;

/// A table of a document: `[model]`, or each of `[[stage]]`.
#[derive(Debug)]
pub struct Table {
    /// Path as it is written in the file, without brackets: `stage.reward`; empty for the top
    /// level.
    pub path: &'static str,
    /// One sentence for the reference and `r1ctl explain`.
    pub meaning: &'static str,
    keys: &'static [Key],
}

/// What has keys: a table, or a part of some.
pub trait Keys {
    /// The keys, in the order in which they are written.
    fn keys() -> Vec<Key>;
}

/// What is a table of a file.
pub trait Tabled: Keys {
    /// The table, with its keys.
    fn table() -> &'static Table;
}

/// A key of a table.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Name in the file; unique in its table.
    pub name: &'static str,
    /// Values that it takes.
    pub kind: Kind,
    /// What holds when it is left out.
    pub default: Default,
    /// Unit of its number, such as `tokens` or `steps`; empty if it has none.
    pub unit: &'static str,
    /// One sentence for the reference and `r1ctl explain`.
    pub meaning: &'static str,
}

/// What a key may hold.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// A string that is not empty.
    Text,
    /// 1 to 64 letters, digits, `-`, `_` and `.`, the first a letter or digit: it becomes part of
    /// file names.
    Name,
    /// A path. Relative ones resolve against the file's own directory.
    Path,
    /// `true` or `false`.
    Bool,
    /// A whole number from `min` to `max`.
    Integer {
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// A number that is not lost in float32: 0, or not nearer to it than
    /// [`crate::limits::NUMBER_MIN`]. Integers are taken too.
    Float {
        /// Smallest value, or the largest that is too small (`above`).
        min: f64,
        /// Largest value.
        max: f64,
        /// Whether `min` itself is refused.
        above: bool,
    },
    /// One of the words.
    OneOf(&'static [&'static str]),
    /// A list of strings.
    Texts,
    /// One of the words, or `{ score = number }`.
    WordOrScore(&'static [&'static str]),
    /// The word `auto`, or a list of strings.
    AutoOrTexts,
    /// A table of values that JSON can hold.
    Json,
    /// 64 hexadecimal digits.
    Sha256,
    /// `YYYY-MM-DD`, a day of the calendar.
    Date,
    /// A table `[…]`.
    Table(&'static Table),
    /// An array of tables `[[…]]`, each with a key that says which of the variants it is.
    Variants {
        /// The key that names the variant.
        tag: &'static str,
        /// Each variant's name and keys.
        variants: &'static [(&'static str, &'static Table)],
    },
    /// An array of tables `[[…]]`.
    Tables(&'static Table),
    /// Tables `[….NAME]`, by names that the user chooses.
    Named(&'static Table),
    /// A key that is known and not in this release: the text says what to do instead.
    Later(&'static str),
}

/// What holds when a key is left out.
#[derive(Clone, Copy, Debug)]
pub enum Default {
    /// The key must be given: the text says what to write.
    Required(&'static str),
    /// The key has this value, in TOML.
    Value(&'static str),
    /// The key stays out: the text says what that means.
    Unset(&'static str),
}

impl Table {
    /// A table of these keys. Arrays of tables come last, as TOML has it.
    pub(crate) fn new(path: &'static str, meaning: &'static str, mut keys: Vec<Key>) -> Table {
        keys.sort_by_key(|key| matches!(key.kind, Kind::Tables(_)));
        Table {
            path,
            meaning,
            keys: Box::leak(keys.into_boxed_slice()),
        }
    }

    /// All keys of the table, in the order in which they are written.
    pub fn keys(&self) -> impl Iterator<Item = &'static Key> + use<> {
        self.keys.iter()
    }

    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys().find(|key| key.name == name)
    }
}

impl Kind {
    /// The values that the key takes, in the words of an error and the reference.
    pub fn expected(&self) -> String {
        match self {
            Kind::Text => "a string".into(),
            Kind::Name => "a name (1 to 64 letters, digits, `-`, `_` and `.`, starting with a \
                           letter or digit)"
                .into(),
            Kind::Path => "a path".into(),
            Kind::Bool => "true or false".into(),
            Kind::Integer { min, max: i64::MAX } => format!("an integer of at least {min}"),
            Kind::Integer { min, max } => format!("an integer from {min} to {max}"),
            Kind::Float { min, max, above } => {
                let from = if *above { "above" } else { "of at least" };
                format!(
                    "a number {from} {} and at most {}",
                    shown::number(*min),
                    shown::number(*max)
                )
            }
            Kind::OneOf(words) => format!("one of {}", quoted(words)),
            Kind::Texts => "a list of strings".into(),
            Kind::WordOrScore(words) => format!("{} or {{ score = number }}", quoted(words)),
            Kind::AutoOrTexts => "\"auto\" or a list of strings".into(),
            Kind::Json => "a table of values that JSON can say".into(),
            Kind::Sha256 => "64 hexadecimal digits".into(),
            Kind::Date => "a day as \"2025-01-31\"".into(),
            Kind::Table(table) => format!("a table [{}]", table.path),
            Kind::Variants { .. } => "an array of tables".into(),
            Kind::Tables(table) => format!("an array of tables [[{}]]", table.path),
            Kind::Named(table) => format!("tables [{}]", table.path),
            Kind::Later(_) => "nothing: it is not in this release".into(),
        }
    }

    /// The tables of keys that this key's value consists of, without those further below.
    pub fn tables(&self) -> Vec<&'static Table> {
        match self {
            Kind::Table(table) | Kind::Tables(table) | Kind::Named(table) => vec![table],
            Kind::Variants { variants, .. } => variants.iter().map(|(_, table)| *table).collect(),
            _ => Vec::new(),
        }
    }
}

fn quoted(words: &[&str]) -> String {
    words
        .iter()
        .map(|w| format!("{w:?}"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// All tables of a document, the top level first.
pub fn tables(root: &'static Table) -> Vec<&'static Table> {
    let mut all = vec![root];
    for key in root.keys() {
        for table in key.kind.tables() {
            all.extend(tables(table));
        }
    }
    all
}

/// Names of keys in other trainers, each with its name here.
pub static ALSO_KNOWN_AS: &[(&str, &str)] = &[
    ("max_steps", "steps"),
    ("num_train_epochs", "epochs"),
    ("per_device_train_batch_size", "batch_size"),
    ("train_batch_size", "batch_size"),
    ("generation_batch_size", "prompts_per_step"),
    ("num_minibatches", "steps_per_generation"),
    ("ref_model_sync_steps", "sync_ref_steps"),
    ("sync_ref_model", "sync_ref_steps"),
    ("kl_coef", "beta"),
    ("lr", "learning_rate"),
    ("group_size", "num_generations"),
    ("clip_range", "epsilon"),
    ("bf16", "dtype"),
    ("torch_dtype", "dtype"),
    ("per_device_train_batch_size", "max_tokens_per_device"),
    ("max_seq_length", "max_length"),
    ("seq_len", "max_length"),
    ("max_new_tokens", "max_completion_length"),
    ("reward_weights", "weight"),
    ("save_steps", "every_steps"),
    ("eval_steps", "every_steps"),
    ("save_total_limit", "keep"),
    ("shuffle_dataset", "shuffle"),
    ("question", "prompt"),
    ("answer", "reference"),
    ("conversations", "messages"),
    ("enable_thinking", "chat_template_kwargs"),
    ("filter_overlong_prompts", "max_prompt_length"),
];

/// The known name that is most similar to `name`, by Jaro–Winkler.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let score = |other: &str| strsim::jaro_winkler(name, other);
    known.max_by(|a, b| score(a).total_cmp(&score(b)))
}
