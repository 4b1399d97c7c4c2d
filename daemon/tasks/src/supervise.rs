//! The supervisor of the daemon's actors. actix's own does not catch panics: an actor whose handler
//! panicked is gone for good. This one makes it anew from a factory, a bounded number of times.

use actix::dev::ToEnvelope;
use actix::{Actor, Addr, Context, Handler, Message};
use r1d_proto::world::SharedClock;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// Messages that may wait for an actor (`LIM-1`). Sends are awaited, so a slow actor holds its
/// askers back instead of filling memory.
pub const MAILBOX_MAX_MESSAGES: usize = 64;
/// More restarts of one actor than this within [`WINDOW`] end the daemon; systemd then starts a
/// fresh one and nothing durable is lost.
const RESTARTS_MAX: usize = 10;
const WINDOW: Duration = Duration::from_secs(60);
const BACKOFF: Duration = Duration::from_millis(200);

/// Held by an actor; its drop tells the supervisor that the actor is gone.
pub struct Alive(#[allow(dead_code, reason = "its drop is the message")] oneshot::Sender<()>);

/// The address of the current incarnation of a supervised actor.
pub struct Supervised<A: Actor> {
    current: watch::Receiver<Option<Addr<A>>>,
}

impl<A: Actor> Clone for Supervised<A> {
    fn clone(&self) -> Self {
        Supervised {
            current: self.current.clone(),
        }
    }
}

/// The actor has just panicked, and its successor is not there yet.
#[derive(Debug, thiserror::Error)]
#[error("{0} is being started again: try once more")]
pub struct Restarting(&'static str);

impl<A: Actor<Context = Context<A>>> Supervised<A> {
    /// Sends a message and awaits the answer.
    pub async fn ask<M>(&self, name: &'static str, message: M) -> Result<M::Result, Restarting>
    where
        A: Handler<M>,
        A::Context: ToEnvelope<A, M>,
        M: Message + Send + 'static,
        M::Result: Send,
    {
        let address = self.current.borrow().clone().ok_or(Restarting(name))?;
        address.send(message).await.map_err(|_| Restarting(name))
    }
}

/// Keeps an actor alive. `make` is called for the first incarnation and after every end; the actor
/// must hold the [`Alive`].
pub fn supervise<A>(
    name: &'static str,
    clock: SharedClock,
    mut make: impl FnMut(Alive, &mut Context<A>) -> A + 'static,
) -> Supervised<A>
where
    A: Actor<Context = Context<A>>,
{
    let (addresses, current) = watch::channel(None);
    let mut start = move || {
        let (alive, gone) = oneshot::channel();
        let address = A::create(|context| {
            context.set_mailbox_capacity(MAILBOX_MAX_MESSAGES);
            make(Alive(alive), context)
        });
        (address, gone)
    };
    // The first one starts at once, so that the address is always valid.
    let (address, mut gone) = start();
    addresses.send_replace(Some(address));
    crate::spawn("supervisor", async move {
        let mut ends = VecDeque::new();
        loop {
            let _ = gone.await;
            if addresses.is_closed() {
                return;
            }
            addresses.send_replace(None);
            let now = clock.now();
            ends.push_back(now);
            while ends
                .front()
                .is_some_and(|end| now.saturating_sub(*end) > WINDOW)
            {
                ends.pop_front();
            }
            tracing::error!(
                actor = name,
                ends = ends.len(),
                "actor ended (see the panic before this line); it is started again"
            );
            if ends.len() >= RESTARTS_MAX {
                tracing::error!(
                    actor = name,
                    "ended {RESTARTS_MAX} times within {} s: the daemon gives up",
                    WINDOW.as_secs()
                );
                std::process::exit(70);
            }
            tokio::time::sleep(BACKOFF).await;
            let (address, next) = start();
            gone = next;
            addresses.send_replace(Some(address));
        }
    });
    Supervised { current }
}

#[cfg(test)]
mod tests {
    use super::*;
    use r1d_proto::world::SystemClock;

    struct Fragile {
        incarnation: u32,
        _alive: Alive,
    }

    impl Actor for Fragile {
        type Context = Context<Self>;
    }

    #[derive(Message)]
    #[rtype(result = "u32")]
    struct Ask {
        panic: bool,
    }

    impl Handler<Ask> for Fragile {
        type Result = u32;

        fn handle(&mut self, ask: Ask, _: &mut Self::Context) -> u32 {
            assert!(!ask.panic, "planted");
            self.incarnation
        }
    }

    #[test]
    fn an_actor_that_panicked_is_made_anew() {
        actix::System::new().block_on(async {
            let mut incarnation = 0;
            let fragile = supervise("fragile", SystemClock::shared(), move |alive, _| {
                incarnation += 1;
                Fragile {
                    incarnation,
                    _alive: alive,
                }
            });
            assert_eq!(
                fragile.ask("fragile", Ask { panic: false }).await.unwrap(),
                1
            );
            assert!(fragile.ask("fragile", Ask { panic: true }).await.is_err());
            let second = loop {
                match fragile.ask("fragile", Ask { panic: false }).await {
                    Ok(incarnation) => break incarnation,
                    Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            };
            assert_eq!(second, 2);
        });
    }
}
