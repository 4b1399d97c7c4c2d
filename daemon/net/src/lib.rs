//! Nodes that speak to each other over QUIC, each known by the hash of its certificate.
//!
//! | module | what it holds |
//! |---|---|
//! | [`identity`] | a node's key and certificate, and the fingerprint that pins it |
//! | [`peers`] | the fingerprints that may connect, and the TLS configurations that admit no others |
//! | [`endpoint`] | the UDP socket: connecting, and accepting without ever waiting for one peer |
//! | [`stream`] | one message after the other in [`r1d_proto::frame`]s, with a deadline and a limit on each |
//!
//! `NET-1`: no byte is acted on before its sender's certificate is verified. Both sides present
//! one, there is no 0-RTT data and no session resumption (either would act on an old verification),
//! and a connection is handed out only after the handshake is complete.

pub mod endpoint;
pub mod identity;
pub mod peers;
pub mod stream;

pub use endpoint::{Connection, Endpoint, Limits};
pub use identity::{Fingerprint, NodeIdentity};
pub use peers::Peers;
pub use stream::Stream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum NetError {
    #[error("{}: {source}", .path.display())]
    IdentityFile {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{}: {what}; move it away to make a new identity, which every peer must then be told \
             of", .path.display())]
    Identity { path: PathBuf, what: String },
    #[error("`{text}` is not a certificate fingerprint: 64 hexadecimal digits")]
    Fingerprint { text: String },
    #[error("cannot listen on {address}: {source}")]
    Bind {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("tls configuration: {0}")]
    Tls(String),
    #[error("no connection to {address}: {why}")]
    Connect { address: SocketAddr, why: String },
    #[error("connection to {address} is lost: {why}")]
    Lost { address: SocketAddr, why: String },
    #[error("{doing} took longer than {} ms", .limit.as_millis())]
    Deadline {
        doing: &'static str,
        limit: Duration,
    },
    #[error(transparent)]
    Frame(#[from] r1d_proto::frame::FrameError),
}
