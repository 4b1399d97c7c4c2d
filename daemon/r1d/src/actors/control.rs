//! The control socket: one request per connection, answered in a task of its own. [`Admission`]
//! bounds what clients take of the daemon, by kind of request. A request that changes something
//! runs in a task that no connection can drop: it is carried out whether or not its client stays.

mod decisions;
mod logs;
mod removals;

use crate::accept::{self, AcceptError, Submission, Submitted};
use crate::access::{self, Caller, Need};
use crate::actors::jobs::Jobs;
use crate::actors::supervise::{Alive, Supervised};
use crate::admission::{Admission, Lane};
use crate::callers;
use crate::inputs;
use crate::job_changes::JobChanges;
use crate::log_tail::Tail;
use crate::outside;
use crate::reading::Reading;
use crate::removal::Removals;
use crate::review::{self, ReviewError};
use crate::reward_versions;
use crate::samples;
use crate::status::JobViews;
use crate::submissions::{self, Answer, Submissions, Underway};
use crate::tasks;
use actix::{Actor, AsyncContext, Context, StreamHandler};
use futures_util::future::LocalBoxFuture;
use futures_util::{FutureExt, stream};
use r1d_ledger::limits::SUBMISSION_ID_MAX_BYTES;
use r1d_ledger::{FindError, JobRecord, User};
use r1d_proto::control::{
    ControlError, Envelope, ErrorKind, JobStatus, Node, REQUEST_MAX_BYTES, Request, Response,
    SampleSort,
};
use r1d_proto::frame::{self, Format, FrameError};
use r1d_proto::ids::JobId;
use r1d_proto::shown;
use r1d_rewards::Rewards;
use r1d_store::JobLayout;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Longest time from the connection to the end of the request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Longest time in which a client has to take one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Longer requests are decoded on another thread; this many bytes take a few milliseconds.
const DECODED_HERE_MAX_BYTES: usize = 64 << 10;
/// Time between two progress messages to a client that waits for its answer. The shortest timeout
/// that r1ctl accepts is twice as long.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);
/// Pause after a failure to accept a client.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// Shortest time between two statuses of a watched job.
const WATCH_INTERVAL: Duration = Duration::from_millis(100);

/// What requests are answered from; each connection has a clone.
#[derive(Clone)]
pub(crate) struct ControlService {
    pub views: JobViews,
    pub rewards: Arc<Rewards>,
    pub jobs: Supervised<Jobs>,
    pub node_name: String,
    /// The group whose members are administrators.
    pub admin_group: String,
    /// When the daemon started, on the monotonic clock.
    pub since: Duration,
    pub removals: Removals,
    pub admission: Admission,
    pub submissions: Submissions,
    /// Receives `true` on a `shutdown` request; `None` where systemd stops the service.
    pub shutdown: Option<Arc<watch::Sender<bool>>>,
}

pub(crate) struct ControlSocket {
    service: ControlService,
    _alive: Alive,
}

