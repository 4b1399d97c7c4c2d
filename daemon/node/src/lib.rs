//! A node: a computer with devices. It runs the jobs that the controller places on it
//! ([`r1d_link`]) and has their files. It decides nothing between jobs.
//!
//! ```text
//! orders ─▶ run (one per job in hand) ─▶ gang ─▶ worker (one per device) ─▶ r1d-worker
//!        │     ├─▶ writer, a thread: files and ledger
//!        │     └─▶ scoring, a task: the reward pool
//!        └─▶ works: what clients ask of a job's files
//! ```
//!
//! | module | what it holds |
//! |---|---|
//! | `orders`, `works`, `live_reports` | what the controller orders, asks and is told |
//! | `run`, `runs`, `worker` | a job at work; those that have not ended; the process that computes for it |
//! | `gang`, `fold`, `meeting` | the workers of a job, which are one to its run: what each is asked; one answer of all; where they find each other |
//! | `job_writer`, `writers`, `ends` | what a job makes durable, in which order; that only one writes; how an attempt ends if it cannot |
//! | `accept`, `reach`, `readable`, `inputs`, `file_hashes` | a job's files: within reach, its owner's to read, as they were |
//! | `load_job`, `loaded_job`, `load_error`, `load_warnings`, `open_jobs`, `job_sets`, `reading` | a job's inputs, opened as token sets and checked |
//! | `weights`, `judge_models`, `tokenizers` | a job's models: checked without a tensor; those that rewards ask; tokenizers that jobs share |
//! | `scoring`, `reward_versions`, `reload` | verdicts; which component judges at which step |
//! | `datasets`, `make_data_set`, `review` | what a stage makes for later ones, and people look at |
//! | `reuse` | finished stages that other jobs take over |
//! | `outputs`, `job_log`, `log_tail`, `tensorboard`, `samples`, `traces`, `step_times` | what people read of a job |
//! | `outside`, `checkpoints`, `outside_waits`, `outside_watch` | what a job needs that others can take away, and waiting for it |
//! | [`removal`] | the files of jobs that are removed |
//! | `upkeep` | which jobs the daemon works for |
//! | [`devices`], `setup`, `old_workers` | what there is to run on, whether it can be used, and what still occupies it |

#![warn(clippy::too_many_lines)]

mod accept;
mod checkpoints;
mod context;
mod datasets;
pub mod devices;
mod digest;
mod ends;
mod file_hashes;
mod fold;
mod gang;
mod inputs;
mod job_log;
mod job_sets;
mod job_writer;
mod judge_models;
mod live_ranks;
mod live_reports;
mod load_error;
mod load_job;
mod load_warnings;
mod loaded_job;
mod log_tail;
mod make_data_set;
mod meeting;
mod old_workers;
mod open_jobs;
mod orders;
mod outputs;
mod outside;
mod outside_waits;
mod outside_watch;
mod reach;
mod readable;
mod reading;
mod reload;
pub mod removal;
mod reuse;
mod review;
mod reward_versions;
mod run;
mod runs;
mod samples;
mod scoring;
mod setup;
mod step_times;
mod tensorboard;
mod tokenizers;
mod traces;
mod upkeep;
mod weights;
mod worker;
mod works;
mod writers;

pub use checkpoints::own as own_checkpoints;
pub use samples::{SamplesError, newest as newest_samples};
pub use setup::SetupError;

use context::NodeContext;
use devices::DeviceMemory;
use file_hashes::FileHashes;
use gang::Rank;
use job_sets::Ingest;
use live_reports::LiveReports;
use old_workers::{OldWorkers, WorkersLock};
use orders::{Device, OrderParts, Orders};
use r1d_ingest::{IDLE_MAX, Maker, TokenSets};
use r1d_job::daemon::Torch;
use r1d_ledger::Session;
use r1d_link::{NodeEnd, Outbox, Report};
use r1d_proto::remedy::to_mend;
use r1d_proto::world::SharedClock;
use r1d_rewards::Rewards;
use r1d_store::StateLayout;
use r1d_tasks as tasks;
use removal::FileRemovals;
use runs::Runs;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tasks::{Supervised, supervise};
use tokenizers::Tokenizers;
use worker::{LastProcess, Worker, WorkerCommand};

/// Bytes of token sets from which on those that no running job has open are removed, the one that
/// was not used for longest first.
const TOKEN_SETS_BYTES_MAX: u64 = 64 << 30;

