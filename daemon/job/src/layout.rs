//! What a factor of `[parallel]` that is left out is: the job's models and the node's devices
//! decide it once, when the job is submitted, and the job is recorded with it.

use crate::daemon::is_cpu;
use crate::job::Job;
use crate::model_shape::ModelShape;
use crate::parallel::Parallel;

/// The job's `[parallel]` with the factors that it leaves out, on a node with these `devices`.
/// `facts` are the shapes of [`Job::models`], in their order.
pub fn chosen(job: &Job, facts: &[ModelShape], devices: &[String]) -> Parallel {
    // What `validate::check_built_in` refuses on several devices is left to one.
    let count = if devices.iter().all(|device| is_cpu(device)) {
        devices.len()
    } else {
        1
    };
    let drafts = job.stages.iter().any(|stage| stage.speculative_decoding());
    let experts = if drafts {
        1
    } else {
        experts_to_cut(job, facts)
    };
    job.parallel.chosen_for(count, experts)
}

/// The number whose divisors are the shards that the experts of all stages' models can be cut into:
/// 1 if one is dense.
pub(crate) fn experts_to_cut(job: &Job, facts: &[ModelShape]) -> usize {
    let models = job
        .stages
        .iter()
        .map(|stage| facts.get(job.model_of(stage)));
    let experts = models.map(|shape| match shape.and_then(|shape| shape.routing) {
        Some(routing) => usize::try_from(routing.experts).unwrap_or(1),
        None => 1,
    });
    experts.reduce(common_divisor).unwrap_or(1).max(1)
}

/// The greatest common divisor of two numbers (Euclid).
fn common_divisor(one: usize, other: usize) -> usize {
    if other == 0 {
        one
    } else {
        common_divisor(other, one % other)
    }
}
