//! Turns the libraries' errors into what `r1d` needs to know: whether a retry can help, and what a
//! person should do.

use r1d_learn::LearnError;
use r1d_model::{Fault, ModelError};
use r1d_proto::remedy::to_mend;
use r1d_proto::worker::{Failure, FailureKind};
use r1d_sampler::SamplerError;
use std::error::Error;
use std::io::ErrorKind;

pub(crate) fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(FailureKind::Invalid, &message.into())
}

/// An error of a model, of a directory that a user named, or of a checkpoint.
pub(crate) fn of_model(error: ModelError) -> Failure {
    of(error.fault(), &error)
}

/// An error of writing a directory. Whatever the operating system refuses there is for people to
/// mend, like a full disk.
pub(crate) fn of_writing(error: ModelError) -> Failure {
    let refused = root(&error)
        .downcast_ref::<std::io::Error>()
        .filter(|refused| refused.raw_os_error().is_some());
    let is_memory = |refused: &&std::io::Error| refused.kind() == ErrorKind::OutOfMemory;
    let remedy = refused.filter(|refused| !is_memory(refused)).map(to_mend);
    let failure = of_model(error);
    match remedy {
        Some(remedy) if failure.kind != FailureKind::Storage => Failure {
            kind: FailureKind::Storage,
            message: failure.message + &remedy,
        },
        _ => failure,
    }
}

pub(crate) fn of_learning(error: LearnError) -> Failure {
    of(error.fault(), &error)
}

pub(crate) fn of_sampling(error: SamplerError) -> Failure {
    of(error.fault(), &error)
}

/// An error of libtorch itself.
pub(crate) fn of_the_machine(error: impl Error + 'static) -> Failure {
    of(Fault::Machine, &error)
}

/// Classifies an error. A fault of the machine is a full disk, exhausted memory, or anything else;
/// what the operating system refused says what people can do.
fn of(fault: Fault, error: &(dyn Error + 'static)) -> Failure {
    let mut message = error.to_string();
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
        let text = root.to_string();
        if !message.contains(&text) {
            message.push_str(": ");
            message.push_str(&text);
        }
    }
    let kind = match fault {
        Fault::Given => FailureKind::Invalid,
        Fault::Machine => of_the_root(root),
    };
    let refused = root.downcast_ref::<std::io::Error>();
    if let (FailureKind::Storage, Some(refused)) = (kind, refused) {
        message.push_str(&to_mend(refused));
    }
    Failure::new(kind, &message)
}

fn root<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    error.source().map_or(error, root)
}

/// Classifies a machine's fault by its innermost cause: those around it contain names of files.
fn of_the_root(error: &(dyn Error + 'static)) -> FailureKind {
    match error
        .downcast_ref::<std::io::Error>()
        .map(std::io::Error::kind)
    {
        Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => FailureKind::Storage,
        Some(ErrorKind::OutOfMemory) => FailureKind::OutOfMemory,
        None if r1d_torch::memory::ran_out(&error.to_string()) => FailureKind::OutOfMemory,
        _ => FailureKind::Internal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Error as IoError;
    use tch::TchError;

    #[test]
    fn a_refused_write_says_once_what_people_can_do() {
        let says = |number| {
            of_writing(ModelError::Io {
                path: "x".into(),
                source: IoError::from_raw_os_error(number),
            })
            .message
        };
        for (number, remedy) in [
            (28, "make room on that file system"),
            (13, "let the daemon's user read and write there"),
            (30, "make that file system writable again"),
        ] {
            let said = says(number);
            assert!(
                said.ends_with(remedy) && said.matches(remedy).count() == 1,
                "{said}"
            );
        }
    }

    #[test]
    fn a_failure_says_whether_another_try_can_help() {
        let io = |number| {
            of_model(ModelError::Io {
                path: "out of memory".into(),
                source: IoError::from_raw_os_error(number),
            })
            .kind
        };
        // EIO, EMFILE, EACCES, ESTALE; ENOSPC, EDQUOT; ENOMEM.
        assert_eq!([5, 24, 13, 116].map(io), [FailureKind::Internal; 4]);
        assert_eq!([28, 122].map(io), [FailureKind::Storage; 2]);
        assert_eq!(io(12), FailureKind::OutOfMemory);
        let writing = |number| {
            of_writing(ModelError::Io {
                path: "x".into(),
                source: IoError::from_raw_os_error(number),
            })
            .kind
        };
        // EIO, EACCES, ENOTDIR, EROFS, ESTALE, ENOSPC, EFBIG.
        assert_eq!(
            [5, 13, 20, 30, 116, 28, 27].map(writing),
            [FailureKind::Storage; 7]
        );
        assert_eq!(writing(12), FailureKind::OutOfMemory);
        assert_eq!(
            of_writing(ModelError::Input("a tensor".into())).kind,
            FailureKind::Invalid
        );
        let torch =
            |words: &str| of_learning(LearnError::Tensor(TchError::Torch(words.into()))).kind;
        for words in [
            "CUDA out of memory. Tried to allocate 2.00 GiB",
            "[enforce fail at alloc_cpu.cpp:114] data. DefaultCPUAllocator: can't allocate \
             memory: you tried to allocate 8 bytes",
            "not enough memory: 1073741888 bytes cannot be had",
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        ] {
            assert_eq!(torch(words), FailureKind::OutOfMemory, "{words}");
        }
        for words in [
            "CUDA error: an illegal memory access was encountered",
            "CUDA error: uncorrectable ECC error encountered",
        ] {
            assert_eq!(torch(words), FailureKind::Internal, "{words}");
        }
        let bad = ModelError::BadFile {
            path: "out of memory".into(),
            message: "the file is shorter than its header says".into(),
        };
        assert_eq!(of_model(bad).kind, FailureKind::Invalid);
        let diverged = LearnError::NonFinite {
            step: 0,
            update: 0,
            what: "loss",
            value: f64::NAN,
            learning_rate: 1e-3,
            suspect: None,
        };
        assert_eq!(of_learning(diverged).kind, FailureKind::Invalid);
    }

    #[test]
    fn a_failure_is_a_line_of_bounded_length() {
        let failure = invalid(format!("tensor `{}`\n", "x\u{1b}".repeat(1 << 20)));
        assert!(failure.message.len() < 8 << 10 && !failure.message.chars().any(char::is_control));
    }
}
