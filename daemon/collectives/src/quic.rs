//! A transport of our own: QUIC between processes, for tensors on the CPU. Each rank has a key of
//! its own, made when the group opens and pinned by the others at the rendezvous, so nobody else's
//! bytes are taken. What it carries is encrypted and checked; it is for small tensors, and for
//! nodes between which nothing but UDP is open.

use crate::backend::{Backend, BackendError};
use crate::bytes;
use crate::rendezvous::Rendezvous;
use futures_util::future::{join_all, try_join, try_join_all};
use r1d_net::{Connection, Endpoint, Fingerprint, Limits, NetError, NodeIdentity, Peers, Stream};
use r1d_proto::world::SharedClock;
use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;
use tch::Tensor;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

/// Most bytes of a message: a longer part goes in several.
const PIECE_BYTES: usize = 1 << 20;
/// A rank whose packets stay away for so long is gone: its process is, or the network.
const IDLE_MAX: Duration = Duration::from_secs(10);
/// Longest time that a rank waits for the others to have all it sent, when it ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// One rank's end of a group over QUIC.
pub struct Quic {
    rank: usize,
    /// What connects this rank with each other; `None` for itself.
    links: Vec<Option<Link>>,
    endpoint: Option<Endpoint>,
    /// Its thread answers the other ranks while this one computes. `None` once it is shut down.
    runtime: Option<Runtime>,
}

/// A connection between two ranks, with a stream for each direction.
struct Link {
    _connection: Connection,
    out: Stream,
    back: Stream,
}

/// Where a rank is reached, and by which key it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Address {
    socket: SocketAddr,
    fingerprint: [u8; 32],
}

impl Quic {
    /// Connects this rank with all others. `host` is the name or address of the interface that this
    /// rank's socket is bound to; the others reach it there. All ranks do this at about the same
    /// time, with a rendezvous on which nothing was done yet, and until the same moment of `clock`.
    pub fn open(
        (rank, size): (usize, usize),
        host: &str,
        rendezvous: &dyn Rendezvous,
        clock: &SharedClock,
        until: Duration,
    ) -> Result<Quic, BackendError> {
        let left = || until.saturating_sub(clock.now());
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("quic")
            .enable_all()
            .build()
            .map_err(|error| BackendError(format!("no runtime for QUIC: {error}")))?;
        let (peers, identity) = (Peers::default(), NodeIdentity::ephemeral()?);
        let mut endpoint = {
            let _within = runtime.enter();
            Endpoint::bind(
                SocketAddr::new(address_of(host)?, 0),
                identity,
                &peers,
                limits(left()),
            )?
        };
        let own = Address {
            socket: endpoint.address()?,
            fingerprint: endpoint.fingerprint().0,
        };
        let others = announce((rank, size), own, &peers, rendezvous, &left)?;
        let connecting = connect(&mut endpoint, rank, &others);
        let links = match runtime.block_on(async { timeout(left(), connecting).await }) {
            Ok(links) => links?,
            Err(_) => return Err(BackendError("not all ranks connected in time".to_owned())),
        };
        Ok(Quic {
            rank,
            links,
            endpoint: Some(endpoint),
            runtime: Some(runtime),
        })
    }

    /// Sends each rank its part, and receives so many bytes of each. Returns them in the order of
    /// ranks.
    fn exchange(
        &mut self,
        parts: &[&[u8]],
        wanted: &[usize],
        limit: Duration,
    ) -> Result<Vec<u8>, BackendError> {
        let Some(runtime) = &self.runtime else {
            return Err(BackendError("the group is closed".to_owned()));
        };
        let each = self.links.iter_mut().zip(parts).zip(wanted).enumerate();
        let moves = each.map(|(rank, ((link, part), wanted))| async move {
            let Some(link) = link else {
                return Ok(part.to_vec());
            };
            let moved = try_join(send(&mut link.out, part), receive(&mut link.back, *wanted)).await;
            match moved {
                Ok(((), bytes)) => Ok(bytes),
                Err(BackendError(why)) => Err(BackendError(format!("rank {rank}: {why}"))),
            }
        });
        let moved = match runtime.block_on(async { timeout(limit, try_join_all(moves)).await }) {
            Ok(received) => received,
            Err(_) => Err(BackendError(format!(
                "not all bytes came within {} ms",
                limit.as_millis()
            ))),
        };
        if moved.is_err() {
            // The others notice a rank that is gone at moments of their own: they fail now, too.
            runtime.block_on(say_farewell(&mut self.links, false));
        }
        Ok(moved?.concat())
    }
}

