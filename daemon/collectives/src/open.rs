//! A group by the name of its transport. Before any transport is tried, all ranks say at the
//! rendezvous that they are there and what they are, so that one that is missing, or of another
//! build, is named.

use crate::backend::{Backend, BackendError};
use crate::flight::ranks_of;
use crate::gloo::Gloo;
use crate::nccl::{Api, Nccl};
use crate::process_group::ProcessGroup;
use crate::quic::Quic;
use crate::rendezvous::{Below, Rendezvous, RendezvousError};
use r1d_proto::world::{Clock, SharedClock};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;
use tch::Device;

/// How the bytes of a group travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transport {
    /// libtorch's Gloo: TCP. Tensors on GPUs go through the host's memory.
    Gloo {
        /// The name or address at which the other ranks reach this one.
        host: String,
    },
    /// QUIC, for small tensors on the CPU.
    Quic {
        /// The name or address at which the other ranks reach this one.
        host: String,
    },
    /// NVIDIA's NCCL for tensors on GPUs; Gloo for headers and for tensors on the CPU.
    Nccl {
        /// The name or address at which the other ranks reach this one.
        host: String,
        /// This rank's GPU, which no other rank has.
        device: Device,
    },
}

/// What a rank says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its number in the group, from 0.
    pub rank: usize,
    /// Ranks of the group, as this rank knows it.
    pub size: usize,
    /// What has to be the same on all ranks for their numbers to fit together: the build, the
    /// version of libtorch.
    pub build: String,
}

/// A group that did not come together.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// These ranks did not come in time.
    #[error("group `{group}`: {} did not come within {within:?}", ranks_of(.missing))]
    Missing {
        /// The group.
        group: String,
        /// The ranks that did not come.
        missing: Vec<usize>,
        /// How long they were waited for.
        within: Duration,
    },
    /// A rank is not what this one is.
    #[error(
        "group `{group}`: rank {} is one of {} ranks of build {}, rank {} one of {} of build {}: \
         all ranks of a gang run the same program with the same libtorch",
        .own.rank, .own.size, .own.build, .other.rank, .other.size, .other.build
    )]
    Unlike {
        /// The group.
        group: String,
        /// This rank.
        own: Box<Member>,
        /// The first rank that differs.
        other: Box<Member>,
    },
    /// NCCL was asked for, and this rank's device is no GPU.
    #[error(
        "group `{group}`: transport `nccl` is for GPUs, and this rank has {device:?}: use `gloo`"
    )]
    NotAGpu {
        /// The group.
        group: String,
        /// The rank's device.
        device: Device,
    },
    /// This machine has no NCCL that can be used.
    #[error("group `{group}`: {cause}; or set [parallel] transport = \"gloo\"")]
    NoNccl {
        /// The group.
        group: String,
        /// What is wrong with the library.
        cause: BackendError,
    },
    /// NCCL does not connect these GPUs.
    #[error(
        "group `{group}`: NCCL does not connect the ranks: {cause}: each needs a GPU of its own; \
         [parallel] transport = \"gloo\" connects any devices, more slowly"
    )]
    Nccl {
        /// The group.
        group: String,
        /// The library's own text.
        cause: BackendError,
    },
    /// The transport did not connect the ranks.
    #[error("group `{group}`: the ranks cannot be connected: {cause}")]
    Transport {
        /// The group.
        group: String,
        /// The transport's own text.
        cause: BackendError,
    },
    /// The rendezvous failed.
    #[error("group `{group}`: {cause}")]
    Rendezvous {
        /// The group.
        group: String,
        /// What failed.
        cause: RendezvousError,
    },
}

