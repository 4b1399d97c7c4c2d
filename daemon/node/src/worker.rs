//! The supervisor of one device's worker process: starts it, speaks its protocol, ends it.
//!
//! A process serves one attempt at a job. Its messages go to the attempt's channel in order; the
//! last one is [`WorkerReply::Lost`] with the cause. The job's state machine owns the deadlines: it
//! asks for [`End`] when the worker is late.

use crate::job_log::JobLog;
use crate::live_reports::{BUSY, LiveReports};
use crate::meeting::{ANSWERS_MAX, Seat};
use crate::tasks::{self, Alive};
use actix::fut::ActorFutureExt;
use actix::{Actor, Context, Handler, Message, ResponseFuture};
use r1d_job::daemon::is_cpu;
use r1d_link::DeviceUse;
use r1d_proto::frame::{self, Format, FrameError};
use r1d_proto::ids::JobId;
use r1d_proto::parts::PART_MAX_BYTES;
use r1d_proto::remedy::{is_the_machines, to_mend};
use r1d_proto::worker::{
    Body, EXIT_NO_DEVICE, Event, Failure, FailureKind, FromWorker, PROTOCOL, Part, ToWorker,
    WorkerRequest,
};
use std::fs::File;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, watch};

/// Requests that may wait to be written (`LIM-1`).
const REQUESTS_MAX: usize = 4;
/// Longest time between the end of its socket and the end of a worker that was not killed.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// Lines of standard error that a cause of death may quote.
const LAST_WORDS_MAX: usize = 1;
/// Longest line of standard error in bytes; longer ones are cut.
const LINE_MAX_BYTES: usize = 8 << 10;
const LAST_WORDS_WAIT: Duration = Duration::from_millis(500);

/// What a worker's supervisor sends to an attempt.
#[derive(Debug)]
pub(crate) enum WorkerReply {
    Message(FromWorker),
    /// The process is gone; nothing follows.
    Lost {
        cause: String,
    },
    /// The process is gone because it found no libraries or no device; nothing follows. Other
    /// processes fail too until an operator mends the node.
    Unusable {
        cause: String,
    },
}

/// What the worker of one rank of a gang has said.
#[derive(Debug)]
pub(crate) struct FromRank {
    pub rank: usize,
    pub reply: WorkerReply,
}

/// A worker's way to its attempt.
#[derive(Clone)]
struct ToAttempt {
    rank: usize,
    said: mpsc::Sender<FromRank>,
}

impl ToAttempt {
    /// Says something; an error means that the attempt no longer listens.
    async fn send(&self, reply: WorkerReply) -> Result<(), mpsc::error::SendError<FromRank>> {
        let rank = self.rank;
        self.said.send(FromRank { rank, reply }).await
    }
}

/// How workers are started.
#[derive(Clone, Debug)]
pub(crate) struct WorkerCommand {
    pub device: String,
    pub executable: PathBuf,
    pub threads: u32,
    pub mkl_intel_kernels: bool,
    pub own_kernels: bool,
    /// The directory in which workers keep compiled kernels.
    pub kernels: PathBuf,
    /// libtorch's directory, if it is not the one that the worker was linked against.
    pub torch_lib: Option<PathBuf>,
    /// Every worker, and every probe, holds this lock as its standard output
    /// ([`crate::old_workers`]).
    pub lock: Arc<File>,
}

/// cuBLAS reads this variable when it is loaded. With workspaces of these sizes it gives the same
/// bits in every run (`STEP-2`).
const CUBLAS_WORKSPACE: &str = "CUBLAS_WORKSPACE_CONFIG";
const CUBLAS_REPEATABLE: &str = ":4096:8";

/// Why a worker does not work.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("cannot start the worker {}: {source}{}", executable.display(), to_start(source))]
    Start {
        executable: PathBuf,
        source: std::io::Error,
    },
    #[error("no worker runs on {0}")]
    NotRunning(String),
    #[error("the worker on {0} was asked for anew, or to end, before it was started")]
    Superseded(String),
}

