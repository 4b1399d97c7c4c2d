//! How an attempt ends after a request that failed.

use crate::message::End;
use r1d_proto::worker::{Failure, FailureKind};

/// How an attempt ends when the weights of a job cannot be brought back to where they were. There
/// was room for them before, so memory that is missing now is left for a fresh worker to find.
pub(super) fn not_returned(doing: &str, failure: Failure) -> End {
    match failed(doing, failure.clone()) {
        End::Failed { error: cause } if failure.kind == FailureKind::OutOfMemory => {
            End::Abandoned { cause }
        }
        end => end,
    }
}

/// How an attempt ends after a failed request.
pub(super) fn failed(doing: &str, failure: Failure) -> End {
    let message = failure.message;
    let error = match failure.kind {
        FailureKind::Internal => {
            return End::WorkerFailed {
                cause: format!("{doing}: {message}"),
            };
        }
        FailureKind::Invalid => format!("{doing}: {message}"),
        FailureKind::Storage => {
            return End::Away {
                cause: format!("{doing}: {message}"),
            };
        }
        FailureKind::OutOfMemory => format!(
            "{doing}: the device ran out of memory ({message}): lower max_tokens_per_device, \
             sampler.slots or max_completion_length, or set gradient_checkpointing, \
             optimizer_offload or lora_r"
        ),
    };
    End::Failed { error }
}
