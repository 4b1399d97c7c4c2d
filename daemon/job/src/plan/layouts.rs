//! The smallest layout of `[parallel]` that a job would fit with, where it does not fit with its
//! own.

use super::facts::InputFacts;
use super::held::resident;
use super::memory::memory;
use super::room::Room;
use crate::job::Job;
use crate::layout::experts_to_cut;
use crate::model_shape::ModelShape;
use crate::validate::check_built_in;
use r1d_parallel::Layout;
use r1d_proto::control::plan::PlanStage;
use r1d_proto::worker::Shard;

/// Most devices of a layout that is looked for.
const DEVICES_MAX: usize = 1024;

/// Names the smallest layout with which the largest device of the node holds the models and
/// optimisers of all `stages` that are not taken over, and says what stands in its way on a node
/// with these `devices`.
pub(super) fn smallest_in_words(
    job: &Job,
    stages: &[PlanStage],
    facts: &[ModelShape],
    seen: &InputFacts,
    room: Room,
    devices: &[String],
) -> String {
    let own = job.stages.iter().zip(stages);
    let own = own.filter(|(_, line)| line.reused_from.is_none());
    let own: Vec<_> = own.map(|(stage, _)| stage).collect();
    let fits = |other: &Job| {
        let held = |stage| resident(&memory(other, stage, facts, seen, room));
        let most = room.device.unwrap_or(u64::MAX);
        own.iter().all(|stage| held(stage) <= most)
    };
    let most = job.parallel.most_devices(DEVICES_MAX);
    let mut others = layouts(job, experts_to_cut(job, facts), most);
    match others.find(fits) {
        Some(other) => in_words(&other, devices),
        None => format!("no layout of [parallel] on up to {most} devices fits"),
    }
}

/// Names the layout of a job that would fit, and what stands in its way on a node with these
/// `devices`.
fn in_words(job: &Job, devices: &[String]) -> String {
    let parallel = &job.parallel;
    let shard = match parallel.shard {
        Shard::None => String::new(),
        _ => format!(", shard = {:?}", parallel.shard_word()),
    };
    let (count, there) = (parallel.devices(), devices.len() as u64);
    let mut text = format!(
        "smallest layout that fits: [parallel] data = {}, expert = {}{shard} on {count} devices",
        parallel.data(),
        parallel.expert()
    );
    if count > there {
        text += &format!(", and the node has {there}");
    }
    if check_built_in(job, devices).is_err() {
        text += " (planned only: `r1ctl submit` does not run it yet)";
    }
    text
}

/// The job with each layout of up to `most` devices, those first that are smaller: fewer devices,
/// then less that copies share, then more shards of the experts. `experts` is the number that the
/// shards divide.
fn layouts(job: &Job, experts: usize, most: usize) -> impl Iterator<Item = Job> {
    let counts = (1..=most).filter(|count| job.parallel.most_devices(*count) == *count);
    let with_shard = |count: usize| {
        let shards = [Shard::None, Shard::Optimizer, Shard::Parameters];
        shards.map(|shard| (count, shard))
    };
    let cut = move |(count, shard): (usize, Shard)| {
        let divides =
            move |expert: &usize| count.is_multiple_of(*expert) && experts.is_multiple_of(*expert);
        let expert = (1..=count.min(experts)).rev().filter(divides);
        expert.map(move |expert| (Layout::new(count / expert, expert), shard))
    };
    let with = |(layout, shard): (Result<Layout, _>, Shard)| {
        let mut other = job.clone();
        other.parallel = job.parallel.with_layout(layout.ok()?);
        other.parallel.shard = shard;
        Some(other)
    };
    counts.flat_map(with_shard).flat_map(cut).filter_map(with)
}