/// The remedy where a worker speaks another version of the protocol.
const ANOTHER_RELEASE: &str = "install the same release of r1d and r1d-worker";

/// What people can do about a worker that does not start, behind a colon.
fn to_start(error: &std::io::Error) -> String {
    if is_the_machines(error) {
        return to_mend(error);
    }
    ": install it there (`make build` makes it), or name it with --worker or R1D_WORKER".into()
}

/// The dynamic linker's exit status if it does not find a library.
pub(crate) const EXIT_NO_LIBRARY: i32 = 127;

impl WorkerCommand {
    /// The command that starts the executable, with its libraries' directory and how its device is
    /// to compute.
    pub(crate) fn command(&self) -> std::io::Result<Command> {
        let mut command = Command::new(&self.executable);
        // Replace any inherited value: with another one libtorch refuses to train.
        if !is_cpu(&self.device) {
            command.env(CUBLAS_WORKSPACE, CUBLAS_REPEATABLE);
        }
        if let Some(lib) = &self.torch_lib {
            let before = std::env::var_os("LD_LIBRARY_PATH")
                .into_iter()
                .flat_map(|paths| std::env::split_paths(&paths).collect::<Vec<_>>());
            let paths = std::iter::once(lib.clone()).chain(before);
            command.env(
                "LD_LIBRARY_PATH",
                std::env::join_paths(paths).map_err(std::io::Error::other)?,
            );
        }
        Ok(command)
    }

    /// Advice for libraries that are not found.
    pub(crate) fn libraries_wanted(&self) -> String {
        let found = match &self.torch_lib {
            Some(lib) => format!("it is {}", lib.display()),
            None => "it is not set".into(),
        };
        format!("set `[torch] lib` in r1d.toml to the directory `lib` of libtorch ({found})")
    }

    /// What is wrong with the node, if the process ended for that and not for its request.
    pub(crate) fn unusable(&self, code: Option<i32>, said: &str) -> Option<String> {
        match code {
            Some(EXIT_NO_LIBRARY) => Some(format!(
                "the worker {} does not find its libraries ({said}): {}",
                self.executable.display(),
                self.libraries_wanted()
            )),
            Some(code) if code == i32::from(EXIT_NO_DEVICE) => Some(said.to_owned()),
            _ => None,
        }
    }
}

/// Starts a process for a job, after the previous one has ended.
#[derive(Message)]
#[rtype(result = "Result<(), WorkerError>")]
pub(crate) struct Launch {
    pub job: JobId,
    pub said: mpsc::Sender<FromRank>,
    pub log: JobLog,
    /// Its place at its gang's rendezvous.
    pub seat: Seat,
}

/// Hands a request to the process.
#[derive(Message)]
#[rtype(result = "Result<(), WorkerError>")]
pub(crate) struct Ask(pub ToWorker);

/// Kills the process and waits until it is gone.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct End;

pub(crate) struct Worker {
    pub worker_command: WorkerCommand,
    pub live: LiveReports,
    pub process: Option<Process>,
    pub last: LastProcess,
    /// Counts launches and ends, so that a launch which had to wait does not override a later
    /// message.
    pub launches: u64,
    pub _alive: Alive,
}

/// Becomes `true` when the process that was started last is gone; `None` before the first start. It
/// outlives the actor, because two processes must never share a device.
pub(crate) type LastProcess = Arc<Mutex<Option<watch::Receiver<bool>>>>;

/// A running worker process. Dropping it kills the process.
pub(crate) struct Process {
    requests: mpsc::Sender<ToWorker>,
    kill: Arc<watch::Sender<bool>>,
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill.send_replace(true);
    }
}

impl Actor for Worker {
    type Context = Context<Self>;
}

impl Handler<Launch> for Worker {
    type Result = actix::ResponseActFuture<Self, Result<(), WorkerError>>;

