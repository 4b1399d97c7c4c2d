//! What users decide about a job: cancel, pause, resume, requeue. The decision is in the ledger
//! first; then a run that has the job in hand is stopped, whether the client stays or not.

use super::Jobs;
use crate::actors::run::{Stop, leave_status};
use crate::tasks;
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Context, Handler, Message, ResponseActFuture};
use r1d_ledger::{Command as LedgerCommand, Effect, LedgerError};
use r1d_proto::control::State;
use r1d_proto::ids::JobId;
use r1d_store::JobLayout;

/// Ends a job for good.
#[derive(Message)]
#[rtype(result = "Result<(), LedgerError>")]
pub(crate) struct Cancel(pub JobId);

/// Carries out [`LedgerCommand::Pause`], [`LedgerCommand::Resume`] or [`LedgerCommand::Requeue`].
/// Answers whether a run goes on for a while: until its step in flight is committed.
#[derive(Message)]
#[rtype(result = "Result<bool, LedgerError>")]
pub(crate) struct Decide(pub LedgerCommand);

impl Jobs {
    /// Applies the command to the ledger; `None` without a device, and so without a ledger.
    fn apply(
        &self,
        command: LedgerCommand,
    ) -> impl Future<Output = Result<Option<Effect>, LedgerError>> + use<> {
        let views = self.views().cloned();
        async move {
            let Some(views) = views else {
                return Ok(None);
            };
            let applied = tasks::blocking(move || views.ledger.apply(command)).await;
            let applied =
                applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()));
            applied.map(Some)
        }
    }
}

impl Handler<Cancel> for Jobs {
    type Result = ResponseActFuture<Self, Result<(), LedgerError>>;

    fn handle(&mut self, Cancel(job): Cancel, _: &mut Self::Context) -> Self::Result {
        let at = self.views().map_or(0, |views| views.clock.unix().as_secs());
        let command = LedgerCommand::Cancel {
            job: job.clone(),
            at,
        };
        Box::pin(wrap_future(self.apply(command)).then(
            move |effect, jobs: &mut Self, context: &mut Context<Self>| {
                // A run may have the job in hand although it is still queued in the ledger.
                let run = jobs.run_of(&job);
                let mut waited = None;
                if effect.is_ok() {
                    jobs.halt(|running| *running == job);
                    waited = jobs.decided(&job, context);
                }
                wrap_future(async move {
                    effect?;
                    if let Some(views) = waited {
                        let outputs = JobLayout::of(&views.state_dir, &job);
                        leave_status(views, job, outputs).await;
                    }
                    if let Some(run) = run {
                        let _ = run.send(Stop { after_step: false }).await;
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
            move |effect, jobs: &mut Self, context: &mut Context<Self>| {
                // A run may have the job in hand although it is still queued in the ledger.
                let run = jobs.run_of(&job);
                let leaves_queue = matches!(effect, Ok(Some(Effect::Paused { .. })));
                let gives_up = matches!(
                    &effect,
                    Ok(Some(Effect::Requeued {
                        was: State::Running
                    }))
                );
                if leaves_queue || matches!(effect, Ok(Some(Effect::Requeued { .. }))) {
                    jobs.decided(&job, context);
                }
                if gives_up {
                    jobs.halt(|running| *running == job);
                }
                wrap_future(async move {
                    effect?;
                    match run {
                        Some(run) if leaves_queue => {
                            let stopping = run.send(Stop { after_step: true });
                            tasks::spawn("pause", async move {
                                let _ = stopping.await;
                            });
                            Ok(true)
                        }
                        Some(run) if gives_up => {
                            let _ = run.send(Stop { after_step: false }).await;
                            Ok(false)
                        }
                        _ => Ok(false),
                    }
                })
            },
        ))
    }
}
