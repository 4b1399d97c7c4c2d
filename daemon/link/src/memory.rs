//! The link between a controller and a node in one process: two queues.
//!
//! Where `R1D_STRICT=1` each message is encoded and decoded on its way, as it will be where
//! controller and node are two processes: what its encoding does not carry, the receiver does not
//! see.

use crate::message::Message;
use crate::order::Order;
use crate::report::Report;
use r1d_proto::frame::{self, Format, FrameError, HEADER_BYTES};
use r1d_proto::invariant;
use r1d_proto::invariant::is_strict;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::Notify;

/// Messages of one direction that may wait (`LIM-1`). The receivers take messages all the time, and
/// of live status only the newest waits: this is more than jobs and clients can cause.
pub const WAITING_MAX_MESSAGES: usize = 65_536;
/// Exit status of a process that would lose a message (sysexits' EX_SOFTWARE).
pub const EXIT_OVERFLOW: i32 = 70;

/// The controller's end of a link.
pub struct ControllerEnd {
    /// Takes what goes to the node.
    pub orders: Outbox<Order>,
    /// Has what comes from the node.
    pub reports: Inbox<Report>,
}

/// The node's end of a link.
pub struct NodeEnd {
    /// Has what comes from the controller.
    pub orders: Inbox<Order>,
    /// Takes what goes to the controller.
    pub reports: Outbox<Report>,
}

/// Makes the link between a controller and a node of the same process.
pub fn in_memory() -> (ControllerEnd, NodeEnd) {
    let ((to_node, orders), (to_controller, reports)) = (channel(), channel());
    let controller = ControllerEnd {
        orders: to_node,
        reports,
    };
    let node = NodeEnd {
        orders,
        reports: to_controller,
    };
    (controller, node)
}

/// Makes the two ends of one direction.
pub fn channel<M: Message>() -> (Outbox<M>, Inbox<M>) {
    let waiting = Arc::new(Waiting {
        messages: Mutex::default(),
        arrived: Notify::new(),
    });
    (Outbox(waiting.clone()), Inbox(waiting))
}

struct Waiting<M> {
    messages: Mutex<VecDeque<M>>,
    arrived: Notify,
}

impl<M> Waiting<M> {
    fn lock(&self) -> MutexGuard<'_, VecDeque<M>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes messages for the other side, in order.
pub struct Outbox<M>(Arc<Waiting<M>>);

impl<M> Clone for Outbox<M> {
    fn clone(&self) -> Self {
        Outbox(self.0.clone())
    }
}

impl<M: Message> Outbox<M> {
    /// Sends a message. Never waits; ends the process if as many wait as may.
    pub fn send(&self, message: M) {
        let message = if is_strict() {
            as_encoded(message)
        } else {
            message
        };
        let mut waiting = self.0.lock();
        if message.may_replace() {
            waiting.retain(|earlier| !message.replaces(earlier));
        }
        if waiting.len() >= WAITING_MAX_MESSAGES {
            drop(waiting);
            overflow::<M>();
        }
        waiting.push_back(message);
        drop(waiting);
        self.0.arrived.notify_one();
    }
}

/// Ends the process. A message that is lost would be missed for ever (an end, and its device gets
/// no job again), while systemd starts a fresh daemon and nothing durable is lost.
fn overflow<M>() -> ! {
    let kind = std::any::type_name::<M>();
    invariant!(
        "LIM-1",
        false,
        "{WAITING_MAX_MESSAGES} messages between controller and node were not taken, and now a \
         {kind}: the daemon ends"
    );
    std::process::exit(EXIT_OVERFLOW)
}

/// The messages of the other side. It may be handed on to another reader, one at a time.
pub struct Inbox<M>(Arc<Waiting<M>>);

impl<M> Clone for Inbox<M> {
    fn clone(&self) -> Self {
        Inbox(self.0.clone())
    }
}

impl<M: Message> Inbox<M> {
    /// Waits for the next message. A message is lost to nobody if the wait is dropped.
    pub async fn next(&self) -> M {
        loop {
            // Ask for the notice first: a message may arrive between the look and the wait.
            let arrived = self.0.arrived.notified();
            if let Some(message) = self.0.lock().pop_front() {
                return message;
            }
            arrived.await;
        }
    }
}

/// The message as the other side reads it. One that fits no frame arrives as it is: what such an
/// answer becomes is decided where it leaves for its client.
fn as_encoded<M: Message>(message: M) -> M {
    let encoded = match frame::encode(Format::Json, &message) {
        Ok(encoded) => encoded,
        Err(FrameError::TooLong(_)) => return message,
        Err(error) => return unlike(message, &error.to_string()),
    };
    let payload = encoded.get(HEADER_BYTES..).unwrap_or_default();
    match frame::decode(Format::Json, payload) {
        Ok(decoded) => decoded,
        Err(error) => unlike(message, &error.to_string()),
    }
}

fn unlike<M>(message: M, error: &str) -> M {
    let kind = std::any::type_name::<M>();
    invariant!(
        "LNK-1",
        false,
        "a {kind} does not survive its encoding: {error}"
    );
    message
}