impl ControlSocket {
    /// Serves `listener` from now on.
    pub(crate) fn new(
        service: ControlService,
        listener: Arc<UnixListener>,
        alive: Alive,
        context: &mut Context<Self>,
    ) -> ControlSocket {
        let connections = stream::unfold(listener, |listener| async move {
            let accepted = listener.accept().await;
            if accepted.is_err() {
                // The likely cause is a lack of file descriptors: do not spin.
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
            Some((accepted.map(|(stream, _)| stream), listener))
        });
        context.add_stream(connections);
        ControlSocket {
            service,
            _alive: alive,
        }
    }
}

impl Actor for ControlSocket {
    type Context = Context<Self>;
}

impl StreamHandler<std::io::Result<UnixStream>> for ControlSocket {
    fn handle(&mut self, accepted: std::io::Result<UnixStream>, _: &mut Self::Context) {
        match accepted {
            Ok(stream) => drop(tasks::spawn("client", self.service.clone().serve(stream))),
            Err(error) => tracing::warn!("cannot accept a client: {error}"),
        }
    }
}

fn error(kind: ErrorKind, message: impl ToString) -> ControlError {
    ControlError::new(kind, message)
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

fn refused(refused: AcceptError) -> ControlError {
    if refused.is_the_jobs() {
        return error(ErrorKind::Invalid, refused);
    }
    // A failed write can often be mended by an operator: say how.
    match outside::said_by_the_system(&refused).and_then(outside::remedy) {
        Some(what) => error(ErrorKind::Internal, format!("{refused}: {what}")),
        None => error(ErrorKind::Internal, refused),
    }
}

fn submitted(
    Submitted {
        job,
        warnings,
        plugins,
    }: Submitted,
) -> Response {
    Response::Submitted {
        job,
        warnings,
        plugins,
    }
}

/// Who sends a request, and what that means for it.
struct Sender {
    /// `None` where the request needs nobody in particular.
    caller: Option<Caller>,
    /// Whether the request's job is the sender's to look into.
    owns: bool,
}

impl Sender {
    /// The user's id and name, for the record.
    fn user(&self) -> Option<User> {
        self.caller.as_ref().map(|caller| caller.user.clone())
    }
}

/// Leaves out the texts of the data that a status shows.
fn without_texts(mut status: JobStatus) -> JobStatus {
    for eval in &mut status.evals {
        eval.example = None;
    }
    status
}

/// An answer that a client waits for, and how far the work is.
struct Pending {
    reading: Reading,
    answer: LocalBoxFuture<'static, Answer>,
}

impl ControlService {
    async fn serve(self, stream: UnixStream) {
        let uid = stream
            .peer_cred()
            .map_or(callers::UNKNOWN_UID, |peer| peer.uid());
        let (mut reader, mut writer) = stream.into_split();
        let mut place = self.admission.arriving.take();
        let received = tokio::select! {
            received = receive(&mut reader, &mut writer) => received,
            () = place.cut() => return tracing::debug!("a client that had asked for nothing made \
                                                        room for a newer one"),
        };
        drop(place);
        let Some(mut envelope) = received else { return };
        // Not in the choice below: a client that leaves while its user is looked up has asked.
        let sender = self.admit(uid, &mut envelope.request).await;
        let mut gone = [0u8; 1];
        tokio::select! {
            // Begin the requested work, even if its client has left already.
            biased;
            answered = self.answer(uid, envelope, sender, &mut writer) => {
                if let Err(error) = answered {
                    tracing::debug!("client: {error}");
                }
            }
            // A client sends nothing after its request, so a read ends when the client leaves.
            _ = reader.read(&mut gone) => tracing::trace!("a client left before its answer"),
        }
    }

    /// Finds out who sends the request, and refuses what the sender may not. What was checked is
    /// what is answered: the request then names its job in full.
    async fn admit(&self, uid: u32, request: &mut Request) -> Result<Sender, ControlError> {
        let look_up = || callers::find(uid, self.admin_group.clone(), &self.admission.callers);
        let found = |prefix: &mut String| {
            let record = self.find(prefix).map_err(|ControlErrorOf(error)| error)?;
            *prefix = record.job().0.clone();
            Ok::<_, ControlError>(record)
        };
        let forbidden = |why: String| Err(error(ErrorKind::Forbidden, why));
        let (caller, owns) = match access::need(request) {
            Need::Nothing => (None, false),
            Need::Name => (Some(look_up().await?), true),
            Need::Glance(job) => {
                let (record, caller) = (found(job)?, look_up().await?);
                let owns = caller.owns(record.owner.as_ref());
                (Some(caller), owns)
            }
            Need::Job(job) => {
                let (record, caller) = (found(job)?, look_up().await?);
                let owner = record.owner.as_ref();
                if !caller.owns(owner) {
                    return forbidden(access::not_yours(record.job(), owner, &self.admin_group));
                }
                (Some(caller), true)
            }
            Need::Jobs(jobs) => {
                let caller = look_up().await?;
                for job in jobs {
                    let record = found(job)?;
                    let owner = record.owner.as_ref();
                    if !caller.owns(owner) {
                        let group = &self.admin_group;
                        return forbidden(access::not_yours(record.job(), owner, group));
                    }
                }
                (Some(caller), true)
            }
            Need::Administration => {
                let caller = look_up().await?;
                if !caller.is_admin {
                    return forbidden(access::not_an_administrator(&self.admin_group));
                }
                (Some(caller), true)
            }
        };
        Ok(Sender { caller, owns })
    }

    async fn answer(
        &self,
        uid: u32,
        envelope: Envelope,
        sender: Result<Sender, ControlError>,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let Envelope {
            id,
            progress,
            request,
        } = envelope;
        if id
            .as_ref()
            .is_some_and(|id| id.len() > SUBMISSION_ID_MAX_BYTES)
        {
            let problem =
                format!("the submission's id has more than {SUBMISSION_ID_MAX_BYTES} bytes");
            return self
                .send_answer(&Err(error(ErrorKind::Invalid, problem)), writer)
                .await;
        }
        let sender = match sender {
            Ok(sender) => sender,
            Err(refused) => return self.send_answer(&Err(refused), writer).await,
        };
        let answered = match request {
            Request::Watch { job } => match self.stream_of(&job) {
                Ok((record, _place)) => {
                    return self.watch(record.job(), sender.owns, writer).await;
                }
                Err(error) => Err(error.0),
            },
            Request::Logs {
                job,
                follow,
                tail,
                since_s,
            } => match self.stream_of(&job) {
                Ok((record, _place)) => {
                    let now_ms = self.views.clock.unix().as_millis() as u64;
                    let tail = Tail {
                        lines: tail,
                        since_ms: since_s
                            .map(|seconds| now_ms.saturating_sub(seconds.saturating_mul(1000))),
                    };
                    return self.logs(record.job(), follow, tail, writer).await;
                }
                Err(error) => Err(error.0),
            },
            request @ Request::Submit { .. } => {
                let mut listener = match self.listen(uid, id, &request).await {
                    Ok(listener) => listener,
                    Err(refused) => return self.send_answer(&Err(refused), writer).await,
                };
                let pending = self.submit(
                    listener.id.clone(),
                    listener.contents.clone(),
                    request,
                    sender.user(),
                );
                let answered = until_answered(pending, progress, writer).await?;
                let sent = self.send_answer(&answered, writer).await;
                listener.heard = sent.is_ok();
                return sent;
            }
            request => until_answered(self.pending(request, sender), progress, writer).await?,
        };
        self.send_answer(&answered, writer).await
    }

    /// Sends an answer. A client that does not take it has to make room for newer clients.
    async fn send_answer(
        &self,
        answer: &Answer,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let mut place = self.admission.answers.take();
        let error;
        let response = match answer {
            Ok(response) => response,
            Err(refused) => {
                error = Response::Error(refused.clone());
                &error
            }
        };
        tokio::select! {
            sent = send(writer, response) => sent,
            () = place.cut() => Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())),
        }
    }

