//! Connections between nodes over QUIC; each node is known by the hash of its certificate.
//!
//! | module | what it holds |
//! |---|---|
//! | [`identity`] | a node's key and certificate, and the fingerprint that pins it |
//! | [`peers`] | the fingerprints that may connect, and the TLS configurations that admit no others |
//! | [`limits`] | how long, how many and how large anything on the network may be |
//! | [`endpoint`] | the UDP socket: connecting, and accepting without ever waiting for one peer |
//! | [`stream`] | one message after the other in [`r1d_proto::frame`]s, with a deadline and a limit on each |
//!
//! `NET-1`: no byte is acted on before its sender's certificate is verified. Both sides present
//! one, there is no 0-RTT data and no session resumption (either would act on an old verification),
//! and a connection is handed out only after the handshake is complete.

#![warn(clippy::too_many_lines)]

pub mod endpoint;
pub mod identity;
pub mod limits;
pub mod peers;
pub mod stream;

pub use endpoint::{Connection, Endpoint};
pub use identity::{Fingerprint, NodeIdentity};
pub use limits::Limits;
pub use peers::Peers;
pub use stream::Stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Why something on the network failed.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// The file of the node's identity cannot be read or written, or others may read it.
    #[error("{}: {source}", .path.display())]
    IdentityFile {
        /// The file.
        path: PathBuf,
        /// The file system's error, or which mode the file needs.
        source: std::io::Error,
    },
    /// The file holds no identity: put a copy back, or move it away to make a new one, which every
    /// peer must then allow.
    #[error("{}: {what}; move it away to make a new identity, which every peer must then be told \
             of", .path.display())]
    Identity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, in words.
        what: String,
    },
    /// A fingerprint is not 64 hexadecimal digits.
    #[error("`{text}` is not a certificate fingerprint: 64 hexadecimal digits")]
    Fingerprint {
        /// The text that should be one.
        text: String,
    },
    /// The socket cannot be bound: the address is in use, not this machine's, or not allowed.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: std::io::Error,
    },
    /// TLS cannot be set up with this identity or these limits.
    #[error("tls configuration: {0}")]
    Tls(String),
    /// The handshake with a peer failed: it is not there, speaks another protocol, or one side does
    /// not allow the other's certificate.
    #[error("no connection to {address}: {why}")]
    Connect {
        /// The peer's address.
        address: SocketAddr,
        /// The reason, in words.
        why: String,
    },
    /// A connection has ended: the peer closed it or was silent for [`Limits::idle_max`].
    #[error("connection to {address} is lost: {why}")]
    Lost {
        /// The peer's address.
        address: SocketAddr,
        /// The reason, in words.
        why: String,
    },
    /// Something took longer than its limit in [`Limits`].
    #[error("{doing} took longer than {} ms", .limit.as_millis())]
    Deadline {
        /// What it was, in words.
        doing: &'static str,
        /// The limit.
        limit: Duration,
    },
    /// A message was not sent or not received whole; the stream is of no more use.
    #[error(transparent)]
    Frame(#[from] r1d_proto::frame::FrameError),
}
