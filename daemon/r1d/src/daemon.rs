//! The daemon's life: take the state directory, build the parts, listen, run until told to stop,
//! drain.

use crate::actors::control::{ControlService, ControlSocket};
use crate::actors::jobs::{Device, DevicesTried, Jobs, StopAll};
use crate::actors::run::RunContext;
use crate::actors::supervise::{Supervised, supervise};
use crate::actors::worker::{LastProcess, Worker, WorkerCommand};
use crate::admission::Admission;
use crate::cli::{COMPILE, INGEST};
use crate::file_hashes::FileHashes;
use crate::job_sets::Ingest;
use crate::job_writer::JobWriters;
use crate::live_status::LiveStatus;
use crate::loaded_job::worker_threads;
use crate::old_workers::OldWorkers;
use crate::removal::Removals;
use crate::reward_versions::OpenJobs;
use crate::settings::Settings;
use crate::setup::{self, SetupError};
use crate::state_dir::{StateDir, StateError};
use crate::status::JobViews;
use crate::submissions::Submissions;
use crate::{devices, notify, reuse, tasks};
use r1d_ingest::{Maker, TokenSets};
use r1d_ledger::{Command, Ledger, LedgerError, Session};
use r1d_proto::world::SharedClock;
use r1d_rewards::signature::PublicKey;
use r1d_rewards::{Compiler, Options, RewardError, Rewards};
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
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Rewards(#[from] RewardError),
    #[error("socket {}: {source}", path.display())]
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
    #[error("token sets: {0}")]
    TokenSets(std::io::Error),
    #[error("jobs that are to be removed: {0}")]
    Removals(std::io::Error),
}

/// Bytes of token sets from which on those that no running job has open are removed, the one that
/// was not used for longest first.
const TOKEN_SETS_BYTES_MAX: u64 = 64 << 30;

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
            DaemonError::SocketPath(_) | DaemonError::Setup(_) => EXIT_CONFIG,
            DaemonError::State(StateError::NoLedger { .. })
            | DaemonError::Ledger(
                LedgerError::Damaged { .. }
                | LedgerError::NoFile { .. }
                | LedgerError::Newer { .. },
            ) => EXIT_DATA,
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
    service: ControlService,
    jobs: Supervised<Jobs>,
    worker_commands: Vec<WorkerCommand>,
    /// Locked until all workers are gone.
    state: Arc<StateDir>,
}

