//! `r1d-worker serve`: the conversation with `r1d` over the socket on standard input.
//!
//! One task reads requests, one writes messages, one carries requests out in order. When `r1d`
//! closes the socket, or dies, the process ends at once, even in the middle of a computation:
//! everything that counts is durable elsewhere.

use crate::actors::{Actors, judge, policy, reference, sampler, scorer, trainer};
use crate::device::DeviceThread;
use crate::outbox::{OUTBOX_MAX_MESSAGES, Outbox};
use crate::saving::ToSave;
use crate::source::Placement;
use actix::Message;
use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Handler};
use r1d_proto::file_limit;
use r1d_proto::frame::{self, Format, FrameError};
use r1d_proto::parts::Assembly;
use r1d_proto::worker::{
    Body, Event, Failure, FailureKind, FromWorker, PROTOCOL, Reply, ToWorker, WorkerRequest,
};
use r1d_proto::world::SystemClock;
use r1d_rendezvous::Carried;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc;

/// Requests that may wait behind the one at work (`LIM-1`).
const REQUESTS_MAX: usize = 16;

#[derive(clap::Args)]
pub(crate) struct ServeArguments {
    /// `cpu`, `cpu:N` or `cuda:N`.
    #[arg(long, default_value = "cpu")]
    device: String,
    /// Threads of one tensor operation on the CPU; the batch-invariant mode uses one whatever this
    /// says.
    #[arg(long, default_value_t = 1)]
    threads: u32,
    /// MKL's Intel kernels on processors of other makers.
    #[arg(long)]
    mkl_intel_kernels: bool,
    /// Decode by libtorch's operations, also where r1d has kernels of its own.
    #[arg(long)]
    no_own_kernels: bool,
    /// Keep compiled kernels in this directory.
    #[arg(long, value_name = "DIR")]
    kernels: Option<PathBuf>,
    /// Progress is reported at most this often.
    #[arg(long, value_name = "MS", default_value_t = 250, hide = true)]
    progress_interval_ms: u64,
}

/// Bytes of freed CPU tensor memory that are kept for later operations (`LIM-1`).
const KEPT_MAX_BYTES: usize = 4 << 30;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error("device {0:?}: {1}")]
    Device(String, String),
    #[error("standard input is not r1d's socket ({0}): r1d starts this process, people use r1ctl")]
    Socket(std::io::Error),
    #[error("cannot start the device's thread: {0}")]
    Thread(std::io::Error),
    #[error("signals: {0}")]
    Signals(std::io::Error),
}

pub(crate) fn run(arguments: ServeArguments) -> Result<ExitCode, Box<dyn std::error::Error>> {
    r1d_torch::mkl::use_intel_kernels(arguments.mkl_intel_kernels);
    r1d_torch::memory::keep_freed(KEPT_MAX_BYTES);
    if let Some(dir) = &arguments.kernels {
        r1d_kernels::keep_compiled_in(dir);
    }
    let device = open(&arguments.device)?;
    let clock = SystemClock::shared();
    let thread = DeviceThread::start().map_err(ServeError::Thread)?;
    actix::System::new().block_on(async move {
        file_limit::is_an_error().map_err(ServeError::Signals)?;
        let (reader, writer) = socket().map_err(ServeError::Socket)?.into_split();
        let (messages, outgoing) = mpsc::channel(OUTBOX_MAX_MESSAGES);
        let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
        converse(write(writer, outgoing));
        let calls = messages.clone();
        let rendezvous = Arc::new(Carried::new(move |call| {
            let body = Body::Rendezvous(call);
            calls.blocking_send(FromWorker { id: 0, body }).is_ok()
        }));
        converse(read(reader, requests, rendezvous.clone()));
        let placement = Placement {
            device,
            threads: arguments.threads,
            own_kernels: !arguments.no_own_kernels,
            rendezvous,
            clock: clock.clone(),
        };
        let actors = Actors::start(&thread, placement);
        let started = Event::Started {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").into(),
            device: arguments.device,
            pid: std::process::id(),
        };
        // A closed channel means that the writer saw the socket close and the process is ending.
        let _ = messages
            .send(FromWorker {
                id: 0,
                body: Body::Event(started),
            })
            .await;
        let interval = Duration::from_millis(arguments.progress_interval_ms);
        carry_out(actors, incoming, messages, |id, messages| {
            Outbox::new(id, messages, clock.clone(), interval)
        })
        .await;
        Ok(ExitCode::SUCCESS)
    })
}

pub(crate) fn open(device: &str) -> Result<tch::Device, ServeError> {
    r1d_torch::device::open(device)
        .map_err(|error| ServeError::Device(device.to_owned(), error.to_string()))
}

/// Starts one half of the conversation. Its end is the end of the process ([`leave`]), so it is not
/// awaited.
#[allow(
    clippy::disallowed_methods,
    reason = "the one owner of these two tasks"
)]
fn converse(half: impl Future<Output = ()> + 'static) {
    actix::spawn(half);
}

