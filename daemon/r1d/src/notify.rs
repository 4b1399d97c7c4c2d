//! Messages to systemd (sd_notify(3)): datagrams to the socket that `NOTIFY_SOCKET` names. Without
//! that variable, nothing is sent.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

pub(crate) const READY: &str = "READY=1";
pub(crate) const STOPPING: &str = "STOPPING=1";
pub(crate) const WATCHDOG: &str = "WATCHDOG=1";

/// Sends one message. A failure is only logged: a service that cannot report is still a service.
pub(crate) fn send(message: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let name = name.as_encoded_bytes();
    let sent = UnixDatagram::unbound().and_then(|socket| {
        let address = match name.strip_prefix(b"@") {
            Some(abstract_name) => SocketAddr::from_abstract_name(abstract_name)?,
            None => SocketAddr::from_pathname(String::from_utf8_lossy(name).as_ref())?,
        };
        socket.send_to_addr(message.as_bytes(), &address)
    });
    if let Err(error) = sent {
        tracing::warn!("cannot tell systemd {message}: {error}");
    }
}

/// Interval between two [`WATCHDOG`] messages: half of systemd's timeout. `None` if there is no
/// watchdog.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    let micros: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (micros > 0).then(|| Duration::from_micros(micros / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the variable is what is tested")]
    fn a_message_reaches_the_socket_that_the_environment_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        // SAFETY: no other test of this binary reads or writes this variable.
        unsafe { std::env::set_var("NOTIFY_SOCKET", &path) };
        send(READY);
        let mut buffer = [0; 32];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1");
    }
}