    fn handle(&mut self, launch: Launch, _: &mut Self::Context) -> Self::Result {
        let ended = self.end();
        let number = self.launches;
        Box::pin(actix::fut::wrap_future(ended).map(
            move |(), actor: &mut Self, _: &mut Self::Context| {
                if actor.launches != number {
                    return Err(WorkerError::Superseded(actor.worker_command.device.clone()));
                }
                let job = launch.job.clone();
                actor.process = Some(actor.launch(launch)?);
                actor.live.device(&actor.worker_command.device, |device| {
                    (device.state, device.job) = (BUSY.into(), Some(job));
                });
                Ok(())
            },
        ))
    }
}

impl Handler<Ask> for Worker {
    type Result = ResponseFuture<Result<(), WorkerError>>;

    fn handle(&mut self, Ask(request): Ask, _: &mut Self::Context) -> Self::Result {
        let requests = self
            .process
            .as_ref()
            .map(|process| process.requests.clone());
        let device = self.worker_command.device.clone();
        Box::pin(async move {
            let requests = requests.ok_or_else(|| WorkerError::NotRunning(device.clone()))?;
            requests
                .send(request)
                .await
                .map_err(|_| WorkerError::NotRunning(device))
        })
    }
}

impl Handler<End> for Worker {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: End, _: &mut Self::Context) -> Self::Result {
        Box::pin(self.end())
    }
}

impl Worker {
    /// Kills the process; the future resolves when no process is left.
    fn end(&mut self) -> impl Future<Output = ()> + use<> {
        self.launches += 1;
        // This drop is the order to kill it.
        drop(self.process.take());
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        async move {
            if let Some(mut gone) = last {
                // An error means that the task which watched the process is gone, and the process
                // with it.
                let _ = gone.wait_for(|gone| *gone).await;
            }
        }
    }

    fn launch(&self, launch: Launch) -> Result<Process, WorkerError> {
        let (mut child, stream) = self.spawn().map_err(|source| WorkerError::Start {
            executable: self.worker_command.executable.clone(),
            source,
        })?;
        let pid = child.id();
        self.live.device(&self.worker_command.device, |device| {
            device.worker_pid = pid
        });
        let (reader, writer) = stream.into_split();
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let (answers, answering) = mpsc::channel(ANSWERS_MAX);
        launch.seat.take(answers);
        let (rank, said) = (launch.seat.rank, launch.said);
        let said = ToAttempt { rank, said };
        let kill = Arc::new(watch::Sender::new(false));
        let (ended, gone) = watch::channel(false);
        let last_words = Arc::new(Mutex::new(Vec::new()));
        let listener = child.stderr.take().map(|stderr| {
            tasks::spawn("worker log", listen(stderr, launch.log, last_words.clone()))
        });
        tasks::spawn(
            "worker requests",
            write(writer, outgoing, answering, said.clone()),
        );
        let (live, device, killed) = (
            self.live.clone(),
            self.worker_command.device.clone(),
            kill.subscribe(),
        );
        let worker_command = self.worker_command.clone();
        tasks::spawn("worker", async move {
            let broken = read(reader, &said, &launch.seat, killed.clone()).await;
            let status = leave(&mut child, killed).await;
            if let Some(listener) = listener {
                // Its last lines are worth a moment. A child that it left behind may keep the
                // stream open.
                let _ = tokio::time::timeout(LAST_WORDS_WAIT, listener).await;
            }
            live.device(&device, |status| {
                (status.worker_pid, status.job, status.state) =
                    (None, None, DeviceUse::IDLE.into());
            });
            ended.send_replace(true);
            let code = status.as_ref().ok().and_then(ExitStatus::code);
            let words = last_words
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .join(" / ");
            let end = match worker_command.unusable(code, &words) {
                Some(cause) => WorkerReply::Unusable { cause },
                None => WorkerReply::Lost {
                    cause: cause(&device, pid, broken, status, &last_words),
                },
            };
            // The attempt no longer listens to a worker that was killed on purpose.
            let _ = said.send(end).await;
        });
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(gone);
        Ok(Process { requests, kill })
    }

