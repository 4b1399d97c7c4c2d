//! Ranks that call collectives together. See the crate's documentation for the contract.

use crate::backend::{Backend, BackendError};
use crate::bytes;
use crate::call::{Call, DIMENSIONS_MAX, HEADER_BYTES, Header, Operation, Signature};
use crate::flight::{Blame, Entry, Recorder, ask_around};
use crate::rendezvous::{Below, Rendezvous};
use crate::staged::Staged;
use crate::watch::{Current, Watch};
use r1d_proto::world::SharedClock;
use std::sync::Arc;
use std::time::Duration;
use tch::{Device, Tensor};

/// A collective that did not do what it should. The group is over with it, except after
/// [`CollectiveError::Refused`], where nothing was moved and the other ranks wait.
#[derive(Debug, thiserror::Error)]
pub enum CollectiveError {
    /// A rank made another call than this one. All ranks of the group get this error.
    #[error("group `{group}`: rank {rank} calls {own}, rank {other_rank} calls {other}")]
    Mismatch {
        /// The group.
        group: String,
        /// This rank.
        rank: usize,
        /// This rank's call.
        own: Box<Signature>,
        /// The first rank whose call is another.
        other_rank: usize,
        /// That rank's call.
        other: Box<Signature>,
    },
    /// Bytes did not come or go in time, or a connection broke.
    #[error("group `{group}`, rank {rank}: {call} failed after {took:.1?}: {blame} ({cause})")]
    Failed {
        /// The group.
        group: String,
        /// This rank.
        rank: usize,
        /// The call.
        call: Box<Signature>,
        /// How long the call had lasted.
        took: Duration,
        /// The ranks that it waited for, as far as reports tell.
        blame: Blame,
        /// The transport's own text.
        cause: String,
    },
    /// An earlier call failed: the group is over.
    #[error("group `{group}` is over since an earlier call failed: {first}")]
    Over {
        /// The group.
        group: String,
        /// The first failure.
        first: String,
    },
    /// The ranks do not agree on which rows of a sum are whose.
    #[error(
        "group `{group}`: `{call}`: {counts:?} rows came from the ranks, {due} of each are due"
    )]
    Split {
        /// The group.
        group: String,
        /// The call's name.
        call: String,
        /// Rows that came, by rank.
        counts: Vec<i64>,
        /// Rows that this rank takes from each.
        due: i64,
    },
    /// The caller's tensors do not fit the call. Nothing was moved.
    #[error("{call} of group `{group}`: {reason}")]
    Refused {
        /// The group.
        group: String,
        /// The call's name.
        call: String,
        /// What does not fit.
        reason: String,
    },
    /// An operation of libtorch around the call failed.
    #[error(transparent)]
    Torch(#[from] tch::TchError),
}

/// The rows that came to a rank, in the order of ranks.
#[derive(Debug)]
pub struct Received {
    /// All rows, `[Σ counts, row…]`, in the senders' dtype.
    pub rows: Tensor,
    /// How many of them came from each rank.
    pub counts: Vec<i64>,
}

/// What a rank's calls came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes that this rank sent to others, with the headers of its calls.
    pub sent_bytes: u64,
    /// Time in calls: that of moving bytes, and of waiting for other ranks.
    pub time: Duration,
}

impl Traffic {
    /// What was added to what it was `before`.
    pub fn since(self, before: Traffic) -> Traffic {
        Traffic {
            sent_bytes: self.sent_bytes.saturating_sub(before.sent_bytes),
            time: self.time.saturating_sub(before.time),
        }
    }
}

impl std::ops::Add for Traffic {
    type Output = Traffic;

    fn add(self, other: Traffic) -> Traffic {
        Traffic {
            sent_bytes: self.sent_bytes.saturating_add(other.sent_bytes),
            time: self.time.saturating_add(other.time),
        }
    }
}

/// The ranks that call collectives together, as one of them sees it.
pub struct ProcessGroup {
    name: String,
    /// Carries headers, tensors of the host, and without [`OnGpu`] all others.
    host: Box<dyn Backend>,
    gpu: Option<OnGpu>,
    rendezvous: Arc<Below>,
    clock: SharedClock,
    recorder: Recorder,
    sequence: u64,
    traffic: Traffic,
    current: Current,
    over: Option<String>,
}

/// What carries the tensors on this rank's GPU.
struct OnGpu {
    device: Device,
    backend: Box<dyn Backend>,
}

/// A call that all ranks have begun alike.
struct Begun {
    /// Rows that each rank has for this one.
    counts: Vec<i64>,
    /// When the call has to be over, by the group's clock.
    until: Duration,
}