    /// Finds the job of a stream, and takes a place for the stream.
    fn stream_of(
        &self,
        job: &str,
    ) -> Result<(Arc<JobRecord>, tokio::sync::OwnedSemaphorePermit), ControlErrorOf> {
        Ok((self.find(job)?, self.admission.stream()?))
    }

    fn pending(&self, request: Request, sender: Sender) -> Pending {
        let (service, reading) = (self.clone(), Reading::default());
        let at = reading.clone();
        let answer = async move {
            service
                .single(request, sender, &at)
                .await
                .map_err(|ControlErrorOf(error)| error)
        };
        Pending {
            reading,
            answer: answer.boxed_local(),
        }
    }

    /// Finds the submission that the request means: the one with the client's id, or an equal one
    /// whose client left without the answer.
    async fn listen(
        &self,
        uid: u32,
        id: Option<String>,
        request: &Request,
    ) -> Result<Listener, ControlError> {
        let (contents, now) = (submissions::contents(uid, request), self.views.clock.now());
        let is_known = |id: &str| {
            self.submissions.underway(id).is_some() || self.views.ledger.of_request(id).is_some()
        };
        let id = match id {
            Some(id) if is_known(&id) => id,
            id => {
                let unheard = self.find_unheard(&contents, now).await;
                unheard
                    .or(id)
                    .unwrap_or_else(|| accept::new_request_id(&self.views))
            }
        };
        self.is_the_same(uid, &id, &contents, request).await?;
        Ok(Listener {
            submissions: self.submissions.clone(),
            contents,
            id,
            now,
            heard: false,
        })
    }

