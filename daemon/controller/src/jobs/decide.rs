//! What users decide about a job: cancel, pause, resume, requeue. The decision is in the ledger
//! first; then a run that has the job in hand is stopped, whether the client stays or not.

use super::Jobs;
use crate::node::NodeLink;
use crate::tasks;
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Context, Handler, Message, ResponseActFuture};
use r1d_ledger::{Command as LedgerCommand, Effect, LedgerError};
use r1d_link::{Order, Work};
use r1d_proto::control::job::State;
use r1d_proto::ids::JobId;
use r1d_runner::schedule::ScheduleEvent;

/// Ends a job for good.
#[derive(Message)]
#[rtype(result = "Result<(), LedgerError>")]
pub(crate) struct Cancel(pub JobId);

/// Carries out [`LedgerCommand::Pause`], [`LedgerCommand::Resume`] or [`LedgerCommand::Requeue`].
/// Answers whether a run goes on for a while: until its step in flight is committed.
#[derive(Message)]
#[rtype(result = "Result<bool, LedgerError>")]
pub(crate) struct Decide(pub LedgerCommand);

/// Has the node write a job's status into its directory, where no run does.
pub(super) async fn leave_status(node: &NodeLink, job: JobId) {
    if let Err(error) = node.ask(Work::LeaveStatus { job: job.clone() }).await {
        let error = error.message;
        tracing::warn!(%job, "its status is not in its directory: {error}");
    }
}

impl Jobs {
    /// Applies the command to the ledger.
    fn apply(
        &self,
        command: LedgerCommand,
    ) -> impl Future<Output = Result<Effect, LedgerError>> + use<> {
        let ledger = self.views.ledger.clone();
        async move {
            let applied = tasks::blocking(move || ledger.apply(command)).await;
            applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        }
    }

    /// Forgets what is remembered of a job that a user has decided about. Returns whether it was
    /// waiting for something outside.
    pub(super) fn decided(&mut self, job: &JobId) -> bool {
        let is_waiting = self.waiting.remove(job);
        self.order(Order::Unwatch { job: job.clone() });
        self.views.live_status.taken(job);
        self.tell(ScheduleEvent::Decided { job: job.clone() });
        is_waiting
    }
}

impl Handler<Cancel> for Jobs {
    type Result = ResponseActFuture<Self, Result<(), LedgerError>>;

    fn handle(&mut self, Cancel(job): Cancel, _: &mut Self::Context) -> Self::Result {
        let at = self.views.clock.unix().as_secs();
        let command = LedgerCommand::Cancel {
            job: job.clone(),
            at,
        };
        Box::pin(wrap_future(self.apply(command)).then(
            move |effect, jobs: &mut Self, _: &mut Context<Self>| {
                let (mut stopped, mut is_waiting) = (None, false);
                if effect.is_ok() {
                    // A run may have the job in hand although it is still queued in the ledger.
                    stopped = jobs.stop(&job, false);
                    is_waiting = jobs.decided(&job);
                }
                let node = jobs.views.node.clone();
                wrap_future(async move {
                    effect?;
                    if is_waiting {
                        leave_status(&node, job).await;
                    }
                    if let Some(stopped) = stopped {
                        stopped.await;
                    }
                    Ok(())
                })
            },
        ))
    }
}

impl Handler<Decide> for Jobs {
    type Result = ResponseActFuture<Self, Result<bool, LedgerError>>;

    fn handle(&mut self, Decide(command): Decide, _: &mut Self::Context) -> Self::Result {
        let job = command.job().clone();
        Box::pin(wrap_future(self.apply(command)).then(
            move |effect, jobs: &mut Self, _: &mut Context<Self>| {
                let leaves_queue = matches!(effect, Ok(Effect::Paused { .. }));
                let gives_up = matches!(
                    &effect,
                    Ok(Effect::Requeued {
                        was: State::Running
                    })
                );
                // A run may have the job in hand although it is still queued in the ledger.
                let stopped = if leaves_queue || gives_up {
                    jobs.stop(&job, leaves_queue)
                } else {
                    None
                };
                if leaves_queue || matches!(effect, Ok(Effect::Requeued { .. })) {
                    jobs.decided(&job);
                }
                wrap_future(async move {
                    effect?;
                    match stopped {
                        Some(_) if leaves_queue => Ok(true),
                        Some(stopped) => {
                            stopped.await;
                            Ok(false)
                        }
                        None => Ok(false),
                    }
                })
            },
        ))
    }
}