impl Backend for Quic {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.links.len()
    }

    fn all_to_all(
        &mut self,
        input: &Tensor,
        sent: &[i64],
        output: &mut Tensor,
        received: &[i64],
        limit: Duration,
    ) -> Result<(), BackendError> {
        let input = bytes::vector(input)?;
        let mut rest = input.as_slice();
        let mut parts = Vec::with_capacity(sent.len());
        for length in lengths(sent)? {
            let (part, behind) = rest
                .split_at_checked(length)
                .ok_or_else(|| BackendError("more is sent than there is".to_owned()))?;
            parts.push(part);
            rest = behind;
        }
        let came = self.exchange(&parts, &lengths(received)?, limit)?;
        fill(output, &came)
    }

    fn all_gather(
        &mut self,
        input: &Tensor,
        output: &mut Tensor,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let (size, input) = (self.size(), bytes::vector(input)?);
        let came = self.exchange(&vec![&input[..]; size], &vec![input.len(); size], limit)?;
        fill(output, &came)
    }

    fn broadcast(
        &mut self,
        bytes: &mut Tensor,
        root: usize,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let (size, is_root) = (self.size(), self.rank == root);
        let own = bytes::vector(bytes)?;
        let part: &[u8] = if is_root { &own } else { &[] };
        let mut wanted = vec![0; size];
        wanted[root] = own.len();
        let came = self.exchange(&vec![part; size], &wanted, limit)?;
        fill(bytes, &came)
    }
}

impl Drop for Quic {
    /// Waits until the others have what was sent: they say farewell when they need no more.
    fn drop(&mut self) {
        let (Some(runtime), Some(endpoint)) = (self.runtime.take(), self.endpoint.take()) else {
            return;
        };
        runtime.block_on(say_farewell(&mut self.links, true));
        self.links.clear();
        let _ = runtime.block_on(async { timeout(FAREWELL, endpoint.close()).await });
        runtime.shutdown_background();
    }
}

/// Tells the other ranks that nothing more comes from this one, and `hears` the same of them.
async fn say_farewell(links: &mut [Option<Link>], hears: bool) {
    let farewells = links.iter_mut().flatten().map(|link| async {
        // A rank that is gone already says and hears nothing.
        let _ = link.out.send(&Piece(Vec::new())).await;
        if hears {
            let _ = link.back.receive::<Piece>().await;
        }
    });
    // What lasts longer is given up.
    let _ = timeout(FAREWELL, join_all(farewells)).await;
}

/// Limits of a group's connections. Calls have deadlines of their own, which end earlier.
fn limits(to_open: Duration) -> Limits {
    const LONGEST_CALL: Duration = Duration::from_secs(24 * 3600);
    Limits {
        handshake_deadline: to_open,
        idle_max: IDLE_MAX,
        message_deadline: LONGEST_CALL,
        frame_max_bytes: 2 * PIECE_BYTES as u32,
        streams_max: 2,
        ..Limits::default()
    }
}

fn address_of(host: &str) -> Result<IpAddr, BackendError> {
    let failed = |why: String| BackendError(format!("{host:?} is no host: {why}"));
    let mut found = (host, 0)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?;
    let found = found.next();
    Ok(found.ok_or_else(|| failed("no address".to_owned()))?.ip())
}

/// Tells the others where this rank is, learns where they are, and lets them in. Returns once all
/// that it will connect to let it in too.
fn announce(
    (rank, size): (usize, usize),
    own: Address,
    peers: &Peers,
    rendezvous: &dyn Rendezvous,
    left: &dyn Fn() -> Duration,
) -> Result<Vec<Address>, BackendError> {
    let failed = |error: &dyn fmt::Display| BackendError(error.to_string());
    let own = postcard::to_allocvec(&own).map_err(|e| failed(&e))?;
    let set = |key: String, value: &[u8]| rendezvous.set(&key, value).map_err(|e| failed(&e));
    let get = |key: String| rendezvous.get(&key, left()).map_err(|e| failed(&e));
    set(format!("at/{rank}"), &own)?;
    let mut all = Vec::with_capacity(size);
    for other in 0..size {
        let at: Address =
            postcard::from_bytes(&get(format!("at/{other}"))?).map_err(|e| failed(&e))?;
        peers.allow(Fingerprint(at.fingerprint));
        all.push(at);
    }
    set(format!("lets-in/{rank}"), &[])?;
    for lower in 0..rank {
        get(format!("lets-in/{lower}"))?;
    }
    Ok(all)
}