    fn spawn(&self) -> std::io::Result<(Child, UnixStream)> {
        let (ours, theirs) = StdStream::pair()?;
        ours.set_nonblocking(true)?;
        let WorkerCommand {
            device,
            threads,
            mkl_intel_kernels,
            own_kernels,
            kernels,
            ..
        } = &self.worker_command;
        let mut command = self.worker_command.command()?;
        command.args([
            "serve",
            "--device",
            device,
            "--threads",
            &threads.to_string(),
        ]);
        if *mkl_intel_kernels {
            command.arg("--mkl-intel-kernels");
        }
        if *own_kernels {
            command.arg("--kernels").arg(kernels);
        } else {
            command.arg("--no-own-kernels");
        }
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        command.stdout(Stdio::from(self.worker_command.lock.try_clone()?));
        command.stderr(Stdio::piped());
        // The daemon itself handles a Ctrl-C on its terminal.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn()?;
        Ok((child, UnixStream::from_std(ours)?))
    }
}

/// Forwards the worker's messages, and carries out its calls on the rendezvous, until its socket
/// closes or breaks, or it is to be killed. Returns what broke.
async fn read(
    mut stream: OwnedReadHalf,
    said: &ToAttempt,
    seat: &Seat,
    mut killed: watch::Receiver<bool>,
) -> Option<String> {
    let reading = async {
        let mut is_first = true;
        loop {
            let message = frame::read::<FromWorker>(&mut stream, Format::Postcard).await;
            let was_first = std::mem::take(&mut is_first);
            match message {
                Err(error @ FrameError::Decode(_)) if was_first => {
                    return Some(format!("{error}: {ANOTHER_RELEASE}"));
                }
                Ok(FromWorker {
                    body: Body::Rendezvous(call),
                    ..
                }) => {
                    if let Err(unread) = seat.call(call) {
                        return Some(unread.to_string());
                    }
                }
                Ok(message) => {
                    if said.send(WorkerReply::Message(message)).await.is_err() {
                        return None;
                    }
                }
                Err(FrameError::Closed) => return None,
                Err(error) => return Some(error.to_string()),
            }
        }
    };
    tokio::select! {
        broken = reading => broken,
        _ = killed.wait_for(|killed| *killed) => None,
        // The attempt is over: what was started for it late is ended by nobody else.
        () = said.said.closed() => None,
    }
}

/// Writes requests, and answers of the rendezvous between them, until the process ends or no more
/// requests come. Dropping the writing half would not close the socket; the end of the process
/// does.
async fn write(
    mut stream: OwnedWriteHalf,
    mut requests: mpsc::Receiver<ToWorker>,
    mut answers: mpsc::Receiver<ToWorker>,
    said: ToAttempt,
) {
    loop {
        let request = tokio::select! {
            biased;
            Some(answer) = answers.recv() => answer,
            request = requests.recv() => match request {
                Some(request) => request,
                None => return,
            },
        };
        for message in request.messages(PART_MAX_BYTES) {
            match frame::write(&mut stream, Format::Postcard, &message).await {
                Ok(()) => {}
                // The worker cannot get the whole message, and so cannot answer: answer for it
                // here. It drops the parts that it has.
                Err(error @ (FrameError::TooLong(_) | FrameError::Encode(_))) => {
                    let _ = said
                        .send(WorkerReply::Message(refusal(&message, &error)))
                        .await;
                    break;
                }
                Err(error) => {
                    tracing::debug!("request to a worker is lost: {error}");
                    return;
                }
            }
        }
    }
}

