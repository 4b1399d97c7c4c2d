//! What `[parallel]` asks of other tables, of the models and of the node.

use crate::daemon::is_cpu;
use crate::error::JobError;
use crate::job::Job;
use r1d_parallel::LayoutError;
use r1d_proto::worker::{Dtype, Shard, Transport};

/// The table's place in errors that are not of one line.
const PLACE: &str = "[parallel]";

/// Checks what `[parallel]` asks of the settings of other tables.
pub(super) fn check(job: &Job) -> Result<(), JobError> {
    if !job.parallel.layout_independent {
        return Ok(());
    }
    let refused = |message: &str, fix: &str| Err(JobError::unsound(PLACE, message, fix));
    if job.model.dtype != Dtype::Float32 {
        return refused(
            "layout_independent = true is exact in float32 alone",
            "set dtype = \"float32\" in [model], or layout_independent = false",
        );
    }
    let samples = job.stages.iter().any(|stage| stage.rollouts().is_some());
    if samples && !job.batch_invariant {
        return refused(
            "layout_independent = true has each completion drawn with the same bits on any number \
             of devices, and what a device decodes at a time differs",
            "set batch_invariant = true at the top level, or layout_independent = false",
        );
    }
    Ok(())
}

/// Refuses a model whose experts the layout does not cut evenly. `experts` are those of a layer, 0
/// in a dense model.
pub(super) fn check_experts(job: &Job, experts: u64) -> Result<(), JobError> {
    let layout = job.parallel.layout();
    let fits = layout.and_then(|layout| layout.fits_model(experts as usize));
    fits.map_err(|error| {
        let smallest = match &error {
            LayoutError::Dense { .. } => "set expert = 1; the smallest layout is data = 1".into(),
            _ => format!(
                "set expert = {}, the nearest that is smaller, or leave it out",
                divisor_below(experts, job.parallel.expert().into())
            ),
        };
        JobError::unsound(PLACE, error.to_string(), smallest)
    })
}

/// The largest divisor of a number that is at most `limit`.
fn divisor_below(number: u64, limit: u64) -> u64 {
    let mut divisors = (1..=limit).rev();
    divisors
        .find(|divisor| number.is_multiple_of(*divisor))
        .unwrap_or(1)
}

/// Refuses a layout that no binary tree adds up for. The fix names what the job can have on a node
/// with this many devices; `r1ctl plan` refuses what the model's experts do not divide into.
fn check_tree(job: &Job, devices: usize) -> Result<(), JobError> {
    let parallel = &job.parallel;
    if !parallel.layout_independent || parallel.devices().is_power_of_two() {
        return Ok(());
    }
    let (data, expert) = (parallel.data(), parallel.expert());
    let (key, value, beside) = if expert.is_power_of_two() {
        ("data", data, expert)
    } else {
        ("expert", expert, data)
    };
    let most = (parallel.most_devices(devices) / beside as usize).max(1);
    let powers = (0..=most.ilog2()).map(|power| (1 << power).to_string());
    let powers: Vec<String> = powers.collect();
    let of_experts = match key {
        "expert" => ", whichever divides the model's experts",
        _ => "",
    };
    Err(JobError::unsound(
        PLACE,
        format!(
            "layout_independent = true adds gradients along a binary tree, and {key} = {value} is \
             no power of two"
        ),
        format!(
            "set {key} to {}{of_experts}, or layout_independent = false",
            powers.join(" or ")
        ),
    ))
}

/// Checks a job against its node's devices.
pub fn check_devices(job: &Job, devices: &[String]) -> Result<(), JobError> {
    check_tree(job, devices.len())?;
    let (wanted, there) = (job.parallel.devices(), devices.len() as u64);
    if wanted <= there {
        return Ok(());
    }
    let (data, expert) = (job.parallel.data(), job.parallel.expert());
    let fix = match (data, expert) {
        (data, expert) if u64::from(expert) <= there => {
            let copies = there / u64::from(expert);
            format!(
                "set data = {copies} instead of {data}, or name more devices in `[node] devices`"
            )
        }
        _ => format!("set data = 1 and an expert of {there} at most"),
    };
    Err(JobError::unsound(
        PLACE,
        format!(
            "data = {data} × expert = {expert} needs {wanted} devices, and the node has {there} \
             ({})",
            devices.join(", ")
        ),
        fix,
    ))
}

/// Refuses what the workers of a gang cannot do yet; `r1ctl plan` plans it. `devices` are those of
/// the node.
pub fn check_built_in(job: &Job, devices: &[String]) -> Result<(), JobError> {
    let parallel = &job.parallel;
    let drafts = job.stages.iter().find(|stage| stage.speculative_decoding());
    if parallel.devices() <= 1 && !parallel.layout_independent {
        return Ok(());
    }
    let (what, fix) = if parallel.shard == Shard::Parameters {
        let what = "shard = \"parameters\"".to_owned();
        (what, ": set shard = \"optimizer\", or leave it out")
    } else if parallel.transport == Some(Transport::Nccl) {
        ("transport = \"nccl\"".to_owned(), ": leave it out")
    } else if let Some(stage) = drafts.filter(|_| parallel.expert() > 1) {
        let what = format!(
            "speculative_decoding = true (stage {:?}) with experts on several devices",
            stage.name
        );
        (what, ": set it to false, or expert = 1")
    } else if let Some(gpu) = devices.iter().find(|device| !is_cpu(device)) {
        let what = format!("a gang on GPUs (the node has {gpu})");
        let fix = ": set data = 1 and layout_independent = false, or use a node of CPU devices \
                   (`[node] devices`)";
        (what, fix)
    } else {
        return Ok(());
    };
    Err(JobError::NotInThisRelease {
        place: PLACE.into(),
        what,
        fix: fix.into(),
    })
}
