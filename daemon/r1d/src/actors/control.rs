//! The control socket: one request per connection, answered in a task of its own, so that no client delays another.

use crate::accept::{self, AcceptError};
use crate::actors::jobs::{Cancel, Dispatch, Jobs};
use crate::actors::supervise::{Alive, Supervised};
use crate::graders;
use crate::job_log;
use crate::outputs::Outputs;
use crate::review::{self, ReviewError};
use crate::samples;
use crate::state_dir::job_dir;
use crate::status::Desk;
use crate::tasks;
use actix::{Actor, AsyncContext, Context, StreamHandler};
use futures_util::stream;
use r1d_ledger::{FindError, JobRecord, LedgerError};
use r1d_proto::control::{ControlError, ErrorKind, JobStatus, Node, Request, Response, SampleSort};
use r1d_proto::frame::{self, Format, FrameError};
use r1d_proto::ids::JobId;
use r1d_rewards::Rewards;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

/// Clients that are answered at a time (`LIM-1`); others wait to be accepted.
const CONNECTIONS_MAX: usize = 128;
/// From the connection to the whole request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// For a client to take one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// A watched job is shown at most this often.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);
/// How often a followed log is looked at.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of a log that are read at a time.
const LOG_CHUNK_MAX_BYTES: u64 = 1 << 20;

/// What a connection is answered from.
#[derive(Clone)]
pub struct Counter {
    pub desk: Desk,
    pub rewards: Arc<Rewards>,
    pub jobs: Supervised<Jobs>,
    pub node_name: String,
    /// When the daemon started, by its clock.
    pub since: Duration,
    /// Obeys `shutdown`: `true` is sent; absent where systemd stops the service.
    pub shutdown: Option<Arc<watch::Sender<bool>>>,
}

pub struct ControlSocket {
    counter: Counter,
    _alive: Alive,
}

impl ControlSocket {
    /// Serves `listener` from now on.
    pub fn new(counter: Counter, listener: Arc<UnixListener>, alive: Alive, context: &mut Context<Self>) -> ControlSocket {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let connections = stream::unfold((listener, room), |(listener, room)| async move {
            let permit = room.clone().acquire_owned().await.ok()?;
            let accepted = listener.accept().await;
            if accepted.is_err() {
                // Out of file descriptors, most likely: do not spin.
                tokio::time::sleep(FOLLOW_INTERVAL).await;
            }
            Some((accepted.map(|(stream, _)| (stream, permit)), (listener, room)))
        });
        context.add_stream(connections);
        ControlSocket { counter, _alive: alive }
    }
}

impl Actor for ControlSocket {
    type Context = Context<Self>;
}

impl StreamHandler<std::io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)>> for ControlSocket {
    fn handle(&mut self, accepted: std::io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)>, _: &mut Self::Context) {
        match accepted {
            Ok((stream, permit)) => {
                let counter = self.counter.clone();
                tasks::spawn("client", async move {
                    counter.serve(stream).await;
                    drop(permit);
                });
            }
            Err(error) => tracing::warn!("cannot accept a client: {error}"),
        }
    }
}

fn error(kind: ErrorKind, message: impl ToString) -> ControlError {
    ControlError { kind, message: message.to_string() }
}

fn internal(message: impl ToString) -> ControlError {
    error(ErrorKind::Internal, message)
}

impl From<FindError> for ControlErrorOf {
    fn from(found: FindError) -> Self {
        let kind = match &found {
            FindError::NotFound { .. } => ErrorKind::NotFound,
            FindError::Ambiguous { .. } => ErrorKind::Ambiguous,
        };
        ControlErrorOf(error(kind, found))
    }
}

/// An error on its way to a client.
struct ControlErrorOf(ControlError);

fn reviewing(refused: ReviewError) -> ControlError {
    let kind = match &refused {
        ReviewError::NoStage { .. } => ErrorKind::NotFound,
        refused if refused.is_the_daemons() => ErrorKind::Internal,
        _ => ErrorKind::Invalid,
    };
    error(kind, refused)
}

impl From<ControlError> for ControlErrorOf {
    fn from(error: ControlError) -> Self {
        ControlErrorOf(error)
    }
}

impl From<AcceptError> for ControlErrorOf {
    fn from(refused: AcceptError) -> Self {
        let kind = if refused.is_the_jobs() { ErrorKind::Invalid } else { ErrorKind::Internal };
        ControlErrorOf(error(kind, refused))
    }
}

