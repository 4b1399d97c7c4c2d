//! Whether a job fits the node that it was sent to.

use super::exchange;
use super::facts::InputFacts;
use super::held::resident;
use super::layouts::smallest_in_words;
use super::room::{Room, gib};
use crate::error::JobError;
use crate::job::Job;
use crate::model_shape::ModelShape;
use r1d_proto::control::plan::PlanStage;

/// What makes a stage smaller.
const SMALLER: &str = "set optimizer_offload = \"cpu\", exp_avg_dtype and exp_avg_sq_dtype = \
                       \"bfloat16\", or lora_r";

/// Refuses a job with a stage whose models and optimisers no GPU of the node holds, and names the
/// smallest layout that would; `stages` is what it plans, and `devices` are the node's. Each device
/// of the job has what the plan says, and all share the host. Returns warnings of stages that may
/// need more at their peak than there is, of the device or the host: a host may get more memory, as
/// virtual machines do.
pub fn check_room(
    job: &Job,
    stages: &[PlanStage],
    facts: &[ModelShape],
    seen: &InputFacts,
    room: Room,
    devices: &[String],
) -> Result<Vec<String>, JobError> {
    let mut warnings = Vec::new();
    for stage in stages.iter().filter(|stage| stage.reused_from.is_none()) {
        let place = format!("[[stage]] {:?}", stage.name);
        if let Some(of_job) = job.stages.iter().find(|of_job| of_job.name == stage.name) {
            exchange::check(job, of_job, facts)?;
        }
        let all = stage.memory_peak;
        let of_host = stage.host_memory.get("optimiser").copied().unwrap_or(0);
        if let Some(device) = room.device {
            let resident = resident(&stage.memory);
            if resident > device {
                let problem = format!(
                    "its models and optimisers take {} of the device's memory, and the largest \
                     device has {}: {}",
                    gib(resident),
                    gib(device),
                    holders(stage)
                );
                let layout = smallest_in_words(job, stages, facts, seen, room, devices);
                return Err(JobError::unsound(
                    place,
                    problem,
                    format!("{SMALLER}; {layout}"),
                ));
            }
            if all > device {
                warnings.push(format!(
                    "{place} may take {} of the device's memory, which has {} ({}): lower \
                     max_tokens_per_device, sampler.slots or max_completion_length, or set \
                     gradient_checkpointing",
                    gib(all),
                    gib(device),
                    holders(stage)
                ));
            }
        }
        let of_device = of_host + if room.device.is_none() { all } else { 0 };
        let on_host = of_device.saturating_mul(job.parallel.devices());
        if let Some(host) = room.host.filter(|&host| on_host > host) {
            warnings.push(format!(
                "{place} may take {} of the host's memory, which has {}",
                gib(on_host),
                gib(host)
            ));
        }
    }
    Ok(warnings)
}

fn holders(stage: &PlanStage) -> String {
    let each = stage.memory.iter();
    let each = each.map(|(holder, &bytes)| format!("{holder} {}", gib(bytes)));
    each.collect::<Vec<_>>().join(", ")
}