impl ProcessGroup {
    /// A group over a backend of the host, whose ranks are connected. `name` is unique at the
    /// rendezvous: it says which job, which epoch and which ranks. Tensors on GPUs go through the
    /// host.
    pub fn new(
        name: &str,
        host: Box<dyn Backend>,
        rendezvous: Arc<dyn Rendezvous>,
        clock: SharedClock,
    ) -> ProcessGroup {
        ProcessGroup {
            name: name.to_owned(),
            host,
            gpu: None,
            rendezvous: Arc::new(Below::new(name, rendezvous)),
            clock,
            recorder: Recorder::default(),
            sequence: 0,
            traffic: Traffic::default(),
            current: Current::default(),
            over: None,
        }
    }

    /// The same group, whose tensors on `device` another backend carries, which connects the same
    /// ranks. Every rank has one, each for a GPU of its own.
    pub fn with_gpu(self, device: Device, backend: Box<dyn Backend>) -> ProcessGroup {
        let gpu = Some(OnGpu { device, backend });
        ProcessGroup { gpu, ..self }
    }

    /// This rank's number in the group, from 0.
    pub fn rank(&self) -> usize {
        self.host.rank()
    }

    /// Ranks of the group.
    pub fn size(&self) -> usize {
        self.host.size()
    }

    #[cfg(test)]
    pub(crate) fn host(&mut self) -> &mut dyn Backend {
        &mut *self.host
    }

    /// Moves tensors on a device.
    fn carry(
        &mut self,
        device: Device,
        moved: impl FnOnce(&mut dyn Backend) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        match (device, &mut self.gpu) {
            (Device::Cpu, _) => moved(&mut *self.host),
            (_, Some(gpu)) => moved(&mut *gpu.backend),
            (_, None) => moved(&mut Staged(&mut *self.host)),
        }
    }

    /// The group's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Looks at this rank's calls from another thread.
    pub fn watch(&self) -> Watch {
        Watch {
            current: self.current.clone(),
            rendezvous: Arc::clone(&self.rendezvous),
            clock: self.clock.clone(),
            rank: self.rank(),
            size: self.size(),
            told: None,
        }
    }

    /// What this rank's calls have come to so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// The last calls, the newest last.
    pub fn flight(&self) -> impl Iterator<Item = &Entry> {
        self.recorder.entries()
    }

    /// Sends consecutive rows of `tensor` `[Σ sent, row…]` to the ranks, `sent[r]` of them to rank
    /// r, and gets what they have for this rank. Row shape and dtype are the same on all ranks.
    pub fn all_to_all(
        &mut self,
        call: Call,
        tensor: &Tensor,
        sent: &[i64],
    ) -> Result<Received, CollectiveError> {
        let row = self.row_of(call, tensor)?;
        let rows: i64 = sent.iter().sum();
        if sent.len() != self.size() || sent.iter().any(|n| *n < 0) || rows != tensor.size()[0] {
            let (size, shape) = (self.size(), tensor.size());
            return Err(self.refused(
                call,
                format!("{sent:?} does not split {shape:?} into rows for {size} ranks"),
            ));
        }
        let begun = self.begin(call, Operation::AllToAll, Some(tensor), &row, sent)?;
        let width = bytes::in_row(&row, tensor.kind());
        let mut moved = || -> Result<Tensor, BackendError> {
            let of = (tensor.kind(), tensor.device());
            let rows = bytes::rows(begun.counts.iter().sum(), &row, of)?;
            let in_bytes = |counts: &[i64]| counts.iter().map(|n| n * width).collect::<Vec<_>>();
            let (sent, received) = (in_bytes(sent), in_bytes(&begun.counts));
            let (input, mut output) = (bytes::of(tensor)?, bytes::of(&rows)?);
            let left = left(&self.clock, begun.until);
            self.carry(of.1, |backend| {
                backend.all_to_all(&input, &sent, &mut output, &received, left)
            })?;
            Ok(rows)
        };
        let moved = moved();
        let rows = self.end(moved)?;
        let counts = begun.counts;
        Ok(Received { rows, counts })
    }

    /// Gets the rows `[n, row…]` of all ranks, in the order of ranks. Row shape and dtype are the
    /// same on all ranks; the number of rows may differ, and be 0.
    pub fn all_gather(&mut self, call: Call, tensor: &Tensor) -> Result<Received, CollectiveError> {
        let row = self.row_of(call, tensor)?;
        let own = vec![tensor.size()[0]; self.size()];
        let begun = self.begin(call, Operation::AllGather, Some(tensor), &row, &own)?;
        let moved = self.gather(tensor, &row, &begun);
        let rows = self.end(moved)?;
        let counts = begun.counts;
        Ok(Received { rows, counts })
    }

