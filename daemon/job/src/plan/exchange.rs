//! What a device of a gang sends to the others.

use super::held::{FLOAT32_BYTES, Trained};
use crate::error::JobError;
use crate::job::Job;
use crate::model_shape::ModelShape;
use crate::stage::Stage;
use r1d_proto::worker::Transport;

/// Most bytes that a device may send over QUIC in an update. A node carries some 1.5 GB/s of it,
/// which all its devices share; an update of a model of 30 B parameters would wait for minutes.
const QUIC_BYTES_MAX: u64 = 64_000_000;

/// Refuses a stage of which a device would send more in an update than QUIC is for.
pub(super) fn check(job: &Job, stage: &Stage, facts: &[ModelShape]) -> Result<(), JobError> {
    let own = facts.get(job.model_of(stage));
    let (Some(own), Some(Transport::Quic), true) = (own, job.parallel.transport, stage.trains())
    else {
        return Ok(());
    };
    let sent = of_update(job, stage, own);
    if sent <= QUIC_BYTES_MAX {
        return Ok(());
    }
    let mb = |bytes: u64| bytes.div_ceil(1_000_000);
    Err(JobError::unsound(
        "[parallel] transport",
        format!(
            "a device of stage {:?} sends {} MB of gradients in an update, and \"quic\" is for {} \
             MB at most",
            stage.name,
            mb(sent),
            mb(QUIC_BYTES_MAX)
        ),
        "set transport = \"gloo\", or leave it out",
    ))
}

/// Returns the bytes of gradients and weights that one device sends in an update: of what n devices
/// have alike, an n-th to each other for its sum, and the sum of its own n-th to each other.
fn of_update(job: &Job, stage: &Stage, own: &ModelShape) -> u64 {
    let trained = Trained::of(job, stage, own);
    let experts = trained.experts.min(trained.parameters);
    let of_zone = |elements: u64, ranks: u64| {
        let once = elements.saturating_mul(FLOAT32_BYTES) / ranks * (ranks - 1);
        once.saturating_mul(2)
    };
    let parallel = &job.parallel;
    let (shards, copies) = (u64::from(parallel.expert()), u64::from(parallel.data()));
    let common = of_zone(trained.parameters - experts, parallel.devices());
    common.saturating_add(of_zone(experts / shards, copies))
}