    /// Refuses a different job under the id of a submission that was made before or is being read.
    async fn is_the_same(
        &self,
        uid: u32,
        id: &str,
        contents: &str,
        request: &Request,
    ) -> Result<(), ControlError> {
        let (is_the_same, whose) = match self.views.ledger.of_request(id) {
            Some(record) if record.owner.as_ref().is_some_and(|owner| owner.uid != uid) => {
                (false, " of another user".into())
            }
            Some(record) => {
                let (request, job) = (request.clone(), record.job().clone());
                let compared = tasks::blocking(move || accept::asked_for(&record, &request));
                (
                    compared.await.map_err(internal)?,
                    format!(", which became job {job}"),
                )
            }
            None => {
                let underway = self.submissions.underway(id);
                (
                    underway.is_none_or(|underway| underway.contents == contents),
                    ", which is being read".into(),
                )
            }
        };
        if is_the_same {
            return Ok(());
        }
        let id = shown::quote(id);
        Err(error(
            ErrorKind::Invalid,
            format!(
                "the id `{id}` is another submission's{whose}: each submission needs an id of its \
                 own"
            ),
        ))
    }

    /// Finds an equal submission whose client left without the answer. One that was refused or
    /// cancelled since is skipped, and so is one whose files were changed since: a new submission
    /// may succeed.
    async fn find_unheard(&self, contents: &str, now: Duration) -> Option<String> {
        while let Some(id) = self.submissions.find_unheard(contents, now) {
            let is_meant = match self.views.ledger.of_request(&id) {
                Some(record) if record.state().is_final() => false,
                Some(record) => {
                    let inputs = JobLayout::of(&self.views.state_dir, record.job()).inputs();
                    tasks::blocking(move || inputs::is_untouched(&inputs))
                        .await
                        .unwrap_or(false)
                }
                None => self.submissions.underway(&id).is_some(),
            };
            if is_meant {
                return Some(id);
            }
        }
        None
    }

    /// Begins to read a job, or joins the reading that is under way. The reading goes on if the
    /// client leaves.
    fn submit(
        &self,
        id: String,
        contents: String,
        request: Request,
        owner: Option<User>,
    ) -> Pending {
        if let Some(record) = self.views.ledger.of_request(&id) {
            let known = submitted(accept::submitted_before(&record));
            return Pending {
                reading: Reading::default(),
                answer: std::future::ready(Ok(known)).boxed_local(),
            };
        }
        let underway = self
            .submissions
            .underway(&id)
            .map_or_else(|| self.begin(id, contents, request, owner), Ok);
        match underway {
            Ok(underway) => Pending {
                reading: underway.reading.clone(),
                answer: async move {
                    let panicked =
                        || internal("reading the job panicked: a bug, see the daemon's log");
                    underway.answered().await.unwrap_or_else(|| Err(panicked()))
                }
                .boxed_local(),
            },
            Err(refused) => Pending {
                reading: Reading::default(),
                answer: std::future::ready(Err(refused)).boxed_local(),
            },
        }
    }

    fn begin(
        &self,
        id: String,
        contents: String,
        request: Request,
        owner: Option<User>,
    ) -> Result<Underway, ControlError> {
        let Request::Submit {
            job: text,
            priority,
            pins,
            no_reuse,
            hold,
        } = request
        else {
            return Err(internal("not a submission"));
        };
        let turn = self.admission.submissions.enter()?;
        let reading = Reading::default();
        let (underway, begun) = self.submissions.begin(&id, contents, reading.clone());
        let submission = Submission {
            text,
            priority,
            pins,
            reuses: !no_reuse,
            owner,
            held: hold,
            id,
        };
        let (views, rewards) = (self.views.clone(), self.rewards.clone());
        tasks::spawn("submission", async move {
            let read = async {
                let turn = turn.await?;
                let submitting = tasks::blocking(move || {
                    let _turn = turn;
                    accept::submit(submission, &rewards, &views, &reading)
                });
                submitting.await.map_err(internal)?.map_err(refused)
            };
            let read: Result<Submitted, ControlError> = read.await;
            match &read {
                Ok(Submitted { job, .. }) => tracing::debug!("job {job} is queued"),
                Err(error) => tracing::info!("a submission is refused: {}", error.message),
            }
            begun.answer(read.map(submitted));
        });
        Ok(underway)
    }

