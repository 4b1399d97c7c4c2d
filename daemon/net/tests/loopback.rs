//! Two or three nodes over real sockets on the loopback interface.

use r1d_net::{Connection, Endpoint, Fingerprint, Limits, NetError, NodeIdentity, Peers};
use r1d_proto::frame::FrameError;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::UdpSocket;

/// A node with an identity of its own; `peers` are those that it lets in.
struct Node {
    endpoint: Endpoint,
    peers: Peers,
    address: SocketAddr,
    fingerprint: Fingerprint,
}

fn node_with(limits: Limits) -> Node {
    let dir = tempfile::tempdir().unwrap();
    let identity = NodeIdentity::open(&dir.path().join("node.pem")).unwrap();
    let (peers, fingerprint) = (Peers::default(), identity.fingerprint());
    let endpoint = Endpoint::bind(
        SocketAddr::from(([127, 0, 0, 1], 0)),
        identity,
        &peers,
        limits,
    )
    .unwrap();
    let address = endpoint.address().unwrap();
    Node {
        endpoint,
        peers,
        address,
        fingerprint,
    }
}

fn node() -> Node {
    node_with(Limits::default())
}

/// A server that answers each message with the number of its letters, and what it saw.
async fn serve(mut endpoint: Endpoint) {
    while let Some(connection) = endpoint.accept().await {
        let mut stream = connection.accept().await.unwrap();
        let text: String = stream.receive().await.unwrap();
        stream.send(&(text, connection.peer().0)).await.unwrap();
        stream.finish();
        // The peer closes when it has its answer.
        let _ = connection.accept().await;
    }
}

async fn ask(connection: &Connection, text: &str) -> Result<(String, [u8; 32]), NetError> {
    let mut stream = connection.open().await?;
    stream.send(&text).await?;
    stream.receive().await
}

#[tokio::test]
async fn an_allowed_peer_exchanges_messages_and_each_knows_the_other() {
    let (server, client) = (node(), node());
    server.peers.allow(client.fingerprint);
    let serving = tokio::task::JoinSet::from_iter([serve(server.endpoint)]);
    let connection = client
        .endpoint
        .connect(server.address, server.fingerprint)
        .await
        .unwrap();
    assert_eq!(connection.peer(), server.fingerprint);
    let long = "x".repeat(3 << 20);
    assert_eq!(
        ask(&connection, &long).await.unwrap(),
        (long, client.fingerprint.0)
    );
    drop(serving);
}

#[tokio::test]
async fn an_unknown_certificate_is_refused_before_any_byte() {
    let (mut server, known, stranger) = (node(), node(), node());
    server.peers.allow(known.fingerprint);
    let (address, fingerprint) = (server.address, server.fingerprint);
    let refused = async {
        // The stranger's own side of the handshake may be complete before it is told: its first
        // message fails at the latest.
        match stranger.endpoint.connect(address, fingerprint).await {
            Ok(connection) => ask(&connection, "let me in").await.unwrap_err(),
            Err(error) => error,
        }
    };
    let admitted = async {
        let error = refused.await;
        assert!(
            matches!(
                error,
                NetError::Connect { .. } | NetError::Lost { .. } | NetError::Frame(_)
            ),
            "{error}"
        );
        known.endpoint.connect(address, fingerprint).await.unwrap()
    };
    // The first connection that comes out is the known peer's, though the stranger came first.
    let (accepted, _connection) = tokio::join!(server.endpoint.accept(), admitted);
    assert_eq!(accepted.unwrap().peer(), known.fingerprint);
}

#[tokio::test]
async fn a_server_with_another_certificate_is_refused_by_the_client() {
    let (server, client) = (node(), node());
    server.peers.allow(client.fingerprint);
    let (address, other) = (server.address, client.fingerprint);
    let _serving = tokio::task::JoinSet::from_iter([serve(server.endpoint)]);
    let error = client.endpoint.connect(address, other).await.unwrap_err();
    assert!(matches!(error, NetError::Connect { .. }), "{error}");
}

#[tokio::test]
async fn a_revoked_peer_does_not_come_back_in() {
    let (server, client) = (node(), node());
    server.peers.allow(client.fingerprint);
    let (address, fingerprint, peers) = (server.address, server.fingerprint, server.peers.clone());
    let _serving = tokio::task::JoinSet::from_iter([serve(server.endpoint)]);
    let connection = client.endpoint.connect(address, fingerprint).await.unwrap();
    ask(&connection, "hello").await.unwrap();
    connection.close();
    peers.revoke(&client.fingerprint);
    let again = match client.endpoint.connect(address, fingerprint).await {
        Ok(connection) => ask(&connection, "hello again").await.map(drop),
        Err(error) => Err(error),
    };
    assert!(again.is_err());
}

/// A peer that sends the first packet of a handshake to `server` and then falls silent.
async fn stall(server: SocketAddr, client: &Endpoint, fingerprint: Fingerprint) {
    let (catch, pass) = (
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
        UdpSocket::bind("127.0.0.1:0").await.unwrap(),
    );
    let mut packet = vec![0u8; 2048];
    let address = catch.local_addr().unwrap();
    tokio::select! {
        _ = client.connect(address, fingerprint) => panic!("nobody answers at {address}"),
        received = catch.recv(&mut packet) => packet.truncate(received.unwrap()),
    }
    pass.send_to(&packet, server).await.unwrap();
}

