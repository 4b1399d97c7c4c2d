//! Errors of the libraries, as `r1d` is told of them: is it worth another try, and what should a person do?

use r1d_proto::worker::{Failure, FailureKind};

pub fn invalid(message: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Invalid, message: message.into() }
}

/// Tells a full disk and an exhausted device from other causes by the whole chain of sources.
pub fn classify(otherwise: FailureKind, error: &(dyn std::error::Error + 'static)) -> Failure {
    let mut message = error.to_string();
    let mut kind = otherwise;
    let mut cause = Some(error);
    while let Some(error) = cause {
        let text = error.to_string();
        let full = |e: &std::io::Error| matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        if error.downcast_ref::<std::io::Error>().is_some_and(full) {
            kind = FailureKind::Storage;
        }
        if text.contains("out of memory") || text.contains("can't allocate memory") {
            kind = FailureKind::OutOfMemory;
        }
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
        cause = error.source();
    }
    Failure { kind, message }
}