    /// Reads files for a client in its turn. The work ends early if the client leaves.
    async fn read<T: Send + 'static>(
        &self,
        room: &Lane,
        reading: &Reading,
        work: impl FnOnce(&ControlService, &Reading) -> T + Send + 'static,
    ) -> Result<T, ControlErrorOf> {
        let _wanted = reading.until_dropped();
        let turn = room.enter()?.await?;
        let (service, reading) = (self.clone(), reading.clone());
        let read = tasks::blocking(move || {
            let _turn = turn;
            work(&service, &reading)
        });
        Ok(read.await.map_err(internal)?)
    }

    /// Carries out a change in a task that goes on if the client leaves.
    async fn change<F: Future<Output = Result<Response, ControlErrorOf>>>(
        &self,
        room: &Lane,
        work: impl FnOnce(ControlService) -> F + 'static,
    ) -> Result<Response, ControlErrorOf> {
        let (service, turn) = (self.clone(), room.enter()?);
        let changing = tasks::spawn("change", async move {
            let _turn = turn.await?;
            work(service).await
        });
        changing.await.map_err(internal)?
    }

    async fn single(
        &self,
        request: Request,
        sender: Sender,
        reading: &Reading,
    ) -> Result<Response, ControlErrorOf> {
        let views = self.views.clone();
        Ok(match request {
            Request::Plan { job } => {
                let plan = self
                    .read(&self.admission.plans, reading, move |service, reading| {
                        accept::plan(
                            &job,
                            &service.rewards.until(reading.abandoned()),
                            &service.views,
                            reading,
                        )
                    })
                    .await?;
                Response::Plan(Box::new(plan.map_err(refused)?))
            }
            Request::Reload { job, plugin, file } => {
                let record = self.find(&job)?;
                self.change(&self.admission.submissions, move |service| async move {
                    let reload = reward_versions::reload(
                        record,
                        plugin,
                        file,
                        service.rewards,
                        service.views.clone(),
                    );
                    let reloaded = reload.await.map_err(|refused| {
                        let kind = if refused.is_the_daemons() {
                            ErrorKind::Internal
                        } else {
                            ErrorKind::Invalid
                        };
                        error(kind, refused)
                    })?;
                    Ok(reloaded)
                })
                .await?
            }
            Request::List => Response::Jobs(views.summaries()),
            Request::Status { job } => {
                let status = views.status(&*self.find(&job)?);
                Response::Status(Box::new(if sender.owns {
                    status
                } else {
                    without_texts(status)
                }))
            }
            Request::Pause { .. } | Request::Resume { .. } | Request::Requeue { .. } => {
                self.decision(request, sender).await?
            }
            Request::Cancel { job } => {
                let job = self.find(&job)?.job().clone();
                self.change(&self.admission.cancels, move |service| async move {
                    service.cancel(job).await
                })
                .await?
            }
            Request::Remove { jobs } => self.remove(jobs, sender).await?,
            Request::Prune {
                older_than_s,
                keep_final,
                dry_run,
            } => {
                self.prune((older_than_s, keep_final), dry_run, sender, reading)
                    .await?
            }
            Request::Samples {
                job,
                stage,
                step,
                sort,
                limit,
            } => {
                self.samples(&job, stage, step, sort, limit, reading)
                    .await?
            }
            Request::Why { job } => Response::Why(views.why(&*self.find(&job)?)),
            Request::DataSets { job } => {
                let record = self.find(&job)?;
                let listed = self.read(&self.admission.looks, reading, move |service, _| {
                    review::list(&service.views, &record)
                });
                Response::DataSets(listed.await?.map_err(reviewing)?)
            }
            Request::Review { job, stage, file } => {
                let record = self.find(&job)?;
                self.change(&self.admission.submissions, move |service| async move {
                    let review = tasks::blocking(move || {
                        review::review(&service.views, &record, &stage, file.as_deref())
                    });
                    Ok(Response::Reviewed(
                        review.await.map_err(internal)?.map_err(reviewing)?,
                    ))
                })
                .await?
            }
            Request::Nodes => Response::Nodes(vec![self.node().await?]),
            Request::Shutdown => match &self.shutdown {
                Some(shutdown) => {
                    shutdown.send_replace(true);
                    Response::ShuttingDown
                }
                None => {
                    return Err(error(
                        ErrorKind::Invalid,
                        "this daemon is a service: stop it with `systemctl stop r1d`",
                    )
                    .into());
                }
            },
            Request::Submit { .. } | Request::Watch { .. } | Request::Logs { .. } => {
                return Err(internal("such a request has a way of its own").into());
            }
        })
    }

    fn find(&self, prefix: &str) -> Result<Arc<JobRecord>, ControlErrorOf> {
        let id = self.views.ledger.find(prefix)?;
        self.views
            .ledger
            .job(&id)
            .ok_or_else(|| internal(format!("job `{id}` has no record")).into())
    }

    async fn samples(
        &self,
        job: &str,
        stage: Option<String>,
        step: Option<u64>,
        sort: SampleSort,
        limit: u32,
        reading: &Reading,
    ) -> Result<Response, ControlErrorOf> {
        let record = self.find(job)?;
        let outputs = JobLayout::of(&self.views.state_dir, record.job());
        let read = move |_: &ControlService, _: &Reading| {
            samples::read(&record, &outputs, stage, step, sort, limit)
        };
        match self.read(&self.admission.looks, reading, read).await? {
            Ok(samples) => Ok(Response::Samples(samples)),
            Err(
                unknown @ (samples::SamplesError::NoStage { .. }
                | samples::SamplesError::NoStep { .. }),
            ) => Err(error(ErrorKind::NotFound, unknown).into()),
            Err(other) => Err(internal(other).into()),
        }
    }

    /// Describes the node. The plugins are looked for on another thread, because their directories
    /// may be in the network; by one client at a time, because they may hang.
    async fn node(&self) -> Result<Node, ControlErrorOf> {
        let turn = self.admission.plugins.clone().lock_owned().await;
        let rewards = self.rewards.clone();
        let plugins = tasks::blocking(move || {
            let _turn = turn;
            rewards.names()
        });
        Ok(Node {
            name: self.node_name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            state_dir: self.views.state_dir.clone(),
            uptime_s: self.views.clock.now().saturating_sub(self.since).as_secs(),
            devices: self.views.live_status.devices(),
            plugins: plugins.await.map_err(internal)?,
        })
    }

    /// Sends the job's status whenever it changes, until the job has ended.
    async fn watch(
        &self,
        job: &JobId,
        owns: bool,
        writer: &mut OwnedWriteHalf,
    ) -> Result<(), FrameError> {
        let mut changes = JobChanges::of(&self.views, job);
        let mut shown: Option<JobStatus> = None;
        while let Some(record) = self.views.ledger.job(job) {
            let status = self.views.status(&record);
            let status = if owns { status } else { without_texts(status) };
            let (ended, is_queued) = (status.state.is_final(), status.queue_position.is_some());
            if shown.as_ref() != Some(&status) {
                send(writer, &Response::Status(Box::new(status.clone()))).await?;
                shown = Some(status);
            }
            if ended {
                break;
            }
            tokio::time::sleep(WATCH_INTERVAL).await;
            changes.next(is_queued).await;
        }
        send(writer, &Response::End).await
    }
}

