//! What judging one completion may cost.

use r1d_job_macros::{Keys, Read, Write};

/// Limits of a plugin's work on one completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Keys, Read, Write)]
#[settings(
    path = "stage.reward.limits",
    meaning = "Limits of one call of a plugin: one completion."
)]
pub struct Limits {
    /// WASM fuel. `None`: 50,000,000 and 2,000 per byte of input, a hundred times that for an
    /// interpreted plugin.
    #[key(
        takes = integer(1, i64::MAX),
        unset = "50,000,000 and 2,000 for each byte of input; 100 times that for a component of \
                 1.5 MiB or more",
        unit = "WASM fuel",
        meaning = "About one per executed instruction; the same completion costs the same on \
                   every machine."
    )]
    pub fuel: Option<u64>,
    /// MiB of linear memory. `None`: 64, and 512 for an interpreted plugin.
    #[key(
        takes = integer(1, 512),
        unset = "64; 512 for a component of 1.5 MiB or more, which has an interpreter inside",
        unit = "MiB",
        meaning = "Linear memory."
    )]
    pub memory_mb: Option<u32>,
    /// KiB that a plugin may hand to the host in one call.
    #[key(
        takes = integer(1, 65_536),
        default = 17,
        unit = "KiB",
        meaning = "What a plugin may hand to the host in one call: its parts and its reason. 1 \
                   KiB more for each further completion of a group."
    )]
    pub hostcall_kb: u32,
    /// Milliseconds of the wall-clock backstop. `None`: 2,000, and what the fuel takes on a very
    /// slow machine.
    #[key(
        takes = integer(1, 3_600_000),
        unset = "2,000, and what the fuel takes on a very slow machine",
        unit = "ms",
        meaning = "A backstop behind the fuel. A completion that hits it is judged once more with \
                   six times of it; when that is not enough, the job stops and names the plugin. \
                   The stack is always 512 KiB."
    )]
    pub wall_ms: Option<u64>,
}