#[tokio::test]
async fn stalled_handshakes_hold_up_nobody() {
    let limits = Limits {
        handshake_deadline: Duration::from_secs(120),
        ..Limits::default()
    };
    let (mut server, client) = (node_with(limits), node());
    server.peers.allow(client.fingerprint);
    let (address, fingerprint) = (server.address, server.fingerprint);
    for _ in 0..3 {
        stall(address, &client.endpoint, fingerprint).await;
    }
    // The client's own handshake deadline of 10 s fails the test should the server wait for one of
    // the others first.
    let (accepted, connected) = tokio::join!(
        server.endpoint.accept(),
        client.endpoint.connect(address, fingerprint)
    );
    assert_eq!(accepted.unwrap().peer(), client.fingerprint);
    connected.unwrap();
    assert_eq!(server.endpoint.handshakes(), 3);
}

#[tokio::test]
async fn a_stalled_handshake_ends_at_its_deadline() {
    let limits = Limits {
        handshake_deadline: Duration::from_millis(300),
        ..Limits::default()
    };
    let (mut server, client) = (node_with(limits), node());
    server.peers.allow(client.fingerprint);
    stall(server.address, &client.endpoint, server.fingerprint).await;
    let (mut seen, mut waited) = (false, 0);
    while !(seen && server.endpoint.handshakes() == 0) {
        let _ = tokio::time::timeout(Duration::from_millis(20), server.endpoint.accept()).await;
        seen |= server.endpoint.handshakes() == 1;
        waited += 1;
        assert!(waited < 1000, "the handshake is still there");
    }
}

#[tokio::test]
async fn handshakes_beyond_the_limit_are_refused() {
    let limits = Limits {
        handshake_deadline: Duration::from_secs(120),
        handshakes_max: 2,
        ..Limits::default()
    };
    let (mut server, client) = (node_with(limits), node());
    server.peers.allow(client.fingerprint);
    let (address, fingerprint) = (server.address, server.fingerprint);
    for _ in 0..5 {
        stall(address, &client.endpoint, fingerprint).await;
    }
    for _ in 0..20 {
        let _ = tokio::time::timeout(Duration::from_millis(5), server.endpoint.accept()).await;
        assert!(server.endpoint.handshakes() <= 2);
    }
    // Peers that cannot receive at their address do not take up the last places.
    let (accepted, connected) = tokio::join!(
        server.endpoint.accept(),
        client.endpoint.connect(address, fingerprint)
    );
    assert_eq!(accepted.unwrap().peer(), client.fingerprint);
    connected.unwrap();
}

#[tokio::test]
async fn a_message_over_the_limit_is_refused_and_ends_the_stream() {
    let small = Limits {
        frame_max_bytes: 1000,
        ..Limits::default()
    };
    let (mut server, client) = (node_with(small), node());
    server.peers.allow(client.fingerprint);
    let (address, fingerprint) = (server.address, server.fingerprint);
    let (accepted, connected) = tokio::join!(
        server.endpoint.accept(),
        client.endpoint.connect(address, fingerprint)
    );
    let (accepted, connected) = (accepted.unwrap(), connected.unwrap());
    let receive = async {
        let mut stream = accepted.accept().await.unwrap();
        let first: String = stream.receive().await.unwrap();
        let second = stream.receive::<String>().await;
        (first, second, stream)
    };
    let send = async {
        let mut stream = connected.open().await.unwrap();
        stream.send(&"fits").await.unwrap();
        stream.send(&"x".repeat(1001)).await.unwrap();
        // What follows the refused message could be made to look like one: the receiver must have
        // shut the stream.
        for _ in 0..1000 {
            if stream.send(&"more").await.is_err() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        false
    };
    let ((first, second, _stream), stopped) = tokio::join!(receive, send);
    assert_eq!(first, "fits");
    assert!(
        matches!(
            second,
            Err(NetError::Frame(FrameError::OverLimit { limit: 1000, .. }))
        ),
        "{second:?}"
    );
    assert!(stopped, "the sender was let go on");
}

#[tokio::test]
async fn a_peer_that_says_nothing_meets_the_deadline() {
    let limits = Limits {
        message_deadline: Duration::from_millis(200),
        ..Limits::default()
    };
    let (mut server, client) = (node(), node_with(limits));
    server.peers.allow(client.fingerprint);
    let (address, fingerprint) = (server.address, server.fingerprint);
    let (accepted, connected) = tokio::join!(
        server.endpoint.accept(),
        client.endpoint.connect(address, fingerprint)
    );
    let (_accepted, connected) = (accepted.unwrap(), connected.unwrap());
    let error = ask(&connected, "anybody?").await.unwrap_err();
    assert!(
        matches!(
            error,
            NetError::Deadline {
                doing: "waiting for a message",
                ..
            }
        ),
        "{error}"
    );
}