/// A client of a submission that has not had its answer yet.
struct Listener {
    submissions: Submissions,
    contents: String,
    id: String,
    /// When the client asked.
    now: Duration,
    heard: bool,
}

impl Drop for Listener {
    fn drop(&mut self) {
        if !self.heard {
            let (contents, id) = (
                std::mem::take(&mut self.contents),
                std::mem::take(&mut self.id),
            );
            self.submissions.left_unheard(contents, id, self.now);
        }
    }
}

/// Reads the client's request. `None` if there is nothing left to answer.
async fn receive(reader: &mut OwnedReadHalf, writer: &mut OwnedWriteHalf) -> Option<Envelope> {
    let payload = frame::read_payload(reader, Format::Json, REQUEST_MAX_BYTES);
    let decoded = match tokio::time::timeout(REQUEST_MAX, payload).await {
        Ok(Ok(bytes)) if bytes.len() <= DECODED_HERE_MAX_BYTES => {
            frame::decode(Format::Json, &bytes)
        }
        Ok(Ok(bytes)) => match tasks::blocking(move || frame::decode(Format::Json, &bytes)).await {
            Ok(decoded) => decoded,
            Err(panic) => Err(FrameError::Decode(panic.to_string())),
        },
        Ok(Err(error)) => Err(error),
        Err(_) => {
            let late = error(
                ErrorKind::Invalid,
                format!("no request within {} s", REQUEST_MAX.as_secs()),
            );
            let _ = send(writer, &Response::Error(late)).await;
            return None;
        }
    };
    match decoded {
        Ok(envelope) => Some(envelope),
        // The client only checked that a daemon listens.
        Err(FrameError::Closed) => None,
        Err(FrameError::Io(error)) => {
            tracing::debug!("client: {error}");
            None
        }
        Err(wrong) => {
            let too_long = matches!(wrong, FrameError::OverLimit { .. } | FrameError::TooLong(_));
            let _ = send(writer, &Response::Error(error(ErrorKind::Invalid, wrong))).await;
            if too_long {
                // Closing a socket that has unread bytes discards the answer too: let the client
                // finish and read it.
                let mut nowhere = tokio::io::sink();
                let _ =
                    tokio::time::timeout(REQUEST_MAX, tokio::io::copy(reader, &mut nowhere)).await;
            }
            None
        }
    }
}