/// The answer to a request of which one item fits no frame; a retry cannot help.
fn refusal(message: &ToWorker, error: &FrameError) -> FromWorker {
    let sequences = match &message.request {
        WorkerRequest::Train(train) => &train.sequences[..],
        WorkerRequest::TrainPpo(train) => &train.sequences,
        WorkerRequest::More(Part::Rollouts(sequences)) => sequences,
        _ => &[],
    };
    let kept = if sequences
        .iter()
        .any(|sequence| !sequence.kept_ids.is_empty())
    {
        "set a top_k of a few hundred or less, or keep_sampling_mask = false, or "
    } else {
        ""
    };
    let what = format!(
        "one text of the request fits no message ({error}): {kept}shorten texts or completions"
    );
    FromWorker {
        id: message.id,
        body: Body::Failed(Failure {
            kind: FailureKind::Invalid,
            message: what,
        }),
    }
}

/// Waits for the process's end. Kills it when asked to, or if it does not leave after its socket
/// closed.
async fn leave(
    child: &mut Child,
    mut killed: watch::Receiver<bool>,
) -> std::io::Result<ExitStatus> {
    tokio::select! {
        status = child.wait() => return status,
        _ = killed.wait_for(|killed| *killed) => {}
        _ = tokio::time::sleep(LEAVE_MAX) => {}
    }
    child.start_kill()?;
    child.wait().await
}

/// Copies lines of standard error to the job's log; keeps the last ones for the cause of death.
async fn listen(stderr: impl AsyncRead + Unpin, log: JobLog, last_words: Arc<Mutex<Vec<String>>>) {
    let mut stderr = BufReader::new(stderr);
    while let Ok(Some(line)) = next_line(&mut stderr).await {
        log.worker(&line);
        let mut last = last_words.lock().unwrap_or_else(PoisonError::into_inner);
        last.push(line);
        let surplus = last.len().saturating_sub(LAST_WORDS_MAX);
        last.drain(..surplus);
    }
}

/// Reads the next line and cuts it if it is too long. Bytes that are not UTF-8 are replaced: if the
/// daemon stopped reading, the full pipe would stop the worker.
async fn next_line(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<Option<String>> {
    let mut line = Vec::new();
    let mut begun = false;
    loop {
        let bytes = stream.fill_buf().await?;
        begun |= !bytes.is_empty();
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let of_line = end.unwrap_or(bytes.len());
        line.extend(bytes.iter().take(of_line.min(LINE_MAX_BYTES - line.len())));
        let is_last = end.is_some() || bytes.is_empty();
        stream.consume(of_line + usize::from(end.is_some()));
        if is_last {
            return Ok(begun.then(|| String::from_utf8_lossy(&line).into_owned()));
        }
    }
}

fn cause(
    device: &str,
    pid: Option<u32>,
    broken: Option<String>,
    status: std::io::Result<ExitStatus>,
    last_words: &Mutex<Vec<String>>,
) -> String {
    let pid = pid.map_or(String::new(), |pid| format!(" (process {pid})"));
    let how = match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(9), _) => "was killed (signal 9; the kernel does so when memory runs out)".into(),
            (Some(signal), _) => format!("died of signal {signal}"),
            (None, Some(code)) => format!("ended with exit code {code}"),
            (None, None) => "ended".into(),
        },
        Err(error) => format!("is lost: {error}"),
    };
    let broken = broken.map_or(String::new(), |error| {
        format!("; its stream broke: {error}")
    });
    let last = last_words
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .join(" / ");
    let last = if last.is_empty() {
        String::new()
    } else {
        format!("; its last words: {last}")
    };
    format!("worker {device}{pid} {how}{broken}{last}")
}