/// What a node runs with.
pub struct NodeSetup {
    /// The record of jobs.
    pub ledger: Arc<Session>,
    /// The time.
    pub clock: SharedClock,
    /// The state directory, which is this process's.
    pub layout: StateLayout,
    /// The devices, in their order ([`devices::found`]).
    pub devices: Vec<String>,
    /// The worker's executable.
    pub worker: PathBuf,
    /// How workers compute.
    pub torch: Torch,
    /// A worker that says nothing for this long is killed.
    pub worker_silence: Duration,
    /// The rewards' host.
    pub rewards: Arc<Rewards>,
    /// The program that makes token sets, with its arguments.
    pub ingest: (PathBuf, Vec<OsString>),
}

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The lock of the workers cannot be had.
    #[error("state directory {}: {source}{}", path.display(), to_mend(source))]
    WorkersLock {
        /// The file of the lock.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The folder of token sets cannot be opened.
    #[error("token sets in {}: {source}{}", path.display(), to_mend(source))]
    TokenSets {
        /// Their folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// What earlier daemons have left cannot be found.
    #[error("looking for jobs that are to be removed in {}: {source}{}", path.display(),
            to_mend(source))]
    Removals {
        /// The directory of the jobs.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A node at work.
pub struct Node {
    worker_commands: Vec<WorkerCommand>,
    device_memory: DeviceMemory,
    reports: Outbox<Report>,
    runs: Runs,
    _orders: Supervised<Orders>,
}

impl Node {
    /// Begins to carry out orders. Blocks while it looks for what earlier daemons have left.
    pub fn start(setup: NodeSetup, link: NodeEnd) -> Result<Node, NodeError> {
        let NodeEnd { orders, reports } = link;
        prune(&setup.ledger, &setup.rewards);
        let path = setup.layout.workers_lock();
        let lock = WorkersLock::open(&path).map_err(|source| lock_error(&path, source))?;
        let lock = Arc::new(lock);
        let worker_commands = worker_commands(&setup, &lock)?;
        let node = context(&setup, reports.clone())?;
        let removals = FileRemovals::start(node.clone()).map_err(|source| NodeError::Removals {
            path: setup.layout.jobs(),
            source,
        })?;
        let old_workers = OldWorkers::new(lock, setup.clock.clone());
        tasks::spawn("old workers", old_workers.wait(reports.clone()));
        let device = |worker_command: &WorkerCommand| Device {
            rank: rank(&node, worker_command),
            worker_command: worker_command.clone(),
        };
        let devices = worker_commands.iter().map(device).collect();
        let device_memory = node.device_memory.clone();
        let parts = OrderParts::new(node.clone(), removals, devices, setup.worker_silence);
        let (runs, mut is_successor) = (parts.runs.clone(), false);
        let orders = supervise("orders", setup.clock, move |alive, context| {
            let parts = parts.clone();
            let made = Orders::new(parts, orders.clone(), is_successor, (alive, context));
            is_successor = true;
            made
        });
        Ok(Node {
            worker_commands,
            device_memory,
            reports,
            runs,
            _orders: orders,
        })
    }

    /// Tries all devices at once, and reports what was found of each. An error means that no job
    /// could run on this node until its configuration is changed.
    pub async fn try_devices(&self) -> Result<(), SetupError> {
        setup::try_devices(&self.worker_commands, &self.device_memory, &self.reports).await
    }

    /// Waits until no run is left, be it one that an earlier queue has placed and that still ends.
    /// The caller's patience is the limit.
    pub async fn runs_ended(&self) {
        self.runs.none().await;
    }
}

fn lock_error(path: &std::path::Path, source: std::io::Error) -> NodeError {
    NodeError::WorkersLock {
        path: path.into(),
        source,
    }
}

fn context(setup: &NodeSetup, reports: Outbox<Report>) -> Result<NodeContext, NodeError> {
    let (program, args) = setup.ingest.clone();
    let sets = TokenSets::open(
        &setup.layout.token_sets(),
        reuse::build(),
        Maker::Child {
            program,
            args,
            idle_max: IDLE_MAX,
        },
        TOKEN_SETS_BYTES_MAX,
    );
    let devices: Arc<[String]> = setup.devices.clone().into();
    let hashes = FileHashes::default();
    Ok(NodeContext {
        ledger: setup.ledger.clone(),
        live: LiveReports::new(devices.clone(), reports),
        clock: setup.clock.clone(),
        state_dir: setup.layout.root().into(),
        open_jobs: Default::default(),
        ingest: Ingest {
            sets: sets.map_err(|source| NodeError::TokenSets {
                path: setup.layout.token_sets(),
                source,
            })?,
            tokenizers: Tokenizers::new(hashes.clone()),
            hashes,
        },
        rewards: setup.rewards.clone(),
        writers: Default::default(),
        outlines: Default::default(),
        devices,
        device_memory: DeviceMemory::default(),
        kernels: kernels(&setup.torch).into(),
        reviews: Default::default(),
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

/// The settings that decide by which kernels workers compute.
fn kernels(torch: &Torch) -> String {
    format!("own {}, mkl {}", torch.own_kernels, torch.mkl_intel_kernels)
}

/// The commands that start the workers of the devices.
fn worker_commands(setup: &NodeSetup, lock: &WorkersLock) -> Result<Vec<WorkerCommand>, NodeError> {
    let command = |device: &String| {
        let handle = lock.handle();
        let lock = handle.map_err(|source| lock_error(setup.layout.root(), source))?;
        Ok(WorkerCommand {
            device: device.clone(),
            executable: setup.worker.clone(),
            threads: devices::worker_threads(device, &setup.devices, setup.torch.threads),
            mkl_intel_kernels: setup.torch.mkl_intel_kernels,
            own_kernels: setup.torch.own_kernels,
            kernels: setup.layout.kernels(),
            torch_lib: setup.torch.lib.clone(),
            lock: lock.into(),
        })
    };
    setup.devices.iter().map(command).collect()
}

/// Starts the supervisor of a device's worker.
fn rank(node: &NodeContext, worker_command: &WorkerCommand) -> Rank {
    let (worker_command, device) = (worker_command.clone(), worker_command.device.clone());
    let (live, last) = (node.live.clone(), LastProcess::default());
    let worker = supervise("worker", node.clock.clone(), move |alive, _| Worker {
        worker_command: worker_command.clone(),
        live: live.clone(),
        process: None,
        last: last.clone(),
        launches: 0,
        _alive: alive,
    });
    Rank { device, worker }
}