/// Brings a group together: waits for all ranks, checks that they are alike, and connects them.
/// `name` is unique at the rendezvous (job, epoch, group); all is done `within` this time.
pub fn open(
    name: &str,
    own: &Member,
    transport: &Transport,
    rendezvous: Arc<dyn Rendezvous>,
    clock: SharedClock,
    within: Duration,
) -> Result<ProcessGroup, OpenError> {
    let until = clock.now() + within;
    // What this rank lacks is said before the others are waited for.
    let gpu = gpu_of(name, transport)?;
    let below = Arc::new(Below::new(name, Arc::clone(&rendezvous)));
    let members = meet(name, own, &*below, &*clock, within)?;
    if let Some(other) = members
        .into_iter()
        .find(|m| m.size != own.size || m.build != own.build)
    {
        return Err(OpenError::Unlike {
            group: name.to_owned(),
            own: Box::new(own.clone()),
            other: Box::new(other),
        });
    }
    let host = connect(own, transport, &below, &clock, until);
    let host = host.map_err(|cause| OpenError::Transport {
        group: name.to_owned(),
        cause,
    })?;
    let group = ProcessGroup::new(name, host, rendezvous, clock.clone());
    let Some((device, api)) = gpu else {
        return Ok(group);
    };
    let left = until.saturating_sub(clock.now());
    let (place, store) = ((own.rank, own.size), Below::new("nccl", below));
    let backend = Nccl::open(api, place, device, &store, clock, left);
    let backend = backend.map_err(|cause| OpenError::Nccl {
        group: name.to_owned(),
        cause,
    })?;
    Ok(group.with_gpu(device, Box::new(backend)))
}

/// The GPU whose tensors NCCL carries, and the library; `None` without NCCL.
fn gpu_of(name: &str, transport: &Transport) -> Result<Option<(Device, &'static Api)>, OpenError> {
    let group = name.to_owned();
    match *transport {
        Transport::Gloo { .. } | Transport::Quic { .. } => Ok(None),
        Transport::Nccl { device, .. } if device.is_cuda() => match Api::get() {
            Ok(api) => Ok(Some((device, api))),
            Err(cause) => Err(OpenError::NoNccl { group, cause }),
        },
        Transport::Nccl { device, .. } => Err(OpenError::NotAGpu { group, device }),
    }
}

/// Connects the hosts of the ranks, which have met, until this moment of the clock.
fn connect(
    own: &Member,
    transport: &Transport,
    rendezvous: &Arc<Below>,
    clock: &SharedClock,
    until: Duration,
) -> Result<Box<dyn Backend>, BackendError> {
    let (rank, size) = (own.rank, own.size);
    let below = |name: &str| Below::new(name, rendezvous.clone());
    Ok(match transport {
        Transport::Gloo { host } | Transport::Nccl { host, .. } => {
            let left = until.saturating_sub(clock.now());
            Box::new(Gloo::open(rank, size, host, Arc::new(below("gloo")), left)?)
        }
        Transport::Quic { host } => Box::new(Quic::open(
            (rank, size),
            host,
            &below("quic"),
            clock,
            until,
        )?),
    })
}

/// Says that this rank is there, and waits for all others.
fn meet(
    group: &str,
    own: &Member,
    rendezvous: &dyn Rendezvous,
    clock: &dyn Clock,
    within: Duration,
) -> Result<Vec<Member>, OpenError> {
    let failed = |cause| OpenError::Rendezvous {
        group: group.to_owned(),
        cause,
    };
    let unreadable = |e: postcard::Error| failed(RendezvousError::Unreachable(e.to_string()));
    let key = |rank: usize| format!("member/{rank}");
    let value = postcard::to_allocvec(own).map_err(unreadable)?;
    rendezvous.set(&key(own.rank), &value).map_err(failed)?;
    let until = clock.now() + within;
    let mut members = Vec::with_capacity(own.size);
    let mut missing = Vec::new();
    for rank in 0..own.size {
        let left = until.saturating_sub(clock.now());
        match rendezvous.get(&key(rank), left) {
            Ok(value) => members.push(postcard::from_bytes(&value).map_err(unreadable)?),
            Err(RendezvousError::Absent { .. }) => missing.push(rank),
            Err(error) => return Err(failed(error)),
        }
    }
    if missing.is_empty() {
        return Ok(members);
    }
    Err(OpenError::Missing {
        group: group.to_owned(),
        missing,
        within,
    })
}
