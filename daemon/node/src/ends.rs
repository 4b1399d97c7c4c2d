//! How an attempt ends if something of it cannot be written or read.

use r1d_ingest::{SetError, StepError};
use r1d_ledger::LedgerError;
use r1d_proto::remedy::{remedy, said_by_the_system};
use r1d_runner::End;

/// The end of an attempt if something could not be kept. If the operating system refused it, the
/// job waits.
pub(crate) fn unkept(error: &(dyn std::error::Error + 'static)) -> End {
    match said_by_the_system(error).and_then(remedy) {
        Some(what) => End::Away {
            cause: format!("{error}: {what}"),
        },
        None => End::Failed {
            error: error.to_string(),
        },
    }
}

/// The end of an attempt if the machine kept it from what it needed: the job waits.
pub(crate) fn failed_by_machine(error: &(dyn std::error::Error + 'static)) -> End {
    let cause = match said_by_the_system(error).and_then(remedy) {
        Some(what) => format!("{error}: {what}"),
        None => error.to_string(),
    };
    End::Away { cause }
}

/// The end of an attempt if the rows of a step cannot be read. A damaged token set is made again
/// when the job's inputs are opened.
pub(crate) fn unread(error: StepError) -> End {
    match error {
        StepError::Set(SetError::Damaged(_)) => End::Reread,
        error => unkept(&error),
    }
}

/// The end of an attempt if the ledger did not take a command.
pub(crate) fn unrecorded(error: &LedgerError) -> End {
    match error {
        LedgerError::Rejected(rejected) => End::Abandoned {
            cause: rejected.to_string(),
        },
        LedgerError::Storage { .. } | LedgerError::Interrupted { .. } => away(error),
        // The file is the job's alone, and a copy of it may come back.
        error @ LedgerError::Metrics { .. } => End::Away {
            cause: error.to_string(),
        },
        error => unkept(error),
    }
}

/// The end of an attempt if a file system does not take what it should.
pub(crate) fn away(error: &dyn std::error::Error) -> End {
    End::Away {
        cause: format!("{error}: see to that file system"),
    }
}
