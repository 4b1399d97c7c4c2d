//! The limits of an endpoint and of everything over it.

use std::time::Duration;

/// Limits of an endpoint and everything over it (`LIM-1`).
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest time that a handshake may take; default 10 s.
    pub handshake_deadline: Duration,
    /// Most incoming handshakes at a time; further ones are refused. From half of this on, a peer
    /// must first show that it receives at its address. Default 64.
    pub handshakes_max: usize,
    /// Longest time that sending or receiving one message may take; default 30 s.
    pub message_deadline: Duration,
    /// Largest payload of one message, in bytes; at most [`r1d_proto::frame::LENGTH_MAX_BYTES`].
    /// Default 16 MiB.
    pub frame_max_bytes: u32,
    /// Most streams that one peer may have open; default 256.
    pub streams_max: u32,
    /// Longest silence before a connection is lost; default 30 s. A keep-alive is sent a third of
    /// it after the last packet.
    pub idle_max: Duration,
    /// Size of each kernel buffer of the socket; default 8 MiB. The usual default of 208 KiB loses
    /// thousands of packets in a bulk transfer.
    pub socket_buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            handshake_deadline: Duration::from_secs(10),
            handshakes_max: 64,
            message_deadline: Duration::from_secs(30),
            frame_max_bytes: 16 << 20,
            streams_max: 256,
            idle_max: Duration::from_secs(30),
            socket_buffer_bytes: 8 << 20,
        }
    }
}