    /// Moves the rows of an all-gather: at once where all ranks have as many, else rank by rank.
    fn gather(
        &mut self,
        tensor: &Tensor,
        row: &[i64],
        begun: &Begun,
    ) -> Result<Tensor, BackendError> {
        let counts = &begun.counts;
        let device = tensor.device();
        let rows = bytes::rows(counts.iter().sum(), row, (tensor.kind(), device))?;
        let width = bytes::in_row(row, tensor.kind());
        if counts.iter().all(|n| n * width == 0) {
            return Ok(rows);
        }
        let input = bytes::of(tensor)?;
        let mut output = bytes::of(&rows)?;
        if counts.iter().all(|n| *n == counts[0]) {
            let left = left(&self.clock, begun.until);
            self.carry(device, |backend| {
                backend.all_gather(&input, &mut output, left)
            })?;
            return Ok(rows);
        }
        let mut at = 0;
        for (rank, count) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
            let mut part = output.f_narrow(0, at, count * width)?;
            if rank == self.rank() {
                part.f_copy_(&input)?;
            }
            let left = left(&self.clock, begun.until);
            self.carry(device, |backend| backend.broadcast(&mut part, rank, left))?;
            at += count * width;
        }
        Ok(rows)
    }

    /// Fills `tensor`, which has the same shape and dtype on all ranks and is contiguous, with what
    /// it is on rank `root`.
    pub fn broadcast(
        &mut self,
        call: Call,
        tensor: &mut Tensor,
        root: usize,
    ) -> Result<(), CollectiveError> {
        let shape = tensor.size();
        self.takes(call, tensor)?;
        if root >= self.size() || !tensor.is_contiguous() {
            let reason = format!(
                "rank {root} of {} ranks, {shape:?} in one piece",
                self.size()
            );
            return Err(self.refused(call, reason));
        }
        let none = vec![0; self.size()];
        let operation = Operation::Broadcast { root };
        let begun = self.begin(call, operation, Some(tensor), &shape, &none)?;
        let mut moved = || -> Result<(), BackendError> {
            if tensor.numel() == 0 {
                return Ok(());
            }
            let left = left(&self.clock, begun.until);
            let mut bytes = bytes::of(tensor)?;
            self.carry(tensor.device(), |backend| {
                backend.broadcast(&mut bytes, root, left)
            })
        };
        let moved = moved();
        self.end(moved)
    }

    /// Returns when all ranks have made this call.
    pub fn barrier(&mut self, call: Call) -> Result<(), CollectiveError> {
        let none = vec![0; self.size()];
        self.begin(call, Operation::Barrier, None, &[], &none)?;
        self.end(Ok(()))
    }

    /// An error for arguments that do not fit.
    pub(crate) fn refused(&self, call: Call, reason: String) -> CollectiveError {
        CollectiveError::Refused {
            group: self.name.clone(),
            call: call.name.to_owned(),
            reason,
        }
    }

    /// Ends the group: the ranks split a tensor of a sum in different ways.
    pub(crate) fn split_unlike(
        &mut self,
        call: Call,
        counts: Vec<i64>,
        due: i64,
    ) -> CollectiveError {
        self.end_group(CollectiveError::Split {
            group: self.name.clone(),
            call: call.name.to_owned(),
            counts,
            due,
        })
    }

    /// The shape of the tensor's rows.
    fn row_of(&self, call: Call, tensor: &Tensor) -> Result<Vec<i64>, CollectiveError> {
        self.takes(call, tensor)?;
        match tensor.size().split_first() {
            Some((_, row)) => Ok(row.to_vec()),
            None => Err(self.refused(call, "a scalar has no rows".to_owned())),
        }
    }

    /// Checks what the group asks of a tensor.
    fn takes(&self, call: Call, tensor: &Tensor) -> Result<(), CollectiveError> {
        let device = tensor.device();
        let own = self.gpu.as_ref().map(|gpu| gpu.device);
        if let Some(own) = own.filter(|own| ![Device::Cpu, *own].contains(&device)) {
            let reason = format!("a tensor on {device:?}, where the group's ranks have {own:?}");
            return Err(self.refused(call, reason));
        }
        if tensor.dim() > DIMENSIONS_MAX {
            let reason = format!("more than {DIMENSIONS_MAX} dimensions: {:?}", tensor.size());
            return Err(self.refused(call, reason));
        }
        Ok(())
    }

    /// Tells each rank which call this one makes and how many rows it has for it, and checks that
    /// all make the same call.
    fn begin(
        &mut self,
        call: Call,
        operation: Operation,
        tensor: Option<&Tensor>,
        row: &[i64],
        rows: &[i64],
    ) -> Result<Begun, CollectiveError> {
        if let Some(first) = &self.over {
            return Err(CollectiveError::Over {
                group: self.name.clone(),
                first: first.clone(),
            });
        }
        self.sequence += 1;
        let signature = Signature::new(self.sequence, call.name, operation, tensor, row);
        self.traffic.sent_bytes += self.bytes_to_others(operation, tensor, row, rows);
        let now = self.clock.now();
        self.recorder.begin(signature.clone(), now);
        self.current.begin(signature.clone(), now);
        let until = now + call.within;
        let told = self.tell(&signature, rows, until);
        let headers = match told {
            Ok(headers) => headers,
            Err(error) => return Err(self.failed(error)),
        };
        match headers.iter().position(|h| h.signature != signature) {
            None => Ok(Begun {
                counts: headers.iter().map(|h| h.rows).collect(),
                until,
            }),
            Some(other_rank) => {
                self.current.end();
                self.recorder.end(false, self.clock.now());
                let error = CollectiveError::Mismatch {
                    group: self.name.clone(),
                    rank: self.rank(),
                    own: Box::new(signature),
                    other_rank,
                    other: Box::new(headers[other_rank].signature.clone()),
                };
                Err(self.end_group(error))
            }
        }
    }

    /// The bytes that this rank sends to others in a call, with its headers.
    fn bytes_to_others(
        &self,
        operation: Operation,
        tensor: Option<&Tensor>,
        row: &[i64],
        rows: &[i64],
    ) -> u64 {
        let (rank, others) = (self.rank(), self.size().saturating_sub(1) as u64);
        let width = tensor.map_or(0, |tensor| bytes::in_row(row, tensor.kind()));
        let moved = match operation {
            Operation::Broadcast { root } if root == rank => others * width as u64,
            _ => {
                let to_others = rows.iter().enumerate().filter(|(to, _)| *to != rank);
                to_others.map(|(_, rows)| (rows * width) as u64).sum()
            }
        };
        moved + others * HEADER_BYTES as u64
    }

    /// Exchanges headers with all ranks.
    fn tell(
        &mut self,
        signature: &Signature,
        rows: &[i64],
        until: Duration,
    ) -> Result<Vec<Header>, BackendError> {
        let mut sent = Vec::with_capacity(rows.len() * HEADER_BYTES);
        for rows in rows {
            let (signature, rows) = (signature.clone(), *rows);
            sent.extend(Header { signature, rows }.encode()?);
        }
        let sent = bytes::tensor(&sent)?;
        let mut received = sent.f_empty_like()?;
        let each = vec![HEADER_BYTES as i64; rows.len()];
        let left = left(&self.clock, until);
        self.host
            .all_to_all(&sent, &each, &mut received, &each, left)?;
        let received = bytes::vector(&received)?;
        received
            .chunks_exact(HEADER_BYTES)
            .map(Header::decode)
            .collect()
    }

    /// Ends the call that is under way.
    fn end<T>(&mut self, moved: Result<T, BackendError>) -> Result<T, CollectiveError> {
        match moved {
            Ok(value) => {
                self.current.end();
                self.traffic.time += self.recorder.end(true, self.clock.now());
                Ok(value)
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Ends the call under way as failed, and finds out whom it waited for.
    fn failed(&mut self, error: BackendError) -> CollectiveError {
        self.current.end();
        let took = self.recorder.end(false, self.clock.now());
        let Some(call) = self.recorder.entries().last().map(|e| e.signature.clone()) else {
            return self.end_group(CollectiveError::Over {
                group: self.name.clone(),
                first: error.to_string(),
            });
        };
        let (rank, size) = (self.rank(), self.size());
        let cause = error.to_string();
        let clock = &*self.clock;
        let blame = ask_around(&*self.rendezvous, clock, rank, size, &call, &cause);
        let error = CollectiveError::Failed {
            group: self.name.clone(),
            rank,
            call: Box::new(call),
            took,
            blame,
            cause,
        };
        self.end_group(error)
    }

    fn end_group(&mut self, error: CollectiveError) -> CollectiveError {
        self.over.get_or_insert(error.to_string());
        error
    }
}

/// The time that a call has left. Never 0, which would be no limit at all for some transports.
fn left(clock: &SharedClock, until: Duration) -> Duration {
    const LEAST: Duration = Duration::from_millis(1);
    until.saturating_sub(clock.now()).max(LEAST)
}
