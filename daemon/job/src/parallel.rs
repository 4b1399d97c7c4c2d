//! `[parallel]`: how a job is spread over devices.

use crate::error::JobError;
use crate::file::setting::by_words;
use crate::file::{Fields, Kind};
use r1d_job_macros::{Keys, Read, Write};
use r1d_parallel::layout::RANKS_MAX;
use r1d_parallel::micro_batches::LEAVES;
use r1d_parallel::{Layout, LayoutError};
use r1d_proto::worker::{Shard, Transport};

by_words!(Shard, Transport);

/// Most ranks of each kind.
const FACTOR_MAX: i64 = RANKS_MAX as i64;

/// How a job is spread over devices of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(
    path = "parallel",
    check = check,
    meaning = "How a job is spread over devices: `data` × `expert` of them, each with a worker. \
               In this release jobs run on several CPU devices; of GPUs, and with \
               shard = \"parameters\", `r1ctl plan` says what each device would hold, and \
               `r1ctl submit` refuses them. A factor that is left out is chosen when the job is \
               submitted and recorded with it, so that the job takes all devices of its node; \
               without the table it takes one."
)]
pub struct Parallel {
    /// Copies of the model; of its experts, copies of each shard. `None` until it is chosen.
    #[key(
        takes = Kind::Integer { min: 1, max: FACTOR_MAX },
        unset = "the devices of the node, divided by `expert`; 1 where one is a GPU",
        unit = "copies",
        meaning = "Copies of the model, each of which takes a part of a step's tokens. Of a model \
                   whose experts are cut into shards: copies of each shard."
    )]
    data: Option<u32>,
    /// Shards of the experts. `None` until it is chosen.
    #[key(
        takes = Kind::Integer { min: 1, max: FACTOR_MAX },
        unset = "the most that the devices of the node and the experts of all stages' models \
                 allow; 1 where a stage's model is dense or drafts, or a device is a GPU",
        unit = "shards",
        meaning = "Shards that the experts of each layer are cut into, one on each device; a \
                   token goes to the devices that have its experts. A divisor of the number of \
                   experts."
    )]
    expert: Option<u32>,
    /// What the copies share beside the work.
    #[key(
        default = "none",
        meaning = "What copies of the same weights share instead of each having it (ZeRO): \
                   \"none\", the \"optimizer\"'s moments and float32 weights, or all \
                   \"parameters\" with their gradients and optimizer."
    )]
    pub shard: Shard,
    /// How bytes travel between devices.
    #[key(
        unset = "gloo between CPU devices, nccl between GPUs",
        meaning = "How bytes travel between devices: libtorch's \"gloo\" (CPU devices), \
                   \"nccl\" (GPUs), or \"quic\" (CPU devices; small models alone, of which a \
                   device sends 64 MB in an update at most)."
    )]
    pub transport: Option<Transport>,
    /// Whether any number of devices gives the same bits.
    #[key(
        default = false,
        meaning = "Whether 1, 2, 4, 8, … devices end with the same weights to the bit: gradients \
                   are added along one tree, and devices that share experts take turns. float32, \
                   one thread a device, `batch_invariant` where completions are drawn; `data` × \
                   `expert` is a power of two up to 8."
    )]
    pub layout_independent: bool,
}

impl Parallel {
    /// The settings of a job without the table, which takes one device.
    pub(crate) const ONE: Parallel = Parallel {
        data: Some(1),
        expert: Some(1),
        shard: Shard::None,
        transport: None,
        layout_independent: false,
    };

    /// Copies of the model; of its experts, copies of each shard. 1 until it is chosen.
    pub fn data(&self) -> u32 {
        self.data.unwrap_or(1)
    }

    /// Shards of the experts. 1 until it is chosen.
    pub fn expert(&self) -> u32 {
        self.expert.unwrap_or(1)
    }

    /// The word of `shard` in a job file.
    pub fn shard_word(&self) -> &'static str {
        match self.shard {
            Shard::None => "none",
            Shard::Optimizer => "optimizer",
            Shard::Parameters => "parameters",
        }
    }

    /// The layout of the job's gang.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        Layout::new(self.data() as usize, self.expert() as usize)
    }

    /// Devices that the job takes.
    pub fn devices(&self) -> u64 {
        u64::from(self.data()) * u64::from(self.expert())
    }

    /// The same settings with another layout.
    pub(crate) fn with_layout(self, layout: Layout) -> Parallel {
        let factor = |ranks: usize| u32::try_from(ranks).ok();
        Parallel {
            data: factor(layout.data()),
            expert: factor(layout.expert()),
            ..self
        }
    }

    /// The most devices up to `limit` that a gang of these settings can have, apart from the
    /// factors that are given.
    pub(crate) fn most_devices(&self, limit: usize) -> usize {
        let limit = limit.clamp(1, RANKS_MAX);
        if self.layout_independent {
            1 << limit.min(LEAVES).ilog2()
        } else {
            limit
        }
    }

    /// The same settings with each factor that is left out as `chosen` has it.
    pub fn or(self, chosen: Parallel) -> Parallel {
        Parallel {
            data: self.data.or(chosen.data),
            expert: self.expert.or(chosen.expert),
            ..self
        }
    }

    /// The same settings with the factors that are left out chosen for a node that has `devices`
    /// devices for the job. `experts` is a number that the shards must divide, 1 for dense models.
    pub(crate) fn chosen_for(self, devices: usize, experts: usize) -> Parallel {
        let devices = self.most_devices(devices);
        let (data, expert) = (self.data() as usize, self.expert() as usize);
        let layout = match (self.data, self.expert) {
            (Some(_), Some(_)) => return self,
            (None, Some(_)) => Layout::new((devices / expert).max(1), expert),
            (Some(_), None) => {
                let adds_up = |shards: &usize| {
                    experts.is_multiple_of(*shards)
                        && (!self.layout_independent || shards.is_power_of_two())
                };
                let shards = (1..=devices / data).rev().find(adds_up);
                Layout::new(data, shards.unwrap_or(1))
            }
            (None, None) => Layout::for_devices(devices, experts),
        };
        // A layout that cannot be is refused where it is checked.
        layout.map_or(self, |layout| self.with_layout(layout))
    }

    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        if let Err(error) = self.layout() {
            return Err(from.unsound(error.to_string(), "set both to fewer"));
        }
        if self.layout_independent && self.devices() > LEAVES as u64 {
            return Err(from.unsound(
                format!("layout_independent = true holds on {LEAVES} devices at most"),
                format!("make `data` × `expert` {LEAVES}, or set layout_independent = false"),
            ));
        }
        Ok(())
    }
}