/// Connects to all ranks with a lower number, and is connected to by those with a higher one.
async fn connect(
    endpoint: &mut Endpoint,
    rank: usize,
    all: &[Address],
) -> Result<Vec<Option<Link>>, BackendError> {
    let mut links: Vec<Option<Link>> = all.iter().map(|_| None).collect();
    for (lower, at) in all.iter().enumerate().take(rank) {
        let peer = Fingerprint(at.fingerprint);
        let connection = endpoint.connect(at.socket, peer).await?;
        let mut out = connection.open().await?;
        // The other side learns of a stream with its first message.
        out.send(&Piece(Vec::new())).await?;
        let back = greeted(&connection).await?;
        links[lower] = Some(Link::new(connection, out, back));
    }
    while links.iter().flatten().count() + 1 < all.len() {
        let connection = endpoint.accept().await;
        let connection = connection.ok_or_else(|| BackendError("the socket closed".to_owned()))?;
        let is_peer = |at: &Address| Fingerprint(at.fingerprint) == connection.peer();
        let Some(higher) = all.iter().position(is_peer) else {
            continue;
        };
        let back = greeted(&connection).await?;
        let mut out = connection.open().await?;
        out.send(&Piece(Vec::new())).await?;
        links[higher] = Some(Link::new(connection, out, back));
    }
    Ok(links)
}

/// The stream that the other rank opened, behind its first message.
async fn greeted(connection: &Connection) -> Result<Stream, NetError> {
    let mut back = connection.accept().await?;
    back.receive::<Piece>().await?;
    Ok(back)
}

impl Link {
    fn new(connection: Connection, out: Stream, back: Stream) -> Link {
        Link {
            _connection: connection,
            out,
            back,
        }
    }
}

async fn send(out: &mut Stream, part: &[u8]) -> Result<(), BackendError> {
    for piece in part.chunks(PIECE_BYTES) {
        out.send(&Piece(piece.to_vec())).await?;
    }
    Ok(())
}

async fn receive(back: &mut Stream, wanted: usize) -> Result<Vec<u8>, BackendError> {
    let mut received = Vec::with_capacity(wanted);
    while received.len() < wanted {
        let Piece(piece) = back.receive().await?;
        if piece.is_empty() {
            return Err(BackendError("it has ended".to_owned()));
        }
        received.extend(piece);
    }
    if received.len() > wanted {
        let came = received.len();
        return Err(BackendError(format!("{came} bytes came, not {wanted}")));
    }
    Ok(received)
}

fn fill(output: &mut Tensor, came: &[u8]) -> Result<(), BackendError> {
    if came.len() != output.numel() {
        let (came, wanted) = (came.len(), output.numel());
        return Err(BackendError(format!("{came} bytes came, not {wanted}")));
    }
    output.f_copy_(&bytes::tensor(came)?)?;
    Ok(())
}

fn lengths(of: &[i64]) -> Result<Vec<usize>, BackendError> {
    let length = |n: &i64| usize::try_from(*n).map_err(|_| BackendError(format!("{n} bytes")));
    of.iter().map(length).collect()
}

impl From<NetError> for BackendError {
    fn from(error: NetError) -> BackendError {
        BackendError(error.to_string())
    }
}

/// Some bytes of a part. One without bytes greets, or says farewell.
struct Piece(Vec<u8>);

impl Serialize for Piece {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Piece {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Piece, D::Error> {
        struct OfBytes;
        impl Visitor<'_> for OfBytes {
            type Value = Piece;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Piece, E> {
                Ok(Piece(bytes.to_vec()))
            }
        }
        deserializer.deserialize_bytes(OfBytes)
    }
}