impl Counter {
    async fn serve(self, stream: UnixStream) {
        let (mut reader, mut writer) = stream.into_split();
        let request = match tokio::time::timeout(REQUEST_MAX, frame::read::<Request>(&mut reader, Format::Json)).await {
            Ok(Ok(request)) => request,
            // A client that only looked whether somebody is here.
            Ok(Err(FrameError::Closed)) => return,
            Ok(Err(FrameError::Io(error))) => return tracing::debug!("client: {error}"),
            Ok(Err(wrong)) => return drop(send(&mut writer, &Response::Error(error(ErrorKind::Invalid, wrong))).await),
            Err(_) => return drop(send(&mut writer, &Response::Error(error(ErrorKind::Invalid, "no request within 10 s"))).await),
        };
        let mut gone = [0u8; 1];
        tokio::select! {
            answered = self.answer(request, &mut writer) => {
                if let Err(error) = answered {
                    tracing::debug!("client: {error}");
                }
            }
            // A client says nothing after its request: what is read is its end.
            _ = reader.read(&mut gone) => tracing::trace!("a client left before its answer"),
        }
    }

    async fn answer(&self, request: Request, writer: &mut OwnedWriteHalf) -> Result<(), FrameError> {
        let answered = match request {
            Request::Watch { job } => match self.find(&job) {
                Ok(record) => return self.watch(record.job(), writer).await,
                Err(error) => Err(error),
            },
            Request::Logs { job, follow } => match self.find(&job) {
                Ok(record) => return self.logs(record.job(), follow, writer).await,
                Err(error) => Err(error),
            },
            request => self.single(request).await,
        };
        send(writer, &answered.unwrap_or_else(|ControlErrorOf(error)| Response::Error(error))).await
    }

    async fn single(&self, request: Request) -> Result<Response, ControlErrorOf> {
        let desk = self.desk.clone();
        Ok(match request {
            Request::Submit { job, priority, pins } => {
                let rewards = self.rewards.clone();
                let submitted =
                    tasks::blocking(move || accept::submit(&job, priority, pins, &rewards, &desk)).await.map_err(internal)?;
                let accept::Submitted { job, warnings, plugins } = submitted?;
                self.desk.board.touch();
                self.jobs.ask("the queue", Dispatch).await.map_err(internal)?;
                Response::Submitted { job, warnings, plugins }
            }
            Request::Plan { job } => {
                let rewards = self.rewards.clone();
                let plan = tasks::blocking(move || accept::plan(&job, &rewards)).await.map_err(internal)?;
                Response::Plan(Box::new(plan?))
            }
            Request::Reload { job, plugin, file } => {
                let reload = graders::reload(self.find(&job)?, plugin, file, self.rewards.clone(), desk);
                let reloaded = reload.await.map_err(|refused| {
                    let kind = if refused.is_the_daemons() { ErrorKind::Internal } else { ErrorKind::Invalid };
                    error(kind, refused)
                })?;
                self.desk.board.touch();
                reloaded
            }
            Request::List => Response::Jobs(desk.summaries()),
            Request::Status { job } => Response::Status(Box::new(desk.status(&*self.find(&job)?))),
            Request::Cancel { job } => self.cancel(&job).await?,
            Request::Samples { job, stage, step, sort, limit } => self.samples(&job, stage, step, sort, limit).await?,
            Request::Why { job } => Response::Why(desk.why(&*self.find(&job)?)),
            Request::DataSets { job } => {
                let record = self.find(&job)?;
                let listed = tasks::blocking(move || review::list(&desk, &record)).await.map_err(internal)?;
                Response::DataSets(listed.map_err(reviewing)?)
            }
            Request::Review { job, stage, file } => {
                let record = self.find(&job)?;
                let review = tasks::blocking(move || review::review(&desk, &record, &stage, file.as_deref()));
                Response::Reviewed(review.await.map_err(internal)?.map_err(reviewing)?)
            }
            Request::Nodes => Response::Nodes(vec![self.node()]),
            Request::Shutdown => match &self.shutdown {
                Some(shutdown) => {
                    shutdown.send_replace(true);
                    Response::ShuttingDown
                }
                None => return Err(error(ErrorKind::Invalid, "this daemon is a service: stop it with `systemctl stop r1d`").into()),
            },
            Request::Watch { .. } | Request::Logs { .. } => return Err(internal("a stream is not a single answer").into()),
        })
    }