fn socket() -> std::io::Result<UnixStream> {
    let socket =
        std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

/// Ends the process at the end of the conversation, whatever the device is doing.
fn leave(error: FrameError) -> ! {
    match error {
        FrameError::Closed => std::process::exit(0),
        error => {
            tracing::error!("lost r1d: {error}");
            std::process::exit(1)
        }
    }
}

/// Hands requests on in their order, and answers of the rendezvous to whoever waits for them.
async fn read(
    mut stream: OwnedReadHalf,
    requests: mpsc::Sender<ToWorker>,
    rendezvous: Arc<Carried>,
) {
    loop {
        match frame::read(&mut stream, Format::Postcard).await {
            Ok(ToWorker {
                request: WorkerRequest::Rendezvous(answer),
                ..
            }) => rendezvous.answered(answer),
            Ok(request) => {
                if requests.send(request).await.is_err() {
                    return;
                }
            }
            Err(error) => leave(error),
        }
    }
}

async fn write(mut stream: OwnedWriteHalf, mut messages: mpsc::Receiver<FromWorker>) {
    while let Some(message) = messages.recv().await {
        if let Err(error) = frame::write(&mut stream, Format::Postcard, &message).await {
            leave(error);
        }
    }
}

async fn carry_out(
    actors: Actors,
    mut requests: mpsc::Receiver<ToWorker>,
    messages: mpsc::Sender<FromWorker>,
    outbox: impl Fn(u64, mpsc::Sender<FromWorker>) -> Outbox,
) {
    let mut assembly = Assembly::default();
    while let Some(message) = requests.recv().await {
        let of = message.id;
        let ToWorker { id, request } = match assembly.add(message) {
            Ok(Some(whole)) => whole,
            Ok(None) => continue,
            Err(other) => {
                let failure = Failure {
                    kind: FailureKind::Invalid,
                    message: other.to_string(),
                };
                if messages
                    .send(FromWorker {
                        id: of,
                        body: Body::Failed(failure),
                    })
                    .await
                    .is_err()
                {
                    return;
                }
                continue;
            }
        };
        let outbox = outbox(id, messages.clone());
        let body = match answer(&actors, request, outbox).await {
            Ok(reply) => Body::Done(reply),
            Err(failure) => {
                tracing::error!(kind = ?failure.kind, "request {id} failed: {}", failure.message);
                Body::Failed(failure)
            }
        };
        if messages.send(FromWorker { id, body }).await.is_err() {
            return;
        }
    }
}

async fn answer(actors: &Actors, request: WorkerRequest, outbox: Outbox) -> Result<Reply, Failure> {
    Ok(match request {
        WorkerRequest::Open(request) => {
            Reply::Opened(ask(&actors.policy, policy::Open { request, outbox }).await?)
        }
        WorkerRequest::Generate(request) => Reply::Generated {
            metrics: ask(&actors.sampler, sampler::Draw { request, outbox }).await?,
        },
        WorkerRequest::Train(batch) => Reply::Trained {
            metrics: ask(&actors.trainer, trainer::Reinforce { batch, outbox }).await?,
        },
        WorkerRequest::Supervise(batch) => Reply::Trained {
            metrics: ask(&actors.trainer, trainer::Imitate { batch, outbox }).await?,
        },
        WorkerRequest::TrainReward(batch) => Reply::Trained {
            metrics: ask(&actors.trainer, trainer::TrainRewardModel { batch, outbox }).await?,
        },
        WorkerRequest::TrainDpo(batch) => Reply::Trained {
            metrics: ask(&actors.trainer, trainer::Prefer { batch, outbox }).await?,
        },
        WorkerRequest::TrainPpo(batch) => Reply::Trained {
            metrics: ask(
                &actors.trainer,
                trainer::ReinforceWithValues { batch, outbox },
            )
            .await?,
        },
        WorkerRequest::Score { model, sequences } => Reply::Scored {
            scores: ask(
                &actors.scorer,
                scorer::Score {
                    model,
                    sequences,
                    outbox,
                },
            )
            .await?,
        },
        WorkerRequest::Answer(request) => Reply::Answered {
            answers: ask(&actors.judge, judge::Write { request, outbox }).await?,
        },
        WorkerRequest::SyncReference => {
            ask(&actors.reference, reference::Sync { outbox }).await?;
            Reply::ReferenceSynced
        }
        WorkerRequest::Save { stage, step, dir } => {
            let to_save = ToSave { stage, step, dir };
            ask(&actors.policy, policy::Save { to_save, outbox }).await?;
            Reply::SnapshotTaken
        }
        WorkerRequest::Restore { dir } => {
            ask(&actors.policy, policy::Restore { dir, outbox }).await?;
            Reply::Restored
        }
        WorkerRequest::Export { dir } => {
            ask(&actors.policy, policy::Export { dir, outbox }).await?;
            Reply::Exported
        }
        WorkerRequest::Close => {
            ask(&actors.policy, policy::Close).await?;
            Reply::Closed
        }
        // The assembly keeps parts for their request, and answers are taken where they are read.
        WorkerRequest::More(_) | WorkerRequest::Rendezvous(_) => {
            return Err(Failure {
                kind: FailureKind::Internal,
                message: "a part without its request".into(),
            });
        }
    })
}

/// Sends a message and awaits the answer, without a deadline: `r1d` owns the deadline of the whole
/// request.
async fn ask<A, M, T>(actor: &Addr<A>, message: M) -> Result<T, Failure>
where
    A: Actor + Handler<M>,
    A::Context: ToEnvelope<A, M>,
    M: Message<Result = Result<T, Failure>> + Send + 'static,
    T: Send + 'static,
{
    actor.send(message).await.unwrap_or_else(|e| {
        Err(Failure {
            kind: FailureKind::Internal,
            message: format!("actor is gone: {e}"),
        })
    })
}
