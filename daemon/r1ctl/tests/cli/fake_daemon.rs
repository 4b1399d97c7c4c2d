//! A daemon that says what a test wants, over a real socket, in the real frames.

use r1d_proto::control::{Request, Response};
use r1d_proto::frame::{self, Format};
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

/// What the daemon does on a connection, one after the other; the connection closes when nothing is
/// left to do.
pub(crate) enum Act {
    Send(Response),
    Raw(Vec<u8>),
    Pause(Duration),
    /// Says nothing more, and keeps the connection.
    Hang,
    /// The whole daemon goes away: the socket's file stays behind, as after a `kill -9`.
    Die,
}

type Script = dyn Fn(&Request, usize) -> Vec<Act> + Send + Sync;

pub(crate) struct FakeDaemon {
    requests: Arc<Mutex<Vec<Request>>>,
    gone: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl FakeDaemon {
    /// `script` is given the request and how many came before it.
    pub(crate) fn start(
        socket: &Path,
        script: impl Fn(&Request, usize) -> Vec<Act> + Send + Sync + 'static,
    ) -> FakeDaemon {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (requests, gone) = (
            Arc::new(Mutex::new(Vec::new())),
            Arc::new(AtomicBool::new(false)),
        );
        let (script, log, stop): (Arc<Script>, _, _) =
            (Arc::new(script), requests.clone(), gone.clone());
        let accepting = spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (script, log, stop) = (script.clone(), log.clone(), stop.clone());
                        spawn(move || serve(stream, &*script, &log, &stop));
                    }
                    Err(_) => sleep(Duration::from_millis(5)),
                }
            }
        });
        FakeDaemon {
            requests,
            gone,
            accepting: Some(accepting),
        }
    }

    /// One answer to everything.
    pub(crate) fn answering(socket: &Path, response: Response) -> FakeDaemon {
        FakeDaemon::start(socket, move |_, _| vec![Act::Send(response.clone())])
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    pub(crate) fn wait_until_gone(&mut self) {
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap();
        }
    }
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.gone.store(true, Ordering::SeqCst);
        self.wait_until_gone();
    }
}

fn serve(mut stream: UnixStream, script: &Script, log: &Mutex<Vec<Request>>, gone: &AtomicBool) {
    stream.set_nonblocking(false).unwrap();
    // A connection without a request is r1ctl looking whether somebody listens.
    let Ok(request) = frame::read_blocking::<Request>(&mut stream, Format::Json) else {
        return;
    };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.len() - 1
    };
    for act in script(&request, before) {
        // The client may have left: that is its test's business.
        let sent = match act {
            Act::Send(response) => {
                frame::write_blocking(&mut stream, Format::Json, &response).is_ok()
            }
            Act::Raw(bytes) => stream.write_all(&bytes).is_ok(),
            Act::Pause(time) => {
                sleep(time);
                true
            }
            Act::Hang => {
                while !gone.load(Ordering::SeqCst) {
                    sleep(Duration::from_millis(5));
                }
                false
            }
            Act::Die => {
                gone.store(true, Ordering::SeqCst);
                false
            }
        };
        if !sent {
            return;
        }
    }
}
