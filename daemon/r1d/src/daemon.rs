//! The daemon's life: take the state directory, build the parts, listen, run until told to stop,
//! drain.

use crate::cli::{COMPILE, INGEST};
use crate::notify;
use crate::settings::Settings;
use crate::state_dir::{StateDir, StateError};
use r1d_controller::{Controller, ControllerSetup};
use r1d_ledger::{Ledger, LedgerError, Record, Session};
use r1d_link::in_memory;
use r1d_node::{Node, NodeError, NodeSetup, SetupError, devices};
use r1d_proto::file_limit;
use r1d_proto::remedy::{is_lasting, is_the_machines, said_by_the_system, to_mend};
use r1d_proto::world::SharedClock;
use r1d_rewards::signature::PublicKey;
use r1d_rewards::{Compiler, Options, RewardError, Rewards};
use r1d_tasks as tasks;
use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Longest time for the workers to end when the daemon stops.
const STOP_MAX: Duration = Duration::from_secs(15);
/// Longest time for the steps in flight, if the daemon was asked to commit them before it stops.
const LAST_STEP_MAX: Duration = Duration::from_secs(600);
/// Owner and group may use the socket: members of its group may submit jobs.
const SOCKET_MODE: u32 = 0o660;
/// Longest path of a socket that the kernel takes: `sockaddr_un` without its final zero.
const SOCKET_PATH_MAX_BYTES: usize = 107;
/// Time between two checks that the state directory is still there.
const IN_PLACE_LOOK: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error(transparent)]
    State(#[from] StateError),
    #[error("{}{}", .0, said_by_the_system(.0).map(to_mend).unwrap_or_default())]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Rewards(#[from] RewardError),
    #[error("socket {}: {source}{}", path.display(), to_mend(source))]
    Socket {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error(
        "socket {}: its path has {} bytes, the kernel takes {SOCKET_PATH_MAX_BYTES}: set \
         `[listen] socket` or --socket to a shorter one",
        .0.display(), .0.as_os_str().len()
    )]
    SocketPath(PathBuf),
    #[error(transparent)]
    Setup(#[from] SetupError),
    #[error("signals: {0}")]
    Signals(std::io::Error),
    #[error("cannot find the running executable: {0}")]
    Executable(std::io::Error),
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Exit status for a configuration with which the daemon cannot run (sysexits' EX_CONFIG): a
/// restart fails too, until an operator has changed it.
pub(crate) const EXIT_CONFIG: u8 = 78;
/// Exit status for a state directory that an operator has to mend (sysexits' EX_DATAERR).
const EXIT_DATA: u8 = 65;
/// Exit status for anything else, which a restart may overcome.
const EXIT_FAILED: u8 = 1;

impl DaemonError {
    /// The exit status, by which systemd decides: the unit starts the daemon again after one that
    /// time or a restart may mend, and after no other.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            DaemonError::SocketPath(_) => EXIT_CONFIG,
            DaemonError::Setup(error) if !is_the_machines(error) => EXIT_CONFIG,
            DaemonError::State(StateError::NoLedger { .. })
            | DaemonError::Ledger(
                LedgerError::Damaged { .. }
                | LedgerError::NoFile { .. }
                | LedgerError::Newer { .. },
            ) => EXIT_DATA,
            other if said_by_the_system(other).is_some_and(is_lasting) => EXIT_CONFIG,
            _ => EXIT_FAILED,
        }
    }
}

/// Why the daemon stops.
enum StopCause {
    Signal,
    /// `r1ctl shutdown`.
    Requested,
    /// The state directory is gone from its path.
    Displaced(DaemonError),
}

/// The parts that live as long as the daemon.
struct DaemonParts {
    controller: Controller,
    node: Node,
    ledger: Arc<Session>,
    state: Arc<StateDir>,
}

/// Serves until a signal or a client asks the daemon to stop.
pub(crate) fn serve(settings: Settings, clock: SharedClock) -> Result<(), DaemonError> {
    let state = Arc::new(StateDir::lock(&settings.state_dir)?);
    let system = actix::System::new();
    let ended = system.block_on(async move {
        file_limit::is_an_error().map_err(DaemonError::Signals)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
        let shutdown = Arc::new(watch::Sender::new(false));
        let mut asked = shutdown.subscribe();
        let listener = bind(&settings.socket)?;
        notify::send("STATUS=reading the ledger");
        let parts = build(&settings, state, clock, shutdown)?;
        notify::send("STATUS=trying the devices");
        // A device may take minutes to answer; a stop of the service does not wait for it.
        tokio::select! {
            tried = parts.node.try_devices() => tried?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
        parts.controller.devices_found().await;
        let socket = parts.controller.serve(listener);
        // A person's own daemon has one user.
        if !settings.may_be_shut_down {
            parts.controller.look_for_administrators();
        }
        announce(&settings);
        let why = tokio::select! {
            _ = terminate.recv() => StopCause::Signal,
            _ = interrupt.recv() => StopCause::Signal,
            // An error means that clients may not stop the daemon, because it is a service.
            Ok(_) = asked.wait_for(|asked| *asked) => StopCause::Requested,
            gone = displaced(&parts) => StopCause::Displaced(gone),
        };
        let after_step = match why {
            StopCause::Signal => false,
            StopCause::Requested => true,
            // Later writes of a run would be lost, or land in the directory of another daemon.
            StopCause::Displaced(error) => return Err(error),
        };
        drain(&parts, after_step).await;
        drop(socket);
        // A client cannot tell a stale socket from a daemon that does not answer. The lock makes it
        // this daemon's to remove.
        let _ = std::fs::remove_file(&settings.socket);
        Ok(())
    });
    // Dropping it would wait for threads that still read a job's data; they end with the process.
    std::mem::forget(system);
    ended
}

/// Waits until the directory at the state directory's path is no longer the locked one.
async fn displaced(parts: &DaemonParts) -> DaemonError {
    loop {
        tokio::time::sleep(IN_PLACE_LOOK).await;
        let (state, ledger) = (parts.state.clone(), parts.ledger.clone());
        let looked = tasks::blocking(move || -> Result<(), DaemonError> {
            state.is_in_place()?;
            Ok(ledger.is_in_place()?)
        });
        match looked.await {
            Ok(Ok(())) => {}
            Ok(Err(
                gone @ (DaemonError::State(StateError::Gone { .. })
                | DaemonError::Ledger(LedgerError::Gone { .. })),
            )) => {
                return gone;
            }
            Ok(Err(error)) => tracing::warn!("the state directory cannot be looked at: {error}"),
            Err(panic) => tracing::error!("looking at the state directory: {panic}"),
        }
    }
}

/// Builds the two roles of this process, and the link between them.
fn build(
    settings: &Settings,
    state: Arc<StateDir>,
    clock: SharedClock,
    shutdown: Arc<watch::Sender<bool>>,
) -> Result<DaemonParts, DaemonError> {
    state.check_ledger()?;
    let ledger = Arc::new(Ledger::open(&state.layout().ledger())?);
    let [ledger, of_node] = sessions(ledger, clock.unix().as_nanos() as u64);
    let devices = devices::found(&settings.config.node.devices);
    let (to_node, to_controller) = in_memory();
    let node = NodeSetup {
        ledger: of_node,
        clock: clock.clone(),
        layout: state.layout().clone(),
        devices: devices.clone(),
        worker: settings.worker.clone(),
        torch: settings.config.torch.clone(),
        worker_silence: settings.worker_silence,
        rewards: Arc::new(rewards(settings, &state, clock.clone())?),
        ingest: (own_executable()?, vec![INGEST.into()]),
    };
    let node = Node::start(node, to_controller)?;
    let controller = ControllerSetup {
        ledger: ledger.clone(),
        clock,
        node_name: settings.node_name.clone(),
        devices,
        state_dir: state.layout().root().into(),
        retention: settings.config.retention.clone(),
        admin_group: settings.config.listen.admin_group.clone(),
        shutdown: settings.may_be_shut_down.then_some(shutdown),
    };
    Ok(DaemonParts {
        controller: Controller::start(controller, to_node),
        node,
        ledger,
        state,
    })
}

/// A session with the ledger for each role, opened at `unix_ns` since the Unix epoch. The numbers
/// differ: a command is known by its session's.
fn sessions(ledger: Arc<dyn Record>, unix_ns: u64) -> [Arc<Session>; 2] {
    let first = ledger.snapshot().next_session(unix_ns);
    [first, first + 1].map(|number| Arc::new(Session::open(ledger.clone(), number)))
}

fn own_executable() -> Result<PathBuf, DaemonError> {
    std::env::current_exe().map_err(DaemonError::Executable)
}

/// The rewards' host, which keeps the components of jobs in the state directory.
fn rewards(
    settings: &Settings,
    state: &StateDir,
    clock: SharedClock,
) -> Result<Rewards, DaemonError> {
    let rewards = Rewards::open(Options {
        plugin_dirs: settings.plugin_dirs.clone(),
        cache_dir: Some(state.layout().cache()),
        threads: settings.config.rewards.threads as usize,
        compiler: Compiler::Child {
            program: own_executable()?,
            args: vec![COMPILE.into()],
        },
        clock,
    })?;
    let keys = settings.config.rewards.trusted_keys.iter();
    let trusted = keys.filter_map(|key| PublicKey::parse(key)).collect();
    Ok(rewards.trusting(trusted).storing(state.layout().plugins()))
}

/// Binds the socket. The state directory is locked, so an existing socket is a dead daemon's,
/// unless it belongs to another state directory.
fn bind(path: &Path) -> Result<Arc<UnixListener>, DaemonError> {
    if path.as_os_str().len() > SOCKET_PATH_MAX_BYTES {
        return Err(DaemonError::SocketPath(path.into()));
    }
    let failed = |source| DaemonError::Socket {
        path: path.into(),
        source,
    };
    let taken = |kind: ErrorKind, what: &str| {
        let told = format!("{what}: choose another with --socket");
        failed(std::io::Error::new(kind, told))
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        // It may end.
        return Err(taken(ErrorKind::AddrInUse, "another daemon listens here"));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            let what = "something that is not a socket is here";
            return Err(taken(ErrorKind::AlreadyExists, what));
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = Arc::new(UnixListener::bind(path).map_err(failed)?);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

fn announce(settings: &Settings) {
    tracing::info!(
        node = settings.node_name,
        state_dir = %settings.state_dir.display(),
        socket = %settings.socket.display(),
        worker = %settings.worker.display(),
        "r1d {} is ready",
        env!("CARGO_PKG_VERSION")
    );
    notify::send(&format!("{}\nSTATUS=serving", notify::READY));
    if let Some(interval) = notify::watchdog_interval() {
        tasks::spawn("watchdog", async move {
            loop {
                notify::send(notify::WATCHDOG);
                tokio::time::sleep(interval).await;
            }
        });
    }
}

/// Stops the runs. What counts is durable, and the jobs go on when a daemon is back.
async fn drain(parts: &DaemonParts, after_step: bool) {
    notify::send(notify::STOPPING);
    tracing::info!("stopping");
    let patience = if after_step { LAST_STEP_MAX } else { STOP_MAX };
    let stopped = tokio::time::timeout(patience, async {
        parts.controller.stop(after_step).await;
        // A queue that began after a panic has stopped the runs of the one before, and asks no
        // more of them.
        parts.node.runs_ended().await;
    })
    .await;
    if stopped.is_err() {
        tracing::warn!(
            "runs did not stop within {} s: their workers are killed",
            patience.as_secs()
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_ledger::{Command, Memory, NewJob};
    use r1d_proto::ids::JobId;

    /// What one role has done is not taken for what the other does: their first commands are two.
    /// A ledger that was ahead of the clock numbers its sessions by itself.
    #[test]
    fn each_role_has_a_session_of_its_own() {
        let record = Arc::new(Memory::default());
        let submit = |session: &Session, job: String| {
            session.apply(Command::Submit(NewJob::of(JobId(job), "seed = 1")))
        };
        for unix_ns in [5, 1] {
            for (role, session) in sessions(record.clone(), unix_ns).iter().enumerate() {
                submit(session, format!("j{unix_ns}{role}")).unwrap();
            }
        }
        assert_eq!(record.snapshot().jobs().len(), 4);
    }
}
