//! Messages on one bidirectional stream, in [`frame`]s of postcard.

use crate::NetError;
use crate::limits::Limits;
use r1d_proto::frame::{self, Format};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::time::Duration;

/// Code with which a stream is reset whose deadline passes or whose peer breaks the protocol.
const BROKEN: u32 = 1;

/// A stream to one peer. After any error it cannot be used again: both directions are reset.
#[derive(Debug)]
pub struct Stream {
    send: quinn::SendStream,
    receive: quinn::RecvStream,
    deadline: Duration,
    frame_max_bytes: u32,
}

impl Stream {
    pub(crate) fn new(
        (send, receive): (quinn::SendStream, quinn::RecvStream),
        limits: &Limits,
    ) -> Stream {
        Stream {
            send,
            receive,
            deadline: limits.message_deadline,
            frame_max_bytes: limits.frame_max_bytes,
        }
    }

    /// Sends one message. The peer learns of the stream with the first.
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), NetError> {
        let written = within(
            "sending a message",
            self.deadline,
            frame::write(&mut self.send, Format::Postcard, message),
        )
        .await;
        self.checked(written)
    }

    /// Receives one message, which must be complete within the limits' `message_deadline`.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, NetError> {
        let read = frame::read_within(&mut self.receive, Format::Postcard, self.frame_max_bytes);
        let read = within("waiting for a message", self.deadline, read).await;
        self.checked(read)
    }

    /// Ends the sending direction: nothing more will be sent.
    pub fn finish(&mut self) {
        // An error means that the stream is closed already.
        let _ = self.send.finish();
    }

    fn checked<T>(&mut self, result: Result<T, NetError>) -> Result<T, NetError> {
        if !matches!(
            result,
            Ok(_) | Err(NetError::Frame(frame::FrameError::Closed))
        ) {
            // Part of a frame may have been sent: a later message could not be told from its rest.
            // Errors mean that the stream is closed already.
            let _ = self.send.reset(BROKEN.into());
            let _ = self.receive.stop(BROKEN.into());
        }
        result
    }
}

/// Awaits `future`; after `limit` returns an error that names what took longer.
pub(crate) async fn within<T, E>(
    doing: &'static str,
    limit: Duration,
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, NetError>
where
    NetError: From<E>,
{
    match tokio::time::timeout(limit, future).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(NetError::Deadline { doing, limit }),
    }
}
