//! Whether a job fits the node that it was sent to.

use crate::error::JobError;
use r1d_proto::control::plan::PlanStage;

/// The memory of a node, as far as it is known.
#[derive(Clone, Copy, Debug, Default)]
pub struct Room {
    /// Bytes of the largest GPU; `None` without one.
    pub device: Option<u64>,
    /// Bytes of the host.
    pub host: Option<u64>,
}

/// Holders of the device's memory from the stage's beginning to its end. The others' part depends
/// on how long completions are, or is an upper bound.
const RESIDENT: [&str; 5] = [
    "policy",
    "reference",
    "optimiser",
    "gradients",
    "value model",
];
/// What makes a stage smaller.
const SMALLER: &str = "set optimizer_offload = \"cpu\", exp_avg_dtype and exp_avg_sq_dtype = \
                       \"bfloat16\", or lora_r";

/// Refuses a job with a stage whose models and optimisers no GPU of the node holds. Each of the
/// job's `devices` has what the plan says, and all share the host. Returns warnings of stages that
/// may need more at their peak than there is, of the device or the host: a host may get more
/// memory, as virtual machines do.
pub fn check_room(stages: &[PlanStage], room: Room, devices: u64) -> Result<Vec<String>, JobError> {
    let mut warnings = Vec::new();
    for stage in stages.iter().filter(|stage| stage.reused_from.is_none()) {
        let place = format!("[[stage]] {:?}", stage.name);
        let all = stage.memory_peak;
        let of_host = stage.host_memory.get("optimiser").copied().unwrap_or(0);
        if let Some(device) = room.device {
            let resident: u64 = RESIDENT
                .iter()
                .filter_map(|holder| stage.memory.get(*holder))
                .sum();
            if resident > device {
                let problem = format!(
                    "its models and optimisers take {} of the device's memory, and the largest \
                     device has {}: {}",
                    gib(resident),
                    gib(device),
                    holders(stage)
                );
                return Err(JobError::unsound(place, problem, SMALLER));
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
        let on_host = of_device.saturating_mul(devices);
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

pub(super) fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}
