//! What users decide about a job's turn: pause, resume, requeue. The decision is in the ledger
//! first; then a run that has the job in hand is stopped.

use super::Jobs;
use crate::actors::run::Stop;
use crate::tasks;
use actix::fut::{ActorFutureExt, wrap_future};
use actix::{Context, Handler, Message, ResponseActFuture};
use r1d_ledger::{Command as LedgerCommand, Effect, LedgerError};
use r1d_proto::control::State;

/// Carries out [`LedgerCommand::Pause`], [`LedgerCommand::Resume`] or [`LedgerCommand::Requeue`].
/// Answers whether a run goes on for a while: until its step in flight is committed.
#[derive(Message)]
#[rtype(result = "Result<bool, LedgerError>")]
pub(crate) struct Decide(pub LedgerCommand);

impl Handler<Decide> for Jobs {
    type Result = ResponseActFuture<Self, Result<bool, LedgerError>>;

    fn handle(&mut self, Decide(command): Decide, _: &mut Self::Context) -> Self::Result {
        let views = self
            .devices
            .first()
            .map(|device| device.run_context.views.clone());
        let job = command.job().clone();
        let applied = async move {
            let Some(views) = views else {
                return Ok(Effect::Resumed);
            };
            let applied = tasks::blocking(move || views.ledger.apply(command)).await;
            applied.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
        };
        Box::pin(wrap_future(applied).then(
            move |effect, jobs: &mut Self, _: &mut Context<Self>| {
                // A run may have the job in hand although it is still queued in the ledger.
                let run = jobs.run_of(&job);
                let leaves_queue = matches!(effect, Ok(Effect::Paused { .. }));
                let gives_up = matches!(
                    &effect,
                    Ok(Effect::Requeued {
                        was: State::Running
                    })
                );
                if leaves_queue || matches!(effect, Ok(Effect::Requeued { .. })) {
                    jobs.lacks_no_more(&job);
                    jobs.lacked.remove(&job);
                    jobs.panics.remove(&job);
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
