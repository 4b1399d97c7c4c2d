//! Errors of a job file or `r1d.toml`. Every text names the culprit and says what to do.

/// An error of a job file or `r1d.toml`.
///
/// `place` is the file's line and table as a reader looks for them:
/// `line 12, [[stage]] "reasoning"`.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum JobError {
    /// The job file is larger than [`crate::limits::JOB_MAX_BYTES`].
    #[error(
        "the job file has {bytes} bytes, at most {limit} are possible: long texts belong into \
         files that it names"
    )]
    TooLong {
        /// Bytes of the file.
        bytes: usize,
        /// Bytes that are allowed.
        limit: usize,
    },
    /// The text is not TOML.
    #[error("line {line}: not TOML: {message}")]
    Syntax {
        /// Line of the first mistake, from 1.
        line: usize,
        /// The parser's words on what is wrong.
        message: String,
    },
    /// The table has no key of this name. Write the key that the hint names, or leave it out.
    #[error("{place}: unknown key `{key}`{hint}")]
    UnknownKey {
        /// Line and table.
        place: String,
        /// The key as the file has it.
        key: String,
        /// What may have been meant, such as the nearest key, beginning with its own punctuation;
        /// may be empty.
        hint: String,
    },
    /// The value has another type than the key takes.
    #[error("{place}: `{key}` is {found}, expected {expected}")]
    WrongType {
        /// Line and table.
        place: String,
        /// The key.
        key: String,
        /// What the key takes.
        expected: String,
        /// The value that the file has, shortened and made safe to print.
        found: String,
    },
    /// The value has the right type and lies outside what the key allows.
    #[error("{place}: `{key}` = {value} is out of range: {rule}")]
    OutOfRange {
        /// Line and table.
        place: String,
        /// The key.
        key: String,
        /// The value that the file has.
        value: String,
        /// The values that are allowed.
        rule: String,
    },
    /// A key without a default is left out.
    #[error("{place}: `{key}` is missing: {fix}")]
    Missing {
        /// Line and table.
        place: String,
        /// The key.
        key: String,
        /// What to write.
        fix: String,
    },
    /// The file asks for something that r1d knows and this release cannot do.
    #[error("{place}: {what} is not in this release{fix}")]
    NotInThisRelease {
        /// Line and table.
        place: String,
        /// The key or value that asks for it.
        what: String,
        /// What to do instead, beginning with its own punctuation.
        fix: String,
    },
    /// Settings that are each fine and cannot work together.
    #[error("{place}: {problem}; {fix}")]
    Unsound {
        /// Line and table, or the table alone.
        place: String,
        /// The settings, and why they cannot work together.
        problem: String,
        /// What to change.
        fix: String,
    },
    /// The text of a model's `config.json` describes no model that r1d can open: the text says why.
    #[error("model config: {0}")]
    ModelConfig(String),
}

impl JobError {
    /// The error of settings that cannot work together.
    pub(crate) fn unsound(
        place: impl Into<String>,
        problem: impl Into<String>,
        fix: impl Into<String>,
    ) -> JobError {
        JobError::Unsound {
            place: place.into(),
            problem: problem.into(),
            fix: fix.into(),
        }
    }
}
