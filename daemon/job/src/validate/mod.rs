//! Refuses settings that are each fine and cannot work together. Each error names the fix.
//!
//! What the settings of one table say of each other is checked where the table is read, or in the
//! file of a stage's kind; here is what spans tables.

mod asked;
mod changes;
mod data;
mod evaluation;
mod models;
mod nearest;
mod origin;
mod parallel;
mod stage;

pub use models::check_models;
pub use parallel::{check_built_in, check_devices};

use crate::daemon::is_cpu;
use crate::error::JobError;
use crate::job::Job;
use r1d_proto::worker::Dtype;

/// Checks everything that does not depend on the machine or the models.
pub fn check(job: &Job) -> Result<(), JobError> {
    if job.stages.is_empty() {
        return Err(JobError::unsound(
            "the top level",
            "the job has no stage",
            "add a [[stage]] with `name`, `kind` and `data`",
        ));
    }
    if job.model.fp8 && job.model.dtype != Dtype::Bfloat16 {
        return Err(JobError::unsound(
            "[model]",
            "fp8 = true rounds what bfloat16 layers multiply",
            "set dtype = \"bfloat16\", or fp8 = false",
        ));
    }
    if job.batch_invariant && job.model.dtype != Dtype::Float32 {
        return Err(JobError::unsound(
            "the top level",
            "`batch_invariant` is exact in float32 alone",
            "set dtype = \"float32\" in [model]",
        ));
    }
    parallel::check(job)?;
    for (index, stage) in job.stages.iter().enumerate() {
        stage::check(job, index, stage)?;
    }
    job.evals
        .iter()
        .try_for_each(|eval| evaluation::check_scheduled(job, eval))
}

/// Checks what depends on the device (`cpu`, `cuda:0`) that the job would run on.
pub fn check_device(job: &Job, device: &str) -> Result<(), JobError> {
    if job.batch_invariant && !is_cpu(device) {
        return Err(JobError::unsound(
            "the top level",
            format!("`batch_invariant` holds on the CPU alone, and the job's device is {device}"),
            "set batch_invariant = false, or run the job on a node with devices = [\"cpu\"]",
        ));
    }
    if job.model.fp8 && is_cpu(device) {
        return Err(JobError::unsound(
            "[model]",
            "fp8 = true needs a GPU, and the job's device is the CPU",
            "set fp8 = false, or run the job on a node with one",
        ));
    }
    Ok(())
}
