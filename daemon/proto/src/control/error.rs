//! Why a request was refused, or failed.

use crate::remedy::{remedy, said_by_the_system};
use serde::{Deserialize, Serialize};
use std::error::Error;

/// Why a request was refused, or failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlError {
    /// The kind of error, which tells a client whether to try again.
    pub kind: ErrorKind,
    /// One line in lower case that names the culprit and says what to do.
    pub message: String,
}

impl ControlError {
    /// Makes an error whose message may quote what users, models and plugins wrote: it becomes one
    /// line of bounded length.
    pub fn new(kind: ErrorKind, message: impl ToString) -> ControlError {
        ControlError {
            kind,
            message: crate::shown::line(&message.to_string()),
        }
    }

    /// Makes an error that is the daemon's own.
    pub fn internal(message: impl ToString) -> ControlError {
        ControlError::new(ErrorKind::Internal, message)
    }

    /// Makes an error that is the daemon's own. A failed write can often be mended by an operator:
    /// the message says how.
    pub fn with_remedy(error: &(dyn Error + 'static)) -> ControlError {
        match said_by_the_system(error).and_then(remedy) {
            Some(what) => ControlError::internal(format!("{error}: {what}")),
            None => ControlError::internal(error),
        }
    }
}

/// Kinds of errors of the control protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// There is no such job, stage, step or data set.
    NotFound,
    /// The prefix matches several jobs: use a longer one.
    Ambiguous,
    /// The request, or a file that it names, is wrong: correct it.
    Invalid,
    /// The job belongs to another user.
    Forbidden,
    /// Too many clients ask for the same at once: try again later.
    Busy,
    /// The daemon failed: see its log.
    Internal,
}
