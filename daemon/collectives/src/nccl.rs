//! NVIDIA's NCCL, between GPUs. Its calls do not block, so that each has a deadline: what is not
//! over by then, or has an error, is aborted, and no rank waits for ever.
//!
//! A call is queued on libtorch's stream behind the kernels that make its input, and the host waits
//! for its end: the next header then says that all ranks have got what they should. `ncclCommAbort`
//! ends the kernels of a call whose other ranks are gone.

mod api;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub(crate) use api::Api;

use crate::backend::{Backend, BackendError};
use crate::rendezvous::Rendezvous;
use api::{Comm, Config, ID_BYTES, IN_PROGRESS, Status, Stream, UINT8, UniqueId, shown};
use r1d_proto::world::SharedClock;
use r1d_torch::TorchError;
use r1d_torch::transfer::{Event, stream_of, use_device_of};
use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::thread::{park_timeout, yield_now};
use std::time::Duration;
use tch::{Device, Kind, Tensor};

/// How long a wait looks again and again before it looks now and then.
const EAGER: Duration = Duration::from_millis(1);
/// Time between two looks behind that.
const LOOK_EVERY: Duration = Duration::from_micros(100);
/// How long the end of a group waits for what it has sent to leave.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// The key under which the first rank leaves its version and its id.
const KEY: &str = "id";

impl From<TorchError> for BackendError {
    fn from(error: TorchError) -> BackendError {
        BackendError(error.to_string())
    }
}

/// One rank's end of a group of NCCL's, for tensors on one GPU.
pub(crate) struct Nccl {
    api: &'static Api,
    /// Null behind an abort.
    comm: Comm,
    rank: usize,
    size: usize,
    clock: SharedClock,
}

// SAFETY: a communicator may be used from any thread, by one at a time.
unsafe impl Send for Nccl {}

impl Nccl {
    /// Connects this rank's `device` with those of all others. All ranks do this at about the same
    /// time, with a rendezvous on which nothing was done yet.
    pub(crate) fn open(
        api: &'static Api,
        (rank, size): (usize, usize),
        device: Device,
        rendezvous: &dyn Rendezvous,
        clock: SharedClock,
        limit: Duration,
    ) -> Result<Nccl, BackendError> {
        let number = |n: usize| {
            c_int::try_from(n).map_err(|_| BackendError(format!("{n} is no number of ranks")))
        };
        let (c_rank, c_size) = (number(rank)?, number(size)?);
        let until = clock.now() + limit;
        let id = meet(api, rank, rendezvous, limit)?;
        // Makes the device's context too.
        use_device_of(&Tensor::f_zeros([1], (Kind::Uint8, device))?)?;
        let mut config = Config::without_blocking();
        let mut own = Nccl {
            api,
            comm: null_mut(),
            rank,
            size,
            clock,
        };
        // SAFETY: places for the communicator and of the configuration.
        let begun = unsafe { (api.comm_init)(&mut own.comm, c_size, id, c_rank, &raw mut config) };
        let connected = own.check("ncclCommInitRankConfig", begun);
        if let Err(error) = connected.and_then(|()| own.wait(until, || Ok(true))) {
            own.abort();
            return Err(error);
        }
        Ok(own)
    }

    fn check(&self, call: &str, status: Status) -> Result<(), BackendError> {
        self.api.check(call, status, self.comm)
    }

    /// Makes a call on the stream of `on`'s device, and waits for its end. One that fails is
    /// aborted.
    fn call(
        &mut self,
        on: &Tensor,
        limit: Duration,
        queue: impl FnOnce(&Nccl, Stream) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let until = self.clock.now() + limit;
        let called = self.queued(on, queue).and_then(|()| {
            // Nothing is on the stream before the host's part is over.
            self.wait(until, || Ok(true))?;
            let end = Event::record(on)?;
            self.wait(until, || Ok(end.is_past()?))
        });
        if called.is_err() {
            self.abort();
        }
        called
    }

    fn queued(
        &self,
        on: &Tensor,
        queue: impl FnOnce(&Nccl, Stream) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        if self.comm.is_null() {
            return Err(BackendError("the communicator was aborted".to_owned()));
        }
        let stream = stream_of(on)?;
        // SAFETY: it takes nothing.
        self.check("ncclGroupStart", unsafe { (self.api.group_start)() })?;
        let queued = queue(self, stream);
        // A group that was begun is ended, also behind an error.
        // SAFETY: it takes nothing; what was queued lives until its end is waited for.
        let ended = self.check("ncclGroupEnd", unsafe { (self.api.group_end)() });
        queued.and(ended)
    }

    /// Waits until the host's part of a call is done and `is_over`.
    fn wait(
        &self,
        until: Duration,
        is_over: impl Fn() -> Result<bool, BackendError>,
    ) -> Result<(), BackendError> {
        let begun = self.clock.now();
        loop {
            if !self.is_under_way()? && is_over()? {
                return Ok(());
            }
            let now = self.clock.now();
            if now >= until {
                let took = until.saturating_sub(begun);
                return Err(BackendError(format!("NCCL was not done after {took:.1?}")));
            }
            if now.saturating_sub(begun) < EAGER {
                yield_now();
            } else {
                park_timeout(LOOK_EVERY);
            }
        }
    }

    /// Whether the host's part of a call is not done yet; what failed meanwhile is an error.
    fn is_under_way(&self) -> Result<bool, BackendError> {
        let mut state = IN_PROGRESS;
        // SAFETY: a live communicator, and a place for its state.
        let asked = unsafe { (self.api.comm_get_async_error)(self.comm, &mut state) };
        self.check("ncclCommGetAsyncError", asked)?;
        self.check("NCCL", state)?;
        Ok(state == IN_PROGRESS)
    }

