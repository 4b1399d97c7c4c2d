//! The UDP socket of a node, and the connections over it.

use crate::NetError;
use crate::identity::{Fingerprint, NodeIdentity, SERVER_NAME};
use crate::limits::Limits;
use crate::peers::{self, Peers};
use crate::stream::{Stream, within};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{EndpointConfig, Incoming, TransportConfig, VarInt};
use rustls::pki_types::CertificateDer;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Code with which a connection is closed that is no longer needed.
const CLOSED: u32 = 0;

/// A node's socket. Its owner calls [`Endpoint::accept`] in a loop.
pub struct Endpoint {
    quic: quinn::Endpoint,
    transport: Arc<TransportConfig>,
    identity: NodeIdentity,
    limits: Limits,
    /// Incoming handshakes, each in a task of its own, so that a stalled peer delays no other.
    /// Dropping the endpoint ends them.
    handshakes: JoinSet<Result<Connection, NetError>>,
}

impl Endpoint {
    /// Binds the socket; must be called within a tokio runtime.
    pub fn bind(
        address: SocketAddr,
        identity: NodeIdentity,
        peers: &Peers,
        limits: Limits,
    ) -> Result<Endpoint, NetError> {
        let failed = |source| NetError::Bind { address, source };
        let tls = QuicServerConfig::try_from(peers::server_config(&identity, peers)?)
            .map_err(|error| NetError::Tls(error.to_string()))?;
        let transport = Arc::new(transport(&limits)?);
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(tls));
        server.transport_config(transport.clone());
        let socket = socket(address, limits.socket_buffer_bytes).map_err(failed)?;
        let runtime = Arc::new(quinn::TokioRuntime);
        let quic = quinn::Endpoint::new(EndpointConfig::default(), Some(server), socket, runtime)
            .map_err(failed)?;
        Ok(Endpoint {
            quic,
            transport,
            identity,
            limits,
            handshakes: JoinSet::new(),
        })
    }

    /// The address bound, with the port that the system chose for port 0.
    pub fn address(&self) -> Result<SocketAddr, NetError> {
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        self.quic.local_addr().map_err(|source| NetError::Bind {
            address: any,
            source,
        })
    }

    /// The fingerprint by which peers know this node.
    pub fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }

    /// Number of incoming handshakes under way.
    pub fn handshakes(&self) -> usize {
        self.handshakes.len()
    }

    /// Connects to the node at `address` whose certificate is `peer`'s. That node may still refuse
    /// this one: then the first message fails.
    pub async fn connect(
        &self,
        address: SocketAddr,
        peer: Fingerprint,
    ) -> Result<Connection, NetError> {
        let failed = |why: String| NetError::Connect { address, why };
        let tls = QuicClientConfig::try_from(peers::client_config(&self.identity, peer)?)
            .map_err(|error| failed(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(tls));
        config.transport_config(self.transport.clone());
        let connecting = self
            .quic
            .connect_with(config, address, SERVER_NAME)
            .map_err(|error| failed(error.to_string()))?;
        shake_hands(connecting, address, &self.limits).await
    }

    /// Waits for the next peer that completes its handshake; `None` once the endpoint is closed. It
    /// never returns peers that are not allowed. The future may be dropped and `accept` called
    /// again at any time.
    pub async fn accept(&mut self) -> Option<Connection> {
        loop {
            tokio::select! {
                incoming = self.quic.accept() => self.begin_handshake(incoming?),
                Some(done) = self.handshakes.join_next() => match done {
                    Ok(Ok(connection)) => return Some(connection),
                    Ok(Err(error)) => tracing::warn!("refused: {error}"),
                    Err(error) => tracing::error!("handshake task: {error}"),
                },
            }
        }
    }

    /// Closes all connections; returns once the peers know.
    pub async fn close(self) {
        self.quic.close(CLOSED.into(), b"");
        self.quic.wait_idle().await;
    }

    fn begin_handshake(&mut self, incoming: Incoming) {
        let under_way = self.handshakes.len();
        if under_way >= self.limits.handshakes_max {
            tracing::warn!(address = %incoming.remote_address(),
                "refused: {under_way} handshakes are under way");
            return incoming.refuse();
        }
        if under_way >= self.limits.handshakes_max / 2
            && incoming.may_retry()
            && !incoming.remote_address_validated()
        {
            // An error means that the peer has been checked before, which is enough.
            let _ = incoming.retry();
            return;
        }
        let (address, limits) = (incoming.remote_address(), self.limits.clone());
        self.handshakes.spawn(async move {
            let connecting = incoming.accept().map_err(|error| NetError::Connect {
                address,
                why: error.to_string(),
            })?;
            shake_hands(connecting, address, &limits).await
        });
    }
}

