//! A rendezvous over a Unix socket, as a daemon would carry it for its workers: one call for each
//! connection.

use r1d_collectives::rendezvous::{Rendezvous, RendezvousError, Shared};
use serde::{Deserialize, Serialize};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How much longer than the call itself its answer may take.
const ANSWER: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
enum Asked {
    Set(String, Vec<u8>),
    Get(String, Duration),
    Add(String, i64),
}

#[derive(Serialize, Deserialize)]
enum Answered {
    Value(Vec<u8>),
    Sum(i64),
    Failed(RendezvousError),
}

/// Serves a rendezvous at this path, on threads that end with the process.
pub(crate) fn serve(path: &Path) {
    let shared = Arc::new(Shared::default());
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (shared, stream) = (Arc::clone(&shared), stream.unwrap());
            // A rank that was killed in between has no answer.
            std::thread::spawn(move || answer(&shared, stream).ok());
        }
    });
}

fn answer(shared: &Shared, mut stream: UnixStream) -> std::io::Result<()> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    let answered = match postcard::from_bytes(&bytes).map_err(std::io::Error::other)? {
        Asked::Set(key, value) => shared
            .set(&key, &value)
            .map(|()| Answered::Value(Vec::new())),
        Asked::Get(key, within) => shared.get(&key, within).map(Answered::Value),
        Asked::Add(key, amount) => shared.add(&key, amount).map(Answered::Sum),
    };
    let answered = answered.unwrap_or_else(Answered::Failed);
    let bytes = postcard::to_allocvec(&answered).map_err(std::io::Error::other)?;
    stream.write_all(&bytes)
}

/// The rendezvous that is served at a path.
pub(crate) struct Served {
    path: PathBuf,
}

impl Served {
    pub(crate) fn at(path: PathBuf) -> Served {
        Served { path }
    }

    fn ask(&self, asked: &Asked, within: Duration) -> Result<Answered, RendezvousError> {
        let called = || -> std::io::Result<Answered> {
            let mut stream = UnixStream::connect(&self.path)?;
            stream.set_read_timeout(Some(within + ANSWER))?;
            stream.write_all(&postcard::to_allocvec(asked).map_err(std::io::Error::other)?)?;
            stream.shutdown(Shutdown::Write)?;
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes)?;
            postcard::from_bytes(&bytes).map_err(std::io::Error::other)
        };
        match called() {
            Ok(Answered::Failed(error)) => Err(error),
            Ok(answered) => Ok(answered),
            Err(error) => Err(RendezvousError::Unreachable(error.to_string())),
        }
    }
}

impl Rendezvous for Served {
    fn set(&self, key: &str, value: &[u8]) -> Result<(), RendezvousError> {
        let asked = Asked::Set(key.to_owned(), value.to_vec());
        self.ask(&asked, Duration::ZERO).map(|_| ())
    }

    fn get(&self, key: &str, within: Duration) -> Result<Vec<u8>, RendezvousError> {
        match self.ask(&Asked::Get(key.to_owned(), within), within)? {
            Answered::Value(value) => Ok(value),
            _ => Err(RendezvousError::Unreachable("no value came".to_owned())),
        }
    }

    fn add(&self, key: &str, amount: i64) -> Result<i64, RendezvousError> {
        match self.ask(&Asked::Add(key.to_owned(), amount), Duration::ZERO)? {
            Answered::Sum(sum) => Ok(sum),
            _ => Err(RendezvousError::Unreachable("no sum came".to_owned())),
        }
    }
}
