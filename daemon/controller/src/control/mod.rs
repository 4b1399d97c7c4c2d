//! The control socket: one request per connection, answered in a task of its own. [`Admission`]
//! bounds what clients take of the daemon, by kind of request. A request that changes something
//! runs in a task that no connection can drop: it is carried out whether or not its client stays.
//!
//! | module | what it holds |
//! |---|---|
//! | [`connection`] | a connection: its request, its answer |
//! | [`senders`] | who sends a request, and whether they may |
//! | [`answers`] | what each request is answered with |
//! | [`submit`], [`enqueue`] | submissions, which join an equal one that is under way; queueing the job |
//! | [`decisions`], [`removals`] | changes of jobs that are there |
//! | [`streams`] | watches and logs |

mod answers;
mod connection;
mod decisions;
mod enqueue;
mod removals;
mod senders;
mod streams;
mod submit;

use crate::admission::{Admission, Lane};
use crate::jobs::Jobs;
use crate::node::{NodeLink, WorkProgress};
use crate::removal::Removals;
use crate::status::StatusViews;
use crate::submissions::Submissions;
use crate::tasks::{self, Alive, Supervised};
use actix::{Actor, AsyncContext, Context, StreamHandler};
use futures_util::stream;
use r1d_ledger::{FindError, JobRecord};
use r1d_link::{Answer, Work};
use r1d_proto::control::Response;
use r1d_proto::control::error::{ControlError, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// Pause after a failure to accept a client.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

/// What requests are answered from; each connection has a clone.
#[derive(Clone)]
pub(crate) struct ControlService {
    pub views: StatusViews,
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

impl ControlService {
    fn node(&self) -> &NodeLink {
        &self.views.node
    }

    fn find(&self, prefix: &str) -> Result<Arc<JobRecord>, ControlError> {
        let id = self.views.ledger.find(prefix).map_err(unknown)?;
        let record = self.views.ledger.job(&id);
        record.ok_or_else(|| ControlError::internal(format!("job `{id}` has no record")))
    }

    /// Has the node do a work for a client, a user's of this id, in its turn, and answers what it
    /// does. The work ends early if the client leaves.
    async fn read(
        &self,
        (room, uid): (&Lane, u32),
        progress: &WorkProgress,
        work: Work,
    ) -> Result<Response, ControlError> {
        let turn = room.enter(uid)?.await?;
        response(self.node().ask_in_turn(work, turn, progress).await?)
    }

    /// Carries out a change, in the turn of the user of this id, in a task that goes on if the
    /// client leaves.
    async fn change<F: Future<Output = Result<Response, ControlError>>>(
        &self,
        (room, uid): (&Lane, u32),
        work: impl FnOnce(ControlService) -> F + 'static,
    ) -> Result<Response, ControlError> {
        let (service, turn) = (self.clone(), room.enter(uid)?);
        let changing = tasks::spawn("change", async move {
            let _turn = turn.await?;
            work(service).await
        });
        changing.await.map_err(ControlError::internal)?
    }
}

fn unknown(found: FindError) -> ControlError {
    let kind = match &found {
        FindError::NotFound { .. } | FindError::Name { .. } | FindError::Empty => {
            ErrorKind::NotFound
        }
        FindError::Ambiguous { .. } => ErrorKind::Ambiguous,
    };
    ControlError::new(kind, found)
}

/// The node's answer, where it is the client's.
fn response(answer: Answer) -> Result<Response, ControlError> {
    match answer {
        Answer::Response(response) => Ok(response),
        other => Err(crate::node::unexpected(&other)),
    }
}