/// Waits for the answer; reports progress meanwhile if the client asked for that.
async fn until_answered(
    pending: Pending,
    progress: bool,
    writer: &mut OwnedWriteHalf,
) -> Result<Answer, FrameError> {
    let Pending {
        reading,
        mut answer,
    } = pending;
    loop {
        tokio::select! {
            answered = &mut answer => return Ok(answered),
            () = tokio::time::sleep(PROGRESS_INTERVAL), if progress
                => send(writer, &Response::Progress(reading.now())).await?,
        }
    }
}

/// Sends one message. A message that fits no frame is replaced by an error that says so.
async fn send(writer: &mut OwnedWriteHalf, response: &Response) -> Result<(), FrameError> {
    let bytes = match frame::encode(Format::Json, response) {
        Err(FrameError::TooLong(length)) => {
            let problem = format!(
                "the answer has {length} bytes, and one message at most {}: ask for less at a \
                 time (--limit, --stage, --step)",
                frame::LENGTH_MAX_BYTES
            );
            frame::encode(
                Format::Json,
                &Response::Error(error(ErrorKind::Invalid, problem)),
            )?
        }
        encoded => encoded?,
    };
    let sending = async {
        writer.write_all(&bytes).await?;
        Ok(writer.flush().await?)
    };
    let sent = tokio::time::timeout(ANSWER_MAX, sending).await;
    sent.unwrap_or_else(|_| Err(FrameError::Io(std::io::ErrorKind::TimedOut.into())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::control::LogLine;

    /// `samples --limit 4000000000` of a large step: the error tells the client what to ask
    /// instead.
    #[actix::test]
    async fn an_answer_that_fits_no_message_is_an_error_in_words() {
        let message = "x".repeat(frame::LENGTH_MAX_BYTES as usize);
        let answer = Response::Lines(vec![LogLine {
            at_ms: 0,
            level: "info".into(),
            message,
        }]);
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        send(&mut ours.into_split().1, &answer).await.unwrap();
        let Response::Error(error) = frame::read(&mut theirs, Format::Json).await.unwrap() else {
            panic!("an error")
        };
        assert_eq!(error.kind, ErrorKind::Invalid);
        assert!(error.message.contains("--limit"), "{}", error.message);
    }
}