    fn abort(&mut self) {
        let comm = std::mem::replace(&mut self.comm, null_mut());
        if !comm.is_null() {
            // SAFETY: a live communicator, which nobody uses any more. The group is over: an error
            // of its end changes nothing.
            let _ = unsafe { (self.api.comm_abort)(comm) };
        }
    }

    /// Lets what this rank has sent leave.
    fn flush(&self) -> Result<(), BackendError> {
        let until = self.clock.now() + FLUSH_MAX;
        // SAFETY: a live communicator.
        self.check("ncclCommFinalize", unsafe {
            (self.api.comm_finalize)(self.comm)
        })?;
        self.wait(until, || Ok(true))
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.comm.is_null() {
            return;
        }
        if self.flush().is_err() {
            self.abort();
            return;
        }
        // SAFETY: a live communicator without work, destroyed once. An error has no one to go to.
        let _ = unsafe { (self.api.comm_destroy)(self.comm) };
    }
}

/// Brings the ranks of a group together: the id of the first, whose NCCL has the same version as
/// this rank's.
fn meet(
    api: &Api,
    rank: usize,
    rendezvous: &dyn Rendezvous,
    limit: Duration,
) -> Result<UniqueId, BackendError> {
    let failed = |error: &dyn std::fmt::Display| {
        BackendError(format!("the id of rank 0's NCCL is not there: {error}"))
    };
    let own = api.version()?;
    if rank == 0 {
        let mut id = UniqueId([0; ID_BYTES]);
        // SAFETY: a place for an id.
        let made = unsafe { (api.get_unique_id)(&mut id) };
        api.check("ncclGetUniqueId", made, null_mut())?;
        let told = postcard::to_allocvec(&(own, id.0.to_vec())).map_err(|e| failed(&e))?;
        rendezvous.set(KEY, &told).map_err(|e| failed(&e))?;
        return Ok(id);
    }
    let heard = rendezvous.get(KEY, limit).map_err(|e| failed(&e))?;
    let (version, id): (c_int, Vec<u8>) = postcard::from_bytes(&heard).map_err(|e| failed(&e))?;
    if version != own {
        let (first, own) = (shown(version), shown(own));
        return Err(BackendError(format!(
            "rank 0 has NCCL {first}, rank {rank} has {own}"
        )));
    }
    let id = id.try_into().map_err(|_| failed(&"it is too short"))?;
    Ok(UniqueId(id))
}

/// The bytes that a tensor has, which are in one piece.
fn address(tensor: &Tensor) -> *mut c_void {
    tensor.data_ptr()
}

/// Whether parts of these lengths are a whole tensor.
fn fits(parts: &[i64], ranks: usize, tensor: &Tensor) -> bool {
    parts.len() == ranks
        && parts.iter().all(|part| *part >= 0)
        && parts.iter().sum::<i64>() == tensor.numel() as i64
}

impl Backend for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_to_all(
        &mut self,
        input: &Tensor,
        sent: &[i64],
        output: &mut Tensor,
        received: &[i64],
        limit: Duration,
    ) -> Result<(), BackendError> {
        if !fits(sent, self.size, input) || !fits(received, self.size, output) {
            return Err(BackendError("parts of other lengths".to_owned()));
        }
        let (mut from, mut to) = (address(input).cast::<u8>(), address(output).cast::<u8>());
        self.call(input, limit, |own, stream| {
            // Where one rank has nothing for another, neither makes a call.
            for (rank, (sent, received)) in sent.iter().zip(received).enumerate() {
                let (peer, comm) = (rank as c_int, own.comm);
                let (sent, received) = (*sent as usize, *received as usize);
                if sent > 0 {
                    // SAFETY: the parts are within the tensors, which live through the call.
                    let queued = unsafe {
                        (own.api.send)(from.cast_const().cast(), sent, UINT8, peer, comm, stream)
                    };
                    own.check("ncclSend", queued)?;
                }
                if received > 0 {
                    // SAFETY: as above.
                    let queued =
                        unsafe { (own.api.recv)(to.cast(), received, UINT8, peer, comm, stream) };
                    own.check("ncclRecv", queued)?;
                }
                (from, to) = (from.wrapping_add(sent), to.wrapping_add(received));
            }
            Ok(())
        })
    }

    fn all_gather(
        &mut self,
        input: &Tensor,
        output: &mut Tensor,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let each = input.numel();
        if output.numel() != each * self.size {
            return Err(BackendError("parts of other lengths".to_owned()));
        }
        let (from, to) = (address(input), address(output));
        self.call(input, limit, |own, stream| {
            // SAFETY: both tensors live through the call; the output has room for all ranks' parts.
            own.check("ncclAllGather", unsafe {
                (own.api.all_gather)(from, to, each, UINT8, own.comm, stream)
            })
        })
    }

    fn broadcast(
        &mut self,
        bytes: &mut Tensor,
        root: usize,
        limit: Duration,
    ) -> Result<(), BackendError> {
        let (at, length) = (address(bytes), bytes.numel());
        let on = bytes.shallow_clone();
        self.call(&on, limit, |own, stream| {
            let root = root as c_int;
            // SAFETY: the tensor lives through the call, and may be sent from where it arrives.
            own.check("ncclBroadcast", unsafe {
                (own.api.broadcast)(at, at, length, UINT8, root, own.comm, stream)
            })
        })
    }
}
