//! What a plugin may spend on one completion.
//!
//! Fuel is the verdict: it counts executed instructions (bulk memory operations by the byte), so it
//! is the same in every run. The wall-clock backstop only guards against what fuel does not see; it
//! is far above what the fuel takes.

use crate::error::RewardError;
use std::time::Duration;

pub(crate) const FUEL_DEFAULT: u64 = 50_000_000;
pub(crate) const FUEL_PER_BYTE_DEFAULT: u64 = 2_000;
/// Factor by which an interpreter (CPython, QuickJS) needs more fuel for the same work.
pub(crate) const INTERPRETED_FUEL_FACTOR: u64 = 100;
pub(crate) const MEMORY_MB_DEFAULT: u32 = 64;
pub(crate) const INTERPRETED_MEMORY_MB_DEFAULT: u32 = MEMORY_MB_MAX;
/// Largest memory of a guest in MiB, and the address space that the pool keeps per memory.
pub(crate) const MEMORY_MB_MAX: u32 = 512;
/// Size from which a component is taken to have an interpreter inside: QuickJS makes 1.63 MB,
/// CPython 18 MB; the largest of the plugins in Rust, `accuracy`, has 1.36 MB without its cases,
/// which do not count.
pub(crate) const INTERPRETED_BYTES_MIN: usize = 3 << 19;
/// Bytes that a guest may hand to the host in one call: 16 KiB, and 1 KiB for the completion.
pub(crate) const HOSTCALL_BYTES_DEFAULT: usize = 17 << 10;
/// Bytes that are added for each further completion of a group.
pub(crate) const HOSTCALL_BYTES_PER_ITEM: usize = 1 << 10;
/// How often a judged reward's questions may quote the completion, its prompt and its row, all
/// questions together.
pub(crate) const HOSTCALL_QUOTES_MAX: usize = 4;
/// Number of questions that a judged reward may ask about one completion.
pub(crate) const ASKS_MAX: usize = 64;
/// Length of a reason; longer ones are cut.
pub(crate) const REASON_BYTES_MAX: usize = 512;
pub(crate) const PARTS_MAX: usize = 64;
/// Length of a plugin's name, its version, and the name of a part.
pub(crate) const NAME_BYTES_MAX: usize = 256;
pub(crate) const TABLE_ELEMENTS_MAX: usize = 20_000;
/// Number of core instances in an instance of a component. CPython in libraries makes about 25,
/// each with a table or two; QuickJS has 3 memories.
pub(crate) const CORE_INSTANCES_MAX: usize = 64;
pub(crate) const TABLES_MAX: usize = 64;
pub(crate) const MEMORIES_MAX: usize = 4;
/// Interval of the epoch's ticks: how finely the backstop measures.
pub(crate) const TICK_MS: u64 = 10;
/// Speed of the slowest machine that is not taken for a hang, in fuel per millisecond: about a
/// fiftieth of a desktop core.
const FUEL_PER_MS_MIN: u64 = 20_000;
const WALL_MS_MIN: u64 = 2_000;
const WALL_MS_MAX: u64 = 3_600_000;
/// Fuel that a plugin may use to describe itself, to accept its configuration, and for each of the
/// cases that are tried before it is taken, whatever its job allows for judging: ten times the
/// default fuel of one completion, and twice for a plugin with an interpreter.
pub(crate) const LOAD_FUEL_MAX: u64 = 10 * FUEL_DEFAULT;
pub(crate) const INTERPRETED_LOAD_FUEL_MAX: u64 = 2 * INTERPRETED_FUEL_FACTOR * FUEL_DEFAULT;
pub(crate) const LOAD_WALL_MS_MAX: u64 = 60_000;
/// Time that all cases of a plugin on trial may take together.
pub(crate) const TRIAL_MS_MAX: u64 = 120_000;
/// Factor of the backstop when a completion that hit it is judged once more.
pub(crate) const WALL_RETRY_FACTOR: u64 = 6;

