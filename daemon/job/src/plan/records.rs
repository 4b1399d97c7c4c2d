//! What a completion's record can hold.

use super::facts::InputFacts;
use crate::error::JobError;
use crate::job::Job;
use crate::model_shape::{ModelShape, RoutingShape};
use crate::stage::Stage;
use r1d_proto::rollout::RECORD_MAX_BYTES;
use r1d_proto::sampling_mask::KEPT_NUMBERS_MAX;

/// Refuses a stage whose completions may be longer than a record can hold. `facts` are the shapes
/// of [`Job::models`].
pub fn check_records(job: &Job, facts: &[ModelShape], seen: &InputFacts) -> Result<(), JobError> {
    for stage in &job.stages {
        let (Some(rollouts), Some(facts)) = (stage.rollouts(), facts.get(job.model_of(stage)))
        else {
            continue;
        };
        let Some(RoutingShape {
            layers,
            experts,
            per_token,
        }) = facts.routing
        else {
            continue;
        };
        // Experts are written as varints; 9 bytes more are an id and its log-probability.
        let width = if experts > 128 { 2 } else { 1 };
        let per_token = layers * per_token * width + 9;
        let tokens = u64::from(seen.prompt_max(stage)) + u64::from(rollouts.longest_completion());
        let tokens_max = RECORD_MAX_BYTES as u64 / per_token;
        if tokens > tokens_max {
            return Err(JobError::Unsound {
                place: format!("[[stage]] {:?}", stage.name),
                problem: format!(
                    "prompt and completion may have {tokens} tokens, and with the experts of \
                     {layers} layers a record holds {tokens_max}"
                ),
                fix: "leave long prompts out, or lower max_completion_length".into(),
            });
        }
    }
    Ok(())
}

/// The largest top_k with which sampling masks always fit into a record, even if every kept id
/// stood alone among dropped ones. `None` if the stage's own settings always fit.
pub(super) fn fitting_top_k(stage: &Stage, vocab_size: u64) -> Option<u64> {
    let (rollouts, replay) = (stage.rollouts()?, stage.replay()?);
    let cuts = rollouts.top_p < 1.0 || rollouts.top_k > 0;
    let alone_max = vocab_size.div_ceil(2);
    let kept_max = if rollouts.top_k > 0 {
        alone_max.min(rollouts.top_k.into())
    } else {
        alone_max
    };
    let length = u64::from(rollouts.longest_completion()).max(1);
    // A kept id takes two numbers of a record; each token takes one more.
    let fits = (KEPT_NUMBERS_MAX as u64 / length).saturating_sub(1) / 2;
    (replay.keep_sampling_mask && cuts && kept_max > fits).then_some(fits)
}
