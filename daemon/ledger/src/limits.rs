//! What a job may have on record (`LIM-1`), and the refusal of what is beyond it.

use crate::command::Rejected;
use crate::record::User;
use r1d_proto::ids::JobId;

/// Longest name of a job or stage, in bytes.
pub const NAME_MAX_BYTES: usize = 1 << 10;
/// Longest job file with its defaults filled in, in bytes.
pub const JOB_TOML_MAX_BYTES: usize = 1 << 20;
/// Longest id that a client gives a submission, in bytes.
pub const SUBMISSION_ID_MAX_BYTES: usize = 64;
/// Longest name of a user, in bytes.
pub const USER_MAX_BYTES: usize = 256;
/// Most directories of one job outside of the state directory.
pub const ELSEWHERE_MAX: usize = 16;
/// Most jobs that have not ended.
pub const JOBS_LIVE_MAX: usize = 10_000;
/// Most bytes of the job files of jobs that have not ended, together.
pub const JOBS_LIVE_MAX_BYTES: usize = 256 << 20;
/// Longest error text of a job, in bytes. Longer ones are cut, not refused: a job must always be
/// able to end.
pub const ERROR_MAX_BYTES: usize = 16 << 10;
/// Most names in one step's metrics.
pub const METRICS_MAX_NAMES: usize = 4096;
/// Most outcomes of evaluations of one job.
pub const EVALS_MAX: usize = 10_000;
/// Most checkpoints on record of one stage.
pub const CHECKPOINTS_MAX: usize = 10_000;
/// Most stages of one job.
pub const STAGES_MAX: usize = 1000;
/// Most reward versions of one job: the plugins that it began with, and hot reloads.
pub const REWARD_VERSIONS_MAX: usize = 10_000;
/// Longest name or path of a plugin, in bytes.
pub const REWARD_VERSION_MAX_BYTES: usize = 4 << 10;

/// Refuses what a job has more of than it may.
pub(crate) fn within(job: &JobId, what: &str, found: usize, limit: usize) -> Result<(), Rejected> {
    if found > limit {
        return Err(Rejected::OverLimit {
            job: job.clone(),
            what: what.to_string(),
            found: found as u64,
            limit: limit as u64,
        });
    }
    Ok(())
}

/// Refuses a user whose name is too long.
pub(crate) fn user_within(job: &JobId, user: &Option<User>) -> Result<(), Rejected> {
    let length = user.as_ref().map_or(0, |user| user.name.len());
    within(
        job,
        "the length in bytes of a user's name",
        length,
        USER_MAX_BYTES,
    )
}