async fn shake_hands(
    connecting: quinn::Connecting,
    address: SocketAddr,
    limits: &Limits,
) -> Result<Connection, NetError> {
    let failed = |why: String| NetError::Connect { address, why };
    let connected = async { connecting.await.map_err(|error| failed(error.to_string())) };
    let quic = within("the handshake", limits.handshake_deadline, connected).await?;
    let certificates = quic
        .peer_identity()
        .and_then(|identity| identity.downcast::<Vec<CertificateDer<'static>>>().ok());
    let certificate = certificates
        .as_ref()
        .and_then(|chain| chain.first())
        .ok_or_else(|| failed("no certificate".to_string()))?;
    Ok(Connection {
        peer: Fingerprint::of(certificate),
        quic,
        limits: limits.clone(),
    })
}

/// A connection to a peer whose certificate was verified. Dropping the last clone closes it.
#[derive(Clone, Debug)]
pub struct Connection {
    quic: quinn::Connection,
    peer: Fingerprint,
    limits: Limits,
}

impl Connection {
    /// The peer's fingerprint, which was verified.
    pub fn peer(&self) -> Fingerprint {
        self.peer
    }

    /// The peer's address.
    pub fn address(&self) -> SocketAddr {
        self.quic.remote_address()
    }

    /// Opens a stream; the peer's [`Connection::accept`] returns it with its first message.
    pub async fn open(&self) -> Result<Stream, NetError> {
        let opened = async { self.quic.open_bi().await.map_err(|error| self.lost(error)) };
        Ok(Stream::new(
            within("opening a stream", self.limits.message_deadline, opened).await?,
            &self.limits,
        ))
    }

    /// Waits for the next stream that the peer opens, as long as the connection lives: `idle_max`
    /// without a packet ends it.
    pub async fn accept(&self) -> Result<Stream, NetError> {
        Ok(Stream::new(
            self.quic
                .accept_bi()
                .await
                .map_err(|error| self.lost(error))?,
            &self.limits,
        ))
    }

    /// Closes the connection at once, with all its streams.
    pub fn close(&self) {
        self.quic.close(CLOSED.into(), b"");
    }

    fn lost(&self, error: quinn::ConnectionError) -> NetError {
        NetError::Lost {
            address: self.address(),
            why: error.to_string(),
        }
    }
}

fn transport(limits: &Limits) -> Result<TransportConfig, NetError> {
    let mut transport = TransportConfig::default();
    let idle = limits
        .idle_max
        .try_into()
        .map_err(|_| NetError::Tls("idle_max is out of range".to_string()))?;
    transport.max_idle_timeout(Some(idle));
    transport.keep_alive_interval(Some(limits.idle_max / 3));
    transport.max_concurrent_bidi_streams(VarInt::from_u32(limits.streams_max));
    transport.max_concurrent_uni_streams(VarInt::from_u32(0));
    transport.datagram_receive_buffer_size(None);
    Ok(transport)
}

fn socket(address: SocketAddr, buffer_bytes: usize) -> std::io::Result<UdpSocket> {
    let socket = UdpSocket::bind(address)?;
    rustix::net::sockopt::set_socket_recv_buffer_size(&socket, buffer_bytes)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&socket, buffer_bytes)?;
    // The kernel grants at most net.core.rmem_max, and reports twice what it grants.
    let granted = rustix::net::sockopt::socket_recv_buffer_size(&socket)? / 2;
    if granted < buffer_bytes {
        tracing::info!(
            "the kernel grants {granted} of {buffer_bytes} bytes of socket buffer: raise \
             net.core.rmem_max and wmem_max"
        );
    }
    Ok(socket)
}