/// Serves until a signal or a client asks the daemon to stop.
pub(crate) fn serve(settings: Settings, clock: SharedClock) -> Result<(), DaemonError> {
    let state = Arc::new(StateDir::lock(&settings.state_dir)?);
    let system = actix::System::new();
    let ended = system.block_on(async move {
        let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
        let shutdown = Arc::new(watch::Sender::new(false));
        let mut asked = shutdown.subscribe();
        let listener = bind(&settings.socket)?;
        notify::send("STATUS=reading the ledger");
        let parts = build(&settings, state, clock.clone(), shutdown)?;
        notify::send("STATUS=trying the devices");
        // A device may take minutes to answer; a stop of the service does not wait for it.
        let live_status = &parts.service.views.live_status;
        tokio::select! {
            tried = setup::try_devices(&parts.worker_commands, live_status) => tried?,
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        }
        // No device has had a job until now. A queue that is being recreated looks at the devices
        // by itself.
        let _ = parts.jobs.ask("the queue", DevicesTried).await;
        let socket = serve_clients(listener, &parts, clock);
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
        let (state, ledger) = (parts.state.clone(), parts.service.views.ledger.clone());
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

/// The folder of token sets, which a child process fills.
fn ingest(state: &StateDir) -> Result<Ingest, DaemonError> {
    let maker = Maker::Child {
        program: std::env::current_exe().map_err(DaemonError::Executable)?,
        args: vec![INGEST.into()],
    };
    let sets = TokenSets::open(
        &state.layout().token_sets(),
        reuse::build(),
        maker,
        TOKEN_SETS_BYTES_MAX,
    );
    Ok(Ingest {
        sets: sets.map_err(DaemonError::TokenSets)?,
        hashes: FileHashes::default(),
    })
}

fn build(
    settings: &Settings,
    state: Arc<StateDir>,
    clock: SharedClock,
    shutdown: Arc<watch::Sender<bool>>,
) -> Result<DaemonParts, DaemonError> {
    state.check_ledger()?;
    let ledger = Arc::new(Ledger::open(&state.layout().ledger())?);
    let ledger = Arc::new(Session::open(ledger, clock.unix().as_nanos() as u64));
    let rewards = Rewards::open(Options {
        plugin_dirs: settings.plugin_dirs.clone(),
        cache_dir: Some(state.layout().cache()),
        threads: settings.config.rewards.threads as usize,
        compiler: Compiler::Child {
            program: std::env::current_exe().map_err(DaemonError::Executable)?,
            args: vec![COMPILE.into()],
        },
        clock: clock.clone(),
    })?;
    let trusted = settings
        .config
        .rewards
        .trusted_keys
        .iter()
        .filter_map(|key| PublicKey::parse(key))
        .collect();
    let rewards = Arc::new(rewards.trusting(trusted).storing(state.layout().plugins()));
    prune(&ledger, &rewards);
    strike(&ledger);
    let names = devices::found(&settings.config.node.devices);
    let live_status = LiveStatus::new(&names);
    let views = JobViews {
        ledger,
        live_status,
        clock: clock.clone(),
        state_dir: state.layout().root().into(),
        open_jobs: OpenJobs::default(),
        ingest: ingest(&state)?,
        outlines: Default::default(),
        kernels: kernels(settings).into(),
        reviews: Default::default(),
        removing: Default::default(),
    };
    let writers = JobWriters::default();
    let removals = Removals::start(views.clone(), writers.clone(), &settings.config.retention)
        .map_err(DaemonError::Removals)?;
    let worker_commands: Vec<WorkerCommand> = names
        .iter()
        .map(|name| worker_command(settings, &state, name))
        .collect::<Result<_, _>>()?;
    let run_context = |worker_command: &WorkerCommand| {
        run_context(settings, &views, &rewards, &writers, worker_command)
    };
    let run_context: Vec<RunContext> = worker_commands.iter().map(run_context).collect();
    let (old, wait_clock) = (state.clone(), clock.clone());
    let commands = worker_commands.clone();
    let jobs = supervise("jobs", clock.clone(), move |alive, _| {
        let old_workers = OldWorkers::new(old.clone(), wait_clock.clone());
        let devices = run_context
            .iter()
            .zip(&commands)
            .map(|(run_context, worker_command)| Device {
                run_context: run_context.clone(),
                worker_command: worker_command.clone(),
            });
        Jobs::new(devices.collect(), old_workers, alive)
    });
    let service = ControlService {
        since: clock.now(),
        views,
        rewards,
        removals,
        admission: Admission::default(),
        submissions: Submissions::default(),
        jobs: jobs.clone(),
        node_name: settings.node_name.clone(),
        admin_group: settings.config.listen.admin_group.clone(),
        shutdown: settings.may_be_shut_down.then_some(shutdown),
    };
    Ok(DaemonParts {
        service,
        jobs,
        worker_commands,
        state,
    })
}

/// Removes kept components that judge no job of the ledger, because the submission was refused or
/// the job is gone.
fn prune(ledger: &Session, rewards: &Rewards) {
    let named = ledger
        .jobs()
        .iter()
        .flat_map(|job| job.reward_versions.iter())
        .map(|reward_version| reward_version.sha256.to_ascii_lowercase())
        .collect();
    match rewards.prune(&named) {
        Ok(0) => {}
        Ok(removed) => tracing::info!("removed {removed} files of kept plugins that no job names"),
        Err(error) => tracing::warn!("kept plugins that no job names stay: {error}"),
    }
}

/// Holds the previous daemon's end against the jobs that it worked for, unless it was a clean stop.
fn strike(ledger: &Session) {
    for record in ledger
        .jobs()
        .iter()
        .filter(|record| record.strikes.taken_up && !record.state().is_final())
    {
        let job = record.job();
        match ledger.apply(Command::Strike { job: job.clone() }) {
            Ok(_) => {
                tracing::warn!(%job, "the daemon before this one ended without a word while it \
                                      worked for the job")
            }
            Err(error) => {
                tracing::warn!(%job, "the end of the daemon before this one is not held against \
                                      the job: {error}")
            }
        }
    }
}

/// The settings that decide by which kernels workers compute.
fn kernels(settings: &Settings) -> String {
    let torch = &settings.config.torch;
    format!("own {}, mkl {}", torch.own_kernels, torch.mkl_intel_kernels)
}

/// The command that starts the workers of a device.
fn worker_command(
    settings: &Settings,
    state: &StateDir,
    device: &str,
) -> Result<WorkerCommand, StateError> {
    let lock = state.workers_lock().map_err(|source| StateError::Io {
        path: state.layout().root().into(),
        source,
    })?;
    Ok(WorkerCommand {
        device: device.into(),
        executable: settings.worker.clone(),
        threads: worker_threads(device, settings.config.torch.threads),
        mkl_intel_kernels: settings.config.torch.mkl_intel_kernels,
        own_kernels: settings.config.torch.own_kernels,
        torch_lib: settings.config.torch.lib.clone(),
        lock: lock.into(),
    })
}

/// Starts the supervisor of a device's worker; returns what a run on the device needs.
fn run_context(
    settings: &Settings,
    views: &JobViews,
    rewards: &Arc<Rewards>,
    writers: &JobWriters,
    worker_command: &WorkerCommand,
) -> RunContext {
    let (worker_command, device) = (worker_command.clone(), worker_command.device.clone());
    let (live_status, last) = (views.live_status.clone(), LastProcess::default());
    let worker = supervise("worker", views.clock.clone(), move |alive, _| Worker {
        worker_command: worker_command.clone(),
        live_status: live_status.clone(),
        process: None,
        last: last.clone(),
        launches: 0,
        _alive: alive,
    });
    let worker_silence = settings.worker_silence;
    let (views, rewards, writers) = (views.clone(), rewards.clone(), writers.clone());
    RunContext {
        views,
        rewards,
        writers,
        worker,
        device,
        worker_silence,
    }
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
    let taken = |what: &str| {
        failed(std::io::Error::new(
            std::io::ErrorKind::AddrInUse,
            format!("{what}: choose another with --socket"),
        ))
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(failed)?;
    }
    if std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(taken("another daemon listens here"));
    }
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(taken("something that is not a socket is here"));
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let listener = Arc::new(UnixListener::bind(path).map_err(failed)?);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)).map_err(failed)?;
    Ok(listener)
}

/// Serves the clients, also those that have connected since the socket was bound.
fn serve_clients(
    listener: Arc<UnixListener>,
    parts: &DaemonParts,
    clock: SharedClock,
) -> Supervised<ControlSocket> {
    let service = parts.service.clone();
    supervise("control socket", clock, move |alive, context| {
        ControlSocket::new(service.clone(), listener.clone(), alive, context)
    })
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
    let stopped = tokio::time::timeout(
        patience,
        parts.jobs.ask("the queue", StopAll { after_step }),
    )
    .await;
    if stopped.is_err() {
        tracing::warn!(
            "runs did not stop within {} s: their workers are killed",
            patience.as_secs()
        );
    }
}
