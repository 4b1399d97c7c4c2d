//! The plan: what a job will do and need, before it does it.

mod cache;
mod disk;
mod evaluations;
mod exchange;
mod facts;
mod fit;
mod held;
mod layouts;
mod memory;
mod records;
mod room;
mod spread;
mod warnings;

pub use cache::{fitting_tokens, peak, small_caches};
pub use disk::disk;
pub use facts::InputFacts;
pub use fit::check_room;
pub use memory::{host_memory, memory};
pub use records::check_records;
pub use room::Room;
pub use warnings::warnings;

use crate::job::Job;
use crate::model_shape::ModelShape;
use crate::stage::Stage;
use r1d_proto::control::plan::{PlanLayout, PlanStage};

/// Returns one line of the plan for each stage on a node with this `room`. `facts` are the shapes
/// of [`Job::models`], in their order; if it is empty, the lines have no memory and no disk.
pub fn stages(job: &Job, facts: &[ModelShape], seen: &InputFacts, room: Room) -> Vec<PlanStage> {
    let line = |(index, stage)| line(job, (index, stage), facts, seen, room);
    job.stages.iter().enumerate().map(line).collect()
}

/// How the job is spread over devices; `None` if it takes one.
pub fn layout(job: &Job) -> Option<PlanLayout> {
    let parallel = job.parallel;
    (parallel.devices() > 1).then(|| PlanLayout {
        data: parallel.data(),
        expert: parallel.expert(),
        shard: parallel.shard_word().into(),
        layout_independent: parallel.layout_independent,
    })
}

fn line(
    job: &Job,
    (index, stage): (usize, &Stage),
    facts: &[ModelShape],
    seen: &InputFacts,
    room: Room,
) -> PlanStage {
    let memory = memory(job, stage, facts, seen, room);
    PlanStage {
        name: stage.name.clone(),
        kind: stage.kind_name().into(),
        model: stage.model.clone(),
        reused_from: None,
        from: stage.from.name().into(),
        data: stage.data_sets().collect::<Vec<_>>().join(" + "),
        rows: seen.rows(stage),
        steps: stage.steps(seen.rows(stage)),
        tokens_per_step: stage.tokens_per_step(seen.prompt_max(stage)),
        rewards: match stage.evaluation() {
            Some(eval) => eval.rewards.clone(),
            None => stage
                .rollouts()
                .map(|rollouts| rollouts.rewards.iter().map(|r| r.name.clone()).collect())
                .unwrap_or_default(),
        },
        memory_peak: peak(&memory, room),
        memory,
        host_memory: host_memory(job, stage, facts),
        evals: evaluations::of_stage(job, index, stage, seen),
        disk: disk(job, stage, facts, seen),
    }
}
