//! What can be wrong with a job file or `r1d.toml`. Every text names the culprit and says what to
//! do.

/// `place` is the file's line and table as a reader looks for them:
/// `line 12, [[stage]] "reasoning"`.
#[derive(Debug, thiserror::Error, PartialEq, Eq, Clone)]
pub enum JobError {
    #[error(
        "the job file has {bytes} bytes, at most {limit} are possible: long texts belong into \
         files that it names"
    )]
    TooLong { bytes: usize, limit: usize },
    #[error("line {line}: not TOML: {message}")]
    Syntax { line: usize, message: String },
    #[error("{place}: unknown key `{key}`{hint}")]
    UnknownKey {
        place: String,
        key: String,
        hint: String,
    },
    #[error("{place}: `{key}` is {found}, expected {expected}")]
    WrongType {
        place: String,
        key: String,
        expected: String,
        found: String,
    },
    #[error("{place}: `{key}` = {value} is out of range: {rule}")]
    OutOfRange {
        place: String,
        key: String,
        value: String,
        rule: String,
    },
    #[error("{place}: `{key}` is missing: {fix}")]
    Missing {
        place: String,
        key: String,
        fix: String,
    },
    #[error("{place}: {what} is not in this release{fix}")]
    NotInThisRelease {
        place: String,
        what: String,
        fix: String,
    },
    /// Settings that are each fine and cannot work together.
    #[error("{place}: {problem}; {fix}")]
    Unsound {
        place: String,
        problem: String,
        fix: String,
    },
    /// A model's `config.json` that the plan cannot read.
    #[error("model config: {0}")]
    ModelConfig(String),
}
