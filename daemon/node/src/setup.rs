//! What a worker needs of the node: its executable, libtorch, its device. It is tried before the
//! daemon takes jobs, so that no job fails because the node lacks something.

use crate::devices::DeviceMemory;
use crate::worker::{EXIT_NO_LIBRARY, WorkerCommand, WorkerError};
use r1d_link::{Outbox, Report};
use r1d_proto::worker::PROBED_MEMORY;
use std::process::{Output, Stdio};
use std::time::Duration;

/// Longest time for a worker to open its device; the first one after a boot reads gigabytes of
/// libraries.
const PROBE_MAX: Duration = Duration::from_secs(300);

/// An error that keeps every job from running until an operator changes the configuration.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// No worker can be started.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// A worker does not find its libraries.
    #[error("{0}")]
    Libraries(String),
}

/// Tries all devices at once, and reports what keeps them from being used.
pub(crate) async fn try_devices(
    worker_commands: &[WorkerCommand],
    memory: &DeviceMemory,
    reports: &Outbox<Report>,
) -> Result<(), SetupError> {
    let found = futures_util::future::join_all(worker_commands.iter().map(probe)).await;
    let found = found.into_iter().collect::<Result<Vec<_>, _>>()?;
    for (device, (worker_command, probed)) in worker_commands.iter().zip(found).enumerate() {
        let Probed { problem, bytes } = probed;
        memory.found(bytes);
        if let Some(problem) = &problem {
            tracing::error!(
                "device {} gets no jobs until this is mended: {problem}",
                worker_command.device
            );
        }
        reports.send(Report::Tried { device, problem });
    }
    Ok(())
}

/// What keeps the device from being used; `None` if nothing does, and a small worker computed on it
/// what it should.
pub(crate) async fn look(worker_command: WorkerCommand) -> Option<String> {
    match probe(&worker_command).await {
        Ok(probed) => probed.problem,
        Err(problem) => Some(problem.to_string()),
    }
}

/// What a probe has found.
#[derive(Default)]
struct Probed {
    /// What keeps the device from being used; `None` if nothing does.
    problem: Option<String>,
    /// Bytes of the device's memory, if it is a GPU that can be used.
    bytes: Option<u64>,
}

impl Probed {
    fn unusable(problem: String) -> Probed {
        Probed {
            problem: Some(problem),
            bytes: None,
        }
    }
}

async fn probe(worker_command: &WorkerCommand) -> Result<Probed, SetupError> {
    let failed = |source| WorkerError::Start {
        executable: worker_command.executable.clone(),
        source,
    };
    let mut command = worker_command.command().map_err(failed)?;
    command.args(["probe", "--device", &worker_command.device]);
    // A probe that outlives the daemon keeps the next one's jobs from its device.
    let lock = worker_command.lock.try_clone().map_err(failed)?;
    command
        .stdin(Stdio::null())
        .stdout(Stdio::from(lock))
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let ended = command.spawn().map_err(failed)?.wait_with_output();
    match tokio::time::timeout(PROBE_MAX, ended).await {
        Ok(ended) => judged(worker_command, &ended.map_err(failed)?),
        Err(_) => Ok(Probed::unusable(format!(
            "a worker does not open it within {} s",
            PROBE_MAX.as_secs()
        ))),
    }
}

fn judged(worker_command: &WorkerCommand, ended: &Output) -> Result<Probed, SetupError> {
    let text = String::from_utf8_lossy(&ended.stderr);
    if ended.status.success() {
        let bytes = text
            .lines()
            .find_map(|line| line.strip_prefix(PROBED_MEMORY)?.trim().parse().ok());
        return Ok(Probed {
            bytes,
            ..Probed::default()
        });
    }
    let said = text
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("it said nothing")
        .trim();
    match (
        ended.status.code(),
        worker_command.unusable(ended.status.code(), said),
    ) {
        (Some(EXIT_NO_LIBRARY), Some(problem)) => Err(SetupError::Libraries(problem)),
        (_, Some(problem)) => Ok(Probed::unusable(problem)),
        (_, None) => Ok(Probed::unusable(format!(
            "a worker cannot start ({}): {said}",
            ended.status
        ))),
    }
}
