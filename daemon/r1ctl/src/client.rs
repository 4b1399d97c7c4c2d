//! One question to the daemon, one answer or a stream of them. Every wait has a deadline, which is
//! for silence: a daemon that says that it is at it may take as long as it takes.

use crate::error::Error;
use crate::socket::{Candidate, Tried, reason};
use r1d_proto::control::{Activity, Envelope, REQUEST_MAX_BYTES, Request, Response};
use r1d_proto::frame::{self, Format, FrameError};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A daemon that was found. The protocol takes one request per connection, so this holds a place,
/// not a stream.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    deadline: Duration,
}

impl Client {
    /// Takes the first candidate where a daemon accepts connections.
    pub(crate) async fn find(
        candidates: Vec<Candidate>,
        deadline: Duration,
    ) -> Result<Client, Error> {
        let mut tried = Vec::new();
        for Candidate { path, origin } in candidates {
            match timeout(deadline, UnixStream::connect(&path)).await {
                Ok(Ok(_)) => {
                    return Ok(Client {
                        socket: path,
                        deadline,
                    });
                }
                Ok(Err(error)) => {
                    let reason = reason(&path, &error);
                    tried.push(Tried {
                        path,
                        origin,
                        reason,
                    });
                }
                Err(_) => tried.push(Tried {
                    path,
                    origin,
                    reason: format!("no connection within {} s", deadline.as_secs()),
                }),
            }
        }
        Err(Error::NoDaemon(tried))
    }

    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// Sends a request; its answers are read from what comes back.
    pub(crate) async fn open(&self, request: &Request) -> Result<Answers, Error> {
        self.send(Envelope {
            id: None,
            progress: true,
            request: request.clone(),
        })
        .await
    }

    async fn send(&self, envelope: Envelope) -> Result<Answers, Error> {
        let bytes =
            frame::encode(Format::Json, &envelope).map_err(|source| self.stream_error(source))?;
        let length = bytes.len() - frame::HEADER_BYTES;
        if length > REQUEST_MAX_BYTES as usize {
            let source = FrameError::OverLimit {
                length: u32::try_from(length).unwrap_or(u32::MAX),
                limit: REQUEST_MAX_BYTES,
            };
            return Err(self.stream_error(source));
        }
        let sending = async {
            let mut stream = UnixStream::connect(&self.socket).await?;
            stream.write_all(&bytes).await?;
            stream.flush().await?;
            Ok(stream)
        };
        match timeout(self.deadline, sending).await {
            Ok(Ok(stream)) => Ok(Answers {
                client: self.clone(),
                stream,
            }),
            Ok(Err(source)) => Err(self.stream_error(FrameError::Io(source))),
            Err(_) => Err(self.no_answer()),
        }
    }

    /// Asks what has one answer.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Response, Error> {
        self.open(request).await?.last(|_| ()).await
    }

    /// Asks for something under an id, so that asking again is no second request; `progress` is
    /// told what the daemon is at meanwhile.
    pub(crate) async fn ask_once(
        &self,
        id: String,
        request: &Request,
        progress: impl FnMut(&Activity),
    ) -> Result<Response, Error> {
        let envelope = Envelope {
            id: Some(id),
            progress: true,
            request: request.clone(),
        };
        self.send(envelope).await?.last(progress).await
    }

    /// The answer has a shape that the request does not ask for.
    pub(crate) fn unexpected(&self, request: &Request, answer: &Response) -> Error {
        let socket = self.socket.clone();
        Error::Answer {
            socket,
            request: tag(request, "request"),
            answer: tag(answer, "response"),
        }
    }

    fn no_answer(&self) -> Error {
        Error::NoAnswer {
            socket: self.socket.clone(),
            seconds: self.deadline.as_secs(),
        }
    }

    fn stream_error(&self, source: FrameError) -> Error {
        Error::Stream {
            socket: self.socket.clone(),
            source,
        }
    }
}

/// The answers to one request.
pub(crate) struct Answers {
    client: Client,
    stream: UnixStream,
}

impl Answers {
    /// The one answer, and what the daemon says until it is there.
    async fn last(&mut self, mut progress: impl FnMut(&Activity)) -> Result<Response, Error> {
        let deadline = self.client.deadline;
        loop {
            match timeout(deadline, self.read()).await {
                Ok(Ok(Response::Progress(activity))) => progress(&activity),
                Ok(answer) => return answer,
                Err(_) => return Err(self.client.no_answer()),
            }
        }
    }

    /// The next answer of a stream, or `None` at its end. A stream may rightly be silent for hours
    /// (a queued job), so silence is no error; but after each `deadline` of it the daemon must give
    /// a sign of life.
    pub(crate) async fn next(&mut self) -> Result<Option<Response>, Error> {
        let client = self.client.clone();
        let read = self.read();
        tokio::pin!(read);
        loop {
            match timeout(client.deadline, &mut read).await {
                Ok(Ok(Response::End)) => return Ok(None),
                Ok(answer) => return answer.map(Some),
                Err(_) => client.ask(&Request::Nodes).await?,
            };
        }
    }

    async fn read(&mut self) -> Result<Response, Error> {
        match frame::read(&mut self.stream, Format::Json).await {
            Ok(Response::Error(error)) => Err(Error::Daemon(error)),
            Ok(answer) => Ok(answer),
            Err(source) => Err(self.client.stream_error(source)),
        }
    }
}

/// The name of a message's variant on the wire.
fn tag(message: &impl serde::Serialize, key: &str) -> String {
    let json = serde_json::to_value(message).unwrap_or_default();
    json.get(key)
        .and_then(|tag| tag.as_str())
        .unwrap_or("?")
        .to_owned()
}
