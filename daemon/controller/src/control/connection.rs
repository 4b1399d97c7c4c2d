//! A connection: reads its request, has it answered, and reports progress meanwhile.

use super::ControlService;
use super::senders::Sender;
use crate::callers;
use crate::node::WorkProgress;
use crate::submissions::ClientAnswer;
use crate::tasks;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use r1d_ledger::limits::SUBMISSION_ID_MAX_BYTES;
use r1d_proto::control::error::{ControlError, ErrorKind};
use r1d_proto::control::{Envelope, REQUEST_MAX_BYTES, Request, Response};
use r1d_proto::frame::{self, Format, FrameError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// Longest time from the connection to the end of the request.
const REQUEST_MAX: Duration = Duration::from_secs(10);
/// Longest time in which a client has to take one answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);
/// Longer requests are decoded on another thread; this many bytes take a few milliseconds.
const DECODED_HERE_MAX_BYTES: usize = 64 << 10;
/// Time between two progress messages to a client that waits for its answer. The shortest timeout
/// that r1ctl accepts is twice as long.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// An answer that a client waits for, and how far the work is.
pub(super) struct Pending {
    pub progress: WorkProgress,
    pub answer: LocalBoxFuture<'static, ClientAnswer>,
}

impl Pending {
    /// An answer that is there.
    pub(super) fn ready(answer: ClientAnswer) -> Pending {
        Pending {
            progress: WorkProgress::default(),
            answer: std::future::ready(answer).boxed_local(),
        }
    }
}

impl ControlService {
    pub(super) async fn serve(self, stream: UnixStream) {
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
        let is_too_long = |id: &String| id.len() > SUBMISSION_ID_MAX_BYTES;
        if id.as_ref().is_some_and(is_too_long) {
            let problem =
                format!("the submission's id has more than {SUBMISSION_ID_MAX_BYTES} bytes");
            return self
                .send_answer(&Err(ControlError::new(ErrorKind::Invalid, problem)), writer)
                .await;
        }
        let sender = match sender {
            Ok(sender) => sender,
            Err(refused) => return self.send_answer(&Err(refused), writer).await,
        };
        match request {
            request @ (Request::Watch { .. } | Request::Logs { .. }) => {
                self.stream(request, sender.owns, writer).await
            }
            request @ Request::Submit { .. } => {
                let mut listener = match self.listen(uid, id, &request).await {
                    Ok(listener) => listener,
                    Err(refused) => return self.send_answer(&Err(refused), writer).await,
                };
                let pending = self.submit(&listener, request, &sender);
                let answered = until_answered(pending, progress, writer).await?;
                let sent = self.send_answer(&answered, writer).await;
                listener.heard = sent.is_ok();
                sent
            }
            request => {
                let pending = self.pending(request, sender);
                let answered = until_answered(pending, progress, writer).await?;
                self.send_answer(&answered, writer).await
            }
        }
    }

    /// Sends an answer. A client that does not take it has to make room for newer clients.
    pub(super) async fn send_answer(
        &self,
        answer: &ClientAnswer,
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

    fn pending(&self, request: Request, sender: Sender) -> Pending {
        let (service, progress) = (self.clone(), WorkProgress::default());
        let at = progress.clone();
        let answer = async move { service.single(request, sender, &at).await };
        Pending {
            progress,
            answer: answer.boxed_local(),
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
            let late = ControlError::new(
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
            let _ = send(
                writer,
                &Response::Error(ControlError::new(ErrorKind::Invalid, wrong)),
            )
            .await;
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
) -> Result<ClientAnswer, FrameError> {
    let Pending {
        progress: at,
        mut answer,
    } = pending;
    loop {
        tokio::select! {
            answered = &mut answer => return Ok(answered),
            () = tokio::time::sleep(PROGRESS_INTERVAL), if progress
                => send(writer, &Response::Progress(at.now())).await?,
        }
    }
}

/// Sends one message. A message that fits no frame is replaced by an error that says so.
pub(super) async fn send(
    writer: &mut OwnedWriteHalf,
    response: &Response,
) -> Result<(), FrameError> {
    let bytes = match frame::encode(Format::Json, response) {
        Err(FrameError::TooLong(length)) => {
            let problem = format!(
                "the answer has {length} bytes, and one message at most {}: ask for less at a \
                 time (--limit, --stage, --step)",
                frame::LENGTH_MAX_BYTES
            );
            frame::encode(
                Format::Json,
                &Response::Error(ControlError::new(ErrorKind::Invalid, problem)),
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
    use r1d_proto::control::content::LogLine;

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
