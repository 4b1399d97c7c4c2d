//! `[parallel]`: how a job is spread over devices.

use crate::error::JobError;
use crate::file::setting::by_words;
use crate::file::{Fields, Kind};
use r1d_job_macros::{Keys, Read, Write};
use r1d_parallel::micro_batches::LEAVES;
use r1d_parallel::{Layout, LayoutError};
use r1d_proto::worker::{Shard, Transport};

by_words!(Shard, Transport);

/// Most ranks of each kind.
const FACTOR_MAX: i64 = r1d_parallel::layout::RANKS_MAX as i64;

/// How a job is spread over devices of its node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(
    path = "parallel",
    check = check,
    meaning = "How a job is spread over devices: `data` × `expert` of them, each with a worker. \
               In this release jobs run on several CPU devices; of GPUs, and with \
               shard = \"parameters\", `r1ctl plan` says what each device would hold, and \
               `r1ctl submit` refuses them."
)]
pub struct Parallel {
    /// Copies of the model; of its experts, copies of each shard.
    #[key(
        takes = Kind::Integer { min: 1, max: FACTOR_MAX },
        default = 1,
        unit = "copies",
        meaning = "Copies of the model, each of which takes a part of a step's tokens. Of a model \
                   whose experts are cut into shards: copies of each shard."
    )]
    pub data: u32,
    /// Shards of the experts.
    #[key(
        takes = Kind::Integer { min: 1, max: FACTOR_MAX },
        default = 1,
        unit = "shards",
        meaning = "Shards that the experts of each layer are cut into, one on each device; a \
                   token goes to the devices that have its experts. A divisor of the number of \
                   experts."
    )]
    pub expert: u32,
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
        meaning = "How bytes travel between devices: libtorch's \"gloo\" (CPU devices), or \
                   \"nccl\" (GPUs)."
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
    /// The layout of the job's gang.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        Layout::new(self.data as usize, self.expert as usize)
    }

    /// Devices that the job takes.
    pub fn devices(&self) -> u64 {
        u64::from(self.data) * u64::from(self.expert)
    }

    fn check(&self, from: &Fields<'_>) -> Result<(), JobError> {
        if let Err(error) = self.layout() {
            return Err(from.unsound(error.to_string(), "set both to fewer"));
        }
        if self.layout_independent && !self.devices().is_power_of_two() {
            let devices = self.devices();
            let larger = devices.next_power_of_two();
            let fix = match larger / 2 {
                most if most >= LEAVES as u64 => format!("make it {LEAVES}"),
                smaller => format!("make it {smaller} or {larger}"),
            };
            return Err(from.unsound(
                format!(
                    "layout_independent = true adds gradients along a binary tree, and `data` × \
                     `expert` = {devices} is no power of two"
                ),
                format!("{fix}, or set layout_independent = false"),
            ));
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
