//! One request to the daemon, and its answer or stream of answers. Every wait has a deadline for
//! silence: a daemon that reports progress may take as long as it needs.

use crate::error::Error;
use crate::socket::{Candidate, Tried, reason};
use r1d_proto::control::job::Activity;
use r1d_proto::control::{Envelope, REQUEST_MAX_BYTES, Request, Response};
use r1d_proto::frame::{self, Format, FrameError};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// A daemon that was found. The protocol takes one request per connection, so this holds its
/// address, not a stream.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    socket: PathBuf,
    deadline: Duration,
}

impl Client {
    /// Finds the daemon: the first candidate that accepts connections.
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

    /// Sends a request; the answers are read from what it returns.
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

    /// Sends a request that has one answer, and returns the answer.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Response, Error> {
        self.open(request).await?.last(|_| ()).await
    }

    /// Sends a request under an id, so that a retry is not a second request. `progress` is called
    /// with the daemon's progress reports.
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

    /// The error for an answer that does not fit the request.
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
    /// Reads the one answer; passes the progress reports before it to `progress`.
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

    /// The next answer of a stream, or `None` at its end. A stream may be silent for hours (a
    /// queued job), so silence is no error; but after each `deadline` of it the daemon must give a
    /// sign of life.
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