/// The limits of one completion, as a job asks for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// WASM fuel. `None`: 50,000,000 and 2,000 per byte of prompt, completion, reference and meta;
    /// a hundred times that for an interpreted plugin.
    pub fuel: Option<u64>,
    /// MiB of linear memory, all memories of the instance together. `None`: 64, and 512 for an
    /// interpreted plugin. A group's instance gets more by the size of its completions.
    pub memory_mb: Option<u32>,
    /// Milliseconds of the backstop. `None`: 2 s and what the fuel would take on a very slow
    /// machine.
    pub wall_ms: Option<u64>,
    /// Bytes that the guest may hand to the host in one call. `None`: 17 KiB. Without this limit, a
    /// string of 8 MiB that a list names 64 times makes the host allocate 512 MiB.
    pub hostcall_bytes: Option<usize>,
}

impl Limits {
    /// The limits for a component of this size, with defaults filled in. An error if one is out of
    /// range.
    pub(crate) fn budget(&self, component_bytes: usize) -> Result<Budget, RewardError> {
        let refuse = |key, value, why: &str| {
            Err(RewardError::Limit {
                key,
                value,
                why: why.into(),
            })
        };
        let interpreted = component_bytes >= INTERPRETED_BYTES_MIN;
        let memory_default = if interpreted {
            INTERPRETED_MEMORY_MB_DEFAULT
        } else {
            MEMORY_MB_DEFAULT
        };
        let memory_mb = self.memory_mb.unwrap_or(memory_default);
        if !(1..=MEMORY_MB_MAX).contains(&memory_mb) {
            return refuse(
                "memory_mb",
                memory_mb.into(),
                &format!("must be 1 to {MEMORY_MB_MAX}"),
            );
        }
        match self {
            Limits { fuel: Some(0), .. } => refuse("fuel", 0, "nothing runs without fuel"),
            Limits {
                wall_ms: Some(0), ..
            } => refuse("wall_ms", 0, "must be at least 1"),
            _ => Ok(Budget {
                fuel: self.fuel,
                interpreted,
                memory_bytes: (memory_mb as usize) << 20,
                wall_ms: self.wall_ms,
                hostcall_bytes: self.hostcall_bytes.unwrap_or(HOSTCALL_BYTES_DEFAULT),
            }),
        }
    }
}

/// The limits of a loaded plugin.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Budget {
    fuel: Option<u64>,
    pub interpreted: bool,
    memory_bytes: usize,
    wall_ms: Option<u64>,
    pub hostcall_bytes: usize,
}

impl Budget {
    /// Fuel for an input of this many bytes.
    pub(crate) fn fuel_for(&self, input_bytes: usize) -> u64 {
        let factor = if self.interpreted {
            INTERPRETED_FUEL_FACTOR
        } else {
            1
        };
        let compiled =
            FUEL_DEFAULT.saturating_add(FUEL_PER_BYTE_DEFAULT.saturating_mul(input_bytes as u64));
        self.fuel.unwrap_or_else(|| compiled.saturating_mul(factor))
    }

    /// Further fuel for input besides the completion; 0 if the job sets the fuel.
    pub(crate) fn fuel_for_more(&self, input_bytes: usize) -> u64 {
        let factor = if self.interpreted {
            INTERPRETED_FUEL_FACTOR
        } else {
            1
        };
        self.fuel.map_or(
            (FUEL_PER_BYTE_DEFAULT * factor).saturating_mul(input_bytes as u64),
            |_| 0,
        )
    }

    /// Bytes of memory with room for more input: twice its size, because input is often copied
    /// once.
    pub(crate) fn memory_bytes_with(&self, more_input_bytes: usize) -> usize {
        self.memory_bytes
            .saturating_add(more_input_bytes.saturating_mul(2))
            .min((MEMORY_MB_MAX as usize) << 20)
    }

    pub(crate) fn wall_for(&self, fuel: u64) -> Duration {
        let ms = self
            .wall_ms
            .unwrap_or((WALL_MS_MIN + fuel / FUEL_PER_MS_MIN).min(WALL_MS_MAX));
        Duration::from_millis(ms)
    }
}