/// The process id in a worker's first message, or why such a worker is of no use.
pub(crate) fn started(message: &FromWorker) -> Option<Result<u32, String>> {
    match &message.body {
        Body::Event(Event::Started {
            protocol, version, ..
        }) if *protocol != PROTOCOL => Some(Err(format!(
            "the worker is of release {version} and speaks version {protocol} of the protocol, \
             this r1d version {PROTOCOL}: {ANOTHER_RELEASE}"
        ))),
        Body::Event(Event::Started { pid, .. }) => Some(Ok(*pid)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meeting::Meeting;
    use r1d_proto::sampling_mask::SamplingMask;
    use r1d_proto::worker::TrainSequence;
    use r1d_proto::world::SystemClock;

    /// A request that fits no frame is answered for the worker, so that nothing waits for it; the
    /// requests behind it go out.
    #[actix::test]
    async fn a_request_that_fits_no_frame_is_refused_at_once() {
        // 5 bytes each.
        let numbers = vec![u32::MAX; frame::LENGTH_MAX_BYTES as usize / 5];
        let sequence = TrainSequence {
            prompt_ids: vec![1],
            completion_ids: vec![2],
            behaviour_logprobs: vec![-1.0],
            experts: vec![],
            kept_ids: SamplingMask::from_numbers(numbers),
            advantage: 1.0,
            truncated: false,
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (requests, outgoing) = mpsc::channel(REQUESTS_MAX);
        let (said, mut heard) = mpsc::channel(1);
        requests
            .send(ToWorker {
                id: 7,
                request: WorkerRequest::More(Part::Rollouts(vec![sequence])),
            })
            .await
            .unwrap();
        requests
            .send(ToWorker {
                id: 8,
                request: WorkerRequest::Close,
            })
            .await
            .unwrap();
        drop(requests);
        let (_, answering) = mpsc::channel(1);
        let said = ToAttempt { rank: 0, said };
        write(ours.into_split().1, outgoing, answering, said).await;

        let Some(FromRank {
            rank: 0,
            reply:
                WorkerReply::Message(FromWorker {
                    id: 7,
                    body: Body::Failed(failure),
                }),
        }) = heard.recv().await
        else {
            panic!("an answer to request 7")
        };
        assert_eq!(failure.kind, FailureKind::Invalid);
        for part in [
            "top_k",
            "keep_sampling_mask = false",
            "the limit is 268435456",
        ] {
            assert!(failure.message.contains(part), "{}", failure.message);
        }
        let next: ToWorker = frame::read(&mut theirs.into_split().0, Format::Postcard)
            .await
            .unwrap();
        assert_eq!(
            next,
            ToWorker {
                id: 8,
                request: WorkerRequest::Close
            }
        );
    }

    /// A worker that is silent is left too once its attempt listens no more.
    #[actix::test]
    async fn a_worker_whose_attempt_is_over_is_not_read_any_more() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let (said, heard) = mpsc::channel(1);
        let (_kill, killed) = watch::channel(false);
        let seat = Seat {
            meeting: Meeting::new(SystemClock::shared()),
            rank: 0,
        };
        drop(heard);
        let said = ToAttempt { rank: 0, said };
        let reading = read(ours.into_split().0, &said, &seat, killed);
        let left = tokio::time::timeout(Duration::from_secs(60), reading).await;
        assert_eq!(left.unwrap(), None);
    }

    /// A worker may write anything: an endless line takes no memory, and bytes that are not UTF-8
    /// end nothing.
    #[actix::test]
    async fn lines_of_any_length_and_content_are_read() {
        let text = [
            &b"first\n"[..],
            &[0xff, 0xfe, b'\n'],
            &vec![b'x'; 100_000],
            b"\n\nlast",
        ]
        .concat();
        let mut stream = BufReader::with_capacity(1000, &text[..]);
        let mut lines = Vec::new();
        while let Some(line) = next_line(&mut stream).await.unwrap() {
            lines.push(line);
        }
        let shown: Vec<&str> = lines.iter().map(String::as_str).collect();
        assert_eq!(
            shown,
            [
                "first",
                "\u{fffd}\u{fffd}",
                &"x".repeat(LINE_MAX_BYTES),
                "",
                "last"
            ]
        );
    }
}