    fn find(&self, prefix: &str) -> Result<Arc<JobRecord>, ControlErrorOf> {
        let id = self.desk.ledger.find(prefix)?;
        self.desk.ledger.job(&id).ok_or_else(|| internal(format!("job `{id}` has no record")).into())
    }

    async fn cancel(&self, prefix: &str) -> Result<Response, ControlErrorOf> {
        let record = self.find(prefix)?;
        let job = record.job().clone();
        match self.jobs.ask("the queue", Cancel(job.clone())).await.map_err(internal)? {
            Ok(()) => {
                self.desk.board.touch();
                Ok(Response::Cancelled { job })
            }
            Err(LedgerError::Rejected(rejected)) => Err(error(ErrorKind::Invalid, rejected).into()),
            Err(other) => Err(internal(other).into()),
        }
    }

    async fn samples(
        &self,
        job: &str,
        stage: Option<String>,
        step: Option<u64>,
        sort: SampleSort,
        limit: u32,
    ) -> Result<Response, ControlErrorOf> {
        let record = self.find(job)?;
        let outputs = Outputs::new(job_dir(&self.desk.state_dir, record.job()));
        let read = tasks::blocking(move || samples::read(&record, &outputs, stage, step, sort, limit)).await.map_err(internal)?;
        match read {
            Ok(samples) => Ok(Response::Samples(samples)),
            Err(unknown @ (samples::SamplesError::NoStage { .. } | samples::SamplesError::NoStep { .. })) => {
                Err(error(ErrorKind::NotFound, unknown).into())
            }
            Err(other) => Err(internal(other).into()),
        }
    }

    fn node(&self) -> Node {
        Node {
            name: self.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state_dir: self.desk.state_dir.clone(),
            uptime_s: self.desk.clock.now().saturating_sub(self.since).as_secs(),
            devices: self.desk.board.devices(),
            plugins: self.rewards.names(),
        }
    }

    /// Statuses as they change, the last one being the job's end.
    async fn watch(&self, job: &JobId, writer: &mut OwnedWriteHalf) -> Result<(), FrameError> {
        let mut changes = self.desk.board.watch();
        let mut shown: Option<JobStatus> = None;
        loop {
            changes.mark_unchanged();
            let Some(record) = self.desk.ledger.job(job) else { break };
            let status = self.desk.status(&record);
            let ended = status.state.is_final();
            if shown.as_ref() != Some(&status) {
                send(writer, &Response::Status(Box::new(status.clone()))).await?;
                shown = Some(status);
            }
            if ended {
                break;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
            if changes.changed().await.is_err() {
                break;
            }
        }
        send(writer, &Response::End).await
    }

    async fn logs(&self, job: &JobId, follow: bool, writer: &mut OwnedWriteHalf) -> Result<(), FrameError> {
        let path = Outputs::new(job_dir(&self.desk.state_dir, job)).log();
        let mut offset = 0;
        loop {
            // Asked before reading: what is written until the end is read after it.
            let ended = self.desk.ledger.job(job).is_none_or(|record| record.state().is_final());
            let read = read_from(path.clone(), offset).await;
            let (lines, length) = job_log::parse(&read);
            for line in lines {
                send(writer, &Response::Log(line)).await?;
            }
            offset += length as u64;
            if length == 0 && (ended || !follow) {
                return send(writer, &Response::End).await;
            }
            if length == 0 {
                tokio::time::sleep(FOLLOW_INTERVAL).await;
            }
        }
    }
}

/// The next part of a file; nothing where there is none.
async fn read_from(path: PathBuf, offset: u64) -> Vec<u8> {
    let read = tasks::blocking(move || {
        let mut bytes = Vec::new();
        let mut file = std::fs::File::open(path)?;
        file.seek(SeekFrom::Start(offset))?;
        file.take(LOG_CHUNK_MAX_BYTES).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    read.await.ok().and_then(Result::ok).unwrap_or_default()
}

async fn send(writer: &mut OwnedWriteHalf, response: &Response) -> Result<(), FrameError> {
    let sent = tokio::time::timeout(ANSWER_MAX, frame::write(writer, Format::Json, response)).await;
    sent.unwrap_or_else(|_| Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())))
}
